//! Time that is honest (P7): a Raspberry Pi has no clock that runs while it is off.
//!
//! Two clocks stamp every reading: the wall clock, which may be wrong until a time daemon has set it, and
//! `CLOCK_BOOTTIME`, which is always right about differences within one boot. When the wall clock is
//! synchronised, their difference gives every earlier reading of this boot its true time.
//!
//! A *floor* (the last trusted time, kept in a file, and never before this program was built) keeps
//! TLS working when the box wakes up in the past: a certificate is judged by [`Clock::trusted_now`].
//! It counts only while the wall clock is not synchronised, and a wrong one lasts no longer than that.

mod floor;
mod kernel;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::{self, ClockSource};
use crate::message::{BootId, ClockQuality, Stamp};

/// The program cannot run before it was written: 2026-01-01.
const BUILT_MS: i64 = 1_767_225_600_000;

/// It will not run so long either, 30 years on: what says so is damaged.
const WORN_OUT_MS: i64 = BUILT_MS + 30 * 365 * 86_400_000;

#[cfg(test)]
pub(crate) use floor::line as floor_line;

/// The wall clock was set, if it and the boot clock have moved apart by more than this.
const STEP_MS: u64 = 1_000;

/// Where a time comes from that a sink is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeQuality {
    /// The wall clock was synchronised when the reading came.
    Synchronized,
    /// It was not, but was soon after in the same boot: the time was corrected.
    Corrected,
    /// It never was: the time is what the clock said.
    Unsynchronized,
}

impl TimeQuality {
    /// The word that sinks are given.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Synchronized => "synchronized",
            Self::Corrected => "corrected",
            Self::Unsynchronized => "unsynchronized",
        }
    }
}

/// The true time of a reading, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolved {
    /// Milliseconds since 1970-01-01 UTC.
    At(i64, TimeQuality),
    /// Not known yet: it is worth waiting.
    Wait,
}

/// The clock. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    boot: BootId,
    started_boot_ms: u64,
    source: ClockSource,
    sync_wait: Duration,
    synchronized: AtomicBool,
    floor_ms: AtomicI64,
    floor_file: PathBuf,
    offsets: RwLock<BTreeMap<BootId, i64>>,
}

/// What a look at the time daemon's word has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// The wall clock has become trustworthy; this boot's offset (wall minus boot clock, ms) is now known.
    Synchronized {
        /// The boot.
        boot: BootId,
        /// Wall minus boot clock, milliseconds.
        offset_ms: i64,
    },
    /// The wall clock was set while it was trustworthy: this boot's offset is another one.
    Stepped {
        /// The boot.
        boot: BootId,
        /// Wall minus boot clock, milliseconds.
        offset_ms: i64,
    },
    /// The time daemon has lost its source.
    Lost,
}

impl Clock {
    /// Reads the floor and the state of the wall clock.
    ///
    /// `offsets`: wall minus boot clock of earlier boots, as the buffer kept them.
    ///
    /// A floor that is damaged or cannot be true is none.
    ///
    /// # Errors
    /// Only if the kernel does not tell its boot id.
    pub fn start(
        settings: &config::Clock,
        floor_file: &Path,
        offsets: BTreeMap<BootId, i64>,
    ) -> std::io::Result<Self> {
        let clock = Self(Arc::new(Inner {
            boot: kernel::boot_id()?,
            started_boot_ms: kernel::boottime_ms(),
            source: settings.source.clone(),
            sync_wait: settings.sync_wait,
            synchronized: AtomicBool::new(false),
            floor_ms: AtomicI64::new(floor::read(floor_file).unwrap_or(BUILT_MS)),
            floor_file: floor_file.to_owned(),
            offsets: RwLock::new(offsets),
        }));
        clock.look();
        Ok(clock)
    }

