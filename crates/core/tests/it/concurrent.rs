//! Operations at once: every history is explained by an order of its operations, consistent with
//! real time, in which the model gives every answer and the state at the end; and the checker
//! finds nothing, also while they run.
//!
//! Not here: aimed races (`tree`, `upload`, `revision`, `trash`, `quota`, `blob`).

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use larder_core::testing::{
    Body, Driver, Fixture, Model, Op,
    generate::{Draft, Mix, draft},
    history::{Call, explain},
};
use proptest::{collection::vec, strategy::Strategy, test_runner::TestRunner};
use tokio::sync::Barrier;

use super::{cases, fresh_seed, racy, runtime, sequential::finish};

/// Models that may explain what has happened so far.
const MODELS_MAX: usize = 8;

fn aim(draft: &Draft, model: &Model) -> Op {
    let mut op = draft.aim(model);
    if let Op::Upload { body, .. } = &mut op {
        *body = Body::new(fresh_seed(), body.length);
    }
    op
}

/// Runs a round: each task its operations one after the other, all tasks at once.
async fn run(driver: &Driver, model: &Model, tasks: Vec<Vec<Op>>) -> Vec<Call> {
    let clock = Arc::new(AtomicU64::new(0));
    let start = Arc::new(Barrier::new(tasks.len() + 1));
    let env = &driver.fixture.env;
    let mut running = Vec::new();
    for ops in tasks {
        let (driver, clock, start) = (driver.clone(), Arc::clone(&clock), Arc::clone(&start));
        let bound = model.bound.clone();
        running.push(env.spawn("calls", async move {
            let mut calls = Vec::new();
            start.wait().await;
            for op in ops {
                let invoked = clock.fetch_add(1, Ordering::SeqCst);
                let told = driver.run(&op, &bound).await;
                let returned = clock.fetch_add(1, Ordering::SeqCst);
                calls.push(Call { op, invoked, returned, told });
            }
            calls
        }));
    }
    let fixture = driver.fixture.clone();
    let looking = env.spawn("look", async move {
        start.wait().await;
        fixture.assert_sound().await;
        fixture.larder.collect(&fixture.root).await.unwrap();
        fixture.assert_sound().await;
    });
    let mut calls = Vec::new();
    for task in running {
        calls.extend(task.await.unwrap());
    }
    looking.await.unwrap();
    calls
}

/// A case: what comes first, one after the other, and then rounds of tasks.
type Case = (Vec<Draft>, Vec<Vec<Vec<Draft>>>);

async fn is_linearizable(mix: Mix, (prelude, rounds): Case, fixture: Fixture) {
    let driver = Driver::new(fixture, mix.spaces).await;
    let mut model = Model::new(mix.spaces);
    for draft in &prelude {
        let op = aim(draft, &model);
        let ours = model.apply(&op);
        let told = driver.run(&op, &model.bound).await;
        model.agrees(&ours, &told.answer).unwrap();
        model.unsettled = true;
        model.same_spaces(&driver.observe(false).await.unwrap()).unwrap();
    }
    model.alone = false;
    let mut models = vec![model];
    let mut told = Vec::new();
    for round in rounds {
        let first = models[0].clone();
        let aimed = |task: &Vec<Draft>| task.iter().map(|draft| aim(draft, &first)).collect();
        let calls = run(&driver, &first, round.iter().map(aimed).collect()).await;
        driver.fixture.assert_clean().await;
        let end = driver.observe(false).await.unwrap();
        let mut next = Vec::new();
        let mut reasons = Vec::new();
        for mut model in models {
            model.unsettled = false;
            let mut calls = calls.clone();
            for call in &mut calls {
                call.op = first.bound.translate(&call.op, &model.bound);
            }
            match explain(&[model], &calls, &end) {
                Ok(found) => next.extend(found),
                Err(why) => reasons.extend(why),
            }
        }
        let line = |call: &Call| {
            let Call { op, invoked, returned, told } = call;
            format!("{invoked}..{returned} {op:?} -> {:?} {}", told.answer, told.detail)
        };
        told.push(calls.iter().map(line).collect::<Vec<_>>().join("\n"));
        next.truncate(MODELS_MAX);
        assert!(
            !next.is_empty(),
            "no order explains\n{}\nbefore: {first:#?}\nend: {end:#?}\nreasons: {reasons:#?}",
            told.join("\n--\n")
        );
        models = next;
    }
    let mut model = models.swap_remove(0);
    if models.is_empty() {
        model.alone = true;
        finish(&driver, &mut model).await;
    } else {
        driver.fixture.assert_clean().await;
        driver.fixture.shutdown().await;
    }
}

fn case(mix: Mix) -> impl Strategy<Value = Case> {
    let task = || vec(draft(mix), 1..3);
    (vec(draft(mix), 4..14), vec(vec(task(), 2..5), 1..4))
}

fn check(mix: Mix, count: u32) {
    let runtime = runtime();
    let mut runner = TestRunner::new(cases(count));
    let run = |case: Case| {
        runtime.block_on(async {
            is_linearizable(mix, case, racy(fresh_seed()).await).await;
        });
        Ok(())
    };
    runner.run(&case(mix), run).unwrap();
}

#[test]
fn operations_at_once_are_linearizable() {
    check(Mix { spaces: 1, limits: false, long: false }, 150);
}

#[test]
fn operations_at_once_in_limited_spaces_are_linearizable() {
    check(Mix { spaces: 2, limits: true, long: false }, 100);
}

#[test]
fn operations_at_once_on_the_engines_with_files_are_linearizable() {
    let runtime = runtime();
    let mut runner = TestRunner::new(cases(10));
    let mix = Mix { spaces: 1, limits: false, long: false };
    let run = |case: Case| {
        let directory = tempfile::tempdir().unwrap();
        runtime.block_on(async {
            is_linearizable(mix, case, Fixture::embedded(directory.path()).await).await;
        });
        Ok(())
    };
    runner.run(&case(mix), run).unwrap();
}
