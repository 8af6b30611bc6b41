use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::config;
use crate::message::DeviceId;

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn clock(dir: &Path) -> Clock {
    Clock::start(&config::Clock::default(), &dir.join("floor"), BTreeMap::new()).unwrap()
}

fn refused(detail: &str) -> Event<'_> {
    Event::Refused { reason: "not_tls", whom: Whom::at(PEER), detail }
}

fn entries(dir: &Path) -> Vec<Entry> {
    let mut entries = Vec::new();
    read(dir, |entry| entries.push(entry)).unwrap();
    entries
}

#[test]
fn what_is_recorded_can_be_read_after_a_restart() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("audit");
    assert!(entries(&dir).is_empty());
    for round in 0..2 {
        let audit = Audit::start(dir.clone(), clock(place.path())).unwrap();
        audit.record(refused("plain \"MQTT\"\n"), round);
        audit.flush();
    }
    let device = DeviceId::parse("pump").unwrap();
    let change = Event::Changed { change: "disable", device: Some(&device), detail: "by a command" };
    append(&dir, &Entry::new(change, clock(place.path()).stamp(), 0)).unwrap();

    let entries = entries(&dir);
    let seen: Vec<_> = entries.iter().map(|entry| (entry.reason.as_str(), entry.left_out)).collect();
    assert_eq!(seen, [("not_tls", 0), ("not_tls", 1), ("disable", 0)]);
    assert_eq!((entries[0].peer, entries[0].detail.as_str()), (Some(PEER), "plain \"MQTT\"\n"));
    assert_eq!(entries[2].device, Some(device));
    assert!(entries.windows(2).all(|pair| pair[0].time <= pair[1].time));
}

#[test]
fn a_flood_is_bounded_and_what_was_left_out_is_counted() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("audit");
    let mut writer = Writer::new(dir.clone());
    let stamp = clock(place.path()).stamp();
    for _ in 0..10_000 {
        writer.take(Entry::new(refused(&"x".repeat(200)), stamp, 0));
    }
    std::thread::sleep(Duration::from_secs(1));
    writer.take(Entry::new(refused("the last one"), stamp, 0));
    let (orders, received) = sync_channel(1);
    drop(orders);
    writer.run(&received);
    let entries = entries(&dir);
    let told: u64 = entries.iter().map(|entry| entry.left_out).sum();
    assert_eq!(entries.len() as u64 + told, 10_001);
    assert!(entries.len() < 1_000, "{} lines", entries.len());
    assert_eq!(entries.last().unwrap().detail, "the last one");
}

#[test]
fn the_files_are_bounded_and_the_newest_entries_are_kept() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("audit");
    let stamp = clock(place.path()).stamp();
    let detail = "x".repeat(10_000);
    for number in 0..80 {
        let lines: Vec<_> =
            (0..10).flat_map(|_| Entry::new(refused(&detail), stamp, number).to_line()).collect();
        file::append_lines(&dir, &lines).unwrap();
    }
    let bytes: u64 =
        std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes <= 4 * file::MAX_FILE_BYTES, "{bytes} bytes");
    let kept = entries(&dir);
    assert_eq!(kept.last().unwrap().left_out, 79);
    assert!(kept[0].left_out > 30 && kept.is_sorted_by_key(|entry| entry.left_out));
}

#[test]
fn a_torn_line_is_passed_over() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("audit");
    let entry = Entry::new(refused("whole"), clock(place.path()).stamp(), 0);
    append(&dir, &entry).unwrap();
    file::append_lines(&dir, b"{\"time\":\"2026-\n").unwrap();
    append(&dir, &entry).unwrap();
    assert_eq!(entries(&dir), [entry.clone(), entry]);
}

#[test]
fn an_entry_is_about_who_did_it_and_about_whom_they_said_they_were() {
    let place = tempfile::tempdir().unwrap();
    let stamp = clock(place.path()).stamp();
    let [pump, fan, lamp] = ["pump", "fan", "lamp"].map(|name| DeviceId::parse(name).unwrap());
    let about = |whom| {
        let entry = Entry::new(Event::Refused { reason: "password_wrong", whom, detail: "" }, stamp, 0);
        [&pump, &fan, &lamp].map(|device| entry.is_about(device))
    };
    let client = Whom { client_id: Some("lamp"), ..Whom::at(PEER) };
    assert_eq!(about(Whom::at(PEER)), [false; 3]);
    assert_eq!(about(client), [false, false, true], "nothing else is known");
    assert_eq!(about(Whom { claimed: Some(&fan), ..client }), [false, true, false]);
    assert_eq!(about(Whom { device: Some(&pump), claimed: Some(&fan), ..client }), [true, true, false]);
}
