use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::broker::wire::Properties;
use crate::config::ClockSource;
use crate::message::{Qos, Stamp};

/// A clock that is trusted, and the directory that it needs.
fn clock() -> (Clock, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let settings = config::Clock { source: ClockSource::Trusted, ..config::Clock::default() };
    (Clock::start(&settings, &dir.path().join("floor"), BTreeMap::new()).unwrap(), dir)
}

fn retained(max_messages: usize, max_bytes: u64) -> Retained {
    Retained::new(config::Retained { max_messages, max_bytes })
}

fn message_at(topic: &str, payload: &[u8], expiry: Option<u32>, received: Stamp) -> Arc<Message> {
    let properties =
        expiry.map(|seconds| Box::new(Properties { message_expiry: Some(seconds), ..Properties::default() }));
    Arc::new(Message::new(
        topic.to_owned(),
        Bytes::copy_from_slice(payload),
        properties,
        Qos::AtLeastOnce,
        true,
        received,
        None,
    ))
}

fn message(topic: &str, payload: &[u8]) -> Arc<Message> {
    let received = Stamp {
        wall_ms: 0,
        boot_ms: 0,
        boot: crate::message::BootId([0; 16]),
        quality: crate::message::ClockQuality::Synchronized,
    };
    message_at(topic, payload, None, received)
}

/// The store: what was submitted to it.
#[derive(Debug, Default)]
struct Disk(BTreeMap<RecordKey, Vec<u8>>);

impl Disk {
    fn submit(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            match change {
                Change::Put(key, value) => drop(self.0.insert(key, value)),
                Change::Remove(key) => assert!(self.0.remove(&key).is_some(), "nothing was there"),
            }
        }
    }

    /// Those with the numbers up to this one.
    fn records(&self, last: u64) -> Vec<(Box<[u8]>, Vec<u8>)> {
        let numbers = (0..=last).map(|number| (number, self.0.get(&key(number))));
        numbers.filter_map(|(number, record)| Some((number.to_be_bytes().into(), record?.clone()))).collect()
    }
}

fn set(retained: &Retained, disk: &mut Disk, message: &Arc<Message>) -> Result<(), Refusal> {
    let mut plan = retained.plan(message)?;
    disk.submit(plan.take_change());
    plan.carry_out();
    Ok(())
}

/// All topics with their payloads.
fn content(retained: &Retained, clock: &Clock) -> BTreeMap<String, Vec<u8>> {
    let all = retained.matching(&TopicFilter::parse("#").unwrap(), "", usize::MAX, clock);
    assert!(all.is_last);
    all.messages.iter().map(|message| (message.topic.clone(), message.payload.to_vec())).collect()
}

#[test]
fn the_last_message_of_a_topic_is_kept_until_an_empty_one_comes() {
    let ((clock, _dir), retained, mut disk) = (clock(), retained(10, 1 << 20), Disk::default());
    for payload in [&b"1"[..], b"2"] {
        set(&retained, &mut disk, &message("a/b", payload)).unwrap();
        let found = retained.matching(&TopicFilter::parse("a/+").unwrap(), "", 1, &clock).messages;
        assert_eq!(found.len(), 1);
        assert_eq!((&found[0].payload[..], found[0].retain, found[0].qos), (payload, true, Qos::AtLeastOnce));
        assert_eq!(disk.0.len(), 1, "replaced under the same key");
    }
    set(&retained, &mut disk, &message("a/b", b"")).unwrap();
    assert!(content(&retained, &clock).is_empty() && disk.0.is_empty());
    assert_eq!(retained.figures(), (0, 0));
    assert!(retained.plan(&message("a/b", b"")).unwrap().take_change().is_none(), "nothing to remove");
}

#[test]
fn a_plan_that_is_not_carried_out_has_changed_nothing() {
    let ((clock, _dir), retained, mut disk) = (clock(), retained(10, 1 << 20), Disk::default());
    set(&retained, &mut disk, &message("a", b"old")).unwrap();
    let before = retained.figures();
    for payload in [&b"newer"[..], b""] {
        assert!(retained.plan(&message("a", payload)).unwrap().take_change().is_some());
        assert_eq!(content(&retained, &clock)["a"], b"old");
        assert_eq!(retained.figures(), before);
    }
}

