//! The source against the project of `demo::cloud`, over real sockets.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::buffer::Buffer;
use crate::config::{ClockSource, CommandSourceKind, Config};
use crate::demo::cloud::{
    ApiKey, Cloud, CloudSettings, Fault, PostgRestSettings, Realtime, Reply, Role, Row,
};
use crate::message::Qos;
use crate::relay::{Said, SharedCommand, Wanted};
use crate::tasks::{Stage, Tasks};

mod troubles;

const PATIENCE: Duration = Duration::from_secs(60);
/// So long that no test sees a look that nothing asked for.
const NEVER: &str = "interval = \"1day\"";
const OTHER_TOKEN: &str = "demo.gateway.renewed";

struct Bench {
    cloud: Cloud,
    ledger: Ledger,
    status: watch::Receiver<SourceStatus>,
    token_file: std::path::PathBuf,
    buffer: Buffer,
    _tasks: Tasks,
    _dir: TempDir,
}

async fn cloud() -> Cloud {
    let mut supabase = PostgRestSettings::default();
    supabase.keys.push(ApiKey { text: OTHER_TOKEN.to_owned(), role: Role::Gateway });
    Cloud::start(CloudSettings { supabase, ..CloudSettings::default() }).await.unwrap()
}

fn clock(dir: &Path, source: ClockSource) -> Clock {
    let settings = config::Clock { source, ..config::Clock::default() };
    Clock::start(&settings, &dir.join("floor"), BTreeMap::new()).unwrap()
}

impl Bench {
    async fn start(settings: &str) -> Self {
        Self::with(cloud().await, settings, ClockSource::Trusted, |_| {}).await
    }

    async fn with(
        cloud: Cloud,
        settings: &str,
        source: ClockSource,
        prepare: impl FnOnce(&mut SupabaseSource),
    ) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let dir = tempfile::tempdir().unwrap();
        let token_file = dir.path().join("token");
        std::fs::write(&token_file, "demo.gateway.jwt").unwrap();
        let text = format!(
            "[[command_source]]\nname = \"cloud\"\ntype = \"supabase\"\nurl = \"{}\"\nkey = \"sb_publishable_demo\"\n\
             token = {{ file = \"{}\" }}\n{settings}",
            cloud.supabase.line().url(),
            token_file.display()
        );
        let config = Config::from_toml(&text).unwrap();
        let CommandSourceKind::Supabase(kind) = &config.command_sources[0].kind else { panic!("{config:?}") };
        let clock = clock(dir.path(), source);
        let (buffer, _) = Buffer::open(&dir.path().join("buffer"), &config.buffer, &[]).unwrap();
        let ledger = Ledger::open(&buffer, clock.clone(), &config.commands).await.unwrap();
        let gateway = DeviceId::parse("gw").unwrap();
        let (mut source, status) =
            SupabaseSource::new(&config.command_sources[0], kind, &gateway, ledger.clone(), &clock).unwrap();
        prepare(&mut source);
        let tasks = Tasks::default();
        let spawner = tasks.spawner(Stage::Forwarders);
        spawner.essential("source", source.run(spawner.cancelled().clone()));
        Self { cloud, ledger, status, token_file, buffer, _tasks: tasks, _dir: dir }
    }

    fn realtime(&self) -> &Realtime {
        self.cloud.supabase.realtime()
    }

    fn insert(&self, more: Value) {
        insert(&self.cloud, more);
    }

    async fn until_ready(&self, times: u64) {
        eventually("the channel is ready", || self.realtime().seen().ready >= times).await;
    }

    /// The commands of the ledger, the oldest first, when there are so many.
    async fn commands(&self, count: usize) -> Vec<SharedCommand> {
        let all = || self.ledger.list(&Wanted::default(), None, 1_000).commands;
        eventually("the commands are there", || all().len() >= count).await;
        let mut commands = all();
        assert_eq!(commands.len(), count, "{commands:?}");
        commands.reverse();
        commands
    }

    async fn row_in_status(&self, index: usize, status: &str) -> Row {
        let row = || self.cloud.supabase.rows("commands")[index].clone();
        eventually(&format!("row {index} is {status}"), || row().text("status") == Some(status)).await;
        row()
    }
}

