//! What is written, byte for byte.

use super::*;
use crate::message::Qos;

const V3: Version = Version::V3;
const V5: Version = Version::V5;

fn written(answer: &Answer, version: Version) -> Vec<u8> {
    fitting(answer, version, None).unwrap()
}

fn fitting(answer: &Answer, version: Version, max_bytes: Option<u32>) -> Result<Vec<u8>, Unsendable> {
    let mut out = BytesMut::new();
    let result = write(answer, version, max_bytes, &mut out);
    assert!(result.is_ok() || out.is_empty(), "nothing is written of what is not sent");
    result.map(|()| out.to_vec())
}

fn accepted() -> ConnAck {
    ConnAck {
        session_present: true,
        reason: Reason::Success,
        session_expiry: None,
        receive_maximum: u16::MAX,
        max_packet_bytes: 0x0004_0000,
        assigned_client_id: None,
        topic_alias_maximum: 0,
        server_keep_alive: None,
        text: None,
        response_information: None,
    }
}

fn refused(reason: Reason, text: Option<&str>) -> Answer {
    let text = text.map(str::to_owned);
    Answer::ConnAck(ConnAck { session_present: false, reason, text, ..accepted() })
}

#[test]
fn acks_are_as_short_as_they_can_be() {
    let ack = |kind, reason| Answer::Ack(Ack { kind, packet_id: 0x0102, reason });
    for (kind, first) in
        [(AckKind::Puback, 0x40), (AckKind::Pubrec, 0x50), (AckKind::Pubrel, 0x62), (AckKind::Pubcomp, 0x70)]
    {
        for version in [V3, V5] {
            assert_eq!(written(&ack(kind, Reason::Success), version), [first, 2, 1, 2]);
        }
    }
    assert_eq!(written(&ack(AckKind::Pubrec, Reason::NotAuthorized), V5), b"\x50\x03\x01\x02\x87");
    assert_eq!(written(&ack(AckKind::Puback, Reason::NoMatchingSubscribers), V5), b"\x40\x03\x01\x02\x10");
}

#[test]
fn in_3_1_1_a_message_that_is_refused_is_never_acknowledged() {
    for kind in [AckKind::Puback, AckKind::Pubrec] {
        let answer = Answer::Ack(Ack { kind, packet_id: 1, reason: Reason::QuotaExceeded });
        assert_eq!(fitting(&answer, V3, None), Err(Unsendable::NoRefusal));
        let answer = Answer::Ack(Ack { kind, packet_id: 1, reason: Reason::NoMatchingSubscribers });
        assert_eq!(written(&answer, V3)[2..], [0, 1]);
    }
    let unknown = Ack { kind: AckKind::Pubcomp, packet_id: 1, reason: Reason::PacketIdentifierNotFound };
    assert_eq!(written(&Answer::Ack(unknown), V3), b"\x70\x02\x00\x01");
}

#[test]
fn codes_of_subscriptions_are_those_of_the_version() {
    let codes = vec![Reason::Success, Reason::GrantedQos2, Reason::TopicFilterInvalid];
    let suback = Answer::SubAck { packet_id: 9, codes };
    assert_eq!(written(&suback, V3), b"\x90\x05\x00\x09\x00\x02\x80");
    assert_eq!(written(&suback, V5), b"\x90\x06\x00\x09\x00\x00\x02\x8f");
    let codes = vec![Reason::Success, Reason::NoSubscriptionExisted];
    let unsuback = Answer::UnsubAck { packet_id: 9, codes };
    assert_eq!(written(&unsuback, V3), b"\xb0\x02\x00\x09");
    assert_eq!(written(&unsuback, V5), b"\xb0\x05\x00\x09\x00\x00\x11");
    let many = Answer::SubAck { packet_id: 9, codes: vec![Reason::NotAuthorized; 200] };
    assert_eq!(written(&many, V5)[..5], [0x90, 0xcb, 0x01, 0, 9]);
}

#[test]
fn a_connack_says_what_the_version_can_say() {
    assert_eq!(written(&Answer::ConnAck(accepted()), V3), b"\x20\x02\x01\x00");
    let plain = b"\x20\x08\x01\x00\x05\x27\x00\x04\x00\x00";
    assert_eq!(written(&Answer::ConnAck(accepted()), V5), plain, "what has the default is left out");
    let all = ConnAck {
        session_present: false,
        session_expiry: Some(60),
        receive_maximum: 100,
        assigned_client_id: Some("id".to_owned()),
        topic_alias_maximum: 5,
        server_keep_alive: Some(30),
        text: Some("hi".to_owned()),
        response_information: Some("r/".to_owned()),
        ..accepted()
    };
    let expected = b"\x20\x25\x00\x00\x22\x11\x00\x00\x00\x3c\x21\x00\x64\x27\x00\x04\x00\x00\x12\x00\x02id\
        \x22\x00\x05\x13\x00\x1e\x1a\x00\x02r/\x1f\x00\x02hi";
    assert_eq!(written(&Answer::ConnAck(all), V5), expected);
}

