//! How a blob is cut into chunks, how many copies each gets, and how many must be durable before
//! a write is acknowledged: the placement policy of a space.
//!
//! The policy is recorded with every chunk when it is written; it says nothing about where older
//! chunks are (hazard B14).
//!
//! Promises: pure values and functions; the pieces of a plan are contiguous, none is empty, and
//! together they are the blob.
//!
//! Not here: the ring, replication and repair, which come with storage servers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::store::{ChunkStore, StoreHealth};

/// The size of chunks where the policy needs one and the length of the blob is not known.
pub const CHUNK_BYTES: u64 = 8 << 20;

/// How a blob is cut into chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// One chunk, whatever its length.
    Whole,
    /// Chunks of this many bytes, the last one shorter.
    Fixed {
        /// At least 1.
        bytes: u64,
    },
    /// This many chunks of equal length (the first ones a byte longer where it does not divide),
    /// fewer only for blobs of fewer bytes; chunks of [`CHUNK_BYTES`] if the length is not known.
    Stripe {
        /// At least 1.
        count: u32,
    },
}

/// On how many servers each chunk is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Copies {
    /// On this many, or on all if there are fewer.
    Count(u32),
    /// On every server.
    All,
}

/// A placement policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// How blobs are cut.
    pub split: Split,
    /// How many copies of each chunk.
    pub copies: Copies,
    /// How many of them are durable before a write is acknowledged.
    pub ack: u32,
}

/// Why a policy is refused, or cannot be kept now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// A size or number is zero.
    #[error("sizes and numbers of a placement policy must not be zero")]
    Zero,
    /// More acknowledgements than copies.
    #[error("a placement policy cannot wait for more copies than it makes")]
    Ack,
    /// Fewer servers can be written to than must acknowledge.
    #[error("{ready} servers can be written to, {ack} must acknowledge")]
    TooFewServers {
        /// How many can be written to.
        ready: usize,
        /// How many must acknowledge.
        ack: u32,
    },
}

impl Placement {
    /// [`Placement::single`], where a constant is needed.
    pub const SINGLE: Self = Self::single();

    /// One whole copy: the default on one machine.
    pub const fn single() -> Self {
        Self { split: Split::Whole, copies: Copies::Count(1), ack: 1 }
    }

    /// A copy on every server, acknowledged after the first: chosen by name only, never by
    /// default, since an acknowledged write is lost with that one server.
    pub const fn mirror() -> Self {
        Self { split: Split::Whole, copies: Copies::All, ack: 1 }
    }

    /// Six chunks spread over the ring, one copy each.
    pub const fn ring6() -> Self {
        Self { split: Split::Stripe { count: 6 }, copies: Copies::Count(1), ack: 1 }
    }

    /// The preset of this name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "single" => Some(Self::single()),
            "mirror" => Some(Self::mirror()),
            "ring6" => Some(Self::ring6()),
            _ => None,
        }
    }

    /// Checks what a user has set.
    pub fn check(&self) -> Result<(), PlacementError> {
        let zero = match self.split {
            Split::Whole => false,
            Split::Fixed { bytes } => bytes == 0,
            Split::Stripe { count } => count == 0,
        };
        match self.copies {
            _ if zero || self.ack == 0 => Err(PlacementError::Zero),
            Copies::Count(0) => Err(PlacementError::Zero),
            Copies::Count(copies) if self.ack > copies => Err(PlacementError::Ack),
            Copies::Count(_) | Copies::All => Ok(()),
        }
    }
}

/// One chunk of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its number, from 0.
    pub index: u32,
    /// Where in the blob it starts.
    pub offset: u64,
    /// Its length; only a bound if the length of the blob is not known.
    pub length: u64,
    /// Whether `length` is exact.
    pub exact: bool,
}

/// The pieces of a blob in order; without end if its length is not known and pieces are bounded.
#[derive(Clone, Debug)]
pub struct Plan {
    split: Split,
    length: Option<u64>,
    index: u32,
    offset: u64,
}

impl Split {
    /// The pieces of a blob of `length` bytes, or of one whose length is not known yet: then the
    /// writer takes pieces until its input ends. An empty blob has none.
    pub fn plan(self, length: Option<u64>) -> Plan {
        Plan { split: self, length, index: 0, offset: 0 }
    }
}

/// What a writer is told about its next chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its length, if that is known.
    pub length: Option<u64>,
    /// The most that it may take; not zero.
    pub bytes_max: u64,
}

impl Plan {
    /// The next piece as a writer needs it. Beyond the end of a plan, where a body goes that is
    /// longer than declared, come bounded pieces of unknown length: refusing it is not this
    /// module's business.
    pub fn next_part(&mut self) -> Part {
        match self.next() {
            Some(piece) => {
                Part { length: piece.exact.then_some(piece.length), bytes_max: piece.length }
            }
            None => Part { length: None, bytes_max: CHUNK_BYTES },
        }
    }
}

impl Iterator for Plan {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let left = self.length.map_or(u64::MAX, |length| length.saturating_sub(self.offset));
        if left == 0 {
            return None;
        }
        let wanted = match (self.split, self.length) {
            (Split::Whole, _) => left,
            (Split::Fixed { bytes }, _) => bytes.max(1),
            (Split::Stripe { .. }, None) => CHUNK_BYTES,
            (Split::Stripe { count }, Some(length)) => {
                let count = u64::from(count.max(1));
                length / count + u64::from(u64::from(self.index) < length % count)
            }
        };
        let exact = self.length.is_some();
        let length = wanted.min(left);
        let piece = Piece { index: self.index, offset: self.offset, length, exact };
        self.offset = self.offset.checked_add(length)?;
        self.index = self.index.checked_add(1)?;
        Some(piece)
    }
}

