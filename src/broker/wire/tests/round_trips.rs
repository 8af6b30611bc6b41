//! What a client that uses `rumqttc` sends is read here, and what is written here such a client reads.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;

use super::packets::*;
use super::*;
use crate::message::Qos;

const V3: Version = Version::V3;
const V5: Version = Version::V5;
const LARGE: usize = 1 << 20;

fn read_by_v4(mut bytes: BytesMut) -> v4::Packet {
    let packet = v4::Packet::read(&mut bytes, LARGE).unwrap();
    assert!(bytes.is_empty());
    packet
}

fn read_by_v5(mut bytes: BytesMut) -> v5::Packet {
    let packet = v5::Packet::read(&mut bytes, None).unwrap();
    assert!(bytes.is_empty());
    packet
}

fn written(answer: &Answer, version: Version) -> BytesMut {
    let mut out = BytesMut::new();
    write(answer, version, None, &mut out).unwrap();
    out
}

/// One or two identifiers: more are misread by `rumqttc`.
fn any_ids() -> impl Strategy<Value = Vec<u32>> {
    prop_oneof![Just(vec![]), vec(1..100_u32, 1..3)]
}

fn delivery<'a>(publish: &'a Publish, ids: &'a [u32]) -> Delivery<'a> {
    Delivery {
        topic: &publish.topic,
        topic_alias: publish.topic_alias,
        payload: &publish.payload,
        properties: publish.properties.as_deref(),
        message_expiry: publish.properties.as_deref().and_then(|properties| properties.message_expiry),
        subscription_ids: ids,
        qos: publish.qos,
        dup: publish.dup,
        retain: publish.retain,
        packet_id: publish.packet_id,
    }
}

fn put(delivery: &Delivery<'_>, version: Version) -> BytesMut {
    let mut out = BytesMut::new();
    put_publish(delivery, version, &mut out);
    assert_eq!(out.len(), publish_bytes(delivery, version));
    out
}

fn assert_read(version: Version, packet: &Packet) {
    let mut input = bytes_of(packet, version);
    assert_eq!(next(&mut input, version, LARGE, true), Ok(Next::Packet(packet.clone())));
    assert!(input.is_empty());
}

