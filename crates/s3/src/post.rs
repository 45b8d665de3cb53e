//! Uploads by forms of browsers: `POST` to a bucket with `multipart/form-data`.
//!
//! A form names the key, says what is stored with the object, and has a policy which whoever
//! gave the form out has signed: with signature version 4, or with version 2, which is offered
//! here alone.
//!
//! A form without a policy is from nobody, and stores only where everybody may.
//!
//! Promises: no byte of the file is asked for before the policy is known to be signed and to
//! allow the form; the fields are bounded; the object is committed only when the end of the form
//! has come; a field that asks for what is not offered is refused, never ignored.
//!
//! Not here: what a policy says (`policy_form`).

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::{
    Stream,
    future::{Either, select},
    stream,
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header, request::Parts};
use larder_base::{ErrorKind, id::RequestId};
use larder_core::{Bucket, Caller, Error, ObjectDigest, ObjectInfo, UploadOptions, Written};
use larder_http::{HeadGate, RequestBody, ResponseBody, body::PAUSE, priority};
use multer::{Field, Multipart};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::{S3Error, S3Result, dto::Metadata, s3_error};
use sha1::Sha1;
use sha2::Sha256;

use crate::{
    Inner, acl,
    action::{Origin, Scene},
    auth,
    body::Trail,
    call::{Call, coded},
    checksum::Digests,
    error::{About, Refusal, escaped, from_core},
    guard, lifecycle, operations,
    policy_form::Policy,
    tagging, wire,
};

/// Most bytes of all fields before the file.
const FIELDS_BYTES_MAX: usize = 64 << 10;

/// Most bytes of a policy.
const POLICY_BYTES_MAX: usize = 20 << 10;

/// Most fields.
const FIELDS_MAX: usize = 100;

/// Fields that say something of the object, as the header of this name does.
const AS_HEADERS: &[&str] = &[
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-md5",
    "content-type",
    "expires",
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc32c",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-sha1",
    "x-amz-checksum-sha256",
    "x-amz-storage-class",
    "x-amz-website-redirect-location",
];

/// Other fields of S3 that are understood, or that mean nothing here.
const UNDERSTOOD: &[&str] = &[
    "x-amz-algorithm",
    "x-amz-checksum-algorithm",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-signature",
];

/// Fields that only a form with a policy has.
const SIGNED: &[&str] = &["awsaccesskeyid", "signature", "x-amz-credential", "x-amz-signature"];

/// Where a form comes from and goes to.
pub(crate) struct From {
    pub(crate) origin: Origin,
    /// The bucket that the host names.
    pub(crate) in_host: Option<String>,
    pub(crate) request_id: RequestId,
}

/// Answers a form.
pub(crate) async fn answer(
    inner: &Arc<Inner>,
    head: &Parts,
    body: RequestBody,
    from: From,
    trail: &Arc<Trail>,
) -> Result<Response<ResponseBody>, Refusal> {
    // One request is one operation.
    trail.operation.set(operations::POST).ok();
    let in_path = guard::check_form(head, from.in_host.is_some())?;
    let bucket = in_path.or(from.in_host.clone()).unwrap_or_default();
    let post = Post { inner, head, bucket, from, trail };
    match post.run(body).await {
        Ok(response) => Ok(response),
        Err(error) => {
            let request_id = post.from.request_id;
            let answer = error.to_http_response().map_err(|error| {
                let detail = format!("write an error: {error}");
                Refusal::from_core(&Error::internal(detail), &request_id)
            })?;
            inner.convert(answer, request_id, trail).await
        }
    }
}

/// A refusal on the way of errors.
fn refuse(refusal: Refusal) -> S3Error {
    let mut error = coded(refusal.code, refusal.message);
    error.set_status_code(refusal.status);
    error
}

struct Post<'a> {
    inner: &'a Arc<Inner>,
    head: &'a Parts,
    bucket: String,
    from: From,
    trail: &'a Arc<Trail>,
}

/// What a form says, by names in lower case.
struct Fields(Vec<(String, String)>);

