//! The Supabase sink and its schema against a real PostgreSQL behind `@supabase/lite`. `tests/run` installs
//! both; `cargo test` alone leaves this out.
//!
//! The database judges: types, constraints, policies, conflicts. What lite answers differs from PostgREST
//! here and there, and nothing of that is expected here: a check violation is 500 with the code `SUP` there
//! and 400 with 23514 in PostgREST, a bare `true` is refused as no `jsonb`, numbers pass through JavaScript
//! (`1e400` becomes null), replies to inserts are chunked, errors lack `Proxy-Status`. How PostgREST itself
//! answers is recorded, and `demo::cloud` is compared with it.

#![allow(clippy::unwrap_used, reason = "all of it is test; clippy knows functions marked as one alone")]

#[path = "../harness/mod.rs"]
mod harness;

mod commands;
mod peers;
mod realtime;

use std::path::Path;

use bytes::Bytes;
use tampu::clock::{Clock, TimeQuality};
use tampu::config::{self, Config};
use tampu::message::{BootId, ClockQuality, DeviceId, Qos, Reading, Seq, Stamp};
use tampu::sink::{self, Accepted, AnySink, Batch, Behind, Row, SendError, Sink, TimedReading};

use harness::Gateway;
use harness::mqtt::Device;
use peers::{Lite, Postgres};

/// 2026-01-01T00:00:00.125Z.
const AT_MS: i64 = 1_767_225_600_125;
const DELIVERED: &str = "select count(*), count(distinct (gateway_id, epoch, seq)) from readings";

fn sink(lite: &Lite, secrets: &str) -> AnySink {
    rustls::crypto::ring::default_provider().install_default().ok();
    let text = format!(
        "[gateway]\nid = \"gw\"\n\
         [[stream]]\nname = \"air\"\ntopic = \"+/air\"\n\
         [[sink]]\nname = \"database\"\ntype = \"supabase\"\nurl = \"{}\"\n{secrets}\n",
        lite.url()
    );
    let config = Config::from_toml(&text).unwrap();
    let clock = config::Clock { source: config::ClockSource::Trusted, ..config::Clock::default() };
    let clock = Clock::start(&clock, Path::new("/nowhere/floor"), Default::default()).unwrap();
    sink::open(&config.sinks[0], &config.streams, &config.gateway_id, &clock).unwrap()
}

fn with_secret_key(lite: &Lite) -> AnySink {
    sink(lite, &format!("key = \"{}\"", Lite::SECRET_KEY))
}

fn reading(seq: Seq, payload: &str) -> TimedReading {
    let received =
        Stamp { wall_ms: AT_MS, boot_ms: 0, boot: BootId([0; 16]), quality: ClockQuality::Synchronized };
    let reading = Reading {
        seq,
        epoch: 1,
        device: DeviceId::parse("esp32-01").unwrap(),
        stream: "air".into(),
        topic: "esp32-01/air".into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos: Qos::AtLeastOnce,
        received,
        fault: None,
    };
    TimedReading { reading, at_ms: AT_MS, quality: TimeQuality::Synchronized }
}

fn rows(sink: &mut AnySink, readings: &[TimedReading]) -> Vec<Row> {
    let max_rows = sink.bounds().max_rows;
    let batch = Batch { readings, behind: Behind::Nothing, now_ms: AT_MS + 60_000, max_rows };
    let plan = sink.plan(&batch);
    assert_eq!((plan.rows.len(), plan.dropped.len()), (readings.len(), 0), "{plan:?}");
    plan.rows
}

