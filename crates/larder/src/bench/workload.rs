//! What one connection of `larder bench` does: choose an operation, send it, judge the answer.
//!
//! Promises: a name is put once per run; every download is compared byte for byte and by its
//! length; a listing must hold exactly the names that were put; whatever is not a full success
//! is counted as an error by kind. A slot has one request in flight and reuses its buffers.
//!
//! Not here: how many slots there are and when they run (`runner`).

use std::{
    collections::VecDeque,
    fmt::Write as _,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    args::Workload,
    client::{Conn, Fault, Reply, Sink},
    multipart::{Upload, parts_of},
    pattern::{Content, Pattern},
    sigv4::hash_of_content,
    stats::{Rng, Tally, mix},
    target::{Method, Page, Payload, Target},
};

/// Body size from which the large receive buffer pays.
const LARGE: u64 = 32 * 1024;
/// Bytes that buy one more second before a request times out.
pub(super) const BYTES_PER_SECOND: u64 = 4 << 20;
/// Pause after repeated failures, so that a dead server is not hammered.
pub(super) const BACKOFF: Duration = Duration::from_millis(20);

/// Numbered files of one size below one directory, spread over its subdirectories.
#[derive(Debug)]
pub(super) struct FileSet {
    /// Escaped path of the set's directory, without slashes at its ends.
    pub(super) dir: String,
    /// Subdirectories.
    pub(super) dirs: u64,
    /// Bytes of each file.
    pub(super) size: u64,
    /// Makes the content of this set its own.
    pub(super) salt: u64,
    /// Files put so far, or tried to: their numbers are below this.
    pub(super) next: AtomicU64,
    /// Files deleted so far: their numbers are below this.
    pub(super) gone: AtomicU64,
    /// Hashes of the only bodies that files have; without them each file has a body of its own.
    bodies: Vec<Hashes>,
}

/// Hashes of one body, made when it is first sent.
#[derive(Debug, Default)]
struct Hashes {
    whole: OnceLock<String>,
    parts: OnceLock<Vec<String>>,
}

impl FileSet {
    /// An empty set.
    pub(super) fn new(dir: String, dirs: u64, size: u64, salt: u64) -> Self {
        let (next, gone) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { dir, dirs, size, salt, next, gone, bodies: Vec::new() }
    }

    /// The same with `count` bodies in turn, so that each needs to be hashed once only.
    pub(super) fn with_bodies(mut self, count: u64) -> Self {
        self.bodies = (0..count).map(|_| Hashes::default()).collect();
        self
    }

    /// Hashes the bodies that puts, or else multipart uploads in parts of `part_size`, send:
    /// before the clock runs.
    pub(super) fn hash(&self, part_size: Option<u64>, pattern: &Pattern) {
        for body in 0..self.bodies.len() as u64 {
            match part_size {
                Some(part_size) => drop(self.part_hashes(body, part_size, pattern)),
                None => drop(self.whole_hash(body, pattern)),
            }
        }
    }

    /// The numbers of the files that exist now.
    pub(super) fn range(&self) -> (u64, u64) {
        (self.gone.load(Ordering::Relaxed), self.next.load(Ordering::Relaxed))
    }

    /// Escaped path of subdirectory `n`.
    pub(super) fn subdir(&self, n: u64) -> String {
        format!("{}/d{n:04}", self.dir)
    }

    /// Writes the escaped path of file `seq`.
    pub(super) fn write_path(&self, seq: u64, out: &mut String) {
        out.clear();
        // Writing to a String cannot fail.
        write!(out, "{}/d{:04}/f{seq:09}", self.dir, seq % self.dirs).unwrap_or_default();
    }

