//! Flipped bits, cut, zeroed and missing files: the store opens, tells the gap, and goes on.

use std::collections::BTreeMap;

use super::check::{Excuse, Promises, check};
use super::driver::{End, Plan, command};
use super::random::{Rng, number};
use super::replay::Image;
use super::scratch;

const ONE_BIT: &str = "bit flipped";
/// A block of 256 readings, for each of the two sinks.
const MOST_FOR_ONE_BIT: u64 = 2 * 256;

/// A store at rest, and what it promised.
struct Specimen {
    image: Image,
    promises: Promises,
}

impl Specimen {
    /// A store after some runs, the last of which ends in this way.
    fn make(rng: &mut Rng, last: End) -> Self {
        let home = scratch();
        let (disk, marks) = (home.path().join("disk"), home.path().join("marks"));
        std::fs::create_dir(&disk).unwrap();
        for (run, end) in [End::Abort, End::Close, last].into_iter().enumerate() {
            let plan = Plan { run: rng.next() >> 44 << 2 | run as u64, readings: 400, end, room: None };
            let output = command(&disk, &marks, plan).output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.success(), end == End::Close, "{}: {text}", output.status);
        }
        let specimen = Self { image: Image::of(&disk), promises: Promises::read(&marks) };
        check(&disk, &specimen.promises, Excuse::None).unwrap();
        specimen
    }
}

/// Damages a file, and says how: by kind, and exactly. `None` removes it.
fn damage(content: &[u8], rng: &mut Rng) -> (&'static str, String, Option<Vec<u8>>) {
    let mut damaged = content.to_vec();
    if content.is_empty() {
        return match rng.in_range(0..2) {
            0 => ("removed", String::new(), None),
            _ => ("noise", "100 bytes in an empty file".to_owned(), Some(rng.bytes(100))),
        };
    }
    let at = place(content, rng);
    let len = rng.in_range(1..8_192).min(content.len() - at);
    let (kind, how) = match rng.in_range(0..12) {
        0..4 => {
            let bit = rng.in_range(0..8);
            damaged[at] ^= 1 << bit;
            (ONE_BIT, format!("bit {bit} of byte {at}"))
        }
        4..6 => {
            for _ in 0..30 {
                let at = place(content, rng);
                damaged[at] ^= 1 << rng.in_range(0..8);
            }
            ("30 bits flipped", String::new())
        }
        6..8 => {
            damaged[at..at + len].fill(0);
            ("zeroed", format!("{len} bytes at {at}"))
        }
        8 => {
            let noise = rng.bytes(len);
            damaged[at..at + len].copy_from_slice(&noise);
            ("noise", format!("{len} bytes at {at}"))
        }
        9 | 10 => {
            // When next to nothing is left of the data file, the records of what was removed are rarely all there.
            let most = if rng.percent(50) { content.len() } else { content.len().min(64 * 1024) };
            let len = if rng.percent(10) { 0 } else { rng.in_range(0..most) };
            damaged.truncate(len);
            ("cut", format!("to {len} of {} bytes", content.len()))
        }
        _ => return ("removed", String::new(), None),
    };
    (kind, how, Some(damaged))
}

/// Anywhere, but rather where something is: much of the data file may be empty.
fn place(content: &[u8], rng: &mut Rng) -> usize {
    let places = std::iter::repeat_with(|| rng.in_range(0..content.len())).take(20);
    let places: Vec<usize> = places.collect();
    places.iter().copied().find(|at| content[*at] != 0).unwrap_or(places[0])
}

/// What damage to a kind of file cost.
#[derive(Debug, Default)]
struct Tally {
    cases: usize,
    with_losses: usize,
    /// Readings, counted for each sink.
    lost: u64,
    read: u64,
}

#[test]
fn damage_to_any_file_costs_no_more_than_the_store_says_and_never_the_start() {
    let mut rng = Rng::from_env("damage");
    let cases = number("TAMPU_DAMAGES").unwrap_or(240) as usize;
    let specimens = [Specimen::make(&mut rng, End::Close), Specimen::make(&mut rng, End::Abort)];
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    for case in 0..cases {
        let specimen = &specimens[case % 2];
        // Every kind of file in turn; every second time the data file, where the readings are.
        let names: Vec<&String> = specimen.image.files.keys().collect();
        let data = names.iter().find(|name| name.ends_with("/db"));
        let name = if case % 4 < 2 { data.unwrap_or(&names[0]) } else { names[case / 4 % names.len()] };
        let (kind, how, content) = damage(&specimen.image.files[name], &mut rng);
        let disk = scratch();
        specimen.image.write(disk.path());
        match content {
            Some(content) => std::fs::write(disk.path().join(name), content).unwrap(),
            None => std::fs::remove_file(disk.path().join(name)).unwrap(),
        }
        let found = check(disk.path(), &specimen.promises, Excuse::Gap)
            .unwrap_or_else(|failure| panic!("case {case}: {name}: {kind} {how}: {failure}"));
        let report = &found.report;
        let said = !report.findings.is_empty() || !found.gaps.is_empty();
        let case = format!("case {case}: {name}: {kind} {how}: {} readings lost", found.missing);
        assert!(found.missing == 0 || said, "{case}: nothing is said about it: {report:?}");
        assert!(kind != ONE_BIT || found.missing <= MOST_FOR_ONE_BIT, "{case}");
        let file = name.split_once("snap.").map_or(name.as_str(), |_| "buffer/store/snap.*");
        let tally = tallies.entry(format!("{file} {kind}")).or_default();
        tally.cases += 1;
        tally.with_losses += usize::from(found.missing > 0);
        tally.lost += found.missing;
        tally.read += found.read as u64;
    }
    for (what, tally) in tallies {
        eprintln!("{what}: {tally:?}");
    }
}
