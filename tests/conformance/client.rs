//! A client that says exactly what a test wants said, right or wrong, and reads every byte of the answers.
//! It shares no code with the broker nor with the library that the broker reads packets with.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use crate::broker::{Broker, Transport};
use crate::packet::{self, Body, Kind, Prop, Received};

/// How long an answer may take on a slow and busy machine. Nothing waits so long when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How long nothing must come for it to be taken for nothing, after an exchange that would have come behind it.
const QUIET: Duration = Duration::from_millis(150);

/// The versions that are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V3,
    V5,
}

pub(crate) use Version::{V3, V5};

impl Version {
    pub(crate) fn level(self) -> u8 {
        match self {
            V3 => 4,
            V5 => 5,
        }
    }
}

/// What a CONNECT holds. What a test does not say is as a careful client has it.
#[derive(Debug, Clone)]
pub(crate) struct Connect {
    pub(crate) version: Version,
    pub(crate) client_id: String,
    pub(crate) clean: bool,
    pub(crate) keep_alive: u16,
    pub(crate) will: Option<Will>,
    pub(crate) user_name: Option<String>,
    pub(crate) password: Option<Vec<u8>>,
    pub(crate) properties: Vec<Prop>,
}

#[derive(Debug, Clone)]
pub(crate) struct Will {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) properties: Vec<Prop>,
}

impl Will {
    pub(crate) fn new(topic: &str, payload: &str) -> Self {
        Self { topic: topic.into(), payload: payload.into(), qos: 0, retain: false, properties: vec![] }
    }
}

impl Connect {
    pub(crate) fn new(version: Version, client_id: &str) -> Self {
        Self {
            version,
            client_id: client_id.to_owned(),
            clean: true,
            keep_alive: 60,
            will: None,
            user_name: None,
            password: None,
            properties: vec![],
        }
    }

    /// A session that outlives its connection, by an hour with MQTT 5.
    pub(crate) fn persistent(mut self) -> Self {
        self.clean = false;
        match self.version {
            V3 => self,
            V5 => self.with(Prop::SessionExpiry(3600)),
        }
    }

    pub(crate) fn will(mut self, will: Will) -> Self {
        self.will = Some(will);
        self
    }

    pub(crate) fn with(mut self, property: Prop) -> Self {
        self.properties.push(property);
        self
    }

    pub(crate) fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive = seconds;
        self
    }

    /// The packet, to be sent as it is or damaged first.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let mut flags = u8::from(self.clean) << 1;
        if let Some(will) = &self.will {
            flags |= 0b100 | will.qos << 3 | u8::from(will.retain) << 5;
        }
        flags |= u8::from(self.user_name.is_some()) << 7 | u8::from(self.password.is_some()) << 6;
        let mut body = Body::new().text("MQTT").u8(self.version.level()).u8(flags).u16(self.keep_alive);
        if self.version == V5 {
            body = body.properties(&self.properties);
        }
        body = body.text(&self.client_id);
        if let Some(will) = &self.will {
            if self.version == V5 {
                body = body.properties(&will.properties);
            }
            body = body.text(&will.topic).bytes(&will.payload);
        }
        if let Some(name) = &self.user_name {
            body = body.text(name);
        }
        if let Some(password) = &self.password {
            body = body.bytes(password);
        }
        body.packet(0x10)
    }
}

/// A message as a test publishes it.
#[derive(Debug, Clone)]
pub(crate) struct Publish {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) id: u16,
    pub(crate) properties: Vec<Prop>,
}

impl Publish {
    pub(crate) fn new(topic: &str, payload: &str) -> Self {
        Self {
            topic: topic.into(),
            payload: payload.into(),
            qos: 0,
            retain: false,
            dup: false,
            id: 0,
            properties: vec![],
        }
    }

    pub(crate) fn qos(mut self, qos: u8, id: u16) -> Self {
        (self.qos, self.id) = (qos, id);
        self
    }

    pub(crate) fn retained(mut self) -> Self {
        self.retain = true;
        self
    }

