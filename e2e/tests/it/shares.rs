//! Sharing over REST: the matrix of doors, verbs and roles, revocation, links.
//!
//! Not here: the rules themselves against races (core's tests).

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use larder_e2e::{
    client::{Client, text},
    http::{Response, encode_path},
    oracle,
    server::Server,
};
use serde_json::{Value, json};

/// What is asked of a file in a shared directory, with the least role that may do it.
const VERBS: &[(&str, usize)] = &[
    ("stat", VIEWER),
    ("list", VIEWER),
    ("get", VIEWER),
    ("head", VIEWER),
    ("get-by-id", VIEWER),
    ("get-revision", VIEWER),
    ("revisions", VIEWER),
    ("copy-out", VIEWER),
    ("mkdir", EDITOR),
    ("put-new", EDITOR),
    ("put-over", EDITOR),
    ("tus", EDITOR),
    ("move", EDITOR),
    ("delete", EDITOR),
    ("delete-by-id", EDITOR),
    ("restore-revision", EDITOR),
    ("delete-revision", EDITOR),
    ("share", MANAGER),
    ("shares-of", MANAGER),
    ("trash", NOBODY),
    ("empty-trash", NOBODY),
    ("changes", NOBODY),
    ("change-space", NOBODY),
    ("delete-space", NOBODY),
];
const NONE: usize = 0;
const VIEWER: usize = 1;
const EDITOR: usize = 2;
const MANAGER: usize = 3;
/// More than a grant on a directory can give.
const NOBODY: usize = 4;
const ROLES: [&str; 4] = ["none", "viewer", "editor", "manager"];

/// A door: how whoever has the role comes in, and what its credential leaves of the role.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Door {
    Password,
    FullKey,
    WriteKey,
    ReadKey,
    AppPassword,
}

impl Door {
    const ALL: [Self; 5] =
        [Self::Password, Self::FullKey, Self::WriteKey, Self::ReadKey, Self::AppPassword];

    fn client(self, root: &Client, user: &Client, name: &str) -> Client {
        let key = |kind: &str, access: &str| {
            let body = json!({"kind": kind, "name": "k", "scope": {"access": access}});
            let made = user.json("POST", "/v1/users/me/keys", &body).expect(201).json();
            text(&made, "key").to_owned()
        };
        match self {
            Self::Password => user.another(),
            Self::FullKey => Client::with_key(root.addr(), &key("api", "full")),
            Self::WriteKey => Client::with_key(root.addr(), &key("api", "write")),
            Self::ReadKey => Client::with_key(root.addr(), &key("api", "read")),
            Self::AppPassword => Client::new(root.addr(), name, &key("app", "write")),
        }
    }

    /// Whether the credential allows `verb`, which takes this role.
    fn allows(self, verb: &str, takes: usize) -> bool {
        match self {
            Self::Password | Self::FullKey => true,
            Self::WriteKey | Self::AppPassword => takes <= EDITOR,
            // The copy is written to one's own home.
            Self::ReadKey => takes == VIEWER && verb != "copy-out",
        }
    }
}

/// Does `verb` in the directory `dir` of the client's space.
fn run(client: &Client, verb: &str, dir: &str, id: &str) -> Response {
    let at = |name: &str| format!("{dir}/{name}");
    let space = client.space_name().to_owned();
    match verb {
        "stat" => client.stat(&at("f")),
        "list" => client.list_page(dir, ""),
        "get" => client.get(&at("f")),
        "head" => client.head(&at("f")),
        "get-by-id" => client.send("GET", &format!("/v1/files/{id}"), &[], None),
        "get-revision" => client.get_revision(&at("f"), 1),
        "revisions" => client.send("GET", &client.at("revisions", &at("f")), &[], None),
        "copy-out" => client.cp_to(&at("f"), "home", &dir.replace('/', "-")),
        "mkdir" => client.mkdir(&at("new")),
        "put-new" => client.put(&at("fresh"), b"fresh"),
        "put-over" => client.put(&at("f"), b"over"),
        "tus" => {
            let target = format!("/v1/uploads?space={space}&path={}", encode_path(&at("tus")));
            let headers = [("Tus-Resumable", "1.0.0"), ("Upload-Length", "0")];
            client.send("POST", &target, &headers, Some(b""))
        }
        "move" => client.mv(&at("f"), &at("g"), false),
        "delete" => client.rm(&at("f")),
        "delete-by-id" => client.send("DELETE", &format!("/v1/files/{id}"), &[], None),
        "restore-revision" => client.restore_revision(&at("f"), 1),
        "delete-revision" => client.rm_revision(&at("f"), 1),
        "share" => {
            let body = json!({"space": space, "path": at("f"), "kind": "link", "role": "viewer"});
            client.json("POST", "/v1/shares", &body)
        }
        "shares-of" => {
            let target = format!("/v1/shares?space={space}&path={}", encode_path(&at("f")));
            client.send("GET", &target, &[], None)
        }
        "trash" => client.send("GET", &format!("/v1/spaces/{space}/trash"), &[], None),
        "empty-trash" => client.send("DELETE", &format!("/v1/spaces/{space}/trash"), &[], None),
        "changes" => client.send("GET", &format!("/v1/spaces/{space}/changes"), &[], None),
        "change-space" => {
            client.json("PATCH", &format!("/v1/spaces/{space}"), &json!({"name": "stolen"}))
        }
        "delete-space" => client.send("DELETE", &format!("/v1/spaces/{space}"), &[], None),
        other => panic!("{other} is no verb"),
    }
}

