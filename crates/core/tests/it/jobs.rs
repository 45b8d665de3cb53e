//! Jobs: seen, cancelled, gone on with, remembered.

use std::time::Duration;

use larder_base::{ErrorKind, id::JobId};
use larder_core::{
    JobInfo, JobKind, LimitsChange, ListOptions, SpaceChange, SpaceRef,
    testing::{Fixture, fixture::path},
};

/// Waits for the end of a job.
async fn ended(fixture: &Fixture, id: JobId) -> JobInfo {
    for _ in 0..4000 {
        let job = fixture.larder.job(&fixture.root, id).await.unwrap();
        if job.finished.is_some() {
            return job;
        }
        fixture.env.sleep(Duration::from_millis(5)).await;
    }
    panic!("job {id} does not end");
}

async fn finished(fixture: &Fixture) -> Vec<JobInfo> {
    let all = ListOptions::default();
    fixture.larder.finished_jobs(&fixture.root, &all).await.unwrap().entries
}

#[tokio::test]
async fn i_job_1_work_on_request_is_on_the_board_and_remembered() {
    let fixture = Fixture::new().await;
    fixture.put("a", vec![1; 300_000]).await.unwrap();
    for (kind, name) in
        [(JobKind::Check, "check"), (JobKind::Scrub, "scrub"), (JobKind::Collect, "collect")]
    {
        let (job, new) = fixture.larder.start_job(&fixture.root, kind, None).await.unwrap();
        assert!(new);
        assert_eq!(job.kind, name);
        assert_eq!(job.started_by.as_deref(), Some("root"));
        let job = ended(&fixture, job.id).await;
        assert_eq!(job.state, "done", "{job:?}");
        assert!(job.detail.is_some(), "it says what came of it");
        assert_eq!(job.started_by.as_deref(), Some("root"));
        if kind != JobKind::Collect {
            assert!(job.progress > 0, "{job:?}");
        }
    }
    let kinds: Vec<String> = finished(&fixture).await.into_iter().map(|job| job.kind).collect();
    assert_eq!(kinds, ["check", "scrub", "collect"]);
    assert!(fixture.larder.jobs(&fixture.root).await.unwrap().is_empty());
}

#[tokio::test]
async fn i_job_1_a_purge_is_remembered_when_it_is_done() {
    let fixture = Fixture::new().await;
    for i in 0..100 {
        fixture.put(&format!("d/f{i}"), "x").await.unwrap();
    }
    let item = fixture.rm("d").await.unwrap().item;
    fixture.purge(item).await.unwrap();
    fixture.settle().await;
    let jobs = finished(&fixture).await;
    let job = jobs.iter().find(|job| job.kind == "purge").unwrap();
    assert_eq!((job.state.as_str(), job.progress > 0), ("done", true), "{job:?}");
    assert!(job.subject.contains(&item.to_string()));
    fixture.assert_clean().await;
}

#[tokio::test]
async fn i_job_2_what_is_purged_cannot_be_had_back() {
    let fixture = Fixture::new().await;
    // Held back, so that the jobs are seen before they are done.
    let mut purging = Vec::new();
    for i in 0..50 {
        fixture.put(&format!("f{i}"), "x").await.unwrap();
        purging.push(fixture.rm(&format!("f{i}")).await.unwrap().item);
    }
    for item in purging {
        fixture.purge(item).await.unwrap();
        for job in fixture.larder.jobs(&fixture.root).await.unwrap() {
            assert!(!job.cancellable, "{job:?}");
            match fixture.larder.cancel_job(&fixture.root, job.id).await.unwrap_err() {
                error if error.kind() == ErrorKind::NotFound => {}
                error => {
                    assert_eq!(error.kind(), ErrorKind::Conflict);
                    assert!(error.detail().contains("purged"), "{error}");
                }
            }
        }
    }
    fixture.assert_clean().await;
}

#[tokio::test]
async fn i_job_2_a_cancelled_copy_leaves_nothing() {
    let fixture = Fixture::new().await;
    for i in 0..2000 {
        fixture.put(&format!("big/d{}/f{i}", i % 20), "x").await.unwrap();
    }
    let before = fixture.usage().await;
    let copying = fixture.clone();
    let copy = fixture.env.spawn("copy", async move { copying.cp("big", "copy", false).await });
    let job = loop {
        let jobs = fixture.larder.jobs(&fixture.root).await.unwrap();
        if let Some(job) = jobs.into_iter().find(|job| job.kind == "copy") {
            break job;
        }
        assert!(!copy.is_finished(), "the copy was never seen");
        tokio::task::yield_now().await;
    };
    assert!(job.cancellable);
    assert_eq!(job.started_by.as_deref(), Some("root"));
    fixture.larder.cancel_job(&fixture.root, job.id).await.unwrap();
    let error = copy.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    fixture.settle().await;
    assert_eq!(ended(&fixture, job.id).await.state, "cancelled");
    fixture.stat("copy").await.unwrap_err();
    assert_eq!(fixture.usage().await, before);
    fixture.assert_clean().await;
    // One that nobody cancels says how far it came.
    fixture.cp("big", "copy", false).await.unwrap();
    let jobs = finished(&fixture).await;
    let done = jobs.iter().find(|job| job.kind == "copy" && job.state == "done").unwrap();
    assert_eq!(done.progress, 2020, "entries");
    assert_eq!(fixture.tree("copy").await.len(), 1000, "a page of it");
}

