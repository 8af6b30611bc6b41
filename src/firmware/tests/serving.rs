//! The service on a loopback socket, with the requests of the three updaters byte for byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tower::ServiceExt as _;

use super::*;
use crate::authorize::refusals::Refusals;
use crate::authorize::{Authenticator, Authorizer, Devices, TokenKeys};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::firmware::service::{Firmware, Parts};
use crate::message::CertificateId;
use crate::tasks::{Stage, Tasks};
use crate::web::{self, Peer};

const PATIENCE: Duration = Duration::from_secs(60);
const SETTINGS: &str =
    "[firmware]\naddress = \"127.0.0.1:0\"\n[[group]]\nname = \"all\"\ndevices = [\"thermo\", \"lamp\"]\n";

struct World {
    _dir: TempDir,
    firmware: Firmware,
    rules: watch::Sender<Authorizer>,
    refusals: Refusals,
    address: SocketAddr,
    /// Of `thermo`.
    key: String,
    _tasks: Tasks,
}

impl World {
    async fn new() -> Self {
        Self::with(SETTINGS, PATIENCE).await
    }

    /// `stall`: so long a device may take nothing.
    async fn with(settings: &str, stall: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::from_toml(settings).unwrap_or_else(|invalid| panic!("{invalid}"));
        let clock =
            Clock::start(&config::Clock::default(), &dir.path().join("floor"), Default::default()).unwrap();
        let mut devices = Devices::default();
        let new = devices.add_key(&device("thermo"), OffsetDateTime::UNIX_EPOCH, None).unwrap();
        let authorizer = Authorizer::with(
            &config.access,
            &config.streams,
            Arc::new(devices),
            Arc::new(TokenKeys::default()),
        );
        let (rules, refusals) = (watch::Sender::new(authorizer), Refusals::default());
        let firmware = Firmware::open(Parts {
            settings: config.firmware,
            room: ROOM,
            data_dir: dir.path().to_owned(),
            authenticator: Authenticator::new(clock.clone()),
            rules: rules.subscribe(),
            refusals: refusals.clone(),
            clock,
        });
        let limits =
            web::Limits { connections: 300, connections_per_address: 300, stall, ..web::Limits::default() };
        let server =
            web::Server::bind("127.0.0.1:0".parse().unwrap(), None, limits, refusals.clone()).unwrap();
        let (address, tasks) = (server.local_addr().unwrap(), Tasks::default());
        let accepting = tasks.spawner(Stage::Listener);
        let cancel = accepting.cancelled().clone();
        accepting
            .essential("firmware", server.run(firmware.router(), tasks.spawner(Stage::Sessions), cancel));
        Self {
            _dir: dir,
            firmware,
            rules,
            refusals,
            address,
            key: new.key.expose().to_owned(),
            _tasks: tasks,
        }
    }

    /// Adds a release, which is in force when this returns.
    fn add(&self, image: &[u8], new: NewRelease) -> Release {
        let release = add(self.firmware.store(), image, new).unwrap();
        self.look();
        release
    }

    fn look(&self) {
        self.firmware.0.look();
    }

