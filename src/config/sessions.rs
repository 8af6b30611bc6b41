//! The tables of what is kept for clients.

use std::time::Duration;

use super::table::Table;
use super::{Retained, Sessions};

const YEAR: Duration = Duration::from_secs(365 * 86_400);

pub(super) fn sessions(mut table: Table) -> Sessions {
    let default = Sessions::default();
    let sessions = Sessions {
        max_expiry: table.duration("max_expiry", Duration::ZERO..=YEAR).unwrap_or(default.max_expiry),
        max_queued_bytes: table
            .bytes("max_queued", 1024)
            .and_then(|bytes| usize::try_from(bytes).ok())
            .unwrap_or(default.max_queued_bytes),
        max_queued_messages: table
            .count("max_queued_messages", 1..=1_000_000)
            .unwrap_or(default.max_queued_messages),
        max_total_bytes: table.bytes("max_queued_in_all", 1024).unwrap_or(default.max_total_bytes),
        max_per_device: table.count("max_kept_per_device", 1..=1_000_000).unwrap_or(default.max_per_device),
        max_kept: table.count("max_kept", 1..=1_000_000).unwrap_or(default.max_kept),
    };
    table.finish();
    sessions
}

pub(super) fn retained(mut table: Table) -> Retained {
    let default = Retained::default();
    let retained = Retained {
        max_messages: table.count("max_messages", 0..=1_000_000).unwrap_or(default.max_messages),
        max_bytes: table.bytes("max_size", 0).unwrap_or(default.max_bytes),
    };
    table.finish();
    retained
}
