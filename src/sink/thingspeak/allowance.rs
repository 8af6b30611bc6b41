//! How long the yearly allowance of messages lasts at the present pace.

use std::collections::BTreeMap;

const HOUR_S: i64 = 3_600;
const DAYS_A_YEAR: u64 = 365;

/// Whole hours that the pace is taken from.
const MAX_HOURS: usize = 24;

/// Entries by the hour of their time, so that a backlog that is drained fast does not look like a fast pace.
#[derive(Debug)]
pub(super) struct Allowance {
    a_year: u64,
    entries: BTreeMap<i64, u64>,
}

impl Allowance {
    pub(super) fn new(a_year: u64) -> Self {
        Self { a_year, entries: BTreeMap::new() }
    }

    /// Counts an accepted entry.
    pub(super) fn count(&mut self, at_s: i64) {
        *self.entries.entry(at_s.div_euclid(HOUR_S)).or_default() += 1;
        // One more than the whole ones: the newest hour is not over.
        while self.entries.len() > MAX_HOURS + 1 {
            self.entries.pop_first();
        }
    }

    /// Entries a day, once there was a whole hour.
    fn a_day(&self) -> Option<u64> {
        let whole_hours = self.entries.len().checked_sub(2)?;
        // The first hour may have begun before this program did.
        let entries: u64 = self.entries.values().skip(1).take(whole_hours).sum();
        (whole_hours > 0).then(|| entries * 24 / whole_hours as u64)
    }

    /// A sentence, if a whole year's allowance would not last a year.
    pub(super) fn warning(&self) -> Option<String> {
        let a_day = self.a_day()?;
        let days = self.a_year.checked_div(a_day)?;
        (days < DAYS_A_YEAR).then(|| {
            format!(
                "{a_day} entries a day use up the allowance of {} a year in {days} days: \
                 a longer `average` makes fewer",
                self.a_year
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_hours(hours: i64, entries_an_hour: i64) -> Allowance {
        let mut allowance = Allowance::new(3_000_000);
        for second in (0..hours * HOUR_S).filter(|second| second % (HOUR_S / entries_an_hour) == 0) {
            allowance.count(second);
        }
        allowance
    }

    #[test]
    fn an_entry_a_second_uses_up_a_free_licence_in_five_weeks() {
        let warning = after_hours(3, HOUR_S).warning().unwrap();
        assert!(warning.starts_with("86400 entries a day"), "{warning}");
        assert!(warning.contains("in 34 days"), "{warning}");
    }

    #[test]
    fn a_pace_that_lasts_and_a_pace_not_known_yet_are_no_reason_to_warn() {
        assert_eq!(after_hours(30, 240).warning(), None);
        assert_eq!(after_hours(2, HOUR_S).warning(), None);
        assert_eq!(Allowance::new(0).warning(), None);
    }

    #[test]
    fn memory_is_bounded_and_holes_in_time_do_not_count() {
        assert_eq!(after_hours(100, 60).entries.len(), MAX_HOURS + 1);
        assert_eq!(after_hours(100, 60).a_day(), Some(60 * 24));
    }
}
