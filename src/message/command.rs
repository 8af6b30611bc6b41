//! What a command is called.

use std::fmt;
use std::str::FromStr;

use ring::rand::{SecureRandom as _, SystemRandom};

/// The name of a command: a UUID of version 7 (RFC 9562, section 5.7). The time in it is that of the wall clock, which
/// may be wrong: what came first, the ledger's numbers tell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId([u8; 16]);

/// The text is no UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a command's id is a UUID, such as 019a9f3c-5b1e-7cc2-b3a5-2f1d0c9e8b7a")]
pub struct InvalidCommandId;

impl CommandId {
    /// A new one. `wall_ms`: milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn generate(wall_ms: i64) -> Self {
        let mut bytes = [0; 16];
        SystemRandom::new().fill(&mut bytes[6..]).expect("the system gives random numbers");
        bytes[..6].copy_from_slice(&wall_ms.max(0).to_be_bytes()[2..]);
        bytes[6] = 0x70 | bytes[6] & 0x0f;
        bytes[8] = 0x80 | bytes[8] & 0x3f;
        Self(bytes)
    }

    /// The 16 bytes that it is kept under.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl From<[u8; 16]> for CommandId {
    fn from(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
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
        let text = text.as_bytes();
        let hyphens = [8, 13, 18, 23];
        if text.len() != 36 || hyphens.iter().any(|at| text[*at] != b'-') {
            return Err(InvalidCommandId);
        }
        let mut digits =
            (0..36).filter(|at| !hyphens.contains(at)).map(|at| char::from(text[at]).to_digit(16));
        let mut bytes = [0; 16];
        for byte in &mut bytes {
            let (high, low) = (digits.next().flatten(), digits.next().flatten());
            let (high, low) = high.zip(low).ok_or(InvalidCommandId)?;
            *byte = u8::try_from(high << 4 | low).map_err(|_| InvalidCommandId)?;
        }
        Ok(Self(bytes))
    }
}

impl serde::Serialize for CommandId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for CommandId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_uuid_of_version_7_with_the_time_in_front() {
        let id = CommandId::generate(0x0199_1234_5678);
        let text = id.to_string();
        assert!(text.starts_with("01991234-5678-7"), "{text}");
        assert!("89ab".contains(text.as_bytes()[19] as char), "{text}");
        assert_ne!(id, CommandId::generate(0x0199_1234_5678));
    }

    #[test]
    fn an_id_is_read_back_from_its_text_and_nothing_else_is_one() {
        let id = CommandId::generate(1_767_225_600_000);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
        let text = id.to_string();
        for bad in
            ["", "1", &text[..35], &format!("{text}0"), &text.replace('-', "0"), &text.replacen('7', "ü", 1)]
        {
            assert_eq!(bad.parse::<CommandId>(), Err(InvalidCommandId), "{bad}");
        }
    }
}
