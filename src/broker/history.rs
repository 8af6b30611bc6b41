//! A device's retransmission is not a new reading.
//!
//! Within a session QoS 2 sees to that by itself: a packet identifier stands for one publish until that is released.
//! Another topic or payload under it is another publish all the same: a client whose release was forgotten, by
//! itself or by a damaged store, must not lose what it sends next.
//! What follows is for QoS 1, and for QoS 2 over a clean session, which knows nothing of the one before.
//!
//! esp-mqtt sends a QoS 1 publish again, with DUP, when its ack has not come after a second (an SD card may
//! take longer), and after a reconnect even with a clean session. Such a publish is not stored twice, and
//! acknowledged when the first is on disk, if it has DUP, and the same client has sent the same packet
//! identifier, topic and payload within the last minute. All of that, because what is taken for a repetition
//! by mistake is lost.
//!
//! All connections of a client have one history, and the newest of them holds it: an older one that is still
//! about to close takes nothing more, so that nothing comes in by both.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use super::registry::SessionKey;
use super::wire::Publish;
use crate::buffer::Mark;
use crate::message::Stamp;

/// esp-mqtt gives a message up after 30 s; a sensor that sleeps and starts anew, with the same
/// packet identifiers, sleeps longer than a minute.
const MAX_AGE_MS: u64 = 60_000;

/// Acknowledged publishes that are remembered of a connection: their ack may still be on its way.
const MAX_ACKNOWLEDGED: usize = 32;

/// Publishes that are remembered of earlier connections.
const MAX_LEFT: usize = 256;

/// Clients whose publishes are remembered after their connection ended.
const MAX_CLIENTS: usize = 1_024;

/// What a client has published, as far as its next connection must know.
#[derive(Debug, Default)]
pub(super) struct History {
    /// QoS 2 publishes that were taken and not released yet, by their packet identifier.
    received: BTreeMap<u16, Received>,
    /// The newest QoS 1 and 2 readings, oldest first.
    taken: VecDeque<Taken>,
    /// So many of them came over earlier connections.
    earlier: usize,
    /// Which of the client's connections holds it.
    holder: u64,
}

/// A publish that the buffer has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Original {
    /// When its reading is on disk.
    pub(super) mark: Mark,
    /// An earlier connection has submitted it: this one's writer is not told when it is on disk.
    pub(super) earlier: bool,
}

impl Original {
    /// When this is on disk, too.
    pub(super) fn and(self, mark: Mark) -> Self {
        Self { mark: self.mark.max(mark), ..self }
    }
}

/// A QoS 2 publish that was taken and not released yet.
#[derive(Debug, Clone, Copy)]
struct Received {
    original: Original,
    digest: Digest,
}

#[derive(Debug, Clone, Copy)]
struct Taken {
    mark: Mark,
    fingerprint: Fingerprint,
}

/// Of topic and payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digest(pub(super) u32);

impl Digest {
    fn of(publish: &Publish) -> Self {
        let mut digest = crc32fast::Hasher::new();
        digest.update(publish.topic.as_bytes());
        // No topic holds a NUL: it ends there.
        digest.update(b"\0");
        digest.update(&publish.payload);
        Self(digest.finalize())
    }
}

/// By what a repetition is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fingerprint {
    boot_ms: u64,
    pub(super) digest: Digest,
    packet_id: u16,
}

impl Fingerprint {
    pub(super) fn new(publish: &Publish, received: Stamp) -> Self {
        Self { boot_ms: received.boot_ms, digest: Digest::of(publish), packet_id: publish.packet_id }
    }

    fn is_repeated_by(&self, later: &Self) -> bool {
        (self.packet_id, self.digest) == (later.packet_id, later.digest) && !self.is_too_old(later.boot_ms)
    }

    fn is_too_old(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.boot_ms) > MAX_AGE_MS
    }
}

