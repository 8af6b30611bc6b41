//! What can be had from a store that cannot be trusted: every sound frame in any of its files.
//!
//! The damaged store is set aside, scanned without the help of its own index, and copied into a fresh one, which
//! takes its place by a rename: a crash on the way starts over. All that is lost is named; what was delivered may be
//! named with it where the records of that are gone, too.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::block::{self, Header};
use super::cursor::Cursor;
use super::disk::{Disk, Tail};
use super::frame::{self, Fields, Frame, Kind, MAGIC, MAX_VALUE, key};
use super::group::Group;
use super::ledger::{Book, State};
use super::ranges::Ranges;
use super::record;
use super::store::{Batch, Store, StoreError};
use super::survivors::{self, Survivors};
use super::watchdog;
use crate::config::SinkName;
use crate::message::Seq;

const CHUNK: usize = 1024 * 1024;
/// The unit of what a disk cannot read.
const SECTOR: usize = 4096;
const BATCH_BYTES: usize = 256 * 1024;
/// The store's files grow to a multiple of what is put in.
const GROWTH: u64 = 3;

/// Where the best frame for a key is.
#[derive(Debug, Clone, Copy)]
struct Found {
    file: usize,
    offset: u64,
    size: usize,
    /// Among several for one key the highest is taken.
    rank: (u64, u64),
    /// Readings in a block and parts of it; 0 for all else.
    count: u32,
    parts: u16,
}

/// A store that was rebuilt.
#[derive(Debug)]
pub(super) struct Rebuilt {
    pub(super) store: Store,
    pub(super) state: State,
    /// Ranges, half-open, that were accepted and are nowhere to be found.
    pub(super) lost: Vec<(Seq, Seq)>,
    /// For people.
    pub(super) findings: Vec<String>,
}

/// Rebuilds the store. With `acked`, it holds no more than that: what comes behind is still in memory, the first of it
/// in the group that is `held`. `tip` is what the newest part of the data file held before the store was opened.
///
/// `sinks` are those that matter: without a state record, what they all have passed does not count as lost.
pub(super) fn rebuild(
    disk: &Disk,
    sinks: &[SinkName],
    acked: Option<Tail>,
    held: Option<&Group>,
    why: &str,
    tip: &[(u64, Vec<u8>)],
) -> Result<Rebuilt, StoreError> {
    if disk.store().exists() {
        prepare(disk, acked, held, tip)?;
    }
    let aside = disk.set_aside()?;
    let acked = acked.or_else(|| Disk::rebuild_end(aside.as_ref()?));
    disk.drop_ballast();
    let target = disk.rebuild();
    if target.exists() {
        fs::remove_dir_all(&target)?;
    }
    let mut findings = vec![format!("the store was damaged: {why}")];
    let survivors = Survivors::find(aside.as_deref(), acked.map(|acked| acked.generation));
    let mut source = Source::default();
    if let Some(aside) = &aside {
        findings.push(format!("it was set aside as {}", aside.display()));
        for path in files_in(aside)? {
            let file = File::open(&path)?;
            scan(&file, |offset, frame| source.note(offset, frame, &survivors))?;
            source.files.push(file);
        }
    }
    findings.extend(source.missing_records(sinks));
    if survivors.are_guessed() && source.bytes_of(record::PREFIX) > 0 {
        findings
            .push("records of sessions that were removed may have come back: the index is gone".to_owned());
    }
    let store = Store::open(&target)?;
    let (state, lost) = source.copy_into(&store, disk, sinks, acked.map(|acked| acked.end))?;
    store.sync(disk)?;
    store.discard();
    disk.install()?;
    disk.set_tail(Tail { end: state.end, epoch: state.epoch, generation: state.generation });
    let kept = state.end - 1 - state.removed.total_within(1, state.end);
    findings.push(format!("{kept} readings were recovered"));
    let store = Store::open(&disk.store())?;
    Ok(Rebuilt { store, state, lost, findings })
}

/// Puts beside the files what a later attempt needs, if this one is interrupted.
fn prepare(disk: &Disk, acked: Option<Tail>, held: Option<&Group>, tip: &[(u64, Vec<u8>)]) -> io::Result<()> {
    for (offset, bytes) in tip {
        keep_tip(&disk.store().join(format!("db.{offset}")), bytes)?;
    }
    if let Some(acked) = acked {
        survivors::prepare(&disk.store(), held)?;
        disk.set_rebuild_end(acked)?;
    }
    File::open(disk.store())?.sync_all()
}

