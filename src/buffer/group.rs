//! The open group: where readings of all connections meet before they are committed together.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::block::{Base, Records, put_record, take_record};
use super::frame::Fields;
use super::letter::Letter;
use super::{SubmitError, Wait};
use crate::message::{Incoming, Seq, Stamp};

/// A group with so many readings is closed at once.
pub(super) const GROUP_READINGS: usize = 256;
/// A group with so many bytes of records is closed at once.
pub(super) const GROUP_BYTES: usize = 64 * 1024;
/// Beyond it the open group takes nothing more: the disk is slow or in trouble.
const MAX_OPEN_BYTES: usize = 8 * 1024 * 1024;
/// A buffer that grew beyond it in a bad moment is given back.
const KEEP_BYTES: usize = 4 * GROUP_BYTES;

/// Readings that will be committed together.
#[derive(Debug)]
pub(super) struct Group {
    number: u64,
    pub(super) first: Seq,
    base: Base,
    bytes: Vec<u8>,
    ends: Vec<u32>,
    /// Readings that carry a fault, by index.
    faults: Vec<u32>,
    waiters: Vec<Arc<Notify>>,
    /// When the first reading came that somebody, or nobody, waits for.
    waited_since: Option<Instant>,
    unwaited_since: Option<Instant>,
}

impl Group {
    fn new() -> Self {
        Self {
            number: 0,
            first: 1,
            base: Base::ZERO,
            bytes: Vec::new(),
            ends: Vec::new(),
            faults: Vec::new(),
            waiters: Vec::new(),
            waited_since: None,
            unwaited_since: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// One past the last number.
    pub(super) fn end(&self) -> Seq {
        self.first + self.ends.len() as u64
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn raw_bytes(&self) -> u64 {
        self.bytes.len() as u64
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

    /// Empties it for the next use.
    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEEP_BYTES);
        self.ends.clear();
        self.ends.shrink_to(KEEP_BYTES / 64);
        self.faults.clear();
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
        !self.refusing && self.open.bytes.len() <= MAX_OPEN_BYTES
    }
}

/// Where writers and the store's thread meet.
#[derive(Debug)]
pub(super) struct Intake {
    state: Mutex<State>,
    wake: Condvar,
    /// Everything below is on disk: one past the highest number.
    durable_end: AtomicU64,
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
        Self { waiter: Arc::default(), group: u64::MAX }
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
            durable_end: AtomicU64::new(next),
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
        reading: &Incoming<'_>,
        wait: Wait,
    ) -> Result<Seq, SubmitError> {
        let mut state = self.state();
        if state.closed {
            return Err(SubmitError::Closed);
        }
        if !state.has_room() {
            return Err(SubmitError::Full);
        }
        let seq = state.next;
        state.next += 1;
        let open = &mut state.open;
        if open.is_empty() {
            open.first = seq;
            open.base = reading.received.into();
        }
        if reading.fault.is_some() {
            open.faults.push(open.ends.len() as u32);
        }
        put_record(&mut open.bytes, &open.base, &reading.into());
        open.ends.push(open.bytes.len() as u32);
        if ticket.group != open.number {
            ticket.group = open.number;
            open.waiters.push(Arc::clone(&ticket.waiter));
        }
        let since = match wait {
            Wait::ForAck => &mut open.waited_since,
            Wait::Nobody => &mut open.unwaited_since,
        };
        // The thread must hear of a new deadline and of a full group, and of nothing else.
        let mut news = open.ends.len() == GROUP_READINGS || open.bytes.len() >= GROUP_BYTES;
        if since.is_none() {
            *since = Some(Instant::now());
            news = true;
        }
        if news && state.sleeping {
            state.sleeping = false;
            drop(state);
            self.wake.notify_one();
        }
        Ok(seq)
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
        if open.ends.len() >= GROUP_READINGS || open.bytes.len() >= GROUP_BYTES {
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
        self.set_durable(group.end());
        group.clear();
        std::mem::swap(&mut self.state().waiters, &mut group.waiters);
        group.waiters.drain(..).for_each(|waiter| waiter.notify_waiters());
    }

    /// Publishes the watermark.
    fn set_durable(&self, end: Seq) {
        self.durable_end.store(end, Ordering::Release);
    }

    /// The highest number on disk.
    pub(super) fn durable(&self) -> Seq {
        self.durable_end.load(Ordering::Acquire) - 1
    }

    /// The store was opened late: numbers go on from here. Nothing was taken before.
    pub(super) fn start_at(&self, next: Seq) {
        let mut state = self.state();
        state.next = next;
        state.open.first = next;
        self.set_durable(next);
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

    /// No reading is taken from now on; what is open is committed.
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
    /// Resolves when everything up to `seq` is on disk; `false` when the buffer ended before.
    pub(super) async fn until_durable(&self, intake: &Intake, seq: Seq) -> bool {
        loop {
            let mut notified = std::pin::pin!(self.waiter.notified());
            notified.as_mut().enable();
            if intake.durable() >= seq {
                return true;
            }
            if intake.has_ended() {
                return false;
            }
            notified.await;
        }
    }
}
