//! Properties that are passed on, for requests and responses among others (sections 3.3.2.3 and 4.10 of MQTT 5).

use crate::prelude::*;

judged! {
    /// v5: MQTT-3.3.2-4, MQTT-3.3.2-15, MQTT-3.3.2-16, MQTT-3.3.2-20
    fn properties_of_a_message_arrive_as_they_were(version = V5) {
        let topic = unique("properties");
        let (mut client, mut publisher) = pair(version, &topic, 2);
        let away = absent(version, &topic, 2);
        for (format, data) in [(0, vec![0, 255, 0]), (1, vec![])] {
            let properties = vec![
                Prop::PayloadFormat(format),
                Prop::ContentType("application/json; charset=utf-8".into()),
                Prop::ResponseTopic(format!("{topic}/ä/answers")),
                Prop::CorrelationData(data),
            ];
            for qos in 0..3 {
                let message = Publish { properties: properties.clone(), ..Publish::new(&topic, "m").qos(qos, 0) };
                publisher.publish(&message);
                let found = client.message().properties;
                assert_eq!(found.len(), 4, "{found:?}");
                assert!(properties.iter().all(|property| found.contains(property)), "{found:?}");
            }
        }
        let found = Client::connect(&away).message().properties;
        assert!(found.contains(&Prop::CorrelationData(vec![0, 255, 0])), "{found:?}");
    }

    /// v5: MQTT-3.3.2-17, MQTT-3.3.2-18
    fn user_properties_arrive_in_their_order(version = V5) {
        let topic = unique("user");
        let (mut client, mut publisher) = pair(version, &topic, 1);
        let user = |key: &str, value: &str| Prop::User(key.into(), value.into());
        let properties =
            vec![user("z", "1"), user("a", "2"), user("z", "3"), user("", ""), user("z", "1"), user("ключ", "🌡")];
        let message = Publish::new(&topic, "m").qos(1, 0).retained();
        publisher.publish(&Publish { properties: properties.clone(), ..message });
        assert_eq!(client.message().properties, properties);
        client.subscribe(&[(&topic, 1)]);
        assert_eq!(client.message().properties, properties, "retained");
        publish(version, &Publish::new(&topic, "").retained());
    }

    /// v5: MQTT-3.3.2-14
    fn a_response_topic_must_not_have_wildcards(version = V5) {
        for name in ["answers/+", "#"] {
            let publish = Publish::new(&unique("request"), "m").with(Prop::ResponseTopic(name.into()));
            ends(version, &publish.packet(version), &[0x81, 0x82, 0x90]);
        }
    }

    /// v5: MQTT-3.3.2-15, MQTT-3.3.2-16
    fn a_request_finds_its_response(version = V5) {
        let topic = unique("request");
        let (mut server, mut client) = pair(version, &topic, 1);
        let answers = format!("{topic}/answers");
        client.subscribe(&[(&answers, 1)]);
        let request = Publish::new(&topic, "how warm?").qos(1, 0);
        client.publish(&request.with(Prop::ResponseTopic(answers)).with(Prop::CorrelationData(vec![7])));
        let request = server.message();
        let find = |pick: fn(&Prop) -> Option<Prop>| request.find(pick).expect("the request has it");
        let Prop::ResponseTopic(to) = find(|p| matches!(p, Prop::ResponseTopic(_)).then(|| p.clone())) else {
            unreachable!("it was picked")
        };
        let data = find(|p| matches!(p, Prop::CorrelationData(_)).then(|| p.clone()));
        server.publish(&Publish::new(&to, "21 °C").qos(1, 0).with(data));
        let response = client.message();
        assert_eq!(response.text(), "21 °C");
        assert_eq!(response.properties, [Prop::CorrelationData(vec![7])]);
    }

    /// v5: MQTT-3.3.2-4
    fn versions_can_talk_to_each_other(version = V5) {
        let topic = unique("versions");
        let (mut new, mut publisher) = pair(version, &topic, 2);
        let (mut old, mut old_publisher) = pair(V3, &topic, 2);
        publisher.publish(&Publish::new(&topic, "new").qos(2, 0).with(Prop::ContentType("text".into())));
        old_publisher.publish(&Publish::new(&topic, "old").qos(2, 0));
        assert_eq!(old.messages(2), ["new", "old"]);
        assert_eq!(new.message().properties, [Prop::ContentType("text".into())]);
        assert_eq!(new.message().properties, []);
    }
}
