//! Messages from the mailbox to the client.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;

use super::{End, Session};
use crate::broker::kept;
use crate::broker::message::Message;
use crate::broker::outbox::{Parcel, Put, Taken, Terms};
use crate::broker::retained::Piece;
use crate::broker::subscriptions::{Filter, Identifiers};
use crate::message::Qos;

/// Messages are moved from the mailbox so many bytes at a time.
const OUT_BYTES: usize = 32 * 1024;

/// Of retained messages, so many bytes are put into the mailbox at a time.
const RETAINED_BYTES: usize = 64 * 1024;

/// A new subscription that is being given what is retained.
#[derive(Debug)]
pub(super) struct Giving {
    pub(super) filter: Filter,
    pub(super) qos: Qos,
    pub(super) identifier: Option<u32>,
    /// The last message that it was given.
    pub(super) after: Option<Arc<Message>>,
}

impl Session {
    /// Moves messages from the mailbox to the output.
    pub(super) fn deliver(&mut self, out: &mut BytesMut) -> Result<(), End> {
        if !self.mail || self.stopping || self.owes_first() || self.is_behind_with_backlog() {
            return Ok(());
        }
        // Of who took over, this one hears by a call.
        let Some(mut held) = self.mailbox.held_by(&self.line) else { return Ok(()) };
        let (who, authorizer) = (&self.publisher.who, &self.publisher.rules.authorizer);
        let asks = self.asks;
        let terms = Terms {
            max_in_flight: self.max_in_flight,
            clock: &self.broker.clock,
            may_receive: &|topic| !asks || authorizer.may_receive(who, topic).allowed,
        };
        let taken = held.take(&mut self.outlet, (out, OUT_BYTES), &terms);
        drop(held);
        let Taken { count, more, drained, expired, too_large, forbidden, done } = taken;
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
        if !more && !self.giving.is_empty() {
            self.give_retained();
        }
        self.submit_backlog()
    }

    /// The next piece of the retained messages that match new subscriptions. What is given is given once the
    /// mailbox has nothing else that could be sent: so it does not fill up.
    pub(super) fn give_retained(&mut self) {
        if self.mailbox.queued().1 >= RETAINED_BYTES as u64 {
            // The client's next ack will bring it here again.
            return;
        }
        let Some(mut first) = self.giving.pop_front() else {
            self.giving = VecDeque::new();
            return;
        };
        let (retained, clock) = (&self.broker.retained, &self.broker.clock);
        let topics = &first.filter.topics;
        let Piece { messages, is_last } =
            retained.matching(topics, first.after.as_deref(), RETAINED_BYTES, clock);
        let (qos, identifier) = (first.qos, first.identifier);
        if !is_last {
            first.after = messages.last().cloned();
            self.giving.push_front(first);
        }
        for message in messages {
            let qos = qos.min(message.qos);
            self.put_own(Parcel { message, qos, retain: true, identifiers: Identifiers::of(identifier) });
        }
        self.mail = true;
    }

    /// Puts a message into the session's own mailbox.
    fn put_own(&mut self, parcel: Parcel) {
        if !self.mailbox.is_kept() || parcel.qos == Qos::AtMostOnce {
            if let Put::Dropped(full) = self.mailbox.put(parcel) {
                self.broker.counters.dropped(full);
            }
            return;
        }
        match self.mailbox.reserve(&parcel) {
            Ok(number) => {
                self.backlog.push(kept::put_queued(self.mailbox.number, number, &parcel));
                self.mailbox.put_reserved(number, parcel);
            }
            Err(full) => self.broker.counters.dropped(full),
        }
    }
}
