//! Power cuts: what is acknowledged is on the disk, not in memory.
//!
//! The data are on an ext4 in a file on an XFS with reflinks. Cloning that file takes a few
//! milliseconds and gives the disk as it is at that moment, without what the kernel still keeps
//! in memory: that is a power cut. The server goes on meanwhile, so that one run has many.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use larder_e2e::{
    client::{Client, Outcome, text},
    oracle,
    server::{Options, Server},
    stamp::{Stamp, identify},
    tool::{self, Dice, knob, run, skip},
    tus::{Upload, offset_of},
};
use serde_json::json;

use crate::{diskfull::Disk, s3clients};

const WRITERS: u32 = 6;
const PATHS: u64 = 40;

/// What a path held after one operation: somebody's bytes, or nothing.
type State = Option<(Stamp, usize)>;

/// One operation on a path, when it was asked for and when it was acknowledged.
struct Change {
    state: State,
    asked: Instant,
    acked: Option<Instant>,
}

/// A mark of an upload session: so many bytes, when they were sent and when acknowledged.
struct Mark {
    offset: u64,
    asked: Instant,
    acked: Instant,
}

/// An upload session, which becomes a file unless it is left open.
struct Life {
    url: String,
    path: String,
    stamp: Stamp,
    len: usize,
    /// The first is its creation.
    marks: Vec<Mark>,
    /// When it was asked to be given up.
    aborted: Option<Instant>,
}

/// Whether the writer's own file was shared with the friend from then on.
struct Grant {
    shared: bool,
    asked: Instant,
    acked: Instant,
}

/// All that one writer did.
#[derive(Default)]
struct History {
    /// By path number.
    files: Vec<Vec<Change>>,
    sessions: Vec<Life>,
    grants: Vec<Grant>,
}

fn write(client: &Client, writer: u32, done: &AtomicBool) -> History {
    let mut history =
        History { files: (0..PATHS).map(|_| Vec::new()).collect(), ..History::default() };
    let mut dice = Dice::new(u64::from(writer) + 1);
    let mut share = None;
    for seq in 0.. {
        if done.load(Ordering::SeqCst) {
            break;
        }
        match dice.below(10) {
            0 => history.sessions.push(upload(client, Stamp::new(writer, seq), &mut dice)),
            1 => history.grants.push(grant_or_revoke(client, writer, &mut share)),
            _ => write_file(client, Stamp::new(writer, seq), &mut dice, &mut history.files),
        }
        if seq % 64 == 63 {
            // The trash would fill the small disk.
            client.empty_trash().expect(204);
        }
    }
    history
}

fn write_file(client: &Client, stamp: Stamp, dice: &mut Dice, files: &mut [Vec<Change>]) {
    let number = dice.below(PATHS);
    let changes = &mut files[number as usize];
    let path = format!("w{}/f{number}", stamp.writer);
    let exists = changes.last().is_some_and(|change| change.state.is_some());
    let asked = Instant::now();
    let (state, answer) = if exists && dice.below(4) == 0 {
        (None, client.rm(&path))
    } else {
        let len = [200, 5000, 120_000, 200_000, 900_000][dice.below(5) as usize];
        (Some((stamp, len)), client.put(&path, &stamp.body(len)))
    };
    assert_eq!(answer.outcome(), Outcome::Done, "{answer}");
    changes.push(Change { state, asked, acked: Some(Instant::now()) });
}

/// An upload in two or three pieces; some are given up, and some left as they are.
fn upload(client: &Client, stamp: Stamp, dice: &mut Dice) -> Life {
    let len = [3000, 150_000, 700_000][dice.below(3) as usize];
    let (body, path) = (stamp.body(len), format!("w{}/s{}", stamp.writer, stamp.seq));
    let mut asked = Instant::now();
    let upload = Upload::new(client, &path, len as u64);
    let mut marks = vec![Mark { offset: 0, asked, acked: Instant::now() }];
    let mut aborted = None;
    let piece = len / (2 + dice.below(2) as usize) + 1;
    while let at = marks.last().map_or(0, |mark| mark.offset as usize)
        && at < len
    {
        asked = Instant::now();
        match dice.below(12) {
            0 => break,
            1 => {
                upload.delete().expect(204);
                aborted = Some(asked);
                break;
            }
            _ => {}
        }
        let end = (at + piece).min(len);
        let answer = upload.patch(at as u64, &body[at..end]).expect(204);
        assert_eq!(offset_of(&answer), end as u64);
        marks.push(Mark { offset: end as u64, asked, acked: Instant::now() });
    }
    Life { url: upload.url, path, stamp, len, marks, aborted }
}

