//! Clients that want more than their share, within the rules of the protocol or beyond them.

use std::time::Duration;

use crate::client::{Client, HOME};
use crate::deadly::publish_all;
use crate::harness::eventually;
use crate::packet::{
    Hello, PING, Publish, VERSIONS, Version, ack, packet, publish, subscribe, text, unsubscribe,
};
use crate::scene::Scene;

#[test]
fn a_subscriber_that_does_not_read_slows_nobody_and_is_bounded() {
    let scene = Scene::start();
    let tls = scene.other();
    let mut deaf = Vec::new();
    for (n, version) in VERSIONS.into_iter().cycle().take(6).enumerate() {
        let mut client = scene.connect(&tls, &Hello::kept(version, &format!("deaf{n}")));
        client.send(&subscribe(version, 1, &[("flood/#", (n % 3) as u8)]));
        client.expect(9);
        deaf.push(client);
    }
    let mut reader = scene.connect(&tls, &Hello::new(Version::V3, "reader"));
    reader.send(&subscribe(Version::V3, 1, &[("flood/#", 0)]));
    reader.expect(9);
    let mut publisher = scene.connect(&tls, &Hello::new(Version::V3, "publisher"));
    for _ in 0..100 {
        publish_all(&mut publisher, Version::V3, "flood/x", &[b'x'; 2_000], 100);
        (0..100).for_each(|_| assert_eq!(reader.expect(3).publish().0, "flood/x"));
    }
    let status = scene.gateway.home.status().unwrap();
    let dropped = status["broker"]["dropped"]["queue_full"].as_u64().unwrap();
    assert!(dropped > 10_000, "what a slow subscriber cannot hold is dropped and counted: {status:#}");
    assert!(scene.figure("queued_bytes") <= 16 * 1024 * 1024, "{status:#}");
    scene.end();
}

#[test]
fn a_publisher_that_reads_no_acks_is_held_back() {
    let scene = Scene::start();
    let tls = scene.other();
    let mut flood = scene.connect(&tls, &Hello::new(Version::V3, "flood"));
    let payload = [b'x'; 8_000];
    flood.socket().set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let written = (1..=u16::MAX)
        .find(|id| flood.try_send(&publish(Version::V3, "other/readings", &payload, 1, *id)).is_err());
    println!("held back after {written:?} publishes");
    scene.others_are_served();
    drop(flood);
    // In 5.0 it was told how many it may have on the way.
    let mut flood = scene.connect(&tls, &Hello::new(Version::V5, "flood5"));
    let burst: Vec<u8> = (1..=2_000).flat_map(|id| publish(Version::V5, "other/x", b"", 2, id)).collect();
    flood.send(&burst);
    flood.expect_disconnect(0x93);
    scene.end();
}

#[test]
fn a_packet_that_is_too_large_ends_the_connection_before_it_has_come() {
    let scene = Scene::start();
    let tls = scene.other();
    for version in VERSIONS {
        let mut client = scene.connect(&tls, &Hello::new(version, "large"));
        // 256 MiB are announced.
        client.send(b"\x30\xff\xff\xff\x7f\x00\x05other");
        match version {
            Version::V3 => assert_eq!(client.expect_end(), []),
            Version::V5 => client.expect_disconnect(0x95),
        }
        let mut client = Client::open(HOME, scene.address(), &tls).unwrap();
        client.send(b"\x10\xff\xff\xff\x7f\x00\x04MQTT\x05");
        client.expect_end();
    }
    assert!(scene.refused("packet_too_large") >= 4);
    scene.end();
}

#[test]
fn the_longest_topics_and_the_most_levels_cost_nobody_else_anything() {
    // With its own bounds the gateway takes none of them; opened as far as it goes it takes the long ones.
    for settings in ["", "[limits]\nmax_topic_bytes = 65535\nmax_topic_levels = 1024\n"] {
        long_and_deep_topics(Scene::start_with(settings), settings.is_empty());
    }
}

