//! The shapes of bodies.
//!
//! Not here: where they are used ([`super::operations`]).

use serde_json::{Map, Value, json};

/// A field: its name, its kind (see [`kind`]), and whether it is always there.
type Field = (&'static str, &'static str, bool);

/// The schema of a parameter of the query.
pub(super) fn parameter(name: &str) -> Value {
    match name {
        "flag" => json!({ "type": "string", "enum": ["", "true", "false", "1", "0"] }),
        "number" => json!({ "type": "integer", "minimum": 0 }),
        "limit" => json!({ "type": "integer", "minimum": 1, "maximum": 1000 }),
        _ => json!({ "type": "string" }),
    }
}

/// The schema of a kind of value. `?` behind it allows null, `[]` makes a list of it, an upper
/// case letter begins the name of another schema.
fn kind(name: &str) -> Value {
    if let Some(inner) = name.strip_suffix('?') {
        return json!({ "anyOf": [kind(inner), { "type": "null" }] });
    }
    if let Some(inner) = name.strip_suffix("[]") {
        return json!({ "type": "array", "items": kind(inner) });
    }
    if name.starts_with(char::is_uppercase) {
        return super::reference(name);
    }
    match name {
        "id" => json!({ "type": "string", "format": "uuid" }),
        "time" => json!({ "type": "string", "format": "date-time" }),
        "int" => json!({ "type": "integer", "minimum": 0 }),
        "bool" => json!({ "type": "boolean" }),
        "sha256" => json!({ "type": "string", "pattern": "^[0-9a-f]{64}$" }),
        "any" => json!({}),
        other => match other.split_once('|') {
            None => json!({ "type": "string" }),
            Some(_) => json!({ "type": "string", "enum": other.split('|').collect::<Vec<_>>() }),
        },
    }
}

