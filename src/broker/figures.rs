//! What the broker has done, in numbers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Shared;
use super::outbox::Full;

/// Figures of the broker. Those that speak of now say so; the others are counted since the start.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Figures {
    /// Connections now, whether their CONNECT has come or not.
    pub connections: u64,
    /// Sessions with a connection now.
    pub sessions: u64,
    /// Sessions now that outlive their connection, with one or without.
    pub sessions_kept: u64,
    /// Sessions that ended because their client was away for too long.
    pub sessions_expired: u64,
    /// Messages now that wait for a subscriber or for its ack.
    pub queued_messages: u64,
    /// What they cost in memory now, in bytes.
    pub queued_bytes: u64,
    /// Sessions that a newer connection with the same client id has taken over.
    pub taken_over: u64,
    /// Publishes that came with QoS 0, refused ones included.
    pub publishes_qos0: u64,
    /// Publishes that came with QoS 1, refused ones and repetitions included.
    pub publishes_qos1: u64,
    /// Publishes that came with QoS 2, refused ones and repetitions included.
    pub publishes_qos2: u64,
    /// Publishes that were handed to the buffer as readings.
    pub readings: u64,
    /// Those of them that no sink can use.
    pub readings_unfit: u64,
    /// Publishes that a device repeated though they had been taken; they are acknowledged, not stored twice.
    pub retransmissions: u64,
    /// Messages that went into the output of a subscriber's connection. Those at its end may not have
    /// reached the subscriber.
    pub delivered: u64,
    /// Messages that a subscriber was not given, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Retained messages now.
    pub retained: u64,
    /// What they count against `retained.max_size`, in bytes.
    pub retained_bytes: u64,
    /// Wills now that wait for their delay.
    pub wills_waiting: u64,
    /// Wills that were published.
    pub wills_published: u64,
    /// Refusals by reason.
    pub refusals: BTreeMap<&'static str, u64>,
}

/// The counters behind [`Figures`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connections: Counter,
    pub(super) sessions_expired: Counter,
    pub(super) taken_over: Counter,
    pub(super) publishes_qos0: Counter,
    pub(super) publishes_qos1: Counter,
    pub(super) publishes_qos2: Counter,
    pub(super) readings: Counter,
    pub(super) readings_unfit: Counter,
    pub(super) retransmissions: Counter,
    pub(super) delivered: Counter,
    pub(super) wills_published: Counter,
    dropped_queue_full: Counter,
    dropped_all_queues_full: Counter,
    pub(super) dropped_expired: Counter,
    pub(super) dropped_too_large: Counter,
    pub(super) dropped_not_allowed: Counter,
    pub(super) dropped_session_ended: Counter,
}

#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        if count > 0 {
            self.0.fetch_add(count, Ordering::Relaxed);
        }
    }

    pub(super) fn subtract(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    /// A message did not find room.
    pub(super) fn dropped(&self, full: Full) {
        match full {
            Full::Session => self.dropped_queue_full.add(1),
            Full::Broker => self.dropped_all_queues_full.add(1),
            Full::Ended => {}
        }
    }

    pub(super) fn figures(&self, broker: &Shared) -> Figures {
        let sessions = broker.registry.figures();
        let (retained, retained_bytes) = broker.retained.figures();
        let dropped = [
            ("queue_full", &self.dropped_queue_full),
            ("all_queues_full", &self.dropped_all_queues_full),
            ("expired", &self.dropped_expired),
            ("too_large", &self.dropped_too_large),
            ("not_allowed", &self.dropped_not_allowed),
            ("session_ended", &self.dropped_session_ended),
        ];
        Figures {
            connections: self.connections.value(),
            sessions: sessions.online,
            sessions_kept: sessions.kept,
            sessions_expired: self.sessions_expired.value(),
            queued_messages: sessions.queued_messages,
            queued_bytes: sessions.queued_bytes,
            taken_over: self.taken_over.value(),
            publishes_qos0: self.publishes_qos0.value(),
            publishes_qos1: self.publishes_qos1.value(),
            publishes_qos2: self.publishes_qos2.value(),
            readings: self.readings.value(),
            readings_unfit: self.readings_unfit.value(),
            retransmissions: self.retransmissions.value(),
            delivered: self.delivered.value(),
            dropped: dropped.into_iter().map(|(reason, count)| (reason, count.value())).collect(),
            retained: retained as u64,
            retained_bytes,
            wills_waiting: broker.wills.len() as u64,
            wills_published: self.wills_published.value(),
            refusals: broker.refusals.counts(),
        }
    }
}
