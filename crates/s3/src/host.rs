//! Buckets in host names: `bucket.domain` for the domain that is configured.
//!
//! Promises: every other host, an address or a name, means that the bucket is in the path; so no
//! `Host` that a client makes up opens another bucket than the path says, unless it is below our
//! domain. Names of hosts are compared without regard to case.
//!
//! Not here: what a valid `Host` is (`larder_http::host`), names of buckets (the library).

use std::sync::Arc;

use s3s::{
    S3Result,
    host::{S3Host, VirtualHost},
};

/// The domain below which buckets are hosts.
#[derive(Clone, Debug)]
pub(crate) struct Domain(Arc<str>);

impl Domain {
    pub(crate) fn new(domain: &str) -> Self {
        Self(domain.trim_matches('.').to_ascii_lowercase().into())
    }

    /// The bucket that a host names.
    pub(crate) fn bucket(&self, host: &str) -> Option<String> {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let bucket = name.strip_suffix(&*self.0)?.strip_suffix('.')?;
        (!bucket.is_empty()).then(|| bucket.to_owned())
    }
}

impl S3Host for Domain {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let found = VirtualHost::new(host);
        Ok(match self.bucket(host) {
            Some(bucket) => found.with_bucket(bucket),
            None => found,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_what_stands_before_the_domain() {
        let domain = Domain::new("S3.example.org.");
        for (host, bucket) in [
            ("photos.s3.example.org", Some("photos")),
            ("Photos.S3.Example.org:9000", Some("photos")),
            ("a.b.s3.example.org", Some("a.b")),
            ("photos.s3.example.org.", Some("photos")),
            ("s3.example.org", None),
            ("s3.example.org:9000", None),
            (".s3.example.org", None),
            ("evils3.example.org", None),
            ("photos.example.org", None),
            ("127.0.0.1:9000", None),
            ("[::1]:9000", None),
            ("", None),
        ] {
            assert_eq!(domain.bucket(host).as_deref(), bucket, "{host}");
        }
    }
}
