//! The open group: where readings and changes of all connections meet before they are committed together.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::block::{Base, Records, put_record, take_record};
use super::frame::Fields;
use super::letter::Letter;
use super::record::{self, RecordKey};
use super::{Change, Mark, Receipt, SubmitError, Wait};
use crate::message::{Incoming, Seq, Stamp};

/// A group with so many readings is closed at once.
pub(super) const GROUP_READINGS: usize = 256;
/// A group with so many bytes is closed at once.
pub(super) const GROUP_BYTES: usize = 64 * 1024;
/// Beyond it the open group takes nothing more: the disk is slow or in trouble.
const MAX_OPEN_BYTES: usize = 8 * 1024 * 1024;
/// A buffer that grew beyond it in a bad moment is given back.
const KEEP_BYTES: usize = 4 * GROUP_BYTES;

/// A group that has grown longer than this reaches the disk in several atomic changes.
const SECTION_READINGS: usize = 1_024;
const SECTION_BYTES: usize = 1024 * 1024;

/// What of a group reaches the disk together or not at all: a reading and the changes that came with it are in one.
#[derive(Debug, Default)]
pub(super) struct Section {
    /// Its readings, by index.
    pub(super) from: usize,
    pub(super) to: usize,
    bytes: usize,
    /// The last change of each record; `None` removes it.
    pub(super) changes: BTreeMap<RecordKey, Option<Vec<u8>>>,
}

impl Section {
    fn is_full(&self) -> bool {
        self.to - self.from >= SECTION_READINGS || self.bytes >= SECTION_BYTES
    }

    /// Puts a change in the place of an earlier one. Says by how many bytes it became larger and smaller.
    fn change(&mut self, change: Change) -> (usize, usize) {
        let (key, value) = match change {
            Change::Put(key, value) => (key, Some(value)),
            Change::Remove(key) => (key, None),
        };
        let more = record::cost(value.as_deref());
        let less = self.changes.insert(key, value).map_or(0, |earlier| record::cost(earlier.as_deref()));
        self.bytes = self.bytes + more - less;
        (more, less)
    }
}

/// Readings and changes that will be committed together.
#[derive(Debug)]
pub(super) struct Group {
    number: u64,
    pub(super) first: Seq,
    base: Base,
    bytes: Vec<u8>,
    ends: Vec<u32>,
    /// Readings that carry a fault, by index.
    faults: Vec<u32>,
    sections: Vec<Section>,
    /// Bytes of all changes.
    change_bytes: usize,
    waiters: Vec<Arc<Notify>>,
    /// When the first came that somebody, or nobody, waits for.
    waited_since: Option<Instant>,
    unwaited_since: Option<Instant>,
}

impl Group {
    fn new() -> Self {
        Self {
            number: 1,
            first: 1,
            base: Base::ZERO,
            bytes: Vec::new(),
            ends: Vec::new(),
            faults: Vec::new(),
            sections: Vec::new(),
            change_bytes: 0,
            waiters: Vec::new(),
            waited_since: None,
            unwaited_since: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sections.is_empty()
    }

    pub(super) fn mark(&self) -> Mark {
        Mark(self.number)
    }

    /// One past the last number.
    pub(super) fn end(&self) -> Seq {
        self.first + self.ends.len() as u64
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of readings and changes.
    pub(super) fn size(&self) -> usize {
        self.bytes.len() + self.change_bytes
    }

    fn is_full(&self) -> bool {
        self.ends.len() >= GROUP_READINGS || self.size() >= GROUP_BYTES
    }

    /// The sections that a store which ends at `end` does not have yet: they are written in order.
    pub(super) fn sections_from(&self, end: Seq) -> &[Section] {
        let done = end.saturating_sub(self.first) as usize;
        let is_there = |section: &Section| section.from < section.to && section.to <= done;
        &self.sections[self.sections.iter().rposition(is_there).map_or(0, |last| last + 1)..]
    }

    /// The records with these indices.
    pub(super) fn records(&self, from: usize, to: usize) -> Records<'_> {
        let offset = if from == 0 { 0 } else { self.ends[from - 1] };
        Records {
            first: self.first + from as u64,
            base: self.base,
            offset: offset as usize,
            bytes: &self.bytes,
            ends: &self.ends[from..to],
        }
    }

    /// When its last reading was received.
    pub(super) fn newest(&self) -> Option<Stamp> {
        let last = self.records(self.len().checked_sub(1)?, self.len());
        Some(take_record(&mut Fields::new(&self.bytes[last.offset..]), &self.base)?.received)
    }

    /// Dead letters for the readings with these indices that came with a fault.
    pub(super) fn unfit(&self, from: usize, to: usize, epoch: u64) -> Vec<Letter> {
        let letter = |index: &usize| {
            let records = self.records(*index, index + 1);
            let found = take_record(&mut Fields::new(&self.bytes[records.offset..]), &self.base)?;
            Letter::unfit(records.first, epoch, &found)
        };
        let faults = self.faults.iter().map(|index| *index as usize);
        faults.filter(|index| (from..to).contains(index)).filter_map(|index| letter(&index)).collect()
    }

    fn put(&mut self, reading: Option<&Incoming<'_>>, changes: Vec<Change>) {
        if self.sections.last().is_none_or(Section::is_full) {
            let from = self.ends.len();
            self.sections.push(Section { from, to: from, ..Section::default() });
        }
        let section = self.sections.last_mut().expect("there is one now");
        if let Some(reading) = reading {
            if self.ends.is_empty() {
                self.base = reading.received.into();
            }
            if reading.fault.is_some() {
                self.faults.push(self.ends.len() as u32);
            }
            let before = self.bytes.len();
            put_record(&mut self.bytes, &self.base, &reading.into());
            self.ends.push(self.bytes.len() as u32);
            section.to += 1;
            section.bytes += self.bytes.len() - before;
        }
        for change in changes {
            let (more, less) = section.change(change);
            self.change_bytes = self.change_bytes + more - less;
        }
    }

    /// Empties it for the next use.
    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEEP_BYTES);
        self.ends.clear();
        self.ends.shrink_to(KEEP_BYTES / 64);
        self.faults.clear();
        self.sections.clear();
        self.change_bytes = 0;
        self.waited_since = None;
        self.unwaited_since = None;
    }
}