    /// What file `seq` holds.
    pub(super) fn content<'a>(&self, seq: u64, pattern: &'a Pattern) -> Content<'a> {
        let body = match self.bodies.len() as u64 {
            0 => seq,
            count => seq % count,
        };
        pattern.content(mix(self.salt ^ mix(body)), self.size)
    }

    /// Hash of what file `seq` holds; nothing where bodies were not limited.
    fn whole_hash(&self, seq: u64, pattern: &Pattern) -> &str {
        let make = || hash_of_content(self.content(seq, pattern));
        self.hashes(seq).map_or("", |hashes| hashes.whole.get_or_init(make))
    }

    /// The same of its parts of `part_size` bytes.
    pub(super) fn part_hashes(&self, seq: u64, part_size: u64, pattern: &Pattern) -> &[String] {
        let content = self.content(seq, pattern);
        let part = |n| hash_of_content(content.part(n * part_size, part_size));
        let make = || (0..parts_of(self.size, part_size)).map(part).collect();
        self.hashes(seq).map_or(&[], |hashes| hashes.parts.get_or_init(make))
    }

    fn hashes(&self, seq: u64) -> Option<&Hashes> {
        let count = self.bodies.len() as u64;
        self.bodies.get(seq.checked_rem(count)? as usize)
    }

    /// How many files below number `n` lie in subdirectory `dir`, and the sum of their numbers.
    fn in_subdir(&self, dir: u64, n: u64) -> (u64, u64) {
        let count = n.saturating_sub(dir).div_ceil(self.dirs);
        let pairs = (u128::from(count) * u128::from(count.saturating_sub(1)) / 2) as u64;
        (count, dir.wrapping_mul(count).wrapping_add(self.dirs.wrapping_mul(pairs)))
    }
}

/// What the slots of a phase do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// A workload.
    Measure(Workload),
    /// HEAD of random files that must be gone.
    Absent,
    /// DELETE of files in order, whether they exist or not.
    Sweep,
    /// Purge of the named items of the trash.
    Purge,
}

/// One phase of load, shared by its slots.
#[derive(Debug)]
pub(super) struct Job {
    task: Task,
    read: Arc<FileSet>,
    pub(super) write: Arc<FileSet>,
    /// The file that multipart uploads are at; held while the next one is begun.
    pub(super) upload: tokio::sync::Mutex<Option<Arc<Upload>>>,
    /// Numbers of the files to read, delete or look for.
    range: (u64, u64),
    names: Vec<String>,
    deadline: Option<Instant>,
    budget: AtomicI64,
    cursor: AtomicU64,
    pub(super) done: AtomicU64,
    stop: Arc<AtomicBool>,
}

impl Job {
    /// A phase that reads from `read`, puts to and deletes from `write`, and ends when `stop` is
    /// set, when its files are used up, or when a limit that is set here is reached.
    pub(super) fn new(
        task: Task,
        read: &Arc<FileSet>,
        write: &Arc<FileSet>,
        stop: &Arc<AtomicBool>,
    ) -> Self {
        let deletes = matches!(task, Task::Measure(Workload::Delete) | Task::Sweep);
        let range = if deletes { write.range() } else { read.range() };
        Self {
            task,
            read: Arc::clone(read),
            write: Arc::clone(write),
            upload: tokio::sync::Mutex::default(),
            range,
            names: Vec::new(),
            deadline: None,
            budget: AtomicI64::new(i64::MAX),
            cursor: AtomicU64::new(range.0),
            done: AtomicU64::new(0),
            stop: Arc::clone(stop),
        }
    }

    /// No operation begins later than `span` from now.
    pub(super) fn lasting(mut self, span: Duration) -> Self {
        self.deadline = Some(Instant::now() + span);
        self
    }

    /// At most `n` operations.
    pub(super) fn counting(mut self, n: u64) -> Self {
        self.budget = AtomicI64::new(i64::try_from(n).unwrap_or(i64::MAX));
        self
    }

    /// Only files numbered within `range`.
    pub(super) fn within(mut self, range: (u64, u64)) -> Self {
        self.range = range;
        self.cursor = AtomicU64::new(range.0);
        self
    }

    /// The items to purge.
    pub(super) fn naming(mut self, names: Vec<String>) -> Self {
        self.range = (0, names.len() as u64);
        self.cursor = AtomicU64::new(0);
        self.names = names;
        self
    }

    /// Operations finished so far, well or badly.
    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Where a phase that works through its range in order has arrived.
    pub(super) fn reached(&self) -> u64 {
        self.cursor.load(Ordering::Relaxed).min(self.range.1)
    }

    /// Whether another operation may begin, which uses up one of the budget.
    pub(super) fn take(&self, now: Instant) -> bool {
        !self.stop.load(Ordering::Relaxed)
            && self.deadline.is_none_or(|deadline| now < deadline)
            && self.budget.fetch_sub(1, Ordering::Relaxed) > 0
    }