impl Fields {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn need(&self, name: &'static str) -> S3Result<&str> {
        self.get(name).ok_or_else(|| s3_error!(InvalidArgument, "the form has no field {name}"))
    }
}

impl Post<'_> {
    async fn run(&self, body: RequestBody) -> S3Result<Response<ResponseBody>> {
        let text = self.head.headers.get(header::CONTENT_TYPE);
        let boundary = text.and_then(|value| multer::parse_boundary(value.to_str().ok()?).ok());
        // RFC 2046 section 5.1.1.
        let boundary = boundary.filter(|boundary| (1..=70).contains(&boundary.len()));
        let boundary = boundary.ok_or_else(|| malformed("the form has no proper boundary"))?;
        let gate = HeadGate::default();
        let stream = pieces(body, gate.clone(), self.trail);
        let mut form = Multipart::new(stream, boundary);
        let (fields, file) = self.fields(&mut form, &gate).await?;
        let (caller, policy) = self.admit(&fields).await?;
        let key = fields.need("key")?;
        Call::check_key(key)?;
        let mut kept = Kept::read(&fields)?;
        let asked = (&*kept.info.tags, fields.get("acl"));
        let place = (self.bucket.as_str(), key);
        let scene = Scene::of_form(self.head, place, asked, caller.as_ref(), self.from.origin);
        if let Some(scene) = scene {
            // It is set once, because this is called once.
            self.trail.scene.set(scene).ok();
        }
        let call = Call::new(self.inner, caller, self.from.request_id, self.trail);
        let done = Done::read(&fields);
        let bucket = call.bucket(&self.bucket, None).await?;
        kept.info.acl = acl::of_object(&call, &bucket, &kept.headers).await?;
        let options = UploadOptions {
            content_type: kept.content_type.clone(),
            parents: true,
            ..UploadOptions::default()
        };
        let upload = call.larder().object_upload(&call.caller, &bucket, key, options).await;
        let mut upload = upload.map_err(call.fails(About::Write))?;
        let (md5, size, info) = self.store(&call, file, policy.as_ref(), kept, &mut upload).await?;
        // Nothing behind the file counts, but its end must be there.
        while let Some(mut rest) = self.next_field(&mut form, &gate).await? {
            while self.next_bytes(&mut rest).await?.is_some() {}
        }
        upload.describe(info.clone());
        let written = upload.commit().await.map_err(call.fails(About::Write))?;
        let times = (size, written.entry.modified);
        let end = lifecycle::expiration(&call, &bucket, key, times, Some(&info)).await;
        let etag = format!("\"{}\"", ObjectDigest::Md5(md5));
        let mut response = done.response(self.head, &bucket, key, &etag);
        describe(response.headers_mut(), &etag, &written, end);
        Ok(response)
    }

    /// Reads the fields up to the file.
    async fn fields(
        &self,
        form: &mut Multipart<'static>,
        gate: &HeadGate,
    ) -> S3Result<(Fields, Field<'static>)> {
        let mut fields: Vec<(String, String)> = Vec::new();
        let mut length = 0;
        loop {
            let Some(mut field) = self.next_field(form, gate).await? else {
                return Err(s3_error!(InvalidArgument, "the form has no file"));
            };
            let name = field.name().unwrap_or_default().to_ascii_lowercase();
            if name == "file" {
                let file_name = field.file_name().unwrap_or_default();
                // Some browsers send the whole path.
                let file_name = file_name.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
                for (_, key) in fields.iter_mut().filter(|(name, _)| name == "key") {
                    *key = key.replace("${filename}", &file_name);
                }
                return Ok((Fields(fields), field));
            }
            if name.is_empty() || fields.len() >= FIELDS_MAX {
                return Err(malformed("the form has too many fields, or one without a name"));
            }
            let mut value = Vec::new();
            while let Some(bytes) = self.next_bytes(&mut field).await? {
                length += bytes.len();
                if length > FIELDS_BYTES_MAX {
                    let message = "the fields before the file are too long";
                    return Err(s3_error!(MaxPostPreDataLengthExceededError, "{message}"));
                }
                value.extend_from_slice(&bytes);
            }
            let value = String::from_utf8(value);
            let value = value.map_err(|_| malformed("a field of the form is no UTF-8"))?;
            if fields.iter().any(|(known, _)| *known == name) {
                return Err(malformed("a field is there more than once"));
            }
            fields.push((name, value));
        }
    }

    /// Finds out who has signed the form, and whether it may say what it says. Without a policy
    /// it is from nobody.
    async fn admit(&self, fields: &Fields) -> S3Result<(Option<Caller>, Option<Policy>)> {
        let Some(encoded) = fields.get("policy") else {
            if SIGNED.iter().any(|name| fields.get(name).is_some()) {
                let message = "a form is signed by its policy, and this one has none";
                return Err(s3_error!(AccessDenied, "{message}"));
            }
            fields.need("key")?;
            self.pace(None)?;
            return Ok((None, None));
        };
        if encoded.len() > POLICY_BYTES_MAX {
            let message = "a policy has at most 20 KiB";
            return Err(refuse(Refusal::bad("InvalidPolicyDocument", message)));
        }
        let seal = Seal::read(fields, &self.inner.options.region)?;
        let signer = auth::find(self.inner, &seal.access_key).await.map_err(|error| {
            if error.kind() == ErrorKind::Unauthenticated {
                return s3_error!(InvalidAccessKeyId, "there is no such access key");
            }
            from_core(&error, About::Write, &self.from.request_id)
        })?;
        if !signer.secrets.iter().any(|secret| seal.is_by(secret.as_bytes(), encoded)) {
            let message = "the signature is not the one that this key makes of the policy";
            return Err(s3_error!(SignatureDoesNotMatch, "{message}"));
        }
        let mut caller = signer.caller;
        if let Some(priority) = priority::wished(&self.head.headers) {
            caller.wish(priority);
        }
        // It is set once, because this is called once.
        self.trail.user.set(Arc::clone(&caller.name)).ok();
        self.pace(Some(&caller))?;
        let policy = Policy::parse(encoded).map_err(refuse)?;
        fields.need("key")?;
        policy.judge(&self.bucket, &fields.0, self.inner.env.now()).map_err(refuse)?;
        Ok((Some(caller), Some(policy)))
    }

    /// Holds whoever sends the form to the rates of the caller.
    fn pace(&self, caller: Option<&Caller>) -> S3Result<()> {
        let meters = caller.map_or((None, None), Caller::meters);
        let pace = self.inner.limits.admit_user(self.from.origin.address, meters);
        self.trail.pace.set(pace.map_err(|error| self.fault(&error))?).ok();
        Ok(())
    }

    /// Moves the file to where it goes, and verifies it.
    async fn store(
        &self,
        call: &Call,
        mut file: Field<'static>,
        policy: Option<&Policy>,
        kept: Kept,
        upload: &mut larder_core::Upload,
    ) -> S3Result<([u8; 16], u64, ObjectInfo)> {
        let Kept { mut info, mut digests, .. } = kept;
        let allowed = policy.and_then(|policy| policy.length.as_ref());
        let most = allowed.map(|range| *range.end());
        let most = most.into_iter().chain(self.inner.options.file_bytes_max).min();
        let (mut size, mut still) = (0u64, std::time::Duration::ZERO);
        loop {
            let pause = self.inner.env.sleep(PAUSE);
            let arrival = {
                let bytes = std::pin::pin!(self.next_bytes(&mut file));
                match select(bytes, std::pin::pin!(pause)).await {
                    Either::Left((bytes, _)) => Some(bytes?),
                    Either::Right(_) => None,
                }
            };
            let Some(bytes) = arrival else {
                still += PAUSE;
                upload.pause(still).await.map_err(call.fails(About::Write))?;
                continue;
            };
            still = std::time::Duration::ZERO;
            let Some(bytes) = bytes else { break };
            size = size.saturating_add(bytes.len() as u64);
            if most.is_some_and(|most| size > most) {
                return Err(s3_error!(EntityTooLarge, "the file is larger than may be"));
            }
            digests.update(&bytes);
            upload.write(bytes).await.map_err(call.fails(About::Write))?;
        }
        if allowed.is_some_and(|range| size < *range.start()) {
            return Err(s3_error!(EntityTooSmall, "the file is smaller than may be"));
        }
        let verified = digests.finish(None)?;
        info.digest = Some(ObjectDigest::Md5(verified.md5));
        info.checksum = verified.checksum;
        Ok((verified.md5, size, info))
    }

    fn fault(&self, error: &Error) -> S3Error {
        from_core(error, About::Write, &self.from.request_id)
    }

    async fn next_field(
        &self,
        form: &mut Multipart<'static>,
        gate: &HeadGate,
    ) -> S3Result<Option<Field<'static>>> {
        gate.close();
        let field = form.next_field().await.map_err(|error| self.translate(error));
        gate.open();
        field
    }

    async fn next_bytes(&self, field: &mut Field<'static>) -> S3Result<Option<Bytes>> {
        field.chunk().await.map_err(|error| self.translate(error))
    }

    /// Gives back the error that the body itself had.
    fn translate(&self, error: multer::Error) -> S3Error {
        match error {
            multer::Error::StreamReadFailed(error) => match error.downcast::<Error>() {
                Ok(error) => from_core(&error, About::Body, &self.from.request_id),
                Err(_) => malformed("the body cannot be read"),
            },
            error => malformed(&format!("the form is malformed: {error}")),
        }
    }
}

