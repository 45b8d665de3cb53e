//! How many commits a second the embedded engine makes, beside what the disk alone does.
//!
//! ```text
//! cargo run --release -p larder-meta --example commit_rate -- DIRECTORY [SECONDS]
//! cargo run --release -p larder-meta --example commit_rate -- fill DIRECTORY SECONDS
//! cargo run --release -p larder-meta --example commit_rate -- open DIRECTORY
//! ```
//!
//! `fill` ends as a crash would, `open` says how long opening takes then.
//!
//! Each commit is like that of a small upload: it compares four records of a directory's chain,
//! puts the entry, the file, the revision and the body, adds to two counters and appends to a log.
//! Not here: a comparison with other programs.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]
#![expect(clippy::disallowed_methods, reason = "it measures time")]
#![expect(clippy::unwrap_used, reason = "a measurement may stop at what it does not expect")]

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use larder_base::env::Env;
use larder_disk::{
    fault::Faults,
    file::{Access, DiskFile},
};
use larder_meta::{
    Append, FieldOp, Merge, MetaStore, TxnSpec,
    engine::embedded::{EmbeddedOptions, EmbeddedStore},
};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().expect("a directory to work in");
    if directory == "fill" || directory == "open" {
        let path = arguments.next().expect("the directory of a store");
        let path = Path::new(&path);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        if directory == "open" {
            return runtime.block_on(open(path));
        }
        let seconds = arguments.next().map_or(10.0, |text| text.parse().unwrap());
        return runtime.block_on(measure(path, 2000, 64, Duration::from_secs_f64(seconds), true));
    }
    let seconds = arguments.next().map_or(2.0, |text| text.parse().unwrap());
    let length = Duration::from_secs_f64(seconds);
    let directory = Path::new(&directory);
    for bytes in [4096, 65536, 1 << 20] {
        println!("disk alone, {bytes} B, write + fdatasync: {:.0}/s", syncs(directory, bytes));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    println!("body      writers  commits/s   p50 us   p99 us  group  CPU us/commit  committer us");
    for body in [100, 4096, 65536] {
        for writers in [1, 16, 64] {
            let path = directory.join(format!("store-{body}-{writers}"));
            runtime.block_on(measure(&path, body, writers, length, false));
            std::fs::remove_dir_all(&path).unwrap();
        }
    }
}

fn syncs(directory: &Path, bytes: usize) -> f64 {
    let path = directory.join("raw");
    let file = DiskFile::create_new(&path, Access::WRITE, &Faults::none()).unwrap();
    let size = 64 << 20;
    file.allocate(size).unwrap();
    let zeros = vec![0; 1 << 20];
    for offset in (0..size).step_by(1 << 20) {
        file.write_all_at(&zeros, offset).unwrap();
    }
    file.sync_all().unwrap();
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < Duration::from_millis(500) {
        let offset = (count * bytes) as u64 % size;
        file.write_all_at(&zeros[..bytes], offset).unwrap();
        file.sync_data().unwrap();
        count += 1;
    }
    std::fs::remove_file(&path).unwrap();
    count as f64 / start.elapsed().as_secs_f64()
}

