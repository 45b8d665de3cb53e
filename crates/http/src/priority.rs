//! How urgent a request says it is (RFC 9218).
//!
//! Promises: what cannot be understood is as if it were not there, as the RFC demands.
//!
//! Not here: what a wish comes to (core).

use http::HeaderMap;
use larder_core::Priority;

/// The priority that the header `Priority` wishes for, such as `u=5`; `None` if it names none.
pub fn wished(headers: &HeaderMap) -> Option<Priority> {
    let mut found = None;
    for value in headers.get_all("priority") {
        for member in value.to_str().ok()?.split(',') {
            let (name, value) = member.split_once('=').unwrap_or((member, ""));
            // Parameters of a member are not ours; of several members the last one counts.
            let value = value.split(';').next().unwrap_or_default();
            if name.trim() == "u" {
                let urgency = value.trim().parse::<u8>().ok();
                found = urgency.filter(|urgency| *urgency <= Priority::LOWEST.number());
            }
        }
    }
    found.map(Priority::from_urgency)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn urgency(values: &[&'static str]) -> Option<u8> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("priority", HeaderValue::from_static(value));
        }
        wished(&headers).map(Priority::number)
    }

    #[test]
    fn urgencies_are_read_and_the_rest_is_as_if_it_were_not_there() {
        assert_eq!(urgency(&[]), None);
        assert_eq!(urgency(&["u=5"]), Some(5));
        assert_eq!(urgency(&["i, u=0"]), Some(0));
        assert_eq!(urgency(&["u=7;x=1, i=?1"]), Some(7));
        assert_eq!(urgency(&["u=1", "u=2"]), Some(2));
        for wrong in ["u", "u=", "u=8", "u=-1", "u=x", "U=1", "urgency=1", ",,=,"] {
            assert_eq!(urgency(&[wrong]), None, "{wrong}");
        }
    }
}
