//! `PutBucketLifecycleConfiguration` and its like, and when an object ends.
//!
//! Promises: a document is kept only if every rule in it is understood and will be applied;
//! it comes back as it was understood.
//!
//! Not here: applying rules (core).

use std::collections::BTreeSet;

use larder_base::Timestamp;
use larder_core::{Bucket, BucketExpire, BucketLifecycle, BucketRule, BucketSetting, ObjectInfo};
use larder_http::date;
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        BucketLifecycleConfiguration, DeleteBucketLifecycleInput, DeleteBucketLifecycleOutput,
        ExpirationStatus, GetBucketLifecycleConfigurationInput,
        GetBucketLifecycleConfigurationOutput, LifecycleExpiration, LifecycleRule,
        PutBucketLifecycleConfigurationInput, PutBucketLifecycleConfigurationOutput, Tag,
        TimestampFormat,
    },
    s3_error,
    xml::{Deserialize as _, Deserializer, Serialize as _, Serializer},
};

use crate::{
    call::{Answer, Call, coded},
    error::About,
};

/// Most rules of a document.
const RULES_MAX: usize = 1000;

/// Longest name of a rule, in characters.
const ID_CHARS_MAX: usize = 255;

/// Milliseconds of a day.
const DAY: i64 = 24 * 3600 * 1000;

pub(crate) async fn put(
    call: &Call,
    request: S3Request<PutBucketLifecycleConfigurationInput>,
) -> Answer<PutBucketLifecycleConfigurationOutput> {
    let input = request.input;
    let missing = || s3_error!(MalformedXML, "the document is missing");
    let mut document = input.lifecycle_configuration.ok_or_else(missing)?;
    let rules = understand(&mut document)?;
    let mut text = Vec::new();
    document.serialize(&mut Serializer::new(&mut text)).map_err(|error| internal(&error))?;
    let text = String::from_utf8(text).map_err(|error| internal(&error))?;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let lifecycle = Some(BucketLifecycle { text, rules });
    let done = call.larder().set_bucket_lifecycle(&call.caller, &bucket, lifecycle).await;
    done.map_err(call.fails(About::Write))?;
    Ok(S3Response::new(PutBucketLifecycleConfigurationOutput::default()))
}

pub(crate) async fn get(
    call: &Call,
    request: S3Request<GetBucketLifecycleConfigurationInput>,
) -> Answer<GetBucketLifecycleConfigurationOutput> {
    let input = request.input;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let text = call.larder().bucket_setting(&call.caller, &bucket, BucketSetting::Lifecycle).await;
    let Some(text) = text.map_err(call.fails(About::Bucket))? else {
        let message = "the bucket has no lifecycle configuration";
        let mut error = coded("NoSuchLifecycleConfiguration", message);
        error.set_status_code(http::StatusCode::NOT_FOUND);
        return Err(error);
    };
    let document =
        BucketLifecycleConfiguration::deserialize(&mut Deserializer::new(text.as_bytes()));
    let document = document.map_err(|error| internal(&error))?;
    Ok(S3Response::new(GetBucketLifecycleConfigurationOutput {
        rules: Some(document.rules),
        ..Default::default()
    }))
}

pub(crate) async fn delete(
    call: &Call,
    request: S3Request<DeleteBucketLifecycleInput>,
) -> Answer<DeleteBucketLifecycleOutput> {
    let input = request.input;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let done = call.larder().set_bucket_lifecycle(&call.caller, &bucket, None).await;
    done.map_err(call.fails(About::Write))?;
    Ok(S3Response::new(DeleteBucketLifecycleOutput::default()))
}

fn internal(error: &dyn std::fmt::Display) -> s3s::S3Error {
    tracing::error!(%error, "write or read a lifecycle document");
    s3_error!(InternalError, "we made a mistake; try again")
}

