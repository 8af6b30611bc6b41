//! A set of sequence numbers, kept as few ranges.

use crate::message::Seq;

/// Half-open ranges `[from, to)`, sorted, none touching another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<(Seq, Seq)>);

impl Ranges {
    /// Adds `[from, to)` and says how many numbers were not in the set before.
    pub(super) fn insert(&mut self, from: Seq, to: Seq) -> u64 {
        if from >= to {
            return 0;
        }
        let first = self.0.partition_point(|r| r.1 < from);
        let last = first + self.0[first..].partition_point(|r| r.0 <= to);
        let mut merged = (from, to);
        let mut known = 0;
        for r in &self.0[first..last] {
            known += r.1.min(to).saturating_sub(r.0.max(from));
            merged = (merged.0.min(r.0), merged.1.max(r.1));
        }
        self.0.splice(first..last, [merged]);
        to - from - known
    }

    /// Whether `seq` is in the set.
    pub(super) fn contains(&self, seq: Seq) -> bool {
        self.covers(seq, seq + 1)
    }

    /// Whether all of `[from, to)` is in the set.
    pub(super) fn covers(&self, from: Seq, to: Seq) -> bool {
        let at = self.0.partition_point(|r| r.1 <= from);
        from >= to || self.0.get(at).is_some_and(|r| r.0 <= from && to <= r.1)
    }

    /// How many ranges there would be after `insert(from, to)`.
    pub(super) fn ranges_with(&self, from: Seq, to: Seq) -> usize {
        let first = self.0.partition_point(|r| r.1 < from);
        let last = first + self.0[first..].partition_point(|r| r.0 <= to);
        self.0.len() + 1 - (last - first)
    }

    /// How many numbers are in the set.
    pub(super) fn total(&self) -> u64 {
        self.0.iter().map(|r| r.1 - r.0).sum()
    }

    /// How many numbers of `[from, to)` are in the set.
    pub(super) fn total_within(&self, from: Seq, to: Seq) -> u64 {
        let at = self.0.partition_point(|r| r.1 <= from);
        self.0[at..].iter().take_while(|r| r.0 < to).map(|r| r.1.min(to).saturating_sub(r.0.max(from))).sum()
    }

    /// The parts of `[from, to)` that are not in the set, in order.
    pub(super) fn missing(&self, from: Seq, to: Seq) -> impl Iterator<Item = (Seq, Seq)> + '_ {
        let at = self.0.partition_point(|r| r.1 <= from);
        let mut rest = self.0[at..].iter();
        let mut start = from;
        std::iter::from_fn(move || {
            while start < to {
                let (hole, next) = match rest.next() {
                    Some(r) => ((start, r.0.min(to)), r.1),
                    None => ((start, to), to),
                };
                start = next;
                if hole.0 < hole.1 {
                    return Some(hole);
                }
            }
            None
        })
    }

    /// What is in both sets.
    pub(super) fn intersection(&self, other: &Self) -> Self {
        let mut both = Vec::new();
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
            let (from, to) = (x.0.max(y.0), x.1.min(y.1));
            if from < to {
                both.push((from, to));
            }
            if x.1 < y.1 {
                a.next();
            } else {
                b.next();
            }
        }
        Self(both)
    }

    /// One past the highest number in the set; 0 when it is empty.
    pub(super) fn end(&self) -> Seq {
        self.0.last().map_or(0, |range| range.1)
    }

    /// The ranges, in order.
    pub(super) fn as_slice(&self) -> &[(Seq, Seq)] {
        &self.0
    }
}

impl FromIterator<(Seq, Seq)> for Ranges {
    fn from_iter<I: IntoIterator<Item = (Seq, Seq)>>(ranges: I) -> Self {
        let mut set = Self::default();
        for (from, to) in ranges {
            set.insert(from, to);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_and_overlaps_become_one_range_and_only_new_numbers_count() {
        let mut set = Ranges::default();
        assert_eq!(set.insert(10, 20), 10);
        assert_eq!(set.insert(30, 40), 10);
        assert_eq!(set.ranges_with(20, 30), 1);
        assert_eq!(set.ranges_with(22, 28), 3);
        assert_eq!(set.insert(15, 32), 10);
        assert_eq!(set.as_slice(), [(10, 40)]);
        assert_eq!(set.insert(12, 13), 0);
        assert_eq!(set.insert(40, 41), 1);
        assert_eq!(set.insert(5, 5), 0);
        assert_eq!(set.total(), 31);
    }

    #[test]
    fn holes_and_overlaps_are_found() {
        let set: Ranges = [(5, 10), (20, 30)].into_iter().collect();
        assert_eq!(set.missing(1, 40).collect::<Vec<_>>(), [(1, 5), (10, 20), (30, 40)]);
        assert_eq!(set.missing(6, 9).count(), 0);
        assert_eq!(set.missing(8, 22).collect::<Vec<_>>(), [(10, 20)]);
        assert!(set.covers(5, 10) && !set.covers(5, 11) && set.contains(29) && !set.contains(30));
        assert_eq!(set.total_within(8, 25), 7);
        let other: Ranges = [(1, 6), (9, 21), (25, 50)].into_iter().collect();
        assert_eq!(set.intersection(&other).as_slice(), [(5, 6), (9, 10), (20, 21), (25, 30)]);
    }
}
