//! The wiring, to be read from top to bottom: what a gateway is made of, and how it ends.

mod access;
mod care;
mod firmware;
mod maintenance;
pub mod owner;
mod reload;
mod rest;
mod signals;
mod sources;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use self::signals::Asked;
pub use self::signals::Signals;
use crate::api::{Api, CertificateFigures, Handles, Switches};
use crate::audit::Audit;
use crate::authorize::{Authenticator, refusals::Refusals};
use crate::broker::{self, Broker};
use crate::buffer::{self, Buffer};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::forwarder::{Forwarder, ForwarderStatus};
use crate::listener::{Entrance, Listener, Way};
use crate::messages::Messages;
use crate::pki::{Pki, PkiError, ServerTls};
use crate::relay::{Ledger, rules::Rules};
use crate::sink;
use crate::tasks::{Failed, Stage, Tasks};

use access::AccessControl;

/// How long the store may take to write what it has, after everything else has ended.
const STORE_DEADLINE: Duration = Duration::from_secs(15);
/// How long the small files may take that are written or removed at the very end.
const LAST_FILES_DEADLINE: Duration = Duration::from_secs(3);

/// Why a gateway does not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// A file, directory or socket that it needs.
    #[error("{what}")]
    Io {
        /// What it wanted to do.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store.
    #[error(transparent)]
    Buffer(#[from] buffer::OpenError),
    /// The disk does not answer any more.
    #[error(transparent)]
    Stuck(#[from] buffer::Stuck),
    /// The certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A task that must not end did.
    #[error(transparent)]
    Task(#[from] Failed),
}

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    config: Config,
    file: Option<PathBuf>,
    tasks: Tasks,
    pki: Pki,
    tls: ServerTls,
    handles: Handles,
    access: AccessControl,
    audit: Audit,
}

/// Where the store of a gateway is.
#[must_use]
pub fn buffer_dir(config: &Config) -> PathBuf {
    config.data_dir.join("buffer")
}

fn clock_floor_file(config: &Config) -> PathBuf {
    config.data_dir.join("clock-floor")
}

/// Opens the PKI for a command, beside a running gateway or without one, and makes what is missing.
///
/// # Errors
/// Those of the PKI, or a data directory that cannot be made.
pub fn open_pki(config: &Config) -> Result<Pki, GatewayError> {
    make_directory(&config.data_dir)?;
    Ok(Pki::open_or_create(&pki_dir(config), &config.pki, &config.gateway_id, &offline_clock(config)?)?)
}

/// Where a gateway keeps its data, for a command that writes there; it is made if it is missing.
///
/// # Errors
/// When it cannot be made.
pub fn data_dir(config: &Config) -> Result<&Path, GatewayError> {
    make_directory(&config.data_dir)?;
    Ok(&config.data_dir)
}

/// Opens the PKI for a command that only looks: makes nothing. `None` if no gateway has made one yet.
///
/// # Errors
/// When it cannot be looked at.
pub fn existing_pki(config: &Config) -> Result<Option<Pki>, GatewayError> {
    Ok(Pki::open(&pki_dir(config), &config.pki, &config.gateway_id, &offline_clock(config)?)?)
}

/// The clock for a command: it knows the floor, and no earlier boots.
///
/// # Errors
/// When the kernel does not tell its boot id.
pub fn offline_clock(config: &Config) -> Result<Clock, GatewayError> {
    start_clock(config, BTreeMap::new())
}

/// Where the certificates of a gateway are.
#[must_use]
pub fn pki_dir(config: &Config) -> PathBuf {
    config.data_dir.join("pki")
}

fn start_clock(
    config: &Config,
    offsets: BTreeMap<crate::message::BootId, i64>,
) -> Result<Clock, GatewayError> {
    Clock::start(&config.clock, &clock_floor_file(config), offsets)
        .map_err(|source| GatewayError::Io { what: "reading the kernel's boot id".to_owned(), source })
}

fn make_directory(directory: &Path) -> Result<(), GatewayError> {
    // Readings and keys are nobody else's. A directory that is there keeps the mode that it was given.
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|source| GatewayError::Io {
        what: format!("making the data directory {} (gateway.data_dir)", directory.display()),
        source,
    })
}

/// What this process writes may be closed to the one that the directory is for.
fn warn_of_other_owner(directory: &Path) {
    if let Ok(Some(owner)) = owner::other_owner(directory) {
        let (user, directory) = (owner::User::current(), directory.display());
        tracing::warn!(
            %directory, %owner, %user,
            "the data directory is another user's: a gateway that runs as {owner} will not be able to use what \
             this one writes there"
        );
    }
}

impl Gateway {
    /// Starts everything, in the order of the path from the far end, so that what accepts comes last.
    /// What is behind the buffer runs on `background`.
    ///
    /// # Errors
    /// What keeps it from accepting readings.
    pub async fn start(
        config: Config,
        file: Option<PathBuf>,
        background: &Handle,
    ) -> Result<Self, GatewayError> {
        make_directory(&config.data_dir)?;
        warn_of_other_owner(&config.data_dir);
        let tasks = Tasks::with_background(background);

        let (buffer, found) = open_buffer(&config).await?;
        found.findings.iter().for_each(|finding| tracing::warn!("buffer: {finding}"));
        let clock = start_clock(&config, buffer.boot_offsets())?;
        let pki = Pki::open_or_create(&pki_dir(&config), &config.pki, &config.gateway_id, &clock)?;

        let switches = rest::switches(&config);
        let forwarders = start_forwarders(&config, &buffer, &clock, &switches, &tasks);

        let audit = start_audit(&config, &clock);
        let refusals = Refusals::new(audit.clone());
        let tls = pki.server_tls();
        let access = AccessControl::open(&config, clock.clone(), tls.clone());
        let authorizer = access.authorizer();
        let ledger = Ledger::new(&buffer, clock.clone(), &config.commands);
        let Config { listener, sessions, retained, streams, .. } = &config;
        let broker = Broker::new(
            broker::Settings { limits: listener, rates: &config.limits, sessions, retained, streams },
            authorizer,
            Authenticator::new(clock.clone()),
            buffer.clone(),
            clock.clone(),
            refusals.clone(),
            ledger.clone(),
        );
        let command_sources = sources::start(&config, &ledger, &clock, &tasks);
        let rules = Rules::new(&config.rules, ledger.clone(), clock.clone(), buffer.clone());
        if !config.rules.is_empty() {
            broker.observed_by(rules.clone());
        }

        let listeners = bind_all(&config)?;
        let rest = rest::bind(&config, &tls, &refusals);
        let ota = firmware::Ota::prepare(&config, &tls, &access, &clock, &refusals);
        let more = listeners[1..].iter().map(|(_, address, name)| (*name, *address));
        let more = more.chain(rest.iter().map(|(_, address)| ("api", *address)));
        let more = more.chain(ota.address().map(|address| ("firmware", address)));
        let (certificates_sender, certificates) = watch::channel(CertificateFigures::default());
        let handles = Handles {
            gateway_id: config.gateway_id.to_string(),
            listener: listeners[0].1,
            more_listeners: more.collect(),
            clock,
            buffer,
            broker,
            ledger,
            command_sources,
            rules,
            forwarders,
            certificates,
            firmware: ota.firmware(),
        };

        say_what_is_wrong(&config, &pki, &tls);
        start_service(&tasks, &handles, &tls, &config.data_dir);
        let service = tasks.spawner(Stage::Service);
        let looking = access.clone().run(handles.broker.clone(), service.cancelled().clone());
        service.essential("access", looking);
        service.essential("rules", handles.rules.clone().run(service.cancelled().clone()));
        service.essential("broker", handles.broker.clone().run(service.cancelled().clone()));
        let cancel = service.cancelled().clone();
        service.essential("care", care::run(pki.clone(), tls.clone(), certificates_sender, cancel));
        let name = config.access.certificate_name;
        let entrance = Entrance::new(&config.listener, &config.limits, tls.clone(), name, refusals.clone());
        let accepting = tasks.spawner(Stage::Listener);
        for (listener, address, name) in listeners {
            let broker = handles.broker.clone();
            let serve = move |channel, peer, cancel| broker.serve(channel, peer, cancel);
            let (sessions, cancel) = (tasks.spawner(Stage::Sessions), accepting.cancelled().clone());
            accepting.essential(name, listener.run(entrance.clone(), serve, sessions, cancel));
            tracing::info!(%address, data = %config.data_dir.display(), "accepting devices ({name})");
        }
        let messages = start_messages(&config, &handles, &tasks);
        if let Some(bound) = rest {
            let needed = rest::Needed {
                handles: &handles,
                messages,
                pki: &pki,
                tls: &tls,
                access: &access,
                switches,
                refusals,
                audit: &audit,
            };
            rest::start(bound, needed, &config, &tasks);
        }
        ota.start(&tasks, &handles.broker);
        let gateway = Self { config, file, tasks, pki, tls, handles, access, audit };
        gateway.say_what_is_next();
        Ok(gateway)
    }

    /// Runs until SIGTERM or SIGINT, then drains; reloads on SIGHUP. `signals` may have kept some that came earlier.
    ///
    /// `log_changed` is told when a reload brought other log settings.
    ///
    /// # Errors
    /// The task that ended although it must not, or the store that stands still; everything is drained then, too.
    pub async fn run_until_signal(
        mut self,
        mut signals: Signals,
        log_changed: impl Fn(&config::Log),
    ) -> Result<(), GatewayError> {
        let store = self.handles.buffer.clone();
        let failed = loop {
            tokio::select! {
                asked = signals.next() => match asked {
                    Asked::End => break None,
                    // Its files may be on a disk that does not answer any more.
                    Asked::Reload => tokio::select! {
                        () = self.reload(&log_changed) => {}
                        ended = store.ended() => break Some(unasked_end(ended)),
                    },
                },
                failed = self.tasks.failure() => break Some(failed.into()),
                ended = store.ended() => break Some(unasked_end(ended)),
            }
        };
        match &failed {
            None => tracing::info!(deadline = ?self.config.shutdown_timeout, "ending: draining"),
            Some(failed) => tracing::error!("{failed}; ending"),
        }
        self.drain().await;
        failed.map_or(Ok(()), Err)
    }

    /// Ends in the order of the path: no new connections, acks for what came, requests in flight, the store.
    async fn drain(&mut self) {
        let late = self.tasks.drain(self.config.shutdown_timeout).await;
        if !late.is_empty() {
            tracing::warn!(?late, "the deadline has passed; what was not acknowledged will be sent again");
        }
        // A disk that does not answer must not keep the process: what it has not taken was not acknowledged.
        if tokio::time::timeout(STORE_DEADLINE, self.handles.buffer.close()).await.is_err() {
            tracing::error!("the store has not ended in time");
        }
        let (clock, socket) = (self.handles.clock.clone(), crate::api::socket_path(&self.config.data_dir));
        let audit = self.audit.clone();
        let last_files = tokio::task::spawn_blocking(move || {
            if let Err(error) = std::fs::remove_file(&socket) {
                tracing::debug!(%error, "removing {}", socket.display());
            }
            audit.flush();
            if let Err(error) = clock.keep_floor() {
                tracing::warn!(%error, "the clock's floor could not be kept");
            }
        });
        if tokio::time::timeout(LAST_FILES_DEADLINE, last_files).await.is_err() {
            tracing::warn!("the disk does not answer: the clock's floor may not be kept");
        }
        tracing::info!("ended");
    }

    fn say_what_is_next(&self) {
        let with_config =
            self.file.as_ref().map_or(String::new(), |file| format!(" --config {}", file.display()));
        if self.pki.devices().is_ok_and(|devices| devices.is_empty()) {
            tracing::info!(
                "no device has a certificate yet; next: tampu device add esp32-01 --format arduino{with_config}"
            );
        }
        if self.config.sinks.is_empty() {
            tracing::info!(
                "no sink: readings stay in the buffer; `tampu init` writes a configuration with all of them"
            );
        }
    }
}

/// Opening a damaged store takes as long as reading it: signals are heard meanwhile.
async fn open_buffer(config: &Config) -> Result<(Buffer, buffer::OpenReport), GatewayError> {
    let sinks: Vec<_> = config.sinks.iter().map(|sink| sink.name.clone()).collect();
    let (directory, settings) = (buffer_dir(config), config.buffer.clone());
    let opening = tokio::task::spawn_blocking(move || Buffer::open(&directory, &settings, &sinks));
    let opened = opening
        .await
        .map_err(|panic| GatewayError::Io { what: "opening the buffer".to_owned(), source: panic.into() })?;
    Ok(opened?)
}

/// Why the store has ended although nobody has told it to.
fn unasked_end(ended: Result<(), buffer::Stuck>) -> GatewayError {
    match ended {
        Err(stuck) => stuck.into(),
        Ok(()) => Failed { name: "store".to_owned(), how: "ended".to_owned() }.into(),
    }
}

/// A gateway without an audit log is better than none.
fn start_audit(config: &Config, clock: &Clock) -> Audit {
    Audit::start(crate::audit::dir(&config.data_dir), clock.clone()).unwrap_or_else(|error| {
        tracing::error!(%error, "there is no audit log: its thread cannot be started");
        Audit::default()
    })
}

/// What watches the others: the status, the clock and the certificates.
fn start_service(tasks: &Tasks, handles: &Handles, tls: &ServerTls, data_dir: &Path) {
    let service = tasks.spawner(Stage::Service);
    match Api::bind(data_dir) {
        Ok(api) => service.essential("api", api.run(handles.clone(), service.cancelled().clone())),
        // Nobody can ask how the gateway is, but it can do its work.
        Err(error) => {
            let socket = crate::api::socket_path(data_dir);
            tracing::error!(%error, socket = %socket.display(), "the status cannot be asked for");
        }
    }
    service.essential(
        "maintenance",
        maintenance::run(
            handles.clock.clone(),
            handles.buffer.clone(),
            tls.clone(),
            service.cancelled().clone(),
        ),
    );
}

/// Tries messages again that came to nothing, with the profile of the message gateway.
fn start_messages(config: &Config, handles: &Handles, tasks: &Tasks) -> Option<Messages> {
    let broker = handles.broker.clone();
    let announced = move || broker.announced().into_iter().map(|announced| announced.device).collect();
    let messages = Messages::new(handles.ledger.clone(), config.messages.clone()?, announced);
    let service = tasks.spawner(Stage::Service);
    service.essential("messages", messages.clone().run(service.cancelled().clone()));
    Some(messages)
}

fn say_what_is_wrong(config: &Config, pki: &Pki, tls: &ServerTls) {
    if let Err(unavailable) = tls.current(config.listener.client_auth) {
        tracing::error!(%unavailable, "no device can connect until this is mended");
    } else if let Some(problem) = pki.signing_problem() {
        tracing::error!(%problem, "no device can be added, and no certificate renewed, until this is mended");
    }
    if let Some(warning) = Pki::names_to_know(&config.pki) {
        tracing::warn!("pki.server_cert: {warning}");
    }
}

/// The sockets of all listeners, each with its address and its name; that for MQTT over TLS first.
fn bind_all(config: &Config) -> Result<Vec<(Listener, SocketAddr, &'static str)>, GatewayError> {
    let listener = &config.listener;
    let mut wanted = vec![("listener", listener.address, Way::Tls(listener.client_auth))];
    if let Some(config::WebSocket { address, path, client_auth, .. }) = &config.websocket {
        wanted.push(("websocket", *address, Way::WebSocket(*client_auth, path.as_str().into())));
    }
    if let Some(config::Plain { address, .. }) = &config.plain {
        wanted.push(("plain", *address, Way::Plain));
    }
    let bind = |(name, wanted, way)| {
        let bound = Listener::bind(wanted, way)
            .and_then(|listener| listener.local_addr().map(|address| (listener, address, name)));
        bound.map_err(|source| GatewayError::Io {
            what: format!(
                "listening on {wanted}: if another broker runs there, set {name}.address to another port"
            ),
            source,
        })
    };
    wanted.into_iter().map(bind).collect()
}

/// One a sink. A sink that cannot be set up is its own trouble: its readings wait, everything else runs.
fn start_forwarders(
    config: &Config,
    buffer: &Buffer,
    clock: &Clock,
    switches: &Switches,
    tasks: &Tasks,
) -> BTreeMap<String, watch::Receiver<ForwarderStatus>> {
    let spawner = tasks.spawner(Stage::Forwarders);
    let mut handles = BTreeMap::new();
    for settings in &config.sinks {
        let sink = match sink::open(settings, &config.streams, &config.gateway_id, clock) {
            Ok(sink) => sink,
            Err(error) => {
                tracing::error!(sink = %settings.name, %error, "this sink cannot be set up; its readings wait");
                continue;
            }
        };
        let reader =
            buffer.reader(&settings.name).expect("each sink was named to the buffer and has one reader");
        let mut forwarder = Forwarder::new(settings, sink, reader, clock.clone());
        if let Some(paused) = switches.of(&settings.name) {
            forwarder = forwarder.paused_by(paused);
        }
        handles.insert(settings.name.to_string(), forwarder.status());
        spawner.essential(format!("forwarder {}", settings.name), forwarder.run(spawner.cancelled().clone()));
    }
    handles
}
