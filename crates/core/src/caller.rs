//! Who asks: passed to every operation of core.
//!
//! Not here: how a caller proves who they are ([`crate::identity`]), what they may do
//! ([`crate::access`]).

use std::sync::Arc;

use bytes::Bytes;
use larder_base::{
    ErrorKind,
    id::{NodeId, ShareId, SpaceId, UserId},
};
use larder_meta::{Snapshot, Version};
use serde::{Deserialize, Serialize};

use crate::{
    access::Role,
    error::{Error, Result},
    schema,
    txn::Txn,
    work::{Client, Priority},
};

/// An authenticated user, for the length of one request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The user.
    pub user: UserId,
    /// The user's name, as it is recorded with revisions and trash items.
    pub name: Arc<str>,
    /// Whether the user administers this instance.
    pub admin: bool,
    /// The user's record that says so: it must be the same when a change commits.
    pub(crate) record: Version,
    /// What the credential allows of what the user may do.
    pub(crate) scope: Scope,
    /// The record of the key or link that the caller came with, and its version: it must be the
    /// same when a change commits, so that a revoked one changes nothing any more.
    pub(crate) credential: Option<(Bytes, Version)>,
    /// The records that let them in where their own rights do not: each must be the same, or as
    /// absent, as when that was judged.
    pub(crate) grounds: Grounds,
    /// What a public link opens; a caller who came with one has nothing else.
    pub(crate) link: Option<LinkRoot>,
    /// How urgent what they ask for is.
    pub(crate) priority: Priority,
}

impl Caller {
    /// The server itself, as the author of what it does by a policy. It holds no right: who acts
    /// as it decides that by themselves.
    pub(crate) fn of_system(name: &str) -> Self {
        Self {
            user: UserId::from_bytes([0; 16]),
            name: name.into(),
            admin: false,
            record: Version(0),
            scope: Scope::full(),
            credential: None,
            grounds: Grounds::default(),
            link: None,
            priority: Priority::DEFAULT,
        }
    }

    /// A client without credentials: it may do nothing until a bucket lets it in.
    pub fn nobody() -> Self {
        let scope = Scope { access: Access::Read, spaces: Some(Arc::from([])) };
        Self { scope, ..Self::of_system("(anonymous)") }
    }

    /// Wishes for another priority than [`Priority::DEFAULT`]. Only an administrator gets a
    /// higher one.
    pub fn wish(&mut self, priority: Priority) {
        let highest = if self.admin { priority } else { Priority::DEFAULT };
        self.priority = priority.max(highest);
    }

    /// Whose rates a request counts for: the user, unless it came with a public link, and the
    /// record of the key or link that it came with.
    pub fn meters(&self) -> (Option<UserId>, Option<&Bytes>) {
        let user = self.link.is_none().then_some(self.user);
        (user, self.credential.as_ref().map(|(record, _)| record))
    }

    /// For whom the queue of heavy work works.
    pub(crate) fn client(&self) -> Client {
        Client { user: self.user, name: Arc::clone(&self.name), priority: self.priority }
    }

    /// Demands that the user and what they came with are the same at the commit: else the request
    /// must log in again.
    pub(crate) fn hold(&self, txn: &mut Txn) {
        txn.author = Some(Arc::clone(&self.name));
        let user = (schema::user_key(self.user), self.record);
        for (key, version) in std::iter::once(user).chain(self.credential.clone()) {
            txn.hold(key.clone(), version);
            txn.login.push(key);
        }
        self.grounds.hold(txn);
    }
}

/// A record's key, and its version where it was there.
type Seen = (Bytes, Option<Version>);

/// Records that something was judged by, and their versions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grounds(Option<Arc<[Seen]>>);

impl Grounds {
    pub(crate) fn new(records: Vec<Seen>) -> Self {
        Self((!records.is_empty()).then(|| records.into()))
    }

    /// Errors: `Busy` if one of them is another now: judged anew, it may be allowed or not.
    pub(crate) async fn check(&self, snapshot: &dyn Snapshot) -> Result<()> {
        for (key, version) in self.0.iter().flat_map(|records| records.iter()) {
            let now = snapshot.get(key).await?.map(|record| record.version);
            if now != *version {
                let detail = "what lets you in has changed while the request ran: try again";
                return Err(Error::new(ErrorKind::Busy, detail));
            }
        }
        Ok(())
    }

    /// Demands that all are the same at the commit.
    pub(crate) fn hold(&self, txn: &mut Txn) {
        for (key, version) in self.0.iter().flat_map(|records| records.iter()) {
            match version {
                Some(version) => txn.hold(key.clone(), *version),
                None => txn.hold_absent(key.clone()),
            }
        }
    }
}

/// What a public link opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkRoot {
    pub(crate) share: ShareId,
    pub(crate) space: SpaceId,
    pub(crate) node: NodeId,
    pub(crate) role: Role,
}

/// What a credential allows of what its user may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Kinds of operations.
    pub access: Access,
    /// The only spaces that it opens; `None` is all that the user may enter.
    pub spaces: Option<Arc<[SpaceId]>>,
}

/// Kinds of operations that a credential allows, each with all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Access {
    /// Reading files.
    Read,
    /// Reading and changing files.
    Write,
    /// Everything: the account, its keys and shares, and administration too.
    Full,
}

impl Scope {
    /// Everything that the user may do.
    pub fn full() -> Self {
        Self { access: Access::Full, spaces: None }
    }
}

/// Who takes a credential, and in which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CredentialKind {
    /// API key: `Authorization: Bearer`.
    Api,
    /// App password: in place of the password, with the user's name; work on files only.
    App,
    /// S3 key pair: signs requests.
    S3,
}

/// What a request brings to prove who sends it.
#[derive(Clone, Copy)]
pub enum Credentials<'a> {
    /// A user's name and password.
    Password {
        /// The name.
        user: &'a str,
        /// The password.
        password: &'a str,
    },
    /// An API key.
    Key(&'a str),
}

impl std::fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Secrets are never shown.
        match self {
            Self::Password { user, .. } => write!(f, "Password({user})"),
            Self::Key(_) => f.write_str("Key"),
        }
    }
}
