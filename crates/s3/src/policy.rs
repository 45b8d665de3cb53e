//! Bucket policies: their documents.
//!
//! Promises: a policy is understood whole or refused; a part of it that nobody here would act on
//! is refused, too.
//!
//! Not here: what a policy allows and forbids (core).

use std::{fmt, marker::PhantomData};

use larder_core::{
    BucketSetting, Compare, Effect, Patterns, Policy, PolicyCondition, Principals, Statement,
    is_network,
};
use s3s::{
    S3Error, S3Request, S3Response, S3Result,
    dto::{
        DeleteBucketPolicyInput, DeleteBucketPolicyOutput, GetBucketPolicyInput,
        GetBucketPolicyOutput, GetBucketPolicyStatusInput, GetBucketPolicyStatusOutput,
        PolicyStatus, PutBucketPolicyInput, PutBucketPolicyOutput,
    },
    s3_error,
};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

use crate::{
    action,
    call::{Answer, Call, coded},
    error::About,
};

/// Longest document, as S3 has it.
const BYTES_MAX: usize = 20 << 10;

const RESOURCE: &str = "arn:aws:s3:::";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Document {
    version: String,
    #[serde(rename = "Id")]
    _id: Option<String>,
    statement: Many<Written>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Written {
    #[serde(rename = "Sid")]
    _sid: Option<String>,
    effect: String,
    principal: Option<Who>,
    not_principal: Option<Who>,
    action: Option<Many<String>>,
    not_action: Option<Many<String>>,
    resource: Option<Many<String>>,
    not_resource: Option<Many<String>>,
    condition: Option<Pairs<Pairs<Many<Value>>>>,
}

/// One or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Many<T> {
    One(T),
    List(Vec<T>),
}

