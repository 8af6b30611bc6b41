//! Several subscriptions of one session that match the same message.

use super::*;

/// The identifiers of the subscriptions in a PUBLISH of 5.0 that carries nothing else, and their order does not matter.
fn identifiers(body: &[u8], topic: &str, qos: u8) -> Vec<u8> {
    let at = 2 + topic.len() + if qos > 0 { 2 } else { 0 };
    let properties = &body[at + 1..at + 1 + usize::from(body[at])];
    let mut found: Vec<_> = properties
        .chunks(2)
        .map(|property| {
            assert_eq!(property[0], 0x0b);
            property[1]
        })
        .collect();
    found.sort_unstable();
    found
}

#[tokio::test]
async fn a_message_comes_once_with_the_highest_qos_and_the_identifiers_of_all() {
    let gateway = Gateway::start();
    let mut panel = gateway.connect5("panel", "c", &[]).await;
    for (id, identifier, filter, qos) in
        [(1, 7, "plug/#", 0), (2, 8, "plug/+", 2), (3, 7, "plug/x", 1), (4, 9, "lamp/#", 2)]
    {
        panel.send(&subscribe5(id, &[0x0b, identifier], filter, qos)).await;
        panel.expect(&packet(0x90, &[&id.to_be_bytes()[..], &[0, qos]].concat())).await;
    }
    let mut plug = gateway.connect("plug", "c").await;
    plug.send(&publish2("plug/x", 1, "!")).await;
    plug.expect(&ack(PUBREC, 1)).await;
    let (first, body) = panel.receive().await;
    assert_eq!((first, identifiers(&body, "plug/x", 2)), (0x34, vec![7, 7, 8]));
    panel.ping().await;

    // The same filter again replaces options and identifier (MQTT-3.8.4-3); one without any has none.
    panel.send(&subscribe5(5, &[], "plug/+", 0)).await;
    panel.expect(b"\x90\x04\0\x05\0\0").await;
    plug.send(&publish2("plug/x", 2, "!")).await;
    let (first, body) = panel.receive().await;
    assert_eq!((first, identifiers(&body, "plug/x", 1)), (0x32, vec![7, 7]));
}

#[tokio::test]
async fn a_client_of_3_1_1_gets_it_once_with_the_highest_qos() {
    let gateway = Gateway::start();
    let mut panel = gateway.connect("panel", "c").await;
    for (filter, qos) in [("plug/x", 0), ("+/x", 1), ("#", 0)] {
        panel.subscribe(filter, qos).await;
    }
    let mut plug = gateway.connect("plug", "c").await;
    plug.send(&publish1("plug/x", 1, "!")).await;
    panel.expect(&publish1("plug/x", 1, "!")).await;
    panel.ping().await;
}

#[tokio::test]
async fn what_a_client_publishes_comes_back_by_its_subscriptions_without_no_local() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect5("plug", "c", &[]).await;
    // QoS 1 with no local, and without.
    for (id, identifier, filter, options) in [(1, 1, "plug/#", 0x05), (2, 2, "plug/x", 0x00)] {
        plug.send(&subscribe5(id, &[0x0b, identifier], filter, options)).await;
        plug.expect(&packet(0x90, &[&id.to_be_bytes()[..], &[0, options & 3]].concat())).await;
    }
    plug.send(&publish5(0x32, "plug/x", 9, b"", "own")).await;
    let mut came = Vec::new();
    for _ in 0..2 {
        came.push(plug.receive().await);
    }
    let message = came.iter().find(|(first, _)| *first == 0x30).expect("QoS 0, as the other one wants it");
    assert_eq!(identifiers(&message.1, "plug/x", 0), [2]);
    plug.send(&publish5(0x30, "plug/y", 0, b"", "own")).await;
    plug.ping().await;

    let mut panel = gateway.connect("panel", "c").await;
    panel.send(&publish0("plug/x", "another's")).await;
    let (first, body) = plug.receive().await;
    assert_eq!((first, identifiers(&body, "plug/x", 0)), (0x30, vec![1, 2]));
}

#[tokio::test]
async fn identifiers_and_options_outlive_a_power_cut() {
    let gateway = Gateway::start();
    let mut panel = gateway.connect5("panel", "c", b"\x11\0\0\0\x3c").await;
    // QoS 1, retain as published.
    panel.send(&subscribe5(1, b"\x0b\x07", "plug/#", 0x09)).await;
    panel.expect(b"\x90\x04\0\x01\0\x01").await;
    let mut plug = gateway.connect("plug", "c").await;
    plug.retain("plug/x", 1, "before").await;

    let gateway = gateway.power_cut();
    let mut plug = gateway.connect("plug", "c").await;
    plug.retain("plug/x", 1, "after").await;
    let mut panel = gateway.open(certified("panel"));
    panel.send(&connect5("c", 0x00, 60, b"\x11\0\0\0\x3c")).await;
    let (first, body) = panel.receive().await;
    assert_eq!((first, &body[..2]), (0x20, &[1, 0][..]));
    panel.expect(&dup(publish5(0x33, "plug/x", 1, b"\x0b\x07", "before"))).await;
    panel.expect(&publish5(0x33, "plug/x", 2, b"\x0b\x07", "after")).await;
}
