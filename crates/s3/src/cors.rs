//! What pages of other origins may do: rules of buckets, preflights, and headers of answers.
//!
//! Promises: an answer tells a browser what the rules say, and no more; rules open nothing that
//! the request itself would not be given.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header, request::Parts};
use larder_base::id::RequestId;
use larder_core::BucketSetting;
use larder_http::ResponseBody;
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        CORSRule, DeleteBucketCorsInput, DeleteBucketCorsOutput, GetBucketCorsInput,
        GetBucketCorsOutput, PutBucketCorsInput, PutBucketCorsOutput,
    },
    s3_error,
};
use serde::{Deserialize, Serialize};

use crate::{
    Inner,
    call::{Answer, Call, coded, header as text_of},
    error::{About, Refusal},
};

/// Most rules of a bucket, as S3 has it.
const RULES_MAX: usize = 100;

const METHODS: &[&str] = &["GET", "PUT", "POST", "DELETE", "HEAD"];

/// One rule as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Rule {
    id: Option<String>,
    origins: Vec<String>,
    methods: Vec<String>,
    headers: Vec<String>,
    expose: Vec<String>,
    max_age: Option<i32>,
}

impl Rule {
    fn of(rule: CORSRule) -> S3Result<Self> {
        let rule = Self {
            id: rule.id,
            origins: rule.allowed_origins,
            methods: rule.allowed_methods,
            headers: rule.allowed_headers.unwrap_or_default(),
            expose: rule.expose_headers.unwrap_or_default(),
            max_age: rule.max_age_seconds,
        };
        if rule.origins.is_empty() || rule.methods.is_empty() {
            return Err(s3_error!(MalformedXML, "a rule has an origin and a method"));
        }
        if let Some(other) = rule.methods.iter().find(|one| !METHODS.contains(&one.as_str())) {
            let message = format!("a rule cannot be about the method {other:?}");
            return Err(s3_error!(InvalidRequest, "{message}"));
        }
        let mut patterns = rule.origins.iter().chain(&rule.headers);
        if patterns.any(|pattern| pattern.matches('*').count() > 1) {
            return Err(s3_error!(InvalidRequest, "a pattern has one star at most"));
        }
        let mut shown = rule.origins.iter().chain(&rule.headers).chain(&rule.expose);
        if shown.any(|text| HeaderValue::try_from(text).is_err())
            || rule.max_age.is_some_and(|age| age < 0)
        {
            return Err(s3_error!(InvalidRequest, "a value of a rule fits into no header"));
        }
        Ok(rule)
    }

    fn shown(self) -> CORSRule {
        let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
        CORSRule {
            id: self.id,
            allowed_origins: self.origins,
            allowed_methods: self.methods,
            allowed_headers: some(self.headers),
            expose_headers: some(self.expose),
            max_age_seconds: self.max_age,
        }
    }

    fn allows(&self, origin: &str, method: &str, headers: &[&str]) -> bool {
        let allowed = |name: &&str| self.headers.iter().any(|one| fits(one, name));
        self.origins.iter().any(|one| fits(one, origin))
            && self.methods.iter().any(|one| one == method)
            && headers.iter().all(allowed)
    }

    /// Tells a browser what the rule says.
    fn tell(&self, origin: &str, asked: &[&str], headers: &mut HeaderMap) {
        let mut set = |name, text: &str| headers.extend(value(text).map(|value| (name, value)));
        if self.origins.iter().any(|one| one == "*") {
            set(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");
        } else {
            set(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            set(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
        }
        set(header::ACCESS_CONTROL_ALLOW_METHODS, &self.methods.join(", "));
        if !asked.is_empty() {
            set(header::ACCESS_CONTROL_ALLOW_HEADERS, &asked.join(", ").to_ascii_lowercase());
        }
        if !self.expose.is_empty() {
            set(header::ACCESS_CONTROL_EXPOSE_HEADERS, &self.expose.join(", "));
        }
        if let Some(age) = self.max_age {
            set(header::ACCESS_CONTROL_MAX_AGE, &age.to_string());
        }
    }
}

fn value(text: &str) -> Option<HeaderValue> {
    HeaderValue::try_from(text).ok()
}

/// Whether a text fits a pattern with at most one star, whatever their case.
fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.to_ascii_lowercase(), text.to_ascii_lowercase());
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, end)) => text.strip_prefix(start).is_some_and(|rest| rest.ends_with(end)),
    }
}

/// The rules of the bucket that a request names.
async fn rules(
    inner: &Inner,
    head: &Parts,
    in_host: Option<&str>,
) -> Result<Vec<Rule>, larder_core::Error> {
    let path = head.uri.path().trim_start_matches('/');
    let name = in_host.unwrap_or_else(|| path.split_once('/').map_or(path, |(name, _)| name));
    let text = inner.larder.bucket_cors(name).await?;
    // Whatever is there was written here.
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}

/// Answers what a browser asks before it sends a request.
pub(crate) async fn preflight(
    inner: &Inner,
    head: &Parts,
    in_host: Option<&str>,
    request_id: &RequestId,
) -> Result<Response<ResponseBody>, Refusal> {
    let Some(origin) = text_of(&head.headers, "origin") else {
        return Err(Refusal::bad("BadRequest", "a preflight has the header Origin"));
    };
    let Some(method) = text_of(&head.headers, "access-control-request-method") else {
        let message = "a preflight has the header Access-Control-Request-Method";
        return Err(Refusal::bad("BadRequest", message));
    };
    let asked = text_of(&head.headers, "access-control-request-headers").unwrap_or_default();
    let asked: Vec<&str> =
        asked.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let rules = rules(inner, head, in_host).await;
    let rules = rules.map_err(|error| Refusal::from_core(&error, request_id))?;
    let rule = rules.iter().find(|rule| rule.allows(origin, method, &asked));
    let rule = rule.ok_or_else(|| {
        Refusal::denied("AccessForbidden", "no rule of the bucket allows this to this origin")
    })?;
    let mut response = Response::new(crate::nothing());
    *response.status_mut() = StatusCode::OK;
    rule.tell(origin, &asked, response.headers_mut());
    vary(response.headers_mut());
    Ok(response)
}

