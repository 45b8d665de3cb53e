//! What the verbs do, one module for each group of them.
//!
//! Promises: exit code 0 ok, 1 failure, 2 usage, 3 not found, 4 denied, 5 conflict, 6 quota, 130
//! after an interrupt, 143 after a termination; one line on standard error says why; a verb that
//! is interrupted leaves no partial local file.
//!
//! Not here: the command line (`args`), calls to the server (`client`), `larder serve` itself
//! (`serve`).

mod admin;
mod changes;
mod dump;
mod entries;
mod get;
mod groups;
mod jobs;
mod keys;
mod lifecycle;
mod load;
mod login;
mod path;
mod prompt;
mod put;
mod resume;
mod settings;
mod share;
mod spaces;
#[cfg(test)]
mod tests;
mod trash;
mod uploads;
mod users;
mod walk;

use std::{process::ExitCode, time::Duration};

use larder_base::Env;
use serde_json::json;
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

use crate::{
    args::{Cli, ServeArgs, Verb},
    bench::{BenchArgs, Keys, S3Settings, SharedFlags},
    client::{
        Client,
        error::{Cause, ClientError, Result},
        target::{Credentials, Environment, Target, given_credentials},
    },
    config::{secret::Secret, value::LogFormat},
    output::Output,
    serve, telemetry,
};

/// Connections of verbs that do one thing after the other.
const CONNECTIONS: usize = 2;
/// How long threads that still read or write local files may take to notice the end.
const GRACE: Duration = Duration::from_secs(2);
/// Exit code after a signal, to which its number is added, as shells have it.
const SIGNALLED: u8 = 128;

/// What a client verb works with.
#[derive(Debug)]
pub(crate) struct Context {
    /// The server.
    pub(crate) client: Client,
    /// Where to print.
    pub(crate) out: Output,
    /// Where the state of uploads is kept, for those that come after a restart.
    pub(crate) state_dir: Option<std::path::PathBuf>,
}

/// Runs the verb; the answer is the exit code of the process.
pub(crate) fn run(cli: &Cli, environment: &Environment) -> ExitCode {
    let out = Output::new(name_of(&cli.verb), &cli.global, environment);
    match dispatch(cli, environment, &out).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            if !matches!(error.cause, Cause::Reported(..)) {
                out.error(&error);
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(cli: &Cli, environment: &Environment, out: &Output) -> Result<()> {
    match &cli.verb {
        Verb::Serve(args) => serve(args, environment),
        Verb::Bench(args) => bench(args, cli, environment),
        Verb::Dump(args) if args.verify => dump::verify(out, args),
        Verb::Config(verb) => settings::run(out, environment, verb),
        Verb::Version => {
            let version = env!("CARGO_PKG_VERSION");
            if out.is_json() {
                out.object(&json!({ "name": "larder", "version": version }))
            } else {
                out.line(format_args!("larder {version}"))
            }
        }
        _ => client_verb(cli, environment),
    }
}

fn serve(args: &ServeArgs, environment: &Environment) -> Result<()> {
    let failed = |error: anyhow::Error| ClientError::found(format!("{error:#}"));
    let config = settings::load(args, environment)?;
    let filter = environment.get("RUST_LOG").filter(|filter| !filter.is_empty());
    telemetry::start(filter.unwrap_or(&config.log_level), config.log_format).map_err(failed)?;
    // Requests have threads of their own; this one accepts connections and runs the jobs.
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(16)
        .enable_all()
        .build()
        .map_err(|error| ClientError::stream(error).about("start the runtime"))?;
    runtime.block_on(serve::run(config)).map_err(failed)
}

/// How the load generator speaks to S3: its flags, or else the variables that AWS has for it.
fn s3_settings(args: &BenchArgs, environment: &Environment) -> Result<S3Settings> {
    let variable = |name: &str| environment.get(name).filter(|text| !text.is_empty()).cloned();
    let keys = match (&args.s3_key_id, &args.s3_secret_file) {
        (Some(id), Some(file)) => {
            let secret =
                Secret::from_file(file).map_err(|error| ClientError::local(file, error))?;
            let secret = secret.reveal().to_owned();
            Some(Keys { id: id.clone(), secret, session_token: None })
        }
        _ => match (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
            (Some(id), Some(secret)) => {
                Some(Keys { id, secret, session_token: variable("AWS_SESSION_TOKEN") })
            }
            _ => None,
        },
    };
    let region = args.s3_region.clone().or_else(|| variable("AWS_REGION"));
    Ok(S3Settings { keys, region, ..S3Settings::default() })
}

/// Runs the load generator, which has threads of its own and heeds interrupts itself.
fn bench(args: &BenchArgs, cli: &Cli, environment: &Environment) -> Result<()> {
    let given = given_credentials(&cli.global, environment)?;
    let header = given.into_credentials(Credentials::None)?.header()?;
    let shared = SharedFlags {
        json: cli.global.json,
        quiet: cli.global.quiet,
        authorization: header.and_then(|header| header.to_str().ok().map(str::to_owned)),
        s3: s3_settings(args, environment)?,
    };
    let args = args.clone().with_shared(shared).resolve();
    let args = args.map_err(|error| ClientError::usage(format!("{error:#}")))?;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ClientError::stream(error).about("start the runtime"))?;
    let done = runtime.block_on(crate::bench::run(args));
    done.map_err(|error| ClientError::found(format!("{error:#}")))
}

/// Runs a verb that talks to a server, on this thread.
fn client_verb(cli: &Cli, environment: &Environment) -> Result<()> {
    if let Some(filter) = environment.get("RUST_LOG").filter(|filter| !filter.is_empty()) {
        telemetry::start(filter, LogFormat::Auto)
            .map_err(|error| ClientError::usage(format!("{error:#}")))?;
    }
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ClientError::stream(error).about("start the runtime"))?;
    let done = runtime.block_on(async {
        tokio::select! {
            done = talk(cli, environment) => done,
            signal = stopped() => Err(ClientError::reported(1, SIGNALLED + signal)),
        }
    });
    // A thread may hang in a read of standard input: it must not keep the process.
    runtime.shutdown_timeout(GRACE);
    done
}

