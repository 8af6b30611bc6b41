//! What is taken, and what becomes of it.

use bytes::Bytes;

use super::*;
use crate::message::Qos;

const V3: Version = Version::V3;
const V5: Version = Version::V5;

#[test]
fn packets_are_taken_one_after_another() {
    let mut input = BytesMut::from(&b"\x3d\x06\x00\x01a\x00\x07!\xc0\x00\xe0"[..]);
    let Next::Packet(Packet::Publish(publish)) = next(&mut input, V3, 100, true).unwrap() else { panic!() };
    let expected = Publish {
        dup: true,
        qos: Qos::ExactlyOnce,
        retain: true,
        packet_id: 7,
        topic: "a".to_owned(),
        topic_alias: None,
        payload: Bytes::from_static(b"!"),
        properties: None,
    };
    assert_eq!(publish, expected);
    assert_eq!(next(&mut input, V3, 100, true), Ok(Next::Packet(Packet::PingReq)));
    assert_eq!(next(&mut input, V3, 100, true), Ok(Next::Incomplete));
    assert_eq!(&input[..], b"\xe0");
}

#[test]
fn a_held_publish_stays_where_it_is_and_other_packets_pass_until_it() {
    let mut input = BytesMut::from(&b"\xc0\x00\x30\x03\x00\x01a"[..]);
    assert_eq!(next(&mut input, V3, 100, false), Ok(Next::Packet(Packet::PingReq)));
    assert_eq!(next(&mut input, V3, 100, false), Ok(Next::Held));
    assert!(matches!(next(&mut input, V3, 100, true), Ok(Next::Packet(Packet::Publish(_)))));
}

#[test]
fn the_bound_on_a_packet_holds_as_soon_as_its_length_is_known() {
    for version in [V3, V5] {
        let large = BadPacket::TooLarge { bytes: 1_003, max: MAX_BYTES };
        assert_eq!(taken(version, b"\x30\xe8\x07"), Err(large));
        assert_eq!(taken(version, b"\x30\xe5\x07"), Ok(Next::Incomplete));
        assert_eq!(taken(version, b"\x30\x80\x80\x80"), Ok(Next::Incomplete));
    }
    let large = BadPacket::TooLarge { bytes: 65_539, max: MAX_BYTES };
    assert_eq!(connected(b"\x10\xff\xff\x03"), Err(ConnectError::Bad { bad: large, version: None }));
}

#[test]
fn the_properties_of_a_message_are_kept() {
    let properties = b"\x01\x01\x02\x00\x00\x00\x3c\x03\x00\x01j\x08\x00\x02r/\x09\x00\x02\x00\xff\
        \x26\x00\x01n\x00\x01v\x23\x01\x02\x26\x00\x01n\x00\x00";
    let length = u8::try_from(properties.len()).unwrap();
    let publish =
        publish(V5, &framed(0x32, &[b"\x00\x01a\x00\x07", &[length][..], properties, b"!"].concat()));
    assert_eq!((publish.topic_alias, publish.packet_id), (Some(0x0102), 7));
    assert_eq!(&publish.payload[..], b"!");
    let kept = *publish.properties.unwrap();
    let expected = Properties {
        payload_format: Some(1),
        message_expiry: Some(60),
        content_type: Some("j".to_owned()),
        response_topic: Some("r/".to_owned()),
        correlation_data: Some(Bytes::from_static(b"\x00\xff")),
        user: [("n", "v"), ("n", "")].into_iter().collect(),
    };
    assert_eq!(kept, expected);
}

#[test]
fn a_message_without_properties_has_none_even_with_an_alias() {
    assert_eq!(publish(V5, b"\x30\x05\x00\x01a\x00!").properties, None);
    let aliased = publish(V5, b"\x30\x07\x00\x00\x03\x23\x00\x09!");
    assert_eq!((aliased.topic.as_str(), aliased.topic_alias, aliased.properties), ("", Some(9), None));
}

#[test]
fn a_payload_is_not_judged_by_its_format_indicator() {
    let publish = publish(V5, b"\x30\x07\x00\x01a\x02\x01\x01\xff");
    assert_eq!(publish.properties.unwrap().payload_format, Some(1));
}

