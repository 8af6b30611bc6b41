//! What ends by the clock (sections 3.1.2.11.2 and 3.3.2.3.3 of MQTT 5).

use std::time::Duration;

use crate::prelude::*;

fn expiry(message: &Received) -> Option<u32> {
    message.find(|property| match property {
        Prop::MessageExpiry(seconds) => Some(*seconds),
        _ => None,
    })
}

judged! {
    /// v5: MQTT-3.3.2-5, MQTT-3.3.2-6
    fn a_message_that_waited_too_long_is_dropped_and_others_say_what_is_left(version = V5) {
        let topic = unique("expires");
        let connect = absent(version, &topic, 2);
        for (payload, properties) in [
            ("short", vec![Prop::MessageExpiry(1)]),
            ("long", vec![Prop::MessageExpiry(100)]),
            ("for ever", vec![]),
            ("short too", vec![Prop::MessageExpiry(1)]),
        ] {
            publish(version, &Publish { properties, ..Publish::new(&topic, payload).qos(2, 0) });
        }
        std::thread::sleep(Duration::from_millis(2_100));
        let mut client = Client::connect(&connect);
        let long = client.message();
        let left = expiry(&long).expect("it still expires");
        assert_eq!(long.text(), "long");
        assert!((60..=98).contains(&left), "{left} s are left of 100");
        let ever = client.message();
        assert_eq!((ever.text(), expiry(&ever)), ("for ever", None));
        client.expect_nothing();
    }

    /// v5: MQTT-3.3.2-6
    fn a_message_that_does_not_wait_has_its_whole_time(version = V5) {
        let topic = unique("whole");
        let (mut client, mut publisher) = pair(version, &topic, 1);
        publisher.publish(&Publish::new(&topic, "m").qos(1, 0).with(Prop::MessageExpiry(1_000)));
        let left = expiry(&client.message()).expect("it expires");
        assert!((900..=1_000).contains(&left), "{left}");
    }

    /// v5: MQTT-3.3.2-5, MQTT-3.3.2-6
    fn a_retained_message_expires_too(version = V5) {
        let topic = unique("retained");
        let (short, long) = (format!("{topic}/short"), format!("{topic}/long"));
        publish(version, &Publish::new(&short, "short").qos(1, 0).retained().with(Prop::MessageExpiry(1)));
        publish(version, &Publish::new(&long, "long").qos(1, 0).retained().with(Prop::MessageExpiry(100)));
        std::thread::sleep(Duration::from_millis(2_100));
        let mut client = Client::new(version, "late");
        client.subscribe(&[(&format!("{topic}/+"), 1)]);
        let message = client.message();
        assert_eq!(message.text(), "long");
        assert!(expiry(&message).is_some_and(|left| (60..=98).contains(&left)), "{message:?}");
        client.expect_nothing();
        publish(version, &Publish::new(&long, "").retained());
    }

    /// v5: MQTT-4.3.3-7, MQTT-4.3.3-13
    fn a_delivery_that_was_begun_does_not_expire(version = V5) {
        let topic = unique("begun");
        let connect = absent(version, &topic, 2);
        let mut client = Client::connect(&connect);
        let (published, released) = (unique("published"), unique("released"));
        for payload in [&published, &released] {
            publish(version, &Publish::new(&topic, payload).qos(2, 0).with(Prop::MessageExpiry(2)));
        }
        let first = client.expect(Kind::Publish);
        let second = client.expect(Kind::Publish);
        client.send(&packet::ack(0x50, second.id()));
        client.expect_ack(Kind::PubRel, second.id());
        // And the other way: what a publisher has begun is gone through with.
        let mut publisher = Client::new(version, "publisher");
        let incoming = Publish::new(&unique("nobody"), "m").qos(2, 8).with(Prop::MessageExpiry(2));
        publisher.send(&incoming.packet(version));
        publisher.expect_ack(Kind::PubRec, 8);
        client.cut();
        std::thread::sleep(Duration::from_millis(3_100));
        publisher.send(&packet::ack(0x62, 8));
        assert_eq!(publisher.expect_ack(Kind::PubComp, 8).reason(), 0);
        let mut client = Client::connect(&connect);
        let again = client.expect(Kind::Publish);
        assert_eq!((again.id(), again.dup(), again.text()), (first.id(), true, first.text()));
        client.send(&packet::ack(0x50, first.id()));
        let mut released = [client.expect(Kind::PubRel).id(), client.expect(Kind::PubRel).id()];
        released.sort_unstable();
        let mut expected = [first.id(), second.id()];
        expected.sort_unstable();
        assert_eq!(released, expected);
    }

    /// v5: MQTT-4.1.0-2
    fn a_session_ends_when_its_time_is_over(version = V5) {
        let topic = unique("session");
        let connect = Connect::new(version, &unique("session")).with(Prop::SessionExpiry(3));
        let connect = Connect { clean: false, ..connect };
        let mut client = Client::connect(&connect);
        client.subscribe(&[(&topic, 1)]);
        // Its time does not run while it is connected.
        std::thread::sleep(Duration::from_millis(3_500));
        client.cut();
        let (client, ack) = Client::connected(&connect);
        assert!(ack.session_present);
        client.disconnect();
        std::thread::sleep(Duration::from_millis(4_500));
        publish(version, &Publish::new(&topic, "nobody").qos(1, 0));
        let (mut client, ack) = Client::connected(&connect);
        assert!(!ack.session_present);
        client.expect_nothing();
    }
}
