//! Steps that many tests take.

use crate::prelude::*;

/// A subscriber to this filter at this QoS, and a publisher.
pub(crate) fn pair(version: Version, filter: &str, qos: u8) -> (Client, Client) {
    let mut subscriber = Client::new(version, "subscriber");
    assert_eq!(subscriber.subscribe(&[(filter, qos)]), [qos]);
    (subscriber, Client::new(version, "publisher"))
}

/// What is said on a connection that stands ends it, with one of these reasons if MQTT 5 gives one.
#[track_caller]
pub(crate) fn ends(version: Version, bytes: &[u8], reasons: &[u8]) {
    let mut client = Client::new(version, "ends");
    client.send(bytes);
    let reason = client.expect_closed();
    assert!(reason.is_none_or(|reason| reasons.contains(&reason)), "{bytes:x?} ended it with {reason:x?}");
}

/// These bytes as the first ones: nobody is let in. MQTT 3.1.1 closes without a word, 5 may say why.
#[track_caller]
pub(crate) fn refused(version: Version, bytes: &[u8]) {
    let mut client = Client::open(version);
    client.send(bytes);
    for answer in client.until_closed() {
        let is_refusal = version == V5 && answer.kind() == Kind::ConnAck && answer.reason() >= 0x80;
        assert!(is_refusal, "{bytes:x?} was answered with {answer:?}");
    }
}

/// A session that is kept, subscribed and away.
pub(crate) fn absent(version: Version, filter: &str, qos: u8) -> Connect {
    let connect = Connect::new(version, &unique("absent")).persistent();
    let mut client = Client::connect(&connect);
    assert_eq!(client.subscribe(&[(filter, qos)]), [qos]);
    client.disconnect();
    connect
}

/// Publishes at this QoS from a connection of its own.
pub(crate) fn publish(version: Version, message: &Publish) {
    let mut client = Client::new(version, "publisher");
    assert!(client.publish(message) < 0x80);
    client.disconnect();
}

/// The part of a CONNECT before its payload, with these flags.
pub(crate) fn connect_head(version: Version, flags: u8) -> Body {
    let head = Body::new().text("MQTT").u8(version.level()).u8(flags).u16(60);
    if version == V5 { head.properties(&[]) } else { head }
}

/// A will without properties, where it stands in a CONNECT.
pub(crate) fn will_fields(version: Version, body: Body, topic: &[u8], payload: &[u8]) -> Body {
    let body = if version == V5 { body.properties(&[]) } else { body };
    body.bytes(topic).bytes(payload)
}

/// The properties of a packet that has none: nothing in MQTT 3.1.1.
pub(crate) fn no_properties(version: Version, body: Body) -> Body {
    if version == V5 { body.properties(&[]) } else { body }
}
