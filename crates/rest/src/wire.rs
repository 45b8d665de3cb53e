//! The JSON types of REST, and how core's types become them and come out of them.
//!
//! Promises: what is not known in a request body is an error; the names are those of the
//! contract, whatever core calls them; no secret is shown but a new key, once.
//!
//! Not here: stored forms (core's schema).

use std::{
    fmt::{self, Display},
    marker::PhantomData,
};

use larder_base::{
    Timestamp,
    name::{EntryName, TreePath},
};
use larder_core::{
    CheckReport, CollectReport, Copies, Entry, EntryKind, Error, JobInfo, LimitsChange, Page,
    Placement, PolicyChange, RestoreOptions, RevisionInfo, SpaceInfo, SpaceKind, SpacePolicy,
    Split, TaskInfo, TrashItem, Written,
};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, value::MapAccessDeserializer},
};

pub(crate) mod account;
pub(crate) mod share;

/// Written as text, straight into the output.
pub(crate) struct Text<T>(pub(crate) T);

impl<T: Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A field that may be absent, null, or a value: `None`, `Some(None)`, `Some(Some(_))`.
fn present<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

/// A JSON object: serde alone would take an array of its fields, too.
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Visitor(PhantomData))
    }
}

/// A field that is an object.
fn object<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Object::deserialize(deserializer).map(|object| object.0)
}

/// A field that is an object or null.
fn maybe_object<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    let object = Option::<Object<T>>::deserialize(deserializer)?;
    Ok(object.map(|object| object.0))
}

pub(crate) fn kind(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "file",
        EntryKind::Dir => "dir",
        EntryKind::Ref => "ref",
    }
}

/// One page of anything: `{<name>: [...], "cursor"}`.
pub(crate) struct PageBody<T> {
    name: &'static str,
    items: Vec<T>,
    cursor: Option<String>,
}

impl<T> PageBody<T> {
    pub(crate) fn new<'a, U>(name: &'static str, page: &'a Page<U>) -> Self
    where
        T: From<&'a U>,
    {
        let items = page.entries.iter().map(T::from).collect();
        Self { name, items, cursor: page.cursor.clone() }
    }

    /// A list that is always whole.
    pub(crate) fn whole<'a, U>(name: &'static str, items: &'a [U]) -> Self
    where
        T: From<&'a U>,
    {
        Self { name, items: items.iter().map(T::from).collect(), cursor: None }
    }
}

impl<T: Serialize> Serialize for PageBody<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(self.name, &self.items)?;
        if let Some(cursor) = &self.cursor {
            map.serialize_entry("cursor", cursor)?;
        }
        map.end()
    }
}

/// An entry.
#[derive(Serialize)]
pub(crate) struct EntryBody<'a> {
    path: Text<&'a TreePath>,
    name: &'a str,
    id: Text<larder_base::id::NodeId>,
    kind: &'static str,
    size: u64,
    etag: Text<larder_core::Etag>,
    revision: u64,
    content_type: Option<&'a str>,
    sha256: Option<Text<larder_base::digest::Sha256>>,
    modified: Text<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<Text<Timestamp>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<share::RefTargetBody>,
}

impl<'a> From<&'a Entry> for EntryBody<'a> {
    fn from(entry: &'a Entry) -> Self {
        Self {
            path: Text(&entry.path),
            name: entry.path.names().last().map_or("", EntryName::as_str),
            id: Text(entry.id),
            kind: kind(entry.kind),
            size: entry.size,
            etag: Text(entry.etag),
            revision: entry.revision,
            content_type: entry.content_type.as_deref(),
            sha256: entry.sha256.map(Text),
            modified: Text(entry.modified),
            expires: entry.expires.map(Text),
            target: entry.target.as_ref().map(Into::into),
        }
    }
}

/// What `POST /v1/files` answers.
#[derive(Serialize)]
pub(crate) struct UploadedBody<'a> {
    file_id: Text<larder_base::id::NodeId>,
    space: Text<larder_base::id::SpaceId>,
    path: Text<&'a TreePath>,
    revision: u64,
    size: u64,
    sha256: Option<Text<larder_base::digest::Sha256>>,
    etag: Text<larder_core::Etag>,
}

