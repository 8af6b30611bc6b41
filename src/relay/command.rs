//! A command for a device: what it is, where it came from, and which way its states may go.
//!
//! ```text
//!            ┌────────────────────┐ the session ended, QoS 1
//!            ▼                    │
//! accept ─▶ queued ─────────────▶ sent ─────▶ acked ─────▶ done
//!    │        ├─▶ cancelled        ├─▶ done     └─▶ failed
//!    │        ├─▶ expired          ├─▶ failed
//!    ▼        └─▶ failed           └─▶ expired
//! refused
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::message::{CommandId, DeviceId, Qos, Stamp, Topic};

/// A command that somebody wants to be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCommand {
    /// Whom it is for.
    pub device: DeviceId,
    /// What it is published to.
    pub topic: Topic,
    /// What is published, byte for byte.
    pub payload: Bytes,
    /// The quality of service; the device's subscription may lower it.
    pub qos: Qos,
    /// Where it comes from.
    pub origin: Origin,
    /// What it sets: it takes the place of an earlier one for the same device and key that was not sent yet.
    pub key: Option<Box<str>>,
    /// How long it is good for, from its acceptance, on the boot clock.
    pub good_for: Duration,
    /// Where the device answers, if its answer is waited for.
    pub reply: Option<Reply>,
}

/// Where a command comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The kind of source.
    pub source: Source,
    /// Its name: that of the configured source or rule, of the API token.
    pub name: Box<str>,
    /// What the far side calls the command. A second command with the same source, name and reference is the first.
    pub reference: Option<Box<str>>,
}

/// A kind of source.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The REST API.
    Api,
    /// `tampu send`.
    Cli,
    /// ThingSpeak TalkBack.
    #[serde(rename = "talkback")]
    TalkBack,
    /// The last value of a ThingSpeak field.
    Field,
    /// A table at Supabase.
    Supabase,
    /// A rule of this gateway.
    Rule,
    /// The message gateway.
    Message,
}

impl Source {
    /// All there are.
    pub const ALL: [Self; 7] =
        [Self::Api, Self::Cli, Self::TalkBack, Self::Field, Self::Supabase, Self::Rule, Self::Message];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Cli => "cli",
            Self::TalkBack => "talkback",
            Self::Field => "field",
            Self::Supabase => "supabase",
            Self::Rule => "rule",
            Self::Message => "message",
        }
    }
}

/// The answer that a command waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Where the device publishes it.
    pub topic: Topic,
    /// How it says that it could not do it.
    pub failed_if: FailedIf,
}

/// How a reply says that the command failed: with one of these words in a field of a JSON object, or as its whole
/// text. Case does not matter. Every other reply says that it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedIf {
    /// The name of the field.
    pub field: Box<str>,
    /// The words; `false` and numbers are compared as they are written in JSON.
    pub words: Vec<Box<str>>,
}

impl Default for FailedIf {
    fn default() -> Self {
        let words = ["failed", "failure", "error", "refused", "rejected"];
        Self { field: "status".into(), words: words.map(Into::into).into() }
    }
}

impl FailedIf {
    /// Whether this reply says that the command failed.
    #[must_use]
    pub fn says(&self, payload: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(payload) else { return false };
        let is_one = |said: &str| self.words.iter().any(|word| word.eq_ignore_ascii_case(said));
        match serde_json::from_str::<serde_json::Value>(text) {
            Ok(serde_json::Value::Object(object)) => match object.get(&*self.field) {
                Some(serde_json::Value::String(said)) => is_one(said.trim()),
                Some(other) => is_one(&other.to_string()),
                None => false,
            },
            Ok(serde_json::Value::String(said)) => is_one(said.trim()),
            _ => is_one(text.trim().trim_end_matches('\0')),
        }
    }
}

/// How far a command is.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum State {
    /// It waits for the device.
    Queued = 1,
    /// A session of the device has it.
    Sent = 2,
    /// The device has acknowledged it, and its reply is waited for.
    Acked = 3,
    /// The device has it, or has said that it has done it.
    Done = 4,
    /// It came to nothing, or the device said so.
    Failed = 5,
    /// Its time was over before the device had acknowledged it.
    Expired = 6,
    /// It was not accepted.
    Refused = 7,
    /// It was taken back, or replaced by a later one.
    Cancelled = 8,
}

