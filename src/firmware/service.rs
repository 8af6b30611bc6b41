//! The releases as a running gateway sees them, and what it knows of its devices.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::{Semaphore, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::checked::{CheckedImages, Damaged};
use super::image::Kind;
use super::notice::{Notices, Publish};
use super::release::{Offer, Release, Releases};
use super::state::{DeviceState, States};
use super::store::{Room, Store};
use crate::authorize::refusals::{Refusal, Refusals, Whom};
use crate::authorize::{Authenticator, Authorizer, Document};
use crate::clock::Clock;
use crate::config;
use crate::message::DeviceId;

/// How often is looked whether the releases are others.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The file of what is known of devices is written no more often: it is on an SD card.
const WRITE_EVERY: Duration = Duration::from_secs(10);
/// What is wrong is said so often.
const REMIND_EVERY: Duration = Duration::from_secs(3_600);

/// What it is made of.
#[derive(Debug)]
pub struct Parts {
    /// The settings.
    pub settings: config::Firmware,
    /// What the releases may take.
    pub room: Room,
    /// Where the gateway keeps its data.
    pub data_dir: PathBuf,
    /// Who says who a device is.
    pub authenticator: Authenticator,
    /// The rules as they are now.
    pub rules: watch::Receiver<Authorizer>,
    /// Where refusals are counted.
    pub refusals: Refusals,
    /// The clock.
    pub clock: Clock,
}

/// The firmware of a running gateway. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Firmware(pub(super) Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: config::Firmware,
    room: Room,
    store: Store,
    index: Mutex<Document<Releases>>,
    releases: RwLock<Arc<Releases>>,
    images: CheckedImages,
    states: Mutex<States>,
    pub(super) authenticator: Authenticator,
    pub(super) rules: watch::Receiver<Authorizer>,
    pub(super) refusals: Refusals,
    pub(super) clock: Clock,
    pub(super) downloads: Arc<Semaphore>,
    pub(super) counters: Counters,
    /// What is wrong, and when that was said.
    told: Mutex<BTreeMap<String, Instant>>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) sent: AtomicU64,
    pub(super) completed: AtomicU64,
    pub(super) not_modified: AtomicU64,
    pub(super) damaged: AtomicU64,
}

/// What it has done since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Figures {
    /// Releases that are kept.
    pub releases: usize,
    /// Images that are sent at this moment.
    pub downloads: usize,
    /// Images, and parts of them, of which sending has begun.
    pub sent: u64,
    /// Images of which all was sent.
    pub completed: u64,
    /// Requests of devices that had the image already, or could not take it.
    pub not_modified: u64,
    /// Requests for images that are damaged.
    pub damaged: u64,
    /// What was found to be wrong within the last hour, for somebody to mend.
    pub troubles: Vec<String>,
}

impl Firmware {
    /// Reads the releases and what is known of devices. What cannot be read is said, and keeps nothing from starting.
    /// It waits for the disk.
    #[must_use]
    pub fn open(parts: Parts) -> Self {
        let Parts { settings, room, data_dir, authenticator, rules, refusals, clock } = parts;
        let store = Store::new(&data_dir);
        let index = store.open_index();
        let shared = Shared {
            downloads: Arc::new(Semaphore::new(settings.max_downloads)),
            settings,
            room,
            images: CheckedImages::new(store.clone()),
            releases: RwLock::new(index.content()),
            index: Mutex::new(index),
            states: Mutex::new(store.read_states()),
            store,
            authenticator,
            rules,
            refusals,
            clock,
            counters: Counters::default(),
            told: Mutex::default(),
        };
        let firmware = Self(Arc::new(shared));
        firmware.0.tell_troubles();
        firmware
    }

    /// The releases on disk, to be changed; what has changed is in force within a second.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// What the releases may take.
    #[must_use]
    pub fn room(&self) -> Room {
        self.0.room
    }

    /// The releases in force.
    #[must_use]
    pub fn releases(&self) -> Arc<Releases> {
        self.0.releases()
    }

    /// What is known of each device.
    #[must_use]
    pub fn states(&self) -> Vec<(DeviceId, DeviceState)> {
        let states = self.0.states();
        states.iter().map(|(device, state)| (device.clone(), state.clone())).collect()
    }

    /// Where devices report which version they run.
    #[must_use]
    pub fn version_topic(&self) -> &config::TopicTemplate {
        &self.0.settings.version_topic
    }

    /// A device says which version it runs. What is no version is passed over.
    pub fn reported(&self, device: &DeviceId, payload: &[u8]) {
        let text = std::str::from_utf8(payload).unwrap_or_default();
        if let Ok(version) = text.trim_matches(|c: char| c.is_whitespace() || c == '\0' || c == '"').parse() {
            self.0.states().reported(device, version, self.0.now());
        }
    }

