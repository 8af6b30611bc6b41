//! What waits to be written to a subscriber, and how others reach its session.
//!
//! A publisher never waits for a subscriber: it puts a message into the mailbox, or drops it there when the
//! mailbox is full: the newest goes, so that what was queued first stays in order and without a hole. It wakes
//! a subscriber once for a whole burst of publishes.
//!
//! The mailbox of a kept session outlives its connections. The newest of them holds it, from the moment on in
//! which it is entered: an older one that is still about to close finds that it holds nothing any more.

mod depot;
mod outlet;
mod queue;

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use bytes::BytesMut;
use futures_util::task::AtomicWaker;

pub(super) use self::depot::{Depot, Share};
pub(super) use self::outlet::Outlet;
use self::queue::Queue;
pub(super) use self::queue::{MAX_IN_FLIGHT, Parcel, Phase, Recorded, Settled, Taken, Terms};
use super::subscriptions::{Identifiers, Subscription};
use crate::buffer::Mark;
use crate::message::{CommandId, Qos, Stamp};

/// What became of a message that was put into a mailbox.
#[derive(Debug)]
pub(super) enum Put {
    /// The subscriber knows that there is something, or will look when it comes back.
    Queued,
    /// It must be woken at the end of this burst.
    OwesWake(Arc<Line>),
    /// There is no room.
    Dropped(Full),
    /// Nobody is there for it: QoS 0 while the client is away, or the session has ended.
    Ignored,
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The bound of the session was reached.
    Session,
    /// That of all sessions, or of all of its identity.
    Broker,
    /// The session has ended: nobody misses the message.
    Ended,
}

/// So much may wait for a client that is connected, whatever waits for others: a few messages of the usual size.
const OWN_SHARE_BYTES: usize = 8 * 1024;

const MAIL: u8 = 1;
const TAKEN_OVER: u8 = 2;
const RULES_CHANGED: u8 = 4;
const COMMANDS: u8 = 8;

/// Why a session was woken by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Calls(u8);

impl Calls {
    pub(super) fn mail(self) -> bool {
        self.0 & MAIL != 0
    }

    pub(super) fn taken_over(self) -> bool {
        self.0 & TAKEN_OVER != 0
    }

    pub(super) fn rules_changed(self) -> bool {
        self.0 & RULES_CHANGED != 0
    }

    pub(super) fn commands(self) -> bool {
        self.0 & COMMANDS != 0
    }
}

/// How one connection is reached.
#[derive(Debug, Default)]
pub(super) struct Line {
    calls: AtomicU8,
    waker: AtomicWaker,
}

impl Line {
    /// Wakes the session for what was put into its mailbox.
    pub(super) fn wake(&self) {
        self.waker.wake();
    }

    /// Ready when somebody has called since the last time.
    pub(super) fn poll_calls(&self, cx: &mut Context<'_>) -> Poll<Calls> {
        self.waker.register(cx.waker());
        match self.calls.swap(0, Ordering::AcqRel) {
            0 => Poll::Pending,
            calls => Poll::Ready(Calls(calls)),
        }
    }

    /// Ready when a newer connection has the session. Other calls stay for later.
    pub(super) fn poll_taken_over(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        match Calls(self.calls.load(Ordering::Acquire)).taken_over() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Whether the rules have changed since the last time, for who is busy with other things than calls.
    pub(super) fn take_rules_changed(&self) -> bool {
        self.calls.load(Ordering::Acquire) & RULES_CHANGED != 0
            && self.calls.fetch_and(!RULES_CHANGED, Ordering::AcqRel) & RULES_CHANGED != 0
    }

    /// There may be a command for its client.
    pub(super) fn call_for_commands(&self) {
        self.call(COMMANDS);
    }

    fn call(&self, call: u8) {
        self.calls.fetch_or(call, Ordering::AcqRel);
        self.waker.wake();
    }
}

/// A session as others see it.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    /// Of the session, since the start and in its records; 0 for none.
    pub(super) number: u64,
    share: Arc<Share>,
    /// It has records: the session was to outlive its connection when it was made. They stay until it ends.
    kept: AtomicBool,
    online: AtomicBool,
    state: Mutex<State>,
}

/// What a session's connections hand over to each other.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) subscriptions: Vec<Subscription>,
    /// Seconds that the session outlives its connection; 0: it does not.
    pub(super) expiry: u32,
    /// Since when there is no connection.
    pub(super) left: Option<Stamp>,
    queue: Queue,
    /// Messages that are on their way to disk and then here.
    reserved: usize,
    line: Option<Arc<Line>>,
    closed: bool,
}

/// What is left of a session that has ended.
#[derive(Debug, Default)]
pub(super) struct Remains {
    pub(super) subscriptions: Vec<Subscription>,
    /// Those of the messages of QoS 1 and 2.
    pub(super) numbers: Vec<u64>,
    /// All messages.
    pub(super) messages: u64,
    /// The commands among them, and whether each was written.
    pub(super) commands: Vec<(CommandId, bool)>,
}

