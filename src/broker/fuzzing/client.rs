//! What a client has said and heard, and whether the one may follow from the other.

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;
use futures_util::FutureExt as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::input::{Hello, Published, ack};
use crate::broker::outbox::MAX_IN_FLIGHT;
use crate::broker::wire::Version;

/// Where a message that was given stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Given {
    /// QoS 1, and PUBACK was not said.
    Once,
    /// QoS 2, and PUBREC was not said.
    Whole,
    /// QoS 2, PUBREC was said, and PUBCOMP was not.
    Recorded,
}

/// A connection, with what is owed in either direction.
pub(super) struct Client {
    stream: DuplexStream,
    input: BytesMut,
    pub(super) hello: Hello,
    greeted: bool,
    resumed: bool,
    /// By packet identifier: how many publishes have no answer, and how many of them are readings that no other was.
    qos_1: BTreeMap<u16, VecDeque<bool>>,
    qos_2: BTreeMap<u16, usize>,
    released: BTreeMap<u16, usize>,
    subscribed: VecDeque<(u16, usize)>,
    unsubscribed: VecDeque<(u16, usize)>,
    pings: usize,
    given: BTreeMap<u16, Given>,
    records: BTreeMap<u16, usize>,
    aliases: BTreeMap<u16, String>,
    /// It does not read at present.
    pub(super) deaf: bool,
    /// It has sent what is no packet of its turn: from now on only that it is answered in order is checked.
    pub(super) broken: bool,
}

/// What has come of reading.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Readings that were acknowledged and that nothing but this run has published.
    pub(super) readings: u64,
    /// Topics and payloads of messages.
    pub(super) messages: Vec<(String, Vec<u8>)>,
    pub(super) ended: bool,
}

fn take(counts: &mut BTreeMap<u16, usize>, id: u16, what: &str) {
    let left = counts.get_mut(&id).unwrap_or_else(|| panic!("{what} {id} answers nothing"));
    *left -= 1;
    if *left == 0 {
        counts.remove(&id);
    }
}

