//! Which server a verb talks to, as whom: flags, environment, and the aliases of `larder login`.
//!
//! Promises: `--url` and `LARDER_URL` name a server, `--alias` and `LARDER_ALIAS` one that
//! `larder login` has kept; a flag beats a variable, and naming either beats the alias of the
//! last login; credentials that are given beat those of an alias. The alias file is readable by
//! its owner alone and replaced as a whole. No secret appears in a message.
//!
//! Not here: asking for a password (`command::login`), connections ([`super::connection`]).

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use base64::Engine as _;
use http::{HeaderValue, Uri};
use serde::{Deserialize, Serialize};

use super::{
    error::{ClientError, Result},
    tls::Tls,
};
use crate::{args::Global, config::secret::Secret};

/// The server that is meant when nobody names one.
const DEFAULT_URL: &str = "http://127.0.0.1:8080";

/// A server and what to say to it about ourselves.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// As given, for messages and the alias file.
    pub(crate) url: String,
    /// `host:port` to connect to.
    pub(crate) address: String,
    /// The `Host` header.
    pub(crate) host: HeaderValue,
    /// What stands before `/v1`, without a `/` at its end.
    pub(crate) prefix: String,
    /// The host that must prove itself; `None` without TLS.
    name: Option<String>,
    /// File of the authorities that are believed, instead of those of this machine.
    ca_file: Option<PathBuf>,
    /// Who we are.
    pub(crate) credentials: Credentials,
}

/// Who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// Nobody says.
    None,
    /// User and password, or app password.
    Basic(String, Secret),
    /// API key.
    Bearer(Secret),
}

