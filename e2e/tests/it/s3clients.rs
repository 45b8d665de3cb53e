//! S3 by the clients that people use, as they are: boto3, awscli, s3cmd, rclone, restic, minio-py;
//! and what they were told is theirs although the server dies.
//!
//! Not here: every behaviour of the protocol (the ceph suite is run by hand, docs/s3.md).

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use larder_e2e::{
    client::Client,
    oracle,
    race::race,
    server::{PASSWORD, Server, USER},
    tool::{self, Dice, knob},
};
use serde_json::{Value, json};

/// The packages of the clients, or why they are not here.
pub(crate) fn packages() -> Result<PathBuf, String> {
    tool::which("python3").ok_or("python3 is not installed")?;
    tool::installed("s3")
}

pub(crate) fn boto(server: &Server, packages: &Path, mode: &str) -> Command {
    let mut command = Command::new("python3");
    command
        .arg(tool::script("s3/boto.py"))
        .args([&format!("http://{}", server.s3()), USER, PASSWORD, mode])
        .env("PYTHONPATH", packages)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null());
    command
}

#[track_caller]
pub(crate) fn parsed(mut command: Command) -> Value {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn boto3_finds_what_programs_rely_on() {
    let packages = match packages() {
        Ok(packages) => packages,
        Err(why) => return tool::skip("boto3_finds_what_programs_rely_on", why),
    };
    let server = Server::start();
    let results = parsed(boto(&server, &packages, "check"));
    assert_eq!(results["failed"], json!({}));
    assert!(results["passed"].as_array().unwrap().len() >= 8, "{results}");
    let page = server.client().send("GET", "/metrics", &[], None).expect(200).body;
    let page = String::from_utf8(page).unwrap();
    for (operation, status) in [("PutObject", 2), ("CompleteMultipartUpload", 4)] {
        let labels = format!("door=\"s3\",route=\"{operation}\",status=\"{status}xx\"");
        let line = format!("larder_http_requests_total{{{labels}}} ");
        assert!(page.lines().any(|found| found.starts_with(&line)), "{line} is not in\n{page}");
    }
}

#[test]
fn strangers_get_nothing_of_a_bucket_that_nobody_opened() {
    let packages = match packages() {
        Ok(packages) => packages,
        Err(why) => {
            return tool::skip("strangers_get_nothing_of_a_bucket_that_nobody_opened", why);
        }
    };
    let server = Server::start();
    let root = server.client();
    let user = json!({"name": "other", "password": "password-of-other"});
    root.json("POST", "/v1/users", &user).expect(201);
    let key = root.json("POST", "/v1/users/other/keys", &json!({"kind": "s3", "name": "k"}));
    let key = key.expect(201).json();
    let [id, secret] = ["access_key_id", "key"].map(|name| key[name].as_str().unwrap().to_owned());
    let mut strangers = boto(&server, &packages, "strangers");
    strangers.args([id, secret]);
    let found = parsed(strangers);
    assert_eq!(found["let_in"], json!([]));
    assert!(found["asked"].as_u64().unwrap() > 100, "{found}");
}

/// Runs one of the clients for JavaScript.
#[track_caller]
fn javascript(client: &str) {
    let test = format!("s3clients::{client} for JavaScript");
    let modules = tool::which("node").ok_or_else(|| "node is not installed".to_owned());
    let modules = match modules.and_then(|_| tool::installed("s3-js")) {
        Ok(packages) => packages.join("node_modules"),
        Err(why) => return tool::skip(&test, why),
    };
    let server = Server::start();
    let output = Command::new("node")
        .arg(tool::script("s3-js/client.cjs"))
        .args([client, &server.s3().ip().to_string(), &server.s3().port().to_string()])
        .args([USER, PASSWORD])
        .arg(server.scratch())
        .env("NODE_PATH", modules)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|out| String::from_utf8_lossy(&out).into_owned());
    assert!(said[0].ends_with("ok\n"), "{client}: {}", said.concat());
}

#[test]
fn the_sdk_for_javascript_streams_presigns_and_pages() {
    javascript("aws");
}

#[test]
fn minio_js_lists_what_is_unfinished_and_posts_forms() {
    javascript("minio");
}

#[track_caller]
fn shell(client: &str) {
    let test = format!("s3clients::{client}");
    let packages = match packages() {
        Ok(packages) => packages,
        Err(why) => return tool::skip(&test, why),
    };
    if client == "restic" && tool::which(client).is_none() {
        return tool::skip(&test, "restic is not installed");
    }
    let server = Server::start();
    let scratch = server.scratch().join("client");
    fs::create_dir(&scratch).unwrap();
    let output = Command::new("bash")
        .arg(tool::script("s3/clients.sh"))
        .args([client, &server.s3().to_string(), USER, PASSWORD])
        .args([&packages, &scratch])
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|out| String::from_utf8_lossy(&out).into_owned());
    assert!(output.status.success(), "{client}: {}", said.concat());
}

