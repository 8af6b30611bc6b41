//! The store on disk: `Writer` and `Reader` handles over it. (Skeleton: the API that others build on.)
#![allow(missing_docs, unused_variables, clippy::todo)]

use std::collections::BTreeMap;
use std::path::Path;

use crate::config;
use crate::message::{BootId, Incoming, Reading, Seq};

/// Handle over the one thread that owns the store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Buffer;

/// What `open` found: shown in the log, in `buffer status` and by the API.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct OpenReport {
    /// Human sentences: what was damaged, what was done, which sequence numbers are missing.
    pub findings: Vec<String>,
    /// Exact ranges of sequence numbers (inclusive) that were accepted once and cannot be read any more.
    pub gaps: Vec<(Seq, Seq)>,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the store open.
    #[error("another tampu has this buffer open: {0}")]
    Locked(std::path::PathBuf),
    #[error("buffer {path}: {source}")]
    Io { path: std::path::PathBuf, source: std::io::Error },
}

impl Buffer {
    /// Opens or creates the store; damage never makes this fail (P5): it is set aside and reported.
    /// `sinks`: those configured now; each gets a cursor. Blocking; call it before the runtime is busy.
    pub fn open(
        dir: &Path,
        settings: &config::Buffer,
        sinks: &[config::SinkName],
    ) -> Result<(Buffer, OpenReport), OpenError> {
        todo!()
    }
    /// One a connection (or other producer).
    pub fn writer(&self) -> Writer {
        todo!()
    }
    /// One a sink; `None` when the sink was not named to `open`, or its reader is taken.
    pub fn reader(&self, sink: &config::SinkName) -> Option<Reader> {
        todo!()
    }
    /// A snapshot that costs nothing: no disk access.
    pub fn status(&self) -> Status {
        todo!()
    }
    /// The newest dead letters, at most `limit`.
    pub async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, Closed> {
        todo!()
    }
    /// Wall minus boot clock, by boot, as far as it was ever known (P7). Bounded to the newest 64 boots.
    pub fn boot_offsets(&self) -> BTreeMap<BootId, i64> {
        todo!()
    }
    pub async fn set_boot_offset(&self, boot: BootId, offset_ms: i64) -> Result<(), Closed> {
        todo!()
    }
    /// Commits what is open, moves cursors, syncs, ends the thread. Later calls answer `Closed`.
    pub async fn close(&self) {
        todo!()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the buffer is closed")]
pub struct Closed;

/// Whether somebody waits for the ack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    ForAck,
    Nobody,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Full under `refuse_new`, or the open group has reached its memory bound (disk slower than publishers),
    /// or the store is latched after an error. `room()` resolves when it is worth trying again.
    #[error("the buffer has no room")]
    Full,
    #[error("the buffer is closed")]
    Closed,
}

/// Appends readings. One a connection: it carries that connection's waiting state.
#[derive(Debug)]
pub struct Writer;

impl Writer {
    /// Puts a reading into the open group: never blocks, no allocation in the steady state.
    /// It is on disk when `durable() >= seq`.
    pub fn submit(&mut self, reading: &Incoming<'_>, wait: Wait) -> Result<Seq, SubmitError> {
        todo!()
    }
    /// Counts a QoS 0 publish that was refused because of `Full`.
    pub fn count_refused(&self) {
        todo!()
    }
    /// Everything up to here is fdatasync'ed.
    pub fn durable(&self) -> Seq {
        todo!()
    }
    /// Resolves when `durable() >= seq`. Cancel-safe. Wakes only the connections that have something in the group.
    pub async fn until_durable(&self, seq: Seq) -> Result<(), Closed> {
        todo!()
    }
    /// Resolves when a submit may succeed again. Cancel-safe.
    pub async fn room(&self) {
        todo!()
    }
    /// submit, waiting for room, then until_durable.
    pub async fn append(&mut self, reading: &Incoming<'_>) -> Result<Seq, Closed> {
        todo!()
    }
}

/// Reads for one sink and moves its cursor.
#[derive(Debug)]
pub struct Reader;

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_readings: usize,
    pub max_bytes: usize,
}

/// What became of a reading at a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Delivered,
    Dropped(DropReason),
    /// Dropped, and kept as a dead letter with this text.
    DeadLetter(String),
}

/// Why readings were dropped for a sink. P2: accepted = delivered + pending + sum of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// Made room under `drop_oldest`.
    BufferFull,
    /// Older than `max_age`.
    TooOld,
    /// The store was damaged here.
    Damaged,
    /// The payload was unfit for any sink (dead-lettered when it came).
    Unfit,
    /// The far side refused this very reading (dead-lettered).
    Rejected,
    /// The sink takes other streams.
    NotSelected,
    /// Nothing in it maps to the sink's fields.
    NothingMapped,
    /// Another value took the same second (ThingSpeak).
    Collision,
    /// Went away while the sink was not configured.
    SinkAbsent,
}

impl Reader {
    /// The next readings to send: from the live range first, if one was split off, then the oldest. Waits until
    /// there is at least one. Skips and accounts by itself what is damaged or carries a `fault` (Unfit).
    /// Reading twice without settling gives the same readings again.
    pub async fn next(&mut self, limits: Limits) -> Result<Vec<Reading>, Closed> {
        todo!()
    }
    /// As `next`, but does not wait: empty when nothing is pending.
    pub async fn peek(&mut self, limits: Limits) -> Result<Vec<Reading>, Closed> {
        todo!()
    }
    /// Says what became of readings. The cursor and the counters move in one atomic write, which reaches
    /// the disk with the next commit or within a second. Settled readings are not given again.
    pub async fn settle(&mut self, outcomes: &[(Seq, Outcome)]) -> Result<(), Closed> {
        todo!()
    }
    /// From now on new readings go first and what waits now is the backlog. False (nothing changes) when the bounded list of
    /// ranges is used up.
    pub fn split_live(&mut self) -> bool {
        todo!()
    }
    /// Pending now, backlog part of it.
    pub fn pending(&self) -> u64 {
        todo!()
    }
    /// Resolves when there may be more than before.
    pub async fn changed(&mut self) {
        todo!()
    }
}

#[derive(Debug, Clone)]
pub struct DeadLetter {
    pub reading: Reading,
    pub reason: String,
    /** The sink that refused it; None: unfit on arrival. */
    pub sink: Option<config::SinkName>,
}

/// Figures, exact at one instant.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Status {
    /// Readings ever accepted (= the highest sequence number on disk).
    pub accepted: u64,
    pub oldest_seq: Seq,
    pub blocks: u64,
    /// Bytes of live blocks, and bytes of files on disk.
    pub live_bytes: u64,
    pub disk_bytes: u64,
    pub refused_full: u64,
    pub dead_letters: u64,
    pub dead_letters_evicted: u64,
    /// None when healthy; otherwise what keeps the store from committing.
    pub trouble: Option<String>,
    pub gaps: Vec<(Seq, Seq)>,
    pub sinks: BTreeMap<String, SinkFigures>,
}

#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct SinkFigures {
    /// accepted for this sink: delivered + pending + sum(dropped).
    pub accepted: u64,
    pub delivered: u64,
    pub pending: u64,
    pub dropped: BTreeMap<DropReason, u64>,
}
