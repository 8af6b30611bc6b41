//! The commands in memory: which there are, how far each is, what may happen next. It knows no disk and no clock, so
//! that every order of events can be tried.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::{Figures, NotCancelled, Page, Said, Undelivered, Wanted};
use crate::buffer::{Change, Mark};
use crate::config;
use crate::message::{CommandId, DeviceId, Qos, Stamp};
use crate::relay::command::{Command, NewCommand, SharedCommand, Source, State};
use crate::relay::record;

/// Bytes of a name, a key or a reference.
const MAX_NAME_BYTES: usize = 256;

/// Bytes of a device's answer that are kept.
const MAX_RESULT_BYTES: usize = 1_024;

/// What is known of how long ago something was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    Known(Duration),
    /// It was before this boot, and the wall clock was or is not right.
    AtLeast(Duration),
}

/// The present moment, by which ages are told.
pub(super) struct Now<'a> {
    pub(super) at: Stamp,
    pub(super) age: &'a dyn Fn(&Stamp) -> Age,
}

/// Whether a command may still be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Good,
    Over,
    /// It may be too old: nobody knows before the clock is right.
    Unknown,
}

impl Now<'_> {
    fn life(&self, command: &Command) -> Life {
        match (self.age)(command.accepted()) {
            Age::Known(age) | Age::AtLeast(age) if age >= command.good_for => Life::Over,
            Age::Known(_) => Life::Good,
            Age::AtLeast(_) => Life::Unknown,
        }
    }

    fn is_past(&self, since: &Stamp, time: Duration) -> bool {
        let (Age::Known(age) | Age::AtLeast(age)) = (self.age)(since);
        age >= time
    }
}

/// What a command would bring about.
pub(super) enum Plan {
    /// It is there already, on disk at this mark.
    Known(SharedCommand, Mark),
    /// It is to be kept, queued or refused, and in the place of another.
    Keep(Box<Planned>),
}

pub(super) struct Planned {
    pub(super) command: Command,
    replaced: Option<Command>,
}

impl Planned {
    pub(super) fn changes(&self) -> Vec<Change> {
        self.replaced.iter().chain([&self.command]).map(put).collect()
    }
}

fn put(command: &Command) -> Change {
    Change::Put(record::key(command.id), record::encode(command))
}

#[derive(Debug)]
struct Entry {
    command: SharedCommand,
    /// It is on its way to disk for the first time: no device gets it before.
    withheld: bool,
    /// Where its acceptance is on disk.
    accepted_at: Mark,
    /// Its place among those that have an end.
    end: Option<u64>,
    waiters: Option<Arc<Notify>>,
}

/// All commands. A number tells which was accepted before which.
#[derive(Debug)]
pub(super) struct Book {
    settings: config::Commands,
    entries: BTreeMap<u64, Entry>,
    ids: HashMap<CommandId, u64>,
    references: HashMap<(Source, Box<str>, Box<str>), u64>,
    /// Those without an end.
    open: HashMap<DeviceId, BTreeSet<u64>>,
    open_count: usize,
    /// Those with an end, in the order in which they came to it.
    finished: BTreeMap<u64, u64>,
    last_end: u64,
    unreported: BTreeSet<(Source, Box<str>, u64)>,
    /// Open ones that wait for a reply.
    awaited: usize,
    last_number: u64,
    bytes: u64,
    open_bytes: u64,
    /// What is not on its way to disk yet.
    unsaved: BTreeMap<CommandId, Option<u64>>,
    /// Where what was submitted last is on disk.
    last_mark: Mark,
    figures: Figures,
    sweeps: u32,
}

impl Book {
    pub(super) fn new(settings: config::Commands) -> Self {
        Self {
            settings,
            entries: BTreeMap::new(),
            ids: HashMap::new(),
            references: HashMap::new(),
            open: HashMap::new(),
            open_count: 0,
            finished: BTreeMap::new(),
            last_end: 0,
            unreported: BTreeSet::new(),
            awaited: 0,
            last_number: 0,
            bytes: 0,
            open_bytes: 0,
            unsaved: BTreeMap::new(),
            last_mark: Mark::default(),
            figures: Figures::default(),
            sweeps: 0,
        }
    }

    /// Takes back what an earlier process had. Records that cannot be read stay where they are, and are counted.
    pub(super) fn restore(&mut self, records: impl IntoIterator<Item = (Box<[u8]>, Vec<u8>)>) {
        let mut commands = Vec::new();
        for (key, value) in records {
            match record::decode(&key, &value) {
                Some(command) => commands.push(command),
                None => self.figures.unreadable += 1,
            }
        }
        // So far as anybody knows now in which order they came to their ends.
        commands.sort_by_key(|command| command.since().wall_ms);
        for command in commands {
            // A number stands for one command: of two, one is not from here.
            if self.entries.contains_key(&command.number) {
                self.figures.unreadable += 1;
            } else {
                self.insert(command, false, Mark::default());
            }
        }
    }

