//! Loading a dump: everything is written where it belongs, and seen only by the last commit.
//!
//! A load of one space writes the space's own record last: until then nothing leads to the rest.
//! A load of a whole instance happens in one that has no spaces and no users but its root; until
//! its last commit nobody is let in. A record ([`LoadState`]) says that a load is under way, so
//! that what a broken one leaves is removed ([`super::clear`]).
//!
//! Blobs get new ids: those of the dump are ids of another instance's processes. Each process
//! number in the dump becomes a number that this instance has never given to a process and never
//! will ([`Load::claim`]), which therefore is dead already: its chunks are collected like those
//! of any dead process if no record refers to them.
//!
//! Promises: see `dump`; nothing that exists is overwritten: each record is written only if there
//! is none.
//! Memory: a frame, [`COMMITS_MAX`] batches of records, [`CHUNKS_MAX`] open chunks.
//! Crash or cancel: the rest is removed at the next start, or at once.
//!
//! Not here: chunks ([`super::chunks`]), grants ([`super::share`]).

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use larder_base::{
    ErrorKind, failpoint,
    id::{ChunkId, Incarnation, JobId, NodeId, SpaceId},
};
use larder_meta::{CommitError, TxnSpec};
use tokio::task::JoinHandle;

use super::{
    Subject,
    chunks::OpenChunk,
    family::{self, Family, OfSpace},
    format::{BlobHead, Counts, Frame, Frames, Header, Tally, cut_off, records_of},
    share,
};
use crate::{
    Larder,
    access::require_admin,
    caller::Caller,
    entry::SpaceKind,
    error::{Error, Result},
    feed::Position,
    locked,
    schema::{
        self, Blob, BlobState, ChunkRef, Content, Expiry, FeedBase, Instance, Job, LoadOf,
        LoadState, Location, Space, SpaceState, User, WHOLE_LOAD,
    },
    txn::{self, Stored, Txn, transact},
};

/// Records of one transaction; each is compared and put.
const BATCH: usize = 100;

/// Bytes of one transaction.
const BATCH_BYTES: usize = 512 << 10;

/// Transactions that may be under way.
const COMMITS_MAX: usize = 8;

/// Chunks that may wait to be durable.
const CHUNKS_MAX: usize = 16;

/// Pause between two looks whether a load that was given up has ended.
const GIVEN_UP_PAUSE: Duration = Duration::from_millis(5);

/// Process numbers that are claimed at once.
const CLAIM: u64 = 16;

/// What a load has brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadReport {
    /// What the dump is of.
    pub header: Header,
    /// How much was in it.
    pub counts: Counts,
    /// Grants that were left out, because this instance does not know whom they are for.
    pub grants_dropped: u64,
    /// Whether the owner of the one space is another than it was: the caller, because the owner
    /// is not known here.
    pub owner_replaced: bool,
    /// Whether secrets that were sealed under the dumped instance's master key can be opened.
    pub secrets_readable: bool,
}

/// A dump on its way in. Dropping it undoes everything.
#[derive(Debug)]
pub struct Load {
    larder: Larder,
    caller: Caller,
    frames: Frames,
    tally: Tally,
    header: Option<Header>,
    said: Option<Counts>,
    active: Option<Arc<Active>>,
    /// The record of the one space, which is written last.
    space: Option<Space>,
    /// The user who takes the place of the one that there is, if they have the same name.
    same_name: Option<(Bytes, Bytes)>,
    has_admin: bool,
    batch: Batch,
    commits: VecDeque<JoinHandle<Result<()>>>,
    /// Whether the batch, and what is under way, are locations.
    of_nodes: bool,
    incarnations: BTreeMap<Incarnation, Incarnation>,
    unused: std::ops::Range<u64>,
    blob: Option<OpenBlob>,
    waiting: VecDeque<Waiting>,
    grants_dropped: u64,
}

/// Records to write in one transaction.
#[derive(Debug, Default)]
struct Batch {
    put: Vec<(Bytes, Bytes)>,
    bytes: usize,
}

/// A blob whose chunks come.
#[derive(Debug)]
struct OpenBlob {
    head: BlobHead,
    /// The index of the chunk that comes next.
    next: usize,
    open: Option<OpenChunk>,
    durable: Vec<ChunkRef>,
    finishing: VecDeque<JoinHandle<Result<ChunkRef>>>,
}

/// A blob whose chunks wait to be durable.
#[derive(Debug)]
struct Waiting {
    head: BlobHead,
    durable: Vec<ChunkRef>,
    finishing: VecDeque<JoinHandle<Result<ChunkRef>>>,
}

