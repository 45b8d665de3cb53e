//! The one table of routes: from a path to what it names, and which methods that has.
//!
//! A match on split segments, without maps and without allocation; names stay encoded until a
//! handler decodes them.
//!
//! Not here: what the handlers do.

use http::Method;

use crate::shares::LINK_SPACE;

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
    /// `/v1/admin/dump`.
    Dump,
    /// `/v1/admin/load`.
    Load,
    /// `/v1/admin/gc`.
    Collect,
    /// `/v1/admin/jobs`.
    Jobs,
    /// `/v1/admin/tasks`.
    Tasks,
    /// `/v1/admin/jobs/{id}`.
    Job(&'a str),
    /// `/v1/spaces/{space}/lifecycle`.
    Lifecycle(&'a str),
    /// `/v1/spaces/{space}/changes`.
    Changes(&'a str),
    /// `/v1/uploads`.
    Uploads,
    /// `/v1/uploads/{id}`.
    Upload(&'a str),
    /// `/v1/uploads/{id}/complete`.
    UploadComplete(&'a str),
    /// `/v1/uploads/{id}/parts`.
    UploadParts(&'a str),
    /// `/v1/uploads/{id}/parts/{number}`.
    UploadPart(&'a str, &'a str),
    /// `/v1/users/{user}/keys/{key}/rotate`.
    KeyRotate(&'a str, &'a str),
    /// `/v1/groups`.
    Groups,
    /// `/v1/groups/{group}`.
    Group(&'a str),
    /// `/v1/groups/{group}/members`.
    Members(&'a str),
    /// `/v1/groups/{group}/members/{user}`.
    Member(&'a str, &'a str),
    /// `/v1/shares`.
    Shares,
    /// `/v1/shares/{id}`.
    Share(&'a str),
    /// `/v1/spaces/{space}/references/{path}`.
    Reference(&'a str, &'a str),
    /// `/v1/links/{token}`.
    Link(&'a str),
    /// `/v1/links/{token}/files/{path}`.
    LinkFile(&'a str, &'a str),
    /// `/v1/links/{token}/stat/{path}`.
    LinkStat(&'a str, &'a str),
    /// `/v1/links/{token}/list/{path}`.
    LinkList(&'a str, &'a str),
    /// `/v1/links/{token}/dirs/{path}`.
    LinkDir(&'a str, &'a str),
    /// `/v1/openapi.json`.
    OpenApi,
}

/// Number of route classes, for counting.
pub(crate) const CLASSES: usize = 51;

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
    ("jobs", "GET, HEAD, POST"),
    ("uploads", "OPTIONS, POST, GET"),
    ("upload", "OPTIONS, HEAD, PATCH, DELETE, GET"),
    ("upload_complete", "POST"),
    ("upload_parts", "GET, HEAD"),
    ("upload_part", "PUT"),
    ("changes", "GET, HEAD"),
    ("key_rotate", "POST"),
    ("groups", "GET, HEAD, POST"),
    ("group", "GET, HEAD, PATCH, DELETE"),
    ("members", "GET, HEAD"),
    ("member", "PUT, DELETE"),
    ("dump", "GET"),
    ("load", "POST"),
    ("shares", "GET, HEAD, POST"),
    ("share", "GET, HEAD, PATCH, DELETE"),
    ("reference", "PUT"),
    ("link", "GET, HEAD"),
    ("link_file", "PUT, GET, HEAD, DELETE"),
    ("link_stat", "GET, HEAD"),
    ("link_list", "GET, HEAD"),
    ("link_dir", "PUT"),
    ("lifecycle", "GET, HEAD, PUT, DELETE"),
    ("job", "GET, HEAD, DELETE"),
    ("tasks", "GET, HEAD"),
    ("openapi", "GET, HEAD"),
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
            ("openapi.json", "") if rest.is_none() => Some(Self::OpenApi),
            ("shares", "") => Some(Self::Shares),
            ("shares", id) if !id.contains('/') => Some(Self::Share(id)),
            ("links", rest) => Self::links(rest),
            ("me", "") => Some(Self::Me),
            ("users", "") => Some(Self::Users),
            ("users", rest) => Self::users(rest),
            ("groups", "") => Some(Self::Groups),
            ("groups", rest) => Self::groups(rest),
            ("admin", "check") => Some(Self::Check),
            ("admin", "gc") => Some(Self::Collect),
            ("admin", "jobs") => Some(Self::Jobs),
            ("admin", "tasks") => Some(Self::Tasks),
            ("admin", "dump") => Some(Self::Dump),
            ("admin", "load") => Some(Self::Load),
            ("admin", rest) => match cut(rest) {
                ("jobs", Some(id)) if !id.is_empty() && !id.contains('/') => Some(Self::Job(id)),
                _ => None,
            },
            ("uploads", "") => Some(Self::Uploads),
            ("uploads", rest) => Self::uploads(rest),
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
            "references" => Some(Self::Reference(space, path)),
            "move" if path.is_empty() => Some(Self::Move(space)),
            "copy" if path.is_empty() => Some(Self::Copy(space)),
            "lifecycle" if path.is_empty() => Some(Self::Lifecycle(space)),
            "changes" if path.is_empty() => Some(Self::Changes(space)),
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

    fn uploads(rest: &'a str) -> Option<Self> {
        let (id, rest) = cut(rest);
        match (id, rest.map(cut)) {
            ("", _) => None,
            (id, None) => Some(Self::Upload(id)),
            (id, Some(("complete", None))) => Some(Self::UploadComplete(id)),
            (id, Some(("parts", None))) => Some(Self::UploadParts(id)),
            (id, Some(("parts", Some(number)))) if !number.is_empty() && !number.contains('/') => {
                Some(Self::UploadPart(id, number))
            }
            _ => None,
        }
    }

    fn users(rest: &'a str) -> Option<Self> {
        let (user, rest) = cut(rest);
        match (user, rest.map(cut)) {
            ("", _) => None,
            (user, None) => Some(Self::User(user)),
            (user, Some(("keys", None | Some("")))) => Some(Self::Keys(user)),
            (user, Some(("keys", Some(key)))) => match cut(key) {
                ("", _) => None,
                (key, None) => Some(Self::Key(user, key)),
                (key, Some("rotate")) => Some(Self::KeyRotate(user, key)),
                _ => None,
            },
            _ => None,
        }
    }

    fn groups(rest: &'a str) -> Option<Self> {
        let (group, rest) = cut(rest);
        match (group, rest.map(cut)) {
            ("", _) => None,
            (group, None) => Some(Self::Group(group)),
            (group, Some(("members", None | Some("")))) => Some(Self::Members(group)),
            (group, Some(("members", Some(user)))) if !user.contains('/') => {
                Some(Self::Member(group, user))
            }
            _ => None,
        }
    }

    fn links(rest: &'a str) -> Option<Self> {
        let (token, rest) = cut(rest);
        let (verb, path) = cut(rest.unwrap_or(""));
        let path = path.unwrap_or("");
        match verb {
            _ if token.is_empty() => None,
            "" if rest.is_none() => Some(Self::Link(token)),
            "files" => Some(Self::LinkFile(token, path)),
            "stat" => Some(Self::LinkStat(token, path)),
            "list" => Some(Self::LinkList(token, path)),
            "dirs" => Some(Self::LinkDir(token, path)),
            _ => None,
        }
    }

    /// The token of the link that a path goes through, and what it names within.
    pub(crate) fn through_link(self) -> Option<(&'a str, Self)> {
        match self {
            Self::LinkFile(token, path) => Some((token, Self::File(LINK_SPACE, path))),
            Self::LinkStat(token, path) => Some((token, Self::Stat(LINK_SPACE, path))),
            Self::LinkList(token, path) => Some((token, Self::List(LINK_SPACE, path))),
            Self::LinkDir(token, path) => Some((token, Self::Dir(LINK_SPACE, path))),
            _ => None,
        }
    }

    /// Whether it is a public link's.
    pub(crate) fn is_link(&self) -> bool {
        matches!(self, Self::Link(_)) || self.through_link().is_some()
    }

    /// Its place in [`TABLE`].
    pub(crate) fn class(&self) -> usize {
        match self {
            Self::Health => 0,
            Self::Dump => 36,
            Self::Load => 37,
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
            Self::Lifecycle(..) => 46,
            Self::Job(..) => 47,
            Self::Uploads => 25,
            Self::Upload(..) => 26,
            Self::UploadComplete(..) => 27,
            Self::UploadParts(..) => 28,
            Self::UploadPart(..) => 29,
            Self::Changes(..) => 30,
            Self::KeyRotate(..) => 31,
            Self::Groups => 32,
            Self::Group(..) => 33,
            Self::Members(..) => 34,
            Self::Member(..) => 35,
            Self::Shares => 38,
            Self::Share(..) => 39,
            Self::Reference(..) => 40,
            Self::Link(..) => 41,
            Self::LinkFile(..) => 42,
            Self::LinkStat(..) => 43,
            Self::LinkList(..) => 44,
            Self::LinkDir(..) => 45,
            Self::Tasks => 48,
            Self::OpenApi => 49,
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
        matches!(self, Self::Health | Self::Ready | Self::Metrics | Self::OpenApi)
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
            ("/v1/admin/tasks", Route::Tasks, "tasks"),
            ("/v1/admin/jobs/j", Route::Job("j"), "job"),
            ("/v1/spaces/s/lifecycle", Route::Lifecycle("s"), "lifecycle"),
            ("/v1/admin/dump", Route::Dump, "dump"),
            ("/v1/admin/load", Route::Load, "load"),
            ("/v1/spaces/s/changes", Route::Changes("s"), "changes"),
            ("/v1/spaces/s/references/a/b", Route::Reference("s", "a/b"), "reference"),
            ("/v1/openapi.json", Route::OpenApi, "openapi"),
            ("/v1/shares", Route::Shares, "shares"),
            ("/v1/shares/i", Route::Share("i"), "share"),
            ("/v1/links/t", Route::Link("t"), "link"),
            ("/v1/links/t/files/", Route::LinkFile("t", ""), "link_file"),
            ("/v1/links/t/files/a/b", Route::LinkFile("t", "a/b"), "link_file"),
            ("/v1/links/t/stat/a", Route::LinkStat("t", "a"), "link_stat"),
            ("/v1/links/t/list", Route::LinkList("t", ""), "link_list"),
            ("/v1/links/t/dirs/a", Route::LinkDir("t", "a"), "link_dir"),
            ("/v1/uploads", Route::Uploads, "uploads"),
            ("/v1/uploads/u", Route::Upload("u"), "upload"),
            ("/v1/uploads/u/complete", Route::UploadComplete("u"), "upload_complete"),
            ("/v1/uploads/u/parts", Route::UploadParts("u"), "upload_parts"),
            ("/v1/uploads/u/parts/7", Route::UploadPart("u", "7"), "upload_part"),
            ("/v1/users/u/keys/k/rotate", Route::KeyRotate("u", "k"), "key_rotate"),
            ("/v1/groups", Route::Groups, "groups"),
            ("/v1/groups/g", Route::Group("g"), "group"),
            ("/v1/groups/g/members", Route::Members("g"), "members"),
            ("/v1/groups/g/members/u", Route::Member("g", "u"), "member"),
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
            (Route::Jobs, "GET HEAD POST"),
            (Route::Tasks, "GET HEAD"),
            (Route::Job("j"), "GET HEAD DELETE"),
            (Route::Lifecycle("s"), "GET HEAD PUT DELETE"),
            (Route::Dump, "GET"),
            (Route::Load, "POST"),
            (Route::Changes("s"), "GET HEAD"),
            (Route::Uploads, "OPTIONS POST GET"),
            (Route::Upload("u"), "OPTIONS HEAD PATCH DELETE GET"),
            (Route::UploadComplete("u"), "POST"),
            (Route::UploadParts("u"), "GET HEAD"),
            (Route::UploadPart("u", "7"), "PUT"),
            (Route::KeyRotate("u", "k"), "POST"),
            (Route::Groups, "GET HEAD POST"),
            (Route::Group("g"), "GET HEAD PATCH DELETE"),
            (Route::Members("g"), "GET HEAD"),
            (Route::Member("g", "u"), "PUT DELETE"),
            (Route::Reference("s", "p"), "PUT"),
            (Route::OpenApi, "GET HEAD"),
            (Route::Shares, "GET HEAD POST"),
            (Route::Share("i"), "GET HEAD PATCH DELETE"),
            (Route::Link("t"), "GET HEAD"),
            (Route::LinkFile("t", "p"), "PUT GET HEAD DELETE"),
            (Route::LinkStat("t", "p"), "GET HEAD"),
            (Route::LinkList("t", "p"), "GET HEAD"),
            (Route::LinkDir("t", "p"), "PUT"),
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
            "/v1/spaces/s/changes/x",
            "/v1/spaces/s/trash/i/x",
            "/v1/spaces/s/trash/i/restore/x",
            "/v1/users/u/x",
            "/v1/uploads//parts",
            "/v1/uploads/u/x",
            "/v1/uploads/u/parts/",
            "/v1/uploads/u/parts/1/2",
            "/v1/uploads/u/complete/x",
            "/v1/users/u/keys/k/x",
            "/v1/users/u/keys/k/rotate/x",
            "/v1/groups//members",
            "/v1/groups/g/x",
            "/v1/groups/g/members/u/x",
            "/v1/users//keys",
            "/v1/admin",
            "/v1/admin/x",
            "/v1/admin/jobs/",
            "/v1/admin/jobs/j/x",
            "/v1/spaces/s/lifecycle/x",
            "/%76%31/me",
            "/v1/../health",
        ] {
            assert_eq!(Route::find(path), None, "{path}");
        }
    }
}
