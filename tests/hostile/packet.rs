//! Packets of both versions, written by hand: also such as no client library would write.

use std::fmt::Write as _;

/// A version of MQTT, as its byte in CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V3 = 4,
    V5 = 5,
}

pub(crate) const VERSIONS: [Version; 2] = [Version::V3, Version::V5];

/// A packet: its first byte and its body.
pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut length = body.len();
    while length >= 0x80 {
        packet.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    packet.push(length as u8);
    packet.extend_from_slice(body);
    packet
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("no text is longer");
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

/// Properties of 5.0 behind their length; nothing in 3.1.1.
pub(crate) fn properties(version: Version, properties: &[u8]) -> Vec<u8> {
    match version {
        Version::V3 => Vec::new(),
        // Without a first byte, a packet is a length and its body.
        Version::V5 => packet(0, properties)[1..].to_vec(),
    }
}

/// What a client says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Hello {
    pub(crate) version: Version,
    pub(crate) client_id: String,
    pub(crate) clean: bool,
    pub(crate) keep_alive: u16,
    /// Of 5.0.
    pub(crate) properties: Vec<u8>,
    pub(crate) will: Option<Will>,
}

/// What is to be published for it when it is gone.
#[derive(Debug, Clone)]
pub(crate) struct Will {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    /// Of 5.0.
    pub(crate) properties: Vec<u8>,
}

impl Hello {
    pub(crate) fn new(version: Version, client_id: &str) -> Self {
        let client_id = client_id.to_owned();
        Self { version, client_id, clean: true, keep_alive: 600, properties: Vec::new(), will: None }
    }

    /// A session that outlives its connection.
    pub(crate) fn kept(version: Version, client_id: &str) -> Self {
        let mut hello = Self::new(version, client_id);
        hello.clean = false;
        if version == Version::V5 {
            hello.properties = [&[0x11][..], &600_u32.to_be_bytes()].concat();
        }
        hello
    }

    pub(crate) fn with_will(mut self, topic: &str, payload: &[u8], qos: u8, retain: bool) -> Self {
        let (topic, payload) = (topic.to_owned(), payload.to_vec());
        self.will = Some(Will { topic, payload, qos, retain, properties: Vec::new() });
        self
    }

    pub(crate) fn packet(&self) -> Vec<u8> {
        let mut flags = u8::from(self.clean) << 1;
        let mut body = text("MQTT");
        if let Some(Will { qos, retain, .. }) = &self.will {
            flags |= 0x04 | qos << 3 | u8::from(*retain) << 5;
        }
        body.extend([self.version as u8, flags]);
        body.extend(self.keep_alive.to_be_bytes());
        body.extend(properties(self.version, &self.properties));
        body.extend(text(&self.client_id));
        if let Some(Will { topic, payload, properties: own, .. }) = &self.will {
            body.extend(properties(self.version, own));
            body.extend(text(topic));
            body.extend(u16::try_from(payload.len()).expect("a will is small").to_be_bytes());
            body.extend(payload);
        }
        packet(0x10, &body)
    }
}

/// A PUBLISH.
#[derive(Debug, Clone)]
pub(crate) struct Publish<'a> {
    pub(crate) version: Version,
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) qos: u8,
    pub(crate) id: u16,
    pub(crate) dup: bool,
    pub(crate) retain: bool,
    pub(crate) properties: &'a [u8],
}

impl<'a> Publish<'a> {
    pub(crate) fn new(version: Version, topic: &'a str, payload: &'a [u8], qos: u8, id: u16) -> Self {
        Self { version, topic, payload, qos, id, dup: false, retain: false, properties: &[] }
    }

    pub(crate) fn packet(&self) -> Vec<u8> {
        let mut body = text(self.topic);
        if self.qos > 0 {
            body.extend(self.id.to_be_bytes());
        }
        body.extend(properties(self.version, self.properties));
        body.extend(self.payload);
        packet(0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain), &body)
    }
}

pub(crate) fn publish(version: Version, topic: &str, payload: &[u8], qos: u8, id: u16) -> Vec<u8> {
    Publish::new(version, topic, payload, qos, id).packet()
}

/// PUBACK and its kin, by their first byte.
pub(crate) fn ack(first: u8, id: u16) -> Vec<u8> {
    packet(first, &id.to_be_bytes())
}

/// Filters with their options.
pub(crate) fn subscribe(version: Version, id: u16, filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend(properties(version, &[]));
    for (filter, options) in filters {
        body.extend(text(filter));
        body.push(*options);
    }
    packet(0x82, &body)
}

pub(crate) fn unsubscribe(version: Version, id: u16, filter: &str) -> Vec<u8> {
    packet(0xa2, &[&id.to_be_bytes()[..], &properties(version, &[]), &text(filter)].concat())
}

pub(crate) const PING: &[u8] = b"\xc0\0";
pub(crate) const DISCONNECT: &[u8] = b"\xe0\0";

/// A packet that has come.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) first: u8,
    pub(crate) body: Vec<u8>,
}

impl Received {
    /// Its type, the upper half of the first byte.
    pub(crate) fn kind(&self) -> u8 {
        self.first >> 4
    }

    /// Of an ack: the packet identifier.
    pub(crate) fn id(&self) -> u16 {
        u16::from_be_bytes([self.body[0], self.body[1]])
    }

    /// Of a PUBLISH: the QoS.
    pub(crate) fn qos(&self) -> u8 {
        self.first >> 1 & 3
    }

    /// Of a PUBLISH: topic, packet identifier and what follows them.
    pub(crate) fn publish(&self) -> (String, u16, &[u8]) {
        assert_eq!(self.kind(), 3, "{self:?}");
        let length = usize::from(self.id());
        let (topic, rest) = self.body[2..].split_at(length);
        let topic = String::from_utf8(topic.to_vec()).expect("a topic is UTF-8");
        if self.qos() == 0 {
            return (topic, 0, rest);
        }
        (topic, u16::from_be_bytes([rest[0], rest[1]]), &rest[2..])
    }
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut hex = String::new();
        for byte in self.body.iter().take(64) {
            write!(hex, "{byte:02x}")?;
        }
        write!(f, "{:02x} with {} bytes: {hex}", self.first, self.body.len())
    }
}
