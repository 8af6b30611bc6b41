//! What MQTT 5.0 has and 3.1.1 has not.

use super::*;
use crate::authorize::{Device, Devices, RevokedCertificate};

/// CONNACK of 5.0: its reason and its properties.
async fn connack(client: &mut Client) -> (u8, Vec<u8>) {
    let (first, body) = client.receive().await;
    assert_eq!((first, body[0]), (0x20, 0));
    (body[1], body[3..].to_vec())
}

fn contains(properties: &[u8], wanted: &[u8]) -> bool {
    properties.windows(wanted.len()).any(|window| window == wanted)
}

#[tokio::test]
async fn a_client_is_told_what_holds_for_it() {
    let limits =
        config::Listener { max_inflight: 70, max_packet_bytes: 5_000, ..config::Listener::default() };
    let sessions = config::Sessions { max_expiry: Duration::from_secs(100), ..config::Sessions::default() };
    let gateway = Gateway::start_as(Setup { limits, sessions, ..Setup::default() });
    let mut client = gateway.open(certified("plug"));
    client.send(&connect5("", 0x02, 60_000, b"\x11\xff\xff\xff\xff")).await;
    let (reason, properties) = connack(&mut client).await;
    assert_eq!(reason, 0);
    // Session expiry interval, receive maximum, maximum packet size, topic alias maximum, server keep alive.
    let told = [&b"\x11\0\0\0\x64"[..], b"\x21\0\x46", b"\x27\0\0\x13\x88", b"\x22\0\x10", b"\x13\x04\xb0"];
    assert!(told.iter().all(|told| contains(&properties, told)), "{properties:02x?}");
    assert!(contains(&properties, b"\x12\0\x20unnamed-"), "an id of its own: {properties:02x?}");
    let mut plain = gateway.open(certified("plug"));
    plain.send(&connect5("c", 0x02, 60, b"")).await;
    let (_, properties) = connack(&mut plain).await;
    assert!(!contains(&properties, b"\x12\0") && !contains(&properties, b"\x13\0"), "{properties:02x?}");
}

#[tokio::test]
async fn a_method_of_authentication_is_refused() {
    let gateway = Gateway::start();
    let mut client = gateway.open(certified("plug"));
    client.send(&connect5("c", 0x02, 60, b"\x15\0\x05SCRAM")).await;
    assert_eq!(connack(&mut client).await.0, 0x8c);
    client.expect_close().await;
    let mut client = gateway.connect5("plug", "c", &[]).await;
    client.send(b"\xf0\x0a\x18\x08\x15\0\x05SCRAM").await;
    client.expect_disconnect(0x82).await;
}

#[tokio::test]
async fn the_newer_connection_is_the_reason_for_the_end_of_the_older() {
    let gateway = Gateway::start();
    let mut older = gateway.connect5("plug", "c", &[]).await;
    gateway.connect("plug", "c").await.ping().await;
    older.expect_disconnect(0x8e).await;
}

#[tokio::test]
async fn silence_a_stop_and_new_rules_are_told_as_reasons() {
    let mut gateway = Gateway::start();
    let mut forbidden = gateway.connect5("panel", "c", &[]).await;
    forbidden.send(&subscribe5(1, b"", "lamp/#", 0)).await;
    forbidden.expect(b"\x90\x04\0\x01\0\0").await;
    gateway.broker.reload(Authorizer::new(&Access::default(), &gateway.streams), &gateway.streams);
    forbidden.expect_disconnect(0x87).await;
    let mut last = gateway.connect5("plug", "last", &[]).await;
    let stopping = gateway.tasks.drain(PATIENCE);
    let (late, ()) = tokio::join!(stopping, last.expect_disconnect(0x8b));
    assert_eq!(late, []);
    let gateway = Gateway::start().with_stopped_clock().await;
    let mut silent = gateway.open(certified("plug"));
    silent.send(&connect5("c", 0x02, 10, b"")).await;
    assert_eq!(connack(&mut silent).await.0, 0);
    silent.expect_disconnect(0x8d).await;
}

