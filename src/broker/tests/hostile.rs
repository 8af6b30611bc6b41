//! Clients that mean harm, or are broken, while others are served.

use std::hash::{BuildHasher, RandomState};

use super::*;

/// A small generator (SplitMix64): a run is repeated by its seed.
pub(super) struct Random(u64);

impl Random {
    /// `TAMPU_SEED`, or one that differs from run to run; printed.
    pub(super) fn from_env() -> Self {
        let seed = std::env::var("TAMPU_SEED")
            .map_or_else(|_| RandomState::new().hash_one(0), |seed| seed.parse().unwrap());
        println!("TAMPU_SEED={seed}");
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}

#[tokio::test]
async fn who_sends_faster_than_it_may_is_read_more_slowly_and_loses_nothing() {
    let mut setup = Setup::default();
    setup.rates.connection.messages_per_second = 50;
    let gateway = Gateway::start_as(setup);
    let mut lamp = gateway.connect("lamp", "c").await;
    let begin = std::time::Instant::now();
    let acked = async |lamp: &mut Client, ids: std::ops::RangeInclusive<u16>| {
        let publishes: Vec<_> = ids.clone().flat_map(|id| publish1("lamp/reading", id, "{}")).collect();
        lamp.send(&publishes).await;
        for id in ids {
            lamp.expect(&puback(id)).await;
        }
    };
    acked(&mut lamp, 1..=100).await;
    acked(&mut lamp, 101..=110).await;
    assert!(
        begin.elapsed() >= Duration::from_secs(1),
        "100 packets and a burst of 50: {:?}",
        begin.elapsed()
    );
    assert_eq!(gateway.refused("too_fast"), 1);
    assert_eq!(gateway.broker.figures().readings, 110);
}

#[tokio::test]
async fn silent_connections_keep_nobody_waiting() {
    let gateway = Gateway::start();
    let _silent: Vec<_> = (0..100).map(|_| gateway.open(certified("plug"))).collect();
    let mut half = gateway.open(certified("plug"));
    half.send(b"\x10").await;
    gateway.connect("plug", "c").await.ping().await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_not_read_without_end() {
    let gateway = Gateway::start().with_stopped_clock().await;
    let mut deaf = gateway.open_with(certified("plug"), 1_000);
    deaf.send(&connect("deaf", 0x02, 60)).await;
    let flood = async {
        for _ in 0..1_000_000 {
            deaf.stream.write_all(&b"\xc0\0".repeat(500)).await.unwrap();
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(2), flood).await.is_err(), "it must be held back");
    gateway.connect("plug", "c").await.ping().await;
}

/// Throws mutated packets at sessions, in any order and cut anywhere, while a device is served.
#[tokio::test]
async fn a_hundred_thousand_broken_packets_harm_nobody_else() {
    let mut random = Random::from_env();
    let limits = config::Listener { max_packet_bytes: 4_096, ..config::Listener::default() };
    let gateway = Gateway::start_with(&limits, |_| {});
    let mut plug = gateway.connect("plug", "well-behaved").await;
    plug.subscribe("plug/#", 1).await;
    let packets = [
        connect("c", 0x02, 60),
        publish0("lamp/reading", "{\"t\":21.5}"),
        publish1("lamp/reading", 1, "{\"t\":21.5}"),
        publish1("lamp/ü", 2, &"x".repeat(300)),
        puback(1),
        subscribe(1, &[("lamp/#", 1), ("lamp/+/+", 0)]),
        unsubscribe(1, &["lamp/#"]),
        b"\xc0\0".into(),
        b"\xe0\0".into(),
    ];
    let mut sent = 0;
    let mut rounds: u16 = 0;
    while sent < 100_000 {
        let mut client = gateway.open_with(certified("lamp"), 64 * 1024);
        let mut bytes = connect("c", 0x02, 60);
        let count = 1 + random.below(60);
        for _ in 0..count {
            let mut packet = packets[1 + random.below(packets.len() - 1)].clone();
            // Most packets stay whole, so that sessions live for a while.
            for _ in 0..random.below(8).saturating_sub(6) {
                mutate(&mut packet, &mut random);
            }
            bytes.extend(packet);
        }
        if random.below(4) == 0 {
            mutate(&mut bytes, &mut random);
        }
        for part in bytes.chunks(1 + random.below(500)) {
            // The gateway may have closed by now.
            if client.stream.write_all(part).await.is_err() {
                break;
            }
        }
        sent += count;
        rounds += 1;
        if rounds.is_multiple_of(50) {
            plug.send(&publish1("plug/reading", rounds, "{}")).await;
            let delivery = publish1("plug/reading", rounds / 50, "{}");
            let mut answers = vec![0; delivery.len() + 4];
            patiently("to be served", plug.stream.read_exact(&mut answers)).await.unwrap();
            assert!(answers.starts_with(&delivery) || answers.ends_with(&delivery), "{answers:02x?}");
            plug.send(&puback(rounds / 50)).await;
        }
    }
    plug.ping().await;
    let figures = gateway.broker.figures();
    assert!(figures.refusals["protocol_violation"] > 100, "{figures:?}");
    assert!(figures.readings > 1_000, "{figures:?}");
    eventually("for the others to go", || gateway.broker.figures().sessions == 1).await;
}

fn mutate(packet: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(packet.len());
    match random.below(5) {
        0 => packet[at] ^= 1 << random.below(8),
        1 => packet[at] = random.next().to_le_bytes()[0],
        2 => packet.truncate(at + 1),
        3 => packet.insert(at, random.next().to_le_bytes()[0]),
        _ => {
            packet.remove(at);
            packet.push(0);
        }
    }
}

#[tokio::test]
async fn a_device_that_connects_again_and_again_does_not_fill_the_log() {
    let gateway = Gateway::start();
    let path = gateway.dir.path().join("log");
    let file = Arc::new(std::fs::File::create(&path).unwrap());
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(file).finish();
    // With one subscriber alone, `tracing` asks whichever thread comes first whether anybody wants a line at all.
    let _another = tracing::Dispatch::new(tracing_subscriber::registry());
    let _logging = tracing::subscriber::set_default(subscriber);
    for _ in 0..50 {
        let mut plug = gateway.open(certified("plug"));
        plug.send(&[connect("c", 0x02, 60), b"\xe0\0".into()].concat()).await;
        plug.expect(CONNACK).await;
        plug.expect_close().await;
    }
    let mut lamp = gateway.open(certified("lamp"));
    lamp.send(&connect("c", 0x02, 60)).await;
    lamp.expect(CONNACK).await;
    let log = std::fs::read_to_string(path).unwrap();
    for what in [" connected", " disconnected"] {
        let lines = log.lines().filter(|line| line.contains(what) && line.contains("device=plug")).count();
        assert!((1..20).contains(&lines), "{lines} times {what}: {log}");
    }
    assert!(log.contains("device=lamp"), "{log}");
}
