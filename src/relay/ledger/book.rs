//! The commands in memory: which there are, how far each is, what may happen next. It knows no disk and no clock, so
//! that every order of events can be tried.

mod acceptance;
mod delivery;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

pub(super) use self::acceptance::Plan;
use super::{Figures, Page, Wanted};
use crate::buffer::{Change, Mark};
use crate::config;
use crate::message::{CommandId, DeviceId, Stamp};
use crate::relay::command::{Command, SharedCommand, Source, State};
use crate::relay::record;

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

    pub(super) fn knows(&self, source: Source, name: &str, reference: &str) -> bool {
        self.references.contains_key(&(source, name.into(), reference.into()))
    }

    /// Open commands that wait for a reply.
    pub(super) fn awaited(&self) -> usize {
        self.awaited
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
        let entries = of_source.map(|(_, _, number)| &self.entries[number]);
        // Its source is told of it when it is on disk.
        entries.filter(|entry| !entry.withheld).take(limit).map(|entry| Arc::clone(&entry.command)).collect()
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

    /// Those that ended first go, beyond what may be kept, and those whose end is to be told last of all. The last
    /// one stays, so that it is heard of.
    fn forget_finished(&mut self) {
        let config::Commands { max_finished, max_total_bytes, .. } = self.settings;
        while (self.finished.len() > max_finished || self.bytes > max_total_bytes) && self.finished.len() > 1
        {
            let mut earlier = self.finished.values().take(self.finished.len() - 1);
            let told = earlier.clone().find(|number| !is_to_be_told(&self.entries[*number].command));
            let Some(number) = told.or(earlier.next()).copied() else { return };
            self.remove(number);
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

fn put(command: &Command) -> Change {
    Change::Put(record::key(command.id), record::encode(command))
}

fn reference(command: &Command) -> Option<(Source, Box<str>, Box<str>)> {
    let origin = &command.origin;
    Some((origin.source, origin.name.clone(), origin.reference.clone()?))
}

fn report(command: &Command) -> (Source, Box<str>, u64) {
    (command.origin.source, command.origin.name.clone(), command.number)
}

/// Whether its source may send it again, because it was not told what became of it.
fn is_to_be_told(command: &Command) -> bool {
    let is_told = matches!(command.origin.source, Source::TalkBack | Source::Field | Source::Supabase);
    is_told && command.origin.reference.is_some() && command.reported != Some(command.state)
}

fn replaced_reason(by: CommandId) -> String {
    format!("replaced by {by}")
}
