//! DISCONNECT (section 3.14 of both versions).

use crate::prelude::*;

judged! {
    /// v3: MQTT-3.14.4-1 · v5: MQTT-3.14.4-2
    fn a_disconnect_closes_the_connection(version) {
        let mut client = Client::new(version, "bye");
        client.send(&[0xE0, 0]);
        assert_eq!(client.expect_closed(), None);
        if version == V5 {
            let mut client = Client::new(version, "bye");
            client.send(&packet::disconnect(0, &[]));
            assert_eq!(client.expect_closed(), None);
            // A reason without properties.
            let mut client = Client::new(version, "bye");
            client.send(&[0xE0, 1, 0]);
            assert_eq!(client.expect_closed(), None);
        }
    }

    /// v3: MQTT-3.14.4-2 · v5: MQTT-3.14.4-1
    fn what_is_behind_a_disconnect_is_not_served(version) {
        let topic = unique("behind");
        let (mut subscriber, mut publisher) = pair(version, &topic, 0);
        publisher.send(&[vec![0xE0, 0], Publish::new(&topic, "no").packet(version)].concat());
        publisher.expect_closed();
        subscriber.expect_nothing();
    }

    /// v3: MQTT-3.14.1-1 · v5: MQTT-3.14.1-1
    fn a_disconnect_with_reserved_bits_is_malformed(version) {
        for first in [0xE1, 0xE2, 0xE8] {
            let topic = unique("bits");
            let mut heir = Client::new(version, "heir");
            heir.subscribe(&[(&topic, 0)]);
            let connect = Connect::new(version, &unique("bits")).will(Will::new(&topic, "malformed"));
            let mut client = Client::connect(&connect);
            client.send(&[first, 0]);
            let reason = client.expect_closed();
            assert!(reason.is_none_or(|reason| reason == 0x81), "{reason:x?}");
            assert_eq!(heir.message().text(), "malformed", "it was no DISCONNECT");
        }
    }

    /// v5: MQTT-3.14.0-1
    fn no_disconnect_comes_before_the_connack(version = V5) {
        let wrong_first = [
            vec![0xC1, 0],
            vec![0xE0, 0],
            vec![0x10, 0x80, 0x80, 0x80, 0x80, 1],
            connect_head(version, 0b11).text("reserved").packet(0x10),
            Connect::new(version, "method").with(Prop::AuthenticationMethod("none".into())).packet(),
        ];
        for packet in wrong_first {
            let mut client = Client::open(version);
            client.send(&packet);
            let answers = client.until_closed();
            assert!(answers.iter().all(|answer| answer.kind() == Kind::ConnAck), "{answers:?}");
        }
    }

    /// v5: MQTT-3.14.4-1, MQTT-3.14.4-2
    fn nothing_comes_behind_the_servers_disconnect(version = V5) {
        let topic = unique("behind");
        let connect = Connect::new(version, &unique("taken"));
        let mut first = Client::connect(&connect);
        first.subscribe(&[(&topic, 1)]);
        publish(version, &Publish::new(&topic, "m").qos(1, 0));
        let _second = Client::connect(&connect);
        let answers = first.until_closed();
        assert_eq!(answers.last().map(Received::kind), Some(Kind::Disconnect), "{answers:?}");
    }
}
