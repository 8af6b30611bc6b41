//! MQTT without TLS, where the operator wants it.

use std::net::SocketAddr;

use crate::harness::mqtt::Device;
use crate::harness::{Gateway, Home};

const SETTINGS: &str = "[plain]\naddress = \"127.0.0.1:0\"\nidentities = [\"anonymous\"]\n\
                        [anonymous]\nname = \"sketch\"\npublish = [\"sensors/#\"]\n\
                        [[stream]]\nname = \"air\"\ntopic = \"sensors/#\"\n";

pub(crate) fn address(gateway: &Gateway, name: &str) -> SocketAddr {
    gateway.wait_for_status("its address", |status| {
        Some(status["more_listeners"][name].as_str()?.parse().unwrap())
    })
}

#[test]
fn a_sketch_without_tls_gets_its_readings_in_beside_devices_with_certificates() {
    let gateway = Gateway::start(SETTINGS);
    let plain = address(&gateway, "plain");
    let mut sketch = Device::try_connect(plain, None, "ESP32Client").unwrap();
    sketch.publish("sensors/air", "{\"t\":1}");
    assert!(sketch.try_publish("other/air", "{\"t\":1}").is_err());
    let pump = gateway.home.device("pump");
    Device::connect(gateway.address, &pump, "pump").publish("pump/state", "on");
    gateway.wait_for_status("one reading", |status| (status["buffer"]["accepted"] == 1).then_some(()));
    // And nobody is anonymous where certificates are required.
    let tls = crate::harness::mqtt::without_certificate(&pump.ca);
    assert!(Device::try_connect(gateway.address, Some(&tls), "nobody").is_err());
}

#[test]
fn it_stays_on_loopback_unless_it_is_told_otherwise_in_so_many_words() {
    let home = Home::new(&SETTINGS.replace("127.0.0.1:0", "0.0.0.0:0"));
    let check = home.tampu(&["check"]);
    let text = String::from_utf8_lossy(&check.stderr);
    assert!(!check.status.success() && text.contains("allow_network = true"), "{text}");
    home.configure(&SETTINGS.replace("127.0.0.1:0\"", "0.0.0.0:0\"\nallow_network = true"));
    assert!(home.tampu(&["check"]).status.success());
}

#[test]
fn without_a_word_about_it_there_is_no_such_listener() {
    let gateway = Gateway::start("");
    gateway.wait_for_status("no other listener", |status| {
        status["more_listeners"].as_object()?.keys().all(|name| name == "api").then_some(())
    });
}
