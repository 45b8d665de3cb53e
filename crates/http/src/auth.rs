//! Credentials out of an `Authorization` header: Basic (RFC 7617) and Bearer (RFC 6750).
//!
//! Promises: a secret is in no error, no `Debug` and no log line; two `Authorization` headers, or
//! one that is malformed, are refused like wrong credentials.
//!
//! Not here: whether they are right (core); signatures of S3 (its door).

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, header};
use larder_base::ErrorKind;
use larder_core::{Credentials, Error};

/// What `WWW-Authenticate` says with every 401.
pub const CHALLENGE: HeaderValue =
    HeaderValue::from_static("Basic realm=\"larder\", charset=\"UTF-8\"");

/// Longest credentials that are looked at, in bytes of the header.
const CREDENTIALS_BYTES_MAX: usize = 1024;

/// Credentials as the request brought them.
pub struct Given(Kind);

enum Kind {
    /// `user:password`, and where the colon is.
    Basic(String, usize),
    Bearer(String),
}

impl Given {
    /// Reads the credentials of a request.
    ///
    /// # Errors
    /// `Unauthenticated` if there are none, more than one, or not of a known form.
    pub fn parse(headers: &HeaderMap) -> Result<Self, Error> {
        let refuse = |detail: &'static str| Error::new(ErrorKind::Unauthenticated, detail);
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let value = values.next().ok_or_else(|| refuse("credentials are needed"))?;
        if values.next().is_some() {
            return Err(refuse("there is more than one Authorization header"));
        }
        let malformed = || refuse("the Authorization header is malformed");
        if value.len() > CREDENTIALS_BYTES_MAX {
            return Err(malformed());
        }
        let text = value.to_str().map_err(|_| malformed())?;
        let (scheme, rest) = text.split_once(' ').ok_or_else(malformed)?;
        let rest = rest.trim_matches(' ');
        if scheme.eq_ignore_ascii_case("basic") {
            let decoded = STANDARD.decode(rest).map_err(|_| malformed())?;
            let decoded = String::from_utf8(decoded).map_err(|_| malformed())?;
            let colon = decoded.find(':').ok_or_else(malformed)?;
            Ok(Self(Kind::Basic(decoded, colon)))
        } else if scheme.eq_ignore_ascii_case("bearer") && !rest.is_empty() {
            Ok(Self(Kind::Bearer(rest.to_owned())))
        } else {
            Err(refuse("the Authorization scheme must be Basic or Bearer"))
        }
    }

    /// The password alone, where that is what was given.
    pub fn password(&self) -> Option<&str> {
        match &self.0 {
            Kind::Basic(text, colon) => text.get(colon + 1..),
            Kind::Bearer(_) => None,
        }
    }

    /// The credentials as core takes them.
    pub fn credentials(&self) -> Credentials<'_> {
        match &self.0 {
            Kind::Basic(text, colon) => {
                let (user, rest) = text.split_at_checked(*colon).unwrap_or((text, ""));
                Credentials::Password { user, password: rest.strip_prefix(':').unwrap_or(rest) }
            }
            Kind::Bearer(key) => Credentials::Key(key),
        }
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.credentials(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(values: &[&str]) -> Result<Given, Error> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().expect("a value"));
        }
        Given::parse(&headers)
    }

    #[test]
    fn basic_and_bearer_are_understood() {
        // RFC 7617 section 2, and a password with a colon and one that is not ASCII.
        let basic = [
            ("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "Aladdin", "open sesame"),
            ("basic YTpiOmM=", "a", "b:c"),
            ("Basic dGVzdDoxMjPCow==", "test", "123\u{a3}"),
            ("Basic YTo=", "a", ""),
            ("Basic Og==", "", ""),
        ];
        for (value, name, secret) in basic {
            let given = parse(&[value]).expect(value);
            let Credentials::Password { user, password } = given.credentials() else {
                panic!("{value} is a password");
            };
            assert_eq!((user, password), (name, secret));
        }
        let given = parse(&["Bearer  k.e-y "]).expect("a key");
        assert!(matches!(given.credentials(), Credentials::Key("k.e-y")));
    }

    #[test]
    fn anything_else_is_unauthenticated() {
        let long = format!("Bearer {}", "x".repeat(2000));
        for values in [
            &[][..],
            &["Basic"],
            &["Basic !!!!"],
            &["Basic YQ=="],
            &["Basic /w=="],
            &["Basic YTpi", "Basic YTpi"],
            &["Bearer "],
            &["Digest username=a"],
            &["Negotiate x"],
            &[""],
            &[&long],
        ] {
            let error = parse(values).expect_err("it is refused");
            assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{values:?}");
        }
    }

    #[test]
    fn secrets_are_never_shown() {
        let given = parse(&["Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="]).expect("credentials");
        assert!(!format!("{given:?}").contains("sesame"));
        let given = parse(&["Bearer sesame"]).expect("a key");
        assert!(!format!("{given:?}").contains("sesame"));
    }
}
