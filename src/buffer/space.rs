//! Bounds: bytes, keys, age, and the free space of the file system.

use std::time::{Duration, Instant};

use super::disk::{BALLAST_BYTES, Disk};
use super::group::Group;
use super::intake::Refusing;
use super::ledger::State;
use super::store::{Store, StoreError};
use super::thread::Hub;
use super::{DropReason, shrink};
use crate::config::{self, FullPolicy};
use crate::message::Stamp;

/// The file is larger than what lives in it, by up to this factor (measured, see the decision page).
const FILE_PER_LIVE: u64 = 3;
/// About 40 MB of memory: sled keeps a little for each page.
const MAX_KEYS: u64 = 1_000_000;
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A disk that others have filled leaves the buffer at least this, as long as there is any space at all.
const LEAST_LIVE: u64 = 4 * 1024 * 1024;
/// Below it the store stops growing: what is new must find room among what is old.
const SCARCE_FREE: u64 = 4 * BALLAST_BYTES;
/// Below it nothing new is taken, so that the store can still clean up.
const LEAST_FREE: u64 = BALLAST_BYTES + BALLAST_BYTES / 2;
/// So many bytes of readings fill a disk faster than the clock would tell.
const LOOK_AFTER_BYTES: u64 = 1024 * 1024;
/// Blocks that are looked at for their age in one go.
const AGED_BLOCKS: usize = 256;

/// How full it is.
#[derive(Debug)]
pub(super) struct Space {
    max_live: u64,
    max_bytes: u64,
    min_free: u64,
    policy: FullPolicy,
    max_age: Option<Duration>,
    looked: Option<Instant>,
    /// Bytes of readings since.
    taken: u64,
    /// The live bytes at which the disk became scarce.
    scarce_at: Option<u64>,
    no_space: bool,
    said_so: bool,
    refusing: Refusing,
    /// The newest reading's stamp, and when it came: the buffer has no clock of its own.
    now: Option<(Stamp, Instant)>,
}

impl Space {
    pub(super) fn new(settings: &config::Buffer) -> Self {
        Self {
            max_live: (settings.max_bytes / FILE_PER_LIVE).max(1),
            max_bytes: settings.max_bytes,
            min_free: settings.min_free_bytes,
            policy: settings.when_full,
            max_age: settings.max_age,
            looked: None,
            taken: 0,
            scarce_at: None,
            no_space: false,
            said_so: false,
            refusing: Refusing::default(),
            now: None,
        }
    }

    /// When to look next.
    pub(super) fn due(&self) -> Instant {
        match self.looked {
            Some(looked) if self.taken < LOOK_AFTER_BYTES => looked + LOOK_EVERY,
            _ => Instant::now(),
        }
    }

    /// Looks at the disk and at the age of the oldest, once a second or more often while much comes in.
    pub(super) fn look(&mut self, store: &Store, disk: &Disk, hub: &Hub) -> Result<(), StoreError> {
        if self.due() > Instant::now() {
            return Ok(());
        }
        self.looked = Some(Instant::now());
        self.taken = 0;
        let (used, free) = (disk.used_bytes()?, disk.free_bytes()?);
        let live = {
            let mut book = hub.ledger.book();
            book.disk_bytes = used;
            book.state.live_bytes + book.state.record_bytes
        };
        let scarce = free < self.min_free.max(SCARCE_FREE) || used > self.max_bytes;
        self.scarce_at = scarce.then(|| self.scarce_at.unwrap_or(live));
        // A file that is larger than what lives in it has room inside.
        let inside = used.saturating_sub(live.saturating_mul(FILE_PER_LIVE));
        self.no_space = free.saturating_add(inside) < LEAST_FREE;
        if !disk.has_ballast() && free > self.min_free.max(SCARCE_FREE).saturating_add(BALLAST_BYTES) {
            // Without it nothing is lost but a way out; the next look tries again.
            if let Err(error) = disk.make_ballast() {
                tracing::debug!(%error, "no ballast");
            }
        }
        self.drop_too_old(store, hub)?;
        self.decide(hub);
        Ok(())
    }

    /// Drops the oldest so that the group fits, if that is the policy.
    pub(super) fn make_room(&mut self, store: &Store, hub: &Hub, group: &Group) -> Result<(), StoreError> {
        self.now = group.newest().map(|stamp| (stamp, Instant::now())).or(self.now);
        let (cap, coming) = (self.cap(), group.size() as u64);
        self.taken += coming;
        let full = |state: &State| {
            state.bytes(cap) + coming > cap && state.live_bytes > 0 || state.values(MAX_KEYS) >= MAX_KEYS
        };
        if self.policy == FullPolicy::DropOldest && full(&hub.ledger.book().state) {
            // A little more than needed, so that the next groups find room, too.
            let (low, few) = (cap - cap / 64, MAX_KEYS - MAX_KEYS / 64);
            shrink::drop_oldest(store, &hub.ledger, DropReason::BufferFull, |state| {
                state.bytes(cap) + coming <= low && state.values(MAX_KEYS) < few
            })?;
        }
        self.decide(hub);
        Ok(())
    }

    fn cap(&self) -> u64 {
        self.scarce_at.map_or(self.max_live, |live| self.max_live.min(live.max(LEAST_LIVE)))
    }

    fn decide(&mut self, hub: &Hub) {
        let most = self.cap();
        // Whoever was refused gets in again only when there is room for some.
        let cap = |refused: bool| if refused { most - most / 64 } else { most };
        let (full, many) = {
            let state = &hub.ledger.book().state;
            let full = state.bytes(most) >= cap(self.refusing.readings) || state.values(MAX_KEYS) >= MAX_KEYS;
            (full, state.has_many_records(cap(self.refusing.puts), MAX_KEYS))
        };
        let full = full && self.policy == FullPolicy::RefuseNew;
        if self.no_space || self.said_so {
            self.said_so = self.no_space;
            let what = || "the disk is full: nothing is taken until there is room".to_owned();
            hub.ledger.book().trouble = self.no_space.then(what);
        }
        let refusing = Refusing { all: false, readings: full || self.no_space, puts: many || self.no_space };
        if refusing != self.refusing {
            self.refusing = refusing;
            hub.intake.set_refusing(refusing);
        }
    }

    fn drop_too_old(&self, store: &Store, hub: &Hub) -> Result<(), StoreError> {
        let (Some(max_age), Some((stamp, came))) = (self.max_age, self.now) else { return Ok(()) };
        let passed = came.elapsed().as_millis() as u64;
        let now = Stamp {
            wall_ms: stamp.wall_ms.saturating_add_unsigned(passed),
            boot_ms: stamp.boot_ms + passed,
            ..stamp
        };
        for _ in 0..AGED_BLOCKS {
            if !shrink::drop_too_old(store, &hub.ledger, &now, max_age)? {
                break;
            }
        }
        Ok(())
    }
}
