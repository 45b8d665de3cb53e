//! What every chunk store must do, as one suite to run against it.
//!
//! Use: [`run`] with a closure that makes an empty store each time it is called. It panics with
//! the promise that does not hold. The shape is object_store's `integration.rs`.
//!
//! Not here: durability, damage and full disks, which each store tests with its own means.

use std::{ops::Range, sync::Arc};

use larder_base::id::{BlobId, ChunkId, Incarnation};
use larder_disk::buffer::Buffer;

use crate::{
    format::BLOCK,
    store::{ChunkError, ChunkStat, ChunkStore, StoreHealth},
};

/// Chunk `index` of blob `counter` of `incarnation`.
pub const fn id(incarnation: u64, counter: u64, index: u32) -> ChunkId {
    ChunkId { blob: BlobId { incarnation: Incarnation(incarnation), counter }, index }
}

/// `length` bytes that differ for each `stamp`, and at each place of a chunk.
pub fn body(stamp: u64, length: usize) -> Vec<u8> {
    let mut state = stamp.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // Xorshift64 (Marsaglia 2003): no short period that could hide swapped blocks.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Writes a chunk; `length` is what the store is told of its length.
pub async fn put(
    store: &dyn ChunkStore,
    id: ChunkId,
    content: &[u8],
    length: Option<u64>,
) -> Result<ChunkStat, ChunkError> {
    let mut writer = store.create(id, length).await?;
    let mut rest = content;
    while !rest.is_empty() {
        let mut buffer = writer.buffer(usize::MAX).await?;
        let taken = buffer.extend_from_slice(rest);
        rest = rest.get(taken..).unwrap_or_default();
        writer.write(Arc::new(buffer)).await?;
    }
    writer.finish().await
}

/// Reads a range of a chunk.
pub async fn get(
    store: &dyn ChunkStore,
    id: ChunkId,
    range: Range<u64>,
) -> Result<Vec<u8>, ChunkError> {
    let mut reader = store.open(id, range).await?;
    let mut content = Vec::new();
    while let Some(bytes) = reader.next().await? {
        assert!(!bytes.is_empty(), "a reader never returns an empty piece");
        content.extend_from_slice(&bytes);
    }
    assert!(reader.next().await?.is_none(), "the end stays the end");
    Ok(content)
}

/// Runs the whole suite; `make` returns a new empty store for each part.
pub async fn run<F, Fut>(make: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Arc<dyn ChunkStore>>,
{
    round_trips(&*make().await).await;
    ranges(&*make().await).await;
    ids_are_not_reused(&*make().await).await;
    unfinished_leaves_nothing(&*make().await).await;
    wrong_lengths_are_refused(&*make().await).await;
    deletes(&*make().await).await;
    readers_outlive_deletes(&*make().await).await;
    listing(&*make().await).await;
    scrubbing(&*make().await).await;
    concurrency(&make().await).await;
}

const MIB: usize = 1 << 20;

async fn round_trips(store: &dyn ChunkStore) {
    let sizes = [
        0,
        1,
        4095,
        4096,
        4097,
        65_535,
        65_536,
        65_537,
        131_072,
        MIB - 1,
        MIB,
        MIB + 1,
        5 * MIB + 3,
    ];
    assert_eq!(store.health(), StoreHealth::Ready, "a new store is ready");
    for (i, size) in sizes.into_iter().enumerate() {
        let content = body(i as u64, size);
        for (index, length) in [(0, None), (1, Some(size as u64))] {
            let id = id(1, i as u64, index);
            let stat = put(store, id, &content, length).await.expect("a chunk is written");
            assert_eq!((stat.id, stat.length), (id, size as u64), "size {size}");
            assert!(stat.stored_bytes >= stat.length, "size {size}");
            assert_eq!(store.head(id).await.expect("it is there"), stat, "size {size}");
            let read = get(store, id, 0..size as u64).await.expect("it is read");
            assert!(read == content, "content of size {size} comes back");
        }
        let (a, b) = (store.head(id(1, i as u64, 0)).await, store.head(id(1, i as u64, 1)).await);
        let (a, b) = (a.expect("it is there"), b.expect("it is there"));
        assert_eq!(a.checksum, b.checksum, "equal content has an equal checksum");
    }
    let other = put(store, id(1, 99, 0), &body(99, MIB), None).await.expect("written");
    let same_size = store.head(id(1, 10, 0)).await.expect("it is there");
    assert_eq!(same_size.length, other.length, "sizes agree");
    assert_ne!(same_size.checksum, other.checksum, "other content has another checksum");
    let capacity = store.capacity().await.expect("capacity is known");
    assert!(capacity.free <= capacity.total, "there is not more room than disk");
}

async fn ranges(store: &dyn ChunkStore) {
    let content = body(1, 2 * MIB + 5);
    let chunk = id(1, 1, 0);
    put(store, chunk, &content, None).await.expect("a chunk is written");
    let length = content.len() as u64;
    let block = BLOCK as u64;
    let edges =
        [0, 1, 4096, block - 1, block, block + 1, 3 * block, MIB as u64, length - 1, length];
    for start in edges {
        for end in edges {
            let range = start..end;
            let outcome = get(store, chunk, range.clone()).await;
            if start > end {
                assert!(matches!(outcome, Err(ChunkError::Range(_))), "{range:?} is refused");
                continue;
            }
            let expected = content.get(start as usize..end as usize);
            let read = outcome.expect("a range inside is read");
            assert!(Some(read.as_slice()) == expected, "{range:?} comes back");
        }
    }
    for range in [0..length + 1, length..length + 1, length + 1..length + 1, 0..u64::MAX] {
        let outcome = get(store, chunk, range.clone()).await;
        assert!(matches!(outcome, Err(ChunkError::Range(_))), "{range:?} is refused");
    }
    let none = id(1, 2, 0);
    assert!(matches!(get(store, none, 0..0).await, Err(ChunkError::NotFound(it)) if it == none));
    assert!(matches!(store.head(none).await, Err(ChunkError::NotFound(it)) if it == none));
}

async fn ids_are_not_reused(store: &dyn ChunkStore) {
    let chunk = id(1, 1, 0);
    let early = store.create(chunk, None).await;
    put(store, chunk, b"first", Some(5)).await.expect("a chunk is written");
    let again = put(store, chunk, b"again", Some(5)).await;
    assert!(matches!(again, Err(ChunkError::Exists(it)) if it == chunk), "an id is used once");
    // A store may refuse the second writer of one id at its beginning or at its end.
    if let Ok(mut writer) = early {
        let mut buffer = writer.buffer(usize::MAX).await.expect("there is a buffer");
        buffer.extend_from_slice(b"second");
        writer.write(Arc::new(buffer)).await.expect("it is written");
        let outcome = writer.finish().await;
        assert!(matches!(outcome, Err(ChunkError::Exists(_))), "the first to finish wins");
    }
    let read = get(store, chunk, 0..5).await.expect("it is read");
    assert_eq!(read, b"first", "a finished chunk never changes");
}

async fn unfinished_leaves_nothing(store: &dyn ChunkStore) {
    let chunk = id(1, 1, 0);
    for length in [None, Some(2 * MIB as u64)] {
        let mut writer = store.create(chunk, length).await.expect("a chunk is begun");
        for _ in 0..2 {
            let mut buffer = writer.buffer(usize::MAX).await.expect("there is a buffer");
            let capacity = buffer.capacity();
            buffer.extend_from_slice(&body(1, capacity));
            writer.write(Arc::new(buffer)).await.expect("it is written");
        }
        drop(writer);
        assert!(matches!(store.head(chunk).await, Err(ChunkError::NotFound(_))), "no name yet");
        assert_eq!(store.owners().await.expect("listed"), [], "nothing is listed");
    }
    put(store, chunk, b"x", None).await.expect("the id may still be used");
}

async fn wrong_lengths_are_refused(store: &dyn ChunkStore) {
    let chunk = id(1, 1, 0);
    let short = put(store, chunk, b"four", Some(5)).await;
    assert!(matches!(short, Err(ChunkError::Io { .. })), "less than declared is refused");
    let long = put(store, chunk, b"sixsix", Some(5)).await;
    assert!(matches!(long, Err(ChunkError::Io { .. })), "more than declared is refused");
    let mut writer = store.create(chunk, None).await.expect("a chunk is begun");
    for _ in 0..2 {
        let mut buffer = Buffer::detached(4096);
        buffer.extend_from_slice(b"not a block");
        let outcome = writer.write(Arc::new(buffer)).await;
        if outcome.is_err() {
            drop(writer);
            assert!(matches!(store.head(chunk).await, Err(ChunkError::NotFound(_))));
            return;
        }
    }
    panic!("only the last buffer may be less than whole blocks");
}

async fn deletes(store: &dyn ChunkStore) {
    let chunks = [id(1, 1, 0), id(1, 1, 1), id(2, 1, 0)];
    for chunk in chunks {
        put(store, chunk, &body(1, 5000), None).await.expect("a chunk is written");
    }
    store.delete(chunks[1]).await.expect("it is deleted");
    store.delete(chunks[1]).await.expect("deleting twice is fine");
    store.delete(id(9, 9, 9)).await.expect("deleting what never was is fine");
    assert!(matches!(store.head(chunks[1]).await, Err(ChunkError::NotFound(_))), "it is gone");
    assert!(matches!(get(store, chunks[1], 0..1).await, Err(ChunkError::NotFound(_))));
    store.head(chunks[0]).await.expect("its neighbour is still there");
    store.delete(chunks[2]).await.expect("it is deleted");
    store.sync_deletes().await.expect("deletes are made durable");
    store.sync_deletes().await.expect("twice is fine");
    let owners = store.owners().await.expect("listed");
    assert_eq!(owners, [Incarnation(1)], "who owns nothing is not listed");
}

async fn readers_outlive_deletes(store: &dyn ChunkStore) {
    let chunk = id(1, 1, 0);
    let content = body(3, 5 * MIB + 3);
    put(store, chunk, &content, None).await.expect("a chunk is written");
    let mut reader = store.open(chunk, 0..content.len() as u64).await.expect("it is opened");
    let mut read = reader.next().await.expect("it is read").expect("it is not empty").to_vec();
    store.delete(chunk).await.expect("it is deleted");
    store.sync_deletes().await.expect("deletes are made durable");
    while let Some(bytes) = reader.next().await.expect("I-CHK-5: an open reader goes on") {
        read.extend_from_slice(&bytes);
    }
    assert!(read == content, "I-CHK-5: the whole content comes");
}

async fn listing(store: &dyn ChunkStore) {
    let mut all = Vec::new();
    // Around the edges of groups of counters, and in an order that is not the order of ids.
    for counter in [700, 0, u64::MAX, 255, 256, 1, 257, 511, 0xffff_ffff] {
        for index in [1, 0, u32::MAX] {
            all.push(id(7, counter, index));
        }
    }
    let others = [id(6, 1, 0), id(u64::MAX, 1, 0), id(8, 0, 0)];
    for chunk in all.iter().chain(&others) {
        put(store, *chunk, b"x", None).await.expect("a chunk is written");
    }
    all.sort_unstable();
    for limit in [1, 2, 3, 26, 27, 28, 1000] {
        let mut listed = Vec::new();
        loop {
            let after = listed.last().copied();
            let page = store.list(Incarnation(7), after, limit).await.expect("listed");
            assert!(page.len() <= limit, "a page is not longer than asked for");
            if page.is_empty() {
                break;
            }
            listed.extend(page);
        }
        assert_eq!(listed, all, "pages of {limit} are all chunks of the owner in order");
    }
    let between = store.list(Incarnation(7), Some(id(7, 2, 0)), 1).await.expect("listed");
    assert_eq!(between, [id(7, 255, 0)], "`after` need not exist");
    assert_eq!(store.list(Incarnation(5), None, 9).await.expect("listed"), []);
    assert_eq!(store.list(Incarnation(7), None, 0).await.expect("listed"), []);
    let owners = store.owners().await.expect("listed");
    assert_eq!(owners, [6, 7, 8, u64::MAX].map(Incarnation), "owners are listed in order");
}

async fn scrubbing(store: &dyn ChunkStore) {
    let empty = store.scrub(None, u64::MAX).await.expect("scrubbed");
    assert_eq!((empty.chunks, empty.next), (0, None), "nothing is scrubbed at once");
    let mut bytes = 0;
    for (i, size) in [10, 300_000, 0, 5000].into_iter().enumerate() {
        let chunk = id(i as u64 % 2, i as u64 * 300, 0);
        put(store, chunk, &body(i as u64, size), None).await.expect("a chunk is written");
        bytes += size as u64;
    }
    for bytes_max in [0, 1, 5000, u64::MAX] {
        let (mut chunks, mut seen, mut after) = (0, 0, None);
        for _round in 0..6 {
            let report = store.scrub(after, bytes_max).await.expect("scrubbed");
            assert_eq!(report.damaged, [], "good chunks are not called damaged");
            (chunks, seen, after) = (chunks + report.chunks, seen + report.bytes, report.next);
            if after.is_none() {
                break;
            }
        }
        assert_eq!((chunks, seen, after), (4, bytes, None), "every chunk once, by {bytes_max}");
    }
}

async fn concurrency(store: &Arc<dyn ChunkStore>) {
    // Tasks of the caller's own runtime would need an `Env`; polling them all at once does as well.
    let writers = (0..16_u64).map(|writer| {
        let store = Arc::clone(store);
        async move {
            for i in 0..4 {
                let chunk = id(1, writer, i);
                let stamp = writer * 100 + u64::from(i);
                let content = body(stamp, 400_000 + stamp as usize);
                let length = content.len() as u64;
                let declared = (i % 2 == 0).then_some(length);
                put(&*store, chunk, &content, declared).await.expect("a chunk is written");
                let read = get(&*store, chunk, 0..length).await.expect("it is read");
                assert!(read == content, "everyone reads what they wrote");
                if i > 0 {
                    store.delete(id(1, writer, i - 1)).await.expect("it is deleted");
                }
            }
        }
    });
    all(writers).await;
    let left = store.list(Incarnation(1), None, 100).await.expect("listed");
    let expected: Vec<_> = (0..16).map(|writer| id(1, writer, 3)).collect();
    assert_eq!(left, expected, "one chunk of each writer is left");
    let same = (0..8_u64).map(|stamp| {
        let store = Arc::clone(store);
        async move { put(&*store, id(2, 0, 0), &body(stamp, 200_000), None).await.is_ok() }
    });
    let won = all(same).await.into_iter().filter(|won| *won).count();
    assert_eq!(won, 1, "of those that write one id, one wins");
    let winner = get(&**store, id(2, 0, 0), 0..200_000).await.expect("it is read");
    assert!((0..8).any(|stamp| winner == body(stamp, 200_000)), "it is one body, not a mixture");
}

/// Polls all futures together until each has ended.
async fn all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut running: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut pending = false;
        for (future, output) in &mut running {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    running.into_iter().filter_map(|(_, output)| output).collect()
}
