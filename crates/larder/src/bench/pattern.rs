//! The bytes that `larder bench` uploads and expects back.
//!
//! Promises: the content of a file follows from its key alone, at any offset, without storing
//! it; no two files and no two 64 KiB blocks of one file are equal, so a block that is lost,
//! swapped, repeated or served from another file is noticed; content does not compress. Both
//! making and comparing cost one pass at memory speed.
//!
//! Not here: which file has which key (`workload`), sending and receiving (`client`).

use super::stats::{Rng, mix};

/// Bytes of a block; each block begins with its own stamp.
pub(super) const BLOCK: usize = 64 * 1024;
/// Bytes of the stamp at the start of each block.
pub(super) const STAMP: usize = 16;
/// Random bytes that blocks are cut from.
const POOL: usize = 1024 * 1024;
/// Cuts start at multiples of this.
const ALIGN: u64 = 64;

/// Source of all content of one run.
#[derive(Debug)]
pub(super) struct Pattern {
    pool: Vec<u8>,
}

/// The content of one file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Content<'a> {
    pattern: &'a Pattern,
    key: u64,
    /// Number of the first block: not 0 in a part of a file.
    first: u64,
    /// Length in bytes.
    pub(super) size: u64,
}

impl Pattern {
    /// Content for a whole run; another seed gives other content under every key.
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut pool = Vec::with_capacity(POOL + BLOCK);
        while pool.len() < POOL + BLOCK {
            pool.extend_from_slice(&rng.next().to_le_bytes());
        }
        Self { pool }
    }

    /// The content of `size` bytes that belongs to `key`.
    pub(super) fn content(&self, key: u64, size: u64) -> Content<'_> {
        Content { pattern: self, key, first: 0, size }
    }
}

impl<'a> Content<'a> {
    /// Block number `block`: its stamp, and the bytes that follow it. The caller cuts both to
    /// what `size` leaves of the block.
    pub(super) fn block(&self, block: u64) -> ([u8; STAMP], &'a [u8]) {
        let first = mix(self.key ^ mix(self.first.wrapping_add(block).wrapping_add(1)));
        let second = mix(first ^ self.key);
        let mut stamp = [0; STAMP];
        stamp[..8].copy_from_slice(&first.to_le_bytes());
        stamp[8..].copy_from_slice(&second.to_le_bytes());
        let start = (second % (POOL as u64 / ALIGN) * ALIGN) as usize;
        (stamp, &self.pattern.pool[start..start + BLOCK - STAMP])
    }

    /// Bytes of block number `block`, less than [`BLOCK`] for the last one, 0 beyond it.
    pub(super) fn block_len(&self, block: u64) -> usize {
        self.size.saturating_sub(block * BLOCK as u64).min(BLOCK as u64) as usize
    }

    /// The `len` bytes from `offset` on, a multiple of [`BLOCK`], or as many as there are.
    pub(super) fn part(self, offset: u64, len: u64) -> Self {
        let size = self.size.saturating_sub(offset).min(len);
        Self { first: self.first + offset / BLOCK as u64, size, ..self }
    }

    /// Calls `with` with all bytes in order, in pieces.
    pub(super) fn pieces(self, mut with: impl FnMut(&[u8])) {
        for block in 0..self.size.div_ceil(BLOCK as u64) {
            let (stamp, tail) = self.block(block);
            let len = self.block_len(block);
            with(&stamp[..len.min(STAMP)]);
            with(&tail[..len.saturating_sub(STAMP)]);
        }
    }

    /// Compares `bytes` with the content from `offset` on. Returns the offset of the first
    /// difference; bytes beyond the end differ.
    pub(super) fn first_difference(&self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (stamp, tail) = self.block(at / BLOCK as u64);
            let within = (at % BLOCK as u64) as usize;
            let len = self.block_len(at / BLOCK as u64);
            let want = match within {
                w if w >= len => return Some(at),
                w if w < STAMP => &stamp[w..len.min(STAMP)],
                w => &tail[w - STAMP..len - STAMP],
            };
            let n = want.len().min(rest.len());
            if rest[..n] != want[..n] {
                let same = rest.iter().zip(want).take_while(|(a, b)| a == b).count();
                return Some(at + same as u64);
            }
            at += n as u64;
            rest = &rest[n..];
        }
        None
    }

    /// The whole content in memory: for tests and small bodies.
    #[cfg(test)]
    pub(super) fn to_vec(self) -> Vec<u8> {
        let mut out = Vec::new();
        self.pieces(|piece| out.extend_from_slice(piece));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_compares_equal_however_it_is_cut() {
        let pattern = Pattern::new(1);
        for size in [0, 1, 15, 16, 17, 4096, 65_535, 65_536, 65_537, 200_000] {
            let content = pattern.content(42, size);
            let bytes = content.to_vec();
            assert_eq!(bytes.len() as u64, size);
            for piece in [1, 7, 4096, 70_000] {
                let mut at = 0;
                for chunk in bytes.chunks(piece) {
                    assert_eq!(content.first_difference(at, chunk), None);
                    at += chunk.len() as u64;
                }
            }
        }
    }

    #[test]
    fn parts_add_up_to_the_whole() {
        let pattern = Pattern::new(1);
        let content = pattern.content(42, 200_000);
        let part = 2 * BLOCK as u64;
        let parts = [0, 1, 2].map(|n| content.part(n * part, part).to_vec());
        assert_eq!(parts.each_ref().map(Vec::len), [131_072, 68_928, 0]);
        assert_eq!(parts.concat(), content.to_vec());
    }

    #[test]
    fn a_flipped_byte_is_named_by_its_offset() {
        let pattern = Pattern::new(1);
        let content = pattern.content(42, 150_000);
        for at in [0, 15, 16, 65_535, 65_536, 149_999] {
            let mut bytes = content.to_vec();
            bytes[at] ^= 1;
            assert_eq!(content.first_difference(0, &bytes), Some(at as u64));
        }
    }

    #[test]
    fn swapped_blocks_other_files_and_extra_bytes_differ() {
        let pattern = Pattern::new(1);
        let content = pattern.content(42, 131_072);
        let mut bytes = content.to_vec();
        bytes.rotate_left(BLOCK);
        assert_eq!(content.first_difference(0, &bytes), Some(0));
        assert!(content.first_difference(0, &pattern.content(43, 131_072).to_vec()).is_some());
        let mut longer = content.to_vec();
        longer.push(0);
        assert_eq!(content.first_difference(0, &longer), Some(131_072));
    }
}