    /// What follows the user agent in a request that shows the key of `thermo`.
    fn authorization(&self) -> String {
        format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("thermo:{}", self.key)))
    }

    /// As `HTTPUpdate` of the ESP32 core 2.0 writes it. `more`: from the version on.
    fn esp32(&self, mode: &str, more: &str) -> String {
        format!(
            "GET /firmware/me HTTP/1.0\r\nHost: 192.0.2.1:8485\r\nUser-Agent: ESP32-http-Update\r\nConnection: close\r\n\
             {}Cache-Control: no-cache\r\nx-ESP32-STA-MAC: 24:6F:28:AE:52:7C\r\nx-ESP32-AP-MAC: 24:6F:28:AE:52:7D\r\n\
             x-ESP32-free-space: 1310720\r\nx-ESP32-sketch-size: 992064\r\n\
             x-ESP32-sketch-md5: 2d0e8a76ec4b7ca9ae0bc4ab3eba9f62\r\n\
             x-ESP32-sketch-sha256: 0E7C4F6C0A5F7B1B52C2A9C4D7B7A7E3F0B8D4C1A2E5968778695A4B3C2D1E0F\r\n\
             x-ESP32-chip-size: 4194304\r\nx-ESP32-sdk-version: v4.4.7-dirty\r\nx-ESP32-mode: {mode}\r\n{more}\r\n",
            self.authorization()
        )
    }

    /// As `ESPhttpUpdate` of the ESP8266 core 3 writes it.
    fn esp8266(&self, more: &str) -> String {
        format!(
            "GET /firmware/thermo HTTP/1.0\r\nHost: 192.0.2.1:8485\r\nUser-Agent: ESP8266-http-Update\r\n\
             Connection: close\r\n{}x-ESP8266-Chip-ID: 9152514\r\nx-ESP8266-STA-MAC: 5C:CF:7F:8B:A8:02\r\n\
             x-ESP8266-AP-MAC: 5E:CF:7F:8B:A8:02\r\nx-ESP8266-free-space: 2818048\r\nx-ESP8266-sketch-size: 325632\r\n\
             x-ESP8266-sketch-md5: 8a6d9d1e7a0bb2b2a9a1c9bb9b7e6ad3\r\nx-ESP8266-chip-size: 4194304\r\n\
             x-ESP8266-sdk-version: 2.2.2-dev(38a443e)\r\nx-ESP8266-mode: sketch\r\n{more}\r\n",
            self.authorization()
        )
    }

    /// As `esp_http_client` writes it for `esp_https_ota`.
    fn idf(&self, method: &str, more: &str) -> String {
        format!(
            "{method} /firmware/thermo HTTP/1.1\r\nUser-Agent: ESP32 HTTP Client/1.0\r\nHost: 192.0.2.1:8485\r\n{}{more}\
             Content-Length: 0\r\n\r\n",
            self.authorization()
        )
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn ask(&self, request: &str) -> Answer {
        let mut stream = self.connect().await;
        let answer = Answer::of(&mut stream, request).await;
        if answer.status_line.starts_with("HTTP/1.0") {
            let mut rest = Vec::new();
            tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
            assert_eq!(rest, b"", "the connection is closed behind the answer");
        }
        answer
    }

    /// A request of a device with a certificate.
    async fn by_certificate(&self, name: &str, path: &str) -> StatusCode {
        let id = CertificateId { issuer: "CN=ca".to_owned(), serial: "01".to_owned() };
        let peer = Peer {
            address: "192.0.2.7:4711".parse().unwrap(),
            certificate: Some((device(name), id)),
            tls: true,
        };
        let request = Request::get(path).extension(peer).body(Body::empty()).unwrap();
        self.firmware.router().oneshot(request).await.unwrap().status()
    }

    /// Waits until what is known of `thermo` is so.
    async fn wait_for_state(&self, what: &str, is_it: impl Fn(&DeviceState) -> bool) {
        let looking = async {
            while !self
                .firmware
                .states()
                .iter()
                .any(|(name, state)| name.as_str() == "thermo" && is_it(state))
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, looking).await;
        assert!(found.is_ok(), "{what}: {:?}", self.firmware.states());
    }
}

/// An answer, read as the updaters read it.
struct Answer {
    status_line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    async fn of(stream: &mut TcpStream, request: &str) -> Self {
        stream.write_all(request.as_bytes()).await.unwrap();
        tokio::time::timeout(PATIENCE, Self::read(stream, request)).await.expect("it comes")
    }

    async fn read(stream: &mut TcpStream, request: &str) -> Self {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status_line = lines.next().unwrap().to_owned();
        let split = |line: &str| {
            line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        };
        let headers = lines.map(|line| split(line).unwrap()).collect();
        let mut answer = Self { status_line, headers, body: Vec::new() };
        assert_eq!(answer.header("transfer-encoding"), None, "no updater of Arduino takes chunks");
        assert_eq!(answer.header("location"), None);
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        if !request.starts_with("HEAD") && answer.code() != 304 {
            answer.body = vec![0; length];
            stream.read_exact(&mut answer.body).await.unwrap();
        }
        answer
    }

