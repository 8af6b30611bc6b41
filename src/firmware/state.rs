//! What is known of the firmware of each device: from its requests, from what it was sent, and from what it reports.

use std::collections::BTreeMap;

use time::OffsetDateTime;

use super::asked::{Asked, Board};
use super::image::Kind;
use super::release::{Release, Version};
use crate::message::DeviceId;

/// Devices that are remembered; beyond it the one goes that was heard of the longest ago.
const MAX_DEVICES: usize = 10_000;

/// A device that has asked for nothing for so long does not go on with what it had begun.
const PAUSE: time::Duration = time::Duration::minutes(15);

/// What is known of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct DeviceState {
    /// When it was heard of last, by the gateway's clock.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub heard: Option<OffsetDateTime>,
    /// Whose updater it has; unknown for that of ESP-IDF.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub board: Option<Board>,
    /// The version that it says it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// What it was offered last, of each kind.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub offers: BTreeMap<Kind, Offered>,
    /// Why it could not be given what it was offered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The release that it was told of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub told: Option<u32>,
}

/// A release that a device was offered, and how far it has fetched it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Offered {
    /// The number of the release.
    pub release: u32,
    /// Its version.
    pub version: Version,
    /// When that was first.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// So many bytes from its beginning have been sent, …
    pub sent: u64,
    /// … of so many.
    pub bytes: u64,
    /// When something of it was sent last.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none", default)]
    pub sent_at: Option<OffsetDateTime>,
    /// The device has it: it says so.
    #[serde(default)]
    pub runs: bool,
}

impl Offered {
    fn new(release: &Release, at: OffsetDateTime) -> Self {
        let (bytes, version) = (release.image.bytes, release.version.clone());
        Self { release: release.id, version, at, sent: 0, bytes, sent_at: None, runs: false }
    }

    /// Whether all of it was sent. That it arrived is known when the device runs it.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.sent == self.bytes
    }
}

/// What is known of all devices.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct States {
    pub(super) form: u32,
    devices: BTreeMap<DeviceId, DeviceState>,
    /// Something has changed that is worth a write to the disk: more than that a device was heard of.
    #[serde(skip)]
    pub(super) changed: bool,
}

impl Default for States {
    fn default() -> Self {
        Self { form: super::store::FORM, devices: BTreeMap::new(), changed: false }
    }
}

impl States {
    /// Each device, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&DeviceId, &DeviceState)> {
        self.devices.iter()
    }

    /// What is known of a device.
    #[must_use]
    pub fn get(&self, device: &DeviceId) -> Option<&DeviceState> {
        self.devices.get(device)
    }

    /// A device has asked.
    pub(super) fn asked(&mut self, device: &DeviceId, asked: &Asked, now: OffsetDateTime) {
        self.change(device, Some(now), |state| {
            state.board = asked.board.or(state.board);
            // With the image of a file system comes the version of that, if any.
            if asked.kind == Kind::Program && asked.version.is_some() {
                state.version.clone_from(&asked.version);
            }
        });
    }

    /// A device says which version it runs.
    pub(super) fn reported(&mut self, device: &DeviceId, version: Version, now: OffsetDateTime) {
        self.change(device, Some(now), |state| {
            if let Some(offered) = state.offers.get_mut(&Kind::Program) {
                offered.runs = offered.version == version;
            }
            state.version = Some(version);
        });
    }

    /// A device was offered a release.
    pub(super) fn offered(
        &mut self,
        device: &DeviceId,
        release: &Release,
        runs: bool,
        problem: Option<String>,
        now: OffsetDateTime,
    ) {
        self.change(device, Some(now), |state| {
            let offered =
                state.offers.entry(release.image.kind()).or_insert_with(|| Offered::new(release, now));
            if offered.release != release.id {
                *offered = Offered::new(release, now);
            }
            offered.runs = runs;
            state.problem = problem;
        });
    }

    /// A device was sent a part of what it was offered. Whether all of it has been sent now.
    pub(super) fn sent(
        &mut self,
        device: &DeviceId,
        (kind, release): (Kind, u32),
        (from, to): (u64, u64),
        now: OffsetDateTime,
    ) -> bool {
        self.change(device, Some(now), |state| {
            let Some(offered) = state.offers.get_mut(&kind).filter(|offered| offered.release == release)
            else {
                return false;
            };
            // A part that has a gap before it says nothing of the whole; one from the start begins anew.
            if from == 0 {
                offered.sent = to;
            } else if from <= offered.sent {
                offered.sent = offered.sent.max(to);
            }
            offered.sent_at = Some(now);
            to > from && offered.is_complete()
        })
    }

    /// A device was told of a release, or that there is none.
    pub(super) fn told(&mut self, device: &DeviceId, release: Option<u32>) {
        self.change(device, None, |state| state.told = release);
    }

    /// The release of which a device has fetched everything before this byte, a short while ago: it goes on with that,
    /// although there may be a newer one.
    pub(super) fn begun(&self, device: &DeviceId, kind: Kind, from: u64, now: OffsetDateTime) -> Option<u32> {
        let offered = self.devices.get(device)?.offers.get(&kind)?;
        let is_recent = offered.sent_at.is_some_and(|at| now - at < PAUSE);
        (is_recent && from > 0 && from <= offered.sent).then_some(offered.release)
    }

    /// `heard`: when, if it is the device that says something.
    fn change<T>(
        &mut self,
        device: &DeviceId,
        heard: Option<OffsetDateTime>,
        change: impl FnOnce(&mut DeviceState) -> T,
    ) -> T {
        if self.devices.len() >= MAX_DEVICES && !self.devices.contains_key(device) {
            let oldest =
                self.devices.iter().min_by_key(|(_, state)| state.heard).map(|(name, _)| name.clone());
            oldest.map(|oldest| self.devices.remove(&oldest));
        }
        let state = self.devices.entry(device.clone()).or_default();
        let before = state.clone();
        let changed = change(state);
        self.changed |= *state != before;
        state.heard = heard.or(state.heard);
        changed
    }
}