fn malformed(message: &str) -> S3Error {
    s3_error!(MalformedPOSTRequest, "{message}")
}

/// How a policy is signed.
struct Seal {
    access_key: String,
    way: Way,
}

enum Way {
    /// Version 4: the date and the region of its key, and the signature.
    Four { date: String, region: String, signature: Vec<u8> },
    /// Version 2: the signature.
    Two(Vec<u8>),
}

impl Seal {
    fn read(fields: &Fields, region: &str) -> S3Result<Self> {
        if fields.get("x-amz-security-token").is_some_and(|token| !token.is_empty()) {
            return Err(s3_error!(InvalidToken, "session tokens are not offered"));
        }
        let four = ["x-amz-algorithm", "x-amz-credential", "x-amz-signature"]
            .iter()
            .any(|name| fields.get(name).is_some());
        if !four {
            let access_key = fields.need("awsaccesskeyid")?.to_owned();
            let signature = STANDARD.decode(fields.need("signature")?.trim());
            let wrong = || s3_error!(SignatureDoesNotMatch, "the signature is no base64");
            let way = Way::Two(signature.map_err(|_| wrong())?);
            return Ok(Self { access_key, way });
        }
        if fields.get("awsaccesskeyid").or(fields.get("signature")).is_some() {
            return Err(s3_error!(InvalidArgument, "a form is signed in one way"));
        }
        if fields.need("x-amz-algorithm")? != "AWS4-HMAC-SHA256" {
            let message = "x-amz-algorithm must be AWS4-HMAC-SHA256";
            return Err(s3_error!(InvalidArgument, "{message}"));
        }
        let credential = fields.need("x-amz-credential")?;
        let (access_key, date) = guard::check_credential(credential, region).map_err(refuse)?;
        if !fields.need("x-amz-date")?.starts_with(&date) {
            let message = "x-amz-date is not on the day of the credential";
            return Err(s3_error!(InvalidArgument, "{message}"));
        }
        let signature = unhex(fields.need("x-amz-signature")?);
        let wrong = || s3_error!(SignatureDoesNotMatch, "the signature is not hexadecimal");
        let signature = signature.ok_or_else(wrong)?;
        Ok(Self { access_key, way: Way::Four { date, region: region.to_owned(), signature } })
    }

