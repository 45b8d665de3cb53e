//! Damage and mistakes on disk: bytes that have changed are never served and are named; folders
//! that are not what they should be are refused.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use larder_e2e::{
    client::Client,
    oracle,
    server::{Options, Server, must_end},
    stamp::{Stamp, check_part, identify},
    tool::{self, skip},
};

/// Changes one bit.
fn flip(path: &Path, offset: u64) {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.read_exact(&mut byte).unwrap();
    byte[0] ^= 0x10;
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(&byte).unwrap();
    file.sync_all().unwrap();
}

/// Segments of the metadata log, oldest first.
fn segments(server: &Server) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = tool::files_below(&server.data().join("meta"))
        .into_iter()
        .map(|(path, ..)| path)
        .filter(|path| path.to_string_lossy().contains("/log/") && written_to(path) > 4096)
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no log in {}", server.data().display());
    files
}

/// Where the last byte of a file stands that is not zero.
fn written_to(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1)
}

/// A byte near the middle of what was written to a file that is more than padding: nothing is
/// told of that, because nothing is lost with it.
fn middle(path: &Path) -> u64 {
    let half = written_to(path) / 2;
    let bytes = fs::read(path).unwrap();
    let rest = bytes.iter().skip(usize::try_from(half).unwrap());
    half + rest.take_while(|byte| **byte == 0).count() as u64
}

/// What starting it says when it must not start.
#[track_caller]
fn refusal(server: &mut Server) -> String {
    match server.try_start() {
        Ok(()) => panic!("it started"),
        Err(said) => said,
    }
}

#[test]
fn a_flipped_byte_of_a_chunk_is_never_served_and_is_named() {
    let mut options = Options::default().env("LARDER_SCRUB__INTERVAL", "300ms");
    for expected in ["corrupt", "scrub", "damaged", "checksum"] {
        options = options.allow(expected);
    }
    let mut server = options.start();
    let client = server.client();
    let stamp = Stamp::new(1, 1);
    let len = 1_200_000;
    client.put("bad", &stamp.body(len)).expect(201);
    let chunks = oracle::chunk_files(&server);
    assert_eq!(chunks.len(), 1, "{chunks:?}");
    let chunk = PathBuf::from(&chunks[0]);
    client.put("good", &Stamp::new(2, 2).body(len)).expect(201);
    server.stop();
    flip(&chunk, fs::metadata(&chunk).unwrap().len() / 2);
    server.restart();
    let client = server.client();
    never_wrong(&client, stamp, len);
    assert_eq!(identify(&client.get("good").expect(200).body), Ok(Stamp::new(2, 2)));
    let name = chunk.file_name().unwrap().to_string_lossy().into_owned();
    let named = || {
        let said = server.log() + &client.check().to_string();
        said.contains(&name)
    };
    assert!(tool::wait_until(Duration::from_secs(20), named), "{name} is not named");
    never_wrong(&client, stamp, len);
    client.put("bad", b"repaired").expect(200);
    assert_eq!(client.get("bad").expect(200).body, b"repaired");
}

/// Whole or in parts, what is served is right; what is damaged ends in an error.
#[track_caller]
fn never_wrong(client: &Client, stamp: Stamp, len: usize) {
    let whole = client.get("bad");
    assert!(whole.status != 200, "a damaged file was served to its end");
    check_part(stamp, len as u64, 0, if whole.lost.is_some() { &whole.body } else { b"" }).unwrap();
    let mut refused = 0;
    for start in (0..len).step_by(100_000) {
        let range = format!("bytes={start}-{}", start + 99_999);
        let part = client.get_with("bad", &[("Range", &range)]);
        if part.status == 206 {
            check_part(stamp, len as u64, start as u64, &part.body).unwrap();
        } else {
            refused += 1;
        }
    }
    assert!(refused > 0, "the damaged part was served");
}

#[test]
fn damage_in_the_middle_of_the_log_is_named_and_refused() {
    let mut server = Options::default().allow("").start();
    let client = server.client();
    for number in 0..50 {
        client.put(&format!("f{number}"), &Stamp::new(1, number).body(2000)).expect(201);
    }
    server.kill9();
    let segment = segments(&server).into_iter().max_by_key(|path| written_to(path)).unwrap();
    let damaged = middle(&segment);
    flip(&segment, damaged);
    let said = refusal(&mut server);
    let name = segment.file_stem().unwrap().to_string_lossy().into_owned();
    let number = format!("segment {} ", name.trim_start_matches('0'));
    assert!(said.contains(&name) || said.contains(&number), "{name} is not named: {said}");
    // Nothing was changed by the refusal: undone damage is no damage.
    flip(&segment, damaged);
    server.restart();
    let client = server.client();
    for number in 0..50 {
        let body = client.get(&format!("f{number}")).expect(200).body;
        assert_eq!(identify(&body), Ok(Stamp::new(1, number)));
    }
    oracle::all_is_well(&server, &client);
}

