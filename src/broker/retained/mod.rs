//! Retained messages: the last one of each topic that was published with RETAIN, for who subscribes later
//! (section 3.3.1.3). They are kept in memory, and as records in the store.
//!
//! Memory and store agree because the lock is held from the decision what is to be written until that was
//! submitted: see [`Plan`]. Each message has a number of its own, which is its record's key and is never used
//! again; it stays the same while a topic's message is replaced, so that of a topic that changes all the time
//! the last one of each group of commits is written alone.

#[cfg(test)]
mod tests;
mod topics;

use std::ops::ControlFlow;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use self::topics::Topics;
use super::message::{Message, Remaining};
use crate::authorize::refusals::Refusal;
use crate::buffer::{Change, Decoder, Encoder, RecordKey, Table};
use crate::clock::Clock;
use crate::config;
use crate::message::{Topic, TopicFilter};

/// A message counts as so many bytes at least: a state that changes from "online" to "offline" fits whatever
/// else is retained.
const LEAST_BYTES: u64 = 512;

/// All retained messages.
#[derive(Debug)]
pub(super) struct Retained {
    bounds: config::Retained,
    kept: RwLock<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    topics: Topics<Entry>,
    bytes: u64,
    /// The last number that was given.
    last: u64,
}

#[derive(Debug, Clone)]
struct Entry {
    number: u64,
    message: Arc<Message>,
}

/// A change of one topic that was decided and not made. Nobody else changes or reads anything meanwhile.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    kept: RwLockWriteGuard<'a, Kept>,
    message: Arc<Message>,
    /// Of the topic's message, the one that there is or the new one.
    number: u64,
    /// What is to be written, until it is taken.
    change: Option<Change>,
}

/// Some of the messages that a filter matches.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) messages: Vec<Arc<Message>>,
    /// There are no more.
    pub(super) is_last: bool,
}

/// What became of the records of an earlier process.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// Messages that are there again.
    pub(super) messages: usize,
    /// Records that could not be read. They stay where they are.
    pub(super) unreadable: usize,
    /// What is to be removed: messages that are over, and such as another has replaced.
    pub(super) changes: Vec<Change>,
}

impl Retained {
    pub(super) fn new(bounds: config::Retained) -> Self {
        Self { bounds, kept: RwLock::default() }
    }

    /// Takes back what the store has kept. What exceeds bounds that are smaller now stays.
    ///
    /// `records`: in the order of their keys.
    pub(super) fn load(&self, records: Vec<(Box<[u8]>, Vec<u8>)>, clock: &Clock) -> Loaded {
        let mut kept = self.write();
        let mut loaded = Loaded::default();
        for (key, record) in records {
            let Ok(number) = <[u8; 8]>::try_from(&key[..]).map(u64::from_be_bytes) else {
                loaded.unreadable += 1;
                continue;
            };
            kept.last = kept.last.max(number);
            let Some(message) = decode(&record) else {
                loaded.unreadable += 1;
                continue;
            };
            if message.remaining(clock) == Remaining::Expired {
                loaded.changes.push(removal(number));
                continue;
            }
            // Two of one topic: damage has brought an older one back.
            let older = kept.put(Entry { number, message: Arc::new(message) });
            loaded.changes.extend(older.map(|older| removal(older.number)));
        }
        loaded.messages = kept.topics.len();
        loaded
    }

