//! A device's retransmission is not a new reading.
//!
//! esp-mqtt sends a QoS 1 publish again, with DUP, when its ack has not come after a second (an SD card may
//! take longer), and after a reconnect even with a clean session. Such a publish is acknowledged and not
//! stored twice if it has DUP, and the same client has sent the same packet identifier, topic and payload
//! within the last minute. All of that, because what is taken for a repetition by mistake is lost.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use rumqttc::mqttbytes::v4::Publish;

use super::registry::SessionKey;
use crate::message::{Seq, Stamp};

/// esp-mqtt gives a message up after 30 s; a sensor that sleeps and starts anew, with the same
/// packet identifiers, sleeps longer than a minute.
const MAX_AGE_MS: u64 = 60_000;

/// Acknowledged publishes that are remembered of a connection: their ack may still be on its way.
const MAX_ACKNOWLEDGED: usize = 32;

/// Publishes that are remembered of a connection that ended, and those before it.
const MAX_LEFT: usize = 256;

/// Clients whose publishes are remembered after their connection ended.
const MAX_CLIENTS: usize = 1_024;

/// The newest QoS 1 readings of a client, oldest first.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<Taken>);

#[derive(Debug, Clone, Copy)]
struct Taken {
    seq: Seq,
    boot_ms: u64,
    digest: u32,
    packet_id: u16,
    /// Over this connection, not an earlier one.
    here: bool,
}

impl Taken {
    fn new(publish: &Publish, seq: Seq, received: Stamp) -> Self {
        let mut digest = crc32fast::Hasher::new();
        digest.update(publish.topic.as_bytes());
        // No topic holds a NUL: it ends there.
        digest.update(b"\0");
        digest.update(&publish.payload);
        let (boot_ms, packet_id) = (received.boot_ms, publish.pkid);
        Self { seq, boot_ms, digest: digest.finalize(), packet_id, here: true }
    }

    fn is_repeated_by(&self, later: &Self) -> bool {
        (self.packet_id, self.digest) == (later.packet_id, later.digest)
            && later.boot_ms.saturating_sub(self.boot_ms) <= MAX_AGE_MS
    }
}

impl History {
    /// Keeps a reading that was submitted as `seq`. `unacked`: publishes of this connection without an ack.
    pub(super) fn remember(&mut self, publish: &Publish, seq: Seq, received: Stamp, unacked: usize) {
        self.0.push_back(Taken::new(publish, seq, received));
        // Gradually: right after a reconnect what an earlier connection has left is still needed.
        for _ in 0..2 {
            if self.0.len() > unacked + MAX_ACKNOWLEDGED {
                self.0.pop_front();
            }
        }
    }

    /// The number under which a publish with DUP is stored already. One of an earlier connection counts
    /// when it is on disk: this connection's writer is not told when it comes there.
    pub(super) fn find(&self, publish: &Publish, received: Stamp, durable: Seq) -> Option<Seq> {
        let later = Taken::new(publish, 0, received);
        let known = |taken: &&Taken| taken.is_repeated_by(&later) && (taken.here || taken.seq <= durable);
        self.0.iter().rev().find(known).map(|taken| taken.seq)
    }

    /// Puts what an earlier connection has left in front.
    fn prepend(&mut self, mut earlier: Self) {
        earlier.0.iter_mut().for_each(|taken| taken.here = false);
        earlier.0.append(&mut self.0);
        let excess = earlier.0.len().saturating_sub(MAX_LEFT);
        earlier.0.drain(..excess);
        *self = earlier;
    }

    fn newest_boot_ms(&self) -> Option<u64> {
        self.0.back().map(|taken| taken.boot_ms)
    }
}

/// What connections that ended have left, oldest first. Bounded by age and number.
#[derive(Debug, Default)]
pub(super) struct Histories(Mutex<VecDeque<(SessionKey, History)>>);

impl Histories {
    /// A connection has ended.
    pub(super) fn leave(&self, key: &SessionKey, mut history: History) {
        let Some(now_ms) = history.newest_boot_ms() else { return };
        let mut left = self.left();
        if let Some(earlier) = take(&mut left, key) {
            history.prepend(earlier);
        }
        left.push_back((key.clone(), history));
        while let Some((_, oldest)) = left.front()
            && (left.len() > MAX_CLIENTS
                || oldest.newest_boot_ms().is_none_or(|ms| now_ms.saturating_sub(ms) > MAX_AGE_MS))
        {
            left.pop_front();
        }
    }

