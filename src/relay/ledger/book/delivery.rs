//! What becomes of a command on its way: to a session, to the device, to its end.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Book, Entry, Life, Now, is_to_be_told, replaced_reason};
use crate::buffer::Mark;
use crate::message::{CommandId, DeviceId, Qos};
use crate::relay::command::{Command, SharedCommand, State};
use crate::relay::ledger::{NotCancelled, Said, Undelivered};

/// Bytes of a device's answer that are kept.
const MAX_RESULT_BYTES: usize = 1_024;

impl Book {
    /// What may be given to a device now, in the order of acceptance.
    pub(in crate::relay::ledger) fn waiting(&self, device: &DeviceId, now: &Now<'_>) -> Vec<SharedCommand> {
        let is_due = |entry: &&Entry| is_waiting(entry) && now.life(&entry.command) == Life::Good;
        self.open_of(device).filter(is_due).map(|entry| Arc::clone(&entry.command)).collect()
    }

    /// Devices for which something waits.
    pub(in crate::relay::ledger) fn expecting(&self) -> Vec<DeviceId> {
        let waits = |numbers: &BTreeSet<u64>| numbers.iter().any(|number| is_waiting(&self.entries[number]));
        self.open.iter().filter(|(_, numbers)| waits(numbers)).map(|(device, _)| device.clone()).collect()
    }

    /// The command as it will be when a session has it; `None` if none may have it any more.
    pub(in crate::relay::ledger) fn handed_over(
        &self,
        id: CommandId,
        granted: Qos,
        now: &Now<'_>,
    ) -> Option<Command> {
        let entry = &self.entries[self.ids.get(&id)?];
        let is_due = is_waiting(entry) && now.life(&entry.command) == Life::Good;
        let mut command = Command::clone(&entry.command);
        (is_due && command.step(State::Sent, now.at, None)).then(|| {
            command.attempts = command.attempts.saturating_add(1);
            command.granted = Some(granted);
            command
        })
    }

    /// A command as it is on its way to disk.
    pub(in crate::relay::ledger) fn replace(&mut self, command: Command, mark: Mark) {
        let id = command.id;
        self.last_mark = self.last_mark.max(mark);
        self.change(command.number, |present| *present = command);
        // That it was forgotten at once is not on its way.
        if self.unsaved.get(&id).is_some_and(Option::is_some) {
            self.unsaved.remove(&id);
        }
    }

    /// Whether a session may write it, or write it again.
    pub(in crate::relay::ledger) fn may_be_sent(&self, id: CommandId, now: &Now<'_>) -> bool {
        self.get(id).is_some_and(|command| command.state == State::Sent && now.life(command) == Life::Good)
    }

    /// A session that was kept has it from before.
    pub(in crate::relay::ledger) fn claim(&mut self, id: CommandId, granted: Qos, now: &Now<'_>) {
        self.change_id(id, |command| {
            if command.state == State::Queued && command.step(State::Sent, now.at, None) {
                command.granted = Some(granted);
            }
        });
    }

    /// Who has what from before is known: nobody has the rest.
    pub(in crate::relay::ledger) fn return_unclaimed(
        &mut self,
        claimed: &BTreeSet<CommandId>,
        now: &Now<'_>,
    ) {
        let is_lost =
            |entry: &&Entry| entry.command.state == State::Sent && !claimed.contains(&entry.command.id);
        let lost: Vec<_> = self.entries.values().filter(is_lost).map(|entry| entry.command.id).collect();
        for id in lost {
            self.undelivered(id, &Undelivered::Unconfirmed, now);
        }
    }

    /// It was written with QoS 0: nobody will say that it came.
    pub(in crate::relay::ledger) fn written(&mut self, id: CommandId, now: &Now<'_>) {
        self.change_id(id, |command| {
            if command.state == State::Sent && command.reply.is_none() {
                command.step(State::Done, now.at, Some("not confirmed: it was sent with QoS 0"));
            }
        });
    }

    /// The device has it.
    pub(in crate::relay::ledger) fn acked(&mut self, id: CommandId, now: &Now<'_>) {
        self.change_id(id, |command| {
            if command.step(State::Acked, now.at, None) && command.reply.is_none() {
                command.step(State::Done, now.at, None);
            }
        });
    }

    /// A session gives it back.
    pub(in crate::relay::ledger) fn undelivered(&mut self, id: CommandId, why: &Undelivered, now: &Now<'_>) {
        let Some(present) = self.get(id).filter(|command| command.state == State::Sent) else { return };
        let (life, later) = (now.life(present), self.later_with_key(present));
        self.change_id(id, |command| {
            let (next, reason) = match (why, command.granted) {
                (Undelivered::TooLarge, _) => {
                    (State::Failed, Some("it is larger than the device takes".into()))
                }
                (Undelivered::Refused(reason), _) => {
                    (State::Failed, Some(format!("the device refused it: {reason}")))
                }
                (Undelivered::Forbidden, _) => {
                    (State::Failed, Some("the device may not receive from its topic any more".into()))
                }
                _ if life == Life::Over => (State::Expired, Some(expired_reason(command))),
                (Undelivered::Unconfirmed, Some(Qos::ExactlyOnce)) => {
                    let reason =
                        "the session ended before the device confirmed it; with QoS 2 it is not sent twice";
                    (State::Failed, Some(reason.into()))
                }
                (Undelivered::Unconfirmed, Some(Qos::AtMostOnce)) => {
                    let reason = "nobody knows whether it was sent; with QoS 0 it is not sent twice";
                    (State::Failed, Some(reason.into()))
                }
                _ => match later {
                    Some(later) => (State::Cancelled, Some(replaced_reason(later))),
                    None => (State::Queued, None),
                },
            };
            command.step(next, now.at, reason.as_deref());
        });
    }

