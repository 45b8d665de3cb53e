//! tus 1.0.0, header by header, with what no proper client would send.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use larder_base::digest::{Sha256, crc32c};
use larder_e2e::{
    client::{Client, Response},
    http::Conn,
    oracle,
    race::race,
    server::{Options, Server},
    stamp::{self, Stamp},
    tus::{self, PIECE, RESUMABLE, Upload, offset_of},
};
use serde_json::json;

/// The file at `path` is `body`, is one revision, and is what the answer said it is.
#[track_caller]
fn became(client: &Client, path: &str, body: &[u8], answer: &Response) {
    let got = client.get(path).expect(200);
    assert!(got.body == body, "{path}: the bytes differ");
    assert_eq!(client.revisions(path).len(), 1, "{path}");
    let entry = client.must_stat(path);
    assert_eq!(answer.must_header("larder-file-id"), entry["id"], "{answer}");
    assert_eq!(answer.etag(), entry["etag"], "{answer}");
    assert_eq!(answer.must_header("larder-revision"), entry["revision"].to_string());
    assert_eq!(answer.must_header("larder-durability"), "1/1");
    assert_eq!(answer.must_header("upload-complete"), "?1");
    assert_eq!(offset_of(answer), body.len() as u64);
}

#[test]
fn the_server_says_what_it_can_do_to_whoever_asks() {
    let server = Options::default().env("LARDER_LIMITS__FILE_BYTES_MAX", "1MiB").start();
    for client in [server.client(), Client::anonymous(server.addr())] {
        for target in ["/v1/uploads", "/v1/uploads/any"] {
            let answer = client.send("OPTIONS", target, &[], None).expect(204);
            assert_eq!(answer.must_header("tus-resumable"), "1.0.0");
            assert_eq!(answer.must_header("tus-version"), "1.0.0");
            assert_eq!(answer.must_header("tus-max-size"), "1048576");
            assert_eq!(answer.must_header("tus-checksum-algorithm"), "sha1,sha256,md5,crc32c");
            let extensions: Vec<&str> = answer.must_header("tus-extension").split(',').collect();
            for extension in [
                "creation",
                "creation-with-upload",
                "creation-defer-length",
                "expiration",
                "checksum",
                "termination",
                "concatenation",
            ] {
                assert!(extensions.contains(&extension), "{extension} in {extensions:?}");
            }
        }
    }
    let anonymous = Client::anonymous(server.addr());
    tus::begin(&anonymous, "path=a", &[("Upload-Length", "1")]).expect(401);
}

#[test]
fn an_upload_in_pieces_becomes_one_revision_and_says_so() {
    let server = Server::start();
    let client = server.client();
    let body = Stamp::new(1, 1).body(1 << 20);
    let said = [
        ("Upload-Length", "1048576"),
        ("Upload-Metadata", &tus::metadata(&[("filename", "a name"), ("filetype", "text/x-test")])),
    ];
    let answer = tus::begin(&client, "", &said).expect(201);
    assert!(answer.must_header("location").starts_with("/v1/uploads/"), "a relative path");
    assert!(answer.must_header("upload-expires").ends_with(" GMT"), "{answer}");
    assert_eq!(answer.must_header("cache-control"), "no-store");
    assert_eq!(answer.must_header("tus-resumable"), "1.0.0");
    let upload = Upload::of(&client, &answer);
    client.stat("a name").expect(404);
    assert_eq!(client.usage().reserved, 1 << 20);
    for (at, piece) in [(0, 1), (1, 70_000), (70_001, 300_000)] {
        let answer = upload.patch(at as u64, &body[at..at + piece]).expect(204);
        assert_eq!(offset_of(&answer), (at + piece) as u64);
        assert!(answer.header("upload-complete").is_none(), "{answer}");
        let head = upload.head().expect(200);
        assert_eq!(offset_of(&head), (at + piece) as u64);
        assert_eq!(head.must_header("upload-length"), "1048576");
        assert_eq!(head.must_header("upload-metadata"), said[1].1);
        assert_eq!(head.must_header("cache-control"), "no-store");
        assert!(head.header("upload-expires").is_some(), "{head}");
    }
    let info = upload.info();
    assert_eq!((&info["state"], &info["offset"]), (&json!("open"), &json!(370_001)));
    let listed = client.pages("/v1/uploads");
    assert_eq!((listed.len(), &listed[0]["id"]), (1, &info["id"]));
    let answer = upload.patch(370_001, &body[370_001..]).expect(204);
    became(&client, "a name", &body, &answer);
    assert_eq!(client.must_stat("a name")["content_type"], "text/x-test");
    assert_eq!(client.must_stat("a name")["sha256"], Sha256::of(&body).to_string());
    let head = upload.head().expect(200);
    became(&client, "a name", &body, &head);
    let info = upload.info();
    assert_eq!((&info["state"], &info["result"]["path"]), (&json!("completed"), &json!("a name")));
    oracle::all_is_well(&server, &client);
}

