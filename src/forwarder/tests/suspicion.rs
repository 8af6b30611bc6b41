//! Telling bad rows from a far side that refuses everything.

use super::*;

fn known() -> SendError {
    SendError::Refused { known: true, why: "400 22P02".to_owned() }
}

fn unknown() -> SendError {
    SendError::Refused { known: false, why: "418".to_owned() }
}

fn bad(count: usize) -> impl Iterator<Item = String> {
    std::iter::repeat_n("bad".to_owned(), count)
}

fn refusing_bad(error: fn() -> SendError) -> impl FnMut(usize, &[Row]) -> Answer + Send {
    move |_, rows| if has(rows, "bad") { Err(error()) } else { Ok(Accepted::Stored) }
}

fn is_holding(status: &ForwarderStatus) -> bool {
    matches!(status.state, State::Holding { .. })
}

#[tokio::test(start_paused = true)]
async fn batches_of_nothing_but_bad_readings_become_dead_letters_once_others_are_accepted() {
    for error in [known, unknown] {
        let (bench, forwarder) = Bench::new(20, refusing_bad(error));
        bench.append(bad(100).chain(numbers(0..60))).await;
        bench.run_until(forwarder, is_done).await;
        assert_eq!(bench.figures(), (60, 0, BTreeMap::from([(DropReason::Rejected, 100)])));
        assert_eq!(bench.reopened().await.dead_letters(200).await.unwrap().len(), 100);
    }
}

#[tokio::test(start_paused = true)]
async fn good_readings_are_found_wherever_they_lie_between_bad_ones() {
    for error in [known, unknown] {
        let (bench, forwarder) = Bench::new(20, refusing_bad(error));
        bench.append(bad(300).chain(numbers(0..30)).chain(bad(300))).await;
        bench.run_until(forwarder, |status| status.rows == 30).await;
        let (delivered, pending, dropped) = bench.figures();
        assert_eq!(delivered, 30);
        assert_eq!(dropped.get(&DropReason::Rejected), Some(&(600 - pending)), "{dropped:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn bad_readings_of_one_device_do_not_keep_those_of_others_that_come_later() {
    let (bench, forwarder) = Bench::new(20, refusing_bad(known));
    bench.append(bad(50)).await;
    let steps = async {
        bench.status.clone().wait_for(is_holding).await.unwrap();
        bench.append_to("soil", numbers(0..1)).await;
        let before = bench.sent().len();
        bench.status.clone().wait_for(|status| status.rows == 1).await.unwrap();
        bench.cancel.cancel();
        before
    };
    let before = tokio::join!(forwarder.run(bench.cancel.clone()), steps).1;
    let accepted = bench.sent().iter().position(|sent| !has(&sent.rows, "bad")).unwrap();
    assert!(accepted < before + 30, "a few tries later: {accepted}, {before}");
    assert_eq!(bench.figures().0, 1);
}

#[tokio::test(start_paused = true)]
async fn a_table_that_is_repaired_gets_everything_that_was_kept() {
    for (error, lost) in [(known as fn() -> SendError, 10), (unknown, 0)] {
        let repaired =
            move |request, _: &[Row]| if request < 500 { Err(error()) } else { Ok(Accepted::Stored) };
        let (bench, forwarder) = Bench::new(100, repaired);
        bench.append(numbers(0..300)).await;
        bench.run_until(forwarder, is_done).await;
        let (delivered, pending, dropped) = bench.figures();
        assert_eq!((delivered, pending, dropped.values().sum::<u64>()), (300 - lost, 0, lost));
        let hours = (bench.sent()[498].at - bench.sent()[0].at).as_secs() / 3_600;
        assert!(hours >= 1, "and it is not asked all the time");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_suspicion_is_believed_for_one_batch_only() {
    // Ten bad readings, then one that is accepted, and from then on the table refuses everything.
    let mut is_broken = false;
    let breaks = move |_, rows: &[Row]| {
        if is_broken || has(rows, "bad") {
            return Err(known());
        }
        is_broken = true;
        Ok(Accepted::Stored)
    };
    let (bench, forwarder) = Bench::new(20, breaks);
    bench.append(bad(40).chain(numbers(0..400))).await;
    let mut holds = 0;
    bench
        .run_until(forwarder, move |status| {
            holds += u32::from(is_holding(status));
            holds >= 20
        })
        .await;
    let (delivered, _, dropped) = bench.figures();
    assert!(delivered >= 1);
    assert!(dropped[&DropReason::Rejected] <= 10 + 2 * 20, "{dropped:?}");
}

#[tokio::test(start_paused = true)]
async fn a_table_that_is_locked_for_long_loses_nothing() {
    let locked = |request, _: &[Row]| match request {
        2..200 => Err(SendError::TooLarge { known: false, why: "500 57014".to_owned() }),
        _ => Ok(Accepted::Stored),
    };
    let (bench, forwarder) = Bench::new(20, locked);
    bench.append(numbers(0..60)).await;
    bench.run_until(forwarder, is_done).await;
    assert_eq!(bench.figures(), (60, 0, BTreeMap::new()));
}
