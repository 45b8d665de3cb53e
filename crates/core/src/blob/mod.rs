//! Blobs: immutable content, inline in the metadata or in chunks.
//!
//! Life (docs/semantics.md B2, docs/transactions.md section 6): *staged* while its chunks are
//! written, owned by this process and known only to it ([`Staged`]); *committed* by the transaction
//! that makes a revision refer to it; *condemned* by the one that drops the last reference, never
//! revived; *deleting* once no reader can have seen it; gone. Inline content needs none of that:
//! its record is its bytes, and a snapshot that has it keeps it.
//!
//! Promises: I-BLOB-1 no reference is added to a blob that is not committed or made by the same
//! commit; I-BLOB-2 bytes are destroyed only after a commit has made it impossible that anything
//! refers to them, and after every reader that began before has ended.
//!
//! Not here: the collector (`job::collect`).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use larder_base::{ErrorKind, id::BlobId};

use crate::{
    error::{Error, Result},
    schema::{self, Blob, BlobState, Content, NO_BLOB},
    txn::{Stored, Txn},
};

pub(crate) mod epoch;
pub(crate) mod read;
pub(crate) mod write;

/// The blobs that this process is staging.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    counter: AtomicU64,
    open: Mutex<BTreeMap<BlobId, ()>>,
    /// Staged blobs that were dropped with chunks on disk: the collector should look.
    leaks: AtomicU64,
}

impl Staging {
    /// Takes a new blob id of this process and registers it.
    pub(crate) fn stage(self: &Arc<Self>, incarnation: larder_base::id::Incarnation) -> Staged {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        let blob = BlobId { incarnation, counter };
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(blob, ());
        Staged { all: Arc::clone(self), blob, leaks: false }
    }

    /// Registers a blob id that came from a record, while its chunks are being moved about.
    pub(crate) fn adopt(self: &Arc<Self>, blob: BlobId) -> Staged {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(blob, ());
        Staged { all: Arc::clone(self), blob, leaks: false }
    }

    /// Takes a new blob id for content that has no chunks.
    pub(crate) fn inline_id(&self, incarnation: larder_base::id::Incarnation) -> BlobId {
        BlobId { incarnation, counter: self.counter.fetch_add(1, Ordering::Relaxed) }
    }

    /// Whether this process may still commit `blob`.
    pub(crate) fn is_open(&self, blob: BlobId) -> bool {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&blob)
    }

    /// Takes the number of staged blobs that may have left chunks behind.
    pub(crate) fn take_leaks(&self) -> u64 {
        self.leaks.swap(0, Ordering::Relaxed)
    }

    /// Whether chunks may have been left behind that the collector has not looked for yet.
    pub(crate) fn leaked(&self) -> bool {
        self.leaks.load(Ordering::Relaxed) > 0
    }

    /// Says that chunks may have been left behind.
    pub(crate) fn note_leak(&self) {
        self.leaks.fetch_add(1, Ordering::Relaxed);
    }
}

/// A blob that is being staged. While it lives, the collector leaves its chunks alone; after
/// that, its record decides.
#[derive(Debug)]
pub(crate) struct Staged {
    all: Arc<Staging>,
    pub(crate) blob: BlobId,
    /// Whether it has chunks on disk that no record refers to yet.
    pub(crate) leaks: bool,
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.all.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.blob);
        if self.leaks {
            self.all.note_leak();
        }
    }
}

/// Reads a committed blob for a transaction that adds or drops a reference.
async fn committed(txn: &Txn, id: BlobId) -> Result<Stored<Blob>> {
    let stored = txn.get_blob(&schema::blob_key(id)).await?;
    stored.filter(|stored| stored.value.state == BlobState::Committed).ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, format!("blob {id} is referred to and not there"))
    })
}

/// Changes of references that one transaction makes, by blob: a transaction may write a record
/// only once, and what it both adds and drops stays as it is.
#[derive(Debug, Default)]
pub(crate) struct References(BTreeMap<BlobId, i64>);

impl References {
    /// One more. What has no content refers to none.
    pub(crate) fn retain(&mut self, id: BlobId) {
        if id == NO_BLOB {
            return;
        }
        *self.0.entry(id).or_default() += 1;
    }

    /// One less.
    pub(crate) fn release(&mut self, id: BlobId) {
        if id == NO_BLOB {
            return;
        }
        *self.0.entry(id).or_default() -= 1;
    }

    /// Puts the changes into the transaction (I-BLOB-1). With its last reference a blob is
    /// condemned, or gone at once if it was inline.
    pub(crate) async fn apply(self, txn: &mut Txn) -> Result<()> {
        for (id, change) in self.0 {
            if change != 0 {
                apply(txn, id, change).await?;
            }
        }
        Ok(())
    }
}

async fn apply(txn: &mut Txn, id: BlobId, change: i64) -> Result<()> {
    let Stored { value: mut blob, version } = committed(txn, id).await?;
    let key = schema::blob_key(id);
    txn.hold(key.clone(), version);
    let refs = u32::try_from(i64::from(blob.refs) + change).map_err(|error| {
        let detail = format!("blob {id} has {} references and {change} come", blob.refs);
        Error::new(ErrorKind::Corrupt, detail).with_source(error)
    })?;
    blob.refs = refs;
    match blob.content {
        _ if refs > 0 => txn.put_blob(key, &blob),
        Content::Inline(_) if !txn.keep_inline => txn.delete(key),
        Content::Inline(_) | Content::Chunks(_) => {
            blob.state = BlobState::Condemned;
            txn.put_blob(key, &blob);
            txn.put(schema::condemned_key(id), &());
        }
    }
    Ok(())
}