#[test]
fn the_first_bytes_may_come_with_the_creation() {
    let server = Server::start();
    let client = server.client();
    let body = Stamp::new(2, 1).body(200_000);
    let first = |path: &str, length: &str, bytes: &[u8]| {
        let headers = [RESUMABLE, PIECE, ("Upload-Length", length)];
        client.send("POST", &format!("/v1/uploads?path={path}"), &headers, Some(bytes))
    };
    let whole = first("whole", "200000", &body).expect(201);
    became(&client, "whole", &body, &whole);
    let part = first("part", "200000", &body[..50_000]).expect(201);
    assert_eq!(offset_of(&part), 50_000);
    let answer = Upload::of(&client, &part).send(&body, 60_000);
    became(&client, "part", &body, &answer);
    // The connection breaks in the body: what has come counts, and is found in the listing.
    let headers = [RESUMABLE, PIECE, ("Upload-Length", "200000"), ("Content-Length", "200000")];
    let mut conn = Conn::open(server.addr()).unwrap();
    let head = client.head_of("POST", "/v1/uploads?path=broken", &headers);
    conn.send(head.as_bytes()).unwrap();
    conn.send(&body[..120_000]).unwrap();
    conn.finish_sending();
    assert_ne!(conn.response("POST").status, 201);
    let found = client.pages("/v1/uploads");
    let url = format!("/v1/uploads/{}", found[0]["id"].as_str().unwrap());
    let upload = Upload::at(&client, &url);
    assert_eq!(upload.offset(), 120_000);
    became(&client, "broken", &body, &upload.send(&body, 80_000));
    // A body of another type is not taken, and leaves nothing.
    let headers = [RESUMABLE, ("Upload-Length", "3"), ("Content-Type", "text/plain")];
    client.send("POST", "/v1/uploads?path=x", &headers, Some(b"abc")).expect(415);
    assert!(client.pages("/v1/uploads").is_empty());
    oracle::all_is_well(&server, &client);
}