#[test]
fn a_new_topic_beyond_a_bound_is_refused_and_a_small_one_that_is_there_can_always_change() {
    let ((clock, _dir), mut disk) = (clock(), Disk::default());
    let few = retained(2, 1 << 20);
    set(&few, &mut disk, &message("a", b"1")).unwrap();
    set(&few, &mut disk, &message("b", b"1")).unwrap();
    assert_eq!(few.plan(&message("c", b"1")).err(), Some(Refusal::RetainedFull));
    assert!(few.plan(&message("c", b"")).is_ok(), "there is nothing to keep");
    set(&few, &mut disk, &message("a", b"")).unwrap();
    set(&few, &mut disk, &message("c", b"1")).unwrap();

    let (small, mut disk) = (retained(1_000, 2 * LEAST_BYTES + 100), Disk::default());
    set(&small, &mut disk, &message("a", b"online")).unwrap();
    set(&small, &mut disk, &message("b", b"online")).unwrap();
    assert_eq!(small.plan(&message("c", b"online")).err(), Some(Refusal::RetainedFull));
    set(&small, &mut disk, &message("a", b"offline, since nobody has heard from it")).unwrap();
    assert_eq!(small.plan(&message("a", &[b'!'; 1_000])).err(), Some(Refusal::RetainedFull));
    assert_eq!(
        content(&small, &clock)["a"],
        b"offline, since nobody has heard from it",
        "what is kept stays"
    );
    assert_eq!(small.figures(), (2, 2 * LEAST_BYTES));
}

#[test]
fn a_message_whose_time_is_over_is_not_given_and_then_swept() {
    let ((clock, _dir), retained, mut disk) = (clock(), retained(10, 1 << 20), Disk::default());
    let now = clock.stamp();
    let earlier = Stamp { boot_ms: now.boot_ms.saturating_sub(2_000), ..now };
    for (topic, expiry, received) in
        [("over", Some(1), earlier), ("lives", Some(3_600), now), ("for/ever", None, earlier)]
    {
        set(&retained, &mut disk, &message_at(topic, b"!", expiry, received)).unwrap();
    }
    let expected = BTreeMap::from([("for/ever", ()), ("lives", ())]);
    assert!(content(&retained, &clock).keys().eq(expected.keys()));
    assert_eq!(retained.figures().0, 3);
    disk.submit(retained.sweep(&clock));
    assert_eq!(retained.figures(), (2, 2 * LEAST_BYTES));
    assert_eq!(disk.0.len(), 2);
    assert!(retained.sweep(&clock).is_empty());
}

#[test]
fn after_a_restart_what_is_over_unreadable_or_there_twice_is_left_out() {
    let (clock, _dir) = clock();
    let now = clock.stamp();
    let over = message_at("over", b"!", Some(1), Stamp { boot_ms: now.boot_ms.saturating_sub(2_000), ..now });
    let record = |number: u64, message: &Message| (number.to_be_bytes().into(), encode(message));
    let records = vec![
        record(1, &message("a", b"came back")),
        record(2, &over),
        (3_u64.to_be_bytes().into(), b"\xffsomething".to_vec()),
        ((*b"no number").into(), encode(&message("b", b"!"))),
        record(5, &message("a", b"newer")),
        record(6, &message("no/+/topic", b"!")),
    ];
    let retained = retained(10, 1 << 20);
    let loaded = retained.load(records, &clock);
    assert_eq!((loaded.messages, loaded.unreadable), (1, 3));
    let removed: BTreeSet<_> = loaded
        .changes
        .iter()
        .map(|change| match change {
            Change::Remove(key) => *key,
            Change::Put(..) => panic!("nothing is put"),
        })
        .collect();
    assert_eq!(removed, BTreeSet::from([key(1), key(2)]));
    assert_eq!(content(&retained, &clock), BTreeMap::from([("a".to_owned(), b"newer".to_vec())]));
    assert_eq!(retained.figures(), (1, LEAST_BYTES));
    let Some(Change::Put(number, _)) = retained.plan(&message("b", b"!")).unwrap().take_change() else {
        panic!()
    };
    assert_eq!(number, key(7), "a number is never used again");
}

