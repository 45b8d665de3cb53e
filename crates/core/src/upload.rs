//! Uploads: bytes first, then one commit that makes them a revision.
//!
//! Promises (docs/semantics.md, Upload): I-UPL-1 a body that is cut off, too long, too short or has
//! a wrong digest has no effect; I-UPL-2 of k unconditional uploads to one path each is kept as a
//! revision of one node, in commit order; I-UPL-3 of k conditional ones at most one wins: the
//! conditions are judged on the state that the commit replaces.
//!
//! Order: chunk syncs, then the commit's sync, then the answer. No lock is held while bytes move.
//! Crash: before the commit nothing is visible, and the chunks are collected; after it, all is.
//! Cancel: dropping an [`Upload`] aborts it. [`Upload::commit`] of an upload with chunks goes on
//! in a task of its own when it is dropped, so that their fate is always decided by the commit.
//!
//! Not here: resumable sessions (`session`), which end in the same commit.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use larder_base::{
    ErrorKind, Outcome,
    id::{NodeId, SpaceId},
    name::{EntryName, TreePath},
};
use larder_chunk::placement::Placement;

use crate::{
    Larder,
    access::Right,
    blob::{
        References,
        write::{BlobWriter, Finished},
    },
    caller::Caller,
    entry::{Conditions, Entry, SpaceRef, UploadOptions, Written},
    error::{Error, Redirect, Result},
    expiry,
    feed::{ChangeKind, Happened},
    idempotency::{self, KeptEntry},
    object::{ObjectInfo, Retention, Versioning},
    quota::{self, Reservation, delta},
    room::{Located, Room},
    schema::{
        self, Blob, BlobState, Content, Dirent, DirentBody, FileState, Location, Origin, Place,
        Space, VersionMark,
    },
    tree::{
        create::{OpenPlace, free_name, no_parent, open_parent},
        lookup::{self, Found},
    },
    txn::{Stored, Txn, transact},
    version::{self, Replaced, supersede},
};

/// MIME type of content that came without one.
const CONTENT_TYPE_DEFAULT: &str = "application/octet-stream";

/// How often a running upload looks whether it is still allowed.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Longest MIME type, in bytes.
const CONTENT_TYPE_BYTES_MAX: usize = 255;

/// A file on its way in.
#[derive(Debug)]
pub struct Upload {
    larder: Larder,
    place: Destination,
    options: UploadOptions,
    /// The path that the request named, before any reference.
    asked: TreePath,
    content_type: Arc<str>,
    info: Option<Arc<ObjectInfo>>,
    retention: (Option<Retention>, bool),
    writer: BlobWriter,
    reservation: Option<Reservation>,
    /// Size of the file that is replaced, as it was at the start.
    replaces_bytes: u64,
    /// When the right to it was looked at last, by the monotonic clock.
    looked: Duration,
}

/// Where an upload goes.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    pub(crate) caller: Caller,
    pub(crate) at: Located,
    pub(crate) path: TreePath,
    /// The parent that the path named when a large upload began; a small one resolves its path
    /// at the commit, which is the same moment.
    pub(crate) parent: Option<NodeId>,
}

