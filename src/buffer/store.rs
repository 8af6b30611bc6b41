//! The key-value store under the buffer, and the syncs that it does not make itself.
//!
//! Nothing outside this file names sled. Its calls may panic on damaged files: each is fenced.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use super::block::{Block, Header, parse_part};
use super::disk::Disk;
use super::frame::{self, Kind, key};
use super::ledger::State;
use super::salvage::fill;
use super::watchdog;
use crate::message::Seq;

const CACHE_BYTES: u64 = 8 * 1024 * 1024;
/// sled collects its garbage on the same timer.
const FLUSH_MS: u64 = 500;
/// sled's default.
const SEGMENT_BYTES: usize = 512 * 1024;
/// As many as sled may have under way, and some more.
const TIP_SEGMENTS: usize = 6;
const DISCARD_PATIENCE: Duration = Duration::from_secs(10);
/// sled reads all of its log when it opens without a snapshot: a bad SD card reads more than this in a second.
const SLOWEST_BYTES_A_SECOND: u64 = 1024 * 1024;
/// What it is doing, for whoever watches the thread.
const READING: &str = "reading from the store";
/// Raw bytes that one `fetch` reads at most, but for a single larger block.
const FETCH_BYTES: usize = 64 * 1024;
/// About so many compressed bytes are looked at at once: the store's thread has other things to do.
const LOOK_BYTES: usize = 32 * 1024;
/// And so many blocks: at a quiet pace each holds a reading or two.
const LOOK_BLOCKS: usize = 32;

/// Why the store did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// The operating system refused: worth trying again.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What is on disk cannot be right: worth rebuilding.
    #[error("damaged: {0}")]
    Damaged(String),
    /// A sync failed: what the page cache shows may not be on disk (rebuild from what was read before).
    #[error("sync failed: {0}")]
    Sync(io::Error),
}

impl StoreError {
    /// What the operating system said, or would have.
    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Io(error) | Self::Sync(error) => error,
            Self::Damaged(what) => io::Error::other(what),
        }
    }

    /// Whether trying again cannot help, but a fresh copy of what can be read may.
    pub(super) fn needs_rebuild(&self) -> bool {
        match self {
            Self::Damaged(_) | Self::Sync(_) => true,
            // A copy of an error, as sled gives them, has only its kind; and a file that is shorter than it should be
            // is none of the system's errors.
            Self::Io(error) => match error.raw_os_error() {
                Some(code) => code == rustix::io::Errno::IO.raw_os_error(),
                None => !matches!(
                    error.kind(),
                    io::ErrorKind::StorageFull
                        | io::ErrorKind::QuotaExceeded
                        | io::ErrorKind::ReadOnlyFilesystem
                        | io::ErrorKind::PermissionDenied
                        | io::ErrorKind::OutOfMemory
                ),
            },
        }
    }
}

/// Changes that reach the disk together or not at all.
#[derive(Debug, Default)]
pub(super) struct Batch(BTreeMap<Vec<u8>, Option<Vec<u8>>>);

impl Batch {
    pub(super) fn insert(&mut self, key: &[u8], frame: Vec<u8>) {
        self.0.insert(key.to_vec(), Some(frame));
    }

    pub(super) fn remove(&mut self, key: &[u8]) {
        self.0.insert(key.to_vec(), None);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A key and its value.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

/// What a range of numbers holds.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    pub(super) blocks: Vec<Block>,
    /// Numbers for which there is no sound block.
    pub(super) missing: Vec<(Seq, Seq)>,
}

/// What a block takes up.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) first: Seq,
    pub(super) end: Seq,
    pub(super) keys: Vec<Vec<u8>>,
    pub(super) bytes: u64,
}

/// The store.
#[derive(Debug)]
pub(super) struct Store {
    db: sled::Db,
    /// Our own handle of the data file: sled's flush writes, but does not sync on Linux (sled issue 1452).
    file: File,
}

