//! What each operation does to the model, and what it answers.
//!
//! [`Model::apply`] is an operation as if nothing else ran. Some operations look at two moments
//! (the upload of a large body binds its directory when it begins; a copy takes its picture of
//! the source when it begins): [`Model::step`] gives the steps one by one, so that a history of
//! concurrent calls can be explained by an order of all steps.
//!
//! Not here: the state ([`super::model`]).

use larder_base::{ErrorKind, limits::INLINE_BYTES_MAX};

use super::{
    model::{Answer, Content, Image, Item, Model},
    op::{At, Body, ItemNo, NodeNo, Op, Outcome, Refusal, When},
};

type Refused<T> = Result<T, Refusal<NodeNo>>;

/// How far a call is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// Nothing has happened.
    Begun,
    /// A large body comes; the directory that its path named, if there was one.
    Receiving(Option<NodeNo>),
    /// The source was a file.
    CopyingFile,
    /// The source was a directory: it, those above it, and its picture.
    CopyingDir(Vec<NodeNo>, Image),
}

/// What a step gave.
#[derive(Clone, Debug)]
pub enum Step {
    /// The call goes on.
    On(Progress),
    /// The call has ended.
    End(Answer),
}

/// A place that may have to be made.
struct Place {
    dir: NodeNo,
    missing: Vec<String>,
}

fn exists(node: NodeNo) -> Refusal<NodeNo> {
    Refusal { kind: ErrorKind::AlreadyExists, existing: Some(node) }
}

fn refuse<T>(kind: ErrorKind) -> Refused<T> {
    Err(kind.into())
}

impl Model {
    /// The whole operation at one moment.
    pub fn apply(&mut self, op: &Op) -> Answer {
        let mut progress = Progress::Begun;
        loop {
            match self.step(op, progress) {
                Step::On(next) => progress = next,
                Step::End(answer) => return answer,
            }
        }
    }

    /// The next step of an operation.
    pub fn step(&mut self, op: &Op, progress: Progress) -> Step {
        match (op, progress) {
            (Op::Upload { at, body, declared, .. }, Progress::Begun)
                if !declared || body.length as usize > INLINE_BYTES_MAX =>
            {
                if at.path.is_empty() {
                    return Step::End(refuse(ErrorKind::WrongType));
                }
                match self.open_upload(op) {
                    Ok(dir) => Step::On(Progress::Receiving(dir)),
                    Err(refusal) => Step::End(Err(refusal)),
                }
            }
            (Op::Upload { .. }, Progress::Receiving(dir)) => Step::End(self.upload(op, dir)),
            (Op::Copy { from, .. }, Progress::Begun) => match self.resolve(from) {
                Err(refusal) => Step::End(Err(refusal)),
                Ok(no) if self.is_dir(no) => {
                    Step::On(Progress::CopyingDir(self.chain(no), self.image(no)))
                }
                Ok(_) => Step::On(Progress::CopyingFile),
            },
            (Op::Copy { from, to, overwrite }, Progress::CopyingFile) => {
                Step::End(self.copy_file(from, to, *overwrite))
            }
            (Op::Copy { from, to, overwrite }, Progress::CopyingDir(chain, image)) => {
                let chain = if from.space == to.space { chain } else { Vec::new() };
                Step::End(self.put_copy(&chain, &image, to, *overwrite))
            }
            _ => Step::End(self.at_once(op)),
        }
    }