/// A directory with a file of two revisions; answers the file's id.
fn plant(space: &Client, dir: &str) -> String {
    space.mkdir_all(dir).expect_any(&[200, 201]);
    space.put(&format!("{dir}/f"), b"one").expect(201);
    space.put(&format!("{dir}/f"), b"two").expect(200);
    text(&space.must_stat(&format!("{dir}/f")), "id").to_owned()
}

fn share(root: &Client, space: &str, path: &str, more: &Value) -> Value {
    let mut body = json!({"space": space, "path": path});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    root.json("POST", "/v1/shares", &body).expect(201).json()
}

#[test]
fn every_cell_of_doors_verbs_and_roles_is_as_the_table_says() {
    let server = Server::start();
    let root = server.client();
    let space = root.project("matrix", &json!({}));
    let mut cells = 0;
    for (role, role_name) in ROLES.iter().enumerate() {
        let name = format!("u-{role_name}");
        let user = root.make_user(&name);
        for door in Door::ALL {
            let client = door.client(&root, &user, &name).in_space("matrix");
            for (verb, takes) in VERBS {
                let dir = format!("{role_name}/{door:?}/{verb}");
                let inside = plant(&space, &format!("{dir}/in"));
                let outside = plant(&space, &format!("{dir}/out"));
                let grant = (role != NONE).then(|| {
                    let more = json!({"kind": "user", "with": name, "role": role_name});
                    share(&root, "matrix", &format!("{dir}/in"), &more)
                });
                let answer = run(&client, verb, &format!("{dir}/in"), &inside);
                let allowed = role >= *takes && door.allows(verb, *takes);
                let cell = format!("{verb} as {role_name} by {door:?}: {}", answer.status);
                if allowed {
                    assert!((200..300).contains(&answer.status), "{cell}");
                } else if role == NONE {
                    // Who has nothing there learns nothing, but that a key does not allow it.
                    assert!(matches!(answer.status, 403 | 404), "{cell}");
                    assert!(answer.status == 404 || !door.allows(verb, *takes), "{cell}");
                } else {
                    assert_eq!(answer.status, 403, "{cell}");
                }
                // Beside the grant there is nothing for anybody.
                if *takes <= MANAGER {
                    let beside = run(&client, verb, &format!("{dir}/out"), &outside);
                    let cell = format!("{verb} beside as {role_name} by {door:?}");
                    assert!(matches!(beside.status, 403 | 404), "{cell}: {}", beside.status);
                    assert!(beside.status == 404 || !door.allows(verb, *takes), "{cell}");
                }
                cells += 1;
                if let Some(grant) = grant {
                    let id = text(&grant, "id");
                    root.send("DELETE", &format!("/v1/shares/{id}"), &[], None).expect(204);
                }
            }
        }
    }
    assert_eq!(cells, ROLES.len() * Door::ALL.len() * VERBS.len());
    oracle::clean(&root);
}

