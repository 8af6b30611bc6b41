//! Which readings make which entries.
//!
//! The time of a channel is cut into *slots*: single seconds, or intervals of `average`, aligned to 1970-01-01
//! UTC. All readings of a slot make one entry, which must not be sent before the slot is *closed*, because a
//! second entry for it could not follow:
//!
//! - While a slot is the present one, and for [`ARRIVAL_MS`] after it, readings of it may still arrive.
//! - While more is stored than a batch shows, the slots at the batch's end may continue behind it; they are
//!   closed when a reading [`DISORDER_MS`] past their end is in sight.
//!
//! An entry's `created_at` is its second; with `average` it is the second of its *first* reading. That stays the
//! same however an interval is cut, so that the parts of an interval with more readings than a batch can hold,
//! or that was split between live readings and backlog, are entries of their own and overwrite nothing.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::super::payload::{self, Digits, Formats};
use super::super::{Batch, Behind, Plan, Row, TimedReading, Unsent};
use super::taken::Taken;
use super::value::{self, Value};
use crate::config::{self, Collision, ThingSpeakMapping, ThingSpeakTarget};
use crate::message::Seq;

/// How long after its time of receipt a reading may become visible: the buffer commits readings that nobody
/// waits for late (`qos0_window`, 2 s).
const ARRIVAL_MS: i64 = 5_000;

/// How far the times of readings may be out of order in the buffer: connections stamp and store concurrently.
const DISORDER_MS: i64 = 1_000;

/// The longest entry that the service takes, in bytes.
const MAX_ENTRY_BYTES: usize = 3_000;

/// The longest that a plan says to wait: the clock may be set meanwhile.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Makes entries of readings.
#[derive(Debug)]
pub(super) struct Planner {
    mappings: Vec<ThingSpeakMapping>,
    formats: Formats,
    collision: Collision,
    slot_ms: i64,
}

/// The readings of a slot, in the batch's order.
#[derive(Debug, Default)]
struct Slot<'a> {
    members: Vec<Member<'a>>,
    state: State,
}

/// What may still come for a slot; the later variants outweigh the earlier ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// Nothing.
    #[default]
    Closed,
    /// What is stored behind the batch.
    Continues,
    /// What has yet to arrive, for so many milliseconds.
    Arriving(i64),
}

#[derive(Debug)]
struct Member<'a> {
    index: usize,
    seq: Seq,
    at_ms: i64,
    values: Vec<(ThingSpeakTarget, Value<'a>)>,
}

impl Planner {
    pub(super) fn new(settings: &config::ThingSpeak, formats: Formats) -> Self {
        let average_s = settings.average.map(|span| span.as_secs().max(1));
        let slot_s = average_s.and_then(|s| i64::try_from(s).ok()).unwrap_or(1);
        Self {
            mappings: settings.fields.clone(),
            formats,
            collision: if average_s.is_some() { Collision::Average } else { settings.collision },
            slot_ms: slot_s.saturating_mul(1_000),
        }
    }

    pub(super) fn plan(&self, batch: &Batch<'_>, taken: &Taken) -> Plan {
        let mut plan = Plan::default();
        let texts: Vec<_> = batch.readings.iter().map(|timed| self.formats.json(&timed.reading)).collect();
        let mut slots: BTreeMap<i64, Slot<'_>> = BTreeMap::new();
        let live_end = live_end(batch.readings);
        let last_at_ms = batch.readings[live_end..].iter().map(|timed| timed.at_ms).max().unwrap_or(i64::MIN);
        for (index, (timed, text)) in batch.readings.iter().zip(&texts).enumerate() {
            let seq = timed.reading.seq;
            let values =
                match text.as_deref().map_err(String::clone).and_then(|text| self.values(timed, text)) {
                    Ok(values) if values.is_empty() => {
                        plan.dropped.push((seq, Unsent::NothingMapped));
                        continue;
                    }
                    Ok(values) => values,
                    Err(why) => {
                        plan.dropped.push((seq, Unsent::Unfit(why)));
                        continue;
                    }
                };
            let number = timed.at_ms.div_euclid(self.slot_ms);
            let slot = slots.entry(number).or_default();
            let continues = index >= live_end && batch.behind != Behind::Nothing;
            slot.state = slot.state.max(self.state(number, batch.now_ms, continues.then_some(last_at_ms)));
            slot.members.push(Member { index, seq, at_ms: timed.at_ms, values });
        }
        let is_stuck = slots.values().all(|slot| slot.state != State::Closed);
        if is_stuck && batch.behind == Behind::OutOfReach {
            close_what_cannot_be_waited_for(&mut slots);
        }
        plan.wait = shortest_wait(&slots);
        self.fill(&mut plan, slots, taken, batch.max_rows);
        plan
    }

    /// `last_at_ms`: the latest time in sight, if the slot may continue behind the batch.
    fn state(&self, number: i64, now_ms: i64, last_at_ms: Option<i64>) -> State {
        let start_ms = number.saturating_mul(self.slot_ms);
        let end_ms = start_ms.saturating_add(self.slot_ms);
        let closes_ms = end_ms.saturating_add(ARRIVAL_MS);
        // A slot that lies ahead is a step of the clock's: nobody knows when it would be over.
        if start_ms <= now_ms && now_ms < closes_ms {
            return State::Arriving(closes_ms - now_ms);
        }
        match last_at_ms {
            Some(last_ms) if last_ms < end_ms.saturating_add(DISORDER_MS) => State::Continues,
            _ => State::Closed,
        }
    }