#[test]
fn a_torn_record_at_the_end_of_the_log_is_cut_off() {
    let mut server = Server::start();
    for round in 0..6_u64 {
        let client = server.client();
        for number in 0..10 {
            let body = Stamp::new(round as u32, number).body(500);
            client.put(&format!("f{round}-{number}"), &body).expect(201);
        }
        server.kill9();
        // The segment in use is the one that was written to last.
        let changed = |path: &PathBuf| fs::metadata(path).unwrap().modified().unwrap();
        let segment = segments(&server).into_iter().max_by_key(changed).unwrap();
        let torn: Vec<u8> = (0..40 + 977 * round).map(|at| (at * 31 + 7) as u8 | 1).collect();
        let mut file = fs::OpenOptions::new().write(true).open(&segment).unwrap();
        // Whatever is written next begins on a block of its own.
        let end = written_to(&segment).next_multiple_of(4096);
        file.seek(SeekFrom::Start(end)).unwrap();
        file.write_all(&torn).unwrap();
        drop(file);
        server.restart();
        let client = server.client();
        for number in 0..10 {
            let body = client.get(&format!("f{round}-{number}")).expect(200).body;
            assert_eq!(identify(&body), Ok(Stamp::new(round as u32, number)));
        }
    }
    oracle::all_is_well(&server, &server.client());
}

#[test]
fn a_second_process_on_one_folder_is_refused() {
    let server = Server::start();
    let client = server.client();
    client.put("f", b"mine").expect(201);
    let mut second = std::process::Command::new(larder_e2e::server::binary());
    second
        .args(["serve", "--http", "127.0.0.1:0", "--s3", "127.0.0.1:0", "--data"])
        .arg(server.data());
    let output = must_end(&mut second);
    let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert!(!output.status.success(), "two processes on one folder");
    assert!(said.contains("lock") || said.contains("in use") || said.contains("another"), "{said}");
    client.put("f", b"still mine").expect(200);
    oracle::all_is_well(&server, &client);
}

#[test]
fn an_empty_or_foreign_store_where_data_should_be_is_refused() {
    let mut server = Options::default().allow("").start();
    server.client().put("f", &Stamp::new(1, 1).body(400_000)).expect(201);
    server.stop();
    let mut other = Server::start();
    other.client().put("g", &Stamp::new(2, 1).body(400_000)).expect(201);
    other.stop();
    for part in ["store", "meta"] {
        let (place, aside) =
            (server.data().join(part), server.data().join(format!("{part}.aside")));
        fs::rename(&place, &aside).unwrap();
        let said = refusal(&mut server);
        assert!(said.contains("store") || said.contains(part), "missing {part}: {said}");
        fs::remove_dir_all(&place).ok();
        fs::create_dir(&place).unwrap();
        refusal(&mut server);
        fs::remove_dir_all(&place).unwrap();
        fs::rename(other.data().join(part), &place).unwrap();
        let said = refusal(&mut server);
        assert!(said.contains("store") || said.contains(part), "foreign {part}: {said}");
        fs::rename(&place, other.data().join(part)).unwrap();
        fs::rename(&aside, &place).unwrap();
    }
    for server in [&mut server, &mut other] {
        server.restart();
        oracle::all_is_well(server, &server.client());
    }
    assert_eq!(identify(&server.client().get("f").body), Ok(Stamp::new(1, 1)));
}

#[test]
fn a_chunk_that_has_vanished_is_an_error_and_is_named() {
    let server = Options::default().allow("").start();
    let client = server.client();
    client.put("f", &Stamp::new(1, 1).body(500_000)).expect(201);
    let chunk = PathBuf::from(&oracle::chunk_files(&server)[0]);
    fs::remove_file(&chunk).unwrap();
    let answer = client.get("f");
    assert!(answer.status == 0 || answer.code() == "corrupt", "{answer}");
    let name = chunk.file_name().unwrap().to_string_lossy().into_owned();
    let named = || {
        let report = client.check();
        report["violations"] != 0 && (report.to_string() + &server.log()).contains(&name)
    };
    assert!(tool::wait_until(Duration::from_secs(10), named), "{}", client.check());
}

#[test]
fn steps_of_the_clock_expire_nothing_early() {
    let library = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
        .map(|arch| format!("/usr/lib/{arch}/faketime/libfaketime.so.1"))
        .into_iter()
        .find(|path| Path::new(path).is_file());
    let Some(library) = library else {
        return skip("clock", "libfaketime is not installed");
    };
    let dir = tempfile::tempdir().unwrap();
    let clock = dir.path().join("clock");
    let set = |offset: &str| {
        let fresh = dir.path().join("clock.new");
        fs::write(&fresh, offset).unwrap();
        fs::rename(&fresh, &clock).unwrap();
    };
    set("+0");
    let server = Options::default()
        .env("LD_PRELOAD", &library)
        .env("FAKETIME_TIMESTAMP_FILE", &clock.to_string_lossy())
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("LARDER_TRASH__RETENTION", "30d")
        .env("LARDER_COLLECT__INTERVAL", "200ms")
        .start();
    let client = server.client();
    client.put("f", &Stamp::new(1, 1).body(300_000)).expect(201);
    client.put("g", &Stamp::new(1, 2).body(300_000)).expect(201);
    client.rm("f").expect(204);
    for (number, offset) in ["-1d", "+2h", "-400d", "+20d", "+0"].iter().enumerate() {
        set(offset);
        let path = format!("after{number}");
        client.put(&path, &Stamp::new(2, number as u32).body(300_000)).expect(201);
        client.put("g", &Stamp::new(3, number as u32).body(1000)).expect(200);
        client.gc();
        assert_eq!(client.trash().len(), 1, "clock at {offset}: nothing has expired");
        let revisions = client.revisions("g");
        assert_eq!(revisions.len(), number + 2, "clock at {offset}");
        assert_eq!(identify(&client.get("g").body), Ok(Stamp::new(3, number as u32)));
    }
    oracle::all_is_well(&server, &client);
}