#[tokio::test]
async fn i_job_2_long_work_ends_when_it_is_cancelled() {
    let fixture = Fixture::new().await;
    for i in 0..3000 {
        fixture.put(&format!("d{}/f{i}", i % 30), "x").await.unwrap();
    }
    let mut cancelled = 0;
    for _ in 0..20 {
        let (job, _) = fixture.larder.start_job(&fixture.root, JobKind::Check, None).await.unwrap();
        match fixture.larder.cancel_job(&fixture.root, job.id).await {
            Ok(()) => {
                let job = ended(&fixture, job.id).await;
                // It may have come to its end first.
                if job.state == "cancelled" {
                    cancelled += 1;
                    assert_eq!(job.detail.as_deref(), Some("cancelled by root"));
                } else {
                    assert_eq!(job.state, "done");
                }
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "it had ended"),
        }
    }
    assert!(cancelled > 0, "no job was cancelled in time");
    let (job, _) = fixture.larder.start_job(&fixture.root, JobKind::Check, None).await.unwrap();
    assert_eq!(ended(&fixture, job.id).await.state, "done", "the next one runs");
}

#[tokio::test]
async fn i_job_3_the_same_work_is_one_job() {
    let fixture = Fixture::new().await;
    for i in 0..3000 {
        fixture.put(&format!("d{}/f{i}", i % 30), "x").await.unwrap();
    }
    let start = || fixture.larder.start_job(&fixture.root, JobKind::Check, None);
    let (first, new) = start().await.unwrap();
    assert!(new);
    let (second, new) = start().await.unwrap();
    assert_eq!((first.id, new), (second.id, false));
    ended(&fixture, first.id).await;
    assert!(start().await.unwrap().1, "after its end it is another one");
}

#[tokio::test]
async fn only_administrators_see_and_start_jobs() {
    let fixture = Fixture::new().await;
    let alice = fixture.user("alice").await;
    let larder = &fixture.larder;
    let (job, _) = larder.start_job(&fixture.root, JobKind::Scrub, None).await.unwrap();
    let denied = [
        larder.jobs(&alice).await.map(drop).unwrap_err(),
        larder.job(&alice, job.id).await.map(drop).unwrap_err(),
        larder.start_job(&alice, JobKind::Check, None).await.map(drop).unwrap_err(),
        larder.cancel_job(&alice, job.id).await.unwrap_err(),
        larder.finished_jobs(&alice, &ListOptions::default()).await.map(drop).unwrap_err(),
    ];
    assert!(denied.iter().all(|error| error.kind() == ErrorKind::Denied), "{denied:?}");
    let space = Some(&SpaceRef::Home);
    let error = larder.start_job(&fixture.root, JobKind::Scrub, space).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "a scrub is of everything");
}

#[tokio::test]
async fn what_is_over_the_limit_goes_oldest_first() {
    let fixture = Fixture::new().await;
    // Node ids sort by time of making: write the newest revisions into the oldest node.
    fixture.put("first", vec![0; 1000]).await.unwrap();
    fixture.put("second", vec![0; 1000]).await.unwrap();
    for i in 1..=4u8 {
        fixture.put("second", vec![i; 1000]).await.unwrap();
        // Times are milliseconds: those of the other file shall be later ones.
        fixture.env.sleep(Duration::from_millis(3)).await;
    }
    for i in 1..=4u8 {
        fixture.put("first", vec![i; 1000]).await.unwrap();
    }
    assert_eq!(fixture.usage().await.retained, 8000);
    let limits = LimitsChange { retained: Some(Some(5000)), live: None };
    let change = SpaceChange { limits, ..SpaceChange::default() };
    fixture.larder.change_space(&fixture.root, &SpaceRef::Home, change).await.unwrap();
    for _ in 0..2000 {
        if fixture.usage().await.retained <= 5000 {
            break;
        }
        fixture.env.sleep(Duration::from_millis(5)).await;
    }
    let numbers = |revisions: Vec<larder_core::RevisionInfo>| {
        revisions.into_iter().map(|revision| revision.revision).collect::<Vec<_>>()
    };
    assert_eq!(fixture.usage().await.retained, 5000, "no more than needed");
    // The very first revision of `first` is older than all but that of `second`.
    let first = numbers(fixture.revisions("first").await.unwrap());
    let second = numbers(fixture.revisions("second").await.unwrap());
    assert_eq!((first, second), (vec![5, 4, 3, 2], vec![5, 4, 3]));
    fixture.assert_clean().await;
    let jobs = finished(&fixture).await;
    assert!(jobs.iter().any(|job| job.kind == "trim" && job.state == "done"), "{jobs:?}");
}

#[tokio::test]
async fn one_revision_of_a_file_is_deleted_by_id() {
    let fixture = Fixture::new().await;
    let id = fixture.put("a", "1").await.unwrap().entry.id;
    fixture.put("a", "2").await.unwrap();
    fixture.put("a", "3").await.unwrap();
    let (larder, root) = (&fixture.larder, &fixture.root);
    larder.delete_revision_by_id(root, id, 2).await.unwrap();
    let error = larder.delete_revision_by_id(root, id, 3).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "the current one");
    let error = larder.delete_revision_by_id(root, id, 2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let alice = fixture.user("alice").await;
    let error = larder.delete_revision_by_id(&alice, id, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "whose file it is, is nobody's business");
    assert_eq!(fixture.revisions("a").await.unwrap().len(), 2);
    assert_eq!(larder.stat(root, &larder_core::Target::Node(id)).await.unwrap().path, path("a"));
    fixture.assert_clean().await;
}