impl State {
    /// All there are.
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Sent,
        Self::Acked,
        Self::Done,
        Self::Failed,
        Self::Expired,
        Self::Refused,
        Self::Cancelled,
    ];

    /// Whether nothing will change any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Sent | Self::Acked)
    }

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Acked => "acked",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether a command may go from this state to that one.
    pub(super) fn may_become(self, next: Self) -> bool {
        use State::{Acked, Cancelled, Done, Expired, Failed, Queued, Sent};
        match self {
            Queued => matches!(next, Sent | Cancelled | Expired | Failed),
            Sent => matches!(next, Queued | Acked | Done | Failed | Expired | Cancelled),
            Acked => matches!(next, Done | Failed),
            _ => false,
        }
    }
}

/// A command as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Its name, for everybody.
    pub id: CommandId,
    /// Its place in the order in which commands were accepted.
    pub number: u64,
    /// Whom it is for.
    pub device: DeviceId,
    /// What it is published to.
    pub topic: Topic,
    /// What is published. Empty of one that was refused because it was too large.
    pub payload: Bytes,
    /// As it was wanted.
    pub qos: Qos,
    /// Where it comes from.
    pub origin: Origin,
    /// What it sets.
    pub key: Option<Box<str>>,
    /// How long it is good for, from its acceptance.
    pub good_for: Duration,
    /// Where the device answers.
    pub reply: Option<Reply>,
    /// How far it is.
    pub state: State,
    /// Why it came to this state, where that does not go without saying.
    pub reason: Option<Box<str>>,
    /// What the device has answered: at most 1 KiB of it.
    pub result: Option<Box<str>>,
    /// When it came to each state: accepted the first time, all others the last time. In order.
    pub steps: Vec<(State, Stamp)>,
    /// The quality of service that it was sent with last.
    pub granted: Option<Qos>,
    /// How often it was given to a session of the device.
    pub attempts: u32,
    /// The state that its source was told last.
    pub reported: Option<State>,
}

/// What a command costs in memory besides its payload and texts, in the ledger's indexes, too.
const OVERHEAD_BYTES: usize = 800;

impl Command {
    /// When it was accepted, or refused.
    #[must_use]
    pub fn accepted(&self) -> &Stamp {
        &self.steps.first().expect("it begins with a step").1
    }

    /// When it came to a state.
    #[must_use]
    pub fn time_of(&self, state: State) -> Option<&Stamp> {
        self.steps.iter().find(|(step, _)| *step == state).map(|(_, at)| at)
    }

    /// When it came to its last step.
    pub(super) fn since(&self) -> &Stamp {
        &self.steps.last().expect("it begins with a step").1
    }

    /// Goes on to another state; false, and nothing, if it may not.
    pub(super) fn step(&mut self, next: State, at: Stamp, reason: Option<&str>) -> bool {
        let may = self.state.may_become(next);
        if may {
            self.state = next;
            self.reason = reason.map(Into::into);
            // That it waits again is no step: when it was accepted stays.
            if next != State::Queued {
                self.steps.retain(|(step, _)| *step != next);
                self.steps.push((next, at));
            }
        }
        may
    }

    pub(super) fn cost(&self) -> u64 {
        let text = |text: &Option<Box<str>>| text.as_deref().map_or(0, str::len);
        let bytes = OVERHEAD_BYTES
            + self.payload.len()
            + self.topic.as_str().len()
            + self.origin.name.len()
            + 2 * text(&self.origin.reference)
            + text(&self.key)
            + self.reply.as_ref().map_or(0, |reply| 256 + reply.topic.as_str().len())
            + text(&self.reason)
            + text(&self.result);
        bytes as u64
    }
}

/// A command, shared by all who look at it: it is replaced and never changed.
pub type SharedCommand = Arc<Command>;
