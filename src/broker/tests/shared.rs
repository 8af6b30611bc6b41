//! Shared subscriptions (MQTT 5, section 4.8.2). Clients of 3.1.1 may share as well.

use super::*;

/// Publishes with QoS 1, and waits for the ack.
async fn publish(plug: &mut Client, id: u16, payload: &str) {
    plug.publish("plug/x", id, payload).await;
}

#[tokio::test]
async fn clients_of_both_versions_share() {
    let gateway = Gateway::start();
    let mut three = gateway.connect("panel", "three").await;
    three.subscribe("$share/work/plug/#", 1).await;
    let mut five = gateway.connect5("panel", "five", &[]).await;
    five.send(&subscribe5(1, b"\x0b\x07", "$share/work/plug/#", 1)).await;
    five.expect(b"\x90\x04\0\x01\0\x01").await;
    let mut plug = gateway.connect("plug", "c").await;
    publish(&mut plug, 1, "first").await;
    publish(&mut plug, 2, "second").await;
    three.expect(&publish1("plug/x", 1, "first")).await;
    five.expect(&publish5(0x32, "plug/x", 1, b"\x0b\x07", "second")).await;
    three.ping().await;
    five.ping().await;
}

#[tokio::test]
async fn a_session_may_have_the_same_filter_shared_and_for_itself() {
    let gateway = Gateway::start();
    let mut panel = gateway.connect("panel", "c").await;
    for filter in ["$share/work/plug/x", "plug/x", "$share/other/plug/x"] {
        panel.subscribe(filter, 0).await;
    }
    let mut plug = gateway.connect("plug", "c").await;
    publish(&mut plug, 1, "!").await;
    for _ in 0..3 {
        panel.expect(&publish0("plug/x", "!")).await;
    }
    panel.send(&unsubscribe(1, &["$share/work/plug/x"])).await;
    panel.expect(b"\xb0\x02\0\x01").await;
    publish(&mut plug, 2, "!").await;
    for _ in 0..2 {
        panel.expect(&publish0("plug/x", "!")).await;
    }
    panel.ping().await;
}

#[tokio::test]
async fn who_shares_is_not_given_what_is_retained() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    plug.retain("plug/x", 1, "!").await;
    let mut panel = gateway.connect("panel", "c").await;
    panel.subscribe("$share/work/plug/x", 1).await;
    panel.ping().await;
}

#[tokio::test]
async fn what_one_member_has_no_room_for_goes_to_another() {
    let sessions = config::Sessions { max_queued_messages: 1, ..config::Sessions::default() };
    let gateway = Gateway::start_as(Setup { sessions, ..Setup::default() });
    let mut members = Vec::new();
    for id in ["a", "b"] {
        let mut member = gateway.connect_kept("panel", id, false).await;
        member.subscribe("$share/work/plug/#", 1).await;
        members.push(member);
    }
    let mut plug = gateway.connect("plug", "c").await;
    publish(&mut plug, 1, "for a").await;
    members[0].expect(&publish1("plug/x", 1, "for a")).await;
    publish(&mut plug, 2, "for b").await;
    members[1].expect(&publish1("plug/x", 1, "for b")).await;
    members[1].send(&puback(1)).await;
    members[1].ping().await;
    // It is the turn of the first, which has not acknowledged.
    publish(&mut plug, 3, "for b as well").await;
    members[1].expect(&publish1("plug/x", 2, "for b as well")).await;
    publish(&mut plug, 4, "for nobody").await;
    let dropped = gateway.broker.figures().dropped;
    assert_eq!(dropped["queue_full"], 1, "{dropped:?}");
}

#[tokio::test]
async fn a_group_whose_members_are_away_outlives_a_power_cut() {
    let gateway = Gateway::start();
    for id in ["a", "b"] {
        let mut member = gateway.connect_kept("panel", id, false).await;
        member.subscribe("$share/work/plug/#", 1).await;
        member.leave().await;
    }
    let gateway = gateway.power_cut();
    let mut plug = gateway.connect("plug", "c").await;
    publish(&mut plug, 1, "first").await;
    publish(&mut plug, 2, "second").await;
    let gateway = gateway.power_cut();
    let mut came = Vec::new();
    for id in ["a", "b"] {
        let mut member = gateway.connect_kept("panel", id, true).await;
        let (first, body) = member.receive().await;
        assert_eq!(first & 0x36, 0x32, "QoS 1");
        came.push(String::from_utf8_lossy(&body[10..]).into_owned());
        member.send(&puback(1)).await;
        member.ping().await;
    }
    came.sort();
    assert_eq!(came, ["first", "second"]);
}

#[tokio::test]
async fn a_share_that_breaks_the_rules_ends_the_connection() {
    let gateway = Gateway::start();
    // No local is not for shared subscriptions (MQTT-3.8.3-4); a share has a name without wildcards (MQTT-4.8.2-1, -2).
    for (filter, options, reason) in [
        ("$share/work/plug/#", 0x05, 0x82),
        ("$share//plug/#", 1, 0x8f),
        ("$share/work", 1, 0x8f),
        ("$share/+/plug/#", 1, 0x8f),
    ] {
        let mut five = gateway.connect5("plug", "c", &[]).await;
        five.send(&subscribe5(1, b"", filter, options)).await;
        five.expect_disconnect(reason).await;
    }
    let mut three = gateway.connect("plug", "c").await;
    three.send(&subscribe(1, &[("$share/work/", 0)])).await;
    three.expect_close().await;
    assert_eq!(gateway.refused("protocol_violation"), 5);
}

#[tokio::test]
async fn the_acl_is_asked_about_the_topics_that_are_shared() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect5("plug", "c", &[]).await;
    plug.send(&subscribe5(1, b"", "$share/plug/lamp/#", 1)).await;
    plug.expect(b"\x90\x04\0\x01\0\x87").await;
    plug.send(&subscribe5(2, b"", "$share/lamp/plug/#", 1)).await;
    plug.expect(b"\x90\x04\0\x02\0\x01").await;
}
