//! Messages from the mailbox to the client.

use bytes::BytesMut;

use super::{End, Session};
use crate::broker::kept;
use crate::broker::outbox::Taken;

/// Messages are moved from the mailbox so many bytes at a time.
const OUT_BYTES: usize = 32 * 1024;

impl Session {
    /// Moves messages from the mailbox to the output.
    pub(super) fn deliver(&mut self, out: &mut BytesMut) -> Result<(), End> {
        if !self.mail || self.stopping || self.owes_first() || self.is_behind_with_backlog() {
            return Ok(());
        }
        // Of who took over, this one hears by a call.
        let Some(mut held) = self.mailbox.held_by(&self.line) else { return Ok(()) };
        let taken = held.take(&mut self.outlet, (out, OUT_BYTES), self.max_in_flight, &self.broker.clock);
        drop(held);
        let Taken { count, more, expired, too_large, done } = taken;
        let counters = &self.broker.counters;
        counters.delivered.add(count);
        counters.dropped_expired.add(expired);
        counters.dropped_too_large.add(too_large);
        self.bursts = count > 1;
        self.mail = more;
        for number in done {
            self.keep(|session| kept::remove_queued(session, number));
        }
        self.submit_backlog()
    }
}
