//! Hundreds of thousands of packets: valid, mutated, truncated, oversized, out of their turn, and noise.
//!
//! `HOSTILE_PACKETS` and `HOSTILE_SECONDS` say how many, and for how long at most; `TAMPU_SEED` brings a run back
//! as far as threads allow it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use crate::client::Client;
use crate::harness::eventually;
use crate::packet::{Hello, Publish, Version, ack, packet, subscribe, text, unsubscribe};
use crate::random::{Rng, number};
use crate::scene::Scene;

const PACKETS: u64 = 300_000;
const SECONDS: u64 = 60;
const ATTACKERS: u64 = 4;

/// Whoever attacks may come back as often as it can: it is not the door that is tried here.
const OPEN_DOORS: &str = "[listener]\nmax_connections_per_device = 500\n[limits]\nconnects_per_second = 100000\nconnect_burst = 100000\n\
                          handshakes_per_second = 100000\nhandshake_burst = 100000\nmax_reconnect_delay = \"0s\"\n";

/// Topics of the attackers, most of which they may use.
const TOPICS: [&str; 9] =
    ["h/x", "h/y/z", "h/readings", "h/readings/a", "h/ü", "h", "good/readings", "$SYS/x", "h//"];
const FILTERS: [&str; 10] = [
    "h/#",
    "h/+",
    "h/+/z",
    "#",
    "+/readings",
    "$share/g/h/#",
    "$share/g/h/+",
    "good/#",
    "h/readings",
    "$share//x",
];

