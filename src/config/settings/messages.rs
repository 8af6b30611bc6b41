//! The message gateway.

use std::time::Duration;

/// Text messages for phones, which `gateway.profile = "message-gateway"` turns on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Messages {
    /// Characters (Unicode scalar values) of a message.
    pub max_characters: usize,
    /// How long each try may take, from its acceptance until a phone has acknowledged it.
    pub good_for: Duration,
    /// How often a message is tried again that no phone has had.
    pub retries: u32,
    /// The wait before the first of these; it is doubled before each further one, up to an hour.
    pub backoff: Duration,
}

impl Default for Messages {
    fn default() -> Self {
        Self {
            max_characters: 1_600,
            good_for: Duration::from_secs(600),
            retries: 2,
            backoff: Duration::from_secs(30),
        }
    }
}
