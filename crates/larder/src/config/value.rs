//! What a setting can be: how each kind of value is written, read and checked.
//!
//! Promises: a text is accepted in one meaning or refused with words that say what is expected;
//! numbers that overflow are refused, never cut.
//!
//! Not here: which settings there are ([`super`]), where their texts come from
//! ([`super::load`]), secrets ([`super::secret`]).

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use larder_http::{
    network::{ForwardedHeader, Networks},
    rate::{Rate, unit_of},
};

/// A kind of value that a setting can have.
pub(crate) trait Setting: Sized {
    /// What to write, for documentation: `duration`, `size`, ...
    const FORM: &'static str;
    /// Whether the value must never be shown.
    const SECRET: bool = false;

    /// Reads a value; the error says what is expected.
    fn parse(text: &str) -> Result<Self, String>;
}

/// An amount of bytes, written `64MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(u64);

impl Size {
    /// The amount in bytes.
    pub(crate) const fn bytes(self) -> u64 {
        self.0
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// One line of text per event.
    Text,
    /// One JSON object per event.
    Json,
}

impl Setting for String {
    const FORM: &'static str = "text";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a text that is not empty is needed".to_owned());
        }
        Ok(text.to_owned())
    }
}

impl Setting for PathBuf {
    const FORM: &'static str = "path";

    fn parse(text: &str) -> Result<Self, String> {
        String::parse(text).map(Self::from)
    }
}

impl Setting for SocketAddr {
    const FORM: &'static str = "address";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "IP:PORT is needed, such as 127.0.0.1:8080".to_owned())
    }
}

/// The address of a listener that can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listener(pub(crate) Option<SocketAddr>);

impl Setting for Listener {
    const FORM: &'static str = "address or off";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self(None)),
            _ => text
                .parse()
                .map(|address| Self(Some(address)))
                .map_err(|_| "IP:PORT is needed, such as 127.0.0.1:9000, or `off`".to_owned()),
        }
    }
}

impl Setting for usize {
    const FORM: &'static str = "number";

    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(0) | Err(_) => Err("a whole number above 0 is needed".to_owned()),
            Ok(number) => Ok(number),
        }
    }
}

impl Setting for u32 {
    const FORM: &'static str = "number, 0 too";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "a whole number is needed".to_owned())
    }
}

impl Setting for bool {
    const FORM: &'static str = "true or false";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "`true` or `false` is needed".to_owned())
    }
}

impl Setting for Duration {
    const FORM: &'static str = "duration";

    fn parse(text: &str) -> Result<Self, String> {
        parse_duration(text).ok_or_else(|| {
            "a duration is needed, such as 500ms, 90s, 5m, 1h, 30d or 1h30m".to_owned()
        })
    }
}

impl Setting for Size {
    const FORM: &'static str = "size";

    fn parse(text: &str) -> Result<Self, String> {
        parse_size(text)
            .map(Self)
            .ok_or_else(|| "a size is needed, such as 4096, 64KiB, 10MB or 1GiB".to_owned())
    }
}

impl Setting for LogFormat {
    const FORM: &'static str = "auto, text or json";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("`auto`, `text` or `json` is needed".to_owned()),
        }
    }
}

impl Setting for Networks {
    const FORM: &'static str = "list of networks";

    fn parse(text: &str) -> Result<Self, String> {
        // `none` reads better than an empty text.
        if text == "none" { Ok(Self::default()) } else { text.parse() }
    }
}

impl Setting for ForwardedHeader {
    const FORM: &'static str = "x-forwarded-for or forwarded";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "x-forwarded-for" => Ok(Self::XForwardedFor),
            "forwarded" => Ok(Self::Forwarded),
            _ => Err("`x-forwarded-for` or `forwarded` is needed".to_owned()),
        }
    }
}

impl Setting for Rate {
    const FORM: &'static str = "rate";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }
}

/// Bytes in a time, written `10MiB/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ByteRate(pub(crate) Rate);

impl ByteRate {
    /// How many in a second.
    pub(crate) fn per_second(self) -> u64 {
        self.0.per_second()
    }
}

impl Setting for ByteRate {
    const FORM: &'static str = "rate of bytes";

    fn parse(text: &str) -> Result<Self, String> {
        let rate = text
            .split_once('/')
            .and_then(|(size, unit)| Rate::new(parse_size(size)?, unit_of(unit)?));
        let wrong = || "a rate of bytes is needed, such as 64KiB/s, 10MiB/s or 1GiB/h".to_owned();
        rate.map(Self).ok_or_else(wrong)
    }
}

impl<T: Setting> Setting for Option<T> {
    const FORM: &'static str = T::FORM;
    const SECRET: bool = T::SECRET;

    /// `none` is no value; for what Larder then chooses itself, `auto` reads better.
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "none" | "auto" => Ok(None),
            _ => T::parse(text).map(Some).map_err(|error| format!("{error}, or `none`")),
        }
    }
}

/// Several values: separated by commas in the environment and on the command line, an array in
/// the file.
impl Setting for Vec<String> {
    const FORM: &'static str = "list";

    fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        Ok(parts.map(str::to_owned).collect())
    }
}

/// Reads `90s`, `1h30m`; every number needs its unit, except a lone `0`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|&digits| digits > 0)?;
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let millis_per_unit = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        let millis = number.parse::<u64>().ok()?.checked_mul(millis_per_unit)?;
        sum = sum.checked_add(Duration::from_millis(millis))?;
        rest = tail;
    }
    (!text.is_empty()).then_some(sum)
}

/// Reads `4096`, `64KiB` (1024) and `64KB` (1000), with or without a space before the unit.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start().to_ascii_lowercase();
    let bytes_per_unit: u64 = match unit.as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(bytes_per_unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_units_and_add_up() {
        let cases = [
            ("0", Some(0)),
            ("500ms", Some(500)),
            ("90s", Some(90_000)),
            ("5m", Some(300_000)),
            ("1h30m", Some(5_400_000)),
            ("30d", Some(2_592_000_000)),
            ("", None),
            ("30", None),
            ("s", None),
            ("-1s", None),
            ("1.5h", None),
            ("5 m", None),
            ("1h30", None),
            ("99999999999999999999d", None),
        ];
        for (text, millis) in cases {
            assert_eq!(parse_duration(text), millis.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn rates_of_bytes_are_sizes_in_a_time() {
        for (text, per_second) in [("1KiB/s", 1024), ("60MB/m", 1_000_000), ("1KiB/h", 0)] {
            let rate = ByteRate::parse(text).expect(text);
            assert_eq!(rate.per_second(), per_second, "{text}");
        }
        for text in ["", "1KiB", "/s", "0/s", "1KiB/d", "1.5KiB/s", "KiB/s"] {
            assert!(ByteRate::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn networks_are_a_list_or_none() {
        assert!(Networks::parse("none").expect("none").is_empty());
        assert!(Networks::parse("").expect("none").is_empty());
        assert!(!Networks::parse("10.0.0.0/8, ::1").expect("two").is_empty());
        assert!(Networks::parse("10.0.0.1/8").is_err());
    }

    #[test]
    fn sizes_know_both_kinds_of_kilo_and_refuse_overflow() {
        let cases = [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("64MiB", Some(64 << 20)),
            ("64 mib", Some(64 << 20)),
            ("10MB", Some(10_000_000)),
            ("1g", Some(1 << 30)),
            ("", None),
            ("MiB", None),
            ("1XB", None),
            ("-1", None),
            ("1.5GiB", None),
            ("99999999TiB", None),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), bytes, "{text:?}");
        }
    }
}
