//! The headers of tus 1.0.0: parsed into values, and refused where they are malformed.
//!
//! Source: the tus resumable upload protocol, version 1.0.0, with its extensions creation,
//! creation-with-upload, creation-defer-length, expiration, checksum, termination and
//! concatenation.
//!
//! Promises: nothing is guessed; a header that is given twice, is no text, or does not have the
//! form of the protocol is `Invalid` and named. Pure functions, so that hostile input can be
//! thrown at them without a server.
//!
//! Not here: what the calls do ([`crate::uploads`]); which names are fit for a file (base).

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, HeaderName};
use larder_base::id::UploadId;
use larder_core::Error;

/// The only version that there is.
pub(crate) const VERSION: &str = "1.0.0";

/// What we can do beyond the core protocol.
pub(crate) const EXTENSIONS: &str = "creation,creation-with-upload,creation-defer-length,\
                                     expiration,checksum,termination,concatenation";

/// The type that the body of a piece must have.
pub(crate) const PIECE_TYPE: &str = "application/offset+octet-stream";

/// Parts of one final upload.
const PARTS_MAX: usize = 1_000;

/// Pairs in `Upload-Metadata`.
const PAIRS_MAX: usize = 64;

pub(crate) const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
pub(crate) const TUS_VERSION: HeaderName = HeaderName::from_static("tus-version");
pub(crate) const TUS_EXTENSION: HeaderName = HeaderName::from_static("tus-extension");
pub(crate) const TUS_MAX_SIZE: HeaderName = HeaderName::from_static("tus-max-size");
pub(crate) const TUS_CHECKSUM: HeaderName = HeaderName::from_static("tus-checksum-algorithm");
pub(crate) const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
pub(crate) const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
pub(crate) const UPLOAD_DEFER: HeaderName = HeaderName::from_static("upload-defer-length");
pub(crate) const UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");
pub(crate) const UPLOAD_EXPIRES: HeaderName = HeaderName::from_static("upload-expires");
pub(crate) const UPLOAD_CONCAT: HeaderName = HeaderName::from_static("upload-concat");
pub(crate) const UPLOAD_CHECKSUM: HeaderName = HeaderName::from_static("upload-checksum");
pub(crate) const UPLOAD_COMPLETE: HeaderName = HeaderName::from_static("upload-complete");
pub(crate) const METHOD_OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");

/// Standard alphabet, with padding or without: clients differ.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The value of `name`, if it is there once; trimmed.
///
/// # Errors
/// `Invalid` if it is there twice or is not ASCII.
pub(crate) fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Error> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Error::invalid(format!("{name} is given twice")));
    }
    match value.to_str() {
        Ok(text) => Ok(Some(text.trim())),
        Err(_) => Err(Error::invalid(format!("{name} is not ASCII"))),
    }
}

/// A number of bytes: decimal digits and nothing else.
fn bytes(headers: &HeaderMap, name: &HeaderName) -> Result<Option<u64>, Error> {
    let Some(text) = one(headers, name)? else { return Ok(None) };
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // A length that does not fit is still a number: it is too large, which the caller says.
    let number = if digits { Some(text.parse().unwrap_or(u64::MAX)) } else { None };
    let bad = || Error::invalid(format!("{name} must be a number of bytes"));
    number.map(Some).ok_or_else(bad)
}

/// How long an upload is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// So many bytes; `u64::MAX` stands for all that is more than fits.
    Known(u64),
    /// It will be said later.
    Deferred,
}

/// `Upload-Length` or `Upload-Defer-Length`.
pub(crate) fn length(headers: &HeaderMap) -> Result<Option<Length>, Error> {
    let known = bytes(headers, &UPLOAD_LENGTH)?;
    match (known, one(headers, &UPLOAD_DEFER)?) {
        (known, None) => Ok(known.map(Length::Known)),
        (None, Some("1")) => Ok(Some(Length::Deferred)),
        (None, Some(_)) => Err(Error::invalid("Upload-Defer-Length must be 1")),
        (Some(_), Some(_)) => {
            Err(Error::invalid("give Upload-Length or Upload-Defer-Length, not both"))
        }
    }
}

/// `Upload-Offset`, which a piece must have.
pub(crate) fn offset(headers: &HeaderMap) -> Result<u64, Error> {
    bytes(headers, &UPLOAD_OFFSET)?.ok_or_else(|| Error::invalid("Upload-Offset is missing"))
}

