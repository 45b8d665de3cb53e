//! Public links: whoever has the URL may do what the link allows, without an account.
//!
//! Promises: I-LINK-1 a token has 192 random bits; only its digest finds the link, and it is kept
//! for whoever manages the link under the master key. I-LINK-2 a link opens its node and what is
//! below it, and works only as long as whoever made it may share that node. I-LINK-3 of a limited
//! number of downloads no more are begun: each is counted by a commit before its first byte.
//!
//! Not here: what a caller who came with a link may do (`room`).

use std::{net::IpAddr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use larder_base::{
    Env, ErrorKind,
    digest::Sha256,
    id::{NodeId, ShareId, SpaceId, UserId},
};
use larder_meta::{Bound, FieldOp, Merge, Snapshot};

use super::{LinkInfo, LinkTerms, NewShare};
use crate::{
    Larder,
    access::{Right, Role},
    caller::{Access, Caller, Grounds, LinkRoot, Scope},
    entry::EntryKind,
    error::{Error, Result},
    schema::{self, Link, User},
    tree::lookup,
    txn::{self, Stored, Txn, transact},
    work::Priority,
};

/// Random bytes of a token.
const TOKEN_BYTES: usize = 24;

/// A link as whoever has its URL sees it, before any password.
#[derive(Clone, Debug)]
pub struct LinkView {
    /// What its maker calls it.
    pub name: String,
    /// What it opens.
    pub kind: EntryKind,
    /// What may be done with it.
    pub role: Role,
    /// Whether it wants a password.
    pub has_password: bool,
    /// When it ends.
    pub expires: Option<larder_base::Timestamp>,
}

/// The secrets of a link that is being made.
pub(super) struct Prepared {
    digest: Sha256,
    sealed: Vec<u8>,
    password: Option<String>,
}

pub(super) fn check_terms(name: &str, downloads_max: Option<u64>) -> Result<()> {
    if name.len() > 128 || name.chars().any(char::is_control) {
        return Err(Error::invalid("a link's name has at most 128 bytes, none of control"));
    }
    if downloads_max == Some(0) {
        return Err(Error::invalid("a link without downloads would open nothing"));
    }
    Ok(())
}

fn new_token(env: &Env) -> String {
    let mut random = [0; TOKEN_BYTES];
    env.fill_random(&mut random);
    URL_SAFE_NO_PAD.encode(random)
}

/// Writes the record of a new link.
pub(super) fn put(
    txn: &mut Txn,
    id: ShareId,
    (space, node, by): (SpaceId, NodeId, UserId),
    new: &NewShare,
    terms: &LinkTerms,
    prepared: &Prepared,
) {
    let link = Link {
        space,
        node,
        role: new.role,
        by,
        name: terms.name.clone(),
        token: prepared.digest,
        sealed: prepared.sealed.clone(),
        password: prepared.password.clone(),
        created: txn.now,
        expires: new.expires,
        downloads_max: terms.downloads_max,
    };
    txn.put(schema::link_key(id), &link);
    let key = schema::link_token_key(&prepared.digest);
    txn.hold_absent(key.clone());
    txn.put(key, &id);
}

impl Larder {
    pub(super) async fn prepare_link(&self, terms: &LinkTerms) -> Result<Prepared> {
        let password = match &terms.password {
            Some(password) => Some(self.hash_password(password).await?),
            None => None,
        };
        let token = new_token(&self.inner.env);
        let digest = Sha256::of(token.as_bytes());
        let sealed = self.inner.sealer.seal(&digest.0, token.as_bytes()).to_vec();
        Ok(Prepared { digest, sealed, password })
    }

    /// The public form of a link, for those who manage it.
    pub(super) async fn link_info(
        &self,
        snapshot: &dyn Snapshot,
        id: ShareId,
        link: &Link,
    ) -> Result<LinkInfo> {
        // What came from another instance may be sealed under another key: the link works, and
        // nobody can be shown its token.
        let token = self.inner.sealer.open(&link.token.0, &link.sealed).unwrap_or_default();
        let (counters, _) = txn::counters(snapshot, &schema::link_downloads_key(id)).await?;
        Ok(LinkInfo {
            name: link.name.clone(),
            token: String::from_utf8_lossy(&token).into_owned(),
            has_password: link.password.is_some(),
            downloads_max: link.downloads_max,
            downloads: u64::try_from(counters[0]).unwrap_or(0),
        })
    }

    /// The link that a token stands for, and the user who made it, if it still works.
    async fn find_link(
        &self,
        snapshot: &dyn Snapshot,
        token: &str,
    ) -> Result<(ShareId, Stored<Link>, Stored<User>)> {
        self.inner.require_loaded()?;
        let missing = || Error::not_found("link");
        if token.len() != TOKEN_BYTES / 3 * 4 {
            return Err(missing());
        }
        let key = schema::link_token_key(&Sha256::of(token.as_bytes()));
        let id = txn::get::<ShareId>(snapshot, &key).await?.ok_or_else(missing)?.value;
        let link = txn::get::<Link>(snapshot, &schema::link_key(id)).await?;
        let link = link.ok_or_else(missing)?;
        let user = txn::get::<User>(snapshot, &schema::user_key(link.value.by)).await?;
        let user = user.filter(|user| !user.value.disabled).ok_or_else(missing)?;
        if link.value.expires.is_some_and(|expires| expires <= self.inner.env.now()) {
            return Err(Error::new(ErrorKind::Gone, "the link has expired"));
        }
        Ok((id, link, user))
    }

    /// What a link is, for whoever has it.
    ///
    /// Errors: `NotFound`; `Gone` once it has expired.
    pub async fn view_link(&self, token: &str) -> Result<LinkView> {
        let snapshot = self.inner.meta.snapshot().await?;
        let (_, Stored { value: link, .. }, user) = self.find_link(&*snapshot, token).await?;
        let kind = self.link_kind(&*snapshot, &link, &user).await?;
        Ok(LinkView {
            name: link.name,
            kind,
            role: link.role,
            has_password: link.password.is_some(),
            expires: link.expires,
        })
    }

    /// What a link opens, if whoever made it may still share that.
    async fn link_kind(
        &self,
        snapshot: &dyn Snapshot,
        link: &Link,
        user: &Stored<User>,
    ) -> Result<EntryKind> {
        let maker = Caller {
            user: link.by,
            name: user.value.name.as_str().into(),
            admin: user.value.admin,
            record: user.version,
            scope: Scope::full(),
            credential: None,
            grounds: Grounds::default(),
            link: None,
            priority: Priority::DEFAULT,
        };
        let found = async {
            let room = self.open_room(snapshot, &maker, link.space, Right::Share).await?;
            lookup::find_node(snapshot, &room, link.node).await
        };
        match found.await {
            Ok(found) => Ok(found.map_or(EntryKind::Dir, |found| found.dirent.value.kind())),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Denied) => {
                Err(Error::not_found("link"))
            }
            Err(error) => Err(error),
        }
    }

    /// Lets in whoever comes with a link: a caller who can do what the link allows, below the
    /// node that it is for ([`SpaceRef::Link`](crate::SpaceRef::Link)), and nothing else.
    ///
    /// Errors: `NotFound`; `Gone` once it has expired; `Unauthenticated` without the password that
    /// it wants; `RateLimited` after too many wrong ones from the same address.
    pub async fn open_link(
        &self,
        token: &str,
        password: Option<&str>,
        from: IpAddr,
    ) -> Result<Caller> {
        let snapshot = self.inner.meta.snapshot().await?;
        let (share, link, user) = self.find_link(&*snapshot, token).await?;
        let Stored { value: link, version } = link;
        if let Some(phc) = &link.password {
            let refused = || Error::new(ErrorKind::Unauthenticated, "the link wants its password");
            let password = password.ok_or_else(refused)?;
            let subject = format!("link {share}");
            let hash = Some((phc.as_str(), version));
            if !self.check_password(&subject, hash, password, from).await? {
                self.inner.metrics.logins_failed.add(1);
                return Err(Error::new(ErrorKind::Unauthenticated, "wrong password"));
            }
        }
        self.link_kind(&*snapshot, &link, &user).await?;
        let access = if link.role == Role::Viewer { Access::Read } else { Access::Write };
        let name = if link.name.is_empty() { share.to_string() } else { link.name };
        Ok(Caller {
            user: link.by,
            name: format!("link:{name}").into(),
            admin: false,
            record: user.version,
            scope: Scope { access, spaces: Some(Arc::from([link.space])) },
            credential: Some((schema::link_key(share), version)),
            grounds: Grounds::default(),
            link: Some(LinkRoot { share, space: link.space, node: link.node, role: link.role }),
            priority: Priority::DEFAULT,
        })
    }

    /// Counts a download by a link whose downloads are limited; callers who came otherwise are
    /// not counted.
    ///
    /// Errors: `Gone` when there have been as many as the link allows.
    pub async fn count_download(&self, caller: &Caller) -> Result<()> {
        let Some(root) = caller.link else { return Ok(()) };
        let result = async {
            transact!(self, None, |txn| {
                caller.hold(&mut txn);
                let link = txn.get::<Link>(&schema::link_key(root.share)).await?;
                let link = link.ok_or_else(|| Error::not_found("link"))?;
                let Some(limit) = link.value.downloads_max else { return Ok(()) };
                let limit = i64::try_from(limit).unwrap_or(i64::MAX);
                txn.spec.merge.push(Merge {
                    key: schema::link_downloads_key(root.share),
                    fields: [FieldOp::Add(1), FieldOp::Keep, FieldOp::Keep, FieldOp::Keep],
                    bounds: vec![Bound { fields: 1, limit }],
                });
            });
            Ok(())
        };
        result.await.map_err(|error: Error| match error.kind() {
            ErrorKind::QuotaExceeded => {
                Error::new(ErrorKind::Gone, "the link has been used as often as it may be")
            }
            _ => error,
        })
    }
}
