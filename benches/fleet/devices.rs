//! Devices, each with a certificate and an address of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::ScopedJoinHandle;

use rustls::ClientConfig;

use crate::broker::Broker;
use crate::client::Client;
use crate::pki::Pki;

/// Connections that are made at once.
const AT_ONCE: usize = 16;

/// Everybody who connects.
pub(crate) struct Fleet {
    devices: Vec<Device>,
    /// Who may hear everything.
    pub(crate) watcher: Arc<ClientConfig>,
}

/// One that may connect.
pub(crate) struct Device {
    name: String,
    address: Ipv4Addr,
    tls: Arc<ClientConfig>,
}

impl Fleet {
    pub(crate) fn new(pki: &Pki, count: usize) -> anyhow::Result<Self> {
        let device = |n: usize| {
            let name = format!("d{n}");
            // All of 127.0.0.0/8 is this machine.
            let [high, low] = u16::try_from(n)?.to_be_bytes();
            Ok(Device { tls: pki.client(&name)?, address: Ipv4Addr::new(127, 1, high, low), name })
        };
        let devices = (0..count).map(device).collect::<anyhow::Result<_>>()?;
        Ok(Self { devices, watcher: pki.client("watcher")? })
    }

    pub(crate) fn first(&self, count: usize) -> &[Device] {
        &self.devices[..count]
    }
}

impl Device {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// From its own address, or that of the router which it is behind.
    pub(crate) fn connect(&self, broker: SocketAddr, router: Option<Ipv4Addr>) -> anyhow::Result<Client> {
        Client::connect(router.unwrap_or(self.address), broker, &self.tls, &self.name)
    }
}

/// Connects these, some at once.
pub(crate) fn connect_all(devices: &[Device], broker: &Broker) -> anyhow::Result<Vec<Client>> {
    let part = devices.len().div_ceil(AT_ONCE).max(1);
    std::thread::scope(|scope| {
        let connect =
            |part: &[Device]| part.iter().map(|device| device.connect(broker.address, None)).collect();
        let connecting: Vec<_> =
            devices.chunks(part).map(|part| scope.spawn(move || connect(part))).collect();
        let connected: anyhow::Result<Vec<Vec<Client>>> = connecting.into_iter().map(joined).collect();
        Ok(connected?.into_iter().flatten().collect())
    })
}

/// What a thread has brought.
pub(crate) fn joined<T>(thread: ScopedJoinHandle<'_, anyhow::Result<T>>) -> anyhow::Result<T> {
    thread.join().map_err(|_| anyhow::anyhow!("a thread of the load generator panicked"))?
}
