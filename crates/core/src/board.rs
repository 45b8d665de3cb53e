//! The board of jobs: what runs, what waits, what has ended; starting and cancelling.
//!
//! Promises: I-JOB-1 a job is on the board from the commit that made it necessary until a day
//! after its end; I-JOB-2 a job that may be cancelled ends at its next step and leaves nothing
//! half; one that may not says why; I-JOB-3 asking twice for the same work gives the same job.
//! Progress of a running job is exact as of its last step; after a restart it is what was last
//! written down.
//!
//! Not here: running them ([`super`]), the work itself (the modules beside this one).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use larder_base::{
    ErrorKind,
    id::{JobId, SpaceId},
};
use larder_meta::Snapshot;
use tokio::sync::Notify;

use crate::{
    Inner, Larder,
    access::require_admin,
    caller::Caller,
    entry::{ListOptions, Page, SpaceRef},
    error::{Error, Result},
    report::{JobInfo, JobKind},
    schema::{self, Cancel, FinishedJob, Job, JobEnd, JobNote, JobState, JobWork},
    txn::{self, Pages, Txn, transact},
};

/// Most jobs that one listing shows, and that a lane reads at once.
pub(crate) const JOBS_PAGE: usize = 1000;

/// How long a finished job is remembered.
const REMEMBER: Duration = Duration::from_secs(24 * 3600);

/// Most finished jobs that are remembered.
const FINISHED_MAX: usize = 10_000;

/// Finished jobs forgotten by one transaction.
const FORGET_BATCH: usize = 100;

/// Longest text about a job, in bytes.
const DETAIL_BYTES_MAX: usize = 4096;

/// Jobs that run in this process.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<BTreeMap<JobId, Arc<Live>>>);

/// What a running job and those who look at it share.
#[derive(Debug, Default)]
pub(crate) struct Live {
    progress: AtomicU64,
    cancelled: AtomicBool,
    wake: Notify,
}

impl Live {
    /// Notes `steps` more.
    pub(crate) fn advance(&self, steps: u64) {
        self.progress.fetch_add(steps, Ordering::Relaxed);
    }

    /// Steps done.
    pub(crate) fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// Whether it is to end.
    pub(crate) fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.wake.notify_waiters();
    }

    /// Waits until the job is cancelled or the store shuts down.
    pub(crate) async fn unwanted(&self, inner: &Inner) {
        loop {
            // Listen before looking: a call between the two would be missed.
            let mut woken = std::pin::pin!(self.wake.notified());
            woken.as_mut().enable();
            if self.cancelled() || inner.stopping() {
                return;
            }
            woken.await;
        }
    }
}

impl Board {
    fn of(&self, id: JobId) -> Option<Arc<Live>> {
        crate::locked(&self.0).get(&id).cloned()
    }

    /// Wakes every running job, so that it sees that the store shuts down.
    pub(crate) fn wake_all(&self) {
        for live in crate::locked(&self.0).values() {
            live.wake.notify_waiters();
        }
    }
}

/// A job while it runs here; dropped, it is on the board as its records have it.
#[derive(Debug)]
pub(crate) struct Running {
    larder: Larder,
    pub(crate) id: JobId,
    pub(crate) job: Job,
    pub(crate) note: JobNote,
    pub(crate) live: Arc<Live>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut board = crate::locked(&self.larder.inner.board.0);
        // It may run again already, for whoever takes over.
        if board.get(&self.id).is_some_and(|live| Arc::ptr_eq(live, &self.live)) {
            board.remove(&self.id);
        }
    }
}

impl Running {
    /// Fails if the job must stop now: it is cancelled, or the store shuts down.
    pub(crate) fn go_on(&self) -> Result<()> {
        if self.larder.inner.stopping() {
            return Err(Error::new(ErrorKind::Unavailable, "shutting down"));
        }
        if self.live.cancelled() {
            return Err(cancelled());
        }
        Ok(())
    }

