//! Users, their passwords and API keys, and who a request comes from.
//!
//! Promises: secrets are never stored, logged or answered, but for a key at its making;
//! passwords are Argon2id hashes, computed off the network threads by at most a few at once; a
//! verified password is remembered in memory for at most five minutes and only as long as the
//! user's record does not change; an unknown name costs and says the same as a wrong password.
//! The last enabled administrator can neither be removed nor disabled.
//!
//! Not here: what a caller may do (`access`).

use std::time::Duration;

use larder_base::{
    ErrorKind,
    id::{KeyId, UserId},
};
use larder_meta::Snapshot;

use crate::{
    Larder,
    access::require_admin,
    account::{KeyInfo, NewKey, NewUser, UserChange, UserInfo, UserRef},
    caller::Caller,
    entry::{ListOptions, Page},
    error::{Error, Result},
    schema::{self, ApiKey, Space, User},
    txn::{self, Stored, Txn, transact},
};

pub(crate) mod login;
pub(crate) mod password;

/// Most API keys of one user.
const KEYS_MAX: usize = 100;

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

    async fn find_user(
        &self,
        snapshot: &dyn Snapshot,
        caller: &Caller,
        user: &UserRef,
    ) -> Result<(UserId, Stored<User>)> {
        let missing = || Error::not_found("user");
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
        if change.admin.is_some() || change.disabled.is_some() {
            require_admin(caller)?;
        }
        let password = match &change.password {
            Some(password) => Some(self.hash_password(password).await?),
            None => None,
        };
        let (info, _) = transact!(self, None, |txn| {
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

    /// Removes a user with their keys, and their home with everything in it. Administrators
    /// only. Other spaces stay, and are an administrator's to care for.
    pub async fn delete_user(&self, caller: &Caller, user: &UserRef) -> Result<()> {
        require_admin(caller)?;
        transact!(self, None, |txn| {
            let (id, stored) = self.find_user(&*txn.snapshot, caller, user).await?;
            if stored.value.rules() {
                require_another_admin(&mut txn, id).await?;
            }
            let key = schema::user_key(id);
            txn.frees();
            txn.hold(key.clone(), stored.version);
            txn.delete(key);
            txn.delete(schema::user_name_key(&stored.value.name));
            for key in user_keys(&txn, id).await? {
                txn.delete(schema::api_key_key(key));
                txn.delete(schema::user_api_key_key(id, key));
                if txn.spec.delete.len() > 80 {
                    break;
                }
            }
            let home = schema::home_key(id);
            if let Some(space) = txn.get::<larder_base::id::SpaceId>(&home).await? {
                txn.hold(home.clone(), space.version);
                txn.delete(home);
                let key = schema::space_key(space.value);
                if let Some(record) = txn.get::<Space>(&key).await? {
                    txn.hold(key, record.version);
                    self.condemn_space(&mut txn, space.value, record.value);
                }
            }
            self.inner.homes().remove(&id);
        });
        self.wake_jobs();
        Ok(())
    }

    /// Makes an API key; the text is shown this once. For the caller, or for anyone by an
    /// administrator.
    pub async fn create_key(
        &self,
        caller: &Caller,
        user: &UserRef,
        new: NewKey,
    ) -> Result<(KeyInfo, String)> {
        if new.name.len() > 128 || new.name.chars().any(char::is_control) {
            return Err(Error::invalid("a key's name has at most 128 bytes, none of control"));
        }
        let id = KeyId::new(&self.inner.env);
        let (text, digest) = login::new_key(&self.inner.env, id);
        let (info, _) = transact!(self, None, |txn| {
            let (owner, stored) = self.find_user(&*txn.snapshot, caller, user).await?;
            if user_keys(&txn, owner).await?.len() >= KEYS_MAX {
                let detail = format!("a user has at most {KEYS_MAX} keys: delete one first");
                return Err(Error::new(ErrorKind::Conflict, detail));
            }
            txn.hold(schema::user_key(owner), stored.version);
            let key = ApiKey {
                user: owner,
                name: new.name.clone(),
                digest,
                created: txn.now,
                expires: new.expires,
            };
            txn.put(schema::api_key_key(id), &key);
            txn.put(schema::user_api_key_key(owner, id), &());
            key_info(id, &key)
        });
        Ok((info, text))
    }

    /// The API keys of a user, without their secrets.
    pub async fn keys(&self, caller: &Caller, user: &UserRef) -> Result<Vec<KeyInfo>> {
        let txn = Txn::new(self.inner.meta.snapshot().await?, self.inner.env.now());
        let (owner, _) = self.find_user(&*txn.snapshot, caller, user).await?;
        let mut keys = Vec::new();
        for id in user_keys(&txn, owner).await? {
            if let Some(key) = txn.get::<ApiKey>(&schema::api_key_key(id)).await? {
                keys.push(key_info(id, &key.value));
            }
        }
        Ok(keys)
    }

    /// Removes an API key: it stops working at once.
    pub async fn delete_key(&self, caller: &Caller, user: &UserRef, key: KeyId) -> Result<()> {
        transact!(self, None, |txn| {
            let (owner, _) = self.find_user(&*txn.snapshot, caller, user).await?;
            let record = txn.get::<ApiKey>(&schema::api_key_key(key)).await?;
            let record = record.filter(|record| record.value.user == owner);
            let record = record.ok_or_else(|| Error::not_found("key"))?;
            // A full disk must keep nobody's key alive.
            txn.frees();
            txn.hold(schema::api_key_key(key), record.version);
            txn.delete(schema::api_key_key(key));
            txn.delete(schema::user_api_key_key(owner, key));
        });
        Ok(())
    }
}

impl User {
    /// Whether the user can administer the instance now.
    fn rules(&self) -> bool {
        self.admin && !self.disabled
    }
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
    txn.hold_absent(name_key.clone());
    txn.put(name_key, &id);
    txn.put(schema::user_key(id), &user);
    Ok(info(id, &user))
}

/// Demands that another user than `id` still administers the instance at the commit.
async fn require_another_admin(txn: &mut Txn, id: UserId) -> Result<()> {
    let prefix = schema::users_prefix();
    let mut after = None;
    loop {
        let page = txn::page(&*txn.snapshot, &prefix, after.as_deref(), 1000).await?;
        for (key, record) in &page {
            let user: User = schema::decode(key, &record.value)?;
            if user.rules() && schema::trailing_id(key)? != *id.as_bytes() {
                txn.hold(key.clone(), record.version);
                return Ok(());
            }
        }
        match page.last() {
            Some((key, _)) => after = Some(key.clone()),
            None => {
                let detail = "this is the last administrator: make another one first";
                return Err(Error::new(ErrorKind::Conflict, detail));
            }
        }
    }
}

async fn user_keys(txn: &Txn, id: UserId) -> Result<Vec<KeyId>> {
    let prefix = schema::user_api_keys_prefix(id);
    let page = txn::page(&*txn.snapshot, &prefix, None, KEYS_MAX).await?;
    page.iter().map(|(key, _)| Ok(KeyId::from_bytes(schema::trailing_id(key)?))).collect()
}

pub(crate) fn check_user_name(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let first = name.bytes().next().is_some_and(plain);
    let rest = name.bytes().all(|byte| plain(byte) || b"._-".contains(&byte));
    if !first || !rest || name.len() > 64 || name == "me" || name.parse::<UserId>().is_ok() {
        let detail = "a user's name is 1 to 64 of a-z, 0-9, `.`, `_` and `-`, \
                      beginning with a letter or digit, and not `me`";
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

fn key_info(id: KeyId, key: &ApiKey) -> KeyInfo {
    KeyInfo { id, name: key.name.clone(), created: key.created, expires: key.expires }
}
