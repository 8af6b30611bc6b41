//! One delivery: the rows of a plan, and what to send next after each answer. No I/O and no clock.
//!
//! A refused request is halved until the row at fault stands alone. How much is believed of a refusal depends on
//! what the service documents:
//!
//! - A *known* fault of a row gives that row up. When many in a row fall so and nothing is accepted between
//!   them, it may be the table that changed and not the rows.
//! - An *unknown* refusal gives a row up only when another one was accepted since it, or the part that it comes
//!   from, was first refused: what is wrong for a while is wrong for all rows.
//!
//! In doubt the delivery ends as *suspect*. The next one, of other readings where there are any, begins with
//! *probes*, single rows, and gives nothing up before one of them was accepted. That ends the suspicion: the far
//! side takes rows, so it is the rows that were at fault, and these are then given up, however many. A far
//! side that refuses everything never comes so far.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use crate::sink::{SendError, Then};

/// Refused rows that are given up in a row without one being accepted between them.
pub(super) const MAX_GIVEN_UP_IN_A_ROW: u32 = 10;

/// How often a single row that is too large is sent before it is given up.
const MAX_TRIES_TOO_LARGE: u32 = 3;

/// How much of a refusal is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trust {
    /// As much as is documented, so many rows having been given up since one was accepted.
    Usual(u32),
    /// Nothing before one of these rows was accepted; they are sent first, each alone.
    Suspicion(Vec<usize>),
    /// Everything: a suspicion turned out to be wrong.
    Full,
}

/// The rows of a plan on their way.
#[derive(Debug)]
pub(super) struct Delivery {
    parts: VecDeque<Part>,
    settled: Vec<bool>,
    given_up_in_a_row: u32,
    /// Requests accepted; one more with full trust.
    accepted: u32,
    is_trusting: bool,
    is_probing: bool,
    /// Why the last probe was refused.
    refused_probe: Option<String>,
}

/// Rows that go in one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) rows: Range<usize>,
    /// How often it was halved.
    depth: u32,
    /// How often it, or the part it is a half of, was sent in vain and could have been accepted.
    tries: u32,
    /// How many requests had been accepted when it, or a part it comes from, was first refused.
    refused_at: Option<u32>,
    /// Whether others were let go first.
    is_set_aside: bool,
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
    /// End this delivery, and look whether any other row is accepted: perhaps no row is at fault.
    Suspect,
    /// End this delivery and pause: no row is at fault.
    Hold,
}

