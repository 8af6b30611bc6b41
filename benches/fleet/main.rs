//! A fleet of devices with a certificate and an address each, at tampu and at Debian's mosquitto in turn: idle, reporting
//! once a second, and coming back all at once, from their own addresses and behind one router. How to read it: `benches/README.md`.

#[allow(dead_code, reason = "of it, the other benchmark uses more")]
#[path = "../side_by_side/broker.rs"]
mod broker;
#[allow(dead_code, reason = "of it, the other benchmark uses more")]
#[path = "../side_by_side/client.rs"]
mod client;
mod commands;
mod devices;
#[path = "../side_by_side/pki.rs"]
mod pki;
mod runs;

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::broker::{Broker, Doors, Kind, LOG};
use crate::commands::RoundTrips;
use crate::devices::Fleet;
use crate::pki::Pki;
use crate::runs::{Idle, Reporting, Returns, Storm};

/// How much of it.
struct Size {
    /// Connections that are idle, in a process of the broker each.
    idle: Vec<usize>,
    idle_for: Duration,
    /// Devices that report once a second.
    reporting: usize,
    report_for: Duration,
    /// Devices that come back after a kill -9.
    storm: usize,
    /// Devices behind one router that reboots twice.
    behind_router: usize,
    /// Devices that are connected while commands are sent, and how many commands.
    commanded: usize,
    commands: usize,
}

/// The figures of one broker.
struct Figures {
    idle: Vec<Idle>,
    reporting: Reporting,
    storm: Storm,
    returns: Returns,
    /// Of tampu: mosquitto has no ledger.
    round_trips: Option<RoundTrips>,
}

const USAGE: &str = "cargo bench --bench fleet [-- --quick] [--only mosquitto|tampu]";

fn main() -> anyhow::Result<()> {
    // `cargo bench` says so; without it this is `cargo test`, which asks only whether it works.
    let mut quick = !std::env::args().any(|argument| argument == "--bench");
    let mut kinds = vec![Kind::Mosquitto, Kind::Tampu];
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--bench" => {}
            "--quick" => quick = true,
            "--only" => {
                let name = given.next().context(USAGE)?;
                kinds.retain(|kind| kind.name() == name);
            }
            _ => anyhow::bail!("{USAGE}"),
        }
    }
    let second = Duration::from_secs(1);
    let size = if quick {
        Size {
            idle: vec![100],
            idle_for: second,
            reporting: 100,
            report_for: 3 * second,
            storm: 50,
            behind_router: 50,
            commanded: 50,
            commands: 100,
        }
    } else {
        Size {
            idle: vec![1_000, 5_000],
            idle_for: 30 * second,
            reporting: 1_000,
            report_for: 30 * second,
            storm: 1_000,
            behind_router: 1_000,
            commanded: 1_000,
            commands: 2_000,
        }
    };
    let most = size
        .idle
        .iter()
        .copied()
        .chain([size.reporting, size.storm, size.behind_router, size.commanded])
        .max()
        .unwrap_or_default();
    allow_open_files(most as u64 + 1_000)?;
    // Not in /tmp: a sync must reach a disk.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let pki = Pki::create(dir.path())?;
    eprintln!("making {most} keys and certificates");
    let fleet = Fleet::new(&pki, most)?;
    if cfg!(debug_assertions) {
        println!(
            "This build of tampu is not optimised: it shows that the benchmark works, and nothing else.\n"
        );
    }
    for kind in kinds {
        let home = dir.path().join(kind.name());
        let figures = measure(kind, &home, &pki, &fleet, &size).map_err(|error| {
            let log = std::fs::read_to_string(home.join(LOG)).unwrap_or_default();
            error.context(format!("{}; it said:\n{log}", kind.name()))
        })?;
        print(kind, &figures);
    }
    Ok(())
}

fn measure(kind: Kind, home: &Path, pki: &Pki, fleet: &Fleet, size: &Size) -> anyhow::Result<Figures> {
    // As it comes: the bounds of an address hold.
    let start = || Broker::start(kind, home, pki, &fleet.watcher, Doors::AsShipped);
    let mut idle = Vec::new();
    for count in &size.idle {
        eprintln!("{}: {count} idle connections", kind.name());
        idle.push(runs::idle(&start()?, fleet, *count, size.idle_for)?);
    }
    eprintln!("{}: {} devices that report", kind.name(), size.reporting);
    let reporting = runs::reporting(&start()?, fleet, size.reporting, size.report_for)?;
    eprintln!("{}: {} devices that come back", kind.name(), size.storm);
    let storm = runs::storm(&mut start()?, fleet, size.storm)?;
    eprintln!("{}: {} devices behind one router", kind.name(), size.behind_router);
    let returns = runs::returns(&start()?, fleet, size.behind_router)?;
    let round_trips = match kind {
        Kind::Mosquitto => None,
        Kind::Tampu => {
            eprintln!("{}: {} devices that get commands", kind.name(), size.commanded);
            Some(commands::round_trips(&start()?, fleet, size.commanded, size.commands)?)
        }
    };
    Ok(Figures { idle, reporting, storm, returns, round_trips })
}

fn print(kind: Kind, Figures { idle, reporting, storm, returns, round_trips }: &Figures) {
    println!("{}", kind.name());
    for Idle { connections, kib_each, cpu_percent, connected_in } in idle {
        println!(
            "  {connections:>5} idle            {kib_each:>6.1} KiB each   {cpu_percent:>5.1} % CPU   \
             connected in {:.1} s",
            connected_in.as_secs_f64()
        );
    }
    let Reporting { devices, published, delivered, cpu_percent, acks, deliveries, rss_kib } = reporting;
    println!(
        "  {devices:>5} report each s   {cpu_percent:>6.1} % CPU   {published} published, {delivered} delivered   \
         {} MiB resident",
        rss_kib / 1024
    );
    println!("        PUBACK                p50 {:>7.1} ms  p99 {:>7.1} ms", acks.p50_ms, acks.p99_ms);
    println!(
        "        device to # subscriber p50 {:>6.1} ms  p99 {:>7.1} ms",
        deliveries.p50_ms, deliveries.p99_ms
    );
    let Storm { devices, first, half, all, cpu_seconds } = storm;
    let seconds = Duration::as_secs_f64;
    println!(
        "  {devices:>5} come back       first acked after {:.2} s, half {:.2} s, all {:.2} s   {cpu_seconds:.2} s CPU",
        seconds(first),
        seconds(half),
        seconds(all)
    );
    let Returns { devices, times } = returns;
    let [first, second] = times.each_ref().map(seconds);
    println!("  {devices:>5} behind a router  all back after {first:.2} s, and again after {second:.2} s");
    if let Some(RoundTrips { devices, commands, to_device, round_trip }) = round_trips {
        println!("  {devices:>5} get commands     {commands} by the REST API, one after the other");
        println!(
            "        API to device         p50 {:>7.1} ms  p99 {:>7.1} ms",
            to_device.p50_ms, to_device.p99_ms
        );
        println!(
            "        API to device to ack  p50 {:>7.1} ms  p99 {:>7.1} ms",
            round_trip.p50_ms, round_trip.p99_ms
        );
    }
    println!();
}

/// The broker's ends of the connections are in a process of its own, which inherits the limit.
fn allow_open_files(wanted: u64) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(limit.maximum.map_or(wanted, |max| max.min(wanted))), ..limit };
        setrlimit(Resource::Nofile, raised).context("raising the limit of open files")?;
    }
    Ok(())
}
