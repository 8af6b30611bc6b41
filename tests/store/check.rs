//! What must be true of a store that is opened again, whatever happened to it.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::{Duration, Instant};

use tampu::buffer::{Buffer, DropReason, Limits, OpenReport, Outcome, Reader, Status};
use tampu::message::{Qos, Reading, Seq};

use super::driver::{Key, SINKS, settings, sink, store};
use super::records::{self, Who};

/// The run of the readings that a check itself appends.
const OWN_RUN: u64 = 1 << 20;

/// What the driver was promised up to some moment, from its marks.
#[derive(Debug, Default, Clone)]
pub(super) struct Promises {
    /// Numbers that were given out.
    submitted: BTreeMap<Key, Seq>,
    /// Readings that may be acknowledged: on disk, says the store.
    pub durable: BTreeMap<Key, Seq>,
    /// By sink: what may have been settled, and need not be read again.
    settling: BTreeMap<String, BTreeSet<Key>>,
    /// By sink: what was settled before a store was closed, and must not be read again.
    settled: BTreeMap<String, BTreeSet<Key>>,
    /// The same, before it was closed.
    settled_now: BTreeMap<String, BTreeSet<Key>>,
    /// Changes without a reading, by writer: the last that was submitted, and the last on disk.
    changing: BTreeMap<Who, u64>,
    changed: BTreeMap<Who, u64>,
    /// The epoch of each run, once a reader saw it.
    epochs: BTreeMap<u64, u64>,
    /// What the driver itself saw going wrong.
    pub complaints: Vec<String>,
    /// Times that there was no room.
    pub full: usize,
    /// The run that opened the store last.
    pub opened: Option<u64>,
}

/// Why an acknowledged reading may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excuse {
    None,
    /// No reason; but a gap may tell of readings in a group that was cut off by an error, before any ack.
    NoneOfThoseAcked,
    /// Files were damaged, and the store reports the reading as lost.
    Gap,
    /// `drop_oldest` made room: it is older than everything that is left, and counted.
    Oldest,
}

/// What a check found out, beside that all is well.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub report: OpenReport,
    /// All that were reported, when everything had been read.
    pub gaps: Vec<(Seq, Seq)>,
    /// Acknowledged and unsettled readings that are missing, all of them excused.
    pub missing: u64,
    pub read: usize,
    epochs: BTreeSet<u64>,
}

impl Promises {
    /// Takes one or more whole lines.
    pub(super) fn hear(&mut self, marks: &str) {
        for line in marks.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[0] {
                "submitted" => drop(self.submitted.insert(key(&words[1..4]), words[4].parse().unwrap())),
                "durable" => drop(self.durable.insert(key(&words[1..4]), words[4].parse().unwrap())),
                "changing" => drop(self.changing.insert(who(&words[1..3]), words[3].parse().unwrap())),
                "changed" => drop(self.changed.insert(who(&words[1..3]), words[3].parse().unwrap())),
                "settling" => self.settle(words[1], &words[2..]),
                "full" => self.full += 1,
                "opened" => {
                    self.opened = Some(words[1].parse().unwrap());
                    // Cursors that the run before did not get to disk stand where they stood.
                    self.settled_now.clear();
                    if !line.ends_with("gaps []") {
                        self.complaints.push(line.to_owned());
                    }
                }
                "settled" => {
                    let settled = self.settled_now.entry(words[1].to_owned()).or_default();
                    settled.extend(words[2..].iter().map(|item| parse_item(item).0));
                }
                "ended" => self.end(words[1].parse().unwrap()),
                "closed" => {}
                _ => self.complaints.push(line.to_owned()),
            }
        }
    }

    /// The marks that a driver left, without a line that was cut off when it died.
    pub(super) fn read(path: &Path) -> Self {
        let text = String::from_utf8(std::fs::read(path).unwrap_or_default()).unwrap();
        let mut promises = Self::default();
        promises.hear(text.rsplit_once('\n').map_or("", |(whole, _)| whole));
        promises
    }

    fn settle(&mut self, sink: &str, items: &[&str]) {
        let settled = self.settling.entry(sink.to_owned()).or_default();
        for item in items {
            let (key, epoch) = parse_item(item);
            settled.insert(key);
            let known = *self.epochs.entry(key.run).or_insert(epoch);
            if known != epoch {
                self.complaints.push(format!("run {} has the epochs {known} and {epoch}", key.run));
            }
        }
    }

    /// A buffer that was closed has everything on disk: readings that nobody waited for, and all cursors.
    fn end(&mut self, run: u64) {
        let all = self.submitted.iter().filter(|(key, _)| key.run == run);
        self.durable.extend(all.map(|(key, seq)| (*key, *seq)));
        let changed = self.changing.iter().filter(|((of, _), _)| *of == run);
        self.changed.extend(changed.map(|(who, count)| (*who, *count)));
        for (sink, keys) in std::mem::take(&mut self.settled_now) {
            self.settled.entry(sink).or_default().extend(keys);
        }
    }
}

