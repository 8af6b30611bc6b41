//! The wiring of firmware over the air.

use std::net::SocketAddr;

use crate::authorize::Authenticator;
use crate::authorize::refusals::Refusals;
use crate::broker::Broker;
use crate::clock::Clock;
use crate::config::{ClientAuth, Config, IdentityKind};
use crate::firmware::{Firmware, Parts, Room};
use crate::pki::ServerTls;
use crate::tasks::{Stage, Tasks};
use crate::web;

use super::access::AccessControl;

/// The releases, and where they are served if they are.
pub(super) struct Ota {
    firmware: Firmware,
    served: Option<(web::Server, SocketAddr, String)>,
}

impl Ota {
    /// Binds the socket, if there is to be one. If that cannot be, the gateway does its work without it.
    pub(super) fn prepare(
        config: &Config,
        tls: &ServerTls,
        access: &AccessControl,
        clock: &Clock,
        refusals: &Refusals,
    ) -> Self {
        let served = config.firmware.address.and_then(|address| bind(address, config, tls, refusals));
        let firmware = Firmware::open(Parts {
            settings: config.firmware.clone(),
            room: Room::of(config),
            data_dir: config.data_dir.clone(),
            authenticator: Authenticator::new(clock.clone()),
            rules: access.watch(),
            refusals: refusals.clone(),
            clock: clock.clone(),
        });
        Self { firmware, served }
    }

    pub(super) fn firmware(&self) -> Firmware {
        self.firmware.clone()
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.served.as_ref().map(|(_, address, _)| *address)
    }

    /// Serves, tells devices of releases, and listens to what they report.
    pub(super) fn start(self, tasks: &Tasks, broker: &Broker) {
        let Self { firmware, served: Some((server, address, base_url)) } = self else { return };
        let (accepting, service) = (tasks.spawner(Stage::Listener), tasks.spawner(Stage::Service));
        let serving =
            server.run(firmware.router(), tasks.spawner(Stage::Sessions), accepting.cancelled().clone());
        accepting.essential("firmware listener", serving);
        tracing::info!(%address, "serving firmware under {base_url}/firmware/me");

        let mut reports = broker.listen(firmware.version_topic().clone());
        let hearing = firmware.clone();
        let cancel = service.cancelled().clone();
        service.essential("firmware reports", async move {
            while let Some(Some(report)) = cancel.run_until_cancelled(reports.recv()).await {
                hearing.reported(&report.device, &report.payload);
            }
        });
        let broker = broker.clone();
        let publish = move |topic: &str, payload| broker.publish_retained(topic, payload);
        service.essential("firmware", firmware.run(base_url, publish, service.cancelled().clone()));
    }
}

fn bind(
    address: SocketAddr,
    config: &Config,
    tls: &ServerTls,
    refusals: &Refusals,
) -> Option<(web::Server, SocketAddr, String)> {
    let settings = &config.firmware;
    let client_auth = match settings.identities.iter().all(|kind| *kind == IdentityKind::Certificate) {
        true => ClientAuth::Required,
        false => ClientAuth::Optional,
    };
    let certificate_name = config.access.certificate_name;
    let tls = web::Tls { server: tls.clone(), client_auth, certificate_name };
    // Others ask meanwhile whether there is something for them; all of them may be behind one router.
    let connections = settings.max_downloads.saturating_mul(2);
    let limits = web::Limits {
        connections,
        connections_per_address: connections,
        stall: settings.stall_timeout,
        ..web::Limits::default()
    };
    let bound = web::Server::bind(address, Some(tls), limits, refusals.clone())
        .and_then(|server| server.local_addr().map(|bound| (server, bound)));
    match bound {
        Ok((server, bound)) => {
            let base_url = settings.url.clone().unwrap_or_else(|| default_url(bound.port()));
            Some((server, bound, base_url))
        }
        Err(error) => {
            tracing::error!(
                %error, %address,
                "no firmware is served: if something else listens there, set firmware.address"
            );
            None
        }
    }
}

/// A device finds the gateway by multicast DNS, as `tampu device add` has it.
fn default_url(port: u16) -> String {
    let host = hostname::get().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let short = host.split('.').next().unwrap_or_default().to_ascii_lowercase();
    match rustls::pki_types::ServerName::try_from(short.as_str()) {
        Ok(_) => format!("https://{short}.local:{port}"),
        Err(_) => format!("https://localhost:{port}"),
    }
}
