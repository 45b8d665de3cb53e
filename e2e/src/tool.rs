//! Small things around a test: knobs from the environment, tools that may be missing, patience.
//!
//! Promises: a test that cannot run says `SKIP` and why on the real standard error, which the
//! test runner does not swallow.

use std::{
    env,
    ffi::OsStr,
    fmt::Display,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// The number in the environment variable `name`, or `default`.
pub fn knob(name: &str, default: u64) -> u64 {
    env::var(name).ok().map_or(default, |text| text.parse().expect("a knob is a number"))
}

/// How many rounds a race has: `default`, or `LARDER_E2E_ROUNDS`.
pub fn rounds(default: u64) -> u64 {
    knob("LARDER_E2E_ROUNDS", default)
}

/// Says, past the test runner, that a test is skipped and why.
pub fn skip(test: &str, why: impl Display) {
    say(format_args!("SKIP {test}: {why}"));
}

/// Says one line past the test runner, which shows the output of failed tests only.
pub fn say(line: impl Display) {
    // A closed standard error is no reason to fail a test.
    writeln!(io::stderr(), "{line}").ok();
}

/// Where `command` is, if it is installed (also where only root looks).
pub fn which(command: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(command))
        .find(|file| file.is_file())
}

/// Runs a command to its end; `Err` says what failed, with its standard error.
pub fn run<S: AsRef<OsStr>>(
    command: &str,
    args: impl IntoIterator<Item = S>,
) -> Result<Output, String> {
    let program = which(command).ok_or_else(|| format!("{command} is not installed"))?;
    let output = Command::new(program)
        .args(args)
        .output()
        .map_err(|error| format!("run {command}: {error}"))?;
    if output.status.success() {
        Ok(output)
    } else {
        Err(format!(
            "{command}: {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end(),
            String::from_utf8_lossy(&output.stdout).trim_end(),
        ))
    }
}

/// Waits until `done` holds, at most `patience`; whether it did.
pub fn wait_until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Where a client of another project has been installed (`.ci/run` does it): `target/tools/NAME`
/// of this workspace.
pub fn installed(name: &str) -> Result<PathBuf, String> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let top = here.parent().expect("this crate lies in a workspace");
    let dir = top.join("target/tools").join(name);
    if dir.is_dir() {
        Ok(dir)
    } else {
        Err(format!("{name} is not installed: `bash .ci/tools` puts it into target/tools"))
    }
}

/// The text of a script in `e2e/tools`.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(name)
}

static HEAVY: Mutex<()> = Mutex::new(());

/// Holds back every other heavy test until it is dropped: they would take each other's cores.
pub fn heavy() -> MutexGuard<'static, ()> {
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A small generator of numbers (xorshift64*), so that a failed run can be repeated by its seed.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Numbers that `seed` determines.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A seed from `LARDER_E2E_SEED`, else from the clock; it is said when a test fails.
    pub fn seed() -> u64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = knob("LARDER_E2E_SEED", now.map_or(1, |now| now.as_nanos() as u64));
        // Captured by the runner: shown if the test fails.
        #[expect(clippy::print_stderr, reason = "the runner shows it when the test fails")]
        {
            eprintln!("LARDER_E2E_SEED={seed}");
        }
        seed
    }

    /// Any number.
    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.roll() >> 11) % end
    }

    /// One of `choices`.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }
}

/// Every regular file below `dir`, with its size and its allocated bytes. What vanishes while
/// the walk runs is left out.
pub fn files_below(dir: &Path) -> Vec<(PathBuf, u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;

    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => open.push(entry.path()),
                Ok(meta) if meta.is_file() => {
                    found.push((entry.path(), meta.len(), meta.blocks() * 512));
                }
                _ => {}
            }
        }
    }
    found
}