#[test]
fn hundreds_of_thousands_of_packets_of_every_kind_harm_nobody_else() {
    let scene = Scene::start_with(OPEN_DOORS);
    let seed = Rng::from_env("flood").next();
    let wanted = number("HOSTILE_PACKETS").unwrap_or(PACKETS);
    let end = Instant::now() + Duration::from_secs(number("HOSTILE_SECONDS").unwrap_or(SECONDS));
    let (sent, connections) = (AtomicU64::new(0), AtomicU64::new(0));
    let identities = [scene.device("h"), scene.other()];
    std::thread::scope(|scope| {
        for attacker in 0..ATTACKERS {
            let (sent, connections, identities, address) =
                (&sent, &connections, &identities, scene.address());
            scope.spawn(move || {
                let mut rng = Rng::new(seed.wrapping_add(attacker));
                while sent.load(Ordering::Relaxed) < wanted && Instant::now() < end {
                    sent.fetch_add(attack(&mut rng, address, identities), Ordering::Relaxed);
                    connections.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    println!(
        "{} packets over {} connections",
        sent.load(Ordering::Relaxed),
        connections.load(Ordering::Relaxed)
    );
    scene.others_are_served();
    // Two: the well-behaved one, and a newcomer that may be on its way out.
    eventually("the attackers are gone", || (scene.figure("connections") <= 2).then_some(()));
    let status = scene.gateway.home.status().unwrap();
    assert!(scene.refused("protocol_violation") > 0, "{status:#}");
    // The bound of all, and the 8 KiB of those who were connected.
    assert!(scene.figure("queued_bytes") <= 20 * 1024 * 1024, "{status:#}");
    assert!(scene.figure("sessions_kept") <= 502, "{status:#}");
    assert!(scene.figure("retained") <= 1_000, "{status:#}");
    println!("{}", status["broker"]);
    scene.end();
}

/// One connection, with all that is sent over it. How many packets that were.
fn attack(rng: &mut Rng, to: SocketAddr, identities: &[Arc<ClientConfig>; 2]) -> u64 {
    let from = Ipv4Addr::new(127, 0, 1, 1 + (rng.next() % 50) as u8);
    let tls = &identities[usize::from(rng.percent(20))];
    let version = if rng.percent(50) { Version::V3 } else { Version::V5 };
    let Ok(mut client) = Client::open(from, to, tls) else { return 0 };
    let mut hello = hello(rng, version).packet();
    if rng.percent(5) {
        mutate(rng, &mut hello);
    }
    let count = rng.in_range(1..400) as u64;
    let mut bytes = hello;
    // Most connections break the rules late, so that sessions get somewhere.
    let broken = rng.percent(80).then(|| rng.next() % count);
    for n in 0..count {
        let mut next = valid(rng, version);
        if broken == Some(n) {
            break_rules(rng, version, &mut next);
        }
        bytes.extend(next);
        let is_whole = !rng.percent(10);
        if is_whole && n + 1 < count {
            continue;
        }
        let at = if is_whole { bytes.len() } else { rng.in_range(0..bytes.len() + 1) };
        let rest = bytes.split_off(at);
        if client.try_send(&bytes).is_err() {
            return n;
        }
        bytes = rest;
        // Some read, and some never do.
        if rng.percent(30) && !client.drain(Duration::from_millis(1)) {
            return n;
        }
    }
    if rng.percent(30) {
        client.drain(Duration::from_millis(20));
    }
    count
}

fn hello(rng: &mut Rng, version: Version) -> Hello {
    let client_id = match rng.next() % 10 {
        0 => String::new(),
        1 => "ü+#/$".to_owned(),
        _ => format!("c{}", rng.next() % 40),
    };
    let kept = rng.percent(40);
    let mut hello = if kept { Hello::kept(version, &client_id) } else { Hello::new(version, &client_id) };
    hello.clean = client_id.is_empty() || rng.percent(50);
    hello.keep_alive = [0, 1, 60, u16::MAX][rng.in_range(0..4)];
    if rng.percent(30) {
        let topic = TOPICS[rng.in_range(0..3)];
        let payload = rng.in_range(0..200);
        hello = hello.with_will(topic, &vec![b'w'; payload], (rng.next() % 3) as u8, rng.percent(30));
    }
    if version == Version::V5 {
        if rng.percent(30) {
            hello.properties.extend([0x21, 0, 1 + (rng.next() % 20) as u8]);
        }
        if rng.percent(30) {
            hello.properties.extend([0x22, 0, 10]);
        }
        if rng.percent(20) {
            hello.properties.extend([0x27, 0, 0, (rng.next() % 4) as u8, 60]);
        }
    }
    hello
}

/// A packet that a client may send, in its turn or not.
pub(crate) fn valid(rng: &mut Rng, version: Version) -> Vec<u8> {
    let id = 1 + (rng.next() % 200) as u16;
    match rng.next() % 20 {
        0..=9 => {
            let payload = vec![b'x'; rng.in_range(0..2).pow(2) * rng.in_range(0..600)];
            let qos = (rng.next() % 3) as u8;
            let mut properties = Vec::new();
            if version == Version::V5 && rng.percent(30) {
                properties.extend([0x02, 0, 0, 0, (rng.next() % 3) as u8]);
            }
            let mut topic = TOPICS[rng.in_range(0..4)].to_owned();
            if version == Version::V5 && rng.percent(20) {
                properties.extend([0x23, 0, 1 + (rng.next() % 16) as u8]);
            } else if rng.percent(20) {
                topic = format!("h/{}", rng.next() % 3_000);
            }
            let dup = qos > 0 && rng.percent(10);
            let retain = rng.percent(20);
            let publish = Publish::new(version, &topic, &payload, qos, id);
            Publish { dup, retain, properties: &properties, ..publish }.packet()
        }
        10 => ack(0x40, id),
        11 => ack(0x50, id),
        12 | 13 => ack(0x62, id),
        14 => ack(0x70, id),
        15 | 16 => {
            let options = (rng.next() % 3) as u8;
            let filters: Vec<_> =
                (0..rng.in_range(1..5)).map(|_| (FILTERS[rng.in_range(0..9)], options)).collect();
            subscribe(version, id, &filters)
        }
        17 => unsubscribe(version, id, FILTERS[rng.in_range(0..9)]),
        _ => crate::packet::PING.to_vec(),
    }
}

/// Makes something else of a packet.
pub(crate) fn break_rules(rng: &mut Rng, version: Version, bytes: &mut Vec<u8>) {
    match rng.next() % 9 {
        0 => mutate(rng, bytes),
        1 => (0..5).for_each(|_| mutate(rng, bytes)),
        // Noise.
        2 => {
            let count = rng.in_range(1..2_000);
            *bytes = rng.bytes(count);
        }
        // Larger than it may be, announced or sent.
        3 => *bytes = packet(0x30, &[text("h/x"), vec![b'x'; 300 * 1024]].concat()),
        4 => *bytes = [0x30, 0xff, 0xff, 0xff, 0x7f, 0, 3].to_vec(),
        // What a server says, or what comes only once.
        5 => *bytes = Hello::new(version, "again").packet(),
        6 => *bytes = packet([0x20, 0x90, 0xb0, 0xd0, 0xf0, 0x00][rng.in_range(0..6)], &[0, 1, 0]),
        // A filter or a topic that is none.
        7 => {
            *bytes = subscribe(version, 1, &[(["", "h/#/x", "h/x+", "$share/", "\0"][rng.in_range(0..5)], 1)])
        }
        _ => {
            *bytes = crate::packet::publish(
                version,
                ["", "h/+", "#", "\0", "h/\u{1}"][rng.in_range(0..5)],
                b"",
                1,
                0,
            )
        }
    }
}

fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    let at = rng.in_range(0..bytes.len());
    match rng.next() % 5 {
        0 => bytes[at] ^= 1 << (rng.next() % 8),
        1 => bytes[at] = rng.next() as u8,
        2 => bytes.truncate(at),
        3 => bytes.insert(at, rng.next() as u8),
        _ => drop(bytes.remove(at)),
    }
}