    /// Ends the job with the transaction: it is remembered for a while.
    pub(crate) fn close(&self, txn: &mut Txn, end: JobEnd, mut detail: String) {
        let Job { work, created, .. } = &self.job;
        if detail.len() > DETAIL_BYTES_MAX {
            let cut = detail.floor_char_boundary(DETAIL_BYTES_MAX);
            detail.truncate(cut);
        }
        let finished = FinishedJob {
            work: work.clone(),
            end,
            by: self.note.by.clone(),
            progress: self.live.progress(),
            created: *created,
            finished: txn.now,
            detail: (!detail.is_empty()).then_some(detail),
        };
        txn.delete(schema::job_key(self.id));
        txn.delete(schema::job_note_key(self.id));
        txn.delete(schema::job_cancel_key(self.id));
        txn.put(schema::finished_job_key(self.id), &finished);
    }
}

impl Larder {
    /// Puts a job on the board as running.
    pub(crate) fn run_as(&self, id: JobId, job: Job, note: JobNote) -> Running {
        let live = Arc::new(Live::default());
        live.advance(job.progress);
        crate::locked(&self.inner.board.0).insert(id, Arc::clone(&live));
        Running { larder: self.clone(), id, job, note, live }
    }

    /// The jobs that are not finished. Administrators only.
    pub async fn jobs(&self, caller: &Caller) -> Result<Vec<JobInfo>> {
        require_admin(caller)?;
        let snapshot = self.inner.meta.snapshot().await?;
        let page = txn::page(&*snapshot, &schema::jobs_prefix(), None, JOBS_PAGE).await?;
        let mut jobs = Vec::with_capacity(page.len());
        for (key, record) in &page {
            let id = JobId::from_bytes(schema::trailing_id(key)?);
            let note = note_of(&*snapshot, id).await?;
            jobs.push(self.open_info(id, schema::decode(key, &record.value)?, note));
        }
        Ok(jobs)
    }

    /// One page of the jobs that have ended, in the order in which they were made; the cursor is
    /// the last id given. Administrators only.
    pub async fn finished_jobs(
        &self,
        caller: &Caller,
        options: &ListOptions,
    ) -> Result<Page<JobInfo>> {
        require_admin(caller)?;
        let limit = options.page_limit();
        let after = match &options.cursor {
            None => None,
            Some(cursor) => {
                let id = cursor
                    .parse()
                    .map_err(|_| Error::invalid("the cursor is not one that a page gave"))?;
                Some(schema::finished_job_key(id))
            }
        };
        let snapshot = self.inner.meta.snapshot().await?;
        let prefix = schema::finished_jobs_prefix();
        let page = txn::page(&*snapshot, &prefix, after.as_deref(), limit).await?;
        let mut entries = Vec::with_capacity(page.len());
        for (key, record) in &page {
            let id = JobId::from_bytes(schema::trailing_id(key)?);
            entries.push(finished_info(id, schema::decode(key, &record.value)?));
        }
        let full = entries.len() == limit;
        let cursor = entries.last().filter(|_| full).map(|last| last.id.to_string());
        Ok(Page { entries, cursor })
    }

    /// One job, finished or not. Administrators only.
    pub async fn job(&self, caller: &Caller, id: JobId) -> Result<JobInfo> {
        require_admin(caller)?;
        let snapshot = self.inner.meta.snapshot().await?;
        if let Some(job) = txn::get::<Job>(&*snapshot, &schema::job_key(id)).await? {
            let note = note_of(&*snapshot, id).await?;
            return Ok(self.open_info(id, job.value, note));
        }
        let finished = txn::get::<FinishedJob>(&*snapshot, &schema::finished_job_key(id)).await?;
        Ok(finished_info(id, finished.ok_or_else(|| Error::not_found("job"))?.value))
    }

