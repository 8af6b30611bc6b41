//! Readings, sinks, the buffer, and commands.

use super::*;
use crate::buffer::{Limits, Outcome};

#[tokio::test(flavor = "multi_thread")]
async fn readings_are_listed_page_by_page_the_newest_first() {
    let bench = Bench::new().await;
    bench.append("esp32-01", "air", &[b"{\"t\":1}", b"{\"t\":nan}", b"\xff"]).await;
    bench.append("esp32-02", "soil", &[b"{\"t\":4}"]).await;
    let (mut seen, mut path) = (Vec::new(), "/api/v1/readings?limit=3".to_owned());
    loop {
        let page = bench.get(&path).await.body;
        seen.extend(page["items"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/v1/readings?limit=3&cursor={next}");
    }
    let payloads: Vec<_> = seen.iter().map(|reading| (&reading["encoding"], &reading["payload"])).collect();
    let expected = [
        ("json", json!({ "t": 4 })),
        ("base64", json!("/w==")),
        ("text", json!("{\"t\":nan}")),
        ("json", json!({ "t": 1 })),
    ];
    let expected: Vec<_> =
        expected.into_iter().map(|(encoding, payload)| (json!(encoding), payload)).collect();
    assert_eq!(payloads, expected.iter().map(|(a, b)| (a, b)).collect::<Vec<_>>());
    assert_eq!(seen[0]["clock"], "synchronized");

    let of = async |query: &str| {
        let page = bench.get(&format!("/api/v1/readings?{query}")).await.body;
        page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|reading| reading["seq"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("device=esp32-02").await, [4]);
    assert_eq!(of("stream=air").await, [3, 2, 1]);
    assert_eq!(of("since=2020-01-01T00:00:00Z").await, [4, 3, 2, 1]);
    assert!(of("since=2100-01-01T00:00:00Z").await.is_empty());
    assert!(of("until=2020-01-01T00:00:00Z").await.is_empty());
    assert_eq!(bench.get("/api/v1/readings?since=yesterday").await.problem(), (400, "malformed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_latest_reading_of_each_device_in_each_stream_is_shown() {
    let bench = Bench::new().await;
    bench.append("esp32-01", "air", &[b"1", b"2"]).await;
    bench.append("esp32-01", "soil", &[b"3"]).await;
    bench.append("esp32-02", "air", &[b"4"]).await;
    let latest = async |query: &str| {
        let answer = bench.get(&format!("/api/v1/readings/latest{query}")).await.body;
        assert!(answer["searched_from"].is_null());
        answer["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["payload"].as_i64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(latest("").await, [4, 3, 2]);
    assert_eq!(latest("?device=esp32-01").await, [3, 2]);
    assert_eq!(latest("?device=esp32-01&stream=air").await, [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_stays_paused_over_a_restart_until_it_is_resumed() {
    let bench = Bench::new().await;
    let cloud = DeviceId::parse("cloud").unwrap();
    let after_a_restart = || {
        let switches = Switches::open(bench.dir.path(), std::iter::once(cloud.clone())).0;
        *switches.of(&cloud).unwrap().borrow()
    };
    assert!(!after_a_restart());
    assert_eq!(bench.post("/api/v1/sinks/cloud/pause", json!({})).await.body["paused"], true);
    assert!(after_a_restart());
    assert_eq!(bench.get("/api/v1/sinks").await.body[0]["paused"], true);
    assert_eq!(bench.post("/api/v1/sinks/cloud/resume", json!({})).await.body["paused"], false);
    assert!(!after_a_restart());
    assert_eq!(bench.post("/api/v1/sinks/none/pause", json!({})).await.problem(), (404, "not-found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_page_by_page() {
    let bench = Bench::new().await;
    bench.append("esp32-01", "air", &[b"1", b"2", b"3"]).await;
    let mut reader = bench.buffer.reader(&DeviceId::parse("cloud").unwrap()).unwrap();
    let readings = reader.next(Limits { max_readings: 10, max_bytes: 1_000 }).await.unwrap();
    let outcome = || Outcome::DeadLetter("no such column".to_owned());
    let outcomes: Vec<_> = readings.iter().map(|reading| (reading.seq, outcome())).collect();
    reader.settle(&outcomes).await.unwrap();
    // It puts on disk what waits.
    bench.buffer.set_boot_offset(bench.clock.stamp().boot, 0).await.unwrap();

    let first = bench.get("/api/v1/buffer/dead-letters?limit=2").await.body;
    let next = first["next"].as_str().unwrap();
    let second = bench.get(&format!("/api/v1/buffer/dead-letters?limit=2&cursor={next}")).await.body;
    let letters =
        [first["items"].as_array().unwrap().clone(), second["items"].as_array().unwrap().clone()].concat();
    let seqs: Vec<_> = letters.iter().map(|letter| letter["seq"].as_u64().unwrap()).collect();
    assert_eq!((seqs, &second["next"]), (vec![3, 2, 1], &Value::Null));
    assert_eq!(letters[0]["reason"], "no such column");
    assert_eq!(bench.get("/api/v1/buffer").await.body["dead_letters"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_sent_once_listed_and_taken_back() {
    let bench = Bench::new().await;
    let wanted =
        json!({ "device": "esp32-01", "topic": "esp32-01/led", "payload": { "on": true }, "key": "led" });
    let send = async |body: Value| {
        bench.ask("POST", "/api/v1/commands", &[("idempotency-key", "k1")], Some(body)).await
    };
    let first = send(wanted.clone()).await;
    assert_eq!((first.status, &first.body["state"]), (StatusCode::CREATED, &json!("queued")));
    assert_eq!(first.body["payload"], "{\"on\":true}");
    let id = first.body["id"].as_str().unwrap();
    assert_eq!(first.header("location"), format!("/api/v1/commands/{id}"));
    let again = send(wanted.clone()).await;
    assert_eq!((again.status, &again.body["id"]), (StatusCode::OK, &first.body["id"]));
    let mut other = wanted.clone();
    other["payload"] = json!("off");
    assert_eq!(send(other).await.problem(), (422, "invalid"), "the key is another command's");

    assert_eq!(bench.get(&format!("/api/v1/commands/{id}")).await.body["key"], "led");
    let list = bench.get("/api/v1/commands?state=queued&device=esp32-01").await.body;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert!(bench.get("/api/v1/commands?state=done").await.body["items"].as_array().unwrap().is_empty());
    let cancelled = bench.post(&format!("/api/v1/commands/{id}/cancel"), json!({})).await;
    assert_eq!((cancelled.status, &cancelled.body["state"]), (StatusCode::OK, &json!("cancelled")));
    let again = bench.post(&format!("/api/v1/commands/{id}/cancel"), json!({})).await;
    assert_eq!(again.problem(), (409, "conflict"));
    assert_eq!(bench.get("/api/v1/commands/none").await.problem(), (404, "not-found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_be_is_refused_with_what_would_be_right() {
    let bench = Bench::with("commands_per_minute = 1000").await;
    for (wrong, expected) in [
        (json!({ "device": "a/b", "topic": "x" }), "a device name consists of"),
        (json!({ "device": "a" }), "missing field `topic`"),
        (json!({ "device": "a", "topic": "a/#" }), "topic"),
        (json!({ "device": "a", "topic": "x", "qos": 3 }), "qos is 0, 1 or 2"),
        (json!({ "device": "a", "topic": "x", "good_for": 0 }), "good_for"),
        (json!({ "device": "a", "topic": "x", "payload": 1, "payload_base64": "MQ==" }), "send one"),
        (json!({ "device": "a", "topic": "x", "payload_base64": "?" }), "base64"),
        (json!({ "device": "a", "topic": "x", "color": "red" }), "unknown field `color`"),
        (json!(["a", "x"]), "an object"),
    ] {
        let refused = bench.post("/api/v1/commands", wrong.clone()).await;
        assert_eq!(refused.problem(), (422, "invalid"), "{wrong}");
        assert!(refused.body["detail"].as_str().unwrap().contains(expected), "{wrong}: {}", refused.body);
    }
    let large = json!({ "device": "a", "topic": "x", "payload": "x".repeat(9_000) });
    assert_eq!(
        bench.post("/api/v1/commands", large).await.problem(),
        (409, "conflict"),
        "the ledger keeps it"
    );
}
