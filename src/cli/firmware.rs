//! `tampu firmware`: releases for devices, and how far they have got.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;
use time::OffsetDateTime;

use super::{ConfigArg, audit};
use crate::authorize::{Authorizer, Registry, TokenKeys};
use crate::config::Config;
use crate::firmware::{
    DeviceState, Kind, Md5, NewRelease, Offered, Release, Rollout, Room, Sha256, Store, Target, Version,
};
use crate::gateway;
use crate::message::DeviceId;

/// `tampu firmware …`
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Take an image, and offer it to devices
    Add(Add),
    /// List the releases
    List {
        /// Print JSON, for scripts
        #[arg(long)]
        json: bool,
    },
    /// Give a release to more devices, by default to all for whom it is
    Promote {
        /// The number of the release
        id: u32,
        /// A share such as 50%, or devices such as a,b; nobody loses it
        #[arg(long, default_value = "100%")]
        rollout: Rollout,
    },
    /// Take a release back: its devices are offered the one before it
    Rollback {
        /// The number of the release
        id: u32,
    },
    /// Forget a release, and its image
    Remove {
        /// The number of the release
        id: u32,
    },
    /// Show what each device runs, what it was offered, and how much of that it has fetched
    State {
        /// Print JSON, for scripts
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// The image, as the build has made it (.bin)
    file: PathBuf,
    /// For this group, or this device, or "*" for every device
    #[arg(long = "for", value_name = "GROUP|DEVICE")]
    target: Target,
    /// Its version, as the devices tell it
    #[arg(long)]
    version: Version,
    /// Who gets it first: a share such as 10%, or devices such as a,b
    #[arg(long, default_value = "100%")]
    rollout: Rollout,
    /// It is a file system (LittleFS, SPIFFS) and not a program
    #[arg(long)]
    filesystem: bool,
    /// What its SHA-256 must be
    #[arg(long)]
    sha256: Option<Sha256>,
    /// What its MD5 must be
    #[arg(long)]
    md5: Option<Md5>,
}

