//! Runs phases of load: the threads and connections of one target, and what they and the server
//! used meanwhile.
//!
//! Promises: the slots of a phase begin together and all finish before it is measured; counters
//! of the server are read right before and right after.
//!
//! Not here: which phases (`session`), what a slot does (`workload`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinSet,
};

use super::{
    pattern::Pattern,
    proc_stat::{Watch, own_cpu_us},
    stats::Tally,
    target::Target,
    workload::{Job, Manner, Slot},
};

/// Time between two looks at the server's memory.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);

/// What a phase did and used.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    /// Operations, bytes, errors.
    pub(super) tally: Tally,
    /// Wall-clock time until the last operation ended.
    pub(super) elapsed: Duration,
    /// CPU time of the server, microseconds.
    pub(super) server_cpu_us: Option<u64>,
    /// CPU time of the generator, microseconds.
    pub(super) own_cpu_us: u64,
    /// Most memory of the server seen during the phase, bytes.
    pub(super) rss: Option<u64>,
}

/// One thread with its event loop and its share of the slots.
struct Worker {
    runtime: Runtime,
    slots: Vec<Slot>,
}

impl Worker {
    fn run(&mut self, job: Option<&Arc<Job>>) -> anyhow::Result<Tally> {
        let slots = std::mem::take(&mut self.slots);
        let (slots, tally) = self.runtime.block_on(async {
            let mut running = JoinSet::new();
            for mut slot in slots {
                let job = job.map(Arc::clone);
                running.spawn(async move {
                    match job {
                        Some(job) => slot.run(&job).await,
                        None => slot.connect().await,
                    }
                    slot
                });
            }
            let (mut slots, mut tally) = (Vec::new(), Tally::default());
            while let Some(slot) = running.join_next().await {
                let mut slot = slot.context("a load task panicked")?;
                tally.merge(&slot.take_tally());
                slots.push(slot);
            }
            anyhow::Ok((slots, tally))
        })?;
        self.slots = slots;
        Ok(tally)
    }
}

/// The load on one target at one concurrency.
pub(super) struct Crew {
    workers: Vec<Worker>,
    watch: Option<Watch>,
}

/// What a crew is made of, apart from its target.
#[derive(Debug, Clone)]
pub(super) struct CrewSpec {
    /// Requests in flight.
    pub(super) concurrency: usize,
    /// Threads.
    pub(super) threads: usize,
    /// Body size to expect.
    pub(super) size: u64,
    /// Time limits and socket options.
    pub(super) manner: Manner,
    /// Decides the choices of all slots.
    pub(super) seed: u64,
}

impl Crew {
    /// Makes the threads' event loops and connects every slot.
    ///
    /// # Errors
    /// The system gives no event loop. A refused connection is not an error here: it is counted
    /// at the first request.
    pub(super) fn connect(
        target: &Arc<Target>,
        pattern: &Arc<Pattern>,
        watch: Option<Watch>,
        spec: &CrewSpec,
    ) -> anyhow::Result<Self> {
        let threads = spec.threads.min(spec.concurrency);
        let mut workers = Vec::new();
        for thread in 0..threads {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let slots = (thread..spec.concurrency).step_by(threads).map(|n| {
                let seed = spec.seed.wrapping_add(n as u64 * 0x1_0001);
                Slot::new(target, pattern, spec.manner, spec.size, seed)
            });
            workers.push(Worker { runtime, slots: slots.collect() });
        }
        let mut crew = Self { workers, watch };
        crew.on_all(None)?;
        Ok(crew)
    }

    fn on_all(&mut self, job: Option<&Arc<Job>>) -> anyhow::Result<Tally> {
        thread::scope(|scope| {
            let running: Vec<_> = self
                .workers
                .iter_mut()
                .map(|worker| scope.spawn(move || worker.run(job)))
                .collect();
            let mut sum = Tally::default();
            for worker in running {
                sum.merge(&worker.join().map_err(|_| anyhow!("a load thread panicked"))??);
            }
            Ok(sum)
        })
    }

    /// Runs `job` to its end. `progress` is called about every 100 ms with the number of
    /// operations finished.
    ///
    /// # Errors
    /// A defect of the generator only; failed operations are in the tally.
    pub(super) fn run(
        &mut self,
        job: &Arc<Job>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> anyhow::Result<Outcome> {
        let watch = self.watch;
        let finished = AtomicBool::new(false);
        thread::scope(|scope| {
            let sampler = scope.spawn(|| {
                let mut most = None;
                while !finished.load(Ordering::Acquire) {
                    most = most.max(watch.and_then(|w| w.sample()).map(|usage| usage.rss));
                    thread::park_timeout(SAMPLE_EVERY);
                    progress(job.done());
                }
                most
            });
            let before = watch.and_then(|w| w.sample());
            let own = own_cpu_us();
            let started = Instant::now();
            let result = self.on_all(Some(job));
            let elapsed = started.elapsed();
            let own = own_cpu_us().saturating_sub(own);
            let after = watch.and_then(|w| w.sample());
            finished.store(true, Ordering::Release);
            sampler.thread().unpark();
            let sampled = sampler.join().map_err(|_| anyhow!("the sampler panicked"))?;
            let server_cpu_us = before.zip(after).map(|(b, a)| a.cpu_us.saturating_sub(b.cpu_us));
            Ok(Outcome {
                tally: result?,
                elapsed,
                server_cpu_us,
                own_cpu_us: own,
                rss: sampled.max(after.map(|usage| usage.rss)),
            })
        })
    }
}
