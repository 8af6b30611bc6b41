//! One condition on the values of one device. Pure: it is told every value and asked at every tick.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use serde_json::Value;

use crate::config::{Condition, Side};

/// What a value, or its absence, has brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Edge {
    /// The condition has come to hold.
    Raised,
    /// It holds no more.
    Cleared,
    /// It held for this one moment.
    Changed,
}

/// How far a condition is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// It does not hold.
    Resting,
    /// Values are beyond the limit since then (boot clock, ms), and not for long enough.
    Pending { since_ms: u64 },
    /// It holds.
    Active,
}

/// A condition as it stands for one device.
#[derive(Debug)]
pub(super) struct Watch {
    phase: Phase,
    /// When the last value came (boot clock, ms).
    last_ms: u64,
    /// A fingerprint of that value, where changes are looked for.
    last: Option<u64>,
}

impl Watch {
    /// A watch that begins now.
    pub(super) fn new(now_ms: u64) -> Self {
        Self { phase: Phase::Resting, last_ms: now_ms, last: None }
    }

    /// An earlier process has left it so.
    pub(super) fn activate(&mut self) {
        self.phase = Phase::Active;
    }

    pub(super) fn is_active(&self) -> bool {
        self.phase == Phase::Active
    }

    /// A value that came at `now_ms`. One that says nothing (null, a text where a number is looked for) is none.
    pub(super) fn value(&mut self, condition: &Condition, value: &Value, now_ms: u64) -> Option<Edge> {
        match *condition {
            Condition::Beyond { side, limit, clear, hold } => {
                let value = number(value)?;
                self.last_ms = now_ms;
                self.beyond(position(value, side, limit, clear), hold, now_ms)
            }
            Condition::MissingFor(_) if value.is_null() => None,
            Condition::MissingFor(_) => {
                self.last_ms = self.last_ms.max(now_ms);
                self.rest()
            }
            Condition::Changed => {
                let now = fingerprint(value);
                let before = self.last.replace(now);
                before.is_some_and(|before| before != now).then_some(Edge::Changed)
            }
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, condition: &Condition, now_ms: u64) -> Option<Edge> {
        match *condition {
            // What was last measured is so until something else is measured.
            Condition::Beyond { hold, .. } => match self.phase {
                Phase::Pending { since_ms } if is_over(since_ms, hold, now_ms) => self.raise(),
                _ => None,
            },
            Condition::MissingFor(after) if is_over(self.last_ms, after, now_ms) => self.raise(),
            Condition::MissingFor(_) | Condition::Changed => None,
        }
    }

    fn beyond(&mut self, position: Position, hold: Duration, now_ms: u64) -> Option<Edge> {
        match (position, self.phase) {
            (Position::Beyond, Phase::Resting) if hold.is_zero() => self.raise(),
            (Position::Beyond, Phase::Resting) => {
                self.phase = Phase::Pending { since_ms: now_ms };
                None
            }
            (Position::Beyond, Phase::Pending { since_ms }) if is_over(since_ms, hold, now_ms) => {
                self.raise()
            }
            (Position::Between | Position::Clear, Phase::Pending { .. }) => {
                self.phase = Phase::Resting;
                None
            }
            (Position::Clear, Phase::Active) => self.rest(),
            _ => None,
        }
    }

    fn raise(&mut self) -> Option<Edge> {
        let was_active = std::mem::replace(&mut self.phase, Phase::Active) == Phase::Active;
        (!was_active).then_some(Edge::Raised)
    }

    fn rest(&mut self) -> Option<Edge> {
        let was_active = std::mem::replace(&mut self.phase, Phase::Resting) == Phase::Active;
        was_active.then_some(Edge::Cleared)
    }
}

/// Where a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    Beyond,
    /// Neither beyond the limit nor back where the condition ends.
    Between,
    Clear,
}

fn position(value: f64, side: Side, limit: f64, clear: f64) -> Position {
    // Without a place of its own, the condition ends at the limit itself, which is not beyond it.
    let (beyond, cleared) = match side {
        Side::Above => (value > limit, value < clear || (clear == limit && value <= limit)),
        Side::Below => (value < limit, value > clear || (clear == limit && value >= limit)),
    };
    match (beyond, cleared) {
        (true, _) => Position::Beyond,
        (false, true) => Position::Clear,
        (false, false) => Position::Between,
    }
}

/// Whether so long has passed since then.
fn is_over(since_ms: u64, length: Duration, now_ms: u64) -> bool {
    u128::from(now_ms.saturating_sub(since_ms)) >= length.as_millis()
}

