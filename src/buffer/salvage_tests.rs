//! What a salvage makes of given frames: crafted, because chance seldom leaves exactly these.

use std::fs;
use std::path::Path;

use super::block::{Base, Packer, Piece, Record, Records, put_record};
use super::disk::{Disk, Tail};
use super::frame::{Kind, key, wrap};
use super::ledger::State;
use super::model_tests::Random;
use super::tests::{ALL, settings, sink, stamp};
use super::*;
use crate::message::Qos;

/// A payload of which a few make a large block.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut random = Random(seed * 2 + 1);
    (0..size).map(|_| random.below(256) as u8).collect()
}

/// The frames of blocks with these payloads.
fn block(epoch: u64, first: Seq, payloads: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let base = Base::from(stamp(0));
    let (mut bytes, mut ends, mut pieces) = (Vec::new(), Vec::new(), Vec::new());
    for payload in payloads {
        let record = Record {
            device: "esp32-01",
            stream: "soil",
            topic: "field/soil",
            payload,
            qos: Qos::AtLeastOnce,
            received: stamp(0),
            fault: None,
        };
        put_record(&mut bytes, &base, &record);
        ends.push(bytes.len() as u32);
    }
    let records = Records { first, base, offset: 0, bytes: &bytes, ends: &ends };
    Packer::new().unwrap().pack(epoch, &records, &mut pieces);
    pieces.iter().map(|piece: &Piece| piece.frame(&[])).collect()
}

/// A block of short readings that tell their epoch and number.
fn short(epoch: u64, first: Seq, end: Seq) -> Vec<Vec<u8>> {
    let payloads: Vec<_> = (first..end).map(|seq| format!("{epoch} {seq}").into_bytes()).collect();
    block(epoch, first, &payloads)
}

fn state(epoch: u64, end: Seq) -> Vec<u8> {
    let state = State { generation: 1, epoch, end, ..State::default() };
    wrap(Kind::Meta, key::STATE, &state.encode())
}

/// Opens a store of which only these frames are left, and which is known to have acknowledged all below `end`.
fn open(dir: &Path, end: Seq, frames: &[Vec<u8>], sinks: &[&str]) -> (Buffer, OpenReport) {
    fs::create_dir_all(dir.join("store")).unwrap();
    fs::write(dir.join("store/db"), noise(0, 5_000)).unwrap();
    fs::write(dir.join("store/left"), frames.concat()).unwrap();
    Disk::lock(dir).unwrap().set_tail(Tail { end, epoch: 4 });
    let sinks: Vec<_> = sinks.iter().map(|name| sink(name)).collect();
    Buffer::open(dir, &settings(), &sinks).unwrap()
}

async fn read(buffer: &Buffer, name: &str) -> Vec<(Seq, Vec<u8>)> {
    let mut reader = buffer.reader(&sink(name)).unwrap();
    let readings = reader.peek(ALL).await.unwrap();
    assert_eq!(readings.len() as u64, reader.pending());
    readings.iter().map(|reading| (reading.seq, reading.payload.to_vec())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_large_reading_are_kept_together_or_left_together() {
    let (old, new) = (noise(1, 20_000), noise(2, 20_000));
    let (stale, fresh) = (block(3, 1, &[old]), block(4, 1, std::slice::from_ref(&new)));
    assert!(stale.len() == fresh.len() && fresh.len() > 3);
    for missing in 0..=fresh.len() {
        let mut left = fresh.clone();
        if missing < left.len() {
            left.remove(missing);
        }
        let root = tempfile::tempdir().unwrap();
        let frames = [stale.clone(), left, vec![state(4, 1)], short(4, 2, 5)].concat();
        let (buffer, report) = open(root.path(), 5, &frames, &["eager"]);
        let readings = read(&buffer, "eager").await;
        let status = buffer.status();
        if missing == fresh.len() {
            assert_eq!(readings[0], (1, new.clone()));
            assert_eq!((report.gaps, status.blocks), (Vec::new(), fresh.len() as u64 + 1));
        } else {
            assert_eq!(readings.first().map(|(seq, _)| *seq), Some(2), "part {missing} is missing");
            assert_eq!((report.gaps, status.blocks), (vec![(1, 1)], 1), "part {missing} is missing");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_was_never_acknowledged_does_not_hide_that_a_later_one_is_lost() {
    // Epoch 3 was killed; epoch 4 gave its last numbers again, in other blocks.
    let stale = [short(3, 11, 41), short(3, 21, 51)].concat();
    let frames = [short(3, 1, 11), stale, short(4, 11, 21), short(4, 31, 41)].concat();
    let root = tempfile::tempdir().unwrap();
    let (buffer, report) = open(root.path(), 51, &frames, &["eager"]);
    assert_eq!(report.gaps, [(21, 30), (41, 50)], "{report:?}");
    let epoch = |seq| if seq < 11 { 3 } else { 4 };
    let wanted = (1..11).chain(11..21).chain(31..41);
    let wanted: Vec<_> = wanted.map(|seq| (seq, format!("{} {seq}", epoch(seq)).into_bytes())).collect();
    assert_eq!(read(&buffer, "eager").await, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_that_were_merged_are_not_kept_beside_the_merged_one() {
    let frames = [short(4, 1, 6), short(4, 6, 11), short(4, 11, 16), short(4, 1, 16)].concat();
    let root = tempfile::tempdir().unwrap();
    let (buffer, report) = open(root.path(), 16, &frames, &["eager"]);
    assert_eq!((report.gaps, buffer.status().blocks), (Vec::new(), 1));
    assert_eq!(read(&buffer, "eager").await.len(), 15);
}