#[test]
fn parts_are_put_together_in_the_order_that_is_said() {
    let server = Server::start();
    let client = server.client();
    let body = Stamp::new(3, 1).body(900_000);
    let parts: Vec<Upload> = body
        .chunks(300_000)
        .map(|piece| {
            let length = piece.len().to_string();
            let headers = [("Upload-Concat", "partial"), ("Upload-Length", &*length)];
            let part = Upload::of(&client, &tus::begin(&client, "", &headers).expect(201));
            let answer = part.patch(0, piece).expect(204);
            assert!(answer.header("larder-file-id").is_none(), "a part is no file: {answer}");
            assert_eq!(part.head().expect(200).must_header("upload-concat"), "partial");
            part
        })
        .collect();
    let urls: Vec<String> = vec![
        parts[0].url.clone(),
        format!("http://{}{}", server.addr(), parts[1].url),
        parts[2].url.clone(),
    ];
    let concat = format!("final;{}", urls.join(" "));
    let long = tus::begin(&client, "path=f", &[("Upload-Concat", &concat), ("Upload-Length", "9")]);
    long.expect(400);
    let answer = tus::begin(&client, "path=f", &[("Upload-Concat", &concat)]).expect(201);
    became(&client, "f", &body, &answer);
    let whole = Upload::of(&client, &answer);
    let head = whole.head().expect(200);
    assert!(head.must_header("upload-concat").starts_with("final;/v1/uploads/"), "{head}");
    assert_eq!(offset_of(&head), 900_000);
    whole.patch(900_000, b"x").expect(403);
    assert!(client.pages("/v1/uploads").is_empty(), "nothing is left over");
    assert_eq!(client.usage().reserved, 0);
    oracle::all_is_well(&server, &client);
}

#[test]
fn a_broken_piece_counts_as_far_as_it_came() {
    let server = Server::start();
    let client = server.client();
    let body = Stamp::new(4, 1).body(3 << 20);
    let upload = Upload::new(&client, "f", body.len() as u64);
    let mut offset = 0_u64;
    for (round, count) in [1_usize, 5000, 65_536, 700_000, 1_100_000].into_iter().enumerate() {
        let rest = &body[offset as usize..];
        let conn = upload.patch_part(offset, rest.len() as u64, &rest[..count]);
        if round % 2 == 0 {
            // FIN: all that was sent has arrived.
            conn.finish_sending();
            let mut conn = conn;
            assert_ne!(conn.response("PATCH").status, 204);
            offset += count as u64;
            assert_eq!(upload.offset(), offset);
        } else {
            // Long enough for the server to have read some of it, or not.
            std::thread::sleep(std::time::Duration::from_millis(30));
            conn.reset();
            let now = upload.offset();
            assert!((offset..=offset + count as u64).contains(&now), "{offset} {now} {count}");
            offset = now;
        }
    }
    became(&client, "f", &body, &upload.send(&body, 1 << 20));
    oracle::all_is_well(&server, &client);
}

#[test]
fn a_wrong_offset_is_told_the_right_one() {
    let server = Server::start();
    let client = server.client();
    let upload = Upload::new(&client, "f", 10);
    upload.patch(0, b"abcd").expect(204);
    for wrong in [0, 3, 5, 10, 11, u64::MAX] {
        let answer = upload.patch(wrong, b"xx").expect_any(&[400, 409]);
        if answer.status == 409 {
            assert_eq!(offset_of(&answer), 4, "{answer}");
        }
    }
    upload.patch(3, b"d").expect_problem(409, "conflict");
    for bad in ["", "-1", "4.0", "four", "0x4", "4, 4"] {
        let headers = [RESUMABLE, PIECE, ("Upload-Offset", bad)];
        client.send("PATCH", &upload.url, &headers, Some(b"ef")).expect(400);
    }
    client.send("PATCH", &upload.url, &[RESUMABLE, PIECE], Some(b"ef")).expect(400);
    assert_eq!(upload.offset(), 4);
    upload.patch(4, b"efghij").expect(204);
    assert_eq!(client.get("f").expect(200).body, b"abcdefghij");
}

#[test]
fn bytes_beyond_the_length_are_refused() {
    let server = Server::start();
    let client = server.client();
    let upload = Upload::new(&client, "f", 10);
    upload.patch(0, &[1; 11]).expect_any(&[400, 409, 413]);
    assert_eq!(upload.offset(), 0);
    upload.patch(0, &[1; 4]).expect(204);
    let headers = [RESUMABLE, PIECE, ("Upload-Offset", "4")];
    let long = client.send_chunked("PATCH", &upload.url, &headers, &[2; 40], 5);
    long.expect_any(&[400, 409, 413]);
    client.stat("f").expect(404);
    let offset = upload.offset();
    assert!((4..=10).contains(&offset), "{offset}");
    oracle::clean(&client);
}

