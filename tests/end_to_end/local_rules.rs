//! A local rule of the real program: what a sensor says brings about what a buzzer gets, without any network.

use rumqttc::QoS;

use crate::harness::cloud::LocalCloud;
use crate::harness::mqtt::{Credentials, Device};
use crate::harness::{Gateway, Home, text};

const CO: &str = "[[rule]]\nname = \"co-alarm\"\nfield = \"co\"\nabove = 300\nclear_below = 250\nfor = \"1s\"\n\
                  log = \"CO at {device}: {value} ppm\"\n\
                  send = { device = \"buzzer\", payload = '{\"on\":true,\"co\":{value},\"at\":\"{source}\"}', clear_payload = \"off\" }\n";

fn connect(gateway: &Gateway, credentials: &Credentials) -> Device {
    let mut buzzer = Device::connect(gateway.address, credentials, "buzzer");
    buzzer.subscribe(&[("buzzer/cmd", QoS::AtLeastOnce)]);
    buzzer
}

fn receive(buzzer: &mut Device) -> String {
    String::from_utf8(buzzer.receive().payload.to_vec()).unwrap()
}

#[test]
fn check_names_rules_and_sources_whose_commands_could_not_reach_their_device() {
    let cloud = LocalCloud::start();
    let rule = CO.replace("device = \"buzzer\"", "device = \"buzzer\", topic = \"alarms/{device}\"");
    let source = cloud.talkback().replace("{device}/reply", "replies");
    let home = Home::new(&format!("{rule}{source}"));
    let output = home.tampu(&["check"]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    for expected in [
        "rule.co-alarm: no rule lets buzzer subscribe to alarms/buzzer",
        "command_source.dashboard: no rule lets lamp publish its reply to replies",
    ] {
        assert!(said.contains(expected), "{expected} is not in:\n{said}");
    }
    assert!(!text(&Home::new(CO).tampu(&["check"])).contains("Warning"), "the default rules let it");
}

#[test]
fn too_much_co_turns_the_buzzer_on_and_off_again_with_the_cloud_away_and_through_a_kill() {
    let cloud = LocalCloud::start();
    let gateway = Gateway::start(&format!("{CO}{}", cloud.thingspeak_sink()));
    cloud.go_away();
    let (hall, buzzer) = (gateway.home.device("hall"), gateway.home.device("buzzer"));
    let mut sensor = Device::connect(gateway.address, &hall, "hall");
    let mut ears = connect(&gateway, &buzzer);

    sensor.publish("hall/readings", r#"{"co":280}"#);
    sensor.publish("hall/readings", r#"{"co":412}"#);
    assert_eq!(receive(&mut ears), r#"{"on":true,"co":412,"at":"hall"}"#);
    gateway.wait_for_status("the rule holds", |status| {
        (status["rules"]["co-alarm"]["holds_for"] == serde_json::json!(["hall"])).then_some(())
    });
    gateway.wait_for_status("it is done", |status| (status["commands"]["done"] == 1).then_some(()));
    // What is acknowledged comes after that, and so it is on disk.
    sensor.publish("hall/readings", r#"{"co":260}"#);
    assert!(gateway.home.log().contains("CO at hall: 412 ppm"), "{}", gateway.home.log());

    let gateway = gateway.kill().start();
    let mut ears = connect(&gateway, &buzzer);
    let mut sensor = Device::connect(gateway.address, &hall, "hall");
    sensor.publish("hall/readings", r#"{"co":500}"#);
    sensor.publish("hall/readings", r#"{"co":249}"#);
    assert_eq!(receive(&mut ears), "off", "it was on already, and is not turned on twice");
    gateway.wait_for_status("the rule holds no more", |status| {
        (status["rules"]["co-alarm"]["holds_for"] == serde_json::json!([])).then_some(())
    });
}
