//! The multipart workload of `larder bench`: files that all connections upload together.
//!
//! Promises: the parts of one file after the other are sent over all connections; an operation
//! is a whole file, from the request that begins it to the answer that completes it, and its
//! bytes count once; a file is counted as one error however many of its parts fail, and is given
//! up on the server; a file once begun is finished, also after the end of the measurement.
//!
//! Not here: how requests are worded (`s3`), reading files back (`session`).

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{
    client::Sink,
    s3::{self, Bucket},
    target::{Method, Payload},
    workload::{BACKOFF, BYTES_PER_SECOND, Failure, FileSet, Job, Slot},
};

/// A file under way.
#[derive(Debug)]
pub(super) struct Upload {
    seq: u64,
    id: String,
    begun: Instant,
    parts: usize,
    progress: Mutex<Progress>,
}

#[derive(Debug)]
struct Progress {
    /// Parts that were taken: their numbers are below this.
    taken: usize,
    /// Parts in flight.
    busy: usize,
    etags: Vec<String>,
    failure: Option<Failure>,
}

/// What whoever ends a part has to do.
enum Duty {
    /// The next part.
    GoOn,
    /// The file is complete but for saying so.
    Complete(Vec<String>),
    /// The last part in flight of a file that failed.
    GiveUp(Failure),
}

impl Upload {
    fn new(seq: u64, id: String, parts: usize, begun: Instant) -> Self {
        let etags = vec![String::new(); parts];
        let progress = Progress { taken: 0, busy: 0, etags, failure: None };
        Self { seq, id, begun, parts, progress: Mutex::new(progress) }
    }

    /// The number, from 0, of a part that nobody sends yet.
    fn claim(&self) -> Option<usize> {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if progress.failure.is_some() || progress.taken == self.parts {
            return None;
        }
        progress.taken += 1;
        progress.busy += 1;
        Some(progress.taken - 1)
    }

    /// Notes how a claimed part ended; exactly one caller gets the last duty.
    fn end(&self, part: usize, outcome: Result<String, Failure>) -> Duty {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.busy -= 1;
        match outcome {
            Ok(etag) => progress.etags[part] = etag,
            // The first one says why; others often follow from it.
            Err(failure) => drop(progress.failure.get_or_insert(failure)),
        }
        if progress.busy > 0 {
            return Duty::GoOn;
        }
        if let Some(failure) = &progress.failure {
            return Duty::GiveUp(failure.clone());
        }
        if progress.taken < self.parts {
            return Duty::GoOn;
        }
        Duty::Complete(std::mem::take(&mut progress.etags))
    }
}

/// Number of parts of `part_size` bytes in a file of `size` bytes; an empty file has one.
pub(super) fn parts_of(size: u64, part_size: u64) -> u64 {
    size.div_ceil(part_size).max(1)
}

