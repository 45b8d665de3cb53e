//! Resumable uploads by the clients that people use: tus-js-client and tuspy, as they are, over a
//! connection that breaks and to a server that dies.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use larder_base::digest::Sha256;
use larder_e2e::{
    client::Client,
    oracle,
    proxy::{Proxy, Step},
    server::{PASSWORD, Server, USER},
    stamp::Stamp,
    tool::{self, Dice, knob},
};
use serde_json::Value;

/// How long a client may take before the test gives up on it.
const PATIENCE: Duration = Duration::from_secs(900);

/// A client of another project, ready to upload a file.
struct Foreign {
    name: &'static str,
    command: Vec<PathBuf>,
    variable: (&'static str, PathBuf),
}

/// tus-js-client, or why it is not here.
fn tus_js() -> Result<Foreign, String> {
    let node = tool::which("node").ok_or("node is not installed")?;
    let modules = tool::installed("tus-js")?.join("node_modules");
    let command = vec![node, tool::script("tus-js/client.cjs")];
    Ok(Foreign { name: "tus-js-client", command, variable: ("NODE_PATH", modules) })
}

/// tuspy, or why it is not here.
fn tuspy() -> Result<Foreign, String> {
    let python = tool::which("python3").ok_or("python3 is not installed")?;
    let command = vec![python, tool::script("tuspy/client.py")];
    let variable = ("PYTHONPATH", tool::installed("tuspy")?);
    Ok(Foreign { name: "tuspy", command, variable })
}

impl Foreign {
    fn command(&self, mode: &str, endpoint: &str, file: &Path, name: &str) -> Command {
        let basic = STANDARD.encode(format!("{USER}:{PASSWORD}"));
        let mut command = Command::new(&self.command[0]);
        command
            .args(&self.command[1..])
            .args([mode, endpoint])
            .arg(file)
            .args([name, &format!("Basic {basic}")])
            .env(self.variable.0, &self.variable.1)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    #[track_caller]
    fn run(&self, mode: &str, endpoint: &str, file: &Path, name: &str) -> Value {
        let output = self.command(mode, endpoint, file, name).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {mode}: {stderr}", self.name);
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// The file at `name` is the local one, as one revision.
#[track_caller]
fn arrived(client: &Client, name: &str, digest: Sha256) {
    let revisions = client.revisions(name);
    assert_eq!(revisions.len(), 1, "{name}: {revisions:?}");
    let got = client.get(name).expect(200).body;
    assert_eq!(Sha256::of(&got), digest, "{name}: the bytes differ");
    assert_eq!(client.must_stat(name)["content_type"], "application/x-larder-test");
}

#[track_caller]
fn local_file(server: &Server, bytes: u64) -> (PathBuf, Sha256) {
    let body = Stamp::new(9, 9).body(bytes as usize);
    let path = server.scratch().join("file");
    fs::write(&path, &body).unwrap();
    (path, Sha256::of(&body))
}

#[test]
fn tus_js_client_uploads_in_all_its_ways() {
    let foreign = match tus_js() {
        Ok(foreign) => foreign,
        Err(why) => return tool::skip("tus_js_client_uploads_in_all_its_ways", why),
    };
    let _alone = tool::heavy();
    let server = Server::start();
    let client = server.client();
    let endpoint = format!("http://{}/v1/uploads", server.addr());
    let (file, digest) = local_file(&server, 9_000_001);
    let modes = ["stream", "chunks", "creation", "deferred", "resume", "override", "parallel"];
    for mode in modes {
        let name = format!("by {mode}");
        let said = foreign.run(mode, &endpoint, &file, &name);
        assert_eq!(said["tries"], 0, "{mode} went without a try again");
        arrived(&client, &name, digest);
    }
    let said = foreign.run("terminate", &endpoint, &file, "never");
    let url = said["url"].as_str().unwrap();
    let path = url.find("/v1/uploads").map(|at| &url[at..]).unwrap();
    client.send("GET", path, &[], None).expect_any(&[404, 410]);
    client.stat("never").expect(404);
    assert!(client.pages("/v1/uploads").is_empty());
    oracle::all_is_well(&server, &client);
}

#[test]
fn tuspy_uploads_in_all_its_ways() {
    let foreign = match tuspy() {
        Ok(foreign) => foreign,
        Err(why) => return tool::skip("tuspy_uploads_in_all_its_ways", why),
    };
    let _alone = tool::heavy();
    let server = Server::start();
    let client = server.client();
    let endpoint = format!("http://{}/v1/uploads", server.addr());
    let (file, digest) = local_file(&server, 9_000_001);
    for mode in ["whole", "chunks", "checksum"] {
        let name = format!("by {mode}");
        let said = foreign.run(mode, &endpoint, &file, &name);
        assert_eq!(said["offset"], 9_000_001);
        arrived(&client, &name, digest);
    }
    oracle::all_is_well(&server, &client);
}

/// Ten cuts and three kills, within the bytes of the file however few are sent twice.
pub(crate) fn trouble(dice: &mut Dice, bytes: u64) -> Vec<Step> {
    let steps = (0..13).map(|number| {
        // Half of the file at most: what is under way when a connection is cut may count too.
        let after = 1000 + dice.below(bytes / 26);
        if [2, 6, 10].contains(&number) { Step::Hold(after) } else { Step::Cut(after) }
    });
    steps.collect()
}

/// Uploads over a proxy that cuts ten connections, while the server is killed three times.
#[track_caller]
fn through_trouble(foreign: &Foreign, modes: &[&str]) {
    let _alone = tool::heavy();
    let bytes = knob("LARDER_E2E_TUS_MIB", 24) << 20;
    let mut dice = Dice::new(Dice::seed());
    let mut server = Server::start();
    let (file, digest) = local_file(&server, bytes);
    for mode in modes {
        let proxy = Proxy::start(server.addr());
        let endpoint = format!("http://{}/v1/uploads", proxy.addr());
        proxy.plan(trouble(&mut dice, bytes));
        let mut child = foreign.command(mode, &endpoint, &file, mode).spawn().unwrap();
        let started = Instant::now();
        let mut kills = 0;
        while child.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < PATIENCE, "{mode}: it takes for ever");
            thread::sleep(Duration::from_millis(2));
            if proxy.holds() {
                // In the middle of a request.
                server.kill9();
                kills += 1;
                server.restart();
                proxy.move_to(server.addr());
            }
        }
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {mode}: {stderr}", foreign.name);
        assert_eq!((proxy.cuts(), kills), (10, 3), "{mode}: it was over too soon");
        arrived(&server.client(), mode, digest);
        tool::say(format_args!(
            "{} {mode}: {} MiB, 10 cuts, 3 kills: {:.1} s, {:.2} x its bytes sent",
            foreign.name,
            bytes >> 20,
            started.elapsed().as_secs_f64(),
            proxy.sent() as f64 / bytes as f64,
        ));
    }
    let client = server.client();
    assert!(client.pages("/v1/uploads").is_empty(), "nothing is left over");
    oracle::all_is_well(&server, &client);
}

#[test]
fn tus_js_client_gets_through_ten_cuts_and_three_kills() {
    match tus_js() {
        Ok(foreign) => through_trouble(&foreign, &["stream", "chunks"]),
        Err(why) => tool::skip("tus_js_client_gets_through_ten_cuts_and_three_kills", why),
    }
}

#[test]
fn tuspy_gets_through_ten_cuts_and_three_kills() {
    match tuspy() {
        Ok(foreign) => through_trouble(&foreign, &["chunks", "whole"]),
        Err(why) => tool::skip("tuspy_gets_through_ten_cuts_and_three_kills", why),
    }
}