impl Store {
    /// Opens or creates the store in `dir`, and syncs what sled creates without a sync.
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(dir)?;
        remove_torn_snapshots(dir)?;
        let config = sled::Config::new()
            .path(dir)
            .mode(sled::Mode::LowSpace)
            .cache_capacity(CACHE_BYTES)
            // Tests copy the files of a store that has "crashed": nothing may write to them meanwhile.
            .flush_every_ms(if cfg!(test) { None } else { Some(FLUSH_MS) })
            .use_compression(false);
        let bytes = fs::metadata(dir.join("db")).map_or(0, |file| file.len());
        let db = open_unlocked(&config, Duration::from_secs(bytes / SLOWEST_BYTES_A_SECOND))?;
        match File::open(dir.join("db")) {
            Ok(file) => {
                let store = Self { db, file };
                match sync_created(&store.file, dir) {
                    Ok(()) => Ok(store),
                    Err(error) => {
                        store.discard();
                        Err(StoreError::Sync(error))
                    }
                }
            }
            Err(error) => {
                close(db);
                Err(error.into())
            }
        }
    }

    /// Applies a batch; it is on disk only after [`Store::sync`].
    pub(super) fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        let mut changes: Vec<_> = batch.0.into_iter().collect();
        // One key is atomic by itself; a batch would be one more write, and one more page for the disk.
        if let [(key, Some(frame))] = &mut changes[..] {
            let frame = std::mem::take(frame);
            return fenced("writing a value", || self.db.insert(&key[..], frame)).map(|_| ());
        }
        let mut batch = sled::Batch::default();
        for (key, change) in changes {
            match change {
                Some(frame) => batch.insert(key, frame),
                None => batch.remove(key),
            }
        }
        fenced("writing a batch", || self.db.apply_batch(batch))
    }

    /// Puts everything that was applied on disk.
    pub(super) fn sync(&self, disk: &Disk) -> Result<(), StoreError> {
        let db = self.db.clone();
        // When a write fails, sled may note the error and not tell the thread that waits for it. Whoever asks for a
        // flush then is told at once, and so is everybody else.
        watchdog::nudged_step("flushing the store", move || {
            if db.context.global_error().is_err() {
                guarded(|| db.flush()).ok();
            }
        });
        guarded(|| self.db.flush())?;
        self.sync_files(disk)
    }

    /// Puts on disk what the store has written so far.
    pub(super) fn sync_files(&self, disk: &Disk) -> Result<(), StoreError> {
        disk.sync_data(&self.file).map_err(StoreError::Sync)
    }

    /// Closes the store; when it does not close (false), this directory cannot be opened again by this process.
    pub(super) fn discard(self) -> bool {
        close(self.db)
    }

    /// Whether a value was too large for the store's log: such a file is never synced.
    pub(super) fn has_blobs(dir: &Path) -> bool {
        fs::read_dir(dir.join("blobs")).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// The body under a key, if there is a sound one.
    pub(super) fn body(&self, key: &[u8], kind: Kind) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(value) = fenced(READING, || self.db.get(key))? else { return Ok(None) };
        match frame::parse_value(key, &value) {
            Some(frame) if frame.kind == kind => Ok(Some(frame.body.to_vec())),
            _ => Err(StoreError::Damaged(format!("the value of {:?}", key.escape_ascii().to_string()))),
        }
    }

    pub(super) fn contains(&self, key: &[u8]) -> Result<bool, StoreError> {
        fenced(READING, || self.db.contains_key(key))
    }

    /// Pairs from `from` on, below `to`.
    pub(super) fn pairs(
        &self,
        from: &[u8],
        to: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<(sled::IVec, sled::IVec), StoreError>> + use<> {
        let mut range = self.db.range(from..to);
        Fenced(move |back: bool| {
            let mut next = || if back { range.next_back().transpose() } else { range.next().transpose() };
            fenced(READING, &mut next).transpose()
        })
    }

    /// The newest state record: that of the last commit, in its last block, or a later one under a key of its own.
    pub(super) fn state(&self) -> Result<Option<State>, StoreError> {
        let damaged = || StoreError::Damaged("the state record makes no sense".to_owned());
        let own = match self.body(key::STATE, Kind::Meta)? {
            Some(body) => Some(State::decode(&body).ok_or_else(damaged)?),
            None => None,
        };
        let carried = match self.block_at_or_before(Seq::MAX)? {
            Some(last) => {
                let body = self.body(&key::block(last, 0), Kind::Block)?;
                body.and_then(|body| State::decode(Header::state(&body)?))
            }
            None => None,
        };
        Ok(own.into_iter().chain(carried).max_by_key(|state| state.generation))
    }

    /// Whether there is any block.
    pub(super) fn has_blocks(&self) -> Result<bool, StoreError> {
        Ok(self.block_at_or_before(Seq::MAX)?.is_some())
    }

    /// The first number of the last block that starts at or before `seq`.
    pub(super) fn block_at_or_before(&self, seq: Seq) -> Result<Option<Seq>, StoreError> {
        let to = key::block(seq, u16::MAX);
        match self.pairs(&key::block(0, 0), &to).next_back().transpose()? {
            Some((found, _)) => Ok(key::parse_block(&found).map(|(first, _)| first)),
            None => Ok(None),
        }
    }

    /// The blocks that start in `[from, to)`, at most `most` of them.
    pub(super) fn spans(&self, from: Seq, to: Seq, most: usize) -> Result<Vec<Span>, StoreError> {
        let mut spans: Vec<Span> = Vec::new();
        for pair in self.pairs(&key::block(from, 0), &key::block(to, 0)) {
            let (found, value) = pair?;
            let Some((first, part)) = key::parse_block(&found) else { continue };
            if part == 0 {
                if spans.len() == most {
                    break;
                }
                // A block that cannot be read was lost; its key goes with the numbers it surely had.
                let end = parse_block(&found, &value).map_or(first + 1, |block| block.end());
                spans.push(Span { first, end, keys: Vec::new(), bytes: 0 });
            }
            if let Some(span) = spans.last_mut() {
                span.keys.push(found.to_vec());
                span.bytes += value.len() as u64;
            }
        }
        Ok(spans)
    }

    /// The blocks that hold `[from, to)`, as many as fit one answer.
    pub(super) fn fetch(&self, from: Seq, to: Seq) -> Result<Fetched, StoreError> {
        let start = self.block_at_or_before(from)?.unwrap_or(from);
        let mut fetched = Fetched::default();
        let mut pairs = self.pairs(&key::block(start, 0), &key::block(to, 0)).peekable();
        let (mut expected, mut bytes) = (from, 0);
        while let Some(pair) = pairs.next() {
            let (found, value) = pair?;
            let mut block = parse_block(&found, &value);
            if let Some(block) = &mut block {
                for part in 1..block.header.parts {
                    let wanted = key::block(block.first, part);
                    let next = pairs.next_if(|next| next.as_ref().is_ok_and(|(key, _)| **key == wanted));
                    let Some(Ok((_, value))) = next else { break };
                    let part = frame::parse_value(&wanted, &value).and_then(|frame| parse_part(frame.body));
                    let Some((_, data)) = part.filter(|(epoch, _)| *epoch == block.header.epoch) else {
                        break;
                    };
                    block.data.extend_from_slice(data);
                }
            }
            let Some(block) = block.filter(Block::is_whole) else { continue };
            if block.end() <= expected {
                continue;
            }
            if block.first > expected {
                fetched.missing.push((expected, block.first));
            }
            expected = block.end();
            bytes += block.data.len();
            fetched.blocks.push(block);
            if bytes >= FETCH_BYTES {
                return Ok(fetched);
            }
        }
        if expected < to {
            fetched.missing.push((expected, to));
        }
        Ok(fetched)
    }

    /// The newest blocks that begin before `end`, the newest first, about [`LOOK_BYTES`] of them and at most [`LOOK_BLOCKS`], and where to look on
    /// for older ones. A block that is torn is passed over: who looks waits for none.
    pub(super) fn look(&self, end: Seq) -> Result<(Vec<Block>, Option<Seq>), StoreError> {
        let (mut blocks, mut bytes, mut end) = (Vec::new(), 0, end);
        while bytes < LOOK_BYTES && blocks.len() < LOOK_BLOCKS {
            let Some(first) = self.block_at_or_before(end.saturating_sub(1))?.filter(|first| *first < end)
            else {
                return Ok((blocks, None));
            };
            let block = self.fetch(first, first + 1)?.blocks.pop();
            bytes += block.as_ref().map_or(LOOK_BYTES / 16, |block| block.data.len());
            blocks.extend(block);
            end = first;
        }
        Ok((blocks, Some(end)))
    }
}