    /// An operation that has one step.
    fn at_once(&mut self, op: &Op) -> Answer {
        match op {
            Op::CreateDir { at, parents } => self.create_dir(at, *parents),
            Op::Upload { at, .. } if at.path.is_empty() => refuse(ErrorKind::WrongType),
            Op::Upload { .. } => self.upload(op, None),
            Op::Move { space, from, to, overwrite } => {
                let at = |path: &Vec<String>| At { space: *space, path: path.clone() };
                self.move_entry(&at(from), &at(to), *overwrite)
            }
            Op::Copy { .. } => refuse(ErrorKind::Internal),
            Op::Delete { at, when } => self.delete(at, *when),
            Op::Restore { .. } => self.restore(op),
            Op::Purge { space, item } => {
                let item = self.spaces[*space].trash.remove(item);
                self.destroy(item.ok_or(ErrorKind::NotFound)?.node);
                self.unsettled = true;
                Ok(Outcome::Done)
            }
            Op::EmptyTrash { space } => {
                for item in std::mem::take(&mut self.spaces[*space].trash).into_values() {
                    self.destroy(item.node);
                }
                self.unsettled = true;
                Ok(Outcome::Done)
            }
            Op::RestoreRevision { at, revision } => self.restore_revision(at, *revision),
            Op::DeleteRevision { at, revision } => self.delete_revision(at, *revision),
            Op::SetLimit { space, live } => {
                self.spaces[*space].limit = *live;
                Ok(Outcome::Done)
            }
            Op::SetVersionsKeep { space, keep } => {
                self.spaces[*space].keep = *keep;
                Ok(Outcome::Done)
            }
            Op::Collect => {
                self.unsettled = false;
                Ok(Outcome::Done)
            }
            Op::Stat { .. }
            | Op::StatNode { .. }
            | Op::List { .. }
            | Op::Get { .. }
            | Op::Revisions { .. } => self.read(op),
        }
    }

    fn read(&self, op: &Op) -> Answer {
        match op {
            Op::Stat { at } if at.path.is_empty() => {
                Ok(Outcome::Entry(self.seen(self.spaces[at.space].root), false))
            }
            Op::Stat { at } => Ok(Outcome::Entry(self.seen(self.resolve(at)?), false)),
            Op::StatNode { node } if self.attached(*node) => {
                Ok(Outcome::Entry(self.seen(*node), false))
            }
            Op::List { at, recursive } => {
                Ok(Outcome::Entries(self.list(self.dir(at)?, *recursive)))
            }
            Op::Get { at, .. } if at.path.is_empty() => refuse(ErrorKind::WrongType),
            Op::Get { at, revision } => {
                let no = self.resolve(at)?;
                let Content::File(revisions) = &self.node(no).content else {
                    return refuse(ErrorKind::WrongType);
                };
                let number = revision.or(self.current(no).map(|(number, _)| number));
                let number = number.unwrap_or_default();
                let (body, _) = revisions.get(&number).ok_or(ErrorKind::NotFound)?;
                let mut seen = self.seen(no);
                (seen.revision, seen.body) = (number, Some(*body));
                seen.size = Some(u64::from(body.length));
                Ok(Outcome::Entry(seen, false))
            }
            Op::Revisions { at } => Ok(Outcome::Revisions(self.seen_revisions(self.file(at)?))),
            _ => refuse(ErrorKind::NotFound),
        }
    }

    /// The directory at a path.
    fn dir(&self, at: &At) -> Refused<NodeNo> {
        let mut dir = self.spaces[at.space].root;
        for name in &at.path {
            dir = self.child(dir, name).ok_or(ErrorKind::NotFound)?;
            if !self.is_dir(dir) {
                return refuse(ErrorKind::WrongType);
            }
        }
        Ok(dir)
    }

    /// The entry at a path, which is not the root.
    fn resolve(&self, at: &At) -> Refused<NodeNo> {
        let (name, above) = at.path.split_last().ok_or(ErrorKind::Invalid)?;
        let dir = self.dir(&At { space: at.space, path: above.to_vec() })?;
        Ok(self.child(dir, name).ok_or(ErrorKind::NotFound)?)
    }

    /// The file at a path.
    fn file(&self, at: &At) -> Refused<NodeNo> {
        let no = self.resolve(at)?;
        if self.is_dir(no) { refuse(ErrorKind::WrongType) } else { Ok(no) }
    }

