//! Operations as data, and what is seen of their effects, by the model and by a real store alike.
//!
//! Not here: what an operation does (`steps` in the model, `driver` on a real store).

use std::collections::BTreeMap;

use bytes::Bytes;
use larder_base::ErrorKind;

/// Number of a node in the model.
pub type NodeNo = u64;

/// Number of a trash item in the model.
pub type ItemNo = u64;

/// Names from the root of a space down.
pub type Names = Vec<String>;

/// A place in one of the spaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// Which space.
    pub space: usize,
    /// Where in it.
    pub path: Names,
}

/// Content that is made of a seed, so that it can be told apart and need not be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Body {
    /// What it is made of.
    pub seed: u64,
    /// Bytes.
    pub length: u32,
}

impl Body {
    /// The body of this seed, which counts as far as it is seen in the bytes.
    pub fn new(seed: u64, length: u32) -> Self {
        let seed = match length {
            0 => 0,
            1 => seed & 0xff,
            _ => seed & 0xffff_ffff,
        };
        Self { seed, length }
    }

    /// Its bytes: different for every seed, without a short period (SplitMix64).
    pub fn bytes(self) -> Bytes {
        let words = u64::from(self.length.div_ceil(8));
        let mut bytes = Vec::with_capacity(8 * words as usize);
        for word in 0..words {
            let mut z = (self.seed << 32).wrapping_add(word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bytes.extend_from_slice(&(z ^ (z >> 27)).to_le_bytes());
        }
        bytes.truncate(self.length as usize);
        if let [only] = &mut bytes[..] {
            *only = self.seed as u8;
        }
        bytes.into()
    }
}

/// A condition of an upload or a delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// None.
    Always,
    /// `If-None-Match: *`.
    New,
    /// `If-Match: *`.
    Exists,
    /// `If-Match` of this revision of this node; of none that ever was without one.
    Is(Option<(NodeNo, u64)>),
    /// `If-None-Match` of the same.
    IsNot(Option<(NodeNo, u64)>),
}

/// One call of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are the operations of the file store and their arguments")]
pub enum Op {
    CreateDir {
        at: At,
        parents: bool,
    },
    /// `declared`: whether the length is said in advance.
    Upload {
        at: At,
        body: Body,
        parents: bool,
        declared: bool,
        when: When,
    },
    Move {
        space: usize,
        from: Names,
        to: Names,
        overwrite: bool,
    },
    Copy {
        from: At,
        to: At,
        overwrite: bool,
    },
    Delete {
        at: At,
        when: When,
    },
    Restore {
        space: usize,
        item: ItemNo,
        to: Option<Names>,
        rename: bool,
        recreate: bool,
    },
    Purge {
        space: usize,
        item: ItemNo,
    },
    EmptyTrash {
        space: usize,
    },
    RestoreRevision {
        at: At,
        revision: u64,
    },
    DeleteRevision {
        at: At,
        revision: u64,
    },
    SetLimit {
        space: usize,
        live: Option<u64>,
    },
    SetVersionsKeep {
        space: usize,
        keep: Option<u32>,
    },
    Stat {
        at: At,
    },
    StatNode {
        node: NodeNo,
    },
    List {
        at: At,
        recursive: bool,
    },
    Get {
        at: At,
        revision: Option<u64>,
    },
    Revisions {
        at: At,
    },
    /// Runs all jobs and collects.
    Collect,
}

impl Op {
    /// The same call, if other numbers stand for the nodes and items that it names.
    #[must_use]
    pub fn renumber(
        &self,
        node: impl Fn(NodeNo) -> Option<NodeNo>,
        item: impl Fn(ItemNo) -> Option<ItemNo>,
    ) -> Self {
        let mut op = self.clone();
        match &mut op {
            Self::Upload { when: When::Is(tag) | When::IsNot(tag), .. }
            | Self::Delete { when: When::Is(tag) | When::IsNot(tag), .. } => {
                *tag = tag.and_then(|(no, revision)| Some((node(no)?, revision)));
            }
            Self::Restore { item: no, .. } | Self::Purge { item: no, .. } => {
                *no = item(*no).unwrap_or(0);
            }
            Self::StatNode { node: no } => *no = node(*no).unwrap_or(0),
            _ => {}
        }
        op
    }

    /// The most bytes that may be promised to it while it runs.
    pub fn promised_max(&self) -> u64 {
        match self {
            Self::Upload { body, .. } => u64::from(body.length),
            Self::Copy { .. } | Self::Restore { .. } | Self::RestoreRevision { .. } => 1 << 60,
            _ => 0,
        }
    }
}

/// What is seen of an entry. `N` is how nodes are named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen<N> {
    /// Its node.
    pub node: N,
    /// From the space's root.
    pub path: String,
    /// Whether it is a directory.
    pub dir: bool,
    /// Bytes; `None` if the answer need not be exact.
    pub size: Option<u64>,
    /// The revision; 0 for a directory.
    pub revision: u64,
    /// The content; `None` for a directory.
    pub body: Option<Body>,
}

/// What is seen of a trash item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenItem<N, I> {
    /// The item.
    pub item: I,
    /// What was deleted.
    pub node: N,
    /// Where it was.
    pub path: String,
    /// Whether it is a directory.
    pub dir: bool,
    /// Bytes of current revisions.
    pub size: u64,
}

/// A revision: its number, content and origin.
pub type SeenRevision = (u64, Body, String);

/// What an operation that did not fail answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<N, I> {
    /// That it is done.
    Done,
    /// An entry, and whether the operation made the name.
    Entry(Seen<N>, bool),
    /// Entries.
    Entries(Vec<Seen<N>>),
    /// An item of the trash.
    Trashed(SeenItem<N, I>),
    /// Revisions, newest first.
    Revisions(Vec<SeenRevision>),
}

/// Why an operation had no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal<N> {
    /// The class of the error.
    pub kind: ErrorKind,
    /// What stood in the way, where it is named.
    pub existing: Option<N>,
}

impl<N> From<ErrorKind> for Refusal<N> {
    fn from(kind: ErrorKind) -> Self {
        Self { kind, existing: None }
    }
}

/// All that can be seen of a space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenSpace<N, I> {
    /// Every entry, depth first.
    pub entries: Vec<Seen<N>>,
    /// The revisions of every file.
    pub revisions: BTreeMap<String, Vec<SeenRevision>>,
    /// The trash, in the order of paths.
    pub trash: Vec<SeenItem<N, I>>,
    /// Bytes of current revisions.
    pub live: u64,
    /// Bytes of older revisions and of the trash.
    pub retained: u64,
}
