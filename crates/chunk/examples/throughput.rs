//! Prints how fast a local store writes and reads, beside the same amounts by plain direct I/O.
//!
//! Use: `cargo run --release -p larder-chunk --example throughput -- DIRECTORY`. Takes seconds,
//! and some gigabytes below DIRECTORY, which it removes.
//!
//! Not here: a benchmark of the product (`larder bench`).

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a tool that measures and prints"
)]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use larder_base::{Env, id::InstanceId};
use larder_chunk::{BufferPool, ChunkStore, Expect, LocalOptions, LocalStore, conformance::id};
use larder_disk::{
    buffer::{Buffer, LARGE},
    fault::Faults,
    file::{Access, DiskFile},
    fsx,
};

const MIB: usize = 1 << 20;

async fn write(store: &LocalStore, counter: u64, mebibytes: usize, known: bool) {
    let content = vec![counter as u8; LARGE];
    let length = (mebibytes * MIB) as u64;
    let mut writer = store.create(id(1, counter, 0), known.then_some(length)).await.unwrap();
    let mut left = mebibytes * MIB;
    while left > 0 {
        let mut buffer = writer.buffer(usize::MAX).await.unwrap();
        left -= buffer.extend_from_slice(&content[..left.min(LARGE)]);
        writer.write(Arc::new(buffer)).await.unwrap();
    }
    writer.finish().await.unwrap();
}

async fn read(store: &LocalStore, counter: u64) {
    let length = store.head(id(1, counter, 0)).await.unwrap().length;
    let mut reader = store.open(id(1, counter, 0), 0..length).await.unwrap();
    let mut seen = 0;
    while let Some(bytes) = reader.next().await.unwrap() {
        seen += bytes.len() as u64;
    }
    assert_eq!(seen, length);
}

fn raw_write(path: &Path, mebibytes: usize) {
    let file = DiskFile::create_new(path, Access::DIRECT, &Faults::none()).unwrap();
    file.allocate((mebibytes * MIB) as u64).unwrap();
    let mut buffer = Buffer::detached(LARGE);
    buffer.extend_from_slice(&[7; LARGE]);
    for i in 0..mebibytes {
        file.write_all_at(buffer.as_padded(), (i * MIB) as u64).unwrap();
    }
    file.sync_data().unwrap();
}

fn raw_read(path: &Path, access: Access) {
    let file = DiskFile::open(path, access, &Faults::none()).unwrap();
    let mut buffer = Buffer::detached(LARGE);
    let mut at = 0;
    while at < file.len().unwrap() {
        file.read_exact_at(buffer.capacity_mut(), at).unwrap();
        at += LARGE as u64;
    }
}

fn report(what: &str, mebibytes: usize, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    println!("{what:44} {:8.0} MiB/s", mebibytes as f64 / seconds);
}

/// Runs `count` calls of `call` in `tasks` tasks.
async fn parallel<F, Fut>(count: u64, tasks: u64, call: F)
where
    F: Fn(u64) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let mut set = tokio::task::JoinSet::new();
    for task in 0..tasks {
        let call = call.clone();
        set.spawn(async move {
            for i in (task..count).step_by(tasks as usize) {
                call(i).await;
            }
        });
    }
    while let Some(outcome) = set.join_next().await {
        outcome.unwrap();
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let directory = PathBuf::from(std::env::args().nth(1).unwrap()).join("throughput");
    let env = Env::system();
    let pool = BufferPool::new(64 * MIB);
    let options = LocalOptions::new(pool, InstanceId::new(&env), Expect::New);
    let store = LocalStore::open(&directory, options, &env).unwrap();
    let mut first = 0;
    for (count, mebibytes, tasks) in [(512, 1, 16), (100, 1, 1), (16, 64, 4), (8, 64, 1)] {
        let total = count as usize * mebibytes;
        let shape = format!("{count} x {mebibytes} MiB by {tasks}");
        let base = first;
        for known in [true, false] {
            let start = Instant::now();
            let writer = store.clone();
            let from = first;
            parallel(count, tasks, move |i| {
                let store = writer.clone();
                async move { write(&store, from + i, mebibytes, known).await }
            })
            .await;
            let how = if known { "known length" } else { "unknown length" };
            report(&format!("write {shape}, {how}"), total, start);
            first += count;
        }
        for how in ["cold", "cached"] {
            let start = Instant::now();
            let reader = store.clone();
            parallel(count, tasks, move |i| {
                let store = reader.clone();
                async move { read(&store, base + i).await }
            })
            .await;
            report(&format!("read {shape}, {how}"), total, start);
        }
    }
    let (first, second) = (directory.join("raw"), directory.join("raw2"));
    let start = Instant::now();
    raw_write(&first, 1024);
    report("raw direct write, 1024 MiB, one fdatasync", 1024, start);
    let start = Instant::now();
    raw_read(&first, Access { write: false, direct: true });
    report("raw direct read", 1024, start);
    let start = Instant::now();
    raw_read(&first, Access::READ);
    report("raw read, cold", 1024, start);
    let start = Instant::now();
    raw_read(&first, Access::READ);
    report("raw read, cached", 1024, start);
    let start = Instant::now();
    for i in 0..100 {
        raw_write(&second, 1);
        fsx::rename(&second, &directory.join(format!("raw-{i}")), &Faults::none()).unwrap();
    }
    report("raw 1 MiB direct write, 2 syncs, 100 times", 100, start);
    drop(store);
    std::fs::remove_dir_all(&directory).unwrap();
}
