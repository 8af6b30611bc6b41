//! What waits to be written to a subscriber, and how others reach its session.
//!
//! A publisher never waits for a subscriber: it puts a frame into the outbox, or drops it there when
//! the outbox is full. It wakes a subscriber once for a whole burst of publishes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::Publish;

use crate::message::Qos;

/// What a queued frame costs besides its bytes.
const FRAME_OVERHEAD_BYTES: usize = 64;

/// A PUBLISH as it goes over the wire, shared by all subscribers of one quality of service.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    bytes: Bytes,
    /// Where the packet identifier goes; `None` for QoS 0, which has none.
    packet_id_at: Option<usize>,
}

impl Frame {
    /// Encodes a message for its subscribers.
    ///
    /// DUP and RETAIN are those of this delivery, not those of the publisher (MQTT-3.3.1-3, MQTT-3.3.1-9).
    pub(super) fn encode(publish: &mut Publish, qos: Qos) -> Self {
        publish.dup = false;
        publish.retain = false;
        // The codec does not write 0; each subscriber's own identifier is written over it.
        (publish.qos, publish.pkid) = match qos {
            Qos::AtMostOnce => (QoS::AtMostOnce, 0),
            Qos::AtLeastOnce => (QoS::AtLeastOnce, 1),
            Qos::ExactlyOnce => (QoS::ExactlyOnce, 1),
        };
        let mut bytes = BytesMut::with_capacity(publish.size());
        publish.write(&mut bytes).expect("it came in a packet of the same size");
        let behind_topic = bytes.len() - publish.payload.len();
        let packet_id_at = (qos != Qos::AtMostOnce).then(|| behind_topic - 2);
        Self { bytes: bytes.freeze(), packet_id_at }
    }

    fn cost(&self) -> usize {
        self.bytes.len() + FRAME_OVERHEAD_BYTES
    }
}

/// What became of a frame that was put into an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// The subscriber knows that there is something.
    Queued,
    /// It must be woken at the end of this burst.
    OwesWake,
    /// The outbox is full.
    Dropped,
}

const MAIL: u8 = 1;
const TAKEN_OVER: u8 = 2;
const RULES_CHANGED: u8 = 4;

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
}

/// A session as others see it.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    outbox: Mutex<Outbox>,
    calls: AtomicU8,
    waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct Outbox {
    frames: VecDeque<Frame>,
    cost: usize,
    closed: bool,
}

impl Mailbox {
    /// Queues a frame, if no more than `max_bytes` wait then.
    pub(super) fn put(&self, frame: Frame, max_bytes: usize) -> Put {
        let mut outbox = self.outbox();
        if outbox.closed {
            return Put::Queued;
        }
        let cost = outbox.cost + frame.cost();
        if cost > max_bytes {
            return Put::Dropped;
        }
        outbox.cost = cost;
        outbox.frames.push_back(frame);
        drop(outbox);
        match self.calls.fetch_or(MAIL, Ordering::AcqRel) & MAIL {
            0 => Put::OwesWake,
            _ => Put::Queued,
        }
    }

    /// Moves frames to `out` until that holds `out_bytes` or the window is full.
    /// Returns how many were moved, and whether more could be once `out` is written.
    pub(super) fn take(&self, out: &mut BytesMut, out_bytes: usize, window: &mut Window) -> (u64, bool) {
        let mut outbox = self.outbox();
        let mut taken = 0;
        while let Some(frame) = outbox.frames.front() {
            if out.len() >= out_bytes {
                return (taken, true);
            }
            let start = out.len();
            if let Some(at) = frame.packet_id_at {
                let Some(packet_id) = window.open() else { return (taken, false) };
                out.extend_from_slice(&frame.bytes);
                out[start + at..start + at + 2].copy_from_slice(&packet_id.to_be_bytes());
            } else {
                out.extend_from_slice(&frame.bytes);
            }
            outbox.cost -= frame.cost();
            outbox.frames.pop_front();
            taken += 1;
        }
        outbox.frames = VecDeque::new();
        (taken, false)
    }

    /// The session has ended: nothing is queued any more.
    pub(super) fn close(&self) {
        *self.outbox() = Outbox { closed: true, ..Outbox::default() };
    }

    /// Whether a client is connected to it.
    pub(super) fn is_online(&self) -> bool {
        !self.outbox().closed
    }

    /// Tells the session that a newer one has its client id.
    pub(super) fn take_over(&self) {
        self.call(TAKEN_OVER);
    }

    /// Tells the session that what it may do has changed.
    pub(super) fn rules_changed(&self) {
        self.call(RULES_CHANGED);
    }

    /// Wakes the session for what was put into its outbox.
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

    fn call(&self, call: u8) {
        self.calls.fetch_or(call, Ordering::AcqRel);
        self.waker.wake();
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().expect("no panic under this lock")
    }
}

/// QoS 1 messages to a client that it has not acknowledged. Their number is bounded,
/// so that a client with small buffers is not flooded.
#[derive(Debug, Default)]
pub(super) struct Window {
    unacked: VecDeque<u16>,
    last: u16,
}

impl Window {
    /// AWS IoT, which devices were written against, has the same.
    const MAX: usize = 100;

    /// A packet identifier that is not in use (MQTT-2.3.1-4), or `None` while the window is full.
    fn open(&mut self) -> Option<u16> {
        if self.is_full() {
            return None;
        }
        loop {
            self.last = self.last.checked_add(1).unwrap_or(1);
            if !self.unacked.contains(&self.last) {
                self.unacked.push_back(self.last);
                return Some(self.last);
            }
        }
    }

