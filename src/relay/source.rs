//! What all sources have in common: how what they say becomes a command, and how they are doing.

use std::borrow::Cow;
use std::time::Duration;

use tokio::sync::watch;

use super::{Accepted, Ledger, NewCommand, NoRoom, NotAccepted, Origin, Reply};
use crate::config::CommandTemplate;
use crate::message::Topic;
use crate::sink::SendError;
use crate::sink::pace::Pace;

/// How a source is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct SourceStatus {
    /// Whether the last call went well; none before the first.
    pub well: Option<bool>,
    /// Whether somebody has to mend something before it can go on.
    pub held: bool,
    /// What the last failure was, also after it was overcome.
    pub last_error: Option<String>,
    /// Whether it tells by itself when there is something new; none where it is only asked.
    pub listens: Option<bool>,
    /// Why it last did not, also after that was overcome.
    pub deaf_because: Option<String>,
    /// Commands that it gave and that were accepted.
    pub accepted: u64,
    /// Commands that it gave and that were refused.
    pub refused: u64,
    /// Times that it may have given a command whose way here was cut.
    pub maybe_lost: u64,
    /// Outcomes that it was told.
    pub reported: u64,
    /// Why it could not be told outcomes, as long as that is so.
    pub report_error: Option<String>,
}

/// What a source says, on its way to become a command.
#[derive(Debug)]
pub(super) struct Said<'a> {
    /// What stands for it in the payload's template.
    pub(super) place: &'a str,
    pub(super) text: &'a str,
    /// What the far side calls it.
    pub(super) reference: String,
    /// How long ago it was said, as far as that is known.
    pub(super) age: Duration,
}

/// A source's part that all have: its name, its ledger and its status.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) origin: Origin,
    pub(super) ledger: Ledger,
    status: watch::Sender<SourceStatus>,
}

impl Desk {
    pub(super) fn new(origin: Origin, ledger: Ledger) -> (Self, watch::Receiver<SourceStatus>) {
        let (status, receiver) = watch::channel(SourceStatus::default());
        (Self { origin, ledger, status }, receiver)
    }

    /// Takes what the source has said. It is on disk when this returns.
    pub(super) async fn take(&self, template: &CommandTemplate, said: Said<'_>) {
        let source = &self.origin.name;
        let new = match command(template, &said, &self.origin) {
            Ok(new) => new,
            Err(why) => {
                tracing::warn!(%source, reference = %said.reference, %why, "what the source said is no command");
                self.status.send_modify(|status| status.refused += 1);
                return;
            }
        };
        self.accept(new).await;
    }

    /// Takes a command. It is on disk when this returns.
    pub(super) async fn accept(&self, new: NewCommand) {
        let (source, reference) = (&self.origin.name, new.origin.reference.clone().unwrap_or_default());
        match self.ledger.accept(new).await {
            Ok(Accepted::New(command)) => {
                tracing::info!(%source, device = %command.device, command = %command.id, "a command has come");
                self.status.send_modify(|status| status.accepted += 1);
            }
            Ok(Accepted::Known(_)) => {}
            // It is kept with its reason, and its source is told.
            Err(NotAccepted::Refused(command)) => {
                let reason = command.reason.as_deref().unwrap_or_default();
                let state = command.state.as_str();
                tracing::warn!(%source, command = %command.id, %reference, %state, %reason, "a command is not carried out");
                self.refused();
            }
            Err(error @ (NotAccepted::Closed | NotAccepted::NoRoom)) => {
                tracing::error!(%source, %reference, %error, "a command was not kept; if its source has forgotten it, it is lost");
            }
        }
    }

    /// A call went well.
    pub(super) fn well(&self) {
        self.status.send_if_modified(|status| {
            let changes = status.well != Some(true) || status.held;
            if changes && status.well.is_some() {
                tracing::info!(source = %self.origin.name, "the source of commands answers again");
            }
            (status.well, status.held) = (Some(true), false);
            changes
        });
    }