/// What `Upload-Metadata` says about the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// Where below the root of the space.
    pub(crate) path: Option<String>,
    /// Whether the path comes from a folder that is uploaded as a whole, so that the directories
    /// on it are to be made.
    pub(crate) in_folder: bool,
    /// MIME type.
    pub(crate) content_type: Option<String>,
}

/// `Upload-Metadata`: pairs of a key and an optional base64 value. The path is that of the keys
/// `path`, `relativePath` (which browsers give for folders) or `filename`, in this order; the type
/// that of `filetype`. Other keys are the client's own.
pub(crate) fn metadata(headers: &HeaderMap) -> Result<Metadata, Error> {
    let bad = |why: &str| Error::invalid(format!("Upload-Metadata is malformed: {why}"));
    let mut found = Metadata::default();
    let Some(text) = one(headers, &UPLOAD_METADATA)? else { return Ok(found) };
    let (mut path, mut relative, mut name) = (None, None, None);
    let mut keys: Vec<&str> = Vec::new();
    if text.is_empty() {
        return Ok(found);
    }
    for pair in text.split(',') {
        let pair = pair.trim();
        let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
        if key.is_empty() {
            return Err(bad("a key is empty"));
        }
        if keys.contains(&key) {
            return Err(bad("a key is given twice"));
        }
        if keys.len() == PAIRS_MAX {
            return Err(bad("there are too many keys"));
        }
        keys.push(key);
        let value = BASE64.decode(value.trim()).map_err(|_| bad("a value is not base64"))?;
        let slot = match key {
            "path" => &mut path,
            "relativePath" => &mut relative,
            "filename" => &mut name,
            "filetype" => &mut found.content_type,
            _ => continue,
        };
        let value = String::from_utf8(value).map_err(|_| bad("a value is not UTF-8"))?;
        // A widespread client says "null" where there is no folder and no known type.
        *slot = Some(value).filter(|value| !value.is_empty() && value != "null");
    }
    found.in_folder = path.is_none() && relative.is_some();
    found.path = path.or(relative).or(name);
    Ok(found)
}

/// What an upload is in a concatenation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Concat {
    /// A part.
    Partial,
    /// The parts, put together.
    Final(Vec<UploadId>),
}

/// `Upload-Concat`. Parts are named by their URLs, absolute or relative: what counts is the id at
/// the end, since a proxy may have another host and prefix than we know of.
pub(crate) fn concat(headers: &HeaderMap) -> Result<Option<Concat>, Error> {
    let bad = |why: &str| Error::invalid(format!("Upload-Concat is malformed: {why}"));
    let Some(text) = one(headers, &UPLOAD_CONCAT)? else { return Ok(None) };
    if text == "partial" {
        return Ok(Some(Concat::Partial));
    }
    let urls = text.strip_prefix("final;").ok_or_else(|| bad("say partial or final;URL URL"))?;
    let mut parts = Vec::new();
    for url in urls.split_ascii_whitespace() {
        if parts.len() == PARTS_MAX {
            return Err(bad("there are too many parts"));
        }
        let id = url.rsplit_once("/uploads/").map(|(_, id)| id.trim_end_matches('/'));
        let id = id.and_then(|id| id.parse().ok()).ok_or_else(|| bad("a URL is of no upload"))?;
        parts.push(id);
    }
    if parts.is_empty() {
        return Err(bad("there are no parts"));
    }
    Ok(Some(Concat::Final(parts)))
}