impl History {
    /// Keeps a reading that was submitted. `unacked`: publishes of this connection without an ack.
    pub(super) fn remember(&mut self, fingerprint: Fingerprint, mark: Mark, unacked: usize) {
        if self.earlier > 0 && self.taken[self.earlier - 1].fingerprint.is_too_old(fingerprint.boot_ms) {
            self.taken.drain(..self.earlier);
            self.earlier = 0;
        }
        self.taken.push_back(Taken { mark, fingerprint });
        for _ in 0..2 {
            if self.taken.len() - self.earlier > unacked + MAX_ACKNOWLEDGED {
                self.taken.remove(self.earlier);
            }
        }
    }

    /// What a publish with DUP repeats.
    pub(super) fn find(&self, later: &Fingerprint) -> Option<Original> {
        let index = self.taken.iter().rposition(|taken| taken.fingerprint.is_repeated_by(later))?;
        Some(Original { mark: self.taken[index].mark, earlier: index < self.earlier })
    }

    /// What a QoS 2 publish repeats that is not released yet: one with its packet identifier, topic and payload.
    /// DUP says nothing: clients send again without it (eclipse-paho/paho.mqtt.golang#487).
    pub(super) fn repeated(&self, publish: &Publish) -> Option<Original> {
        let received = self.received.get(&publish.packet_id)?;
        (received.digest == Digest::of(publish)).then_some(received.original)
    }

    /// Whether a QoS 2 publish with this packet identifier is not released yet.
    pub(super) fn has_received(&self, packet_id: u16) -> bool {
        self.received.contains_key(&packet_id)
    }

    /// QoS 2 publishes that are not released yet.
    pub(super) fn received_count(&self) -> usize {
        self.received.len()
    }

    /// A QoS 2 publish was taken: until it is released, its identifier stands for it (MQTT-4.3.3-2).
    pub(super) fn receive(&mut self, fingerprint: &Fingerprint, original: Original) {
        let Fingerprint { packet_id, digest, .. } = *fingerprint;
        self.received.insert(packet_id, Received { original, digest });
    }

    /// Returns whether there was such a publish.
    pub(super) fn release(&mut self, packet_id: u16) -> bool {
        self.received.remove(&packet_id).is_some()
    }

    /// An earlier process has taken it.
    pub(super) fn restore(&mut self, packet_id: u16, digest: Digest) {
        self.received.insert(packet_id, Received { original: Original::default(), digest });
    }

    /// The session has ended. What is not released is given back.
    pub(super) fn forget_received(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.received).into_keys().collect()
    }

    /// Another connection of the client begins.
    fn hand_over(&mut self) -> u64 {
        self.received.values_mut().for_each(|received| received.original.earlier = true);
        let excess = self.taken.len().saturating_sub(MAX_LEFT);
        self.taken.drain(..excess);
        self.earlier = self.taken.len();
        self.holder += 1;
        self.holder
    }

    fn newest_boot_ms(&self) -> Option<u64> {
        self.taken.back().map(|taken| taken.fingerprint.boot_ms)
    }
}

/// The history of a client, as all its connections share it.
pub(super) type SharedHistory = Arc<Mutex<History>>;

/// A connection's hold on the history of its client.
#[derive(Debug)]
pub(super) struct Hold {
    history: SharedHistory,
    holder: u64,
}

impl Hold {
    /// Takes the history from the connection that held it until now.
    pub(super) fn take(history: SharedHistory) -> Self {
        let holder = lock(&history).hand_over();
        Self { history, holder }
    }

    /// The history; `None` when a newer connection holds it. As long as it is locked, none can take it.
    pub(super) fn lock(&self) -> Option<MutexGuard<'_, History>> {
        let history = lock(&self.history);
        (history.holder == self.holder).then_some(history)
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().expect("no panic under this lock")
}

/// What clients whose connection ended have left. Bounded by age and number.
#[derive(Debug, Default)]
pub(super) struct Histories(Mutex<Left>);

