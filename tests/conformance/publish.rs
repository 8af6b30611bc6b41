//! PUBLISH (section 3.3 of both versions).

use crate::prelude::*;

judged! {
    /// v3: MQTT-3.3.4-1 · v5: MQTT-3.3.4-1
    fn each_quality_of_service_is_answered_as_it_should(version) {
        let topic = unique("answered");
        let mut client = Client::new(version, "answered");
        // Nothing but the PINGRESP answers the first.
        client.publish(&Publish::new(&topic, "0"));
        client.expect_nothing();
        assert!(client.publish(&Publish::new(&topic, "1").qos(1, 11)) < 0x80);
        assert!(client.publish(&Publish::new(&topic, "2").qos(2, 12)) < 0x80);
    }

    /// v3: MQTT-3.3.2-3, MQTT-4.5.0-1 · v5: MQTT-3.3.2-3, MQTT-4.5.0-1
    fn a_message_reaches_everybody_who_has_subscribed_and_nobody_else(version) {
        let topic = unique("reaches");
        let (mut first, mut publisher) = pair(version, &format!("{topic}/a"), 1);
        let (mut second, mut other) = pair(version, &format!("{topic}/+"), 0);
        other.subscribe(&[(&format!("{topic}/b"), 2)]);
        let away = absent(version, &format!("{topic}/#"), 2);
        publisher.publish(&Publish::new(&format!("{topic}/a"), "here").qos(2, 0));
        for client in [&mut first, &mut second, &mut Client::connect(&away)] {
            let message = client.message();
            assert_eq!((message.topic.as_str(), message.text()), (&*format!("{topic}/a"), "here"));
        }
        other.expect_nothing();
    }

    /// v3: MQTT-2.3.1-5 · v5: MQTT-2.2.1-2, MQTT-2.2.2-1
    fn a_payload_arrives_byte_by_byte(version) {
        let topic = unique("bytes");
        let (mut subscriber, mut publisher) = pair(version, &topic, 2);
        // Every byte, nothing at all, and longer than one byte of length can say.
        for payload in [(0..=255).collect(), vec![], vec![0xA5; 20_000]] {
            for qos in 0..3 {
                let message = Publish { payload: payload.clone(), ..Publish::new(&topic, "").qos(qos, 0) };
                publisher.publish(&message);
                let received = subscriber.message();
                assert_eq!(received.qos(), qos);
                assert!(received.payload == payload, "{} bytes at QoS {qos}", payload.len());
            }
        }
    }

    /// v3: MQTT-3.8.4-6 · v5: MQTT-3.8.4-8
    fn the_lower_quality_of_publisher_and_subscriber_counts(version) {
        let topic = unique("lower");
        let mut publisher = Client::new(version, "publisher");
        for granted in 0..3 {
            let mut subscriber = Client::new(version, "subscriber");
            assert_eq!(subscriber.subscribe(&[(&topic, granted)]), [granted]);
            for published in 0..3 {
                publisher.publish(&Publish::new(&topic, "m").qos(published, 0));
                assert_eq!(subscriber.message().qos(), granted.min(published));
            }
        }
    }

    /// v3: MQTT-3.3.5-1 · v5: MQTT-3.3.4-2
    fn overlapping_subscriptions_give_the_highest_quality(version) {
        let topic = unique("overlap");
        let mut subscriber = Client::new(version, "subscriber");
        let (plus, hash) = (format!("{topic}/+"), format!("{topic}/#"));
        subscriber.subscribe(&[(&plus, 2), (&hash, 1), (&format!("{topic}/a"), 0)]);
        let mut publisher = Client::new(version, "publisher");
        publisher.publish(&Publish::new(&format!("{topic}/a"), "message").qos(2, 0));
        publisher.publish(&Publish::new(&format!("{topic}/a"), "end").qos(2, 0));
        let mut copies = vec![];
        loop {
            let message = subscriber.message();
            if message.text() == "end" {
                break;
            }
            copies.push(message.qos());
        }
        // One copy, or one a subscription.
        copies.sort_unstable();
        assert!(copies == [2] || copies == [0, 1, 2], "{copies:?}");
    }

    /// v3: MQTT-4.6.0-5, MQTT-4.6.0-6 · v5: MQTT-4.6.0-5, MQTT-4.6.0-6
    fn messages_keep_their_order(version) {
        let topic = unique("order");
        for qos in 0..3 {
            let (mut subscriber, mut publisher) = pair(version, &topic, qos);
            let sent: Vec<_> = (0..30).map(|n| format!("{qos}-{n}")).collect();
            for payload in &sent {
                publisher.publish(&Publish::new(&topic, payload).qos(qos, 0));
            }
            assert_eq!(subscriber.messages(sent.len()), sent);
        }
    }

    /// v3: MQTT-3.3.1-2, MQTT-3.3.1-3, MQTT-4.3.1-1 · v5: MQTT-3.3.1-2, MQTT-3.3.1-3, MQTT-4.3.1-1
    fn dup_is_not_passed_on(version) {
        let topic = unique("dup");
        let (mut subscriber, mut publisher) = pair(version, &topic, 2);
        for qos in 1..3 {
            publisher.publish(&Publish::new(&topic, "again").qos(qos, 77).dup());
            let message = subscriber.message();
            assert_eq!((message.text(), message.qos(), message.dup()), ("again", qos, false));
        }
        let (mut subscriber, _) = pair(version, &topic, 0);
        publisher.publish(&Publish::new(&topic, "again").qos(1, 78).dup());
        assert!(!subscriber.message().dup());
    }

    /// v3: MQTT-3.3.1-4 · v5: MQTT-3.3.1-4
    fn qos_3_ends_the_connection(version) {
        let packet = no_properties(version, Body::new().text(&unique("qos")).u16(1)).packet(0x36);
        ends(version, &packet, &[0x81, 0x82, 0x9B]);
    }

    /// v3: MQTT-2.3.1-1 · v5: MQTT-2.2.1-3
    fn a_packet_identifier_must_not_be_0(version) {
        let topic = unique("zero");
        for qos in 1..3 {
            let publish = Publish { qos, ..Publish::new(&topic, "") };
            ends(version, &publish.packet(version), &[0x81, 0x82]);
        }
        ends(version, &packet::subscribe(version, 0, &[(&topic, 0)], &[]), &[0x81, 0x82]);
        ends(version, &packet::unsubscribe(version, 0, &[&topic]), &[0x81, 0x82]);
    }

    /// v3: MQTT-3.3.2-2, MQTT-4.7.1-1 · v5: MQTT-3.3.2-2, MQTT-4.7.0-1
    fn a_topic_name_must_not_have_wildcards(version) {
        for name in ["wild/+", "wild/#", "#", "+", "wi+ld", "wild#"] {
            ends(version, &Publish::new(name, "").packet(version), &[0x81, 0x82, 0x90]);
        }
    }

    /// v3: MQTT-3.3.2-1 · v5: MQTT-3.3.2-1
    fn a_publish_must_have_a_whole_topic_name(version) {
        ends(version, &[0x30, 0], &[0x81, 0x82]);
        ends(version, &Body::new().u16(20).raw(b"short").packet(0x30), &[0x81, 0x82]);
        // No room for the packet identifier.
        ends(version, &Body::new().text("topic").packet(0x32), &[0x81, 0x82]);
    }

    /// v3: MQTT-3.3.5-2 · v5: MQTT-3.3.4-1
    fn a_publish_that_is_not_allowed_is_acknowledged_or_ends_the_connection(version) {
        for qos in 1..3 {
            let mut client = Client::new(version, "denied");
            client.send(&Publish::new("forbidden/a", "no").qos(qos, 5).packet(version));
            client.send(&[0xE0, 0]);
            let ack = if qos == 1 { Kind::PubAck } else { Kind::PubRec };
            for answer in client.until_closed() {
                assert!(answer.kind() == Kind::Disconnect || (answer.kind(), answer.id()) == (ack, 5));
            }
        }
    }
}
