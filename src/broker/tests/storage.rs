//! P1: what is acknowledged is on disk.

use crate::buffer::{Limits, Outcome, Reader};
use crate::message::{Qos, Reading};

use super::*;

const ALL: Limits = Limits { max_readings: 10_000, max_bytes: 100_000_000 };

async fn readings(gateway: &Gateway, count: usize) -> Vec<Reading> {
    let mut reader: Reader = gateway.buffer.reader(&device("cloud")).unwrap();
    eventually("for the readings", || gateway.buffer.status().accepted >= count as u64).await;
    let readings = patiently("for the readings", reader.next(ALL)).await.unwrap();
    assert_eq!(readings.len(), count);
    readings
}

/// What a gateway would find that loses power now.
async fn on_disk(gateway: &Gateway) -> u64 {
    let copy = tempfile::tempdir().unwrap();
    copy_dir(&gateway.dir.path().join("buffer"), &copy.path().join("buffer"));
    let settings = config::Buffer { min_free_bytes: 0, ..config::Buffer::default() };
    let (buffer, report) = Buffer::open(&copy.path().join("buffer"), &settings, &[device("cloud")]).unwrap();
    assert_eq!(report.gaps, []);
    let accepted = buffer.status().accepted;
    buffer.close().await;
    accepted
}

#[tokio::test]
async fn an_acknowledged_reading_is_on_disk() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    for n in 1..=20 {
        plug.publish("plug/reading", n, "{\"t\":21.5}").await;
        assert!(on_disk(&gateway).await >= n.into(), "reading {n}");
    }
    let readings = readings(&gateway, 20).await;
    let Reading { device, stream, topic, payload, qos, .. } = &readings[19];
    assert_eq!((device.as_str(), &**stream, &**topic), ("plug", "readings", "plug/reading"));
    assert_eq!((&payload[..], *qos), (&b"{\"t\":21.5}"[..], Qos::AtLeastOnce));
    assert_eq!(gateway.broker.figures().readings, 20);
}

#[tokio::test]
async fn acks_leave_in_the_order_of_the_publishes_readings_or_not() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    let topics = ["plug/reading", "plug/other", "plug/other", "plug/reading"];
    let ids: Vec<u16> = (1..=400).rev().collect();
    let publishes = ids.iter().zip(topics.iter().cycle()).map(|(id, topic)| publish1(topic, *id, "{}"));
    plug.send(&publishes.collect::<Vec<_>>().concat()).await;
    for id in ids {
        plug.expect(&puback(id)).await;
    }
    assert_eq!(gateway.buffer.status().accepted, 200);
}

#[tokio::test]
async fn a_publish_that_is_no_reading_is_acknowledged_and_not_stored() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    plug.publish("plug/other", 1, "!").await;
    let figures = gateway.broker.figures();
    assert_eq!((figures.readings, figures.publishes_qos1), (0, 1));
}

#[tokio::test]
async fn a_qos_0_reading_is_stored_too() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    plug.send(&publish0("plug/reading", "{}")).await;
    plug.ping().await;
    assert_eq!(readings(&gateway, 1).await[0].qos, Qos::AtMostOnce);
}

#[tokio::test]
async fn what_a_device_said_before_it_went_away_is_stored() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    plug.subscribe("plug/reading", 0).await;
    // More than is read at once, and pings that can no longer be answered.
    let payload = format!("\"{}\"", "x".repeat(5_000));
    for _ in 0..20 {
        plug.send(&[publish0("plug/reading", &payload), b"\xc0\0".into()].concat()).await;
    }
    drop(plug);
    assert_eq!(readings(&gateway, 20).await[19].payload, payload);
}

