//! Commands: taken from the ledger, acknowledged, answered.

use std::sync::Arc;

use super::{End, Session};
use crate::broker::outbox::{Parcel, Put, Settled};
use crate::broker::wire::{Publish, Reason};
use crate::broker::{commands, kept};
use crate::buffer::{Mark, SubmitError, Wait};
use crate::message::Qos;
use crate::relay::{Said, SharedCommand, Undelivered};

impl Session {
    /// The next command may be on disk now.
    pub(super) fn look_for_commands(&mut self) {
        let durable = self.publisher.writer.durable();
        if self.commands_behind.take_if(|behind| *behind <= durable).is_some() {
            self.mail = true;
        }
    }

    /// Takes as many commands from the ledger as the client can be sent now.
    pub(super) fn take_commands(&mut self) -> Result<(), End> {
        let waiting = self.broker.ledger.waiting(&self.key.identity.device);
        for command in &waiting {
            if !self.take_command(command)? {
                // The client's next ack will bring it here again.
                return Ok(());
            }
        }
        self.commands = false;
        Ok(())
    }

    /// False when there is no room for more.
    fn take_command(&mut self, command: &SharedCommand) -> Result<bool, End> {
        let held = self.mailbox.held_by(&self.line).ok_or(End::TakenOver)?;
        let has_window = held.has_window(self.max_in_flight);
        drop(held);
        if !has_window {
            return Ok(false);
        }
        let Some(parcel) = self.parcel(command)? else { return Ok(true) };
        let Ok(number) = self.mailbox.reserve(&parcel) else { return Ok(false) };
        let (id, qos) = (command.id, parcel.qos);
        let is_kept = self.mailbox.is_kept() && qos != Qos::AtMostOnce;
        if is_kept {
            // In front of the ledger's word: whatever is cut off behind it, the session is found to have it.
            let copy = kept::put_queued(self.mailbox.number, number, &parcel);
            match self.publisher.writer.submit(None, vec![copy], Wait::Nobody) {
                Ok(_) => {}
                Err(SubmitError::Full) => {
                    self.mailbox.release(&parcel);
                    self.broker.ledger.put_off();
                    return Ok(true);
                }
                Err(SubmitError::Closed) => return Err(End::Stopping),
            }
        }
        let Some(mark) = self.broker.ledger.hand_over(id, qos) else {
            // Another session has it, or it was taken back.
            self.mailbox.release(&parcel);
            if is_kept {
                self.keep(|session| kept::remove_queued(session, number));
            }
            return Ok(true);
        };
        // What may come twice does not wait for the disk.
        let behind = if qos == Qos::AtLeastOnce { Mark::default() } else { mark };
        match self.mailbox.put_command(number, parcel, behind) {
            Put::OwesWake(line) => self.publisher.wakes.owe(line),
            Put::Ignored => self.broker.ledger.undelivered(id, &Undelivered::Unwritten),
            Put::Queued | Put::Dropped(_) => {}
        }
        Ok(true)
    }

    /// A command as the client gets it; `None` if this one does not.
    fn parcel(&self, command: &SharedCommand) -> Result<Option<Parcel>, End> {
        let topic = command.topic.as_str();
        let (who, authorizer) = (&self.publisher.who, &self.publisher.rules.authorizer);
        let held = self.mailbox.held_by(&self.line).ok_or(End::TakenOver)?;
        let Some((qos, identifiers)) = held.granted(topic) else { return Ok(None) };
        drop(held);
        if self.asks && !authorizer.may_receive(who, topic).allowed {
            return Ok(None);
        }
        let message = Arc::new(commands::message(command));
        Ok(Some(Parcel { message, qos: qos.min(command.qos), retain: false, identifiers }))
    }

    /// The client has answered for a message that may have been a command.
    pub(super) fn settle_command(&self, settled: Settled, reason: Reason) {
        let Some(id) = settled.command else { return };
        match reason.is_refusal() {
            true => self.broker.ledger.undelivered(id, &Undelivered::Refused(format!("{reason:?}"))),
            false => self.broker.ledger.acked(id),
        }
    }

    /// A publish that the client may make: it may be the reply to a command. Then the end of the command is on disk at
    /// the mark, and the publish is not acknowledged before. `None`: there is no room on disk for it.
    pub(super) fn take_reply(&mut self, publish: &Publish) -> Result<Option<Mark>, End> {
        if !self.broker.ledger.awaits_replies() {
            return Ok(Some(Mark::default()));
        }
        let properties = publish.properties.as_deref();
        let said = Said {
            device: &self.key.identity.device,
            topic: &publish.topic,
            correlation: properties.and_then(|properties| properties.correlation_data.as_deref()),
            payload: &publish.payload,
            is_repetition: publish.dup,
            is_unrepeatable: publish.qos == Qos::AtMostOnce,
        };
        match self.broker.ledger.replied(&said, &mut self.publisher.writer) {
            Ok(mark) => Ok(Some(mark.unwrap_or_default())),
            Err(SubmitError::Full) => Ok(None),
            Err(SubmitError::Closed) => Err(End::Stopping),
        }
    }
}
