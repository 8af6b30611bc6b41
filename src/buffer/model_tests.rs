//! Random actions against a plain model. A failure names its seed; `TAMPU_SEED=<seed>` replays it alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::tests::{ALL, conserved, settings, sink, stamp};
use super::*;
use crate::message::{DeviceId, Incoming, Qos};

const SEEDS: u64 = 10;
const STEPS: usize = 150;
/// Records that are changed.
const KEYS: u64 = 20;

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

type Records = BTreeMap<u64, Vec<u8>>;

fn apply(records: &mut Records, changes: &[Change]) {
    for change in changes {
        match change {
            Change::Put(key, value) => drop(records.insert(number(key), value.clone())),
            Change::Remove(key) => drop(records.remove(&number(key))),
        }
    }
}

fn number(key: &RecordKey) -> u64 {
    (0..KEYS).find(|n| *key == record_key(*n)).unwrap()
}

fn record_key(n: u64) -> RecordKey {
    RecordKey::new(Table::Session, &n.to_be_bytes())
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
    /// The records when the last group was acknowledged, and what was submitted since: whether with a reading, and changes.
    records: Records,
    pending: Vec<(bool, Vec<Change>)>,
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
            records: Records::new(),
            pending: Vec::new(),
            seen: BTreeMap::new(),
            settled: BTreeMap::new(),
        }
    }

    fn buffer(&self) -> &Buffer {
        self.buffer.as_ref().unwrap()
    }

    /// `clean`: nothing went wrong before.
    async fn open(&mut self, clean: bool) {
        let mut sinks = vec![sink("cloud")];
        if self.random.below(3) > 0 {
            sinks.push(sink("lake"));
        }
        let (buffer, report) = Buffer::open(&self.dir, &self.settings, &sinks).unwrap();
        assert!(!clean || report.findings.is_empty(), "{report:?}");
        assert_eq!(report.gaps, []);
        let end = buffer.status().accepted;
        assert!(end >= self.acked, "{} were acknowledged, {end} are there", self.acked);
        assert!(end <= self.submitted.len() as u64);
        self.check_records(&buffer, end).await;
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

    /// The readings and the records are those of one moment, which is not before the last ack.
    async fn check_records(&mut self, buffer: &Buffer, end: Seq) {
        let found = buffer.records(Table::Session).await.unwrap();
        let found: Records = found
            .into_iter()
            .map(|(key, value)| (Seq::from_be_bytes((*key).try_into().unwrap()), value))
            .collect();
        let (mut records, mut readings) = (std::mem::take(&mut self.records), self.acked);
        let mut pending = std::mem::take(&mut self.pending).into_iter();
        while (readings, &records) != (end, &found) {
            let Some((reading, changes)) = pending.next() else {
                panic!("{end} readings are there; {:?} of {:?}", found.keys(), records.keys());
            };
            readings += u64::from(reading);
            apply(&mut records, &changes);
        }
        self.records = found;
    }

    fn changes(&mut self) -> Vec<Change> {
        let count = self.random.below(4);
        let mut change = || {
            let key = record_key(self.random.below(KEYS));
            let size = if self.random.below(40) == 0 { 15_000 } else { self.random.below(100) };
            match self.random.below(3) {
                0 => Change::Remove(key),
                _ => Change::Put(key, (0..size).map(|_| self.random.below(256) as u8).collect()),
            }
        };
        (0..count).map(|_| change()).collect()
    }

    fn submit(&mut self) {
        let most = self.random.below(40) + 1;
        self.submit_some(most);
    }

    fn submit_some(&mut self, count: u64) {
        let device = DeviceId::parse("esp32-01").unwrap();
        for _ in 0..count {
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
            let (changes, alone) = (self.changes(), self.random.below(5) == 0);
            let reading = (!alone).then_some(&incoming);
            match self.writer.as_mut().unwrap().submit(reading, changes.clone(), wait) {
                Ok(Receipt { mark, seq }) => {
                    self.mark = self.mark.max(mark);
                    self.pending.push((!alone, changes));
                    if !alone {
                        self.submitted.push(payload);
                    }
                    assert_eq!(seq, (!alone).then_some(self.submitted.len() as u64));
                }
                Err(error) => assert_eq!(error, SubmitError::Full),
            }
        }
    }

    async fn sync(&mut self) {
        self.writer.as_mut().unwrap().until_durable(self.mark).await.unwrap();
        self.acknowledge();
    }

    fn acknowledge(&mut self) {
        self.acked = self.submitted.len() as u64;
        for (_, changes) in self.pending.drain(..) {
            apply(&mut self.records, &changes);
        }
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
        self.acknowledge();
        let before = std::mem::take(&mut self.settled);
        self.drop_handles();
        self.open(true).await;
        for name in self.readers.keys().cloned().collect::<Vec<_>>() {
            let now = self.really_settled(&name);
            let kept = before.get(&name).is_none_or(|before| before.is_subset(&now));
            assert!(kept, "{name} forgot what was settled");
            self.settled.insert(name, now);
        }
    }

    /// The disk fails while a long group comes in; then the store recovers, or the process dies on the way.
    async fn stumble(&mut self) {
        let count = self.random.below(3_000);
        self.buffer().0.0.faults.sync.store(true, std::sync::atomic::Ordering::SeqCst);
        self.submit_some(count / 2 + 1);
        while self.buffer().status().trouble.is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        self.submit_some(count / 2);
        if self.random.below(2) == 0 {
            let moment = self.random.below(200);
            tokio::time::sleep(std::time::Duration::from_millis(moment)).await;
            return self.crash_and_open(false).await;
        }
        self.buffer().0.0.faults.sync.store(false, std::sync::atomic::Ordering::SeqCst);
        self.sync().await;
        let (buffer, end) = (self.buffer().clone(), self.submitted.len() as u64);
        self.check_records(&buffer, end).await;
    }

    async fn crash_and_open(&mut self, clean: bool) {
        self.buffer().crash().await;
        self.drop_handles();
        self.opened += 1;
        let copy = self.root.path().join(self.opened.to_string());
        copy_dir(&self.dir, &copy);
        std::fs::remove_dir_all(&self.dir).unwrap();
        self.dir = copy;
        let before = std::mem::take(&mut self.settled);
        self.open(clean).await;
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
            18 => self.crash_and_open(true).await,
            19 if self.random.below(5) == 0 => self.stumble().await,
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
        run.open(true).await;
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