/// A key and its epoch.
fn parse_item(item: &str) -> (Key, u64) {
    let numbers: Vec<&str> = item.split(',').collect();
    (key(&numbers), numbers[3].parse().unwrap())
}

fn who(words: &[&str]) -> Who {
    (words[0].parse().unwrap(), words[1].parse().unwrap())
}

fn key(words: &[&str]) -> Key {
    let number = |at: usize| words[at].parse().unwrap();
    Key { run: number(0), writer: number(1), count: number(2) }
}

/// Opens the store below `disk` and checks every promise on it; then that it takes new readings, twice.
///
/// # Errors
/// The first thing that is wrong, in words.
pub(super) fn check(disk: &Path, promises: &Promises, excuse: Excuse) -> Result<Found, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let checking = async {
        let found = first_opening(disk, promises, excuse).await?;
        second_opening(disk).await?;
        Ok(found)
    };
    let bounded = async { tokio::time::timeout(Duration::from_secs(120), checking).await };
    match std::panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(bounded))) {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err("the store hangs".to_owned()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            Err(format!("panic: {}", text.unwrap_or_else(|| "without a text".to_owned())))
        }
    }
}

async fn first_opening(disk: &Path, promises: &Promises, excuse: Excuse) -> Result<Found, String> {
    if let Some(complaint) = promises.complaints.first() {
        return Err(format!("the driver says: {complaint}"));
    }
    let (buffer, report) = open(disk)?;
    if matches!(excuse, Excuse::None | Excuse::Oldest) && !report.gaps.is_empty() {
        return Err(format!("gaps {:?}: {:?}", report.gaps, report.findings));
    }
    conserved(&buffer.status())?;
    let epochs = promises.epochs.values().copied().collect();
    let records = records::Found::read(&buffer).await?;
    remembered(&records, promises, excuse)?;
    let mut found = Found { report, epochs, ..Found::default() };
    for name in SINKS {
        audit(&buffer, name, promises, &records, excuse, &mut found).await?;
    }
    found.gaps = buffer.status().gaps;
    append(&buffer, 0).await?;
    for name in SINKS {
        let reader = buffer.reader(&sink(name));
        let new = peek(&mut reader.ok_or("a reader that was dropped cannot be taken again")?).await?;
        if new.len() != 3 {
            return Err(format!("not three new readings, but {new:?}"));
        }
        let epoch = new[0].epoch;
        let is_new = if excuse == Excuse::Gap {
            !found.epochs.contains(&epoch)
        } else {
            found.epochs.last() < Some(&epoch)
        };
        if !is_new || new.iter().any(|reading| reading.epoch != epoch) {
            return Err(format!("epoch {epoch} is not a new one after {:?}", found.epochs));
        }
        let taken = promises.durable.values().copied().max().unwrap_or(0);
        if excuse != Excuse::Gap && new[0].seq <= taken {
            return Err(format!("number {} is given out again after {taken}", new[0].seq));
        }
    }
    buffer.close().await;
    Ok(found)
}