impl<'a> From<&'a Written> for UploadedBody<'a> {
    fn from(written: &'a Written) -> Self {
        let entry = &written.entry;
        Self {
            file_id: Text(entry.id),
            space: Text(entry.space),
            path: Text(&entry.path),
            revision: entry.revision,
            size: entry.size,
            sha256: entry.sha256.map(Text),
            etag: Text(entry.etag),
        }
    }
}

/// A revision.
#[derive(Serialize)]
pub(crate) struct RevisionBody<'a> {
    revision: u64,
    size: u64,
    etag: Text<larder_core::Etag>,
    sha256: Option<Text<larder_base::digest::Sha256>>,
    content_type: &'a str,
    author: &'a str,
    created: Text<Timestamp>,
    origin: &'a str,
}

impl<'a> From<&'a RevisionInfo> for RevisionBody<'a> {
    fn from(revision: &'a RevisionInfo) -> Self {
        Self {
            revision: revision.revision,
            size: revision.size,
            etag: Text(revision.etag),
            sha256: revision.sha256.map(Text),
            content_type: &revision.content_type,
            author: &revision.author,
            created: Text(revision.created),
            origin: &revision.origin,
        }
    }
}

/// A trash item.
#[derive(Serialize)]
pub(crate) struct TrashBody<'a> {
    item: Text<larder_base::id::TrashId>,
    id: Text<larder_base::id::NodeId>,
    path: &'a str,
    kind: &'static str,
    size: u64,
    deleted_by: &'a str,
    deleted: Text<Timestamp>,
}

impl<'a> From<&'a TrashItem> for TrashBody<'a> {
    fn from(item: &'a TrashItem) -> Self {
        Self {
            item: Text(item.item),
            id: Text(item.id),
            path: &item.path,
            kind: kind(item.kind),
            size: item.size,
            deleted_by: &item.deleted_by,
            deleted: Text(item.deleted),
        }
    }
}

/// Kinds of spaces by name.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KindBody {
    Home,
    Project,
    Bucket,
}

impl From<SpaceKind> for KindBody {
    fn from(kind: SpaceKind) -> Self {
        match kind {
            SpaceKind::Home => Self::Home,
            SpaceKind::Project => Self::Project,
            SpaceKind::Bucket => Self::Bucket,
        }
    }
}

impl From<KindBody> for SpaceKind {
    fn from(kind: KindBody) -> Self {
        match kind {
            KindBody::Home => Self::Home,
            KindBody::Project => Self::Project,
            KindBody::Bucket => Self::Bucket,
        }
    }
}

/// `"whole"`, `{"fixed": bytes}` or `{"stripe": count}`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SplitBody {
    Whole,
    Fixed(u64),
    Stripe(u32),
}

/// A number or `"all"`.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum CopiesBody {
    Count(u32),
    All(AllBody),
}

/// The word.
#[derive(Serialize, Deserialize)]
pub(crate) enum AllBody {
    #[serde(rename = "all")]
    All,
}

#[derive(Serialize)]
struct VersionsBody {
    keep: Option<u32>,
    days: Option<u32>,
}

#[derive(Serialize)]
struct PolicyBody {
    split: SplitBody,
    copies: CopiesBody,
    ack: u32,
    versions: VersionsBody,
    trash_days: Option<u32>,
}

impl From<&SpacePolicy> for PolicyBody {
    fn from(policy: &SpacePolicy) -> Self {
        let Placement { split, copies, ack } = policy.placement;
        Self {
            split: match split {
                Split::Whole => SplitBody::Whole,
                Split::Fixed { bytes } => SplitBody::Fixed(bytes),
                Split::Stripe { count } => SplitBody::Stripe(count),
            },
            copies: match copies {
                Copies::Count(count) => CopiesBody::Count(count),
                Copies::All => CopiesBody::All(AllBody::All),
            },
            ack,
            versions: VersionsBody { keep: policy.versions_keep, days: policy.versions_days },
            trash_days: policy.trash_days,
        }
    }
}

