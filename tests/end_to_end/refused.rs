//! Who is not let in is refused with a reason in the log, and those who may are served meanwhile.

use std::io::{Read, Write};
use std::net::TcpStream;

use time::Duration;

use crate::harness::authority::Authority;
use crate::harness::mqtt::{Credentials, Device, without_certificate};
use crate::harness::{Gateway, Home, PATIENCE};

/// A gateway with a CA of the test's, a device that is connected, and its certificate.
struct Scene {
    gateway: Gateway,
    authority: Authority,
    credentials: Credentials,
    plug: Device,
}

impl Scene {
    fn start() -> Self {
        let home = Home::new("");
        let authority = Authority::create(&home.path("authority"), "greenhouse CA");
        home.configure(&authority.settings());
        let gateway = home.start();
        let credentials = authority.device("plug", Duration::days(1));
        let plug = Device::connect(gateway.address, &credentials, "plug");
        Self { gateway, authority, credentials, plug }
    }

    /// The one who was there is still served, and another one is let in.
    fn others_are_served(&mut self) {
        self.plug.publish("plug/readings", "{\"t\":1}");
        Device::connect(self.gateway.address, &self.credentials, "plug-again")
            .publish("plug/readings", "{\"t\":2}");
    }
}

#[test]
fn without_a_certificate() {
    let mut scene = Scene::start();
    let tls = without_certificate(&scene.credentials.ca);
    assert!(Device::try_connect(scene.gateway.address, Some(&tls), "nobody").is_err());
    scene.gateway.wait_for_refusal("certificate_missing");
    scene.others_are_served();
}

#[test]
fn with_a_certificate_of_another_ca() {
    let mut scene = Scene::start();
    let other = Authority::create(&scene.gateway.home.path("other"), "other CA");
    let forged = Credentials { ca: scene.credentials.ca.clone(), ..other.device("plug", Duration::days(1)) };
    assert!(Device::try_connect(scene.gateway.address, Some(&forged.tls()), "forged").is_err());
    let refusal = scene.gateway.wait_for_refusal("certificate_unknown_issuer");
    assert!(refusal.text().contains("plug"), "it says who the certificate claims to be: {}", refusal.text());
    scene.others_are_served();
}

#[test]
fn with_a_certificate_of_a_ca_that_has_taken_our_name() {
    let mut scene = Scene::start();
    let other = Authority::create(&scene.gateway.home.path("other"), "greenhouse CA");
    let forged = Credentials { ca: scene.credentials.ca.clone(), ..other.device("plug", Duration::days(1)) };
    assert!(Device::try_connect(scene.gateway.address, Some(&forged.tls()), "forged").is_err());
    let refusal = scene.gateway.wait_for_refusal("certificate_invalid");
    assert!(refusal.text().contains("plug"), "it says who the certificate claims to be: {}", refusal.text());
    scene.others_are_served();
}

#[test]
fn with_an_expired_certificate() {
    let mut scene = Scene::start();
    let expired = scene.authority.device("old", -Duration::days(1));
    assert!(Device::try_connect(scene.gateway.address, Some(&expired.tls()), "old").is_err());
    let refusal = scene.gateway.wait_for_refusal("certificate_expired");
    assert!(refusal.text().contains("old"), "it says whose: {}", refusal.text());
    scene.others_are_served();
}

#[test]
fn with_a_certificate_whose_name_is_none() {
    let mut scene = Scene::start();
    let wild = scene.authority.device("#", Duration::days(1));
    assert!(Device::try_connect(scene.gateway.address, Some(&wild.tls()), "wild").is_err());
    scene.gateway.wait_for_refusal("device_name_invalid");
    scene.others_are_served();
}

#[test]
fn without_tls() {
    let mut scene = Scene::start();
    assert!(Device::try_connect(scene.gateway.address, None, "plain").is_err());
    scene.gateway.wait_for_refusal("not_tls");
    scene.others_are_served();
}

#[test]
fn a_connection_that_says_nothing_keeps_nobody_out() {
    let mut scene = Scene::start();
    let silent: Vec<_> = (0..10).map(|_| TcpStream::connect(scene.gateway.address).unwrap()).collect();
    scene.others_are_served();
    drop(silent);
}

#[test]
fn a_device_that_does_not_trust_the_gateway_keeps_nobody_out() {
    let mut scene = Scene::start();
    let other = Authority::create(&scene.gateway.home.path("other"), "other CA");
    let stranger = other.device("stranger", Duration::days(1));
    assert!(Device::try_connect(scene.gateway.address, Some(&stranger.tls()), "stranger").is_err());
    scene.others_are_served();
}

#[test]
fn bytes_that_are_no_tls_are_answered_with_an_end() {
    let mut scene = Scene::start();
    for nonsense in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0x16, 3, 1, 0xff, 0xff], vec![0; 64]] {
        let mut stream = TcpStream::connect(scene.gateway.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&nonsense).unwrap();
        // A reset is an end too, and the gateway may be done with it by now.
        stream.shutdown(std::net::Shutdown::Write).ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
        assert!(answer.len() <= 16, "at most an alert: {answer:02x?}");
    }
    scene.others_are_served();
}
