//! Failing disks, full disks, old readings, and what becomes of many small blocks.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use super::tests::{ALL, append, conserved, incoming, settings, sink, stamp};
use super::*;
use crate::config::FullPolicy;
use crate::message::{ClockQuality, DeviceId, Incoming, Stamp};

fn device() -> DeviceId {
    DeviceId::parse("esp32-01").unwrap()
}

fn submit(writer: &mut Writer, payload: &[u8]) -> Result<Receipt, SubmitError> {
    writer.submit(Some(&incoming(&device(), payload, None)), Vec::new(), Wait::ForAck)
}

/// Waits until the status is as wanted, with a deadline that only a failure meets.
async fn until(buffer: &Buffer, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        let status = buffer.status();
        if wanted(&status) {
            return status;
        }
        assert!(Instant::now() < give_up, "{what}: {status:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn drain(buffer: &Buffer, name: &str) -> Vec<Reading> {
    let mut reader = buffer.reader(&sink(name)).unwrap();
    let mut all = Vec::new();
    loop {
        let readings = reader.peek(ALL).await.unwrap();
        if readings.is_empty() {
            return all;
        }
        let outcomes: Vec<_> = readings.iter().map(|r| (r.seq, Outcome::Delivered)).collect();
        reader.settle(&outcomes).await.unwrap();
        all.extend(readings);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_holds_every_ack_until_the_store_was_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let (buffer, _) = Buffer::open(dir.path(), &settings(), &[sink("cloud")]).unwrap();
    let mut writer = buffer.writer();
    for _ in 0..10 {
        append(&mut writer, &device(), b"before", None).await;
    }
    buffer.0.0.faults.sync.store(true, SeqCst);
    let held = submit(&mut writer, b"held").unwrap();
    let status = until(&buffer, "the failure shows", |status| status.trouble.is_some()).await;
    let trouble = status.trouble.unwrap();
    assert!(trouble.contains("sync failed") && trouble.contains("/store: "), "{trouble}");
    assert!(writer.durable() < held.mark);
    let acked = tokio::time::timeout(Duration::from_millis(300), writer.until_durable(held.mark)).await;
    assert!(acked.is_err(), "nothing may be acknowledged");
    let last = submit(&mut writer, b"in memory").unwrap();
    assert_eq!(last.seq, Some(12));

    buffer.0.0.faults.sync.store(false, SeqCst);
    writer.until_durable(last.mark).await.unwrap();
    let status = until(&buffer, "it is well again", |status| status.trouble.is_none()).await;
    assert_eq!((status.accepted, status.gaps), (12, vec![]));
    assert!(dir.path().join("store.damaged-1").exists(), "what the page cache shows may not be on disk");
    let payloads: Vec<_> = drain(&buffer, "cloud").await.into_iter().map(|r| r.payload).collect();
    assert_eq!(payloads[9..], ["before", "held", "in memory"]);
    conserved(&buffer);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded_while_the_disk_fails() {
    let dir = tempfile::tempdir().unwrap();
    let (buffer, _) = Buffer::open(dir.path(), &settings(), &[]).unwrap();
    let mut writer = buffer.writer();
    buffer.0.0.faults.sync.store(true, SeqCst);
    let payload = vec![b'x'; 100_000];
    let give_up = Instant::now() + Duration::from_secs(60);
    let mut submitted = 0;
    while submit(&mut writer, &payload).is_ok() {
        submitted += 1;
        assert!(Instant::now() < give_up && submitted < 1_000, "{submitted} were taken");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    buffer.0.0.faults.sync.store(false, SeqCst);
    writer.room().await;
    append(&mut writer, &device(), b"again", None).await;
    assert_eq!(buffer.status().accepted, submitted + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_drop_oldest_the_newest_stay_and_the_oldest_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let small = config::Buffer { max_bytes: 300_000, ..settings() };
    let (buffer, _) = Buffer::open(dir.path(), &small, &[sink("cloud")]).unwrap();
    let mut writer = buffer.writer();
    for round in 0..100 {
        let payload: Vec<u8> = (0..4_000_u32).map(|n| ((n * n * (round + 7)) >> 5) as u8).collect();
        append(&mut writer, &device(), &payload, None).await;
    }
    let status = buffer.status();
    conserved(&buffer);
    let dropped = status.sinks["cloud"].dropped[&DropReason::BufferFull];
    assert!(dropped > 0 && status.live_bytes <= 100_000 + 10_000, "{status:?}");
    let kept: Vec<_> = drain(&buffer, "cloud").await.iter().map(|r| r.seq).collect();
    assert_eq!(kept, (dropped + 1..=100).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn under_refuse_new_nothing_is_lost_and_room_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let small = config::Buffer { max_bytes: 300_000, when_full: FullPolicy::RefuseNew, ..settings() };
    let (buffer, _) = Buffer::open(dir.path(), &small, &[sink("cloud")]).unwrap();
    let mut writer = buffer.writer();
    let mut taken = 0;
    let payload: Vec<u8> = (0..4_000_u32).map(|n| ((n * n) >> 5) as u8).collect();
    loop {
        match submit(&mut writer, &payload) {
            Ok(receipt) => {
                taken = receipt.seq.unwrap();
                writer.until_durable(receipt.mark).await.unwrap();
            }
            Err(SubmitError::Full) => break,
            Err(SubmitError::Closed) => panic!("it is open"),
        }
        assert!(taken < 1_000);
    }
    writer.count_refused();
    assert_eq!(buffer.status().refused_full, 1);
    let delivered = drain(&buffer, "cloud").await;
    assert_eq!(delivered.len() as u64, taken);
    tokio::time::timeout(Duration::from_secs(60), writer.room()).await.unwrap();
    assert_eq!(append(&mut writer, &device(), b"again", None).await, taken + 1);
    conserved(&buffer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_others_have_filled_refuses_before_it_is_too_late() {
    let dir = tempfile::tempdir().unwrap();
    let (buffer, _) = Buffer::open(dir.path(), &settings(), &[]).unwrap();
    let mut writer = buffer.writer();
    append(&mut writer, &device(), b"room", None).await;
    buffer.0.0.faults.free.store(1_000_001, SeqCst);
    let give_up = Instant::now() + Duration::from_secs(60);
    while submit(&mut writer, b"x").is_ok() {
        assert!(Instant::now() < give_up);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    buffer.0.0.faults.free.store(0, SeqCst);
    tokio::time::timeout(Duration::from_secs(60), writer.room()).await.unwrap();
    append(&mut writer, &device(), b"again", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_beyond_their_age_are_dropped_where_the_clocks_can_tell() {
    let dir = tempfile::tempdir().unwrap();
    let aged = config::Buffer { max_age: Some(Duration::from_secs(3_600)), ..settings() };
    let (buffer, _) = Buffer::open(dir.path(), &aged, &[sink("cloud")]).unwrap();
    let mut writer = buffer.writer();
    let device = device();
    let at = |stamp: Stamp| Incoming { received: stamp, ..incoming(&device, b"x", None) };
    let unknown = Stamp { boot: BootId([9; 16]), quality: ClockQuality::Unsynchronized, ..stamp(0) };
    writer.append(&at(stamp(0))).await.unwrap();
    writer.append(&at(stamp(3_599_000))).await.unwrap();
    writer.append(&at(unknown)).await.unwrap();
    writer.append(&at(stamp(3_601_000))).await.unwrap();
    let figures = |status: &Status| status.sinks["cloud"].dropped.get(&DropReason::TooOld).copied();
    until(&buffer, "the first is too old", |status| figures(status) == Some(1)).await;
    writer.append(&at(stamp(9_000_000))).await.unwrap();
    until(&buffer, "the second, too; the third is not known to be", |s| figures(s) == Some(2)).await;
    let left: Vec<_> = drain(&buffer, "cloud").await.iter().map(|r| r.seq).collect();
    assert_eq!(left, [3, 4, 5]);
    conserved(&buffer);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_blocks_are_merged_and_read_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let eager = config::Buffer { ack_delay: Duration::ZERO, ..settings() };
    let (buffer, _) = Buffer::open(dir.path(), &eager, &[sink("cloud")]).unwrap();
    let (mut writer, device) = (buffer.writer(), device());
    for n in 0..300_u64 {
        let payload = format!("{n}");
        let reading = Incoming { received: stamp(n * 1_000), ..incoming(&device, payload.as_bytes(), None) };
        writer.append(&reading).await.unwrap();
    }
    until(&buffer, "blocks are merged", |status| status.blocks < 150).await;
    let readings = drain(&buffer, "cloud").await;
    assert_eq!(readings.len(), 300);
    for (n, reading) in (0_u64..).zip(&readings) {
        assert_eq!((reading.seq, reading.received), (n + 1, stamp(n * 1_000)));
        assert_eq!(reading.payload, format!("{n}"));
    }
    conserved(&buffer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_range_goes_first_and_the_backlog_follows() {
    let dir = tempfile::tempdir().unwrap();
    let (buffer, _) = Buffer::open(dir.path(), &settings(), &[sink("cloud")]).unwrap();
    let mut writer = buffer.writer();
    for _ in 0..5 {
        append(&mut writer, &device(), b"old", None).await;
    }
    let mut reader = buffer.reader(&sink("cloud")).unwrap();
    assert!(reader.split_live());
    append(&mut writer, &device(), b"live", None).await;
    let numbers = |readings: &[Reading]| readings.iter().map(|r| r.seq).collect::<Vec<_>>();
    let readings = reader.next(ALL).await.unwrap();
    assert_eq!(numbers(&readings), [6, 1, 2, 3, 4, 5]);
    reader.settle(&[(6, Outcome::Delivered)]).await.unwrap();
    assert_eq!(reader.pending(), 5);
    let backlog = reader.next(ALL).await.unwrap();
    assert_eq!(numbers(&backlog), [1, 2, 3, 4, 5]);
    reader.settle(&[(2, Outcome::Delivered)]).await.unwrap();
    assert!(reader.split_behind(2));
    assert_eq!(numbers(&reader.next(ALL).await.unwrap()), [4, 5, 1, 3], "the two oldest that wait go last");
    conserved(&buffer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_was_away_is_told_what_went_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let both = [sink("cloud"), sink("lake")];
    let (buffer, _) = Buffer::open(dir.path(), &settings(), &both).unwrap();
    let mut writer = buffer.writer();
    for _ in 0..4 {
        append(&mut writer, &device(), b"x", None).await;
    }
    drain(&buffer, "lake").await;
    buffer.close().await;
    let (buffer, _) = Buffer::open(dir.path(), &settings(), &both[..1]).unwrap();
    let mut writer = buffer.writer();
    for _ in 0..6 {
        append(&mut writer, &device(), b"y", None).await;
    }
    drain(&buffer, "cloud").await;
    until(&buffer, "what is settled is removed", |status| status.oldest_seq == 11).await;
    buffer.close().await;
    let (buffer, _) = Buffer::open(dir.path(), &settings(), &both).unwrap();
    let lake = &buffer.status().sinks["lake"];
    assert_eq!((lake.accepted, lake.delivered, lake.pending), (10, 4, 0));
    assert_eq!(lake.dropped[&DropReason::SinkAbsent], 6);
    conserved(&buffer);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_is_taken_by_one_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (buffer, _) = Buffer::open(dir.path(), &settings(), &[]).unwrap();
    let second = Buffer::open(dir.path(), &settings(), &[]);
    assert!(matches!(second, Err(OpenError::Locked(_))), "{second:?}");
    drop(buffer);
    Buffer::open(dir.path(), &settings(), &[]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn boot_offsets_survive_and_only_the_newest_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (buffer, _) = Buffer::open(dir.path(), &settings(), &[]).unwrap();
    for n in 0..70_u8 {
        buffer.set_boot_offset(BootId([n; 16]), i64::from(n) - 100).await.unwrap();
    }
    buffer.close().await;
    let (buffer, _) = Buffer::open(dir.path(), &settings(), &[]).unwrap();
    let offsets = buffer.boot_offsets();
    assert_eq!((offsets.len(), offsets.get(&BootId([5; 16]))), (64, None));
    assert_eq!(offsets[&BootId([69; 16])], -31);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_bounded_and_the_oldest_go_counted() {
    let dir = tempfile::tempdir().unwrap();
    let few = config::Buffer { max_dead_letters: 3, ..settings() };
    let (buffer, _) = Buffer::open(dir.path(), &few, &[]).unwrap();
    let mut writer = buffer.writer();
    for n in 0..8 {
        append(&mut writer, &device(), format!("{n}").as_bytes(), Some("not JSON")).await;
    }
    let status = buffer.status();
    assert_eq!((status.dead_letters, status.dead_letters_evicted), (3, 5));
    let letters = buffer.dead_letters(2).await.unwrap();
    assert_eq!(letters.iter().map(|letter| letter.reading.seq).collect::<Vec<_>>(), [8, 7]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_opened_is_tried_again_and_nothing_is_taken_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let (buffer, _) = Buffer::open(dir.path(), &settings(), &[sink("cloud")]).unwrap();
    append(&mut buffer.writer(), &device(), b"before", None).await;
    buffer.close().await;
    let (store, hidden) = (dir.path().join("store"), dir.path().join("hidden"));
    std::fs::rename(&store, &hidden).unwrap();
    std::fs::write(&store, b"in the way").unwrap();

    let (buffer, report) = Buffer::open(dir.path(), &settings(), &[sink("cloud")]).unwrap();
    assert!(report.findings[0].contains("cannot be opened now"), "{report:?}");
    assert!(buffer.status().trouble.is_some());
    let mut writer = buffer.writer();
    assert_eq!(submit(&mut writer, b"early"), Err(SubmitError::Full));
    let mut reader = buffer.reader(&sink("cloud")).unwrap();
    std::fs::remove_file(&store).unwrap();
    std::fs::rename(&hidden, &store).unwrap();
    tokio::time::timeout(Duration::from_secs(60), writer.room()).await.unwrap();
    assert_eq!(append(&mut writer, &device(), b"after", None).await, 2);
    let readings = reader.next(ALL).await.unwrap();
    assert_eq!(readings.iter().map(|r| &r.payload[..]).collect::<Vec<_>>(), [&b"before"[..], b"after"]);
    until(&buffer, "it is well again", |status| status.trouble.is_none()).await;
    conserved(&buffer);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_disk_does_not_answer_nobody_waits_for_ever_and_the_reason_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let settings = config::Buffer { stuck_after: Duration::from_secs(4), ..settings() };
    let (buffer, _) = Buffer::open(dir.path(), &settings, &[sink("cloud")]).unwrap();
    let (mut writer, mut other) = (buffer.writer(), buffer.writer());
    append(&mut writer, &device(), b"before", None).await;
    let mut reader = buffer.reader(&sink("cloud")).unwrap();
    let read = reader.next(ALL).await.unwrap();
    reader.settle(&[(read[0].seq, Outcome::Delivered)]).await.unwrap();

    buffer.0.0.faults.hang.store(true, SeqCst);
    let committing = submit(&mut writer, b"in the group that is written").unwrap();
    until(&buffer, "the group is being written", |status| status.trouble.is_some()).await;
    let open = submit(&mut other, b"in the next one").unwrap();
    let all = async {
        tokio::join!(
            writer.until_durable(committing.mark),
            other.until_durable(open.mark),
            reader.next(ALL),
            buffer.dead_letters(1),
            buffer.ended(),
        )
    };
    let (committing, open, read, letters, ended) =
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("somebody waits for ever");
    assert_eq!((committing, open), (Err(Closed), Err(Closed)));
    assert!(read.is_err() && letters.is_err());
    let stuck = ended.unwrap_err();
    assert_eq!(stuck.doing, "fdatasync of the store");
    assert!(stuck.stood >= settings.stuck_after, "{stuck}");
    buffer.close().await;
    assert_eq!(buffer.ended().await, Err(stuck));

    // It was only very slow: the thread ends, and the next one finds everything that was acknowledged.
    buffer.0.0.faults.hang.store(false, SeqCst);
    let (buffer, _) = Buffer::open(dir.path(), &settings, &[sink("cloud")]).unwrap();
    assert!(buffer.status().accepted >= 1);
    conserved(&buffer);
}
