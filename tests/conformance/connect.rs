//! CONNECT (section 3.1 of both versions).

use crate::prelude::*;

judged! {
    /// v3: MQTT-3.1.0-1 · v5: MQTT-3.1.0-1
    fn the_first_packet_must_be_a_connect(version) {
        let topic = unique("first");
        for packet in [vec![0xC0, 0], packet::subscribe(version, 1, &[(&topic, 0)], &[]), vec![0xE0, 0]] {
            let mut client = Client::open(version);
            client.send(&packet);
            assert!(client.until_closed().is_empty(), "{packet:x?} before the CONNECT must not be answered");
        }
    }

    /// v3: MQTT-3.1.0-2 · v5: MQTT-3.1.0-2, MQTT-3.2.0-2
    fn a_second_connect_ends_the_connection(version) {
        let connect = Connect::new(version, &unique("twice"));
        let mut client = Client::connect(&connect);
        client.send(&connect.packet());
        let reason = client.expect_closed();
        assert!(reason.is_none_or(|reason| reason == 0x82), "{reason:x?}");
    }

    /// v3: MQTT-3.1.2-1 · v5: MQTT-3.1.2-1
    fn another_protocol_name_is_not_taken(version) {
        let body = Body::new().text("MQTX").u8(version.level()).u8(2).u16(60);
        refused(version, &no_properties(version, body).text("name").packet(0x10));
    }

    /// v3: MQTT-3.1.2-2 · v5: MQTT-3.1.2-2
    fn another_protocol_level_is_refused_with_its_code(version) {
        let mut client = Client::open(version);
        // A server of both versions answers an older client as the older one, and a newer one as the newer.
        let (level, code) = if version == V3 { (3, 0x01) } else { (6, 0x84) };
        let body = Body::new().text("MQTT").u8(level).u8(2).u16(60);
        client.send(&no_properties(version, body).text("level").packet(0x10));
        let codes: Vec<_> = client.until_closed().iter().map(Received::reason).collect();
        assert!(codes == [code] || version == V5 && (codes.is_empty() || codes == [1]), "{codes:x?}");
    }

    /// v3: MQTT-3.1.2-3 · v5: MQTT-3.1.2-3
    fn the_reserved_flag_must_be_0(version) {
        let id = unique("reserved");
        refused(version, &connect_head(version, 0b11).text(&id).packet(0x10));
    }

    /// v3: MQTT-3.1.4-1 · v5: MQTT-3.1.4-1
    fn a_connect_that_is_cut_short_or_too_long_is_refused(version) {
        let whole = Connect::new(version, &unique("cut")).packet();
        for length in [0, 1, 6, 9, whole.len() - 3] {
            refused(version, &Body::new().raw(&whole[2..2 + length]).packet(0x10));
        }
        refused(version, &Body::new().raw(&whole[2..]).u8(0).packet(0x10));
    }

    /// v3: MQTT-3.1.3-1, MQTT-3.1.3-3 · v5: MQTT-3.1.3-1, MQTT-3.1.3-3
    fn the_client_id_must_be_there(version) {
        refused(version, &connect_head(version, 2).packet(0x10));
    }

    /// v3: MQTT-3.1.2-19, MQTT-3.1.2-21 · v5: MQTT-3.1.2-17, MQTT-3.1.2-19
    fn user_name_and_password_must_be_there_if_their_flags_say_so(version) {
        let id = unique("flags");
        refused(version, &connect_head(version, 0b1000_0010).text(&id).packet(0x10));
        refused(version, &connect_head(version, 0b1100_0010).text(&id).text("name").packet(0x10));
    }

    /// v3: MQTT-3.1.2-18, MQTT-3.1.2-20 · v5: MQTT-3.1.2-16, MQTT-3.1.2-18
    fn user_name_and_password_must_not_be_there_without_their_flags(version) {
        let id = unique("flags");
        refused(version, &connect_head(version, 2).text(&id).text("name").packet(0x10));
        let both = connect_head(version, 0b1000_0010).text(&id).text("name").text("password");
        refused(version, &both.packet(0x10));
    }

    /// v3: MQTT-3.1.2-22
    fn a_password_without_a_user_name_is_refused(version = V3) {
        let id = unique("flags");
        refused(version, &connect_head(version, 0b0100_0010).text(&id).text("password").packet(0x10));
    }

    /// v3: MQTT-3.1.2-9 · v5: MQTT-3.1.2-9
    fn a_will_must_be_there_if_its_flag_says_so(version) {
        let id = unique("flags");
        let head = || connect_head(version, 0b110).text(&id);
        refused(version, &head().packet(0x10));
        refused(version, &no_properties(version, head()).text("topic").packet(0x10));
    }

    /// v3: MQTT-3.1.2-11 · v5: MQTT-3.1.4-1
    fn a_will_must_not_be_there_without_its_flag(version) {
        let body = connect_head(version, 2).text(&unique("flags"));
        refused(version, &will_fields(version, body, b"topic", b"payload").packet(0x10));
    }

    /// v3: MQTT-3.1.2-13, MQTT-3.1.2-15 · v5: MQTT-3.1.2-11, MQTT-3.1.2-13
    fn qos_and_retain_of_a_will_must_be_0_without_one(version) {
        let id = unique("flags");
        for flags in [0b0000_1010, 0b0001_0010, 0b0010_0010] {
            refused(version, &connect_head(version, flags).text(&id).packet(0x10));
        }
    }

    /// v3: MQTT-3.1.2-14 · v5: MQTT-3.1.2-12
    fn a_will_must_not_have_qos_3(version) {
        let body = connect_head(version, 0b0001_1110).text(&unique("flags"));
        refused(version, &will_fields(version, body, b"topic", b"payload").packet(0x10));
    }

    /// v3: MQTT-3.1.3-5 · v5: MQTT-3.1.3-5
    fn client_ids_of_letters_and_digits_are_allowed(version) {
        let one = Client::connect(&Connect::new(version, if version == V3 { "a" } else { "Z" }));
        one.disconnect();
        for start in ["0123456789abcdefghijkl", "mnopqrstuvwxyzABCDEFGH", "IJKLMNOPQRSTUVWXYZ0123"] {
            let id = format!("{start}{}", version.level());
            assert_eq!(id.len(), 23);
            Client::connect(&Connect::new(version, &id)).disconnect();
        }
    }

    /// v3: MQTT-3.1.3-6 · v5: MQTT-3.1.3-6
    fn clients_without_an_id_do_not_take_each_others_place(version) {
        let mut clients: Vec<_> = (0..3).map(|_| Client::connect(&Connect::new(version, ""))).collect();
        for client in &mut clients {
            client.expect_nothing();
        }
    }

    /// v5: MQTT-3.1.3-7, MQTT-3.2.2-16
    fn a_client_without_an_id_is_told_its_new_one_and_can_come_back_with_it(version = V5) {
        let assigned = |clean| {
            let connect = Connect::new(version, "").with(Prop::SessionExpiry(60));
            let (client, ack) = Client::connected(&Connect { clean, ..connect });
            assert!(!ack.session_present);
            client.disconnect();
            ack.find(|property| match property {
                Prop::AssignedClientId(id) => Some(id.clone()),
                _ => None,
            })
        };
        let (id, other) = (assigned(true).expect("an id is assigned"), assigned(false));
        assert_ne!(other.as_ref(), Some(&id), "the id of another session");
        let (_client, ack) = Client::connected(&Connect::new(version, &id).persistent());
        assert!(ack.session_present, "the session belongs to the id that was assigned");
    }

    /// v3: MQTT-3.1.3-8, MQTT-3.1.3-9, MQTT-3.2.2-4, MQTT-3.2.2-5
    fn a_session_that_is_kept_needs_a_client_id(version = V3) {
        let (mut client, ack) = Client::answered(&Connect::new(version, "").persistent());
        assert_eq!((ack.reason(), ack.session_present), (2, false));
        client.expect_closed();
    }

    /// v3: MQTT-3.1.4-2 · v5: MQTT-3.1.4-3
    fn a_client_that_connects_again_takes_the_place_of_the_first(version) {
        let connect = Connect::new(version, &unique("again"));
        let mut first = Client::connect(&connect);
        let mut second = Client::connect(&connect);
        let reason = first.expect_closed();
        if version == V5 {
            assert_eq!(reason, Some(0x8E));
        }
        second.expect_nothing();
    }

    /// v3: MQTT-3.1.4-5 · v5: MQTT-3.1.4-6
    fn nothing_behind_a_connect_that_is_refused_is_served(version) {
        let topic = unique("behind");
        let mut subscriber = Client::new(version, "subscriber");
        subscriber.subscribe(&[(&topic, 0)]);
        let connect = match version {
            V3 => Connect::new(version, "").persistent(),
            V5 => Connect::new(version, &unique("behind")).with(Prop::AuthenticationMethod("none".into())),
        };
        let mut client = Client::open(version);
        client.send(&[connect.packet(), Publish::new(&topic, "no").packet(version)].concat());
        let answers = client.until_closed();
        assert!(answers.iter().all(|answer| answer.kind() == Kind::ConnAck && answer.reason() != 0));
        subscriber.expect_nothing();
    }

    /// v3: MQTT-3.2.0-1 · v5: MQTT-3.2.0-1
    fn what_is_sent_right_behind_a_connect_is_served_after_the_connack(version) {
        let topic = unique("behind");
        let mut client = Client::open(version);
        let connect = Connect::new(version, &unique("behind")).packet();
        let subscribe = packet::subscribe(version, 7, &[(&topic, 0)], &[]);
        let publish = Publish::new(&topic, "early").packet(version);
        client.send(&[connect, subscribe, publish].concat());
        assert_eq!(client.expect(Kind::ConnAck).reason(), 0);
        client.expect_ack(Kind::SubAck, 7);
        assert_eq!(client.message().text(), "early");
    }
}
