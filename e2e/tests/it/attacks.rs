//! Attacks on rights: whoever tries to be somebody else, or to do what they may not. Each class of
//! attack is one that other servers have fallen to; the tests that hold it, here and elsewhere:
//!
//! * Anonymous, unknown and foreign callers at every operation, administration by others, requests
//!   that other sites have browsers send: `every_operation_asks_who_is_calling`,
//!   `identity::nobody_gets_in_without_credentials_or_with_well_known_ones`,
//!   `limits::other_sites_are_allowed_nothing`.
//! * Wrong secrets told apart from unknown ones: `unknown_and_wrong_secrets_are_told_the_same`,
//!   `identity::an_unknown_user_and_a_wrong_password_have_the_same_answer`.
//! * A second way to upload that checks less: `no_way_to_upload_takes_a_wrong_secret`.
//! * Default, empty and weak credentials: `no_secret_is_empty_or_weak`,
//!   `identity::a_first_start_without_a_password_draws_one_that_is_told_once`.
//! * Keys that make greater keys: `no_key_makes_a_greater_one`,
//!   `identity::keys_do_what_their_scope_says_and_nothing_else`.
//! * A credential in another's place: `a_credential_is_none_of_another_kind`.
//! * Guessing passwords, of links too: `a_link_s_password_is_not_guessed`,
//!   `guessing_is_not_helped_by_headers`,
//!   `identity::a_thousand_guesses_are_slowed_and_lock_nobody_else_out`.
//! * Headers that claim an address, a name or a right:
//!   `limits::headers_of_our_own_making_have_no_effect_when_clients_send_them`,
//!   `limits::a_trusted_proxy_says_whose_request_it_is_and_nobody_else_does`.
//! * Secrets in logs, open doors for debugging: `no_link_or_debug_door_tells_a_secret`,
//!   `identity::no_secret_is_ever_in_the_log_or_readable_in_the_data`.
//!
//! Not here: what is reached with rights (`attacks_reach`), when they end (`attacks_after`), names,
//! paths and contents (`attacks_wire`), amounts (`attacks_floods`).

use larder_e2e::{
    client::{Client, Headers, Response, text},
    http::Conn,
    oracle,
    server::{Options, PASSWORD, Server, USER, must_end},
    tus::{self, PIECE, RESUMABLE, Upload},
};
use serde_json::{Value, json};

/// A token of the right form that belongs to no link.
const NO_LINK: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// A client with a new key of this user's.
#[track_caller]
pub(crate) fn key_of(client: &Client, body: &Value) -> Client {
    let made = client.json("POST", "/v1/users/me/keys", body).expect(201).json();
    Client::with_key(client.addr(), text(&made, "key"))
}

/// Makes a share.
#[track_caller]
pub(crate) fn share(client: &Client, body: &Value) -> Value {
    client.json("POST", "/v1/shares", body).expect(201).json()
}

fn me(client: &Client) -> Response {
    client.send("GET", "/v1/me", &[], None)
}

/// Who may use an operation.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Who {
    /// Whoever asks.
    Open,
    /// Whoever has the link: with a token of no link, nobody.
    Link,
    /// Whoever has an account; each sees what is their own.
    User,
    /// The same, but with no key of less than full access.
    Account,
    /// Whoever may read the space.
    Read,
    /// Whoever may write in the space.
    Write,
    /// Its owner and administrators, with full credentials.
    Full,
    /// Administrators.
    Admin,
}

/// Who may do what, for every operation of the document.
fn who(method: &str, path: &str) -> Option<Who> {
    let rest = path.strip_prefix("/v1").unwrap_or(path);
    let rest = rest.strip_prefix("/spaces/{space}/").unwrap_or(rest);
    let verb = rest.split('/').find(|part| !part.is_empty()).unwrap_or_default();
    Some(match (method, path) {
        (_, "/health" | "/ready" | "/metrics" | "/v1/openapi.json") | ("OPTIONS", _) => Who::Open,
        (_, _) if path.starts_with("/v1/links/{token}") => Who::Link,
        (_, _) if path.starts_with("/v1/admin/") => Who::Admin,
        ("GET", "/v1/me" | "/v1/spaces" | "/v1/uploads") => Who::User,
        ("GET", "/v1/groups" | "/v1/shares") => Who::Account,
        ("GET", "/v1/spaces/{space}" | "/v1/files/{id}") => Who::Read,
        ("PATCH", "/v1/spaces/{space}") => Who::Full,
        (_, "/v1/spaces" | "/v1/spaces/{space}") => Who::Admin,
        (_, _) if verb == "users" || verb == "groups" => Who::Admin,
        (_, _) if verb == "shares" || verb == "lifecycle" => Who::Full,
        (_, _) if verb == "trash" || verb == "uploads" => Who::Write,
        ("GET", _) if ["files", "stat", "list", "revisions", "changes"].contains(&verb) => {
            Who::Read
        }
        (_, _) if ["files", "dirs", "revisions", "move", "copy", "references"].contains(&verb) => {
            Who::Write
        }
        _ => return None,
    })
}

