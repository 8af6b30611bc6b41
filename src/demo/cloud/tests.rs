//! The doubles against what is known of the real ones.

use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

use super::*;

const RECORDED: &str = include_str!("../../../tests/postgrest-replies.jsonl");

fn client() -> Client {
    // A second test finds it installed.
    rustls::crypto::ring::default_provider().install_default().ok();
    Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap()
}

async fn cloud() -> Cloud {
    Cloud::start(CloudSettings::default()).await.unwrap()
}

impl Reply {
    /// A reply recorded from a real PostgREST, by the name of its case.
    pub(crate) fn recorded(case: &str) -> Self {
        let cases = RECORDED.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let case = cases.into_iter().find(|recorded| recorded["case"] == case).unwrap();
        let mut reply = Self::empty(case["status"].as_u64().unwrap().try_into().unwrap());
        case["body"].as_str().unwrap().clone_into(&mut reply.body);
        for (name, value) in case["headers"].as_object().unwrap() {
            if name != "Content-Length" {
                reply = reply.with_header(name, value.as_str().unwrap());
            }
        }
        reply
    }
}

mod thingspeak {
    use super::*;

    async fn bulk(cloud: &Cloud, body: &Value) -> Response {
        send(cloud, cloud.thingspeak.settings().channel, body.to_string()).await
    }

    async fn send(cloud: &Cloud, channel: u64, body: impl Into<reqwest::Body>) -> Response {
        let url = format!("{}/channels/{channel}/bulk_update.json", cloud.thingspeak.line().url());
        let request = client().post(url).header("content-type", "application/json");
        request.body(body).send().await.unwrap()
    }

    fn updates(updates: impl serde::Serialize) -> Value {
        json!({ "write_api_key": ThingSpeakSettings::default().write_key, "updates": updates })
    }

    async fn patient() -> Cloud {
        let thingspeak = ThingSpeakSettings { interval: Duration::ZERO, ..Default::default() };
        Cloud::start(CloudSettings { thingspeak, ..Default::default() }).await.unwrap()
    }

    #[tokio::test]
    async fn a_bulk_write_is_accepted_with_202_and_kept_by_the_second() {
        let cloud = cloud().await;
        let reply = bulk(
            &cloud,
            &updates(json!([
                { "created_at": "2026-01-01T00:00:00.900Z", "field1": 21.5, "feild2": 1, "status": "ok" },
                { "created_at": "2026-01-01 00:00:01 +0000", "field8": "x", "latitude": -13.5 },
                { "created_at": 1_767_225_600, "field1": 7 },
            ])),
        )
        .await;
        assert_eq!(reply.status(), 202);
        assert_eq!(reply.text().await.unwrap(), r#"{"success":true}"#);
        let entries = cloud.thingspeak.entries();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].created_at, 1_767_225_600);
        assert_eq!(entries[0].values.keys().collect::<Vec<_>>(), ["field1", "status"]);
        assert_eq!(entries[1].values["latitude"], "-13.5");
        assert_eq!(cloud.thingspeak.duplicates(), 1);
    }

    #[tokio::test]
    async fn a_second_call_within_the_interval_is_429_without_retry_after() {
        let cloud = cloud().await;
        let body = updates(json!([{ "delta_t": 0, "field1": 1 }]));
        assert_eq!(bulk(&cloud, &body).await.status(), 202);
        let refused = bulk(&cloud, &body).await;
        assert_eq!(refused.status(), 429);
        assert!(refused.headers().get("retry-after").is_none());
        assert_eq!(cloud.thingspeak.early_calls(), 1);
    }

    #[tokio::test]
    async fn what_the_documentation_forbids_is_refused_with_its_code() {
        let cloud = patient().await;
        let at = "2026-01-01T00:00:00Z";
        let long = "x".repeat(256);
        for (body, status, code) in [
            (json!({ "updates": [{ "created_at": at, "field1": 1 }] }), 401, "error_auth_required"),
            (updates(json!([])), 400, "error_bad_request"),
            (updates(json!([{ "field1": 1 }])), 400, "error_bad_request"),
            (updates(json!([{ "created_at": "Error", "field1": 1 }])), 400, "error_bad_request"),
            (updates(json!([{ "created_at": "2026-01-01T00:00:00" }])), 400, "error_bad_request"),
            (updates(json!([{ "created_at": at }, { "delta_t": 1 }])), 400, "error_bad_request"),
            (updates(json!([{ "delta_t": 0 }, { "delta_t": 0 }])), 400, "error_bad_request"),
            (updates(json!([{ "created_at": at, "field1": long }])), 400, "error_bad_request"),
            (updates(json!([{ "created_at": at, "field1": {} }])), 400, "error_bad_request"),
            (updates(json!([{ "created_at": at, "elevation": "high" }])), 400, "error_bad_request"),
            (updates(json!([{ "created_at": at, "x": "x".repeat(3_000) }])), 413, "error_request_too_large"),
            (updates(json!(vec![json!({ "delta_t": 1 }); 961])), 413, "error_request_too_large"),
        ] {
            let reply = bulk(&cloud, &body).await;
            assert_eq!(reply.status(), status, "{body}");
            let error: Value = reply.json().await.unwrap();
            assert_eq!(error["error"]["error_code"], code, "{body}");
            assert_eq!(error["status"], status.to_string(), "the status is a text there");
        }
        assert_eq!(send(&cloud, 1, updates(json!([{ "delta_t": 1 }])).to_string()).await.status(), 404);
        assert_eq!(send(&cloud, 1, &b"\xff"[..]).await.status(), 422);
        assert_eq!(send(&cloud, 1, "{").await.status(), 400);
        let url = format!("{}/channels/1417/bulk_update.json", cloud.thingspeak.line().url());
        assert_eq!(client().get(&url).send().await.unwrap().status(), 405);
        let form = client().post(&url).header("content-type", "text/plain").body("{}");
        assert_eq!(form.send().await.unwrap().status(), 400);
        assert!(cloud.thingspeak.entries().is_empty());
    }
}

