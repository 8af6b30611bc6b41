//! Clients that come back at once, and fleets that come all together.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::harness::authority::Authority;
use crate::harness::mqtt::Device;
use crate::harness::{Gateway, Home};

/// Devices that come back after a power cut. As many as a noisy machine can simulate in a debug build.
const FLEET: usize = 100;

#[test]
fn a_client_that_is_refused_and_comes_back_at_once_is_slowed_and_others_are_not() {
    let home = Home::new("");
    let gateway = home.start();
    let pump = gateway.home.device("pump");
    let stranger =
        Authority::create(&gateway.home.path("other"), "other CA").device("x", time::Duration::days(1));
    let forged = crate::harness::mqtt::Credentials { ca: pump.ca.clone(), ..stranger };
    let mut live = Device::connect(gateway.address, &pump, "pump");
    let begin = Instant::now();
    let mut waited = Duration::ZERO;
    for _ in 0..12 {
        let began = Instant::now();
        assert!(Device::try_connect(gateway.address, Some(&forged.tls()), "x").is_err());
        waited = began.elapsed();
    }
    assert!(begin.elapsed() > Duration::from_millis(1_500), "it was not slowed: {:?}", begin.elapsed());
    assert!(waited > Duration::from_millis(200), "the last one was not delayed: {waited:?}");
    live.publish("pump/readings", "{\"t\":1}");
}

#[test]
fn an_address_that_connects_too_fast_is_counted_and_those_who_are_there_are_served() {
    let gateway = Gateway::start("[limits]\nconnects_per_second = 1\nconnect_burst = 5\n");
    let pump = gateway.home.device("pump");
    let mut live = Device::connect(gateway.address, &pump, "pump");
    let connections: Vec<_> = (0..50).map(|_| TcpStream::connect(gateway.address)).collect();
    gateway.wait_for_refusal("too_many_connects");
    live.publish("pump/readings", "{\"t\":1}");
    drop(connections);
}

#[test]
fn a_fleet_behind_one_address_comes_back_after_a_restart_and_nobody_is_refused() {
    let home = Home::new("");
    let authority = Authority::create(&home.path("authority"), "greenhouse CA");
    // The defaults for a fleet ten times as large, in proportion.
    let limits = "[limits]\nconnect_burst = 200\nhandshakes_per_second = 50\nhandshake_burst = 50\n";
    home.configure(&(authority.settings() + limits));
    let gateway = home.start();
    let configs: Vec<_> =
        (0..FLEET).map(|n| authority.device(&format!("d{n}"), time::Duration::days(1)).tls()).collect();
    for round in 0..2 {
        // A device resumes no session after a power cut.
        let address = gateway.address;
        let comers: Vec<_> = configs
            .iter()
            .enumerate()
            .map(|(n, config)| {
                let config = Arc::clone(config);
                std::thread::spawn(move || {
                    let mut device = Device::try_connect(address, Some(&config), &format!("d{n}")).unwrap();
                    device.publish(&format!("d{n}/readings"), &format!("{{\"round\":{round}}}"));
                    device
                })
            })
            .collect();
        // All of them are there at once, and then leave at once.
        let devices: Vec<_> = comers.into_iter().map(|comer| comer.join().unwrap()).collect();
        assert_eq!(devices.len(), FLEET);
    }
    gateway.wait_for_status("all readings", |status| {
        let refused: u64 =
            status["broker"]["refusals"].as_object()?.values().filter_map(serde_json::Value::as_u64).sum();
        assert_eq!(refused, 0, "{status:#}");
        (status["buffer"]["accepted"] == 2 * FLEET).then_some(())
    });
}
