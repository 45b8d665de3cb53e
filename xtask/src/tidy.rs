//! The house rules of CONTRIBUTING.md, executed.
//!
//! Promises: takes a second or two; every breach is named with file and line; runs as a test too.
//! Each rule has a test that shows it a bad piece and sees it refused.
//! Not here: what rustfmt and clippy can say (`rustfmt.toml`, `clippy.toml`; the length of
//! functions is clippy's `too_many_lines`).

use std::{collections::BTreeSet, fmt, path::Path};

use anyhow::{Result, bail};

use crate::{
    edges, invariants, layers, licences, paths,
    source::{self, File, find_words, line_of},
};

/// A file is read in one go or not at all.
const FILE_LINES_MAX: usize = 800;
/// As `max_width` in `rustfmt.toml`, for what rustfmt leaves alone.
const LINE_COLUMNS_MAX: usize = 100;
/// Places that ask for a feature, in the whole workspace.
const CFG_FEATURES_MAX: usize = 20;

/// Names that say nothing: everything fits into them, so everything ends there.
const EMPTY_NAMES: &[&str] = &[
    "common", "util", "utils", "helper", "helpers", "misc", "manager", "types", "prelude", "impl",
];

/// Remarks that promise work without saying to whom.
const LOOSE_ENDS: &[&str] = &[concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK")];

/// Registries are the choice of who builds (mirrors, machines without a network), and paths of
/// one machine are nobody else's. Split, so that this file passes itself.
const FOREIGN_HOSTS: &[&str] = &[
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("registry.npmjs", ".org"),
    concat!("deb.debian", ".org"),
];
const FOREIGN_PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/Us", "ers/")];

/// What a newcomer looks for.
const EXPECTED: &[&str] = &[
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "SECURITY.md",
];

/// The parts of a decision record.
const ADR_HEADINGS: &[&str] =
    &["## Context", "## Decision", "## Consequences", "## What would change our mind"];

/// One breach of one rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    path: String,
    line: usize,
    pub(crate) what: String,
}

impl Finding {
    /// A breach in `path`, at `line` (from 1; 0 if it is about the whole).
    pub(crate) fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, what } = self;
        if *line == 0 { write!(f, "{path}: {what}") } else { write!(f, "{path}:{line}: {what}") }
    }
}

/// Checks every rule and prints every breach.
pub(crate) fn run(root: &Path) -> Result<()> {
    let found = check(root)?;
    for finding in &found {
        println!("{finding}");
    }
    if !found.is_empty() {
        bail!("{} breach(es) of the house rules (CONTRIBUTING.md)", found.len());
    }
    Ok(())
}

/// Every breach of every rule.
pub(crate) fn check(root: &Path) -> Result<Vec<Finding>> {
    let files = source::read_all(root)?;
    let metadata = edges::metadata(root)?;
    let mut found = Vec::new();
    for file in &files {
        for rule in RULES {
            rule(file, &mut found);
        }
    }
    found.extend(expected(&files));
    found.extend(orphans(&files));
    found.extend(cfg_features(&files));
    found.extend(layers::check(&files));
    found.extend(invariants::check(&files));
    found.extend(paths::check(root, &files));
    found.extend(edges::check(&metadata));
    found.extend(edges::check_features(&metadata));
    found.extend(licences::check(&metadata, &licences::Policy::read(root)?));
    Ok(found)
}

type Rule = fn(&File, &mut Vec<Finding>);

/// The rules that look at one file.
const RULES: &[Rule] =
    &[head, only_text, size, columns, ascii, names, remarks, code_words, foreign, decision];

fn head(file: &File, found: &mut Vec<Finding>) {
    let first = file.text.lines().next().unwrap_or_default();
    let said = first.strip_prefix("//!").unwrap_or_default().trim();
    if file.is_rust() && said.is_empty() {
        found.push(Finding::new(&file.path, 1, "begin with `//!`: what the file does"));
    }
}

/// Packages and archives come from where they are kept, never with the source.
fn only_text(file: &File, found: &mut Vec<Finding>) {
    if file.text.contains('\u{fffd}') {
        found.push(Finding::new(&file.path, 0, "not UTF-8 text: it does not belong here"));
    }
}

fn size(file: &File, found: &mut Vec<Finding>) {
    let lines = file.production_lines();
    if file.is_rust() && lines > FILE_LINES_MAX {
        let what = format!("{lines} lines, at most {FILE_LINES_MAX}: split by what it does");
        found.push(Finding::new(&file.path, 0, what));
    }
}

