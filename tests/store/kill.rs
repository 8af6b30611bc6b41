//! The process is killed at any moment. The page cache survives, and so must whatever was acknowledged.

use std::time::{Duration, Instant};

use super::check::{Excuse, Promises, check};
use super::driver::{End, Plan, command};
use super::random::{Rng, number};
use super::replay::Image;
use super::scratch;

#[test]
fn kill_9_under_load_takes_no_acknowledged_reading() {
    let mut rng = Rng::from_env("kill -9");
    let home = scratch();
    let (disk, marks) = (home.path().join("disk"), home.path().join("marks"));
    std::fs::create_dir(&disk).unwrap();
    let kills = number("TAMPU_KILLS").unwrap_or(24);
    for run in 0..kills {
        let mut driver = command(&disk, &marks, Plan { run, readings: 0, end: End::Never, room: None })
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Some are killed while they open the store, most while they work.
        if rng.percent(80) {
            let deadline = Instant::now() + Duration::from_secs(60);
            while Promises::read(&marks).opened != Some(run) {
                assert!(Instant::now() < deadline, "the driver does not open its store");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        std::thread::sleep(Duration::from_millis(rng.next() % 150));
        driver.kill().unwrap();
        driver.wait().unwrap();
        let promises = Promises::read(&marks);
        let copy = scratch();
        Image::of(&disk).write(copy.path());
        if let Err(failure) = check(copy.path(), &promises, Excuse::None) {
            panic!("after kill {run}: {failure}");
        }
    }
    let promises = Promises::read(&marks);
    eprintln!("{kills} kills, {} readings acknowledged", promises.durable.len());
    assert!(promises.durable.len() > kills as usize, "the driver was killed before it did anything");
    check(&disk, &promises, Excuse::None).unwrap();
}