#[test]
fn another_version_of_the_protocol_is_refused_by_name() {
    let server = Server::start();
    let client = server.client();
    let upload = Upload::new(&client, "f", 10);
    for version in [&[][..], &[("Tus-Resumable", "0.2.2")], &[("Tus-Resumable", "1.0.0,1.0.0")]] {
        let all = [&[PIECE, ("Upload-Offset", "0"), ("Upload-Length", "3")], version].concat();
        for (method, target, body) in [
            ("POST", "/v1/uploads?path=x", Some(&b""[..])),
            ("HEAD", &*upload.url, None),
            ("PATCH", &*upload.url, Some(&b"abc"[..])),
            ("DELETE", &*upload.url, None),
        ] {
            let answer = client.another().send(method, target, &all, body).expect(412);
            assert_eq!(answer.must_header("tus-version"), "1.0.0", "{method}");
        }
    }
    assert_eq!(upload.offset(), 0);
}

#[test]
fn a_piece_with_another_checksum_never_counts() {
    let server = Server::start();
    let client = server.client();
    let body = Stamp::new(5, 1).body(600_000);
    let upload = Upload::new(&client, "f", body.len() as u64);
    let sum = |algorithm: &str, digest: &[u8]| format!("{algorithm} {}", STANDARD.encode(digest));
    let mut offset = 0;
    for (size, at) in [(100_usize, 0), (200_000, 1)] {
        let piece = &body[offset..offset + size];
        let mut bad = piece.to_vec();
        bad[size / 2] ^= 1;
        let right = sum("sha256", &Sha256::of(piece).0);
        let answer = upload.patch_with(offset as u64, &bad, &[("Upload-Checksum", &right)]);
        assert_eq!(answer.status, 460, "{answer}");
        assert_eq!(answer.code(), "bad_digest");
        assert_eq!(upload.offset(), offset as u64, "piece {at}");
        // Cut off in the middle, nothing of it counts either.
        let mut conn = Conn::open(server.addr()).unwrap();
        let (length, place) = (size.to_string(), offset.to_string());
        let headers = [
            RESUMABLE,
            PIECE,
            ("Upload-Offset", &*place),
            ("Upload-Checksum", &right),
            ("Content-Length", &length),
        ];
        conn.send(client.head_of("PATCH", &upload.url, &headers).as_bytes()).unwrap();
        conn.send(&piece[..size - 1]).unwrap();
        conn.finish_sending();
        assert_ne!(conn.response("PATCH").status, 204);
        assert_eq!(upload.offset(), offset as u64, "piece {at}");
        upload.patch_with(offset as u64, piece, &[("Upload-Checksum", &right)]).expect(204);
        offset += size;
    }
    for bad in ["sha1", "sha1 !!", "whirlpool AAAA", "sha256 AAAA", "crc32c AAAAAAAA"] {
        let answer = upload.patch_with(offset as u64, b"x", &[("Upload-Checksum", bad)]);
        answer.expect_problem(400, "invalid");
    }
    let crc = sum("crc32c", &crc32c(&body[offset..offset + 10]).to_be_bytes());
    upload
        .patch_with(offset as u64, &body[offset..offset + 10], &[("Upload-Checksum", &crc)])
        .expect(204);
    offset += 10;
    // Of "abc": FIPS 180-4 and RFC 1321.
    let abc = Upload::new(&client, "abc", 6);
    let sha1 = "sha1 qZk+NkcGgWq6PiVxeFDCbJzQ2J0=";
    let md5 = "md5 kAFQmDzST7DWlj99KOF/cg==";
    assert_eq!(abc.patch_with(0, b"abd", &[("Upload-Checksum", sha1)]).status, 460);
    abc.patch_with(0, b"abc", &[("Upload-Checksum", sha1)]).expect(204);
    assert_eq!(abc.patch_with(3, b"abd", &[("Upload-Checksum", md5)]).status, 460);
    abc.patch_with(3, b"abc", &[("Upload-Checksum", md5)]).expect(204);
    assert_eq!(client.get("abc").expect(200).body, b"abcabc");
    upload.patch(offset as u64, &body[offset..]).expect(204);
    assert_eq!(stamp::identify(&client.get("f").expect(200).body), Ok(Stamp::new(5, 1)));
    oracle::all_is_well(&server, &client);
}

