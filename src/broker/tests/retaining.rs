//! Retained messages.

use super::*;

#[tokio::test]
async fn the_last_message_is_given_to_who_subscribes_later() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    for state in ["on", "off"] {
        plug.send(&retained(publish1("plug/state", 1, state))).await;
        plug.expect(&puback(1)).await;
    }
    let mut panel = gateway.connect("panel", "c").await;
    panel.subscribe("plug/#", 1).await;
    panel.expect(&retained(publish1("plug/state", 1, "off"))).await;
    panel.send(&puback(1)).await;
    plug.send(&retained(publish0("plug/state", "live"))).await;
    panel.expect(&publish0("plug/state", "live")).await;
    plug.send(&retained(publish0("plug/state", ""))).await;
    panel.expect(&publish0("plug/state", "")).await;
    let mut later = gateway.connect("panel", "later").await;
    later.subscribe("plug/#", 1).await;
    later.ping().await;
    assert_eq!(gateway.broker.figures().retained, 0);
}

#[tokio::test]
async fn what_was_acknowledged_is_retained_after_a_power_cut() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    for n in 1..=3 {
        plug.send(&retained(publish1("plug/state", n, &n.to_string()))).await;
        plug.expect(&puback(n)).await;
        let after = gateway.power_cut();
        let mut panel = after.connect("panel", "c").await;
        panel.subscribe("plug/#", 0).await;
        panel.expect(&retained(publish0("plug/state", &n.to_string()))).await;
    }
}

#[tokio::test]
async fn a_reading_with_retain_is_stored_and_retained() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    plug.send(&retained(publish1("plug/reading", 1, "{}"))).await;
    plug.expect(&puback(1)).await;
    let figures = gateway.broker.figures();
    assert_eq!((figures.readings, figures.retained), (1, 1));
}

#[tokio::test]
async fn a_kept_session_is_given_retained_messages_that_survive_a_power_cut() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    plug.send(&retained(publish1("plug/state", 1, "on"))).await;
    plug.expect(&puback(1)).await;
    let mut panel = gateway.connect_kept("panel", "c", false).await;
    panel.subscribe("plug/#", 1).await;
    panel.expect(&retained(publish1("plug/state", 1, "on"))).await;
    let after = gateway.power_cut();
    let mut panel = after.connect_kept("panel", "c", true).await;
    panel.expect(&dup(retained(publish1("plug/state", 1, "on")))).await;
    panel.send(&puback(1)).await;
    panel.ping().await;
}

#[tokio::test]
async fn what_exceeds_the_bound_is_delivered_and_not_retained() {
    let retained_bounds = config::Retained { max_messages: 1, ..config::Retained::default() };
    let gateway = Gateway::start_as(Setup { retained: retained_bounds, ..Setup::default() });
    let mut panel = gateway.connect("panel", "c").await;
    panel.subscribe("plug/#", 0).await;
    let mut plug = gateway.connect("plug", "c").await;
    for (id, topic) in [(1, "plug/a"), (2, "plug/b"), (3, "plug/a")] {
        plug.send(&retained(publish1(topic, id, "!"))).await;
        plug.expect(&puback(id)).await;
        panel.expect(&publish0(topic, "!")).await;
    }
    let figures = gateway.broker.figures();
    assert_eq!(figures.retained, 1);
    assert_eq!(figures.refusals.values().sum::<u64>(), 1, "{:?}", figures.refusals);
}

#[tokio::test]
async fn more_than_a_queue_holds_is_given_piece_by_piece() {
    let sessions = config::Sessions { max_queued_bytes: 200_000, ..config::Sessions::default() };
    let gateway = Gateway::start_as(Setup { sessions, ..Setup::default() });
    let mut plug = gateway.connect("plug", "c").await;
    let payload = "x".repeat(10_000);
    for n in 1..=100 {
        plug.send(&retained(publish1(&format!("plug/{n:03}"), n, &payload))).await;
        plug.expect(&puback(n)).await;
    }
    for (id, kept, qos) in [("a", false, 0), ("b", false, 1), ("c", true, 1)] {
        let mut panel = match kept {
            true => gateway.connect_kept("panel", id, false).await,
            false => gateway.connect("panel", id).await,
        };
        panel.subscribe("plug/#", qos).await;
        for n in 1..=100 {
            let topic = format!("plug/{n:03}");
            match qos {
                0 => panel.expect(&retained(publish0(&topic, &payload))).await,
                _ => panel.expect(&retained(publish1(&topic, n, &payload))).await,
            }
            if qos == 1 {
                panel.send(&puback(n)).await;
            }
        }
        panel.ping().await;
    }
    assert_eq!(gateway.broker.figures().dropped["queue_full"], 0);
}
