//! Users and groups, their passwords and keys, and who a request comes from.
//!
//! Promises: secrets are never logged or answered, but for a key's at its making, and never
//! stored in a form that can be read, but for those that must be computed with, which are sealed;
//! passwords are Argon2id hashes, computed off the network threads by at most a few at once; a
//! verified password is remembered in memory for at most five minutes and only as long as the
//! user's record does not change; an unknown name costs and says the same as a wrong password.
//! The last enabled administrator can neither be removed nor disabled. Each change compares the
//! record of whoever asks, and of what they came with.
//!
//! Not here: what a caller may do with files (`access`, `room`).

use std::time::Duration;

use larder_base::{
    ErrorKind,
    id::{SpaceId, UserId},
};
use larder_meta::Snapshot;

use crate::{
    Larder,
    access::require_admin,
    account::{HomePolicy, NewUser, UserChange, UserInfo, UserRef},
    caller::{Access, Caller},
    entry::{ListOptions, Page, SpaceKind},
    error::{Error, Result},
    schema::{self, JobWork, Space, User},
    txn::{self, Pages, Stored, Txn, transact},
};

pub(crate) mod audit;
pub(crate) mod forget;
pub(crate) mod group;
pub(crate) mod guard;
pub(crate) mod key;
pub(crate) mod login;
pub(crate) mod password;
pub(crate) mod seal;

/// How long a verified password is remembered.
pub(crate) const REMEMBER: Duration = Duration::from_mins(5);

impl Larder {
    /// The caller's own user.
    pub async fn me(&self, caller: &Caller) -> Result<UserInfo> {
        self.user(caller, &UserRef::Me).await
    }

    /// Makes a user. Administrators only.
    pub async fn create_user(&self, caller: &Caller, new: NewUser) -> Result<UserInfo> {
        require_admin(caller)?;
        check_user_name(&new.name)?;
        let password = self.hash_password(&new.password).await?;
        let id = UserId::new(&self.inner.env);
        let (info, _) = transact!(self, None, |txn| {
            caller.hold(&mut txn);
            put_new_user(&mut txn, id, &new.name, password.clone(), new.admin).await?
        });
        Ok(info)
    }

    /// One page of the users. Administrators only; the cursor is the last id given.
    pub async fn users(&self, caller: &Caller, options: &ListOptions) -> Result<Page<UserInfo>> {
        require_admin(caller)?;
        let snapshot = self.inner.meta.snapshot().await?;
        let limit = options.page_limit();
        let after = match &options.cursor {
            None => None,
            Some(cursor) => {
                let id = cursor
                    .parse()
                    .map_err(|_| Error::invalid("the cursor is not one that a page gave"))?;
                Some(schema::user_key(id))
            }
        };
        let prefix = schema::users_prefix();
        let records = txn::page(&*snapshot, &prefix, after.as_deref(), limit).await?;
        let mut entries = Vec::with_capacity(records.len());
        for (key, record) in &records {
            let id = UserId::from_bytes(schema::trailing_id(key)?);
            entries.push(info(id, &schema::decode(key, &record.value)?));
        }
        let full = entries.len() == limit;
        let cursor = entries.last().filter(|_| full).map(|last| last.id.to_string());
        Ok(Page { entries, cursor })
    }

    /// A user; another one than the caller only for administrators.
    pub async fn user(&self, caller: &Caller, user: &UserRef) -> Result<UserInfo> {
        let snapshot = self.inner.meta.snapshot().await?;
        let (id, stored) = self.find_user(&*snapshot, caller, user).await?;
        Ok(info(id, &stored.value))
    }

    /// The user that `user` names, if `caller` may see them.
    pub(crate) async fn find_user(
        &self,
        snapshot: &dyn Snapshot,
        caller: &Caller,
        user: &UserRef,
    ) -> Result<(UserId, Stored<User>)> {
        let missing = || Error::not_found("user");
        if caller.link.is_some() {
            // A link opens files, and says nothing of whoever made it.
            return Err(missing());
        }
        let id = match user {
            UserRef::Me => caller.user,
            UserRef::Id(id) => *id,
            UserRef::Name(name) if **name == *caller.name => caller.user,
            UserRef::Name(name) => {
                require_admin(caller)?;
                let key = schema::user_name_key(name);
                txn::get::<UserId>(snapshot, &key).await?.ok_or_else(missing)?.value
            }
        };
        if id != caller.user {
            require_admin(caller)?;
        }
        let stored = txn::get::<User>(snapshot, &schema::user_key(id)).await?;
        Ok((id, stored.ok_or_else(missing)?))
    }

    /// Changes a user: the own password, or anything for administrators.
    pub async fn change_user(
        &self,
        caller: &Caller,
        user: &UserRef,
        change: UserChange,
    ) -> Result<UserInfo> {
        require_account(caller)?;
        if change.admin.is_some() || change.disabled.is_some() {
            require_admin(caller)?;
        }
        let password = match &change.password {
            Some(password) => Some(self.hash_password(password).await?),
            None => None,
        };
        let (info, _) = transact!(self, None, |txn| {
            caller.hold(&mut txn);
            if change.password.is_some() && key::lifetime(&txn, caller).await?.is_some() {
                let detail = "a key that expires cannot set passwords, which do not";
                return Err(Error::new(ErrorKind::Denied, detail));
            }
            let (id, stored) = self.find_user(&*txn.snapshot, caller, user).await?;
            let before = stored.value.clone();
            let mut after = stored.value;
            after.password = password.clone().unwrap_or(after.password);
            after.disabled = change.disabled.unwrap_or(after.disabled);
            after.admin = change.admin.unwrap_or(after.admin);
            if before.rules() && !after.rules() {
                require_another_admin(&mut txn, id).await?;
            }
            let key = schema::user_key(id);
            txn.hold(key.clone(), stored.version);
            txn.put(key, &after);
            info(id, &after)
        });
        Ok(info)
    }

