//! Where readings go, and how.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::Secret;
use crate::message::DeviceId;

/// Where readings go.
#[derive(Debug, Clone, PartialEq)]
pub struct Sink {
    /// Its name, unique: cursors and counters hang on it.
    pub name: SinkName,
    /// The streams that it takes; empty for all.
    pub streams: Vec<String>,
    /// How it is spoken to.
    pub kind: SinkKind,
    /// The time a request may take.
    pub timeout: Duration,
    /// CA certificates (PEM) to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether the newest readings go before the backlog after an outage.
    pub live_first: bool,
}

/// The name of a sink: as a [`DeviceId`], so that it can stand in a key and a log line.
pub type SinkName = DeviceId;

/// How a sink is spoken to.
#[derive(Debug, Clone, PartialEq)]
pub enum SinkKind {
    /// A ThingSpeak channel.
    ThingSpeak(ThingSpeak),
    /// A Supabase (PostgREST) table.
    Supabase(Supabase),
}

/// A ThingSpeak channel, written in bulk.
#[derive(Debug, Clone, PartialEq)]
pub struct ThingSpeak {
    /// `https://api.thingspeak.com`, or a server that speaks the same.
    pub url: String,
    /// The channel's number.
    pub channel: u64,
    /// Its write key.
    pub write_key: Secret,
    /// Which value goes where.
    pub fields: Vec<ThingSpeakMapping>,
    /// Entries a call: at most 960 on a free licence, 14,400 on a paid one.
    pub max_entries: usize,
    /// Between two calls: 15 s on every licence.
    pub interval: Duration,
    /// Two values of one field in one second, the finest time that a channel keeps.
    pub collision: Collision,
    /// Readings of this span become one entry with their mean.
    pub average: Option<Duration>,
    /// Messages a year that the licence allows: 3 million free.
    pub yearly_allowance: u64,
}

/// Which value goes into which part of a ThingSpeak entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThingSpeakMapping {
    /// The stream; `None` for any.
    pub stream: Option<String>,
    /// The device; `None` for any.
    pub device: Option<DeviceId>,
    /// The path in a JSON payload; empty for the payload itself (`number` and `text` streams).
    pub path: String,
    /// Where it goes.
    pub to: ThingSpeakTarget,
}

/// A part of a ThingSpeak entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ThingSpeakTarget {
    /// `field1` to `field8`.
    Field(u8),
    /// `latitude`.
    Latitude,
    /// `longitude`.
    Longitude,
    /// `elevation`.
    Elevation,
    /// `status`.
    Status,
}

/// What becomes of two values of one field in one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Collision {
    /// Numbers are averaged; of texts the last one stays. Nothing counts as dropped.
    Average,
    /// The first one stays; the others are dropped, counted.
    First,
    /// The last one stays; the others are dropped, counted.
    Last,
}

/// A Supabase table.
#[derive(Debug, Clone, PartialEq)]
pub struct Supabase {
    /// `https://<ref>.supabase.co`, or the base of another PostgREST with `rest_path`.
    pub url: String,
    /// `/rest/v1` on Supabase.
    pub rest_path: String,
    /// The key: `sb_secret_…`, `sb_publishable_…` or a legacy JWT.
    pub key: Secret,
    /// A JWT of the role to act for, when that is not the key's.
    pub token: Option<Secret>,
    /// The schema; `None` for the first that is exposed.
    pub schema: Option<String>,
    /// The table.
    pub table: String,
    /// What a row is made of.
    pub rows: SupabaseRows,
    /// Rows a request: PostgREST has no bound, hosted Supabase's is unknown; it is halved on 413 and 57014.
    pub max_rows: usize,
    /// Bytes a request.
    pub max_bytes: usize,
    /// Between two batches; the search for a row that was refused does not wait for it.
    pub interval: Duration,
}

/// What a row is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SupabaseRows {
    /// `packaging/supabase/schema.sql`: the whole reading, its payload as `jsonb`.
    Whole,
    /// The key columns, and a column for each of these.
    Columns(Vec<ColumnMapping>),
}

/// Which value goes into which column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnMapping {
    /// The column.
    pub column: String,
    /// What goes in.
    pub value: ColumnValue,
}

/// What goes into a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnValue {
    /// A value of the payload, by its path; empty for the payload itself.
    Payload(String),
    /// The device's name.
    Device,
    /// The stream's name.
    Stream,
    /// The topic.
    Topic,
    /// The time of receipt.
    Time,
    /// `synchronized`, `corrected` or `unsynchronized`.
    Clock,
}
