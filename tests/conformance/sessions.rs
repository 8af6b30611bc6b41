//! What a session holds, and how long (sections 3.1.2.4 and 4.1 of both versions).

use std::time::Duration;

use crate::prelude::*;

judged! {
    /// v3: MQTT-3.1.2-4, MQTT-3.1.2-5, MQTT-4.1.0-1 · v5: MQTT-3.1.2-5, MQTT-3.1.2-23, MQTT-4.5.0-1
    fn messages_wait_for_a_client_that_is_away(version) {
        let topic = unique("away");
        let connect = absent(version, &topic, 2);
        for n in 0..20 {
            publish(version, &Publish::new(&topic, &n.to_string()).qos(1 + n % 2, 0));
        }
        let (mut client, ack) = Client::connected(&connect);
        assert!(ack.session_present);
        let mut found = vec![];
        for _ in 0..20 {
            let message = client.message();
            assert!(!message.dup() && !message.retain());
            found.push((message.text().parse::<u8>().expect("a number"), message.qos()));
        }
        // In order at each quality.
        for qos in 1..3 {
            let numbers: Vec<_> = found.iter().filter(|(_, q)| *q == qos).map(|(n, _)| *n).collect();
            assert_eq!(numbers, (0..20).filter(|n| 1 + n % 2 == qos).collect::<Vec<_>>());
        }
        client.expect_nothing();
        client.disconnect();
        Client::connect(&connect).expect_nothing();
    }

    /// v3: MQTT-3.1.2-4 · v5: MQTT-3.1.2-5
    fn subscriptions_are_there_when_their_client_is_back(version) {
        let topic = unique("back");
        let connect = absent(version, &topic, 1);
        let (mut client, ack) = Client::connected(&connect);
        assert!(ack.session_present);
        publish(version, &Publish::new(&topic, "live").qos(1, 0));
        let message = client.message();
        assert_eq!((message.text(), message.qos()), ("live", 1));
        client.unsubscribe(&[&topic]);
        client.disconnect();
        publish(version, &Publish::new(&topic, "unsubscribed").qos(1, 0));
        Client::connect(&connect).expect_nothing();
    }

    /// v3: MQTT-3.1.2-4 · v5: MQTT-3.1.2-5
    fn a_session_outlives_a_connection_that_breaks_or_is_taken_over(version) {
        let topic = unique("breaks");
        let connect = absent(version, &topic, 1);
        let mut first = Client::connect(&connect);
        let (second, ack) = Client::connected(&connect);
        assert!(ack.session_present);
        first.expect_closed();
        second.cut();
        publish(version, &Publish::new(&topic, "m").qos(1, 0));
        let (mut third, ack) = Client::connected(&connect);
        assert!(ack.session_present);
        assert_eq!(third.message().text(), "m");
    }

    /// v3: MQTT-3.1.2-6, MQTT-3.1.4-3 · v5: MQTT-3.1.2-4, MQTT-3.1.4-4
    fn a_clean_start_drops_subscriptions_and_what_waited(version) {
        let topic = unique("clean");
        let connect = absent(version, &topic, 1);
        publish(version, &Publish::new(&topic, "waits").qos(1, 0));
        let (mut client, ack) = Client::connected(&Connect { clean: true, ..connect.clone() });
        assert!(!ack.session_present);
        publish(version, &Publish::new(&topic, "live").qos(1, 0));
        client.expect_nothing();
        client.disconnect();
        Client::connect(&connect).expect_nothing();
    }

    /// v3: MQTT-3.1.2-6 · v5: MQTT-4.1.0-2
    fn a_session_that_is_not_kept_ends_with_its_connection(version) {
        let topic = unique("not-kept");
        let id = unique("not-kept");
        let mut client = Client::connect(&Connect::new(version, &id));
        client.subscribe(&[(&topic, 1)]);
        client.disconnect();
        publish(version, &Publish::new(&topic, "lost").qos(1, 0));
        let (mut client, ack) = Client::connected(&Connect::new(version, &id).persistent());
        assert!(!ack.session_present);
        client.expect_nothing();
    }

    /// v3: MQTT-3.1.2-4 · v5: MQTT-3.1.2-6
    fn a_session_is_made_when_there_is_none(version) {
        let topic = unique("made");
        let connect = Connect::new(version, &unique("made")).persistent();
        let (mut client, ack) = Client::connected(&connect);
        assert!(!ack.session_present);
        client.subscribe(&[(&topic, 0)]);
        publish(version, &Publish::new(&topic, "m"));
        assert_eq!(client.message().text(), "m");
    }

    /// v3: MQTT-3.1.3-2 · v5: MQTT-3.1.3-2
    fn each_client_id_has_its_own_session(version) {
        let topic = unique("own");
        let (first, second) = (absent(version, &format!("{topic}/1"), 1), absent(version, &format!("{topic}/2"), 1));
        let upper = Connect { client_id: first.client_id.to_uppercase(), ..first.clone() };
        publish(version, &Publish::new(&format!("{topic}/2"), "second's").qos(1, 0));
        Client::connect(&first).expect_nothing();
        assert!(!Client::connected(&upper).1.session_present, "client ids differ by case");
        assert_eq!(Client::connect(&second).message().text(), "second's");
    }

    /// v3: MQTT-4.1.0-2 · v5: MQTT-4.1.0-1
    fn a_session_lasts_as_long_as_its_connection(version) {
        let topic = unique("lasts");
        let (mut subscriber, mut publisher) = pair(version, &topic, 0);
        std::thread::sleep(Duration::from_millis(1_200));
        publisher.publish(&Publish::new(&topic, "m"));
        assert_eq!(subscriber.message().text(), "m");
    }

    /// v5: MQTT-3.1.2-23
    fn a_clean_start_with_an_expiry_begins_a_session_that_is_kept(version = V5) {
        let connect = Connect::new(version, &unique("kept")).with(Prop::SessionExpiry(60));
        Client::connect(&connect).disconnect();
        assert!(Client::connected(&Connect { clean: false, ..connect }).1.session_present);
    }

    /// v5: MQTT-4.1.0-2
    fn a_disconnect_can_end_or_shorten_the_session(version = V5) {
        let connect = Connect::new(version, &unique("shorter")).persistent();
        let mut client = Client::connect(&connect);
        client.send(&packet::disconnect(0, &[Prop::SessionExpiry(0)]));
        client.expect_closed();
        assert!(!Client::connected(&connect).1.session_present);
    }

    /// v5: MQTT-4.13.1-1
    fn a_disconnect_cannot_keep_a_session_that_was_not_to_be_kept(version = V5) {
        let id = unique("longer");
        let mut client = Client::connect(&Connect::new(version, &id));
        client.send(&packet::disconnect(0, &[Prop::SessionExpiry(60)]));
        assert!(client.expect_closed().is_none_or(|reason| reason == 0x82));
        assert!(!Client::connected(&Connect::new(version, &id).persistent()).1.session_present);
    }

    /// v3: MQTT-3.1.3-2 · v5: MQTT-3.1.3-2
    fn a_session_is_the_same_whatever_version_its_client_speaks(version) {
        let topic = unique("version");
        let connect = absent(version, &topic, 1);
        publish(version, &Publish::new(&topic, "waits").qos(1, 0));
        let other = if version == V3 { V5 } else { V3 };
        let (mut client, ack) = Client::connected(&Connect::new(other, &connect.client_id).persistent());
        assert!(ack.session_present);
        assert_eq!(client.message().text(), "waits");
    }
}
