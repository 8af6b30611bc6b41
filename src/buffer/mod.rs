//! The store on disk: readings are acknowledged after they are in it, and wait in it until every sink has them. What the
//! broker keeps beside them (sessions, messages for them, retained messages) are records, in the same commits.
//!
//! ```text
//! Writer ──submit──▶ open group ──swap──▶ store thread ══ batch, flush, fdatasync ══▶ mark ──▶ acks
//!                                            │    ▲
//!                                   blocks   ▼    │ settle: cursors, dead letters
//!                                          Reader (one a sink)
//! ```
//!
//! # What must stay true
//!
//! 1. **Acked is on disk** (P1). [`Writer::durable`] tells the newest group that is. It moves only after the batch was applied, flushed *and* synced.
//!    Any error latches: nothing moves until the store was opened and checked again. After a failed sync the page
//!    cache proves nothing: the store is copied into a new one before anything is acknowledged.
//! 2. **Conserved** (P2). A cursor stores which numbers are settled and how; what is pending is the complement. Both
//!    are one record, so that no crash can part them.
//! 3. **Numbers are never used twice.** Sequence numbers count 1, 2, 3 …; each opening raises the epoch, on disk before
//!    the first append. A disk that lied about a sync can lose numbers, but a number given again has another epoch.
//! 4. **Nothing is removed before the cursors that allow it are on disk**; what was removed is on record, so that
//!    a block that is missing otherwise is known to be damage.
//! 5. **Damage is named, and never in the way** (P5). What cannot be trusted is set aside and searched for
//!    every sound frame; what is gone is reported in numbers, rather too many than too few, and settled as
//!    [`DropReason::Damaged`].
//! 6. **A backlog costs disk, nothing else** (P6). Nothing here grows with what waits, and nothing scans it at opening.
//! 7. **A reading and its changes are on disk together or not at all.** They are in one section of their group, and a
//!    section is one atomic batch. Of several changes of a record in a section the last one counts.
//! 8. **A record that was removed stays removed**, whatever power cuts, failed syncs and full disks do. Only when the
//!    store is so damaged that its index cannot be read, older values come back: what must not come back has to tell its
//!    age by itself. Each value carries the generation of its commit, and a salvage takes the newest that is whole.
//!
//! # Format
//!
//! One sled tree. Every change is one atomic batch, and carries the state record, so that the facts about the
//! store are always those of its content.
//!
//! | Key | Value |
//! |---|---|
//! | `b` first number (8, big-endian) part (2) | block of readings: `block` |
//! | `c` sink | cursor: `cursor` |
//! | `d` number (8) sink NUL part (2) | dead letter: `letter` |
//! | `mstate` | end, epoch, totals, and what was removed: `ledger` |
//! | `r` table (1) length of the key (1) key part (2) | record: `record` |
//! | `mgaps`, `mboots` | numbers lost to damage; clock offsets by boot |
//!
//! Every value is a frame with its own key and a CRC-32C (`frame`) of at most 6 KiB: what is larger is cut. The files around the
//! store are described in `disk`. What was added later (records, QoS 2, numbers at the end of the state) left the frames'
//! version as it is: an older store opens, and an older program does not see the records. Only `store` knows that it is sled; `docs/decisions/0002-sled-in-blocks.md` says
//! what must be done so that it keeps its word.
//!
//! # Threads
//!
//! One thread owns the store (`thread`); it may block, nothing else here does. Another one watches that it does not block
//! for ever (`watchdog`). Writers and readers meet it under two
//! short locks: the intake (`intake`) and the ledger (`ledger`). Neither is ever held across a disk access or an await.

mod block;
mod commit;
mod cursor;
mod disk;
mod frame;
mod group;
mod intake;
mod ledger;
mod letter;
mod look;
mod open;
mod ranges;
mod reader;
mod record;
mod salvage;
mod shrink;
mod space;
mod store;
mod survivors;
mod thread;
mod value;
mod watchdog;
mod writer;

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod record_tests;
#[cfg(test)]
mod salvage_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trouble_tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

pub use self::look::Look;
pub use self::reader::Reader;
pub use self::record::{RecordKey, Table};
use self::thread::{Command, Hub};
pub(crate) use self::value::{Decoder, Encoder};
pub use self::watchdog::Stuck;
pub use self::writer::Writer;
use crate::config;
use crate::message::{BootId, Reading, Seq};

