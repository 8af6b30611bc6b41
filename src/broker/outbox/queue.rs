//! What one session is still to be given, in order: what waits, and what is in flight.
//!
//! A message with QoS 1 or 2 has a number, counted by session; its packet identifier follows from it, so that
//! a kept message has the same one after a restart without a second write.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;

use super::outlet::{Outlet, Unsendable};
use crate::broker::message::Message;
use crate::broker::subscriptions::Identifiers;
use crate::clock::Clock;
use crate::message::Qos;

/// Messages in flight to one client at most. AWS IoT, which devices were written against, has the same.
pub(in crate::broker) const MAX_IN_FLIGHT: u16 = 100;

/// What an entry costs besides its message.
const ENTRY_BYTES: usize = 64;

/// A message as one session gets it.
#[derive(Debug, Clone)]
pub(in crate::broker) struct Parcel {
    pub(in crate::broker) message: Arc<Message>,
    /// That of this delivery.
    pub(in crate::broker) qos: Qos,
    /// That of this delivery.
    pub(in crate::broker) retain: bool,
    /// Of the subscriptions that the message matched.
    pub(in crate::broker) identifiers: Identifiers,
}

impl Parcel {
    pub(super) fn cost(&self) -> usize {
        self.message.cost() + ENTRY_BYTES
    }
}

/// Which step of its delivery a message in flight has reached.
#[derive(Debug, Clone)]
pub(in crate::broker) enum Phase {
    /// PUBLISH was sent.
    Sent(Parcel),
    /// QoS 2: PUBREC has come. The message is the client's, the identifier still ours.
    Released,
}

#[derive(Debug)]
struct Waiting {
    /// 0 with QoS 0.
    number: u64,
    parcel: Parcel,
}

#[derive(Debug)]
struct InFlight {
    number: u64,
    phase: Phase,
}

/// The messages of one session.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    in_flight: VecDeque<InFlight>,
    /// So many of those in flight, the last ones, were sent over an earlier connection and not yet over this.
    again: usize,
    /// The last number that was given.
    last: u64,
    /// What all of it costs in memory.
    pub(super) bytes: usize,
}

/// What holds for what a client is given.
pub(in crate::broker) struct Terms<'a> {
    /// Messages that may be without an ack.
    pub(in crate::broker) max_in_flight: u16,
    pub(in crate::broker) clock: &'a Clock,
    /// Whether the client may be given messages of a topic.
    pub(in crate::broker) may_receive: &'a dyn Fn(&str) -> bool,
}

/// What was moved to the output.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::broker) struct Taken {
    /// Messages that were sent for the first time.
    pub(in crate::broker) count: u64,
    /// More could be moved once the output is written.
    pub(in crate::broker) more: bool,
    /// Nothing that was here before waits any more.
    pub(in crate::broker) drained: bool,
    /// Messages whose time was over.
    pub(in crate::broker) expired: u64,
    /// Messages that are larger than the client takes.
    pub(in crate::broker) too_large: u64,
    /// Messages that the client may not receive.
    pub(in crate::broker) forbidden: u64,
    /// The numbers of those of QoS 1 and 2 that are done with, sent or not.
    pub(in crate::broker) done: Vec<u64>,
}

impl Taken {
    fn count_unsent(&mut self, unsendable: Unsendable) {
        match unsendable {
            Unsendable::Expired => self.expired += 1,
            Unsendable::TooLarge => self.too_large += 1,
            Unsendable::Forbidden => self.forbidden += 1,
        }
    }
}

/// What a PUBREC has brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) enum Recorded {
    /// The message with this number is now released.
    Now(u64),
    /// It was before.
    Before,
    /// The message with this number is done with.
    Done(u64),
    /// There is no such message.
    Unknown,
}