    pub(super) fn get(&self, id: CommandId) -> Option<&SharedCommand> {
        Some(&self.entries[self.ids.get(&id)?].command)
    }

    /// Open commands that wait for a reply.
    pub(super) fn awaited(&self) -> usize {
        self.awaited
    }

    // Coming in.

    /// What would become of a new command. Nothing is changed.
    pub(super) fn plan(&self, new: NewCommand, objection: Option<String>, now: &Now<'_>) -> Plan {
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
            command.state = State::Refused;
            command.reason = Some(reason.into());
            command.steps = vec![(State::Refused, now.at)];
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
            return Some("it is good for no time at all".to_owned());
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
    pub(super) fn carry_out(&mut self, planned: Planned, withheld: bool, mark: Mark) -> SharedCommand {
        let Planned { command, replaced } = planned;
        if let Some(replaced) = replaced {
            self.replace(replaced, mark);
        }
        self.last_mark = self.last_mark.max(mark);
        if command.state == State::Refused {
            self.figures.refused += 1;
        } else {
            self.figures.accepted += 1;
        }
        let command = self.insert(command, withheld, mark);
        self.forget_finished();
        command
    }

    /// It is on disk.
    pub(super) fn release(&mut self, number: u64) {
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.withheld = false;
        }
    }

    fn insert(&mut self, command: Command, withheld: bool, accepted_at: Mark) -> SharedCommand {
        let (number, command) = (command.number, Arc::new(command));
        self.last_number = self.last_number.max(number);
        self.ids.insert(command.id, number);
        if let Some(reference) = reference(&command) {
            self.references.insert(reference, number);
        }
        self.add(&command);
        let end = command.state.is_final().then(|| self.end(number));
        let entry = Entry { command: Arc::clone(&command), withheld, accepted_at, end, waiters: None };
        self.entries.insert(number, entry);
        command
    }

    // On its way.

    /// What may be given to a device now, in the order of acceptance.
    pub(super) fn waiting(&self, device: &DeviceId, now: &Now<'_>) -> Vec<SharedCommand> {
        let is_due = |entry: &&Entry| is_waiting(entry) && now.life(&entry.command) == Life::Good;
        self.open_of(device).filter(is_due).map(|entry| Arc::clone(&entry.command)).collect()
    }

    /// Devices for which something waits.
    pub(super) fn expecting(&self) -> Vec<DeviceId> {
        let waits = |numbers: &BTreeSet<u64>| numbers.iter().any(|number| is_waiting(&self.entries[number]));
        self.open.iter().filter(|(_, numbers)| waits(numbers)).map(|(device, _)| device.clone()).collect()
    }

