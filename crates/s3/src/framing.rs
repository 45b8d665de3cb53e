//! The frames of `aws-chunked` bodies, checked and cut before the S3 library reads them.
//!
//! The library keeps one chunk in memory until it has its end, takes a body without a last chunk
//! for whole, and does not compare its length. So here unsigned chunks, which may be as long as
//! the content, are cut into those that the bytes came in; signed ones cannot be cut, so their
//! size is bounded.
//!
//! Promises: a framed body ends in a chunk of no bytes and has exactly the content declared, or
//! ends in an error; at most a header line is kept here.
//!
//! Not here: signatures of chunks and trailers (the library), checksums (`checksum`).

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use larder_core::Error;

/// Largest signed chunk: clients use 64 KiB to 1 MiB.
pub(crate) const SIGNED_BYTES_MAX: usize = 8 << 20;

/// Longest line before a chunk: a size, and a signature.
const LINE_BYTES_MAX: usize = 256;

/// Longest section behind the last chunk.
const TRAILER_BYTES_MAX: usize = 16 << 10;

/// The state between two pieces of a body.
#[derive(Debug)]
pub(crate) struct Frames {
    signed: bool,
    /// Content that is still to come.
    left: u64,
    place: Place,
    line: BytesMut,
    out: VecDeque<Bytes>,
    /// Bytes of the largest chunk so far that the library must keep.
    largest: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// In the line before a chunk.
    Line,
    /// In a chunk with so many bytes left.
    Chunk(u64),
    /// Behind a chunk: so many bytes of its line end are left.
    End(usize),
    /// Behind the last chunk, with so many bytes so far.
    Trailer(usize),
}

fn malformed(what: &'static str) -> Error {
    Error::invalid(what)
}

impl Frames {
    /// A body of `content` bytes in chunks.
    pub(crate) fn new(signed: bool, content: u64) -> Self {
        Self {
            signed,
            left: content,
            place: Place::Line,
            line: BytesMut::new(),
            out: VecDeque::new(),
            largest: 0,
        }
    }

    /// Bytes of the largest chunk that the library must keep at once.
    pub(crate) fn largest(&self) -> usize {
        self.largest
    }

