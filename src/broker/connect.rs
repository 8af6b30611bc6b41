//! The CONNECT packet (section 3.1). It is read here and not by the codec, which takes a password for
//! text (it is binary, 3.1.3.5), reads a CONNECT of MQTT 5 as if it had no properties, does not tell an
//! absent user name from an empty one, and overlooks the reserved flag and bytes behind the end.

use bytes::{Buf, BytesMut};

use super::packet::{self, BadPacket, Header, violation};
use crate::message::Topic;

/// Bytes of a CONNECT, which comes before anything is known of the client but its certificate:
/// room for a token as a password and a small will.
pub(super) const MAX_CONNECT_BYTES: usize = 8 * 1024;

/// A server may refuse client ids of more than 23 bytes (MQTT-3.1.3-5); firmware uses UUIDs and paths.
const MAX_CLIENT_ID_BYTES: usize = 256;

/// What a client asks for. User name and password are checked for their form and not kept:
/// who the client is has been shown by its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Connect {
    /// Empty: the gateway may choose one.
    pub(super) client_id: String,
    pub(super) clean_session: bool,
    /// Seconds; 0 for none.
    pub(super) keep_alive: u16,
    pub(super) has_will: bool,
}

/// Why a connection is refused, by what the client is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ConnectError {
    /// Nothing: the connection is closed (MQTT-4.8.0-1).
    #[error(transparent)]
    Bad(#[from] BadPacket),
    /// CONNACK 0x01 (MQTT-3.1.2-2).
    #[error("protocol level {0}; this gateway speaks MQTT 3.1.1, level 4")]
    Version(u8),
    /// CONNACK 0x02 (MQTT-3.1.3-8, MQTT-3.1.3-9).
    #[error("{0}")]
    ClientId(&'static str),
}

/// Takes the CONNECT out of the input. `None`: there is not enough of it yet.
pub(super) fn take(input: &mut BytesMut) -> Result<Option<Connect>, ConnectError> {
    if input.first().is_some_and(|first| first >> 4 != packet::CONNECT) {
        Err(violation("MQTT-3.1.0-1", "the first packet is not a CONNECT"))?;
    }
    let Some(header) = Header::peek(input, MAX_CONNECT_BYTES)? else { return Ok(None) };
    let Some(frame) = input.get(..header.frame_bytes()) else { return Ok(None) };
    let connect = parse(Fields(&frame[header.bytes..]))?;
    input.advance(header.frame_bytes());
    Ok(Some(connect))
}

fn parse(mut fields: Fields<'_>) -> Result<Connect, ConnectError> {
    let name = fields.bytes()?;
    let level = fields.byte()?;
    match (name, level) {
        (b"MQTT", 4) => {}
        // `MQIsdp` was the name in MQTT 3.1.
        (b"MQTT" | b"MQIsdp", _) => return Err(ConnectError::Version(level)),
        _ => Err(violation("MQTT-3.1.2-1", "the protocol name is not \"MQTT\""))?,
    }
    let flags = Flags::parse(fields.byte()?)?;
    let keep_alive = fields.u16()?;
    let client_id = fields.text()?.to_owned();
    if flags.will {
        let topic = fields.text()?;
        Topic::check(topic)
            .map_err(|_| violation("MQTT-3.3.2-2", "the topic of the will is not a topic name"))?;
        fields.bytes()?;
    }
    if flags.user_name {
        fields.text()?;
    }
    if flags.password {
        fields.bytes()?;
    }
    if !fields.0.is_empty() {
        Err(violation("MQTT-3.1.3-1", "bytes behind the last field of the CONNECT"))?;
    }
    if client_id.is_empty() && !flags.clean_session {
        return Err(ConnectError::ClientId("an empty client id needs a clean session [MQTT-3.1.3-8]"));
    }
    if client_id.len() > MAX_CLIENT_ID_BYTES {
        return Err(ConnectError::ClientId("the client id has more than 256 bytes"));
    }
    Ok(Connect { client_id, clean_session: flags.clean_session, keep_alive, has_will: flags.will })
}

/// Section 3.1.2.3.
struct Flags {
    clean_session: bool,
    will: bool,
    user_name: bool,
    password: bool,
}

impl Flags {
    fn parse(flags: u8) -> Result<Self, BadPacket> {
        let set = |bit: u8| flags & (1 << bit) != 0;
        let this = Self { clean_session: set(1), will: set(2), user_name: set(7), password: set(6) };
        let will_qos = flags >> 3 & 0b11;
        if set(0) {
            return Err(violation("MQTT-3.1.2-3", "the reserved flag of the CONNECT is set"));
        }
        if will_qos == 3 {
            return Err(violation("MQTT-3.1.2-14", "a will with QoS 3"));
        }
        if !this.will && (will_qos != 0 || set(5)) {
            return Err(violation("MQTT-3.1.2-11", "QoS or retain of a will that there is not"));
        }
        if this.password && !this.user_name {
            return Err(violation("MQTT-3.1.2-22", "a password without a user name"));
        }
        Ok(this)
    }
}

/// What is left of the packet to read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn split(&mut self, count: usize) -> Result<&'a [u8], BadPacket> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| BadPacket::Malformed("a field reaches beyond the CONNECT".to_owned()))?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, BadPacket> {
        Ok(self.split(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, BadPacket> {
        let bytes = self.split(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn bytes(&mut self) -> Result<&'a [u8], BadPacket> {
        let count = self.u16()?;
        self.split(count.into())
    }

    fn text(&mut self) -> Result<&'a str, BadPacket> {
        let text = std::str::from_utf8(self.bytes()?)
            .map_err(|_| violation("MQTT-1.5.3-1", "a text of the CONNECT is not UTF-8"))?;
        match text.contains('\0') {
            true => Err(violation("MQTT-1.5.3-2", "a text of the CONNECT holds a NUL character")),
            false => Ok(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A CONNECT with keep alive 60 and the client id `c`, and what is given behind it.
    fn connect(flags: u8, rest: &[u8]) -> Result<Option<Connect>, ConnectError> {
        framed(&[b"\x00\x04MQTT\x04", &[flags][..], b"\x00\x3c\x00\x01c", rest].concat())
    }

    fn framed(body: &[u8]) -> Result<Option<Connect>, ConnectError> {
        let length = u8::try_from(body.len()).unwrap();
        assert!(length < 0x80);
        take(&mut BytesMut::from(&[&[0x10, length], body].concat()[..]))
    }

    fn broken_statement(result: Result<Option<Connect>, ConnectError>) -> &'static str {
        match result {
            Err(ConnectError::Bad(BadPacket::Violation { statement, .. })) => statement,
            other => panic!("was not refused: {other:?}"),
        }
    }

    #[test]
    fn a_connect_is_read() {
        let plain = Connect { client_id: "c".into(), clean_session: true, keep_alive: 60, has_will: false };
        assert_eq!(connect(0x02, b""), Ok(Some(plain.clone())));
        let all = connect(0xee, b"\x00\x01w\x00\x01!\x00\x01u\x00\x02\xff\x00");
        assert_eq!(all, Ok(Some(Connect { has_will: true, ..plain })), "a password is binary");
    }

    #[test]
    fn a_connect_that_has_not_come_yet_is_waited_for_and_what_follows_is_left() {
        let whole = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c\xc0\x00";
        for end in 0..15 {
            assert_eq!(take(&mut BytesMut::from(&whole[..end])), Ok(None), "{end}");
        }
        let mut input = BytesMut::from(&whole[..]);
        assert!(take(&mut input).unwrap().is_some());
        assert_eq!(&input[..], b"\xc0\x00");
    }

    #[test]
    fn another_first_packet_is_refused_at_its_first_byte() {
        assert_eq!(broken_statement(take(&mut BytesMut::from(&b"\xc0"[..]))), "MQTT-3.1.0-1");
        assert_eq!(broken_statement(take(&mut BytesMut::from(&b"GET / HTTP/1.1"[..]))), "MQTT-3.1.0-1");
    }

    #[test]
    fn a_large_connect_is_refused_before_it_is_read() {
        let result = take(&mut BytesMut::from(&b"\x10\xff\xff\x03"[..]));
        assert!(matches!(result, Err(ConnectError::Bad(BadPacket::TooLarge { .. }))), "{result:?}");
    }

    #[test]
    fn other_versions_are_told_so() {
        assert_eq!(framed(b"\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01c"), Err(ConnectError::Version(5)));
        assert_eq!(framed(b"\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01c"), Err(ConnectError::Version(3)));
        assert_eq!(framed(b"\x00\x04MQTT\x84\x02\x00\x3c\x00\x01c"), Err(ConnectError::Version(0x84)));
        assert_eq!(broken_statement(framed(b"\x00\x04mqtt\x04\x02\x00\x3c\x00\x01c")), "MQTT-3.1.2-1");
    }

    #[test]
    fn flags_that_contradict_each_other_are_refused() {
        assert_eq!(broken_statement(connect(0x03, b"")), "MQTT-3.1.2-3");
        assert_eq!(broken_statement(connect(0x1e, b"\x00\x01w\x00\x00")), "MQTT-3.1.2-14");
        assert_eq!(broken_statement(connect(0x0a, b"")), "MQTT-3.1.2-11");
        assert_eq!(broken_statement(connect(0x22, b"")), "MQTT-3.1.2-11");
        assert_eq!(broken_statement(connect(0x42, b"\x00\x01p")), "MQTT-3.1.2-22");
    }

    #[test]
    fn fields_that_are_missing_or_too_many_are_refused() {
        assert!(matches!(connect(0x82, b""), Err(ConnectError::Bad(BadPacket::Malformed(_)))));
        assert!(matches!(connect(0x06, b"\x00\x01w"), Err(ConnectError::Bad(BadPacket::Malformed(_)))));
        assert!(matches!(framed(b""), Err(ConnectError::Bad(BadPacket::Malformed(_)))));
        assert_eq!(broken_statement(connect(0x02, b"\x00\x01u")), "MQTT-3.1.3-1");
    }

    #[test]
    fn texts_must_be_texts() {
        assert_eq!(broken_statement(framed(b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x01\xff")), "MQTT-1.5.3-1");
        assert_eq!(broken_statement(framed(b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x01\x00")), "MQTT-1.5.3-2");
        assert_eq!(broken_statement(connect(0x82, b"\x00\x01\xff")), "MQTT-1.5.3-1");
        assert_eq!(broken_statement(connect(0x06, b"\x00\x01+\x00\x00")), "MQTT-3.3.2-2");
    }

    #[test]
    fn an_empty_client_id_needs_a_clean_session() {
        assert!(framed(b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x00").unwrap().is_some());
        let kept = framed(b"\x00\x04MQTT\x04\x00\x00\x3c\x00\x00");
        assert!(matches!(kept, Err(ConnectError::ClientId(_))), "{kept:?}");
    }
}