    /// Whether `secret` makes this signature of the policy.
    fn is_by(&self, secret: &[u8], policy: &str) -> bool {
        match &self.way {
            Way::Two(signature) => {
                let mac = Hmac::<Sha1>::new_from_slice(secret);
                mac.is_ok_and(|mac| mac.chain_update(policy).verify_slice(signature).is_ok())
            }
            Way::Four { date, region, signature } => {
                let first = zeroize::Zeroizing::new([b"AWS4", secret].concat());
                let mut key = hmac_of(&first, date.as_bytes());
                for step in [region.as_str(), "s3", "aws4_request"] {
                    key = key.and_then(|key| hmac_of(&key, step.as_bytes()));
                }
                let mac = key.and_then(|key| Hmac::<Sha256>::new_from_slice(&key).ok());
                mac.is_some_and(|mac| mac.chain_update(policy).verify_slice(signature).is_ok())
            }
        }
    }
}

/// A key made from a key; keys may have any length, so it always is.
fn hmac_of(key: &[u8], text: &[u8]) -> Option<Vec<u8>> {
    let mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    Some(mac.chain_update(text).finalize().into_bytes().to_vec())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    let bytes = digits.chunks_exact(2).map(|pair| match pair {
        [high, low] => u8::try_from(high * 16 + low).ok(),
        _ => None,
    });
    bytes.collect()
}

