//! Properties (section 2.2.2 of MQTT 5).

use crate::prelude::*;

fn connect_with(properties: Vec<Prop>) -> Vec<u8> {
    Connect { properties, ..Connect::new(V5, &unique("properties")) }.packet()
}

fn publish_with(properties: Vec<Prop>) -> Vec<u8> {
    Publish { properties, ..Publish::new(&unique("properties"), "m") }.packet(V5)
}

judged! {
    /// v5: MQTT-4.13.1-1, MQTT-3.1.4-1
    fn a_property_must_not_come_twice(version = V5) {
        for property in [
            Prop::SessionExpiry(1),
            Prop::ReceiveMaximum(1),
            Prop::MaximumPacket(1_000),
            Prop::TopicAliasMaximum(1),
            Prop::RequestResponse(1),
            Prop::RequestProblem(1),
        ] {
            refused(version, &connect_with(vec![property.clone(), property]));
        }
        for property in [
            Prop::PayloadFormat(0),
            Prop::MessageExpiry(1),
            Prop::ContentType("t".into()),
            Prop::ResponseTopic("t".into()),
            Prop::CorrelationData(vec![1]),
            Prop::TopicAlias(1),
        ] {
            ends(version, &publish_with(vec![property.clone(), property]), &[0x81, 0x82]);
        }
        let will = |properties| Will { properties, ..Will::new("will", "") };
        let delays = will(vec![Prop::WillDelay(1), Prop::WillDelay(1)]);
        refused(version, &Connect::new(version, &unique("twice")).will(delays).packet());
        let ends_twice = packet::disconnect(0, &[Prop::SessionExpiry(0), Prop::SessionExpiry(0)]);
        ends(version, &ends_twice, &[0x81, 0x82]);
    }

    /// v5: MQTT-4.13.1-1, MQTT-3.1.4-1
    fn a_property_of_another_packet_is_malformed(version = V5) {
        for property in [Prop::TopicAlias(1), Prop::SubscriptionId(1), Prop::MaximumQos(1), Prop::WillDelay(1)] {
            refused(version, &connect_with(vec![property]));
        }
        for property in [Prop::SessionExpiry(1), Prop::ReasonString("r".into()), Prop::ReceiveMaximum(1)] {
            ends(version, &publish_with(vec![property]), &[0x81, 0x82]);
        }
        let subscribe = packet::subscribe(version, 1, &[("properties", 0)], &[Prop::MessageExpiry(1)]);
        ends(version, &subscribe, &[0x81, 0x82]);
        let ack = Body::new().u16(1).u8(0).properties(&[Prop::TopicAlias(1)]).packet(0x40);
        ends(version, &ack, &[0x81, 0x82]);
        ends(version, &packet::disconnect(0, &[Prop::ContentType("t".into())]), &[0x81, 0x82]);
    }

    /// v5: MQTT-4.13.1-1, MQTT-3.1.4-1
    fn a_property_that_does_not_exist_is_malformed(version = V5) {
        for identifier in [0, 4, 10, 43, 0x7F] {
            let packet = Body::new().text("MQTT").u8(5).u8(2).u16(60).u8(2).u8(identifier).u8(0);
            refused(version, &packet.text("unknown").packet(0x10));
            let packet = Body::new().text("unknown").u8(2).u8(identifier).u8(0);
            ends(version, &packet.packet(0x30), &[0x81, 0x82]);
        }
    }

    /// v5: MQTT-4.13.1-1, MQTT-3.1.4-1
    fn a_value_that_a_property_cannot_have_is_an_error(version = V5) {
        for property in [
            Prop::ReceiveMaximum(0),
            Prop::MaximumPacket(0),
            Prop::RequestProblem(2),
            Prop::RequestResponse(2),
        ] {
            refused(version, &connect_with(vec![property]));
        }
        ends(version, &publish_with(vec![Prop::PayloadFormat(2)]), &[0x81, 0x82]);
        // Data of a method that is not there.
        refused(version, &connect_with(vec![Prop::AuthenticationData(vec![1])]));
    }

    /// v5: MQTT-2.2.2-1, MQTT-3.1.4-1
    fn a_length_that_does_not_fit_the_properties_is_malformed(version = V5) {
        // Longer than the packet, in the middle of a property, and none at all.
        ends(version, &Body::new().text("length").u8(9).u8(1).u8(0).packet(0x30), &[0x81, 0x82]);
        ends(version, &Body::new().text("length").u8(3).u8(2).u16(0).packet(0x30), &[0x81, 0x82]);
        ends(version, &Body::new().text("length").packet(0x30), &[0x81, 0x82]);
        refused(version, &Body::new().text("MQTT").u8(5).u8(2).u16(60).packet(0x10));
    }

    /// v5: MQTT-3.1.2-29
    fn who_does_not_want_reasons_explained_gets_none(version = V5) {
        let connect = Connect::new(version, &unique("quiet")).with(Prop::RequestProblem(0));
        let mut client = Client::connect(&connect);
        client.send(&Publish::new("forbidden/a", "").qos(1, 1).packet(version));
        let mut answers = vec![client.expect(Kind::PubAck)];
        client.send(&Publish::new("forbidden/a", "").qos(2, 2).packet(version));
        answers.push(client.expect(Kind::PubRec));
        client.send(&packet::ack(0x62, 3));
        answers.push(client.expect(Kind::PubComp));
        client.send(&packet::ack(0x50, 4));
        answers.push(client.expect(Kind::PubRel));
        client.send(&packet::subscribe(version, 5, &[("forbidden/#", 0), ("$share/x/forbidden/#", 0)], &[]));
        answers.push(client.expect(Kind::SubAck));
        client.send(&packet::unsubscribe(version, 6, &["nothing"]));
        answers.push(client.expect(Kind::UnsubAck));
        for answer in answers {
            assert_eq!(answer.properties, [], "{answer:?}");
        }
    }

    /// v5: MQTT-3.3.2-17
    fn user_properties_are_taken_in_every_packet(version = V5) {
        let user = || Prop::User("key".into(), "value".into());
        let topic = unique("user");
        let connect = Connect::new(version, &unique("user")).with(user()).with(user());
        let mut client = Client::connect(&connect);
        client.subscribe_with(&[(&topic, 2)], &[user(), user()]);
        client.send(&Publish::new(&topic, "m").qos(2, 1).with(user()).packet(version));
        client.expect_ack(Kind::PubRec, 1);
        client.send(&Body::new().u16(1).u8(0).properties(&[user()]).packet(0x62));
        client.expect_ack(Kind::PubComp, 1);
        let id = client.expect(Kind::Publish).id();
        client.send(&Body::new().u16(id).u8(0).properties(&[user(), Prop::ReasonString("ok".into())]).packet(0x50));
        client.expect_ack(Kind::PubRel, id);
        client.send(&Body::new().u16(id).u8(0).properties(&[user()]).packet(0x70));
        client.send(&Body::new().u16(2).properties(&[user()]).text(&topic).packet(0xA2));
        client.expect_ack(Kind::UnsubAck, 2);
        client.send(&packet::disconnect(0, &[user(), Prop::ReasonString("bye".into())]));
        assert_eq!(client.expect_closed(), None);
    }
}
