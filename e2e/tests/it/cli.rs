//! The command line on real trees, as scripts use it: byte-identical, with exit codes.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    process::{Command, Output},
};

use larder_e2e::{
    client::{Client, text},
    oracle,
    server::{Server, USER, cli},
    stamp::Stamp,
    tool::{self, Dice, knob},
};
use serde_json::Value;

#[track_caller]
fn run(server: &Server, args: &[&str]) -> Output {
    cli(server).args(args).current_dir(server.scratch()).output().unwrap()
}

#[track_caller]
fn ok(server: &Server, args: &[&str]) -> String {
    let output = run(server, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {:?}: {stderr}", output.status.code());
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn exits(server: &Server, code: i32, args: &[&str]) {
    let output = run(server, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(!stderr.trim().is_empty(), "{args:?} says why");
}

/// Files (with bytes) and directories below `dir`.
fn tree_of(dir: &Path) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(dir).unwrap().as_os_str().as_bytes().to_vec();
            let is_dir = path.is_dir();
            found.insert(name, (!is_dir).then(|| fs::read(&path).unwrap()));
            if is_dir {
                open.push(path);
            }
        }
    }
    found
}

/// A tree like those of people: many small files, a few large ones, odd names, empty folders.
fn make_tree(dir: &Path, files: u64) {
    let mut dice = Dice::new(7);
    let odd =
        ["with space", "100%", "\u{e9}t\u{e9}", "#hash?", "a+b&c=d", ".hidden", "~tilde", "'q'"];
    for number in 0..files {
        let folder = dir.join(format!("d{}", dice.below(40))).join(*dice.pick(&odd));
        fs::create_dir_all(&folder).unwrap();
        let len = match dice.below(100) {
            0 => 0,
            1..3 => 131_072 + dice.below(300_000),
            _ => dice.below(6000),
        };
        let name = format!("{} {number}.bin", dice.pick(&odd));
        fs::write(folder.join(name), Stamp::new(7, number as u32).body(len as usize)).unwrap();
    }
    fs::create_dir_all(dir.join("empty/inner")).unwrap();
    fs::write(dir.join("n".repeat(255)), b"a long name").unwrap();
}

#[test]
fn a_tree_goes_up_and_comes_back_byte_identical() {
    let _alone = tool::heavy();
    let server = Server::start();
    let files = knob("LARDER_E2E_TREE", 2000);
    let (up, back) = (server.scratch().join("up"), server.scratch().join("back"));
    make_tree(&up, files);
    ok(&server, &["put", "-r", "up", "home:/tree"]);
    let client = server.client();
    assert_eq!(client.list_all("tree").len(), tree_of(&up).len());
    ok(&server, &["get", "-r", "home:/tree", "back"]);
    assert!(tree_of(&up) == tree_of(&back), "the trees differ");
    assert!(server.memory().1 < 256 << 20, "peak memory {}", server.memory().1);
    // Once more over what is there: nothing is lost, and the tree is the same.
    ok(&server, &["put", "-r", "up", "home:/tree"]);
    assert_eq!(client.list_all("tree").len(), tree_of(&up).len());
    oracle::all_is_well(&server, &client);
}

#[test]
fn a_large_file_goes_up_and_comes_back_in_little_memory() {
    let _alone = tool::heavy();
    let server = Server::start();
    let bytes = knob("LARDER_E2E_LARGE_MIB", 300) << 20;
    let file = server.scratch().join("large");
    {
        use std::io::Write as _;
        let mut out = std::io::BufWriter::with_capacity(1 << 20, fs::File::create(&file).unwrap());
        for offset in (0..bytes).step_by(64) {
            out.write_all(&Stamp::new(1, 1).record(offset, bytes)).unwrap();
        }
        out.flush().unwrap();
    }
    ok(&server, &["put", "large", "home:/large"]);
    ok(&server, &["get", "home:/large", "back"]);
    let same = Command::new("cmp").arg(&file).arg(server.scratch().join("back")).status().unwrap();
    assert!(same.success(), "the files differ");
    assert!(server.memory().1 < 256 << 20, "peak memory {}", server.memory().1);
    oracle::clean(&server.client());
}

#[test]
fn exit_codes_tell_scripts_what_happened() {
    let server = Server::start();
    fs::write(server.scratch().join("f"), b"content").unwrap();
    ok(&server, &["put", "f", "home:/f"]);
    exits(&server, 3, &["get", "home:/missing", "x"]);
    exits(&server, 3, &["stat", "home:/missing"]);
    exits(&server, 3, &["rm", "home:/missing"]);
    exits(&server, 3, &["ls", "nowhere:/"]);
    exits(&server, 2, &["frobnicate"]);
    exits(&server, 2, &["put"]);
    exits(&server, 1, &["put", "no-such-local-file", "home:/x"]);
    ok(&server, &["mkdir", "home:/d"]);
    exits(&server, 5, &["mkdir", "home:/d"]);
    ok(&server, &["cp", "home:/f", "home:/d/f"]);
    ok(&server, &["mv", "home:/f", "home:/g"]);
    exits(&server, 5, &["mv", "home:/g", "home:/d/f"]);
    let client = server.client();
    client.limit(Some(14));
    exits(&server, 6, &["put", "f", "home:/over"]);
    client.limit(None);
    drop(client.make_user("ann"));
    let mut denied = cli(&server);
    denied.env("LARDER_USER", "ann").env("LARDER_PASSWORD", "ann-password");
    let output = denied.args(["users", "create", "eve", "--new-password", "long-enough"]).output();
    assert_eq!(output.unwrap().status.code(), Some(4), "not allowed");
    let mut wrong = cli(&server);
    wrong.env("LARDER_PASSWORD", "wrong").args(["ls", "home:/"]);
    assert_eq!(wrong.output().unwrap().status.code(), Some(4), "wrong password");
    let mut nobody = cli(&server);
    nobody.env("LARDER_URL", "http://127.0.0.1:1").args(["ls", "home:/"]);
    assert_eq!(nobody.output().unwrap().status.code(), Some(1), "no server");
    oracle::clean(&client);
}