    /// What the library may read next.
    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        self.out.pop_front()
    }

    /// Takes the next piece of the body.
    pub(crate) fn push(&mut self, mut piece: Bytes) -> Result<(), Error> {
        while !piece.is_empty() {
            match self.place {
                Place::Line => self.line(&mut piece)?,
                Place::Chunk(left) => {
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
                    let data = piece.split_to(take);
                    let left = left.saturating_sub(take as u64);
                    if self.signed {
                        self.out.push_back(data);
                    } else {
                        self.out.push_back(Bytes::from(format!("{take:x}\r\n")));
                        self.out.push_back(data);
                        self.out.push_back(Bytes::from_static(b"\r\n"));
                    }
                    self.place = if left == 0 { Place::End(2) } else { Place::Chunk(left) };
                }
                Place::End(left) => {
                    let expected = if left == 2 { b'\r' } else { b'\n' };
                    if piece.first() != Some(&expected) {
                        return Err(malformed("a chunk is longer than its size"));
                    }
                    let end = piece.split_to(1);
                    if self.signed {
                        self.out.push_back(end);
                    }
                    self.place = if left == 1 { Place::Line } else { Place::End(left - 1) };
                }
                Place::Trailer(before) => {
                    let length = before + piece.len();
                    if length > TRAILER_BYTES_MAX {
                        return Err(malformed("the trailer is too long"));
                    }
                    self.place = Place::Trailer(length);
                    self.out.push_back(piece);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn line(&mut self, piece: &mut Bytes) -> Result<(), Error> {
        let end = piece.iter().position(|byte| *byte == b'\n');
        let part = piece.split_to(end.map_or(piece.len(), |end| end + 1));
        if self.line.len() + part.len() > LINE_BYTES_MAX {
            return Err(malformed("the line before a chunk is too long"));
        }
        self.line.extend_from_slice(&part);
        if end.is_none() {
            return Ok(());
        }
        let line = self.line.split().freeze();
        let size = self.size(&line)?;
        self.left = self
            .left
            .checked_sub(size)
            .ok_or_else(|| malformed("the content is longer than declared"))?;
        if size == 0 {
            if self.left > 0 {
                return Err(malformed("the content is shorter than declared"));
            }
            self.place = Place::Trailer(0);
            self.out.push_back(if self.signed { line } else { Bytes::from_static(b"0\r\n") });
            return Ok(());
        }
        if self.signed {
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            if size > SIGNED_BYTES_MAX {
                return Err(malformed("a signed chunk is too large; use chunks of 1 MiB"));
            }
            self.largest = self.largest.max(size);
            self.out.push_back(line);
        }
        self.place = Place::Chunk(size);
        Ok(())
    }

    fn size(&self, line: &[u8]) -> Result<u64, Error> {
        let bad = || malformed("the line before a chunk is malformed");
        let line = std::str::from_utf8(line).ok().and_then(|line| line.strip_suffix("\r\n"));
        let line = line.ok_or_else(bad)?;
        let (digits, signature) = match line.split_once(';') {
            Some((digits, extension)) => (digits, Some(extension)),
            None => (line, None),
        };
        if signature.is_some() != self.signed {
            return Err(bad());
        }
        // The library reads no more digits.
        let most = if self.signed { 8 } else { 15 };
        let hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !hex || digits.is_empty() || digits.len() > most {
            return Err(bad());
        }
        u64::from_str_radix(digits, 16).map_err(|_| bad())
    }

    /// The body has ended.
    pub(crate) fn finish(&self) -> Result<(), Error> {
        match self.place {
            Place::Trailer(_) => Ok(()),
            _ => Err(malformed("the last chunk is missing")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(signed: bool, content: u64, body: &[u8], step: usize) -> Result<Vec<u8>, Error> {
        let mut frames = Frames::new(signed, content);
        let mut out = Vec::new();
        for piece in body.chunks(step) {
            frames.push(Bytes::copy_from_slice(piece))?;
            while let Some(bytes) = frames.pop() {
                out.extend_from_slice(&bytes);
            }
        }
        frames.finish()?;
        Ok(out)
    }

    fn signature() -> String {
        format!(";chunk-signature={}", "a".repeat(64))
    }

    #[test]
    fn signed_chunks_pass_as_they_are() {
        let sign = signature();
        let body = format!("3{sign}\r\nabc\r\n2{sign}\r\nde\r\n0{sign}\r\n\r\n");
        for step in [1, 2, 7, 1000] {
            let out = run(true, 5, body.as_bytes(), step).expect("well-formed");
            assert_eq!(out, body.as_bytes(), "{step}");
        }
    }

    #[test]
    fn unsigned_chunks_are_cut_as_they_come() {
        let body = b"5\r\nabcde\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n";
        let out = run(false, 5, body, 1000).expect("well-formed");
        assert_eq!(out, body);
        let out = run(false, 5, body, 5).expect("well-formed");
        let out = String::from_utf8(out).expect("UTF-8");
        assert!(out.starts_with("2\r\nab\r\n3\r\ncde\r\n0\r\nx-amz-checksum"), "{out}");
    }

    #[test]
    fn what_does_not_add_up_is_refused() {
        let sign = signature();
        for (signed, content, body) in [
            (false, 5, "5\r\nabcde\r\n".to_owned()),
            (false, 6, "5\r\nabcde\r\n0\r\n\r\n".to_owned()),
            (false, 4, "5\r\nabcde\r\n0\r\n\r\n".to_owned()),
            (false, 5, "4\r\nabcde\r\n0\r\n\r\n".to_owned()),
            (false, 5, "5\r\nabc".to_owned()),
            (false, 5, String::new()),
            (false, 5, "-5\r\nabcde\r\n0\r\n\r\n".to_owned()),
            (false, 5, "fffffffffffffffff\r\nabcde".to_owned()),
            (false, 5, "5\nabcde\r\n0\r\n\r\n".to_owned()),
            (false, 5, format!("5{}", "x".repeat(300))),
            (false, 5, format!("5{sign}\r\nabcde\r\n0\r\n\r\n")),
            (true, 5, "5\r\nabcde\r\n0\r\n\r\n".to_owned()),
            (true, 5, format!("5{sign}\r\nabcde\r\n")),
            (true, 1 << 40, format!("ffffffff{sign}\r\nabcde")),
            (false, 0, format!("0\r\n{}", "x".repeat(20_000))),
        ] {
            assert!(run(signed, content, body.as_bytes(), 9).is_err(), "{body:.40}");
        }
    }
}