#[test]
fn acks_may_leave_out_what_says_nothing() {
    let ack = |kind, reason| Packet::Ack(Ack { kind, packet_id: 1, reason });
    assert_eq!(packet(V3, b"\x40\x02\x00\x01"), ack(AckKind::Puback, Reason::Success));
    assert_eq!(packet(V3, b"\x62\x02\x00\x01"), ack(AckKind::Pubrel, Reason::Success));
    assert_eq!(packet(V5, b"\x40\x02\x00\x01"), ack(AckKind::Puback, Reason::Success));
    assert_eq!(packet(V5, b"\x50\x03\x00\x01\x97"), ack(AckKind::Pubrec, Reason::QuotaExceeded));
    let not_found = ack(AckKind::Pubcomp, Reason::PacketIdentifierNotFound);
    assert_eq!(packet(V5, b"\x70\x04\x00\x01\x92\x00"), not_found);
    let with_text = b"\x70\x0e\x00\x01\x92\x0a\x1f\x00\x00\x26\x00\x01n\x00\x01v";
    assert_eq!(packet(V5, with_text), not_found);
}

#[test]
fn subscriptions_are_taken_with_their_options() {
    let bytes = b"\x82\x14\x00\x01\x09\x0b\x80\x01\x26\x00\x00\x00\x01v\x00\x01a\x2e\x00\x01#\x11";
    let Packet::Subscribe(subscribe) = packet(V5, bytes) else { panic!() };
    assert_eq!((subscribe.packet_id, subscribe.identifier), (1, Some(128)));
    let wanted = |filter: &str, qos, yes, retain_handling| Wanted {
        filter: filter.to_owned(),
        qos,
        no_local: yes,
        retain_as_published: yes,
        retain_handling,
    };
    let expected = [
        wanted("a", Qos::ExactlyOnce, true, RetainHandling::Never),
        wanted("#", Qos::AtLeastOnce, false, RetainHandling::IfNew),
    ];
    assert_eq!(subscribe.filters, expected);
    let Packet::Subscribe(old) = packet(V3, b"\x82\x06\x00\x01\x00\x01a\x02") else { panic!() };
    assert_eq!(old.filters, [wanted("a", Qos::ExactlyOnce, false, RetainHandling::Always)]);
    let Packet::Unsubscribe(unsubscribe) = packet(V5, b"\xa2\x09\x00\x01\x00\x00\x01a\x00\x01#") else {
        panic!()
    };
    assert_eq!(unsubscribe.filters, ["a", "#"]);
}

#[test]
fn a_disconnect_may_be_as_short_as_it_likes() {
    let disconnect = |reason, session_expiry| Packet::Disconnect(Disconnect { reason, session_expiry });
    for version in [V3, V5] {
        assert_eq!(packet(version, b"\xe0\x00"), disconnect(Reason::Success, None));
    }
    assert_eq!(packet(V5, b"\xe0\x01\x04"), disconnect(Reason::DisconnectWithWill, None));
    assert_eq!(packet(V5, b"\xe0\x02\x81\x00"), disconnect(Reason::MalformedPacket, None));
    let with_expiry = b"\xe0\x0a\x00\x08\x11\x00\x00\x00\x3c\x1f\x00\x00";
    assert_eq!(packet(V5, with_expiry), disconnect(Reason::Success, Some(60)));
}

#[test]
fn an_auth_is_recognised() {
    assert_eq!(packet(V5, b"\xf0\x0a\x18\x08\x15\x00\x01m\x16\x00\x01d"), Packet::Auth);
}

#[test]
fn a_length_may_be_padded_in_3_1_1_which_does_not_forbid_it() {
    assert_eq!(packet(V3, b"\xc0\x80\x00"), Packet::PingReq);
}

#[test]
fn a_connect_of_3_1_1_is_read() {
    let plain = connected(&super::connect(V3, 0x02, b"", b"")).unwrap().unwrap();
    let expected = Connect {
        version: V3,
        client_id: "c".to_owned(),
        clean_start: true,
        keep_alive: 60,
        session_expiry: 0,
        receive_maximum: u16::MAX,
        max_packet_bytes: None,
        topic_alias_maximum: 0,
        request_problem_information: true,
        request_response_information: false,
        authentication_method: None,
        will: None,
        user_name: None,
        password: None,
    };
    assert_eq!(plain, expected);
    let all = super::connect(V3, 0xf4, b"", b"\x00\x01w\x00\x01!\x00\x00\x00\x02\xff\x00");
    let all = connected(&all).unwrap().unwrap();
    let will = Will {
        topic: "w".to_owned(),
        payload: Bytes::from_static(b"!"),
        qos: Qos::ExactlyOnce,
        retain: true,
        delay: 0,
        properties: None,
    };
    let expected = Connect {
        clean_start: false,
        session_expiry: u32::MAX,
        will: Some(Box::new(will)),
        user_name: Some(String::new()),
        password: Some(Password::new(b"\xff\x00")),
        ..expected
    };
    assert_eq!(all, expected, "a password is binary, a user name may be empty");
}

