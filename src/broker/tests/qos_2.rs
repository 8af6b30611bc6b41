//! Exactly once, in both directions.

use super::*;

#[tokio::test]
async fn a_reading_is_stored_once_however_often_it_is_sent() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    plug.send(&publish2("plug/reading", 7, "{}")).await;
    plug.expect(&ack(PUBREC, 7)).await;
    // With DUP as the specification has it, and without as some have it.
    for again in [dup(publish2("plug/reading", 7, "{}")), publish2("plug/reading", 7, "{}")] {
        plug.send(&again).await;
        plug.expect(&ack(PUBREC, 7)).await;
    }
    plug.send(&ack(PUBREL, 7)).await;
    plug.expect(&ack(PUBCOMP, 7)).await;
    assert_eq!(gateway.buffer.status().accepted, 1);
    plug.send(&publish2("plug/reading", 7, "{}")).await;
    plug.expect(&ack(PUBREC, 7)).await;
    assert_eq!(gateway.buffer.status().accepted, 2);
    let figures = gateway.broker.figures();
    assert_eq!((figures.publishes_qos2, figures.retransmissions, figures.readings), (4, 2, 2));
}

#[tokio::test]
async fn a_message_goes_through_with_qos_2_from_end_to_end() {
    let gateway = Gateway::start();
    let mut panel = gateway.connect("panel", "c").await;
    panel.subscribe("plug/#", 2).await;
    let mut plug = gateway.connect("plug", "c").await;
    plug.send(&publish2("plug/x", 9, "!")).await;
    plug.expect(&ack(PUBREC, 9)).await;
    plug.send(&ack(PUBREL, 9)).await;
    plug.expect(&ack(PUBCOMP, 9)).await;
    panel.expect(&publish2("plug/x", 1, "!")).await;
    panel.send(&ack(PUBREC, 1)).await;
    panel.expect(&ack(PUBREL, 1)).await;
    panel.send(&ack(PUBCOMP, 1)).await;
    panel.ping().await;
    assert_eq!(gateway.broker.figures().queued_messages, 0);
}

#[tokio::test]
async fn pubrec_leaves_when_the_reading_is_on_disk() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    for n in 1..=10 {
        plug.send(&publish2("plug/reading", n, "{}")).await;
        plug.expect(&ack(PUBREC, n)).await;
        let after = gateway.power_cut();
        assert!(after.buffer.status().accepted >= n.into());
    }
}

#[tokio::test]
async fn a_publish_of_a_kept_session_is_known_again_after_a_power_cut() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect_kept("plug", "c", false).await;
    plug.send(&publish2("plug/reading", 7, "{}")).await;
    plug.expect(&ack(PUBREC, 7)).await;
    let after = gateway.power_cut();
    let mut plug = after.connect_kept("plug", "c", true).await;
    plug.send(&dup(publish2("plug/reading", 7, "{}"))).await;
    plug.expect(&ack(PUBREC, 7)).await;
    plug.send(&ack(PUBREL, 7)).await;
    plug.expect(&ack(PUBCOMP, 7)).await;
    assert_eq!(after.buffer.status().accepted, 1);
    let last = after.power_cut();
    let mut plug = last.connect_kept("plug", "c", true).await;
    // It has not heard the PUBCOMP.
    plug.send(&ack(PUBREL, 7)).await;
    plug.expect(&ack(PUBCOMP, 7)).await;
    // The identifier is free.
    plug.send(&publish2("plug/reading", 7, "{}")).await;
    plug.expect(&ack(PUBREC, 7)).await;
    assert_eq!(last.buffer.status().accepted, 2);
}

#[tokio::test]
async fn another_publish_under_the_identifier_of_one_that_was_not_released_is_taken() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect_kept("plug", "c", false).await;
    plug.send(&publish2("plug/reading", 7, "1")).await;
    plug.expect(&ack(PUBREC, 7)).await;
    // As damage to the store brings back the record of a publish that was released.
    let after = gateway.power_cut();
    let mut plug = after.connect_kept("plug", "c", true).await;
    for (accepted, publish) in [
        (1, dup(publish2("plug/reading", 7, "1"))),
        // Some clients send again without DUP.
        (1, publish2("plug/reading", 7, "1")),
        (2, publish2("plug/reading", 7, "2")),
        (2, dup(publish2("plug/reading", 7, "2"))),
        (3, dup(publish2("plug/reading", 7, "3"))),
        (3, dup(publish2("plug/reading", 7, "3"))),
    ] {
        plug.send(&publish).await;
        plug.expect(&ack(PUBREC, 7)).await;
        assert_eq!(after.buffer.status().accepted, accepted);
    }
    let last = after.power_cut();
    let mut plug = last.connect_kept("plug", "c", true).await;
    plug.send(&dup(publish2("plug/reading", 7, "3"))).await;
    plug.expect(&ack(PUBREC, 7)).await;
    assert_eq!(last.buffer.status().accepted, 3);
}