    /// The directory that something shall be put into.
    fn place(&self, space: usize, names: &[String], parents: bool) -> Refused<Place> {
        let mut dir = self.spaces[space].root;
        for (i, name) in names.iter().enumerate() {
            match self.child(dir, name) {
                Some(no) if self.is_dir(no) => dir = no,
                Some(_) => return refuse(ErrorKind::WrongType),
                None if parents => return Ok(Place { dir, missing: names[i..].to_vec() }),
                None => return refuse(ErrorKind::Conflict),
            }
        }
        Ok(Place { dir, missing: Vec::new() })
    }

    fn make(&mut self, place: Place) -> NodeNo {
        let space = self.node(place.dir).space;
        place.missing.into_iter().fold(place.dir, |dir, name| {
            self.add(space, Some((dir, name)), Content::Dir(Default::default()))
        })
    }

    /// Whether the space takes so much more.
    fn room(&self, space: usize, more: u64) -> Refused<()> {
        let Some(limit) = self.spaces[space].limit else { return Ok(()) };
        let live = self.size(self.spaces[space].root);
        if more > 0 && live.saturating_add(more).saturating_add(self.grace) > limit {
            return refuse(ErrorKind::QuotaExceeded);
        }
        Ok(())
    }

    fn create_dir(&mut self, at: &At, parents: bool) -> Answer {
        let root = self.spaces[at.space].root;
        let found = match at.path.split_last() {
            None => Some(root),
            Some((name, above)) => {
                let place = self.place(at.space, above, parents)?;
                let child = self.child(place.dir, name).filter(|_| place.missing.is_empty());
                if child.is_none() {
                    let dir = self.make(place);
                    let content = Content::Dir(Default::default());
                    let made = self.add(at.space, Some((dir, name.clone())), content);
                    return Ok(Outcome::Entry(self.seen(made), true));
                }
                child
            }
        };
        match found {
            Some(no) if parents && self.is_dir(no) => Ok(Outcome::Entry(self.seen(no), false)),
            Some(no) => Err(exists(no)),
            None => refuse(ErrorKind::Internal),
        }
    }

    /// The file under a name of a place, judged by the condition and by what fits.
    fn replaced(&self, op: &Op, place: &Place, name: &str) -> Refused<Option<NodeNo>> {
        let Op::Upload { at, body, when, .. } = op else { return Ok(None) };
        let found = self.child(place.dir, name).filter(|_| place.missing.is_empty());
        if let Some(no) = found.filter(|no| self.is_dir(*no)) {
            return Err(Refusal { kind: ErrorKind::WrongType, existing: Some(no) });
        }
        self.judge(*when, found)?;
        let before = found.map_or(0, |no| self.size(no));
        self.room(at.space, u64::from(body.length).saturating_sub(before))?;
        Ok(found)
    }

    fn judge(&self, when: When, found: Option<NodeNo>) -> Refused<()> {
        let tag = found.and_then(|no| self.current(no).map(|(number, _)| (no, number)));
        let holds = match when {
            When::Always => true,
            When::New => found.is_none(),
            When::Exists => found.is_some(),
            When::Is(wanted) => tag.is_some() && tag == wanted,
            When::IsNot(wanted) => tag.is_none() || tag != wanted,
        };
        if holds { Ok(()) } else { refuse(ErrorKind::Precondition) }
    }

    fn open_upload(&self, op: &Op) -> Refused<Option<NodeNo>> {
        let Op::Upload { at, parents, .. } = op else { return Ok(None) };
        let (name, above) = at.path.split_last().ok_or(ErrorKind::WrongType)?;
        let place = self.place(at.space, above, *parents)?;
        self.replaced(op, &place, name)?;
        Ok(place.missing.is_empty().then_some(place.dir))
    }

