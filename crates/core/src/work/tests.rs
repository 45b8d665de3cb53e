//! The queue alone: fairness, ageing, bounds, and that no turn is ever lost.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use larder_base::env::ManualClock;

use super::*;

type Waiting<'a> = Pin<Box<dyn Future<Output = Turn> + 'a>>;

fn client(user: u8, urgency: u8) -> Client {
    let name = Arc::from(format!("user{user}"));
    let user = UserId::from_bytes([user; 16]);
    Client { user, name, priority: Priority(urgency) }
}

fn lane(slots: usize, queue_max: usize) -> (Arc<Lane>, ManualClock) {
    let (env, clock) = Env::manual(1);
    (Arc::new(Lane::new(slots, queue_max, env)), clock)
}

fn enter(lane: &Arc<Lane>, user: u8, urgency: u8) -> Task {
    lane.enter(&client(user, urgency), Class::Upload).expect("the queue has room")
}

fn poll(waiting: &mut Waiting<'_>) -> Poll<Turn> {
    waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

fn wait(task: &Task) -> Waiting<'_> {
    let mut waiting: Waiting<'_> = Box::pin(task.turn());
    assert!(poll(&mut waiting).is_pending());
    waiting
}

#[track_caller]
fn now(task: &Task) -> Turn {
    match poll(&mut (Box::pin(task.turn()) as Waiting<'_>)) {
        Poll::Ready(turn) => turn,
        Poll::Pending => panic!("would wait"),
    }
}

/// Which of those who wait have their turn now.
fn served(waiting: &mut [Option<Waiting<'_>>]) -> Vec<(usize, Turn)> {
    let mut turns = Vec::new();
    for (at, slot) in waiting.iter_mut().enumerate() {
        if let Some(Poll::Ready(turn)) = slot.as_mut().map(poll) {
            *slot = None;
            turns.push((at, turn));
        }
    }
    turns
}

/// The order in which tasks are served when each turn ends before the next begins.
fn order(first: Turn, tasks: &[Task]) -> Vec<usize> {
    let mut waiting: Vec<_> = tasks.iter().map(|task| Some(wait(task))).collect();
    drop(first);
    let mut order = Vec::new();
    while let Some((at, turn)) = served(&mut waiting).pop() {
        order.push(at);
        drop(turn);
    }
    order
}

#[test]
fn without_a_crowd_nobody_waits_and_nothing_is_left_behind() {
    let (lane, _clock) = lane(2, 10);
    let (a, b) = (enter(&lane, 1, 3), enter(&lane, 2, 3));
    let turns = (now(&a), now(&b));
    assert_eq!(lane.figures().running, 2);
    drop(turns);
    drop((a, b));
    assert_eq!(lane.figures(), Figures::default());
    assert!(lane.state().users.is_empty());
}

#[test]
fn the_urgent_one_is_next_however_many_others_wait() {
    let (lane, _clock) = lane(1, 1000);
    let holder = enter(&lane, 9, 7);
    let mut tasks: Vec<_> = (0..100).map(|user| enter(&lane, user % 5, 7)).collect();
    tasks.push(enter(&lane, 3, 1));
    assert_eq!(order(now(&holder), &tasks).first(), Some(&100));
}

#[test]
fn turns_go_round_by_user_however_many_streams_one_has() {
    let (lane, _clock) = lane(1, 1000);
    let holder = enter(&lane, 1, 3);
    // 64 streams of one user, then one of another, then two of a third.
    let users: Vec<u8> = [vec![1; 64], vec![2], vec![3, 3]].concat();
    let tasks: Vec<_> = users.iter().map(|user| enter(&lane, *user, 3)).collect();
    let order = order(now(&holder), &tasks);
    let first: Vec<u8> = order.iter().take(6).map(|at| users[*at]).collect();
    assert_eq!(first, [2, 3, 1, 3, 1, 1]);
    assert_eq!(order.len(), users.len());
}

#[test]
fn a_user_who_holds_slots_lets_others_have_the_next() {
    let (lane, _clock) = lane(4, 1000);
    let many: Vec<_> = (0..8).map(|_| enter(&lane, 1, 3)).collect();
    let mut turns: Vec<_> = many[..4].iter().map(now).collect();
    let one = [enter(&lane, 2, 3), enter(&lane, 2, 3)];
    let mut waiting: Vec<_> = many[4..].iter().map(|task| Some(wait(task))).collect();
    waiting.extend(one.iter().map(|task| Some(wait(task))));
    // Two of four slots are the second user's share.
    for expected in [4, 5, 0] {
        turns.remove(0);
        let (at, turn) = served(&mut waiting).pop().expect("a slot is free");
        assert_eq!(at, expected);
        turns.push(turn);
    }
}

#[test]
fn large_uploads_leave_room_while_small_changes_are_made() {
    let (env, clock) = Env::manual(1);
    let lane = Arc::new(Lane { more: More::Unhindered(Way::new(25)), ..Lane::new(2, 20, env) });
    let way = lane.way().expect("others come first");
    let tasks: Vec<_> = (0..17).map(|user| enter(&lane, user, 3)).collect();
    let mut turns: Vec<_> = tasks[..16].iter().map(now).collect();
    let mut last = wait(&tasks[16]);
    assert!(poll(&mut last).is_pending(), "so many are all there are");
    way.begin_small();
    turns.truncate(1);
    assert!(poll(&mut last).is_pending(), "half of the slots while there is a small change");
    way.end_small(lane.env.monotonic());
    clock.advance(way::CALM_AFTER);
    drop(turns);
    assert!(poll(&mut last).is_ready(), "and it goes on");
    let _lately = (now(&tasks[0]), now(&tasks[1]));
    assert!(poll(&mut wait(&tasks[2])).is_pending(), "all of them for a while after it");
}

#[test]
fn a_large_upload_rests_with_its_turn_while_a_small_change_is_on_its_way() {
    let (env, clock) = Env::manual(1);
    let lane = Arc::new(Lane { more: More::Unhindered(Way::new(25)), ..Lane::new(2, 20, env) });
    let way = lane.way().expect("others come first");
    let task = enter(&lane, 1, 3);
    let turn = now(&task);
    way.begin_small();
    clock.advance(Duration::from_millis(2));
    drop(turn);
    let mut waiting = wait(&task);
    assert_eq!(lane.figures().running, 1);
    clock.advance(Duration::from_millis(5));
    assert!(poll(&mut waiting).is_pending());
    clock.advance(Duration::from_millis(1));
    assert!(poll(&mut waiting).is_ready(), "it worked a quarter of the time");
    assert_eq!(lane.figures().running, 0);
}

#[test]
fn who_is_alone_has_more_slots_until_somebody_else_comes() {
    let (env, _clock) = Env::manual(1);
    let lane = Arc::new(Lane { more: More::Alone(3), ..Lane::new(1, 10, env) });
    let mine: Vec<_> = (0..5).map(|_| enter(&lane, 1, 3)).collect();
    let mut turns: Vec<_> = mine[..3].iter().map(now).collect();
    let mut waiting = vec![Some(wait(&mine[3]))];
    let other = enter(&lane, 2, 3);
    let mut others = Some(wait(&other));
    // The slots beyond the usual ones fall to nobody.
    drop(turns.pop());
    drop(turns.pop());
    assert!(poll(others.as_mut().unwrap()).is_pending());
    drop(turns.pop());
    let turn = match poll(others.as_mut().unwrap()) {
        Poll::Ready(turn) => turn,
        Poll::Pending => panic!("the other one has fewer turns, and is next"),
    };
    drop(others.take());
    assert!(served(&mut waiting).is_empty(), "two users, one slot");
    waiting.push(Some(wait(&mine[4])));
    drop(turn);
    assert_eq!(served(&mut waiting).len(), 2, "alone again");
    // Somebody who only waited, and goes away, leaves the slots to the others too.
    let mut turns: Vec<_> = mine[..3].iter().map(now).collect();
    let mut others = Some(wait(&other));
    let mut waiting = vec![Some(wait(&mine[3]))];
    drop(turns.pop());
    assert!(served(&mut waiting).is_empty());
    assert!(poll(others.as_mut().unwrap()).is_pending());
    drop(others.take());
    assert_eq!(served(&mut waiting).len(), 1);
}

#[test]
fn the_lowest_proceeds_within_its_bound_against_a_flood_of_urgent_ones() {
    let (lane, clock) = lane(1, 1000);
    let low = enter(&lane, 1, Priority::BACKGROUND.0);
    let flood: Vec<_> = (0..3).map(|user| enter(&lane, 2 + user, 0)).collect();
    let mut turn = Some(now(&flood[0]));
    let mut low_waits = wait(&low);
    let mut waited = Duration::ZERO;
    let step = Duration::from_millis(100);
    // Each urgent user has a step waiting at every moment; a turn takes 100 ms.
    let mut waiting: Vec<_> = flood.iter().map(|task| Some(wait(task))).collect();
    loop {
        clock.advance(step);
        waited += step;
        drop(turn.take());
        if poll(&mut low_waits).is_ready() {
            break;
        }
        for (at, served) in served(&mut waiting) {
            turn = Some(served);
            waiting[at] = Some(wait(&flood[at]));
        }
        assert!(waited < Duration::from_secs(60), "it starves");
    }
    let bound = AGE_STEP * u32::from(Priority::BACKGROUND.0) + step * 4;
    assert!(waited <= bound, "{waited:?}, and the bound is {bound:?}");
    assert!(waited > AGE_STEP * 7, "{waited:?}: the urgent ones went first");
}

#[test]
fn a_full_queue_refuses_at_once_and_says_when_to_come_again() {
    let (lane, _clock) = lane(1, 3);
    let tasks: Vec<_> = (0..5).map(|_| enter(&lane, 1, 3)).collect();
    let turn = now(&tasks[0]);
    let waiting: Vec<_> = tasks[1..4].iter().map(wait).collect();
    let refused = lane.enter(&client(2, 0), Class::Upload).expect_err("the queue is full");
    assert_eq!(refused.kind(), ErrorKind::Busy);
    assert!(refused.retry_after().is_some_and(|pause| pause >= Duration::from_secs(1)));
    // Whoever was let in goes on.
    let late = wait(&tasks[4]);
    drop(waiting);
    drop(lane.enter(&client(2, 0), Class::Upload).expect("there is room again"));
    drop(turn);
    drop(late);
    assert_eq!(lane.figures().refused, 1);
}

#[test]
fn waiters_that_go_away_leave_the_queue_even_when_they_were_served() {
    let (lane, _clock) = lane(1, 10);
    let tasks: Vec<_> = (0..4).map(|user| enter(&lane, user, 3)).collect();
    let turn = now(&tasks[0]);
    let gone = wait(&tasks[1]);
    let served_and_gone = wait(&tasks[2]);
    let mut last = wait(&tasks[3]);
    drop(gone);
    assert_eq!(lane.figures().waiting, 2);
    drop(turn);
    drop(served_and_gone);
    assert!(poll(&mut last).is_ready(), "the turn of the one that is gone is the next one's");
    drop(last);
    drop(tasks);
    assert_eq!(lane.figures(), Figures::default());
    assert!(lane.state().users.is_empty());
}

#[test]
fn a_turn_passes_on_in_a_panic() {
    let (lane, _clock) = lane(1, 10);
    let tasks = [enter(&lane, 1, 3), enter(&lane, 2, 3)];
    let turn = now(&tasks[0]);
    let mut next = wait(&tasks[1]);
    let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _turn = turn;
        panic!("in the middle of a step");
    }));
    assert!(broken.is_err());
    assert!(poll(&mut next).is_ready());
}

