//! What was refused and what was changed can be read afterwards.

use serde_json::Value;

use crate::harness::mqtt::{Device, without_certificate};
use crate::harness::{Gateway, Home, eventually};

fn audit(home: &Home, arguments: &[&str]) -> Vec<Value> {
    let output = home.tampu(&[&["audit", "--json"], arguments].concat());
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn refusals_and_changes_are_there_after_a_kill_and_can_be_asked_for_one_by_one() {
    let gateway = Gateway::start("");
    let pump = gateway.home.device("pump");
    let nobody = without_certificate(&pump.ca);
    assert!(Device::try_connect(gateway.address, Some(&nobody), "nobody").is_err());
    let mut device = Device::connect(gateway.address, &pump, "pump");
    device.try_publish("fan/state", "on").unwrap_err();
    assert!(gateway.home.tampu(&["device", "disable", "pump"]).status.success());
    // The second entry waits up to ten seconds for company.
    eventually("both refusals are written", || {
        let reasons = ["certificate_missing", "publish_not_allowed"];
        reasons.iter().all(|reason| !audit(&gateway.home, &["--reason", reason]).is_empty()).then_some(())
    });
    let home = gateway.kill();

    let all = audit(&home, &[]);
    let reasons: Vec<_> = all.iter().map(|entry| entry["reason"].as_str().unwrap()).collect();
    for expected in ["add", "certificate_missing", "publish_not_allowed", "disable"] {
        assert!(reasons.contains(&expected), "{expected} is not in {reasons:?}");
    }
    let place = |reason| reasons.iter().position(|found| *found == reason);
    assert!(place("publish_not_allowed") < place("disable"), "they stand as they happened: {reasons:?}");
    assert!(all.iter().all(|entry| entry["clock"] == "synchronized" && entry["time"].is_string()));
    let of_pump = audit(&home, &["--device", "pump", "--reason", "publish_not_allowed"]);
    assert_eq!(of_pump.len(), 1, "{of_pump:?}");
    assert_eq!((&of_pump[0]["peer"], &of_pump[0]["event"]), (&"127.0.0.1".into(), &"refused".into()));
    assert!(of_pump[0]["detail"].as_str().unwrap().contains("fan/state"));
    assert_eq!(audit(&home, &["-n", "1"]).len(), 1);
    assert!(audit(&home, &["--since", "0s"]).is_empty());
    assert_eq!(audit(&home, &["--since", "1h"]).len(), all.len());
    let text = String::from_utf8(home.tampu(&["audit"]).stdout).unwrap();
    assert!(text.contains("changed disable  device pump"), "{text}");
}

#[test]
fn the_end_of_the_daemon_loses_no_entry() {
    let gateway = Gateway::start("");
    let pump = gateway.home.device("pump");
    let nobody = without_certificate(&pump.ca);
    for _ in 0..3 {
        assert!(Device::try_connect(gateway.address, Some(&nobody), "nobody").is_err());
    }
    gateway.wait_for_status("three refusals", |status| {
        (status["broker"]["refusals"]["certificate_missing"] == 3).then_some(())
    });
    let (status, home) = gateway.terminate();
    assert!(status.success());
    assert_eq!(audit(&home, &["--reason", "certificate_missing"]).len(), 3);
}
