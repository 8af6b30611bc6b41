//! One delivery: the rows of a plan, and what to send next after each answer. No I/O and no clock.
//!
//! A refused request is halved until the row at fault stands alone. How much is believed of a refusal depends on
//! what the service documents:
//!
//! - A *known* fault of a row gives that row up. When many in a row fall so and nothing is accepted between
//!   them, it is the table that changed and not the rows: then the delivery is held, and the next one begins with
//!   *probes*, single rows from all over the plan, and gives nothing up before one of them was accepted.
//! - An *unknown* refusal is halved once. When both halves fall too, the delivery is held; otherwise the rows at
//!   fault are given up at the end, for others of the same delivery were accepted.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use crate::sink::{SendError, Then};

/// Refused rows that are given up in a row without one being accepted between them.
pub(super) const MAX_GIVEN_UP_IN_A_ROW: u32 = 10;

/// Rows that are sent one by one to see whether the sink takes any at all.
const MAX_PROBES: usize = 10;

/// How often a single row that is too large, or not done in time, is sent before it is given up.
const MAX_TRIES_TOO_LARGE: u32 = 3;

/// The rows of a plan on their way.
#[derive(Debug)]
pub(super) struct Delivery {
    parts: VecDeque<Part>,
    settled: Vec<bool>,
    suspects: Vec<(usize, String)>,
    given_up_in_a_row: u32,
    accepted_any: bool,
    is_probing: bool,
}

/// Rows that go in one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) rows: Range<usize>,
    /// How often it was halved.
    depth: u32,
    /// How often it, or the part it is a half of, was sent in vain and could have been accepted.
    tries: u32,
}

/// What to do after a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Go on.
    Continue,
    /// Go on, with fewer rows a request from now on.
    Smaller,
    /// Wait, then go on.
    Wait {
        /// What the far side asked for.
        after: Option<Duration>,
        /// Whether to go on with fewer rows a request.
        smaller: bool,
    },
    /// The row is there already.
    Duplicate(usize),
    /// The row is at fault.
    GiveUp(usize),
    /// End this delivery and pause: no row is at fault.
    Hold,
}

impl Delivery {
    /// `given_up_in_a_row`: what the last delivery left.
    pub(super) fn new(rows: usize, given_up_in_a_row: u32) -> Self {
        let is_probing = given_up_in_a_row >= MAX_GIVEN_UP_IN_A_ROW;
        let mut delivery = Self {
            parts: VecDeque::new(),
            settled: vec![false; rows],
            suspects: Vec::new(),
            given_up_in_a_row,
            accepted_any: false,
            is_probing,
        };
        if is_probing {
            delivery.parts =
                probes(rows).map(|row| Part { rows: row..row + 1, depth: 0, tries: 0 }).collect();
        } else {
            delivery.parts = VecDeque::from([Part { rows: 0..rows, depth: 0, tries: 0 }]);
        }
        delivery
    }

    /// What to send next, at most so many rows.
    pub(super) fn next(&mut self, max_rows: usize) -> Option<Part> {
        let mut part = self.parts.pop_front()?;
        if part.rows.len() > max_rows {
            let cut = part.rows.start + max_rows;
            self.parts.push_front(Part { rows: cut..part.rows.end, ..part });
            part.rows.end = cut;
        }
        (!part.rows.is_empty()).then_some(part)
    }

    /// The far side has a part.
    pub(super) fn accepted(&mut self, part: &Part) {
        self.settled[part.rows.clone()].fill(true);
        self.given_up_in_a_row = 0;
        self.accepted_any = true;
        if self.is_probing {
            self.is_probing = false;
            self.parts = self.unsettled();
        }
    }

    /// The far side has not accepted a part.
    pub(super) fn failed(&mut self, part: Part, error: SendError) -> Step {
        match error {
            SendError::Retry { after, .. } => {
                self.parts.push_front(part);
                Step::Wait { after, smaller: false }
            }
            SendError::Slow { .. } => {
                self.parts.push_front(part);
                Step::Wait { after: None, smaller: true }
            }
            SendError::TooLarge { why } => self.too_large(part, why),
            SendError::Doubtful { retries, .. } if part.tries < retries => self.again(part),
            SendError::Doubtful { then: Then::Refused, why, .. } => self.refused(&part, false, why),
            SendError::Doubtful { then: Then::Duplicate, .. } => match part.rows.len() {
                1 => {
                    self.settled[part.rows.start] = true;
                    Step::Duplicate(part.rows.start)
                }
                _ => self.halve(&part),
            },
            SendError::Doubtful { then: Then::Hold, .. } | SendError::Hold { .. } => Step::Hold,
            SendError::Refused { known, why } => self.refused(&part, known, why),
        }
    }

