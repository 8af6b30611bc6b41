//! Bytes that no honest client sends: `invariants` says what holds for them.

use proptest::collection::vec;
use proptest::prelude::*;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;

use super::packets::*;
use super::*;

const V3: Version = Version::V3;
const V5: Version = Version::V5;
const LARGE: usize = 1 << 20;

fn versions() -> impl Strategy<Value = Version> {
    prop_oneof![Just(V3), Just(V5)]
}

/// What is taken here, `rumqttc` takes for the same; of 5.0 that is only looked at for messages.
fn check_agreement(version: Version, bytes: &[u8]) {
    let mut input = BytesMut::from(bytes);
    let Ok(Next::Packet(packet)) = next(&mut input, version, LARGE, true) else { return };
    let mut input = BytesMut::from(bytes);
    match (version, &packet) {
        (V3, _) => {
            assert_eq!(v4::Packet::read(&mut input, LARGE).unwrap(), v4_packet(&packet), "{bytes:02x?}");
        }
        (V5, Packet::Publish(_)) => {
            assert_eq!(v5::Packet::read(&mut input, None).unwrap(), v5_packet(&packet), "{bytes:02x?}");
        }
        (V5, _) => {}
    }
}

fn valid_bytes() -> impl Strategy<Value = (Version, Vec<u8>)> {
    versions().prop_flat_map(|version| {
        any_packet(version).prop_map(move |packet| (version, bytes_of(&packet, version).to_vec()))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn random_bytes_are_refused_or_taken_frame_by_frame(
        version in versions(),
        bytes in vec(any::<u8>(), 0..300),
    ) {
        check_packets(version, &bytes);
        check_connect(&bytes);
    }

    /// Most random bytes end at the first byte; these come further.
    #[test]
    fn random_bodies_of_every_type_are_refused_or_taken(
        version in versions(),
        first in prop::sample::select(&b"\x30\x32\x34\x3d\x40\x50\x62\x70\x82\xa2\xc0\xe0\xf0\x10"[..]),
        body in vec(prop_oneof![0..0x30_u8, any::<u8>()], 0..120),
    ) {
        let mut bytes = framed(first, &body);
        check_connect(&bytes);
        check_agreement(version, &bytes);
        bytes.extend_from_slice(&framed(first, &body));
        check_packets(version, &bytes);
    }

    #[test]
    fn packets_with_changed_bytes_are_refused_or_taken(
        (version, bytes) in valid_bytes(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        as_other_version: bool,
    ) {
        let mut bytes = bytes;
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        let version = match (version, as_other_version) {
            (V3, true) => V5,
            (V5, true) => V3,
            (version, false) => version,
        };
        check_packets(version, &bytes);
        check_agreement(version, &bytes);
    }

    #[test]
    fn connects_with_changed_bytes_are_refused_or_taken(
        connect in versions().prop_flat_map(any_connect),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = connect_bytes(&connect);
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        check_connect(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_packet_is_taken_when_its_last_byte_has_come((version, bytes) in valid_bytes()) {
        let whole = packet_in(version, &bytes);
        for end in 0..bytes.len() {
            let mut input = BytesMut::from(&bytes[..end]);
            prop_assert_eq!(next(&mut input, version, LARGE, true), Ok(Next::Incomplete), "at {}", end);
            input.extend_from_slice(&bytes[end..]);
            prop_assert_eq!(next(&mut input, version, LARGE, true), Ok(Next::Packet(whole.clone())));
        }
    }

    #[test]
    fn a_packet_that_ends_too_early_is_not_taken(connect in versions().prop_flat_map(any_connect)) {
        let bytes = connect_bytes(&connect);
        for end in 0..bytes.len() {
            prop_assert_eq!(take_connect(&mut BytesMut::from(&bytes[..end]), LARGE), Ok(None));
        }
    }
}

fn packet_in(version: Version, bytes: &[u8]) -> Packet {
    match next(&mut BytesMut::from(bytes), version, LARGE, true) {
        Ok(Next::Packet(packet)) => packet,
        other => panic!("{bytes:02x?} in {version:?}: {other:?}"),
    }
}

#[test]
fn many_small_properties_and_filters_cost_little_more_than_their_bytes() {
    let pairs = b"\x26\0\0\0\0".repeat(20_000);
    let body = [&b"\x00\x01a\xa0\x8d\x06"[..], &pairs].concat();
    let publish = [&b"\x30\xa6\x8d\x06"[..], &body].concat();
    check_packets(V5, &publish);
    let Packet::Publish(publish) = packet_in(V5, &publish) else { panic!() };
    assert_eq!(publish.properties.unwrap().user.iter().count(), 20_000);
    let filters = b"\x00\x01a\x00".repeat(4_000);
    check_packets(V5, &[&b"\x82\x83\x7d\x00\x01\x00"[..], &filters].concat());
}

/// Valid packets, and what the fuzz targets have found.
#[test]
fn the_kept_corpora_of_the_fuzz_targets_hold() {
    for (target, version) in [("packets_v3", V3), ("packets_v5", V5)] {
        let directory = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
        let mut taken = 0;
        for file in std::fs::read_dir(directory).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            check_connect(&bytes);
            check_packets(version, &bytes);
            let packet = next(&mut BytesMut::from(&bytes[..]), version, LARGE, true);
            taken += usize::from(matches!(packet, Ok(Next::Packet(_))));
        }
        assert!(taken >= 7, "of the packets of {target}, {taken} were taken");
    }
}
