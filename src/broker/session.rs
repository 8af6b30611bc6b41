//! One connection of one client, from CONNECT to its end: one task, and next to no memory while it is idle.

mod arrivals;
mod publishing;
mod subscribing;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::mqttbytes::v4::Packet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use self::arrivals::Arrivals;
use self::publishing::{Parked, Unacked};
use super::connect::Connect;
use super::connection::{Connection, Progress};
use super::history::Hold;
use super::outbox::{Calls, Mailbox, Wakes, Window};
use super::packet::{self, BadPacket, Next};
use super::registry::SessionKey;
use super::routes::Routes;
use super::subscriptions::Filter;
use super::{Moment, Peer, Rules, Shared};
use crate::authorize::Principal;
use crate::authorize::refusals::Refusal;
use crate::buffer::Writer;
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
    #[error("{1}")]
    Refused(Refusal, String),
}

impl From<BadPacket> for End {
    fn from(bad: BadPacket) -> Self {
        let reason = match bad {
            BadPacket::TooLarge { .. } => Refusal::PacketTooLarge,
            BadPacket::Violation { .. } | BadPacket::Malformed(_) => Refusal::ProtocolViolation,
        };
        Self::Refused(reason, bad.to_string())
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
    principal: Arc<Principal>,
    address: SocketAddr,
    rules: Arc<Rules>,
    routes: Routes,
    writer: Writer,
    unacked: VecDeque<Unacked>,
    history: Hold,
    parked: Option<Box<Parked>>,
    /// A PUBLISH stands at the head of the input and cannot be taken now.
    held: bool,
    arrivals: Arrivals,
    mailbox: Arc<Mailbox>,
    /// There may be something in the outbox that can be written now.
    mail: bool,
    /// Messages come faster than they are written one by one.
    bursts: bool,
    window: Window,
    filters: Vec<Filter>,
    wakes: Wakes,
    /// How long the client may be silent: one and a half keep alive periods (MQTT-3.1.2-24).
    silence: Duration,
    last_heard: Instant,
    stopping: bool,
    told_of_retain: bool,
}

impl Session {
    /// Enters the session of a client, if it is let in.
    pub(super) fn new(
        broker: &Arc<Shared>,
        principal: &Arc<Principal>,
        address: SocketAddr,
        mut connect: Connect,
    ) -> Result<Self, End> {
        let client_id = match std::mem::take(&mut connect.client_id) {
            id if id.is_empty() => broker.client_id(),
            id => id,
        };
        let key = SessionKey { identity: principal.identity.clone(), client_id: client_id.into() };
        let longest = broker.limits.max_keep_alive;
        let keep_alive = match connect.keep_alive {
            0 => longest,
            seconds => Duration::from_secs(seconds.into()).min(longest),
        };
        let mailbox = Arc::default();
        let entered = broker.registry.enter(key.clone(), &mailbox, &broker.histories);
        broker.counters.taken_over.add(entered.took_over.into());
        let mut session = Self {
            key,
            principal: Arc::clone(principal),
            address,
            rules: broker.rules(),
            routes: Routes::default(),
            writer: broker.buffer.writer(),
            unacked: VecDeque::new(),
            history: Hold::take(entered.history),
            parked: None,
            held: false,
            arrivals: Arrivals::default(),
            mailbox,
            mail: false,
            bursts: false,
            window: Window::default(),
            filters: Vec::new(),
            wakes: Wakes::default(),
            silence: keep_alive.mul_f32(1.5),
            last_heard: Instant::now(),
            stopping: false,
            told_of_retain: false,
            broker: Arc::clone(broker),
        };
        // Rules that change from now on are told to it: it is entered.
        session.check_identity()?;
        session.tell_of(&connect);
        Ok(session)
    }

    /// Says that it is there, and what its client asked for in vain.
    fn tell_of(&mut self, connect: &Connect) {
        let Self { key: SessionKey { identity, client_id }, address, broker, .. } = self;
        broker.counters.sessions_not_kept.add((!connect.clean_session).into());
        broker.counters.wills_not_kept.add(connect.has_will.into());
        let Some(unlogged_before) = broker.may_log(Moment::Connected, &identity.device, *address) else {
            self.told_of_retain = true;
            return;
        };
        tracing::info!(
            device = %identity.device, ?client_id, peer = %address, keep_alive_s = connect.keep_alive,
            unlogged_before, "connected"
        );
        if !connect.clean_session {
            tracing::info!(device = %identity.device, "a session is asked for that outlives its connection: it will not");
        }
        if connect.has_will {
            tracing::info!(device = %identity.device, "a will is given: it will not be published");
        }
    }

