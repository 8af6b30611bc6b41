//! Supabase Realtime's websocket: channels that tell of inserted rows, in the versions 1.0.0 and 2.0.0.
//!
//! It is as strict as the server's source: who does not show a key is not let in, a message that is none ends the
//! connection, a row that is inserted before the `system` message is never told. Broadcast and presence are not here.

mod frame;
mod socket;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper_util::rt::TokioIo;
use tokio::sync::{broadcast, watch};

use self::frame::Version;
use super::Reply;
use crate::tasks::Spawner;

/// Rows that a slow connection may be behind. What is beyond is lost to it, as with the real one.
const MAX_BEHIND: usize = 1_024;

/// The real server ends a connection that is silent for so long.
const IDLE: Duration = Duration::from_secs(60);

/// A row that was inserted.
#[derive(Debug, Clone)]
pub(super) struct Inserted {
    pub(super) table: &'static str,
    /// The row as JSON.
    pub(super) record: Arc<str>,
}

/// What all connections are told at once.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Order {
    /// A `system` error with this extension and this text.
    Complain(String, String),
    /// `phx_close`.
    Close,
    /// `phx_error`: the channel has crashed.
    Crash,
}

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Realtime(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Keys that may come in, and tokens that may join.
    keys: BTreeSet<String>,
    rows: broadcast::Sender<Inserted>,
    orders: broadcast::Sender<Order>,
    behaviour: Mutex<Behaviour>,
    /// While true, joins are accepted and the table is not watched yet.
    holds_ready: watch::Sender<bool>,
    seen: Mutex<Seen>,
    spawner: Spawner,
}

#[derive(Debug, Default)]
struct Behaviour {
    upgrades: VecDeque<Reply>,
    joins: VecDeque<String>,
    expired: BTreeSet<String>,
    ignores_heartbeats: bool,
    loses_rows: bool,
}

/// What clients have done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Connections that were upgraded.
    pub connections: u64,
    /// Joins, whatever became of them: the version and the token of each.
    pub joins: Vec<(String, Option<String>)>,
    /// Channels that were told that they are ready.
    pub ready: u64,
    /// Tokens that came after a join.
    pub renewed: Vec<String>,
    /// Heartbeats.
    pub heartbeats: u64,
    /// Rows that were told.
    pub told: u64,
}

impl Realtime {
    pub(super) fn new(keys: BTreeSet<String>, spawner: &Spawner) -> Self {
        Self(Arc::new(Inner {
            keys,
            rows: broadcast::Sender::new(MAX_BEHIND),
            orders: broadcast::Sender::new(16),
            behaviour: Mutex::default(),
            holds_ready: watch::Sender::new(false),
            seen: Mutex::default(),
            spawner: spawner.clone(),
        }))
    }

    pub(super) fn router(&self) -> Router {
        Router::new().route("/realtime/v1/websocket", get(upgrade)).with_state(self.clone())
    }

    /// Tells of a row.
    pub(super) fn inserted(&self, row: Inserted) {
        if !self.behaviour().loses_rows {
            // Without anybody who listens it is lost.
            self.0.rows.send(row).ok();
        }
    }

    /// Answers the next upgrade with this, after those that were scripted before.
    pub fn refuse_upgrade(&self, reply: Reply) {
        self.behaviour().upgrades.push_back(reply);
    }

    /// Refuses the next join for this reason, after those that were scripted before.
    pub fn refuse_join(&self, reason: &str) {
        self.behaviour().joins.push_back(reason.to_owned());
    }

    /// From now on a token is expired: who joins with it is refused, and channels with it are closed.
    pub fn expire(&self, token: &str) {
        self.behaviour().expired.insert(token.to_owned());
        let why = format!("Token has expired {} seconds ago", 1);
        self.order(Order::Complain(token.to_owned(), why));
    }

    /// Whether channels that have joined are not ready yet.
    pub fn hold_ready(&self, holds: bool) {
        self.0.holds_ready.send_replace(holds);
    }