fn vary(headers: &mut HeaderMap) {
    let names = "Origin, Access-Control-Request-Headers, Access-Control-Request-Method";
    headers.insert(header::VARY, HeaderValue::from_static(names));
}

/// Adds to an answer what the rules of the bucket say to the origin of the request.
pub(crate) async fn show(inner: &Inner, head: &Parts, response: &mut Response<ResponseBody>) {
    let Some(origin) = text_of(&head.headers, "origin") else { return };
    let in_host = inner.in_host(head);
    // The answer stands without them.
    let Ok(rules) = rules(inner, head, in_host.as_deref()).await else { return };
    let asked = text_of(&head.headers, "access-control-request-method");
    let method = asked.unwrap_or_else(|| head.method.as_str());
    if let Some(rule) = rules.iter().find(|rule| rule.allows(origin, method, &[])) {
        rule.tell(origin, &[], response.headers_mut());
    }
    if !rules.is_empty() {
        vary(response.headers_mut());
    }
}

pub(crate) async fn put(
    call: &Call,
    request: S3Request<PutBucketCorsInput>,
) -> Answer<PutBucketCorsOutput> {
    let input = request.input;
    let rules = input.cors_configuration.cors_rules;
    if rules.is_empty() || rules.len() > RULES_MAX {
        return Err(s3_error!(MalformedXML, "a bucket has 1 to 100 rules"));
    }
    let rules: Vec<Rule> = rules.into_iter().map(Rule::of).collect::<S3Result<_>>()?;
    let text = serde_json::to_string(&rules)
        .map_err(|error| s3_error!(InvalidRequest, "the rules cannot be kept: {error}"))?;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    set(call, &bucket, Some(text)).await?;
    Ok(S3Response::new(PutBucketCorsOutput::default()))
}

async fn set(call: &Call, bucket: &larder_core::Bucket, text: Option<String>) -> S3Result<()> {
    let setting = BucketSetting::Cors;
    let set = call.larder().set_bucket_setting(&call.caller, bucket, setting, text).await;
    set.map_err(call.fails(About::Bucket))
}

pub(crate) async fn get(
    call: &Call,
    request: S3Request<GetBucketCorsInput>,
) -> Answer<GetBucketCorsOutput> {
    let input = request.input;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let setting = BucketSetting::Cors;
    let text = call.larder().bucket_setting(&call.caller, &bucket, setting).await;
    let Some(text) = text.map_err(call.fails(About::Bucket))? else {
        let mut error = coded("NoSuchCORSConfiguration", "the bucket has no rules");
        error.set_status_code(StatusCode::NOT_FOUND);
        return Err(error);
    };
    let rules: Vec<Rule> = serde_json::from_str(&text)
        .map_err(|error| s3_error!(InternalError, "rules that cannot be read: {error}"))?;
    let cors_rules = Some(rules.into_iter().map(Rule::shown).collect());
    Ok(S3Response::new(GetBucketCorsOutput { cors_rules }))
}

pub(crate) async fn delete(
    call: &Call,
    request: S3Request<DeleteBucketCorsInput>,
) -> Answer<DeleteBucketCorsOutput> {
    let input = request.input;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    set(call, &bucket, None).await?;
    Ok(S3Response::new(DeleteBucketCorsOutput::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(origin: &str, method: &str, name: &str) -> Rule {
        let list = |text: &str| vec![text.to_owned()];
        let (origins, methods, headers) = (list(origin), list(method), list(name));
        Rule { origins, methods, headers, ..Rule::default() }
    }

    #[test]
    fn rules_allow_origins_methods_and_headers() {
        let one = rule("https://*.example.org", "PUT", "x-amz-*");
        assert!(one.allows("https://a.example.org", "PUT", &[]));
        assert!(one.allows("https://a.example.org", "PUT", &["X-Amz-Date"]));
        assert!(!one.allows("https://a.example.org", "PUT", &["Range"]));
        assert!(!one.allows("https://a.example.org", "GET", &[]));
        assert!(!one.allows("https://example.com", "PUT", &[]));
        assert!(fits("start*end", "startend") && !fits("start*tend", "startend"));
    }

    #[test]
    fn browsers_are_told_the_origin_unless_it_is_any() {
        let mut headers = HeaderMap::new();
        rule("http://a", "GET", "*").tell("http://a", &["Range"], &mut headers);
        assert_eq!(headers["access-control-allow-origin"], "http://a");
        assert_eq!(headers["access-control-allow-headers"], "range");
        headers.clear();
        rule("*", "GET", "*").tell("http://a", &[], &mut headers);
        assert_eq!(headers["access-control-allow-origin"], "*");
        assert!(!headers.contains_key("access-control-allow-credentials"));
    }

    #[test]
    fn rules_that_say_nothing_are_refused() {
        let with = |origin: &str, method: &str| {
            Rule::of(CORSRule {
                allowed_headers: None,
                allowed_methods: vec![method.to_owned()],
                allowed_origins: vec![origin.to_owned()],
                expose_headers: None,
                id: None,
                max_age_seconds: None,
            })
        };
        assert!(with("*", "GET").is_ok());
        for (origin, method) in [("*", "PATCH"), ("**", "GET"), ("\n", "GET")] {
            assert!(with(origin, method).is_err(), "{origin:?}");
        }
    }
}