    /// A later command for the same device and key that may reach the device, or may have reached it.
    fn later_with_key(&self, command: &Command) -> Option<CommandId> {
        let key = command.key.as_ref()?;
        let later = self.entries.range(command.number + 1..).map(|(_, entry)| &entry.command);
        let mut later = later.filter(|later| {
            let counts = !later.state.is_final() || later.time_of(State::Sent).is_some();
            counts && later.device == command.device && later.key.as_ref() == Some(key)
        });
        later.next().map(|later| later.id)
    }

    /// The command that is answered by what a device has published, as it is then.
    pub(in crate::relay::ledger) fn answered(&self, said: &Said<'_>, now: &Now<'_>) -> Option<Command> {
        let Said { device, topic, correlation, payload, is_repetition, .. } = *said;
        let reply_of =
            |command: &'_ Command| command.reply.clone().filter(|reply| reply.topic.as_str() == topic);
        let (answered, reply) = self.open_of(device).find_map(|Entry { command, .. }| {
            let is_there = matches!(command.state, State::Sent | State::Acked)
                && correlation.is_none_or(|data| is_id(data, command.id));
            Some((command, reply_of(command).filter(|_| is_there)?))
        })?;
        let result = shortened(payload);
        if is_repetition && correlation.is_none() {
            let mut finished = self.finished.values().rev().map(|number| &self.entries[number].command);
            let last =
                finished.find(|it| it.device == *device && it.result.is_some() && reply_of(it).is_some());
            if last.is_some_and(|last| last.result.as_ref() == Some(&result)) {
                return None;
            }
        }
        let mut command = Command::clone(answered);
        match reply.failed_if.says(payload) {
            true => command.step(State::Failed, now.at, Some("the device said so")),
            false => command.step(State::Done, now.at, None),
        };
        command.result = Some(result);
        Some(command)
    }

    /// A command that could not be submitted: it is not on its way to disk.
    pub(in crate::relay::ledger) fn replace_unsaved(&mut self, command: Command) {
        self.change(command.number, |present| *present = command);
    }

    pub(in crate::relay::ledger) fn cancel(
        &mut self,
        id: CommandId,
        now: &Now<'_>,
    ) -> Result<SharedCommand, NotCancelled> {
        let entry = self.ids.get(&id).map(|number| &self.entries[number]).ok_or(NotCancelled::Unknown)?;
        match entry.command.state {
            State::Queued => {
                self.change_id(id, |command| {
                    command.step(State::Cancelled, now.at, Some("taken back"));
                });
                Ok(Arc::clone(self.get(id).expect("it was found")))
            }
            State::Sent | State::Acked => Err(NotCancelled::Sent(Arc::clone(&entry.command))),
            _ => Err(NotCancelled::Ended(Arc::clone(&entry.command))),
        }
    }

    /// Ends what is over, and forgets what has ended long ago.
    pub(in crate::relay::ledger) fn sweep(&mut self, now: &Now<'_>) {
        let open: Vec<u64> = self.open.values().flatten().copied().collect();
        for number in open {
            let command = &self.entries[&number].command;
            match command.state {
                State::Queued | State::Sent if now.life(command) == Life::Over => {
                    self.change(number, |command| {
                        let reason = expired_reason(command);
                        command.step(State::Expired, now.at, Some(&reason));
                    });
                }
                State::Acked if now.is_past(command.since(), command.good_for) => {
                    let time = humantime::format_duration(command.good_for);
                    let reason = format!("the device acknowledged it, and no reply came within {time}");
                    self.change(number, |command| {
                        command.step(State::Failed, now.at, Some(&reason));
                    });
                }
                _ => {}
            }
        }
        self.sweeps = self.sweeps.wrapping_add(1);
        if self.sweeps.is_multiple_of(64) {
            let keep = self.settings.keep_finished;
            let is_old = |number: &&u64| {
                let command = &self.entries[*number].command;
                now.is_past(command.since(), keep) && !may_come_again(command, now)
            };
            let old: Vec<u64> = self.finished.values().filter(is_old).copied().collect();
            old.into_iter().for_each(|number| self.remove(number));
        }
    }
}

/// Whether its source may send it again while it is good: forgotten, it would be carried out twice.
fn may_come_again(command: &Command, now: &Now<'_>) -> bool {
    let is_good = !now.is_past(command.accepted(), command.good_for);
    is_to_be_told(command) || is_good && command.origin.reference.is_some()
}

fn is_waiting(entry: &Entry) -> bool {
    entry.command.state == State::Queued && !entry.withheld
}

fn expired_reason(command: &Command) -> String {
    let time = humantime::format_duration(command.good_for);
    match (command.state, command.attempts) {
        (State::Sent, _) => "sent, not acknowledged".to_owned(),
        (_, 0) => format!("the device was not there to take it within {time}"),
        _ => format!("sent, not acknowledged, and the device did not come back within {time}"),
    }
}

fn is_id(data: &[u8], id: CommandId) -> bool {
    data == id.as_bytes() || std::str::from_utf8(data).is_ok_and(|text| text.parse() == Ok(id))
}

fn shortened(payload: &[u8]) -> Box<str> {
    let text = String::from_utf8_lossy(payload);
    let mut end = text.len().min(MAX_RESULT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}