/// Bodies of answers: what is not always there may be absent; there are no other fields.
const ANSWERS: &[(&str, &[Field])] = &[
    (
        "Problem",
        &[
            ("type", "text", true),
            ("title", "text", true),
            ("status", "int", true),
            ("detail", "text", true),
            ("code", "text", true),
            ("request_id", "id", true),
            ("existing", "text", false),
        ],
    ),
    ("Health", &[("status", "text", true), ("version", "text", true)]),
    ("Ready", &[("ready", "bool", true), ("reasons", "text[]", true)]),
    (
        "Entry",
        &[
            ("path", "text", true),
            ("name", "text", true),
            ("id", "id", true),
            ("kind", "file|dir|ref", true),
            ("size", "int", true),
            ("etag", "text", true),
            ("revision", "int", true),
            ("content_type", "text?", true),
            ("sha256", "sha256?", true),
            ("modified", "time", true),
            ("expires", "time", false),
            ("target", "RefTarget", false),
        ],
    ),
    ("RefTarget", &[("space", "id", true), ("id", "id", true), ("kind", "file|dir?", true)]),
    ("Entries", &[("entries", "Entry[]", true), ("cursor", "text", false)]),
    (
        "Uploaded",
        &[
            ("file_id", "id", true),
            ("space", "id", true),
            ("path", "text", true),
            ("revision", "int", true),
            ("size", "int", true),
            ("sha256", "sha256?", true),
            ("etag", "text", true),
        ],
    ),
    (
        "Revision",
        &[
            ("revision", "int", true),
            ("size", "int", true),
            ("etag", "text", true),
            ("sha256", "sha256?", true),
            ("content_type", "text", true),
            ("author", "text", true),
            ("created", "time", true),
            ("origin", "text", true),
        ],
    ),
    ("Revisions", &[("revisions", "Revision[]", true), ("cursor", "text", false)]),
    (
        "TrashItem",
        &[
            ("item", "id", true),
            ("id", "id", true),
            ("path", "text", true),
            ("kind", "file|dir|ref", true),
            ("size", "int", true),
            ("deleted_by", "text", true),
            ("deleted", "time", true),
        ],
    ),
    ("Trash", &[("items", "TrashItem[]", true), ("cursor", "text", false)]),
    (
        "Space",
        &[
            ("id", "id", true),
            ("name", "text", true),
            ("kind", "home|project|bucket", true),
            ("owner", "id", true),
            ("limits", "Limits", true),
            ("policy", "Policy", true),
            ("usage", "Usage", true),
            ("created", "time", true),
        ],
    ),
    ("Limits", &[("live", "int?", true), ("retained", "int?", true)]),
    (
        "Policy",
        &[
            ("split", "any", true),
            ("copies", "any", true),
            ("ack", "int", true),
            ("versions", "Versions", true),
            ("trash_days", "int?", true),
        ],
    ),
    ("Versions", &[("keep", "int?", true), ("days", "int?", true)]),
    ("Usage", &[("live", "int", true), ("retained", "int", true), ("reserved", "int", true)]),
    ("Spaces", &[("spaces", "Space[]", true), ("cursor", "text", false)]),
    (
        "Change",
        &[
            ("cursor", "text", true),
            ("change", "text", true),
            ("path", "text", true),
            ("from", "text", false),
            ("id", "id", true),
            ("kind", "file|dir|ref", true),
            ("revision", "int", false),
            ("author", "text", true),
            ("at", "time", true),
        ],
    ),
    ("Changes", &[("changes", "Change[]", true), ("cursor", "text", true)]),
    (
        "Rule",
        &[
            ("id", "id", true),
            ("name", "text", true),
            ("enabled", "bool", true),
            ("prefix", "text", true),
            ("expire", "any", true),
            ("noncurrent", "any", true),
            ("abort_uploads_after", "text?", true),
        ],
    ),
    ("Lifecycle", &[("rules", "Rule[]", true)]),
    (
        "Upload",
        &[
            ("id", "text", true),
            ("space", "id", true),
            ("path", "text?", true),
            ("state", "open|completed|aborted|expired|consumed", true),
            ("offset", "int", true),
            ("length", "int?", true),
            ("expires", "time?", true),
            ("created", "time", true),
            ("partial", "bool", true),
            ("numbered", "bool", true),
            ("parts", "text[]", true),
            ("metadata", "text?", true),
            ("refused", "Refused?", true),
            ("result", "Entry?", true),
        ],
    ),
    ("Refused", &[("code", "text", true), ("detail", "text", true)]),
    ("Uploads", &[("uploads", "Upload[]", true), ("cursor", "text", false)]),
    (
        "Part",
        &[
            ("number", "int", true),
            ("size", "int", true),
            ("sha256", "sha256", true),
            ("created", "time", true),
        ],
    ),
    ("Parts", &[("parts", "Part[]", true), ("cursor", "text", false)]),
    (
        "User",
        &[
            ("id", "id", true),
            ("name", "text", true),
            ("admin", "bool", true),
            ("disabled", "bool", true),
            ("created", "time", true),
        ],
    ),
    ("Users", &[("users", "User[]", true), ("cursor", "text", false)]),
    (
        "Key",
        &[
            ("id", "id", true),
            ("kind", "api|app|s3", true),
            ("name", "text", true),
            ("access_key_id", "text", false),
            ("key", "text", false),
            ("scope", "Scope", true),
            ("created", "time", true),
            ("expires", "time?", true),
            ("rotated", "time?", true),
            ("previous_until", "time?", true),
            ("last_used", "time?", true),
        ],
    ),
    ("Scope", &[("access", "read|write|full", true), ("spaces", "id[]?", true)]),
    ("Keys", &[("keys", "Key[]", true), ("cursor", "text", false)]),
    ("Group", &[("id", "id", true), ("name", "text", true), ("created", "time", true)]),
    ("Groups", &[("groups", "Group[]", true), ("cursor", "text", false)]),
    ("Member", &[("id", "id", true), ("name", "text", true), ("since", "time", true)]),
    ("Members", &[("members", "Member[]", true), ("cursor", "text", false)]),
    (
        "Share",
        &[
            ("id", "id", true),
            ("space", "id", true),
            ("node", "id", true),
            ("node_kind", "file|dir?", true),
            ("path", "text?", true),
            ("kind", "user|group|link", true),
            ("with", "SharedWith", false),
            ("link", "Link", false),
            ("role", "uploader|viewer|editor|manager", true),
            ("by", "text", true),
            ("created", "time", true),
            ("expires", "time?", true),
        ],
    ),
    ("SharedWith", &[("id", "id", true), ("name", "text", true)]),
    (
        "Link",
        &[
            ("name", "text", true),
            ("token", "text", true),
            ("url", "text", true),
            ("has_password", "bool", true),
            ("downloads", "int", true),
            ("downloads_max", "int?", true),
        ],
    ),
    ("Shares", &[("shares", "Share[]", true), ("cursor", "text", false)]),
    (
        "LinkView",
        &[
            ("name", "text", true),
            ("kind", "file|dir", true),
            ("role", "uploader|viewer|editor", true),
            ("has_password", "bool", true),
            ("expires", "time?", true),
        ],
    ),
    ("Finding", &[("invariant", "text", true), ("detail", "text", true)]),
    (
        "Check",
        &[
            ("ok", "bool", true),
            ("violations", "int", true),
            ("findings", "Finding[]", true),
            ("counts", "any", true),
        ],
    ),
    (
        "Collected",
        &[
            ("blobs", "int", true),
            ("bytes", "int", true),
            ("orphans", "int", true),
            ("waiting", "int", true),
        ],
    ),
    (
        "Job",
        &[
            ("id", "id", true),
            ("kind", "text", true),
            ("subject", "text", true),
            ("state", "text", true),
            ("progress", "int", true),
            ("created", "time", true),
            ("updated", "time", true),
            ("finished", "time?", true),
            ("started_by", "text?", true),
            ("cancellable", "bool", true),
            ("detail", "text?", true),
        ],
    ),
    ("Jobs", &[("jobs", "Job[]", true), ("cursor", "text", false)]),
    (
        "Task",
        &[
            ("number", "int", true),
            ("user", "text", true),
            ("class", "text", true),
            ("priority", "int", true),
            ("state", "text", true),
            ("begun", "time", true),
            ("since", "time", true),
        ],
    ),
    ("Tasks", &[("tasks", "Task[]", true), ("cursor", "text", false)]),
    (
        "Loaded",
        &[
            ("instance", "id", true),
            ("created", "time", true),
            ("space", "id?", true),
            ("spaces", "int", true),
            ("users", "int", true),
            ("nodes", "int", true),
            ("revisions", "int", true),
            ("blobs", "int", true),
            ("bytes", "int", true),
            ("grants_dropped", "int", true),
            ("owner_replaced", "bool", true),
            ("secrets_readable", "bool", true),
        ],
    ),
];

