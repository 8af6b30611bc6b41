//! `tampu key`: API keys of devices.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use time::OffsetDateTime;

use super::user::warn_if_unused;
use super::{ConfigArg, audit};
use crate::authorize::{ApiKey, Devices, IdentityKind, NewKey, Registry};
use crate::config::Config;
use crate::gateway;
use crate::message::DeviceId;

/// A device has no more keys: one in force, one that follows it, and a few that were forgotten.
const MAX_KEYS: usize = 16;

/// `tampu key …`
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a key for a device, and print it: it is shown this once. It is the password of its MQTT connection
    Add {
        /// The device's name
        #[arg(value_parser = DeviceId::parse)]
        device: DeviceId,
        /// For so long, such as "90d" [default: until it is revoked]
        #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
        expires: Option<Duration>,
    },
    /// Make a new key in the place of another
    Rotate {
        /// The id of the key: the 8 digits after `tampu_`
        id: String,
        /// Let the old one be good for so long, such as "24h" [default: it is revoked at once]
        #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
        keep: Option<Duration>,
        /// The new one is good for so long [default: until it is revoked]
        #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
        expires: Option<Duration>,
    },
    /// Revoke a key; a device that is connected with it is put out
    Revoke {
        /// The id of the key: the 8 digits after `tampu_`
        id: String,
    },
    /// List the keys, without the keys themselves
    List {
        /// Print JSON, for scripts
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(config: &ConfigArg, command: &Command) -> anyhow::Result<ExitCode> {
    let config = config.load()?;
    match command {
        Command::Add { device, expires } => {
            let now = now(&config)?;
            hand_over(&config, |devices| add(devices, device, now, *expires))?;
            audit::changed(&config, "key add", Some(device), "one more API key");
        }
        Command::Rotate { id, keep, expires } => {
            let now = now(&config)?;
            hand_over(&config, |devices| rotate(devices, id, now, *keep, *expires))?;
            audit::changed(&config, "key rotate", None, &format!("another API key for {id}"));
        }
        Command::Revoke { id } => {
            let device = Registry::update(gateway::data_dir(&config)?, |devices| revoke(devices, id))?;
            audit::changed(&config, "key revoke", Some(&device), &format!("the API key {id}"));
            println!("The key {id} of {device} is revoked. A gateway that runs knows within a second.");
        }
        Command::List { json } => list(&Registry::read(&config.data_dir)?, *json)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a new key, after it was kept.
fn hand_over(
    config: &Config,
    make: impl FnOnce(&mut Devices) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let key = Registry::update(gateway::data_dir(config)?, make)?;
    println!("{key}");
    eprintln!("This is shown once. It is the password; the user name is the device's name, or empty.");
    warn_if_unused(config, IdentityKind::ApiKey);
    Ok(())
}

fn add(
    devices: &mut Devices,
    device: &DeviceId,
    now: OffsetDateTime,
    expires: Option<Duration>,
) -> anyhow::Result<String> {
    if devices.device(device).is_some_and(|known| known.keys.len() >= MAX_KEYS) {
        bail!("{device} has {MAX_KEYS} keys already: revoke one of them (tampu key list)");
    }
    let expires = expires.map(|after| end(now, after)).transpose()?;
    let new = NewKey::make(devices, now, expires).map_err(anyhow::Error::msg)?;
    devices.device_mut(device).keys.push(new.record);
    Ok(new.key)
}

fn rotate(
    devices: &mut Devices,
    id: &str,
    now: OffsetDateTime,
    keep: Option<Duration>,
    expires: Option<Duration>,
) -> anyhow::Result<String> {
    let Some(keep) = keep else {
        let device = revoke(devices, id)?;
        return add(devices, &device, now, expires);
    };
    let device = owner(devices, id)?;
    let last = end(now, keep)?;
    for key in devices.device_mut(&device).keys.iter_mut().filter(|key| key.id == id) {
        key.expires = Some(key.expires.map_or(last, |expires| expires.min(last)));
    }
    add(devices, &device, now, expires)
}

fn revoke(devices: &mut Devices, id: &str) -> anyhow::Result<DeviceId> {
    let device = owner(devices, id)?;
    devices.device_mut(&device).keys.retain(|key| key.id != id);
    Ok(device)
}

fn owner(devices: &Devices, id: &str) -> anyhow::Result<DeviceId> {
    let found = devices.key(id).map(|(device, _)| device.clone());
    found.with_context(|| format!("there is no key {id:?}; `tampu key list` shows their ids"))
}

fn list(devices: &Devices, json: bool) -> anyhow::Result<()> {
    let keys: Vec<_> =
        devices.iter().flat_map(|(device, known)| known.keys.iter().map(move |key| (device, key))).collect();
    if json {
        let rows: Vec<_> = keys
            .iter()
            .map(|(device, ApiKey { id, created, expires, .. })| {
                let text = |time: OffsetDateTime| time.unix_timestamp();
                serde_json::json!({
                    "device": device, "id": id, "created": text(*created), "expires": expires.map(text),
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    if keys.is_empty() {
        println!("No device has an API key yet: `tampu key add NAME` makes one.");
        return Ok(());
    }
    let width = keys.iter().map(|(device, _)| device.as_str().len()).max().unwrap_or(0).max("DEVICE".len());
    println!("{:width$}  ID        CREATED     EXPIRES", "DEVICE");
    for (device, ApiKey { id, created, expires, .. }) in keys {
        let expires = expires.map_or("never".to_owned(), |expires| expires.date().to_string());
        println!("{:width$}  {id}  {}  {expires}", device.as_str(), created.date());
    }
    Ok(())
}

fn now(config: &Config) -> anyhow::Result<OffsetDateTime> {
    Ok(gateway::offline_clock(config)?.trusted_now().into())
}

fn end(now: OffsetDateTime, after: Duration) -> anyhow::Result<OffsetDateTime> {
    let after = time::Duration::try_from(after).ok();
    after.and_then(|after| now.checked_add(after)).context("that is too long: leave --expires out")
}
