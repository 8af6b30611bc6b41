//! The REST API, asked by a client of others (reqwest), and the README's curl lines.

use std::process::Command;
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, StatusCode};
use rumqttc::QoS;
use serde_json::{Value, json};

use crate::harness::mqtt::{Credentials, Device};
use crate::harness::{Gateway, Home, eventually, text};

/// A gateway with its API, and a token for it.
struct Scene {
    gateway: Gateway,
    client: Client,
    base: String,
    token: String,
}

impl Scene {
    fn start(settings: &str) -> Self {
        // Whichever test comes first.
        rustls::crypto::ring::default_provider().install_default().ok();
        let home = Home::new(settings);
        let token = token(&home, "all", "all");
        let gateway = home.start();
        let address = gateway.wait_for_status("the API's address", |status| {
            status["more_listeners"]["api"].as_str().map(str::to_owned)
        });
        let client = Client::builder().timeout(Duration::from_secs(30)).build().unwrap();
        Self { gateway, client, base: format!("http://{address}"), token }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token)
    }

    async fn get(&self, path: &str) -> Value {
        self.request(Method::GET, path).send().await.unwrap().json().await.unwrap()
    }

    async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let answer = self.request(Method::POST, path).json(body).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }
}

fn token(home: &Home, name: &str, scopes: &str) -> String {
    let made = home.tampu(&["token", "create", name, "--scope", scopes]);
    assert!(made.status.success(), "{}", text(&made));
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_device_that_the_api_has_made_is_commanded_and_read_and_put_out_when_disabled() {
    // The device's client blocks.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let scene = Scene::start("");
    let (status, made) = runtime.block_on(scene.post("/api/v1/devices", &json!({ "name": "esp32-01" })));
    assert_eq!(status, StatusCode::CREATED);
    let directory = tempfile::tempdir().unwrap();
    let credentials = Credentials::in_directory(directory.path(), "esp32-01");
    for (file, pem) in [
        (&credentials.ca, "ca_pem"),
        (&credentials.cert, "certificate_pem"),
        (&credentials.key, "private_key_pem"),
    ] {
        std::fs::write(file, made[pem].as_str().unwrap()).unwrap();
    }
    let mut device = Device::connect(scene.gateway.address, &credentials, "esp32-01");
    device.publish("esp32-01/readings", "{\"t\":21.5}");
    let latest = runtime.block_on(scene.get("/api/v1/readings/latest?device=esp32-01"));
    assert_eq!(latest["items"][0]["payload"], json!({ "t": 21.5 }));

    device.subscribe(&[("esp32-01/led", QoS::AtLeastOnce)]);
    let command = json!({ "device": "esp32-01", "topic": "esp32-01/led", "payload": { "on": true } });
    let (status, sent) = runtime.block_on(scene.post("/api/v1/commands", &command));
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(device.receive().payload, "{\"on\":true}");
    // The acknowledgement goes with what the client does next.
    device.publish("esp32-01/readings", "{\"t\":22}");
    let path = format!("/api/v1/commands/{}?wait=5", sent["id"].as_str().unwrap());
    while runtime.block_on(scene.get(&path))["state"] != "done" {}

    let (status, disabled) = runtime.block_on(scene.post("/api/v1/devices/esp32-01/disable", &json!({})));
    assert_eq!((status, &disabled["state"]), (StatusCode::OK, &json!("disabled")));
    device.wait_until_closed();
    eventually("the change is in the audit log", || {
        let audit = text(&scene.gateway.home.tampu(&["audit", "--json"]));
        (audit.contains("\"reason\":\"disable\"") && audit.contains("\"token\":")).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_in_force_and_out_of_it_without_a_restart() {
    let scene = Scene::start("");
    let home = &scene.gateway.home;
    let reader = token(home, "reader", "devices:read");
    let status = async |token: &str, method: Method, path: &str| {
        let request = scene.client.request(method, format!("{}{path}", scene.base)).bearer_auth(token);
        request.json(&json!({ "name": "x" })).send().await.unwrap().status()
    };
    loop {
        match status(&reader, Method::GET, "/api/v1/devices").await {
            StatusCode::OK => break,
            other => assert_eq!(other, StatusCode::UNAUTHORIZED),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(status(&reader, Method::POST, "/api/v1/devices").await, StatusCode::FORBIDDEN);
    assert_eq!(status("tampu_token_none", Method::GET, "/api/v1/devices").await, StatusCode::UNAUTHORIZED);
    assert!(home.tampu(&["token", "list"]).status.success());
    assert!(home.tampu(&["token", "revoke", "reader"]).status.success());
    while status(&reader, Method::GET, "/api/v1/devices").await == StatusCode::OK {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    scene.gateway.wait_for_refusal("api_token_wrong");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_or_too_often_is_refused_in_words() {
    let scene = Scene::start("[api]\ncommands_per_minute = 1\n");
    let (status, large) = scene.post("/api/v1/devices", &json!({ "name": "x".repeat(100_000) })).await;
    assert_eq!((status, &large["status"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!(413)));
    let command = json!({ "device": "esp32-01", "topic": "esp32-01/cmd", "payload": "on" });
    let (status, sent) = scene.post("/api/v1/commands", &command).await;
    assert_eq!((status, &sent["state"]), (StatusCode::CREATED, &json!("queued")));
    let slowed = scene.request(Method::POST, "/api/v1/commands").json(&command).send().await.unwrap();
    assert_eq!(slowed.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(slowed.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(slowed.headers()["content-type"], "application/problem+json");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_and_what_was_paused_is_so_after_a_restart() {
    let sink = "[[sink]]\nname = \"cloud\"\ntype = \"thingspeak\"\nchannel = 1\nwrite_key = \"k\"\n\
                url = \"http://127.0.0.1:9\"\nfields = { field1 = \"t\" }\n";
    let mut scene = Scene::start(sink);
    scene.post("/api/v1/sinks/cloud/pause", &json!({})).await;
    let command = json!({ "device": "a", "topic": "a/cmd", "good_for": 3_600 });
    let send = async |scene: &Scene| {
        let request = scene.request(Method::POST, "/api/v1/commands").header("idempotency-key", "k1");
        let answer = request.json(&command).send().await.unwrap();
        (answer.status(), answer.json::<Value>().await.unwrap())
    };
    let (status, first) = send(&scene).await;
    assert_eq!(status, StatusCode::CREATED);
    let (_, home) = scene.gateway.terminate();
    scene.gateway = home.start();
    scene.base = scene.gateway.wait_for_status("the API's address", |status| {
        status["more_listeners"]["api"].as_str().map(|address| format!("http://{address}"))
    });
    let (status, again) = send(&scene).await;
    assert_eq!((status, &again["id"]), (StatusCode::OK, &first["id"]), "it is not sent twice");
    assert_eq!(scene.get("/api/v1/sinks/cloud").await["status"]["state"], "paused");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_the_network_reaches_has_tls_with_the_gateways_certificate() {
    let scene = Scene::start("[api]\ntls = true\n");
    let pem = std::fs::read(scene.gateway.home.path("data/pki/ca.pem")).unwrap();
    let ca = reqwest::Certificate::from_pem(&pem).unwrap();
    let client = Client::builder().tls_certs_only([ca]).build().unwrap();
    let port = scene.base.rsplit_once(':').unwrap().1;
    let health = client.get(format!("https://localhost:{port}/healthz")).send().await.unwrap();
    assert_eq!(health.json::<Value>().await.unwrap()["status"], "alive");
}

/// The lines between ```sh and ``` below the heading are run as they stand there, but for the address.
#[tokio::test(flavor = "multi_thread")]
async fn the_curl_lines_of_the_readme_work() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let section = readme.split("\n## REST API\n").nth(1).expect("the README has the section");
    let script = section.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert!(script.matches("curl ").count() >= 5, "{script}");
    let scene = Scene::start("");
    let script = script.replace("http://127.0.0.1:8484", &scene.base);
    let line = script.lines().find(|line| line.starts_with("TOKEN=")).expect("it makes a token");
    let script = script.replace(line, &format!("TOKEN={}", scene.token));
    let script = format!("set -e\ncurl() {{ command curl --fail-with-body -sS \"$@\"; echo; }}\n{script}");
    let ran = tokio::task::spawn_blocking(move || Command::new("bash").arg("-c").arg(&script).output());
    let ran = ran.await.unwrap().unwrap();
    assert!(ran.status.success(), "{}", text(&ran));
    let said = String::from_utf8(ran.stdout).unwrap();
    for expected in ["private_key_pem", "\"state\":\"queued\"", "\"key\":\"tampu_"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
}
