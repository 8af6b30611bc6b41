//! A check that a device puts into its payload, as the last member of the JSON object:
//! `{"t":21.5,"crc":"b9ddffd7"}`. Covered are all bytes before the comma in front of that member, and the
//! closing brace: `{"t":21.5}`. The check is hexadecimal, in either case.

use std::collections::BTreeMap;

use ring::hmac;

use crate::config::{self, IntegrityCheck};
use crate::message::DeviceId;

/// Why a payload does not pass its check.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Forged {
    #[error("the payload does not end in its check, the field {0}")]
    NoCheck(String),
    #[error("the check in the field {0} is not right for this payload")]
    Mismatch(String),
    #[error("there is no key for the device {0}")]
    NoKey(DeviceId),
}

/// The check of a stream, ready to be computed.
#[derive(Debug)]
pub(super) struct Integrity {
    field: String,
    /// The field's name as a JSON text.
    key: Vec<u8>,
    check: Check,
}

#[derive(Debug)]
enum Check {
    Crc32,
    HmacSha256(BTreeMap<DeviceId, hmac::Key>),
}

impl Integrity {
    pub(super) fn new(settings: &config::Integrity) -> Self {
        let check = match &settings.check {
            IntegrityCheck::Crc32 => Check::Crc32,
            IntegrityCheck::HmacSha256 { keys } => {
                let key =
                    |secret: &config::Secret| hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
                Check::HmacSha256(keys.iter().map(|(device, secret)| (device.clone(), key(secret))).collect())
            }
        };
        let key = serde_json::Value::from(settings.field.as_str()).to_string().into_bytes();
        Self { field: settings.field.clone(), key, check }
    }

    /// Checks a payload that is known to be JSON.
    pub(super) fn check(&self, device: &DeviceId, payload: &[u8]) -> Result<(), Forged> {
        let (covered, hex) = self.split(payload).ok_or_else(|| Forged::NoCheck(self.field.clone()))?;
        let right = match &self.check {
            Check::Crc32 => {
                let mut crc = crc32fast::Hasher::new();
                crc.update(covered);
                crc.update(b"}");
                unhex::<4>(hex) == Some(crc.finalize().to_be_bytes())
            }
            Check::HmacSha256(keys) => {
                let key = keys.get(device).ok_or_else(|| Forged::NoKey(device.clone()))?;
                // `verify` compares in constant time, but takes the message in one piece.
                let message = [covered, b"}"].concat();
                unhex::<32>(hex).is_some_and(|tag| hmac::verify(key, &message, &tag).is_ok())
            }
        };
        if right { Ok(()) } else { Err(Forged::Mismatch(self.field.clone())) }
    }

    /// What is covered, without the closing brace, and the check. Read from the end: in a valid JSON
    /// text that ends in `}`, the member before it is one of the outermost object.
    fn split<'a>(&self, payload: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let member = payload.trim_ascii_end().strip_suffix(b"}")?.trim_ascii_end();
        let value = member.strip_suffix(b"\"")?;
        let quote = value.iter().rposition(|byte| *byte == b'"')?;
        let key = value[..quote].trim_ascii_end().strip_suffix(b":")?.trim_ascii_end();
        let before = key.strip_suffix(&self.key[..])?.trim_ascii_end();
        let covered = match before.split_last()? {
            (b',', covered) => covered,
            (b'{', _) => before,
            _ => return None,
        };
        Some((covered, &value[quote + 1..]))
    }
}

/// Decodes exactly `N` bytes of hexadecimal digits.
fn unhex<const N: usize>(hex: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = [0; N];
    let (pairs, []) = hex.as_chunks::<2>() else { return None };
    if pairs.len() != N {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn device(name: &str) -> DeviceId {
        DeviceId::parse(name).unwrap()
    }

    fn crc() -> Integrity {
        Integrity::new(&config::Integrity { field: "crc".to_owned(), check: IntegrityCheck::Crc32 })
    }

    fn check(integrity: &Integrity, payload: &str) -> Result<(), Forged> {
        integrity.check(&device("plug"), payload.as_bytes())
    }

    /// The digits are Python's `binascii.crc32(b'{"t":21.5}')`.
    #[test]
    fn a_crc_covers_the_object_without_its_own_field() {
        for good in [
            r#"{"t":21.5,"crc":"CRC"}"#,
            r#"{"t":21.5, "crc" : "CRC" }"#,
            "{\"t\":21.5,\n\"crc\":\"CRC\"\n}\n",
        ] {
            assert_eq!(check(&crc(), &good.replace("CRC", "b9ddffd7")), Ok(()), "{good}");
            assert_eq!(check(&crc(), &good.replace("CRC", "B9DDFFD7")), Ok(()), "{good}");
        }
    }

    #[test]
    fn a_changed_payload_does_not_pass() {
        let mismatch = Err(Forged::Mismatch("crc".to_owned()));
        for bad in [
            r#"{"t":21.6,"crc":"b9ddffd7"}"#,
            r#"{"t":21.5 ,"crc":"b9ddffd7"}"#,
            r#"{"t":21.5,"crc":"b9ddffd"}"#,
            r#"{"t":21.5,"crc":"b9ddffd7 "}"#,
            r#"{"t":21.5,"crc":"0xb9ddffd"}"#,
            r#"{"t":21.5,"crc":""}"#,
        ] {
            assert_eq!(check(&crc(), bad), mismatch, "{bad}");
        }
    }

    #[test]
    fn a_check_that_is_not_the_last_member_is_none() {
        for bad in [
            r#"{"t":21.5}"#,
            r#"{"crc":"b9ddffd7","t":21.5}"#,
            r#"{"t":21.5,"crc":1}"#,
            r#"{"t":21.5,"xcrc":"b9ddffd7"}"#,
            r#"{"t":"\"crc\":\"b9ddffd7"}"#,
            r#"["crc","b9ddffd7"]"#,
            "5",
        ] {
            assert_eq!(check(&crc(), bad), Err(Forged::NoCheck("crc".to_owned())), "{bad}");
        }
    }

    /// The digits are Python's `hmac.new(b'key of plug', b'{"t":21.5}', 'sha256').hexdigest()`.
    #[test]
    fn an_hmac_is_checked_with_the_devices_own_key() {
        let keys = [("plug", "key of plug"), ("lamp", "key of lamp")]
            .map(|(name, key)| (device(name), Secret::new(key.to_owned())));
        let check = IntegrityCheck::HmacSha256 { keys: keys.into() };
        let integrity = Integrity::new(&config::Integrity { field: "mac".to_owned(), check });
        let payload =
            br#"{"t":21.5,"mac":"0349c7524c8ce92e7031080500bc25abd92fe290720d57a3596aea8451dcaf9a"}"#;
        assert_eq!(integrity.check(&device("plug"), payload), Ok(()));
        assert_eq!(integrity.check(&device("lamp"), payload), Err(Forged::Mismatch("mac".to_owned())));
        assert_eq!(integrity.check(&device("fan"), payload), Err(Forged::NoKey(device("fan"))));
        assert!(!format!("{integrity:?}").contains("key of plug"));
    }
}