#[test]
fn another_s_file_is_404_then_200_when_shared_then_404_when_revoked() {
    let server = Server::start();
    let root = server.client();
    let (ann, bob) = (root.make_user("ann"), root.make_user("bob"));
    ann.put("secret", b"for bob").expect(201);
    let id = text(&ann.must_stat("secret"), "id").to_owned();
    let url = format!("/v1/files/{id}");
    bob.send("GET", &url, &[], None).expect_problem(404, "not_found");
    let body = json!({"id": id, "kind": "user", "with": "bob", "role": "viewer"});
    let made = ann.json("POST", "/v1/shares", &body).expect(201).json();
    assert_eq!(bob.send("GET", &url, &[], None).expect(200).body, b"for bob");
    let share = format!("/v1/shares/{}", text(&made, "id"));
    ann.send("DELETE", &share, &[], None).expect(204);
    bob.send("GET", &url, &[], None).expect_problem(404, "not_found");
    oracle::clean(&root);
}

#[test]
fn a_running_upload_ends_within_seconds_of_the_revocation() {
    let server = Server::start();
    let root = server.client();
    let space = root.project("revoked", &json!({}));
    space.mkdir("in").expect(201);
    let bob = root.make_user("bob").in_space("revoked");
    let more = json!({"kind": "user", "with": "bob", "role": "editor"});
    let grant = share(&root, "revoked", "in", &more);
    let mut socket = TcpStream::connect(server.addr()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let head = bob.head_of("PUT", &bob.at("files", "in/f"), &[("Content-Length", "100000000")]);
    socket.write_all(head.as_bytes()).unwrap();
    socket.write_all(&[1; 1 << 20]).unwrap();
    let url = format!("/v1/shares/{}", text(&grant, "id"));
    root.send("DELETE", &url, &[], None).expect(204);
    let revoked = Instant::now();
    // It goes on sending until it is told.
    let mut answer = [0; 64];
    socket.set_nonblocking(true).unwrap();
    let told = loop {
        assert!(revoked.elapsed() < Duration::from_secs(15), "the upload goes on");
        // Once it is told, what it sends is for nobody.
        let sent = socket.write(&[1; 1000]);
        match socket.read(&mut answer) {
            Ok(count) if count > 0 => break String::from_utf8_lossy(&answer).into_owned(),
            Ok(_) => panic!("closed without an answer: {sent:?}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    assert!(told.starts_with("HTTP/1.1 404"), "{told}");
    space.stat("in/f").expect(404);
    oracle::clean(&root);
}

#[test]
fn a_link_works_without_an_account_within_its_terms_and_shows_nothing_else() {
    let server = Server::start();
    let root = server.client();
    let space = root.project("public", &json!({}));
    let closed = plant(&space, "closed");
    plant(&space, "open");
    let terms = json!({"kind": "link", "role": "viewer", "name": "for all",
                       "password": "open sesame", "downloads_max": 3});
    let made = share(&root, "public", "open", &terms);
    let token = text(&made["link"], "token").to_owned();
    assert!(token.len() >= 22, "at least 128 bits");
    let guest = Client::anonymous(server.addr());
    let link = |rest: &str| format!("/v1/links/{token}{rest}");
    let view = guest.send("GET", &link(""), &[], None).expect(200).json();
    assert_eq!((text(&view, "kind"), &view["has_password"]), ("dir", &json!(true)));
    guest.send("GET", &link("/list/"), &[], None).expect(401);
    let open = [("Larder-Link-Password", "open sesame")];
    let wrong = [("Larder-Link-Password", "open barley")];
    guest.send("GET", &link("/list/"), &wrong, None).expect(401);
    let listed = guest.send("GET", &link("/list/"), &open, None).expect(200).json();
    assert_eq!(text(&listed["entries"][0], "path"), "f");
    assert_eq!(guest.send("GET", &link("/files/f"), &open, None).expect(200).body, b"two");
    guest.send("PUT", &link("/files/g"), &open, Some(b"x")).expect_problem(403, "denied");
    guest.send("DELETE", &link("/files/f"), &open, None).expect_problem(403, "denied");
    guest.send("PUT", &link("/dirs/d"), &open, Some(b"")).expect_problem(403, "denied");
    for path in ["/files/../closed/f", "/files/%2e%2e/closed/f", "/stat/..%2fclosed"] {
        let answer = guest.send("GET", &link(path), &open, None);
        assert!(matches!(answer.status, 400 | 404), "{path}: {}", answer.status);
    }
    // The token is no credential anywhere else, with foreign ids or without.
    let bearer = Client::with_key(server.addr(), &token);
    let basic = Client::new(server.addr(), "link", &token);
    for client in [&guest, &bearer, &basic] {
        for target in [
            format!("/v1/files/{closed}"),
            "/v1/spaces".to_owned(),
            "/v1/spaces/public/list/".to_owned(),
            "/v1/spaces/@link/list/".to_owned(),
            "/v1/spaces/public/trash".to_owned(),
            "/v1/spaces/public/changes".to_owned(),
            "/v1/shares".to_owned(),
            "/v1/me".to_owned(),
            "/v1/admin/check".to_owned(),
        ] {
            // Wrong passwords are slowed down after some.
            client.send("GET", &target, &open, None).expect_any(&[401, 429]);
        }
    }
    root.send("GET", "/v1/spaces/@link/list/", &[], None).expect_problem(404, "not_found");
    // One download is counted already.
    guest.send("GET", &link("/files/f"), &open, None).expect(200);
    guest.send("HEAD", &link("/files/f"), &open, None).expect(200);
    guest.send("GET", &link("/files/f"), &open, None).expect(200);
    guest.send("GET", &link("/files/f"), &open, None).expect_problem(410, "gone");
    let id = text(&made, "id");
    root.send("DELETE", &format!("/v1/shares/{id}"), &[], None).expect(204);
    guest.send("GET", &link(""), &open, None).expect_problem(404, "not_found");
    assert!(!server.log().contains(&token), "the token is in no log");
    oracle::clean(&root);
}

#[test]
fn an_upload_link_takes_files_and_shows_none() {
    let server = Server::start();
    let root = server.client();
    let space = root.project("inbox", &json!({}));
    plant(&space, "in");
    let made = share(&root, "inbox", "in", &json!({"kind": "link", "role": "uploader"}));
    let token = text(&made["link"], "token").to_owned();
    let guest = Client::anonymous(server.addr());
    let link = |rest: &str| format!("/v1/links/{token}{rest}");
    guest.send("PUT", &link("/files/f"), &[], Some(b"sent")).expect(201);
    guest.send("PUT", &link("/files/big"), &[], Some(&vec![7; 3 << 20])).expect(201);
    for verb in ["files/f", "stat/f", "list/", "stat/"] {
        guest.send("GET", &link(&format!("/{verb}")), &[], None).expect_problem(404, "not_found");
    }
    assert_eq!(space.get("in/f").expect(200).body, b"two", "what was there is untouched");
    assert_eq!(space.get("in/f (2)").expect(200).body, b"sent");
    assert_eq!(space.get("in/big").expect(200).body.len(), 3 << 20);
    oracle::clean(&root);
}

#[test]
fn what_is_shared_gets_a_place_among_one_s_own_files() {
    let mut server = Server::start();
    let root = server.client();
    let space = root.project("team", &json!({}));
    plant(&space, "docs");
    let ann = root.make_user("ann");
    share(&root, "team", "docs", &json!({"kind": "user", "with": "ann", "role": "editor"}));
    let shared = ann.pages("/v1/shares");
    let node = text(&shared[0], "node").to_owned();
    let at = |name: &str| format!("/v1/spaces/home/references/{name}");
    let body = json!({"target": {"id": node}});
    let made = ann.json("PUT", &at("docs"), &body).expect(201).json();
    assert_eq!((text(&made, "kind"), text(&made["target"], "kind")), ("ref", "dir"));
    ann.json("PUT", &at("docs"), &body).expect_problem(409, "already_exists");
    ann.put("docs/new", b"from ann").expect(201);
    assert_eq!(space.get("docs/new").expect(200).body, b"from ann");
    assert_eq!(ann.get("docs/f").expect(200).body, b"two");
    let paths: Vec<String> =
        ann.list("docs").iter().map(|entry| text(entry, "path").to_owned()).collect();
    assert_eq!(paths, ["docs/f", "docs/new"]);
    // The bytes are charged to where they are.
    assert_eq!(ann.usage().live, 0);
    server.kill9();
    server.restart();
    let (root, ann) = (server.client(), ann.by_way_of(server.addr()));
    assert_eq!(ann.get("docs/new").expect(200).body, b"from ann");
    ann.rm("docs").expect(204);
    ann.stat("docs").expect(404);
    assert_eq!(root.in_space("team").get("docs/f").expect(200).body, b"two");
    oracle::clean(&root);
}