#[test]
fn an_upload_that_is_given_up_gives_everything_back() {
    let server = Server::start();
    let client = server.client();
    let upload = Upload::new(&client, "f", 5 << 20);
    upload.patch(0, &vec![1; 2 << 20]).expect(204);
    assert_eq!(client.usage().reserved, 5 << 20);
    upload.delete().expect(204);
    assert_eq!(client.usage().reserved, 0);
    upload.head().expect_any(&[404, 410]);
    upload.patch(2 << 20, b"x").expect_any(&[404, 410]);
    upload.delete().expect_any(&[404, 410]);
    assert!(client.pages("/v1/uploads").is_empty());
    client.stat("f").expect(404);
    oracle::all_is_well(&server, &client);
}

#[test]
fn of_racing_pieces_at_one_offset_the_file_is_one() {
    let server = Server::start();
    let client = server.client();
    for round in 0..6_u32 {
        let size = if round % 2 == 0 { 40_000 } else { 1_500_000 };
        let path = format!("f{round}");
        let upload = Upload::new(&client, &path, size as u64);
        let url = upload.url.as_str();
        let answers = race(&client, 4, |number, client| {
            let body = Stamp::new(round, number as u32).body(size);
            Upload::at(client, url).patch(0, &body)
        });
        let done = answers.iter().filter(|answer| answer.status == 204).count();
        assert!(done <= 1, "at most one counts as a whole: {done}");
        // Whoever goes on does so at an offset that holds; here with zeros that are seen later.
        let offset = upload.offset();
        if offset < size as u64 {
            upload.patch(offset, &vec![0; size - offset as usize]).expect(204);
        }
        let got = client.get(&path).expect(200).body;
        assert_eq!(got.len(), size);
        let kept = &got[..offset as usize];
        let whole =
            (0..4).any(|number| kept == &Stamp::new(round, number).body(size)[..kept.len()]);
        assert!(whole, "round {round}: what was kept is a piece of one body");
        assert_eq!(client.revisions(&path).len(), 1);
    }
    oracle::all_is_well(&server, &client);
}

#[test]
fn a_length_can_be_said_later_and_only_once() {
    let server = Server::start();
    let client = server.client();
    let upload = Upload::with(&client, "f", &[("Upload-Defer-Length", "1")]);
    let head = upload.head().expect(200);
    assert_eq!(head.must_header("upload-defer-length"), "1");
    assert!(head.header("upload-length").is_none());
    upload.patch(0, b"abc").expect(204);
    upload.patch_with(3, b"d", &[("Upload-Length", "2")]).expect_any(&[400, 409]);
    upload.patch_with(3, b"d", &[("Upload-Length", "6")]).expect(204);
    upload.patch_with(4, b"e", &[("Upload-Length", "7")]).expect_any(&[400, 409]);
    assert_eq!(upload.head().expect(200).must_header("upload-length"), "6");
    upload.patch_with(4, b"ef", &[("Upload-Length", "6")]).expect(204);
    assert_eq!(client.get("f").expect(200).body, b"abcdef");
    for bad in [
        &[][..],
        &[("Upload-Defer-Length", "2")],
        &[("Upload-Length", "-1")],
        &[("Upload-Length", "1"), ("Upload-Defer-Length", "1")],
        &[("Upload-Length", "1e3")],
    ] {
        tus::begin(&client, "path=x", bad).expect_problem(400, "invalid");
    }
    assert!(client.pages("/v1/uploads").is_empty());
    oracle::clean(&client);
}