#[tokio::test]
async fn what_the_subscriber_has_is_not_given_to_it_again_after_a_power_cut() {
    let gateway = Gateway::start();
    let mut panel = gateway.connect_kept("panel", "c", false).await;
    panel.subscribe("plug/#", 2).await;
    let mut plug = gateway.connect("plug", "c").await;
    plug.send(&[publish2("plug/x", 1, "one"), publish2("plug/x", 2, "two")].concat()).await;
    panel.expect(&[publish2("plug/x", 1, "one"), publish2("plug/x", 2, "two")].concat()).await;
    panel.send(&ack(PUBREC, 1)).await;
    panel.expect(&ack(PUBREL, 1)).await;
    let after = gateway.power_cut();
    let mut panel = after.connect_kept("panel", "c", true).await;
    panel.expect(&ack(PUBREL, 1)).await;
    panel.expect(&dup(publish2("plug/x", 2, "two"))).await;
    panel.send(&[ack(PUBCOMP, 1), ack(PUBREC, 2)].concat()).await;
    panel.expect(&ack(PUBREL, 2)).await;
    panel.send(&ack(PUBCOMP, 2)).await;
    panel.ping().await;
    panel.leave().await;
    let last = after.restart().await;
    last.connect_kept("panel", "c", true).await.ping().await;
}

#[tokio::test]
async fn a_repetition_over_a_new_clean_session_is_not_stored_again() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    plug.send(&publish2("plug/reading", 7, "{}")).await;
    plug.expect(&ack(PUBREC, 7)).await;
    plug.vanish(&gateway).await;
    let mut plug = gateway.connect("plug", "c").await;
    plug.send(&dup(publish2("plug/reading", 7, "{}"))).await;
    plug.expect(&ack(PUBREC, 7)).await;
    plug.send(&ack(PUBREL, 7)).await;
    plug.expect(&ack(PUBCOMP, 7)).await;
    assert_eq!(gateway.buffer.status().accepted, 1);
    assert_eq!(gateway.broker.figures().retransmissions, 1);
}

#[tokio::test]
async fn a_release_of_nothing_is_completed() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    plug.send(&ack(PUBREL, 7)).await;
    plug.expect(&ack(PUBCOMP, 7)).await;
    let mut five = gateway.connect5("plug", "5", &[]).await;
    five.send(&ack(PUBREL, 7)).await;
    five.expect(b"\x70\x03\0\x07\x92").await;
    five.send(&ack(PUBREC, 7)).await;
    five.expect(b"\x62\x03\0\x07\x92").await;
}

#[tokio::test]
async fn acks_of_both_kinds_leave_in_the_order_of_the_publishes() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    let topics = ["plug/reading", "plug/other", "plug/other", "plug/reading"];
    let (mut publishes, mut acks) = (Vec::new(), Vec::new());
    for (id, topic) in (1..=100).zip(topics.iter().cycle()) {
        if id % 3 == 0 {
            publishes.extend(publish1(topic, id, "{}"));
            acks.extend(puback(id));
        } else {
            publishes.extend(publish2(topic, id, "{}"));
            acks.extend(ack(PUBREC, id));
        }
    }
    plug.send(&publishes).await;
    plug.expect(&acks).await;
}

#[tokio::test]
async fn publishes_that_are_never_released_are_bounded() {
    let limits = config::Listener { max_inflight: 2, ..config::Listener::default() };
    let gateway = Gateway::start_with(&limits, |_| {});
    let mut plug = gateway.connect_kept("plug", "c", false).await;
    for id in 1..=2 {
        plug.send(&publish2("plug/reading", id, "{}")).await;
        plug.expect(&ack(PUBREC, id)).await;
    }
    plug.send(&publish2("plug/reading", 3, "{}")).await;
    plug.expect_close().await;
    let mut plug = gateway.connect_kept("plug", "c", true).await;
    plug.send(&ack(PUBREL, 1)).await;
    plug.expect(&ack(PUBCOMP, 1)).await;
    plug.send(&publish2("plug/reading", 3, "{}")).await;
    plug.expect(&ack(PUBREC, 3)).await;
    assert_eq!(gateway.buffer.status().accepted, 3);
}
