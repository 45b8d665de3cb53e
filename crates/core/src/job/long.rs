//! The lane of long jobs: check, scrub and collection on request, and the lifecycle walk.
//!
//! Promises: one after the other, in the order in which they were asked for; each can be cancelled
//! at its next step and goes on after a restart: a scrub and a walk where they were, a check from
//! the start, because it proves one state. Nothing of a cancelled job is half done.
//!
//! Not here: what a check proves (`check`), what a walk does (`lifecycle`).

use async_trait::async_trait;
use bytes::Bytes;
use larder_base::{
    ErrorKind,
    id::{ChunkId, JobId, ServerId},
};
use larder_meta::{MetaError, Record, Revision, Snapshot};

use crate::{
    Larder,
    board::{self, JOBS_PAGE, Live, Running},
    error::Result,
    job::is_long,
    report::CheckReport,
    schema::{self, Job, JobEnd, JobNote, JobState, JobWork},
    txn::{Pages, transact},
};

/// Name of the lease under which long jobs run.
const LEASE: &str = "long jobs";

/// Bytes that a scrub on request verifies per step: it can be stopped between two.
const SCRUB_STEP_BYTES: u64 = 64 << 20;

/// Steps after which it is written down how far a scrub is.
const SCRUB_STEPS_NOTED: u64 = 16;

/// Findings of a check that are kept with its job.
const FINDINGS_KEPT: usize = 20;

impl Larder {
    /// Runs long jobs until the store is shut down.
    pub(crate) async fn run_long_jobs(self) {
        let env = self.inner.env.clone();
        loop {
            if self.inner.stopping() {
                return;
            }
            if let Err(error) = self.long_round().await
                && !self.inner.stopping()
            {
                self.inner.metrics.job_failures.add(1);
                tracing::warn!(%error, "long jobs stopped for now");
            }
            let pause = self.inner.config.collect_interval.min(self.lifecycle_pause());
            tokio::select! {
                () = env.sleep(pause) => {}
                () = self.inner.long_jobs_wanted.notified() => {}
            }
        }
    }

    async fn long_round(&self) -> Result<()> {
        if self.inner.require_loaded().is_err() {
            return Ok(());
        }
        self.queue_lifecycle_if_due().await?;
        while let Some((id, job)) = self.next_long_job().await? {
            if self.inner.stopping() || self.inner.require_loaded().is_err() {
                return Ok(());
            }
            if !self.acquire_lease(LEASE, self.inner.config.lease_ttl).await? {
                return Ok(());
            }
            let _turn = self.inner.long_jobs_turn.lock().await;
            self.run_long_job(id, job).await?;
        }
        Ok(())
    }

    async fn next_long_job(&self) -> Result<Option<(JobId, Job)>> {
        let snapshot = self.inner.meta.snapshot().await?;
        let mut pages = Pages::of(schema::jobs_prefix(), JOBS_PAGE);
        while let Some(page) = pages.next(&*snapshot).await? {
            for (key, record) in &page {
                let job: Job = schema::decode(key, &record.value)?;
                if is_long(&job.work) {
                    return Ok(Some((JobId::from_bytes(schema::trailing_id(key)?), job)));
                }
            }
        }
        Ok(None)
    }

