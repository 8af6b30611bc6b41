//! What stands in a line.

use std::net::IpAddr;

use time::OffsetDateTime;

use crate::message::{ClockQuality, DeviceId, Stamp};

/// What has happened.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// Something was refused to a peer.
    Refused {
        /// Why, in one word.
        reason: &'a str,
        /// To whom.
        peer: IpAddr,
        /// To which device, if that is known.
        device: Option<&'a DeviceId>,
        /// The same in words; it may hold text of the peer's.
        detail: &'a str,
    },
    /// An operator has changed something.
    Changed {
        /// What, in one word, as the command is called.
        change: &'a str,
        /// Of which device, if it is of one.
        device: Option<&'a DeviceId>,
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
    /// To whom it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// The device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// The user who has changed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
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
        let (event, reason, peer, device, detail, user) = match event {
            Event::Refused { reason, peer, device, detail } => {
                ("refused", reason, Some(peer.to_canonical()), device, detail, None)
            }
            Event::Changed { change, device, detail } => {
                ("changed", change, None, device, detail, Some(rustix::process::getuid().as_raw()))
            }
        };
        Self {
            time: time.unwrap_or(OffsetDateTime::UNIX_EPOCH),
            clock: clock.to_owned(),
            event: event.to_owned(),
            reason: reason.to_owned(),
            peer,
            device: device.cloned(),
            user,
            detail: detail.to_owned(),
            left_out,
        }
    }

    /// As a line with its end.
    pub(super) fn to_line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("names and texts can be written as JSON");
        line.push(b'\n');
        line
    }
}