#[test]
fn an_empty_upload_is_complete_when_it_is_made() {
    let server = Server::start();
    let client = server.client();
    let answer = tus::begin(&client, "path=empty", &[("Upload-Length", "0")]).expect(201);
    became(&client, "empty", b"", &answer);
    let head = Upload::of(&client, &answer).head().expect(200);
    assert_eq!(head.must_header("upload-complete"), "?1");
}

#[test]
fn conditions_belong_to_the_creation_and_are_judged_at_the_end() {
    let server = Server::start();
    let client = server.client();
    let none = [("Upload-Length", "3"), ("If-None-Match", "*")];
    let (a, b) = (Upload::with(&client, "f", &none), Upload::with(&client, "f", &none));
    a.patch(0, b"aaa").expect(204);
    let lost = b.patch(0, b"bbb").expect_problem(412, "precondition");
    assert_eq!(offset_of(&lost), 3, "its bytes are kept");
    // A client that takes offset = length for success must not be told so.
    b.head().expect(412);
    assert_eq!(b.info()["refused"]["code"], "precondition");
    tus::begin(&client, "space=home&path=f", &none).expect_problem(412, "precondition");
    let again = [PIECE, RESUMABLE, ("Upload-Offset", "3"), ("If-Match", "*")];
    client.send("PATCH", &b.url, &again, Some(b"")).expect_problem(400, "invalid");
    // It can go elsewhere with what it has.
    let answer = b.complete(&json!({"path": "g"})).expect(201);
    assert_eq!(answer.json()["path"], "g");
    assert_eq!(client.get("g").expect(200).body, b"bbb");
    assert_eq!(client.get("f").expect(200).body, b"aaa");
    let etag = format!("\"{}\"", client.must_stat("f")["etag"].as_str().unwrap());
    let same = [("Upload-Length", "3"), ("If-Match", &*etag)];
    let (c, d) = (Upload::with(&client, "f", &same), Upload::with(&client, "f", &same));
    c.patch(0, b"ccc").expect(204);
    d.patch(0, b"ddd").expect_problem(412, "precondition");
    assert_eq!(client.revisions("f").len(), 2);
    d.delete().expect(204);
    oracle::all_is_well(&server, &client);
}

#[test]
fn a_name_cannot_lead_out_of_the_space() {
    let server = Server::start();
    let client = server.client();
    for name in [
        "../x",
        "a/../../x",
        "..",
        ".",
        "a/./b",
        "/../x",
        "a\0b",
        "a\nb",
        "a//b",
        &"n".repeat(300),
        "",
    ] {
        let said = tus::metadata(&[("filename", name)]);
        let answer = tus::begin(&client, "", &[("Upload-Length", "1"), ("Upload-Metadata", &said)]);
        assert!([400, 409].contains(&answer.status), "{name:?}: {answer}");
    }
    for said in ["filename", "filename !!", "filename YQ==,filename YQ==", "filename /w==", ", ,"] {
        let answer = tus::begin(&client, "", &[("Upload-Length", "1"), ("Upload-Metadata", said)]);
        answer.expect_problem(400, "invalid");
    }
    tus::begin(&client, "path=..%2Fx", &[("Upload-Length", "1")]).expect(400);
    tus::begin(&client, "", &[("Upload-Length", "1")]).expect(400);
    tus::begin(&client, "path=a&what=1", &[("Upload-Length", "1")]).expect(400);
    tus::begin(&client, "path=a&space=nowhere", &[("Upload-Length", "1")]).expect(404);
    tus::begin(&client, "path=no%2Fsuch%2Fdir", &[("Upload-Length", "1")])
        .expect_problem(409, "conflict");
    assert!(client.list_all("").is_empty());
    assert!(client.pages("/v1/uploads").is_empty());
    // What is below the root is a path, and a folder that is uploaded is made.
    let said = tus::metadata(&[("filename", "f"), ("relativePath", "d/e/f")]);
    let answer = tus::begin(&client, "", &[("Upload-Length", "1"), ("Upload-Metadata", &said)]);
    Upload::of(&client, &answer.expect(201)).patch(0, b"x").expect(204);
    assert_eq!(client.get("d/e/f").expect(200).body, b"x");
}

