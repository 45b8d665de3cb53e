//! Scripted faults of a disk, so that every error path can be walked in a test.
//!
//! A [`Faults`] goes along with every [`DiskFile`](crate::file::DiskFile) and is asked before
//! each operation. [`Faults::none`], what production uses, costs one branch.
//!
//! Promises: a fault plan is deterministic: the same operations in the same order meet the same
//! faults.
//!
//! Not here: crashes (`base::failpoint`), and bytes that rot on the disk (a test flips them).

use std::{
    fmt, io,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::io::Errno;

/// What is asked of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskOp {
    /// Opening or creating a file.
    Open,
    /// Reading bytes.
    Read,
    /// Writing bytes.
    Write,
    /// Making bytes durable (`fdatasync` and `fsync`).
    Sync,
    /// Reserving room (`fallocate`).
    Allocate,
    /// Changing a directory (link, rename, unlink) or syncing one.
    Directory,
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `EIO`; nothing is done.
    Io,
    /// `ENOSPC`; nothing is done.
    NoSpace,
    /// A write: only this many bytes reach the file, then `EIO` (a torn write).
    Torn(usize),
    /// A write: only this many bytes reach the file, then `ENOSPC`.
    Short(usize),
    /// A sync: it answers success and does nothing.
    Lost,
}

/// Which operations fail, and how.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The operation.
    pub op: DiskOp,
    /// Only on files whose path contains this text; empty is every file.
    pub path: String,
    /// How many matching operations pass first.
    pub after: u64,
    /// How many fail then; `u64::MAX` is all from there on.
    pub times: u64,
    /// How they fail.
    pub fault: Fault,
}

impl Rule {
    /// The `n`-th (from 1) operation of this kind on any file fails once.
    pub fn nth(op: DiskOp, n: u64, fault: Fault) -> Self {
        Self { op, path: String::new(), after: n.saturating_sub(1), times: 1, fault }
    }

    /// Every operation of this kind on files whose path contains `path` fails from now on.
    pub fn always(op: DiskOp, path: &str, fault: Fault) -> Self {
        Self { op, path: path.to_owned(), after: 0, times: u64::MAX, fault }
    }
}

/// A fault plan in force. Cheap to clone; clones share the plan and its counts.
#[derive(Clone, Default)]
pub struct Faults {
    plan: Option<Arc<Plan>>,
}

#[derive(Default)]
struct Plan {
    rules: Mutex<Vec<Counted>>,
    /// Of each million operations, how many fail at random; and the state of that randomness.
    per_million: AtomicU64,
    random: AtomicU64,
    met: AtomicU64,
}

struct Counted {
    rule: Rule,
    seen: u64,
}

impl Faults {
    /// No faults ever.
    pub const fn none() -> Self {
        Self { plan: None }
    }

    /// Faults by `rules`; the first rule that matches an operation decides.
    pub fn new(rules: Vec<Rule>) -> Self {
        let faults = Self { plan: Some(Arc::new(Plan::default())) };
        faults.set(rules);
        faults
    }

    /// Of a million operations about `per_million` fail with [`Fault::Io`], chosen by `seed`.
    pub fn seeded(seed: u64, per_million: u64) -> Self {
        let plan = Plan {
            per_million: AtomicU64::new(per_million),
            random: AtomicU64::new(seed),
            ..Plan::default()
        };
        Self { plan: Some(Arc::new(plan)) }
    }

    /// Replaces the rules; counts start again. Does nothing on [`Faults::none`].
    pub fn set(&self, rules: Vec<Rule>) {
        if let Some(plan) = &self.plan {
            let mut counted = plan.rules.lock().unwrap_or_else(PoisonError::into_inner);
            *counted = rules.into_iter().map(|rule| Counted { rule, seen: 0 }).collect();
        }
    }

    /// The disk is healthy again.
    pub fn clear(&self) {
        self.set(Vec::new());
        if let Some(plan) = &self.plan {
            plan.per_million.store(0, Ordering::Relaxed);
        }
    }

    /// How many faults have been met, so that a test can see that its plan was reached.
    pub fn met(&self) -> u64 {
        self.plan.as_ref().map_or(0, |plan| plan.met.load(Ordering::Relaxed))
    }

    /// The fault that this operation meets, if any.
    #[inline]
    pub fn meet(&self, op: DiskOp, path: &Path) -> Option<Fault> {
        self.plan.as_ref()?.meet(op, path)
    }

    /// Fails as the plan says; for operations that have no partial effect.
    #[inline]
    pub fn check(&self, op: DiskOp, path: &Path) -> io::Result<()> {
        match self.meet(op, path) {
            None | Some(Fault::Lost) => Ok(()),
            Some(fault) => Err(fault.error()),
        }
    }
}

impl Plan {
    fn meet(&self, op: DiskOp, path: &Path) -> Option<Fault> {
        let fault = self.by_rule(op, path).or_else(|| self.by_chance())?;
        self.met.fetch_add(1, Ordering::Relaxed);
        Some(fault)
    }

    fn by_rule(&self, op: DiskOp, path: &Path) -> Option<Fault> {
        let path = path.to_string_lossy();
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let mut met = None;
        for counted in rules.iter_mut() {
            let rule = &counted.rule;
            if rule.op != op || !path.contains(&rule.path) {
                continue;
            }
            let fails = counted.seen >= rule.after && counted.seen - rule.after < rule.times;
            counted.seen += 1;
            if fails && met.is_none() {
                met = Some(rule.fault);
            }
        }
        met
    }

    fn by_chance(&self) -> Option<Fault> {
        let per_million = self.per_million.load(Ordering::Relaxed);
        if per_million == 0 {
            return None;
        }
        // SplitMix64 (Steele, Lea, Flood, OOPSLA'14): one addition of state per draw.
        let state = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % 1_000_000 < per_million).then_some(Fault::Io)
    }
}

impl Fault {
    /// The error that the operation answers.
    pub fn error(self) -> io::Error {
        match self {
            Self::NoSpace | Self::Short(_) => Errno::NOSPC.into(),
            Self::Io | Self::Torn(_) | Self::Lost => Errno::IO.into(),
        }
    }

    /// How many bytes of a write reach the file before it fails.
    pub fn written(self) -> usize {
        match self {
            Self::Torn(bytes) | Self::Short(bytes) => bytes,
            Self::Io | Self::NoSpace | Self::Lost => 0,
        }
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.plan.is_some() { "Faults(plan)" } else { "Faults(none)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_chosen_operation_on_the_chosen_file_fails() {
        let faults = Faults::new(vec![Rule {
            op: DiskOp::Write,
            path: "log/".into(),
            after: 1,
            times: 2,
            fault: Fault::NoSpace,
        }]);
        let log = Path::new("data/log/1.seg");
        let other = Path::new("data/chunks/1");
        let outcomes: Vec<bool> =
            (0..4).map(|_| faults.check(DiskOp::Write, log).is_ok()).collect();
        assert_eq!(outcomes, [true, false, false, true]);
        assert!(faults.check(DiskOp::Write, other).is_ok());
        assert!(faults.check(DiskOp::Sync, log).is_ok());
        assert_eq!(faults.met(), 2);
    }

    #[test]
    fn a_seed_determines_which_operations_fail() {
        let run = |seed| -> Vec<bool> {
            let faults = Faults::seeded(seed, 200_000);
            (0..200).map(|_| faults.check(DiskOp::Read, Path::new("x")).is_err()).collect()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        assert!(run(7).contains(&true) && run(7).contains(&false));
    }
}
