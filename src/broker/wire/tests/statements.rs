//! A packet for each statement that it breaks.

use std::collections::BTreeSet;

use super::*;

const V3: Version = Version::V3;
const V5: Version = Version::V5;

/// Statement, packet that breaks it.
type Case = (&'static str, &'static [u8]);

/// In both versions.
const ANY: &[Case] = &[
    ("MQTT-3.1.0-2", b"\x10\x00"),
    ("MQTT-3.3.1-2", b"\x38"),
    ("MQTT-3.3.1-2", b"\x39\x03\x00\x01a"),
    ("MQTT-3.3.1-4", b"\x36"),
    ("MQTT-3.3.1-4", b"\x3f\x03\x00\x01a"),
];

const ANY_3_1_1: &[Case] = &[
    // Forbidden types, and packets that only a server sends, at their first byte.
    ("MQTT-2.2.1", b"\x00"),
    ("MQTT-2.2.1", b"\xf0"),
    ("MQTT-2.2.1", b"\x20"),
    ("MQTT-2.2.1", b"\x90"),
    ("MQTT-2.2.1", b"\xb0"),
    ("MQTT-2.2.1", b"\xd0"),
    ("MQTT-2.2.2-2", b"\x11"),
    ("MQTT-2.2.2-2", b"\x41"),
    ("MQTT-2.2.2-2", b"\x52"),
    ("MQTT-2.2.2-2", b"\x60"),
    ("MQTT-2.2.2-2", b"\x78"),
    ("MQTT-2.2.2-2", b"\x80"),
    ("MQTT-2.2.2-2", b"\x83"),
    ("MQTT-2.2.2-2", b"\xa0"),
    ("MQTT-2.2.2-2", b"\xc1"),
    ("MQTT-2.2.2-2", b"\xe4"),
    ("MQTT-2.2.3", b"\x30\x80\x80\x80\x80"),
    ("MQTT-1.5.3-1", b"\x30\x04\x00\x02\xc3\x28"),
    // A surrogate, an overlong form, a number beyond Unicode.
    ("MQTT-1.5.3-1", b"\x30\x05\x00\x03\xed\xa0\x80"),
    ("MQTT-1.5.3-1", b"\x30\x04\x00\x02\xc0\x80"),
    ("MQTT-1.5.3-1", b"\x30\x06\x00\x04\xf4\x90\x80\x80"),
    ("MQTT-1.5.3-1", b"\x82\x06\x00\x01\x00\x01\xff\x00"),
    ("MQTT-1.5.3-1", b"\xa2\x05\x00\x01\x00\x01\xff"),
    ("MQTT-1.5.3-2", b"\x30\x03\x00\x01\x00"),
    ("MQTT-1.5.3-2", b"\x82\x06\x00\x01\x00\x01\x00\x00"),
    ("MQTT-1.5.3-2", b"\xa2\x05\x00\x01\x00\x01\x00"),
    ("MQTT-2.3.1-1", b"\x32\x05\x00\x01a\x00\x00"),
    ("MQTT-2.3.1-1", b"\x34\x05\x00\x01a\x00\x00"),
    ("MQTT-2.3.1-1", b"\x40\x02\x00\x00"),
    ("MQTT-2.3.1-1", b"\x50\x02\x00\x00"),
    ("MQTT-2.3.1-1", b"\x62\x02\x00\x00"),
    ("MQTT-2.3.1-1", b"\x70\x02\x00\x00"),
    ("MQTT-2.3.1-1", b"\x82\x06\x00\x00\x00\x01a\x00"),
    ("MQTT-2.3.1-1", b"\xa2\x05\x00\x00\x00\x01a"),
    ("MQTT-3.3.2-2", b"\x30\x03\x00\x01#"),
    ("MQTT-3.3.2-2", b"\x30\x05\x00\x03a/+"),
    ("MQTT-4.7.3-1", b"\x30\x02\x00\x00"),
    ("MQTT-3.8.3-3", b"\x82\x02\x00\x01"),
    ("MQTT-3.8.3-4", b"\x82\x06\x00\x01\x00\x01a\x04"),
    ("MQTT-3.8.3-4", b"\x82\x06\x00\x01\x00\x01a\x80"),
    ("MQTT-3.8.3-4", b"\x82\x06\x00\x01\x00\x01a\x03"),
    ("MQTT-3.8.3-4", b"\x82\x0a\x00\x01\x00\x01a\x00\x00\x01b\x04"),
    ("MQTT-3.10.3-2", b"\xa2\x02\x00\x01"),
    // Fields that reach beyond the end of their packet, or are not there.
    ("MQTT-4.8.0-1", b"\x30\x00"),
    ("MQTT-4.8.0-1", b"\x30\x03\x00\x09a"),
    ("MQTT-4.8.0-1", b"\x32\x04\x00\x01a\x00"),
    ("MQTT-4.8.0-1", b"\x40\x00"),
    ("MQTT-4.8.0-1", b"\x82\x00"),
    ("MQTT-4.8.0-1", b"\x82\x05\x00\x01\x00\x01a"),
    ("MQTT-4.8.0-1", b"\x82\x06\x00\x01\x00\x09a\x00"),
    ("MQTT-4.8.0-1", b"\xa2\x05\x00\x01\x00\x09a"),
    // Bytes behind the last field.
    ("MQTT-4.8.0-1", b"\x40\x03\x00\x01\x00"),
    ("MQTT-4.8.0-1", b"\x62\x04\x00\x01\x00\x00"),
    ("MQTT-4.8.0-1", b"\xc0\x01\x00"),
    ("MQTT-4.8.0-1", b"\xe0\x01\x00"),
];

