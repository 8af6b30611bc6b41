//! Where packets begin and end (chapter 2 of both versions).

use crate::prelude::*;

judged! {
    /// v3: MQTT-2.2.2-1, MQTT-2.2.2-2 · v5: MQTT-2.1.3-1
    fn reserved_flags_end_the_connection(version) {
        // PUBACK, PUBREC, PUBCOMP, PINGREQ: all reserved. Others have tests of their own.
        for packet in [packet::ack(0x41, 1), packet::ack(0x52, 1), packet::ack(0x74, 1), vec![0xC1, 0], vec![0xC8, 0]] {
            ends(version, &packet, &[0x81]);
        }
        let mut connect = Connect::new(version, &unique("flags")).packet();
        connect[0] = 0x11;
        refused(version, &connect);
    }

    /// v3: MQTT-4.8.0-1 · v5: MQTT-4.13.1-1
    fn a_packet_that_only_a_server_sends_ends_the_connection(version) {
        for packet in [
            vec![0x20, 2, 0, 0],
            vec![0x20, 3, 0, 0, 0],
            vec![0x90, 3, 0, 1, 0],
            vec![0x90, 4, 0, 1, 0, 0],
            vec![0xB0, 2, 0, 1],
            vec![0xB0, 4, 0, 1, 0, 0],
            vec![0xD0, 0],
        ] {
            ends(version, &packet, &[0x81, 0x82]);
        }
    }

    /// v3: MQTT-4.8.0-1 · v5: MQTT-4.13.1-1
    fn a_kind_of_packet_that_does_not_exist_ends_the_connection(version) {
        ends(version, &[0x00, 0], &[0x81, 0x82]);
        if version == V3 {
            ends(version, &[0xF0, 0], &[]);
        }
    }

    /// v3: MQTT-4.8.0-1 · v5: MQTT-4.13.1-1
    fn a_length_of_more_than_four_bytes_ends_the_connection(version) {
        ends(version, &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01], &[0x81, 0x82, 0x95]);
        refused(version, &[0x10, 0x80, 0x80, 0x80, 0x80, 0x01]);
    }

    /// v3: MQTT-4.8.0-1 · v5: MQTT-4.13.1-1
    fn a_packet_of_the_wrong_size_ends_the_connection(version) {
        let all = [vec![0xC0, 1, 0], vec![0x40, 1, 0], vec![0x40, 0], vec![0x62, 1, 7], vec![0x82, 1, 0], vec![0xA2, 0]];
        for packet in all {
            ends(version, &packet, &[0x81, 0x82]);
        }
        if version == V3 {
            for packet in [vec![0xE0, 1, 0], vec![0x40, 3, 0, 1, 0], vec![0x70, 3, 0, 1, 0]] {
                ends(version, &packet, &[]);
            }
        }
    }

    /// v5: MQTT-1.5.5-1
    fn a_length_in_more_bytes_than_it_needs_ends_the_connection(version = V5) {
        // The properties' length of a PUBLISH: 0 in two bytes.
        ends(version, &Body::new().text("long").u8(0x80).u8(0).packet(0x30), &[0x81]);
        // A subscription identifier: 1 in two bytes.
        let identifier = Body::new().u16(1).u8(3).u8(11).u8(0x81).u8(0);
        ends(version, &identifier.text("long").u8(0).packet(0x82), &[0x81, 0x82]);
    }

    /// v3: MQTT-4.5.0-1 · v5: MQTT-4.5.0-1
    fn packets_may_come_in_any_pieces(version) {
        let topic = unique("pieces");
        let mut client = Client::open(version);
        let mut all = vec![Connect::new(version, &unique("pieces")).packet()];
        all.push(packet::subscribe(version, 1, &[(&topic, 1)], &[]));
        for n in 0..5 {
            all.push(Publish::new(&topic, &n.to_string()).qos(1, 10 + n).packet(version));
        }
        let bytes = all.concat();
        let (single, rest) = bytes.split_at(60);
        for byte in single {
            client.send(&[*byte]);
        }
        for piece in rest.chunks(7) {
            client.send(piece);
        }
        client.expect(Kind::ConnAck);
        client.expect_ack(Kind::SubAck, 1);
        for n in 0..5 {
            client.expect_ack(Kind::PubAck, 10 + n);
        }
        assert_eq!(client.messages(5), ["0", "1", "2", "3", "4"]);
    }

    /// v3: MQTT-4.8.0-1 · v5: MQTT-4.13.1-1
    fn what_is_behind_an_error_is_not_served(version) {
        let topic = unique("error");
        let (mut subscriber, mut publisher) = pair(version, &topic, 0);
        let bad = vec![0x62 ^ 2, 2, 0, 1];
        publisher.send(&[bad, Publish::new(&topic, "no").packet(version)].concat());
        publisher.expect_closed();
        subscriber.expect_nothing();
    }
}
