//! Sessions that outlive their connection, and the process.

use super::*;

#[tokio::test]
async fn what_came_while_a_client_was_away_waits_for_it() {
    let gateway = Gateway::start();
    gateway.subscribed_panel().await.leave().await;
    let mut plug = gateway.connect("plug", "c").await;
    plug.send(
        &[publish1("plug/x", 1, "one"), publish0("plug/x", "lost"), publish1("plug/x", 2, "two")].concat(),
    )
    .await;
    plug.expect(&[puback(1), puback(2)].concat()).await;
    assert_eq!(gateway.broker.figures().queued_messages, 2);
    let mut panel = gateway.connect_kept("panel", "c", true).await;
    panel.expect(&[publish1("plug/x", 1, "one"), publish1("plug/x", 2, "two")].concat()).await;
    panel.send(&[puback(1), puback(2)].concat()).await;
    panel.ping().await;
    plug.send(&publish1("plug/x", 3, "three")).await;
    panel.expect(&publish1("plug/x", 3, "three")).await;
    assert_eq!(gateway.broker.figures().sessions_kept, 1);
}

#[tokio::test]
async fn who_comes_again_or_goes_before_a_slow_disk_lets_it_be_answered_is_not_waited_for() {
    let hour = Duration::from_secs(3_600);
    let limits = config::Listener { connect_timeout: hour, ..config::Listener::default() };
    let gateway =
        Gateway::start_with(&limits, |buffer| (buffer.ack_delay, buffer.qos0_window) = (hour, hour));
    let connections = || gateway.broker.figures().connections;
    let impatient = async |client_id: &str| {
        let mut client = gateway.open(certified("plug"));
        client.send(&connect(client_id, 0x00, 60)).await;
        client
    };
    let mut older = impatient("c").await;
    eventually("for it to enter its session", || gateway.broker.figures().sessions_kept == 1).await;
    let newer = impatient("c").await;
    // CONNACK: the server is not available. No other connection is the older one's.
    older.expect(&[0x20, 2, 0, 3]).await;
    older.expect_close().await;
    assert_eq!((connections(), gateway.broker.figures().taken_over), (1, 1));
    newer.vanish(&gateway).await;
    assert_eq!(connections(), 0);
    // What one has said before it went still counts.
    let mut hasty = impatient("d").await;
    hasty.send(&publish0("plug/x", "!")).await;
    drop(hasty);
    eventually("for it to enter its session", || gateway.broker.figures().sessions_kept == 2).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(connections(), 1);
}

#[tokio::test]
async fn a_clean_session_ends_one_that_was_kept() {
    let gateway = Gateway::start();
    gateway.subscribed_panel().await.leave().await;
    let mut plug = gateway.connect("plug", "c").await;
    plug.publish("plug/x", 1, "!").await;
    let mut clean = gateway.connect("panel", "c").await;
    clean.ping().await;
    clean.leave().await;
    let figures = gateway.broker.figures();
    assert_eq!((figures.sessions_kept, figures.dropped["session_ended"]), (0, 1));
    gateway.connect_kept("panel", "c", false).await.ping().await;
    let gateway = gateway.restart().await;
    let mut panel = gateway.connect_kept("panel", "c", true).await;
    plug = gateway.connect("plug", "c").await;
    plug.publish("plug/x", 1, "!").await;
    panel.ping().await;
}

#[tokio::test]
async fn subscriptions_and_what_waits_survive_a_restart() {
    let gateway = Gateway::start();
    let mut panel = gateway.connect_kept("panel", "c", false).await;
    panel.subscribe("plug/#", 2).await;
    panel.send(&subscribe(2, &[("lamp/#", 1)])).await;
    panel.expect(b"\x90\x03\0\x02\x01").await;
    panel.send(&unsubscribe(3, &["lamp/#"])).await;
    panel.expect(b"\xb0\x02\0\x03").await;
    panel.leave().await;
    let mut plug = gateway.connect("plug", "c").await;
    plug.send(&[publish1("plug/x", 1, "one"), publish2("plug/x", 2, "two")].concat()).await;
    plug.expect(&[puback(1), ack(PUBREC, 2)].concat()).await;
    let gateway = gateway.restart().await;
    assert_eq!(gateway.broker.figures().refusals["not_ready"], 0);
    let mut lamp = gateway.connect("lamp", "c").await;
    lamp.publish("lamp/x", 1, "not wanted any more").await;
    let mut plug = gateway.connect("plug", "c").await;
    plug.publish("plug/x", 3, "three").await;
    let mut panel = gateway.connect_kept("panel", "c", true).await;
    // It cannot be known that the first two were never sent.
    panel.expect(&[dup(publish1("plug/x", 1, "one")), dup(publish2("plug/x", 2, "two"))].concat()).await;
    panel.expect(&publish1("plug/x", 3, "three")).await;
    panel.send(&[puback(1), ack(PUBREC, 2), puback(3)].concat()).await;
    panel.expect(&ack(PUBREL, 2)).await;
    panel.send(&ack(PUBCOMP, 2)).await;
    panel.ping().await;
    panel.leave().await;
    let gateway = gateway.restart().await;
    gateway.connect_kept("panel", "c", true).await.ping().await;
}

