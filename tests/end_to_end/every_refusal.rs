//! Every reason to refuse something is met on its real path: it is counted, logged with who it was as far as that
//! is known, and written into the audit log.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::net::{AddressFamily, SocketType, bind, socket};
use serde_json::Value;
use time::Duration as Days;

use super::firmware::{ask, firmware_address, httpupdate};
use super::identities::{SECRET, signed_token};
use super::plain::address;
use crate::harness::authority::Authority;
use crate::harness::mqtt::{Credentials, Device, without_certificate};
use crate::harness::{Gateway, Home, PATIENCE, utf8};

/// Small bounds: they are to be reached.
const SETTINGS: &str = r#"
[listener]
max_connections_per_device = 1
connect_timeout = "3s"
handshake_timeout = "3s"
max_packet = "1 KiB"
max_subscriptions = 1

[websocket]
address = "127.0.0.1:0"

[plain]
address = "127.0.0.1:0"
identities = ["password", "api_key", "jwt"]

[limits]
max_reconnect_delay = "0s"
messages_per_second = 50
max_topic_bytes = 64

[retained]
max_messages = 1

[sessions]
max_kept = 1

[firmware]
address = "127.0.0.1:0"
"#;

/// Reasons that take a fault of the gateway, its disk or its clock, or a load that another test makes anyway; and
/// the test that meets each.
const ELSEWHERE: [(&str, &str); 9] = [
    ("TooManyHandshakes", "src/listener/tests/running.rs"),
    ("TlsUnavailable", "src/listener/tests/door.rs"),
    ("ClockNotSynchronized", "src/authorize/tests/tokens.rs"),
    ("PasswordsBusy", "src/authorize/tests/identities.rs"),
    ("not_ready", "src/broker/tests/kept_sessions.rs"),
    ("announcement_wrong", "tests/end_to_end/messages.rs"),
    ("will_lost", "src/broker/tests/wills.rs"),
    ("api_too_fast", "src/api/tests/faults.rs"),
    ("too_many_downloads", "src/firmware/tests/serving.rs"),
];

/// Of whom the log tells: the device that was shown, the one that was only said, the client id.
type Who = [Option<&'static str>; 3];

const NOBODY: Who = [None, None, None];
const BOB: Who = [Some("bob"), None, Some("phone")];

/// A reason, who was refused, and how it comes to that.
type Case = (&'static str, Who, fn(&Scene));

struct Scene {
    gateway: Gateway,
    plain: SocketAddr,
    authority: Authority,
    pump: Credentials,
    key: String,
    /// For the API; it is good for one thing.
    token: String,
}

impl Scene {
    fn start() -> Self {
        let home = Home::new("");
        let authority = Authority::create(&home.path("authority"), "greenhouse CA");
        let tokens = format!(
            "[[jwt]]\nname = \"cloud\"\nalgorithm = \"HS256\"\nsecret = {SECRET:?}\nleeway = \"0s\"\n"
        );
        home.configure(&format!("{}{SETTINGS}{tokens}", authority.settings()));
        let pump = home.device("pump");
        assert!(home.tampu(&["device", "revoke", "pump"]).status.success());
        for user in ["bob", "eve", "mallory"] {
            home.tampu_with(&["user", "set", user], "tulip\n");
        }
        assert!(home.tampu(&["device", "disable", "eve"]).status.success());
        let key = home.tampu_with(&["key", "add", "lamp"], "").trim().to_owned();
        let token =
            home.tampu_with(&["token", "create", "store", "--scope", "buffer:read"], "").trim().to_owned();
        let image = home.path("program.bin");
        std::fs::write(&image, [0xE9, 0, 0]).unwrap();
        home.tampu_with(&["firmware", "add", utf8(&image), "--for", "fan", "--version", "2"], "");
        let gateway = home.start();
        let plain = address(&gateway, "plain");
        Self { gateway, plain, authority, pump, key, token }
    }

    /// A device shows its certificate, and is not served.
    fn shows(&self, credentials: &Credentials) {
        let credentials = Credentials { ca: self.pump.ca.clone(), ..credentials.clone() };
        assert!(Device::try_connect(self.gateway.address, Some(&credentials.tls()), "esp").is_err());
    }

    fn device(&self, name: &str) -> Credentials {
        self.authority.device(name, Days::days(1))
    }

    fn forger(&self, name: &str) -> Credentials {
        Authority::create(&self.gateway.home.path(name), name).device("plug", Days::days(1))
    }

    /// Sends bytes, and waits for the end.
    fn sends(&self, to: SocketAddr, bytes: &[u8]) {
        wait_for_end(&mut open(to, bytes));
    }

    fn logs_in(&self, user: &str, password: &str) {
        self.sends(self.plain, &connect(4, 0xc2, 60, "phone", &[user, password]));
    }

    fn asks_the_api(&self, token: &str, path: &str) {
        let request = format!("GET {path} HTTP/1.0\r\nHost: gw\r\nAuthorization: Bearer {token}\r\n\r\n");
        self.sends(address(&self.gateway, "api"), request.as_bytes());
    }

    /// The fan asks for firmware, and does not get it.
    fn fan_asks(&self, request: &str) {
        let fan = Credentials { ca: self.pump.ca.clone(), ..self.device("fan") };
        let (head, body) = ask(firmware_address(&self.gateway), &fan.tls(), request);
        assert!(!head.contains(" 200 ") && body.len() < 100, "{head}");
    }

    /// Bob is let in, and does this.
    fn bob(&self, keep_alive: u16, then: &[u8]) -> TcpStream {
        let hello = connect(4, 0xc2, keep_alive, "phone", &["bob", "tulip"]);
        let mut stream = open(self.plain, &hello);
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).unwrap();
        assert_eq!(connack, [0x20, 2, 0, 0]);
        stream.write_all(then).unwrap();
        stream
    }

    /// Bob does this, and it is over when a ping is answered or the connection ended.
    fn bob_does(&self, then: &[u8]) {
        wait_for_end(&mut self.bob(60, &[then, b"\xe0\0"].concat()));
    }
}

fn open(to: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

fn wait_for_end(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end, too.
    if let Err(error) = stream.read_to_end(&mut rest) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{rest:02x?}");
    }
}

fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let length =
        if length < 128 { vec![length as u8] } else { vec![length as u8 | 0x80, (length >> 7) as u8] };
    [&[first][..], &length, body].concat()
}