    fn in_order(&self) -> Option<u64> {
        let at = self.cursor.fetch_add(1, Ordering::Relaxed);
        (at < self.range.1).then_some(at)
    }

    fn at_random(&self, rng: &mut Rng) -> Option<u64> {
        let (from, to) = self.range;
        (from < to).then(|| from + rng.below(to - from))
    }
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Put(u64),
    Tus(u64),
    Get(u64),
    Head(u64),
    Delete(u64),
    Absent(u64),
    Sweep(u64),
    Purge(u64),
    List,
}

/// A failed operation: its kind for the tally, and a sentence.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) key: String,
    pub(super) detail: String,
}

/// What a successful operation moved.
struct Moved {
    bytes: u64,
    items: u64,
}

/// A listing under way.
#[derive(Debug, Default)]
struct Walk {
    dir: u64,
    cursor: Option<String>,
    seen: u64,
    sum: u64,
}

/// How slots talk to their server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// Time limit of a small request.
    pub(super) timeout: Duration,
    /// Acknowledge at once.
    pub(super) quickack: bool,
    /// Bytes of the parts of multipart uploads.
    pub(super) part_size: u64,
}

/// One connection's worth of load.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) target: Arc<Target>,
    pub(super) pattern: Arc<Pattern>,
    pub(super) manner: Manner,
    large: bool,
    conn: Option<Conn>,
    pub(super) head: Vec<u8>,
    page: Vec<u8>,
    pub(super) path: String,
    rng: Rng,
    walk: Option<Walk>,
    mine: VecDeque<u64>,
    pub(super) tally: Tally,
}

impl Slot {
    /// A slot of `target` for bodies of about `size` bytes; `seed` decides its choices.
    pub(super) fn new(
        target: &Arc<Target>,
        pattern: &Arc<Pattern>,
        manner: Manner,
        size: u64,
        seed: u64,
    ) -> Self {
        Self {
            target: Arc::clone(target),
            pattern: Arc::clone(pattern),
            manner,
            large: size >= LARGE,
            conn: None,
            head: Vec::with_capacity(1024),
            page: Vec::new(),
            path: String::new(),
            rng: Rng::new(seed),
            walk: None,
            mine: VecDeque::new(),
            tally: Tally::default(),
        }
    }

    /// Connects, where not connected, so that the first measured request need not.
    pub(super) async fn connect(&mut self) {
        if self.conn.is_none() {
            let opened = Conn::open(&self.target.addr, self.large, self.manner.quickack).await;
            // A failure shows again, and is counted, at the first request.
            self.conn = opened.ok();
        }
    }

