//! Firmware without certificate and password: the ESP32 sketch of many tutorials.

use rumqttc::QoS::AtMostOnce;
use rumqttc::mqttbytes::v4::SubscribeReasonCode::{Failure, Success};

use crate::harness::Gateway;
use crate::harness::mqtt::{Device, without_certificate};

/// The sketch publishes `esp32/sensors` with PubSubClient's QoS 0, as `ESP32Client`, and checks the CA only.
const SETTINGS: &str = r##"
[listener]
client_auth = "optional"

[anonymous]
name = "sketch"
publish = ["esp32/sensors"]
subscribe = ["esp32/leds"]

[[acl]]
device = "panel"
publish = ["esp32/leds"]
subscribe = ["#"]

[[stream]]
name = "air"
topic = "esp32/sensors"
device = "client_id"
"##;

const PAYLOAD: &str = "{\"mq7_co\":1841,\"mq135_no2\":45,\"dht11_temperature\":22.50,\"dht11_humidity\":55.00,\
                       \"timestamp\":\"2025-06-17T12:00:00Z\"}";

#[test]
fn the_sketch_of_many_tutorials_gets_its_readings_in() {
    let gateway = Gateway::start(SETTINGS);
    let panel = gateway.home.device("panel");
    let sketch_tls = without_certificate(&panel.ca);
    let mut panel = Device::connect(gateway.address, &panel, "panel");
    panel.subscribe(&[("#", AtMostOnce)]);
    let mut sketch = Device::try_connect(gateway.address, Some(&sketch_tls), "ESP32Client").unwrap();
    assert_eq!(sketch.subscribe(&[("esp32/leds", AtMostOnce)]), [Success(AtMostOnce)]);

    sketch.publish_qos0("esp32/sensors", PAYLOAD);
    let message = panel.receive();
    assert_eq!((message.topic.as_str(), &message.payload[..]), ("esp32/sensors", PAYLOAD.as_bytes()));
    gateway.wait_for_status("the reading is stored", |s| (s["buffer"]["accepted"] == 1).then_some(()));

    panel.publish("esp32/leds", "on");
    assert_eq!(sketch.receive().payload, "on");
}

#[test]
fn it_can_do_what_its_rules_say_and_nothing_else() {
    let gateway = Gateway::start(SETTINGS);
    let panel = gateway.home.device("panel");
    let sketch_tls = without_certificate(&panel.ca);
    let mut sketch = Device::try_connect(gateway.address, Some(&sketch_tls), "ESP32Client").unwrap();
    assert_eq!(sketch.subscribe(&[("#", AtMostOnce), ("ESP32Client/#", AtMostOnce)]), [Failure, Failure]);
    // Neither the name of its client id nor its own name is below it: it has shown neither.
    for topic in ["ESP32Client/state", "sketch/state", "panel/state"] {
        let mut sketch = Device::try_connect(gateway.address, Some(&sketch_tls), "ESP32Client").unwrap();
        assert!(sketch.try_publish(topic, "x").is_err(), "{topic}");
    }
}

#[test]
fn a_tight_reconnect_loop_with_one_client_id_keeps_nobody_out() {
    let gateway = Gateway::start(SETTINGS);
    let panel = gateway.home.device("panel");
    let sketch_tls = without_certificate(&panel.ca);
    let mut panel = Device::connect(gateway.address, &panel, "panel");
    panel.subscribe(&[("#", AtMostOnce)]);
    for _ in 0..50 {
        drop(Device::try_connect(gateway.address, Some(&sketch_tls), "ESP32Client").unwrap());
    }
    let mut sketch = Device::try_connect(gateway.address, Some(&sketch_tls), "ESP32Client").unwrap();
    sketch.publish_qos0("esp32/sensors", PAYLOAD);
    assert_eq!(panel.receive().payload, PAYLOAD);
}
