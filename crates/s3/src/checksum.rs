//! Digests of content: the MD5 of an ETag, and the checksum that a client declares.
//!
//! Promises: whatever digest comes with content, in a header or in the trailer, is compared with
//! the bytes before they are committed; a trailer that was announced and did not come, or came
//! malformed, is an error.
//!
//! Not here: digests of documents and signatures (the library).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderMap;
use larder_core::{ChecksumAlgorithm, ObjectChecksum};
use s3s::{
    S3Error, S3Result, TrailingHeaders,
    crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256},
    s3_error,
};

use crate::call::{coded, header};

/// Each algorithm with its name and the header that has its value.
const ALGORITHMS: [(ChecksumAlgorithm, &str, &str); 5] = [
    (ChecksumAlgorithm::Crc32, "CRC32", "x-amz-checksum-crc32"),
    (ChecksumAlgorithm::Crc32c, "CRC32C", "x-amz-checksum-crc32c"),
    (ChecksumAlgorithm::Crc64Nvme, "CRC64NVME", "x-amz-checksum-crc64nvme"),
    (ChecksumAlgorithm::Sha1, "SHA1", "x-amz-checksum-sha1"),
    (ChecksumAlgorithm::Sha256, "SHA256", "x-amz-checksum-sha256"),
];

/// The algorithm of a name.
pub(crate) fn algorithm(name: &str) -> S3Result<ChecksumAlgorithm> {
    let found = ALGORITHMS.iter().find(|(_, known, _)| known.eq_ignore_ascii_case(name));
    let message = "the checksum algorithm must be CRC32, CRC32C, CRC64NVME, SHA1 or SHA256";
    found.map(|(algorithm, ..)| *algorithm).ok_or_else(|| s3_error!(InvalidRequest, "{message}"))
}

/// The name of an algorithm.
pub(crate) fn name(algorithm: ChecksumAlgorithm) -> &'static str {
    match algorithm {
        ChecksumAlgorithm::Crc32 => "CRC32",
        ChecksumAlgorithm::Crc32c => "CRC32C",
        ChecksumAlgorithm::Crc64Nvme => "CRC64NVME",
        ChecksumAlgorithm::Sha1 => "SHA1",
        ChecksumAlgorithm::Sha256 => "SHA256",
    }
}

fn bytes_of(algorithm: ChecksumAlgorithm) -> usize {
    match algorithm {
        ChecksumAlgorithm::Crc32 | ChecksumAlgorithm::Crc32c => 4,
        ChecksumAlgorithm::Crc64Nvme => 8,
        ChecksumAlgorithm::Sha1 => 20,
        ChecksumAlgorithm::Sha256 => 32,
    }
}

