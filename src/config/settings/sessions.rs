//! Sessions, and what they are kept for.

use std::time::Duration;

/// What is kept for clients that are away, and what may wait for those that are slow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sessions {
    /// How long a session outlives its connection at most; clients of MQTT 3.1.1 without a clean session get this.
    pub max_expiry: Duration,
    /// Bytes that may wait for one client before its messages are dropped, the newest first.
    pub max_queued_bytes: usize,
    /// Messages that may wait for one client.
    pub max_queued_messages: usize,
    /// Bytes that may wait for all clients together, and four times what may for those of one identity.
    pub max_total_bytes: u64,
    /// Sessions that one identity may leave behind; beyond it the one goes that was left first.
    pub max_per_device: usize,
    /// Sessions of clients that are away, of all identities together; beyond it none is kept anew.
    pub max_kept: usize,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            max_expiry: Duration::from_secs(7 * 86_400),
            max_queued_bytes: 1024 * 1024,
            max_queued_messages: 10_000,
            max_total_bytes: 64 * 1024 * 1024,
            max_per_device: 100,
            max_kept: 10_000,
        }
    }
}