#[tokio::test]
async fn an_unfit_payload_is_acknowledged_and_kept_with_the_reason() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    plug.publish("plug/reading", 1, "{\"t\":nan}").await;
    plug.publish("plug/reading", 2, "{\"t\":21.5}").await;
    assert_eq!(gateway.broker.figures().readings_unfit, 1);
    assert_eq!(gateway.refused("payload_unfit"), 1, "and said so in the log");
    let mut reader = gateway.buffer.reader(&device("cloud")).unwrap();
    let readings = patiently("for the fit one", reader.next(ALL)).await.unwrap();
    assert_eq!(readings.iter().map(|reading| reading.seq).collect::<Vec<_>>(), [2]);
    let letters = gateway.buffer.dead_letters(10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].reason, "not JSON: `nan` at byte 6: JSON has no such number");
    assert_eq!(letters[0].reading.payload, "{\"t\":nan}");
}

#[tokio::test]
async fn the_payloads_of_the_field_are_all_stored_as_they_came() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    let payloads: Vec<String> = include_str!("../../../tests/payloads.jsonl")
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["payload"].as_str().unwrap().into()
        })
        .collect();
    for (id, payload) in (1..).zip(&payloads) {
        plug.publish("plug/reading", id, payload).await;
    }
    let figures = gateway.broker.figures();
    assert_eq!((figures.readings, figures.readings_unfit), (24, 11));
    let letters = gateway.buffer.dead_letters(100).await.unwrap();
    let mut stored: Vec<_> = letters.into_iter().map(|letter| letter.reading).collect();
    let mut reader = gateway.buffer.reader(&device("cloud")).unwrap();
    stored.extend(patiently("for the fit ones", reader.next(ALL)).await.unwrap());
    stored.sort_by_key(|reading| reading.seq);
    assert_eq!(stored.len(), payloads.len());
    for (reading, payload) in stored.iter().zip(&payloads) {
        assert_eq!(reading.payload, payload);
    }
}

#[tokio::test]
async fn a_device_name_that_cannot_be_used_makes_a_dead_letter_of_the_reading() {
    let gateway = Gateway::start();
    let mut streams = gateway.streams.clone();
    streams[0].device = DeviceSource::ClientId;
    gateway.broker.reload(authorizer(&streams), &streams);
    let mut plug = gateway.connect("plug", "my plug").await;
    plug.publish("plug/reading", 1, "{}").await;
    let letters = gateway.buffer.dead_letters(10).await.unwrap();
    assert_eq!(letters[0].reading.device.as_str(), "plug");
    assert!(letters[0].reason.starts_with("the client id should name the device"), "{}", letters[0].reason);
}

#[tokio::test]
async fn a_connection_takes_no_further_publish_while_too_many_wait_for_their_ack() {
    let limits = config::Listener { max_inflight: 10, ..config::Listener::default() };
    let gateway = Gateway::start_with(&limits, |settings| settings.ack_delay = Duration::from_millis(200));
    let mut plug = gateway.connect("plug", "c").await;
    let publishes = (1..=10).map(|id| publish1("plug/reading", id, "{}"));
    plug.send(&publishes.collect::<Vec<_>>().concat()).await;
    // Behind ten that wait, other packets are served, and the eleventh publish stays where it is.
    plug.send(&[b"\xc0\0".into(), publish1("plug/reading", 11, "{}"), b"\xc0\0".into()].concat()).await;
    plug.expect(b"\xd0\0").await;
    assert_eq!(gateway.broker.figures().publishes_qos1, 10);
    for id in 1..=10 {
        plug.expect(&puback(id)).await;
    }
    plug.expect(b"\xd0\0").await;
    plug.expect(&puback(11)).await;
}

#[tokio::test]
async fn a_publish_that_is_held_back_was_received_when_it_came() {
    let limits = config::Listener { max_inflight: 1, ..config::Listener::default() };
    let gateway = Gateway::start_with(&limits, |settings| settings.ack_delay = Duration::from_millis(500));
    let mut plug = gateway.connect("plug", "c").await;
    let publishes = (1..=3).map(|id| publish1("plug/reading", id, "{}"));
    plug.send(&publishes.collect::<Vec<_>>().concat()).await;
    for id in 1..=3 {
        plug.expect(&puback(id)).await;
    }
    let stored = readings(&gateway, 3).await;
    for reading in &stored {
        assert_eq!(reading.received, stored[0].received, "all came at once");
    }
}

