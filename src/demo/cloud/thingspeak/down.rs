//! ThingSpeak's ways down: TalkBack, whose commands leave the queue when they are asked for, and the last values of a
//! channel's field. And the single write, which is how a dashboard moves a slider.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, header};
use axum::routing::{any, get, post};
use reqwest::Url;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Channel, Entry, FIELDS, MAX_FIELD_BYTES, MAX_STORED, Refusal};
use crate::demo::cloud::Reply;

/// Bytes of a command.
const MAX_COMMAND_BYTES: usize = 255;
/// Commands of a queue.
const MAX_COMMANDS: usize = 8_000;
/// Entries of one reply.
const MAX_RESULTS: usize = 8_000;

/// A TalkBack as it stands.
#[derive(Debug, Default)]
pub(super) struct TalkBack {
    queue: VecDeque<Command>,
    last: Option<Command>,
    given: u64,
    polls: u64,
}

#[derive(Debug, Clone)]
struct Command {
    id: u64,
    text: String,
    created_at: OffsetDateTime,
    executed_at: Option<OffsetDateTime>,
}

impl Command {
    fn shown(&self, position: Option<usize>) -> Value {
        json!({
            "id": self.id,
            "command_string": self.text,
            "position": position,
            "executed_at": self.executed_at.map(moment),
            "created_at": moment(self.created_at),
        })
    }
}

