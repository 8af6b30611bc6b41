//! Records as the broker sees them.

use std::sync::atomic::Ordering::SeqCst;

use super::tests::{incoming, settings, sink};
use super::*;
use crate::message::DeviceId;

fn key(n: u64) -> RecordKey {
    RecordKey::new(Table::Queued, &n.to_be_bytes())
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u8
    };
    (0..length).map(|_| next()).collect()
}

async fn commit(writer: &mut Writer, changes: Vec<Change>) {
    let receipt = writer.submit(None, changes, Wait::ForAck).unwrap();
    assert_eq!(receipt.seq, None);
    writer.until_durable(receipt.mark).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_any_size_comes_back_after_a_restart_and_a_shorter_one_leaves_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = [0, 1, 6_000, 6_100, 12_345, 1_048_576];
    let (buffer, _) = Buffer::open(dir.path(), &settings(), &[]).unwrap();
    let mut writer = buffer.writer();
    let puts = (0..).zip(sizes).map(|(n, size)| Change::Put(key(n), noise(size, n + 1))).collect();
    commit(&mut writer, puts).await;
    buffer.close().await;

    let (buffer, _) = Buffer::open(dir.path(), &settings(), &[]).unwrap();
    let found = buffer.records(Table::Queued).await.unwrap();
    assert_eq!(found.len(), sizes.len());
    for ((n, size), (key, value)) in (0_u64..).zip(sizes).zip(&found) {
        assert_eq!((&**key, value), (&n.to_be_bytes()[..], &noise(size, n + 1)));
    }
    assert_eq!(buffer.records(Table::Retained).await.unwrap(), []);
    let mut writer = buffer.writer();
    let changes = (0..5).map(|n| Change::Remove(key(n))).chain([Change::Put(key(5), b"short".to_vec())]);
    commit(&mut writer, changes.collect()).await;
    let found = buffer.records(Table::Queued).await.unwrap();
    assert_eq!(found, [(5_u64.to_be_bytes().into(), b"short".to_vec())]);
    let state = buffer.0.0.ledger.book().state.clone();
    assert_eq!(state.records, 1);
    assert!(state.record_bytes < 100, "{state:?}");
    commit(&mut writer, vec![Change::Remove(key(5)), Change::Remove(key(77))]).await;
    let state = buffer.0.0.ledger.book().state.clone();
    assert_eq!((state.records, state.record_bytes), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_and_its_changes_are_in_one_group_and_the_last_change_of_a_record_counts() {
    let dir = tempfile::tempdir().unwrap();
    let patient = config::Buffer { ack_delay: Duration::from_secs(3_600), ..settings() };
    let (buffer, _) = Buffer::open(dir.path(), &patient, &[sink("cloud")]).unwrap();
    let mut writer = buffer.writer();
    let device = DeviceId::parse("plug").unwrap();
    let reading = incoming(&device, b"21.5", None);
    let first =
        writer.submit(Some(&reading), vec![Change::Put(key(1), b"old".to_vec())], Wait::ForAck).unwrap();
    let changes =
        vec![Change::Put(key(1), b"new".to_vec()), Change::Put(key(2), vec![]), Change::Remove(key(2))];
    let second = writer.submit(None, changes, Wait::ForAck).unwrap();
    assert_eq!((first.seq, second.seq, first.mark), (Some(1), None, second.mark));
    assert!(writer.durable() < first.mark);
    buffer.close().await;
    assert!(writer.durable() >= first.mark);

    let (buffer, _) = Buffer::open(dir.path(), &settings(), &[sink("cloud")]).unwrap();
    assert_eq!(buffer.status().accepted, 1);
    let found = buffer.records(Table::Queued).await.unwrap();
    assert_eq!(found, [(1_u64.to_be_bytes().into(), b"new".to_vec())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_waited_for_when_nothing_was_submitted() {
    let dir = tempfile::tempdir().unwrap();
    let (buffer, _) = Buffer::open(dir.path(), &settings(), &[]).unwrap();
    let mut writer = buffer.writer();
    let receipt = writer.submit(None, vec![], Wait::ForAck).unwrap();
    assert_eq!(receipt, Receipt::default());
    writer.until_durable(receipt.mark).await.unwrap();
    // A change that nobody waits for is on disk after `qos0_window` all the same.
    let receipt = writer.submit(None, vec![Change::Put(key(1), vec![])], Wait::Nobody).unwrap();
    writer.until_durable(receipt.mark).await.unwrap();
    assert_eq!(buffer.records(Table::Queued).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_wait_for_company_closes_its_group_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let patient = config::Buffer {
        ack_delay: Duration::from_secs(3_600),
        qos0_window: Duration::from_secs(3_600),
        ..settings()
    };
    let (buffer, _) = Buffer::open(dir.path(), &patient, &[]).unwrap();
    let mut writer = buffer.writer();
    for n in 0..3 {
        let waits = writer.submit(None, vec![Change::Put(key(2 * n), vec![])], Wait::ForAck).unwrap();
        let urgent = writer.submit(None, vec![Change::Put(key(2 * n + 1), vec![])], Wait::Now).unwrap();
        assert_eq!(waits.mark, urgent.mark, "it takes along what is there");
        tokio::time::timeout(Duration::from_secs(60), writer.until_durable(urgent.mark))
            .await
            .unwrap()
            .unwrap();
    }
    assert_eq!(buffer.records(Table::Queued).await.unwrap().len(), 6);
}

async fn queued(buffer: &Buffer) -> Vec<(u64, Vec<u8>)> {
    let records = buffer.records(Table::Queued).await.unwrap();
    records
        .iter()
        .map(|(key, value)| (u64::from_be_bytes((**key).try_into().unwrap()), value.clone()))
        .collect()
}

async fn until_in_trouble(buffer: &Buffer) {
    let give_up = std::time::Instant::now() + Duration::from_secs(60);
    while buffer.status().trouble.is_none() {
        assert!(std::time::Instant::now() < give_up, "the failure does not show");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A store in which records were put, put anew and removed, before its syncs begin to fail.
async fn before_failure(buffer: &Buffer, writer: &mut Writer) {
    let large = noise(20_000, 1);
    commit(
        writer,
        vec![Change::Put(key(1), vec![1]), Change::Put(key(2), large), Change::Put(key(3), vec![3])],
    )
    .await;
    commit(writer, vec![Change::Remove(key(1)), Change::Put(key(2), vec![2])]).await;
    buffer.0.0.faults.sync.store(true, SeqCst);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_sync_nothing_that_was_removed_comes_back_and_nothing_acknowledged_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let (buffer, _) = Buffer::open(dir.path(), &settings(), &[]).unwrap();
    let mut writer = buffer.writer();
    before_failure(&buffer, &mut writer).await;
    let device = DeviceId::parse("plug").unwrap();
    let changes = vec![Change::Put(key(4), noise(10_000, 4)), Change::Remove(key(3))];
    let taken = writer.submit(Some(&incoming(&device, b"x", None)), changes, Wait::ForAck).unwrap();
    until_in_trouble(&buffer).await;
    assert!(writer.durable() < taken.mark);
    buffer.0.0.faults.sync.store(false, SeqCst);
    writer.until_durable(taken.mark).await.unwrap();
    assert!(dir.path().join("store.damaged-1").exists(), "it was rebuilt");
    assert_eq!(queued(&buffer).await, [(2, vec![2]), (4, noise(10_000, 4))]);
    let state = buffer.0.0.ledger.book().state.clone();
    assert_eq!(state.records, 3, "one of them is in two parts");
    buffer.close().await;
    let (buffer, report) = Buffer::open(dir.path(), &settings(), &[]).unwrap();
    assert_eq!(report.findings, Vec::<String>::new());
    assert_eq!(queued(&buffer).await, [(2, vec![2]), (4, noise(10_000, 4))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_process_dies_while_its_store_is_rebuilt_a_group_without_an_ack_has_changed_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (buffer, _) = Buffer::open(dir.path(), &settings(), &[]).unwrap();
    let mut writer = buffer.writer();
    before_failure(&buffer, &mut writer).await;
    let device = DeviceId::parse("plug").unwrap();
    let changes = vec![Change::Put(key(4), vec![4]), Change::Put(key(2), vec![22]), Change::Remove(key(3))];
    writer.submit(Some(&incoming(&device, b"x", None)), changes, Wait::ForAck).unwrap();
    let give_up = std::time::Instant::now() + Duration::from_secs(60);
    while !dir.path().join("store.rebuild").exists() {
        assert!(std::time::Instant::now() < give_up, "its rebuilding does not begin");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    buffer.crash().await;
    drop((writer, buffer));

    let (buffer, report) = Buffer::open(dir.path(), &settings(), &[]).unwrap();
    assert!(report.findings[0].contains("interrupted"), "{report:?}");
    assert_eq!(buffer.status().accepted, 0);
    assert_eq!(queued(&buffer).await, [(2, vec![2]), (3, vec![3])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_records_are_refused_until_some_are_removed_while_readings_and_removals_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let small = config::Buffer { max_bytes: 300_000, ..settings() };
    let (buffer, _) = Buffer::open(dir.path(), &small, &[]).unwrap();
    let mut writer = buffer.writer();
    let mut taken = 0;
    let refused = loop {
        assert!(taken < 1_000, "nothing is refused");
        match writer.submit(None, vec![Change::Put(key(taken), noise(2_000, taken))], Wait::ForAck) {
            Ok(receipt) => writer.until_durable(receipt.mark).await.unwrap(),
            Err(refused) => break refused,
        }
        taken += 1;
    };
    assert_eq!(refused, SubmitError::Full);
    assert!(taken > 10, "only {taken} were taken");
    let device = DeviceId::parse("plug").unwrap();
    writer.append(&incoming(&device, b"x", None)).await.unwrap();
    writer.submit(None, vec![Change::Put(key(0), vec![])], Wait::ForAck).unwrap_err();
    let removed =
        writer.submit(None, (0..10).map(|n| Change::Remove(key(n))).collect(), Wait::ForAck).unwrap();
    writer.until_durable(removed.mark).await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), writer.room()).await.unwrap();
    commit(&mut writer, vec![Change::Put(key(0), vec![])]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_hears_of_what_another_has_submitted() {
    let dir = tempfile::tempdir().unwrap();
    let (buffer, _) = Buffer::open(dir.path(), &settings(), &[]).unwrap();
    let (mut one, other) = (buffer.writer(), buffer.writer());
    for n in 0..50 {
        let taken = one.submit(None, vec![Change::Put(key(n), vec![])], Wait::ForAck).unwrap();
        if n % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        tokio::time::timeout(Duration::from_secs(60), other.until_durable(taken.mark))
            .await
            .unwrap()
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_comes_and_goes_within_a_group_costs_no_sync() {
    let dir = tempfile::tempdir().unwrap();
    let (buffer, _) = Buffer::open(dir.path(), &settings(), &[]).unwrap();
    let mut writer = buffer.writer();
    let before = buffer.status().commits;
    commit(&mut writer, vec![Change::Put(key(1), vec![]), Change::Remove(key(1))]).await;
    assert_eq!(buffer.status().commits, before);
    assert_eq!(queued(&buffer).await, []);
}