mod postgrest {
    use super::*;

    /// The table of the recorded session, as far as the replies tell.
    fn recorded_tables() -> Vec<Table> {
        let grant =
            |role, select| Grant { role, insert_where: Some(("device_id", "dev1")), select, update: &[] };
        let readings = Table {
            name: "readings",
            columns: vec![
                Column::new("id", Kind::Bigint).not_null().identity(),
                Column::new("device_id", Kind::Text).not_null().references("devices", &["dev1", "dev2"]),
                Column::new("metric", Kind::Text).not_null(),
                Column::new("value", Kind::Float8),
                Column::new("n", Kind::Bigint),
                Column::new("ts", Kind::Timestamptz).not_null().default_now(),
                Column::new("msg_id", Kind::Text),
                Column::new("meta", Kind::Jsonb),
            ],
            unique: vec![
                Unique { name: "readings_pkey", columns: &["id"] },
                Unique { name: "readings_device_id_metric_ts_key", columns: &["device_id", "metric", "ts"] },
                Unique { name: "readings_msg_id_key", columns: &["msg_id"] },
            ],
            grants: vec![grant(Role::Anon, true), grant(Role::Authenticated, false)],
        };
        let locked = Table {
            name: "locked",
            columns: vec![Column::new("id", Kind::Bigint)],
            unique: vec![],
            grants: vec![],
        };
        vec![readings, locked]
    }

    /// Inserts that a forwarder does not make.
    fn is_out_of_scope(case: &str) -> bool {
        // The sinks send JSON alone, and the double says 501 to CSV.
        case == "CSV"
    }

    #[tokio::test]
    async fn every_recorded_insert_is_answered_as_the_real_server_did() {
        let supabase = PostgRestSettings { tables: recorded_tables(), ..Default::default() };
        let cloud = Cloud::start(CloudSettings { supabase, ..Default::default() }).await.unwrap();
        let mut replayed = 0;
        for line in RECORDED.lines() {
            let case: Value = serde_json::from_str(line).unwrap();
            let (name, request) = (case["case"].as_str().unwrap(), &case["request"]);
            let path = request["path"].as_str().unwrap();
            // Reads, updates, deletes and functions are nothing that a forwarder asks for.
            if request["method"] != "POST" || path.starts_with("/rpc/") || is_out_of_scope(name) {
                continue;
            }
            let reply = replay(&cloud, request).send().await.unwrap();
            compare(name, &case, reply).await;
            replayed += 1;
        }
        assert_eq!(replayed, 33, "34 inserts were recorded");
    }

