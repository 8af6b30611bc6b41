//! The ledger for who brings commands to devices.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use super::{Desk, Ledger, Said, Undelivered};
use crate::buffer::{Change, Mark, SubmitError, Wait, Writer};
use crate::message::{CommandId, DeviceId, Qos};
use crate::relay::command::{SharedCommand, State};
use crate::relay::record;

impl Ledger {
    /// What may be given to a device now, in the order of acceptance; a few.
    #[must_use]
    pub fn waiting(&self, device: &DeviceId) -> Vec<SharedCommand> {
        self.with_now(|now| self.desk().book.waiting(device, now))
    }

    /// A session takes a command, to send it with this quality of service. That is on disk when the buffer is at the
    /// mark. `None`: it is too late for that, or there is no room on disk to keep it.
    #[must_use]
    pub fn hand_over(&self, id: CommandId, granted: Qos) -> Option<Mark> {
        self.with_now(|now| {
            let mut desk = self.desk();
            let Desk { book, writer } = &mut *desk;
            let command = book.handed_over(id, granted, now)?;
            let change = Change::Put(record::key(id), record::encode(&command));
            let wait = if granted == Qos::AtLeastOnce { Wait::Nobody } else { Wait::Now };
            let Ok(receipt) = writer.submit(None, vec![change], wait) else {
                self.put_off();
                return None;
            };
            book.replace(command, receipt.mark);
            self.settle(desk, Wait::Nobody);
            Some(receipt.mark)
        })
    }

    /// The broker has no room on disk for a command: its device is called again by [`Ledger::sweep`].
    pub fn put_off(&self) {
        self.0.is_starved.store(true, Ordering::Relaxed);
    }

    /// Whether a session may write a command that it has, for the first time or again. If not, it gives it back: it is
    /// over, or nobody knows whether it is before the clock is right.
    #[must_use]
    pub fn may_be_sent(&self, id: CommandId) -> bool {
        self.with_now(|now| self.desk().book.may_be_sent(id, now))
    }

    /// A command was written with QoS 0.
    pub fn written(&self, id: CommandId) {
        self.update(Wait::ForAck, |book, now| book.written(id, now));
    }

    /// The device has acknowledged a command.
    pub fn acked(&self, id: CommandId) {
        self.update(Wait::ForAck, |book, now| book.acked(id, now));
    }

    /// A session gives a command back. If it waits again, the device is called for it.
    pub fn undelivered(&self, id: CommandId, why: &Undelivered) {
        self.update(Wait::ForAck, |book, now| book.undelivered(id, why, now));
        if let Some(command) = self.get(id).filter(|command| command.state == State::Queued) {
            self.ring(&command.device);
        }
    }

    /// Whether any reply is waited for, of whatever device. It costs next to nothing to ask.
    #[must_use]
    pub fn awaits_replies(&self) -> bool {
        self.0.awaited.load(Ordering::Acquire) > 0
    }

    /// A device has published something. If that answers a command, that command has its end, which is on disk when the
    /// buffer is at the mark.
    ///
    /// With correlation data it answers the command with that id; without, the one that was accepted first of those
    /// that were sent. What is a repetition (DUP), and says the same as an earlier reply, answers nothing again.
    ///
    /// # Errors
    /// When there is no room on disk: nothing was taken, and it is to be tried again when `writer` has room. What is
    /// unrepeatable is taken all the same.
    pub fn replied(&self, said: &Said<'_>, writer: &mut Writer) -> Result<Option<Mark>, SubmitError> {
        self.with_now(|now| {
            let mut desk = self.desk();
            let book = &mut desk.book;
            let Some(command) = book.answered(said, now) else { return Ok(None) };
            let change = Change::Put(record::key(command.id), record::encode(&command));
            let mark = match writer.submit(None, vec![change], Wait::ForAck) {
                Ok(receipt) => {
                    book.replace(command, receipt.mark);
                    receipt.mark
                }
                Err(SubmitError::Full) if said.is_unrepeatable => {
                    book.replace_unsaved(command);
                    Mark::default()
                }
                Err(error) => return Err(error),
            };
            self.settle(desk, Wait::Nobody);
            Ok(Some(mark))
        })
    }

    /// Sessions that were kept have these commands from before, with this quality of service. All others that were
    /// sent by an earlier process are nobody's now. To be called once, before [`Ledger::hand_over`].
    pub fn restored(&self, claimed: &[(CommandId, Qos)]) {
        self.update(Wait::Nobody, |book, now| {
            claimed.iter().for_each(|(id, granted)| book.claim(*id, *granted, now));
            book.return_unclaimed(&claimed.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>(), now);
        });
    }

    /// Ends what is over, forgets what has ended long ago, and saves what there was no room for. To be called every
    /// second or so.
    pub fn sweep(&self) {
        // Before it is tried again.
        let was_starved = self.0.is_starved.swap(false, Ordering::Relaxed);
        self.update(Wait::Nobody, |book, now| book.sweep(now));
        let knows_times =
            self.0.clock.is_synchronized() && self.0.awaits_clock.swap(false, Ordering::Relaxed);
        if was_starved || knows_times {
            let expecting = self.desk().book.expecting();
            expecting.iter().for_each(|device| self.ring(device));
        }
    }
}
