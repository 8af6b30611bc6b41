//! The power goes at any moment, between any two calls that the store makes.

use std::path::{Path, PathBuf};

use super::check::{Promises, check};
use super::driver::{End, Plan, command};
use super::random::{Rng, number};
use super::recorder::{Entry, read_log, record};
use super::replay::{Disk, Image, Loss, Syncs};
use super::scratch;

/// What several runs of the driver did to one store, with crashes of the process between them.
struct Recording {
    entries: Vec<Entry>,
}

impl Recording {
    fn make(rng: &mut Rng, readings: usize) -> Self {
        let home = scratch();
        let path = |name: &str| -> PathBuf { home.path().join(name) };
        let (disk, log, marks) = (path("disk"), path("log"), path("marks"));
        std::fs::create_dir(&disk).unwrap();
        let mut entries = Vec::new();
        for (run, end) in [End::Abort, End::Close, End::Abort, End::Close].into_iter().enumerate() {
            let plan = Plan { run: rng.next() >> 44 << 2 | run as u64, readings, end };
            let mut driver = command(&disk, &marks, plan);
            record(&mut driver, &disk, &log, &marks);
            let output = driver.output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.success(), end == End::Close, "{end:?}: {} {text}", output.status);
            entries = read_log(&log);
            assert_complete(&entries, &disk);
        }
        Self { entries }
    }

    /// Cuts the power at `cuts` places and tells how many left a store that breaks a promise, and the first of them.
    fn cut(&self, syncs: Syncs, cuts: usize, rng: &mut Rng) -> (usize, Option<String>) {
        let places = self.places(cuts, rng);
        let mut disk = Disk::new(syncs);
        let mut promises = Promises::default();
        let (mut failures, mut first) = (0, None);
        for (at, entry) in self.entries.iter().enumerate() {
            disk.apply(entry);
            if let Entry::Mark(marks) = entry {
                promises.hear(marks);
            }
            for _ in 0..places.iter().filter(|place| **place == at).count() {
                let loss = Loss::random(rng);
                let copy = scratch();
                disk.image(loss, rng).write(copy.path());
                if let Err(failure) = check(copy.path(), &promises, false) {
                    failures += 1;
                    first.get_or_insert_with(|| format!("cut after entry {at}, lost {loss:?}: {failure}"));
                }
            }
        }
        (failures, first)
    }

    /// Half of them anywhere, half right before or after a sync.
    fn places(&self, cuts: usize, rng: &mut Rng) -> Vec<usize> {
        let is_sync = |entry: &Entry| matches!(entry, Entry::SyncBegin { .. } | Entry::SyncEnd { .. });
        let syncs: Vec<usize> = (0..self.entries.len()).filter(|at| is_sync(&self.entries[*at])).collect();
        let place = |at: usize, rng: &mut Rng| match at % 2 {
            0 => rng.in_range(0..self.entries.len()),
            _ => (syncs[rng.in_range(0..syncs.len())] + rng.in_range(0..3)).saturating_sub(1),
        };
        (0..cuts).map(|at| place(at, rng)).collect()
    }
}

/// If the log tells everything that happened, what follows from it is what is there.
fn assert_complete(entries: &[Entry], disk: &Path) {
    let mut replayed = Disk::new(Syncs::All);
    entries.iter().for_each(|entry| replayed.apply(entry));
    let image = replayed.image(Loss::Nothing, &mut Rng::new(0));
    let difference = image.difference(&Image::of(disk));
    assert_eq!(difference, None, "the store changes files by calls that the recorder does not see");
}

#[test]
fn no_power_cut_takes_an_acknowledged_reading_or_keeps_the_store_from_opening() {
    let mut rng = Rng::from_env("power cuts");
    let cuts = number("TAMPU_CUTS").unwrap_or(300) as usize;
    // A recording serves some hundred cuts, then another one has other luck.
    for part in (0..cuts).step_by(300) {
        let recording = Recording::make(&mut rng, number("TAMPU_READINGS").unwrap_or(400) as usize);
        let begin = std::time::Instant::now();
        let (failures, first) = recording.cut(Syncs::All, 300.min(cuts - part), &mut rng);
        let entries = recording.entries.len();
        eprintln!(
            "{} cuts in {entries} calls: {failures} failures, {:?}",
            300.min(cuts - part),
            begin.elapsed()
        );
        assert_eq!(failures, 0, "{}", first.unwrap());
    }
}

#[test]
fn without_any_one_kind_of_sync_the_same_cuts_find_losses() {
    let mut rng = Rng::from_env("ignored syncs");
    let recording = Recording::make(&mut rng, 100);
    for syncs in [Syncs::None, Syncs::OfFilesOnly, Syncs::OfDirectoriesOnly] {
        let (failures, first) = recording.cut(syncs, 30, &mut rng);
        eprintln!("{syncs:?}: {failures} of 30 cuts fail: {first:?}");
        assert!(failures > 0, "the cuts would not see it if the store left out syncs: {syncs:?}");
    }
}
