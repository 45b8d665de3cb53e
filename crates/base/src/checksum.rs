//! Checksums that clients declare for what they send, computed piece by piece.
//!
//! Not here: what guards stored bytes and what users compare ([`crate::digest`]).

use std::fmt;

use sha2::Digest as _;

/// A checksum and its algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// SHA-1 (FIPS 180-4).
    Sha1([u8; 20]),
    /// SHA-256 (FIPS 180-4).
    Sha256([u8; 32]),
    /// MD5 (RFC 1321).
    Md5([u8; 16]),
    /// CRC-32C, Castagnoli (RFC 3720).
    Crc32c(u32),
}

impl Checksum {
    /// Names of the algorithms, as tus and HTTP headers write them.
    pub const ALGORITHMS: [&'static str; 4] = ["sha1", "sha256", "md5", "crc32c"];

    /// The checksum of this algorithm with these bytes (CRC-32C big-endian); `None` if there is no
    /// such algorithm or the number of bytes is not its own.
    pub fn from_bytes(algorithm: &str, bytes: &[u8]) -> Option<Self> {
        match algorithm {
            "sha1" => Some(Self::Sha1(bytes.try_into().ok()?)),
            "sha256" => Some(Self::Sha256(bytes.try_into().ok()?)),
            "md5" => Some(Self::Md5(bytes.try_into().ok()?)),
            "crc32c" => Some(Self::Crc32c(u32::from_be_bytes(bytes.try_into().ok()?))),
            _ => None,
        }
    }

    /// Begins to compute a checksum of the same algorithm, to be compared with this one.
    pub fn stream(self) -> ChecksumStream {
        match self {
            Self::Sha1(_) => ChecksumStream::Sha1(sha1::Sha1::default()),
            Self::Sha256(_) => ChecksumStream::Sha256(sha2::Sha256::default()),
            Self::Md5(_) => ChecksumStream::Md5(md5::Md5::default()),
            Self::Crc32c(_) => {
                let algorithm = crc_fast::CrcAlgorithm::Crc32Iscsi;
                ChecksumStream::Crc32c(Box::new(crc_fast::Digest::new(algorithm)))
            }
        }
    }
}

/// Computes a checksum piece by piece.
#[derive(Clone)]
pub enum ChecksumStream {
    /// SHA-1.
    Sha1(sha1::Sha1),
    /// SHA-256.
    Sha256(sha2::Sha256),
    /// MD5.
    Md5(md5::Md5),
    /// CRC-32C.
    Crc32c(Box<crc_fast::Digest>),
}

impl ChecksumStream {
    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(stream) => stream.update(bytes),
            Self::Sha256(stream) => stream.update(bytes),
            Self::Md5(stream) => stream.update(bytes),
            Self::Crc32c(stream) => stream.update(bytes),
        }
    }

    /// The checksum of everything added.
    pub fn finish(self) -> Checksum {
        match self {
            Self::Sha1(stream) => Checksum::Sha1(stream.finalize().into()),
            Self::Sha256(stream) => Checksum::Sha256(stream.finalize().into()),
            Self::Md5(stream) => Checksum::Md5(stream.finalize().into()),
            // A 32-bit CRC fits into 32 bits; crc-fast returns all widths as u64.
            Self::Crc32c(stream) => Checksum::Crc32c(stream.finalize() as u32),
        }
    }
}

impl fmt::Debug for ChecksumStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChecksumStream")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_piece_by_piece() {
        let hex = |text: &str| -> Vec<u8> {
            let digits = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
            text.as_bytes().chunks(2).filter_map(digits).collect()
        };
        for (algorithm, of_abc) in [
            ("sha1", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            ("sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            ("md5", "900150983cd24fb0d6963f7d28e17f72"),
            ("crc32c", "364b3fb7"),
        ] {
            let declared = Checksum::from_bytes(algorithm, &hex(of_abc)).expect("well-formed");
            let mut stream = declared.stream();
            stream.update(b"a");
            stream.update(b"bc");
            assert_eq!(stream.finish(), declared, "{algorithm}");
            assert_eq!(Checksum::from_bytes(algorithm, b"abc"), None, "{algorithm}");
        }
        assert_eq!(Checksum::from_bytes("sha512", &[0; 64]), None);
    }
}