/// Whether the records are those of one moment, which is not before anything that was acknowledged.
fn remembered(records: &records::Found, promises: &Promises, excuse: Excuse) -> Result<(), String> {
    if excuse == Excuse::Gap {
        return Ok(());
    }
    // After an error the store may have been rebuilt without its index: then what was removed comes back.
    records.is_of_one_moment(excuse == Excuse::NoneOfThoseAcked)?;
    for key in promises.durable.keys() {
        let last = records.progress.get(&key.who());
        if last.is_none_or(|last| *last < key.count) {
            return Err(format!("{key:?} is acknowledged, but the records of its writer end at {last:?}"));
        }
    }
    for (who, count) in &promises.changed {
        let last = records.alone.get(who);
        if last.is_none_or(|last| last < count) {
            return Err(format!("change {count} of {who:?} is acknowledged, but the last one is {last:?}"));
        }
    }
    Ok(())
}

/// Whether no reading is there without its records, nor they without it.
fn together(
    records: &records::Found,
    stored: &BTreeSet<Key>,
    is_there: impl Fn(&Key) -> bool,
) -> Result<(), String> {
    let last = |key: &Key| records.progress.get(&key.who()).copied();
    if let Some(key) = stored.iter().find(|key| last(key).is_none_or(|last| last < key.count)) {
        return Err(format!("{key:?} is there without its records, which end at {:?}", last(key)));
    }
    for ((run, writer), last) in &records.progress {
        let mut keys = (0..=*last).map(|count| Key { run: *run, writer: *writer, count });
        if let Some(key) = keys.find(|key| !is_there(key)) {
            return Err(format!("{key:?} is not there, but its records are"));
        }
    }
    Ok(())
}

/// Reads and settles everything that waits for a sink, and compares it with what was promised.
async fn audit(
    buffer: &Buffer,
    name: &str,
    promises: &Promises,
    records: &records::Found,
    excuse: Excuse,
    found: &mut Found,
) -> Result<(), String> {
    let before = figures(buffer, name);
    let mut reader = buffer.reader(&sink(name)).ok_or("a configured sink has no reader")?;
    let readings = drain(&mut reader).await?;
    let gaps = buffer.status().gaps;
    if before.pending != readings.len() as u64 && gaps.is_empty() {
        return Err(format!("{} pending at {name}, but {} can be read", before.pending, readings.len()));
    }
    let stored = identify(&readings, promises)?;
    let settled = promises.settling.get(name);
    if excuse == Excuse::None {
        let is_there =
            |key: &Key| stored.contains(key) || settled.is_some_and(|settled| settled.contains(key));
        together(records, &stored, is_there)?;
    }
    let mut missing = 0;
    for (key, seq) in &promises.durable {
        if stored.contains(key) || settled.is_some_and(|settled| settled.contains(key)) {
            continue;
        }
        let excused = match excuse {
            Excuse::None | Excuse::NoneOfThoseAcked => false,
            Excuse::Gap => gaps.iter().any(|(first, last)| (first..=last).contains(&seq)),
            Excuse::Oldest => readings.first().is_none_or(|oldest| *seq < oldest.seq),
        };
        if !excused {
            let what = format!("acknowledged, but gone from {name}: {key:?}, number {seq}");
            return Err(format!("{what}; {:?}, gaps {gaps:?}", found.report));
        }
        missing += 1;
    }
    let counted = before.dropped.get(&DropReason::BufferFull).copied().unwrap_or(0);
    if excuse == Excuse::Oldest && counted < missing {
        return Err(format!("{missing} readings made room at {name}, but {counted} are counted"));
    }
    let done = promises.settled.get(name).filter(|_| excuse != Excuse::Gap);
    if let Some(again) = done.and_then(|done| done.intersection(&stored).next()) {
        return Err(format!("{again:?} is given to {name} again, although it was settled before a close"));
    }
    conserved(&buffer.status())?;
    let left = figures(buffer, name).pending;
    if left != 0 {
        return Err(format!("still {left} pending at {name} when all is settled"));
    }
    found.missing += missing;
    found.read += readings.len();
    found.epochs.extend(readings.iter().map(|reading| reading.epoch));
    Ok(())
}

