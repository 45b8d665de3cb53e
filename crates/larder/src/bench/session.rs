//! One run of `larder bench`: prepares the targets, measures in alternation, cleans up.
//!
//! Promises: rounds go over all targets in turn (A, B, A, B, ...) within every workload, so that
//! a machine that slows down slows both; what was put or deleted is spot-checked after the clock
//! has stopped; everything lies below one directory per target and run, which is removed at the
//! end, also after an interruption.
//!
//! Not here: figures and their medians (`report`), threads (`runner`).

use std::{
    collections::BTreeMap,
    io::IsTerminal as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::bail;

use super::{
    args::{BenchArgs, Size, Workload},
    cleanup,
    pattern::Pattern,
    proc_stat::Watch,
    report::{Cell, Record},
    runner::{Crew, CrewSpec, Outcome},
    stats::{Rng, mix},
    target::Target,
    workload::{FileSet, Job, Manner, Task},
};

/// Bytes of prefilled or deletable files where `--files` does not say.
const POOL_BYTES: u64 = 256 << 20;
/// Most files that are made to be deleted again, where `--count` does not say.
const DELETE_FILES: u64 = 5_000;
/// Files looked at after puts and after deletes.
const SPOT_CHECKS: u64 = 64;
/// Most bodies of a set, where targets sign them.
const BODIES: u64 = 256;
/// Largest body for which load before the measurement is worth its time.
const WARM_SIZE: u64 = 8 << 20;
/// Body size from which files are removed as soon as they are not needed.
const BULKY: u64 = 1 << 20;
/// Requests in flight while filling.
const FILL_CONCURRENCY: usize = 32;

/// One measurement of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) size: Size,
    pub(super) concurrency: usize,
    pub(super) round: u32,
    pub(super) workload: Workload,
    pub(super) target: usize,
}

/// All measurements in their order: the targets alternate innermost, so that the two figures of
/// a ratio are taken right after each other; rounds go around all workloads.
pub(super) fn schedule(args: &BenchArgs) -> Vec<Step> {
    let mut steps = Vec::new();
    for &size in &args.sizes {
        for &concurrency in &args.concurrency {
            for round in 0..args.rounds {
                for &workload in &args.workloads {
                    for target in 0..args.targets.len() {
                        steps.push(Step { size, concurrency, round, workload, target });
                    }
                }
            }
        }
    }
    steps
}

/// A target and what the run has put there.
pub(super) struct Side {
    pub(super) target: Arc<Target>,
    /// Directory below which everything lies: another one for each, since both targets may be the
    /// same place, spoken to in two ways.
    pub(super) root: String,
    pub(super) watch: Option<Watch>,
    pub(super) sets: BTreeMap<String, Arc<FileSet>>,
}

/// A run under way.
pub(super) struct Session {
    pub(super) args: BenchArgs,
    pub(super) sides: Vec<Side>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) records: Vec<Record>,
    pattern: Arc<Pattern>,
    seed: u64,
    serial: AtomicU64,
}

impl Session {
    /// A run against `targets`; `seed` names its directories and decides content and choices.
    pub(super) fn new(
        args: BenchArgs,
        targets: Vec<Target>,
        seed: u64,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let watch = |n: usize| {
            let pid = args.pids.get(n).copied().filter(|&pid| pid != 0)?;
            Some(Watch { pid, tree: args.pid_tree })
        };
        let root = format!("larder-bench-{:08x}", mix(seed) as u32);
        let sides = targets.into_iter().enumerate().map(|(n, target)| Side {
            target: Arc::new(target),
            root: if n == 0 { root.clone() } else { format!("{root}-{}", n + 1) },
            watch: watch(n),
            sets: BTreeMap::new(),
        });
        let sides = sides.collect();
        Self {
            sides,
            stop,
            records: Vec::new(),
            pattern: Arc::new(Pattern::new(seed)),
            seed,
            serial: AtomicU64::new(0),
            args,
        }
    }

