//! The checker: re-proves every invariant from the stored records, while the system runs.
//!
//! It looks at one snapshot, so what it reports is a state that really was. Chunks are looked at
//! after it; a chunk that is missing is reported only if its blob is still committed then.
//!
//! What is proved, by the letters of the semantics: T1 to T4 every node has the one entry that
//! agrees with it, chains end, parents are directories; M2 statistics equal the sums over the
//! entries; F1 revisions are below the current one and tallied; Q1 both meters equal what is
//! there; B1 to B3 references are counted, chunks are there and belong to someone; I1 to I3 users,
//! groups and credentials agree with their indexes (`identity::audit`).
//!
//! Memory: a page of records, and the reference counts of one slice of all blobs at a time.
//!
//! Not here: repair.

use std::collections::BTreeMap;

use bytes::Bytes;
use larder_base::id::{BlobId, Incarnation, NodeId, SpaceId};
use larder_meta::Snapshot;

use crate::{
    Larder,
    access::require_admin,
    caller::Caller,
    error::Result,
    report::{CheckCounts, CheckReport, Finding},
    schema::{
        self, Authority, Blob, BlobState, Content, DirState, Dirent, DirentBody, FileState, LoadOf,
        LoadState, Location, NO_BLOB, Place, QUOTA_LIVE, QUOTA_RESERVED, QUOTA_RETAINED, Space,
        Trashed, TrashedBody,
    },
    session::SessionSums,
    txn::{self, Pages},
    work::Class,
};

/// Records read at once.
const PAGE: usize = 1000;

/// Blobs read at once: they bring their inline bytes.
const BLOBS_PAGE: usize = 64;

/// Blobs whose references are counted in one pass: 16 MiB of counts at most.
const SLICE: u64 = 400_000;

impl Larder {
    /// Re-proves every invariant. Administrators only.
    pub async fn check(&self, caller: &Caller) -> Result<CheckReport> {
        require_admin(caller)?;
        let _turn = self.admit(caller, Class::Check).await?;
        let snapshot = self.inner.meta.snapshot().await?;
        self.check_in(&*snapshot).await
    }

    /// Re-proves every invariant of one state.
    pub(crate) async fn check_in(&self, snapshot: &dyn Snapshot) -> Result<CheckReport> {
        self.inner.require_loaded()?;
        let loads = loads(snapshot).await?;
        let sessions = self.check_sessions(snapshot).await?;
        let report = CheckReport::default();
        let mut check = Check { larder: self, snapshot, loads, sessions, report };
        for (invariant, detail) in std::mem::take(&mut check.sessions.findings) {
            check.violated(invariant, detail);
        }
        check.spaces().await?;
        check.locations().await?;
        check.blobs().await?;
        check.orphans().await?;
        let mut report = |rule, detail| check.violated(rule, detail);
        crate::identity::audit::audit(snapshot, &mut report).await?;
        Ok(check.report)
    }
}

struct Check<'a> {
    larder: &'a Larder,
    snapshot: &'a dyn Snapshot,
    /// What is being loaded is nothing whole yet, and seen by nobody.
    loads: Vec<LoadState>,
    sessions: SessionSums,
    report: CheckReport,
}

/// The loads of dumps that have not won.
async fn loads(snapshot: &dyn Snapshot) -> Result<Vec<LoadState>> {
    let mut loads = Vec::new();
    for (key, record) in txn::page(snapshot, &schema::loads_prefix(), None, PAGE).await? {
        let load: LoadState = schema::decode(&key, &record.value)?;
        if !load.won {
            loads.push(load);
        }
    }
    Ok(loads)
}

/// Bytes of a space, added up.
#[derive(Default)]
struct Sums {
    live: i64,
    retained: i64,
}

