//! One operation after the other: the store answers what the model answers, and holds what the
//! model holds.
//!
//! Not here: operations at once (`concurrent`).

use std::collections::BTreeMap;

use larder_base::id::NodeId;
use larder_core::testing::{
    Driver, Fixture, Model, Op,
    generate::{Draft, Mix, draft},
};
use proptest::{collection::vec, test_runner::TestRunner};

use super::{cases, fresh_seed, runtime};

const MIX: Mix = Mix { spaces: 2, limits: true, long: true };

/// What the etag of a directory stood for when it was last seen, and all that it ever was.
#[derive(Default)]
struct DirTags {
    last: BTreeMap<NodeId, (String, String)>,
    ever: BTreeMap<String, String>,
}

impl DirTags {
    /// An etag changes exactly with what is below, and never comes back.
    fn observe(&mut self, model: &Model, tags: BTreeMap<NodeId, String>) {
        for (no, id) in model.attached_dirs() {
            let Some(tag) = tags.get(&id) else { continue };
            let print = format!("{id}:{}", model.fingerprint(no));
            let before = self.last.insert(id, (tag.clone(), print.clone()));
            if let Some((old_tag, old_print)) = before {
                assert_eq!(*tag == old_tag, print == old_print, "etag of {id}: {print}");
            }
            let first = self.ever.entry(tag.clone()).or_insert_with(|| print.clone());
            assert_eq!(*first, print, "an etag of {id} came back for something else");
        }
    }
}

async fn agrees(drafts: Vec<Draft>, fixture: Fixture) {
    let driver = Driver::new(fixture, MIX.spaces).await;
    let mut model = Model::new(MIX.spaces);
    let mut tags = DirTags::default();
    let mut done = Vec::new();
    for draft in &drafts {
        let mut op = draft.aim(&model);
        if let Op::Upload { body, .. } = &mut op {
            *body = larder_core::testing::Body::new(fresh_seed(), body.length);
        }
        let ours = model.apply(&op);
        let told = driver.run(&op, &model.bound).await;
        done.push(format!("{op:?} -> {:?}", told.answer));
        let history = || done.join("\n");
        if let Err(reason) = model.agrees(&ours, &told.answer) {
            panic!("{reason}\n{}\nafter\n{}", told.detail, history());
        }
        let seen = driver.observe(false).await.unwrap();
        if let Err(reason) = model.same_spaces(&seen) {
            panic!("{reason}\nafter\n{}", history());
        }
        tags.observe(&model, driver.directory_tags().await.unwrap());
    }
    finish(&driver, &mut model).await;
}

/// Everything that is left is what the model has: every byte, also of what is in the trash.
pub(crate) async fn finish(driver: &Driver, model: &mut Model) {
    let report = driver.fixture.assert_clean().await;
    model.unsettled = false;
    model.same_spaces(&driver.observe(true).await.unwrap()).unwrap();
    assert_eq!(report.counts.chunks as usize, model.large_bodies().len(), "blobs with chunks");
    for space in 0..driver.spaces.len() {
        let op = Op::SetLimit { space, live: None };
        driver.run(&op, &model.bound).await.answer.unwrap();
        model.apply(&op).unwrap();
        for item in model.spaces[space].trash.clone().into_keys() {
            let to = Some(vec![format!("restored-{item}")]);
            let op = Op::Restore { space, item, to, rename: false, recreate: false };
            let told = driver.run(&op, &model.bound).await;
            let ours = model.apply(&op);
            model.agrees(&ours, &told.answer).unwrap();
        }
    }
    model.same_spaces(&driver.observe(true).await.unwrap()).unwrap();
    for space in 0..driver.spaces.len() {
        for name in model.names_in_root(space) {
            let at = larder_core::testing::At { space, path: vec![name] };
            let op = Op::Delete { at, when: larder_core::testing::When::Always };
            driver.run(&op, &model.bound).await.answer.unwrap();
        }
        let op = Op::EmptyTrash { space };
        driver.run(&op, &model.bound).await.answer.unwrap();
    }
    let report = driver.fixture.assert_clean().await;
    assert_eq!((report.counts.blobs, report.counts.chunks), (0, 0), "what was purged is gone");
    driver.fixture.shutdown().await;
}

#[test]
fn every_sequence_of_operations_answers_and_leaves_what_the_model_does() {
    let runtime = runtime();
    let mut runner = TestRunner::new(cases(200));
    let run = |drafts| {
        runtime.block_on(async { agrees(drafts, Fixture::new().await).await });
        Ok(())
    };
    runner.run(&vec(draft(MIX), 1..80), run).unwrap();
}

#[test]
fn sequences_on_the_engines_with_files_agree_with_the_model_too() {
    let runtime = runtime();
    let mut runner = TestRunner::new(cases(5));
    let run = |drafts| {
        let directory = tempfile::tempdir().unwrap();
        runtime.block_on(async {
            agrees(drafts, Fixture::embedded(directory.path()).await).await;
        });
        Ok(())
    };
    runner.run(&vec(draft(MIX), 30..60), run).unwrap();
}
