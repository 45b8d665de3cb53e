//! The settings of a server: every key is declared and documented once, in the table below.
//!
//! Promises: a [`Config`] has been checked as a whole; a key that is not in the table is an
//! error wherever it comes from; a secret is never shown. `docs/config.md` is printed from the
//! same table (`larder config docs`).
//!
//! Not here: where texts come from and which of them wins ([`load`]), how each kind of value is
//! written ([`value`]), the settings of the client verbs (`client::target`).

pub(crate) mod load;
pub(crate) mod secret;
pub(crate) mod value;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use larder_http::{
    network::{ForwardedHeader, Networks},
    rate::Rate,
};
use load::{Problems, Source, Values};
use secret::Secret;
use value::{ByteRate, Listener, LogFormat, Setting, Size};

/// Smallest largest head: what the HTTP library needs.
const HEADER_BYTES_MIN: u64 = 8 << 10;

/// Shortest root password that is accepted.
const PASSWORD_CHARS_MIN: usize = 8;

/// What is known about a setting besides its value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    /// `section.key`, as in the file.
    pub(crate) name: &'static str,
    /// What to write.
    pub(crate) form: &'static str,
    /// The text that holds when nobody says otherwise; empty for none.
    pub(crate) default: &'static str,
    /// A shorter environment variable beside `LARDER_SECTION__KEY`; empty for none.
    pub(crate) short: &'static str,
    /// Whether the value is never shown, and can also come from a file.
    pub(crate) secret: bool,
    /// What must come before it has an effect; empty for what has one. It is accepted already,
    /// so that settings can be written for what comes.
    later: &'static str,
    /// What it does.
    doc: &'static [&'static str],
}

