//! Which phones of the message gateway have announced themselves, on connections that are still there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::Broker;
use super::outbox::Line;
use crate::message::{DeviceId, Stamp};

/// A phone that has announced itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// Whose API key it has.
    pub device: DeviceId,
    /// What it calls itself.
    pub client_id: Arc<str>,
    /// When it did that first on this connection.
    pub since: Stamp,
}

/// As many as there are connections, at most.
#[derive(Debug, Default)]
pub(super) struct Phones(Mutex<ByDevice>);

type ByDevice = HashMap<DeviceId, Vec<(Arc<Line>, Announced)>>;

impl Phones {
    /// False if it had announced itself on this connection before.
    pub(super) fn announce(&self, line: &Arc<Line>, announced: Announced) -> bool {
        let mut phones = self.phones();
        let of_device = phones.entry(announced.device.clone()).or_default();
        let is_new = !of_device.iter().any(|(other, _)| Arc::ptr_eq(other, line));
        if is_new {
            of_device.push((Arc::clone(line), announced));
        }
        is_new
    }

    /// The connection has ended.
    pub(super) fn remove(&self, device: &DeviceId, line: &Arc<Line>) {
        let mut phones = self.phones();
        if let Some(of_device) = phones.get_mut(device) {
            of_device.retain(|(other, _)| !Arc::ptr_eq(other, line));
            if of_device.is_empty() {
                phones.remove(device);
            }
        }
    }

    fn phones(&self) -> MutexGuard<'_, ByDevice> {
        self.0.lock().expect("no panic under this lock")
    }
}

impl Broker {
    /// The phones that are connected and have announced themselves, by the names of their devices; of a device with
    /// several connections each.
    #[must_use]
    pub fn announced(&self) -> Vec<Announced> {
        let phones = self.0.phones.phones();
        let mut all: Vec<_> = phones.values().flatten().map(|(_, announced)| announced.clone()).collect();
        drop(phones);
        all.sort_by(|a, b| (&a.device, &a.client_id).cmp(&(&b.device, &b.client_id)));
        all
    }
}