impl TalkBack {
    /// Puts a command behind the others. Its number.
    pub(super) fn add(&mut self, text: &str, created_at: OffsetDateTime) -> u64 {
        self.given += 1;
        let id = self.given;
        self.queue.push_back(Command { id, text: text.to_owned(), created_at, executed_at: None });
        id
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn polls(&self) -> u64 {
        self.polls
    }

    fn shown(&self) -> Value {
        let waiting = self.queue.iter().enumerate();
        waiting.map(|(at, command)| command.shown(Some(at + 1))).collect()
    }

    fn execute(&mut self) -> Value {
        self.polls += 1;
        let Some(mut next) = self.queue.pop_front() else { return json!({}) };
        next.executed_at = Some(OffsetDateTime::now_utc());
        let shown = next.shown(None);
        self.last = Some(next);
        shown
    }
}

/// To the second, as all its times.
fn moment(at: OffsetDateTime) -> String {
    let at = at.replace_nanosecond(0).expect("0 is in range");
    at.format(&Rfc3339).expect("a time of this century can be written")
}

pub(super) fn routes() -> Router<Arc<Channel>> {
    Router::new()
        .route("/talkbacks/{talkback}/{*call}", any(talkback))
        .route("/channels/{channel}/fields/{field}", get(field))
        .route("/update.json", post(update))
}

/// Parameters from the query and from a form in the body.
fn parameters(
    query: &BTreeMap<String, String>,
    headers: &HeaderMap,
    body: &[u8],
) -> BTreeMap<String, String> {
    let mut all = query.clone();
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if kind.starts_with("application/x-www-form-urlencoded")
        && let Ok(mut form) = Url::parse("form:")
        && let Ok(text) = std::str::from_utf8(body)
    {
        form.set_query(Some(text));
        all.extend(form.query_pairs().into_owned());
    }
    all
}

/// Everything below `/talkbacks/<number>/`.
async fn talkback(
    State(channel): State<Arc<Channel>>,
    Path((number, call)): Path<(String, String)>,
    Query(query): Query<BTreeMap<String, String>>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Reply {
    let given = parameters(&query, &headers, &body);
    if number != channel.settings.talkback.to_string() {
        return Refusal::NOT_FOUND.into_reply();
    }
    if given.get("api_key") != Some(&channel.settings.talkback_key) {
        return Refusal::AUTH_REQUIRED.into_reply();
    }
    let mut talkback = channel.talkback();
    let answer = match (method, call.as_str()) {
        (Method::GET | Method::POST, "commands/execute.json") => talkback.execute(),
        (Method::GET, "commands.json") => talkback.shown(),
        (Method::POST, "commands.json") => {
            let text = given.get("command_string").map(String::as_str).unwrap_or_default();
            if text.is_empty() || text.len() > MAX_COMMAND_BYTES || talkback.queue.len() >= MAX_COMMANDS {
                return Refusal::bad_request("a command has 1 to 255 bytes, and 8000 may wait").into_reply();
            }
            talkback.add(text, OffsetDateTime::now_utc());
            talkback.shown().as_array_mut().and_then(Vec::pop).unwrap_or_default()
        }
        (Method::DELETE, "commands.json") => {
            talkback.queue.clear();
            return Reply::empty(200);
        }
        (Method::GET, "commands/last.json") => match &talkback.last {
            Some(last) => last.shown(None),
            None => return Refusal::NOT_FOUND.into_reply(),
        },
        _ => return Refusal::METHOD_INVALID.into_reply(),
    };
    Reply::json(200, answer.to_string())
}

/// `GET /channels/<number>/fields/<n>.json`: the last entries, with this field, null where it was not written.
async fn field(
    State(channel): State<Arc<Channel>>,
    Path((number, name)): Path<(String, String)>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Reply {
    let field = name.strip_suffix(".json").map(|n| format!("field{n}"));
    let Some(field) = field.filter(|field| FIELDS.contains(&field.as_str())) else {
        return Refusal::NOT_FOUND.into_reply();
    };
    let is_let = query.get("api_key") == Some(&channel.settings.read_key);
    if number != channel.settings.channel.to_string() || !is_let {
        return Reply::json(200, "-1");
    }
    let results = query.get("results").and_then(|n| n.parse().ok()).unwrap_or(100_usize).min(MAX_RESULTS);
    let stored = channel.stored();
    let first = stored.entries.len().saturating_sub(results);
    let feeds: Vec<_> =
        (first..).zip(&stored.entries[first..]).map(|(at, entry)| feed(at, entry, &field)).collect();
    let channel = json!({ "id": channel.settings.channel, "last_entry_id": stored.entries.len() });
    Reply::json(200, json!({ "channel": channel, "feeds": feeds }).to_string())
}

fn feed(at: usize, entry: &Entry, field: &str) -> Value {
    let created_at = OffsetDateTime::from_unix_timestamp(entry.created_at).map(moment).ok();
    let mut feed = json!({ "created_at": created_at, "entry_id": at + 1 });
    feed[field] = entry.values.get(field).cloned().into();
    feed
}

/// `POST /update.json`: one entry. What comes too early is not stored, and the reply is 200 with the body 0.
async fn update(
    State(channel): State<Arc<Channel>>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Reply {
    let given = parameters(&query, &headers, &body);
    if given.get("api_key") != Some(&channel.settings.write_key) {
        return Refusal::AUTH_REQUIRED.into_reply();
    }
    let known = |name: &str| FIELDS.contains(&name) || name == "status";
    let values: BTreeMap<_, _> = given.into_iter().filter(|(name, _)| known(name)).collect();
    if values.values().any(|value| value.len() > MAX_FIELD_BYTES) {
        return Refusal::bad_request(format!("a value has at most {MAX_FIELD_BYTES} bytes")).into_reply();
    }
    match channel.write(OffsetDateTime::now_utc().unix_timestamp(), values) {
        Some(entry_id) => Reply::json(200, json!({ "entry_id": entry_id }).to_string()),
        None => Reply::json(200, "0"),
    }
}

impl Channel {
    /// One entry; its number. None if it is too early for another.
    pub(super) fn write(&self, at: i64, values: BTreeMap<String, String>) -> Option<usize> {
        let mut stored = self.stored();
        let is_early = stored.last_write.is_some_and(|last| last.elapsed() < self.settings.interval);
        if is_early || stored.entries.len() >= MAX_STORED || !stored.taken.insert(at) {
            return None;
        }
        stored.last_write = Some(tokio::time::Instant::now());
        stored.entries.push(Entry { created_at: at, values });
        Some(stored.entries.len())
    }
}
