//! Upload sessions as the client sees them: tus 1.0.0 over the REST interface.
//!
//! Promises: an offset that a method answers is what the server has made durable, so that nothing
//! before it needs to be sent again; no call here repeats itself, except the questions.
//!
//! Not here: what is done when a connection breaks (`command::resume`).

use http::{
    HeaderMap, HeaderValue, Method,
    header::{CONTENT_TYPE, HeaderName, IF_NONE_MATCH, LOCATION},
};
use larder_base::digest::Sha256;
use serde_json::Value;

use super::{
    Call, Client, Repeat,
    api::segment,
    body::{Moved, Payload},
    error::{ClientError, Result},
};

const RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
const OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const LENGTH: HeaderName = HeaderName::from_static("upload-length");
const COMPLETE: HeaderName = HeaderName::from_static("upload-complete");

/// How far an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Bytes that the server keeps.
    pub(crate) offset: u64,
    /// Bytes there are to be; `None` if that has not been said.
    pub(crate) length: Option<u64>,
    /// Whether the file exists.
    pub(crate) complete: bool,
}

impl Progress {
    fn read(headers: &HeaderMap) -> Result<Self> {
        let number = |name: &HeaderName| headers.get(name)?.to_str().ok()?.parse().ok();
        let offset = number(&OFFSET).ok_or_else(not_said)?;
        let complete = headers.get(COMPLETE).is_some_and(|value| value == "?1");
        Ok(Self { offset, length: number(&LENGTH), complete })
    }
}

fn not_said() -> ClientError {
    ClientError::bad_answer("the server does not say how far the upload is")
}

/// The path of the upload `id`.
fn path_of(id: &str) -> String {
    format!("/v1/uploads/{}", segment(id))
}

fn call(method: Method, path: String) -> Call {
    let mut call = Call::new(method, path);
    call.headers.push((RESUMABLE, HeaderValue::from_static("1.0.0")));
    call
}

impl Client {
    /// Begins an upload of `length` bytes to a path, whose directories will be made; its id.
    pub(crate) async fn begin_upload(
        &self,
        (space, path): (&str, &str),
        length: u64,
        no_overwrite: bool,
    ) -> Result<String> {
        let (space, path) = (segment(space), segment(path));
        let url = format!("/v1/uploads?space={space}&path={path}&parents=true");
        let mut call = call(Method::POST, url);
        call.headers.push((LENGTH, HeaderValue::from(length)));
        if no_overwrite {
            call.headers.push((IF_NONE_MATCH, HeaderValue::from_static("*")));
        }
        let answer = self.call(&call).await?;
        let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        // A proxy may have put something before it.
        let id = location.and_then(|location| location.rsplit('/').next()).map(str::to_owned);
        answer.done().await?;
        id.filter(|id| !id.is_empty())
            .ok_or_else(|| ClientError::bad_answer("the server does not say where the upload is"))
    }

    /// How far the upload is.
    pub(crate) async fn upload_progress(&self, id: &str) -> Result<Progress> {
        let upload = self.get_json(path_of(id)).await?;
        let number = |name: &str| upload.get(name).and_then(Value::as_u64);
        let offset = number("offset").ok_or_else(not_said)?;
        let complete = upload.get("state").is_some_and(|state| state == "completed");
        Ok(Progress { offset, length: number("length"), complete })
    }

    /// Sends bytes from `offset` on; how far the upload is then, and their digest.
    pub(crate) async fn append(
        &self,
        id: &str,
        offset: u64,
        payload: Payload,
        moved: Moved,
    ) -> Result<(Progress, Option<Sha256>)> {
        let mut call = call(Method::PATCH, path_of(id));
        let piece = HeaderValue::from_static("application/offset+octet-stream");
        call.headers.push((CONTENT_TYPE, piece));
        call.headers.push((OFFSET, HeaderValue::from(offset)));
        // The server may have kept a part of it: whoever goes on must ask how much.
        call.repeat = Repeat::Never;
        call.payload = payload;
        call.moved = moved;
        let answer = self.call(&call).await?;
        let (progress, sent) = (Progress::read(answer.headers()), answer.sent);
        answer.done().await?;
        Ok((progress?, sent))
    }

    /// The entry that a complete upload has made.
    pub(crate) async fn upload_result(&self, id: &str) -> Result<Value> {
        let mut upload = self.get_json(path_of(id)).await?;
        match upload.get_mut("result").map(Value::take) {
            Some(entry @ Value::Object(_)) => Ok(entry),
            _ => Err(ClientError::bad_answer("the server does not say what the upload became")),
        }
    }

    /// Gives an upload up, with what has been sent of it.
    pub(crate) async fn abort_upload(&self, id: &str) -> Result<()> {
        self.done(&call(Method::DELETE, path_of(id))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::scripted::{Reply, Server, answer};

    #[tokio::test]
    async fn an_upload_is_begun_sent_and_asked_about_in_the_words_of_the_protocol() {
        let server = Server::start(|_, request| {
            Reply::Answer(match request.method.as_str() {
                "POST" => answer(201, "location: /x/v1/uploads/00ff\r\n", b""),
                "PATCH" => answer(204, "upload-offset: 3\r\nupload-complete: ?1\r\n", b""),
                "GET" => answer(
                    200,
                    "",
                    b"{\"offset\":3,\"state\":\"completed\",\"result\":{\"size\":3}}",
                ),
                _ => answer(204, "", b""),
            })
        });
        let client = server.client();
        let id = client.begin_upload(("home", "a b/c"), 3, true).await.expect("begun");
        assert_eq!(id, "00ff");
        let payload = Payload::Bytes(bytes::Bytes::from_static(b"abc"));
        let (progress, _) = client.append(&id, 0, payload, Moved::default()).await.expect("sent");
        assert_eq!(progress, Progress { offset: 3, length: None, complete: true });
        assert_eq!(client.upload_progress(&id).await.expect("told"), progress);
        assert_eq!(client.upload_result(&id).await.expect("a result")["size"], 3);
        client.abort_upload(&id).await.expect("aborted");
        let seen = server.seen();
        assert_eq!(seen[0].path, "/v1/uploads?space=home&path=a%20b%2Fc&parents=true");
        assert_eq!(seen[0].headers["upload-length"], "3");
        assert_eq!(seen[0].headers["if-none-match"], "*");
        assert_eq!(seen[1].headers["content-type"], "application/offset+octet-stream");
        assert_eq!(seen[1].headers["upload-offset"], "0");
        let tus = |number: usize| seen[number].headers.get("tus-resumable").map(String::as_str);
        assert_eq!((tus(0), tus(1), tus(4)), (Some("1.0.0"), Some("1.0.0"), Some("1.0.0")));
    }

    #[tokio::test]
    async fn a_server_that_does_not_say_how_far_it_is_is_not_believed() {
        let server = Server::start(|_, _| Reply::Answer(answer(204, "", b"")));
        let client = server.client();
        let payload = Payload::Bytes(bytes::Bytes::from_static(b"abc"));
        client.append("00ff", 0, payload, Moved::default()).await.expect_err("no offset");
        client.begin_upload(("home", "a"), 3, false).await.expect_err("no location");
    }
}
