//! The other doors besieged: MQTT over WebSocket, and MQTT without TLS. Whoever behaves comes in by the same doors
//! meanwhile.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use crate::client::{Client, HOME, tcp};
use crate::connections::ABROAD;
use crate::flood::{break_rules, valid};
use crate::harness::eventually;
use crate::packet::{Hello, PING, Version, publish, text};
use crate::random::{Rng, number};
use crate::scene::Scene;

const SECONDS: u64 = 12;
const ATTACKERS: u64 = 4;
/// Rounds of somebody who behaves, for each door.
const ROUNDS: u32 = 10;
/// Connections to each door that say nothing …
const SILENT: usize = 50;
/// … and those that one attacker leaves open behind what it has said.
const LEFT_OPEN: usize = 20;

/// The doors, and no bounds for how often somebody may come: it is not those that are tried here.
const SETTINGS: &str = "[listener]\nmax_connections_per_device = 1000\nhandshake_timeout = \"4s\"\nconnect_timeout = \"4s\"\n\
    [websocket]\naddress = \"127.0.0.1:0\"\n\
    [plain]\naddress = \"127.0.0.1:0\"\nidentities = [\"anonymous\"]\n\
    [anonymous]\nname = \"sketch\"\npublish = [\"h/#\", \"sketch/#\"]\nsubscribe = [\"h/#\"]\n\
    [limits]\nconnects_per_second = 100000\nconnect_burst = 100000\n\
    handshakes_per_second = 100000\nhandshake_burst = 100000\nmax_reconnect_delay = \"0s\"\n";

const UPGRADE: &str = "GET /mqtt HTTP/1.1\r\nHost: gw\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

/// Of RFC 6455, 5.2.
const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING_FRAME: u8 = 9;
const MASKED: u8 = 0x80;

#[test]
fn broken_upgrades_frames_and_packets_by_the_other_doors_harm_nobody_else() {
    let scene = Scene::start_with(SETTINGS);
    let seed = Rng::from_env("doors").next();
    let end = Instant::now() + Duration::from_secs(number("HOSTILE_SECONDS").unwrap_or(SECONDS));
    let [websocket, plain] = ["websocket", "plain"].map(|name| door(&scene, name));
    let (attacker, visitor) = (scene.device("h"), scene.other());
    // They say nothing, before the upgrade and in the place of a CONNECT, and are ended in time.
    let mut silent: Vec<_> = (0..SILENT)
        .map(|n| {
            let open = if n % 2 == 0 { Client::open } else { upgrade };
            open(ABROAD, websocket, &attacker).expect("TLS is spoken with everybody who is let in")
        })
        .collect();
    let wordless: Vec<_> = (0..SILENT).map(|_| tcp(ABROAD, plain).expect("it is open")).collect();
    let (over, connections) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for n in 0..ATTACKERS {
            let (over, connections, tls) = (&over, &connections, &attacker);
            scope.spawn(move || {
                let mut rng = Rng::new(seed.wrapping_add(n));
                let (mut upgraded, mut open) = (Vec::new(), Vec::new());
                while !over.load(Ordering::Acquire) {
                    connections.fetch_add(1, Ordering::Relaxed);
                    let from = Ipv4Addr::new(127, 0, 2, 1 + (rng.next() % 50) as u8);
                    // Whoever is not dropped goes on in silence, and reads nothing.
                    match rng.percent(60) {
                        true => upgraded.extend(attack_websocket(&mut rng, from, websocket, tls).ok()),
                        false => open.extend(attack_plain(&mut rng, from, plain).ok()),
                    }
                    upgraded.drain(..upgraded.len().saturating_sub(LEFT_OPEN));
                    open.drain(..open.len().saturating_sub(LEFT_OPEN));
                }
            });
        }
        let mut longest = Duration::ZERO;
        for n in 1_u32.. {
            let begin = Instant::now();
            visit_websocket(websocket, &visitor, n);
            visit_plain(plain, n);
            longest = longest.max(begin.elapsed());
            if n >= ROUNDS && Instant::now() >= end {
                println!("{n} visitors by each door, the longest visits {longest:?}");
                break;
            }
        }
        over.store(true, Ordering::Release);
    });
    println!("{} connections of attackers", connections.load(Ordering::Relaxed));
    // The well-behaved one, and a newcomer that may be on its way out.
    scene.others_are_served();
    eventually("the attackers are gone", || (scene.figure("connections") <= 2).then_some(()));
    silent.iter_mut().for_each(|client| drop(client.expect_end()));
    drop(wordless);
    for (reason, at_least) in [("websocket_refused", 25), ("connect_timeout", 75), ("protocol_violation", 1)]
    {
        let count = scene.refused(reason);
        assert!(count >= at_least, "{count} {reason}");
        println!("{count} {reason}");
    }
    scene.end();
}

