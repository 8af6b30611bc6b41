//! What was acknowledged arrives, whatever happens to the cloud and to the process.

use std::collections::BTreeSet;
use std::thread;

use rumqttc::ConnectionError;
use serde_json::{Value, json};

use crate::harness::cloud::LocalCloud;
use crate::harness::mqtt::{Credentials, Device};
use crate::harness::{Gateway, eventually, text};

/// Waits until the sink has delivered everything that was accepted, and checks P2 on the way.
fn wait_until_delivered(gateway: &Gateway, sink: &str) -> u64 {
    gateway.wait_for_status("everything is delivered", |status| {
        let figures = &status["buffer"]["sinks"][sink];
        let figure = |name: &str| figures[name].as_u64();
        let dropped: u64 = figures["dropped"].as_object()?.values().filter_map(Value::as_u64).sum();
        let (accepted, delivered, pending) = (figure("accepted")?, figure("delivered")?, figure("pending")?);
        assert_eq!(accepted, delivered + pending + dropped, "readings are conserved: {figures}");
        (pending == 0 && accepted == status["buffer"]["accepted"]).then_some(delivered)
    })
}

#[test]
fn a_reading_reaches_every_sink_as_the_device_sent_it() {
    let cloud = LocalCloud::start();
    let gateway = Gateway::start(&(cloud.supabase_sink() + &cloud.thingspeak_sink()));
    let mut plug = Device::connect(gateway.address, &gateway.home.device("plug"), "plug");
    plug.publish("plug/readings/air", "{\"t\":21.5,\"unit\":\"°C\"}");
    let row = eventually("a row", || cloud.rows().into_iter().next());
    assert_eq!((row.gateway.as_str(), row.device.as_str()), ("gw", "plug"));
    assert_eq!((row.stream.as_str(), row.topic.as_str()), ("readings", "plug/readings/air"));
    assert_eq!(row.payload, json!({ "t": 21.5, "unit": "°C" }));
    assert_eq!(row.clock, "synchronized");
    eventually("an entry", || (cloud.field1().get("21.5") == Some(&1)).then_some(()));
    assert_eq!(wait_until_delivered(&gateway, "database"), 1);
    assert_eq!(wait_until_delivered(&gateway, "channel"), 1);
}

#[test]
fn readings_wait_while_the_cloud_is_away_and_arrive_once_when_it_is_back() {
    let cloud = LocalCloud::start();
    let gateway = Gateway::start(&cloud.supabase_sink());
    let mut plug = Device::connect(gateway.address, &gateway.home.device("plug"), "plug");
    plug.publish("plug/readings", "{\"n\":0}");
    eventually("the first row", || (cloud.rows().len() == 1).then_some(()));
    cloud.go_away();
    for n in 1..=50 {
        plug.publish("plug/readings", &format!("{{\"n\":{n}}}"));
    }
    gateway.wait_for_status("they wait", |status| {
        (status["buffer"]["sinks"]["database"]["pending"] == 50).then_some(())
    });
    cloud.come_back();
    wait_until_delivered(&gateway, "database");
    let arrived: Vec<_> = cloud.rows().iter().map(|row| row.payload["n"].clone()).collect();
    assert_eq!(arrived, (0..=50).map(Value::from).collect::<Vec<_>>());
}

#[test]
fn a_payload_that_cannot_be_parsed_blocks_nothing_and_is_kept() {
    let cloud = LocalCloud::start();
    let gateway = Gateway::start(&cloud.supabase_sink());
    let mut plug = Device::connect(gateway.address, &gateway.home.device("plug"), "plug");
    plug.publish("plug/readings", "{\"t\":1}");
    for trouble in ["{\"t\":nan}", "", "{\"t\":21.5", "{'t':1}"] {
        plug.publish("plug/readings", trouble);
    }
    plug.publish("plug/readings", "{\"t\":2}");
    eventually("both good ones", || (cloud.rows().len() == 2).then_some(()));
    gateway.wait_for_status("the others are dead letters", |status| {
        (status["buffer"]["dead_letters"] == 4).then_some(())
    });
    wait_until_delivered(&gateway, "database");
}

