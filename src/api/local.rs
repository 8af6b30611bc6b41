//! Commands over the Unix socket, for `tampu send` and `tampu command`: whoever can open the socket is the operator.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Handles;
use crate::message::{CommandId, DeviceId, Qos, Topic};
use crate::relay::{self, FailedIf, NewCommand, NotAccepted, NotCancelled, Origin, Reply, Shown, Source};

/// The longest that one request waits for the end of a command.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Commands that one answer holds at most.
const MAX_COMMANDS: usize = 500;
/// The name of the command line as a source.
const NAME: &str = "local";

/// A command that is to be sent.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToSend {
    /// Whom it is for.
    pub device: DeviceId,
    /// What it is published to.
    pub topic: String,
    /// What is published, in base64 (RFC 4648, section 4).
    pub payload_base64: String,
    /// 0, 1 or 2.
    pub qos: u8,
    /// How long it is good for, in milliseconds; absent: `commands.good_for`.
    pub good_for_ms: Option<u64>,
    /// What it sets.
    pub key: Option<Box<str>>,
    /// What the sender calls it.
    pub reference: Option<Box<str>>,
    /// Where the device answers.
    pub reply_topic: Option<String>,
}

/// Some commands, the newest first.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Commands {
    /// These.
    pub commands: Vec<Shown>,
    /// After which the next page begins.
    pub next: Option<CommandId>,
}

/// Which commands are wanted.
#[derive(Debug, Default, serde::Deserialize)]
struct Wanted {
    device: Option<DeviceId>,
    state: Option<relay::State>,
    after: Option<CommandId>,
    limit: Option<usize>,
}

/// How long to wait for the end of a command.
#[derive(Debug, serde::Deserialize)]
struct Waiting {
    wait_ms: Option<u64>,
}

/// What is not done, and why.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

type Answer<T> = Result<Json<T>, Refusal>;

impl Refusal {
    fn bad(why: impl std::fmt::Display) -> Self {
        Self(StatusCode::BAD_REQUEST, format!("{why}"))
    }
}

pub(super) fn routes() -> Router<Arc<Handles>> {
    Router::new()
        .route("/v1/commands", post(send).get(list))
        .route("/v1/commands/{id}", get(one))
        .route("/v1/commands/{id}/cancel", post(cancel))
}

async fn send(
    State(handles): State<Arc<Handles>>,
    body: Result<Json<ToSend>, JsonRejection>,
) -> Result<(StatusCode, Json<Shown>), Refusal> {
    let Json(wanted) = body.map_err(Refusal::bad)?;
    let new = new_command(wanted, handles.ledger.settings().good_for)?;
    match handles.ledger.accept(new).await {
        Ok(accepted) => Ok((StatusCode::OK, Json(shown(&handles, accepted.command())))),
        Err(NotAccepted::Refused(command)) => {
            Ok((StatusCode::UNPROCESSABLE_ENTITY, Json(shown(&handles, &command))))
        }
        Err(unavailable) => Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, unavailable.to_string())),
    }
}

fn new_command(wanted: ToSend, good_for: Duration) -> Result<NewCommand, Refusal> {
    let ToSend { device, topic, payload_base64, qos, good_for_ms, key, reference, reply_topic } = wanted;
    let parse = |text: &str| Topic::parse(text).map_err(|error| Refusal::bad(format!("{text:?}: {error}")));
    let reply = match reply_topic {
        Some(reply) => Some(Reply { topic: parse(&reply)?, failed_if: FailedIf::default() }),
        None => None,
    };
    Ok(NewCommand {
        device,
        topic: parse(&topic)?,
        payload: STANDARD.decode(payload_base64).map_err(Refusal::bad)?.into(),
        qos: match qos {
            0 => Qos::AtMostOnce,
            1 => Qos::AtLeastOnce,
            2 => Qos::ExactlyOnce,
            other => return Err(Refusal::bad(format!("there is no QoS {other}"))),
        },
        origin: Origin { source: Source::Cli, name: NAME.into(), reference },
        key,
        good_for: good_for_ms.map_or(good_for, Duration::from_millis),
        reply,
    })
}

async fn list(
    State(handles): State<Arc<Handles>>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Answer<Commands> {
    let Query(Wanted { device, state, after, limit }) = wanted.map_err(Refusal::bad)?;
    let wanted = relay::Wanted { device, state, ..relay::Wanted::default() };
    let page = handles.ledger.list(&wanted, after, limit.unwrap_or(MAX_COMMANDS).min(MAX_COMMANDS));
    let commands = page.commands.iter().map(|command| shown(&handles, command)).collect();
    Ok(Json(Commands { commands, next: page.next }))
}

async fn one(
    State(handles): State<Arc<Handles>>,
    id: Result<Path<CommandId>, PathRejection>,
    waiting: Result<Query<Waiting>, QueryRejection>,
) -> Answer<Shown> {
    let (Path(id), Query(Waiting { wait_ms })) = (id.map_err(Refusal::bad)?, waiting.map_err(Refusal::bad)?);
    if let Some(wait_ms) = wait_ms {
        let longest = Duration::from_millis(wait_ms).min(LONGEST_WAIT);
        // Whether it has an end by then or not, what it is now is the answer.
        drop(tokio::time::timeout(longest, handles.ledger.ended(id)).await);
    }
    handles.ledger.get(id).map(|command| Json(shown(&handles, &command))).ok_or_else(unknown)
}

async fn cancel(
    State(handles): State<Arc<Handles>>,
    id: Result<Path<CommandId>, PathRejection>,
) -> Answer<Shown> {
    let Path(id) = id.map_err(Refusal::bad)?;
    match handles.ledger.cancel(id).await {
        Ok(command) => Ok(Json(shown(&handles, &command))),
        Err(NotCancelled::Unknown) => Err(unknown()),
        Err(closed @ NotCancelled::Closed) => {
            Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, closed.to_string()))
        }
        Err(late) => Err(Refusal(StatusCode::CONFLICT, late.to_string())),
    }
}

fn unknown() -> Refusal {
    Refusal(StatusCode::NOT_FOUND, NotCancelled::Unknown.to_string())
}

fn shown(handles: &Handles, command: &relay::Command) -> Shown {
    Shown::new(command, &handles.clock)
}
