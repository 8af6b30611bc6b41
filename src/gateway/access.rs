//! What decides about devices, and what changes it while the gateway runs: SIGHUP, the registry of devices, and
//! the files of keys.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::api::Guards;
use crate::authorize::{ApiTokens, Authorizer, Document, KeyFiles, Registry};
use crate::broker::Broker;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::pki::ServerTls;

/// A device that is disabled is out after this and the time that closing it takes.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What is wrong is said so often.
const REMIND_EVERY: Duration = Duration::from_secs(3_600);

/// Everything that decides. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct AccessControl {
    state: Arc<Mutex<State>>,
    guards: watch::Receiver<Guards>,
    registry_changed: Arc<Notify>,
}

#[derive(Debug)]
struct State {
    access: config::Access,
    streams: Vec<config::Stream>,
    registry: Registry,
    keys: KeyFiles,
    tokens: Document<ApiTokens>,
    guards: watch::Sender<Guards>,
    clock: Clock,
    tls: ServerTls,
    /// When a certificate is to be revoked that is still good.
    revoke_next: Option<OffsetDateTime>,
    /// The rules as they are now, for who asks for them.
    in_force: watch::Sender<Authorizer>,
    /// What is wrong, and when that was said.
    told: BTreeMap<String, Instant>,
}

impl AccessControl {
    /// Reads the registry, the keys and the lists of revoked certificates. What cannot be read is said, and keeps
    /// nothing from starting. `tls` is told which certificates were revoked.
    pub(super) fn open(config: &Config, clock: Clock, tls: ServerTls) -> Self {
        let registry = Registry::open(&config.data_dir);
        let mut keys = KeyFiles::default();
        keys.set(&config.access.issuers);
        let (access, streams) = (config.access.clone(), config.streams.clone());
        tls.refresh_lists(false);
        let (told, revoke_next) = (BTreeMap::new(), None);
        let tokens = Document::open(&config.data_dir);
        let (sender, guards) = watch::channel(Guards { tokens: tokens.content(), issuers: keys.keys() });
        let in_force = watch::Sender::new(Authorizer::new(&access, &streams));
        let mut state = State {
            access,
            streams,
            registry,
            keys,
            tokens,
            guards: sender,
            clock,
            tls,
            revoke_next,
            in_force,
            told,
        };
        state.tell_troubles();
        Self { state: Arc::new(Mutex::new(state)), guards, registry_changed: Arc::default() }
    }

    /// Who may use the API, as it is now.
    pub(super) fn guards(&self) -> watch::Receiver<Guards> {
        self.guards.clone()
    }

    /// Tell this when the registry was changed: it is looked at without waiting.
    pub(super) fn registry_changed(&self) -> Arc<Notify> {
        Arc::clone(&self.registry_changed)
    }

    /// The rules as they are now.
    pub(super) fn authorizer(&self) -> Authorizer {
        self.state().authorizer()
    }

    /// The rules as they are at any time.
    pub(super) fn watch(&self) -> watch::Receiver<Authorizer> {
        self.state().in_force.subscribe()
    }

    /// Takes the rules of another configuration, for live connections too.
    pub(super) fn set(&self, access: &config::Access, streams: &[config::Stream], broker: &Broker) {
        let mut state = self.state();
        state.keys.set(&access.issuers);
        state.tell_troubles();
        state.set_guards();
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
                () = self.registry_changed.notified() => {}
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
        self.state.lock().expect("no panic under this lock")
    }
}

impl State {
    /// The rules as they are now. TLS is told what was revoked, so that it is refused in the handshake already.
    fn authorizer(&mut self) -> Authorizer {
        let (devices, next) = self.registry.content().as_of(self.clock.trusted_now().into());
        self.revoke_next = next;
        let revoked = devices.iter().flat_map(|(device, known)| {
            known.revoked.iter().map(move |revoked| (revoked.certificate.clone(), device.clone()))
        });
        self.tls.revocations().set(revoked.collect());
        let authorizer = Authorizer::with(&self.access, &self.streams, devices, self.keys.keys())
            .with_revocations(self.tls.revocations().clone());
        self.in_force.send_replace(authorizer.clone());
        authorizer
    }

    fn look(&mut self, broker: &Broker) {
        let (devices_changed, keys_changed) = (self.registry.look(), self.keys.look());
        let tokens_changed = self.tokens.look();
        self.tell_troubles();
        if tokens_changed || keys_changed {
            self.set_guards();
            tracing::info!(tokens_changed, keys_changed, "who may use the API has changed");
        }
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

    fn set_guards(&self) {
        self.guards.send_replace(Guards { tokens: self.tokens.content(), issuers: self.keys.keys() });
    }

    /// Says what is wrong, at once and then now and again.
    fn tell_troubles(&mut self) {
        let keys = self.keys.troubles().map(ToString::to_string);
        let troubles: Vec<_> = [self.registry.trouble(), self.tokens.trouble()]
            .into_iter()
            .flatten()
            .map(ToString::to_string)
            .chain(keys)
            .collect();
        self.told.retain(|told, at| troubles.contains(told) && at.elapsed() < REMIND_EVERY);
        for trouble in troubles {
            if let Entry::Vacant(new) = self.told.entry(trouble) {
                tracing::error!(
                    trouble = %new.key(),
                    "what was last known stays in force; what was never known is not believed, and a certificate \
                     that was revoked may be, until this is mended"
                );
                new.insert(Instant::now());
            }
        }
    }

    /// Under the lock, so that of two changes the later one stays.
    fn apply(&mut self, broker: &Broker) {
        let authorizer = self.authorizer();
        broker.reload(authorizer, &self.streams);
    }
}