impl Delivery {
    pub(super) fn new(rows: usize, trust: Trust) -> Self {
        let mut delivery = Self {
            parts: VecDeque::new(),
            settled: vec![false; rows],
            given_up_in_a_row: 0,
            accepted: 0,
            is_trusting: false,
            is_probing: false,
            refused_probe: None,
        };
        match trust {
            Trust::Usual(given_up_in_a_row) => {
                delivery.given_up_in_a_row = given_up_in_a_row;
                delivery.parts.push_back(Part::new(0..rows));
            }
            Trust::Suspicion(probes) => {
                delivery.is_probing = true;
                delivery.parts = probes.into_iter().map(|row| Part::new(row..row + 1)).collect();
            }
            Trust::Full => {
                delivery.trust();
                delivery.parts.push_back(Part { refused_at: Some(0), ..Part::new(0..rows) });
            }
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
        if std::mem::take(&mut self.is_probing) {
            self.trust();
            self.parts = self.unsettled();
        } else {
            self.accepted += 1;
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
            SendError::TooLarge { known, why } => self.too_large(part, known, why),
            SendError::Doubtful { then: Then::Refused, why, .. } if self.is_probing => {
                self.refused(part, false, why)
            }
            SendError::Doubtful { retries, .. } if part.tries < retries => self.again(part),
            SendError::Doubtful { then: Then::Refused, why, .. } => self.refused(part, false, why),
            SendError::Doubtful { then: Then::Duplicate, .. } => match part.rows.len() {
                1 => {
                    self.settled[part.rows.start] = true;
                    Step::Duplicate(part.rows.start)
                }
                _ => self.halve(&part),
            },
            SendError::Doubtful { then: Then::Hold, .. } | SendError::Hold { .. } => Step::Hold,
            SendError::Refused { known, why } => self.refused(part, known, why),
        }
    }

    /// Refused rows that were given up since one was accepted.
    pub(super) fn given_up_in_a_row(&self) -> u32 {
        self.given_up_in_a_row
    }

    /// Everything was sent. When only probes were, and none was accepted: why not.
    pub(super) fn finish(self) -> Result<(), String> {
        match self.refused_probe {
            Some(why) if self.is_probing => Err(why),
            _ => Ok(()),
        }
    }

    fn again(&mut self, mut part: Part) -> Step {
        if part.tries == 0 {
            // It may be passing trouble: what was accepted before it says nothing.
            part.refused_at = Some(self.accepted);
        }
        part.tries += 1;
        self.parts.push_front(part);
        Step::Wait { after: None, smaller: false }
    }

    fn too_large(&mut self, mut part: Part, known: bool, why: String) -> Step {
        if part.rows.len() > 1 {
            self.halve(&part);
            return Step::Smaller;
        }
        if known && part.tries < MAX_TRIES_TOO_LARGE {
            return self.again(part);
        }
        if known || part.is_set_aside {
            return self.refused(part, known, why);
        }
        // That larger parts were too slow says nothing about this row.
        part.refused_at = Some(self.accepted);
        part.is_set_aside = true;
        self.parts.push_back(part);
        Step::Wait { after: None, smaller: false }
    }

    fn refused(&mut self, mut part: Part, known: bool, why: String) -> Step {
        if self.is_probing {
            self.refused_probe = Some(why);
            return Step::Continue;
        }
        let was_one_accepted_since = self.accepted > *part.refused_at.get_or_insert(self.accepted);
        if part.rows.len() > 1 {
            let is_last_of_its_depth = self.parts.iter().all(|other| other.depth > part.depth);
            let fell_in_both_halves = part.depth > 0 && is_last_of_its_depth && !was_one_accepted_since;
            return match known {
                true => self.halve(&part),
                false if fell_in_both_halves => Step::Suspect,
                false => self.halve_later(&part),
            };
        }
        if known && (self.is_trusting || self.given_up_in_a_row < MAX_GIVEN_UP_IN_A_ROW) {
            self.given_up_in_a_row += 1;
        } else if known || !was_one_accepted_since {
            return if known { Step::Suspect } else { self.set_aside(part) };
        }
        self.settled[part.rows.start] = true;
        Step::GiveUp(part.rows.start)
    }

    /// Lets the others go first; when they have, and none was accepted, the row is not the only one.
    fn set_aside(&mut self, part: Part) -> Step {
        if part.is_set_aside || self.parts.is_empty() {
            return Step::Suspect;
        }
        self.parts.push_back(Part { is_set_aside: true, ..part });
        Step::Continue
    }

    /// Goes for single rows at once.
    fn halve(&mut self, part: &Part) -> Step {
        let (left, right) = halves(part);
        self.parts.push_front(right);
        self.parts.push_front(left);
        Step::Continue
    }

    /// All parts of a depth are sent before deeper ones: a fault that is everywhere shows early.
    fn halve_later(&mut self, part: &Part) -> Step {
        let (left, right) = halves(part);
        self.parts.push_back(left);
        self.parts.push_back(right);
        Step::Continue
    }

    fn trust(&mut self) {
        self.is_trusting = true;
        self.accepted += 1;
    }

    /// What is left after a probe was accepted; whatever of it is refused counts as refused before that.
    fn unsettled(&self) -> VecDeque<Part> {
        let mut parts: VecDeque<Part> = VecDeque::new();
        for (row, _) in self.settled.iter().enumerate().filter(|(_, settled)| !**settled) {
            match parts.back_mut() {
                Some(part) if part.rows.end == row => part.rows.end += 1,
                _ => parts.push_back(Part { refused_at: Some(0), ..Part::new(row..row + 1) }),
            }
        }
        parts
    }
}

impl Part {
    fn new(rows: Range<usize>) -> Self {
        Self { rows, depth: 0, tries: 0, refused_at: None, is_set_aside: false }
    }
}

fn halves(part: &Part) -> (Part, Part) {
    let middle = part.rows.start + part.rows.len() / 2;
    let half = |rows| Part { rows, depth: part.depth + 1, is_set_aside: false, ..*part };
    (half(part.rows.start..middle), half(middle..part.rows.end))
}

#[cfg(test)]
mod tests;
