//! Who needs a chunk whose own blob has no record.
//!
//! The chunks of a session, of the parts that it is made of and of its merges were staged under
//! blob ids of their own. Each of those has an owner record, which leads to the session and to
//! the blob that its file becomes: that blob's record decides once there is one, and until then
//! the session's.
//!
//! Not here: who asks (the collector and the checker).

use larder_base::id::{BlobId, ChunkId};
use larder_meta::Snapshot;

use crate::{
    error::Result,
    schema::{
        self, Content, Owner, Session,
        session::{self as records, SessionState},
    },
    txn,
};

/// Whether the blob's record has this chunk; `None` if there is no record.
pub(crate) async fn refers(
    snapshot: &dyn Snapshot,
    blob: BlobId,
    chunk: ChunkId,
) -> Result<Option<bool>> {
    let key = schema::blob_key(blob);
    let Some(record) = snapshot.get(&key).await? else { return Ok(None) };
    Ok(Some(has(&schema::decode_blob(&key, &record.value)?.content, chunk)))
}

fn has(content: &Content, chunk: ChunkId) -> bool {
    match content {
        Content::Inline(_) => false,
        Content::Chunks(chunks) => chunks.iter().any(|known| known.id == chunk),
    }
}

/// Whether something needs this chunk, as one snapshot has it.
pub(crate) async fn is_needed(snapshot: &dyn Snapshot, chunk: ChunkId) -> Result<bool> {
    if let Some(refers) = refers(snapshot, chunk.blob, chunk).await? {
        return Ok(refers);
    }
    let key = records::owner_key(chunk.blob);
    let Some(owner) = txn::get::<Owner>(snapshot, &key).await? else { return Ok(false) };
    let owner = owner.value;
    if owner.blob != chunk.blob
        && let Some(refers) = refers(snapshot, owner.blob, chunk).await?
    {
        return Ok(refers);
    }
    let key = records::session_key(owner.upload);
    let Some(session) = txn::get::<Session>(snapshot, &key).await? else { return Ok(false) };
    let session = session.value;
    match &session.state {
        SessionState::Open => match owner.part {
            None => Ok(session.holds(chunk)),
            Some(number) => {
                let key = records::part_key(owner.upload, number);
                let Some(record) = snapshot.get(&key).await? else { return Ok(false) };
                Ok(has(&records::decode_part(&key, &record.value)?.content, chunk))
            }
        },
        SessionState::Consumed { by, .. } => {
            let key = records::session_key(*by);
            let whole = txn::get::<Session>(snapshot, &key).await?.map(|whole| whole.value);
            match whole {
                Some(whole) => match refers(snapshot, whole.blob, chunk).await? {
                    Some(refers) => Ok(refers),
                    None => {
                        let open = matches!(whole.state, SessionState::Open);
                        Ok(open && session.holds(chunk))
                    }
                },
                None => Ok(false),
            }
        }
        SessionState::Completed(_)
        | SessionState::Aborted { .. }
        | SessionState::Expired { .. } => Ok(false),
    }
}
