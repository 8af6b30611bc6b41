//! The devices of which the gateway knows more than their certificate: passwords, API keys, revocations, groups.
//!
//! They stand in `devices.json` in the data directory. The commands change it, beside a running gateway or without
//! one; the gateway looks for changes twice a second. Nothing in it is a secret that can be shown again: passwords
//! are argon2id hashes, API keys (256 random bits) are SHA-256 hashes.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use time::OffsetDateTime;

use super::document::{Content, Document};
use super::identity::Mark;
use crate::message::{CertificateId, DeviceId};

/// The registry as a running gateway sees it.
pub type Registry = Document<Devices>;

/// The present form of the file.
const VERSION: u32 = 1;

/// Revocations are kept for so long after the end of their certificates, so that a clock which was set back a little
/// does not let one in again.
const FORGET_AFTER: time::Duration = time::Duration::days(30);

/// All devices of the registry.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Devices {
    version: u32,
    devices: BTreeMap<DeviceId, Device>,
}

impl Default for Devices {
    fn default() -> Self {
        Self { version: VERSION, devices: BTreeMap::new() }
    }
}

/// What is known of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Device {
    /// It is not let in, whatever it shows.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    /// Its certificates that are not believed any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<RevokedCertificate>,
    /// Its password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<PasswordHash>,
    /// Its API keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<ApiKey>,
    /// The groups it is in, besides those of the configuration.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub groups: BTreeSet<DeviceId>,
}

/// A certificate that is not believed any more.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokedCertificate {
    /// Which.
    pub certificate: CertificateId,
    /// From when on: a device that is given a new one may have some time to take it up.
    #[serde(with = "time::serde::rfc3339")]
    pub revoked_at: OffsetDateTime,
    /// When it would have expired; some time after that the revocation is forgotten. `None`: it is kept for ever, as
    /// that of a certificate of which only the serial number is known.
    #[serde(with = "time::serde::rfc3339::option", default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<OffsetDateTime>,
}

/// The hash of a password, as a PHC string (`$argon2id$v=19$m=…`). It does not print.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct PasswordHash(pub(super) String);

/// An API key, without the key.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// Its name, a part of the key: 8 hexadecimal digits.
    pub id: String,
    /// SHA-256 of the whole key, hexadecimal.
    pub sha256: String,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// Until when it is good; `None`: until it is revoked.
    #[serde(with = "time::serde::rfc3339::option", default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<OffsetDateTime>,
}

impl Devices {
    /// What is known of a device.
    #[must_use]
    pub fn device(&self, device: &DeviceId) -> Option<&Device> {
        self.devices.get(device)
    }

    /// What is known of a device, to be changed.
    pub fn device_mut(&mut self, device: &DeviceId) -> &mut Device {
        self.devices.entry(device.clone()).or_default()
    }

    /// All of them, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&DeviceId, &Device)> {
        self.devices.iter()
    }

    /// The API key with this id, and whose it is.
    #[must_use]
    pub fn key(&self, id: &str) -> Option<(&DeviceId, &ApiKey)> {
        self.devices.iter().find_map(|(device, known)| Some((device, known.key(id)?)))
    }

    /// Takes note that these certificates of a device, each with its end, are revoked from `at` on, and tells of how
    /// many that is new.
    pub fn revoke(
        &mut self,
        device: &DeviceId,
        certificates: &[(CertificateId, Option<OffsetDateTime>)],
        at: OffsetDateTime,
    ) -> usize {
        let revoked = &mut self.device_mut(device).revoked;
        let mut new = 0;
        for (certificate, not_after) in certificates {
            match revoked.iter_mut().find(|revoked| revoked.certificate == *certificate) {
                Some(before) if before.revoked_at <= at => continue,
                Some(later) => later.revoked_at = at,
                None => {
                    let (certificate, not_after) = (certificate.clone(), *not_after);
                    revoked.push(RevokedCertificate { certificate, revoked_at: at, not_after });
                }
            }
            new += 1;
        }
        new
    }

    /// Forgets the revocations of certificates that had expired 30 days before this time, which must be over for
    /// certain: TLS refuses those, whatever the registry says.
    pub fn forget_expired(&mut self, certainly_past: OffsetDateTime) {
        let before = certainly_past - FORGET_AFTER;
        for known in self.devices.values_mut() {
            known.revoked.retain(|revoked| revoked.not_after.is_none_or(|end| end > before));
        }
    }

    /// The devices as they are at this time, when what is to be revoked later is not revoked yet; and when that
    /// will be the next time.
    #[must_use]
    pub fn as_of(self: &Arc<Self>, now: OffsetDateTime) -> (Arc<Self>, Option<OffsetDateTime>) {
        let all = self.devices.values().flat_map(|known| &known.revoked);
        let next = all.map(|revoked| revoked.revoked_at).filter(|at| *at > now).min();
        if next.is_none() {
            return (Arc::clone(self), None);
        }
        let mut present = Self::clone(self);
        for known in present.devices.values_mut() {
            known.revoked.retain(|revoked| revoked.revoked_at <= now);
        }
        (Arc::new(present), next)
    }
}

impl Content for Devices {
    const NAME: &'static str = "devices";
    const VERSION: u32 = VERSION;

    fn version(&self) -> u32 {
        self.version
    }

    /// Forgets devices of which there is nothing to know.
    fn tidy(&mut self) {
        self.devices.retain(|_, known| *known != Device::default());
    }
}

impl Device {
    /// Whether a certificate is not believed any more.
    #[must_use]
    pub fn has_revoked(&self, certificate: &CertificateId) -> bool {
        self.revoked.iter().any(|revoked| revoked.certificate == *certificate)
    }

    /// The API key with this id.
    #[must_use]
    pub fn key(&self, id: &str) -> Option<&ApiKey> {
        self.keys.iter().find(|key| key.id == id)
    }
}

impl PasswordHash {
    /// A mark that changes with the hash.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark::of(self.0.as_bytes())
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hash)")
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("id", &self.id).field("expires", &self.expires).finish_non_exhaustive()
    }
}
