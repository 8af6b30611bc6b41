//! `tampu audit`: what was refused and what was changed, and for the other commands, writing it down.

use std::collections::VecDeque;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use time::format_description::well_known::Rfc3339;

use super::ConfigArg;
use crate::audit::{self, Entry, Event};
use crate::config::Config;
use crate::gateway;
use crate::message::DeviceId;

/// Arguments of `tampu audit`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// Only what is about this device: what it did, and what others did under its name
    #[arg(long, value_parser = DeviceId::parse)]
    device: Option<DeviceId>,
    /// Only this reason or change, such as `certificate_expired` or `revoke`
    #[arg(long)]
    reason: Option<String>,
    /// Only the last hours or days, such as 1h or 7d
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// Print a JSON object a line, as it is written
    #[arg(long)]
    json: bool,
    /// At most so many entries: the newest
    #[arg(short, value_name = "COUNT", default_value_t = 100)]
    n: usize,
}

impl Args {
    fn wants(&self, entry: &Entry, now: time::OffsetDateTime) -> bool {
        self.device.as_ref().is_none_or(|device| entry.is_about(device))
            && self.reason.as_ref().is_none_or(|reason| entry.reason == *reason)
            && self.since.is_none_or(|since| now - entry.time <= since)
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?;
    let now = gateway::offline_clock(&config)?.trusted_now().into();
    let mut newest = VecDeque::new();
    audit::read(&audit::dir(&config.data_dir), |entry| {
        if args.wants(&entry, now) {
            newest.push_back(entry);
            if newest.len() > args.n {
                newest.pop_front();
            }
        }
    })?;
    // The gateway's entries are up to ten seconds late in the files; those of the commands are not.
    newest.make_contiguous().sort_by_key(|entry| entry.time);
    let mut out = std::io::stdout().lock();
    for entry in newest {
        if args.json {
            writeln!(out, "{}", serde_json::to_string(&entry)?)?;
        } else {
            writeln!(out, "{}", for_people(&entry))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn for_people(entry: &Entry) -> String {
    let Entry { time, clock, event, reason, peer, device, claimed, client_id, user, token, detail, left_out } =
        entry;
    let mut text = time.format(&Rfc3339).unwrap_or_else(|_| time.to_string());
    if clock != "synchronized" {
        text.push_str(" (clock not synchronised)");
    }
    text.push_str(&format!("  {event} {reason}"));
    text.extend(device.iter().map(|device| format!("  device {device}")));
    text.extend(claimed.iter().map(|claimed| format!("  says it is {claimed}")));
    // Debug: what a peer has sent must not be able to forge a line.
    text.extend(client_id.iter().map(|id| format!("  client id {id:?}")));
    text.extend(peer.iter().map(|peer| format!("  peer {peer}")));
    text.extend(user.iter().map(|user| format!("  by user {user}")));
    text.extend(token.iter().map(|token| format!("  by token {token}")));
    text.push_str(&format!("  {detail:?}"));
    if *left_out > 0 {
        text.push_str(&format!("  ({left_out} others left out before it, of whatever)"));
    }
    text
}

/// Writes down what a command has changed. The change stands in any case.
pub(super) fn changed(config: &Config, change: &str, device: Option<&DeviceId>, detail: &str) {
    let written = gateway::offline_clock(config).map_err(anyhow::Error::from).and_then(|clock| {
        let entry = Entry::new(Event::Changed { change, device, detail }, clock.stamp(), 0);
        Ok(audit::append(&audit::dir(&config.data_dir), &entry)?)
    });
    if let Err(error) = written {
        eprintln!("Warning: it is done, and could not be written into the audit log: {error}");
    }
}