    /// Takes what was counted since the last call.
    pub(super) fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Works on `job` until it is finished.
    pub(super) async fn run(&mut self, job: &Job) {
        if job.task == Task::Measure(Workload::Multipart) {
            return self.run_multipart(job).await;
        }
        self.walk = None;
        self.mine.clear();
        let limit = self.manner.timeout
            + Duration::from_secs(job.read.size.max(job.write.size) / BYTES_PER_SECOND);
        let mut failures = 0u32;
        let mut now = Instant::now();
        while job.take(now) {
            let Some(op) = self.choose(job) else { break };
            let outcome = match tokio::time::timeout(limit, self.perform(job, op)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Failure {
                    key: "timeout".to_owned(),
                    detail: format!("{op:?}: no answer within {limit:?}"),
                }),
            };
            let end = Instant::now();
            match outcome {
                Ok(moved) => {
                    failures = 0;
                    self.tally.latency.record(end - now);
                    self.tally.bytes += moved.bytes;
                    self.tally.items += moved.items;
                }
                Err(failure) => {
                    failures += 1;
                    self.tally.fail(failure.key, failure.detail);
                }
            }
            job.done.fetch_add(1, Ordering::Relaxed);
            now = end;
            if failures >= 3 {
                tokio::time::sleep(BACKOFF).await;
                now = Instant::now();
            }
        }
    }

    fn choose(&mut self, job: &Job) -> Option<Op> {
        let new = || Op::Put(job.write.next.fetch_add(1, Ordering::Relaxed));
        match job.task {
            Task::Measure(Workload::Put) => Some(new()),
            Task::Measure(Workload::Tus) => {
                Some(Op::Tus(job.write.next.fetch_add(1, Ordering::Relaxed)))
            }
            Task::Measure(Workload::Get) => job.at_random(&mut self.rng).map(Op::Get),
            Task::Measure(Workload::Head) => job.at_random(&mut self.rng).map(Op::Head),
            Task::Measure(Workload::Delete) => job.in_order().map(Op::Delete),
            Task::Measure(Workload::List) => Some(Op::List),
            // Its operations are not those of one connection.
            Task::Measure(Workload::Multipart) => None,
            Task::Measure(Workload::Mixed) => match self.rng.below(100) {
                0..45 => job.at_random(&mut self.rng).map(Op::Get),
                45..75 => job.at_random(&mut self.rng).map(Op::Head),
                75..90 => Some(new()),
                _ => Some(self.mine.pop_front().map_or_else(new, Op::Delete)),
            },
            Task::Absent => job.at_random(&mut self.rng).map(Op::Absent),
            Task::Sweep => job.in_order().map(Op::Sweep),
            Task::Purge => job.in_order().map(Op::Purge),
        }
    }

    async fn perform(&mut self, job: &Job, op: Op) -> Result<Moved, Failure> {
        let nothing = Moved { bytes: 0, items: 0 };
        match op {
            Op::Put(seq) => {
                let set = &job.write;
                let reply = self.file(Method::Put, set, seq).await?;
                self.expect(Method::Put, &reply, &[200, 201, 204])?;
                if job.task == Task::Measure(Workload::Mixed) {
                    self.mine.push_back(seq);
                }
                Ok(Moved { bytes: set.size, items: 0 })
            }
            Op::Tus(seq) => self.session(&job.write, seq).await,
            Op::Get(seq) => {
                let set = &job.read;
                let reply = self.file(Method::Get, set, seq).await?;
                self.expect(Method::Get, &reply, &[200])?;
                self.same_length(Method::Get, reply.body, set.size)?;
                self.same_length(Method::Get, reply.length.unwrap_or(set.size), set.size)?;
                Ok(Moved { bytes: set.size, items: 0 })
            }
            Op::Head(seq) => {
                let reply = self.file(Method::Head, &job.read, seq).await?;
                self.expect(Method::Head, &reply, &[200])?;
                self.same_length(Method::Head, reply.length.unwrap_or(0), job.read.size)?;
                Ok(nothing)
            }
            Op::Delete(seq) => {
                let reply = self.file(Method::Delete, &job.write, seq).await?;
                self.expect(Method::Delete, &reply, &[200, 202, 204])?;
                Ok(nothing)
            }
            Op::Sweep(seq) => {
                let reply = self.file(Method::Delete, &job.write, seq).await?;
                self.expect(Method::Delete, &reply, &[200, 202, 204, 404])?;
                Ok(nothing)
            }
            Op::Absent(seq) => {
                let reply = self.file(Method::Head, &job.read, seq).await?;
                self.expect(Method::Head, &reply, &[404])?;
                Ok(nothing)
            }
            Op::Purge(at) => {
                let name = job.names.get(at as usize).map(String::as_str).unwrap_or_default();
                self.target.write_purge(name, &mut self.head);
                let reply = self.call(None, &mut Sink::Discard, false).await?;
                self.expect(Method::Delete, &reply, &[200, 202, 204, 404])?;
                Ok(nothing)
            }
            Op::List => self.list(job).await,
        }
    }

    /// Uploads a file by a session.
    async fn session(&mut self, set: &FileSet, seq: u64) -> Result<Moved, Failure> {
        set.write_path(seq, &mut self.path);
        self.target.write_begin(&self.path, set.size, &mut self.head);
        let reply = self.call(None, &mut Sink::Discard, false).await?;
        self.expect(Method::Put, &reply, &[201])?;
        if set.size > 0 {
            let location = reply.location.ok_or_else(|| Failure {
                key: "location".to_owned(),
                detail: format!("{}: an upload without a location", self.path),
            })?;
            self.target.write_bytes(&location, set.size, &mut self.head);
            let pattern = Arc::clone(&self.pattern);
            let content = set.content(seq, &pattern);
            let reply = self.call(Some(content), &mut Sink::Discard, false).await?;
            self.expect(Method::Put, &reply, &[204])?;
        }
        Ok(Moved { bytes: set.size, items: 0 })
    }

    /// Sends a request for one file: with its content to put it, comparing with it to get it.
    async fn file(&mut self, method: Method, set: &FileSet, seq: u64) -> Result<Reply, Failure> {
        set.write_path(seq, &mut self.path);
        let pattern = Arc::clone(&self.pattern);
        let body = (method == Method::Put).then(|| set.content(seq, &pattern));
        let payload = body.map(|content| Payload {
            length: content.size,
            sha256: self.target.signs_bodies().then(|| set.whole_hash(seq, &pattern)),
        });
        self.target.write_head(method, &[&self.path], payload, &mut self.head);
        let mut sink = match method {
            Method::Get => Sink::Verify(set.content(seq, &pattern)),
            Method::Put | Method::Head | Method::Delete => Sink::Discard,
        };
        self.call(body, &mut sink, method == Method::Head).await.map_err(|mut failure| {
            failure.detail = format!("{method:?} {}: {}", self.path, failure.detail);
            failure
        })
    }

    /// Sends the request in `self.head`, on a new connection where there is none or where the
    /// server gave up the idle one.
    pub(super) async fn call(
        &mut self,
        body: Option<Content<'_>>,
        sink: &mut Sink<'_>,
        is_head: bool,
    ) -> Result<Reply, Failure> {
        let (large, quickack) = (self.large, self.manner.quickack);
        if let Some(mut conn) = self.conn.take() {
            match conn.exchange(&self.head, body, sink, is_head).await {
                Err(Fault::Closed) if conn.reused() => self.tally.reconnects += 1,
                Err(fault) => return Err(fault.into()),
                Ok(reply) => {
                    self.conn = conn.usable().then_some(conn);
                    return Ok(reply);
                }
            }
        }
        let mut conn = Conn::open(&self.target.addr, large, quickack).await?;
        let reply = conn.exchange(&self.head, body, sink, is_head).await?;
        self.conn = conn.usable().then_some(conn);
        Ok(reply)
    }

    /// Makes every status but the `good` ones a failure.
    pub(super) fn expect(
        &self,
        method: Method,
        reply: &Reply,
        good: &[u16],
    ) -> Result<(), Failure> {
        if good.contains(&reply.status) {
            return Ok(());
        }
        let body = String::from_utf8_lossy(&reply.error);
        Err(Failure {
            key: format!("status {}", reply.status),
            detail: format!("{method:?} {}: {} {}", self.path, reply.status, body.trim()),
        })
    }

    fn same_length(&self, method: Method, got: u64, want: u64) -> Result<(), Failure> {
        if got == want {
            return Ok(());
        }
        Err(Failure {
            key: "length".to_owned(),
            detail: format!("{method:?} {}: {got} bytes instead of {want}", self.path),
        })
    }

    /// Fetches and checks the next page of a walk through the subdirectories of the read set.
    async fn list(&mut self, job: &Job) -> Result<Moved, Failure> {
        let set = &job.read;
        let walk = self.walk.take().unwrap_or_else(|| Walk {
            dir: self.rng.below(set.dirs.min(job.range.1.max(1))),
            ..Walk::default()
        });
        self.path = set.subdir(walk.dir);
        self.target.write_list(&self.path, walk.cursor.as_deref(), &mut self.head);
        let mut page = std::mem::take(&mut self.page);
        page.clear();
        let reply = self.call(None, &mut Sink::Collect(&mut page), false).await?;
        self.expect(Method::Get, &reply, &[200])?;
        let dir = walk.dir;
        let wrong = |why: String| Failure {
            key: "listing".to_owned(),
            detail: format!("list {}: {why}", set.subdir(dir)),
        };
        let parsed = self.target.parse_page(&page).map_err(|e| wrong(format!("{e:#}")))?;
        let items = parsed.names.len() as u64;
        self.walk = check_page(set, job.range.1, walk, parsed).map_err(wrong)?;
        self.page = page;
        Ok(Moved { bytes: reply.body, items })
    }
}