    /// Whether the user asked to end.
    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Measures everything the arguments ask for. Records hold whatever was measured, also when
    /// this fails.
    ///
    /// # Errors
    /// A target cannot be prepared, or a watched process does not exist.
    pub(super) fn measure(&mut self) -> anyhow::Result<()> {
        for side in &self.sides {
            if let Some(watch) = side.watch
                && watch.sample().is_none()
            {
                bail!("there is no process {} for {}", watch.pid, side.target.label);
            }
        }
        for target in 0..self.sides.len() {
            cleanup::reach(self, target)?;
        }
        if !self.args.grow.is_empty() {
            return self.measure_growth();
        }
        for step in schedule(&self.args) {
            if self.stopped() {
                break;
            }
            self.measure_step(step)?;
        }
        Ok(())
    }

    fn measure_step(&mut self, step: Step) -> anyhow::Result<()> {
        let Step { size, concurrency, workload, .. } = step;
        let read = self.set(step.target, &format!("r{size}"), size)?;
        if workload.reads() {
            let want = self.args.files.unwrap_or((POOL_BYTES / size.0.max(1)).clamp(2, 1000));
            self.fill(step.target, &read, want, None)?;
        }
        let write = match workload {
            // Mixed leaves holes; another workload must not trip over them.
            Workload::Mixed => {
                let n = self.serial.fetch_add(1, Ordering::Relaxed);
                self.set(step.target, &format!("m{size}-{n}"), size)?
            }
            _ => self.set(step.target, &format!("w{size}"), size)?,
        };
        if workload == Workload::Delete {
            let want = self.args.count.unwrap_or_else(|| {
                (POOL_BYTES / size.0.max(1)).clamp(concurrency.min(4) as u64, DELETE_FILES)
            });
            let (gone, next) = write.range();
            if next - gone < want {
                self.fill(step.target, &write, gone + want, None)?;
            }
        }
        let cell = Cell { workload: workload.name(), size, concurrency, files: None };
        self.run_cell(cell, step, &read, &write, None)
    }

    /// Fills to each number of files in turn and measures there.
    fn measure_growth(&mut self) -> anyhow::Result<()> {
        let size = self.args.sizes.first().copied().unwrap_or(Size(100));
        let mut steps = schedule(&self.args);
        for step in &mut steps {
            step.size = size;
        }
        for files in self.args.grow.clone() {
            for target in 0..self.sides.len() {
                let set = self.set(target, "g", size)?;
                let cell = Cell {
                    workload: "fill",
                    size,
                    concurrency: FILL_CONCURRENCY,
                    files: Some(files),
                };
                self.fill(target, &set, files, Some(cell))?;
            }
            for &step in &steps {
                if self.stopped() {
                    return Ok(());
                }
                let set = self.set(step.target, "g", size)?;
                let cell = Cell {
                    workload: step.workload.name(),
                    size,
                    concurrency: step.concurrency,
                    files: Some(files),
                };
                // Measured puts must not change what is measured: at most 2 % more files.
                let most = (step.workload == Workload::Put).then_some((files / 50).max(2_000));
                self.run_cell(cell, step, &set, &set, most)?;
            }
        }
        Ok(())
    }