    fn replay(cloud: &Cloud, request: &Value) -> RequestBuilder {
        let (path, role) = (request["path"].as_str().unwrap(), request["as_"].as_str().unwrap());
        let token = match role {
            "service_role" => "demo.service.jwt",
            "authenticated" => "demo.authenticated.jwt",
            "anon" => "demo.anon.jwt",
            other => panic!("no token for {other}"),
        };
        let mut builder = client()
            .post(format!("{}/rest/v1{path}", cloud.supabase.line().url()))
            .header("apikey", token)
            .bearer_auth(token)
            .body(request["body"].as_str().unwrap().to_owned());
        for (name, value) in request["headers"].as_object().unwrap() {
            builder = builder.header(name, value.as_str().unwrap());
        }
        builder
    }

    /// All that a forwarder sees. `Location` is left out, and so are row numbers: ours start at 1.
    async fn compare(name: &str, case: &Value, reply: Response) {
        assert_eq!(u64::from(reply.status().as_u16()), case["status"].as_u64().unwrap(), "{name}");
        let expected = case["headers"].as_object().unwrap();
        for header in
            ["Content-Type", "Content-Range", "Preference-Applied", "Proxy-Status", "WWW-Authenticate"]
        {
            let sent = reply.headers().get(header).map(|value| value.to_str().unwrap());
            assert_eq!(sent, expected.get(header).and_then(Value::as_str), "{header} of {name}");
        }
        let length = reply.headers().get("content-length").map(|value| value.to_str().unwrap().to_owned());
        let body = reply.text().await.unwrap();
        let wanted = case["body"].as_str().unwrap();
        if wanted.is_empty() {
            assert_eq!((length.as_deref(), body.as_str()), (Some("0"), ""), "{name}");
        } else {
            assert_eq!(without_row_numbers(&body), without_row_numbers(wanted), "{name}");
        }
    }

    fn without_row_numbers(body: &str) -> Value {
        let mut body: Value = serde_json::from_str(body).unwrap();
        if let Some(details) = body.get("details").and_then(Value::as_str)
            && let Some((_, rest)) = details.split_once("Failing row contains (")
        {
            body["details"] = json!(rest.split_once(", ").unwrap().1);
        }
        for row in body.as_array_mut().into_iter().flatten() {
            row["id"] = Value::Null;
        }
        body
    }

    fn reading(seq: i64) -> Value {
        json!({
            "gateway_id": "g", "epoch": 1, "seq": seq, "device": "d", "stream": "s", "topic": "t",
            "received_at": "2026-01-01T00:00:00.123Z", "clock": "synchronized", "payload": { "t": 21.5 },
        })
    }

    fn insert(cloud: &Cloud, body: impl Into<reqwest::Body>) -> RequestBuilder {
        let columns = "gateway_id,epoch,seq,device,stream,topic,received_at,clock,payload";
        let url = format!(
            "{}/rest/v1/readings?columns={columns}&on_conflict=gateway_id,epoch,seq",
            cloud.supabase.line().url()
        );
        let request = client().post(url).header("prefer", "return=minimal,resolution=ignore-duplicates");
        request.header("content-type", "application/json").body(body)
    }

    async fn refused(request: RequestBuilder) -> (u16, String) {
        let reply = request.send().await.unwrap();
        let status = reply.status().as_u16();
        let body: Value = reply.json().await.unwrap();
        (status, body["code"].as_str().unwrap_or_default().to_owned())
    }

