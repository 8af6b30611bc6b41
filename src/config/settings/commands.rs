//! Commands for devices.

use std::time::Duration;

/// What is kept of commands for devices, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commands {
    /// Commands without an end that one device may have; what comes beyond is refused.
    pub max_open_per_device: usize,
    /// Commands without an end, of all devices.
    pub max_open: usize,
    /// Bytes of a payload.
    pub max_payload_bytes: usize,
    /// Bytes of memory that all commands may take, those with an end among them.
    pub max_total_bytes: u64,
    /// How long a command is good for that does not say it.
    pub good_for: Duration,
    /// How long a command may be good for.
    pub max_good_for: Duration,
    /// How long a command is known after its end, and so its reference.
    pub keep_finished: Duration,
    /// Commands that have an end and are kept; beyond it the oldest goes.
    pub max_finished: usize,
}

impl Default for Commands {
    fn default() -> Self {
        Self {
            max_open_per_device: 100,
            max_open: 5_000,
            max_payload_bytes: 8 * 1024,
            max_total_bytes: 16 * 1024 * 1024,
            good_for: Duration::from_secs(60),
            max_good_for: Duration::from_secs(86_400),
            keep_finished: Duration::from_secs(7 * 86_400),
            max_finished: 2_000,
        }
    }
}