#[test]
fn a_refused_connect_is_told_its_reason_and_nothing_of_a_session() {
    for (reason, code) in [
        (Reason::UnsupportedProtocolVersion, 1),
        (Reason::ClientIdentifierNotValid, 2),
        (Reason::ServerUnavailable, 3),
        (Reason::ServerBusy, 3),
        (Reason::QuotaExceeded, 3),
        (Reason::BadUserNameOrPassword, 4),
        (Reason::NotAuthorized, 5),
        (Reason::Banned, 5),
    ] {
        assert_eq!(written(&refused(reason, Some("why")), V3), [0x20, 2, 0, code]);
    }
    let text = b"\x20\x09\x00\x87\x06\x1f\x00\x03why";
    assert_eq!(written(&refused(Reason::NotAuthorized, Some("why")), V5), text);
    assert_eq!(written(&refused(Reason::NotAuthorized, None), V5), b"\x20\x03\x00\x87\x00");
}

#[test]
fn a_disconnect_is_of_5_0_alone() {
    let answer = Answer::Disconnect { reason: Reason::SessionTakenOver, text: Some("new".to_owned()) };
    assert_eq!(written(&answer, V3), b"");
    assert_eq!(written(&answer, V5), b"\xe0\x08\x8e\x06\x1f\x00\x03new");
    let bare = Answer::Disconnect { reason: Reason::ServerShuttingDown, text: None };
    assert_eq!(written(&bare, V5), b"\xe0\x02\x8b\x00");
}

#[test]
fn texts_are_left_out_when_the_client_has_no_room_for_them() {
    for (max, expected) in [(8, &b"\xe0\x02\x8e\x00"[..]), (9, b"\xe0\x07\x8e\x05\x1f\x00\x02no")] {
        let answer = Answer::Disconnect { reason: Reason::SessionTakenOver, text: Some("no".to_owned()) };
        assert_eq!(fitting(&answer, V5, Some(max)).unwrap(), expected);
    }
    assert_eq!(fitting(&refused(Reason::Banned, Some("why")), V5, Some(5)).unwrap(), b"\x20\x03\x00\x8a\x00");
    let long = "x".repeat(65_536);
    assert_eq!(written(&refused(Reason::Banned, Some(&long)), V5), b"\x20\x03\x00\x8a\x00");
}

#[test]
fn an_answer_that_the_client_does_not_take_is_not_sent() {
    let suback = Answer::SubAck { packet_id: 9, codes: vec![Reason::Success; 10] };
    assert_eq!(fitting(&suback, V5, Some(14)), Err(Unsendable::TooLarge { bytes: 15, max: 14 }));
    assert!(fitting(&suback, V5, Some(15)).is_ok());
    assert!(fitting(&Answer::PingResp, V5, Some(1)).is_err());
    assert_eq!(written(&Answer::PingResp, V3), b"\xd0\x00");
}

fn delivery<'a>() -> Delivery<'a> {
    Delivery {
        topic: "a/\u{fc}",
        topic_alias: None,
        payload: b"!",
        properties: None,
        message_expiry: None,
        subscription_ids: &[],
        qos: Qos::AtLeastOnce,
        dup: false,
        retain: false,
        packet_id: 0x0203,
    }
}

fn delivered(delivery: &Delivery<'_>, version: Version) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_publish(delivery, version, &mut out);
    assert_eq!(out.len(), publish_bytes(delivery, version));
    out.to_vec()
}

#[test]
fn a_message_is_written_for_the_version_of_its_subscriber() {
    assert_eq!(delivered(&delivery(), V3), b"\x32\x09\0\x04a/\xc3\xbc\x02\x03!");
    assert_eq!(delivered(&delivery(), V5), b"\x32\x0a\0\x04a/\xc3\xbc\x02\x03\x00!");
    let flags = Delivery { qos: Qos::ExactlyOnce, dup: true, retain: true, ..delivery() };
    assert_eq!(delivered(&flags, V3)[0], 0x3d);
    let unacked = Delivery { qos: Qos::AtMostOnce, packet_id: 0, ..delivery() };
    assert_eq!(delivered(&unacked, V3), b"\x30\x07\0\x04a/\xc3\xbc!");
}

#[test]
fn properties_of_a_message_and_of_its_delivery_are_written_in_5_0() {
    let properties = Properties {
        payload_format: Some(1),
        message_expiry: Some(60),
        content_type: Some("j".to_owned()),
        user: [("n", "v")].into_iter().collect(),
        ..Properties::default()
    };
    let rich = Delivery {
        topic: "",
        topic_alias: Some(3),
        properties: Some(&properties),
        message_expiry: Some(9),
        subscription_ids: &[1, 128],
        ..delivery()
    };
    let expected = b"\x32\x20\0\0\x02\x03\x1a\x23\x00\x03\x02\x00\x00\x00\x09\x01\x01\
        \x03\x00\x01j\x26\x00\x01n\x00\x01v\x0b\x01\x0b\x80\x01!";
    assert_eq!(delivered(&rich, V5), expected);
    assert_eq!(delivered(&rich, V3), b"\x32\x05\0\0\x02\x03!");
    let lasting = Delivery { properties: Some(&properties), ..delivery() };
    let expiry = b"\x02\x00\x00\x00\x3c";
    assert!(!delivered(&lasting, V5).windows(5).any(|bytes| bytes == expiry), "only what is left counts");
}
