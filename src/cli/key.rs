//! `tampu key`: API keys of devices.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use time::OffsetDateTime;

use super::user::warn_if_unused;
use super::{ConfigArg, audit};
use crate::authorize::{ApiKey, Devices, IdentityKind, KeyError, NewKey, Registry};
use crate::config::Config;
use crate::gateway;
use crate::message::DeviceId;

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
            hand_over(&config, |devices| devices.add_key(device, now, *expires))?;
            audit::changed(&config, "key add", Some(device), "one more API key");
        }
        Command::Rotate { id, keep, expires } => {
            let now = now(&config)?;
            hand_over(&config, |devices| Ok(devices.rotate_key(id, now, *keep, *expires)?.1))?;
            audit::changed(&config, "key rotate", None, &format!("another API key for {id}"));
        }
        Command::Revoke { id } => {
            let device = Registry::update(gateway::data_dir(&config)?, |devices| devices.revoke_key(id))
                .map_err(advised)?;
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
    make: impl FnOnce(&mut Devices) -> Result<NewKey, KeyError>,
) -> anyhow::Result<()> {
    let new = Registry::update(gateway::data_dir(config)?, make).map_err(advised)?;
    println!("{}", new.key.expose());
    eprintln!("This is shown once. It is the password; the user name is the device's name, or empty.");
    warn_if_unused(config, IdentityKind::ApiKey);
    Ok(())
}

fn advised(error: KeyError) -> anyhow::Error {
    let is_of_keys = matches!(error, KeyError::Unknown(_) | KeyError::TooMany(_));
    let error = anyhow::Error::from(error);
    if is_of_keys { error.context("`tampu key list` shows the keys and their ids") } else { error }
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