proptest! {
    #[test]
    fn packets_of_a_client_of_3_1_1_are_read(packet in any_packet(V3)) {
        assert_read(V3, &packet);
    }

    #[test]
    fn packets_of_a_client_of_5_0_are_read(packet in any_packet(V5)) {
        assert_read(V5, &packet);
    }

    #[test]
    fn connects_of_clients_of_both_versions_are_read(v3 in any_connect(V3), v5 in any_connect(V5)) {
        for connect in [v3, v5] {
            let mut input = connect_bytes(&connect);
            prop_assert_eq!(take_connect(&mut input, LARGE), Ok(Some(connect)));
            prop_assert!(input.is_empty());
        }
    }

    #[test]
    fn messages_are_read_by_a_client_of_3_1_1(publish in any_publish(V3)) {
        let expected = v4::Publish {
            dup: publish.dup,
            qos: v4_qos(publish.qos),
            retain: publish.retain,
            topic: publish.topic.clone(),
            pkid: publish.packet_id,
            payload: publish.payload.clone(),
        };
        prop_assert_eq!(read_by_v4(put(&delivery(&publish, &[7]), V3)), v4::Packet::Publish(expected));
    }

    #[test]
    fn messages_are_read_by_a_client_of_5_0(publish in any_publish(V5), ids in any_ids()) {
        let expected = v5::Publish {
            dup: publish.dup,
            qos: v5_qos(publish.qos),
            retain: publish.retain,
            topic: publish.topic.clone().into(),
            pkid: publish.packet_id,
            payload: publish.payload.clone(),
            properties: v5_properties(publish.properties.as_deref(), publish.topic_alias, &ids),
        };
        prop_assert_eq!(read_by_v5(put(&delivery(&publish, &ids), V5)), v5::Packet::Publish(expected));
    }

    /// What is written for a subscriber is what a publisher would have sent, but for the identifiers.
    #[test]
    fn messages_are_read_here_as_they_were_written(publish in any_publish(V5)) {
        prop_assert_eq!(packet_of(put(&delivery(&publish, &[]), V5)), Packet::Publish(publish));
    }

    #[test]
    fn acks_are_read_by_clients_of_both_versions(ack in any_ack(V5)) {
        prop_assert_eq!(read_by_v5(written(&Answer::Ack(ack), V5)), v5_ack(ack));
        let ack = Ack { reason: Reason::Success, ..ack };
        let bytes = written(&Answer::Ack(ack), V3);
        prop_assert_eq!(read_by_v4(bytes), read_by_v4(bytes_of(&Packet::Ack(ack), V3)));
    }

    #[test]
    fn connacks_are_read_by_clients_of_5_0(
        session_expiry in option::of(any::<u32>()),
        receive_maximum in 1..=u16::MAX,
        max_packet_bytes in 1..=u32::MAX,
        assigned_client_id in option::of("[a-z]{0,30}"),
        topic_alias_maximum in any::<u16>(),
        server_keep_alive in option::of(any::<u16>()),
        text in option::of("[a-z \u{e9}]{0,150}"),
        response_information in option::of(topic()),
    ) {
        let ack = ConnAck {
            session_present: true, reason: Reason::Success, session_expiry, receive_maximum, max_packet_bytes,
            assigned_client_id, topic_alias_maximum, server_keep_alive, text, response_information,
        };
        let v5::Packet::ConnAck(read) = read_by_v5(written(&Answer::ConnAck(ack.clone()), V5)) else { panic!() };
        prop_assert_eq!((read.session_present, read.code), (true, v5::ConnectReturnCode::Success));
        let read = read.properties.unwrap();
        let expected = v5::ConnAckProperties {
            session_expiry_interval: session_expiry,
            receive_max: Some(receive_maximum).filter(|count| *count != u16::MAX),
            max_qos: None,
            retain_available: None,
            max_packet_size: Some(max_packet_bytes),
            assigned_client_identifier: ack.assigned_client_id,
            topic_alias_max: Some(topic_alias_maximum).filter(|count| *count != 0),
            reason_string: ack.text,
            user_properties: Vec::new(),
            wildcard_subscription_available: None,
            subscription_identifiers_available: None,
            shared_subscription_available: None,
            server_keep_alive,
            response_information: ack.response_information,
            server_reference: None,
            authentication_method: None,
            authentication_data: None,
        };
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn codes_are_read_by_clients_of_both_versions(granted in vec(option::of(any_qos()), 1..200)) {
        let codes = granted.iter().map(|qos| match qos {
            Some(Qos::AtMostOnce) => Reason::Success,
            Some(Qos::AtLeastOnce) => Reason::GrantedQos1,
            Some(Qos::ExactlyOnce) => Reason::GrantedQos2,
            None => Reason::NotAuthorized,
        });
        let suback = Answer::SubAck { packet_id: 9, codes: codes.collect() };
        let v4 = granted.iter().map(|qos| {
            qos.map_or(v4::SubscribeReasonCode::Failure, |qos| v4::SubscribeReasonCode::Success(v4_qos(qos)))
        });
        let v4 = v4::Packet::SubAck(v4::SubAck::new(9, v4.collect()));
        prop_assert_eq!(read_by_v4(written(&suback, V3)), v4);
        let v5 = granted.iter().map(|qos| {
            qos.map_or(v5::SubscribeReasonCode::NotAuthorized, |qos| v5::SubscribeReasonCode::Success(v5_qos(qos)))
        });
        let v5 = v5::SubAck { pkid: 9, return_codes: v5.collect(), properties: None };
        prop_assert_eq!(read_by_v5(written(&suback, V5)), v5::Packet::SubAck(v5));
    }
}

fn packet_of(mut bytes: BytesMut) -> Packet {
    match next(&mut bytes, V5, LARGE, true) {
        Ok(Next::Packet(packet)) => packet,
        other => panic!("{other:?}"),
    }
}

#[test]
fn other_answers_are_read_by_clients_of_both_versions() {
    assert_eq!(read_by_v4(written(&Answer::PingResp, V3)), v4::Packet::PingResp);
    assert_eq!(read_by_v5(written(&Answer::PingResp, V5)), v5::Packet::PingResp(v5::PingResp));
    let unsuback =
        Answer::UnsubAck { packet_id: 9, codes: vec![Reason::Success, Reason::NoSubscriptionExisted] };
    assert_eq!(read_by_v4(written(&unsuback, V3)), v4::Packet::UnsubAck(v4::UnsubAck::new(9)));
    let reasons = vec![v5::UnsubAckReason::Success, v5::UnsubAckReason::NoSubscriptionExisted];
    let expected = v5::UnsubAck { pkid: 9, reasons, properties: None };
    assert_eq!(read_by_v5(written(&unsuback, V5)), v5::Packet::UnsubAck(expected));
}

/// Also when there is no text, where the length of the properties could be left out: `rumqttc` needs it.
#[test]
fn disconnects_are_read_by_clients_of_5_0() {
    for text in [None, Some("why".to_owned())] {
        let answer = Answer::Disconnect { reason: Reason::SessionTakenOver, text: text.clone() };
        let v5::Packet::Disconnect(read) = read_by_v5(written(&answer, V5)) else { panic!() };
        assert_eq!(read.reason_code, v5::DisconnectReasonCode::SessionTakenOver);
        assert_eq!(read.properties.and_then(|properties| properties.reason_string), text);
    }
}

#[test]
fn return_codes_of_a_connack_are_read_by_a_client_of_3_1_1() {
    use v4::ConnectReturnCode;
    for (reason, code) in [
        (Reason::Success, ConnectReturnCode::Success),
        (Reason::UnsupportedProtocolVersion, ConnectReturnCode::RefusedProtocolVersion),
        (Reason::ClientIdentifierNotValid, ConnectReturnCode::BadClientId),
        (Reason::ServerBusy, ConnectReturnCode::ServiceUnavailable),
        (Reason::BadUserNameOrPassword, ConnectReturnCode::BadUserNamePassword),
        (Reason::NotAuthorized, ConnectReturnCode::NotAuthorized),
    ] {
        let ack = ConnAck {
            session_present: false,
            reason,
            session_expiry: None,
            receive_maximum: u16::MAX,
            max_packet_bytes: 1,
            assigned_client_id: None,
            topic_alias_maximum: 0,
            server_keep_alive: None,
            text: None,
            response_information: None,
        };
        let expected = v4::Packet::ConnAck(v4::ConnAck::new(code, false));
        assert_eq!(read_by_v4(written(&Answer::ConnAck(ack), V3)), expected);
    }
}
