//! Devices are told what they are offered: a retained message to each, when that has changed.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::image::Kind;
use super::release::{Release, Releases, Target};
use super::service::Shared;
use crate::message::DeviceId;

/// How a retained message is published: `false` if there is no room for it now.
pub trait Publish: Fn(&str, Bytes) -> bool + Send + Sync + 'static {}

impl<F: Fn(&str, Bytes) -> bool + Send + Sync + 'static> Publish for F {}

/// Notices that are still to be sent.
pub(super) struct Notices {
    base_url: String,
    due: bool,
}

impl Notices {
    pub(super) fn new(base_url: String) -> Self {
        Self { base_url, due: true }
    }

    /// What devices are offered may be something else now.
    pub(super) fn are_due(&mut self) {
        self.due = true;
    }

    /// Tells each device that was told something else before. What there is no room for is sent the next time.
    pub(super) fn send(&mut self, firmware: &Shared, publish: &impl Publish) {
        if !std::mem::take(&mut self.due) {
            return;
        }
        let releases = firmware.releases();
        for device in addressees(firmware, &releases) {
            let release = firmware.offer(&releases, &device, Kind::Program).release();
            let told = firmware.states().get(&device).and_then(|state| state.told);
            if told == release.map(|release| release.id) {
                continue;
            }
            let Some(topic) = firmware.settings.notify_topic.fill(&device, None, None) else { continue };
            // No payload: what is retained goes away.
            let payload = release.map_or_else(Bytes::new, |release| self.payload(release, &device));
            if !publish(topic.as_str(), payload) {
                // There is no room for this one now; there may be for others.
                self.due = true;
                continue;
            }
            firmware.states().told(&device, release.map(|release| release.id));
        }
    }

    fn payload(&self, release: &Release, device: &DeviceId) -> Bytes {
        let Self { base_url, .. } = self;
        let image = &release.image;
        let text = serde_json::json!({
            "version": release.version,
            "size": image.bytes,
            "md5": image.md5,
            "sha256": image.sha256,
            "url": format!("{base_url}/firmware/{device}"),
        });
        text.to_string().into()
    }
}

/// The devices for whom there may be something else now: those whose names are known.
fn addressees(firmware: &Shared, releases: &Releases) -> BTreeSet<DeviceId> {
    let rules = firmware.rules.borrow();
    let mut devices = BTreeSet::new();
    for release in releases.iter() {
        match &release.target {
            Target::Named(name) => match rules.group_members(name) {
                Some(members) => devices.extend(members),
                None => drop(devices.insert(name.clone())),
            },
            Target::Everybody => {
                devices.extend(rules.devices().iter().map(|(device, _)| device.clone()));
                devices.extend(firmware.states().iter().map(|(device, _)| device.clone()));
            }
        }
    }
    let states = firmware.states();
    devices.extend(states.iter().filter(|(_, state)| state.told.is_some()).map(|(device, _)| device.clone()));
    devices
}
