//! Packets as bytes, for both versions.

use crate::client::Version::{self, V5};

/// The kinds that a server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    ConnAck,
    Publish,
    PubAck,
    PubRec,
    PubRel,
    PubComp,
    SubAck,
    UnsubAck,
    PingResp,
    Disconnect,
    Auth,
}

/// A property of MQTT 5 (section 2.2.2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Prop {
    PayloadFormat(u8),
    MessageExpiry(u32),
    ContentType(String),
    ResponseTopic(String),
    CorrelationData(Vec<u8>),
    SubscriptionId(u32),
    SessionExpiry(u32),
    AssignedClientId(String),
    ServerKeepAlive(u16),
    AuthenticationMethod(String),
    AuthenticationData(Vec<u8>),
    RequestProblem(u8),
    WillDelay(u32),
    RequestResponse(u8),
    ResponseInformation(String),
    ServerReference(String),
    ReasonString(String),
    ReceiveMaximum(u16),
    TopicAliasMaximum(u16),
    TopicAlias(u16),
    MaximumQos(u8),
    RetainAvailable(u8),
    User(String, String),
    MaximumPacket(u32),
    WildcardAvailable(u8),
    SubscriptionIdAvailable(u8),
    SharedAvailable(u8),
}

/// The part of a packet behind its fixed header.
#[derive(Debug, Default, Clone)]
pub(crate) struct Body(Vec<u8>);

impl Body {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(crate) fn u16(self, value: u16) -> Self {
        self.raw(&value.to_be_bytes())
    }

    pub(crate) fn u32(self, value: u32) -> Self {
        self.raw(&value.to_be_bytes())
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn bytes(self, bytes: &[u8]) -> Self {
        self.u16(u16::try_from(bytes.len()).expect("a test's field is short")).raw(bytes)
    }

    pub(crate) fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    pub(crate) fn varint(mut self, mut value: u32) -> Self {
        while value >= 0x80 {
            self.0.push(value as u8 & 0x7F | 0x80);
            value >>= 7;
        }
        self.u8(value as u8)
    }

    pub(crate) fn properties(self, properties: &[Prop]) -> Self {
        let inner = properties.iter().fold(Self::new(), Self::property).0;
        self.varint(u32::try_from(inner.len()).expect("a test's packet is short")).raw(&inner)
    }

    fn property(self, property: &Prop) -> Self {
        match property {
            Prop::PayloadFormat(v) => self.u8(1).u8(*v),
            Prop::MessageExpiry(v) => self.u8(2).u32(*v),
            Prop::ContentType(v) => self.u8(3).text(v),
            Prop::ResponseTopic(v) => self.u8(8).text(v),
            Prop::CorrelationData(v) => self.u8(9).bytes(v),
            Prop::SubscriptionId(v) => self.u8(11).varint(*v),
            Prop::SessionExpiry(v) => self.u8(17).u32(*v),
            Prop::AssignedClientId(v) => self.u8(18).text(v),
            Prop::ServerKeepAlive(v) => self.u8(19).u16(*v),
            Prop::AuthenticationMethod(v) => self.u8(21).text(v),
            Prop::AuthenticationData(v) => self.u8(22).bytes(v),
            Prop::RequestProblem(v) => self.u8(23).u8(*v),
            Prop::WillDelay(v) => self.u8(24).u32(*v),
            Prop::RequestResponse(v) => self.u8(25).u8(*v),
            Prop::ResponseInformation(v) => self.u8(26).text(v),
            Prop::ServerReference(v) => self.u8(28).text(v),
            Prop::ReasonString(v) => self.u8(31).text(v),
            Prop::ReceiveMaximum(v) => self.u8(33).u16(*v),
            Prop::TopicAliasMaximum(v) => self.u8(34).u16(*v),
            Prop::TopicAlias(v) => self.u8(35).u16(*v),
            Prop::MaximumQos(v) => self.u8(36).u8(*v),
            Prop::RetainAvailable(v) => self.u8(37).u8(*v),
            Prop::User(k, v) => self.u8(38).text(k).text(v),
            Prop::MaximumPacket(v) => self.u8(39).u32(*v),
            Prop::WildcardAvailable(v) => self.u8(40).u8(*v),
            Prop::SubscriptionIdAvailable(v) => self.u8(41).u8(*v),
            Prop::SharedAvailable(v) => self.u8(42).u8(*v),
        }
    }

    /// The bytes as they are.
    pub(crate) fn unframed(&self) -> &[u8] {
        &self.0
    }

    /// The whole packet with this first byte.
    pub(crate) fn packet(self, first: u8) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).expect("a test's packet is short");
        Self::new().u8(first).varint(length).raw(&self.0).0
    }
}

