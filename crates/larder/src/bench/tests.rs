//! `larder bench` against small TCP servers that keep files in memory, some of them faulty.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::Mutex,
};

use clap::Parser as _;

use super::*;

#[derive(clap::Parser)]
struct Command {
    #[command(flatten)]
    args: BenchArgs,
}

/// How a server misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vice {
    None,
    /// Flips one byte in the middle of each body.
    Flips,
    /// Leaves the last byte out, with a fitting Content-Length.
    Truncates,
    /// Answers every GET with 503.
    Refuses,
    /// Says 201 and keeps nothing.
    Forgets,
    /// Closes after each answer, without saying so.
    HangsUp,
}

#[derive(Default)]
struct Files {
    bodies: HashMap<String, Vec<u8>>,
    /// Of the Larder dialect.
    dirs: HashSet<String>,
    trash: BTreeMap<u32, String>,
    trashed: u32,
    /// Of S3: whether the bucket was made, and parts by upload, which is numbered, and number.
    bucket: bool,
    uploads: BTreeMap<usize, BTreeMap<usize, Vec<u8>>>,
    log: Vec<String>,
}

type Shared = Arc<Mutex<Files>>;

fn serve(vice: Vice) -> (String, Shared) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/base", listener.local_addr().unwrap());
    let files = Shared::default();
    let shared = Arc::clone(&files);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || drop(converse(stream.unwrap(), &shared, vice)));
        }
    });
    (url, files)
}

fn converse(stream: TcpStream, shared: &Shared, vice: Vice) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split(' ');
        let (method, url) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            if header == "\r\n" {
                break;
            }
            if let Some(value) = header.strip_prefix("Content-Length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let (status, body) = answer(&mut shared.lock().unwrap(), &method, &url, body, vice);
        let mut out = format!(
            "HTTP/1.1 {status} X\r\nETag: \"tag\"\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if url.contains("limit=") {
            // Listings go out chunked, in two pieces, to exercise that framing.
            let (a, b) = body.split_at(body.len() / 2);
            let (a, b) = (String::from_utf8_lossy(a), String::from_utf8_lossy(b));
            out = format!("HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n");
            for piece in [a, b].iter().filter(|piece| !piece.is_empty()) {
                out.push_str(&format!("{:x}\r\n{piece}\r\n", piece.len()));
            }
            out.push_str("0\r\n\r\n");
            writer.write_all(out.as_bytes())?;
        } else {
            writer.write_all(out.as_bytes())?;
            if method != "HEAD" {
                writer.write_all(&body)?;
            }
        }
        if vice == Vice::HangsUp {
            return Ok(());
        }
    }
}

fn answer(files: &mut Files, method: &str, url: &str, body: Vec<u8>, vice: Vice) -> (u16, Vec<u8>) {
    files.log.push(format!("{method} {url}"));
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    if let Some(call) = path.strip_prefix("/v1/spaces/s/") {
        return answer_larder(files, method, call, query, body, vice);
    }
    if path.starts_with("/bucket") {
        return answer_s3(files, method, path, query, body, vice);
    }
    answer_plain(files, method, path, query, body, vice)
}

