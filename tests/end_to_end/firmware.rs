//! Firmware over the air: the command line, HTTPS as the updaters speak it, and what devices are told and report.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rumqttc::QoS;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::Value;

use crate::harness::mqtt::{Device, without_certificate};
use crate::harness::{Gateway, Home, PATIENCE, eventually, text, utf8};

const SETTINGS: &str = "[firmware]\naddress = \"127.0.0.1:0\"\nidentities = [\"certificate\", \"api_key\"]\n\
                        [[group]]\nname = \"boards\"\ndevices = [\"board-1\", \"board-2\"]\n";

/// A program for an ESP8266: of it, only the first byte can be checked.
fn image(length: usize, seed: u8) -> Vec<u8> {
    let mut image: Vec<u8> = (0..length).map(|at| (at / 253) as u8 ^ (at as u8).wrapping_mul(seed)).collect();
    image[0] = 0xE9;
    image
}

fn write(home: &Home, name: &str, image: &[u8]) -> PathBuf {
    let path = home.path(name);
    std::fs::write(&path, image).unwrap();
    path
}

pub(super) fn firmware_address(gateway: &Gateway) -> SocketAddr {
    let status = gateway.home.status().unwrap();
    status["more_listeners"]["firmware"].as_str().unwrap().parse().unwrap()
}

/// The head and the body of an answer, after which the gateway has closed the connection.
pub(super) fn ask(address: SocketAddr, tls: &Arc<ClientConfig>, request: &str) -> (String, Vec<u8>) {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let connection = ClientConnection::new(Arc::clone(tls), ServerName::from(address.ip())).unwrap();
    let mut stream = StreamOwned::new(connection, socket);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let body = answer.split_off(end);
    (String::from_utf8(answer).unwrap().to_ascii_lowercase(), body)
}

/// As `HTTPUpdate` of the ESP32 core writes it; `more`: what its program adds.
pub(super) fn httpupdate(version: &str, more: &str) -> String {
    format!(
        "GET /firmware/me HTTP/1.0\r\nHost: 127.0.0.1:8485\r\nUser-Agent: ESP32-http-Update\r\nConnection: close\r\n\
         {more}Cache-Control: no-cache\r\nx-ESP32-STA-MAC: 24:6F:28:AE:52:7C\r\nx-ESP32-AP-MAC: 24:6F:28:AE:52:7D\r\n\
         x-ESP32-free-space: 1310720\r\nx-ESP32-sketch-size: 992064\r\n\
         x-ESP32-sketch-md5: 2d0e8a76ec4b7ca9ae0bc4ab3eba9f62\r\nx-ESP32-chip-size: 4194304\r\n\
         x-ESP32-sdk-version: v4.4.7-dirty\r\nx-ESP32-mode: sketch\r\nx-ESP32-version: {version}\r\n\r\n"
    )
}

fn state_of(home: &Home, device: &str) -> Option<Value> {
    let states: Value = serde_json::from_str(&home.tampu_with(&["firmware", "state", "--json"], "")).ok()?;
    states.as_array()?.iter().find(|row| row["device"] == device).map(|row| row["state"].clone())
}

#[test]
fn a_device_with_a_certificate_is_told_of_a_release_fetches_it_and_reports_that_it_runs() {
    let gateway = Gateway::start(SETTINGS);
    let home = &gateway.home;
    let credentials = home.device("board-1");
    let mut board = Device::connect(gateway.address, &credentials, "board-1");
    let topic = "board-1/firmware/available";
    board.subscribe(&[(topic, QoS::AtLeastOnce)]);

    let program = image(400_000, 3);
    let file = write(home, "program.bin", &program);
    let added = home.tampu_with(&["firmware", "add", utf8(&file), "--for", "boards", "--version", "2.0"], "");
    assert!(added.contains("release 1: 2.0 for boards, 100%") && added.contains("with 2 devices"), "{added}");

    let notice = board.receive();
    let notice: Value = serde_json::from_slice(&notice.payload).unwrap();
    assert_eq!((&notice["version"], &notice["size"]), (&Value::from("2.0"), &Value::from(400_000)));
    assert!(notice["url"].as_str().unwrap().ends_with("/firmware/board-1"), "{notice}");
    let mut late = Device::connect(gateway.address, &credentials, "board-1-again");
    late.subscribe(&[(topic, QoS::AtLeastOnce)]);
    assert!(late.receive().retain, "who comes later is told, too");

    let address = firmware_address(&gateway);
    let (head, body) = ask(address, &credentials.tls(), &httpupdate("1.0", ""));
    assert!(head.starts_with("http/1.0 200 ok\r\n"), "{head}");
    assert!(
        head.contains("\r\ncontent-length: 400000\r\n") && head.contains("\r\nconnection: close\r\n"),
        "{head}"
    );
    assert!(head.contains(&format!("\r\nx-md5: {}\r\n", notice["md5"].as_str().unwrap())), "{head}");
    assert!(!head.contains("chunked") && body == program);

    board.publish("board-1/firmware/version", "2.0");
    let state =
        eventually("the report is kept", || state_of(home, "board-1").filter(|it| it["version"] == "2.0"));
    let offered = &state["offers"]["program"];
    assert_eq!((&offered["runs"], &offered["sent"]), (&Value::from(true), &Value::from(400_000)), "{state}");
    let (head, body) = ask(address, &credentials.tls(), &httpupdate("2.0", ""));
    assert!(head.starts_with("http/1.0 304 ") && body.is_empty(), "{head}");

    let other = home.device("lamp");
    let (head, _) = ask(address, &other.tls(), &httpupdate("1.0", "").replace("/me", "/board-1"));
    assert!(head.starts_with("http/1.0 403 "), "{head}");
    gateway.wait_for_refusal("firmware_not_allowed");
    eventually("it is in the audit log", || {
        let audit = home.tampu_with(&["audit", "--reason", "firmware_not_allowed"], "");
        audit.contains("device lamp").then_some(())
    });
}

