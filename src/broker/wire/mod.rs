//! MQTT on the wire, 3.1.1 and 5.0: from bytes to packets that no longer tell the version, and from answers
//! to bytes. Apart from I/O, and the only place that knows how the versions differ.
//!
//! What a client may send is checked here against the normative statements of its version, before anything is
//! allocated for it. Properties that the gateway does nothing with (user properties of a SUBSCRIBE, reason
//! strings of a client) are checked and not kept.

#![allow(dead_code, reason = "the sessions do not use all of it yet")]
#![allow(unused_imports, reason = "the sessions do not use all of it yet")]

mod packets;
mod reason;

pub(super) use self::packets::{
    Ack, AckKind, Answer, ConnAck, Connect, Delivery, Disconnect, Packet, Password, Properties, Publish,
    RetainHandling, Subscribe, Unsubscribe, Version, Wanted, Will,
};
pub(super) use self::reason::Reason;
