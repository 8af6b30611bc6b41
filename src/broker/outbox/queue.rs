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
use crate::buffer::Mark;
use crate::clock::Clock;
use crate::message::{CommandId, Qos};
use crate::relay::Undelivered;

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

/// A command that the session has, and has not written yet.
#[derive(Debug)]
struct Pending {
    waiting: Waiting,
    /// What must be on disk before.
    behind: Mark,
}

#[derive(Debug)]
struct InFlight {
    number: u64,
    phase: Phase,
}

impl InFlight {
    /// The command that it carries, until the client has it.
    fn command(&self) -> Option<CommandId> {
        match &self.phase {
            Phase::Sent(parcel) => parcel.message.command,
            Phase::Released => None,
        }
    }
}

/// The messages of one session.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    /// They go before what waits.
    commands: VecDeque<Pending>,
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
    /// Whether a command may be sent now, for the first time or again.
    pub(in crate::broker) may_command: &'a dyn Fn(CommandId) -> bool,
    /// What is on disk.
    pub(in crate::broker) durable: Mark,
}

impl Terms<'_> {
    /// Whether the client may be given a message now; a command, only as long as it has subscribed to its topic.
    fn allow(&self, message: &Message, has_subscribed: &dyn Fn(&str) -> bool) -> bool {
        (message.command.is_none() || has_subscribed(&message.topic)) && (self.may_receive)(&message.topic)
    }
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
    /// Commands that were sent with QoS 0.
    pub(in crate::broker) written: Vec<CommandId>,
    /// Commands that are not sent.
    pub(in crate::broker) returned: Vec<(CommandId, Undelivered)>,
    /// More could be moved once this is on disk.
    pub(in crate::broker) behind: Option<Mark>,
}

/// A message that the client has answered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) struct Settled {
    pub(in crate::broker) number: u64,
    pub(in crate::broker) command: Option<CommandId>,
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
    Now(Settled),
    /// It was before.
    Before,
    /// The message with this number is done with.
    Done(Settled),
    /// There is no such message.
    Unknown,
}

