//! `tampu send`: a command for a device, and what becomes of it.

use std::io::Read as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::command::told;
use super::{ConfigArg, block_on};
use crate::api::client;
use crate::api::local::ToSend;
use crate::message::DeviceId;
use crate::relay::{Shown, State};

/// One question waits so long for the end of a command; then the next one is asked.
const WAIT: Duration = Duration::from_secs(30);

/// `tampu send`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// The name of the device
    #[arg(value_parser = DeviceId::parse)]
    device: DeviceId,
    /// What is published; "-" for what comes on standard input
    payload: String,
    /// The topic [default: DEVICE/cmd]
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// The quality of service
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// How long it is good for, such as "30s" or "2h" [default: commands.good_for]
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    good_for: Option<Duration>,
    /// What it sets: it takes the place of an earlier command with this key that was not sent yet
    #[arg(long)]
    key: Option<Box<str>>,
    /// A name for it: a command with the same one is not sent again, this one is shown
    #[arg(long)]
    reference: Option<Box<str>>,
    /// Where the device answers; its answer ends the command as done or failed
    #[arg(long, value_name = "TOPIC")]
    reply_topic: Option<String>,
    /// Wait for the end of it. The exit code is 0 if it is done
    #[arg(long)]
    wait: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let data_dir = args.config.load()?.data_dir;
    let send = ToSend {
        device: args.device.clone(),
        topic: args.topic.clone().unwrap_or_else(|| format!("{}/cmd", args.device)),
        payload_base64: STANDARD.encode(payload(&args.payload)?),
        qos: args.qos,
        good_for_ms: args.good_for.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        key: args.key.clone(),
        reference: args.reference.clone(),
        reply_topic: args.reply_topic.clone(),
    };
    let command = block_on(async {
        let mut command = client::send(&data_dir, &send).await?;
        while args.wait && !command.state.is_final() {
            command = client::command(&data_dir, command.id, WAIT).await?;
        }
        Ok(command)
    })?;
    show(&command, args.json)?;
    match command.state {
        State::Queued | State::Sent | State::Acked | State::Done => Ok(ExitCode::SUCCESS),
        _ => Ok(ExitCode::FAILURE),
    }
}

fn payload(argument: &str) -> anyhow::Result<Vec<u8>> {
    if argument != "-" {
        return Ok(argument.as_bytes().to_vec());
    }
    let mut payload = Vec::new();
    // An MQTT packet cannot hold more.
    let most = 256 * 1024 * 1024;
    std::io::stdin().take(most + 1).read_to_end(&mut payload).context("reading standard input")?;
    if payload.len() as u64 > most {
        bail!("standard input holds more than a packet can");
    }
    Ok(payload)
}

fn show(command: &Shown, json: bool) -> anyhow::Result<()> {
    match json {
        true => println!("{}", serde_json::to_string_pretty(command)?),
        false => println!("{} {}", command.id, told(command)),
    }
    Ok(())
}