/// While the store is in trouble it is asked again after this time.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// A record's key, without its table, and its value.
pub type Record = (Box<[u8]>, Vec<u8>);

/// What `open` found: shown in the log, in `buffer status` and by the API.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct OpenReport {
    /// Human sentences: what was damaged, what was done, which sequence numbers are missing.
    pub findings: Vec<String>,
    /// Ranges of sequence numbers (inclusive) that were accepted once and are lost to damage. Where the records of
    /// what was removed are damaged, too, delivered readings may be among them; lost ones are never left out.
    pub gaps: Vec<(Seq, Seq)>,
}

/// Why there is no buffer at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the store open.
    #[error("another tampu has this buffer open: {0}")]
    Locked(PathBuf),
    /// The directory cannot be used.
    #[error("buffer {path}: {source}")]
    Io {
        /// The buffer's directory.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The disk does not answer. The thread that asked it is still there, and has the store locked.
    #[error("buffer {path}: {stuck}")]
    Stuck {
        /// The buffer's directory.
        path: PathBuf,
        /// Where it stands.
        stuck: Stuck,
    },
}

/// Handle over the one thread that owns the store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Buffer(Arc<Handle>);

/// When the last handle goes, the buffer closes by itself.
#[derive(Debug)]
struct Handle(Arc<Hub>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.intake.close();
    }
}

impl Buffer {
    /// Opens or creates the store; damage never makes this fail (P5): it is set aside and reported.
    /// `sinks`: those configured now; each gets a cursor. Blocking; call it before the runtime is busy.
    ///
    /// # Errors
    /// When another process has it open, or the directory cannot be used at all, or the disk does not answer.
    pub fn open(
        dir: &Path,
        settings: &config::Buffer,
        sinks: &[config::SinkName],
    ) -> Result<(Self, OpenReport), OpenError> {
        thread::start(dir, settings, sinks)
    }

    /// A handle that appends: one a connection or other producer.
    #[must_use]
    pub fn writer(&self) -> Writer {
        Writer::new(Arc::clone(&self.0))
    }

    /// A handle that reads: one a sink. `None` when the sink was not named to `open`, or its reader is taken.
    #[must_use]
    pub fn reader(&self, sink: &config::SinkName) -> Option<Reader> {
        Reader::new(Arc::clone(&self.0), sink)
    }

    /// A snapshot that costs nothing: no disk access.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = self.0.0.ledger.status();
        status.trouble = status.trouble.or_else(|| self.0.0.pulse.slow());
        status
    }

    /// The newest dead letters, at most `limit`; none while the store is in trouble.
    ///
    /// # Errors
    /// [`Closed`] when the buffer has ended.
    pub async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, Closed> {
        self.dead_letters_before(None, limit).await
    }

    /// As [`Buffer::dead_letters`], of those before the one with this number and sink (empty: unfit for any).
    ///
    /// # Errors
    /// As there.
    pub async fn dead_letters_before(
        &self,
        before: Option<(Seq, String)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, Closed> {
        let (reply, letters) = oneshot::channel();
        self.0.0.ask(Command::DeadLetters { before, limit, reply }).await?;
        Ok(self.0.0.answer(letters).await?.unwrap_or_default())
    }

    /// Wall minus boot clock in milliseconds, by boot, as far as it was ever known (P7). The newest 64 boots.
    #[must_use]
    pub fn boot_offsets(&self) -> BTreeMap<BootId, i64> {
        self.0.0.ledger.book().boots.iter().copied().collect()
    }

    /// Keeps a boot's offset; on disk when this resolves, unless the store is in trouble (then soon after).
    ///
    /// # Errors
    /// [`Closed`] when the buffer has ended.
    pub async fn set_boot_offset(&self, boot: BootId, offset_ms: i64) -> Result<(), Closed> {
        self.0.0.ledger.book().set_boot(boot, offset_ms);
        let (reply, written) = oneshot::channel();
        self.0.0.ask(Command::Write { reply }).await?;
        self.0.0.answer(written).await?;
        Ok(())
    }

    /// All records of a table, in order of their keys, as they are on disk: what was submitted and is not durable yet is
    /// not in it. Waits until the store is open.
    ///
    /// # Errors
    /// [`Closed`] when the buffer has ended.
    pub async fn records(&self, table: Table) -> Result<Vec<Record>, Closed> {
        loop {
            let (reply, records) = oneshot::channel();
            self.0.0.ask(Command::Records { table, reply }).await?;
            if let Some(records) = self.0.0.answer(records).await? {
                return Ok(records);
            }
            // The store is in trouble.
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Commits what is open, moves cursors, syncs, ends the thread. Later calls answer `Closed`.
    /// Returns as well when the thread stands still: [`Buffer::ended`] tells.
    pub async fn close(&self) {
        self.0.0.intake.close();
        self.ended().await.ok();
    }

    /// Resolves when the store's thread has ended, whether it was told to or not.
    ///
    /// # Errors
    /// When it stands still instead, for `stuck_after` at least: it can be neither joined nor ended, and holds the
    /// store. All that is left is to end the process.
    pub async fn ended(&self) -> Result<(), Stuck> {
        self.0.0.ended().await
    }
}

/// The buffer has ended: nothing will be committed or read any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the buffer is closed")]
pub struct Closed;

/// How far something is from the disk: on it when [`Writer::durable`] is there. Marks of one opening of the buffer can be
/// compared; the default one is that of nothing, for which nobody needs to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mark(u64);

#[cfg(test)]
impl Mark {
    /// For tests that need several.
    pub(crate) fn new(group: u64) -> Self {
        Self(group)
    }
}

/// What was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Receipt {
    /// When it is on disk.
    pub mark: Mark,
    /// The reading's number, if there was one.
    pub seq: Option<Seq>,
}

/// A change of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The record has this value from now on, whether it was there before or not.
    Put(RecordKey, Vec<u8>),
    /// The record is no longer there, if it was.
    Remove(RecordKey),
}

