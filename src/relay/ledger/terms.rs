//! The words of the ledger: what it is asked and told, and what it answers.

use crate::message::{CommandId, DeviceId};
use crate::relay::command::{Command, NewCommand, SharedCommand, Source, State};

/// Who brings commands to devices: the broker.
pub trait Postman: std::fmt::Debug + Send + Sync {
    /// There may be something for this device. Called without any lock.
    fn ring(&self, device: &DeviceId);

    /// Why this command could never reach its device, or never be answered, if that is so.
    fn objection(&self, new: &NewCommand) -> Option<String>;
}

/// What became of a command that was accepted. It is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// It is new.
    New(SharedCommand),
    /// It was accepted, or refused, before: its source has sent the same reference again.
    Known(SharedCommand),
}

impl Accepted {
    /// The command.
    #[must_use]
    pub fn command(&self) -> &SharedCommand {
        match self {
            Self::New(command) | Self::Known(command) => command,
        }
    }
}

/// Why a command was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAccepted {
    /// It is refused for good, or was too old when it came: this says why, and is kept like others.
    #[error("refused: {}", .0.reason.as_deref().unwrap_or_default())]
    Refused(SharedCommand),
    /// The disk takes nothing now, or was not read yet. Only [`super::Ledger::accept_now`] says that.
    #[error("there is no room on disk")]
    NoRoom,
    /// The gateway is ending.
    #[error("the gateway is ending")]
    Closed,
}

/// Why a command was not taken back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotCancelled {
    /// There is none with this id, or it was forgotten.
    #[error("there is no such command")]
    Unknown,
    /// It is on its way to the device.
    #[error("it was sent already")]
    Sent(SharedCommand),
    /// It has an end.
    #[error("it is {} already", .0.state.as_str())]
    Ended(SharedCommand),
    /// The gateway is ending.
    #[error("the gateway is ending")]
    Closed,
}

/// Why a session gives a command back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undelivered {
    /// The session ended before it was written to the connection.
    Unwritten,
    /// It was written, and the session ended before the device acknowledged it.
    Unconfirmed,
    /// It is larger than the client takes.
    TooLarge,
    /// It was written, and the client may not receive from its topic any more.
    Forbidden,
    /// The client has refused it, with this reason.
    Refused(String),
}

/// What a device has published.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    /// Which one.
    pub device: &'a DeviceId,
    /// Where.
    pub topic: &'a str,
    /// The correlation data of MQTT 5.
    pub correlation: Option<&'a [u8]>,
    /// What.
    pub payload: &'a [u8],
    /// It may have been taken before (DUP).
    pub is_repetition: bool,
    /// It is not acknowledged (QoS 0): the device will not say it again.
    pub is_unrepeatable: bool,
}

/// Which commands are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// For this device.
    pub device: Option<DeviceId>,
    /// In this state.
    pub state: Option<State>,
    /// Of this kind of source.
    pub source: Option<Source>,
    /// Of the source with this name.
    pub source_name: Option<Box<str>>,
}

impl Wanted {
    pub(super) fn fits(&self, command: &Command) -> bool {
        self.device.as_ref().is_none_or(|device| *device == command.device)
            && self.state.is_none_or(|state| state == command.state)
            && self.source.is_none_or(|source| source == command.origin.source)
            && self.source_name.as_ref().is_none_or(|name| *name == command.origin.name)
    }
}

/// Some commands, the newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// These.
    pub commands: Vec<SharedCommand>,
    /// After which the next page begins; `None`: this is the last.
    pub next: Option<CommandId>,
}

/// What there is, and what came of it since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Figures {
    /// Waiting for their device.
    pub queued: u64,
    /// On their way.
    pub sent: u64,
    /// Acknowledged, and waiting for their reply.
    pub acked: u64,
    /// All that are kept, those with an end among them.
    pub kept: u64,
    /// Bytes of memory that they take.
    pub bytes: u64,
    /// Accepted since the start.
    pub accepted: u64,
    /// Done since the start.
    pub done: u64,
    /// Failed since the start.
    pub failed: u64,
    /// Expired since the start.
    pub expired: u64,
    /// Refused since the start.
    pub refused: u64,
    /// Cancelled or replaced since the start.
    pub cancelled: u64,
    /// Records that cannot be read: damaged, or of another version of the program. They are left alone.
    pub unreadable: u64,
}
