//! The buffer as its users see it.

use std::time::Duration;

use super::*;
use crate::message::{ClockQuality, DeviceId, Incoming, Qos, Stamp};

pub(super) fn settings() -> config::Buffer {
    config::Buffer {
        ack_delay: Duration::from_millis(2),
        qos0_window: Duration::from_millis(5),
        min_free_bytes: 0,
        ..config::Buffer::default()
    }
}

pub(super) fn sink(name: &str) -> config::SinkName {
    DeviceId::parse(name).unwrap()
}

pub(super) fn stamp(ms: u64) -> Stamp {
    Stamp {
        wall_ms: 1_800_000_000_000 + ms as i64,
        boot_ms: 5_000 + ms,
        boot: BootId([7; 16]),
        quality: ClockQuality::Synchronized,
    }
}

pub(super) fn incoming<'a>(device: &'a DeviceId, payload: &'a [u8], fault: Option<&'a str>) -> Incoming<'a> {
    Incoming {
        device,
        stream: "soil",
        topic: "field/soil",
        payload,
        qos: Qos::AtLeastOnce,
        received: stamp(payload.len() as u64),
        fault,
    }
}

pub(super) async fn append(
    writer: &mut Writer,
    device: &DeviceId,
    payload: &[u8],
    fault: Option<&str>,
) -> Seq {
    writer.append(&incoming(device, payload, fault)).await.unwrap()
}

pub(super) const ALL: Limits = Limits { max_readings: 10_000, max_bytes: 100_000_000 };

