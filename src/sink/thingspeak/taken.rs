//! The seconds for which the channel has an entry.

use std::collections::{BTreeSet, VecDeque};

/// Seconds that are remembered: at one entry a second four and a half hours, more than clocks step.
const MAX_SECONDS: usize = 16_384;

/// The seconds for which the channel has accepted an entry, as far as they are remembered.
#[derive(Debug, Default)]
pub(super) struct Taken {
    seconds: BTreeSet<i64>,
    oldest_first: VecDeque<i64>,
}

impl Taken {
    pub(super) fn insert(&mut self, second: i64) {
        if !self.seconds.insert(second) {
            return;
        }
        self.oldest_first.push_back(second);
        if self.oldest_first.len() > MAX_SECONDS
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.seconds.remove(&oldest);
        }
    }

    pub(super) fn contains(&self, second: i64) -> bool {
        self.seconds.contains(&second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_remembered_second_makes_room() {
        let mut taken = Taken::default();
        let last = i64::try_from(MAX_SECONDS).unwrap();
        for second in (0..=last).chain(0..1) {
            taken.insert(second);
        }
        assert!(taken.contains(last) && taken.contains(2) && taken.contains(0));
        assert!(!taken.contains(1), "0 was put in again after it had made room");
    }
}
