//! Tests of the log: what is found again after every kind of ending.

use std::{os::unix::fs::FileExt, sync::Arc};

use super::*;
use crate::fault::{DiskOp, Fault, Faults, Rule};

const CAPACITY: u64 = 256 << 10;

fn header(sequence: u64) -> SegmentHeader {
    SegmentHeader { sequence, salt: sequence * 7919, capacity: CAPACITY }
}

fn log(faults: &Faults) -> (tempfile::TempDir, LogDirectory, Arc<Segment>) {
    let dir = tempfile::tempdir().unwrap();
    let log = LogDirectory::create(&dir.path().join("log"), faults).unwrap();
    let segment = Arc::new(log.prepare(header(1), None).unwrap());
    (dir, log, segment)
}

fn append(writer: &mut Writer, payload: &[u8]) -> Result<(), AppendError> {
    let mut batch = BatchBuffer::default();
    batch.extend(payload);
    writer.append(&mut batch)
}

fn read(segment: &Arc<Segment>) -> (Vec<Vec<u8>>, Reader) {
    let mut reader = Reader::new(Arc::clone(segment), BLOCK as u64, None);
    let mut found = Vec::new();
    while let Some(batch) = reader.next_batch().unwrap() {
        found.push(batch.payload.to_vec());
    }
    (found, reader)
}

#[test]
fn batches_are_read_in_order_large_and_small() {
    let (_dir, log, segment) = log(&Faults::none());
    let mut writer = Writer::new(Arc::clone(&segment), BLOCK as u64, 5);
    let payloads = [vec![1; 10], vec![2; 100_000], Vec::new(), vec![3; 40_000]];
    for payload in &payloads {
        append(&mut writer, payload).unwrap();
    }
    let (found, mut reader) = read(&Arc::new(log.open_segment(1).unwrap()));
    assert_eq!(found, payloads);
    assert_eq!(reader.offset(), writer.position());
    assert_eq!(reader.number(), Some(9));
    assert_eq!(reader.later().unwrap(), None);
}

#[test]
fn a_tail_torn_at_any_byte_is_the_end_and_not_damage() {
    let (_dir, _log, segment) = log(&Faults::none());
    let mut writer = Writer::new(Arc::clone(&segment), BLOCK as u64, 1);
    append(&mut writer, b"whole").unwrap();
    let start = writer.position();
    append(&mut writer, &[9; 300]).unwrap();
    let mut last = vec![0; BATCH_HEADER + 300];
    segment.file().read_exact_at(&mut last, start).unwrap();
    for torn in 0..last.len() {
        let mut bytes = last.clone();
        bytes[torn..].fill(0);
        segment.file().write_all_at(&bytes, start).unwrap();
        let (found, mut reader) = read(&segment);
        assert_eq!(found, [b"whole"], "torn at {torn}");
        assert_eq!(reader.later().unwrap(), None, "torn at {torn}");
    }
}

#[test]
fn an_invalid_batch_before_a_later_one_is_damage() {
    let (_dir, _log, segment) = log(&Faults::none());
    let mut writer = Writer::new(Arc::clone(&segment), BLOCK as u64, 1);
    for payload in [[1; 100], [2; 100], [3; 100]] {
        append(&mut writer, &payload).unwrap();
    }
    let second = 2 * BLOCK as u64;
    segment.file().write_all_at(&[0xff], second + 70).unwrap();
    let (found, mut reader) = read(&segment);
    assert_eq!(found.len(), 1);
    assert_eq!(reader.offset(), second);
    assert_eq!(reader.later().unwrap(), Some(3 * BLOCK as u64));
    assert!(reader.resume().unwrap());
    assert_eq!(reader.next_batch().unwrap().unwrap().payload, [3; 100]);
}

#[test]
fn i_log_1_batches_of_an_earlier_use_are_not_read_again() {
    let (_dir, log, segment) = log(&Faults::none());
    let mut writer = Writer::new(segment, BLOCK as u64, 1);
    for _ in 0..5 {
        append(&mut writer, &[1; 5000]).unwrap();
    }
    let spare = log.retire(1, CAPACITY).unwrap();
    let segment = Arc::new(log.prepare(header(2), Some(spare)).unwrap());
    let (found, mut reader) = read(&segment);
    assert!(found.is_empty());
    assert_eq!(reader.later().unwrap(), None);
    // A current batch before stale ones is the last.
    let mut writer = Writer::new(Arc::clone(&segment), BLOCK as u64, 6);
    append(&mut writer, b"current").unwrap();
    let (found, mut reader) = read(&segment);
    assert_eq!(found, [b"current"]);
    assert_eq!(reader.later().unwrap(), None);
}