#[tokio::test]
async fn at_the_end_what_was_taken_is_acknowledged_before_the_connection_closes() {
    let mut gateway = Gateway::start_with(&config::Listener::default(), |settings| {
        settings.ack_delay = Duration::from_millis(200);
    });
    let mut plug = gateway.connect("plug", "c").await;
    let mut idle = gateway.connect("plug", "idle").await;
    let mut silent = gateway.open(certified("plug"));
    plug.send(&publish1("plug/reading", 1, "{}")).await;
    eventually("for the publish", || gateway.broker.figures().publishes_qos1 == 1).await;
    assert_eq!(gateway.tasks.drain(PATIENCE).await, []);
    plug.expect(&puback(1)).await;
    for client in [&mut plug, &mut idle, &mut silent] {
        client.expect_close().await;
    }
    assert_eq!(gateway.broker.figures().connections, 0);
}

#[tokio::test]
async fn at_the_end_a_subscriber_that_does_not_read_costs_no_more_than_its_goodbye() {
    let mut gateway = Gateway::start();
    let mut deaf = gateway.open_with(certified("panel"), 1_000);
    deaf.send(&connect("deaf", 0x02, 60)).await;
    deaf.expect(CONNACK).await;
    deaf.subscribe("#", 0).await;
    let mut plug = gateway.connect("plug", "c").await;
    for n in 1..=20 {
        plug.publish("plug/x", n, &"x".repeat(1_000)).await;
    }
    // Its goodbye has a deadline of its own.
    tokio::time::pause();
    assert_eq!(gateway.tasks.drain(PATIENCE).await, []);
}

#[tokio::test]
async fn when_the_buffer_has_ended_nothing_is_acknowledged() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    gateway.buffer.close().await;
    plug.send(&publish1("plug/reading", 1, "{}")).await;
    plug.expect_close().await;
}

/// A PUBLISH with DUP.
fn again(packet_id: u16, payload: &str) -> Vec<u8> {
    let mut packet = publish1("plug/reading", packet_id, payload);
    packet[0] |= 0x08;
    packet
}

#[tokio::test]
async fn a_retransmission_is_acknowledged_again_and_not_stored_again() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    plug.send(&[publish1("plug/reading", 1, "1"), again(1, "1"), publish1("plug/reading", 2, "2")].concat())
        .await;
    for id in [1, 1, 2] {
        plug.expect(&puback(id)).await;
    }
    // esp-mqtt, after a reconnect: what it has not seen an ack for, in order.
    let mut plug = gateway.connect("plug", "c").await;
    plug.send(&[again(1, "1"), again(2, "2"), again(3, "3"), publish1("plug/reading", 2, "2")].concat())
        .await;
    for id in [1, 2, 3, 2] {
        plug.expect(&puback(id)).await;
    }
    // Another client's, and one whose first transmission was never taken, are new.
    let mut other = gateway.connect("plug", "other").await;
    other.send(&again(1, "1")).await;
    other.expect(&puback(1)).await;
    let figures = gateway.broker.figures();
    assert_eq!((figures.retransmissions, figures.publishes_qos1), (3, 8), "repetitions came, too");
    assert_eq!(gateway.buffer.status().accepted, 5);
}

