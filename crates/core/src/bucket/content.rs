//! Objects on their way in and out, and copies, which move no bytes.
//!
//! Not here: the upload and the download themselves (`upload`, `download`), parts
//! (`bucket::multipart`).

use std::sync::Arc;

use futures_util::future::BoxFuture;
use larder_base::{ErrorKind, id::NodeId, name::TreePath};

use super::{no_object, path_of, versions::version_in};
use crate::{
    Larder,
    access::Right,
    blob::write::Finished,
    caller::Caller,
    download::Download,
    entry::{SpaceRef, Target, UploadOptions},
    error::{Error, Result},
    object::{Acl, Bucket, CopyOptions, ObjectEntry, ObjectInfo, VersionId, Versioning},
    room::Located,
    schema::{Content, DirentBody, FileState},
    tree::lookup,
    txn::Txn,
    upload::{Commit, Copied, Source, Upload, content_type},
};

/// The source of a copy.
#[derive(Debug)]
struct OtherObject {
    caller: Caller,
    at: Located,
    path: TreePath,
    options: CopyOptions,
}

impl Larder {
    /// Begins an upload to a key; missing directories of a tree are made with it.
    ///
    /// Errors: those of [`Larder::open_upload`], and `Invalid` for a key that cannot be.
    pub async fn object_upload(
        &self,
        caller: &Caller,
        bucket: &Bucket,
        key: &str,
        options: UploadOptions,
    ) -> Result<Upload> {
        let path = path_of(bucket, key)?;
        let options = UploadOptions { parents: true, ..options };
        self.open_upload(caller, &SpaceRef::Id(bucket.id), &path, options).await
    }

    /// Finds an object, to be read: the current version or another one.
    ///
    /// Errors: `NotFound`, for directories of a tree too, and naming the delete marker if that is
    /// current; `WrongType`, naming it, if the version asked for is one.
    pub async fn object(
        &self,
        caller: &Caller,
        bucket: &Bucket,
        key: &str,
        version: Option<VersionId>,
    ) -> Result<Download> {
        let path = path_of(bucket, key).map_err(|_no_name| no_object())?;
        if bucket.versioning != Versioning::Off {
            return self.object_version(caller, bucket, &path, version).await;
        }
        if version.is_some_and(|version| version != VersionId::Null) {
            return Err(Error::not_found("version"));
        }
        let target = Target::Path(SpaceRef::Id(bucket.id), path);
        let found = self.download(caller, &target, None).await;
        found.map_err(|error| match error.kind() {
            ErrorKind::WrongType | ErrorKind::NotFound => no_object(),
            _ => error,
        })
    }

    /// Copies an object: the copy refers to the same bytes.
    ///
    /// Errors: `NotFound` for the source; `Precondition` of either; those of an upload.
    pub async fn copy_object(
        &self,
        caller: &Caller,
        from: (&Bucket, &str),
        to: (&Bucket, &str),
        options: CopyOptions,
    ) -> Result<ObjectEntry> {
        let path = path_of(from.0, from.1).map_err(|_no_name| no_object())?;
        let (conditions, retention) = (options.conditions.clone(), options.retention);
        let reader = options.reader.clone().unwrap_or_else(|| caller.clone());
        let source = OtherObject { caller: reader, at: from.0.id.into(), path, options };
        let path = path_of(to.0, to.1)?;
        // No reader may see the source's bytes go between the look at it and the commit.
        let _note = self.inner.epochs.note();
        let commit = Commit {
            place: self.aim(caller, &SpaceRef::Id(to.0.id), &path).await?,
            options: UploadOptions { conditions, parents: true, ..UploadOptions::default() },
            content_type: content_type(None)?,
            info: None,
            finished: Finished::nothing(self),
            retention,
            source: Some(Box::new(source)),
            reservation: None,
            carrier: None,
        };
        let written = Box::pin(commit.run(self)).await?;
        let target = Target::Node(written.entry.id);
        let revision = Some(written.entry.revision);
        let copy = self.download(caller, &target, revision).await;
        // Committed: what fails now must not be told as if nothing had happened.
        Ok(copy.map_err(Error::of_unknown_outcome)?.object())
    }
}