    /// What it has done since the start.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let Counters { sent, completed, not_modified, damaged } = &self.0.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Figures {
            releases: self.releases().iter().count(),
            downloads: self.0.settings.max_downloads - self.0.downloads.available_permits(),
            sent: count(sent),
            completed: count(completed),
            not_modified: count(not_modified),
            damaged: count(damaged),
            troubles: self.0.told.lock().expect("no panic under this lock").keys().cloned().collect(),
        }
    }

    /// Takes up changes of the releases, tells devices of them, and keeps what is known of devices, until it is
    /// cancelled. `base_url`: what devices are told to find images under.
    pub async fn run(self, base_url: String, publish: impl Publish, cancel: CancellationToken) {
        let mut notices = Notices::new(base_url);
        let mut rules = self.0.rules.clone();
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut written: Option<Instant> = None;
        loop {
            let is_last = tokio::select! {
                _ = ticks.tick() => false,
                () = cancel.cancelled() => true,
            };
            // A gateway that has gone may have left this.
            let changed = self.off_thread(Shared::look).await;
            if changed.unwrap_or(false) || rules.has_changed().unwrap_or(false) {
                rules.mark_unchanged();
                notices.are_due();
            }
            notices.send(&self.0, &publish);
            if self.0.states().changed && (is_last || written.is_none_or(|at| at.elapsed() >= WRITE_EVERY)) {
                written = Some(Instant::now());
                self.off_thread(Shared::keep_states).await;
            }
            if is_last {
                return;
            }
        }
    }

    /// Runs what waits for the disk.
    async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> T + Send + 'static,
    ) -> Option<T> {
        let shared = Arc::clone(&self.0);
        match tokio::task::spawn_blocking(move || work(&shared)).await {
            Ok(done) => Some(done),
            Err(panic) => {
                tracing::error!(%panic, "looking after the firmware");
                None
            }
        }
    }
}

impl Shared {
    pub(super) fn releases(&self) -> Arc<Releases> {
        Arc::clone(&self.releases.read().expect("no panic under this lock"))
    }

    pub(super) fn states(&self) -> MutexGuard<'_, States> {
        self.states.lock().expect("no panic under this lock")
    }

    pub(super) fn now(&self) -> OffsetDateTime {
        self.clock.trusted_now().into()
    }

    /// What a device is offered.
    pub(super) fn offer<'a>(&self, releases: &'a Releases, device: &DeviceId, kind: Kind) -> Offer<'a> {
        let rules = self.rules.borrow();
        releases.offer(device, kind, |group| rules.is_in_group(device, group))
    }

    /// Opens the image of a release, which is whole.
    pub(super) async fn open(&self, release: &Release) -> Result<std::fs::File, Damaged> {
        let opened = self.images.open(&release.image).await;
        if let Err(damaged) = &opened {
            self.counters.damaged.fetch_add(1, Ordering::Relaxed);
            self.tell(damaged.to_string());
        }
        opened
    }

    /// Counts, logs and writes down that something was refused to a device.
    pub(super) fn refuse(
        &self,
        reason: Refusal,
        peer: std::net::IpAddr,
        device: Option<&DeviceId>,
        detail: &str,
    ) {
        self.refusals.record(reason, Whom { device, ..Whom::at(peer) }, detail);
    }

    /// Whether there are other releases now.
    pub(super) fn look(&self) -> bool {
        let mut index = self.index.lock().expect("no panic under this lock");
        let changed = index.look();
        let releases = index.content();
        drop(index);
        self.tell_troubles();
        if changed {
            self.images.retain(&releases);
            *self.releases.write().expect("no panic under this lock") = releases;
        }
        changed
    }

    fn keep_states(&self) {
        let copy = {
            let mut states = self.states();
            states.changed = false;
            states.clone()
        };
        if let Err(error) = self.store.keep_states(&copy) {
            // It is tried again with the next change.
            self.tell(format!("what is known of the firmware of devices cannot be written: {error}"));
        }
    }

    fn tell_troubles(&self) {
        let trouble = self.index.lock().expect("no panic under this lock").trouble().map(ToString::to_string);
        self.told.lock().expect("no panic under this lock").retain(|_, at| at.elapsed() < REMIND_EVERY);
        if let Some(trouble) = trouble {
            self.tell(format!("{trouble}; what was last known stays in force"));
        }
    }

    /// Says what is wrong, at once and then now and again.
    fn tell(&self, trouble: String) {
        let mut told = self.told.lock().expect("no panic under this lock");
        if let Entry::Vacant(new) = told.entry(trouble) {
            tracing::error!("firmware: {}", new.key());
            new.insert(Instant::now());
        }
    }
}
