//! The packets, as both versions have them. What 3.1.1 does not have is absent or has the default of 5.0.

use std::fmt;

use bytes::Bytes;

use super::{Properties, Reason};
use crate::message::Qos;

/// The versions of MQTT that are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// 3.1.1, protocol level 4.
    V3,
    /// 5.0, protocol level 5.
    V5,
}

/// What a client sends in a session, that is after its CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packet {
    Publish(Publish),
    Ack(Ack),
    Subscribe(Subscribe),
    Unsubscribe(Unsubscribe),
    PingReq,
    Disconnect(Disconnect),
    /// Well-formed; no method of authentication is known to the gateway, so it has no place in any session.
    Auth,
}

/// A request for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connect {
    pub(crate) version: Version,
    /// Empty: the gateway chooses.
    pub(crate) client_id: String,
    /// In 3.1.1: clean session.
    pub(crate) clean_start: bool,
    /// Seconds; 0 for none.
    pub(crate) keep_alive: u16,
    /// Seconds that the session outlives its connection; `u32::MAX` for ever.
    /// In 3.1.1: 0 with a clean session, for ever without.
    pub(crate) session_expiry: u32,
    /// QoS 1 and 2 messages that the client takes without having acknowledged them; at least 1. In 3.1.1: 65,535.
    pub(crate) receive_maximum: u16,
    /// Of a whole packet; at least 1.
    pub(crate) max_packet_bytes: Option<u32>,
    /// The highest topic alias that the client takes; 0 for none.
    pub(crate) topic_alias_maximum: u16,
    /// Whether acks may carry a reason string.
    pub(crate) request_problem_information: bool,
    pub(crate) request_response_information: bool,
    pub(crate) authentication_method: Option<String>,
    pub(crate) will: Option<Box<Will>>,
    pub(crate) user_name: Option<String>,
    pub(crate) password: Option<Password>,
}

/// A message that is published when the client is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Will {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    /// Seconds between the end of the connection and the message.
    pub(crate) delay: u32,
    pub(crate) properties: Option<Box<Properties>>,
}

/// A password, which is binary, and is never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Password(Box<[u8]>);

impl Password {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The password itself. Only for who checks it.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A message as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(crate) dup: bool,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    /// 0 with QoS 0, and only then.
    pub(crate) packet_id: u16,
    /// A topic name; empty when only an alias was given.
    pub(crate) topic: String,
    /// At least 1.
    pub(crate) topic_alias: Option<u16>,
    pub(crate) payload: Bytes,
    /// `None` when all are empty.
    pub(crate) properties: Option<Box<Properties>>,
}

/// An answer to a PUBLISH, or to such an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) kind: AckKind,
    pub(crate) packet_id: u16,
    pub(crate) reason: Reason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AckKind {
    Puback,
    Pubrec,
    Pubrel,
    Pubcomp,
}

/// At least one filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subscribe {
    pub(crate) packet_id: u16,
    /// At least 1.
    pub(crate) identifier: Option<u32>,
    pub(crate) filters: Vec<Wanted>,
}

/// A subscription that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Not yet parsed: that one filter is none does not always end the connection.
    pub(crate) filter: String,
    pub(crate) qos: Qos,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) retain_handling: RetainHandling,
}

/// When retained messages are sent for a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetainHandling {
    Always,
    /// If there is no such subscription yet.
    IfNew,
    Never,
}

/// At least one filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unsubscribe {
    pub(crate) packet_id: u16,
    pub(crate) filters: Vec<String>,
}

/// The end that a client gives its connection. In 3.1.1: success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disconnect {
    pub(crate) reason: Reason,
    /// Seconds, in place of what the CONNECT said.
    pub(crate) session_expiry: Option<u32>,
}

/// What the gateway answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    ConnAck(ConnAck),
    Ack(Ack),
    SubAck {
        packet_id: u16,
        /// One for each filter, in their order.
        codes: Vec<Reason>,
    },
    UnsubAck {
        packet_id: u16,
        /// One for each filter, in their order.
        codes: Vec<Reason>,
    },
    PingResp,
    /// Nothing in 3.1.1, where only a client disconnects in so many words.
    Disconnect {
        reason: Reason,
        /// For people. Left out when there is no room for it.
        text: Option<String>,
    },
}

/// The answer to a CONNECT. In 3.1.1, only the first two go over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConnAck {
    /// Only with success.
    pub(crate) session_present: bool,
    pub(crate) reason: Reason,
    /// When it is not what the client asked for.
    pub(crate) session_expiry: Option<u32>,
    pub(crate) receive_maximum: u16,
    pub(crate) max_packet_bytes: u32,
    pub(crate) assigned_client_id: Option<String>,
    pub(crate) topic_alias_maximum: u16,
    /// Seconds, when it is not what the client asked for.
    pub(crate) server_keep_alive: Option<u16>,
    /// For people. Left out when there is no room for it.
    pub(crate) text: Option<String>,
    pub(crate) response_information: Option<String>,
}
