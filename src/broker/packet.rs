//! From bytes to packets, apart from I/O. The framing is `rumqttc`'s; what it lets through and
//! MQTT 3.1.1 does not is checked here, before anything is allocated for it.

use bytes::BytesMut;
use rumqttc::mqttbytes::v4::Packet;

pub(super) const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const SUBSCRIBE: u8 = 8;
const UNSUBSCRIBE: u8 = 10;
const PINGREQ: u8 = 12;
const DISCONNECT: u8 = 14;

/// Why the bytes of a client cannot be taken. The connection is closed on each (MQTT-4.8.0-1).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadPacket {
    #[error("a packet of {bytes} bytes, at most {max} are taken")]
    TooLarge { bytes: usize, max: usize },
    /// A normative statement of the specification is broken.
    #[error("{what} [{statement}]")]
    Violation { statement: &'static str, what: &'static str },
    /// The codec cannot read it.
    #[error("malformed packet: {0}")]
    Malformed(String),
}

pub(super) fn violation(statement: &'static str, what: &'static str) -> BadPacket {
    BadPacket::Violation { statement, what }
}

/// What stands at the head of the input.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    Packet(Packet),
    /// Not yet a whole packet.
    Incomplete,
    /// A whole or partial PUBLISH, which is left where it is.
    Held,
}

/// Takes the next packet of an established session out of the input.
///
/// `max_bytes`: of a whole packet. `takes_publishes`: whether a PUBLISH may be taken now.
pub(super) fn next(input: &mut BytesMut, max_bytes: usize, takes_publishes: bool) -> Result<Next, BadPacket> {
    let Some(header) = Header::peek(input, max_bytes)? else { return Ok(Next::Incomplete) };
    if header.kind == PUBLISH && !takes_publishes {
        return Ok(Next::Held);
    }
    let Some(frame) = input.get(..header.frame_bytes()) else { return Ok(Next::Incomplete) };
    check_body(header.kind, &frame[header.bytes..])?;
    // The codec's bound is on the remaining length; ours, on the whole packet, holds already.
    match Packet::read(input, max_bytes) {
        Ok(packet) => Ok(Next::Packet(packet)),
        Err(error) => Err(BadPacket::Malformed(error.to_string())),
    }
}

/// Encodes an answer.
pub(super) fn write(answer: &Packet, out: &mut BytesMut) {
    answer.write(out, usize::MAX).expect("an answer is short and has a packet identifier");
}

/// A fixed header (section 2.2) that keeps the rules.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) kind: u8,
    /// The length of the header itself.
    pub(super) bytes: usize,
    remaining: usize,
}

impl Header {
    /// Reads the header at the start of the input. `None`: there is not enough of it yet.
    pub(super) fn peek(input: &[u8], max_bytes: usize) -> Result<Option<Self>, BadPacket> {
        let Some((first, rest)) = input.split_first() else { return Ok(None) };
        let kind = first >> 4;
        check_kind_and_flags(kind, first & 0x0f)?;
        let mut remaining = 0;
        for (index, byte) in rest.iter().take(4).enumerate() {
            remaining |= usize::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                let header = Self { kind, bytes: index + 2, remaining };
                return match header.frame_bytes() {
                    bytes if bytes > max_bytes => Err(BadPacket::TooLarge { bytes, max: max_bytes }),
                    _ => Ok(Some(header)),
                };
            }
        }
        if rest.len() >= 4 {
            return Err(violation("MQTT-2.2.3", "the remaining length has more than four bytes"));
        }
        Ok(None)
    }

    /// The length of the whole packet.
    pub(super) fn frame_bytes(self) -> usize {
        self.bytes + self.remaining
    }
}

fn check_kind_and_flags(kind: u8, flags: u8) -> Result<(), BadPacket> {
    match (kind, flags) {
        (PUBLISH, _) if flags & 0b0110 == 0b0110 => {
            Err(violation("MQTT-3.3.1-4", "a PUBLISH with both QoS bits set"))
        }
        (PUBLISH, _) if flags & 0b1110 == 0b1000 => {
            Err(violation("MQTT-3.3.1-2", "a PUBLISH with DUP and QoS 0"))
        }
        (PUBLISH, _) | (SUBSCRIBE | UNSUBSCRIBE, 0b0010) => Ok(()),
        (CONNECT | PUBACK | PINGREQ | DISCONNECT, 0) => Ok(()),
        // PUBREC, PUBREL, PUBCOMP: no publish with QoS 2 is sent, and none is taken.
        (5..=7, _) => Err(violation("MQTT-4.3.3", "an answer to a QoS 2 publish that there was not")),
        (2 | 9 | 11 | 13, _) => Err(violation("MQTT-2.2.1", "a packet that only a server may send")),
        (0 | 15, _) => Err(violation("MQTT-2.2.1", "a packet type that is forbidden")),
        _ => Err(violation("MQTT-2.2.2-2", "reserved bits in the fixed header")),
    }
}

