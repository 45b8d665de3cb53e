//! A crash at every named step of every operation: after the next start the operation has
//! happened wholly or not at all.
//!
//! Relies on: a debug build, in which `LARDER_FAIL=step:n` ends the process at the n-th time it
//! reaches a step.

use std::{collections::BTreeMap, time::Duration};

use larder_base::failpoint::STEPS;
use larder_e2e::{
    client::{Outcome, text},
    ledger::{Depth, Ledger, Op},
    oracle,
    server::{Options, Server},
    tool::{self, knob, skip},
};

use crate::crash::settle;

/// What is crashed into.
const OPERATIONS: [&str; 12] = [
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
];

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
        let ledger = Ledger::new(writer);
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
        const LARGE: usize = 300_000;
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

    /// Starts it with `step` armed for its `count`-th time, does `op` and collects; whether it
    /// died of it. Either way the next start must find all or nothing of `op`.
    fn strike(&mut self, step: &str, count: u64, op: Option<Op>) -> bool {
        self.server.stop();
        let armed = ("LARDER_FAIL".to_owned(), format!("{step}:{count}"));
        self.server.options().env.push(armed);
        let started = self.server.try_start();
        self.server.options().env.pop();
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
        oracle::all_is_well(&self.server, &self.server.client());
        let writer = self.names as u32 + 1000;
        let ledger = Ledger::new(writer);
        let client = self.server.client();
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
    // Those of upload sessions have a test of their own.
    let steps: Vec<_> = STEPS.iter().filter(|step| !step.starts_with("session.")).collect();
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
    assert!(never.len() <= 2, "these were never reached: {never:?}");
}