fn columns(file: &File, found: &mut Vec<Finding>) {
    for (at, line) in file.text.lines().enumerate().filter(|_| file.is_rust()) {
        let columns = line.chars().count();
        // An address cannot be broken.
        if columns > LINE_COLUMNS_MAX && !line.contains("://") {
            let what = format!("{columns} columns, at most {LINE_COLUMNS_MAX}");
            found.push(Finding::new(&file.path, at + 1, what));
        }
    }
}

fn ascii(file: &File, found: &mut Vec<Finding>) {
    for (at, line) in file.text.lines().enumerate().filter(|_| file.is_rust()) {
        if let Some(c) = line.chars().find(|c| !c.is_ascii()) {
            let what = format!("source is ASCII: write {} or say it in words", c.escape_unicode());
            found.push(Finding::new(&file.path, at + 1, what));
        }
    }
}

fn names(file: &File, found: &mut Vec<Finding>) {
    if !file.is_rust() {
        return;
    }
    for part in file.path.trim_end_matches(".rs").split('/') {
        if EMPTY_NAMES.contains(&part) {
            found.push(Finding::new(&file.path, 0, format!("`{part}` names nothing")));
        }
    }
    for at in find_words(&file.code, "mod") {
        let rest = file.code[at + 3..].trim_start();
        let name = rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next();
        if let Some(name) = name.filter(|name| EMPTY_NAMES.contains(name)) {
            let what = format!("`mod {name}` names nothing");
            found.push(Finding::new(&file.path, line_of(&file.code, at), what));
        }
    }
}

fn remarks(file: &File, found: &mut Vec<Finding>) {
    // Where comments cannot be told apart, the whole text counts.
    let scripts = file.path == ".ci/run" || file.path.ends_with(".toml");
    let text = if scripts { &file.text } else { &file.comments };
    for word in LOOSE_ENDS {
        for at in find_words(text, word) {
            let what = format!("{word}: do it now, or TODO(#issue)");
            found.push(Finding::new(&file.path, line_of(text, at), what));
        }
    }
    for at in find_words(text, "TODO") {
        let issue = text[at + 4..].strip_prefix("(#").and_then(|rest| rest.split_once(')'));
        let digits = |(number, _): (&str, &str)| {
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        };
        if !issue.is_some_and(digits) {
            found.push(Finding::new(&file.path, line_of(text, at), "write TODO(#issue)"));
        }
    }
}

/// Words that have no place in code.
const CODE_WORDS: &[(&str, &str)] = &[
    ("dbg!", "remove it"),
    ("#[ignore", "a test that does not run proves nothing: make it run or skip loudly"),
    ("#[should_panic", "assert what happens instead"),
];

fn code_words(file: &File, found: &mut Vec<Finding>) {
    for (word, advice) in CODE_WORDS {
        for (at, _) in file.code.match_indices(word) {
            let what = format!("`{word}`: {advice}");
            found.push(Finding::new(&file.path, line_of(&file.code, at), what));
        }
    }
    for (at, line) in file.code.lines().enumerate() {
        if line.trim_start().starts_with("pub use ") && line.trim_end().ends_with("::*;") {
            found.push(Finding::new(&file.path, at + 1, "re-export by name"));
        }
    }
}

fn foreign(file: &File, found: &mut Vec<Finding>) {
    if file.path.ends_with(".lock") {
        return;
    }
    for (at, line) in file.text.lines().enumerate() {
        for host in FOREIGN_HOSTS.iter().filter(|host| line.contains(**host)) {
            let what = format!("{host}: which registry is used is the builder's choice");
            found.push(Finding::new(&file.path, at + 1, what));
        }
        for path in FOREIGN_PATHS {
            let begins = |at: usize| {
                let before = line[..at].chars().next_back();
                before.is_none_or(|c| !c.is_alphanumeric() && !"_-./}*".contains(c))
            };
            if line.match_indices(path).any(|(at, _)| begins(at)) {
                let what = format!("{path} is a path of one machine");
                found.push(Finding::new(&file.path, at + 1, what));
            }
        }
    }
}

fn decision(file: &File, found: &mut Vec<Finding>) {
    let Some(name) = file.path.strip_prefix("docs/adr/").filter(|name| *name != "README.md") else {
        return;
    };
    let shape: String =
        name.chars().take(11).map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let slug = name.get(11..).and_then(|rest| rest.strip_suffix(".md")).unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if shape != "0000-00-00-" || slug.is_empty() || !slug.bytes().all(plain) {
        found.push(Finding::new(&file.path, 0, "name it YYYY-MM-DD-slug.md"));
    }
    for heading in ADR_HEADINGS {
        if !file.text.lines().any(|line| line.trim_end() == *heading) {
            found.push(Finding::new(&file.path, 0, format!("`{heading}` is missing")));
        }
    }
}

