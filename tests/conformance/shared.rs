//! Shared subscriptions (section 4.8.2 of MQTT 5).

use crate::prelude::*;

/// `count` clients that share the filter as a group.
fn group(version: Version, share: &str, count: usize, qos: u8) -> Vec<Client> {
    (0..count)
        .map(|_| {
            let mut client = Client::new(version, "member");
            assert_eq!(client.subscribe(&[(share, qos)]), [qos]);
            client
        })
        .collect()
}

judged! {
    /// v5: MQTT-4.8.2-1, MQTT-4.8.2-2
    fn a_share_without_a_name_or_a_filter_is_not_granted(version = V5) {
        for filter in ["$share", "$share/", "$share//a", "$share/a", "$share/a/", "$share/a+/b", "$share/#/b", "$share/+/b"] {
            let mut client = Client::new(version, "shape");
            client.send(&packet::subscribe(version, 5, &[(filter, 0)], &[]));
            client.send(&[0xE0, 0]);
            for answer in client.until_closed() {
                let is_refusal = match answer.kind() {
                    Kind::SubAck => answer.clone().codes().iter().all(|code| *code >= 0x80),
                    Kind::Disconnect => [0x81, 0x82, 0x8F].contains(&answer.reason()),
                    _ => false,
                };
                assert!(is_refusal, "{filter}: {answer:?}");
            }
        }
    }

    /// v5: MQTT-4.8.2-1
    fn each_message_goes_to_one_of_the_group(version = V5) {
        let topic = unique("shared");
        let mut members = group(version, &format!("$share/group/{topic}/+"), 3, 1);
        let mut others = group(version, &format!("$share/other/{topic}/a"), 1, 1);
        let (mut alone, mut publisher) = pair(version, &format!("{topic}/a"), 1);
        for n in 0..30 {
            publisher.publish(&Publish::new(&format!("{topic}/a"), &n.to_string()).qos(1, 0));
        }
        let all: Vec<_> = (0..30).map(|n| n.to_string()).collect();
        assert_eq!(alone.messages(30), all);
        assert_eq!(others[0].messages(30), all);
        let mut found = vec![];
        for member in &mut members {
            member.send(&[0xC0, 0]);
            let mut count = 0;
            while let Some(message) = member.before_pong() {
                found.push(message.text().parse::<u32>().expect("a number"));
                count += 1;
            }
            assert!(count > 0, "a member has got nothing");
        }
        found.sort_unstable();
        assert_eq!(found, (0..30).collect::<Vec<_>>());
    }

    /// v5: MQTT-4.8.2-3
    fn a_member_gets_no_higher_quality_than_it_was_granted(version = V5) {
        let topic = unique("granted");
        let mut members = group(version, &format!("$share/group/{topic}"), 2, 0);
        let mut publisher = Client::new(version, "publisher");
        for n in 0..6 {
            publisher.publish(&Publish::new(&topic, &n.to_string()).qos(2, 0));
        }
        for member in &mut members {
            member.send(&[0xC0, 0]);
            while let Some(message) = member.before_pong() {
                assert_eq!(message.qos(), 0);
            }
        }
    }

    /// v5: MQTT-4.8.2-4
    fn a_delivery_at_qos_2_is_completed_with_the_same_member(version = V5) {
        let topic = unique("completed");
        let share = format!("$share/group/{topic}");
        let connect = absent(version, &share, 2);
        let mut chosen = Client::connect(&connect);
        publish(version, &Publish::new(&topic, "m").qos(2, 0));
        let id = chosen.expect(Kind::Publish).id();
        let mut other = group(version, &share, 1, 2).remove(0);
        chosen.cut();
        other.expect_nothing();
        let mut chosen = Client::connect(&connect);
        let again = chosen.message();
        assert_eq!((again.text(), again.id(), again.dup()), ("m", id, true));
        other.expect_nothing();
    }

    /// v5: MQTT-4.8.2-5
    fn a_delivery_at_qos_2_ends_with_its_members_session(version = V5) {
        let topic = unique("ends");
        let share = format!("$share/group/{topic}");
        let mut chosen = group(version, &share, 1, 2).remove(0);
        publish(version, &Publish::new(&topic, "m").qos(2, 0));
        let id = chosen.expect(Kind::Publish).id();
        chosen.send(&packet::ack(0x50, id));
        chosen.expect_ack(Kind::PubRel, id);
        let mut other = group(version, &share, 1, 2).remove(0);
        chosen.cut();
        other.expect_nothing();
    }

    /// v5: MQTT-4.8.2-6
    fn what_a_member_refuses_goes_to_nobody_else(version = V5) {
        let topic = unique("refused");
        let share = format!("$share/group/{topic}");
        for (qos, ack) in [(1, 0x40), (2, 0x50)] {
            let mut chosen = group(version, &share, 1, 2).remove(0);
            publish(version, &Publish::new(&topic, "m").qos(qos, 0));
            let id = chosen.expect(Kind::Publish).id();
            let mut other = group(version, &share, 1, 2).remove(0);
            chosen.send(&Body::new().u16(id).u8(0x80).packet(ack));
            chosen.expect_nothing();
            other.expect_nothing();
            chosen.unsubscribe(&[&share]);
            other.unsubscribe(&[&share]);
        }
    }

    /// v5: MQTT-3.8.3-4
    fn a_share_without_its_members_own_messages_is_an_error(version = V5) {
        let share = format!("$share/group/{}", unique("local"));
        ends(version, &packet::subscribe(version, 1, &[(&share, 4)], &[]), &[0x81, 0x82]);
    }

    /// v5: MQTT-3.10.4-1
    fn who_has_left_the_group_gets_nothing_more(version = V5) {
        let topic = unique("left");
        let share = format!("$share/group/{topic}");
        let mut members = group(version, &share, 2, 1);
        assert_eq!(members[0].unsubscribe(&[&topic, &share]), [0x11, 0]);
        let mut publisher = Client::new(version, "publisher");
        for n in 0..4 {
            publisher.publish(&Publish::new(&topic, &n.to_string()).qos(1, 0));
        }
        assert_eq!(members[1].messages(4), ["0", "1", "2", "3"]);
        members[0].expect_nothing();
    }

    /// v5: MQTT-3.3.1-9
    fn a_share_brings_no_retained_messages(version = V5) {
        let topic = unique("retained");
        publish(version, &Publish::new(&topic, "kept").qos(1, 0).retained());
        group(version, &format!("$share/group/{topic}"), 1, 1)[0].expect_nothing();
        publish(version, &Publish::new(&topic, "").retained());
    }
}
