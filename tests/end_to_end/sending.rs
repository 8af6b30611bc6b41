//! `tampu send`: commands on their way to a device, through SIGKILL at each step.

use std::thread;

use rumqttc::QoS;
use serde_json::Value;

use crate::harness::mqtt::Device;
use crate::harness::{Gateway, Home, eventually, text};
use crate::kept::{self, Raw, publish};

const CMD: &str = "plug/cmd";

fn send(home: &Home, arguments: &[&str]) -> Value {
    let output = home.tampu(&[&["send", "plug", "--json"], arguments].concat());
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

fn show(home: &Home, id: &str) -> Value {
    let output = home.tampu(&["command", "show", id, "--json"]);
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

fn becomes(home: &Home, id: &str, state: &str) -> Value {
    eventually(state, || Some(show(home, id)).filter(|command| command["state"] == state))
}

fn id_of(command: &Value) -> String {
    command["id"].as_str().expect("it has an id").to_owned()
}

#[test]
fn a_command_for_a_device_that_is_away_arrives_when_it_connects() {
    let gateway = Gateway::start("");
    let credentials = gateway.home.device("plug");
    let command = send(&gateway.home, &["on"]);
    assert_eq!((&command["state"], &command["topic"]), (&Value::from("queued"), &Value::from(CMD)));
    let mut plug = Device::connect(gateway.address, &credentials, "plug");
    plug.subscribe(&[("plug/cmd", QoS::AtLeastOnce)]);
    assert_eq!(plug.receive().payload, "on");
    // The client acknowledges it when it does something else.
    plug.publish("plug/readings", "{\"n\":1}");
    let done = becomes(&gateway.home, &id_of(&command), "done");
    assert!(done["times"]["acked"].as_str().unwrap().ends_with('Z'), "{done}");
    let list = text(&gateway.home.tampu(&["command", "list", "--device", "plug", "--state", "done"]));
    assert!(list.contains(&id_of(&command)) && list.contains("plug/cmd on"), "{list}");
    gateway.wait_for_status("it is counted", |status| (status["commands"]["done"] == 1).then_some(()));
}

#[test]
fn who_waits_hears_what_the_device_answers() {
    let gateway = Gateway::start("");
    let mut plug = Device::connect(gateway.address, &gateway.home.device("plug"), "plug");
    plug.subscribe(&[("plug/cmd", QoS::AtLeastOnce)]);
    for (answer, code, word) in
        [("{\"status\":\"ok\",\"level\":7}", 0, "done"), ("{\"status\":\"failed\"}", 1, "failed")]
    {
        let arguments = ["send", "plug", "7", "--reply-topic", "plug/reply", "--wait"];
        thread::scope(|scope| {
            let sender = scope.spawn(|| gateway.home.tampu(&arguments));
            assert_eq!(plug.receive().payload, "7");
            plug.publish("plug/reply", answer);
            let output = sender.join().unwrap();
            let said = text(&output);
            assert_eq!(output.status.code(), Some(code), "{said}");
            assert!(said.contains(word) && said.contains(answer), "{said}");
        });
    }
}

#[test]
fn a_command_that_waits_can_be_taken_back_and_what_cannot_be_is_refused() {
    let gateway = Gateway::start("");
    let home = &gateway.home;
    let id = id_of(&send(home, &["on", "--reference", "once"]));
    assert_eq!(
        id_of(&send(home, &["on", "--reference", "once"])),
        id,
        "the same reference is the same command"
    );
    let cancelled = home.tampu(&["command", "cancel", &id]);
    assert!(cancelled.status.success() && text(&cancelled).contains("cancelled"), "{}", text(&cancelled));
    let late = home.tampu(&["command", "cancel", &id]);
    assert!(!late.status.success() && text(&late).contains("it is cancelled already"), "{}", text(&late));
    let nothing = home.tampu(&["command", "show", "019a9f3c-5b1e-7cc2-b3a5-2f1d0c9e8b7a"]);
    assert!(!nothing.status.success() && text(&nothing).contains("no such command"), "{}", text(&nothing));
    let elsewhere = home.tampu(&["send", "plug", "on", "--topic", "lamp/cmd"]);
    let said = text(&elsewhere);
    assert!(
        !elsewhere.status.success() && said.contains("no rule lets plug subscribe to lamp/cmd"),
        "{said}"
    );
    let wrong = home.tampu(&["send", "plug", "on", "--topic", "plug/#"]);
    assert!(!wrong.status.success() && text(&wrong).contains("wildcards"), "{}", text(&wrong));
    let for_ever = home.tampu(&["send", "plug", "on", "--for", "1year"]);
    assert!(
        !for_ever.status.success() && text(&for_ever).contains("commands.max_good_for"),
        "{}",
        text(&for_ever)
    );
    let (_, home) = gateway.terminate();
    let nobody = home.tampu(&["send", "plug", "on"]);
    assert!(!nobody.status.success() && text(&nobody).contains("no gateway is running"), "{}", text(&nobody));
}

#[test]
fn a_kill_at_any_step_loses_no_command_and_repeats_none_that_was_acknowledged() {
    let mut gateway = Gateway::start("");
    let credentials = gateway.home.device("plug");

    // Accepted.
    let command = id_of(&send(&gateway.home, &["on", "--reply-topic", "plug/reply", "--for", "1h"]));
    gateway = gateway.kill().start();
    let mut plug = Raw::connect(gateway.address, &credentials, "c", false);
    plug.send(0x82, &[b"\0\x01", &kept::text(CMD)[..], &[1]].concat());
    plug.expect(0x90, b"\0\x01\x01");

    // Sent.
    plug.expect(0x32, &publish(CMD, 1, "on"));
    gateway = gateway.kill().start();
    let mut plug = Raw::connect(gateway.address, &credentials, "c", true);
    // With DUP if it was on disk by then that it was sent.
    let (first, body) = plug.receive(publish(CMD, 1, "on").len());
    assert!(matches!(first, 0x32 | 0x3a), "{first:02x}");
    assert_eq!(body, publish(CMD, 1, "on"));

    // Acknowledged, and its reply is waited for.
    plug.send(0x40, &[0, 1]);
    becomes(&gateway.home, &command, "acked");
    // What is accepted behind it is on disk, and so is it.
    let other = id_of(&send(&gateway.home, &["never", "--topic", "plug/other"]));
    gateway = gateway.kill().start();
    let mut plug = Raw::connect(gateway.address, &credentials, "c", true);
    plug.send(0xc0, b"");
    plug.expect(0xd0, b"");
    assert_eq!(show(&gateway.home, &command)["state"], "acked");
    assert_eq!(show(&gateway.home, &other)["state"], "queued");

    // Answered.
    plug.send(0x32, &publish("plug/reply", 9, "level 7"));
    plug.expect(0x40, &[0, 9]);
    gateway = gateway.kill().start();
    let mut plug = Raw::connect(gateway.address, &credentials, "c", true);
    plug.send(0xc0, b"");
    plug.expect(0xd0, b"");
    let done = show(&gateway.home, &command);
    assert_eq!((&done["state"], &done["result"]), (&Value::from("done"), &Value::from("level 7")), "{done}");
}
