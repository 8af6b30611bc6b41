//! Everything on the stage, and what can be done to it.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;

use super::cloud::{Cloud, CloudSettings, Fault, ThingSpeakSettings};
use super::device::{self, Device};
use super::process::{Place, Process};
use super::proof::Evidence;
use super::report::report;
use super::screen::Screen;
use crate::buffer::Buffer;
use crate::gateway;
use crate::message::DeviceId;
use crate::pki::{Issue, Pki};
use crate::tasks::{Stage, Tasks};

/// A ThingSpeak channel has eight fields: one a device.
const DEVICES: usize = 8;
/// ThingSpeak wants 15 s between calls, which is too long for a show.
const THINGSPEAK_INTERVAL: Duration = Duration::from_secs(1);
/// The acks that are missing at the end have to come within this, and the cloud must have everything within that.
const ACKS_WITHIN: Duration = Duration::from_secs(10);
const DRAINED_WITHIN: Duration = Duration::from_secs(20);
/// A request to each service must begin within this for its reply to be lost.
const CUT_WITHIN: Duration = Duration::from_secs(3);
const UNACKED_WITHIN: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(250);
const SINKS: [&str; 2] = ["supabase", "thingspeak"];

/// The stage.
pub(super) struct Show {
    screen: Screen,
    cloud: Cloud,
    cloud_is_away: bool,
    devices: Vec<Device>,
    tasks: Tasks,
    place: Place,
    gateway: Option<Process>,
    /// What the gateway last said of itself.
    status: Value,
}

impl Show {
    /// Starts a cloud, a gateway and devices.
    pub(super) async fn set_up(directory: &Path) -> anyhow::Result<Self> {
        let mut screen = Screen::new();
        let thingspeak = ThingSpeakSettings { interval: THINGSPEAK_INTERVAL, ..Default::default() };
        let cloud = Cloud::start(CloudSettings { thingspeak, ..Default::default() });
        let cloud = cloud.await.context("cannot start the local cloud")?;
        let devices: Vec<Device> =
            (1..=DEVICES).map(|number| Device::new(format!("esp32-{number:02}"))).collect();
        let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
        let place = Place::prepare(directory, &cloud, &names)?;

        let pki = gateway::open_pki(&place.config)?;
        let identities = names.iter().map(|name| identity(&pki, name)).collect::<anyhow::Result<Vec<_>>>()?;
        screen.say(&format!("A gateway starts in {}, with a CA of its own.", directory.display()));
        let gateway = Process::start(&place).await?;
        screen.say(&format!("{DEVICES} devices publish over mutual TLS to {}.", place.address));
        screen.say(
            "Both services of the cloud are on this machine, as strict as the real ones; only ThingSpeak's",
        );
        screen.say("15 s between two calls are shortened to 1 s.");

        let tasks = Tasks::default();
        let spawner = tasks.spawner(Stage::Sessions);
        for (device, tls) in devices.iter().zip(identities) {
            spawner.passing(device.clone().run(place.address, tls, spawner.cancelled().clone()));
        }
        Ok(Self {
            screen,
            cloud,
            cloud_is_away: false,
            devices,
            tasks,
            place,
            gateway: Some(gateway),
            status: Value::Null,
        })
    }