/// The value of `x-amz-expiration`: when the current version of an object ends, and by which
/// rule. It is told if it is known; the answer itself does not depend on it.
pub(crate) async fn expiration(
    call: &Call,
    bucket: &Bucket,
    key: &str,
    written: (u64, Timestamp),
    info: Option<&ObjectInfo>,
) -> Option<String> {
    let found = call.larder().object_end(bucket, key, written, info).await;
    let (end, rule) = found.ok().flatten()?;
    let end = date::header(end);
    let rule = percent_encoding::utf8_percent_encode(&rule, PLAIN);
    Some(format!("expiry-date=\"{}\", rule-id=\"{rule}\"", end.to_str().ok()?))
}

/// What of the name of a rule is not encoded in the header.
const PLAIN: &percent_encoding::AsciiSet =
    &percent_encoding::CONTROLS.add(b' ').add(b'"').add(b'%').add(b'\\');

/// What a document says. Rules without a name get one.
fn understand(document: &mut BucketLifecycleConfiguration) -> S3Result<Vec<BucketRule>> {
    if document.rules.is_empty() || document.rules.len() > RULES_MAX {
        return Err(s3_error!(MalformedXML, "a document has 1 to {RULES_MAX} rules"));
    }
    let mut ids = BTreeSet::new();
    for rule in &document.rules {
        let Some(id) = rule.id.as_ref().filter(|id| !id.is_empty()) else { continue };
        if id.chars().count() > ID_CHARS_MAX {
            let message = "the ID of a rule has at most 255 characters";
            return Err(s3_error!(InvalidArgument, "{message}"));
        }
        if !ids.insert(id.clone()) {
            return Err(s3_error!(InvalidArgument, "two rules have the same ID"));
        }
    }
    let mut rules = Vec::with_capacity(document.rules.len());
    for (at, rule) in document.rules.iter_mut().enumerate() {
        if rule.id.as_ref().is_none_or(String::is_empty) {
            // One that no other rule has.
            let mut names = (at + 1..).map(|number| format!("rule-{number}"));
            let id = names.find(|name| !ids.contains(name)).unwrap_or_default();
            ids.insert(id.clone());
            rule.id = Some(id);
        }
        rules.push(one(rule)?);
    }
    Ok(rules)
}

fn one(rule: &LifecycleRule) -> S3Result<BucketRule> {
    let mut known = BucketRule { id: rule.id.clone().unwrap_or_default(), ..Default::default() };
    known.enabled = match rule.status.as_str() {
        ExpirationStatus::ENABLED => true,
        ExpirationStatus::DISABLED => false,
        _ => return Err(s3_error!(MalformedXML, "Status is Enabled or Disabled")),
    };
    filter(rule, &mut known)?;
    if let Some(expiration) = &rule.expiration {
        expire(expiration, &mut known)?;
    }
    for transition in rule.transitions.iter().flatten() {
        if let Some(date) = &transition.date {
            midnight(date)?;
        }
        if transition.days.is_some_and(|days| days < 0) {
            return Err(s3_error!(InvalidArgument, "Days must not be negative"));
        }
    }
    let moves = |list: bool| list.then_some("transitions to other storage classes are not offered");
    if let Some(message) = moves(rule.transitions.as_ref().is_some_and(|list| !list.is_empty()))
        .or_else(|| {
            let list = rule.noncurrent_version_transitions.as_ref();
            moves(list.is_some_and(|list| !list.is_empty()))
        })
    {
        return Err(s3_error!(NotImplemented, "{message}"));
    }
    if let Some(noncurrent) = &rule.noncurrent_version_expiration {
        let days = positive(noncurrent.noncurrent_days, "NoncurrentDays")?;
        let keep = match noncurrent.newer_noncurrent_versions {
            None => 0,
            keep => positive(keep, "NewerNoncurrentVersions")?,
        };
        known.noncurrent = Some((days, keep));
    }
    if let Some(abort) = &rule.abort_incomplete_multipart_upload {
        known.abort_after = Some(positive(abort.days_after_initiation, "DaysAfterInitiation")?);
    }
    let filtered = known.larger_than.is_some() || known.smaller_than.is_some();
    if (known.markers || known.abort_after.is_some()) && (filtered || !known.tags.is_empty()) {
        let message = "ExpiredObjectDeleteMarker and AbortIncompleteMultipartUpload are for a \
                       prefix, not for tags or sizes";
        return Err(s3_error!(InvalidRequest, "{message}"));
    }
    let acts = known.expire.is_some()
        || known.markers
        || known.noncurrent.is_some()
        || known.abort_after.is_some();
    if !acts && rule.expiration.is_none() {
        let message = "at least one action needs to be specified in a rule";
        return Err(s3_error!(InvalidRequest, "{message}"));
    }
    Ok(known)
}

