//! A TalkBack: its queue is emptied, one command a call.

use std::time::Duration;

use reqwest::Url;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::reply::{self, Taken};
use super::report::Reporter;
use super::{Client, age};
use crate::clock::Clock;
use crate::config::{self, CommandSource};
use crate::relay::source::{Desk, Said, SourceStatus};
use crate::relay::{Ledger, Origin, Source};
use crate::sink::http::NoReply;
use crate::sink::pace::Pace;
use crate::sink::{SendError, SinkError};

/// Between two commands of a queue that has several.
const SPACING: Duration = Duration::from_secs(1);

/// A TalkBack that is asked.
#[derive(Debug)]
pub struct TalkBackSource {
    settings: config::TalkBack,
    client: Client,
    execute: Url,
    desk: Desk,
    reporter: Option<Reporter>,
    clock: Clock,
}

impl TalkBackSource {
    pub(in crate::relay) fn new(
        source: &CommandSource,
        settings: &config::TalkBack,
        ledger: Ledger,
        clock: &Clock,
    ) -> Result<(Self, watch::Receiver<SourceStatus>), SinkError> {
        let mut secrets = vec![settings.key.clone()];
        secrets.extend(settings.report.iter().map(|report| report.write_key.clone()));
        let client = Client::new(source, &settings.url, secrets, clock)?;
        let execute = client.url(&format!("talkbacks/{}/commands/execute.json", settings.talkback))?;
        let origin = Origin { source: Source::TalkBack, name: source.name.as_str().into(), reference: None };
        let reporter = settings.report.as_ref().map(|report| Reporter::new(report, &client)).transpose()?;
        let (desk, status) = Desk::new(origin, ledger);
        let talkback =
            Self { settings: settings.clone(), client, execute, desk, reporter, clock: clock.clone() };
        Ok((talkback, status))
    }

    pub(in crate::relay) async fn run(self, cancel: CancellationToken) {
        tokio::join!(self.ask(&cancel), Reporter::run(self.reporter.as_ref(), &self.desk, &cancel));
    }

    async fn ask(&self, cancel: &CancellationToken) {
        let mut pace = Pace::new(self.settings.interval, SPACING);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep_until(pace.next()) => {}
            }
            if let Err(full) = self.desk.ledger.room_for(&self.settings.command.device) {
                self.desk.full(&full);
                pace.sent();
                pace.batch_ended();
                continue;
            }
            // Not to be cancelled: what the reply holds is nowhere else.
            let taken = self.execute().await;
            pace.sent();
            match taken {
                Ok(taken) => {
                    self.desk.well();
                    pace.succeeded();
                    match taken {
                        Some(taken) => self.take(taken).await,
                        None => pace.batch_ended(),
                    }
                }
                Err(error) => self.desk.failed(&error, &mut pace),
            }
        }
    }

    /// Asks for the next command, which leaves the queue by that.
    async fn execute(&self) -> Result<Option<Taken>, SendError> {
        let replied = self.client.post(&self.execute, &[("api_key", self.settings.key.expose())]).await;
        let reply = replied.map_err(|NoReply { error, has_left }| {
            if has_left {
                self.desk.maybe_lost(&error.to_string());
            }
            error
        })?;
        reply::taken(&reply).inspect_err(|error| {
            if reply::may_hold_a_command(&reply) {
                self.desk.maybe_lost(&error.to_string());
            }
        })
    }

    async fn take(&self, Taken { id, text, created_at, sent_at }: Taken) {
        let age = age(&self.clock, created_at, sent_at);
        // The queue of another TalkBack counts anew.
        let reference = format!("{}/{id}", self.settings.talkback);
        self.desk.take(&self.settings.command, Said { place: "command", text: &text, reference, age }).await;
    }
}
