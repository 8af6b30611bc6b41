//! Eclipse Paho for Python as a device, in both versions of MQTT.

use crate::peers::{Door, Identity, Peers, script};

fn run(door: Door, identity: Identity) {
    Peers::start().run(&["python3", &script("paho_client.py")], ("PYTHONPATH", "paho"), door, identity);
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
fn it_does_everything_over_websocket_with_a_password() {
    run(Door::WebSocket, Identity::Password);
}
