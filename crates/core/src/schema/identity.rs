//! Records of groups and credentials: keys and values.
//!
//! | family | key | value | written by |
//! |---|---|---|---|
//! | `gr`, `gn` | group; name | [`Group`]; its id | identity::group |
//! | `gm` | group, user | [`Member`]; decides | identity::group |
//! | `ug` | user, group | nothing; index of `gm`, same commits | identity::group |
//! | `mk` | | [`MasterRecord`] | identity::seal |
//!
//! | `ak` | key | [`Credential`]; of format 1 [`ApiKey`](super::ApiKey) | identity::key |
//! | `uk` | user, key | nothing; index of `ak`, same commits | identity::key |
//! | `ks` | key | [`Secrets`]; absent for format 1 that was never rotated | identity::key |
//! | `kn` | access key id | key id | identity::key |
//! | `ku` | key | time of the last use, coarse | identity::key |
//! | `ut` | user | nothing; written by whatever adds a key or a group of the user | identity |
//!
//! Not here: what the records mean together (`identity`).

use bytes::Bytes;
use larder_base::{
    Timestamp,
    digest::Sha256,
    id::{GroupId, KeyId, SpaceId, UserId},
};
use serde::{Deserialize, Serialize};

use super::{ApiKey, key};
use crate::{
    caller::{Access, CredentialKind},
    error::{Error, Result},
};

/// A group of users.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) created: Timestamp,
}

/// That a user belongs to a group. Whoever relies on it compares this record and the group's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) since: Timestamp,
}

pub(crate) fn group_key(group: GroupId) -> Bytes {
    key(*b"gr", &[group.as_bytes()])
}

/// Prefix of all groups.
pub(crate) fn groups_prefix() -> Bytes {
    key(*b"gr", &[])
}

pub(crate) fn group_name_key(name: &str) -> Bytes {
    key(*b"gn", &[name.as_bytes()])
}

pub(crate) fn member_key(group: GroupId, user: UserId) -> Bytes {
    key(*b"gm", &[group.as_bytes(), user.as_bytes()])
}

/// Prefix of the members of a group.
pub(crate) fn members_prefix(group: GroupId) -> Bytes {
    key(*b"gm", &[group.as_bytes()])
}

pub(crate) fn user_group_key(user: UserId, group: GroupId) -> Bytes {
    key(*b"ug", &[user.as_bytes(), group.as_bytes()])
}

/// Prefix of the groups of a user.
pub(crate) fn user_groups_prefix(user: UserId) -> Bytes {
    key(*b"ug", &[user.as_bytes()])
}

/// The master key that secrets are sealed under.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MasterRecord {
    /// A digest that the key is known by.
    pub(crate) id: Sha256,
    pub(crate) since: Timestamp,
}

/// The one record of the master key.
pub(crate) fn master_key() -> Bytes {
    key(*b"mk", &[])
}

/// Format of a [`Credential`]; format 1 was an [`ApiKey`].
const CREDENTIAL_FORMAT: u8 = 2;

/// What a program uses instead of a user's password: what it is and may do. Whoever relies on it
/// compares this record. Its secret is apart ([`Secrets`]), so that a rotation with an overlap
/// breaks off nothing that runs.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Credential {
    pub(crate) user: UserId,
    pub(crate) kind: CredentialKind,
    pub(crate) name: String,
    pub(crate) access: Access,
    /// The only spaces that it opens; `None` is all.
    pub(crate) spaces: Option<Vec<SpaceId>>,
    pub(crate) created: Timestamp,
    pub(crate) expires: Option<Timestamp>,
    /// The public half of an S3 key pair.
    pub(crate) access_key_id: Option<String>,
    /// The secret of a record of format 1.
    #[serde(skip)]
    pub(crate) digest: Option<Sha256>,
}

/// The secrets of a credential.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Secrets {
    pub(crate) current: StoredSecret,
    /// The one before, and until when it is still accepted.
    pub(crate) previous: Option<(StoredSecret, Timestamp)>,
    pub(crate) rotated: Option<Timestamp>,
}

impl Secrets {
    /// Those that are accepted now.
    pub(crate) fn valid(&self, now: Timestamp) -> impl Iterator<Item = &StoredSecret> {
        let previous = self.previous.as_ref().filter(|(_, until)| *until > now);
        std::iter::once(&self.current).chain(previous.map(|(secret, _)| secret))
    }
}

/// A secret as it is stored.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum StoredSecret {
    /// SHA-256 of 256 random bits, which nobody finds by trying: a slow hash or a key of its own
    /// would add nothing.
    Digest(Sha256),
    /// Sealed under the master key, in the context of the record's key.
    Sealed(Vec<u8>),
}

/// The stored form of a credential.
pub(crate) fn encode_credential(credential: &Credential) -> Bytes {
    let bytes = postcard::to_extend(credential, vec![CREDENTIAL_FORMAT]);
    bytes.expect("records are plain data, which always serialises").into()
}

/// The credential of a stored form, old or new.
pub(crate) fn decode_credential(key: &[u8], bytes: &[u8]) -> Result<Credential> {
    let Some((&CREDENTIAL_FORMAT, rest)) = bytes.split_first() else {
        let ApiKey { user, name, digest, created, expires } = super::decode(key, bytes)?;
        return Ok(Credential {
            user,
            kind: CredentialKind::Api,
            name,
            access: Access::Full,
            spaces: None,
            created,
            expires,
            access_key_id: None,
            digest: Some(digest),
        });
    };
    postcard::from_bytes(rest).map_err(|error| {
        let detail = format!("record {}: {error}", Bytes::copy_from_slice(key).escape_ascii());
        Error::new(larder_base::ErrorKind::Corrupt, detail)
    })
}

pub(crate) fn secrets_key(id: KeyId) -> Bytes {
    key(*b"ks", &[id.as_bytes()])
}

pub(crate) fn access_key_key(access_key_id: &str) -> Bytes {
    key(*b"kn", &[access_key_id.as_bytes()])
}

/// When a credential was last used.
pub(crate) fn used_key(id: KeyId) -> Bytes {
    key(*b"ku", &[id.as_bytes()])
}

/// Makes additions to what a user has follow each other, so that their number stays bounded.
pub(crate) fn additions_key(user: UserId) -> Bytes {
    key(*b"ut", &[user.as_bytes()])
}

#[cfg(test)]
mod tests {
    use larder_base::Env;

    use super::*;

    #[test]
    fn a_key_of_the_first_format_is_read_as_one_that_may_everything() {
        let (env, _) = Env::manual(3);
        let (user, created) = (UserId::new(&env), env.now());
        let digest = Sha256::of(b"secret");
        let old = ApiKey { user, name: "old".to_owned(), digest, created, expires: None };
        let read = decode_credential(b"ak", &super::super::encode(&old)).expect("format 1");
        assert_eq!((read.user, read.digest, read.access), (user, Some(digest), Access::Full));
        assert!(read.spaces.is_none() && read.kind == CredentialKind::Api);
        let spaces = Some(vec![SpaceId::new(&env)]);
        let new = Credential { access: Access::Read, spaces: spaces.clone(), ..read };
        let read = decode_credential(b"ak", &encode_credential(&new)).expect("format 2");
        assert_eq!((read.access, read.spaces, read.digest), (Access::Read, spaces, None));
        assert!(
            decode_credential(b"ak", &[3, 0]).is_err() && decode_credential(b"ak", &[]).is_err()
        );
    }
}
