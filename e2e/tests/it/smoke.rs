//! The README's tour, as a newcomer takes it: the binary, `curl`, the command line.

use std::{collections::BTreeSet, process::Command};

use larder_e2e::{
    client::Client,
    oracle,
    server::{Options, PASSWORD, Server, USER, cli, must_end},
    tool::{self, skip},
};

#[test]
fn a_file_goes_in_and_comes_back_by_curl() {
    let Some(curl) = tool::which("curl") else {
        return skip("curl", "curl is not installed");
    };
    let server = Server::start();
    let url = format!("http://{}/v1/spaces/home/files/hello.txt", server.addr());
    let login = format!("{USER}:{PASSWORD}");
    let run = |args: &[&str]| {
        let output = Command::new(&curl).args(["-sS", "--fail", "-u", &login]).args(args).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    run(&["-T", "/proc/self/exe", &url]);
    let program = std::fs::read(&curl).unwrap();
    assert!(run(&[&url]) == program, "the same bytes come back");
    run(&["-X", "DELETE", &url]);
    let missing = Command::new(&curl).args(["-sS", "--fail", "-u", &login, &url]).output().unwrap();
    assert_eq!(missing.status.code(), Some(22), "a deleted file is 404 for curl");
    oracle::all_is_well(&server, &server.client());
}

#[test]
fn a_file_goes_in_and_comes_back_by_the_command_line() {
    let server = Server::start();
    let dir = server.scratch();
    std::fs::write(dir.join("hello.txt"), "hello, larder\n").unwrap();
    let run = |args: &[&str]| {
        let output = cli(&server).args(args).current_dir(dir).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["put", "hello.txt", "home:/hello.txt"]);
    assert!(run(&["ls", "home:/"]).contains("hello.txt"));
    assert_eq!(run(&["cat", "home:/hello.txt"]), "hello, larder\n");
    run(&["get", "home:/hello.txt", "back.txt"]);
    assert_eq!(std::fs::read(dir.join("back.txt")).unwrap(), b"hello, larder\n");
    run(&["rm", "home:/hello.txt"]);
    assert!(!run(&["ls", "home:/"]).contains("hello.txt"));
    oracle::clean(&server.client());
}

#[test]
fn what_was_saved_is_there_after_a_stop_and_a_start() {
    let mut server = Server::start();
    let body = vec![7; 300_000];
    server.client().put("f", &body).expect(201);
    server.client().put("g", b"small").expect(201);
    server.stop();
    server.restart();
    let client = server.client();
    assert_eq!(client.get("f").expect(200).body, body);
    assert_eq!(client.get("g").expect(200).body, b"small");
    oracle::all_is_well(&server, &client);
}

#[test]
fn without_given_credentials_a_password_is_made_and_shown_once() {
    let words = ["env", "-u", "LARDER_ROOT_USER", "-u", "LARDER_ROOT_PASSWORD"];
    let mut server = Options::default().under(words).start();
    let said = server.log();
    // Few words: whoever guesses for long is slowed down.
    let lines = said.lines().filter(|line| line.contains("password"));
    let words: Vec<&str> = lines
        .flat_map(|line| line.split(|c: char| c.is_whitespace() || "\"'=`".contains(c)))
        .collect();
    let logs_in = |password: &&&str| {
        password.len() >= 16
            && Client::new(server.addr(), "root", password).send("GET", "/v1/me", &[], None).status
                == 200
    };
    let password = words.iter().find(logs_in).map(|word| (*word).to_owned());
    let password = password.unwrap_or_else(|| panic!("no password was shown: {said}"));
    assert_eq!(said.matches(&password).count(), 1, "once");
    for guess in ["", "root", "admin", "password", "larder", PASSWORD] {
        let answer = Client::new(server.addr(), "root", guess).send("GET", "/v1/me", &[], None);
        assert_eq!(answer.status, 401, "{guess}");
    }
    server.stop();
    server.restart();
    assert_eq!(server.log().matches(&password).count(), 1, "not again at the next start");
    let client = Client::new(server.addr(), "root", &password);
    client.send("GET", "/v1/me", &[], None).expect(200);
}

#[test]
fn unknown_settings_and_arguments_are_refused_by_name() {
    let server = Server::start();
    let refuse = |change: &dyn Fn(&mut Command), named: &str| {
        let data = server.scratch().join("other");
        let mut command = Command::new(larder_e2e::server::binary());
        command
            .args(["serve", "--http", "127.0.0.1:0", "--s3", "127.0.0.1:0", "--data"])
            .arg(&data);
        change(&mut command);
        let output = must_end(&mut command);
        let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
        assert!(!output.status.success(), "it started with {named}");
        assert!(said.contains(named), "{named} is not named: {said}");
        assert!(!data.exists(), "nothing was made");
    };
    let config = server.scratch().join("larder.toml");
    for (text, named) in [
        ("[collect]\nintervall = \"1s\"\n", "intervall"),
        ("[colect]\ninterval = \"1s\"\n", "colect"),
        ("[collect]\ninterval = \"soon\"\n", "interval"),
        ("[collect\n", "larder.toml"),
    ] {
        std::fs::write(&config, text).unwrap();
        refuse(&|command| _ = command.arg("--config").arg(&config), named);
    }
    refuse(&|command| _ = command.env("LARDER_COLLECT__INTERVALL", "1s"), "intervall");
    refuse(&|command| _ = command.env("LARDER_NOSUCH__KEY", "1"), "nosuch");
    refuse(&|command| _ = command.arg("--no-such-flag"), "no-such-flag");
}

#[test]
fn health_readiness_and_metrics_answer() {
    let server = Server::start();
    let client = Client::anonymous(server.addr());
    client.send("GET", "/health", &[], None).expect(200);
    client.send("GET", "/ready", &[], None).expect(200);
    server.client().put("f", b"counted").expect(201);
    let metrics = server.client().send("GET", "/metrics", &[], None).expect(200);
    let text = String::from_utf8(metrics.body).unwrap();
    assert!(text.ends_with("# EOF\n"), "OpenMetrics ends so");
    assert!(text.lines().filter(|line| line.starts_with("larder_")).count() > 5, "{text}");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let value = line.rsplit(' ').next().unwrap();
        assert!(value.parse::<f64>().is_ok(), "a sample ends with a number: {line}");
    }
}

