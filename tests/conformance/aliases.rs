//! Topic aliases (section 3.3.2.3.4 of MQTT 5).

use crate::prelude::*;

/// A client, and how many aliases the server takes from it.
fn client_with_aliases(connect: &Connect) -> (Client, u16) {
    let (client, ack) = Client::connected(connect);
    let most = ack.find(|property| match property {
        Prop::TopicAliasMaximum(most) => Some(*most),
        _ => None,
    });
    (client, most.unwrap_or(0))
}

fn by_alias(alias: u16, topic: &str, payload: &str) -> Publish {
    Publish::new(topic, payload).with(Prop::TopicAlias(alias))
}

judged! {
    /// v5: MQTT-3.3.2-12
    fn every_alias_up_to_the_maximum_is_taken(version = V5) {
        let topic = unique("aliases");
        let (mut subscriber, _) = pair(version, &format!("{topic}/+"), 1);
        let (mut publisher, most) = client_with_aliases(&Connect::new(version, &unique("aliases")));
        assert!(most > 0, "this server takes aliases");
        let aliases = [1, most.div_ceil(2), most];
        for alias in aliases {
            publisher.publish(&by_alias(alias, &format!("{topic}/{alias}"), "named").qos(1, 0));
            assert_eq!(subscriber.message().topic, format!("{topic}/{alias}"));
        }
        for alias in aliases {
            for qos in 0..2 {
                publisher.publish(&by_alias(alias, "", "aliased").qos(qos, 0));
                let message = subscriber.message();
                assert_eq!((message.topic, &*message.payload), (format!("{topic}/{alias}"), b"aliased".as_slice()));
            }
        }
    }

    /// v5: MQTT-3.3.2-12
    fn an_alias_can_be_given_to_another_topic(version = V5) {
        let topic = unique("renamed");
        let (mut subscriber, mut publisher) = pair(version, &format!("{topic}/+"), 1);
        for name in ["a", "b"] {
            publisher.publish(&by_alias(1, &format!("{topic}/{name}"), "m"));
            publisher.publish(&by_alias(1, "", "m"));
            assert_eq!(subscriber.message().topic, format!("{topic}/{name}"));
            assert_eq!(subscriber.message().topic, format!("{topic}/{name}"));
        }
    }

    /// v5: MQTT-3.3.2-8, MQTT-3.3.2-9, MQTT-3.2.2-17
    fn an_alias_of_0_or_beyond_the_maximum_ends_the_connection(version = V5) {
        let topic = unique("beyond");
        ends(version, &by_alias(0, &topic, "m").packet(version), &[0x81, 0x82, 0x94]);
        let (mut client, most) = client_with_aliases(&Connect::new(version, &unique("beyond")));
        if let Some(beyond) = most.checked_add(1) {
            client.send(&by_alias(beyond, &topic, "m").packet(version));
            let reason = client.expect_closed();
            assert!(reason.is_none_or(|reason| reason == 0x94), "{reason:x?}");
        }
    }

    /// v5: MQTT-4.13.1-1
    fn an_alias_that_nobody_has_named_ends_the_connection(version = V5) {
        ends(version, &by_alias(1, "", "m").packet(version), &[0x82, 0x94]);
        ends(version, &Publish::new("", "m").packet(version), &[0x81, 0x82, 0x90]);
    }

    /// v5: MQTT-3.3.2-7
    fn aliases_end_with_their_connection(version = V5) {
        let topic = unique("forgotten");
        let (mut subscriber, _) = pair(version, &topic, 1);
        let connect = Connect::new(version, &unique("forgotten")).persistent();
        let mut client = Client::connect(&connect);
        client.publish(&by_alias(1, &topic, "named").qos(1, 0));
        client.disconnect();
        let mut client = Client::connect(&connect);
        client.send(&by_alias(1, "", "no").packet(version));
        client.expect_closed();
        assert_eq!(subscriber.message().text(), "named");
        subscriber.expect_nothing();
    }

    /// v5: MQTT-3.1.2-26, MQTT-3.1.2-27, MQTT-3.3.2-11
    fn the_server_uses_no_more_aliases_than_the_client_takes(version = V5) {
        let topic = unique("server");
        let mut publisher = Client::new(version, "publisher");
        for most in [None, Some(0), Some(2)] {
            let mut connect = Connect::new(version, &unique("server"));
            connect.properties.extend(most.map(Prop::TopicAliasMaximum));
            let mut client = Client::connect(&connect);
            client.subscribe(&[(&format!("{topic}/+"), 1)]);
            let mut names = std::collections::HashMap::new();
            for n in 0..12 {
                let name = format!("{topic}/{}", n % 4);
                publisher.publish(&Publish::new(&name, "m").qos(1, 0));
                let message = client.message();
                let alias = message.find(|property| match property {
                    Prop::TopicAlias(alias) => Some(*alias),
                    _ => None,
                });
                let found = match alias {
                    None => message.topic.clone(),
                    Some(alias) => {
                        assert!((1..=most.unwrap_or(0)).contains(&alias), "alias {alias} of {most:?}");
                        if !message.topic.is_empty() {
                            names.insert(alias, message.topic.clone());
                        }
                        names[&alias].clone()
                    }
                };
                assert_eq!(found, name);
            }
        }
    }
}
