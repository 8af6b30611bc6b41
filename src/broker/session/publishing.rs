//! What a session does with a PUBLISH. Promise P1 stands in [`Session::publish`].

use super::{End, Session, protocol_error};
use crate::authorize::refusals::Refusal;
use crate::broker::history::{Fingerprint, Original};
use crate::broker::kept;
use crate::broker::publisher::Outcome;
use crate::broker::routes::Route;
use crate::broker::wire::{AckKind, Publish, Reason, Version};
use crate::message::{Qos, Stamp};

/// Topics that a client may give a number, which we then remember for it.
pub(in crate::broker) const MAX_ALIASES: u16 = 16;

/// A publish for which the buffer had no room.
#[derive(Debug)]
pub(super) struct Parked {
    publish: Publish,
    received: Stamp,
}

/// The topics that the client has given numbers.
pub(super) type Aliases = [Option<Box<str>>; MAX_ALIASES as usize];

/// What became of a publish with QoS 1 or 2.
enum Taken {
    /// It is acknowledged behind this.
    Now(Original, Reason),
    /// As an earlier transmission of it.
    Before(Original),
    /// There is no room for it on disk.
    Not(Publish),
    /// It cannot be retained, and its client is told so.
    NotRetained(Publish),
}

impl Session {
    /// A PUBLISH has come.
    pub(super) fn take_publish(&mut self, mut publish: Publish, received: Stamp) -> Result<(), End> {
        let counters = &self.broker.counters;
        match publish.qos {
            Qos::AtMostOnce => counters.publishes_qos0.add(1),
            Qos::AtLeastOnce => counters.publishes_qos1.add(1),
            Qos::ExactlyOnce => counters.publishes_qos2.add(1),
        }
        if publish.topic_alias.is_some() {
            self.resolve_alias(&mut publish)?;
        }
        let max = self.broker.limits.max_inflight;
        let mut is_counted = publish.qos == Qos::AtMostOnce;
        if publish.qos == Qos::ExactlyOnce {
            let history = self.history.lock().ok_or(End::TakenOver)?;
            let (original, count) = (history.repeated(&publish), history.received_count());
            is_counted = history.has_received(publish.packet_id);
            drop(history);
            if let Some(original) = original {
                // MQTT-4.3.3-2, in 5.0 -10.
                self.broker.counters.retransmissions.add(1);
                self.owe(AckKind::Pubrec, publish.packet_id, Reason::Success, original);
                return Ok(());
            }
            if !is_counted && count >= max.into() {
                return Err(too_many(max));
            }
        }
        if !is_counted {
            if self.version == Version::V5 && self.in_flight >= max {
                return Err(too_many(max));
            }
            self.in_flight = self.in_flight.saturating_add(1);
        }
        self.publish(publish, received)
    }

    /// P1: authorize, submit, ack. The ack leaves when what is kept of it is on disk.
    pub(super) fn publish(&mut self, publish: Publish, received: Stamp) -> Result<(), End> {
        if let Err(beyond) = self.broker.topics.check(&publish.topic) {
            let detail = format!("a topic of {beyond}: {}", publish.topic);
            return self.refuse_publish(&publish, Refusal::TopicTooLong, Reason::TopicNameInvalid, detail);
        }
        let route = self.publisher.route(&self.broker, &publish.topic);
        if let Some((refusal, reason)) = refusal(&route, &publish) {
            return self.refuse_publish(&publish, refusal, reason, publish.topic.clone());
        }
        let Some(replied) = self.take_reply(&publish)? else {
            self.parked = Some(Box::new(Parked { publish, received }));
            return Ok(());
        };
        self.take_announcement(&publish)?;
        let (qos, packet_id) = (publish.qos, publish.packet_id);
        let kind = match qos {
            Qos::AtMostOnce => return self.publish_at_most_once(&route, publish, received),
            Qos::AtLeastOnce => AckKind::Puback,
            Qos::ExactlyOnce => AckKind::Pubrec,
        };
        match self.submit(&route, publish, received)? {
            Taken::Now(behind, reason) => self.owe(kind, packet_id, reason, behind.and(replied)),
            Taken::Before(behind) => {
                self.broker.counters.retransmissions.add(1);
                self.owe(kind, packet_id, Reason::Success, behind);
            }
            Taken::Not(publish) => self.parked = Some(Box::new(Parked { publish, received })),
            Taken::NotRetained(publish) => {
                let detail = publish.topic.clone();
                return self.refuse_publish(&publish, Refusal::RetainedFull, Reason::QuotaExceeded, detail);
            }
        }
        Ok(())
    }