#[test]
fn uploads_are_their_owners_own() {
    let server = Server::start();
    let root = server.client();
    let ann = root.make_user("ann");
    let upload = Upload::new(&ann, "f", 3);
    for other in [&root, &root.make_user("bob")] {
        let theirs = upload.through(other.another());
        theirs.head().expect(404);
        theirs.patch(0, b"abc").expect(404);
        theirs.delete().expect(404);
        theirs.complete(&json!({})).expect(404);
        other.send("GET", &upload.url, &[], None).expect(404);
        assert!(other.pages("/v1/uploads").is_empty());
    }
    let nobody = upload.through(Client::anonymous(server.addr()));
    nobody.patch(0, b"abc").expect(401);
    nobody.head().expect(401);
    for id in ["0", "00000000000000000000000000000000", "..", "%2e%2e", "x%00"] {
        let url = format!("/v1/uploads/{id}");
        let answer = ann.send("HEAD", &url, &[RESUMABLE], None);
        assert!([400, 404].contains(&answer.status), "{id}: {answer}");
    }
    upload.patch(0, b"abc").expect(204);
    assert_eq!(ann.get("f").expect(200).body, b"abc");
}

#[test]
fn what_is_too_large_is_refused_before_its_bytes() {
    let server = Options::default().env("LARDER_LIMITS__FILE_BYTES_MAX", "100KiB").start();
    let client = server.client();
    for length in [
        "102401",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999999999",
    ] {
        let answer = tus::begin(&client, "path=f", &[("Upload-Length", length)]);
        answer.expect_problem(413, "too_large");
    }
    let later = Upload::with(&client, "f", &[("Upload-Defer-Length", "1")]);
    later.patch(0, &[0; 102_401]).expect(413);
    later.patch_with(0, b"x", &[("Upload-Length", "102401")]).expect(413);
    let headers = [RESUMABLE, PIECE, ("Upload-Offset", "0")];
    client.send_chunked("PATCH", &later.url, &headers, &[0; 150_000], 10_000).expect(413);
    assert!(later.offset() <= 102_400);
    // Nothing is asked for that will not be taken.
    let mut conn = Conn::open(server.addr()).unwrap();
    let headers = [
        RESUMABLE,
        PIECE,
        ("Upload-Length", "102401"),
        ("Content-Length", "102401"),
        ("Expect", "100-continue"),
    ];
    conn.send(client.head_of("POST", "/v1/uploads?path=f", &headers).as_bytes()).unwrap();
    assert_eq!(conn.any_head().unwrap().status, 413);
    // Together the parts are too large, though each is not.
    let part = || {
        let headers = [("Upload-Concat", "partial"), ("Upload-Length", "60000")];
        let part = Upload::of(&client, &tus::begin(&client, "", &headers).expect(201));
        part.patch(0, &[1; 60_000]).expect(204);
        part.url
    };
    let concat = format!("final;{} {}", part(), part());
    tus::begin(&client, "path=f", &[("Upload-Concat", &concat)]).expect_problem(413, "too_large");
}

