//! A disk that is full, and one that fails: a clear refusal, nothing acknowledged lost, and back
//! to work without a restart.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use larder_e2e::{
    client::{Client, Outcome},
    oracle,
    server::{Options, Server},
    stamp::{Stamp, identify},
    tool::{self, run, skip},
};
use tempfile::TempDir;

/// A file system of its own in a file, which goes with this value.
#[derive(Debug)]
pub(crate) struct Disk {
    dir: TempDir,
    mounted: Vec<PathBuf>,
}

impl Disk {
    /// An ext4 of `bytes` bytes; `Err` says why that cannot be had here.
    pub(crate) fn ext4(bytes: u64) -> Result<Self, String> {
        let dir = TempDir::with_prefix("larder-disk-").map_err(|error| error.to_string())?;
        let mut disk = Self { dir, mounted: Vec::new() };
        let image = disk.file("disk.img");
        fs::File::create(&image).and_then(|file| file.set_len(bytes)).map_err(|e| e.to_string())?;
        run("mkfs.ext4", ["-q", "-m", "0", "-F", &image.to_string_lossy()])?;
        disk.mount(&image, "disk")?;
        Ok(disk)
    }

    /// A folder in which nothing is mounted yet.
    pub(crate) fn bare() -> Result<Self, String> {
        let dir = TempDir::with_prefix("larder-disk-").map_err(|error| error.to_string())?;
        Ok(Self { dir, mounted: Vec::new() })
    }

    /// A path beside the mounted ones.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Mounts the file system in `image`; where.
    pub(crate) fn mount(&mut self, image: &Path, name: &str) -> Result<PathBuf, String> {
        let place = self.file(name);
        fs::create_dir_all(&place).map_err(|error| error.to_string())?;
        let (from, to) = (image.to_string_lossy(), place.to_string_lossy());
        run("mount", ["-o", "loop", &from, &to])?;
        self.mounted.push(place.clone());
        Ok(place)
    }

    /// Takes the newest mount away again.
    pub(crate) fn unmount(&mut self) {
        let place = self.mounted.pop().expect("something is mounted");
        let gone = || run("umount", [&*place.to_string_lossy()]).is_ok();
        assert!(tool::wait_until(Duration::from_secs(10), gone), "{} stays", place.display());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        while let Some(place) = self.mounted.pop() {
            // Lazily: the folder of the test must not be removed through a mount.
            run("umount", ["-l", &*place.to_string_lossy()]).ok();
        }
    }
}

/// Writes until the disk refuses; what was acknowledged.
pub(crate) fn fill(client: &Client, prefix: &str, len: usize) -> Vec<(String, Stamp)> {
    let mut acked = Vec::new();
    let mut refused = 0;
    for seq in 0..20_000 {
        let (path, stamp) = (format!("{prefix}{seq}"), Stamp::new(len as u32, seq));
        let answer = client.put(&path, &stamp.body(len));
        match answer.outcome() {
            Outcome::Done => acked.push((path, stamp)),
            Outcome::Refused => {
                let codes = [(507, "disk_full"), (503, "unavailable"), (503, "busy")];
                let found = (answer.status, &*answer.code());
                assert!(codes.contains(&found), "{answer}");
                client.stat(&path).expect(404);
                refused += 1;
            }
            Outcome::Unknown => panic!("a full disk is no unknown outcome: {answer}"),
        }
        if refused == 5 {
            return acked;
        }
    }
    panic!("the disk never became full");
}

#[track_caller]
fn all_there(client: &Client, acked: &[(String, Stamp)]) {
    for (path, stamp) in acked {
        assert_eq!(identify(&client.get(path).expect(200).body), Ok(*stamp), "{path}");
    }
}