    /// Warms up, measures, checks and records one step.
    fn run_cell(
        &mut self,
        cell: Cell,
        step: Step,
        read: &Arc<FileSet>,
        write: &Arc<FileSet>,
        most: Option<u64>,
    ) -> anyhow::Result<()> {
        let Step { workload, target, .. } = step;
        self.hash(target, write, workload);
        let mut crew = self.crew(target, step.concurrency, cell.size.0)?;
        if cell.size.0 <= WARM_SIZE && !self.args.warmup.is_zero() {
            let (task, read) = match workload {
                Workload::Delete => (Workload::Head, write),
                other => (other, read),
            };
            let mut job =
                Job::new(Task::Measure(task), read, write, &self.stop).lasting(self.args.warmup);
            if let Some(most) = most {
                job = job.counting(most / 10);
            }
            // Its errors would be seen again in the measurement, so they are not counted twice.
            crew.run(&Arc::new(job), &|_| {})?;
        }
        if self.args.sync_between {
            rustix::fs::sync();
        }
        let from = write.range();
        let mut job = Job::new(Task::Measure(workload), read, write, &self.stop);
        job = match self.args.count {
            Some(count) => job.counting(count),
            None => job.lasting(self.args.duration),
        };
        if let Some(most) = most {
            job = job.counting(self.args.count.unwrap_or(most).min(most));
        }
        let job = Arc::new(job);
        let mut outcome = crew.run(&job, &|_| {})?;
        match workload {
            Workload::Put | Workload::Tus | Workload::Multipart => {
                self.check_puts(&mut crew, write, from.1, &mut outcome)?;
            }
            Workload::Delete => {
                write.gone.store(job.reached(), Ordering::Relaxed);
                let within = (from.0, job.reached());
                let check = Job::new(Task::Absent, write, write, &self.stop);
                let check = check.within(within).counting(SPOT_CHECKS);
                let seen = crew.run(&Arc::new(check), &|_| {})?;
                outcome.tally.merge_errors(&seen.tally, "after delete: ");
            }
            _ => {}
        }
        let bulky = cell.size.0 >= BULKY && !self.args.keep && cell.files.is_none();
        let needed = self.args.workloads.contains(&Workload::Delete);
        let puts = matches!(workload, Workload::Put | Workload::Tus | Workload::Multipart);
        if bulky && ((puts && !needed) || workload == Workload::Mixed) {
            let job = Arc::new(Job::new(Task::Sweep, write, write, &self.stop));
            crew.run(&job, &|_| {})?;
            write.gone.store(job.reached(), Ordering::Relaxed);
        }
        drop(crew);
        if bulky && (puts || matches!(workload, Workload::Mixed | Workload::Delete)) {
            cleanup::purge_trash(self, target);
        }
        self.record(cell, step, outcome);
        Ok(())
    }

    /// Reads some of the files put since number `from` back and compares them.
    fn check_puts(
        &self,
        crew: &mut Crew,
        set: &Arc<FileSet>,
        from: u64,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        if outcome.tally.failed() > 0 {
            // Numbers that failed would be missed again.
            return Ok(());
        }
        let looks = (POOL_BYTES / 4 / set.size.max(1)).clamp(1, SPOT_CHECKS);
        let job = Job::new(Task::Measure(Workload::Get), set, set, &self.stop);
        let job = job.within((from, set.range().1)).counting(looks);
        let seen = crew.run(&Arc::new(job), &|_| {})?;
        outcome.tally.merge_errors(&seen.tally, "after put: ");
        Ok(())
    }

    fn record(&mut self, cell: Cell, step: Step, outcome: Outcome) {
        let record = Record { cell, target: step.target, round: step.round, outcome };
        let label = self.sides.get(step.target).map_or("", |side| side.target.label.as_str());
        self.say(&record.progress_line(label));
        self.records.push(record);
    }

    /// Puts files until `want` were put, failing on the first error.
    fn fill(
        &mut self,
        target: usize,
        set: &Arc<FileSet>,
        want: u64,
        cell: Option<Cell>,
    ) -> anyhow::Result<()> {
        let have = set.range().1;
        if have >= want || self.stopped() {
            return Ok(());
        }
        let bulky = (POOL_BYTES / set.size.max(1)).max(2);
        let concurrency = FILL_CONCURRENCY.min(bulky as usize);
        self.hash(target, set, Workload::Put);
        let mut crew = self.crew(target, concurrency, set.size)?;
        let label = self.sides.get(target).map_or("", |side| side.target.label.as_str());
        let terminal = std::io::stderr().is_terminal();
        let said = AtomicU64::new(2);
        let started = Instant::now();
        let progress = |done: u64| {
            let due = said.load(Ordering::Relaxed);
            let spent = started.elapsed();
            if spent.as_secs() >= due {
                // Often enough for a person, seldom enough for a log.
                said.store(due + if terminal { 2 } else { 30 }, Ordering::Relaxed);
                let rate = done as f64 / spent.as_secs_f64();
                self.say(&format!("filling {label}: {} of {want}, {rate:.0}/s", have + done));
            }
        };
        let job = Job::new(Task::Measure(Workload::Put), set, set, &self.stop);
        let outcome = crew.run(&Arc::new(job.counting(want - have)), &progress)?;
        if outcome.tally.failed() > 0 {
            bail!(
                "cannot fill {label}: {} of {} puts failed: {}",
                outcome.tally.failed(),
                want - have,
                outcome.tally.samples.join("; ")
            );
        }
        if let Some(cell) = cell {
            let step =
                Step { size: cell.size, concurrency, round: 0, workload: Workload::Put, target };
            self.record(cell, step, outcome);
        }
        Ok(())
    }