#[tokio::test]
async fn what_was_acknowledged_for_an_absent_client_survives_a_power_cut() {
    let gateway = Gateway::start();
    let _panel = gateway.subscribed_panel().await;
    let mut plug = gateway.connect("plug", "c").await;
    for n in 1..=5 {
        plug.publish("plug/x", n, &n.to_string()).await;
        // The panel is there and has not acknowledged anything.
        let after = gateway.power_cut();
        let mut panel = after.connect_kept("panel", "c", true).await;
        for n in 1..=n {
            panel.expect(&dup(publish1("plug/x", n, &n.to_string()))).await;
        }
        panel.ping().await;
    }
}

#[tokio::test]
async fn a_subscription_that_was_acknowledged_survives_a_power_cut() {
    let gateway = Gateway::start();
    let _panel = gateway.subscribed_panel().await;
    let after = gateway.power_cut();
    let mut plug = after.connect("plug", "c").await;
    plug.publish("plug/x", 1, "!").await;
    after.connect_kept("panel", "c", true).await.expect(&publish1("plug/x", 1, "!")).await;
}

#[tokio::test]
async fn what_was_not_acknowledged_is_sent_again_in_its_order_with_dup() {
    let gateway = Gateway::start();
    let mut panel = gateway.subscribed_panel().await;
    let mut plug = gateway.connect("plug", "c").await;
    for n in 1..=4 {
        plug.publish("plug/x", n, &n.to_string()).await;
        panel.expect(&publish1("plug/x", n, &n.to_string())).await;
    }
    panel.send(&puback(2)).await;
    panel.ping().await;
    panel.vanish(&gateway).await;
    plug.publish("plug/x", 5, "5").await;
    let mut panel = gateway.connect_kept("panel", "c", true).await;
    for n in [1, 3, 4] {
        panel.expect(&dup(publish1("plug/x", n, &n.to_string()))).await;
    }
    panel.expect(&publish1("plug/x", 5, "5")).await;
}

#[tokio::test]
async fn a_newer_connection_goes_on_with_the_session_of_the_older() {
    let gateway = Gateway::start();
    let mut older = gateway.connect_kept("panel", "c", false).await;
    older.subscribe("plug/#", 1).await;
    let mut plug = gateway.connect("plug", "c").await;
    plug.send(&publish1("plug/x", 1, "one")).await;
    older.expect(&publish1("plug/x", 1, "one")).await;
    let mut newer = gateway.connect_kept("panel", "c", true).await;
    older.expect_close().await;
    newer.expect(&dup(publish1("plug/x", 1, "one"))).await;
    plug.send(&publish1("plug/x", 2, "two")).await;
    newer.expect(&publish1("plug/x", 2, "two")).await;
    newer.ping().await;
    let figures = gateway.broker.figures();
    assert_eq!((figures.taken_over, figures.sessions_kept), (1, 1));
}

#[tokio::test]
async fn a_session_ends_when_its_client_stays_away() {
    let sessions = config::Sessions { max_expiry: Duration::from_secs(1), ..config::Sessions::default() };
    let gateway = Gateway::start_as(Setup { sessions, ..Setup::default() });
    gateway.subscribed_panel().await.leave().await;
    let mut plug = gateway.connect("plug", "c").await;
    plug.publish("plug/x", 1, "!").await;
    eventually("for the session to end", || gateway.broker.figures().sessions_kept == 0).await;
    let figures = gateway.broker.figures();
    assert_eq!((figures.sessions_expired, figures.queued_bytes, figures.dropped["session_ended"]), (1, 0, 1));
    let gateway = gateway.restart().await;
    gateway.connect_kept("panel", "c", false).await.ping().await;
}

#[tokio::test]
async fn no_session_is_kept_where_none_may_be() {
    let sessions = config::Sessions { max_expiry: Duration::ZERO, ..config::Sessions::default() };
    let gateway = Gateway::start_as(Setup { sessions, ..Setup::default() });
    for _ in 0..2 {
        gateway.connect_kept("panel", "c", false).await.leave().await;
    }
    eventually("for the session to go", || gateway.broker.figures().sessions == 0).await;
    assert_eq!(gateway.broker.figures().sessions_kept, 0);
}

