//! The power goes at any moment, between any two calls that the store makes.

use std::path::{Path, PathBuf};

use super::check::{Excuse, Promises, check};
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
    room: Option<u64>,
    entries: Vec<Entry>,
}

/// What became of the cuts.
#[derive(Debug, Default)]
struct Tally {
    /// Cuts that left a store which breaks a promise, and the first of them.
    failures: usize,
    first: Option<String>,
    /// Acknowledged readings that had to make room, counted for each cut and sink.
    made_room: u64,
}

impl Recording {
    fn make(rng: &mut Rng, readings: usize, room: Option<u64>, start: Start) -> Self {
        let home = scratch();
        let path = |name: &str| -> PathBuf { home.path().join(name) };
        let (disk, log, marks) = (path("disk"), path("log"), path("marks"));
        std::fs::create_dir(&disk).unwrap();
        start.image.write(&disk);
        let mut recording = Self { start, room, entries: Vec::new() };
        for (run, end) in [End::Abort, End::Close, End::Abort, End::Close].into_iter().enumerate() {
            let plan = Plan { run: rng.next() >> 44 << 2 | run as u64, readings, end, room };
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
    fn cut(&self, syncs: Syncs, cuts: usize, rng: &mut Rng) -> (Tally, Start) {
        let places = self.places(cuts, rng);
        let excuse = if self.room.is_some() { Excuse::Oldest } else { Excuse::None };
        let mut disk = Disk::with(&self.start.image, syncs);
        let mut promises = self.start.promises.clone();
        let (mut tally, mut left) = (Tally::default(), Start::default());
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
                match check(copy.path(), &promises, excuse) {
                    Ok(found) => tally.made_room += found.missing,
                    Err(failure) => {
                        tally.failures += 1;
                        let say = || format!("power cut after entry {at}, lost {loss:?}: {failure}");
                        tally.first.get_or_insert_with(say);
                    }
                }
                if rng.in_range(0..cuts) < 3 {
                    left = Start { image, promises: promises.clone() };
                }
            }
        }
        (tally, left)
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

/// Cuts one recording after the other, and fails with the first cut that breaks a promise.
fn cut_many(rng: &mut Rng, cuts: usize, room: Option<u64>) {
    let readings = number("TAMPU_READINGS").unwrap_or(300) as usize;
    let mut start = Start::default();
    for part in (0..cuts).step_by(CUTS_A_RECORDING) {
        // Two times of three, go on with what a power cut left, so that recovery is cut off too.
        if (part / CUTS_A_RECORDING).is_multiple_of(3) {
            start = Start::default();
        }
        let recording = Recording::make(rng, readings, room, start);
        let begin = std::time::Instant::now();
        let cuts = CUTS_A_RECORDING.min(cuts - part);
        let (tally, left) = recording.cut(Syncs::All, cuts, rng);
        let calls = recording.entries.len();
        eprintln!("{cuts} cuts in {calls} calls, {} failures, {:.1?}", tally.failures, begin.elapsed());
        assert_eq!(tally.failures, 0, "{tally:?}");
        assert_eq!(room.is_some(), tally.made_room > 0, "{tally:?}");
        start = left;
    }
}

#[test]
fn no_power_cut_takes_an_acknowledged_reading_or_keeps_the_store_from_opening() {
    let cuts = number("TAMPU_CUTS").unwrap_or(300) as usize;
    cut_many(&mut Rng::from_env("power cuts"), cuts, None);
}

#[test]
fn a_power_cut_while_the_oldest_make_room_takes_no_other_reading() {
    let cuts = number("TAMPU_CUTS").unwrap_or(300) as usize / 3;
    cut_many(&mut Rng::from_env("power cuts, drop oldest"), cuts, Some(400_000));
}

#[test]
fn without_any_one_kind_of_sync_the_same_cuts_find_losses() {
    let mut rng = Rng::from_env("ignored syncs");
    let recording = Recording::make(&mut rng, 100, None, Start::default());
    for syncs in [Syncs::None, Syncs::OfFilesOnly, Syncs::OfDirectoriesOnly] {
        let (tally, _) = recording.cut(syncs, 30, &mut rng);
        eprintln!("{syncs:?}: {tally:?}");
        assert!(tally.failures > 0, "the cuts would not see it if the store left out syncs: {syncs:?}");
    }
}