fn positive(number: Option<i32>, name: &str) -> S3Result<u32> {
    let number = number.ok_or_else(|| s3_error!(MalformedXML, "{name} is missing"))?;
    match u32::try_from(number) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(s3_error!(InvalidArgument, "{name} must be a positive integer")),
    }
}

fn expire(expiration: &LifecycleExpiration, known: &mut BucketRule) -> S3Result<()> {
    let LifecycleExpiration { date, days, expired_object_delete_marker: markers, .. } = expiration;
    let count =
        [date.is_some(), days.is_some(), markers.is_some()].iter().filter(|one| **one).count();
    if count != 1 {
        let message = "Expiration has one of Days, Date and ExpiredObjectDeleteMarker";
        return Err(s3_error!(MalformedXML, "{message}"));
    }
    if let Some(date) = date {
        known.expire = Some(BucketExpire::At(midnight(date)?));
    }
    if days.is_some() {
        known.expire = Some(BucketExpire::After(positive(*days, "Days")?));
    }
    known.markers = markers.unwrap_or(false);
    Ok(())
}

/// A date, which must be the beginning of a day.
fn midnight(date: &s3s::dto::Timestamp) -> S3Result<Timestamp> {
    let mut text = Vec::new();
    let wrong = || s3_error!(InvalidArgument, "a Date must be at midnight UTC");
    date.format(TimestampFormat::DateTime, &mut text).map_err(|_| wrong())?;
    let time = std::str::from_utf8(&text).ok().and_then(|text| text.parse::<Timestamp>().ok());
    time.filter(|time| time.millis().rem_euclid(DAY) == 0).ok_or_else(wrong)
}

