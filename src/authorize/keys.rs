//! API keys: 256 random bits, shown once. The id in a key tells whose it is.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom as _, SystemRandom};
use subtle::ConstantTimeEq as _;
use time::OffsetDateTime;

use super::registry::{ApiKey, Devices};
use crate::message::DeviceId;

/// What every key begins with, so that one that has leaked is recognised.
const PREFIX: &str = "tampu_";

const ID_BYTES: usize = 4;

const SECRET_BYTES: usize = 32;

/// A key that was just made. Only its hash is kept.
pub struct NewKey {
    /// The key. It is shown once.
    pub key: String,
    /// What is kept of it.
    pub record: ApiKey,
}

impl NewKey {
    /// Makes a key with an id that no other has.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn make(
        devices: &Devices,
        created: OffsetDateTime,
        expires: Option<OffsetDateTime>,
    ) -> Result<Self, String> {
        let failed = |_| "the system gives no random numbers".to_owned();
        let random = SystemRandom::new();
        let id = loop {
            let mut id = [0; ID_BYTES];
            random.fill(&mut id).map_err(failed)?;
            let id = hex(&id);
            if devices.key(&id).is_none() {
                break id;
            }
        };
        let mut secret = [0; SECRET_BYTES];
        random.fill(&mut secret).map_err(failed)?;
        let key = format!("{PREFIX}{id}_{}", URL_SAFE_NO_PAD.encode(secret));
        let record = ApiKey { id, sha256: sha256(key.as_bytes()), created, expires };
        Ok(Self { key, record })
    }
}

/// Whether a text has the form of a key.
pub(super) fn is_key(text: &[u8]) -> bool {
    text.starts_with(PREFIX.as_bytes())
}

/// Whose key it is.
///
/// `user`: the user name beside it, which may be the device's name or the key's id. `certainly_past`: a time that is over.
///
/// # Errors
/// What is wrong, in words that hold nothing of the key.
pub(super) fn check<'a>(
    devices: &'a Devices,
    shown: &[u8],
    user: Option<&str>,
    certainly_past: SystemTime,
) -> Result<(&'a DeviceId, &'a ApiKey), String> {
    // What has no id may be a key that was torn: no part of it may be told.
    let id = id_of(shown).ok_or("it is no whole API key")?;
    let (device, key) = devices.key(id).ok_or_else(|| format!("there is no API key {id}"))?;
    if !bool::from(sha256(shown).as_bytes().ct_eq(key.sha256.as_bytes())) {
        return Err(format!("it is not the API key {id}"));
    }
    if user.is_some_and(|user| !user.is_empty() && user != device.as_str() && user != id) {
        return Err(format!("the API key {id} is another device's than the user name says"));
    }
    if key.expires.is_some_and(|expires| SystemTime::from(expires) <= certainly_past) {
        return Err(format!("the API key {id} has expired"));
    }
    Ok((device, key))
}

/// Whose key it would be by its id, which is no secret.
pub(super) fn claimed<'a>(devices: &'a Devices, shown: &[u8]) -> Option<&'a DeviceId> {
    devices.key(id_of(shown)?).map(|(device, _)| device)
}

fn id_of(shown: &[u8]) -> Option<&str> {
    let is_id = |id: &&str| id.bytes().all(|byte| byte.is_ascii_hexdigit());
    std::str::from_utf8(shown).ok()?.strip_prefix(PREFIX)?.get(..2 * ID_BYTES).filter(is_id)
}

fn sha256(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