impl Credentials {
    /// The `Authorization` header; it is marked as sensitive.
    pub(crate) fn header(&self) -> Result<Option<HeaderValue>> {
        let text = match self {
            Self::None => return Ok(None),
            Self::Basic(user, password) => {
                if user.contains(':') {
                    return Err(ClientError::usage("a user name cannot have a `:`"));
                }
                let pair = format!("{user}:{}", password.reveal());
                format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
            }
            Self::Bearer(token) => format!("Bearer {}", token.reveal()),
        };
        let mut value = HeaderValue::try_from(text)
            .map_err(|_| ClientError::usage("the token has characters that tokens never have"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// What the environment says.
pub(crate) type Environment = BTreeMap<String, String>;

impl Target {
    /// Parses `url`.
    pub(crate) fn new(url: &str, credentials: Credentials) -> Result<Self> {
        let wrong = |what: &str| ClientError::usage(format!("server {url:?}: {what}"));
        let secure = url.starts_with("https://");
        if !secure && !url.starts_with("http://") {
            return Err(wrong("http://HOST:PORT or https://HOST:PORT is needed"));
        }
        let uri: Uri = url.parse().map_err(|_| wrong("not a URL"))?;
        let authority = uri.authority().ok_or_else(|| wrong("no host"))?;
        if authority.as_str().contains('@') {
            // Not repeated: it may hold a password.
            return Err(ClientError::usage(
                "credentials do not belong into the URL; use --user and --password-file",
            ));
        }
        if uri.query().is_some() {
            return Err(wrong("a server's URL has no `?`"));
        }
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            address: format!("{}:{port}", authority.host()),
            host: HeaderValue::try_from(authority.as_str()).map_err(|_| wrong("not a host"))?,
            prefix: uri.path().trim_end_matches('/').to_owned(),
            name: secure.then(|| authority.host().to_owned()),
            ca_file: None,
            credentials,
        })
    }

    /// Believes only the authorities of `ca_file`, if it is named.
    #[must_use]
    pub(crate) fn with_ca_file(mut self, ca_file: Option<PathBuf>) -> Self {
        self.ca_file = ca_file.or(self.ca_file);
        self
    }

    /// TLS, if that is spoken.
    pub(crate) fn tls(&self) -> Result<Option<Tls>> {
        let Some(name) = &self.name else { return Ok(None) };
        Tls::new(name, self.ca_file.as_deref()).map(Some)
    }

    /// The server that flags, environment and aliases mean together.
    pub(crate) fn choose(flags: &Global, environment: &Environment) -> Result<Self> {
        Ok(Self::named(flags, environment)?.with_ca_file(given_ca_file(flags, environment)))
    }

    fn named(flags: &Global, environment: &Environment) -> Result<Self> {
        let given = given_credentials(flags, environment)?;
        let variable = |name: &str| environment.get(name).filter(|text| !text.is_empty());
        if let Some(url) = &flags.url {
            if flags.alias.is_some() {
                return Err(ClientError::usage("give either --url or --alias, not both"));
            }
            return Self::new(url, given.into_credentials(Credentials::None)?);
        }
        let named = match (&flags.alias, variable("LARDER_URL")) {
            (Some(alias), _) => Some(alias),
            (None, Some(url)) => {
                return Self::new(url, given.into_credentials(Credentials::None)?);
            }
            (None, None) => variable("LARDER_ALIAS"),
        };
        let aliases = match Aliases::path(environment) {
            Some(path) => Aliases::load(&path)?,
            None => Aliases::default(),
        };
        let alias = match named.or(aliases.default.as_ref()) {
            Some(name) => match aliases.alias.get(name) {
                Some(alias) => alias,
                None => {
                    return Err(ClientError::usage(format!(
                        "alias `{name}` does not exist; \
                         `larder login --alias {name} URL` makes it"
                    )));
                }
            },
            None => return Self::new(DEFAULT_URL, given.into_credentials(Credentials::None)?),
        };
        let target = Self::new(&alias.url, given.into_credentials(alias.credentials())?)?;
        Ok(target.with_ca_file(alias.ca_file.clone()))
    }
}

/// The file of authorities that flags and environment name.
pub(crate) fn given_ca_file(flags: &Global, environment: &Environment) -> Option<PathBuf> {
    let variable = environment.get("LARDER_CA_FILE").filter(|text| !text.is_empty());
    flags.ca_file.clone().or_else(|| variable.map(PathBuf::from))
}

/// Credentials that flags and environment give, before it is known what they complete.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// User name.
    pub(crate) user: Option<String>,
    /// Password.
    pub(crate) password: Option<Secret>,
    /// API key.
    pub(crate) token: Option<Secret>,
}

/// Reads credentials. Flags beat variables as a group: a flag for a token hides a variable for a
/// password, and the reverse.
pub(crate) fn given_credentials(flags: &Global, environment: &Environment) -> Result<Given> {
    let file =
        |path: &Path| Secret::from_file(path).map_err(|error| ClientError::local(path, error));
    let text = |text: &Option<String>| text.as_ref().map(Secret::new);
    let from_flags = Given {
        user: flags.user.clone(),
        password: text(&flags.password).map_or_else(
            || flags.password_file.as_deref().map(file).transpose(),
            |s| Ok(Some(s)),
        )?,
        token: text(&flags.token)
            .map_or_else(|| flags.token_file.as_deref().map(file).transpose(), |s| Ok(Some(s)))?,
    };
    let variable = |name: &str| environment.get(name).filter(|text| !text.is_empty());
    let secret = |name: &str| -> Result<Option<Secret>> {
        let file_name = format!("{name}_FILE");
        match (variable(name), variable(&file_name)) {
            (Some(_), Some(_)) => {
                Err(ClientError::usage(format!("{name} and {file_name} are both set")))
            }
            (Some(text), None) => Ok(Some(Secret::new(text))),
            (None, Some(path)) => file(Path::new(path)).map(Some),
            (None, None) => Ok(None),
        }
    };
    let user = from_flags.user.or_else(|| variable("LARDER_USER").cloned());
    match (from_flags.password, from_flags.token) {
        (Some(_), Some(_)) => {
            Err(ClientError::usage("give either a password or a token, not both"))
        }
        (Some(password), None) => Ok(Given { user, password: Some(password), token: None }),
        (None, Some(token)) => Ok(Given { user: None, password: None, token: Some(token) }),
        // With `--user` a password is meant, whatever else the environment offers.
        (None, None) => {
            let token = if flags.user.is_some() { None } else { secret("LARDER_TOKEN")? };
            let password = if token.is_some() { None } else { secret("LARDER_PASSWORD")? };
            Ok(Given { user, password, token })
        }
    }
}

impl Given {
    /// Completes what is given by what is `known`.
    pub(crate) fn into_credentials(self, known: Credentials) -> Result<Credentials> {
        if let Some(token) = self.token {
            return Ok(Credentials::Bearer(token));
        }
        match (self.user, self.password, known) {
            (None, None, known) => Ok(known),
            (Some(user), Some(password), _) => Ok(Credentials::Basic(user, password)),
            (None, Some(password), Credentials::Basic(user, _)) => {
                Ok(Credentials::Basic(user, password))
            }
            (Some(user), None, Credentials::Basic(known, password)) if user == known => {
                Ok(Credentials::Basic(user, password))
            }
            (Some(_), None, _) => Err(ClientError::usage(
                "a user is given without a password; use --password-file or LARDER_PASSWORD",
            )),
            (None, Some(_), _) => Err(ClientError::usage(
                "a password is given without a user; use --user or LARDER_USER",
            )),
        }
    }
}

/// The alias file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Aliases {
    /// Name of the alias of the last login.
    pub(crate) default: Option<String>,
    /// All aliases by name.
    #[serde(default)]
    pub(crate) alias: BTreeMap<String, Alias>,
}