/// PUBACK (0x40), PUBREC (0x50), PUBREL (0x62) or PUBCOMP (0x70), in the short form that both versions have.
pub(crate) fn ack(first: u8, id: u16) -> Vec<u8> {
    Body::new().u16(id).packet(first)
}

pub(crate) fn subscribe(version: Version, id: u16, filters: &[(&str, u8)], properties: &[Prop]) -> Vec<u8> {
    let mut body = Body::new().u16(id);
    if version == V5 {
        body = body.properties(properties);
    }
    filters.iter().fold(body, |body, (filter, options)| body.text(filter).u8(*options)).packet(0x82)
}

pub(crate) fn unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = Body::new().u16(id);
    if version == V5 {
        body = body.properties(&[]);
    }
    filters.iter().fold(body, |body, filter| body.text(filter)).packet(0xA2)
}

/// A DISCONNECT of MQTT 5.
pub(crate) fn disconnect(reason: u8, properties: &[Prop]) -> Vec<u8> {
    Body::new().u8(reason).properties(properties).packet(0xE0)
}

/// A packet from the server, read strictly: a byte too many or a wrong flag fails the test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Received {
    kind: Option<Kind>,
    flags: u8,
    id: u16,
    reason: u8,
    codes: Vec<u8>,
    pub(crate) session_present: bool,
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) properties: Vec<Prop>,
    /// Bytes of the whole packet.
    pub(crate) size: usize,
}

impl Received {
    pub(crate) fn kind(&self) -> Kind {
        self.kind.expect("it was read")
    }

    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    /// A return or reason code; 0 when the packet is so short that it has none.
    pub(crate) fn reason(&self) -> u8 {
        self.reason
    }

    pub(crate) fn codes(self) -> Vec<u8> {
        self.codes
    }

    pub(crate) fn qos(&self) -> u8 {
        self.flags >> 1 & 3
    }

    pub(crate) fn dup(&self) -> bool {
        self.flags & 8 != 0
    }

    pub(crate) fn retain(&self) -> bool {
        self.flags & 1 != 0
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("tests publish text")
    }

    pub(crate) fn find<T>(&self, pick: impl FnMut(&Prop) -> Option<T>) -> Option<T> {
        self.properties.iter().find_map(pick)
    }
}

/// Reads the packet at the start of `input`; `None` when it is not whole yet.
pub(crate) fn read(input: &[u8], version: Version) -> Option<(Received, usize)> {
    let (first, rest) = input.split_first()?;
    let (mut length, mut size) = (0_usize, 0);
    loop {
        let byte = *rest.get(size)?;
        length |= usize::from(byte & 0x7F) << (7 * size);
        size += 1;
        if byte & 0x80 == 0 {
            break;
        }
        assert!(size < 4, "the server's remaining length has more than four bytes");
    }
    let body = rest.get(size..size + length)?;
    let received = Received { size: 1 + size + length, ..parse(*first, body, version) };
    check_reasons(&received, version);
    Some((received, 1 + size + length))
}