fn connect(version: u8, flags: u8, keep_alive: u16, client_id: &str, fields: &[&str]) -> Vec<u8> {
    let mut body =
        [text("MQTT"), vec![version, flags], keep_alive.to_be_bytes().into(), text(client_id)].concat();
    fields.iter().for_each(|field| body.extend(text(field)));
    packet(0x10, &body)
}

fn publish(first: u8, topic: &str, payload: &str) -> Vec<u8> {
    packet(first, &[text(topic), payload.into()].concat())
}

fn subscribe(filters: &[&str]) -> Vec<u8> {
    let filters: Vec<_> = filters.iter().map(|filter| [text(filter), vec![0]].concat()).collect();
    packet(0x82, &[vec![0, 1], filters.concat()].concat())
}

fn in_an_hour() -> SystemTime {
    SystemTime::now() + Duration::from_secs(3_600)
}

/// At the TLS listener, before MQTT is spoken.
const AT_THE_DOOR: &[Case] = &[
    ("not_tls", NOBODY, |s| s.sends(s.gateway.address, b"\x10\x0d\0\x04MQTT")),
    ("tls_failed", NOBODY, |s| s.sends(s.gateway.address, b"\x16\x03\x01\0\x05hello")),
    ("handshake_aborted", NOBODY, |s| drop(open(s.gateway.address, b"\x16\x03\x01\x01\0"))),
    ("handshake_timeout", NOBODY, |s| s.sends(s.gateway.address, b"\x16\x03\x01\x01\0")),
    ("server_not_trusted", NOBODY, |s| {
        let stranger = s.forger("a CA that is no one's").tls();
        assert!(Device::try_connect(s.gateway.address, Some(&stranger), "esp").is_err());
    }),
    ("certificate_missing", NOBODY, |s| {
        let nobody = without_certificate(&s.pump.ca);
        assert!(Device::try_connect(s.gateway.address, Some(&nobody), "esp").is_err());
    }),
    ("certificate_unknown_issuer", [None, Some("plug"), None], |s| s.shows(&s.forger("other CA"))),
    ("certificate_invalid", [None, Some("plug"), None], |s| s.shows(&s.forger("greenhouse CA"))),
    ("certificate_expired", [None, Some("old"), None], |s| {
        s.shows(&s.authority.device("old", -Days::days(1)));
    }),
    ("certificate_revoked", [None, Some("pump"), None], |s| s.shows(&s.pump)),
    ("device_name_invalid", NOBODY, |s| s.shows(&s.device("#"))),
    ("too_many_connections_of_device", [Some("fan"), None, None], |s| {
        let fan = s.device("fan");
        let _first = Device::connect(s.gateway.address, &fan, "first");
        s.shows(&fan);
    }),
    ("websocket_refused", [Some("fan"), None, None], |s| {
        let socket = address(&s.gateway, "websocket");
        assert!(Device::try_connect(socket, Some(&s.device("fan").tls()), "esp").is_err());
    }),
];

