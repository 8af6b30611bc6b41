//! Wills: what a client leaves to be published when it is gone without a word (section 3.1.2.5).
//!
//! While the client is connected its session has the will. [`fate`] says what becomes of it then; one that waits
//! for its delay is here, under the number of its session: until that is resumed, has ended, or the delay is over.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::message::{decode_properties, encode_properties, properties_cost};
use super::wire::Will;
use crate::buffer::{Decoder, Encoder};
use crate::message::Topic;

/// Bytes of all wills that wait. One more is published without its delay.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// What a will costs besides its bytes.
const OVERHEAD_BYTES: usize = 256;

/// How a connection ended, as its will sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Departure {
    /// The client said that it goes, and did not ask for its will: DISCONNECT with reason 0x00.
    Goodbye,
    /// A newer connection goes on with the session.
    Resumed,
    /// The session goes on without a connection for so long.
    Away(Duration),
    /// The session has ended with the connection, or another was started in its place.
    Ended,
}

/// What becomes of a will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is published.
    Publish,
    /// It is published after so long, if the session is not resumed before.
    Wait(Duration),
    /// It is not published.
    Void,
}

/// What becomes of a will with a delay, in seconds, when its connection has ended (MQTT-3.1.2-8, MQTT-3.1.2-10,
/// MQTT-3.1.3-9; for a newer connection, section 3.1.4 of MQTT 5). In 3.1.1 the delay is 0.
pub(super) fn fate(delay: u32, departure: Departure) -> Fate {
    match (departure, delay) {
        (Departure::Goodbye, _) => Fate::Void,
        (Departure::Ended, _) | (_, 0) => Fate::Publish,
        (Departure::Resumed, _) => Fate::Void,
        // The end of the session is the latest moment.
        (Departure::Away(session), delay) => match Duration::from_secs(delay.into()).min(session) {
            Duration::ZERO => Fate::Publish,
            wait => Fate::Wait(wait),
        },
    }
}

/// Wills that wait, by session. `W`: what it takes to publish one.
#[derive(Debug)]
pub(super) struct Wills<W>(Mutex<Waiting<W>>);

#[derive(Debug)]
struct Waiting<W> {
    by_session: BTreeMap<u64, Entry<W>>,
    /// When, in milliseconds of the boot clock, and whose.
    by_time: BTreeSet<(u64, u64)>,
    bytes: usize,
    /// Wills that waited once more. Sessions, which are counted from 1, never get as far as the numbers of these.
    retried: u64,
}

#[derive(Debug)]
struct Entry<W> {
    will: W,
    due_ms: u64,
    bytes: usize,
}

impl<W> Default for Wills<W> {
    fn default() -> Self {
        let (by_session, by_time) = (BTreeMap::new(), BTreeSet::new());
        Self(Mutex::new(Waiting { by_session, by_time, bytes: 0, retried: 0 }))
    }
}

impl<W> Wills<W> {
    /// Lets a will that [`cost`]s so many bytes wait until `due_ms` on the boot clock. It replaces one of the same session.
    ///
    /// # Errors
    /// When there is no room: it is to be published at once.
    pub(super) fn arm(&self, session: u64, will: W, bytes: usize, due_ms: u64) -> Result<(), W> {
        let mut waiting = self.waiting();
        waiting.take(session);
        if waiting.bytes.saturating_add(bytes) > MAX_BYTES {
            return Err(will);
        }
        waiting.bytes += bytes;
        waiting.by_time.insert((due_ms, session));
        waiting.by_session.insert(session, Entry { will, due_ms, bytes });
        Ok(())
    }

    /// Lets a will that is due, and cannot be published now, wait a little longer. Its session may be gone, or have
    /// another one by now.
    ///
    /// # Errors
    /// When there is no room: it is lost.
    pub(super) fn retry(&self, will: W, bytes: usize, due_ms: u64) -> Result<(), W> {
        let mut waiting = self.waiting();
        waiting.retried += 1;
        let nobody = u64::MAX - waiting.retried;
        drop(waiting);
        self.arm(nobody, will, bytes, due_ms)
    }

    /// Takes the will of a session: to drop it when the session is resumed, to publish it when it ends.
    pub(super) fn take(&self, session: u64) -> Option<W> {
        self.waiting().take(session)
    }

    /// Takes the wills whose time has come, the earliest first.
    pub(super) fn due(&self, now_ms: u64) -> Vec<(u64, W)> {
        let mut waiting = self.waiting();
        let mut due = Vec::new();
        while let Some((due_ms, session)) = waiting.by_time.first().copied()
            && due_ms <= now_ms
        {
            due.extend(waiting.take(session).map(|will| (session, will)));
        }
        due
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting().by_session.len()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting<W>> {
        self.0.lock().expect("no panic under this lock")
    }
}

impl<W> Waiting<W> {
    fn take(&mut self, session: u64) -> Option<W> {
        let Entry { will, due_ms, bytes } = self.by_session.remove(&session)?;
        self.by_time.remove(&(due_ms, session));
        self.bytes -= bytes;
        Some(will)
    }
}

/// What a will costs in memory.
pub(super) fn cost(will: &Will) -> usize {
    let properties = will.properties.as_deref().map_or(0, properties_cost);
    OVERHEAD_BYTES + will.topic.len() + will.payload.len() + properties
}

/// Appends a will to a record, for the reader of [`decode`].
pub(super) fn encode<'a>(record: &'a mut Encoder, will: &Will) -> &'a mut Encoder {
    record
        .text(&will.topic)
        .bytes(&will.payload)
        .u8(will.qos as u8)
        .u8(will.retain.into())
        .u32(will.delay)
        .option(will.properties.as_deref(), encode_properties)
}

/// Reads a will from a record.
pub(super) fn decode(record: &mut Decoder<'_>) -> Option<Will> {
    let will = Will {
        topic: record.owned_text()?,
        payload: record.owned_bytes()?,
        qos: record.qos()?,
        retain: record.flag()?,
        delay: record.u32()?,
        properties: record.option(decode_properties)?,
    };
    Topic::check(&will.topic).is_ok().then_some(will)
}