impl Larder {
    /// Begins an upload to a path; its commit makes the file, or a revision of it.
    ///
    /// Errors, here or at the commit: `NotFound` for the space, `Conflict` if the directory that
    /// it should go into is missing, `WrongType` if a
    /// directory has the name, `Precondition`, `QuotaExceeded`, `DiskFull`, `Denied`.
    pub async fn open_upload(
        &self,
        caller: &Caller,
        space: &SpaceRef,
        path: &TreePath,
        options: UploadOptions,
    ) -> Result<Upload> {
        let at = self.locate(caller, space).await?;
        if path.is_root() && at.base.is_none() {
            return Err(Error::new(ErrorKind::WrongType, "the root is a directory"));
        }
        let mut place =
            Destination { caller: caller.clone(), at, path: path.clone(), parent: None };
        let content_type = content_type(options.content_type.as_deref())?;
        // A small body is here before a refusal could save anything.
        let inline_max = self.inner.inline_bytes_max as u64;
        let small = options.length.is_some_and(|length| length <= inline_max);
        // What has been done before is not done again: only the digest of the body is wanted.
        let repeated = idempotency::is_repeated();
        if !repeated {
            expiry::check(options.expires, self.inner.env.now())?;
        }
        let opened = if small || repeated {
            Opened { placement: Placement::SINGLE, reservation: None, replaces_bytes: 0 }
        } else {
            match self.open_large(&mut place, &options).await {
                Ok(opened) => opened,
                Err(error) => {
                    place.redirect(error)?;
                    Box::pin(self.open_large(&mut place, &options)).await?
                }
            }
        };
        let writer = if repeated {
            BlobWriter::digest_only(self)
        } else {
            let mut writer = BlobWriter::new(self, opened.placement, options.length);
            writer.on_behalf_of(caller.client())?;
            writer
        };
        Ok(Upload {
            larder: self.clone(),
            writer,
            content_type,
            info: None,
            retention: (None, false),
            reservation: opened.reservation,
            replaces_bytes: opened.replaces_bytes,
            options,
            asked: path.clone(),
            place,
            looked: self.inner.env.monotonic(),
        })
    }

    /// Looks whether a large upload may begin, and reserves what it needs.
    async fn open_large(&self, place: &mut Destination, options: &UploadOptions) -> Result<Opened> {
        let id = place.at.space;
        let (room, found, current) = self.look(place, options).await?;
        check_conditions(&options.conditions, current.as_ref())?;
        if found.place.missing.is_empty() {
            place.parent = Some(found.place.chain.dir());
        }
        let replaces_bytes = current.map_or(0, |(_, state)| state.value.size);
        let more = options.length.unwrap_or(0).saturating_sub(replaces_bytes);
        let reservation = Some(self.reserve(id, &room, more).await?);
        Ok(Opened { placement: room.policy.placement, reservation, replaces_bytes })
    }

    /// The destination of an upload as it is now, if the caller may still upload there.
    async fn look(
        &self,
        place: &Destination,
        options: &UploadOptions,
    ) -> Result<(Room, OpenFile, Option<(NodeId, Stored<FileState>)>)> {
        let txn = Txn::new(self.inner.meta.snapshot().await?, self.inner.env.now());
        let at = place.at.clone();
        let room = self.open_room(&*txn.snapshot, &place.caller, at, Right::Create).await?;
        let mut found = self.open_place(&txn, place, &room, options.parents).await?;
        let current = current_file(&txn, &room, &mut found).await?;
        found.place.chain.require()?;
        Ok((room, found, current))
    }

    /// Where an upload to this path goes, before anything was looked at.
    pub(crate) async fn aim(
        &self,
        caller: &Caller,
        space: &SpaceRef,
        path: &TreePath,
    ) -> Result<Destination> {
        let at = self.locate(caller, space).await?;
        Ok(Destination { caller: caller.clone(), at, path: path.clone(), parent: None })
    }

    /// Binds a destination to the directory that its path names now, behind any reference;
    /// answers the size of the file that is there. Errors: those of [`Self::open_upload`].
    pub(crate) async fn bind(
        &self,
        place: &mut Destination,
        options: &UploadOptions,
    ) -> Result<u64> {
        if place.path.is_root() && place.at.base.is_none() {
            return Err(Error::new(ErrorKind::WrongType, "the root is a directory"));
        }
        let (_, found, current) = match self.look(place, options).await {
            Ok(found) => found,
            Err(error) => {
                place.redirect(error)?;
                self.look(place, options).await?
            }
        };
        check_conditions(&options.conditions, current.as_ref())?;
        if found.place.missing.is_empty() {
            place.parent = Some(found.place.chain.dir());
        }
        Ok(current.map_or(0, |(_, state)| state.value.size))
    }

