//! Operations by chance: on few names, so that they meet.
//!
//! A [`Draft`] is an operation before it is aimed at what there is: which trash item, which node,
//! which revision's etag is chosen when its turn comes, so that a case that has been shrunk still
//! hits something.
//!
//! Not here: running them ([`super::driver`]).

use proptest::{
    collection::vec,
    option,
    prelude::{Just, Strategy, any, prop_oneof},
    sample::select,
};

use super::{
    model::Model,
    op::{At, Body, Names, Op, When},
};

/// An operation and what chooses its target.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The operation; its items, nodes and etags are not those that it will have.
    pub op: Op,
    /// Chooses among what there is.
    pub pick: u8,
}

/// Which operations come.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// How many spaces there are.
    pub spaces: usize,
    /// Whether limits are set.
    pub limits: bool,
    /// Whether operations come whose effect is not one commit: emptying the trash, collecting.
    pub long: bool,
}

/// Sizes on both sides of the inline limit.
const SIZES: [u32; 6] = [0, 1, 100, 100, 5_000, 200_000];

fn name() -> impl Strategy<Value = String> {
    select(vec!["a", "b", "c", "d.x"]).prop_map(str::to_owned)
}

fn path() -> impl Strategy<Value = Names> {
    prop_oneof![
        1 => Just(Names::new()),
        30 => vec(name(), 1),
        30 => vec(name(), 2),
        10 => vec(name(), 3),
    ]
}

fn at(mix: Mix) -> impl Strategy<Value = At> {
    (0..mix.spaces, path()).prop_map(|(space, path)| At { space, path })
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![
        8 => Just(When::Always),
        1 => Just(When::New),
        1 => Just(When::Exists),
        1 => Just(When::Is(None)),
        1 => Just(When::IsNot(None)),
    ]
}

fn upload(mix: Mix) -> impl Strategy<Value = Op> {
    let how = (any::<bool>(), proptest::bool::weighted(0.8), when());
    (at(mix), any::<u32>(), select(SIZES.to_vec()), how).prop_map(
        |(at, seed, length, (parents, declared, when))| Op::Upload {
            at,
            body: Body::new(u64::from(seed), length),
            parents,
            declared,
            when,
        },
    )
}

fn relocate(mix: Mix) -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..mix.spaces, path(), path(), any::<bool>())
            .prop_map(|(space, from, to, overwrite)| Op::Move { space, from, to, overwrite }),
        (at(mix), at(mix), any::<bool>())
            .prop_map(|(from, to, overwrite)| Op::Copy { from, to, overwrite }),
    ]
}

fn trash(mix: Mix) -> impl Strategy<Value = Op> {
    let restore = (0..mix.spaces, option::weighted(0.3, path()), any::<bool>(), any::<bool>())
        .prop_map(|(space, to, rename, recreate)| Op::Restore {
            space,
            item: 0,
            to,
            rename,
            recreate,
        });
    let empty = (0..mix.spaces).prop_map(|space| Op::EmptyTrash { space });
    prop_oneof![
        10 => (at(mix), when()).prop_map(|(at, when)| Op::Delete { at, when }),
        8 => restore,
        3 => (0..mix.spaces).prop_map(|space| Op::Purge { space, item: 0 }),
        u32::from(mix.long) => empty,
        u32::from(mix.long) => Just(Op::Collect),
    ]
}

fn revision(mix: Mix) -> impl Strategy<Value = Op> {
    prop_oneof![
        (at(mix), 1..5_u64).prop_map(|(at, revision)| Op::RestoreRevision { at, revision }),
        (at(mix), 1..5_u64).prop_map(|(at, revision)| Op::DeleteRevision { at, revision }),
    ]
}

fn setting(mix: Mix) -> impl Strategy<Value = Op> {
    let limit = option::weighted(0.8, select(vec![0, 100, 300, 5_100, 10_200, 205_000, 400_000]));
    let keep = option::weighted(0.7, 0..3_u32);
    let limited = mix.limits;
    prop_oneof![
        (0..mix.spaces, limit).prop_map(move |(space, live)| {
            Op::SetLimit { space, live: live.filter(|_| limited) }
        }),
        (0..mix.spaces, keep).prop_map(|(space, keep)| Op::SetVersionsKeep { space, keep }),
    ]
}

fn read(mix: Mix) -> impl Strategy<Value = Op> {
    prop_oneof![
        at(mix).prop_map(|at| Op::Stat { at }),
        Just(Op::StatNode { node: 0 }),
        (at(mix), any::<bool>()).prop_map(|(at, recursive)| Op::List { at, recursive }),
        (at(mix), option::of(1..4_u64)).prop_map(|(at, revision)| Op::Get { at, revision }),
        at(mix).prop_map(|at| Op::Revisions { at }),
    ]
}

/// An operation.
pub fn draft(mix: Mix) -> impl Strategy<Value = Draft> {
    let create = (at(mix), any::<bool>());
    let op = prop_oneof![
        10 => create.prop_map(|(at, parents)| Op::CreateDir { at, parents }),
        30 => upload(mix),
        20 => relocate(mix),
        20 => trash(mix),
        8 => revision(mix),
        3 => setting(mix),
        10 => read(mix),
    ];
    (op, any::<u8>()).prop_map(|(op, pick)| Draft { op, pick })
}

impl Draft {
    /// The operation, aimed at something that there is if there is something.
    pub fn aim(&self, model: &Model) -> Op {
        let mut op = self.op.clone();
        let pick = usize::from(self.pick);
        match &mut op {
            Op::Restore { space, item, .. } | Op::Purge { space, item } => {
                let items: Vec<_> = model.spaces[*space].trash.keys().collect();
                match items.get(pick % items.len().max(1)) {
                    Some(found) => *item = **found,
                    None => return Op::List { at: At { space: *space, path: vec![] }, recursive: true },
                }
            }
            Op::StatNode { node } => {
                let nodes = model.bound_nodes();
                match nodes.get(pick % nodes.len().max(1)) {
                    Some(found) => *node = *found,
                    None => return Op::Stat { at: At { space: 0, path: vec![] } },
                }
            }
            Op::Upload { at, when, .. } | Op::Delete { at, when } => {
                let tag = model.tag(at);
                // Now and then one that is not current any more, or not yet.
                let tag = tag.map(|(node, revision)| match pick % 4 {
                    0 => (node, revision.saturating_sub(1)),
                    _ => (node, revision),
                });
                match when {
                    When::Is(wanted) | When::IsNot(wanted) => *wanted = tag,
                    _ => {}
                }
            }
            _ => {}
        }
        op
    }
}