    async fn run_long_job(&self, id: JobId, job: Job) -> Result<()> {
        // On the board before the look for a cancellation, so that a later one finds it there.
        let mut running = self.run_as(id, job, JobNote::default());
        let snapshot = self.inner.meta.snapshot().await?;
        running.note = board::note_of(&*snapshot, id).await?;
        drop(snapshot);
        if let Some(cancel) = self.cancelled_by(id).await? {
            return self.end_cancelled(&running, &cancel.by).await;
        }
        self.mark_running(&running).await?;
        let result = match &running.job.work {
            JobWork::Check => self.check_job(&running).await,
            JobWork::Scrub => self.scrub_job(&running).await,
            JobWork::Collect => self.collect_job(&running).await,
            JobWork::Lifecycle { space } => self.lifecycle_job(&running, *space).await,
            JobWork::Purge { .. }
            | JobWork::PurgeSpace { .. }
            | JobWork::Unstage { .. }
            | JobWork::Trim { .. }
            | JobWork::ForgetUser { .. }
            | JobWork::ForgetGroup { .. } => Ok(String::new()),
        };
        match result {
            Ok(detail) => self.end_job(&running, JobEnd::Done, detail).await,
            Err(_) if running.live.cancelled() => {
                let cancel = self.cancelled_by(id).await?;
                let by = cancel.map_or_else(|| "".into(), |cancel| cancel.by);
                self.end_cancelled(&running, &by).await
            }
            // What may pass by itself is tried again at the next interval.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::Busy | ErrorKind::Unavailable | ErrorKind::DiskFull
                ) =>
            {
                Err(error)
            }
            Err(error) => {
                self.inner.metrics.job_failures.add(1);
                tracing::error!(%error, job = %id, work = ?running.job.work, "job failed");
                self.end_job(&running, JobEnd::Failed, error.to_string()).await
            }
        }
    }

    async fn end_cancelled(&self, job: &Running, by: &str) -> Result<()> {
        self.end_job(job, JobEnd::Cancelled, format!("cancelled by {by}")).await
    }

    async fn mark_running(&self, job: &Running) -> Result<()> {
        if job.job.state == JobState::Running {
            return Ok(());
        }
        transact!(self, None, |txn| {
            txn.frees();
            let state = JobState::Running;
            let started = Job { state, updated: txn.now, ..job.job.clone() };
            txn.put(schema::job_key(job.id), &started);
        });
        Ok(())
    }

    /// Writes down how far a job is, so that it goes on there after a restart.
    pub(crate) async fn note_cursor(&self, job: &Running, cursor: Vec<u8>) -> Result<()> {
        let progress = job.live.progress();
        transact!(self, None, |txn| {
            txn.frees();
            let state = JobState::Running;
            let record = Job { progress, state, updated: txn.now, ..job.job.clone() };
            txn.put(schema::job_key(job.id), &record);
            let note = JobNote { cursor: cursor.clone(), ..job.note.clone() };
            txn.put(schema::job_note_key(job.id), &note);
        });
        Ok(())
    }

    async fn check_job(&self, job: &Running) -> Result<String> {
        let snapshot = self.inner.meta.snapshot().await?;
        let counted = Counted { snapshot: &*snapshot, live: &job.live };
        // A check only reads, so it can be left at any point.
        let report = tokio::select! {
            report = self.check_in(&counted) => report?,
            () = job.live.unwanted(&self.inner) => {
                job.go_on()?;
                return Ok(String::new());
            }
        };
        Ok(summary(&report))
    }

    async fn scrub_job(&self, job: &Running) -> Result<String> {
        let begin: Option<(ServerId, Option<ChunkId>)> = match job.note.cursor.as_slice() {
            [] => None,
            cursor => Some(schema::decode(b"jx", cursor)?),
        };
        let (mut damaged, mut steps) = (0, 0u64);
        let mut stores: Vec<_> = self.inner.stores.all().iter().collect();
        stores.sort_by_key(|store| store.server());
        for store in stores {
            let server = store.server();
            let mut after = match begin {
                Some((at, _)) if server < at => continue,
                Some((at, chunk)) if server == at => chunk,
                _ => None,
            };
            loop {
                job.go_on()?;
                let report = store.scrub(after, SCRUB_STEP_BYTES).await?;
                job.live.advance(report.bytes);
                self.inner.metrics.scrubbed_bytes.add(report.bytes);
                self.inner.metrics.scrub_damaged.add(report.damaged.len() as u64);
                damaged += report.damaged.len();
                for chunk in &report.damaged {
                    tracing::error!(%chunk, %server, "scrub found a damaged chunk");
                }
                let Some(next) = report.next else { break };
                after = Some(next);
                steps += 1;
                if steps.is_multiple_of(SCRUB_STEPS_NOTED) {
                    self.note_cursor(job, schema::encode(&(server, after)).into()).await?;
                }
            }
        }
        Ok(format!("{} bytes verified, {damaged} damaged chunks found", job.live.progress()))
    }

    async fn collect_job(&self, job: &Running) -> Result<String> {
        let report = self.collect_all().await?;
        job.live.advance(report.blobs + report.orphans);
        let crate::CollectReport { blobs, bytes, orphans, waiting } = report;
        Ok(format!(
            "{blobs} blobs with {bytes} bytes, {orphans} orphans; {waiting} wait for readers"
        ))
    }
}

fn summary(report: &CheckReport) -> String {
    let mut text = format!("{} violations", report.violations);
    for finding in report.findings.iter().take(FINDINGS_KEPT) {
        text.push_str(&format!("; {}: {}", finding.invariant, finding.detail));
    }
    text
}

/// A snapshot that counts what is read of it as progress.
#[derive(Debug)]
struct Counted<'a> {
    snapshot: &'a dyn Snapshot,
    live: &'a Live,
}

#[async_trait]
impl Snapshot for Counted<'_> {
    fn revision(&self) -> Revision {
        self.snapshot.revision()
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Record>, MetaError> {
        self.snapshot.get(key).await
    }

    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Record>>, MetaError> {
        self.snapshot.get_many(keys).await
    }

    async fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Record)>, MetaError> {
        let page = self.snapshot.scan(start, end, limit).await?;
        self.live.advance(page.len() as u64);
        Ok(page)
    }

    async fn scan_back(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Record)>, MetaError> {
        self.snapshot.scan_back(start, end, limit).await
    }
}