    pub(crate) fn dup(mut self) -> Self {
        self.dup = true;
        self
    }

    pub(crate) fn with(mut self, property: Prop) -> Self {
        self.properties.push(property);
        self
    }

    pub(crate) fn packet(&self, version: Version) -> Vec<u8> {
        let mut body = Body::new().text(&self.topic);
        if self.qos > 0 {
            body = body.u16(self.id);
        }
        if version == V5 {
            body = body.properties(&self.properties);
        }
        let first = 0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        body.raw(&self.payload).packet(first)
    }
}

/// A connection to the broker that is judged.
pub(crate) struct Client {
    stream: Box<dyn Transport>,
    pub(crate) version: Version,
    input: Vec<u8>,
    /// Came while something else was waited for.
    inbox: Vec<Received>,
    last_id: u16,
    /// Bytes of the largest packet that has come.
    pub(crate) largest: usize,
}

impl Client {
    /// A connection on which nothing was said yet.
    pub(crate) fn open(version: Version) -> Self {
        Self { stream: Broker::get().open(), version, input: vec![], inbox: vec![], last_id: 0, largest: 0 }
    }

    /// Connects; the broker must accept.
    pub(crate) fn connect(connect: &Connect) -> Self {
        Self::connected(connect).0
    }

    /// Connects, and gives back the CONNACK of an accepted connection as well.
    pub(crate) fn connected(connect: &Connect) -> (Self, Received) {
        let (client, ack) = Self::answered(connect);
        assert_eq!(ack.reason(), 0, "{connect:?} was refused: {ack:?}");
        (client, ack)
    }

    /// Connects; whatever the CONNACK says.
    pub(crate) fn answered(connect: &Connect) -> (Self, Received) {
        let mut client = Self::open(connect.version);
        client.send(&connect.packet());
        let ack = client.expect(Kind::ConnAck);
        (client, ack)
    }

    /// A clean session with a client id of its own, made from the test's name.
    pub(crate) fn new(version: Version, name: &str) -> Self {
        Self::connect(&Connect::new(version, &unique(name)))
    }

