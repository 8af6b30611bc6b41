//! SUBSCRIBE and SUBACK (sections 3.8 and 3.9 of both versions).

use crate::prelude::*;

const NO_LOCAL: u8 = 4;

judged! {
    /// v3: MQTT-3.8.4-1, MQTT-3.8.4-2, MQTT-2.3.1-7 · v5: MQTT-3.8.4-1, MQTT-3.8.4-2, MQTT-2.2.1-6
    fn a_suback_has_the_identifier_of_its_subscribe(version) {
        let topic = unique("id");
        let mut client = Client::new(version, "id");
        for id in [1, 256, 65_535] {
            client.send(&packet::subscribe(version, id, &[(&topic, 1)], &[]));
            client.expect_ack(Kind::SubAck, id);
        }
    }

    /// v3: MQTT-3.8.4-4, MQTT-3.8.4-5, MQTT-3.9.3-1, MQTT-3.9.3-2 · v5: MQTT-3.8.4-5, MQTT-3.8.4-6, MQTT-3.8.4-7, MQTT-3.9.3-1
    fn each_filter_has_its_code_in_the_order_of_the_filters(version) {
        let topic = unique("codes");
        let filters: Vec<_> = (0..6).map(|n| format!("{topic}/{n}")).collect();
        let wanted: Vec<_> = filters.iter().map(String::as_str).zip([2, 0, 1, 1, 0, 2]).collect();
        let mut client = Client::new(version, "codes");
        assert_eq!(client.subscribe(&wanted), [2, 0, 1, 1, 0, 2]);
        for (filter, qos) in wanted {
            client.publish(&Publish::new(filter, filter).qos(2, 0));
            let message = client.message();
            assert_eq!((message.text(), message.qos()), (filter, qos));
        }
    }

    /// v3: MQTT-3.8.4-5, MQTT-3.9.3-2 · v5: MQTT-3.8.4-7, MQTT-3.9.3-2
    fn a_filter_that_is_not_granted_leaves_the_others_alone(version) {
        let topic = unique("partly");
        let mut client = Client::new(version, "partly");
        let codes = client.subscribe(&[(&topic, 1), ("forbidden/#", 2), (&format!("{topic}/b"), 0)]);
        assert_eq!((codes.len(), codes[0], codes[2]), (3, 1, 0), "{codes:x?}");
        if Broker::get().is_ours() {
            assert_eq!(codes[1], if version == V3 { 0x80 } else { 0x87 });
        }
        client.publish(&Publish::new(&topic, "m"));
        while client.message().topic != topic {}
    }

    /// v3: MQTT-3.8.1-1 · v5: MQTT-3.8.1-1
    fn a_subscribe_with_other_flags_ends_the_connection(version) {
        let mut packet = packet::subscribe(version, 1, &[("flags", 0)], &[]);
        for first in [0x80, 0x81, 0x83, 0x8A] {
            packet[0] = first;
            ends(version, &packet, &[0x81]);
        }
    }

    /// v3: MQTT-3.8.3-3 · v5: MQTT-3.8.3-2
    fn a_subscribe_without_a_filter_ends_the_connection(version) {
        ends(version, &packet::subscribe(version, 1, &[], &[]), &[0x81, 0x82]);
    }

    /// v3: MQTT-3.8.3-4 · v5: MQTT-3.8.3-5
    fn reserved_bits_and_qos_3_end_the_connection(version) {
        let wrong: &[u8] = match version {
            V3 => &[3, 4, 8, 16, 32, 64, 128],
            V5 => &[3, 64, 128, 0b0011_0000],
        };
        for options in wrong {
            let packet = packet::subscribe(version, 1, &[("bits", *options)], &[]);
            ends(version, &packet, &[0x81, 0x82]);
        }
    }

    /// v3: MQTT-3.8.4-3 · v5: MQTT-3.8.4-3, MQTT-3.8.4-4
    fn the_same_filter_again_replaces_the_subscription(version) {
        let topic = unique("replace");
        let mut client = Client::new(version, "replace");
        client.publish(&Publish::new(&topic, "retained").qos(1, 0).retained());
        for qos in [0, 1, 0] {
            client.subscribe(&[(&topic, qos)]);
            let retained = client.message();
            assert_eq!((retained.text(), retained.qos(), retained.retain()), ("retained", qos, true));
        }
        client.subscribe(&[(&topic, 1)]);
        assert_eq!(client.message().text(), "retained");
        client.publish(&Publish::new(&topic, "live").qos(2, 0));
        let live = client.message();
        assert_eq!((live.text(), live.qos(), live.retain()), ("live", 1, false));
        client.expect_nothing();
        client.publish(&Publish::new(&topic, "").retained());
    }

    /// v5: MQTT-3.8.3-3
    fn no_local_keeps_a_clients_own_messages_from_it(version = V5) {
        let topic = unique("local");
        let connect = Connect::new(version, &unique("local")).persistent();
        let mut client = Client::connect(&connect);
        let mut other = Client::new(version, "other");
        client.subscribe(&[(&topic, 2 | NO_LOCAL), (&format!("{topic}/+"), 2)]);
        client.publish(&Publish::new(&topic, "own").qos(1, 0));
        client.publish(&Publish::new(&format!("{topic}/a"), "without the option").qos(1, 0));
        other.publish(&Publish::new(&topic, "of another").qos(1, 0));
        assert_eq!(client.messages(2), ["without the option", "of another"]);
        client.disconnect();
        // It is the session's option, not the connection's.
        let mut client = Client::connect(&connect);
        client.publish(&Publish::new(&topic, "own").qos(1, 0));
        client.expect_nothing();
    }

    /// v5: MQTT-3.8.3-3
    fn no_local_holds_for_retained_messages_too(version = V5) {
        let topic = unique("local");
        let id = unique("local");
        let mut client = Client::connect(&Connect::new(version, &id));
        client.publish(&Publish::new(&format!("{topic}/a"), "own").qos(1, 0).retained());
        client.disconnect();
        let mut other = Client::new(version, "other");
        other.publish(&Publish::new(&format!("{topic}/b"), "of another").qos(1, 0).retained());
        // It is the client that counts, not the connection.
        let mut client = Client::connect(&Connect::new(version, &id));
        client.subscribe(&[(&format!("{topic}/+"), NO_LOCAL)]);
        assert_eq!(client.messages(1), ["of another"]);
        client.expect_nothing();
    }

    /// v5: MQTT-3.3.4-3, MQTT-3.3.4-4, MQTT-3.3.4-5
    fn a_message_has_the_identifiers_of_the_subscriptions_that_match(version = V5) {
        let topic = unique("identified");
        let mut client = Client::new(version, "identified");
        let (plus, hash) = (format!("{topic}/+"), format!("{topic}/#"));
        client.subscribe_with(&[(&plus, 1)], &[Prop::SubscriptionId(1)]);
        client.subscribe_with(&[(&hash, 1)], &[Prop::SubscriptionId(268_435_455)]);
        client.subscribe_with(&[(&format!("{topic}/c"), 1)], &[]);
        let mut identifiers_of = |name: &str| {
            client.publish(&Publish::new(&format!("{topic}/{name}"), "m").qos(1, 0));
            client.publish(&Publish::new(&format!("{topic}/end/end"), "end").qos(1, 0));
            let mut found = vec![];
            loop {
                let message = client.message();
                if message.text() == "end" {
                    found.sort_unstable();
                    return found;
                }
                found.extend(message.properties.iter().filter_map(|property| match property {
                    Prop::SubscriptionId(id) => Some(*id),
                    _ => None,
                }));
            }
        };
        assert_eq!(identifiers_of("a"), [1, 268_435_455]);
        assert_eq!(identifiers_of("a/b"), [268_435_455]);
        assert_eq!(identifiers_of("c"), [1, 268_435_455]);
    }

    /// v5: MQTT-3.8.4-3
    fn a_subscription_that_is_replaced_has_its_new_identifier(version = V5) {
        let topic = unique("renamed");
        let mut client = Client::new(version, "renamed");
        for (properties, expected) in [
            (vec![Prop::SubscriptionId(5)], Some(5)),
            (vec![Prop::SubscriptionId(6)], Some(6)),
            (vec![], None),
        ] {
            client.subscribe_with(&[(&topic, 0)], &properties);
            client.publish(&Publish::new(&topic, "m"));
            let identifier = client.message().find(|property| match property {
                Prop::SubscriptionId(id) => Some(*id),
                _ => None,
            });
            assert_eq!(identifier, expected);
        }
    }

    /// v5: MQTT-4.13.1-1
    fn a_subscription_identifier_is_not_0_and_comes_once(version = V5) {
        for properties in [vec![0], vec![1, 2]] {
            let properties: Vec<_> = properties.into_iter().map(Prop::SubscriptionId).collect();
            let packet = packet::subscribe(version, 1, &[("identified", 0)], &properties);
            ends(version, &packet, &[0x81, 0x82]);
        }
    }

    /// v5: MQTT-3.3.4-6
    fn a_client_must_not_publish_with_a_subscription_identifier(version = V5) {
        let publish = Publish::new(&unique("identified"), "m").with(Prop::SubscriptionId(1));
        ends(version, &publish.packet(version), &[0x81, 0x82]);
    }

    /// v3: MQTT-3.8.4-4, MQTT-3.8.4-3 · v5: MQTT-3.8.4-5, MQTT-3.8.4-3
    fn a_filter_that_is_twice_in_a_packet_is_replaced_by_its_last(version) {
        let topic = unique("double");
        let mut client = Client::new(version, "double");
        assert_eq!(client.subscribe(&[(&topic, 2), (&topic, 0), (&topic, 1)]), [2, 0, 1]);
        client.publish(&Publish::new(&topic, "m").qos(2, 0));
        assert_eq!(client.message().qos(), 1);
        client.expect_nothing();
    }

    /// v5: MQTT-3.8.3-3, MQTT-3.3.4-3
    fn no_local_of_one_subscription_is_not_that_of_another(version = V5) {
        let topic = unique("local");
        let mut client = Client::new(version, "local");
        let (name, plus) = (format!("{topic}/a"), format!("{topic}/+"));
        client.subscribe_with(&[(&name, 2 | NO_LOCAL)], &[Prop::SubscriptionId(1)]);
        client.subscribe_with(&[(&plus, 1)], &[Prop::SubscriptionId(2)]);
        client.publish(&Publish::new(&name, "own").qos(2, 0));
        let message = client.message();
        assert_eq!((message.text(), message.qos()), ("own", 1));
        assert_eq!(message.properties, [Prop::SubscriptionId(2)]);
        client.expect_nothing();
    }

    /// v5: MQTT-3.3.4-3
    fn retained_messages_and_those_that_waited_have_identifiers_too(version = V5) {
        let topic = unique("identified");
        let connect = Connect::new(version, &unique("identified")).persistent();
        let mut client = Client::connect(&connect);
        publish(version, &Publish::new(&topic, "retained").qos(1, 0).retained());
        client.subscribe_with(&[(&topic, 1)], &[Prop::SubscriptionId(77)]);
        let retained = client.message();
        client.disconnect();
        publish(version, &Publish::new(&topic, "").qos(1, 0).retained());
        let waited = Client::connect(&connect).message();
        for (message, text) in [(retained, "retained"), (waited, "")] {
            assert_eq!((message.text(), &message.properties[..]), (text, &[Prop::SubscriptionId(77)][..]));
        }
    }
}
