//! Downloads: one revision, found in one snapshot; every byte of an answer comes from it.
//!
//! Promises (docs/semantics.md, Download): etag, length, type and bytes belong together although
//! the file is overwritten, moved or purged meanwhile; a started download finishes.
//!
//! Not here: the stream itself (`blob::read`), ranges and conditions of HTTP (the door).

use std::{ops::Range, sync::Arc};

use larder_meta::Snapshot;

use crate::{
    Larder,
    access::Right,
    blob::{epoch::Note, read::Body},
    caller::Caller,
    entry::{Entry, Spot, Target},
    error::{Error, Result},
    schema::{self, BlobState, DirentBody, FileState},
    tree::lookup::{self, through},
    txn,
    work::Client,
};

/// A revision that is ready to be read. It keeps a snapshot: drop it once its bodies are open.
#[derive(Debug)]
pub struct Download {
    larder: Larder,
    snapshot: Arc<dyn Snapshot>,
    note: Arc<Note>,
    client: Client,
    entry: Entry,
    state: FileState,
    /// Whether it is the current revision.
    latest: bool,
}

impl Larder {
    /// Finds the current revision of a file, or the one with this number.
    ///
    /// Errors: `NotFound`; `WrongType` for a directory.
    pub async fn download(
        &self,
        caller: &Caller,
        target: &Target,
        revision: Option<u64>,
    ) -> Result<Download> {
        match target {
            Target::Path(space, path) => {
                through!(|space, path| self.download_at(caller, Spot::Path(space, path), revision))
            }
            Target::Node(node) => self.download_at(caller, Spot::Node(*node), revision).await,
        }
    }

    async fn download_at(
        &self,
        caller: &Caller,
        target: Spot<'_>,
        revision: Option<u64>,
    ) -> Result<Download> {
        let at = self.space_of(caller, target).await?;
        // The note before the snapshot: see `blob::epoch`.
        let note = Arc::new(self.inner.epochs.note());
        let snapshot = self.inner.meta.snapshot().await?;
        let room = self.open_room(&*snapshot, caller, at, Right::Read).await;
        let room = room.map_err(|error| lookup::hide_space(target, error))?;
        let id = room.id;
        let directory = || Error::new(larder_base::ErrorKind::WrongType, "it is a directory");
        let found = self.find(&*snapshot, &room, target).await?.ok_or_else(directory)?;
        let node = found.dirent.value.node;
        let path = found.path(&room);
        let mut state = match found.dirent.value.body {
            DirentBody::File(state) => state,
            DirentBody::Dir => return Err(directory()),
            DirentBody::Ref(to) => {
                return Err(lookup::leave(&room, &found.parent, &found.name, to, &[]));
            }
        };
        let latest = revision.is_none_or(|number| number == state.revision);
        if let Some(number) = revision.filter(|_| !latest) {
            let key = schema::revision_key(id, node, number);
            let older = txn::get::<FileState>(&*snapshot, &key).await?;
            state = older.ok_or_else(|| Error::not_found("revision"))?.value;
        }
        let entry = lookup::file_entry(id, path, node, &state);
        let client = caller.client();
        Ok(Download { larder: self.clone(), snapshot, note, client, entry, state, latest })
    }

    /// A revision that was found in a snapshot taken after `note`.
    pub(crate) fn found(
        &self,
        (note, snapshot): (Note, Arc<dyn Snapshot>),
        caller: &Caller,
        entry: Entry,
        state: FileState,
        latest: bool,
    ) -> Download {
        let (note, client) = (Arc::new(note), caller.client());
        Download { larder: self.clone(), snapshot, note, client, entry, state, latest }
    }
}

impl Download {
    /// The file, as of the revision that will be read.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    pub(crate) fn state(&self) -> &FileState {
        &self.state
    }

    pub(crate) fn latest(&self) -> bool {
        self.latest
    }

    /// Opens a range of the content, in bytes from its start; it must lie within the size.
    pub async fn read(&self, range: Range<u64>) -> Result<Body> {
        let key = schema::blob_key(self.state.blob);
        let record = self.snapshot.get(&key).await?;
        let blob = record.map(|record| schema::decode_blob(&key, &record.value)).transpose()?;
        let blob = blob.filter(|blob| blob.state == BlobState::Committed).ok_or_else(|| {
            let detail = format!("blob {} is referred to and not there", self.state.blob);
            Error::new(larder_base::ErrorKind::Corrupt, detail)
        })?;
        self.larder.inner.metrics.downloads.add(1);
        let body = Body::new(&self.larder, &blob, range, Arc::clone(&self.note))?;
        body.on_behalf_of(&self.client)
    }
}