/// Whether somebody waits for the ack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Yes, and it cannot wait for company: the group closes at once. Each costs a commit of its own.
    Now,
    /// Yes: the group closes when this is `ack_delay` old.
    ForAck,
    /// No (QoS 0, and what need not be undone): the group may stay open until this is `qos0_window` old.
    Nobody,
}

/// Why nothing was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Full under `refuse_new`, or the open group has reached its memory bound (disk slower than publishers),
    /// or the store is latched after an error. `room()` resolves when it is worth trying again.
    #[error("the buffer has no room")]
    Full,
    /// The buffer has ended.
    #[error("the buffer is closed")]
    Closed,
}

/// How much one answer of a [`Reader`] may hold. It holds at least one reading.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Readings.
    pub max_readings: usize,
    /// Bytes of topics and payloads.
    pub max_bytes: usize,
}

/// What became of a reading at a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The far side has it.
    Delivered,
    /// It will not go there.
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

/// A reading that nobody, or one sink, could use.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The reading as it was stored.
    pub reading: Reading,
    /// What was wrong with it.
    pub reason: String,
    /// The sink that refused it; `None`: unfit on arrival.
    pub sink: Option<config::SinkName>,
}

/// Figures, exact at one instant.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Status {
    /// Readings ever accepted: the highest sequence number on disk.
    pub accepted: u64,
    /// The oldest number that is still stored, or the next one when none is.
    pub oldest_seq: Seq,
    /// Stored blocks (a reading of more than about 6 KiB compressed takes several).
    pub blocks: u64,
    /// Bytes of live blocks.
    pub live_bytes: u64,
    /// Bytes of files on disk, as of about the last second.
    pub disk_bytes: u64,
    /// Commits since the opening, each with one fdatasync.
    pub commits: u64,
    /// QoS 0 publishes that were refused because the buffer was full.
    pub refused_full: u64,
    /// Dead letters that are kept.
    pub dead_letters: u64,
    /// Dead letters that made room for newer ones.
    pub dead_letters_evicted: u64,
    /// `None` when healthy; otherwise what keeps the store from committing.
    pub trouble: Option<String>,
    /// Inclusive ranges of numbers that were accepted and lost to damage, as in [`OpenReport::gaps`].
    pub gaps: Vec<(Seq, Seq)>,
    /// By the name of the sink.
    pub sinks: BTreeMap<String, SinkFigures>,
}

/// One sink's figures: `accepted` is `delivered`, `pending` and all of `dropped` together.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct SinkFigures {
    /// Readings that were this sink's business.
    pub accepted: u64,
    /// The far side has them.
    pub delivered: u64,
    /// Waiting.
    pub pending: u64,
    /// Not sent, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
}
