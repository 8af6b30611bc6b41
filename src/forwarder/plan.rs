//! A sink's plan together with everything else that becomes of a batch.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use super::{DropReason, Outcome, Reading, Row, Seq};
use crate::sink::{Plan, Unsent};

/// Rows that are sent one by one to see whether the sink takes any at all.
const MAX_PROBES: usize = 10;

/// The rows to send, and the readings that are dropped beside them.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) rows: Vec<Row>,
    drops: BTreeMap<Seq, Outcome>,
}

impl Work {
    /// `not_selected`: readings that the sink was not shown. `batch`: all of them, in the order in which they came.
    ///
    /// Drops that come after a reading that waits are left for a later plan: a cursor with a hole for each
    /// would grow without bound.
    pub(super) fn new(plan: Plan, not_selected: impl Iterator<Item = Seq>, batch: &[Reading]) -> Self {
        let outcome = |why| match why {
            Unsent::NothingMapped => Outcome::Dropped(DropReason::NothingMapped),
            Unsent::Collision => Outcome::Dropped(DropReason::Collision),
            Unsent::Unfit(why) => Outcome::DeadLetter(why),
        };
        let mut drops: BTreeMap<Seq, Outcome> =
            plan.dropped.into_iter().map(|(seq, why)| (seq, outcome(why))).collect();
        drops.extend(not_selected.map(|seq| (seq, Outcome::Dropped(DropReason::NotSelected))));
        let sent: HashSet<Seq> =
            plan.rows.iter().flat_map(|row| row.carried.iter().chain(&row.lost).copied()).collect();
        let (mut last, mut one_waits) = (0, false);
        for Reading { seq, .. } in batch {
            // Where numbers fall, live readings end and the backlog begins.
            one_waits &= *seq > last;
            last = *seq;
            if one_waits {
                drops.remove(seq);
            } else {
                one_waits = !sent.contains(seq) && !drops.contains_key(seq);
            }
        }
        Self { rows: plan.rows, drops }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.drops.is_empty()
    }

    /// What became of readings when these rows were accepted, in the order of their numbers. The drops among them
    /// go along, so that the cursor has no hole for each.
    pub(super) fn delivered(&mut self, rows: Range<usize>) -> Vec<(Seq, Outcome)> {
        let mut outcomes = BTreeMap::new();
        for row in &self.rows[rows] {
            outcomes.extend(row.carried.iter().map(|seq| (*seq, Outcome::Delivered)));
            outcomes.extend(row.lost.iter().map(|seq| (*seq, Outcome::Dropped(DropReason::Collision))));
        }
        if let (Some((&first, _)), Some((&last, _))) = (outcomes.first_key_value(), outcomes.last_key_value())
        {
            let among: Vec<Seq> = self.drops.range(first..last).map(|(seq, _)| *seq).collect();
            outcomes.extend(among.into_iter().filter_map(|seq| self.drops.remove_entry(&seq)));
        }
        outcomes.into_iter().collect()
    }

    /// What becomes of readings when a row is given up.
    pub(super) fn given_up(&self, row: usize, why: &str) -> Vec<(Seq, Outcome)> {
        let Row { carried, lost, .. } = &self.rows[row];
        carried.iter().chain(lost).map(|seq| (*seq, Outcome::DeadLetter(why.to_owned()))).collect()
    }

    /// Rows to try the far side with: of every device and stream the first, for a fault is mostly one device's, then
    /// some from all over the plan. Where there are too many, another turn begins with other ones.
    pub(super) fn probes(&self, batch: &[Reading], turn: u32) -> Vec<usize> {
        let kinds: HashMap<Seq, _> =
            batch.iter().map(|reading| (reading.seq, (&reading.device, &reading.stream))).collect();
        let mut seen = HashSet::new();
        let kind_of = |row: &Row| row.carried.first().and_then(|seq| kinds.get(seq));
        let mut probes: Vec<usize> =
            (0..self.rows.len()).filter(|row| seen.insert(kind_of(&self.rows[*row]))).collect();
        if !probes.is_empty() {
            let first = turn as usize * MAX_PROBES % probes.len();
            probes.rotate_left(first);
        }
        for row in spread(self.rows.len()) {
            if !probes.contains(&row) {
                probes.push(row);
            }
        }
        probes.truncate(MAX_PROBES);
        probes
    }

