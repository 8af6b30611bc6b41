//! What the gateway sends: answers, and messages straight into the output of a connection.
//!
//! In 5.0 a packet that is larger than the client takes is not sent (MQTT-3.1.2-24); texts that are there
//! for people are left out before it comes to that (MQTT-3.2.2-19, MQTT-3.14.2-3).
//! CONNACK and DISCONNECT may have them even if the client wants no problem information (MQTT-3.1.2-29);
//! nothing else that is written here has any.

use bytes::{BufMut, BytesMut};

use super::fields::varint_bytes;
use super::{Ack, AckKind, Answer, ConnAck, Reason, Version, id};

/// Why an answer cannot be given. The connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unsendable {
    #[error("an answer of {bytes} bytes; the client takes {max}")]
    TooLarge { bytes: usize, max: u32 },
    /// A PUBACK or PUBREC of 3.1.1 always says that the message was taken.
    #[error("MQTT 3.1.1 has no answer for a message that is refused")]
    NoRefusal,
}

/// Writes an answer. `max_bytes`: of a packet that the client takes. When there is an error, nothing is written.
pub(crate) fn write(
    answer: &Answer,
    version: Version,
    max_bytes: Option<u32>,
    out: &mut BytesMut,
) -> Result<(), Unsendable> {
    let packet = |first: u8, body: &[u8]| put_packet(first, body, max_bytes, out);
    match version {
        Version::V3 => write_v3(answer, packet),
        Version::V5 => write_v5(answer, packet),
    }
}

/// `packet` puts a packet with this first byte and body into the output.
fn write_v3(
    answer: &Answer,
    mut packet: impl FnMut(u8, &[u8]) -> Result<(), Unsendable>,
) -> Result<(), Unsendable> {
    match answer {
        Answer::ConnAck(ack) => packet(CONNACK, &[ack.session_present.into(), ack.reason.connack_v3()]),
        Answer::Ack(Ack { kind: AckKind::Puback | AckKind::Pubrec, reason, .. }) if reason.is_refusal() => {
            Err(Unsendable::NoRefusal)
        }
        Answer::Ack(ack) => packet(first_byte(ack.kind), &ack.packet_id.to_be_bytes()),
        Answer::SubAck { packet_id, codes } => {
            packet(SUBACK, &codes_body(*packet_id, &[], codes.iter().map(|code| code.suback_v3())))
        }
        Answer::UnsubAck { packet_id, .. } => packet(UNSUBACK, &packet_id.to_be_bytes()),
        Answer::PingResp => packet(PINGRESP, &[]),
        Answer::Disconnect { .. } => Ok(()),
    }
}

fn write_v5(
    answer: &Answer,
    mut packet: impl FnMut(u8, &[u8]) -> Result<(), Unsendable>,
) -> Result<(), Unsendable> {
    match answer {
        Answer::ConnAck(ack) => {
            let head = [ack.session_present.into(), ack.reason as u8];
            with_text(&head, &connack_properties(ack), ack.text.as_deref(), |body| packet(CONNACK, body))
        }
        Answer::Ack(Ack { kind, packet_id, reason }) => {
            let [high, low] = packet_id.to_be_bytes();
            match reason {
                Reason::Success => packet(first_byte(*kind), &[high, low]),
                reason => packet(first_byte(*kind), &[high, low, *reason as u8]),
            }
        }
        Answer::SubAck { packet_id, codes } => {
            packet(SUBACK, &codes_body(*packet_id, NO_PROPERTIES, codes.iter().map(|code| *code as u8)))
        }
        Answer::UnsubAck { packet_id, codes } => {
            packet(UNSUBACK, &codes_body(*packet_id, NO_PROPERTIES, codes.iter().map(|code| *code as u8)))
        }
        Answer::PingResp => packet(PINGRESP, &[]),
        // The length of its properties may be left out, but some clients' codecs need it.
        Answer::Disconnect { reason, text } => {
            with_text(&[*reason as u8], &[], text.as_deref(), |body| packet(DISCONNECT, body))
        }
    }
}

const CONNACK: u8 = 0x20;
const SUBACK: u8 = 0x90;
const UNSUBACK: u8 = 0xb0;
const PINGRESP: u8 = 0xd0;
const DISCONNECT: u8 = 0xe0;

const NO_PROPERTIES: &[u8] = &[0];

