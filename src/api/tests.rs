//! Each route, over the parts of a gateway that does not run.

mod devices;
mod faults;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tower::ServiceExt as _;

use super::*;
use crate::audit::Audit;
use crate::authorize::refusals::Refusals;
use crate::authorize::{ApiTokens, Authenticator, Authorizer, Scope};
use crate::broker::{self, Broker};
use crate::buffer::{Buffer, Wait};
use crate::clock::Clock;
use crate::config::{self, ClientAuth, ClockSource, Config};
use crate::firmware::{self, Firmware};
use crate::message::{DeviceId, Incoming, Qos};
use crate::pki::Pki;
use crate::relay::Ledger;
use crate::web::Peer;

/// The parts of a gateway, and their API.
struct Bench {
    dir: tempfile::TempDir,
    buffer: Buffer,
    clock: Clock,
    refusals: Refusals,
    registry_changed: Arc<Notify>,
    router: Router,
    /// It is good for everything.
    token: String,
    tokens: ApiTokens,
    guards: watch::Sender<Guards>,
}

/// What was answered.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Bench {
    async fn new() -> Self {
        Self::with("").await
    }

    /// With these lines in `[api]`.
    async fn with(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sink = "[[sink]]\nname = \"cloud\"\ntype = \"thingspeak\"\nchannel = 1\nwrite_key = \"k\"\n\
                    fields = { field1 = \"t\" }\n";
        let config = Config::from_toml(&format!("[api]\n{settings}\n{sink}")).unwrap();
        let clock = config::Clock { source: ClockSource::Trusted, ..config::Clock::default() };
        let clock = Clock::start(&clock, &PathBuf::from("/nowhere/floor"), BTreeMap::new()).unwrap();
        let store = config::Buffer { min_free_bytes: 0, ..config::Buffer::default() };
        let cloud = DeviceId::parse("cloud").unwrap();
        let buffer =
            Buffer::open(&dir.path().join("buffer"), &store, std::slice::from_ref(&cloud)).unwrap().0;
        let gateway = DeviceId::parse("gw").unwrap();
        let pki = Pki::open_or_create(&dir.path().join("pki"), &config::Pki::default(), &gateway, &clock);
        let (pki, refusals) = (pki.unwrap(), Refusals::default());
        let ledger = Ledger::open(&buffer, clock.clone(), &config.commands).await.unwrap();
        let Config { listener, limits, sessions, retained, streams, access, .. } = &config;
        let broker = Broker::new(
            broker::Settings { limits: listener, rates: limits, sessions, retained, streams },
            Authorizer::new(access, streams),
            Authenticator::new(clock.clone()),
            buffer.clone(),
            clock.clone(),
            refusals.clone(),
            ledger.clone(),
        );
        let firmware = Firmware::open(firmware::Parts {
            settings: config.firmware.clone(),
            room: firmware::Room { max_image_bytes: 1024, min_free_bytes: 0 },
            data_dir: dir.path().to_owned(),
            authenticator: Authenticator::new(clock.clone()),
            rules: watch::channel(Authorizer::new(access, streams)).1,
            refusals: refusals.clone(),
            clock: clock.clone(),
        });
        let rules = crate::relay::rules::Rules::new(&[], ledger.clone(), clock.clone(), buffer.clone());
        let handles = Handles {
            firmware,
            gateway_id: "gw".to_owned(),
            listener: "127.0.0.1:8883".parse().unwrap(),
            more_listeners: BTreeMap::new(),
            clock: clock.clone(),
            buffer: buffer.clone(),
            broker,
            ledger,
            rules,
            forwarders: BTreeMap::new(),
            command_sources: BTreeMap::new(),
            certificates: watch::channel(CertificateFigures::default()).1,
        };
        let mut tokens = ApiTokens::default();
        let everything = Scope::ALL.iter().copied().collect();
        let new = tokens.add("all", everything, OffsetDateTime::now_utc(), None).unwrap();
        let (guards, receiver) = watch::channel(Guards::default());
        let registry_changed = Arc::new(Notify::new());
        let parts = Parts {
            handles,
            tls: pki.server_tls(),
            pki,
            messages: None,
            client_auth: ClientAuth::Required,
            data_dir: dir.path().to_owned(),
            guards: receiver,
            registry_changed: Arc::clone(&registry_changed),
            switches: Switches::open(dir.path(), std::iter::once(cloud)).0,
            refusals: refusals.clone(),
            audit: Audit::default(),
        };
        let router = router(parts, &config.api);
        let token = new.token.expose().to_owned();
        let bench = Self { dir, buffer, clock, refusals, registry_changed, router, token, tokens, guards };
        bench.publish_tokens();
        bench
    }

    fn publish_tokens(&self) {
        let guards = Guards { tokens: Arc::new(self.tokens.clone()), ..Guards::default() };
        self.guards.send_replace(guards);
    }

    /// A token that is good for these scopes.
    fn token_for(&mut self, scopes: &[Scope]) -> String {
        let (name, scopes) = (format!("{scopes:?}"), scopes.iter().copied().collect::<BTreeSet<_>>());
        let name: String = name.chars().take(60).collect();
        let new = self.tokens.add(&name, scopes, OffsetDateTime::now_utc(), None).unwrap();
        self.publish_tokens();
        new.token.expose().to_owned()
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], None).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask("POST", path, &[], Some(body)).await
    }

    /// By the token that is good for everything.
    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Answer {
        let authorization = format!("Bearer {}", self.token);
        let mut all = vec![("authorization", authorization.as_str())];
        if body.is_some() {
            all.push(("content-type", "application/json"));
        }
        all.extend(headers);
        self.send(method, path, &all, body.map(|body| body.to_string()).unwrap_or_default()).await
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let peer = Peer { address: "192.0.2.7:1234".parse().unwrap(), certificate: None, tls: false };
        let request = request.extension(peer).body(body.into()).unwrap();
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// Readings of a device, on disk when this resolves.
    async fn append(&self, device: &str, stream: &str, payloads: &[&[u8]]) {
        let device = DeviceId::parse(device).unwrap();
        let mut writer = self.buffer.writer();
        for payload in payloads {
            let reading = Incoming {
                device: &device,
                stream,
                topic: "esp32-01/readings",
                payload,
                qos: Qos::AtLeastOnce,
                received: self.clock.stamp(),
                fault: None,
            };
            let receipt = writer.submit(Some(&reading), Vec::new(), Wait::ForAck).unwrap();
            writer.until_durable(receipt.mark).await.unwrap();
        }
    }
}