/// A load that goes on. While anybody has it, nothing of the load is removed.
pub(super) struct Active {
    larder: Larder,
    load: JobId,
}

/// How a load is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Going {
    /// Its client sends.
    On,
    /// It is given up, but for writes that have begun.
    Down,
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(active) = &self.active
            && let Some(going) = locked(&self.larder.inner.loads).get_mut(&active.load)
        {
            *going = Going::Down;
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        locked(&self.larder.inner.loads).remove(&self.load);
        self.larder.wake_jobs();
    }
}

impl std::fmt::Debug for Active {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Active({})", self.load)
    }
}

impl Larder {
    /// Waits until a load that was given up has ended its last writes.
    async fn settle_given_up(&self, load: JobId) {
        while locked(&self.inner.loads).get(&load) == Some(&Going::Down) {
            self.inner.env.sleep(GIVEN_UP_PAUSE).await;
        }
    }

    /// Begins to load a dump. Administrators only.
    pub fn load(&self, caller: &Caller) -> Result<Load> {
        require_admin(caller)?;
        Ok(Load {
            larder: self.clone(),
            caller: caller.clone(),
            frames: Frames::default(),
            tally: Tally::default(),
            header: None,
            said: None,
            active: None,
            space: None,
            same_name: None,
            has_admin: false,
            batch: Batch::default(),
            commits: VecDeque::new(),
            of_nodes: false,
            incarnations: BTreeMap::new(),
            unused: 0..0,
            blob: None,
            waiting: VecDeque::new(),
            grants_dropped: 0,
        })
    }
}