    /// How the bytes of an upload to a bound destination are placed, if the caller may still
    /// upload there.
    pub(crate) async fn placement_of(
        &self,
        place: &Destination,
        options: &UploadOptions,
    ) -> Result<Placement> {
        Ok(self.look(place, options).await?.0.policy.placement)
    }

    /// Older revisions that a file of this space keeps; `None` is all.
    pub(crate) fn versions_keep(&self, space: &Space) -> Option<u32> {
        space.policy.versions_keep.or(self.inner.config.revisions_keep)
    }

    /// The place that an upload goes to, as a snapshot has it.
    async fn open_place(
        &self,
        txn: &Txn,
        place: &Destination,
        room: &Room,
        parents: bool,
    ) -> Result<OpenFile> {
        let names = room.names(&place.path)?;
        let Some((name, above)) = names.split_last() else {
            // Paths begin at a file.
            let base = room.at.base.ok_or_else(|| Error::internal("an upload to a root"))?;
            let found = lookup::find_node(&*txn.snapshot, room, base).await?;
            let directory = || Error::new(ErrorKind::WrongType, "it is a directory");
            let Found { parent: chain, name, .. } = found.ok_or_else(directory)?;
            return Ok(OpenFile { place: OpenPlace { chain, missing: Vec::new() }, name });
        };
        let name = name.clone();
        if let Some(parent) = place.parent {
            let chain = lookup::chain_of(&*txn.snapshot, room, parent).await;
            let chain = chain.map_err(|error| match error.kind() {
                ErrorKind::NotFound => no_parent(&place.path.to_string()),
                _ => error,
            })?;
            return Ok(OpenFile { place: OpenPlace { chain, missing: Vec::new() }, name });
        }
        let place = open_parent(&*txn.snapshot, room, above, parents).await;
        Ok(OpenFile { place: place.map_err(|error| error.below(&name))?, name })
    }
}

/// What is known of a large upload when it begins.
struct Opened {
    placement: Placement,
    reservation: Option<Reservation>,
    /// Size of the file that is replaced.
    replaces_bytes: u64,
}

/// A place that a file goes to, and its name there.
struct OpenFile {
    place: OpenPlace,
    name: EntryName,
}

impl Destination {
    /// Goes on behind the reference that an attempt met; any other error stays one.
    fn redirect(&mut self, error: Error) -> Result<()> {
        let Redirect { space, node, rest, shown } = error.into_redirect()?;
        self.at = Located { space, base: Some(node), shown };
        self.path = TreePath::of_entry(rest);
        self.parent = None;
        Ok(())
    }
}

impl Upload {
    /// Says what else is to be kept with the revision; at any time before the commit.
    pub fn describe(&mut self, info: ObjectInfo) {
        self.info = Some(Arc::new(info));
    }

    /// Keeps the version from being destroyed, in a bucket with object lock; at any time before
    /// the commit.
    pub fn retain(&mut self, retention: Option<Retention>, hold: bool) {
        self.retention = (retention, hold);
    }

