//! Retained messages (section 3.3.1.3 of both versions).

use crate::prelude::*;

const AS_PUBLISHED: u8 = 8;
const ONLY_IF_NEW: u8 = 0x10;
const NEVER: u8 = 0x20;

/// Retained messages do not end with their test: the next run of a daemon that keeps them would find them.
fn forget(version: Version, topics: &[&str]) {
    for topic in topics {
        publish(version, &Publish::new(topic, "").retained());
    }
}

judged! {
    /// v3: MQTT-3.3.1-5, MQTT-3.3.1-6, MQTT-3.3.1-8 · v5: MQTT-3.3.1-5, MQTT-3.3.1-9
    fn the_last_retained_message_goes_to_who_subscribes_later(version) {
        let topic = unique("retained");
        for qos in 0..3 {
            publish(version, &Publish::new(&topic, "before").qos(qos, 0).retained());
            publish(version, &Publish::new(&topic, &qos.to_string()).qos(qos, 0).retained());
            let mut client = Client::new(version, "late");
            client.subscribe(&[(&topic, 2)]);
            let message = client.message();
            assert_eq!((message.text(), message.qos()), (&*qos.to_string(), qos));
            assert!(message.retain() && !message.dup());
            client.expect_nothing();
        }
        forget(version, &[&topic]);
    }

    /// v3: MQTT-3.3.1-6 · v5: MQTT-3.3.1-9
    fn a_filter_with_wildcards_brings_the_retained_message_of_every_topic(version) {
        let topic = unique("many");
        let names: Vec<_> = ["a", "b", "b/c", "$d"].iter().map(|name| format!("{topic}/{name}")).collect();
        for name in &names {
            publish(version, &Publish::new(name, name).qos(1, 0).retained());
        }
        for (filter, expected) in [("#", vec![0, 1, 2, 3]), ("+", vec![0, 1, 3]), ("b/#", vec![1, 2]), ("+/c", vec![2])] {
            let mut client = Client::new(version, "late");
            client.subscribe(&[(&format!("{topic}/{filter}"), 1)]);
            let mut found = client.messages(expected.len());
            found.sort();
            let mut expected: Vec<_> = expected.into_iter().map(|index| names[index].clone()).collect();
            expected.sort();
            assert_eq!(found, expected);
            client.expect_nothing();
        }
        forget(version, &names.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// v3: MQTT-3.3.1-7 · v5: MQTT-3.3.1-5
    fn a_retained_message_at_qos_0_takes_the_place_of_one_at_qos_1(version) {
        let topic = unique("zero");
        publish(version, &Publish::new(&topic, "one").qos(1, 0).retained());
        publish(version, &Publish::new(&topic, "zero").retained());
        let mut client = Client::new(version, "late");
        client.subscribe(&[(&topic, 1)]);
        assert_eq!(client.message().text(), "zero");
        client.expect_nothing();
        forget(version, &[&topic]);
    }

    /// v3: MQTT-3.3.1-9 · v5: MQTT-3.3.1-12
    fn who_has_subscribed_before_sees_no_retain_flag(version) {
        let topic = unique("live");
        let (mut subscriber, mut publisher) = pair(version, &topic, 1);
        for message in [Publish::new(&topic, "kept").retained(), Publish::new(&topic, "plain")] {
            publisher.publish(&message.qos(1, 0));
            assert!(!subscriber.message().retain());
        }
        forget(version, &[&topic]);
    }

    /// v3: MQTT-3.3.1-10, MQTT-3.3.1-11 · v5: MQTT-3.3.1-6, MQTT-3.3.1-7
    fn an_empty_message_removes_the_retained_one_and_is_delivered(version) {
        let topic = unique("removed");
        let (mut subscriber, mut publisher) = pair(version, &topic, 2);
        for qos in 0..3 {
            publisher.publish(&Publish::new(&topic, "kept").qos(qos, 0).retained());
            publisher.publish(&Publish::new(&topic, "").qos(qos, 0).retained());
            assert_eq!(subscriber.messages(2), ["kept", ""]);
            // The answer of the publisher's own PINGREQ comes behind what QoS 0 has published.
            publisher.expect_nothing();
            let mut late = Client::new(version, "late");
            late.subscribe(&[(&topic, 2)]);
            late.expect_nothing();
        }
    }

    /// v3: MQTT-3.3.1-12 · v5: MQTT-3.3.1-8
    fn a_plain_message_leaves_the_retained_one_alone(version) {
        let topic = unique("plain");
        let mut publisher = Client::new(version, "publisher");
        publisher.publish(&Publish::new(&topic, "plain").qos(1, 0));
        let mut early = Client::new(version, "early");
        early.subscribe(&[(&topic, 1)]);
        early.expect_nothing();
        publisher.publish(&Publish::new(&topic, "kept").qos(1, 0).retained());
        publisher.publish(&Publish::new(&topic, "plain").qos(1, 0));
        publisher.publish(&Publish::new(&topic, "").qos(1, 0));
        let mut late = Client::new(version, "late");
        late.subscribe(&[(&topic, 1)]);
        assert_eq!(late.message().text(), "kept");
        late.expect_nothing();
        forget(version, &[&topic]);
    }

    /// v3: MQTT-3.1.2-7 · v5: MQTT-3.1.2-4
    fn a_retained_message_outlives_the_session_that_has_published_it(version) {
        let topic = unique("outlives");
        let connect = Connect::new(version, &unique("author")).persistent();
        let mut author = Client::connect(&connect);
        author.publish(&Publish::new(&topic, "kept").qos(1, 0).retained());
        author.disconnect();
        Client::connect(&Connect { clean: true, properties: vec![], ..connect }).disconnect();
        let mut late = Client::new(version, "late");
        late.subscribe(&[(&topic, 0)]);
        let message = late.message();
        assert_eq!((message.text(), message.qos(), message.retain()), ("kept", 0, true));
        forget(version, &[&topic]);
    }

    /// v5: MQTT-3.3.1-10
    fn with_retain_handling_1_only_a_new_subscription_brings_them(version = V5) {
        let topic = unique("handling");
        publish(version, &Publish::new(&topic, "kept").qos(1, 0).retained());
        let mut client = Client::new(version, "handling");
        client.subscribe_with(&[(&topic, 1 | ONLY_IF_NEW)], &[]);
        assert_eq!(client.message().text(), "kept");
        client.subscribe_with(&[(&topic, 2 | ONLY_IF_NEW)], &[]);
        client.expect_nothing();
        client.unsubscribe(&[&topic]);
        client.subscribe_with(&[(&topic, ONLY_IF_NEW)], &[]);
        assert_eq!(client.message().text(), "kept");
        forget(version, &[&topic]);
    }

    /// v5: MQTT-3.3.1-11
    fn with_retain_handling_2_no_subscription_brings_them(version = V5) {
        let topic = unique("handling");
        publish(version, &Publish::new(&topic, "kept").qos(1, 0).retained());
        let mut client = Client::new(version, "handling");
        client.subscribe_with(&[(&topic, 1 | NEVER)], &[]);
        client.expect_nothing();
        publish(version, &Publish::new(&topic, "live").qos(1, 0).retained());
        assert_eq!(client.message().text(), "live");
        forget(version, &[&topic]);
    }

    /// v5: MQTT-3.3.1-12, MQTT-3.3.1-13
    fn retain_as_published_leaves_the_flag_as_it_was(version = V5) {
        let topic = unique("published");
        let (mut plain, mut publisher) = pair(version, &topic, 1);
        let mut exact = Client::new(version, "exact");
        exact.subscribe_with(&[(&topic, 1 | AS_PUBLISHED)], &[]);
        publisher.publish(&Publish::new(&topic, "kept").qos(1, 0).retained());
        publisher.publish(&Publish::new(&topic, "plain").qos(1, 0));
        let flags = |client: &mut Client| [client.message().retain(), client.message().retain()];
        assert_eq!(flags(&mut plain), [false, false]);
        assert_eq!(flags(&mut exact), [true, false]);
        forget(version, &[&topic]);
    }

    /// v3: MQTT-3.3.1-6 · v5: MQTT-3.3.1-9
    fn a_session_that_is_resumed_brings_no_retained_messages(version) {
        let topic = unique("resumed");
        publish(version, &Publish::new(&topic, "kept").qos(1, 0).retained());
        let connect = Connect::new(version, &unique("resumed")).persistent();
        let mut client = Client::connect(&connect);
        client.subscribe(&[(&topic, 1)]);
        assert_eq!(client.message().text(), "kept");
        client.disconnect();
        Client::connect(&connect).expect_nothing();
        forget(version, &[&topic]);
    }
}
