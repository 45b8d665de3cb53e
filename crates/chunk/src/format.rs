//! The file of a chunk: header, content, trailer. The byte table is `docs/formats/chunk.md`.
//!
//! The content starts at byte 4096, so that direct I/O can write and read it in place. It is
//! checked in blocks of 64 KiB, so that a range is verified without reading the rest. The
//! checksums come last, when they are known, and are found from the end of the file.
//!
//! Promises: a file that is shorter or longer than it should be, belongs to another chunk, or has
//! a flipped byte in its header, checksums or footer is told apart from a good one; a format
//! version newer than [`VERSION`] is refused, and is not damage.
//!
//! Not here: reading and writing files ([`crate::local`]).

use larder_base::{
    digest::crc32c,
    id::{BlobId, ChunkId},
};

/// The newest format version that this code knows, and the only one that it writes.
pub const VERSION: u32 = 1;

/// Bytes of content under one checksum. A range read costs at most two blocks of extra reading;
/// a chunk of 10 GiB has 640 KiB of checksums.
pub const BLOCK: usize = 64 << 10;

/// Bytes of the header: where the content starts.
pub const HEADER: usize = 4096;

/// Bytes of the footer, the last ones of the file.
pub const FOOTER: usize = 64;

/// Longest content: its blocks are counted in 32 bits.
pub const LENGTH_MAX: u64 = (u32::MAX as u64) * BLOCK as u64;

const PAGE: u64 = 4096;
const HEADER_MAGIC: [u8; 8] = *b"LRDCHUNK";
const FOOTER_MAGIC: [u8; 8] = *b"LRDCHEND";

/// Why bytes are not those of the expected chunk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// They are damaged; the text says where.
    #[error("{0}")]
    Damaged(String),
    /// They are intact, but a newer program wrote them.
    #[error("format version {0} is newer than {VERSION}")]
    Newer(u32),
}

fn damaged(what: &str) -> FormatError {
    FormatError::Damaged(what.to_owned())
}

/// How many blocks `length` bytes of content have.
pub const fn blocks(length: u64) -> u64 {
    length.div_ceil(BLOCK as u64)
}

/// Where the trailer starts.
pub const fn trailer_offset(length: u64) -> u64 {
    HEADER as u64 + length.next_multiple_of(PAGE)
}

/// Bytes of the trailer: checksums, padding, footer.
pub const fn trailer_length(length: u64) -> u64 {
    (blocks(length) * 4 + FOOTER as u64).next_multiple_of(PAGE)
}

/// Bytes of the whole file.
pub const fn file_length(length: u64) -> u64 {
    trailer_offset(length) + trailer_length(length)
}

fn id_bytes(id: ChunkId) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[..16].copy_from_slice(&id.blob.to_bytes());
    bytes[16..].copy_from_slice(&id.index.to_be_bytes());
    bytes
}

fn id_from_bytes(bytes: [u8; 20]) -> ChunkId {
    let (blob, index) = (array(&bytes, 0), array(&bytes, 16));
    ChunkId { blob: BlobId::from_bytes(blob), index: u32::from_be_bytes(index) }
}

/// The `N` bytes at `at`; zeros beyond the end, which no checksum accepts.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// The header of chunk `id`.
pub fn header(id: ChunkId) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    put(&mut bytes, 0, &HEADER_MAGIC);
    put(&mut bytes, 8, &VERSION.to_le_bytes());
    put(&mut bytes, 12, &(BLOCK as u32).to_le_bytes());
    put(&mut bytes, 16, &id_bytes(id));
    let sum = crc32c(bytes.get(..HEADER - 4).unwrap_or_default());
    put(&mut bytes, HEADER - 4, &sum.to_le_bytes());
    bytes
}

/// Checks that `bytes` are the header of chunk `id`.
pub fn check_header(bytes: &[u8; HEADER], id: ChunkId) -> Result<(), FormatError> {
    if !bytes.starts_with(&HEADER_MAGIC) {
        return Err(damaged("header: not a chunk"));
    }
    // The checksum comes before the version: its place is the same in every version.
    if crc32c(bytes.get(..HEADER - 4).unwrap_or_default()) != u32_at(bytes, HEADER - 4) {
        return Err(damaged("header: checksum"));
    }
    check_version(u32_at(bytes, 8))?;
    if u32_at(bytes, 12) != BLOCK as u32 {
        return Err(damaged("header: block size"));
    }
    check_id("header", array(bytes, 16), id)
}

fn check_version(version: u32) -> Result<(), FormatError> {
    match version {
        VERSION => Ok(()),
        0 => Err(damaged("format version 0")),
        newer => Err(FormatError::Newer(newer)),
    }
}

fn check_id(place: &str, found: [u8; 20], id: ChunkId) -> Result<(), FormatError> {
    if found == id_bytes(id) {
        return Ok(());
    }
    Err(FormatError::Damaged(format!("{place}: belongs to chunk {}", id_from_bytes(found))))
}

/// What the footer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Bytes of content.
    pub length: u64,
    /// CRC-32C of the table of checksums.
    pub checksum: u32,
}

/// The CRC-32C of the table of `sums`, which identifies the content.
pub fn table_checksum(sums: &[u32]) -> u32 {
    crc32c(&table(sums))
}

fn table(sums: &[u32]) -> Vec<u8> {
    sums.iter().flat_map(|sum| sum.to_le_bytes()).collect()
}

