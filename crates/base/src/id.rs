//! Identifiers: 128-bit, never reused, a type of their own each.
//!
//! Tree and account ids are UUIDs version 7 (RFC 9562), so that ids made one after another sort
//! together and the ordered tables behind them stay compact. Chunk and blob ids name the gateway
//! process that made them (docs/transactions.md section 6), so that a dead process's leftovers can
//! be listed.
//!
//! Not here: secrets. An id grants nothing by itself.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::env::Env;

/// The text is not an id of the expected form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid id")]
pub struct ParseIdError;

macro_rules! id_type {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Makes a new id from the clock and the entropy of `env`; it sorts behind all that
            /// were made from this `env` before.
            pub fn new(env: &Env) -> Self {
                let sequence = env.sequence();
                let mut random = [0u8; 10];
                env.fill_random(&mut random);
                let [.., high, low] = sequence.to_be_bytes();
                [random[0], random[1]] = [high & 0x0f, low];
                let millis = sequence >> 12;
                Self(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
            }

            /// The id with these bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The bytes of the id; they sort like the id.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                // One text form only: 36 characters with hyphens, as ids are printed.
                if text.len() != 36 {
                    return Err(ParseIdError);
                }
                Uuid::try_parse(text).map(Self).map_err(|_| ParseIdError)
            }
        }
    )+};
}

id_type! {
    /// A space: the owner of one tree and one quota.
    SpaceId;
    /// A file, directory or reference in a tree; never a machine.
    NodeId;
    /// A user.
    UserId;
    /// An API key of a user.
    KeyId;
    /// A group of users.
    GroupId;
    /// A grant or public link: what its owner lists and revokes it by.
    ShareId;
    /// A lifecycle rule of a space.
    RuleId;
    /// An item in a space's trash.
    TrashId;
    /// A mutating operation, for recognising its repetition.
    OpId;
    /// One request at a door, as its answer and the log name it.
    RequestId;
    /// A background job.
    JobId;
    /// A place where chunks are kept.
    ServerId;
    /// One installation of Larder: one metadata engine and everything it refers to.
    InstanceId;
}

/// An upload session. Its URL is handed around, so that all of its bits are random.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UploadId([u8; 16]);

impl UploadId {
    /// Makes a new id from the entropy of `env`.
    pub fn new(env: &Env) -> Self {
        let mut random = [0; 16];
        env.fill_random(&mut random);
        Self(random)
    }

    /// The id with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes of the id.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UploadId({self})")
    }
}

impl FromStr for UploadId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let (high, low) = text.split_at_checked(16).ok_or(ParseIdError)?;
        let (high, low) = (parse_hex(high, 16)?, parse_hex(low, 16)?);
        Ok(Self((u128::from(high) << 64 | u128::from(low)).to_be_bytes()))
    }
}

/// One start of a gateway process. Numbers are given by the metadata engine and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The immutable content of a revision: the process that made it and a counter within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlobId {
    /// The gateway process that staged the blob.
    pub incarnation: Incarnation,
    /// Unique within the incarnation.
    pub counter: u64,
}

impl BlobId {
    /// Sixteen bytes that sort like the id.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.incarnation.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }

    /// The id with these bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let number = u128::from_be_bytes(bytes);
        Self { incarnation: Incarnation((number >> 64) as u64), counter: number as u64 }
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.incarnation, self.counter)
    }
}

impl FromStr for BlobId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let (incarnation, counter) = text.split_once('-').ok_or(ParseIdError)?;
        Ok(Self {
            incarnation: Incarnation(parse_hex(incarnation, 16)?),
            counter: parse_hex(counter, 16)?,
        })
    }
}

/// A stored piece of a blob. Its text form `incarnation-counter-index` is also its file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChunkId {
    /// The blob that the chunk was written for.
    pub blob: BlobId,
    /// Unique within the blob; says nothing about order, which the blob's layout does.
    pub index: u32,
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:08x}", self.blob, self.index)
    }
}

impl FromStr for ChunkId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let (blob, index) = text.rsplit_once('-').ok_or(ParseIdError)?;
        let index = u32::try_from(parse_hex(index, 8)?).map_err(|_| ParseIdError)?;
        Ok(Self { blob: blob.parse()?, index })
    }
}

/// Parses exactly `digits` lower-case hexadecimal digits.
fn parse_hex(text: &str, digits: usize) -> Result<u64, ParseIdError> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if text.len() != digits || !plain {
        return Err(ParseIdError);
    }
    u64::from_str_radix(text, 16).map_err(|_| ParseIdError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_round_trip_and_have_one_spelling() {
        let chunk =
            ChunkId { blob: BlobId { incarnation: Incarnation(7), counter: u64::MAX }, index: 12 };
        let text = chunk.to_string();
        assert_eq!(text.parse(), Ok(chunk));
        assert_eq!(text.to_uppercase().parse::<ChunkId>(), Err(ParseIdError));
        assert_eq!(BlobId::from_bytes(chunk.blob.to_bytes()), chunk.blob);

        let upload = UploadId::new(&Env::system());
        assert_eq!(upload.to_string().parse(), Ok(upload));

        let node = NodeId::new(&Env::system());
        assert_eq!(node.to_string().parse(), Ok(node));
        assert_eq!(node.to_string().replace('-', "").parse::<NodeId>(), Err(ParseIdError));
    }

    #[test]
    fn ids_made_later_sort_later() {
        let (env, clock) = Env::manual(1);
        let first = NodeId::new(&env);
        clock.advance(std::time::Duration::from_millis(2));
        assert!(first < NodeId::new(&env));
        // Also within one millisecond, and when more are made than it has numbers.
        let many: Vec<NodeId> = (0..10_000).map(|_| NodeId::new(&env)).collect();
        assert!(many.is_sorted_by(|a, b| a < b));
    }
}
