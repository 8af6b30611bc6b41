//! MQTT on the wire, 3.1.1 and 5.0: from bytes to packets that no longer tell the version, and from answers
//! to bytes. Apart from I/O, and the only place that knows how the versions differ.
//!
//! What a client may send is checked here against the normative statements of its version, before anything is
//! allocated for it. Properties that the gateway does nothing with (user properties of a SUBSCRIBE, reason
//! strings of a client) are checked and not kept.

mod connect;
mod delivery;
mod fields;
mod header;
mod id;
#[cfg(any(test, fuzzing))]
mod invariants;
mod packets;
mod properties;
mod read;
mod reason;
mod rules;
mod write;

pub(super) use self::connect::{ConnectError, take as take_connect};
pub(super) use self::delivery::{Delivery, publish_bytes, put_publish};
#[cfg(any(test, fuzzing))]
pub(super) use self::invariants::{check_connect, check_packets};
pub(super) use self::packets::{
    Ack, AckKind, Answer, ConnAck, Connect, Disconnect, Packet, Password, Publish, RetainHandling, Subscribe,
    Unsubscribe, Version, Wanted, Will,
};
pub(super) use self::properties::Properties;
#[cfg(test)]
pub(super) use self::properties::UserProperties;
pub(super) use self::read::{Next, next};
pub(super) use self::reason::Reason;
pub(super) use self::rules::BadPacket;
pub(super) use self::write::{Unsendable, write};

use crate::message::Qos;

#[cfg(test)]
mod tests;

/// Two bits.
fn qos(bits: u8) -> Option<Qos> {
    match bits {
        0 => Some(Qos::AtMostOnce),
        1 => Some(Qos::AtLeastOnce),
        2 => Some(Qos::ExactlyOnce),
        _ => None,
    }
}
