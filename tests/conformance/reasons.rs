//! Reason codes and what explains them (sections 2.4 and 4.13 of MQTT 5). That each code is one of its packet's is
//! checked for every packet that any test reads.

use crate::prelude::*;

judged! {
    /// v5: MQTT-3.1.2-24, MQTT-3.2.2-19, MQTT-3.2.2-20, MQTT-3.4.2-2, MQTT-3.4.2-3, MQTT-3.5.2-2, MQTT-3.5.2-3, MQTT-3.6.2-2, MQTT-3.6.2-3, MQTT-3.7.2-2, MQTT-3.7.2-3, MQTT-3.9.2-1, MQTT-3.9.2-2, MQTT-3.11.2-1, MQTT-3.11.2-2, MQTT-3.14.2-3, MQTT-3.14.2-4
    fn no_explanation_makes_a_packet_too_large(version = V5) {
        // Room for the properties of a CONNACK, but not for sentences.
        let most = 40;
        let small = || Connect::new(version, &unique("small")).with(Prop::MaximumPacket(most));
        let mut client = Client::connect(&small());
        client.send(&Publish::new("forbidden/a", "").qos(1, 1).packet(version));
        client.expect(Kind::PubAck);
        client.send(&Publish::new("forbidden/a", "").qos(2, 2).packet(version));
        client.expect(Kind::PubRec);
        client.send(&packet::ack(0x62, 3));
        client.expect(Kind::PubComp);
        client.send(&packet::ack(0x50, 4));
        client.expect(Kind::PubRel);
        client.send(&packet::subscribe(version, 5, &[("forbidden/#", 0), ("$share/x/forbidden/#", 0)], &[]));
        client.expect(Kind::SubAck);
        client.send(&packet::unsubscribe(version, 6, &["nothing", "forbidden/#"]));
        client.expect(Kind::UnsubAck);
        client.send(&Publish::new("wild/+", "").packet(version));
        client.expect_closed();
        assert!(client.largest <= most as usize, "{} bytes", client.largest);

        let (mut client, ack) = Client::answered(&small().with(Prop::AuthenticationMethod("none".into())));
        assert!(ack.reason() >= 0x80);
        client.expect_closed();
        assert!(client.largest <= most as usize, "{} bytes", client.largest);
    }

    /// v5: MQTT-3.14.2-1, MQTT-3.14.2-2, MQTT-4.13.1-1
    fn an_error_is_named_before_the_connection_ends(version = V5) {
        for (packet, reasons) in [
            (vec![0xC1, 0], [0x81].as_slice()),
            (packet::ack(0x60, 1), &[0x81]),
            (Publish::new("wild/#", "").packet(version), &[0x81, 0x82, 0x90]),
            (Connect::new(version, "again").packet(), &[0x82]),
        ] {
            let mut client = Client::new(version, "named");
            client.send(&packet);
            let reason = client.expect_closed().expect("a DISCONNECT says why");
            assert!(reasons.contains(&reason), "{reason:#x} for {packet:x?}");
        }
    }

    /// v5: MQTT-3.1.4-2, MQTT-3.4.2-1, MQTT-3.5.2-1, MQTT-3.9.3-2
    fn what_is_not_allowed_is_refused_with_its_reason(version = V5) {
        if !Broker::get().is_ours() {
            return; // It may allow everything.
        }
        let mut client = Client::new(version, "forbidden");
        for qos in 1..3 {
            assert_eq!(client.publish(&Publish::new("forbidden/a", "").qos(qos, 0)), 0x87);
        }
        assert_eq!(client.subscribe(&[("forbidden/a", 1), ("$share/group/forbidden/+", 0)]), [0x87, 0x87]);
        // It stays connected.
        client.expect_nothing();
        let will = Connect::new(version, &unique("forbidden")).will(Will::new("forbidden/a", ""));
        let (mut client, ack) = Client::answered(&will);
        assert_eq!(ack.reason(), 0x87);
        client.expect_closed();
    }

    /// v5: MQTT-3.4.2-1, MQTT-3.5.2-1
    fn a_publish_that_nobody_receives_is_a_success(version = V5) {
        let mut client = Client::new(version, "nobody");
        for qos in 1..3 {
            let reason = client.publish(&Publish::new(&unique("nobody"), "m").qos(qos, 0));
            assert!([0, 0x10].contains(&reason), "{reason:#x}");
        }
    }
}
