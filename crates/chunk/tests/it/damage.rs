//! Flipped bytes and cut files: never served, found by scrub, named.

use std::{fs, os::unix::fs::FileExt, path::Path};

use larder_chunk::{
    ChunkError, ChunkStore,
    conformance::{body, get, id, put},
    format::{BLOCK, FOOTER, HEADER, trailer_offset},
};

use crate::local::{TestStore, files};

fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

const LENGTH: u64 = 3 * BLOCK as u64 + 1000;

async fn stored() -> (TestStore, Vec<u8>) {
    let test = TestStore::new();
    let content = body(1, LENGTH as usize);
    put(&test.store, id(1, 1, 0), &content, Some(LENGTH)).await.unwrap();
    (test, content)
}

#[tokio::test]
async fn i_chk_3_a_flipped_byte_anywhere_is_never_served() {
    let (test, content) = stored().await;
    let path = test.file();
    let size = fs::metadata(&path).unwrap().len();
    let block = BLOCK as u64;
    let (header, trailer) = (HEADER as u64, trailer_offset(LENGTH));
    let mut places: Vec<u64> = (0..40).chain(header - 8..header).collect();
    places.extend((0..4).flat_map(|i| [header + i * block, header + i * block + 777]));
    places.extend([header + block - 1, header + LENGTH - 1]);
    places.extend(trailer..trailer + 16);
    places.extend(size - FOOTER as u64..size);
    for at in places {
        flip(&path, at);
        let outcome = get(&test.store, id(1, 1, 0), 0..LENGTH).await;
        match outcome {
            Err(ChunkError::Corrupt { id: named, detail }) => {
                assert_eq!(named, id(1, 1, 0));
                if (header..header + LENGTH).contains(&at) {
                    let block = format!("block {} ", (at - header) / block);
                    assert!(detail.contains(&block), "byte {at}: {detail}");
                }
            }
            other => panic!("byte {at}: {:?}", other.map(|bytes| bytes.len())),
        }
        flip(&path, at);
    }
    // Padding is not content: with it flipped, the content is exact.
    for at in [header + LENGTH, trailer - 1, trailer + 16, size - FOOTER as u64 - 1] {
        flip(&path, at);
        assert!(get(&test.store, id(1, 1, 0), 0..LENGTH).await.unwrap() == content, "byte {at}");
    }
}

#[tokio::test]
async fn a_range_beside_the_damage_is_served_and_one_that_touches_it_is_not() {
    let (test, content) = stored().await;
    flip(&test.file(), HEADER as u64 + BLOCK as u64 + 5);
    let (first, second) = (BLOCK as u64, 2 * BLOCK as u64);
    let read = get(&test.store, id(1, 1, 0), 0..first).await.unwrap();
    assert!(read == content[..BLOCK]);
    let read = get(&test.store, id(1, 1, 0), second..LENGTH).await.unwrap();
    assert!(read == content[2 * BLOCK..]);
    for range in [first - 1..first + 1, second - 1..second, 0..LENGTH] {
        let outcome = get(&test.store, id(1, 1, 0), range.clone()).await;
        assert!(matches!(outcome, Err(ChunkError::Corrupt { .. })), "{range:?}");
    }
}

#[tokio::test]
async fn damage_far_behind_breaks_the_stream_and_never_ends_it() {
    let test = TestStore::new();
    let content = body(2, 5 << 20);
    put(&test.store, id(1, 1, 0), &content, None).await.unwrap();
    flip(&test.file(), HEADER as u64 + (4 << 20) + 9);
    let mut reader = test.store.open(id(1, 1, 0), 0..content.len() as u64).await.unwrap();
    let mut at = 0;
    let error = loop {
        match reader.next().await {
            Ok(Some(bytes)) => {
                assert!(bytes[..] == content[at..at + bytes.len()]);
                at += bytes.len();
            }
            Ok(None) => panic!("a broken stream must not look complete"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ChunkError::Corrupt { .. }), "{error}");
    assert!(at <= 4 << 20);
    assert!(reader.next().await.is_err(), "and asking again does not help");
}

#[tokio::test]
async fn a_cut_or_grown_file_is_damaged_whatever_its_length() {
    let (test, _content) = stored().await;
    let path = test.file();
    let whole = fs::read(&path).unwrap();
    let size = whole.len() as u64;
    let mut lengths = vec![0, 1, 4095, 4096, 4097, 8192, size - 1, size + 1, size + 4096];
    lengths.extend((0..size / 4096).map(|pages| pages * 4096));
    for length in lengths {
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(length).unwrap();
        for outcome in [
            get(&test.store, id(1, 1, 0), 0..LENGTH).await.map(|_| ()),
            get(&test.store, id(1, 1, 0), 0..0).await.map(|_| ()),
            test.store.head(id(1, 1, 0)).await.map(|_| ()),
        ] {
            assert!(matches!(outcome, Err(ChunkError::Corrupt { .. })), "{length}: {outcome:?}");
        }
        fs::write(&path, &whole).unwrap();
    }
}

#[tokio::test]
async fn the_file_of_another_chunk_is_not_taken_for_this_one() {
    let (test, _content) = stored().await;
    let path = test.file();
    fs::copy(&path, path.with_file_name(id(1, 2, 0).to_string())).unwrap();
    let outcome = get(&test.store, id(1, 2, 0), 0..10).await;
    assert!(matches!(outcome, Err(ChunkError::Corrupt { .. })), "{outcome:?}");
}

#[tokio::test]
async fn scrub_finds_names_and_quarantines_damage_and_goes_on() {
    let test = TestStore::new();
    let chunks = [id(1, 1, 0), id(1, 2, 0), id(2, 1, 0), id(3, 900, 0)];
    for chunk in chunks {
        put(&test.store, chunk, &body(1, 200_000), None).await.unwrap();
    }
    let all = files(&test.directory.path().join("chunks"));
    flip(&all[1], HEADER as u64 + 100_000);
    flip(&all[2], 20);
    let (mut damaged, mut verified, mut after) = (Vec::new(), 0, None);
    loop {
        let report = test.store.scrub(after, 1).await.unwrap();
        damaged.extend(report.damaged);
        verified += report.chunks;
        after = report.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((damaged, verified), (vec![chunks[1], chunks[2]], 2));
    assert_eq!(files(&test.directory.path().join("quarantine")).len(), 2);
    assert!(matches!(test.store.head(chunks[1]).await, Err(ChunkError::NotFound(_))));
    test.store.head(chunks[3]).await.unwrap();
    assert!(test.store.scrub(None, u64::MAX).await.unwrap().damaged.is_empty());
}
