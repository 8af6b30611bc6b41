//! From a directory to a running buffer.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use tokio::sync::{mpsc, watch};

use super::block::Packer;
use super::cursor::{Cursor, Fate};
use super::frame::{Kind, key};
use super::group::Intake;
use super::ledger::{Book, Ledger, Sink, State};
use super::store::{Store, StoreError};
use super::thread::{Hub, Keeper};
use super::{Buffer, DropReason, Handle, OpenError, OpenReport};
use crate::config::{self, SinkName};

/// A predecessor that is still closing gets so much time.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// Commands that wait for the thread.
const MAX_COMMANDS: usize = 64;

/// The buffer's directory: `lock`, and `store` with what the key-value store keeps.
#[derive(Debug)]
pub(super) struct Place {
    dir: PathBuf,
    lock: Option<File>,
}

impl Place {
    fn lock(dir: &Path) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { path: dir.to_owned(), source };
        fs::create_dir_all(dir).map_err(io)?;
        let lock = File::create(dir.join("lock")).map_err(io)?;
        let give_up = Instant::now() + LOCK_PATIENCE;
        while let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(io(error.into()));
            }
            if Instant::now() > give_up {
                return Err(OpenError::Locked(dir.to_owned()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { dir: dir.to_owned(), lock: Some(lock) })
    }

    /// Lets a successor in.
    pub(super) fn unlock(&mut self) {
        self.lock = None;
    }

    pub(super) fn store(&self) -> PathBuf {
        self.dir.join("store")
    }
}

/// Opens or creates the buffer, and starts its thread.
pub(super) fn open(
    dir: &Path,
    settings: &config::Buffer,
    sinks: &[SinkName],
) -> Result<(Buffer, OpenReport), OpenError> {
    let failed = |error: StoreError| OpenError::Io {
        path: dir.to_owned(),
        source: match error {
            StoreError::Io(error) | StoreError::Sync(error) => error,
            StoreError::Damaged(what) => io::Error::other(what),
        },
    };
    let place = Place::lock(dir)?;
    let store = Store::open(&place.store()).map_err(failed)?;
    let mut book = load(&store).map_err(failed)?;
    let absent = take_absent(&mut book, sinks);
    join(&mut book, sinks);
    drop(absent);
    book.state.epoch = next_epoch(book.state.epoch);
    let report = OpenReport { findings: Vec::new(), gaps: book.gap_list() };

    let end = book.state.end;
    let (commands, receiver) = mpsc::channel(MAX_COMMANDS);
    let (ends, watched) = watch::channel(end);
    let hub = Arc::new(Hub {
        intake: Intake::new(end, settings.ack_delay, settings.qos0_window),
        ledger: Ledger::new(book),
        commands,
        ends: watched,
    });
    let mut keeper = Keeper {
        hub: Arc::clone(&hub),
        commands: receiver,
        ends,
        place,
        settings: settings.clone(),
        store: Some(store),
        packer: Packer::new().map_err(|error| failed(error.into()))?,
        spare: None,
        held: None,
        retry: None,
        removable: Vec::new(),
        cursors_due: None,
    };
    // The epoch must be on disk before the first reading is written under it.
    keeper.write(None).map_err(failed)?;
    std::thread::Builder::new()
        .name("store".to_owned())
        .spawn(move || keeper.run())
        .map_err(|error| failed(error.into()))?;
    Ok((Buffer(Arc::new(Handle(hub))), report))
}

/// Reads what the store says about itself. Does not look at its blocks.
fn load(store: &Store) -> Result<Book, StoreError> {
    let mut book = Book::default();
    let state = store.body(key::STATE, Kind::Meta)?;
    book.state = match &state {
        Some(body) => {
            State::decode(body).ok_or_else(|| StoreError::Damaged("the state record".to_owned()))?
        }
        None if store.last_block()?.is_some() => {
            return Err(StoreError::Damaged("the state record is gone".to_owned()));
        }
        None => State { end: 1, ..State::default() },
    };
    if let Some(body) = store.body(key::GAPS, Kind::Meta)? {
        book.gaps = Book::decode_gaps(&body).ok_or_else(|| StoreError::Damaged("the gaps".to_owned()))?.1;
    }
    if let Some(body) = store.body(key::BOOTS, Kind::Meta)? {
        book.boots = Book::decode_boots(&body).ok_or_else(|| StoreError::Damaged("the boots".to_owned()))?.1;
    }
    for pair in store.pairs(&[key::CURSOR], &[key::CURSOR + 1]) {
        let (found, _) = pair?;
        let body = store.body(&found, Kind::Cursor)?;
        let decoded = body.and_then(|body| Cursor::decode(&body));
        let name = std::str::from_utf8(&found[1..]).ok().and_then(|name| SinkName::parse(name).ok());
        let (Some((_, cursor)), Some(name)) = (decoded, name) else {
            return Err(StoreError::Damaged(format!("the cursor {:?}", found.escape_ascii().to_string())));
        };
        book.sinks.insert(name, Sink { cursor, dirty: false, taken: false });
    }
    Ok(book)
}

/// Sinks that are not configured now: their records stay as they are.
fn take_absent(book: &mut Book, sinks: &[SinkName]) -> BTreeMap<SinkName, Sink> {
    let (present, absent) =
        std::mem::take(&mut book.sinks).into_iter().partition(|(name, _)| sinks.contains(name));
    book.sinks = present;
    absent
}

/// Gives each configured sink its cursor, and settles for it what the store no longer has.
fn join(book: &mut Book, sinks: &[SinkName]) {
    for name in sinks {
        let oldest = book.state.oldest();
        let Book { state, gaps, sinks, .. } = &mut *book;
        let sink = sinks.entry(name.clone()).or_insert_with(|| Sink {
            cursor: Cursor::new(oldest),
            dirty: true,
            taken: false,
        });
        let gone = [(gaps, DropReason::Damaged), (&mut state.removed, DropReason::SinkAbsent)];
        for (ranges, reason) in gone {
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
