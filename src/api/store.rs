//! The store: its figures, and the readings that nobody could use.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use utoipa::ToSchema;

use super::access::{Allowed, BufferRead};
use super::extract::Params;
use super::page::{Page, Paging, cursor};
use super::problem::Problem;
use super::rest::{DISK_DEADLINE, Rest};
use super::socket::DeadLetter;
use crate::buffer;
use crate::message::{DeviceId, Seq};

/// Dead letters of one answer: each may be as large as a packet.
const MAX_LETTERS: usize = 100;

/// Figures of the store.
#[derive(Debug, serde::Serialize, ToSchema)]
pub(super) struct Figures {
    /// Whether the wall clock is synchronised.
    clock_synchronized: bool,
    /// The store, with the figures of each sink.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    status: buffer::Status,
}

#[utoipa::path(
    get, path = "/buffer", tag = "buffer", summary = "Show the figures of the store",
    security(("token" = ["buffer:read"])),
    responses((status = OK, body = Figures)),
)]
pub(super) async fn figures(_: Allowed<BufferRead>, State(rest): State<Arc<Rest>>) -> Json<Figures> {
    let handles = &rest.parts.handles;
    Json(Figures { clock_synchronized: handles.clock.is_synchronized(), status: handles.buffer.status() })
}

#[utoipa::path(
    get, path = "/buffer/dead-letters", tag = "buffer", params(Paging),
    summary = "List the readings that nobody, or one sink, could use, the newest first",
    security(("token" = ["buffer:read"])),
    responses((status = OK, body = Page<DeadLetter>)),
)]
pub(super) async fn dead_letters(
    _: Allowed<BufferRead>,
    State(rest): State<Arc<Rest>>,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<DeadLetter>>, Problem> {
    let limit = paging.limit()?.min(MAX_LETTERS);
    let before = paging.place(place)?;
    let letters = rest.parts.handles.buffer.dead_letters_before(before, limit);
    let letters = tokio::time::timeout(DISK_DEADLINE, letters).await;
    let letters = letters.map_err(|_| Problem::unavailable("the store does not answer now; try again"))??;
    let is_full = letters.len() == limit;
    let items: Vec<_> = letters.into_iter().map(DeadLetter::from).collect();
    let last = items.last().filter(|_| is_full);
    let next =
        last.map(|last| cursor(format!("{} {}", last.seq, last.sink.as_ref().map_or("", DeviceId::as_str))));
    Ok(Json(Page { items, next }))
}

fn place(text: &str) -> Option<(Seq, String)> {
    let (seq, sink) = text.split_once(' ')?;
    Some((seq.parse().ok()?, sink.to_owned()))
}
