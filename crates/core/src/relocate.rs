//! Moves: one commit, whatever is moved and whatever is replaced.
//!
//! Promises (docs/semantics.md, Move): the destination name stands for the old or the new node at
//! every moment; a replaced entry is in the trash; id, revisions and etag stay; two moves that
//! together would close a cycle cannot both commit, because each writes the authority record of
//! a directory on the other's destination chain (docs/transactions.md section 4, hazards N04 to
//! N09).
//!
//! Not here: copies (`copy`).

use larder_base::{ErrorKind, name::TreePath};

use crate::{
    Larder,
    access::Right,
    caller::Caller,
    entry::{Entry, SpaceRef},
    error::{Error, Result},
    feed::{ChangeKind, Happened},
    idempotency::{self, KeptEntry},
    object::Versioning,
    quota::delta,
    room::Room,
    schema::{self, Dirent, DirentBody, Location, Place, STAT_DIRS, STAT_FILES, STAT_SIZE},
    trash,
    tree::{
        create::{exists, open_parent},
        lookup::{self, Chain, Found},
    },
    txn::{Txn, transact},
};

impl Larder {
    /// Moves or renames within a space. Answers the entry at its new place, and whether the name
    /// was free before.
    ///
    /// Errors: `NotFound` for the source; `Conflict` if the destination's directory is missing;
    /// `AlreadyExists` without `overwrite`; `Denied` onto itself, into itself, or over a directory
    /// that holds the source; `Invalid` if something would lie too deep.
    pub async fn move_entry(
        &self,
        caller: &Caller,
        space: &SpaceRef,
        from: &TreePath,
        to: &TreePath,
        overwrite: bool,
    ) -> Result<(Entry, bool)> {
        if let Some(before) = idempotency::entry_before()? {
            return Ok(before);
        }
        let moved = self.move_at(caller, space, from, to, overwrite).await;
        let Err(error) = moved else { return moved };
        error.into_redirect()?;
        let from = self.pass_reference(caller, space, from).await?;
        let to = self.pass_reference(caller, space, to).await?;
        if from.0 != to.0 {
            let detail = "a reference lies between the two places: copy and delete instead";
            return Err(Error::new(ErrorKind::CrossSpace, detail));
        }
        Box::pin(self.move_at(caller, &from.0, &from.1, &to.1, overwrite)).await
    }

    async fn move_at(
        &self,
        caller: &Caller,
        space: &SpaceRef,
        from: &TreePath,
        to: &TreePath,
        overwrite: bool,
    ) -> Result<(Entry, bool)> {
        let at = self.locate(caller, space).await?;
        let id = at.space;
        let ((entry, created), _) = transact!(self, id, |txn| {
            let space = self.enter_room(&mut txn, caller, at.clone(), Right::Write).await?;
            let source = lookup::resolve(&*txn.snapshot, &space, from).await?;
            let place = Destination::resolve(&txn, &space, to).await?;
            place.check(&source, overwrite)?;
            let created = place.existing.is_none();
            if let Some(existing) = &place.existing {
                self.trash_entry(&mut txn, caller, &space, existing).await?;
            }
            let dirent = relocate(&mut txn, &source, &place).await?;
            // Its own statistics are not written by the move: they and their version stay.
            let shown = place.chain.join(&place.name);
            let entry = lookup::entry(&*txn.snapshot, id, shown, &dirent).await?;
            txn.outcome(&KeptEntry::of(&entry, created));
            (entry, created)
        });
        Ok((entry, created))
    }
}

/// Where something is to be put.
pub(crate) struct Destination {
    pub(crate) chain: Chain,
    pub(crate) name: larder_base::name::EntryName,
    /// What stands there.
    pub(crate) existing: Option<Found>,
}

impl Destination {
    /// The place at `to`, whose directory must exist.
    pub(crate) async fn resolve(txn: &Txn, room: &Room, to: &TreePath) -> Result<Self> {
        if room.versioning() != Versioning::Off {
            let detail = "in a bucket that keeps versions objects are copied and moved over S3";
            return Err(Error::new(ErrorKind::NotImplemented, detail));
        }
        let names = room.names(to)?;
        let (name, above) = names
            .split_last()
            .ok_or_else(|| Error::new(ErrorKind::Denied, "a root cannot be replaced"))?;
        let place = open_parent(&*txn.snapshot, room, above, false).await;
        let chain = place.map_err(|error| error.below(name))?.chain;
        chain.require()?;
        let dirent = lookup::child(&*txn.snapshot, &chain, name).await?;
        let existing = dirent.map(|dirent| lookup::found_in(&chain, name.clone(), dirent));
        Ok(Self { chain, name: name.clone(), existing })
    }

    /// Whether `source` may be moved here.
    fn check(&self, source: &Found, overwrite: bool) -> Result<()> {
        let denied = |detail: &'static str| Err(Error::new(ErrorKind::Denied, detail));
        let node = source.dirent.value.node;
        if self.chain.contains(node) {
            return denied("a directory cannot be moved into itself");
        }
        match &self.existing {
            Some(existing) if existing.dirent.value.node == node => {
                return denied("source and destination are the same");
            }
            Some(existing) if source.parent.contains(existing.dirent.value.node) => {
                return denied("the destination holds the source");
            }
            Some(existing) if !overwrite => return Err(exists(existing.dirent.value.node)),
            _ => {}
        }
        Ok(())
    }

    /// Demands at the commit that the place is as it was found, and writes the entry there. What
    /// stood there must have been put into the trash in the same transaction.
    pub(crate) async fn put(&self, txn: &mut Txn, dirent: &Dirent) -> Result<()> {
        self.chain.hold(txn).await?;
        let key = schema::dirent_key(self.chain.space, self.chain.dir(), &self.name);
        match &self.existing {
            Some(existing) => txn.hold(key.clone(), existing.dirent.version),
            None => txn.hold_absent(key.clone()),
        }
        txn.put(key, dirent);
        Ok(())
    }
}

/// Takes the source off its place and puts it to the destination.
async fn relocate(txn: &mut Txn, source: &Found, place: &Destination) -> Result<Dirent> {
    let id = source.parent.space;
    let dirent = source.dirent.value.clone();
    source.hold_above(txn)?;
    source.parent.hold(txn).await?;
    let old_key = schema::dirent_key(id, source.parent.dir(), &source.name);
    txn.hold(old_key.clone(), source.dirent.version);
    txn.delete(old_key);
    let parent = place.chain.dir();
    let (size, files, dirs) = match &dirent.body {
        DirentBody::File(state) => {
            let place = Place::File(parent, place.name.clone());
            txn.put(schema::location_key(dirent.node), &Location { space: id, place });
            (delta(state.size), 1, 0)
        }
        DirentBody::Ref(_) => {
            let place = Place::File(parent, place.name.clone());
            txn.put(schema::location_key(dirent.node), &Location { space: id, place });
            (0, 0, 0)
        }
        DirentBody::Dir => {
            let stat = trash::attach(txn, &place.chain, &[], dirent.node, &place.name).await?;
            (stat[STAT_SIZE], stat[STAT_FILES], stat[STAT_DIRS] + 1)
        }
    };
    place.put(txn, &dirent).await?;
    source.parent.add(txn, -size, -files, -dirs);
    place.chain.add(txn, size, files, dirs);
    let path = place.chain.join_from_root(&place.name);
    let from = Some(source.parent.join_from_root(&source.name).to_string());
    txn.change(id, Happened { from, ..Happened::to(&dirent, ChangeKind::Moved, &path) });
    Ok(dirent)
}