    /// The command as it will be when a session has it; `None` if none may have it any more.
    pub(super) fn handed_over(&self, id: CommandId, granted: Qos, now: &Now<'_>) -> Option<Command> {
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
    pub(super) fn replace(&mut self, command: Command, mark: Mark) {
        let id = command.id;
        self.last_mark = self.last_mark.max(mark);
        self.change(command.number, |present| *present = command);
        // That it was forgotten at once is not on its way.
        if self.unsaved.get(&id).is_some_and(Option::is_some) {
            self.unsaved.remove(&id);
        }
    }

    /// Whether a session may write it, or write it again.
    pub(super) fn may_be_sent(&self, id: CommandId, now: &Now<'_>) -> bool {
        self.get(id).is_some_and(|command| command.state == State::Sent && now.life(command) == Life::Good)
    }

    /// A session that was kept has it from before.
    pub(super) fn claim(&mut self, id: CommandId, granted: Qos, now: &Now<'_>) {
        self.change_id(id, |command| {
            if command.state == State::Queued && command.step(State::Sent, now.at, None) {
                command.granted = Some(granted);
            }
        });
    }

    /// Who has what from before is known: nobody has the rest.
    pub(super) fn return_unclaimed(&mut self, claimed: &BTreeSet<CommandId>, now: &Now<'_>) {
        let is_lost =
            |entry: &&Entry| entry.command.state == State::Sent && !claimed.contains(&entry.command.id);
        let lost: Vec<_> = self.entries.values().filter(is_lost).map(|entry| entry.command.id).collect();
        for id in lost {
            self.undelivered(id, &Undelivered::Unconfirmed, now);
        }
    }

    /// It was written with QoS 0: nobody will say that it came.
    pub(super) fn written(&mut self, id: CommandId, now: &Now<'_>) {
        self.change_id(id, |command| {
            if command.state == State::Sent && command.reply.is_none() {
                command.step(State::Done, now.at, Some("not confirmed: it was sent with QoS 0"));
            }
        });
    }

    /// The device has it.
    pub(super) fn acked(&mut self, id: CommandId, now: &Now<'_>) {
        self.change_id(id, |command| {
            if command.step(State::Acked, now.at, None) && command.reply.is_none() {
                command.step(State::Done, now.at, None);
            }
        });
    }

    /// A session gives it back.
    pub(super) fn undelivered(&mut self, id: CommandId, why: &Undelivered, now: &Now<'_>) {
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
                (Undelivered::Unconfirmed, Some(Qos::ExactlyOnce)) => {
                    let reason =
                        "the session ended before the device confirmed it; with QoS 2 it is not sent twice";
                    (State::Failed, Some(reason.into()))
                }
                (Undelivered::Unconfirmed, Some(Qos::AtMostOnce)) => {
                    let reason = "nobody knows whether it was sent; with QoS 0 it is not sent twice";
                    (State::Failed, Some(reason.into()))
                }
                _ if life == Life::Over => (State::Expired, Some(expired_reason(command))),
                _ => match later {
                    Some(later) => (State::Cancelled, Some(replaced_reason(later))),
                    None => (State::Queued, None),
                },
            };
            command.step(next, now.at, reason.as_deref());
        });
    }

    /// A later command for the same device and key, however far it is.
    fn later_with_key(&self, command: &Command) -> Option<CommandId> {
        let key = command.key.as_ref()?;
        let later = self.entries.range(command.number + 1..).map(|(_, entry)| &entry.command);
        let mut later = later.filter(|later| {
            later.state != State::Refused && later.device == command.device && later.key.as_ref() == Some(key)
        });
        later.next().map(|later| later.id)
    }

    /// The command that is answered by what a device has published, as it is then.
    pub(super) fn answered(&self, said: &Said<'_>, now: &Now<'_>) -> Option<Command> {
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
    pub(super) fn replace_unsaved(&mut self, command: Command) {
        self.change(command.number, |present| *present = command);
    }

    pub(super) fn cancel(&mut self, id: CommandId, now: &Now<'_>) -> Result<SharedCommand, NotCancelled> {
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
    pub(super) fn sweep(&mut self, now: &Now<'_>) {
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
            let is_old = |number: &&u64| now.is_past(self.entries[*number].command.since(), keep);
            let old: Vec<u64> = self.finished.values().filter(is_old).copied().collect();
            old.into_iter().for_each(|number| self.remove(number));
        }
    }

    // Telling.

    pub(super) fn list(&self, wanted: &Wanted, after: Option<CommandId>, limit: usize) -> Page {
        let before = match after.map(|id| self.ids.get(&id)) {
            None => u64::MAX,
            Some(Some(number)) => *number,
            Some(None) => 0,
        };
        let mut found = self.entries.range(..before).rev().map(|(_, entry)| &entry.command);
        let mut found = found.by_ref().filter(|command| wanted.fits(command)).cloned();
        let commands: Vec<_> = found.by_ref().take(limit).collect();
        let next = found.next().and(commands.last()).map(|last| last.id);
        Page { commands, next }
    }

    pub(super) fn unreported(&self, source: Source, name: &str, limit: usize) -> Vec<SharedCommand> {
        let first = (source, Box::from(name), 0);
        let of_source =
            self.unreported.range(first..).take_while(|(of, by, _)| *of == source && **by == *name);
        of_source.take(limit).map(|(_, _, number)| Arc::clone(&self.entries[number].command)).collect()
    }

    pub(super) fn reported(&mut self, id: CommandId, state: State) {
        self.change_id(id, |command| command.reported = Some(state));
    }

    pub(super) fn figures(&self) -> Figures {
        let mut figures = self.figures.clone();
        figures.kept = self.entries.len() as u64;
        figures.bytes = self.bytes;
        let states = self.open.values().flatten().map(|number| self.entries[number].command.state);
        for state in states {
            match state {
                State::Queued => figures.queued += 1,
                State::Sent => figures.sent += 1,
                _ => figures.acked += 1,
            }
        }
        figures
    }

    /// Who waits for a change of a command is told through this.
    pub(super) fn waiter(&mut self, id: CommandId) -> Option<Arc<Notify>> {
        let entry = self.entries.get_mut(self.ids.get(&id)?)?;
        Some(Arc::clone(entry.waiters.get_or_insert_default()))
    }

    // What all of it is made of.

    /// What is to go to disk.
    pub(super) fn unsaved(&self) -> Vec<Change> {
        let change = |(id, number): (&CommandId, &Option<u64>)| match number {
            Some(number) => put(&self.entries[number].command),
            None => Change::Remove(record::key(*id)),
        };
        self.unsaved.iter().map(change).collect()
    }

    /// All of it is on its way, and on disk at this mark.
    pub(super) fn saved_at(&mut self, mark: Mark) {
        self.unsaved.clear();
        self.last_mark = self.last_mark.max(mark);
    }

    /// Where everything that was submitted is on disk.
    pub(super) fn last_mark(&self) -> Mark {
        self.last_mark
    }

    fn open_of(&self, device: &DeviceId) -> impl Iterator<Item = &Entry> {
        self.open.get(device).into_iter().flatten().map(|number| &self.entries[number])
    }

    fn change_id(&mut self, id: CommandId, change: impl FnOnce(&mut Command)) {
        if let Some(number) = self.ids.get(&id) {
            self.change(*number, change);
        }
    }

    /// The one place where a command changes.
    fn change(&mut self, number: u64, change: impl FnOnce(&mut Command)) {
        let Some(entry) = self.entries.get_mut(&number) else { return };
        let before = Arc::clone(&entry.command);
        let mut command = Command::clone(&before);
        change(&mut command);
        if command == *before {
            return;
        }
        let after = Arc::new(command);
        entry.command = Arc::clone(&after);
        if let Some(waiters) = entry.waiters.take() {
            waiters.notify_waiters();
        }
        self.subtract(&before);
        self.add(&after);
        self.unsaved.insert(after.id, Some(number));
        if after.state != before.state && after.state.is_final() {
            let end = self.end(number);
            if let Some(entry) = self.entries.get_mut(&number) {
                entry.end = Some(end);
            }
            match after.state {
                State::Done => self.figures.done += 1,
                State::Failed => self.figures.failed += 1,
                State::Expired => self.figures.expired += 1,
                _ => self.figures.cancelled += 1,
            }
        }
        self.forget_finished();
    }

    fn add(&mut self, command: &Command) {
        self.bytes += command.cost();
        if !command.state.is_final() {
            self.open.entry(command.device.clone()).or_default().insert(command.number);
            self.open_count += 1;
            self.open_bytes += command.cost();
            self.awaited += usize::from(command.reply.is_some());
        }
        if command.reported != Some(command.state) {
            self.unreported.insert(report(command));
        }
    }

    fn subtract(&mut self, command: &Command) {
        self.bytes -= command.cost();
        if !command.state.is_final() {
            if let Some(open) = self.open.get_mut(&command.device) {
                open.remove(&command.number);
                if open.is_empty() {
                    self.open.remove(&command.device);
                }
            }
            self.open_count -= 1;
            self.open_bytes -= command.cost();
            self.awaited -= usize::from(command.reply.is_some());
        }
        self.unreported.remove(&report(command));
    }

    /// A command has come to its end: its place among the others that have.
    fn end(&mut self, number: u64) -> u64 {
        self.last_end += 1;
        self.finished.insert(self.last_end, number);
        self.last_end
    }

    /// Those that ended first go, beyond what may be kept; the last one stays, so that it is heard of.
    fn forget_finished(&mut self) {
        let config::Commands { max_finished, max_total_bytes, .. } = self.settings;
        while (self.finished.len() > max_finished || self.bytes > max_total_bytes) && self.finished.len() > 1
        {
            let Some((_, first)) = self.finished.first_key_value() else { return };
            self.remove(*first);
        }
    }

    fn remove(&mut self, number: u64) {
        let Some(Entry { command, waiters, end, .. }) = self.entries.remove(&number) else { return };
        self.subtract(&command);
        if let Some(end) = end {
            self.finished.remove(&end);
        }
        self.ids.remove(&command.id);
        if let Some(reference) = reference(&command) {
            self.references.remove(&reference);
        }
        self.unsaved.insert(command.id, None);
        if let Some(waiters) = waiters {
            waiters.notify_waiters();
        }
    }
}

fn is_waiting(entry: &Entry) -> bool {
    entry.command.state == State::Queued && !entry.withheld
}

fn reference(command: &Command) -> Option<(Source, Box<str>, Box<str>)> {
    let origin = &command.origin;
    Some((origin.source, origin.name.clone(), origin.reference.clone()?))
}

fn report(command: &Command) -> (Source, Box<str>, u64) {
    (command.origin.source, command.origin.name.clone(), command.number)
}

fn replaced_reason(by: CommandId) -> String {
    format!("replaced by {by}")
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
