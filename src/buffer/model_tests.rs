//! Random actions against a plain model. A failure names its seed; `TAMPU_SEED=<seed>` replays it alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::tests::{ALL, conserved, settings, sink, stamp};
use super::*;
use crate::message::{DeviceId, Incoming, Qos};

const SEEDS: u64 = 10;
const STEPS: usize = 150;

/// xorshift64*.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }
}

struct Run {
    random: Random,
    root: tempfile::TempDir,
    opened: u64,
    dir: PathBuf,
    settings: config::Buffer,
    buffer: Option<Buffer>,
    writer: Option<Writer>,
    readers: BTreeMap<String, Reader>,
    /// What was submitted, by number; unacknowledged ones may go in a crash.
    submitted: Vec<Vec<u8>>,
    /// When the last of them is on disk.
    mark: Mark,
    acked: u64,
    /// Every name ever seen keeps its meaning.
    seen: BTreeMap<(u64, Seq), Vec<u8>>,
    settled: BTreeMap<String, BTreeSet<Seq>>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("0");
        Self {
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            root,
            opened: 0,
            dir,
            settings: settings(),
            buffer: None,
            writer: None,
            readers: BTreeMap::new(),
            submitted: Vec::new(),
            mark: Mark::default(),
            acked: 0,
            seen: BTreeMap::new(),
            settled: BTreeMap::new(),
        }
    }

    fn buffer(&self) -> &Buffer {
        self.buffer.as_ref().unwrap()
    }

    fn open(&mut self) {
        let mut sinks = vec![sink("cloud")];
        if self.random.below(3) > 0 {
            sinks.push(sink("lake"));
        }
        let (buffer, report) = Buffer::open(&self.dir, &self.settings, &sinks).unwrap();
        assert_eq!(report.findings, Vec::<String>::new());
        assert_eq!(report.gaps, []);
        let end = buffer.status().accepted;
        assert!(end >= self.acked, "{} were acknowledged, {end} are there", self.acked);
        assert!(end <= self.submitted.len() as u64);
        self.submitted.truncate(end as usize);
        self.acked = end;
        self.readers = sinks.iter().map(|name| (name.to_string(), buffer.reader(name).unwrap())).collect();
        self.mark = Mark::default();
        self.writer = Some(buffer.writer());
        self.buffer = Some(buffer);
    }

    fn really_settled(&self, name: &str) -> BTreeSet<Seq> {
        let book = self.buffer().0.0.ledger.book();
        let cursor = &book.sinks[&sink(name)].cursor;
        cursor.passed().as_slice().iter().flat_map(|(from, to)| *from..*to).collect()
    }

    fn submit(&mut self) {
        let device = DeviceId::parse("esp32-01").unwrap();
        for _ in 0..self.random.below(40) + 1 {
            let size = if self.random.below(60) == 0 { 20_000 } else { self.random.below(200) };
            let noisy = self.random.below(2) == 0;
            let payload: Vec<u8> =
                (0..size).map(|n| if noisy { self.random.below(256) as u8 } else { n as u8 }).collect();
            let wait = if self.random.below(2) == 0 { Wait::ForAck } else { Wait::Nobody };
            let incoming = Incoming {
                device: &device,
                stream: "soil",
                topic: "field/soil",
                payload: &payload,
                qos: Qos::AtLeastOnce,
                received: stamp(self.submitted.len() as u64),
                fault: None,
            };
            match self.writer.as_mut().unwrap().submit(Some(&incoming), Vec::new(), wait) {
                Ok(Receipt { mark, seq }) => {
                    self.mark = mark;
                    self.submitted.push(payload);
                    assert_eq!(seq, Some(self.submitted.len() as u64));
                }
                Err(error) => assert_eq!(error, SubmitError::Full),
            }
        }
    }

    async fn sync(&mut self) {
        self.writer.as_mut().unwrap().until_durable(self.mark).await.unwrap();
        self.acked = self.submitted.len() as u64;
    }

    async fn read_and_settle(&mut self) {
        let names: Vec<_> = self.readers.keys().cloned().collect();
        let name = names[self.random.below(names.len() as u64) as usize].clone();
        let limits = Limits {
            max_readings: self.random.below(300) as usize + 1,
            max_bytes: self.random.below(50_000) as usize,
        };
        let mut reader = self.readers.remove(&name).unwrap();
        if self.random.below(4) == 0 {
            reader.split_live();
        }
        let readings = reader.peek(limits).await.unwrap();
        if readings.is_empty() {
            assert_eq!(reader.pending(), 0, "{name} has something to read");
        }
        let settled = self.settled.entry(name.clone()).or_default();
        let mut outcomes = Vec::new();
        for reading in &readings {
            let payload = &self.submitted[reading.seq as usize - 1];
            assert_eq!(reading.payload, payload, "{}", reading.seq);
            assert!(!settled.contains(&reading.seq), "{} was settled", reading.seq);
            assert_eq!(reading.received, stamp(reading.seq - 1));
            let known = self.seen.entry((reading.epoch, reading.seq)).or_insert_with(|| payload.clone());
            assert_eq!(known, payload);
            let outcome = match self.random.below(12) {
                0 => continue,
                1 => Outcome::Dropped(DropReason::Collision),
                2 => Outcome::DeadLetter("refused".to_owned()),
                _ => Outcome::Delivered,
            };
            outcomes.push((reading.seq, outcome));
        }
        let steps_back = readings.windows(2).filter(|pair| pair[0].seq >= pair[1].seq).count();
        assert!(steps_back <= 1, "the live readings and the backlog are each in order");
        reader.settle(&outcomes).await.unwrap();
        settled.extend(outcomes.iter().map(|(seq, _)| *seq));
        self.readers.insert(name, reader);
    }

    async fn close_and_open(&mut self) {
        self.buffer().close().await;
        self.acked = self.submitted.len() as u64;
        let before = std::mem::take(&mut self.settled);
        self.drop_handles();
        self.open();
        for name in self.readers.keys().cloned().collect::<Vec<_>>() {
            let now = self.really_settled(&name);
            let kept = before.get(&name).is_none_or(|before| before.is_subset(&now));
            assert!(kept, "{name} forgot what was settled");
            self.settled.insert(name, now);
        }
    }

    async fn crash_and_open(&mut self) {
        self.buffer().crash().await;
        self.drop_handles();
        self.opened += 1;
        let copy = self.root.path().join(self.opened.to_string());
        copy_dir(&self.dir, &copy);
        std::fs::remove_dir_all(&self.dir).unwrap();
        self.dir = copy;
        let before = std::mem::take(&mut self.settled);
        self.open();
        let may_drop = self.settings.max_bytes < 1_000_000_000;
        for name in self.readers.keys().cloned().collect::<Vec<_>>() {
            let now = self.really_settled(&name);
            if let (Some(before), false, 2) = (before.get(&name), may_drop, self.readers.len()) {
                assert!(now.is_subset(before), "{name} has settled what was not");
            }
            self.settled.insert(name, now);
        }
    }

    fn drop_handles(&mut self) {
        self.readers.clear();
        self.writer = None;
        self.buffer = None;
    }

    async fn step(&mut self) {
        match self.random.below(20) {
            0..=6 => self.submit(),
            7..=9 => self.sync().await,
            10..=16 => self.read_and_settle().await,
            17 => self.close_and_open().await,
            18 => self.crash_and_open().await,
            _ => {
                let small = self.random.below(3) == 0;
                self.settings.max_bytes = if small { 300_000 } else { u64::MAX };
                self.close_and_open().await;
            }
        }
        conserved(self.buffer());
        // What the caps dropped is settled, too.
        for name in self.readers.keys().cloned().collect::<Vec<_>>() {
            let now = self.really_settled(&name);
            self.settled.insert(name, now);
        }
    }

    /// At the end everything that is pending can be read, and is what was submitted.
    async fn drain(&mut self) {
        self.sync().await;
        for (name, mut reader) in std::mem::take(&mut self.readers) {
            loop {
                let readings = reader.peek(ALL).await.unwrap();
                if readings.is_empty() {
                    break;
                }
                for reading in &readings {
                    assert_eq!(reading.payload, self.submitted[reading.seq as usize - 1]);
                }
                let outcomes: Vec<_> = readings.iter().map(|r| (r.seq, Outcome::Delivered)).collect();
                reader.settle(&outcomes).await.unwrap();
            }
            assert_eq!(self.buffer().status().sinks[&name].pending, 0);
        }
        conserved(self.buffer());
        self.buffer().close().await;
    }
}

impl Buffer {
    /// Ends the thread as if the process had been killed; the files stay as they are.
    pub(super) async fn crash(&self) {
        self.0.0.faults.crash.store(true, std::sync::atomic::Ordering::SeqCst);
        self.0.0.intake.poke();
        let mut ends = self.0.0.ends.clone();
        while ends.changed().await.is_ok() {}
    }
}

pub(super) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn run(seed: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        println!("TAMPU_SEED={seed}");
        let mut run = Run::new(seed);
        run.open();
        for _ in 0..STEPS {
            run.step().await;
        }
        run.drain().await;
    });
}

#[test]
fn random_actions_agree_with_a_plain_model() {
    match std::env::var("TAMPU_SEED") {
        Ok(seed) => run(seed.parse().unwrap()),
        Err(_) => {
            let first = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0) >> 16;
            (first..first + SEEDS).for_each(run);
        }
    }
}
