//! Records as the broker sees them.

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
