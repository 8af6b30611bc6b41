//! What the specification of MQTT 3.1.1 demands of a server, statement by statement.

use super::*;

#[tokio::test]
async fn a_connect_is_answered_and_what_was_sent_behind_it_is_served() {
    let gateway = Gateway::start();
    let mut client = gateway.open(certified("plug"));
    // MQTT-3.2.0-1: the CONNACK comes first.
    client.send(&[connect("c", 0x02, 60), subscribe(7, &[("plug/#", 0)]), b"\xc0\0".into()].concat()).await;
    client.expect(CONNACK).await;
    client.expect(b"\x90\x03\0\x07\0").await;
    client.expect(b"\xd0\0").await;
    assert_eq!(gateway.broker.figures().sessions, 1);
}

#[tokio::test]
async fn another_version_is_told_so_and_closed() {
    let gateway = Gateway::start();
    let mut client = gateway.open(certified("plug"));
    client.send(&packet(0x10, b"\0\x06MQIsdp\x03\x02\0\x3c\0\x01c")).await;
    client.expect(b"\x20\x02\0\x01").await;
    client.expect_close().await;
    assert_eq!(gateway.refused("protocol_version"), 1);
}

#[tokio::test]
async fn a_client_without_an_id_is_given_one_if_its_session_is_clean() {
    let gateway = Gateway::start();
    let mut first = gateway.connect("plug", "").await;
    let mut second = gateway.connect("plug", "").await;
    first.ping().await;
    second.ping().await;
    // MQTT-3.1.3-8.
    let mut kept = gateway.open(certified("plug"));
    kept.send(&connect("", 0x00, 60)).await;
    kept.expect(b"\x20\x02\0\x02").await;
    kept.expect_close().await;
    assert_eq!(gateway.refused("client_id_invalid"), 1);
}

#[tokio::test]
async fn a_first_packet_that_is_no_connect_is_not_answered() {
    let gateway = Gateway::start();
    for first in [&b"\xc0\0"[..], b"GET / HTTP/1.1\r\n", &publish0("plug/x", "!")] {
        let mut client = gateway.open(certified("plug"));
        client.send(first).await;
        client.expect_close().await;
    }
    assert_eq!(gateway.refused("protocol_violation"), 3);
}

#[tokio::test]
async fn a_second_connect_ends_the_connection() {
    let gateway = Gateway::start();
    let mut client = gateway.connect("plug", "c").await;
    client.send(&connect("c", 0x02, 60)).await;
    client.expect_close().await;
}

#[tokio::test]
async fn a_connect_must_come_in_time() {
    let gateway = Gateway::start().with_stopped_clock().await;
    let mut client = gateway.open(certified("plug"));
    client.send(b"\x10\x0d\0\x04MQ").await;
    client.expect_close().await;
    assert_eq!(gateway.refused("connect_timeout"), 1);
    assert_eq!(gateway.broker.figures().connections, 0);
}

#[tokio::test]
async fn one_and_a_half_keep_alive_periods_of_silence_end_a_connection() {
    let gateway = Gateway::start().with_stopped_clock().await;
    let mut client = gateway.open(certified("plug"));
    client.send(&connect("c", 0x02, 10)).await;
    client.expect(CONNACK).await;
    let start = tokio::time::Instant::now();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(14)).await;
        client.ping().await;
    }
    client.expect_close().await;
    assert_eq!(start.elapsed().as_secs(), 3 * 14 + 15);
    assert_eq!(gateway.refused("keep_alive_expired"), 1);
}

#[tokio::test]
async fn silence_has_a_bound_for_clients_that_want_none() {
    let limits = config::Listener { max_keep_alive: Duration::from_secs(10), ..config::Listener::default() };
    let gateway = Gateway::start_with(&limits, |_| {}).with_stopped_clock().await;
    for keep_alive in [0, 60_000] {
        let mut client = gateway.open(certified("plug"));
        client.send(&connect("c", 0x02, keep_alive)).await;
        client.expect(CONNACK).await;
        let start = tokio::time::Instant::now();
        client.expect_close().await;
        assert_eq!(start.elapsed().as_secs(), 15);
    }
}

#[tokio::test]
async fn a_disconnect_ends_the_session() {
    let gateway = Gateway::start();
    let mut client = gateway.connect("plug", "c").await;
    client.send(b"\xe0\0").await;
    client.expect_close().await;
    eventually("for the session to go", || gateway.broker.figures().sessions == 0).await;
}

#[tokio::test]
async fn each_filter_of_a_subscribe_has_its_own_answer() {
    let gateway = Gateway::start();
    let mut client = gateway.connect("plug", "c").await;
    let wanted = [("plug/a", 0), ("plug/b", 1), ("plug/c", 2), ("lamp/#", 0), ("#", 1), ("$SYS/#", 0)];
    client.send(&subscribe(0x0102, &wanted)).await;
    client.expect(b"\x90\x08\x01\x02\0\x01\x02\x80\x80\x80").await;
    assert_eq!(gateway.refused("subscribe_not_allowed"), 3);
}

