//! Messages to subscribers.

use super::*;

#[tokio::test]
async fn a_message_has_the_lower_qos_of_publish_and_subscription() {
    let gateway = Gateway::start();
    let mut panel = gateway.connect("panel", "c").await;
    let mut plug = gateway.connect("plug", "c").await;
    panel.subscribe("plug/zero", 0).await;
    panel.subscribe("plug/one", 1).await;
    let publishes =
        ["plug/zero", "plug/one"].map(|topic| [publish0(topic, "a"), publish1(topic, 9, "b")].concat());
    plug.send(&publishes.concat()).await;
    panel.expect(&publish0("plug/zero", "a")).await;
    panel.expect(&publish0("plug/zero", "b")).await;
    panel.expect(&publish0("plug/one", "a")).await;
    panel.expect(&publish1("plug/one", 1, "b")).await;
    panel.send(&puback(1)).await;
    panel.ping().await;
    assert_eq!(gateway.broker.figures().delivered, 4);
}

#[tokio::test]
async fn overlapping_subscriptions_give_one_message() {
    let gateway = Gateway::start();
    let mut panel = gateway.connect("panel", "c").await;
    panel.subscribe("#", 0).await;
    panel.subscribe("plug/+", 1).await;
    let mut plug = gateway.connect("plug", "c").await;
    plug.send(&publish1("plug/x", 1, "!")).await;
    panel.expect(&publish1("plug/x", 1, "!")).await;
    panel.ping().await;
}

#[tokio::test]
async fn an_unsubscribed_filter_delivers_no_more() {
    let gateway = Gateway::start();
    let mut panel = gateway.connect("panel", "c").await;
    panel.subscribe("plug/#", 0).await;
    panel.send(&publish0("plug/x", "1")).await;
    panel.expect(&publish0("plug/x", "1")).await;
    panel.send(&unsubscribe(2, &["plug/#"])).await;
    panel.expect(b"\xb0\x02\0\x02").await;
    panel.send(&publish0("plug/x", "2")).await;
    panel.ping().await;
}

#[tokio::test]
async fn a_topic_that_starts_with_a_multi_byte_character_is_a_topic() {
    let gateway = Gateway::start();
    let mut panel = gateway.connect("panel", "c").await;
    panel.subscribe("#", 0).await;
    for topic in ["ütopic", "€", "𝄞/a", "/ü"] {
        panel.send(&publish0(topic, "!")).await;
        panel.expect(&publish0(topic, "!")).await;
    }
}

#[tokio::test]
async fn messages_of_one_publisher_arrive_in_its_order() {
    let gateway = Gateway::start();
    let mut panel = gateway.connect("panel", "c").await;
    panel.subscribe("#", 1).await;
    let mut plug = gateway.connect("plug", "c").await;
    for n in 1..=500 {
        plug.send(&publish1("plug/x", n, &n.to_string())).await;
    }
    for n in 1..=500 {
        panel.expect(&publish1("plug/x", n, &n.to_string())).await;
        panel.send(&puback(n)).await;
        plug.expect(&puback(n)).await;
    }
}

#[tokio::test]
async fn a_client_that_acknowledges_nothing_gets_100_messages_and_then_waits() {
    let gateway = Gateway::start();
    let mut panel = gateway.connect("panel", "c").await;
    panel.subscribe("#", 1).await;
    let mut plug = gateway.connect("plug", "c").await;
    for n in 1..=101 {
        plug.publish("plug/x", n, "!").await;
    }
    for n in 1..=100 {
        panel.expect(&publish1("plug/x", n, "!")).await;
    }
    panel.ping().await;
    panel.send(&puback(50)).await;
    panel.expect(&publish1("plug/x", 101, "!")).await;
}

#[tokio::test]
async fn what_a_slow_subscriber_cannot_take_is_dropped_for_it_alone() {
    let sessions = config::Sessions { max_queued_bytes: 100_000, ..config::Sessions::default() };
    let gateway = Gateway::start_as(Setup { sessions, ..Setup::default() });
    let mut slow = gateway.open_with(certified("panel"), 1_000);
    slow.send(&connect("slow", 0x02, 60)).await;
    slow.expect(CONNACK).await;
    slow.subscribe("plug/#", 0).await;
    let mut plug = gateway.connect("plug", "c").await;
    let payload = "x".repeat(1_000);
    for n in 1..=500 {
        plug.publish("plug/x", n, &payload).await;
    }
    let dropped = gateway.broker.figures().dropped["queue_full"];
    assert!((300..480).contains(&dropped), "{dropped} of 500");
    // In rumqttd this ends the router.
    slow.send(b"\xe0\0").await;
    eventually("for the slow one to go", || gateway.broker.figures().sessions == 1).await;
    plug.publish("plug/x", 1, "!").await;
}

#[tokio::test]
async fn messages_larger_than_one_write_arrive_whole() {
    let gateway = Gateway::start();
    let mut panel = gateway.open_with(certified("panel"), 4_096);
    panel.send(&connect("c", 0x02, 60)).await;
    panel.expect(CONNACK).await;
    panel.subscribe("#", 0).await;
    let mut plug = gateway.connect("plug", "c").await;
    let payload = "x".repeat(200_000);
    for _ in 0..4 {
        plug.send(&publish0("plug/x", &payload)).await;
    }
    for _ in 0..4 {
        panel.expect(&publish0("plug/x", &payload)).await;
    }
}

#[tokio::test]
async fn many_subscribers_of_a_topic_each_get_the_message() {
    let gateway = Gateway::start();
    let mut panels = Vec::new();
    for n in 0..20 {
        let mut panel = gateway.connect("panel", &n.to_string()).await;
        panel.subscribe("plug/x", n % 2).await;
        panels.push(panel);
    }
    let mut plug = gateway.connect("plug", "c").await;
    for _ in 0..2 {
        plug.publish("plug/x", 1, "!").await;
    }
    for (n, panel) in panels.iter_mut().enumerate() {
        for packet_id in 1..=2 {
            match n % 2 {
                0 => panel.expect(&publish0("plug/x", "!")).await,
                _ => panel.expect(&publish1("plug/x", packet_id, "!")).await,
            }
        }
    }
}
