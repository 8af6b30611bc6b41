//! One connection of one client, from CONNECT to its end: one task, and next to no memory while it is idle.

mod announcing;
mod answering;
mod arrivals;
mod commanding;
mod delivering;
mod entering;
mod publishing;
mod subscribing;

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use self::answering::Owing;
use self::arrivals::Arrivals;
pub(super) use self::entering::Welcome;
pub(super) use self::publishing::MAX_ALIASES;
use self::publishing::{Aliases, Parked};
use super::Shared;
use super::connection::{Connection, Progress};
use super::history::Hold;
use super::outbox::{Calls, Line, Mailbox, Outlet};
use super::pace::Pace;
use super::publisher::Publisher;
use super::registry::SessionKey;
use super::wire::{
    self, Answer, BadPacket, ConnectError, Disconnect, Next, Packet, Reason, Unsendable, Version, Will,
};
use crate::authorize::refusals::Refusal;
use crate::buffer::{Change, Mark};
use crate::message::Stamp;

/// The writer is told when what it has submitted is on disk. For what an earlier connection has submitted,
/// and this one's client repeats, the session looks so often.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the client disconnected")]
    Disconnected,
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error("a newer connection has the same client id")]
    TakenOver,
    #[error("the gateway is stopping")]
    Stopping,
    #[error("{detail}")]
    Refused { refusal: Refusal, reason: Reason, detail: String },
}

impl End {
    pub(super) fn refused(refusal: Refusal, reason: Reason, detail: impl Into<String>) -> Self {
        Self::Refused { refusal, reason, detail: detail.into() }
    }

    /// What the client is told, if it is we who end the connection.
    pub(super) fn reason(&self) -> Option<Reason> {
        match self {
            Self::Disconnected | Self::Broken(_) => None,
            Self::TakenOver => Some(Reason::SessionTakenOver),
            Self::Stopping => Some(Reason::ServerShuttingDown),
            Self::Refused { reason, .. } => Some(*reason),
        }
    }
}

impl From<BadPacket> for End {
    fn from(bad: BadPacket) -> Self {
        let refusal = match bad {
            BadPacket::TooLarge { .. } => Refusal::PacketTooLarge,
            BadPacket::Violation { .. } => Refusal::ProtocolViolation,
        };
        Self::refused(refusal, bad.reason(), bad.to_string())
    }
}

impl From<ConnectError> for End {
    fn from(error: ConnectError) -> Self {
        let detail = error.to_string();
        match error {
            ConnectError::Bad { bad, .. } => bad.into(),
            ConnectError::Version(_) => {
                Self::refused(Refusal::ProtocolVersion, Reason::UnsupportedProtocolVersion, detail)
            }
            ConnectError::ClientId { .. } => {
                Self::refused(Refusal::ClientIdInvalid, Reason::ClientIdentifierNotValid, detail)
            }
        }
    }
}

impl From<Unsendable> for End {
    fn from(unsendable: Unsendable) -> Self {
        Self::refused(Refusal::PacketTooLarge, Reason::PacketTooLarge, unsendable.to_string())
    }
}

/// What a session woke up for.
enum Event {
    Connection(Progress),
    Calls(Calls),
    Durable,
    Room,
    Deadline,
    Cancelled,
}

pub(super) struct Session {
    broker: Arc<Shared>,
    key: SessionKey,
    version: Version,
    publisher: Publisher,
    history: Hold,
    /// Answers that must not leave before something is on disk, in their order.
    owed: Owing,
    /// Changes of the session's records that are to be submitted.
    backlog: Vec<Change>,
    /// The buffer had no room for them.
    starved: bool,
    /// Publishes of QoS 1 and 2 that the client waits for an end of.
    in_flight: u16,
    parked: Option<Box<Parked>>,
    /// A PUBLISH stands at the head of the input and cannot be taken now.
    held: bool,
    arrivals: Arrivals,
    pace: Pace,
    /// It has sent too fast: nothing is taken until then.
    slowed_until: Option<Instant>,
    aliases: Option<Box<Aliases>>,
    mailbox: Arc<Mailbox>,
    line: Arc<Line>,
    outlet: Outlet,
    /// Messages that the client takes without having acknowledged them.
    max_in_flight: u16,
    /// There may be something in the mailbox that can be written now.
    mail: bool,
    /// There may be commands for the client in the ledger.
    commands: bool,
    /// The next command must not be sent before this is on disk.
    commands_behind: Option<Mark>,
    /// Each message must be asked for: a rule denies some of what it has subscribed to, or the rules may have
    /// changed while the message waited.
    asks: bool,
    /// One of its subscriptions may be owed retained messages.
    gives: bool,
    /// Messages come faster than they are written one by one.
    bursts: bool,
    /// How long the client may be silent: one and a half keep alive periods (MQTT-3.1.2-24, in 5.0 -22).
    silence: Duration,
    last_heard: Instant,
    stopping: bool,
    /// What is published in the client's name when it is gone without a word.
    will: Option<Box<Will>>,
    /// It has said that it goes, and did not ask for its will.
    said_goodbye: bool,
    /// The client was told that it has a session, or has one from before.
    is_known: bool,
    /// Whether it may say with its DISCONNECT that the session is to outlive it.
    may_outlive: bool,
}

