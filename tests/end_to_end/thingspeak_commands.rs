//! A TalkBack's command and a dashboard's slider, through the gateway, to a device with its own certificate; and how
//! the command ended, back to the channel.

use std::time::Duration;

use rumqttc::QoS;
use tampu::demo::cloud::{Fault, Reply};

use crate::harness::cloud::LocalCloud;
use crate::harness::mqtt::{Credentials, Device};
use crate::harness::{Gateway, eventually};

const NOW: Duration = Duration::ZERO;

fn connect(gateway: &Gateway, lamp: &Credentials) -> Device {
    let mut device = Device::connect(gateway.address, lamp, "lamp");
    device.subscribe(&[("lamp/cmd", QoS::AtLeastOnce)]);
    device
}

fn receive(device: &mut Device) -> String {
    let publish = device.receive();
    assert_eq!(publish.topic, "lamp/cmd");
    String::from_utf8(publish.payload.to_vec()).unwrap()
}

fn until_outcomes(cloud: &LocalCloud, expected: &[&str]) {
    let mut last = Vec::new();
    eventually(&format!("the channel is told {expected:?}"), || {
        last = cloud.outcomes();
        (last == expected).then_some(())
    });
}

fn until_taken(cloud: &LocalCloud, gateway: &Gateway, commands: u64) {
    gateway.wait_for_status("the command is taken", |status| {
        let kept = status["commands"]["kept"].as_u64()?;
        (cloud.thingspeak().waiting_commands() == 0 && kept >= commands).then_some(())
    });
}

#[test]
fn a_talkbacks_command_reaches_its_device_and_the_answer_comes_to_the_channel() {
    let cloud = LocalCloud::start();
    let gateway = Gateway::start(&cloud.talkback());
    let mut device = connect(&gateway, &gateway.home.device("lamp"));
    cloud.thingspeak().queue_command("ON 40", NOW);
    cloud.thingspeak().queue_command("OFF", NOW);
    assert_eq!(receive(&mut device), "ON 40");
    device.publish("lamp/reply", r#"{"brightness":40}"#);
    assert_eq!(receive(&mut device), "OFF");
    device.publish("lamp/reply", r#"{"status":"failed","why":"stuck"}"#);
    until_outcomes(
        &cloud,
        &[r#"1 done: {"brightness":40}"#, r#"2 failed: {"status":"failed","why":"stuck"}"#],
    );
    cloud.thingspeak().queue_command("too late", Duration::from_secs(86_400));
    eventually("it is told that it was too old", || {
        cloud.outcomes().contains(&"3 expired: it was too old when it came".to_owned()).then_some(())
    });
    cloud.thingspeak().queue_command("ON 50", NOW);
    assert_eq!(receive(&mut device), "ON 50", "the late one was never sent");
    gateway.wait_for_status("its figures", |status| {
        let source = &status["command_sources"]["dashboard"];
        (source["accepted"] == 3 && source["refused"] == 1 && source["maybe_lost"] == 0).then_some(())
    });
}

#[test]
fn a_slider_that_is_moved_reaches_its_device() {
    let cloud = LocalCloud::start();
    cloud.thingspeak().move_slider("field2", "10");
    let gateway = Gateway::start(&cloud.slider());
    let mut device = connect(&gateway, &gateway.home.device("lamp"));
    gateway.wait_for_status("the field was looked at", |status| {
        (status["command_sources"]["slider"]["well"] == true).then_some(())
    });
    for value in ["50", "128"] {
        eventually("the slider moves", || cloud.thingspeak().move_slider("field2", value));
        assert_eq!(receive(&mut device), format!("{{\"pwm\":{value}}}"));
    }
}

#[test]
fn a_kill_at_any_step_after_a_command_was_kept_neither_loses_nor_repeats_it() {
    let cloud = LocalCloud::start();
    let gateway = Gateway::start(&cloud.talkback());
    let lamp = gateway.home.device("lamp");

    // Before it was asked for: it stays in the queue.
    let home = gateway.kill();
    cloud.thingspeak().queue_command("while it was down", NOW);
    let gateway = home.start();
    until_taken(&cloud, &gateway, 1);

    // After it was taken and kept, before the device was there.
    let gateway = gateway.kill().start();
    let mut device = connect(&gateway, &lamp);
    assert_eq!(receive(&mut device), "while it was down");
    device.publish("lamp/reply", "ok");
    until_outcomes(&cloud, &["1 done: ok"]);

    // After the device has acknowledged it, before it answered, and before the channel could be told.
    cloud.thingspeak().queue_command("not told", NOW);
    assert_eq!(receive(&mut device), "not told");
    gateway.wait_for_status("it is acknowledged", |status| (status["commands"]["acked"] == 1).then_some(()));
    // What is acknowledged comes after the device's own acknowledgement, and so that is on disk, too.
    device.publish("lamp/readings", "{}");
    cloud.thingspeak().line().always(Some(Fault::Reply(Reply::empty(503))));
    let gateway = gateway.kill().start();
    let mut device = connect(&gateway, &lamp);
    device.publish("lamp/reply", "late but true");
    let gateway = gateway.kill().start();
    cloud.thingspeak().line().always(None);
    until_outcomes(&cloud, &["1 done: ok", "2 done: late but true"]);
    let mut device = connect(&gateway, &lamp);
    cloud.thingspeak().queue_command("the last", NOW);
    assert_eq!(receive(&mut device), "the last", "nothing came twice");
}
