//! Object lock: what keeps versions of objects from being destroyed.
//!
//! Promises: what a request asks to be kept is kept or the request is refused; whether a lock may
//! be loosened core judges, and only a request that says so bypasses one of governance.
//!
//! Not here: what a lock holds against (core).

use larder_base::Timestamp;
use larder_core::{
    Bucket, LockRules, ObjectChange, ObjectEntry, Retention, RetentionMode, Versioning,
};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        self, DefaultRetention, GetObjectLegalHoldInput, GetObjectLegalHoldOutput,
        GetObjectLockConfigurationInput, GetObjectLockConfigurationOutput, GetObjectRetentionInput,
        GetObjectRetentionOutput, ObjectLockConfiguration, ObjectLockEnabled, ObjectLockLegalHold,
        ObjectLockLegalHoldStatus, ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode,
        ObjectLockRule, PutObjectLegalHoldInput, PutObjectLegalHoldOutput,
        PutObjectLockConfigurationInput, PutObjectLockConfigurationOutput, PutObjectRetentionInput,
        PutObjectRetentionOutput, TimestampFormat,
    },
    s3_error,
};

use crate::{
    call::{Answer, Call, coded},
    error::About,
    wire,
};

/// Longest retention that a bucket gives, in days: a hundred years.
const DAYS_MAX: u32 = 36_500;

const DAYS_OF_YEAR: u32 = 365;

/// What a request says of the lock of an object that it makes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Asked<'a> {
    pub(crate) mode: Option<&'a ObjectLockMode>,
    pub(crate) until: Option<&'a dto::Timestamp>,
    pub(crate) hold: Option<&'a ObjectLockLegalHoldStatus>,
}

impl Asked<'_> {
    /// Retention and legal hold of an object in this bucket.
    pub(crate) fn read(
        self,
        now: Timestamp,
        bucket: &Bucket,
    ) -> S3Result<(Option<Retention>, bool)> {
        if self.mode.is_none() && self.until.is_none() && self.hold.is_none() {
            return Ok((None, false));
        }
        let hold = match self.hold.map(ObjectLockLegalHoldStatus::as_str) {
            None | Some(ObjectLockLegalHoldStatus::OFF) => false,
            Some(ObjectLockLegalHoldStatus::ON) => true,
            Some(_) => {
                let message = "x-amz-object-lock-legal-hold must be ON or OFF";
                return Err(s3_error!(InvalidArgument, "{message}"));
            }
        };
        let retention = match (self.mode, self.until) {
            (None, None) => None,
            (Some(given), Some(until)) => {
                let message = "x-amz-object-lock-mode must be GOVERNANCE or COMPLIANCE";
                let mode =
                    mode(given.as_str()).ok_or_else(|| s3_error!(InvalidArgument, "{message}"))?;
                Some(Retention { mode, until: future(until, now)? })
            }
            _ => {
                let message = "x-amz-object-lock-mode and x-amz-object-lock-retain-until-date \
                               need each other";
                return Err(s3_error!(InvalidArgument, "{message}"));
            }
        };
        need_lock(bucket)?;
        Ok((retention, hold))
    }
}

fn mode(text: &str) -> Option<RetentionMode> {
    match text {
        ObjectLockMode::GOVERNANCE => Some(RetentionMode::Governance),
        ObjectLockMode::COMPLIANCE => Some(RetentionMode::Compliance),
        _ => None,
    }
}

fn mode_name(mode: RetentionMode) -> &'static str {
    match mode {
        RetentionMode::Governance => ObjectLockMode::GOVERNANCE,
        RetentionMode::Compliance => ObjectLockMode::COMPLIANCE,
    }
}

/// The mode that GET and HEAD show.
pub(crate) fn shown_mode(object: &ObjectEntry) -> Option<ObjectLockMode> {
    object.retention.map(|retention| ObjectLockMode::from_static(mode_name(retention.mode)))
}

