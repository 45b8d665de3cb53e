//! Runs operations on a real store and tells what it answers in the model's words.
//!
//! Promises: content is read back whole and compared byte by byte; an etag always stands for the
//! same revision of the same node, and each of those for one etag.
//!
//! Not here: what the answers must be ([`super::steps`]).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use larder_base::{
    ErrorKind, Outcome as Fate,
    digest::Sha256,
    id::{NodeId, TrashId},
    name::{EntryName, TreePath},
};

use super::{
    fixture::{Fixture, read_all},
    model::{Bound, RealAnswer},
    op::{At, Body, Op, Outcome, Refusal, Seen, SeenItem, SeenRevision, SeenSpace, When},
};
use crate::{
    Conditions, Entry, EntryKind, Error, EtagSet, LimitsChange, ListOptions, PolicyChange,
    RestoreOptions, Result, RevisionInfo, SpaceChange, SpaceLimits, SpaceRef, Target, TrashItem,
    UploadOptions,
};

type Real = Outcome<NodeId, TrashId>;

/// All that is seen of a real store.
pub type Observed = Vec<SeenSpace<NodeId, TrashId>>;

/// A real store that operations are run on. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Driver {
    /// The store.
    pub fixture: Fixture,
    /// The spaces that operations number.
    pub spaces: Vec<SpaceRef>,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    bodies: HashMap<Sha256, Body>,
    tags: BTreeMap<(NodeId, u64), String>,
    tagged: BTreeMap<String, (NodeId, u64)>,
}

/// An answer, and whether a refused operation may still have had an effect.
#[derive(Clone, Debug)]
pub struct Told {
    /// The answer.
    pub answer: RealAnswer,
    /// What a refusal says of its effect.
    pub fate: Fate,
    /// What it says to people.
    pub detail: String,
}

impl Driver {
    /// A driver with so many new project spaces.
    pub async fn new(fixture: Fixture, spaces: usize) -> Self {
        let mut refs = Vec::new();
        for space in 0..spaces {
            let name = format!("space-{space}");
            refs.push(fixture.space(&name, SpaceLimits::default()).await);
        }
        Self { fixture, spaces: refs, known: Arc::default() }
    }