/// What an earlier attempt has kept is nearer to the truth.
fn keep_tip(path: &Path, bytes: &[u8]) -> io::Result<()> {
    watchdog::step("keeping the newest part of the damaged store");
    match File::create_new(path) {
        Ok(mut file) => file.write_all(bytes).and_then(|()| file.sync_all()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[derive(Debug, Default)]
struct Source {
    files: Vec<File>,
    index: BTreeMap<Vec<u8>, Found>,
    /// The newest one; its `end` is 0 when there is none.
    state: State,
    /// The highest of all records.
    generation: u64,
    /// By epoch, the lowest number that is seen to belong to it.
    begins: BTreeMap<u64, Seq>,
}

impl Source {
    /// Takes note of a frame, if it is the best for its key so far.
    fn note(&mut self, offset: u64, frame: &Frame<'_>, survivors: &Survivors) {
        let mut found =
            Found { file: self.files.len(), offset, size: frame.size, rank: (0, 0), count: 0, parts: 0 };
        match frame.kind {
            Kind::Block => {
                let (Some((header, _)), Some((first, 0))) =
                    (Header::parse(frame.body), key::parse_block(frame.key))
                else {
                    return;
                };
                found.rank = (header.epoch, header.count.into());
                (found.count, found.parts) = (header.count, header.parts);
                self.note_epoch(header.epoch, first);
            }
            Kind::BlockPart => {
                let Some((epoch, _)) = block::parse_part(frame.body) else { return };
                found.rank.0 = epoch;
            }
            Kind::Meta if frame.key == key::STATE => {}
            Kind::Cursor | Kind::Meta => {
                found.rank.0 = Fields::new(frame.body).varint().unwrap_or(0);
                self.generation = self.generation.max(found.rank.0);
            }
            Kind::Record | Kind::RecordPart => {
                let Some(generation) = record::generation(frame.body) else { return };
                self.generation = self.generation.max(generation);
                if !survivors.may_live(frame.key, generation) {
                    return;
                }
                found.rank.0 = generation;
                found.parts = record::parts(frame.body);
            }
            Kind::Letter | Kind::LetterPart => {}
        }
        if let Some(state) = state_in(frame) {
            self.note_epoch(state.epoch, state.end);
            self.generation = self.generation.max(state.generation);
            if state.generation > self.state.generation {
                self.state = state;
            }
        }
        let known = self.index.entry(frame.key.to_vec()).or_insert(found);
        if known.rank < found.rank {
            *known = found;
        }
    }

    fn note_epoch(&mut self, epoch: u64, seq: Seq) {
        let begin = self.begins.entry(epoch).or_insert(seq);
        *begin = seq.min(*begin);
    }

    /// For people: why more may be called lost than was.
    fn missing_records(&self, sinks: &[SinkName]) -> Vec<String> {
        let without = sinks.iter().filter(|name| self.cursor(&key::cursor(name.as_str())).is_none());
        let mut findings: Vec<_> =
            without.map(|name| format!("no cursor of the sink {name} was found")).collect();
        if !self.knows_removed() {
            let more = "the record of what was removed is lost: what counts as lost may have been delivered";
            findings.push(more.to_owned());
        }
        findings
    }

    fn copy_into(
        &self,
        store: &Store,
        disk: &Disk,
        sinks: &[SinkName],
        end: Option<Seq>,
    ) -> Result<(State, Vec<(Seq, Seq)>), StoreError> {
        let mut state = self.state.clone();
        if !self.knows_removed() {
            state.removed = self.passed_by_all(sinks);
        }
        let (tail, gaps) = (disk.tail(), self.gaps());
        state.epoch = state.epoch.max(tail.epoch);
        state.end = end.unwrap_or_else(|| state.end.max(tail.end).max(gaps.end()).max(self.settled_end()));
        (state.keys, state.live_bytes, state.letters) = (0, 0, 0);
        (state.records, state.record_bytes) = (0, 0);

        let (present, mut batch) = self.copy_frames(store, disk, end, &mut state)?;

        let mut book = Book { gaps, ..Book::default() };
        let mut accounted = state.removed.clone();
        for (from, to) in present.as_slice() {
            accounted.insert(*from, *to);
        }
        let lost: Vec<_> = accounted.missing(1, state.end).collect();
        // What is lost is the business of a sink whose cursor is lost, too.
        let joined = lost.first().map_or(state.oldest(), |(from, _)| state.oldest().min(*from));
        book.state = state;
        lost.iter().for_each(|(from, to)| book.lose(*from, *to));
        let Book { mut state, gaps, .. } = book;
        state.generation = self.generation + 1;
        state.lost = gaps.total();
        batch.insert(
            key::GAPS,
            frame::wrap(Kind::Meta, key::GAPS, &Book::encode_gaps(&gaps, state.generation)),
        );
        batch.insert(key::STATE, frame::wrap(Kind::Meta, key::STATE, &state.encode()));
        for key in sinks.iter().map(|name| key::cursor(name.as_str())) {
            if let (None, Some(body)) = (self.cursor(&key), Cursor::new(joined).encode(state.generation)) {
                batch.insert(&key, frame::wrap(Kind::Cursor, &key, &body));
            }
        }
        store.apply(batch)?;
        Ok((state, lost))
    }

    /// Copies what is wanted, and counts it in `state`. Gives back the numbers that it found, and the last batch.
    fn copy_frames(
        &self,
        store: &Store,
        disk: &Disk,
        end: Option<Seq>,
        state: &mut State,
    ) -> Result<(Ranges, Batch), StoreError> {
        let wanted = self.bytes_of(key::BLOCK) + self.bytes_of(record::PREFIX);
        if wanted > disk.free_bytes()? / GROWTH {
            disk.forget_older_damaged()?;
        }
        // Where there is no room for all, the newest go first, and the rest stays aside.
        let mut excess = wanted.saturating_sub(disk.free_bytes()? / GROWTH);
        let (mut present, mut batch, mut batched) = (Ranges::default(), Batch::default(), 0);
        // The block or record that is being copied: its parts follow it.
        let mut copied = None;
        let mut record: Option<(&[u8], &Found)> = None;
        for (key, found) in self.index.iter().filter(|(key, _)| *key != key::STATE) {
            let Some(frame) = self.read(key, found) else { continue };
            if let Some((first, part)) = key::parse_block(key) {
                if part == 0 {
                    let last = first + u64::from(found.count);
                    let unwanted = end.is_some_and(|end| first >= end)
                        || state.removed.covers(first, last)
                        || present.covers(first, last)
                        || self.was_given_up(first, found.rank.0);
                    let taken = !unwanted && excess == 0 && self.is_whole(first, found);
                    copied = taken.then_some((first, found.parts));
                    if taken {
                        present.insert(first, last);
                        state.epoch = state.epoch.max(found.rank.0);
                        state.end = end.unwrap_or(state.end.max(last));
                    }
                }
                if copied.is_none_or(|(copied, parts)| copied != first || part >= parts) {
                    excess = excess.saturating_sub(found.size as u64);
                    continue;
                }
                state.keys += 1;
                state.live_bytes += found.size as u64;
            } else if let Some((_, part)) = record::parse_key(key) {
                if part == 0 {
                    record = self.is_whole_record(key, found).then_some((record::stem(key), found));
                }
                let wanted = |(stem, head): &(&[u8], &Found)| *stem == record::stem(key) && part < head.parts;
                if record.filter(wanted).is_none() {
                    continue;
                }
                state.records += 1;
                state.record_bytes += found.size as u64;
            } else if key::parse_letter(key).is_some_and(|(_, _, part)| part == 0) {
                state.letters += 1;
            }
            batched += frame.len();
            batch.insert(key, frame);
            if batched > BATCH_BYTES {
                store.apply(std::mem::take(&mut batch))?;
                batched = 0;
            }
        }
        Ok((present, batch))
    }

    /// Whether all parts of the block can be had, of the same epoch: a number that was given again has other parts.
    fn is_whole(&self, first: Seq, head: &Found) -> bool {
        (1..head.parts).all(|part| {
            let key = key::block(first, part);
            let found = self.index.get(&key[..]).filter(|found| found.rank.0 == head.rank.0);
            found.is_some_and(|found| self.read(&key, found).is_some())
        })
    }

    /// As `is_whole`, for a record: all its parts are of one generation.
    fn is_whole_record(&self, first: &[u8], head: &Found) -> bool {
        (1..head.parts).all(|part| {
            let key = [record::stem(first), &part.to_be_bytes()].concat();
            let found = self.index.get(&key).filter(|found| found.rank.0 == head.rank.0);
            found.is_some_and(|found| self.read(&key, found).is_some())
        })
    }

    /// Whether a later epoch began before that number: then it was not acknowledged, and given again.
    fn was_given_up(&self, first: Seq, epoch: u64) -> bool {
        self.begins.range(epoch + 1..).any(|(_, begin)| *begin <= first)
    }

    fn bytes_of(&self, prefix: u8) -> u64 {
        let all = self.index.range(vec![prefix]..vec![prefix + 1]);
        all.map(|(_, found)| found.size as u64).sum()
    }

    fn meta(&self, key: &[u8]) -> Option<Vec<u8>> {
        let value = self.read(key, self.index.get(key)?)?;
        Some(frame::parse_value(key, &value)?.body.to_vec())
    }

    /// A cursor's record under this key.
    fn cursor(&self, key: &[u8]) -> Option<Cursor> {
        Some(Cursor::decode(&self.meta(key)?)?.1)
    }

    fn gaps(&self) -> Ranges {
        let found = self.meta(key::GAPS).and_then(|body| Book::decode_gaps(&body));
        found.map(|(_, gaps)| gaps).unwrap_or_default()
    }

    /// Whether there is a state record, and what it has as removed can be told from what was lost before.
    fn knows_removed(&self) -> bool {
        self.state.end > 0 && self.gaps().total() >= self.state.lost
    }

    /// What every sink has passed. When the cursor of one is gone, nothing is known to be.
    fn passed_by_all(&self, sinks: &[SinkName]) -> Ranges {
        let cursors = sinks.iter().map(|name| self.cursor(&key::cursor(name.as_str())));
        let passed = cursors.map(|cursor| cursor.map(|cursor| cursor.passed()).unwrap_or_default());
        passed.reduce(|all, one| all.intersection(&one)).unwrap_or_default()
    }

    /// One past the highest number that any sink has settled.
    fn settled_end(&self) -> Seq {
        let keys = self.index.range(vec![key::CURSOR]..vec![key::CURSOR + 1]).map(|(key, _)| key);
        keys.filter_map(|key| Some(self.cursor(key)?.settled().end())).max().unwrap_or(0)
    }

    /// The frame, if the disk still gives it.
    fn read(&self, key: &[u8], found: &Found) -> Option<Vec<u8>> {
        let mut value = vec![0; found.size];
        self.files[found.file].read_exact_at(&mut value, found.offset).ok()?;
        frame::parse_value(key, &value).is_some().then_some(value)
    }
}

fn state_in(frame: &Frame<'_>) -> Option<State> {
    match frame.kind {
        Kind::Meta if frame.key == key::STATE => State::decode(frame.body),
        Kind::Block => State::decode(Header::state(frame.body)?),
        _ => None,
    }
}

/// Finds all sound frames of a file.
fn scan(file: &File, mut visit: impl FnMut(u64, &Frame<'_>)) -> io::Result<()> {
    let length = file.metadata()?.len();
    let mut window = vec![0; CHUNK + MAX_VALUE];
    let mut position = 0;
    while position < length {
        let filled = fill(file, &mut window, position);
        let mut at = 0;
        while at < filled.min(CHUNK) {
            let Some(next) = window[at..filled].iter().position(|byte| *byte == MAGIC[0]) else { break };
            at += next;
            match frame::parse(&window[at..filled]) {
                Some(frame) => {
                    visit(position + at as u64, &frame);
                    at += frame.size;
                }
                None => at += 1,
            }
        }
        // A frame may have reached beyond the chunk.
        position += at.max(CHUNK) as u64;
    }
    Ok(())
}

/// Reads what can be read; what cannot is zeros. Says how many bytes there are.
pub(super) fn fill(file: &File, window: &mut [u8], position: u64) -> usize {
    let mut at = 0;
    while at < window.len() {
        // A dying disk takes its time for each of its bad sectors.
        watchdog::step("reading the files of the store");
        match file.read_at(&mut window[at..], position + at as u64) {
            Ok(0) => break,
            Ok(count) => at += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => {
                let next = window.len().min((at / SECTOR + 1) * SECTOR);
                window[at..next].fill(0);
                at = next;
            }
        }
    }
    at
}

/// All files below a directory.
fn files_in(dir: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(files_in(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    Ok(files)
}