#[derive(Debug)]
struct State {
    open: Group,
    /// Those who wait for a group that was swapped out.
    waiters: Vec<Arc<Notify>>,
    next: Seq,
    /// The store takes nothing more for now: full under `refuse_new`, or no space.
    refusing: bool,
    closed: bool,
    /// The thread sleeps on the condition variable and must be told.
    sleeping: bool,
    /// Somebody has a command for the thread.
    poked: bool,
}

impl State {
    fn has_room(&self) -> bool {
        !self.refusing && self.open.size() <= MAX_OPEN_BYTES
    }
}

/// Where writers and the store's thread meet.
#[derive(Debug)]
pub(super) struct Intake {
    state: Mutex<State>,
    wake: Condvar,
    /// The number of the last group that is on disk.
    durable: AtomicU64,
    closed: AtomicBool,
    room: Notify,
    pub(super) ack_delay: Duration,
    pub(super) qos0_window: Duration,
}

/// What a writer keeps for itself.
#[derive(Debug)]
pub(super) struct Ticket {
    waiter: Arc<Notify>,
    /// The group that knows the waiter.
    group: u64,
}

impl Default for Ticket {
    fn default() -> Self {
        Self { waiter: Arc::default(), group: 0 }
    }
}

/// Why the thread woke up.
#[derive(Debug)]
pub(super) enum Wakeup {
    /// A group is due: it has been swapped out.
    Group(Group),
    /// A command, or the time given, has come.
    Look,
    /// Closed, and no group is left.
    Closed,
}

impl Intake {
    pub(super) fn new(next: Seq, ack_delay: Duration, qos0_window: Duration) -> Self {
        let open = Group { first: next, ..Group::new() };
        Self {
            state: Mutex::new(State {
                open,
                waiters: Vec::new(),
                next,
                refusing: false,
                closed: false,
                sleeping: false,
                poked: false,
            }),
            wake: Condvar::new(),
            durable: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            room: Notify::new(),
            ack_delay,
            qos0_window,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }

    pub(super) fn submit(
        &self,
        ticket: &mut Ticket,
        reading: Option<&Incoming<'_>>,
        changes: Vec<Change>,
        wait: Wait,
    ) -> Result<Receipt, SubmitError> {
        let mut state = self.state();
        if state.closed {
            return Err(SubmitError::Closed);
        }
        if !state.has_room() {
            return Err(SubmitError::Full);
        }
        if reading.is_none() && changes.is_empty() {
            return Ok(Receipt::default());
        }
        let seq = reading.map(|_| state.next);
        state.next += u64::from(seq.is_some());
        let open = &mut state.open;
        let was_full = open.is_full();
        open.put(reading, changes);
        let receipt = Receipt { mark: open.mark(), seq };
        if ticket.group != open.number {
            ticket.group = open.number;
            open.waiters.push(Arc::clone(&ticket.waiter));
        }
        // The thread must hear of a new deadline and of a full group, and of nothing else.
        let mut news = open.is_full() && !was_full;
        let since = match wait {
            Wait::ForAck => &mut open.waited_since,
            Wait::Nobody => &mut open.unwaited_since,
        };
        if since.is_none() {
            *since = Some(Instant::now());
            news = true;
        }
        if news && state.sleeping {
            state.sleeping = false;
            drop(state);
            self.wake.notify_one();
        }
        Ok(receipt)
    }

    /// Waits until a group is due, somebody pokes, or `until` has come. `spare` takes the place of the open group.
    /// With `hold`, groups stay open: the store cannot take them now.
    pub(super) fn wait(&self, spare: &mut Option<Group>, until: Option<Instant>, hold: bool) -> Wakeup {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            let due = self.due(&state.open);
            if !hold && (state.closed || due.is_some_and(|due| due <= now)) && !state.open.is_empty() {
                return Wakeup::Group(Self::swap(&mut state, spare));
            }
            if state.closed {
                return Wakeup::Closed;
            }
            if std::mem::take(&mut state.poked) || until.is_some_and(|until| until <= now) {
                return Wakeup::Look;
            }
            let deadline = [if hold { None } else { due }, until].into_iter().flatten().min();
            state.sleeping = true;
            state = match deadline {
                Some(at) => {
                    self.wake.wait_timeout(state, at - now).expect("nothing panics under this lock").0
                }
                None => self.wake.wait(state).expect("nothing panics under this lock"),
            };
            state.sleeping = false;
        }
    }

