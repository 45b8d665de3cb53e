//! Where settings come from, and which source wins: flag > environment > file > default.
//!
//! Promises: an unknown key in the file, in a `LARDER_SECTION__KEY` variable or in `--set` is an
//! error that names the nearest valid key; all mistakes are reported together; each value knows
//! its source. A secret that is given both itself and as a file, in one source, is an error.
//!
//! Not here: what the keys are ([`super`]); variables of the client verbs have single
//! underscores and are read by `client::target`.

use std::{
    collections::BTreeMap,
    error::Error,
    fmt, io,
    path::{Path, PathBuf},
};

use super::{Config, Key, secret::Secret};

/// The file that is read when none is named, if it exists.
pub(crate) const DEFAULT_FILE: &str = "/etc/larder/larder.toml";

/// Texts of all settings, by key.
pub(crate) type Values = BTreeMap<&'static str, Value>;

/// The text of one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    /// As it was written; the content, when a secret comes from a file.
    pub(crate) text: String,
    /// Who wrote it.
    pub(crate) source: Source,
}

/// Who set a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nobody.
    Default,
    /// The settings file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Variable(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// Mistakes in the settings, one a line.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<String>);

impl Problems {
    /// Adds one.
    pub(crate) fn push(&mut self, problem: String) {
        self.0.push(problem);
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl Error for Problems {}

/// A value given by a flag: the flag as the user knows it, the key, the text.
#[derive(Clone, Debug)]
pub(crate) struct Flag {
    /// `--http`, for messages.
    pub(crate) name: String,
    /// `http.address`; it may come from a user (`--set`).
    pub(crate) key: String,
    /// What was given.
    pub(crate) text: String,
}

/// Everything settings are read from.
#[derive(Clone, Debug)]
pub(crate) struct Inputs {
    /// `--config`.
    pub(crate) config: Option<PathBuf>,
    /// Values of flags; a later one wins.
    pub(crate) flags: Vec<Flag>,
    /// The environment.
    pub(crate) environment: BTreeMap<String, String>,
    /// [`DEFAULT_FILE`], except in tests.
    pub(crate) default_file: PathBuf,
}

impl Inputs {
    /// Collects the values of all sources, without looking at what they mean.
    pub(crate) fn values(&self) -> Result<Values, Problems> {
        let mut problems = Problems::default();
        let mut values = super::defaults();
        self.read_file(&mut values, &mut problems);
        self.read_environment(&mut values, &mut problems);
        for Flag { name, key, text } in &self.flags {
            set(&mut values, &mut problems, key, text, Source::Flag(name.clone()));
        }
        if problems.is_empty() { Ok(values) } else { Err(problems) }
    }

    /// Collects and checks.
    pub(crate) fn load(&self) -> Result<Config, Problems> {
        Config::from_values(&self.values()?)
    }

    fn read_file(&self, values: &mut Values, problems: &mut Problems) {
        let named = self
            .config
            .clone()
            .or_else(|| self.environment.get("LARDER_CONFIG").map(PathBuf::from));
        let path = named.as_deref().unwrap_or(&self.default_file);
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return problems.push(format!("read {}: {error}", path.display())),
        };
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => return problems.push(format!("{}: {error}", path.display())),
        };
        let mut seen = BTreeMap::new();
        for (section, content) in &table {
            let Some(content) = content.as_table() else {
                problems.push(unknown(section, path.display()));
                continue;
            };
            for (name, value) in content {
                let key = format!("{section}.{name}");
                let Some(text) = text_of(value) else {
                    problems.push(match super::find(&key) {
                        Some(_) => {
                            format!("{}: {key} needs a plain value or a list", path.display())
                        }
                        None => unknown(&key, path.display()),
                    });
                    continue;
                };
                let source = Source::File(path.to_owned());
                set_once(values, problems, (&key, &text, source), &mut seen);
            }
        }
    }