#[tokio::test]
async fn who_is_put_out_is_told_why() {
    let gateway = Gateway::start();
    type Change = fn(&mut Device);
    let revoke: Change = |known| {
        let (_, certificate) = peer(certified("plug")).certificate.expect("it has one");
        let revoked_at = time::OffsetDateTime::UNIX_EPOCH;
        known.revoked.push(RevokedCertificate { certificate, revoked_at, not_after: None });
    };
    let disable: Change = |known| known.disabled = true;
    for (change, why) in [(revoke, "was revoked"), (disable, "plug is disabled")] {
        let mut plug = gateway.connect5("plug", "c", &[]).await;
        let mut lamp = gateway.connect5("lamp", "c", &[]).await;
        let mut devices = Devices::default();
        change(devices.device_mut(&device("plug")));
        let (access, streams) = (Access::default(), &gateway.streams);
        let rules = Authorizer::with(&access, streams, devices.into(), std::sync::Arc::default());
        gateway.broker.reload(rules, streams);
        let (first, body) = plug.receive().await;
        assert_eq!((first, body[0]), (0xe0, 0x87));
        assert!(contains(&body, why.as_bytes()), "{:?}", String::from_utf8_lossy(&body));
        plug.expect_close().await;
        lamp.ping().await;
        gateway.broker.reload(authorizer(streams), streams);
    }
}

#[tokio::test]
async fn a_refused_publish_is_answered_and_the_connection_stays() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect5("plug", "c", &[]).await;
    plug.send(&publish5(0x32, "lamp/x", 1, b"", "!")).await;
    plug.expect(b"\x40\x03\0\x01\x87").await;
    plug.send(&publish5(0x34, "lamp/x", 2, b"", "!")).await;
    plug.expect(b"\x50\x03\0\x02\x87").await;
    plug.send(&publish5(0x30, "lamp/x", 0, b"", "!")).await;
    // The identifier of a refused publish is free.
    plug.send(&publish5(0x34, "plug/reading", 2, b"", "{}")).await;
    plug.expect(&ack(PUBREC, 2)).await;
    assert_eq!(gateway.refused("publish_not_allowed"), 3);
}

#[tokio::test]
async fn a_publisher_is_told_when_nobody_gets_its_message() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect5("plug", "c", &[]).await;
    plug.send(&publish5(0x32, "plug/x", 1, b"", "!")).await;
    plug.expect(b"\x40\x03\0\x01\x10").await;
    plug.send(&publish5(0x34, "plug/x", 2, b"", "!")).await;
    plug.expect(b"\x50\x03\0\x02\x10").await;
    plug.send(&publish5(0x32, "plug/reading", 3, b"", "{}")).await;
    plug.expect(&puback(3)).await;
}

#[tokio::test]
async fn a_payload_that_is_not_what_it_says_is_refused_unless_it_is_a_reading() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect5("plug", "c", &[]).await;
    let bad = |topic, id| {
        let mut publish = publish5(0x32, topic, id, b"\x01\x01", "!");
        *publish.last_mut().unwrap() = 0xff;
        publish
    };
    plug.send(&bad("plug/x", 1)).await;
    plug.expect(b"\x40\x03\0\x01\x99").await;
    plug.send(&bad("plug/reading", 2)).await;
    plug.expect(&puback(2)).await;
    assert_eq!(gateway.broker.figures().readings_unfit, 1);
}

#[tokio::test]
async fn more_publishes_than_the_receive_maximum_end_the_connection() {
    let limits = config::Listener { max_inflight: 2, ..config::Listener::default() };
    let gateway = Gateway::start_with(&limits, |settings| settings.ack_delay = Duration::from_secs(20));
    let mut plug = gateway.connect5("plug", "c", &[]).await;
    let publishes = (1..=3).map(|id| publish5(0x32, "plug/reading", id, b"", "{}"));
    plug.send(&publishes.collect::<Vec<_>>().concat()).await;
    plug.expect_disconnect(0x93).await;
}

