//! The files of the repository as the rules see them: text, and for Rust the code and the
//! comments apart.
//!
//! Promises: [`mask`] keeps every line and column in place, so that a finding can be pointed at.
//! Relies on: `git ls-files` where there is a checkout (so that ignored files stay out), a walk
//! of the source folders where there is none.
//! Not here: the rules (`tidy` and its siblings).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

/// One text file of the repository.
#[derive(Debug)]
pub(crate) struct File {
    /// Path from the top of the repository, with `/`.
    pub(crate) path: String,
    /// Its text.
    pub(crate) text: String,
    /// For Rust, the text with comments and the insides of strings blanked; else empty.
    pub(crate) code: String,
    /// For Rust, the text with everything but comments blanked; else empty.
    pub(crate) comments: String,
}

impl File {
    /// A file at `path` that holds `text`.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let (code, comments) =
            if path.ends_with(".rs") { mask(text) } else { (String::new(), String::new()) };
        Self { path: path.to_owned(), text: text.to_owned(), code, comments }
    }

    /// Whether this is Rust source.
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether all of it is test code.
    pub(crate) fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs")
            || self.path.contains("/tests/")
            || self.path.starts_with("e2e/")
    }

    /// The number of lines before the test module at the end; all of them if there is none.
    pub(crate) fn production_lines(&self) -> usize {
        let lines: Vec<&str> = self.code.lines().map(str::trim).collect();
        let inline_module = |at: usize| {
            lines
                .get(at + 1..)
                .unwrap_or_default()
                .iter()
                .find(|line| !line.starts_with("#["))
                .is_some_and(|line| line.starts_with("mod ") && line.ends_with('{'))
        };
        (0..lines.len())
            .find(|&at| lines[at] == "#[cfg(test)]" && inline_module(at))
            .unwrap_or(lines.len())
    }

    /// The code before the test module at the end.
    pub(crate) fn production_code(&self) -> String {
        self.code.lines().take(self.production_lines()).collect::<Vec<_>>().join("\n")
    }

    /// The `//!` lines.
    pub(crate) fn head(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.comments.lines().enumerate();
        lines.filter_map(|(at, line)| Some((at + 1, line.trim().strip_prefix("//!")?)))
    }
}

/// Reads every file of the repository that is not ignored, sorted by path.
pub(crate) fn read_all(root: &Path) -> Result<Vec<File>> {
    let mut paths = listed_by_git(root).map_or_else(|| walked(root), Ok)?;
    paths.sort();
    paths.dedup();
    let mut files = Vec::new();
    for path in paths {
        let full = root.join(&path);
        // Deleted files are still listed by git, and links and folders are no text.
        if !full.is_file() {
            continue;
        }
        let bytes = fs::read(&full).with_context(|| format!("read {}", full.display()))?;
        // What is no text shows by the mark that stands for it; a rule refuses it.
        files.push(File::new(&path, &String::from_utf8_lossy(&bytes)));
    }
    Ok(files)
}

fn listed_by_git(root: &Path) -> Option<Vec<String>> {
    let out = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    let paths: Vec<String> =
        text.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect();
    (out.status.success() && !paths.is_empty()).then_some(paths)
}

fn walked(root: &Path) -> Result<Vec<String>> {
    let mut open: Vec<PathBuf> =
        [".ci", ".cargo", "crates", "docs", "e2e", "xtask"].map(|dir| root.join(dir)).into();
    let mut found = Vec::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            found.push(entry.path());
        }
    }
    while let Some(dir) = open.pop() {
        if !dir.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    let relative = |path: PathBuf| {
        let path = path.strip_prefix(root).expect("the walk began at the root");
        path.to_string_lossy().replace('\\', "/")
    };
    Ok(found.into_iter().map(relative).collect())
}

/// What the reader is inside of.
#[derive(Clone, Copy)]
enum Inside {
    Code,
    LineComment,
    BlockComment(usize),
    Text,
    RawText(usize),
}

/// Splits Rust source into its code and its comments, each with the other part blanked.
pub(crate) fn mask(text: &str) -> (String, String) {
    let bytes = text.as_bytes();
    let mut code = blank(bytes);
    let mut comments = blank(bytes);
    let mut nothing = blank(bytes);
    let mut inside = Inside::Code;
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let (next, step, sink) = match inside {
            Inside::Code if rest.starts_with(b"//") => (Inside::LineComment, 2, &mut comments),
            Inside::Code if rest.starts_with(b"/*") => (Inside::BlockComment(1), 2, &mut comments),
            Inside::Code => {
                let (next, step) = code_step(bytes, at);
                (next, step, &mut code)
            }
            Inside::LineComment if rest[0] == b'\n' => (Inside::Code, 1, &mut nothing),
            Inside::LineComment => (inside, 1, &mut comments),
            Inside::BlockComment(depth) if rest.starts_with(b"*/") => {
                let next = if depth == 1 { Inside::Code } else { Inside::BlockComment(depth - 1) };
                (next, 2, &mut comments)
            }
            Inside::BlockComment(depth) if rest.starts_with(b"/*") => {
                (Inside::BlockComment(depth + 1), 2, &mut comments)
            }
            Inside::BlockComment(_) => (inside, 1, &mut comments),
            Inside::Text if rest[0] == b'\\' => (inside, 2, &mut nothing),
            Inside::Text if rest[0] == b'"' => (Inside::Code, 1, &mut code),
            Inside::RawText(hashes) if closes_raw(rest, hashes) => {
                (Inside::Code, 1 + hashes, &mut code)
            }
            Inside::Text | Inside::RawText(_) => (inside, 1, &mut nothing),
        };
        keep(sink, bytes, at, step);
        inside = next;
        at += step;
    }
    let ascii = |bytes| String::from_utf8(bytes).expect("only ASCII was kept");
    (ascii(code), ascii(comments))
}

