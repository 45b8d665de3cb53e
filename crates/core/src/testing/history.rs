//! Whether a history of concurrent calls is linearizable: some order of their steps, consistent
//! with real time, gives every answer and the state at the end.
//!
//! Source: Wing and Gong, "Testing and verifying concurrent objects", JPDC 17 (1993), with the
//! memory of Lowe, "Testing for linearizability", CCPE 29 (2017): a state that has been met with
//! the same progress of all calls is not searched again.
//!
//! Promises: as hidden state (what is inside the trash) can differ between two explanations, all
//! models that explain a history are answered, up to a bound.
//!
//! Not here: the steps of operations ([`super::steps`]).

use std::collections::BTreeSet;

use larder_base::ErrorKind;

use super::{
    driver::{Observed, Told},
    model::Model,
    op::{Op, Refusal},
    steps::{Progress, Step},
};

/// Explanations that are followed.
const EXPLANATIONS_MAX: usize = 64;

/// One call that was made.
#[derive(Clone, Debug)]
pub struct Call {
    /// What was called.
    pub op: Op,
    /// When, on a clock that all calls share.
    pub invoked: u64,
    /// When it was answered.
    pub returned: u64,
    /// The answer.
    pub told: Told,
}

impl Call {
    fn before(&self, other: &Self) -> bool {
        self.returned < other.invoked
    }
}

/// Where a search is: the progress of each call, `None` for those that have ended.
type Place = (Vec<Option<Progress>>, Model);

/// The models that some order of `calls` leads to from one of `starts`, and that are what was
/// observed at the end; or the last reasons against it.
pub fn explain(
    starts: &[Model],
    calls: &[Call],
    end: &Observed,
) -> Result<Vec<Model>, Vec<String>> {
    let mut found = Vec::new();
    let mut reasons = Vec::new();
    let mut met: BTreeSet<Place> = BTreeSet::new();
    let begun = vec![Some(Progress::Begun); calls.len()];
    let mut waiting: Vec<Place> =
        starts.iter().map(|model| (begun.clone(), model.clone())).collect();
    while let Some((progress, model)) = waiting.pop() {
        if found.len() >= EXPLANATIONS_MAX || !met.insert((progress.clone(), model.clone())) {
            continue;
        }
        if progress.iter().all(Option::is_none) {
            let mut model = model;
            match model.same_spaces(end) {
                Ok(()) => found.push(model),
                Err(reason) => reasons.push(reason),
            }
            continue;
        }
        for (i, call) in calls.iter().enumerate() {
            let Some(at) = progress[i].clone() else { continue };
            let open = |j: &usize| progress[*j].is_some();
            let early = (0..calls.len()).filter(open).any(|j| calls[j].before(call));
            if early {
                continue;
            }
            let mut progress = progress.clone();
            match advance(&model, calls, i, at) {
                Ok((next, model)) => {
                    progress[i] = next;
                    waiting.push((progress, model));
                }
                Err(reason) => reasons.push(format!("{:?}: {reason}", call.op)),
            }
        }
    }
    if found.is_empty() { Err(reasons) } else { Ok(found) }
}

/// The model after the next step of a call, if its answer is then what it was.
fn advance(
    model: &Model,
    calls: &[Call],
    i: usize,
    at: Progress,
) -> Result<(Option<Progress>, Model), String> {
    let call = &calls[i];
    let mut model = model.clone();
    let refused = |kind| matches!(&call.told.answer, Err(Refusal { kind: is, .. }) if *is == kind);
    // A copy may say that its source was purged or replaced under its hands: it did nothing then.
    if refused(ErrorKind::Busy) && matches!(call.op, Op::Copy { .. }) {
        return Ok((None, model));
    }
    // What was promised to others at the time may have been in the way.
    if refused(ErrorKind::QuotaExceeded) {
        let others = calls
            .iter()
            .enumerate()
            .filter(|(j, other)| *j != i && !other.before(call) && !call.before(other));
        model.grace = others.map(|(_, other)| other.op.promised_max()).sum();
    }
    let step = model.step(&call.op, at);
    model.grace = 0;
    match step {
        Step::On(progress) => Ok((Some(progress), model)),
        Step::End(ours) => {
            model.agrees(&ours, &call.told.answer)?;
            Ok((None, model))
        }
    }
}
