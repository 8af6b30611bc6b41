//! Exactly once (section 4.3.3 of both versions).

use crate::prelude::*;

judged! {
    /// v3: MQTT-4.3.3-1 · v5: MQTT-4.3.3-1, MQTT-4.3.3-2, MQTT-4.3.3-4, MQTT-3.6.2-1
    fn a_message_goes_out_in_four_steps(version) {
        let topic = unique("out");
        let (mut subscriber, mut publisher) = pair(version, &topic, 2);
        publisher.publish(&Publish::new(&topic, "m").qos(2, 0));
        let message = subscriber.expect(Kind::Publish);
        assert_eq!((message.qos(), message.dup()), (2, false));
        // Not before it is asked for.
        subscriber.expect_nothing();
        subscriber.send(&packet::ack(0x50, message.id()));
        assert_eq!(subscriber.expect_ack(Kind::PubRel, message.id()).reason(), 0);
        subscriber.send(&packet::ack(0x70, message.id()));
        subscriber.expect_nothing();
    }

    /// v3: MQTT-2.3.1-6, MQTT-4.3.3-2 · v5: MQTT-2.2.1-5, MQTT-4.3.3-8, MQTT-4.3.3-11, MQTT-3.5.2-1, MQTT-3.7.2-1
    fn a_message_comes_in_in_four_steps(version) {
        let topic = unique("in");
        let mut client = Client::new(version, "in");
        for id in [1, 256, 65_535] {
            client.send(&Publish::new(&topic, "m").qos(2, id).packet(version));
            assert!(client.expect_ack(Kind::PubRec, id).reason() < 0x80);
        }
        for id in [256, 65_535, 1] {
            client.send(&packet::ack(0x62, id));
            assert_eq!(client.expect_ack(Kind::PubComp, id).reason(), 0);
        }
    }

    /// v3: MQTT-4.3.3-2 · v5: MQTT-4.3.3-10
    fn a_publish_that_comes_twice_is_delivered_once(version) {
        let topic = unique("twice");
        let (mut subscriber, mut publisher) = pair(version, &topic, 2);
        let message = Publish::new(&topic, "once").qos(2, 33);
        let again = message.clone().dup();
        for message in [message, again.clone(), again] {
            publisher.send(&message.packet(version));
            publisher.expect_ack(Kind::PubRec, 33);
        }
        publisher.send(&packet::ack(0x62, 33));
        publisher.expect_ack(Kind::PubComp, 33);
        assert_eq!(subscriber.message().text(), "once");
        subscriber.expect_nothing();
    }

    /// v3: MQTT-4.3.3-2, MQTT-3.1.2-4 · v5: MQTT-4.3.3-10, MQTT-3.1.2-5
    fn a_publish_that_comes_again_after_a_reconnect_is_delivered_once(version) {
        let topic = unique("reconnect");
        let mut subscriber = Client::new(version, "subscriber");
        subscriber.subscribe(&[(&topic, 2)]);
        let connect = Connect::new(version, &unique("publisher")).persistent();
        let mut publisher = Client::connect(&connect);
        let message = Publish::new(&topic, "once").qos(2, 34);
        publisher.send(&message.packet(version));
        publisher.expect_ack(Kind::PubRec, 34);
        publisher.cut();
        let mut publisher = Client::connect(&connect);
        publisher.send(&message.dup().packet(version));
        publisher.expect_ack(Kind::PubRec, 34);
        publisher.send(&packet::ack(0x62, 34));
        publisher.expect_ack(Kind::PubComp, 34);
        assert_eq!(subscriber.message().text(), "once");
        subscriber.expect_nothing();
    }

    /// v3: MQTT-4.3.3-2 · v5: MQTT-4.3.3-12
    fn an_identifier_that_is_through_is_a_new_message(version) {
        let topic = unique("reuse");
        let (mut subscriber, mut publisher) = pair(version, &topic, 2);
        publisher.publish(&Publish::new(&topic, "first").qos(2, 35));
        publisher.publish(&Publish::new(&topic, "second").qos(2, 35));
        publisher.publish(&Publish::new(&topic, "third").qos(2, 35).dup());
        assert_eq!(subscriber.messages(3), ["first", "second", "third"]);
    }

    /// v3: MQTT-4.3.3-2 · v5: MQTT-4.3.3-11, MQTT-3.7.2-1
    fn a_pubrel_for_what_is_not_there_is_answered(version) {
        let mut client = Client::new(version, "unknown");
        client.send(&packet::ack(0x62, 4_711));
        let reason = client.expect_ack(Kind::PubComp, 4_711).reason();
        if version == V5 {
            assert_eq!(reason, 0x92);
        }
    }

    /// v5: MQTT-3.6.2-1
    fn a_pubrec_for_what_is_not_there_is_answered(version = V5) {
        let mut client = Client::new(version, "unknown");
        client.send(&packet::ack(0x50, 4_712));
        assert_eq!(client.expect_ack(Kind::PubRel, 4_712).reason(), 0x92);
    }

    /// v3: MQTT-4.3.3-1, MQTT-4.4.0-1 · v5: MQTT-4.3.3-3, MQTT-4.4.0-1
    fn a_publish_without_its_pubrec_is_sent_again(version) {
        let topic = unique("publish");
        let connect = absent(version, &topic, 2);
        let mut client = Client::connect(&connect);
        publish(version, &Publish::new(&topic, "m").qos(2, 0));
        let id = client.expect(Kind::Publish).id();
        client.cut();
        let mut client = Client::connect(&connect);
        let again = client.message();
        assert_eq!((again.text(), again.id(), again.dup()), ("m", id, true));
        client.expect_nothing();
        client.disconnect();
        Client::connect(&connect).expect_nothing();
    }

    /// v3: MQTT-4.3.3-1, MQTT-4.4.0-1 · v5: MQTT-4.3.3-5, MQTT-4.3.3-6, MQTT-4.4.0-1
    fn a_pubrel_without_its_pubcomp_is_sent_again_and_its_publish_is_not(version) {
        let topic = unique("pubrel");
        let connect = absent(version, &topic, 2);
        let mut client = Client::connect(&connect);
        publish(version, &Publish::new(&topic, "m").qos(2, 0));
        let id = client.expect(Kind::Publish).id();
        client.send(&packet::ack(0x50, id));
        client.expect_ack(Kind::PubRel, id);
        client.cut();
        let mut client = Client::connect(&connect);
        client.expect_ack(Kind::PubRel, id);
        client.send(&packet::ack(0x70, id));
        client.expect_nothing();
        client.disconnect();
        Client::connect(&connect).expect_nothing();
    }

    /// v5: MQTT-4.3.3-9
    fn an_identifier_whose_publish_was_refused_is_a_new_message(version = V5) {
        let topic = unique("refused");
        let (mut subscriber, mut publisher) = pair(version, &topic, 2);
        publisher.send(&Publish::new("forbidden/a", "no").qos(2, 36).packet(version));
        let refused = publisher.expect_ack(Kind::PubRec, 36).reason();
        if refused < 0x80 {
            // This server takes anything.
            publisher.send(&packet::ack(0x62, 36));
            publisher.expect_ack(Kind::PubComp, 36);
        }
        publisher.publish(&Publish::new(&topic, "yes").qos(2, 36));
        assert_eq!(subscriber.message().text(), "yes");
    }

    /// v3: MQTT-3.6.1-1 · v5: MQTT-3.6.1-1
    fn a_pubrel_with_other_flags_ends_the_connection(version) {
        for first in [0x60, 0x61, 0x63, 0x66, 0x6A] {
            ends(version, &packet::ack(first, 1), &[0x81]);
        }
    }

    /// v3: MQTT-3.1.2-6 · v5: MQTT-3.1.2-4
    fn a_clean_start_forgets_what_its_client_had_begun(version) {
        let topic = unique("begun");
        let mut subscriber = Client::new(version, "subscriber");
        subscriber.subscribe(&[(&topic, 2)]);
        let connect = Connect::new(version, &unique("publisher")).persistent();
        let mut publisher = Client::connect(&connect);
        publisher.send(&Publish::new(&topic, "first").qos(2, 40).packet(version));
        publisher.expect_ack(Kind::PubRec, 40);
        publisher.cut();
        let mut publisher = Client::connect(&Connect { clean: true, ..connect });
        publisher.publish(&Publish::new(&topic, "second").qos(2, 40));
        // A server may deliver the first with its PUBREC, or never without its PUBREL.
        while subscriber.message().text() != "second" {}
    }
}
