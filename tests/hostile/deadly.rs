//! What has killed another broker (rumqttd 0.20), each as it was found there.

use std::time::Duration;

use crate::client::{Client, HOME, tcp};
use crate::harness::eventually;
use crate::packet::{DISCONNECT, Hello, PING, Publish, VERSIONS, Version, ack, publish, subscribe};
use crate::scene::Scene;

/// Publishes so many messages at QoS 1 and waits for all acks.
pub(crate) fn publish_all(client: &mut Client, version: Version, topic: &str, payload: &[u8], count: u16) {
    for id in 1..=count {
        client.send(&publish(version, topic, payload, 1, id));
        if id % 100 == 0 || id == count {
            let first = id - (id - 1) % 100;
            (first..=id).for_each(|id| assert_eq!(client.expect(4).id(), id));
        }
    }
}

#[test]
fn a_backlogged_subscriber_disconnects() {
    let scene = Scene::start();
    let (tls, publisher) = (scene.device("slow"), scene.other());
    let mut publisher = scene.connect(&publisher, &Hello::new(Version::V3, "publisher"));
    for version in VERSIONS {
        let hello = Hello::kept(version, &format!("slow{version:?}"));
        let mut slow = scene.connect(&tls, &hello);
        slow.send(&subscribe(version, 1, &[("slow/#", 1)]));
        slow.expect(9);
        publish_all(&mut publisher, Version::V3, "slow/x", &[b'x'; 500], 1_000);
        slow.send(DISCONNECT);
        slow.expect_end();
        scene.others_are_served();
        // It comes back and is given all that it has not acknowledged.
        let (mut slow, connack) = Client::try_connect(HOME, scene.address(), &tls, &hello).unwrap();
        assert_eq!(connack.body[0], 1, "its session is present");
        for _ in 0..1_000 {
            let id = slow.expect(3).publish().1;
            slow.send(&ack(0x40, id));
        }
        slow.send(PING);
        slow.expect(13);
    }
    scene.end();
}

#[test]
fn a_topic_or_a_will_topic_starts_with_a_multi_byte_character() {
    let scene = Scene::start();
    let tls = scene.other();
    for version in VERSIONS {
        let mut subscriber = scene.connect(&tls, &Hello::new(version, "subscriber"));
        // Bit 2 is "no local" in 5.0, and none in 3.1.1: the publisher is another client anyway.
        subscriber.send(&subscribe(version, 1, &[("ü/#", 1), ("🌡", 1), ("ß", 1), ("語/+/終", 1)]));
        subscriber.expect(9);
        for topic in ["ü", "ü/x", "🌡", "語/ł/終"] {
            let hello = Hello::new(version, "publisher").with_will("ß", "wö".as_bytes(), 1, false);
            let mut publisher = scene.connect(&tls, &hello);
            publisher.send(&publish(version, topic, b"hot", 1, 7));
            publisher.expect(4);
            let message = subscriber.expect(3);
            assert_eq!(message.publish().0, topic);
            subscriber.send(&ack(0x40, message.publish().1));
            drop(publisher);
            let will = subscriber.expect(3);
            assert_eq!(will.publish().0, "ß");
            subscriber.send(&ack(0x40, will.publish().1));
        }
    }
    scene.end();
}