/// The packet identifier of a message with this number, which is at least 1.
fn packet_id(number: u64) -> u16 {
    u16::try_from((number - 1) % u64::from(u16::MAX)).expect("the remainder is smaller") + 1
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.in_flight.len()
    }

    /// The numbers of all that have one.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        let waiting = self.waiting.iter().map(|waiting| waiting.number).filter(|number| *number > 0);
        self.in_flight.iter().map(|flying| flying.number).chain(waiting)
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The bytes of the parcel are counted already.
    pub(super) fn push(&mut self, number: u64, parcel: Parcel) {
        self.waiting.push_back(Waiting { number, parcel });
    }

    /// Takes back what an earlier process had.
    pub(super) fn restore(&mut self, number: u64, phase: Phase) {
        self.last = self.last.max(number);
        match phase {
            // It may have been sent: it is repeated with DUP, which says only that it may be a repetition.
            Phase::Sent(parcel) => {
                self.bytes += parcel.cost();
                self.in_flight.push_back(InFlight { number, phase: Phase::Sent(parcel) });
            }
            Phase::Released => self.in_flight.push_back(InFlight { number, phase }),
        }
    }

    /// A new connection begins: everything in flight is to be sent again, in its order (MQTT-4.4.0-1).
    pub(super) fn start_again(&mut self) {
        self.again = self.in_flight.len();
    }

    /// What has no number does not outlive its connection.
    pub(super) fn forget_qos_0(&mut self) {
        let mut bytes = 0;
        self.waiting.retain(|Waiting { number, parcel }| {
            bytes += if *number == 0 { parcel.cost() } else { 0 };
            *number > 0
        });
        self.bytes -= bytes;
    }

    /// Moves messages to the output until that holds `out_bytes`, or as many are without an ack as may be.
    pub(super) fn take(
        &mut self,
        outlet: &mut Outlet,
        (out, out_bytes): (&mut BytesMut, usize),
        Terms { max_in_flight, clock, may_receive }: &Terms<'_>,
    ) -> Taken {
        let mut taken = Taken::default();
        while self.again > 0 {
            if out.len() >= out_bytes {
                taken.more = true;
                return taken;
            }
            let index = self.in_flight.len() - self.again;
            let flying = &self.in_flight[index];
            let sent = match &flying.phase {
                Phase::Released => outlet.release(packet_id(flying.number), out),
                Phase::Sent(_) if index >= usize::from(*max_in_flight) => return taken,
                Phase::Sent(parcel) if !may_receive(&parcel.message.topic) => Err(Unsendable::Forbidden),
                Phase::Sent(parcel) => outlet.repeat(parcel, packet_id(flying.number), clock, out),
            };
            if let Err(unsendable) = sent {
                taken.count_unsent(unsendable);
                taken.done.extend(self.remove(index));
            } else {
                self.again -= 1;
            }
        }
        while let Some(Waiting { number, parcel }) = self.waiting.front() {
            if out.len() >= out_bytes {
                taken.more = true;
                return taken;
            }
            let number = *number;
            if number > 0 && !self.may_send(number, *max_in_flight) {
                return taken;
            }
            let packet_id = if number > 0 { packet_id(number) } else { 0 };
            let sent = match may_receive(&parcel.message.topic) {
                true => outlet.send(parcel, packet_id, clock, out),
                false => Err(Unsendable::Forbidden),
            };
            let Some(Waiting { parcel, .. }) = self.waiting.pop_front() else { break };
            match sent {
                Ok(()) => taken.count += 1,
                Err(unsendable) => taken.count_unsent(unsendable),
            }
            if sent.is_ok() && number > 0 {
                self.in_flight.push_back(InFlight { number, phase: Phase::Sent(parcel) });
                continue;
            }
            self.bytes -= parcel.cost();
            if number > 0 {
                taken.done.push(number);
            }
        }
        self.waiting = VecDeque::new();
        taken.drained = true;
        taken
    }

    /// Whether the window has room, and the packet identifier is free.
    fn may_send(&self, number: u64, max_in_flight: u16) -> bool {
        let Some(oldest) = self.in_flight.front() else { return true };
        // Numbers stand in order but for a few that were given while others were put.
        let may_collide = number.saturating_sub(oldest.number) > u64::from(u16::MAX / 2);
        self.in_flight.len() < max_in_flight.into()
            && !(may_collide
                && self.in_flight.iter().any(|flying| packet_id(flying.number) == packet_id(number)))
    }

    /// PUBACK. Returns the number of the message that is done with.
    pub(super) fn acknowledged(&mut self, packet_id: u16) -> Option<u64> {
        let index = self.find(packet_id)?;
        match &self.in_flight[index].phase {
            Phase::Sent(parcel) if parcel.qos == Qos::AtLeastOnce => self.remove(index),
            _ => None,
        }
    }

    /// PUBREC.
    pub(super) fn recorded(&mut self, packet_id: u16, refused: bool) -> Recorded {
        let Some(index) = self.find(packet_id) else { return Recorded::Unknown };
        let InFlight { number, phase } = &mut self.in_flight[index];
        match phase {
            Phase::Released => Recorded::Before,
            Phase::Sent(parcel) if parcel.qos != Qos::ExactlyOnce => Recorded::Unknown,
            Phase::Sent(_) if refused => self.remove(index).map_or(Recorded::Unknown, Recorded::Done),
            Phase::Sent(parcel) => {
                self.bytes -= parcel.cost();
                *phase = Phase::Released;
                let number = *number;
                // PUBREL is sent by who asks, also when PUBLISH was not yet sent again.
                Recorded::Now(number)
            }
        }
    }

    /// PUBCOMP. Returns the number of the message that is done with.
    pub(super) fn completed(&mut self, packet_id: u16) -> Option<u64> {
        let index = self.find(packet_id)?;
        match self.in_flight[index].phase {
            Phase::Released => self.remove(index),
            Phase::Sent(_) => None,
        }
    }

    fn find(&self, wanted: u16) -> Option<usize> {
        self.in_flight.iter().position(|flying| packet_id(flying.number) == wanted)
    }

    fn remove(&mut self, index: usize) -> Option<u64> {
        if index >= self.in_flight.len() - self.again {
            self.again -= 1;
        }
        let InFlight { number, phase } = self.in_flight.remove(index)?;
        if let Phase::Sent(parcel) = &phase {
            self.bytes -= parcel.cost();
        }
        if self.in_flight.is_empty() {
            self.in_flight = VecDeque::new();
        }
        Some(number)
    }
}
