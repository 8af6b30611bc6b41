//! The message gateway: rumqttc as a phone, the REST API as who sends through it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use rumqttc::mqttbytes::v4::SubscribeReasonCode;
use rumqttc::{ConnectReturnCode, ConnectionError, QoS};
use serde_json::{Value, json};

use crate::harness::mqtt::{Device, without_certificate};
use crate::harness::{Gateway, Home, PATIENCE, eventually, text};

const SETTINGS: &str = "[gateway]\nprofile = \"message-gateway\"\n[listener]\nidentities = [\"api_key\"]\n\
                        [messages]\ngood_for = \"1h\"\nbackoff = \"1s\"\n[api]\ncommands_per_minute = 100\n";
const PHONE: &str = "+447700900123";

/// The API of a gateway, with a token that may do everything.
struct Api {
    address: SocketAddr,
    token: String,
}

impl Api {
    fn of(gateway: &Gateway) -> Self {
        let token = gateway.home.tampu_with(&["token", "create", "tests", "--scope", "all"], "");
        Self::again(gateway, token.trim().to_owned())
    }

    /// After a restart, with a token from before.
    fn again(gateway: &Gateway, token: String) -> Self {
        let address = gateway.wait_for_status("the API", |status| {
            status["more_listeners"]["api"].as_str().map(|address| address.parse().unwrap())
        });
        let api = Self { address, token };
        eventually("the token is in force", || (api.ask("GET", "/devices", None).0 == 200).then_some(()));
        api
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let mut stream = TcpStream::connect(self.address).expect("the API listens");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: gw\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.ask("POST", path, Some(body));
        assert_eq!(status, 201, "{path}: {answer}");
        answer
    }

    fn send(&self, text: &str, device: Option<&str>) -> Value {
        let mut body = json!({ "phone": PHONE, "message": text });
        if let Some(device) = device {
            body["device"] = device.into();
        }
        self.post("/messages/create", &body)
    }

    fn wait_until_delivered(&self, message: &Value) {
        let path = format!("/messages/{}", message["id"].as_str().unwrap());
        eventually("it is delivered", || {
            (self.ask("GET", &path, None).1["state"] == "delivered").then_some(())
        });
    }

    /// A device with a key, which is returned.
    fn phone(&self, id: &str) -> String {
        let made = self.post("/devices", &json!({ "id": id }));
        made["api_key"]["key"].as_str().unwrap().to_owned()
    }
}

fn try_login(gateway: &Gateway, client_id: &str, key: &str) -> Result<Device, ConnectionError> {
    let tls = without_certificate(&gateway.home.path("data/pki/ca.pem"));
    Device::try_login(gateway.address, Some(&tls), client_id, Some((&key[6..14], key)))
}

/// A phone that is let in and listens to what it may.
fn login(gateway: &Gateway, client_id: &str, key: &str) -> Device {
    let mut phone = eventually("the key is in force", || try_login(gateway, client_id, key).ok());
    let topics = [format!("server/auth/{key}"), format!("devices/{key}/sms")];
    let granted = phone.subscribe(&topics.each_ref().map(|topic| (topic.as_str(), QoS::AtLeastOnce)));
    assert_eq!(granted, [SubscribeReasonCode::Success(QoS::AtLeastOnce); 2]);
    phone
}

fn announce(phone: &mut Device, client_id: &str, key: &str) -> Value {
    phone.publish(&format!("devices/auth/{key}"), client_id);
    let answer = phone.receive();
    assert_eq!(answer.topic, format!("server/auth/{key}"));
    serde_json::from_slice(&answer.payload).unwrap()
}

fn received(phone: &mut Device) -> (String, String) {
    let message = phone.receive();
    (message.topic, String::from_utf8(message.payload.to_vec()).unwrap())
}

/// What of a key is secret.
fn secret(key: &str) -> &str {
    &key["tampu_12345678_".len()..]
}

/// No file of the gateway, its log and its audit log among them, holds the secret part of a key.
fn assert_nowhere(home: &Home, key: &str) {
    fn look(directory: &Path, secret: &[u8]) {
        for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                look(&entry.path(), secret);
            } else if entry.file_type().unwrap().is_file() {
                let bytes = std::fs::read(entry.path()).unwrap();
                let found = bytes.windows(secret.len()).any(|window| window == secret);
                assert!(!found, "a key is in {}", entry.path().display());
            }
        }
    }
    look(&home.path(""), secret(key).as_bytes());
}

