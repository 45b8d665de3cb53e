//! The target of a request: which operation its parameters choose, what in it signs the request,
//! and which headers are written there.
//!
//! Promises: a parameter is known or told to be unknown; of a presigned URL, a header that is a
//! parameter counts like any other header, and two of one name must be the same.
//!
//! Not here: what a signature must cover ([`super::check`]).

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use crate::{
    checksum::{Hasher, algorithm, shown},
    error::{Refusal, is_xml},
};

/// Query parameters by which the library chooses the operation of a request that changes
/// something, and those that such an operation reads. With another one it would do something
/// else than what is asked for: `DELETE /bucket?unknown` deletes the bucket.
const PARAMETERS: &[&str] = &[
    "accelerate",
    "acl",
    "analytics",
    "cors",
    "delete",
    "encryption",
    "id",
    "intelligent-tiering",
    "inventory",
    "legal-hold",
    "lifecycle",
    "logging",
    "metadataTable",
    "metrics",
    "notification",
    "object-lock",
    "ownershipControls",
    "partNumber",
    "policy",
    "publicAccessBlock",
    "replication",
    "requestPayment",
    "restore",
    "retention",
    "select",
    "select-type",
    "tagging",
    "uploadId",
    "uploads",
    "versionId",
    "versioning",
    "website",
    "x-id",
];

/// Query parameters of a presigned URL; each may be there once.
const SIGNING: &[&str] = &[
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
    "X-Amz-Security-Token",
];

/// What the query says.
#[derive(Default)]
pub(super) struct Query<'a> {
    signing: Vec<(&'static str, Cow<'a, str>)>,
    /// Whether it has a signature of version 2.
    pub(super) legacy: bool,
    /// Whether it chooses another operation than the one on the object itself.
    pub(super) document: bool,
    /// A parameter that nobody here knows.
    unknown: Option<String>,
    /// Headers that are written as parameters, in lower case.
    hoisted: Vec<(String, Cow<'a, str>)>,
}

impl<'a> Query<'a> {
    pub(super) fn parse(raw: &'a str) -> Result<Self, Refusal> {
        let mut query = Self::default();
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (text(name)?, text(value)?);
            if let Some(known) = SIGNING.iter().find(|known| **known == name) {
                if query.signing(known).is_some() {
                    let message = format!("the parameter {known} is there more than once");
                    return Err(Refusal::bad("AuthorizationQueryParametersError", message));
                }
                query.signing.push((known, value));
                continue;
            }
            match &*name {
                "Signature" | "AWSAccessKeyId" => query.legacy = true,
                "partNumber" | "uploadId" | "x-id" | "versionId" => {}
                other if PARAMETERS.contains(&other) => query.document = true,
                other if is_hoisted(other) => {
                    query.hoisted.push((other.to_ascii_lowercase(), value));
                }
                other => {
                    query.unknown.get_or_insert_with(|| other.chars().take(64).collect());
                }
            }
        }
        Ok(query)
    }

    pub(super) fn signing(&self, name: &str) -> Option<&str> {
        self.signing.iter().find(|(known, _)| *known == name).map(|(_, value)| &**value)
    }

    pub(super) fn has_signature(&self) -> bool {
        !self.signing.is_empty()
    }

    /// A parameter that asks for what is not offered. Headers are parameters in presigned URLs.
    pub(super) fn not_offered(&self, presigned: bool) -> Option<&str> {
        let hoisted = self.hoisted.first().filter(|_| !presigned).map(|(name, _)| name.as_str());
        self.unknown.as_deref().or(hoisted)
    }

    /// The headers of a request with those that are written as parameters: SDKs do so in
    /// presigned URLs, whose signature covers both. `None` if there are no such parameters.
    pub(super) fn merged(&self, headers: &HeaderMap) -> Result<Option<HeaderMap>, Refusal> {
        if self.hoisted.is_empty() {
            return Ok(None);
        }
        let mut merged = headers.clone();
        for (name, value) in &self.hoisted {
            if self.is_void(name, value)? {
                continue;
            }
            let wrong = || {
                let message = format!("the parameter {name:?} cannot be a header");
                Refusal::bad("InvalidArgument", message)
            };
            let header = HeaderName::try_from(name).map_err(|_no_name| wrong())?;
            let value = HeaderValue::try_from(value.as_bytes()).map_err(|_no_value| wrong())?;
            if merged.get(&header).is_some_and(|given| *given != value) {
                let message = format!("{name} is there twice, and not the same");
                return Err(Refusal::bad("InvalidRequest", message));
            }
            merged.insert(header, value);
        }
        Ok(Some(merged))
    }

    /// Whether a parameter says nothing of the request.
    fn is_void(&self, name: &str, value: &str) -> Result<bool, Refusal> {
        if name == "x-amz-content-sha256" {
            return match value {
                "UNSIGNED-PAYLOAD" => Ok(true),
                _ => Err(Refusal::missing("a presigned URL does not sign the body")),
            };
        }
        // A hint which of the checksums there is.
        if name == "x-amz-sdk-checksum-algorithm" {
            return Ok(true);
        }
        // An SDK that signs without knowing the body writes down the checksum of nothing.
        let algorithm = name.strip_prefix("x-amz-checksum-").and_then(|name| algorithm(name).ok());
        Ok(algorithm.is_some_and(|algorithm| shown(&Hasher::new(algorithm).finish()) == value))
    }
}

/// Whether a parameter is a header that stands in the URL.
fn is_hoisted(name: &str) -> bool {
    name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("x-amz-"))
}

/// Decodes a text of the target.
pub(super) fn text(raw: &str) -> Result<Cow<'_, str>, Refusal> {
    let uri = |message: &'static str| Refusal::bad("InvalidURI", message);
    let text = percent_decode_str(raw).decode_utf8();
    let text = text.map_err(|_| uri("the target is not UTF-8"))?;
    if text.chars().all(is_xml) {
        return Ok(text);
    }
    Err(uri("the target has characters that no listing could show"))
}
