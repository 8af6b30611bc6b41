//! ThingSpeak: the bulk write, `POST /channels/<number>/bulk_update.json`, and the ways down (`down`).
//!
//! As the vendor's pages describe it; no server to compare with can be had. Where they are silent, the
//! stricter reading is taken: fractions of a second are lost, any call that was not too early starts the
//! interval anew whatever became of it, and a value that is neither text nor number is refused.

mod down;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::routing::post;
use serde_json::{Map, Value};
use tokio::time::Instant;

use self::down::TalkBack;
use super::{Line, Reply, timestamp};
use crate::tasks::Spawner;

/// Bytes of one entry, as it stands in the request.
const MAX_ENTRY_BYTES: usize = 3_000;
/// Bytes of one field.
const MAX_FIELD_BYTES: usize = 255;
/// Entries that a double keeps.
const MAX_STORED: usize = 1_000_000;
const FIELDS: [&str; 8] = ["field1", "field2", "field3", "field4", "field5", "field6", "field7", "field8"];
const PLACE: [&str; 3] = ["latitude", "longitude", "elevation"];

/// One channel, and what it allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThingSpeakSettings {
    /// Its number.
    pub channel: u64,
    /// Its write key.
    pub write_key: String,
    /// Its read key.
    pub read_key: String,
    /// The number of the TalkBack.
    pub talkback: u64,
    /// Its key.
    pub talkback_key: String,
    /// Between two bulk calls: 15 s on every licence.
    pub interval: Duration,
    /// Entries a call: 960 on a free licence, 14,400 on a paid one.
    pub max_entries: usize,
}

impl Default for ThingSpeakSettings {
    fn default() -> Self {
        Self {
            channel: 1_417,
            write_key: "TAMPUDEMOWRITEKEY".to_owned(),
            read_key: "TAMPUDEMOREADKEY1".to_owned(),
            talkback: 27,
            talkback_key: "TAMPUDEMOTALKBACK".to_owned(),
            interval: Duration::from_secs(15),
            max_entries: 960,
        }
    }
}

/// An entry as the channel keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Seconds since 1970-01-01 UTC: a channel keeps one entry for each.
    pub created_at: i64,
    /// What it holds, by name: `field1` to `field8`, `latitude`, `longitude`, `elevation`, `status`.
    pub values: BTreeMap<String, String>,
}

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ThingSpeak {
    line: Line,
    channel: Arc<Channel>,
}

#[derive(Debug)]
struct Channel {
    settings: ThingSpeakSettings,
    state: Mutex<Stored>,
    talkback: Mutex<TalkBack>,
}

#[derive(Debug, Default)]
struct Stored {
    entries: Vec<Entry>,
    taken: BTreeSet<i64>,
    duplicates: u64,
    early: u64,
    last_call: Option<Instant>,
    last_write: Option<Instant>,
}

impl ThingSpeak {
    pub(super) async fn start(settings: ThingSpeakSettings, spawner: &Spawner) -> io::Result<Self> {
        let channel = Arc::new(Channel { settings, state: Mutex::default(), talkback: Mutex::default() });
        let state = Arc::clone(&channel);
        let line = Line::serve(spawner, move |_| {
            Router::new()
                .route("/channels/{channel}/bulk_update.json", post(bulk_update).fallback(method_invalid))
                .merge(down::routes())
                .fallback(no_such_resource)
                .with_state(state)
        })
        .await?;
        Ok(Self { line, channel })
    }

    /// The line to it.
    #[must_use]
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// What a gateway is to be configured with besides the URL.
    #[must_use]
    pub fn settings(&self) -> &ThingSpeakSettings {
        &self.channel.settings
    }

