//! A disk that stops answering, as SD cards do at the end of their lives: no call on it ever returns.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::cloud::LocalCloud;
use crate::harness::mqtt::Device;
use crate::harness::{Home, eventually, text, utf8};

/// `dying_disk.c` as a shared library, built once a run.
fn library() -> &'static Path {
    static BUILT: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = BUILT.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("libdying_disk.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/end_to_end/dying_disk.c");
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-O2", "-Wall", "-o"])
            .args([&library, &source])
            .status()
            .expect("this test needs a C compiler called cc (Debian: apt-get install gcc)");
        assert!(status.success(), "dying_disk.c does not compile");
        (dir, library)
    });
    path
}

/// A home whose disk can be told to die, and to come back.
struct Disk(PathBuf);

impl Disk {
    fn under(home: Home) -> (Self, Home) {
        let dead = home.path("dead");
        let home = home.with("DEAD_DISK", utf8(&dead)).with("LD_PRELOAD", utf8(library()));
        (Self(dead), home)
    }

    fn die(&self) {
        std::fs::write(&self.0, "").unwrap();
    }

    fn come_back(&self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

#[test]
fn a_gateway_whose_disk_does_not_answer_says_so_ends_and_has_lost_nothing() {
    const DEVICES: usize = 3;
    let cloud = LocalCloud::start();
    cloud.go_away();
    let settings = cloud.supabase_sink() + "[buffer]\nstuck_after = \"15s\"\n";
    let (disk, home) = Disk::under(Home::new(&settings));
    let gateway = home.start();
    let names: Vec<_> = (0..DEVICES).map(|n| format!("d{n}")).collect();
    let devices: Vec<_> =
        names.iter().map(|name| Device::connect(gateway.address, &gateway.home.device(name), name)).collect();
    let load: Vec<_> = names.iter().cloned().zip(devices).collect();
    let load: Vec<_> = load
        .into_iter()
        .map(|(name, mut device)| {
            thread::spawn(move || {
                let payloads = (0_u64..).map(|n| format!("{{\"device\":\"{name}\",\"n\":{n}}}"));
                let topic = format!("{name}/readings");
                payloads.take_while(|payload| device.try_publish(&topic, payload).is_ok()).collect::<Vec<_>>()
            })
        })
        .collect();
    let accepted = |status: &Value| status["buffer"]["accepted"].as_u64();
    gateway.wait_for_status("some are accepted", |status| (accepted(status)? > 50).then_some(()));

    disk.die();
    // It still tells how it is.
    let trouble = gateway.wait_for_status("the status tells of it", |status| {
        status["buffer"]["trouble"].as_str().map(str::to_owned)
    });
    assert!(trouble.contains("fdatasync of the store has taken"), "{trouble}");
    let letters = gateway.home.tampu(&["buffer", "dead-letters"]);
    assert!(!letters.status.success() && text(&letters).contains("has not answered within"), "{letters:?}");

    let (status, home) = gateway.ended();
    assert_eq!(status.code(), Some(1), "{}", home.log());
    let log = home.log();
    assert!(
        log.contains("the store stands still: fdatasync of the store has not come to an end for 15 s"),
        "{log}"
    );
    let acked: BTreeSet<_> = load.into_iter().flat_map(|load| load.join().expect("no panic")).collect();
    assert!(acked.len() > 50, "{}", acked.len());

    disk.come_back();
    let gateway = home.start();
    cloud.come_back();
    gateway.wait_for_status("everything is delivered", |status| {
        let sink = &status["buffer"]["sinks"]["database"];
        (sink["pending"] == 0 && sink["accepted"] == status["buffer"]["accepted"]).then_some(())
    });
    let rows: BTreeSet<_> = cloud.rows().iter().map(|row| row.payload.to_string()).collect();
    let lost: Vec<_> = acked.difference(&rows).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
}

#[test]
fn a_gateway_that_cannot_even_open_its_store_says_so_and_ends() {
    let (disk, home) = Disk::under(Home::new("[buffer]\nstuck_after = \"2s\"\n"));
    disk.die();
    let (status, home) = home.launch().ended();
    assert_eq!(status.code(), Some(1), "{}", home.log());
    assert!(
        home.log().contains("stands still: syncing the store's files has not come to an end"),
        "{}",
        home.log()
    );
}

/// Starting takes as long as the test wants it to.
#[test]
fn a_reload_that_is_asked_for_before_the_gateway_serves_is_done_when_it_does() {
    let (disk, mut home) = Disk::under(Home::new(""));
    for life in 1..=3 {
        disk.die();
        let starting = home.launch();
        starting.wait_until_it_listens_to_signals();
        starting.signal(Signal::HUP);
        disk.come_back();
        let gateway = starting.serve();
        eventually("the reload", || {
            (gateway.home.log().matches("\"reloaded\"").count() == life).then_some(())
        });
        home = gateway.kill();
    }
}

#[test]
fn a_gateway_that_is_told_to_end_before_it_serves_ends_well() {
    let (disk, home) = Disk::under(Home::new(""));
    disk.die();
    let starting = home.launch();
    starting.wait_until_it_listens_to_signals();
    starting.signal(Signal::TERM);
    let (status, home) = starting.ended();
    assert!(status.success(), "{status}: {}", home.log());
    disk.come_back();
    home.start();
}
