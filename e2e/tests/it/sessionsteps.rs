//! A crash at every named step of an upload session: what was told before it is there after it,
//! and what nobody wants goes.
//!
//! Not here: the steps of all other operations (`steps`), kills at any moment (`sessions`).

use std::{collections::BTreeMap, time::Duration};

use larder_base::failpoint::STEPS;
use larder_e2e::{
    client::Client,
    oracle,
    server::{Options, Server},
    stamp::Stamp,
    tool::{self, knob, skip},
    tus::{self, Upload, offset_of},
};
use serde_json::json;

/// What is crashed into.
const SCENARIOS: [Scenario; 4] = [whole, numbered, joined, given_up];

/// One way through the life of a session. It is run until something is not answered, and again
/// after the crash to its end; what it was told before holds then.
type Scenario = fn(&Client, &Body, &mut Told) -> Result<(), Lost>;

/// No answer: the server has ended.
struct Lost;

struct Body {
    path: String,
    bytes: Vec<u8>,
}

/// What a client knows.
#[derive(Default)]
struct Told {
    urls: Vec<String>,
    offsets: BTreeMap<String, u64>,
    etag: Option<String>,
}

impl Told {
    /// Notes an offset: it never becomes less.
    #[track_caller]
    fn offset(&mut self, url: &str, offset: u64) {
        let before = self.offsets.insert(url.to_owned(), offset).unwrap_or(0);
        assert!(offset >= before, "{offset} after {before} was told");
    }

    /// Notes what the file is: it stays that.
    #[track_caller]
    fn etag(&mut self, client: &Client, path: &str) {
        let etag = client.get(path).expect(200).must_header("etag").to_owned();
        let before = self.etag.get_or_insert_with(|| etag.clone());
        assert_eq!(*before, etag, "the file is another one");
    }

    /// The session that is `index`th to be made, made now if it is not yet.
    fn begun(
        &mut self,
        client: &Client,
        index: usize,
        query: &str,
        headers: &[(&str, &str)],
    ) -> Result<Upload, Lost> {
        if let Some(url) = self.urls.get(index) {
            return Ok(Upload::at(client, url));
        }
        let answer = if query.contains("numbered") {
            client.send("POST", &format!("/v1/uploads?{query}"), headers, Some(b""))
        } else {
            tus::begin(client, query, headers)
        };
        if answer.status != 201 {
            assert_eq!(answer.status, 0, "{answer}");
            return Err(Lost);
        }
        let upload = Upload::of(client, &answer);
        self.urls.push(upload.url.clone());
        Ok(upload)
    }
}

/// Sends `bytes` in pieces of these sizes, from where the server says it is.
fn fill(told: &mut Told, upload: &Upload, bytes: &[u8], pieces: &[usize]) -> Result<(), Lost> {
    for turn in 0.. {
        let head = upload.head();
        if head.status != 200 {
            assert_eq!(head.status, 0, "{head}");
            return Err(Lost);
        }
        let at = offset_of(&head) as usize;
        told.offset(&upload.url, at as u64);
        if at == bytes.len() {
            break;
        }
        let end = (at + pieces[turn % pieces.len()]).min(bytes.len());
        let answer = upload.patch(at as u64, &bytes[at..end]);
        if answer.status != 204 {
            assert_eq!(answer.status, 0, "{answer}");
            return Err(Lost);
        }
        assert_eq!(offset_of(&answer), end as u64);
        told.offset(&upload.url, end as u64);
    }
    Ok(())
}

/// Small pieces, so that they are merged, and a large one.
fn whole(client: &Client, body: &Body, told: &mut Told) -> Result<(), Lost> {
    let length = body.bytes.len().to_string();
    let query = format!("path={}", body.path);
    let upload = told.begun(client, 0, &query, &[("Upload-Length", &length)])?;
    let mut pieces = [900; 40];
    pieces[38] = 200_000;
    fill(told, &upload, &body.bytes, &pieces)?;
    told.etag(client, &body.path);
    Ok(())
}

