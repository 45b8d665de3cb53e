//! Conditional requests (RFC 9110 section 13): parsed once, evaluated by one pure function.
//!
//! Reads are decided here, against the very state that is served. Writes are decided by core in
//! the commit itself; [`Preconditions::for_write`] hands it what it needs.
//!
//! Promises: a condition that cannot be understood is an error, never ignored, because whoever
//! sends one relies on it; only dates are ignored when malformed, as the RFC demands.
//!
//! Not here: `Range` ([`crate::range`]).

use http::{HeaderMap, HeaderName, HeaderValue, header};
use larder_base::Timestamp;
use larder_core::{Conditions, Error, EtagSet};

use crate::date;

/// Most etags in one header; more than any client has copies.
const TAGS_MAX: usize = 100;

/// An etag as a client writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Whether it was marked `W/`.
    pub weak: bool,
    /// The text between the quotes.
    pub text: String,
}

/// The value of `If-Match` or `If-None-Match`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tags {
    /// `*`.
    Any,
    /// A list.
    These(Vec<Tag>),
}

/// The value of `If-Range`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IfRange {
    /// An etag.
    Tag(Tag),
    /// A date, exact.
    Date(Timestamp),
    /// Something else, which never matches.
    Never,
}

/// All conditions of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// `If-Match`.
    pub if_match: Option<Tags>,
    /// `If-None-Match`.
    pub if_none_match: Option<Tags>,
    /// `If-Modified-Since`.
    pub if_modified_since: Option<Timestamp>,
    /// `If-Unmodified-Since`.
    pub if_unmodified_since: Option<Timestamp>,
    /// `If-Range`.
    pub if_range: Option<IfRange>,
}

/// What a read does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Proceed,
    /// 304: the client has this state.
    NotModified,
    /// 412.
    Failed,
}

impl Preconditions {
    /// Reads the conditions out of `headers`.
    ///
    /// # Errors
    /// `Invalid` for an etag list that is none.
    pub fn parse(headers: &HeaderMap) -> Result<Self, Error> {
        Ok(Self {
            if_match: tags(headers, &header::IF_MATCH)?,
            if_none_match: tags(headers, &header::IF_NONE_MATCH)?,
            if_modified_since: time(headers, &header::IF_MODIFIED_SINCE),
            if_unmodified_since: time(headers, &header::IF_UNMODIFIED_SINCE),
            if_range: headers.get(header::IF_RANGE).map(if_range),
        })
    }

    /// Decides a GET or HEAD of a state with this etag (without quotes) and time of change, in
    /// the order of RFC 9110 section 13.2.2.
    pub fn evaluate(&self, etag: &str, modified: Timestamp) -> Verdict {
        let modified = date::seconds(modified);
        match (&self.if_match, self.if_unmodified_since) {
            (Some(tags), _) if !tags.match_strongly(etag) => return Verdict::Failed,
            (None, Some(time)) if modified > date::seconds(time) => return Verdict::Failed,
            _ => {}
        }
        match (&self.if_none_match, self.if_modified_since) {
            (Some(tags), _) if tags.match_weakly(etag) => Verdict::NotModified,
            (None, Some(time)) if modified <= date::seconds(time) => Verdict::NotModified,
            _ => Verdict::Proceed,
        }
    }

    /// Whether a `Range` of this request applies to a state with this etag and time.
    pub fn range_applies(&self, etag: &str, modified: Timestamp) -> bool {
        match &self.if_range {
            None => true,
            Some(IfRange::Tag(tag)) => !tag.weak && tag.text == etag,
            Some(IfRange::Date(time)) => date::seconds(*time) == date::seconds(modified),
            Some(IfRange::Never) => false,
        }
    }