/// Declares the settings: documentation, field, type, key, default, short variable, and with
/// what it will have an effect if it has none yet.
macro_rules! settings {
    ($($(#[doc = $doc:literal])+
        $field:ident: $kind:ty = $name:literal, $default:literal
            $(, short $short:literal)? $(, with $later:literal)?;)+
    ) => {
        /// Every setting of a server.
        #[derive(Clone, Debug)]
        pub(crate) struct Config {
            $(
                $(#[doc = $doc])+
                $(#[expect(dead_code, reason = $later)])?
                pub(crate) $field: $kind,
            )+
        }

        /// The table of all settings, in the order of the documentation.
        pub(crate) static KEYS: &[Key] = &[$(Key {
            name: $name,
            form: <$kind as Setting>::FORM,
            default: $default,
            short: concat!($($short)?),
            secret: <$kind as Setting>::SECRET,
            later: concat!($($later)?),
            doc: &[$($doc),+],
        }),+];

        impl Config {
            fn read(values: &Values, problems: &mut Problems) -> Option<Self> {
                $(let $field = read_one::<$kind>(values, $name, problems);)+
                match ($($field,)+) {
                    ($(Some($field),)+) => Some(Self { $($field),+ }),
                    _ => None,
                }
            }
        }
    };
}

settings! {
    /// Directory that holds everything Larder keeps on this machine: metadata, files, keys.
    /// It belongs to one running server at a time.
    data_dir: PathBuf = "data.dir", "/var/lib/larder", short "LARDER_DATA_DIR";

    /// Address of the listener for REST, health and metrics. It speaks HTTPS when there is a
    /// certificate (`tls.cert_file`), else HTTP.
    http_address: SocketAddr = "http.address", "127.0.0.1:8080", short "LARDER_HTTP_ADDRESS";
    /// Threads that serve requests; `auto` is one for each core.
    http_workers: Option<usize> = "http.workers", "auto";
    /// Most connections at once; further ones are told to come again and closed.
    http_max_connections: usize = "http.max_connections", "4096";
    /// Most connections of one address (of IPv6: of one /64), unless it is a trusted proxy's.
    http_max_connections_per_address: Option<usize> = "http.max_connections_per_address", "1024";
    /// Largest head of a request; larger ones get 431.
    http_header_bytes_max: Size = "http.header_bytes_max", "64KiB";
    /// Most headers of a request; more get 431. Another number than 100 makes each request a
    /// little slower.
    http_headers_max: usize = "http.headers_max", "100";
    /// How long the head of a request, and before it the handshake of TLS, may take to arrive.
    http_header_timeout: Duration = "http.header_timeout", "30s";
    /// How long a connection may stand still, between requests or within a body.
    http_idle_timeout: Duration = "http.idle_timeout", "75s";
    /// Slowest rate at which a client must send a body or take an answer, on average over each
    /// `http.stall_timeout` that the server waits for it; slower ones are cut off.
    http_min_rate: Option<ByteRate> = "http.min_rate", "1KiB/s";
    /// Time over which `http.min_rate` is measured: so long a client may stand still.
    http_stall_timeout: Duration = "http.stall_timeout", "1m";
    /// How long running requests may go on after the server has been told to stop.
    http_drain_timeout: Duration = "http.drain_timeout", "30s";

    /// Address of the listener for S3; `off` is none. What the other `http.` settings say holds for
    /// it, too.
    s3_address: Listener = "s3.address", "127.0.0.1:9000", short "LARDER_S3_ADDRESS";
    /// Region that S3 clients must be set to.
    s3_region: String = "s3.region", "us-east-1";
    /// Domain below which S3 buckets are hosts, such as `s3.example.org` for
    /// `bucket.s3.example.org`. Paths name them always.
    s3_domain: Option<String> = "s3.domain", "none";

    /// File with the certificate of the server and those between it and its root, in PEM.
    tls_cert_file: Option<PathBuf> = "tls.cert_file", "none";
    /// File with the private key of the certificate, in PEM.
    tls_key_file: Option<PathBuf> = "tls.key_file", "none";
    /// Pause between two looks whether certificate or key have changed. SIGHUP looks at once.
    tls_reload_interval: Duration = "tls.reload_interval", "30s";

    /// Networks whose requests are answered; `none` is all.
    net_allow: Networks = "net.allow", "none";
    /// Networks whose requests are refused, also where they are allowed.
    net_deny: Networks = "net.deny", "none";
    /// Networks of proxies that are believed to say whose request they pass on. Nobody else is.
    net_trusted_proxies: Networks = "net.trusted_proxies", "none";
    /// The header in which those proxies say it; the other one has no effect. Whether a request
    /// came to them by HTTPS they say in `X-Forwarded-Proto`, or in the `proto` of `Forwarded`.
    net_forwarded_header: ForwardedHeader = "net.forwarded_header", "x-forwarded-for";

    /// Most requests of one address (of IPv6: of one /64); more get 429. `100/s` is a bucket of
    /// 100 that fills with 100 a second.
    rate_requests_per_address: Option<Rate> = "rate.requests_per_address", "none";
    /// Most requests of one user, whatever they come with.
    rate_requests_per_user: Option<Rate> = "rate.requests_per_user", "none";
    /// Most requests with one API key, app password or public link.
    rate_requests_per_key: Option<Rate> = "rate.requests_per_key", "none";
    /// Most bytes of contents of one address, both ways together; what is more is slowed down.
    rate_bytes_per_address: Option<ByteRate> = "rate.bytes_per_address", "none";
    /// The same of one user.
    rate_bytes_per_user: Option<ByteRate> = "rate.bytes_per_user", "none";
    /// The same with one API key, app password or public link.
    rate_bytes_per_key: Option<ByteRate> = "rate.bytes_per_key", "none";

    /// Where metadata lives. `embedded:` is the engine built into the server, in `data.dir`.
    meta_url: String = "meta.url", "embedded:", short "LARDER_META_URL";
    /// Memory for cached metadata.
    meta_cache_bytes: Size = "meta.cache_bytes", "32MiB";

    /// Where the bytes of files live. `local:` is `data.dir`, `local:/some/dir` another
    /// directory of this machine.
    store_urls: Vec<String> = "store.urls", "local:", short "LARDER_STORE_URLS";

    /// Memory that all buffers which grow with clients have together: connections, bodies,
    /// contents on their way. Requests wait for their share instead of taking more, and are told
    /// to come again when there is none.
    memory_budget_bytes: Size = "memory.budget_bytes", "64MiB";

    /// Pieces of large uploads that are moved at once while small changes are made now and then,
    /// half as many while one follows the other, and eight times as many while none are; of
    /// downloads twice as many, or eight times as many for a user who is alone; of expensive
    /// requests half as many. `auto` is one for each core. More make small requests wait longer.
    work_slots: Option<usize> = "work.slots", "auto";
    /// Share of the time that large uploads have while one small change follows the other, in
    /// percent. More make small requests wait longer; 100 lets the uploads never rest.
    work_upload_percent: u32 = "work.upload_percent", "25";
    /// Heavy steps that wait at the most before further ones are told to come again.
    work_queue_max: usize = "work.queue_max", "1024";

    /// Largest file that is accepted.
    limits_file_bytes_max: Option<Size> = "limits.file_bytes_max", "none";

    /// How long an unfinished upload is kept after its last byte arrived.
    upload_session_ttl: Duration = "upload.session_ttl", "1h";
    /// The same for an S3 multipart upload.
    upload_multipart_ttl: Duration = "upload.multipart_ttl", "7d";
    /// Pause between two searches for abandoned uploads.
    upload_sweep_interval: Duration = "upload.sweep_interval", "5m";
    /// Most unfinished uploads that one user may have.
    upload_sessions_per_user_max: u32 = "upload.sessions_per_user_max", "1000";
    /// How long it is remembered what became of an upload, so that a client that missed the
    /// answer can ask again.
    upload_result_retention: Duration = "upload.result_retention", "24h";

    /// How long deleted files stay in the trash, unless their space says otherwise; `none` is
    /// for ever.
    trash_retention: Option<Duration> = "trash.retention", "30d";

    /// How many old revisions of a file are kept, unless its space says otherwise; `none` is
    /// all.
    revisions_keep: Option<u32> = "revisions.keep", "none";
    /// How long old revisions of a file are kept, unless its space says otherwise; `none` is
    /// for ever.
    revisions_retention: Option<Duration> = "revisions.retention", "none";

    /// How long changes stay in the change feeds of spaces; `none` is for ever. Readers that come
    /// back later must list the space anew.
    feed_retention: Option<Duration> = "feed.retention", "7d";
    /// Most changes that the feed of a space keeps.
    feed_entries_max: usize = "feed.entries_max", "1000000";

    /// Pause between two walks over the files of spaces that have lifecycle rules.
    lifecycle_interval: Duration = "lifecycle.interval", "1h";
    /// What a day is to lifecycle rules of buckets; something else than `24h` is for tests.
    lifecycle_day: Duration = "lifecycle.day", "24h";

    /// How long requests with an `Idempotency-Key` are remembered.
    idempotency_retention: Duration = "idempotency.retention", "24h";
    /// Most of them that are remembered for one user; further ones are told to come later.
    idempotency_keys_max: usize = "idempotency.keys_max", "250000";

    /// Pause between two runs that free the bytes nothing refers to any more.
    collect_interval: Duration = "collect.interval", "1m";
    /// Pause between two complete readings of all stored bytes in search of damage; `none`
    /// switches them off.
    scrub_interval: Option<Duration> = "scrub.interval", "7d";

    /// Pause between two signs of life that a server gives the others.
    server_heartbeat: Duration = "server.heartbeat", "10s", with "storage servers";
    /// Pause between two looks at the list of storage servers.
    ring_refresh: Duration = "ring.refresh", "30s", with "storage servers";
    /// How long a server keeps a role after its last sign of life.
    lease_ttl: Duration = "lease.ttl", "15s";
    /// Pause between two updates of the totals that directories show. Embedded metadata has
    /// them exact at once.
    stats_fold_interval: Duration = "stats.fold_interval", "1s", with "other homes of metadata";

    /// Which events are logged, in the syntax of `RUST_LOG`, which wins when it is set.
    /// `info` alone adds the access log, a line for each request.
    log_level: String = "log.level", "info,larder::access=off";
    /// How events are written to standard error: `auto` is text on a terminal, JSON elsewhere.
    log_format: LogFormat = "log.format", "auto";

    /// Token that `/metrics` wants as `Authorization: Bearer TOKEN`; without one it is open to
    /// whoever reaches `http.address`.
    metrics_token: Option<Secret> = "metrics.token", "none";

    /// File with the master key, 64 hexadecimal digits, which secrets are sealed under; `auto` is
    /// `keys/master.key` in `data.dir`. It is made on the first start if it is not there. Without
    /// it the server does not start again, so back it up.
    master_key_file: Option<PathBuf> = "master_key.file", "auto", short "LARDER_MASTER_KEY_FILE";
    /// Whether to start with another master key than before. What was sealed under that one (S3
    /// key pairs, passwords of links) is lost and has to be made again.
    master_key_replace: bool = "master_key.replace", "false";

    /// Name of the first user, who may do everything. It is read on the first start.
    root_user: String = "root.user", "root", short "LARDER_ROOT_USER";
    /// Password of the first user, read on the first start. Without it one is drawn and printed
    /// once.
    root_password: Option<Secret> = "root.password", "none", short "LARDER_ROOT_PASSWORD";
}

/// Whether a text is made of ASCII letters, digits and `more`.
fn is_name(text: &str, more: &[char]) -> bool {
    text.chars().all(|char| char.is_ascii_alphanumeric() || more.contains(&char))
}

fn read_one<T: Setting>(values: &Values, name: &str, problems: &mut Problems) -> Option<T> {
    let value = values.get(name)?;
    T::parse(&value.text)
        .map_err(|error| {
            // The text of a secret must not reach a terminal or a log.
            let shown = if T::SECRET { "***" } else { &value.text };
            problems.push(format!("{name} = {shown:?} ({}): {error}", value.source));
        })
        .ok()
}

impl Config {
    /// Reads and checks all values. The errors are complete: one for each wrong setting.
    pub(crate) fn from_values(values: &Values) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        match Self::read(values, &mut problems) {
            Some(config) => {
                config.check(&mut problems);
                if problems.is_empty() { Ok(config) } else { Err(problems) }
            }
            None => Err(problems),
        }
    }

    /// What no single value shows.
    fn check(&self, problems: &mut Problems) {
        // Whatever else may be wrong with it shows when it is made or opened.
        let mut directory = |key: &str, path: &Path| {
            if std::fs::metadata(path).is_ok_and(|found| !found.is_dir()) {
                problems.push(format!("{key} = {path:?} is a file; a directory is needed"));
            }
        };
        directory("data.dir", &self.data_dir);
        for path in self.store_urls.iter().filter_map(|url| url.strip_prefix("local:")) {
            directory("store.urls", Path::new(path));
        }
        if self.meta_url != "embedded:" {
            problems.push(format!(
                "meta.url = {:?}: this version keeps metadata only in `embedded:`",
                self.meta_url
            ));
        }
        if self.tls_cert_file.is_some() != self.tls_key_file.is_some() {
            problems.push("tls.cert_file and tls.key_file: give both or none".to_owned());
        }
        if !is_name(&self.s3_region, &['-', '_']) {
            problems.push(format!("s3.region = {:?}: letters, digits, `-`", self.s3_region));
        }
        if let Some(domain) = &self.s3_domain
            && !is_name(domain, &['-', '.'])
        {
            problems.push(format!("s3.domain = {domain:?}: the name of a host is needed"));
        }
        if !(1..=100).contains(&self.work_upload_percent) {
            let given = self.work_upload_percent;
            problems.push(format!("work.upload_percent = {given}: 1 to 100 are percents"));
        }
        if self.http_header_bytes_max.bytes() < HEADER_BYTES_MIN {
            problems.push(format!("http.header_bytes_max must be at least {HEADER_BYTES_MIN}"));
        }
        for (key, time) in [
            ("http.header_timeout", self.http_header_timeout),
            ("http.idle_timeout", self.http_idle_timeout),
            ("http.stall_timeout", self.http_stall_timeout),
            ("tls.reload_interval", self.tls_reload_interval),
        ] {
            if time.is_zero() {
                problems.push(format!("{key} must be above 0"));
            }
        }
        if self.store_urls.is_empty() {
            problems.push("store.urls: at least one store is needed, such as `local:`".to_owned());
        }
        for url in &self.store_urls {
            if !url.starts_with("local:") {
                problems.push(format!(
                    "store.urls has {url:?}: this version keeps files only in `local:` or \
                     `local:/some/dir`"
                ));
            }
        }
        if let Some(password) = &self.root_password
            && password.reveal().chars().count() < PASSWORD_CHARS_MIN
        {
            problems.push(format!(
                "root.password is too short: it needs at least {PASSWORD_CHARS_MIN} characters"
            ));
        }
    }
}

/// `docs/config.md`.
pub(crate) fn docs() -> String {
    let mut out = String::from(DOCS_HEAD);
    let mut section = "";
    for key in KEYS {
        let (this, _) = key.name.split_once('.').unwrap_or((key.name, ""));
        if this != section {
            section = this;
            out.push_str(&format!("\n## {section}\n\n"));
            out.push_str("| key | value | default | meaning |\n| --- | --- | --- | --- |\n");
        }
        let doc: Vec<&str> = key.doc.iter().map(|line| line.trim()).collect();
        let mut doc = doc.join(" ");
        if !key.later.is_empty() {
            doc.push_str(&format!(" **No effect yet**: it comes with {}.", key.later));
        }
        if !key.short.is_empty() {
            doc.push_str(&format!(" Short variable: `{}`.", key.short));
        }
        let Key { name, form, default, .. } = key;
        out.push_str(&format!("| `{name}` | {form} | `{default}` | {doc} |\n"));
    }
    out
}

const DOCS_HEAD: &str = "\
# Settings of `larder serve`

Printed by `larder config docs`; change it in `crates/larder/src/config/mod.rs`.

A setting comes from, in this order: a flag (`--set KEY=VALUE`, or the flag of its own that
`larder serve --help` lists), the environment, the file, its default. `larder config show` prints
every value with its source, `larder config check` every mistake.

* **Environment**: `LARDER_SECTION__KEY`, so `trash.retention` is `LARDER_TRASH__RETENTION`. Some
  settings have a short variable too.
* **File**: TOML, `[section]` and `key = value`. It is the one that `--config` or `LARDER_CONFIG`
  names, else `/etc/larder/larder.toml` if there is one.
* A key that does not exist is an error, in the file and in the environment.
* A **secret** can be read from a file: add `_file` to its key or `_FILE` to its variable.
* A **duration** is written `500ms`, `90s`, `5m`, `1h`, `30d` or `1h30m`; a **size** `4096`,
  `64KiB`, `10MB`, `1GiB`; a **list** as an array, or with commas in the environment.
* A **rate** is written `100/s`, `600/m` or `5000/h`, one of bytes `10MiB/s`; a **network**
  `10.0.0.0/8`, `2001:db8::/32` or one address.
";

/// One line for each setting: its value and where it comes from. Secrets are `***`.
pub(crate) fn show(values: &Values) -> Vec<(&'static str, String, String)> {
    KEYS.iter()
        .filter_map(|key| {
            let value = values.get(key.name)?;
            let hidden = key.secret && value.source != Source::Default;
            let text = if hidden { "***".to_owned() } else { value.text.clone() };
            Some((key.name, text, value.source.to_string()))
        })
        .collect()
}

/// The setting called `name`.
pub(crate) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The existing key that is most like `name`, by single-character edits.
pub(crate) fn nearest(name: &str) -> &'static str {
    let distance = |key: &&Key| edits(name, key.name);
    KEYS.iter().min_by_key(distance).map_or("", |key| key.name)
}

/// Levenshtein distance.
fn edits(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, left) in left.chars().enumerate() {
        let mut diagonal = above;
        let mut last = above + 1;
        if let Some(first) = row.first_mut() {
            *first = last;
        }
        for (cell, right) in row.iter_mut().skip(1).zip(&right) {
            let replaced = diagonal + usize::from(left != *right);
            diagonal = *cell;
            *cell = replaced.min(diagonal + 1).min(last + 1);
            last = *cell;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// The values that hold when nobody says anything.
pub(crate) fn defaults() -> Values {
    let value = |key: &Key| load::Value { text: key.default.to_owned(), source: Source::Default };
    KEYS.iter().map(|key| (key.name, value(key))).collect::<BTreeMap<_, _>>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_local() {
        let config = Config::from_values(&defaults()).expect("defaults are valid");
        assert!(config.http_address.ip().is_loopback());
        assert_eq!(config.root_password, None);
        assert_eq!(config.trash_retention, Some(Duration::from_secs(30 * 24 * 3600)));
    }

    #[test]
    fn docs_have_every_key_with_its_meaning() {
        let docs = docs();
        for key in KEYS {
            assert!(docs.contains(&format!("| `{}` |", key.name)), "{}", key.name);
        }
        assert!(docs.contains("Directory that holds everything Larder keeps on this machine"));
    }

    #[test]
    fn the_nearest_key_is_the_one_with_a_typo() {
        assert_eq!(nearest("http.adress"), "http.address");
        assert_eq!(nearest("trash.retension"), "trash.retention");
        assert_eq!(nearest("root.pasword"), "root.password");
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("kitten", "sitting"), 3);
    }

    #[test]
    fn a_file_where_a_directory_is_needed_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        let path = file.path().to_str().expect("UTF-8");
        for (key, text) in [("data.dir", path.to_owned()), ("store.urls", format!("local:{path}"))]
        {
            let mut values = defaults();
            values.insert(key, load::Value { text, source: Source::Default });
            let problems = Config::from_values(&values).expect_err("refused").to_string();
            assert!(problems.contains(key) && problems.contains(path), "{problems}");
        }
    }

    #[test]
    fn what_this_version_cannot_do_is_refused_by_name() {
        let mut values = defaults();
        let mut set = |key, text: &str| {
            values.insert(key, load::Value { text: text.to_owned(), source: Source::Default })
        };
        set("meta.url", "postgres://db");
        set("store.urls", "local:, s3://bucket");
        set("root.password", "short");
        let problems = Config::from_values(&values).expect_err("refused").to_string();
        assert!(problems.contains("postgres://db"), "{problems}");
        assert!(problems.contains("s3://bucket"), "{problems}");
        assert!(problems.contains("at least 8"), "{problems}");
        assert!(!problems.contains("short\""), "a secret was shown: {problems}");
    }
}