/// What is kept with the object, and how its content is verified.
struct Kept {
    content_type: Option<String>,
    info: ObjectInfo,
    digests: Digests,
    /// The headers that say the same.
    headers: HeaderMap,
}

impl Kept {
    fn read(fields: &Fields) -> S3Result<Self> {
        let mut headers = HeaderMap::new();
        let mut metadata = Metadata::new();
        for (name, value) in &fields.0 {
            if let Some(name) = name.strip_prefix("x-amz-meta-") {
                metadata.insert(name.to_owned(), value.clone());
            } else if AS_HEADERS.contains(&name.as_str()) {
                let wrong = || s3_error!(InvalidArgument, "the field {name} has no proper value");
                let name = HeaderName::try_from(name).map_err(|_| wrong())?;
                headers.insert(name, HeaderValue::from_str(value).map_err(|_| wrong())?);
            } else if name.starts_with("x-amz-") && !UNDERSTOOD.contains(&name.as_str()) {
                let message = format!("the field {name} asks for what is not offered");
                return Err(s3_error!(NotImplemented, "{message}"));
            }
        }
        if let Some(acl) = fields.get("acl").filter(|acl| !acl.is_empty()) {
            let wrong = |_| s3_error!(InvalidArgument, "there is no such canned list");
            headers.insert(acl::CANNED, HeaderValue::from_str(acl).map_err(wrong)?);
        }
        let mut info = wire::info(&headers, Some(&metadata))?;
        if let Some(text) = fields.get("tagging") {
            info.tags = tagging::of_field(text)?;
        }
        let (content_type, digests) = (wire::content_type(&headers)?, Digests::new(&headers)?);
        Ok(Self { content_type, info, digests, headers })
    }
}

/// What is answered to a form that is stored.
enum Done {
    Status(StatusCode),
    Redirect(http::Uri),
}

impl Done {
    fn read(fields: &Fields) -> Self {
        let target = fields.get("success_action_redirect").or(fields.get("redirect"));
        // One that is no address is as good as none.
        let target = target.and_then(|target| target.parse::<http::Uri>().ok());
        if let Some(target) = target.filter(|target| {
            matches!(target.scheme_str(), Some("http" | "https")) && target.host().is_some()
        }) {
            return Self::Redirect(target);
        }
        Self::Status(match fields.get("success_action_status") {
            Some("200") => StatusCode::OK,
            Some("201") => StatusCode::CREATED,
            _ => StatusCode::NO_CONTENT,
        })
    }