#[test]
fn a_connect_of_5_0_is_read() {
    let properties = b"\x11\xff\xff\xff\xff\x21\x00\x0a\x27\x00\x00\x02\x00\x22\x00\x05\x19\x01\x17\x00\
        \x15\x00\x01m\x16\x00\x01d\x26\x00\x01n\x00\x01v";
    let will = b"\x0c\x18\x00\x00\x00\x09\x26\x00\x01n\x00\x01v\x00\x01w\x00\x00";
    let rest = [&will[..], b"\x00\x01p"].concat();
    let connect = connected(&super::connect(V5, 0x46, properties, &rest)).unwrap().unwrap();
    let will = Will {
        topic: "w".to_owned(),
        payload: Bytes::new(),
        qos: Qos::AtMostOnce,
        retain: false,
        delay: 9,
        properties: Some(Box::new(Properties {
            user: [("n", "v")].into_iter().collect(),
            ..Properties::default()
        })),
    };
    let expected = Connect {
        version: V5,
        client_id: "c".to_owned(),
        clean_start: true,
        keep_alive: 60,
        session_expiry: u32::MAX,
        receive_maximum: 10,
        max_packet_bytes: Some(512),
        topic_alias_maximum: 5,
        request_problem_information: false,
        request_response_information: true,
        authentication_method: Some("m".to_owned()),
        will: Some(Box::new(will)),
        user_name: None,
        password: Some(Password::new(b"p")),
    };
    assert_eq!(connect, expected, "5.0 has passwords without a user name (3.1.2.9)");
    assert!(!format!("{connect:?}").contains("112"), "the password is not printed");
}

#[test]
fn a_connect_that_has_not_come_yet_is_waited_for_and_what_follows_is_left() {
    for version in [V3, V5] {
        let whole = super::connect(version, 0x02, b"", b"");
        for end in 0..whole.len() {
            assert_eq!(connected(&whole[..end]), Ok(None), "{end}");
        }
        let mut input = BytesMut::from(&[&whole[..], b"\xc0\x00"].concat()[..]);
        assert!(take_connect(&mut input, MAX_BYTES).unwrap().is_some());
        assert_eq!(&input[..], b"\xc0\x00");
    }
}

#[test]
fn other_versions_are_told_so_in_a_form_that_they_know() {
    let refused = Reason::UnsupportedProtocolVersion;
    for (body, level, form) in [
        (&b"\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01c"[..], 3, V3),
        (b"\x00\x04MQTT\x00", 0, V3),
        (b"\x00\x04MQTT\x06\x02\x00\x3c\x00\x00\x01c", 6, V5),
        (b"\x00\x04MQTT\x84\x02\x00\x3c\x00\x01c", 0x84, V5),
    ] {
        let error = connected(&framed(0x10, body)).unwrap_err();
        assert_eq!(error, ConnectError::Version(level));
        assert_eq!(error.answer(), Some((form, refused)));
    }
}

#[test]
fn a_bad_connect_is_answered_in_5_0_alone() {
    let answer = |version| connected(&super::connect(version, 0x03, b"", b"")).unwrap_err().answer();
    assert_eq!(answer(V3), None);
    assert_eq!(answer(V5), Some((V5, Reason::MalformedPacket)));
    assert_eq!(connected(b"\xc0").unwrap_err().answer(), None);
}

#[test]
fn an_empty_client_id_needs_a_clean_session_in_3_1_1() {
    let empty = |version, level, flags| {
        let properties = if version == V5 { &b"\x00"[..] } else { b"" };
        connected(&framed(
            0x10,
            &[b"\x00\x04MQTT", &[level, flags, 0, 60][..], properties, b"\x00\x00"].concat(),
        ))
    };
    assert!(empty(V3, 4, 0x02).unwrap().is_some());
    assert!(empty(V5, 5, 0x00).unwrap().is_some());
    let refused = empty(V3, 4, 0x00).unwrap_err();
    assert_eq!(refused.answer(), Some((V3, Reason::ClientIdentifierNotValid)));
}

#[test]
fn a_client_id_has_a_bound() {
    let connect = |bytes: usize| {
        let id = vec![b'i'; bytes];
        let id = [&u16::try_from(bytes).unwrap().to_be_bytes(), &id[..]].concat();
        let body = [&b"\x00\x04MQTT\x05\x02\x00\x3c\x00"[..], &id].concat();
        let length =
            [u8::try_from(body.len() & 0x7f).unwrap() | 0x80, u8::try_from(body.len() >> 7).unwrap()];
        connected(&[&[0x10], &length[..], &body].concat())
    };
    assert!(connect(256).unwrap().is_some());
    assert_eq!(connect(257).unwrap_err().answer(), Some((V5, Reason::ClientIdentifierNotValid)));
}