/// What `larder login` keeps.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Alias {
    /// Server.
    pub(crate) url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca_file: Option<PathBuf>,
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
}

impl Alias {
    /// An alias for a server.
    pub(crate) fn new(target: &Target) -> Self {
        let url = target.url.clone();
        // It is used from other directories too.
        let ca_file = target
            .ca_file
            .as_ref()
            .map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()));
        let none = Self { url, ca_file, user: None, password: None, token: None };
        match &target.credentials {
            Credentials::None => none,
            Credentials::Basic(user, password) => Self {
                user: Some(user.clone()),
                password: Some(password.reveal().to_owned()),
                ..none
            },
            Credentials::Bearer(token) => Self { token: Some(token.reveal().to_owned()), ..none },
        }
    }

    fn credentials(&self) -> Credentials {
        match (&self.token, &self.user, &self.password) {
            (Some(token), ..) => Credentials::Bearer(Secret::new(token)),
            (None, Some(user), Some(password)) => {
                Credentials::Basic(user.clone(), Secret::new(password))
            }
            (None, ..) => Credentials::None,
        }
    }
}

impl std::fmt::Debug for Alias {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Alias").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Aliases {
    /// Where aliases are kept: `larder/aliases.toml` in `XDG_CONFIG_HOME` or `~/.config`.
    pub(crate) fn path(environment: &Environment) -> Option<PathBuf> {
        let variable =
            |name: &str| environment.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || variable("HOME").map(|home| home.join(".config"));
        Some(variable("XDG_CONFIG_HOME").or_else(home)?.join("larder").join("aliases.toml"))
    }