    /// The drops that have not been settled yet.
    pub(super) fn rest(self) -> Vec<(Seq, Outcome)> {
        self.drops.into_iter().collect()
    }
}

/// Rows from all over a plan, first and last included.
fn spread(rows: usize) -> impl Iterator<Item = usize> {
    let count = rows.min(MAX_PROBES);
    (0..count).map(move |n| n * (rows - 1) / (count - 1).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{BootId, ClockQuality, DeviceId, Qos, Stamp};

    fn batch(seqs: &[Seq]) -> Vec<Reading> {
        let reading = |seq: &Seq| Reading {
            seq: *seq,
            epoch: 1,
            device: DeviceId::parse("esp").unwrap(),
            stream: "air".into(),
            topic: "esp/air".into(),
            payload: bytes::Bytes::new(),
            qos: Qos::AtMostOnce,
            received: Stamp {
                wall_ms: 0,
                boot_ms: 0,
                boot: BootId([0; 16]),
                quality: ClockQuality::Synchronized,
            },
            fault: None,
        };
        seqs.iter().map(reading).collect()
    }

    fn row(carried: &[Seq], lost: &[Seq]) -> Row {
        Row { text: String::new(), at_s: 0, carried: carried.to_vec(), lost: lost.to_vec() }
    }

    fn dropped(reason: DropReason) -> Outcome {
        Outcome::Dropped(reason)
    }

    #[test]
    fn drops_behind_a_reading_that_waits_are_left_for_later_but_not_those_of_the_backlog() {
        // Live 50 to 53, of which 51 waits; then the backlog from 1 on.
        let dropped_now = [50, 52, 2].map(|seq| (seq, Unsent::NothingMapped)).to_vec();
        let plan = Plan { rows: vec![row(&[1], &[])], dropped: dropped_now, wait: None };
        let work = Work::new(plan, [53, 3].into_iter(), &batch(&[50, 51, 52, 53, 1, 2, 3]));
        let expected = [
            (2, dropped(DropReason::NothingMapped)),
            (3, dropped(DropReason::NotSelected)),
            (50, dropped(DropReason::NothingMapped)),
        ];
        assert_eq!(work.rest(), expected);
    }

    #[test]
    fn probes_are_of_every_device_and_then_from_all_over_the_plan() {
        assert_eq!([0, 1, 3].map(|rows| spread(rows).collect::<Vec<_>>()), [vec![], vec![0], vec![0, 1, 2]]);
        assert_eq!(spread(100).collect::<Vec<_>>(), [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]);
        let mut readings = batch(&(1..=100).collect::<Vec<_>>());
        let rows = readings.iter().map(|reading| row(&[reading.seq], &[])).collect();
        let work = Work { rows, drops: BTreeMap::new() };
        readings[70].device = DeviceId::parse("lone").unwrap();
        assert_eq!(work.probes(&readings, 1), [0, 70, 11, 22, 33, 44, 55, 66, 77, 88]);
        for (n, reading) in readings.iter_mut().enumerate() {
            reading.device = DeviceId::parse(&format!("esp{}", n % 25)).unwrap();
        }
        let tried: HashSet<usize> = (1..=3).flat_map(|turn| work.probes(&readings, turn)).collect();
        assert_eq!(tried.len(), 25, "in three turns there was one of each");
    }

    #[test]
    fn drops_among_delivered_readings_are_settled_with_them_and_none_twice() {
        let rows = vec![row(&[1, 4], &[3]), row(&[6], &[])];
        let unfit = Unsent::Unfit("binary".to_owned());
        let plan = Plan { rows, dropped: vec![(2, Unsent::Collision), (5, unfit)], wait: None };
        let mut work = Work::new(plan, std::iter::empty(), &batch(&[1, 2, 3, 4, 5, 6]));
        let collision = || dropped(DropReason::Collision);
        let expected = [(1, Outcome::Delivered), (2, collision()), (3, collision()), (4, Outcome::Delivered)];
        assert_eq!(work.delivered(0..1), expected);
        assert_eq!(work.given_up(1, "bad"), [(6, Outcome::DeadLetter("bad".to_owned()))]);
        assert_eq!(work.rest(), [(5, Outcome::DeadLetter("binary".to_owned()))]);
    }
}
