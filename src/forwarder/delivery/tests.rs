//! A far side that says what it thinks of a part.

use super::*;

const USUAL: Trust = Trust::Usual(0);

fn suspicion(probes: &[usize]) -> Trust {
    Trust::Suspicion(probes.to_vec())
}

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
fn deliver(rows: usize, trust: Trust, far_side: impl Fn(&Range<usize>) -> Option<SendError>) -> Outcome {
    let mut delivery = Delivery::new(rows, trust);
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
            Step::Suspect | Step::Hold => {
                outcome.is_held = true;
                break;
            }
            Step::Continue | Step::Smaller | Step::Wait { .. } => {}
        }
    }
    outcome.given_up_in_a_row = delivery.given_up_in_a_row();
    outcome.is_held |= delivery.finish().is_err();
    outcome
}

#[test]
fn one_bad_row_of_960_is_found_and_the_others_arrive() {
    for error in [known, unknown] {
        let outcome = deliver(960, USUAL, |rows| rows.contains(&777).then(error));
        assert_eq!((outcome.accepted, &outcome.given_up[..], outcome.is_held), (959, &[777][..], false));
        assert!(outcome.sends <= 1 + 2 * 10, "{}", outcome.sends);
    }
}

#[test]
fn a_refusal_that_is_not_known_to_be_a_rows_fault_gives_nothing_up_when_nothing_else_is_taken() {
    let all = deliver(960, USUAL, |_| Some(unknown()));
    assert_eq!(all, Outcome { is_held: true, sends: 3, ..Outcome::default() });
    let single = deliver(1, USUAL, |_| Some(unknown()));
    assert_eq!(single, Outcome { is_held: true, sends: 1, ..Outcome::default() });
}

#[test]
fn many_known_refusals_in_a_row_hold_instead_of_emptying_the_buffer() {
    let outcome = deliver(960, USUAL, |_| Some(known()));
    assert!(outcome.is_held);
    assert_eq!(outcome.given_up.len(), 10);
    assert!(outcome.sends < 50, "it shows early: {}", outcome.sends);
    for refusal in [known, unknown] {
        let probing = deliver(960, suspicion(&[0, 100, 959]), |_| Some(refusal()));
        assert_eq!(probing, Outcome { is_held: true, sends: 3, ..Outcome::default() });
    }
}

#[test]
fn a_probe_that_is_accepted_ends_the_suspicion_and_everything_that_is_refused_then_is_given_up() {
    for refusal in [known, unknown] {
        let all_but_one = |rows: &Range<usize>| (*rows != (700..701)).then(refusal);
        let outcome = deliver(960, suspicion(&[0, 700, 959]), all_but_one);
        assert_eq!((outcome.accepted, outcome.given_up.len(), outcome.is_held), (1, 959, false));
    }
}

#[test]
fn a_suspicion_that_was_wrong_lets_a_batch_of_nothing_but_bad_rows_go() {
    for refusal in [known, unknown] {
        let outcome = deliver(960, Trust::Full, |_| Some(refusal()));
        assert_eq!((outcome.given_up.len(), outcome.is_held), (960, false));
    }
}

#[test]
fn what_is_wrong_for_a_while_after_a_success_gives_no_row_up() {
    // Each request holds 100 rows; the disk of the far side fills after the first one.
    let mut delivery = Delivery::new(960, USUAL);
    let part = delivery.next(100).unwrap();
    delivery.accepted(&part);
    let mut steps = Vec::new();
    while let Some(part) = delivery.next(100) {
        steps.push(delivery.failed(part, unknown()));
        if steps.last() == Some(&Step::Suspect) {
            break;
        }
    }
    assert_eq!(steps.last(), Some(&Step::Suspect));
    assert!(!steps.iter().any(|step| matches!(step, Step::GiveUp(_))), "{steps:?}");
}

#[test]
fn too_large_is_halved_down_to_one_which_is_given_up_after_a_few_tries() {
    let outcome = deliver(64, USUAL, |rows| {
        (rows.len() > 4 || rows.contains(&9)).then(|| SendError::TooLarge { known: true, why: String::new() })
    });
    assert_eq!((outcome.accepted, outcome.given_up), (63, vec![9]));
}

#[test]
fn a_table_that_is_locked_gives_no_row_up_whatever_was_accepted_before() {
    let timeout = || Some(SendError::TooLarge { known: false, why: "57014".to_owned() });
    for trust in [USUAL, suspicion(&[0, 7]), Trust::Full] {
        let outcome = deliver(8, trust, |_| timeout());
        assert!(outcome.is_held && outcome.given_up.is_empty(), "{outcome:?}");
    }
    let first_only = deliver(8, USUAL, |rows| (*rows != (0..1)).then(|| timeout().unwrap()));
    assert!(first_only.is_held && first_only.given_up.is_empty(), "{first_only:?}");
    assert_eq!(first_only.accepted, 1);
}

#[test]
fn a_row_that_always_takes_too_long_is_given_up_when_the_others_do_not() {
    let outcome = deliver(8, USUAL, |rows| {
        rows.contains(&3).then(|| SendError::TooLarge { known: false, why: "57014".to_owned() })
    });
    assert_eq!((outcome.accepted, &outcome.given_up[..], outcome.is_held), (7, &[3][..], false));
}

#[test]
fn a_conflict_is_tried_once_more_and_then_each_row_is_there_already_or_goes_through() {
    let conflict = || SendError::Doubtful { retries: 1, then: Then::Duplicate, why: String::new() };
    let outcome = deliver(16, USUAL, |rows| rows.contains(&3).then(conflict));
    assert_eq!((outcome.accepted, outcome.given_up.len(), outcome.is_held), (16, 0, false));
    assert_eq!(outcome.sends, 2 + 2 * 4);
}

#[test]
fn doubt_ends_after_its_retries() {
    let doubt =
        |then| move |_: &Range<usize>| Some(SendError::Doubtful { retries: 2, then, why: String::new() });
    assert_eq!(
        deliver(1, USUAL, doubt(Then::Hold)),
        Outcome { is_held: true, sends: 3, ..Outcome::default() }
    );
    let refused = deliver(8, USUAL, doubt(Then::Refused));
    assert!(refused.is_held && refused.given_up.is_empty(), "{refused:?}");
}

#[test]
fn trouble_inside_the_far_side_gives_no_row_up_even_when_refusals_are_believed() {
    let internal =
        |_: &Range<usize>| Some(SendError::Doubtful { retries: 2, then: Then::Refused, why: String::new() });
    for rows in [1, 8] {
        let outcome = deliver(rows, Trust::Full, internal);
        assert!(outcome.is_held && outcome.given_up.is_empty(), "{outcome:?}");
    }
}

#[test]
fn retries_keep_the_part_and_slowness_makes_it_smaller() {
    let mut delivery = Delivery::new(8, USUAL);
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