fn expected(files: &[File]) -> Vec<Finding> {
    let missing = EXPECTED.iter().filter(|path| !files.iter().any(|file| file.path == **path));
    missing.map(|path| Finding::new(path, 0, "is missing")).collect()
}

/// Source files that no `mod` line leads to: they are never compiled.
fn orphans(files: &[File]) -> Vec<Finding> {
    let mut declared = BTreeSet::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        let (dir, stem) = split(&file.path);
        let inner = match stem {
            "lib" | "main" | "mod" => dir.to_owned(),
            _ => format!("{dir}/{stem}"),
        };
        for line in file.code.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let Some(name) = words
                .iter()
                .position(|word| *word == "mod")
                .and_then(|at| words.get(at + 1)?.strip_suffix(';'))
            {
                declared.insert(format!("{inner}/{name}"));
            }
        }
    }
    let orphan = |file: &&File| {
        let (dir, stem) = split(&file.path);
        let crate_root = matches!(stem, "lib" | "main" | "build")
            || [".", "bin", "benches", "examples", "fuzz_targets"]
                .contains(&dir.rsplit('/').next().unwrap_or_default());
        let me = if stem == "mod" { dir.to_owned() } else { format!("{dir}/{stem}") };
        file.is_rust() && !crate_root && !declared.contains(&me)
    };
    let what = "no `mod` line leads here: it is never compiled";
    files.iter().filter(orphan).map(|file| Finding::new(&file.path, 0, what)).collect()
}

/// The folder of `path`, and the name of its file without `.rs`.
fn split(path: &str) -> (&str, &str) {
    let (dir, name) = path.rsplit_once('/').unwrap_or((".", path));
    (dir, name.trim_end_matches(".rs"))
}

