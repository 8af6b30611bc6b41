//! MQTT 3.1.1 for devices: sessions, subscriptions, and which publishes are readings.
//!
//! `session` is where promise P1 can be read: a PUBLISH is authorized, submitted to the buffer and
//! acknowledged when it is on disk. Acks leave in the order in which the publishes came (MQTT-4.6.0-2).
//!
//! What is refused, and how a client learns of it, as 3.1.1 has no negative acknowledgement for a PUBLISH:
//!
//! | what | answer |
//! |---|---|
//! | PUBLISH that the ACL refuses | QoS 1: the connection is closed, as a PUBACK would make the reading look stored. QoS 0: dropped |
//! | SUBSCRIBE that the ACL refuses, or beyond `max_subscriptions` | 0x80 in the SUBACK |
//! | buffer full | QoS 1: no PUBACK until there is room, and the connection takes no further PUBLISH. QoS 0: delivered to subscribers, not stored |
//! | a slow subscriber | what exceeds `max_queued_bytes` is dropped for it |
//! | an anonymous device, after the rules ceased to let such in | CONNACK 0x05, or the connection is closed |
//! | a packet against the specification | the connection is closed (MQTT-4.8.0-1) |
//!
//! All of it is counted, and logged with who and why; of what a device does again and again, a few times.
//!
//! This version keeps neither sessions beyond their connection nor retained messages nor wills, and has
//! neither QoS 2 nor MQTT 5. It does not pretend to:
//!
//! | asked for | answer |
//! |---|---|
//! | another protocol level than 4 | CONNACK 0x01 |
//! | clean session 0 | taken, CONNACK with session present 0 |
//! | a will, RETAIN | taken, as tutorial sketches and Tasmota set them; the will is not published, the message is delivered and not kept. Counted, and logged at most once a session |
//! | PUBLISH with QoS 2 | the connection is closed |
//! | SUBSCRIBE with QoS 2 | QoS 1 is granted |
//!
//! A publish that a device repeats though it was taken is acknowledged and not stored twice; see `history`.
//!
//! A client id belongs to the identity that uses it: a device cannot throw another out by taking its id.

mod connect;
mod connection;
mod figures;
mod greeting;
mod history;
mod integrity;
#[allow(dead_code, reason = "the sessions do not keep messages yet")]
mod message;
mod outbox;
mod packet;
mod payload;
#[allow(dead_code, reason = "the sessions do not keep messages yet")]
mod record;
mod registry;
#[allow(dead_code, reason = "the sessions do not keep messages yet")]
mod retained;
mod routes;
mod session;
mod stream;
#[allow(dead_code, unused_imports, reason = "the sessions do not use all of it yet")]
mod subscriptions;
#[allow(dead_code, reason = "the sessions do not keep wills yet")]
mod will;
mod wire;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use self::connection::Connection;
use self::figures::Counters;
use self::history::Histories;
use self::registry::Registry;
use self::stream::Streams;
use self::subscriptions::Subscriptions;
use crate::authorize::Authorizer;
use crate::authorize::log_limit::LogLimit;
use crate::authorize::refusals::Refusals;
use crate::buffer::Buffer;
use crate::clock::Clock;
use crate::config::{self, Door};
use crate::message::{CertificateId, DeviceId};

pub use self::figures::Figures;

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The certificate that it showed, with the device that it names.
    pub certificate: Option<(DeviceId, CertificateId)>,
    /// Where it is.
    pub address: SocketAddr,
    /// Which way it came in.
    pub door: Door,
}

/// The broker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Broker(Arc<Shared>);

/// What all sessions share.
#[derive(Debug)]
struct Shared {
    limits: config::Listener,
    rules: RwLock<Arc<Rules>>,
    /// Clients without an id so far: each is given one of its own.
    unnamed: AtomicU64,
    subscriptions: Subscriptions,
    registry: Registry,
    histories: Histories,
    buffer: Buffer,
    clock: Clock,
    refusals: Refusals,
    counters: Counters,
    /// A device that connects again and again does not fill the log.
    log: LogLimit<(DeviceId, IpAddr, Moment)>,
}

/// What is logged of every connection, if it does not happen too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Moment {
    Connected,
    Disconnected,
}

/// What may change while sessions live.
#[derive(Debug)]
struct Rules {
    authorizer: Authorizer,
    streams: Streams,
}

impl Rules {
    fn new(authorizer: Authorizer, streams: &[config::Stream]) -> Arc<Self> {
        Arc::new(Self { authorizer, streams: Streams::new(streams) })
    }
}

impl Broker {
    /// A broker without sessions. Of `limits`, those are used that concern a session.
    #[must_use]
    pub fn new(
        limits: &config::Listener,
        streams: &[config::Stream],
        authorizer: Authorizer,
        buffer: Buffer,
        clock: Clock,
        refusals: Refusals,
    ) -> Self {
        Self(Arc::new(Shared {
            limits: limits.clone(),
            rules: RwLock::new(Rules::new(authorizer, streams)),
            unnamed: AtomicU64::new(0),
            subscriptions: Subscriptions::default(),
            registry: Registry::default(),
            histories: Histories::default(),
            buffer,
            clock,
            refusals,
            counters: Counters::default(),
            log: LogLimit::default(),
        }))
    }

    /// Serves a connection until it ends. When `cancel` is cancelled, it takes nothing more, acknowledges
    /// what it has taken as soon as that is on disk, and ends; the caller sets the deadline for that.
    pub fn serve<S>(
        &self,
        stream: S,
        peer: Peer,
        cancel: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<S>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        greeting::serve(
            Arc::clone(&self.0),
            Connection::new(stream, self.0.limits.max_packet_bytes),
            peer,
            cancel,
        )
    }

    /// Takes new rules. Sessions that hold a subscription which they may no longer have, or whose
    /// identity is no longer let in, are closed; everything else holds from the next publish on.
    pub fn reload(&self, authorizer: Authorizer, streams: &[config::Stream]) {
        *self.0.rules.write().expect("no panic under this lock") = Rules::new(authorizer, streams);
        self.0.registry.rules_changed();
    }

    /// What it has done so far.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.0.counters.figures(self.0.registry.len(), self.0.refusals.counts())
    }
}

impl Shared {
    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().expect("no panic under this lock"))
    }

    /// Whether a moment of this peer may be logged, and then how many lines were left out before it.
    fn may_log(&self, moment: Moment, who: &DeviceId, address: SocketAddr) -> Option<u64> {
        self.log.admit(&(who.clone(), address.ip().to_canonical(), moment))
    }

    /// An id for a client that left the choice to us (MQTT-3.1.3-6).
    fn client_id(&self) -> String {
        format!("unnamed-{}", self.unnamed.fetch_add(1, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests;