fn filter(rule: &LifecycleRule, known: &mut BucketRule) -> S3Result<()> {
    let Some(filter) = &rule.filter else {
        let missing = || s3_error!(MalformedXML, "a rule has a Filter or a Prefix");
        known.prefix = rule.prefix.clone().ok_or_else(missing)?;
        return Ok(());
    };
    if rule.prefix.is_some() {
        return Err(s3_error!(MalformedXML, "a rule has a Filter or a Prefix, not both"));
    }
    let (prefix, mut tags) = (filter.prefix.as_ref(), Vec::new());
    let mut sizes = (filter.object_size_greater_than, filter.object_size_less_than);
    tags.extend(filter.tag.as_ref());
    if let Some(and) = &filter.and {
        if prefix.is_some() || !tags.is_empty() || sizes != (None, None) {
            return Err(s3_error!(MalformedXML, "nothing stands beside And in a Filter"));
        }
        known.prefix = and.prefix.clone().unwrap_or_default();
        tags.extend(and.tags.iter().flatten());
        sizes = (and.object_size_greater_than, and.object_size_less_than);
    }
    if let Some(prefix) = prefix {
        known.prefix.clone_from(prefix);
    }
    if known.prefix.len() > crate::call::KEY_BYTES_MAX {
        return Err(s3_error!(InvalidRequest, "a Prefix has at most 1024 bytes"));
    }
    for tag in tags {
        let Tag { key: Some(key), value: Some(value), .. } = tag else {
            return Err(s3_error!(MalformedXML, "a Tag has a Key and a Value"));
        };
        if known.tags.iter().any(|(other, _)| other == key) {
            return Err(s3_error!(InvalidRequest, "two tags have the same Key"));
        }
        known.tags.push((key.clone(), value.clone()));
    }
    let size = |size: Option<i64>| {
        let wrong = |_| s3_error!(InvalidArgument, "a size must not be negative");
        size.map(u64::try_from).transpose().map_err(wrong)
    };
    known.larger_than = size(sizes.0)?;
    known.smaller_than = size(sizes.1)?;
    if let (Some(least), Some(most)) = (known.larger_than, known.smaller_than)
        && least >= most
    {
        let message = "ObjectSizeLessThan must be more than ObjectSizeGreaterThan";
        return Err(s3_error!(InvalidRequest, "{message}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(rules: &str) -> Result<Vec<BucketRule>, String> {
        let text = format!("<LifecycleConfiguration>{rules}</LifecycleConfiguration>");
        let mut deserializer = Deserializer::new(text.as_bytes());
        let document = BucketLifecycleConfiguration::deserialize(&mut deserializer);
        let mut document = document.map_err(|error| error.to_string())?;
        understand(&mut document).map_err(|error| error.code().as_str().to_owned())
    }

    fn rule(inner: &str) -> String {
        format!("<Rule><Status>Enabled</Status>{inner}</Rule>")
    }

    #[test]
    fn rules_are_understood_and_named() {
        let first = "<Prefix>a/</Prefix><Expiration><Days>3</Days></Expiration>";
        let second = "<ID>rule-1</ID><Filter><And><Prefix>b</Prefix><Tag><Key>k</Key>\
                      <Value>v</Value></Tag></And></Filter><NoncurrentVersionExpiration>\
                      <NoncurrentDays>2</NoncurrentDays></NoncurrentVersionExpiration>";
        let rules = parse(&(rule(first) + &rule(second))).expect("well-formed");
        let expected = [
            BucketRule {
                id: "rule-2".to_owned(),
                enabled: true,
                prefix: "a/".to_owned(),
                expire: Some(BucketExpire::After(3)),
                ..BucketRule::default()
            },
            BucketRule {
                id: "rule-1".to_owned(),
                enabled: true,
                prefix: "b".to_owned(),
                tags: vec![("k".to_owned(), "v".to_owned())],
                noncurrent: Some((2, 0)),
                ..BucketRule::default()
            },
        ];
        assert_eq!(rules, expected);
    }

    #[test]
    fn what_cannot_be_applied_is_refused() {
        let days = "<Expiration><Days>1</Days></Expiration>";
        for (inner, code) in [
            ("<Prefix/>".to_owned(), "InvalidRequest"),
            (days.to_owned(), "MalformedXML"),
            (format!("<Prefix/><Filter/>{days}"), "MalformedXML"),
            ("<Prefix/><Expiration><Days>0</Days></Expiration>".to_owned(), "InvalidArgument"),
            (format!("<ID>{}</ID><Prefix/>{days}", "a".repeat(256)), "InvalidArgument"),
            (
                "<Prefix/><Expiration><Date>2020-01-01T00:00:01Z</Date></Expiration>".to_owned(),
                "InvalidArgument",
            ),
            (
                "<Prefix/><Transition><Days>1</Days><StorageClass>GLACIER</StorageClass>\
                 </Transition>"
                    .to_owned(),
                "NotImplemented",
            ),
        ] {
            assert_eq!(parse(&rule(&inner)), Err(code.to_owned()), "{inner}");
        }
        let status = rule(&format!("<Prefix/>{days}")).replace("Enabled", "enabled");
        assert_eq!(parse(&status), Err("MalformedXML".to_owned()));
        let same = rule(&format!("<ID>a</ID><Prefix/>{days}"));
        assert_eq!(parse(&same.repeat(2)), Err("InvalidArgument".to_owned()));
    }
}