/// sled creates files without a sync.
fn sync_created(file: &File, dir: &Path) -> io::Result<()> {
    watchdog::step("syncing the store's files");
    file.sync_all()?;
    File::open(dir.join("conf"))?.sync_all()?;
    for ancestor in dir.ancestors().take(3).filter(|ancestor| !ancestor.as_os_str().is_empty()) {
        File::open(ancestor)?.sync_all()?;
    }
    Ok(())
}

/// sled ends its threads when it is closed, and may panic or wait for ever after an error: it gets some time.
fn close(db: sled::Db) -> bool {
    let (done, wait) = std::sync::mpsc::sync_channel::<()>(1);
    let drop_it = move || {
        let _done = done;
        guarded(|| {
            drop(db);
            Ok(())
        })
    };
    watchdog::long_step("closing the store", DISCARD_PATIENCE);
    match std::thread::Builder::new().name("store-drop".to_owned()).spawn(drop_it) {
        // The channel closes when the thread is through.
        Ok(_) => wait.recv_timeout(DISCARD_PATIENCE) != Err(RecvTimeoutError::Timeout),
        Err(_) => true,
    }
}

/// A store that was just closed may hold its lock a little longer: its threads end by themselves.
fn open_unlocked(config: &sled::Config, allowance: Duration) -> Result<sled::Db, StoreError> {
    let give_up = Instant::now() + DISCARD_PATIENCE;
    loop {
        watchdog::long_step("opening the store", allowance);
        match guarded(|| config.open()) {
            Err(StoreError::Io(error)) if error.to_string().contains("lock") && Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

/// A block from its first part.
pub(super) fn parse_block(key: &[u8], value: &[u8]) -> Option<Block> {
    let (first, 0) = key::parse_block(key)? else { return None };
    let frame = frame::parse_value(key, value).filter(|frame| frame.kind == Kind::Block)?;
    let (header, data) = Header::parse(frame.body)?;
    Some(Block { first, header, data: data.to_vec() })
}

/// The newest segments of the log, with their offsets. When one bit in them is wrong, sled takes all that follows for
/// torn, and overwrites it when it opens: whoever wants to salvage it must have it before.
pub(super) fn newest_segments(dir: &Path) -> io::Result<Vec<(u64, Vec<u8>)>> {
    let file = match File::open(dir.join("db")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    let mut segments = Vec::new();
    for offset in (0..length).step_by(SEGMENT_BYTES) {
        // A header is: CRC-32 4, inverted │ log number 8, its lower 63 bits inverted │ stable number 8.
        let mut header = [0; 20];
        let number = match file.read_exact_at(&mut header, offset) {
            Ok(()) if header == [0; 20] => continue,
            Ok(()) if (!crc32fast::hash(&header[4..])).to_le_bytes() == header[..4] => {
                u64::from_le_bytes(*header[4..].first_chunk().expect("16 bytes")) ^ (u64::MAX >> 1)
            }
            // One that makes no sense may well be a new one.
            _ => u64::MAX,
        };
        segments.push((number, offset));
    }
    segments.sort_unstable();
    let keep = segments.len().saturating_sub(TIP_SEGMENTS);
    let copy = |(_, offset): &(u64, u64)| {
        let mut bytes = vec![0; SEGMENT_BYTES];
        let filled = fill(&file, &mut bytes, *offset);
        bytes.truncate(filled);
        (*offset, bytes)
    };
    Ok(segments[keep..].iter().map(copy).collect())
}

/// sled leaves this behind when it is interrupted, and then refuses to open.
fn remove_torn_snapshots(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        if text.starts_with("snap.") && text.ends_with(".generating") {
            fs::remove_file(dir.join(&name))?;
        }
    }
    Ok(())
}

/// Runs a call of sled's that may never return, or panic.
fn fenced<T>(doing: &'static str, call: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
    watchdog::step(doing);
    guarded(call)
}

/// Runs a call of sled's that may panic.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(error))) => Err(StoreError::Io(error)),
        Ok(Err(error)) => Err(StoreError::Damaged(error.to_string())),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(StoreError::Damaged(format!("the store panicked: {text}")))
        }
    }
}

struct Fenced<F>(F);

impl<T, F: FnMut(bool) -> Option<T>> Iterator for Fenced<F> {
    type Item = T;
    fn next(&mut self) -> Option<T> {
        (self.0)(false)
    }
}

impl<T, F: FnMut(bool) -> Option<T>> DoubleEndedIterator for Fenced<F> {
    fn next_back(&mut self) -> Option<T> {
        (self.0)(true)
    }
}