    /// The values of a reading, by target. Of several mappings to one target, the first that finds a value counts.
    fn values<'a>(
        &self,
        timed: &TimedReading,
        json: &'a str,
    ) -> Result<Vec<(ThingSpeakTarget, Value<'a>)>, String> {
        let reading = &timed.reading;
        let mut values: Vec<(ThingSpeakTarget, Value<'a>)> = Vec::new();
        for mapping in &self.mappings {
            let is_meant = mapping.stream.as_deref().is_none_or(|stream| stream == &*reading.stream)
                && mapping.device.as_ref().is_none_or(|device| *device == reading.device)
                && values.iter().all(|(to, _)| *to != mapping.to);
            if !is_meant {
                continue;
            }
            if let Some(found) = payload::at_path(json, &mapping.path)
                && let Some(value) = Value::parse(found, mapping.to)?
            {
                values.push((mapping.to, value));
            }
        }
        Ok(values)
    }

    /// Makes rows of the closed slots, in the batch's order.
    fn fill(&self, plan: &mut Plan, slots: BTreeMap<i64, Slot<'_>>, taken: &Taken, max_rows: usize) {
        let mut closed: Vec<Slot<'_>> =
            slots.into_values().filter(|slot| slot.state == State::Closed).collect();
        closed.sort_by_key(|slot| slot.members.first().map(|member| member.index));
        for slot in closed {
            if plan.rows.len() == max_rows {
                break;
            }
            let seqs: Vec<Seq> = slot.members.iter().map(|member| member.seq).collect();
            let all = |why: Unsent| seqs.iter().map(move |seq| (*seq, why.clone()));
            let Some(first_ms) = slot.members.iter().map(|member| member.at_ms).min() else { continue };
            let at_s = first_ms.div_euclid(1_000);
            if taken.contains(at_s) {
                plan.dropped.extend(all(Unsent::Collision));
                continue;
            }
            match self.row(&slot.members, at_s) {
                Ok(row) => plan.rows.push(row),
                Err(why) => plan.dropped.extend(all(Unsent::Unfit(why))),
            }
        }
    }

    fn row(&self, members: &[Member<'_>], at_s: i64) -> Result<Row, String> {
        let mut columns: BTreeMap<ThingSpeakTarget, Vec<(Seq, &Value<'_>)>> = BTreeMap::new();
        for member in members {
            for (target, value) in &member.values {
                columns.entry(*target).or_default().push((member.seq, value));
            }
        }
        let created_at = payload::iso8601(at_s.saturating_mul(1_000), Digits::Seconds)
            .ok_or("its time cannot be printed: the clock was wrong")?;
        let mut text = format!("{{\"created_at\":\"{created_at}\"");
        let mut lost: HashSet<Seq> = HashSet::new();
        for (target, values) in &columns {
            let kept = match self.collision {
                Collision::Average => value::average(values.iter().map(|(_, value)| *value)),
                Collision::First => keep(values.iter(), &mut lost),
                Collision::Last => keep(values.iter().rev(), &mut lost),
            };
            text.push_str(&format!(",\"{}\":{kept}", value::name(*target)));
        }
        text.push('}');
        if text.len() > MAX_ENTRY_BYTES {
            return Err(format!(
                "its entry would have {} bytes, at most {MAX_ENTRY_BYTES} can be sent",
                text.len()
            ));
        }
        let (lost, carried) = members.iter().map(|member| member.seq).partition(|seq| lost.contains(seq));
        Ok(Row { text, at_s, carried, lost })
    }
}

/// The first of the values; the readings of the others have lost one.
fn keep<'v>(mut values: impl Iterator<Item = &'v (Seq, &'v Value<'v>)>, lost: &mut HashSet<Seq>) -> String {
    let kept = values.next().map(|(_, value)| value.to_string()).unwrap_or_default();
    lost.extend(values.map(|(seq, _)| *seq));
    kept
}

/// Where the live readings of a batch end and the backlog begins.
fn live_end(readings: &[TimedReading]) -> usize {
    readings
        .windows(2)
        .rposition(|pair| pair[1].reading.seq < pair[0].reading.seq)
        .map_or(0, |last_live| last_live + 1)
}

/// A batch that cannot grow and in which every slot may continue holds all that can be known of them. The
/// newest slot is the one that is likeliest to continue.
fn close_what_cannot_be_waited_for(slots: &mut BTreeMap<i64, Slot<'_>>) {
    let mut continuing: Vec<&mut Slot<'_>> =
        slots.values_mut().filter(|slot| slot.state == State::Continues).collect();
    let sure = continuing.len().saturating_sub(1).max(1);
    for slot in continuing.iter_mut().take(sure) {
        slot.state = State::Closed;
    }
}

fn shortest_wait(slots: &BTreeMap<i64, Slot<'_>>) -> Option<Duration> {
    let waits = slots.values().filter_map(|slot| match slot.state {
        State::Arriving(ms) => u64::try_from(ms).ok(),
        State::Closed | State::Continues => None,
    });
    waits.min().map(|ms| Duration::from_millis(ms).min(MAX_WAIT))
}

#[cfg(test)]
mod tests;
