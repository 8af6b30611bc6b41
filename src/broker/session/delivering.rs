//! Messages from the mailbox to the client.

use std::sync::Arc;

use bytes::BytesMut;

use super::{End, Session};
use crate::broker::kept;
use crate::broker::message::Origin;
use crate::broker::outbox::{Full, Parcel, Put, Taken, Terms};
use crate::broker::retained::Piece;
use crate::broker::subscriptions::{Identifiers, Subscription};
use crate::message::Qos;

/// Messages are moved from the mailbox so many bytes at a time.
const OUT_BYTES: usize = 32 * 1024;

/// Of retained messages, so many bytes are put into the mailbox at a time.
const RETAINED_BYTES: usize = 64 * 1024;

/// What was given of the retained messages that are owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Given {
    Some,
    /// Nobody wants what there was.
    Nothing,
    /// What waits must be sent before.
    WaitsForRoom,
}

impl Session {
    /// Moves messages from the mailbox to the output.
    pub(super) fn deliver(&mut self, out: &mut BytesMut) -> Result<(), End> {
        if !self.mail || self.stopping || self.owes_first() || self.is_behind_with_backlog() {
            return Ok(());
        }
        if self.commands {
            self.take_commands()?;
        }
        // Of who took over, this one hears by a call.
        let Some(mut held) = self.mailbox.held_by(&self.line) else { return Ok(()) };
        let (who, authorizer) = (&self.publisher.who, &self.publisher.rules.authorizer);
        let asks = self.asks;
        let ledger = &self.broker.ledger;
        let terms = Terms {
            max_in_flight: self.max_in_flight,
            clock: &self.broker.clock,
            may_receive: &|topic| !asks || authorizer.may_receive(who, topic).allowed,
            may_command: &|id| ledger.may_be_sent(id),
            durable: self.publisher.writer.durable(),
        };
        let taken = held.take(&mut self.outlet, (out, OUT_BYTES), &terms);
        drop(held);
        let Taken { count, more, drained, expired, too_large, forbidden, done, .. } = taken;
        self.commands_behind = taken.behind;
        taken.written.into_iter().for_each(|id| ledger.written(id));
        taken.returned.iter().for_each(|(id, why)| ledger.undelivered(*id, why));
        let counters = &self.broker.counters;
        counters.delivered.add(count);
        counters.dropped_expired.add(expired);
        counters.dropped_too_large.add(too_large);
        counters.dropped_not_allowed.add(forbidden);
        self.bursts = count > 1;
        self.mail = more;
        if asks && drained {
            self.asks = authorizer.holds_back(who);
        }
        for number in done {
            self.keep(|session| kept::remove_queued(session, number));
        }
        if !more && self.give_retained() {
            self.keep_session()?;
        }
        self.submit_backlog()
    }

    /// Gives the next piece of the retained messages that are owed, if there are any. What is given is given once
    /// the mailbox has nothing else that could be sent: so it does not fill up. Returns whether less is owed now.
    pub(super) fn give_retained(&mut self) -> bool {
        let mut is_less = false;
        while self.gives && self.mailbox.queued().1 < RETAINED_BYTES as u64 {
            let Some(given) = self.give_piece() else {
                self.gives = false;
                break;
            };
            match given {
                Given::Nothing => is_less = true,
                Given::Some => {
                    self.mail = true;
                    return true;
                }
                Given::WaitsForRoom => break,
            }
        }
        // For what is still owed, the client's next ack will bring it here again.
        is_less
    }

    /// Gives a piece of what is owed to one of the subscriptions; `None` when nothing is.
    fn give_piece(&mut self) -> Option<Given> {
        let held = self.mailbox.held_by(&self.line)?;
        let place = held.subscriptions.iter().position(|it| it.owed.is_some())?;
        let Subscription { filter, options, identifier, mut owed } = held.subscriptions[place].clone();
        // Who publishes locks what is retained first, then the mailboxes.
        drop(held);
        let (retained, clock) = (&self.broker.retained, &self.broker.clock);
        let Piece { messages, is_last } =
            retained.matching(&filter.topics, owed.as_deref()?, RETAINED_BYTES, clock);
        let own = options.no_local.then(|| Origin::of(&self.key.identity, &self.key.client_id));
        let (mut given, mut is_done) = (Given::Nothing, is_last);
        for message in &messages {
            // MQTT-3.8.3-3.
            let is_local = own.is_some() && message.from == own;
            if !is_local {
                let (qos, identifiers) = (options.qos.min(message.qos), Identifiers::of(identifier));
                let parcel = Parcel { message: Arc::clone(message), qos, retain: true, identifiers };
                match self.put_own(parcel) {
                    Ok(()) => given = Given::Some,
                    // It will never have more.
                    Err(full) if self.mailbox.queued().0 == 0 => self.broker.counters.dropped(full),
                    Err(_) if given == Given::Nothing => return Some(Given::WaitsForRoom),
                    Err(_) => {
                        is_done = false;
                        break;
                    }
                }
            }
            owed = Some(message.topic.as_str().into());
        }
        if is_done {
            owed = None;
        }
        self.mailbox.held_by(&self.line)?.subscriptions[place].owed = owed;
        Some(given)
    }

    /// Puts a message into the session's own mailbox, if there is room.
    pub(super) fn put_own(&mut self, parcel: Parcel) -> Result<(), Full> {
        if !self.mailbox.is_kept() || parcel.qos == Qos::AtMostOnce {
            return match self.mailbox.put(parcel) {
                Put::Dropped(full) => Err(full),
                Put::Queued | Put::OwesWake(_) | Put::Ignored => Ok(()),
            };
        }
        let number = self.mailbox.reserve(&parcel)?;
        self.backlog.push(kept::put_queued(self.mailbox.number, number, &parcel));
        self.mailbox.put_reserved(number, parcel);
        Ok(())
    }
}