fn grant_or_revoke(client: &Client, writer: u32, share: &mut Option<String>) -> Grant {
    let asked = Instant::now();
    match share.take() {
        None => {
            let body = json!({"space": "home", "path": format!("w{writer}/own"), "kind": "user",
                "with": "friend", "role": "viewer"});
            let made = client.json("POST", "/v1/shares", &body).expect(201).json();
            *share = Some(text(&made, "id").to_owned());
        }
        Some(id) => {
            client.send("DELETE", &format!("/v1/shares/{id}"), &[], None).expect(204);
        }
    }
    Grant { shared: share.is_some(), asked, acked: Instant::now() }
}

/// The disk as it was at one moment between two.
struct Cut {
    image: PathBuf,
    begun: Instant,
    ended: Instant,
}

fn cut(disk: &Path, image: PathBuf) -> Cut {
    let begun = Instant::now();
    let (from, to) = (disk.to_string_lossy(), image.to_string_lossy());
    run("cp", ["--reflink=always", &from, &to]).unwrap();
    Cut { image, begun, ended: Instant::now() }
}

/// Every path is in a state not older than what was acknowledged before the cut, and not newer
/// than what was asked for before its end.
#[track_caller]
fn nothing_lost(client: &Client, histories: &[History], cut: &Cut) {
    for (writer, history) in histories.iter().enumerate() {
        for (number, changes) in history.files.iter().enumerate() {
            let path = format!("w{writer}/f{number}");
            let acked =
                changes.iter().take_while(|c| c.acked.is_some_and(|at| at < cut.begun)).count();
            let asked = changes.iter().take_while(|c| c.asked < cut.ended).count();
            let mut possible: Vec<State> = Vec::new();
            if acked == 0 {
                possible.push(None);
            }
            possible.extend(changes[acked.saturating_sub(1)..asked].iter().map(|c| c.state));
            let answer = client.get(&path);
            let found = match answer.status {
                404 => None,
                200 => Some((identify(&answer.body).expect("whole bytes"), answer.body.len())),
                _ => panic!("{path}: {answer}"),
            };
            assert!(possible.contains(&found), "{path} has {found:?}, possible: {possible:?}");
        }
    }
}

/// Every upload session has what was acknowledged before the cut, and those bytes are right.
/// Afterwards none is left.
#[track_caller]
fn no_session_lost(client: &Client, histories: &[History], cut: &Cut) {
    for life in histories.iter().flat_map(|history| &history.sessions) {
        let acked = life.marks.iter().rfind(|mark| mark.acked < cut.begun);
        let asked = life.marks.iter().rfind(|mark| mark.asked < cut.ended);
        let given_up = life.aborted.is_some_and(|asked| asked < cut.ended);
        let (Some(acked), Some(asked), false) = (acked, asked, given_up) else { continue };
        let upload = Upload::at(client, &life.url);
        let at = upload.offset();
        assert!(
            (acked.offset..=asked.offset).contains(&at),
            "{} has {at} bytes, {} were acknowledged and {} sent",
            life.path,
            acked.offset,
            asked.offset
        );
        if (at as usize) < life.len {
            client.stat(&life.path).expect(404);
            upload.patch(at, &life.stamp.body(life.len)[at as usize..]).expect(204);
        }
        let body = client.get(&life.path).expect(200).body;
        assert_eq!(identify(&body), Ok(life.stamp), "{}", life.path);
    }
    for left in client.pages("/v1/uploads") {
        let url = format!("/v1/uploads/{}", text(&left, "id"));
        Upload::at(client, &url).delete().expect(204);
    }
}

/// A grant and a revocation that were acknowledged before the cut hold.
#[track_caller]
fn no_grant_lost(client: &Client, histories: &[History], cut: &Cut) {
    let friend = Client::new(client.addr(), "friend", "friend-password");
    for (writer, history) in histories.iter().enumerate() {
        let grants = &history.grants;
        let acked = grants.iter().take_while(|grant| grant.acked < cut.begun).count();
        let asked = grants.iter().take_while(|grant| grant.asked < cut.ended).count();
        let mut possible: Vec<bool> =
            grants[acked.saturating_sub(1)..asked].iter().map(|grant| grant.shared).collect();
        if acked == 0 {
            possible.push(false);
        }
        let id = text(&client.must_stat(&format!("w{writer}/own")), "id").to_owned();
        let answer = friend.send("GET", &format!("/v1/files/{id}"), &[], None);
        let shared = answer.expect_any(&[200, 404]).status == 200;
        assert!(possible.contains(&shared), "w{writer}: shared is {shared}, not {possible:?}");
    }
}

/// Writes objects over S3 and notes what is acknowledged.
struct S3Writer {
    process: Child,
    ledger: PathBuf,
    packages: PathBuf,
}

