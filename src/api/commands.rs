//! Commands for devices, and what became of them.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::access::{Allowed, CommandsRead, CommandsWrite};
use super::extract::{Body, Named, Params};
use super::idempotency;
use super::page::{self, Page, cursor};
use super::problem::{Kind, Problem};
use super::rest::Rest;
use crate::message::{CommandId, DeviceId, Qos, Topic};
use crate::relay::{
    Accepted, Command, FailedIf, NewCommand, NotAccepted, NotCancelled, Origin, Reply, SharedCommand, Shown,
    Source, State as Step, Wanted,
};

/// How long a command may wait for room on disk.
pub(super) const ACCEPT_DEADLINE: Duration = Duration::from_secs(10);
/// How long a request may wait for the end of a command: it holds one of few connections.
const MAX_WAIT_S: u32 = 5;

/// A command to be sent.
#[derive(serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WantedCommand {
    /// Whom it is for.
    #[schema(value_type = String, min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_:@-][A-Za-z0-9_.:@-]{0,63}$")]
    device: DeviceId,
    /// What it is published to. The device gets it if it has subscribed to that.
    #[schema(min_length = 1, pattern = "^[^+#]+$")]
    topic: String,
    /// What is published: a text as it is, anything else as JSON.
    #[schema(value_type = Option<serde_json::Value>)]
    payload: Option<Box<RawValue>>,
    /// What is published, in base64, instead of `payload`.
    payload_base64: Option<String>,
    /// 0, 1 (the default) or 2. With 1 and 2 the device acknowledges it.
    #[schema(minimum = 0, maximum = 2)]
    qos: Option<u8>,
    /// For so many seconds it is good: it is never sent later. Default: `commands.good_for`.
    #[schema(minimum = 1, maximum = 86400)]
    good_for: Option<u32>,
    /// What it sets, such as `led`: it takes the place of an earlier command for the same device and key that was
    /// not sent yet.
    #[schema(min_length = 1, max_length = 64)]
    key: Option<String>,
    /// Where the device answers whether it has done it. Without it the command is done when the device has it.
    #[schema(min_length = 1, pattern = "^[^+#]+$")]
    reply_topic: Option<String>,
}

/// Which commands are wanted.
#[derive(Debug, serde::Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Selection {
    /// Only for this device.
    device: Option<String>,
    /// Only in this state.
    #[param(inline)]
    state: Option<Step>,
    /// Only of this kind of source.
    #[param(inline)]
    source: Option<Source>,
    /// How many at most; 100 unless told.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Whether to wait.
#[derive(Debug, serde::Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Waiting {
    /// Wait so many seconds for its end, before the answer is how far it is.
    #[param(minimum = 0, maximum = 5)]
    wait: Option<u32>,
}

#[utoipa::path(
    post, path = "/commands", tag = "commands", request_body = WantedCommand,
    summary = "Send a command to a device: now, or as soon as it is connected, as long as the command is good",
    security(("token" = ["commands:write"])),
    responses(
        (status = CREATED, body = Shown, description = "It was accepted, and is on disk"),
        (status = OK, body = Shown, description = "It was accepted before, with the same Idempotency-Key"),
    ),
)]
pub(super) async fn create(
    Allowed { caller, .. }: Allowed<CommandsWrite>,
    State(rest): State<Arc<Rest>>,
    headers: HeaderMap,
    Body(wanted): Body<WantedCommand>,
) -> Result<Response, Problem> {
    let ledger = &rest.parts.handles.ledger;
    let origin = Origin {
        source: Source::Api,
        name: caller.bearer.id.clone(),
        reference: idempotency::key_of(&headers)?.map(Into::into),
    };
    let new = wanted.parse(origin, ledger.settings().good_for)?;
    let accepted = tokio::time::timeout(ACCEPT_DEADLINE, ledger.accept(new.clone())).await;
    let accepted = accepted.map_err(|_| {
        Problem::unavailable(
            "the disk has taken nothing for too long; the command may be accepted all the same: send it again with \
             the same Idempotency-Key",
        )
    })?;
    match accepted.map_err(Problem::from)? {
        Accepted::New(command) => {
            caller.changed(&rest, "command", Some(&command.device), &format!("the command {}", command.id));
            let location = format!("/api/v1/commands/{}", command.id);
            Ok((StatusCode::CREATED, [(LOCATION, location)], shown(&rest, &command)).into_response())
        }
        Accepted::Known(command) if !is_same(&command, &new) => Err(Problem::invalid(
            "this Idempotency-Key was used for another command: make a new key for each",
        )),
        Accepted::Known(command) if command.state == Step::Refused => Err(refused(&command)),
        Accepted::Known(command) => Ok(shown(&rest, &command).into_response()),
    }
}

#[utoipa::path(
    get, path = "/commands", tag = "commands", params(Selection),
    summary = "List the commands that are kept, of all sources, the newest first",
    security(("token" = ["commands:read"])),
    responses((status = OK, body = Page<Shown>)),
)]
pub(super) async fn list(
    _: Allowed<CommandsRead>,
    State(rest): State<Arc<Rest>>,
    Params(Selection { device, state, source, limit, cursor: at }): Params<Selection>,
) -> Result<Json<Page<Shown>>, Problem> {
    let (limit, after) = (page::limit(limit)?, page::place(at.as_deref(), |text| text.parse().ok())?);
    // No command is for what is no device.
    let device = match device.map(|device| DeviceId::parse(&device)).transpose() {
        Ok(device) => device,
        Err(_) => return Ok(Json(Page { items: Vec::new(), next: None })),
    };
    let wanted = Wanted { device, state, source, source_name: None };
    let page = rest.parts.handles.ledger.list(&wanted, after, limit);
    let items =
        page.commands.iter().map(|command| Shown::new(command, rest.parts.handles.ledger.clock())).collect();
    Ok(Json(Page { items, next: page.next.map(cursor) }))
}

