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
    tool::{self, Dice, knob, skip},
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

    /// Starts it with `step` armed, does `op` and collects; whether it died of it.
    fn strike(&mut self, step: &str, count: u64, op: Op) -> bool {
        self.server.stop();
        let armed = ("LARDER_FAIL".to_owned(), format!("{step}:{count}"));
        self.server.options().env.push(armed);
        let started = self.server.try_start();
        self.server.options().env.pop();
        let mut died = started.is_err();
        if started.is_ok() {
            let client = self.server.client();
            let answer = self.ledger[0].perform(&client, op);
            // Collection, purge jobs and the applying of the log have steps of their own.
            if answer.outcome() == Outcome::Done {
                client.send("POST", "/v1/admin/gc?wait=1", &[], Some(b""));
            }
            let gone = || !self.server.is_alive();
            let lost = answer.outcome() == Outcome::Unknown;
            died = tool::wait_until(Duration::from_secs(if lost { 10 } else { 0 }), gone);
            assert!(died || !lost, "no answer from a living server: {answer}");
            if died {
                self.server.wait_exit()
            } else {
                self.server.stop_for_restart()
            };
        }
        self.server.restart();
        assert!(self.server.ready_after() < Duration::from_secs(2), "{step}");
        let client = self.server.client();
        settle(&client, &mut self.ledger, Depth::Everything);
        oracle::clean(&client);
        died
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

/// Ends a server that has survived, in either way.
trait StopForRestart {
    fn stop_for_restart(&mut self) -> std::process::ExitStatus;
}

impl StopForRestart for Server {
    fn stop_for_restart(&mut self) -> std::process::ExitStatus {
        // Something may still reach the step while it stops: both ends are ends.
        self.sigterm();
        self.wait_exit()
    }
}

#[test]
fn a_crash_at_any_step_leaves_an_operation_wholly_done_or_undone() {
    if !cfg!(debug_assertions) {
        return skip("steps", "named steps are in debug builds only");
    }
    let _alone = tool::heavy();
    let counts = knob("LARDER_E2E_STEPS", 1);
    let mut dice = Dice::new(Dice::seed());
    let mut died: BTreeMap<&str, u64> = STEPS.iter().map(|step| (*step, 0)).collect();
    let mut subject = Subject::new(0);
    for (row, step) in STEPS.iter().enumerate() {
        for (column, operation) in OPERATIONS.iter().enumerate() {
            // By default each step meets a third of the operations, all of them over the steps;
            // the knob asks for all, at each of the first n times that a step is reached.
            if counts == 1 && (row + column) % 3 != 0 {
                continue;
            }
            for count in 1..=counts {
                let count = if counts == 1 { 1 + dice.below(3) } else { count };
                let op = subject.prepare(operation);
                if subject.strike(step, count, op) {
                    *died.get_mut(step).expect("a step of the list") += 1;
                } else if counts > 1 {
                    break;
                }
            }
        }
        subject.clear();
    }
    tool::say(format_args!("crashes at each step: {died:?}"));
    let never: Vec<&str> = died.iter().filter(|(_, n)| **n == 0).map(|(step, _)| *step).collect();
    assert!(never.len() < STEPS.len() / 2, "these were never reached: {never:?}");
}