    fn response(
        &self,
        head: &Parts,
        bucket: &Bucket,
        key: &str,
        etag: &str,
    ) -> Response<ResponseBody> {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let mut response = Response::new(ResponseBody::Empty);
        let location = match self {
            Self::Redirect(target) => {
                *response.status_mut() = StatusCode::SEE_OTHER;
                let mark = if target.query().is_some() { '&' } else { '?' };
                let (bucket, key, etag) = (encode(&bucket.name), encode(key), encode(etag));
                format!("{target}{mark}bucket={bucket}&key={key}&etag={etag}")
            }
            Self::Status(status) => {
                *response.status_mut() = *status;
                let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
                let path = head.uri.path().trim_end_matches('/');
                let location = format!(
                    "http://{}{path}/{}",
                    host.unwrap_or_default(),
                    wire::encoded(key, true)
                );
                if *status == StatusCode::CREATED {
                    let [place, name, key, etag] =
                        [location.as_str(), &bucket.name, key, etag].map(escaped);
                    let xml = format!(
                        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><PostResponse><Location>{place}\
                         </Location><Bucket>{name}</Bucket><Key>{key}</Key><ETag>{etag}</ETag>\
                         </PostResponse>"
                    );
                    *response.body_mut() = ResponseBody::from(Bytes::from(xml));
                    let xml = HeaderValue::from_static("application/xml");
                    response.headers_mut().insert(header::CONTENT_TYPE, xml);
                }
                location
            }
        };
        if let Ok(location) = HeaderValue::try_from(location) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response
    }
}

/// Says what was stored.
fn describe(headers: &mut HeaderMap, etag: &str, written: &Written, end: Option<String>) {
    let version = written.version.and_then(wire::new_version);
    for (name, value) in [
        (header::ETAG, Some(etag.to_owned())),
        (HeaderName::from_static("x-amz-version-id"), version),
        (HeaderName::from_static("x-amz-expiration"), end),
    ] {
        headers
            .extend(value.and_then(|value| HeaderValue::try_from(value).ok()).map(|it| (name, it)));
    }
}

