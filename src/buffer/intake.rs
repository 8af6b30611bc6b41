//! Where writers and the store's thread meet: the open group, what is refused, and who waits for the disk or for room.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::group::Group;
use super::{Change, Mark, Receipt, SubmitError, Wait};
use crate::message::{Incoming, Seq};

/// Beyond it the open group takes nothing more: the disk is slow or in trouble.
const MAX_OPEN_BYTES: usize = 8 * 1024 * 1024;

#[derive(Debug)]
struct State {
    open: Box<Group>,
    /// Those who wait for a group that was swapped out.
    waiters: Vec<Arc<Notify>>,
    next: Seq,
    refusing: Refusing,
    closed: bool,
    /// The thread sleeps on the condition variable and must be told.
    sleeping: bool,
    /// Somebody has a command for the thread.
    poked: bool,
}

impl State {
    fn has_room(&self, needs: Needs) -> bool {
        let refused =
            self.refusing.all || needs.reading && self.refusing.readings || needs.put && self.refusing.puts;
        !refused && self.open.size() <= MAX_OPEN_BYTES
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
#[derive(Debug, Default)]
pub(super) struct Ticket {
    waiter: Arc<Notify>,
    /// The newest groups that know the waiter: the open one and the one before it, mostly.
    groups: [AtomicU64; 2],
    /// What was refused last.
    refused: Needs,
}

/// What a submit needs room for; a change that removes needs none but in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Needs {
    pub(super) reading: bool,
    pub(super) put: bool,
}

/// What the store does not take for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Refusing {
    /// It was not opened yet.
    pub(super) all: bool,
    /// Full under `refuse_new`, or no space.
    pub(super) readings: bool,
    /// Too many records, or no space.
    pub(super) puts: bool,
}

/// Why the thread woke up.
#[derive(Debug)]
pub(super) enum Wakeup {
    /// A group is due: it has been swapped out.
    Group(Box<Group>),
    /// A command, or the time given, has come.
    Look,
    /// Closed, and no group is left.
    Closed,
}

impl Intake {
    pub(super) fn new(next: Seq, ack_delay: Duration, qos0_window: Duration) -> Self {
        let open = Box::new(Group::new(1, next));
        Self {
            state: Mutex::new(State {
                open,
                waiters: Vec::new(),
                next,
                refusing: Refusing::default(),
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
        let put = changes.iter().any(|change| matches!(change, Change::Put(..)));
        let needs = Needs { reading: reading.is_some(), put };
        if !state.has_room(needs) {
            ticket.refused = needs;
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
        if ticket.joins(open.mark()) {
            open.waiters.push(Arc::clone(&ticket.waiter));
        }
        // The thread must hear of a new deadline and of a full group, and of nothing else.
        let mut news = open.is_full() && !was_full || wait == Wait::Now && !open.is_urgent;
        open.is_urgent |= wait == Wait::Now;
        let since = match wait {
            Wait::Now | Wait::ForAck => &mut open.waited_since,
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
    pub(super) fn wait(&self, spare: &mut Option<Box<Group>>, until: Option<Instant>, hold: bool) -> Wakeup {
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

    /// When the open group must be closed; in the past if it is full or urgent.
    fn due(&self, open: &Group) -> Option<Instant> {
        if open.is_full() || open.is_urgent {
            return open.waited_since.or(open.unwaited_since);
        }
        let waited = open.waited_since.map(|since| since + self.ack_delay);
        let unwaited = open.unwaited_since.map(|since| since + self.qos0_window);
        [waited, unwaited].into_iter().flatten().min()
    }

    fn swap(state: &mut State, spare: &mut Option<Box<Group>>) -> Box<Group> {
        let mut fresh = spare.take().unwrap_or_else(|| Box::new(Group::new(0, 0)));
        fresh.number = state.open.number + 1;
        fresh.first = state.next;
        let mut group = std::mem::replace(&mut state.open, fresh);
        state.waiters.append(&mut group.waiters);
        group
    }

    /// Whatever is open, due or not.
    pub(super) fn take(&self, spare: &mut Option<Box<Group>>) -> Option<Box<Group>> {
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

    /// Makes the writer hear when the group with this mark is on disk; false when it would have heard anyway.
    fn join(&self, ticket: &Ticket, mark: Mark) -> bool {
        if !ticket.joins(mark) {
            return false;
        }
        let mut state = self.state();
        let waiter = Arc::clone(&ticket.waiter);
        if mark == state.open.mark() {
            state.open.waiters.push(waiter);
        } else {
            state.waiters.push(waiter);
        }
        true
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

    pub(super) fn set_refusing(&self, refusing: Refusing) {
        self.state().refusing = refusing;
        self.room.notify_waiters();
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

    fn has_room(&self, needs: Needs) -> bool {
        let state = self.state();
        state.closed || state.has_room(needs)
    }

    /// Whether something that is to be kept would be taken now.
    pub(super) fn takes_puts(&self) -> bool {
        self.has_room(Needs { put: true, ..Needs::default() })
    }

    /// Resolves when a submit like the one that was refused may succeed, or tells `Closed`.
    pub(super) async fn room(&self, ticket: &Ticket) {
        loop {
            let mut notified = std::pin::pin!(self.room.notified());
            notified.as_mut().enable();
            if self.has_room(ticket.refused) {
                return;
            }
            notified.await;
        }
    }
}

impl Ticket {
    /// Takes note of a group that is about to know the waiter; false when it knows it.
    fn joins(&self, Mark(group): Mark) -> bool {
        let [newest, before] = self.groups.each_ref();
        let known = [newest, before].iter().any(|known| known.load(Ordering::Relaxed) == group);
        if !known {
            before.store(newest.swap(group, Ordering::Relaxed), Ordering::Relaxed);
        }
        !known
    }

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
            if !intake.join(self, mark) {
                notified.await;
            }
        }
    }
}
