//! How the sinks are doing, and letting them rest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use tokio::sync::watch;
use utoipa::ToSchema;

use super::access::{Allowed, Caller, SinksRead, SinksWrite};
use super::extract::Named;
use super::problem::Problem;
use super::rest::Rest;
use crate::authorize::{Content, Document, DocumentError};
use crate::buffer::SinkFigures;
use crate::forwarder::ForwarderStatus;
use crate::message::DeviceId;

/// Which sinks an operator lets rest: `paused-sinks.json`, so that a restart does not wake them.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Paused {
    version: u32,
    sinks: BTreeSet<DeviceId>,
}

impl Default for Paused {
    fn default() -> Self {
        Self { version: Self::VERSION, sinks: BTreeSet::new() }
    }
}

impl Content for Paused {
    const NAME: &'static str = "paused-sinks";
    const VERSION: u32 = 1;

    fn version(&self) -> u32 {
        self.version
    }
}

/// By which sinks are paused. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Switches {
    data_dir: PathBuf,
    by_sink: Arc<BTreeMap<DeviceId, watch::Sender<bool>>>,
}

impl Switches {
    /// As they were left, and what is wrong if that cannot be read: then none is paused. It reads the disk.
    #[must_use]
    pub fn open(data_dir: &Path, sinks: impl Iterator<Item = DeviceId>) -> (Self, Option<DocumentError>) {
        let (paused, error) = match Document::<Paused>::read(data_dir) {
            Ok(paused) => (paused, None),
            Err(error) => (Paused::default(), Some(error)),
        };
        let switch = |name: DeviceId| {
            let is_paused = paused.sinks.contains(&name);
            (name, watch::Sender::new(is_paused))
        };
        let by_sink = Arc::new(sinks.map(switch).collect());
        (Self { data_dir: data_dir.to_owned(), by_sink }, error)
    }

    /// The switch of a sink.
    #[must_use]
    pub fn of(&self, sink: &DeviceId) -> Option<watch::Receiver<bool>> {
        self.by_sink.get(sink).map(watch::Sender::subscribe)
    }

    fn is_paused(&self, sink: &str) -> bool {
        self.by_sink.iter().any(|(name, switch)| name.as_str() == sink && *switch.borrow())
    }

    /// Sets a switch, on disk first; tells whether it was another before. It waits for the disk.
    fn set(&self, sink: &DeviceId, paused: bool) -> Result<bool, DocumentError> {
        let Some(switch) = self.by_sink.get(sink) else { return Ok(false) };
        Document::<Paused>::update(&self.data_dir, |kept| {
            if paused {
                kept.sinks.insert(sink.clone());
            } else {
                kept.sinks.remove(sink);
            }
            Ok::<_, DocumentError>(())
        })?;
        Ok(switch.send_replace(paused) != paused)
    }
}

/// A sink.
#[derive(Debug, serde::Serialize, ToSchema)]
pub(super) struct Sink {
    /// Its name.
    name: String,
    /// Whether it was paused. Readings wait for it then, and are dropped where the buffer's bounds say so.
    paused: bool,
    /// Its figures, conserved over restarts: accepted = delivered + pending + all that was dropped, by reason.
    #[schema(value_type = Object)]
    figures: SinkFigures,
    /// What it is doing, and what last went wrong; `null` if it cannot be set up.
    #[schema(value_type = Option<Object>)]
    status: Option<ForwarderStatus>,
}

#[utoipa::path(
    get, path = "/sinks", tag = "sinks", summary = "List the sinks, and how each is doing",
    security(("token" = ["sinks:read"])),
    responses((status = OK, body = Vec<Sink>)),
)]
pub(super) async fn list(_: Allowed<SinksRead>, State(rest): State<Arc<Rest>>) -> Json<Vec<Sink>> {
    let figures = rest.parts.handles.buffer.status().sinks;
    Json(figures.into_iter().map(|(name, figures)| shown(&rest, name, figures)).collect())
}

#[utoipa::path(
    get, path = "/sinks/{name}", tag = "sinks", params(("name" = String, Path, description = "The sink")),
    summary = "Show how a sink is doing",
    security(("token" = ["sinks:read"])),
    responses((status = OK, body = Sink)),
)]
pub(super) async fn one(
    _: Allowed<SinksRead>,
    State(rest): State<Arc<Rest>>,
    Named(name): Named<String>,
) -> Result<Json<Sink>, Problem> {
    find(&rest, name)
}

#[utoipa::path(
    post, path = "/sinks/{name}/pause", tag = "sinks", params(("name" = String, Path, description = "The sink")),
    summary = "Send nothing to a sink until it is resumed, over restarts, too",
    security(("token" = ["sinks:write"])),
    responses((status = OK, body = Sink)),
)]
pub(super) async fn pause(
    Allowed { caller, .. }: Allowed<SinksWrite>,
    State(rest): State<Arc<Rest>>,
    Named(name): Named<String>,
) -> Result<Json<Sink>, Problem> {
    set(&rest, &caller, name, true).await
}

#[utoipa::path(
    post, path = "/sinks/{name}/resume", tag = "sinks", params(("name" = String, Path, description = "The sink")),
    summary = "Send to a sink again",
    security(("token" = ["sinks:write"])),
    responses((status = OK, body = Sink)),
)]
pub(super) async fn resume(
    Allowed { caller, .. }: Allowed<SinksWrite>,
    State(rest): State<Arc<Rest>>,
    Named(name): Named<String>,
) -> Result<Json<Sink>, Problem> {
    set(&rest, &caller, name, false).await
}

fn find(rest: &Rest, name: String) -> Result<Json<Sink>, Problem> {
    match rest.parts.handles.buffer.status().sinks.remove(&name) {
        Some(figures) => Ok(Json(shown(rest, name, figures))),
        None => Err(Problem::not_found(format!("there is no sink {name:?}; GET /api/v1/sinks lists them"))),
    }
}

fn shown(rest: &Rest, name: String, figures: SinkFigures) -> Sink {
    let status = rest.parts.handles.forwarders.get(&name).map(|status| status.borrow().clone());
    Sink { paused: rest.parts.switches.is_paused(&name), figures, status, name }
}

async fn set(rest: &Arc<Rest>, caller: &Caller, name: String, paused: bool) -> Result<Json<Sink>, Problem> {
    let sink = find(rest, name.clone())?;
    let Ok(id) = DeviceId::parse(&name) else { return Ok(sink) };
    if rest.blocking(move |parts| Ok(parts.switches.set(&id, paused)?)).await? {
        let (change, word) = if paused { ("sink pause", "paused") } else { ("sink resume", "resumed") };
        caller.changed(rest, change, None, &format!("the sink {name} is {word}"));
    }
    find(rest, name)
}