#[test]
fn devices_with_api_keys_fetch_an_image_a_hundred_at_once_and_one_without_is_refused() {
    let gateway = Gateway::start(SETTINGS);
    let home = &gateway.home;
    let key = home.tampu_with(&["key", "add", "board-2"], "");
    gateway.wait_for_log("the key is known", |line| line.text().contains("registry's changes are in force"));
    let program = image(150_000, 7);
    let file = write(home, "program.bin", &program);
    home.tampu_with(&["firmware", "add", utf8(&file), "--for", "board-2", "--version", "7"], "");
    let (address, tls) = (firmware_address(&gateway), without_certificate(&home.path("data/pki/ca.pem")));
    let login = STANDARD.encode(format!("board-2:{}", key.trim()));
    let request = httpupdate("6", &format!("Authorization: Basic {login}\r\n"));
    eventually("the release is offered", || {
        ask(address, &tls, &request).0.starts_with("http/1.0 200 ").then_some(())
    });
    std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                let (head, body) = ask(address, &tls, &request);
                assert!(head.starts_with("http/1.0 200 ") && body == program, "{head}");
            });
        }
    });
    let (head, _) = ask(address, &tls, &httpupdate("6", ""));
    assert!(head.starts_with("http/1.0 401 ") && head.contains("\r\nwww-authenticate: basic "), "{head}");
    let wrong = httpupdate("6", "X-API-Key: tampu_00000000_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\r\n");
    assert!(ask(address, &tls, &wrong).0.starts_with("http/1.0 403 "));
    gateway.wait_for_refusal("api_key_wrong");
    assert!(!home.log().contains(key.trim()), "a key is in the log");
}

#[test]
fn releases_survive_a_kill_and_a_damaged_image_is_told_and_not_served() {
    let gateway = Gateway::start(SETTINGS);
    let credentials = gateway.home.device("board-1");
    let (old, new) = (image(50_000, 1), image(60_000, 5));
    for (name, version, image) in [("old.bin", "1", &old), ("new.bin", "2", &new)] {
        let file = write(&gateway.home, name, image);
        gateway
            .home
            .tampu_with(&["firmware", "add", utf8(&file), "--for", "boards", "--version", version], "");
    }
    let gateway = gateway.kill().start();
    let (address, tls) = (firmware_address(&gateway), credentials.tls());
    assert!(ask(address, &tls, &httpupdate("0", "")).1 == new);

    let home = &gateway.home;
    let listed: Value = serde_json::from_str(&home.tampu_with(&["firmware", "list", "--json"], "")).unwrap();
    let sha256 = listed[1]["image"]["sha256"].as_str().unwrap();
    let stored = home.path(&format!("data/firmware/images/{sha256}.bin"));
    let mut damaged = new;
    damaged[30_000] ^= 0x10;
    std::fs::write(&stored, damaged).unwrap();
    assert!(ask(address, &tls, &httpupdate("0", "")).0.starts_with("http/1.0 503 "));
    gateway.wait_for_log("it is told", |line| line.level() == "ERROR" && line.text().contains("is damaged"));

    home.tampu_with(&["firmware", "rollback", "2"], "");
    eventually("the release before it is offered", || {
        (ask(address, &tls, &httpupdate("0", "")).1 == old).then_some(())
    });
    home.tampu_with(&["firmware", "remove", "2"], "");
    assert!(!stored.exists());
}