    /// Decides what a message that was published with RETAIN changes: it replaces that of its topic, or removes it
    /// when its payload is empty (MQTT-3.3.1-5 to 7).
    ///
    /// # Errors
    /// When it cannot be kept because of a bound. What is kept of the topic stays.
    pub(super) fn plan(&self, message: &Arc<Message>) -> Result<Plan<'_>, Refusal> {
        let record = (!message.payload.is_empty()).then(|| encode(message));
        let kept = self.write();
        let older = kept.topics.find(&message.topic);
        let number = older.map_or(kept.last + 1, |older| older.number);
        let change = match record {
            None => older.map(|older| removal(older.number)),
            Some(record) => {
                let bytes = kept.bytes - older.map_or(0, Entry::cost) + cost(message);
                let is_one_too_many = older.is_none() && kept.topics.len() >= self.bounds.max_messages;
                if is_one_too_many || bytes > self.bounds.max_bytes {
                    return Err(Refusal::RetainedFull);
                }
                Some(Change::Put(key(number), record))
            }
        };
        Ok(Plan { kept, message: Arc::clone(message), number, change })
    }

    /// The messages of topics that match and are not over: so many that they cost `max_bytes` in memory, and one at
    /// least. A subscriber that is given them piece by piece gets what is retained when its turn comes.
    ///
    /// `after`: the topic of the last one that it was given; empty for all.
    pub(super) fn matching(
        &self,
        filter: &TopicFilter,
        after: &str,
        max_bytes: usize,
        clock: &Clock,
    ) -> Piece {
        let (mut messages, mut bytes) = (Vec::new(), 0_usize);
        let walk = self.read().topics.matching(filter, after, |Entry { message, .. }| {
            if message.remaining(clock) == Remaining::Expired {
                return ControlFlow::Continue(());
            }
            bytes = bytes.saturating_add(message.cost());
            if bytes > max_bytes && !messages.is_empty() {
                return ControlFlow::Break(());
            }
            messages.push(Arc::clone(message));
            ControlFlow::Continue(())
        });
        Piece { messages, is_last: walk.is_continue() }
    }

    /// Forgets messages that are over (MQTT-3.3.2-5). Returns what is to be removed from the store.
    pub(super) fn sweep(&self, clock: &Clock) -> Vec<Change> {
        let is_over = |entry: &Entry| entry.message.remaining(clock) == Remaining::Expired;
        // Most often there is nothing to do, and nobody must wait for that.
        if !self.read().topics.iter().any(is_over) {
            return Vec::new();
        }
        let (mut bytes, mut changes) = (0, Vec::new());
        let mut kept = self.write();
        kept.topics.retain(|entry| {
            let is_over = is_over(entry);
            if is_over {
                bytes += entry.cost();
                changes.push(removal(entry.number));
            }
            !is_over
        });
        kept.bytes -= bytes;
        changes
    }

    /// How many there are, and what they count in bytes.
    pub(super) fn figures(&self) -> (usize, u64) {
        let kept = self.read();
        (kept.topics.len(), kept.bytes)
    }

    fn read(&self) -> RwLockReadGuard<'_, Kept> {
        self.kept.read().expect("no panic under this lock")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Kept> {
        self.kept.write().expect("no panic under this lock")
    }
}

impl Plan<'_> {
    /// What must be submitted to the store, while this is held. Nothing when there was nothing to remove.
    pub(super) fn take_change(&mut self) -> Option<Change> {
        self.change.take()
    }

    /// It was submitted: from now on it holds. Without this, nothing has changed.
    pub(super) fn carry_out(mut self) {
        if self.message.payload.is_empty() {
            self.kept.remove(&self.message.topic);
        } else {
            self.kept.last = self.kept.last.max(self.number);
            let entry = Entry { number: self.number, message: Arc::clone(&self.message) };
            self.kept.put(entry);
        }
    }
}

impl Kept {
    /// Returns what was there before.
    fn put(&mut self, entry: Entry) -> Option<Entry> {
        self.bytes += entry.cost();
        let message = Arc::clone(&entry.message);
        let older = self.topics.insert(&message.topic, entry);
        self.bytes -= older.as_ref().map_or(0, Entry::cost);
        older
    }

    fn remove(&mut self, topic: &str) {
        let older = self.topics.remove(topic);
        self.bytes -= older.as_ref().map_or(0, Entry::cost);
    }
}

impl Entry {
    fn cost(&self) -> u64 {
        cost(&self.message)
    }
}

fn cost(message: &Message) -> u64 {
    // The topic stands in the tree as well.
    ((message.cost() + message.topic.len()) as u64).max(LEAST_BYTES)
}

fn key(number: u64) -> RecordKey {
    RecordKey::new(Table::Retained, &number.to_be_bytes())
}

fn removal(number: u64) -> Change {
    Change::Remove(key(number))
}

fn encode(message: &Message) -> Vec<u8> {
    let mut record = Encoder::new();
    message.encode(&mut record);
    record.finish()
}

fn decode(record: &[u8]) -> Option<Message> {
    let mut record = Decoder::new(record)?;
    let message = Message::decode(&mut record)?;
    record.end()?;
    (Topic::check(&message.topic).is_ok() && !message.payload.is_empty()).then_some(message)
}