/// The stores that get chunk number `index` of a blob, best first; at least `ack` of them must
/// take it. Stores that cannot be written to are passed over; among the others neighbouring
/// chunks go to different ones.
pub fn choose(
    placement: &Placement,
    index: u32,
    stores: &[Arc<dyn ChunkStore>],
) -> Result<Vec<Arc<dyn ChunkStore>>, PlacementError> {
    let mut ready: Vec<_> =
        stores.iter().filter(|store| store.health() == StoreHealth::Ready).cloned().collect();
    if ready.len() < placement.ack as usize || ready.is_empty() {
        return Err(PlacementError::TooFewServers { ready: ready.len(), ack: placement.ack });
    }
    let first = index as usize % ready.len();
    ready.rotate_left(first);
    if let Copies::Count(copies) = placement.copies {
        ready.truncate(copies.max(placement.ack) as usize);
    }
    Ok(ready)
}

#[cfg(test)]
mod tests {
    use larder_base::{Env, id::ServerId};
    use proptest::prelude::*;

    use super::*;
    use crate::{memory::MemoryChunks, store::BufferPool};

    fn check_plan(split: Split, length: u64) -> Vec<u64> {
        let pieces: Vec<_> = split.plan(Some(length)).collect();
        let mut offset = 0;
        for (i, piece) in pieces.iter().enumerate() {
            assert_eq!((piece.index as usize, piece.offset, piece.exact), (i, offset, true));
            assert!(piece.length > 0);
            offset += piece.length;
        }
        assert_eq!(offset, length, "{split:?}");
        pieces.into_iter().map(|piece| piece.length).collect()
    }

    proptest! {
        #[test]
        fn a_plan_covers_the_blob(
            length in prop_oneof![0_u64..100, any::<u32>().prop_map(u64::from)],
            bytes in 1_u64 << 20..1 << 30,
            count in 1_u32..100,
        ) {
            check_plan(Split::Whole, length);
            check_plan(Split::Fixed { bytes }, length);
            let parts = check_plan(Split::Stripe { count }, length);
            prop_assert_eq!(parts.len() as u64, length.min(u64::from(count)));
            let (least, most) = (parts.iter().min(), parts.iter().max());
            if let (Some(least), Some(most)) = (least, most) {
                prop_assert!(most - least <= 1);
            }
        }
    }

    #[test]
    fn a_stripe_of_six_gives_the_remainder_to_the_first_parts() {
        for length in 0..100 {
            let parts = check_plan(Split::Stripe { count: 6 }, length);
            let expected: Vec<u64> = (0..6)
                .map(|i| length / 6 + u64::from(i < length % 6))
                .filter(|part| *part > 0)
                .collect();
            assert_eq!(parts, expected);
        }
        for bytes in 1..20 {
            for length in 0..100 {
                let parts = check_plan(Split::Fixed { bytes }, length);
                assert_eq!(parts.len() as u64, length.div_ceil(bytes));
            }
        }
    }

    #[test]
    fn blobs_of_unknown_length_get_bounded_pieces_without_end() {
        let pieces: Vec<_> = Split::Stripe { count: 6 }.plan(None).take(3).collect();
        assert!(pieces.iter().all(|piece| piece.length == CHUNK_BYTES && !piece.exact));
        assert_eq!(pieces[2].offset, 2 * CHUNK_BYTES);
        assert_eq!(Split::Whole.plan(None).map(|piece| piece.length).next(), Some(u64::MAX));
        let mut plan = Split::Fixed { bytes: 10 }.plan(Some(11));
        let parts: Vec<_> = (0..3).map(|_| plan.next_part()).collect();
        assert_eq!(parts[0], Part { length: Some(10), bytes_max: 10 });
        assert_eq!(parts[1], Part { length: Some(1), bytes_max: 1 });
        assert_eq!(parts[2], Part { length: None, bytes_max: CHUNK_BYTES });
    }

    #[test]
    fn presets_are_valid_and_wrong_policies_are_refused() {
        for name in ["single", "mirror", "ring6"] {
            let preset = Placement::named(name).unwrap();
            assert_eq!(preset.check(), Ok(()), "{name}");
        }
        assert_eq!(Placement::named("double"), None);
        let wrong = Placement { ack: 2, ..Placement::single() };
        assert_eq!(wrong.check(), Err(PlacementError::Ack));
        let wrong = Placement { split: Split::Stripe { count: 0 }, ..Placement::single() };
        assert_eq!(wrong.check(), Err(PlacementError::Zero));
    }

    #[test]
    fn stores_that_cannot_be_written_to_are_passed_over() {
        let env = Env::system();
        let pool = BufferPool::new(0);
        let memory: Vec<_> =
            (0..3).map(|_| MemoryChunks::new(ServerId::new(&env), pool.clone())).collect();
        let stores: Vec<Arc<dyn ChunkStore>> =
            memory.iter().map(|store| Arc::new(store.clone()) as _).collect();
        let chosen = |index| -> Vec<ServerId> {
            let policy = Placement { copies: Copies::Count(2), ack: 2, ..Placement::single() };
            choose(&policy, index, &stores).unwrap().iter().map(|store| store.server()).collect()
        };
        let ids: Vec<_> = memory.iter().map(MemoryChunks::server).collect();
        assert_eq!(chosen(0), ids[..2]);
        assert_eq!(chosen(2), [ids[2], ids[0]]);
        memory[0].fail("test");
        assert_eq!(chosen(0), ids[1..]);
        memory[1].set_total(0);
        let error = choose(&Placement { ack: 2, ..Placement::mirror() }, 0, &stores);
        assert_eq!(
            error.map(|_| ()).unwrap_err(),
            PlacementError::TooFewServers { ready: 1, ack: 2 }
        );
    }
}