    /// The client has acknowledged this one. Identifiers that are not in use are ignored.
    pub(super) fn acknowledge(&mut self, packet_id: u16) {
        if let Some(index) = self.unacked.iter().position(|id| *id == packet_id) {
            self.unacked.remove(index);
        }
        if self.unacked.is_empty() {
            self.unacked = VecDeque::new();
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.unacked.len() >= Self::MAX
    }
}

/// Mailboxes that are to be woken at the end of a burst.
#[derive(Debug, Default)]
pub(super) struct Wakes(Vec<Arc<Mailbox>>);

impl Wakes {
    pub(super) fn owe(&mut self, mailbox: &Arc<Mailbox>) {
        self.0.push(Arc::clone(mailbox));
    }

    pub(super) fn pay(&mut self) {
        for mailbox in std::mem::take(&mut self.0) {
            mailbox.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures_util::task::{ArcWake, waker};

    use super::*;

    fn frame(payload: &str, qos: Qos) -> Frame {
        Frame::encode(&mut Publish::new("a/ü", QoS::AtLeastOnce, payload), qos)
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl ArcWake for Woken {
        fn wake_by_ref(this: &Arc<Self>) {
            this.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_frame_is_encoded_once_and_gets_each_subscribers_packet_identifier() {
        let (mailbox, frame) = (Mailbox::default(), frame("!", Qos::AtLeastOnce));
        let mut window = Window { last: 0x0203, ..Window::default() };
        for _ in 0..2 {
            mailbox.put(frame.clone(), 1_000);
        }
        let mut out = BytesMut::new();
        assert_eq!(mailbox.take(&mut out, 1_000, &mut window), (2, false));
        assert_eq!(&out[..], b"\x32\x09\0\x04a/\xc3\xbc\x02\x04!\x32\x09\0\x04a/\xc3\xbc\x02\x05!");
    }

    #[test]
    fn dup_and_retain_of_the_publisher_are_not_passed_on() {
        let mut publish =
            Publish { dup: true, retain: true, pkid: 9, ..Publish::new("a", QoS::AtLeastOnce, "!") };
        let frame = Frame::encode(&mut publish, Qos::AtMostOnce);
        assert_eq!(&frame.bytes[..], b"\x30\x04\x00\x01a!");
    }

    #[test]
    fn what_exceeds_the_bound_is_dropped_until_there_is_room_again() {
        let mailbox = Mailbox::default();
        let one = frame("!", Qos::AtMostOnce);
        let max_bytes = 2 * one.cost();
        assert_eq!(mailbox.put(one.clone(), max_bytes), Put::OwesWake);
        assert_eq!(mailbox.put(one.clone(), max_bytes), Put::Queued);
        assert_eq!(mailbox.put(one.clone(), max_bytes), Put::Dropped);
        assert_eq!(mailbox.take(&mut BytesMut::new(), 1, &mut Window::default()), (1, true));
        assert_eq!(mailbox.put(one.clone(), max_bytes), Put::Queued);
        assert_eq!(mailbox.put(one, max_bytes), Put::Dropped);
    }

    #[test]
    fn a_burst_wakes_a_subscriber_once() {
        let (mailbox, woken) = (Arc::new(Mailbox::default()), Arc::new(Woken::default()));
        let waker = waker(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        assert!(mailbox.poll_calls(&mut cx).is_pending());
        let mut wakes = Wakes::default();
        for _ in 0..10 {
            if mailbox.put(frame("!", Qos::AtMostOnce), 10_000) == Put::OwesWake {
                wakes.owe(&mailbox);
            }
        }
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        wakes.pay();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(
            matches!(mailbox.poll_calls(&mut cx), Poll::Ready(calls) if calls.mail() && !calls.taken_over())
        );
        assert!(mailbox.poll_calls(&mut cx).is_pending());
    }

    #[test]
    fn a_full_window_keeps_qos_1_messages_back_until_an_ack() {
        let (mailbox, mut window) = (Mailbox::default(), Window::default());
        for _ in 0..Window::MAX + 1 {
            mailbox.put(frame("!", Qos::AtLeastOnce), 1_000_000);
        }
        let mut out = BytesMut::new();
        assert_eq!(mailbox.take(&mut out, 1_000_000, &mut window), (Window::MAX as u64, false));
        window.acknowledge(4_711);
        assert_eq!(mailbox.take(&mut out, 1_000_000, &mut window), (0, false));
        window.acknowledge(7);
        assert_eq!(mailbox.take(&mut out, 1_000_000, &mut window), (1, false));
    }

    #[test]
    fn packet_identifiers_wrap_around_those_in_use_and_are_never_0() {
        let mut window = Window::default();
        assert_eq!(window.open(), Some(1));
        window.last = u16::MAX - 1;
        assert_eq!(window.open(), Some(u16::MAX));
        assert_eq!(window.open(), Some(2), "1 is still in use");
    }

    #[test]
    fn a_closed_outbox_holds_nothing() {
        let mailbox = Mailbox::default();
        mailbox.put(frame("!", Qos::AtMostOnce), 1_000);
        mailbox.close();
        mailbox.put(frame("!", Qos::AtMostOnce), 1_000);
        assert_eq!(mailbox.take(&mut BytesMut::new(), 1_000, &mut Window::default()), (0, false));
    }
}