#[tokio::test]
async fn a_retransmission_of_what_is_not_yet_on_disk_is_acknowledged_when_it_is() {
    let gateway = Gateway::start_with(&config::Listener::default(), |settings| {
        settings.ack_delay = Duration::from_millis(500);
    });
    let mut plug = gateway.connect("plug", "c").await;
    plug.send(&publish1("plug/reading", 1, "1")).await;
    eventually("for the publish", || gateway.broker.figures().readings == 1).await;
    // The older connection has not heard yet that it was taken over.
    let mut newer = gateway.open(certified("plug"));
    newer.send(&[connect("c", 0x02, 60), again(1, "1"), publish1("plug/other", 2, "")].concat()).await;
    newer.expect(CONNACK).await;
    for id in [1, 2] {
        newer.expect(&puback(id)).await;
        assert_eq!(gateway.buffer.status().accepted, 1);
    }
    assert_eq!(gateway.broker.figures().retransmissions, 1);
    // The next finds it, too.
    drop((plug, newer));
    eventually("for them to go", || gateway.broker.figures().connections == 0).await;
    let mut plug = gateway.connect("plug", "c").await;
    plug.send(&[again(1, "1"), publish1("plug/reading", 3, "3")].concat()).await;
    for id in [1, 3] {
        plug.expect(&puback(id)).await;
    }
    assert_eq!(gateway.buffer.status().accepted, 2);
}

#[tokio::test]
async fn while_the_buffer_is_full_a_qos_1_publish_waits_and_the_connection_lives() {
    let gateway = Gateway::start_with(&config::Listener::default(), |settings| {
        settings.when_full = config::FullPolicy::RefuseNew;
        settings.max_bytes = 1024 * 1024;
    });
    fill(&gateway).await;
    let mut plug = gateway.connect("plug", "c").await;
    plug.send(&[publish1("plug/reading", 1, "1"), b"\xc0\0".into()].concat()).await;
    plug.expect(b"\xd0\0").await;
    plug.send(&[publish1("plug/reading", 2, "2"), b"\xc0\0".into()].concat()).await;
    // The pong behind what was held back may come before either ack: those wait for the disk.
    let acks = async {
        let mut answers = [0; 10];
        plug.stream.read_exact(&mut answers).await.unwrap();
        let answers: Vec<_> = answers.chunks(2).filter(|part| *part != b"\xd0\0").collect();
        assert_eq!(answers.concat(), [puback(1), puback(2)].concat());
    };
    patiently("for the acks", async {
        tokio::select! { () = empty(&gateway) => (), () = acks => () }
    })
    .await;
    assert_eq!(gateway.broker.figures().publishes_qos1, 2);
}

/// Publishes readings until the buffer refuses them.
pub(super) async fn fill(gateway: &Gateway) {
    let mut other = gateway.connect("plug", "other").await;
    // The buffer compresses: only noise fills it.
    let mut noise = 1_u64;
    let mut word = || {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{noise:016x}")
    };
    while gateway.buffer.status().refused_full == 0 {
        let payload: String = (0..1_000).map(|_| word()).collect();
        other.send(&publish0("plug/reading", &format!("\"{payload}\""))).await;
        other.ping().await;
    }
    other.leave().await;
}

/// Takes readings out of the buffer, for ever.
async fn empty(gateway: &Gateway) {
    let mut reader = gateway.buffer.reader(&device("cloud")).unwrap();
    loop {
        let readings = reader.next(Limits { max_readings: 10, ..ALL }).await.unwrap();
        let outcomes: Vec<_> = readings.iter().map(|reading| (reading.seq, Outcome::Delivered)).collect();
        reader.settle(&outcomes).await.unwrap();
    }
}

#[tokio::test]
async fn what_there_is_no_room_for_is_not_queued_either_until_there_is() {
    let gateway = Gateway::start_with(&config::Listener::default(), |settings| {
        settings.when_full = config::FullPolicy::RefuseNew;
        settings.max_bytes = 1024 * 1024;
    });
    gateway.subscribed_panel().await.leave().await;
    fill(&gateway).await;
    let mut plug = gateway.connect("plug", "c").await;
    plug.send(&[publish1("plug/reading", 1, "1"), b"\xc0\0".into()].concat()).await;
    plug.expect(b"\xd0\0").await;
    let figures = gateway.broker.figures();
    assert_eq!((figures.queued_messages, figures.queued_bytes), (0, 0));
    patiently("for the ack", async {
        let ack = async { plug.expect(&puback(1)).await };
        tokio::select! { () = empty(&gateway) => (), () = ack => () }
    })
    .await;
    assert_eq!(gateway.broker.figures().queued_messages, 1);
}
