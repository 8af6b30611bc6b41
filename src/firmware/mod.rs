//! Firmware for devices, over HTTPS, as the updaters of ESP32 and ESP8266 ask for it.
//!
//! ```text
//! DATA_DIR/firmware/
//!   releases.json           which image is for whom; replaced whole
//!   releases.json.copy      the same again, for the day when a sector goes bad
//!   images/SHA256.bin       the images, each named by what it must hash to
//!   .releases.lock          held by who changes something
//!   devices.json            what is known of the firmware of each device
//! ```
//!
//! Invariants: an image is on disk before a release names it, and is removed after none does. What is served was read
//! to its end and has hashed to its name within the last minute. A device is given only what is for it.

mod asked;
mod checked;
mod hex;
mod http;
mod image;
mod notice;
mod release;
mod service;
mod state;
mod store;

#[cfg(test)]
mod tests;

pub use asked::Board;
pub use hex::{Hex, Md5, Sha256};
pub use image::{BadImage, Format, Image, Kind};
pub use notice::Publish;
pub use release::{Offer, Release, Releases, Rollout, Target, Version};
pub use service::{Figures, Firmware, Parts};
pub use state::{DeviceState, Offered, States};
pub use store::{NewRelease, Room, Store, StoreError};
