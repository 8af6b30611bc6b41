//! Passwords, API keys and tokens, and what ends them while the gateway runs.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rumqttc::{ConnectReturnCode, ConnectionError};

use crate::harness::Gateway;
use crate::harness::mqtt::{Device, without_certificate};

const EVERYBODY: &str = "[listener]\nidentities = [\"certificate\", \"api_key\", \"password\"]\n";

/// The CA of a gateway, for devices that have no certificate of it.
fn ca(gateway: &Gateway) -> PathBuf {
    gateway.home.path("data/pki/ca.pem")
}

fn login(gateway: &Gateway, user: &str, password: &str) -> Result<Device, ConnectionError> {
    let tls = without_certificate(&ca(gateway));
    Device::try_login(gateway.address, Some(&tls), user, Some((user, password)))
}

fn refusal(login: Result<Device, ConnectionError>) -> ConnectReturnCode {
    match login.map(|_| ()) {
        Err(ConnectionError::ConnectionRefused(code)) => code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_password_lets_a_device_in_until_it_is_another_one() {
    let gateway = Gateway::start(EVERYBODY);
    assert_eq!(refusal(login(&gateway, "plug", "tulip")), ConnectReturnCode::BadUserNamePassword);
    gateway.home.tampu_with(&["user", "set", "plug"], "tulip\n");
    gateway
        .wait_for_log("the change is seen", |line| line.text().contains("registry's changes are in force"));
    let mut plug = login(&gateway, "plug", "tulip").unwrap();
    plug.publish("plug/readings", "{\"t\":1}");
    assert_eq!(refusal(login(&gateway, "plug", "rose")), ConnectReturnCode::BadUserNamePassword);
    gateway.wait_for_refusal("password_wrong");

    gateway.home.tampu_with(&["user", "set", "plug"], "rose\n");
    plug.wait_until_closed();
    gateway.wait_for_refusal("credential_revoked");
    let mut plug = login(&gateway, "plug", "rose").unwrap();
    gateway.home.tampu_with(&["user", "delete", "plug"], "");
    plug.wait_until_closed();
    assert_eq!(refusal(login(&gateway, "plug", "rose")), ConnectReturnCode::BadUserNamePassword);
    let log = gateway.home.log();
    assert!(!log.contains("tulip") && !log.contains("rose"), "a password is in the log");
}

#[test]
fn an_api_key_lets_a_device_in_until_it_is_revoked() {
    let gateway = Gateway::start(EVERYBODY);
    let key = gateway.home.tampu_with(&["key", "add", "plug", "--expires", "90d"], "");
    let key = key.trim();
    let id = &key[6..14];
    gateway
        .wait_for_log("the change is seen", |line| line.text().contains("registry's changes are in force"));
    let mut plug = login(&gateway, "plug", key).unwrap();
    plug.publish("plug/readings", "{\"t\":1}");
    let listed = gateway.home.tampu_with(&["key", "list"], "");
    assert!(listed.contains(id) && !listed.contains(key), "{listed}");

    let next = gateway.home.tampu_with(&["key", "rotate", id], "");
    plug.wait_until_closed();
    assert_eq!(refusal(login(&gateway, "plug", key)), ConnectReturnCode::BadUserNamePassword);
    login(&gateway, "plug", next.trim()).unwrap();
    assert!(!gateway.home.log().contains(key), "a key is in the log");
    assert!(
        !gateway.home.tampu(&["key", "revoke", id]).status.success(),
        "there is none of this id any more"
    );
}

pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A token for this device that expires so long after now.
fn token(device: &str, left: Duration) -> String {
    signed_token(device, SystemTime::now() + left)
}

/// A token for this device that expires at this time.
pub(crate) fn signed_token(device: &str, expires: SystemTime) -> String {
    let expires = expires.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = serde_json::json!({ "sub": device, "exp": expires, "publ": ["site/${clientid}"] });
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let text = format!("{}.{}", part("{\"alg\":\"HS256\"}"), part(&claims.to_string()));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, text.as_bytes())))
}

#[test]
fn a_token_lets_its_client_in_where_it_says_and_until_it_expires() {
    let settings = format!(
        "[listener]\nidentities = [\"jwt\"]\n[[jwt]]\nname = \"cloud\"\nalgorithm = \"HS256\"\n\
         secret = {SECRET:?}\nleeway = \"0s\"\n[clock]\nsource = \"trusted\"\n"
    );
    let gateway = Gateway::start(&settings);
    let mut plug = login(&gateway, "plug", &token("plug", Duration::from_secs(8))).unwrap();
    plug.publish("site/plug", "{}");
    let hour = Duration::from_secs(3_600);
    assert_eq!(
        refusal(login(&gateway, "lamp", &token("plug", hour))),
        ConnectReturnCode::BadUserNamePassword
    );
    let mut other = login(&gateway, "lamp", &token("lamp", hour)).unwrap();
    assert!(other.try_publish("lamp/x", "{}").is_err(), "the token lists what it may, and this is not in it");
    plug.wait_until_closed();
    gateway.wait_for_refusal("token_expired");
    assert!(!gateway.home.log().contains("eyJ"), "a token is in the log");
}