/// What the end of a connection means for its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// A newer connection has it.
    Resumed,
    /// It has ended, and a newer connection another in its place.
    Replaced,
    /// It ends, too.
    Ends,
    /// It waits so many seconds for the client.
    Stays(u32),
}

impl Mailbox {
    pub(super) fn new(number: u64, share: Arc<Share>, expiry: u32) -> Self {
        let state = Mutex::new(State { expiry, ..State::default() });
        Self { number, share, kept: AtomicBool::new(expiry > 0), state, ..Self::default() }
    }

    /// Whether a client is connected.
    pub(super) fn is_online(&self) -> bool {
        self.online.load(Ordering::Acquire)
    }

    /// Whether its messages are kept on disk.
    pub(super) fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Acquire)
    }

    /// Whether the session outlives its present connection.
    pub(super) fn outlives(&self) -> bool {
        self.state().expiry > 0
    }

    /// Queues a message, if there is room for it.
    pub(super) fn put(&self, parcel: Parcel) -> Put {
        let mut state = self.state();
        if state.closed || (parcel.qos == Qos::AtMostOnce && state.line.is_none()) {
            return Put::Ignored;
        }
        if let Err(full) = self.admit(&mut state, parcel.cost()) {
            return Put::Dropped(full);
        }
        let number = match parcel.qos {
            Qos::AtMostOnce => 0,
            Qos::AtLeastOnce | Qos::ExactlyOnce => state.queue.next_number(),
        };
        state.queue.push(number, parcel);
        state.call_for_mail()
    }

    /// Room for a message of QoS 1 or 2 that is kept before it is put: its number.
    pub(super) fn reserve(&self, parcel: &Parcel) -> Result<u64, Full> {
        let mut state = self.state();
        if state.closed {
            return Err(Full::Ended);
        }
        self.admit(&mut state, parcel.cost())?;
        state.reserved += 1;
        Ok(state.queue.next_number())
    }

    /// Queues a message for which there is room. Ignored is one whose session has ended meanwhile.
    pub(super) fn put_reserved(&self, number: u64, parcel: Parcel) -> Put {
        let mut state = self.state();
        if state.closed {
            return Put::Ignored;
        }
        state.reserved -= 1;
        state.queue.push(number, parcel);
        state.call_for_mail()
    }

    /// As [`Mailbox::put_reserved`], for a command that must not be sent before `behind` is on disk.
    pub(super) fn put_command(&self, number: u64, parcel: Parcel, behind: Mark) -> Put {
        let mut state = self.state();
        if state.closed {
            return Put::Ignored;
        }
        state.reserved -= 1;
        let number = if parcel.qos == Qos::AtMostOnce { 0 } else { number };
        state.queue.push_command(number, parcel, behind);
        state.call_for_mail()
    }

    /// The message does not come.
    pub(super) fn release(&self, parcel: &Parcel) {
        let mut state = self.state();
        if !state.closed {
            state.reserved -= 1;
            state.queue.bytes -= parcel.cost();
            self.share.changed(parcel.cost(), 0);
        }
    }

    fn admit(&self, state: &mut State, cost: usize) -> Result<(), Full> {
        let bounds = &self.share.depot.bounds;
        let (after, count) = (state.queue.bytes + cost, state.queue.len() + state.reserved);
        if after > bounds.max_queued_bytes || count >= bounds.max_queued_messages {
            return Err(Full::Session);
        }
        // Others that do not read cannot take this from a client that is there and does.
        let is_due = state.line.is_some() && after <= OWN_SHARE_BYTES;
        if !self.share.admit(cost as u64, is_due) {
            return Err(Full::Broker);
        }
        state.queue.bytes = after;
        Ok(())
    }

    /// A new connection holds it from now on; the one that did is told. Returns whether there was one.
    pub(super) fn connect(&self, line: &Arc<Line>, expiry: u32) -> bool {
        let mut state = self.state();
        state.expiry = expiry;
        state.left = None;
        state.queue.start_again();
        let older = state.line.replace(Arc::clone(line));
        self.online.store(true, Ordering::Release);
        // What waits is found without a call.
        line.calls.fetch_or(MAIL, Ordering::AcqRel);
        older.inspect(|older| older.call(TAKEN_OVER)).is_some()
    }

    /// A connection has ended.
    pub(super) fn leave(&self, line: &Arc<Line>, now: Stamp) -> Left {
        let Some(mut held) = self.held_by(line) else {
            return if self.state().closed { Left::Replaced } else { Left::Resumed };
        };
        if held.expiry == 0 {
            return Left::Ends;
        }
        held.line = None;
        held.left = Some(now);
        held.queue.forget_qos_0();
        self.online.store(false, Ordering::Release);
        Left::Stays(held.expiry)
    }

    /// The session has ended: nothing is queued any more, and whoever holds it is told.
    pub(super) fn close(&self) -> Remains {
        let mut state = self.state();
        self.share.changed(state.queue.bytes, 0);
        self.online.store(false, Ordering::Release);
        self.kept.store(false, Ordering::Release);
        let ended = std::mem::replace(&mut *state, State { closed: true, ..State::default() });
        drop(state);
        if let Some(line) = ended.line {
            line.call(TAKEN_OVER);
        }
        Remains {
            subscriptions: ended.subscriptions,
            numbers: ended.queue.numbers().collect(),
            messages: ended.queue.len() as u64,
            commands: ended.queue.commands().collect(),
        }
    }

    /// Tells the session that what it may do has changed.
    pub(super) fn rules_changed(&self) {
        if let Some(line) = &self.state().line {
            line.call(RULES_CHANGED);
        }
    }

    /// What the connection with this line holds; `None` when a newer one does. As long as it is locked, none can.
    pub(super) fn held_by(&self, line: &Arc<Line>) -> Option<Held<'_>> {
        let state = self.state();
        let holds = state.line.as_ref().is_some_and(|holder| Arc::ptr_eq(holder, line));
        holds.then(|| Held { before: state.queue.bytes, state, share: &self.share })
    }

    /// Takes back what an earlier process had.
    pub(super) fn restore(&self, subscriptions: Vec<Subscription>, left: Stamp) {
        let mut state = self.state();
        state.subscriptions = subscriptions;
        state.left = Some(left);
    }

    /// Takes back a message that an earlier process had. Whether it was sent is not known.
    pub(super) fn restore_message(&self, number: u64, phase: Phase) {
        let mut state = self.state();
        let before = state.queue.bytes;
        state.queue.restore(number, phase);
        self.share.changed(before, state.queue.bytes);
    }

    /// Since when nobody is connected, and how many seconds the session outlives that.
    pub(super) fn absence(&self) -> Option<(Stamp, u32)> {
        let state = self.state();
        state.left.map(|left| (left, state.expiry))
    }

    /// Messages that wait or are in flight, and what they cost in memory.
    pub(super) fn queued(&self) -> (u64, u64) {
        let state = self.state();
        (state.queue.len() as u64, state.queue.bytes as u64)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }
}