/// Waits for an interrupt (2) or a termination (15).
async fn stopped() -> u8 {
    let Ok(mut terminated) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => 2,
        _ = terminated.recv() => 15,
    }
}

async fn talk(cli: &Cli, environment: &Environment) -> Result<()> {
    let out = Output::new(name_of(&cli.verb), &cli.global, environment);
    if let Verb::Login(args) = &cli.verb {
        login::run(&out, &cli.global, environment, args).await?;
        return out.flush();
    }
    let target = Target::choose(&cli.global, environment)?;
    let client = Client::new(Env::system(), target, connections(&cli.verb), cli.global.timeout)?;
    let state_dir = resume::state_dir(environment);
    let context = Context { client, out, state_dir };
    let done = perform(&context, &cli.verb).await;
    // What has been printed before an error counts too; but the error is what is told.
    let flushed = context.out.flush();
    done.and(flushed)
}

async fn perform(context: &Context, verb: &Verb) -> Result<()> {
    match verb {
        Verb::Check => admin::check(context).await,
        Verb::Gc => admin::gc(context).await,
        Verb::Jobs(verb) => jobs::run(context, verb).await,
        Verb::Lifecycle(verb) => lifecycle::run(context, verb).await,
        Verb::Tasks => admin::tasks(context).await,
        Verb::Dump(args) => dump::run(context, args).await,
        Verb::Load(args) => load::run(context, args).await,
        Verb::Put(args) => put::run(context, args).await,
        Verb::Uploads(verb) => uploads::run(context, verb).await,
        Verb::Get(args) => get::run(context, args).await,
        Verb::Cat(args) => get::cat(context, args).await,
        Verb::Ls(args) => entries::ls(context, args).await,
        Verb::Stat(args) => entries::stat(context, args).await,
        Verb::Mkdir(args) => entries::mkdir(context, args).await,
        Verb::Mv(args) => entries::relocate(context, "move", args).await,
        Verb::Cp(args) => entries::relocate(context, "copy", args).await,
        Verb::Rm(args) => entries::rm(context, args).await,
        Verb::Trash(verb) => trash::trash(context, verb).await,
        Verb::Revisions(verb) => trash::revisions(context, verb).await,
        Verb::Changes(args) => changes::run(context, args).await,
        Verb::Users(verb) => users::users(context, verb).await,
        Verb::Groups(verb) => groups::run(context, verb).await,
        Verb::Share(verb) => share::run(context, verb).await,
        Verb::Keys(verb) => keys::run(context, verb).await,
        Verb::Spaces(verb) => spaces::run(context, verb).await,
        // They do not talk to a server, or not as others do.
        Verb::Serve(_) | Verb::Bench(_) | Verb::Login(_) | Verb::Config(_) | Verb::Version => {
            Ok(())
        }
    }
}

fn connections(verb: &Verb) -> usize {
    match verb {
        Verb::Put(args) => usize::from(args.parallel.parallel) + 1,
        // One more for listing while files arrive.
        Verb::Get(args) => usize::from(args.parallel.parallel) + 1,
        _ => CONNECTIONS,
    }
}

fn name_of(verb: &Verb) -> &'static str {
    match verb {
        Verb::Serve(_) => "serve",
        Verb::Check => "check",
        Verb::Gc => "gc",
        Verb::Jobs(_) => "jobs",
        Verb::Lifecycle(_) => "lifecycle",
        Verb::Tasks => "tasks",
        Verb::Dump(_) => "dump",
        Verb::Load(_) => "load",
        Verb::Bench(_) => "bench",
        Verb::Login(_) => "login",
        Verb::Put(_) => "put",
        Verb::Uploads(_) => "uploads",
        Verb::Get(_) => "get",
        Verb::Cat(_) => "cat",
        Verb::Ls(_) => "ls",
        Verb::Stat(_) => "stat",
        Verb::Mkdir(_) => "mkdir",
        Verb::Mv(_) => "mv",
        Verb::Cp(_) => "cp",
        Verb::Rm(_) => "rm",
        Verb::Trash(_) => "trash",
        Verb::Revisions(_) => "revisions",
        Verb::Changes(_) => "changes",
        Verb::Users(_) => "users",
        Verb::Groups(_) => "groups",
        Verb::Share(_) => "share",
        Verb::Keys(_) => "keys",
        Verb::Spaces(_) => "spaces",
        Verb::Config(_) => "config",
        Verb::Version => "version",
    }
}

/// Prints all pages of a listing.
async fn list_all(context: &Context, path: &str, columns: &[&str]) -> Result<()> {
    let mut cursor: Option<String> = None;
    loop {
        let page = context.client.page(path, cursor.as_deref()).await?;
        context.out.table(columns, &page.entries)?;
        cursor = page.cursor;
        if cursor.is_none() {
            return Ok(());
        }
    }
}
