//! Retained messages.

use super::*;

#[tokio::test]
async fn the_last_message_is_given_to_who_subscribes_later() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    for state in ["on", "off"] {
        plug.retain("plug/state", 1, state).await;
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
        plug.retain("plug/state", n, &n.to_string()).await;
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
    plug.retain("plug/reading", 1, "{}").await;
    let figures = gateway.broker.figures();
    assert_eq!((figures.readings, figures.retained), (1, 1));
}

#[tokio::test]
async fn a_kept_session_is_given_retained_messages_that_survive_a_power_cut() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    plug.retain("plug/state", 1, "on").await;
    let mut panel = gateway.subscribed_panel().await;
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
        plug.retain(topic, id, "!").await;
        panel.expect(&publish0(topic, "!")).await;
    }
    let figures = gateway.broker.figures();
    assert_eq!(figures.retained, 1);
    assert_eq!(figures.refusals.values().sum::<u64>(), 1, "{:?}", figures.refusals);
}

#[tokio::test]
async fn a_client_of_5_0_is_told_what_cannot_be_retained_unless_it_is_a_reading() {
    let retained_bounds = config::Retained { max_messages: 1, ..config::Retained::default() };
    let gateway = Gateway::start_as(Setup { retained: retained_bounds, ..Setup::default() });
    let mut panel = gateway.connect("panel", "c").await;
    panel.subscribe("#", 0).await;
    let mut plug = gateway.connect5("plug", "c", &[]).await;
    plug.send(&publish5(0x33, "plug/a", 1, b"", "1")).await;
    plug.expect(&puback(1)).await;
    panel.expect(&publish0("plug/a", "1")).await;
    plug.send(&publish5(0x33, "plug/b", 2, b"", "refused")).await;
    plug.expect(b"\x40\x03\0\x02\x97").await;
    plug.send(&publish5(0x35, "plug/b", 3, b"", "refused")).await;
    plug.expect(b"\x50\x03\0\x03\x97").await;
    // It was not taken: nobody has it, and its identifier is free.
    panel.ping().await;
    plug.send(&publish5(0x34, "plug/b", 3, b"", "2")).await;
    plug.expect(&ack(PUBREC, 3)).await;
    panel.expect(&publish0("plug/b", "2")).await;
    plug.send(&publish5(0x33, "plug/reading", 4, b"", "{}")).await;
    plug.expect(&puback(4)).await;
    panel.expect(&publish0("plug/reading", "{}")).await;
    // Nobody hears of QoS 0.
    plug.send(&publish5(0x31, "plug/b", 0, b"", "3")).await;
    panel.expect(&publish0("plug/b", "3")).await;
    let figures = gateway.broker.figures();
    assert_eq!((figures.readings, figures.retained, figures.refusals["retained_full"]), (1, 1, 4));
}

#[tokio::test]
async fn with_no_local_a_client_is_not_given_what_it_has_retained_itself() {
    let gateway = Gateway::start();
    for (identity, client_id) in [("plug", "c"), ("plug", "other"), ("panel", "c")] {
        let mut client = gateway.connect(identity, client_id).await;
        let topic = format!("plug/{identity}/{client_id}");
        client.retain(&topic, 1, "!").await;
    }
    // Another session of the client with that id, also after a restart.
    let gateway = gateway.restart().await;
    let mut plug = gateway.connect5("plug", "c", &[]).await;
    plug.send(&subscribe5(1, b"", "plug/#", 0x04)).await;
    plug.expect(b"\x90\x04\0\x01\0\0").await;
    for topic in ["plug/panel/c", "plug/plug/other"] {
        plug.expect(&publish5(0x31, topic, 0, b"", "!")).await;
    }
    plug.ping().await;
    plug.send(&subscribe5(2, b"", "plug/#", 0x00)).await;
    plug.expect(b"\x90\x04\0\x02\0\0").await;
    for topic in ["plug/panel/c", "plug/plug/c", "plug/plug/other"] {
        plug.expect(&publish5(0x31, topic, 0, b"", "!")).await;
    }
}

#[tokio::test]
async fn subscriptions_to_which_nothing_is_retained_do_not_hold_up_others() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    plug.retain("plug/state", 1, "on").await;
    let mut panel = gateway.connect("panel", "c").await;
    let filters = ["a", "b", "c", "d", "e", "f", "plug/#"].map(|filter| (filter, 0));
    panel.send(&subscribe(1, &filters)).await;
    panel.expect(&[&b"\x90\x09\0\x01"[..], &[0; 7]].concat()).await;
    panel.expect(&retained(publish0("plug/state", "on"))).await;
}

#[tokio::test]
async fn what_is_owed_to_a_kept_session_waits_for_its_client_also_through_a_restart() {
    const ALL: u16 = 60;
    let mut gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    let (topic, payload) = (|n: u16| format!("plug/{n:03}"), "x".repeat(10_000));
    for n in 1..=ALL {
        plug.retain(&topic(n), n, &payload).await;
    }
    let mut panel = gateway.subscribed_panel().await;
    // It goes after the first one, comes back and takes a few more, and so on.
    for (n, moment) in (1..=ALL).zip((0..4).cycle()) {
        let (first, body) = panel.receive().await;
        assert_eq!((first & !0x08, &body[2..10]), (0x33, topic(n).as_bytes()));
        panel.send(&[&b"\x40\x02"[..], &body[10..12]].concat()).await;
        if moment < 3 {
            panel.vanish(&gateway).await;
            gateway = match moment {
                0 => gateway,
                1 => gateway.restart().await,
                _ => gateway.restart().await.power_cut(),
            };
            panel = gateway.connect_kept("panel", "c", true).await;
        }
    }
    panel.ping().await;
    assert_eq!(gateway.broker.figures().queued_messages, 0);
}

#[tokio::test]
async fn more_than_a_queue_holds_is_given_piece_by_piece() {
    let sessions = config::Sessions { max_queued_bytes: 200_000, ..config::Sessions::default() };
    let gateway = Gateway::start_as(Setup { sessions, ..Setup::default() });
    let mut plug = gateway.connect("plug", "c").await;
    let payload = "x".repeat(10_000);
    for n in 1..=100 {
        plug.retain(&format!("plug/{n:03}"), n, &payload).await;
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