    /// Refused rows that were given up since one was accepted.
    pub(super) fn given_up_in_a_row(&self) -> u32 {
        self.given_up_in_a_row
    }

    /// The rows that were set aside, to be given up now that everything was sent; or, as the error, the reason
    /// to hold, because nothing was accepted beside them.
    pub(super) fn finish(self) -> Result<Vec<(usize, String)>, String> {
        match self.suspects.last() {
            Some((_, why)) if !self.accepted_any => Err(why.clone()),
            _ => Ok(self.suspects),
        }
    }

    fn again(&mut self, mut part: Part) -> Step {
        part.tries += 1;
        self.parts.push_front(part);
        Step::Wait { after: None, smaller: false }
    }

    fn too_large(&mut self, part: Part, why: String) -> Step {
        if part.rows.len() > 1 {
            let (left, right) = halves(&part);
            self.parts.push_front(right);
            self.parts.push_front(left);
            return Step::Smaller;
        }
        if part.tries < MAX_TRIES_TOO_LARGE { self.again(part) } else { self.refused(&part, true, why) }
    }

    fn refused(&mut self, part: &Part, known: bool, why: String) -> Step {
        let row = part.rows.start;
        if part.rows.len() > 1 {
            let is_last_of_its_depth = self.parts.iter().all(|other| other.depth > part.depth);
            let fell_in_both_halves = part.depth > 0 && is_last_of_its_depth && !self.accepted_any;
            return if !known && fell_in_both_halves { Step::Hold } else { self.halve(part) };
        }
        if self.is_probing || !known {
            self.suspects.push((row, why));
            return Step::Continue;
        }
        if self.given_up_in_a_row >= MAX_GIVEN_UP_IN_A_ROW {
            return Step::Hold;
        }
        self.given_up_in_a_row += 1;
        self.settled[row] = true;
        Step::GiveUp(row)
    }

    /// All parts of a depth are sent before deeper ones: a fault that is everywhere shows early.
    fn halve(&mut self, part: &Part) -> Step {
        let (left, right) = halves(part);
        self.parts.push_back(left);
        self.parts.push_back(right);
        Step::Continue
    }

    fn unsettled(&mut self) -> VecDeque<Part> {
        self.suspects.clear();
        let mut parts: VecDeque<Part> = VecDeque::new();
        for (row, _) in self.settled.iter().enumerate().filter(|(_, settled)| !**settled) {
            match parts.back_mut() {
                Some(part) if part.rows.end == row => part.rows.end += 1,
                _ => parts.push_back(Part { rows: row..row + 1, depth: 0, tries: 0 }),
            }
        }
        parts
    }
}

fn halves(part: &Part) -> (Part, Part) {
    let middle = part.rows.start + part.rows.len() / 2;
    let half = |rows| Part { rows, depth: part.depth + 1, tries: part.tries };
    (half(part.rows.start..middle), half(middle..part.rows.end))
}