    /// When the open group must be closed; in the past if it is full.
    fn due(&self, open: &Group) -> Option<Instant> {
        if open.is_full() {
            return open.waited_since.or(open.unwaited_since);
        }
        let waited = open.waited_since.map(|since| since + self.ack_delay);
        let unwaited = open.unwaited_since.map(|since| since + self.qos0_window);
        [waited, unwaited].into_iter().flatten().min()
    }

    fn swap(state: &mut State, spare: &mut Option<Group>) -> Group {
        let mut fresh = spare.take().unwrap_or_else(Group::new);
        fresh.number = state.open.number + 1;
        fresh.first = state.next;
        let mut group = std::mem::replace(&mut state.open, fresh);
        state.waiters.append(&mut group.waiters);
        group
    }

    /// Whatever is open, due or not.
    pub(super) fn take(&self, spare: &mut Option<Group>) -> Option<Group> {
        let mut state = self.state();
        (!state.open.is_empty()).then(|| Self::swap(&mut state, spare))
    }

    /// A group is on disk: tells those who wait for it, and empties it for the next use.
    pub(super) fn release(&self, group: &mut Group) {
        self.durable.store(group.number, Ordering::Release);
        group.clear();
        std::mem::swap(&mut self.state().waiters, &mut group.waiters);
        group.waiters.drain(..).for_each(|waiter| waiter.notify_waiters());
    }

    /// The last group on disk.
    pub(super) fn durable(&self) -> Mark {
        Mark(self.durable.load(Ordering::Acquire))
    }

    /// The store was opened late: numbers go on from here. Nothing was taken before.
    pub(super) fn start_at(&self, next: Seq) {
        let mut state = self.state();
        state.next = next;
        state.open.first = next;
    }

    pub(super) fn set_refusing(&self, refusing: bool) {
        self.state().refusing = refusing;
        if !refusing {
            self.room.notify_waiters();
        }
    }

    /// Tells those that wait for room to try again.
    pub(super) fn announce_room(&self) {
        self.room.notify_waiters();
    }

    /// Makes the thread look at its commands.
    pub(super) fn poke(&self) {
        let mut state = self.state();
        state.poked = true;
        if state.sleeping {
            state.sleeping = false;
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Nothing is taken from now on; what is open is committed.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.wake.notify_one();
    }

    /// The thread has ended, or will never come back: nobody needs to wait any more.
    pub(super) fn ended(&self) {
        let mut state = self.state();
        state.closed = true;
        self.closed.store(true, Ordering::Release);
        let mut waiters = std::mem::take(&mut state.waiters);
        waiters.append(&mut state.open.waiters);
        state.open.clear();
        drop(state);
        waiters.iter().for_each(|waiter| waiter.notify_waiters());
        self.room.notify_waiters();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn has_room(&self) -> bool {
        let state = self.state();
        state.closed || state.has_room()
    }

    /// Resolves when a submit may succeed, or tells `Closed`.
    pub(super) async fn room(&self) {
        loop {
            let mut notified = std::pin::pin!(self.room.notified());
            notified.as_mut().enable();
            if self.has_room() {
                return;
            }
            notified.await;
        }
    }
}

impl Ticket {
    /// Resolves when everything up to `mark` is on disk; `false` when the buffer ended before.
    pub(super) async fn until_durable(&self, intake: &Intake, mark: Mark) -> bool {
        loop {
            let mut notified = std::pin::pin!(self.waiter.notified());
            notified.as_mut().enable();
            if intake.durable() >= mark {
                return true;
            }
            if intake.has_ended() {
                return false;
            }
            notified.await;
        }
    }
}
