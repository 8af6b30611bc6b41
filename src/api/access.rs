//! Who asks, and whether that token is good for it.

use std::marker::PhantomData;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::{Kind, Problem};
use super::rest::Rest;
use crate::audit::Event;
use crate::authorize::refusals::{Refusal, Whom};
use crate::authorize::{ApiTokens, Bearer, Scope, TokenKeys, origin};
use crate::message::DeviceId;
use crate::web::Peer;

/// What decides who may use the API, as of one moment.
#[derive(Debug, Clone, Default)]
pub struct Guards {
    /// The tokens of this gateway.
    pub tokens: Arc<ApiTokens>,
    /// Whose JSON Web Tokens are believed.
    pub issuers: Arc<TokenKeys>,
}

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) bearer: Arc<Bearer>,
    pub(super) peer: Peer,
}

impl Caller {
    /// Writes down what this caller has changed.
    pub(super) fn changed(&self, rest: &Rest, change: &str, device: Option<&DeviceId>, detail: &str) {
        let Bearer { id, name, .. } = &*self.bearer;
        let peer = self.peer.address.ip();
        tracing::info!(change, device = device.map(tracing::field::display), token = %id, ?name, %peer, ?detail, "changed by the API");
        rest.parts.audit.record(Event::ChangedByApi { change, device, peer, token: id, detail }, 0);
    }
}

/// A scope, as a type.
pub(super) trait Wanted: Send + Sync + 'static {
    const SCOPE: Scope;
}

macro_rules! wanted {
    ($($name:ident),*) => {
        $(pub(super) struct $name;
        impl Wanted for $name {
            const SCOPE: Scope = Scope::$name;
        })*
    };
}

wanted!(
    DevicesRead,
    DevicesWrite,
    CommandsRead,
    CommandsWrite,
    ReadingsRead,
    SinksRead,
    SinksWrite,
    BufferRead,
    FirmwareRead,
    FirmwareWrite
);

/// The caller, whose token has the scope `W`, and who has not asked too often.
pub(super) struct Allowed<W> {
    pub(super) caller: Caller,
    wanted: PhantomData<W>,
}

impl<W: Wanted> FromRequestParts<Arc<Rest>> for Allowed<W> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, rest: &Arc<Rest>) -> Result<Self, Problem> {
        let caller =
            parts.extensions.get::<Caller>().expect("each route of the API is behind `authenticate`");
        if !caller.bearer.scopes.contains(&W::SCOPE) {
            return Err(Problem::new(
                Kind::ScopeMissing,
                format!(
                    "it needs the scope {}: make a token that has it with `tampu token create`",
                    W::SCOPE
                ),
            ));
        }
        let (limit, name) = match W::SCOPE {
            Scope::CommandsWrite => (&rest.limits.commands, "commands_per_minute"),
            _ => (&rest.limits.changes, "changes_per_minute"),
        };
        if W::SCOPE.is_write() {
            limit.check(&caller.bearer.id).map_err(|after| {
                Problem::too_many(
                    after,
                    format!("this token may do that so often: api.{name} says how often"),
                )
            })?;
        }
        Ok(Self { caller: caller.clone(), wanted: PhantomData })
    }
}

/// Lets nobody pass who shows no good token, and nobody who asks too often.
pub(super) async fn authenticate(
    State(rest): State<Arc<Rest>>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Peer>().expect("the server tells who asks").clone();
    let bearer = match bearer(&rest, request.headers(), &peer) {
        Ok(bearer) => bearer,
        Err(problem) => return problem.into_response(),
    };
    if let Err(after) = rest.limits.requests.check(&bearer.id) {
        let detail = "this token asks too often: api.requests_per_minute says how often it may";
        return Problem::too_many(after, detail).into_response();
    }
    request.extensions_mut().insert(Caller { bearer: Arc::new(bearer), peer });
    next.run(request).await
}

fn bearer(rest: &Rest, headers: &HeaderMap, peer: &Peer) -> Result<Bearer, Problem> {
    let refuse = |reason: Refusal, detail: &str| {
        if let Err(after) = rest.limits.failures.check(&origin(peer.address.ip())) {
            let detail =
                "too many wrong tokens came from this address: api.failures_per_minute says how many may";
            return Problem::too_many(after, detail);
        }
        let advice = match reason {
            Refusal::ClockNotSynchronized => "use a token of this gateway until then",
            _ => "`tampu token create NAME --scope …` makes one; send it as Authorization: Bearer …",
        };
        Problem::new(Kind::Unauthenticated, format!("{detail}: {advice}"))
    };
    let Some(shown) = headers.get(AUTHORIZATION) else {
        return Err(refuse(Refusal::ApiTokenWrong, "there is no token"));
    };
    let shown = shown.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let Some(shown) = shown else {
        return Err(refuse(Refusal::ApiTokenWrong, "the header Authorization holds no bearer token"));
    };
    let Guards { tokens, issuers } = rest.parts.guards.borrow().clone();
    let clock = &rest.parts.handles.clock;
    tokens.bearer(shown, &issuers, clock).map_err(|(reason, detail)| refuse(reason, &detail))
}

/// Writes down what was refused, to whom.
pub(super) async fn note_refusals(State(rest): State<Arc<Rest>>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.address.ip());
    let what = format!("{} {}", request.method(), request.uri().path());
    let response = next.run(request).await;
    if let (Some(peer), Some(problem)) = (peer, response.extensions().get::<Problem>()) {
        let reason = match problem.kind {
            Kind::Internal | Kind::Unavailable => return response,
            Kind::Unauthenticated => Refusal::ApiTokenWrong,
            Kind::ScopeMissing => Refusal::ApiScopeMissing,
            Kind::TooManyRequests => Refusal::ApiTooFast,
            _ => Refusal::ApiRequestWrong,
        };
        rest.parts.refusals.record(reason, Whom::at(peer), &format!("{what}: {}", problem.detail));
    }
    response
}
