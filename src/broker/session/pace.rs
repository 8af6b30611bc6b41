//! How fast a connection's publishes are taken: so many messages and bytes a second, and as many at once as in one
//! second. What comes faster is not read until its time comes; nothing is lost by that.

use crate::config;

const MICROS_A_SECOND: u64 = 1_000_000;

/// Two leaky buckets, one for messages and one for bytes, on the boot clock. Each is the moment in which all that was
/// taken would have been taken at the rate, in microseconds.
#[derive(Debug, Default)]
pub(super) struct Pace {
    messages_until: u64,
    bytes_until: u64,
}

impl Pace {
    /// When the next publish may be taken, milliseconds on the boot clock; `None`: now.
    pub(super) fn opens_ms(&self, now_ms: u64) -> Option<u64> {
        let full = self.messages_until.max(self.bytes_until);
        let opens = full.saturating_sub(MICROS_A_SECOND).div_ceil(1_000);
        (opens > now_ms).then_some(opens)
    }

    /// A publish of so many bytes was taken.
    pub(super) fn take(&mut self, bytes: usize, now_ms: u64, limits: &config::Listener) {
        let now = now_ms.saturating_mul(1_000);
        let after = |until: u64, cost: u64| until.max(now).saturating_add(cost);
        let message = MICROS_A_SECOND / u64::from(limits.max_messages_per_second);
        let bytes = (bytes as u64).saturating_mul(MICROS_A_SECOND) / limits.max_bytes_per_second;
        self.messages_until = after(self.messages_until, message);
        self.bytes_until = after(self.bytes_until, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(max_messages_per_second: u32, max_bytes_per_second: u64) -> config::Listener {
        config::Listener { max_messages_per_second, max_bytes_per_second, ..config::Listener::default() }
    }

    /// So many publishes of 100 bytes are taken within a time in which each is offered as soon as it may come.
    fn taken(limits: &config::Listener, time_ms: u64) -> u64 {
        let (mut pace, start_ms) = (Pace::default(), 1_000_000);
        let (mut now_ms, mut count) = (start_ms, 0);
        while now_ms <= start_ms + time_ms {
            match pace.opens_ms(now_ms) {
                Some(opens_ms) => now_ms = opens_ms,
                None => {
                    pace.take(100, now_ms, limits);
                    count += 1;
                }
            }
        }
        count
    }

    #[test]
    fn so_many_come_at_once_and_then_so_many_a_second() {
        assert_eq!(taken(&limits(10, u64::MAX), 0), 11, "the one with which it is full is taken");
        assert_eq!(taken(&limits(10, u64::MAX), 1_000), 21);
        assert_eq!(taken(&limits(10, u64::MAX), 60_000), 611);
        assert_eq!(taken(&limits(1_000_000, 500), 60_000), 306, "of 100 bytes each");
    }

    #[test]
    fn who_was_silent_has_no_more_at_once_than_others() {
        let (limits, mut pace) = (limits(10, u64::MAX), Pace::default());
        pace.take(100, 1_000, &limits);
        let now_ms = 3_600_000;
        (0..11).for_each(|_| pace.take(100, now_ms, &limits));
        assert_eq!(pace.opens_ms(now_ms), Some(now_ms + 100));
        assert_eq!(pace.opens_ms(now_ms + 100), None);
    }
}
