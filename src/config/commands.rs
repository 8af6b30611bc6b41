//! The table of commands for devices.

use std::time::Duration;

use super::Commands;
use super::table::Table;

const SECOND: Duration = Duration::from_secs(1);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

pub(super) fn commands(mut table: Table) -> Commands {
    let default = Commands::default();
    let size = |bytes: u64| usize::try_from(bytes).ok();
    let max_good_for = table.duration("max_good_for", SECOND..=YEAR).unwrap_or(default.max_good_for);
    let commands = Commands {
        max_open_per_device: table
            .count("max_open_per_device", 1..=10_000)
            .unwrap_or(default.max_open_per_device),
        max_open: table.count("max_open", 1..=100_000).unwrap_or(default.max_open),
        max_payload_bytes: table.bytes("max_payload", 1).and_then(size).unwrap_or(default.max_payload_bytes),
        max_total_bytes: table.bytes("max_size", 64 * 1024).unwrap_or(default.max_total_bytes),
        good_for: table
            .duration("good_for", SECOND..=max_good_for)
            .unwrap_or_else(|| default.good_for.min(max_good_for)),
        max_good_for,
        keep_finished: table.duration("keep_finished", SECOND..=YEAR).unwrap_or(default.keep_finished),
        max_finished: table.count("max_finished", 1..=100_000).unwrap_or(default.max_finished),
    };
    table.finish();
    commands
}