#[test]
fn a_method_may_be_said_in_a_header() {
    let server = Server::start();
    let client = server.client();
    let upload = Upload::new(&client, "f", 3);
    let post = |method: &str, more: &[(&str, &str)], body: &[u8]| {
        let headers = [&[RESUMABLE, ("X-HTTP-Method-Override", method)], more].concat();
        client.send("POST", &upload.url, &headers, Some(body))
    };
    post("PATCH", &[PIECE, ("Upload-Offset", "0")], b"ab").expect(204);
    post("GET /", &[], b"").expect(400);
    post("PUT", &[], b"").expect(405);
    post("DELETE", &[], b"").expect(204);
    upload.head().expect_any(&[404, 410]);
    // Nowhere else.
    client.put("g", b"x").expect(201);
    let headers = [("X-HTTP-Method-Override", "DELETE")];
    client.send("GET", &client.at("files", "g"), &headers, None).expect(200);
    client.get("g").expect(200);
}

#[test]
fn pieces_are_of_their_type_and_whole() {
    let server = Server::start();
    let client = server.client();
    let upload = Upload::new(&client, "f", 3);
    let patch = |headers: &[(&str, &str)]| {
        let all = [&[RESUMABLE, ("Upload-Offset", "0")], headers].concat();
        client.another().send("PATCH", &upload.url, &all, Some(b"abc"))
    };
    patch(&[]).expect(415);
    patch(&[("Content-Type", "application/octet-stream")]).expect(415);
    patch(&[PIECE, ("Content-Encoding", "gzip")]).expect(501);
    patch(&[PIECE, ("Content-Range", "bytes 0-2/3")]).expect(400);
    patch(&[PIECE, ("Content-MD5", "kAFQmDzST7DWlj99KOF/cg==")]).expect(501);
    patch(&[PIECE, ("Upload-Defer-Length", "1")]).expect(400);
    assert_eq!(upload.offset(), 0);
    let answer = patch(&[PIECE]).expect(204);
    became(&client, "f", b"abc", &answer);
}

#[test]
fn numbered_parts_come_in_any_order_and_make_the_file_that_is_said() {
    let server = Server::start();
    let client = server.client();
    let body = Stamp::new(6, 1).body(900_000);
    let begun = client.send("POST", "/v1/uploads?path=f&numbered=true", &[], Some(b""));
    let upload = Upload::of(&client, &begun.expect(201));
    let put = |number: &str, bytes: &[u8], headers: &[(&str, &str)]| {
        let target = format!("{}/parts/{number}", upload.url);
        client.send("PUT", &target, headers, Some(bytes))
    };
    put("3", &body[600_000..], &[]).expect(200);
    put("1", b"something else", &[]).expect(200);
    let right = format!("sha256 {}", STANDARD.encode(Sha256::of(&body[300_000..600_000]).0));
    let sum = [("Upload-Checksum", &*right)];
    put("2", &body[..300_000], &sum).expect_problem(400, "bad_digest");
    let second = put("2", &body[300_000..600_000], &sum).expect(200).json();
    assert_eq!((&second["number"], &second["size"]), (&json!(2), &json!(300_000)));
    // The later one of a number is the one.
    put("1", &body[..300_000], &[]).expect(200);
    for bad in ["0", "10001", "-1", "+1", "x", "1.0"] {
        put(bad, b"x", &[]).expect_any(&[400, 404]);
    }
    let listed = client.pages(&format!("{}/parts", upload.url));
    let numbers: Vec<_> = listed.iter().map(|part| part["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3]);
    upload.complete(&json!({"parts": [1, 2, 4]})).expect_any(&[400, 404, 409]);
    upload.complete(&json!({"parts": [2, 1, 3]})).expect_any(&[400, 409]);
    client.stat("f").expect(404);
    let answer = upload.complete(&json!({"parts": [1, 2, 3]})).expect(201);
    assert_eq!(answer.json()["path"], "f");
    assert_eq!(stamp::identify(&client.get("f").expect(200).body), Ok(Stamp::new(6, 1)));
    let again = upload.complete(&json!({"parts": [1, 2, 3]})).expect_any(&[200, 201]);
    assert_eq!(again.json()["id"], answer.json()["id"]);
    assert_eq!(client.revisions("f").len(), 1);
    oracle::all_is_well(&server, &client);
}
