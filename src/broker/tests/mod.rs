//! Sessions as clients see them: raw packets over a pipe, with a real buffer behind.

mod commands;
mod conformance;
mod delivery;
mod fuzzed;
mod hostile;
mod kept_sessions;
mod overlapping;
mod qos_2;
mod retained_time;
mod retaining;
mod rules;
mod shared;
mod storage;
mod topics;
mod version_5;
mod wills;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::authorize::{Identity, IdentityKind};
use crate::config::{Access, AclRule, DeviceMatch, DeviceSource, PayloadFormat, TopicTemplate};
use crate::message::{CertificateId, DeviceId, TopicFilter};
use crate::tasks::{Stage, Tasks};

/// Far beyond what a slow machine needs: a test that runs into it has failed.
const PATIENCE: Duration = Duration::from_secs(30);

const CONNACK: &[u8] = &[0x20, 2, 0, 0];

fn device(name: &str) -> DeviceId {
    DeviceId::parse(name).unwrap()
}

/// The other end of a connection of this device.
fn peer(who: Identity) -> Peer {
    let certificate = CertificateId { issuer: "CN=test".to_owned(), serial: "01".to_owned() };
    let is_certified = who.kind == IdentityKind::Certificate;
    Peer {
        certificate: is_certified.then_some((who.device, certificate)),
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
        door: Door::Tls,
    }
}

fn certified(name: &str) -> Identity {
    Identity { device: device(name), kind: IdentityKind::Certificate }
}

fn stream(name: &str, filter: &str, format: PayloadFormat) -> config::Stream {
    config::Stream {
        name: name.to_owned(),
        filter: TopicFilter::parse(filter).unwrap(),
        device: DeviceSource::Certificate,
        format,
        fields: Vec::new(),
        integrity: None,
        open_to: Vec::new(),
    }
}

/// The panel, an identity that may do everything but `$…`; others have the defaults.
fn authorizer(streams: &[config::Stream]) -> Authorizer {
    let all = vec![TopicTemplate::parse("#").unwrap()];
    let panel = AclRule::allow(DeviceMatch::Named(device("panel")), all.clone(), all);
    Authorizer::new(
        &Access { rules: vec![panel], anonymous: Some(device("anonymous")), ..Access::default() },
        streams,
    )
}

/// What a gateway is started with, besides the defaults.
#[derive(Debug, Clone)]
struct Setup {
    limits: config::Listener,
    rates: config::Limits,
    sessions: config::Sessions,
    retained: config::Retained,
    commands: config::Commands,
    buffer: config::Buffer,
    /// Instead of what [`authorizer`] makes.
    rules: Option<Authorizer>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            limits: config::Listener::default(),
            rates: config::Limits::default(),
            sessions: config::Sessions::default(),
            retained: config::Retained::default(),
            commands: config::Commands::default(),
            buffer: config::Buffer {
                ack_delay: Duration::from_millis(2),
                qos0_window: Duration::from_millis(5),
                min_free_bytes: 0,
                ..config::Buffer::default()
            },
            rules: None,
        }
    }
}

/// A broker with a buffer. Readings are what is published to `+/reading` (JSON).
struct Gateway {
    broker: Broker,
    buffer: Buffer,
    ledger: Ledger,
    streams: Vec<config::Stream>,
    tasks: Tasks,
    setup: Setup,
    dir: TempDir,
}

impl Gateway {
    fn start() -> Self {
        Self::start_as(Setup::default())
    }

    fn start_with(limits: &config::Listener, change: impl FnOnce(&mut config::Buffer)) -> Self {
        let mut setup = Setup { limits: limits.clone(), ..Setup::default() };
        change(&mut setup.buffer);
        Self::start_as(setup)
    }