    /// Lets time pass, and shows how everything stands.
    pub(super) async fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.look().await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The outage begins in the middle of a request to each service: it is stored, and the gateway is not told.
    pub(super) async fn cloud_goes_away(&mut self) {
        let lines = [self.cloud.supabase.line().clone(), self.cloud.thingspeak.line().clone()];
        lines.iter().for_each(|line| line.next(1, &Fault::CutReply));
        let end = Instant::now() + CUT_WITHIN;
        while lines.iter().any(|line| line.scripted() > 0) && Instant::now() < end {
            self.look().await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.cloud.go_away().await;
        self.cloud_is_away = true;
        self.screen
            .say("The cloud goes away, and its last replies are lost on the way. Readings wait on disk.");
    }

    pub(super) async fn cloud_comes_back(&mut self) {
        self.cloud.come_back().await;
        self.cloud_is_away = false;
        self.screen.say("The cloud is back. What waits is sent while the devices go on.");
    }

    /// At a moment when devices wait for acks, if there is one: what they resend afterwards may be stored already.
    pub(super) async fn kill_gateway(&mut self) -> anyhow::Result<()> {
        let Some(mut gateway) = self.gateway.take() else { return Ok(()) };
        let end = Instant::now() + UNACKED_WITHIN;
        while device::sum(&self.devices).waiting_for_ack < 2 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let status = gateway.kill().context("cannot kill the gateway")?;
        self.screen.say(&format!("The gateway is killed: {status}."));
        Ok(())
    }

    pub(super) async fn start_gateway(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        self.gateway = Some(Process::start(&self.place).await?);
        self.screen
            .say(&format!("It was started again, and accepts after {} ms.", start.elapsed().as_millis()));
        Ok(())
    }

    /// The devices make nothing new, wait for the acks that they miss, and disconnect.
    pub(super) async fn stop_devices(&mut self) {
        let mut tasks = std::mem::take(&mut self.tasks);
        self.screen.say("The devices stop, and wait for their last acks.");
        let late = tasks.drain(ACKS_WITHIN).await;
        if !late.is_empty() {
            self.screen.say("Some have waited in vain.");
        }
    }

    /// Waits until nothing is pending, or for too long.
    pub(super) async fn until_drained(&mut self) {
        let end = Instant::now() + DRAINED_WITHIN;
        while Instant::now() < end {
            self.look().await;
            let pending = |sink: &str| self.status["buffer"]["sinks"][sink]["pending"].as_u64();
            if SINKS.iter().all(|sink| pending(sink) == Some(0)) {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Ends the gateway in good order, gathers the evidence at both ends, and tells what it proves.
    pub(super) async fn end(mut self) -> anyhow::Result<ExitCode> {
        if let Some(gateway) = self.gateway.take() {
            gateway.stop().await?;
        }
        self.screen.say("The gateway has ended after SIGTERM. Every message is looked for.");
        let evidence = self.gather().await?;
        let proof = evidence.examine();
        self.screen.end(&report(&evidence, &proof, device::sum(&self.devices)));
        Ok(if proof.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn gather(&self) -> anyhow::Result<Evidence> {
        let config = &self.place.config;
        let sinks: Vec<_> = config.sinks.iter().map(|sink| sink.name.clone()).collect();
        let (store, _) = Buffer::open(&gateway::buffer_dir(config), &config.buffer, &sinks)?;
        let letters = store.dead_letters(config.buffer.max_dead_letters).await?;
        let figures = store.status().sinks;
        store.close().await;
        let fields = self
            .devices
            .iter()
            .zip(1..)
            .map(|(device, field)| (device.name.clone(), format!("field{field}")));
        Ok(Evidence {
            messages: self.devices.iter().flat_map(Device::messages).collect(),
            rows: self.cloud.supabase.rows("readings"),
            entries: self.cloud.thingspeak.entries(),
            fields: fields.collect(),
            letters,
            figures,
            sent_again: [self.cloud.supabase.ignored("readings"), self.cloud.thingspeak.duplicates()],
        })
    }

    async fn look(&mut self) {
        let status = match &self.gateway {
            Some(gateway) => gateway.status().await,
            None => None,
        };
        let answers = status.is_some();
        if let Some(status) = status {
            self.status = status;
        }
        let sent = device::sum(&self.devices);
        let mut lines = vec![format!(
            "{:<10} acked {:>7}  unacked {:>4}  QoS 0 {:>8}  gateway {}, cloud {}",
            "devices",
            sent.acked,
            sent.waiting_for_ack,
            sent.without_ack,
            if answers { "up" } else { "DOWN" },
            if self.cloud_is_away { "AWAY" } else { "up" },
        )];
        lines.extend(SINKS.iter().map(|sink| self.sink_line(sink)));
        self.screen.show(lines);
    }

    fn sink_line(&self, sink: &str) -> String {
        let figures = &self.status["buffer"]["sinks"][sink];
        let figure = |name: &str| figures[name].as_u64().unwrap_or(0);
        let dropped = figures["dropped"].as_object().into_iter().flat_map(|reasons| reasons.values());
        format!(
            "{sink:<10} accepted {:>4}  pending {:>4}  delivered {:>4}  dropped {:>4}  {}",
            figure("accepted"),
            figure("pending"),
            figure("delivered"),
            dropped.filter_map(Value::as_u64).sum::<u64>(),
            self.drain_estimate(sink),
        )
    }

    fn drain_estimate(&self, sink: &str) -> String {
        let forwarder = &self.status["forwarders"][sink];
        match (forwarder["state"].as_str(), forwarder["drain_estimate_s"].as_u64()) {
            (None | Some("idle"), _) => String::new(),
            (Some("running"), Some(0)) => "drained with the next request".to_owned(),
            (Some("running"), Some(seconds)) => format!("drained in {seconds} s"),
            (Some(state), _) => state.replace('_', " "),
        }
    }
}

/// A certificate for a device, and a client that shows it and trusts this gateway alone.
fn identity(pki: &Pki, name: &str) -> anyhow::Result<Arc<ClientConfig>> {
    let certificate = pki.issue_device(&DeviceId::parse(name)?, Issue::First)?;
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(pki.ca_pem()?.as_bytes()) {
        roots.add(ca?)?;
    }
    let chain =
        CertificateDer::pem_slice_iter(certificate.cert_pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.expose().as_bytes())?;
    let config = ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key)?;
    Ok(Arc::new(config))
}
