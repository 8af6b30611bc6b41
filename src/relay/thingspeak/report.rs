//! The outcomes of commands, told to the `status` of a channel.

use std::time::Duration;

use futures_util::future::try_join_all;
use reqwest::Url;
use tokio_util::sync::CancellationToken;

use super::{Client, reply};
use crate::config;
use crate::relay::source::Desk;
use crate::relay::{Command, SharedCommand, State};
use crate::sink::pace::Pace;
use crate::sink::{SendError, SinkError};

/// Bytes of a status, as of a field.
const MAX_STATUS_BYTES: usize = 255;

/// Commands that are looked at for one status.
const AT_ONCE: usize = 100;

/// A channel that is told outcomes.
#[derive(Debug)]
pub(super) struct Reporter {
    settings: config::Report,
    client: Client,
    update: Url,
}

impl Reporter {
    pub(super) fn new(settings: &config::Report, client: &Client) -> Result<Self, SinkError> {
        let update = client.url("update.json")?;
        Ok(Self { settings: settings.clone(), client: client.clone(), update })
    }

    /// Tells what becomes of the desk's commands; without a channel nobody wants to know.
    pub(super) async fn run(reporter: Option<&Self>, desk: &Desk, cancel: &CancellationToken) {
        let interval = reporter.map_or(Duration::ZERO, |it| it.settings.interval);
        let mut pace = Pace::new(interval, interval);
        loop {
            let unreported = || desk.ledger.unreported(desk.origin.source, &desk.origin.name, AT_ONCE);
            let mut waiting = unreported();
            if waiting.is_empty() {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = desk.ledger.changed(desk.origin.source, &desk.origin.name) => continue,
                }
            }
            if reporter.is_some() && waiting.iter().any(|command| command.state.is_final()) {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep_until(pace.next()) => {}
                }
                // What has ended meanwhile is told, too.
                waiting = unreported();
            }
            let ends: Vec<_> = waiting.iter().filter(|command| command.state.is_final()).collect();
            let (status, told) = status(&ends);
            if let Some(reporter) = reporter.filter(|_| told > 0)
                && let Err(error) = reporter.tell(&status, &mut pace).await
            {
                desk.report_failed(&error, &mut pace);
                continue;
            }
            // A channel is told how a command ended, not how it went on its way.
            let way = waiting.iter().filter(|command| !command.state.is_final());
            let known = way.chain(ends.iter().take(told).copied());
            let written = known.map(|command| desk.ledger.reported(command.id, command.state));
            if try_join_all(written).await.is_err() {
                // The gateway is ending.
                return cancel.cancelled().await;
            }
            if reporter.is_some() {
                (0..told).for_each(|_| desk.reported());
            }
        }
    }

    async fn tell(&self, status: &str, pace: &mut Pace) -> Result<(), SendError> {
        let parameters = [("api_key", self.settings.write_key.expose()), ("status", status)];
        let replied = self.client.post(&self.update, &parameters).await;
        pace.sent();
        reply::stored(&replied?)?;
        pace.succeeded();
        Ok(())
    }
}

/// As many outcomes as one status holds, and how many those are.
fn status(ends: &[&SharedCommand]) -> (String, usize) {
    let mut status = String::new();
    for (told, command) in ends.iter().enumerate() {
        let part = outcome(command);
        let separator = if told == 0 { "" } else { "; " };
        if told > 0 && status.len() + separator.len() + part.len() > MAX_STATUS_BYTES {
            return (cut(status), told);
        }
        status.push_str(separator);
        status.push_str(&part);
    }
    (cut(status), ends.len())
}

fn cut(mut status: String) -> String {
    let fits = |(at, char): &(usize, char)| at + char.len_utf8() <= MAX_STATUS_BYTES;
    let bytes = status.char_indices().take_while(fits).map(|(_, char)| char.len_utf8()).sum();
    status.truncate(bytes);
    status
}

/// `17 done: 21.5`, `18 expired: sent, not acknowledged`
fn outcome(command: &Command) -> String {
    let reference = command.origin.reference.as_deref().and_then(|it| it.rsplit('/').next()).unwrap_or("?");
    let detail = match command.state {
        State::Done => command.result.as_deref(),
        _ => command.result.as_deref().or(command.reason.as_deref()),
    };
    let state = command.state.as_str();
    let outcome = detail
        .map_or_else(|| format!("{reference} {state}"), |detail| format!("{reference} {state}: {detail}"));
    outcome.replace(|c: char| c.is_control(), " ").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::message::{CommandId, DeviceId, Qos, Topic};
    use crate::relay::{Origin, Source};

    fn ended(number: u64, state: State, reason: Option<&str>, result: Option<&str>) -> SharedCommand {
        let reference = Some(format!("27/{number}").into());
        Arc::new(Command {
            id: CommandId::generate(0),
            number,
            device: DeviceId::parse("lamp").unwrap(),
            topic: Topic::parse("lamp/cmd").unwrap(),
            payload: "on".into(),
            qos: Qos::AtLeastOnce,
            origin: Origin { source: Source::TalkBack, name: "dashboard".into(), reference },
            key: None,
            good_for: Duration::from_secs(60),
            reply: None,
            state,
            reason: reason.map(Into::into),
            result: result.map(Into::into),
            steps: Vec::new(),
            granted: None,
            attempts: 1,
            reported: None,
        })
    }

    #[test]
    fn an_outcome_says_which_command_how_it_ended_and_what_the_device_or_the_gateway_says_to_that() {
        for (command, expected) in [
            (ended(17, State::Done, None, Some("21.5")), "17 done: 21.5"),
            (ended(17, State::Done, Some("not confirmed"), None), "17 done"),
            (
                ended(18, State::Expired, Some("sent, not acknowledged"), None),
                "18 expired: sent, not acknowledged",
            ),
            (ended(19, State::Failed, Some("the device says so"), Some("too\nhot")), "19 failed: too hot"),
        ] {
            assert_eq!(outcome(&command), expected);
        }
    }

    #[test]
    fn one_status_holds_as_many_outcomes_as_its_bytes_and_one_that_is_too_long_alone_is_cut() {
        let long = "ü".repeat(100);
        let commands: Vec<_> = (1..=3).map(|n| ended(n, State::Done, None, Some(&long))).collect();
        let (text, told) = status(&commands.iter().collect::<Vec<_>>());
        assert_eq!((text, told), (format!("1 done: {long}"), 1));
        let longer = ended(1, State::Done, None, Some(&"ü".repeat(500)));
        let (text, told) = status(&[&longer, &commands[1]]);
        assert!(text.len() <= MAX_STATUS_BYTES && text.ends_with('ü') && told == 1, "{text}");
        assert_eq!(status(&[]), (String::new(), 0));
    }
}
