//! A reading: what a device said, and when the gateway heard it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::DeviceId;

/// The number of a reading in this gateway's buffer: 1, 2, 3 … without a hole.
pub type Seq = u64;

/// The quality of service of a message (MQTT 3.1.1, section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Qos {
    /// At most once.
    AtMostOnce = 0,
    /// At least once.
    AtLeastOnce = 1,
    /// Exactly once.
    ExactlyOnce = 2,
}

/// The kernel's id of the present boot (`/proc/sys/kernel/random/boot_id`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BootId(pub [u8; 16]);

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// How far the wall clock could be trusted when a stamp was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ClockQuality {
    /// Nobody vouched for the wall clock: it may be off by decades.
    Unsynchronized = 0,
    /// The kernel or a time daemon says that the wall clock is synchronised.
    Synchronized = 1,
}

/// When the gateway received something, on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Wall time, milliseconds since 1970-01-01 UTC, as the clock stood then.
    pub wall_ms: i64,
    /// `CLOCK_BOOTTIME`, milliseconds since the boot named by `boot`.
    pub boot_ms: u64,
    /// The boot that `boot_ms` counts from.
    pub boot: BootId,
    /// Whether `wall_ms` could be trusted.
    pub quality: ClockQuality,
}

/// A reading on its way into the buffer, borrowed from the packet it came in.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// Who sent it.
    pub device: &'a DeviceId,
    /// The name of the stream that it belongs to.
    pub stream: &'a str,
    /// The topic that it was published to.
    pub topic: &'a str,
    /// The payload, byte for byte as received.
    pub payload: &'a [u8],
    /// The quality of service that it was published with.
    pub qos: Qos,
    /// When it was received.
    pub received: Stamp,
    /// Why no sink can use it, if so: it is kept and dead-lettered.
    pub fault: Option<&'a str>,
}

/// A reading as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Its number in the buffer.
    pub seq: Seq,
    /// The opening of the store that numbered it; `(gateway, epoch, seq)` names a reading for ever.
    pub epoch: u64,
    /// Who sent it.
    pub device: DeviceId,
    /// The name of the stream that it belongs to.
    pub stream: Arc<str>,
    /// The topic that it was published to.
    pub topic: Arc<str>,
    /// The payload, byte for byte as received.
    pub payload: Bytes,
    /// The quality of service that it was published with.
    pub qos: Qos,
    /// When it was received.
    pub received: Stamp,
    /// Why no sink can use it, if so.
    pub fault: Option<Arc<str>>,
}
