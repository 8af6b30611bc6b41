//! Local rules: what a value brings about without any network.

use std::time::Duration;

use crate::message::{DeviceId, Qos, Template};

/// A condition on what devices measure, and what it brings about. It is watched for each device on its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Its name, unique.
    pub name: String,
    /// The stream whose readings are looked at.
    pub stream: String,
    /// The devices whose readings are looked at; empty: all.
    pub devices: Vec<DeviceId>,
    /// The path of the value in a JSON object, parts joined by `.`. None where the whole payload is the value.
    pub field: Option<String>,
    /// When it holds.
    pub condition: Condition,
    /// An entry in the log when it comes to hold: `{device}`, `{value}`, `{rule}`.
    pub log: Option<Template>,
    /// A command.
    pub send: Option<RuleCommand>,
}

/// When a rule holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Condition {
    /// A number is beyond a limit for so long, and from then on until it is back at `clear`.
    Beyond {
        /// On which side.
        side: Side,
        /// The limit itself is not beyond it.
        limit: f64,
        /// The value from which on it holds no more.
        clear: f64,
        /// How long it must be beyond the limit without a value that is not.
        hold: Duration,
    },
    /// No value has come for so long.
    MissingFor(Duration),
    /// The value is another one than the last. It does not last: each change is one.
    Changed,
}

/// A side of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Greater than the limit.
    Above,
    /// Less than the limit.
    Below,
}

/// The command of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleCommand {
    /// Who gets it; the device whose value it is, if none is named.
    pub device: Option<DeviceId>,
    /// `{device}` is who gets it, `{source}` whose value it is.
    pub topic: Template,
    /// What is sent when the rule comes to hold.
    pub payload: Template,
    /// What is sent when it holds no more.
    pub clear_payload: Option<Template>,
    /// The QoS of the command.
    pub qos: Qos,
    /// How long a command is good. One that could not be delivered is sent anew as long as what it says is so.
    pub good_for: Duration,
}
