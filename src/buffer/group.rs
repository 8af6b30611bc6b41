//! The open group: where readings and changes of all connections meet before they are committed together.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;

use super::block::{Base, Records, put_record, take_record};
use super::frame::Fields;
use super::letter::Letter;
use super::record::{self, RecordKey};
use super::{Change, Mark};
use crate::message::{Incoming, Seq, Stamp};

/// A group with so many readings is closed at once.
pub(super) const GROUP_READINGS: usize = 256;
/// A group with so many bytes is closed at once.
pub(super) const GROUP_BYTES: usize = 64 * 1024;
/// A buffer that grew beyond it in a bad moment is given back.
const KEEP_BYTES: usize = 4 * GROUP_BYTES;

/// A group that has grown longer than this reaches the disk in several atomic changes.
const SECTION_READINGS: usize = 1_024;
const SECTION_BYTES: usize = 1024 * 1024;

/// What of a group reaches the disk together or not at all: a reading and the changes that came with it are in one.
#[derive(Debug, Default)]
pub(super) struct Section {
    /// Its readings, by index.
    pub(super) from: usize,
    pub(super) to: usize,
    bytes: usize,
    /// The last change of each record; `None` removes it.
    pub(super) changes: BTreeMap<RecordKey, Option<Vec<u8>>>,
}

impl Section {
    fn is_full(&self) -> bool {
        self.to - self.from >= SECTION_READINGS || self.bytes >= SECTION_BYTES
    }

    /// Puts a change in the place of an earlier one. Says by how many bytes it became larger and smaller.
    fn change(&mut self, change: Change) -> (usize, usize) {
        let (key, value) = match change {
            Change::Put(key, value) => (key, Some(value)),
            Change::Remove(key) => (key, None),
        };
        let more = record::cost(value.as_deref());
        let less = self.changes.insert(key, value).map_or(0, |earlier| record::cost(earlier.as_deref()));
        self.bytes = self.bytes + more - less;
        (more, less)
    }
}

/// Readings and changes that will be committed together.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) number: u64,
    pub(super) first: Seq,
    base: Base,
    bytes: Vec<u8>,
    ends: Vec<u32>,
    /// Readings that carry a fault, by index.
    faults: Vec<u32>,
    pub(super) sections: Vec<Section>,
    /// Records that were changed so far, and of which generation they were before; 0: there was none.
    pub(super) before: BTreeMap<RecordKey, u64>,
    /// Bytes of all changes.
    change_bytes: usize,
    pub(super) waiters: Vec<Arc<Notify>>,
    /// When the first came that somebody, or nobody, waits for.
    pub(super) waited_since: Option<Instant>,
    pub(super) unwaited_since: Option<Instant>,
    /// It waits for nothing more.
    pub(super) is_urgent: bool,
}

impl Group {
    pub(super) fn new(number: u64, first: Seq) -> Self {
        Self {
            number,
            first,
            base: Base::ZERO,
            bytes: Vec::new(),
            ends: Vec::new(),
            faults: Vec::new(),
            sections: Vec::new(),
            before: BTreeMap::new(),
            change_bytes: 0,
            waiters: Vec::new(),
            waited_since: None,
            unwaited_since: None,
            is_urgent: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sections.is_empty()
    }

    pub(super) fn mark(&self) -> Mark {
        Mark(self.number)
    }

    /// One past the last number.
    pub(super) fn end(&self) -> Seq {
        self.first + self.ends.len() as u64
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of readings and changes.
    pub(super) fn size(&self) -> usize {
        self.bytes.len() + self.change_bytes
    }

    pub(super) fn is_full(&self) -> bool {
        self.ends.len() >= GROUP_READINGS || self.size() >= GROUP_BYTES
    }

    /// The sections that a store which ends at `end` does not have yet, by index: they are written in order.
    pub(super) fn sections_from(&self, end: Seq) -> Range<usize> {
        let done = end.saturating_sub(self.first) as usize;
        let is_there = |section: &Section| section.from < section.to && section.to <= done;
        self.sections.iter().rposition(is_there).map_or(0, |last| last + 1)..self.sections.len()
    }

    /// The records with these indices.
    pub(super) fn records(&self, from: usize, to: usize) -> Records<'_> {
        let offset = if from == 0 { 0 } else { self.ends[from - 1] };
        Records {
            first: self.first + from as u64,
            base: self.base,
            offset: offset as usize,
            bytes: &self.bytes,
            ends: &self.ends[from..to],
        }
    }

    /// When its last reading was received.
    pub(super) fn newest(&self) -> Option<Stamp> {
        let last = self.records(self.len().checked_sub(1)?, self.len());
        Some(take_record(&mut Fields::new(&self.bytes[last.offset..]), &self.base)?.received)
    }

    /// Dead letters for the readings with these indices that came with a fault.
    pub(super) fn unfit(&self, from: usize, to: usize, epoch: u64) -> Vec<Letter> {
        let letter = |index: &usize| {
            let records = self.records(*index, index + 1);
            let found = take_record(&mut Fields::new(&self.bytes[records.offset..]), &self.base)?;
            Letter::unfit(records.first, epoch, &found)
        };
        let faults = self.faults.iter().map(|index| *index as usize);
        faults.filter(|index| (from..to).contains(index)).filter_map(|index| letter(&index)).collect()
    }

    pub(super) fn put(&mut self, reading: Option<&Incoming<'_>>, changes: Vec<Change>) {
        if self.sections.last().is_none_or(Section::is_full) {
            let from = self.ends.len();
            self.sections.push(Section { from, to: from, ..Section::default() });
        }
        let section = self.sections.last_mut().expect("there is one now");
        if let Some(reading) = reading {
            if self.ends.is_empty() {
                self.base = reading.received.into();
            }
            if reading.fault.is_some() {
                self.faults.push(self.ends.len() as u32);
            }
            let before = self.bytes.len();
            put_record(&mut self.bytes, &self.base, &reading.into());
            self.ends.push(self.bytes.len() as u32);
            section.to += 1;
            section.bytes += self.bytes.len() - before;
        }
        for change in changes {
            let (more, less) = section.change(change);
            self.change_bytes = self.change_bytes + more - less;
        }
    }

    /// Empties it for the next use.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEEP_BYTES);
        self.ends.clear();
        self.ends.shrink_to(KEEP_BYTES / 64);
        self.faults.clear();
        self.sections.clear();
        self.before.clear();
        self.change_bytes = 0;
        self.waited_since = None;
        self.unwaited_since = None;
        self.is_urgent = false;
    }
}