    /// Takes the next bytes of the body. After an error the upload can only be dropped.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let size = self.writer.size() + bytes.len() as u64;
        self.look_again().await?;
        match self.options.length {
            Some(length) if size > length => {
                let detail = format!("the body is longer than the {length} bytes declared");
                return Err(Error::invalid(detail));
            }
            Some(_) => {}
            None => {
                // Unknown length: reserve as the bytes come (hazard Q02).
                if let Some(reservation) = &mut self.reservation {
                    let more = size
                        .saturating_sub(self.replaces_bytes)
                        .saturating_sub(reservation.bytes());
                    self.larder.extend_reservation(reservation, more).await?;
                }
            }
        }
        self.writer.write(bytes).await
    }

    /// The client has sent nothing for `still`: gives back the memory that can be given back. To
    /// be called each second or so. `Busy` if the upload is given up because memory is short.
    pub async fn pause(&mut self, still: Duration) -> Result<()> {
        self.look_again().await?;
        self.writer.pause(still).await
    }

    /// Ends an upload whose caller has lost the right to it, within a second (hazard R12).
    async fn look_again(&mut self) -> Result<()> {
        let now = self.larder.inner.env.monotonic();
        if now.saturating_sub(self.looked) < LOOK_INTERVAL {
            return Ok(());
        }
        self.looked = now;
        self.larder.check_login(&self.place.caller).await?;
        match self.larder.look(&self.place, &self.options).await {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Denied) => {
                Err(error)
            }
            // What else may have come between is for the commit to judge.
            _ => Ok(()),
        }
    }

    /// Makes the bytes a revision, durably.
    pub async fn commit(self) -> Result<Written> {
        let Self { larder, place, asked, options, content_type, info, retention, writer, .. } =
            self;
        let reservation = self.reservation;
        let result = async {
            if options.length.is_some_and(|length| length != writer.size()) {
                let detail = format!(
                    "the body has {} bytes, not the {} declared",
                    writer.size(),
                    options.length.unwrap_or(0)
                );
                return Err(Error::invalid(detail));
            }
            let finished = writer.finish().await?;
            let digest = finished.sha256.ok_or_else(|| Error::internal("a body without digest"))?;
            // The form of a request may change from one time to the next, the file may not.
            let named = [asked.to_string().as_bytes(), &digest.0].concat();
            idempotency::note_body(&named)?;
            if let Some((entry, created)) = idempotency::entry_before()? {
                let (durability, version) = ((1, 1), None);
                return Ok(Written { entry, created, durability, version });
            }
            let carrier = None;
            let commit = Commit {
                place,
                options,
                content_type,
                info,
                finished,
                retention,
                source: None,
                reservation,
                carrier,
            };
            if commit.finished.staged.is_none() {
                return commit.run(&larder).await;
            }
            let owned = larder.clone();
            let commit = idempotency::carried(async move { commit.run(&owned).await });
            let task = larder.inner.env.spawn("commit upload", commit);
            task.await.map_err(|error| {
                Error::internal("the commit stopped").with_source(error).of_unknown_outcome()
            })?
        }
        .await;
        let metrics = &larder.inner.metrics;
        match &result {
            Ok(written) => {
                metrics.uploads.add(1);
                metrics.uploaded_bytes.add(written.entry.size);
            }
            Err(_) => metrics.uploads_refused.add(1),
        }
        result
    }
}

/// A body that waits for its commit.
pub(crate) struct Commit {
    pub(crate) place: Destination,
    pub(crate) options: UploadOptions,
    pub(crate) content_type: Arc<str>,
    pub(crate) info: Option<Arc<ObjectInfo>>,
    pub(crate) finished: Finished,
    /// Retention and legal hold of the new version.
    pub(crate) retention: (Option<Retention>, bool),
    /// What it is a copy of: then the content is only another reference to that.
    pub(crate) source: Option<Box<dyn Source>>,
    pub(crate) reservation: Option<Reservation>,
    /// What brought the body, if that was no single request.
    pub(crate) carrier: Option<Box<dyn Carrier>>,
}

/// What brought a body in more than one request; it ends in the commit that makes the body a
/// revision.
pub(crate) trait Carrier: fmt::Debug + Send + Sync {
    /// Bytes that it has reserved in this space, and that count no more with the commit.
    fn reserved_in(&self, space: SpaceId) -> u64;

    /// Ends it in the transaction that makes the revision.
    fn end<'a>(
        &'a self,
        larder: &'a Larder,
        txn: &'a mut Txn,
        written: &'a Written,
    ) -> BoxFuture<'a, Result<()>>;
}