#[test]
fn stored_bytes_that_look_like_a_batch_are_not_one() {
    let (_dir, _log, segment) = log(&Faults::none());
    // All that an outsider can guess is right; the salt is not.
    let forged = BatchHeader { segment: 1, salt: 0, number: 3, length: 0, crc: crc32c(&[]) };
    let mut payload = vec![0; 2 * BLOCK];
    payload[BLOCK - BATCH_HEADER..BLOCK].copy_from_slice(&forged.encode());
    let mut writer = Writer::new(Arc::clone(&segment), BLOCK as u64, 1);
    append(&mut writer, &payload).unwrap();
    // Torn before the forged header: nothing "later" may be seen behind it.
    segment.file().write_all_at(&[0; 64], BLOCK as u64).unwrap();
    let (found, mut reader) = read(&segment);
    assert!(found.is_empty());
    assert_eq!(reader.later().unwrap(), None);
}

#[test]
fn a_full_disk_leaves_the_log_as_it_was_and_a_failed_sync_does_not_pretend() {
    let faults = Faults::new(Vec::new());
    let (_dir, _log, segment) = log(&faults);
    let mut writer = Writer::new(Arc::clone(&segment), BLOCK as u64, 1);
    append(&mut writer, b"one").unwrap();
    faults.set(vec![Rule::nth(DiskOp::Write, 1, Fault::Short(4096))]);
    assert!(matches!(append(&mut writer, &[7; 9000]), Err(AppendError::NoSpace(_))));
    append(&mut writer, b"two").unwrap();
    assert_eq!(read(&segment).0, [b"one", b"two"]);
    faults.set(vec![Rule::nth(DiskOp::Sync, 1, Fault::Io)]);
    assert!(matches!(append(&mut writer, b"three"), Err(AppendError::Unknown(_))));
}

#[test]
fn a_segment_that_cannot_be_made_leaves_nothing_behind() {
    let faults = Faults::new(Vec::new());
    let (dir, log, _segment) = log(&faults);
    for rule in [
        Rule::nth(DiskOp::Allocate, 1, Fault::NoSpace),
        Rule::nth(DiskOp::Write, 1, Fault::NoSpace),
        Rule::nth(DiskOp::Sync, 1, Fault::Io),
    ] {
        faults.set(vec![rule]);
        assert!(log.prepare(header(2), None).is_err());
        assert_eq!(std::fs::read_dir(dir.path().join("log")).unwrap().count(), 1);
    }
    let (_, segments, spares) = LogDirectory::open(&dir.path().join("log"), &faults).unwrap();
    assert_eq!((segments, spares.len()), (vec![1], 0));
}

#[test]
fn a_header_that_is_not_ours_is_refused() {
    let (dir, log, _segment) = log(&Faults::none());
    let path = dir.path().join("log/00000000000000000001.seg");
    let file = std::fs::File::options().write(true).open(path).unwrap();
    let mut newer = header(1).encode();
    newer[8] = 2;
    let crc = crc32c(&newer[..40]);
    newer[40..44].copy_from_slice(&crc.to_le_bytes());
    file.write_all_at(&newer, 0).unwrap();
    let error = log.open_segment(1).unwrap_err().to_string();
    assert!(error.contains("format version 2 is unknown"), "{error}");
    file.write_all_at(b"X", 0).unwrap();
    let error = log.open_segment(1).unwrap_err().to_string();
    assert!(error.contains("damaged header"), "{error}");
    crate::fsx::write_atomic(&dir.path().join("log/notes.txt"), b"x", &Faults::none()).unwrap();
    let error = LogDirectory::open(&dir.path().join("log"), &Faults::none()).unwrap_err();
    assert!(matches!(error, LogError::Foreign(_)));
}

/// The bytes of `docs/formats/log.md`.
fn example() -> Vec<u8> {
    let text = include_str!("../../../../docs/formats/log.md");
    let mut bytes = vec![0; 8192];
    for line in text.lines() {
        let Some((at, row)) = line.split_once(": ") else { continue };
        let Ok(at) = usize::from_str_radix(at, 16) else { continue };
        for (i, byte) in row.split(' ').enumerate() {
            bytes[at + i] = u8::from_str_radix(byte, 16).unwrap();
        }
    }
    bytes
}

#[test]
fn the_documented_example_is_what_is_written_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let log = LogDirectory::create(dir.path(), &Faults::none()).unwrap();
    let header = SegmentHeader { sequence: 7, salt: 0x0102_0304_0506_0708, capacity: 8192 };
    let segment = Arc::new(log.prepare(header, None).unwrap());
    let record = b"\x1c\0\0\0\x05\0\0\0\0\0\0\0\0\x01\0\0\0\0\x03\0\x05\0\0\0keyvalue";
    append(&mut Writer::new(Arc::clone(&segment), BLOCK as u64, 9), record).unwrap();
    let written = std::fs::read(log.segment_path(7)).unwrap();
    let dump: String = written
        .chunks(16)
        .enumerate()
        .filter(|(_, row)| row.iter().any(|byte| *byte != 0))
        .map(|(i, row)| {
            let row: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{:04x}: {}\n", i * 16, row.join(" "))
        })
        .collect();
    assert!(written == example(), "the example should be:\n{dump}");
    assert_eq!(read(&segment).0, [record]);
}
