//! Releases, for whom they are, and which of them a device is offered. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use ring::digest::{SHA256, digest};
use time::OffsetDateTime;

use super::image::{Image, Kind};
use crate::message::{DeviceId, InvalidDeviceId};

/// Releases that are kept at once.
pub(super) const MAX_RELEASES: usize = 1_000;
/// The longest version, in bytes: the description of ESP-IDF has room for 32.
const MAX_VERSION_BYTES: usize = 64;
/// Devices that a release may name.
const MAX_NAMED: usize = 10_000;

/// The version of a release, as a device tells it: 1 to 64 printable ASCII characters without spaces.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Version(Box<str>);

impl Version {
    /// The version as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Version {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (1..=MAX_VERSION_BYTES).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic())
        {
            true => Ok(Self(text.into())),
            false => Err("a version has 1 to 64 printable characters and no spaces"),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Version {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// For whom a release is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `*`: every device.
    Everybody,
    /// The group of this name and the device of this name.
    Named(DeviceId),
}

impl FromStr for Target {
    type Err = InvalidDeviceId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "*" => Ok(Self::Everybody),
            name => DeviceId::parse(name).map(Self::Named),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everybody => f.write_str("*"),
            Self::Named(name) => name.fmt(f),
        }
    }
}

impl serde::Serialize for Target {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Target {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Which of those for whom a release is get it already: a share of them, and some by name.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// 0 to 100.
    pub percent: u8,
    /// These whatever the share is.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub devices: BTreeSet<DeviceId>,
}

impl Rollout {
    /// All of them.
    pub const ALL: Self = Self { percent: 100, devices: BTreeSet::new() };

    /// Whoever has it by one of the two has it by both.
    pub(super) fn extend(&mut self, more: Self) {
        self.percent = self.percent.max(more.percent);
        self.devices.extend(more.devices);
    }
}

/// `25%`, or names with commas between them.
impl FromStr for Rollout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(number) = text.strip_suffix('%') {
            return match number.parse() {
                Ok(percent @ 1..=100) => Ok(Self { percent, devices: BTreeSet::new() }),
                _ => Err("a share is a whole number from 1% to 100%".to_owned()),
            };
        }
        let devices: Result<BTreeSet<_>, _> =
            text.split(',').map(|name| DeviceId::parse(name.trim())).collect();
        let devices =
            devices.map_err(|error| format!("a share such as 10%, or devices such as a,b: {error}"))?;
        match devices.len() <= MAX_NAMED {
            true => Ok(Self { percent: 0, devices }),
            false => Err(format!("no more than {MAX_NAMED} devices can be named: use a group")),
        }
    }
}

impl fmt::Display for Rollout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.percent)?;
        match self.devices.len() {
            0 => Ok(()),
            named => write!(f, " and {named} by name"),
        }
    }
}

/// An image for some devices.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Its number, never used again.
    pub id: u32,
    /// Its version.
    pub version: Version,
    /// For whom it is.
    #[serde(rename = "for")]
    pub target: Target,
    /// Which of them get it.
    pub rollout: Rollout,
    /// It was rolled back: nobody is offered it any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
    /// When it came.
    #[serde(with = "time::serde::rfc3339")]
    pub added: OffsetDateTime,
    /// Its image.
    pub image: Image,
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, version, target, rollout, .. } = self;
        write!(f, "release {id}: {version} for {target}, {rollout}")
    }
}

impl Release {
    /// Whether a device for which it is gets it. Raising the share takes it from nobody; and of another release
    /// other devices are the first.
    #[must_use]
    pub fn includes(&self, device: &DeviceId) -> bool {
        self.rollout.devices.contains(device) || bucket(self, device) < self.rollout.percent
    }

    /// How near it is to a device: `None` if it is not for it.
    fn nearness(&self, device: &DeviceId, is_in: &impl Fn(&DeviceId) -> bool) -> Option<u8> {
        match &self.target {
            Target::Everybody => Some(0),
            Target::Named(name) if name == device => Some(2),
            Target::Named(name) => is_in(name).then_some(1),
        }
    }
}

/// 0 to 99, evenly spread.
fn bucket(release: &Release, device: &DeviceId) -> u8 {
    let hash = digest(&SHA256, format!("{}\0{}\0{device}", release.id, release.image.sha256).as_bytes());
    let hash = u64::from_be_bytes(hash.as_ref()[..8].try_into().expect("a SHA-256 has 32 bytes"));
    u8::try_from(hash % 100).expect("it is below 100")
}

/// What there is for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer<'a> {
    /// This release.
    Release(&'a Release),
    /// There are releases for it, and it is not its turn.
    NotYet,
    /// No release is for it.
    Nothing,
}

impl<'a> Offer<'a> {
    /// The release, if there is one.
    #[must_use]
    pub fn release(self) -> Option<&'a Release> {
        match self {
            Self::Release(release) => Some(release),
            Self::NotYet | Self::Nothing => None,
        }
    }
}

/// All releases, the newest last.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Releases {
    /// The form of the file.
    pub(super) form: u32,
    /// The number of the next one.
    pub(super) next: u32,
    pub(super) releases: Vec<Release>,
}

impl Default for Releases {
    fn default() -> Self {
        Self { form: super::store::FORM, next: 1, releases: Vec::new() }
    }
}

impl Releases {
    /// All of them, the newest last.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Release> {
        self.releases.iter()
    }

    /// The release with this number.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<&Release> {
        self.releases.iter().find(|release| release.id == id)
    }

    /// What a device is offered. One for the device itself comes before one for its group, and that before one for
    /// everybody; of two the newer, if it is the device's turn. `is_in`: whether it is in a group.
    pub fn offer(&self, device: &DeviceId, kind: Kind, is_in: impl Fn(&DeviceId) -> bool) -> Offer<'_> {
        let standing =
            self.releases.iter().filter(|release| !release.withdrawn && release.image.kind() == kind);
        let near = |release: &Release| release.nearness(device, &is_in);
        let mut found = Offer::Nothing;
        let mut nearest = None;
        for (release, near) in standing.filter_map(|release| Some((release, near(release)?))) {
            if !release.includes(device) {
                if found == Offer::Nothing {
                    found = Offer::NotYet;
                }
            } else if nearest.is_none_or(|nearest| nearest <= near) {
                (found, nearest) = (Offer::Release(release), Some(near));
            }
        }
        found
    }
}
