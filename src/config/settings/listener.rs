//! Where devices connect, and the bounds of a connection.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::IdentityKind;

/// Which way a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Door {
    /// MQTT over TLS.
    Tls,
    /// MQTT over WebSocket over TLS.
    WebSocket,
    /// MQTT without TLS.
    Plain,
    /// Firmware over HTTPS.
    Firmware,
}

impl Door {
    /// The name as it stands in a log line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::WebSocket => "websocket",
            Self::Plain => "plain",
            Self::Firmware => "firmware",
        }
    }
}

/// Whether a device must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// No certificate, no connection.
    Required,
    /// Without a certificate a device is `anonymous`.
    Optional,
}

/// The TLS listener, and the limits that hold before anything large is allocated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Where to listen.
    pub address: SocketAddr,
    /// Whether a device must show a certificate.
    pub client_auth: ClientAuth,
    /// The kinds of identity that are taken, the one that wins first; `None`: as [`Access::identities`] says.
    ///
    /// [`Access::identities`]: super::Access::identities
    pub identities: Option<Vec<IdentityKind>>,
    /// From accept to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// From the end of the handshake to a whole CONNECT.
    pub connect_timeout: Duration,
    /// Connections at once.
    pub max_connections: usize,
    /// Connections at once from one address (of IPv6: a /64), behind which many devices may be: after a cut of the
    /// network they come back while their old connections are not known to be dead.
    pub max_connections_per_address: usize,
    /// Connections at once with the certificate of one device: one that comes back is there twice until its CONNECT
    /// takes the old one over. Anonymous ones are bounded by their address alone.
    pub max_connections_per_device: usize,
    /// TLS handshakes at once: a P-256 handshake keeps an ESP8266 busy for 1–2 s.
    pub max_handshakes: usize,
    /// The largest packet taken, in bytes, fixed header included.
    pub max_packet_bytes: usize,
    /// Publishes of one connection, QoS 1 and 2, that wait for their ack before it is read further.
    pub max_inflight: u16,
    /// Topic filters a connection may hold.
    pub max_subscriptions: usize,
    /// The longest keep alive that is granted silence; 0 from a client means this.
    pub max_keep_alive: Duration,
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8883)),
            client_auth: ClientAuth::Required,
            identities: None,
            handshake_timeout: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(10),
            max_connections: 10_000,
            max_connections_per_address: 2_500,
            max_connections_per_device: 16,
            max_handshakes: 64,
            max_packet_bytes: 256 * 1024,
            max_inflight: 1_000,
            max_subscriptions: 100,
            max_keep_alive: Duration::from_secs(1_200),
        }
    }
}

/// MQTT over WebSocket, over the same TLS as the [`Listener`], whose bounds hold for both together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocket {
    /// Where to listen.
    pub address: SocketAddr,
    /// The path of the upgrade request, beginning with `/`.
    pub path: String,
    /// Whether a device must show a certificate; browsers seldom can.
    pub client_auth: ClientAuth,
    /// As [`Listener::identities`].
    pub identities: Option<Vec<IdentityKind>>,
}

/// MQTT without TLS: whoever is on the way can read and change all of it, passwords too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plain {
    /// Where to listen: on loopback, unless the operator has allowed the network in so many words.
    pub address: SocketAddr,
    /// As [`Listener::identities`].
    pub identities: Option<Vec<IdentityKind>>,
}

/// What one address may do (of IPv6: a /64). Many devices may be behind one: 1,000 that come back together after a
/// power cut wait for nothing but the processor. If they come back once more at once, the last waits 10 s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections a second of one address; what is beyond is closed at once.
    pub connects_per_second: u32,
    /// Connections of one address that may come at once.
    pub connect_burst: u32,
    /// TLS handshakes a second of one address; what is beyond waits.
    pub handshakes_per_second: u32,
    /// TLS handshakes of one address that may come at once.
    pub handshake_burst: u32,
    /// The longest that an address waits whose connections end as soon as they have begun. Zero: it never waits.
    /// Clients that wait no longer than this for an answer would not get in while others at their address misbehave.
    pub max_reconnect_delay: Duration,
    /// What one connection may send; who sends faster is read more slowly.
    pub connection: Rate,
    /// What all connections of one address may send together.
    pub address: Rate,
    /// How long and how deep a topic may be.
    pub topics: TopicBounds,
}

/// How long and how deep may be what is published to, the topic of a will too, and what is subscribed to. A response
/// topic is passed on as it came: the answer to one that is beyond is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicBounds {
    /// Bytes of a topic, or of a filter as it is written: `$share/name/` is a part of it.
    pub max_bytes: usize,
    /// Its levels, at most [`TopicBounds::MAX_LEVELS`].
    pub max_levels: usize,
}

/// A topic or a filter beyond [`TopicBounds`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{bytes} bytes in {levels} levels: limits.max_topic_bytes and limits.max_topic_levels allow {} in {}",
    bounds.max_bytes,
    bounds.max_levels
)]
pub struct TopicTooLong {
    bytes: usize,
    levels: usize,
    bounds: TopicBounds,
}

impl TopicBounds {
    /// No more levels can be allowed: subscriptions are kept by level, and each costs a recursion.
    pub const MAX_LEVELS: u32 = 1_024;

    /// Checks a topic, or a filter as it is written.
    ///
    /// # Errors
    /// When it is beyond one of the bounds.
    pub fn check(self, topic: &str) -> Result<(), TopicTooLong> {
        let bytes = topic.len();
        let levels = 1 + topic.bytes().filter(|byte| *byte == b'/').count();
        if bytes <= self.max_bytes && levels <= self.max_levels {
            return Ok(());
        }
        Err(TopicTooLong { bytes, levels, bounds: self })
    }
}

impl Default for TopicBounds {
    fn default() -> Self {
        Self { max_bytes: 1_024, max_levels: 128 }
    }
}

/// How fast somebody may send, after a burst of a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Packets of MQTT a second.
    pub messages_per_second: u64,
    /// Bytes of them a second.
    pub bytes_per_second: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connects_per_second: 200,
            connect_burst: 2_000,
            handshakes_per_second: 100,
            handshake_burst: 1_000,
            max_reconnect_delay: Duration::from_secs(2),
            // Beyond what a Raspberry Pi takes: they bound who misbehaves on a larger machine, and hinder nobody else.
            connection: Rate { messages_per_second: 50_000, bytes_per_second: 64 * 1024 * 1024 },
            address: Rate { messages_per_second: 200_000, bytes_per_second: 256 * 1024 * 1024 },
            topics: TopicBounds::default(),
        }
    }
}
