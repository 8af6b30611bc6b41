//! The outcomes of commands, told to the `status` of a channel.

use std::time::Duration;

use reqwest::Url;
use tokio_util::sync::CancellationToken;

use super::{Client, reply};
use crate::config;
use crate::relay::source::Desk;
use crate::relay::{Command, SharedCommand, State};
use crate::sink::pace::Pace;
use crate::sink::{SendError, SinkError};

/// Characters of a status.
const MAX_STATUS_CHARS: usize = 255;

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
            let waiting = desk.ledger.unreported(desk.origin.source, &desk.origin.name, AT_ONCE);
            if waiting.is_empty() {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = desk.ledger.changed(desk.origin.source, &desk.origin.name) => continue,
                }
            }
            let ends: Vec<_> = waiting.iter().filter(|command| command.state.is_final()).collect();
            let (status, told) = status(&ends);
            if let Some(reporter) = reporter.filter(|_| told > 0) {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep_until(pace.next()) => {}
                }
                if let Err(error) = reporter.tell(&status, &mut pace).await {
                    desk.failed(&error, &mut pace);
                    continue;
                }
            }
            // A channel is told how a command ended, not how it went on its way.
            let way = waiting.iter().filter(|command| !command.state.is_final());
            for command in way.chain(ends.into_iter().take(told)) {
                if desk.ledger.reported(command.id, command.state).await.is_err() {
                    return;
                }
                if command.state.is_final() && reporter.is_some() {
                    desk.reported();
                }
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
        if told > 0 && status.chars().count() + separator.len() + part.chars().count() > MAX_STATUS_CHARS {
            return (status, told);
        }
        status.push_str(separator);
        status.push_str(&part);
    }
    (status.chars().take(MAX_STATUS_CHARS).collect(), ends.len())
}

/// `17 done: 21.5`, `18 expired: sent, not acknowledged`
fn outcome(command: &Command) -> String {
    let reference = command.origin.reference.as_deref().and_then(|it| it.rsplit('/').next()).unwrap_or("?");
    let detail = match command.state {
        State::Done => command.result.as_deref(),
        _ => command.result.as_deref().or(command.reason.as_deref()),
    };
    let state = command.state.as_str();
    detail.map_or_else(|| format!("{reference} {state}"), |detail| format!("{reference} {state}: {detail}"))
}
