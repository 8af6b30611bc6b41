//! Whole sessions: two clients at a broker with a real buffer, in one thread.
//!
//! After every step: what was heard answers what was said; nothing was delivered that nobody published; what waits is
//! bounded. At the end: everything that was said has an answer, somebody else is served, and when all sessions
//! are over nothing of them is left, neither in memory nor on disk.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::client::{Client, Heard};
use super::input::{
    CLIENT_IDS, Hello, Input, TOPICS, clean_connect, connect, disconnect, packet, publish, subscribe,
    unsubscribe,
};
use crate::authorize::refusals::Refusals;
use crate::authorize::{Authenticator, Authorizer, Door};
use crate::broker::wire::Version;
use crate::broker::{Broker, Peer, Settings};
use crate::buffer::{Buffer, Change, RecordKey, Table, Wait};
use crate::clock::Clock;
use crate::config::{
    self, Access, AclRule, ClockSource, DeviceMatch, DeviceSource, PayloadFormat, TopicTemplate,
};
use crate::message::{CertificateId, DeviceId, TopicFilter};
use crate::relay::Ledger;
use crate::tasks::{Stage, Tasks};

/// A buffer serves so many runs before another takes its place: it would fill.
const RUNS: usize = 500;

/// Far beyond what an answer takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a client's end of a connection holds in each direction.
const PIPE_BYTES: usize = 4 * 1024;

const TABLES: [Table; 4] = [Table::Session, Table::Queued, Table::Received, Table::Retained];

/// Small, so that they are reached.
fn bounds() -> (config::Listener, config::Sessions, config::Retained) {
    let limits = config::Listener {
        max_packet_bytes: 1_024,
        max_inflight: 4,
        max_subscriptions: 5,
        ..config::Listener::default()
    };
    let sessions = config::Sessions {
        max_queued_messages: 12,
        max_queued_bytes: 4 * 1_024,
        max_total_bytes: 6 * 1_024,
        max_per_device: 2,
        max_kept: 3,
        ..config::Sessions::default()
    };
    (limits, sessions, config::Retained { max_messages: 3, max_bytes: 2 * 1_024 })
}

/// The largest sum of what waits: the shares of who is connected come on top of the bound.
const MAX_WAITING_BYTES: u64 = 4 * 4 * 1_024;

/// What is used again and again, as it takes long to make.
struct World {
    runtime: Runtime,
    buffer: Buffer,
    clock: Clock,
    _dir: TempDir,
    runs: usize,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// What two clients do, and what becomes of it.
///
/// # Panics
/// When the broker does what it must not.
pub fn sessions(bytes: &[u8]) {
    WORLD.with_borrow_mut(|world| {
        if world.as_ref().is_none_or(|world| world.runs >= RUNS) {
            *world = Some(World::new());
        }
        let Some(World { runtime, buffer, clock, runs, .. }) = world else { return };
        *runs += 1;
        runtime.block_on(async {
            let mut game = Game::start(buffer.clone(), clock.clone());
            game.play(&mut Input(bytes)).await;
            game.end().await;
        });
    });
}

impl World {
    fn new() -> Self {
        // In memory, where there is one: it is not the disk that is tried here.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let dir = dir.expect("a directory can be made");
        let settings = config::Buffer {
            ack_delay: Duration::ZERO,
            qos0_window: Duration::from_millis(1),
            min_free_bytes: 0,
            ..config::Buffer::default()
        };
        let (buffer, _) = Buffer::open(&dir.path().join("buffer"), &settings, &[]).expect("it is new");
        let trusted = config::Clock { source: ClockSource::Trusted, ..config::Clock::default() };
        let clock = Clock::start(&trusted, &dir.path().join("floor"), BTreeMap::new());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Self {
            runtime: runtime.expect("a runtime"),
            buffer,
            clock: clock.expect("the kernel tells the boot id"),
            _dir: dir,
            runs: 0,
        }
    }
}

/// A broker from its start to its end.
struct Game {
    broker: Broker,
    buffer: Buffer,
    clock: Clock,
    tasks: Tasks,
    clients: [Option<Client>; 2],
    /// By the number at their beginning: the topics of all payloads, as far as they were said.
    published: Vec<&'static str>,
    /// Readings that there were before, and such as were acknowledged since.
    readings: u64,
}

/// Half of the identities that a session belongs to.
fn device(client: usize) -> DeviceId {
    DeviceId::parse(["a", "b", "w"][client]).expect("it is a name")
}

fn start(buffer: &Buffer, clock: &Clock) -> (Broker, Tasks) {
    let all = || vec![TopicTemplate::parse("#").expect("it is a filter")];
    let most = vec![TopicTemplate::parse("a/#").expect("it is a filter")];
    let rules = vec![
        AclRule::allow(DeviceMatch::Named(device(0)), all(), all()),
        AclRule::allow(DeviceMatch::Named(device(1)), most, all()),
    ];
    let streams = [config::Stream {
        name: "readings".to_owned(),
        filter: TopicFilter::parse("+/reading").expect("it is a filter"),
        device: DeviceSource::Certificate,
        format: PayloadFormat::Text,
        fields: Vec::new(),
        integrity: None,
        open_to: Vec::new(),
    }];
    let (limits, sessions, retained) = bounds();
    let rates = config::Limits::default();
    let settings = Settings {
        limits: &limits,
        rates: &rates,
        sessions: &sessions,
        retained: &retained,
        streams: &streams,
    };
    let authorizer = Authorizer::new(&Access { rules, ..Access::default() }, &streams);
    let authenticator = Authenticator::new(clock.clone());
    let (buffer, refusals) = (buffer.clone(), Refusals::default());
    let ledger = Ledger::new(&buffer, clock.clone(), &config::Commands::default());
    let broker = Broker::new(settings, authorizer, authenticator, buffer, clock.clone(), refusals, ledger);
    let tasks = Tasks::default();
    let service = tasks.spawner(Stage::Service);
    service.essential("broker", broker.clone().run(service.cancelled().clone()));
    (broker, tasks)
}

impl Game {
    fn start(buffer: Buffer, clock: Clock) -> Self {
        let (broker, tasks) = start(&buffer, &clock);
        let readings = buffer.status().accepted;
        Self { broker, buffer, clock, tasks, clients: [None, None], published: Vec::new(), readings }
    }