    fn start_as(setup: Setup) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), setup)
    }

    fn start_in(dir: TempDir, setup: Setup) -> Self {
        let (buffer, _) =
            Buffer::open(&dir.path().join("buffer"), &setup.buffer, &[device("cloud")]).unwrap();
        let clock_settings =
            config::Clock { source: config::ClockSource::Trusted, ..config::Clock::default() };
        let clock = Clock::start(&clock_settings, &dir.path().join("floor"), BTreeMap::new()).unwrap();
        let streams = vec![stream("readings", "+/reading", PayloadFormat::Json)];
        let settings = Settings {
            limits: &setup.limits,
            rates: &setup.rates,
            sessions: &setup.sessions,
            retained: &setup.retained,
            streams: &streams,
        };
        let authenticator = Authenticator::new(clock.clone());
        let rules = setup.rules.clone().unwrap_or_else(|| authorizer(&streams));
        let refusals = Refusals::default();
        let ledger = Ledger::new(&buffer, clock.clone(), &setup.commands);
        let broker =
            Broker::new(settings, rules, authenticator, buffer.clone(), clock, refusals, ledger.clone());
        let tasks = Tasks::default();
        let service = tasks.spawner(Stage::Service);
        service.passing(broker.clone().run(service.cancelled().clone()));
        Self { broker, buffer, ledger, streams, tasks, setup, dir }
    }

    /// Waits until it lets clients in, and stops the clock of tokio: the store has one of its own.
    async fn with_stopped_clock(self) -> Self {
        patiently("for the gateway to be ready", self.broker.0.ready.wait()).await;
        tokio::time::pause();
        self
    }

    /// Ends as SIGTERM does, and starts again.
    async fn restart(mut self) -> Self {
        assert_eq!(self.tasks.drain(PATIENCE).await, []);
        self.buffer.close().await;
        drop((self.broker, self.buffer, self.ledger));
        Self::start_in(self.dir, self.setup)
    }

    /// Starts another on what would be found on disk if the power were cut now.
    fn power_cut(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(&self.dir.path().join("buffer"), &dir.path().join("buffer"));
        Self::start_in(dir, self.setup.clone())
    }

    /// A connection over which nothing was said yet.
    fn open(&self, identity: Identity) -> Client {
        self.open_with(identity, 1024 * 1024)
    }

    /// A connection that holds so many bytes in either direction.
    fn open_with(&self, identity: Identity, bytes: usize) -> Client {
        let (near, far) = tokio::io::duplex(bytes);
        let peer = peer(identity);
        let sessions = self.tasks.spawner(Stage::Sessions);
        sessions.passing(self.broker.serve(far, peer, sessions.cancelled().clone()));
        Client { stream: near }
    }

    /// A client with a clean session, a keep alive of 60 s and a client id, which is connected.
    async fn connect(&self, device: &str, client_id: &str) -> Client {
        let mut client = self.open(certified(device));
        client.send(&connect(client_id, 0x02, 60)).await;
        client.expect(CONNACK).await;
        client
    }

    /// A client whose session is kept, which is connected.
    async fn connect_kept(&self, device: &str, client_id: &str, present: bool) -> Client {
        let mut client = self.open(certified(device));
        client.send(&connect(client_id, 0x00, 60)).await;
        client.expect(&[0x20, 2, present.into(), 0]).await;
        client
    }

    /// A client with a kept session that has just subscribed to what the plug publishes, with QoS 1.
    async fn subscribed_panel(&self) -> Client {
        let mut panel = self.connect_kept("panel", "c", false).await;
        panel.subscribe("plug/#", 1).await;
        panel
    }

    /// A client of 5.0 with a session of its own; `properties` of its CONNECT.
    async fn connect5(&self, device: &str, client_id: &str, properties: &[u8]) -> Client {
        let mut client = self.open(certified(device));
        client.send(&connect5(client_id, 0x02, 60, properties)).await;
        let (first, body) = client.receive().await;
        assert_eq!((first, &body[..2]), (0x20, &[0, 0][..]));
        client
    }

    fn refused(&self, reason: &str) -> u64 {
        self.broker.figures().refusals[reason]
    }
}

struct Client {
    stream: DuplexStream,
}

impl Client {
    async fn send(&mut self, bytes: &[u8]) {
        patiently("to send", self.stream.write_all(bytes)).await.unwrap();
    }

    /// The next bytes are these.
    async fn expect(&mut self, bytes: &[u8]) {
        let mut came = vec![0; bytes.len()];
        let read = patiently("to hear from the gateway", self.stream.read_exact(&mut came)).await;
        read.unwrap_or_else(|error| panic!("{error} instead of {bytes:02x?}, after {came:02x?}"));
        assert_eq!(came, bytes, "{:?}", String::from_utf8_lossy(&came));
    }

    /// The next packet: its first byte, and its body.
    async fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut read = async |count: usize| {
            let mut bytes = vec![0; count];
            patiently("for a packet", self.stream.read_exact(&mut bytes)).await.unwrap();
            bytes
        };
        let first = read(1).await[0];
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let byte = read(1).await[0];
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        (first, read(length).await)
    }

    /// The connection breaks, and the gateway has noticed.
    async fn vanish(self, gateway: &Gateway) {
        let before = gateway.broker.figures().connections;
        drop(self);
        eventually("for the gateway to notice", || gateway.broker.figures().connections < before).await;
    }

    /// DISCONNECT, and the end.
    async fn leave(mut self) {
        self.send(b"\xe0\0").await;
        self.expect_close().await;
    }

    /// The gateway says why, and ends the connection. For clients of 5.0.
    async fn expect_disconnect(&mut self, reason: u8) {
        let (first, body) = self.receive().await;
        assert_eq!((first, body[0]), (0xe0, reason), "{:?}", String::from_utf8_lossy(&body));
        self.expect_close().await;
    }

    /// The gateway ends the connection, and says nothing before.
    async fn expect_close(&mut self) {
        let mut rest = Vec::new();
        patiently("for the end", self.stream.read_to_end(&mut rest)).await.unwrap();
        assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    }

    /// The gateway is at its ease: it has answered everything before this, and says nothing else.
    async fn ping(&mut self) {
        self.send(b"\xc0\0").await;
        self.expect(b"\xd0\0").await;
    }

    /// Publishes with QoS 1, and hears that it was taken.
    async fn publish(&mut self, topic: &str, packet_id: u16, payload: &str) {
        self.send(&publish1(topic, packet_id, payload)).await;
        self.expect(&puback(packet_id)).await;
    }

    /// The same with RETAIN.
    async fn retain(&mut self, topic: &str, packet_id: u16, payload: &str) {
        self.send(&retained(publish1(topic, packet_id, payload))).await;
        self.expect(&puback(packet_id)).await;
    }

    async fn subscribe(&mut self, filter: &str, qos: u8) {
        self.send(&subscribe(1, &[(filter, qos)])).await;
        self.expect(&[0x90, 3, 0, 1, qos]).await;
    }
}