/// Bodies of requests: what is not always there may be left out; other fields are refused.
const REQUESTS: &[(&str, &[Field])] = &[
    (
        "NewSpace",
        &[
            ("name", "text", true),
            ("kind", "project", true),
            ("limits", "LimitsChange", false),
            ("policy", "PolicyChange", false),
        ],
    ),
    (
        "SpaceChange",
        &[
            ("name", "text", false),
            ("limits", "LimitsChange", false),
            ("policy", "PolicyChange", false),
        ],
    ),
    ("LimitsChange", &[("live", "int?", false), ("retained", "int?", false)]),
    (
        "PolicyChange",
        &[
            ("split", "any", false),
            ("copies", "any", false),
            ("ack", "int", false),
            ("versions", "VersionsChange", false),
            ("trash_days", "int?", false),
        ],
    ),
    ("VersionsChange", &[("keep", "int?", false), ("days", "int?", false)]),
    ("RestoreRevision", &[("revision", "int", true)]),
    (
        "Relocate",
        &[
            ("from", "text", true),
            ("to", "text", true),
            ("overwrite", "bool", false),
            ("to_space", "text?", false),
        ],
    ),
    (
        "Restore",
        &[("to", "text?", false), ("rename", "bool", false), ("recreate_parents", "bool", false)],
    ),
    ("Target", &[("space", "text?", false), ("path", "text?", false), ("id", "text?", false)]),
    ("NewReference", &[("target", "Target", true)]),
    (
        "NewRule",
        &[
            ("id", "id?", false),
            ("name", "text", false),
            ("enabled", "bool", false),
            ("prefix", "text", false),
            ("expire", "any", false),
            ("noncurrent", "any", false),
            ("abort_uploads_after", "text?", false),
        ],
    ),
    ("NewLifecycle", &[("rules", "NewRule[]", true)]),
    (
        "CompleteUpload",
        &[("parts", "any", false), ("space", "text?", false), ("path", "text?", false)],
    ),
    ("NewUser", &[("name", "text", true), ("password", "text", true), ("admin", "bool", false)]),
    (
        "UserChange",
        &[("password", "text?", false), ("disabled", "bool?", false), ("admin", "bool?", false)],
    ),
    (
        "NewKey",
        &[
            ("kind", "api|app|s3", false),
            ("name", "text", false),
            ("expires", "time?", false),
            ("scope", "NewScope", false),
        ],
    ),
    ("NewScope", &[("access", "read|write|full?", false), ("spaces", "text[]?", false)]),
    ("Rotate", &[("overlap_seconds", "int", false)]),
    ("GroupName", &[("name", "text", true)]),
    (
        "NewShare",
        &[
            ("space", "text?", false),
            ("path", "text?", false),
            ("id", "text?", false),
            ("kind", "user|group|link", true),
            ("with", "text?", false),
            ("role", "uploader|viewer|editor|manager", true),
            ("expires", "time?", false),
            ("password", "text?", false),
            ("downloads_max", "int?", false),
            ("name", "text?", false),
        ],
    ),
    (
        "ShareChange",
        &[
            ("role", "uploader|viewer|editor|manager", false),
            ("expires", "time?", false),
            ("password", "text?", false),
            ("downloads_max", "int?", false),
            ("name", "text?", false),
        ],
    ),
    ("NewJob", &[("kind", "text", true), ("space", "text?", false)]),
];

/// All schemas, by name.
pub(super) fn all() -> Map<String, Value> {
    let mut schemas = Map::new();
    for (name, fields) in ANSWERS.iter().chain(REQUESTS) {
        let properties: Map<String, Value> =
            fields.iter().map(|(name, of, _)| ((*name).to_owned(), kind(of))).collect();
        let required: Vec<&str> =
            fields.iter().filter(|field| field.2).map(|field| field.0).collect();
        let schema = json!({
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        });
        schemas.insert((*name).to_owned(), schema);
    }
    schemas.insert("Anything".to_owned(), json!({}));
    schemas
}
