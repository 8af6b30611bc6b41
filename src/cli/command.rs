//! `tampu command`: which commands there are, and taking them back.

use std::process::ExitCode;
use std::time::Duration;

use super::{ConfigArg, block_on};
use crate::api::client;
use crate::message::{CommandId, DeviceId};
use crate::relay::{Shown, State};

/// `tampu command …`
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List commands, the newest first
    List(ListArgs),
    /// Show all of one command
    Show {
        /// Its id
        id: CommandId,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Take a command back that was not sent yet
    Cancel {
        /// Its id
        id: CommandId,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Of this device
    #[arg(long, value_parser = DeviceId::parse)]
    device: Option<DeviceId>,
    /// In this state: queued, sent, acked, done, failed, expired, refused, cancelled
    #[arg(long, value_parser = state)]
    state: Option<State>,
    /// How many at most
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=500))]
    limit: u16,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn state(text: &str) -> Result<State, String> {
    let words = State::ALL.map(State::as_str).join(", ");
    State::ALL.into_iter().find(|state| state.as_str() == text).ok_or(format!("not one of {words}"))
}

pub(super) fn run(config: &ConfigArg, command: &Command) -> anyhow::Result<ExitCode> {
    let data_dir = config.load()?.data_dir;
    match command {
        Command::List(ListArgs { device, state, limit, json }) => {
            let mut query = vec![("limit", limit.to_string())];
            query.extend(device.as_ref().map(|device| ("device", device.to_string())));
            query.extend(state.map(|state| ("state", state.as_str().to_owned())));
            let found = block_on(async { Ok(client::commands(&data_dir, &query).await?) })?;
            if *json {
                println!("{}", serde_json::to_string_pretty(&found.commands)?);
            } else {
                print_list(&found.commands);
            }
        }
        Command::Show { id, json } => {
            let found = block_on(async { Ok(client::command(&data_dir, *id, Duration::ZERO).await?) })?;
            if *json { println!("{}", serde_json::to_string_pretty(&found)?) } else { print_one(&found) }
        }
        Command::Cancel { id } => {
            let cancelled = block_on(async { Ok(client::cancel(&data_dir, *id).await?) })?;
            println!("{} {}", cancelled.id, told(&cancelled));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How far a command is, and why, and what the device said.
pub(super) fn told(command: &Shown) -> String {
    let more = [&command.reason, &command.result].into_iter().flatten().map(|text| printable(text));
    let more: Vec<_> = more.collect();
    match more.is_empty() {
        true => command.state.as_str().to_owned(),
        false => format!("{}: {}", command.state.as_str(), more.join(": ")),
    }
}

/// A device's words cannot do anything to the terminal.
fn printable(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

fn print_list(commands: &[Shown]) {
    if commands.is_empty() {
        println!("no such commands");
    }
    for command in commands {
        let payload = printable(&payload(command));
        println!("{}  {:16}  {} {payload}\n    {}", command.id, command.device, command.topic, told(command));
    }
}

fn payload(command: &Shown) -> String {
    match (&command.payload, &command.payload_base64) {
        (Some(text), _) => text.clone(),
        (None, Some(base64)) => format!("(base64) {base64}"),
        (None, None) => String::new(),
    }
}

fn print_one(command: &Shown) {
    let line = |name: &str, value: &str| println!("{name:12} {}", printable(value));
    line("id", &command.id.to_string());
    line("device", command.device.as_str());
    line("topic", &command.topic);
    line("payload", &payload(command));
    line("qos", &command.qos.to_string());
    line("state", &told(command));
    line("from", &format!("{} {}", command.source.as_str(), command.source_name));
    line(
        "good for",
        &humantime::format_duration(Duration::from_secs_f64(command.good_for_s.max(0.0))).to_string(),
    );
    line("attempts", &command.attempts.to_string());
    let optional =
        [("key", &command.key), ("reference", &command.reference), ("reply topic", &command.reply_topic)];
    for (name, value) in optional {
        if let Some(value) = value {
            line(name, value);
        }
    }
    for (state, at) in &command.times {
        line(state.as_str(), at.as_deref().unwrap_or("(the clock was not right)"));
    }
}