/// The legal hold that GET and HEAD show.
pub(crate) fn shown_hold(object: &ObjectEntry) -> Option<ObjectLockLegalHoldStatus> {
    object.hold.then(|| ObjectLockLegalHoldStatus::from_static(ObjectLockLegalHoldStatus::ON))
}

/// An end of retention, which must be to come.
fn future(until: &dto::Timestamp, now: Timestamp) -> S3Result<Timestamp> {
    match millis(until).map(Timestamp::from_millis) {
        Some(until) if until > now => Ok(until),
        Some(_) => Err(s3_error!(InvalidArgument, "the retention must end in the future")),
        None => Err(s3_error!(InvalidArgument, "the end of the retention is no date")),
    }
}

/// Milliseconds since 1970 of a time of the library's, which tells them only as a text: seconds,
/// and a fraction of them. Its text of a date drops the offset from UTC.
fn millis(time: &dto::Timestamp) -> Option<i64> {
    let mut text = Vec::new();
    time.format(TimestampFormat::EpochSeconds, &mut text).ok()?;
    let text = std::str::from_utf8(&text).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    seconds.parse::<i64>().ok()?.checked_mul(1000)?.checked_add(fraction)
}

fn need_lock(bucket: &Bucket) -> S3Result<()> {
    match bucket.lock {
        Some(_) => Ok(()),
        None => Err(s3_error!(InvalidRequest, "the bucket has no object lock")),
    }
}

/// Gives a bucket that has just been made object lock, and the versions that it needs.
pub(crate) async fn enable(call: &Call, bucket: &Bucket) -> S3Result<()> {
    let rules = Some(LockRules::default());
    let versioning = Some(Versioning::Enabled);
    let larder = call.larder();
    let changed = larder.change_bucket(&call.caller, bucket, versioning, rules).await;
    if let Err(error) = changed {
        // A bucket without the lock is not what was asked for; if it stays, a second request for
        // it is told so.
        let _removed = larder.delete_bucket(&call.caller, bucket).await;
        return Err(call.error(&error, About::Bucket));
    }
    Ok(())
}

/// The rules of a document.
fn rules(asked: Option<ObjectLockConfiguration>) -> S3Result<LockRules> {
    let malformed = |message: &str| s3_error!(MalformedXML, "{message}");
    let asked = asked.ok_or_else(|| malformed("the configuration is missing"))?;
    let enabled = asked.object_lock_enabled.as_ref().map(ObjectLockEnabled::as_str);
    if enabled != Some(ObjectLockEnabled::ENABLED) {
        return Err(malformed("ObjectLockEnabled must be Enabled"));
    }
    let Some(rule) = asked.rule else { return Ok(LockRules::default()) };
    let default = rule.default_retention;
    let default = default.ok_or_else(|| malformed("the rule has no DefaultRetention"))?;
    let given = default.mode.as_ref().and_then(|given| mode(given.as_str()));
    let mode = given.ok_or_else(|| malformed("the mode must be GOVERNANCE or COMPLIANCE"))?;
    let (count, unit) = match (default.days, default.years) {
        (Some(days), None) => (days, 1),
        (None, Some(years)) => (years, DAYS_OF_YEAR),
        _ => return Err(malformed("the retention has Days or Years")),
    };
    let days = u32::try_from(count).ok().and_then(|count| count.checked_mul(unit));
    match days {
        Some(days @ 1..=DAYS_MAX) => Ok(LockRules { default: Some((mode, days)) }),
        _ => {
            let message = format!("a default retention lasts 1 to {DAYS_MAX} days");
            let mut error = coded("InvalidRetentionPeriod", message);
            error.set_status_code(http::StatusCode::BAD_REQUEST);
            Err(error)
        }
    }
}