    /// Connections to one target.
    pub(super) fn crew(
        &self,
        target: usize,
        concurrency: usize,
        size: u64,
    ) -> anyhow::Result<Crew> {
        let Some(side) = self.sides.get(target) else { bail!("there is no target {target}") };
        let n = self.serial.fetch_add(1, Ordering::Relaxed);
        let spec = CrewSpec {
            concurrency,
            threads: self.args.threads,
            size,
            manner: Manner {
                timeout: self.args.request_timeout,
                quickack: self.args.quickack,
                part_size: self.args.part_size.0,
            },
            seed: Rng::new(self.seed ^ n).next(),
        };
        Crew::connect(&side.target, &self.pattern, side.watch, &spec)
    }

    /// The set of that name on a target, made with its directories when it is new.
    fn set(&mut self, target: usize, name: &str, size: Size) -> anyhow::Result<Arc<FileSet>> {
        let Some(side) = self.sides.get(target) else { bail!("there is no target {target}") };
        if let Some(set) = side.sets.get(name) {
            return Ok(Arc::clone(set));
        }
        let salt = name.bytes().fold(self.seed, |hash, byte| mix(hash ^ u64::from(byte)));
        let dir = format!("{}/{name}", side.root);
        let mut set = FileSet::new(dir, self.args.dirs, size.0, salt);
        // A body that is signed must be hashed, which costs more than to send it. All targets get
        // the same, so that what a server saves by it does not show in the ratio.
        if self.sides.iter().any(|side| side.target.signs_bodies()) {
            set = set.with_bodies((POOL_BYTES / size.0.max(1)).clamp(1, BODIES));
        }
        let set = Arc::new(set);
        cleanup::make_dirs(self, target, &set)?;
        if let Some(side) = self.sides.get_mut(target) {
            side.sets.insert(name.to_owned(), Arc::clone(&set));
        }
        Ok(set)
    }

    /// Hashes what `workload` will send to a target that signs bodies.
    fn hash(&self, target: usize, set: &FileSet, workload: Workload) {
        if !self.sides.get(target).is_some_and(|side| side.target.signs_bodies()) {
            return;
        }
        match workload {
            Workload::Put | Workload::Mixed => set.hash(None, &self.pattern),
            Workload::Multipart => set.hash(Some(self.args.part_size.0), &self.pattern),
            Workload::Tus | Workload::Get | Workload::Head | Workload::Delete | Workload::List => {}
        }
    }

    /// Time limit of a request that is not measured and may take long, such as the removal of a
    /// whole tree.
    pub(super) fn patience(&self) -> Duration {
        self.args.request_timeout.max(Duration::from_secs(600))
    }

    /// Tells the user how the run goes.
    pub(super) fn say(&self, line: &str) {
        if !self.args.shared.quiet {
            eprintln!("{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: BenchArgs,
    }

    #[test]
    fn targets_alternate_within_every_workload_and_round() {
        let command = Command::parse_from([
            "bench",
            "--target=http://a",
            "--target=http://b",
            "--workload=put,get",
            "--size=4k,1m",
            "--concurrency=1,16",
            "--rounds=2",
        ]);
        let steps = schedule(&command.args.resolve().unwrap());
        assert_eq!(steps.len(), 2 * 2 * 2 * 2 * 2);
        for pair in steps.chunks(2) {
            assert_eq!((pair[0].target, pair[1].target), (0, 1));
            assert_eq!(pair[0], Step { target: 0, ..pair[1] });
        }
        let first: Vec<_> = steps.iter().take(8).map(|s| (s.round, s.workload.name())).collect();
        let [p, g] = ["put", "get"];
        assert_eq!(first, [(0, p), (0, p), (0, g), (0, g), (1, p), (1, p), (1, g), (1, g)]);
    }
}
