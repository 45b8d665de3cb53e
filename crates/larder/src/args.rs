//! The command line: verbs, flags and their help.
//!
//! Promises: exit code 2 for everything that is wrong here; no flag reads the environment by
//! itself, so that tests and `config show` can say where a value came from.
//!
//! Not here: what the verbs do (`command`), settings of the server (`config`), `larder bench`'s
//! own flags (`bench`).

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(crate) use self::account::{
    GroupsVerb, KeyAccess, KeyKind, KeysVerb, NewPassword, ShareCreateArgs, ShareRole, ShareVerb,
    ShareWithArgs, UsersVerb,
};
use crate::bench::BenchArgs;

mod account;

/// Larder keeps files.
#[derive(Debug, Parser)]
#[command(name = "larder", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Flags that every client verb understands.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Client options")]
pub(crate) struct Global {
    /// Server, such as http://127.0.0.1:8080 [env: LARDER_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// User name [env: LARDER_USER]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// Password of the user [env: LARDER_PASSWORD]
    #[arg(long, global = true, value_name = "TEXT", conflicts_with = "password_file")]
    pub(crate) password: Option<String>,
    /// File with the password [env: LARDER_PASSWORD_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// API key instead of user and password [env: LARDER_TOKEN]
    #[arg(long, global = true, value_name = "KEY", conflicts_with = "token_file")]
    pub(crate) token: Option<String>,
    /// File with the API key [env: LARDER_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// File of the certificate authorities to believe, in PEM [env: LARDER_CA_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Server and credentials kept by `larder login` [env: LARDER_ALIAS]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) alias: Option<String>,
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print nothing but results and errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Print without colors [env: NO_COLOR]
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
    /// How long a transfer may stand still before it is given up
    #[arg(long, global = true, value_name = "DURATION", default_value = "2m",
          value_parser = duration)]
    pub(crate) timeout: std::time::Duration,
}

fn duration(text: &str) -> Result<std::time::Duration, String> {
    crate::config::value::Setting::parse(text)
}

fn size(text: &str) -> Result<u64, String> {
    <crate::config::value::Size as crate::config::value::Setting>::parse(text)
        .map(crate::config::value::Size::bytes)
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a server
    Serve(ServeArgs),
    /// Prove that everything stored is whole and consistent
    Check,
    /// Free the bytes nothing refers to any more, now
    Gc,
    /// Background work: list, show, cancel, run
    #[command(subcommand)]
    Jobs(JobsVerb),
    /// Rules by which files of a space end by themselves
    #[command(subcommand)]
    Lifecycle(LifecycleVerb),
    /// Show the heavy work that runs and waits
    Tasks,
    /// Take a dump of everything, or of one space
    Dump(DumpArgs),
    /// Load a dump, which becomes visible all at once
    Load(LoadArgs),
    /// Measure one file server, or two in alternation
    Bench(Box<BenchArgs>),
    /// Keep a server's address and credentials for later calls
    Login(LoginArgs),
    /// Upload files and directories
    Put(PutArgs),
    /// Unfinished uploads: list, abort
    #[command(subcommand)]
    Uploads(UploadsVerb),
    /// Download files and directories
    Get(GetArgs),
    /// Print files
    Cat(CatArgs),
    /// List directories, or the spaces when none is given
    Ls(LsArgs),
    /// Show all that is known about an entry
    Stat(PathsArgs),
    /// Make directories
    Mkdir(MkdirArgs),
    /// Move or rename within a space
    Mv(RelocateArgs),
    /// Copy within the server
    Cp(RelocateArgs),
    /// Move files and directories to the trash
    Rm(RmArgs),
    /// Deleted files: list, restore, purge
    #[command(subcommand)]
    Trash(TrashVerb),
    /// Earlier contents of a file: list, restore, delete
    #[command(subcommand)]
    Revisions(RevisionsVerb),
    /// Show what happened in a space
    Changes(ChangesArgs),
    /// Users
    #[command(subcommand)]
    Users(UsersVerb),
    /// Groups of users
    #[command(subcommand)]
    Groups(GroupsVerb),
    /// Share with users, groups, or whoever has a link
    #[command(subcommand)]
    Share(ShareVerb),
    /// API keys, app passwords and S3 key pairs
    #[command(subcommand)]
    Keys(KeysVerb),
    /// Spaces: trees with a quota of their own
    #[command(subcommand)]
    Spaces(SpacesVerb),
    /// Settings of the server
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Print the version
    Version,
}

