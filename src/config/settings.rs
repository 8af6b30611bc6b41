//! The settings as the program uses them, one struct a module, with their defaults.

mod access;
mod api;
mod command_source;
mod commands;
mod firmware;
mod listener;
mod messages;
mod retained;
mod rule;
mod sessions;
mod sink;
mod supabase_commands;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use access::*;
pub use api::*;
pub use command_source::*;
pub use commands::*;
pub use firmware::*;
pub use listener::*;
pub use messages::*;
pub use retained::*;
pub use rule::*;
pub use sessions::*;
pub use sink::*;
pub use supabase_commands::*;

use super::Secret;
use crate::message::{DeviceId, TopicFilter};

/// Everything.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name of this gateway: half of the key of every reading in the cloud.
    pub gateway_id: DeviceId,
    /// Where the PKI, the buffer and the clock's floor live.
    pub data_dir: PathBuf,
    /// How logs are written.
    pub log: Log,
    /// How long SIGTERM may take to drain.
    pub shutdown_timeout: Duration,
    /// Certificates.
    pub pki: Pki,
    /// The TLS listener.
    pub listener: Listener,
    /// The listener for MQTT over WebSocket, if there is one.
    pub websocket: Option<WebSocket>,
    /// The listener without TLS, if there is one.
    pub plain: Option<Plain>,
    /// What one address may do.
    pub limits: Limits,
    /// What is kept for clients that are away or slow.
    pub sessions: Sessions,
    /// What is kept for those who subscribe later.
    pub retained: Retained,
    /// Commands for devices.
    pub commands: Commands,
    /// Text messages for phones, with the profile of the message gateway.
    pub messages: Option<Messages>,
    /// Who may do what.
    pub access: Access,
    /// Which publishes are readings.
    pub streams: Vec<Stream>,
    /// The store on disk.
    pub buffer: Buffer,
    /// Trust in the wall clock.
    pub clock: Clock,
    /// Firmware over the air.
    pub firmware: Firmware,
    /// Where readings go.
    pub sinks: Vec<Sink>,
    /// The REST API.
    pub api: Api,
    /// Where commands come from.
    pub command_sources: Vec<CommandSource>,
    /// What values bring about here, without any network.
    pub rules: Vec<Rule>,
}

/// How logs are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The form of a line.
    pub format: LogFormat,
    /// A `tracing` filter such as `info` or `tampu=debug`.
    pub level: String,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// The journal when systemd started the daemon, text otherwise.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
    /// The journal's native protocol.
    Journal,
}

/// Certificates. Without files of the operator's own, the gateway makes a CA and keeps it in `data_dir`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pki {
    /// A CA certificate that signs devices (PEM), with `ca_key` if this gateway may sign.
    pub ca_cert: Option<PathBuf>,
    /// Its key (PEM).
    pub ca_key: Option<PathBuf>,
    /// The server's certificate chain (PEM).
    pub server_cert: Option<PathBuf>,
    /// Its key (PEM).
    pub server_key: Option<PathBuf>,
    /// More DNS names and addresses for the server certificate's SANs.
    pub names: Vec<String>,
    /// Certificate revocation lists (PEM or DER) of the CA that signs devices.
    pub crl: Vec<PathBuf>,
}

/// Publishes that are readings: they are stored before they are acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// Its name, unique.
    pub name: String,
    /// Which topics.
    pub filter: TopicFilter,
    /// Where the device's name is taken from.
    pub device: DeviceSource,
    /// What a payload must be.
    pub format: PayloadFormat,
    /// Named fields, with their types. Empty: every field of a JSON object, untyped.
    pub fields: Vec<Field>,
    /// The check that a payload must pass.
    pub integrity: Option<Integrity>,
    /// Who may publish to it besides those whom the ACL lets.
    pub open_to: Vec<DeviceMatch>,
}

/// Without a `[[stream]]` in the file: what a device publishes below `{device}/readings`, as JSON.
impl Default for Stream {
    fn default() -> Self {
        Self {
            name: "readings".to_owned(),
            filter: TopicFilter::parse("+/readings/#").expect("it keeps the rules"),
            device: DeviceSource::Certificate,
            format: PayloadFormat::Json,
            fields: Vec::new(),
            integrity: None,
            open_to: Vec::new(),
        }
    }
}

