//! Arguments of the verbs for users, groups, keys and shares.
//!
//! Not here: what they do (`command`).

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::duration;

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
        /// Keep the user's home as a project space of whoever deletes the user
        #[arg(long)]
        keep_home: bool,
    },
}

/// `larder groups`.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupsVerb {
    /// List groups: all for administrators, else one's own
    Ls,
    /// Make a group
    Create {
        /// Name
        group: String,
    },
    /// Show a group
    Show {
        /// Group name or id
        group: String,
    },
    /// Give a group another name
    Rename {
        /// Group name or id
        group: String,
        /// The new name
        name: String,
    },
    /// Delete a group; its members stay users
    Rm {
        /// Group name or id
        group: String,
    },
    /// List the members of a group
    Members {
        /// Group name or id
        group: String,
    },
    /// Add users to a group
    Add {
        /// Group name or id
        group: String,
        /// User names or ids
        #[arg(required = true)]
        users: Vec<String>,
    },
    /// Take users out of a group
    Remove {
        /// Group name or id
        group: String,
        /// User names or ids
        #[arg(required = true)]
        users: Vec<String>,
    },
}

/// What a credential is.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum KeyKind {
    /// API key, for programs and this one
    Api,
    /// App password, where a user name and a password are asked for
    App,
    /// S3 key pair
    S3,
}

/// What a credential may do.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum KeyAccess {
    /// Read files
    Read,
    /// Read and change files
    Write,
    /// Everything that its user may
    Full,
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
        /// What it is
        #[arg(long, value_enum, default_value = "api")]
        kind: KeyKind,
        /// What it may do; all that its kind can without this
        #[arg(long, value_enum)]
        access: Option<KeyAccess>,
        /// The only space that it opens, by name or id; may be repeated
        #[arg(long = "space", value_name = "SPACE")]
        spaces: Vec<String>,
    },
    /// Replace the secret of a key; the new one is shown this once
    Rotate {
        /// Id of the key
        id: String,
        /// User name or id, instead of oneself
        #[arg(long, value_name = "USER", default_value = "me")]
        of: String,
        /// How long the old secret works on, such as 1h; not at all without this
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        overlap: Option<std::time::Duration>,
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

/// `larder share`.
#[derive(Debug, Subcommand)]
pub(crate) enum ShareVerb {
    /// List what is shared: with oneself, or of a path or space
    Ls {
        /// Path or space whose shares are listed, as SPACE:/path
        path: Option<String>,
        /// What oneself has shared
        #[arg(long, conflicts_with = "path")]
        by_me: bool,
    },
    /// Share a file or directory
    Create(Box<ShareCreateArgs>),
    /// Show a share
    Show {
        /// Id of the share
        id: String,
    },
    /// Change a share
    Set {
        /// Id of the share
        id: String,
        /// What they may do
        #[arg(long, value_enum)]
        role: Option<ShareRole>,
        /// How long from now, such as 30d
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        expires: Option<std::time::Duration>,
        /// Of a link: what to call it
        #[arg(long)]
        name: Option<String>,
        /// Of a link: how many downloads it allows
        #[arg(long, value_name = "COUNT")]
        downloads: Option<u64>,
    },
    /// End a share
    Rm {
        /// Id of the share
        id: String,
    },
    /// Give something shared a place among one's own files
    Mount {
        /// What it shall stand for, as SPACE:/path or the id of a file or directory
        target: String,
        /// Where it shall stand, as SPACE:/path
        path: String,
    },
}

/// Whom a share is for.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct ShareWithArgs {
    /// A user, by name or id
    #[arg(long, value_name = "USER")]
    pub(crate) with_user: Option<String>,
    /// A group, by name or id
    #[arg(long, value_name = "GROUP")]
    pub(crate) with_group: Option<String>,
    /// Whoever has the link
    #[arg(long)]
    pub(crate) link: bool,
}

/// What a share allows.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum ShareRole {
    /// Adding files, and seeing none (links only)
    Uploader,
    /// Reading
    Viewer,
    /// Reading and changing
    Editor,
    /// Sharing too
    Manager,
}

/// `larder share create`.
#[derive(Debug, Args)]
pub(crate) struct ShareCreateArgs {
    /// What to share, as SPACE:/path; `SPACE:/` is all of the space
    pub(crate) path: String,
    #[command(flatten)]
    pub(crate) with: ShareWithArgs,
    /// What they may do
    #[arg(long, value_enum, default_value = "viewer")]
    pub(crate) role: ShareRole,
    /// How long, such as 30d; for ever without this
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) expires: Option<std::time::Duration>,
    /// Of a link: what to call it
    #[arg(long, requires = "link")]
    pub(crate) name: Option<String>,
    /// Of a link: how many downloads it allows
    #[arg(long, value_name = "COUNT", requires = "link")]
    pub(crate) downloads: Option<u64>,
    /// Of a link: ask for the password that it shall want
    #[arg(long, requires = "link")]
    pub(crate) ask_password: bool,
    /// Of a link: file with that password; `-` is standard input
    #[arg(long, value_name = "FILE", requires = "link")]
    pub(crate) link_password_file: Option<PathBuf>,
}
