//! Power cuts: what is acknowledged is on the disk, not in memory.
//!
//! The data are on an ext4 in a file on an XFS with reflinks. Cloning that file takes a few
//! milliseconds and gives the disk as it is at that moment, without what the kernel still keeps
//! in memory: that is a power cut. The server goes on meanwhile, so that one run has many.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use larder_e2e::{
    client::{Client, Outcome},
    oracle,
    server::{Options, Server},
    stamp::{Stamp, identify},
    tool::{self, Dice, knob, run, skip},
};

use crate::diskfull::Disk;

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

/// All that one writer did, by path number.
type History = Vec<Vec<Change>>;

fn write(client: &Client, writer: u32, done: &AtomicBool) -> History {
    let mut history: History = (0..PATHS).map(|_| Vec::new()).collect();
    let mut dice = Dice::new(u64::from(writer) + 1);
    for seq in 0.. {
        if done.load(Ordering::SeqCst) {
            break;
        }
        let number = dice.below(PATHS);
        let changes = &mut history[number as usize];
        let path = format!("w{writer}/f{number}");
        let exists = changes.last().is_some_and(|change| change.state.is_some());
        let asked = Instant::now();
        let (state, answer) = if exists && dice.below(4) == 0 {
            (None, client.rm(&path))
        } else {
            let len = [200, 5000, 120_000, 200_000, 900_000][dice.below(5) as usize];
            let stamp = Stamp::new(writer, seq);
            (Some((stamp, len)), client.put(&path, &stamp.body(len)))
        };
        assert_eq!(answer.outcome(), Outcome::Done, "{answer}");
        changes.push(Change { state, asked, acked: Some(Instant::now()) });
        if seq % 64 == 63 {
            // The trash would fill the small disk.
            client.empty_trash().expect(204);
        }
    }
    history
}

/// The disk as it was at one moment between two.
struct Cut {
    image: std::path::PathBuf,
    begun: Instant,
    ended: Instant,
}

fn cut(disk: &Path, image: std::path::PathBuf) -> Cut {
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
        for (number, changes) in history.iter().enumerate() {
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
    }
    let done = AtomicBool::new(false);
    let mut dice = Dice::new(Dice::seed());
    let mut cuts = Vec::new();
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
            cuts.push(cut(&disk.file("outer").join("disk.img"), image));
        }
        done.store(true, Ordering::SeqCst);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    drop(server);
    let acked: usize = histories.iter().flatten().map(Vec::len).sum();
    for (number, cut) in cuts.iter().enumerate() {
        let place = disk.mount(&cut.image, &format!("cut{number}")).unwrap();
        let mut server = Options::default().data(&place.join("data")).start();
        let client = server.client();
        nothing_lost(&client, &histories, cut);
        oracle::all_is_well(&server, &client);
        client.put("after", &[1; 300_000]).expect(201);
        server.stop();
        drop(server);
        disk.unmount();
        fs::remove_file(&cut.image).unwrap();
    }
    tool::say(format_args!("{} power cuts, {acked} acknowledged", cuts.len()));
}
