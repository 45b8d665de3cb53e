//! The domain as plain maps: what there must be.
//!
//! Nodes and trash items have numbers here; [`Bound`] binds them to the ids of a real store as
//! these become known, and refuses what does not fit one to one.
//!
//! Not here: what the operations change and answer ([`super::steps`]).

use std::collections::{BTreeMap, BTreeSet};

use larder_base::{
    id::{NodeId, TrashId},
    limits::INLINE_BYTES_MAX,
};

pub use super::op::Body;
use super::op::{
    At, ItemNo, Names, NodeNo, Op, Outcome, Refusal, Seen, SeenItem, SeenRevision, SeenSpace,
};

/// What the model answers.
pub type Answer = Result<Outcome<NodeNo, ItemNo>, Refusal<NodeNo>>;

/// What a real store answers.
pub type RealAnswer = Result<Outcome<NodeId, TrashId>, Refusal<NodeId>>;

/// Every space with all that is in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Model {
    /// The spaces.
    pub spaces: Vec<Space>,
    pub(crate) nodes: BTreeMap<NodeNo, Node>,
    next: u64,
    /// Which ids the numbers stand for.
    pub bound: Bound,
    /// Bytes that may be promised to other calls at once: a refusal for want of room may count
    /// them.
    pub grace: u64,
    /// Whether answers are as of the same moment as the effects; of concurrent calls, the sizes
    /// of directories need not be.
    pub alone: bool,
    /// Purged things may still be counted as retained.
    pub unsettled: bool,
}

/// A space.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Space {
    /// Its root.
    pub root: NodeNo,
    /// Limit of live bytes.
    pub limit: Option<u64>,
    /// Older revisions kept.
    pub keep: Option<u32>,
    /// Its trash.
    pub trash: BTreeMap<ItemNo, Item>,
}

/// An item of the trash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    /// What was deleted.
    pub node: NodeNo,
    /// The directory that it was in.
    pub parent: NodeNo,
    /// Its path then.
    pub path: Names,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Node {
    pub(crate) space: usize,
    /// Parent and name; none for a root and for what is itself an item of the trash.
    pub(crate) place: Option<(NodeNo, String)>,
    pub(crate) content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Content {
    Dir(BTreeMap<String, NodeNo>),
    /// Content and origin of each revision; the highest number is current.
    File(BTreeMap<u64, (Body, String)>),
}

/// A file or a directory with all that is in it, as it was at one moment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Image {
    /// A file's current content.
    File(Body),
    /// A directory.
    Dir(BTreeMap<String, Image>),
}

/// Which ids the numbers stand for: one to one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bound {
    nodes: BTreeMap<NodeNo, NodeId>,
    node_ids: BTreeMap<NodeId, NodeNo>,
    items: BTreeMap<ItemNo, TrashId>,
    item_ids: BTreeMap<TrashId, ItemNo>,
}

impl Bound {
    /// The id of a node, if it is known.
    pub fn node(&self, no: NodeNo) -> Option<NodeId> {
        self.nodes.get(&no).copied()
    }

    /// The id of a trash item, if it is known.
    pub fn item(&self, no: ItemNo) -> Option<TrashId> {
        self.items.get(&no).copied()
    }

    /// An operation in the numbers of `other`, which is bound to the same ids.
    pub fn translate(&self, op: &Op, other: &Self) -> Op {
        op.renumber(
            |no| other.node_ids.get(self.nodes.get(&no)?).copied(),
            |no| other.item_ids.get(self.items.get(&no)?).copied(),
        )
    }

    fn is_node(&mut self, no: NodeNo, id: NodeId) -> Result<(), String> {
        let (known, known_id) = (*self.nodes.entry(no).or_insert(id), id);
        let back = *self.node_ids.entry(id).or_insert(no);
        if (known, back) == (known_id, no) {
            return Ok(());
        }
        Err(format!("node {no} is {known}, not {id}, which is node {back}"))
    }