    /// Every entry in the order of arrival, which is the order of entry numbers.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.channel.stored().entries.clone()
    }

    /// Entries that were accepted and not written, because their second was taken.
    #[must_use]
    pub fn duplicates(&self) -> u64 {
        self.channel.stored().duplicates
    }

    /// Puts a command into the TalkBack's queue, as if it had been put there so long ago. Its number.
    pub fn queue_command(&self, text: &str, ago: Duration) -> u64 {
        self.channel.talkback().add(text, time::OffsetDateTime::now_utc() - ago)
    }

    /// Commands that wait in the TalkBack's queue.
    #[must_use]
    pub fn waiting_commands(&self) -> usize {
        self.channel.talkback().waiting()
    }

    /// How often the TalkBack was asked for its next command.
    #[must_use]
    pub fn polls(&self) -> u64 {
        self.channel.talkback().polls()
    }

    /// Moves a dashboard's slider: writes one entry with this field alone, now. Its number.
    pub fn move_slider(&self, field: &str, value: &str) -> Option<usize> {
        let mut at = time::OffsetDateTime::now_utc().unix_timestamp();
        while self.channel.stored().taken.contains(&at) {
            at += 1;
        }
        self.channel.write(at, BTreeMap::from([(field.to_owned(), value.to_owned())]))
    }

    /// Calls that came before the interval was over.
    #[must_use]
    pub fn early_calls(&self) -> u64 {
        self.channel.stored().early
    }
}

impl Channel {
    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.state.lock().expect("no panic under this lock")
    }

    fn talkback(&self) -> MutexGuard<'_, TalkBack> {
        self.talkback.lock().expect("no panic under this lock")
    }

    fn bulk_update(&self, number: &str, headers: &HeaderMap, body: &[u8]) -> Result<(), Refusal> {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if content_type.and_then(|value| value.split(';').next()).map(str::trim) != Some("application/json") {
            return Err(Refusal::bad_request("the content type must be application/json"));
        }
        let text = std::str::from_utf8(body).map_err(|_| Refusal::INVALID_BYTES)?;
        let request: Value =
            serde_json::from_str(text).map_err(|wrong| Refusal::bad_request(wrong.to_string()))?;
        if number != self.settings.channel.to_string() {
            return Err(Refusal::NOT_FOUND);
        }
        if request["write_api_key"] != *self.settings.write_key {
            return Err(Refusal::AUTH_REQUIRED);
        }
        let mut stored = self.stored();
        let now = Instant::now();
        if stored.last_call.is_some_and(|last| now - last < self.settings.interval) {
            stored.early += 1;
            return Err(Refusal::TOO_MANY_REQUESTS);
        }
        stored.last_call = Some(now);
        let entries = self.parse_updates(&request)?;
        if stored.entries.len() + entries.len() > MAX_STORED {
            return Err(Refusal::INTERNAL);
        }
        for entry in entries {
            if stored.taken.insert(entry.created_at) {
                stored.entries.push(entry);
            } else {
                stored.duplicates += 1;
            }
        }
        Ok(())
    }

    fn parse_updates(&self, request: &Value) -> Result<Vec<Entry>, Refusal> {
        let updates = request["updates"]
            .as_array()
            .filter(|updates| !updates.is_empty())
            .ok_or_else(|| Refusal::bad_request("updates must be a list with an entry"))?;
        if updates.len() > self.settings.max_entries {
            return Err(Refusal::TOO_LARGE);
        }
        let relative = updates[0].get("delta_t").is_some();
        let mut previous = None;
        let mut entries = Vec::with_capacity(updates.len());
        for update in updates {
            let update =
                update.as_object().ok_or_else(|| Refusal::bad_request("an entry must be an object"))?;
            if Value::Object(update.clone()).to_string().len() > MAX_ENTRY_BYTES {
                return Err(Refusal::TOO_LARGE);
            }
            let created_at = match (update.get("created_at"), update.get("delta_t")) {
                (Some(at), None) if !relative => absolute(at)?,
                (None, Some(delta)) if relative => after(previous, delta)?,
                _ => return Err(Refusal::bad_request("either created_at or delta_t, alike in all entries")),
            };
            previous = Some(created_at);
            entries.push(Entry { created_at, values: values(update)? });
        }
        Ok(entries)
    }
}

