//! Every record family: its key, its value, who writes it.
//!
//! | family | key | value | written by |
//! |---|---|---|---|
//! | `in` | | [`Instance`] | first start, every start |
//! | `sp` | space | [`Space`] | space |
//! | `sn` | name | space id | space |
//! | `ho` | user | space id | space |
//! | `au` | space, directory | [`Authority`] | tree, trash |
//! | `to` | space | nothing | whoever writes an existing `au` |
//! | `de` | space, parent, slot, name | [`Dirent`] | tree, upload, revision, trash |
//! | `bs` | space, setting | a policy, an access list, a text | bucket |
//! | `no` | node | [`Location`] | tree, upload, trash |
//! | `st` | space, directory | counters: size, files, directories, time | whatever is below |
//! | `ht` | space, directory | counters: levels below | tree |
//! | `rv` | space, node, number | [`FileState`] | upload, revision |
//! | `bl` | blob | [`Blob`] | upload, blob |
//! | `gq` | blob | nothing | blob |
//! | `tr` | space, item | [`Trashed`] | trash |
//! | `qs` | space, lane | counters: live, reserved, retained | quota |
//! | `us`, `un` | user; name | [`User`]; its id | identity |
//! | `ak`, `uk`, `ks`, `kn`, `ku`, `ut` | see [`identity`]: credentials | | identity |
//! | `gr`, `gn`, `gm`, `ug`, `mk` | see [`identity`]: groups, master key | | identity |
//! | `sg` to `sy` | | see [`share`] | share |
//! | `cf`, `cb` | see [`feed`] | | all that change a tree; job::feed |
//! | `jb` | job | [`Job`] | job |
//! | `jc` `jd` `jx` `lc` `lw` `en` `ex` `oc` `ox` | see [`policy`] | | job, lifecycle, ... |
//! | `lo`, `lx` | see [`load`] | | dump |
//! | `le` | name | [`Lease`] | lease |
//! | `ri` | incarnation | nothing | job::collect |
//! | `rt` | | a time | job::retention |
//! | `se` `su` `mu` `sc` `sd` `up` `uq` `ow` | see [`session`] | | session |
//! | `gw`, `op` | incarnation; operation | see `meta::spec` | open; meta |
//!
//! The split that matters (docs/transactions.md section 2): authority (`au`, cold), identity and
//! content (`de`, `no`, `rv`), statistics (`st`, hot). The current revision of a file lives in its
//! `de` record; `rv` holds the older ones, so that a new file costs one record less.
//!
//! Values are a format byte and then postcard; an unknown format is refused. Counters are plain
//! numbers so that engines can add to them.
//!
//! Not here: what the records mean together (the operations), wire forms (doors).

use bytes::Bytes;
use larder_base::{
    id::{BlobId, Incarnation, JobId, KeyId, NodeId, SpaceId, TrashId, UserId},
    name::EntryName,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::{Error, Result},
    object::BucketSetting,
};

mod feed;
mod identity;
mod load;
mod policy;
mod record;
pub(crate) mod session;
mod share;

pub(crate) use feed::{
    ChangeRecord, FeedBase, change_key, changes_prefix, feed_base_key, is_changes_prefix,
};
pub(crate) use identity::{
    Credential, Group, MasterRecord, Member, Secrets, StoredSecret, access_key_key, additions_key,
    decode_credential, encode_credential, group_key, group_name_key, groups_prefix, master_key,
    member_key, members_prefix, secrets_key, used_key, user_group_key, user_groups_prefix,
};
pub(crate) use load::{
    LoadOf, LoadState, WHOLE_LOAD, load_key, load_of_space, loads_prefix, put_off_key,
    put_off_prefix,
};
pub(crate) use policy::{
    Cancel, Done, Expiry, FinishedJob, JobEnd, JobNote, Lifecycle, Walked, expires_key,
    expires_prefix, expiry_key, finished_job_key, finished_jobs_prefix, job_cancel_key,
    job_note_key, lifecycle_key, lifecycles_prefix, remembered_count_key, remembered_key,
    remembered_prefix, time_of, walked_key,
};
pub(crate) use record::{
    ApiKey, Authority, Blob, BlobState, ChunkRef, Content, DirState, Dirent, DirentBody, FileState,
    Instance, Job, JobState, JobWork, Lease, Location, NO_BLOB, Origin, Place, RefState, Space,
    SpaceState, Trashed, TrashedBody, User, VersionMark, etag_head,
};
pub(crate) use session::{
    Multipart, ObjectPart, Owner, Part, Session, SessionKind, SessionResult, SessionTarget,
};
pub(crate) use share::{
    Grant, Link, Shared, grant_key, grant_place, grant_principal, grants_prefix,
    link_downloads_key, link_key, link_token_key, principal_grants_prefix, shared_at_key,
    shared_at_prefix, shared_by_key, shared_by_prefix, shared_in_prefix, shared_key,
};

