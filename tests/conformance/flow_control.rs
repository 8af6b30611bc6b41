//! Receive maximum and maximum packet size, both ways (sections 3.1.2.11, 3.2.2.3 and 4.9 of MQTT 5).

use crate::prelude::*;

/// A subscriber who takes so many messages at a time, and a publisher.
fn narrow(version: Version, topic: &str, most: u16) -> (Client, Client) {
    let connect = Connect::new(version, &unique("narrow")).with(Prop::ReceiveMaximum(most));
    let mut client = Client::connect(&connect);
    assert_eq!(client.subscribe(&[(topic, 2)]), [2]);
    (client, Client::new(version, "publisher"))
}

judged! {
    /// v5: MQTT-3.3.4-9, MQTT-4.9.0-1, MQTT-4.9.0-2
    fn no_more_messages_come_than_the_client_takes_at_a_time(version = V5) {
        let topic = unique("quota");
        let (mut client, mut publisher) = narrow(version, &topic, 2);
        for n in 0..5 {
            publisher.publish(&Publish::new(&topic, &n.to_string()).qos(1, 0));
        }
        let first = client.expect(Kind::Publish);
        let second = client.expect(Kind::Publish);
        client.expect_nothing();
        client.send(&packet::ack(0x40, first.id()));
        let third = client.expect(Kind::Publish);
        client.expect_nothing();
        client.send(&packet::ack(0x40, second.id()));
        client.send(&packet::ack(0x40, third.id()));
        assert_eq!(client.messages(2), ["3", "4"]);
        assert_eq!([first.text(), second.text(), third.text()], ["0", "1", "2"]);
    }

    /// v5: MQTT-3.3.4-9, MQTT-4.9.0-2
    fn a_message_at_qos_2_is_through_with_its_pubcomp(version = V5) {
        let topic = unique("pubcomp");
        let (mut client, mut publisher) = narrow(version, &topic, 1);
        for n in 0..3 {
            publisher.publish(&Publish::new(&topic, &n.to_string()).qos(2, 0));
        }
        for n in 0..2 {
            let message = client.expect(Kind::Publish);
            assert_eq!(message.text(), n.to_string());
            client.send(&packet::ack(0x50, message.id()));
            client.expect_ack(Kind::PubRel, message.id());
            client.expect_nothing();
            client.send(&packet::ack(0x70, message.id()));
        }
        // A refusal ends it as well.
        let last = client.expect(Kind::Publish);
        publisher.publish(&Publish::new(&topic, "next").qos(1, 0));
        client.expect_nothing();
        client.send(&Body::new().u16(last.id()).u8(0x80).packet(0x50));
        assert_eq!(client.message().text(), "next");
    }

    /// v5: MQTT-3.3.4-10, MQTT-4.9.0-3
    fn a_full_quota_holds_nothing_else_up(version = V5) {
        let topic = unique("full");
        let (mut client, mut publisher) = narrow(version, &topic, 1);
        publisher.publish(&Publish::new(&topic, "1").qos(1, 0));
        publisher.publish(&Publish::new(&topic, "2").qos(1, 0));
        let first = client.expect(Kind::Publish);
        let other = unique("full");
        assert!(client.publish(&Publish::new(&other, "m").qos(2, 0)) < 0x80);
        client.subscribe(&[(&other, 0)]);
        client.unsubscribe(&[&other]);
        client.expect_nothing();
        client.send(&packet::ack(0x40, first.id()));
        assert_eq!(client.message().text(), "2");
    }

    /// v5: MQTT-4.9.0-1
    fn the_quota_holds_for_what_waited_too(version = V5) {
        let topic = unique("waited");
        let connect = absent(version, &topic, 1).with(Prop::ReceiveMaximum(1));
        for n in 0..3 {
            publish(version, &Publish::new(&topic, &n.to_string()).qos(1, 0));
        }
        let mut client = Client::connect(&connect);
        for n in 0..3 {
            let message = client.expect(Kind::Publish);
            assert_eq!(message.text(), n.to_string());
            client.expect_nothing();
            client.send(&packet::ack(0x40, message.id()));
        }
        client.expect_nothing();
    }

    /// v5: MQTT-3.3.4-7, MQTT-4.13.1-1
    fn more_publishes_at_a_time_than_the_server_takes_end_the_connection(version = V5) {
        let topic = unique("exceeded");
        let (mut client, ack) = Client::connected(&Connect::new(version, &unique("exceeded")));
        let most = ack.find(|property| match property {
            Prop::ReceiveMaximum(most) => Some(*most),
            _ => None,
        });
        let Some(beyond) = most.unwrap_or(u16::MAX).checked_add(1) else {
            return; // There is no identifier left to exceed it with.
        };
        let all: Vec<_> = (1..=beyond).map(|id| Publish::new(&topic, "m").qos(2, id).packet(version)).collect();
        client.send(&all.concat());
        let answers = client.until_closed();
        let (last, acks) = answers.split_last().expect("the first are answered");
        assert_eq!((last.kind(), last.reason()), (Kind::Disconnect, 0x93));
        assert!(acks.iter().all(|answer| answer.kind() == Kind::PubRec));
    }

    /// v5: MQTT-3.1.2-24, MQTT-3.1.2-25
    fn what_is_too_large_for_a_client_is_left_out(version = V5) {
        let topic = unique("large");
        let connect = absent(version, &topic, 2).with(Prop::MaximumPacket(200));
        let messages = |publisher: &mut Client| {
            for qos in 0..3 {
                publisher.publish(&Publish::new(&topic, &"x".repeat(200)).qos(qos, 0));
                publisher.publish(&Publish::new(&topic, "small").qos(qos, 0));
            }
        };
        let mut publisher = Client::new(version, "publisher");
        let mut client = Client::connect(&connect);
        messages(&mut publisher);
        assert_eq!(client.messages(3), ["small", "small", "small"]);
        client.disconnect();
        messages(&mut publisher);
        let mut client = Client::connect(&connect);
        let waited = client.messages(2);
        assert!(waited.iter().all(|text| text == "small"), "{waited:?}");
        assert!(client.largest <= 200);
        client.disconnect();
        // They count as delivered: nothing waits for a client with more room.
        let roomy = Connect { properties: vec![Prop::SessionExpiry(60)], ..connect };
        let mut client = Client::connect(&roomy);
        client.send(&[0xC0, 0]);
        while let Some(small) = client.before_pong() {
            assert_eq!(small.text(), "small", "a message that is only of QoS 0 may have waited as well");
        }
    }

    /// v5: MQTT-3.2.2-15, MQTT-4.13.1-1
    fn what_is_too_large_for_the_server_ends_the_connection(version = V5) {
        let (mut client, ack) = Client::connected(&Connect::new(version, &unique("large")));
        let most = ack.find(|property| match property {
            Prop::MaximumPacket(most) => Some(*most),
            _ => None,
        });
        let Some(most) = most else { return };
        // The length alone says it.
        client.send(Body::new().u8(0x30).varint(most).raw(b"\0\x05large").raw(&[0; 1_000]).unframed());
        let reason = client.expect_closed();
        assert!(reason.is_none_or(|reason| reason == 0x95), "{reason:x?}");
    }

    /// v5: MQTT-3.3.4-9, MQTT-4.4.0-1
    fn the_quota_holds_for_what_is_sent_again_too(version = V5) {
        let topic = unique("again");
        let connect = absent(version, &topic, 2);
        let mut client = Client::connect(&connect);
        for n in 0..4 {
            publish(version, &Publish::new(&topic, &n.to_string()).qos(1 + n % 2, 0));
            client.expect(Kind::Publish);
        }
        client.cut();
        let mut client = Client::connect(&connect.with(Prop::ReceiveMaximum(2)));
        let first = client.expect(Kind::Publish);
        let second = client.expect(Kind::Publish);
        client.expect_nothing();
        assert_eq!([first.text(), second.text()], ["0", "1"]);
        client.send(&packet::ack(0x40, first.id()));
        let third = client.expect(Kind::Publish);
        client.expect_nothing();
        client.send(&packet::ack(0x40, third.id()));
        assert_eq!(client.message().text(), "3");
    }

    /// v5: MQTT-4.9.0-3, MQTT-3.3.4-1
    fn as_many_publishes_at_a_time_as_the_server_takes_are_served(version = V5) {
        let topic = unique("many");
        let (mut client, ack) = Client::connected(&Connect::new(version, &unique("many")));
        let most = ack.find(|property| match property {
            Prop::ReceiveMaximum(most) => Some(*most),
            _ => None,
        });
        let ids = || 1..=most.unwrap_or(2_000).min(2_000);
        for _ in 0..2 {
            let all: Vec<_> = ids().map(|id| Publish::new(&topic, "m").qos(2, id).packet(version)).collect();
            client.send(&all.concat());
            for id in ids() {
                assert!(client.expect_ack(Kind::PubRec, id).reason() < 0x80);
            }
            let all: Vec<_> = ids().map(|id| packet::ack(0x62, id)).collect();
            client.send(&all.concat());
            for id in ids() {
                client.expect_ack(Kind::PubComp, id);
            }
        }
    }

    /// v5: MQTT-3.2.2-15
    fn a_packet_as_large_as_the_server_takes_is_served(version = V5) {
        let topic = unique("largest");
        let (mut client, ack) = Client::connected(&Connect::new(version, &unique("largest")));
        let most = ack.find(|property| match property {
            Prop::MaximumPacket(most) => usize::try_from(*most).ok(),
            _ => None,
        });
        let size = most.unwrap_or(1 << 20).min(1 << 20);
        client.subscribe(&[(&topic, 1)]);
        let mut publish = Publish::new(&topic, "").qos(1, 1);
        // The length takes more bytes when the packet is not empty.
        publish.payload = vec![b'x'; 100_000];
        let overhead = publish.packet(version).len() - publish.payload.len();
        publish.payload = vec![b'x'; size - overhead];
        assert_eq!(publish.packet(version).len(), size);
        client.publish(&publish);
        assert!(client.message().payload == publish.payload);
    }
}