#[tokio::test]
async fn a_qos_2_publish_counts_until_it_is_completed() {
    let limits = config::Listener { max_inflight: 1, ..config::Listener::default() };
    let gateway = Gateway::start_with(&limits, |_| {});
    let mut plug = gateway.connect5("plug", "c", &[]).await;
    for id in 1..=3 {
        plug.send(&publish5(0x34, "plug/reading", id, b"", "{}")).await;
        plug.expect(&ack(PUBREC, id)).await;
        plug.send(&ack(PUBREL, id)).await;
        plug.expect(&ack(PUBCOMP, id)).await;
    }
    plug.send(&publish5(0x34, "plug/reading", 4, b"", "{}")).await;
    plug.expect(&ack(PUBREC, 4)).await;
    plug.send(&publish5(0x32, "plug/reading", 5, b"", "{}")).await;
    plug.expect_disconnect(0x93).await;
}

#[tokio::test]
async fn the_clients_receive_maximum_holds() {
    let gateway = Gateway::start();
    let mut panel = gateway.connect5("panel", "c", b"\x21\0\x01").await;
    panel.send(&subscribe5(1, b"", "plug/#", 2)).await;
    panel.expect(b"\x90\x04\0\x01\0\x02").await;
    let mut plug = gateway.connect("plug", "c").await;
    for (id, publish) in [(1, publish2("plug/x", 1, "1")), (2, publish1("plug/x", 2, "2"))] {
        plug.send(&publish).await;
        plug.expect(&if id == 1 { ack(PUBREC, id) } else { puback(id) }).await;
    }
    panel.expect(&publish5(0x34, "plug/x", 1, b"", "1")).await;
    panel.ping().await;
    panel.send(&ack(PUBREC, 1)).await;
    panel.expect(&ack(PUBREL, 1)).await;
    panel.ping().await;
    panel.send(&ack(PUBCOMP, 1)).await;
    panel.expect(&publish5(0x32, "plug/x", 2, b"", "2")).await;
}

#[tokio::test]
async fn a_message_larger_than_the_client_takes_is_dropped_for_it() {
    let gateway = Gateway::start();
    let mut panel = gateway.connect5("panel", "c", b"\x27\0\0\0\x28").await;
    panel.send(&subscribe5(1, b"", "plug/#", 1)).await;
    panel.expect(b"\x90\x04\0\x01\0\x01").await;
    let mut plug = gateway.connect("plug", "c").await;
    plug.send(&[publish1("plug/x", 1, &"x".repeat(40)), publish1("plug/x", 2, "small")].concat()).await;
    plug.expect(&[puback(1), puback(2)].concat()).await;
    panel.expect(&publish5(0x32, "plug/x", 2, b"", "small")).await;
    assert_eq!(gateway.broker.figures().dropped["too_large"], 1);
}

#[tokio::test]
async fn a_topic_may_be_given_a_number_by_either_side() {
    let gateway = Gateway::start();
    let mut panel = gateway.connect5("panel", "c", b"\x22\0\x02").await;
    panel.send(&subscribe5(1, b"", "plug/#", 0)).await;
    panel.expect(b"\x90\x04\0\x01\0\0").await;
    let mut plug = gateway.connect5("plug", "c", &[]).await;
    plug.send(&publish5(0x30, "plug/one", 0, b"\x23\0\x10", "1")).await;
    plug.send(&publish5(0x30, "", 0, b"\x23\0\x10", "2")).await;
    panel.expect(&publish5(0x30, "plug/one", 0, b"\x23\0\x01", "1")).await;
    panel.expect(&publish5(0x30, "", 0, b"\x23\0\x01", "2")).await;
    // It may stand for another one later.
    plug.send(&publish5(0x30, "plug/two", 0, b"\x23\0\x10", "3")).await;
    plug.send(&publish5(0x30, "", 0, b"\x23\0\x10", "4")).await;
    panel.expect(&publish5(0x30, "plug/two", 0, b"\x23\0\x02", "3")).await;
    panel.expect(&publish5(0x30, "", 0, b"\x23\0\x02", "4")).await;
    plug.send(&publish5(0x30, "plug/three", 0, b"", "5")).await;
    panel.expect(&publish5(0x30, "plug/three", 0, b"", "5")).await;
}