const ANY_5_0: &[Case] = &[
    ("MQTT-2.1.2", b"\x00"),
    ("MQTT-2.1.2", b"\x20"),
    ("MQTT-2.1.2", b"\x90"),
    ("MQTT-2.1.2", b"\xb0"),
    ("MQTT-2.1.2", b"\xd0"),
    ("MQTT-2.1.3-1", b"\x11"),
    ("MQTT-2.1.3-1", b"\x41"),
    ("MQTT-2.1.3-1", b"\x52"),
    ("MQTT-2.1.3-1", b"\x60"),
    ("MQTT-2.1.3-1", b"\x78"),
    ("MQTT-2.1.3-1", b"\x80"),
    ("MQTT-2.1.3-1", b"\xa0"),
    ("MQTT-2.1.3-1", b"\xc1"),
    ("MQTT-2.1.3-1", b"\xe4"),
    ("MQTT-2.1.3-1", b"\xf1"),
    ("MQTT-1.5.5", b"\x30\x80\x80\x80\x80"),
    ("MQTT-1.5.5", b"\x30\x09\x00\x01a\x80\x80\x80\x80\x01!"),
    ("MQTT-1.5.5-1", b"\xc0\x80\x00"),
    ("MQTT-1.5.5-1", b"\x30\x05\x00\x01a\x80\x00"),
    ("MQTT-1.5.5-1", b"\x82\x0a\x00\x01\x03\x0b\x81\x00\x00\x01a\x00"),
    ("MQTT-1.5.5-1", b"\x30\x07\x00\x01a\x03\x81\x00\x00"),
    ("MQTT-1.5.4-1", b"\x30\x05\x00\x02\xc3\x28\x00"),
    ("MQTT-1.5.4-1", b"\x30\x06\x00\x03\xed\xa0\x80\x00"),
    ("MQTT-1.5.4-1", b"\x30\x08\x00\x01a\x04\x03\x00\x01\xff"),
    ("MQTT-1.5.4-1", b"\x30\x0b\x00\x01a\x07\x26\x00\x01\xff\x00\x01v"),
    ("MQTT-1.5.4-1", b"\x82\x0e\x00\x01\x07\x26\x00\x01n\x00\x01\xff\x00\x01a\x00"),
    ("MQTT-1.5.4-1", b"\x40\x08\x00\x01\x00\x04\x1f\x00\x01\xff"),
    ("MQTT-1.5.4-1", b"\xe0\x06\x00\x04\x1f\x00\x01\xff"),
    ("MQTT-1.5.4-2", b"\x30\x04\x00\x01\x00\x00"),
    ("MQTT-1.5.4-2", b"\x30\x0b\x00\x01a\x07\x26\x00\x01n\x00\x01\x00"),
    ("MQTT-1.5.4-2", b"\xa2\x06\x00\x01\x00\x00\x01\x00"),
    ("MQTT-2.2.1-3", b"\x32\x06\x00\x01a\x00\x00\x00"),
    ("MQTT-2.2.1-3", b"\x40\x02\x00\x00"),
    ("MQTT-2.2.1-3", b"\x62\x04\x00\x00\x00\x00"),
    ("MQTT-2.2.1-3", b"\x82\x07\x00\x00\x00\x00\x01a\x00"),
    ("MQTT-2.2.1-3", b"\xa2\x06\x00\x00\x00\x00\x01a"),
    // Properties of another packet, of none, and given twice.
    ("MQTT-2.2.2.2", b"\x30\x09\x00\x01a\x05\x11\x00\x00\x00\x01"),
    ("MQTT-2.2.2.2", b"\x30\x06\x00\x01a\x02\x04\x00"),
    ("MQTT-2.2.2.2", b"\x30\x07\x00\x01a\x03\x80\x01\x00"),
    ("MQTT-2.2.2.2", b"\x30\x08\x00\x01a\x04\x01\x00\x01\x00"),
    ("MQTT-2.2.2.2", b"\x30\x0a\x00\x01a\x06\x23\x00\x01\x23\x00\x01"),
    ("MQTT-2.2.2.2", b"\x30\x0a\x00\x01a\x06\x03\x00\x00\x03\x00\x00"),
    ("MQTT-2.2.2.2", b"\x40\x06\x00\x01\x00\x02\x01\x00"),
    ("MQTT-2.2.2.2", b"\x40\x0a\x00\x01\x00\x06\x1f\x00\x00\x1f\x00\x00"),
    ("MQTT-2.2.2.2", b"\x82\x0b\x00\x01\x04\x0b\x01\x0b\x02\x00\x01a\x00"),
    ("MQTT-2.2.2.2", b"\x82\x0a\x00\x01\x03\x1f\x00\x00\x00\x01a\x00"),
    ("MQTT-2.2.2.2", b"\xa2\x08\x00\x01\x02\x0b\x01\x00\x01a"),
    ("MQTT-2.2.2.2", b"\xe0\x05\x00\x03\x21\x00\x01"),
    ("MQTT-2.2.2.2", b"\xf0\x04\x18\x02\x01\x00"),
    ("MQTT-2.2.2.2", b"\x30\x06\x00\x01a\x02\x01\x02"),
    ("MQTT-3.3.2-2", b"\x30\x04\x00\x01#\x00"),
    ("MQTT-3.3.2-2", b"\x30\x07\x00\x01+\x03\x23\x00\x01"),
    ("MQTT-4.7.3-1", b"\x30\x03\x00\x00\x00"),
    ("MQTT-3.3.2-8", b"\x30\x07\x00\x01a\x03\x23\x00\x00"),
    ("MQTT-3.3.2-14", b"\x30\x08\x00\x01a\x04\x08\x00\x01#"),
    ("MQTT-4.7.3-1", b"\x30\x07\x00\x01a\x03\x08\x00\x00"),
    ("MQTT-3.3.4-6", b"\x30\x06\x00\x01a\x02\x0b\x01"),
    // Reasons that only the other side gives, or another packet, or none.
    ("MQTT-3.4.2-1", b"\x40\x03\x00\x01\x92"),
    ("MQTT-3.4.2-1", b"\x50\x03\x00\x01\x01"),
    ("MQTT-3.6.2-1", b"\x62\x03\x00\x01\x10"),
    ("MQTT-3.6.2-1", b"\x70\x04\x00\x01\x80\x00"),
    ("MQTT-3.14.2-1", b"\xe0\x01\x8e"),
    ("MQTT-3.14.2-1", b"\xe0\x01\x01"),
    ("MQTT-3.15.2-1", b"\xf0\x00"),
    ("MQTT-3.15.2-1", b"\xf0\x02\x00\x00"),
    ("MQTT-3.15.2-1", b"\xf0\x02\x1a\x00"),
    ("MQTT-3.15.2.2.2", b"\xf0\x02\x18\x00"),
    ("MQTT-3.15.2.2.2", b"\xf0\x01\x19"),
    ("MQTT-3.8.2.1.2", b"\x82\x09\x00\x01\x02\x0b\x00\x00\x01a\x00"),
    ("MQTT-3.8.3-2", b"\x82\x03\x00\x01\x00"),
    ("MQTT-3.8.3-4", b"\x82\x10\x00\x01\x00\x00\x0a$share/g/a\x04"),
    ("MQTT-3.8.3-5", b"\x82\x07\x00\x01\x00\x00\x01a\x40"),
    ("MQTT-3.8.3-5", b"\x82\x07\x00\x01\x00\x00\x01a\x80"),
    ("MQTT-3.8.3.1", b"\x82\x07\x00\x01\x00\x00\x01a\x03"),
    ("MQTT-3.8.3.1", b"\x82\x07\x00\x01\x00\x00\x01a\x30"),
    ("MQTT-3.10.3-2", b"\xa2\x03\x00\x01\x00"),
    // Fields that reach beyond the end of their packet, or of the properties.
    ("MQTT-4.13.1-1", b"\x30\x03\x00\x01a"),
    ("MQTT-4.13.1-1", b"\x30\x04\x00\x01a\x80"),
    ("MQTT-4.13.1-1", b"\x30\x05\x00\x01a\x02\x01"),
    ("MQTT-4.13.1-1", b"\x30\x08\x00\x01a\x01\x01\x00!!"),
    ("MQTT-4.13.1-1", b"\x30\x08\x00\x01a\x03\x03\x00\x01!"),
    ("MQTT-4.13.1-1", b"\x82\x06\x00\x01\x00\x00\x01a"),
    ("MQTT-4.13.1-1", b"\xa2\x05\x00\x01\x00\x00\x09"),
    ("MQTT-4.13.1-1", b"\x40\x01\x00"),
    ("MQTT-4.13.1-1", b"\xe0\x06\x00\x05\x11\x00\x00\x00"),
    // Bytes behind the last field.
    ("MQTT-4.13.1-1", b"\x40\x05\x00\x01\x00\x00\x00"),
    ("MQTT-4.13.1-1", b"\xc0\x01\x00"),
    ("MQTT-4.13.1-1", b"\xe0\x03\x00\x00\x00"),
    ("MQTT-4.13.1-1", b"\xf0\x08\x18\x05\x15\x00\x02me\x00"),
];