    fn is_item(&mut self, no: ItemNo, id: TrashId) -> Result<(), String> {
        let known = *self.items.entry(no).or_insert(id);
        let back = *self.item_ids.entry(id).or_insert(no);
        if (known, back) == (id, no) {
            return Ok(());
        }
        Err(format!("item {no} is {known}, not {id}, which is item {back}"))
    }
}

impl Model {
    /// Empty spaces.
    pub fn new(spaces: usize) -> Self {
        let mut model = Self {
            spaces: Vec::new(),
            nodes: BTreeMap::new(),
            next: 1,
            bound: Bound::default(),
            grace: 0,
            alone: true,
            unsettled: false,
        };
        for space in 0..spaces {
            let root = model.add(space, None, Content::Dir(BTreeMap::new()));
            model.spaces.push(Space { root, limit: None, keep: None, trash: BTreeMap::new() });
        }
        model
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Adds a node, into its place if it has one.
    pub(crate) fn add(
        &mut self,
        space: usize,
        place: Option<(NodeNo, String)>,
        content: Content,
    ) -> NodeNo {
        let no = self.number();
        self.nodes.insert(no, Node { space, place: None, content });
        if let Some((parent, name)) = place {
            self.link(no, parent, &name);
        }
        no
    }

    pub(crate) fn link(&mut self, no: NodeNo, parent: NodeNo, name: &str) {
        self.node_mut(no).place = Some((parent, name.to_owned()));
        let before = self.children_mut(parent).insert(name.to_owned(), no);
        assert!(before.is_none(), "the model puts two nodes under one name");
    }

    pub(crate) fn unlink(&mut self, no: NodeNo) {
        if let Some((parent, name)) = self.node_mut(no).place.take() {
            self.children_mut(parent).remove(&name);
        }
    }

    /// Removes a node and all below it.
    pub(crate) fn destroy(&mut self, no: NodeNo) {
        self.unlink(no);
        let mut doomed = vec![no];
        while let Some(no) = doomed.pop() {
            if let Some(Node { content: Content::Dir(children), .. }) = self.nodes.remove(&no) {
                doomed.extend(children.into_values());
            }
        }
    }

    pub(crate) fn node(&self, no: NodeNo) -> &Node {
        self.nodes.get(&no).expect("the model refers to nodes that it has")
    }

    pub(crate) fn node_mut(&mut self, no: NodeNo) -> &mut Node {
        self.nodes.get_mut(&no).expect("the model refers to nodes that it has")
    }

    fn children_mut(&mut self, no: NodeNo) -> &mut BTreeMap<String, NodeNo> {
        match &mut self.node_mut(no).content {
            Content::Dir(children) => children,
            Content::File(_) => panic!("the model takes a file for a directory"),
        }
    }

    pub(crate) fn is_dir(&self, no: NodeNo) -> bool {
        matches!(self.node(no).content, Content::Dir(_))
    }

    pub(crate) fn child(&self, dir: NodeNo, name: &str) -> Option<NodeNo> {
        match &self.node(dir).content {
            Content::Dir(children) => children.get(name).copied(),
            Content::File(_) => None,
        }
    }

    /// The current revision of a file.
    pub(crate) fn current(&self, no: NodeNo) -> Option<(u64, Body)> {
        match &self.node(no).content {
            Content::Dir(_) => None,
            Content::File(revisions) => {
                revisions.last_key_value().map(|(number, (body, _))| (*number, *body))
            }
        }
    }

    /// From `no` up to its root, `no` first.
    pub(crate) fn chain(&self, no: NodeNo) -> Vec<NodeNo> {
        let up = |no: &NodeNo| self.node(*no).place.as_ref().map(|(parent, _)| *parent);
        std::iter::successors(Some(no), up).collect()
    }

    /// Whether a node is in the tree of its space.
    pub(crate) fn attached(&self, no: NodeNo) -> bool {
        self.nodes.contains_key(&no)
            && self.chain(no).last() == Some(&self.spaces[self.node(no).space].root)
    }

    /// The names from the root down to an attached node.
    pub(crate) fn path(&self, no: NodeNo) -> Names {
        let chain = self.chain(no);
        let named = chain.iter().filter_map(|no| self.node(*no).place.as_ref());
        let mut names: Names = named.map(|(_, name)| name.clone()).collect();
        names.reverse();
        names
    }

    /// Nodes from `no` down, each before what is in it.
    fn below(&self, no: NodeNo) -> Vec<NodeNo> {
        let mut found = Vec::new();
        let mut waiting = vec![no];
        while let Some(no) = waiting.pop() {
            found.push(no);
            if let Content::Dir(children) = &self.node(no).content {
                waiting.extend(children.values().rev());
            }
        }
        found
    }

    /// Bytes of current revisions from `no` down.
    pub(crate) fn size(&self, no: NodeNo) -> u64 {
        let current = |no| self.current(no).map_or(0, |(_, body)| u64::from(body.length));
        self.below(no).into_iter().map(current).sum()
    }

    /// Bytes of older revisions from `no` down.
    fn older(&self, no: NodeNo) -> u64 {
        let all = |no| match &self.node(no).content {
            Content::Dir(_) => 0,
            Content::File(revisions) => {
                revisions.values().map(|(body, _)| u64::from(body.length)).sum()
            }
        };
        self.below(no).into_iter().map(all).sum::<u64>() - self.size(no)
    }

    /// A copy of what is at a node now.
    pub(crate) fn image(&self, no: NodeNo) -> Image {
        match &self.node(no).content {
            Content::File(_) => Image::File(self.current(no).expect("a file").1),
            Content::Dir(children) => Image::Dir(
                children.iter().map(|(name, no)| (name.clone(), self.image(*no))).collect(),
            ),
        }
    }

    /// What is seen of an attached node.
    pub(crate) fn seen(&self, no: NodeNo) -> Seen<NodeNo> {
        let current = self.current(no);
        Seen {
            node: no,
            path: self.path(no).join("/"),
            dir: current.is_none(),
            size: Some(self.size(no)),
            revision: current.map_or(0, |(number, _)| number),
            body: current.map(|(_, body)| body),
        }
    }

    pub(crate) fn seen_item(&self, no: ItemNo, item: &Item) -> SeenItem<NodeNo, ItemNo> {
        SeenItem {
            item: no,
            node: item.node,
            path: item.path.join("/"),
            dir: self.is_dir(item.node),
            size: self.size(item.node),
        }
    }

    pub(crate) fn seen_revisions(&self, no: NodeNo) -> Vec<SeenRevision> {
        match &self.node(no).content {
            Content::Dir(_) => Vec::new(),
            Content::File(revisions) => revisions
                .iter()
                .rev()
                .map(|(number, (body, origin))| (*number, *body, origin.clone()))
                .collect(),
        }
    }

    /// Entries of a directory, or all below it, in the order of a listing.
    pub(crate) fn list(&self, dir: NodeNo, recursive: bool) -> Vec<Seen<NodeNo>> {
        let below = self.below(dir).into_iter().skip(1);
        let own = |no: &NodeNo| {
            recursive || self.node(*no).place.as_ref().is_some_and(|(parent, _)| *parent == dir)
        };
        below.filter(own).map(|no| self.seen(no)).collect()
    }

    /// All that can be seen of each space.
    pub fn observe(&self) -> Vec<SeenSpace<NodeNo, ItemNo>> {
        let observe = |space: &Space| {
            let files = self.below(space.root).into_iter().filter(|no| !self.is_dir(*no));
            let revisions =
                files.map(|no| (self.path(no).join("/"), self.seen_revisions(no))).collect();
            let mut trash: Vec<_> =
                space.trash.iter().map(|(no, item)| self.seen_item(*no, item)).collect();
            trash.sort_by(|a, b| (&a.path, a.size).cmp(&(&b.path, b.size)));
            let trashed = |item: &Item| self.size(item.node) + self.older(item.node);
            SeenSpace {
                entries: self.list(space.root, true),
                revisions,
                trash,
                live: self.size(space.root),
                retained: self.older(space.root) + space.trash.values().map(trashed).sum::<u64>(),
            }
        };
        self.spaces.iter().map(observe).collect()
    }

    /// Bodies that are too large to be inline, wherever they are referred to: each was uploaded
    /// once, so each is one blob.
    pub fn large_bodies(&self) -> BTreeSet<Body> {
        let contents = self.nodes.values().map(|node| &node.content);
        contents
            .filter_map(|content| match content {
                Content::Dir(_) => None,
                Content::File(revisions) => Some(revisions.values().map(|(body, _)| *body)),
            })
            .flatten()
            .filter(|body| body.length as usize > INLINE_BYTES_MAX)
            .collect()
    }

    /// Everything that the etag of a directory must tell: names, nodes and revisions below it.
    pub fn fingerprint(&self, dir: NodeNo) -> String {
        let entries = self.list(dir, true).into_iter();
        let depth = self.path(dir).len();
        entries
            .map(|seen| {
                let names: Vec<_> = seen.path.split('/').skip(depth).collect();
                format!("{}={}.{};", names.join("/"), seen.node, seen.revision)
            })
            .collect()
    }

    /// Whether this is what a real store has answered; binds the ids that it tells.
    pub fn agrees(&mut self, ours: &Answer, real: &RealAnswer) -> Result<(), String> {
        let differ = || Err(format!("should be {ours:?}, is {real:?}"));
        match (ours, real) {
            (Ok(ours), Ok(real)) => match (ours, real) {
                (Outcome::Done, Outcome::Done) => Ok(()),
                (Outcome::Revisions(ours), Outcome::Revisions(real)) if ours == real => Ok(()),
                (Outcome::Entry(ours, made), Outcome::Entry(real, really)) if made == really => {
                    self.same_entry(ours, real)
                }
                (Outcome::Entries(ours), Outcome::Entries(real)) => self.same_entries(ours, real),
                (Outcome::Trashed(ours), Outcome::Trashed(real)) => self.same_item(ours, real),
                _ => differ(),
            },
            (Err(ours), Err(real)) if ours.kind == real.kind => {
                match (ours.existing, real.existing) {
                    (None, None) => Ok(()),
                    (Some(no), Some(id)) => self.bound.is_node(no, id),
                    _ => differ(),
                }
            }
            _ => differ(),
        }
    }

    fn same_entry(&mut self, ours: &Seen<NodeNo>, real: &Seen<NodeId>) -> Result<(), String> {
        let size = ours.size.or(real.size);
        let plain =
            |path: &String, dir, size, revision, body| (path.clone(), dir, size, revision, body);
        let mine = plain(&ours.path, ours.dir, size, ours.revision, ours.body);
        let theirs = plain(&real.path, real.dir, real.size, real.revision, real.body);
        if mine != theirs {
            return Err(format!("should be {ours:?}, is {real:?}"));
        }
        self.bound.is_node(ours.node, real.node)
    }

    fn same_entries(&mut self, ours: &[Seen<NodeNo>], real: &[Seen<NodeId>]) -> Result<(), String> {
        if ours.len() != real.len() {
            return Err(format!("should be {ours:#?}, is {real:#?}"));
        }
        ours.iter().zip(real).try_for_each(|(ours, real)| self.same_entry(ours, real))
    }

    fn same_item(
        &mut self,
        ours: &SeenItem<NodeNo, ItemNo>,
        real: &SeenItem<NodeId, TrashId>,
    ) -> Result<(), String> {
        if (&ours.path, ours.dir, ours.size) != (&real.path, real.dir, real.size) {
            return Err(format!("should be {ours:?}, is {real:?}"));
        }
        self.bound.is_node(ours.node, real.node)?;
        self.bound.is_item(ours.item, real.item)
    }

    /// Whether this is what is seen of a real store; binds the ids that it tells.
    pub fn same_spaces(&mut self, real: &[SeenSpace<NodeId, TrashId>]) -> Result<(), String> {
        for (ours, real) in self.observe().iter().zip(real) {
            self.same_entries(&ours.entries, &real.entries)?;
            if ours.revisions != real.revisions {
                let (ours, real) = (&ours.revisions, &real.revisions);
                return Err(format!("revisions should be {ours:#?}, are {real:#?}"));
            }
            self.same_trash(&ours.trash, &real.trash)?;
            let retained = match self.unsettled {
                true => real.retained >= ours.retained,
                false => real.retained == ours.retained,
            };
            if real.live != ours.live || !retained {
                let real = (real.live, real.retained);
                let ours = (ours.live, ours.retained);
                return Err(format!("live and retained should be {ours:?}, are {real:?}"));
            }
        }
        Ok(())
    }

    fn same_trash(
        &mut self,
        ours: &[SeenItem<NodeNo, ItemNo>],
        real: &[SeenItem<NodeId, TrashId>],
    ) -> Result<(), String> {
        if ours.len() != real.len() {
            return Err(format!("trash should be {ours:#?}, is {real:#?}"));
        }
        // First those whose nodes are known, then those that are known by their looks alone.
        let mut left: Vec<_> = real.iter().collect();
        let known = |model: &Self, item: &SeenItem<NodeNo, ItemNo>| model.bound.node(item.node);
        let (first, then): (Vec<_>, Vec<_>) =
            ours.iter().partition(|item| known(self, item).is_some());
        for item in first.into_iter().chain(then) {
            let id = known(self, item);
            let fits = |real: &&SeenItem<NodeId, TrashId>| match id {
                Some(id) => real.node == id,
                None => (&real.path, real.dir, real.size) == (&item.path, item.dir, item.size),
            };
            let Some(at) = left.iter().position(fits) else {
                return Err(format!("trash should have {item:?}, has {real:#?}"));
            };
            self.same_item(item, left.swap_remove(at))?;
        }
        Ok(())
    }
}

/// What drafts are aimed at.
impl Model {
    /// Nodes whose ids are known, whether they are still there or not.
    pub fn bound_nodes(&self) -> Vec<NodeNo> {
        self.bound.nodes.keys().copied().collect()
    }

