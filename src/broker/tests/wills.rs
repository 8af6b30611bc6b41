//! Wills: what is published for a client that has gone without a word.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

use super::*;
use crate::authorize::KeyFiles;

/// A CONNECT with a will. `flags` of QoS and RETAIN.
pub(super) fn connect_with_will(client_id: &str, flags: u8, topic: &str, payload: &str) -> Vec<u8> {
    let head = [b"\0\x04MQTT\x04", &[0x06 | flags][..], &60_u16.to_be_bytes()].concat();
    packet(0x10, &[head, text(client_id), text(topic), text(payload)].concat())
}

/// The same of 5.0, with a delay in seconds and the properties of the CONNECT.
pub(super) fn connect5_with_will(client_id: &str, delay: u32, properties: &[u8], topic: &str) -> Vec<u8> {
    let head = [b"\0\x04MQTT\x05", &[0x06][..], &60_u16.to_be_bytes()].concat();
    let will = [&with_length(&[&[0x18][..], &delay.to_be_bytes()].concat())[..], &text(topic), &text("gone")];
    packet(0x10, &[head, with_length(properties), text(client_id), will.concat()].concat())
}

async fn panel(gateway: &Gateway) -> Client {
    let mut panel = gateway.connect("panel", "watcher").await;
    panel.subscribe("#", 1).await;
    panel
}

#[tokio::test]
async fn a_client_that_vanishes_is_announced_and_one_that_says_goodbye_is_not() {
    let gateway = Gateway::start();
    let mut panel = panel(&gateway).await;
    for vanishes in [false, true] {
        let mut plug = gateway.open(certified("plug"));
        plug.send(&connect_with_will("c", 0x28, "plug/LWT", "Offline")).await;
        plug.expect(CONNACK).await;
        match vanishes {
            true => plug.vanish(&gateway).await,
            false => plug.leave().await,
        }
    }
    panel.expect(&publish1("plug/LWT", 1, "Offline")).await;
    panel.ping().await;
    let figures = gateway.broker.figures();
    assert_eq!((figures.wills_published, figures.retained), (1, 1));
}

#[tokio::test]
async fn a_will_is_published_when_the_gateway_ends_the_connection() {
    let gateway = Gateway::start();
    let mut panel = panel(&gateway).await;
    let mut plug = gateway.open(certified("plug"));
    plug.send(&connect_with_will("c", 0, "plug/LWT", "Offline")).await;
    plug.expect(CONNACK).await;
    plug.send(&publish1("lamp/reading", 1, "{}")).await;
    plug.expect_close().await;
    panel.expect(&publish0("plug/LWT", "Offline")).await;
    let mut plug = gateway.open(certified("plug"));
    plug.send(&connect_with_will("c", 0, "plug/LWT", "Replaced")).await;
    plug.expect(CONNACK).await;
    gateway.connect("plug", "c").await.ping().await;
    panel.expect(&publish0("plug/LWT", "Replaced")).await;
}

#[tokio::test]
async fn a_will_that_may_not_be_published_refuses_the_connection() {
    let gateway = Gateway::start();
    let mut plug = gateway.open(certified("plug"));
    plug.send(&connect_with_will("c", 0, "lamp/LWT", "Offline")).await;
    plug.expect(b"\x20\x02\0\x05").await;
    plug.expect_close().await;
    let mut five = gateway.open(certified("plug"));
    five.send(&connect5_with_will("c", 0, &[], "lamp/LWT")).await;
    let (first, body) = five.receive().await;
    assert_eq!((first, body[1]), (0x20, 0x87));
    five.expect_close().await;
    assert_eq!(gateway.refused("publish_not_allowed"), 2);
}

#[tokio::test]
async fn a_will_that_new_rules_forbid_is_not_published_not_even_after_its_delay() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "watcher").await;
    plug.subscribe("plug/#", 0).await;
    let mut late = gateway.open(certified("panel"));
    late.send(&connect5_with_will("late", 3, b"\x11\0\0\0\x64", "plug/LWT")).await;
    assert_eq!(late.receive().await.0, 0x20);
    let mut soon = gateway.open(certified("panel"));
    soon.send(&connect_with_will("soon", 0, "plug/LWT", "Offline")).await;
    soon.expect(CONNACK).await;
    late.vanish(&gateway).await;
    let rules = Authorizer::new(&Access::default(), &gateway.streams);
    gateway.broker.reload(rules, &gateway.streams);
    soon.vanish(&gateway).await;
    eventually("for both to be refused", || gateway.refused("publish_not_allowed") == 2).await;
    plug.ping().await;
    assert_eq!(gateway.broker.figures().wills_published, 0);
}

#[tokio::test]
async fn a_reading_as_a_will_is_stored() {
    let gateway = Gateway::start();
    let mut plug = gateway.open(certified("plug"));
    plug.send(&connect_with_will("c", 0x08, "plug/reading", "{}")).await;
    plug.expect(CONNACK).await;
    plug.vanish(&gateway).await;
    eventually("for the reading", || gateway.buffer.status().accepted == 1).await;
}

