//! The entries of the fuzz targets in `fuzz/`. Each panics when something does not hold.

mod client;
mod input;
mod world;

use super::wire::{Version, check_connect, check_packets};

pub use self::world::sessions;

/// What a client of MQTT 3.1.1 sends, from its CONNECT on or in a session.
pub fn packets_v3(bytes: &[u8]) {
    check_connect(bytes);
    check_packets(Version::V3, bytes);
}

/// What a client of MQTT 5.0 sends, from its CONNECT on or in a session.
pub fn packets_v5(bytes: &[u8]) {
    check_connect(bytes);
    check_packets(Version::V5, bytes);
}
