use super::*;
use crate::config::Secret;
use crate::message::DeviceId;
use crate::sink::testing::{number_stream, timed};

/// 2026-01-01T00:00:00Z, and long after it.
const START_MS: i64 = 1_767_225_600_000;
const LATER_MS: i64 = START_MS + 86_400_000;

fn settings() -> config::ThingSpeak {
    let map = |path: &str, to| ThingSpeakMapping { stream: None, device: None, path: path.to_owned(), to };
    config::ThingSpeak {
        url: String::new(),
        channel: 1,
        write_key: Secret::new("KEY".to_owned()),
        fields: vec![
            map("t", ThingSpeakTarget::Field(1)),
            map("h", ThingSpeakTarget::Field(2)),
            map("lat", ThingSpeakTarget::Latitude),
            map("state", ThingSpeakTarget::Status),
        ],
        max_entries: 960,
        interval: Duration::from_secs(15),
        collision: Collision::Average,
        average: None,
        yearly_allowance: 3_000_000,
    }
}

fn planner(change: impl FnOnce(&mut config::ThingSpeak)) -> Planner {
    let mut settings = settings();
    change(&mut settings);
    Planner::new(&settings, Formats::new(&[number_stream("level")]))
}

fn batch(readings: &[TimedReading]) -> Batch<'_> {
    Batch { readings, behind: Behind::Nothing, now_ms: LATER_MS, max_rows: 960 }
}

fn plan(planner: &Planner, readings: &[TimedReading]) -> Plan {
    planner.plan(&batch(readings), &Taken::default())
}

/// `ms` after the start, a payload with a field or two.
fn at(seq: Seq, ms: i64, payload: &str) -> TimedReading {
    timed(seq, payload, START_MS + ms)
}

fn texts(plan: &Plan) -> Vec<&str> {
    plan.rows.iter().map(|row| row.text.as_str()).collect()
}

fn carried(plan: &Plan) -> Vec<Seq> {
    plan.rows.iter().flat_map(|row| row.carried.iter().copied()).collect()
}