/// Properties of a CONNECT of 5.0.
const CONNECT_PROPERTIES: &[Case] = &[
    ("MQTT-3.1.2.11.3", b"\x21\x00\x00"),
    ("MQTT-3.1.2.11.4", b"\x27\x00\x00\x00\x00"),
    ("MQTT-3.1.2.11.10", b"\x16\x00\x01d"),
    ("MQTT-2.2.2.2", b"\x17\x02"),
    ("MQTT-2.2.2.2", b"\x19\xff"),
    ("MQTT-2.2.2.2", b"\x17\x01\x17\x01"),
    ("MQTT-2.2.2.2", b"\x11\x00\x00\x00\x00\x11\x00\x00\x00\x00"),
    // Those of a PUBLISH, of a will, and of a server.
    ("MQTT-2.2.2.2", b"\x01\x00"),
    ("MQTT-2.2.2.2", b"\x18\x00\x00\x00\x01"),
    ("MQTT-2.2.2.2", b"\x12\x00\x01x"),
    ("MQTT-4.13.1-1", b"\x22\x00"),
];

/// Flags of a CONNECT, and what stands behind its client id.
type Flagged = (Version, &'static str, u8, &'static [u8]);

const CONNECT_FLAGS: &[Flagged] = &[
    (V3, "MQTT-3.1.2-3", 0x03, b""),
    (V5, "MQTT-3.1.2-3", 0x03, b""),
    (V3, "MQTT-3.1.2-14", 0x1e, b"\x00\x01w\x00\x00"),
    (V5, "MQTT-3.1.2-12", 0x1e, b"\x00\x00\x01w\x00\x00"),
    (V3, "MQTT-3.1.2-13", 0x0a, b""),
    (V5, "MQTT-3.1.2-11", 0x0a, b""),
    (V3, "MQTT-3.1.2-15", 0x22, b""),
    (V5, "MQTT-3.1.2-13", 0x22, b""),
    (V3, "MQTT-3.1.2-22", 0x42, b"\x00\x01p"),
    (V3, "MQTT-4.8.0-1", 0x82, b""),
    (V5, "MQTT-4.13.1-1", 0x42, b""),
    (V3, "MQTT-4.8.0-1", 0x02, b"\x00\x01u"),
    (V5, "MQTT-4.13.1-1", 0x02, b"\x00"),
    (V3, "MQTT-1.5.3-1", 0x82, b"\x00\x01\xff"),
    (V3, "MQTT-1.5.3-2", 0x82, b"\x00\x01\x00"),
    (V5, "MQTT-1.5.4-1", 0x82, b"\x00\x01\xff"),
    // The will.
    (V3, "MQTT-4.8.0-1", 0x06, b"\x00\x01w"),
    (V3, "MQTT-3.3.2-2", 0x06, b"\x00\x01+\x00\x00"),
    (V5, "MQTT-3.3.2-2", 0x06, b"\x00\x00\x01+\x00\x00"),
    (V3, "MQTT-4.7.3-1", 0x06, b"\x00\x00\x00\x00"),
    (V5, "MQTT-4.7.3-1", 0x06, b"\x00\x00\x00\x00\x00"),
    (V5, "MQTT-2.2.2.2", 0x06, b"\x03\x23\x00\x01\x00\x01w\x00\x00"),
    (V5, "MQTT-2.2.2.2", 0x06, b"\x0a\x18\x00\x00\x00\x01\x18\x00\x00\x00\x01\x00\x01w\x00\x00"),
    (V5, "MQTT-2.2.2.2", 0x06, b"\x02\x01\x02\x00\x01w\x00\x00"),
    (V5, "MQTT-3.3.2-14", 0x06, b"\x04\x08\x00\x01+\x00\x01w\x00\x00"),
    (V5, "MQTT-4.13.1-1", 0x06, b"\x03\x18\x00\x00\x00\x01\x00\x01w\x00\x00"),
];