    /// Reads the file; without one there are no aliases.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(ClientError::local(path, error)),
        };
        // The parser's message quotes the line, which may hold a password.
        toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| {
                text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1
            });
            ClientError::usage(format!("{}: line {line} is not valid", path.display()))
        })
    }

    /// Replaces the file.
    #[expect(clippy::disallowed_methods, reason = "a user's own settings, not served data")]
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let text = toml::to_string(self)
            .map_err(|error| ClientError::usage(format!("write aliases: {error}")))?;
        let write = || -> io::Result<()> {
            if let Some(dir) = path.parent() {
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            }
            let part = path.with_extension(format!("toml.{}", std::process::id()));
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(0o600).open(&part)?;
            let done = file
                .write_all(text.as_bytes())
                .and_then(|()| file.sync_all())
                .and_then(|()| std::fs::rename(&part, path));
            done.inspect_err(|_| drop(std::fs::remove_file(&part)))
        };
        write().map_err(|error| ClientError::local(path, error))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    fn basic(user: &str, password: &str) -> Credentials {
        Credentials::Basic(user.to_owned(), Secret::new(password))
    }

    #[test]
    fn urls_are_taken_apart_and_what_is_not_supported_is_refused() {
        let target = Target::new("http://[::1]:9000/larder/", Credentials::None).expect("valid");
        assert_eq!((target.address.as_str(), target.prefix.as_str()), ("[::1]:9000", "/larder"));
        let target = Target::new("http://example.org", Credentials::None).expect("valid");
        assert_eq!((target.address.as_str(), target.prefix.as_str()), ("example.org:80", ""));
        assert!(target.tls().expect("none is needed").is_none());
        let target = Target::new("https://example.org", Credentials::None).expect("valid");
        assert_eq!((target.address.as_str(), target.prefix.as_str()), ("example.org:443", ""));
        let target = target.with_ca_file(Some("/does/not/exist.pem".into()));
        assert!(target.tls().expect_err("no file").to_string().contains("exist.pem"));
        for (url, words) in [
            ("example.org:8080", "http://HOST:PORT or https://HOST:PORT is needed"),
            ("ftp://example.org", "http://HOST:PORT or https://HOST:PORT is needed"),
            ("http://user:pw@example.org", "do not belong into the URL"),
            ("http://example.org/?x=1", "no `?`"),
        ] {
            let error = Target::new(url, Credentials::None).expect_err(url);
            assert!(error.to_string().contains(words), "{url}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn flags_beat_variables_and_variables_beat_aliases() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let home = dir.path().to_str().expect("UTF-8");
        let path = Aliases::path(&environment(&[("XDG_CONFIG_HOME", home)])).expect("path");
        let kept = Target::new("http://kept:1", basic("ann", "kept-pw")).expect("valid");
        let other =
            Target::new("http://other:1", Credentials::Bearer(Secret::new("lk_1"))).expect("valid");
        let aliases = Aliases {
            default: Some("kept".to_owned()),
            alias: [("kept", &kept), ("other", &other)]
                .map(|(name, target)| (name.to_owned(), Alias::new(target)))
                .into(),
        };
        aliases.save(&path).expect("save");
        aliases.save(&path).expect("save again");
        let mode = std::fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let check = |flags: Global, variables: &[(&str, &str)], url: &str, who: Credentials| {
            let mut environment = environment(variables);
            environment.insert("XDG_CONFIG_HOME".to_owned(), home.to_owned());
            let target = Target::choose(&flags, &environment).expect("a target");
            assert_eq!((target.url.as_str(), &target.credentials), (url, &who));
        };
        let none = Global::default;
        check(none(), &[], "http://kept:1", basic("ann", "kept-pw"));
        check(none(), &[("LARDER_URL", "http://env:1")], "http://env:1", Credentials::None);
        let alias = Global { alias: Some("other".to_owned()), ..none() };
        let bearer = Credentials::Bearer(Secret::new("lk_1"));
        check(alias, &[("LARDER_URL", "http://env:1")], "http://other:1", bearer.clone());
        check(none(), &[("LARDER_ALIAS", "other")], "http://other:1", bearer);
        let user = [("LARDER_USER", "bob"), ("LARDER_PASSWORD", "pw"), ("LARDER_TOKEN", "")];
        check(none(), &user, "http://kept:1", basic("bob", "pw"));
        let flags = Global {
            url: Some("http://flag:1".to_owned()),
            user: Some("cy".to_owned()),
            password: Some("x".to_owned()),
            ..none()
        };
        let token = [("LARDER_TOKEN", "lk_env"), ("LARDER_URL", "http://env:1")];
        check(flags, &token, "http://flag:1", basic("cy", "x"));
    }

    #[test]
    fn half_of_a_credential_is_a_usage_error() {
        for variables in [
            &[("LARDER_URL", "http://h"), ("LARDER_USER", "u")][..],
            &[("LARDER_URL", "http://h"), ("LARDER_PASSWORD", "p")],
            &[("LARDER_ALIAS", "missing")],
            &[("LARDER_PASSWORD", "p"), ("LARDER_PASSWORD_FILE", "/p")],
        ] {
            let error = Target::choose(&Global::default(), &environment(variables))
                .expect_err("half a credential");
            assert_eq!(error.exit_code(), 2, "{error}");
        }
    }

    #[test]
    fn a_broken_alias_file_is_named_without_its_secrets() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("aliases.toml");
        std::fs::write(&path, "[alias.a]\nurl = 1\npassword = \"hunter2\"\n").expect("write");
        let error = Aliases::load(&path).expect_err("broken").to_string();
        assert!(error.contains("aliases.toml") && !error.contains("hunter2"), "{error}");
    }
}