fn long_and_deep_topics(scene: Scene, takes_none: bool) {
    let tls = scene.other();
    let topics = ["/".repeat(65_535), "a/".repeat(32_767), "ü/".repeat(21_845), "x".repeat(65_535)];
    for version in VERSIONS {
        for (n, topic) in (1..).zip(&topics) {
            let mut client = scene.connect(&tls, &Hello::new(version, "long"));
            let is_taken = !takes_none && n == 4;
            client.send(&publish(version, topic, b"x", 0, 0));
            client.ping();
            client.send(&publish(version, topic, b"x", 1, n));
            let retained = Publish { retain: true, ..Publish::new(version, topic, b"x", 1, n + 10) };
            client.send(&retained.packet());
            if !is_taken && version == Version::V3 {
                assert_eq!(client.expect_end(), []);
                continue;
            }
            for id in [n, n + 10] {
                let ack = client.expect(4);
                assert_eq!((ack.id(), ack.body.get(2) == Some(&0x90)), (id, !is_taken), "{ack:?}");
            }
        }
        let mut client = scene.connect(&tls, &Hello::new(version, "long"));
        // Filters: all refused, or granted within bounds.
        let filters: Vec<_> = topics.iter().map(|topic| (topic.as_str(), 1)).take(3).collect();
        client.send(&subscribe(version, 2, &filters));
        let granted = client.expect(9);
        assert_eq!(
            granted.body[granted.body.len() - 3..],
            match version {
                Version::V3 => [0x80; 3],
                Version::V5 => [0x8f; 3],
            }
        );
        let deep = "+/".repeat(32_767);
        client.send(&subscribe(version, 3, &[(&deep, 1)]));
        client.expect(9);
        client.send(&unsubscribe(version, 4, &deep));
        client.expect(11);
        client.ping();
    }
    assert!(scene.refused("topic_too_long") >= 20);
    scene.end();
}

#[test]
fn a_subscribe_with_as_many_filters_as_a_packet_holds() {
    let scene = Scene::start();
    let tls = scene.other();
    for version in VERSIONS {
        let mut client = scene.connect(&tls, &Hello::new(version, "many"));
        // 4 bytes each, in a packet of 256 KiB.
        let names: Vec<String> = (b'a'..=b'z').map(|c| char::from(c).to_string()).collect();
        let filters: Vec<_> = (0..65_533).map(|n| (names[n % names.len()].as_str(), 1)).collect();
        client.send(&subscribe(version, 1, &filters));
        let granted = client.expect(9);
        let codes = &granted.body[granted.body.len() - 65_533..];
        let (looked_at, rest) = codes.split_at(200);
        assert!(looked_at.iter().all(|code| *code == 1), "it is the same 26 filters again and again");
        assert!(rest.iter().all(|code| *code >= 0x80), "no more are looked at");
        // So many different ones that most are refused.
        let names: Vec<String> = (0..25_000).map(|n| format!("n{n}")).collect();
        let filters: Vec<_> = names.iter().map(|name| (name.as_str(), 0)).collect();
        client.send(&subscribe(version, 2, &filters));
        let granted = client.expect(9);
        let codes = &granted.body[granted.body.len() - filters.len()..];
        assert_eq!(codes.iter().filter(|code| **code == 0).count(), 100 - 26, "max_subscriptions");
        client.ping();
    }
    scene.end();
}

#[test]
fn retained_messages_without_end_are_bounded() {
    let scene = Scene::start();
    let tls = scene.other();
    let mut bomber = scene.connect(&tls, &Hello::new(Version::V5, "bomber"));
    let topics: Vec<_> = (0..10_000).map(|n| format!("bomb/{n}/{}", "y".repeat(n % 100))).collect();
    for topics in topics.chunks(500) {
        for (id, topic) in (1..).zip(topics) {
            let retained =
                Publish { retain: true, ..Publish::new(Version::V5, topic, &[b'x'; 1_000], 1, id) };
            bomber.send(&retained.packet());
        }
        topics.iter().for_each(|_| drop(bomber.expect(4)));
    }
    let (count, bytes) = (scene.figure("retained"), scene.figure("retained_bytes"));
    assert!(count <= 1_000 && bytes <= 4 * 1024 * 1024, "{count} messages, {bytes} bytes");
    assert!(scene.refused("retained_full") >= 9_000);
    // Whoever wants them all, gets them, again and again.
    let mut all = scene.connect(&tls, &Hello::new(Version::V5, "all"));
    for id in 1..=20 {
        all.send(&subscribe(Version::V5, id, &[("bomb/#", 1), ("bomb/+/+", 0)]));
    }
    all.send(PING);
    let mut suback = 0;
    while suback < 20 {
        let packet = all.receive();
        match packet.kind() {
            3 if packet.qos() == 1 => all.send(&ack(0x40, packet.publish().1)),
            9 => suback += 1,
            _ => {}
        }
    }
    scene.end();
}

