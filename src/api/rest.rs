//! The REST API: its routes, and what stands before them.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderValue, Method, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Response;
use tokio::sync::{Notify, Semaphore, watch};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::access::{self, Guards};
use super::idempotency::{self, Answers};
use super::limits::Limits;
use super::problem::{Kind, Problem};
use super::{
    Handles, Switches, commands, devices, firmware, health, keys, messages, openapi, phones, readings, sinks,
    store,
};
use crate::audit::Audit;
use crate::authorize::refusals::Refusals;
use crate::config::{self, ClientAuth};
use crate::messages::Messages;
use crate::pki::{Pki, ServerTls};

/// The largest body of a request.
pub(super) const MAX_BODY_BYTES: usize = 64 * 1024;
/// What waits for the store, and the store for a disk, waits no longer.
pub(super) const DISK_DEADLINE: Duration = Duration::from_secs(5);

/// What the API works on.
#[derive(Debug)]
pub struct Parts {
    /// The parts that can be asked.
    pub handles: Handles,
    /// The certificates.
    pub pki: Pki,
    /// TLS of the listener for devices …
    pub tls: ServerTls,
    /// … and what it wants of them.
    pub client_auth: ClientAuth,
    /// Where the registry of devices is.
    pub data_dir: PathBuf,
    /// Text messages, with the profile of the message gateway.
    pub messages: Option<Messages>,
    /// Who may ask.
    pub guards: watch::Receiver<Guards>,
    /// Told when the registry was changed, so that the change is in force at once.
    pub registry_changed: Arc<Notify>,
    /// By which sinks are paused.
    pub switches: Switches,
    /// Where refusals are counted.
    pub refusals: Refusals,
    /// Where changes are written down.
    pub audit: Audit,
}

/// All that a handler needs.
pub(super) struct Rest {
    pub(super) parts: Parts,
    pub(super) limits: Limits,
    pub(super) answers: Answers,
    /// One at a time looks into the store, whose thread has readings to write.
    pub(super) look: Semaphore,
}

impl Rest {
    /// Does what waits for the disk on another thread.
    pub(super) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Parts) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let rest = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&rest.parts)).await.map_err(Problem::internal)?
    }
}

/// The routes of the API.
pub fn router(parts: Parts, settings: &config::Api) -> Router {
    let rest = Arc::new(Rest {
        parts,
        limits: Limits::new(settings),
        answers: Answers::default(),
        look: Semaphore::new(1),
    });
    let described = match rest.parts.messages {
        Some(_) => v1().merge(message_gateway()),
        None => v1(),
    };
    let (v1, mut document) = described.split_for_parts();
    openapi::complete(&mut document);
    let document = openapi::Document::new(&document);
    let guarded = v1
        .route_layer(from_fn_with_state(Arc::clone(&rest), idempotency::remember))
        .route_layer(from_fn_with_state(Arc::clone(&rest), access::authenticate));
    let open = Router::new()
        .route("/healthz", axum::routing::get(health::alive))
        .route("/readyz", axum::routing::get(health::ready))
        .merge(document.routes());
    Router::new()
        .merge(open)
        .merge(guarded)
        .fallback(nothing_there)
        .method_not_allowed_fallback(not_this_way)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn_with_state(Arc::clone(&rest), access::note_refusals))
        .layer(from_fn(headers))
        .with_state(rest)
}

/// What the OpenAPI document describes.
pub(super) fn v1() -> OpenApiRouter<Arc<Rest>> {
    let v1 = OpenApiRouter::new()
        .routes(routes!(devices::list, devices::create))
        .routes(routes!(devices::one))
        .routes(routes!(devices::disable))
        .routes(routes!(devices::enable))
        .routes(routes!(devices::revoke))
        .routes(routes!(devices::certificates, devices::add_certificate))
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::revoke))
        .routes(routes!(keys::rotate))
        .routes(routes!(commands::list, commands::create))
        .routes(routes!(commands::one))
        .routes(routes!(commands::cancel))
        .routes(routes!(readings::list))
        .routes(routes!(readings::latest))
        .routes(routes!(sinks::list))
        .routes(routes!(sinks::one))
        .routes(routes!(sinks::pause))
        .routes(routes!(sinks::resume))
        .routes(routes!(firmware::list, firmware::create))
        .routes(routes!(firmware::one, firmware::remove))
        .routes(routes!(firmware::promote))
        .routes(routes!(firmware::roll_back))
        .routes(routes!(firmware::devices))
        .routes(routes!(store::figures))
        .routes(routes!(store::dead_letters));
    OpenApiRouter::with_openapi(openapi::head()).nest("/api/v1", v1)
}

/// What the profile of the message gateway adds.
pub(super) fn message_gateway() -> OpenApiRouter<Arc<Rest>> {
    OpenApiRouter::new()
        .routes(routes!(messages::create))
        .routes(routes!(messages::list))
        .routes(routes!(messages::one))
        .routes(routes!(phones::list, phones::create))
        .routes(routes!(phones::api_keys, phones::add_api_key))
        .routes(routes!(phones::rotate_api_key))
        .routes(routes!(phones::revoke_api_key))
}

async fn nothing_there(uri: Uri) -> Problem {
    Problem::not_found(format!("there is nothing at {}; /api/docs shows what there is", uri.path()))
}

async fn not_this_way(method: Method, uri: Uri) -> Problem {
    let detail = format!("{} does not take {method}: the header Allow says what it takes", uri.path());
    Problem::new(Kind::MethodNotAllowed, detail)
}

/// What every answer has: no cache may keep it, no browser guess what it is.
async fn headers(request: Request, next: axum::middleware::Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert("cache-control", HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

impl fmt::Debug for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rest").field("parts", &self.parts).finish_non_exhaustive()
    }
}