    /// The same operations on a store that has the same spaces.
    pub fn over(&self, fixture: Fixture) -> Self {
        Self { fixture, ..self.clone() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs an operation. `bound` says which ids its numbers stand for.
    pub async fn run(&self, op: &Op, bound: &Bound) -> Told {
        match self.call(op, bound).await {
            Ok(outcome) => {
                Told { answer: Ok(outcome), fate: Fate::NotApplied, detail: String::new() }
            }
            Err(error) => {
                let existing = error.existing().map(|id| id.parse().expect("the id of a node"));
                Told {
                    answer: Err(Refusal { kind: error.kind(), existing }),
                    fate: error.outcome(),
                    detail: format!("{error:?}"),
                }
            }
        }
    }

    async fn call(&self, op: &Op, bound: &Bound) -> Result<Real> {
        let (larder, root) = (&self.fixture.larder, &self.fixture.root);
        let item = |no: &u64| bound.item(*no).expect("an item that is known");
        match op {
            Op::CreateDir { at, parents } => {
                let path = tree_path(&at.path);
                let made = larder.create_dir(root, self.space(at), &path, *parents).await?;
                Ok(Outcome::Entry(self.seen(&made.0), made.1))
            }
            Op::Upload { .. } => self.upload(op, bound).await,
            Op::Move { space, from, to, overwrite } => {
                let (from, to) = (tree_path(from), tree_path(to));
                let space = &self.spaces[*space];
                let moved = larder.move_entry(root, space, &from, &to, *overwrite).await?;
                Ok(Outcome::Entry(self.seen(&moved.0), moved.1))
            }
            Op::Copy { from, to, overwrite } => {
                let (from_path, to_path) = (tree_path(&from.path), tree_path(&to.path));
                let source = (self.space(from), &from_path);
                let target = (self.space(to), &to_path);
                let copied = larder.copy_entry(root, source, target, *overwrite).await?;
                Ok(Outcome::Entry(self.seen(&copied.0), copied.1))
            }
            Op::Delete { at, when } => {
                let conditions = self.conditions(*when, bound);
                Ok(Outcome::Trashed(seen_item(
                    &larder.delete(root, &self.target(at), &conditions).await?,
                )))
            }
            Op::Restore { space, item: no, to, rename, recreate } => {
                let options = RestoreOptions {
                    to: to.as_ref().map(|to| tree_path(to)),
                    rename: *rename,
                    recreate_parents: *recreate,
                };
                let space = &self.spaces[*space];
                let entry = larder.restore(root, space, item(no), &options).await?;
                Ok(Outcome::Entry(self.seen(&entry), true))
            }
            Op::Purge { space, item: no } => {
                larder.purge(root, &self.spaces[*space], item(no)).await?;
                Ok(Outcome::Done)
            }
            Op::EmptyTrash { space } => {
                larder.empty_trash(root, &self.spaces[*space]).await?;
                Ok(Outcome::Done)
            }
            Op::RestoreRevision { at, revision } => {
                let path = tree_path(&at.path);
                let entry = larder.restore_revision(root, self.space(at), &path, *revision).await?;
                Ok(Outcome::Entry(self.seen(&entry), false))
            }
            Op::DeleteRevision { at, revision } => {
                let path = tree_path(&at.path);
                larder.delete_revision(root, self.space(at), &path, *revision).await?;
                Ok(Outcome::Done)
            }
            Op::SetLimit { .. } | Op::SetVersionsKeep { .. } => self.change_space(op).await,
            Op::Collect => {
                larder.collect(root).await?;
                Ok(Outcome::Done)
            }
            _ => self.read(op, bound).await,
        }
    }

    async fn read(&self, op: &Op, bound: &Bound) -> Result<Real> {
        let (larder, root) = (&self.fixture.larder, &self.fixture.root);
        match op {
            Op::Stat { at } => {
                Ok(Outcome::Entry(self.seen(&larder.stat(root, &self.target(at)).await?), false))
            }
            Op::StatNode { node } => {
                let nobody = NodeId::from_bytes([0; 16]);
                let target = Target::Node(bound.node(*node).unwrap_or(nobody));
                Ok(Outcome::Entry(self.seen(&larder.stat(root, &target).await?), false))
            }
            Op::List { at, recursive } => Ok(Outcome::Entries(self.list(at, *recursive).await?)),
            Op::Get { at, revision } => Ok(Outcome::Entry(self.get(at, *revision).await?, false)),
            Op::Revisions { at } => Ok(Outcome::Revisions(self.revisions(at).await?)),
            _ => Err(Error::internal("no such operation of the tests")),
        }
    }

    async fn upload(&self, op: &Op, bound: &Bound) -> Result<Real> {
        let Op::Upload { at, body, parents, declared, when } = op else {
            return Err(Error::internal("no upload"));
        };
        let bytes = body.bytes();
        self.known().bodies.insert(Sha256::of(&bytes), *body);
        let options = UploadOptions {
            length: declared.then_some(bytes.len() as u64),
            conditions: self.conditions(*when, bound),
            parents: *parents,
            ..UploadOptions::default()
        };
        let (larder, root) = (&self.fixture.larder, &self.fixture.root);
        let path = tree_path(&at.path);
        let mut upload = larder.open_upload(root, self.space(at), &path, options).await?;
        for piece in bytes.chunks(70_000) {
            upload.write(bytes.slice_ref(piece)).await?;
        }
        let written = upload.commit().await?;
        Ok(Outcome::Entry(self.seen(&written.entry), written.created))
    }

    async fn change_space(&self, op: &Op) -> Result<Real> {
        let (space, change) = match op {
            Op::SetLimit { space, live } => {
                let limits = LimitsChange { live: Some(*live), retained: None };
                (space, SpaceChange { limits, ..SpaceChange::default() })
            }
            Op::SetVersionsKeep { space, keep } => {
                let versions_keep = Some(*keep);
                let policy = PolicyChange { versions_keep, ..PolicyChange::default() };
                (space, SpaceChange { policy, ..SpaceChange::default() })
            }
            _ => return Err(Error::internal("no change of a space")),
        };
        let Fixture { larder, root, .. } = &self.fixture;
        larder.change_space(root, &self.spaces[*space], change).await?;
        Ok(Outcome::Done)
    }

    /// Downloads a revision and compares its bytes with those of the body it must have.
    async fn get(&self, at: &At, revision: Option<u64>) -> Result<Seen<NodeId>> {
        let Fixture { larder, root, .. } = &self.fixture;
        let download = larder.download(root, &self.target(at), revision).await?;
        let bytes = read_all(&download).await?;
        let seen = self.seen(download.entry());
        let body = seen.body.expect("a file's content");
        assert!(bytes == body.bytes(), "{} r{} has other bytes", seen.path, seen.revision);
        Ok(seen)
    }

    async fn list(&self, at: &At, recursive: bool) -> Result<Vec<Seen<NodeId>>> {
        let options = ListOptions { recursive, ..ListOptions::default() };
        let path = tree_path(&at.path);
        let Fixture { larder, root, .. } = &self.fixture;
        let page = larder.list(root, self.space(at), &path, &options).await?;
        assert_eq!(page.cursor, None, "tests list less than a page");
        Ok(page.entries.iter().map(|entry| self.seen(entry)).collect())
    }

    async fn revisions(&self, at: &At) -> Result<Vec<SeenRevision>> {
        let path = tree_path(&at.path);
        let Fixture { larder, root, .. } = &self.fixture;
        let all = ListOptions::default();
        let page = larder.revisions(root, self.space(at), &path, &all).await?;
        let told = |info: &RevisionInfo| {
            (info.revision, self.body(info.sha256.as_ref()), info.origin.clone())
        };
        Ok(page.entries.iter().map(told).collect())
    }

    /// All that can be seen, when nothing else runs. With `bytes` every revision is read.
    pub async fn observe(&self, bytes: bool) -> Result<Observed> {
        let mut all = Vec::new();
        let Fixture { larder, root, .. } = &self.fixture;
        for (number, space) in self.spaces.iter().enumerate() {
            let entries = self.list(&At { space: number, path: Vec::new() }, true).await?;
            let mut revisions = BTreeMap::new();
            for entry in entries.iter().filter(|entry| !entry.dir) {
                let path = entry.path.split('/').map(str::to_owned).collect();
                let at = At { space: number, path };
                let found = self.revisions(&at).await?;
                if bytes {
                    for (revision, ..) in &found {
                        self.get(&at, Some(*revision)).await?;
                    }
                }
                revisions.insert(entry.path.clone(), found);
            }
            let page = larder.trash(root, space, &ListOptions::default()).await?;
            let mut trash: Vec<_> = page.entries.iter().map(seen_item).collect();
            trash.sort_by(|a, b| (&a.path, a.size).cmp(&(&b.path, b.size)));
            let usage = larder.space(root, space).await?.usage;
            assert_eq!(usage.reserved, 0, "a reservation outlived its request");
            let (live, retained) = (usage.live, usage.retained);
            all.push(SeenSpace { entries, revisions, trash, live, retained });
        }
        Ok(all)
    }

    /// The etag of every directory.
    pub async fn directory_tags(&self) -> Result<BTreeMap<NodeId, String>> {
        let mut tags = BTreeMap::new();
        let Fixture { larder, root, .. } = &self.fixture;
        let options = ListOptions { recursive: true, ..ListOptions::default() };
        for space in &self.spaces {
            let page = larder.list(root, space, &TreePath::root(), &options).await?;
            let dirs = page.entries.iter().filter(|entry| entry.kind == EntryKind::Dir);
            tags.extend(dirs.map(|entry| (entry.id, entry.etag.to_string())));
        }
        Ok(tags)
    }

    fn space(&self, at: &At) -> &SpaceRef {
        &self.spaces[at.space]
    }

    fn target(&self, at: &At) -> Target {
        Target::Path(self.space(at).clone(), tree_path(&at.path))
    }

    fn conditions(&self, when: When, bound: &Bound) -> Conditions {
        let tag = |wanted: Option<(u64, u64)>| {
            let known = wanted.and_then(|(node, revision)| {
                self.known().tags.get(&(bound.node(node)?, revision)).cloned()
            });
            Some(EtagSet::These(vec![known.unwrap_or_else(|| "never".to_owned())]))
        };
        let (if_match, if_none_match) = match when {
            When::Always => (None, None),
            When::New => (None, Some(EtagSet::Any)),
            When::Exists => (Some(EtagSet::Any), None),
            When::Is(wanted) => (tag(wanted), None),
            When::IsNot(wanted) => (None, tag(wanted)),
        };
        Conditions { if_match, if_none_match, if_unmodified_since: None }
    }

    fn seen(&self, entry: &Entry) -> Seen<NodeId> {
        let dir = entry.kind == EntryKind::Dir;
        if !dir {
            let (key, tag) = ((entry.id, entry.revision), entry.etag.to_string());
            let mut known = self.known();
            let first = known.tags.entry(key).or_insert_with(|| tag.clone());
            assert_eq!(*first, tag, "two etags for one revision {key:?}");
            let first = *known.tagged.entry(tag).or_insert(key);
            assert_eq!(first, key, "one etag for two revisions");
        }
        Seen {
            node: entry.id,
            path: entry.path.to_string(),
            dir,
            size: Some(entry.size),
            revision: entry.revision,
            body: (!dir).then(|| self.body(entry.sha256.as_ref())),
        }
    }

    fn body(&self, sha256: Option<&Sha256>) -> Body {
        let sha256 = sha256.expect("every body of the tests has a digest");
        *self.known().bodies.get(sha256).expect("a body that was uploaded")
    }
}

fn seen_item(item: &TrashItem) -> SeenItem<NodeId, TrashId> {
    SeenItem {
        item: item.item,
        node: item.id,
        path: item.path.clone(),
        dir: item.kind == EntryKind::Dir,
        size: item.size,
    }
}

/// The path of these names.
pub fn tree_path(names: &[String]) -> TreePath {
    let names = names.iter().map(|name| EntryName::new(name).expect("a name"));
    TreePath::from_names(names.collect()).expect("a path")
}

/// Whether a refusal is one that faults of the engine explain.
pub fn is_fault(told: &Told) -> bool {
    matches!(&told.answer, Err(Refusal { kind: ErrorKind::Unavailable | ErrorKind::Busy, .. }))
}