/// Where the name of the device behind a reading is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceSource {
    /// The CN of the certificate (or the anonymous identity's name).
    Certificate,
    /// The MQTT client id.
    ClientId,
    /// A level of the topic, counted from 1.
    TopicLevel(usize),
}

/// What a payload must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PayloadFormat {
    /// A JSON text (RFC 8259).
    Json,
    /// A decimal number as text, finite; one trailing NUL and white space around it are forgiven.
    Number,
    /// Any UTF-8 text.
    Text,
}

/// A field of a JSON payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The path in the object, parts joined by `.`, as in `DS18B20.Temperature`.
    pub path: String,
    /// What its value must be, if it is there.
    pub kind: FieldKind,
    /// Whether a payload without it is refused.
    pub required: bool,
}

/// What the value of a field must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FieldKind {
    /// Anything.
    Any,
    /// A finite number.
    Number,
    /// A number without a fraction.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// A string.
    Text,
}

/// A check over the payload without the field that carries it. That field must be the last
/// member of the object; what is checked is every byte before the comma in front of it, and the closing brace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Integrity {
    /// The name of the field that carries the check, as a hexadecimal string.
    pub field: String,
    /// How it is computed.
    pub check: IntegrityCheck,
}

/// How a check is computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IntegrityCheck {
    /// CRC-32 (IEEE 802.3), against damage.
    Crc32,
    /// HMAC-SHA-256 with the device's key, against forgery.
    HmacSha256 {
        /// A key for each device.
        keys: BTreeMap<DeviceId, Secret>,
    },
}

/// What to do when the buffer is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FullPolicy {
    /// The oldest readings make room, counted.
    DropOldest,
    /// QoS 1 publishes stay unacknowledged until there is room; QoS 0 ones are refused, counted.
    RefuseNew,
}

/// The store on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buffer {
    /// How long a publish that waits for its ack may wait for company in its group.
    pub ack_delay: Duration,
    /// How long a QoS 0 publish, which nobody waits for, may be in memory only.
    pub qos0_window: Duration,
    /// Bytes on disk that the store may take.
    pub max_bytes: u64,
    /// Readings older than this are dropped, counted.
    pub max_age: Option<Duration>,
    /// Free space of the file system that is left to others, in bytes.
    pub min_free_bytes: u64,
    /// What to do at either bound.
    pub when_full: FullPolicy,
    /// Dead letters that are kept; beyond it the oldest goes, counted.
    pub max_dead_letters: usize,
    /// How long one access to the disk may take before the disk is given up for dead, and the process ended.
    pub stuck_after: Duration,
}

impl Default for Buffer {
    fn default() -> Self {
        Self {
            ack_delay: Duration::from_millis(50),
            qos0_window: Duration::from_secs(2),
            max_bytes: 2 * 1024 * 1024 * 1024,
            max_age: None,
            min_free_bytes: 256 * 1024 * 1024,
            when_full: FullPolicy::DropOldest,
            max_dead_letters: 10_000,
            // The kernel, too, calls a task hung that waits for a disk so long (kernel.hung_task_timeout_secs).
            stuck_after: Duration::from_secs(120),
        }
    }
}

/// Trust in the wall clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clock {
    /// How long after the start readings wait for the true time before they go on, marked.
    pub sync_wait: Duration,
    /// How to know that the wall clock is synchronised.
    pub source: ClockSource,
}

/// How to know that the wall clock is synchronised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClockSource {
    /// The kernel's `STA_UNSYNC` flag (adjtimex(2)), which every time daemon clears.
    Kernel,
    /// A file that a time daemon makes once it is, such as `/run/systemd/timesync/synchronized`.
    File(PathBuf),
    /// The operator vouches for it (a box with a good RTC).
    Trusted,
}

impl Default for Clock {
    fn default() -> Self {
        Self { sync_wait: Duration::from_secs(300), source: ClockSource::Kernel }
    }
}