fn absolute(at: &Value) -> Result<i64, Refusal> {
    let text = scalar(at)?;
    if let Ok(epoch) = text.parse::<f64>() {
        #[allow(clippy::cast_possible_truncation, reason = "saturates, and no channel has an entry there")]
        return Ok(epoch.floor() as i64);
    }
    match timestamp::parse(&text, true) {
        Ok(time) => Ok(time.unix_timestamp()),
        Err(_) => Err(Refusal::bad_request(format!("created_at {text:?} is not a time"))),
    }
}

fn after(previous: Option<i64>, delta: &Value) -> Result<i64, Refusal> {
    let seconds: u32 =
        scalar(delta)?.parse().map_err(|_| Refusal::bad_request("delta_t must be seconds, 0 or more"))?;
    match previous {
        Some(_) if seconds == 0 => Err(Refusal::bad_request("delta_t 0 is for the first entry alone")),
        Some(previous) => Ok(previous + i64::from(seconds)),
        None => Ok(time::OffsetDateTime::now_utc().unix_timestamp() + i64::from(seconds)),
    }
}

/// What is known by name; everything else is lost without a word, as there.
fn values(update: &Map<String, Value>) -> Result<BTreeMap<String, String>, Refusal> {
    let mut values = BTreeMap::new();
    for (name, value) in update {
        let name = name.as_str();
        if value.is_null() || !(FIELDS.contains(&name) || PLACE.contains(&name) || name == "status") {
            continue;
        }
        let text = scalar(value)?;
        if FIELDS.contains(&name) && text.len() > MAX_FIELD_BYTES {
            return Err(Refusal::bad_request(format!("{name} is longer than {MAX_FIELD_BYTES} bytes")));
        }
        if PLACE.contains(&name) && !text.parse::<f64>().is_ok_and(f64::is_finite) {
            return Err(Refusal::bad_request(format!("{name} must be a number")));
        }
        values.insert(name.to_owned(), text);
    }
    Ok(values)
}

fn scalar(value: &Value) -> Result<String, Refusal> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(Refusal::bad_request("a value must be a text or a number")),
    }
}

struct Refusal {
    status: u16,
    code: &'static str,
    details: String,
}

impl Refusal {
    const AUTH_REQUIRED: Self = Self::new(401, "error_auth_required");
    const NOT_FOUND: Self = Self::new(404, "error_resource_not_found");
    const METHOD_INVALID: Self = Self::new(405, "error_method_invalid");
    const TOO_LARGE: Self = Self::new(413, "error_request_too_large");
    const INVALID_BYTES: Self = Self::new(422, "error_invalid_byte_sequence");
    /// Without Retry-After: none is documented.
    const TOO_MANY_REQUESTS: Self = Self::new(429, "error_too_many_requests");
    const INTERNAL: Self = Self::new(500, "error_internal");

    const fn new(status: u16, code: &'static str) -> Self {
        Self { status, code, details: String::new() }
    }

    fn bad_request(details: impl Into<String>) -> Self {
        Self { details: details.into(), ..Self::new(400, "error_bad_request") }
    }

    fn into_reply(self) -> Reply {
        let body = serde_json::json!({
            "status": self.status.to_string(),
            "error": {
                "error_code": self.code,
                "message": self.code.trim_start_matches("error_").replace('_', " "),
                "details": self.details,
            },
        });
        Reply::json(self.status, body.to_string())
    }
}

async fn bulk_update(
    State(channel): State<Arc<Channel>>,
    Path(number): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Reply {
    match channel.bulk_update(&number, &headers, &body) {
        Ok(()) => Reply::json(202, r#"{"success":true}"#),
        Err(refusal) => refusal.into_reply(),
    }
}

async fn method_invalid() -> Reply {
    Refusal::METHOD_INVALID.into_reply()
}

async fn no_such_resource() -> Reply {
    Refusal::NOT_FOUND.into_reply()
}
