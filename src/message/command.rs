//! What a command is called.

use std::fmt;
use std::str::FromStr;

use uuid::{NoContext, Timestamp, Uuid};

/// The name of a command: a UUID of version 7 (RFC 9562, section 5.7), with hyphens. The time in it is that of the wall
/// clock, which may be wrong: what came first, the ledger's numbers tell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct CommandId(Uuid);

/// The text is no UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a command's id is a UUID, such as 019a9f3c-5b1e-7cc2-b3a5-2f1d0c9e8b7a")]
pub struct InvalidCommandId;

impl CommandId {
    /// A new one. `wall_ms`: milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn generate(wall_ms: i64) -> Self {
        let ms = u64::try_from(wall_ms).unwrap_or(0);
        let nanos = u32::try_from(ms % 1_000).expect("less than a thousand") * 1_000_000;
        Self(Uuid::new_v7(Timestamp::from_unix(NoContext, ms / 1_000, nanos)))
    }

    /// The 16 bytes that it is kept under.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl From<[u8; 16]> for CommandId {
    fn from(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for CommandId {
    type Err = InvalidCommandId;

    fn from_str(text: &str) -> Result<Self, InvalidCommandId> {
        text.parse().map(Self).map_err(|_| InvalidCommandId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_the_time_in_front_and_is_read_back_from_its_text() {
        let id = CommandId::generate(0x0199_1234_5678);
        let text = id.to_string();
        assert!(text.starts_with("01991234-5678-7"), "{text}");
        assert_ne!(id, CommandId::generate(0x0199_1234_5678));
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(CommandId::from(*id.as_bytes()), id);
        for bad in ["", "1", &text[..35], &text.replacen('7', "ü", 1)] {
            assert_eq!(bad.parse::<CommandId>(), Err(InvalidCommandId), "{bad}");
        }
    }

    #[test]
    fn a_clock_before_1970_gives_an_id_all_the_same() {
        assert!(CommandId::generate(-1).to_string().starts_with("00000000-0000-7"));
    }
}