#[tokio::test]
async fn a_client_of_5_0_may_ask_for_its_will_as_it_goes() {
    let gateway = Gateway::start();
    let mut panel = panel(&gateway).await;
    let mut plug = gateway.open(certified("plug"));
    plug.send(&connect5_with_will("c", 0, &[], "plug/LWT")).await;
    plug.receive().await;
    plug.send(b"\xe0\x01\x04").await;
    plug.expect_close().await;
    panel.expect(&publish0("plug/LWT", "gone")).await;
}

#[tokio::test]
async fn a_will_with_a_delay_waits_for_the_client_to_come_back() {
    let gateway = Gateway::start();
    let mut panel = panel(&gateway).await;
    let expiry = b"\x11\0\0\0\x3c";
    for delay in [60, 1] {
        let mut plug = gateway.open(certified("plug"));
        plug.send(&connect5_with_will("c", delay, expiry, "plug/LWT")).await;
        plug.receive().await;
        plug.vanish(&gateway).await;
        assert_eq!(
            gateway.broker.figures().wills_waiting,
            1,
            "the first one is dropped as the client is back"
        );
    }
    panel.expect(&publish0("plug/LWT", "gone")).await;
    panel.ping().await;
    assert_eq!(gateway.broker.figures().wills_published, 1);
}

#[tokio::test]
async fn a_will_is_not_later_than_the_end_of_its_session() {
    let gateway = Gateway::start();
    let mut panel = panel(&gateway).await;
    for (properties, ends) in [(&b"\x11\0\0\0\x01"[..], false), (b"\x11\0\0\0\x3c", true), (b"", false)] {
        let mut plug = gateway.open(certified("plug"));
        plug.send(&connect5_with_will("c", 600, properties, "plug/LWT")).await;
        plug.receive().await;
        plug.vanish(&gateway).await;
        if ends {
            // It starts anew: the session has ended.
            gateway.connect("plug", "c").await.leave().await;
        }
        panel.expect(&publish0("plug/LWT", "gone")).await;
    }
    panel.ping().await;
}

/// Of a client whose session is kept for a minute: a will with RETAIN and a delay in seconds.
async fn connect_kept_with_will(gateway: &Gateway, delay: u32) -> Client {
    let head = b"\0\x04MQTT\x05\x24\0\x3c\x05\x11\0\0\0\x3c";
    let will = [with_length(&[&[0x18][..], &delay.to_be_bytes()].concat()), text("plug/LWT"), text("gone")];
    let mut plug = gateway.open(certified("plug"));
    plug.send(&packet(0x10, &[&head[..], &text("c"), &will.concat()].concat())).await;
    assert_eq!(plug.receive().await.0, 0x20);
    plug
}

/// The will comes, to a subscriber that is there or as what is retained.
async fn expect_will(gateway: &Gateway) {
    let mut panel = gateway.connect("panel", "c").await;
    panel.subscribe("plug/LWT", 0).await;
    let (first, body) = panel.receive().await;
    assert_eq!((first & 0xfe, &body[2..]), (0x30, &b"plug/LWTgone"[..]));
}

#[tokio::test]
async fn a_will_that_waits_outlives_a_restart_and_is_published_once() {
    let gateway = Gateway::start();
    connect_kept_with_will(&gateway, 50).await.vanish(&gateway).await;
    assert_eq!(gateway.broker.figures().wills_waiting, 1);
    let gateway = gateway.restart().await.power_cut();
    gateway.connect("panel", "c").await.ping().await;
    assert_eq!(gateway.broker.figures().wills_waiting, 1);
    // Its session ends, as another is started in its place.
    gateway.connect("plug", "c").await.leave().await;
    expect_will(&gateway).await;
    assert_eq!(gateway.broker.figures().wills_published, 1);
    let gateway = gateway.restart().await;
    gateway.connect("panel", "c").await.ping().await;
    let figures = gateway.broker.figures();
    assert_eq!((figures.wills_waiting, figures.wills_published), (0, 0));
}

/// Rules of their own for tokens, which every device may publish `announced/#` by, too; and a token.
fn token_rules() -> (Authorizer, impl Fn(&str) -> String) {
    const SECRET: &str = "a-secret-of-thirty-two-bytes-or-more";
    let settings = format!(
        "[listener]\nidentities = [\"jwt\", \"certificate\"]\n\
         [[jwt]]\nname = \"cloud\"\nalgorithm = \"HS256\"\nsecret = {SECRET:?}\n\
         client_id_claims = []\ndevice_claim = \"device\"\n\
         [[acl]]\ndevice = \"*\"\npublish = [\"{{user}}/#\"]\n\
         [[acl]]\ndevice = \"panel\"\nsubscribe = [\"#\"]\n"
    );
    let access = config::Config::from_toml(&settings).unwrap_or_else(|invalid| panic!("{invalid}")).access;
    let mut keys = KeyFiles::default();
    keys.set(&access.issuers);
    let sign = |claims: &str| {
        let part = |text: &[u8]| URL_SAFE_NO_PAD.encode(text);
        let text = format!("{}.{}", part(b"{\"alg\":\"HS256\"}"), part(claims.as_bytes()));
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
        format!("{text}.{}", part(hmac::sign(&key, text.as_bytes()).as_ref()))
    };
    (Authorizer::with(&access, &[], Arc::default(), keys.keys()), sign)
}