    async fn play(&mut self, input: &mut Input<'_>) {
        while !input.is_empty() {
            let step = input.byte();
            self.step(usize::from(step & 1), step >> 1, input).await;
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            for client in 0..2 {
                self.hear(client);
            }
            self.check_bounds();
        }
    }

    async fn step(&mut self, who: usize, what: u8, input: &mut Input<'_>) {
        if what % 32 == 31 {
            return self.restart().await;
        }
        let number = self.published.len() as u32;
        let Some(client) = &mut self.clients[who] else {
            let (hello, bytes) = connect(input);
            self.connect(who, hello, &bytes);
            return;
        };
        let version = client.hello.version;
        let bytes = match what % 16 {
            0..=4 => {
                let (published, bytes) = publish(input, version, number.to_be_bytes());
                client.said_publish(&published);
                self.published.push(published.topic);
                bytes
            }
            5 | 6 => {
                let (id, count, bytes) = subscribe(input, version);
                client.said_subscribe(id, count);
                bytes
            }
            7 => {
                let (id, bytes) = unsubscribe(input, version);
                client.said_unsubscribe(id);
                bytes
            }
            8 => return client.say_all_acks(),
            9 => {
                let kind = [0x40, 0x50, 0x62, 0x70][usize::from(input.below(4))];
                return client.say_ack(kind, input.packet_id());
            }
            10 => return client.say_ack(0x62, input.packet_id()),
            11 => {
                client.said_ping();
                packet(0xc0, &[])
            }
            12 => {
                client.deaf = !client.deaf;
                return;
            }
            13 => disconnect(input, version),
            14 => {
                client.broken = true;
                input.raw()
            }
            _ => {
                self.clients[who] = None;
                return tokio::time::sleep(Duration::from_micros(u64::from(input.byte()))).await;
            }
        };
        // What did not leave as a whole has no answer.
        client.broken |= !client.send(&bytes);
    }

    /// A connection over which this was sent.
    fn connect(&mut self, who: usize, hello: Hello, bytes: &[u8]) {
        let mut client = Client::new(self.open(who), hello);
        client.broken |= !client.send(bytes);
        self.clients[who] = Some(client);
    }

    fn open(&self, who: usize) -> tokio::io::DuplexStream {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let certificate = CertificateId { issuer: "CN=fuzz".to_owned(), serial: "01".to_owned() };
        let peer = Peer {
            certificate: Some((device(who), certificate)),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
            door: Door::Tls,
        };
        let sessions = self.tasks.spawner(Stage::Sessions);
        sessions.passing(self.broker.serve(far, peer, sessions.cancelled().clone()));
        near
    }

    /// What has come to a client is looked at. Returns whether it is there.
    fn hear(&mut self, who: usize) -> bool {
        let Some(client) = &mut self.clients[who] else { return false };
        if client.broken {
            // What it said last is no packet, or was cut: the broker ends it, or waits for more.
            self.clients[who] = None;
            return false;
        }
        let Heard { readings, messages, ended } = client.hear();
        self.readings += readings;
        let accepted = self.buffer.status().accepted;
        assert!(self.readings <= accepted, "{} acknowledged, {accepted} on disk", self.readings);
        for (topic, payload) in messages {
            let Some(number) = payload.first_chunk::<4>() else { continue };
            let number = u32::from_be_bytes(*number) as usize;
            let is_will = number == 0 && payload.len() == 4;
            let sent_to = self.published.get(number);
            let is_it = |to: &&str| to.is_empty() || *to == topic;
            assert!(is_will || sent_to.is_some_and(is_it), "{number} on {topic}: {sent_to:?}");
        }
        if ended {
            self.clients[who] = None;
        }
        !ended
    }