/// Publishes until the connection ends; the payloads that were acknowledged.
fn publish_until_the_end(mut device: Device, name: &str) -> Vec<String> {
    let mut acked = Vec::new();
    for n in 0_u64.. {
        let payload = format!("{{\"device\":\"{name}\",\"n\":{n}}}");
        match device.try_publish(&format!("{name}/readings"), &payload) {
            Ok(()) => acked.push(payload),
            Err(_) => break,
        }
    }
    acked
}

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed_under_load() {
    const DEVICES: usize = 4;
    let cloud = LocalCloud::start();
    cloud.go_away();
    let mut gateway = Gateway::start(&cloud.supabase_sink());
    let names: Vec<_> = (0..DEVICES).map(|n| format!("d{n}")).collect();
    let credentials: Vec<Credentials> = names.iter().map(|name| gateway.home.device(name)).collect();
    let mut acked = BTreeSet::new();
    for life in 1..=3_u64 {
        let load: Vec<_> = names
            .iter()
            .zip(&credentials)
            .map(|(name, credentials)| {
                let device = Device::connect(gateway.address, credentials, name);
                let name = name.clone();
                thread::spawn(move || {
                    publish_until_the_end(device, &name)
                        .into_iter()
                        .map(move |p| (life, p))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        gateway.wait_for_status("some are accepted", |status| {
            (status["buffer"]["accepted"].as_u64()? > acked.len() as u64 + 40).then_some(())
        });
        let home = gateway.kill();
        for publisher in load {
            acked.extend(publisher.join().expect("a publisher does not panic"));
        }
        gateway = home.start();
    }
    assert!(acked.len() > 100, "only {} were acknowledged", acked.len());
    cloud.come_back();
    wait_until_delivered(&gateway, "database");

    // A payload says its number in one life of the process: each life counts from 0.
    let mut rows = cloud.rows();
    let keys: BTreeSet<_> = rows.iter().map(|row| (row.epoch, row.seq)).collect();
    assert_eq!(keys.len(), rows.len(), "a sequence number was used twice");
    for (life, payload) in &acked {
        let wanted: Value = serde_json::from_str(payload).unwrap();
        let at = rows.iter().position(|row| row.payload == wanted);
        let at = at.unwrap_or_else(|| panic!("acknowledged in life {life} and lost: {payload}"));
        rows.swap_remove(at);
    }
    // What was stored and not acknowledged any more: at most what each device had in flight, each time.
    assert!(rows.len() <= 3 * DEVICES, "{} readings were never sent", rows.len());
}

#[test]
fn a_stop_loses_nothing_that_came_not_even_at_quality_0() {
    let gateway = Gateway::start("[buffer]\nqos0_window = \"1h\"\n");
    let mut plug = Device::connect(gateway.address, &gateway.home.device("plug"), "plug");
    for n in 0..20 {
        plug.publish_qos0("plug/readings", &format!("{{\"n\":{n}}}"));
    }
    // A ping's answer, or an ack, says that what went before has been read.
    plug.publish("plug/other", "x");
    let (status, home) = gateway.terminate();
    assert!(status.success(), "{status}: {}", home.log());
    let gateway = home.start();
    gateway.wait_for_status("all are there", |status| (status["buffer"]["accepted"] == 20).then_some(()));
}

#[test]
fn a_stop_while_devices_publish_ends_in_time_and_keeps_every_ack() {
    let cloud = LocalCloud::start();
    let gateway = Gateway::start(&cloud.supabase_sink());
    let credentials = gateway.home.device("plug");
    let device = Device::connect(gateway.address, &credentials, "plug");
    let load = thread::spawn(move || publish_until_the_end(device, "plug"));
    eventually("readings flow", || (cloud.rows().len() > 20).then_some(()));
    let (status, home) = gateway.terminate();
    assert!(status.success(), "{status}: {}", home.log());
    let acked = load.join().expect("the publisher does not panic");
    let gateway = home.start();
    wait_until_delivered(&gateway, "database");
    let rows: BTreeSet<_> = cloud.rows().iter().map(|row| row.payload["n"].as_u64()).collect();
    for n in 0..acked.len() as u64 {
        assert!(rows.contains(&Some(n)), "reading {n} was acknowledged and is not there");
    }
}

#[test]
fn figures_survive_a_restart() {
    let cloud = LocalCloud::start();
    let gateway = Gateway::start(&cloud.supabase_sink());
    let mut plug = Device::connect(gateway.address, &gateway.home.device("plug"), "plug");
    for n in 0..5 {
        plug.publish("plug/readings", &format!("{{\"n\":{n}}}"));
    }
    assert_eq!(wait_until_delivered(&gateway, "database"), 5);
    let gateway = gateway.kill().start();
    assert_eq!(wait_until_delivered(&gateway, "database"), 5);
    assert_eq!(cloud.rows().len(), 5);
}

#[test]
fn a_second_daemon_on_the_same_data_says_who_has_it() {
    let gateway = Gateway::start("");
    let output = gateway.home.tampu(&["run"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output).contains("another tampu"), "{}", text(&output));
    let mut plug = Device::connect(gateway.address, &gateway.home.device("plug"), "plug");
    plug.publish("plug/readings", "{\"t\":1}");
}

#[test]
fn a_device_learns_that_its_connection_is_over_when_the_gateway_stops() {
    let gateway = Gateway::start("");
    let mut plug = Device::connect(gateway.address, &gateway.home.device("plug"), "plug");
    let stopped = thread::spawn(move || gateway.terminate().0.success());
    let error = plug.wait_until_closed();
    assert!(matches!(error, ConnectionError::Io(_) | ConnectionError::MqttState(_)), "{error:?}");
    assert!(stopped.join().expect("the stop does not panic"));
}