impl<T> Many<T> {
    fn list(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::List(list) => list,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Who {
    All(String),
    Named(Named),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    #[serde(rename = "AWS", alias = "CanonicalUser")]
    users: Many<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Flag(bool),
}

/// An object of JSON with all of its pairs: one of two with the same name must not be lost.
struct Pairs<T>(Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Pairs<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Collect<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Collect<T> {
            type Value = Pairs<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<T>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        from.deserialize_map(Collect(PhantomData))
    }
}

fn malformed(message: impl Into<String>) -> S3Error {
    coded("MalformedPolicy", message)
}

/// Understands the policy of a bucket.
fn parse(text: &str, bucket: &str) -> S3Result<Policy> {
    if text.len() > BYTES_MAX {
        return Err(malformed("a policy has at most 20 KiB"));
    }
    let document: Document = serde_json::from_str(text)
        .map_err(|error| malformed(format!("this is no policy: {error}")))?;
    if !matches!(document.version.as_str(), "2012-10-17" | "2008-10-17") {
        return Err(malformed("the version of a policy is 2012-10-17 or 2008-10-17"));
    }
    let statements = document.statement.list();
    if statements.is_empty() {
        return Err(malformed("a policy has a statement"));
    }
    let statements = statements.into_iter().map(|one| statement(one, bucket));
    Ok(Policy { text: text.to_owned(), statements: statements.collect::<S3Result<_>>()? })
}

fn statement(written: Written, bucket: &str) -> S3Result<Statement> {
    let effect = match written.effect.as_str() {
        "Allow" => Effect::Allow,
        "Deny" => Effect::Deny,
        _ => return Err(malformed("an effect is Allow or Deny")),
    };
    let principals = match (written.principal, written.not_principal) {
        (Some(who), None) => Principals::Are(names(who)?),
        (None, Some(_)) if effect == Effect::Allow => {
            return Err(malformed("NotPrincipal goes with Deny only"));
        }
        (None, Some(who)) => Principals::AreNot(names(who)?),
        _ => return Err(malformed("a statement has a Principal or a NotPrincipal")),
    };
    let actions = one_of(written.action, written.not_action, "Action")?;
    if let Some(other) =
        actions.patterns.iter().find(|action| *action != "*" && !action.starts_with("s3:"))
    {
        return Err(malformed(format!("{other:?} is no action of S3")));
    }
    let mut resources = one_of(written.resource, written.not_resource, "Resource")?;
    for resource in &mut resources.patterns {
        *resource = about(resource, bucket)?;
    }
    let mut conditions = Vec::new();
    for (operator, keys) in written.condition.into_iter().flat_map(|pairs| pairs.0) {
        for (key, values) in keys.0 {
            conditions.push(condition(&operator, &key, values.list())?);
        }
    }
    Ok(Statement { effect, principals, actions, resources, conditions })
}

/// The patterns of an element, or of the one that negates it.
fn one_of(
    plain: Option<Many<String>>,
    negated: Option<Many<String>>,
    name: &str,
) -> S3Result<Patterns> {
    let (patterns, negated) = match (plain, negated) {
        (Some(patterns), None) => (patterns.list(), false),
        (None, Some(patterns)) => (patterns.list(), true),
        _ => return Err(malformed(format!("a statement has a {name} or a Not{name}"))),
    };
    if patterns.is_empty() {
        return Err(malformed(format!("the list of a {name} is empty")));
    }
    Ok(Patterns { patterns, negated })
}

/// Names or ids of users.
fn names(who: Who) -> S3Result<Vec<String>> {
    let texts = match who {
        Who::All(all) if all == "*" => return Ok(vec![all]),
        Who::All(_) => return Err(malformed("a principal is * or names users")),
        Who::Named(Named { users }) => users.list(),
    };
    if texts.is_empty() {
        return Err(malformed("the list of a principal is empty"));
    }
    let names = texts.into_iter().map(|text| {
        let Some(arn) = text.strip_prefix("arn:aws:iam::") else { return Some(text) };
        let (account, resource) = arn.split_once(':')?;
        // An account is a user here.
        let name = if resource == "root" { account } else { resource.rsplit('/').next()? };
        (!name.is_empty() && name != "*").then(|| name.to_owned())
    });
    let names = names.map(|name| name.filter(|name| !name.is_empty() && !name.contains(':')));
    names.collect::<Option<_>>().ok_or_else(|| malformed("a principal is the ARN of no user"))
}

/// `BUCKET` or `BUCKET/KEY` of a resource, which must be of this bucket.
fn about(resource: &str, bucket: &str) -> S3Result<String> {
    if resource == "*" {
        return Ok(resource.to_owned());
    }
    let path = resource.strip_prefix(RESOURCE);
    let path = path.ok_or_else(|| malformed("a resource begins with arn:aws:s3:::"))?;
    let name = path.split_once('/').map_or(path, |(name, _)| name);
    // A star can stand for more than the name; then what comes behind it is not the whole name.
    let fits = match name.split_once(['*', '?']) {
        Some((start, _)) => bucket.starts_with(start),
        None => name == bucket,
    };
    if !fits {
        return Err(malformed("a resource is of another bucket"));
    }
    Ok(path.to_owned())
}

fn condition(operator: &str, key: &str, values: Vec<Value>) -> S3Result<PolicyCondition> {
    let (operator, if_exists) = match operator.strip_suffix("IfExists") {
        Some(operator) => (operator, true),
        None => (operator, false),
    };
    let (compare, negated) = match operator {
        "StringEquals" => (Compare::Equal, false),
        "StringNotEquals" => (Compare::Equal, true),
        "StringEqualsIgnoreCase" => (Compare::EqualIgnoreCase, false),
        "StringNotEqualsIgnoreCase" => (Compare::EqualIgnoreCase, true),
        "StringLike" => (Compare::Like, false),
        "StringNotLike" => (Compare::Like, true),
        "Bool" => (Compare::EqualIgnoreCase, false),
        "IpAddress" => (Compare::Network, false),
        "NotIpAddress" => (Compare::Network, true),
        "Null" if !if_exists => (Compare::Null, false),
        _ => return Err(malformed(format!("the condition {operator:?} is not offered"))),
    };
    let flag = matches!(operator, "Bool" | "Null");
    let known = normal(key);
    if !action::is_known(&known) {
        return Err(malformed(format!("the condition key {key:?} is not offered")));
    }
    let text = |value| match value {
        Value::Text(text) => text,
        Value::Flag(flag) => flag.to_string(),
    };
    let values: Vec<String> = values.into_iter().map(text).collect();
    let fits = |value: &String| match compare {
        Compare::Network => is_network(value),
        _ if flag => value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false"),
        _ => true,
    };
    if values.is_empty() || !values.iter().all(fits) {
        return Err(malformed(format!("a value of the condition key {key:?} is none")));
    }
    Ok(PolicyCondition { key: known, values, compare, negated, if_exists })
}

/// A key of a condition in lower case, but for the key of a tag in it.
fn normal(key: &str) -> String {
    match key.split_once('/') {
        Some((start, tag)) => format!("{}/{tag}", start.to_ascii_lowercase()),
        None => key.to_ascii_lowercase(),
    }
}

pub(crate) async fn put(
    call: &Call,
    request: S3Request<PutBucketPolicyInput>,
) -> Answer<PutBucketPolicyOutput> {
    let input = request.input;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let policy = parse(&input.policy, &bucket.name)?;
    let larder = call.larder();
    if policy.is_public() {
        let limits = larder.bucket_limits(&call.caller, &bucket).await;
        let (public, _) = limits.map_err(call.fails(About::Bucket))?;
        if public.is_some_and(|public| public.block_policy) {
            return Err(s3_error!(AccessDenied, "the bucket blocks public policies"));
        }
    }
    let set = larder.set_bucket_policy(&call.caller, &bucket, Some(policy)).await;
    set.map_err(call.fails(About::Bucket))?;
    let mut response = S3Response::new(PutBucketPolicyOutput::default());
    response.status = Some(http::StatusCode::NO_CONTENT);
    Ok(response)
}

pub(crate) async fn get(
    call: &Call,
    request: S3Request<GetBucketPolicyInput>,
) -> Answer<GetBucketPolicyOutput> {
    let input = request.input;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let setting = BucketSetting::Policy;
    let policy = call.larder().bucket_setting(&call.caller, &bucket, setting).await;
    let policy = policy.map_err(call.fails(About::Bucket))?;
    if policy.is_none() {
        return Err(s3_error!(NoSuchBucketPolicy, "the bucket has no policy"));
    }
    Ok(S3Response::new(GetBucketPolicyOutput { policy }))
}

pub(crate) async fn status(
    call: &Call,
    request: S3Request<GetBucketPolicyStatusInput>,
) -> Answer<GetBucketPolicyStatusOutput> {
    let input = request.input;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let larder = call.larder();
    let text = larder.bucket_setting(&call.caller, &bucket, BucketSetting::Policy).await;
    let text = text.map_err(call.fails(About::Bucket))?;
    let policy = text.map(|text| parse(&text, &bucket.name)).transpose()?;
    let acl = larder.bucket_acl(&call.caller, &bucket).await.map_err(call.fails(About::Bucket))?;
    let public = acl.is_public() || policy.is_some_and(|policy| policy.is_public());
    let policy_status = Some(PolicyStatus { is_public: Some(public) });
    Ok(S3Response::new(GetBucketPolicyStatusOutput { policy_status }))
}

pub(crate) async fn delete(
    call: &Call,
    request: S3Request<DeleteBucketPolicyInput>,
) -> Answer<DeleteBucketPolicyOutput> {
    let input = request.input;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let set = call.larder().set_bucket_policy(&call.caller, &bucket, None).await;
    set.map_err(call.fails(About::Bucket))?;
    Ok(S3Response::new(DeleteBucketPolicyOutput::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(statement: &str) -> Result<Policy, String> {
        let text = format!("{{\"Version\":\"2012-10-17\",\"Statement\":{statement}}}");
        parse(&text, "b").map_err(|error| error.code().as_str().to_owned())
    }

    const PLAIN: &str = r#"{"Effect":"Allow","Principal":"*","Action":"s3:GetObject",
        "Resource":"arn:aws:s3:::b/*""#;

    #[test]
    fn a_policy_says_who_may_do_what() {
        let policy = with(&format!("[{PLAIN}}}]")).expect("well-formed");
        let [one] = policy.statements.as_slice() else { panic!("one statement") };
        assert_eq!(one.principals, Principals::Are(vec!["*".to_owned()]));
        assert_eq!(one.resources.patterns, ["b/*"]);
        let policy = with(&format!(
            "{PLAIN},\"Condition\":{{\"StringNotLikeIfExists\":{{\"S3:Prefix\":[\"a\",\"b\"]}},
             \"Null\":{{\"s3:ExistingObjectTag/Key\":true}}}}}}"
        ));
        let policy = policy.expect("well-formed");
        let [first, second] = policy.statements[0].conditions.as_slice() else { panic!("two") };
        assert!(first.negated && first.if_exists && first.compare == Compare::Like);
        assert_eq!((first.key.as_str(), first.values.len()), ("s3:prefix", 2));
        assert_eq!(second.key, "s3:existingobjecttag/Key");
        assert_eq!(second.values, ["true"]);
    }

    #[test]
    fn principals_are_users_by_name_or_id() {
        let of = |text: &str| {
            let who = Who::Named(Named { users: Many::One(text.to_owned()) });
            names(who).ok().map(|names| names.concat())
        };
        assert_eq!(of("arn:aws:iam:::user/ann").as_deref(), Some("ann"));
        assert_eq!(of("arn:aws:iam::1:user/team/ann").as_deref(), Some("ann"));
        assert_eq!(of("arn:aws:iam::1234:root").as_deref(), Some("1234"));
        assert_eq!(of("1234").as_deref(), Some("1234"));
        assert_eq!(of("*").as_deref(), Some("*"));
        for wrong in ["", "arn:aws:iam::", "arn:aws:iam:::user/*", "arn:aws:sts::1:x/y"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_nobody_would_act_on_is_refused() {
        let refused = Err("MalformedPolicy".to_owned());
        for (from, to) in [
            ("\"Allow\"", "\"Maybe\""),
            ("Principal", "NotPrincipal"),
            ("s3:GetObject", "ec2:Run"),
            (":::b/", ":::other/"),
            ("arn:aws:s3:::b/*", "b/*"),
            ("\"Effect\"", "\"Else\":1,\"Effect\""),
            ("\"Principal\":\"*\"", "\"Principal\":{\"Service\":\"x\"}"),
            ("\"Effect\"", "\"Condition\":{\"Bool\":{\"aws:SecureTransport\":\"yes\"}},\"Effect\""),
            ("\"Effect\"", "\"Condition\":{\"StringEquals\":{\"aws:Other\":\"x\"}},\"Effect\""),
            ("\"Effect\"", "\"Condition\":{\"IpAddress\":{\"aws:SourceIp\":\"x\"}},\"Effect\""),
        ] {
            let text = format!("{PLAIN}}}").replacen(from, to, 1);
            assert_eq!(with(&text).map(|_| ()), refused, "{to}");
        }
        assert_eq!(with("[]").map(|_| ()), refused);
        assert!(parse("x", "b").is_err() && parse("{}", "b").is_err());
        for resource in ["*", "arn:aws:s3:::*", "arn:aws:s3:::*/*", "arn:aws:s3:::b"] {
            assert!(about(resource, "b").is_ok(), "{resource}");
        }
    }
}
