//! What holds for any bytes of a client: nothing beyond a frame is touched, what is made of a frame is in
//! proportion to it, the same bytes mean the same, and a message that was taken can be passed on.
//! The tests and the fuzz targets bring the bytes.

use bytes::BytesMut;

use super::{
    Delivery, Next, Packet, Properties, Publish, Subscribe, Unsubscribe, Version, Wanted, next,
    publish_bytes, put_publish, take_connect,
};

const MAX_BYTES: usize = 1 << 20;

/// Checks what is made of packets in a session, until there is none any more.
///
/// # Panics
/// When something does not hold.
pub(crate) fn check_packets(version: Version, bytes: &[u8]) {
    let mut input = BytesMut::from(bytes);
    loop {
        let before = input.clone();
        let result = next(&mut input, version, MAX_BYTES, true);
        let mut again = before.clone();
        assert_eq!(next(&mut again, version, MAX_BYTES, true), result, "the same bytes mean the same");
        assert_eq!(again, input);
        let Ok(Next::Packet(packet)) = result else {
            assert_eq!(input, before, "what is not taken stays");
            return;
        };
        let frame = frame_bytes(&before);
        assert_eq!(input[..], before[frame..]);
        assert!(heap_bytes(&packet) <= 256 + 20 * frame, "{packet:?} of {frame} bytes");
        if let Packet::Publish(publish) = packet {
            check_passing_on(publish, version);
        }
    }
}

/// Checks what is made of the CONNECT at the head of the bytes.
///
/// # Panics
/// When something does not hold.
pub(crate) fn check_connect(bytes: &[u8]) {
    let mut input = BytesMut::from(bytes);
    match take_connect(&mut input, MAX_BYTES) {
        Ok(Some(_)) => assert_eq!(input[..], bytes[frame_bytes(bytes)..]),
        Ok(None) | Err(_) => assert_eq!(input[..], *bytes),
    }
}

fn check_passing_on(publish: Publish, version: Version) {
    let delivery = Delivery {
        topic: &publish.topic,
        topic_alias: publish.topic_alias,
        payload: &publish.payload,
        properties: publish.properties.as_deref(),
        message_expiry: publish.properties.as_deref().and_then(|properties| properties.message_expiry),
        subscription_ids: &[],
        qos: publish.qos,
        dup: publish.dup,
        retain: publish.retain,
        packet_id: publish.packet_id,
    };
    let mut out = BytesMut::new();
    put_publish(&delivery, version, &mut out);
    assert_eq!(out.len(), publish_bytes(&delivery, version));
    assert_eq!(next(&mut out, version, MAX_BYTES, true), Ok(Next::Packet(Packet::Publish(publish))));
    assert!(out.is_empty());
}

/// The length of the frame at the head of the input, counted another way than the codec does.
fn frame_bytes(input: &[u8]) -> usize {
    let length = input[1..].iter().take_while(|byte| **byte >= 0x80).count() + 1;
    let digits = input[1..=length].iter().rev();
    1 + length + digits.fold(0, |value, byte| value * 128 + usize::from(byte & 0x7f))
}

/// Memory on the heap, beyond the packet itself.
fn heap_bytes(packet: &Packet) -> usize {
    match packet {
        Packet::Publish(publish) => {
            let properties = publish.properties.as_deref();
            let properties = properties.map_or(0, |it| size_of::<Properties>() + it.lasting_bytes());
            publish.topic.capacity() + publish.payload.len() + properties
        }
        Packet::Subscribe(Subscribe { filters, .. }) => {
            let texts = filters.iter().map(|wanted| wanted.filter.capacity()).sum::<usize>();
            filters.capacity() * size_of::<Wanted>() + texts
        }
        Packet::Unsubscribe(Unsubscribe { filters, .. }) => {
            let texts = filters.iter().map(String::capacity).sum::<usize>();
            filters.capacity() * size_of::<String>() + texts
        }
        Packet::Ack(_) | Packet::PingReq | Packet::Disconnect(_) | Packet::Auth => 0,
    }
}