/// From the first byte of MQTT to the CONNACK.
const AT_CONNECT: &[Case] = &[
    ("connect_timeout", NOBODY, |s| s.sends(s.plain, b"\x10")),
    ("protocol_version", NOBODY, |s| s.sends(s.plain, &connect(9, 2, 60, "phone", &[]))),
    ("client_id_invalid", NOBODY, |s| s.sends(s.plain, &connect(4, 0, 60, "", &[]))),
    ("authentication_method", [None, None, Some("phone")], |s| {
        let head = [&text("MQTT")[..], &[5, 2, 0, 60, 4, 0x15, 0, 1, b'x'], &text("phone")].concat();
        s.sends(s.plain, &packet(0x10, &head));
    }),
    ("identity_not_allowed", [None, None, Some("phone")], |s| {
        s.sends(s.plain, &connect(4, 2, 60, "phone", &[]));
    }),
    ("password_wrong", [None, Some("bob"), Some("phone")], |s| s.logs_in("bob", "rose")),
    ("api_key_wrong", [None, Some("lamp"), Some("phone")], |s| s.logs_in("bob", &format!("{}x", s.key))),
    ("token_wrong", [None, Some("lamp"), Some("phone")], |s| {
        s.logs_in("bob", &signed_token("lamp", in_an_hour()));
    }),
    ("token_expired", [None, Some("phone"), Some("phone")], |s| {
        s.logs_in("bob", &signed_token("phone", UNIX_EPOCH + Duration::from_secs(1_000_000_000)));
    }),
    ("device_disabled", [Some("eve"), None, Some("phone")], |s| s.logs_in("eve", "tulip")),
    ("too_many_sessions", BOB, |s| {
        let kept = |id| connect(4, 0xc0, 60, id, &["bob", "tulip"]);
        let mut first = open(s.plain, &kept("first"));
        first.read_exact(&mut [0; 4]).unwrap();
        s.sends(s.plain, &kept("phone"));
    }),
];

/// In a session.
const IN_SESSION: &[Case] = &[
    ("credential_revoked", [Some("mallory"), None, Some("phone")], |s| {
        let mut live = open(s.plain, &connect(4, 0xc2, 60, "phone", &["mallory", "tulip"]));
        live.read_exact(&mut [0; 4]).unwrap();
        s.gateway.home.tampu_with(&["user", "set", "mallory"], "rose\n");
        wait_for_end(&mut live);
    }),
    ("protocol_violation", BOB, |s| s.bob_does(b"\0\0")),
    ("packet_too_large", BOB, |s| s.bob_does(b"\x30\xff\xff\x7f")),
    ("publish_not_allowed", BOB, |s| s.bob_does(&publish(0x30, "eve/x", "!"))),
    ("subscribe_not_allowed", BOB, |s| s.bob_does(&subscribe(&["#"]))),
    ("subscribe_impossible", BOB, |s| s.bob_does(&subscribe(&["bob/a", "bob/b"]))),
    ("topic_too_long", BOB, |s| s.bob_does(&publish(0x30, &"bob/".repeat(20), "!"))),
    ("payload_unfit", BOB, |s| s.bob_does(&publish(0x30, "bob/readings", "{\"t\":nan}"))),
    ("retained_full", BOB, |s| {
        s.bob_does(&[publish(0x31, "bob/a", "!"), publish(0x31, "bob/b", "!")].concat());
    }),
    ("too_fast", BOB, |s| {
        let mut bob = s.bob(60, &b"\xc0\0".repeat(100));
        bob.read_exact(&mut [0; 200]).unwrap();
        bob.write_all(b"\xe0\0").unwrap();
        wait_for_end(&mut bob);
    }),
    ("keep_alive_expired", BOB, |s| wait_for_end(&mut s.bob(1, b""))),
    // The last one: the address is not believed for a while.
    ("too_many_wrong_passwords", [None, Some("bob"), Some("phone")], |s| {
        for n in 0..25 {
            s.logs_in("bob", &format!("rose {n}"));
        }
    }),
];

/// At the listeners for HTTP.
const OVER_HTTP: &[Case] = &[
    ("api_token_wrong", NOBODY, |s| s.asks_the_api("x", "/api/v1/buffer")),
    ("api_scope_missing", NOBODY, |s| s.asks_the_api(&s.token, "/api/v1/devices")),
    ("api_request_wrong", NOBODY, |s| s.asks_the_api(&s.token, "/api/v1/nothing")),
    ("firmware_not_allowed", [Some("fan"), None, None], |s| {
        s.fan_asks(&httpupdate("1", "").replace("/me", "/lamp"));
    }),
    ("firmware_unfit", [Some("fan"), None, None], |s| {
        s.fan_asks(&httpupdate("1", "").replace("1310720", "2"))
    }),
];