pub(crate) async fn put_configuration(
    call: &Call,
    request: S3Request<PutObjectLockConfigurationInput>,
) -> Answer<PutObjectLockConfigurationOutput> {
    let input = request.input;
    if input.token.is_some() {
        let message = "there are no tokens for object lock; enable versioning instead";
        return Err(s3_error!(NotImplemented, "{message}"));
    }
    let rules = rules(input.object_lock_configuration)?;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    if bucket.versioning != Versioning::Enabled {
        let message = "object lock needs a bucket with versioning";
        return Err(s3_error!(InvalidBucketState, "{message}"));
    }
    let changed = call.larder().change_bucket(&call.caller, &bucket, None, Some(rules)).await;
    changed.map_err(call.fails(About::Bucket))?;
    Ok(S3Response::new(PutObjectLockConfigurationOutput::default()))
}

pub(crate) async fn get_configuration(
    call: &Call,
    request: S3Request<GetObjectLockConfigurationInput>,
) -> Answer<GetObjectLockConfigurationOutput> {
    let input = request.input;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let Some(LockRules { default }) = bucket.lock else {
        let mut error =
            coded("ObjectLockConfigurationNotFoundError", "the bucket has no object lock");
        error.set_status_code(http::StatusCode::NOT_FOUND);
        return Err(error);
    };
    let rule = default.map(|(mode, days)| ObjectLockRule {
        default_retention: Some(DefaultRetention {
            days: i32::try_from(days).ok(),
            mode: Some(ObjectLockRetentionMode::from_static(mode_name(mode))),
            years: None,
        }),
    });
    let enabled = ObjectLockEnabled::from_static(ObjectLockEnabled::ENABLED);
    Ok(S3Response::new(GetObjectLockConfigurationOutput {
        object_lock_configuration: Some(ObjectLockConfiguration {
            object_lock_enabled: Some(enabled),
            rule,
        }),
    }))
}

/// The bucket and the object that a request on a lock names.
struct Named<'a> {
    bucket: &'a str,
    owner: Option<&'a str>,
    key: &'a str,
    version: Option<&'a str>,
}

/// What a request on a lock names: all of them call it the same.
macro_rules! named {
    ($input:expr) => {
        Named {
            bucket: &$input.bucket,
            owner: $input.expected_bucket_owner.as_deref(),
            key: &$input.key,
            version: $input.version_id.as_deref(),
        }
    };
}

impl Named<'_> {
    async fn look(&self, call: &Call) -> S3Result<ObjectEntry> {
        Call::check_key(self.key)?;
        let version = Call::version(self.version)?;
        let bucket = call.bucket(self.bucket, self.owner).await?;
        need_lock(&bucket)?;
        let found = call.larder().object(&call.caller, &bucket, self.key, version).await;
        Ok(found.map_err(call.fails(About::Object))?.object())
    }

    async fn change(&self, call: &Call, change: ObjectChange) -> S3Result<()> {
        Call::check_key(self.key)?;
        let version = Call::version(self.version)?;
        let bucket = call.bucket(self.bucket, self.owner).await?;
        need_lock(&bucket)?;
        let larder = call.larder();
        let changed = larder.change_object(&call.caller, &bucket, self.key, version, &change).await;
        changed.map_err(call.fails(About::Object))?;
        Ok(())
    }
}

/// The retention of a document; an empty one takes it away.
fn retention(asked: Option<ObjectLockRetention>, now: Timestamp) -> S3Result<Option<Retention>> {
    let malformed = |message: &str| s3_error!(MalformedXML, "{message}");
    let asked = asked.ok_or_else(|| malformed("the retention is missing"))?;
    match (asked.mode, asked.retain_until_date) {
        (None, None) => Ok(None),
        (Some(given), Some(until)) => {
            let given = mode(given.as_str());
            let mode = given.ok_or_else(|| malformed("Mode must be GOVERNANCE or COMPLIANCE"))?;
            Ok(Some(Retention { mode, until: future(&until, now)? }))
        }
        _ => Err(malformed("Mode and RetainUntilDate need each other")),
    }
}

pub(crate) async fn put_retention(
    call: &Call,
    request: S3Request<PutObjectRetentionInput>,
) -> Answer<PutObjectRetentionOutput> {
    let input = request.input;
    let retention = retention(input.retention, call.env().now())?;
    let bypass = input.bypass_governance_retention.unwrap_or(false);
    let change = ObjectChange { retention: Some(retention), bypass, ..ObjectChange::default() };
    let named = named!(input);
    named.change(call, change).await?;
    Ok(S3Response::new(PutObjectRetentionOutput::default()))
}