/// As much of S3 as the generator uses, seven entries a page.
fn answer_s3(
    files: &mut Files,
    method: &str,
    path: &str,
    query: &str,
    body: Vec<u8>,
    vice: Vice,
) -> (u16, Vec<u8>) {
    let parameter = |name: &str| {
        let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        value.map(|value| value.replace("%2F", "/"))
    };
    if path == "/bucket" && method == "PUT" {
        files.bucket = true;
        return (200, Vec::new());
    }
    if !files.bucket {
        return (404, b"<Error><Code>NoSuchBucket</Code></Error>".to_vec());
    }
    if path == "/bucket" {
        let prefix = parameter("prefix").unwrap();
        let after = parameter("continuation-token").unwrap_or_default();
        let keys = files.bodies.keys().filter_map(|path| path.strip_prefix("/bucket/"));
        let mut keys: Vec<&str> =
            keys.filter(|key| key.starts_with(&prefix) && **key > *after).collect();
        keys.sort_unstable();
        let more = keys.len() > 7;
        keys.truncate(7);
        let mut text = format!("<ListBucketResult><IsTruncated>{more}</IsTruncated>");
        if more {
            let last = keys[6];
            text.push_str(&format!("<NextContinuationToken>{last}</NextContinuationToken>"));
        }
        for key in keys {
            text.push_str(&format!("<Contents><Key>{key}</Key></Contents>"));
        }
        return (200, format!("{text}</ListBucketResult>").into_bytes());
    }
    let upload = parameter("uploadId").map(|id| id.parse::<usize>().unwrap());
    let part = parameter("partNumber").map(|number| number.parse::<usize>().unwrap());
    match (method, upload, part) {
        ("POST", None, None) => {
            let id = files.log.len();
            files.uploads.insert(id, BTreeMap::new());
            (200, format!("<UploadId>{id}</UploadId>").into_bytes())
        }
        ("PUT", Some(_), Some(2)) if vice == Vice::Refuses => (503, b"try later".to_vec()),
        ("PUT", Some(id), Some(part)) => {
            files.uploads.get_mut(&id).unwrap().insert(part, body);
            (200, Vec::new())
        }
        ("POST", Some(id), None) => {
            let parts = files.uploads.remove(&id).unwrap();
            let named = String::from_utf8(body).unwrap().matches("<Part>").count();
            assert!(parts.keys().copied().eq(1..=named), "{parts:?}");
            let whole = parts.into_values().flatten().collect();
            files.bodies.insert(path.to_owned(), whole);
            (200, b"<CompleteMultipartUploadResult>".to_vec())
        }
        ("DELETE", Some(id), None) => {
            files.uploads.remove(&id);
            (204, Vec::new())
        }
        _ => answer_plain(files, method, path, "", body, vice),
    }
}

/// As much of Larder's REST as the generator uses, seven entries a page.
fn answer_larder(
    files: &mut Files,
    method: &str,
    call: &str,
    query: &str,
    body: Vec<u8>,
    vice: Vice,
) -> (u16, Vec<u8>) {
    let after = query.split('&').find_map(|q| q.strip_prefix("cursor=")).unwrap_or_default();
    let page = |key: &str, found: Vec<(String, String)>| {
        let cursor = found.get(7).map(|_| format!(",\"cursor\":\"{}\"", found[6].0));
        let texts: Vec<String> = found.into_iter().take(7).map(|(_, text)| text).collect();
        let text = format!("{{\"{key}\":[{}]{}}}", texts.join(","), cursor.unwrap_or_default());
        (200, text.into_bytes())
    };
    let (verb, path) = call.split_once('/').unwrap_or((call, ""));
    match (method, verb) {
        ("PUT", "dirs") => (if files.dirs.insert(path.to_owned()) { 201 } else { 409 }, Vec::new()),
        ("GET", "list") => {
            let prefix = format!("{path}/");
            let mut names: Vec<&str> =
                files.bodies.keys().filter_map(|name| name.strip_prefix(&prefix)).collect();
            names.retain(|name| *name > after);
            names.sort_unstable();
            let entry = |name: &&str| (name.to_string(), format!("{{\"name\":\"{name}\"}}"));
            page("entries", names.iter().map(entry).collect())
        }
        ("GET", "trash") => {
            let after = after.parse().unwrap_or(0);
            let item = |(id, path): (&u32, &String)| {
                (id.to_string(), format!("{{\"item\":\"{id}\",\"path\":\"/{path}\"}}"))
            };
            page("items", files.trash.range(after + 1..).map(item).collect())
        }
        ("DELETE", "trash") => {
            let gone = files.trash.remove(&path.parse().unwrap());
            (if gone.is_some() { 204 } else { 404 }, Vec::new())
        }
        ("DELETE", "files") => {
            let prefix = format!("{path}/");
            let before = files.bodies.len() + files.dirs.len();
            files.bodies.retain(|name, _| name != path && !name.starts_with(&prefix));
            files.dirs.retain(|name| !name.starts_with(&prefix));
            if files.bodies.len() + files.dirs.len() == before {
                return (404, Vec::new());
            }
            files.trashed += 1;
            files.trash.insert(files.trashed, path.to_owned());
            (204, Vec::new())
        }
        ("PUT", "files") if !files.dirs.contains(path.rsplit_once('/').unwrap().0) => {
            (404, b"no parent".to_vec())
        }
        _ => answer_plain(files, method, path, query, body, vice),
    }
}

