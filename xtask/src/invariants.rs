//! Invariants have ids (`I-TREE-1`): declared in the head of a module, named by a test.
//!
//! Promises: each id in the head of a file of `crates/core` is named by at least one test, and
//! each id that a test function is named after is declared in some head.
//! Not here: whether the test is any good.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    source::{File, find_words, is_word},
    tidy::Finding,
};

/// Every id that only one side knows.
pub(crate) fn check(files: &[File]) -> Vec<Finding> {
    let mut declared: BTreeMap<String, (&str, usize)> = BTreeMap::new();
    let mut enforced: BTreeSet<String> = BTreeSet::new();
    let mut tested: BTreeMap<String, (&str, usize)> = BTreeMap::new();
    let mut mentioned: BTreeSet<String> = BTreeSet::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        let production = if file.is_test() { 0 } else { file.production_lines() };
        for (at, line) in file.head() {
            for id in ids(line) {
                if file.path.starts_with("crates/core/src/") && !file.is_test() {
                    enforced.insert(id.clone());
                }
                declared.entry(id).or_insert((&file.path, at));
            }
        }
        for (at, line) in file.code.lines().enumerate() {
            if let Some(id) = tested_id(line) {
                tested.entry(id).or_insert((&file.path, at + 1));
            }
        }
        for line in file.comments.lines().skip(production) {
            mentioned.extend(ids(line));
        }
    }
    let untested = enforced
        .iter()
        .filter(|id| !tested.contains_key(*id) && !mentioned.contains(*id))
        .map(|id| (&declared[id], format!("{id} is declared here, but no test is named after it")));
    let undeclared = tested
        .iter()
        .filter(|(id, _)| !declared.contains_key(*id))
        .map(|(id, place)| (place, format!("{id} is tested here, but no head declares it")));
    untested.chain(undeclared).map(|((path, at), what)| Finding::new(path, *at, what)).collect()
}

/// The ids in a line of text.
fn ids(line: &str) -> Vec<String> {
    line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .filter_map(|word| {
            let (area, number) = word.strip_prefix("I-")?.split_once('-')?;
            let upper = !area.is_empty() && area.bytes().all(|byte| byte.is_ascii_uppercase());
            let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
            (upper && !digits.is_empty()).then(|| format!("I-{area}-{digits}"))
        })
        .collect()
}

/// The id that the function in this line of code is named after: `fn i_tree_1_...`.
fn tested_id(line: &str) -> Option<String> {
    let at = find_words(line, "fn").into_iter().next()?;
    let name = line[at + 2..].trim_start();
    let name = &name[..name.bytes().position(|byte| !is_word(byte)).unwrap_or(name.len())];
    let mut parts = name.strip_prefix("i_")?.split('_');
    let (area, number) = (parts.next()?, parts.next()?);
    let lower = !area.is_empty() && area.bytes().all(|byte| byte.is_ascii_lowercase());
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    (lower && digits).then(|| format!("I-{}-{number}", area.to_ascii_uppercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(head: &str, test: &str) -> Vec<String> {
        let files = [
            File::new("crates/core/src/tree/mod.rs", &format!("//! Tree. {head}\n")),
            File::new("crates/core/src/tree/tests.rs", test),
        ];
        check(&files).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn an_invariant_that_no_test_names_is_refused() {
        let found = findings("Promises: I-TREE-1 (one winner), I-TREE-2.", "fn i_tree_1_one() {}");
        assert_eq!(found, ["I-TREE-2 is declared here, but no test is named after it"]);
    }

    #[test]
    fn a_test_of_an_undeclared_invariant_is_refused() {
        let found = findings("Promises: I-TREE-1.", "fn i_tree_1() {}\nasync fn i_tree_9_x() {}");
        assert_eq!(found, ["I-TREE-9 is tested here, but no head declares it"]);
    }

    #[test]
    fn a_test_may_name_further_invariants_in_a_comment() {
        assert!(findings("I-QUO-1", "/// Proves I-QUO-1 too.\nfn many() {}\n").is_empty());
        assert_eq!(findings("I-QUO-1", "fn i_quota() {}\n").len(), 1);
    }
}
