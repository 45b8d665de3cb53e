//! Every call: path, method, parameters, body, answers.
//!
//! Not here: the shapes ([`super::schemas`]).

/// What a request carries.
#[derive(Clone, Copy, Debug)]
pub(super) enum Body {
    /// Nothing.
    Nothing,
    /// JSON of this schema.
    Json(&'static str),
    /// JSON of this schema, or nothing.
    MaybeJson(&'static str),
    /// Bytes of this type.
    Bytes(&'static str),
}

/// What an answer carries.
#[derive(Clone, Copy, Debug)]
pub(super) enum Out {
    /// Nothing.
    Nothing,
    /// JSON of this schema.
    Json(&'static str),
    /// Bytes of this type.
    Bytes(&'static str),
}

/// One call.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) path: &'static str,
    pub(super) method: &'static str,
    pub(super) summary: &'static str,
    /// Parameters of the query, each with the kind of its value.
    pub(super) query: &'static [(&'static str, &'static str)],
    pub(super) headers: &'static [&'static str],
    pub(super) body: Body,
    pub(super) answers: &'static [(u16, Out)],
    /// Whether it needs no credentials.
    pub(super) open: bool,
}

/// An operation that needs credentials and no header of its own.
const fn call(
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    query: &'static [(&'static str, &'static str)],
    body: Body,
    answers: &'static [(u16, Out)],
) -> Operation {
    Operation { path, method, summary, query, headers: &[], body, answers, open: false }
}

impl Operation {
    const fn with_headers(self, headers: &'static [&'static str]) -> Self {
        Self { headers, ..self }
    }

    const fn without_credentials(self) -> Self {
        Self { open: true, ..self }
    }
}

use Body::{Bytes, Json, MaybeJson, Nothing};

const NO_QUERY: &[(&str, &str)] = &[];
const PAGE: &[(&str, &str)] = &[("cursor", "text"), ("limit", "limit")];
const PARENTS: &[(&str, &str)] = &[("parents", "flag")];
const REVISION: &[(&str, &str)] = &[("revision", "number")];
const LIST: &[(&str, &str)] = &[("cursor", "text"), ("limit", "limit"), ("recursive", "flag")];
const DONE: &[(u16, Out)] = &[(204, Out::Nothing)];
const ENTRY: &[(u16, Out)] = &[(200, Out::Json("Entry"))];
const PUT_ENTRY: &[(u16, Out)] = &[(200, Out::Json("Entry")), (201, Out::Json("Entry"))];
const CONTENT: &[(u16, Out)] =
    &[(200, Out::Bytes("*/*")), (206, Out::Bytes("*/*")), (304, Out::Nothing)];
const WHEN: &[&str] = &["If-Match", "If-None-Match", "If-Unmodified-Since"];
const READ: &[&str] =
    &["Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"];
const WRITE: &[&str] = &[
    "If-Match",
    "If-None-Match",
    "If-Unmodified-Since",
    "Content-Digest",
    "Repr-Digest",
    "Idempotency-Key",
    "Larder-Expires",
];
const TUS: &[&str] = &["Tus-Resumable", "Upload-Offset", "Upload-Checksum"];
const TUS_CREATE: &[&str] = &[
    "Tus-Resumable",
    "Upload-Length",
    "Upload-Defer-Length",
    "Upload-Metadata",
    "Upload-Concat",
    "If-Match",
    "If-None-Match",
];
const OFFSET: &str = "application/offset+octet-stream";
const OCTETS: &str = "application/octet-stream";

/// All calls.
pub(super) const OPERATIONS: &[Operation] = &[
    call("GET", "/health", "The process lives", NO_QUERY, Nothing, &[(200, Out::Json("Health"))])
        .without_credentials(),
    call(
        "GET",
        "/ready",
        "It can do its work, or why not",
        NO_QUERY,
        Nothing,
        &[(200, Out::Json("Ready")), (503, Out::Json("Ready"))],
    )
    .without_credentials(),
    call(
        "GET",
        "/metrics",
        "Figures, as OpenMetrics",
        NO_QUERY,
        Nothing,
        &[(200, Out::Bytes("application/openmetrics-text"))],
    )
    .without_credentials(),
    call(
        "GET",
        "/v1/openapi.json",
        "This document",
        NO_QUERY,
        Nothing,
        &[(200, Out::Json("Anything"))],
    )
    .without_credentials(),
    call(
        "POST",
        "/v1/files",
        "Upload a file, raw or as a form",
        &[("space", "text"), ("path", "text")],
        Bytes(OCTETS),
        &[(200, Out::Json("Uploaded")), (201, Out::Json("Uploaded"))],
    )
    .with_headers(WRITE),
    call("GET", "/v1/files/{id}", "Content by id", REVISION, Nothing, CONTENT).with_headers(READ),
    call(
        "DELETE",
        "/v1/files/{id}",
        "To the trash, or one older revision away",
        REVISION,
        Nothing,
        DONE,
    )
    .with_headers(WHEN),
    call("GET", "/v1/spaces", "Spaces", PAGE, Nothing, &[(200, Out::Json("Spaces"))]),
    call(
        "POST",
        "/v1/spaces",
        "Make a space",
        NO_QUERY,
        Json("NewSpace"),
        &[(201, Out::Json("Space"))],
    ),
    call(
        "GET",
        "/v1/spaces/{space}",
        "A space and what it holds",
        NO_QUERY,
        Nothing,
        &[(200, Out::Json("Space"))],
    ),
    call(
        "PATCH",
        "/v1/spaces/{space}",
        "Change a space",
        NO_QUERY,
        Json("SpaceChange"),
        &[(200, Out::Json("Space"))],
    ),
    call("DELETE", "/v1/spaces/{space}", "Remove a space", NO_QUERY, Nothing, DONE),
    call("PUT", "/v1/spaces/{space}/files/{path}", "Upload", PARENTS, Bytes(OCTETS), PUT_ENTRY)
        .with_headers(WRITE),
    call("GET", "/v1/spaces/{space}/files/{path}", "Content", REVISION, Nothing, CONTENT)
        .with_headers(READ),
    call("DELETE", "/v1/spaces/{space}/files/{path}", "To the trash", NO_QUERY, Nothing, DONE)
        .with_headers(WHEN),
    call("GET", "/v1/spaces/{space}/stat/{path}", "The entry", NO_QUERY, Nothing, ENTRY),
    call("PUT", "/v1/spaces/{space}/dirs/{path}", "Make a directory", PARENTS, Nothing, PUT_ENTRY),
    call(
        "GET",
        "/v1/spaces/{space}/list/{path}",
        "One page of a directory",
        LIST,
        Nothing,
        &[(200, Out::Json("Entries"))],
    ),
    call(
        "GET",
        "/v1/spaces/{space}/revisions/{path}",
        "Revisions, newest first",
        PAGE,
        Nothing,
        &[(200, Out::Json("Revisions"))],
    ),
    call(
        "POST",
        "/v1/spaces/{space}/revisions/{path}",
        "Make an older revision current again",
        NO_QUERY,
        Json("RestoreRevision"),
        ENTRY,
    ),
    call(
        "DELETE",
        "/v1/spaces/{space}/revisions/{path}",
        "Remove an older revision",
        REVISION,
        Nothing,
        DONE,
    ),
    call(
        "POST",
        "/v1/spaces/{space}/move",
        "Move or rename",
        NO_QUERY,
        Json("Relocate"),
        PUT_ENTRY,
    ),
    call("POST", "/v1/spaces/{space}/copy", "Copy", NO_QUERY, Json("Relocate"), PUT_ENTRY),
    call(
        "PUT",
        "/v1/spaces/{space}/references/{path}",
        "Make a reference",
        NO_QUERY,
        Json("NewReference"),
        &[(201, Out::Json("Entry"))],
    ),
    call(
        "GET",
        "/v1/spaces/{space}/trash",
        "The trash, newest first",
        PAGE,
        Nothing,
        &[(200, Out::Json("Trash"))],
    ),
    call("DELETE", "/v1/spaces/{space}/trash", "Empty the trash", NO_QUERY, Nothing, DONE),
    call("DELETE", "/v1/spaces/{space}/trash/{item}", "Destroy an item", NO_QUERY, Nothing, DONE),
    call(
        "POST",
        "/v1/spaces/{space}/trash/{item}/restore",
        "Put an item back",
        NO_QUERY,
        MaybeJson("Restore"),
        ENTRY,
    ),
    call(
        "GET",
        "/v1/spaces/{space}/changes",
        "What happened since a cursor",
        &[("cursor", "text"), ("limit", "limit"), ("wait", "number")],
        Nothing,
        &[(200, Out::Json("Changes"))],
    ),
    call(
        "GET",
        "/v1/spaces/{space}/lifecycle",
        "Lifecycle rules",
        NO_QUERY,
        Nothing,
        &[(200, Out::Json("Lifecycle"))],
    ),
    call(
        "PUT",
        "/v1/spaces/{space}/lifecycle",
        "Replace all lifecycle rules",
        NO_QUERY,
        Json("NewLifecycle"),
        &[(200, Out::Json("Lifecycle"))],
    ),
    call("DELETE", "/v1/spaces/{space}/lifecycle", "Remove the rules", NO_QUERY, Nothing, DONE),
    call(
        "POST",
        "/v1/uploads",
        "Begin a resumable upload (tus)",
        &[("space", "text"), ("path", "text"), ("parents", "flag"), ("numbered", "flag")],
        Nothing,
        &[(201, Out::Nothing)],
    )
    .with_headers(TUS_CREATE),
    call(
        "GET",
        "/v1/uploads",
        "The caller's unfinished uploads",
        PAGE,
        Nothing,
        &[(200, Out::Json("Uploads"))],
    ),
    call("OPTIONS", "/v1/uploads", "What tus can do here", NO_QUERY, Nothing, DONE)
        .without_credentials(),
    call("OPTIONS", "/v1/uploads/{id}", "What tus can do here", NO_QUERY, Nothing, DONE)
        .without_credentials(),
    call("GET", "/v1/uploads/{id}", "An upload", NO_QUERY, Nothing, &[(200, Out::Json("Upload"))]),
    call("HEAD", "/v1/uploads/{id}", "How far it is", NO_QUERY, Nothing, &[(200, Out::Nothing)])
        .with_headers(TUS),
    call("PATCH", "/v1/uploads/{id}", "The next bytes", NO_QUERY, Bytes(OFFSET), DONE)
        .with_headers(TUS),
    call("DELETE", "/v1/uploads/{id}", "Give it up", NO_QUERY, Nothing, DONE).with_headers(TUS),
    call(
        "POST",
        "/v1/uploads/{id}/complete",
        "Make it a file",
        NO_QUERY,
        MaybeJson("CompleteUpload"),
        PUT_ENTRY,
    ),
    call(
        "GET",
        "/v1/uploads/{id}/parts",
        "Its numbered parts",
        PAGE,
        Nothing,
        &[(200, Out::Json("Parts"))],
    ),
    call(
        "PUT",
        "/v1/uploads/{id}/parts/{number}",
        "A numbered part",
        NO_QUERY,
        Bytes(OCTETS),
        &[(200, Out::Json("Part"))],
    ),
    call("GET", "/v1/me", "The caller", NO_QUERY, Nothing, &[(200, Out::Json("User"))]),
    call("GET", "/v1/users", "Users", PAGE, Nothing, &[(200, Out::Json("Users"))]),
    call(
        "POST",
        "/v1/users",
        "Make a user",
        NO_QUERY,
        Json("NewUser"),
        &[(201, Out::Json("User"))],
    ),
    call("GET", "/v1/users/{user}", "A user", NO_QUERY, Nothing, &[(200, Out::Json("User"))]),
    call(
        "PATCH",
        "/v1/users/{user}",
        "Change a user",
        NO_QUERY,
        Json("UserChange"),
        &[(200, Out::Json("User"))],
    ),
    call("DELETE", "/v1/users/{user}", "Remove a user", &[("home", "text")], Nothing, DONE),
    call("GET", "/v1/users/{user}/keys", "Keys", NO_QUERY, Nothing, &[(200, Out::Json("Keys"))]),
    call(
        "POST",
        "/v1/users/{user}/keys",
        "Make a key; it is shown this once",
        NO_QUERY,
        MaybeJson("NewKey"),
        &[(201, Out::Json("Key"))],
    ),
    call("DELETE", "/v1/users/{user}/keys/{key}", "Delete a key", NO_QUERY, Nothing, DONE),
    call(
        "POST",
        "/v1/users/{user}/keys/{key}/rotate",
        "Replace the secret of a key",
        NO_QUERY,
        MaybeJson("Rotate"),
        &[(200, Out::Json("Key"))],
    ),
    call("GET", "/v1/groups", "Groups", PAGE, Nothing, &[(200, Out::Json("Groups"))]),
    call(
        "POST",
        "/v1/groups",
        "Make a group",
        NO_QUERY,
        Json("GroupName"),
        &[(201, Out::Json("Group"))],
    ),
    call("GET", "/v1/groups/{group}", "A group", NO_QUERY, Nothing, &[(200, Out::Json("Group"))]),
    call(
        "PATCH",
        "/v1/groups/{group}",
        "Rename a group",
        NO_QUERY,
        Json("GroupName"),
        &[(200, Out::Json("Group"))],
    ),
    call("DELETE", "/v1/groups/{group}", "Remove a group", NO_QUERY, Nothing, DONE),
    call(
        "GET",
        "/v1/groups/{group}/members",
        "Members",
        PAGE,
        Nothing,
        &[(200, Out::Json("Members"))],
    ),
    call("PUT", "/v1/groups/{group}/members/{user}", "Add a member", NO_QUERY, Nothing, DONE),
    call("DELETE", "/v1/groups/{group}/members/{user}", "Remove a member", NO_QUERY, Nothing, DONE),
    call(
        "GET",
        "/v1/shares",
        "Shares",
        &[
            ("cursor", "text"),
            ("limit", "limit"),
            ("space", "text"),
            ("path", "text"),
            ("id", "text"),
            ("by", "text"),
        ],
        Nothing,
        &[(200, Out::Json("Shares"))],
    ),
    call("POST", "/v1/shares", "Share", NO_QUERY, Json("NewShare"), &[(201, Out::Json("Share"))]),
    call("GET", "/v1/shares/{id}", "A share", NO_QUERY, Nothing, &[(200, Out::Json("Share"))]),
    call(
        "PATCH",
        "/v1/shares/{id}",
        "Change a share",
        NO_QUERY,
        Json("ShareChange"),
        &[(200, Out::Json("Share"))],
    ),
    call("DELETE", "/v1/shares/{id}", "Revoke a share", NO_QUERY, Nothing, DONE),
    call(
        "GET",
        "/v1/links/{token}",
        "What a link is",
        NO_QUERY,
        Nothing,
        &[(200, Out::Json("LinkView"))],
    )
    .without_credentials(),
    call("GET", "/v1/links/{token}/files/{path}", "Content", REVISION, Nothing, CONTENT)
        .with_headers(READ)
        .without_credentials(),
    call("PUT", "/v1/links/{token}/files/{path}", "Upload", PARENTS, Bytes(OCTETS), PUT_ENTRY)
        .with_headers(WRITE)
        .without_credentials(),
    call("DELETE", "/v1/links/{token}/files/{path}", "To the trash", NO_QUERY, Nothing, DONE)
        .without_credentials(),
    call("GET", "/v1/links/{token}/stat/{path}", "The entry", NO_QUERY, Nothing, ENTRY)
        .without_credentials(),
    call(
        "GET",
        "/v1/links/{token}/list/{path}",
        "One page of a directory",
        LIST,
        Nothing,
        &[(200, Out::Json("Entries"))],
    )
    .without_credentials(),
    call("PUT", "/v1/links/{token}/dirs/{path}", "Make a directory", PARENTS, Nothing, PUT_ENTRY)
        .without_credentials(),
    call(
        "GET",
        "/v1/admin/check",
        "Prove that everything is whole",
        &[("wait", "flag")],
        Nothing,
        &[(200, Out::Json("Check"))],
    ),
    call(
        "POST",
        "/v1/admin/check",
        "Prove that everything is whole",
        &[("wait", "flag")],
        Nothing,
        &[(200, Out::Json("Check"))],
    ),
    call(
        "POST",
        "/v1/admin/gc",
        "Give back what nobody needs",
        &[("wait", "flag")],
        Nothing,
        &[(200, Out::Json("Collected"))],
    ),
    call(
        "GET",
        "/v1/admin/jobs",
        "Background jobs",
        &[("finished", "flag"), ("cursor", "text"), ("limit", "limit")],
        Nothing,
        &[(200, Out::Json("Jobs"))],
    ),
    call(
        "POST",
        "/v1/admin/jobs",
        "Start a job",
        NO_QUERY,
        Json("NewJob"),
        &[(200, Out::Json("Job")), (201, Out::Json("Job"))],
    ),
    call("GET", "/v1/admin/jobs/{id}", "A job", NO_QUERY, Nothing, &[(200, Out::Json("Job"))]),
    call(
        "DELETE",
        "/v1/admin/jobs/{id}",
        "Cancel a job",
        NO_QUERY,
        Nothing,
        &[(202, Out::Json("Job")), (204, Out::Nothing)],
    ),
    call(
        "GET",
        "/v1/admin/tasks",
        "Heavy work that runs and waits",
        NO_QUERY,
        Nothing,
        &[(200, Out::Json("Tasks"))],
    ),
    call(
        "GET",
        "/v1/admin/dump",
        "A dump of everything, or of one space",
        &[("space", "text")],
        Nothing,
        &[(200, Out::Bytes(OCTETS))],
    ),
    call(
        "POST",
        "/v1/admin/load",
        "Load a dump",
        NO_QUERY,
        Bytes(OCTETS),
        &[(200, Out::Json("Loaded"))],
    ),
];