/// `Upload-Checksum`: the algorithm and the digest.
pub(crate) fn checksum(headers: &HeaderMap) -> Result<Option<(&str, Vec<u8>)>, Error> {
    let bad = || Error::invalid("Upload-Checksum must be an algorithm and a base64 digest");
    let Some(text) = one(headers, &UPLOAD_CHECKSUM)? else { return Ok(None) };
    let (algorithm, digest) = text.split_once(' ').ok_or_else(bad)?;
    let digest = BASE64.decode(digest.trim()).map_err(|_| bad())?;
    Ok(Some((algorithm, digest)))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use larder_base::{Env, ErrorKind};

    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            (name.clone(), HeaderValue::from_bytes(value.as_bytes()).expect("a value"))
        });
        pairs.collect()
    }

    fn told(text: &str) -> Result<Metadata, ErrorKind> {
        metadata(&headers(&[(UPLOAD_METADATA, text)])).map_err(|error| error.kind())
    }

    #[test]
    fn lengths_are_known_deferred_or_absent_and_never_both() {
        let of = |pairs: &[(HeaderName, &str)]| length(&headers(pairs)).map_err(|e| e.kind());
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[(UPLOAD_LENGTH, "0")]), Ok(Some(Length::Known(0))));
        assert_eq!(of(&[(UPLOAD_LENGTH, "9223372036854775808")]), Ok(Some(Length::Known(1 << 63))));
        // 2^64 and beyond are too large, not another number.
        let huge = Ok(Some(Length::Known(u64::MAX)));
        assert_eq!(of(&[(UPLOAD_LENGTH, "18446744073709551616")]), huge);
        assert_eq!(of(&[(UPLOAD_DEFER, "1")]), Ok(Some(Length::Deferred)));
        for bad in ["", "-1", "+1", "1.0", "0x10", "1e3", "1, 2"] {
            assert_eq!(of(&[(UPLOAD_LENGTH, bad)]), Err(ErrorKind::Invalid), "{bad:?}");
        }
        for bad in ["0", "2", "", "true"] {
            assert_eq!(of(&[(UPLOAD_DEFER, bad)]), Err(ErrorKind::Invalid), "{bad:?}");
        }
        let both = [(UPLOAD_LENGTH, "1"), (UPLOAD_DEFER, "1")];
        assert_eq!(of(&both), Err(ErrorKind::Invalid));
        let mut twice = headers(&[(UPLOAD_LENGTH, "1")]);
        twice.append(UPLOAD_LENGTH, HeaderValue::from_static("1"));
        assert!(length(&twice).is_err(), "one of two lengths is not chosen");
    }

    #[test]
    fn metadata_names_the_place_and_the_type() {
        // "world_domination_plan.pdf", from the protocol's own example.
        let found = told("filename d29ybGRfZG9taW5hdGlvbl9wbGFuLnBkZg==,is_confidential");
        let found = found.expect("well formed");
        assert_eq!(found.path.as_deref(), Some("world_domination_plan.pdf"));
        assert!(!found.in_folder && found.content_type.is_none());
        // filename "a", relativePath "d/a", filetype "text/plain".
        let all = "filename YQ==,relativePath ZC9h,filetype dGV4dC9wbGFpbg==";
        let found = told(all).expect("well formed");
        assert_eq!(found.path.as_deref(), Some("d/a"));
        assert!(found.in_folder);
        assert_eq!(found.content_type.as_deref(), Some("text/plain"));
        let found = told("filename YQ==,relativePath bnVsbA==").expect("well formed");
        assert_eq!((found.path.as_deref(), found.in_folder), (Some("a"), false));
        let found = told("path ZC9i, filename YQ").expect("spaces and missing padding");
        assert_eq!(found.path.as_deref(), Some("d/b"));
        assert_eq!(told(""), Ok(Metadata::default()));
    }

    #[test]
    fn metadata_that_is_not_what_the_protocol_says_is_refused() {
        let many = (0..65).map(|n| format!("k{n}")).collect::<Vec<_>>().join(",");
        for bad in [
            "filename !!!!",
            "filename YQ==,filename Yg==",
            ",",
            "a,,b",
            "filename /w==",
            "filename a b c",
            &many,
        ] {
            assert_eq!(told(bad), Err(ErrorKind::Invalid), "{bad:?}");
        }
    }

    #[test]
    fn parts_are_named_by_absolute_and_relative_urls() {
        let (a, b) = (UploadId::new(&Env::system()), UploadId::new(&Env::system()));
        let of = |text: &str| concat(&headers(&[(UPLOAD_CONCAT, text)])).map_err(|e| e.kind());
        assert_eq!(of("partial"), Ok(Some(Concat::Partial)));
        let both = format!("final;/v1/uploads/{a} https://files.example/x/v1/uploads/{b}");
        assert_eq!(of(&both), Ok(Some(Concat::Final(vec![a, b]))));
        for bad in [
            "",
            "final",
            "final;",
            "final; ",
            "Partial",
            "final;/v1/uploads/x",
            "final;x",
            "partial;",
        ] {
            assert_eq!(of(bad), Err(ErrorKind::Invalid), "{bad:?}");
        }
        let many = vec![format!("/v1/uploads/{a}"); PARTS_MAX + 1].join(" ");
        assert_eq!(of(&format!("final;{many}")), Err(ErrorKind::Invalid));
    }

    #[test]
    fn checksums_are_taken_apart() {
        let map = headers(&[(UPLOAD_CHECKSUM, "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=")]);
        let (algorithm, digest) = checksum(&map).expect("well formed").expect("there");
        assert_eq!((algorithm, digest.len()), ("sha1", 20));
        for bad in ["sha1", "sha1 ???", ""] {
            assert!(checksum(&headers(&[(UPLOAD_CHECKSUM, bad)])).is_err(), "{bad:?}");
        }
    }
}
