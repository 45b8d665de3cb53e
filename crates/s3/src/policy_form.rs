//! The policy of a form: until when it is good, and what the form may say.
//!
//! Promises: a form passes only if every condition holds, and every field is named by one, but
//! for those that sign it.
//!
//! Not here: the form itself, and who has signed its policy (`post`).

use std::ops::RangeInclusive;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use larder_base::Timestamp;
use serde_json::Value;

use crate::error::Refusal;

/// Fields that need no condition.
const FREE: &[&str] = &["awsaccesskeyid", "signature", "x-amz-signature", "policy", "file"];

/// Fields that need none with this before their names: those that mean nothing, and digests,
/// which can only make the form be refused.
const FREE_BEGINNINGS: &[&str] = &["x-ignore-", "x-amz-checksum-", "x-amz-sdk-checksum-"];

/// How a field is compared.
#[derive(Debug, PartialEq, Eq)]
enum Compare {
    Equal,
    StartsWith,
}

#[derive(Debug)]
struct Condition {
    compare: Compare,
    /// In lower case.
    field: String,
    value: String,
}

/// What a form may say.
#[derive(Debug)]
pub(crate) struct Policy {
    expires: Timestamp,
    conditions: Vec<Condition>,
    /// How many bytes the file may have.
    pub(crate) length: Option<RangeInclusive<u64>>,
}

fn malformed(message: &str) -> Refusal {
    Refusal::bad("InvalidPolicyDocument", format!("invalid policy: {message}"))
}

fn violated(message: String) -> Refusal {
    Refusal::denied("AccessDenied", format!("invalid according to policy: {message}"))
}

impl Policy {
    /// Reads a policy as it stands in a form.
    pub(crate) fn parse(encoded: &str) -> Result<Self, Refusal> {
        let bytes = STANDARD.decode(encoded.trim());
        let bytes = bytes.map_err(|_| malformed("it is no base64"))?;
        let document: Value =
            serde_json::from_slice(&bytes).map_err(|_| malformed("it is no JSON"))?;
        let expires = document.get("expiration").and_then(Value::as_str);
        let expires = expires.ok_or_else(|| malformed("the expiration is missing"))?;
        // Of the ways to write a time this is the one of S3.
        let expires = Some(expires).filter(|text| text.contains('T') && text.ends_with('Z'));
        let expires = expires.and_then(|text| text.parse::<Timestamp>().ok());
        let expires = expires.ok_or_else(|| malformed("the expiration is no time"))?;
        let list = document.get("conditions").and_then(Value::as_array);
        let list = list.ok_or_else(|| malformed("the list of conditions is missing"))?;
        let mut policy = Self { expires, conditions: Vec::new(), length: None };
        for condition in list {
            policy.add(condition)?;
        }
        Ok(policy)
    }

    fn add(&mut self, condition: &Value) -> Result<(), Refusal> {
        match condition {
            Value::Object(pairs) if !pairs.is_empty() => {
                for (field, value) in pairs {
                    let value = text(value)?;
                    let field = field.to_ascii_lowercase();
                    self.conditions.push(Condition { compare: Compare::Equal, field, value });
                }
                Ok(())
            }
            Value::Array(parts) => {
                let [operator, first, second] = parts.as_slice() else {
                    return Err(malformed("a condition has three parts"));
                };
                let compare = match text(operator)?.to_ascii_lowercase().as_str() {
                    "eq" => Compare::Equal,
                    "starts-with" => Compare::StartsWith,
                    "content-length-range" => return self.add_range(first, second),
                    _ => return Err(malformed("a condition has an unknown operator")),
                };
                let field = text(first)?;
                let field = field.strip_prefix('$').map(str::to_ascii_lowercase);
                let field = field.ok_or_else(|| malformed("the name of a field begins with $"))?;
                self.conditions.push(Condition { compare, field, value: text(second)? });
                Ok(())
            }
            _ => Err(malformed("a condition is an object or a list")),
        }
    }

    fn add_range(&mut self, least: &Value, most: &Value) -> Result<(), Refusal> {
        let number = |value: &Value| {
            let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
            number.ok_or_else(|| malformed("a length is a number"))
        };
        let (mut least, mut most) = (number(least)?, number(most)?);
        if let Some(before) = &self.length {
            (least, most) = (least.max(*before.start()), most.min(*before.end()));
        }
        self.length = Some(least..=most);
        Ok(())
    }

