//! The files around the key-value store, and every file operation that the buffer does itself.
//!
//! ```text
//! lock               held while the buffer is open
//! store/             the key-value store
//! store.damaged-<n>  what could not be trusted, set aside; the newest three
//! store.rebuild/     a store in the making: worthless until it is renamed to `store`
//! tail               how far was acknowledged: end 8 │ epoch 8 │ generation 8 │ CRC-32C 4. Written after each commit, before
//!                    its acks, and not synced: after a power cut it may lag behind, but is never ahead of an honest disk
//! ballast            space that is given up to get out of a full disk
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, statvfs};

use super::{OpenError, watchdog};
use crate::message::Seq;

/// A predecessor that is still closing gets so much time.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// Enough for the store to open and clean up after the disk was full.
pub(super) const BALLAST_BYTES: u64 = 4 * 1024 * 1024;
/// Damaged stores that are kept.
const MAX_DAMAGED: usize = 3;

/// The buffer's directory.
#[derive(Debug)]
pub(super) struct Disk {
    dir: PathBuf,
    lock: Option<File>,
    tail: File,
    #[cfg(test)]
    pub(super) faults: std::sync::Arc<Faults>,
}

/// What the file `tail` says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tail {
    /// One past the highest number that was acknowledged.
    pub(super) end: Seq,
    pub(super) epoch: u64,
    /// Of the last state that was synced.
    pub(super) generation: u64,
}

impl Tail {
    fn read(file: &File) -> Option<Self> {
        let mut mark = [0; 28];
        file.read_exact_at(&mut mark, 0).ok()?;
        let (numbers, checksum) = mark.split_at(24);
        let number = |at: usize| Some(u64::from_le_bytes(*numbers[at..].first_chunk()?));
        let sound = crc32c::crc32c(numbers).to_le_bytes() == checksum;
        let tail = Self { end: number(0)?, epoch: number(8)?, generation: number(16)? };
        (sound && tail.end > 0).then_some(tail)
    }

    fn write(self, file: &File) -> io::Result<()> {
        let mut mark = [0; 28];
        mark[..8].copy_from_slice(&self.end.to_le_bytes());
        mark[8..16].copy_from_slice(&self.epoch.to_le_bytes());
        mark[16..24].copy_from_slice(&self.generation.to_le_bytes());
        let checksum = crc32c::crc32c(&mark[..24]);
        mark[24..].copy_from_slice(&checksum.to_le_bytes());
        file.write_all_at(&mark, 0)
    }
}

/// What tests make go wrong.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Syncs fail.
    pub(super) sync: std::sync::atomic::AtomicBool,
    /// Syncs do not come back.
    pub(super) hang: std::sync::atomic::AtomicBool,
    /// Free bytes of the file system, plus one; 0: the truth.
    pub(super) free: std::sync::atomic::AtomicU64,
    /// The thread ends as if the process had been killed.
    pub(super) crash: std::sync::atomic::AtomicBool,
}

