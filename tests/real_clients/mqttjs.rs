//! MQTT.js as a device, in both versions of MQTT.

use crate::peers::{Door, Identity, Peers, script};

fn run(door: Door, identity: Identity) {
    let libraries = ("NODE_PATH", "mqttjs/node_modules");
    Peers::start().run(&["node", &script("mqttjs_client.js")], libraries, door, identity);
}

#[test]
fn it_does_everything_over_tls_with_a_certificate() {
    run(Door::Tls, Identity::Certificate);
}

#[test]
fn it_does_everything_over_tls_with_a_password() {
    run(Door::Tls, Identity::Password);
}

#[test]
fn it_does_everything_over_websocket_with_a_certificate() {
    run(Door::WebSocket, Identity::Certificate);
}

#[test]
fn it_does_everything_over_websocket_with_a_password() {
    run(Door::WebSocket, Identity::Password);
}