    /// What core checks when a write commits.
    ///
    /// Weak etags never match strongly, so they are left out of `If-Match`; `If-None-Match`
    /// compares weakly, so there they count by their text. `If-Unmodified-Since` yields to
    /// `If-Match`; `If-Modified-Since` means nothing for a write.
    pub fn for_write(&self) -> Conditions {
        let if_unmodified_since =
            if self.if_match.is_none() { self.if_unmodified_since } else { None };
        Conditions {
            if_match: self.if_match.as_ref().map(|tags| tags.texts(|tag| !tag.weak)),
            if_none_match: self.if_none_match.as_ref().map(|tags| tags.texts(|_| true)),
            if_unmodified_since,
        }
    }
}

impl Tags {
    fn match_strongly(&self, etag: &str) -> bool {
        match self {
            Self::Any => true,
            Self::These(tags) => tags.iter().any(|tag| !tag.weak && tag.text == etag),
        }
    }

    fn match_weakly(&self, etag: &str) -> bool {
        match self {
            Self::Any => true,
            Self::These(tags) => tags.iter().any(|tag| tag.text == etag),
        }
    }

    fn texts(&self, keep: impl Fn(&Tag) -> bool) -> EtagSet {
        match self {
            Self::Any => EtagSet::Any,
            Self::These(tags) => EtagSet::These(
                tags.iter().filter(|tag| keep(tag)).map(|tag| tag.text.clone()).collect(),
            ),
        }
    }
}

fn time(headers: &HeaderMap, name: &HeaderName) -> Option<Timestamp> {
    date::parse(headers.get(name)?.to_str().ok()?)
}

fn if_range(value: &HeaderValue) -> IfRange {
    let Ok(text) = value.to_str() else { return IfRange::Never };
    match tag(text.trim()) {
        Some((tag, "")) => IfRange::Tag(tag),
        _ => date::parse(text).map_or(IfRange::Never, IfRange::Date),
    }
}

fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Error> {
    let mut found = None;
    for value in headers.get_all(name) {
        let bad = || Error::invalid(format!("{name} must be * or a list of quoted etags"));
        let mut rest = value.to_str().map_err(|_| bad())?.trim();
        if rest == "*" && found.is_none() {
            found = Some(Tags::Any);
            continue;
        }
        let Tags::These(list) = found.get_or_insert_with(|| Tags::These(Vec::new())) else {
            return Err(bad());
        };
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix(',') {
                rest = after.trim_start();
                continue;
            }
            let (tag, after) = tag(rest).ok_or_else(bad)?;
            let after = after.trim_start();
            if !after.is_empty() && !after.starts_with(',') || list.len() == TAGS_MAX {
                return Err(bad());
            }
            list.push(tag);
            rest = after;
        }
    }
    match found {
        Some(Tags::These(list)) if list.is_empty() => {
            Err(Error::invalid(format!("{name} is empty")))
        }
        found => Ok(found),
    }
}