fn answer_plain(
    files: &mut Files,
    method: &str,
    path: &str,
    query: &str,
    body: Vec<u8>,
    vice: Vice,
) -> (u16, Vec<u8>) {
    if query.contains("limit=") {
        let mut names: Vec<&str> =
            files.bodies.keys().filter_map(|name| name.strip_prefix(path)).collect();
        names.sort_unstable();
        let entries: Vec<String> =
            names.iter().map(|name| format!("{{\"name\":\"{name}\"}}")).collect();
        return (200, format!("[{}]", entries.join(",")).into_bytes());
    }
    if query.contains("recursive=true") {
        files.bodies.retain(|name, _| !name.starts_with(path));
        return (204, Vec::new());
    }
    match (method, files.bodies.get(path).cloned()) {
        ("PUT", old) => {
            if vice != Vice::Forgets {
                files.bodies.insert(path.to_owned(), body);
            }
            (if old.is_some() { 200 } else { 201 }, Vec::new())
        }
        ("GET", _) if vice == Vice::Refuses => (503, b"try later".to_vec()),
        (_, None) => (404, Vec::new()),
        ("DELETE", Some(_)) => {
            files.bodies.remove(path);
            (204, Vec::new())
        }
        (_, Some(mut body)) => {
            match vice {
                Vice::Flips => {
                    let middle = body.len() / 2;
                    body[middle] ^= 1;
                }
                Vice::Truncates => drop(body.pop()),
                _ => {}
            }
            (200, body)
        }
    }
}

fn bench(urls: &[&str], more: &str) -> anyhow::Result<Report> {
    let targets = urls.iter().map(|url| format!("--target={url}"));
    let fixed = "bench --no-probe --rounds=1 --files=30 --dirs=3 --warmup=0s";
    let words = fixed.split(' ').chain(more.split(' ')).map(str::to_owned);
    let command = Command::parse_from(words.chain(targets));
    run_blocking(quietly(command.args)?, &Arc::new(AtomicBool::new(false)))
}

fn quietly(args: BenchArgs) -> anyhow::Result<BenchArgs> {
    args.with_shared(SharedFlags { quiet: true, ..SharedFlags::default() }).resolve()
}

fn json(report: &Report) -> serde_json::Value {
    serde_json::from_str(&report.json().unwrap()).unwrap()
}