impl Slot {
    /// Sends parts until no further file may begin and none has parts left.
    pub(super) async fn run_multipart(&mut self, job: &Job) {
        let target = Arc::clone(&self.target);
        let Some(bucket) = target.bucket() else { return };
        let whole = self.limit(job.write.size);
        let some = self.limit(self.manner.part_size.min(job.write.size));
        while let Some((upload, part)) = self.claim(bucket, job).await {
            let sent = self.part(bucket, &job.write, &upload, part);
            let outcome = within(some, sent).await;
            let outcome = match upload.end(part, outcome) {
                Duty::GoOn => continue,
                Duty::Complete(etags) => {
                    let done = self.complete(bucket, &job.write, &upload, &etags);
                    within(whole, done).await
                }
                Duty::GiveUp(failure) => Err(failure),
            };
            match outcome {
                Ok(()) => {
                    self.tally.latency.record(upload.begun.elapsed());
                    self.tally.bytes += job.write.size;
                }
                Err(failure) => {
                    self.tally.fail(failure.key, failure.detail);
                    let given_up = self.give_up(bucket, &job.write, &upload);
                    // The file has failed already, and the server forgets it in its own time.
                    drop(within(some, given_up).await);
                    tokio::time::sleep(BACKOFF).await;
                }
            }
            job.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn limit(&self, size: u64) -> Duration {
        self.manner.timeout + Duration::from_secs(size / BYTES_PER_SECOND)
    }

    /// A part to send: of the present file, or of the next, which is begun for it while the
    /// other connections wait.
    async fn claim(&mut self, bucket: &Bucket, job: &Job) -> Option<(Arc<Upload>, usize)> {
        let mut present = job.upload.lock().await;
        loop {
            if let Some(upload) = present.as_ref()
                && let Some(part) = upload.claim()
            {
                return Some((Arc::clone(upload), part));
            }
            *present = None;
            if !job.take(Instant::now()) {
                return None;
            }
            let seq = job.write.next.fetch_add(1, Ordering::Relaxed);
            let begun = Instant::now();
            let limit = self.manner.timeout;
            match within(limit, self.begin(bucket, &job.write, seq)).await {
                Ok(id) => {
                    let parts = parts_of(job.write.size, self.manner.part_size);
                    *present = Some(Arc::new(Upload::new(seq, id, parts as usize, begun)));
                }
                Err(failure) => {
                    self.tally.fail(failure.key, failure.detail);
                    job.done.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(BACKOFF).await;
                }
            }
        }
    }

    async fn begin(&mut self, bucket: &Bucket, set: &FileSet, seq: u64) -> Result<String, Failure> {
        set.write_path(seq, &mut self.path);
        bucket.write_begin(&self.path, &mut self.head);
        let mut body = Vec::new();
        let reply = self.call(None, &mut Sink::Collect(&mut body), false).await?;
        self.expect(Method::Put, &reply, &[200])?;
        s3::parse_upload_id(&body).ok_or_else(|| self.wrong("an upload without an id"))
    }

    async fn part(
        &mut self,
        bucket: &Bucket,
        set: &FileSet,
        upload: &Upload,
        part: usize,
    ) -> Result<String, Failure> {
        let pattern = Arc::clone(&self.pattern);
        let content = set.content(upload.seq, &pattern);
        let content = content.part(part as u64 * self.manner.part_size, self.manner.part_size);
        let hashes = bucket
            .signs_bodies()
            .then(|| set.part_hashes(upload.seq, self.manner.part_size, &pattern));
        let sha256 = hashes.and_then(|hashes| hashes.get(part)).map(String::as_str);
        let payload = Payload { length: content.size, sha256 };
        set.write_path(upload.seq, &mut self.path);
        bucket.write_part(&self.path, &upload.id, part as u64 + 1, payload, &mut self.head);
        let reply = self.call(Some(content), &mut Sink::Discard, false).await?;
        self.expect(Method::Put, &reply, &[200])?;
        reply.etag.ok_or_else(|| self.wrong("a part without an ETag"))
    }

    async fn complete(
        &mut self,
        bucket: &Bucket,
        set: &FileSet,
        upload: &Upload,
        etags: &[String],
    ) -> Result<(), Failure> {
        set.write_path(upload.seq, &mut self.path);
        bucket.write_complete(&self.path, &upload.id, etags, &mut self.head);
        let mut body = Vec::new();
        let reply = self.call(None, &mut Sink::Collect(&mut body), false).await?;
        self.expect(Method::Put, &reply, &[200])?;
        if s3::is_completed(&body) {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&body);
        Err(self.wrong(&format!("not completed: {}", text.trim())))
    }

    async fn give_up(
        &mut self,
        bucket: &Bucket,
        set: &FileSet,
        upload: &Upload,
    ) -> Result<(), Failure> {
        set.write_path(upload.seq, &mut self.path);
        bucket.write_abort(&self.path, &upload.id, &mut self.head);
        self.call(None, &mut Sink::Discard, false).await.map(drop)
    }

    fn wrong(&self, why: &str) -> Failure {
        let detail = format!("{}: {why}", self.path);
        Failure { key: "multipart".to_owned(), detail }
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let detail = format!("multipart: no answer within {limit:?}");
        Err(Failure { key: "timeout".to_owned(), detail })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload(parts: usize) -> Upload {
        Upload::new(0, "id".to_owned(), parts, Instant::now())
    }

    fn failure(key: &str) -> Failure {
        Failure { key: key.to_owned(), detail: String::new() }
    }

    #[test]
    fn the_last_part_completes_whichever_it_is() {
        let upload = upload(3);
        let claimed: Vec<_> = (0..4).map(|_| upload.claim()).collect();
        assert_eq!(claimed, [Some(0), Some(1), Some(2), None]);
        assert!(matches!(upload.end(1, Ok("b".into())), Duty::GoOn));
        assert!(matches!(upload.end(2, Ok("c".into())), Duty::GoOn));
        match upload.end(0, Ok("a".into())) {
            Duty::Complete(etags) => assert_eq!(etags, ["a", "b", "c"]),
            _ => panic!("the file is complete"),
        }
        assert_eq!(upload.claim(), None, "nothing is left of a complete file");
    }

    #[test]
    fn parts_one_after_the_other_do_not_complete_early() {
        let upload = upload(2);
        assert_eq!(upload.claim(), Some(0));
        assert!(matches!(upload.end(0, Ok("a".into())), Duty::GoOn));
        assert_eq!(upload.claim(), Some(1));
        assert!(matches!(upload.end(1, Ok("b".into())), Duty::Complete(_)));
    }

    #[test]
    fn a_failed_file_is_given_up_once_and_for_its_first_reason() {
        let upload = upload(9);
        assert_eq!((upload.claim(), upload.claim()), (Some(0), Some(1)));
        assert!(matches!(upload.end(1, Err(failure("first"))), Duty::GoOn));
        assert_eq!(upload.claim(), None, "no more parts of a file that failed");
        match upload.end(0, Err(failure("second"))) {
            Duty::GiveUp(why) => assert_eq!(why.key, "first"),
            _ => panic!("the last one gives up"),
        }
    }

    #[test]
    fn every_file_has_a_part() {
        let counts = [(0, 1), (1, 1), (8, 1), (9, 2), (16, 2)];
        for (size, parts) in counts {
            assert_eq!(parts_of(size, 8), parts, "{size} bytes");
        }
    }
}