    /// Starts a job, or answers the one that does this already and is not finished; whether it
    /// is new is told too. Administrators only.
    ///
    /// Errors: `NotFound` for a space that is none.
    pub async fn start_job(
        &self,
        caller: &Caller,
        kind: JobKind,
        space: Option<&SpaceRef>,
    ) -> Result<(JobInfo, bool)> {
        require_admin(caller)?;
        let space = match space {
            Some(space) => Some(self.space(caller, space).await?.id),
            None => None,
        };
        let work = work_of(kind, space)?;
        let id = JobId::new(&self.inner.env);
        let (job, _) = transact!(self, None, |txn| {
            if let Some((id, job)) = same_job(&*txn.snapshot, &work).await? {
                let note = note_of(&*txn.snapshot, id).await?;
                return Ok((self.open_info(id, job, note), false));
            }
            caller.hold(&mut txn);
            let job = Job {
                work: work.clone(),
                state: JobState::Queued,
                progress: 0,
                created: txn.now,
                updated: txn.now,
                detail: None,
            };
            txn.frees();
            txn.put(schema::job_key(id), &job);
            let note = JobNote { by: Some(Arc::clone(&caller.name)), cursor: Vec::new() };
            txn.put(schema::job_note_key(id), &note);
            job
        });
        self.inner.long_jobs_wanted.notify_one();
        let note = JobNote { by: Some(Arc::clone(&caller.name)), cursor: Vec::new() };
        Ok((self.open_info(id, job, note), true))
    }

    /// Ends a job at its next step. Administrators only.
    ///
    /// Errors: `NotFound`, also for one that has ended; `Conflict` for one that must be finished.
    pub async fn cancel_job(&self, caller: &Caller, id: JobId) -> Result<()> {
        require_admin(caller)?;
        let key = schema::job_key(id);
        transact!(self, None, |txn| {
            let Some(stored) = txn.get::<Job>(&key).await? else {
                return Err(Error::not_found("job that is not finished"));
            };
            if let Some(why) = self.must_finish(id, &stored.value.work) {
                return Err(Error::new(ErrorKind::Conflict, why));
            }
            caller.hold(&mut txn);
            txn.frees();
            txn.hold(key.clone(), stored.version);
            let cancel = Cancel { by: Arc::clone(&caller.name), at: txn.now };
            txn.put(schema::job_cancel_key(id), &cancel);
        });
        if let Some(live) = self.inner.board.of(id) {
            live.cancel();
        }
        self.inner.long_jobs_wanted.notify_one();
        Ok(())
    }

    /// Why a job cannot be cancelled; nothing if it can.
    fn must_finish(&self, id: JobId, work: &JobWork) -> Option<&'static str> {
        match work {
            JobWork::Purge { .. } | JobWork::PurgeSpace { .. } => {
                Some("what is being purged cannot be had back: it must be finished")
            }
            JobWork::Unstage { .. } if !self.inner.copies().contains(&id) => {
                Some("the copy has ended: what it left is being removed")
            }
            JobWork::Trim { .. } => {
                Some("the space keeps more than its limit: raise the limit instead")
            }
            JobWork::ForgetUser { .. } | JobWork::ForgetGroup { .. } => {
                Some("who was deleted must be forgotten: it must be finished")
            }
            JobWork::Collect => Some("a collection is short and cannot be stopped half way"),
            JobWork::Unstage { .. }
            | JobWork::Scrub
            | JobWork::Check
            | JobWork::Lifecycle { .. } => None,
        }
    }

    /// Forgets jobs that ended long ago, and the oldest ones of too many.
    pub(crate) async fn forget_finished_jobs(&self) -> Result<()> {
        let now = self.inner.env.now();
        let mut pages = Pages::of(schema::finished_jobs_prefix(), JOBS_PAGE);
        let mut ended = Vec::new();
        while let Some(page) = pages.next_now(self).await? {
            for (key, record) in &page {
                let job: FinishedJob = schema::decode(key, &record.value)?;
                ended.push((job.finished, key.clone()));
            }
        }
        ended.sort_unstable();
        let over = ended.len().saturating_sub(FINISHED_MAX);
        let old = |index: usize, finished| index < over || now.since(finished) >= REMEMBER;
        let forget = ended.into_iter().enumerate().filter(|(i, (at, _))| old(*i, *at));
        let forget: Vec<bytes::Bytes> = forget.map(|(_, (_, key))| key).collect();
        for batch in forget.chunks(FORGET_BATCH) {
            transact!(self, None, |txn| {
                txn.frees();
                for key in batch {
                    txn.delete(key.clone());
                }
            });
        }
        Ok(())
    }

    /// How a job that is not finished is shown.
    fn open_info(&self, id: JobId, job: Job, note: JobNote) -> JobInfo {
        let live = self.inner.board.of(id);
        let (kind, subject) = describe(&job.work);
        let state = match (job.state, &live) {
            (_, Some(live)) if live.cancelled() => "cancelling",
            (JobState::Running, _) | (JobState::Queued, Some(_)) => "running",
            (JobState::Queued, None) => "queued",
            (JobState::Failed, _) => "failed",
        };
        let progress = live.as_ref().map_or(job.progress, |live| live.progress());
        JobInfo {
            id,
            kind: kind.into(),
            subject,
            state: state.into(),
            progress,
            created: job.created,
            updated: job.updated,
            finished: None,
            started_by: note.by,
            cancellable: self.must_finish(id, &job.work).is_none(),
            detail: job.detail,
        }
    }
}