impl Source for OtherObject {
    fn read<'a>(&'a self, larder: &'a Larder, txn: &'a mut Txn) -> BoxFuture<'a, Result<Copied>> {
        Box::pin(self.look(larder, txn))
    }
}

impl OtherObject {
    async fn look(&self, larder: &Larder, txn: &mut Txn) -> Result<Copied> {
        let at = self.at.clone();
        let room = larder.open_room(&*txn.snapshot, &self.caller, at, Right::Read).await?;
        if self.options.reader.is_some() {
            // What lets them read must stand until the copy is there.
            self.caller.grounds.hold(txn);
        }
        let (node, state) = match self.options.version {
            Some(version) if room.versioning() != Versioning::Off => {
                let snapshot = Arc::clone(&txn.snapshot);
                let found = version_in(&*snapshot, &room, &self.path, Some(version)).await?;
                lookup::root_chain(&*snapshot, &room).await?.hold(txn).await?;
                (found.node, found.state)
            }
            Some(version) if version != VersionId::Null => return Err(no_object()),
            _ => {
                let found = lookup::resolve(&*txn.snapshot, &room, &self.path).await;
                let found = found.map_err(|error| match error.kind() {
                    ErrorKind::WrongType | ErrorKind::NotFound => no_object(),
                    _ => error,
                })?;
                found.parent.hold(txn).await?;
                match found.dirent.value.body {
                    DirentBody::File(state) => (found.dirent.value.node, state),
                    DirentBody::Dir | DirentBody::Ref(_) => return Err(no_object()),
                }
            }
        };
        self.options.source.check_file(Some((node, &state)))?;
        let before = state.object.as_deref().cloned();
        let (kind, mut info) = match &self.options.replace {
            Some((kind, info)) => {
                let ObjectInfo { digest, checksum, parts, .. } = before.unwrap_or_default();
                let kind = content_type(kind.as_deref())?;
                (kind, Some(ObjectInfo { digest, checksum, parts, ..info.clone() }))
            }
            None => (Arc::clone(&state.content_type), before),
        };
        if let Some(info) = &mut info {
            info.acl = Acl::default();
        }
        if self.options.acl != Acl::default() {
            info.get_or_insert_default().acl = self.options.acl.clone();
        }
        if let Some(checksum) = &self.options.checksum {
            info.get_or_insert_default().checksum = Some(checksum.clone());
        }
        let finished = Finished {
            id: state.blob,
            size: state.size,
            sha256: state.sha256,
            ..Finished::nothing(larder)
        };
        Ok(Copied { finished, content_type: kind, info: info.map(Arc::new) })
    }
}

impl Finished {
    /// Nothing, until it is known what.
    fn nothing(larder: &Larder) -> Self {
        let inner = &larder.inner;
        Self {
            id: inner.staging.inline_id(inner.incarnation),
            size: 0,
            sha256: None,
            content: Content::Inline(bytes::Bytes::new()),
            staged: None,
            _memory: None,
        }
    }
}

/// A file as an object.
pub(super) fn object_entry(
    key: String,
    node: NodeId,
    state: &FileState,
    latest: bool,
) -> ObjectEntry {
    ObjectEntry {
        key,
        node,
        revision: state.revision,
        size: state.size,
        modified: state.modified,
        etag: state.object_etag(node),
        content_type: Arc::clone(&state.content_type),
        info: state.object.clone(),
        version: state.version_id(node),
        marker: state.is_marker(),
        latest,
        retention: state.mark().retention,
        hold: state.mark().hold,
    }
}

impl Download {
    /// The file as S3 sees it.
    pub fn object(&self) -> ObjectEntry {
        let entry = self.entry();
        object_entry(entry.path.to_string(), entry.id, self.state(), self.latest())
    }
}