#[test]
fn a_kept_member_of_a_shared_subscription_leaves_with_unacknowledged_messages() {
    let scene = Scene::start();
    let tls = scene.other();
    let mut publisher = scene.connect(&tls, &Hello::new(Version::V5, "publisher"));
    for version in VERSIONS {
        // To a member of a team that is away its part is kept: each version has a team of its own.
        let filter = format!("$share/team/{version:?}/#");
        let filter = [(filter.as_str(), 1)];
        let (first, later) = (format!("{version:?}/first"), format!("{version:?}/later"));
        let hello = Hello::kept(version, &format!("member{version:?}"));
        let mut member = scene.connect(&tls, &hello);
        member.send(&subscribe(version, 1, &filter));
        member.expect(9);
        publish_all(&mut publisher, Version::V5, &first, b"work", 50);
        assert_eq!(member.expect(3).publish().0, first);
        drop(member);
        scene.others_are_served();
        // The well-behaved one, and the publisher.
        eventually("the member is gone", || (scene.figure("connections") <= 2).then_some(()));
        publish_all(&mut publisher, Version::V5, &first, b"work", 50);
        let mut second = scene.connect(&tls, &Hello::new(version, "second"));
        second.send(&subscribe(version, 1, &filter));
        second.expect(9);
        publish_all(&mut publisher, Version::V5, &later, b"work", 10);
        for _ in 0..10 {
            let message = second.expect(3);
            assert_eq!(message.publish().0, later, "the one who is there is given it");
            second.send(&ack(0x40, message.publish().1));
        }
        let mut member = scene.connect(&tls, &hello);
        for _ in 0..100 {
            let message = member.expect(3);
            assert_eq!(message.publish().0, first);
            member.send(&ack(0x40, message.publish().1));
        }
        member.ping();
        drop((member, second));
    }
    scene.end();
}

#[test]
fn a_client_id_with_special_characters_connects_twice() {
    let scene = Scene::start();
    let tls = scene.device("odd");
    for version in VERSIONS {
        for id in ["a+b", "a#b", "$SYS", "a/b", "/", "+", "#", "$share/x/y", "+/#/$/ü"] {
            let mut first = scene.connect(&tls, &Hello::kept(version, id));
            let mut second = scene.connect(&tls, &Hello::new(version, id));
            match version {
                Version::V3 => assert_eq!(first.expect_end(), []),
                Version::V5 => first.expect_disconnect(0x8e),
            }
            second.send(&publish(version, "odd/x", b"!", 1, 9));
            assert_eq!(second.expect(4).id(), 9);
            second.send(DISCONNECT);
            second.expect_end();
        }
    }
    scene.end();
}

#[test]
fn silent_connections_keep_nobody_from_a_handshake() {
    // Whoever had to wait for the deadline of a silent one would wait for longer than a test does.
    let settings = "[listener]\nhandshake_timeout = \"10m\"\nconnect_timeout = \"10m\"\n";
    let scene = Scene::start_with(settings);
    let address = scene.address();
    let one = tcp(HOME, address).unwrap();
    scene.others_are_served();
    let many: Vec<_> = (0..500).map(|_| tcp(HOME, address).unwrap()).collect();
    scene.others_are_served();
    // A TLS record that has begun, and goes on no further.
    let half: Vec<_> = (0..200)
        .map(|_| {
            let mut socket = tcp(HOME, address).unwrap();
            std::io::Write::write_all(&mut socket, b"\x16\x03\x01\x02").unwrap();
            socket
        })
        .collect();
    scene.others_are_served();
    // And such as are through with TLS, and say no CONNECT.
    let tls = scene.device("mute");
    let mute: Vec<_> = (0..10).map(|_| Client::open(HOME, address, &tls).unwrap()).collect();
    scene.others_are_served();
    drop((one, many, half, mute));
    scene.end();
}

#[test]
fn a_retained_message_and_a_will_of_somebody_who_is_killed_stay_whole() {
    let scene = Scene::start();
    let tls = scene.other();
    let hello = Hello::new(Version::V5, "victim").with_will("ü/gone", b"gone", 1, true);
    let mut victim = scene.connect(&tls, &hello);
    let retained = Publish { retain: true, ..Publish::new(Version::V5, "ü/state", b"on", 1, 1) };
    victim.send(&retained.packet());
    victim.expect(4);
    drop(victim);
    let mut late = scene.connect(&tls, &Hello::new(Version::V5, "late"));
    let mut topics = std::collections::BTreeSet::new();
    while topics.len() < 2 {
        late.send(&subscribe(Version::V5, 1, &[("ü/#", 0)]));
        late.expect(9);
        late.send(PING);
        loop {
            let packet = late.receive();
            match packet.kind() {
                3 => topics.insert(packet.publish().0),
                _ => break,
            };
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(topics.contains("ü/gone") && topics.contains("ü/state"), "{topics:?}");
    scene.end();
}