#[test]
fn a_phone_announces_itself_is_answered_and_is_given_a_message() {
    let gateway = Gateway::start(SETTINGS);
    let api = Api::of(&gateway);
    let key = api.phone("phone-1");
    let (status, problem) =
        api.ask("POST", "/messages/create", Some(&json!({ "phone": PHONE, "message": "x" })));
    assert_eq!((status, problem["type"].as_str()), (409, Some("urn:tampu:problem:conflict")), "{problem}");

    let mut phone = login(&gateway, "galaxy", &key);
    let other = announce(&mut phone, "nexus", &key);
    assert_eq!(other["status"], "refused", "{other}");
    gateway.wait_for_refusal("announcement_wrong");
    assert_eq!(announce(&mut phone, "galaxy", &key), json!({ "status": "ok", "device": "phone-1" }));
    let listed = api.ask("GET", "/devices", None).1;
    assert_eq!(
        (&listed["items"][0]["id"], &listed["items"][0]["announced"]),
        (&json!("phone-1"), &json!(["galaxy"]))
    );

    let message = api.send("Your code: 1234", None);
    assert_eq!(received(&mut phone), (format!("devices/{key}/sms"), format!("{PHONE}:Your code: 1234")));
    api.wait_until_delivered(&message);
    let listed = api.ask("GET", "/messages?state=delivered&device=phone-1", None).1;
    assert_eq!((&listed["items"][0]["id"], listed["items"].as_array().unwrap().len()), (&message["id"], 1));
    let commands = api.ask("GET", "/api/v1/commands", None).1;
    assert_eq!(commands["items"][0]["topic"], "devices/phone-1/sms");

    drop(phone);
    eventually("it is gone", || {
        (api.ask("GET", "/devices", None).1["items"][0]["announced"] == json!([])).then_some(())
    });
    let (_, home) = gateway.terminate();
    assert_nowhere(&home, &key);
}

#[test]
fn a_message_waits_for_its_phone_through_a_kill_and_comes_with_the_new_key() {
    let gateway = Gateway::start(SETTINGS);
    let api = Api::of(&gateway);
    let old = api.phone("phone-1");
    let waiting = api.send("waits", Some("phone-1"));
    let token = api.token;
    let gateway = gateway.kill().start();
    let api = Api::again(&gateway, token.clone());
    let made = api.post(&format!("/devices/phone-1/api-keys/{}/rotate", &old[6..14]), &json!({}));
    let key = made["key"].as_str().unwrap();
    let mut phone = login(&gateway, "galaxy", key);
    assert_eq!(received(&mut phone), (format!("devices/{key}/sms"), format!("{PHONE}:waits")));
    api.wait_until_delivered(&waiting);
    match try_login(&gateway, "galaxy-2", &old).map(|_| ()) {
        Err(ConnectionError::ConnectionRefused(ConnectReturnCode::BadUserNamePassword)) => {}
        other => panic!("the old key is good: {other:?}"),
    }
    // What is answered with 201 is on disk, and with it all that was before it.
    api.phone("phone-2");
    api.send("for another", Some("phone-2"));
    drop(phone);

    let gateway = gateway.kill().start();
    let api = Api::again(&gateway, token);
    let mut phone = login(&gateway, "galaxy", key);
    api.send("next", Some("phone-1"));
    assert_eq!(received(&mut phone).1, format!("{PHONE}:next"), "what was delivered is not repeated");
    let home = gateway.kill();
    assert_nowhere(&home, &old);
    assert_nowhere(&home, key);
}