/// Flags of `larder serve`, which are settings under other names.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ServeArgs {
    /// Directory that holds everything (`data.dir`)
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Listener for REST (`http.address`)
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<String>,
    /// Listener for S3 (`s3.address`)
    #[arg(long, value_name = "ADDR|off")]
    pub(crate) s3: Option<String>,
    /// Listener for the line protocol; only `off` so far
    #[arg(long, value_name = "ADDR|off")]
    pub(crate) line: Option<String>,
    /// Where metadata lives (`meta.url`)
    #[arg(long, value_name = "URL")]
    pub(crate) meta: Option<String>,
    /// Where file contents live (`store.urls`); may be repeated
    #[arg(long, value_name = "URL")]
    pub(crate) store: Vec<String>,
    /// Settings file [env: LARDER_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Any setting, as `larder config docs` lists them; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

/// `larder jobs`.
#[derive(Debug, Subcommand)]
pub(crate) enum JobsVerb {
    /// List jobs that are not finished
    #[command(visible_alias = "ls")]
    List {
        /// Those of the last day that are, too
        #[arg(short, long)]
        all: bool,
    },
    /// Show a job
    Show {
        /// Id of the job
        id: String,
        /// Wait for its end
        #[arg(long)]
        wait: bool,
    },
    /// End a job at its next step
    Cancel {
        /// Id of the job
        id: String,
        /// Wait for its end
        #[arg(long)]
        wait: bool,
    },
    /// Start a job
    Run {
        /// What to do
        #[arg(value_parser = ["scrub", "check", "collect", "lifecycle"])]
        kind: String,
        /// Space to apply lifecycle rules in, instead of all
        #[arg(long, value_name = "SPACE")]
        space: Option<String>,
        /// Wait for its end
        #[arg(long)]
        wait: bool,
    },
}

/// `larder lifecycle`.
#[derive(Debug, Subcommand)]
pub(crate) enum LifecycleVerb {
    /// Show the rules of a space
    #[command(visible_alias = "ls")]
    Show {
        /// Space
        #[arg(default_value = "home")]
        space: String,
    },
    /// Replace all rules by those of a JSON file
    Set {
        /// Space
        space: String,
        /// File; `-` is standard input
        file: PathBuf,
    },
    /// Add a rule
    Add {
        /// Space
        space: String,
        #[command(flatten)]
        rule: NewRule,
    },
    /// Remove rules; all of them if none is named
    Rm {
        /// Space
        space: String,
        /// Ids or names of rules
        rules: Vec<String>,
    },
}

/// A lifecycle rule.
#[derive(Debug, Default, Args)]
pub(crate) struct NewRule {
    /// Name, for people
    #[arg(long, value_name = "TEXT")]
    pub(crate) name: Option<String>,
    /// Path that it is for, with everything below; the whole space without this
    #[arg(long, value_name = "PATH")]
    pub(crate) prefix: Option<String>,
    /// Files go to the trash so long after their last change, such as 30d
    #[arg(long, value_name = "DURATION", conflicts_with = "expire_at")]
    pub(crate) expire_after: Option<String>,
    /// All files go to the trash from this time on, such as 2030-01-31T00:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) expire_at: Option<String>,
    /// Older revisions are removed so long after a newer one took their place
    #[arg(long, value_name = "DURATION")]
    pub(crate) noncurrent_after: Option<String>,
    /// So many of the newest of them are kept
    #[arg(long, value_name = "N")]
    pub(crate) noncurrent_keep: Option<u32>,
    /// Unfinished uploads are given up so long after their last byte
    #[arg(long, value_name = "DURATION")]
    pub(crate) abort_uploads_after: Option<String>,
    /// Keep the rule without applying it
    #[arg(long)]
    pub(crate) disabled: bool,
}

/// `larder dump`.
#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    /// File to make; `-` is standard output
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// This space only, by name or id
    #[arg(long, value_name = "SPACE", conflicts_with = "verify")]
    pub(crate) space: Option<String>,
    /// Verify a dump that was made before, without a server
    #[arg(long)]
    pub(crate) verify: bool,
}

/// `larder load`.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Dump; `-` is standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// `larder login`.
#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// Server; --url does the same
    #[arg(value_name = "URL")]
    pub(crate) server: Option<String>,
}

/// How many transfers run at once.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Parallel {
    /// Transfers at the same time
    #[arg(long, value_name = "N", default_value_t = 16,
          value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) parallel: u16,
}

/// `larder put`.
#[derive(Debug, Args)]
#[command(override_usage = "larder put [OPTIONS] LOCAL... SPACE:/path")]
pub(crate) struct PutArgs {
    /// Files and directories (`-` is standard input), then SPACE:/path
    #[arg(required = true, num_args = 2.., value_name = "PATH")]
    pub(crate) paths: Vec<String>,
    /// Upload what directories contain
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Upload what symbolic links point to, instead of skipping them
    #[arg(long)]
    pub(crate) follow: bool,
    /// Fail where a file exists already
    #[arg(short, long)]
    pub(crate) no_overwrite: bool,
    /// Files from this size on can be gone on with after an interruption
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size)]
    pub(crate) resumable_from: u64,
    /// Send every file in one request: an interrupted one starts again
    #[arg(long)]
    pub(crate) no_resume: bool,
    #[command(flatten)]
    pub(crate) parallel: Parallel,
}

