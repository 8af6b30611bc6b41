//! SIGHUP: what can change while the daemon runs does, and a mistake changes nothing.

use rumqttc::QoS::AtMostOnce;
use rumqttc::mqttbytes::v4::SubscribeReasonCode::{Failure, Success};
use rustix::process::Signal;

use crate::harness::Gateway;
use crate::harness::mqtt::Device;

const PANEL: &str = "[[acl]]\ndevice = \"panel\"\nsubscribe = [\"#\"]\n";

#[test]
fn a_new_rule_holds_for_a_connection_that_is_there_already() {
    let gateway = Gateway::start("");
    let mut panel = Device::connect(gateway.address, &gateway.home.device("panel"), "panel");
    assert_eq!(panel.subscribe(&[("#", AtMostOnce)]), [Failure]);
    gateway.home.configure(PANEL);
    gateway.signal(Signal::HUP);
    gateway.wait_for_log("the reload is done", |line| line.text().contains("reloaded"));
    assert_eq!(panel.subscribe(&[("#", AtMostOnce)]), [Success(AtMostOnce)]);
}

#[test]
fn a_rule_that_is_taken_away_ends_what_it_allowed() {
    let gateway = Gateway::start(PANEL);
    let mut plug = Device::connect(gateway.address, &gateway.home.device("plug"), "plug");
    let mut panel = Device::connect(gateway.address, &gateway.home.device("panel"), "panel");
    assert_eq!(panel.subscribe(&[("plug/#", AtMostOnce), ("panel/#", AtMostOnce)]).len(), 2);
    plug.publish("plug/state", "before");
    assert_eq!(panel.receive().payload, "before");
    gateway.home.configure("");
    gateway.signal(Signal::HUP);
    gateway.wait_for_log("the reload is done", |line| line.text().contains("reloaded"));
    plug.publish("plug/state", "after");
    // Either the subscription is gone or the whole connection is: its own topics it still has in both cases.
    if panel.try_publish("panel/state", "own").is_ok() {
        assert_eq!(panel.receive().payload, "own", "the panel still gets what it may not");
    }
}

#[test]
fn a_bad_configuration_leaves_the_old_one_in_force_and_says_every_problem() {
    let gateway = Gateway::start(PANEL);
    let plug = gateway.home.device("plug");
    gateway.home.configure("[listener]\nadress = \"x\"\n[buffer]\nack_delay = \"soon\"\n");
    gateway.signal(Signal::HUP);
    let line = gateway.wait_for_log("the problems", |line| line.text().contains("listener.adress"));
    assert_eq!(line.level(), "ERROR");
    assert!(line.text().contains("buffer.ack_delay"), "{}", line.text());

    let mut plug = Device::connect(gateway.address, &plug, "plug");
    plug.publish("plug/readings", "{\"t\":1}");
}

#[test]
fn what_needs_a_restart_is_said_and_not_half_done() {
    let gateway = Gateway::start("");
    gateway.home.configure("[buffer]\nack_delay = \"70ms\"\n");
    gateway.signal(Signal::HUP);
    gateway
        .wait_for_log("it says so", |line| line.text().contains("restart") && line.text().contains("buffer"));
    let mut plug = Device::connect(gateway.address, &gateway.home.device("plug"), "plug");
    plug.publish("plug/readings", "{\"t\":1}");
}

#[test]
fn the_server_certificate_can_be_renewed_without_dropping_a_connection() {
    let gateway = Gateway::start("");
    let credentials = gateway.home.device("plug");
    let mut before = Device::connect(gateway.address, &credentials, "before");
    // Without a certificate of its own the gateway issues one anew.
    std::fs::remove_file(gateway.home.path("data/pki/server.pem")).unwrap();
    gateway.signal(Signal::HUP);
    gateway.wait_for_log("the reload is done", |line| line.text().contains("reloaded"));
    Device::connect(gateway.address, &credentials, "after").publish("plug/readings", "{\"t\":2}");
    before.publish("plug/readings", "{\"t\":1}");
}