    /// The paths of all entries of a space, or of its files.
    pub fn paths(&self, space: usize, files: bool) -> Vec<Names> {
        let below = self.below(self.spaces[space].root).into_iter().skip(1);
        below.filter(|no| !files || !self.is_dir(*no)).map(|no| self.path(no)).collect()
    }

    /// The paths of all directories of a space, its root too, that are not too deep to grow.
    pub fn dirs(&self, space: usize) -> Vec<Names> {
        let below = self.below(self.spaces[space].root).into_iter();
        let paths = below.filter(|no| self.is_dir(*no)).map(|no| self.path(no));
        paths.filter(|path| path.len() < 5).collect()
    }

    /// The numbers of the revisions of a file.
    pub fn revisions(&self, at: &At) -> Vec<u64> {
        let found = self.tag(at).map(|(no, _)| self.seen_revisions(no));
        found.unwrap_or_default().into_iter().map(|(number, ..)| number).collect()
    }

    /// Bytes of current revisions in the tree of a space.
    pub fn live(&self, space: usize) -> u64 {
        self.size(self.spaces[space].root)
    }

    /// Every directory below a root whose id is known.
    pub fn attached_dirs(&self) -> Vec<(NodeNo, NodeId)> {
        let known = self.bound.nodes.iter().map(|(no, id)| (*no, *id));
        let roots: Vec<_> = self.spaces.iter().map(|space| space.root).collect();
        known
            .filter(|(no, _)| self.attached(*no) && self.is_dir(*no) && !roots.contains(no))
            .collect()
    }

    /// The names in the root of a space.
    pub fn names_in_root(&self, space: usize) -> Names {
        match &self.node(self.spaces[space].root).content {
            Content::Dir(children) => children.keys().cloned().collect(),
            Content::File(_) => Names::new(),
        }
    }

    /// The node and the current revision of the file at a place.
    pub fn tag(&self, at: &At) -> Option<(NodeNo, u64)> {
        let root = self.spaces[at.space].root;
        let no = at.path.iter().try_fold(root, |dir, name| self.child(dir, name))?;
        self.current(no).map(|(revision, _)| (no, revision))
    }
}