#[utoipa::path(
    get, path = "/commands/{id}", tag = "commands",
    params(("id" = String, Path, description = "The command"), Waiting),
    summary = "Show a command, and how far it is",
    security(("token" = ["commands:read"])),
    responses((status = OK, body = Shown)),
)]
pub(super) async fn one(
    _: Allowed<CommandsRead>,
    State(rest): State<Arc<Rest>>,
    Named(id): Named<String>,
    Params(Waiting { wait }): Params<Waiting>,
) -> Result<Json<Shown>, Problem> {
    let (id, ledger) = (parse_id(&id)?, &rest.parts.handles.ledger);
    let wait = wait.unwrap_or(0);
    if wait > MAX_WAIT_S {
        return Err(Problem::malformed(format!("wait is at most {MAX_WAIT_S} seconds")));
    }
    if wait > 0 {
        // Ended, or not: it is shown as it is.
        tokio::time::timeout(Duration::from_secs(wait.into()), ledger.ended(id)).await.ok();
    }
    Ok(shown(&rest, &ledger.get(id).ok_or_else(unknown)?))
}

#[utoipa::path(
    post, path = "/commands/{id}/cancel", tag = "commands",
    params(("id" = String, Path, description = "The command")),
    summary = "Take a command back that was not sent yet",
    security(("token" = ["commands:write"])),
    responses((status = OK, body = Shown)),
)]
pub(super) async fn cancel(
    Allowed { caller, .. }: Allowed<CommandsWrite>,
    State(rest): State<Arc<Rest>>,
    Named(id): Named<String>,
) -> Result<Json<Shown>, Problem> {
    let cancelled = rest.parts.handles.ledger.cancel(parse_id(&id)?).await.map_err(|error| match error {
        NotCancelled::Unknown => unknown(),
        NotCancelled::Sent(_) | NotCancelled::Ended(_) => Problem::conflict(error.to_string()),
        NotCancelled::Closed => Problem::unavailable(error.to_string()),
    })?;
    let detail = format!("the command {}", cancelled.id);
    caller.changed(&rest, "command cancel", Some(&cancelled.device), &detail);
    Ok(shown(&rest, &cancelled))
}

impl WantedCommand {
    fn parse(self, origin: Origin, good_for: Duration) -> Result<NewCommand, Problem> {
        let topic = |name: &str, text: &str| {
            Topic::parse(text).map_err(|error| Problem::invalid(format!("{name} {text:?}: {error}")))
        };
        let payload = match (self.payload, self.payload_base64) {
            (Some(_), Some(_)) => {
                return Err(Problem::invalid(
                    "payload and payload_base64 are two ways to say one thing: send one",
                ));
            }
            (None, None) => Bytes::new(),
            (Some(json), None) => match serde_json::from_str::<String>(json.get()) {
                Ok(text) => text.into(),
                Err(_) => Bytes::copy_from_slice(json.get().as_bytes()),
            },
            (None, Some(text)) => {
                let decoded = STANDARD.decode(text);
                decoded
                    .map_err(|error| Problem::invalid(format!("payload_base64 is no base64: {error}")))?
                    .into()
            }
        };
        let qos = match self.qos {
            Some(0) => Qos::AtMostOnce,
            None | Some(1) => Qos::AtLeastOnce,
            Some(2) => Qos::ExactlyOnce,
            Some(other) => return Err(Problem::invalid(format!("qos is 0, 1 or 2, not {other}"))),
        };
        let is_long = |text: &String| text.is_empty() || text.chars().count() > 64;
        if self.key.as_ref().is_some_and(is_long) {
            return Err(Problem::invalid("key has 1 to 64 characters"));
        }
        let good_for = match self.good_for {
            Some(0) => return Err(Problem::invalid("good_for is at least 1 second")),
            seconds => seconds.map_or(good_for, |seconds| Duration::from_secs(seconds.into())),
        };
        let reply = self.reply_topic.map(|text| topic("reply_topic", &text)).transpose()?;
        Ok(NewCommand {
            topic: topic("topic", &self.topic)?,
            device: self.device,
            payload,
            qos,
            origin,
            key: self.key.map(Into::into),
            good_for,
            reply: reply.map(|topic| Reply { topic, failed_if: FailedIf::default() }),
        })
    }
}

impl From<NotAccepted> for Problem {
    fn from(error: NotAccepted) -> Self {
        match &error {
            NotAccepted::Refused(command) => refused(command),
            NotAccepted::NoRoom | NotAccepted::Closed => Self::unavailable(error.to_string()),
        }
    }
}

fn refused(command: &Command) -> Problem {
    let reason = command.reason.as_deref().unwrap_or("refused");
    Problem::conflict(format!("{reason} (kept as the refused command {})", command.id))
}

/// A payload that was too large is not kept.
fn is_same(before: &Command, new: &NewCommand) -> bool {
    let has_payload = before.state != Step::Refused;
    before.device == new.device
        && before.topic == new.topic
        && before.key == new.key
        && before.reply.as_ref().map(|reply| &reply.topic) == new.reply.as_ref().map(|reply| &reply.topic)
        && (!has_payload || before.payload == new.payload)
}

fn parse_id(text: &str) -> Result<CommandId, Problem> {
    text.parse().map_err(|error| Problem::new(Kind::NotFound, format!("{text:?}: {error}")))
}

fn unknown() -> Problem {
    Problem::not_found("there is no such command, or it has ended long ago; GET /api/v1/commands lists them")
}

fn shown(rest: &Rest, command: &SharedCommand) -> Json<Shown> {
    Json(Shown::new(command, rest.parts.handles.ledger.clock()))
}