/// What a copy is a copy of, looked at anew by each attempt to commit it.
pub(crate) trait Source: fmt::Debug + Send + Sync {
    /// What it is in the snapshot of the transaction, which holds the right to read it.
    fn read<'a>(&'a self, larder: &'a Larder, txn: &'a mut Txn) -> BoxFuture<'a, Result<Copied>>;
}

/// What a source is at one moment, as the copy will have it.
pub(crate) struct Copied {
    /// A blob that is there already.
    pub(crate) finished: Finished,
    pub(crate) content_type: Arc<str>,
    pub(crate) info: Option<Arc<ObjectInfo>>,
}

impl Commit {
    pub(crate) async fn run(mut self, larder: &Larder) -> Result<Written> {
        let mut result = self.attempt(larder).await;
        if let Err(error) = result {
            result = match self.place.redirect(error) {
                Ok(()) => Box::pin(self.attempt(larder)).await,
                Err(error) => Err(error),
            };
        }
        let Some(mut staged) = self.finished.staged.take() else { return result };
        match &result {
            Ok(_) => staged.leaks = false,
            Err(error) if error.outcome() == Outcome::NotApplied => {
                if let Content::Chunks(chunks) = &self.finished.content {
                    staged.leaks = !discard(larder, chunks).await;
                }
            }
            // The record will say, once it can be read; until then nothing is destroyed.
            Err(_) => {}
        }
        result
    }

    async fn attempt(&mut self, larder: &Larder) -> Result<Written> {
        if let Some(declared) = self.options.sha256
            && Some(declared) != self.finished.sha256
        {
            return Err(Error::invalid("the body does not have the digest declared"));
        }
        let id = self.place.at.space;
        let (written, _) = transact!(larder, id, |txn| {
            txn.reservation = self.reservation.take().or(txn.reservation);
            if let Some(source) = &self.source {
                let Copied { finished, content_type, info } = source.read(larder, &mut txn).await?;
                (self.finished, self.content_type, self.info) = (finished, content_type, info);
            }
            let caller = &self.place.caller;
            let at = self.place.at.clone();
            let space = larder.enter_room(&mut txn, caller, at, Right::Create).await?;
            let parents = self.options.parents;
            let mut file = larder.open_place(&txn, &self.place, &space, parents).await?;
            let current = current_file(&txn, &space, &mut file).await?;
            let OpenFile { place, name } = file;
            check_conditions(&self.options.conditions, current.as_ref())?;
            if space.limits.live.is_some() {
                let replaced = current.as_ref().map_or(0, |(_, state)| state.value.size);
                let carrier = self.carrier.as_ref();
                let reserved = carrier.map_or(0, |carrier| carrier.reserved_in(id));
                let more = self.finished.size.saturating_sub(replaced).saturating_sub(reserved);
                larder.promise(&mut txn, id, &space, more).await?;
            }
            let versions = space.versioning() != Versioning::Off;
            let mut written = match current {
                _ if versions => self.add_version(larder, &mut txn, &space, &place, &name).await?,
                Some((node, state)) => {
                    place.chain.hold(&mut txn).await?;
                    let file = Replaced {
                        chain: &place.chain,
                        name: &name,
                        node,
                        version: state.version,
                        keep: larder.versions_keep(&space),
                    };
                    self.overwrite(&mut txn, &space, &file, &state.value).await?
                }
                None => self.create(larder, &mut txn, &space, &place, &name).await?,
            };
            if let Some(at) = self.options.expires {
                let entry = &mut written.entry;
                expiry::set(&mut txn, id, entry.id, entry.revision, at).await?;
                entry.expires = Some(at);
            }
            if let Some(carrier) = &self.carrier {
                carrier.end(larder, &mut txn, &written).await?;
            }
            txn.outcome(&KeptEntry::of(&written.entry, written.created));
            written
        });
        Ok(written)
    }