#[tokio::test]
async fn a_number_that_stands_for_no_topic_ends_the_connection() {
    let gateway = Gateway::start();
    for (properties, reason) in [(&b"\x23\0\x11"[..], 0x94), (b"\x23\0\x05", 0x82)] {
        let mut plug = gateway.connect5("plug", "c", &[]).await;
        let topic = if reason == 0x94 { "plug/x" } else { "" };
        plug.send(&publish5(0x30, topic, 0, properties, "!")).await;
        plug.expect_disconnect(reason).await;
    }
}

#[tokio::test]
async fn what_belongs_to_a_message_is_passed_on() {
    let gateway = Gateway::start();
    let mut panel = gateway.connect5("panel", "c", &[]).await;
    panel.send(&subscribe5(1, b"", "plug/#", 0)).await;
    panel.expect(b"\x90\x04\0\x01\0\0").await;
    let mut plug = gateway.connect5("plug", "c", &[]).await;
    // Payload format, content type, response topic, correlation data, two user properties of one name.
    let properties =
        b"\x01\x01\x03\0\x04text\x08\0\x05reply\x09\0\x02\xff\0\x26\0\x01k\0\x01v\x26\0\x01k\0\x01w";
    plug.send(&publish5(0x30, "plug/x", 0, properties, "ask")).await;
    let (first, body) = panel.receive().await;
    assert_eq!(first, 0x30);
    let parts = [&b"\x01\x01"[..], b"\x03\0\x04text", b"\x08\0\x05reply", b"\x09\0\x02\xff\0"];
    assert!(parts.iter().all(|part| contains(&body, part)), "{body:02x?}");
    assert!(contains(&body, b"\x26\0\x01k\0\x01v\x26\0\x01k\0\x01w"), "{body:02x?}");
    assert!(body.ends_with(b"ask"));
}

#[tokio::test]
async fn a_message_says_how_long_it_may_still_live() {
    let gateway = Gateway::start();
    let expiry = b"\x11\0\0\0\x3c";
    let mut panel = gateway.connect5("panel", "c", expiry).await;
    panel.send(&subscribe5(1, b"", "plug/#", 1)).await;
    panel.expect(b"\x90\x04\0\x01\0\x01").await;
    panel.leave().await;
    let mut plug = gateway.connect5("plug", "c", &[]).await;
    plug.send(&publish5(0x32, "plug/x", 1, b"\x02\0\0\0\x01", "short")).await;
    plug.expect(&puback(1)).await;
    plug.send(&publish5(0x32, "plug/x", 2, b"\x02\0\0\x02\x58", "long")).await;
    plug.expect(&puback(2)).await;
    let published = std::time::Instant::now();
    eventually("for the first to expire", || published.elapsed() > Duration::from_millis(1_200)).await;
    let mut panel = gateway.open(certified("panel"));
    panel.send(&connect5("c", 0x00, 60, expiry)).await;
    let (_, connack) = panel.receive().await;
    assert_eq!(connack[..2], [1, 0]);
    let (first, body) = panel.receive().await;
    assert_eq!(first, 0x32);
    assert!(body.ends_with(b"long"));
    let remaining = u32::from_be_bytes(body[12..16].try_into().unwrap());
    assert!((500..600).contains(&remaining), "{remaining} of 600 s: {body:02x?}");
    assert_eq!(gateway.broker.figures().dropped["expired"], 1);
}

#[tokio::test]
async fn a_session_lives_as_long_as_its_client_says_last() {
    let gateway = Gateway::start();
    let expiry = b"\x11\0\0\0\x3c";
    let mut panel = gateway.connect5("panel", "c", expiry).await;
    // DISCONNECT with another session expiry interval: none.
    panel.send(b"\xe0\x07\0\x05\x11\0\0\0\0").await;
    panel.expect_close().await;
    eventually("for the session to end", || gateway.broker.figures().sessions_kept == 0).await;
    let mut panel = gateway.connect5("panel", "c", &[]).await;
    panel.send(b"\xe0\x07\0\x05\x11\0\0\0\x3c").await;
    panel.expect_disconnect(0x82).await;
    let gateway = gateway.restart().await;
    gateway.connect_kept("panel", "c", false).await.ping().await;
}