    fn upload(&mut self, op: &Op, dir: Option<NodeNo>) -> Answer {
        let Op::Upload { at, body, parents, .. } = op else {
            return refuse(ErrorKind::Internal);
        };
        let (name, above) = at.path.split_last().ok_or(ErrorKind::WrongType)?;
        let place = match dir {
            Some(dir) if self.attached(dir) => Place { dir, missing: Vec::new() },
            Some(_) => return refuse(ErrorKind::Conflict),
            None => self.place(at.space, above, *parents)?,
        };
        match self.replaced(op, &place, name)? {
            Some(no) => {
                self.revise(no, *body, "upload".to_owned());
                Ok(Outcome::Entry(self.seen(no), false))
            }
            None => {
                let dir = self.make(place);
                let no = self.add_file(dir, name, *body, "upload");
                Ok(Outcome::Entry(self.seen(no), true))
            }
        }
    }

    fn add_file(&mut self, dir: NodeNo, name: &str, body: Body, origin: &str) -> NodeNo {
        let first = [(1, (body, origin.to_owned()))].into();
        let space = self.node(dir).space;
        self.add(space, Some((dir, name.to_owned())), Content::File(first))
    }

    /// Adds a revision, and keeps as many older ones as the space says.
    fn revise(&mut self, no: NodeNo, body: Body, origin: String) {
        let keep = self.spaces[self.node(no).space].keep;
        if let Content::File(revisions) = &mut self.node_mut(no).content {
            let next = revisions.last_key_value().map_or(1, |(number, _)| number + 1);
            revisions.insert(next, (body, origin));
            while keep.is_some_and(|keep| revisions.len() > keep as usize + 1) {
                revisions.pop_first();
            }
        }
    }

    fn trash(&mut self, no: NodeNo) -> ItemNo {
        let path = self.path(no);
        let parent = self.node(no).place.as_ref().map_or(0, |(parent, _)| *parent);
        self.unlink(no);
        let item = self.number();
        let space = self.node(no).space;
        self.spaces[space].trash.insert(item, Item { node: no, parent, path });
        item
    }

    fn delete(&mut self, at: &At, when: When) -> Answer {
        let no = self.resolve(at)?;
        self.judge(when, Some(no))?;
        let item = self.trash(no);
        let trashed = &self.spaces[at.space].trash[&item];
        Ok(Outcome::Trashed(self.seen_item(item, trashed)))
    }

    /// Where something shall go that stands elsewhere: the directory, and what is there.
    fn destination(&self, to: &At) -> Refused<(NodeNo, String, Option<NodeNo>)> {
        let (name, above) = to.path.split_last().ok_or(ErrorKind::Denied)?;
        let dir = self.place(to.space, above, false)?.dir;
        Ok((dir, name.clone(), self.child(dir, name)))
    }

    fn move_entry(&mut self, from: &At, to: &At, overwrite: bool) -> Answer {
        let no = self.resolve(from)?;
        let (dir, name, existing) = self.destination(to)?;
        // Into itself, onto itself, or over what holds it.
        let holds = existing.is_some_and(|existing| self.chain(no).contains(&existing));
        if self.chain(dir).contains(&no) || holds {
            return refuse(ErrorKind::Denied);
        }
        if let Some(existing) = existing {
            if !overwrite {
                return Err(exists(existing));
            }
            self.trash(existing);
        }
        self.unlink(no);
        self.link(no, dir, &name);
        Ok(self.put(no, existing.is_none()))
    }

    /// The answer to a move or a copy.
    fn put(&self, no: NodeNo, made: bool) -> Outcome<NodeNo, ItemNo> {
        let mut seen = self.seen(no);
        if seen.dir && !self.alone {
            seen.size = None;
        }
        Outcome::Entry(seen, made)
    }

    fn copy_file(&mut self, from: &At, to: &At, overwrite: bool) -> Answer {
        let no = self.resolve(from)?;
        if self.is_dir(no) {
            return refuse(ErrorKind::Busy);
        }
        self.put_copy(&self.chain(no), &self.image(no), to, overwrite)
    }