fn insert(cloud: &Cloud, more: Value) {
    let mut row = json!({ "gateway_id": "gw", "device": "lamp", "payload": "on" });
    let Value::Object(more) = more else { panic!("{more} is no row") };
    row.as_object_mut().unwrap().extend(more);
    cloud.supabase.insert("commands", &row).unwrap();
}

fn command_of_row(id: &str) -> crate::relay::NewCommand {
    crate::relay::NewCommand {
        device: DeviceId::parse("lamp").unwrap(),
        topic: crate::message::Topic::parse("lamp/cmd").unwrap(),
        payload: "on".into(),
        qos: Qos::AtLeastOnce,
        origin: Origin { source: Source::Supabase, name: "cloud".into(), reference: Some(id.into()) },
        key: None,
        good_for: Duration::from_secs(60),
        reply: None,
    }
}

async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what}: never");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_row_rings_becomes_a_command_and_is_told_each_step() {
    let bench = Bench::start(NEVER).await;
    bench.until_ready(1).await;
    bench.insert(json!({ "payload": { "b": 1 }, "key": "light", "reply_topic": "lamp/done" }));
    let command = bench.commands(1).await.remove(0);
    assert_eq!((command.topic.as_str(), &command.payload[..]), ("lamp/cmd", &br#"{"b":1}"#[..]));
    let id = command.id.to_string();
    eventually("the row knows its command", || {
        bench.cloud.supabase.rows("commands")[0].text("command_id") == Some(&id)
    })
    .await;
    let row = bench.row_in_status(0, "queued").await;
    assert!(row.text("accepted_at").is_some() && row.text("finished_at").is_none(), "{row:?}");

    bench.ledger.hand_over(command.id, Qos::AtLeastOnce).unwrap();
    bench.row_in_status(0, "sent").await;
    bench.ledger.acked(command.id);
    bench.row_in_status(0, "acked").await;
    let lamp = DeviceId::parse("lamp").unwrap();
    let said = Said {
        device: &lamp,
        topic: "lamp/done",
        correlation: None,
        payload: b"bright\0",
        is_repetition: false,
        is_unrepeatable: false,
    };
    bench.ledger.replied(&said, &mut bench.buffer.writer()).unwrap();
    let row = bench.row_in_status(0, "done").await;
    assert_eq!(row.text("attempts"), Some("1"));
    assert!(row.text("result").is_some_and(|result| result.starts_with("bright")), "{row:?}");
    assert!(row.text("finished_at").is_some(), "{row:?}");
    let status = bench.status.borrow().clone();
    assert_eq!((status.listens, status.accepted, status.refused), (Some(true), 1, 0));
    assert_eq!(bench.realtime().seen().joins, [("1.0.0".to_owned(), Some("demo.gateway.jwt".to_owned()))]);
}

#[tokio::test]
async fn rows_that_came_before_the_start_and_before_the_channel_was_ready_are_found() {
    let cloud = cloud().await;
    cloud.supabase.realtime().hold_ready(true);
    insert(&cloud, json!({}));
    let bench = Bench::with(cloud, NEVER, ClockSource::Trusted, |_| {}).await;
    bench.commands(1).await;
    eventually("the join is accepted", || !bench.realtime().seen().joins.is_empty()).await;
    bench.insert(json!({ "payload": "between" }));
    bench.realtime().hold_ready(false);
    let commands = bench.commands(2).await;
    assert_eq!(&commands[1].payload[..], b"between");
    assert_eq!(bench.realtime().seen().told, 0, "nothing rang for it");
}

#[tokio::test]
async fn rows_whose_ring_was_lost_are_found_in_the_order_of_their_ids() {
    let bench = Bench::start(NEVER).await;
    bench.until_ready(1).await;
    bench.realtime().lose_rows(true);
    bench.insert(json!({ "payload": "lost" }));
    bench.realtime().lose_rows(false);
    bench.insert(json!({ "payload": "rings" }));
    let commands = bench.commands(2).await;
    assert_eq!((&commands[0].payload[..], &commands[1].payload[..]), (&b"lost"[..], &b"rings"[..]));
    bench.realtime().lose_rows(true);
    bench.insert(json!({}));
    bench.cloud.supabase.line().cut();
    bench.commands(3).await;
}

#[tokio::test]
async fn without_realtime_the_table_is_asked_now_and_then() {
    let bench = Bench::start("realtime = false\ninterval = \"1s\"").await;
    bench.insert(json!({}));
    bench.commands(1).await;
    bench.insert(json!({}));
    bench.commands(2).await;
    assert_eq!((bench.realtime().seen().connections, bench.status.borrow().listens), (0, None));
}

#[tokio::test]
async fn a_row_that_is_known_is_not_carried_out_again_and_one_that_is_lost_neither() {
    let cloud = cloud().await;
    insert(&cloud, json!({}));
    insert(&cloud, json!({ "status": "sent", "command_id": "019a9f3c-5b1e-7cc2-b3a5-2f1d0c9e8b7a" }));
    let line = cloud.supabase.line().clone();
    line.always(Some(Fault::Reply(Reply::empty(503))));
    let bench = Bench::with(cloud, NEVER, ClockSource::Trusted, |_| {}).await;
    // As if the process had been killed before it told the row.
    bench.ledger.accept(command_of_row("1")).await.unwrap();
    bench.ledger.accept(command_of_row("77")).await.unwrap();
    line.always(None);
    let row = bench.row_in_status(1, "failed").await;
    assert!(row.text("reason").is_some_and(|reason| reason.contains("may have been carried out")), "{row:?}");
    eventually("the first row knows its command", || {
        bench.cloud.supabase.rows("commands")[0].text("command_id").is_some()
    })
    .await;
    bench.commands(2).await;
    eventually("the outcome without a row is done with, too", || {
        bench.ledger.unreported(Source::Supabase, "cloud", 9).is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_row_that_is_known_has_not_expired_however_old_it_is_when_it_is_read_again() {
    let cloud = cloud().await;
    insert(&cloud, json!({ "created_at": "2026-01-01T00:00:00Z" }));
    insert(&cloud, json!({}));
    let line = cloud.supabase.line().clone();
    line.always(Some(Fault::Reply(Reply::empty(503))));
    let bench = Bench::with(cloud, NEVER, ClockSource::Trusted, |_| {}).await;
    let accepted = bench.ledger.accept(command_of_row("1")).await.unwrap();
    // So that nothing else is told to the row before it is read.
    bench.ledger.reported(accepted.command().id, State::Queued).await.unwrap();
    line.always(None);
    bench.commands(2).await;
    assert_eq!(bench.status.borrow().refused, 0);
    assert_eq!(bench.cloud.supabase.rows("commands")[0].text("status"), Some("queued"));
}

#[tokio::test]
async fn what_can_be_no_command_is_told_why_and_keeps_nobody_waiting() {
    let cloud = cloud().await;
    insert(&cloud, json!({ "topic": "lamp/#" }));
    insert(&cloud, json!({ "created_at": "2026-01-01T00:00:00Z" }));
    insert(&cloud, json!({ "payload": "x".repeat(table::MAX_PAGE_BYTES) }));
    insert(&cloud, json!({ "payload": "x".repeat(100_000) }));
    for n in 0..60 {
        insert(&cloud, json!({ "payload": n }));
    }
    insert(&cloud, json!({ "gateway_id": "other" }));
    let bench = Bench::with(cloud, NEVER, ClockSource::Trusted, |_| {}).await;
    for (index, status, why) in [
        (0, "refused", "topic \"lamp/#\""),
        (1, "expired", "before the gateway saw it"),
        (2, "refused", "the row is too large"),
        (3, "refused", "bytes"),
    ] {
        let row = bench.row_in_status(index, status).await;
        assert!(row.text("reason").is_some_and(|reason| reason.contains(why)), "{row:?}");
    }
    eventually("all others are accepted", || bench.ledger.figures().accepted == 60).await;
    assert_eq!(bench.cloud.supabase.rows("commands")[64].text("command_id"), None, "another gateway's");
}

#[tokio::test]
async fn the_age_of_a_row_is_told_by_the_far_side_as_long_as_the_own_clock_is_not_right() {
    let cloud = cloud().await;
    insert(&cloud, json!({ "created_at": "2026-01-01T00:00:00Z" }));
    insert(&cloud, json!({}));
    let unset = ClockSource::File("/nowhere/synchronized".into());
    let bench = Bench::with(cloud, NEVER, unset, |_| {}).await;
    bench.row_in_status(0, "expired").await;
    bench.commands(1).await;
}