/// A request that its rightful sender gets done.
struct Asked {
    target: String,
    headers: Vec<(&'static str, String)>,
    body: Option<Vec<u8>>,
}

impl Asked {
    fn send(&self, client: &Client, method: &str, more: &[(&str, &str)]) -> Response {
        let mut headers: Vec<(&str, &str)> =
            self.headers.iter().map(|(name, value)| (*name, &**value)).collect();
        headers.extend_from_slice(more);
        client.another().send(method, &self.target, &headers, self.body.as_deref())
    }
}

/// Makes everything that an operation names, anew, as the administrator.
fn prepare(root: &Client, number: usize, method: &str, path: &str) -> Asked {
    let name = format!("vault-{number}");
    let space = root.project(&name, &json!({}));
    for body in [b"one", b"two"] {
        space.put("f", body).expect_any(&[200, 201]);
    }
    space.mkdir("d").expect(201);
    let id = text(&space.must_stat("f"), "id").to_owned();
    let mut target = path.replace("{space}", &name).replace("{token}", NO_LINK);
    let what = match path.rsplit_once("/{path}").map(|(head, _)| head) {
        Some(head) if head.ends_with("dirs") || head.ends_with("references") => "new",
        Some(head) if head.ends_with("list") => "d",
        _ => "f",
    };
    target = target.replace("{path}", what);
    if path.contains("{item}") {
        space.rm("f").expect(204);
        target = target.replace("{item}", &space.trash_item(&id).unwrap());
    }
    let victim = format!("victim-{number}");
    if path.contains("{user}") || path.starts_with("/v1/shares") {
        root.make_user(&victim);
    }
    if path.contains("{group}") {
        root.json("POST", "/v1/groups", &json!({"name": victim})).expect(201);
        target = target.replace("{group}", &victim);
        if method == "DELETE" && path.ends_with("{user}") {
            root.send("PUT", &format!("/v1/groups/{victim}/members/{victim}"), &[], Some(b""))
                .expect(204);
        }
    }
    target = target.replace("{user}", &victim);
    if path.contains("{key}") {
        let made = root.json("POST", &format!("/v1/users/{victim}/keys"), &json!({}));
        target = target.replace("{key}", text(&made.expect(201).json(), "id"));
    }
    let to_victim = json!({"id": id, "kind": "user", "with": victim, "role": "viewer"});
    let subject = match path {
        _ if path.starts_with("/v1/shares/") => text(&share(root, &to_victim), "id").to_owned(),
        _ if path.starts_with("/v1/admin/jobs/") => {
            let job = root.json("POST", "/v1/admin/jobs", &json!({"kind": "check"}));
            text(&job.expect_any(&[200, 202]).json(), "id").to_owned()
        }
        _ if path.starts_with("/v1/uploads/") => {
            let numbered = path.contains("parts");
            let query = format!("space={name}&path=up&numbered={numbered}");
            let length = [("Upload-Length", "3")];
            let made = tus::begin(&space, &query, if numbered { &[] } else { &length });
            let upload = Upload::of(&space, &made.expect(201));
            upload.url.rsplit('/').next().unwrap().to_owned()
        }
        _ => id.clone(),
    };
    target = target.replace("{id}", &subject).replace("{number}", "1");
    let (query, headers, body) = request(method, path, &name, &victim, &id);
    if !query.is_empty() {
        target = format!("{target}?{query}");
    }
    Asked { target, headers, body }
}

type Parts = (String, Vec<(&'static str, String)>, Option<Vec<u8>>);

/// Query, headers and body of a request that can be done.
fn request(method: &str, path: &str, name: &str, victim: &str, id: &str) -> Parts {
    let own = |(name, value): (&'static str, &str)| (name, value.to_owned());
    let fresh = format!("{victim}-new");
    let json = match (method, path) {
        ("POST", "/v1/spaces") => Some(json!({"name": fresh, "kind": "project"})),
        ("PATCH", "/v1/spaces/{space}") => Some(json!({"name": format!("{name}-taken")})),
        ("POST", "/v1/spaces/{space}/revisions/{path}") => Some(json!({"revision": 1})),
        ("POST", "/v1/spaces/{space}/move" | "/v1/spaces/{space}/copy") => {
            Some(json!({"from": "f", "to": "g"}))
        }
        ("PUT", "/v1/spaces/{space}/references/{path}") => Some(json!({"target": {"id": id}})),
        ("PUT", "/v1/spaces/{space}/lifecycle") => Some(json!({"rules": []})),
        ("POST", "/v1/users") => Some(json!({"name": fresh, "password": "long enough"})),
        ("PATCH", "/v1/users/{user}") => Some(json!({"disabled": true})),
        ("POST", "/v1/users/{user}/keys") => Some(json!({"name": "mine"})),
        ("POST", "/v1/groups") => Some(json!({"name": fresh})),
        ("PATCH", "/v1/groups/{group}") => Some(json!({"name": fresh})),
        ("POST", "/v1/shares") => {
            Some(json!({"id": id, "kind": "user", "with": victim, "role": "viewer"}))
        }
        ("PATCH", "/v1/shares/{id}") => Some(json!({"role": "editor"})),
        ("POST", "/v1/admin/jobs") => Some(json!({"kind": "check"})),
        _ => None,
    };
    if let Some(json) = json {
        let kind = own(("Content-Type", "application/json"));
        return (String::new(), vec![kind], Some(json.to_string().into_bytes()));
    }
    let none = |query: &str| (query.to_owned(), Vec::new(), None);
    match (method, path) {
        ("POST", "/v1/files") => (format!("space={name}&path=g"), vec![], Some(b"x".to_vec())),
        ("POST", "/v1/uploads") => {
            let headers = vec![own(RESUMABLE), own(("Upload-Length", "3"))];
            (format!("space={name}&path=g"), headers, Some(Vec::new()))
        }
        ("PATCH", "/v1/uploads/{id}") => {
            let headers = vec![own(RESUMABLE), own(PIECE), own(("Upload-Offset", "0"))];
            (String::new(), headers, Some(b"xyz".to_vec()))
        }
        (_, "/v1/uploads/{id}") => (String::new(), vec![own(RESUMABLE)], None),
        ("DELETE", "/v1/spaces/{space}/revisions/{path}") => none("revision=1"),
        ("DELETE", "/v1/files/{id}") => none("revision=1"),
        ("POST" | "PUT", _) => (String::new(), Vec::new(), Some(Vec::new())),
        _ => none(""),
    }
}

/// Everybody who tries; what they may use at most.
fn tellers(root: &Client) -> Vec<(&'static str, Client)> {
    let addr = root.addr();
    let mallory = root.make_user("mallory");
    root.project("elsewhere", &json!({})).mkdir("d").expect(201);
    let key = |client: &Client, scope: Value| key_of(client, &json!({"scope": scope}));
    let link = json!({"space": "elsewhere", "path": "d", "kind": "link", "role": "editor"});
    let link = share(root, &link);
    vec![
        ("anonymous", Client::anonymous(addr)),
        ("unknown", Client::with_key(addr, "lk_AaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaA")),
        ("link", Client::with_key(addr, text(&link["link"], "token"))),
        ("user", mallory.another()),
        ("user's key", key(&mallory, json!({"access": "full"}))),
        ("key elsewhere", key(root, json!({"access": "full", "spaces": ["elsewhere"]}))),
        ("read key", key(root, json!({"access": "read"}))),
        ("write key", key(root, json!({"access": "write"}))),
        ("other site", root.another()),
        ("administrator", root.another()),
    ]
}

/// Whether `name` may use what is for `who`.
fn allowed(name: &str, who: Who, method: &str) -> bool {
    let safe = matches!(method, "GET" | "HEAD" | "OPTIONS");
    match name {
        "administrator" => who != Who::Link,
        "other site" => who != Who::Link && safe,
        "write key" => matches!(who, Who::Open | Who::User | Who::Read | Who::Write),
        "read key" => matches!(who, Who::Open | Who::User | Who::Read),
        "user" | "user's key" | "key elsewhere" => {
            matches!(who, Who::Open | Who::User | Who::Account)
        }
        _ => who == Who::Open,
    }
}

#[test]
fn every_operation_asks_who_is_calling() {
    let server = Server::start();
    let root = server.client();
    let tellers = tellers(&root);
    let document = root.send("GET", "/v1/openapi.json", &[], None).expect(200).json();
    let (mut number, mut cells) = (0, 0);
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys().map(|method| method.to_uppercase()) {
            let who = who(&method, path);
            let who = who.unwrap_or_else(|| panic!("who may {method} {path} is not said here"));
            let mut asked = prepare(&root, number, &method, path);
            for (name, client) in &tellers {
                let origin: &[(&str, &str)] = match *name {
                    "other site" => &[("Origin", "https://evil.example")],
                    _ => &[],
                };
                let answer = asked.send(client, &method, origin);
                let cell = format!("{method} {path} for {who:?} by {name}: {answer}");
                let may = allowed(name, who, &method);
                judge(may, name, who, &answer, &cell);
                cells += 1;
                if method == "GET" && !may {
                    let head = asked.send(client, "HEAD", origin);
                    assert!([answer.status, 405].contains(&head.status), "HEAD: {cell}: {head}");
                }
                if !may && matches!(&*method, "DELETE" | "PATCH" | "PUT") {
                    for header in ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"] {
                        let answer =
                            asked.send(client, "POST", &[origin, &[(header, &*method)]].concat());
                        assert!((400..500).contains(&answer.status), "{header}: {cell}: {answer}");
                    }
                }
                if may && *name != "administrator" && !matches!(&*method, "GET" | "OPTIONS") {
                    number += 1;
                    asked = prepare(&root, number, &method, path);
                }
            }
            number += 1;
        }
    }
    assert!(cells > 700, "{cells} cells");
    oracle::clean(&root);
}

#[track_caller]
fn judge(may: bool, name: &str, who: Who, answer: &Response, cell: &str) {
    let status = answer.status;
    if may {
        let known = cell.starts_with("POST /v1/admin/load") && status == 400
            || cell.starts_with("DELETE /v1/admin/jobs") && [404, 409].contains(&status)
            || cell.contains("/complete ") && [400, 409].contains(&status);
        assert!((200..300).contains(&status) || known, "{cell}");
    } else if who == Who::Link {
        assert!([403, 404].contains(&status), "{cell}");
    } else if ["anonymous", "unknown", "link"].contains(&name) {
        assert_eq!(status, 401, "{cell}");
    } else {
        assert!([403, 404].contains(&status), "{cell}");
    }
    if ["user", "user's key"].contains(&name) && who > Who::Open {
        let shown = String::from_utf8_lossy(&answer.body);
        assert!(!shown.contains("vault-"), "another's space is shown: {cell}");
    }
    let cors = |(name, _): &(String, String)| name.starts_with("access-control-");
    assert!(!answer.headers.iter().any(cors), "{cell}");
}

#[test]
fn unknown_and_wrong_secrets_are_told_the_same() {
    let server = Server::start();
    let root = server.client();
    let made = root.json("POST", "/v1/users/me/keys", &json!({})).expect(201).json();
    let right = text(&made, "key").to_owned();
    let last = if right.ends_with('A') { 'B' } else { 'A' };
    let wrong = format!("{}{last}", &right[..right.len() - 1]);
    let unknown = format!("lk_{}", "x".repeat(right.len() - 3));
    let told = |answer: Response| {
        let answer = answer.expect_any(&[401, 404]);
        let mut body = answer.json();
        body.as_object_mut().unwrap().remove("request_id");
        let header = answer.header("www-authenticate").map(str::to_owned);
        (answer.status, body, header)
    };
    let by = |key: &str| told(me(&Client::with_key(server.addr(), key)));
    assert_eq!(by(&wrong), by(&unknown));
    assert_eq!(by(&wrong), by("lk_"));
    let deleted = format!("/v1/users/me/keys/{}", text(&made, "id"));
    root.send("DELETE", &deleted, &[], None).expect(204);
    assert_eq!(by(&right), by(&unknown), "a deleted key is no key");
    // What a stranger may not see does not exist.
    let space = root.project("hidden", &json!({}));
    space.put("f", b"x").expect(201);
    let id = text(&space.must_stat("f"), "id").to_owned();
    let mallory = root.make_user("mallory");
    let ask = |target: &str| told(mallory.send("GET", target, &[], None));
    let none = "01890000-0000-7000-8000-000000000000";
    assert_eq!(ask(&format!("/v1/files/{id}")), ask(&format!("/v1/files/{none}")));
    for verb in ["", "/stat/f", "/files/f", "/list/", "/trash", "/changes", "/lifecycle"] {
        let (there, not) = (format!("/v1/spaces/hidden{verb}"), format!("/v1/spaces/absent{verb}"));
        assert_eq!(ask(&there), ask(&not), "{verb}");
    }
}

#[test]
fn no_way_to_upload_takes_a_wrong_secret() {
    let server = Server::start();
    let root = server.client();
    let upload = Upload::new(&root, "tus", 3);
    let numbered = tus::begin(&root, "path=numbered&numbered=1", &[]);
    let numbered = Upload::of(&root, &numbered.expect(201));
    let form = b"--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"form\"\r\n\r\nx\r\n\
                 --b--\r\n";
    let form_kind = ("Content-Type", "multipart/form-data; boundary=b");
    let begin = [RESUMABLE, PIECE, ("Upload-Length", "3")];
    let piece = [RESUMABLE, PIECE, ("Upload-Offset", "0")];
    let part = format!("{}/parts/1", numbered.url);
    let ways: [(&str, &str, Headers<'_>, &[u8]); 9] = [
        ("PUT", "/v1/spaces/home/files/put", &[], b"x"),
        ("POST", "/v1/files?path=post", &[], b"x"),
        ("POST", "/files?path=post", &[], b"x"),
        ("POST", "/v1/files", &[form_kind], form),
        ("POST", "/v1/uploads?path=begun", &begin, b"xyz"),
        ("PATCH", &upload.url, &piece, b"xyz"),
        ("PUT", &part, &[], b"xyz"),
        ("POST", "/v1/admin/load", &[], b"xyz"),
        ("PUT", "/v1/spaces/home/files/again", &[("Idempotency-Key", "k")], b"x"),
    ];
    let headers = [
        "Basic",
        "Bearer",
        "Bearer ",
        "Basic cm9vdDo=",
        "Basic !!",
        "Digest root",
        "AWS4-HMAC-SHA256 Credential=root",
        "Negotiate x",
        "lk_",
    ];
    let wrong = headers.map(|header| Some(header.to_owned())).into_iter().chain([None]);
    for authorization in wrong {
        let client = Client::with_authorization(server.addr(), authorization.clone());
        for (method, target, headers, body) in &ways {
            let cell = format!("{method} {target} with {authorization:?}");
            for extra in [
                ("X-Plain", "1"),
                ("X-Amz-Meta-Snowball-Auto-Extract", "true"),
                ("X-Amz-Content-Sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
            ] {
                let headers = [*headers, &[extra]].concat();
                let answer = client.send(method, target, &headers, Some(body));
                assert!([400, 401, 429].contains(&answer.status), "{cell}: {answer}");
                let chunked = client.send_chunked(method, target, &headers, body, 2);
                assert!([400, 401, 429].contains(&chunked.status), "{cell}: {chunked}");
            }
            // Nobody is told to go on who may not.
            let mut conn = Conn::open(server.addr()).unwrap();
            let headers =
                [*headers, &[("Content-Length", "3"), ("Expect", "100-continue")]].concat();
            conn.send(client.head_of(method, target, &headers).as_bytes()).unwrap();
            let first = conn.any_head().unwrap();
            assert!([400, 401, 429].contains(&first.status), "{cell}: {first}");
        }
    }
    assert!(root.list_all("").is_empty(), "nothing was stored");
    assert_eq!(upload.offset(), 0);
    assert_eq!(
        numbered
            .client
            .send("GET", &format!("{}/parts", numbered.url), &[], None)
            .expect(200)
            .json()["parts"],
        json!([])
    );
    upload.delete().expect(204);
    numbered.delete().expect(204);
    oracle::all_is_well(&server, &root);
}

#[test]
fn no_secret_is_empty_or_weak() {
    let server = Server::start();
    let root = server.client();
    for password in ["", "short", "1234567", &"x".repeat(257)] {
        let body = json!({"name": "weak", "password": password});
        root.json("POST", "/v1/users", &body).expect_problem(400, "invalid");
        let body = json!({"password": password});
        root.json("PATCH", "/v1/users/root", &body).expect_problem(400, "invalid");
    }
    root.json("POST", "/v1/users", &json!({"name": "weak"})).expect_problem(400, "invalid");
    root.json("POST", "/v1/users", &json!({"name": "weak", "password": null})).expect(400);
    root.mkdir("d").expect(201);
    let link = |password: Value| {
        let mut body = json!({"path": "d", "kind": "link", "role": "viewer"});
        body["password"] = password;
        body
    };
    root.json("POST", "/v1/shares", &link(json!(""))).expect_problem(400, "invalid");
    // An empty secret opens nothing that has one.
    let made = share(&root, &link(json!("open sesame")));
    let list = format!("/v1/links/{}/list/", text(&made["link"], "token"));
    let guest = Client::anonymous(server.addr());
    guest.send("GET", &list, &[("Larder-Link-Password", "")], None).expect(401);
    for (user, password) in [("link", ""), ("", "")] {
        Client::new(server.addr(), user, password).send("GET", &list, &[], None).expect(401);
    }
    for query in ["password=", "signature=", "OC-Signature=", "X-Amz-Signature="] {
        let target = format!("{list}?{query}");
        guest.send("GET", &target, &[], None).expect_any(&[400, 401]);
        guest.send("GET", &format!("/v1/me?{query}"), &[], None).expect(401);
    }
    root.send("GET", &list, &[], None).expect(401);
    // A user without any key, and a link without a token.
    for key in ["", "lk_", "la_", "Bearer"] {
        me(&Client::with_key(server.addr(), key)).expect_any(&[400, 401]);
    }
    for token in ["", "%00", "A", &NO_LINK[1..], NO_LINK, &"A".repeat(5000)] {
        guest.send("GET", &format!("/v1/links/{token}"), &[], None).expect_any(&[404]);
        let listed = guest.send("GET", &format!("/v1/links/{token}/list/"), &[], None);
        listed.expect_any(&[404]);
    }
    // A first start with a weak password does not begin to serve.
    let data = server.scratch().join("fresh");
    let mut command = std::process::Command::new(larder_e2e::server::binary());
    command.args(["serve", "--http", "127.0.0.1:0", "--s3", "127.0.0.1:0", "--data"]).arg(&data);
    command.env("LARDER_ROOT_USER", USER).env("LARDER_ROOT_PASSWORD", "short");
    assert!(!must_end(&mut command).status.success());
}

#[test]
fn no_key_makes_a_greater_one() {
    let server = Server::start();
    let root = server.client();
    for space in ["one", "two"] {
        root.project(space, &json!({})).put("f", b"x").expect(201);
    }
    let one = root.in_space("one").space()["id"].clone();
    root.make_user("bob");
    let greater = [
        json!({}),
        json!({"scope": {"access": "full"}}),
        json!({"scope": {"access": "full", "spaces": ["one", "two"]}}),
        json!({"scope": {"access": "full", "spaces": ["two"]}}),
        json!({"scope": {"access": "read"}}),
        json!({"scope": {"access": "write", "spaces": ["two"]}}),
        json!({"kind": "app"}),
        json!({"kind": "s3"}),
    ];
    for scope in [
        json!({"access": "read"}),
        json!({"access": "write"}),
        json!({"access": "read", "spaces": ["one"]}),
        json!({"access": "write", "spaces": ["one"]}),
        json!({"access": "full", "spaces": ["one"]}),
    ] {
        let client = key_of(&root, &json!({"scope": scope}));
        for body in &greater {
            for user in ["me", "root", "bob"] {
                let answer = client.json("POST", &format!("/v1/users/{user}/keys"), body);
                let answer = answer.expect_any(&[403, 404]);
                assert!(!answer.to_string().contains("\"key\""), "{scope} {body}: {answer}");
            }
        }
        let admin = json!({"name": "own", "password": "long enough", "admin": true});
        client.json("POST", "/v1/users", &admin).expect(403);
        client.json("PATCH", "/v1/users/me", &json!({"password": "long enough"})).expect(403);
        client.json("PATCH", "/v1/users/bob", &json!({"admin": true})).expect_any(&[403, 404]);
        let listed = root.send("GET", "/v1/users/me/keys", &[], None).expect(200).json();
        for key in listed["keys"].as_array().unwrap() {
            let target = format!("/v1/users/me/keys/{}/rotate", text(key, "id"));
            let own = scope["access"] == "full" && key["scope"]["spaces"] == json!([one]);
            let answer = client.json("POST", &target, &json!({}));
            assert!(answer.status == 403 || (own && answer.status == 200), "{scope}: {answer}");
        }
    }
    // A key of a time makes none that lasts longer; nobody makes themselves an administrator.
    let until = "2099-01-01T00:00:00Z";
    let short = key_of(&root, &json!({"expires": until}));
    short.json("POST", "/v1/users/me/keys", &json!({})).expect(403);
    let longer = json!({"expires": "2099-01-02T00:00:00Z"});
    short.json("POST", "/v1/users/me/keys", &longer).expect(403);
    short.json("POST", "/v1/users/me/keys", &json!({"expires": until})).expect(201);
    let bob = Client::new(server.addr(), "bob", "bob-password");
    for user in ["me", "bob"] {
        let target = format!("/v1/users/{user}");
        for body in [json!({"admin": true}), json!({"admin": true, "password": "long enough"})] {
            bob.json("PATCH", &target, &body).expect_problem(403, "denied");
        }
    }
    me(&bob).expect(200);
    assert_eq!(me(&bob).json()["admin"], false);
    let by_bob = key_of(&bob, &json!({}));
    by_bob.send("GET", "/v1/users", &[], None).expect_problem(403, "denied");
}

#[test]
fn a_credential_is_none_of_another_kind() {
    let server = Server::start();
    let root = server.client();
    let secret = |kind: &str| {
        let made = root.json("POST", "/v1/users/me/keys", &json!({"kind": kind})).expect(201);
        made.json()
    };
    let (api, app, s3) = (secret("api"), secret("app"), secret("s3"));
    root.put("f", b"x").expect(201);
    let link = share(&root, &json!({"path": "f", "kind": "link", "role": "viewer"}));
    let upload = Upload::new(&root, "u", 3);
    let addr = server.addr();
    let bearers = [
        PASSWORD,
        text(&app, "key"),
        text(&s3, "key"),
        text(&s3, "access_key_id"),
        text(&api, "id"),
        text(&link, "id"),
        text(&link["link"], "token"),
        upload.url.rsplit('/').next().unwrap(),
        &format!("{} ", text(&api, "id")),
        &text(&api, "key").to_lowercase(),
        &text(&api, "key")[3..],
    ];
    for bearer in bearers {
        me(&Client::with_key(addr, bearer)).expect_any(&[400, 401]);
        let guest = Client::anonymous(addr);
        if bearer != text(&link["link"], "token") {
            guest
                .send("GET", &format!("/v1/links/{}/files/", bearer.trim()), &[], None)
                .expect(404);
        }
    }
    // With names of others and of kinds; few, for wrong passwords are slowed.
    for (user, password) in [
        (USER, text(&s3, "key")),
        (text(&s3, "access_key_id"), text(&s3, "key")),
        ("bob", text(&app, "key")),
    ] {
        me(&Client::new(addr, user, password)).expect_any(&[401, 429]);
    }
    // Neither in a cookie nor in the address.
    let key = text(&api, "key");
    let guest = Client::anonymous(addr);
    for header in
        ["Cookie", "X-Auth-Token", "X-Api-Key", "Proxy-Authorization", "X-Amz-Security-Token"]
    {
        for value in [key.to_owned(), format!("token={key}"), format!("Bearer {key}")] {
            guest.send("GET", "/v1/me", &[(header, &value)], None).expect(401);
        }
    }
    for query in ["token", "access_token", "key", "api_key", "authorization"] {
        guest.send("GET", &format!("/v1/me?{query}={key}"), &[], None).expect(401);
    }
    // Two credentials are none.
    let two = [("Authorization", "Bearer lk_x")];
    root.send("GET", "/v1/me", &two, None).expect_any(&[400, 401]);
    me(&Client::with_key(addr, key)).expect(200);
    assert_eq!(app["scope"]["access"], "write");
    let by_app = Client::new(addr, USER, text(&app, "key"));
    let kind = [("Content-Type", "application/json")];
    let user = br#"{"name": "own", "password": "long enough", "admin": true}"#;
    for (method, target) in
        [("GET", "/v1/admin/check"), ("POST", "/v1/users"), ("GET", "/v1/shares")]
    {
        by_app.send(method, target, &kind, Some(user)).expect_problem(403, "denied");
    }
}

#[test]
fn a_link_s_password_is_not_guessed() {
    let server = Server::start();
    let root = server.client();
    root.put("f", b"x").expect(201);
    let (alice, _) = (root.make_user("alice"), me(&root));
    me(&alice).expect(200);
    let link = |password: &str| {
        let made = share(
            &root,
            &json!({"path": "f", "kind": "link", "role": "viewer",
                                        "password": password}),
        );
        format!("/v1/links/{}/files/", text(&made["link"], "token"))
    };
    let (guessed, other) = (link("open sesame"), link("other sesame"));
    let guest = Client::anonymous(server.addr());
    let with = |target: &str, password: &str, more: (&str, &str)| {
        guest.send("GET", target, &[("Larder-Link-Password", password), more], None)
    };
    with(&other, "other sesame", ("X", "")).expect(200);
    let mut looked_at = 0;
    for guess in 0..200 {
        // Claimed addresses make no difference.
        let from = format!("10.1.{}.{}", guess / 250, guess % 250 + 1);
        let answer = with(&guessed, &format!("guess {guess}"), ("X-Forwarded-For", &from));
        looked_at += usize::from(answer.expect_any(&[401, 429]).status == 401);
    }
    assert!(looked_at <= 20, "{looked_at} guesses were looked at");
    let refused = with(&guessed, "open sesame", ("X", "")).expect_problem(429, "rate_limited");
    assert!(refused.must_header("retry-after").parse::<u64>().unwrap() <= 900);
    // Others go on, with accounts and with the other link; so do those elsewhere with this one.
    me(&alice.another()).expect(200);
    with(&other, "other sesame", ("X", "")).expect(200);
    let elsewhere = Client::anonymous(server.addr());
    elsewhere.connect_from([127, 0, 0, 2].into());
    let right = [("Larder-Link-Password", "open sesame")];
    elsewhere.send("GET", &guessed, &right, None).expect(200);
}

#[test]
fn guessing_is_not_helped_by_headers() {
    let server = Server::start();
    let root = server.client();
    root.make_user("alice");
    let mut looked_at = 0;
    let headers = ["X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Client-IP", "CF-Connecting-IP"];
    for guess in 0..60_usize {
        let address = format!("10.0.{guess}.7");
        let name = headers[guess % headers.len()];
        let value = if name == "Forwarded" { format!("for={address}") } else { address };
        let client = Client::new(server.addr(), "alice", &format!("guess {guess}"));
        let answer = client.send("GET", "/v1/me", &[(name, &value)], None);
        looked_at += usize::from(answer.expect_any(&[401, 429]).status == 401);
    }
    assert!(looked_at <= 10, "{looked_at} guesses were looked at");
    // Nor by spelling the name otherwise.
    for name in ["Alice", "ALICE", " alice", "alice ", "alice\u{0}", "\u{ff41}lice"] {
        let client = Client::new(server.addr(), name, "alice-password");
        me(&client).expect_any(&[400, 401, 429]);
    }
}

#[test]
fn no_link_or_debug_door_tells_a_secret() {
    let server = Options::default().env("RUST_LOG", "trace").start();
    let root = server.client();
    let space = root.project("secret-project", &json!({}));
    space.put("secret-name", b"secret-content").expect(201);
    let made = share(
        &root,
        &json!({"space": "secret-project", "path": "secret-name",
                                    "kind": "link", "role": "viewer",
                                    "password": "secret sesame"}),
    );
    let token = text(&made["link"], "token").to_owned();
    let guest = Client::anonymous(server.addr());
    let right = [("Larder-Link-Password", "secret sesame")];
    let wrong = [("Larder-Link-Password", "secret barley")];
    for rest in ["", "/files/", "/list/", "/nonsense", "/files/..", "?query=1"] {
        for password in [&right, &wrong] {
            guest.send("GET", &format!("/v1/links/{token}{rest}"), password, None);
            guest.send("POST", &format!("/v1/links/{token}{rest}"), password, Some(b"{"));
        }
    }
    let change = format!("/v1/shares/{}", text(&made, "id"));
    root.json("PATCH", &change, &json!({"password": "secret barley"})).expect(200);
    root.json("PATCH", &change, &json!({"password": "secret", "oops": 1})).expect(400);
    for path in [
        "/debug",
        "/debug/pprof/",
        "/debug/vars",
        "/pprof",
        "/env",
        "/actuator/env",
        "/config",
        "/v1/config",
        "/v1/debug",
        "/v1/admin/config",
        "/v1/admin/env",
        "/.git/config",
        "/status",
        "/server-status",
        "/minio/admin/v3/info",
        "/minio/bootstrap/v1/verify",
        "/console",
        "/heap",
        "/v1/metrics",
        "/metrics/prometheus",
        "/stats",
        "/trace",
        "/proc/self/environ",
    ] {
        guest.send("GET", path, &[], None).expect_any(&[404]);
        guest.send("POST", path, &[], Some(b"{}")).expect_any(&[404]);
        guest.send("TRACE", path, &[], None).expect_any(&[404, 405]);
    }
    guest.send("TRACE", "/v1/me", &right, None).expect_any(&[401, 405]);
    let open: Vec<Vec<u8>> = ["/metrics", "/health", "/ready", "/v1/openapi.json"]
        .map(|path| guest.send("GET", path, &[], None).expect(200).body)
        .to_vec();
    let open = String::from_utf8(open.concat()).unwrap();
    let log = server.log();
    assert!(log.len() > 10_000, "it says much");
    for secret in [&*token, "secret sesame", "secret barley", PASSWORD, "secret-content"] {
        assert!(!log.contains(secret), "in the log: {secret}");
        assert!(!open.contains(secret), "told to everybody: {secret}");
    }
    for known in ["secret-project", "secret-name", server.data().to_str().unwrap()] {
        assert!(!open.contains(known), "told to everybody: {known}");
    }
}