/// Computes a checksum piece by piece.
pub(crate) enum Hasher {
    Crc32(Crc32),
    Crc32c(Crc32c),
    Crc64Nvme(Crc64Nvme),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Hasher {
    pub(crate) fn new(algorithm: ChecksumAlgorithm) -> Self {
        match algorithm {
            ChecksumAlgorithm::Crc32 => Self::Crc32(Crc32::new()),
            ChecksumAlgorithm::Crc32c => Self::Crc32c(Crc32c::new()),
            ChecksumAlgorithm::Crc64Nvme => Self::Crc64Nvme(Crc64Nvme::new()),
            ChecksumAlgorithm::Sha1 => Self::Sha1(Sha1::new()),
            ChecksumAlgorithm::Sha256 => Self::Sha256(Sha256::new()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc32(hasher) => hasher.update(bytes),
            Self::Crc32c(hasher) => hasher.update(bytes),
            Self::Crc64Nvme(hasher) => hasher.update(bytes),
            Self::Sha1(hasher) => hasher.update(bytes),
            Self::Sha256(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> ObjectChecksum {
        let (algorithm, value) = match self {
            Self::Crc32(hasher) => (ChecksumAlgorithm::Crc32, hasher.finalize().to_vec()),
            Self::Crc32c(hasher) => (ChecksumAlgorithm::Crc32c, hasher.finalize().to_vec()),
            Self::Crc64Nvme(hasher) => (ChecksumAlgorithm::Crc64Nvme, hasher.finalize().to_vec()),
            Self::Sha1(hasher) => (ChecksumAlgorithm::Sha1, hasher.finalize().to_vec()),
            Self::Sha256(hasher) => (ChecksumAlgorithm::Sha256, hasher.finalize().to_vec()),
        };
        ObjectChecksum { algorithm, value, parts: None }
    }
}

/// Where the value of a declared checksum is.
enum Declared {
    /// In a header: this is it.
    Value(Vec<u8>),
    /// In the trailer.
    Trailer,
}

/// The digests of content that is on its way.
pub(crate) struct Digests {
    md5: Md5,
    md5_declared: Option<Vec<u8>>,
    checksum: Option<(Hasher, Declared)>,
}

/// The digests of content that has come.
pub(crate) struct Verified {
    pub(crate) md5: [u8; 16],
    pub(crate) checksum: Option<ObjectChecksum>,
}

/// What is wrong with a `Content-MD5` that is none.
pub(crate) const NO_MD5: &str = "Content-MD5 is no MD5 in base64";

/// The MD5 that a request declares of its body.
pub(crate) fn md5_declared(headers: &HeaderMap) -> S3Result<Option<Vec<u8>>> {
    let Some(text) = header(headers, "content-md5") else { return Ok(None) };
    let value = STANDARD.decode(text).ok().filter(|value| value.len() == 16);
    value.map(Some).ok_or_else(|| s3_error!(InvalidDigest, "{NO_MD5}"))
}

impl Digests {
    /// What the headers of a request declare.
    pub(crate) fn new(headers: &HeaderMap) -> S3Result<Self> {
        let md5_declared = md5_declared(headers)?;
        let declared = declared(headers)?;
        let checksum = declared.map(|(algorithm, at)| (Hasher::new(algorithm), at));
        Ok(Self { md5: Md5::new(), md5_declared, checksum })
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        if let Some((hasher, _)) = &mut self.checksum {
            hasher.update(bytes);
        }
    }

    /// Compares what has come with what was declared.
    pub(crate) fn finish(self, trailer: Option<&TrailingHeaders>) -> S3Result<Verified> {
        let md5 = self.md5.finalize();
        if self.md5_declared.is_some_and(|declared| declared != md5) {
            let message = "the content does not have the MD5 of Content-MD5";
            return Err(s3_error!(BadDigest, "{message}"));
        }
        let Some((hasher, declared)) = self.checksum else {
            return Ok(Verified { md5, checksum: None });
        };
        let computed = hasher.finish();
        let expected = match declared {
            Declared::Value(value) => value,
            Declared::Trailer => trailed(computed.algorithm, trailer)?,
        };
        if expected != computed.value {
            let name = name(computed.algorithm);
            let message = format!("the content does not have the {name} that was sent with it");
            return Err(s3_error!(BadDigest, "{message}"));
        }
        Ok(Verified { md5, checksum: Some(computed) })
    }
}

/// The one checksum that headers declare, or announce for the trailer.
fn declared(headers: &HeaderMap) -> S3Result<Option<(ChecksumAlgorithm, Declared)>> {
    let mut found = None;
    let mut add = |algorithm, declared| {
        if found.replace((algorithm, declared)).is_some() {
            return Err(s3_error!(InvalidRequest, "expecting a single x-amz-checksum- header"));
        }
        Ok(())
    };
    for (algorithm, _, name) in ALGORITHMS {
        if headers.contains_key(name) {
            let text = header(headers, name).unwrap_or_default();
            add(algorithm, Declared::Value(decode(algorithm, text).ok_or_else(|| invalid(name))?))?;
        }
    }
    let announced = header(headers, "x-amz-trailer").unwrap_or_default();
    for announced in announced.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let known = ALGORITHMS.iter().find(|(.., name)| announced.eq_ignore_ascii_case(name));
        match known {
            Some((algorithm, ..)) => add(*algorithm, Declared::Trailer)?,
            None => {
                let message = format!("the trailer {announced:?} is not offered");
                return Err(s3_error!(NotImplemented, "{message}"));
            }
        }
    }
    if let Some(wanted) = header(headers, "x-amz-sdk-checksum-algorithm") {
        match &found {
            None => {
                let message = "x-amz-sdk-checksum-algorithm specified, but no corresponding \
                               x-amz-checksum-* or x-amz-trailer headers were found";
                return Err(s3_error!(InvalidRequest, "{message}"));
            }
            Some((declared, _)) if *declared != algorithm(wanted)? => {
                let message = "value for x-amz-sdk-checksum-algorithm header is invalid";
                return Err(s3_error!(InvalidRequest, "{message}"));
            }
            Some(_) => {}
        }
    }
    Ok(found)
}

fn trailed(algorithm: ChecksumAlgorithm, trailer: Option<&TrailingHeaders>) -> S3Result<Vec<u8>> {
    let (_, _, name) = row(algorithm);
    let text = trailer.and_then(|trailer| {
        trailer.read(|headers| {
            let mut values = headers.get_all(name).iter();
            match (values.next().and_then(|value| value.to_str().ok()), values.next()) {
                (Some(value), None) => Some(value.to_owned()),
                _ => None,
            }
        })
    });
    let text = text.flatten().ok_or_else(|| {
        let message = format!("the trailer {name}, which was announced, did not come");
        let mut error = coded("MalformedTrailerError", message);
        error.set_status_code(http::StatusCode::BAD_REQUEST);
        error
    })?;
    decode(algorithm, &text).ok_or_else(|| invalid(name))
}

fn row(algorithm: ChecksumAlgorithm) -> (ChecksumAlgorithm, &'static str, &'static str) {
    let found = ALGORITHMS.into_iter().find(|(known, ..)| *known == algorithm);
    found.unwrap_or((algorithm, name(algorithm), ""))
}

fn decode(algorithm: ChecksumAlgorithm, text: &str) -> Option<Vec<u8>> {
    let value = STANDARD.decode(text).ok()?;
    (value.len() == bytes_of(algorithm)).then_some(value)
}

fn invalid(name: &str) -> S3Error {
    s3_error!(BadDigest, "value for {} header is invalid", name)
}

/// The checksum of a whole object as a header declares it: in base64, and behind that `-N` if it
/// is the checksum of the checksums of N parts.
pub(crate) fn of_object(headers: &HeaderMap) -> S3Result<Option<ObjectChecksum>> {
    let mut found = None;
    for (algorithm, _, name) in ALGORITHMS {
        let Some(text) = header(headers, name) else { continue };
        let (text, parts) = match text.split_once('-') {
            Some((text, parts)) => (text, Some(parts.parse().map_err(|_| invalid(name))?)),
            None => (text, None),
        };
        let value = decode(algorithm, text).ok_or_else(|| invalid(name))?;
        if found.replace(ObjectChecksum { algorithm, value, parts }).is_some() {
            return Err(s3_error!(InvalidRequest, "expecting a single x-amz-checksum- header"));
        }
    }
    Ok(found)
}

/// Checksums of a part as a document names them: at most one.
pub(crate) fn of_part(texts: [Option<&str>; 5]) -> S3Result<Option<ObjectChecksum>> {
    for ((algorithm, name, _), text) in ALGORITHMS.into_iter().zip(texts) {
        let Some(text) = text else { continue };
        let value = decode(algorithm, text);
        let value = value.ok_or_else(|| s3_error!(InvalidPart, "the {} is malformed", name))?;
        return Ok(Some(ObjectChecksum { algorithm, value, parts: None }));
    }
    Ok(None)
}

/// A checksum as S3 shows it.
pub(crate) fn shown(checksum: &ObjectChecksum) -> String {
    let text = STANDARD.encode(&checksum.value);
    match checksum.parts {
        Some(parts) => format!("{text}-{parts}"),
        None => text,
    }
}

/// The type of a checksum as S3 names it.
pub(crate) fn kind(checksum: &ObjectChecksum) -> &'static str {
    if checksum.parts.is_some() { "COMPOSITE" } else { "FULL_OBJECT" }
}

/// Sets the fields of an answer that show a checksum.
macro_rules! show {
    ($output:expr, $checksum:expr) => {
        if let Some(checksum) = $checksum {
            let text = Some($crate::checksum::shown(checksum));
            match checksum.algorithm {
                larder_core::ChecksumAlgorithm::Crc32 => $output.checksum_crc32 = text,
                larder_core::ChecksumAlgorithm::Crc32c => $output.checksum_crc32c = text,
                larder_core::ChecksumAlgorithm::Crc64Nvme => $output.checksum_crc64nvme = text,
                larder_core::ChecksumAlgorithm::Sha1 => $output.checksum_sha1 = text,
                larder_core::ChecksumAlgorithm::Sha256 => $output.checksum_sha256 = text,
            }
        }
    };
    ($output:expr, $checksum:expr, with type) => {
        $crate::checksum::show!($output, $checksum);
        if let Some(checksum) = $checksum {
            let kind = $crate::checksum::kind(checksum);
            $output.checksum_type = Some(s3s::dto::ChecksumType::from_static(kind));
        }
    };
}
pub(crate) use show;

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(pairs: &[(&'static str, &str)]) -> S3Result<Digests> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().expect("a value"));
        }
        Digests::new(&headers)
    }

    fn run(pairs: &[(&'static str, &str)]) -> Result<Verified, String> {
        let code = |error: S3Error| error.code().as_str().to_owned();
        let mut digests = digests(pairs).map_err(code)?;
        digests.update(b"123456");
        digests.update(b"789");
        digests.finish(None).map_err(code)
    }

    #[test]
    fn every_algorithm_is_verified() {
        let verified = run(&[]).expect("nothing to verify");
        assert_eq!(u128::from_be_bytes(verified.md5), 0x25f9_e794_323b_4538_85f5_181f_1b62_4d0b);
        assert!(verified.checksum.is_none());
        for (name, good, other) in [
            ("content-md5", "JfnnlDI7RTiF9RgfG2JNCw==", "ndTkYSaMgDT1yFZOFVxnpg=="),
            ("x-amz-checksum-crc32", "y/Q5Jg==", "y/Q5Jw=="),
            ("x-amz-checksum-crc32c", "4waSgw==", "4waShA=="),
            ("x-amz-checksum-crc64nvme", "rosUhgp5mIg=", "rosUhgp5mIk="),
            ("x-amz-checksum-sha1", "98O8HYCOBHMq32eZZczDTKeuNEE=", "EfatjsUqKYSrqv18O1FlA3hcIHI="),
            (
                "x-amz-checksum-sha256",
                "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=",
                "LXEWQrcmsEQBYnyp+6wy9chTD7GQPMTbAiWHF5IaSIE=",
            ),
        ] {
            let refused = |value: &str| run(&[(name, value)]).err();
            assert_eq!(refused(good), None, "{name}");
            assert_eq!(refused(other).as_deref(), Some("BadDigest"), "{name}");
            let malformed = if name == "content-md5" { "InvalidDigest" } else { "BadDigest" };
            for value in ["", "AA==", "no base64"] {
                assert_eq!(refused(value).as_deref(), Some(malformed), "{name} {value}");
            }
        }
    }

    #[test]
    fn what_is_announced_must_come() {
        let trailer = [("x-amz-trailer", "x-amz-checksum-crc32")];
        assert_eq!(run(&trailer).err().as_deref(), Some("MalformedTrailerError"));
        let unknown = [("x-amz-trailer", "x-amz-checksum-md5")];
        assert_eq!(run(&unknown).err().as_deref(), Some("NotImplemented"));
        let promised = [("x-amz-sdk-checksum-algorithm", "CRC32")];
        assert_eq!(run(&promised).err().as_deref(), Some("InvalidRequest"));
        let two = [("x-amz-checksum-crc32", "y/Q5Jg=="), ("x-amz-checksum-crc32c", "4waSgw==")];
        assert_eq!(run(&two).err().as_deref(), Some("InvalidRequest"));
    }

    #[test]
    fn checksums_of_checksums_say_of_how_many() {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-checksum-crc32", "y/Q5Jg==-3".parse().expect("a value"));
        let checksum = of_object(&headers).expect("well-formed").expect("declared");
        assert_eq!(checksum.parts, Some(3));
        assert_eq!(shown(&checksum), "y/Q5Jg==-3");
        assert_eq!(kind(&checksum), "COMPOSITE");
        headers.insert("x-amz-checksum-crc32", "y/Q5Jg==-x".parse().expect("a value"));
        assert!(of_object(&headers).is_err());
    }
}