    /// The blob record of this body with its first reference, or one more of what is copied.
    fn put_blob(&self, txn: &mut Txn, references: &mut References) {
        if self.source.is_some() {
            return references.retain(self.finished.id);
        }
        let Finished { id, size, content, .. } = &self.finished;
        let key = schema::blob_key(*id);
        let blob =
            Blob { state: BlobState::Committed, size: *size, refs: 1, content: content.clone() };
        txn.put_blob(key, &blob);
    }

    fn state(&self, txn: &Txn) -> FileState {
        FileState {
            revision: 1,
            size: self.finished.size,
            blob: self.finished.id,
            sha256: self.finished.sha256,
            content_type: Arc::clone(&self.content_type),
            modified: txn.now,
            author: Arc::clone(&self.place.caller.name),
            origin: if self.source.is_some() { Origin::Copy } else { Origin::Upload },
            older: 0,
            older_bytes: 0,
            object: self.info.clone(),
            version: None,
        }
    }

    async fn create(
        &self,
        larder: &Larder,
        txn: &mut Txn,
        space: &Space,
        place: &OpenPlace,
        name: &EntryName,
    ) -> Result<Written> {
        let state = self.state(txn);
        let made = larder.make_missing(txn, place).await?;
        let id = place.chain.space;
        for dir in &made {
            add_file_stat(txn, id, *dir, state.size);
        }
        let parent = made.last().copied().unwrap_or(place.chain.dir());
        let node = NodeId::new(&larder.inner.env);
        place.chain.add(txn, delta(state.size), 1, 0);
        quota::charge(txn, id, space.limits.live, delta(state.size), 0);
        put_new_file(txn, id, parent, name, node, &state);
        let names = [place.chain.path(), &place.missing, std::slice::from_ref(name)].concat();
        let dirent = Dirent { node, body: DirentBody::File(state.clone()) };
        txn.change(id, Happened::to(&dirent, ChangeKind::Created, &TreePath::of_entry(names)));
        let mut references = References::default();
        self.put_blob(txn, &mut references);
        references.apply(txn).await?;
        Ok(self.written(&place_path(place, name), node, &state, true))
    }

    /// Adds a version to an object of a bucket that keeps them.
    async fn add_version(
        &self,
        larder: &Larder,
        txn: &mut Txn,
        space: &Space,
        place: &OpenPlace,
        name: &EntryName,
    ) -> Result<Written> {
        place.chain.hold(txn).await?;
        let spot = version::Spot { space, chain: &place.chain, name };
        let before = spot.find(txn).await?;
        let node = before.as_ref().map_or_else(|| NodeId::new(&larder.inner.env), |one| one.node);
        let mut references = References::default();
        let state = FileState { version: self.lock(txn, space), ..self.state(txn) };
        let state = spot.push(txn, before.as_ref(), node, state, &mut references).await?;
        self.put_blob(txn, &mut references);
        references.apply(txn).await?;
        let created = before.is_none_or(|object| object.state.is_marker());
        Ok(self.written(&place_path(place, name), node, &state, created))
    }

    /// How long a new version is kept from being destroyed.
    fn lock(&self, txn: &Txn, space: &Space) -> Option<VersionMark> {
        let rules = space.bucket?.lock?;
        let (retention, hold) = self.retention;
        let by_default = rules.default.map(|(mode, days)| {
            let until = txn.now.after(DAY.saturating_mul(days));
            Retention { mode, until }
        });
        let retention = retention.or(by_default);
        Some(VersionMark { retention, hold, ..VersionMark::default() })
    }

    async fn overwrite(
        &self,
        txn: &mut Txn,
        space: &Space,
        file: &Replaced<'_>,
        current: &FileState,
    ) -> Result<Written> {
        let mut references = References::default();
        let state = self.state(txn);
        let state = supersede(txn, space, file, current, state, &mut references).await?;
        self.put_blob(txn, &mut references);
        references.apply(txn).await?;
        Ok(self.written(&file.chain.join(file.name), file.node, &state, false))
    }

