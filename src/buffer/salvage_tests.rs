//! What a salvage makes of given frames: crafted, because chance seldom leaves exactly these.

use std::fs;
use std::path::Path;

use super::block::{Base, Packer, Piece, Record, Records, put_record};
use super::cursor::{Cursor, Fate};
use super::disk::{Disk, Tail};
use super::frame::{Kind, key, wrap};
use super::ledger::State;
use super::model_tests::Random;
use super::tests::{ALL, conserved, settings, sink, stamp};
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

/// The cursor of a sink to which all of `[1, end)` was delivered.
fn cursor(name: &str, end: Seq) -> Vec<u8> {
    let mut cursor = Cursor::new(1);
    cursor.settle(1, end, Fate::Delivered);
    let key = key::cursor(name);
    wrap(Kind::Cursor, &key, &cursor.encode(9).unwrap())
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
    Disk::lock(dir).unwrap().set_tail(Tail { end, epoch: 4, generation: 0 });
    let sinks: Vec<_> = sinks.iter().map(|name| sink(name)).collect();
    Buffer::open(dir, &settings(), &sinks).unwrap()
}

async fn read(buffer: &Buffer, name: &str) -> Vec<(Seq, Vec<u8>)> {
    let mut reader = buffer.reader(&sink(name)).unwrap();
    let readings = reader.peek(ALL).await.unwrap();
    assert_eq!(readings.len() as u64, reader.pending());
    readings.iter().map(|reading| (reading.seq, reading.payload.to_vec())).collect()
}

fn told(buffer: &Buffer, name: &str) -> (u64, u64, u64) {
    conserved(buffer);
    let figures = &buffer.status().sinks[name];
    let damaged = figures.dropped.get(&DropReason::Damaged).copied().unwrap_or(0);
    (figures.accepted, figures.delivered, damaged)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_sinks_cursor_and_the_state_record_all_that_is_not_found_counts_as_lost() {
    let frames = [vec![cursor("eager", 81)], short(4, 91, 96)].concat();
    let root = tempfile::tempdir().unwrap();
    let (buffer, report) = open(root.path(), 101, &frames, &["eager", "lazy"]);
    assert_eq!(report.gaps, [(1, 90), (96, 100)], "{report:?}");
    assert_eq!(told(&buffer, "eager"), (100, 80, 15));
    assert_eq!(told(&buffer, "lazy"), (100, 0, 95), "the lost ones are its business");
    assert_eq!(read(&buffer, "lazy").await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_state_record_what_every_sink_has_passed_does_not_count_as_lost() {
    let frames = [vec![cursor("eager", 81), cursor("lazy", 61)], short(4, 91, 101)].concat();
    let root = tempfile::tempdir().unwrap();
    let (buffer, report) = open(root.path(), 101, &frames, &["eager", "lazy"]);
    assert_eq!(report.gaps, [(61, 90)], "{report:?}");
    assert_eq!((told(&buffer, "eager"), told(&buffer, "lazy")), ((100, 80, 10), (100, 60, 30)));
    let generation = buffer.0.0.ledger.book().state.generation;
    assert!(generation > 9, "what is written now is newer than what was found, not {generation}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_before_is_reported_again_when_the_record_of_it_is_lost() {
    let lost = State { generation: 1, epoch: 4, end: 101, lost: 20, ..State::default() };
    let known = State { removed: [(1, 91)].into_iter().collect(), ..lost };
    let known = wrap(Kind::Meta, key::STATE, &known.encode());
    let frames = [vec![cursor("eager", 81), cursor("lazy", 61), known], short(4, 91, 101)].concat();
    let root = tempfile::tempdir().unwrap();
    let (_, report) = open(root.path(), 101, &frames, &["eager", "lazy"]);
    assert_eq!(report.gaps, [(61, 90)], "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sink_has_settled_was_acknowledged_and_its_number_is_not_given_again() {
    let frames = [vec![cursor("eager", 81), state(4, 51)], short(4, 41, 51)].concat();
    let root = tempfile::tempdir().unwrap();
    let (buffer, report) = open(root.path(), 21, &frames, &["eager", "lazy"]);
    assert_eq!(report.gaps, [(1, 40), (51, 80)], "{report:?}");
    assert_eq!(told(&buffer, "lazy"), (80, 0, 70));
    assert_eq!(buffer.status().accepted, 80);
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
