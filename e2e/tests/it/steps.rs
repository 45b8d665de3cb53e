//! A crash at every named step of every operation: after the next start the operation has
//! happened wholly or not at all.
//!
//! Relies on: a debug build, in which `LARDER_FAIL=step:n` ends the process at the n-th time it
//! reaches a step.

use std::{collections::BTreeMap, time::Duration};

use larder_base::failpoint::STEPS;
use larder_e2e::{
    books,
    client::{Outcome, text},
    ledger::{Depth, Ledger, Op},
    oracle,
    server::{Options, Server},
    tool::{self, knob, skip},
};

use crate::crash::settle;

/// What is crashed into.
const OPERATIONS: [&str; 25] = [
    "mkdir",
    "upload small",
    "upload large",
    "overwrite small",
    "overwrite large",
    "move",
    "copy",
    "delete",
    "restore",
    "purge",
    "restore revision",
    "delete revision",
    "copy directory",
    "purge directory",
    "session create",
    "session append small",
    "session append large",
    "session complete",
    "session complete small",
    "session abort",
    "session expire",
    "grant",
    "link",
    "revoke",
    "reference",
];

/// Steps of numbered and joined parts: `sessionsteps` comes to them, and demands that it does.
const ELSEWHERE: [&str; 2] = ["session.part-durable", "session.part-claimed"];

/// Length of the large bodies.
const LARGE: usize = 300_000;

/// More often than this no start reaches a step.
const START_MAX: u64 = 20;

/// A server, what it must hold, and fresh names.
struct Subject {
    server: Server,
    ledger: [Ledger; 1],
    names: u64,
}

impl Subject {
    fn new(writer: u32) -> Self {
        let server = Options::default().start();
        let mut ledger = Ledger::new(writer);
        books::befriend(&server.client());
        ledger.begin(&server.client());
        Self { server, ledger: [ledger], names: 0 }
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("{}/n{}", self.ledger[0].dir(), self.names)
    }

    fn put(&mut self, path: &str, len: usize) -> Op {
        Op::Put(path.to_owned(), self.ledger[0].stamp(), len)
    }

    fn must(&mut self, op: Op) {
        let answer = self.ledger[0].perform(&self.server.client(), op);
        assert_eq!(answer.outcome(), Outcome::Done, "{answer}");
    }

    /// Prepares what `operation` needs and says what it is.
    fn prepare(&mut self, operation: &str) -> Op {
        let path = self.name();
        let existing = |subject: &mut Self, len: usize| {
            let op = subject.put(&path, len);
            subject.must(op);
        };
        let other = self.name();
        match operation {
            "mkdir" => Op::Mkdir(path),
            "upload small" => self.put(&path, 2000),
            "upload large" => self.put(&path, LARGE),
            "overwrite small" | "overwrite large" => {
                let len = if operation == "overwrite small" { 2000 } else { LARGE };
                existing(self, len);
                self.put(&path, len + 1)
            }
            "restore revision" | "delete revision" => {
                existing(self, LARGE);
                existing(self, 2000);
                if operation == "restore revision" {
                    Op::RestoreRevision(path, 1)
                } else {
                    Op::DeleteRevision(path, 1)
                }
            }
            "copy directory" | "purge directory" => {
                let tree = format!("{}/t{}", self.ledger[0].dir(), self.names);
                if operation == "copy directory" {
                    return Op::CopyTree(tree);
                }
                self.must(Op::CopyTree(tree.clone()));
                let id = self.ledger[0].books().trees[&tree].clone();
                self.must(Op::DropTree(tree));
                Op::Purge(id)
            }
            "grant" | "link" | "revoke" => {
                existing(self, 2000);
                if operation == "revoke" {
                    self.must(Op::Grant(path.clone()));
                    let share = self.ledger[0].books().shares.last_key_value();
                    return Op::Revoke(share.expect("there is one").0.clone());
                }
                if operation == "link" { Op::Link(path) } else { Op::Grant(path) }
            }
            "reference" => Op::Refer(path),
            _ if operation.starts_with("session ") => self.prepare_session(operation, path),
            _ => {
                existing(self, LARGE);
                let id = text(&self.server.client().must_stat(&path), "id").to_owned();
                if matches!(operation, "restore" | "purge") {
                    self.must(Op::Delete(path.clone()));
                }
                match operation {
                    "move" => Op::Move(path, other),
                    "copy" => Op::Copy(path, other),
                    "delete" => Op::Delete(path),
                    "restore" => Op::Restore(id),
                    "purge" => Op::Purge(id),
                    _ => unreachable!("{operation} is not in the list"),
                }
            }
        }
    }

