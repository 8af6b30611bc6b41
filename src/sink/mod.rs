//! Where readings go: the trait that a forwarder drives, and one module a service.
//!
//! A sink does two things, kept apart so that the first can be tested without a network: it *plans* (which
//! readings become which rows of a request, which can never go and why, which must wait), and it *sends* rows.
//! A row is never split and, once planned, always has the same bytes: sending it again is harmless wherever
//! the far side keeps one row a key (Supabase) or one entry a second (ThingSpeak).
//!
//! An error says what to do next, see [`SendError`]. What the far side answers is believed only when the
//! reply has the shape that the service documents: a captive portal says 200 to everything.

pub(crate) mod http;
pub(crate) mod pace;
mod payload;
pub mod supabase;
pub mod thingspeak;

use std::future::Future;
use std::time::Duration;

use crate::clock::{Clock, TimeQuality};
use crate::config;
use crate::message::{DeviceId, Reading, Seq};

pub use supabase::SupabaseSink;
pub use thingspeak::ThingSpeakSink;

/// A service that readings are forwarded to.
pub trait Sink: Send + 'static {
    /// What one request may hold, and how often one may be sent.
    fn bounds(&self) -> Bounds;

    /// Decides what becomes of the readings of a batch, without a side effect that anybody could see.
    fn plan(&mut self, batch: &Batch<'_>) -> Plan;

    /// Sends rows in one request. Rows that were accepted are remembered where the service needs it.
    fn send(&mut self, rows: &[Row]) -> impl Future<Output = Result<Accepted, SendError>> + Send;

    /// Something that the operator should know, such as an allowance that will not last.
    fn remark(&self) -> Option<String> {
        None
    }
}

/// What one request may hold, and how often one may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Rows a request, at least 1.
    pub max_rows: usize,
    /// Readings that are looked at for one request: several may become one row.
    pub max_readings: usize,
    /// Bytes of readings that are looked at for one request.
    pub max_bytes: usize,
    /// From the end of one batch's last request to the start of the next one's first.
    pub interval: Duration,
    /// From the end of one request to the start of the next of the same batch: what the service demands.
    pub spacing: Duration,
}

/// A reading with its true time, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimedReading {
    /// The reading.
    pub reading: Reading,
    /// When it was received, milliseconds since 1970-01-01 UTC.
    pub at_ms: i64,
    /// What that time is worth.
    pub quality: TimeQuality,
}

/// Readings to plan with.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// In the order in which they are to go. Where `seq` falls, live readings end and the backlog begins.
    pub readings: &'a [TimedReading],
    /// Whether more wait behind the last one.
    pub behind: Behind,
    /// The wall clock, milliseconds since 1970-01-01 UTC.
    pub now_ms: i64,
    /// Rows to plan at most.
    pub max_rows: usize,
}

/// What waits behind the last reading of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// Nothing.
    Nothing,
    /// More, which a larger batch or the next one will show.
    More,
    /// More, but a batch cannot get larger: planning has to make do with these.
    OutOfReach,
}

/// What becomes of the readings of a batch. One that appears nowhere in it waits for a later plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What to send, in this order.
    pub rows: Vec<Row>,
    /// Readings that will never go, and why.
    pub dropped: Vec<(Seq, Unsent)>,
    /// When there is nothing to send yet: how long until there may be.
    pub wait: Option<Duration>,
}

/// One object of a request's JSON array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The object as JSON text.
    pub text: String,
    /// Its time, seconds since 1970-01-01 UTC.
    pub at_s: i64,
    /// The readings that it carries: delivered when the row is accepted.
    pub carried: Vec<Seq>,
    /// Readings that lost a value to another one of the row's: a [`Unsent::Collision`] when it is accepted.
    pub lost: Vec<Seq>,
}

/// Why a reading will never go to a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unsent {
    /// Nothing in it maps to the sink's fields.
    NothingMapped,
    /// Another reading took the same second.
    Collision,
    /// The sink cannot hold it, for this reason.
    Unfit(String),
}

/// What the far side made of rows that it accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// They are stored.
    Stored,
    /// They were taken in; whether they will be stored is never said.
    Queued,
}

/// Why rows were not accepted, by what to do next. The texts hold no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The same rows again, later; whether they arrived may be unknown.
    #[error("{why}")]
    Retry {
        /// What the far side asked for.
        after: Option<Duration>,
        /// What happened.
        why: String,
    },
    /// No answer in time: again later, with fewer rows, for ever.
    #[error("{why}")]
    Slow {
        /// What happened.
        why: String,
    },
    /// Again a few times; then it was no passing trouble.
    #[error("{why}")]
    Doubtful {
        /// How many times the rows are sent again.
        retries: u32,
        /// What it was when those did not help either.
        then: Then,
        /// What happened.
        why: String,
    },
    /// Half as many rows, at once.
    #[error("{why}")]
    TooLarge {
        /// Whether the service documents this as the fault of the size. If not, a row that is too large alone is
        /// given up only when it fails before and after others were accepted: a locked table is slow for all.
        known: bool,
        /// What happened.
        why: String,
    },
    /// A row is at fault: halve the request until it is found.
    #[error("{why}")]
    Refused {
        /// Whether the service documents this as the fault of a row. If not, a row is given up only when
        /// others of its batch were accepted.
        known: bool,
        /// What happened.
        why: String,
    },
    /// No row is at fault and waiting will not help: pause, keep queueing, raise an alarm, try slowly.
    #[error("{why}")]
    Hold {
        /// What is wrong, for the operator.
        why: String,
    },
}

