//! Races for names and places, and what is true of every tree.
//!
//! Not here: races of contents (`upload`, `revision`), of the trash (`trash`).

use std::collections::BTreeSet;

use larder_base::{ErrorKind, id::NodeId, limits::PATH_DEPTH_MAX};
use larder_core::{
    Caller, EntryKind, ListOptions, NewSpace, PolicyChange, RestoreOptions, SpaceKind, SpaceLimits,
    SpaceRef, Target,
    testing::{
        Fixture,
        fixture::{path, read_all},
    },
};

use super::{race, racy};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_tree_1_of_many_mkdirs_one_wins_and_the_others_are_told_its_id() {
    let fixture = racy(1).await;
    for round in 0..20 {
        let made = race(&fixture, 64, move |_, fixture| async move {
            let at = path(&format!("dir-{round}"));
            fixture.larder.create_dir(&fixture.root, &SpaceRef::Home, &at, false).await
        })
        .await;
        let (won, lost): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1, "one winner");
        let winner = won.into_iter().next().unwrap().unwrap().0.id.to_string();
        for error in lost.into_iter().map(Result::unwrap_err) {
            assert_eq!(error.kind(), ErrorKind::AlreadyExists);
            assert_eq!(error.existing(), Some(&*winner));
        }
        assert_eq!(fixture.tree("").await.len(), round + 1);
    }
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_tree_1_a_name_is_a_file_or_a_directory_and_the_other_is_refused() {
    let fixture = racy(2).await;
    for round in 0..50 {
        let made = race(&fixture, 4, move |i, fixture| async move {
            let at = format!("x-{round}");
            if i % 2 == 0 {
                let (home, at) = (SpaceRef::Home, path(&at));
                let made = fixture.larder.create_dir(&fixture.root, &home, &at, false).await;
                made.map(|made| made.0.kind)
            } else {
                fixture.put(&at, "file").await.map(|written| written.entry.kind)
            }
        })
        .await;
        let kind = fixture.stat(&format!("x-{round}")).await.unwrap().kind;
        for answer in made {
            match answer {
                Ok(won) => assert_eq!(won, kind, "every winner made what is there"),
                Err(error) => {
                    let expected = if kind == EntryKind::File {
                        [ErrorKind::AlreadyExists; 2]
                    } else {
                        [ErrorKind::AlreadyExists, ErrorKind::WrongType]
                    };
                    assert!(expected.contains(&error.kind()), "{error:?}");
                }
            }
        }
    }
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn missing_parents_are_made_once_by_many_at_once() {
    let fixture = racy(3).await;
    for round in 0..20 {
        let made = race(&fixture, 16, move |i, fixture| async move {
            fixture.mkdir(&format!("r{round}/a/b/{}", i % 4)).await
        })
        .await;
        let distinct: BTreeSet<NodeId> = made.into_iter().collect();
        assert_eq!(distinct.len(), 4, "one directory per name");
        assert_eq!(fixture.tree(&format!("r{round}")).await.len(), 6);
    }
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_tree_2_of_a_delete_and_a_move_of_one_entry_one_happens() {
    let fixture = racy(4).await;
    for round in 0..60 {
        let (a, b) = (format!("a{round}"), format!("b{round}"));
        let id = if round % 2 == 0 {
            fixture.put(&a, "x").await.unwrap().entry.id
        } else {
            fixture.put(&format!("{a}/x"), "x").await.unwrap();
            fixture.stat(&a).await.unwrap().id
        };
        let answers = race(&fixture, 2, move |i, fixture| {
            let (a, b) = (a.clone(), b.clone());
            async move {
                match i {
                    0 => fixture.mv(&a, &b, false).await.map(drop),
                    _ => fixture.rm(&a).await.map(drop),
                }
            }
        })
        .await;
        let won = answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(won, 1, "{answers:?}");
        let lost = answers.into_iter().find_map(Result::err).unwrap();
        assert_eq!(lost.kind(), ErrorKind::NotFound);
        let in_trash = fixture.trash().await.iter().any(|item| item.id == id);
        let found = fixture.larder.stat(&fixture.root, &Target::Node(id)).await;
        assert_ne!(in_trash, found.is_ok(), "it is in one place");
    }
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_moves_of_one_entry_one_happens() {
    let fixture = racy(5).await;
    for round in 0..20 {
        let id = fixture.put(&format!("from-{round}"), "x").await.unwrap().entry.id;
        let moved = race(&fixture, 8, move |i, fixture| async move {
            fixture.mv(&format!("from-{round}"), &format!("to-{round}-{i}"), false).await
        })
        .await;
        let won: Vec<_> = moved.iter().filter_map(|moved| moved.as_ref().ok()).collect();
        assert_eq!(won.len(), 1);
        assert_eq!(won[0].0.id, id);
        assert_eq!(fixture.stat(&won[0].0.path.to_string()).await.unwrap().id, id);
        for error in moved.into_iter().filter_map(Result::err) {
            assert_eq!(error.kind(), ErrorKind::NotFound);
        }
    }
    fixture.assert_clean().await;
}

/// Moves of directories into one another in a ring, below directories as deep as said.
async fn ring(size: usize, depth: usize, rounds: usize) {
    let fixture = racy(6 + size as u64).await;
    for round in 0..rounds {
        let above = |i: usize| {
            let deep = vec!["d"; depth].join("/");
            if depth == 0 { format!("r{round}-{i}") } else { format!("r{round}-{i}/{deep}") }
        };
        for i in 0..size {
            fixture.put(&format!("{}/{i}/file", above(i)), "x").await.unwrap();
        }
        let moves = race(&fixture, size, |i, fixture| {
            let from = format!("r{round}-{i}");
            let to = format!("{}/{}/m{i}", above((i + 1) % size), (i + 1) % size);
            async move { fixture.mv(&from, &to, false).await.map(drop) }
        })
        .await;
        let won = moves.iter().filter(|moved| moved.is_ok()).count();
        assert!((1..size).contains(&won), "{won} of {size} moves of a ring happened");
        for error in moves.into_iter().filter_map(Result::err) {
            // The place to move it to may be below it already, or where it was not looked for.
            let kinds = [ErrorKind::Denied, ErrorKind::Conflict, ErrorKind::Invalid];
            assert!(kinds.contains(&error.kind()), "{error:?}");
        }
        let files = fixture.tree("").await;
        let files = files.iter().filter(|entry| entry.kind == EntryKind::File).count();
        assert_eq!(files, size * (round + 1), "all of it hangs at the root");
    }
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_tree_3_two_moves_into_one_another_do_not_both_happen() {
    ring(2, 0, 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_tree_3_three_moves_in_a_ring_do_not_all_happen() {
    ring(3, 0, 60).await;
}

/// Deeper than what a transaction compares directory by directory.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_tree_3_rings_of_deep_directories_do_not_close_either() {
    ring(2, 23, 10).await;
    let fixture = racy(9).await;
    for round in 0..10 {
        let deep = |i: usize| {
            let below = [vec![format!("r{round}-{i}")], vec!["d".to_owned(); 59]].concat();
            path(&below.join("/"))
        };
        for i in 0..2 {
            // 25 at a time are made at most.
            for levels in [20, 40, 60] {
                let names = deep(i).names()[..levels].to_vec();
                let at = larder_base::name::TreePath::from_names(names).unwrap();
                let home = SpaceRef::Home;
                fixture.larder.create_dir(&fixture.root, &home, &at, true).await.unwrap();
            }
        }
        let moves = race(&fixture, 2, |i, fixture| {
            let (from, to) = (format!("r{round}-{i}"), format!("{}/m", deep(1 - i)));
            async move { fixture.mv(&from, &to, false).await.map(drop) }
        })
        .await;
        assert_eq!(moves.iter().filter(|moved| moved.is_ok()).count(), 1, "{moves:?}");
    }
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_tree_4_sizes_are_exact_after_everything_at_once() {
    let fixture = racy(10).await;
    fixture.mkdir("a/b").await;
    fixture.mkdir("c").await;
    for round in 0..20_u64 {
        race(&fixture, 8, move |i, fixture| async move {
            let size = 100 * (i + 1);
            match i {
                0..4 => drop(fixture.put(&format!("a/b/{i}"), vec![round as u8; size]).await),
                4 => drop(fixture.mv("a/b", "c/b", false).await),
                5 => drop(fixture.mv("c/b", "a/b", false).await),
                6 => drop(fixture.rm("a/b/1").await),
                _ => drop(fixture.cp("a", &format!("c/copy-{round}"), false).await),
            }
        })
        .await;
        fixture.assert_sound().await;
    }
    let files = fixture.tree("").await;
    let sum: u64 =
        files.iter().filter(|entry| entry.kind == EntryKind::File).map(|entry| entry.size).sum();
    assert_eq!(fixture.stat("").await.unwrap().size, sum);
    assert_eq!(fixture.usage().await.live, sum);
    fixture.assert_clean().await;
}

/// Uploads into a directory, so many levels below one, while that is deleted: what was
/// acknowledged is in what was deleted.
async fn uploads_into_what_is_deleted(seed: u64, depth: usize, uploads: usize, rounds: usize) {
    let fixture = racy(seed).await;
    for round in 0..rounds {
        let top = format!("d{round}");
        let mut dir = top.clone();
        for _ in 0..depth.div_ceil(20) {
            // 25 at a time are made at most.
            dir = format!("{dir}/{}", vec!["x"; 20].join("/"));
            fixture.mkdir(&dir).await;
        }
        fixture.mkdir(&dir).await;
        let names = (top.clone(), dir.clone());
        let answers = race(&fixture, uploads + 1, move |i, fixture| {
            let (top, dir) = names.clone();
            async move {
                if i == uploads {
                    return fixture.rm(&top).await.map(|item| (i, Some(item.item)));
                }
                let options = larder_core::UploadOptions::default();
                // Every fifth body is one of chunks.
                let body = vec![i as u8; if i % 5 == 0 { 140_000 } else { 10 + i }];
                let at = format!("{dir}/{i}");
                fixture.upload(&SpaceRef::Home, &at, body, options).await.map(|_| (i, None))
            }
        })
        .await;
        let mut acknowledged = BTreeSet::new();
        let mut item = None;
        for answer in answers {
            match answer {
                Ok((_, Some(deleted))) => item = Some(deleted),
                Ok((i, None)) => drop(acknowledged.insert(i)),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}"),
            }
        }
        assert!(fixture.stat(&top).await.is_err());
        fixture.settle().await;
        fixture.assert_sound().await;
        let usage = fixture.usage().await;
        let deleted = fixture.trash().await[0].size;
        assert_eq!((usage.live, usage.retained), (0, deleted), "none came after the delete");
        fixture.restore(item.unwrap()).await.unwrap();
        let found: BTreeSet<usize> = fixture
            .tree(&dir)
            .await
            .iter()
            .map(|entry| entry.path.names().last().unwrap().as_str().parse().unwrap())
            .collect();
        assert_eq!(found, acknowledged, "exactly what was acknowledged is there");
        for i in acknowledged {
            let bytes = fixture.get(&format!("{dir}/{i}")).await.unwrap();
            assert!(bytes.iter().all(|byte| *byte == i as u8));
        }
        let item = fixture.rm(&top).await.unwrap().item;
        fixture.purge(item).await.unwrap();
        fixture.settle().await;
    }
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_tree_5_nothing_is_acknowledged_into_a_directory_that_is_deleted() {
    uploads_into_what_is_deleted(11, 0, 50, 6).await;
}

/// Deeper than what a transaction compares directory by directory.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_tree_5_nothing_is_acknowledged_far_below_a_directory_that_is_deleted() {
    uploads_into_what_is_deleted(19, 50, 20, 12).await;
}

/// One of two files is there in every state; so it is in every copy.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_copy_of_a_directory_that_changes_is_one_of_its_states() {
    let fixture = racy(12).await;
    for i in 0..70 {
        fixture.put(&format!("dir/fill-{i:02}/x"), "x").await.unwrap();
    }
    fixture.put("dir/a-here", "moving").await.unwrap();
    let answers = race(&fixture, 3, |i, fixture| async move {
        for round in 0..12 {
            match i {
                // First and last of the names, so that a walk meets them at different times.
                0 => {
                    fixture.mv("dir/a-here", "dir/z-there", false).await.unwrap();
                    fixture.mv("dir/z-there", "dir/a-here", false).await.unwrap();
                }
                _ => drop(fixture.cp("dir", &format!("copy-{i}-{round}"), false).await.unwrap()),
            }
        }
    })
    .await;
    assert_eq!(answers.len(), 3);
    for i in 1..3 {
        for round in 0..12 {
            let entries = fixture.tree(&format!("copy-{i}-{round}")).await;
            assert_eq!(entries.len(), 141, "the copy is whole");
            let moving = entries.iter().filter(|entry| {
                ["a-here", "z-there"].contains(&entry.path.names().last().unwrap().as_str())
            });
            assert_eq!(moving.count(), 1, "it is in one of two places");
        }
    }
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_replacing_move_leaves_no_moment_without_the_name() {
    let fixture = racy(13).await;
    fixture.put("target", "0").await.unwrap();
    let seen = race(&fixture, 2, |i, fixture| async move {
        for round in 0..60 {
            if i == 0 {
                fixture.put("new", format!("{round}")).await.unwrap();
                fixture.mv("new", "target", true).await.unwrap();
            } else {
                let download = fixture
                    .larder
                    .download(&fixture.root, &Target::Path(SpaceRef::Home, path("target")), None)
                    .await;
                read_all(&download.unwrap()).await.unwrap();
            }
        }
    })
    .await;
    assert_eq!(seen.len(), 2);
    assert_eq!(fixture.trash().await.len(), 60, "what was replaced is in the trash");
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_tree_grows_as_deep_as_a_path_can_name_and_no_deeper() {
    let fixture = Fixture::new().await;
    let home = SpaceRef::Home;
    for depth in (20..=PATH_DEPTH_MAX - 16).step_by(20) {
        let at = path(&vec!["d"; depth].join("/"));
        fixture.larder.create_dir(&fixture.root, &home, &at, true).await.unwrap();
    }
    let deepest = vec!["d"; PATH_DEPTH_MAX].join("/");
    fixture.larder.create_dir(&fixture.root, &home, &path(&deepest), true).await.unwrap();
    assert_eq!(fixture.tree("").await.len(), PATH_DEPTH_MAX);
    fixture.mkdir("x/y").await;
    let refused = fixture.mv("d", "x/y/d", false).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    // What was deleted does not fit below a place that has become deeper.
    let item = fixture.rm("d").await.unwrap();
    let to = Some(path("x/y/d"));
    let options = RestoreOptions { to, ..RestoreOptions::default() };
    let refused = fixture.larder.restore(&fixture.root, &home, item.item, &options).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
    fixture.restore(item.item).await.unwrap();
    assert_eq!(fixture.stat(&deepest).await.unwrap().kind, EntryKind::Dir);
    fixture.rm("d").await.unwrap();
    fixture.larder.empty_trash(&fixture.root, &home).await.unwrap();
    let report = fixture.assert_clean().await;
    assert_eq!(report.counts.directories, 3, "the root, x and y");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_listing_gives_what_stays_exactly_once_whatever_else_changes() {
    let fixture = racy(14).await;
    for i in 0..40 {
        fixture.put(&format!("d/stay-{i:02}"), "x").await.unwrap();
    }
    let pages = race(&fixture, 2, |i, fixture| async move {
        let mut found = Vec::new();
        for round in 0..10 {
            if i == 0 {
                for j in 0..10 {
                    fixture.put(&format!("d/stay-{j:02}-{round}"), "y").await.unwrap();
                    fixture.rm(&format!("d/stay-{j:02}-{round}")).await.unwrap();
                }
                continue;
            }
            let mut names = Vec::new();
            let mut cursor = None;
            loop {
                let options = ListOptions { cursor, limit: 7, recursive: round % 2 == 0 };
                let home = SpaceRef::Home;
                let page = fixture.larder.list(&fixture.root, &home, &path("d"), &options).await;
                let page = page.unwrap();
                names.extend(page.entries.iter().map(|entry| entry.path.to_string()));
                cursor = page.cursor;
                if cursor.is_none() {
                    break;
                }
            }
            names.retain(|name| name.len() == "d/stay-00".len());
            found.push(names);
        }
        found
    })
    .await;
    let all: Vec<String> = (0..40).map(|i| format!("d/stay-{i:02}")).collect();
    assert!(pages[1].iter().all(|names| *names == all));
    fixture.assert_clean().await;
}

fn project(name: &str) -> NewSpace {
    let (kind, limits) = (SpaceKind::Project, SpaceLimits::default());
    NewSpace { name: name.to_owned(), kind, limits, policy: PolicyChange::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_space_1_a_space_is_whole_from_the_moment_that_it_is_found() {
    let fixture = racy(15).await;
    for round in 0..30 {
        race(&fixture, 4, move |i, fixture| async move {
            let name = format!("space-{round}");
            if i == 0 {
                fixture.larder.create_space(&fixture.root, project(&name)).await.unwrap();
                return;
            }
            for _ in 0..20 {
                let space = SpaceRef::Name(name.clone());
                match fixture.larder.space(&fixture.root, &space).await {
                    Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
                    Ok(_) => {
                        let at = format!("file-{i}");
                        let options = larder_core::UploadOptions::default();
                        fixture.upload(&space, &at, "x", options).await.unwrap();
                        break;
                    }
                }
            }
        })
        .await;
    }
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_space_2_first_uses_of_a_home_at_once_give_one_home() {
    let fixture = racy(16).await;
    for round in 0..15 {
        let user: Caller = fixture.user(&format!("user-{round}")).await;
        let homes = race(&fixture, 16, |i, fixture| {
            let user = user.clone();
            async move {
                let (home, at) = (SpaceRef::Home, path(&format!("d{i}")));
                fixture.larder.create_dir(&user, &home, &at, true).await.unwrap().0.space
            }
        })
        .await;
        let distinct: BTreeSet<_> = homes.into_iter().collect();
        assert_eq!(distinct.len(), 1, "all got the same home");
        let all = ListOptions::default();
        let seen = fixture.larder.spaces(&user, &all).await.unwrap().entries;
        assert_eq!(seen.len(), 1, "there is no other");
        let home = SpaceRef::Home;
        let list = fixture.larder.list(&user, &home, &path(""), &all).await.unwrap();
        assert_eq!(list.entries.len(), 16, "and it has what all of them made");
    }
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_space_3_of_many_spaces_of_one_name_one_is_made() {
    let fixture = racy(17).await;
    for round in 0..30 {
        let made = race(&fixture, 8, move |_, fixture| async move {
            fixture.larder.create_space(&fixture.root, project(&format!("name-{round}"))).await
        })
        .await;
        let (won, lost): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
        let winner = won.into_iter().map(Result::unwrap).collect::<Vec<_>>();
        assert_eq!(winner.len(), 1);
        for error in lost.into_iter().map(Result::unwrap_err) {
            assert_eq!(error.kind(), ErrorKind::AlreadyExists);
            assert_eq!(error.existing(), Some(&*winner[0].id.to_string()));
        }
    }
    let all = ListOptions::default();
    assert_eq!(fixture.larder.spaces(&fixture.root, &all).await.unwrap().entries.len(), 30);
    fixture.assert_clean().await;
}

/// Uploads, directories and copies into a space while it is deleted: all that was acknowledged
/// goes with it, nothing comes after, and nothing of it stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_stays_of_a_space_that_is_deleted_while_it_is_used() {
    let fixture = racy(18).await;
    for round in 0..10 {
        let space = fixture.space(&format!("going-{round}"), SpaceLimits::default()).await;
        let options = larder_core::UploadOptions { parents: true, ..Default::default() };
        for at in ["dir/a", "dir/b", "dir/sub/c"] {
            fixture.upload(&space, at, vec![1; 150_000], options.clone()).await.unwrap();
        }
        let answers = race(&fixture, 20, |i, fixture| {
            let (space, options) = (space.clone(), options.clone());
            async move {
                let at = format!("new-{i}");
                match i {
                    0 => fixture.larder.delete_space(&fixture.root, &space).await,
                    1..4 => {
                        let (from, to) = (path("dir"), path(&at));
                        let to = (&space, &to);
                        fixture
                            .larder
                            .copy_entry(&fixture.root, (&space, &from), to, false)
                            .await
                            .map(drop)
                    }
                    _ => {
                        let bytes = vec![1; if i % 2 == 0 { 150_000 } else { 10 }];
                        fixture.upload(&space, &at, bytes, options).await.map(drop)
                    }
                }
            }
        })
        .await;
        assert!(answers[0].is_ok(), "{:?}", answers[0]);
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        }
        let report = fixture.assert_clean().await;
        assert_eq!((report.counts.spaces, report.counts.blobs), (0, 0));
    }
}
