//! At least once (section 4.3.2 of both versions), and what is sent again (4.4).

use crate::prelude::*;

judged! {
    /// v3: MQTT-2.3.1-6, MQTT-4.3.2-2 · v5: MQTT-2.2.1-5, MQTT-4.3.2-4, MQTT-3.4.2-1
    fn a_puback_has_the_identifier_of_its_publish(version) {
        let topic = unique("id");
        let mut client = Client::new(version, "id");
        for id in [1, 2, 255, 256, 65_535] {
            client.send(&Publish::new(&topic, "m").qos(1, id).packet(version));
            assert!(client.expect_ack(Kind::PubAck, id).reason() < 0x80);
        }
    }

    /// v3: MQTT-4.6.0-6 · v5: MQTT-4.3.2-4
    fn pubacks_come_in_the_order_of_their_publishes(version) {
        let topic = unique("acks");
        let mut client = Client::new(version, "acks");
        let ids: Vec<_> = (1..=15).rev().collect();
        let all: Vec<_> = ids.iter().map(|id| Publish::new(&topic, "m").qos(1, *id).packet(version)).collect();
        client.send(&all.concat());
        for id in ids {
            client.expect_ack(Kind::PubAck, id);
        }
    }

    /// v3: MQTT-4.3.2-2 · v5: MQTT-4.3.2-5
    fn an_identifier_that_was_acknowledged_is_a_new_message(version) {
        let topic = unique("reuse");
        let (mut subscriber, mut publisher) = pair(version, &topic, 1);
        publisher.publish(&Publish::new(&topic, "first").qos(1, 9));
        publisher.publish(&Publish::new(&topic, "second").qos(1, 9));
        publisher.publish(&Publish::new(&topic, "third").qos(1, 9).dup());
        assert_eq!(subscriber.messages(3), ["first", "second", "third"]);
    }

    /// v3: MQTT-4.3.2-1, MQTT-2.3.1-4 · v5: MQTT-4.3.2-1, MQTT-4.3.2-2, MQTT-2.2.1-4
    fn messages_that_wait_for_their_acks_have_different_identifiers(version) {
        let topic = unique("ids");
        let (mut subscriber, mut publisher) = pair(version, &topic, 2);
        for n in 0..10 {
            publisher.publish(&Publish::new(&topic, "m").qos(1 + n % 2, 0));
        }
        let mut ids: Vec<_> = (0..10)
            .map(|_| {
                let message = subscriber.expect(Kind::Publish);
                assert!(!message.dup());
                message.id()
            })
            .collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 10);
    }

    /// v3: MQTT-3.3.1-1, MQTT-4.4.0-1, MQTT-2.3.1-4 · v5: MQTT-3.3.1-1, MQTT-4.3.2-3, MQTT-4.4.0-1
    fn what_was_not_acknowledged_is_sent_again_with_the_same_identifier(version) {
        let topic = unique("again");
        let connect = absent(version, &topic, 1);
        let mut client = Client::connect(&connect);
        for n in 0..5 {
            publish(version, &Publish::new(&topic, &n.to_string()).qos(1, 0));
        }
        let sent: Vec<_> = (0..5).map(|_| client.expect(Kind::Publish)).collect();
        // In any order: it is the third that is through.
        client.send(&packet::ack(0x40, sent[2].id()));
        client.expect_nothing();
        client.cut();

        let (mut client, ack) = Client::connected(&connect);
        assert!(ack.session_present);
        for first in [&sent[0], &sent[1], &sent[3], &sent[4]] {
            let again = client.message();
            assert_eq!((again.text(), again.id(), again.dup()), (first.text(), first.id(), true));
        }
        client.expect_nothing();
        client.disconnect();
        Client::connect(&connect).expect_nothing();
    }

    /// v3: MQTT-4.4.0-1 · v5: MQTT-4.4.0-1
    fn nothing_is_sent_again_on_the_same_connection(version) {
        let topic = unique("patient");
        let (mut subscriber, mut publisher) = pair(version, &topic, 2);
        publisher.publish(&Publish::new(&topic, "1").qos(1, 0));
        publisher.publish(&Publish::new(&topic, "2").qos(2, 0));
        subscriber.expect(Kind::Publish);
        let second = subscriber.expect(Kind::Publish);
        subscriber.send(&packet::ack(0x50, second.id()));
        subscriber.expect_ack(Kind::PubRel, second.id());
        std::thread::sleep(std::time::Duration::from_secs(1));
        subscriber.expect_nothing();
    }

    /// v5: MQTT-4.4.0-2
    fn what_a_client_refused_is_not_sent_again(version = V5) {
        let topic = unique("refused");
        let connect = absent(version, &topic, 2);
        let mut client = Client::connect(&connect);
        for qos in 1..3 {
            publish(version, &Publish::new(&topic, "no").qos(qos, 0));
            let id = client.expect(Kind::Publish).id();
            let ack = if qos == 1 { 0x40 } else { 0x50 };
            client.send(&Body::new().u16(id).u8(0x83).properties(&[]).packet(ack));
        }
        // No PUBREL for the second.
        client.expect_nothing();
        client.disconnect();
        Client::connect(&connect).expect_nothing();
    }

    /// v3: MQTT-4.3.2-2 · v5: MQTT-4.3.2-4
    fn an_ack_that_nobody_waits_for_does_no_harm(version) {
        let topic = unique("stray");
        let (mut subscriber, mut publisher) = pair(version, &topic, 1);
        subscriber.send(&packet::ack(0x40, 4_321));
        publisher.publish(&Publish::new(&topic, "m").qos(1, 0));
        assert_eq!(subscriber.message().text(), "m");
        subscriber.expect_nothing();
    }

    /// v3: MQTT-4.6.0-6, MQTT-4.4.0-1 · v5: MQTT-4.6.0-5, MQTT-4.4.0-1
    fn what_is_sent_again_comes_before_what_has_waited(version) {
        let topic = unique("before");
        let connect = absent(version, &topic, 2);
        for qos in 1..3 {
            let mut client = Client::connect(&connect);
            for payload in ["0", "1"] {
                publish(version, &Publish::new(&topic, payload).qos(qos, 0));
                client.expect(Kind::Publish);
            }
            client.cut();
            for payload in ["2", "3"] {
                publish(version, &Publish::new(&topic, payload).qos(qos, 0));
            }
            let mut client = Client::connect(&connect);
            let found: Vec<_> = (0..4).map(|_| client.message()).collect();
            let texts: Vec<_> = found.iter().map(Received::text).collect();
            let dups: Vec<_> = found.iter().map(Received::dup).collect();
            assert_eq!((texts, dups), (vec!["0", "1", "2", "3"], vec![true, true, false, false]));
            client.disconnect();
        }
    }

    /// v3: MQTT-4.4.0-1, MQTT-3.1.4-2 · v5: MQTT-4.4.0-1, MQTT-3.1.4-3
    fn who_takes_a_session_over_is_sent_what_the_first_has_not_acknowledged(version) {
        let topic = unique("over");
        let connect = absent(version, &topic, 1);
        let mut first = Client::connect(&connect);
        publish(version, &Publish::new(&topic, "m").qos(1, 0));
        let id = first.expect(Kind::Publish).id();
        let mut second = Client::connect(&connect);
        let again = second.message();
        assert_eq!((again.text(), again.id(), again.dup()), ("m", id, true));
        first.expect_closed();
        second.expect_nothing();
    }

    /// v3: MQTT-4.3.2-2
    fn every_publish_of_a_burst_is_acknowledged(version = V3) {
        let topic = unique("burst");
        let mut client = Client::new(version, "burst");
        let all: Vec<_> = (1..=5_000).map(|id| Publish::new(&topic, "m").qos(1, id).packet(version)).collect();
        client.send(&all.concat());
        for id in 1..=5_000 {
            client.expect_ack(Kind::PubAck, id);
        }
    }
}
