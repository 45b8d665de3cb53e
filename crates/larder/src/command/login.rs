//! `larder login`: checks credentials and keeps them for later calls.
//!
//! Promises: nothing is kept unless the server has accepted it; the file is readable by its
//! owner alone.
//!
//! Not here: reading aliases (`client::target`).

use std::io::IsTerminal as _;

use larder_base::Env;

use super::prompt;
use crate::{
    args::{Global, LoginArgs},
    client::{
        Client,
        error::{ClientError, Result},
        target::{
            Alias, Aliases, Credentials, Environment, Target, given_ca_file, given_credentials,
        },
    },
    output::Output,
};

/// Runs `larder login`.
pub(crate) async fn run(
    out: &Output,
    flags: &Global,
    environment: &Environment,
    args: &LoginArgs,
) -> Result<()> {
    let name = flags.alias.as_deref().unwrap_or("default");
    let url = args
        .server
        .as_ref()
        .or(flags.url.as_ref())
        .or_else(|| environment.get("LARDER_URL"))
        .ok_or_else(|| ClientError::usage("give the URL of the server"))?;
    let mut given = given_credentials(flags, environment)?;
    if given.token.is_none() && given.password.is_none() {
        let user = given.user.as_deref().ok_or_else(|| {
            ClientError::usage("give --user or --token-file, or set LARDER_USER or LARDER_TOKEN")
        })?;
        let question = format!("Password of {user}: ");
        let asked = if std::io::stdin().is_terminal() { prompt::ask(&question)? } else { None };
        given.password = Some(match asked {
            Some(password) => password,
            None => prompt::from_stdin()?,
        });
    }
    let target = Target::new(url, given.into_credentials(Credentials::None)?)?
        .with_ca_file(given_ca_file(flags, environment));
    let client = Client::new(Env::system(), target.clone(), 1, flags.timeout)?;
    let me = client.get_json("/v1/me".to_owned()).await.map_err(|error| error.about(url))?;

    let path = Aliases::path(environment)
        .ok_or_else(|| ClientError::usage("HOME is not set, so there is no place to keep it"))?;
    let mut aliases = Aliases::load(&path)?;
    aliases.alias.insert(name.to_owned(), Alias::new(&target));
    aliases.default = Some(name.to_owned());
    aliases.save(&path)?;
    if out.is_json() {
        return out.object(&me);
    }
    out.note(format_args!("`{name}` is {}, kept in {}", target.url, path.display()));
    Ok(())
}
