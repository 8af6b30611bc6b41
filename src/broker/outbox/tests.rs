use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::task::Waker;

use bytes::Bytes;
use futures_util::task::{ArcWake, waker};

use super::*;
use crate::authorize::{Identity, IdentityKind};
use crate::broker::message::Message;
use crate::broker::subscriptions::Identifiers;
use crate::broker::wire::{Connect, Properties, Version};
use crate::clock::Clock;
use crate::config;
use crate::message::{BootId, ClockQuality, DeviceId};

fn clock() -> Clock {
    let dir = tempfile::tempdir().unwrap();
    Clock::start(&config::Clock::default(), &dir.path().join("floor"), BTreeMap::new()).unwrap()
}

fn stamp() -> Stamp {
    Stamp { wall_ms: 0, boot_ms: 0, boot: BootId([0; 16]), quality: ClockQuality::Synchronized }
}

fn parcel(payload: &str, qos: Qos) -> Parcel {
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    let message = Message::new("a/ü".to_owned(), payload, None, qos, false, stamp(), None);
    Parcel { message: Arc::new(message), qos, retain: false, identifiers: Identifiers::default() }
}

fn outlet(version: Version, max_packet_bytes: Option<u32>, topic_alias_maximum: u16) -> Outlet {
    let connect = Connect {
        version,
        client_id: String::new(),
        clean_start: true,
        keep_alive: 0,
        session_expiry: 0,
        receive_maximum: u16::MAX,
        max_packet_bytes,
        topic_alias_maximum,
        request_problem_information: true,
        request_response_information: false,
        authentication_method: None,
        will: None,
        user_name: None,
        password: None,
    };
    Outlet::new(&connect, None)
}

fn settled(number: u64) -> Settled {
    Settled { number, command: None }
}

fn identity(name: &str) -> Identity {
    Identity { device: DeviceId::parse(name).unwrap(), kind: IdentityKind::Certificate }
}

/// A mailbox with a connection.
struct Bench {
    mailbox: Mailbox,
    line: Arc<Line>,
    outlet: Outlet,
    max_in_flight: u16,
}

impl Bench {
    fn new(settings: config::Sessions) -> Self {
        Self::with_expiry(settings, 0)
    }

    fn with_expiry(settings: config::Sessions, expiry: u32) -> Self {
        let (mailbox, line) =
            (Mailbox::new(1, Depot::new(settings).share(&identity("a")), expiry), Arc::default());
        mailbox.connect(&line, expiry);
        Self { mailbox, line, outlet: outlet(Version::V3, None, 0), max_in_flight: MAX_IN_FLIGHT }
    }

    fn reconnect(&mut self) {
        self.mailbox.leave(&self.line, stamp());
        self.line = Arc::default();
        self.mailbox.connect(&self.line, 60);
    }

    fn take(&mut self, out_bytes: usize) -> (Vec<u8>, Taken) {
        let mut out = BytesMut::new();
        let mut held = self.mailbox.held_by(&self.line).unwrap();
        let terms = Terms {
            max_in_flight: self.max_in_flight,
            clock: &clock(),
            may_receive: &|topic| topic != "denied",
            may_command: &|_| true,
            durable: Mark::default(),
        };
        let taken = held.take(&mut self.outlet, (&mut out, out_bytes), &terms);
        (out.to_vec(), taken)
    }

    fn take_all(&mut self) -> Vec<u8> {
        self.take(1_000_000).0
    }

    fn held(&self) -> Held<'_> {
        self.mailbox.held_by(&self.line).unwrap()
    }

    fn bytes(&self) -> u64 {
        assert_eq!(self.mailbox.share.depot.bytes.load(Ordering::Relaxed), self.mailbox.queued().1);
        self.mailbox.queued().1
    }
}

impl Default for Bench {
    fn default() -> Self {
        Self::new(config::Sessions::default())
    }
}