#[test]
fn who_is_given_them_piece_by_piece_gets_what_is_retained_when_its_turn_comes() {
    let ((clock, _dir), retained, mut disk) = (clock(), retained(100, 1 << 20), Disk::default());
    let filter = TopicFilter::parse("+/state").unwrap();
    for n in 10..30 {
        set(&retained, &mut disk, &message(&format!("{n}/state"), b"old")).unwrap();
    }
    let at_once = 3 * message("10/state", b"old").cost();
    let first = retained.matching(&filter, "", at_once, &clock);
    assert_eq!((first.messages.len(), first.is_last), (3, false));
    set(&retained, &mut disk, &message("10/state", b"newer")).unwrap();
    set(&retained, &mut disk, &message("12/state", b"")).unwrap();
    set(&retained, &mut disk, &message("13/state", b"newer")).unwrap();
    set(&retained, &mut disk, &message("14/state", b"")).unwrap();
    let mut given = first.messages;
    loop {
        let piece = retained.matching(&filter, &given.last().unwrap().topic, at_once, &clock);
        given.extend(piece.messages);
        if piece.is_last {
            break;
        }
    }
    let topics: Vec<_> = given.iter().map(|message| &message.topic[..2]).collect();
    assert_eq!(topics.len(), 19, "{topics:?}");
    assert!(topics.is_sorted() && !topics.contains(&"14"));
    assert_eq!(&given[3].payload[..], b"newer");
}

#[derive(Debug, Clone)]
enum Step {
    Set(String, usize),
    /// The store had no room.
    Fail(String, usize),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let topic = "[a-d]/[xy]";
    prop_oneof![
        8 => (topic, 0..1_500_usize).prop_map(|(topic, size)| Step::Set(topic, size / 2 * usize::from(size > 300))),
        1 => (topic, 0..900_usize).prop_map(|(topic, size)| Step::Fail(topic, size)),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// Against a plain map, and with what the store holds after each step.
    #[test]
    fn memory_and_store_hold_what_was_set_within_the_bounds(steps in prop::collection::vec(step(), 1..60)) {
        const MAX_BYTES: u64 = 3_000;
        let ((clock, _dir), mut disk) = (clock(), Disk::default());
        let (mut kept, mut model) = (retained(5, MAX_BYTES), BTreeMap::<String, Vec<u8>>::new());
        for step in steps {
            match step {
                Step::Set(topic, size) => {
                    let payload = vec![b'!'; size];
                    let taken = set(&kept, &mut disk, &message(&topic, &payload)).is_ok();
                    let mut wanted = model.clone();
                    if size == 0 {
                        wanted.remove(&topic);
                    } else {
                        wanted.insert(topic, payload);
                    }
                    let costs = wanted.iter().map(|(topic, payload)| cost(&message(topic, payload)));
                    let fits = wanted.len() <= 5 && costs.sum::<u64>() <= MAX_BYTES;
                    prop_assert_eq!(taken, fits);
                    model = if fits { wanted } else { model };
                }
                Step::Fail(topic, size) => drop(kept.plan(&message(&topic, &vec![b'!'; size]))),
                Step::Restart => {
                    let records = disk.records(kept.read().last);
                    prop_assert_eq!(records.len(), disk.0.len());
                    kept = retained(5, MAX_BYTES);
                    disk.submit(kept.load(records, &clock).changes);
                }
            }
            prop_assert_eq!(&content(&kept, &clock), &model);
            prop_assert_eq!(disk.0.len(), model.len());
            let bytes = model.iter().map(|(topic, payload)| cost(&message(topic, payload))).sum();
            prop_assert_eq!(kept.figures(), (model.len(), bytes));
        }
    }
}
