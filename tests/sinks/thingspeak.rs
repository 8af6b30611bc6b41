//! The ThingSpeak sink.

use std::time::Duration;

use tampu::buffer::DropReason;
use tampu::config::{Secret, SinkKind, ThingSpeak};
use tampu::demo::cloud::{Fault, Reply};
use tampu::forwarder::State;

use crate::bench::{Bench, START_MS, eventually};

fn payloads(count: u64) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!(r#"{{"t":{n}.25}}"#))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_second_becomes_one_entry_whatever_the_line_does() {
    let bench = Bench::new().await;
    let line = bench.cloud.thingspeak.line();
    line.next(1, &Fault::CutReply);
    line.next(1, &Fault::Reply(Reply::captive_portal()));
    bench.append(payloads(2_000), 1_000).await;
    let status = bench.forward(SinkKind::ThingSpeak(bench.thingspeak()));
    assert_eq!(bench.drained().await, (2_000, [].into()));
    let mut seconds: Vec<i64> =
        bench.cloud.thingspeak.entries().iter().map(|entry| entry.created_at).collect();
    seconds.sort_unstable();
    let start_s = START_MS / 1_000;
    assert_eq!(seconds, (start_s..start_s + 2_000).collect::<Vec<_>>());
    assert_eq!(bench.cloud.thingspeak.early_calls(), 0);
    let entries = bench.cloud.thingspeak.entries();
    let seventh = entries.iter().find(|entry| entry.created_at == start_s + 7).unwrap();
    assert_eq!(seventh.values["field1"], "7.25");
    assert_eq!(status.borrow().unverified, 2_000, "202 never says that an entry was stored");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_second_cannot_hold_is_counted_and_nothing_is_overwritten() {
    let bench = Bench::new().await;
    // Four a second, of two fields: two of them collide.
    let four = |n: u64| {
        [format!(r#"{{"t":{n}}}"#), format!(r#"{{"h":{n}}}"#), r#"{"t":-1}"#.into(), r#"{"h":-1}"#.into()]
    };
    bench.append((0..300).flat_map(four), 250).await;
    bench.forward(SinkKind::ThingSpeak(bench.thingspeak()));
    assert_eq!(bench.drained().await, (600, [(DropReason::Collision, 600)].into()));
    let entries = bench.cloud.thingspeak.entries();
    assert_eq!((entries.len(), bench.cloud.thingspeak.duplicates()), (300, 0));
    assert!(entries.iter().all(|entry| entry.values["field1"] == entry.values["field2"]));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn averages_make_fewer_entries_and_lose_nothing() {
    let bench = Bench::new().await;
    bench.append(payloads(600), 1_000).await;
    let settings = ThingSpeak { average: Some(Duration::from_secs(60)), ..bench.thingspeak() };
    bench.forward(SinkKind::ThingSpeak(settings));
    assert_eq!(bench.drained().await, (600, [].into()));
    let entries = bench.cloud.thingspeak.entries();
    assert_eq!(entries.len(), 10);
    assert_eq!(
        (entries[1].created_at - START_MS / 1_000, entries[1].values["field1"].as_str()),
        (60, "89.75")
    );
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_holds_the_sink() {
    let bench = Bench::new().await;
    bench.append(payloads(3), 1_000).await;
    let settings = ThingSpeak { write_key: Secret::new("WRONGKEY".to_owned()), ..bench.thingspeak() };
    let status = bench.forward(SinkKind::ThingSpeak(settings));
    eventually(|| matches!(status.borrow().state, State::Holding { .. })).await;
    let shown = serde_json::to_string(&*status.borrow()).unwrap();
    assert!(shown.contains("error_auth_required") && !shown.contains("WRONGKEY"), "{shown}");
    assert_eq!(bench.buffer.status().sinks["cloud"].pending, 3);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_entries_for_the_licence_are_halved() {
    let bench = Bench::new().await;
    bench.append(payloads(2_500), 1_000).await;
    let settings = ThingSpeak { max_entries: 14_400, ..bench.thingspeak() };
    bench.forward(SinkKind::ThingSpeak(settings));
    assert_eq!(bench.drained().await, (2_500, [].into()));
    assert_eq!(bench.cloud.thingspeak.entries().len(), 2_500);
    bench.end().await;
}
