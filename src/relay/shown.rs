//! A command as people and programs are shown it.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::command::{Command, Source, State};
use crate::clock::{Clock, Resolved, TimeQuality};
use crate::message::{CommandId, DeviceId, Stamp};

/// A command, for JSON.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Command)]
pub struct Shown {
    /// Its name.
    #[schema(value_type = String, format = "uuid")]
    pub id: CommandId,
    /// Whom it is for.
    #[schema(value_type = String)]
    pub device: DeviceId,
    /// What it is published to.
    pub topic: String,
    /// What is published, if it is UTF-8.
    pub payload: Option<String>,
    /// What is published, if it is not: in base64 (RFC 4648, section 4).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub payload_base64: Option<String>,
    /// As it was wanted: 0, 1 or 2.
    pub qos: u8,
    /// The kind of source that it comes from.
    pub source: Source,
    /// The name of that.
    pub source_name: String,
    /// What the far side calls it.
    pub reference: Option<String>,
    /// What it sets.
    pub key: Option<String>,
    /// How long it is good for from its acceptance, in seconds.
    pub good_for_s: f64,
    /// Where the device answers.
    pub reply_topic: Option<String>,
    /// How far it is.
    pub state: State,
    /// Why it came to this state.
    pub reason: Option<String>,
    /// What the device has answered.
    pub result: Option<String>,
    /// How often it was given to the device.
    pub attempts: u32,
    /// When it came to each state, the last time.
    #[schema(value_type = BTreeMap<String, Option<String>>)]
    pub times: BTreeMap<State, ShownStep>,
}

/// A moment: RFC 3339 in UTC, or nothing as long as nobody knows it.
pub type ShownStep = Option<String>;

impl Shown {
    /// How a command looks now. `clock` knows what times were.
    #[must_use]
    pub fn new(command: &Command, clock: &Clock) -> Self {
        let payload = std::str::from_utf8(&command.payload).ok();
        let owned = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
        Self {
            id: command.id,
            device: command.device.clone(),
            topic: command.topic.to_string(),
            payload: payload.map(str::to_owned),
            payload_base64: payload.is_none().then(|| STANDARD.encode(&command.payload)),
            qos: command.qos as u8,
            source: command.origin.source,
            source_name: command.origin.name.to_string(),
            reference: owned(&command.origin.reference),
            key: owned(&command.key),
            good_for_s: command.good_for.as_secs_f64(),
            reply_topic: command.reply.as_ref().map(|reply| reply.topic.to_string()),
            state: command.state,
            reason: owned(&command.reason),
            result: owned(&command.result),
            attempts: command.attempts,
            times: command.steps.iter().map(|(state, at)| (*state, time(at, clock))).collect(),
        }
    }
}

/// A time that the clock vouches for, in words.
#[must_use]
fn time(stamp: &Stamp, clock: &Clock) -> ShownStep {
    let Resolved::At(ms, TimeQuality::Synchronized | TimeQuality::Corrected) = clock.resolve(stamp) else {
        return None;
    };
    let since = Duration::from_millis(u64::try_from(ms).ok()?);
    (OffsetDateTime::UNIX_EPOCH + since).format(&Rfc3339).ok()
}
