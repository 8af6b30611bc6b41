//! Writes and syncs that fail, or never come back. After a failed sync the page cache lies: it shows what the disk may
//! never hold.

use std::time::{Duration, Instant};

use super::check::{Excuse, Promises, check};
use super::driver::{End, Plan, STUCK, command};
use super::random::{Rng, number};
use super::recorder::{Call, Entry, Failing, fail, read_log, record};
use super::replay::{Disk, Loss, Syncs};
use super::scratch;

const READINGS: usize = 300;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;
/// Longer than any test waits.
const FOR_EVER: Duration = Duration::from_secs(24 * 3600);
/// What a driver whose store stands still is given to find it out, where it is sure to.
const STUCK_AFTER_S: u64 = 4;

/// What a driver did whose calls failed.
struct Run {
    entries: Vec<Entry>,
    /// It ended itself because its store stood still, and said this. docs/decisions/0002 says how that comes.
    stuck: Option<String>,
}

/// Lets some calls of a driver fail, and returns what happened once it has nevertheless appended everything, or
/// found out that it never will.
fn run_into(failing: Failing, rng: &mut Rng) -> Run {
    let home = scratch();
    let path = |name: &str| home.path().join(name);
    let (disk, log, marks) = (path("disk"), path("log"), path("marks"));
    std::fs::create_dir(&disk).unwrap();
    let mut driver = command(
        &disk,
        &marks,
        Plan { run: rng.next() >> 44, readings: READINGS, end: End::Close, room: None },
    );
    record(&mut driver, &disk, &log, &marks);
    fail(&mut driver, failing);
    if failing.after > Duration::ZERO {
        driver.env("STORE_STUCK_AFTER_S", STUCK_AFTER_S.to_string());
    }
    let output = std::fs::File::create(path("output")).unwrap();
    let mut driver = driver.stdout(output.try_clone().unwrap()).stderr(output).spawn().unwrap();
    let text = || std::fs::read_to_string(path("output")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(180);
    let status = loop {
        if let Some(status) = driver.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            driver.kill().unwrap();
            driver.wait().unwrap();
            panic!("{failing:?}: it stands still and does not notice: {}", text());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let text = text();
    let stuck = text.lines().find_map(|line| line.strip_prefix(STUCK)).map(str::to_owned);
    assert!(status.success() == stuck.is_none(), "{failing:?}: {status}: {text}");
    Run { entries: read_log(&log), stuck }
}

/// Cuts the power after the failure, most often soon after it, and at the end.
fn cut_after_failure(run: &Run, failure: usize, failing: Failing, cuts: usize, rng: &mut Rng) {
    let entries = &run.entries;
    let rest = entries.len() - failure;
    let near = rest.min(150);
    let mut places: Vec<usize> = (0..cuts)
        .map(|cut| failure + rng.in_range(0..if cut % 2 == 0 { near } else { rest }))
        .chain([entries.len() - 1])
        .collect();
    places.sort_unstable();
    let (mut disk, mut promises) = (Disk::new(Syncs::All), Promises::default());
    let mut places = places.into_iter().peekable();
    for (at, entry) in entries.iter().enumerate() {
        disk.apply(entry);
        match entry {
            // Here, and only here, a store may not open at first, and may be closed while it is in trouble.
            Entry::Mark(marks) if !marks.starts_with("failed") && !marks.starts_with("ended") => {
                promises.hear(marks);
            }
            _ => {}
        }
        while places.next_if_eq(&at).is_some() {
            let loss = if rng.percent(40) { Loss::Everything } else { Loss::random(rng) };
            let copy = scratch();
            disk.image(loss, rng).write(copy.path());
            if let Err(error) = check(copy.path(), &promises, Excuse::NoneOfThoseAcked) {
                panic!("{failing:?}, power cut {} calls after it, lost {loss:?}: {error}", at - failure);
            }
        }
    }
    // Some readings are not waited for, and so without a mark.
    let went_on = promises.durable.len() > READINGS / 2;
    assert!(went_on || run.stuck.is_some(), "{failing:?}: it did not go on after the failure");
}

fn fail_and_cut(test: &str, failing: impl Fn(&mut Rng) -> Failing) {
    let mut rng = Rng::from_env(test);
    let runs = number("TAMPU_FAILURES").unwrap_or(8);
    let (mut failed, mut stuck) = (0, 0);
    for _ in 0..runs {
        let failing = failing(&mut rng);
        let run = run_into(failing, &mut rng);
        if let Some(why) = &run.stuck {
            eprintln!("{failing:?}: {why}");
            stuck += 1;
        }
        if let Some(failure) = run.entries.iter().position(|entry| *entry == Entry::Fault) {
            cut_after_failure(&run, failure, failing, 12, &mut rng);
            failed += 1;
        }
    }
    eprintln!("{failed} of {runs} runs met their failure, {stuck} stood still");
    assert!(failed * 2 >= runs, "the calls that should fail come too seldom: {failed} of {runs}");
    assert!(stuck <= 1.max(runs / 20), "too many stores stood still: {stuck} of {runs}");
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_that_is_only_in_the_page_cache() {
    fail_and_cut("failed syncs", |rng| Failing {
        call: Call::Sync,
        first: rng.in_range(1..18),
        count: if rng.percent(70) { 1 } else { rng.in_range(2..6) },
        errno: EIO,
        after: Duration::ZERO,
        drop_data: rng.percent(50),
    });
}

#[test]
fn a_write_that_fails_holds_back_its_acks_until_it_succeeds() {
    fail_and_cut("failed writes", |rng| Failing {
        call: Call::Write,
        first: rng.in_range(1..40),
        count: if rng.percent(70) { 1 } else { rng.in_range(2..6) },
        errno: if rng.percent(50) { EIO } else { ENOSPC },
        after: Duration::ZERO,
        drop_data: false,
    });
}

/// A disk that tries again before it gives up: sled by itself then waits for ever in every third run.
#[test]
fn a_write_that_fails_late_is_told_to_the_flush_that_waits_for_it() {
    fail_and_cut("late failures", |rng| Failing {
        call: Call::Write,
        first: rng.in_range(10..40),
        count: 1,
        errno: EIO,
        after: Duration::from_millis(500),
        drop_data: false,
    });
}

/// A disk that has died: at the first access, while the store is opened, or later.
#[test]
fn a_disk_that_never_answers_ends_the_process_with_the_reason_and_nothing_is_lost() {
    let mut rng = Rng::from_env("hanging disk");
    for (call, first) in [(Call::Sync, 1), (Call::Sync, 12), (Call::Write, 1), (Call::Write, 30)] {
        let failing = Failing { call, first, count: 1 << 30, errno: EIO, after: FOR_EVER, drop_data: false };
        let run = run_into(failing, &mut rng);
        let why = run.stuck.as_ref().unwrap_or_else(|| panic!("{failing:?} was never met"));
        eprintln!("{call:?} {first}: {why}");
        assert!(why.contains("has not come to an end for"), "{why}");
        let failure = run.entries.iter().position(|entry| *entry == Entry::Fault).unwrap();
        cut_after_failure(&run, failure, failing, 6, &mut rng);
    }
}