fn numbered(client: &Client, body: &Body, told: &mut Told) -> Result<(), Lost> {
    let query = format!("path={}&numbered=true", body.path);
    let upload = told.begun(client, 0, &query, &[])?;
    if told.etag.is_none() {
        for (number, part) in body.bytes.chunks(150_000).enumerate() {
            // One is sent twice, with something else first.
            let other = vec![7; 160_000];
            let sent = if number == 1 { vec![&other[..], part] } else { vec![part] };
            for bytes in sent {
                let target = format!("{}/parts/{}", upload.url, number + 1);
                let answer = client.send("PUT", &target, &[], Some(bytes));
                match answer.status {
                    200 => {}
                    0 => return Err(Lost),
                    // It was completed, and nobody was told.
                    status => assert_eq!(status, 409, "{answer}"),
                }
            }
        }
    }
    let parts: Vec<usize> = (1..=body.bytes.chunks(150_000).count()).collect();
    let answer = upload.complete(&json!({ "parts": parts }));
    if answer.status == 0 {
        return Err(Lost);
    }
    answer.expect_any(&[200, 201]);
    told.etag(client, &body.path);
    Ok(())
}

fn joined(client: &Client, body: &Body, told: &mut Told) -> Result<(), Lost> {
    let parts: Vec<&[u8]> = body.bytes.chunks(120_000).collect();
    let mut urls = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let length = part.len().to_string();
        let headers = [("Upload-Concat", "partial"), ("Upload-Length", &*length)];
        let upload = told.begun(client, index, "", &headers)?;
        fill(told, &upload, part, &[1000, 110_000, 100])?;
        urls.push(upload.url);
    }
    let said = format!("final;{}", urls.join(" "));
    let mut last = None;
    let made = tool::wait_until(Duration::from_secs(10), || {
        // A whole that is ready and not complete is completed by whoever looks at it.
        for upload in client.pages("/v1/uploads") {
            let url = format!("/v1/uploads/{}", upload["id"].as_str().unwrap());
            Upload::at(client, &url).head();
        }
        if client.get(&body.path).status == 200 {
            return true;
        }
        let query = format!("path={}", body.path);
        let answer = tus::begin(client, &query, &[("Upload-Concat", &*said)]);
        let status = answer.status;
        last = Some(answer);
        // Until the sweep has undone what was not ready its parts are taken.
        status == 0 || status == 201
    });
    if last.as_ref().is_some_and(|answer| answer.status == 0) {
        return Err(Lost);
    }
    assert!(made, "{last:?}");
    told.etag(client, &body.path);
    Ok(())
}

fn given_up(client: &Client, body: &Body, told: &mut Told) -> Result<(), Lost> {
    let length = (body.bytes.len() + 1).to_string();
    let query = format!("path={}", body.path);
    let upload = told.begun(client, 0, &query, &[("Upload-Length", &length)])?;
    let head = upload.head();
    if head.status == 200 {
        fill(told, &upload, &body.bytes, &[1000, 200_000])?;
    }
    let answer = upload.delete();
    match answer.status {
        0 => return Err(Lost),
        204 | 410 => {}
        _ => panic!("{answer}"),
    }
    let head = upload.head();
    if head.status == 0 {
        return Err(Lost);
    }
    head.expect(410);
    Ok(())
}