#[test]
fn who_subscribes_again_and_again_without_taking_what_is_retained_is_bounded() {
    let scene = Scene::start();
    let tls = scene.other();
    let mut client = scene.connect(&tls, &Hello::new(Version::V3, "again"));
    // More than is in flight, and than is given ahead.
    for id in 1..=400 {
        let topic = format!("r/{id}");
        let retained = Publish { retain: true, ..Publish::new(Version::V3, &topic, &[b'x'; 1_000], 1, id) };
        client.send(&retained.packet());
        client.expect(4);
    }
    let burst = subscribe(Version::V3, 1, &[("r/#", 1); 200]).repeat(100);
    // And such as come and go.
    let passing: Vec<_> = (0..200).map(|n| format!("r/{n}/#")).collect();
    let rounds = 15;
    for id in 1..=rounds {
        client.send(&burst);
        for filter in &passing {
            client.send(&subscribe(Version::V3, 1_000 + id, &[(filter, 1)]));
            client.send(&unsubscribe(Version::V3, 2_000 + id, filter));
        }
        // It reads the answers, and acknowledges no message.
        let mut answers = 0;
        while answers < 100 + 2 * passing.len() {
            answers += usize::from(matches!(client.receive().kind(), 9 | 11));
        }
    }
    scene.others_are_served();
    let peak = scene.peak_rss_kib();
    assert!(peak < 64 * 1024, "{peak} KiB: what is to be given is not bounded");
    scene.end();
}

#[test]
fn wills_without_end_are_bounded() {
    let settings =
        "[limits]\nmax_reconnect_delay = \"0s\"\nhandshakes_per_second = 10000\nhandshake_burst = 10000\n";
    let scene = Scene::start_with(settings);
    let tls = scene.other();
    for n in 0..700 {
        // A delay of an hour, in a session of an hour.
        let mut hello =
            Hello::kept(Version::V5, &format!("will{n}")).with_will("w/x", &[b'x'; 4_000], 1, true);
        if let Some(will) = &mut hello.will {
            will.properties = [&[0x18][..], &3_600_u32.to_be_bytes()].concat();
        }
        // Beyond the bound of kept sessions they are refused, or another goes.
        Client::try_connect(HOME, scene.address(), &tls, &hello).map(drop).ok();
    }
    eventually("the wills wait", || (scene.figure("wills_waiting") > 0).then_some(()));
    let waiting = scene.figure("wills_waiting");
    assert!(waiting <= 500, "{waiting} wills wait, more than there are sessions");
    assert!(scene.figure("sessions_kept") <= 502);
    scene.end();
}

