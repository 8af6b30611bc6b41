//! What the store holds and how far each sink is, in memory: one lock, so that every figure belongs to one instant.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use super::cursor::{Cursor, Fate, put_ranges, take_ranges};
use super::disk::Tail;
use super::frame::{Fields, put_signed, put_varint};
use super::letter::Letter;
use super::ranges::Ranges;
use super::{DropReason, SinkFigures, Status};
use crate::config::SinkName;
use crate::message::{BootId, Seq};

/// Boots whose offset is kept.
const MAX_BOOTS: usize = 64;
/// Ranges that are recorded as gone; blocks whose removal would make one more stay a little longer.
pub(super) const MAX_REMOVED: usize = 64;
/// One of so many shares of the store is for records.
const RECORD_SHARE: u64 = 2;
/// Ranges of lost numbers that are told apart.
const MAX_GAPS: usize = 128;

/// A sink that the store knows.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) cursor: Cursor,
    /// The record on disk is behind.
    pub(super) dirty: bool,
    /// A reader exists.
    pub(super) taken: bool,
}

/// The facts that the state record keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    /// Raised with every record that is written: the newest of two is told by it.
    pub(super) generation: u64,
    pub(super) epoch: u64,
    /// One past the highest number on disk.
    pub(super) end: Seq,
    /// Values under block keys, and their bytes.
    pub(super) keys: u64,
    pub(super) live_bytes: u64,
    pub(super) letters: u64,
    pub(super) letters_evicted: u64,
    pub(super) refused_full: u64,
    /// Values under record keys, and their bytes.
    pub(super) records: u64,
    pub(super) record_bytes: u64,
    /// Numbers in the record of the gaps: a record with fewer is not the newest.
    pub(super) lost: u64,
    /// What is no longer stored, and known to be gone.
    pub(super) removed: Ranges,
}

impl State {
    /// Numbers are of fixed width: the length must not depend on what a block with this record in it adds to them.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        let numbers = [
            self.generation,
            self.epoch,
            self.end,
            self.keys,
            self.live_bytes,
            self.letters,
            self.letters_evicted,
            self.refused_full,
        ];
        numbers.into_iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
        put_ranges(&mut out, &self.removed);
        let later = [self.records, self.record_bytes, self.lost];
        later.into_iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
        out
    }

    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(body);
        let mut number = || Some(u64::from_le_bytes(fields.array()?));
        let mut state = Self {
            generation: number()?,
            epoch: number()?,
            end: number().filter(|end| *end > 0)?,
            keys: number()?,
            live_bytes: number()?,
            letters: number()?,
            letters_evicted: number()?,
            refused_full: number()?,
            removed: take_ranges(&mut fields)?,
            ..Self::default()
        };
        // Of an older version the state ends here.
        if !fields.rest().is_empty() {
            state.records = u64::from_le_bytes(fields.array()?);
            state.record_bytes = u64::from_le_bytes(fields.array()?);
            state.lost = u64::from_le_bytes(fields.array()?);
        }
        Some(state)
    }

    /// Bytes of all that lives in the store. Of the records no more counts than the share of `cap` that is theirs:
    /// readings have theirs whatever the records need.
    pub(super) fn bytes(&self, cap: u64) -> u64 {
        self.live_bytes + self.record_bytes.min(cap / RECORD_SHARE)
    }

    /// As `bytes`, in values.
    pub(super) fn values(&self, cap: u64) -> u64 {
        self.keys + self.records.min(cap / RECORD_SHARE)
    }

    /// Whether the records have used up their share.
    pub(super) fn has_many_records(&self, max_bytes: u64, max_values: u64) -> bool {
        self.record_bytes >= max_bytes / RECORD_SHARE || self.records >= max_values / RECORD_SHARE
    }

    /// The lowest number that is still stored, or the next one when nothing is.
    pub(super) fn oldest(&self) -> Seq {
        match self.removed.as_slice() {
            [(from, to), ..] if *from <= 1 => *to,
            _ => 1,
        }
    }
}

/// Everything that `Status` shows and readers need.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) state: State,
    /// The generation of the last state that was synced.
    pub(super) synced: u64,
    pub(super) gaps: Ranges,
    pub(super) sinks: BTreeMap<SinkName, Sink>,
    pub(super) letters: Vec<Letter>,
    /// Wall minus boot clock, ms; the newest last.
    pub(super) boots: Vec<(BootId, i64)>,
    /// Gaps or boots have changed.
    pub(super) facts_dirty: bool,
    pub(super) disk_bytes: u64,
    pub(super) commits: u64,
    pub(super) trouble: Option<String>,
}

