//! From a directory to a running buffer.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::commit;
use super::cursor::{Cursor, Fate};
use super::disk::{Disk, Tail};
use super::frame::{Kind, key};
use super::group::Group;
use super::intake::Intake;
use super::ledger::{Book, Ledger, Sink, State};
use super::salvage;
use super::store::{Store, StoreError, newest_segments};
use super::thread::{Hub, Keeper};
use super::watchdog::{Pulse, Stuck};
use super::{DropReason, OpenReport};
use crate::config::{self, SinkName};
use crate::message::Seq;

/// Commands that wait for the thread.
const MAX_COMMANDS: usize = 64;

/// A buffer, before its thread runs.
pub(super) struct Opened {
    pub(super) keeper: Keeper,
    pub(super) hub: Arc<Hub>,
    /// For whoever watches the thread of this pulse.
    pub(super) stood: watch::Sender<Option<Stuck>>,
    pub(super) report: OpenReport,
}

/// Opens or creates the buffer.
pub(super) fn start(
    disk: Disk,
    settings: &config::Buffer,
    sinks: &[SinkName],
    pulse: Arc<Pulse>,
) -> Result<Opened, StoreError> {
    let (opened, report) = match open_store(&disk, sinks) {
        Ok((store, book, report)) => (Ok((store, book)), report),
        // The daemon starts, says what is wrong, and takes readings as soon as the disk can (P5).
        Err(error) => {
            let store = disk.store();
            let findings = vec![format!("the store {} cannot be opened now: {error}", store.display())];
            (Err(error), OpenReport { findings, gaps: Vec::new() })
        }
    };
    let (store, book, latched) = match opened {
        Ok((store, book)) => (Some(store), book, None),
        Err(error) => (None, unknown(&disk, sinks), Some(error)),
    };
    let end = book.state.end;
    let (commands, receiver) = mpsc::channel(MAX_COMMANDS);
    let (ends, watched) = watch::channel(end);
    let (stood, standing) = watch::channel(None);
    let hub = Arc::new(Hub {
        intake: Intake::new(end, settings.ack_delay, settings.qos0_window),
        ledger: Ledger::new(book),
        commands,
        ends: watched,
        pulse,
        stood: standing,
        #[cfg(test)]
        faults: Arc::clone(&disk.faults),
    });
    let mut keeper = Keeper::new(Arc::clone(&hub), receiver, ends, disk, settings.clone(), store)?;
    if let Some(error) = latched {
        keeper.start_latched(error);
    }
    Ok(Opened { keeper, hub, stood, report })
}

/// Opens the store, gives every sink its cursor, and begins a new epoch: that is on disk before the first append.
pub(super) fn open_store(disk: &Disk, sinks: &[SinkName]) -> Result<(Store, Book, OpenReport), StoreError> {
    let opened = open_or_rebuild(disk, sinks);
    let (store, mut book, mut findings) = match opened {
        // There may be just enough room when the ballast is gone.
        Err(StoreError::Io(_)) if disk.drop_ballast() => open_or_rebuild(disk, sinks)?,
        opened => opened?,
    };
    join(&mut book, sinks);
    book.state.epoch = next_epoch(book.state.epoch.max(disk.tail().epoch));
    if let Err(error) = commit::begin(&store, disk, &mut book) {
        store.discard();
        return Err(error);
    }
    disk.set_tail(book.tail());
    if Store::has_blobs(&disk.store()) {
        findings.push("the store has put values into blobs/, which is never synced".to_owned());
    }
    let report = OpenReport { findings, gaps: book.gap_list() };
    Ok((store, book, report))
}

/// What is known without the store: the names of the sinks.
fn unknown(disk: &Disk, sinks: &[SinkName]) -> Book {
    let state = State { end: disk.tail().end, ..State::default() };
    let sink = || Sink { cursor: Cursor::new(state.end), dirty: false, taken: false };
    let sinks = sinks.iter().map(|name| (name.clone(), sink())).collect();
    Book { state, sinks, ..Book::default() }
}

/// Damage never keeps the buffer from opening (P5).
fn open_or_rebuild(disk: &Disk, sinks: &[SinkName]) -> Result<(Store, Book, Vec<String>), StoreError> {
    let tip = newest_segments(&disk.store())?;
    let why = match open_checked(disk, disk.tail()) {
        Ok((store, book)) => return Ok((store, book, Vec::new())),
        Err(error) if error.needs_rebuild() => error.to_string(),
        Err(error) => return Err(error),
    };
    let rebuilt = salvage::rebuild(disk, sinks, None, None, &why, &tip)?;
    let book = load(&rebuilt.store)?;
    let mut findings = rebuilt.findings;
    findings.extend(rebuilt.lost.iter().map(|(from, to)| format!("readings {from} to {} are lost", to - 1)));
    Ok((rebuilt.store, book, findings))
}

/// Opens the store, and checks that it holds everything that was acknowledged.
fn open_checked(disk: &Disk, acked: Tail) -> Result<(Store, Book), StoreError> {
    if disk.was_interrupted()? {
        return Err(StoreError::Damaged("its rebuilding was interrupted".to_owned()));
    }
    let store = Store::open(&disk.store())?;
    let checked = load(&store).and_then(|book| check(&store, &book, acked).map(|()| book));
    match checked {
        Ok(book) => Ok((store, book)),
        Err(error) => {
            store.discard();
            Err(error)
        }
    }
}