impl Check<'_> {
    fn counts(&mut self) -> &mut CheckCounts {
        &mut self.report.counts
    }

    fn violated(&mut self, invariant: &'static str, detail: String) {
        self.report.violations += 1;
        if self.report.findings.len() < CheckReport::FINDINGS_MAX {
            self.report.findings.push(Finding { invariant, detail });
        }
    }

    async fn spaces(&mut self) -> Result<()> {
        let mut pages = Pages::of(schema::spaces_prefix(), PAGE);
        while let Some(page) = pages.next(self.snapshot).await? {
            for (key, record) in page {
                let id = SpaceId::from_bytes(schema::trailing_id(&key)?);
                let space: Space = schema::decode(&key, &record.value)?;
                self.counts().spaces += 1;
                self.space(id, &space).await?;
            }
        }
        Ok(())
    }

    async fn space(&mut self, id: SpaceId, space: &Space) -> Result<()> {
        let mut sums = Sums::default();
        self.directories(id, space).await?;
        self.trash(id, &mut sums).await?;
        self.revisions(id, &mut sums).await?;
        let root = schema::stat_key(id, space.root);
        let (stat, _) = txn::counters(self.snapshot, &root).await?;
        sums.live = stat[schema::STAT_SIZE];
        if space.state == schema::SpaceState::Purging {
            return Ok(());
        }
        let (meters, _) = txn::counters(self.snapshot, &schema::quota_key(id)).await?;
        let (live, retained) = (meters[QUOTA_LIVE], meters[QUOTA_RETAINED]);
        let promised = self.sessions.reserved.get(&id).copied().unwrap_or(0);
        let reserved = meters[QUOTA_RESERVED];
        if reserved != promised {
            let detail = format!("space {id}: reserved is {reserved}, uploads have {promised}");
            self.violated("Q4", detail);
        }
        if live != sums.live {
            self.violated("Q1", format!("space {id}: live is {live}, files have {}", sums.live));
        }
        if retained != sums.retained {
            let is = sums.retained;
            self.violated("Q1", format!("space {id}: retained is {retained}, there are {is}"));
        }
        Ok(())
    }

    /// Every directory: its chain ends, its entry agrees, its statistics are the sums.
    async fn directories(&mut self, id: SpaceId, space: &Space) -> Result<()> {
        let mut pages = Pages::of(schema::authority_prefix(id), PAGE);
        while let Some(page) = pages.next(self.snapshot).await? {
            for (key, record) in page {
                let dir = NodeId::from_bytes(schema::trailing_id(&key)?);
                let authority: Authority = schema::decode(&key, &record.value)?;
                self.counts().directories += 1;
                self.place_of_directory(id, space, dir, &authority).await?;
                self.chain(id, space, dir).await?;
                self.entries(id, dir).await?;
            }
        }
        Ok(())
    }

    async fn place_of_directory(
        &mut self,
        id: SpaceId,
        space: &Space,
        dir: NodeId,
        authority: &Authority,
    ) -> Result<()> {
        let location = schema::location_key(dir);
        match txn::get::<Location>(self.snapshot, &location).await? {
            Some(found) if found.value.space == id && matches!(found.value.place, Place::Dir) => {}
            _ => self.violated("T1", format!("directory {dir} is not found by its id")),
        }
        match (&authority.state, &authority.place) {
            (DirState::Live, Some((parent, name))) => {
                let key = schema::dirent_key(id, *parent, name);
                match txn::get::<Dirent>(self.snapshot, &key).await? {
                    Some(dirent) if dirent.value.node == dir => {}
                    _ => self.violated("T1", format!("directory {dir} has no entry `{name}`")),
                }
            }
            (DirState::Live, None) if dir == space.root => {}
            (DirState::Live, None) => {
                self.violated("T2", format!("directory {dir} is a second root of {id}"));
            }
            (DirState::Trash(item), _) => {
                let key = schema::trash_key(id, *item);
                match txn::get::<Trashed>(self.snapshot, &key).await? {
                    Some(trashed) if trashed.value.node == dir => {}
                    _ => self.violated("T1", format!("trashed directory {dir} has no item")),
                }
            }
            (DirState::Staging, _) => {}
        }
        Ok(())
    }

    /// Whether the chain of parents ends, at the root or at a trash-root.
    async fn chain(&mut self, id: SpaceId, space: &Space, dir: NodeId) -> Result<()> {
        let mut node = dir;
        for _ in 0..=larder_base::limits::PATH_DEPTH_MAX {
            let key = schema::authority_key(id, node);
            let Some(authority) = txn::get::<Authority>(self.snapshot, &key).await? else {
                self.violated("T2", format!("parent {node} above {dir} is not there"));
                return Ok(());
            };
            match (authority.value.state, authority.value.place) {
                (DirState::Live, Some((parent, _))) => node = parent,
                (DirState::Live, None) if node != space.root => {
                    self.violated("T2", format!("chain of {dir} ends at {node}, no root"));
                    return Ok(());
                }
                _ => return Ok(()),
            }
        }
        self.violated("T2", format!("chain of {dir} does not end"));
        Ok(())
    }

    /// Entries of one directory: each node agrees, and their sums are its statistics.
    async fn entries(&mut self, id: SpaceId, dir: NodeId) -> Result<()> {
        let (mut size, mut files, mut dirs) = (0, 0, 0);
        let (heights, _) = txn::counters(self.snapshot, &schema::height_key(id, dir)).await?;
        let mut pages = Pages::of(schema::dirents_prefix(id, dir), PAGE);
        while let Some(page) = pages.next(self.snapshot).await? {
            for (key, record) in page {
                let name = schema::dirent_name(&key)?;
                let dirent: Dirent = schema::decode(&key, &record.value)?;
                match &dirent.body {
                    DirentBody::File(state) => {
                        self.file(id, dirent.node, state).await?;
                        let own = (dir, name.clone());
                        if state.is_marker() {
                            self.placed(dirent.node, Place::Marked(own.0, own.1)).await?;
                            continue;
                        }
                        self.placed(dirent.node, Place::File(own.0, own.1)).await?;
                        self.counts().files += 1;
                        self.counts().revisions += 1;
                        size += i64::try_from(state.size).unwrap_or(i64::MAX);
                        files += 1;
                    }
                    DirentBody::Ref(_) => {
                        self.placed(dirent.node, Place::File(dir, name.clone())).await?;
                    }
                    DirentBody::Dir => {
                        let key = schema::authority_key(id, dirent.node);
                        let authority = txn::get::<Authority>(self.snapshot, &key).await?;
                        let place = authority.and_then(|found| found.value.place);
                        if place != Some((dir, name.clone())) {
                            let node = dirent.node;
                            self.violated("T1", format!("directory {node} is not `{name}`"));
                        }
                        let stat = schema::stat_key(id, dirent.node);
                        let (below, _) = txn::counters(self.snapshot, &stat).await?;
                        size += below[schema::STAT_SIZE];
                        files += below[schema::STAT_FILES];
                        dirs += below[schema::STAT_DIRS] + 1;
                        let height = schema::height_key(id, dirent.node);
                        let (levels, _) = txn::counters(self.snapshot, &height).await?;
                        if heights[0] <= levels[0] {
                            let node = dirent.node;
                            self.violated("T5", format!("directory {node} is as high as {dir}"));
                        }
                    }
                }
            }
        }
        let (stat, _) = txn::counters(self.snapshot, &schema::stat_key(id, dir)).await?;
        let [has_size, has_files, has_dirs, _] = stat;
        if [has_size, has_files, has_dirs] != [size, files, dirs] {
            let detail = format!(
                "directory {dir} says {has_size} bytes, {has_files} files, {has_dirs} \
                 directories; its entries say {size}, {files}, {dirs}"
            );
            self.violated("M2", detail);
        }
        Ok(())
    }

    /// The node of an entry says that it is there, and nowhere else.
    async fn placed(&mut self, node: NodeId, place: Place) -> Result<()> {
        let key = schema::location_key(node);
        let location = txn::get::<Location>(self.snapshot, &key).await?;
        if location.is_none_or(|found| found.value.place != place) {
            self.violated("T1", format!("node {node} is not where its entry is: {place:?}"));
        }
        Ok(())
    }

    /// Older revisions of a file: below the current one, and as many as it says.
    async fn file(&mut self, id: SpaceId, node: NodeId, state: &FileState) -> Result<()> {
        if state.older == 0 && state.older_bytes == 0 {
            return Ok(());
        }
        let (mut count, mut bytes) = (0u32, 0u64);
        let mut pages = Pages::of(schema::revisions_prefix(id, node), PAGE);
        while let Some(page) = pages.next(self.snapshot).await? {
            for (key, record) in page {
                let older: FileState = schema::decode(&key, &record.value)?;
                count += 1;
                bytes += older.size;
                if older.revision >= state.revision {
                    let number = older.revision;
                    self.violated("F1", format!("file {node}: revision {number} is not older"));
                }
            }
        }
        if (count, bytes) != (state.older, state.older_bytes) {
            let (says, of) = (state.older, state.older_bytes);
            let detail = format!(
                "file {node} counts {says} revisions of {of} bytes, \
                                  there are {count} of {bytes}"
            );
            self.violated("F1", detail);
        }
        Ok(())
    }

    async fn trash(&mut self, id: SpaceId, sums: &mut Sums) -> Result<()> {
        let mut pages = Pages::of(schema::trash_prefix(id), PAGE);
        while let Some(page) = pages.next(self.snapshot).await? {
            for (key, record) in page {
                let trashed: Trashed = schema::decode(&key, &record.value)?;
                self.counts().trash_items += 1;
                let node = trashed.node;
                match &trashed.body {
                    TrashedBody::File(state) => {
                        sums.retained += i64::try_from(state.size).unwrap_or(i64::MAX);
                        self.counts().revisions += 1;
                        self.file(id, node, state).await?;
                        let key = schema::location_key(node);
                        let location = txn::get::<Location>(self.snapshot, &key).await?;
                        if !location.is_some_and(|at| matches!(at.value.place, Place::Trash(_))) {
                            self.violated("T1", format!("trashed file {node} is not in the trash"));
                        }
                    }
                    TrashedBody::Dir => {
                        let key = schema::stat_key(id, node);
                        let (stat, _) = txn::counters(self.snapshot, &key).await?;
                        sums.retained += stat[schema::STAT_SIZE];
                        let key = schema::authority_key(id, node);
                        let authority = txn::get::<Authority>(self.snapshot, &key).await?;
                        let state = authority.map(|authority| authority.value.state);
                        if !matches!(state, Some(DirState::Trash(_))) {
                            self.violated("T1", format!("trash item {node} is not detached"));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    async fn revisions(&mut self, id: SpaceId, sums: &mut Sums) -> Result<()> {
        let mut pages = Pages::of(schema::space_revisions_prefix(id), PAGE);
        while let Some(page) = pages.next(self.snapshot).await? {
            for (key, record) in page {
                let state: FileState = schema::decode(&key, &record.value)?;
                self.counts().revisions += 1;
                sums.retained += i64::try_from(state.size).unwrap_or(i64::MAX);
                let node = schema::revision_parts(&key).map(|(node, _)| schema::location_key(node));
                let there = match node {
                    Some(key) => self.snapshot.get(&key).await?.is_some(),
                    None => false,
                };
                if !there {
                    let key = key.escape_ascii();
                    self.violated("F2", format!("revision {key} belongs to no file"));
                }
            }
        }
        Ok(())
    }

    /// Every node that can be found by its id is where it says.
    async fn locations(&mut self) -> Result<()> {
        let mut pages = Pages::of(schema::locations_prefix(), PAGE);
        while let Some(page) = pages.next(self.snapshot).await? {
            for (key, record) in page {
                let node = NodeId::from_bytes(schema::trailing_id(&key)?);
                let location: Location = schema::decode(&key, &record.value)?;
                if self.loads.iter().any(|load| load.of == LoadOf::Space(location.space)) {
                    continue;
                }
                let there = match &location.place {
                    Place::Dir => {
                        let key = schema::authority_key(location.space, node);
                        self.snapshot.get(&key).await?.is_some()
                    }
                    Place::File(parent, name) => {
                        let key = schema::dirent_key(location.space, *parent, name);
                        let dirent = txn::get::<Dirent>(self.snapshot, &key).await?;
                        dirent.is_some_and(|dirent| dirent.value.node == node)
                    }
                    Place::Marked(parent, name) => {
                        let key = schema::marked_key(location.space, *parent, name);
                        let dirent = txn::get::<Dirent>(self.snapshot, &key).await?;
                        dirent.is_some_and(|dirent| dirent.value.node == node)
                    }
                    Place::Trash(item) => {
                        let key = schema::trash_key(location.space, *item);
                        let item = txn::get::<Trashed>(self.snapshot, &key).await?;
                        item.is_some_and(|item| item.value.node == node)
                    }
                };
                if !there {
                    self.violated("T1", format!("node {node} is not where it says"));
                }
            }
        }
        Ok(())
    }

    /// Every blob: as many references as it counts, and its bytes are there.
    async fn blobs(&mut self) -> Result<()> {
        let revisions = self.report.counts.revisions;
        let slices = revisions / SLICE + 1;
        for slice in 0..slices {
            let mut references = self.references(slices, slice).await?;
            self.blob_records(slices, slice, &mut references).await?;
            for (blob, count) in references {
                self.violated("B1", format!("blob {blob} has {count} references and no record"));
            }
        }
        Ok(())
    }

    /// Whether a blob belongs to a load that has not won.
    fn is_loading(&self, blob: BlobId) -> bool {
        self.loads.iter().any(|load| load.owns(blob.incarnation.0))
    }

    /// References to the blobs of one slice.
    async fn references(&self, slices: u64, slice: u64) -> Result<BTreeMap<BlobId, u32>> {
        let mut references = BTreeMap::new();
        let mut count = |state: &FileState| {
            let counts = state.blob != NO_BLOB && state.blob.counter % slices == slice;
            if counts && !self.is_loading(state.blob) {
                *references.entry(state.blob).or_insert(0) += 1;
            }
        };
        for prefix in [&b"de"[..], b"rv", b"tr"] {
            let mut pages = Pages::of(Bytes::copy_from_slice(prefix), PAGE);
            while let Some(page) = pages.next(self.snapshot).await? {
                for (key, record) in page {
                    match prefix {
                        b"rv" => count(&schema::decode(&key, &record.value)?),
                        b"tr" => {
                            let trashed: Trashed = schema::decode(&key, &record.value)?;
                            if let TrashedBody::File(state) = &trashed.body {
                                count(state);
                            }
                        }
                        _ => {
                            let dirent: Dirent = schema::decode(&key, &record.value)?;
                            if let DirentBody::File(state) = &dirent.body {
                                count(state);
                            }
                        }
                    }
                }
            }
        }
        Ok(references)
    }

    async fn blob_records(
        &mut self,
        slices: u64,
        slice: u64,
        references: &mut BTreeMap<BlobId, u32>,
    ) -> Result<()> {
        let mut pages = Pages::of(schema::blobs_prefix(), BLOBS_PAGE);
        while let Some(page) = pages.next(self.snapshot).await? {
            for (key, record) in page {
                let id = BlobId::from_bytes(schema::trailing_id(&key)?);
                if id.counter % slices != slice || self.is_loading(id) {
                    continue;
                }
                let blob = schema::decode_blob(&key, &record.value)?;
                self.counts().blobs += 1;
                self.counts().bytes += blob.size;
                let counted = references.remove(&id).unwrap_or(0);
                if counted != blob.refs {
                    let says = blob.refs;
                    self.violated("B2", format!("blob {id} counts {says} of {counted} references"));
                }
                if (blob.state == BlobState::Committed) != (blob.refs > 0) {
                    self.violated("B2", format!("blob {id} is {:?} with {counted}", blob.state));
                }
                self.bytes_of(id, &blob).await?;
            }
        }
        Ok(())
    }

    /// The chunks of a committed blob are there, with the length and checksum recorded.
    async fn bytes_of(&mut self, id: BlobId, blob: &Blob) -> Result<()> {
        let Content::Chunks(chunks) = &blob.content else { return Ok(()) };
        let total: u64 = chunks.iter().map(|chunk| chunk.length).sum();
        if total != blob.size {
            self.violated("F3", format!("blob {id} has {} bytes, its chunks {total}", blob.size));
        }
        if blob.state != BlobState::Committed {
            return Ok(());
        }
        for chunk in chunks {
            self.counts().chunks += 1;
            let wrong = match self.larder.inner.stores.holding(chunk) {
                Err(error) => Some(error.to_string()),
                Ok(store) => match store.head(chunk.id).await {
                    Err(error) => Some(error.to_string()),
                    Ok(stat) if (stat.length, stat.checksum) != (chunk.length, chunk.checksum) => {
                        Some("another length or checksum than recorded".to_owned())
                    }
                    Ok(_) => None,
                },
            };
            if let Some(wrong) = wrong
                && self.still_committed(id).await?
            {
                self.violated("B1", format!("chunk {} of blob {id}: {wrong}", chunk.id));
            }
        }
        Ok(())
    }

    async fn still_committed(&self, id: BlobId) -> Result<bool> {
        let snapshot = self.larder.inner.meta.snapshot().await?;
        let key = schema::blob_key(id);
        let record = snapshot.get(&key).await?;
        let blob = record.map(|record| schema::decode_blob(&key, &record.value)).transpose()?;
        Ok(blob.is_some_and(|blob| blob.state == BlobState::Committed))
    }

    /// Whether the leftovers of a process have been removed, or never were any of a dead one:
    /// until then its chunks have an owner, the job that will look at them.
    async fn reconciled(&self, owner: Incarnation) -> Result<bool> {
        if owner == self.larder.inner.incarnation {
            return Ok(true);
        }
        let snapshot = self.larder.inner.meta.snapshot().await?;
        Ok(snapshot.get(&schema::reconciled_key(owner)).await?.is_some())
    }

    /// Every chunk on disk is referred to, or being staged, or its blob is condemned.
    async fn orphans(&mut self) -> Result<()> {
        for store in self.larder.inner.stores.all() {
            for owner in store.owners().await? {
                if !self.reconciled(owner).await? {
                    continue;
                }
                let mut after = None;
                loop {
                    let chunks = store.list(owner, after, PAGE).await?;
                    let Some(last) = chunks.last() else { break };
                    after = Some(*last);
                    for chunk in chunks {
                        let staging = &self.larder.inner.staging;
                        if staging.is_open(chunk.blob) || staging.leaked() {
                            continue;
                        }
                        let snapshot = self.larder.inner.meta.snapshot().await?;
                        let key = schema::blob_key(chunk.blob);
                        if snapshot.get(&key).await?.is_none()
                            && !self.larder.is_owned(&*snapshot, chunk).await?
                            && store.head(chunk).await.is_ok()
                        {
                            self.violated("B3", format!("chunk {chunk} belongs to no blob"));
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