impl Book {
    /// Puts `[from, to)` on record as lost.
    pub(super) fn lose(&mut self, from: Seq, to: Seq) {
        if self.gaps.ranges_with(from, to) <= MAX_GAPS {
            self.gaps.insert(from, to);
        } else if let Some((_, last)) = self.gaps.as_slice().last().copied() {
            // Too many to tell apart: the report covers more than was lost, never less.
            self.gaps.insert(from.min(last), to.max(last));
        }
        for sink in self.sinks.values_mut() {
            sink.dirty |= sink.cursor.settle(from, to, Fate::Dropped(DropReason::Damaged)) > 0;
        }
        // Beyond the bound an absent sink will look for these, and find again that they are gone.
        if self.state.removed.ranges_with(from, to) <= MAX_REMOVED + MAX_GAPS {
            self.state.removed.insert(from, to);
        }
        self.facts_dirty = true;
    }

    /// Takes over what was written; writers count refusals meanwhile, and losses are put on record.
    pub(super) fn set_state(&mut self, written: State) {
        self.state = State { refused_full: self.state.refused_full, ..written };
    }

    /// What may be told to have been acknowledged once all of `state` is synced.
    pub(super) fn tail(&self) -> Tail {
        Tail { end: self.state.end, epoch: self.state.epoch, generation: self.synced }
    }

    /// After a failed write nobody knows what of it is on disk.
    pub(super) fn mark_all_dirty(&mut self) {
        self.facts_dirty = true;
        self.sinks.values_mut().for_each(|sink| sink.dirty = true);
    }

    /// Whether something waits to be written.
    pub(super) fn is_dirty(&self) -> bool {
        self.facts_dirty || !self.letters.is_empty() || self.sinks.values().any(|sink| sink.dirty)
    }

    /// What every sink has settled and the store still holds.
    pub(super) fn removable(&self, removed: &Ranges) -> Vec<(Seq, Seq)> {
        let passed = self.sinks.values().map(|sink| sink.cursor.passed());
        let all = passed.reduce(|all, one| all.intersection(&one)).unwrap_or_default();
        all.as_slice().iter().flat_map(|(from, to)| removed.missing(*from, *to)).collect()
    }

    pub(super) fn set_boot(&mut self, boot: BootId, offset_ms: i64) {
        self.boots.retain(|(known, _)| *known != boot);
        if self.boots.len() == MAX_BOOTS {
            self.boots.remove(0);
        }
        self.boots.push((boot, offset_ms));
        self.facts_dirty = true;
    }

    pub(super) fn encode_gaps(gaps: &Ranges, generation: u64) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, generation);
        put_ranges(&mut out, gaps);
        out
    }

    pub(super) fn decode_gaps(body: &[u8]) -> Option<(u64, Ranges)> {
        let mut fields = Fields::new(body);
        Some((fields.varint()?, take_ranges(&mut fields)?))
    }

    pub(super) fn encode_boots(boots: &[(BootId, i64)], generation: u64) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, generation);
        put_varint(&mut out, boots.len() as u64);
        for (boot, offset_ms) in boots {
            out.extend_from_slice(&boot.0);
            put_signed(&mut out, *offset_ms);
        }
        out
    }

    pub(super) fn decode_boots(body: &[u8]) -> Option<(u64, Vec<(BootId, i64)>)> {
        let mut fields = Fields::new(body);
        let generation = fields.varint()?;
        let count = fields.varint()?;
        let boots = (0..count).map(|_| Some((BootId(fields.array()?), fields.signed()?)));
        Some((generation, boots.collect::<Option<_>>()?))
    }

    pub(super) fn gap_list(&self) -> Vec<(Seq, Seq)> {
        self.gaps.as_slice().iter().map(|(from, to)| (*from, to - 1)).collect()
    }
}

/// The lock around the book.
#[derive(Debug)]
pub(super) struct Ledger(Mutex<Book>);

impl Ledger {
    pub(super) fn new(book: Book) -> Self {
        Self(Mutex::new(book))
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().expect("nothing panics under this lock")
    }

    pub(super) fn status(&self) -> Status {
        let book = self.book();
        let end = book.state.end;
        let figures = |(name, sink): (&SinkName, &Sink)| -> (String, SinkFigures) {
            (name.to_string(), sink.cursor.figures(end))
        };
        Status {
            accepted: end - 1,
            oldest_seq: book.state.oldest(),
            blocks: book.state.keys,
            live_bytes: book.state.live_bytes,
            disk_bytes: book.disk_bytes,
            commits: book.commits,
            refused_full: book.state.refused_full,
            dead_letters: book.state.letters,
            dead_letters_evicted: book.state.letters_evicted,
            trouble: book.trouble.clone(),
            gaps: book.gap_list(),
            sinks: book.sinks.iter().map(figures).collect(),
        }
    }
}