impl Session {
    /// Serves until there is a reason to end.
    pub(super) async fn run<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        connection: &mut Connection<S>,
        cancel: &CancellationToken,
    ) -> Result<Infallible, End> {
        let mut cancelled = pin!(cancel.cancelled());
        let mut deadline = pin!(tokio::time::sleep_until(self.deadline()));
        loop {
            let taken = self.take_packets(connection);
            self.publisher.wakes.pay();
            self.submit_backlog()?;
            taken?;
            self.acknowledge(&mut connection.out)?;
            self.deliver(&mut connection.out)?;
            if self.stopping && self.owed.is_empty() {
                return Err(End::Stopping);
            }
            let look = self.waits_for_earlier().then(|| Instant::now() + LOOK_AGAIN);
            let earliest = look.into_iter().chain(self.slowed_until).min();
            if let Some(earliest) = earliest.filter(|earliest| deadline.deadline() > *earliest) {
                deadline.as_mut().reset(earliest);
            }
            match self.event(connection, cancelled.as_mut(), deadline.as_mut()).await? {
                Event::Connection(Progress::Read) => {
                    self.last_heard = Instant::now();
                    if self.line.take_rules_changed() {
                        // They hold for what has come now.
                        self.take_new_rules()?;
                    }
                }
                Event::Connection(Progress::Written) => {}
                Event::Durable => self.look_for_commands(),
                Event::Calls(calls) => self.heed(calls).await?,
                Event::Room => self.unpark()?,
                Event::Deadline => self.check_time(deadline.as_mut())?,
                Event::Cancelled => self.stop(),
            }
        }
    }

    /// Waits until there is something to do. One deadline serves all: it is moved when it has come, not with each packet.
    async fn event<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        connection: &mut Connection<S>,
        cancelled: Pin<&mut impl Future<Output = ()>>,
        deadline: Pin<&mut Sleep>,
    ) -> Result<Event, End> {
        let owed = self.owed.next_behind().map(|behind| behind.mark);
        let oldest = owed.into_iter().chain(self.commands_behind).min();
        let wants_room = self.parked.is_some() || self.starved;
        let takes_nothing = self.held || self.stopping;
        let Self { publisher, line, .. } = self;
        let writer = &publisher.writer;
        tokio::select! {
            biased;
            () = cancelled, if !self.stopping => Ok(Event::Cancelled),
            progress = poll_fn(|cx| connection.poll(cx, takes_nothing)) => Ok(Event::Connection(progress?)),
            calls = poll_fn(|cx| line.poll_calls(cx)) => Ok(Event::Calls(calls)),
            durable = writer.until_durable(oldest.unwrap_or_default()), if oldest.is_some() => {
                durable.map(|()| Event::Durable).map_err(|_| End::Stopping)
            }
            () = writer.room(), if wants_room => Ok(Event::Room),
            () = deadline => Ok(Event::Deadline),
        }
    }

    /// Takes every packet that has come, as long as publishes may be taken.
    fn take_packets<S>(&mut self, connection: &mut Connection<S>) -> Result<(), End> {
        if self.stopping || connection.input.is_empty() {
            return Ok(());
        }
        // All of one read were received at one time.
        let now = self.broker.clock.stamp();
        let came = connection.input.len();
        let was_slowed = self.slowed_until.is_some();
        self.slowed_until = self.pace.closed_until();
        if self.slowed_until.is_some() {
            if !was_slowed {
                self.refuse(Refusal::TooFast, "it sends faster than limits.* allow; it is read more slowly");
            }
            self.held = true;
            self.arrivals.hold(came, now);
            return Ok(());
        }
        let mut packets = 0;
        let taken = self.take_each(connection, now, &mut packets);
        self.pace.charge(packets, came - connection.input.len());
        taken?;
        if connection.input.is_empty() {
            connection.input = BytesMut::new();
        }
        Ok(())
    }

    fn take_each<S>(
        &mut self,
        connection: &mut Connection<S>,
        now: Stamp,
        packets: &mut u32,
    ) -> Result<(), End> {
        let max_bytes = self.broker.limits.max_packet_bytes;
        loop {
            let bytes = connection.input.len();
            let takes_publishes = self.takes_publishes();
            match wire::next(&mut connection.input, self.version, max_bytes, takes_publishes)? {
                Next::Packet(packet) => {
                    let received = self.arrivals.take(bytes - connection.input.len()).unwrap_or(now);
                    *packets += 1;
                    self.take(packet, received, &mut connection.out)?;
                }
                Next::Incomplete => {
                    self.held = false;
                    self.arrivals.clear();
                    return Ok(());
                }
                Next::Held => {
                    self.held = true;
                    self.arrivals.hold(bytes, now);
                    return Ok(());
                }
            }
        }
    }

    /// A client of 5.0 is told how many publishes may wait for their ack, and keeps to it.
    fn takes_publishes(&self) -> bool {
        self.parked.is_none()
            && (self.version == Version::V5 || self.owed.len() < self.broker.limits.max_inflight.into())
    }

    fn take(&mut self, mut packet: Packet, received: Stamp, out: &mut BytesMut) -> Result<(), End> {
        self.outlet.turn_inward(&mut packet);
        match packet {
            Packet::Publish(publish) => self.take_publish(publish, received),
            Packet::Ack(ack) => self.take_ack(ack, out),
            Packet::Subscribe(subscribe) => self.subscribe(&subscribe, out),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(&unsubscribe, out),
            Packet::PingReq => Ok(self.outlet.answer(&Answer::PingResp, out)?),
            Packet::Disconnect(disconnect) => Err(self.take_disconnect(disconnect)),
            // It has agreed to no method of authentication (MQTT-4.12.0-6).
            Packet::Auth => Err(protocol_error("an AUTH without a method of authentication")),
        }
    }

    fn take_disconnect(&mut self, disconnect: Disconnect) -> End {
        if let Some(expiry) = disconnect.session_expiry {
            if !self.may_outlive && expiry > 0 {
                // Section 3.14.2.2.2.
                return protocol_error("a DISCONNECT that prolongs a session which was to end with it");
            }
            let expiry = self.broker.bounded_expiry(expiry);
            match self.mailbox.held_by(&self.line) {
                Some(mut held) => held.expiry = expiry,
                None => return End::TakenOver,
            }
        }
        self.said_goodbye = disconnect.reason == Reason::Success;
        End::Disconnected
    }

    async fn heed(&mut self, calls: Calls) -> Result<(), End> {
        if calls.taken_over() {
            return Err(End::TakenOver);
        }
        if calls.rules_changed() {
            self.take_new_rules()?;
        }
        if calls.commands() {
            self.commands = true;
            self.mail = true;
        }
        if calls.mail() {
            if self.bursts {
                // Others that are ready to publish may add to it: fewer, larger writes.
                tokio::task::yield_now().await;
            }
            self.mail = true;
        }
        Ok(())
    }

    /// When there is something to check about time.
    fn deadline(&self) -> Instant {
        let silent = self.last_heard + self.silence;
        self.publisher.who.ends.map_or(silent, |ends| silent.min(ends.into()))
    }

    fn check_time(&mut self, deadline: Pin<&mut Sleep>) -> Result<(), End> {
        if self.held {
            // It is we who do not listen.
            self.last_heard = Instant::now();
        }
        let now = Instant::now();
        if self.last_heard + self.silence <= now {
            let what = format!("nothing was heard for {} s", self.silence.as_secs());
            return Err(End::refused(Refusal::KeepAliveExpired, Reason::KeepAliveTimeout, what));
        }
        if self.publisher.who.ends.is_some_and(|ends| now >= ends.into()) {
            let what = "the token of the connection has expired";
            return Err(End::refused(Refusal::TokenExpired, Reason::MaximumConnectTime, what));
        }
        deadline.reset(self.deadline());
        Ok(())
    }

    /// Takes nothing more. What was parked was not acknowledged: its device keeps it.
    fn stop(&mut self) {
        self.stopping = true;
        self.parked = None;
        self.slowed_until = None;
    }

    fn refuse(&self, reason: Refusal, detail: &str) {
        self.publisher.refuse(&self.broker, reason, detail);
    }
}

/// The client breaks a rule of the protocol.
fn protocol_error(what: &str) -> End {
    End::refused(Refusal::ProtocolViolation, Reason::ProtocolError, what)
}

impl Drop for Session {
    fn drop(&mut self) {
        // In this order: the next session of the client finds its history in one place or the other.
        self.broker.histories.leave(&self.key, &self.history);
        self.leave();
    }
}