    /// Whether heartbeats are not answered.
    pub fn ignore_heartbeats(&self, ignores: bool) {
        self.behaviour().ignores_heartbeats = ignores;
    }

    /// Whether rows are not told although a channel is ready: it promises nothing.
    pub fn lose_rows(&self, loses: bool) {
        self.behaviour().loses_rows = loses;
    }

    /// Ends every channel with `phx_close`, after a `system` error with this text.
    pub fn close_channels(&self, why: &str) {
        self.order(Order::Complain("system".to_owned(), why.to_owned()));
        self.order(Order::Close);
    }

    /// Tells every channel that its table is not watched any more.
    pub fn stop_watching(&self, why: &str) {
        self.order(Order::Complain("postgres_changes".to_owned(), why.to_owned()));
    }

    /// Crashes every channel.
    pub fn crash_channels(&self) {
        self.order(Order::Crash);
    }

    /// What clients have done so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen_mut().clone()
    }

    fn order(&self, order: Order) {
        // Nobody may be there.
        self.0.orders.send(order).ok();
    }

    /// Why this token may not join, if so: what the server says of it.
    fn objection(&self, token: Option<&str>) -> Option<String> {
        let token = token?;
        if self.behaviour().expired.contains(token) {
            return Some("InvalidJWTToken: Token has expired 1 seconds ago".to_owned());
        }
        if token.split('.').count() != 3 {
            return Some("MalformedJWT: The token provided is not a valid JWT".to_owned());
        }
        let is_known = self.0.keys.contains(token);
        (!is_known).then(|| "JwtSignatureError: Failed to validate JWT signature".to_owned())
    }

    fn behaviour(&self) -> MutexGuard<'_, Behaviour> {
        self.0.behaviour.lock().expect("no panic under this lock")
    }

    fn seen_mut(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().expect("no panic under this lock")
    }
}

async fn upgrade(
    State(realtime): State<Realtime>,
    Query(query): Query<BTreeMap<String, String>>,
    mut request: Request,
) -> axum::response::Response {
    let refused = |status: u16, why: &str| {
        Reply::json(status, serde_json::json!({ "error": why }).to_string()).into_response()
    };
    if let Some(reply) = realtime.behaviour().upgrades.pop_front() {
        return reply.into_response();
    }
    let Some(key) = websocket_key(request.headers()) else {
        return refused(426, "this is a websocket");
    };
    let from_header = request.headers().get("x-api-key").and_then(|key| key.to_str().ok());
    match query.get("apikey").map(String::as_str).or(from_header) {
        Some(known) if realtime.0.keys.contains(known) => {}
        _ => return refused(401, "Invalid API key"),
    }
    let Some(version) = query.get("vsn").map_or(Some(Version::One), |vsn| Version::parse(vsn)) else {
        return refused(400, "the version is not supported");
    };
    let accept = accept_key(&key);
    let upgrade = hyper::upgrade::on(&mut request);
    let serving = realtime.clone();
    realtime.0.spawner.passing(async move {
        // The client may be gone already.
        if let Ok(upgraded) = upgrade.await {
            serving.seen_mut().connections += 1;
            socket::serve(&serving, version, TokioIo::new(upgraded)).await;
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, accept)
        .body(axum::body::Body::empty())
        .expect("these are headers")
}

/// The client's key, if this is an upgrade (RFC 6455, 4.2.1).
fn websocket_key(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let is_upgrade = text(header::CONNECTION)?.to_ascii_lowercase().contains("upgrade")
        && text(header::UPGRADE)?.eq_ignore_ascii_case("websocket")
        && text(header::SEC_WEBSOCKET_VERSION)? == "13";
    let key = text(header::SEC_WEBSOCKET_KEY)?;
    let is_nonce = BASE64_STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16);
    (is_upgrade && is_nonce).then(|| key.to_owned())
}

/// RFC 6455, 1.3.
fn accept_key(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}