#[test]
fn a_device_uses_the_topics_with_its_own_key_alone_and_others_are_written_down_by_their_ids() {
    let gateway = Gateway::start(SETTINGS);
    let api = Api::of(&gateway);
    let (own, other) = (api.phone("phone-1"), api.phone("phone-2"));
    let mut phone = login(&gateway, "galaxy", &own);
    let topics = [
        format!("devices/{other}/sms"),
        format!("server/auth/{other}"),
        format!("$share/all/devices/{other}/sms"),
        "devices/phone-1/sms".to_owned(),
        "devices/+/sms".to_owned(),
        "#".to_owned(),
    ];
    let granted = phone.subscribe(&topics.each_ref().map(|topic| (topic.as_str(), QoS::AtLeastOnce)));
    assert_eq!(granted, [SubscribeReasonCode::Failure; 6]);
    gateway.wait_for_refusal("subscribe_not_allowed");
    assert!(phone.try_publish(&format!("devices/auth/{other}"), "galaxy").is_err(), "3.1.1 has no other no");
    gateway.wait_for_refusal("publish_not_allowed");

    let wrong = format!("{}{}", &own[..own.len() - 4], if own.ends_with("AAAA") { "BBBB" } else { "AAAA" });
    assert!(try_login(&gateway, "thief", &wrong).is_err());
    gateway.wait_for_refusal("api_key_wrong");
    let written = eventually("it is audited", || {
        let written = gateway.home.tampu_with(&["audit", "--json"], "");
        ["subscribe_not_allowed", "publish_not_allowed", "api_key_wrong"]
            .iter()
            .all(|reason| written.contains(reason))
            .then_some(written)
    });
    assert!(written.contains(&format!("devices/tampu_{}_…/sms", &other[6..14])), "{written}");
    for (key, may) in [(&own, true), (&other, false)] {
        let topic = format!("devices/{key}/sms");
        let said =
            gateway.home.tampu(&["acl", "test", "phone-1", "subscribe", &topic, "--identity", "api_key"]);
        assert_eq!(said.status.success(), may, "{said:?}");
        assert!(!text(&said).contains(secret(key)), "{said:?}");
    }
    let home = gateway.kill();
    assert_nowhere(&home, &own);
    assert_nowhere(&home, &other);
    assert_nowhere(&home, &wrong);
}

#[test]
fn a_key_that_expires_puts_its_phone_out() {
    let gateway = Gateway::start(SETTINGS);
    let api = Api::of(&gateway);
    let lasting = api.phone("phone-1");
    let made = api.post("/devices/phone-1/api-keys", &json!({ "expires_in": 20 }));
    let brief = made["key"].as_str().unwrap();
    let mut phone = login(&gateway, "galaxy", brief);
    phone.wait_until_closed();
    assert!(try_login(&gateway, "galaxy", brief).is_err());
    let keys = api.ask("GET", "/devices/phone-1/api-keys", None).1;
    assert_eq!(keys.as_array().unwrap().len(), 2, "{keys}");
    api.send("still there", Some("phone-1"));
    let mut phone = login(&gateway, "galaxy", &lasting);
    assert_eq!(received(&mut phone).1, format!("{PHONE}:still there"));
}

#[test]
fn what_cannot_be_sent_is_said_with_what_would_be_right() {
    let gateway = Gateway::start(SETTINGS);
    let api = Api::of(&gateway);
    api.phone("phone-1");
    let refused = |body: Value, expected: u16, word: &str| {
        let (status, problem) = api.ask("POST", "/messages/create", Some(&body));
        assert_eq!(status, expected, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(word), "{word}: {problem}");
    };
    refused(json!({ "phone": "call me", "message": "x" }), 422, "+447700900123");
    refused(json!({ "phone": PHONE, "message": "" }), 422, "empty");
    refused(json!({ "phone": PHONE, "message": "x".repeat(1_601) }), 422, "messages.max_characters");
    refused(json!({ "phone": PHONE, "message": "a\u{0}b" }), 422, "control character");
    refused(json!({ "phone": PHONE, "message": "x", "device": "nobody" }), 404, "nobody");
    assert_eq!(api.ask("POST", "/devices", Some(&json!({ "id": "auth" }))).0, 422);
    assert_eq!(api.ask("POST", "/devices", Some(&json!({ "id": "phone-1" }))).0, 409);
    assert_eq!(api.ask("GET", "/messages/x", None).0, 404);
    let document = api.ask("GET", "/api/openapi.json", None).1;
    assert!(document["paths"]["/messages/create"]["post"].is_object());
}
