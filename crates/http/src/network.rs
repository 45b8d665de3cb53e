//! Networks of addresses, and whose request it is when it came through a proxy.
//!
//! Promises: a header is believed only when the connection comes from a proxy that the operator
//! trusts, and then only as far as trusted proxies wrote it: the result is the rightmost address
//! that is none of theirs. One header is believed, never two, because a proxy passes on the one
//! that it does not write.
//!
//! Not here: what an address may do ([`crate::limits`]).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// `X-Forwarded-For`.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// `X-Forwarded-Proto`.
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Hops that are looked at, from the right. More proxies than that nobody has in a row.
const HOPS_MAX: usize = 32;

/// Addresses with a common beginning: `10.0.0.0/8`, `2001:db8::/32`, or a single address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Whether `address` is in it. An IPv4 address that is written as IPv6 is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32_u32.saturating_sub(self.bits.into());
                let difference = network.to_bits() ^ address.to_bits();
                difference.checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128_u32.saturating_sub(self.bits.into());
                let difference = network.to_bits() ^ address.to_bits();
                difference.checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    /// `ADDRESS` or `ADDRESS/BITS`; bits of the address after the first `BITS` must be 0, because
    /// a network that is written otherwise is likely another one than meant.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no network, such as 10.0.0.0/8 or 2001:db8::/32");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => longest,
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                bits.parse().map_err(|_| wrong())?
            }
            Some(_) => return Err(wrong()),
        };
        if bits > longest {
            return Err(wrong());
        }
        let low = match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        let host = u32::from(longest - bits);
        let mask = 1_u128.checked_shl(host).map_or(u128::MAX, |one| one - 1);
        if low & mask != 0 {
            return Err(format!("{text:?} has bits set after its first {bits}"));
        }
        match address {
            IpAddr::V6(inner) if inner.to_ipv4_mapped().is_some() => {
                Err(format!("{text:?}: write it as an IPv4 network"))
            }
            _ => Ok(Self { address, bits }),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Several networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

impl Networks {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them has `address`.
    pub fn contain(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }
}

impl FromStr for Networks {
    type Err = String;

    /// Networks with commas between them; a text without any is none.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// Which header trusted proxies write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For: client, proxy`.
    #[default]
    XForwardedFor,
    /// `Forwarded: for=client, for=proxy` (RFC 7239).
    Forwarded,
}

/// Whose request it is that came from `peer` with `headers`.
pub(crate) fn client(
    peer: IpAddr,
    headers: &HeaderMap,
    trusted: &Networks,
    header: ForwardedHeader,
) -> IpAddr {
    let mut client = peer.to_canonical();
    if !trusted.contain(client) {
        return client;
    }
    let name = match header {
        ForwardedHeader::XForwardedFor => X_FORWARDED_FOR,
        ForwardedHeader::Forwarded => header::FORWARDED,
    };
    let values = headers.get_all(name).iter().rev();
    let hops = values.flat_map(|value| hops(value, header));
    for hop in hops.take(HOPS_MAX) {
        // What no proxy of ours would write ends the chain: the last one that we know asked.
        let Some(address) = hop else { return client };
        client = address;
        if !trusted.contain(client) {
            return client;
        }
    }
    client
}

/// Whether trusted proxies say that what came from `peer` came to them by HTTPS, all of the way.
pub(crate) fn by_https(
    peer: IpAddr,
    headers: &HeaderMap,
    trusted: &Networks,
    header: ForwardedHeader,
) -> bool {
    if !trusted.contain(peer) {
        return false;
    }
    let name = match header {
        ForwardedHeader::XForwardedFor => X_FORWARDED_PROTO,
        ForwardedHeader::Forwarded => header::FORWARDED,
    };
    let is_https = |text: &str| text.eq_ignore_ascii_case("https");
    let hop_is = |hop: &str| match header {
        ForwardedHeader::XForwardedFor => is_https(hop.trim()),
        ForwardedHeader::Forwarded => hop.split(';').any(|pair| {
            pair.trim().split_once('=').is_some_and(|(name, value)| {
                name.eq_ignore_ascii_case("proto") && is_https(value.trim_matches('"'))
            })
        }),
    };
    let mut values = headers.get_all(name).iter().peekable();
    values.peek().is_some()
        && values.all(|value| value.to_str().is_ok_and(|text| text.split(',').all(hop_is)))
}

/// The hops of one header line, the last one first; `None` for what is no address.
fn hops(
    value: &HeaderValue,
    header: ForwardedHeader,
) -> impl Iterator<Item = Option<IpAddr>> + use<'_> {
    let text = value.to_str().unwrap_or("?");
    text.rsplit(',').map(move |hop| match header {
        ForwardedHeader::XForwardedFor => node(hop.trim()),
        ForwardedHeader::Forwarded => hop.split(';').find_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            name.eq_ignore_ascii_case("for").then(|| node(value.trim_matches('"')))?
        }),
    })
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn node(text: &str) -> Option<IpAddr> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, _port) = rest.split_once(']')?;
        return address.parse::<Ipv6Addr>().ok().map(|address| IpAddr::V6(address).to_canonical());
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let (address, _port) = text.split_once(':')?;
    address.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
}

