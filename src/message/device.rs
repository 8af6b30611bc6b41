//! Who a reading comes from.

use std::fmt;
use std::sync::Arc;

/// The longest device name, in bytes. An X.509 common name holds 64 characters (RFC 5280, ub-common-name).
const MAX_DEVICE_ID_BYTES: usize = 64;

/// The name of a device: the CN of its certificate, one level of a topic, a file name.
///
/// 1 to 64 bytes of ASCII letters, digits, `-`, `_`, `.`, `:` and `@`, not starting with `.`.
/// It can therefore stand in a topic, a path, a log line and an SQL column without escaping.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(Arc<str>);

/// Why a text is not a device name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDeviceId {
    /// No character at all.
    #[error("a device name must not be empty")]
    Empty,
    /// Longer than 64 bytes.
    #[error("a device name has at most {MAX_DEVICE_ID_BYTES} bytes, this one has {0}")]
    TooLong(usize),
    /// A character that cannot stand in a topic level or a file name.
    #[error("a device name consists of letters, digits, '-', '_', '.', ':' and '@'; {0:?} is none of them")]
    Character(char),
    /// A leading dot would hide its files.
    #[error("a device name must not start with '.'")]
    LeadingDot,
}

impl DeviceId {
    /// Parses a device name.
    ///
    /// # Errors
    /// Says which rule of [`DeviceId`] is broken.
    pub fn parse(text: &str) -> Result<Self, InvalidDeviceId> {
        if text.is_empty() {
            return Err(InvalidDeviceId::Empty);
        }
        if text.len() > MAX_DEVICE_ID_BYTES {
            return Err(InvalidDeviceId::TooLong(text.len()));
        }
        if text.starts_with('.') {
            return Err(InvalidDeviceId::LeadingDot);
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:@".contains(c);
        match text.chars().find(|c| !allowed(*c)) {
            Some(bad) => Err(InvalidDeviceId::Character(bad)),
            None => Ok(Self(text.into())),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl serde::Serialize for DeviceId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for DeviceId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_can_stand_in_a_topic_and_a_path_is_taken() {
        for good in ["esp32-01", "a", "AA:BB:CC:DD:EE:FF", "pump.west", "x@lab"] {
            assert_eq!(DeviceId::parse(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn what_could_leave_its_level_or_directory_is_refused() {
        assert_eq!(DeviceId::parse(""), Err(InvalidDeviceId::Empty));
        assert_eq!(DeviceId::parse(".."), Err(InvalidDeviceId::LeadingDot));
        for (bad, at) in [("a/b", '/'), ("+", '+'), ("a#", '#'), ("a b", ' '), ("ü", 'ü'), ("a\0", '\0')] {
            assert_eq!(DeviceId::parse(bad), Err(InvalidDeviceId::Character(at)));
        }
        assert_eq!(DeviceId::parse(&"x".repeat(65)), Err(InvalidDeviceId::TooLong(65)));
    }
}
