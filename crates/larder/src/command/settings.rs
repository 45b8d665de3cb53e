//! `larder config`, and the settings that `larder serve` starts with.
//!
//! Promises: `config show` and `config check` see exactly what `serve` with the same flags would.
//!
//! Not here: the settings themselves (`config`).

use std::path::PathBuf;

use serde_json::json;

use crate::{
    args::{ConfigVerb, ServeArgs},
    client::{
        error::{ClientError, Result},
        target::Environment,
    },
    config::{
        self, Config,
        load::{DEFAULT_FILE, Flag, Inputs, Problems},
    },
    metrics,
    output::Output,
};

/// Runs `larder config`.
pub(crate) fn run(out: &Output, environment: &Environment, verb: &ConfigVerb) -> Result<()> {
    match verb {
        ConfigVerb::Docs => out.bytes(config::docs().as_bytes()),
        ConfigVerb::Metrics => out.bytes(metrics::docs().as_bytes()),
        ConfigVerb::Show(args) => {
            let values = inputs(args, environment)?.values().map_err(|error| wrong(&error))?;
            for (key, value, source) in config::show(&values) {
                if out.is_json() {
                    out.object(&json!({ "key": key, "value": value, "source": source }))?;
                } else {
                    out.line(format_args!("{key} = {value}  # {source}"))?;
                }
            }
            Ok(())
        }
        ConfigVerb::Check(args) => {
            load(args, environment)?;
            out.note("the settings are valid");
            Ok(())
        }
    }
}

/// Reads and checks the settings of `larder serve`.
pub(crate) fn load(args: &ServeArgs, environment: &Environment) -> Result<Config> {
    inputs(args, environment)?.load().map_err(|error| wrong(&error))
}

fn wrong(problems: &Problems) -> ClientError {
    let text = match problems.len() {
        1 => problems.to_string(),
        count => format!("{count} mistakes in the settings:\n{problems}"),
    };
    ClientError::usage(text)
}

fn inputs(args: &ServeArgs, environment: &Environment) -> Result<Inputs> {
    if let Some(value) = args.line.as_deref().filter(|&value| value != "off") {
        return Err(ClientError::usage(format!(
            "--line {value}: this listener is not available yet; only `--line off` is"
        )));
    }
    let mut flags = Vec::new();
    let mut flag = |name: &str, key: &str, text: Option<String>| {
        if let Some(text) = text {
            flags.push(Flag { name: name.to_owned(), key: key.to_owned(), text });
        }
    };
    for pair in &args.set {
        let (key, text) = pair
            .split_once('=')
            .ok_or_else(|| ClientError::usage(format!("--set {pair:?}: KEY=VALUE is needed")))?;
        flag("--set", key.trim(), Some(text.to_owned()));
    }
    let data = args.data.as_ref().map(|path| path.to_string_lossy().into_owned());
    flag("--data", "data.dir", data);
    flag("--http", "http.address", args.http.clone());
    flag("--s3", "s3.address", args.s3.clone());
    flag("--meta", "meta.url", args.meta.clone());
    flag("--store", "store.urls", (!args.store.is_empty()).then(|| args.store.join(",")));
    Ok(Inputs {
        config: args.config.clone(),
        flags,
        environment: environment.clone(),
        default_file: PathBuf::from(DEFAULT_FILE),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_serve_are_settings() {
        let args = ServeArgs {
            data: Some("/srv/larder".into()),
            http: Some("127.0.0.1:0".to_owned()),
            store: vec!["local:/a".to_owned(), "local:/b".to_owned()],
            s3: Some("off".to_owned()),
            set: vec!["trash.retention=1s".to_owned(), "data.dir=/other".to_owned()],
            ..ServeArgs::default()
        };
        let config = load(&args, &Environment::new()).expect("valid");
        assert_eq!(config.data_dir, PathBuf::from("/srv/larder"));
        assert_eq!(config.http_address.port(), 0);
        assert_eq!(config.s3_address.0, None);
        assert_eq!(config.store_urls, ["local:/a", "local:/b"]);
        assert_eq!(config.trash_retention, Some(std::time::Duration::from_secs(1)));
    }

    #[test]
    fn listeners_that_do_not_exist_yet_are_refused() {
        let args = ServeArgs { line: Some("127.0.0.1:7070".to_owned()), ..ServeArgs::default() };
        let error = load(&args, &Environment::new()).expect_err("refused");
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("not available yet"), "{error}");
    }
}