/// Rows from all over a plan, first and last included.
fn probes(rows: usize) -> impl Iterator<Item = usize> {
    let count = rows.min(MAX_PROBES);
    (0..count).map(move |n| n * (rows - 1) / (count - 1).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> SendError {
        SendError::Refused { known: true, why: "bad".to_owned() }
    }

    fn unknown() -> SendError {
        SendError::Refused { known: false, why: "odd".to_owned() }
    }

    /// What a delivery comes to.
    #[derive(Debug, Default, PartialEq)]
    struct Outcome {
        accepted: usize,
        given_up: Vec<usize>,
        is_held: bool,
        sends: usize,
        given_up_in_a_row: u32,
    }

    /// Delivers to a far side that says what it thinks of a part.
    fn deliver(rows: usize, in_a_row: u32, far_side: impl Fn(&Range<usize>) -> Option<SendError>) -> Outcome {
        let mut delivery = Delivery::new(rows, in_a_row);
        let mut outcome = Outcome::default();
        while let Some(part) = delivery.next(rows.max(1)) {
            outcome.sends += 1;
            let Some(error) = far_side(&part.rows) else {
                outcome.accepted += part.rows.len();
                delivery.accepted(&part);
                continue;
            };
            match delivery.failed(part, error) {
                Step::GiveUp(row) => outcome.given_up.push(row),
                Step::Duplicate(_) => outcome.accepted += 1,
                Step::Hold => {
                    outcome.is_held = true;
                    break;
                }
                Step::Continue | Step::Smaller | Step::Wait { .. } => {}
            }
        }
        outcome.given_up_in_a_row = delivery.given_up_in_a_row();
        match delivery.finish() {
            Ok(suspects) => outcome.given_up.extend(suspects.into_iter().map(|(row, _)| row)),
            Err(_) => outcome.is_held = true,
        }
        outcome
    }

    #[test]
    fn one_bad_row_of_960_is_found_and_the_others_arrive() {
        for error in [known, unknown] {
            let outcome = deliver(960, 0, |rows| rows.contains(&777).then(error));
            assert_eq!((outcome.accepted, &outcome.given_up[..], outcome.is_held), (959, &[777][..], false));
            assert!(outcome.sends <= 1 + 2 * 10, "{}", outcome.sends);
        }
    }

    #[test]
    fn a_refusal_that_is_not_known_to_be_a_rows_fault_gives_nothing_up_when_nothing_else_is_taken() {
        let all = deliver(960, 0, |_| Some(unknown()));
        assert_eq!(all, Outcome { is_held: true, sends: 3, ..Outcome::default() });
        let single = deliver(1, 0, |_| Some(unknown()));
        assert_eq!(single, Outcome { is_held: true, sends: 1, ..Outcome::default() });
    }

    #[test]
    fn many_known_refusals_in_a_row_hold_instead_of_emptying_the_buffer() {
        let outcome = deliver(960, 0, |_| Some(known()));
        assert!(outcome.is_held);
        assert_eq!(outcome.given_up.len(), 10);
        let probing = deliver(960, outcome.given_up_in_a_row, |_| Some(known()));
        assert!(probing.given_up.is_empty(), "and nothing more is given up until something is accepted");
        assert!(probing.is_held && probing.sends == 10, "{probing:?}");
    }

    #[test]
    fn a_probe_that_is_accepted_ends_the_suspicion() {
        let bad = |rows: &Range<usize>| rows.clone().any(|row| row < 7).then(known);
        let outcome = deliver(960, MAX_GIVEN_UP_IN_A_ROW, bad);
        assert_eq!((outcome.accepted, outcome.given_up.len(), outcome.is_held), (953, 7, false));
        let single = deliver(1, MAX_GIVEN_UP_IN_A_ROW, |_| None);
        assert_eq!((single.accepted, single.given_up_in_a_row), (1, 0));
    }

    #[test]
    fn too_large_is_halved_down_to_one_which_is_given_up_after_a_few_tries() {
        let outcome = deliver(64, 0, |rows| {
            (rows.len() > 4 || rows.contains(&9)).then(|| SendError::TooLarge { why: String::new() })
        });
        assert_eq!((outcome.accepted, outcome.given_up), (63, vec![9]));
    }

    #[test]
    fn a_conflict_is_tried_once_more_and_then_each_row_is_there_already_or_goes_through() {
        let conflict = || SendError::Doubtful { retries: 1, then: Then::Duplicate, why: String::new() };
        let outcome = deliver(16, 0, |rows| rows.contains(&3).then(conflict));
        assert_eq!((outcome.accepted, outcome.given_up.len(), outcome.is_held), (16, 0, false));
        assert_eq!(outcome.sends, 2 + 2 * 4);
    }

    #[test]
    fn doubt_ends_after_its_retries() {
        let doubt =
            |then| move |_: &Range<usize>| Some(SendError::Doubtful { retries: 2, then, why: String::new() });
        assert_eq!(
            deliver(1, 0, doubt(Then::Hold)),
            Outcome { is_held: true, sends: 3, ..Outcome::default() }
        );
        let refused = deliver(8, 0, doubt(Then::Refused));
        assert!(refused.is_held && refused.given_up.is_empty(), "{refused:?}");
    }

    #[test]
    fn retries_keep_the_part_and_slowness_makes_it_smaller() {
        let mut delivery = Delivery::new(8, 0);
        let part = delivery.next(8).unwrap();
        let after = Some(Duration::from_secs(3));
        let step = delivery.failed(part.clone(), SendError::Retry { after, why: String::new() });
        assert_eq!(step, Step::Wait { after, smaller: false });
        assert_eq!(delivery.next(8), Some(part.clone()));
        let step = delivery.failed(part, SendError::Slow { why: String::new() });
        assert_eq!(step, Step::Wait { after: None, smaller: true });
        assert_eq!(delivery.next(4).unwrap().rows, 0..4);
        assert_eq!(delivery.next(4).unwrap().rows, 4..8);
        assert_eq!(delivery.next(4), None);
    }

    #[test]
    fn probes_come_from_all_over_the_plan() {
        assert_eq!(probes(0).count(), 0);
        assert_eq!(probes(1).collect::<Vec<_>>(), [0]);
        assert_eq!(probes(3).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(probes(100).collect::<Vec<_>>(), [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]);
    }
}