    fn submit(&mut self, route: &Route, publish: Publish, received: Stamp) -> Result<Taken, End> {
        let is_exactly_once = publish.qos == Qos::ExactlyOnce;
        let fingerprint = Fingerprint::new(&publish, received);
        let mut changes = Vec::new();
        if is_exactly_once && self.mailbox.is_kept() {
            // In their order: the identifier may have been released just now.
            self.submit_backlog()?;
            if self.starved {
                return Ok(Taken::Not(publish));
            }
            changes.push(kept::put_received(self.mailbox.number, publish.packet_id, fingerprint.digest));
        }
        // As long as it is locked, no newer connection can take the same publish.
        let mut history = self.history.lock().ok_or(End::TakenOver)?;
        // One that is no reading is delivered anew when it is repeated: it is not stored.
        let is_reading = route.reading.is_some();
        if publish.dup
            && is_reading
            && let Some(original) = history.find(&fingerprint)
        {
            if is_exactly_once {
                history.receive(&fingerprint, original);
                self.backlog.append(&mut changes);
            }
            return Ok(Taken::Before(original));
        }
        let (mark, matched) = match self.publisher.publish(&self.broker, route, publish, received, changes) {
            Outcome::Taken { mark, matched } => (mark, matched),
            Outcome::Full(publish) => return Ok(Taken::Not(publish)),
            Outcome::NotRetained(publish) => return Ok(Taken::NotRetained(publish)),
            Outcome::Closed => return Err(End::Stopping),
        };
        let original = Original { mark, earlier: false };
        if is_exactly_once {
            history.receive(&fingerprint, original);
        }
        if is_reading {
            history.remember(fingerprint, mark, self.owed.len());
        }
        let reason = if matched { Reason::Success } else { Reason::NoMatchingSubscribers };
        Ok(Taken::Now(original, reason))
    }

    fn publish_at_most_once(&mut self, route: &Route, publish: Publish, received: Stamp) -> Result<(), End> {
        match self.publisher.publish(&self.broker, route, publish, received, Vec::new()) {
            Outcome::Taken { .. } => Ok(()),
            Outcome::Full(publish) | Outcome::NotRetained(publish) => {
                self.publisher.writer.count_refused();
                self.publisher.deliver_only(&self.broker, route, publish, received);
                Ok(())
            }
            Outcome::Closed => Err(End::Stopping),
        }
    }

    /// 3.1.1 cannot say no, and a PUBACK would make it look taken: the connection is closed.
    fn refuse_publish(
        &mut self,
        publish: &Publish,
        refusal: Refusal,
        reason: Reason,
        detail: String,
    ) -> Result<(), End> {
        let kind = match (publish.qos, self.version) {
            (Qos::AtMostOnce, _) => {
                self.refuse(refusal, &detail);
                return Ok(());
            }
            (_, Version::V3) => return Err(End::refused(refusal, reason, detail)),
            (Qos::AtLeastOnce, Version::V5) => AckKind::Puback,
            (Qos::ExactlyOnce, Version::V5) => AckKind::Pubrec,
        };
        self.refuse(refusal, &detail);
        self.owe(kind, publish.packet_id, reason, Original::default());
        Ok(())
    }

    /// Puts the topic in the place of its number, or remembers it (section 3.3.2.3.4).
    fn resolve_alias(&mut self, publish: &mut Publish) -> Result<(), End> {
        let Some(alias) = publish.topic_alias.take() else { return Ok(()) };
        let aliases = self.aliases.get_or_insert_default();
        let Some(topic) = alias.checked_sub(1).and_then(|index| aliases.get_mut(usize::from(index))) else {
            // MQTT-3.3.2-9.
            let what = format!("the topic alias {alias}, more than {MAX_ALIASES}");
            return Err(End::refused(Refusal::ProtocolViolation, Reason::TopicAliasInvalid, what));
        };
        if !publish.topic.is_empty() {
            // Of one that is too long, as much as shows that it is: what is published by its number is refused, too.
            *topic = Some(publish.topic.chars().take(self.broker.topics.max_bytes + 1).collect());
            return Ok(());
        }
        match topic {
            Some(topic) => publish.topic = topic.to_string(),
            None => return Err(protocol_error("a topic alias that stands for nothing")),
        }
        Ok(())
    }

    /// Tries again what there was no room for.
    pub(super) fn unpark(&mut self) -> Result<(), End> {
        self.submit_backlog()?;
        match self.parked.take() {
            Some(parked) => self.publish(parked.publish, parked.received),
            None => Ok(()),
        }
    }
}

/// MQTT-3.3.4-9. In 3.1.1, where a client is not told how many there may be, it holds for QoS 2 alone: others wait.
fn too_many(max: u16) -> End {
    let what = format!("more than {max} publishes without an end, the receive maximum");
    End::refused(Refusal::ProtocolViolation, Reason::ReceiveMaximumExceeded, what)
}

/// Why a publish is not taken, and what its publisher is told.
fn refusal(route: &Route, publish: &Publish) -> Option<(Refusal, Reason)> {
    if !route.allows(publish.qos, publish.retain) {
        return Some((Refusal::PublishNotAllowed, Reason::NotAuthorized));
    }
    // A reading is kept whatever it holds, and its stream says what is wrong with it.
    let says_utf8 =
        publish.properties.as_ref().is_some_and(|properties| properties.payload_format == Some(1));
    if says_utf8 && route.reading.is_none() && std::str::from_utf8(&publish.payload).is_err() {
        return Some((Refusal::PayloadUnfit, Reason::PayloadFormatInvalid));
    }
    None
}