/// The bytes of a form, as the gate lets them pass, and at the pace of its signer once that is
/// known.
fn pieces(
    mut body: RequestBody,
    gate: HeadGate,
    trail: &Arc<Trail>,
) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
    let trail = Arc::clone(trail);
    let mut paced = false;
    let next = async move |ended: bool| -> Result<Option<Bytes>, Error> {
        if ended {
            return Ok(None);
        }
        if !paced && let Some(pace) = trail.pace.get() {
            paced = true;
            body.set_pace(pace.clone());
        }
        let Some(bytes) = body.next().await? else { return Ok(None) };
        gate.pass(bytes.len())?;
        Ok(Some(bytes))
    };
    stream::unfold((next, false), |(mut next, ended)| async move {
        match next(ended).await {
            Ok(None) => None,
            Ok(Some(bytes)) => Some((Ok(bytes), (next, false))),
            Err(error) => Some((Err(error), (next, true))),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Fields(pairs.iter().map(pair).collect())
    }

    fn code<T>(result: S3Result<T>) -> Option<String> {
        result.err().map(|error| error.code().as_str().to_owned())
    }

    #[test]
    fn a_policy_is_signed_in_one_way() {
        // RFC 2202, test case 2.
        let two = fields(&[("awsaccesskeyid", "a"), ("signature", "7/zfauXrL6LSdBbV8YTfnCWafHk=")]);
        let seal = Seal::read(&two, "us-east-1").unwrap_or_else(|error| panic!("{error:?}"));
        assert!(seal.is_by(b"Jefe", "what do ya want for nothing?"));
        assert!(!seal.is_by(b"Jefe", "what do ya want for something?"));
        // The example in Amazon's documentation of signatures of forms.
        let policy = "eyAiZXhwaXJhdGlvbiI6ICIyMDE1LTEyLTMwVDEyOjAwOjAwLjAwMFoiLA0KICAiY29uZG\
                      l0aW9ucyI6IFsNCiAgICB7ImJ1Y2tldCI6ICJzaWd2NGV4YW1wbGVidWNrZXQifSwNCiAg\
                      ICBbInN0YXJ0cy13aXRoIiwgIiRrZXkiLCAidXNlci91c2VyMS8iXSwNCiAgICB7ImFjbC\
                      I6ICJwdWJsaWMtcmVhZCJ9LA0KICAgIHsic3VjY2Vzc19hY3Rpb25fcmVkaXJlY3QiOiAi\
                      aHR0cDovL3NpZ3Y0ZXhhbXBsZWJ1Y2tldC5zMy5hbWF6b25hd3MuY29tL3N1Y2Nlc3NmdW\
                      xfdXBsb2FkLmh0bWwifSwNCiAgICBbInN0YXJ0cy13aXRoIiwgIiRDb250ZW50LVR5cGUi\
                      LCAiaW1hZ2UvIl0sDQogICAgeyJ4LWFtei1tZXRhLXV1aWQiOiAiMTQzNjUxMjM2NTEyNz\
                      QifSwNCiAgICB7IngtYW16LXNlcnZlci1zaWRlLWVuY3J5cHRpb24iOiAiQUVTMjU2In0s\
                      DQogICAgWyJzdGFydHMtd2l0aCIsICIkeC1hbXotbWV0YS10YWciLCAiIl0sDQoNCiAgIC\
                      B7IngtYW16LWNyZWRlbnRpYWwiOiAiQUtJQUlPU0ZPRE5ON0VYQU1QTEUvMjAxNTEyMjkv\
                      dXMtZWFzdC0xL3MzL2F3czRfcmVxdWVzdCJ9LA0KICAgIHsieC1hbXotYWxnb3JpdGhtIj\
                      ogIkFXUzQtSE1BQy1TSEEyNTYifSwNCiAgICB7IngtYW16LWRhdGUiOiAiMjAxNTEyMjlU\
                      MDAwMDAwWiIgfQ0KICBdDQp9";
        let pairs = [
            ("x-amz-algorithm", "AWS4-HMAC-SHA256"),
            ("x-amz-credential", "AKIAIOSFODNN7EXAMPLE/20151229/us-east-1/s3/aws4_request"),
            ("x-amz-date", "20151229T000000Z"),
            ("x-amz-signature", "8afdbf4008c03f22c2cd3cdb72e4afbb1f6a588f3255ac628749a66d7f09699e"),
        ];
        let seal = Seal::read(&fields(&pairs), "us-east-1");
        let seal = seal.unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(seal.access_key, "AKIAIOSFODNN7EXAMPLE");
        assert!(seal.is_by(b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", policy));
        assert!(!seal.is_by(b"another", policy));
        let both = [&pairs[..], &[("signature", "a")]].concat();
        let invalid = Some("InvalidArgument".to_owned());
        assert_eq!(code(Seal::read(&fields(&both), "us-east-1")), invalid);
        assert_eq!(code(Seal::read(&fields(&pairs[..3]), "us-east-1")), invalid);
        assert_eq!(code(Seal::read(&fields(&[("signature", "a")]), "us-east-1")), invalid);
        assert!(Seal::read(&fields(&pairs), "eu").is_err());
    }

    #[test]
    fn fields_are_kept_or_refused() {
        let tagging = "<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>";
        let given = fields(&[
            ("x-amz-meta-a", "1"),
            ("content-type", "text/plain"),
            ("cache-control", "no-cache"),
            ("tagging", tagging),
            ("acl", "private"),
        ]);
        let kept = Kept::read(&given).unwrap_or_else(|error| panic!("{error:?}"));
        let pair = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        assert_eq!(kept.content_type.as_deref(), Some("text/plain"));
        assert_eq!(kept.info.metadata, pair("a", "1"));
        assert_eq!(kept.info.headers, pair("cache-control", "no-cache"));
        assert_eq!(kept.info.tags, pair("a", "1"));
        for (name, value, expected) in [
            ("x-amz-server-side-encryption", "AES256", "NotImplemented"),
            ("x-amz-object-lock-mode", "COMPLIANCE", "NotImplemented"),
            ("acl", "a\nb", "InvalidArgument"),
            ("tagging", "<a", "MalformedXML"),
            ("cache-control", "a\nb", "InvalidArgument"),
        ] {
            let refused = code(Kept::read(&fields(&[(name, value)])));
            assert_eq!(refused.as_deref(), Some(expected), "{name}");
        }
    }

    #[test]
    fn digits_are_bytes() {
        assert_eq!(unhex("00fF"), Some(vec![0, 255]));
        assert_eq!(unhex("0"), None);
        assert_eq!(unhex("0g"), None);
    }
}