/// The codes that the specification has for this kind of packet.
fn check_reasons(received: &Received, version: Version) {
    let known: &[u8] = match (version, received.kind()) {
        (Version::V3, Kind::ConnAck) => &[0, 1, 2, 3, 4, 5],
        (Version::V3, Kind::SubAck) => &[0, 1, 2, 0x80],
        (V5, Kind::ConnAck) if received.reason == 1 => return,
        (V5, Kind::ConnAck) => &[
            0, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97,
            0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
        ],
        (V5, Kind::PubAck | Kind::PubRec) => &[0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
        (V5, Kind::PubRel | Kind::PubComp) => &[0, 0x92],
        (V5, Kind::SubAck) => &[0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2],
        (V5, Kind::UnsubAck) => &[0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91],
        (V5, Kind::Disconnect) => &[
            0, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95,
            0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
        ],
        (V5, Kind::Auth) => &[0, 0x18],
        _ => &[0],
    };
    let codes = std::iter::once(&received.reason).chain(&received.codes);
    for code in codes {
        assert!(known.contains(code), "{code:#04x} is no code of a {:?}", received.kind());
    }
}

const OF_CONNACK: [u8; 17] = [17, 18, 19, 21, 22, 26, 28, 31, 33, 34, 36, 37, 38, 39, 40, 41, 42];
const OF_PUBLISH: [u8; 8] = [1, 2, 3, 8, 9, 11, 35, 38];
const OF_ANSWERS: [u8; 2] = [31, 38];
/// Not the session expiry, which only clients send there (MQTT-3.14.2-2).
const OF_DISCONNECT: [u8; 3] = [28, 31, 38];
const OF_AUTH: [u8; 4] = [21, 22, 31, 38];

fn parse(first: u8, body: &[u8], version: Version) -> Received {
    let mut received = Received {
        kind: None,
        flags: first & 0x0F,
        id: 0,
        reason: 0,
        codes: vec![],
        session_present: false,
        topic: String::new(),
        payload: vec![],
        properties: vec![],
        size: 0,
    };
    let mut fields = Fields(body);
    let kind = match first >> 4 {
        2 => {
            let flags = fields.u8();
            assert_eq!(flags & !1, 0, "MQTT-3.2.2-1: reserved bits in the CONNACK's flags");
            (received.session_present, received.reason) = (flags == 1, fields.u8());
            // Who asks for a version that the server does not know may be answered as by MQTT 3.1.1.
            if version == V5 && !(received.reason == 1 && fields.0.is_empty()) {
                received.properties = fields.properties(&OF_CONNACK);
            }
            Kind::ConnAck
        }
        3 => {
            received.topic = fields.text();
            if received.qos() > 0 {
                received.id = fields.u16();
                assert_ne!(received.id, 0, "MQTT-2.3.1-1 / 2.2.1-3: packet identifier 0");
            }
            assert!(received.qos() < 3, "MQTT-3.3.1-4");
            assert!(!(received.dup() && received.qos() == 0), "MQTT-3.3.1-2: DUP with QoS 0");
            if version == V5 {
                received.properties = fields.properties(&OF_PUBLISH);
            }
            received.payload = std::mem::take(&mut fields.0).to_vec();
            Kind::Publish
        }
        kind @ (4..=7) => {
            received.id = fields.u16();
            if version == V5 && !fields.0.is_empty() {
                received.reason = fields.u8();
                if !fields.0.is_empty() {
                    received.properties = fields.properties(&OF_ANSWERS);
                }
            }
            [Kind::PubAck, Kind::PubRec, Kind::PubRel, Kind::PubComp][usize::from(kind) - 4]
        }
        kind @ (9 | 11) => {
            received.id = fields.u16();
            if version == V5 {
                received.properties = fields.properties(&OF_ANSWERS);
            }
            if kind == 9 || version == V5 {
                received.codes = std::mem::take(&mut fields.0).to_vec();
            }
            if kind == 9 { Kind::SubAck } else { Kind::UnsubAck }
        }
        13 => Kind::PingResp,
        kind @ (14 | 15) if version == V5 => {
            if !fields.0.is_empty() {
                received.reason = fields.u8();
                if !fields.0.is_empty() {
                    let allowed = if kind == 14 { &OF_DISCONNECT[..] } else { &OF_AUTH };
                    received.properties = fields.properties(allowed);
                }
            }
            if kind == 14 { Kind::Disconnect } else { Kind::Auth }
        }
        _ => panic!("a server must not send {first:#04x}"),
    };
    let flags = if kind == Kind::PubRel { 2 } else { 0 };
    assert!(kind == Kind::Publish || received.flags == flags, "MQTT-2.2.2-1: the flags of {first:#04x}");
    assert!(fields.0.is_empty(), "bytes behind the end of {kind:?}: {body:?}");
    received.kind = Some(kind);
    received
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) =
            self.0.split_at_checked(count).expect("a field reaches beyond the server's packet");
        self.0 = rest;
        taken
    }

    fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().expect("two bytes"))
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().expect("four bytes"))
    }

    fn bytes(&mut self) -> Vec<u8> {
        let count = self.u16();
        self.take(count.into()).to_vec()
    }

    fn text(&mut self) -> String {
        let text =
            String::from_utf8(self.bytes()).expect("MQTT-1.5.3-1 / 1.5.4-1: the server's text is not UTF-8");
        assert!(!text.contains('\0'), "MQTT-1.5.3-2 / 1.5.4-2: NUL in a text of the server's");
        text
    }

    fn varint(&mut self) -> u32 {
        let mut value = 0;
        for index in 0..4 {
            let byte = self.u8();
            value |= u32::from(byte & 0x7F) << (7 * index);
            if byte & 0x80 == 0 {
                return value;
            }
        }
        panic!("a variable byte integer of the server's has more than four bytes");
    }

    /// `allowed`: the identifiers that this packet may hold, each once but user properties and subscription
    /// identifiers.
    fn properties(&mut self, allowed: &[u8]) -> Vec<Prop> {
        let count = self.varint() as usize;
        let mut inner = Fields(self.take(count));
        let (mut properties, mut seen) = (vec![], vec![]);
        while let Some(&id) = inner.0.first() {
            assert!(allowed.contains(&id), "property {id} is not one of this packet of the server's");
            assert!([11, 38].contains(&id) || !seen.contains(&id), "property {id} came twice");
            seen.push(id);
            properties.push(inner.property());
        }
        properties
    }

    fn property(&mut self) -> Prop {
        match self.u8() {
            1 => Prop::PayloadFormat(self.u8()),
            2 => Prop::MessageExpiry(self.u32()),
            3 => Prop::ContentType(self.text()),
            8 => Prop::ResponseTopic(self.text()),
            9 => Prop::CorrelationData(self.bytes()),
            11 => Prop::SubscriptionId(self.varint()),
            17 => Prop::SessionExpiry(self.u32()),
            18 => Prop::AssignedClientId(self.text()),
            19 => Prop::ServerKeepAlive(self.u16()),
            21 => Prop::AuthenticationMethod(self.text()),
            22 => Prop::AuthenticationData(self.bytes()),
            26 => Prop::ResponseInformation(self.text()),
            28 => Prop::ServerReference(self.text()),
            31 => Prop::ReasonString(self.text()),
            33 => Prop::ReceiveMaximum(self.u16()),
            34 => Prop::TopicAliasMaximum(self.u16()),
            35 => Prop::TopicAlias(self.u16()),
            36 => Prop::MaximumQos(self.u8()),
            37 => Prop::RetainAvailable(self.u8()),
            38 => Prop::User(self.text(), self.text()),
            39 => Prop::MaximumPacket(self.u32()),
            40 => Prop::WildcardAvailable(self.u8()),
            41 => Prop::SubscriptionIdAvailable(self.u8()),
            42 => Prop::SharedAvailable(self.u8()),
            other => panic!("a server must not send property {other}"),
        }
    }
}