    /// The present moment on both clocks. It is synchronised only if the wall clock was not set since the last
    /// [`Clock::look`].
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        let (wall_ms, boot_ms) = (wall_ms(), kernel::boottime_ms());
        let quality = if self.is_synchronized() && !self.has_stepped(offset_of(wall_ms, boot_ms)) {
            ClockQuality::Synchronized
        } else {
            ClockQuality::Unsynchronized
        };
        Stamp { wall_ms, boot_ms, boot: self.0.boot, quality }
    }

    /// Whether the wall clock is synchronised, as of the last [`Clock::look`].
    #[must_use]
    pub fn is_synchronized(&self) -> bool {
        self.0.synchronized.load(Ordering::Relaxed)
    }

    /// This boot and its offset (wall minus boot clock, milliseconds), once the clock is synchronised.
    #[must_use]
    pub fn offset(&self) -> Option<(BootId, i64)> {
        let offsets = self.0.offsets.read().expect("no panic under this lock");
        offsets.get(&self.0.boot).map(|offset| (self.0.boot, *offset))
    }

    /// A time by which certificates and tokens may be judged: the wall clock; while that is not synchronised,
    /// never before the floor.
    #[must_use]
    pub fn trusted_now(&self) -> SystemTime {
        let wall = wall_ms();
        time_of(if self.is_synchronized() { wall } else { wall.max(self.floor_ms()) })
    }

    /// A time that is over for certain, by which ends may be judged: a wall clock that is not synchronised may be
    /// years ahead, and then the floor is all that is known.
    #[must_use]
    pub fn certainly_past(&self) -> SystemTime {
        time_of(if self.is_synchronized() { wall_ms() } else { self.floor_ms() })
    }

    /// Asks the kernel or the time daemon; call it every second or so.
    pub fn look(&self) -> Change {
        let inner = &self.0;
        let synchronized = wall_ms() >= BUILT_MS
            && match &inner.source {
                ClockSource::Kernel => kernel::is_synchronized(),
                ClockSource::File(path) => path.exists(),
                ClockSource::Trusted => true,
            };
        let before = inner.synchronized.load(Ordering::Relaxed);
        let offset_ms = offset_of(wall_ms(), kernel::boottime_ms());
        if synchronized && (!before || self.has_stepped(offset_ms)) {
            let boot = inner.boot;
            self.offsets_mut().insert(boot, offset_ms);
            // After the offset: whoever sees the flag finds the offset.
            inner.synchronized.store(true, Ordering::Release);
            return if before {
                Change::Stepped { boot, offset_ms }
            } else {
                Change::Synchronized { boot, offset_ms }
            };
        }
        if !synchronized && before {
            inner.synchronized.store(false, Ordering::Release);
            return Change::Lost;
        }
        Change::None
    }

    /// The true time of a stamp.
    #[must_use]
    pub fn resolve(&self, stamp: &Stamp) -> Resolved {
        if stamp.quality == ClockQuality::Synchronized {
            return Resolved::At(stamp.wall_ms, TimeQuality::Synchronized);
        }
        let offset = self.0.offsets.read().expect("no panic under this lock").get(&stamp.boot).copied();
        if let Some(offset) = offset {
            let boot_ms = i64::try_from(stamp.boot_ms).unwrap_or(i64::MAX);
            return Resolved::At(boot_ms.saturating_add(offset), TimeQuality::Corrected);
        }
        if stamp.boot == self.0.boot && self.is_waiting() {
            return Resolved::Wait;
        }
        Resolved::At(stamp.wall_ms, TimeQuality::Unsynchronized)
    }

    /// How long ago a stamp was taken. Exact within one boot. Across boots it is what is certain: at least as
    /// long as this one runs, and as long as the wall clock says if it could be trusted then (or was corrected)
    /// and can be trusted now.
    #[must_use]
    pub fn age(&self, stamp: &Stamp) -> Duration {
        let now_ms = kernel::boottime_ms();
        if stamp.boot == self.0.boot {
            return Duration::from_millis(now_ms.saturating_sub(stamp.boot_ms));
        }
        let this_boot = Duration::from_millis(now_ms);
        match self.resolve(stamp) {
            Resolved::At(taken_ms, TimeQuality::Synchronized | TimeQuality::Corrected) => {
                self.certainly_past().duration_since(time_of(taken_ms)).unwrap_or_default().max(this_boot)
            }
            _ => this_boot,
        }
    }

    /// Whether readings without a true time still wait for it.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        let since_start = kernel::boottime_ms().saturating_sub(self.0.started_boot_ms);
        !self.is_synchronized() && u128::from(since_start) < self.0.sync_wait.as_millis()
    }

    /// Keeps the present time as the floor, if it can be trusted. Call it every quarter of an hour and at the end.
    /// It waits for the disk: not on an async thread.
    ///
    /// # Errors
    /// When the file cannot be written; the floor in memory holds all the same.
    pub fn keep_floor(&self) -> std::io::Result<()> {
        if !self.is_synchronized() {
            return Ok(());
        }
        // It may be earlier than the one before: that one came from a clock that was set wrongly.
        let floor = wall_ms();
        self.0.floor_ms.store(floor, Ordering::Relaxed);
        floor::write(&self.0.floor_file, floor)
    }

    /// Whether this offset is not the one that was taken last.
    fn has_stepped(&self, offset_ms: i64) -> bool {
        self.offset().is_some_and(|(_, taken)| taken.abs_diff(offset_ms) > STEP_MS)
    }

    fn floor_ms(&self) -> i64 {
        self.0.floor_ms.load(Ordering::Relaxed)
    }

    fn offsets_mut(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<BootId, i64>> {
        self.0.offsets.write().expect("no panic under this lock")
    }
}

fn offset_of(wall_ms: i64, boot_ms: u64) -> i64 {
    wall_ms.saturating_sub_unsigned(boot_ms)
}

fn time_of(ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

fn wall_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
    }
}