    /// Sends bytes. The broker may have closed by now, as some tests want it to.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let sent = self.stream.write_all(bytes).and_then(|()| self.stream.flush());
        if let Err(error) = sent {
            assert!(is_closed(error.kind()), "sending: {error}");
        }
    }

    /// Publishes, and does what the quality of service asks for until it is through.
    pub(crate) fn publish(&mut self, publish: &Publish) -> u8 {
        let mut publish = publish.clone();
        if publish.qos > 0 && publish.id == 0 {
            publish.id = self.next_id();
        }
        self.send(&publish.packet(self.version));
        match publish.qos {
            0 => 0,
            1 => self.expect_ack(Kind::PubAck, publish.id).reason(),
            _ => {
                let reason = self.expect_ack(Kind::PubRec, publish.id).reason();
                if reason < 0x80 {
                    self.send(&packet::ack(0x62, publish.id));
                    self.expect_ack(Kind::PubComp, publish.id);
                }
                reason
            }
        }
    }

    /// Subscribes with plain options; what was granted.
    pub(crate) fn subscribe(&mut self, filters: &[(&str, u8)]) -> Vec<u8> {
        self.subscribe_with(filters, &[])
    }

    /// `filters`: with their options byte.
    pub(crate) fn subscribe_with(&mut self, filters: &[(&str, u8)], properties: &[Prop]) -> Vec<u8> {
        let id = self.next_id();
        self.send(&packet::subscribe(self.version, id, filters, properties));
        self.expect_ack(Kind::SubAck, id).codes()
    }

    pub(crate) fn unsubscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        let id = self.next_id();
        self.send(&packet::unsubscribe(self.version, id, filters));
        self.expect_ack(Kind::UnsubAck, id).codes()
    }

    pub(crate) fn disconnect(mut self) {
        self.send(&[0xE0, 0]);
        self.expect_closed();
    }

    /// The connection breaks without a word.
    pub(crate) fn cut(self) {}

    /// The next packet of this kind. Messages that come before it are kept, anything else fails the test.
    pub(crate) fn expect(&mut self, kind: Kind) -> Received {
        if let Some(index) = self.inbox.iter().position(|received| received.kind() == kind) {
            return self.inbox.remove(index);
        }
        let end = Instant::now() + PATIENCE;
        loop {
            match self.receive(end) {
                Some(received) if received.kind() == kind => return received,
                Some(received) if received.kind() == Kind::Publish => self.inbox.push(received),
                Some(other) => panic!("{kind:?} was expected, not {other:?}"),
                None => panic!("{kind:?} never came: the connection is closed"),
            }
        }
    }

    pub(crate) fn expect_ack(&mut self, kind: Kind, id: u16) -> Received {
        let received = self.expect(kind);
        assert_eq!(received.id(), id, "{received:?}");
        received
    }

    /// The next messages as text, in the order in which they come.
    pub(crate) fn messages(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.message().text().to_owned()).collect()
    }

    /// The next message, which is acknowledged as its quality of service asks for.
    pub(crate) fn message(&mut self) -> Received {
        let message = self.expect(Kind::Publish);
        match message.qos() {
            0 => {}
            1 => self.send(&packet::ack(0x40, message.id())),
            _ => {
                self.send(&packet::ack(0x50, message.id()));
                self.expect_ack(Kind::PubRel, message.id());
                self.send(&packet::ack(0x70, message.id()));
            }
        }
        message
    }

    /// The next message before the answer of a PINGREQ that was sent, acknowledged; `None` at the answer.
    pub(crate) fn before_pong(&mut self) -> Option<Received> {
        if self.inbox.is_empty() {
            match self.receive(Instant::now() + PATIENCE) {
                Some(received) if received.kind() == Kind::PingResp => return None,
                Some(received) => self.inbox.push(received),
                None => panic!("the connection is closed"),
            }
        }
        Some(self.message())
    }

    /// Nothing more comes: a PINGREQ is answered, and only then. What others have just sent has had its time.
    pub(crate) fn expect_nothing(&mut self) {
        std::thread::sleep(QUIET);
        self.send(&[0xC0, 0]);
        self.expect(Kind::PingResp);
        assert!(self.inbox.is_empty(), "nothing was expected: {:?}", self.inbox);
    }

    /// The broker closes. With MQTT 5 it may say why: the reason of its DISCONNECT, if there was one.
    pub(crate) fn expect_closed(&mut self) -> Option<u8> {
        let mut reason = None;
        let end = Instant::now() + PATIENCE;
        while let Some(received) = self.receive(end) {
            match received.kind() {
                Kind::Disconnect if self.version == V5 => reason = Some(received.reason()),
                Kind::Publish | Kind::PingResp => {}
                _ => panic!("the end was expected, not {received:?}"),
            }
        }
        reason
    }

    /// The broker closes, and every other answer before that counts as well: what they were.
    pub(crate) fn until_closed(&mut self) -> Vec<Received> {
        let end = Instant::now() + PATIENCE;
        std::iter::from_fn(|| self.receive(end)).collect()
    }

    pub(crate) fn next_id(&mut self) -> u16 {
        self.last_id += 1;
        // Far from those that tests choose themselves.
        1_000 + self.last_id
    }

    /// `None`: closed.
    fn receive(&mut self, end: Instant) -> Option<Received> {
        let received = self.read(end)?;
        self.largest = self.largest.max(received.size);
        Some(received)
    }

    fn read(&mut self, end: Instant) -> Option<Received> {
        loop {
            if let Some((received, length)) = packet::read(&self.input, self.version) {
                self.input.drain(..length);
                return Some(received);
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.input.extend_from_slice(&chunk[..count]),
                Err(error) if is_closed(error.kind()) => return None,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    assert!(Instant::now() < end, "nothing came in time; so far {:?}", self.inbox);
                }
                Err(error) => panic!("reading: {error}"),
            }
        }
    }
}

/// A name that no other run of a test has.
pub(crate) fn unique(name: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn is_closed(kind: ErrorKind) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
}
