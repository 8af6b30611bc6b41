//! What a session does with a PUBLISH. Promise P1 stands in [`Session::publish`].

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::Publish;

use super::{End, Session};
use crate::authorize::refusals::Refusal;
use crate::broker::history::Original;
use crate::broker::outbox::{Frame, Put};
use crate::broker::routes::Route;
use crate::broker::subscriptions::Target;
use crate::buffer::{SubmitError, Wait};
use crate::message::{Incoming, Qos, Stamp};

/// Messages are moved from the outbox so many bytes at a time.
const OUT_BYTES: usize = 32 * 1024;

/// A QoS 1 publish that waits for its PUBACK.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unacked {
    /// What must be on disk before it.
    pub(super) behind: Original,
    packet_id: u16,
}

/// What the buffer has of a publish.
enum Stored {
    /// It has it from now on, or needs not have it.
    Now(Original),
    /// It has it from an earlier transmission.
    Before(Original),
    /// It has no room.
    Not,
}

/// A publish for which the buffer had no room.
#[derive(Debug)]
pub(super) struct Parked {
    publish: Publish,
    received: Stamp,
}

impl Session {
    /// Counts what this version does not keep as the client wishes, and refuses what it cannot take at all.
    pub(super) fn count(&mut self, publish: &Publish) -> Result<(), End> {
        let counters = &self.broker.counters;
        match publish.qos {
            QoS::AtMostOnce => counters.publishes_qos0.add(1),
            QoS::AtLeastOnce => counters.publishes_qos1.add(1),
            QoS::ExactlyOnce => {
                let what = format!("a publish with QoS 2 to {}; use QoS 1", publish.topic);
                return Err(End::Refused(Refusal::QosUnsupported, what));
            }
        }
        if publish.retain {
            counters.retained_not_kept.add(1);
            if !std::mem::replace(&mut self.told_of_retain, true) {
                tracing::info!(
                    device = %self.key.identity.device, topic = ?publish.topic,
                    "RETAIN is set: the message is delivered and not kept"
                );
            }
        }
        Ok(())
    }

    /// P1: authorize, submit, ack. The ack leaves when the reading is on disk.
    pub(super) fn publish(&mut self, publish: Publish, received: Stamp) -> Result<(), End> {
        let Some(route) = self.authorize(&publish)? else { return Ok(()) };
        match self.store(&route, &publish, received)? {
            Stored::Now(original) => self.owe_ack(&publish, original),
            Stored::Before(original) => {
                self.broker.counters.retransmissions.add(1);
                self.owe_ack(&publish, original);
                return Ok(());
            }
            Stored::Not if publish.qos == QoS::AtMostOnce => self.writer.count_refused(),
            Stored::Not => {
                self.parked = Some(Box::new(Parked { publish, received }));
                return Ok(());
            }
        }
        self.fan_out(&route, publish);
        Ok(())
    }

    /// Where a publish goes; `None` when it goes nowhere.
    fn authorize(&mut self, publish: &Publish) -> Result<Option<Arc<Route>>, End> {
        let route = self.routes.find(
            &publish.topic,
            &self.key,
            &self.rules,
            &self.broker.subscriptions,
            &self.mailbox,
        )?;
        if route.allowed {
            return Ok(Some(route));
        }
        if publish.qos != QoS::AtMostOnce {
            // A PUBACK would make it look stored.
            return Err(End::Refused(Refusal::PublishNotAllowed, publish.topic.clone()));
        }
        self.refuse(Refusal::PublishNotAllowed, &publish.topic);
        Ok(None)
    }