fn door(scene: &Scene, name: &str) -> SocketAddr {
    let status = scene.gateway.home.status().expect("the gateway answers");
    status["more_listeners"][name].as_str().expect("it listens there").parse().expect("an address")
}

/// Somebody comes by WebSocket, and has a reading acknowledged.
fn visit_websocket(to: SocketAddr, tls: &Arc<ClientConfig>, n: u32) {
    let mut client = upgrade(HOME, to, tls).expect("the upgrade is granted");
    let hello = Hello::new(Version::V3, &format!("by websocket {n}")).packet();
    let reading = publish(Version::V3, "other/readings", b"{}", 1, 7);
    for (said, answer) in [(hello, [0x20, 2, 0, 0]), (reading, [0x40, 2, 0, 7])] {
        client.send(&frame(FIN | BINARY, &said));
        // What the gateway says is not masked.
        assert_eq!(client.take(6).expect("it is answered"), [&[FIN | BINARY, 4], &answer[..]].concat());
    }
}

/// Somebody comes without TLS, and has a reading acknowledged.
fn visit_plain(to: SocketAddr, n: u32) {
    let mut stream = tcp(HOME, to).expect("it is let in");
    let hello = Hello::new(Version::V3, &format!("by plain TCP {n}")).packet();
    let reading = publish(Version::V3, "sketch/readings", b"{}", 1, 7);
    stream.write_all(&[hello, reading].concat()).expect("the gateway listens");
    let mut answers = [0; 8];
    stream.read_exact(&mut answers).expect("it is answered");
    assert_eq!(answers, [0x20, 2, 0, 0, 0x40, 2, 0, 7]);
}

/// A connection that was upgraded.
fn upgrade(from: Ipv4Addr, to: SocketAddr, tls: &Arc<ClientConfig>) -> io::Result<Client> {
    let mut client = Client::open(from, to, tls)?;
    client.try_send(UPGRADE.as_bytes())?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.extend(client.take(1)?);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    Ok(client)
}

/// A frame as a client sends it, masked with zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = match payload.len() {
        short @ 0..126 => vec![MASKED | short as u8],
        longer => [&[MASKED | 127][..], &(longer as u64).to_be_bytes()].concat(),
    };
    [&[first][..], &length, &[0; 4], payload].concat()
}

fn attack_websocket(
    rng: &mut Rng,
    from: Ipv4Addr,
    to: SocketAddr,
    tls: &Arc<ClientConfig>,
) -> io::Result<Client> {
    if rng.percent(40) {
        let mut client = Client::open(from, to, tls)?;
        client.try_send(&broken_upgrade(rng))?;
        return Ok(client);
    }
    let mut client = upgrade(from, to, tls)?;
    if rng.percent(70) {
        let hello = Hello::new(Version::V5, &format!("c{}", rng.next() % 40)).packet();
        client.try_send(&frame(FIN | BINARY, &hello))?;
    }
    client.try_send(&broken_frames(rng))?;
    Ok(client)
}