impl State {
    fn call_for_mail(&self) -> Put {
        match &self.line {
            Some(line) if line.calls.fetch_or(MAIL, Ordering::AcqRel) & MAIL == 0 => {
                Put::OwesWake(Arc::clone(line))
            }
            _ => Put::Queued,
        }
    }
}

/// A mailbox that its present connection has locked.
pub(super) struct Held<'a> {
    state: MutexGuard<'a, State>,
    share: &'a Share,
    before: usize,
}

impl Deref for Held<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.before != self.state.queue.bytes {
            self.share.changed(self.before, self.state.queue.bytes);
        }
    }
}

impl Held<'_> {
    /// Moves messages to `out` until that holds so many bytes, or as many are without an ack as may be.
    pub(super) fn take(
        &mut self,
        outlet: &mut Outlet,
        out: (&mut BytesMut, usize),
        terms: &Terms<'_>,
    ) -> Taken {
        let State { subscriptions, queue, .. } = &mut *self.state;
        queue.take(outlet, out, terms, &|topic| granted(subscriptions, topic).is_some())
    }

    /// How the client has subscribed to a command's topic, if it has.
    pub(super) fn granted(&self, topic: &str) -> Option<(Qos, Identifiers)> {
        granted(&self.subscriptions, topic)
    }

    /// Whether another command could be sent, as far as the client's acks are concerned.
    pub(super) fn has_window(&self, max_in_flight: u16) -> bool {
        self.queue.has_window(max_in_flight)
    }

    /// PUBACK. Returns the message that is done with.
    pub(super) fn acknowledged(&mut self, packet_id: u16) -> Option<Settled> {
        self.queue.acknowledged(packet_id)
    }

    /// PUBREC.
    pub(super) fn recorded(&mut self, packet_id: u16, refused: bool) -> Recorded {
        self.queue.recorded(packet_id, refused)
    }

    /// PUBCOMP. Returns the message that is done with.
    pub(super) fn completed(&mut self, packet_id: u16) -> Option<Settled> {
        self.queue.completed(packet_id)
    }
}

/// Of these subscriptions, shared ones aside: the highest QoS for a topic, and the identifiers.
fn granted(subscriptions: &[Subscription], topic: &str) -> Option<(Qos, Identifiers)> {
    let matching =
        || subscriptions.iter().filter(|it| it.filter.share.is_none() && it.filter.topics.matches(topic));
    let qos = matching().map(|it| it.options.qos).max()?;
    Some((qos, Identifiers::of(matching().filter_map(|it| it.identifier))))
}

/// Sessions that are to be woken at the end of a burst.
#[derive(Debug, Default)]
pub(super) struct Wakes(Vec<Arc<Line>>);

impl Wakes {
    pub(super) fn owe(&mut self, line: Arc<Line>) {
        self.0.push(line);
    }

    pub(super) fn pay(&mut self) {
        for line in std::mem::take(&mut self.0) {
            line.wake();
        }
    }
}

#[cfg(test)]
mod tests;
