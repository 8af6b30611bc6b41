//! What the broker has done, in numbers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Figures of the broker. All but the first two are counted since the start.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Figures {
    /// Connections now, whether their CONNECT has come or not.
    pub connections: u64,
    /// Sessions now.
    pub sessions: u64,
    /// Sessions that a newer connection with the same client id has ended.
    pub taken_over: u64,
    /// Publishes that came with QoS 0, refused ones included.
    pub publishes_qos0: u64,
    /// Publishes that came with QoS 1, refused ones and repetitions included.
    pub publishes_qos1: u64,
    /// Publishes that were handed to the buffer as readings.
    pub readings: u64,
    /// Those of them that no sink can use.
    pub readings_unfit: u64,
    /// Publishes that a device repeated though they had been taken; they are acknowledged, not stored twice.
    pub retransmissions: u64,
    /// Messages that went into the output of a subscriber's connection. Those at its end may not have
    /// reached the subscriber.
    pub delivered: u64,
    /// Messages dropped because a subscriber was too slow.
    pub dropped_slow_subscriber: u64,
    /// Publishes with RETAIN, which this version delivers and does not keep.
    pub retained_not_kept: u64,
    /// Wills, which this version does not publish.
    pub wills_not_kept: u64,
    /// Sessions that were to outlive their connection, which this version does not keep.
    pub sessions_not_kept: u64,
    /// Refusals by reason.
    pub refusals: BTreeMap<&'static str, u64>,
}

/// The counters behind [`Figures`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connections: Counter,
    pub(super) taken_over: Counter,
    pub(super) publishes_qos0: Counter,
    pub(super) publishes_qos1: Counter,
    pub(super) readings: Counter,
    pub(super) readings_unfit: Counter,
    pub(super) retransmissions: Counter,
    pub(super) delivered: Counter,
    pub(super) dropped_slow_subscriber: Counter,
    pub(super) retained_not_kept: Counter,
    pub(super) wills_not_kept: Counter,
    pub(super) sessions_not_kept: Counter,
}

#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn subtract(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    pub(super) fn figures(&self, sessions: usize, refusals: BTreeMap<&'static str, u64>) -> Figures {
        Figures {
            connections: self.connections.value(),
            sessions: sessions as u64,
            taken_over: self.taken_over.value(),
            publishes_qos0: self.publishes_qos0.value(),
            publishes_qos1: self.publishes_qos1.value(),
            readings: self.readings.value(),
            readings_unfit: self.readings_unfit.value(),
            retransmissions: self.retransmissions.value(),
            delivered: self.delivered.value(),
            dropped_slow_subscriber: self.dropped_slow_subscriber.value(),
            retained_not_kept: self.retained_not_kept.value(),
            wills_not_kept: self.wills_not_kept.value(),
            sessions_not_kept: self.sessions_not_kept.value(),
            refusals,
        }
    }
}