    /// Removes a user: from the answer on neither they nor any credential of theirs can commit
    /// anything. Their home goes or stays as `home` says; other spaces stay, and are an
    /// administrator's to care for. A job removes what else there is of them: keys, memberships,
    /// grants, links, upload sessions. Administrators only.
    pub async fn delete_user(
        &self,
        caller: &Caller,
        user: &UserRef,
        home: HomePolicy,
    ) -> Result<()> {
        require_admin(caller)?;
        let (id, _) = transact!(self, None, |txn| {
            txn.frees();
            caller.hold(&mut txn);
            let (id, stored) = self.find_user(&*txn.snapshot, caller, user).await?;
            if stored.value.rules() {
                require_another_admin(&mut txn, id).await?;
            }
            if home == HomePolicy::Keep && id == caller.user {
                let detail = "a home is kept for the administrator who deletes its user, \
                              which cannot be that user";
                return Err(Error::new(ErrorKind::Conflict, detail));
            }
            let key = schema::user_key(id);
            txn.hold(key.clone(), stored.version);
            txn.delete(key);
            txn.delete(schema::user_name_key(&stored.value.name));
            self.give_up_home(&mut txn, id, caller, home).await?;
            self.queue_job(&mut txn, JobWork::ForgetUser { user: id });
            id
        });
        self.inner.homes().remove(&id);
        self.wake_jobs();
        Ok(())
    }

    /// Lets the home of a user go, or hands it over to `heir` as a project.
    async fn give_up_home(
        &self,
        txn: &mut Txn,
        user: UserId,
        heir: &Caller,
        policy: HomePolicy,
    ) -> Result<()> {
        let home = schema::home_key(user);
        let Some(id) = txn.get::<SpaceId>(&home).await? else {
            // None may come into being either.
            txn.hold_absent(home);
            return Ok(());
        };
        txn.hold(home.clone(), id.version);
        txn.delete(home);
        let key = schema::space_key(id.value);
        let Some(space) = txn.get::<Space>(&key).await? else { return Ok(()) };
        txn.hold(key.clone(), space.version);
        match policy {
            HomePolicy::Remove => self.condemn_space(txn, id.value, space.value),
            HomePolicy::Keep => {
                let kind = SpaceKind::Project;
                txn.put(key, &Space { kind, owner: heir.user, ..space.value });
            }
        }
        Ok(())
    }
}

impl User {
    /// Whether the user can administer the instance now.
    fn rules(&self) -> bool {
        self.admin && !self.disabled
    }
}

/// Whether what the caller came with may change accounts and groups: only what may do everything,
/// everywhere, because both could give more.
pub(crate) fn require_account(caller: &Caller) -> Result<()> {
    if caller.scope.access == Access::Full && caller.scope.spaces.is_none() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Denied, "this key is for work on files only"))
}

/// Writes a new user; the name must be free.
pub(crate) async fn put_new_user(
    txn: &mut Txn,
    id: UserId,
    name: &str,
    password: String,
    admin: bool,
) -> Result<UserInfo> {
    let name_key = schema::user_name_key(name);
    if let Some(other) = txn.get::<UserId>(&name_key).await? {
        return Err(
            Error::new(ErrorKind::AlreadyExists, "a user has this name").with_existing(other.value)
        );
    }
    let user = User { name: name.to_owned(), password, admin, disabled: false, created: txn.now };
    txn.hold_absent(schema::load_key(schema::WHOLE_LOAD));
    txn.hold_absent(name_key.clone());
    txn.put(name_key, &id);
    txn.put(schema::user_key(id), &user);
    Ok(info(id, &user))
}

/// Demands that another user than `id` still administers the instance at the commit.
async fn require_another_admin(txn: &mut Txn, id: UserId) -> Result<()> {
    let mut pages = Pages::of(schema::users_prefix(), 1000);
    while let Some(page) = pages.next(&*txn.snapshot).await? {
        for (key, record) in &page {
            let user: User = schema::decode(key, &record.value)?;
            if user.rules() && schema::trailing_id(key)? != *id.as_bytes() {
                txn.hold(key.clone(), record.version);
                return Ok(());
            }
        }
    }
    Err(Error::new(ErrorKind::Conflict, "this is the last administrator: make another one first"))
}

pub(crate) fn check_user_name(name: &str) -> Result<()> {
    check_name(name, "user")
}

/// The one form of names of users and groups.
fn check_name(name: &str, whose: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let first = name.bytes().next().is_some_and(plain);
    let rest = name.bytes().all(|byte| plain(byte) || b"._-".contains(&byte));
    if !first || !rest || name.len() > 64 || name == "me" || name.parse::<UserId>().is_ok() {
        let detail = format!(
            "a {whose}'s name is 1 to 64 of a-z, 0-9, `.`, `_` and `-`, \
             beginning with a letter or digit, and not `me`"
        );
        return Err(Error::invalid(detail));
    }
    Ok(())
}

fn info(id: UserId, user: &User) -> UserInfo {
    UserInfo {
        id,
        name: user.name.clone(),
        admin: user.admin,
        disabled: user.disabled,
        created: user.created,
    }
}
