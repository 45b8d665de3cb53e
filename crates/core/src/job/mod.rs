//! Background jobs: what must be finished though nobody waits for it, and long work that people
//! ask for.
//!
//! A job is a record, queued by the commit that made it necessary, and removed by the commit
//! that finished it; in between it is resumable at every step, so that a crash costs only time.
//! There are two lanes, each worked off by one process at a time under a lease: *short* jobs give
//! room back (purges, what broken copies left), together with retention and collection; *long*
//! ones read a lot (check, scrub, lifecycle) and must not keep the short ones waiting. A short
//! job that meets something it must not skip is marked failed, said aloud, and tried again with
//! the next start or the next collection that an administrator asks for; a long one ends as
//! failed and says why.
//!
//! Not here: what each job does (the modules below), who looks at them ([`board`]).

use std::time::Duration;

use larder_base::{ErrorKind, id::JobId};

use crate::{
    Larder,
    access::require_admin,
    board::{self, JOBS_PAGE},
    caller::Caller,
    error::Result,
    report::CollectReport,
    schema::{self, Cancel, Job, JobEnd, JobState, JobWork},
    txn::{self, Pages, transact},
    work::Class,
};

mod bucket_lifecycle;
pub(crate) mod collect;
pub(crate) mod expiry;
pub(crate) mod feed;
pub(crate) mod forget;
pub(crate) mod lifecycle;
pub(crate) mod long;
pub(crate) mod purge;
pub(crate) mod retention;
pub(crate) mod scrub;

/// Pause between two passes of the scrub.
const SCRUB_PAUSE: Duration = Duration::from_secs(60);

/// Pause between two looks for finished jobs that can be forgotten.
const FORGET_PAUSE: Duration = Duration::from_secs(600);

/// Name of the lease under which short jobs run.
const LEASE: &str = "jobs";

/// Whether a job belongs to the lane of long ones.
fn is_long(work: &JobWork) -> bool {
    match work {
        JobWork::Purge { .. }
        | JobWork::PurgeSpace { .. }
        | JobWork::Unstage { .. }
        | JobWork::Trim { .. }
        | JobWork::ForgetUser { .. }
        | JobWork::ForgetGroup { .. } => false,
        JobWork::Scrub | JobWork::Check | JobWork::Collect | JobWork::Lifecycle { .. } => true,
    }
}

impl Larder {
    /// Lets queued jobs start now instead of at the next interval.
    pub(crate) fn wake_jobs(&self) {
        self.inner.jobs_wanted.notify_one();
    }

    /// Runs short jobs until the store is shut down.
    pub(crate) async fn run_jobs(self) {
        let env = self.inner.env.clone();
        let mut scrubbed = env.monotonic();
        let mut forgot = env.monotonic();
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
                self.clear_loads().await?;
                if self.inner.require_loaded().is_err() {
                    return Ok(());
                }
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
                if first || env.monotonic().saturating_sub(forgot) >= FORGET_PAUSE {
                    forgot = env.monotonic();
                    self.forget_finished_jobs().await?;
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

    /// Runs every queued short job; failed ones too if `all`.
    async fn run_queue(&self, all: bool) -> Result<()> {
        let mut pages = Pages::of(schema::jobs_prefix(), JOBS_PAGE);
        while let Some(page) = pages.next_now(self).await? {
            for (key, record) in &page {
                if self.inner.stopping() {
                    return Ok(());
                }
                let job: Job = schema::decode(key, &record.value)?;
                if !is_long(&job.work) && (job.state != JobState::Failed || all) {
                    let id = JobId::from_bytes(schema::trailing_id(key)?);
                    self.run_job(id, job).await?;
                }
            }
        }
        Ok(())
    }

    async fn run_job(&self, id: JobId, job: Job) -> Result<()> {
        if let JobWork::Unstage { owner, .. } = &job.work
            && *owner == self.inner.incarnation
            && self.inner.copies().contains(&id)
        {
            return Ok(());
        }
        let snapshot = self.inner.meta.snapshot().await?;
        let note = board::note_of(&*snapshot, id).await?;
        drop(snapshot);
        let running = self.run_as(id, job, note);
        let result = match &running.job.work {
            JobWork::Purge { space, item } => self.purge_item(Some(&running), *space, *item).await,
            JobWork::PurgeSpace { space } => self.purge_space(&running, *space).await,
            JobWork::Unstage { space, root, .. } => self.unstage(&running, *space, *root).await,
            JobWork::Trim { space } => self.trim(&running, *space).await,
            JobWork::ForgetUser { user } => self.forget_user(&running, *user).await,
            JobWork::ForgetGroup { group } => self.forget_group(&running, *group).await,
            JobWork::Scrub | JobWork::Check | JobWork::Collect | JobWork::Lifecycle { .. } => {
                Ok(())
            }
        };
        let Err(error) = result else { return Ok(()) };
        // What may pass by itself is tried again at the next interval.
        if matches!(error.kind(), ErrorKind::Busy | ErrorKind::Unavailable | ErrorKind::DiskFull) {
            return Err(error);
        }
        self.inner.metrics.job_failures.add(1);
        tracing::error!(%error, job = %id, work = ?running.job.work, "job failed");
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

    /// Who has cancelled a job, if anybody has.
    async fn cancelled_by(&self, id: JobId) -> Result<Option<Cancel>> {
        let snapshot = self.inner.meta.snapshot().await?;
        let cancel = txn::get::<Cancel>(&*snapshot, &schema::job_cancel_key(id)).await?;
        Ok(cancel.map(|cancel| cancel.value))
    }

    /// Ends a job by itself: it is remembered for a while.
    pub(crate) async fn end_job(
        &self,
        job: &board::Running,
        end: JobEnd,
        detail: String,
    ) -> Result<()> {
        transact!(self, None, |txn| {
            txn.frees();
            job.close(&mut txn, end, detail.clone());
        });
        Ok(())
    }

    /// Runs every short job and gives back every byte that nobody needs any more, as far as
    /// running downloads allow. Administrators only.
    pub async fn collect(&self, caller: &Caller) -> Result<CollectReport> {
        require_admin(caller)?;
        let _turn = self.admit(caller, Class::Collect).await?;
        self.collect_all().await
    }

    async fn collect_all(&self) -> Result<CollectReport> {
        let _turn = self.inner.jobs_turn.lock().await;
        self.run_queue(true).await?;
        self.sweep_sessions().await?;
        let mut report = self.collect_condemned().await?;
        report.orphans += self.reconcile_dead().await?;
        report.orphans += self.reconcile_own().await?;
        self.trim_feeds(self.steady_now(), true).await?;
        self.inner.meta.compact().await?;
        Ok(report)
    }
}
