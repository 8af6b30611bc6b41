//! Retained messages.

/// What is kept for those who subscribe later. A message to a new topic beyond a bound is delivered and not kept,
/// or in MQTT 5 at QoS 1 and 2, if it is no reading, refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retained {
    /// Retained messages: topics.
    pub max_messages: usize,
    /// Bytes of memory that they may take, of which each one counts as 512 at least.
    pub max_bytes: u64,
}

impl Default for Retained {
    fn default() -> Self {
        Self { max_messages: 10_000, max_bytes: 16 * 1024 * 1024 }
    }
}
