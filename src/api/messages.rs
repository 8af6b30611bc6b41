//! Text messages through phones, and what became of them. Only with the profile of the message gateway.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use utoipa::{IntoParams, ToSchema};

use super::access::{Allowed, CommandsRead, CommandsWrite};
use super::commands::ACCEPT_DEADLINE;
use super::extract::{Body, Named, Params};
use super::idempotency;
use super::page::{self, Page, cursor};
use super::phones;
use super::problem::Problem;
use super::rest::Rest;
use crate::message::{CommandId, DeviceId};
use crate::messages::{
    InvalidMessage, Message, MessageState, MessageText, Messages, NewMessage, NotSent, PhoneNumber, Taken,
    Wanted,
};

/// A message to be sent.
#[derive(serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WantedMessage {
    /// The number that it is for, in international form: 6 to 15 digits, the first no 0, with or without a +.
    #[schema(pattern = "^\\+?[1-9][0-9]{5,14}$", example = "+447700900123")]
    phone: String,
    /// What it says; `messages.max_characters` says how long it may be. New lines are LF; CR LF is taken for that.
    #[schema(min_length = 1, max_length = 10000)]
    message: String,
    /// Through which device; it waits for that one. Without it one is chosen that has announced itself.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_:@-][A-Za-z0-9_.:@-]{0,63}$")]
    device: Option<DeviceId>,
}

/// Which messages are wanted.
#[derive(Debug, serde::Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Selection {
    /// Only those whose last try was for this device.
    #[param(max_length = 64)]
    device: Option<String>,
    /// Only in this state.
    #[param(inline)]
    state: Option<MessageState>,
    /// How many at most; 100 unless told.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `next` of the page before.
    #[param(max_length = 256)]
    cursor: Option<String>,
}

#[utoipa::path(
    post, path = "/messages/create", tag = "messages", request_body = WantedMessage,
    summary = "Send a text message through a phone: now, or as soon as it is connected, as long as the message is good",
    security(("token" = ["commands:write"])),
    responses(
        (status = CREATED, body = Message, description = "It was accepted, and is on disk"),
        (status = OK, body = Message, description = "It was accepted before, with the same Idempotency-Key"),
    ),
)]
pub(super) async fn create(
    Allowed { caller, .. }: Allowed<CommandsWrite>,
    State(rest): State<Arc<Rest>>,
    headers: HeaderMap,
    Body(WantedMessage { phone, message, device }): Body<WantedMessage>,
) -> Result<Response, Problem> {
    let messages = messages(&rest);
    if let Some(device) = &device {
        phones::must_have_key(&rest, device).await?;
    }
    let new = NewMessage {
        phone: PhoneNumber::parse(&phone)?,
        text: MessageText::parse(&message, messages.settings().max_characters)?,
        device,
        token: caller.bearer.id.clone(),
        key: idempotency::key_of(&headers)?.map(Into::into),
    };
    let taken = tokio::time::timeout(ACCEPT_DEADLINE, messages.send(new)).await.map_err(|_| {
        Problem::unavailable(
            "the disk has taken nothing for too long; the message may be accepted all the same: send it again with \
             the same Idempotency-Key",
        )
    })?;
    let Taken { message, is_new } = taken?;
    if !is_new {
        return Ok(Json(message).into_response());
    }
    caller.changed(&rest, "message", Some(&message.device), &format!("the message {}", message.id));
    let location = format!("/messages/{}", message.id);
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(message)).into_response())
}

#[utoipa::path(
    get, path = "/messages", tag = "messages", params(Selection),
    summary = "List the messages that are kept, the newest first",
    security(("token" = ["commands:read"])),
    responses((status = OK, body = Page<Message>)),
)]
pub(super) async fn list(
    _: Allowed<CommandsRead>,
    State(rest): State<Arc<Rest>>,
    Params(Selection { device, state, limit, cursor: at }): Params<Selection>,
) -> Result<Json<Page<Message>>, Problem> {
    let (limit, after) = (page::limit(limit)?, page::place(at.as_deref(), |text| text.parse().ok())?);
    // No message is for what is no device.
    let Ok(device) = device.map(|device| DeviceId::parse(&device)).transpose() else {
        return Ok(Json(Page { items: Vec::new(), next: None }));
    };
    let page = messages(&rest).list(&Wanted { device, state }, after, limit);
    Ok(Json(Page { items: page.messages, next: page.next.map(cursor) }))
}

#[utoipa::path(
    get, path = "/messages/{id}", tag = "messages",
    params(("id" = String, Path, description = "The message")),
    summary = "Show a message, and how far it is",
    security(("token" = ["commands:read"])),
    responses((status = OK, body = Message)),
)]
pub(super) async fn one(
    _: Allowed<CommandsRead>,
    State(rest): State<Arc<Rest>>,
    Named(id): Named<String>,
) -> Result<Json<Message>, Problem> {
    let found = id.parse::<CommandId>().ok().and_then(|id| messages(&rest).get(id));
    found.map(Json).ok_or_else(|| {
        Problem::not_found("there is no such message, or it has ended long ago; GET /messages lists them")
    })
}

pub(super) fn messages(rest: &Rest) -> &Messages {
    rest.parts.messages.as_ref().expect("these routes are there with the profile alone")
}

impl From<InvalidMessage> for Problem {
    fn from(error: InvalidMessage) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<NotSent> for Problem {
    fn from(error: NotSent) -> Self {
        match error {
            NotSent::NobodyThere | NotSent::Refused(_) => Self::conflict(error.to_string()),
            NotSent::OtherMessage => Self::invalid(error.to_string()),
            NotSent::Closed => Self::unavailable(error.to_string()),
        }
    }
}