#[test]
fn an_honest_server_passes_all_workloads_and_is_left_empty() {
    let (url, files) = serve(Vice::None);
    let report = bench(
        &[&url],
        "--workload=put,get,head,delete,list,mixed --size=0,100,200000 --concurrency=4 --count=40",
    )
    .unwrap();
    assert_eq!(report.errors(), 0, "{}", report.table());
    let json = json(&report);
    let cells = json["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 18);
    for cell in cells {
        assert_eq!(cell["targets"][0]["median"]["ops"], 40.0, "{cell}");
    }
    assert!(files.lock().unwrap().bodies.is_empty(), "the run cleans up after itself");
}

#[test]
fn larder_rest_is_spoken_and_only_our_own_trash_is_emptied() {
    let (url, files) = serve(Vice::None);
    let url = url.replace("http://", "larder+http://root:secret@").replace("/base", "/s");
    files.lock().unwrap().trash.insert(0, "photos/cat.jpg".to_owned());
    files.lock().unwrap().trash.insert(1000, "photos/dog.jpg".to_owned());
    let more = "--workload=put,get,head,delete,list,mixed --concurrency=4 --count=40";
    let command = format!("{more} --size=100");
    let report = bench(&[&url], &command).unwrap();
    assert_eq!(report.errors(), 0, "{}", report.table());
    let files = files.lock().unwrap();
    assert!(files.bodies.is_empty() && files.dirs.is_empty());
    assert!(files.trashed > 40, "each delete went to the trash");
    let left: Vec<&str> = files.trash.values().map(String::as_str).collect();
    assert_eq!(left, ["photos/cat.jpg", "photos/dog.jpg"]);
}

fn s3(url: &str) -> String {
    url.replace("http://", "s3+http://id:secret@").replace("/base", "/bucket/pre")
}

#[test]
fn s3_is_spoken_signed_or_not_and_the_bucket_is_made_and_left_empty() {
    let (url, files) = serve(Vice::None);
    let url = s3(&url);
    let report = bench(
        &[&url, &url],
        "--workload=put,get,head,delete,list,mixed,multipart --size=0,100,200000 \
         --concurrency=4 --count=20 --part-size=64k --s3-payload=unsigned,signed",
    )
    .unwrap();
    assert_eq!(report.errors(), 0, "{}", report.table());
    let json = json(&report);
    assert_eq!(json["targets"][1]["label"].as_str().unwrap().split(':').next(), Some("s3-signed"));
    let cells = json["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 21);
    for target in cells.iter().flat_map(|cell| cell["targets"].as_array().unwrap()) {
        assert_eq!(target["median"]["ops"], 20.0, "{target}");
    }
    let files = files.lock().unwrap();
    assert!(files.bucket && files.bodies.is_empty() && files.uploads.is_empty());
}

#[test]
fn a_multipart_upload_whose_part_fails_is_one_error_and_is_aborted() {
    let (url, files) = serve(Vice::Refuses);
    let more = "--workload=multipart --size=1m --part-size=64k --concurrency=4 --count=3";
    let report = bench(&[&s3(&url)], more).unwrap();
    let json = json(&report);
    assert_eq!(json["cells"][0]["targets"][0]["errors"]["status 503"], 3, "{}", report.table());
    let files = files.lock().unwrap();
    assert!(files.uploads.is_empty() && files.bodies.is_empty());
}

#[test]
fn what_s3_has_or_has_not_is_known_before_the_first_request() {
    for (url, more) in [
        ("http://127.0.0.1:1/x", "--workload=multipart"),
        ("s3+http://id:secret@127.0.0.1:1/b", "--workload=tus"),
        ("s3+http://id:secret@127.0.0.1:1/b", "--workload=multipart --part-size=5000"),
        ("s3+http://id:secret@127.0.0.1:1/b", "--workload=multipart --part-size=64k --size=1g"),
        ("s3+http://id:secret@127.0.0.1:1/b", "--s3-payload=signed,signed"),
    ] {
        let command = format!("bench --target={url} {more}");
        let command = Command::parse_from(command.split(' '));
        assert!(quietly(command.args).is_err(), "{url} {more}");
    }
}

#[test]
fn every_kind_of_damage_is_an_error_by_its_name() {
    for (vice, workload, size, kind) in [
        (Vice::Flips, "get", 4096, "mismatch"),
        (Vice::Flips, "get", 300_000, "mismatch"),
        (Vice::Truncates, "get", 4096, "length"),
        (Vice::Truncates, "head", 4096, "length"),
        (Vice::Refuses, "get", 4096, "status 503"),
        (Vice::Forgets, "get", 4096, "status 404"),
        (Vice::Forgets, "put", 4096, "after put: status 404"),
    ] {
        let (url, _) = serve(vice);
        let more = format!("--workload={workload} --size={size} --count=10 --concurrency=2");
        let report = bench(&[&url], &more).unwrap();
        let json = json(&report);
        let errors = &json["cells"][0]["targets"][0]["errors"];
        assert!(errors[kind].as_u64().unwrap_or(0) > 0, "{vice:?} {workload}: {errors}");
        assert!(report.table().contains(kind), "{}", report.table());
    }
}

#[test]
fn a_server_that_hangs_up_is_reconnected_to_and_that_is_said() {
    let (url, _) = serve(Vice::HangsUp);
    let report = bench(&[&url], "--workload=get --count=10 --concurrency=1").unwrap();
    assert_eq!(report.errors(), 0, "{}", report.table());
    assert!(report.table().contains("reconnects"), "{}", report.table());
}

#[test]
fn two_targets_take_turns_and_get_a_ratio() {
    let (one, log_one) = serve(Vice::None);
    let (two, log_two) = serve(Vice::None);
    let more = "--workload=put --count=5 --concurrency=1 --rounds=2 --label=A,B";
    let command = Command::parse_from(
        ["bench", "--no-probe", "--warmup=0s", "--dirs=1"]
            .into_iter()
            .chain(more.split(' '))
            .map(str::to_owned)
            .chain([format!("--target={one}"), format!("--target={two}")]),
    );
    let flag = Arc::new(AtomicBool::new(false));
    let report = run_blocking(quietly(command.args).unwrap(), &flag).unwrap();
    let json = json(&report);
    let cell = &json["cells"][0];
    assert_eq!(cell["targets"][0]["rounds"].as_array().unwrap().len(), 2);
    assert!(cell["ratio"]["rate"].as_f64().unwrap() > 0.0);
    for log in [log_one, log_two] {
        let puts = log.lock().unwrap().log.iter().filter(|l| l.starts_with("PUT")).count();
        assert_eq!(puts, 10);
    }
}

#[test]
fn growth_is_measured_at_each_number_of_files() {
    let (url, _) = serve(Vice::None);
    let report = bench(&[&url], "--grow=30,60 --size=10 --count=8 --concurrency=2 --keep").unwrap();
    assert_eq!(report.errors(), 0, "{}", report.table());
    let json = json(&report);
    let rows: Vec<_> = json["cells"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["files"].as_u64().unwrap(), c["workload"].as_str().unwrap().to_owned()))
        .collect();
    let want = [30, 60].map(|n| ["fill", "put", "get", "list"].map(|w| (n, w.to_owned())));
    assert_eq!(rows, want.concat());
    assert!(report.table().contains("cost x"), "{}", report.table());
}

#[test]
fn a_dead_server_is_a_clear_error() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = bench(&[&format!("http://127.0.0.1:{port}/")], "--workload=get").unwrap_err();
    assert!(format!("{error:#}").contains("cannot connect"), "{error:#}");
    let error = bench(&["http://127.0.0.1:1/"], "--pid=4294967295").unwrap_err();
    assert!(format!("{error:#}").contains("no process 4294967295"), "{error:#}");
}

#[test]
fn an_interrupted_run_reports_and_cleans_up() {
    let (url, files) = serve(Vice::None);
    let flag = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&flag);
    let watched = Arc::clone(&files);
    let waiter = std::thread::spawn(move || {
        while watched.lock().unwrap().log.len() < 50 {
            std::thread::yield_now();
        }
        cleanup::request_stop(&stop);
    });
    let target = format!("--target={url}");
    let command = Command::parse_from([
        "bench",
        "--no-probe",
        "--workload=put",
        "--duration=600s",
        "--warmup=0s",
        &target,
    ]);
    let report = run_blocking(quietly(command.args).unwrap(), &flag).unwrap();
    waiter.join().unwrap();
    assert!(json(&report)["interrupted"].as_bool().unwrap());
    assert!(files.lock().unwrap().bodies.is_empty());
}