/// Splits one etag off the front of `text`.
fn tag(text: &str) -> Option<(Tag, &str)> {
    let (weak, rest) = text.strip_prefix("W/").map_or((false, text), |rest| (true, rest));
    let (text, after) = rest.strip_prefix('"')?.split_once('"')?;
    let allowed = |byte: u8| byte == 0x21 || (0x23..=0x7e).contains(&byte);
    text.bytes().all(allowed).then(|| (Tag { weak, text: text.to_owned() }, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const NEW: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn parse(pairs: &[(&str, &str)]) -> Result<Preconditions, Error> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name: HeaderName = name.parse().expect("a name");
            headers.append(name, value.parse().expect("a value"));
        }
        Preconditions::parse(&headers)
    }

    #[test]
    fn reads_are_decided_in_the_order_of_rfc_9110() {
        use Verdict::{Failed, NotModified, Proceed};
        let modified = Timestamp::from_millis(784_111_777_999);
        let table: &[(&[(&str, &str)], Verdict)] = &[
            (&[], Proceed),
            (&[("if-match", "\"a\"")], Proceed),
            (&[("if-match", "*")], Proceed),
            (&[("if-match", "\"b\", \"a\"")], Proceed),
            (&[("if-match", "\"b\""), ("if-match", "\"a\"")], Proceed),
            (&[("if-match", "\"b\"")], Failed),
            (&[("if-match", "W/\"a\"")], Failed),
            (&[("if-none-match", "\"a\"")], NotModified),
            (&[("if-none-match", "W/\"a\"")], NotModified),
            (&[("if-none-match", "*")], NotModified),
            (&[("if-none-match", "\"b\"")], Proceed),
            (&[("if-modified-since", OLD)], Proceed),
            (&[("if-modified-since", SAME)], NotModified),
            (&[("if-modified-since", NEW)], NotModified),
            (&[("if-modified-since", "yesterday")], Proceed),
            (&[("if-unmodified-since", OLD)], Failed),
            (&[("if-unmodified-since", SAME)], Proceed),
            (&[("if-unmodified-since", NEW)], Proceed),
            (&[("if-unmodified-since", "yesterday")], Proceed),
            // If-Match makes If-Unmodified-Since void, If-None-Match If-Modified-Since.
            (&[("if-match", "\"a\""), ("if-unmodified-since", OLD)], Proceed),
            (&[("if-none-match", "\"b\""), ("if-modified-since", NEW)], Proceed),
            // A failed If-Match comes before a 304.
            (&[("if-match", "\"b\""), ("if-none-match", "\"a\"")], Failed),
            (&[("if-match", "\"a\""), ("if-none-match", "\"a\"")], NotModified),
        ];
        for (headers, verdict) in table {
            let conditions = parse(headers).expect("they parse");
            assert_eq!(conditions.evaluate("a", modified), *verdict, "{headers:?}");
        }
    }

    #[test]
    fn a_range_applies_only_to_the_very_state_that_if_range_names() {
        let modified = Timestamp::from_millis(784_111_777_999);
        for (value, applies) in [
            ("\"a\"", true),
            ("\"b\"", false),
            ("W/\"a\"", false),
            (SAME, true),
            (OLD, false),
            (NEW, false),
            ("a", false),
            ("\"a\", \"b\"", false),
        ] {
            let conditions = parse(&[("if-range", value)]).expect("they parse");
            assert_eq!(conditions.range_applies("a", modified), applies, "{value}");
        }
        assert!(Preconditions::default().range_applies("a", modified));
    }

    #[test]
    fn writes_hand_core_what_a_commit_compares() {
        let write = |pairs: &[_]| parse(pairs).expect("they parse").for_write();
        let these =
            |texts: &[&str]| Some(EtagSet::These(texts.iter().map(ToString::to_string).collect()));
        assert!(write(&[]).is_empty());
        assert_eq!(write(&[("if-none-match", "*")]).if_none_match, Some(EtagSet::Any));
        assert_eq!(write(&[("if-match", "\"a\", W/\"b\"")]).if_match, these(&["a"]));
        assert_eq!(write(&[("if-match", "W/\"b\"")]).if_match, these(&[]));
        assert_eq!(write(&[("if-none-match", "W/\"b\"")]).if_none_match, these(&["b"]));
        let both = write(&[("if-match", "\"a\""), ("if-unmodified-since", OLD)]);
        assert_eq!(both.if_unmodified_since, None);
        assert!(write(&[("if-unmodified-since", OLD)]).if_unmodified_since.is_some());
    }

    #[test]
    fn conditions_that_cannot_be_understood_are_refused() {
        for value in ["", "a", "\"a", "\"a\" \"b\"", "w/\"a\"", "*, \"a\"", "\"a\",*", ",", "'a'"] {
            for name in ["if-match", "if-none-match"] {
                assert!(parse(&[(name, value)]).is_err(), "{name}: {value}");
            }
        }
        assert!(parse(&[("if-match", "*"), ("if-match", "\"a\"")]).is_err());
        assert!(parse(&[("if-match", &vec!["\"a\""; TAGS_MAX + 1].join(","))]).is_err());
    }
}