#[derive(Serialize)]
struct LimitsBody {
    live: Option<u64>,
    retained: Option<u64>,
}

#[derive(Serialize)]
struct UsageBody {
    live: u64,
    retained: u64,
    reserved: u64,
}

/// A space.
#[derive(Serialize)]
pub(crate) struct SpaceBody<'a> {
    id: Text<larder_base::id::SpaceId>,
    name: &'a str,
    kind: KindBody,
    owner: Text<larder_base::id::UserId>,
    limits: LimitsBody,
    policy: PolicyBody,
    usage: UsageBody,
    created: Text<Timestamp>,
}

impl<'a> From<&'a SpaceInfo> for SpaceBody<'a> {
    fn from(space: &'a SpaceInfo) -> Self {
        let (limits, usage) = (space.limits, space.usage);
        Self {
            id: Text(space.id),
            name: &space.name,
            kind: space.kind.into(),
            owner: Text(space.owner),
            limits: LimitsBody { live: limits.live, retained: limits.retained },
            policy: (&space.policy).into(),
            usage: UsageBody {
                live: usage.live,
                retained: usage.retained,
                reserved: usage.reserved,
            },
            created: Text(space.created),
        }
    }
}

/// Limits in a request: what is absent stays.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitsChangeBody {
    #[serde(default, deserialize_with = "present")]
    live: Option<Option<u64>>,
    #[serde(default, deserialize_with = "present")]
    retained: Option<Option<u64>>,
}

impl From<LimitsChangeBody> for LimitsChange {
    fn from(body: LimitsChangeBody) -> Self {
        Self { live: body.live, retained: body.retained }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct VersionsChange {
    #[serde(default, deserialize_with = "present")]
    keep: Option<Option<u32>>,
    #[serde(default, deserialize_with = "present")]
    days: Option<Option<u32>>,
}

/// A policy in a request: what is absent stays.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicyChangeBody {
    split: Option<SplitBody>,
    copies: Option<CopiesBody>,
    ack: Option<u32>,
    #[serde(default, deserialize_with = "object")]
    versions: VersionsChange,
    #[serde(default, deserialize_with = "present")]
    trash_days: Option<Option<u32>>,
}

impl From<PolicyChangeBody> for PolicyChange {
    fn from(body: PolicyChangeBody) -> Self {
        Self {
            split: body.split.map(|split| match split {
                SplitBody::Whole => Split::Whole,
                SplitBody::Fixed(bytes) => Split::Fixed { bytes },
                SplitBody::Stripe(count) => Split::Stripe { count },
            }),
            copies: body.copies.map(|copies| match copies {
                CopiesBody::Count(count) => Copies::Count(count),
                CopiesBody::All(_) => Copies::All,
            }),
            ack: body.ack,
            versions_keep: body.versions.keep,
            versions_days: body.versions.days,
            trash_days: body.trash_days,
        }
    }
}

/// Body of `POST /v1/spaces`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSpaceBody {
    pub(crate) name: String,
    pub(crate) kind: KindBody,
    #[serde(default, deserialize_with = "maybe_object")]
    pub(crate) limits: Option<LimitsChangeBody>,
    #[serde(default, deserialize_with = "maybe_object")]
    pub(crate) policy: Option<PolicyChangeBody>,
}

/// Body of `PATCH /v1/spaces/{space}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SpaceChangeBody {
    pub(crate) name: Option<String>,
    #[serde(default, deserialize_with = "object")]
    pub(crate) limits: LimitsChangeBody,
    #[serde(default, deserialize_with = "object")]
    pub(crate) policy: PolicyChangeBody,
}

/// Body of `move` and `copy`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RelocateBody {
    pub(crate) from: String,
    pub(crate) to: String,
    #[serde(default)]
    pub(crate) overwrite: bool,
    pub(crate) to_space: Option<String>,
}

/// Body of `POST .../revisions/{path}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RestoreRevisionBody {
    pub(crate) revision: u64,
}

/// Body of `POST .../trash/{item}/restore`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RestoreBody {
    to: Option<String>,
    rename: bool,
    recreate_parents: bool,
}