#[test]
fn all_identifiers_of_qos_2_are_used_and_none_is_released() {
    // As many as there are: with the default of 1,000 the connection ends there.
    let scene = Scene::start_with("[listener]\nmax_inflight = 65535\n");
    let tls = scene.other();
    let mut hoarder = scene.connect(&tls, &Hello::kept(Version::V3, "hoarder"));
    for first in (1..=u16::MAX).step_by(500) {
        let ids = first..=first.saturating_add(499);
        let burst: Vec<u8> = ids.clone().flat_map(|id| publish(Version::V3, "other/x", b"", 2, id)).collect();
        hoarder.send(&burst);
        ids.for_each(|id| assert_eq!(hoarder.expect(5).id(), id));
    }
    // The first one again stands for the same message as before.
    hoarder.send(&publish(Version::V3, "other/x", b"", 2, 1));
    assert_eq!(hoarder.expect(5).id(), 1);
    scene.others_are_served();
    // And as a subscriber that never lets go of an identifier it is given a windowful.
    hoarder.send(&subscribe(Version::V3, 1, &[("hoard/#", 2)]));
    hoarder.expect(9);
    let mut publisher = scene.connect(&tls, &Hello::new(Version::V3, "publisher"));
    publish_all(&mut publisher, Version::V3, "hoard/x", b"", 500);
    let mut publisher = scene.connect(&tls, &Hello::new(Version::V5, "publisher5"));
    for id in 1..=300 {
        publisher.send(&publish(Version::V5, "hoard/x", b"", 2, id));
        assert_eq!(publisher.expect(5).id(), id);
        publisher.send(&ack(0x62, id));
        assert_eq!(publisher.expect(7).id(), id);
    }
    hoarder.send(PING);
    let mut ids = std::collections::BTreeSet::new();
    loop {
        let packet = hoarder.receive();
        match packet.kind() {
            3 => assert!(ids.insert(packet.publish().1), "an identifier in use is given again"),
            _ => break,
        }
    }
    assert!(ids.len() <= 100, "{} in flight", ids.len());
    scene.end();
}

#[test]
fn topic_aliases_are_abused() {
    let scene = Scene::start();
    let tls = scene.other();
    let aliased = |topic: &str, alias: u16, id: u16| {
        let properties = [&[0x23][..], &alias.to_be_bytes()].concat();
        Publish { properties: &properties, ..Publish::new(Version::V5, topic, b"", 1, id) }.packet()
    };
    let broken: [&[Vec<u8>]; 5] = [
        &[aliased("other/x", 0, 1)],
        &[aliased("other/x", u16::MAX, 1)],
        &[aliased("", 1, 1)],
        &[aliased("other/x", 1, 1), aliased("", 2, 2)],
        &[publish(Version::V5, "", b"", 1, 1)],
    ];
    for packets in broken {
        let mut client = scene.connect(&tls, &Hello::new(Version::V5, "alias"));
        client.send(&packets.concat());
        let said = client.expect_end();
        let reason = said.last().map(|packet| (packet.first, packet.body[0]));
        assert!(matches!(reason, Some((0xe0, 0x94 | 0x82))), "{said:?}");
    }
    // One alias that stands for another topic each time.
    let mut client = scene.connect(&tls, &Hello::new(Version::V5, "alias"));
    for id in 1..=5_000 {
        client.send(&aliased(&format!("other/{id}/{}", "z".repeat(500)), 1 + id % 16, id));
        if id % 500 == 0 {
            (0..500).for_each(|_| drop(client.expect(4)));
        }
    }
    client.send(&aliased("", 1, 1));
    client.expect(4);
    scene.end();
}

#[test]
fn user_properties_without_end_are_passed_on_or_refused() {
    let scene = Scene::start();
    let tls = scene.other();
    let mut subscriber = scene.connect(&tls, &Hello::new(Version::V5, "subscriber"));
    subscriber.send(&subscribe(Version::V5, 1, &[("p/#", 1)]));
    subscriber.expect(9);
    let mut client = scene.connect(&tls, &Hello::new(Version::V5, "properties"));
    let property = [&[0x26][..], &text("k"), &text("v")].concat();
    let properties = property.repeat(20_000);
    let publish = Publish { properties: &properties, ..Publish::new(Version::V5, "p/x", b"", 1, 1) };
    client.send(&publish.packet());
    let answer = client.receive();
    println!("20,000 user properties: {answer:?}");
    // The same, as 5-byte empty ones, in every packet that may have them.
    let empty = [0x26, 0, 0, 0, 0].repeat(40_000);
    let mut hello = Hello::new(Version::V5, "large hello");
    hello.properties.clone_from(&empty);
    assert!(Client::try_connect(HOME, scene.address(), &tls, &hello).is_err(), "a CONNECT is small");
    let mut client = scene.connect(&tls, &Hello::new(Version::V5, "properties"));
    let mut body = 1_u16.to_be_bytes().to_vec();
    body.extend(packet(0, &empty)[1..].to_vec());
    body.extend(text("p/y"));
    body.push(1);
    client.send(&packet(0x82, &body));
    client.receive();
    scene.end();
}