fn check(store: &Store, book: &Book, acked: Tail) -> Result<(), StoreError> {
    let state = &book.state;
    // What a sink has settled was acknowledged, too.
    let settled = book.sinks.values().map(|sink| sink.cursor.settled().end());
    let end = settled.fold(acked.end, Seq::max);
    if state.end < end {
        let (last, acked) = (state.end - 1, end - 1);
        return Err(StoreError::Damaged(format!("it ends at {last}, but {acked} was acknowledged")));
    }
    if state.generation < acked.generation {
        return Err(StoreError::Damaged("the last changes that were acknowledged are not in it".to_owned()));
    }
    if state.end == 1 || state.removed.contains(state.end - 1) {
        return Ok(());
    }
    let last = store.fetch(state.end - 1, state.end)?;
    if last.missing.is_empty() {
        Ok(())
    } else {
        Err(StoreError::Damaged(format!("reading {} is not where it was", state.end - 1)))
    }
}

/// Opens the store again after an error, and checks that it still holds what was acknowledged: all below `end`, and
/// nothing of the group that is `held`.
pub(super) fn reopen(
    disk: &Disk,
    ledger: &Ledger,
    end: Seq,
    held: Option<&Group>,
    rebuild: Option<&str>,
) -> Result<Store, StoreError> {
    let acked = Tail { end, ..ledger.book().tail() };
    // Opening may overwrite what a salvage could still find.
    let tip = newest_segments(&disk.store())?;
    let why = match rebuild {
        Some(why) => why.to_owned(),
        None => match open_checked(disk, acked) {
            Ok((store, found)) => {
                ledger.book().set_state(found.state);
                return Ok(store);
            }
            Err(error) if error.needs_rebuild() => error.to_string(),
            Err(error) => return Err(error),
        },
    };
    let sinks: Vec<_> = ledger.book().sinks.keys().cloned().collect();
    let rebuilt = salvage::rebuild(disk, &sinks, Some(acked), held, &why, &tip)?;
    rebuilt.findings.iter().for_each(|finding| tracing::warn!("{finding}"));
    let mut book = ledger.book();
    let epoch = book.state.epoch;
    book.synced = rebuilt.state.generation;
    book.set_state(State { epoch, ..rebuilt.state });
    for (from, to) in rebuilt.lost {
        tracing::error!(from, to = to - 1, "readings are lost");
        book.lose(from, to);
    }
    Ok(rebuilt.store)
}

/// Reads what the store says about itself. Does not look at its blocks.
fn load(store: &Store) -> Result<Book, StoreError> {
    let damaged = |what: &str| StoreError::Damaged(what.to_owned());
    let state = match store.state()? {
        Some(state) => state,
        None if store.has_blocks()? => return Err(damaged("the state record is gone")),
        None => State { end: 1, ..State::default() },
    };
    let mut book = Book { state, ..Book::default() };
    if let Some(body) = store.body(key::GAPS, Kind::Meta)? {
        book.gaps = Book::decode_gaps(&body).ok_or_else(|| damaged("the gaps make no sense"))?.1;
    }
    if let Some(body) = store.body(key::BOOTS, Kind::Meta)? {
        book.boots = Book::decode_boots(&body).ok_or_else(|| damaged("the boots make no sense"))?.1;
    }
    for pair in store.pairs(&[key::CURSOR], &[key::CURSOR + 1]) {
        let (found, _) = pair?;
        let cursor = store.body(&found, Kind::Cursor)?.and_then(|body| Cursor::decode(&body));
        let name = std::str::from_utf8(&found[1..]).ok().and_then(|name| SinkName::parse(name).ok());
        let (Some((_, cursor)), Some(name)) = (cursor, name) else {
            return Err(StoreError::Damaged(format!("the cursor {}", found.escape_ascii())));
        };
        book.sinks.insert(name, Sink { cursor, dirty: false, taken: false });
    }
    Ok(book)
}

/// Gives each configured sink its cursor, and settles for it what the store no longer has.
/// The records of sinks that are not configured now stay in the store as they are.
fn join(book: &mut Book, configured: &[SinkName]) {
    let oldest = book.state.oldest();
    let Book { state, gaps, sinks, .. } = book;
    sinks.retain(|name, _| configured.contains(name));
    for name in configured {
        let fresh = || Sink { cursor: Cursor::new(oldest), dirty: true, taken: false };
        let sink = sinks.entry(name.clone()).or_insert_with(fresh);
        for (ranges, reason) in [(&*gaps, DropReason::Damaged), (&state.removed, DropReason::SinkAbsent)] {
            for (from, to) in ranges.as_slice() {
                sink.dirty |= sink.cursor.settle(*from, *to, Fate::Dropped(reason)) > 0;
            }
        }
    }
}

/// A new store starts somewhere of its own, so that no two ever number alike; below 2^53, which JSON can carry.
fn next_epoch(last: u64) -> u64 {
    if last > 0 {
        return last + 1;
    }
    let random = std::hash::RandomState::new().build_hasher().finish() >> 33;
    random.max(1) << 20
}