fn first_byte(kind: AckKind) -> u8 {
    match kind {
        AckKind::Puback => 0x40,
        AckKind::Pubrec => 0x50,
        AckKind::Pubrel => 0x62,
        AckKind::Pubcomp => 0x70,
    }
}

fn put_packet(first: u8, body: &[u8], max_bytes: Option<u32>, out: &mut BytesMut) -> Result<(), Unsendable> {
    let bytes = 1 + varint_bytes(body.len()) + body.len();
    if let Some(max) = max_bytes
        && bytes > max as usize
    {
        return Err(Unsendable::TooLarge { bytes, max });
    }
    out.reserve(bytes);
    put_header(first, body.len(), out);
    out.put_slice(body);
    Ok(())
}

fn codes_body(packet_id: u16, properties: &[u8], codes: impl Iterator<Item = u8>) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    body.extend_from_slice(properties);
    body.extend(codes);
    body
}

/// A packet with a reason string, or without, if it does not fit.
fn with_text(
    head: &[u8],
    properties: &[u8],
    text: Option<&str>,
    mut packet: impl FnMut(&[u8]) -> Result<(), Unsendable>,
) -> Result<(), Unsendable> {
    let body = |properties: &[u8]| {
        let mut body = head.to_vec();
        put_varint(properties.len(), &mut body);
        body.extend_from_slice(properties);
        body
    };
    if let Some(text) = text.filter(|text| text.len() <= usize::from(u16::MAX)) {
        let mut properties = properties.to_vec();
        properties.put_u8(id::REASON_STRING);
        put_text(text, &mut properties);
        if packet(&body(&properties)).is_ok() {
            return Ok(());
        }
    }
    packet(&body(properties))
}

/// What is said of a session that there is. What is left out has the default that the specification gives it.
fn connack_properties(ack: &ConnAck) -> Vec<u8> {
    let mut out = Vec::new();
    if ack.reason.is_refusal() {
        return out;
    }
    if let Some(seconds) = ack.session_expiry {
        out.put_u8(id::SESSION_EXPIRY);
        out.put_u32(seconds);
    }
    if ack.receive_maximum != u16::MAX {
        out.put_u8(id::RECEIVE_MAXIMUM);
        out.put_u16(ack.receive_maximum);
    }
    out.put_u8(id::MAXIMUM_PACKET_SIZE);
    out.put_u32(ack.max_packet_bytes);
    if let Some(client_id) = &ack.assigned_client_id {
        out.put_u8(id::ASSIGNED_CLIENT_ID);
        put_text(client_id, &mut out);
    }
    if ack.topic_alias_maximum != 0 {
        out.put_u8(id::TOPIC_ALIAS_MAXIMUM);
        out.put_u16(ack.topic_alias_maximum);
    }
    if let Some(seconds) = ack.server_keep_alive {
        out.put_u8(id::SERVER_KEEP_ALIVE);
        out.put_u16(seconds);
    }
    if let Some(information) = &ack.response_information {
        out.put_u8(id::RESPONSE_INFORMATION);
        put_text(information, &mut out);
    }
    out
}

/// A fixed header, at once: this is done for each message and each of its subscribers.
pub(super) fn put_header(first: u8, remaining: usize, out: &mut impl BufMut) {
    let mut header = [first; 5];
    let bytes = encode_varint(remaining, &mut header[1..]);
    out.put_slice(&header[..1 + bytes]);
}

pub(super) fn put_varint(value: usize, out: &mut impl BufMut) {
    let mut varint = [0; 4];
    let bytes = encode_varint(value, &mut varint);
    out.put_slice(&varint[..bytes]);
}

/// At most 268,435,455 (section 1.5.5); no packet that is taken or made here is near that.
fn encode_varint(mut value: usize, into: &mut [u8]) -> usize {
    let mut bytes = 0;
    while value >= 0x80 {
        into[bytes] = value as u8 | 0x80;
        value >>= 7;
        bytes += 1;
    }
    into[bytes] = value as u8;
    bytes + 1
}

/// At most 65,535 bytes, as everything is that came over the wire.
pub(super) fn put_bytes(bytes: &[u8], out: &mut impl BufMut) {
    out.put_u16(
        u16::try_from(bytes.len()).expect("what came over the wire, and what the gateway says, is shorter"),
    );
    out.put_slice(bytes);
}

pub(super) fn put_text(text: &str, out: &mut impl BufMut) {
    put_bytes(text.as_bytes(), out);
}