#[test]
fn awscli_syncs_copies_moves_and_removes() {
    shell("awscli");
}

#[test]
fn s3cmd_syncs_copies_and_removes() {
    shell("s3cmd");
}

#[test]
fn rclone_syncs_and_finds_no_difference() {
    shell("rclone");
}

#[test]
fn restic_backs_up_checks_restores_and_prunes() {
    shell("restic");
}

#[test]
fn minio_py_uploads_copies_and_removes() {
    shell("minio");
}

/// Botocore keeps an answer that came without `100 Continue` for the next request, too.
#[test]
fn an_empty_body_that_was_not_asked_for_ends_the_connection() {
    let server = Server::start();
    let mut stream = TcpStream::connect(server.addr()).unwrap();
    let head = "PUT /v1/spaces/home/files/empty HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\
                Expect: 100-continue\r\nAuthorization: Basic ";
    let basic = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"))
    };
    stream.write_all(format!("{head}{basic}\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    // To its end: the connection is closed.
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
}

/// The bucket that `boto.py write` writes to.
#[track_caller]
pub(crate) fn make_ledger(client: &Client) {
    client.json("POST", "/v1/spaces", &json!({"name": "ledger", "kind": "bucket"})).expect(201);
}

/// Objects and parts of 8 clients at once; `LARDER_E2E_KILLS` times the server is killed.
#[test]
fn what_s3_clients_were_told_is_stored_survives_a_kill() {
    let packages = match packages() {
        Ok(packages) => packages,
        Err(why) => {
            return tool::skip("what_s3_clients_were_told_is_stored_survives_a_kill", why);
        }
    };
    let seed = Dice::seed();
    let mut dice = Dice::new(seed);
    let mut server = Server::start();
    make_ledger(&server.client());
    let ledger = server.scratch().join("ledger");
    for round in 0..knob("LARDER_E2E_KILLS", 4) {
        let mut writer = boto(&server, &packages, "write")
            .arg(&ledger)
            .arg(round.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(1500 + dice.below(1500)));
        server.kill9();
        writer.wait().unwrap();
        server.restart();
        let mut verify = boto(&server, &packages, "verify");
        verify.arg(&ledger);
        let found = parsed(verify);
        assert_eq!(found["lost"], json!([]), "seed {seed}, round {round}: {found}");
        assert!(found["noted"].as_u64().unwrap() > 0, "{found}");
    }
    oracle::clean(&server.client());
}

/// Row B3 of the acceptance table, with S3: presigned, so that all of them start together.
#[test]
fn ten_of_fifty_fit_by_rest_tus_and_s3_at_once() {
    let packages = match packages() {
        Ok(packages) => packages,
        Err(why) => return tool::skip("ten_of_fifty_fit_by_rest_tus_and_s3_at_once", why),
    };
    let server = Server::start();
    let root = server.client();
    for (round, piece) in [20_000usize, 300_001].into_iter().enumerate() {
        let name = format!("exact-{round}");
        let client = root.project(&name, &json!({"limits": {"live": 10 * piece}}));
        let keys: Vec<String> = (0..50).map(|number| format!("f{number}")).collect();
        let mut urls = boto(&server, &packages, "urls");
        urls.arg(&name).args(&keys);
        let urls = parsed(urls);
        let s3 = server.s3();
        let answers = race(&client, 50, |number, client| {
            let body = vec![number as u8; piece];
            let path = &keys[number];
            let length = piece.to_string();
            match number % 3 {
                0 => client.put(path, &body),
                1 => {
                    let target = format!("/v1/uploads?space={name}&path={path}");
                    let headers = [
                        ("Tus-Resumable", "1.0.0"),
                        ("Content-Type", "application/offset+octet-stream"),
                        ("Upload-Length", &*length),
                    ];
                    client.send("POST", &target, &headers, Some(&body))
                }
                _ => {
                    let target = urls[number].as_str().unwrap();
                    Client::anonymous(s3).send("PUT", target, &[], Some(&body))
                }
            }
        });
        let stored = answers.iter().filter(|a| [200, 201].contains(&a.status)).count();
        assert_eq!(stored, 10, "{:?}", answers.iter().map(|a| a.status).collect::<Vec<_>>());
        for refused in answers.iter().filter(|a| ![200, 201].contains(&a.status)) {
            // Each protocol has its own word for it.
            assert!([507, 403].contains(&refused.status), "{refused}");
        }
        assert_eq!((client.usage().live, client.list("").len()), (10 * piece as u64, 10));
        // What came over S3 is a file like any other.
        let over_s3 = (0..50).filter(|number| number % 3 == 2 && answers[*number].status == 200);
        for number in over_s3 {
            assert_eq!(client.revisions(&keys[number]).len(), 1);
            assert_eq!(client.get(&keys[number]).body, vec![number as u8; piece]);
        }
        oracle::conserved(&client);
    }
    oracle::all_is_well(&server, &root);
}