impl Client {
    pub(super) fn new(stream: DuplexStream, hello: Hello) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            hello,
            greeted: false,
            resumed: false,
            qos_1: BTreeMap::new(),
            qos_2: BTreeMap::new(),
            released: BTreeMap::new(),
            subscribed: VecDeque::new(),
            unsubscribed: VecDeque::new(),
            pings: 0,
            given: BTreeMap::new(),
            records: BTreeMap::new(),
            aliases: BTreeMap::new(),
            deaf: false,
            broken: false,
        }
    }

    /// As far as there is room on the way. Whether all of it has left.
    pub(super) fn send(&mut self, bytes: &[u8]) -> bool {
        matches!(self.stream.write_all(bytes).now_or_never(), Some(Ok(())))
    }

    pub(super) fn said_publish(&mut self, published: &Published) {
        match published.qos {
            0 => {}
            1 => self.qos_1.entry(published.id).or_default().push_back(published.is_new_reading),
            _ => *self.qos_2.entry(published.id).or_default() += 1,
        }
    }

    pub(super) fn said_subscribe(&mut self, id: u16, count: usize) {
        self.subscribed.push_back((id, count));
    }

    pub(super) fn said_unsubscribe(&mut self, id: u16) {
        self.unsubscribed.push_back((id, 1));
    }

    pub(super) fn said_ping(&mut self) {
        self.pings += 1;
    }

    /// PUBACK, PUBREC, PUBREL or PUBCOMP, in its turn or not.
    pub(super) fn say_ack(&mut self, first: u8, id: u16) {
        match (first, self.given.get(&id)) {
            (0x40, Some(Given::Once)) | (0x70, Some(Given::Recorded)) => drop(self.given.remove(&id)),
            (0x50, Some(Given::Whole)) => drop(self.given.insert(id, Given::Recorded)),
            _ => {}
        }
        match first {
            0x50 => *self.records.entry(id).or_default() += 1,
            0x62 => *self.released.entry(id).or_default() += 1,
            _ => {}
        }
        self.broken |= !self.send(&ack(first, id));
    }

    /// Says the next ack of everything that it was given.
    pub(super) fn say_all_acks(&mut self) {
        for (id, given) in self.given.clone() {
            match given {
                Given::Once => self.say_ack(0x40, id),
                Given::Whole => self.say_ack(0x50, id),
                Given::Recorded => {}
            }
        }
    }

    /// Whether everything that it has said was answered.
    pub(super) fn is_answered(&self) -> bool {
        let Self { qos_1, qos_2, released, subscribed, unsubscribed, .. } = self;
        self.greeted
            && self.pings == 0
            && qos_1.is_empty()
            && qos_2.is_empty()
            && released.is_empty()
            && subscribed.is_empty()
            && unsubscribed.is_empty()
    }

    /// Reads what has come.
    pub(super) fn hear(&mut self) -> Heard {
        let mut heard = Heard::default();
        while !self.deaf {
            match self.stream.read_buf(&mut self.input).now_or_never() {
                Some(Ok(count)) if count > 0 => {}
                Some(_) => {
                    heard.ended = true;
                    break;
                }
                None => break,
            }
        }
        while let Some((first, body)) = self.next_packet() {
            self.check(first, &body, &mut heard);
        }
        heard
    }

    fn next_packet(&mut self) -> Option<(u8, Vec<u8>)> {
        let (length, digits) = read_variable(self.input.get(1..)?)?;
        if self.input.len() < 1 + digits + length {
            return None;
        }
        let packet = self.input.split_to(1 + digits + length);
        Some((packet[0], packet[1 + digits..].to_vec()))
    }

    fn check(&mut self, first: u8, body: &[u8], heard: &mut Heard) {
        if !self.greeted {
            assert_eq!(first, 0x20, "the first answer is CONNACK");
            self.greeted = true;
            self.resumed = body[0] == 1;
            return;
        }
        let id = if body.len() >= 2 { u16::from_be_bytes([body[0], body[1]]) } else { 0 };
        match first {
            0x40 => {
                let waiting =
                    self.qos_1.get_mut(&id).unwrap_or_else(|| panic!("PUBACK {id} answers nothing"));
                let is_new_reading = waiting.pop_front().expect("it is removed when it is empty");
                if waiting.is_empty() {
                    self.qos_1.remove(&id);
                }
                let is_taken = body.get(2).is_none_or(|reason| *reason < 0x80);
                heard.readings += u64::from(is_new_reading && is_taken);
            }
            0x50 => take(&mut self.qos_2, id, "PUBREC"),
            0x62 => {
                if !self.resumed {
                    take(&mut self.records, id, "PUBREL");
                }
                // It may be for a message of an earlier connection, which is then complete here.
                self.given.entry(id).or_insert(Given::Recorded);
                self.say_ack(0x70, id);
            }
            0x70 => take(&mut self.released, id, "PUBCOMP"),
            0x90 | 0xb0 => {
                let said = if first == 0x90 { &mut self.subscribed } else { &mut self.unsubscribed };
                let (expected, count) = said.pop_front().expect("an answer follows what was asked for");
                assert_eq!(id, expected, "answers keep the order of what was asked for");
                let codes = match self.hello.version {
                    Version::V3 if first == 0xb0 => count,
                    Version::V3 => body.len() - 2,
                    Version::V5 => body.len() - 2 - skip_properties(&body[2..]),
                };
                assert_eq!(codes, count, "one code for each filter");
            }
            0xd0 => self.pings = self.pings.checked_sub(1).expect("PINGRESP follows PINGREQ"),
            0xe0 => assert_eq!(self.hello.version, Version::V5, "3.1.1 knows no DISCONNECT of a server"),
            _ if first >> 4 == 3 => self.check_publish(first, body, heard),
            _ => panic!("{first:#04x} is no answer"),
        }
    }

    fn check_publish(&mut self, first: u8, body: &[u8], heard: &mut Heard) {
        let (length, mut rest) = body.split_at(2);
        let (topic, after) = rest.split_at(usize::from(u16::from_be_bytes([length[0], length[1]])));
        rest = after;
        let qos = first >> 1 & 3;
        if qos > 0 {
            let (id, after) = rest.split_at(2);
            rest = after;
            let id = u16::from_be_bytes([id[0], id[1]]);
            assert!(id > 0);
            let given = if qos == 1 { Given::Once } else { Given::Whole };
            assert_eq!(self.given.insert(id, given), None, "packet identifier {id} is in use");
            let most = self.hello.receive_maximum.min(MAX_IN_FLIGHT);
            let in_flight = self.given.len();
            // PUBRELs of an earlier connection take no place.
            assert!(self.resumed || in_flight <= most.into(), "{in_flight} in flight, and {most} at most");
        }
        let mut topic = String::from_utf8(topic.to_vec()).expect("a topic is UTF-8");
        if self.hello.version == Version::V5 {
            let count = skip_properties(rest);
            if let Some(alias) = alias_of(&rest[..count]) {
                if topic.is_empty() {
                    topic.clone_from(self.aliases.get(&alias).expect("an alias is made known first"));
                } else {
                    self.aliases.insert(alias, topic.clone());
                }
            }
            rest = &rest[count..];
        }
        assert!(!topic.is_empty());
        heard.messages.push((topic, rest.to_vec()));
    }
}

/// A number and how many bytes it takes; `None` if it is not whole.
fn read_variable(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut number = 0;
    for (i, byte) in bytes.iter().take(4).enumerate() {
        number |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((number, i + 1));
        }
    }
    None
}

/// The bytes that properties take, with their length.
fn skip_properties(bytes: &[u8]) -> usize {
    let (length, digits) = read_variable(bytes).expect("properties have a length");
    digits + length
}

/// The topic alias among the properties of a PUBLISH.
fn alias_of(properties: &[u8]) -> Option<u16> {
    let mut rest = &properties[read_variable(properties)?.1..];
    let text = |bytes: &[u8]| 2 + usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    while let Some((id, value)) = rest.split_first() {
        let length = match id {
            0x01 => 1,
            0x02 => 4,
            0x03 | 0x08 | 0x09 => text(value),
            0x0b => read_variable(value)?.1,
            0x23 => return Some(u16::from_be_bytes([value[0], value[1]])),
            0x26 => text(value) + text(&value[text(value)..]),
            other => panic!("{other:#04x} is no property of a PUBLISH"),
        };
        rest = &value[length..];
    }
    None
}