/// The job, or what waits for it, ends because somebody does not want it any more.
pub(crate) fn cancelled() -> Error {
    Error::new(ErrorKind::Conflict, "the job was cancelled")
}

fn finished_info(id: JobId, job: FinishedJob) -> JobInfo {
    let (kind, subject) = describe(&job.work);
    let state = match job.end {
        JobEnd::Done => "done",
        JobEnd::Cancelled => "cancelled",
        JobEnd::Failed => "failed",
    };
    JobInfo {
        id,
        kind: kind.into(),
        subject,
        state: state.into(),
        progress: job.progress,
        created: job.created,
        updated: job.finished,
        finished: Some(job.finished),
        started_by: job.by,
        cancellable: false,
        detail: job.detail,
    }
}

/// Kind and subject of a job, for people.
fn describe(work: &JobWork) -> (&'static str, String) {
    match work {
        JobWork::Purge { space, item } => ("purge", format!("trash item {item} of {space}")),
        JobWork::PurgeSpace { space } => ("purge_space", format!("space {space}")),
        JobWork::Unstage { space, root, .. } => ("copy", format!("copy {root} in {space}")),
        JobWork::Scrub => ("scrub", "all chunks".to_owned()),
        JobWork::Check => ("check", "all records".to_owned()),
        JobWork::Collect => ("collect", "all that nothing refers to".to_owned()),
        JobWork::Lifecycle { space: None } => ("lifecycle", "all spaces with rules".to_owned()),
        JobWork::Lifecycle { space: Some(space) } => ("lifecycle", format!("space {space}")),
        JobWork::Trim { space } => ("trim", format!("space {space}")),
        JobWork::ForgetUser { user } => ("forget_user", format!("user {user}")),
        JobWork::ForgetGroup { group } => ("forget_group", format!("group {group}")),
    }
}

fn work_of(kind: JobKind, space: Option<SpaceId>) -> Result<JobWork> {
    let work = match kind {
        JobKind::Lifecycle => return Ok(JobWork::Lifecycle { space }),
        JobKind::Scrub => JobWork::Scrub,
        JobKind::Check => JobWork::Check,
        JobKind::Collect => JobWork::Collect,
    };
    match space {
        None => Ok(work),
        Some(_) => Err(Error::invalid("only a lifecycle job is for one space")),
    }
}

/// The job on the board that does this work.
pub(crate) async fn same_job(
    snapshot: &dyn Snapshot,
    work: &JobWork,
) -> Result<Option<(JobId, Job)>> {
    let mut pages = Pages::of(schema::jobs_prefix(), JOBS_PAGE);
    while let Some(page) = pages.next(snapshot).await? {
        for (key, record) in &page {
            let job: Job = schema::decode(key, &record.value)?;
            if job.work == *work {
                return Ok(Some((JobId::from_bytes(schema::trailing_id(key)?), job)));
            }
        }
    }
    Ok(None)
}

/// What is noted of a job besides its record.
pub(crate) async fn note_of(snapshot: &dyn Snapshot, id: JobId) -> Result<JobNote> {
    let note = txn::get::<JobNote>(snapshot, &schema::job_note_key(id)).await?;
    Ok(note.map(|note| note.value).unwrap_or_default())
}