/// `larder uploads`.
#[derive(Debug, Subcommand)]
pub(crate) enum UploadsVerb {
    /// List one's own uploads that are not finished, and those that just were
    #[command(visible_alias = "ls")]
    List,
    /// Give uploads up, with what has been sent of them
    #[command(visible_alias = "rm")]
    Abort {
        /// Uploads, as `larder uploads list` shows them
        #[arg(required = true)]
        uploads: Vec<String>,
    },
}

/// `larder get`.
#[derive(Debug, Args)]
#[command(override_usage = "larder get [OPTIONS] SPACE:/path... [LOCAL]")]
pub(crate) struct GetArgs {
    /// SPACE:/path, one or more, then a local file or directory (default `.`, `-` is standard
    /// output)
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<String>,
    /// Download what directories contain
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Fail where a local file exists already
    #[arg(short, long)]
    pub(crate) no_overwrite: bool,
    /// This revision instead of the current one
    #[arg(long, value_name = "REVISION", conflicts_with = "recursive")]
    pub(crate) revision: Option<String>,
    #[command(flatten)]
    pub(crate) parallel: Parallel,
}

/// `larder cat`.
#[derive(Debug, Args)]
pub(crate) struct CatArgs {
    /// SPACE:/path
    #[arg(required = true, value_name = "REMOTE")]
    pub(crate) paths: Vec<String>,
    /// This revision instead of the current one
    #[arg(long, value_name = "REVISION")]
    pub(crate) revision: Option<String>,
}

/// `larder ls`.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// SPACE:/path
    #[arg(value_name = "REMOTE")]
    pub(crate) paths: Vec<String>,
    /// Show sizes, times and kinds
    #[arg(short, long)]
    pub(crate) long: bool,
    /// List the whole tree
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
}

/// Verbs that take only remote paths.
#[derive(Debug, Args)]
pub(crate) struct PathsArgs {
    /// SPACE:/path
    #[arg(required = true, value_name = "REMOTE")]
    pub(crate) paths: Vec<String>,
}

/// `larder mkdir`.
#[derive(Debug, Args)]
pub(crate) struct MkdirArgs {
    /// SPACE:/path
    #[arg(required = true, value_name = "REMOTE")]
    pub(crate) paths: Vec<String>,
    /// Make missing parents too, and accept directories that exist
    #[arg(short, long)]
    pub(crate) parents: bool,
}

/// `larder mv` and `larder cp`.
#[derive(Debug, Args)]
pub(crate) struct RelocateArgs {
    /// SPACE:/path
    #[arg(value_name = "FROM")]
    pub(crate) from: String,
    /// SPACE:/path; with a `/` at its end, into that directory
    #[arg(value_name = "TO")]
    pub(crate) to: String,
    /// Replace what is there
    #[arg(short, long, visible_alias = "force")]
    pub(crate) overwrite: bool,
}

/// `larder rm`.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// SPACE:/path
    #[arg(required = true, value_name = "REMOTE")]
    pub(crate) paths: Vec<String>,
    /// Delete directories with all they contain
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Do not mind what does not exist
    #[arg(short, long)]
    pub(crate) force: bool,
}

/// `larder changes`.
#[derive(Debug, Args)]
pub(crate) struct ChangesArgs {
    /// Space
    #[arg(default_value = "home")]
    pub(crate) space: String,
    /// Go on after this place: the cursor of an earlier change, or `now`; without it, from the
    /// oldest change that is kept
    #[arg(long)]
    pub(crate) cursor: Option<String>,
    /// Wait for further changes until interrupted
    #[arg(short, long)]
    pub(crate) follow: bool,
}

/// `larder trash`.
#[derive(Debug, Subcommand)]
pub(crate) enum TrashVerb {
    /// List what has been deleted
    Ls {
        /// Space
        #[arg(default_value = "home")]
        space: String,
    },
    /// Bring an item back
    Restore {
        /// Space
        space: String,
        /// Item, as `larder trash ls` shows it
        item: String,
        /// Path to restore it to, instead of where it was
        #[arg(long, value_name = "PATH")]
        to: Option<String>,
        /// Choose another name when the old one is taken
        #[arg(long)]
        rename: bool,
        /// Make the directory it was in again
        #[arg(long)]
        parents: bool,
    },
    /// Delete items for good
    Purge {
        /// Space
        space: String,
        /// Items, as `larder trash ls` shows them
        #[arg(required = true)]
        items: Vec<String>,
    },
    /// Delete everything in the trash for good
    Empty {
        /// Space
        #[arg(default_value = "home")]
        space: String,
    },
}

