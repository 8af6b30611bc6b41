//! How many connections there may be: of all, of an address, of a device.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::share::{Share, Shares};
use super::{raise_file_limit, room_for};
use crate::authorize::origin;
use crate::authorize::refusals::{Refusal, Refusals, Whom};
use crate::config;
use crate::message::DeviceId;

/// Counts connections, and records those that are too many. Cheap to clone.
#[derive(Clone)]
pub(super) struct Bounds {
    max_connections: usize,
    places: Arc<Semaphore>,
    by_address: Shares<IpAddr>,
    by_device: Shares<DeviceId>,
    refusals: Refusals,
}

/// What a connection holds while it is open.
pub(super) type Place = (OwnedSemaphorePermit, Share<IpAddr>);

impl Bounds {
    /// As the settings say, and the limit on open files, which is raised as far as it goes.
    pub(super) fn new(settings: &config::Listener, refusals: Refusals) -> Self {
        let max_connections = room_for(settings.max_connections, raise_file_limit(settings.max_connections));
        Self {
            max_connections,
            places: Arc::new(Semaphore::new(max_connections)),
            by_address: Shares::new(settings.max_connections_per_address),
            by_device: Shares::new(settings.max_connections_per_device),
            refusals,
        }
    }

    /// A place for a connection of which no more is known than where it comes from.
    pub(super) fn place(&self, address: IpAddr) -> Option<Place> {
        let Some(share) = self.by_address.try_take(origin(address)) else {
            let detail = format!("{} connections from there are open", self.by_address.each());
            self.refusals.record(Refusal::TooManyConnectionsOfAddress, Whom::at(address), &detail);
            return None;
        };
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let detail = format!("{} connections are open", self.max_connections);
            self.refusals.record(Refusal::TooManyConnections, Whom::at(address), &detail);
            return None;
        };
        Some((place, share))
    }

    /// A place among the connections of a device. Those without a certificate need none.
    pub(super) fn seat(&self, device: Option<&DeviceId>, address: IpAddr) -> Option<Option<Share<DeviceId>>> {
        let Some(device) = device else { return Some(None) };
        let seat = self.by_device.try_take(device.clone());
        if seat.is_none() {
            let detail = format!("{} connections with its certificate are open", self.by_device.each());
            let whom = Whom { device: Some(device), ..Whom::at(address) };
            self.refusals.record(Refusal::TooManyConnectionsOfDevice, whom, &detail);
        }
        seat.map(Some)
    }
}
