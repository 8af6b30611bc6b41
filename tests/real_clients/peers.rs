//! Clients whose scripts do everything that a device does, by themselves: over every way in, as everybody.

use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::harness::mqtt::Credentials;
use crate::harness::{Gateway, text};

/// Certificates and passwords, over TLS and over WebSocket.
const SETTINGS: &str = "[listener]\nclient_auth = \"optional\"\nidentities = [\"certificate\", \"password\"]\n\
                        [websocket]\naddress = \"127.0.0.1:0\"\nclient_auth = \"optional\"\n\
                        identities = [\"certificate\", \"password\"]\n";

/// What a device shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    Certificate,
    Password,
}

/// How a device comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    Tls,
    WebSocket,
}

/// A gateway with a device that has a certificate, and one that has a password.
pub(crate) struct Peers {
    pub(crate) gateway: Gateway,
    pub(crate) certified: Credentials,
}

pub(crate) const USER: &str = "lamp";
pub(crate) const PASSWORD: &str = "correct horse";

impl Peers {
    pub(crate) fn start() -> Self {
        let gateway = Gateway::start(SETTINGS);
        let certified = gateway.home.device("plug");
        gateway.home.tampu_with(&["user", "set", USER], &format!("{PASSWORD}\n"));
        gateway.wait_for_log("the password is known", |line| {
            line.text().contains("registry's changes are in force")
        });
        Self { gateway, certified }
    }

    /// The device's name, below which it may do anything.
    pub(crate) fn name(identity: Identity) -> &'static str {
        match identity {
            Identity::Certificate => "plug",
            Identity::Password => USER,
        }
    }

    /// Runs a script with everything that it needs to connect, for both versions of MQTT.
    pub(crate) fn run(&self, program: &[&str], libraries: (&str, &str), door: Door, identity: Identity) {
        for version in [4, 5] {
            let mut command = Command::new("timeout");
            command.arg("120").args(program).arg(self.settings(version, door, identity));
            let output =
                command.env(libraries.0, peer(libraries.1)).output().expect("a shell's programs are there");
            let log = self.gateway.home.log();
            assert!(output.status.success(), "version {version}: {}\n{log}", text(&output));
        }
    }

    fn settings(&self, version: u8, door: Door, identity: Identity) -> String {
        let address = match door {
            Door::Tls => self.gateway.address,
            Door::WebSocket => self.gateway.wait_for_status("the address of WebSocket", |status| {
                status["more_listeners"]["websocket"].as_str()?.parse().ok()
            }),
        };
        let is_certified = identity == Identity::Certificate;
        json!({
            "version": version,
            "host": address.ip().to_string(),
            "port": address.port(),
            "path": (door == Door::WebSocket).then_some("/mqtt"),
            "topic": format!("{}/{version}", Self::name(identity)),
            "ca": self.certified.ca,
            "cert": is_certified.then_some(&self.certified.cert),
            "key": is_certified.then_some(&self.certified.key),
            "user": (!is_certified).then_some(USER),
            "password": (!is_certified).then_some(PASSWORD),
        })
        .to_string()
    }
}

/// A script beside this file.
pub(crate) fn script(name: &str) -> String {
    format!("{}/tests/real_clients/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// What `tests/run` has installed.
fn peer(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/peers").join(name);
    assert!(path.is_dir(), "{} is not there: tests/run installs it", path.display());
    path
}