impl TryFrom<RestoreBody> for RestoreOptions {
    type Error = Error;

    fn try_from(body: RestoreBody) -> Result<Self, Error> {
        Ok(Self {
            to: body.to.as_deref().map(TreePath::parse).transpose()?,
            rename: body.rename,
            recreate_parents: body.recreate_parents,
        })
    }
}

#[derive(Serialize)]
struct FindingBody<'a> {
    invariant: &'a str,
    detail: &'a str,
}

#[derive(Serialize)]
struct CountsBody {
    spaces: u64,
    directories: u64,
    files: u64,
    revisions: u64,
    trash_items: u64,
    blobs: u64,
    chunks: u64,
    bytes: u64,
}

/// What a check found.
#[derive(Serialize)]
pub(crate) struct CheckBody<'a> {
    ok: bool,
    violations: u64,
    findings: Vec<FindingBody<'a>>,
    counts: CountsBody,
}

impl<'a> From<&'a CheckReport> for CheckBody<'a> {
    fn from(report: &'a CheckReport) -> Self {
        let counts = report.counts;
        let findings = report.findings.iter();
        Self {
            ok: report.violations == 0,
            violations: report.violations,
            findings: findings
                .map(|finding| FindingBody {
                    invariant: finding.invariant,
                    detail: &finding.detail,
                })
                .collect(),
            counts: CountsBody {
                spaces: counts.spaces,
                directories: counts.directories,
                files: counts.files,
                revisions: counts.revisions,
                trash_items: counts.trash_items,
                blobs: counts.blobs,
                chunks: counts.chunks,
                bytes: counts.bytes,
            },
        }
    }
}

/// What a collection did.
#[derive(Serialize)]
pub(crate) struct CollectBody {
    blobs: u64,
    bytes: u64,
    orphans: u64,
    waiting: u64,
}

impl From<CollectReport> for CollectBody {
    fn from(report: CollectReport) -> Self {
        Self {
            blobs: report.blobs,
            bytes: report.bytes,
            orphans: report.orphans,
            waiting: report.waiting,
        }
    }
}

/// A job.
#[derive(Serialize)]
pub(crate) struct JobBody<'a> {
    id: Text<larder_base::id::JobId>,
    kind: &'a str,
    subject: &'a str,
    state: &'a str,
    progress: u64,
    created: Text<Timestamp>,
    updated: Text<Timestamp>,
    finished: Option<Text<Timestamp>>,
    started_by: Option<&'a str>,
    cancellable: bool,
    detail: Option<&'a str>,
}

impl<'a> From<&'a JobInfo> for JobBody<'a> {
    fn from(job: &'a JobInfo) -> Self {
        Self {
            id: Text(job.id),
            kind: &job.kind,
            subject: &job.subject,
            state: &job.state,
            progress: job.progress,
            created: Text(job.created),
            updated: Text(job.updated),
            finished: job.finished.map(Text),
            started_by: job.started_by.as_deref(),
            cancellable: job.cancellable,
            detail: job.detail.as_deref(),
        }
    }
}

/// A task of the queue of heavy work.
#[derive(Serialize)]
pub(crate) struct TaskBody<'a> {
    number: u64,
    user: &'a str,
    class: &'a str,
    priority: u8,
    state: &'a str,
    begun: Text<Timestamp>,
    since: Text<Timestamp>,
}

impl<'a> From<&'a TaskInfo> for TaskBody<'a> {
    fn from(task: &'a TaskInfo) -> Self {
        Self {
            number: task.number,
            user: &task.client.name,
            class: task.class.name(),
            priority: task.client.priority.number(),
            state: task.state.name(),
            begun: Text(task.begun),
            since: Text(task.since),
        }
    }
}

/// What `/health` answers.
#[derive(Serialize)]
pub(crate) struct HealthBody<'a> {
    pub(crate) status: &'a str,
    pub(crate) version: &'a str,
}

/// What `/ready` answers.
#[derive(Serialize)]
pub(crate) struct ReadyBody<'a> {
    pub(crate) ready: bool,
    pub(crate) reasons: &'a [String],
}
