//! HTTP dates (RFC 9110 section 5.6.7): whole seconds, three spellings accepted, one sent.
//!
//! Not here: RFC 3339, which bodies use (`larder_base::time`).

use std::time::{Duration, UNIX_EPOCH};

use http::HeaderValue;
use larder_base::Timestamp;

/// Parses any of the three forms; `None` if it is no HTTP date.
pub fn parse(text: &str) -> Option<Timestamp> {
    let time = httpdate::parse_http_date(text).ok()?;
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp::from_millis(i64::try_from(since.as_millis()).ok()?))
}

/// The time as a header value, without its fraction of a second. Times before 1970 are shown as
/// 1970, for no HTTP date of ours can lie there.
pub fn header(time: Timestamp) -> HeaderValue {
    let seconds = u64::try_from(seconds(time)).unwrap_or(0).min(253_402_300_799);
    let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).unwrap_or(HeaderValue::from_static(""))
}

/// Whole seconds since 1970: what two HTTP dates are compared by.
pub fn seconds(time: Timestamp) -> i64 {
    time.millis().div_euclid(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_forms_of_rfc_9110_mean_the_same() {
        let time = Timestamp::from_millis(784_111_777_000);
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(parse(text), Some(time), "{text}");
        }
        assert_eq!(header(time), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(parse("1994-11-06T08:49:37Z"), None);
    }

    #[test]
    fn times_out_of_range_are_held_at_its_ends() {
        assert_eq!(header(Timestamp::from_millis(-1)), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(header(Timestamp::from_millis(i64::MAX)), "Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