impl Answer {
    /// The status, and the kind of problem.
    fn problem(&self) -> (u16, &str) {
        let media = self.headers.get("content-type").map(|value| value.to_str().unwrap());
        assert_eq!(media, Some("application/problem+json"), "{:?}", self.body);
        assert_eq!(self.body["status"], self.status.as_u16());
        assert!(self.body["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
        (
            self.status.as_u16(),
            self.body["type"].as_str().unwrap().strip_prefix("urn:tampu:problem:").unwrap(),
        )
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_wants_the_scope_that_the_document_names_and_no_other() {
    let mut bench = Bench::with("changes_per_minute = 1000\ncommands_per_minute = 1000").await;
    let document = bench.get("/api/openapi.json").await.body;
    assert_eq!(document["openapi"], "3.1.0");
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let scope =
                operation["security"][0]["token"][0].as_str().map(|scope| scope.parse::<Scope>().unwrap());
            let scope = scope.unwrap_or_else(|| panic!("{method} {path} names no scope"));
            operations.push((method.to_uppercase(), path.replace(['{', '}'], ""), scope));
        }
    }
    assert!(operations.len() > 20);
    for (method, path, scope) in operations {
        let others: Vec<_> = Scope::ALL.iter().copied().filter(|other| *other != scope).collect();
        let status = async |bench: &Bench, token: &str| {
            let authorization = format!("Bearer {token}");
            bench.send(&method, &path, &[("authorization", &authorization)], "").await.status
        };
        let token = bench.token_for(&others);
        assert_eq!(status(&bench, &token).await, StatusCode::FORBIDDEN, "{method} {path} without {scope}");
        bench.tokens.revoke(&token[12..20]).unwrap();
        let token = bench.token_for(&[scope]);
        let allowed = status(&bench, &token).await;
        assert!(![401, 403].contains(&allowed.as_u16()), "{method} {path} with {scope}: {allowed}");
        bench.tokens.revoke(&token[12..20]).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_lives_and_is_ready_and_shows_what_it_can_do_without_a_token() {
    let bench = Bench::new().await;
    let plain = async |path: &str| bench.send("GET", path, &[], "").await;
    assert_eq!(plain("/healthz").await.body["status"], "alive");
    assert_eq!(plain("/readyz").await.body["status"], "ready");
    assert_eq!(plain("/api/openapi.json").await.status, StatusCode::OK);
    let page = plain("/api/docs").await;
    assert_eq!((page.status, page.header("content-type")), (StatusCode::OK, "text/html; charset=utf-8"));
    bench.buffer.close().await;
    let unready = plain("/readyz").await;
    assert_eq!(unready.problem(), (503, "unavailable"));
    assert!(unready.body["detail"].as_str().unwrap().contains("the store"));
    assert_eq!(plain("/healthz").await.status, StatusCode::OK);
}