    /// A call did not go well: how long to leave the far side alone follows from why.
    pub(super) fn failed(&self, error: &SendError, pace: &mut Pace) {
        let (held, wait) = match error {
            SendError::Hold { .. } => (true, pace.held()),
            SendError::Retry { after, .. } => (false, pace.failed(*after)),
            _ => (false, pace.failed(None)),
        };
        self.status.send_modify(|status| {
            let text = error.to_string();
            // Once for each trouble, not once for each call.
            if status.last_error.as_ref() != Some(&text) || status.well != Some(false) {
                let source = &self.origin.name;
                match held {
                    true => tracing::error!(%source, error = %text, ?wait, "no commands can be asked for until this is mended"),
                    false => tracing::warn!(%source, error = %text, ?wait, "the source of commands does not answer as it should"),
                }
            }
            (status.well, status.held, status.last_error) = (Some(false), held, Some(text));
        });
    }

    /// Something that it gave is no command.
    pub(super) fn refused(&self) {
        self.status.send_modify(|status| status.refused += 1);
    }

    /// Whether it tells by itself when there is something new.
    pub(super) fn listens(&self, listens: bool) {
        self.status.send_if_modified(|status| {
            let changes = status.listens != Some(listens);
            if changes && listens {
                tracing::info!(source = %self.origin.name, "new commands are told at once");
            }
            status.listens = Some(listens);
            changes
        });
    }

    /// No further command could be kept: the far side is not asked for one, as it would forget it.
    pub(super) fn full(&self, why: &NoRoom) {
        let text = format!("not asked: {why}");
        self.status.send_if_modified(|status| {
            let changes = status.well != Some(false) || status.last_error.as_ref() != Some(&text);
            if changes {
                tracing::warn!(source = %self.origin.name, %why, "the source is not asked for commands: no further one could be kept");
                (status.well, status.last_error) = (Some(false), Some(text));
            }
            changes
        });
    }

    /// Why it does not, and when that is tried again. Said once for each trouble.
    pub(super) fn deaf(&self, why: &str, held: bool, wait: Duration) {
        self.status.send_modify(|status| {
            if status.deaf_because.as_deref() != Some(why) {
                let source = &self.origin.name;
                match held {
                    true => tracing::error!(%source, %why, ?wait, "new commands are only asked for until this is mended"),
                    false => tracing::warn!(%source, %why, ?wait, "new commands are only asked for"),
                }
            }
            status.deaf_because = Some(why.to_owned());
        });
    }

    /// What the far side gave, if anything, did not arrive.
    pub(super) fn maybe_lost(&self, why: &str) {
        tracing::warn!(source = %self.origin.name, %why, "the reply did not arrive: a command that it held is lost");
        self.status.send_modify(|status| status.maybe_lost += 1);
    }

    pub(super) fn reported(&self) {
        self.status.send_modify(|status| {
            status.reported += 1;
            status.report_error = None;
        });
    }

    /// The outcomes could not be told.
    pub(super) fn report_failed(&self, error: &SendError, pace: &mut Pace) {
        let wait = match error {
            SendError::Hold { .. } => pace.held(),
            SendError::Retry { after, .. } => pace.failed(*after),
            _ => pace.failed(None),
        };
        self.status.send_modify(|status| {
            let text = error.to_string();
            if status.report_error.as_ref() != Some(&text) {
                tracing::warn!(source = %self.origin.name, error = %text, ?wait, "outcomes of commands cannot be told");
            }
            status.report_error = Some(text);
        });
    }
}

/// The command that is made of what a source says.
fn command(template: &CommandTemplate, said: &Said<'_>, origin: &Origin) -> Result<NewCommand, String> {
    let fill = |name: &str| -> Cow<'_, str> {
        if name == said.place { said.text.into() } else { template.device.as_str().into() }
    };
    let topic = |text: &str| Topic::parse(text).map_err(|why| format!("the topic {text:?}: {why}"));
    let reply = template.reply_topic.as_ref().map(|it| topic(&it.fill(fill))).transpose()?;
    Ok(NewCommand {
        device: template.device.clone(),
        topic: topic(&template.topic.fill(fill))?,
        payload: template.payload.fill(fill).into(),
        qos: template.qos,
        origin: Origin { reference: Some(said.reference.as_str().into()), ..origin.clone() },
        key: template.key.as_deref().map(Into::into),
        // What has waited at the far side is so much older.
        good_for: template.good_for.saturating_sub(said.age),
        reply: reply.map(|topic| Reply { topic, failed_if: super::FailedIf::default() }),
    })
}