/// Once more, without a crash in between: the three new readings, and room for three more.
async fn second_opening(disk: &Path) -> Result<(), String> {
    let (buffer, _) = open(disk)?;
    conserved(&buffer.status())?;
    append(&buffer, 3).await?;
    for name in SINKS {
        let mut reader = buffer.reader(&sink(name)).ok_or("a configured sink has no reader")?;
        let readings = drain(&mut reader).await?;
        let counts: Vec<_> =
            readings.iter().filter_map(|reading| Some(Key::of(&reading.payload)?.count)).collect();
        if counts != [0, 1, 2, 3, 4, 5] {
            return Err(format!("reopened, {name} reads {counts:?} instead of the six new readings"));
        }
    }
    conserved(&buffer.status())?;
    buffer.close().await;
    Ok(())
}

fn open(disk: &Path) -> Result<(Buffer, OpenReport), String> {
    Buffer::open(&store(disk), &settings(), &SINKS.map(sink))
        .map_err(|error| format!("does not open: {error}"))
}

/// P2, for every sink, with figures of one instant.
pub(super) fn conserved(status: &Status) -> Result<(), String> {
    for (name, sink) in &status.sinks {
        let dropped: u64 = sink.dropped.values().sum();
        if sink.accepted != sink.delivered + sink.pending + dropped {
            return Err(format!("not conserved at {name}: {sink:?}"));
        }
    }
    Ok(())
}

fn figures(buffer: &Buffer, name: &str) -> tampu::buffer::SinkFigures {
    buffer.status().sinks[name].clone()
}

/// What a sink is given next: nothing only if nothing waits, or if a store that repairs itself takes too long.
async fn peek(reader: &mut Reader) -> Result<Vec<Reading>, String> {
    let limits = Limits { max_readings: 2_000, max_bytes: 4 << 20 };
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let readings = reader.peek(limits).await.map_err(|error| error.to_string())?;
        if !readings.is_empty() || reader.pending() == 0 || Instant::now() > deadline {
            return Ok(readings);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Everything that is pending, settled on the way.
async fn drain(reader: &mut Reader) -> Result<Vec<Reading>, String> {
    let mut all: Vec<Reading> = Vec::new();
    loop {
        let some = peek(reader).await?;
        if some.is_empty() {
            return Ok(all);
        }
        let outcomes: Vec<_> = some.iter().map(|reading| (reading.seq, Outcome::Delivered)).collect();
        reader.settle(&outcomes).await.map_err(|error| error.to_string())?;
        all.extend(some);
    }
}

/// Whether readings are what was submitted, each once.
fn identify(readings: &[Reading], promises: &Promises) -> Result<BTreeSet<Key>, String> {
    let mut stored = BTreeSet::new();
    let mut last = 0;
    for reading in readings {
        let seq = reading.seq;
        let key = Key::of(&reading.payload).ok_or_else(|| format!("wrong content in number {seq}"))?;
        if seq <= last {
            return Err(format!("number {seq} comes after {last}"));
        }
        last = seq;
        if !stored.insert(key) {
            return Err(format!("{key:?} is stored twice"));
        }
        let known = promises.submitted.get(&key).or(promises.durable.get(&key));
        if known.is_some_and(|known| *known != seq) {
            return Err(format!("{key:?} was number {known:?} and is {seq}"));
        }
        if promises.epochs.get(&key.run).is_some_and(|epoch| *epoch != reading.epoch) {
            return Err(format!("{key:?} changed its epoch to {}", reading.epoch));
        }
        let same = reading.device == key.device()
            && *reading.topic == *key.topic()
            && *reading.stream == *"all"
            && reading.received == key.stamp()
            && reading.fault.is_none();
        if !same {
            return Err(format!("something other than the payload is wrong: {reading:?}"));
        }
    }
    Ok(stored)
}

async fn append(buffer: &Buffer, first: u64) -> Result<(), String> {
    let mut writer = buffer.writer();
    for count in first..first + 3 {
        let key = Key { run: OWN_RUN, writer: 0, count };
        let (device, topic, payload) = (key.device(), key.topic(), key.payload());
        let reading = key.reading(&device, &topic, &payload, Qos::AtLeastOnce);
        writer.append(&reading).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}