fn assert_broken(version: Version, (statement, bytes): Case) {
    match taken(version, bytes) {
        Err(BadPacket::Violation { statement: broken, .. }) => {
            assert_eq!(broken, statement, "{bytes:02x?} in {version:?}");
        }
        other => panic!("{bytes:02x?} in {version:?} was not refused: {other:?}"),
    }
}

fn broken_by_connect(bytes: &[u8]) -> &'static str {
    match connected(bytes) {
        Err(ConnectError::Bad { bad: BadPacket::Violation { statement, .. }, .. }) => statement,
        other => panic!("{bytes:02x?} was not refused: {other:?}"),
    }
}

#[test]
fn a_packet_that_breaks_a_statement_of_3_1_1_is_refused_by_it() {
    ANY.iter().chain(ANY_3_1_1).for_each(|case| assert_broken(V3, *case));
}

#[test]
fn a_packet_that_breaks_a_statement_of_5_0_is_refused_by_it() {
    ANY.iter().chain(ANY_5_0).for_each(|case| assert_broken(V5, *case));
}

#[test]
fn a_connect_that_breaks_a_statement_is_refused_by_it() {
    for (version, statement, flags, rest) in CONNECT_FLAGS {
        let bytes = connect(*version, *flags, b"", rest);
        assert_eq!(broken_by_connect(&bytes), *statement, "{bytes:02x?}");
    }
    for (statement, properties) in CONNECT_PROPERTIES {
        assert_eq!(broken_by_connect(&connect(V5, 0x02, properties, b"")), *statement, "{properties:02x?}");
    }
    assert_eq!(broken_by_connect(b"\x10\x80\x00"), "MQTT-4.8.0-1", "no room for a version");
    let padded = [b"\x10\x8e\x00", &connect(V5, 0x02, b"", b"")[2..]].concat();
    assert_eq!(broken_by_connect(&padded), "MQTT-1.5.5-1");
    assert_eq!(broken_by_connect(&framed(0x10, b"\x00\x04mqtt\x04\x02\x00\x3c\x00\x01c")), "MQTT-3.1.2-1");
}

