//! CONNECT and CONNACK (sections 3.1 and 3.2 of both versions).

use crate::client::{Client, Connect, Publish, V3, V5, Version, unique};
use crate::packet::{Body, Kind};

judged! {
    /// v3: MQTT-3.1.0-1 · v5: MQTT-3.1.0-1
    fn the_first_packet_must_be_a_connect(version) {
        let mut client = Client::open(version);
        client.send(&[0xC0, 0]);
        assert!(client.until_closed().is_empty(), "a PINGREQ before the CONNECT must not be answered");
    }

    /// v3: MQTT-3.1.0-2 · v5: MQTT-3.1.0-2
    fn a_second_connect_ends_the_connection(version) {
        let connect = Connect::new(version, &unique("twice"));
        let mut client = Client::connect(&connect);
        client.send(&connect.packet());
        let reason = client.expect_closed();
        assert!(reason.is_none_or(|reason| reason == 0x82), "{reason:?}");
    }

    /// v3: MQTT-3.1.2-1 · v5: MQTT-3.1.2-1
    fn another_protocol_name_is_not_taken(version) {
        let mut client = Client::open(version);
        let body = Body::new().text("MQTX").u8(version.level()).u8(2).u16(60);
        let body = if version == V5 { body.properties(&[]) } else { body };
        client.send(&body.text("name").packet(0x10));
        assert!(client.until_closed().iter().all(|answer| answer.reason() >= 0x80));
    }

    /// v3: MQTT-3.1.2-2 · v5: MQTT-3.1.2-2
    fn another_protocol_level_is_refused_with_its_code(version) {
        let mut client = Client::open(version);
        client.send(&Body::new().text("MQTT").u8(9).u8(2).u16(60).text("level").packet(0x10));
        // 0x01 as in 3.1.1, or 0x84 in the form of version 5.
        let answers = client.until_closed();
        assert!(answers.iter().all(|answer| [0x01, 0x84].contains(&answer.reason())), "{answers:?}");
    }
}