    /// Hands a reading to the buffer, unless it has it. A publish which is no reading leaves behind those before it.
    fn store(&mut self, route: &Route, publish: &Publish, received: Stamp) -> Result<Stored, End> {
        let Some(source) = &route.reading else {
            return Ok(Stored::Now(self.unacked.back().map(|before| before.behind).unwrap_or_default()));
        };
        let (qos, wait) = match publish.qos {
            QoS::AtMostOnce => (Qos::AtMostOnce, Wait::Nobody),
            QoS::AtLeastOnce | QoS::ExactlyOnce => (Qos::AtLeastOnce, Wait::ForAck),
        };
        let mut history = match wait {
            Wait::Nobody => None,
            Wait::ForAck => Some(self.history.lock().ok_or(End::TakenOver)?),
        };
        if publish.dup
            && let Some(original) = history.as_ref().and_then(|history| history.find(publish, received))
        {
            return Ok(Stored::Before(original));
        }
        let stream = self.rules.streams.get(source.stream);
        let unfit = match &source.fault {
            None => stream.fault(&source.device, &publish.payload),
            fault => fault.clone(),
        };
        let reading = Incoming {
            device: &source.device,
            stream: &stream.name,
            topic: &publish.topic,
            payload: &publish.payload,
            qos,
            received,
            fault: unfit.as_deref(),
        };
        let mark = match self.writer.submit(Some(&reading), Vec::new(), wait) {
            Ok(receipt) => receipt.mark,
            Err(SubmitError::Full) => return Ok(Stored::Not),
            Err(SubmitError::Closed) => return Err(End::Stopping),
        };
        if let Some(history) = &mut history {
            history.remember(publish, mark, received, self.unacked.len());
        }
        self.broker.counters.readings.add(1);
        drop(history);
        if let Some(fault) = unfit {
            self.broker.counters.readings_unfit.add(1);
            self.refuse(Refusal::PayloadUnfit, &format!("{}: {fault}", publish.topic));
        }
        Ok(Stored::Now(Original { mark, earlier: false }))
    }

    fn owe_ack(&mut self, publish: &Publish, behind: Original) {
        if publish.qos != QoS::AtMostOnce {
            self.unacked.push_back(Unacked { behind, packet_id: publish.pkid });
        }
    }

    /// Writes the acks of everything that is on disk.
    pub(super) fn acknowledge(&mut self, out: &mut BytesMut) {
        if self.unacked.is_empty() {
            return;
        }
        let durable = self.writer.durable();
        while let Some(Unacked { behind, packet_id }) = self.unacked.front()
            && behind.mark <= durable
        {
            out.put_slice(&[0x40, 2]);
            out.put_u16(*packet_id);
            self.unacked.pop_front();
        }
        if self.unacked.is_empty() {
            self.unacked = VecDeque::new();
        }
    }

    /// Gives a message to its subscribers. It does not wait for the disk, nor for any of them.
    fn fan_out(&mut self, route: &Route, mut publish: Publish) {
        let published = match publish.qos {
            QoS::AtMostOnce => Qos::AtMostOnce,
            QoS::AtLeastOnce | QoS::ExactlyOnce => Qos::AtLeastOnce,
        };
        let broker = &self.broker;
        let mut frames: [Option<Frame>; 3] = [None, None, None];
        for target in &*route.targets(&publish.topic, &broker.subscriptions, &self.mailbox) {
            let Some(subscriber) = (match target {
                Target::One(subscriber) => Some(subscriber),
                Target::Shared(group) => group.in_turn().next(),
            }) else {
                continue;
            };
            let qos = subscriber.qos.min(published);
            let frame = frames[qos as usize].get_or_insert_with(|| Frame::encode(&mut publish, qos)).clone();
            match subscriber.mailbox.put(frame, broker.limits.max_queued_bytes) {
                Put::Queued => {}
                Put::OwesWake => self.wakes.owe(&subscriber.mailbox),
                Put::Dropped => broker.counters.dropped_slow_subscriber.add(1),
            }
        }
    }

    /// Moves messages from the outbox to the output.
    pub(super) fn deliver(&mut self, out: &mut BytesMut) {
        if self.mail && !self.stopping {
            let (count, more) = self.mailbox.take(out, OUT_BYTES, &mut self.window);
            self.broker.counters.delivered.add(count);
            self.bursts = count > 1;
            self.mail = more;
        }
    }

    /// Tries the parked publish again.
    pub(super) fn unpark(&mut self) -> Result<(), End> {
        match self.parked.take() {
            Some(parked) => self.publish(parked.publish, parked.received),
            None => Ok(()),
        }
    }
}
