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
    pub pick: u16,
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
        (at(mix), at(mix), any::<bool>()).prop_map(|(from, to, overwrite)| Op::Copy {
            from,
            to,
            overwrite
        }),
    ]
}

fn trash(mix: Mix) -> impl Strategy<Value = Op> {
    let restore =
        (0..mix.spaces, option::weighted(0.3, path()), any::<bool>(), any::<bool>()).prop_map(
            |(space, to, rename, recreate)| Op::Restore { space, item: 0, to, rename, recreate },
        );
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
    (op, any::<u16>()).prop_map(|(op, pick)| Draft { op, pick })
}

impl Draft {
    /// The operation, aimed more often than not at something that there is.
    pub fn aim(&self, model: &Model) -> Op {
        let mut dice = Dice(u64::from(self.pick));
        let mut op = self.op.clone();
        match &mut op {
            Op::Restore { space, item, .. } | Op::Purge { space, item } => {
                let items: Vec<_> = model.spaces[*space].trash.keys().copied().collect();
                match dice.choose(&items) {
                    Some(found) => *item = found,
                    None => {
                        let at = At { space: *space, path: Names::new() };
                        return Op::List { at, recursive: true };
                    }
                }
            }
            Op::StatNode { node } => *node = dice.choose(&model.bound_nodes()).unwrap_or(0),
            Op::CreateDir { at, .. } => put_into(&mut dice, model, at),
            Op::Upload { at, when, .. } => {
                match dice.roll(3) {
                    0 => put_into(&mut dice, model, at),
                    1 => exists(&mut dice, model, at, true),
                    _ => {}
                }
                tag(&mut dice, model, at, when);
            }
            Op::Delete { at, when } => {
                exists(&mut dice, model, at, false);
                tag(&mut dice, model, at, when);
            }
            Op::Move { space, from, to, .. } => {
                let mut source = At { space: *space, path: std::mem::take(from) };
                let mut target = At { space: *space, path: std::mem::take(to) };
                exists(&mut dice, model, &mut source, false);
                put_into(&mut dice, model, &mut target);
                (*from, *to) = (source.path, target.path);
            }
            Op::Copy { from, to, .. } => {
                exists(&mut dice, model, from, false);
                put_into(&mut dice, model, to);
            }
            Op::RestoreRevision { at, revision } | Op::DeleteRevision { at, revision } => {
                exists(&mut dice, model, at, true);
                let old: Vec<_> = model.revisions(at);
                if dice.roll(8) > 0 {
                    *revision = dice.choose(&old).unwrap_or(*revision);
                }
            }
            Op::Get { at, .. } | Op::Revisions { at } => exists(&mut dice, model, at, true),
            Op::Stat { at } => exists(&mut dice, model, at, false),
            Op::SetLimit { space, live: Some(live) } if dice.roll(3) > 0 => {
                *live += model.live(*space);
            }
            _ => {}
        }
        op
    }
}

/// Numbers from a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).checked_rem(bound).unwrap_or(0)
    }

    fn choose<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        let at = self.roll(of.len() as u64) as usize;
        of.get(at).cloned()
    }
}

/// Lets a place be one where there is something, or a file.
fn exists(dice: &mut Dice, model: &Model, at: &mut At, file: bool) {
    if dice.roll(8) > 0 {
        at.path = dice.choose(&model.paths(at.space, file)).unwrap_or(std::mem::take(&mut at.path));
    }
}

/// Lets the directory of a place be one that there is.
fn put_into(dice: &mut Dice, model: &Model, at: &mut At) {
    if let (Some(name), 1..) = (at.path.last().cloned(), dice.roll(4)) {
        at.path = dice.choose(&model.dirs(at.space)).unwrap_or_default();
        at.path.push(name);
    }
}

/// Lets a condition be about the current revision, and now and then about the one before.
fn tag(dice: &mut Dice, model: &Model, at: &At, when: &mut When) {
    if let When::Is(wanted) | When::IsNot(wanted) = when {
        let stale = u64::from(dice.roll(4) == 0);
        *wanted = model.tag(at).map(|(node, revision)| (node, revision - stale));
    }
}