#[test]
fn a_full_disk_refuses_writes_loses_nothing_and_recovers() {
    let _alone = tool::heavy();
    let disk = match Disk::ext4(700 << 20) {
        Ok(disk) => disk,
        Err(why) => return skip("full disk", why),
    };
    let data = disk.file("disk").join("data");
    let mut server = Options::default().data(&data).allow("full").allow("space").start();
    let client = server.client();
    let mut acked = Vec::new();
    for (turn, prefix) in ["a", "b"].iter().enumerate() {
        acked.extend(fill(&client, &format!("{prefix}-large-"), 4 << 20));
        acked.extend(fill(&client, &format!("{prefix}-small-"), 60_000));
        // Whatever is left is taken by somebody else.
        let ballast = disk.file("disk").join("ballast");
        let mut file = fs::File::create(&ballast).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        drop(file);
        client.put("none", &[0; 300_000]).expect_any(&[503, 507]);
        assert!(server.is_alive());
        assert_eq!(client.list("").len(), acked.len());
        all_there(&client, &acked);
        if turn == 1 {
            server.kill9();
            server.restart();
        }
        let client = server.client();
        // Deleting, purging and collecting need no room that is not there.
        let some = acked.len() / 3;
        for (path, _) in &acked.drain(..some).collect::<Vec<_>>() {
            client.rm(path).expect(204);
        }
        client.empty_trash().expect(204);
        client.gc();
        fs::remove_file(&ballast).unwrap();
        all_there(&client, &acked);
        // And it goes on without a restart.
        let stored = || client.put("again", &[turn as u8; 1 << 20]).outcome() == Outcome::Done;
        assert!(tool::wait_until(Duration::from_secs(10), stored), "{}", client.put("x", b"y"));
        client.put("again-small", b"small").expect_any(&[200, 201]);
        client.rm("again").expect(204);
        client.rm("again-small").expect(204);
        client.empty_trash().expect(204);
        oracle::clean(&client);
        oracle::conserved(&client);
    }
    server.stop();
    server.restart();
    let client = server.client();
    all_there(&client, &acked);
    oracle::clean(&client);
    drop(server);
    drop(disk);
}

/// The one sync that fails is not repeated and believed: from then on nothing is acknowledged.
#[test]
fn after_a_failed_sync_nothing_more_is_acknowledged() {
    let _alone = tool::heavy();
    let Some(strace) = tool::which("strace") else {
        return skip("failed sync", "strace is not installed");
    };
    if run("strace", ["-o", "/dev/null", "true"]).is_err() {
        return skip("failed sync", "strace may not trace here");
    }
    let mut server = Server::start();
    let mut acked = Vec::new();
    for seq in 0..5 {
        let stamp = Stamp::new(1, seq);
        server.client().put(&format!("before{seq}"), &stamp.body(300_000)).expect(201);
        acked.push((format!("before{seq}"), stamp));
    }
    server.stop();
    let under = "-D -qq -f -o /dev/null -e trace=fsync,fdatasync \
                 -e inject=fsync,fdatasync:error=EIO:when=120";
    server.options().under = vec![strace.to_string_lossy().into_owned()];
    server.options().under.extend(under.split_whitespace().map(str::to_owned));
    server.options().allowed.push(String::new());
    server.restart();
    let client = server.client();
    let mut failed = 0;
    for seq in 0..400 {
        let (path, stamp) = (format!("f{seq}"), Stamp::new(2, seq));
        let answer = client.put(&path, &stamp.body(if seq % 2 == 0 { 900 } else { 200_000 }));
        if answer.outcome() == Outcome::Done {
            assert_eq!(failed, 0, "acknowledged after a failed sync: {path}");
            acked.push((path, stamp));
        } else {
            assert!(answer.status >= 500, "{answer}");
            failed += 1;
        }
        if failed == 20 {
            break;
        }
    }
    assert!(failed > 0, "no sync failed");
    let ready = Client::anonymous(server.addr()).send("GET", "/ready", &[], None);
    assert_eq!(ready.status, 503, "{ready}");
    assert!(server.log().contains("ERROR"), "it says so in its log");
    // What it still reads is right; it may also refuse to.
    for (path, stamp) in &acked[..5] {
        let answer = client.get(path).expect_any(&[200, 503]);
        assert!(answer.status == 503 || identify(&answer.body) == Ok(*stamp), "{path}");
    }
    server.kill9();
    server.options().under.clear();
    server.restart();
    let client = server.client();
    all_there(&client, &acked);
    oracle::all_is_well(&server, &client);
}