/// `larder revisions`.
#[derive(Debug, Subcommand)]
pub(crate) enum RevisionsVerb {
    /// List the revisions of a file, newest first
    Ls {
        /// SPACE:/path
        path: String,
    },
    /// Make an old content the current one again
    Restore {
        /// SPACE:/path
        path: String,
        /// Revision
        revision: String,
    },
    /// Delete one old content for good
    Rm {
        /// SPACE:/path
        path: String,
        /// Revision
        revision: String,
    },
}

/// `larder spaces`.
#[derive(Debug, Subcommand)]
pub(crate) enum SpacesVerb {
    /// List spaces
    Ls,
    /// Make a space
    Create {
        /// Name
        name: String,
        /// `project` or `bucket`
        #[arg(long, default_value = "project")]
        kind: String,
        #[command(flatten)]
        settings: SpaceSettings,
    },
    /// Show a space with its usage, limits and policy
    Show {
        /// Name or id
        space: String,
    },
    /// Change limits and policy
    Set {
        /// Name or id
        space: String,
        #[command(flatten)]
        settings: SpaceSettings,
    },
    /// Delete a space
    Rm {
        /// Name or id
        space: String,
    },
}

/// Limits and policy of a space. Whatever is not given stays as it is.
#[derive(Debug, Default, Args)]
pub(crate) struct SpaceSettings {
    /// Most bytes of current files, such as 10GiB; `none` for no limit
    #[arg(long, value_name = "SIZE", value_parser = optional(size))]
    pub(crate) live: Option<Unset<u64>>,
    /// Most bytes of old revisions and trash; `none` for no limit
    #[arg(long, value_name = "SIZE", value_parser = optional(size))]
    pub(crate) retained: Option<Unset<u64>>,
    /// Old revisions kept of each file; `none` for the server's setting
    #[arg(long, value_name = "N", value_parser = optional(number))]
    pub(crate) keep: Option<Unset<u64>>,
    /// Days for which old revisions are kept; `none` for the server's setting
    #[arg(long, value_name = "DAYS", value_parser = optional(number))]
    pub(crate) days: Option<Unset<u64>>,
    /// Days for which the trash is kept; `none` for the server's setting
    #[arg(long, value_name = "DAYS", value_parser = optional(number))]
    pub(crate) trash_days: Option<Unset<u64>>,
    /// How contents are split: `whole`, a size such as 64MiB, or `stripe=6`
    #[arg(long, value_name = "SPLIT", value_parser = split)]
    pub(crate) split: Option<Split>,
    /// Copies of each piece: a number or `all`
    #[arg(long, value_name = "N|all")]
    pub(crate) copies: Option<String>,
    /// Copies that must be durable before an upload is confirmed
    #[arg(long, value_name = "N")]
    pub(crate) ack: Option<u64>,
}

/// How contents are split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    /// Not at all.
    Whole,
    /// Into pieces of so many bytes.
    Fixed(u64),
    /// Into so many pieces.
    Stripe(u64),
}

fn split(text: &str) -> Result<Split, String> {
    match (text, text.strip_prefix("stripe=")) {
        ("whole", _) => Ok(Split::Whole),
        (_, Some(count)) => number(count).map(Split::Stripe),
        _ => size(text)
            .map(Split::Fixed)
            .map_err(|_| "`whole`, a size such as 64MiB, or `stripe=6` is needed".to_owned()),
    }
}

/// A value, or the word `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unset<T> {
    /// `none`.
    None,
    /// A value.
    Some(T),
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "a whole number is needed".to_owned())
}

fn optional(
    parse: fn(&str) -> Result<u64, String>,
) -> impl Fn(&str) -> Result<Unset<u64>, String> + Clone + Send + Sync {
    move |text| match text {
        "none" => Ok(Unset::None),
        _ => parse(text).map(Unset::Some).map_err(|error| format!("{error}, or `none`")),
    }
}

/// `larder config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Print the documentation of all settings
    Docs,
    /// Print every setting with its value and source
    Show(ServeArgs),
    /// Report every mistake in the settings
    Check(ServeArgs),
    /// Print the documentation of all metrics
    Metrics,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn client_flags_may_stand_before_or_after_the_verb() {
        for line in ["larder --json ls home:/", "larder ls home:/ --json"] {
            let cli = Cli::try_parse_from(line.split(' ')).expect("parses");
            assert!(cli.global.json, "{line}");
        }
    }

    #[test]
    fn mistakes_on_the_command_line_exit_with_2() {
        for line in
            ["larder", "larder frob", "larder put x", "larder ls --timeout 5", "larder mv a"]
        {
            let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