#[test]
fn metrics_want_their_token_where_one_is_set() {
    let server = Options::default().env("LARDER_METRICS__TOKEN", "told-to-the-monitor").start();
    let monitor = Client::with_key(server.addr(), "told-to-the-monitor");
    monitor.send("GET", "/metrics", &[], None).expect(200);
    for other in [
        Client::anonymous(server.addr()),
        Client::with_key(server.addr(), "told-to-the-monito"),
        server.client(),
    ] {
        other.send("GET", "/metrics", &[], None).expect(401);
    }
    monitor.send("GET", "/v1/me", &[], None).expect(401);
}

#[test]
fn every_metric_that_is_served_is_documented_and_the_reverse() {
    let server = Server::start();
    let client = server.client();
    client.put("f", &vec![7; 300_000]).expect(201);
    let page = client.send("GET", "/metrics", &[], None).expect(200).body;
    let page = String::from_utf8(page).unwrap();
    // A counter's lines say `larder_x_total`, but the line with its type `larder_x`.
    let served: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| match line.split_once(' ').unwrap() {
            (name, "counter") => format!("{name}_total"),
            (name, "info") => format!("{name}_info"),
            (name, _) => name.to_owned(),
        })
        .collect();
    let docs = cli(&server).args(["config", "metrics"]).output().unwrap();
    let docs = String::from_utf8(docs.stdout).unwrap();
    let rows = docs.lines().filter_map(|line| line.strip_prefix("| `"));
    let documented = rows.map(|row| row.split('`').next().unwrap().to_owned()).collect();
    assert_eq!(served, documented);
    let sample = |name: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("none");
        line.trim().parse::<f64>().unwrap_or_else(|_| panic!("{name}: {line}"))
    };
    assert!(sample("larder_meta_commit_seconds_count ") >= 1.0);
    assert!(sample("larder_meta_outcomes_total{outcome=\"committed\"} ") >= 1.0);
    assert_eq!(sample("larder_chunk_written_bytes_total "), 300_000.0);
    assert_eq!(page.matches("# EOF").count(), 1);
}