/// Connections of which no more is known than where they come from.
const TOO_MANY: [&str; 3] = ["too_many_connections", "too_many_connections_of_address", "too_many_connects"];

#[test]
fn every_refusal_is_counted_and_logged_and_recorded_with_who_it_was() {
    let scene = Scene::start();
    let cases: Vec<_> = [AT_THE_DOOR, AT_CONNECT, OVER_HTTP, IN_SESSION].concat();
    for (reason, _, provoke) in &cases {
        provoke(&scene);
        scene.gateway.wait_for_status(reason, |status| {
            (status["broker"]["refusals"][reason].as_u64()? > 0).then_some(())
        });
    }
    let reasons: Vec<String> = scene.gateway.wait_for_status("the reasons", |status| {
        Some(status["broker"]["refusals"].as_object()?.keys().cloned().collect())
    });
    let (status, home) = scene.gateway.terminate();
    assert!(status.success());
    for (reason, [device, claimed, client_id], _) in &cases {
        let who = [("device", device), ("claimed", claimed), ("client_id", client_id)];
        let is_it = |entry: &Value| who.iter().all(|(field, wanted)| entry[*field].as_str() == **wanted);
        let entries = audited(&home, &["--reason", reason]);
        assert!(entries.iter().any(is_it), "{reason}: {who:?} is not in {entries:#?}");
        let logged = logged(&home, reason);
        // The client id is quoted there: it is what its client likes.
        let quoted = client_id.map(|id| format!("{id:?}"));
        let who = [("device", *device), ("claimed", *claimed), ("client_id", quoted.as_deref())];
        let is_it = |line: &Value| who.iter().all(|(field, wanted)| line[*field].as_str() == *wanted);
        assert!(logged.iter().any(is_it), "{reason}: {who:?} is not in {logged:#?}");
        for name in [device, claimed].into_iter().flatten() {
            assert!(
                !audited(&home, &["--reason", reason, "--device", name]).is_empty(),
                "{reason}: --device {name}"
            );
        }
    }
    every_reason_is_met(&reasons, &cases);
}

#[test]
fn connections_that_are_too_many_are_counted_and_logged_and_recorded() {
    let gateway = Gateway::start(
        "[listener]\nmax_connections = 2\nmax_connections_per_address = 1\n\
         [limits]\nconnects_per_second = 1\nconnect_burst = 20\n",
    );
    // Two of the second address, a third address, and then many.
    let from = [1, 2, 2, 3].into_iter().chain([1; 30]);
    let _open: Vec<_> = from.map(|host| tcp(Ipv4Addr::new(127, 0, 0, host), gateway.address)).collect();
    gateway.wait_for_status("all three", |status| {
        let count = |reason| status["broker"]["refusals"][reason].as_u64().unwrap_or_default();
        TOO_MANY.iter().all(|reason| count(*reason) > 0).then_some(())
    });
    let (_, home) = gateway.terminate();
    for reason in TOO_MANY {
        let entries = audited(&home, &["--reason", reason]);
        assert!(entries.iter().any(|entry| entry["peer"].is_string()), "{reason}: {entries:?}");
        assert!(!logged(&home, reason).is_empty(), "{reason}");
    }
}

/// A connection from an address of this machine.
fn tcp(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let SocketAddr::V4(to) = to else { panic!("{to} is not on this machine") };
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddrV4::new(from, 0)).unwrap();
    rustix::net::connect(&socket, &to).unwrap();
    socket.into()
}

fn audited(home: &Home, arguments: &[&str]) -> Vec<Value> {
    let output = home.tampu(&[&["audit", "--json"], arguments].concat());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn logged(home: &Home, reason: &str) -> Vec<Value> {
    let log = home.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["reason"] == reason).collect()
}

/// By the tables above, or by the test that is named.
fn every_reason_is_met(reasons: &[String], cases: &[Case]) {
    let mut met: BTreeMap<String, usize> = BTreeMap::new();
    let here = cases.iter().map(|(reason, ..)| *reason).chain(TOO_MANY);
    here.for_each(|reason| *met.entry(reason.replace('_', "")).or_default() += 1);
    for (reason, file) in ELSEWHERE {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        assert!(
            std::fs::read_to_string(&file).unwrap().contains(reason),
            "{reason} is not in {}",
            file.display()
        );
        *met.entry(reason.to_lowercase().replace('_', "")).or_default() += 1;
    }
    for reason in reasons {
        assert_eq!(met.remove(&reason.replace('_', "")), Some(1), "{reason}");
    }
    assert!(met.is_empty(), "{met:?} are no reasons");
}
