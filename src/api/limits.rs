//! How fast one token, or an address with wrong tokens, may ask.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::config;

/// Keys that are remembered: more tokens there are not, and beyond so many addresses new ones must wait.
const MAX_KEYS: usize = 4_096;
/// Forgetting looks at all keys.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// All limits.
pub(super) struct Limits {
    pub(super) requests: Limit<Box<str>>,
    pub(super) changes: Limit<Box<str>>,
    pub(super) commands: Limit<Box<str>>,
    pub(super) failures: Limit<IpAddr>,
}

/// So many a minute for each key, and so many at once.
pub(super) struct Limit<K: Clone + Hash + Eq> {
    limiter: RateLimiter<K, HashMapStateStore<K>, DefaultClock>,
    sweeps: DefaultDirectRateLimiter,
}

impl Limits {
    pub(super) fn new(settings: &config::Api) -> Self {
        Self {
            requests: Limit::new(settings.requests_per_minute),
            changes: Limit::new(settings.changes_per_minute),
            commands: Limit::new(settings.commands_per_minute),
            failures: Limit::new(settings.failures_per_minute),
        }
    }
}

impl<K: Clone + Hash + Eq> Limit<K> {
    fn new(per_minute: u32) -> Self {
        let quota = Quota::per_minute(NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN));
        let sweep = Quota::with_period(SWEEP_PERIOD).expect("it is not 0");
        Self { limiter: RateLimiter::hashmap(quota), sweeps: RateLimiter::direct(sweep) }
    }

    /// Counts one more.
    ///
    /// # Errors
    /// With the time to wait when it is one too many.
    pub(super) fn check(&self, key: &K) -> Result<(), Duration> {
        if self.limiter.len() >= MAX_KEYS {
            if self.sweeps.check().is_ok() {
                self.limiter.retain_recent();
            }
            if self.limiter.len() >= MAX_KEYS {
                return Err(SWEEP_PERIOD);
            }
        }
        self.limiter.check_key(key).map_err(|until| until.wait_time_from(DefaultClock::default().now()))
    }
}
