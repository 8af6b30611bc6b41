//! What is accepted, and what is refused.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Book, Now, put, replaced_reason};
use crate::buffer::{Change, Mark};
use crate::config;
use crate::message::CommandId;
use crate::relay::command::{Command, NewCommand, SharedCommand, State};

/// Bytes of a name, a key or a reference.
const MAX_NAME_BYTES: usize = 256;

/// What a command would bring about.
pub(in crate::relay::ledger) enum Plan {
    /// It is there already, on disk at this mark.
    Known(SharedCommand, Mark),
    /// It is to be kept, queued or refused, and in the place of another.
    Keep(Box<Planned>),
}

pub(in crate::relay::ledger) struct Planned {
    pub(in crate::relay::ledger) command: Command,
    replaced: Option<Command>,
}

impl Planned {
    pub(in crate::relay::ledger) fn changes(&self) -> Vec<Change> {
        self.replaced.iter().chain([&self.command]).map(put).collect()
    }
}

impl Book {
    /// What would become of a new command. Nothing is changed.
    pub(in crate::relay::ledger) fn plan(
        &self,
        new: NewCommand,
        objection: Option<String>,
        now: &Now<'_>,
    ) -> Plan {
        let NewCommand { device, topic, payload, qos, mut origin, mut key, good_for, reply } = new;
        if let Some(reference) = &origin.reference {
            let reference = (origin.source, origin.name.clone(), reference.clone());
            if let Some(number) = self.references.get(&reference) {
                let entry = &self.entries[number];
                return Plan::Known(Arc::clone(&entry.command), entry.accepted_at);
            }
        }
        let too_long =
            |text: &Option<Box<str>>| text.as_ref().is_some_and(|text| text.len() > MAX_NAME_BYTES);
        let is_nameless = too_long(&key) || too_long(&origin.reference) || origin.name.len() > MAX_NAME_BYTES;
        if is_nameless {
            // It is not kept with what is refused of it.
            (key, origin.reference) = (None, None);
            if origin.name.len() > MAX_NAME_BYTES {
                origin.name = "".into();
            }
        }
        let mut command = Command {
            id: CommandId::generate(now.at.wall_ms),
            number: self.last_number + 1,
            device,
            topic,
            payload,
            qos,
            origin,
            key,
            good_for,
            reply,
            state: State::Queued,
            reason: None,
            result: None,
            steps: vec![(State::Queued, now.at)],
            granted: None,
            attempts: 0,
            reported: None,
        };
        let replaced = self.replaced_by(&command, now);
        let refusal = match is_nameless {
            true => Some(format!("a key, a reference and a name have at most {MAX_NAME_BYTES} bytes each")),
            false => self.refusal(&command, replaced.is_some()).or(objection),
        };
        if let Some(reason) = refusal {
            if command.payload.len() > self.settings.max_payload_bytes {
                command.payload.clear();
            }
            command.state = if command.good_for.is_zero() { State::Expired } else { State::Refused };
            command.reason = Some(reason.into());
            command.steps = vec![(command.state, now.at)];
            return Plan::Keep(Box::new(Planned { command, replaced: None }));
        }
        Plan::Keep(Box::new(Planned { command, replaced }))
    }

    /// The command in whose place this one comes, cancelled.
    fn replaced_by(&self, new: &Command, now: &Now<'_>) -> Option<Command> {
        let key = new.key.as_ref()?;
        let earlier = self.open_of(&new.device).find(|earlier| {
            earlier.command.state == State::Queued && earlier.command.key.as_ref() == Some(key)
        })?;
        let mut replaced = Command::clone(&earlier.command);
        replaced.step(State::Cancelled, now.at, Some(&replaced_reason(new.id)));
        Some(replaced)
    }

    fn refusal(&self, command: &Command, replaces: bool) -> Option<String> {
        let config::Commands { max_payload_bytes, max_good_for, max_open_per_device, max_open, .. } =
            self.settings;
        let open = self.open.get(&command.device).map_or(0, BTreeSet::len);
        let less = usize::from(replaces);
        if command.payload.len() > max_payload_bytes {
            let bytes = command.payload.len();
            return Some(format!(
                "its payload has {bytes} bytes, more than the {max_payload_bytes} of commands.max_payload"
            ));
        }
        if command.good_for.is_zero() {
            return Some("it was too old when it came".to_owned());
        }
        if command.good_for > max_good_for {
            let max = humantime::format_duration(max_good_for);
            return Some(format!("it is good for longer than the {max} of commands.max_good_for"));
        }
        if open - less.min(open) >= max_open_per_device {
            return Some(format!(
                "{} has {open} commands without an end, as many as commands.max_open_per_device lets it",
                command.device
            ));
        }
        if self.open_count - less.min(self.open_count) >= max_open {
            return Some(format!(
                "there are {max_open} commands without an end, as many as commands.max_open lets"
            ));
        }
        (self.open_bytes + command.cost() > self.settings.max_total_bytes)
            .then(|| "commands take all the memory that commands.max_size gives them".to_owned())
    }

    /// The plan is on its way to disk.
    pub(in crate::relay::ledger) fn carry_out(
        &mut self,
        planned: Planned,
        withheld: bool,
        mark: Mark,
    ) -> SharedCommand {
        let Planned { command, replaced } = planned;
        if let Some(replaced) = replaced {
            self.replace(replaced, mark);
        }
        self.last_mark = self.last_mark.max(mark);
        match command.state {
            State::Refused => self.figures.refused += 1,
            State::Expired => self.figures.expired += 1,
            _ => self.figures.accepted += 1,
        }
        let command = self.insert(command, withheld, mark);
        self.forget_finished();
        command
    }
}