pub(crate) async fn get_retention(
    call: &Call,
    request: S3Request<GetObjectRetentionInput>,
) -> Answer<GetObjectRetentionOutput> {
    let input = request.input;
    let named = named!(input);
    let Some(Retention { mode, until }) = named.look(call).await?.retention else {
        return Err(s3_error!(NoSuchObjectLockConfiguration, "the object has no retention"));
    };
    Ok(S3Response::new(GetObjectRetentionOutput {
        retention: Some(ObjectLockRetention {
            mode: Some(ObjectLockRetentionMode::from_static(mode_name(mode))),
            retain_until_date: Some(wire::time(until)),
        }),
    }))
}

pub(crate) async fn put_hold(
    call: &Call,
    request: S3Request<PutObjectLegalHoldInput>,
) -> Answer<PutObjectLegalHoldOutput> {
    let input = request.input;
    let status = input.legal_hold.and_then(|hold| hold.status);
    let hold = match status.as_ref().map(ObjectLockLegalHoldStatus::as_str) {
        Some(ObjectLockLegalHoldStatus::ON) => true,
        Some(ObjectLockLegalHoldStatus::OFF) => false,
        _ => return Err(s3_error!(MalformedXML, "the status must be ON or OFF")),
    };
    let change = ObjectChange { hold: Some(hold), ..ObjectChange::default() };
    let named = named!(input);
    named.change(call, change).await?;
    Ok(S3Response::new(PutObjectLegalHoldOutput::default()))
}

pub(crate) async fn get_hold(
    call: &Call,
    request: S3Request<GetObjectLegalHoldInput>,
) -> Answer<GetObjectLegalHoldOutput> {
    let input = request.input;
    let named = named!(input);
    let status = match named.look(call).await?.hold {
        true => ObjectLockLegalHoldStatus::ON,
        false => ObjectLockLegalHoldStatus::OFF,
    };
    let status = Some(ObjectLockLegalHoldStatus::from_static(status));
    Ok(S3Response::new(GetObjectLegalHoldOutput {
        legal_hold: Some(ObjectLockLegalHold { status }),
    }))
}

