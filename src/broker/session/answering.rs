//! Answers that must not leave before something is on disk, and what the session itself keeps there.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::{End, Session};
use crate::broker::history::Original;
use crate::broker::kept;
use crate::broker::outbox::Recorded;
use crate::broker::wire::{Ack, AckKind, Answer, Reason};
use crate::buffer::{Change, Mark, SubmitError, Wait};

/// Changes that wait for room on disk. Beyond it the session is given nothing more that it could acknowledge.
const MAX_BACKLOG: usize = 1_000;

/// An answer that is owed.
#[derive(Debug)]
struct Owed {
    /// What must be on disk before it; `None`: it is in the backlog.
    behind: Option<Original>,
    answer: Reply,
}

#[derive(Debug)]
enum Reply {
    Ack(Ack),
    /// SUBACK or UNSUBACK. The session is given no message before it.
    Other(Box<Answer>),
}

/// Answers in their order.
#[derive(Debug, Default)]
pub(super) struct Owing {
    queue: VecDeque<Owed>,
    /// Those that messages must not overtake.
    gates: usize,
    /// Those that wait for the backlog: the last ones.
    unsubmitted: usize,
}

impl Owing {
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// What must be on disk before the next answer leaves.
    pub(super) fn next_behind(&self) -> Option<Original> {
        self.queue.front()?.behind
    }

    fn push(&mut self, answer: Reply, behind: Option<Original>) {
        self.gates += usize::from(matches!(answer, Reply::Other(_)));
        self.unsubmitted += usize::from(behind.is_none());
        self.queue.push_back(Owed { behind, answer });
    }

    /// The backlog was submitted.
    fn submitted(&mut self, behind: Original) {
        let waiting = self.queue.iter_mut().rev().filter(|owed| owed.behind.is_none());
        waiting.take(self.unsubmitted).for_each(|owed| owed.behind = Some(behind));
        self.unsubmitted = 0;
    }

    fn pop(&mut self, durable: Mark) -> Option<Reply> {
        if self.next_behind()?.mark > durable {
            return None;
        }
        let Owed { answer, .. } = self.queue.pop_front()?;
        self.gates -= usize::from(matches!(answer, Reply::Other(_)));
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        Some(answer)
    }
}

impl Session {
    /// The answer to a publish, in its turn: acks leave in the order in which the publishes came (MQTT-4.6.0-2).
    pub(super) fn owe(&mut self, kind: AckKind, packet_id: u16, reason: Reason, behind: Original) {
        self.owed.push(Reply::Ack(Ack { kind, packet_id, reason }), Some(behind));
    }

    /// An answer that leaves when what was put into the backlog is on disk; at once, if there is nothing to wait for.
    pub(super) fn owe_behind_backlog(&mut self, answer: Answer, out: &mut BytesMut) -> Result<(), End> {
        let is_submitted = self.backlog.is_empty();
        if is_submitted && (self.owed.is_empty() || !self.mailbox.is_kept()) {
            return self.answer(&answer, out);
        }
        let answer = match answer {
            Answer::Ack(ack) => Reply::Ack(ack),
            other => Reply::Other(Box::new(other)),
        };
        self.owed.push(answer, is_submitted.then(Original::default));
        Ok(())
    }

