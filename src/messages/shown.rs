//! A message as people and programs are shown it: what its tries have come to.

use std::collections::BTreeMap;
use std::time::Duration;

use super::reference::Try;
use super::text;
use crate::clock::Clock;
use crate::config;
use crate::message::{CommandId, DeviceId};
use crate::relay::{Command, SharedCommand, Shown, State};

/// How far a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageState {
    /// It waits for its device.
    Queued,
    /// The device has it, and has not acknowledged it yet.
    Sent,
    /// The device has acknowledged it.
    Delivered,
    /// A try came to nothing, and the next one is waited for.
    Waiting,
    /// It came to nothing.
    Failed,
    /// Its time was over. If its reason says that it was sent, the device may have it.
    Expired,
    /// It was not accepted.
    Refused,
    /// It was taken back.
    Cancelled,
}

/// A message, for JSON.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Message {
    /// Its name: that of the command which was the first try.
    #[schema(value_type = String, format = "uuid")]
    pub id: CommandId,
    /// The number that it is for.
    pub phone: String,
    /// What it says.
    pub message: String,
    /// The device of the last try.
    #[schema(value_type = String)]
    pub device: DeviceId,
    /// How far it is.
    pub state: MessageState,
    /// Why the last try came to its state, where that does not go without saying.
    pub reason: Option<String>,
    /// Tries so far.
    pub tries: u32,
    /// When it was accepted; `null` as long as nobody knows.
    #[schema(format = DateTime)]
    pub created: Option<String>,
    /// When its last try came to its state; `null` as long as nobody knows.
    #[schema(format = DateTime)]
    pub changed: Option<String>,
}

/// What becomes of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing more, or nothing yet.
    Leave,
    /// It is tried again after this.
    Again(Duration),
}

/// The longest wait before a further try.
const MAX_BACKOFF: Duration = Duration::from_secs(3_600);

/// Whether a try is followed by another one. One that a phone may have had is not: it would send the message twice.
pub(super) fn verdict(command: &Command, number: u32, settings: &config::Messages) -> Verdict {
    let was_sent = command.time_of(State::Sent).is_some();
    let came_to_nothing = match command.state {
        State::Expired => !was_sent,
        State::Failed => true,
        // The first one was refused to who sent it; a later one may find room when its time comes.
        State::Refused => number > 1,
        _ => false,
    };
    if !came_to_nothing || number > settings.retries {
        return Verdict::Leave;
    }
    let doubled = 1_u32.checked_shl(number - 1).unwrap_or(u32::MAX);
    Verdict::Again(settings.backoff.saturating_mul(doubled).min(MAX_BACKOFF))
}

/// The messages behind commands, by their names: what was tried for each, in order.
#[derive(Debug, Default)]
pub(super) struct Tries(BTreeMap<CommandId, BTreeMap<u32, SharedCommand>>);

impl Tries {
    pub(super) fn add(&mut self, command: SharedCommand) {
        if let Some(of) = Try::of(&command) {
            self.0.entry(of.message).or_default().insert(of.number, command);
        }
    }

    /// The newest first, beginning after `after`.
    pub(super) fn newest_first(
        &self,
        after: Option<CommandId>,
    ) -> impl Iterator<Item = (CommandId, &BTreeMap<u32, SharedCommand>)> {
        let all = self.0.iter().rev().map(|(id, tries)| (*id, tries));
        all.filter(move |(id, _)| after.is_none_or(|after| *id < after))
    }

    pub(super) fn of(&self, id: CommandId) -> Option<&BTreeMap<u32, SharedCommand>> {
        self.0.get(&id)
    }
}

/// A message, by its tries, of which there is one at least.
pub(super) fn message(
    id: CommandId,
    tries: &BTreeMap<u32, SharedCommand>,
    settings: &config::Messages,
    clock: &Clock,
) -> Option<Message> {
    let (_, first) = tries.first_key_value()?;
    let (number, last) = tries.last_key_value()?;
    let state = match (last.state, verdict(last, *number, settings)) {
        (_, Verdict::Again(_)) => MessageState::Waiting,
        (State::Queued, _) => MessageState::Queued,
        (State::Sent | State::Acked, _) => MessageState::Sent,
        (State::Done, _) => MessageState::Delivered,
        (State::Failed, _) => MessageState::Failed,
        (State::Expired, _) => MessageState::Expired,
        (State::Refused, _) => MessageState::Refused,
        (State::Cancelled, _) => MessageState::Cancelled,
    };
    let (phone, message) = text::parts(&last.payload);
    let (begun, shown) = (Shown::new(first, clock), Shown::new(last, clock));
    let time_of = |shown: &Shown, state| shown.times.get(&state).cloned().flatten();
    Some(Message {
        id,
        phone,
        message,
        device: last.device.clone(),
        state,
        tries: *number,
        created: begun.times.values().next().cloned().flatten(),
        changed: time_of(&shown, last.state),
        reason: shown.reason,
    })
}
