//! From the fuzzer's bytes to packets, most of them valid: so that it gets to deep states soon.

use crate::broker::wire::Version;

pub(super) const TOPICS: [&str; 6] = ["w/reading", "a/reading", "a/x", "a/x/y", "b/ü", "a"];
pub(super) const FILTERS: [&str; 10] = [
    "a/#",
    "a/+",
    "+/reading",
    "#",
    "b/ü",
    "$share/g/a/#",
    "$share/g/+/reading",
    "a/x",
    "$share/h/#",
    "+/+/y",
];
pub(super) const CLIENT_IDS: [&str; 3] = ["c", "d+#/$", "e"];

/// The fuzzer's bytes. At their end everything is 0.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl Input<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(super) fn below(&mut self, bound: u8) -> u8 {
        self.byte() % bound
    }

    pub(super) fn one_of<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        texts[usize::from(self.byte()) % texts.len()]
    }

    /// Few, so that they meet again.
    pub(super) fn packet_id(&mut self) -> u16 {
        u16::from(self.below(12)) + 1
    }

    /// As they are.
    pub(super) fn raw(&mut self) -> Vec<u8> {
        let count = usize::from(self.byte()).min(self.0.len());
        let (raw, rest) = self.0.split_at(count);
        self.0 = rest;
        raw.to_vec()
    }
}

/// A packet: its first byte and its body.
pub(super) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first], &variable(body.len())[..], body].concat()
}

fn variable(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

fn properties(version: Version, properties: &[u8]) -> Vec<u8> {
    match version {
        Version::V3 => Vec::new(),
        Version::V5 => [&variable(properties.len())[..], properties].concat(),
    }
}

/// What a CONNECT says that the test must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) version: Version,
    pub(super) client_id: &'static str,
    pub(super) receive_maximum: u16,
}

/// A CONNECT.
pub(super) fn connect(input: &mut Input<'_>) -> (Hello, Vec<u8>) {
    let choices = input.byte();
    let version = if choices & 1 == 0 { Version::V3 } else { Version::V5 };
    let client_id = input.one_of(&CLIENT_IDS);
    let mut flags = choices & 0x02;
    let mut own = Vec::new();
    let mut receive_maximum = u16::MAX;
    if choices & 0x04 != 0 {
        // Seconds that the session is to outlive the connection.
        own.extend([0x11, 0, 0, 0, 60]);
    }
    if choices & 0x08 != 0 && version == Version::V5 {
        receive_maximum = u16::from(input.below(4)) + 1;
        own.extend([&[0x21][..], &receive_maximum.to_be_bytes()].concat());
    }
    if choices & 0x10 != 0 {
        own.extend([0x22, 0, input.below(4)]);
    }
    if choices & 0x20 != 0 {
        own.extend([0x27, 0, 0, 0, input.byte().max(1)]);
    }
    let mut will = Vec::new();
    if choices & 0x40 != 0 {
        flags |= 0x04 | input.below(3) << 3 | (input.byte() & 1) << 5;
        will.extend(properties(version, &[0x18, 0, 0, 0, input.below(3)]));
        will.extend(text(input.one_of(&TOPICS)));
        will.extend([0, 4, 0, 0, 0, 0]);
    }
    let version_byte = if version == Version::V5 { 5 } else { 4 };
    let head = [&text("MQTT")[..], &[version_byte, flags, 0, 60], &properties(version, &own)].concat();
    let bytes = packet(0x10, &[head, text(client_id), will].concat());
    (Hello { version, client_id, receive_maximum }, bytes)
}

/// A CONNECT that leaves nothing behind.
pub(super) fn clean_connect(version: Version, client_id: &str) -> Vec<u8> {
    let version_byte = if version == Version::V5 { 5 } else { 4 };
    let head = [&text("MQTT")[..], &[version_byte, 0x02, 0, 60], &properties(version, &[])].concat();
    packet(0x10, &[head, text(client_id)].concat())
}

