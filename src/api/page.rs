//! Lists in pages: each tells where the next one begins, by a cursor of which a client needs to know nothing.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use utoipa::{IntoParams, ToSchema};

use super::problem::Problem;

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1_000;

/// Which part of a list is wanted.
#[derive(Debug, serde::Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Paging {
    /// How many at most; 100 unless told.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// A part of a list.
#[derive(Debug, serde::Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// These are in it.
    pub(super) items: Vec<T>,
    /// The cursor of the next page; `null` when this is the last one.
    pub(super) next: Option<String>,
}

impl Paging {
    pub(super) fn limit(&self) -> Result<usize, Problem> {
        limit(self.limit)
    }

    /// The place that the cursor names, if there is one.
    pub(super) fn place<T>(&self, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Problem> {
        place(self.cursor.as_deref(), parse)
    }
}

/// How many are wanted at most.
pub(super) fn limit(wanted: Option<u32>) -> Result<usize, Problem> {
    match wanted.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MAX_LIMIT => Ok(limit as usize),
        _ => Err(Problem::malformed(format!("limit is a number between 1 and {MAX_LIMIT}"))),
    }
}

/// The place that a cursor names.
pub(super) fn place<T>(
    cursor: Option<&str>,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Problem> {
    let Some(cursor) = cursor else { return Ok(None) };
    let decoded = URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let place = decoded.and_then(|text| parse(&text));
    place.map(Some).ok_or_else(|| {
        Problem::invalid("cursor is not one of this list: take `next` of the page before, unchanged")
    })
}

/// A cursor that names this place.
pub(super) fn cursor(place: impl std::fmt::Display) -> String {
    URL_SAFE_NO_PAD.encode(place.to_string())
}
