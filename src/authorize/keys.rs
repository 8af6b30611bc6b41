//! API keys: 256 random bits, shown once. The id in a key tells whose it is.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom as _, SystemRandom};
use subtle::ConstantTimeEq as _;
use time::OffsetDateTime;

use super::document::DocumentError;
use super::registry::{ApiKey, Devices};
use crate::config::Secret;
use crate::message::DeviceId;

/// What every key begins with, so that one that has leaked is recognised.
pub(super) const PREFIX: &str = "tampu_";

const ID_BYTES: usize = 4;

/// What of a key is no secret: the prefix, the id, and what divides it from the rest.
pub(super) const PUBLIC_BYTES: usize = PREFIX.len() + 2 * ID_BYTES + 1;

const SECRET_BYTES: usize = 32;

/// A device has no more keys: one in force, one that follows it, and a few that were forgotten.
const MAX_KEYS: usize = 16;

/// A key that was just made. Only its hash is kept.
pub struct NewKey {
    /// The key. It is shown once.
    pub key: Secret,
    /// What is kept of it.
    pub record: ApiKey,
}

/// Why a key is not made, or not changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is none.
    #[error("there is no API key {0:?}")]
    Unknown(String),
    /// There may be no more.
    #[error("{0} has {MAX_KEYS} API keys already: revoke one of them")]
    TooMany(DeviceId),
    /// The end is beyond the calendar.
    #[error("that is too long: leave the end out")]
    TooLong,
    /// Without them no key is safe.
    #[error("the system gives no random numbers")]
    NoRandomNumbers,
    /// The registry cannot be changed.
    #[error(transparent)]
    Document(#[from] DocumentError),
}

impl Devices {
    /// Makes one more key for a device, good for so long; without `expires` until it is revoked.
    ///
    /// # Errors
    /// When it has as many as it may.
    pub fn add_key(
        &mut self,
        device: &DeviceId,
        now: OffsetDateTime,
        expires: Option<Duration>,
    ) -> Result<NewKey, KeyError> {
        if self.device(device).is_some_and(|known| known.keys.len() >= MAX_KEYS) {
            return Err(KeyError::TooMany(device.clone()));
        }
        let expires = expires.map(|after| end(now, after)).transpose()?;
        let is_new = |id: &str| self.key(id).is_none();
        let (id, key) = make_secret(PREFIX, is_new)?;
        let record = ApiKey { id, sha256: sha256(key.expose().as_bytes()), created: now, expires };
        self.device_mut(device).keys.push(record.clone());
        Ok(NewKey { key, record })
    }

    /// Makes a key in the place of another, which stays good for `keep`, and tells whose it is.
    ///
    /// # Errors
    /// When there is no such key, or the device has as many as it may.
    pub fn rotate_key(
        &mut self,
        id: &str,
        now: OffsetDateTime,
        keep: Option<Duration>,
        expires: Option<Duration>,
    ) -> Result<(DeviceId, NewKey), KeyError> {
        let Some(keep) = keep else {
            let device = self.revoke_key(id)?;
            let new = self.add_key(&device, now, expires)?;
            return Ok((device, new));
        };
        let device = self.owner(id)?;
        let last = end(now, keep)?;
        for key in self.device_mut(&device).keys.iter_mut().filter(|key| key.id == id) {
            key.expires = Some(key.expires.map_or(last, |expires| expires.min(last)));
        }
        let new = self.add_key(&device, now, expires)?;
        Ok((device, new))
    }

    /// Takes a key out of force, and tells whose it was.
    ///
    /// # Errors
    /// When there is no such key.
    pub fn revoke_key(&mut self, id: &str) -> Result<DeviceId, KeyError> {
        let device = self.owner(id)?;
        self.device_mut(&device).keys.retain(|key| key.id != id);
        Ok(device)
    }

    fn owner(&self, id: &str) -> Result<DeviceId, KeyError> {
        let found = self.key(id).map(|(device, _)| device.clone());
        found.ok_or_else(|| KeyError::Unknown(id.to_owned()))
    }
}

/// A moment so long after another.
pub(super) fn end(now: OffsetDateTime, after: Duration) -> Result<OffsetDateTime, KeyError> {
    let after = time::Duration::try_from(after).ok();
    after.and_then(|after| now.checked_add(after)).ok_or(KeyError::TooLong)
}

/// A secret that begins with `prefix` and an id that no other has.
pub(super) fn make_secret(prefix: &str, is_new: impl Fn(&str) -> bool) -> Result<(String, Secret), KeyError> {
    let random = SystemRandom::new();
    let fill = |bytes: &mut [u8]| random.fill(bytes).map_err(|_| KeyError::NoRandomNumbers);
    let id = loop {
        let mut id = [0; ID_BYTES];
        fill(&mut id)?;
        let id = hex(&id);
        if is_new(&id) {
            break id;
        }
    };
    let mut secret = [0; SECRET_BYTES];
    fill(&mut secret)?;
    let text = Secret::new(format!("{prefix}{id}_{}", URL_SAFE_NO_PAD.encode(secret)));
    Ok((id, text))
}

/// Of a user name and a password, what stands where a key may stand, and the user name if it stands beside it.
pub(super) fn shown<'a>(user: Option<&'a str>, password: Option<&'a [u8]>) -> (&'a [u8], Option<&'a str>) {
    match (password, user) {
        (Some(password), user) if is_key(password) => (password, user),
        (_, user) => (user.unwrap_or_default().as_bytes(), None),
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
    let id = id_in(shown, PREFIX).ok_or("it is no whole API key")?;
    let (device, key) = devices.key(id).ok_or_else(|| format!("there is no API key {id}"))?;
    if !is_of(shown, &key.sha256) {
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
    devices.key(id_in(shown, PREFIX)?).map(|(device, _)| device)
}

/// The id in a secret.
pub(super) fn id_in<'a>(shown: &'a [u8], prefix: &str) -> Option<&'a str> {
    let is_id = |id: &&str| id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let rest = std::str::from_utf8(shown).ok()?.strip_prefix(prefix)?;
    rest.get(..2 * ID_BYTES).filter(is_id)
}

/// Whether a secret has this hash, in constant time.
pub(super) fn is_of(shown: &[u8], hash: &str) -> bool {
    sha256(shown).as_bytes().ct_eq(hash.as_bytes()).into()
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
