//! The rules that a client's packets must keep, with the number of the normative statement in each version.
//! Where the specification states a rule without giving it a number, the section stands in its place.

use super::{Reason, Version};

/// Why the bytes of a client cannot be taken. The connection is closed on each
/// (MQTT-4.8.0-1 in 3.1.1, MQTT-4.13.1-1 in 5.0).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadPacket {
    #[error("a packet of {bytes} bytes, at most {max} are taken")]
    TooLarge { bytes: usize, max: usize },
    #[error("{what} [{statement}]")]
    Violation { statement: &'static str, what: &'static str, reason: Reason },
}

impl BadPacket {
    /// What a client that speaks 5.0 is told.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::TooLarge { .. } => Reason::PacketTooLarge,
            Self::Violation { reason, .. } => *reason,
        }
    }
}

/// A rule.
#[derive(Debug)]
pub(super) struct Rule {
    v3: &'static str,
    v5: &'static str,
    reason: Reason,
    /// What breaks it.
    what: &'static str,
}

impl Rule {
    /// It is broken.
    pub(super) fn broken(&self, version: Version) -> BadPacket {
        let statement = match version {
            Version::V3 => self.v3,
            Version::V5 => self.v5,
        };
        BadPacket::Violation { statement, what: self.what, reason: self.reason }
    }
}

/// A packet that cannot be parsed.
const fn malformed(v3: &'static str, v5: &'static str, what: &'static str) -> Rule {
    Rule { v3, v5, reason: Reason::MalformedPacket, what }
}

/// A packet that can be parsed, and has no meaning.
const fn protocol(v3: &'static str, v5: &'static str, what: &'static str) -> Rule {
    Rule { v3, v5, reason: Reason::ProtocolError, what }
}

/// The statement of a rule that a version gives no occasion to break.
const NONE: &str = "";

// Any packet.
pub(super) const FORBIDDEN_TYPE: Rule =
    malformed("MQTT-2.2.1", "MQTT-2.1.2", "a packet type that is forbidden");
pub(super) const SERVER_ONLY: Rule =
    protocol("MQTT-2.2.1", "MQTT-2.1.2", "a packet that only a server may send");
pub(super) const RESERVED_FLAGS: Rule =
    malformed("MQTT-2.2.2-2", "MQTT-2.1.3-1", "reserved bits in the fixed header");
pub(super) const LONG_LENGTH: Rule =
    malformed("MQTT-2.2.3", "MQTT-1.5.5", "a length of more than four bytes");
pub(super) const PADDED_LENGTH: Rule =
    malformed(NONE, "MQTT-1.5.5-1", "a number that is longer than it needs to be");
pub(super) const BEYOND_END: Rule =
    malformed("MQTT-4.8.0-1", "MQTT-4.13.1-1", "a field that reaches beyond the end of its packet");
pub(super) const BEHIND_END: Rule =
    malformed("MQTT-4.8.0-1", "MQTT-4.13.1-1", "bytes behind the last field of a packet");
pub(super) const NOT_UTF8: Rule = malformed("MQTT-1.5.3-1", "MQTT-1.5.4-1", "a text that is not UTF-8");
pub(super) const NUL: Rule = malformed("MQTT-1.5.3-2", "MQTT-1.5.4-2", "a text that holds a NUL character");
pub(super) const PACKET_ID_ZERO: Rule = protocol("MQTT-2.3.1-1", "MQTT-2.2.1-3", "packet identifier 0");

// Properties.
pub(super) const MISPLACED_PROPERTY: Rule =
    malformed(NONE, "MQTT-2.2.2.2", "a property that its packet must not have");
pub(super) const REPEATED_PROPERTY: Rule = protocol(NONE, "MQTT-2.2.2.2", "a property that is given twice");
pub(super) const NOT_A_FLAG: Rule =
    protocol(NONE, "MQTT-2.2.2.2", "a property that is neither 0 nor 1, and must be");

// CONNECT.
pub(super) const NOT_CONNECT: Rule =
    protocol("MQTT-3.1.0-1", "MQTT-3.1.0-1", "the first packet is not a CONNECT");
pub(super) const SECOND_CONNECT: Rule = protocol("MQTT-3.1.0-2", "MQTT-3.1.0-2", "a second CONNECT");
pub(super) const PROTOCOL_NAME: Rule =
    malformed("MQTT-3.1.2-1", "MQTT-3.1.2-1", "the protocol name is not \"MQTT\"");
pub(super) const CONNECT_RESERVED_FLAG: Rule =
    malformed("MQTT-3.1.2-3", "MQTT-3.1.2-3", "the reserved flag of the CONNECT is set");
