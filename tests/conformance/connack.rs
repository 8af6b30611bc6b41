//! CONNACK (section 3.2 of both versions).

use crate::prelude::*;

judged! {
    /// v3: MQTT-3.1.4-4, MQTT-3.2.2-1 · v5: MQTT-3.1.4-5, MQTT-3.2.2-1, MQTT-3.2.2-2
    fn a_clean_session_is_never_present(version) {
        let kept = absent(version, &unique("clean"), 1);
        let clean = Connect { clean: true, ..kept };
        for _ in 0..2 {
            let (client, ack) = Client::connected(&clean);
            assert!(!ack.session_present);
            client.disconnect();
        }
    }

    /// v3: MQTT-3.2.2-2, MQTT-3.2.2-3 · v5: MQTT-3.2.2-3
    fn a_session_that_was_kept_is_said_to_be_present(version) {
        let connect = Connect::new(version, &unique("kept")).persistent();
        let (client, ack) = Client::connected(&connect);
        assert!(!ack.session_present, "there was none");
        client.disconnect();
        let (_client, ack) = Client::connected(&connect);
        assert!(ack.session_present);
    }

    /// v5: MQTT-3.2.2-6, MQTT-3.2.2-7, MQTT-3.2.2-8, MQTT-4.13.2-1
    fn a_connack_that_refuses_has_no_session_and_closes(version = V5) {
        let kept = absent(version, &unique("refused"), 1);
        let (mut client, ack) = Client::answered(&kept.with(Prop::AuthenticationMethod("none".into())));
        assert!(ack.reason() >= 0x80, "{ack:?}");
        assert!(!ack.session_present);
        assert!(client.until_closed().is_empty());
    }

    /// v5: MQTT-3.2.2-9, MQTT-3.2.2-12, MQTT-3.2.2-13
    fn nothing_is_announced_as_missing_that_the_server_has(version = V5) {
        let will = Will { qos: 2, retain: true, ..Will::new(&unique("gone"), "") };
        let (mut client, ack) = Client::connected(&Connect::new(version, &unique("all")).will(will));
        for property in &ack.properties {
            let is_missing = matches!(
                property,
                Prop::MaximumQos(_)
                    | Prop::RetainAvailable(0)
                    | Prop::WildcardAvailable(0)
                    | Prop::SubscriptionIdAvailable(0)
                    | Prop::SharedAvailable(0)
            );
            assert!(!is_missing, "{property:?}");
        }
        let topic = unique("all");
        assert_eq!(client.publish(&Publish::new(&topic, "2").qos(2, 0).retained()) & 0x80, 0);
        assert_eq!(client.publish(&Publish::new(&topic, "").retained()), 0);
        client.disconnect();
    }

    /// v5: MQTT-4.12.0-6, MQTT-3.1.2-28
    fn what_was_not_asked_for_is_not_returned(version = V5) {
        for properties in [vec![], vec![Prop::RequestResponse(0)]] {
            let connect = Connect { properties, ..Connect::new(version, &unique("asked")) };
            let (_client, ack) = Client::connected(&connect);
            for property in &ack.properties {
                let unasked = matches!(
                    property,
                    Prop::AuthenticationMethod(_)
                        | Prop::AuthenticationData(_)
                        | Prop::ResponseInformation(_)
                        | Prop::AssignedClientId(_)
                );
                assert!(!unasked, "{property:?}");
            }
        }
    }
}
