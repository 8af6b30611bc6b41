//! Errors, and authentication methods that the server does not know (sections 4.12 and 4.13 of MQTT 5).

use crate::prelude::*;

judged! {
    /// v5: MQTT-4.12.0-1
    fn an_authentication_method_that_is_not_known_is_refused(version = V5) {
        let connect = Connect::new(version, &unique("method"));
        let connect = connect.with(Prop::AuthenticationMethod("SCRAM-SHA-1".into()));
        let (mut client, ack) = Client::answered(&connect.with(Prop::AuthenticationData(b"n,,n=a".to_vec())));
        assert!([0x87, 0x8C].contains(&ack.reason()), "{ack:?}");
        assert!(client.until_closed().is_empty());
    }

    /// v5: MQTT-4.12.0-7, MQTT-4.13.1-1
    fn an_auth_without_a_method_ends_the_connection(version = V5) {
        ends(version, &[0xF0, 0], &[0x81, 0x82]);
        let method = Prop::AuthenticationMethod("none".into());
        ends(version, &Body::new().u8(0x19).properties(&[method]).packet(0xF0), &[0x82, 0x8C]);
    }

    /// v5: MQTT-3.15.1-1
    fn an_auth_with_reserved_bits_ends_the_connection(version = V5) {
        for first in [0xF1, 0xF8] {
            ends(version, &[first, 0], &[0x81, 0x82]);
        }
    }

    /// v3: MQTT-4.8.0-1 · v5: MQTT-4.13.1-1
    fn an_error_of_one_client_is_not_the_others(version) {
        let topic = unique("others");
        let (mut subscriber, mut publisher) = pair(version, &topic, 1);
        for packet in [vec![0xC1, 0], vec![0x00, 0], vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01], packet::ack(0x60, 1)] {
            ends(version, &packet, &[0x81, 0x82, 0x95]);
            publisher.publish(&Publish::new(&topic, "served").qos(1, 0));
            assert_eq!(subscriber.message().text(), "served");
        }
    }
}