    /// Judges a form for `bucket`; its fields are by names in lower case.
    pub(crate) fn judge(
        &self,
        bucket: &str,
        fields: &[(String, String)],
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if now >= self.expires {
            return Err(violated("policy expired".to_owned()));
        }
        let field = |name: &str| fields.iter().find(|(known, _)| known == name);
        for Condition { compare, field: name, value } in &self.conditions {
            // Where the form is sent to cannot be said otherwise by a field.
            let given = match name.as_str() {
                "bucket" => bucket,
                name => field(name).map_or("", |(_, value)| value),
            };
            let holds = match compare {
                Compare::Equal => given == value,
                Compare::StartsWith if name == "content-type" => {
                    // It may be a list of types.
                    given.split(',').all(|one| one.starts_with(value.as_str()))
                }
                Compare::StartsWith => given.starts_with(value.as_str()),
            };
            if !holds {
                return Err(violated(format!("policy condition failed: {name}")));
            }
        }
        for (name, value) in fields {
            let free = FREE.contains(&name.as_str())
                || FREE_BEGINNINGS.iter().any(|start| name.starts_with(start));
            if name == "bucket" && value != bucket {
                return Err(violated("the form names another bucket".to_owned()));
            }
            if !free && !self.conditions.iter().any(|condition| condition.field == *name) {
                return Err(violated(format!("extra input fields: {name}")));
            }
        }
        Ok(())
    }
}

fn text(value: &Value) -> Result<String, Refusal> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(malformed("a condition is made of texts")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(conditions: &str) -> Result<Policy, &'static str> {
        let text =
            format!("{{\"expiration\":\"2030-01-01T00:00:00Z\",\"conditions\":{conditions}}}");
        Policy::parse(&STANDARD.encode(text)).map_err(|refusal| refusal.code)
    }

    fn judge(conditions: &str, fields: &[(&str, &str)]) -> Result<(), &'static str> {
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let now = Timestamp::from_millis(0);
        policy(conditions)?.judge("b", &fields, now).map_err(|refusal| refusal.code)
    }

    #[test]
    fn every_condition_holds_and_every_field_has_one() {
        let denied = Err("AccessDenied");
        let both = r#"[{"bUcket":"b"},["StArTs-WiTh","$KeY","foo"]]"#;
        assert_eq!(judge(both, &[("key", "foobar"), ("policy", "x"), ("x-ignore-a", "1")]), Ok(()));
        assert_eq!(judge(both, &[("key", "bar")]), denied);
        assert_eq!(judge(both, &[("key", "foo"), ("acl", "private")]), denied);
        assert_eq!(judge(both, &[]), denied);
        assert_eq!(judge(r#"[{"bucket":"c"}]"#, &[]), denied);
        assert_eq!(judge(r#"[["eq","$bucket","b"]]"#, &[("bucket", "c")]), denied);
        assert_eq!(judge(r#"[["eq","$acl","private"]]"#, &[("acl", "Private")]), denied);
        let types = r#"[["starts-with","$Content-Type","image/"]]"#;
        assert_eq!(judge(types, &[("content-type", "image/png,image/gif")]), Ok(()));
        assert_eq!(judge(types, &[("content-type", "image/png,text/html")]), denied);
        let late = policy("[]").expect("well-formed");
        let refused = late.judge("b", &[], Timestamp::from_millis(i64::MAX));
        assert_eq!(refused.map_err(|refusal| refusal.code), denied);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for conditions in [
            "[{}]",
            "{}",
            "[1]",
            r#"[["eq","key","a"]]"#,
            r#"[["ends-with","$key","a"]]"#,
            r#"[["eq","$key"]]"#,
            r#"[["content-length-range",0]]"#,
            r#"[["content-length-range",-1,0]]"#,
            r#"[{"key":["a"]}]"#,
        ] {
            assert_eq!(policy(conditions).err(), Some("InvalidPolicyDocument"), "{conditions}");
        }
        let spaced = r#"{"expiration":"2030-01-01 00:00:00+00:00","conditions":[]}"#;
        for text in ["{}", spaced, r#"{"EXPIRATION":"2030-01-01T00:00:00Z","conditions":[]}"#, "x"]
        {
            assert!(Policy::parse(&STANDARD.encode(text)).is_err(), "{text}");
        }
        assert!(Policy::parse("####").is_err());
        let ranges = r#"[["content-length-range",1,10],["content-length-range","0",5]]"#;
        assert_eq!(policy(ranges).expect("well-formed").length, Some(1..=5));
    }
}
