//! Lifecycle rules of a space: look, replace, remove.
//!
//! Not here: what rules do (core).

use std::time::Duration;

use http::StatusCode;
use larder_base::Timestamp;
use larder_core::{Error, Expire, LifecycleRule, NewRule, Noncurrent};
use serde::{Deserialize, Serialize};

use crate::{
    call::{self, Call},
    error::Answer,
};

/// `GET .../lifecycle`.
pub(crate) async fn get(call: Call<'_>, space: &str) -> Answer {
    let space = call::space(space)?;
    call.no_query()?;
    let rules = call.larder().lifecycle(&call.caller, &space).await?;
    Ok(call::json(StatusCode::OK, &RulesBody::of(&rules))?)
}

/// `PUT .../lifecycle`: replaces all rules.
pub(crate) async fn put(call: Call<'_>, space: &str) -> Answer {
    let space = call::space(space)?;
    call.no_query()?;
    let (larder, caller) = (call.larder(), call.caller);
    let body: NewRulesBody = Call::json(call.body).await?;
    let rules = body.rules.into_iter().map(NewRule::try_from).collect::<Result<_, Error>>()?;
    let rules = larder.set_lifecycle(&caller, &space, rules).await?;
    Ok(call::json(StatusCode::OK, &RulesBody::of(&rules))?)
}

/// `DELETE .../lifecycle`: there are no rules any more.
pub(crate) async fn delete(call: Call<'_>, space: &str) -> Answer {
    let space = call::space(space)?;
    call.no_query()?;
    call.larder().set_lifecycle(&call.caller, &space, Vec::new()).await?;
    Ok(call::no_content())
}

#[derive(Serialize)]
struct RulesBody<'a> {
    rules: Vec<RuleBody<'a>>,
}

impl<'a> RulesBody<'a> {
    fn of(rules: &'a [LifecycleRule]) -> Self {
        Self { rules: rules.iter().map(RuleBody::from).collect() }
    }
}

#[derive(Serialize)]
struct RuleBody<'a> {
    id: String,
    name: &'a str,
    enabled: bool,
    prefix: &'a str,
    expire: Option<ExpireBody>,
    noncurrent: Option<NoncurrentBody>,
    abort_uploads_after: Option<String>,
}

/// `{"after": "30d"}` or `{"at": "2030-01-31T00:00:00Z"}`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ExpireBody {
    After(String),
    At(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoncurrentBody {
    #[serde(default)]
    older_than: Option<String>,
    #[serde(default)]
    keep_newest: u32,
}

impl<'a> From<&'a LifecycleRule> for RuleBody<'a> {
    fn from(rule: &'a LifecycleRule) -> Self {
        Self {
            id: rule.id.to_string(),
            name: &rule.name,
            enabled: rule.enabled,
            prefix: &rule.prefix,
            expire: rule.expire.map(|expire| match expire {
                Expire::After(age) => ExpireBody::After(show(age)),
                Expire::At(time) => ExpireBody::At(time.to_string()),
            }),
            noncurrent: rule.noncurrent.map(|noncurrent| NoncurrentBody {
                older_than: Some(show(noncurrent.older_than)),
                keep_newest: noncurrent.keep_newest,
            }),
            abort_uploads_after: rule.abort_uploads_after.map(show),
        }
    }
}

/// Body of `PUT .../lifecycle`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRulesBody {
    rules: Vec<NewRuleBody>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRuleBody {
    id: Option<String>,
    #[serde(default)]
    name: String,
    #[serde(default = "yes")]
    enabled: bool,
    #[serde(default)]
    prefix: String,
    expire: Option<ExpireBody>,
    noncurrent: Option<NoncurrentBody>,
    abort_uploads_after: Option<String>,
}

fn yes() -> bool {
    true
}

impl TryFrom<NewRuleBody> for NewRule {
    type Error = Error;

    fn try_from(body: NewRuleBody) -> Result<Self, Error> {
        let id = body.id.map(|id| id.parse().map_err(|_| Error::invalid("`id` is not an id")));
        let expire = body.expire.map(|expire| match expire {
            ExpireBody::After(age) => Ok(Expire::After(parse(&age)?)),
            ExpireBody::At(time) => time.parse::<Timestamp>().map(Expire::At).map_err(|_| {
                Error::invalid("`expire.at` must be a time such as 2030-01-31T00:00:00Z")
            }),
        });
        let noncurrent = body.noncurrent.map(|noncurrent| {
            let older_than = noncurrent.older_than.as_deref().map(parse).transpose()?;
            Ok::<_, Error>(Noncurrent {
                older_than: older_than.unwrap_or_default(),
                keep_newest: noncurrent.keep_newest,
            })
        });
        Ok(Self {
            id: id.transpose()?,
            name: body.name,
            enabled: body.enabled,
            prefix: body.prefix,
            expire: expire.transpose()?,
            noncurrent: noncurrent.transpose()?,
            abort_uploads_after: body.abort_uploads_after.as_deref().map(parse).transpose()?,
        })
    }
}

/// Units of durations, in seconds.
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// Reads a duration such as `30d`, `12h` or `1h30m`.
fn parse(text: &str) -> Result<Duration, Error> {
    let invalid =
        || Error::invalid(format!("{text:?} is not a duration such as 30d, 12h, 5m, 10s or 1h30m"));
    let (mut seconds, mut number) = (0u64, None::<u64>);
    for symbol in text.chars() {
        if let Some(digit) = symbol.to_digit(10) {
            let so_far = number.unwrap_or(0).checked_mul(10).ok_or_else(invalid)?;
            number = Some(so_far.checked_add(u64::from(digit)).ok_or_else(invalid)?);
        } else {
            let (_, unit) =
                UNITS.iter().find(|(letter, _)| *letter == symbol).ok_or_else(invalid)?;
            let count = number.take().ok_or_else(invalid)?;
            let more = count.checked_mul(*unit).ok_or_else(invalid)?;
            seconds = seconds.checked_add(more).ok_or_else(invalid)?;
        }
    }
    if text.is_empty() || number.is_some() {
        return Err(invalid());
    }
    Ok(Duration::from_secs(seconds))
}

/// Writes a duration as [`parse`] reads it.
fn show(duration: Duration) -> String {
    let mut left = duration.as_secs();
    let mut text = String::new();
    for (letter, unit) in UNITS {
        let count = left / unit;
        if count > 0 {
            text.push_str(&format!("{count}{letter}"));
            left %= unit;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_they_are_written() {
        for (text, seconds) in
            [("30d", 30 * 86_400), ("12h", 43_200), ("1h30m", 5_400), ("10s", 10), ("0s", 0)]
        {
            let duration = parse(text).expect(text);
            assert_eq!(duration, Duration::from_secs(seconds), "{text}");
            assert_eq!(show(duration), text);
        }
        for text in ["", "d", "30", "1x", "-1d", "1 d", "99999999999999999999d", "1d2"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