/// The trailer of chunk `id` whose `length` bytes of content have these block checksums; and
/// what its footer says.
pub fn trailer(id: ChunkId, length: u64, sums: &[u32]) -> (Vec<u8>, Footer) {
    let mut bytes = table(sums);
    let checksum = crc32c(&bytes);
    let whole = (bytes.len() + FOOTER).next_multiple_of(PAGE as usize);
    bytes.resize(whole, 0);
    let mut footer = [0; FOOTER];
    put(&mut footer, 0, &FOOTER_MAGIC);
    put(&mut footer, 8, &VERSION.to_le_bytes());
    put(&mut footer, 12, &(sums.len() as u32).to_le_bytes());
    put(&mut footer, 16, &length.to_le_bytes());
    put(&mut footer, 24, &id_bytes(id));
    put(&mut footer, 44, &checksum.to_le_bytes());
    let sum = crc32c(footer.get(..FOOTER - 4).unwrap_or_default());
    put(&mut footer, FOOTER - 4, &sum.to_le_bytes());
    put(&mut bytes, whole - FOOTER, &footer);
    (bytes, Footer { length, checksum })
}

/// Reads the footer of chunk `id` from the last bytes of its file of `file_bytes` bytes.
pub fn check_footer(
    bytes: &[u8; FOOTER],
    id: ChunkId,
    file_bytes: u64,
) -> Result<Footer, FormatError> {
    if !bytes.starts_with(&FOOTER_MAGIC) {
        return Err(damaged("footer: not there; the file is cut or was never finished"));
    }
    if crc32c(bytes.get(..FOOTER - 4).unwrap_or_default()) != u32_at(bytes, FOOTER - 4) {
        return Err(damaged("footer: checksum"));
    }
    check_version(u32_at(bytes, 8))?;
    check_id("footer", array(bytes, 24), id)?;
    let length = u64::from_le_bytes(array(bytes, 16));
    // The length is bounded before it enters any arithmetic.
    if length > LENGTH_MAX
        || u64::from(u32_at(bytes, 12)) != blocks(length)
        || file_length(length) != file_bytes
    {
        return Err(damaged("footer: the file has another length"));
    }
    Ok(Footer { length, checksum: u32_at(bytes, 44) })
}

/// Reads the block checksums from the trailer's start.
pub fn check_table(bytes: &[u8], footer: Footer) -> Result<Vec<u32>, FormatError> {
    if crc32c(bytes) != footer.checksum {
        return Err(damaged("table of checksums: checksum"));
    }
    let (sums, _) = bytes.as_chunks::<4>();
    Ok(sums.iter().map(|sum| u32::from_le_bytes(*sum)).collect())
}

/// The checksums of the blocks of `content`; only the last block may be shorter than [`BLOCK`].
pub fn block_sums(content: &[u8]) -> impl Iterator<Item = u32> {
    content.chunks(BLOCK).map(crc32c)
}

#[cfg(test)]
mod tests {
    use larder_base::id::Incarnation;

    use super::*;

    fn id() -> ChunkId {
        let blob = BlobId { incarnation: Incarnation(0x0102), counter: 0x0304 };
        ChunkId { blob, index: 5 }
    }

    #[test]
    fn the_documented_example_reads_back() {
        let document = include_str!("../../../docs/formats/chunk.md");
        let example = document.split("```text\n").nth(1).unwrap().split("```").next().unwrap();
        let mut file = vec![0; file_length(11) as usize];
        for line in example.lines() {
            let (at, hex) = line.split_once(": ").unwrap();
            let at = usize::from_str_radix(at, 16).unwrap();
            for (i, byte) in hex.split_whitespace().enumerate() {
                file[at + i] = u8::from_str_radix(byte, 16).unwrap();
            }
        }
        check_header(file[..HEADER].try_into().unwrap(), id()).unwrap();
        let footer: [u8; FOOTER] = file[file.len() - FOOTER..].try_into().unwrap();
        let footer = check_footer(&footer, id(), file.len() as u64).unwrap();
        assert_eq!(footer.length, 11);
        let at = trailer_offset(11) as usize;
        let sums = check_table(&file[at..at + 4], footer).unwrap();
        let content = &file[HEADER..HEADER + 11];
        assert_eq!(content, b"hello world");
        assert_eq!(sums, block_sums(content).collect::<Vec<_>>());
        // And it is exactly what this version writes.
        let mut written = header(id()).to_vec();
        written.extend_from_slice(content);
        written.resize(at, 0);
        written.extend(trailer(id(), 11, &sums).0);
        assert_eq!(written, file);
    }

    #[test]
    fn newer_versions_are_refused_and_not_called_damaged() {
        let mut bytes = header(id());
        put(&mut bytes, 8, &2_u32.to_le_bytes());
        let sum = crc32c(&bytes[..HEADER - 4]);
        put(&mut bytes, HEADER - 4, &sum.to_le_bytes());
        assert_eq!(check_header(&bytes, id()), Err(FormatError::Newer(2)));
        // Without its checksum it is a flipped byte.
        put(&mut bytes, 8, &3_u32.to_le_bytes());
        assert!(matches!(check_header(&bytes, id()), Err(FormatError::Damaged(_))));
    }

    #[test]
    fn lengths_add_up_at_every_edge() {
        for length in [0, 1, 4095, 4096, 4097, 65_536, 65_537, 66_060_288, 10 << 30, LENGTH_MAX] {
            let (offset, size) = (trailer_offset(length), trailer_length(length));
            assert!(offset.is_multiple_of(PAGE) && size.is_multiple_of(PAGE));
            assert!(offset >= HEADER as u64 + length && offset < HEADER as u64 + length + PAGE);
            assert!(size >= blocks(length) * 4 + FOOTER as u64);
        }
    }

    #[test]
    fn another_chunks_bytes_are_named() {
        let other = ChunkId { index: 6, ..id() };
        let error = check_header(&header(other), id()).unwrap_err().to_string();
        assert!(error.contains(&other.to_string()), "{error}");
    }
}
