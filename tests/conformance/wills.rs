//! Wills (section 3.1.2.5 of both versions).

use std::time::{Duration, Instant};

use crate::prelude::*;

/// A client with a will about this topic, and somebody who waits for it.
fn testator(version: Version, will: Will) -> (Client, Client, Connect) {
    let mut heir = Client::new(version, "heir");
    heir.subscribe(&[(&will.topic, 2)]);
    let connect = Connect::new(version, &unique("testator")).will(will);
    (Client::connect(&connect), heir, connect)
}

judged! {
    /// v3: MQTT-3.1.2-8, MQTT-3.1.2-9, MQTT-3.1.2-14, MQTT-3.1.2-16 · v5: MQTT-3.1.2-7, MQTT-3.1.2-8, MQTT-3.1.2-9, MQTT-3.1.2-12, MQTT-3.1.2-14
    fn a_will_is_published_when_the_connection_breaks(version) {
        for qos in 0..3 {
            let topic = unique("will");
            let (client, mut heir, _) = testator(version, Will { qos, ..Will::new(&topic, "last words") });
            client.cut();
            let message = heir.message();
            assert_eq!((message.topic.as_str(), message.text()), (topic.as_str(), "last words"));
            assert_eq!((message.qos(), message.retain()), (qos, false));
            let mut late = Client::new(version, "late");
            late.subscribe(&[(&topic, 2)]);
            late.expect_nothing();
        }
    }

    /// v3: MQTT-3.1.2-17 · v5: MQTT-3.1.2-15
    fn a_will_with_retain_is_retained(version) {
        let topic = unique("will");
        let will = Will { qos: 1, retain: true, ..Will::new(&topic, "kept words") };
        let (client, mut heir, _) = testator(version, will);
        client.cut();
        assert_eq!(heir.message().text(), "kept words");
        let mut late = Client::new(version, "late");
        late.subscribe(&[(&topic, 1)]);
        let message = late.message();
        assert_eq!((message.text(), message.retain()), ("kept words", true));
        publish(version, &Publish::new(&topic, "").retained());
    }

    /// v3: MQTT-3.1.2-10, MQTT-3.14.4-3 · v5: MQTT-3.1.2-10, MQTT-3.14.4-3
    fn a_will_is_dropped_by_a_disconnect(version) {
        let (client, mut heir, _) = testator(version, Will::new(&unique("will"), "no words"));
        client.disconnect();
        heir.expect_nothing();
    }

    /// v3: MQTT-3.1.2-10, MQTT-3.1.2-12 · v5: MQTT-3.1.2-10
    fn a_will_is_published_once_and_belongs_to_its_connection(version) {
        let (client, mut heir, connect) = testator(version, Will::new(&unique("will"), "last words"));
        client.cut();
        assert_eq!(heir.message().text(), "last words");
        Client::connect(&Connect { will: None, ..connect }).cut();
        heir.expect_nothing();
    }

    /// v3: MQTT-3.1.2-8 · v5: MQTT-3.1.2-8
    fn a_will_is_published_after_an_error_of_the_client(version) {
        let (mut client, mut heir, _) = testator(version, Will::new(&unique("will"), "sorry"));
        client.send(&[0xF0, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]);
        assert_eq!(heir.message().text(), "sorry");
    }

    /// v3: MQTT-3.1.2-8 · v5: MQTT-3.1.2-8
    fn a_will_is_published_when_another_connection_takes_over(version) {
        let (_client, mut heir, connect) = testator(version, Will::new(&unique("will"), "taken over"));
        let _second = Client::connect(&Connect { will: None, ..connect });
        assert_eq!(heir.message().text(), "taken over");
    }

    /// v3: MQTT-3.1.2-8, MQTT-3.1.2-24 · v5: MQTT-3.1.2-8, MQTT-3.1.2-22
    fn a_will_is_published_when_a_client_falls_silent(version) {
        let topic = unique("will");
        let mut heir = Client::new(version, "heir");
        heir.subscribe(&[(&topic, 2)]);
        let connect = Connect::new(version, &unique("testator")).will(Will::new(&topic, "silence"));
        let _silent = Client::connect(&connect.keep_alive(1));
        assert_eq!(heir.message().text(), "silence");
    }

    /// v3: MQTT-3.1.2-9 · v5: MQTT-3.1.2-9
    fn a_will_may_be_empty(version) {
        let (client, mut heir, _) = testator(version, Will::new(&unique("will"), ""));
        client.cut();
        assert_eq!(heir.message().text(), "");
    }

    /// v5: MQTT-3.1.2-10
    fn a_disconnect_with_another_reason_publishes_the_will(version = V5) {
        for reason in [0x04, 0x80, 0x98] {
            let (mut client, mut heir, _) = testator(version, Will::new(&unique("will"), "as asked"));
            client.send(&packet::disconnect(reason, &[]));
            client.expect_closed();
            assert_eq!(heir.message().text(), "as asked");
        }
    }

    /// v5: MQTT-3.1.3-10
    fn a_will_has_its_properties_in_their_order(version = V5) {
        let properties = vec![
            Prop::PayloadFormat(1),
            Prop::ContentType("text/plain".into()),
            Prop::ResponseTopic("answers".into()),
            Prop::CorrelationData(vec![0, 1, 255]),
            Prop::User("b".into(), "1".into()),
            Prop::User("a".into(), "2".into()),
            Prop::User("b".into(), "1".into()),
        ];
        let will = Will { properties: properties.clone(), ..Will::new(&unique("will"), "words") };
        let (client, mut heir, _) = testator(version, will);
        client.cut();
        let (users, others): (Vec<_>, Vec<_>) =
            heir.message().properties.into_iter().partition(|property| matches!(property, Prop::User(..)));
        assert_eq!(users, properties[4..]);
        assert_eq!(others.len(), 4);
        assert!(others.iter().all(|property| properties.contains(property)), "{others:?}");
    }

    /// v5: MQTT-3.1.2-8
    fn a_will_waits_for_its_delay(version = V5) {
        let topic = unique("will");
        let mut heir = Client::new(version, "heir");
        heir.subscribe(&[(&topic, 2)]);
        let will = Will { properties: vec![Prop::WillDelay(1)], ..Will::new(&topic, "late words") };
        let client = Client::connect(&Connect::new(version, &unique("testator")).persistent().will(will));
        let cut = Instant::now();
        client.cut();
        assert_eq!(heir.message().text(), "late words");
        assert!(cut.elapsed() >= Duration::from_millis(950), "{:?}", cut.elapsed());
    }

    /// v5: MQTT-3.1.3-9
    fn a_will_is_dropped_when_its_client_is_back_within_the_delay(version = V5) {
        let topic = unique("will");
        let mut heir = Client::new(version, "heir");
        heir.subscribe(&[(&topic, 2)]);
        let will = Will { properties: vec![Prop::WillDelay(3)], ..Will::new(&topic, "no words") };
        let connect = Connect::new(version, &unique("testator")).persistent().will(will);
        Client::connect(&connect).cut();
        let _back = Client::connect(&Connect { will: None, ..connect });
        std::thread::sleep(Duration::from_millis(3_500));
        heir.expect_nothing();
    }

    /// v5: MQTT-3.1.2-8
    fn a_will_does_not_wait_longer_than_its_session_lives(version = V5) {
        let topic = unique("will");
        let mut heir = Client::new(version, "heir");
        heir.subscribe(&[(&topic, 2)]);
        for (expiry, clean_up) in [(0, false), (1, false), (3600, true)] {
            let will = Will { properties: vec![Prop::WillDelay(3600)], ..Will::new(&topic, "at the end") };
            let connect = Connect::new(version, &unique("testator")).with(Prop::SessionExpiry(expiry));
            Client::connect(&connect.clone().will(will)).cut();
            if clean_up {
                // Its session ends, too, when a new one begins.
                Client::connect(&Connect { clean: true, ..connect }).disconnect();
            }
            assert_eq!(heir.message().text(), "at the end");
        }
    }

    /// v3: MQTT-4.7.1-1, MQTT-4.7.3-1 · v5: MQTT-4.7.0-1, MQTT-4.7.3-1
    fn a_wills_topic_is_a_topic_name(version) {
        for topic in ["", "wild/+", "#"] {
            let mut client = Client::open(version);
            client.send(&Connect::new(version, &unique("will")).will(Will::new(topic, "")).packet());
            let answers = client.until_closed();
            assert!(answers.iter().all(|answer| answer.reason() > 0), "{topic:?}: {answers:?}");
        }
    }

    /// v5: MQTT-3.3.2-14, MQTT-3.1.4-1
    fn a_wills_properties_are_those_of_a_message(version = V5) {
        for property in [
            Prop::ResponseTopic("answers/+".into()),
            Prop::PayloadFormat(2),
            Prop::TopicAlias(1),
            Prop::SessionExpiry(1),
        ] {
            let will = Will { properties: vec![property], ..Will::new("will", "") };
            refused(version, &Connect::new(version, &unique("will")).will(will).packet());
        }
    }
}