/// Runs a scenario on a server with `step` armed for its `count`-th time, and again on the next;
/// whether the first one died of it.
fn strike(server: &mut Server, scenario: Scenario, step: &str, count: u64, seq: u32) -> bool {
    server.stop();
    server.options().env.push(("LARDER_FAIL".to_owned(), format!("{step}:{count}")));
    let started = server.try_start();
    server.options().env.pop();
    let bytes = Stamp::new(77, seq).body(300_000);
    let body = Body { path: format!("s{seq}"), bytes };
    let mut told = Told::default();
    let died = match started {
        Err(_) => true,
        Ok(()) => {
            let client = server.client();
            let lost = scenario(&client, &body, &mut told).is_err();
            if !lost {
                client.send("POST", "/v1/admin/gc?wait=1", &[], Some(b""));
            }
            let patience = Duration::from_secs(if lost { 10 } else { 0 });
            let died = tool::wait_until(patience, || !server.is_alive());
            assert!(died || !lost, "{step}: no answer from a living server");
            if !died {
                server.sigterm();
            }
            !server.wait_exit().success()
        }
    };
    server.restart();
    let client = server.client();
    let again = scenario(&client, &body, &mut told);
    assert!(again.is_ok(), "{step}: the next server ended too");
    if told.etag.is_some() {
        assert!(client.get(&body.path).expect(200).body == body.bytes, "{step}");
        assert_eq!(client.revisions(&body.path).len(), 1, "{step}");
    }
    // A session that was made and never told about stays until its time is over.
    for upload in client.pages("/v1/uploads") {
        let url = format!("/v1/uploads/{}", upload["id"].as_str().unwrap());
        // The sweep may undo it first: a whole that was not ready is nobody's.
        Upload::at(&client, &url).delete().expect_any(&[204, 404, 410]);
    }
    client.gc();
    oracle::all_is_well(server, &client);
    died
}

#[test]
fn a_crash_at_any_step_of_an_upload_takes_back_nothing_that_was_told() {
    if !cfg!(debug_assertions) {
        return skip("sessionsteps", "named steps are in debug builds only");
    }
    let _alone = tool::heavy();
    let counts = knob("LARDER_E2E_STEPS", 1);
    let mut server = Options::default().env("LARDER_UPLOAD__SWEEP_INTERVAL", "100ms").start();
    let mut seq = 0;
    let steps = STEPS.iter().filter(|step| step.starts_with("session."));
    let mut died: BTreeMap<&str, u64> = steps.map(|step| (*step, 0)).collect();
    for (step, deaths) in &mut died {
        for scenario in SCENARIOS {
            for count in 1..=counts {
                seq += 1;
                if !strike(&mut server, scenario, step, count, seq) {
                    break;
                }
                *deaths += 1;
            }
        }
    }
    tool::say(format_args!("crashes at each step: {died:?}"));
    // Expiry has a test of its own.
    let never: Vec<_> = died.iter().filter(|(_, n)| **n == 0).map(|(step, _)| *step).collect();
    assert_eq!(never, ["session.expired"], "these were never reached");
}

#[test]
fn a_crash_while_an_upload_expires_leaves_nothing_of_it() {
    if !cfg!(debug_assertions) {
        return skip("sessionsteps", "named steps are in debug builds only");
    }
    let _alone = tool::heavy();
    let mut server = Options::default()
        .env("LARDER_UPLOAD__SESSION_TTL", "500ms")
        .env("LARDER_UPLOAD__SWEEP_INTERVAL", "100ms")
        .start();
    for (seq, step) in
        ["session.expired", "session.chunks-deleted", "commit.after"].iter().enumerate()
    {
        server.stop();
        server.options().env.push(("LARDER_FAIL".to_owned(), format!("{step}:1")));
        let started = server.try_start();
        server.options().env.pop();
        let mut url = None;
        if started.is_ok() {
            let client = server.client();
            let query = format!("path=e{seq}");
            let begun = tus::begin(&client, &query, &[("Upload-Length", "400000")]);
            if begun.status == 201 {
                let upload = Upload::of(&client, &begun);
                upload.patch(0, &Stamp::new(78, seq as u32).body(200_000));
                url = Some(upload.url);
            }
            let died = tool::wait_until(Duration::from_secs(20), || !server.is_alive());
            assert!(died, "{step} was not reached");
            server.wait_exit();
        }
        server.restart();
        let client = server.client();
        if let Some(url) = url {
            let upload = Upload::at(&client, &url);
            let gone = || upload.head().status == 410;
            assert!(tool::wait_until(Duration::from_secs(20), gone), "{}", upload.head());
        }
        client.gc();
        oracle::all_is_well(&server, &client);
        assert!(oracle::chunk_files(&server).is_empty());
    }
}