impl Load {
    /// Takes the next bytes of the dump. After an error it can only be dropped.
    ///
    /// # Errors
    /// `BadDigest` and `Invalid` for a dump that is damaged or not understood; `Conflict` if what
    /// it brings is here already; `DiskFull`.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.frames.push(&bytes);
        while let Some(frame) = self.frames.next()? {
            match frame {
                Frame::Header(header) => self.begin(header).await?,
                Frame::Records(records) => {
                    for record in records_of(records) {
                        let (key, value) = record?;
                        self.record(key, value).await?;
                    }
                }
                Frame::Blob(head, content) => self.begin_blob(head, content).await?,
                Frame::Data(content) => self.content(content).await?,
                Frame::End(counts) => self.said = Some(counts),
            }
        }
        Ok(())
    }

    /// Says that nothing more comes, and makes everything visible.
    ///
    /// # Errors
    /// As [`Load::write`]; `Invalid` for a dump that is cut off.
    pub async fn finish(mut self) -> Result<LoadReport> {
        let (Some(said), true) = (self.said, self.frames.is_whole()) else {
            return Err(cut_off());
        };
        while !self.waiting.is_empty() {
            self.settle_blob().await?;
        }
        self.send_batch().await?;
        self.settle_commits(0).await?;
        if said != self.tally.0 {
            return Err(Error::invalid("the dump is damaged: its counts are others"));
        }
        let header = self.header.clone().ok_or_else(cut_off)?;
        let owner_replaced = match &header.space {
            None => self.win_instance().await.map(|()| false)?,
            Some(space) => self.win_space(space.id).await?,
        };
        let snapshot = self.larder.inner.meta.snapshot().await?;
        let master = txn::get::<schema::MasterRecord>(&*snapshot, &schema::master_key()).await?;
        let ours = master.map(|master| master.value.id);
        Ok(LoadReport {
            secrets_readable: header.sealed_under.is_none() || header.sealed_under == ours,
            header,
            counts: said,
            grants_dropped: self.grants_dropped,
            owner_replaced,
        })
    }

    async fn begin(&mut self, header: Header) -> Result<()> {
        self.header = Some(header.clone());
        let load = header.space.as_ref().map_or(WHOLE_LOAD, |one| schema::load_of_space(one.id));
        // What a load before this one has left would be in the way.
        self.larder.settle_given_up(load).await;
        self.larder.clear_loads_now().await?;
        let of = match &header.space {
            None => self.begin_instance().await?,
            Some(space) => LoadOf::Space(space.id),
        };
        let busy = || Error::new(ErrorKind::Busy, "it is being loaded already");
        match locked(&self.larder.inner.loads).entry(load) {
            Entry::Occupied(_) => return Err(busy()),
            Entry::Vacant(vacant) => vacant.insert(Going::On),
        };
        self.active = Some(Arc::new(Active { larder: self.larder.clone(), load }));
        let whole = header.space.is_none();
        let larder = &self.larder;
        if whole {
            larder.inner.loading.store(true, Ordering::Release);
            // A round of jobs that runs now has not seen it.
            drop(larder.inner.jobs_turn.lock().await);
            drop(larder.inner.long_jobs_turn.lock().await);
        }
        transact!(larder, None, |txn| {
            self.caller.hold(&mut txn);
            if let Some(space) = &header.space {
                require_free(&mut txn, space.id, &space.name).await?;
            }
            let key = schema::load_key(load);
            if txn.snapshot.get(&key).await?.is_some() {
                return Err(busy());
            }
            txn.hold_absent(key.clone());
            let state = LoadState {
                of: of.clone(),
                claimed: Vec::new(),
                began: !whole,
                won: false,
                started: txn.now,
            };
            txn.put(key, &state);
        });
        if !whole {
            return Ok(());
        }
        // From here on nobody can make users and spaces; somebody may have a moment ago.
        self.begin_instance().await?;
        transact!(larder, None, |txn| {
            let key = schema::load_key(load);
            let state = txn.get::<LoadState>(&key).await?;
            let state = state.ok_or_else(|| Error::internal("a load without its record"))?;
            txn.hold(key.clone(), state.version);
            txn.put(key, &LoadState { began: true, ..state.value });
        });
        Ok(())
    }

    /// Demands that there is nothing here but the caller.
    async fn begin_instance(&self) -> Result<LoadOf> {
        let snapshot = self.larder.inner.meta.snapshot().await?;
        for family in family::FAMILIES.iter().filter(|family| family.must_be_empty()) {
            if !txn::page(&*snapshot, &family.name, None, 1).await?.is_empty() {
                return Err(not_empty());
            }
        }
        let users = txn::page(&*snapshot, &schema::users_prefix(), None, 2).await?;
        match users.as_slice() {
            [(key, record)] if *key == schema::user_key(self.caller.user) => {
                let user: User = schema::decode(key, &record.value)?;
                Ok(LoadOf::Instance { user: self.caller.user, name: user.name })
            }
            _ => Err(not_empty()),
        }
    }

    fn active(&self) -> Result<&Arc<Active>> {
        self.active.as_ref().ok_or_else(|| Error::internal("no load has begun"))
    }

    fn one_space(&self) -> Option<SpaceId> {
        self.header.as_ref().and_then(|header| header.space.as_ref()).map(|space| space.id)
    }

    async fn record(&mut self, key: Bytes, value: Bytes) -> Result<()> {
        let mut parsed = self.tally.record(&key, &value)?;
        let family = family::of(&key).ok_or_else(|| Error::internal("no such family"))?;
        let value = match parsed.file_mut() {
            Some(file) => {
                let incarnation = self.claim(file.blob.incarnation).await?;
                file.blob.incarnation = incarnation;
                parsed.encode().unwrap_or(value)
            }
            None => value,
        };
        match self.one_space() {
            None => self.record_of_instance(key, value).await,
            Some(space) => self.record_of_space(family, space, key, value).await,
        }
    }

    async fn record_of_instance(&mut self, key: Bytes, value: Bytes) -> Result<()> {
        match key.get(..2) {
            Some(b"us") => {
                let user: User = schema::decode(&key, &value)?;
                self.has_admin |= user.admin && !user.disabled;
            }
            Some(b"un") if self.larder.inner.meta.snapshot().await?.get(&key).await?.is_some() => {
                self.same_name = Some((key, value));
                return Ok(());
            }
            Some(b"sp") => {
                let space = SpaceId::from_bytes(schema::trailing_id(&key)?);
                let (key, value) = self.feed_base(space).await?;
                self.put(key, value).await?;
            }
            _ => {}
        }
        self.put(key, value).await
    }

    async fn record_of_space(
        &mut self,
        family: &Family,
        space: SpaceId,
        key: Bytes,
        value: Bytes,
    ) -> Result<()> {
        let foreign = || Error::invalid("the dump of one space has records of something else");
        let prefix = [&family.name[..], space.as_bytes()].concat();
        match family.of_space {
            OfSpace::Prefix if key.starts_with(&prefix) => self.put(key, value).await,
            OfSpace::Space if *key == *prefix && self.space.is_none() => {
                self.space = Some(schema::decode(&key, &value)?);
                Ok(())
            }
            OfSpace::Node if family.name == *b"no" => {
                let location: Location = schema::decode(&key, &value)?;
                if location.space != space {
                    return Err(foreign());
                }
                self.put(key, value).await
            }
            OfSpace::Node => {
                let expiry: Expiry = schema::decode(&key, &value)?;
                if expiry.space != space {
                    return Err(foreign());
                }
                let node = NodeId::from_bytes(schema::trailing_id(&key)?);
                let index = schema::expires_key(expiry.at, node);
                self.put_off(key, value).await?;
                self.put_off(index, schema::encode(&())).await
            }
            OfSpace::Job => {
                if family.name == *b"jb" {
                    let job: Job = schema::decode(&key, &value)?;
                    if super::subject_of_job(&job.work) != Subject::Space(space) {
                        return Err(foreign());
                    }
                }
                self.put_off(key, value).await
            }
            OfSpace::Share => {
                let snapshot = self.larder.inner.meta.snapshot().await?;
                let loader = self.caller.user;
                match share::arrived(&*snapshot, space, loader, (&key, &value)).await? {
                    None => self.grants_dropped += 1,
                    Some(records) => {
                        for (key, value) in records {
                            self.put_off(key, value).await?;
                        }
                    }
                }
                Ok(())
            }
            _ => Err(foreign()),
        }
    }

    /// Says that what happened to a space until now is in no feed.
    async fn feed_base(&self, space: SpaceId) -> Result<(Bytes, Bytes)> {
        let revision = self.larder.inner.meta.snapshot().await?.revision().0;
        let base = FeedBase { removed: Position { revision, index: u16::MAX } };
        Ok((schema::feed_base_key(space), schema::encode(&base)))
    }

    /// Writes a record when the load has won.
    async fn put_off(&mut self, key: Bytes, value: Bytes) -> Result<()> {
        let load = self.active()?.load;
        self.put(schema::put_off_key(load, &key), value).await
    }

    /// Writes a record that must not exist, with others.
    async fn put(&mut self, key: Bytes, value: Bytes) -> Result<()> {
        // What leads to a location is written before it: so a load that breaks off is removed.
        let of_nodes = key.starts_with(b"no");
        if of_nodes != self.of_nodes {
            self.send_batch().await?;
            if of_nodes {
                self.settle_commits(0).await?;
            }
            self.of_nodes = of_nodes;
        }
        let bytes = key.len() + value.len();
        if self.batch.put.len() >= BATCH || self.batch.bytes + bytes > BATCH_BYTES {
            self.send_batch().await?;
        }
        self.batch.bytes += bytes;
        self.batch.put.push((key, value));
        Ok(())
    }

    async fn send_batch(&mut self) -> Result<()> {
        let Batch { put, .. } = std::mem::take(&mut self.batch);
        if put.is_empty() {
            return Ok(());
        }
        self.settle_commits(COMMITS_MAX - 1).await?;
        let active = Arc::clone(self.active()?);
        let env = &self.larder.inner.env;
        self.commits.push_back(env.spawn("load records", async move {
            let inner = &active.larder.inner;
            let mut spec = TxnSpec { fence: Some(inner.incarnation), ..TxnSpec::default() };
            for (key, _) in &put {
                spec.expect_absent(key.clone());
            }
            spec.put = put;
            failpoint::reach("commit.before");
            match inner.meta.commit(spec).await {
                Ok(_) => Ok(()),
                Err(CommitError::Conflict(key)) => {
                    let key = key.escape_ascii();
                    let detail = format!("what the dump brings is here already: record {key}");
                    Err(Error::new(ErrorKind::Conflict, detail))
                }
                Err(error) => Err(error.into()),
            }
        }));
        Ok(())
    }

    /// Waits until at most `left` transactions are under way.
    async fn settle_commits(&mut self, left: usize) -> Result<()> {
        while self.commits.len() > left
            && let Some(commit) = self.commits.pop_front()
        {
            commit.await.map_err(stopped)??;
        }
        Ok(())
    }

    /// The process number that takes the place of one in the dump.
    async fn claim(&mut self, of: Incarnation) -> Result<Incarnation> {
        if let Some(incarnation) = self.incarnations.get(&of) {
            return Ok(*incarnation);
        }
        if self.unused.is_empty() {
            let load = self.active()?.load;
            let larder = self.larder.clone();
            let (claimed, _) = transact!(larder, None, |txn| {
                let (instance_key, load_key) = (schema::instance_key(), schema::load_key(load));
                let instance = txn.get::<Instance>(&instance_key).await?;
                let state = txn.get::<LoadState>(&load_key).await?;
                let (Some(instance), Some(state)) = (instance, state) else {
                    return Err(Error::internal("a load without its record"));
                };
                let Stored { value: mut instance, version } = instance;
                let first = instance.incarnation.0 + 1;
                instance.incarnation.0 += CLAIM;
                txn.hold(instance_key.clone(), version);
                txn.put(instance_key, &instance);
                let Stored { value: mut state, version } = state;
                match state.claimed.last_mut() {
                    Some((_, end)) if *end == first => *end = first + CLAIM,
                    _ => state.claimed.push((first, first + CLAIM)),
                }
                txn.hold(load_key.clone(), version);
                txn.put(load_key, &state);
                first..first + CLAIM
            });
            self.unused = claimed;
        }
        let next = self.unused.next().ok_or_else(|| Error::internal("no number was claimed"))?;
        self.incarnations.insert(of, Incarnation(next));
        Ok(Incarnation(next))
    }

    async fn begin_blob(&mut self, mut head: BlobHead, content: Bytes) -> Result<()> {
        self.tally.blob(head.size);
        head.id.incarnation = self.claim(head.id.incarnation).await?;
        let Some(chunks) = &mut head.chunks else {
            return self.whole_blob(head, content).await;
        };
        // Whatever they were staged as there: here they are staged as this blob's.
        for (index, chunk) in (0..=u32::MAX).zip(chunks) {
            chunk.id = ChunkId { blob: head.id, index };
        }
        self.blob = Some(OpenBlob {
            head,
            next: 0,
            open: None,
            durable: Vec::new(),
            finishing: VecDeque::new(),
        });
        self.content(Bytes::new()).await
    }

    /// A blob that was inline: it is here too, if it may.
    async fn whole_blob(&mut self, head: BlobHead, mut content: Bytes) -> Result<()> {
        if content.len() <= self.larder.inner.inline_bytes_max {
            return self.put_blob(&head, Content::Inline(content)).await;
        }
        let id = ChunkId { blob: head.id, index: 0 };
        let mut chunk = OpenChunk::create(&self.larder, id, head.size, None).await?;
        chunk.write(&mut content).await?;
        let finishing = VecDeque::from([self.spawn_finish(chunk)?]);
        self.wait_for(Waiting { head, durable: Vec::new(), finishing }).await
    }

    /// Takes content of the blob whose chunks come.
    async fn content(&mut self, mut bytes: Bytes) -> Result<()> {
        let Some(mut blob) = self.blob.take() else {
            return Err(Error::internal("content without a blob"));
        };
        loop {
            if let Some(chunk) = &mut blob.open {
                chunk.write(&mut bytes).await?;
                if !chunk.is_full() {
                    self.blob = Some(blob);
                    return Ok(());
                }
            }
            if let Some(chunk) = blob.open.take() {
                blob.finishing.push_back(self.spawn_finish(chunk)?);
                if blob.finishing.len() >= CHUNKS_MAX
                    && let Some(oldest) = blob.finishing.pop_front()
                {
                    blob.durable.push(oldest.await.map_err(stopped)??);
                }
            }
            let next = blob.head.chunks.as_ref().and_then(|chunks| chunks.get(blob.next));
            let Some(next) = next else {
                // The frames have been checked: nothing is left.
                let OpenBlob { head, durable, finishing, .. } = blob;
                return self.wait_for(Waiting { head, durable, finishing }).await;
            };
            blob.next += 1;
            let checksum = Some(next.checksum);
            blob.open =
                Some(OpenChunk::create(&self.larder, next.id, next.length, checksum).await?);
        }
    }

    /// Has a chunk made durable while more comes.
    fn spawn_finish(&self, chunk: OpenChunk) -> Result<JoinHandle<Result<ChunkRef>>> {
        let active = Arc::clone(self.active()?);
        Ok(self.larder.inner.env.spawn("load chunk", async move {
            let finished = chunk.finish().await;
            drop(active);
            finished
        }))
    }

    async fn wait_for(&mut self, blob: Waiting) -> Result<()> {
        self.waiting.push_back(blob);
        while self.waiting.iter().map(|blob| blob.finishing.len()).sum::<usize>() > CHUNKS_MAX {
            self.settle_blob().await?;
        }
        Ok(())
    }

    /// Waits for the oldest blob to be durable, and writes its record.
    async fn settle_blob(&mut self) -> Result<()> {
        let Some(blob) = self.waiting.pop_front() else { return Ok(()) };
        let Waiting { head, durable: mut chunks, finishing } = blob;
        for chunk in finishing {
            chunks.push(chunk.await.map_err(stopped)??);
        }
        self.put_blob(&head, Content::Chunks(chunks)).await
    }

    async fn put_blob(&mut self, head: &BlobHead, content: Content) -> Result<()> {
        let BlobHead { id, size, refs, .. } = *head;
        let blob = Blob { state: BlobState::Committed, size, refs, content };
        self.put(schema::blob_key(id), schema::encode_blob(&blob)).await
    }

    /// The last commit of a load of an instance: its users take the place of the one there was.
    async fn win_instance(&mut self) -> Result<()> {
        if !self.has_admin {
            return Err(Error::invalid("the dump has no administrator: nobody could use it"));
        }
        let larder = self.larder.clone();
        let (user, name) = (self.caller.user, self.caller.name.to_string());
        transact!(larder, None, |txn| {
            self.caller.hold(&mut txn);
            let key = schema::load_key(WHOLE_LOAD);
            let state = txn.get::<LoadState>(&key).await?;
            let state = state.ok_or_else(|| Error::internal("a load without its record"))?;
            txn.hold(key.clone(), state.version);
            txn.delete(key);
            txn.delete(schema::user_key(user));
            match &self.same_name {
                Some(record) => txn.spec.put.push(record.clone()),
                None => txn.delete(schema::user_name_key(&name)),
            }
        });
        larder.inner.homes().clear();
        larder.inner.loading.store(false, Ordering::Release);
        Ok(())
    }

    /// The last commit of a load of one space; answers whether its owner is another.
    async fn win_space(&mut self, id: SpaceId) -> Result<bool> {
        let space = self.space.take().filter(|space| space.state == SpaceState::Enabled);
        let space = space.ok_or_else(|| Error::invalid("the dump has no record of its space"))?;
        let load = self.active()?.load;
        let larder = self.larder.clone();
        let (replaced, _) = transact!(larder, id, |txn| {
            self.caller.hold(&mut txn);
            let mut space = space.clone();
            let owner = txn.get::<User>(&schema::user_key(space.owner)).await?;
            let replaced = owner.is_none();
            if let Some(owner) = owner {
                txn.hold(schema::user_key(space.owner), owner.version);
            } else {
                space.owner = self.caller.user;
            }
            if space.kind == SpaceKind::Home {
                // A home belongs to one user, who has one. Else it is a space like any other.
                let home = schema::home_key(space.owner);
                if replaced || txn.snapshot.get(&home).await?.is_some() {
                    space.kind = SpaceKind::Project;
                } else {
                    txn.hold_absent(home.clone());
                    txn.put(home, &id);
                }
            }
            require_free(&mut txn, id, &space.name).await?;
            txn.put(schema::space_name_key(&space.name), &id);
            txn.put(schema::space_key(id), &space);
            txn.spec.put.push(self.feed_base(id).await?);
            let key = schema::load_key(load);
            let state = txn.get::<LoadState>(&key).await?;
            let Stored { value: state, version } =
                state.ok_or_else(|| Error::internal("a load without its record"))?;
            txn.hold(key.clone(), version);
            txn.put(key, &LoadState { won: true, ..state });
            replaced
        });
        // The space is there. What was put off is written by whoever comes first to it.
        let settled = larder.settle_load(load).await;
        settled.map_err(Error::of_unknown_outcome)?;
        Ok(replaced)
    }
}

/// Demands that neither the id nor the name of a space is taken.
async fn require_free(txn: &mut Txn, id: SpaceId, name: &str) -> Result<()> {
    let (key, name_key) = (schema::space_key(id), schema::space_name_key(name));
    if txn.snapshot.get(&key).await?.is_some() {
        let detail = "this space is here already, or is still being removed: delete it first";
        return Err(Error::new(ErrorKind::Conflict, detail).with_existing(id));
    }
    if txn.snapshot.get(&name_key).await?.is_some() {
        let detail = format!("another space has the name `{name}`: rename that one first");
        return Err(Error::new(ErrorKind::Conflict, detail));
    }
    txn.hold_absent(key);
    txn.hold_absent(name_key);
    Ok(())
}

fn not_empty() -> Error {
    let detail = "a whole dump is loaded only into an instance without spaces, and without users, \
                  keys, groups and shares but its root user: start a server on an empty directory";
    Error::new(ErrorKind::Conflict, detail)
}

fn stopped(error: tokio::task::JoinError) -> Error {
    Error::internal("a part of the load stopped").with_source(error)
}