/// As long as `bytes`, of blanks and the same line ends.
fn blank(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }).collect()
}

/// Where the reader is after the code at `at`, and how many bytes that was.
fn code_step(bytes: &[u8], at: usize) -> (Inside, usize) {
    let rest = &bytes[at..];
    let after_word = at > 0 && is_word(bytes[at - 1]);
    match rest[0] {
        b'"' => (Inside::Text, 1),
        b'r' if !after_word || (at > 1 && !is_word(bytes[at - 2]) && bytes[at - 1] != b'r') => {
            let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
            if rest.get(1 + hashes) == Some(&b'"') {
                (Inside::RawText(hashes), 2 + hashes)
            } else {
                (Inside::Code, 1)
            }
        }
        // A character, unless it is a lifetime.
        b'\'' if rest.get(1) == Some(&b'\\') => {
            let end = rest.iter().skip(3).position(|byte| *byte == b'\'');
            (Inside::Code, end.map_or(1, |end| end + 4))
        }
        b'\'' => {
            let width = std::str::from_utf8(&rest[1..rest.len().min(5)])
                .map_or_else(|error| error.valid_up_to(), str::len);
            let closed = (1..=width).find(|&end| rest.get(1 + end) == Some(&b'\''));
            let one = closed.is_some_and(|end| {
                std::str::from_utf8(&rest[1..=end]).is_ok_and(|text| text.chars().count() == 1)
            });
            (Inside::Code, if one { closed.map_or(1, |end| end + 2) } else { 1 })
        }
        _ => (Inside::Code, 1),
    }
}

fn closes_raw(rest: &[u8], hashes: usize) -> bool {
    rest[0] == b'"' && rest.len() > hashes && rest[1..=hashes].iter().all(|byte| *byte == b'#')
}

fn keep(to: &mut [u8], from: &[u8], at: usize, count: usize) {
    let end = (at + count).min(from.len());
    for (to, from) in to[at..end].iter_mut().zip(&from[at..end]) {
        *to = if from.is_ascii() { *from } else { b'?' };
    }
}

/// Whether `byte` can be part of an identifier.
pub(crate) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Where `word` stands in `text` as a word of its own.
pub(crate) fn find_words(text: &str, word: &str) -> Vec<usize> {
    let bytes = text.as_bytes();
    let free = |at: Option<&u8>| at.is_none_or(|byte| !is_word(*byte));
    text.match_indices(word)
        .map(|(at, _)| at)
        .filter(|&at| {
            free(at.checked_sub(1).and_then(|at| bytes.get(at))) && free(bytes.get(at + word.len()))
        })
        .collect()
}

/// The line number of the byte at `at`, from 1.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_told_from_code() {
        let text = r####"
let a = "// no comment \" still"; // yes /* plain
let b = r#"x " // no"#; /* outer /* inner */ still */ let c = '"'; let d: &'static str = '\'';
let e = br"\"; fn f<'a>(x: &'a str) {} // tail
"####;
        let (code, comments) = mask(text);
        assert_eq!(code.len(), text.len());
        assert_eq!(comments.len(), text.len());
        for kept in ["let a = \"", "let b = ", "let c = '\"'", "let d: &'static str = '\\''"] {
            assert!(code.contains(kept), "{kept} is missing from {code}");
        }
        assert!(code.contains("fn f<'a>(x: &'a str) {}"), "{code}");
        for gone in ["no comment", "still", "yes", "// no", "inner", "tail"] {
            assert!(!code.contains(gone), "{gone} is in {code}");
        }
        for kept in ["// yes /* plain", "/* outer /* inner */ still */", "// tail"] {
            assert!(comments.contains(kept), "{kept} is missing from {comments}");
        }
        assert!(!comments.contains("no"), "{comments}");
    }

    #[test]
    fn production_ends_where_the_test_module_begins() {
        let file = File::new("a.rs", "//! A.\nfn a() {}\n#[cfg(test)]\nmod tests {\n}\n");
        assert_eq!(file.production_lines(), 2);
        let sibling = File::new("a.rs", "//! A.\n#[cfg(test)]\nmod tests;\nfn a() {}\n");
        assert_eq!(sibling.production_lines(), 4);
    }

    #[test]
    fn words_are_found_whole() {
        assert_eq!(find_words("TODO TODOS aTODO (TODO)", "TODO"), [0, 18]);
        assert_eq!(line_of("a\nb\nc", 4), 3);
    }
}
