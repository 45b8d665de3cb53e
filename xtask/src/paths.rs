//! Paths that documents name must exist.
//!
//! Promises: every path of the repository in backticks in `ARCHITECTURE.md`, `CONTRIBUTING.md`
//! and `README.md` is there. Crates may be named without `crates/` (`core/src/lib.rs`), several
//! files with `{a,b}` or a `*`.
//! Not here: links (they are checked by whoever renders the page).

use std::path::Path;

use crate::{source::File, tidy::Finding};

const DOCUMENTS: &[&str] = &["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"];

/// What a path of ours begins with.
const TOPS: &[&str] =
    &[".ci/", ".cargo/", "benches/", "crates/", "docs/", "e2e/", "fuzz/", "xtask/"];

/// Every path that is not there.
pub(crate) fn check(root: &Path, files: &[File]) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| DOCUMENTS.contains(&file.path.as_str())) {
        for (at, line) in file.text.lines().enumerate() {
            // Every second part of a line stands between backticks.
            for quoted in line.split('`').skip(1).step_by(2) {
                let missing = named(quoted).into_iter().filter(|path| !there(root, path));
                found.extend(missing.map(|path| {
                    Finding::new(&file.path, at + 1, format!("{path} does not exist"))
                }));
            }
        }
    }
    found
}

/// The paths of ours that a quoted text names, from the top of the repository.
fn named(quoted: &str) -> Vec<String> {
    let first = quoted.split_whitespace().next().unwrap_or_default();
    let first = first.trim_end_matches(['.', ',', ':', '/']);
    let slashed = format!("{first}/");
    let in_crate = first.split_once('/').is_some_and(|(top, rest)| {
        let word = !top.is_empty() && top.bytes().all(|byte| byte.is_ascii_lowercase());
        word && (rest == "src" || rest.starts_with("src/"))
    });
    if TOPS.iter().any(|top| slashed.starts_with(top)) {
        spread(first)
    } else if in_crate {
        spread(&format!("crates/{first}"))
    } else {
        Vec::new()
    }
}

/// `a/{b,c}.rs` as `a/b.rs` and `a/c.rs`.
fn spread(path: &str) -> Vec<String> {
    let Some((before, (inner, after))) =
        path.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
    else {
        return vec![path.to_owned()];
    };
    inner.split(',').map(|one| format!("{before}{}{after}", one.trim())).collect()
}

fn there(root: &Path, path: &str) -> bool {
    // Of a pattern, the folder it lies in; of a form (`YYYY-MM-DD-slug.md`, `NAME`), the same.
    let fixed: Vec<&str> = path
        .split('/')
        .take_while(|part| {
            !part.contains(['*', '<']) && !part.starts_with("YYYY") && !part.starts_with("NAME")
        })
        .collect();
    root.join(fixed.join("/")).exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root;

    fn findings(text: &str) -> Vec<String> {
        let files = [File::new("ARCHITECTURE.md", text)];
        check(&root(), &files).into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn a_path_that_is_not_there_is_refused() {
        assert_eq!(
            findings("one\n`xtask/src/gone.rs` and `base/src/gone.rs run`"),
            [
                "ARCHITECTURE.md:2: xtask/src/gone.rs does not exist",
                "ARCHITECTURE.md:2: crates/base/src/gone.rs does not exist"
            ]
        );
        assert_eq!(findings("`base/src/{lib,gone}.rs`").len(), 1);
        assert_eq!(findings("`crates/nowhere/*.rs`").len(), 1);
    }

    #[test]
    fn paths_that_are_there_and_other_quotes_pass() {
        for text in [
            "`xtask/src/main.rs`, `base/src/env.rs Env::now`, `crates/`, `crates/base/src/*.rs`",
            "`base/src/{env,kind}.rs` `docs/adr/YYYY-MM-DD-slug.md`",
            "`/v1/files/{id}` `cargo xtask ci` `a/b` `data/wal/000.log` `--data DIR`",
        ] {
            assert!(findings(text).is_empty(), "{:?}", findings(text));
        }
    }
}