#[tokio::test]
async fn what_waits_for_an_absent_client_is_bounded_and_its_newest_messages_are_dropped() {
    let sessions = config::Sessions { max_queued_messages: 3, ..config::Sessions::default() };
    let gateway = Gateway::start_as(Setup { sessions, ..Setup::default() });
    gateway.subscribed_panel().await.leave().await;
    let mut plug = gateway.connect("plug", "c").await;
    for n in 1..=5 {
        plug.publish("plug/x", n, &n.to_string()).await;
    }
    let figures = gateway.broker.figures();
    assert_eq!((figures.queued_messages, figures.dropped["queue_full"]), (3, 2));
    let gateway = gateway.restart().await;
    let mut panel = gateway.connect_kept("panel", "c", true).await;
    for n in 1..=3 {
        panel.expect(&dup(publish1("plug/x", n, &n.to_string()))).await;
    }
    panel.ping().await;
}

#[tokio::test]
async fn a_device_keeps_so_many_sessions_and_the_gateway_in_all() {
    let sessions = config::Sessions { max_per_device: 2, max_kept: 3, ..config::Sessions::default() };
    let gateway = Gateway::start_as(Setup { sessions, ..Setup::default() });
    for id in ["a", "b", "c"] {
        gateway.connect_kept("plug", id, false).await.leave().await;
    }
    assert_eq!(gateway.broker.figures().sessions_kept, 2);
    gateway.connect_kept("lamp", "a", false).await.leave().await;
    let mut fan = gateway.open(certified("fan"));
    fan.send(&connect("a", 0x00, 60)).await;
    fan.expect(&[0x20, 2, 0, 3]).await;
    fan.expect_close().await;
    assert_eq!(gateway.refused("too_many_sessions"), 1);
    gateway.connect("fan", "a").await.ping().await;
    let gateway = gateway.restart().await;
    gateway.connect_kept("plug", "a", false).await.ping().await;
    gateway.connect_kept("plug", "c", true).await.ping().await;
}

#[tokio::test]
async fn a_client_that_may_hear_less_when_it_comes_back_does() {
    let gateway = Gateway::start();
    let mut panel = gateway.connect_kept("panel", "c", false).await;
    panel.send(&subscribe(1, &[("plug/#", 1), ("panel/#", 1)])).await;
    panel.expect(b"\x90\x04\0\x01\x01\x01").await;
    panel.leave().await;
    let mut plug = gateway.connect("plug", "c").await;
    plug.publish("plug/x", 1, "secret by then").await;
    gateway.broker.reload(Authorizer::new(&Access::default(), &gateway.streams), &gateway.streams);
    let mut panel = gateway.connect_kept("panel", "c", true).await;
    panel.send(&publish1("panel/x", 1, "!")).await;
    panel.expect(&publish1("panel/x", 2, "!")).await;
    panel.expect(&puback(1)).await;
    plug.publish("plug/x", 2, "secret").await;
    panel.ping().await;
    assert_eq!(gateway.refused("subscribe_not_allowed"), 1);
}

#[tokio::test]
async fn what_waits_is_not_given_to_who_may_not_have_it_any_more_whenever_that_was_changed() {
    // While its client is connected, while it is away, and before a start.
    for moment in 0..3 {
        let gateway = Gateway::start();
        let mut panel = gateway.connect_kept("panel", "c", false).await;
        panel.send(&subscribe(1, &[("plug/#", 1), ("panel/#", 1)])).await;
        panel.expect(b"\x90\x04\0\x01\x01\x01").await;
        let mut plug = gateway.connect("plug", "c").await;
        // What was sent and not acknowledged would be sent again.
        plug.publish("plug/x", 1, "secret by then").await;
        panel.expect(&publish1("plug/x", 1, "secret by then")).await;
        let none = Authorizer::new(&Access::default(), &gateway.streams);
        if moment == 0 {
            gateway.broker.reload(none.clone(), &gateway.streams);
            panel.expect_close().await;
        } else {
            panel.leave().await;
            plug.publish("plug/x", 2, "as well").await;
        }
        let gateway = if moment == 2 { gateway.restart().await } else { gateway };
        gateway.broker.reload(none, &gateway.streams);
        let mut panel = gateway.connect_kept("panel", "c", true).await;
        panel.ping().await;
        let figures = gateway.broker.figures();
        let dropped = if moment == 0 { 1 } else { 2 };
        assert_eq!((figures.dropped["not_allowed"], figures.queued_messages), (dropped, 0), "{moment}");
        panel.leave().await;
        let gateway = gateway.restart().await;
        gateway.connect_kept("panel", "c", true).await.ping().await;
    }
}

#[tokio::test]
async fn a_kept_session_is_not_given_more_than_it_may_hold_of_any_one_client() {
    let gateway = Gateway::start();
    let mut panel = gateway.connect_kept("panel", "c", false).await;
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
