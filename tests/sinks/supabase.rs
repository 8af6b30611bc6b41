//! The Supabase sink.

use std::collections::BTreeSet;
use std::time::Duration;

use tampu::buffer::DropReason;
use tampu::config::{ColumnMapping, ColumnValue, Secret, SinkKind, Supabase, SupabaseRows};
use tampu::demo::cloud::{Fault, Reply};
use tampu::forwarder::State;

use crate::bench::{Bench, eventually};

fn payloads(count: u64) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!(r#"{{"n":{n},"t":22.50}}"#))
}

/// The numbers of all rows; panics on a second row for one.
fn seqs(bench: &Bench) -> BTreeSet<String> {
    let rows = bench.cloud.supabase.rows("readings");
    let seqs: BTreeSet<String> =
        rows.iter().filter_map(|row| row.text("seq").map(ToOwned::to_owned)).collect();
    assert_eq!(seqs.len(), rows.len(), "each reading once");
    seqs
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reading_arrives_once_whatever_the_line_does() {
    let bench = Bench::new().await;
    let line = bench.cloud.supabase.line();
    // Stored, but the gateway does not learn it; then a hotel's log-in page, which says 200.
    line.next(1, &Fault::CutReply);
    line.next(1, &Fault::Reply(Reply::captive_portal()));
    bench.append(payloads(2_500), 10).await;
    let status = bench.forward(SinkKind::Supabase(bench.supabase()));
    assert_eq!(bench.drained().await, (2_500, [].into()));
    assert_eq!(seqs(&bench).len(), 2_500);
    assert_eq!(status.borrow().failures, 2);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_was_away_gets_everything_when_it_is_back() {
    let bench = Bench::new().await;
    bench.cloud.go_away().await;
    bench.append(payloads(1_200), 10).await;
    let status = bench.forward(SinkKind::Supabase(bench.supabase()));
    eventually(|| matches!(status.borrow().state, State::Waiting { .. })).await;
    assert_eq!(bench.buffer.status().sinks["cloud"].pending, 1_200);
    bench.cloud.come_back().await;
    assert_eq!(bench.drained().await, (1_200, [].into()));
    assert_eq!(seqs(&bench).len(), 1_200);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_become_as_small_as_the_proxy_and_the_statement_timeout_want_them() {
    let bench = Bench::new().await;
    bench.cloud.supabase.limit_body_bytes(100_000);
    bench.cloud.supabase.limit_rows(300);
    bench.append(payloads(1_500), 10).await;
    let status = bench.forward(SinkKind::Supabase(bench.supabase()));
    assert_eq!(bench.drained().await, (1_500, [].into()));
    assert_eq!(seqs(&bench).len(), 1_500);
    assert!(status.borrow().failures >= 2);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_the_database_cannot_hold_is_found_and_set_aside() {
    let bench = Bench::new().await;
    let bad = r#"{"t":"\u0000"}"#.to_owned();
    bench.append(payloads(400).chain([bad]).chain(payloads(500)), 10).await;
    bench.forward(SinkKind::Supabase(bench.supabase()));
    assert_eq!(bench.drained().await, (900, [(DropReason::Rejected, 1)].into()));
    assert!(!seqs(&bench).contains("401"));
    eventually(|| bench.buffer.status().dead_letters == 1).await;
    let letters = bench.buffer.dead_letters(10).await.unwrap();
    assert_eq!(letters[0].reading.seq, 401);
    assert!(letters[0].reason.contains("22P05"), "{}", letters[0].reason);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_holds_the_payload_with_every_digit_and_the_time_of_receipt() {
    let bench = Bench::new().await;
    bench.append([r#"{"t":22.50}"#.to_owned()], 0).await;
    bench.forward(SinkKind::Supabase(bench.supabase()));
    bench.drained().await;
    let row = &bench.cloud.supabase.rows("readings")[0];
    assert!(row.text("payload").unwrap().contains("22.50"), "{row:?}");
    assert_eq!((row.text("gateway_id"), row.text("seq")), (Some("gw"), Some("1")));
    assert!(row.text("received_at").unwrap().starts_with("2026-01-01 00:00:00"), "{row:?}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mapped_columns_need_no_table_of_ours() {
    let bench = Bench::new().await;
    let map = |column: &str, value| ColumnMapping { column: column.to_owned(), value };
    let columns = vec![
        map("device", ColumnValue::Device),
        map("stream", ColumnValue::Stream),
        map("topic", ColumnValue::Topic),
        map("received_at", ColumnValue::Time),
        map("clock", ColumnValue::Clock),
        map("payload", ColumnValue::Payload("t".to_owned())),
    ];
    bench.append([r#"{"t":1.50}"#.to_owned(), r#"{"x":1}"#.to_owned()], 0).await;
    bench.forward(SinkKind::Supabase(Supabase { rows: SupabaseRows::Columns(columns), ..bench.supabase() }));
    assert_eq!(bench.drained().await, (1, [(DropReason::NothingMapped, 1)].into()));
    assert_eq!(bench.cloud.supabase.rows("readings")[0].text("payload"), Some("1.50"));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_or_table_holds_the_sink_and_is_not_named_in_the_status() {
    type Change = fn(&mut Supabase);
    let wrong: [(Change, &str); 4] = [
        (|settings| settings.key = Secret::new("sb_secret_wrong".to_owned()), "Invalid API key"),
        (|settings| settings.key = Secret::new("sb_publishable_demo".to_owned()), "may not do this"),
        (|settings| settings.table = "nowhere".to_owned(), "PGRST205"),
        (|settings| settings.schema = Some("hidden".to_owned()), "PGRST106"),
    ];
    for (change, expected) in wrong {
        let bench = Bench::new().await;
        let mut settings = bench.supabase();
        change(&mut settings);
        let key = settings.key.clone();
        bench.append(payloads(5), 10).await;
        let status = bench.forward(SinkKind::Supabase(settings));
        eventually(|| matches!(status.borrow().state, State::Holding { .. })).await;
        let shown = serde_json::to_string(&*status.borrow()).unwrap();
        assert!(shown.contains(expected), "{expected}: {shown}");
        assert!(!shown.contains(key.expose()), "{shown}");
        assert_eq!(bench.buffer.status().sinks["cloud"].pending, 5);
        bench.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_answers_is_asked_for_less_and_less() {
    let bench = Bench::new().await;
    bench.cloud.supabase.line().next(2, &Fault::Silence);
    bench.append(payloads(100), 10).await;
    let mut settings = crate::bench::settings(SinkKind::Supabase(bench.supabase()));
    settings.timeout = Duration::from_millis(500);
    let status = bench.forward_with(&settings);
    bench.drained().await;
    assert_eq!(seqs(&bench).len(), 100);
    assert!(status.borrow().failures >= 2 && status.borrow().requests >= 4);
    bench.end().await;
}
