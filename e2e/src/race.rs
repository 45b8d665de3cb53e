//! Many clients that start one step together.
//!
//! Promises: every client has an open connection before the first one sends; answers come back
//! in the order of the clients.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use crate::client::{Client, Response};

/// Runs `step` on `count` clients of their own at once; answers in the order of their numbers.
#[track_caller]
pub fn race<T: Send>(
    client: &Client,
    count: usize,
    step: impl Fn(usize, &Client) -> T + Sync,
) -> Vec<T> {
    let barrier = Barrier::new(count);
    let clients: Vec<Client> = (0..count).map(|_| client.another()).collect();
    let (barrier, step) = (&barrier, &step);
    thread::scope(|scope| {
        let threads: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(number, client)| {
                scope.spawn(move || {
                    client.connect();
                    barrier.wait();
                    step(number, &client)
                })
            })
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// How many answers have each status, as `status x count` in ascending order: for messages.
pub fn tally(answers: &[Response]) -> String {
    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    let mut text = String::new();
    for group in statuses.chunk_by(|a, b| a == b) {
        text.push_str(&format!("{} x {} ", group.len(), group[0]));
    }
    text
}

/// Asserts that exactly one answer has a status of `winner`, and all others one of `losers`;
/// the number of the winner.
#[track_caller]
pub fn one_winner(answers: &[Response], winner: &[u16], losers: &[u16]) -> usize {
    let won: Vec<usize> =
        (0..answers.len()).filter(|&at| winner.contains(&answers[at].status)).collect();
    assert_eq!(won.len(), 1, "one must win with {winner:?}: {}", tally(answers));
    for (at, answer) in answers.iter().enumerate() {
        assert!(
            at == won[0] || losers.contains(&answer.status),
            "losers get {losers:?}: {answer}; all: {}",
            tally(answers)
        );
    }
    won[0]
}

/// How long `step` took, and what it gave.
pub fn timed<T>(step: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = step();
    (result, start.elapsed())
}
