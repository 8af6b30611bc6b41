//! When the next request may go, and how long to wait after a failure.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

/// The first delay; the jitter makes it at most twice as long.
const FIRST_DELAY: Duration = Duration::from_secs(1);

/// The longest delay without its jitter, with which it is at most five minutes.
const LONGEST_DELAY: Duration = Duration::from_secs(150);

/// A far side's wish for a longer pause is not granted.
const LONGEST_ASKED: Duration = Duration::from_secs(3_600);

/// How long to leave a far side alone that somebody has to repair.
const HOLD: Duration = Duration::from_secs(15 * 60);

/// The pace of the calls to one far side.
#[derive(Debug)]
pub(crate) struct Pace {
    interval: Duration,
    spacing: Duration,
    last: Option<Instant>,
    next: Instant,
    backoff: ExponentialBackoff,
}

impl Pace {
    /// `interval` is kept between batches, `spacing` between the requests of one.
    pub(crate) fn new(interval: Duration, spacing: Duration) -> Self {
        Self { interval, spacing, last: None, next: Instant::now(), backoff: backoff() }
    }

    /// When the next request may go.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// A request has ended.
    pub(crate) fn sent(&mut self) {
        let now = Instant::now();
        self.last = Some(now);
        self.next = now + self.spacing;
    }

    /// A batch has ended.
    pub(crate) fn batch_ended(&mut self) {
        if let Some(last) = self.last {
            self.next = self.next.max(last + self.interval);
        }
    }

    /// The far side is well.
    pub(crate) fn succeeded(&mut self) {
        self.backoff = backoff();
    }

    /// The far side is not well: how long to leave it alone. `asked`: what it asked for.
    pub(crate) fn failed(&mut self, asked: Option<Duration>) -> Duration {
        let own = self.backoff.next().unwrap_or(LONGEST_DELAY);
        let asked =
            asked.map_or(Duration::ZERO, |asked| with_jitter(asked.min(LONGEST_ASKED)).min(LONGEST_ASKED));
        self.wait(own.max(asked))
    }

    /// Somebody has to repair something: how long until it is worth a look.
    pub(crate) fn held(&mut self) -> Duration {
        self.wait(with_jitter(HOLD))
    }

    fn wait(&mut self, delay: Duration) -> Duration {
        self.next = self.next.max(Instant::now() + delay);
        self.next - Instant::now()
    }
}

fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(FIRST_DELAY)
        .with_factor(2.0)
        .with_max_delay(LONGEST_DELAY)
        .without_max_times()
        .with_jitter()
        .build()
}

/// Up to an eighth longer, so that many gateways do not come back at the same moment.
fn with_jitter(delay: Duration) -> Duration {
    let eighth = delay / 8;
    let jittered = ExponentialBuilder::new().with_min_delay(eighth).with_jitter().build().next();
    delay + jittered.unwrap_or(eighth).saturating_sub(eighth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn delays_grow_to_five_minutes_and_a_success_makes_them_short_again() {
        let mut pace = Pace::new(Duration::ZERO, Duration::ZERO);
        let mut delays = Vec::new();
        for _ in 0..20 {
            delays.push(pace.failed(None));
            tokio::time::advance(pace.next() - Instant::now()).await;
        }
        assert!(delays[0] >= FIRST_DELAY && delays[0] <= 2 * FIRST_DELAY, "{delays:?}");
        assert!(delays[19] >= LONGEST_DELAY && delays[19] <= Duration::from_secs(300), "{delays:?}");
        pace.succeeded();
        assert!(pace.failed(None) <= 2 * FIRST_DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_far_side_asks_for_is_a_lower_bound_but_not_a_long_one() {
        let mut pace = Pace::new(Duration::ZERO, Duration::ZERO);
        let asked = pace.failed(Some(Duration::from_secs(80)));
        assert!(asked >= Duration::from_secs(80) && asked <= Duration::from_secs(90), "{asked:?}");
        let mut pace = Pace::new(Duration::ZERO, Duration::ZERO);
        assert_eq!(pace.failed(Some(Duration::from_secs(1_000_000))), LONGEST_ASKED);
        let mut pace = Pace::new(Duration::ZERO, Duration::ZERO);
        assert_eq!(
            pace.failed(Some(Duration::from_secs(u64::MAX))),
            LONGEST_ASKED,
            "the most a header can say"
        );
        let mut pace = Pace::new(Duration::ZERO, Duration::ZERO);
        assert!(pace.failed(Some(Duration::ZERO)) >= FIRST_DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_never_makes_the_interval_shorter() {
        let mut pace = Pace::new(Duration::from_secs(15), Duration::from_secs(15));
        pace.sent();
        assert_eq!(pace.failed(None), Duration::from_secs(15));
    }
}