    fn read_environment(&self, values: &mut Values, problems: &mut Problems) {
        let mut seen = BTreeMap::new();
        for (variable, text) in &self.environment {
            let Some(rest) = variable.strip_prefix("LARDER_") else { continue };
            let key = match rest.split_once("__") {
                Some((section, name)) => format!("{section}.{name}").to_ascii_lowercase(),
                // Only the long form can be told from the variables of other tools.
                None => match short_key(variable) {
                    Some(key) => key,
                    None => continue,
                },
            };
            let source = Source::Variable(variable.clone());
            set_once(values, problems, (&key, text, source), &mut seen);
        }
    }
}

/// The key that the short variable `variable` stands for, with `_file` where it names a file.
fn short_key(variable: &str) -> Option<String> {
    let matching = |name: &str| {
        let short = |key: &&Key| !key.short.is_empty() && key.short == name;
        super::KEYS.iter().find(short)
    };
    if let Some(key) = matching(variable) {
        return Some(key.name.to_owned());
    }
    let key = matching(variable.strip_suffix("_FILE")?)?;
    key.secret.then(|| format!("{}_file", key.name))
}

/// Sets a value from a source in which no key may occur twice, under whatever names.
fn set_once(
    values: &mut Values,
    problems: &mut Problems,
    (key, text, source): (&str, &str, Source),
    seen: &mut BTreeMap<&'static str, String>,
) {
    let label = match &source {
        Source::Variable(name) => name.clone(),
        Source::Default | Source::File(_) | Source::Flag(_) => key.to_owned(),
    };
    if let Some(known) = set(values, problems, key, text, source)
        && let Some(other) = seen.insert(known.name, label.clone())
    {
        problems.push(format!("{} is set twice, as {other} and as {label}", known.name));
    }
}

/// Sets one value; `key` may be the `_file` form of a secret.
fn set(
    values: &mut Values,
    problems: &mut Problems,
    key: &str,
    text: &str,
    source: Source,
) -> Option<&'static Key> {
    if let Some(known) = super::find(key) {
        values.insert(known.name, Value { text: text.to_owned(), source });
        return Some(known);
    }
    let Some(known) = key.strip_suffix("_file").and_then(super::find).filter(|key| key.secret)
    else {
        problems.push(unknown(key, &source));
        return None;
    };
    match Secret::from_file(Path::new(text)) {
        Ok(secret) => {
            values.insert(known.name, Value { text: secret.reveal().to_owned(), source });
        }
        Err(error) => problems.push(format!("{key} ({source}): read {text}: {error}")),
    }
    Some(known)
}

fn unknown(key: &str, place: impl fmt::Display) -> String {
    format!("unknown setting `{key}` ({place}); did you mean `{}`?", super::nearest(key))
}