#[tokio::test]
async fn a_bulk_insert_stores_what_was_received_and_sending_it_again_changes_nothing() {
    let postgres = Postgres::start();
    let lite = Lite::start(&postgres);
    let mut sink = with_secret_key(&lite);
    let payloads = [r#"{"t":21.5,"deep":[[1]]}"#, "21.4", r#""on""#, "null"];
    let readings: Vec<_> = (1..).zip(payloads).map(|(seq, payload)| reading(seq, payload)).collect();
    let mut rows = rows(&mut sink, &readings);
    for row in (5..=500).map(|seq| reading(seq, r#"{"t":1}"#)) {
        rows.extend(self::rows(&mut sink, &[row]));
    }

    assert_eq!(sink.send(&rows).await, Ok(Accepted::Stored));
    assert_eq!(postgres.sql(DELIVERED), ["500|500"]);
    let first = "select device, stream, topic, clock, received_at at time zone 'UTC', payload #>> '{t}' \
                 from readings where gateway_id = 'gw' and epoch = 1 and seq = 1";
    assert_eq!(postgres.sql(first), ["esp32-01|air|esp32-01/air|synchronized|2026-01-01 00:00:00.125|21.5"]);
    let kinds =
        "select coalesce(jsonb_typeof(payload), 'NULL') from readings where seq between 2 and 4 order by seq";
    assert_eq!(postgres.sql(kinds), ["number", "string", "NULL"]);

    let before = postgres.sql("select max(stored_at) from readings");
    assert_eq!(sink.send(&rows).await, Ok(Accepted::Stored));
    assert_eq!(postgres.sql(DELIVERED), ["500|500"]);
    assert_eq!(postgres.sql("select max(stored_at) from readings"), before);
}

#[tokio::test]
async fn a_row_that_the_database_cannot_hold_keeps_its_batch_out_and_is_named_as_at_fault() {
    let postgres = Postgres::start();
    let lite = Lite::start(&postgres);
    let mut sink = with_secret_key(&lite);
    let readings = [reading(1, r#"{"t":1}"#), reading(2, r#"{"t":"\u0000"}"#), reading(3, r#"{"t":3}"#)];
    let rows = rows(&mut sink, &readings);

    let refused = sink.send(&rows).await;
    assert!(matches!(refused, Err(SendError::Refused { known: true, .. })), "{refused:?}");
    assert_eq!(postgres.sql(DELIVERED), ["0|0"], "a request is one transaction");
    let alone = sink.send(&rows[1..2]).await;
    assert!(matches!(alone, Err(SendError::Refused { known: true, .. })), "{alone:?}");
    for good in [&rows[..1], &rows[2..]] {
        assert_eq!(sink.send(good).await, Ok(Accepted::Stored));
    }
    assert_eq!(postgres.sql("select seq from readings order by seq"), ["1", "3"]);
}

#[tokio::test]
async fn a_gateway_writes_with_a_token_of_its_role_and_not_without() {
    let postgres = Postgres::start();
    let lite = Lite::start(&postgres);
    let key = format!("key = \"{}\"", Lite::PUBLISHABLE_KEY);
    let mut anonymous = sink(&lite, &key);
    let rows = rows(&mut anonymous, &[reading(1, "1")]);
    let held = anonymous.send(&rows).await;
    assert!(matches!(held, Err(SendError::Hold { .. })), "{held:?}");

    let mut gateway = sink(&lite, &format!("{key}\ntoken = \"{}\"", Lite::token("tampu_gateway")));
    for _ in 0..2 {
        assert_eq!(gateway.send(&rows).await, Ok(Accepted::Stored));
    }
    assert_eq!(postgres.sql(DELIVERED), ["1|1"]);
}

#[tokio::test]
async fn what_is_wrong_with_key_or_table_is_held_and_not_blamed_on_a_row() {
    let postgres = Postgres::start();
    let lite = Lite::start(&postgres);
    for secrets in [
        "key = \"sb_secret_wrong\"".to_owned(),
        format!("key = \"{}\"\ntable = \"nowhere\"", Lite::SECRET_KEY),
    ] {
        let mut sink = sink(&lite, &secrets);
        let rows = rows(&mut sink, &[reading(1, "1")]);
        let held = sink.send(&rows).await;
        assert!(matches!(held, Err(SendError::Hold { .. })), "{secrets}: {held:?}");
    }
    let mut sink = with_secret_key(&lite);
    drop(lite);
    let rows = rows(&mut sink, &[reading(1, "1")]);
    let lost = sink.send(&rows).await;
    assert!(matches!(lost, Err(SendError::Retry { .. })), "nobody is there any more: {lost:?}");
}

#[test]
fn the_whole_path_survives_an_outage_a_kill_and_a_reading_that_the_database_refuses() {
    const POISON: u32 = 20;
    let postgres = Postgres::start();
    let mut lite = Lite::start(&postgres);
    let gateway = Gateway::start(&format!(
        "[[sink]]\nname = \"database\"\ntype = \"supabase\"\nurl = \"{}\"\nkey = \"{}\"\ninterval = \"0s\"\n",
        lite.url(),
        Lite::SECRET_KEY
    ));
    let mut plug = Device::connect(gateway.address, &gateway.home.device("plug"), "plug");
    let mut publish = |n: u32| match n {
        POISON => plug.publish("plug/readings", r#"{"n":"\u0000"}"#),
        _ => plug.publish("plug/readings", &format!("{{\"n\":{n}}}")),
    };
    publish(1);
    harness::eventually("the first row", || (postgres.sql(DELIVERED) == ["1|1"]).then_some(()));
    lite.stop();
    (2..=40).for_each(&mut publish);
    let gateway = gateway.kill().start();
    lite.start_again();

    let dropped = gateway.wait_for_status("everything has an end", |status| {
        let figures = &status["buffer"]["sinks"]["database"];
        (figures["delivered"] == 39 && figures["pending"] == 0).then(|| figures["dropped"].clone())
    });
    assert_eq!(dropped, serde_json::json!({ "rejected": 1 }));
    let stored = postgres.sql("select payload ->> 'n' from readings order by epoch, seq");
    let expected: Vec<_> = (1..=40).filter(|n| *n != POISON).map(|n| n.to_string()).collect();
    assert_eq!(stored, expected);
}

#[test]
fn the_schema_can_be_applied_again_and_its_role_can_only_add() {
    let postgres = Postgres::start();
    let insert = "insert into readings (gateway_id, epoch, seq, device, stream, topic, received_at, clock) \
                  values ('gw', 1, 1, 'd', 's', 't', now(), 'synchronized') \
                  on conflict (gateway_id, epoch, seq) do nothing";
    assert_eq!(postgres.sql_as("tampu_gateway", insert), Ok(()));
    postgres.apply_schema();
    assert_eq!(postgres.sql_as("tampu_gateway", insert), Ok(()));
    assert_eq!(postgres.sql(DELIVERED), ["1|1"], "what was there stays");

    for (role, statement) in [
        ("tampu_gateway", "select payload from readings"),
        ("tampu_gateway", "update readings set device = 'x'"),
        ("tampu_gateway", "delete from readings"),
        ("tampu_gateway", "truncate readings"),
        ("anon", insert),
        ("anon", "select seq from readings"),
        ("authenticated", "truncate readings"),
    ] {
        let refused = postgres.sql_as(role, statement).unwrap_err();
        assert!(refused.contains("permission denied"), "{role}: {statement}: {refused}");
    }
    assert_eq!(postgres.sql_as("service_role", "select payload from readings"), Ok(()));
    let sundial = "update readings set clock = 'sundial'";
    assert!(postgres.sql_as("service_role", sundial).unwrap_err().contains("readings_clock_check"));
}