pub(super) fn run(config: &ConfigArg, command: &Command) -> anyhow::Result<ExitCode> {
    let config = config.load()?;
    let store = Store::new(&config.data_dir);
    match command {
        Command::Add(new) => add(&config, &store, new)?,
        Command::List { json } => list(store.read()?.iter(), *json)?,
        Command::Promote { id, rollout } => {
            let release = store.promote(*id, rollout.clone())?;
            changed(&config, "firmware promote", &release);
            println!("{release}");
        }
        Command::Rollback { id } => {
            let release = store.roll_back(*id)?;
            changed(&config, "firmware rollback", &release);
            println!("{release} is not offered any more.");
        }
        Command::Remove { id } => {
            let release = store.remove(*id)?;
            changed(&config, "firmware remove", &release);
            println!("{release} is gone.");
        }
        Command::State { json } => state(&store, *json)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn add(config: &Config, store: &Store, new: &Add) -> anyhow::Result<()> {
    gateway::data_dir(config)?;
    let file = File::open(&new.file).with_context(|| format!("reading {}", new.file.display()))?;
    let Add { target, version, rollout, filesystem, sha256, md5, .. } = new;
    let new_release = NewRelease {
        version: version.clone(),
        target: target.clone(),
        rollout: rollout.clone(),
        kind: if *filesystem { Kind::FileSystem } else { Kind::Program },
        sha256: *sha256,
        md5: *md5,
    };
    let room = Room::of(config);
    let now = gateway::offline_clock(config)?.trusted_now().into();
    let release = store
        .add(file, new_release, room, now)
        .with_context(|| format!("{} is refused", new.file.display()))?;
    changed(config, "firmware add", &release);
    println!("{release}");
    println!("for     {}", audience(config, &release.target)?);
    println!("size    {} bytes", release.image.bytes);
    println!("sha256  {}", release.image.sha256);
    println!("md5     {}", release.image.md5);
    if config.firmware.address.is_none() {
        eprintln!("Note: no device can fetch it yet: set [firmware] address in the configuration.");
    }
    Ok(())
}

/// A misspelt group is a device of which nobody has heard.
fn audience(config: &Config, target: &Target) -> anyhow::Result<String> {
    let Target::Named(name) = target else { return Ok("every device".to_owned()) };
    let devices = Registry::read(&config.data_dir)?;
    let rules =
        Authorizer::with(&config.access, &config.streams, devices.into(), TokenKeys::default().into());
    Ok(match rules.group_members(name) {
        Some(members) => format!("the group {name}, with {} devices", members.len()),
        None => format!("the device {name} (there is no group of this name)"),
    })
}

fn changed(config: &Config, change: &str, release: &Release) {
    audit::changed(config, change, None, &release.to_string());
}

fn list<'a>(releases: impl Iterator<Item = &'a Release>, json: bool) -> anyhow::Result<()> {
    let releases: Vec<_> = releases.collect();
    if json {
        println!("{}", serde_json::to_string_pretty(&releases)?);
        return Ok(());
    }
    if releases.is_empty() {
        println!("There is no release yet: `tampu firmware add FILE --for GROUP --version V` makes one.");
        return Ok(());
    }
    let rows = releases.iter().map(|release| {
        let Release { id, version, target, rollout, withdrawn, added, image } = release;
        [
            id.to_string(),
            version.to_string(),
            target.to_string(),
            if *withdrawn { "rolled back".to_owned() } else { rollout.to_string() },
            image.bytes.to_string(),
            added.date().to_string(),
            match image.kind() {
                Kind::FileSystem => "file system".to_owned(),
                Kind::Program => image.project.clone().unwrap_or_else(|| "program".to_owned()),
            },
        ]
    });
    print_table(["ID", "VERSION", "FOR", "ROLLOUT", "BYTES", "ADDED", "WHAT"], rows);
    Ok(())
}

fn state(store: &Store, json: bool) -> anyhow::Result<()> {
    let states = store.read_states();
    if json {
        let rows: Vec<_> =
            states.iter().map(|(device, state)| json!({ "device": device, "state": state })).collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    if states.iter().next().is_none() {
        println!("No device has asked for firmware yet.");
        return Ok(());
    }
    let releases = store.read()?;
    let rows = states.iter().map(|(device, state)| row(device, state, |id| releases.get(id).is_some()));
    print_table(["DEVICE", "RUNS", "OFFERED", "FETCHED", "HEARD"], rows);
    Ok(())
}

fn row(device: &DeviceId, state: &DeviceState, is_kept: impl Fn(u32) -> bool) -> [String; 5] {
    let offered = state.offers.get(&Kind::Program).or_else(|| state.offers.values().next());
    let short = |at: OffsetDateTime| format!("{} {:02}:{:02}", at.date(), at.hour(), at.minute());
    let fetched = match (offered, &state.problem) {
        (_, Some(problem)) => problem.clone(),
        (Some(Offered { runs: true, .. }), None) => "has it".to_owned(),
        (Some(offered), None) if offered.sent == 0 => "not yet".to_owned(),
        (Some(offered), None) if offered.is_complete() => "all of it".to_owned(),
        (Some(offered), None) => format!("{}%", offered.sent * 100 / offered.bytes.max(1)),
        (None, None) => "-".to_owned(),
    };
    let offered = offered.map_or("-".to_owned(), |offered| {
        let gone = if is_kept(offered.release) { "" } else { ", removed" };
        format!("{} (release {}{gone})", offered.version, offered.release)
    });
    [
        device.to_string(),
        state.version.as_ref().map_or("-".to_owned(), ToString::to_string),
        offered,
        fetched,
        state.heard.map_or("never".to_owned(), short),
    ]
}

fn print_table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) {
    let rows: Vec<_> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for row in &rows {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("{}", cells.join("  ").trim_end());
    }
}