#[test]
fn what_is_no_firmware_is_refused_with_a_reason() {
    let home = Home::new(SETTINGS);
    let good = write(&home, "good.bin", &image(1_000, 1));
    let bad = write(&home, "bad.bin", b"\x7fELF");
    let add = |file: &PathBuf, more: &[&str]| {
        let arguments = ["firmware", "add", utf8(file), "--for", "boards", "--version", "1"];
        let output = home.tampu(&[&arguments, more].concat());
        (output.status.success(), text(&output))
    };
    for (file, more, why) in [
        (&bad, &[][..], "begins with 0x7f"),
        (&good, &["--md5", "00000000000000000000000000000000"], "its MD5 is"),
        (&good, &["--md5", "x"], "32 hexadecimal digits"),
        (&good, &["--rollout", "200%"], "1% to 100%"),
        (&home.path("missing.bin"), &[], "reading"),
    ] {
        let (succeeded, said) = add(file, more);
        assert!(!succeeded && said.contains(why), "{more:?}: {said}");
    }
    let small = home.with("TAMPU_FIRMWARE__MAX_IMAGE", "1 KiB");
    let large = write(&small, "large.bin", &image(1_025, 1));
    let output = small.tampu(&["firmware", "add", utf8(&large), "--for", "boards", "--version", "1"]);
    assert!(!output.status.success() && text(&output).contains("firmware.max_image"), "{output:?}");
    assert!(small.tampu_with(&["firmware", "list"], "").contains("no release yet"));
}

/// A request to the REST API; the status, and the JSON that comes back.
fn rest(gateway: &Gateway, token: &str, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
    let status = gateway.home.status().unwrap();
    let address: SocketAddr = status["more_listeners"]["api"].as_str().unwrap().parse().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "{method} /api/v1/firmware/{path} HTTP/1.0\r\nHost: gw\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // Who is refused may be answered before all is sent.
    stream.write_all(body).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
}

#[test]
fn releases_are_managed_by_the_rest_api_too() {
    let gateway = Gateway::start(&format!("{SETTINGS}[api]\naddress = \"127.0.0.1:0\"\n"));
    let home = &gateway.home;
    let token =
        |scopes: &str| home.tampu_with(&["token", "create", scopes, "--scope", scopes], "").trim().to_owned();
    let (all, reader) = (token("firmware:read,firmware:write"), token("firmware:read"));
    eventually("the tokens are known", || {
        (rest(&gateway, &reader, "GET", "releases", b"").0 == 200).then_some(())
    });
    let image = image(300_000, 9);
    let add = "releases?for=boards&version=3.1&rollout=board-1";
    assert_eq!(rest(&gateway, &reader, "POST", add, &image).0, 403, "its scope is missing");
    eventually("the other token is known", || {
        (rest(&gateway, &all, "GET", "releases", b"").0 == 200).then_some(())
    });
    let (status, made) = rest(&gateway, &all, "POST", add, &image);
    assert_eq!(
        (status, &made["id"], &made["bytes"]),
        (201, &Value::from(1), &Value::from(300_000)),
        "{made}"
    );
    let (status, again) = rest(&gateway, &all, "POST", add, &image);
    assert_eq!((status, &again), (201, &made), "the same image is the same release");
    for (add, body, wanted) in [
        ("releases?for=boards&version=3", &b"#!/bin/sh"[..], 422),
        ("releases?for=boards", &image, 400),
        ("releases?for=boards&version=two%20words", &image, 422),
        ("releases?for=boards&version=3&md5=00000000000000000000000000000000", &image, 422),
        ("releases?for=boards&version=3", b"", 422),
    ] {
        let (status, problem) = rest(&gateway, &all, "POST", add, body);
        assert_eq!(status, wanted, "{add}: {problem}");
        assert!(problem["detail"].is_string(), "{problem}");
    }

    let credentials = home.device("board-2");
    let (address, tls) = (firmware_address(&gateway), credentials.tls());
    let fetch = || ask(address, &tls, &httpupdate("0", ""));
    eventually("it is not its turn", || fetch().0.starts_with("http/1.0 304 ").then_some(()));
    let promoted = rest(&gateway, &all, "POST", "releases/1/promote", b"{}");
    assert_eq!(promoted.0, 415, "{promoted:?}");
    home.tampu_with(&["firmware", "promote", "1"], "");
    eventually("it is its turn", || (fetch().1 == image).then_some(()));
    eventually("what was sent is known", || {
        let (_, devices) = rest(&gateway, &reader, "GET", "devices", b"");
        let board = devices["items"].as_array()?.iter().find(|it| it["device"] == "board-2")?;
        (board["state"]["offers"]["program"]["sent"] == 300_000).then_some(())
    });
    assert_eq!(rest(&gateway, &all, "POST", "releases/1/rollback", b"").1["rolled_back"], true);
    assert_eq!(rest(&gateway, &all, "DELETE", "releases/1", b"").0, 200);
    assert_eq!(rest(&gateway, &all, "GET", "releases/1", b"").0, 404);
    assert_eq!(rest(&gateway, &all, "GET", "releases", b"").1["items"], Value::Array(Vec::new()));
    eventually("it is in the audit log", || {
        let audit = home.tampu_with(&["audit", "--reason", "firmware rollback"], "");
        audit.contains("release 1: 3.1 for boards").then_some(())
    });
}