    fn check_bounds(&self) {
        let figures = self.broker.figures();
        assert!(figures.queued_bytes <= MAX_WAITING_BYTES, "{figures:?}");
        assert!(figures.sessions_kept <= 5 && figures.sessions <= 4, "{figures:?}");
        assert!(figures.retained <= 3 && figures.retained_bytes <= 2 * 1_024, "{figures:?}");
    }

    /// Another broker takes over what this one has kept.
    async fn restart(&mut self) {
        self.clients = [None, None];
        self.stop().await;
        // The next one reads what is on disk.
        self.commit().await;
        (self.broker, self.tasks) = start(&self.buffer, &self.clock);
    }

    /// Waits until everything that was submitted is on disk.
    async fn commit(&self) {
        let mut writer = self.buffer.writer();
        let last = Change::Remove(RecordKey::new(Table::Session, b"none"));
        let receipt = writer.submit(None, vec![last], Wait::ForAck).expect("there is room");
        writer.until_durable(receipt.mark).await.expect("the buffer works");
    }

    async fn stop(&mut self) {
        assert_eq!(self.tasks.drain(PATIENCE).await, [], "every task ends when it is told to");
        assert_eq!(self.broker.figures().connections, 0);
    }

    async fn end(mut self) {
        for who in 0..2 {
            self.be_answered(who).await;
        }
        self.serve_another().await;
        self.clients = [None, None];
        for who in 0..2 {
            for client_id in CLIENT_IDS {
                self.clear(who, client_id).await;
            }
        }
        self.forget_retained().await;
        self.expect_nothing_left().await;
        self.stop().await;
    }

    /// Until a client has an answer to everything that it has said, or its connection has ended.
    async fn be_answered(&mut self, who: usize) {
        if let Some(client) = &mut self.clients[who] {
            client.deaf = false;
        }
        let answered = async {
            while self.hear(who) {
                match &self.clients[who] {
                    Some(client) if !client.is_answered() => {}
                    _ => break,
                }
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        };
        tokio::time::timeout(PATIENCE, answered).await.expect("everything that was said is answered");
    }

    /// Whatever the two have done, a third is served.
    async fn serve_another(&mut self) {
        let hello = Hello { version: Version::V3, client_id: "w", receive_maximum: u16::MAX };
        let mut witness = Client::new(self.open(2), hello);
        let mut bytes = clean_connect(Version::V3, "w");
        witness.said_subscribe(1, 1);
        bytes.extend(packet(0x82, &[&[0, 1, 0, 3][..], b"w/#", &[1]].concat()));
        assert!(witness.send(&bytes));
        let mut messages = 0;
        let served = async {
            let mut asked = false;
            loop {
                let heard = witness.hear();
                assert!(!heard.ended, "the third is thrown out");
                let own =
                    heard.messages.iter().filter(|(topic, payload)| topic == "w/reading" && payload == b"!");
                messages += own.count();
                if witness.is_answered() && !asked {
                    asked = true;
                    let id = 7;
                    witness.said_publish(&super::input::Published {
                        topic: "w/reading",
                        qos: 1,
                        id,
                        is_new_reading: true,
                    });
                    assert!(
                        witness.send(&packet(0x32, &[&[0, 9][..], b"w/reading", &[0, 7], b"!"].concat()))
                    );
                } else if witness.is_answered() && messages == 1 {
                    break;
                }
                witness.say_all_acks();
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        };
        tokio::time::timeout(PATIENCE, served).await.expect("the third is served");
    }

    /// Ends a session, whether there is one or not.
    async fn clear(&mut self, who: usize, client_id: &'static str) {
        let version = Version::V3;
        let hello = Hello { version, client_id, receive_maximum: u16::MAX };
        self.connect(who, hello, &[clean_connect(version, client_id), packet(0xe0, &[])].concat());
        let ended = async {
            while self.hear(who) {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("a connection ends");
    }

    async fn forget_retained(&mut self) {
        let hello = Hello { version: Version::V3, client_id: "w", receive_maximum: u16::MAX };
        let mut bytes = clean_connect(Version::V3, "c");
        for topic in TOPICS {
            let length = topic.len() as u8;
            bytes.extend(packet(0x31, &[&[0, length][..], topic.as_bytes()].concat()));
        }
        bytes.extend(packet(0xe0, &[]));
        self.connect(0, hello, &bytes);
        while self.hear(0) {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }

    async fn expect_nothing_left(&mut self) {
        let nothing = async {
            loop {
                let figures = self.broker.figures();
                if figures.connections == 0 {
                    assert_eq!((figures.sessions, figures.sessions_kept), (0, 0), "{figures:?}");
                    assert_eq!((figures.queued_messages, figures.queued_bytes), (0, 0), "{figures:?}");
                    assert_eq!((figures.retained, figures.retained_bytes), (0, 0), "{figures:?}");
                    assert_eq!(figures.wills_waiting, 0, "{figures:?}");
                    break;
                }
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        };
        tokio::time::timeout(PATIENCE, nothing).await.expect("all connections end");
        self.commit().await;
        for table in TABLES {
            let records = self.buffer.records(table).await.expect("the buffer works");
            assert!(records.is_empty(), "{} records of {table:?} are left", records.len());
        }
    }
}