/// Requests that are none, ask for something else, are too long, or never end.
fn broken_upgrade(rng: &mut Rng) -> Vec<u8> {
    let long = format!("Cookie: {}\r\n\r\n", "x".repeat(20_000));
    let many = "X: y\r\n".repeat(500);
    let (what, by) = [
        ("", ""),
        ("GET", "POST"),
        ("/mqtt", "/"),
        ("HTTP/1.1", "HTTP/9"),
        ("websocket", "h2c"),
        ("13", "8"),
        ("dGhl", "?"),
        (": mqtt", ": chat"),
        ("\r\n\r\n", "\r\n"),
        ("\r\n\r\n", long.as_str()),
        ("Host", many.as_str()),
    ][rng.in_range(0..11)];
    let mut request = UPGRADE.replacen(what, by, 1).into_bytes();
    match rng.next() % 4 {
        0 => request.truncate(rng.in_range(0..request.len())),
        1 => {
            let at = rng.in_range(0..request.len());
            request[at] = rng.next() as u8;
        }
        // What follows is no HTTP any more, or not yet what may follow.
        2 => request.extend(rng.bytes(3_000)),
        _ => {}
    }
    request
}

/// Frames that break RFC 6455, are endless, too many, too large, or hold broken MQTT.
fn broken_frames(rng: &mut Rng) -> Vec<u8> {
    let some = rng.in_range(0..2_000);
    match rng.next() % 12 {
        0 => rng.bytes(some + 1),
        // Lengths of 2^62, of 2^64-1 and of 1 GiB, and the first bytes of it.
        1 => {
            let length = [1 << 62, u64::MAX, 1 << 30][rng.in_range(0..3)];
            [&[FIN | BINARY, MASKED | 127][..], &length.to_be_bytes(), &[0; 4], &rng.bytes(some)].concat()
        }
        // Not masked.
        2 => [&[FIN | BINARY, 2][..], PING].concat(),
        // A message of pieces without an end: larger than it may be, or of nothing.
        3 => {
            let piece = [0, 1, 4_000][rng.in_range(0..3)];
            let first = frame(BINARY, &vec![b'x'; piece]);
            [first, frame(CONTINUATION, &vec![0; piece]).repeat(1_000)].concat()
        }
        // A piece of nothing, or a beginning in the middle.
        4 => frame(CONTINUATION, PING),
        5 => [frame(BINARY, PING), frame(BINARY, PING)].concat(),
        // Pings, whose answers nobody reads.
        6 => frame(FIN | PING_FRAME, &[b'?'; 125]).repeat(5_000),
        // Control frames that are too long, or in pieces.
        7 => frame(FIN | PING_FRAME, &[b'?'; 1_000]),
        8 => frame(PING_FRAME, b"?"),
        // Reserved bits and kinds, text.
        9 => frame([FIN | 0x70 | BINARY, FIN | 3, FIN | 15, FIN | 1][rng.in_range(0..4)], PING),
        10 => [frame(FIN | CLOSE, b"\x03\xe8"), frame(FIN | BINARY, PING).repeat(100)].concat(),
        // MQTT, cut anyhow, and broken at the end.
        _ => broken_packets(rng).chunks(1 + some).flat_map(|part| frame(FIN | BINARY, part)).collect(),
    }
}

fn attack_plain(rng: &mut Rng, from: Ipv4Addr, to: SocketAddr) -> io::Result<std::net::TcpStream> {
    let mut stream = tcp(from, to)?;
    let some = rng.in_range(1..2_000);
    let hello = Hello::new(Version::V5, &format!("c{}", rng.next() % 40)).packet();
    let said = match rng.next() % 8 {
        0 => Vec::new(),
        1 => rng.bytes(some),
        2 => UPGRADE.into(),
        3 => b"\x16\x03\x01\x01\0\x01\0\0\xfc\x03\x03".to_vec(),
        4 => hello[..some % hello.len()].to_vec(),
        // 256 MiB are announced, of a CONNECT or after one.
        5 => [&b"\x10\xff\xff\xff\x7f"[..], &text("MQTT")].concat(),
        6 => [&hello[..], b"\x30\xff\xff\xff\x7f\0\x03h/x"].concat(),
        _ => [hello, broken_packets(rng)].concat(),
    };
    stream.write_all(&said)?;
    Ok(stream)
}

/// Packets that may be sent, and one that may not.
fn broken_packets(rng: &mut Rng) -> Vec<u8> {
    let count = rng.in_range(1..200);
    let mut bytes: Vec<u8> = (0..count).flat_map(|_| valid(rng, Version::V5)).collect();
    let mut last = valid(rng, Version::V5);
    break_rules(rng, Version::V5, &mut last);
    bytes.extend(last);
    bytes
}
