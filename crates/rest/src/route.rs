//! The one table of routes: from a path to what it names, and which methods that has.
//!
//! A match on split segments, without maps and without allocation; names stay encoded until a
//! handler decodes them.
//!
//! Not here: what the handlers do.

use http::Method;

/// What a path names. Texts are still percent-encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// `/health`: the process lives.
    Health,
    /// `/ready`: it can do its work.
    Ready,
    /// `/metrics`.
    Metrics,
    /// `/v1/files`: upload by form or raw.
    Files,
    /// `/v1/files/{id}`.
    FileId(&'a str),
    /// `/v1/spaces`.
    Spaces,
    /// `/v1/spaces/{space}`.
    Space(&'a str),
    /// `/v1/spaces/{space}/files/{path}`.
    File(&'a str, &'a str),
    /// `/v1/spaces/{space}/stat/{path}`.
    Stat(&'a str, &'a str),
    /// `/v1/spaces/{space}/dirs/{path}`.
    Dir(&'a str, &'a str),
    /// `/v1/spaces/{space}/list/{path}`.
    List(&'a str, &'a str),
    /// `/v1/spaces/{space}/revisions/{path}`.
    Revisions(&'a str, &'a str),
    /// `/v1/spaces/{space}/move`.
    Move(&'a str),
    /// `/v1/spaces/{space}/copy`.
    Copy(&'a str),
    /// `/v1/spaces/{space}/trash`.
    Trash(&'a str),
    /// `/v1/spaces/{space}/trash/{item}`.
    TrashItem(&'a str, &'a str),
    /// `/v1/spaces/{space}/trash/{item}/restore`.
    Restore(&'a str, &'a str),
    /// `/v1/me`.
    Me,
    /// `/v1/users`.
    Users,
    /// `/v1/users/{user}`.
    User(&'a str),
    /// `/v1/users/{user}/keys`.
    Keys(&'a str),
    /// `/v1/users/{user}/keys/{key}`.
    Key(&'a str, &'a str),
    /// `/v1/admin/check`.
    Check,
    /// `/v1/admin/gc`.
    Collect,
    /// `/v1/admin/jobs`.
    Jobs,
}

/// Number of route classes, for counting.
pub(crate) const CLASSES: usize = 26;

/// Name and allowed methods of each class, by [`Route::class`]; the last is for no route.
pub(crate) const TABLE: [(&str, &str); CLASSES] = [
    ("health", "GET, HEAD"),
    ("ready", "GET, HEAD"),
    ("metrics", "GET, HEAD"),
    ("files", "POST"),
    ("file_id", "GET, HEAD, DELETE"),
    ("spaces", "GET, HEAD, POST"),
    ("space", "GET, HEAD, PATCH, DELETE"),
    ("file", "PUT, GET, HEAD, DELETE"),
    ("stat", "GET, HEAD"),
    ("dir", "PUT"),
    ("list", "GET, HEAD"),
    ("revisions", "GET, HEAD, POST, DELETE"),
    ("move", "POST"),
    ("copy", "POST"),
    ("trash", "GET, HEAD, DELETE"),
    ("trash_item", "DELETE"),
    ("restore", "POST"),
    ("me", "GET, HEAD"),
    ("users", "GET, HEAD, POST"),
    ("user", "GET, HEAD, PATCH, DELETE"),
    ("keys", "GET, HEAD, POST"),
    ("key", "DELETE"),
    ("check", "GET, HEAD, POST"),
    ("collect", "POST"),
    ("jobs", "GET, HEAD"),
    ("none", ""),
];

/// The class of paths that name nothing.
pub(crate) const NONE: usize = CLASSES - 1;

impl<'a> Route<'a> {
    /// What `path`, which begins with `/`, names.
    pub(crate) fn find(path: &'a str) -> Option<Self> {
        let path = path.strip_prefix('/')?;
        let (first, rest) = cut(path);
        match (first, rest) {
            ("v1", Some(rest)) => Self::version_1(rest),
            ("files", rest) => Self::files(rest),
            ("health" | "healthz" | "livez", None) => Some(Self::Health),
            ("ready" | "readyz", None) => Some(Self::Ready),
            ("metrics", None) => Some(Self::Metrics),
            _ => None,
        }
    }

    fn version_1(path: &'a str) -> Option<Self> {
        let (first, rest) = cut(path);
        match (first, rest.unwrap_or("")) {
            ("files", _) => Self::files(rest),
            ("spaces", "") => Some(Self::Spaces),
            ("spaces", rest) => {
                let (space, rest) = cut(rest);
                if space.is_empty() { None } else { Self::space(space, rest) }
            }
            ("me", "") => Some(Self::Me),
            ("users", "") => Some(Self::Users),
            ("users", rest) => Self::users(rest),
            ("admin", "check") => Some(Self::Check),
            ("admin", "gc") => Some(Self::Collect),
            ("admin", "jobs") => Some(Self::Jobs),
            _ => None,
        }
    }

    fn files(rest: Option<&'a str>) -> Option<Self> {
        match rest {
            None | Some("") => Some(Self::Files),
            Some(id) if !id.contains('/') => Some(Self::FileId(id)),
            Some(_) => None,
        }
    }

    fn space(space: &'a str, rest: Option<&'a str>) -> Option<Self> {
        let (verb, rest) = cut(rest.unwrap_or(""));
        let path = rest.unwrap_or("");
        match verb {
            // One trailing slash is forgiven.
            "" if rest.is_none() => Some(Self::Space(space)),
            "files" => Some(Self::File(space, path)),
            "stat" => Some(Self::Stat(space, path)),
            "dirs" => Some(Self::Dir(space, path)),
            "list" => Some(Self::List(space, path)),
            "revisions" => Some(Self::Revisions(space, path)),
            "move" if path.is_empty() => Some(Self::Move(space)),
            "copy" if path.is_empty() => Some(Self::Copy(space)),
            "trash" if path.is_empty() => Some(Self::Trash(space)),
            "trash" => match cut(path) {
                ("", _) => None,
                (item, None) => Some(Self::TrashItem(space, item)),
                (item, Some("restore")) => Some(Self::Restore(space, item)),
                _ => None,
            },
            _ => None,
        }
    }

    fn users(rest: &'a str) -> Option<Self> {
        let (user, rest) = cut(rest);
        match (user, rest.map(cut)) {
            ("", _) => None,
            (user, None) => Some(Self::User(user)),
            (user, Some(("keys", None | Some("")))) => Some(Self::Keys(user)),
            (user, Some(("keys", Some(key)))) if !key.contains('/') => Some(Self::Key(user, key)),
            _ => None,
        }
    }

    /// Its place in [`TABLE`].
    pub(crate) fn class(&self) -> usize {
        match self {
            Self::Health => 0,
            Self::Ready => 1,
            Self::Metrics => 2,
            Self::Files => 3,
            Self::FileId(..) => 4,
            Self::Spaces => 5,
            Self::Space(..) => 6,
            Self::File(..) => 7,
            Self::Stat(..) => 8,
            Self::Dir(..) => 9,
            Self::List(..) => 10,
            Self::Revisions(..) => 11,
            Self::Move(..) => 12,
            Self::Copy(..) => 13,
            Self::Trash(..) => 14,
            Self::TrashItem(..) => 15,
            Self::Restore(..) => 16,
            Self::Me => 17,
            Self::Users => 18,
            Self::User(..) => 19,
            Self::Keys(..) => 20,
            Self::Key(..) => 21,
            Self::Check => 22,
            Self::Collect => 23,
            Self::Jobs => 24,
        }
    }

    /// The methods it has, as `Allow` says them.
    pub(crate) fn allow(&self) -> &'static str {
        TABLE.get(self.class()).map_or("", |(_, allow)| allow)
    }

    /// Whether it has this method.
    pub(crate) fn allows(&self, method: &Method) -> bool {
        self.allow().split(", ").any(|allowed| allowed == method.as_str())
    }

    /// Whether it is answered without credentials.
    pub(crate) fn open(&self) -> bool {
        matches!(self, Self::Health | Self::Ready | Self::Metrics)
    }
}

/// Splits the first segment off.
fn cut(path: &str) -> (&str, Option<&str>) {
    path.split_once('/').map_or((path, None), |(first, rest)| (first, Some(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_of_the_contract_is_found_under_its_class() {
        let table = [
            ("/health", Route::Health, "health"),
            ("/healthz", Route::Health, "health"),
            ("/livez", Route::Health, "health"),
            ("/ready", Route::Ready, "ready"),
            ("/readyz", Route::Ready, "ready"),
            ("/metrics", Route::Metrics, "metrics"),
            ("/v1/files", Route::Files, "files"),
            ("/files", Route::Files, "files"),
            ("/v1/files/i", Route::FileId("i"), "file_id"),
            ("/files/i", Route::FileId("i"), "file_id"),
            ("/v1/spaces", Route::Spaces, "spaces"),
            ("/v1/spaces/s", Route::Space("s"), "space"),
            ("/v1/spaces/s/files/a/b", Route::File("s", "a/b"), "file"),
            ("/v1/spaces/s/files/", Route::File("s", ""), "file"),
            ("/v1/spaces/s/files/files", Route::File("s", "files"), "file"),
            ("/v1/spaces/s/files//a", Route::File("s", "/a"), "file"),
            ("/v1/spaces/s/stat/a", Route::Stat("s", "a"), "stat"),
            ("/v1/spaces/s/stat", Route::Stat("s", ""), "stat"),
            ("/v1/spaces/s/dirs/a/b", Route::Dir("s", "a/b"), "dir"),
            ("/v1/spaces/s/list/", Route::List("s", ""), "list"),
            ("/v1/spaces/s/list/a", Route::List("s", "a"), "list"),
            ("/v1/spaces/s/revisions/a", Route::Revisions("s", "a"), "revisions"),
            ("/v1/spaces/s/move", Route::Move("s"), "move"),
            ("/v1/spaces/s/copy", Route::Copy("s"), "copy"),
            ("/v1/spaces/s/trash", Route::Trash("s"), "trash"),
            ("/v1/spaces/s/trash/i", Route::TrashItem("s", "i"), "trash_item"),
            ("/v1/spaces/s/trash/i/restore", Route::Restore("s", "i"), "restore"),
            ("/v1/me", Route::Me, "me"),
            ("/v1/users", Route::Users, "users"),
            ("/v1/users/u", Route::User("u"), "user"),
            ("/v1/users/u/keys", Route::Keys("u"), "keys"),
            ("/v1/users/u/keys/k", Route::Key("u", "k"), "key"),
            ("/v1/admin/check", Route::Check, "check"),
            ("/v1/admin/gc", Route::Collect, "collect"),
            ("/v1/admin/jobs", Route::Jobs, "jobs"),
        ];
        let mut seen = [false; CLASSES];
        for (path, route, class) in table {
            assert_eq!(Route::find(path), Some(route), "{path}");
            assert_eq!(TABLE[route.class()].0, class, "{path}");
            seen[route.class()] = true;
        }
        assert_eq!(seen.iter().filter(|seen| !**seen).count(), 1, "all classes but `none`");
    }

    #[test]
    fn each_class_has_the_methods_of_the_contract_and_no_other() {
        let table = [
            (Route::Health, "GET HEAD"),
            (Route::Ready, "GET HEAD"),
            (Route::Metrics, "GET HEAD"),
            (Route::Files, "POST"),
            (Route::FileId("i"), "GET HEAD DELETE"),
            (Route::Spaces, "GET HEAD POST"),
            (Route::Space("s"), "GET HEAD PATCH DELETE"),
            (Route::File("s", "p"), "PUT GET HEAD DELETE"),
            (Route::Stat("s", "p"), "GET HEAD"),
            (Route::Dir("s", "p"), "PUT"),
            (Route::List("s", "p"), "GET HEAD"),
            (Route::Revisions("s", "p"), "GET HEAD POST DELETE"),
            (Route::Move("s"), "POST"),
            (Route::Copy("s"), "POST"),
            (Route::Trash("s"), "GET HEAD DELETE"),
            (Route::TrashItem("s", "i"), "DELETE"),
            (Route::Restore("s", "i"), "POST"),
            (Route::Me, "GET HEAD"),
            (Route::Users, "GET HEAD POST"),
            (Route::User("u"), "GET HEAD PATCH DELETE"),
            (Route::Keys("u"), "GET HEAD POST"),
            (Route::Key("u", "k"), "DELETE"),
            (Route::Check, "GET HEAD POST"),
            (Route::Collect, "POST"),
            (Route::Jobs, "GET HEAD"),
        ];
        let methods =
            ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "MKCOL"];
        assert_eq!(table.len(), CLASSES - 1);
        for (route, allowed) in table {
            for name in methods {
                let method = Method::from_bytes(name.as_bytes()).expect(name);
                let expected = allowed.split(' ').any(|allowed| allowed == name);
                assert_eq!(route.allows(&method), expected, "{name} {route:?}");
            }
        }
    }

    #[test]
    fn other_paths_name_nothing() {
        for path in [
            "",
            "/",
            "*",
            "v1/me",
            "/v1",
            "/v1/",
            "/v2/me",
            "/V1/me",
            "/v1/me/x",
            "/health/x",
            "/v1/files/a/b",
            "/v1/spaces//files/a",
            "/v1/spaces/s/x",
            "//v1/me",
            "/v1/spaces/s/move/a",
            "/v1/spaces/s/trash//restore",
            "/v1/spaces/s/trash/i/x",
            "/v1/spaces/s/trash/i/restore/x",
            "/v1/users/u/x",
            "/v1/users/u/keys/k/x",
            "/v1/users//keys",
            "/v1/admin",
            "/v1/admin/x",
            "/%76%31/me",
            "/v1/../health",
        ] {
            assert_eq!(Route::find(path), None, "{path}");
        }
    }
}