pub(super) const WILL_QOS_3: Rule = malformed("MQTT-3.1.2-14", "MQTT-3.1.2-12", "a will with QoS 3");
pub(super) const QOS_WITHOUT_WILL: Rule =
    malformed("MQTT-3.1.2-13", "MQTT-3.1.2-11", "the QoS of a will that there is not");
pub(super) const RETAIN_WITHOUT_WILL: Rule =
    malformed("MQTT-3.1.2-15", "MQTT-3.1.2-13", "RETAIN of a will that there is not");
pub(super) const PASSWORD_WITHOUT_USER: Rule =
    malformed("MQTT-3.1.2-22", NONE, "a password without a user name");
pub(super) const RECEIVE_MAXIMUM_ZERO: Rule = protocol(NONE, "MQTT-3.1.2.11.3", "a Receive Maximum of 0");
pub(super) const MAXIMUM_PACKET_SIZE_ZERO: Rule =
    protocol(NONE, "MQTT-3.1.2.11.4", "a Maximum Packet Size of 0");
pub(super) const DATA_WITHOUT_METHOD: Rule =
    protocol(NONE, "MQTT-3.1.2.11.10", "Authentication Data without an Authentication Method");

// PUBLISH.
pub(super) const QOS_3: Rule = malformed("MQTT-3.3.1-4", "MQTT-3.3.1-4", "a PUBLISH with both QoS bits set");
pub(super) const DUP_WITH_QOS_0: Rule =
    malformed("MQTT-3.3.1-2", "MQTT-3.3.1-2", "a PUBLISH with DUP and QoS 0");
pub(super) const WILDCARD_IN_TOPIC: Rule =
    malformed("MQTT-3.3.2-2", "MQTT-3.3.2-2", "a topic name that holds a wildcard");
pub(super) const EMPTY_TOPIC: Rule = protocol("MQTT-4.7.3-1", "MQTT-4.7.3-1", "an empty topic name");
pub(super) const TOPIC_ALIAS_ZERO: Rule =
    Rule { reason: Reason::TopicAliasInvalid, ..protocol(NONE, "MQTT-3.3.2-8", "a Topic Alias of 0") };
pub(super) const RESPONSE_WILDCARD: Rule =
    protocol(NONE, "MQTT-3.3.2-14", "a Response Topic that holds a wildcard");
pub(super) const CLIENT_SUBSCRIPTION_ID: Rule =
    protocol(NONE, "MQTT-3.3.4-6", "a Subscription Identifier in a client's PUBLISH");

// Acks.
pub(super) const PUBLISH_ACK_REASON: Rule =
    malformed(NONE, "MQTT-3.4.2-1", "a reason that is none of a PUBACK or PUBREC");
pub(super) const RELEASE_REASON: Rule =
    malformed(NONE, "MQTT-3.6.2-1", "a reason that is none of a PUBREL or PUBCOMP");

// SUBSCRIBE and UNSUBSCRIBE.
pub(super) const NOTHING_SUBSCRIBED: Rule =
    protocol("MQTT-3.8.3-3", "MQTT-3.8.3-2", "a SUBSCRIBE without a filter");
pub(super) const RESERVED_OPTIONS: Rule =
    malformed("MQTT-3.8.3-4", "MQTT-3.8.3-5", "reserved bits in the options of a subscription");
pub(super) const SUBSCRIBED_QOS_3: Rule =
    protocol("MQTT-3.8.3-4", "MQTT-3.8.3.1", "a subscription with QoS 3");
pub(super) const RETAIN_HANDLING_3: Rule =
    protocol(NONE, "MQTT-3.8.3.1", "a subscription with Retain Handling 3");
pub(super) const SHARED_NO_LOCAL: Rule =
    protocol(NONE, "MQTT-3.8.3-4", "No Local with a shared subscription");
pub(super) const SUBSCRIPTION_ID_ZERO: Rule =
    protocol(NONE, "MQTT-3.8.2.1.2", "a Subscription Identifier of 0");
pub(super) const NOTHING_UNSUBSCRIBED: Rule =
    protocol("MQTT-3.10.3-2", "MQTT-3.10.3-2", "an UNSUBSCRIBE without a filter");

// DISCONNECT and AUTH.
pub(super) const DISCONNECT_REASON: Rule =
    malformed(NONE, "MQTT-3.14.2-1", "a reason that is none of a client's DISCONNECT");
pub(super) const AUTH_REASON: Rule =
    malformed(NONE, "MQTT-3.15.2-1", "a reason that is none of a client's AUTH");
pub(super) const AUTH_WITHOUT_METHOD: Rule =
    protocol(NONE, "MQTT-3.15.2.2.2", "an AUTH without an Authentication Method");