#[derive(Debug, Default)]
struct Left {
    histories: HashMap<SessionKey, (u64, SharedHistory)>,
    /// In the order in which they were left.
    order: BTreeMap<u64, SessionKey>,
    last: u64,
}

impl Histories {
    /// A connection has ended.
    pub(super) fn leave(&self, key: &SessionKey, hold: &Hold) {
        let Some(now_ms) = lock(&hold.history).newest_boot_ms() else { return };
        let mut left = lock(&self.0);
        left.remove(key);
        left.last += 1;
        let turn = left.last;
        left.order.insert(turn, key.clone());
        left.histories.insert(key.clone(), (turn, Arc::clone(&hold.history)));
        left.forget(now_ms);
    }

    /// The history of a client that has no connection.
    pub(super) fn recall(&self, key: &SessionKey) -> SharedHistory {
        lock(&self.0).remove(key).unwrap_or_default()
    }
}

impl Left {
    fn remove(&mut self, key: &SessionKey) -> Option<SharedHistory> {
        let (turn, history) = self.histories.remove(key)?;
        self.order.remove(&turn);
        Some(history)
    }

    fn forget(&mut self, now_ms: u64) {
        while let Some((_, oldest)) = self.order.first_key_value() {
            let is_too_old = |(_, history): &(u64, SharedHistory)| {
                lock(history).newest_boot_ms().is_none_or(|ms| now_ms.saturating_sub(ms) > MAX_AGE_MS)
            };
            if self.order.len() <= MAX_CLIENTS && !self.histories.get(oldest).is_none_or(is_too_old) {
                return;
            }
            if let Some((_, oldest)) = self.order.pop_first() {
                self.histories.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::authorize::{Identity, IdentityKind};
    use crate::message::{BootId, ClockQuality, DeviceId, Qos};

    fn at(boot_ms: u64) -> Stamp {
        Stamp { wall_ms: 0, boot_ms, boot: BootId([0; 16]), quality: ClockQuality::Synchronized }
    }

    fn publish(packet_id: u16, payload: &str) -> Publish {
        Publish {
            dup: false,
            qos: Qos::AtLeastOnce,
            retain: false,
            packet_id,
            topic: "plug/x".to_owned(),
            topic_alias: None,
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            properties: None,
        }
    }

    fn key(client_id: &str) -> SessionKey {
        let identity = Identity { device: DeviceId::parse("plug").unwrap(), kind: IdentityKind::Certificate };
        SessionKey { identity, client_id: client_id.into() }
    }

    fn mark(history: &History, publish: &Publish, received: Stamp) -> Option<Mark> {
        history.find(&Fingerprint::new(publish, received)).map(|original| original.mark)
    }

    #[test]
    fn only_the_same_packet_with_the_same_content_within_a_minute_is_a_repetition() {
        let mut history = History::default();
        history.remember(Fingerprint::new(&publish(1, "21.5"), at(1_000)), Mark::new(70), 1);
        assert_eq!(mark(&history, &publish(1, "21.5"), at(61_000)), Some(Mark::new(70)));
        assert_eq!(mark(&history, &publish(1, "21.5"), at(61_001)), None, "too late");
        assert_eq!(mark(&history, &publish(1, "21.6"), at(1_000)), None);
        assert_eq!(mark(&history, &publish(2, "21.5"), at(1_000)), None);
        let elsewhere = Publish { topic: "plug/y".to_owned(), ..publish(1, "21.5") };
        assert_eq!(mark(&history, &elsewhere, at(1_000)), None);
    }

    #[test]
    fn everything_unacknowledged_and_the_newest_acknowledged_are_remembered() {
        let mut history = History::default();
        for id in 1..=200 {
            history.remember(
                Fingerprint::new(&publish(id, "!"), at(0)),
                Mark::new(id.into()),
                usize::from(id).min(100),
            );
        }
        assert_eq!(history.taken.len(), 100 + MAX_ACKNOWLEDGED);
        for id in 201..=400 {
            history.remember(Fingerprint::new(&publish(id, "!"), at(0)), Mark::new(id.into()), 0);
        }
        assert_eq!(history.taken.len(), MAX_ACKNOWLEDGED);
        assert_eq!(mark(&history, &publish(400, "!"), at(0)), Some(Mark::new(400)));
    }

    #[test]
    fn what_a_connection_has_left_is_found_by_the_next_of_that_client() {
        let histories = Histories::default();
        let first = Hold::take(Arc::default());
        first.lock().unwrap().remember(Fingerprint::new(&publish(1, "!"), at(0)), Mark::new(70), 1);
        histories.leave(&key("c"), &first);
        assert!(histories.recall(&key("other")).lock().unwrap().taken.is_empty());
        let next = Hold::take(histories.recall(&key("c")));
        let mut next = next.lock().unwrap();
        next.remember(Fingerprint::new(&publish(2, "!"), at(0)), Mark::new(71), 1);
        let found = |id| next.find(&Fingerprint::new(&publish(id, "!"), at(0)));
        assert_eq!(found(1), Some(Original { mark: Mark::new(70), earlier: true }));
        assert_eq!(found(2), Some(Original { mark: Mark::new(71), earlier: false }));
    }

    #[test]
    fn a_connection_that_was_taken_over_takes_nothing_more() {
        let history = SharedHistory::default();
        let older = Hold::take(Arc::clone(&history));
        assert!(older.lock().is_some());
        let newer = Hold::take(history);
        assert!(older.lock().is_none());
        assert!(newer.lock().is_some());
    }

    #[test]
    fn what_earlier_connections_have_left_stays_for_a_minute_whatever_comes_after_it() {
        let hold = Hold::take(Arc::default());
        hold.lock().unwrap().remember(Fingerprint::new(&publish(1, "!"), at(0)), Mark::new(1), 1);
        let hold = Hold::take(hold.history);
        let mut history = hold.lock().unwrap();
        for id in 2..=500 {
            history.remember(Fingerprint::new(&publish(id, "!"), at(MAX_AGE_MS)), Mark::new(id.into()), 0);
        }
        assert_eq!(mark(&history, &publish(1, "!"), at(MAX_AGE_MS)), Some(Mark::new(1)));
        history.remember(Fingerprint::new(&publish(501, "!"), at(MAX_AGE_MS + 1)), Mark::new(501), 0);
        assert_eq!((history.taken.len(), history.earlier), (MAX_ACKNOWLEDGED, 0));
    }

    #[test]
    fn what_is_left_is_bounded_by_age_and_number() {
        let histories = Histories::default();
        let leave = |client: usize, at_ms| {
            let hold = Hold::take(Arc::default());
            hold.lock().unwrap().remember(Fingerprint::new(&publish(1, "!"), at(at_ms)), Mark::new(1), 0);
            histories.leave(&key(&client.to_string()), &hold);
        };
        let count = || {
            let left = lock(&histories.0);
            assert_eq!(left.order.len(), left.histories.len());
            left.order.len()
        };
        (0..MAX_CLIENTS + 10).for_each(|client| leave(client, 0));
        (0..MAX_CLIENTS).for_each(|_| leave(MAX_CLIENTS, 0));
        assert_eq!(count(), MAX_CLIENTS, "one that comes again and again displaces nobody");
        leave(0, MAX_AGE_MS + 1);
        assert_eq!(count(), 1);
        let long = Hold::take(Arc::default());
        for id in 1..=1_000 {
            long.lock().unwrap().remember(
                Fingerprint::new(&publish(id, "!"), at(MAX_AGE_MS)),
                Mark::new(1),
                1_000,
            );
        }
        let next = Hold::take(long.history);
        assert_eq!(next.lock().unwrap().taken.len(), MAX_LEFT);
    }
}
