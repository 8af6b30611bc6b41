//! A log that a peer cannot fill: of each thing a few lines, then one in a while, and a count of the others.

use std::fmt;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::DefaultClock;
use governor::state::keyed::HashMapStateStore;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// Lines of one thing: so many at once, then one in [`PERIOD`].
const BURST: NonZeroU32 = NonZeroU32::new(5).expect("5 is not 0");

const PERIOD: Duration = Duration::from_secs(30);

/// Things that are remembered. Beyond it new ones are counted, not logged.
const MAX_KEYS: usize = 4_096;

/// Forgetting looks at all things, so it is not done for each new one while there are too many.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// Decides what is logged.
pub(crate) struct LogLimit<K: Clone + Hash + Eq> {
    lines: RateLimiter<K, HashMapStateStore<K>, DefaultClock>,
    sweeps: DefaultDirectRateLimiter,
    unlogged: AtomicU64,
}

impl<K: Clone + Hash + Eq> Default for LogLimit<K> {
    fn default() -> Self {
        let every = |period| Quota::with_period(period).expect("it is not 0");
        Self {
            lines: RateLimiter::hashmap(every(PERIOD).allow_burst(BURST)),
            sweeps: RateLimiter::direct(every(SWEEP_PERIOD)),
            unlogged: AtomicU64::new(0),
        }
    }
}

impl<K: Clone + Hash + Eq> fmt::Debug for LogLimit<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogLimit").field("keys", &self.lines.len()).finish_non_exhaustive()
    }
}

impl<K: Clone + Hash + Eq> LogLimit<K> {
    /// Whether a line about `key` may be logged, and then how many lines, of whatever, were left out before it.
    pub(crate) fn admit(&self, key: &K) -> Option<u64> {
        if self.has_room() && self.lines.check_key(key).is_ok() {
            return Some(self.unlogged.swap(0, Ordering::Relaxed));
        }
        self.unlogged.fetch_add(1, Ordering::Relaxed);
        None
    }

    fn has_room(&self) -> bool {
        if self.lines.len() < MAX_KEYS {
            return true;
        }
        if self.sweeps.check().is_ok() {
            self.lines.retain_recent();
        }
        self.lines.len() < MAX_KEYS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_again_and_again_is_logged_a_few_times_and_counted() {
        let limit = LogLimit::default();
        let logged = (0..100).filter(|_| limit.admit(&"a").is_some()).count();
        assert_eq!(logged, BURST.get() as usize);
        assert_eq!(limit.admit(&"b"), Some(95), "another is not silenced");
        assert_eq!(limit.admit(&"b"), Some(0));
    }

    #[test]
    fn the_memory_is_bounded() {
        let limit = LogLimit::default();
        let logged = (0..2 * MAX_KEYS).filter(|number| limit.admit(number).is_some()).count();
        assert_eq!((logged, limit.lines.len()), (MAX_KEYS, MAX_KEYS));
    }
}