/// Adds a page to a walk through a subdirectory of `set` that holds the files below number `n`.
/// Returns the walk to go on with, `None` after a last page that completes it.
fn check_page(
    set: &FileSet,
    n: u64,
    mut walk: Walk,
    page: Page<'_>,
) -> Result<Option<Walk>, String> {
    for name in &page.names {
        let seq = name.strip_prefix('f').and_then(|digits| digits.parse::<u64>().ok());
        match seq {
            Some(seq) if seq < n && seq % set.dirs == walk.dir => {
                walk.sum = walk.sum.wrapping_add(seq);
            }
            _ => return Err(format!("unexpected entry {name:?}")),
        }
    }
    walk.seen += page.names.len() as u64;
    if let Some(cursor) = page.cursor {
        if page.names.is_empty() {
            return Err("an empty page that is not the last".to_owned());
        }
        return Ok(Some(Walk { cursor: Some(cursor), ..walk }));
    }
    let (count, sum) = set.in_subdir(walk.dir, n);
    if walk.seen != count {
        return Err(format!("{} entries instead of {count}", walk.seen));
    }
    if walk.sum != sum {
        return Err("an entry is repeated and another missing".to_owned());
    }
    Ok(None)
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        let (key, detail) = match fault {
            Fault::Connect(error) => ("connect", format!("cannot connect: {error}")),
            Fault::Closed => ("closed", "connection closed before an answer".to_owned()),
            Fault::Io(error) => ("broken", format!("connection broke in the answer: {error}")),
            Fault::Protocol(why) => ("protocol", why.to_owned()),
            Fault::Mismatch(at) => ("mismatch", format!("content differs at byte {at}")),
        };
        Self { key: key.to_owned(), detail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(names: &[&'static str], cursor: Option<&str>) -> Page<'static> {
        Page {
            names: names.iter().map(|&name| name.into()).collect(),
            cursor: cursor.map(str::to_owned),
        }
    }

    fn walk_of(pages: Vec<Page<'_>>) -> Result<(), String> {
        let set = FileSet::new("s".into(), 2, 1, 0);
        let mut walk = Some(Walk { dir: 1, ..Walk::default() });
        for page in pages {
            walk = check_page(&set, 7, walk.take().unwrap(), page)?;
        }
        assert!(walk.is_none());
        Ok(())
    }

    #[test]
    fn a_listing_must_hold_exactly_what_was_put() {
        let good = vec![page(&["f1", "f3"], Some("f3")), page(&["f5"], None)];
        assert_eq!(walk_of(good), Ok(()));
        for bad in [
            vec![page(&["f1", "f3"], None)],
            vec![page(&["f1", "f3", "f3"], None)],
            vec![page(&["f1", "f3", "f5", "f7"], None)],
            vec![page(&["f1", "f2", "f3"], None)],
            vec![page(&["f1", "f3", "x"], None)],
            vec![page(&[], Some("c"))],
        ] {
            assert!(walk_of(bad).is_err());
        }
    }

    #[test]
    fn limited_bodies_come_in_turn_each_with_its_hashes() {
        let pattern = Pattern::new(7);
        let set = FileSet::new("s".into(), 1, 200_000, 3).with_bodies(2);
        let content = |seq| set.content(seq, &pattern).to_vec();
        assert_eq!(content(0), content(2));
        assert_ne!(content(0), content(1));
        assert_eq!(set.whole_hash(5, &pattern), hash_of_content(set.content(1, &pattern)));
        let parts = set.part_hashes(5, 131_072, &pattern);
        let last = set.content(1, &pattern).part(131_072, 131_072);
        assert_eq!((parts.len(), &parts[1]), (2, &hash_of_content(last)));
        let free = FileSet::new("s".into(), 1, 100, 3);
        let content = |seq| free.content(seq, &pattern).to_vec();
        assert_ne!(content(0), content(2));
        assert_eq!(free.whole_hash(0, &pattern), "");
    }

    #[test]
    fn subdirectory_counts_add_up_to_the_whole_set() {
        let set = FileSet::new("s".into(), 16, 1, 0);
        for n in [0, 1, 15, 16, 17, 1000, 1003] {
            let counts = (0..16).map(|dir| set.in_subdir(dir, n));
            let (count, sum) = counts.fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
            assert_eq!((count, sum), (n, n * n.saturating_sub(1) / 2), "{n} files");
        }
    }
}
