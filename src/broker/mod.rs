//! MQTT 3.1.1 and 5.0 for devices: sessions, subscriptions, retained messages, and which publishes are readings.
//!
//! `session` is where promise P1 can be read: a PUBLISH is authorized, submitted to the buffer and
//! acknowledged when what is kept of it is on disk. Acks leave in the order in which the publishes came
//! (MQTT-4.6.0-2). There is one session for both versions: only `wire` knows how they differ on the wire.
//!
//! What is refused, and how a client learns of it:
//!
//! | what | 3.1.1 | 5.0 |
//! |---|---|---|
//! | PUBLISH that the ACL refuses | QoS 1 and 2: the connection is closed, as an ack would make it look taken. QoS 0: dropped | 0x87 in the PUBACK or PUBREC. QoS 0: dropped |
//! | SUBSCRIBE that the ACL refuses, or beyond `max_subscriptions` | 0x80 in the SUBACK | 0x87, 0x97 in the SUBACK |
//! | a will that the ACL refuses | CONNACK 0x05 | CONNACK 0x87 |
//! | buffer full | QoS 1 and 2: no ack until there is room, and the connection takes no further PUBLISH. QoS 0: delivered to subscribers, not stored | the same |
//! | a message beyond `retained.*` | delivered and not retained; what is retained of its topic stays | QoS 1 and 2: 0x97 in the PUBACK or PUBREC, and nobody gets it, so that its client can send it again. A reading is taken nevertheless, with success: sent again, it would be stored twice. QoS 0: as in 3.1.1 |
//! | packets or bytes faster than `limits.*` | it is not read for a while | the same |
//! | a slow or absent subscriber | what exceeds its bounds is dropped for it, the newest first | the same |
//! | an identity that is not let in any more | CONNACK 0x05, or the connection is closed | CONNACK or DISCONNECT 0x87 |
//! | a packet against the specification | the connection is closed (MQTT-4.8.0-1) | DISCONNECT with the reason |
//! | enhanced authentication | – | CONNACK 0x8C |
//!
//! All of it is counted, and logged with who and why; of what a device does again and again, a few times.
//!
//! # What outlives what
//!
//! A session outlives its connection when its client asks for that: clean session 0 in 3.1.1, a session expiry
//! interval in 5.0, both bounded by `sessions.max_expiry`. Such a session is *kept*: its subscriptions, the messages
//! of QoS 1 and 2 that it is still to be given, and the QoS 2 publishes that were not released yet are on disk in the
//! same groups as the readings (`kept`), and survive a restart and a kill. What a client is told of, it finds again:
//! CONNACK, SUBACK, PUBACK, PUBREC, PUBREL and PUBCOMP leave when what they say is on disk.
//!
//! | | |
//! |---|---|
//! | in flight to a client | at most 100 messages, or its receive maximum; again in their order, with DUP, over the next connection |
//! | QoS 0 to a client that is away | not queued |
//! | a will of a kept session | on disk, with what it is judged by when it is published: the proved user, and whether a token allowed it; one that waits for its delay is published after a restart, when that is over. Who was connected when the power was cut has vanished then |
//! | retained messages that are owed to a new subscription of a kept session | on disk, or that they are owed: they go on with the next connection, as they are retained then |
//! | retained messages and no local | a client is not given what it has retained itself, over whichever connection (MQTT-3.8.3-3 speaks of its id) |
//! | a message that expires while it waits | dropped, counted |
//! | a message larger than the client takes | dropped for it, counted |
//! | QoS 2 publishes | stored once: in a kept session whatever happens; with a clean session as in the next line. Another topic or payload under an identifier that was not released is another publish |
//! | the will of a device that is put out (revoked, disabled) | published, if the rules allow its topic: who watches the device is to hear that it is gone (MQTT-3.1.2-8) |
//! | a publish that a device repeats with DUP though it was taken | acknowledged and not stored twice, for a minute; see `history` |
//!
//! A client id belongs to the identity that uses it: a device cannot throw another out by taking its id.

mod commands;
mod connection;
mod figures;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod greeting;
mod history;
mod inside;
mod integrity;
mod kept;
mod living;
mod message;
mod outbox;
mod pace;
mod payload;
mod phones;
mod publisher;
mod registry;
mod retained;
mod routes;
mod session;
mod stream;
mod subscriptions;
mod testament;
mod upkeep;
mod will;
mod wire;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::SetOnce;
use tokio_util::sync::CancellationToken;

use self::commands::{Post, Posts};
use self::connection::Connection;
use self::figures::Counters;
use self::history::Histories;
use self::inside::Ears;
use self::pace::Paces;
use self::phones::Phones;
use self::registry::{Ended, Registry};
use self::retained::Retained;
use self::stream::Streams;
use self::subscriptions::Subscriptions;
use self::testament::Testament;
use self::will::Wills;
use self::wire::{ConnAck, Reason};
use crate::authorize::log_limit::LogLimit;
use crate::authorize::refusals::Refusals;
use crate::authorize::{Authenticator, Authorizer, Door};
use crate::buffer::{Buffer, Change};
use crate::clock::Clock;
use crate::config;
use crate::message::{CertificateId, DeviceId};
use crate::relay::Ledger;
use crate::relay::rules::Rules as LocalRules;