#[test]
fn an_entry_has_the_documented_names_and_the_values_as_they_came() {
    let readings = [at(1, 999, r#"{"t":22.50,"h":null,"lat":-1.0,"state":"o\"k"}"#)];
    assert_eq!(
        texts(&plan(&planner(|_| ()), &readings)),
        [r#"{"created_at":"2026-01-01T00:00:00Z","field1":22.50,"latitude":-1.0,"status":"o\"k"}"#]
    );
}

#[test]
fn readings_of_one_second_with_different_fields_make_one_entry() {
    let readings = [at(1, 0, r#"{"t":1}"#), at(2, 999, r#"{"h":2}"#), at(3, 1_000, r#"{"t":3}"#)];
    let plan = plan(&planner(|_| ()), &readings);
    assert_eq!(
        texts(&plan),
        [
            r#"{"created_at":"2026-01-01T00:00:00Z","field1":1,"field2":2}"#,
            r#"{"created_at":"2026-01-01T00:00:01Z","field1":3}"#
        ]
    );
    assert_eq!((plan.rows[0].carried.clone(), plan.rows[0].lost.clone()), (vec![1, 2], vec![]));
}

#[test]
fn each_policy_decides_between_two_values_of_one_second_and_says_who_lost() {
    let readings = [at(1, 0, r#"{"t":1,"h":5}"#), at(2, 1, r#"{"t":2}"#)];
    for (policy, entry, carried, lost) in [
        (Collision::Average, r#""field1":1.5,"field2":5}"#, vec![1, 2], vec![]),
        (Collision::First, r#""field1":1,"field2":5}"#, vec![1], vec![2]),
        (Collision::Last, r#""field1":2,"field2":5}"#, vec![2], vec![1]),
    ] {
        let plan = plan(&planner(|s| s.collision = policy), &readings);
        assert!(plan.rows[0].text.ends_with(entry), "{policy:?}: {}", plan.rows[0].text);
        assert_eq!((&plan.rows[0].carried, &plan.rows[0].lost), (&carried, &lost), "{policy:?}");
    }
}

#[test]
fn the_present_second_waits_until_nothing_can_come_for_it() {
    let readings = [at(1, 0, r#"{"t":1}"#), at(2, 7_000, r#"{"t":2}"#)];
    let now = |ms| Batch { now_ms: START_MS + ms, ..batch(&readings) };
    let early = planner(|_| ()).plan(&now(7_200), &Taken::default());
    assert_eq!(carried(&early), [1]);
    assert_eq!(early.wait, Some(Duration::from_millis(5_800)));
    let late = planner(|_| ()).plan(&now(13_000), &Taken::default());
    assert_eq!(carried(&late), [1, 2]);
    assert_eq!(late.wait, None);
}

#[test]
fn a_second_that_may_continue_behind_the_batch_waits() {
    let readings = [at(1, 0, r#"{"t":1}"#), at(2, 1_500, r#"{"t":2}"#), at(3, 2_500, r#"{"t":3}"#)];
    let more = Batch { behind: Behind::More, ..batch(&readings) };
    assert_eq!(carried(&planner(|_| ()).plan(&more, &Taken::default())), [1]);
    assert_eq!(carried(&plan(&planner(|_| ()), &readings)), [1, 2, 3]);
}

#[test]
fn a_batch_that_cannot_grow_is_sent_but_for_its_newest_second() {
    let readings = [at(1, 0, r#"{"t":1}"#), at(2, 500, r#"{"t":2}"#), at(3, 1_500, r#"{"t":3}"#)];
    let waiting = Batch { behind: Behind::More, ..batch(&readings) };
    assert_eq!(planner(|_| ()).plan(&waiting, &Taken::default()), Plan::default());
    let stuck = Batch { behind: Behind::OutOfReach, ..batch(&readings) };
    assert_eq!(carried(&planner(|_| ()).plan(&stuck, &Taken::default())), [1, 2]);
    let one_second = Batch { behind: Behind::OutOfReach, ..batch(&readings[..2]) };
    assert_eq!(carried(&planner(|_| ()).plan(&one_second, &Taken::default())), [1, 2]);
}

#[test]
fn live_readings_go_before_the_backlog_and_do_not_close_its_seconds() {
    let readings = [
        at(50, 60_000, r#"{"t":50}"#),
        at(1, 0, r#"{"t":1}"#),
        at(2, 2_000, r#"{"t":2}"#),
        at(3, 2_100, r#"{"t":3}"#),
    ];
    let more = Batch { behind: Behind::More, ..batch(&readings) };
    assert_eq!(carried(&planner(|_| ()).plan(&more, &Taken::default())), [50, 1], "2 may continue behind 3");
}

#[test]
fn a_reading_for_a_second_that_the_channel_has_is_a_collision_and_not_lost_unseen() {
    let mut taken = Taken::default();
    taken.insert(START_MS / 1_000);
    let readings = [at(1, 500, r#"{"h":1}"#), at(2, 1_000, r#"{"t":2}"#)];
    let plan = planner(|_| ()).plan(&batch(&readings), &taken);
    assert_eq!(plan.dropped, [(1, Unsent::Collision)]);
    assert_eq!(carried(&plan), [2]);
}

#[test]
fn a_reading_from_the_future_does_not_wait_for_it() {
    let readings = [at(1, 3_600_000, r#"{"t":1}"#)];
    let stepped_back = Batch { now_ms: START_MS, ..batch(&readings) };
    assert_eq!(carried(&planner(|_| ()).plan(&stepped_back, &Taken::default())), [1]);
}

#[test]
fn times_that_are_a_little_out_of_order_still_make_one_entry_a_second() {
    let readings = [
        at(1, 1_001, r#"{"t":1}"#),
        at(2, 999, r#"{"h":2}"#),
        at(3, 1_002, r#"{"h":3}"#),
        at(4, 998, r#"{"t":4}"#),
    ];
    let plan = plan(&planner(|_| ()), &readings);
    assert_eq!(plan.rows.len(), 2);
    assert_eq!(plan.rows[0].carried, [1, 3]);
    assert_eq!(plan.rows[1].carried, [2, 4]);
}

#[test]
fn an_interval_becomes_one_entry_with_its_mean_and_the_second_of_its_first_reading() {
    let minute = planner(|s| {
        s.average = Some(Duration::from_secs(60));
        s.collision = Collision::First;
    });
    let readings =
        [at(1, 5_000, r#"{"t":20.0}"#), at(2, 59_999, r#"{"t":21.0}"#), at(3, 60_000, r#"{"t":9}"#)];
    let plan = plan(&minute, &readings);
    assert_eq!(
        texts(&plan),
        [
            r#"{"created_at":"2026-01-01T00:00:05Z","field1":20.5}"#,
            r#"{"created_at":"2026-01-01T00:01:00Z","field1":9}"#
        ]
    );
    let now = Batch { now_ms: START_MS + 70_000, ..batch(&readings) };
    let early = minute.plan(&now, &Taken::default());
    assert_eq!(carried(&early), [1, 2], "the second minute is not over");
    assert_eq!(early.wait, Some(Duration::from_secs(55)));
}

#[test]
fn the_same_readings_make_the_same_entries_wherever_a_batch_ends() {
    let readings: Vec<_> =
        (0..500).map(|n| at(n, i64::try_from(n).unwrap() * 330, r#"{"t":1.5,"h":2}"#)).collect();
    let planner = planner(|_| ());
    let whole = plan(&planner, &readings);
    for end in [10, 99, 250, 499] {
        let cut = Batch { behind: Behind::More, ..batch(&readings[..end]) };
        let part = planner.plan(&cut, &Taken::default());
        assert_eq!(part.rows[..], whole.rows[..part.rows.len()], "{end}");
        let more = Batch { max_rows: 3, ..batch(&readings[..end]) };
        assert_eq!(planner.plan(&more, &Taken::default()).rows, whole.rows[..3], "{end}");
    }
}

#[test]
fn what_maps_nowhere_or_cannot_be_held_is_dropped_with_its_reason() {
    let long = format!(r#"{{"state":"{}"}}"#, "x".repeat(256));
    let readings = [at(1, 0, r#"{"x":1}"#), at(2, 0, r#"{"t":1e400}"#), at(3, 0, &long), at(4, 0, "on")];
    let plan = plan(&planner(|_| ()), &readings);
    assert_eq!(plan.rows, []);
    let reasons: Vec<_> =
        plan.dropped.iter().map(|(seq, why)| (*seq, matches!(why, Unsent::Unfit(_)))).collect();
    assert_eq!(reasons, [(1, false), (2, true), (3, true), (4, false)]);
}

#[test]
fn an_entry_that_the_service_would_refuse_for_its_size_is_not_sent() {
    let wide = |target: u8| ThingSpeakMapping {
        stream: None,
        device: None,
        path: format!("v{target}"),
        to: ThingSpeakTarget::Field(target),
    };
    let planner = planner(|s| s.fields = (1..=8).map(wide).collect());
    // 255 bytes each, which JSON's escapes double.
    let values: Vec<String> = (1..=8).map(|n| format!(r#""v{n}":"{}""#, r#"\""#.repeat(255))).collect();
    let plan = plan(&planner, &[at(1, 0, &format!("{{{}}}", values.join(",")))]);
    assert_eq!(plan.rows, []);
    assert!(
        matches!(&plan.dropped[..], [(1, Unsent::Unfit(why))] if why.contains("3000")),
        "{:?}",
        plan.dropped
    );
}

#[test]
fn a_mapping_speaks_of_its_stream_and_device_and_the_first_that_finds_a_value_counts() {
    let map = |stream: Option<&str>, device: Option<&str>, path: &str, to| ThingSpeakMapping {
        stream: stream.map(ToOwned::to_owned),
        device: device.map(|name| DeviceId::parse(name).unwrap()),
        path: path.to_owned(),
        to: ThingSpeakTarget::Field(to),
    };
    let planner = planner(|s| {
        s.fields = vec![
            map(Some("level"), None, "", 1),
            map(Some("air"), Some("other"), "t", 2),
            map(Some("air"), Some("esp"), "temperature", 3),
            map(None, None, "t", 3),
        ];
    });
    let mut level = at(1, 0, "21.40");
    level.reading.stream = "level".into();
    let readings = [level, at(2, 1_000, r#"{"t":1}"#), at(3, 2_000, r#"{"t":1,"temperature":2}"#)];
    assert_eq!(
        texts(&plan(&planner, &readings)),
        [
            r#"{"created_at":"2026-01-01T00:00:00Z","field1":21.40}"#,
            r#"{"created_at":"2026-01-01T00:00:01Z","field3":1}"#,
            r#"{"created_at":"2026-01-01T00:00:02Z","field3":2}"#
        ]
    );
}

/// What became of each reading, after everything was planned and every row accepted.
#[derive(Debug, Default)]
struct Settled {
    fates: BTreeMap<Seq, &'static str>,
    seconds: HashSet<i64>,
}

impl Settled {
    fn settle(&mut self, seq: Seq, fate: &'static str) {
        assert_eq!(self.fates.insert(seq, fate), None, "{seq} twice");
    }

    fn accept(&mut self, plan: &Plan, taken: &mut Taken) {
        for row in &plan.rows {
            assert!(self.seconds.insert(row.at_s), "a second entry for {}", row.at_s);
            taken.insert(row.at_s);
            row.carried.iter().for_each(|seq| self.settle(*seq, "carried"));
            row.lost.iter().for_each(|seq| self.settle(*seq, "lost"));
        }
        plan.dropped.iter().for_each(|(seq, _)| self.settle(*seq, "dropped"));
    }
}

/// Lets readings arrive, those of an outage at once, while batches of `size` are planned and accepted, until
/// nothing waits.
fn drain(
    planner: &Planner,
    readings: &[TimedReading],
    outage_ms: i64,
    size: usize,
    max_rows: usize,
) -> Settled {
    let (mut settled, mut taken) = (Settled::default(), Taken::default());
    let mut now_ms = START_MS + outage_ms;
    let mut size_now = size;
    for _ in 0..100_000 {
        let arrived = readings.iter().filter(|timed| timed.at_ms <= now_ms);
        let pending: Vec<_> =
            arrived.filter(|timed| !settled.fates.contains_key(&timed.reading.seq)).cloned().collect();
        if settled.fates.len() == readings.len() {
            return settled;
        }
        let shown = &pending[..pending.len().min(size_now)];
        let behind = match (shown.len() < pending.len(), size_now > size) {
            (false, _) => Behind::Nothing,
            (true, false) => Behind::More,
            (true, true) => Behind::OutOfReach,
        };
        let plan = planner.plan(&Batch { readings: shown, behind, now_ms, max_rows }, &taken);
        let is_idle = plan.rows.is_empty() && plan.dropped.is_empty();
        settled.accept(&plan, &mut taken);
        size_now = if is_idle && behind == Behind::More { size + 1 } else { size };
        if is_idle && behind != Behind::More {
            now_ms += plan.wait.map_or(1_000, |wait| i64::try_from(wait.as_millis()).unwrap());
        }
    }
    panic!("{} of {} readings were settled", settled.fates.len(), readings.len());
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 48, ..Default::default() })]

    #[test]
    fn every_reading_has_one_fate_and_every_second_one_entry(
        // Milliseconds after the one before, now and then back in time.
        steps in proptest::collection::vec((0_i64..3_000, 0_u8..20, 0_u8..4), 1..300),
        outage_ms in 0_i64..300_000,
        size in 1_usize..40,
        max_rows in 1_usize..20,
        average_s in proptest::option::of(1_u64..20),
    ) {
        let planner = planner(|s| {
            s.average = average_s.map(Duration::from_secs);
            s.collision = Collision::Last;
        });
        let mut ms = 0;
        let readings: Vec<_> = steps.iter().zip(1..).map(|((step, back, kind), seq)| {
            ms += if *back == 0 { -step } else { *step };
            let payload = [r#"{"t":1}"#, r#"{"h":1}"#, r#"{"x":1}"#, r#"{"t":2,"h":2}"#][usize::from(*kind)];
            at(seq, ms, payload)
        }).collect();
        let settled = drain(&planner, &readings, outage_ms, size, max_rows);
        proptest::prop_assert_eq!(settled.fates.len(), readings.len());
    }

    #[test]
    fn in_the_order_of_time_nothing_is_lost_when_batches_are_large_enough(
        steps in proptest::collection::vec(0_i64..3_000, 1..300),
        outage_ms in 0_i64..300_000,
        size in 30_usize..60,
        average_s in proptest::option::of(1_u64..10),
    ) {
        let planner = planner(|s| s.average = average_s.map(Duration::from_secs));
        let mut ms = 0;
        let readings: Vec<_> = steps.iter().zip(1..).map(|(step, seq)| {
            // Far enough apart that no interval is larger than a batch.
            ms += step.max(&400);
            at(seq, ms, r#"{"t":1}"#)
        }).collect();
        let settled = drain(&planner, &readings, outage_ms, size, 960);
        proptest::prop_assert!(settled.fates.values().all(|fate| *fate == "carried"), "{:?}", settled.fates);
    }
}