impl Disk {
    /// Makes the directory and takes it for this process.
    pub(super) fn lock(dir: &Path) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { path: dir.to_owned(), source };
        fs::create_dir_all(dir).map_err(io)?;
        let lock = open_rw(&dir.join("lock")).map_err(io)?;
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
        let tail = open_rw(&dir.join("tail")).map_err(io)?;
        Ok(Self {
            dir: dir.to_owned(),
            lock: Some(lock),
            tail,
            #[cfg(test)]
            faults: std::sync::Arc::default(),
        })
    }

    /// Lets a successor in.
    pub(super) fn unlock(&mut self) {
        self.lock = None;
    }

    pub(super) fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    pub(super) fn rebuild(&self) -> PathBuf {
        self.dir.join("store.rebuild")
    }

    /// Makes what was written to `file` survive a power cut.
    pub(super) fn sync_data(&self, file: &File) -> io::Result<()> {
        #[cfg(test)]
        if self.faults.sync.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        watchdog::step("fdatasync of the store");
        #[cfg(test)]
        while self.faults.hang.load(std::sync::atomic::Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        file.sync_data()
    }

    /// How far readings are known to have been acknowledged; nothing if the mark cannot be read.
    pub(super) fn tail(&self) -> Tail {
        Tail::read(&self.tail).unwrap_or(Tail { end: 1, epoch: 0, generation: 0 })
    }

    /// A mark that cannot be written is only staler: that is what it may be at any time.
    pub(super) fn set_tail(&self, tail: Tail) {
        watchdog::step("writing how far readings were acknowledged");
        tail.write(&self.tail).ok();
    }

    /// Writes down where the store must end when it is rebuilt: what comes behind was never acknowledged.
    pub(super) fn set_rebuild_end(&self, tail: Tail) -> io::Result<()> {
        let file = open_rw(&self.store().join("end"))?;
        tail.write(&file)?;
        file.sync_all()
    }

    /// What `set_rebuild_end` wrote, in a store that was set aside since.
    pub(super) fn rebuild_end(aside: &Path) -> Option<Tail> {
        Tail::read(&File::open(aside.join("end")).ok()?)
    }

    /// Bytes that the file system has left for us.
    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        watchdog::step("asking for the free space");
        #[cfg(test)]
        if let free @ 1.. = self.faults.free.load(std::sync::atomic::Ordering::SeqCst) {
            return Ok(free - 1);
        }
        let stat = statvfs(&self.dir)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Bytes that the store's files take up.
    pub(super) fn used_bytes(&self) -> io::Result<u64> {
        watchdog::step("looking at the store's files");
        let mut sum = 0;
        for entry in fs::read_dir(self.store())? {
            match entry?.metadata() {
                Ok(metadata) => sum += metadata.blocks() * 512,
                // The store removes old snapshots as it goes.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sum)
    }

    pub(super) fn has_ballast(&self) -> bool {
        self.dir.join("ballast").exists()
    }

    /// Takes space that can be given up later.
    pub(super) fn make_ballast(&self) -> io::Result<()> {
        watchdog::step("taking space for the ballast");
        let path = self.dir.join("ballast");
        let taken = File::create(&path)
            .and_then(|file| Ok(fallocate(&file, FallocateFlags::empty(), 0, BALLAST_BYTES)?));
        if taken.is_err() {
            fs::remove_file(&path)?;
        }
        taken
    }

    /// Gives the space up; says whether there was any.
    pub(super) fn drop_ballast(&self) -> bool {
        watchdog::step("giving up the ballast");
        fs::remove_file(self.dir.join("ballast")).is_ok()
    }

    /// Renames the store so that it is kept but not used, and says where it is. Without a store, the one that was
    /// set aside last: its rebuilding was interrupted.
    pub(super) fn set_aside(&self) -> io::Result<Option<PathBuf>> {
        watchdog::step("setting the damaged store aside");
        let mut damaged = self.damaged()?;
        let store = self.store();
        if store.exists() {
            let number = damaged.last().map_or(1, |(number, _)| number + 1);
            let path = self.dir.join(format!("store.damaged-{number}"));
            fs::rename(&store, &path)?;
            self.sync_dir()?;
            damaged.push((number, path));
        }
        while damaged.len() > MAX_DAMAGED {
            fs::remove_dir_all(damaged.remove(0).1)?;
        }
        Ok(damaged.pop().map(|(_, path)| path))
    }

    /// Frees the space of damaged stores but for the newest.
    pub(super) fn forget_older_damaged(&self) -> io::Result<()> {
        let mut damaged = self.damaged()?;
        damaged.pop();
        damaged.into_iter().try_for_each(|(_, path)| fs::remove_dir_all(path))
    }

    /// Damaged stores by number, the newest last.
    fn damaged(&self) -> io::Result<Vec<(u32, PathBuf)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let number = name.and_then(|name| name.strip_prefix("store.damaged-")?.parse().ok());
            found.extend(number.map(|number| (number, path)));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// A store was damaged, set aside, and its rebuilding did not come to an end.
    pub(super) fn was_interrupted(&self) -> io::Result<bool> {
        Ok(!self.store().exists() && !self.damaged()?.is_empty())
    }

    /// Puts the rebuilt store in its place.
    pub(super) fn install(&self) -> io::Result<()> {
        fs::rename(self.rebuild(), self.store())?;
        self.sync_dir()
    }

    fn sync_dir(&self) -> io::Result<()> {
        watchdog::step("fsync of the buffer's directory");
        File::open(&self.dir)?.sync_all()
    }
}

fn open_rw(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(path)
}