/// A number, also one that a device writes as a text.
fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.filter(|number| number.is_finite())
}

/// Numbers are the same however they are written.
fn fingerprint(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    match number(value) {
        Some(number) => (0_u8, (number + 0.0).to_bits()).hash(&mut hasher),
        None => (1_u8, value.to_string()).hash(&mut hasher),
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const CO: Condition =
        Condition::Beyond { side: Side::Above, limit: 300.0, clear: 250.0, hold: Duration::from_secs(10) };

    /// What becomes of a watch that is told values, and at `None` only that time passes; each with its second.
    fn run(condition: Condition, told: &[(u64, Option<Value>)]) -> Vec<(u64, Edge)> {
        let mut watch = Watch::new(0);
        let mut edges = Vec::new();
        for (second, value) in told {
            let now_ms = second * 1_000;
            let edge = match value {
                Some(value) => watch.value(&condition, value, now_ms),
                None => watch.tick(&condition, now_ms),
            };
            edges.extend(edge.map(|edge| (*second, edge)));
        }
        edges
    }

    fn v(value: impl Into<Value>) -> Option<Value> {
        Some(value.into())
    }

    #[test]
    fn a_value_beyond_the_limit_for_long_enough_raises_and_one_below_the_clear_value_clears() {
        let told =
            [(0, v(301)), (5, v(400)), (10, v(350)), (11, v(280)), (12, v(250)), (13, v(249)), (14, v(100))];
        assert_eq!(run(CO, &told), [(10, Edge::Raised), (13, Edge::Cleared)]);
    }

    #[test]
    fn a_value_that_is_not_beyond_begins_the_waiting_anew() {
        let told = [(0, v(301)), (9, v(300)), (10, v(301)), (19, v(302)), (20, v(302))];
        assert_eq!(run(CO, &told), [(20, Edge::Raised)]);
    }

    #[test]
    fn the_last_value_holds_while_nothing_else_is_measured() {
        assert_eq!(run(CO, &[(0, v(301)), (9, None), (10, None), (20, None)]), [(10, Edge::Raised)]);
    }

    #[test]
    fn without_a_hold_and_a_clear_value_the_limit_decides_alone() {
        let below = Condition::Beyond { side: Side::Below, limit: 5.0, clear: 5.0, hold: Duration::ZERO };
        let told = [(0, v(5)), (1, v(4.9)), (2, v(4)), (3, v(5)), (4, v(4))];
        assert_eq!(run(below, &told), [(1, Edge::Raised), (3, Edge::Cleared), (4, Edge::Raised)]);
    }

    #[test]
    fn what_is_no_number_says_nothing_about_a_limit() {
        let told =
            [(0, v(301)), (5, Some(Value::Null)), (6, v("n/a")), (7, Some(json!({"x": 1}))), (10, v("302"))];
        assert_eq!(run(CO, &told), [(10, Edge::Raised)]);
        assert_eq!(run(CO, &[(0, v("nan")), (20, None)]), []);
    }

    #[test]
    fn silence_raises_once_and_the_next_value_clears() {
        let missing = Condition::MissingFor(Duration::from_secs(60));
        let told = [(30, v(1)), (89, None), (90, None), (91, None), (95, v(1)), (154, None), (155, None)];
        assert_eq!(run(missing, &told), [(90, Edge::Raised), (95, Edge::Cleared), (155, Edge::Raised)]);
        assert_eq!(
            run(missing, &[(59, Some(Value::Null)), (60, None)]),
            [(60, Edge::Raised)],
            "null is silence"
        );
    }

    #[test]
    fn the_first_value_is_no_change() {
        let told = [(0, v(1)), (1, v(1.0)), (2, v("1")), (3, v(2)), (4, v("on")), (5, v("on")), (6, v(true))];
        let edges = run(Condition::Changed, &told);
        assert_eq!(edges, [(3, Edge::Changed), (4, Edge::Changed), (6, Edge::Changed)]);
    }

    #[test]
    fn what_an_earlier_process_left_active_is_cleared_and_not_raised_again() {
        let mut watch = Watch::new(0);
        watch.activate();
        assert_eq!(watch.value(&CO, &json!(400), 1), None);
        assert_eq!(watch.tick(&CO, 60_000), None);
        assert_eq!(watch.value(&CO, &json!(20), 60_001), Some(Edge::Cleared));
    }
}
