//! `mosquitto_pub` and `mosquitto_sub` as devices that do everything, in both versions of MQTT.

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::harness::text;
use crate::peers::{Identity, PASSWORD, Peers, USER};

/// How a client of Mosquitto's connects.
struct Mosquitto {
    peers: Peers,
    identity: Identity,
    version: &'static str,
}

impl Mosquitto {
    /// `program`: with what runs it.
    fn command(&self, program: &[&str], arguments: &[&str]) -> Command {
        let (address, certified) = (self.peers.gateway.address, &self.peers.certified);
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).args(["-V", self.version, "-h"]);
        command.arg(address.ip().to_string()).arg("-p").arg(address.port().to_string());
        command.arg("--cafile").arg(&certified.ca);
        match self.identity {
            Identity::Certificate => {
                command.arg("--cert").arg(&certified.cert).arg("--key").arg(&certified.key)
            }
            Identity::Password => command.args(["-u", USER, "-P", PASSWORD]),
        };
        command.args(arguments);
        command
    }

    fn topic(&self, name: &str) -> String {
        format!("{}/{name}", Peers::name(self.identity))
    }

    fn publish(&self, name: &str, payload: &str, qos: u8, more: &[&str]) {
        let (topic, qos) = (self.topic(name), qos.to_string());
        let mut command =
            self.command(&["timeout", "60", "mosquitto_pub"], &["-t", &topic, "-m", payload, "-q", &qos]);
        let output = command.args(more).output().expect("mosquitto_pub is installed");
        assert!(output.status.success(), "{}", text(&output));
    }

    fn subscribe(&self, name: &str, more: &[&str]) -> Subscriber {
        let mut subscriber = self.start(name, more);
        while !subscriber.line().starts_with("Subscribed") {}
        subscriber
    }

    /// It may not have subscribed yet.
    fn start(&self, name: &str, more: &[&str]) -> Subscriber {
        let topic = self.topic(name);
        // Line by line: it does not flush what `-d` says.
        let program = ["stdbuf", "-oL", "mosquitto_sub", "-W", "60", "-d"];
        let mut command = self.command(&program, &["-t", &topic, "-q", "2", "-F", "%q %r %p"]);
        let mut child =
            command.args(more).stdout(Stdio::piped()).spawn().expect("mosquitto_sub is installed");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Subscriber { child, lines }
    }

    fn everything(&self) {
        let mut messages = self.subscribe("messages", &[]);
        for qos in 0..3 {
            self.publish("messages", "m", qos, &[]);
            assert_eq!(messages.next(), format!("{qos} 0 m"));
        }

        self.publish("retained", "kept", 1, &["-r"]);
        assert_eq!(self.subscribe("retained", &[]).next(), "1 1 kept");
        self.publish("retained", "", 1, &["-r"]);

        let mut heir = self.subscribe("will", &[]);
        let (topic, payload) = (self.topic("will"), "last words");
        let will = ["--will-topic", &topic, "--will-payload", payload, "--will-qos", "1"];
        drop(self.subscribe("nothing", &will));
        assert_eq!(heir.next(), "1 0 last words");

        let expiry = ["-x", "60"];
        let kept = ["-i", "away", "-c"];
        let kept = if self.version == "mqttv5" { [&kept[..], &expiry].concat() } else { kept.to_vec() };
        // -E: it ends when it has subscribed.
        let left = self.subscribe("away", &[&kept[..], &["-E"]].concat()).child.wait();
        assert!(left.expect("a child can be waited for").success());
        self.publish("away", "waits", 1, &[]);
        self.publish("away", "waits", 2, &[]);
        // They come before it can subscribe again.
        let mut away = self.start("away", &kept);
        assert_eq!([away.next(), away.next()], ["1 0 waits", "2 0 waits"]);
    }
}

/// A `mosquitto_sub`, which dies without a DISCONNECT.
struct Subscriber {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Subscriber {
    fn line(&mut self) -> String {
        self.lines.next().expect("mosquitto_sub ended").expect("its output is text")
    }

    /// The next message.
    fn next(&mut self) -> String {
        loop {
            let line = self.line();
            if line.starts_with(|c: char| c.is_ascii_digit()) {
                return line;
            }
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn everything(identity: Identity) {
    let mut mosquitto = Mosquitto { peers: Peers::start(), identity, version: "mqttv311" };
    mosquitto.everything();
    mosquitto.version = "mqttv5";
    mosquitto.everything();
}

#[test]
fn they_do_everything_over_tls_with_a_certificate() {
    everything(Identity::Certificate);
}

#[test]
fn they_do_everything_over_tls_with_a_password() {
    everything(Identity::Password);
}
