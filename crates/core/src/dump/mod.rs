//! Dumps: everything of an instance, or of one space, as one stream of bytes; and back.
//!
//! Promises: I-DUMP-1 a dump is one moment of the instance, and has everything that was
//! acknowledged before it began; I-DUMP-2 a dump that is not whole, byte for byte, is refused
//! before anything of it can be seen; I-DUMP-3 what is loaded is seen all at once, or never, and
//! a load that breaks off anywhere leaves nothing behind; I-DUMP-4 ids, revisions, trash and
//! rights come back as they were.
//!
//! What a dump does with each record family is said in one table, [`family`]. The form is
//! described in docs/formats/dump.md.
//!
//! Not here: the doors that dumps go through.

use bytes::Bytes;
use larder_base::id::{NodeId, SpaceId};

pub(crate) use self::load::Going;
pub use self::{
    format::{Counts, DumpedSpace, Header, MAGIC, Verifier},
    load::{Load, LoadReport},
    write::Dump,
};
use crate::{
    error::Result,
    schema::{self, Dirent, DirentBody, JobWork, QUOTA_RESERVED, Trashed, TrashedBody},
};

mod chunks;
mod clear;
mod family;
mod format;
mod load;
mod share;
mod write;

/// What must be finished by a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    /// Something of this space.
    Space(SpaceId),
    /// Something of the whole instance.
    Instance,
    /// Nothing: it looks at what there is, and another one can.
    Nothing,
}

fn subject_of_job(work: &JobWork) -> Subject {
    match work {
        JobWork::Purge { space, .. }
        | JobWork::Unstage { space, .. }
        | JobWork::PurgeSpace { space }
        | JobWork::Trim { space } => Subject::Space(*space),
        JobWork::ForgetUser { .. } | JobWork::ForgetGroup { .. } => Subject::Instance,
        JobWork::Scrub | JobWork::Check | JobWork::Collect | JobWork::Lifecycle { .. } => {
            Subject::Nothing
        }
    }
}

/// The node that an `au`, `de` or `tr` record leads to; directories only by their `au`.
fn node_of(key: &Bytes, value: &Bytes) -> Result<Option<NodeId>> {
    Ok(match key.get(..2) {
        Some(b"au") => Some(NodeId::from_bytes(schema::trailing_id(key)?)),
        Some(b"de") => {
            let dirent: Dirent = schema::decode(key, value)?;
            Some(dirent.node).filter(|_| !matches!(dirent.body, DirentBody::Dir))
        }
        Some(b"tr") => {
            let trashed: Trashed = schema::decode(key, value)?;
            Some(trashed.node).filter(|_| !matches!(trashed.body, TrashedBody::Dir))
        }
        _ => None,
    })
}

/// The meters of a space without what upload sessions have reserved.
fn without_reserved(meters: &Bytes) -> Bytes {
    match larder_meta::Merge::decode(meters) {
        Some(mut counters) => {
            counters[QUOTA_RESERVED] = 0;
            larder_meta::Merge::encode(&counters)
        }
        // For whoever parses it to refuse.
        None => meters.clone(),
    }
}
