//! A row at Supabase, through the gateway, to a device with its own certificate, and its outcome back to the row.

use rumqttc::QoS;
use serde_json::{Value, json};
use tampu::demo::cloud::{Fault, Reply};

use crate::harness::cloud::LocalCloud;
use crate::harness::mqtt::{Credentials, Device};
use crate::harness::{Gateway, eventually};

fn row(payload: &str) -> Value {
    json!({ "gateway_id": "gw", "device": "lamp", "payload": payload })
}

fn until_statuses(cloud: &LocalCloud, expected: &[&str]) {
    let mut last = Vec::new();
    eventually(&format!("the rows are {expected:?}"), || {
        last = cloud.commands("status");
        last.iter().flatten().eq(expected).then_some(())
    });
}

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

#[test]
fn a_row_reaches_its_device_and_the_answer_comes_back_to_the_row() {
    let cloud = LocalCloud::start();
    let gateway = Gateway::start(&cloud.supabase_commands());
    let mut device = connect(&gateway, &gateway.home.device("lamp"));
    gateway.wait_for_status("Realtime rings", |status| {
        (status["command_sources"]["cloud"]["listens"] == true).then_some(())
    });
    let mut asked = row("");
    asked["payload"] = json!({ "brightness": 40 });
    asked["reply_topic"] = json!("lamp/done");
    cloud.insert_command(&asked);
    assert_eq!(receive(&mut device), r#"{"brightness":40}"#);
    until_statuses(&cloud, &["acked"]);
    device.publish("lamp/done", r#"{"status":"ok","brightness":40}"#);
    until_statuses(&cloud, &["done"]);
    assert_eq!(cloud.commands("result"), [Some(r#"{"status":"ok","brightness":40}"#.to_owned())]);
    for column in ["command_id", "accepted_at", "sent_at", "acked_at", "finished_at"] {
        assert!(cloud.commands(column)[0].is_some(), "{column}");
    }

    asked["payload"] = json!("off");
    cloud.insert_command(&asked);
    assert_eq!(receive(&mut device), "off");
    device.publish("lamp/done", r#"{"status":"failed"}"#);
    until_statuses(&cloud, &["done", "failed"]);
    gateway.wait_for_status("two have come and are told", |status| {
        let source = &status["command_sources"]["cloud"];
        (source["accepted"] == 2 && source["refused"] == 0).then_some(())
    });
}

#[test]
fn a_kill_at_any_step_neither_loses_a_row_nor_carries_one_out_twice() {
    let cloud = LocalCloud::start();
    let gateway = Gateway::start(&cloud.supabase_commands());
    let lamp = gateway.home.device("lamp");

    // Before the gateway has seen it.
    let home = gateway.kill();
    cloud.insert_command(&row("while it was down"));
    let gateway = home.start();
    let taken = || cloud.commands("command_id").iter().all(Option::is_some).then_some(());
    eventually("the row is taken", taken);

    // After it was taken, before the device was there.
    cloud.insert_command(&row("taken"));
    eventually("the second row is taken", taken);
    let gateway = gateway.kill().start();
    let mut device = connect(&gateway, &lamp);
    assert_eq!(receive(&mut device), "while it was down");
    assert_eq!(receive(&mut device), "taken");
    until_statuses(&cloud, &["done", "done"]);

    // After the device has carried it out, before the row knows: nothing gets through to it.
    drop(device);
    cloud.insert_command(&row("not told"));
    eventually("the third row is taken", taken);
    let line = cloud.supabase().line();
    line.always(Some(Fault::Reply(Reply::empty(503))));
    cloud.insert_command(&row("unseen"));
    let mut device = connect(&gateway, &lamp);
    assert_eq!(receive(&mut device), "not told");
    // What is acknowledged comes after the device's own acknowledgement, and so that is on disk, too.
    device.publish("lamp/readings", "{}");
    until_statuses(&cloud, &["done", "done", "queued", "queued"]);
    let gateway = gateway.kill().start();
    let mut device = connect(&gateway, &lamp);
    line.always(None);
    assert_eq!(receive(&mut device), "unseen", "no row is carried out twice");
    until_statuses(&cloud, &["done"; 4]);
    cloud.insert_command(&row("the last"));
    assert_eq!(receive(&mut device), "the last");
    until_statuses(&cloud, &["done"; 5]);
}

#[test]
fn a_row_that_is_too_late_when_its_device_comes_expires_and_one_that_is_refused_says_why() {
    let cloud = LocalCloud::start();
    let gateway = Gateway::start(&cloud.supabase_commands());
    let lamp = gateway.home.device("lamp");
    let mut late = row("too late");
    late["good_for_s"] = json!(1);
    cloud.insert_command(&late);
    let mut refused = row("never");
    refused["topic"] = json!("lamp/+");
    cloud.insert_command(&refused);
    until_statuses(&cloud, &["expired", "refused"]);
    assert!(cloud.commands("reason").iter().all(Option::is_some), "{:?}", cloud.commands("reason"));
    let mut device = connect(&gateway, &lamp);
    cloud.insert_command(&row("in time"));
    assert_eq!(receive(&mut device), "in time");
    until_statuses(&cloud, &["expired", "refused", "done"]);
}
