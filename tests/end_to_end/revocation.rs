//! A device that is revoked, rotated or disabled: what its certificate is worth, and when.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::authority::Authority;
use crate::harness::mqtt::{Credentials, Device};
use crate::harness::{Gateway, Home};

/// Runs a command that must succeed, and returns what it prints.
fn tampu(home: &Home, arguments: &[&str]) -> String {
    let output = home.tampu(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until a certificate is refused.
fn refused_soon(gateway: &Gateway, credentials: &Credentials) {
    let begin = Instant::now();
    while let Ok(device) = Device::try_connect(gateway.address, Some(&credentials.tls()), "again") {
        drop(device);
        assert!(begin.elapsed() < crate::harness::PATIENCE, "it is still let in");
    }
}

fn further(home: &Home, command: &str, name: &str, dir: &str) -> Credentials {
    let out = home.path(dir);
    tampu(home, &["device", command, name, "--out", out.to_str().unwrap()]);
    Credentials::in_directory(&out, name)
}

#[test]
fn a_revoked_device_is_put_out_and_not_let_in_again_and_its_neighbour_is_left_alone() {
    let gateway = Gateway::start("");
    let (pump, fan) = (gateway.home.device("pump"), gateway.home.device("fan"));
    let mut live = Device::connect(gateway.address, &pump, "pump");
    let mut neighbour = Device::connect(gateway.address, &fan, "fan");
    live.publish("pump/readings", "{\"t\":1}");
    tampu(&gateway.home, &["device", "revoke", "pump"]);
    live.wait_until_closed();
    let refusal = gateway.wait_for_refusal("certificate_revoked");
    assert_eq!(refusal.field("device"), "pump");
    assert!(Device::try_connect(gateway.address, Some(&pump.tls()), "pump").is_err());
    neighbour.publish("fan/readings", "{\"t\":1}");

    let list = tampu(&gateway.home, &["device", "list", "--json"]);
    let rows: Value = serde_json::from_str(&list).unwrap();
    assert_eq!((&rows[0]["state"], &rows[1]["state"]), (&"good".into(), &"revoked".into()), "{list}");
    // It holds over a restart, from the first handshake on.
    let gateway = gateway.kill().start();
    assert!(Device::try_connect(gateway.address, Some(&pump.tls()), "pump").is_err());
    Device::connect(gateway.address, &fan, "fan");
}

#[test]
fn a_rotated_device_comes_with_its_new_certificate_and_not_with_the_old_one() {
    let gateway = Gateway::start("");
    let old = gateway.home.device("pump");
    let mut live = Device::connect(gateway.address, &old, "pump");
    let new = further(&gateway.home, "rotate", "pump", "new");
    live.wait_until_closed();
    Device::connect(gateway.address, &new, "pump").publish("pump/readings", "{\"t\":1}");
    assert!(Device::try_connect(gateway.address, Some(&old.tls()), "pump").is_err());
}

#[test]
fn a_renewed_device_may_come_with_either_certificate() {
    let gateway = Gateway::start("");
    let old = gateway.home.device("pump");
    let new = further(&gateway.home, "renew", "pump", "new");
    for credentials in [&old, &new] {
        Device::connect(gateway.address, credentials, "pump").publish("pump/readings", "{\"t\":1}");
    }
}

#[test]
fn a_grace_ends_when_it_is_over() {
    let gateway = Gateway::start("");
    let old = gateway.home.device("pump");
    let out = gateway.home.path("new");
    let out = out.to_str().unwrap();
    tampu(&gateway.home, &["device", "rotate", "pump", "--grace", "3s", "--out", out]);
    let mut live = Device::connect(gateway.address, &old, "pump");
    live.publish("pump/readings", "{\"t\":1}");
    live.wait_until_closed();
    refused_soon(&gateway, &old);
}

#[test]
fn a_disabled_device_is_put_out_until_it_is_enabled() {
    let gateway = Gateway::start("");
    let pump = gateway.home.device("pump");
    let mut live = Device::connect(gateway.address, &pump, "pump");
    tampu(&gateway.home, &["device", "disable", "pump"]);
    live.wait_until_closed();
    refused_soon(&gateway, &pump);
    tampu(&gateway.home, &["device", "enable", "pump"]);
    let begin = Instant::now();
    while Device::try_connect(gateway.address, Some(&pump.tls()), "pump").is_err() {
        assert!(begin.elapsed() < crate::harness::PATIENCE, "it is not let in again");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_list_of_an_external_ca_reaches_live_connections_and_its_end_alarms() {
    let home = Home::new("");
    let authority = Authority::create(&home.path("authority"), "greenhouse CA");
    let list = home.path("list.pem");
    home.configure(&format!("{}crl = [{list:?}]\n", authority.settings()));
    let (pump, fan) = (
        authority.device("pump", time::Duration::days(1)),
        authority.device("fan", time::Duration::hours(12)),
    );
    std::fs::write(&list, authority.list(&[], time::Duration::days(7))).unwrap();
    let gateway = home.start();
    let mut live = Device::connect(gateway.address, &pump, "pump");
    let mut neighbour = Device::connect(gateway.address, &fan, "fan");
    let ending =
        gateway.wait_for_log("a certificate that ends soon", |line| line.text().contains("ends soon"));
    assert_eq!(ending.field("device"), "fan");

    std::fs::write(&list, authority.list(&[&pump], -time::Duration::days(1))).unwrap();
    live.wait_until_closed();
    let refusal = gateway.wait_for_refusal("certificate_revoked");
    assert!(refusal.text().contains("greenhouse CA"), "{}", refusal.text());
    assert!(Device::try_connect(gateway.address, Some(&pump.tls()), "pump").is_err());
    neighbour.publish("fan/readings", "{\"t\":1}");
    let problem = gateway.wait_for_status("the alarm", |status| {
        status["certificates"]["revocation_list_problems"][0].as_str().map(str::to_owned)
    });
    assert!(problem.contains("should have been replaced"), "{problem}");
    let check = gateway.home.tampu(&["check"]);
    assert!(String::from_utf8_lossy(&check.stderr).contains("should have been replaced"), "{check:?}");
}
