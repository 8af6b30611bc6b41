//! P4: a device does what it may, also after the rules have changed.

use super::*;

#[tokio::test]
async fn a_refused_publish_is_not_acknowledged_but_ends_the_connection() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    plug.send(&publish1("lamp/reading", 1, "{}")).await;
    plug.expect_close().await;
    assert_eq!(gateway.refused("publish_not_allowed"), 1);
    assert_eq!(gateway.broker.figures().readings, 0);
}

#[tokio::test]
async fn a_refused_qos_0_publish_is_dropped_and_the_connection_stays() {
    let gateway = Gateway::start();
    let mut panel = gateway.connect("panel", "c").await;
    panel.subscribe("#", 0).await;
    let mut plug = gateway.connect("plug", "c").await;
    for topic in ["lamp/reading", "$SYS/x", "lamp/reading"] {
        plug.send(&publish0(topic, "{}")).await;
    }
    plug.ping().await;
    panel.ping().await;
    assert_eq!(gateway.refused("publish_not_allowed"), 3);
    assert_eq!(gateway.broker.figures().readings, 0);
}

#[tokio::test]
async fn an_anonymous_sketch_reaches_the_stream_that_is_open_to_it_and_nothing_else() {
    let gateway = Gateway::start();
    let mut streams = gateway.streams.clone();
    streams.push(config::Stream {
        open_to: vec![DeviceMatch::Named(device("anonymous"))],
        ..stream("sketch", "esp32/sensors", PayloadFormat::Json)
    });
    gateway.broker.reload(authorizer(&streams), &streams);
    let anonymous = Identity { device: device("anonymous"), kind: IdentityKind::Anonymous };
    let mut sketch = gateway.open(anonymous);
    sketch.send(&connect("ESP32Client", 0x02, 15)).await;
    sketch.expect(CONNACK).await;
    sketch.publish("esp32/sensors", 1, "{}").await;
    sketch.send(&subscribe(1, &[("esp32/sensors", 0), ("anonymous/#", 0)])).await;
    sketch.expect(b"\x90\x04\0\x01\x80\x80").await;
    sketch.send(&publish1("anonymous/x", 2, "{}")).await;
    sketch.expect_close().await;
}

#[tokio::test]
async fn new_rules_hold_for_live_connections_at_once() {
    let gateway = Gateway::start();
    let mut panel = gateway.connect("panel", "c").await;
    let mut plug = gateway.connect("plug", "c").await;
    panel.publish("lamp/reading", 1, "{}").await;
    plug.subscribe("plug/#", 0).await;
    let none = Authorizer::new(&Access::default(), &gateway.streams);
    gateway.broker.reload(none, &gateway.streams);
    plug.ping().await;
    plug.send(&publish1("plug/reading", 2, "{}")).await;
    plug.expect(&publish0("plug/reading", "{}")).await;
    plug.expect(&puback(2)).await;
    panel.send(&publish1("lamp/reading", 3, "{}")).await;
    panel.expect_close().await;
    assert_eq!(gateway.refused("publish_not_allowed"), 1);
}

#[tokio::test]
async fn a_subscription_that_is_no_longer_allowed_ends_its_connection() {
    let gateway = Gateway::start();
    let mut panel = gateway.connect("panel", "c").await;
    panel.subscribe("lamp/#", 0).await;
    gateway.broker.reload(Authorizer::new(&Access::default(), &gateway.streams), &gateway.streams);
    panel.expect_close().await;
    assert_eq!(gateway.refused("subscribe_not_allowed"), 1);
}

#[tokio::test]
async fn anonymous_connections_end_when_they_are_no_longer_let_in() {
    let gateway = Gateway::start();
    let anonymous = Identity { device: device("anonymous"), kind: IdentityKind::Anonymous };
    let mut sketch = gateway.open(anonymous);
    sketch.send(&connect("ESP32Client", 0x02, 15)).await;
    sketch.expect(CONNACK).await;
    gateway.broker.reload(Authorizer::new(&Access::default(), &gateway.streams), &gateway.streams);
    sketch.expect_close().await;
    let anonymous = Identity { device: device("anonymous"), kind: IdentityKind::Anonymous };
    let mut again = gateway.open(anonymous);
    again.send(&connect("ESP32Client", 0x02, 15)).await;
    again.expect(&[0x20, 2, 0, 5]).await;
    again.expect_close().await;
    assert_eq!((gateway.refused("certificate_missing"), gateway.refused("identity_not_allowed")), (1, 1));
}

#[tokio::test]
async fn new_streams_hold_for_topics_that_were_published_to_before() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    plug.publish("plug/power", 1, "7").await;
    assert_eq!(gateway.broker.figures().readings, 0);
    let streams = [stream("power", "+/power", PayloadFormat::Number)];
    gateway.broker.reload(authorizer(&streams), &streams);
    plug.ping().await;
    plug.publish("plug/power", 2, "7").await;
    assert_eq!(gateway.broker.figures().readings, 1);
}

#[tokio::test]
async fn what_a_rule_denies_within_a_subscription_is_held_back() {
    let gateway = Gateway::start();
    let deny = AclRule {
        effect: config::Effect::Deny,
        ..AclRule::allow(
            DeviceMatch::Named(device("plug")),
            Vec::new(),
            vec![TopicTemplate::parse("plug/secret").unwrap()],
        )
    };
    let access = Access { rules: vec![deny], ..Access::default() };
    gateway.broker.reload(Authorizer::new(&access, &gateway.streams), &gateway.streams);
    let mut plug = gateway.connect("plug", "c").await;
    plug.subscribe("plug/#", 0).await;
    plug.send(&[publish0("plug/secret", "!"), publish0("plug/open", "!")].concat()).await;
    plug.expect(&publish0("plug/open", "!")).await;
    assert_eq!(gateway.broker.figures().dropped["not_allowed"], 1);
}