#[tokio::test]
async fn a_will_of_a_token_is_judged_after_a_restart_as_it_would_have_been_before() {
    let (rules, sign) = token_rules();
    let setup = Setup { rules: Some(rules.clone()), ..Setup::default() };
    let by_token = "{\"device\":\"plug\",\"sub\":\"ada\",\"exp\":8000000000,\"publ\":[\"site/#\"]}";
    let by_rule = "{\"device\":\"plug\",\"sub\":\"ada\",\"exp\":8000000000}";
    for (claims, topic, still, is_published) in [
        (by_token, "site/LWT", true, true),
        // The word of a token comes before the rules.
        (by_token, "site/LWT", false, true),
        (by_rule, "ada/LWT", true, true),
        (by_rule, "ada/LWT", false, false),
    ] {
        let gateway = Gateway::start_as(setup.clone());
        let identity = Identity { device: device("plug"), kind: IdentityKind::Jwt };
        let mut plug = gateway.open(identity);
        let head = [b"\0\x04MQTT\x04", &[0xe4][..], &60_u16.to_be_bytes()].concat();
        let words = ["c", topic, "gone", "ada", &sign(claims)].map(text).concat();
        plug.send(&packet(0x10, &[head, words].concat())).await;
        plug.expect(CONNACK).await;
        // The power is cut while it is connected.
        let dir = tempfile::tempdir().unwrap();
        copy_dir(&gateway.dir.path().join("buffer"), &dir.path().join("buffer"));
        let rules = still.then(|| rules.clone());
        let after = Gateway::start_in(dir, Setup { rules, ..setup.clone() });
        let mut panel = after.connect("panel", "c").await;
        panel.subscribe(topic, 0).await;
        if is_published {
            panel.expect(&retained(publish0(topic, "gone"))).await;
        }
        panel.ping().await;
        let figures = after.broker.figures();
        let refused = figures.refusals["publish_not_allowed"];
        assert_eq!(
            (figures.wills_published, refused),
            (is_published.into(), (!is_published).into()),
            "{topic}"
        );
    }
}

#[tokio::test]
async fn who_was_connected_when_the_power_was_cut_has_vanished() {
    let gateway = Gateway::start();
    for delay in [0, 1] {
        let plug = connect_kept_with_will(&gateway, delay).await;
        let after = gateway.power_cut();
        expect_will(&after).await;
        let after = after.restart().await;
        after.connect("panel", "c").await.ping().await;
        assert_eq!(after.broker.figures().wills_published, 0, "it was published once");
        drop(plug);
    }
}

#[tokio::test]
async fn a_will_that_is_void_or_published_does_not_come_after_a_restart() {
    let gateway = Gateway::start();
    connect_kept_with_will(&gateway, 600).await.leave().await;
    let gateway = gateway.restart().await;
    gateway.connect("panel", "c").await.ping().await;
    assert_eq!(gateway.broker.figures().wills_waiting, 0, "it has said goodbye");

    connect_kept_with_will(&gateway, 600).await.vanish(&gateway).await;
    gateway.connect_kept("plug", "c", true).await.leave().await;
    let gateway = gateway.restart().await;
    gateway.connect("panel", "c").await.ping().await;
    assert_eq!(gateway.broker.figures().wills_waiting, 0, "it has come back without one");

    connect_kept_with_will(&gateway, 0).await.vanish(&gateway).await;
    eventually("for the will", || gateway.broker.figures().wills_published == 1).await;
    let gateway = gateway.restart().await;
    gateway.connect("panel", "c").await.ping().await;
    assert_eq!(gateway.broker.figures().wills_published, 0, "it was published");
}

#[tokio::test]
async fn wills_for_which_there_is_room_neither_on_disk_nor_in_memory_are_counted() {
    let gateway = Gateway::start_with(&config::Listener::default(), |settings| {
        settings.when_full = config::FullPolicy::RefuseNew;
        settings.max_bytes = 1024 * 1024;
    });
    storage::fill(&gateway).await;
    let gone = "x".repeat(7_500);
    let mut vanished = 0;
    while gateway.refused("will_lost") == 0 {
        let mut plug = gateway.open(certified("plug"));
        plug.send(&connect_with_will("c", 0x08, "plug/reading", &gone)).await;
        plug.expect(CONNACK).await;
        vanished += 1;
        assert!(vanished < 4_000, "all of them wait in memory");
    }
    assert!(vanished > 2_000, "{vanished} fill the memory");
    assert_eq!(gateway.broker.figures().wills_published, 0);
}
