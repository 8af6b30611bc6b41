//! The table over PostgREST: which rows are new, which were taken, and what became of them.

use std::time::SystemTime;

use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::access::Access;
use super::row;
use crate::clock::Clock;
use crate::config::SupabaseCommands;
use crate::message::DeviceId;
use crate::relay::{Command, Shown, State};
use crate::sink::http::{Http, Reply};
use crate::sink::supabase::reply;
use crate::sink::{SendError, SinkError};

/// Bytes of a page of rows.
pub(super) const MAX_PAGE_BYTES: usize = 512 * 1024;

/// Rows of a page.
pub(super) const MAX_ROWS: usize = 50;

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    url: Url,
    schema: Option<HeaderValue>,
    gateway: DeviceId,
}

/// Rows in the order of their ids.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) rows: Vec<Box<RawValue>>,
    /// When it was sent, by the far side's clock.
    pub(super) at: Option<SystemTime>,
}

/// A row that was taken and has no end yet.
#[derive(Debug, Deserialize)]
pub(super) struct Taken {
    pub(super) command_id: String,
}

/// What a row is told.
#[derive(Debug, Default, serde::Serialize)]
pub(super) struct Outcome {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    command_id: Option<String>,
    reason: Option<String>,
    result: Option<String>,
    attempts: u32,
    accepted_at: Option<String>,
    sent_at: Option<String>,
    acked_at: Option<String>,
    finished_at: Option<String>,
}

impl Outcome {
    /// That of a command that the ledger has.
    pub(super) fn of(command: &Command, clock: &Clock) -> Self {
        let Shown { state, reason, result, attempts, times, id, .. } = Shown::new(command, clock);
        let at = |state| times.get(&state).cloned().flatten();
        Self {
            status: state.as_str(),
            command_id: Some(id.to_string()),
            reason: reason.as_deref().map(storable),
            result: result.as_deref().map(storable),
            attempts,
            accepted_at: at(State::Queued),
            sent_at: at(State::Sent),
            acked_at: at(State::Acked),
            finished_at: state.is_final().then(|| at(state)).flatten(),
        }
    }

    /// That of a row that is no command of the ledger's.
    pub(super) fn ended(state: State, reason: &str) -> Self {
        Self { status: state.as_str(), reason: Some(storable(reason)), ..Self::default() }
    }
}

/// PostgreSQL's texts hold no NUL (22P05).
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

impl Table {
    pub(super) fn new(settings: &SupabaseCommands, gateway: &DeviceId) -> Result<Self, SinkError> {
        let wrong = |why: &str| SinkError::Url { url: settings.url.clone(), why: why.to_owned() };
        let base =
            format!("{}{}", settings.url.trim_end_matches('/'), settings.rest_path.trim_end_matches('/'));
        let mut url = Url::parse(&base).map_err(|error| wrong(&error.to_string()))?;
        url.path_segments_mut().map_err(|()| wrong("cannot have a path"))?.push(&settings.table);
        let schema = settings.schema.as_deref().map(HeaderValue::from_str).transpose();
        Ok(Self { url, schema: schema.map_err(|_| wrong("the schema's name"))?, gateway: gateway.clone() })
    }

    /// Rows that nobody has taken yet, after the one with this id. `None`: they are more than can be read at once.
    pub(super) async fn untaken(
        &self,
        http: &Http,
        access: &Access,
        after: Option<&str>,
        (columns, limit): (&str, usize),
    ) -> Result<Option<Page>, SendError> {
        let filters = [("status", "eq.queued"), ("command_id", "is.null")];
        let reply = self.ask(http, access, &filters, after, (columns, limit)).await?;
        let body = reply::rows(&reply)?;
        if body.len() >= MAX_PAGE_BYTES {
            return Ok(None);
        }
        Ok(Some(Page { rows: parsed(body)?, at: reply.date() }))
    }

    /// Rows that were taken and have no end yet, after the one with this id.
    pub(super) async fn open(
        &self,
        http: &Http,
        access: &Access,
        after: Option<&str>,
    ) -> Result<Vec<(String, Taken)>, SendError> {
        let filters = [("status", "in.(queued,sent,acked)"), ("command_id", "not.is.null")];
        let reply = self.ask(http, access, &filters, after, ("id,command_id", MAX_ROWS)).await?;
        let rows: Vec<Box<RawValue>> = parsed(reply::rows(&reply)?)?;
        let named = |row: &RawValue| Some((row::id(row.get())?, serde_json::from_str(row.get()).ok()?));
        Ok(rows.iter().filter_map(|row| named(row)).collect())
    }

    async fn ask(
        &self,
        http: &Http,
        access: &Access,
        filters: &[(&str, &str)],
        after: Option<&str>,
        (columns, limit): (&str, usize),
    ) -> Result<Reply, SendError> {
        let mut url = self.url_of_gateway();
        url.query_pairs_mut()
            .extend_pairs(filters)
            .extend_pairs(after.map(|id| ("id", format!("gt.{id}"))))
            .append_pair("select", columns)
            .append_pair("order", "id.asc")
            .append_pair("limit", &limit.to_string());
        self.call(http, access, (Method::GET, "accept-profile"), &url, None).await
    }

    /// Tells a row what became of it. Doing so again changes nothing. False if there is no such row any more.
    pub(super) async fn tell(
        &self,
        http: &Http,
        access: &Access,
        id: &str,
        outcome: &Outcome,
    ) -> Result<bool, SendError> {
        let mut url = self.url_of_gateway();
        url.query_pairs_mut().append_pair("id", &format!("eq.{id}")).append_pair("select", "id");
        let body = serde_json::to_string(outcome).expect("texts and numbers alone");
        let reply = self.call(http, access, (Method::PATCH, "content-profile"), &url, Some(body)).await?;
        Ok(!parsed::<serde::de::IgnoredAny>(reply::rows(&reply)?)?.is_empty())
    }

    fn url_of_gateway(&self) -> Url {
        let mut url = self.url.clone();
        url.query_pairs_mut().append_pair("gateway_id", &format!("eq.{}", self.gateway));
        url
    }

    async fn call(
        &self,
        http: &Http,
        access: &Access,
        (method, profile): (Method, &'static str),
        url: &Url,
        body: Option<String>,
    ) -> Result<Reply, SendError> {
        let mut headers = access.headers();
        headers.insert(HeaderName::from_static("prefer"), HeaderValue::from_static("return=representation"));
        if let Some(schema) = &self.schema {
            headers.insert(HeaderName::from_static(profile), schema.clone());
        }
        http.call(method, url, &headers, body.map(|body| ("application/json", body))).await
    }
}

fn parsed<T: serde::de::DeserializeOwned>(body: &str) -> Result<Vec<T>, SendError> {
    let why = |why| SendError::Retry { after: None, why: format!("not PostgREST's answer: {why}") };
    serde_json::from_str(body).map_err(why)
}