#[test]
fn another_first_packet_than_a_connect_is_refused_at_its_first_byte() {
    for first in [&b"\xc0"[..], b"\x00", b"\x82", b"GET / HTTP/1.1", b"\x16\x03\x01"] {
        let expected = if first[0] >> 4 == 1 { "MQTT-2.2.2-2" } else { "MQTT-3.1.0-1" };
        assert_eq!(broken_by_connect(first), expected, "{first:02x?}");
    }
}

#[test]
fn every_statement_that_the_codec_knows_has_a_packet_here() {
    let source = include_str!("../rules.rs");
    let known: BTreeSet<_> = source.split('"').filter(|text| text.starts_with("MQTT-")).collect();
    let tables = [ANY, ANY_3_1_1, ANY_5_0, CONNECT_PROPERTIES].concat();
    let flagged = CONNECT_FLAGS.iter().map(|(_, statement, ..)| *statement);
    let others = ["MQTT-3.1.0-1", "MQTT-3.1.2-1"];
    let shown = tables.iter().map(|(statement, _)| *statement).chain(flagged).chain(others);
    assert_eq!(known, shown.collect());
}

#[test]
fn a_client_of_5_0_is_told_what_kind_of_mistake_it_made() {
    for (bytes, reason) in [
        (&b"\xc1"[..], Reason::MalformedPacket),
        (b"\x82\x03\x00\x01\x00", Reason::ProtocolError),
        (b"\x30\x07\x00\x01a\x03\x23\x00\x00", Reason::TopicAliasInvalid),
        (b"\x30\xff\x7f", Reason::PacketTooLarge),
    ] {
        assert_eq!(taken(V5, bytes).unwrap_err().reason(), reason, "{bytes:02x?}");
    }
}