fn upload(
    writer: u64,
    number: u64,
    body: &Bytes,
    chain: &[(Bytes, larder_meta::Version)],
) -> TxnSpec {
    let mut spec = TxnSpec::default();
    for (key, version) in chain {
        spec.expect_version(key.clone(), *version);
    }
    let id = writer << 40 | number;
    let key = |family: &str| -> Bytes {
        let mut key = family.as_bytes().to_vec();
        key.extend_from_slice(&[7; 16]);
        key.extend_from_slice(&id.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        key.extend_from_slice(&id.to_be_bytes());
        key.into()
    };
    let entry = key("de");
    spec.expect_absent(entry.clone());
    spec.put.push((entry, vec![1; 60].into()));
    spec.put.push((key("no"), vec![2; 180].into()));
    spec.put.push((key("rv"), vec![3; 160].into()));
    spec.put.push((key("bl"), body.clone()));
    let prefix = Bytes::from_static(b"cf7777777777777777");
    spec.append.push(Append { prefix, value: vec![4; 70].into() });
    for counters in ["st-root", "qs-home"] {
        spec.merge.push(Merge {
            key: Bytes::copy_from_slice(counters.as_bytes()),
            fields: [
                FieldOp::Add(body.len() as i64),
                FieldOp::Add(1),
                FieldOp::Max(1),
                FieldOp::Keep,
            ],
            bounds: Vec::new(),
        });
    }
    spec
}

async fn open(path: &Path) {
    let start = Instant::now();
    let store = EmbeddedStore::open(path, EmbeddedOptions::default(), &Env::system()).unwrap();
    let opened = start.elapsed();
    println!("open: {:.0} ms; {:?} {}", opened.as_secs_f64() * 1e3, store.statistics(), memory());
    let view = store.snapshot().await.unwrap();
    let start = Instant::now();
    let page = view.scan(b"de", b"df", 1000).await.unwrap();
    println!("first page of {}: {} us", page.len(), start.elapsed().as_micros());
    let start = Instant::now();
    for _ in 0..100 {
        view.scan(b"de", b"df", 1000).await.unwrap();
    }
    println!("page: {} us", start.elapsed().as_micros() / 100);
    for family in ["no", "bl"] {
        let keys: Vec<Bytes> =
            page.iter().map(|(key, _)| [family.as_bytes(), &key[2..]].concat().into()).collect();
        for pass in ["cold", "warm"] {
            let start = Instant::now();
            for key in &keys {
                assert!(view.get(key).await.unwrap().is_some());
            }
            let each = start.elapsed().as_secs_f64() * 1e6 / keys.len() as f64;
            println!("get {family} {pass}: {each:.1} us");
        }
    }
}

async fn measure(path: &Path, body: usize, writers: u64, length: Duration, crash: bool) {
    let env = Env::system();
    let store = Arc::new(EmbeddedStore::open(path, EmbeddedOptions::default(), &env).unwrap());
    let mut chain = Vec::new();
    for name in ["au-root", "au-a", "au-b", "au-c"] {
        let key = Bytes::from_static(name.as_bytes());
        let spec = TxnSpec { put: vec![(key.clone(), "x".into())], ..TxnSpec::default() };
        store.commit(spec).await.unwrap();
        let record = store.snapshot().await.unwrap().get(&key).await.unwrap();
        chain.push((key, record.unwrap().version));
    }
    let body: Bytes = (0..body).map(|i| (i * 31 % 251) as u8).collect::<Vec<_>>().into();
    let stop = Arc::new(AtomicBool::new(false));
    let commits = Arc::new(AtomicU64::new(0));
    let before = cpu();
    let committer_before = thread_cpu("meta-commit");
    let syncs_before = statistic(&store, "syncs_total");
    let start = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let (store, body, chain) = (Arc::clone(&store), body.clone(), chain.clone());
            let (stop, commits) = (Arc::clone(&stop), Arc::clone(&commits));
            env.spawn("writer", async move {
                let mut latencies = Vec::new();
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let spec = upload(writer, number, &body, &chain);
                    let sent = Instant::now();
                    store.commit(spec).await.unwrap();
                    latencies.push(sent.elapsed().as_micros() as u32);
                    commits.fetch_add(1, Ordering::Relaxed);
                }
                latencies
            })
        })
        .collect();
    // A thread of its own, so that the runtime's threads are left to the writers.
    let sleeper = tokio::task::spawn_blocking(move || {
        std::thread::sleep(length);
        stop.store(true, Ordering::Relaxed);
    });
    sleeper.await.unwrap();
    let elapsed = start.elapsed().as_secs_f64();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.unwrap());
    }
    latencies.sort_unstable();
    let commits = commits.load(Ordering::Relaxed) as f64;
    let at = |percent: usize| latencies[latencies.len() * percent / 100];
    println!(
        "{:>7} {writers:>9} {:>10.0} {:>8} {:>8} {:>6.1} {:>14.1} {:>13.1}",
        body.len(),
        commits / elapsed,
        at(50),
        at(99),
        commits / (statistic(&store, "syncs_total") - syncs_before) as f64,
        (cpu() - before) / commits,
        (thread_cpu("meta-commit") - committer_before) / commits,
    );
    if crash {
        println!("{:?} {}", store.statistics(), memory());
        std::process::abort();
    }
    if std::env::var_os("VERBOSE").is_some() {
        println!("{:?} {}", store.statistics(), memory());
    }
    store.close().await.unwrap();
}

fn statistic(store: &EmbeddedStore, name: &str) -> u64 {
    store.statistics().into_iter().find(|(found, _)| *found == name).unwrap().1
}

/// CPU time of the process in microseconds.
fn cpu() -> f64 {
    ticks(&std::fs::read_to_string("/proc/self/stat").unwrap())
}

fn thread_cpu(name: &str) -> f64 {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok())
        .filter(|stat| stat.contains(name))
        .map(|stat| ticks(&stat))
        .sum()
}

fn ticks(stat: &str) -> f64 {
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks * 10_000.0
}

fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().filter(|line| line.starts_with("VmHWM") || line.starts_with("VmRSS")).collect()
}