    /// Adds what earlier connections of this client have left, once.
    pub(super) fn recall(&self, key: &SessionKey, history: &mut History) {
        if let Some(earlier) = take(&mut self.left(), key) {
            history.prepend(earlier);
        }
    }

    fn left(&self) -> MutexGuard<'_, VecDeque<(SessionKey, History)>> {
        self.0.lock().expect("no panic under this lock")
    }
}

fn take(left: &mut VecDeque<(SessionKey, History)>, key: &SessionKey) -> Option<History> {
    let index = left.iter().position(|(theirs, _)| theirs == key)?;
    left.remove(index).map(|(_, history)| history)
}

#[cfg(test)]
mod tests {
    use rumqttc::mqttbytes::QoS;

    use super::*;
    use crate::authorize::{Identity, IdentityKind};
    use crate::message::{BootId, ClockQuality, DeviceId};

    fn at(boot_ms: u64) -> Stamp {
        Stamp { wall_ms: 0, boot_ms, boot: BootId([0; 16]), quality: ClockQuality::Synchronized }
    }

    fn publish(packet_id: u16, payload: &str) -> Publish {
        Publish { pkid: packet_id, ..Publish::new("plug/x", QoS::AtLeastOnce, payload) }
    }

    fn key(client_id: &str) -> SessionKey {
        let identity = Identity { device: DeviceId::parse("plug").unwrap(), kind: IdentityKind::Certificate };
        SessionKey { identity, client_id: client_id.into() }
    }

    #[test]
    fn only_the_same_packet_with_the_same_content_within_a_minute_is_a_repetition() {
        let mut history = History::default();
        history.remember(&publish(1, "21.5"), 70, at(1_000), 1);
        assert_eq!(history.find(&publish(1, "21.5"), at(61_000), 0), Some(70));
        assert_eq!(history.find(&publish(1, "21.5"), at(61_001), 0), None, "too late");
        assert_eq!(history.find(&publish(1, "21.6"), at(1_000), 0), None);
        assert_eq!(history.find(&publish(2, "21.5"), at(1_000), 0), None);
        let elsewhere = Publish { topic: "plug/y".to_owned(), ..publish(1, "21.5") };
        assert_eq!(history.find(&elsewhere, at(1_000), 0), None);
    }

    #[test]
    fn everything_unacknowledged_and_the_newest_acknowledged_are_remembered() {
        let mut history = History::default();
        for id in 1..=200 {
            history.remember(&publish(id, "!"), id.into(), at(0), usize::from(id).min(100));
        }
        assert_eq!(history.0.len(), 100 + MAX_ACKNOWLEDGED);
        for id in 201..=400 {
            history.remember(&publish(id, "!"), id.into(), at(0), 0);
        }
        assert_eq!(history.0.len(), MAX_ACKNOWLEDGED);
        assert_eq!(history.find(&publish(400, "!"), at(0), 0), Some(400));
    }

    #[test]
    fn what_a_connection_has_left_is_found_by_the_next_of_that_client_once_it_is_on_disk() {
        let (histories, mut history) = (Histories::default(), History::default());
        history.remember(&publish(1, "!"), 70, at(0), 1);
        histories.leave(&key("c"), history);
        let mut next = History::default();
        histories.recall(&key("other"), &mut next);
        assert_eq!(next.find(&publish(1, "!"), at(0), 70), None);
        histories.recall(&key("c"), &mut next);
        assert_eq!(next.find(&publish(1, "!"), at(0), 69), None);
        assert_eq!(next.find(&publish(1, "!"), at(0), 70), Some(70));
    }

    #[test]
    fn what_is_left_is_bounded_by_age_and_number() {
        let histories = Histories::default();
        let leave = |client: usize, at_ms| {
            let mut history = History::default();
            history.remember(&publish(1, "!"), 1, at(at_ms), 0);
            histories.leave(&key(&client.to_string()), history);
        };
        (0..MAX_CLIENTS + 10).for_each(|client| leave(client, 0));
        (0..MAX_CLIENTS).for_each(|_| leave(MAX_CLIENTS, 0));
        assert_eq!(histories.left().len(), MAX_CLIENTS, "one that comes again and again displaces nobody");
        leave(0, MAX_AGE_MS + 1);
        assert_eq!(histories.left().len(), 1);
        let mut long = History::default();
        for id in 1..=1_000 {
            long.remember(&publish(id, "!"), 1, at(MAX_AGE_MS), 1_000);
        }
        histories.leave(&key("0"), long);
        assert_eq!(histories.left()[0].1.0.len(), MAX_LEFT);
    }
}