/// Format of every value below; a newer one is refused.
const FORMAT: u8 = 1;

/// `st`: bytes of the current revisions of all files below.
pub(crate) const STAT_SIZE: usize = 0;
/// `st`: files below.
pub(crate) const STAT_FILES: usize = 1;
/// `st`: directories below.
pub(crate) const STAT_DIRS: usize = 2;
/// `qs`: bytes of current revisions of all attached files.
pub(crate) const QUOTA_LIVE: usize = 0;
/// `qs`: bytes promised to upload sessions.
pub(crate) const QUOTA_RESERVED: usize = 1;
/// `qs`: bytes of older revisions and of everything in the trash.
pub(crate) const QUOTA_RETAINED: usize = 2;

/// The stored form of `value`.
pub(crate) fn encode<T: Serialize>(value: &T) -> Bytes {
    let bytes = postcard::to_extend(value, vec![FORMAT]);
    bytes.expect("records are plain data, which always serialises").into()
}

/// The value of a stored form; `key` names it in the error.
pub(crate) fn decode<T: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<T> {
    let corrupt = |what: String| {
        Error::new(
            larder_base::ErrorKind::Corrupt,
            format!("record {}: {what}", Bytes::copy_from_slice(key).escape_ascii()),
        )
    };
    match bytes.split_first() {
        Some((&FORMAT, rest)) => {
            postcard::from_bytes(rest).map_err(|error| corrupt(error.to_string()))
        }
        Some((format, _)) => Err(corrupt(format!("unknown format {format}"))),
        None => Err(corrupt("empty".into())),
    }
}

/// The stored form of a blob: its record, then its bytes if they are inline.
pub(crate) fn encode_blob(blob: &Blob) -> Bytes {
    let mut bytes = Vec::from(encode(blob));
    if let Content::Inline(body) = &blob.content {
        bytes.extend_from_slice(body);
    }
    bytes.into()
}

/// The blob of a stored form; inline bytes share its memory.
pub(crate) fn decode_blob(key: &[u8], bytes: &Bytes) -> Result<Blob> {
    let (mut blob, body) = decode_tail::<Blob>(key, bytes)?;
    if let Content::Inline(bytes_of_body) = &mut blob.content {
        if body.len() as u64 != blob.size {
            return Err(damaged(key));
        }
        *bytes_of_body = body;
    }
    Ok(blob)
}

/// The record at the start of a stored form, and what comes behind it.
fn decode_tail<T: DeserializeOwned>(key: &[u8], bytes: &Bytes) -> Result<(T, Bytes)> {
    decode_tail_of(FORMAT, key, bytes)
}

/// The same for a record of another format.
fn decode_tail_of<T: DeserializeOwned>(
    format: u8,
    key: &[u8],
    bytes: &Bytes,
) -> Result<(T, Bytes)> {
    let rest = match bytes.split_first() {
        Some((first, rest)) if *first == format => rest,
        _ => return Err(damaged(key)),
    };
    let (value, tail) = postcard::take_from_bytes(rest).map_err(|_| damaged(key))?;
    Ok((value, bytes.slice_ref(tail)))
}

fn damaged(key: &[u8]) -> Error {
    let key = Bytes::copy_from_slice(key);
    let detail = format!("record {} is damaged", key.escape_ascii());
    Error::new(larder_base::ErrorKind::Corrupt, detail)
}