#[tokio::test]
async fn subscriptions_have_identifiers_and_options() {
    let gateway = Gateway::start();
    let mut panel = gateway.connect5("panel", "c", &[]).await;
    // No local and retain as published, with the identifier 300.
    panel.send(&subscribe5(1, b"\x0b\xac\x02", "#", 0x0c)).await;
    panel.expect(b"\x90\x04\0\x01\0\0").await;
    panel.send(&publish5(0x30, "panel/x", 0, b"", "its own")).await;
    let mut plug = gateway.connect("plug", "c").await;
    plug.send(&retained(publish0("plug/x", "!"))).await;
    panel.expect(&publish5(0x31, "plug/x", 0, b"\x0b\xac\x02", "!")).await;
    // Again, with retain handling 1: not given what is retained, as the subscription is not new.
    panel.send(&subscribe5(2, b"", "#", 0x10)).await;
    panel.expect(b"\x90\x04\0\x02\0\0").await;
    panel.ping().await;
    panel.send(&subscribe5(3, b"", "plug/x", 0x10)).await;
    panel.expect(b"\x90\x04\0\x03\0\0").await;
    panel.expect(&publish5(0x31, "plug/x", 0, b"", "!")).await;
    panel.send(&subscribe5(4, b"", "plug/x", 0x20)).await;
    panel.expect(b"\x90\x04\0\x04\0\0").await;
    panel.ping().await;
    panel.send(&packet(0xa2, &[&b"\0\x05\0"[..], &text("plug/x"), &text("never")].concat())).await;
    panel.expect(b"\xb0\x05\0\x05\0\0\x11").await;
}

#[tokio::test]
async fn a_share_gives_each_message_to_one_of_those_who_have_it() {
    let gateway = Gateway::start();
    let mut workers = Vec::new();
    for id in ["a", "b"] {
        let mut worker = gateway.connect5("panel", id, b"\x11\0\0\0\x3c").await;
        worker.send(&subscribe5(1, b"", "$share/work/plug/#", 1)).await;
        worker.expect(b"\x90\x04\0\x01\0\x01").await;
        workers.push(worker);
    }
    let mut plug = gateway.connect("plug", "c").await;
    for n in 1..=6 {
        plug.publish("plug/x", n, "!").await;
    }
    for worker in &mut workers {
        for n in 1..=3 {
            worker.expect(&publish5(0x32, "plug/x", n, b"", "!")).await;
            worker.send(&puback(n)).await;
        }
        worker.ping().await;
    }
    workers.pop().unwrap().leave().await;
    plug.send(&[publish1("plug/x", 7, "!"), publish1("plug/x", 8, "!")].concat()).await;
    plug.expect(&[puback(7), puback(8)].concat()).await;
    for n in [4, 5] {
        workers[0].expect(&publish5(0x32, "plug/x", n, b"", "!")).await;
    }
    workers.pop().unwrap().leave().await;
    plug.publish("plug/x", 9, "waits for whoever comes first in turn").await;
    assert_eq!(gateway.broker.figures().queued_messages, 3);
}

#[tokio::test]
async fn subscriptions_that_are_refused_are_told_why() {
    let limits = config::Listener { max_subscriptions: 1, ..config::Listener::default() };
    let gateway = Gateway::start_with(&limits, |_| {});
    let mut plug = gateway.connect5("plug", "c", &[]).await;
    for (id, filter, reason) in [(1, "lamp/#", 0x87), (2, "plug/a", 0x01), (3, "plug/b", 0x97)] {
        plug.send(&subscribe5(id, b"", filter, 1)).await;
        plug.expect(&packet(0x90, &[&id.to_be_bytes()[..], &[0, reason]].concat())).await;
    }
    plug.send(&subscribe5(4, b"", "plug/a#", 1)).await;
    plug.expect_disconnect(0x8f).await;
}