/// A TOML value as the text it would be in the environment.
fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Array(items) => {
            let items = items.iter().map(|item| item.as_str().filter(|text| !text.contains(',')));
            Some(items.collect::<Option<Vec<_>>>()?.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Case {
        dir: tempfile::TempDir,
        inputs: Inputs,
    }

    impl Case {
        fn new(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().expect("temporary directory");
            let default_file = dir.path().join("larder.toml");
            if !file.is_empty() {
                std::fs::write(&default_file, file).expect("write");
            }
            let environment =
                environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let flag = |(key, text): &(&str, &str)| Flag {
                name: "--set".to_owned(),
                key: (*key).to_owned(),
                text: (*text).to_owned(),
            };
            let flags = flags.iter().map(flag).collect();
            Self { dir, inputs: Inputs { config: None, flags, environment, default_file } }
        }

        fn problems(&self) -> String {
            self.inputs.load().expect_err("a mistake").to_string()
        }
    }

    #[test]
    fn flag_beats_environment_beats_file_beats_default() {
        let file = "[collect]\ninterval = \"1s\"\n[lease]\nttl = \"2s\"\n[log]\nlevel = \"warn\"\n";
        let environment =
            [("LARDER_COLLECT__INTERVAL", "3s"), ("LARDER_LEASE__TTL", "4s"), ("LARDER_URL", "x")];
        let case = Case::new(file, &environment, &[("collect.interval", "5s")]);
        let config = case.inputs.load().expect("valid");
        assert_eq!(config.collect_interval, Duration::from_secs(5));
        assert_eq!(config.lease_ttl, Duration::from_secs(4));
        assert_eq!(config.log_level, "warn");
        assert_eq!(config.http_idle_timeout, Duration::from_secs(75));

        let values = case.inputs.values().expect("valid");
        let shown = super::super::show(&values);
        let source_of = |name: &str| {
            shown.iter().find(|(key, ..)| *key == name).map(|(_, _, source)| source.clone())
        };
        assert_eq!(source_of("collect.interval").as_deref(), Some("flag --set"));
        assert_eq!(source_of("lease.ttl").as_deref(), Some("environment LARDER_LEASE__TTL"));
        assert!(source_of("log.level").is_some_and(|source| source.starts_with("file ")));
        assert_eq!(source_of("http.idle_timeout").as_deref(), Some("default"));
    }

    #[test]
    fn unknown_keys_are_errors_that_name_the_nearest_one() {
        let file = "[trash]\nretension = \"1d\"\n[tresh]\nx = 1\n";
        let environment = [("LARDER_HTTP__ADRESS", "x"), ("LARDER_SOMETHING", "ignored")];
        let problems = Case::new(file, &environment, &[("lease.tl", "1s")]).problems();
        assert!(problems.contains("`trash.retension`"), "{problems}");
        assert!(problems.contains("did you mean `trash.retention`?"), "{problems}");
        assert!(problems.contains("`tresh.x`"), "{problems}");
        assert!(problems.contains("LARDER_HTTP__ADRESS"), "{problems}");
        assert!(problems.contains("did you mean `http.address`?"), "{problems}");
        assert!(problems.contains("did you mean `lease.ttl`?"), "{problems}");
        assert!(!problems.contains("LARDER_SOMETHING"), "{problems}");
    }

    #[test]
    fn a_secret_comes_from_a_file_and_is_shown_as_stars() {
        let case = Case::new("", &[], &[]);
        let path = case.dir.path().join("password");
        std::fs::write(&path, "correct horse\n").expect("write");
        let path = path.to_str().expect("UTF-8");
        for variable in ["LARDER_ROOT_PASSWORD_FILE", "LARDER_ROOT__PASSWORD_FILE"] {
            let case = Case::new("", &[(variable, path)], &[]);
            let config = case.inputs.load().expect("valid");
            assert_eq!(config.root_password, Some(Secret::new("correct horse")));
            let shown = super::super::show(&case.inputs.values().expect("valid"));
            assert!(shown.contains(&(
                "root.password",
                "***".to_owned(),
                format!("environment {variable}")
            )));
        }
        let file = format!("[root]\npassword_file = \"{path}\"\n");
        let config = Case::new(&file, &[], &[]).inputs.load().expect("valid");
        assert_eq!(config.root_password, Some(Secret::new("correct horse")));
    }

    #[test]
    fn one_setting_under_two_names_is_refused() {
        let twice = [("LARDER_DATA_DIR", "/a"), ("LARDER_DATA__DIR", "/b")];
        let problems = Case::new("", &twice, &[]).problems();
        assert!(problems.contains("data.dir is set twice"), "{problems}");
        let twice = [("LARDER_ROOT_PASSWORD", "12345678"), ("LARDER_ROOT_PASSWORD_FILE", "/x")];
        let problems = Case::new("", &twice, &[]).problems();
        assert!(problems.contains("root.password is set twice"), "{problems}");
    }

    #[test]
    fn a_named_file_must_exist_and_the_default_one_need_not() {
        let mut case = Case::new("", &[], &[]);
        case.inputs.load().expect("no file is fine");
        case.inputs.config = Some(case.dir.path().join("missing.toml"));
        assert!(case.problems().contains("missing.toml"));
    }

    #[test]
    fn every_wrong_value_is_reported_with_its_source() {
        let file = "[trash]\nretention = 30\n[http]\nworkers = -1\n[store]\nurls = [\"local:\"]\n";
        let problems = Case::new(file, &[], &[]).problems();
        assert_eq!(problems.lines().count(), 2, "{problems}");
        assert!(problems.contains("trash.retention = \"30\" (file "), "{problems}");
        assert!(problems.contains("http.workers = \"-1\""), "{problems}");
    }
}
