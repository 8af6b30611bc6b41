//! The real program against programs that we did not write: `mosquitto_pub` and `mosquitto_sub`, Eclipse Paho, MQTT.js and
//! rumqttc, and under `faketime`. `tests/run` installs them; `cargo test` alone leaves this out.

#![allow(clippy::unwrap_used, reason = "all of it is test; clippy knows functions marked as one alone")]

#[path = "../harness/mod.rs"]
mod harness;

mod clock;
mod mosquitto;
mod mosquitto_everything;
mod mqttjs;
mod paho;
mod peers;
mod rumqtt;
