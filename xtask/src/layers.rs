//! Who may import whom, inside `core`: down only.
//!
//! Promises: every `crate::module` in production code of `crates/core` is read, in `use` lines
//! and elsewhere. Tests may import anything. A name that `lib.rs` re-exports (capitalised) has
//! no level.
//! Not here: edges between crates (`edges`).

use std::collections::BTreeSet;

use crate::{
    source::{File, find_words, is_word, line_of},
    tidy::Finding,
};

/// Where the layered crate lies.
const CRATE: &str = "crates/core/src/";

/// The modules of each level, highest first. A module may import from lower levels and from
/// itself; on the lowest level from its peers too.
const LEVELS: &[&[&str]] = &[
    &["lib"],
    &["check", "job", "testing"],
    &["bucket", "copy", "dump"],
    &["relocate", "revision", "session"],
    &["download", "share", "trash", "upload"],
    &["version"],
    &["blob", "tree"],
    &["room"],
    &["identity", "space"],
    &["lease"],
    &[
        "access",
        "account",
        "board",
        "caller",
        "condition",
        "entry",
        "error",
        "expiry",
        "feed",
        "idempotency",
        "lifecycle",
        "metrics",
        "object",
        "quota",
        "report",
        "schema",
        "txn",
        "work",
    ],
];

/// Every import that goes up or sideways, and every module without a level.
pub(crate) fn check(files: &[File]) -> Vec<Finding> {
    let files: Vec<&File> =
        files.iter().filter(|file| file.is_rust() && file.path.starts_with(CRATE)).collect();
    let modules: BTreeSet<&str> = files.iter().map(|file| module_of(file)).collect();
    let mut found = Vec::new();
    for module in &modules {
        if level(module).is_none() {
            let what = format!("module {module} has no level in xtask/src/layers.rs");
            found.push(Finding::new(&format!("{CRATE}{module}"), 0, what));
        }
    }
    for file in files.into_iter().filter(|file| !file.is_test()) {
        let from = module_of(file);
        let code = file.production_code();
        for (at, to) in imports(&code) {
            if modules.contains(to) && !allowed(from, to) {
                let what = format!("{from} may not import {to}: imports go down (layers.rs)");
                found.push(Finding::new(&file.path, line_of(&code, at), what));
            }
        }
    }
    found
}

fn module_of(file: &File) -> &str {
    let rest = file.path.strip_prefix(CRATE).unwrap_or(&file.path);
    rest.split('/').next().unwrap_or(rest).trim_end_matches(".rs")
}

/// The level of `module`, 0 the lowest.
fn level(module: &str) -> Option<usize> {
    LEVELS.iter().rev().position(|modules| modules.contains(&module))
}

fn allowed(from: &str, to: &str) -> bool {
    match (level(from), level(to)) {
        (Some(from_level), Some(to_level)) => {
            from == to || to_level < from_level || (from_level == 0 && to_level == 0)
        }
        // The missing level is a finding of its own.
        _ => true,
    }
}

/// Each first name after `crate::`, with where it stands, in groups too.
fn imports(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for at in find_words(code, "crate") {
        let after = at + "crate".len();
        // Not `$crate::` and not `pub(crate)`.
        if at > 0 && code.as_bytes()[at - 1] == b'$' || !code[after..].starts_with("::") {
            continue;
        }
        let start = after + 2;
        if code[start..].starts_with('{') {
            found.extend(group(code, start));
        } else {
            found.push((start, word_at(code, start)));
        }
    }
    found
}

/// The first names of each part of the group that opens at `open`.
fn group(code: &str, open: usize) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut depth = 0_usize;
    let mut expecting = false;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => {
                depth += 1;
                expecting = depth == 1;
            }
            b'}' if depth <= 1 => break,
            b'}' => depth -= 1,
            b',' => expecting = depth == 1,
            _ if expecting && is_word(byte) => {
                found.push((at, word_at(code, at)));
                expecting = false;
            }
            _ => {}
        }
    }
    found
}

fn word_at(code: &str, at: usize) -> &str {
    let rest = &code[at..];
    let end = rest.bytes().position(|byte| !is_word(byte)).unwrap_or(rest.len());
    &rest[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let all = ["upload/mod.rs", "trash.rs", "tree/mod.rs", "schema/mod.rs", "error.rs"];
        let mut files: Vec<File> =
            all.iter().map(|file| File::new(&format!("{CRATE}{file}"), "//! It.\n")).collect();
        files.push(File::new(&format!("{CRATE}{path}"), text));
        check(&files).into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn an_import_that_goes_up_or_sideways_is_refused() {
        let up = "crates/core/src/tree/list.rs:2: tree may not import trash: \
                  imports go down (layers.rs)";
        assert_eq!(findings("tree/list.rs", "//! L.\nuse crate::trash::Item;\n"), [up]);
        let group =
            "//! L.\nuse crate::{\n    schema::{a, trash},\n    trash::{Item, upload},\n};\n";
        assert_eq!(findings("tree/list.rs", group).len(), 1);
        assert_eq!(findings("tree/list.rs", "//! L.\nfn f() { crate::upload::go() }\n").len(), 1);
        assert_eq!(findings("trash.rs", "//! T.\nuse crate::upload::Session;\n").len(), 1);
    }

    #[test]
    fn downward_own_lowest_and_test_imports_are_allowed() {
        for (path, text) in [
            ("upload/commit.rs", "//! C.\nuse crate::{tree, upload::Session, Larder};\n"),
            ("schema/node.rs", "//! N.\nuse crate::error::Error;\n"),
            ("tree/list.rs", "//! L. See crate::trash.\npub(crate) fn f() {}\n"),
            ("tree/list.rs", "//! L.\n#[cfg(test)]\nmod tests {\n    use crate::trash;\n}\n"),
            ("tree/tests.rs", "//! L.\nuse crate::trash;\n"),
        ] {
            assert!(findings(path, text).is_empty(), "{text}: {:?}", findings(path, text));
        }
    }

    #[test]
    fn a_module_without_a_level_is_refused() {
        let found = findings("novelty.rs", "//! New.\n");
        assert_eq!(found.len(), 1, "{found:?}");
    }
}
