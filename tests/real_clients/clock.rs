//! A Raspberry Pi wakes up in 1970: it has no clock that runs while it is off (P7).

use std::fs;
use std::path::Path;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::harness::cloud::LocalCloud;
use crate::harness::mqtt::Device;
use crate::harness::{Gateway, Home, PATIENCE, eventually, utf8};

/// A gateway whose wall clock is what a file says, and which a time daemon tells by another file that it is right.
/// Its monotonic clocks are the machine's.
fn start(settings: &str) -> Gateway {
    let home = Home::new(settings);
    let (wall, synchronized) = (home.path("wall"), home.path("synchronized"));
    set_wall(&wall, "@1970-01-01 00:01:00");
    let source = format!("{{file=\"{}\"}}", synchronized.display());
    let wall = utf8(&wall).to_owned();
    home.with("LD_PRELOAD", library())
        .with("FAKETIME_TIMESTAMP_FILE", wall)
        .with("FAKETIME_NO_CACHE", "1")
        .with("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .with("TZ", "UTC")
        .with("TAMPU_CLOCK__SOURCE", source)
        .start()
}

/// The library that Debian's `faketime` preloads, where multiarch has put it.
fn library() -> String {
    let found = fs::read_dir("/usr/lib").expect("a system").filter_map(Result::ok).find_map(|entry| {
        let library = entry.path().join("faketime/libfaketime.so.1");
        library.exists().then(|| utf8(&library).to_owned())
    });
    found.expect("faketime is installed")
}

/// Rewrites the file that faketime reads: whole at any moment.
fn set_wall(file: &Path, spec: &str) {
    let new = file.with_extension("new");
    fs::write(&new, spec).unwrap();
    fs::rename(new, file).unwrap();
}

/// What a time daemon does: sets the clock, then says that it is right.
fn synchronize(gateway: &Gateway) {
    set_wall(&gateway.home.path("wall"), "+0");
    fs::write(gateway.home.path("synchronized"), "").unwrap();
}

fn time_of(text: &str) -> OffsetDateTime {
    let iso = text.replace(' ', "T");
    let iso = if iso.ends_with("+00") { iso + ":00" } else { iso };
    OffsetDateTime::parse(&iso, &Rfc3339).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn readings_from_before_the_clock_was_right_get_their_true_time() {
    let cloud = LocalCloud::start();
    let gateway = start(&cloud.supabase_sink());
    let mut plug = Device::connect(gateway.address, &gateway.home.device("plug"), "plug");
    let mut true_times = Vec::new();
    for n in 0..3 {
        true_times.push(OffsetDateTime::now_utc());
        plug.publish("plug/readings", &format!("{{\"n\":{n}}}"));
    }
    gateway.wait_for_status("they are stored and wait", |status| {
        (status["buffer"]["sinks"]["database"]["pending"] == 3).then_some(())
    });
    assert!(cloud.rows().is_empty(), "they went out before their time was known");

    synchronize(&gateway);
    eventually("three rows", || (cloud.rows().len() == 3).then_some(()));
    true_times.push(OffsetDateTime::now_utc());
    plug.publish("plug/readings", "{\"n\":3}");
    let rows = eventually("the fourth row", || Some(cloud.rows()).filter(|rows| rows.len() == 4));
    for (row, published) in rows.iter().zip(true_times) {
        let error = time_of(&row.received_at) - published;
        assert!(error.abs() < PATIENCE, "{} instead of {published}", row.received_at);
    }
    let qualities: Vec<_> = rows.iter().map(|row| row.clock.as_str()).collect();
    assert_eq!(qualities, ["corrected", "corrected", "corrected", "synchronized"]);
}

#[test]
fn readings_of_an_earlier_life_of_the_process_are_corrected_too() {
    let cloud = LocalCloud::start();
    let gateway = start(&cloud.supabase_sink());
    let plug = gateway.home.device("plug");
    let published = OffsetDateTime::now_utc();
    Device::connect(gateway.address, &plug, "plug").publish("plug/readings", "{\"n\":0}");
    let gateway = gateway.kill().start();
    synchronize(&gateway);
    let row = eventually("a row", || cloud.rows().into_iter().next());
    assert_eq!(row.clock, "corrected");
    assert!((time_of(&row.received_at) - published).abs() < PATIENCE, "{row:?}");
}

#[test]
fn readings_whose_time_never_comes_go_on_and_say_so() {
    let cloud = LocalCloud::start();
    let gateway = start(&(cloud.supabase_sink() + "[clock]\nsync_wait = \"0s\"\n"));
    let mut plug = Device::connect(gateway.address, &gateway.home.device("plug"), "plug");
    plug.publish("plug/readings", "{\"n\":0}");
    let row = eventually("a row", || cloud.rows().into_iter().next());
    assert_eq!(row.clock, "unsynchronized");
}

#[test]
fn a_gateway_that_was_right_once_serves_tls_when_it_wakes_up_in_the_past() {
    let gateway = start("");
    let plug = gateway.home.device("plug");
    synchronize(&gateway);
    Device::connect(gateway.address, &plug, "plug").publish("plug/readings", "{\"n\":0}");
    let (_, home) = gateway.terminate();
    fs::remove_file(home.path("synchronized")).unwrap();
    set_wall(&home.path("wall"), "@1970-01-01 00:01:00");
    let gateway = home.start();
    Device::connect(gateway.address, &plug, "plug").publish("plug/readings", "{\"n\":1}");
}
