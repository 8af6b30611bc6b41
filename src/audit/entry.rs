//! What stands in a line.

use std::net::IpAddr;

use time::OffsetDateTime;

use crate::message::{ClockQuality, DeviceId, Stamp};

/// Whom something is refused to, as far as that is known.
#[derive(Debug, Clone, Copy)]
pub struct Whom<'a> {
    /// Where it is.
    pub peer: IpAddr,
    /// The device that it has shown to be.
    pub device: Option<&'a DeviceId>,
    /// The device that it says it is and has not shown to be: anybody can say so.
    pub claimed: Option<&'a DeviceId>,
    /// The client id, which it chooses.
    pub client_id: Option<&'a str>,
}

impl Whom<'_> {
    /// Somebody of whom no more is known than where it is.
    #[must_use]
    pub fn at(peer: IpAddr) -> Self {
        Self { peer, device: None, claimed: None, client_id: None }
    }
}

/// What has happened.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// Something was refused to a peer.
    Refused {
        /// Why, in one word.
        reason: &'a str,
        /// To whom.
        whom: Whom<'a>,
        /// The same in words; it may hold text of the peer's.
        detail: &'a str,
    },
    /// An operator has changed something by a command.
    Changed {
        /// What, in one word, as the command is called.
        change: &'a str,
        /// Of which device, if it is of one.
        device: Option<&'a DeviceId>,
        /// The same in words.
        detail: &'a str,
    },
    /// Somebody has changed something by the API.
    ChangedByApi {
        /// As in `Changed`.
        change: &'a str,
        /// As in `Changed`.
        device: Option<&'a DeviceId>,
        /// From where.
        peer: IpAddr,
        /// The id of the token.
        token: &'a str,
        /// The same in words.
        detail: &'a str,
    },
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Entry {
    /// When, as the wall clock stood.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// Whether the wall clock could be trusted: `synchronized` or `unsynchronized`.
    pub clock: String,
    /// `refused` or `changed`.
    pub event: String,
    /// Why it was refused, or what was changed.
    pub reason: String,
    /// To whom it was refused, or from where it was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// The device, which it has shown to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// The device that it said it was, and did not show to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed: Option<DeviceId>,
    /// The client id, as far as it is not too long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The user who has changed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
    /// The id of the token by which it was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The same in words.
    pub detail: String,
    /// Entries before this one that were left out, of whatever.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Entry {
    /// Of an event at this time.
    #[must_use]
    pub fn new(event: Event<'_>, at: Stamp, left_out: u64) -> Self {
        let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.wall_ms) * 1_000_000);
        let clock = match at.quality {
            ClockQuality::Synchronized => "synchronized",
            ClockQuality::Unsynchronized => "unsynchronized",
        };
        let entry = |event: &str, reason: &str, detail: &str| Self {
            time: time.unwrap_or(OffsetDateTime::UNIX_EPOCH),
            clock: clock.to_owned(),
            event: event.to_owned(),
            reason: reason.to_owned(),
            peer: None,
            device: None,
            claimed: None,
            client_id: None,
            user: None,
            token: None,
            detail: detail.to_owned(),
            left_out,
        };
        match event {
            Event::Refused { reason, whom, detail } => Self {
                peer: Some(whom.peer.to_canonical()),
                device: whom.device.cloned(),
                claimed: whom.claimed.cloned(),
                client_id: whom.client_id.map(str::to_owned),
                ..entry("refused", reason, detail)
            },
            Event::Changed { change, device, detail } => Self {
                device: device.cloned(),
                user: Some(rustix::process::getuid().as_raw()),
                ..entry("changed", change, detail)
            },
            Event::ChangedByApi { change, device, peer, token, detail } => Self {
                peer: Some(peer.to_canonical()),
                device: device.cloned(),
                token: Some(token.to_owned()),
                ..entry("changed", change, detail)
            },
        }
    }

    /// Whether it is about this device: what it did, and what others did under its name. Of a peer that has named no
    /// device its client id counts as the name.
    #[must_use]
    pub fn is_about(&self, device: &DeviceId) -> bool {
        match (&self.device, &self.claimed) {
            (None, None) => self.client_id.as_deref() == Some(device.as_str()),
            (shown, claimed) => shown.as_ref() == Some(device) || claimed.as_ref() == Some(device),
        }
    }

    /// As a line with its end.
    pub(super) fn to_line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("names and texts can be written as JSON");
        line.push(b'\n');
        line
    }
}