fn cfg_features(files: &[File]) -> Option<Finding> {
    let places = |file: &File| {
        let lines = file.code.lines();
        lines.filter(|line| line.contains("cfg") && line.contains("feature = ")).count()
    };
    let count: usize = files.iter().map(places).sum();
    let what = format!("{count} places ask for a feature, at most {CFG_FEATURES_MAX}");
    (count > CFG_FEATURES_MAX).then(|| Finding::new("crates", 0, what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root;

    #[test]
    fn this_repository_is_tidy() {
        let found = check(&root()).expect("the repository can be read");
        let lines: Vec<String> = found.iter().map(Finding::to_string).collect();
        assert!(lines.is_empty(), "{}", lines.join("\n"));
    }

    /// What `rule` says of a file, each as `line: what`.
    fn said(rule: Rule, path: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        rule(&File::new(path, text), &mut found);
        found.into_iter().map(|finding| format!("{}: {}", finding.line, finding.what)).collect()
    }

    fn refused(rule: Rule, path: &str, text: &str) {
        assert_eq!(said(rule, path, text).len(), 1, "{path}: {text}");
    }

    fn passes(rule: Rule, path: &str, text: &str) {
        assert_eq!(said(rule, path, text), [""; 0], "{path}: {text}");
    }

    #[test]
    fn a_file_without_a_head_is_refused() {
        refused(head, "a.rs", "use std::fmt;\n//! Late.\n");
        refused(head, "a.rs", "//!\n//! Not at once.\n");
        refused(head, "a.rs", "// No doc.\n");
        refused(head, "a.rs", "");
        passes(head, "a.rs", "//! Does it.\n");
        passes(head, "a.md", "# Title\n");
    }

    #[test]
    fn what_is_no_text_is_refused() {
        refused(only_text, "some.whl", &String::from_utf8_lossy(b"PK\x03\x04\xff\xfe"));
    }

    #[test]
    fn a_long_file_is_refused_its_tests_do_not_count() {
        let long = "fn f() {}\n".repeat(FILE_LINES_MAX);
        passes(size, "a.rs", &long);
        refused(size, "a.rs", &format!("{long}fn g() {{}}\n"));
        passes(size, "a.rs", &format!("{long}#[cfg(test)]\nmod tests {{\n{long}}}\n"));
    }

    #[test]
    fn a_long_line_and_a_foreign_letter_are_refused() {
        let long = "x".repeat(LINE_COLUMNS_MAX + 1);
        assert_eq!(said(columns, "a.rs", &format!("\n{long}\n")), ["2: 101 columns, at most 100"]);
        passes(columns, "a.rs", &long[1..]);
        passes(columns, "a.rs", &format!("// https://{long}"));
        passes(columns, "a.md", &long);
        refused(ascii, "a.rs", "// \u{a7} 4\n");
        passes(ascii, "a.rs", r#"let name = "\u{e9}";"#);
    }

    #[test]
    fn names_that_name_nothing_are_refused() {
        refused(names, "crates/common/src/lib.rs", "");
        refused(names, "crates/core/src/utils.rs", "");
        refused(names, "crates/core/src/types/mod.rs", "");
        refused(names, "crates/core/src/lib.rs", "pub(crate) mod helpers;\n");
        passes(names, "crates/core/src/lib.rs", "// mod util\nmod utility;\nmod tree;\n");
    }

    #[test]
    fn loose_ends_are_refused_an_issue_is_not() {
        for word in LOOSE_ENDS.iter().chain(&["TODO", "TODO(me)", "TODO(#)", "TODO: it"]) {
            refused(remarks, "a.rs", &format!("let a = 1; // {word} later\n"));
            refused(remarks, "a.toml", &format!("# {word}\n"));
        }
        passes(remarks, "a.rs", "// TODO(#12): later\nlet a = \"TODO\";\n");
    }

    #[test]
    fn words_without_a_place_in_code_are_refused() {
        refused(code_words, "a.rs", "fn f() { dbg!(1); }\n");
        refused(code_words, "a.rs", "#[ignore = \"slow\"]\nfn f() {}\n");
        refused(code_words, "a.rs", "#[should_panic(expected = \"it\")]\nfn f() {}\n");
        refused(code_words, "a.rs", "    pub use tree::*;\n");
        passes(code_words, "a.rs", "// dbg!(x)\nlet a = \"#[ignore]\";\npub use tree::Tree;\n");
    }

    #[test]
    fn registries_and_paths_of_one_machine_are_refused() {
        for host in FOREIGN_HOSTS {
            refused(foreign, "docs/a.md", &format!("see https://{host}/x\n"));
            passes(foreign, "Cargo.lock", &format!("see https://{host}/x\n"));
        }
        for path in FOREIGN_PATHS {
            refused(foreign, "a.rs", &format!("let p = \"{path}main\";\n"));
            passes(foreign, "a.md", &format!("`core/src{path}mod.rs`\n"));
        }
    }

    #[test]
    fn a_decision_has_a_date_and_four_parts() {
        let text = ADR_HEADINGS.join("\n\n");
        passes(decision, "docs/adr/2025-11-20-segment-log.md", &text);
        passes(decision, "docs/adr/README.md", "");
        refused(decision, "docs/adr/0001-segment-log.md", &text);
        refused(decision, "docs/adr/2025-11-20-Segment_log.md", &text);
        refused(decision, "docs/adr/2025-11-20-a.md", &text.replace("## Consequences", ""));
    }

    #[test]
    fn a_missing_document_and_a_forgotten_file_are_refused() {
        assert_eq!(expected(&[]).len(), EXPECTED.len());
        let file = |path: &str, text: &str| File::new(path, text);
        let files = [
            file("crates/a/src/lib.rs", "//! A.\nmod b;\npub(crate) mod c;\n// mod forgotten;\n"),
            file("crates/a/src/b.rs", "//! B.\n#[cfg(test)]\nmod tests;\n"),
            file("crates/a/src/b/tests.rs", "//! T.\n"),
            file("crates/a/src/c/mod.rs", "//! C.\nmod d;\n"),
            file("crates/a/src/c/d.rs", "//! D.\n"),
            file("crates/a/src/forgotten.rs", "//! F.\n"),
            file("e2e/tests/it/main.rs", "//! M.\n"),
            file("e2e/tests/it/lost.rs", "//! L.\n"),
        ];
        let lost: Vec<String> = orphans(&files).into_iter().map(|finding| finding.path).collect();
        assert_eq!(lost, ["crates/a/src/forgotten.rs", "e2e/tests/it/lost.rs"]);
    }

    #[test]
    fn a_maze_of_features_is_refused() {
        let ask = "#[cfg(feature = \"a\")]\n";
        assert!(cfg_features(&[File::new("a.rs", &ask.repeat(CFG_FEATURES_MAX))]).is_none());
        assert!(cfg_features(&[File::new("a.rs", &ask.repeat(CFG_FEATURES_MAX + 1))]).is_some());
    }
}