impl S3Writer {
    /// Starts one, if the client is installed.
    fn start(server: &Server, client: &Client) -> Option<Self> {
        let packages = match s3clients::packages() {
            Ok(packages) => packages,
            Err(why) => {
                skip("power cut of objects", why);
                return None;
            }
        };
        s3clients::make_ledger(client);
        let ledger = server.scratch().join("ledger");
        let mut write = s3clients::boto(server, &packages, "write");
        write.arg(&ledger).arg("1").stdout(Stdio::null()).stderr(Stdio::null());
        let process = write.spawn().unwrap();
        Some(Self { process, ledger, packages })
    }

    /// Whole lines of what was acknowledged until now.
    fn noted(&self) -> String {
        let text = fs::read_to_string(&self.ledger).unwrap_or_default();
        text.rsplit_once('\n').map(|(lines, _)| format!("{lines}\n")).unwrap_or_default()
    }

    fn stop(mut self) -> PathBuf {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.packages
    }
}

/// The disk that can be cloned, and a server on it; `Err` says why that cannot be had here.
fn prepare(disk: &mut Disk) -> Result<Server, String> {
    let outer = disk.file("outer.img");
    fs::File::create(&outer).and_then(|file| file.set_len(6 << 30)).map_err(|e| e.to_string())?;
    run("mkfs.xfs", ["-q", "-m", "reflink=1", &outer.to_string_lossy()])?;
    let outer = disk.mount(&outer, "outer")?;
    let image = outer.join("disk.img");
    fs::File::create(&image).and_then(|file| file.set_len(2 << 30)).map_err(|e| e.to_string())?;
    run("mkfs.ext4", ["-q", "-m", "0", "-F", &image.to_string_lossy()])?;
    let inner = disk.mount(&image, "inner")?;
    Ok(Options::default().data(&inner.join("data")).start())
}

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    let _alone = tool::heavy();
    let cuts_wanted = knob("LARDER_E2E_CUTS", 3);
    let mut disk = Disk::bare().unwrap();
    let server = match prepare(&mut disk) {
        Ok(server) => server,
        Err(why) => return skip("power cut", why),
    };
    let client = server.client();
    for writer in 0..WRITERS {
        client.mkdir(&format!("w{writer}")).expect(201);
        client.put(&format!("w{writer}/own"), b"own").expect(201);
    }
    client.make_user("friend");
    let s3 = S3Writer::start(&server, &client);
    let done = AtomicBool::new(false);
    let mut dice = Dice::new(Dice::seed());
    let (mut cuts, mut ledgers) = (Vec::new(), Vec::new());
    let histories: Vec<History> = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (client, done) = (client.another(), &done);
                scope.spawn(move || write(&client, writer, done))
            })
            .collect();
        for number in 0..cuts_wanted {
            thread::sleep(Duration::from_millis(300 + dice.below(700)));
            let image = disk.file("outer").join(format!("cut{number}.img"));
            let before = s3.as_ref().map(S3Writer::noted);
            cuts.push(cut(&disk.file("outer").join("disk.img"), image));
            ledgers.push(before.zip(s3.as_ref().map(S3Writer::noted)));
        }
        done.store(true, Ordering::SeqCst);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let packages = s3.map(S3Writer::stop);
    drop(server);
    let acked: usize = histories.iter().flat_map(|history| &history.files).map(Vec::len).sum();
    let sessions: usize = histories.iter().map(|history| history.sessions.len()).sum();
    let grants: usize = histories.iter().map(|history| history.grants.len()).sum();
    let mut objects = 0;
    for (number, (cut, ledger)) in cuts.iter().zip(&ledgers).enumerate() {
        let place = disk.mount(&cut.image, &format!("cut{number}")).unwrap();
        let mut server = Options::default().data(&place.join("data")).start();
        let client = server.client();
        nothing_lost(&client, &histories, cut);
        no_grant_lost(&client, &histories, cut);
        no_session_lost(&client, &histories, cut);
        if let (Some((before, after)), Some(packages)) = (ledger, &packages) {
            let files = ["before", "after"].map(|name| server.scratch().join(name));
            fs::write(&files[0], before).unwrap();
            fs::write(&files[1], after).unwrap();
            let mut verify = s3clients::boto(&server, packages, "verify");
            verify.args(&files);
            let found = s3clients::parsed(verify);
            assert_eq!(found["lost"], json!([]), "{found}");
            objects += found["noted"].as_u64().unwrap();
        }
        oracle::all_is_well(&server, &client);
        client.put("after", &[1; 300_000]).expect(201);
        server.stop();
        drop(server);
        disk.unmount();
        fs::remove_file(&cut.image).unwrap();
    }
    tool::say(format_args!(
        "{} power cuts, {acked} files, {sessions} sessions, {grants} grants acknowledged; \
         {objects} objects in the ledgers of the cuts",
        cuts.len()
    ));
}
