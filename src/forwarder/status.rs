//! What a forwarder is doing, for people and programs.

use std::time::Duration;

use tokio::time::Instant;

/// What a forwarder is doing. Counts are since the start of the process; what is conserved over restarts is in
/// the buffer's figures.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct ForwarderStatus {
    /// What it is doing now.
    #[serde(flatten)]
    pub state: State,
    /// Readings that waited for this sink when it last did something; the buffer's figures are of this moment.
    pub pending: u64,
    /// In how many seconds there will be no backlog any more at the present pace; `None` when the pace does not
    /// suffice, or is not known yet.
    pub drain_estimate_s: Option<u64>,
    /// Rows that a request may hold now: fewer than configured after the far side found one too large.
    pub max_rows: usize,
    /// Requests sent.
    pub requests: u64,
    /// Those of them that were not accepted.
    pub failures: u64,
    /// Rows (ThingSpeak: entries) that the far side accepted.
    pub rows: u64,
    /// Readings among the delivered ones that the far side has only queued: what becomes of them is never said.
    pub unverified: u64,
    /// Rows that were there already when they were sent.
    pub duplicates: u64,
    /// When a request was last accepted, milliseconds since 1970-01-01 UTC.
    pub last_success_ms: Option<i64>,
    /// What last went wrong; it may be over.
    pub last_error: Option<Trouble>,
    /// Something that the operator should know, such as an allowance that will not last.
    pub remark: Option<String>,
}

/// What a forwarder is doing now.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Nothing waits.
    #[default]
    Idle,
    /// Sending, or waiting for its pace.
    Running,
    /// The far side is not well; the next try is at this time.
    Waiting {
        /// Milliseconds since 1970-01-01 UTC.
        until_ms: i64,
    },
    /// Somebody has to repair something, or every row is refused; readings are kept meanwhile. The next try is at this time.
    Holding {
        /// What is wrong.
        why: String,
        /// Milliseconds since 1970-01-01 UTC.
        until_ms: i64,
    },
    /// Readings wait for their true time.
    ClockWait,
    /// An operator lets it rest; readings are kept meanwhile.
    Paused,
}

/// Something that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Trouble {
    /// When, milliseconds since 1970-01-01 UTC.
    pub at_ms: i64,
    /// What.
    pub why: String,
}

/// How fast the backlog gets shorter: readings sent minus readings that arrive.
#[derive(Debug, Default)]
pub(super) struct Drain {
    last: Option<(Instant, u64)>,
    net_per_s: Option<f64>,
}

impl Drain {
    /// Half of what is known of the pace is about this new, in seconds.
    const MEMORY_S: f64 = 60.0;

    /// Looks at shorter times than this would see single requests.
    const SHORTEST: Duration = Duration::from_secs(1);

    pub(super) fn observe(&mut self, now: Instant, pending: u64) {
        let Some((then, before)) = self.last else {
            self.last = Some((now, pending));
            return;
        };
        let span = now.duration_since(then);
        if span < Self::SHORTEST {
            return;
        }
        self.last = Some((now, pending));
        let seconds = span.as_secs_f64();
        let fresh = (before as f64 - pending as f64) / seconds;
        let weight = 1.0 - (-seconds / Self::MEMORY_S).exp();
        self.net_per_s = Some(self.net_per_s.map_or(fresh, |old| old + weight * (fresh - old)));
    }

    /// Seconds until nothing but what the next request takes (`next_request`) is pending.
    pub(super) fn estimate_s(&self, pending: u64, next_request: u64) -> Option<u64> {
        if pending <= next_request {
            return Some(0);
        }
        let net = self.net_per_s.filter(|net| *net > 0.0)?;
        Some((pending as f64 / net).ceil() as u64)
    }

    /// What was seen while the sink was away says nothing about its pace.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[tokio::test(start_paused = true)]
    async fn the_estimate_is_the_backlog_by_the_net_pace() {
        let start = Instant::now();
        let mut drain = Drain::default();
        assert_eq!(drain.estimate_s(10_000, 960), None, "no pace is known yet");
        for n in 0..=10 {
            // 1,000 go and 100 come, every 10 s.
            drain.observe(start + seconds(10 * n), 100_000 - 900 * n);
        }
        assert_eq!(drain.estimate_s(91_000, 960), Some(1_012));
        assert_eq!(drain.estimate_s(960, 960), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pace_that_does_not_suffice_gives_no_estimate_and_an_outage_is_forgotten() {
        let start = Instant::now();
        let mut drain = Drain::default();
        drain.observe(start, 1_000);
        drain.observe(start + seconds(10), 2_000);
        assert_eq!(drain.estimate_s(2_000, 960), None);
        drain.forget();
        drain.observe(start + seconds(20), 3_000);
        drain.observe(start + seconds(30), 2_000);
        assert_eq!(drain.estimate_s(2_000, 960), Some(20));
    }

    #[test]
    fn the_state_is_a_flat_object() {
        let status = ForwarderStatus {
            state: State::Holding { why: "no such table".to_owned(), until_ms: 7 },
            ..ForwarderStatus::default()
        };
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(
            (&json["state"], &json["why"], &json["until_ms"]),
            (&"holding".into(), &"no such table".into(), &7.into())
        );
        assert_eq!(serde_json::to_value(ForwarderStatus::default()).unwrap()["state"], "idle");
    }
}
