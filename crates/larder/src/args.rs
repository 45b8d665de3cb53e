//! The command line: verbs, flags and their help.
//!
//! Promises: exit code 2 for everything that is wrong here; no flag reads the environment by
//! itself, so that tests and `config show` can say where a value came from.
//!
//! Not here: what the verbs do (`command`), settings of the server (`config`), `larder bench`'s
//! own flags (`bench`).

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::bench::BenchArgs;

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
    /// Measure one file server, or two in alternation
    Bench(Box<BenchArgs>),
    /// Keep a server's address and credentials for later calls
    Login(LoginArgs),
    /// Upload files and directories
    Put(PutArgs),
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
    /// Users
    #[command(subcommand)]
    Users(UsersVerb),
    /// API keys
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
    /// Listener for S3; only `off` so far
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
    #[command(flatten)]
    pub(crate) parallel: Parallel,
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

/// Where the password of another user comes from.
#[derive(Debug, Args)]
pub(crate) struct NewPassword {
    /// Password to set; asked for when neither flag is given
    #[arg(long, value_name = "TEXT", conflicts_with = "new_password_file")]
    pub(crate) new_password: Option<String>,
    /// File with the password to set; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) new_password_file: Option<PathBuf>,
}

/// `larder users`.
#[derive(Debug, Subcommand)]
pub(crate) enum UsersVerb {
    /// List all users
    Ls,
    /// Make a user, with a home space
    Create {
        /// User name
        name: String,
        #[command(flatten)]
        password: NewPassword,
        /// Let the user administer the instance
        #[arg(long)]
        admin: bool,
    },
    /// Set a password
    Passwd {
        /// User name or id
        name: String,
        #[command(flatten)]
        password: NewPassword,
    },
    /// Keep a user out
    Disable {
        /// User name or id
        name: String,
    },
    /// Let a user in again
    Enable {
        /// User name or id
        name: String,
    },
    /// Delete a user
    Rm {
        /// User name or id
        name: String,
    },
}

/// `larder keys`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysVerb {
    /// List keys
    Ls {
        /// User name or id, instead of oneself
        #[arg(long, value_name = "USER", default_value = "me")]
        of: String,
    },
    /// Make a key; it is shown this once
    Create {
        /// What the key is for
        name: String,
        /// User name or id, instead of oneself
        #[arg(long, value_name = "USER", default_value = "me")]
        of: String,
        /// How long it is valid, such as 30d; for ever without this
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        expires: Option<std::time::Duration>,
    },
    /// Delete a key
    Rm {
        /// Id of the key
        id: String,
        /// User name or id, instead of oneself
        #[arg(long, value_name = "USER", default_value = "me")]
        of: String,
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
