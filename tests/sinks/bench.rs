//! A buffer, a clock and a local cloud, with forwarders between them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tampu::buffer::{Buffer, DropReason, Mark, Wait};
use tampu::clock::Clock;
use tampu::config::{self, Secret, SinkKind, SupabaseRows, ThingSpeakMapping, ThingSpeakTarget};
use tampu::demo::cloud::{Cloud, CloudSettings, ThingSpeakSettings};
use tampu::forwarder::{Forwarder, ForwarderStatus};
use tampu::message::{BootId, ClockQuality, DeviceId, Incoming, Qos, Stamp};
use tampu::sink;
use tampu::tasks::{Stage, Tasks};
use tokio::sync::watch;

/// 2026-01-01T00:00:00Z: every second after it is over.
pub(crate) const START_MS: i64 = 1_767_225_600_000;

/// Longer than any machine is slow.
const DEADLINE: Duration = Duration::from_secs(120);

pub(crate) struct Bench {
    pub(crate) cloud: Cloud,
    pub(crate) buffer: Buffer,
    clock: Clock,
    tasks: Tasks,
    _dir: tempfile::TempDir,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = config::Buffer { min_free_bytes: 0, ..config::Buffer::default() };
        let (buffer, _) = Buffer::open(&dir.path().join("buffer"), &store, &[name()]).unwrap();
        let clock = trusted_clock(dir.path());
        let thingspeak =
            ThingSpeakSettings { interval: Duration::from_millis(20), ..ThingSpeakSettings::default() };
        let cloud = Cloud::start(CloudSettings { thingspeak, ..CloudSettings::default() }).await.unwrap();
        Self { cloud, buffer, clock, tasks: Tasks::default(), _dir: dir }
    }

    pub(crate) fn supabase(&self) -> config::Supabase {
        config::Supabase {
            url: self.cloud.supabase.line().url(),
            rest_path: "/rest/v1".to_owned(),
            key: Secret::new("sb_secret_demo".to_owned()),
            token: None,
            schema: None,
            table: "readings".to_owned(),
            rows: SupabaseRows::Whole,
            max_rows: 1_000,
            max_bytes: 1_000_000,
            interval: Duration::ZERO,
        }
    }

    pub(crate) fn thingspeak(&self) -> config::ThingSpeak {
        let field = |path: &str, number| ThingSpeakMapping {
            stream: None,
            device: None,
            path: path.to_owned(),
            to: ThingSpeakTarget::Field(number),
        };
        let far_side = self.cloud.thingspeak.settings();
        config::ThingSpeak {
            url: self.cloud.thingspeak.line().url(),
            channel: far_side.channel,
            write_key: Secret::new(far_side.write_key.clone()),
            fields: vec![field("t", 1), field("h", 2)],
            max_entries: 960,
            interval: Duration::from_millis(50),
            collision: config::Collision::First,
            average: None,
            yearly_allowance: 3_000_000,
        }
    }

    /// Starts a forwarder.
    pub(crate) fn forward(&self, kind: SinkKind) -> watch::Receiver<ForwarderStatus> {
        self.forward_with(&settings(kind))
    }

    pub(crate) fn forward_with(&self, settings: &config::Sink) -> watch::Receiver<ForwarderStatus> {
        let sink = sink::open(settings, &[], &DeviceId::parse("gw").unwrap(), &self.clock).unwrap();
        let reader = self.buffer.reader(&settings.name).unwrap();
        let forwarder = Forwarder::new(settings, sink, reader, self.clock.clone());
        let status = forwarder.status();
        let spawner = self.tasks.spawner(Stage::Forwarders);
        spawner.essential("forwarder", forwarder.run(spawner.cancelled().clone()));
        status
    }

    /// Stores readings, one every `every_ms` from the start on.
    pub(crate) async fn append(&self, payloads: impl IntoIterator<Item = String>, every_ms: i64) {
        let mut writer = self.buffer.writer();
        let device = DeviceId::parse("esp").unwrap();
        let mut wall_ms = START_MS;
        let mut last = Mark::default();
        for payload in payloads {
            let received =
                Stamp { wall_ms, boot_ms: 0, boot: BootId([1; 16]), quality: ClockQuality::Synchronized };
            let reading = Incoming {
                device: &device,
                stream: "air",
                topic: "esp/air",
                payload: payload.as_bytes(),
                qos: Qos::AtLeastOnce,
                received,
                fault: None,
            };
            last = loop {
                match writer.submit(Some(&reading), Vec::new(), Wait::ForAck) {
                    Ok(taken) => break taken.mark,
                    Err(_) => writer.room().await,
                }
            };
            wall_ms += every_ms;
        }
        writer.until_durable(last).await.unwrap();
    }

    /// Waits until nothing is pending. Returns what was delivered, and dropped by reason; they add up (P2).
    pub(crate) async fn drained(&self) -> (u64, BTreeMap<DropReason, u64>) {
        eventually(|| self.buffer.status().sinks["cloud"].pending == 0).await;
        let figures = self.buffer.status().sinks["cloud"].clone();
        let dropped: u64 = figures.dropped.values().sum();
        assert_eq!(figures.accepted, figures.delivered + dropped, "{figures:?}");
        (figures.delivered, figures.dropped)
    }

    /// Ends the forwarders.
    pub(crate) async fn end(mut self) {
        assert!(self.tasks.drain(DEADLINE).await.is_empty());
    }
}

pub(crate) fn settings(kind: SinkKind) -> config::Sink {
    config::Sink {
        name: name(),
        streams: Vec::new(),
        kind,
        timeout: Duration::from_secs(20),
        ca_file: None,
        live_first: true,
    }
}

pub(crate) fn trusted_clock(dir: &std::path::Path) -> Clock {
    let settings = config::Clock { source: config::ClockSource::Trusted, ..config::Clock::default() };
    Clock::start(&settings, &dir.join("floor"), BTreeMap::new()).unwrap()
}

pub(crate) async fn eventually(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "not in {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn name() -> config::SinkName {
    DeviceId::parse("cloud").unwrap()
}
