//! What decides about devices, and what changes it while the gateway runs: SIGHUP, the registry of devices, and
//! the files of keys.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::authorize::{Authorizer, KeyFiles, KeyProblem, Registry, RegistryError};
use crate::broker::Broker;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::pki::ServerTls;

/// A device that is disabled is out after this and the time that closing it takes.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Everything that decides. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct AccessControl(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    access: config::Access,
    streams: Vec<config::Stream>,
    registry: Registry,
    keys: KeyFiles,
    clock: Clock,
    tls: ServerTls,
    /// When a certificate is to be revoked that is still good.
    revoke_next: Option<OffsetDateTime>,
}

impl AccessControl {
    /// Reads the registry, the keys and the lists of revoked certificates. What cannot be read is said, and keeps
    /// nothing from starting. `tls` is told which certificates were revoked.
    pub(super) fn open(config: &Config, clock: Clock, tls: ServerTls) -> Self {
        let (registry, error) = Registry::open(&config.data_dir);
        if let Some(error) = error {
            say_registry(&error);
        }
        let mut keys = KeyFiles::default();
        keys.set(&config.access.issuers).iter().for_each(say_keys);
        let (access, streams) = (config.access.clone(), config.streams.clone());
        tls.refresh_lists(false);
        Self(Arc::new(Mutex::new(State { access, streams, registry, keys, clock, tls, revoke_next: None })))
    }

    /// The rules as they are now.
    pub(super) fn authorizer(&self) -> Authorizer {
        self.state().authorizer()
    }

    /// Takes the rules of another configuration, for live connections too.
    pub(super) fn set(&self, access: &config::Access, streams: &[config::Stream], broker: &Broker) {
        let mut state = self.state();
        state.keys.set(&access.issuers).iter().for_each(say_keys);
        state.access = access.clone();
        state.streams = streams.to_vec();
        state.apply(broker);
    }

    /// Reads the lists of revoked certificates again, whether they look changed or not.
    pub(super) fn refresh_lists(&self, broker: &Broker) {
        let mut state = self.state();
        if state.tls.refresh_lists(true) {
            state.apply(broker);
        }
    }

    /// Looks for changes until it is cancelled.
    pub(super) async fn run(self, broker: Broker, cancel: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = cancel.cancelled() => return,
            }
            let (access, broker) = (self.clone(), broker.clone());
            // It waits for the disk.
            if let Err(panic) = tokio::task::spawn_blocking(move || access.state().look(&broker)).await {
                tracing::error!(%panic, "looking for changes of the registry");
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic under this lock")
    }
}

impl State {
    /// The rules as they are now. TLS is told what was revoked, so that it is refused in the handshake already.
    fn authorizer(&mut self) -> Authorizer {
        let (devices, next) = self.registry.devices().as_of(self.clock.trusted_now().into());
        self.revoke_next = next;
        let revoked = devices.iter().flat_map(|(device, known)| {
            known.revoked.iter().map(move |revoked| (revoked.certificate.clone(), device.clone()))
        });
        self.tls.revocations().set(revoked.collect());
        Authorizer::with(&self.access, &self.streams, devices, self.keys.keys())
            .with_revocations(self.tls.revocations().clone())
    }

    fn look(&mut self, broker: &Broker) {
        let devices_changed = self.registry.look().unwrap_or_else(|error| {
            say_registry(&error);
            false
        });
        let (keys_changed, problems) = self.keys.look();
        problems.iter().for_each(say_keys);
        let lists_changed = self.tls.refresh_lists(false);
        let is_due = self.revoke_next.is_some_and(|at| at <= self.clock.trusted_now());
        if devices_changed || is_due || keys_changed || lists_changed {
            self.apply(broker);
            tracing::info!(
                devices_changed,
                keys_changed,
                lists_changed,
                "the registry's changes are in force for live connections too"
            );
        }
    }

    /// Under the lock, so that of two changes the later one stays.
    fn apply(&mut self, broker: &Broker) {
        let authorizer = self.authorizer();
        broker.reload(authorizer, &self.streams);
    }
}

fn say_registry(error: &RegistryError) {
    tracing::error!(
        %error,
        "passwords, API keys and revocations stay as they were last known; without a copy only certificates are \
         believed, revoked ones too, until this is mended"
    );
}

fn say_keys(problem: &KeyProblem) {
    tracing::error!(%problem, "the keys that were in force stay so; without any, no token is believed");
}
