//! Reads and verifies chunks from the disk itself, and moves damaged ones to quarantine.
//!
//! Promises: the walk is in order of id and resumable; at least one chunk is verified in every
//! call; a chunk that a newer program wrote is left alone; an unreadable one (the disk answers
//! an error) is reported but not moved, since the disk may be what is damaged.
//! Not here: when to scrub, and how fast (core's job does that by `bytes_max`).

use std::sync::Arc;

use larder_base::{
    id::ChunkId,
    memory::{Use, WAIT_MAX},
};
use larder_disk::{
    buffer::{Buffer, LARGE},
    file::Access,
};

use super::{LocalStore, Shared, joined, reader::Opened};
use crate::store::{ChunkError, ScrubReport};

/// Most ids that one listing holds in memory.
const PAGE: usize = 256;

/// As [`crate::ChunkStore::scrub`].
pub(super) async fn scrub(
    store: &LocalStore,
    after: Option<ChunkId>,
    bytes_max: u64,
) -> Result<ScrubReport, ChunkError> {
    let mut report = ScrubReport { next: after, ..ScrubReport::default() };
    loop {
        let after = report.next;
        let page = store.blocking(move |shared| next_page(shared, after)).await?;
        if page.is_empty() {
            report.next = None;
            return Ok(report);
        }
        for id in page {
            verify(store, id, &mut report).await?;
            report.next = Some(id);
            if report.bytes >= bytes_max {
                return Ok(report);
            }
        }
    }
}

/// The next chunks after `after`, of whatever owner.
fn next_page(shared: &Shared, after: Option<ChunkId>) -> Result<Vec<ChunkId>, ChunkError> {
    let list_error = |source| ChunkError::Io { what: "list chunks", source };
    if let Some(after) = after {
        // The common case: the same owner has more.
        let page = shared.paths.list(after.blob.incarnation, Some(after), PAGE);
        let page = page.map_err(list_error)?;
        if !page.is_empty() {
            return Ok(page);
        }
    }
    for owner in shared.paths.owners().map_err(list_error)? {
        if after.is_some_and(|after| owner <= after.blob.incarnation) {
            continue;
        }
        let page = shared.paths.list(owner, None, PAGE).map_err(list_error)?;
        if !page.is_empty() {
            return Ok(page);
        }
    }
    Ok(Vec::new())
}

async fn verify(
    store: &LocalStore,
    id: ChunkId,
    report: &mut ScrubReport,
) -> Result<(), ChunkError> {
    let (pool, env) = (&store.shared.pool, &store.shared.env);
    let buffer = pool.acquire(Use::Reads, LARGE, WAIT_MAX, env).await.ok_or(ChunkError::Busy)?;
    let shared = Arc::clone(&store.shared);
    let work = tokio::task::spawn_blocking(move || read_all(&shared, id, buffer));
    match joined(work.await) {
        Ok(bytes) => {
            report.chunks += 1;
            report.bytes += bytes;
        }
        // Deleted since it was listed.
        Err(ChunkError::NotFound(_)) => {}
        Err(error @ ChunkError::Corrupt { .. }) => {
            tracing::error!(%id, %error, "chunk is damaged");
            report.damaged.push(id);
            let moved = store.blocking(move |shared| {
                let moved = shared.paths.quarantine(id);
                moved.map_err(|source| shared.room.failed_io("quarantine chunk", source))
            });
            if let Err(error) = moved.await {
                tracing::error!(%id, %error, "leave a damaged chunk in its place");
            }
        }
        Err(error @ ChunkError::Io { .. }) => {
            tracing::error!(%id, %error, "chunk cannot be read");
            report.damaged.push(id);
        }
        Err(error @ ChunkError::Unavailable(_)) => {
            tracing::warn!(%id, %error, "skip a chunk");
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Reads all of a chunk past the page cache; returns its length.
fn read_all(shared: &Shared, id: ChunkId, mut buffer: Buffer) -> Result<u64, ChunkError> {
    let opened = Opened::open(shared, id, Access { write: false, direct: true }, None)?;
    let mut at = 0;
    while at < opened.length {
        buffer = opened.read(buffer, at, opened.length, None)?;
        at += buffer.len() as u64;
    }
    Ok(opened.length)
}