fn check_body(kind: u8, body: &[u8]) -> Result<(), BadPacket> {
    match kind {
        CONNECT => Err(violation("MQTT-3.1.0-2", "a second CONNECT")),
        PUBACK if body.len() != 2 => Err(violation("MQTT-3.4.1", "a PUBACK that is not 2 bytes long")),
        PINGREQ | DISCONNECT if !body.is_empty() => {
            Err(violation("MQTT-3.12.1", "a PINGREQ or DISCONNECT with a body"))
        }
        PUBACK => check_packet_id(body),
        SUBSCRIBE => {
            check_packet_id(body)?;
            check_subscribe_options(&body[2..])
        }
        UNSUBSCRIBE => {
            check_packet_id(body)?;
            match body.len() {
                2 => Err(violation("MQTT-3.10.3-2", "an UNSUBSCRIBE without a filter")),
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn check_packet_id(body: &[u8]) -> Result<(), BadPacket> {
    match body {
        [0, 0, ..] => Err(violation("MQTT-2.3.1-1", "packet identifier 0")),
        [_, _, ..] => Ok(()),
        _ => Err(violation("MQTT-2.3.1-1", "no packet identifier")),
    }
}

/// The codec masks the upper bits of the requested QoS away.
fn check_subscribe_options(mut filters: &[u8]) -> Result<(), BadPacket> {
    if filters.is_empty() {
        return Err(violation("MQTT-3.8.3-3", "a SUBSCRIBE without a filter"));
    }
    while let [high, low, rest @ ..] = filters {
        match rest.get(usize::from(u16::from_be_bytes([*high, *low]))..) {
            Some([options, others @ ..]) if options & 0b1111_1100 == 0 => filters = others,
            Some([_, ..]) => return Err(violation("MQTT-3.8.3-4", "reserved bits in a requested QoS")),
            _ => return Err(BadPacket::Malformed("a filter reaches beyond its SUBSCRIBE".to_owned())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rumqttc::mqttbytes::QoS;

    use super::*;

    fn taken(bytes: &[u8]) -> Result<Next, BadPacket> {
        next(&mut BytesMut::from(bytes), 1_000, true)
    }

    fn broken_statement(bytes: &[u8]) -> &'static str {
        match taken(bytes) {
            Err(BadPacket::Violation { statement, .. }) => statement,
            other => panic!("{bytes:02x?} was not refused: {other:?}"),
        }
    }

    #[test]
    fn whole_packets_are_taken_one_after_another() {
        let mut input = BytesMut::from(&b"\x32\x06\x00\x01a\x00\x07!\xc0\x00\xe0"[..]);
        let Next::Packet(Packet::Publish(publish)) = next(&mut input, 100, true).unwrap() else { panic!() };
        assert_eq!((publish.qos, publish.pkid, &publish.payload[..]), (QoS::AtLeastOnce, 7, &b"!"[..]));
        assert_eq!(next(&mut input, 100, true), Ok(Next::Packet(Packet::PingReq)));
        assert_eq!(next(&mut input, 100, true), Ok(Next::Incomplete));
        assert_eq!(&input[..], b"\xe0");
    }

    #[test]
    fn a_held_publish_stays_where_it_is_and_other_packets_pass_until_it() {
        let mut input = BytesMut::from(&b"\xc0\x00\x30\x03\x00\x01a"[..]);
        assert_eq!(next(&mut input, 100, false), Ok(Next::Packet(Packet::PingReq)));
        assert_eq!(next(&mut input, 100, false), Ok(Next::Held));
        assert!(matches!(next(&mut input, 100, true), Ok(Next::Packet(Packet::Publish(_)))));
    }

    #[test]
    fn the_bound_on_a_packet_holds_as_soon_as_its_length_is_known() {
        assert_eq!(taken(b"\x30\xe8\x07"), Err(BadPacket::TooLarge { bytes: 1_003, max: 1_000 }));
        assert_eq!(taken(b"\x30\xe5\x07"), Ok(Next::Incomplete));
    }

    #[test]
    fn a_remaining_length_of_more_than_four_bytes_is_refused() {
        assert_eq!(taken(b"\x30\x80\x80\x80"), Ok(Next::Incomplete));
        assert_eq!(broken_statement(b"\x30\x80\x80\x80\x80"), "MQTT-2.2.3");
    }

    #[test]
    fn packets_that_only_a_server_sends_are_refused_before_they_are_read() {
        for first in [0x20, 0x90, 0xb0, 0xd0] {
            assert_eq!(broken_statement(&[first]), "MQTT-2.2.1");
        }
        for first in [0x00, 0xf0] {
            assert_eq!(broken_statement(&[first]), "MQTT-2.2.1");
        }
    }

    #[test]
    fn reserved_bits_of_the_fixed_header_are_refused() {
        for first in [0x11, 0x41, 0x80, 0x83, 0xa0, 0xc1, 0xe1] {
            assert_eq!(broken_statement(&[first, 0]), "MQTT-2.2.2-2", "{first:02x}");
        }
    }

    #[test]
    fn impossible_qualities_of_service_are_refused() {
        assert_eq!(broken_statement(b"\x36"), "MQTT-3.3.1-4");
        assert_eq!(broken_statement(b"\x38"), "MQTT-3.3.1-2");
    }

    #[test]
    fn a_second_connect_is_refused() {
        assert_eq!(broken_statement(b"\x10\x00"), "MQTT-3.1.0-2");
    }

    #[test]
    fn answers_to_qos_2_publishes_are_refused_as_there_are_none() {
        for first in [0x50, 0x62, 0x70] {
            assert_eq!(broken_statement(&[first, 2, 0, 1]), "MQTT-4.3.3");
        }
    }

    #[test]
    fn a_packet_identifier_of_0_is_refused_everywhere() {
        assert_eq!(broken_statement(b"\x40\x02\x00\x00"), "MQTT-2.3.1-1");
        assert_eq!(broken_statement(b"\x82\x06\x00\x00\x00\x01a\x00"), "MQTT-2.3.1-1");
        assert_eq!(broken_statement(b"\xa2\x05\x00\x00\x00\x01a"), "MQTT-2.3.1-1");
        assert!(matches!(taken(b"\x32\x05\x00\x01a\x00\x00"), Err(BadPacket::Malformed(_))));
    }

    #[test]
    fn subscriptions_without_a_filter_are_refused() {
        assert_eq!(broken_statement(b"\x82\x02\x00\x01"), "MQTT-3.8.3-3");
        assert_eq!(broken_statement(b"\xa2\x02\x00\x01"), "MQTT-3.10.3-2");
    }

    #[test]
    fn reserved_bits_of_a_requested_qos_are_refused() {
        assert_eq!(broken_statement(b"\x82\x06\x00\x01\x00\x01a\x04"), "MQTT-3.8.3-4");
        assert!(matches!(taken(b"\x82\x06\x00\x01\x00\x01a\x03"), Err(BadPacket::Malformed(_))));
    }

    #[test]
    fn strings_that_reach_beyond_their_packet_are_refused() {
        for packet in
            [&b"\x82\x06\x00\x01\x00\x09a\x00"[..], b"\xa2\x05\x00\x01\x00\x09a", b"\x30\x03\x00\x09a"]
        {
            assert!(matches!(taken(packet), Err(BadPacket::Malformed(_))), "{packet:02x?}");
        }
    }

    #[test]
    fn bytes_after_the_end_of_a_packet_of_fixed_length_are_refused() {
        assert_eq!(broken_statement(b"\x40\x03\x00\x01\x00"), "MQTT-3.4.1");
        assert_eq!(broken_statement(b"\xc0\x01\x00"), "MQTT-3.12.1");
        assert_eq!(broken_statement(b"\xe0\x01\x00"), "MQTT-3.12.1");
    }

    #[test]
    fn a_topic_that_is_not_utf_8_is_refused() {
        assert!(matches!(taken(b"\x30\x04\x00\x02\xc3\x28"), Err(BadPacket::Malformed(_))));
        // MQTT-1.5.3-1: surrogates are not UTF-8.
        assert!(matches!(taken(b"\x30\x05\x00\x03\xed\xa0\x80"), Err(BadPacket::Malformed(_))));
    }
}