    /// Prepares a session, and says what is done with it.
    fn prepare_session(&mut self, operation: &str, path: String) -> Op {
        // Those of earlier rounds would be in the way: they would expire too.
        self.ledger[0].end_sessions(&self.server.client());
        let small = operation == "session complete small";
        let begin = Op::Begin(path, self.ledger[0].stamp(), if small { 2000 } else { LARGE });
        if operation == "session create" {
            return begin;
        }
        self.must(begin);
        let open = self.ledger[0].books().sessions.first_key_value();
        let id = open.expect("it is there").0.clone();
        let mut send = |len| self.must(Op::Append(id.clone(), len));
        match operation {
            "session append small" => {
                send(150_000);
                Op::Append(id, 40_000)
            }
            "session append large" => {
                send(1000);
                Op::Append(id, 200_000)
            }
            "session complete" => {
                // A chunk and records, which have to be merged.
                send(150_000);
                send(50_000);
                send(50_000);
                Op::Append(id, LARGE - 250_000)
            }
            "session complete small" => {
                send(700);
                Op::Append(id, 1300)
            }
            _ => {
                send(150_000);
                send(30_000);
                if operation == "session abort" { Op::Abort(id) } else { Op::Expire(id) }
            }
        }
    }

    /// Starts it with `step` armed for its `count`-th time, does `op` and collects; whether it
    /// died of it. Either way the next start must find all or nothing of `op`.
    fn strike(&mut self, step: &str, count: u64, op: Option<Op>) -> bool {
        self.server.stop();
        let armed = ("LARDER_FAIL".to_owned(), format!("{step}:{count}"));
        let usual = self.server.options().env.clone();
        self.server.options().env.push(armed);
        if matches!(op, Some(Op::Expire(_))) {
            let soon = ["SESSION_TTL", "SWEEP_INTERVAL"];
            let soon = soon.map(|name| (format!("LARDER_UPLOAD__{name}"), "50ms".to_owned()));
            self.server.options().env.extend(soon);
        }
        let started = self.server.try_start();
        self.server.options().env = usual;
        let died = match started {
            Ok(()) => self.disturb(op),
            Err(_) => true,
        };
        self.server.restart();
        assert!(self.server.ready_after() < Duration::from_secs(2), "{step}");
        let client = self.server.client();
        settle(&client, &mut self.ledger, Depth::Everything);
        oracle::clean(&client);
        died
    }

    /// Does `op` and ends the server, if it does not end by itself; whether it did.
    fn disturb(&mut self, op: Option<Op>) -> bool {
        let client = self.server.client();
        let outcome = op.map(|op| self.ledger[0].perform(&client, op).outcome());
        if outcome != Some(Outcome::Unknown) {
            // Collection, purge jobs and the applying of the log have steps of their own.
            client.send("POST", "/v1/admin/gc?wait=1", &[], Some(b""));
        }
        let lost = outcome == Some(Outcome::Unknown);
        let patience = Duration::from_secs(if lost { 10 } else { 0 });
        let died = tool::wait_until(patience, || !self.server.is_alive());
        assert!(died || !lost, "no answer from a living server");
        if !died {
            // Stopping may still reach the step: both ends are ends.
            self.server.sigterm();
        }
        !self.server.wait_exit().success()
    }

    /// How often a start alone, with a collection, reaches `step`; it dies of each.
    fn at_start(&mut self, step: &str) -> u64 {
        (1..=START_MAX).find(|count| !self.strike(step, *count, None)).unwrap_or(START_MAX) - 1
    }

    /// Forgets the files, so that the next look is quick.
    fn clear(&mut self) {
        let client = self.server.client();
        self.ledger[0].end_sessions(&client);
        settle(&client, &mut self.ledger, Depth::Current);
        oracle::all_is_well(&self.server, &client);
        let writer = self.names as u32 + 1000;
        let mut ledger = Ledger::new(writer);
        client.rm(self.ledger[0].dir()).expect(204);
        client.empty_trash().expect(204);
        client.gc();
        ledger.begin(&client);
        self.ledger = [ledger];
    }
}

#[test]
fn a_crash_at_any_step_leaves_an_operation_wholly_done_or_undone() {
    if !cfg!(debug_assertions) {
        return skip("steps", "named steps are in debug builds only");
    }
    let _alone = tool::heavy();
    let counts = knob("LARDER_E2E_STEPS", 1);
    let steps: Vec<_> = STEPS.iter().filter(|step| !ELSEWHERE.contains(step)).collect();
    let mut died: BTreeMap<&str, u64> = steps.iter().map(|step| (**step, 0)).collect();
    let mut subject = Subject::new(0);
    for step in steps {
        let deaths = died.get_mut(step).expect("a step of the list");
        let before = subject.at_start(step);
        *deaths += before;
        for operation in OPERATIONS {
            for count in 1..=counts {
                let op = subject.prepare(operation);
                if !subject.strike(step, before + count, Some(op)) {
                    break;
                }
                *deaths += 1;
            }
        }
        subject.clear();
    }
    tool::say(format_args!("crashes at each step: {died:?}"));
    let never: Vec<&str> = died.iter().filter(|(_, n)| **n == 0).map(|(step, _)| *step).collect();
    // Whether a segment of the log is used again depends on how much was written.
    assert!(
        never.iter().all(|step| *step == "log.recycled"),
        "these were never reached: {never:?}"
    );
}
