//! Where the codec of `rumqttc` 0.25.1 is wrong or lax: the bytes of docs/decisions/0004-codec.md.
//! When one of these fails after an update, that page is to be looked at again.

use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5;

use super::*;

const V3: Version = Version::V3;
const V5: Version = Version::V5;

fn v4_read(bytes: &[u8]) -> Result<v4::Packet, String> {
    v4::Packet::read(&mut BytesMut::from(bytes), MAX_BYTES).map_err(|error| error.to_string())
}

fn v5_read(bytes: &[u8]) -> Result<v5::Packet, String> {
    v5::Packet::read(&mut BytesMut::from(bytes), None).map_err(|error| error.to_string())
}

#[test]
fn rumqttc_refuses_packets_of_5_0_that_are_right() {
    for bytes in [
        // DISCONNECT with nothing, as every client sends it, and with a reason alone.
        &b"\xe0\x00"[..],
        b"\xe0\x01\x04",
        b"\xf0\x06\x18\x04\x15\x00\x01m",
    ] {
        assert!(v5_read(bytes).is_err(), "{bytes:02x?}");
        assert!(matches!(taken(V5, bytes), Ok(Next::Packet(_))), "{bytes:02x?}");
    }
}

#[test]
fn rumqttc_lets_packets_through_that_break_a_statement_of_5_0() {
    for (statement, bytes) in [
        ("MQTT-1.5.4-1", &b"\x30\x05\x00\x02\xc3\x28\x00"[..]),
        ("MQTT-1.5.4-2", b"\x30\x04\x00\x01\x00\x00"),
        ("MQTT-1.5.5-1", b"\x30\x05\x00\x01a\x80\x00"),
        ("MQTT-2.1.3-1", b"\x60\x02\x00\x01"),
        ("MQTT-2.2.1-3", b"\x40\x02\x00\x00"),
        ("MQTT-2.2.1-3", b"\x82\x07\x00\x00\x00\x00\x01a\x00"),
        ("MQTT-2.2.2.2", b"\x30\x0a\x00\x01a\x06\x23\x00\x01\x23\x00\x01"),
        ("MQTT-2.2.2.2", b"\x30\x06\x00\x01a\x02\x01\x02"),
        ("MQTT-3.3.1-2", b"\x38\x04\x00\x01a\x00"),
        ("MQTT-3.3.2-2", b"\x30\x04\x00\x01#\x00"),
        ("MQTT-4.7.3-1", b"\x30\x03\x00\x00\x00"),
        ("MQTT-3.3.2-8", b"\x30\x07\x00\x01a\x03\x23\x00\x00"),
        ("MQTT-3.3.2-14", b"\x30\x08\x00\x01a\x04\x08\x00\x01#"),
        ("MQTT-3.3.4-6", b"\x30\x06\x00\x01a\x02\x0b\x01"),
        ("MQTT-3.8.2.1.2", b"\x82\x09\x00\x01\x02\x0b\x00\x00\x01a\x00"),
        ("MQTT-3.8.3-4", b"\x82\x10\x00\x01\x00\x00\x0a$share/g/a\x04"),
        ("MQTT-3.8.3-5", b"\x82\x07\x00\x01\x00\x00\x01a\x40"),
        ("MQTT-3.10.3-2", b"\xa2\x03\x00\x01\x00"),
        ("MQTT-3.14.2-1", b"\xe0\x02\x8e\x00"),
        // The properties reach into the payload; bytes behind the end.
        ("MQTT-4.13.1-1", b"\x30\x08\x00\x01a\x01\x01\x00!!"),
        ("MQTT-4.13.1-1", b"\x40\x05\x00\x01\x00\x00\x00"),
        ("MQTT-4.13.1-1", b"\xc0\x01\x00"),
    ] {
        assert!(v5_read(bytes).is_ok(), "{bytes:02x?}: {:?}", v5_read(bytes));
        let Err(BadPacket::Violation { statement: broken, .. }) = taken(V5, bytes) else {
            panic!("{bytes:02x?}")
        };
        assert_eq!(broken, statement, "{bytes:02x?}");
    }
}

#[test]
fn rumqttc_lets_packets_through_that_break_a_statement_of_3_1_1() {
    for (statement, bytes) in [
        ("MQTT-1.5.3-2", &b"\x30\x03\x00\x01\x00"[..]),
        ("MQTT-2.2.2-2", b"\x41\x02\x00\x01"),
        ("MQTT-2.3.1-1", b"\x40\x02\x00\x00"),
        ("MQTT-3.3.1-2", b"\x38\x03\x00\x01a"),
        ("MQTT-3.3.2-2", b"\x30\x03\x00\x01#"),
        ("MQTT-3.8.3-4", b"\x82\x06\x00\x01\x00\x01a\x04"),
        ("MQTT-3.10.3-2", b"\xa2\x02\x00\x01"),
        ("MQTT-4.8.0-1", b"\x40\x03\x00\x01\x00"),
    ] {
        assert!(v4_read(bytes).is_ok(), "{bytes:02x?}: {:?}", v4_read(bytes));
        let Err(BadPacket::Violation { statement: broken, .. }) = taken(V3, bytes) else {
            panic!("{bytes:02x?}")
        };
        assert_eq!(broken, statement, "{bytes:02x?}");
    }
}

/// It counts each Subscription Identifier one byte too long, so that it ends the properties too early.
#[test]
fn rumqttc_takes_a_property_behind_a_subscription_identifier_for_payload() {
    let read = |properties: &[u8]| {
        let length = u8::try_from(properties.len()).unwrap();
        let body = [&b"\x00\x01a"[..], &[length], properties, b"!"].concat();
        let v5::Packet::Publish(publish) = v5_read(&framed(0x30, &body)).unwrap() else { panic!() };
        publish.payload.to_vec()
    };
    assert_eq!(read(b"\x0b\x01\x0b\x02\x0b\x03"), b"\x0b\x03!");
    assert_eq!(read(b"\x0b\x01\x0b\x02"), b"!");
}

#[test]
fn rumqttc_writes_lengths_that_are_wrong() {
    let mut out = BytesMut::new();
    v5::Disconnect::new(v5::DisconnectReasonCode::SessionTakenOver).write(&mut out).unwrap();
    assert_eq!(&out[..], b"\xe0\x01\x8e\x00", "two bytes behind a length of one");

    let mut out = BytesMut::new();
    let mut publish = v5::Publish::new("a", QoS::AtMostOnce, "", None);
    publish.properties = Some(v5::PublishProperties {
        content_type: Some("x".repeat(65_536)),
        ..v5::PublishProperties::default()
    });
    publish.write(&mut out).unwrap();
    assert_eq!(out[10..13], *b"\x03\x00\x00", "the length of a text is cut to 16 bits");

    let mut out = BytesMut::new();
    v4::Packet::Publish(v4::Publish::new("a", rumqttc::QoS::AtLeastOnce, ""))
        .write(&mut out, 100)
        .unwrap_err();
    assert!(!out.is_empty(), "what it could not write is left in the output");
}

#[test]
#[should_panic(expected = "entered unreachable code")]
fn rumqttc_panics_on_a_return_code_of_the_other_version() {
    let code = v5::ConnectReturnCode::BadClientId;
    let ack = v5::ConnAck { session_present: false, code, properties: None };
    drop(ack.write(&mut BytesMut::new()));
}
