//! What a device with a certificate can do, and what it cannot.

use rumqttc::QoS::{AtLeastOnce, AtMostOnce};
use rumqttc::mqttbytes::v4::SubscribeReasonCode::{Failure, Success};

use crate::harness::Gateway;
use crate::harness::mqtt::Device;

/// Devices under their names, and one that may see everything.
const PANEL: &str = "[[acl]]\ndevice = \"panel\"\nsubscribe = [\"#\"]\n";

#[test]
fn what_is_published_reaches_a_subscriber_at_the_lower_of_both_qualities() {
    let gateway = Gateway::start(PANEL);
    let mut plug = Device::connect(gateway.address, &gateway.home.device("plug"), "plug");
    let mut panel = Device::connect(gateway.address, &gateway.home.device("panel"), "panel");
    let granted = panel.subscribe(&[("plug/readings/+", AtLeastOnce), ("plug/state", AtMostOnce)]);
    assert_eq!(granted, [Success(AtLeastOnce), Success(AtMostOnce)]);

    for (topic, qos, expected) in [
        ("plug/readings/air", AtLeastOnce, AtLeastOnce),
        ("plug/readings/air", AtMostOnce, AtMostOnce),
        ("plug/state", AtLeastOnce, AtMostOnce),
        ("plug/state", AtMostOnce, AtMostOnce),
    ] {
        let payload = format!("{{\"topic\":\"{topic}\",\"qos\":{}}}", qos as u8);
        match qos {
            AtLeastOnce => plug.publish(topic, &payload),
            _ => plug.publish_qos0(topic, &payload),
        }
        let message = panel.receive();
        assert_eq!((message.topic.as_str(), message.qos, message.retain), (topic, expected, false));
        assert_eq!(message.payload, payload);
    }
}

#[test]
fn wildcards_match_as_the_specification_says() {
    let gateway = Gateway::start(PANEL);
    let mut plug = Device::connect(gateway.address, &gateway.home.device("plug"), "plug");
    let mut panel = Device::connect(gateway.address, &gateway.home.device("panel"), "panel");
    panel.subscribe(&[("+/a/+", AtMostOnce), ("plug/b/#", AtMostOnce)]);
    for topic in ["plug/a", "plug/a/1", "plug/a/1/2", "plug/b", "plug/b/1/2", "plug/c"] {
        plug.publish(topic, "x");
    }
    plug.publish("plug/b/last", "x");
    let mut came = Vec::new();
    while came.last().is_none_or(|topic| topic != "plug/b/last") {
        came.push(panel.receive().topic);
    }
    assert_eq!(came, ["plug/a/1", "plug/b", "plug/b/1/2", "plug/b/last"]);
}

#[test]
fn a_filter_that_is_not_allowed_is_refused_and_its_neighbours_are_not() {
    let gateway = Gateway::start("");
    let mut plug = Device::connect(gateway.address, &gateway.home.device("plug"), "plug");
    let granted = plug.subscribe(&[
        ("plug/command/#", AtLeastOnce),
        ("#", AtMostOnce),
        ("other/#", AtLeastOnce),
        ("plug/set", AtMostOnce),
    ]);
    assert_eq!(granted, [Success(AtLeastOnce), Failure, Failure, Success(AtMostOnce)]);
    let refusal = gateway.wait_for_refusal("subscribe_not_allowed");
    assert_eq!(refusal.field("device"), "plug");
}

#[test]
fn a_publish_to_a_foreign_topic_is_not_acknowledged_and_reaches_nobody() {
    let gateway = Gateway::start(PANEL);
    let mut plug = Device::connect(gateway.address, &gateway.home.device("plug"), "plug");
    let mut lamp = Device::connect(gateway.address, &gateway.home.device("lamp"), "lamp");
    let mut panel = Device::connect(gateway.address, &gateway.home.device("panel"), "panel");
    panel.subscribe(&[("#", AtMostOnce)]);

    plug.try_publish("lamp/state", "on").expect_err("MQTT 3.1.1 can only close the connection");
    let refusal = gateway.wait_for_refusal("publish_not_allowed");
    assert_eq!(refusal.field("device"), "plug");
    assert!(refusal.text().contains("lamp/state"), "{}", refusal.text());

    lamp.publish("lamp/state", "off");
    let first = panel.receive();
    assert_eq!(first.payload, "off", "the forged message was delivered");
}

#[test]
fn a_second_connection_with_the_same_client_id_takes_over() {
    let gateway = Gateway::start("");
    let credentials = gateway.home.device("plug");
    let mut first = Device::connect(gateway.address, &credentials, "plug");
    let mut second = Device::connect(gateway.address, &credentials, "plug");
    first.wait_until_closed();
    second.publish("plug/readings", "{\"t\":1}");
}

#[test]
fn a_device_cannot_take_over_another_device_by_its_client_id() {
    let gateway = Gateway::start("");
    let mut plug = Device::connect(gateway.address, &gateway.home.device("plug"), "plug");
    let thief = Device::try_connect(gateway.address, Some(&gateway.home.device("thief").tls()), "plug");
    plug.publish("plug/readings", "{\"t\":1}");
    drop(thief);
}

#[test]
fn a_device_that_was_added_while_the_gateway_runs_is_let_in_at_once() {
    let gateway = Gateway::start("");
    for name in ["a", "b", "c"] {
        let mut device = Device::connect(gateway.address, &gateway.home.device(name), name);
        device.publish(&format!("{name}/readings"), "{\"t\":1}");
    }
    gateway.wait_for_status("three readings", |status| (status["buffer"]["accepted"] == 3).then_some(()));
}