/// Builds a key from a family and its parts.
fn key(family: [u8; 2], parts: &[&[u8]]) -> Bytes {
    let mut key = Vec::with_capacity(2 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.extend_from_slice(&family);
    for part in parts {
        key.extend_from_slice(part);
    }
    key.into()
}

/// The one instance record.
pub(crate) fn instance_key() -> Bytes {
    key(*b"in", &[])
}

pub(crate) fn space_key(space: SpaceId) -> Bytes {
    key(*b"sp", &[space.as_bytes()])
}

/// Prefix of all spaces.
pub(crate) fn spaces_prefix() -> Bytes {
    key(*b"sp", &[])
}

pub(crate) fn space_name_key(name: &str) -> Bytes {
    key(*b"sn", &[name.as_bytes()])
}

pub(crate) fn home_key(user: UserId) -> Bytes {
    key(*b"ho", &[user.as_bytes()])
}

pub(crate) fn authority_key(space: SpaceId, dir: NodeId) -> Bytes {
    key(*b"au", &[space.as_bytes(), dir.as_bytes()])
}

/// Prefix of all directories of a space.
pub(crate) fn authority_prefix(space: SpaceId) -> Bytes {
    key(*b"au", &[space.as_bytes()])
}

/// Written by every change of an existing authority record of the space: compared in place of a
/// chain that is too long for one transaction (docs/transactions.md section 4).
pub(crate) fn topology_key(space: SpaceId) -> Bytes {
    key(*b"to", &[space.as_bytes()])
}

/// The slot of what a directory shows.
const TREE_SLOT: u8 = 0;

/// The slot of deleted objects that keep versions.
const MARKED_SLOT: u8 = 1;

pub(crate) fn dirent_key(space: SpaceId, parent: NodeId, name: &EntryName) -> Bytes {
    key(*b"de", &[space.as_bytes(), parent.as_bytes(), &[TREE_SLOT], name.as_str().as_bytes()])
}

/// Prefix of all entries of a directory.
pub(crate) fn dirents_prefix(space: SpaceId, parent: NodeId) -> Bytes {
    key(*b"de", &[space.as_bytes(), parent.as_bytes()])
}

/// Prefix of the entries that a directory shows: behind it come the bytes of their names.
pub(crate) fn entries_prefix(space: SpaceId, parent: NodeId) -> Bytes {
    key(*b"de", &[space.as_bytes(), parent.as_bytes(), &[TREE_SLOT]])
}

/// The entry of an object that is deleted, with versions that are kept.
pub(crate) fn marked_key(space: SpaceId, root: NodeId, name: &EntryName) -> Bytes {
    let slot = &[MARKED_SLOT];
    key(*b"de", &[space.as_bytes(), root.as_bytes(), slot, name.as_str().as_bytes()])
}

/// Prefix of those: behind it come the bytes of their keys.
pub(crate) fn marked_prefix(space: SpaceId, root: NodeId) -> Bytes {
    key(*b"de", &[space.as_bytes(), root.as_bytes(), &[MARKED_SLOT]])
}

/// A setting of a bucket.
pub(crate) fn bucket_setting_key(space: SpaceId, setting: BucketSetting) -> Bytes {
    let name: &[u8] = match setting {
        BucketSetting::Policy => b"policy",
        BucketSetting::Acl => b"acl",
        BucketSetting::Tags => b"tags",
        BucketSetting::Cors => b"cors",
        BucketSetting::PublicAccess => b"public-access",
        BucketSetting::Ownership => b"ownership",
        BucketSetting::Lifecycle => b"lifecycle",
    };
    key(*b"bs", &[space.as_bytes(), name])
}

/// Prefix of the entries of all directories of a space.
pub(crate) fn space_dirents_prefix(space: SpaceId) -> Bytes {
    key(*b"de", &[space.as_bytes()])
}

/// The directory in the key of a directory entry.
pub(crate) fn dirent_parent(key: &[u8]) -> Result<NodeId> {
    let parent = key.get(2 + 16..2 + 16 + 16).and_then(|bytes| bytes.try_into().ok());
    let parent = parent.ok_or_else(|| {
        Error::new(larder_base::ErrorKind::Corrupt, "directory entry without a directory")
    })?;
    Ok(NodeId::from_bytes(parent))
}

/// The name in the key of a directory entry.
pub(crate) fn dirent_name(key: &[u8]) -> Result<EntryName> {
    let corrupt = || Error::new(larder_base::ErrorKind::Corrupt, "directory entry without a name");
    let name = key.get(2 + 16 + 16 + 1..).ok_or_else(corrupt)?;
    EntryName::stored(std::str::from_utf8(name).map_err(|_| corrupt())?).map_err(|_| corrupt())
}

pub(crate) fn location_key(node: NodeId) -> Bytes {
    key(*b"no", &[node.as_bytes()])
}

/// Prefix of all nodes.
pub(crate) fn locations_prefix() -> Bytes {
    key(*b"no", &[])
}

pub(crate) fn stat_key(space: SpaceId, dir: NodeId) -> Bytes {
    key(*b"st", &[space.as_bytes(), dir.as_bytes()])
}

/// How many levels of directories lie below one: a bound that only grows.
pub(crate) fn height_key(space: SpaceId, dir: NodeId) -> Bytes {
    key(*b"ht", &[space.as_bytes(), dir.as_bytes()])
}

pub(crate) fn revision_key(space: SpaceId, node: NodeId, number: u64) -> Bytes {
    key(*b"rv", &[space.as_bytes(), node.as_bytes(), &number.to_be_bytes()])
}

/// Prefix of the older revisions of a file.
pub(crate) fn revisions_prefix(space: SpaceId, node: NodeId) -> Bytes {
    key(*b"rv", &[space.as_bytes(), node.as_bytes()])
}

/// Prefix of the older revisions of all files of a space.
pub(crate) fn space_revisions_prefix(space: SpaceId) -> Bytes {
    key(*b"rv", &[space.as_bytes()])
}

/// The node and the number in the key of a revision.
pub(crate) fn revision_parts(key: &[u8]) -> Option<(NodeId, u64)> {
    let node = key.get(18..34)?.try_into().ok()?;
    let number = key.get(34..42)?.try_into().ok()?;
    Some((NodeId::from_bytes(node), u64::from_be_bytes(number)))
}

pub(crate) fn blob_key(blob: BlobId) -> Bytes {
    key(*b"bl", &[&blob.to_bytes()])
}

/// Prefix of all blobs.
pub(crate) fn blobs_prefix() -> Bytes {
    key(*b"bl", &[])
}

pub(crate) fn condemned_key(blob: BlobId) -> Bytes {
    key(*b"gq", &[&blob.to_bytes()])
}

/// Prefix of all condemned blobs.
pub(crate) fn condemned_prefix() -> Bytes {
    key(*b"gq", &[])
}

pub(crate) fn trash_key(space: SpaceId, item: TrashId) -> Bytes {
    key(*b"tr", &[space.as_bytes(), item.as_bytes()])
}

/// Prefix of all trash items of a space.
pub(crate) fn trash_prefix(space: SpaceId) -> Bytes {
    key(*b"tr", &[space.as_bytes()])
}

/// The one lane of an engine that folds in the commit (docs/transactions.md section 5).
pub(crate) fn quota_key(space: SpaceId) -> Bytes {
    key(*b"qs", &[space.as_bytes(), &0u32.to_be_bytes()])
}

pub(crate) fn user_key(user: UserId) -> Bytes {
    key(*b"us", &[user.as_bytes()])
}

/// Prefix of all users.
pub(crate) fn users_prefix() -> Bytes {
    key(*b"us", &[])
}

pub(crate) fn user_name_key(name: &str) -> Bytes {
    key(*b"un", &[name.as_bytes()])
}

pub(crate) fn api_key_key(id: KeyId) -> Bytes {
    key(*b"ak", &[id.as_bytes()])
}

pub(crate) fn user_api_key_key(user: UserId, id: KeyId) -> Bytes {
    key(*b"uk", &[user.as_bytes(), id.as_bytes()])
}

/// Prefix of the keys of a user.
pub(crate) fn user_api_keys_prefix(user: UserId) -> Bytes {
    key(*b"uk", &[user.as_bytes()])
}

pub(crate) fn job_key(job: JobId) -> Bytes {
    key(*b"jb", &[job.as_bytes()])
}

/// Prefix of all jobs.
pub(crate) fn jobs_prefix() -> Bytes {
    key(*b"jb", &[])
}

/// When retention last had a look, by the clock of the process that looked.
pub(crate) fn retention_key() -> Bytes {
    key(*b"rt", &[])
}

pub(crate) fn lease_key(name: &str) -> Bytes {
    key(*b"le", &[name.as_bytes()])
}

/// Prefix of all leases.
pub(crate) fn leases_prefix() -> Bytes {
    key(*b"le", &[])
}

pub(crate) fn reconciled_key(incarnation: Incarnation) -> Bytes {
    key(*b"ri", &[&incarnation.0.to_be_bytes()])
}

/// Prefix of all gateway processes.
pub(crate) fn incarnations_prefix() -> Bytes {
    key(*b"gw", &[])
}

/// The last sixteen bytes of a key: the id that most families end in.
pub(crate) fn trailing_id(key: &[u8]) -> Result<[u8; 16]> {
    key.last_chunk()
        .copied()
        .ok_or_else(|| Error::new(larder_base::ErrorKind::Corrupt, "key without an id"))
}

#[cfg(test)]
mod tests {
    use larder_base::Env;

    use super::*;

    #[test]
    fn entries_of_one_directory_sort_by_name_and_stay_together() {
        let (env, _) = Env::manual(7);
        let (space, parent) = (SpaceId::new(&env), NodeId::new(&env));
        let name = |text| EntryName::new(text).expect("valid");
        let prefix = dirents_prefix(space, parent);
        let a = dirent_key(space, parent, &name("a"));
        let b = dirent_key(space, parent, &name("a b"));
        assert!(a < b && a.starts_with(&prefix) && b.starts_with(&prefix));
        assert_eq!(dirent_name(&b).expect("own key"), name("a b"));
    }

    #[test]
    fn a_newer_format_is_refused_and_named() {
        let error = decode::<Lease>(b"le", &[FORMAT + 1, 0]).expect_err("unknown format");
        assert_eq!(error.kind(), larder_base::ErrorKind::Corrupt);
        assert!(error.detail().contains("unknown format"), "{error}");
    }

    #[test]
    fn files_of_before_there_were_objects_are_read() {
        use std::sync::Arc;

        use larder_base::{Timestamp, id::Incarnation};
        let blob = BlobId { incarnation: Incarnation(1), counter: 2 };
        let state = FileState {
            revision: 3,
            size: 4,
            blob,
            sha256: None,
            content_type: "a/b".into(),
            modified: Timestamp::from_millis(5),
            author: "root".into(),
            origin: Origin::Upload,
            older: 6,
            older_bytes: 7,
            object: None,
            version: None,
        };
        let now = encode(&state);
        // It ended before the marks of the fields that came last.
        let before = now.slice(..now.len() - 2);
        assert_eq!(decode::<FileState>(b"rv", &before).expect("read").older_bytes, 7);
        assert!(decode::<FileState>(b"rv", &now.slice(..now.len() - 3)).is_err());
        let object = Some(Arc::new(crate::ObjectInfo::default()));
        let with = encode(&FileState { object: object.clone(), ..state });
        assert_eq!(decode::<FileState>(b"rv", &with).expect("read").object, object);
    }

    #[test]
    fn revision_keys_sort_by_number_and_are_read_back() {
        let (env, _) = Env::manual(7);
        let (space, node) = (SpaceId::new(&env), NodeId::new(&env));
        let (nine, ten) = (revision_key(space, node, 9), revision_key(space, node, 10));
        assert!(nine < ten);
        assert_eq!(revision_parts(&ten), Some((node, 10)));
    }
}
