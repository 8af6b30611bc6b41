//! The status and the dead letters on a Unix socket: `GET /v1/status` and `GET /v1/dead-letters?limit=N`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::{Json, Router, routing::get};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::local;
use crate::broker::{self, Broker};
use crate::buffer::{self, Buffer};
use crate::clock::Clock;
use crate::firmware::{self, Firmware};
use crate::forwarder::ForwarderStatus;
use crate::message::{DeviceId, Seq};
use crate::relay::{self, Ledger, SourceStatus};

/// Dead letters that one answer holds at most: each may be as large as a packet.
const MAX_LETTERS: usize = 1_000;
/// They are read from the disk, which may not answer. The command line waits for 5 s.
const LETTERS_DEADLINE: Duration = Duration::from_secs(3);

/// The parts that can be asked.
#[derive(Debug, Clone)]
pub struct Handles {
    /// The name of this gateway.
    pub gateway_id: String,
    /// Where it listens for MQTT over TLS.
    pub listener: SocketAddr,
    /// Where it listens besides: `websocket`, `plain`, `api`.
    pub more_listeners: BTreeMap<&'static str, SocketAddr>,
    /// The clock.
    pub clock: Clock,
    /// The store.
    pub buffer: Buffer,
    /// The broker.
    pub broker: Broker,
    /// One a sink.
    pub forwarders: BTreeMap<String, watch::Receiver<ForwarderStatus>>,
    /// Certificates that need somebody's care.
    pub certificates: watch::Receiver<CertificateFigures>,
    /// Commands for devices.
    pub ledger: Ledger,
    /// Where they come from, by the names of the sources.
    pub command_sources: BTreeMap<String, watch::Receiver<SourceStatus>>,
    /// The local rules.
    pub rules: relay::rules::Rules,
    /// Releases of firmware, and what is known of that of the devices.
    pub firmware: Firmware,
}

/// Certificates that need somebody's care.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct CertificateFigures {
    /// Devices whose last certificate ends within 30 days (or a third of its life, if that is less), or has ended.
    pub devices_ending_soon: usize,
    /// Whether that holds for a certificate of the CA: before it ends, every device needs a new one.
    pub authority_ending_soon: bool,
    /// Whether that holds for the server's certificate.
    pub server_ending_soon: bool,
    /// What is wrong with the lists of revoked certificates (`pki.crl`).
    pub revocation_list_problems: Vec<String>,
}

/// The answer to `GET /v1/status`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Status {
    /// The name of this gateway.
    pub gateway: String,
    /// The version of the program.
    pub version: &'static str,
    /// The process.
    pub pid: u32,
    /// Where it listens for MQTT over TLS.
    pub listener: SocketAddr,
    /// Where it listens besides: `websocket`, `plain`, `api`.
    pub more_listeners: BTreeMap<&'static str, SocketAddr>,
    /// Whether the wall clock is synchronised.
    pub clock_synchronized: bool,
    /// The store and the figures of each sink.
    pub buffer: buffer::Status,
    /// How each sink is doing.
    pub forwarders: BTreeMap<String, ForwarderStatus>,
    /// Connections and messages.
    pub broker: broker::Figures,
    /// Certificates that need somebody's care.
    pub certificates: CertificateFigures,
    /// Commands for devices.
    pub commands: relay::Figures,
    /// How each source of them is doing.
    pub command_sources: BTreeMap<String, SourceStatus>,
    /// How each local rule stands.
    pub rules: BTreeMap<String, relay::rules::RuleStatus>,
    /// Firmware over the air.
    pub firmware: firmware::Figures,
}

/// A dead letter, as it is shown.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub struct DeadLetter {
    /// The reading's number.
    pub seq: Seq,
    /// Who sent it.
    #[schema(value_type = String)]
    pub device: DeviceId,
    /// Its topic.
    pub topic: String,
    /// When it came, milliseconds since 1970-01-01 UTC as the clock stood then.
    pub received_ms: i64,
    /// The sink that refused it; none if no sink could use it.
    #[schema(value_type = Option<String>)]
    pub sink: Option<DeviceId>,
    /// Why.
    pub reason: String,
    /// What it said; bytes that are no UTF-8 are replaced.
    pub payload: String,
}

impl From<buffer::DeadLetter> for DeadLetter {
    fn from(letter: buffer::DeadLetter) -> Self {
        let buffer::DeadLetter { reading, reason, sink } = letter;
        Self {
            seq: reading.seq,
            topic: reading.topic.to_string(),
            received_ms: reading.received.wall_ms,
            sink,
            reason,
            payload: String::from_utf8_lossy(&reading.payload).into_owned(),
            device: reading.device,
        }
    }
}

/// How many dead letters are wanted.
#[derive(Debug, serde::Deserialize)]
struct Wanted {
    limit: Option<usize>,
}

async fn dead_letters(
    State(handles): State<Arc<Handles>>,
    Query(Wanted { limit }): Query<Wanted>,
) -> Result<Json<Vec<DeadLetter>>, (StatusCode, String)> {
    let limit = limit.unwrap_or(MAX_LETTERS).min(MAX_LETTERS);
    let unavailable = |why: String| (StatusCode::SERVICE_UNAVAILABLE, why);
    match tokio::time::timeout(LETTERS_DEADLINE, handles.buffer.dead_letters(limit)).await {
        Ok(Ok(letters)) => Ok(Json(letters.into_iter().map(DeadLetter::from).collect())),
        Ok(Err(closed)) => Err(unavailable(closed.to_string())),
        Err(_) => Err(unavailable(format!("the disk has not answered within {LETTERS_DEADLINE:?}"))),
    }
}

impl Handles {
    /// How everything is, now.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            gateway: self.gateway_id.clone(),
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            listener: self.listener,
            more_listeners: self.more_listeners.clone(),
            clock_synchronized: self.clock.is_synchronized(),
            buffer: self.buffer.status(),
            forwarders: self
                .forwarders
                .iter()
                .map(|(name, handle)| (name.clone(), handle.borrow().clone()))
                .collect(),
            broker: self.broker.figures(),
            certificates: self.certificates.borrow().clone(),
            commands: self.ledger.figures(),
            command_sources: self
                .command_sources
                .iter()
                .map(|(name, handle)| (name.clone(), handle.borrow().clone()))
                .collect(),
            rules: self.rules.status(),
            firmware: self.firmware.figures(),
        }
    }
}

/// Where the socket of a gateway with this data directory is.
#[must_use]
pub fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join("tampu.sock")
}

/// A bound socket.
#[derive(Debug)]
pub struct Api {
    socket: UnixListener,
}

impl Api {
    /// Binds the socket. One that a killed process left behind is replaced: the buffer's lock has already
    /// shown that no other gateway works in this directory.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn bind(data_dir: &Path) -> std::io::Result<Self> {
        let path = socket_path(data_dir);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { socket })
    }

    /// Answers until it is cancelled.
    pub async fn run(self, handles: Handles, cancel: CancellationToken) {
        let routes = Router::new()
            .route(
                "/v1/status",
                get(|State(handles): State<Arc<Handles>>| async move { Json(handles.status()) }),
            )
            .route("/v1/dead-letters", get(dead_letters))
            .merge(local::routes())
            .with_state(Arc::new(handles));
        let served = axum::serve(self.socket, routes).with_graceful_shutdown(cancel.cancelled_owned());
        if let Err(error) = served.await {
            tracing::error!(%error, "the status socket has failed");
        }
    }
}
