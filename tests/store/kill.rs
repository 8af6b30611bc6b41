//! The process is killed at any moment. The page cache survives, and so must whatever was acknowledged.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::check::{Excuse, Promises, check};
use super::driver::{End, Plan, command};
use super::random::{Rng, number};
use super::replay::Image;
use super::scratch;

/// The backlog grows from kill to kill: after so many the next store begins.
const KILLS_A_STORE: u64 = 6;

#[test]
fn kill_9_under_load_takes_no_acknowledged_reading() {
    let mut rng = Rng::from_env("kill -9");
    let kills = number("TAMPU_KILLS").unwrap_or(24);
    for first in (0..kills).step_by(KILLS_A_STORE as usize) {
        let upto = kills.min(first + KILLS_A_STORE);
        let acknowledged = kill_again_and_again(first..upto, &mut rng);
        eprintln!("{} kills, {acknowledged} readings acknowledged", upto - first);
        assert!(acknowledged > 100, "the driver was always killed before it did anything");
    }
}

/// Kills runs on one store, and checks a copy of it each time. Returns how many readings were acknowledged.
fn kill_again_and_again(runs: std::ops::Range<u64>, rng: &mut Rng) -> usize {
    let home = scratch();
    let (disk, marks) = (home.path().join("disk"), home.path().join("marks"));
    std::fs::create_dir(&disk).unwrap();
    let mut promises = Promises::default();
    for run in runs {
        let plan = Plan { run, readings: 0, end: End::Never, room: None };
        let mut driver = command(&disk, &marks, plan).stdout(Stdio::null()).spawn().unwrap();
        // Some are killed while they open the store, most while they work.
        if rng.percent(80) {
            let deadline = Instant::now() + Duration::from_secs(60);
            while Promises::read(&marks).opened != Some(run) {
                assert!(Instant::now() < deadline, "the driver does not open its store");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        std::thread::sleep(Duration::from_millis(rng.next() % 150));
        driver.kill().unwrap();
        driver.wait().unwrap();
        promises = Promises::read(&marks);
        let copy = scratch();
        Image::of(&disk).write(copy.path());
        if let Err(failure) = check(copy.path(), &promises, Excuse::None) {
            panic!("after kill {run}: {failure}");
        }
    }
    promises.durable.len()
}
