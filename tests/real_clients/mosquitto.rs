//! `mosquitto_pub` and `mosquitto_sub` as devices.

use std::io::{BufRead as _, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use time::Duration;

use crate::harness::authority::Authority;
use crate::harness::mqtt::Credentials;
use crate::harness::{Gateway, Home, text, utf8};

const PANEL: &str = "[[acl]]\ndevice = \"panel\"\nsubscribe = [\"#\"]\n";

/// A command with everything that says where to connect, how, and as whom.
fn client(program: &str, gateway: &Gateway, ca: &Path, device: Option<&Credentials>) -> Command {
    // `timeout` bounds it: these programs wait for ever by default.
    let mut command = Command::new("timeout");
    command.args(["60", program, "-V", "mqttv311", "-h"]).arg(gateway.address.ip().to_string());
    command.arg("-p").arg(gateway.address.port().to_string()).arg("--cafile").arg(ca);
    if let Some(device) = device {
        command.arg("--cert").arg(&device.cert).arg("--key").arg(&device.key);
    }
    command
}

fn publish(gateway: &Gateway, device: &Credentials, arguments: &[&str]) -> Output {
    let mut command = client("mosquitto_pub", gateway, &device.ca, Some(device));
    command.args(arguments).output().expect("mosquitto_pub is installed")
}

/// A subscriber whose messages are lines `<qos> <topic> <payload>`.
struct Subscriber {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Subscriber {
    /// Starts one. It is subscribed when it has seen a message that this publishes with `announcer`.
    fn start(gateway: &Gateway, device: &Credentials, arguments: &[&str]) -> Self {
        let mut command = client("mosquitto_sub", gateway, &device.ca, Some(device));
        command.args(["-F", "%q %t %p"]).args(arguments).stdout(Stdio::piped());
        let mut child = command.spawn().expect("mosquitto_sub is installed");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { child, lines }
    }

    /// Publishes until the first message comes through: mosquitto_sub does not say when it is subscribed.
    fn once_subscribed(mut self, gateway: &Gateway, announcer: &Credentials, topic: &str) -> Self {
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let output = publish(gateway, announcer, &["-t", topic, "-m", "hello"]);
                    assert!(output.status.success(), "{}", text(&output));
                }
            });
            assert_eq!(self.next(), format!("0 {topic} hello"));
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let end = publish(gateway, announcer, &["-t", topic, "-m", "subscribed"]);
        assert!(end.status.success(), "{}", text(&end));
        while self.next() != format!("0 {topic} subscribed") {}
        self
    }

    fn next(&mut self) -> String {
        self.lines.next().expect("mosquitto_sub ended").expect("its output is text")
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn a_message_goes_from_mosquitto_pub_to_mosquitto_sub_at_both_qualities() {
    let gateway = Gateway::start(PANEL);
    let (plug, panel) = (gateway.home.device("plug"), gateway.home.device("panel"));
    let mut subscriber = Subscriber::start(&gateway, &panel, &["-i", "panel", "-q", "1", "-t", "plug/#"])
        .once_subscribed(&gateway, &plug, "plug/hello");
    for (qos, payload) in [("0", "{\"t\":21.5}"), ("1", "{\"t\":21.6}")] {
        let output =
            publish(&gateway, &plug, &["-i", "plug", "-t", "plug/readings", "-m", payload, "-q", qos]);
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(subscriber.next(), format!("{qos} plug/readings {payload}"));
    }
}

#[test]
fn a_file_of_readings_is_stored_line_by_line() {
    let gateway = Gateway::start("");
    let plug = gateway.home.device("plug");
    let lines: String = (0..500).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let file = gateway.home.path("lines");
    std::fs::write(&file, lines).unwrap();
    let mut command = client("mosquitto_pub", &gateway, &plug.ca, Some(&plug));
    let output = command
        .args(["-i", "plug", "-t", "plug/readings", "-q", "1", "-l"])
        .stdin(std::fs::File::open(&file).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    gateway.wait_for_status("all are accepted", |s| (s["buffer"]["accepted"] == 500).then_some(()));
}

#[test]
fn the_lines_that_device_add_prints_for_mosquitto_work() {
    let gateway = Gateway::start("");
    let out = gateway.home.path("out");
    let host = gateway.address.ip().to_string();
    let added = gateway.home.tampu(&[
        "device",
        "add",
        "plug",
        "--format",
        "mosquitto",
        "--out",
        utf8(&out),
        "--host",
        &host,
    ]);
    let printed = text(&added);
    assert!(added.status.success(), "{printed}");
    let line =
        printed.lines().map(str::trim).find(|line| line.starts_with("mosquitto_pub ")).expect("a line");
    // The configured port is 0: the system has chosen one.
    let line = line.replace(" -p 0 ", &format!(" -p {} ", gateway.address.port()));
    let output = Command::new("timeout").args(["60", "sh", "-c", &line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", text(&output));
    gateway.wait_for_status("it was a reading", |s| (s["buffer"]["accepted"] == 1).then_some(()));
}

#[test]
fn a_filter_that_is_not_allowed_is_refused_in_the_suback() {
    let gateway = Gateway::start("");
    let plug = gateway.home.device("plug");
    let mut command = client("mosquitto_sub", &gateway, &plug.ca, Some(&plug));
    let output = command.args(["-i", "plug", "-t", "#", "-d"]).output().unwrap();
    assert!(text(&output).contains("All subscription requests were denied."), "{}", text(&output));
    gateway.wait_for_refusal("subscribe_not_allowed");
}

#[test]
fn a_publish_to_a_foreign_topic_fails() {
    let gateway = Gateway::start("");
    let plug = gateway.home.device("plug");
    let output = publish(&gateway, &plug, &["-i", "plug", "-q", "1", "-t", "lamp/state", "-m", "on"]);
    assert!(!output.status.success(), "{}", text(&output));
    gateway.wait_for_refusal("publish_not_allowed");
}

#[test]
fn who_has_no_good_certificate_is_refused_and_the_next_one_served() {
    let home = Home::new("");
    let authority = Authority::create(&home.path("authority"), "greenhouse CA");
    let other = Authority::create(&home.path("other"), "other CA");
    home.configure(&authority.settings());
    let gateway = home.start();
    let plug = authority.device("plug", Duration::days(1));
    let ca = plug.ca.clone();
    let forged = Credentials { ca: ca.clone(), ..other.device("plug", Duration::days(1)) };
    let expired = authority.device("old", -Duration::days(1));
    for (device, reason) in [
        (None, "certificate_missing"),
        (Some(&forged), "certificate_unknown_issuer"),
        (Some(&expired), "certificate_expired"),
    ] {
        let mut command = client("mosquitto_pub", &gateway, &ca, device);
        let output = command.args(["-q", "1", "-t", "plug/readings", "-m", "{}"]).output().unwrap();
        assert!(!output.status.success(), "{reason}: {}", text(&output));
        gateway.wait_for_refusal(reason);
        let good = publish(&gateway, &plug, &["-q", "1", "-t", "plug/readings", "-m", "{\"t\":1}"]);
        assert!(good.status.success(), "after {reason}: {}", text(&good));
    }
}