fn is_dropped(put: &Put) -> bool {
    matches!(put, Put::Dropped(Full::Session))
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl ArcWake for Woken {
    fn wake_by_ref(this: &Arc<Self>) {
        this.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn messages_get_packet_identifiers_in_their_order() {
    let mut bench = Bench::default();
    for qos in [Qos::AtLeastOnce, Qos::AtMostOnce, Qos::ExactlyOnce] {
        bench.mailbox.put(parcel("!", qos));
    }
    let expected = b"\x32\x09\0\x04a/\xc3\xbc\0\x01!\x30\x07\0\x04a/\xc3\xbc!\x34\x09\0\x04a/\xc3\xbc\0\x02!";
    assert_eq!(bench.take_all(), expected);
}

#[test]
fn what_exceeds_a_bound_is_dropped_until_there_is_room_again() {
    let one = parcel("!", Qos::AtMostOnce);
    let max_queued_bytes = 2 * one.cost();
    let mut bench = Bench::new(config::Sessions { max_queued_bytes, ..config::Sessions::default() });
    assert!(!is_dropped(&bench.mailbox.put(one.clone())));
    assert!(!is_dropped(&bench.mailbox.put(one.clone())));
    assert!(is_dropped(&bench.mailbox.put(one.clone())));
    assert!(bench.take(1).1.more);
    assert!(!is_dropped(&bench.mailbox.put(one.clone())));
    assert!(is_dropped(&bench.mailbox.put(one)));
    let few = Bench::new(config::Sessions { max_queued_messages: 1, ..config::Sessions::default() });
    assert!(!is_dropped(&few.mailbox.put(parcel("!", Qos::AtLeastOnce))));
    assert!(is_dropped(&few.mailbox.put(parcel("!", Qos::AtLeastOnce))));
}

#[test]
fn all_sessions_together_have_a_bound() {
    let one = parcel("!", Qos::AtLeastOnce);
    let max_total_bytes = 2 * one.cost() as u64;
    let depot = Depot::new(config::Sessions { max_total_bytes, ..config::Sessions::default() });
    let mailboxes = ["a", "b", "c"].map(|name| Mailbox::new(1, depot.share(&identity(name)), 60));
    assert!(matches!(mailboxes[0].put(one.clone()), Put::Queued));
    assert!(matches!(mailboxes[1].put(one.clone()), Put::Queued));
    assert!(matches!(mailboxes[2].put(one.clone()), Put::Dropped(Full::Broker)));
    mailboxes[0].close();
    assert!(matches!(mailboxes[2].put(one), Put::Queued));
}

#[test]
fn who_is_connected_has_a_share_that_others_cannot_take() {
    let one = parcel(&"x".repeat(1_000), Qos::AtLeastOnce);
    let max_total_bytes = 100 * one.cost() as u64;
    let depot = Depot::new(config::Sessions { max_total_bytes, ..config::Sessions::default() });
    let hoards: Vec<_> =
        (0..4).map(|n| Mailbox::new(n, depot.share(&identity(&n.to_string())), 60)).collect();
    for hoard in &hoards {
        while matches!(hoard.put(one.clone()), Put::Queued) {}
    }
    let client = |number| Mailbox::new(number, depot.share(&identity("client")), 60);
    let (present, absent) = (client(5), client(6));
    present.connect(&Arc::default(), 60);
    let taken = std::iter::from_fn(|| (!matches!(present.put(one.clone()), Put::Dropped(_))).then_some(()));
    assert_eq!(taken.count(), OWN_SHARE_BYTES / one.cost());
    assert!(matches!(absent.put(one), Put::Dropped(Full::Broker)));
}

#[test]
fn the_sessions_of_one_identity_take_a_quarter_of_what_there_is_for_all() {
    let one = parcel("!", Qos::AtLeastOnce);
    let max_total_bytes = 40 * one.cost() as u64;
    let depot = Depot::new(config::Sessions { max_total_bytes, ..config::Sessions::default() });
    let greedy: Vec<_> =
        (0..10).map(|number| Mailbox::new(number, depot.share(&identity("a")), 60)).collect();
    let puts: Vec<_> = (0..100).map(|n| greedy[n % 10].put(one.clone())).collect();
    assert_eq!(puts.iter().filter(|put| matches!(put, Put::Queued)).count(), 10);
    let other = Mailbox::new(1, depot.share(&identity("b")), 60);
    assert!(matches!(other.put(one.clone()), Put::Queued));
    assert!(other.reserve(&one).is_ok());
    greedy[0].close();
    assert!(matches!(greedy[1].put(one), Put::Queued), "what an ended session had is free");
    drop((greedy, other));
    for n in 0..10_000 {
        depot.share(&identity(&n.to_string()));
    }
    assert!(depot.shares.len() < 100, "of who has no session nothing is remembered");
}

#[test]
fn a_burst_wakes_a_subscriber_once() {
    let (bench, woken) = (Bench::default(), Arc::new(Woken::default()));
    let waker = waker(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    assert!(bench.line.poll_calls(&mut cx).is_ready(), "a new connection looks for mail");
    assert!(bench.line.poll_calls(&mut cx).is_pending());
    let mut wakes = Wakes::default();
    for _ in 0..10 {
        if let Put::OwesWake(line) = bench.mailbox.put(parcel("!", Qos::AtMostOnce)) {
            wakes.owe(line);
        }
    }
    assert_eq!(woken.0.load(Ordering::Relaxed), 0);
    wakes.pay();
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    let calls = bench.line.poll_calls(&mut cx);
    assert!(matches!(calls, Poll::Ready(calls) if calls.mail() && !calls.taken_over()));
    assert!(bench.line.poll_calls(&mut cx).is_pending());
}

#[test]
fn a_full_window_keeps_messages_back_until_an_ack() {
    let mut bench = Bench { max_in_flight: 3, ..Bench::default() };
    for _ in 0..5 {
        bench.mailbox.put(parcel("!", Qos::AtLeastOnce));
    }
    bench.mailbox.put(parcel("!", Qos::AtMostOnce));
    assert_eq!(bench.take(1_000_000).1.count, 3);
    assert_eq!(bench.held().acknowledged(4_711), None);
    assert_eq!(bench.take(1_000_000).1.count, 0, "what waits behind them waits too: they come in order");
    assert_eq!(bench.held().acknowledged(2), Some(settled(2)));
    assert_eq!(bench.held().acknowledged(2), None);
    assert_eq!(bench.take(1_000_000).1.count, 1);
    for id in [1, 3, 4] {
        bench.held().acknowledged(id).unwrap();
    }
    assert_eq!(bench.take(1_000_000).1.count, 2);
    bench.held().acknowledged(5).unwrap();
    assert_eq!(bench.bytes(), 0);
}

#[test]
fn an_identifier_that_is_in_use_is_not_given_again() {
    let mut bench = Bench::default();
    bench.mailbox.put(parcel("!", Qos::AtLeastOnce));
    bench.take_all();
    bench.mailbox.state().queue.restore(u64::from(u16::MAX), Phase::Released);
    bench.held().completed(u16::MAX).unwrap();
    bench.mailbox.put(parcel("!", Qos::AtLeastOnce));
    assert!(bench.take_all().is_empty(), "its identifier would be 1");
    bench.held().acknowledged(1).unwrap();
    assert!(!bench.take_all().is_empty());
}

#[test]
fn qos_2_goes_through_its_phases() {
    let mut bench = Bench::default();
    bench.mailbox.put(parcel("!", Qos::ExactlyOnce));
    bench.take_all();
    assert_eq!(bench.held().acknowledged(1), None, "a PUBACK is no answer to it");
    assert_eq!(bench.held().completed(1), None);
    assert_eq!(bench.held().recorded(1, false), Recorded::Now(settled(1)));
    assert_eq!(bench.bytes(), 0, "the message is the client's");
    assert_eq!(bench.held().recorded(1, false), Recorded::Before);
    assert_eq!(bench.held().completed(1), Some(settled(1)));
    assert_eq!(bench.held().recorded(1, false), Recorded::Unknown);
    bench.mailbox.put(parcel("!", Qos::ExactlyOnce));
    bench.take_all();
    assert_eq!(bench.held().recorded(2, true), Recorded::Done(settled(2)));
}

#[test]
fn what_was_in_flight_is_sent_again_in_its_order_and_before_everything_else() {
    let mut bench = Bench::with_expiry(config::Sessions::default(), 60);
    for (payload, qos) in [("1", Qos::ExactlyOnce), ("2", Qos::AtLeastOnce), ("3", Qos::ExactlyOnce)] {
        bench.mailbox.put(parcel(payload, qos));
    }
    bench.take_all();
    bench.mailbox.put(parcel("4", Qos::AtLeastOnce));
    bench.mailbox.put(parcel("gone", Qos::AtMostOnce));
    assert_eq!(bench.held().recorded(3, false), Recorded::Now(settled(3)));
    bench.reconnect();
    let publish = |first, id: u8, payload| [&[first, 9], &b"\0\x04a/\xc3\xbc\0"[..], &[id, payload]].concat();
    let expected =
        [publish(0x3c, 1, b'1'), publish(0x3a, 2, b'2'), b"\x62\x02\0\x03".into(), publish(0x32, 4, b'4')];
    assert_eq!(bench.take_all(), expected.concat());
    assert!(bench.take_all().is_empty(), "once");
}

#[test]
fn the_window_of_a_new_connection_holds_for_what_is_sent_again() {
    let mut bench = Bench::with_expiry(config::Sessions::default(), 60);
    for _ in 0..3 {
        bench.mailbox.put(parcel("!", Qos::AtLeastOnce));
    }
    assert_eq!(bench.take(1_000_000).1.count, 3);
    bench.reconnect();
    bench.max_in_flight = 1;
    for id in 1..=3 {
        assert_eq!(bench.take_all().len(), 11);
        assert!(bench.take_all().is_empty());
        assert_eq!(bench.held().acknowledged(id), Some(settled(id.into())));
    }
    assert!(bench.take_all().is_empty());
    assert_eq!(bench.bytes(), 0);
}

#[test]
fn messages_come_back_from_an_earlier_process_with_their_identifiers() {
    let mut bench = Bench::with_expiry(config::Sessions::default(), 60);
    bench.mailbox.restore_message(70_000, Phase::Sent(parcel("!", Qos::AtLeastOnce)));
    bench.mailbox.restore_message(70_001, Phase::Released);
    bench.reconnect();
    // 70,000 is 4,465 beyond the last identifier.
    assert_eq!(bench.take_all(), b"\x3a\x09\0\x04a/\xc3\xbc\x11\x71!\x62\x02\x11\x72");
    bench.mailbox.put(parcel("!", Qos::AtLeastOnce));
    assert_eq!(bench.take_all(), b"\x32\x09\0\x04a/\xc3\xbc\x11\x73!");
}

#[test]
fn a_reserved_place_counts_until_it_is_used_or_released() {
    let settings = config::Sessions { max_queued_messages: 1, ..config::Sessions::default() };
    let mut bench = Bench::with_expiry(settings, 60);
    let one = parcel("!", Qos::AtLeastOnce);
    assert_eq!(bench.mailbox.reserve(&one), Ok(1));
    assert_eq!(bench.mailbox.reserve(&one), Err(Full::Session));
    bench.mailbox.release(&one);
    assert_eq!(bench.bytes(), 0);
    assert_eq!(bench.mailbox.reserve(&one), Ok(2));
    bench.mailbox.put_reserved(2, one);
    assert_eq!(bench.take(1_000_000).1.count, 1);
    bench.held().acknowledged(2).unwrap();
    assert_eq!(bench.bytes(), 0);
}

#[test]
fn a_closed_mailbox_holds_nothing_and_says_what_it_held() {
    let bench = Bench::with_expiry(config::Sessions::default(), 60);
    let reserved = parcel("!", Qos::AtLeastOnce);
    bench.mailbox.put(parcel("!", Qos::AtMostOnce));
    bench.mailbox.put(parcel("!", Qos::AtLeastOnce));
    let number = bench.mailbox.reserve(&reserved).unwrap();
    let remains = bench.mailbox.close();
    assert_eq!((remains.messages, remains.numbers), (2, vec![1]));
    assert!(matches!(bench.mailbox.put_reserved(number, reserved.clone()), Put::Ignored));
    assert!(matches!(bench.mailbox.put(reserved.clone()), Put::Ignored));
    assert_eq!(bench.mailbox.reserve(&reserved), Err(Full::Ended));
    assert_eq!(bench.bytes(), 0);
    assert!(bench.mailbox.held_by(&bench.line).is_none());
    assert!(matches!(bench.line.poll_calls(&mut Context::from_waker(Waker::noop())), Poll::Ready(_)));
}

#[test]
fn an_older_connection_holds_nothing_once_a_newer_one_has_come() {
    let bench = Bench::with_expiry(config::Sessions::default(), 60);
    let newer = Arc::default();
    assert!(bench.mailbox.connect(&newer, 60));
    assert!(bench.mailbox.held_by(&bench.line).is_none());
    assert_eq!(bench.mailbox.leave(&bench.line, stamp()), Left::Resumed);
    assert!(bench.mailbox.held_by(&newer).is_some() && bench.mailbox.is_online());
}

#[test]
fn what_is_over_or_too_large_for_the_client_is_done_with_unsent() {
    let mut bench = Bench { outlet: outlet(Version::V5, Some(20), 0), ..Bench::default() };
    bench.mailbox.put(parcel(&"x".repeat(20), Qos::AtLeastOnce));
    let properties = Properties { message_expiry: Some(0), ..Properties::default() };
    let old = Message::new(
        "a".to_owned(),
        Bytes::new(),
        Some(Box::new(properties)),
        Qos::AtLeastOnce,
        false,
        stamp(),
        None,
    );
    bench.mailbox.put(Parcel { message: Arc::new(old), ..parcel("", Qos::AtLeastOnce) });
    let (out, taken) = bench.take(1_000_000);
    assert!(out.is_empty());
    assert_eq!((taken.count, taken.too_large, taken.expired, taken.done), (0, 1, 1, vec![1, 2]));
    assert_eq!(bench.bytes(), 0);
}

#[test]
fn a_topic_is_written_once_for_a_client_that_takes_aliases() {
    let mut bench = Bench { outlet: outlet(Version::V5, None, 1), ..Bench::default() };
    for _ in 0..2 {
        bench.mailbox.put(parcel("!", Qos::AtMostOnce));
    }
    let expected = b"\x30\x0b\0\x04a/\xc3\xbc\x03\x23\0\x01!\x30\x07\0\0\x03\x23\0\x01!";
    assert_eq!(bench.take_all(), expected);
}
