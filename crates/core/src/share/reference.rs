//! References: leaves of a tree that stand for a node elsewhere, so that what is shared with a
//! user has a place among the user's own files.
//!
//! Promises (docs/semantics.md, CreateReference): a reference holds ids, never a path; the rights
//! at its target are looked at each time it is passed; deleting it never touches the target; a
//! path passes through at most one, so that there are no loops.
//!
//! Not here: passing through one (`tree::lookup`).

use larder_base::{
    ErrorKind,
    id::{NodeId, SpaceId},
    name::TreePath,
};

use crate::{
    Larder,
    access::Right,
    caller::Caller,
    entry::{Entry, EntryKind, SpaceRef, Target},
    error::{Error, Result},
    feed::{ChangeKind, Happened},
    schema::{self, Dirent, DirentBody, Location, Place, RefState},
    tree::{
        create::{exists, open_parent},
        lookup,
    },
    txn::transact,
};

impl Larder {
    /// Makes a reference to `target` at a path. The caller must be able to read the target.
    ///
    /// Errors: `AlreadyExists` naming the node that has the name; `Conflict` for a missing parent;
    /// `NotFound` for the target; `WrongType` if the target is itself a reference.
    pub async fn create_reference(
        &self,
        caller: &Caller,
        space: &SpaceRef,
        path: &TreePath,
        target: &Target,
    ) -> Result<Entry> {
        let at = self.locate(caller, space).await?;
        let to = self.space_of(caller, target).await?;
        let (name, above) =
            path.split_last().ok_or_else(|| Error::invalid("a root cannot be a reference"))?;
        let id = at.space;
        let ((node, shown), _) = transact!(self, id, |txn| {
            let room = self.enter_room(&mut txn, caller, at.clone(), Right::Create).await?;
            let place = open_parent(&*txn.snapshot, &room, above, false).await?;
            let (space, node) = self.hold_target(&mut txn, caller, to.clone(), target).await?;
            place.chain.hold(&mut txn).await?;
            if let Some(other) = lookup::child(&*txn.snapshot, &place.chain, name).await? {
                return Err(exists(other.value.node));
            }
            let parent = place.chain.dir();
            let own = NodeId::new(&self.inner.env);
            let key = schema::dirent_key(id, parent, name);
            let body = DirentBody::Ref(RefState { space, node, created: txn.now });
            txn.hold_absent(key.clone());
            let dirent = Dirent { node: own, body };
            txn.put(key, &dirent);
            let path = place.chain.join_from_root(name);
            txn.change(id, Happened::to(&dirent, ChangeKind::Created, &path));
            let location = Location { space: id, place: Place::File(parent, name.clone()) };
            txn.put(schema::location_key(own), &location);
            place.chain.add(&mut txn, 0, 0, 0);
            (own, place.chain.join(name))
        });
        let entry = self.stat(caller, &Target::Node(node)).await.map_err(Error::of_unknown_outcome);
        Ok(Entry { path: shown, ..entry? })
    }

    /// The node that a reference is to stand for: readable, and there until the commit.
    async fn hold_target(
        &self,
        txn: &mut crate::txn::Txn,
        caller: &Caller,
        to: crate::room::Located,
        target: &Target,
    ) -> Result<(SpaceId, NodeId)> {
        let room = self.enter_room(txn, caller, to, Right::Read).await;
        let room = room.map_err(|error| lookup::hide_space(target, error))?;
        let Some(found) = self.find(&*txn.snapshot, &room, target).await? else {
            let chain = lookup::root_chain(&*txn.snapshot, &room).await?;
            chain.hold(txn).await?;
            return Ok((room.id, chain.dir()));
        };
        if found.dirent.value.kind() == EntryKind::Ref {
            let detail = "a reference to a reference is not followed: name what it stands for";
            return Err(Error::new(ErrorKind::WrongType, detail));
        }
        found.parent.hold(txn).await?;
        super::hold_place(txn, room.id, found.dirent.value.node).await?;
        Ok((room.id, found.dirent.value.node))
    }
}