#[cfg(test)]
mod tests {
    use larder_base::id::{SpaceId, UserId};

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_763_714_400_000);

    fn date(text: &str) -> dto::Timestamp {
        dto::Timestamp::parse(TimestampFormat::DateTime, text).expect("a date")
    }

    fn bucket(lock: Option<LockRules>) -> Bucket {
        let env = larder_base::Env::system();
        Bucket {
            id: SpaceId::new(&env),
            name: "b".to_owned(),
            kind: larder_core::SpaceKind::Bucket,
            owner: UserId::new(&env),
            created: NOW,
            versioning: Versioning::Enabled,
            lock,
        }
    }

    #[test]
    fn objects_are_kept_as_the_headers_say() {
        let locked = bucket(Some(LockRules::default()));
        let read = |mode: Option<&'static str>, until: Option<&str>, hold: Option<&'static str>| {
            let mode = mode.map(ObjectLockMode::from_static);
            let until = until.map(date);
            let hold = hold.map(ObjectLockLegalHoldStatus::from_static);
            let asked = Asked { mode: mode.as_ref(), until: until.as_ref(), hold: hold.as_ref() };
            asked.read(NOW, &locked).map_err(|error| error.code().as_str().to_owned())
        };
        let (later, earlier) = (Some("2026-01-01T01:00:00.5+01:00"), Some("2025-01-01T00:00:00Z"));
        let until = Timestamp::from_millis(1_767_225_600_500);
        let governed = Some(Retention { mode: RetentionMode::Governance, until });
        assert_eq!(read(None, None, None), Ok((None, false)));
        assert_eq!(read(Some("GOVERNANCE"), later, Some("OFF")), Ok((governed, false)));
        assert_eq!(read(None, None, Some("ON")), Ok((None, true)));
        let wrong = Err("InvalidArgument".to_owned());
        for (mode, until) in [
            (Some("GOVERNANCE"), None),
            (None, later),
            (Some("governance"), later),
            (Some("COMPLIANCE"), earlier),
        ] {
            assert_eq!(read(mode, until, None), wrong, "{mode:?} {until:?}");
        }
        assert_eq!(read(None, None, Some("on")), wrong);
        let on = ObjectLockLegalHoldStatus::from_static("ON");
        let asked = Asked { hold: Some(&on), ..Asked::default() };
        let refused = asked.read(NOW, &bucket(None)).expect_err("no lock");
        assert_eq!(refused.code().as_str(), "InvalidRequest");
        assert!(Asked::default().read(NOW, &bucket(None)).is_ok());
    }

    #[test]
    fn times_keep_their_offset_and_their_milliseconds() {
        for text in ["2140-01-01T00:00:00.001Z", "2030-06-30T12:00:00.123Z", "2026-01-01T00:00:00Z"]
        {
            let expected: Timestamp = text.parse().expect("a time");
            assert_eq!(millis(&date(text)), Some(expected.millis()), "{text}");
        }
        let same = millis(&date("2030-01-01T02:00:00.25+02:00"));
        assert_eq!(same, millis(&date("2030-01-01T00:00:00.25Z")));
    }

    fn configured(
        mode: Option<&'static str>,
        days: Option<i32>,
        years: Option<i32>,
    ) -> Result<Option<(RetentionMode, u32)>, String> {
        let mode = mode.map(ObjectLockRetentionMode::from_static);
        let default_retention = Some(DefaultRetention { days, mode, years });
        let asked = ObjectLockConfiguration {
            object_lock_enabled: Some(ObjectLockEnabled::from_static("Enabled")),
            rule: Some(ObjectLockRule { default_retention }),
        };
        let rules = rules(Some(asked)).map_err(|error| error.code().as_str().to_owned());
        rules.map(|rules| rules.default)
    }

    #[test]
    fn default_retentions_have_one_length() {
        let strict = Some("COMPLIANCE");
        let days = |days| Ok(Some((RetentionMode::Compliance, days)));
        assert_eq!(configured(strict, Some(1), None), days(1));
        assert_eq!(configured(strict, None, Some(2)), days(730));
        let malformed = Err("MalformedXML".to_owned());
        assert_eq!(configured(strict, Some(1), Some(1)), malformed);
        assert_eq!(configured(strict, None, None), malformed);
        assert_eq!(configured(Some("compliance"), Some(1), None), malformed);
        assert_eq!(configured(None, Some(1), None), malformed);
        for (count, years) in
            [(Some(0), None), (None, Some(-1)), (Some(36_501), None), (None, Some(i32::MAX))]
        {
            let refused = configured(strict, count, years);
            assert_eq!(refused, Err("InvalidRetentionPeriod".to_owned()), "{count:?} {years:?}");
        }
        assert!(rules(None).is_err() && rules(Some(ObjectLockConfiguration::default())).is_err());
    }

    #[test]
    fn an_empty_retention_takes_it_away() {
        let of = |mode: Option<&'static str>, until: Option<&str>| {
            let mode = mode.map(ObjectLockRetentionMode::from_static);
            let asked = ObjectLockRetention { mode, retain_until_date: until.map(date) };
            retention(Some(asked), NOW).map_err(|error| error.code().as_str().to_owned())
        };
        assert_eq!(of(None, None), Ok(None));
        assert!(of(Some("COMPLIANCE"), Some("2030-01-01T00:00:00Z")).is_ok_and(|it| it.is_some()));
        assert_eq!(of(Some("COMPLIANCE"), None), Err("MalformedXML".to_owned()));
        let past = of(Some("COMPLIANCE"), Some("2020-01-01T00:00:00Z"));
        assert_eq!(past, Err("InvalidArgument".to_owned()));
        assert!(retention(None, NOW).is_err());
    }
}
