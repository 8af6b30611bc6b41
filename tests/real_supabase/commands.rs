//! The table of commands: what the gateway's role may do, what people may, and the whole way of a row.

use crate::peers::Postgres;

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