#[test]
fn every_listing_can_be_read_by_programs() {
    let server = Server::start();
    fs::write(server.scratch().join("f"), b"one").unwrap();
    ok(&server, &["put", "f", "home:/f"]);
    fs::write(server.scratch().join("f"), b"two!").unwrap();
    ok(&server, &["put", "f", "home:/f"]);
    let json = |args: &[&str]| -> Vec<Value> {
        let said = ok(&server, &[args, &["--json"]].concat());
        let lines = serde_json::Deserializer::from_str(&said).into_iter::<Value>();
        let values: Vec<Value> = lines.map(|value| value.expect("JSON")).collect();
        assert!(!values.is_empty(), "{args:?}: {said}");
        values
    };
    let holds = |values: &[Value], text: &str| values.iter().any(|v| v.to_string().contains(text));
    assert!(holds(&json(&["ls", "home:/"]), "\"name\":\"f\""));
    assert!(holds(&json(&["stat", "home:/f"]), "\"size\":4"));
    assert!(holds(&json(&["revisions", "ls", "home:/f"]), "\"revision\":1"));
    ok(&server, &["rm", "home:/f"]);
    assert!(holds(&json(&["trash", "ls"]), "\"deleted_by\":\"root\""));
    assert!(holds(&json(&["users", "ls"]), USER));
    assert!(holds(&json(&["check"]), "\"violations\":0"));
}

#[test]
fn an_interrupted_download_leaves_no_file_under_the_wanted_name() {
    let mut server = Server::start();
    server.client().put("f", &Stamp::new(1, 1).body(30 << 20)).expect(201);
    let mut get = cli(&server);
    get.args(["get", "home:/f", "wanted"]).current_dir(server.scratch());
    let mut get = get.stderr(std::process::Stdio::null()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(60));
    server.kill9();
    let status = get.wait().unwrap();
    let wanted = server.scratch().join("wanted");
    if !status.success() {
        assert!(!wanted.exists(), "half a file under the wanted name");
    } else {
        assert_eq!(fs::metadata(&wanted).unwrap().len(), 30 << 20);
    }
}

#[test]
fn what_is_shared_by_the_command_line_opens_for_whom_it_was_shared() {
    let server = Server::start();
    let root = server.client();
    let ann = root.make_user("ann");
    root.mkdir("notes").expect(201);
    root.put("notes/a.txt", b"shared").expect(201);
    let secret = server.scratch().join("secret");
    fs::write(&secret, "open sesame\n").unwrap();
    ok(&server, &["share", "create", "home:/notes", "--with-user", "ann", "--role", "editor"]);
    let made = ok(
        &server,
        &[
            "--json",
            "share",
            "create",
            "home:/notes",
            "--link",
            "--name",
            "for all",
            "--downloads",
            "3",
            "--expires",
            "7d",
            "--link-password-file",
            "secret",
        ],
    );
    let made: Value = serde_json::from_str(&made).unwrap();
    let url = text(&made["link"], "url").to_owned();
    let guest = Client::anonymous(server.addr());
    guest.send("GET", &format!("{url}/files/a.txt"), &[], None).expect(401);
    let open = [("Larder-Link-Password", "open sesame")];
    let got = guest.send("GET", &format!("{url}/files/a.txt"), &open, None).expect(200);
    assert_eq!(got.body, b"shared");
    let listed = ok(&server, &["--json", "share", "ls", "home:"]);
    assert_eq!(listed.lines().count(), 2, "{listed}");
    let node = text(&made, "node");
    let mount = cli(&server)
        .args(["share", "mount", node, "home:/from-root"])
        .env("LARDER_USER", "ann")
        .env("LARDER_PASSWORD", "ann-password")
        .output()
        .unwrap();
    assert!(mount.status.success(), "{}", String::from_utf8_lossy(&mount.stderr));
    assert_eq!(ann.get("from-root/a.txt").expect(200).body, b"shared");
    ok(&server, &["share", "rm", text(&made, "id")]);
    guest.send("GET", &url, &open, None).expect(404);
    let left = ok(&server, &["--json", "share", "ls", "home:/notes"]);
    assert_eq!(left.lines().count(), 1, "{left}");
    oracle::clean(&root);
}