async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long {what}"),
    }
}

/// Waits until a condition holds.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    patiently(what, wait).await;
}

/// A packet: its first byte and its body.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut length = body.len();
    while length >= 0x80 {
        packet.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    packet.push(u8::try_from(length).unwrap());
    packet.extend_from_slice(body);
    packet
}

fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
}

fn connect(client_id: &str, flags: u8, keep_alive: u16) -> Vec<u8> {
    let head = [b"\0\x04MQTT\x04", &[flags][..], &keep_alive.to_be_bytes()].concat();
    packet(0x10, &[head, text(client_id)].concat())
}

fn publish0(topic: &str, payload: &str) -> Vec<u8> {
    packet(0x30, &[text(topic), payload.into()].concat())
}

fn publish1(topic: &str, packet_id: u16, payload: &str) -> Vec<u8> {
    packet(0x32, &[text(topic), packet_id.to_be_bytes().into(), payload.into()].concat())
}

fn publish2(topic: &str, packet_id: u16, payload: &str) -> Vec<u8> {
    packet(0x34, &[text(topic), packet_id.to_be_bytes().into(), payload.into()].concat())
}

/// The same once more.
fn dup(mut publish: Vec<u8>) -> Vec<u8> {
    publish[0] |= 0x08;
    publish
}

fn retained(mut publish: Vec<u8>) -> Vec<u8> {
    publish[0] |= 0x01;
    publish
}

/// PUBREC, PUBREL or PUBCOMP, by its first byte.
fn ack(first: u8, packet_id: u16) -> Vec<u8> {
    packet(first, &packet_id.to_be_bytes())
}

const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;
const PUBCOMP: u8 = 0x70;

fn connect5(client_id: &str, flags: u8, keep_alive: u16, properties: &[u8]) -> Vec<u8> {
    let head = [b"\0\x04MQTT\x05", &[flags][..], &keep_alive.to_be_bytes()].concat();
    packet(0x10, &[head, with_length(properties), text(client_id)].concat())
}

/// `first` has QoS, DUP and RETAIN; a packet identifier of 0 is none.
fn publish5(first: u8, topic: &str, packet_id: u16, properties: &[u8], payload: &str) -> Vec<u8> {
    let id = if packet_id == 0 { Vec::new() } else { packet_id.to_be_bytes().to_vec() };
    packet(first, &[text(topic), id, with_length(properties), payload.into()].concat())
}

/// One filter, with its options.
fn subscribe5(packet_id: u16, properties: &[u8], filter: &str, options: u8) -> Vec<u8> {
    let head = [packet_id.to_be_bytes().to_vec(), with_length(properties)].concat();
    packet(0x82, &[head, text(filter), vec![options]].concat())
}

fn with_length(properties: &[u8]) -> Vec<u8> {
    [&[u8::try_from(properties.len()).unwrap()], properties].concat()
}

fn puback(packet_id: u16) -> Vec<u8> {
    packet(0x40, &packet_id.to_be_bytes())
}

fn subscribe(packet_id: u16, filters: &[(&str, u8)]) -> Vec<u8> {
    let filters = filters.iter().flat_map(|(filter, qos)| [text(filter), vec![*qos]].concat());
    packet(0x82, &packet_id.to_be_bytes().into_iter().chain(filters).collect::<Vec<_>>())
}

fn unsubscribe(packet_id: u16, filters: &[&str]) -> Vec<u8> {
    let filters = filters.iter().flat_map(|filter| text(filter));
    packet(0xa2, &packet_id.to_be_bytes().into_iter().chain(filters).collect::<Vec<_>>())
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        match path.is_dir() {
            true => copy_dir(&path, &to.join(name)),
            false => std::fs::copy(&path, to.join(name)).map(drop).unwrap(),
        }
    }
}
