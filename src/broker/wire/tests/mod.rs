//! What is taken, what is refused and by which statement, and what is written. `round_trips` holds the
//! codec of this gateway against that of `rumqttc`, in both directions.

mod accepted;
mod answers;
mod differences;
mod hostile;
mod packets;
mod round_trips;

mod statements;

use bytes::BytesMut;

use super::*;

const MAX_BYTES: usize = 1_000;

fn taken(version: Version, bytes: &[u8]) -> Result<Next, BadPacket> {
    next(&mut BytesMut::from(bytes), version, MAX_BYTES, true)
}

/// The packet, which must be all of the bytes.
fn packet(version: Version, bytes: &[u8]) -> Packet {
    let mut input = BytesMut::from(bytes);
    match next(&mut input, version, MAX_BYTES, true) {
        Ok(Next::Packet(packet)) if input.is_empty() => packet,
        other => panic!("{bytes:02x?} in {version:?}: {other:?}, and {} bytes are left", input.len()),
    }
}

fn publish(version: Version, bytes: &[u8]) -> Publish {
    match packet(version, bytes) {
        Packet::Publish(publish) => publish,
        other => panic!("{bytes:02x?} is {other:?}"),
    }
}

fn connected(bytes: &[u8]) -> Result<Option<Connect>, ConnectError> {
    take_connect(&mut BytesMut::from(bytes), MAX_BYTES)
}

/// A packet with this first byte and body, of less than 128 bytes.
fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    let length = u8::try_from(body.len()).unwrap();
    assert!(length < 0x80);
    [&[first, length], body].concat()
}

/// A CONNECT with clean start, keep alive 60, the client id `c`, and what is given.
/// `properties` without their length; not written in 3.1.1.
fn connect(version: Version, flags: u8, properties: &[u8], rest: &[u8]) -> Vec<u8> {
    let length = [u8::try_from(properties.len()).unwrap()];
    let (level, length) = match version {
        Version::V3 => (4, &[][..]),
        Version::V5 => (5, &length[..]),
    };
    let head = [b"\x00\x04MQTT".as_slice(), &[level, flags], b"\x00\x3c"].concat();
    framed(0x10, &[&head[..], length, properties, b"\x00\x01c", rest].concat())
}
