use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::broker::wire::Properties;
use crate::message::Qos;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_will_waits_for_its_delay_but_no_longer_than_its_session_lives() {
    use Departure::{Away, Ended, Goodbye, Resumed};
    use Fate::{Publish, Void, Wait};
    for (delay, departure, expected) in [
        (0, Goodbye, Void),
        (30, Goodbye, Void),
        (0, Ended, Publish),
        (30, Ended, Publish),
        // The network connection that had the will was closed, in favour of a newer one.
        (0, Resumed, Publish),
        (30, Resumed, Void),
        (0, Away(MINUTE), Publish),
        (30, Away(MINUTE), Wait(MINUTE / 2)),
        (90, Away(MINUTE), Wait(MINUTE)),
        (30, Away(Duration::ZERO), Publish),
        (u32::MAX, Away(Duration::MAX), Wait(Duration::from_secs(u32::MAX.into()))),
    ] {
        assert_eq!(fate(delay, departure), expected, "{delay} s, {departure:?}");
    }
}

#[test]
fn beyond_the_bound_a_will_does_not_wait() {
    let wills = Wills::default();
    let size = MAX_BYTES / 3;
    for session in 1..=3 {
        wills.arm(session, "will", size, 1_000).unwrap();
    }
    assert_eq!(wills.arm(4, "one too many", size, 1_000), Err("one too many"));
    assert_eq!(wills.arm(5, "no number", usize::MAX, 1_000), Err("no number"));
    assert_eq!(wills.len(), 3);
    wills.arm(3, "its other will", size, 1_000).unwrap();
    assert_eq!(wills.take(3), Some("its other will"));
    wills.arm(4, "now there is room", size, 1_000).unwrap();
}

#[test]
fn wills_that_are_tried_again_are_nobodys() {
    let wills = Wills::default();
    wills.arm(1, "a session's", 10, 5).unwrap();
    wills.retry("one", 10, 1).unwrap();
    wills.retry("another", 10, 1).unwrap();
    assert_eq!(wills.retry("too large", MAX_BYTES, 1), Err("too large"));
    let mut due: Vec<_> = wills.due(4).into_iter().map(|(_, will)| will).collect();
    due.sort_unstable();
    assert_eq!(due, ["another", "one"]);
    assert_eq!(wills.take(1), Some("a session's"));
}

#[test]
fn a_will_comes_back_from_its_record_as_it_was() {
    let plain = Will {
        topic: "a/ü".to_owned(),
        payload: Bytes::from_static(b"\0\xff"),
        qos: Qos::ExactlyOnce,
        retain: true,
        delay: u32::MAX,
        properties: None,
    };
    let properties = Properties { message_expiry: Some(9), ..Properties::default() };
    let full = Will { payload: Bytes::new(), properties: Some(Box::new(properties)), ..plain.clone() };
    for will in [plain, full] {
        let mut record = Encoder::new();
        encode(&mut record, &will);
        let record = record.finish();
        let mut back = Decoder::new(&record).unwrap();
        assert_eq!(decode(&mut back), Some(will));
        assert!(back.end().is_some());
        for cut in 1..record.len() {
            assert_eq!(Decoder::new(&record[..cut]).and_then(|mut cut| decode(&mut cut)), None, "{cut}");
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Arm(u64, u64),
    Take(u64),
    Later(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..5_u64, 0..1_000_u64).prop_map(|(session, delay)| Step::Arm(session, delay)),
        (0..5_u64).prop_map(Step::Take),
        (0..700_u64).prop_map(Step::Later),
    ]
}

proptest! {
    /// Against a plain list.
    #[test]
    fn each_will_is_published_when_its_time_has_come_unless_it_was_taken(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let (wills, mut model, mut now) = (Wills::default(), Vec::<(u64, u64, usize)>::new(), 0);
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Arm(session, delay) => {
                    wills.arm(session, number, 10, now + delay).unwrap();
                    model.retain(|(_, other, _)| *other != session);
                    model.push((now + delay, session, number));
                }
                Step::Take(session) => {
                    let held = model.iter().position(|(_, other, _)| *other == session);
                    prop_assert_eq!(wills.take(session), held.map(|index| model.remove(index).2));
                }
                Step::Later(by) => {
                    now += by;
                    model.sort_unstable();
                    let due = model.partition_point(|(when, ..)| *when <= now);
                    let expected: Vec<_> = model.drain(..due).map(|(_, session, will)| (session, will)).collect();
                    prop_assert_eq!(wills.due(now), expected);
                }
            }
            prop_assert_eq!(wills.len(), model.len());
        }
        wills.due(u64::MAX);
        prop_assert_eq!(wills.waiting().bytes, 0);
        prop_assert!(wills.waiting().by_time.is_empty());
    }
}