/// The packet identifier of a message with this number, which is at least 1.
fn packet_id(number: u64) -> u16 {
    u16::try_from((number - 1) % u64::from(u16::MAX)).expect("the remainder is smaller") + 1
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.commands.len() + self.in_flight.len()
    }

    /// Whether another command could be sent, as far as the client's acks are concerned.
    pub(super) fn has_window(&self, max_in_flight: u16) -> bool {
        self.in_flight.len() + self.commands.len() < max_in_flight.into()
    }

    /// The commands, and whether each was written.
    pub(super) fn commands(&self) -> impl Iterator<Item = (CommandId, bool)> {
        let unwritten =
            self.commands.iter().filter_map(|it| Some((it.waiting.parcel.message.command?, false)));
        let written = self.in_flight.iter().filter_map(|flying| Some((flying.command()?, true)));
        unwritten.chain(written)
    }

    /// The numbers of all that have one.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        let commands = self.commands.iter().map(|pending| &pending.waiting);
        let waiting =
            commands.chain(&self.waiting).map(|waiting| waiting.number).filter(|number| *number > 0);
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

    /// As [`Queue::push`], for a command that must not be sent before `behind` is on disk.
    pub(super) fn push_command(&mut self, number: u64, parcel: Parcel, behind: Mark) {
        self.commands.push_back(Pending { waiting: Waiting { number, parcel }, behind });
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
    /// `has_subscribed`: to the topic of a command.
    pub(super) fn take(
        &mut self,
        outlet: &mut Outlet,
        (out, out_bytes): (&mut BytesMut, usize),
        terms: &Terms<'_>,
        has_subscribed: &dyn Fn(&str) -> bool,
    ) -> Taken {
        let mut taken = Taken::default();
        if !self.repeat(outlet, (out, out_bytes), terms, has_subscribed, &mut taken)
            || !self.take_commands(outlet, (out, out_bytes), terms, has_subscribed, &mut taken)
        {
            return taken;
        }
        while let Some(Waiting { number, parcel }) = self.waiting.front() {
            if out.len() >= out_bytes {
                taken.more = true;
                return taken;
            }
            let number = *number;
            if number > 0 && !self.may_send(number, terms.max_in_flight) {
                return taken;
            }
            let packet_id = if number > 0 { packet_id(number) } else { 0 };
            let sent = match (terms.may_receive)(&parcel.message.topic) {
                true => outlet.send(parcel, packet_id, terms.clock, out),
                false => Err(Unsendable::Forbidden),
            };
            let Some(waiting) = self.waiting.pop_front() else { break };
            self.settle(waiting, sent, &mut taken);
        }
        self.waiting = VecDeque::new();
        taken.drained = self.commands.is_empty();
        taken
    }

    /// Sends again what is in flight. False when nothing else may be sent now.
    fn repeat(
        &mut self,
        outlet: &mut Outlet,
        (out, out_bytes): (&mut BytesMut, usize),
        terms: &Terms<'_>,
        has_subscribed: &dyn Fn(&str) -> bool,
        taken: &mut Taken,
    ) -> bool {
        while self.again > 0 {
            if out.len() >= out_bytes {
                taken.more = true;
                return false;
            }
            let index = self.in_flight.len() - self.again;
            let flying = &self.in_flight[index];
            let (packet_id, command) = (packet_id(flying.number), flying.command());
            let sent = match (&flying.phase, command) {
                (Phase::Released, _) => outlet.release(packet_id, out),
                (Phase::Sent(_), _) if index >= usize::from(terms.max_in_flight) => return false,
                // Its end is known: it is not carried out late.
                (Phase::Sent(_), Some(command)) if !(terms.may_command)(command) => Err(Unsendable::Expired),
                (Phase::Sent(parcel), _) if !terms.allow(&parcel.message, has_subscribed) => {
                    Err(Unsendable::Forbidden)
                }
                (Phase::Sent(parcel), _) => outlet.repeat(parcel, packet_id, terms.clock, out),
            };
            let Err(unsendable) = sent else {
                self.again -= 1;
                continue;
            };
            taken.count_unsent(unsendable);
            match (unsendable, command) {
                (Unsendable::Forbidden, Some(id)) => taken.returned.push((id, Undelivered::Forbidden)),
                (Unsendable::TooLarge, Some(id)) => taken.returned.push((id, Undelivered::TooLarge)),
                (Unsendable::Expired, Some(id)) => taken.returned.push((id, Undelivered::Unconfirmed)),
                _ => {}
            }
            taken.done.extend(self.remove(index).map(|settled| settled.number));
        }
        true
    }

    /// Sends commands. False when nothing else may be sent now.
    fn take_commands(
        &mut self,
        outlet: &mut Outlet,
        (out, out_bytes): (&mut BytesMut, usize),
        terms: &Terms<'_>,
        has_subscribed: &dyn Fn(&str) -> bool,
        taken: &mut Taken,
    ) -> bool {
        while let Some(Pending { waiting: Waiting { number, parcel }, behind }) = self.commands.front() {
            if out.len() >= out_bytes {
                taken.more = true;
                return false;
            }
            if *behind > terms.durable {
                taken.behind = Some(*behind);
                return true;
            }
            let number = *number;
            if number > 0 && !self.may_send(number, terms.max_in_flight) {
                return true;
            }
            let packet_id = if number > 0 { packet_id(number) } else { 0 };
            let command = parcel.message.command;
            let sent = if !command.is_some_and(terms.may_command) {
                Err(Unsendable::Expired)
            } else if !terms.allow(&parcel.message, has_subscribed) {
                Err(Unsendable::Forbidden)
            } else {
                outlet.send(parcel, packet_id, terms.clock, out)
            };
            let Some(Pending { waiting, .. }) = self.commands.pop_front() else { break };
            match (sent, command) {
                (Ok(()), Some(id)) if number == 0 => taken.written.push(id),
                (Err(Unsendable::Forbidden | Unsendable::Expired), Some(id)) => {
                    taken.returned.push((id, Undelivered::Unwritten));
                }
                (Err(Unsendable::TooLarge), Some(id)) => taken.returned.push((id, Undelivered::TooLarge)),
                _ => {}
            }
            self.settle(waiting, sent, taken);
        }
        self.commands = VecDeque::new();
        true
    }

    /// A message that waits no more: it is in flight, or done with.
    fn settle(
        &mut self,
        Waiting { number, parcel }: Waiting,
        sent: Result<(), Unsendable>,
        taken: &mut Taken,
    ) {
        match sent {
            Ok(()) => taken.count += 1,
            Err(unsendable) => taken.count_unsent(unsendable),
        }
        if sent.is_ok() && number > 0 {
            self.in_flight.push_back(InFlight { number, phase: Phase::Sent(parcel) });
            return;
        }
        self.bytes -= parcel.cost();
        if number > 0 {
            taken.done.push(number);
        }
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

    /// PUBACK. Returns the message that is done with.
    pub(super) fn acknowledged(&mut self, packet_id: u16) -> Option<Settled> {
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
                let settled = Settled { number: *number, command: parcel.message.command };
                *phase = Phase::Released;
                // PUBREL is sent by who asks, also when PUBLISH was not yet sent again.
                Recorded::Now(settled)
            }
        }
    }

    /// PUBCOMP. Returns the message that is done with.
    pub(super) fn completed(&mut self, packet_id: u16) -> Option<Settled> {
        let index = self.find(packet_id)?;
        match self.in_flight[index].phase {
            Phase::Released => self.remove(index),
            Phase::Sent(_) => None,
        }
    }

    fn find(&self, wanted: u16) -> Option<usize> {
        self.in_flight.iter().position(|flying| packet_id(flying.number) == wanted)
    }

    fn remove(&mut self, index: usize) -> Option<Settled> {
        if index >= self.in_flight.len() - self.again {
            self.again -= 1;
        }
        let flying = self.in_flight.remove(index)?;
        let settled = Settled { number: flying.number, command: flying.command() };
        let InFlight { phase, .. } = flying;
        if let Phase::Sent(parcel) = &phase {
            self.bytes -= parcel.cost();
        }
        if self.in_flight.is_empty() {
            self.in_flight = VecDeque::new();
        }
        Some(settled)
    }
}