    fn answer(&mut self, answer: &Answer, out: &mut BytesMut) -> Result<(), End> {
        self.outlet.answer(answer, out)?;
        if let Answer::Ack(ack) = answer
            && ends_publish(ack)
        {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        Ok(())
    }

    /// A change of the session's own records, with the next submit. Nothing, if it is not kept.
    pub(super) fn keep(&mut self, change: impl FnOnce(u64) -> Change) {
        if self.mailbox.is_kept() {
            self.backlog.push(change(self.mailbox.number));
        }
    }

    /// Submits what has gathered. What the buffer has no room for stays.
    pub(super) fn submit_backlog(&mut self) -> Result<(), End> {
        if self.backlog.is_empty() {
            return Ok(());
        }
        let wait = if self.owed.unsubmitted > 0 { Wait::ForAck } else { Wait::Nobody };
        match self.publisher.writer.submit(None, self.backlog.clone(), wait) {
            Ok(receipt) => {
                self.backlog = Vec::new();
                self.starved = false;
                self.owed.submitted(Original { mark: receipt.mark, earlier: false });
                Ok(())
            }
            Err(SubmitError::Full) => {
                self.starved = true;
                Ok(())
            }
            Err(SubmitError::Closed) => Err(End::Stopping),
        }
    }

    /// Whether the client should not be given more that it could acknowledge.
    pub(super) fn is_behind_with_backlog(&self) -> bool {
        self.backlog.len() >= MAX_BACKLOG
    }

    /// Whether an answer is owed that messages must not overtake.
    pub(super) fn owes_first(&self) -> bool {
        self.owed.gates > 0
    }

    /// Whether what the next answer waits for was submitted by an earlier connection.
    pub(super) fn waits_for_earlier(&self) -> bool {
        self.owed.next_behind().is_some_and(|behind| behind.earlier)
    }

    /// Writes the answers behind everything that is on disk.
    pub(super) fn acknowledge(&mut self, out: &mut BytesMut) -> Result<(), End> {
        if self.owed.is_empty() {
            return Ok(());
        }
        let durable = self.publisher.writer.durable();
        while let Some(reply) = self.owed.pop(durable) {
            match reply {
                Reply::Ack(ack) => self.answer(&Answer::Ack(ack), out)?,
                Reply::Other(answer) => {
                    self.answer(&answer, out)?;
                    self.mail = true;
                }
            }
        }
        Ok(())
    }

    /// What the client says about messages that it was given, and about publishes that it releases.
    pub(super) fn take_ack(&mut self, ack: Ack, out: &mut BytesMut) -> Result<(), End> {
        let Ack { kind, packet_id, reason } = ack;
        if kind == AckKind::Pubrel {
            return self.release(packet_id, out);
        }
        let mut held = self.mailbox.held_by(&self.line).ok_or(End::TakenOver)?;
        let recorded = match kind {
            AckKind::Puback => held.acknowledged(packet_id).map(Recorded::Done),
            AckKind::Pubcomp => held.completed(packet_id).map(Recorded::Done),
            AckKind::Pubrec | AckKind::Pubrel => Some(held.recorded(packet_id, reason.is_refusal())),
        };
        drop(held);
        self.mail = true;
        let answer = match recorded {
            None => return Ok(()),
            Some(Recorded::Done(settled)) => {
                self.settle_command(settled, reason);
                self.keep(|session| kept::remove_queued(session, settled.number));
                return Ok(());
            }
            Some(Recorded::Unknown) if reason.is_refusal() => return Ok(()),
            Some(Recorded::Unknown) => Reason::PacketIdentifierNotFound,
            Some(Recorded::Before) => Reason::Success,
            Some(Recorded::Now(settled)) => {
                self.settle_command(settled, reason);
                // PUBREL leaves when it is on disk that the client has the message: else it would be given it anew.
                self.keep(|session| kept::put_released(session, settled.number));
                Reason::Success
            }
        };
        self.owe_behind_backlog(Answer::Ack(Ack { kind: AckKind::Pubrel, packet_id, reason: answer }), out)
    }

    /// PUBREL: the client knows that the publish was taken. From now on its identifier stands for another.
    fn release(&mut self, packet_id: u16, out: &mut BytesMut) -> Result<(), End> {
        let was_received = self.history.lock().ok_or(End::TakenOver)?.release(packet_id);
        let mut reason = Reason::PacketIdentifierNotFound;
        if was_received {
            reason = Reason::Success;
            self.keep(|session| kept::remove_received(session, packet_id));
        }
        self.owe_behind_backlog(Answer::Ack(Ack { kind: AckKind::Pubcomp, packet_id, reason }), out)
    }
}

/// Whether a publish of the client has its end with this: it may send another.
fn ends_publish(ack: &Ack) -> bool {
    match ack.kind {
        AckKind::Puback => true,
        AckKind::Pubrec => ack.reason.is_refusal(),
        AckKind::Pubcomp => ack.reason == Reason::Success,
        AckKind::Pubrel => false,
    }
}
