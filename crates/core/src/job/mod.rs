//! Background jobs: what must be finished though nobody waits for it.
//!
//! A job is a record, queued by the commit that made it necessary, and removed by the commit
//! that finished it; in between it is resumable at every step, so that a crash costs only time.
//! One process at a time runs them, under a lease. A job that meets something it must not skip
//! is marked failed, said aloud, and tried again with the next start or the next collection that
//! an administrator asks for.
//!
//! Not here: what each job does (the modules below).

use std::time::Duration;

use larder_base::{ErrorKind, id::JobId};

use crate::{
    Larder,
    access::require_admin,
    caller::Caller,
    error::Result,
    report::{CollectReport, JobInfo},
    schema::{self, Job, JobState, JobWork},
    txn::{self, transact},
};

pub(crate) mod collect;
pub(crate) mod purge;
pub(crate) mod retention;
pub(crate) mod scrub;

/// Most jobs that one listing shows and one round runs.
const JOBS_PAGE: usize = 1000;

/// Pause between two passes of the scrub.
const SCRUB_PAUSE: Duration = Duration::from_secs(60);

/// Name of the lease under which all jobs run.
const LEASE: &str = "jobs";

impl Larder {
    /// Lets queued jobs start now instead of at the next interval.
    pub(crate) fn wake_jobs(&self) {
        self.inner.jobs_wanted.notify_one();
    }

    /// Runs jobs until the store is shut down.
    pub(crate) async fn run_jobs(self) {
        let env = self.inner.env.clone();
        let mut scrubbed = env.monotonic();
        let mut first = true;
        loop {
            if self.inner.stopping() {
                return;
            }
            let round = async {
                if !self.acquire_lease(LEASE, self.inner.config.lease_ttl).await? {
                    return Ok(());
                }
                let _turn = self.inner.jobs_turn.lock().await;
                self.run_queue(first).await?;
                self.retain().await?;
                self.collect_condemned().await?;
                if first {
                    self.reconcile_dead().await?;
                }
                if self.inner.staging.take_leaks() > 0
                    && let Err(error) = self.reconcile_own().await
                {
                    self.inner.staging.note_leak();
                    return Err(error);
                }
                let passed = env.monotonic().saturating_sub(scrubbed);
                if let Some(interval) = self.inner.config.scrub_interval
                    && passed >= SCRUB_PAUSE.min(interval)
                {
                    scrubbed = env.monotonic();
                    self.scrub_some(passed, interval).await?;
                }
                Ok::<_, crate::Error>(())
            };
            match round.await {
                Ok(()) => first = false,
                Err(error) => {
                    self.inner.metrics.job_failures.add(1);
                    tracing::warn!(%error, "background jobs stopped for now");
                }
            }
            tokio::select! {
                () = env.sleep(self.inner.config.collect_interval) => {}
                () = self.inner.jobs_wanted.notified() => {}
            }
        }
    }

    /// Runs every queued job; failed ones too if `all`.
    async fn run_queue(&self, all: bool) -> Result<()> {
        let prefix = schema::jobs_prefix();
        let mut after = None;
        loop {
            let snapshot = self.inner.meta.snapshot().await?;
            let page = txn::page(&*snapshot, &prefix, after.as_deref(), JOBS_PAGE).await?;
            drop(snapshot);
            for (key, record) in &page {
                if self.inner.stopping() {
                    return Ok(());
                }
                let job: Job = schema::decode(key, &record.value)?;
                if job.state != JobState::Failed || all {
                    let id = JobId::from_bytes(schema::trailing_id(key)?);
                    self.run_job(id, job).await?;
                }
            }
            match page.last() {
                Some((key, _)) => after = Some(key.clone()),
                None => return Ok(()),
            }
        }
    }

    async fn run_job(&self, id: JobId, job: Job) -> Result<()> {
        let result = match &job.work {
            JobWork::Purge { space, item } => self.purge_item(id, *space, *item).await,
            JobWork::PurgeSpace { space } => self.purge_space(id, *space).await,
            JobWork::Unstage { owner, .. }
                if *owner == self.inner.incarnation && self.inner.copies().contains(&id) =>
            {
                return Ok(());
            }
            JobWork::Unstage { space, root, .. } => self.unstage(id, *space, *root).await,
        };
        let Err(error) = result else { return Ok(()) };
        // What may pass by itself is tried again at the next interval.
        if matches!(error.kind(), ErrorKind::Busy | ErrorKind::Unavailable | ErrorKind::DiskFull) {
            return Err(error);
        }
        self.inner.metrics.job_failures.add(1);
        tracing::error!(%error, job = %id, work = ?job.work, "job failed");
        transact!(self, None, |txn| {
            let key = schema::job_key(id);
            let Some(stored) = txn.get::<Job>(&key).await? else { return Ok(()) };
            txn.hold(key.clone(), stored.version);
            let failed = Job {
                state: JobState::Failed,
                updated: txn.now,
                detail: Some(error.to_string()),
                ..stored.value
            };
            txn.frees();
            txn.put(key, &failed);
        });
        Ok(())
    }

    /// The jobs that are not finished. Administrators only.
    pub async fn jobs(&self, caller: &Caller) -> Result<Vec<JobInfo>> {
        require_admin(caller)?;
        let snapshot = self.inner.meta.snapshot().await?;
        let page = txn::page(&*snapshot, &schema::jobs_prefix(), None, JOBS_PAGE).await?;
        page.iter()
            .map(|(key, record)| {
                let id = JobId::from_bytes(schema::trailing_id(key)?);
                Ok(public(id, schema::decode(key, &record.value)?))
            })
            .collect()
    }

    /// Runs every job and gives back every byte that nobody needs any more, as far as running
    /// downloads allow. Administrators only.
    pub async fn collect(&self, caller: &Caller) -> Result<CollectReport> {
        require_admin(caller)?;
        let _turn = self.inner.jobs_turn.lock().await;
        self.run_queue(true).await?;
        let mut report = self.collect_condemned().await?;
        report.orphans += self.reconcile_dead().await?;
        report.orphans += self.reconcile_own().await?;
        self.inner.meta.compact().await?;
        Ok(report)
    }
}

fn public(id: JobId, job: Job) -> JobInfo {
    let (kind, subject) = match job.work {
        JobWork::Purge { space, item } => ("purge", format!("trash item {item} of {space}")),
        JobWork::PurgeSpace { space } => ("purge_space", format!("space {space}")),
        JobWork::Unstage { space, root, .. } => ("copy", format!("copy {root} in {space}")),
    };
    let state = match job.state {
        JobState::Queued => "queued",
        JobState::Running => "running",
        JobState::Failed => "failed",
    };
    JobInfo {
        id,
        kind: kind.into(),
        subject,
        state: state.into(),
        progress: job.progress,
        created: job.created,
        updated: job.updated,
        detail: job.detail,
    }
}
