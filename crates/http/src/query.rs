//! Query parameters, strict: what a call does not know it refuses.
//!
//! The form is `application/x-www-form-urlencoded`, in which `+` is a space.
//!
//! Promises: a parameter that is unknown or given twice is `Invalid` and named, never ignored.
//!
//! Not here: paths ([`crate::path`]).

use std::{borrow::Cow, str::FromStr};

use larder_core::Error;

use crate::path::unescape;

/// The parameters of one request.
#[derive(Debug, Default)]
pub struct Query<'a>(Vec<(&'static str, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Parses `raw`, which may only have parameters out of `known`.
    ///
    /// # Errors
    /// `Invalid` for unknown and repeated parameters, bad escapes, text that is not UTF-8.
    pub fn parse(raw: Option<&'a str>, known: &[&'static str]) -> Result<Self, Error> {
        let mut found = Vec::new();
        for pair in raw.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name)?;
            let Some(name) = known.iter().copied().find(|known| *known == name) else {
                return Err(Error::invalid(format!("unknown parameter {name:?}")));
            };
            if found.iter().any(|(before, _)| *before == name) {
                return Err(Error::invalid(format!("parameter {name:?} is given twice")));
            }
            found.push((name, decode(value)?));
        }
        Ok(Self(found))
    }

    /// The text of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_ref())
    }

    /// A parameter as a number (or anything else that parses).
    ///
    /// # Errors
    /// `Invalid` if it does not parse.
    pub fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, Error> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let bad = || Error::invalid(format!("parameter {name:?} must be a number"));
        // `u64::from_str` takes a sign; no parameter does.
        if text.starts_with('+') {
            return Err(bad());
        }
        text.parse().map(Some).map_err(|_| bad())
    }

    /// A parameter that is on (`true`, `1`, or without a value) or off (`false`, `0`, absent).
    ///
    /// # Errors
    /// `Invalid` for anything else.
    pub fn flag(&self, name: &str) -> Result<bool, Error> {
        match self.get(name) {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(_) => Err(Error::invalid(format!("parameter {name:?} must be true or false"))),
        }
    }
}

fn decode(raw: &str) -> Result<Cow<'_, str>, Error> {
    if !raw.contains(['%', '+']) {
        return Ok(Cow::Borrowed(raw));
    }
    let bytes = unescape(&raw.replace('+', " "))?;
    let text = String::from_utf8(bytes).map_err(|_| Error::invalid("the query is not UTF-8"))?;
    Ok(Cow::Owned(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_parameters_are_found_and_decoded() {
        let raw = Some("path=a%20b+c%2Fd&limit=5&wait&&x=");
        let query = Query::parse(raw, &["path", "limit", "wait", "x", "y"]).expect("it parses");
        assert_eq!(query.get("path"), Some("a b c/d"));
        assert_eq!(query.number("limit").expect("a number"), Some(5u64));
        assert_eq!(query.number::<u64>("y").expect("absent"), None);
        assert!(query.flag("wait").expect("a flag"));
        assert!(!query.flag("y").expect("a flag"));
        assert!(query.flag("limit").is_err());
        assert!(Query::parse(None, &[]).is_ok());
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (raw, part) in
            [("a=1&b=2", "\"b\""), ("a=1&a=2", "twice"), ("a=%zz", "%"), ("A=1", "A")]
        {
            let error = Query::parse(Some(raw), &["a"]).expect_err(raw);
            assert!(error.detail().contains(part), "{raw}: {}", error.detail());
        }
        let query = Query::parse(Some("a=-1"), &["a"]).expect("it parses");
        assert!(query.number::<u64>("a").is_err());
        let query = Query::parse(Some("a=%2B1"), &["a"]).expect("it parses");
        assert!(query.number::<u64>("a").is_err());
    }
}