pub use self::figures::Figures;
pub use self::inside::Heard;
pub use self::phones::Announced;

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The certificate that it has shown, with the device that it names.
    pub certificate: Option<(DeviceId, CertificateId)>,
    /// Where it is.
    pub address: SocketAddr,
    /// Where it came in.
    pub door: Door,
}

/// The settings that a broker follows.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// Of these, the ones that concern a session.
    pub limits: &'a config::Listener,
    /// How fast a client may send, and what a topic may be.
    pub rates: &'a config::Limits,
    /// What is kept for clients.
    pub sessions: &'a config::Sessions,
    /// What is kept for who subscribes later.
    pub retained: &'a config::Retained,
    /// Which publishes are readings.
    pub streams: &'a [config::Stream],
}

/// The broker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Broker(Arc<Shared>);

/// What all sessions share.
#[derive(Debug)]
struct Shared {
    limits: config::Listener,
    topics: config::TopicBounds,
    paces: Paces,
    max_expiry: Duration,
    rules: RwLock<Arc<Rules>>,
    authenticator: Authenticator,
    /// What an earlier process has kept is known.
    ready: SetOnce<()>,
    subscriptions: Subscriptions,
    registry: Registry,
    histories: Histories,
    retained: Retained,
    wills: Wills<Testament>,
    buffer: Buffer,
    ledger: Ledger,
    /// Who is called when there is a command for a device.
    posts: Posts,
    clock: Clock,
    refusals: Refusals,
    counters: Counters,
    ears: Ears,
    /// Who is told readings.
    local_rules: OnceLock<LocalRules>,
    phones: Phones,
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
    /// A broker without sessions. It lets nobody in before [`Broker::run`] has read what was kept.
    #[must_use]
    pub fn new(
        settings: Settings<'_>,
        authorizer: Authorizer,
        authenticator: Authenticator,
        buffer: Buffer,
        clock: Clock,
        refusals: Refusals,
        ledger: Ledger,
    ) -> Self {
        let shared = Arc::new(Shared {
            limits: settings.limits.clone(),
            topics: settings.rates.topics,
            paces: Paces::new(settings.rates),
            max_expiry: settings.sessions.max_expiry,
            rules: RwLock::new(Rules::new(authorizer, settings.streams)),
            authenticator,
            ready: SetOnce::new(),
            subscriptions: Subscriptions::default(),
            registry: Registry::new(settings.sessions),
            histories: Histories::default(),
            retained: Retained::new(settings.retained.clone()),
            wills: Wills::default(),
            buffer,
            ledger,
            posts: Posts::default(),
            clock,
            refusals,
            counters: Counters::default(),
            ears: Ears::default(),
            local_rules: OnceLock::new(),
            phones: Phones::default(),
            log: LogLimit::default(),
        });
        shared.ledger.deliver_by(Box::new(Post(Arc::downgrade(&shared))));
        Self(shared)
    }

    /// Who is told every new reading that is sound. There is one, and it is told once.
    pub fn observed_by(&self, rules: LocalRules) {
        if self.0.local_rules.set(rules).is_err() {
            tracing::debug!("there is somebody who is told readings");
        }
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
        self.0.counters.figures(&self.0)
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

    /// An id for a client that left the choice to us (MQTT-3.1.3-6): a session that is kept must not be found by
    /// another client.
    fn client_id(&self) -> String {
        let mut bytes = [0; 12];
        SystemRandom::new().fill(&mut bytes).expect("the system gives random numbers");
        bytes.iter().fold("unnamed-".to_owned(), |id, byte| format!("{id}{byte:02x}"))
    }

    /// How long a session may outlive its connection, in seconds, when its client asks for so long.
    fn bounded_expiry(&self, wanted: u32) -> u32 {
        wanted.min(u32::try_from(self.max_expiry.as_secs()).unwrap_or(u32::MAX))
    }

    /// A CONNACK with what holds for every client.
    fn connack(&self, reason: Reason) -> ConnAck {
        ConnAck {
            session_present: false,
            reason,
            session_expiry: None,
            receive_maximum: self.limits.max_inflight,
            max_packet_bytes: u32::try_from(self.limits.max_packet_bytes).unwrap_or(u32::MAX),
            assigned_client_id: None,
            topic_alias_maximum: session::MAX_ALIASES,
            server_keep_alive: None,
            text: None,
            response_information: None,
        }
    }

    /// Takes away what a session leaves that has ended; what is to change on disk is given back.
    fn clear(&self, ended: &Ended) -> Vec<Change> {
        let Ended { mailbox, remains, was_kept, .. } = ended;
        if !remains.subscriptions.is_empty() {
            self.subscriptions.remove(remains.subscriptions.iter().map(|it| &it.filter), mailbox);
        }
        self.give_back(remains);
        self.counters.dropped_session_ended.add(remains.messages);
        if let Some(testament) = self.wills.take(mailbox.number) {
            self.execute(testament);
        }
        if *was_kept { kept::remove_all(ended) } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests;
