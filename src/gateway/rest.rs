//! The REST API, as a part of the gateway that it can do without.

use std::net::SocketAddr;

use super::AccessControl;
use crate::api::{self, Handles, Parts, Switches};
use crate::audit::Audit;
use crate::authorize::refusals::Refusals;
use crate::config::{ClientAuth, Config};
use crate::messages::Messages;
use crate::pki::{Pki, ServerTls};
use crate::tasks::{Stage, Tasks};
use crate::web::{self, Server};

/// What it needs of the others.
pub(super) struct Needed<'a> {
    pub(super) handles: &'a Handles,
    pub(super) messages: Option<Messages>,
    pub(super) pki: &'a Pki,
    pub(super) tls: &'a ServerTls,
    pub(super) access: &'a AccessControl,
    pub(super) switches: Switches,
    pub(super) refusals: Refusals,
    pub(super) audit: &'a Audit,
}

/// By which sinks are paused, as they were left.
pub(super) fn switches(config: &Config) -> Switches {
    let names = config.sinks.iter().map(|sink| sink.name.clone());
    let (switches, error) = Switches::open(&config.data_dir, names);
    if let Some(error) = error {
        tracing::error!(%error, "which sinks were paused is not known: none is");
    }
    switches
}

/// Where it listens. If it cannot, the gateway does its work without it.
pub(super) fn bind(config: &Config, tls: &ServerTls, refusals: &Refusals) -> Option<(Server, SocketAddr)> {
    let settings = &config.api;
    if !settings.enabled {
        return None;
    }
    let with_tls = settings.tls.then(|| web::Tls {
        server: tls.clone(),
        client_auth: ClientAuth::Optional,
        certificate_name: config.access.certificate_name,
    });
    let limits = web::Limits {
        connections: settings.max_connections,
        connections_per_address: settings.max_connections / 2,
        ..web::Limits::default()
    };
    let bound = Server::bind(settings.address, with_tls, limits, refusals.clone());
    match bound.and_then(|server| server.local_addr().map(|address| (server, address))) {
        Ok(bound) => Some(bound),
        Err(error) => {
            let address = settings.address;
            tracing::error!(%error, %address, "there is no REST API: if something else listens there, set api.address");
            None
        }
    }
}

/// Starts it.
pub(super) fn start(
    (server, address): (Server, SocketAddr),
    needed: Needed<'_>,
    config: &Config,
    tasks: &Tasks,
) {
    let Needed { handles, messages, pki, tls, access, switches, refusals, audit } = needed;
    let parts = Parts {
        handles: handles.clone(),
        messages,
        pki: pki.clone(),
        tls: tls.clone(),
        client_auth: config.listener.client_auth,
        data_dir: config.data_dir.clone(),
        guards: access.guards(),
        registry_changed: access.registry_changed(),
        switches,
        refusals,
        audit: audit.clone(),
    };
    let service = tasks.spawner(Stage::Service);
    let cancel = service.cancelled().clone();
    let router = api::router(parts, &config.api);
    service.essential("rest", server.run(router, service.clone(), cancel));
    let scheme = if config.api.tls { "https" } else { "http" };
    tracing::info!(%address, "the REST API is described at {scheme}://{address}/api/docs");
}