    fn put_copy(&mut self, chain: &[NodeNo], image: &Image, to: &At, overwrite: bool) -> Answer {
        let (dir, name, existing) = self.destination(to)?;
        if existing.is_some_and(|existing| chain.contains(&existing)) {
            return refuse(ErrorKind::Denied);
        }
        if let Some(existing) = existing.filter(|_| !overwrite) {
            return Err(exists(existing));
        }
        let freed = existing.map_or(0, |existing| self.size(existing));
        self.room(to.space, image.size().saturating_sub(freed))?;
        if let Some(existing) = existing {
            self.trash(existing);
        }
        let no = self.build(dir, &name, image);
        Ok(self.put(no, existing.is_none()))
    }

    fn build(&mut self, dir: NodeNo, name: &str, image: &Image) -> NodeNo {
        match image {
            Image::File(body) => self.add_file(dir, name, *body, "copy"),
            Image::Dir(children) => {
                let place = Some((dir, name.to_owned()));
                let content = Content::Dir(Default::default());
                let no = self.add(self.node(dir).space, place, content);
                for (name, image) in children {
                    self.build(no, name, image);
                }
                no
            }
        }
    }

    fn restore(&mut self, op: &Op) -> Answer {
        let Op::Restore { space, item, to, rename, recreate } = op else {
            return refuse(ErrorKind::Internal);
        };
        let trashed = self.spaces[*space].trash.get(item).cloned().ok_or(ErrorKind::NotFound)?;
        self.room(*space, self.size(trashed.node))?;
        let path = to.as_ref().unwrap_or(&trashed.path);
        let (name, above) = path.split_last().ok_or(ErrorKind::Invalid)?;
        let place = if to.is_none() && self.attached(trashed.parent) {
            Place { dir: trashed.parent, missing: Vec::new() }
        } else if to.is_none() && !recreate {
            return refuse(ErrorKind::Conflict);
        } else {
            self.place(*space, above, *recreate)?
        };
        let mut free = name.clone();
        let mut number = 2;
        while let Some(taken) = self.child(place.dir, &free).filter(|_| place.missing.is_empty()) {
            if !rename {
                return Err(exists(taken));
            }
            free = match name.split_once('.') {
                Some((stem, extension)) => format!("{stem} ({number}).{extension}"),
                None => format!("{name} ({number})"),
            };
            number += 1;
        }
        let dir = self.make(place);
        self.spaces[*space].trash.remove(item);
        self.link(trashed.node, dir, &free);
        Ok(Outcome::Entry(self.seen(trashed.node), true))
    }

    fn restore_revision(&mut self, at: &At, revision: u64) -> Answer {
        let no = self.file(at)?;
        let revisions = self.seen_revisions(no);
        let old = revisions.iter().find(|(number, ..)| *number == revision);
        let body = old.ok_or(ErrorKind::NotFound)?.1;
        self.room(at.space, u64::from(body.length).saturating_sub(self.size(no)))?;
        self.revise(no, body, format!("restore:{revision}"));
        Ok(Outcome::Entry(self.seen(no), false))
    }

    fn delete_revision(&mut self, at: &At, revision: u64) -> Answer {
        let no = self.file(at)?;
        if self.current(no).is_some_and(|(number, _)| number == revision) {
            return refuse(ErrorKind::Conflict);
        }
        let Content::File(revisions) = &mut self.node_mut(no).content else {
            return refuse(ErrorKind::WrongType);
        };
        revisions.remove(&revision).ok_or(ErrorKind::NotFound)?;
        Ok(Outcome::Done)
    }
}

impl Image {
    fn size(&self) -> u64 {
        match self {
            Self::File(body) => u64::from(body.length),
            Self::Dir(children) => children.values().map(Self::size).sum(),
        }
    }
}