    fn written(&self, path: &TreePath, node: NodeId, state: &FileState, created: bool) -> Written {
        let entry: Entry = lookup::file_entry(self.place.at.space, path.clone(), node, state);
        let version = state.version.map(|_| state.version_id(node));
        Written { entry, created, durability: (1, 1), version }
    }
}

/// The path of a name in a place whose missing directories have been made.
fn place_path(place: &OpenPlace, name: &EntryName) -> TreePath {
    let below = [&place.missing[..], std::slice::from_ref(name)].concat();
    place.chain.shown_path(&below)
}

/// Deletes chunks that a refused commit has left; answers whether all of them are gone.
async fn discard(larder: &Larder, chunks: &[schema::ChunkRef]) -> bool {
    let mut gone = true;
    for chunk in chunks {
        let deleted = match larder.inner.stores.holding(chunk) {
            Ok(store) => store.delete(chunk.id).await.is_ok(),
            Err(_) => false,
        };
        gone &= deleted;
    }
    gone
}

/// Counts a new file in a directory that the same transaction makes.
fn add_file_stat(txn: &mut Txn, space: SpaceId, dir: NodeId, size: u64) {
    use larder_meta::FieldOp;
    let fields =
        [FieldOp::Add(delta(size)), FieldOp::Add(1), FieldOp::Keep, FieldOp::Max(txn.now.millis())];
    txn.add(schema::stat_key(space, dir), fields);
}

/// Writes the records of a new file, its blob excepted; the name must be free.
pub(crate) fn put_new_file(
    txn: &mut Txn,
    space: SpaceId,
    parent: NodeId,
    name: &EntryName,
    node: NodeId,
    state: &FileState,
) {
    let key = schema::dirent_key(space, parent, name);
    txn.hold_absent(key.clone());
    txn.put(key, &Dirent { node, body: DirentBody::File(state.clone()) });
    let place = Place::File(parent, name.clone());
    txn.put(schema::location_key(node), &Location { space, place });
}

/// The file that stands there, if there is one; to replace it takes more than to add one. A
/// directory there is an error.
async fn current_file(
    txn: &Txn,
    room: &Room,
    file: &mut OpenFile,
) -> Result<Option<(NodeId, Stored<FileState>)>> {
    let OpenFile { place, name } = file;
    if !place.missing.is_empty() {
        return Ok(None);
    }
    match lookup::child(&*txn.snapshot, &place.chain, name).await? {
        None => Ok(None),
        Some(Stored { value, version }) => match value.body {
            // Who may only add takes a free name, and learns nothing of what is there.
            _ if place.chain.cover.is_for_adding() => {
                *name = free_name(txn, &place.chain, name, true).await?;
                Ok(None)
            }
            DirentBody::File(state) => {
                place.chain.extend(room, value.node, Right::Write);
                place.chain.require()?;
                Ok(Some((value.node, Stored { value: state, version })))
            }
            DirentBody::Ref(to) => {
                Err(place.chain.hide(lookup::leave(room, &place.chain, name, to, &[])))
            }
            DirentBody::Dir => {
                let detail = format!("`{name}` is a directory");
                let error = Error::new(ErrorKind::WrongType, detail);
                Err(place.chain.hide(error.with_existing(value.node)))
            }
        },
    }
}

/// Judges conditions on the file that a commit is about to replace.
fn check_conditions(
    conditions: &Conditions,
    current: Option<&(NodeId, Stored<FileState>)>,
) -> Result<()> {
    if conditions.is_empty() {
        return Ok(());
    }
    conditions.check_file(current.map(|(node, state)| (*node, &state.value)))
}

/// A MIME type as it is stored: checked for what a header may carry.
pub(crate) fn content_type(text: Option<&str>) -> Result<Arc<str>> {
    let text = text.unwrap_or(CONTENT_TYPE_DEFAULT);
    let plain = text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if text.is_empty() || text.len() > CONTENT_TYPE_BYTES_MAX || !plain {
        return Err(Error::invalid("the content type is not one"));
    }
    Ok(text.into())
}