#[tokio::test]
async fn a_connection_holds_so_many_filters_and_no_more() {
    let limits = config::Listener { max_subscriptions: 2, ..config::Listener::default() };
    let gateway = Gateway::start_with(&limits, |_| {});
    let mut client = gateway.connect("plug", "c").await;
    client.send(&subscribe(1, &[("plug/a", 0), ("plug/b", 0), ("plug/c", 0), ("plug/a", 1)])).await;
    client.expect(b"\x90\x06\0\x01\0\0\x80\x01").await;
    client.send(&unsubscribe(2, &["plug/a", "plug/never"])).await;
    client.expect(b"\xb0\x02\0\x02").await;
    client.subscribe("plug/c", 0).await;
    assert_eq!(gateway.refused("subscribe_impossible"), 1);
}

#[tokio::test]
async fn what_is_no_filter_ends_the_connection() {
    let gateway = Gateway::start();
    for bad in ["", "plug/a#", "plug/#/a", "plug/a+", "plug/\0"] {
        for packet in [subscribe(1, &[(bad, 0)]), unsubscribe(1, &[bad])] {
            let mut client = gateway.connect("plug", "c").await;
            client.send(&packet).await;
            client.expect_close().await;
        }
    }
    assert_eq!(gateway.refused("protocol_violation"), 10);
}

#[tokio::test]
async fn what_is_no_topic_name_ends_the_connection() {
    let gateway = Gateway::start();
    // MQTT-4.7.3-1, MQTT-3.3.2-2, MQTT-1.5.3-2.
    for bad in ["", "plug/+", "plug/#", "plug/\0"] {
        let mut client = gateway.connect("plug", "c").await;
        client.send(&publish0(bad, "!")).await;
        client.expect_close().await;
    }
    assert_eq!(gateway.refused("protocol_violation"), 4);
}

#[tokio::test]
async fn the_newer_connection_with_a_client_id_throws_the_older_one_out() {
    let gateway = Gateway::start();
    // In rumqttd an id with these characters that connects twice ends the listener.
    for id in ["c", "+", "#", "$", "a/b", "$share/+/#", "ü"] {
        let mut older = gateway.connect("plug", id).await;
        let mut newer = gateway.connect("plug", id).await;
        older.expect_close().await;
        newer.ping().await;
        newer.send(b"\xe0\0").await;
        newer.expect_close().await;
    }
    assert_eq!(gateway.broker.figures().taken_over, 7);
    eventually("for the sessions to go", || gateway.broker.figures().sessions == 0).await;
}

#[tokio::test]
async fn a_device_cannot_throw_another_out_by_taking_its_client_id() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    let mut lamp = gateway.connect("lamp", "c").await;
    plug.ping().await;
    lamp.ping().await;
}

#[tokio::test]
async fn a_reconnect_loop_with_one_client_id_leaves_one_session() {
    let gateway = Gateway::start();
    let mut clients = Vec::new();
    for _ in 0..200 {
        clients.push(gateway.connect("plug", "ESP32Client").await);
    }
    clients.last_mut().unwrap().ping().await;
    for client in &mut clients[..199] {
        client.expect_close().await;
    }
    assert_eq!(gateway.broker.figures().sessions, 1);
}

#[tokio::test]
async fn a_packet_beyond_the_bound_ends_the_connection_before_it_has_come() {
    let limits = config::Listener { max_packet_bytes: 1_000, ..config::Listener::default() };
    let gateway = Gateway::start_with(&limits, |_| {});
    let mut client = gateway.connect("plug", "c").await;
    client.publish("plug/reading", 1, &format!("\"{}\"", "x".repeat(900))).await;
    client.send(&publish0("plug/x", &"x".repeat(1_000))[..10]).await;
    client.expect_close().await;
    assert_eq!(gateway.refused("packet_too_large"), 1);
}

/// Besides the stream itself. 5,000 idle connections may cost 10 KB each, most of which is TLS.
#[tokio::test]
async fn an_idle_session_is_small() {
    let gateway = Gateway::start();
    let (_near, far) = tokio::io::duplex(1);
    let peer = peer(certified("plug"));
    let served = gateway.broker.serve(far, peer, tokio_util::sync::CancellationToken::new());
    let bytes = size_of_val(&served);
    assert!(bytes <= 1_536, "{bytes} bytes");
}

#[tokio::test]
async fn one_subscribe_is_looked_at_no_further_than_twice_what_a_session_may_hold() {
    let limits = config::Listener { max_subscriptions: 1, ..config::Listener::default() };
    let gateway = Gateway::start_with(&limits, |_| {});
    let mut client = gateway.connect("plug", "c").await;
    client.send(&subscribe(1, &[("plug/a", 0), ("plug/a", 1), ("plug/a", 2), ("lamp/#", 0)])).await;
    client.expect(b"\x90\x06\0\x01\0\x01\x80\x80").await;
    assert_eq!(gateway.refused("subscribe_not_allowed"), 0);
}
