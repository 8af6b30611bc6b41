//! tampu beside Debian's mosquitto on this machine, under one load. How to read it: `benches/README.md`.

#[allow(dead_code, reason = "of it, the other benchmark uses more")]
mod broker;
#[allow(dead_code, reason = "of it, the other benchmark uses more")]
mod client;
mod load;
mod pki;
mod report;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::broker::{Broker, Doors, Kind, LOG};
use crate::load::{CLIENTS, Identities, Size};
use crate::pki::Pki;

struct Arguments {
    kinds: Vec<Kind>,
    rounds: usize,
    size: Size,
}

fn main() -> anyhow::Result<()> {
    let Some(arguments) = arguments(std::env::args().skip(1).collect())? else {
        println!("{USAGE}");
        return Ok(());
    };
    allow_open_files(2 * arguments.size.idle as u64 + 1_000)?;
    // Not in /tmp: a sync must reach a disk.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let pki = Pki::create(dir.path())?;
    let identities = identities(&pki)?;
    let mut rounds = Vec::new();
    for round in 0..arguments.rounds {
        for kind in &arguments.kinds {
            eprintln!("round {} of {}: {}", round + 1, arguments.rounds, kind.name());
            let home = dir.path().join(format!("{}{round}", kind.name()));
            match one(*kind, &home, &pki, &identities, arguments.size) {
                Ok(figures) => rounds.push((*kind, figures)),
                Err(error) => {
                    let log = std::fs::read_to_string(home.join(LOG)).unwrap_or_default();
                    return Err(error.context(format!("{}; it said:\n{log}", kind.name())));
                }
            }
        }
    }
    report::print(&rounds);
    Ok(())
}

fn one(kind: Kind, home: &Path, pki: &Pki, who: &Identities, size: Size) -> anyhow::Result<load::Figures> {
    let broker = Broker::start(kind, home, pki, &who.watcher, Doors::Open)?;
    load::measure(&broker, who, size)
}

fn identities(pki: &Pki) -> anyhow::Result<Identities> {
    let devices = (0..CLIENTS)
        .map(|n| {
            let name = format!("d{n}");
            let tls = pki.client(&name)?;
            Ok((name, tls))
        })
        .collect::<anyhow::Result<_>>()?;
    Ok(Identities { devices, watcher: pki.client("watcher")? })
}

const USAGE: &str = "cargo bench --bench side_by_side [-- OPTIONS]
  --quick              one short round, to see that it works
  --rounds N           rounds of both brokers in turn (2)
  --publishes N        publishes a run (200000)
  --idle N             idle connections (1000)
  --only mosquitto|tampu";

const QUICK: Size = Size { publishes: 20_000, gentle: Duration::from_secs(5), idle: 200 };
const FULL: Size = Size { publishes: 200_000, gentle: Duration::from_secs(20), idle: 1_000 };

fn arguments(given: Vec<String>) -> anyhow::Result<Option<Arguments>> {
    // `cargo bench` says so; without it this is `cargo test`, which asks only whether it works.
    let bench = given.iter().any(|argument| argument == "--bench");
    let mut given = given.into_iter();
    let mut arguments = Arguments {
        kinds: vec![Kind::Mosquitto, Kind::Tampu],
        rounds: if bench { 2 } else { 1 },
        size: if bench { FULL } else { QUICK },
    };
    while let Some(argument) = given.next() {
        let mut number = || -> anyhow::Result<usize> {
            let text = given.next().with_context(|| format!("{argument} needs a number"))?;
            text.parse().with_context(|| format!("{argument} {text}"))
        };
        match argument.as_str() {
            "--bench" => {}
            "--quick" => {
                arguments.rounds = 1;
                arguments.size = QUICK;
            }
            "--rounds" => arguments.rounds = number()?,
            "--publishes" => arguments.size.publishes = number()?,
            "--idle" => arguments.size.idle = number()?,
            "--only" => {
                let name = given.next().context("--only needs a name")?;
                arguments.kinds.retain(|kind| kind.name() == name);
                ensure!(!arguments.kinds.is_empty(), "--only {name}: mosquitto or tampu");
            }
            "--help" => return Ok(None),
            other => anyhow::bail!("{other} is not known\n{USAGE}"),
        }
    }
    ensure!(arguments.rounds > 0 && arguments.size.publishes >= CLIENTS && arguments.size.idle > 0, USAGE);
    Ok(Some(arguments))
}

/// Both ends of every connection are files: the brokers inherit the limit.
fn allow_open_files(wanted: u64) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(limit.maximum.map_or(wanted, |max| max.min(wanted))), ..limit };
        setrlimit(Resource::Nofile, raised).context("raising the limit of open files")?;
    }
    Ok(())
}
