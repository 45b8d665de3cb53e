//! Bodies that prove what they are: every 64 bytes name their writer and their place (oracle O1).
//!
//! Promises: [`identify`] accepts exactly the bytes that [`Stamp::body`] makes, of any length
//! from [`RECORD`] on; a body that is torn, mixed from two, cut, doubled or shifted is told apart
//! and the first wrong record is named. Shorter bodies carry too little: compare them with what
//! [`Stamp::body`] makes.

use larder_base::digest::crc32c;

/// Bytes of one record.
pub const RECORD: usize = 64;

const MAGIC: &[u8; 4] = b"LRDR";

/// Who wrote a body, and which of its bodies it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// The writer.
    pub writer: u32,
    /// The number of the body among those of its writer.
    pub seq: u32,
}

impl Stamp {
    /// The stamp of body `seq` of `writer`.
    pub const fn new(writer: u32, seq: u32) -> Self {
        Self { writer, seq }
    }

    /// A body of `len` bytes.
    pub fn body(self, len: usize) -> Vec<u8> {
        let mut body = Vec::with_capacity(len + RECORD);
        while body.len() < len {
            body.extend_from_slice(&self.record(body.len() as u64, len as u64));
        }
        body.truncate(len);
        body
    }

    /// The record at `offset` of a body of `len` bytes.
    pub fn record(self, offset: u64, len: u64) -> [u8; RECORD] {
        let mut record = [0; RECORD];
        record[..4].copy_from_slice(MAGIC);
        record[4..8].copy_from_slice(&self.writer.to_le_bytes());
        record[8..12].copy_from_slice(&self.seq.to_le_bytes());
        record[12..20].copy_from_slice(&offset.to_le_bytes());
        record[20..28].copy_from_slice(&len.to_le_bytes());
        // Filled so that no two records look alike to a compressor or a careless comparison.
        let mut fill = offset ^ (u64::from(self.writer) << 32) ^ u64::from(self.seq) ^ len << 7;
        for bytes in record[28..60].chunks_exact_mut(8) {
            fill = fill.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ 0x5bd1_e995;
            bytes.copy_from_slice(&fill.to_le_bytes());
        }
        let crc = crc32c(&record[..60]);
        record[60..].copy_from_slice(&crc.to_le_bytes());
        record
    }
}

/// Who wrote `body`, which must be whole and nothing else.
pub fn identify(body: &[u8]) -> Result<Stamp, String> {
    let (stamp, len) = read(body.get(..RECORD).ok_or("shorter than one record")?)?;
    if len != body.len() as u64 {
        return Err(format!("{stamp:?} wrote {len} bytes, these are {}", body.len()));
    }
    check_part(stamp, len, 0, body)?;
    Ok(stamp)
}

/// Checks that `part` is what `stamp` wrote at `start` of a body of `len` bytes.
pub fn check_part(stamp: Stamp, len: u64, start: u64, part: &[u8]) -> Result<(), String> {
    let mut offset = start;
    let mut rest = part;
    while !rest.is_empty() {
        let inside = (offset % RECORD as u64) as usize;
        let record = stamp.record(offset - inside as u64, len);
        let count = rest.len().min(RECORD - inside);
        if rest[..count] != record[inside..inside + count] {
            let found = rest.get(..RECORD).map(read);
            return Err(format!(
                "{stamp:?} of {len} bytes differs at {offset}; there is {found:?}"
            ));
        }
        offset += count as u64;
        rest = &rest[count..];
    }
    if offset > len {
        return Err(format!("{offset} bytes where {stamp:?} wrote {len}"));
    }
    Ok(())
}

fn read(record: &[u8]) -> Result<(Stamp, u64), String> {
    let number = |at: usize| {
        u32::from_le_bytes(record[at..at + 4].try_into().expect("four bytes of a record"))
    };
    if record[..4] != *MAGIC || number(60) != crc32c(&record[..60]) {
        return Err(format!("not a stamped record: {:02x?}", &record[..16]));
    }
    let len = u64::from(number(20)) | u64::from(number(24)) << 32;
    Ok((Stamp::new(number(4), number(8)), len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_names_its_writer_and_any_change_is_noticed() {
        let stamp = Stamp::new(3, 7);
        for len in [64, 65, 127, 128, 1000] {
            let body = stamp.body(len);
            assert_eq!(body.len(), len);
            assert_eq!(identify(&body), Ok(stamp));
            for at in (0..len).step_by(13).chain([len - 1]) {
                let mut wrong = body.clone();
                wrong[at] ^= 1;
                assert!(identify(&wrong).is_err(), "a flipped bit at {at} of {len}");
            }
            assert!(identify(&body[..len - 1]).is_err(), "cut");
        }
    }

    #[test]
    fn bodies_that_are_mixed_doubled_or_shifted_are_told_apart() {
        let (one, two) = (Stamp::new(1, 1).body(256), Stamp::new(2, 1).body(256));
        assert!(identify(&[&one[..128], &two[128..]].concat()).is_err());
        assert!(identify(&[&one[..128], &one[..128]].concat()).is_err());
        assert!(identify(&[&one[64..], &one[..64]].concat()).is_err());
        assert!(identify(&[&one[..], &one[..]].concat()).is_err());
        assert!(check_part(Stamp::new(1, 1), 256, 70, &one[70..200]).is_ok());
        assert!(check_part(Stamp::new(1, 1), 256, 71, &one[70..200]).is_err());
    }
}
