//! The `Range` header (RFC 9110 section 14) against the size of a file.
//!
//! Promises: what is returned lies within the file; a header that is malformed, of another unit,
//! or asks for more than [`RANGES_MAX`] pieces or overlapping ones is ignored, as the RFC allows,
//! so that nobody can make one request cost many times the file (section 14.2).
//!
//! Not here: `If-Range` ([`crate::condition`]); the bytes.

use std::ops::Range;

/// Most pieces that one answer is made of.
pub const RANGES_MAX: usize = 16;

/// What a `Range` header asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The whole file: 200.
    Whole,
    /// One piece: 206 with `Content-Range`.
    One(Range<u64>),
    /// Two to [`RANGES_MAX`] pieces that do not overlap: 206 with `multipart/byteranges`.
    Many(Vec<Range<u64>>),
    /// Nothing that the file has: 416.
    Unsatisfiable,
}

/// Parses `header` against a file of `size` bytes.
pub fn parse(header: &str, size: u64) -> Wanted {
    let Some((unit, set)) = header.split_once('=') else { return Wanted::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Wanted::Whole;
    }
    let mut ranges = Vec::new();
    let mut asked = 0;
    for spec in set.split(',').map(|spec| spec.trim_matches([' ', '\t'])) {
        if spec.is_empty() {
            continue;
        }
        asked += 1;
        if asked > RANGES_MAX {
            return Wanted::Whole;
        }
        match one(spec, size) {
            Spec::Malformed => return Wanted::Whole,
            Spec::Outside => {}
            Spec::Inside(range) => ranges.push(range),
        }
    }
    if asked == 0 {
        return Wanted::Whole;
    }
    match ranges.as_slice() {
        [] => Wanted::Unsatisfiable,
        // A suffix of an empty file is satisfiable and empty, which no Content-Range can say.
        [only] if only.is_empty() => Wanted::Whole,
        [only] => Wanted::One(only.clone()),
        _ if overlap(&ranges) => Wanted::Whole,
        _ => Wanted::Many(ranges),
    }
}

enum Spec {
    Malformed,
    Outside,
    Inside(Range<u64>),
}

fn one(spec: &str, size: u64) -> Spec {
    let Some((first, last)) = spec.split_once('-') else { return Spec::Malformed };
    if first.is_empty() {
        return match number(last) {
            None => Spec::Malformed,
            Some(0) => Spec::Outside,
            Some(suffix) => Spec::Inside(size.saturating_sub(suffix)..size),
        };
    }
    let Some(first) = number(first) else { return Spec::Malformed };
    let end = match number(last) {
        Some(last) if last < first => return Spec::Malformed,
        Some(last) => last.saturating_add(1).min(size),
        None if last.is_empty() => size,
        None => return Spec::Malformed,
    };
    if first >= size { Spec::Outside } else { Spec::Inside(first..end) }
}

/// Digits only; a number beyond 64 bits is as good as the largest one.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

fn overlap(ranges: &[Range<u64>]) -> bool {
    let mut sorted: Vec<_> = ranges.iter().map(|range| (range.start, range.end)).collect();
    sorted.sort_unstable();
    sorted.iter().zip(sorted.iter().skip(1)).any(|(before, after)| after.0 < before.1)
}

/// The value of `Content-Range` for one piece of a file of `size` bytes.
pub fn content_range(range: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_rfc_9110() {
        let one = |header, range| assert_eq!(parse(header, 10_000), Wanted::One(range), "{header}");
        one("bytes=0-499", 0..500);
        one("bytes=500-999", 500..1000);
        one("bytes=-500", 9500..10_000);
        one("bytes=9500-", 9500..10_000);
        one("BYTES = 0-0", 0..1);
        assert_eq!(parse("bytes= 0-0, -1", 10_000), Wanted::Many(vec![0..1, 9999..10_000]));
    }

    #[test]
    fn ends_beyond_the_file_are_cut_off() {
        assert_eq!(parse("bytes=5-99999999999999999999999", 10), Wanted::One(5..10));
        assert_eq!(parse("bytes=-11", 10), Wanted::One(0..10));
        assert_eq!(parse("bytes=9-9", 10), Wanted::One(9..10));
    }

    #[test]
    fn what_the_file_does_not_have_is_unsatisfiable() {
        for header in ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99999999999999999999-"] {
            assert_eq!(parse(header, 10), Wanted::Unsatisfiable, "{header}");
        }
        assert_eq!(parse("bytes=0-", 0), Wanted::Unsatisfiable);
        assert_eq!(parse("bytes=-5", 0), Wanted::Whole);
        assert_eq!(parse("bytes=10-,2-3", 10), Wanted::One(2..4));
    }

    #[test]
    fn malformed_headers_are_ignored() {
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=a-b",
            "bytes=5-2",
            "bytes=-",
            "bytes=1",
            "items=0-5",
            "bytes=+1-2",
            "bytes=0x1-2",
            "bytes=1-2-3",
            "bytes=--1",
            "bytes=1 -2",
        ] {
            assert_eq!(parse(header, 10), Wanted::Whole, "{header}");
        }
    }

    #[test]
    fn many_or_overlapping_pieces_cost_no_more_than_the_file() {
        let many = format!("bytes={}", vec!["0-0"; 2000].join(","));
        assert_eq!(parse(&many, 10), Wanted::Whole);
        assert_eq!(parse("bytes=0-5,3-8", 10), Wanted::Whole);
        assert_eq!(parse("bytes=3-8,0-2", 10), Wanted::Many(vec![3..9, 0..3]));
    }

    #[test]
    fn content_range_counts_its_end_in() {
        assert_eq!(content_range(&(0..500), 1234), "bytes 0-499/1234");
    }
}
