//! The power goes at any moment, between any two calls that the store makes.

use std::path::{Path, PathBuf};

use super::check::{Promises, check};
use super::driver::{End, Plan, command};
use super::random::{Rng, number};
use super::recorder::{Entry, read_log, record};
use super::replay::{Disk, Image, Loss, Syncs};
use super::scratch;

const CUTS_A_RECORDING: usize = 100;

/// What a disk held, and what the store on it had promised.
#[derive(Default)]
struct Start {
    image: Image,
    promises: Promises,
}

/// What several runs of the driver did to one store, with crashes of the process between them.
struct Recording {
    start: Start,
    entries: Vec<Entry>,
}

/// The cuts that left a store which breaks a promise.
#[derive(Debug, Default)]
struct Failures {
    count: usize,
    first: Option<String>,
}

impl Recording {
    fn make(rng: &mut Rng, readings: usize, start: Start) -> Self {
        let home = scratch();
        let path = |name: &str| -> PathBuf { home.path().join(name) };
        let (disk, log, marks) = (path("disk"), path("log"), path("marks"));
        std::fs::create_dir(&disk).unwrap();
        start.image.write(&disk);
        let mut recording = Self { start, entries: Vec::new() };
        for (run, end) in [End::Abort, End::Close, End::Abort, End::Close].into_iter().enumerate() {
            let plan = Plan { run: rng.next() >> 44 << 2 | run as u64, readings, end };
            let mut driver = command(&disk, &marks, plan);
            record(&mut driver, &disk, &log, &marks);
            let output = driver.output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.success(), end == End::Close, "{end:?}: {} {text}", output.status);
            recording.entries = read_log(&log);
            recording.assert_complete(&disk);
        }
        recording
    }

    /// If the log tells everything that happened, what follows from it is what is there.
    fn assert_complete(&self, disk: &Path) {
        let mut replayed = Disk::with(&self.start.image, Syncs::All);
        self.entries.iter().for_each(|entry| replayed.apply(entry));
        let image = replayed.image(Loss::Nothing, &mut Rng::new(0));
        let difference = image.difference(&Image::of(disk));
        assert_eq!(difference, None, "the store changes files by calls that the recorder does not see");
    }

    /// Cuts the power at `cuts` places. Also returns what one of the cuts left.
    fn cut(&self, syncs: Syncs, cuts: usize, rng: &mut Rng) -> (Failures, Start) {
        let places = self.places(cuts, rng);
        let mut disk = Disk::with(&self.start.image, syncs);
        let mut promises = self.start.promises.clone();
        let (mut failures, mut left) = (Failures::default(), Start::default());
        for (at, entry) in self.entries.iter().enumerate() {
            disk.apply(entry);
            if let Entry::Mark(marks) = entry {
                promises.hear(marks);
            }
            for _ in 0..places.iter().filter(|place| **place == at).count() {
                let loss = Loss::random(rng);
                let image = disk.image(loss, rng);
                let copy = scratch();
                image.write(copy.path());
                if let Err(failure) = check(copy.path(), &promises, false) {
                    failures.count += 1;
                    let say = || format!("power cut after entry {at}, lost {loss:?}: {failure}");
                    failures.first.get_or_insert_with(say);
                }
                if rng.in_range(0..cuts) < 3 {
                    left = Start { image, promises: promises.clone() };
                }
            }
        }
        (failures, left)
    }

    /// A third of them anywhere, a third right before or after a sync, a third where names and lengths change.
    fn places(&self, cuts: usize, rng: &mut Rng) -> Vec<usize> {
        let where_is = |wanted: fn(&Entry) -> bool| -> Vec<usize> {
            (0..self.entries.len()).filter(|at| wanted(&self.entries[*at])).collect()
        };
        let syncs = where_is(|entry| matches!(entry, Entry::SyncBegin { .. } | Entry::SyncEnd { .. }));
        let names = where_is(|entry| {
            use Entry::{Create, Mkdir, Rename, Truncate, Unlink};
            matches!(entry, Create { .. } | Mkdir { .. } | Rename { .. } | Truncate { .. } | Unlink { .. })
        });
        let mut near = |some: &[usize]| match some.len() {
            0 => rng.in_range(0..self.entries.len()),
            len => (some[rng.in_range(0..len)] + rng.in_range(0..5)).saturating_sub(2),
        };
        let kinds = [&[], syncs.as_slice(), names.as_slice()];
        (0..cuts).map(|cut| near(kinds[cut % 3]).min(self.entries.len() - 1)).collect()
    }
}

#[test]
fn no_power_cut_takes_an_acknowledged_reading_or_keeps_the_store_from_opening() {
    let mut rng = Rng::from_env("power cuts");
    let cuts = number("TAMPU_CUTS").unwrap_or(300) as usize;
    let readings = number("TAMPU_READINGS").unwrap_or(300) as usize;
    let mut start = Start::default();
    for part in (0..cuts).step_by(CUTS_A_RECORDING) {
        // Two times of three, go on with what a power cut left, so that recovery is cut off too.
        if (part / CUTS_A_RECORDING).is_multiple_of(3) {
            start = Start::default();
        }
        let recording = Recording::make(&mut rng, readings, start);
        let begin = std::time::Instant::now();
        let cuts = CUTS_A_RECORDING.min(cuts - part);
        let (failures, left) = recording.cut(Syncs::All, cuts, &mut rng);
        let calls = recording.entries.len();
        eprintln!("{cuts} cuts in {calls} calls, {} failures, {:.1?}", failures.count, begin.elapsed());
        assert_eq!(failures.count, 0, "{failures:?}");
        start = left;
    }
}

#[test]
fn without_any_one_kind_of_sync_the_same_cuts_find_losses() {
    let mut rng = Rng::from_env("ignored syncs");
    let recording = Recording::make(&mut rng, 100, Start::default());
    for syncs in [Syncs::None, Syncs::OfFilesOnly, Syncs::OfDirectoriesOnly] {
        let (failures, _) = recording.cut(syncs, 30, &mut rng);
        eprintln!("{syncs:?}: {failures:?}");
        assert!(failures.count > 0, "the cuts would not see it if the store left out syncs: {syncs:?}");
    }
}