    /// Serves until there is a reason to end.
    pub(super) async fn run<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        connection: &mut Connection<S>,
        cancel: &CancellationToken,
    ) -> Result<Infallible, End> {
        let mut cancelled = pin!(cancel.cancelled());
        let mut deadline = pin!(tokio::time::sleep_until(self.last_heard + self.silence));
        loop {
            let taken = self.take_packets(connection);
            self.wakes.pay();
            taken?;
            self.acknowledge(&mut connection.out);
            self.deliver(&mut connection.out);
            if self.stopping && self.unacked.is_empty() {
                return Err(End::Stopping);
            }
            if self.unacked.front().is_some_and(|oldest| oldest.behind.earlier) {
                let look = Instant::now() + LOOK_AGAIN;
                if deadline.deadline() > look {
                    deadline.as_mut().reset(look);
                }
            }
            match self.event(connection, cancelled.as_mut(), deadline.as_mut()).await? {
                Event::Connection(Progress::Read) => self.last_heard = Instant::now(),
                Event::Connection(Progress::Written) | Event::Durable => {}
                Event::Calls(calls) => self.answer(calls).await?,
                Event::Room => self.unpark()?,
                Event::Deadline => self.check_silence(deadline.as_mut())?,
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
        let Self { writer, mailbox, .. } = self;
        let oldest = self.unacked.front().map(|oldest| oldest.behind.mark);
        let takes_nothing = self.held || self.stopping;
        tokio::select! {
            biased;
            () = cancelled, if !self.stopping => Ok(Event::Cancelled),
            progress = poll_fn(|cx| connection.poll(cx, takes_nothing)) => Ok(Event::Connection(progress?)),
            calls = poll_fn(|cx| mailbox.poll_calls(cx)) => Ok(Event::Calls(calls)),
            durable = writer.until_durable(oldest.unwrap_or_default()), if oldest.is_some() => {
                durable.map(|()| Event::Durable).map_err(|_| End::Stopping)
            }
            () = writer.room(), if self.parked.is_some() => Ok(Event::Room),
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
        loop {
            let bytes = connection.input.len();
            let takes_publishes = self.takes_publishes();
            match packet::next(&mut connection.input, self.broker.limits.max_packet_bytes, takes_publishes)? {
                Next::Packet(packet) => {
                    let received = self.arrivals.take(bytes - connection.input.len()).unwrap_or(now);
                    self.take(packet, received, &mut connection.out)?;
                }
                Next::Incomplete => {
                    self.held = false;
                    break self.arrivals.clear();
                }
                Next::Held => {
                    self.held = true;
                    break self.arrivals.hold(bytes, now);
                }
            }
        }
        if connection.input.is_empty() {
            connection.input = BytesMut::new();
        }
        Ok(())
    }

    fn takes_publishes(&self) -> bool {
        self.parked.is_none() && self.unacked.len() < self.broker.limits.max_inflight.into()
    }

    fn take(&mut self, packet: Packet, received: Stamp, out: &mut BytesMut) -> Result<(), End> {
        match packet {
            Packet::Publish(publish) => {
                self.count(&publish)?;
                self.publish(publish, received)
            }
            Packet::PubAck(ack) => {
                self.window.acknowledge(ack.pkid);
                self.mail = true;
                Ok(())
            }
            Packet::Subscribe(subscribe) => self.subscribe(&subscribe, out),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(&unsubscribe, out),
            Packet::PingReq => {
                packet::write(&Packet::PingResp, out);
                Ok(())
            }
            Packet::Disconnect => Err(End::Disconnected),
            // `packet::next` lets no other pass.
            other => Err(BadPacket::Malformed(format!("unexpected {other:?}")).into()),
        }
    }

    async fn answer(&mut self, calls: Calls) -> Result<(), End> {
        if calls.taken_over() {
            return Err(End::TakenOver);
        }
        if calls.rules_changed() {
            self.take_new_rules()?;
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

    fn check_silence(&mut self, deadline: Pin<&mut Sleep>) -> Result<(), End> {
        if self.held {
            // It is we who do not listen.
            self.last_heard = Instant::now();
        }
        let end = self.last_heard + self.silence;
        if end <= Instant::now() {
            let what = format!("nothing was heard for {} s", self.silence.as_secs());
            return Err(End::Refused(Refusal::KeepAliveExpired, what));
        }
        deadline.reset(end);
        Ok(())
    }

    /// Takes nothing more. What was parked was not acknowledged: its device keeps it.
    fn stop(&mut self) {
        self.stopping = true;
        self.parked = None;
    }

    fn refuse(&self, reason: Refusal, detail: &str) {
        self.broker.refusals.record(reason, self.address.ip(), Some(&self.key.identity.device), detail);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.mailbox.close();
        if !self.filters.is_empty() {
            self.broker.subscriptions.remove(&self.filters, &self.mailbox);
        }
        // In this order: the next session of the client finds its history in one place or the other.
        self.broker.histories.leave(&self.key, &self.history);
        self.broker.registry.leave(&self.key, &self.mailbox);
    }
}