    /// As the Arduino cores take it: what follows `HTTP/1.x `.
    fn code(&self) -> u16 {
        assert!(self.status_line.starts_with("HTTP/1."));
        self.status_line[9..12].parse().unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    fn is_image(&self, image: &[u8], release: &Release) {
        assert_eq!((self.code(), self.body.len()), (200, image.len()));
        assert!(self.body == image, "it is another image");
        assert_eq!(self.header("x-md5"), Some(release.image.md5.to_string().as_str()));
        assert_eq!(self.header("content-length"), Some(image.len().to_string().as_str()));
    }
}

#[tokio::test]
async fn the_updater_of_the_esp32_core_gets_a_whole_image_and_then_304() {
    let world = World::new().await;
    let image = described("2.0", "thermometer", 300_000);
    let release = world.add(&image, new_release("all", "2.0"));
    let answer = world.ask(&world.esp32("sketch", "x-ESP32-version: 1.0\r\n")).await;
    answer.is_image(&image, &release);
    assert_eq!(
        (answer.status_line.as_str(), answer.header("connection")),
        ("HTTP/1.0 200 OK", Some("close"))
    );
    world
        .wait_for_state("it was sent all of it", |state| {
            let offered = &state.offers[&Kind::Program];
            offered.is_complete() && !offered.runs && state.version.as_ref().unwrap().as_str() == "1.0"
        })
        .await;

    let answer = world.ask(&world.esp32("sketch", "x-ESP32-version: 2.0\r\n")).await;
    assert_eq!(answer.status_line, "HTTP/1.0 304 Not Modified");
    world.wait_for_state("it has it", |state| state.offers[&Kind::Program].runs).await;
    let without_version =
        world.esp32("sketch", "").replace("2d0e8a76ec4b7ca9ae0bc4ab3eba9f62", &release.image.md5.to_string());
    assert_eq!(world.ask(&without_version).await.code(), 304, "by its digest alone");
    let figures = world.firmware.figures();
    assert_eq!((figures.sent, figures.completed, figures.not_modified), (1, 1, 2));
}

#[tokio::test]
async fn the_updater_of_the_esp8266_core_gets_compressed_images_too() {
    let world = World::new().await;
    let mut image = vec![0x55; 70_000];
    image[..2].copy_from_slice(&[0x1F, 0x8B]);
    let release = world.add(&image, new_release("thermo", "7"));
    world.ask(&world.esp8266("x-ESP8266-version: 6\r\n")).await.is_image(&image, &release);
    assert_eq!(world.ask(&world.esp8266("x-ESP8266-version: 7\r\n")).await.code(), 304);
    assert_eq!(world.ask(&world.esp32("sketch", "")).await.code(), 304, "it could not unpack it");
    assert_eq!(world.refusals.counts()["firmware_unfit"], 1);
    world
        .wait_for_state("why", |state| state.problem.as_ref().is_some_and(|why| why.contains("compressed")))
        .await;
}

#[tokio::test]
async fn a_file_system_and_a_program_are_different_things() {
    let world = World::new().await;
    let (data, program) = (vec![7; 10_000], described("1", "x", 100));
    let data_release = world.add(&data, NewRelease { kind: Kind::FileSystem, ..new_release("all", "1") });
    assert_eq!(world.ask(&world.esp32("sketch", "")).await.code(), 404);
    let program_release = world.add(&program, new_release("all", "1"));
    world.ask(&world.esp32("sketch", "")).await.is_image(&program, &program_release);
    world.ask(&world.esp32("spiffs", "")).await.is_image(&data, &data_release);
}

#[tokio::test]
async fn esp_https_ota_gets_a_whole_image_after_it_was_asked_who_it_is() {
    let world = World::new().await;
    let image = described("2.0", "thermometer", 50_000);
    let release = world.add(&image, new_release("all", "2.0"));
    let nameless = world.idf("GET", "").replace(&world.authorization(), "");
    let answer = world.ask(&nameless).await;
    assert_eq!((answer.code(), answer.header("www-authenticate")), (401, Some("Basic realm=\"firmware\"")));
    let answer = world.ask(&world.idf("GET", "")).await;
    answer.is_image(&image, &release);
    assert_eq!(answer.header("x-version"), Some("2.0"));
    let tag = format!("If-None-Match: {}\r\n", answer.header("etag").unwrap());
    assert_eq!(world.ask(&world.idf("GET", &tag)).await.code(), 304);
}

#[tokio::test]
async fn esp_https_ota_gets_an_image_in_parts_over_one_connection() {
    let world = World::new().await;
    let image = described("2.0", "thermometer", 50_000);
    world.add(&image, new_release("all", "2.0"));
    let mut stream = world.connect().await;
    let head = Answer::of(&mut stream, &world.idf("HEAD", "")).await;
    let length: usize = head.header("content-length").unwrap().parse().unwrap();
    assert_eq!((head.code(), length, head.header("accept-ranges")), (200, image.len(), Some("bytes")));
    let mut fetched = Vec::new();
    while fetched.len() < length {
        let from = fetched.len();
        let to = if length - from > 16_384 { (from + 16_383).to_string() } else { String::new() };
        let part = Answer::of(&mut stream, &world.idf("GET", &format!("Range: bytes={from}-{to}\r\n"))).await;
        let last = from + part.body.len() - 1;
        assert_eq!(part.code(), 206);
        assert_eq!(part.header("content-range"), Some(format!("bytes {from}-{last}/{length}").as_str()));
        fetched.extend(part.body);
    }
    assert!(fetched == image);
    world.wait_for_state("all of it was sent", |state| state.offers[&Kind::Program].is_complete()).await;
    assert_eq!(world.firmware.figures().completed, 1);
    let beyond = Answer::of(&mut stream, &world.idf("GET", &format!("Range: bytes={length}-\r\n"))).await;
    let range = format!("bytes */{length}");
    assert_eq!((beyond.code(), beyond.header("content-range")), (416, Some(range.as_str())));
}

#[tokio::test]
async fn a_download_that_was_interrupted_goes_on_with_the_same_image() {
    let world = World::new().await;
    let (image, newer) = (described("2.0", "x", 50_000), described("3.0", "x", 60_000));
    let release = world.add(&image, new_release("all", "2.0"));
    let first = world.ask(&world.idf("GET", "Range: bytes=0-19999\r\n")).await;
    world.wait_for_state("a part was sent", |state| state.offers[&Kind::Program].sent == 20_000).await;

    world.add(&newer, new_release("all", "3.0"));
    let rest = world.ask(&world.idf("GET", "Range: bytes=20000-\r\n")).await;
    assert_eq!((rest.code(), [first.body, rest.body].concat() == image), (206, true), "not the newer one's");
    let with_a_gap = world.idf("GET", "Range: bytes=90000-\r\n");
    assert_eq!(world.ask(&with_a_gap).await.code(), 416, "a part that was not begun is of the newer one");

    world.ask(&world.idf("GET", "Range: bytes=0-99\r\n")).await;
    world.firmware.store().roll_back(2).unwrap();
    world.look();
    let anew = world.ask(&world.idf("GET", "Range: bytes=100-\r\n")).await;
    assert_eq!(anew.body, image[100..], "the newer one was rolled back meanwhile");
    let other = world.idf("GET", "Range: bytes=5-9\r\nIf-Range: \"another image\"\r\n");
    world.ask(&other).await.is_image(&image, &release);
}

#[tokio::test]
async fn who_may_not_have_it_is_told_so() {
    let world = World::new().await;
    world.add(&described("2.0", "x", 100), new_release("thermo", "2.0"));
    assert_eq!(world.by_certificate("thermo", "/firmware/me").await, StatusCode::OK);
    assert_eq!(world.by_certificate("thermo", "/firmware/thermo").await, StatusCode::OK);
    assert_eq!(
        world.by_certificate("lamp", "/firmware/me").await,
        StatusCode::NOT_FOUND,
        "nothing is for it"
    );
    assert_eq!(world.by_certificate("lamp", "/firmware/thermo").await, StatusCode::FORBIDDEN);
    assert_eq!(world.refusals.counts()["firmware_not_allowed"], 1);
    assert_eq!(world.by_certificate("thermo", "/").await, StatusCode::NOT_FOUND);

    let nobody = format!("Authorization: Basic {}\r\n", STANDARD.encode("thermo:tampu_00000000_x"));
    let wrong = world.esp32("sketch", "").replace(&world.authorization(), &nobody);
    assert_eq!(world.ask(&wrong).await.code(), 403, "after a second 401 old clients ask for ever");
    assert_eq!(world.refusals.counts()["api_key_wrong"], 1);
    for shown in [format!("X-API-Key: {}", world.key), format!("Authorization: Bearer {}", world.key)] {
        let request = world.idf("HEAD", "").replace(&world.authorization(), &format!("{shown}\r\n"));
        assert_eq!(world.ask(&request).await.code(), 200, "{shown}");
    }
    let post = world.idf("POST", "");
    let answer = world.ask(&post).await;
    assert_eq!((answer.code(), answer.header("allow")), (405, Some("GET,HEAD")));
}

#[tokio::test]
async fn a_device_whose_key_is_gone_is_not_let_in_any_more() {
    let world = World::new().await;
    world.add(&described("2.0", "x", 100), new_release("thermo", "2.0"));
    assert_eq!(world.ask(&world.idf("HEAD", "")).await.code(), 200);
    let config = Config::from_toml(SETTINGS).unwrap();
    world.rules.send_replace(Authorizer::new(&config.access, &config.streams));
    assert_eq!(world.ask(&world.idf("HEAD", "")).await.code(), 403);
}

#[tokio::test]
async fn a_damaged_image_is_not_served_until_it_is_mended() {
    let world = World::new().await;
    let image = described("2.0", "x", 100_000);
    let release = world.add(&image, new_release("all", "2.0"));
    world.ask(&world.esp32("sketch", "")).await.is_image(&image, &release);
    let file = world.firmware.store().image_file(&release.image.sha256);
    let mut damaged = image.clone();
    damaged[50_000] ^= 1;
    for damage in [&damaged[..], &image[..99_999], b""] {
        std::fs::write(&file, damage).unwrap();
        let answer = world.ask(&world.esp32("sketch", "")).await;
        assert_eq!((answer.code(), answer.header("retry-after")), (503, Some("30")));
    }
    std::fs::remove_file(&file).unwrap();
    assert_eq!(world.ask(&world.idf("HEAD", "")).await.code(), 503);
    let figures = world.firmware.figures();
    assert_eq!(figures.damaged, 4);
    assert!(figures.troubles.iter().any(|told| told.contains("its SHA-256 is another one")), "{figures:?}");
    world.add(&image, new_release("nobody", "2.0"));
    world.ask(&world.esp32("sketch", "")).await.is_image(&image, &release);
}

#[tokio::test]
async fn a_hundred_devices_get_their_image_at_once_and_one_more_may_come_again() {
    let world = World::new().await;
    let image = described("2.0", "x", 200_000);
    let release = world.add(&image, new_release("all", "2.0"));
    let request = world.esp32("sketch", "");
    let answers = futures_util::future::join_all((0..100).map(|_| world.ask(&request))).await;
    answers.iter().for_each(|answer| answer.is_image(&image, &release));
    let all = world.firmware.0.downloads.acquire_many(100).await.unwrap();
    let answer = world.ask(&request).await;
    assert_eq!((answer.code(), answer.header("retry-after")), (503, Some("30")));
    assert_eq!(world.refusals.counts()["too_many_downloads"], 1);
    drop(all);
    assert_eq!(world.ask(&request).await.code(), 200);
}

#[tokio::test]
async fn what_is_known_of_devices_survives_a_restart_and_what_they_are_told_follows_the_releases() {
    let world = World::new().await;
    world.add(&described("2.0", "x", 100), new_release("all", "2.0"));
    world.firmware.reported(&device("lamp"), b" 1.9\n");
    world.firmware.reported(&device("lamp"), b"two words");
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let listener = Arc::clone(&told);
    let publish = move |topic: &str, payload: bytes::Bytes| {
        let mut told = listener.lock().unwrap();
        let has_room = told.len() != 1 || topic.starts_with("thermo");
        told.push((topic.to_owned(), String::from_utf8(payload.to_vec()).unwrap(), has_room));
        has_room
    };
    let cancel = tokio_util::sync::CancellationToken::new();
    let running = world.firmware.clone().run("https://gw:1".to_owned(), publish, cancel.clone());
    let telling = async {
        let taken = |topic: &str, part: &str| {
            let told = told.lock().unwrap();
            told.iter().any(|(to, payload, taken)| to == topic && payload.contains(part) && *taken)
        };
        while !taken("lamp/firmware/available", "\"version\":\"2.0\"")
            || !taken("thermo/firmware/available", "\"url\":\"https://gw:1/firmware/thermo\"")
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        world.firmware.store().roll_back(1).unwrap();
        while !told.lock().unwrap().iter().any(|(_, payload, _)| payload.is_empty()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cancel.cancel();
    };
    let both = async { tokio::join!(running, telling) };
    tokio::time::timeout(PATIENCE, both).await.expect("devices are told");
    let kept = world.firmware.store().read_states();
    let lamp = kept.get(&device("lamp")).unwrap();
    assert_eq!(lamp.version.as_ref().unwrap().as_str(), "1.9");
}

#[tokio::test]
async fn a_device_that_takes_nothing_of_its_image_gives_up_its_place() {
    let world = World::with(SETTINGS, Duration::from_millis(300)).await;
    // More than the sockets of both sides take.
    let mut image = vec![0; 24 << 20];
    image[0] = 0xE9;
    let room = Room { max_image_bytes: 1 << 30, ..ROOM };
    let added =
        world.firmware.store().add(&image[..], new_release("all", "2"), room, OffsetDateTime::UNIX_EPOCH);
    added.unwrap();
    world.look();
    let mut silent = world.connect().await;
    silent.write_all(world.idf("GET", "").as_bytes()).await.unwrap();
    let cut = |state: &DeviceState| {
        let offered = state.offers.get(&Kind::Program);
        offered.is_some_and(|offered| offered.sent_at.is_some() && !offered.is_complete())
    };
    world.wait_for_state("it is given up", cut).await;
    assert_eq!(world.firmware.figures().downloads, 0);
    let state = world.firmware.states().remove(0).1;
    assert!(state.offers[&Kind::Program].sent < image.len() as u64);
}
