//! UNSUBSCRIBE and UNSUBACK (sections 3.10 and 3.11 of both versions).

use crate::prelude::*;

judged! {
    /// v3: MQTT-3.10.4-4, MQTT-3.10.4-5, MQTT-2.3.1-7 · v5: MQTT-3.10.4-4, MQTT-3.10.4-5, MQTT-2.2.1-6
    fn an_unsuback_comes_whether_there_was_a_subscription_or_not(version) {
        let topic = unique("ack");
        let mut client = Client::new(version, "ack");
        client.subscribe(&[(&topic, 0)]);
        for id in [1, 256, 65_535] {
            client.send(&packet::unsubscribe(version, id, &[&topic]));
            client.expect_ack(Kind::UnsubAck, id);
        }
    }

    /// v3: MQTT-3.10.4-2, MQTT-3.10.4-6 · v5: MQTT-3.10.4-2, MQTT-3.10.4-6
    fn nothing_comes_any_more_for_what_was_unsubscribed(version) {
        let topic = unique("gone");
        let names: Vec<_> = (0..3).map(|n| format!("{topic}/{n}")).collect();
        let mut client = Client::new(version, "gone");
        client.subscribe(&[(&names[0], 2), (&names[1], 1), (&names[2], 0)]);
        client.unsubscribe(&[&names[0], &names[2]]);
        for name in &names {
            client.publish(&Publish::new(name, name).qos(2, 0));
        }
        assert_eq!(client.message().text(), names[1]);
        client.expect_nothing();
    }

    /// v3: MQTT-3.10.4-1 · v5: MQTT-3.10.4-1
    fn only_the_very_same_filter_is_unsubscribed(version) {
        let topic = unique("exact");
        let (plus, upper) = (format!("{topic}/+"), topic.to_uppercase());
        let mut client = Client::new(version, "exact");
        client.subscribe(&[(&plus, 0), (&format!("{topic}/a"), 0), (&upper, 0)]);
        client.unsubscribe(&[&format!("{topic}/#"), &format!("{topic}/b"), &topic, "#", "+"]);
        client.publish(&Publish::new(&format!("{topic}/b"), "plus"));
        assert_eq!(client.message().text(), "plus");
        client.unsubscribe(&[&plus]);
        client.publish(&Publish::new(&format!("{topic}/b"), "nobody"));
        client.publish(&Publish::new(&format!("{topic}/a"), "a"));
        client.publish(&Publish::new(&upper, "upper"));
        assert_eq!(client.messages(2), ["a", "upper"]);
    }

    /// v3: MQTT-3.10.4-3 · v5: MQTT-3.10.4-3
    fn a_delivery_that_was_begun_is_completed(version) {
        let topic = unique("begun");
        let (mut subscriber, mut publisher) = pair(version, &topic, 2);
        publisher.publish(&Publish::new(&topic, "m").qos(2, 0));
        let id = subscriber.expect(Kind::Publish).id();
        subscriber.unsubscribe(&[&topic]);
        subscriber.send(&packet::ack(0x50, id));
        subscriber.expect_ack(Kind::PubRel, id);
        subscriber.send(&packet::ack(0x70, id));
        subscriber.expect_nothing();
    }

    /// v3: MQTT-3.10.1-1 · v5: MQTT-3.10.1-1
    fn an_unsubscribe_with_other_flags_ends_the_connection(version) {
        let mut packet = packet::unsubscribe(version, 1, &["flags"]);
        for first in [0xA0, 0xA1, 0xA3, 0xAA] {
            packet[0] = first;
            ends(version, &packet, &[0x81]);
        }
    }

    /// v3: MQTT-3.10.3-2 · v5: MQTT-3.10.3-2
    fn an_unsubscribe_without_a_filter_ends_the_connection(version) {
        ends(version, &packet::unsubscribe(version, 1, &[]), &[0x81, 0x82]);
    }

    /// v5: MQTT-3.11.3-1, MQTT-3.11.3-2
    fn each_filter_has_its_code_in_the_order_of_the_filters(version = V5) {
        let topic = unique("codes");
        let (a, b, c) = (format!("{topic}/a"), format!("{topic}/b"), format!("{topic}/c"));
        let mut client = Client::new(version, "codes");
        client.subscribe(&[(&a, 0), (&c, 0)]);
        assert_eq!(client.unsubscribe(&[&a, &b, &c, &a]), [0, 0x11, 0, 0x11]);
    }
}
