//! The bounds of a topic.

use super::*;

/// A gateway that takes topics of 64 bytes and 4 levels.
fn gateway() -> Gateway {
    let topics = config::TopicBounds { max_bytes: 64, max_levels: 4 };
    let rates = config::Limits { topics, ..config::Limits::default() };
    Gateway::start_as(Setup { rates, ..Setup::default() })
}

/// The longest and the deepest topic that may be, and topics beyond.
fn topics() -> ([String; 2], [String; 2]) {
    let long = |bytes: usize| format!("plug/{}", "x".repeat(bytes - 5));
    ([long(64), "plug/x/x/x".to_owned()], [long(65), "plug/x/x/x/".to_owned()])
}

#[tokio::test]
async fn a_publish_to_a_topic_that_is_too_long_or_too_deep_is_refused_as_the_version_can() {
    let gateway = gateway();
    let (good, bad) = topics();
    let mut panel = gateway.connect("panel", "watcher").await;
    panel.subscribe("#", 0).await;
    let mut five = gateway.connect5("plug", "five", &[]).await;
    for bad in &bad {
        let mut three = gateway.connect("plug", "three").await;
        three.send(&publish0(bad, "-")).await;
        three.ping().await;
        three.send(&publish1(bad, 1, "-")).await;
        three.expect_close().await;
        five.send(&publish5(0x30, bad, 0, &[], "-")).await;
        five.send(&publish5(0x32, bad, 7, &[], "-")).await;
        five.expect(b"\x40\x03\0\x07\x90").await;
        five.send(&publish5(0x34, bad, 8, &[], "-")).await;
        five.expect(b"\x50\x03\0\x08\x90").await;
    }
    assert_eq!(gateway.refused("topic_too_long"), 2 * 5);
    for good in &good {
        five.send(&publish5(0x30, good, 0, &[], "+")).await;
        panel.expect(&publish0(good, "+")).await;
    }
}

#[tokio::test]
async fn a_topic_that_is_too_long_stays_refused_by_its_alias() {
    let gateway = gateway();
    let ([good, _], bad) = topics();
    let alias = [0x23, 0, 3];
    let mut plug = gateway.connect5("plug", "c", &[]).await;
    for bad in &bad {
        // The number stood for another topic before, which must not get what is meant for this one.
        plug.send(&publish5(0x32, &good, 1, &alias, "+")).await;
        plug.expect(b"\x40\x03\0\x01\x10").await;
        plug.send(&publish5(0x32, bad, 2, &alias, "-")).await;
        plug.expect(b"\x40\x03\0\x02\x90").await;
        plug.send(&publish5(0x32, "", 3, &alias, "-")).await;
        plug.expect(b"\x40\x03\0\x03\x90").await;
    }
    assert_eq!(gateway.refused("topic_too_long"), 4);
}

#[tokio::test]
async fn a_will_to_a_topic_that_is_too_long_or_too_deep_refuses_the_connection() {
    let gateway = gateway();
    let (good, bad) = topics();
    for bad in &bad {
        let mut three = gateway.open(certified("plug"));
        three.send(&wills::connect_with_will("c", 0, bad, "gone")).await;
        // Of the five codes of 3.1.1 none says more.
        three.expect(b"\x20\x02\0\x03").await;
        three.expect_close().await;
        let mut five = gateway.open(certified("plug"));
        five.send(&wills::connect5_with_will("c", 0, &[], bad)).await;
        assert_eq!(five.receive().await.1[..2], [0, 0x90]);
        five.expect_close().await;
    }
    assert_eq!(gateway.refused("topic_too_long"), 4);
    for good in &good {
        let mut three = gateway.open(certified("plug"));
        three.send(&wills::connect_with_will("c", 0, good, "gone")).await;
        three.expect(CONNACK).await;
    }
}

#[tokio::test]
async fn a_filter_that_is_too_long_or_too_deep_is_refused_alone() {
    let gateway = gateway();
    let ([long, deep], [too_long, too_deep]) = topics();
    let filters = [&long, &too_long, &deep, &too_deep].map(|filter| (filter.as_str(), 0));
    let mut three = gateway.connect("plug", "three").await;
    three.send(&subscribe(1, &filters)).await;
    three.expect(b"\x90\x06\0\x01\0\x80\0\x80").await;
    let mut five = gateway.connect5("plug", "five", &[]).await;
    for (id, filter) in [(1, too_long), (2, too_deep), (3, "$share/n/plug/x".to_owned())] {
        five.send(&subscribe5(id, &[], &filter, 0)).await;
        let code = if id == 3 { 0 } else { 0x8f };
        five.expect(&[0x90, 4, 0, u8::try_from(id).unwrap(), 0, code]).await;
    }
    assert_eq!(gateway.refused("topic_too_long"), 4);
}
