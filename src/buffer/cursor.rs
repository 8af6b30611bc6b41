//! How far a sink is, and what became of the readings it has passed.
//!
//! Invariant (P2): the numbers in `settled` are exactly as many as `delivered` and `dropped` together. What is
//! pending is not stored but is the complement, so that no crash can make the sums differ.

use super::frame::{Fields, put_varint};
use super::ranges::Ranges;
use super::{DropReason, SinkFigures};
use crate::message::Seq;

/// Ranges that one cursor's record may hold; beyond it live readings are no longer split off.
pub(super) const MAX_RANGES: usize = 32;
/// A cursor that is more torn than this is not written before it has healed: two varints of at most
/// 10 bytes a range must fit a value.
const MAX_STORED_RANGES: usize = 256;
/// Settling one reading here and one there beyond it is not taken note of: they are given again.
const MAX_MEMORY_RANGES: usize = 4_096;

pub(super) const REASONS: [DropReason; 9] = [
    DropReason::BufferFull,
    DropReason::TooOld,
    DropReason::Damaged,
    DropReason::Unfit,
    DropReason::Rejected,
    DropReason::NotSelected,
    DropReason::NothingMapped,
    DropReason::Collision,
    DropReason::SinkAbsent,
];

/// What becomes of a run of readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Delivered,
    Dropped(DropReason),
}

/// A sink's cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The first number that is the sink's business.
    pub(super) joined: Seq,
    settled: Ranges,
    delivered: u64,
    dropped: [u64; REASONS.len()],
}

impl Cursor {
    pub(super) fn new(joined: Seq) -> Self {
        Self { joined, settled: Ranges::default(), delivered: 0, dropped: [0; REASONS.len()] }
    }

    /// Settles what of `[from, to)` is not settled yet; says how many that were.
    pub(super) fn settle(&mut self, from: Seq, to: Seq, fate: Fate) -> u64 {
        let from = from.max(self.joined);
        if from >= to || self.settled.ranges_with(from, to) > MAX_MEMORY_RANGES {
            return 0;
        }
        let fresh = self.settled.insert(from, to);
        match fate {
            Fate::Delivered => self.delivered += fresh,
            Fate::Dropped(reason) => self.dropped[reason as usize] += fresh,
        }
        fresh
    }

    pub(super) fn settled(&self) -> &Ranges {
        &self.settled
    }

    /// What the sink does not need any more.
    pub(super) fn passed(&self) -> Ranges {
        let mut passed = self.settled.clone();
        passed.insert(1, self.joined);
        passed
    }

    /// How many of `[joined, end)` are neither delivered nor dropped.
    pub(super) fn pending(&self, end: Seq) -> u64 {
        end.saturating_sub(self.joined) - self.settled.total_within(self.joined, end)
    }

    /// What is pending of `[from, end)`, in order.
    pub(super) fn pending_from(&self, from: Seq, end: Seq) -> impl Iterator<Item = (Seq, Seq)> + '_ {
        self.settled.missing(from.max(self.joined), end)
    }

    pub(super) fn figures(&self, end: Seq) -> SinkFigures {
        let dropped = REASONS.iter().zip(self.dropped).filter(|(_, count)| *count > 0);
        SinkFigures {
            accepted: end.saturating_sub(self.joined),
            delivered: self.delivered,
            pending: self.pending(end),
            dropped: dropped.map(|(reason, count)| (*reason, count)).collect(),
        }
    }

    /// The record's body; `None` while the cursor is too torn for one.
    pub(super) fn encode(&self, generation: u64) -> Option<Vec<u8>> {
        if self.settled.as_slice().len() > MAX_STORED_RANGES {
            return None;
        }
        let mut out = Vec::with_capacity(64);
        put_varint(&mut out, generation);
        put_varint(&mut out, self.joined);
        put_varint(&mut out, self.delivered);
        put_varint(&mut out, self.dropped.len() as u64);
        self.dropped.iter().for_each(|count| put_varint(&mut out, *count));
        put_ranges(&mut out, &self.settled);
        Some(out)
    }

    /// The cursor and its generation. `None` when the record breaks the invariant.
    pub(super) fn decode(body: &[u8]) -> Option<(u64, Self)> {
        let mut fields = Fields::new(body);
        let generation = fields.varint()?;
        let mut cursor = Self::new(fields.varint()?);
        cursor.delivered = fields.varint()?;
        let reasons = fields.varint()?;
        for index in 0..reasons {
            let count = fields.varint()?;
            *cursor.dropped.get_mut(usize::try_from(index).ok()?)? = count;
        }
        cursor.settled = take_ranges(&mut fields)?;
        let sum = cursor.dropped.iter().try_fold(cursor.delivered, |sum, n| sum.checked_add(*n))?;
        (sum == cursor.settled.total()).then_some((generation, cursor))
    }
}

/// Count, then each range as its distance from the one before and its length.
pub(super) fn put_ranges(out: &mut Vec<u8>, ranges: &Ranges) {
    put_varint(out, ranges.as_slice().len() as u64);
    let mut last = 0;
    for (from, to) in ranges.as_slice() {
        put_varint(out, from - last);
        put_varint(out, to - from);
        last = *to;
    }
}

pub(super) fn take_ranges(fields: &mut Fields<'_>) -> Option<Ranges> {
    let count = fields.varint()?;
    let mut ranges = Ranges::default();
    let mut last: Seq = 0;
    for _ in 0..count {
        let from = last.checked_add(fields.varint()?)?;
        last = from.checked_add(fields.varint()?)?;
        ranges.insert(from, last);
    }
    Some(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_is_delivered_and_pending_and_dropped_after_every_step() {
        let mut cursor = Cursor::new(5);
        let steps = [
            (5, 8, Fate::Delivered),
            (6, 20, Fate::Dropped(DropReason::Rejected)),
            (1, 6, Fate::Delivered),
            (40, 50, Fate::Dropped(DropReason::TooOld)),
            (30, 45, Fate::Delivered),
        ];
        for (from, to, fate) in steps {
            cursor.settle(from, to, fate);
            let figures = cursor.figures(101);
            let dropped: u64 = figures.dropped.values().sum();
            assert_eq!(figures.accepted, 96);
            assert_eq!(figures.accepted, figures.delivered + figures.pending + dropped);
        }
        assert_eq!(cursor.pending_from(0, 101).collect::<Vec<_>>(), [(20, 30), (50, 101)]);
        let (generation, back) = Cursor::decode(&cursor.encode(9).unwrap()).unwrap();
        assert_eq!((generation, back), (9, cursor));
    }

    #[test]
    fn a_record_whose_sums_do_not_match_is_refused() {
        let mut cursor = Cursor::new(1);
        cursor.settle(1, 4, Fate::Delivered);
        cursor.delivered += 1;
        assert_eq!(Cursor::decode(&cursor.encode(1).unwrap()), None);
    }

    #[test]
    fn a_torn_cursor_keeps_its_sums_and_waits_with_its_record() {
        let mut cursor = Cursor::new(1);
        let taken: u64 = (0..5_000).map(|n| cursor.settle(2 * n + 2, 2 * n + 3, Fate::Delivered)).sum();
        assert_eq!(taken, MAX_MEMORY_RANGES as u64);
        assert_eq!(cursor.delivered, taken);
        assert!(cursor.encode(1).is_none());
        cursor.settle(1, 10_100, Fate::Delivered);
        assert!(cursor.encode(1).is_some());
    }
}
