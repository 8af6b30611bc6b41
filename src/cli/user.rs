//! `tampu user`: passwords of devices.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use clap::Subcommand;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::{ConfigArg, audit};
use crate::authorize::{IdentityKind, PasswordHash, Registry};
use crate::config::Config;
use crate::gateway;
use crate::message::DeviceId;

/// More is not a password; the registry's own bound is lower.
const MAX_INPUT_BYTES: u64 = 64 * 1024;

/// `tampu user …`
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Set the password of a device, whose name is its user name. It is asked for, or read from standard input
    Set {
        /// The device's name
        #[arg(value_parser = DeviceId::parse)]
        device: DeviceId,
    },
    /// Take the password of a device away; if it is connected with it, it is put out
    Delete {
        /// The device's name
        #[arg(value_parser = DeviceId::parse)]
        device: DeviceId,
    },
}

pub(super) fn run(config: &ConfigArg, command: &Command) -> anyhow::Result<ExitCode> {
    let config = config.load()?;
    match command {
        Command::Set { device } => {
            let password = if std::io::stdin().is_terminal() { ask(device)? } else { read()? };
            let hash = PasswordHash::of(&password).map_err(anyhow::Error::msg)?;
            let data_dir = gateway::data_dir(&config)?;
            Registry::update(data_dir, |devices| {
                devices.device_mut(device).password = Some(hash);
                anyhow::Ok(())
            })?;
            audit::changed(&config, "user set", Some(device), "another password");
            println!("{device} has a new password. A gateway that runs takes it within a second.");
            warn_if_unused(&config, IdentityKind::Password);
        }
        Command::Delete { device } => {
            Registry::update(gateway::data_dir(&config)?, |devices| {
                let password = devices.device_mut(device).password.take();
                ensure!(password.is_some(), "{device} has no password in {}", config.data_dir.display());
                Ok(())
            })?;
            audit::changed(&config, "user delete", Some(device), "no password any more");
            println!("{device} has no password any more.");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Says when no listener takes what was just made.
pub(super) fn warn_if_unused(config: &Config, kind: IdentityKind) {
    if !config.access.doors.values().flatten().any(|taken| *taken == kind) {
        let word = kind.as_str();
        eprintln!(
            "Note: no listener takes it yet: identities = [\"certificate\", {word:?}] in [listener] would."
        );
    }
}

/// From a pipe or a file; the line's end is not part of it.
fn read() -> anyhow::Result<Vec<u8>> {
    let mut password = Vec::new();
    std::io::stdin().take(MAX_INPUT_BYTES).read_to_end(&mut password).context("reading the password")?;
    if password.ends_with(b"\n") {
        password.pop();
    }
    if password.ends_with(b"\r") {
        password.pop();
    }
    Ok(password)
}

/// From a person, twice, without an echo.
fn ask(device: &DeviceId) -> anyhow::Result<Vec<u8>> {
    let (first, second) = (ask_once(&format!("Password of {device}: "))?, ask_once("Once more: ")?);
    if first != second {
        bail!("the two are not the same");
    }
    Ok(first.into_bytes())
}

fn ask_once(prompt: &str) -> anyhow::Result<String> {
    let stdin = std::io::stdin();
    let mut stderr = std::io::stderr();
    write!(stderr, "{prompt}")?;
    stderr.flush()?;
    let before = tcgetattr(&stdin).context("asking the terminal")?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Flush, &silent).context("silencing the terminal")?;
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    tcsetattr(&stdin, OptionalActions::Flush, &before).context("giving the terminal its echo back")?;
    writeln!(stderr)?;
    read.context("reading the password")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
