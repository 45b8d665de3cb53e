//! Makes and removes the directories of a run of `larder bench`.
//!
//! Promises: touches nothing but the run's own directories and what lay in it when it went to the
//! trash; works also after the run was interrupted or failed.
//!
//! Not here: the order of a run (`session`).

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, anyhow, bail};

use super::{
    client::{Conn, Fault, Reply, Sink},
    session::Session,
    target::{Method, Target},
    workload::{FileSet, Job, Task},
};

/// Requests in flight while removing.
const CONCURRENCY: usize = 32;
/// Pages of trash looked through; a space with more of it is left to its retention.
const TRASH_PAGES: usize = 10_000;

/// Sends one request after the other on one connection, outside of any measurement.
struct Errand {
    runtime: tokio::runtime::Runtime,
    conn: Option<Conn>,
    target: Arc<Target>,
    limit: Duration,
}

impl Errand {
    fn new(target: &Arc<Target>, limit: Duration) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, conn: None, target: Arc::clone(target), limit })
    }

    fn send(&mut self, head: &[u8]) -> anyhow::Result<(Reply, Vec<u8>)> {
        let mut body = Vec::new();
        let conn = self.conn.take();
        let sent = self.runtime.block_on(async {
            let exchange = async {
                let mut conn = match conn {
                    Some(conn) => conn,
                    None => Conn::open(&self.target.addr, true, false).await?,
                };
                let mut sink = Sink::Collect(&mut body);
                let reply = conn.exchange(head, None, &mut sink, false).await?;
                Ok::<_, Fault>((conn, reply))
            };
            tokio::time::timeout(self.limit, exchange).await
        });
        let sent = sent.map_err(|_| anyhow!("no answer within {:?}", self.limit))?;
        let (conn, reply) = match sent {
            Ok(done) => done,
            Err(Fault::Connect(error)) => {
                return Err(error).context(format!("cannot connect to {}", self.target.addr));
            }
            Err(fault) => bail!("{fault:?}"),
        };
        self.conn = conn.usable().then_some(conn);
        Ok((reply, body))
    }
}

/// Asks for a file that cannot be there, to find out early that a server is not there either,
/// or that it does not let us in. Makes the bucket of an S3 target that has none.
///
/// # Errors
/// The server cannot be reached, answers 401 or 403, or gives no bucket.
pub(super) fn reach(session: &Session, target: usize) -> anyhow::Result<()> {
    let Some(side) = session.sides.get(target) else { return Ok(()) };
    let label = &side.target.label;
    let mut head = Vec::new();
    match side.target.bucket() {
        // Unlike an object, a listing tells whether the bucket is there.
        Some(bucket) => bucket.write_list(&side.root, None, &mut head),
        None => side.target.write_head(Method::Get, &[&side.root, "/none"], None, &mut head),
    }
    let mut errand = Errand::new(&side.target, session.args.request_timeout)?;
    let (mut reply, _) = errand.send(&head).context(label.clone())?;
    if let Some(bucket) = side.target.bucket()
        && reply.status == 404
    {
        bucket.write_create_bucket(&mut head);
        reply = errand.send(&head).context(label.clone())?.0;
    }
    let why = String::from_utf8_lossy(&reply.error);
    match reply.status {
        401 | 403 => bail!("{label}: access denied: {} {}", reply.status, why.trim()),
        200 => Ok(()),
        status if side.target.bucket().is_some() => {
            bail!("{label}: cannot use the bucket: {status} {}", why.trim())
        }
        _ => Ok(()),
    }
}

/// Makes the subdirectories of `set` on servers where files need them.
///
/// # Errors
/// The server cannot be reached or refuses one.
pub(super) fn make_dirs(session: &Session, target: usize, set: &FileSet) -> anyhow::Result<()> {
    let Some(side) = session.sides.get(target) else { return Ok(()) };
    let mut errand = Errand::new(&side.target, session.patience())?;
    let mut head = Vec::new();
    for n in 0..set.dirs {
        let dir = set.subdir(n);
        if !side.target.write_mkdir(&dir, &mut head) {
            break;
        }
        let (reply, _) = errand.send(&head)?;
        match reply.status {
            200 | 201 | 204 | 409 => {}
            // A bucket is flat and has no directories to make.
            400 | 404 | 405 | 422 | 501 if n == 0 => break,
            status => bail!(
                "{}: cannot make {dir}: {status} {}",
                side.target.label,
                String::from_utf8_lossy(&reply.error)
            ),
        }
    }
    Ok(())
}

