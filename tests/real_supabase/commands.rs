//! The table of commands: what the gateway's role may do, what people may, and the whole way of a row.

use std::path::Path;
use std::time::Duration;

use tampu::buffer::Buffer;
use tampu::clock::Clock;
use tampu::config::{self, Config};
use tampu::message::{DeviceId, Qos};
use tampu::relay::{self, Ledger, SharedCommand, SourceStatus, Wanted};
use tampu::tasks::{Stage, Tasks};
use tokio::sync::watch;

use crate::harness::PATIENCE;
use crate::peers::{Lite, Postgres};

const INSERT: &str = "insert into commands (gateway_id, device, payload) values ('gw', 'lamp', '\"on\"')";

/// What PostgREST sets for who is logged in with these claims.
fn claims(claims: &str) -> String {
    format!("set request.jwt.claims = '{claims}'; ")
}

#[test]
fn a_gateway_sees_its_own_commands_and_writes_their_outcome_alone() {
    let postgres = Postgres::start();
    for gateway in ["gw", "other"] {
        postgres.sql(&INSERT.replace("gw", gateway));
    }
    let as_gateway = |statement: &str| {
        postgres.rows_as("tampu_gateway", &format!("{}{statement}", claims(r#"{"gateway_id":"gw"}"#)))
    };
    assert_eq!(as_gateway("select gateway_id from commands").unwrap(), ["gw"]);
    let told = as_gateway("update commands set status = 'done', finished_at = now() returning gateway_id");
    assert_eq!(told.unwrap(), ["gw"], "another gateway's row is not there for it");
    assert_eq!(postgres.sql("select status from commands order by id"), ["done", "queued"]);
    for (claims, seen) in [(r#"{"gateway_id":"other"}"#, 1), ("{}", 0), ("", 0)] {
        let statement = format!("set request.jwt.claims = '{claims}'; select id from commands");
        assert_eq!(postgres.rows_as("tampu_gateway", &statement).unwrap().len(), seen, "{claims}");
    }
    for statement in [
        "update commands set payload = '1'",
        "update commands set gateway_id = 'gw'",
        "update commands set created_at = now()",
        "delete from commands",
        "truncate commands",
        INSERT,
    ] {
        let refused = as_gateway(statement).unwrap_err();
        assert!(refused.contains("permission denied"), "{statement}: {refused}");
    }
}

#[test]
fn who_is_logged_in_inserts_and_sees_what_became_of_it_and_nobody_else_does() {
    let postgres = Postgres::start();
    let as_user = |user: &str, statement: &str| {
        postgres
            .rows_as("authenticated", &format!("{}{statement}", claims(&format!(r#"{{"sub":"{user}"}}"#))))
    };
    let inserted = as_user("ana", &format!("{INSERT} returning id, status, created_by"));
    assert_eq!(inserted.unwrap(), ["1|queued|ana"]);
    assert_eq!(as_user("ana", "select id from commands").unwrap(), ["1"]);
    assert!(as_user("ben", "select id from commands").unwrap().is_empty());
    for statement in [
        "update commands set status = 'done'",
        "delete from commands",
        "insert into commands (gateway_id, device, status) values ('gw', 'lamp', 'done')",
        "insert into commands (gateway_id, device, created_at) values ('gw', 'lamp', now() + interval '1 day')",
        "insert into commands (gateway_id, device, created_by) values ('gw', 'lamp', 'ben')",
    ] {
        let refused = as_user("ana", statement).unwrap_err();
        assert!(refused.contains("permission denied"), "{statement}: {refused}");
    }
    for statement in [INSERT, "select id from commands"] {
        let refused = postgres.rows_as("anon", statement).unwrap_err();
        assert!(refused.contains("permission denied"), "{statement}: {refused}");
    }
}

#[test]
fn rows_that_cannot_be_commands_are_refused_by_the_table() {
    let postgres = Postgres::start();
    for (columns, values, check) in [
        ("gateway_id, device", "'', 'lamp'", "commands_gateway_id_check"),
        ("gateway_id, device, qos", "'gw', 'lamp', 3", "commands_qos_check"),
        ("gateway_id, device, good_for_s", "'gw', 'lamp', 0", "commands_good_for_s_check"),
        (
            "gateway_id, device, payload",
            "'gw', 'lamp', to_jsonb(repeat('x', 70000))",
            "commands_payload_check",
        ),
        ("gateway_id, device, status", "'gw', 'lamp', 'maybe'", "commands_status_check"),
    ] {
        let insert = format!("insert into commands ({columns}) values ({values})");
        let refused = postgres.sql_as("service_role", &insert).unwrap_err();
        assert!(refused.contains(check), "{insert}: {refused}");
    }
}

#[test]
fn realtime_is_told_of_the_table_once_however_often_the_schema_is_applied() {
    let postgres = Postgres::start();
    postgres.sql("create publication supabase_realtime");
    for _ in 0..2 {
        postgres.apply_schema();
        let told =
            postgres.sql("select tablename from pg_publication_tables where pubname = 'supabase_realtime'");
        assert_eq!(told, ["commands"]);
    }
}

/// A source that asks lite, with the ledger that it fills.
struct Bench {
    ledger: Ledger,
    status: watch::Receiver<SourceStatus>,
    _tasks: Tasks,
    _buffer: Buffer,
}

impl Bench {
    async fn start(lite: &Lite, dir: &Path, secrets: &str) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let config = Config::from_toml(&format!(
            "[[command_source]]\nname = \"cloud\"\ntype = \"supabase\"\nurl = \"{}\"\nrealtime = false\n\
             interval = \"1s\"\n{secrets}\n",
            lite.url()
        ))
        .unwrap();
        let clock = config::Clock { source: config::ClockSource::Trusted, ..config::Clock::default() };
        let clock = Clock::start(&clock, Path::new("/nowhere/floor"), Default::default()).unwrap();
        let (buffer, _) = Buffer::open(&dir.join("buffer"), &config.buffer, &[]).unwrap();
        let ledger = Ledger::open(&buffer, clock.clone(), &config.commands).await.unwrap();
        let gateway = DeviceId::parse("gw").unwrap();
        let (source, status) = relay::open(&config.command_sources[0], &gateway, &ledger, &clock).unwrap();
        let tasks = Tasks::default();
        let spawner = tasks.spawner(Stage::Forwarders);
        spawner.essential("source", source.run(spawner.cancelled().clone()));
        Self { ledger, status, _tasks: tasks, _buffer: buffer }
    }

    async fn commands(&self, count: usize) -> Vec<SharedCommand> {
        let all = || self.ledger.list(&Wanted::default(), None, 100).commands;
        eventually("the commands are there", || all().len() >= count).await;
        let mut commands = all();
        assert_eq!(commands.len(), count, "{commands:?}");
        commands.reverse();
        commands
    }
}

async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}: never"));
}

/// What lite answers to who may not read is an empty list, so that refusals are looked at in the database alone.
fn with_token(gateway: &str) -> String {
    let token = Lite::token_with("tampu_gateway", gateway);
    format!("key = \"{}\"\ntoken = \"{token}\"", Lite::PUBLISHABLE_KEY)
}

#[tokio::test]
async fn rows_are_taken_over_rest_with_the_gateways_token_and_told_what_became_of_them() {
    let postgres = Postgres::start();
    let lite = Lite::start(&postgres);
    let dir = tempfile::tempdir().unwrap();
    postgres.sql(&INSERT.replace("gw", "other"));
    postgres.sql(&INSERT.replace(r#"'"on"'"#, r#"'{"b":7}'"#));
    postgres.sql("insert into commands (gateway_id, device, topic) values ('gw', 'lamp', 'lamp/#')");
    postgres.sql("insert into commands (gateway_id, device, good_for_s, created_at) values ('gw', 'lamp', 1, '2026-01-01')");
    let bench = Bench::start(&lite, dir.path(), &with_token("gw")).await;
    let command = bench.commands(1).await.remove(0);
    assert_eq!((&command.payload[..], command.origin.reference.as_deref()), (&br#"{"b":7}"#[..], Some("2")));

    bench.ledger.hand_over(command.id, Qos::AtLeastOnce).unwrap();
    bench.ledger.acked(command.id);
    let rows = "select id, status, command_id is not null, attempts, sent_at <= finished_at, reason is not null \
                from commands order by id";
    let expected = ["1|queued|f|0||f", "2|done|t|1|t|f", "3|refused|f|0||t", "4|expired|f|0||t"];
    eventually("each row knows what became of it", || postgres.sql(rows) == expected).await;
    let command_id = postgres.sql("select command_id from commands where id = 2");
    assert_eq!(command_id, [command.id.to_string()]);
}

#[tokio::test]
async fn a_gateway_whose_token_is_anothers_gets_nothing() {
    let postgres = Postgres::start();
    let lite = Lite::start(&postgres);
    postgres.sql(INSERT);
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::start(&lite, dir.path(), &with_token("other")).await;
    eventually("it has asked", || bench.status.borrow().well == Some(true)).await;
    assert_eq!(bench.ledger.figures().accepted, 0);
}