#[test]
fn an_administrator_sees_what_runs_and_what_waits_since_when() {
    let (lane, clock) = lane(1, 10);
    let tasks = [enter(&lane, 1, 3), enter(&lane, 2, 5), enter(&lane, 3, 3)];
    let turn = now(&tasks[0]);
    clock.advance(Duration::from_secs(2));
    let waiting = wait(&tasks[1]);
    let seen: Vec<_> = lane.tasks().into_iter().map(|task| (task.state, task.since)).collect();
    let states: Vec<_> = seen.iter().map(|(state, _)| *state).collect();
    assert_eq!(states, [TaskState::Running, TaskState::Waiting, TaskState::Idle]);
    assert_eq!(seen[1].1.millis() - seen[0].1.millis(), 2000);
    drop((turn, waiting));
    drop(tasks);
    assert!(lane.tasks().is_empty());
}

/// Random clients come, wait, lose patience, work and panic, on real threads: at the end all
/// slots are free and nobody waits, and never were there more turns than slots.
#[test]
fn no_turn_is_lost_and_none_is_made_whoever_comes_and_goes() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let lane = Arc::new(Lane::new(3, 1000, Env::system()));
    let running = Arc::new(AtomicUsize::new(0));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .build()
        .expect("start a runtime");
    runtime.block_on(async {
        let mut all = tokio::task::JoinSet::new();
        for number in 0..200_u8 {
            let (lane, running) = (Arc::clone(&lane), Arc::clone(&running));
            all.spawn(async move {
                let task = enter(&lane, number % 7, number % 8);
                for round in 0..50_usize {
                    let mut waiting = Box::pin(task.turn());
                    if (usize::from(number) + round).is_multiple_of(3) {
                        // Looks a few times and goes away.
                        for _ in 0..round % 4 {
                            let polled = std::future::poll_fn(|cx| {
                                Poll::Ready(waiting.as_mut().poll(cx).is_ready())
                            });
                            if polled.await {
                                break;
                            }
                            tokio::task::yield_now().await;
                        }
                        continue;
                    }
                    let turn = waiting.await;
                    assert!(running.fetch_add(1, Ordering::SeqCst) < 3, "too many turns");
                    tokio::task::yield_now().await;
                    running.fetch_sub(1, Ordering::SeqCst);
                    drop(turn);
                }
            });
        }
        while let Some(done) = all.join_next().await {
            done.expect("no task fails");
        }
    });
    assert_eq!(lane.figures(), Figures::default());
}
