//! Where commands come from.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Secret, SupabaseCommands};
use crate::message::{DeviceId, Qos, Template};

/// A far side that is asked for commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandSource {
    /// Its name, unique: what is known of its commands hangs on it.
    pub name: DeviceId,
    /// How it is spoken to.
    pub kind: CommandSourceKind,
    /// The time a request may take.
    pub timeout: Duration,
    /// CA certificates (PEM) to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
}

/// How a source is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandSourceKind {
    /// A ThingSpeak TalkBack.
    TalkBack(TalkBack),
    /// The last value of a field of a ThingSpeak channel.
    Field(ChannelField),
    /// A Supabase table.
    Supabase(SupabaseCommands),
}

/// A ThingSpeak TalkBack: a queue whose commands leave it when they are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TalkBack {
    /// `https://api.thingspeak.com`, or a server that speaks the same.
    pub url: String,
    /// The TalkBack's number.
    pub talkback: u64,
    /// Its key.
    pub key: Secret,
    /// Between two questions.
    pub interval: Duration,
    /// What becomes of a command: `{command}`.
    pub command: CommandTemplate,
    /// Where its outcome is told, if anywhere.
    pub report: Option<Report>,
}

/// The last value of a field, which a dashboard's slider or button writes. Only changes are commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelField {
    /// `https://api.thingspeak.com`, or a server that speaks the same.
    pub url: String,
    /// The channel's number.
    pub channel: u64,
    /// Its read key; none for a public channel.
    pub read_key: Option<Secret>,
    /// The field, 1 to 8.
    pub field: u8,
    /// Between two questions.
    pub interval: Duration,
    /// Whether the value that is there at the start is a command, too.
    pub first_value: bool,
    /// What becomes of a value: `{value}`.
    pub command: CommandTemplate,
    /// Where its outcome is told, if anywhere.
    pub report: Option<Report>,
}

/// A channel whose `status` is told the outcomes of commands: each is a message of the channel's allowance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The write key of that channel.
    pub write_key: Secret,
    /// Between two writes: 15 s on a free licence.
    pub interval: Duration,
}

/// The command that is made of what a source says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandTemplate {
    /// Who gets it.
    pub device: DeviceId,
    /// Its topic: `{device}`.
    pub topic: Template,
    /// What it says: `{device}` and what the source says.
    pub payload: Template,
    /// The QoS of its PUBLISH.
    pub qos: Qos,
    /// How long it is good, counted from when it came.
    pub good_for: Duration,
    /// A later command with the same key takes the place of one that was not sent yet.
    pub key: Option<String>,
    /// Where the device answers, which ends the command: `{device}`.
    pub reply_topic: Option<Template>,
}