/// What a PUBLISH says that the test must know.
pub(super) struct Published {
    /// Empty when it is an alias that says which.
    pub(super) topic: &'static str,
    pub(super) qos: u8,
    pub(super) id: u16,
    /// Its reading cannot be one that was there before.
    pub(super) is_new_reading: bool,
}

/// A PUBLISH with this payload.
pub(super) fn publish(input: &mut Input<'_>, version: Version, payload: [u8; 4]) -> (Published, Vec<u8>) {
    let choices = input.byte();
    let qos = choices % 4 % 3;
    let (dup, retain) = (qos > 0 && choices & 0x10 != 0, choices & 0x20 != 0);
    let topic = input.one_of(&TOPICS);
    let id = input.packet_id();
    let mut own = Vec::new();
    let mut is_named = true;
    if choices & 0x40 != 0 {
        own.extend([0x02, 0, 0, 0, input.below(3)]);
    }
    if choices & 0x80 != 0 && version == Version::V5 {
        own.extend([0x23, 0, input.below(18)]);
        is_named = input.byte() & 3 != 0;
    }
    let mut body = if is_named { text(topic) } else { text("") };
    if qos > 0 {
        body.extend(id.to_be_bytes());
    }
    body.extend(properties(version, &own));
    // Nothing takes the retained message away.
    if choices & 0x08 == 0 {
        body.extend(payload);
        body.resize(body.len() + usize::from(input.byte()), b'.');
    }
    let is_new_reading = qos == 1 && !dup && is_named && topic.ends_with("/reading");
    let first = 0x30 | u8::from(dup) << 3 | qos << 1 | u8::from(retain);
    let topic = if is_named { topic } else { "" };
    (Published { topic, qos, id, is_new_reading }, packet(first, &body))
}

/// A SUBSCRIBE, its identifier, and how many filters it holds.
pub(super) fn subscribe(input: &mut Input<'_>, version: Version) -> (u16, usize, Vec<u8>) {
    let (choices, id) = (input.byte(), input.packet_id());
    let own = if choices & 1 != 0 { vec![0x0b, input.byte().clamp(1, 127)] } else { Vec::new() };
    let mut body = [&id.to_be_bytes()[..], &properties(version, &own)].concat();
    let count = 1 + usize::from(input.below(3));
    for _ in 0..count {
        let filter = input.one_of(&FILTERS);
        let options = input.byte();
        let mut taken = options % 4 % 3;
        if version == Version::V5 {
            // No local is nothing for shared subscriptions; the retain handling is 0 to 2.
            taken |= if filter.starts_with('$') { 0 } else { options & 0x04 };
            taken |= options & 0x08 | ((options >> 4) % 3) << 4;
        }
        body.extend(text(filter));
        body.push(taken);
    }
    (id, count, packet(0x82, &body))
}

/// An UNSUBSCRIBE and its identifier.
pub(super) fn unsubscribe(input: &mut Input<'_>, version: Version) -> (u16, Vec<u8>) {
    let id = input.packet_id();
    let body = [&id.to_be_bytes()[..], &properties(version, &[]), &text(input.one_of(&FILTERS))].concat();
    (id, packet(0xa2, &body))
}

/// DISCONNECT: with or without the will, and with another expiry or not.
pub(super) fn disconnect(input: &mut Input<'_>, version: Version) -> Vec<u8> {
    let choices = input.byte();
    match version {
        Version::V5 if choices & 1 != 0 => {
            let reason = if choices & 2 != 0 { 0x04 } else { 0x00 };
            let own = if choices & 4 != 0 { vec![0x11, 0, 0, 0, input.byte()] } else { Vec::new() };
            packet(0xe0, &[&[reason][..], &properties(version, &own)].concat())
        }
        _ => packet(0xe0, &[]),
    }
}

/// PUBACK and its kin, by their first byte.
pub(super) fn ack(first: u8, id: u16) -> Vec<u8> {
    packet(first, &id.to_be_bytes())
}