/// Removes everything the run put on a target. Says what it could not do, and is not an error:
/// the figures stand.
pub(super) fn remove(session: &Session, target: usize) {
    let Some(side) = session.sides.get(target) else { return };
    if side.sets.is_empty() {
        return;
    }
    match remove_tree(session, target) {
        Ok(()) => purge_trash(session, target),
        Err(error) => {
            session.say(&format!("{}: {} was left behind: {error:#}", side.target.label, side.root))
        }
    }
}

fn remove_tree(session: &Session, target: usize) -> anyhow::Result<()> {
    let Some(side) = session.sides.get(target) else { return Ok(()) };
    let mut head = Vec::new();
    if side.target.write_remove_tree(&side.root, &mut head) {
        let (reply, _) = Errand::new(&side.target, session.patience())?.send(&head)?;
        if (200..300).contains(&reply.status) {
            return Ok(());
        }
    }
    // A flat bucket, or a server that removes files only: one by one then.
    let stop = Arc::new(AtomicBool::new(false));
    for set in side.sets.values() {
        let mut crew = session.crew(target, CONCURRENCY, 0)?;
        let outcome = crew.run(&Arc::new(Job::new(Task::Sweep, set, set, &stop)), &|_| {})?;
        if outcome.tally.failed() > 0 {
            bail!("{}", outcome.tally.samples.join("; "));
        }
    }
    Ok(())
}

/// Purges what the run moved to the trash so far, where the target has a trash. Says what it
/// could not do.
pub(super) fn purge_trash(session: &Session, target: usize) {
    let Some(side) = session.sides.get(target) else { return };
    if let Err(error) = purge(session, target) {
        let label = &side.target.label;
        session.say(&format!("{label}: {} was left in the trash: {error:#}", side.root));
    }
}

fn purge(session: &Session, target: usize) -> anyhow::Result<()> {
    let Some(side) = session.sides.get(target) else { return Ok(()) };
    let mut errand = Errand::new(&side.target, session.patience())?;
    let mut head = Vec::new();
    let mut cursor: Option<String> = None;
    let stop = Arc::new(AtomicBool::new(false));
    for _ in 0..TRASH_PAGES {
        if !side.target.write_trash(cursor.as_deref(), &mut head) {
            return Ok(());
        }
        let (reply, body) = errand.send(&head)?;
        if reply.status != 200 {
            // A space without a trash.
            return Ok(());
        }
        let page = side.target.parse_trash(&body, &side.root)?;
        if !page.items.is_empty() {
            let none = Arc::new(FileSet::new(String::new(), 1, 0, 0));
            let job = Job::new(Task::Purge, &none, &none, &stop).naming(page.items);
            let outcome = session.crew(target, CONCURRENCY, 0)?.run(&Arc::new(job), &|_| {})?;
            if outcome.tally.failed() > 0 {
                bail!("{}", outcome.tally.samples.join("; "));
            }
        }
        cursor = page.cursor;
        if cursor.is_none() {
            return Ok(());
        }
    }
    bail!("the trash holds more than {TRASH_PAGES} pages")
}

/// Most memory each watched server ever used, by its label.
pub(super) fn peaks(session: &Session) -> BTreeMap<String, u64> {
    let peak = |side: &super::session::Side| {
        let usage = side.watch?.sample()?;
        Some((side.target.label.clone(), usage.peak))
    };
    session.sides.iter().filter_map(peak).collect()
}

/// Marks the run as ended by the user.
pub(super) fn request_stop(stop: &AtomicBool) {
    stop.store(true, Ordering::Relaxed);
}