/// What a doubtful refusal turns into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// [`SendError::Refused`], not known to be a row's fault.
    Refused,
    /// [`SendError::Hold`].
    Hold,
    /// Of several rows: halve. Of one: it is there already.
    Duplicate,
}

/// Why a sink cannot be set up. Each names the setting.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The URL is none.
    #[error("url {url:?}: {why}")]
    Url {
        /// As configured.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The key holds a character that cannot stand in an HTTP header.
    #[error("the key holds a character that cannot stand in an HTTP header")]
    Key,
    /// The CA file cannot be used.
    #[error("ca_file {path}: {why}")]
    CaFile {
        /// As configured.
        path: std::path::PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The HTTP client cannot be made.
    #[error("the HTTP client cannot be set up: {0}")]
    Client(String),
}

/// Any of the sinks.
#[derive(Debug)]
pub enum AnySink {
    /// A ThingSpeak channel.
    ThingSpeak(ThingSpeakSink),
    /// A Supabase table.
    Supabase(SupabaseSink),
}

/// Makes the sink that the settings ask for. `streams` tells how payloads are to be read.
///
/// # Errors
/// When a setting cannot be used; nothing is sent yet.
pub fn open(
    settings: &config::Sink,
    streams: &[config::Stream],
    gateway: &DeviceId,
    clock: &Clock,
) -> Result<AnySink, SinkError> {
    let http = http::Http::new(&http::Settings::of(settings), clock)?;
    let formats = payload::Formats::new(streams);
    Ok(match &settings.kind {
        config::SinkKind::ThingSpeak(kind) => AnySink::ThingSpeak(ThingSpeakSink::new(kind, formats, http)?),
        config::SinkKind::Supabase(kind) => {
            AnySink::Supabase(SupabaseSink::new(kind, formats, gateway, http)?)
        }
    })
}

impl Sink for AnySink {
    fn bounds(&self) -> Bounds {
        match self {
            Self::ThingSpeak(sink) => sink.bounds(),
            Self::Supabase(sink) => sink.bounds(),
        }
    }

    fn plan(&mut self, batch: &Batch<'_>) -> Plan {
        match self {
            Self::ThingSpeak(sink) => sink.plan(batch),
            Self::Supabase(sink) => sink.plan(batch),
        }
    }

    async fn send(&mut self, rows: &[Row]) -> Result<Accepted, SendError> {
        match self {
            Self::ThingSpeak(sink) => sink.send(rows).await,
            Self::Supabase(sink) => sink.send(rows).await,
        }
    }

    fn remark(&self) -> Option<String> {
        match self {
            Self::ThingSpeak(sink) => sink.remark(),
            Self::Supabase(sink) => sink.remark(),
        }
    }
}

#[cfg(test)]
mod testing {
    //! Readings for the tests of planning.

    use bytes::Bytes;

    use super::TimedReading;
    use crate::clock::TimeQuality;
    use crate::config::{DeviceSource, PayloadFormat, Stream};
    use crate::message::{BootId, ClockQuality, DeviceId, Qos, Reading, Seq, Stamp, TopicFilter};

    pub(super) fn reading(seq: Seq, payload: &[u8]) -> Reading {
        let received =
            Stamp { wall_ms: 0, boot_ms: 0, boot: BootId([0; 16]), quality: ClockQuality::Synchronized };
        Reading {
            seq,
            epoch: 1,
            device: DeviceId::parse("esp").unwrap(),
            stream: "air".into(),
            topic: "esp/air".into(),
            payload: Bytes::copy_from_slice(payload),
            qos: Qos::AtLeastOnce,
            received,
            fault: None,
        }
    }

    pub(super) fn timed(seq: Seq, payload: &str, at_ms: i64) -> TimedReading {
        TimedReading { reading: reading(seq, payload.as_bytes()), at_ms, quality: TimeQuality::Synchronized }
    }

    pub(super) fn number_stream(name: &str) -> Stream {
        Stream {
            name: name.to_owned(),
            filter: TopicFilter::parse("#").unwrap(),
            device: DeviceSource::Certificate,
            format: PayloadFormat::Number,
            fields: Vec::new(),
            integrity: None,
            open_to: Vec::new(),
        }
    }
}