    #[tokio::test]
    async fn a_reading_sent_again_is_stored_once() {
        let cloud = cloud().await;
        for body in [json!([reading(1), reading(2)]), json!([reading(2), reading(3), reading(3)])] {
            let reply =
                insert(&cloud, body.to_string()).header("apikey", "sb_secret_demo").send().await.unwrap();
            assert_eq!(reply.status(), 201);
        }
        let rows = cloud.supabase.rows("readings");
        assert_eq!(rows.iter().filter_map(|row| row.text("seq")).collect::<Vec<_>>(), ["1", "2", "3"]);
        assert_eq!(cloud.supabase.ignored("readings"), 2);
        assert_eq!(rows[0].text("payload"), Some(r#"{"t":21.5}"#));
        assert_eq!(rows[0].text("received_at"), Some("2026-01-01 00:00:00.123+00"));
        assert!(rows[0].text("stored_at").is_some());
    }

    #[tokio::test]
    async fn one_bad_row_keeps_its_whole_batch_out() {
        let cloud = cloud().await;
        let bad = |key: &str, value: Value| {
            let mut row = reading(2);
            row[key] = value;
            json!([reading(1), row]).to_string()
        };
        for (body, code) in [
            (bad("payload", json!("a\u{0}b")), "22P05"),
            (bad("payload", json!({ "a\u{0}": [1] })), "22P05"),
            (bad("device", Value::Null), "23502"),
            (bad("clock", json!("sundial")), "23514"),
            (bad("seq", json!(1.5)), "22P02"),
            (bad("seq", json!(u64::MAX)), "22003"),
            (bad("received_at", json!("2026-02-30T00:00:00Z")), "22008"),
            (r#"[{"gateway_id":"g","payload":nan}]"#.to_owned(), "22P02"),
            (r#"[{"gateway_id":"g","payload":"\ud800"}]"#.to_owned(), "22P02"),
            ("5".to_owned(), "22023"),
        ] {
            let request = insert(&cloud, body.clone()).header("apikey", "sb_secret_demo");
            assert_eq!(refused(request).await, (400, code.to_owned()), "{body}");
        }
        assert_eq!(cloud.supabase.row_count("readings"), 0);
    }

    #[tokio::test]
    async fn jsonb_takes_what_a_float_cannot_hold() {
        let cloud = cloud().await;
        let body = json!([reading(1)]).to_string().replace("21.5", r#"[1e400,"\ud83d\ude00",null]"#);
        let reply = insert(&cloud, body).header("apikey", "sb_secret_demo").send().await.unwrap();
        assert_eq!(reply.status(), 201);
    }

    #[tokio::test]
    async fn the_gate_and_the_server_refuse_keys_in_their_own_words() {
        let cloud = cloud().await;
        let body = json!([reading(1)]).to_string();
        let reply = insert(&cloud, body.clone()).send().await.unwrap();
        assert_eq!(reply.status(), 401);
        assert_eq!(reply.headers()["sb-error-code"], "UNAUTHORIZED_MISSING_API_KEY");
        let reply = insert(&cloud, body.clone()).header("apikey", "sb_secret_other").send().await.unwrap();
        assert_eq!(reply.headers()["sb-error-code"], "UNAUTHORIZED_INVALID_API_KEY");
        let body_of_gate: Value = reply.json().await.unwrap();
        assert!(body_of_gate.get("code").is_none());

        let secret = insert(&cloud, body.clone()).header("apikey", "sb_secret_demo");
        let as_bearer = secret.bearer_auth("sb_secret_demo").send().await.unwrap();
        assert_eq!(as_bearer.status(), 401);
        assert_eq!(
            as_bearer.headers()["www-authenticate"],
            "Bearer error=\"invalid_token\", error_description=\"Expected 3 parts in JWT; got 1\""
        );
        for (key, status) in
            [("sb_publishable_demo", 401), ("demo.authenticated.jwt", 403), ("demo.gateway.jwt", 201)]
        {
            let reply = insert(&cloud, body.clone()).header("apikey", key).send().await.unwrap();
            assert_eq!(reply.status(), status, "{key}");
        }
    }

    #[tokio::test]
    async fn another_schema_and_a_strict_preference_are_refused() {
        let cloud = cloud().await;
        let request = || insert(&cloud, "[]").header("apikey", "sb_secret_demo");
        assert_eq!(refused(request().header("content-profile", "iot")).await, (406, "PGRST106".to_owned()));
        let strict = request().header("prefer", "handling=strict, colour=blue");
        assert_eq!(refused(strict).await, (400, "PGRST122".to_owned()));
        let xml = client()
            .post(format!("{}/rest/v1/readings", cloud.supabase.line().url()))
            .header("apikey", "sb_secret_demo")
            .header("content-type", "application/xml");
        assert_eq!(refused(xml.body("[]")).await, (400, "PGRST102".to_owned()));
    }

    #[tokio::test]
    async fn limits_can_be_set_while_it_runs() {
        let cloud = cloud().await;
        let request = |rows: i64| {
            let rows: Vec<Value> = (0..rows).map(reading).collect();
            insert(&cloud, json!(rows).to_string()).header("apikey", "sb_secret_demo")
        };
        cloud.supabase.limit_rows(10);
        assert_eq!(refused(request(11)).await, (500, "57014".to_owned()));
        assert_eq!(request(10).send().await.unwrap().status(), 201);
        cloud.supabase.limit_body_bytes(100);
        assert_eq!(request(1).send().await.unwrap().status(), 413);
    }
}

mod line {
    use super::*;

    fn bulk(cloud: &Cloud, client: &Client) -> RequestBuilder {
        let ThingSpeakSettings { channel, write_key, .. } = cloud.thingspeak.settings();
        let url = format!("{}/channels/{channel}/bulk_update.json", cloud.thingspeak.line().url());
        let at = format!("2026-01-01T00:{:02}:00Z", cloud.thingspeak.line().requests());
        client.post(url).json(&json!({ "write_api_key": write_key, "updates": [{ "created_at": at }] }))
    }

    async fn patient() -> Cloud {
        let thingspeak = ThingSpeakSettings { interval: Duration::ZERO, ..Default::default() };
        Cloud::start(CloudSettings { thingspeak, ..Default::default() }).await.unwrap()
    }

    #[tokio::test]
    async fn a_cloud_that_is_away_refuses_connections_and_comes_back_on_the_same_port() {
        let (cloud, client) = (patient().await, client());
        assert_eq!(bulk(&cloud, &client).send().await.unwrap().status(), 202);
        cloud.go_away().await;
        for _ in 0..3 {
            assert!(
                bulk(&cloud, &client).send().await.unwrap_err().is_connect(),
                "no pooled connection is left"
            );
        }
        cloud.come_back().await;
        assert_eq!(bulk(&cloud, &client).send().await.unwrap().status(), 202);
        assert_eq!(cloud.thingspeak.entries().len(), 2);
    }

    #[tokio::test]
    async fn scripted_faults_come_in_order_and_then_the_service_is_itself_again() {
        let (cloud, client) = (patient().await, client());
        let line = cloud.thingspeak.line();
        line.next(2, &Fault::Reply(Reply::json(503, "{}").with_header("retry-after", "7")));
        line.next(1, &Fault::Reply(Reply::captive_portal()));
        line.next(1, &Fault::Slow(Duration::from_millis(1)));
        for (status, text) in [(503, "{}"), (503, "{}"), (200, "<!DOCTYPE html>"), (202, "success")] {
            let reply = bulk(&cloud, &client).send().await.unwrap();
            assert_eq!(reply.status(), status);
            assert_eq!(reply.headers().contains_key("retry-after"), status == 503);
            assert!(reply.text().await.unwrap().contains(text));
        }
        assert_eq!((line.scripted(), line.requests()), (0, 4));
        assert_eq!(cloud.thingspeak.entries().len(), 1, "a fault stores nothing");
    }

    #[tokio::test]
    async fn a_cut_reply_leaves_the_outcome_unknown() {
        let (cloud, client) = (patient().await, client());
        cloud.thingspeak.line().next(1, &Fault::CutReply);
        let outcome = match bulk(&cloud, &client).send().await {
            Ok(reply) => reply.bytes().await.map(|_| ()),
            Err(cut) => Err(cut),
        };
        assert!(outcome.is_err());
        assert_eq!(cloud.thingspeak.entries().len(), 1, "it was stored all the same");

        cloud.supabase.line().next(1, &Fault::CutReply);
        let url = format!("{}/rest/v1/readings", cloud.supabase.line().url());
        let request = client.post(url).header("apikey", "sb_secret_demo").body("[]");
        assert!(request.send().await.is_err(), "a reply without a body is cut before its head");
    }

    #[tokio::test]
    async fn silence_lasts_until_the_line_is_cut() {
        let (cloud, client) = (patient().await, client());
        let line = cloud.thingspeak.line().clone();
        line.always(Some(Fault::Silence));
        let request = bulk(&cloud, &client).send();
        tokio::pin!(request);
        while line.requests() == 0 {
            tokio::select! {
                reply = &mut request => panic!("answered: {reply:?}"),
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
        line.cut();
        assert!(request.await.is_err());
        line.always(None);
        assert_eq!(bulk(&cloud, &client).send().await.unwrap().status(), 202);
        assert_eq!(cloud.thingspeak.entries().len(), 1);
    }

    #[tokio::test]
    async fn recorded_replies_can_be_scripted() {
        let (cloud, client) = (patient().await, client());
        cloud.supabase.line().next(1, &Fault::Reply(Reply::recorded("JWT expired")));
        let url = format!("{}/rest/v1/readings", cloud.supabase.line().url());
        let reply = client.post(url).header("apikey", "sb_secret_demo").body("[]").send().await.unwrap();
        assert_eq!(reply.status(), 401);
        assert_eq!(reply.headers()["proxy-status"], "PostgREST; error=PGRST303");
    }
}

mod thingspeak_down {
    use super::*;

    /// Parameters as a form in the body.
    fn form(url: String, parameters: &[(&str, &str)]) -> RequestBuilder {
        let form = reqwest::Url::parse_with_params("form:", parameters).unwrap();
        let kind = "application/x-www-form-urlencoded";
        client().post(url).header("content-type", kind).body(form.query().unwrap().to_owned())
    }

    fn url(cloud: &Cloud, call: &str) -> String {
        format!("{}/talkbacks/{}/{call}", cloud.thingspeak.line().url(), cloud.thingspeak.settings().talkback)
    }

    async fn call(cloud: &Cloud, command: &str, parameters: &[(&str, &str)]) -> (u16, Value) {
        let key = [("api_key", cloud.thingspeak.settings().talkback_key.as_str())];
        let response = form(url(cloud, command), &[&key, parameters].concat()).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    #[tokio::test]
    async fn a_command_leaves_the_queue_when_it_is_asked_for() {
        let cloud = cloud().await;
        let (status, added) = call(&cloud, "commands.json", &[("command_string", "on")]).await;
        assert_eq!((status, &added["command_string"], &added["position"]), (200, &json!("on"), &json!(1)));
        cloud.thingspeak.queue_command("off", Duration::ZERO);
        for expected in ["on", "off"] {
            let (_, next) = call(&cloud, "commands/execute.json", &[]).await;
            assert_eq!(next["command_string"], expected);
            assert!(next["executed_at"].is_string(), "{next}");
        }
        assert_eq!(call(&cloud, "commands/execute.json", &[]).await, (200, json!({})));
        assert_eq!(cloud.thingspeak.waiting_commands(), 0);
        let key = [("api_key", &cloud.thingspeak.settings().talkback_key)];
        let last = reqwest::Url::parse_with_params(&url(&cloud, "commands/last.json"), key).unwrap();
        let last: Value = client().get(last).send().await.unwrap().json().await.unwrap();
        assert_eq!(last["command_string"], "off");
    }

    #[tokio::test]
    async fn a_talkback_knows_its_key_and_its_bounds() {
        let cloud = cloud().await;
        let without = client().post(url(&cloud, "commands/execute.json")).send().await.unwrap();
        assert_eq!(without.status(), 401);
        let other = client().post(url(&cloud, "commands/execute.json").replace("/27/", "/28/"));
        assert_eq!(other.send().await.unwrap().status(), 404);
        let long = "x".repeat(256);
        assert_eq!(call(&cloud, "commands.json", &[("command_string", &long)]).await.0, 400);
    }

    #[tokio::test]
    async fn a_field_shows_its_last_entries_with_null_where_another_was_written() {
        let thingspeak = ThingSpeakSettings { interval: Duration::ZERO, ..Default::default() };
        let cloud = Cloud::start(CloudSettings { thingspeak, ..Default::default() }).await.unwrap();
        let settings = cloud.thingspeak.settings().clone();
        let url = format!("{}/channels/{}/fields/1.json", cloud.thingspeak.line().url(), settings.channel);
        let ask = |key: &str, results: &str| {
            let asked = [("api_key", key), ("results", results)];
            client().get(reqwest::Url::parse_with_params(&url, asked).unwrap()).send()
        };
        cloud.thingspeak.move_slider("field1", "128").unwrap();
        cloud.thingspeak.move_slider("field2", "7").unwrap();
        let reply: Value = ask(&settings.read_key, "2").await.unwrap().json().await.unwrap();
        let values: Vec<_> =
            reply["feeds"].as_array().unwrap().iter().map(|feed| feed["field1"].clone()).collect();
        assert_eq!(values, [json!("128"), Value::Null]);
        let refused = ask("WRONG", "2").await.unwrap();
        assert_eq!((refused.status().as_u16(), refused.text().await.unwrap().as_str()), (200, "-1"));
    }

    #[tokio::test]
    async fn a_single_write_that_comes_too_early_is_answered_with_zero() {
        let cloud = cloud().await;
        let settings = cloud.thingspeak.settings().clone();
        let write = || {
            let url = format!("{}/update.json", cloud.thingspeak.line().url());
            form(url, &[("api_key", &settings.write_key), ("status", "done")]).send()
        };
        assert_eq!(write().await.unwrap().json::<Value>().await.unwrap()["entry_id"], 1);
        let early = write().await.unwrap();
        assert_eq!((early.status().as_u16(), early.text().await.unwrap().as_str()), (200, "0"));
        assert_eq!(cloud.thingspeak.entries()[0].values["status"], "done");
    }
}