/// What counts as one address: an IPv4 address, and of IPv6 the 64 bits that one customer has.
pub(crate) fn household(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn networks_have_the_addresses_that_begin_like_them() {
        for (network, address, inside) in [
            ("10.0.0.0/8", "10.255.1.2", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("10.0.0.0/8", "a00::", false),
            ("0.0.0.0/0", "255.1.2.3", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "127.0.0.1", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.6", false),
            ("192.0.2.6/31", "192.0.2.7", true),
            ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false),
            ("::1", "::1", true),
        ] {
            let network: Network = network.parse().expect(network);
            assert_eq!(network.contains(ip(address)), inside, "{network} {address}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "x",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.1/8",
            "::/129",
            "1::1/64",
            "10.0.0.0/",
            "10.0.0/8",
            "::ffff:10.0.0.0/104",
            "10.0.0.0/8/8",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
        let several: Networks = "10.0.0.0/8, ::1,".parse().expect("networks");
        assert!(several.contain(ip("::1")) && !several.contain(ip("::2")));
        assert!("10.0.0.0/8, x".parse::<Networks>().is_err());
        assert!("".parse::<Networks>().expect("none").is_empty());
    }

    fn of(peer: &str, lines: &[&str], header: ForwardedHeader) -> String {
        let trusted: Networks = "10.0.0.0/8, 2001:db8:1::/48".parse().expect("networks");
        let mut headers = HeaderMap::new();
        let name = match header {
            ForwardedHeader::XForwardedFor => "x-forwarded-for",
            ForwardedHeader::Forwarded => "forwarded",
        };
        for line in lines {
            headers.append(name, line.parse().expect("a value"));
        }
        client(ip(peer), &headers, &trusted, header).to_string()
    }

    #[test]
    fn https_is_what_a_trusted_proxy_says_of_every_hop() {
        let trusted: Networks = "10.0.0.0/8".parse().expect("networks");
        let (x, standard) = (ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded);
        for (peer, name, line, header, expected) in [
            ("10.0.0.1", "x-forwarded-proto", "https", x, true),
            ("10.0.0.1", "x-forwarded-proto", "HTTPS, https", x, true),
            ("10.0.0.1", "x-forwarded-proto", "https, http", x, false),
            ("10.0.0.1", "x-forwarded-proto", "", x, false),
            ("10.0.0.1", "x-forwarded-proto", "https", standard, false),
            ("192.0.2.1", "x-forwarded-proto", "https", x, false),
            ("10.0.0.1", "forwarded", "for=192.0.2.1;Proto=\"https\"", standard, true),
            ("10.0.0.1", "forwarded", "proto=https, for=192.0.2.1", standard, false),
            ("10.0.0.1", "forwarded", "proto=https", x, false),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(name, line.parse().expect("a value"));
            let found = by_https(ip(peer), &headers, &trusted, header);
            assert_eq!(found, expected, "{peer} {name}: {line}");
        }
        assert!(!by_https(ip("10.0.0.1"), &HeaderMap::new(), &trusted, x));
    }

    #[test]
    fn the_client_is_the_rightmost_address_that_is_no_proxy_of_ours() {
        let x = ForwardedHeader::XForwardedFor;
        for (peer, lines, expected) in [
            ("192.0.2.1", &["198.51.100.1"][..], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["6.6.6.6, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["6.6.6.6, 198.51.100.1, 10.0.0.9"], "198.51.100.1"),
            ("10.0.0.1", &["6.6.6.6", "198.51.100.1", "10.0.0.9"], "198.51.100.1"),
            ("10.0.0.1", &["10.0.0.7, 10.0.0.9"], "10.0.0.7"),
            ("10.0.0.1", &["6.6.6.6, garbage, 10.0.0.9"], "10.0.0.9"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1:4711"], "198.51.100.1"),
            ("2001:db8:1::1", &["[2001:db8::7]:80"], "2001:db8::7"),
            ("10.0.0.1", &["2001:db8::7"], "2001:db8::7"),
            ("10.0.0.1", &["::ffff:198.51.100.1"], "198.51.100.1"),
        ] {
            assert_eq!(of(peer, lines, x), expected, "{peer} {lines:?}");
        }
        let standard = ForwardedHeader::Forwarded;
        for (lines, expected) in [
            ("for=6.6.6.6, for=198.51.100.1;proto=https;by=10.0.0.1", "198.51.100.1"),
            ("for=6.6.6.6, proto=https;For=\"[2001:db8::7]:4711\"", "2001:db8::7"),
            ("for=6.6.6.6, for=_hidden", "10.0.0.1"),
            ("for=6.6.6.6, proto=http", "10.0.0.1"),
            ("for=6.6.6.6, for=unknown, for=10.0.0.2", "10.0.0.2"),
        ] {
            assert_eq!(of("10.0.0.1", &[lines], standard), expected, "{lines}");
        }
    }

    #[test]
    fn only_the_header_that_was_named_is_looked_at() {
        let mut headers = HeaderMap::new();
        headers.insert("forwarded", "for=6.6.6.6".parse().expect("a value"));
        headers.insert("x-forwarded-for", "198.51.100.1".parse().expect("a value"));
        let trusted: Networks = "10.0.0.0/8".parse().expect("networks");
        let found = client(ip("10.0.0.1"), &headers, &trusted, ForwardedHeader::XForwardedFor);
        assert_eq!(found, ip("198.51.100.1"));
    }

    #[test]
    fn a_household_is_an_address_of_ipv4_and_64_bits_of_ipv6() {
        let same = |left, right| household(ip(left)) == household(ip(right));
        assert!(same("10.0.0.1", "::ffff:10.0.0.1"));
        assert!(!same("10.0.0.1", "10.0.0.2"));
        assert!(same("2001:db8::1", "2001:db8::ffff:1:2:3"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
    }
}