pub(super) fn conserved(buffer: &Buffer) {
    let status = buffer.status();
    for (name, figures) in &status.sinks {
        let dropped: u64 = figures.dropped.values().sum();
        assert_eq!(figures.accepted, figures.delivered + figures.pending + dropped, "{name}: {figures:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_appended_is_read_settled_and_still_known_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = sink("cloud");
    let device = DeviceId::parse("esp32-01").unwrap();
    let (buffer, report) = Buffer::open(dir.path(), &settings(), std::slice::from_ref(&cloud)).unwrap();
    assert!(report.findings.is_empty() && report.gaps.is_empty());
    let mut writer = buffer.writer();
    for n in 0..300_usize {
        let payload = format!("{{\"n\":{n}}}");
        assert_eq!(append(&mut writer, &device, payload.as_bytes(), None).await, n as u64 + 1);
    }
    let mut reader = buffer.reader(&cloud).unwrap();
    assert!(buffer.reader(&cloud).is_none(), "one reader a sink");
    let readings = reader.next(ALL).await.unwrap();
    assert_eq!(readings.len(), 300);
    assert_eq!(readings[299].payload, "{\"n\":299}");
    assert_eq!(readings[7].received, stamp(readings[7].payload.len() as u64));
    let outcomes: Vec<_> = (1..=100).map(|seq| (seq, Outcome::Delivered)).collect();
    reader.settle(&outcomes).await.unwrap();
    reader.settle(&[(101, Outcome::DeadLetter("no such column".into()))]).await.unwrap();
    conserved(&buffer);
    let epoch = readings[0].epoch;
    buffer.close().await;
    assert_eq!(writer.until_durable(Mark(10_000)).await, Err(Closed));

    let (buffer, report) = Buffer::open(dir.path(), &settings(), std::slice::from_ref(&cloud)).unwrap();
    assert_eq!(report.findings, Vec::<String>::new());
    conserved(&buffer);
    let status = buffer.status();
    assert_eq!((status.accepted, status.sinks["cloud"].pending), (300, 199));
    assert_eq!(status.dead_letters, 1);
    let letters = buffer.dead_letters(10).await.unwrap();
    assert_eq!((letters[0].reading.seq, letters[0].reason.as_str()), (101, "no such column"));
    let mut reader = buffer.reader(&cloud).unwrap();
    let readings = reader.peek(ALL).await.unwrap();
    assert_eq!(readings.iter().map(|r| r.seq).collect::<Vec<_>>(), (102..=300).collect::<Vec<_>>());
    let seq = append(&mut buffer.writer(), &device, b"after", None).await;
    assert_eq!(seq, 301);
    let last = reader.next(ALL).await.unwrap().pop().unwrap();
    assert_eq!((last.seq, last.epoch), (301, epoch + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_of_any_size_comes_back_and_an_unfit_one_becomes_a_dead_letter() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = sink("cloud");
    let device = DeviceId::parse("cam").unwrap();
    let (buffer, _) = Buffer::open(dir.path(), &settings(), std::slice::from_ref(&cloud)).unwrap();
    let mut noise = vec![0_u8; 200_000];
    let mut state = 1_u64;
    for byte in &mut noise {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (state >> 33) as u8;
    }
    let mut writer = buffer.writer();
    append(&mut writer, &device, &noise, None).await;
    append(&mut writer, &device, &noise, Some("not JSON")).await;
    append(&mut writer, &device, b"", None).await;
    let mut reader = buffer.reader(&cloud).unwrap();
    let readings = reader.next(ALL).await.unwrap();
    assert_eq!(readings.iter().map(|r| r.seq).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(readings[0].payload, noise);
    assert_eq!(buffer.status().sinks["cloud"].dropped[&DropReason::Unfit], 1);
    let letters = buffer.dead_letters(10).await.unwrap();
    assert_eq!((letters.len(), letters[0].sink.as_ref(), letters[0].reason.as_str()), (1, None, "not JSON"));
    assert_eq!(letters[0].reading.payload, noise);
    conserved(&buffer);
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_of_many_connections_share_one_sync() {
    let dir = tempfile::tempdir().unwrap();
    let patient = config::Buffer { ack_delay: Duration::from_millis(500), ..settings() };
    let (buffer, _) = Buffer::open(dir.path(), &patient, &[]).unwrap();
    let device = DeviceId::parse("plug").unwrap();
    let mut writers: Vec<_> = (0..8).map(|_| buffer.writer()).collect();
    let mut last = Receipt::default();
    for n in 0..512_usize {
        let reading = incoming(&device, b"21.5", None);
        last = writers[n % 8].submit(Some(&reading), Vec::new(), Wait::ForAck).unwrap();
    }
    assert_eq!(last.seq, Some(512));
    writers[7].until_durable(last.mark).await.unwrap();
    // Two full groups; if the thread came late the first holds more and the rest waits for its time.
    let commits = buffer.status().commits;
    assert!((1..=8).contains(&commits), "{commits} commits for 512 readings");
}

#[test]
fn the_state_of_an_older_version_is_read_and_has_no_records() {
    let state =
        ledger::State { generation: 7, end: 9, records: 3, record_bytes: 300, lost: 2, ..Default::default() };
    let body = state.encode();
    assert_eq!(ledger::State::decode(&body), Some(state.clone()));
    let older = ledger::State { records: 0, record_bytes: 0, lost: 0, ..state };
    assert_eq!(ledger::State::decode(&body[..body.len() - 24]), Some(older));
}

#[test]
fn every_quality_of_service_comes_back_and_an_older_reader_takes_2_for_1() {
    use block::{Base, Record, put_record, take_record};
    for (qos, older) in [(Qos::AtMostOnce, 0), (Qos::AtLeastOnce, 1), (Qos::ExactlyOnce, 1)] {
        let device = DeviceId::parse("plug").unwrap();
        let mut bytes = Vec::new();
        put_record(
            &mut bytes,
            &Base::ZERO,
            &Record::from(&Incoming { qos, ..incoming(&device, b"x", None) }),
        );
        assert_eq!(bytes[0] & 1, older);
        let found = take_record(&mut frame::Fields::new(&bytes), &Base::ZERO).unwrap();
        assert_eq!(found.qos, qos);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_looks_sees_everything_once_the_newest_first_and_moves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = sink("cloud");
    let device = DeviceId::parse("esp32-01").unwrap();
    let (buffer, _) = Buffer::open(dir.path(), &settings(), std::slice::from_ref(&cloud)).unwrap();
    assert!(buffer.look(None).await.unwrap().unwrap().readings.is_empty());
    let mut writer = buffer.writer();
    for n in 0..500_u32 {
        // They do not compress, so that there are several looks.
        let noise: Vec<u8> =
            (0..300_u32).map(|at| (n * 300 + at).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        append(&mut writer, &device, &noise, None).await;
    }
    let (mut seen, mut end, mut looks) = (Vec::new(), None, 0);
    loop {
        let look = buffer.look(end).await.unwrap().unwrap();
        seen.extend(look.readings.iter().map(|reading| reading.seq));
        looks += 1;
        match look.rest {
            Some(rest) => end = Some(rest),
            None => break,
        }
    }
    assert_eq!(seen, (1..=500).rev().collect::<Vec<_>>());
    assert!(looks > 1, "a look is bounded");
    let first = buffer.look(Some(7)).await.unwrap().unwrap();
    assert_eq!(first.readings.first().map(|reading| reading.seq), Some(6), "in the middle of a block, too");
    assert_eq!(buffer.status().sinks["cloud"].pending, 500);
}
