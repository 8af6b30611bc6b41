//! One connection of one client, from CONNECT to its end: one task, and next to no memory while it is idle.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{
    ConnAck, ConnectReturnCode, Packet, Publish, Subscribe, SubscribeReasonCode, Unsubscribe,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use super::connect::{self, Connect, ConnectError};
use super::connection::{Connection, Progress};
use super::history::History;
use super::outbox::{Calls, Frame, Mailbox, Put, Wakes, Window};
use super::packet::{self, BadPacket, Next};
use super::registry::SessionKey;
use super::routes::{Route, Routes};
use super::subscriptions::{Subscriber, Subscriptions};
use super::{Peer, Rules, Shared};
use crate::authorize::IdentityKind;
use crate::authorize::refusals::Refusal;
use crate::buffer::{SubmitError, Wait, Writer};
use crate::message::{Incoming, Qos, Seq, Stamp, TopicFilter};

/// Messages are moved from the outbox so many bytes at a time.
const OUT_BYTES: usize = 32 * 1024;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
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

/// Serves a connection until it ends.
#[allow(
    clippy::manual_async_fn,
    reason = "that would hold the stream twice: as argument and as local variable"
)]
pub(super) fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    broker: Arc<Shared>,
    mut connection: Connection<S>,
    peer: Peer,
    cancel: CancellationToken,
) -> impl Future<Output = ()> {
    async move {
        let _counted = Counted::new(&broker);
        let end = match greet(&broker, &mut connection, &peer, &cancel).await {
            Ok(session) => session.run(&mut connection, &cancel).await,
            Err(end) => end,
        };
        let Peer { identity, address } = &peer;
        match &end {
            End::Refused(reason, detail) => {
                broker.refusals.record(*reason, address.ip(), Some(&identity.device), detail);
            }
            end => tracing::info!(device = %identity.device, peer = %address, reason = %end, "disconnected"),
        }
        if !matches!(end, End::Broken(_)) {
            // A client that does not listen to its end any more has its end anyway.
            connection.close().await.ok();
        }
    }
}

/// A connection as long as it is counted.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(broker: &Arc<Shared>) -> Self {
        broker.counters.connections.add(1);
        Self(Arc::clone(broker))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.counters.connections.subtract(1);
    }
}

/// Waits for the CONNECT and answers it.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    broker: &Arc<Shared>,
    connection: &mut Connection<S>,
    peer: &Peer,
    cancel: &CancellationToken,
) -> Result<Session, End> {
    let connect = async {
        loop {
            connection.read().await?;
            if let Some(connect) = connect::take(&mut connection.input).transpose() {
                return Ok::<_, End>(connect);
            }
        }
    };
    let connect = tokio::select! {
        connect = tokio::time::timeout(broker.limits.connect_timeout, connect) => {
            connect.map_err(|_| End::Refused(Refusal::ConnectTimeout, "no CONNECT came in time".to_owned()))??
        }
        () = cancel.cancelled() => return Err(End::Stopping),
    };
    let (answer, session) = match connect {
        Ok(connect) => (ConnectReturnCode::Success, Ok(Session::new(broker, peer, connect))),
        Err(ConnectError::Bad(bad)) => return Err(bad.into()),
        Err(error @ ConnectError::Version(_)) => {
            let end = End::Refused(Refusal::ProtocolVersion, error.to_string());
            (ConnectReturnCode::RefusedProtocolVersion, Err(end))
        }
        Err(error @ ConnectError::ClientId(_)) => {
            let end = End::Refused(Refusal::ClientIdInvalid, error.to_string());
            (ConnectReturnCode::BadClientId, Err(end))
        }
    };
    // A session is never present: none is kept (MQTT-3.2.2-1 to 3).
    write(&Packet::ConnAck(ConnAck::new(answer, false)), &mut connection.out);
    session
}

fn write(packet: &Packet, out: &mut BytesMut) {
    packet.write(out, usize::MAX).expect("an answer is short and has a packet identifier");
}

/// A QoS 1 publish that waits for its PUBACK.
#[derive(Debug, Clone, Copy)]
struct Unacked {
    /// What must be on disk before it.
    seq: Seq,
    packet_id: u16,
}

/// A publish for which the buffer had no room.
#[derive(Debug)]
struct Parked {
    publish: Publish,
    received: Stamp,
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

struct Session {
    broker: Arc<Shared>,
    key: SessionKey,
    peer: Peer,
    rules: Arc<Rules>,
    routes: Routes,
    writer: Writer,
    unacked: VecDeque<Unacked>,
    history: History,
    parked: Option<Box<Parked>>,
    /// A PUBLISH stands at the head of the input and cannot be taken now.
    held: bool,
    mailbox: Arc<Mailbox>,
    /// There may be something in the outbox that can be written now.
    mail: bool,
    window: Window,
    filters: Vec<TopicFilter>,
    wakes: Wakes,
    /// How long the client may be silent: one and a half keep alive periods (MQTT-3.1.2-24).
    silence: Duration,
    last_heard: Instant,
    stopping: bool,
    told_of_retain: bool,
}

impl Session {
    fn new(broker: &Arc<Shared>, peer: &Peer, connect: Connect) -> Self {
        let client_id = match connect.client_id {
            id if id.is_empty() => broker.client_id(),
            id => id,
        };
        let key = SessionKey { identity: peer.identity.clone(), client_id: client_id.into() };
        tracing::info!(
            device = %key.identity.device, client_id = ?key.client_id, peer = %peer.address,
            keep_alive_s = connect.keep_alive, "connected"
        );
        if !connect.clean_session {
            broker.counters.sessions_not_kept.add(1);
            tracing::info!(device = %key.identity.device, "a session is asked for that outlives its connection: it will not");
        }
        if connect.has_will {
            broker.counters.wills_not_kept.add(1);
            tracing::info!(device = %key.identity.device, "a will is given: it will not be published");
        }
        let longest = broker.limits.max_keep_alive;
        let keep_alive = match connect.keep_alive {
            0 => longest,
            seconds => Duration::from_secs(seconds.into()).min(longest),
        };
        let mailbox = Arc::default();
        if broker.registry.enter(key.clone(), &mailbox) {
            broker.counters.taken_over.add(1);
        }
        Self {
            key,
            peer: peer.clone(),
            rules: broker.rules(),
            routes: Routes::default(),
            writer: broker.buffer.writer(),
            unacked: VecDeque::new(),
            history: History::default(),
            parked: None,
            held: false,
            mailbox,
            mail: false,
            window: Window::default(),
            filters: Vec::new(),
            wakes: Wakes::default(),
            silence: keep_alive.mul_f32(1.5),
            last_heard: Instant::now(),
            stopping: false,
            told_of_retain: false,
            broker: Arc::clone(broker),
        }
    }

    async fn run<S: AsyncRead + AsyncWrite + Unpin>(
        mut self,
        connection: &mut Connection<S>,
        cancel: &CancellationToken,
    ) -> End {
        match self.serve(connection, cancel).await {
            Err(end) => end,
        }
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        connection: &mut Connection<S>,
        cancel: &CancellationToken,
    ) -> Result<std::convert::Infallible, End> {
        let mut cancelled = std::pin::pin!(cancel.cancelled());
        let mut deadline = std::pin::pin!(tokio::time::sleep_until(self.last_heard + self.silence));
        loop {
            let taken = self.take_packets(connection);
            self.wakes.pay();
            taken?;
            self.acknowledge(&mut connection.out);
            self.deliver(&mut connection.out);
            if self.stopping && self.unacked.is_empty() && connection.out.is_empty() {
                return Err(End::Stopping);
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
        let oldest = self.unacked.front().map(|oldest| oldest.seq);
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
        let received = self.broker.clock.stamp();
        loop {
            let takes_publishes = self.takes_publishes();
            match packet::next(&mut connection.input, self.broker.limits.max_packet_bytes, takes_publishes)? {
                Next::Packet(packet) => self.take(packet, received, &mut connection.out)?,
                Next::Incomplete => break self.held = false,
                Next::Held => break self.held = true,
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
                write(&Packet::PingResp, out);
                Ok(())
            }
            Packet::Disconnect => Err(End::Disconnected),
            // `packet::next` lets no other pass.
            other => Err(BadPacket::Malformed(format!("unexpected {other:?}")).into()),
        }
    }

    /// Counts what this version does not keep as the client wishes, and refuses what it cannot take at all.
    fn count(&mut self, publish: &Publish) -> Result<(), End> {
        let counters = &self.broker.counters;
        match publish.qos {
            QoS::AtMostOnce => counters.publishes_qos0.add(1),
            QoS::AtLeastOnce => counters.publishes_qos1.add(1),
            QoS::ExactlyOnce => {
                let what = format!("a publish with QoS 2 to {}; use QoS 1", publish.topic);
                return Err(End::Refused(Refusal::QosUnsupported, what));
            }
        }
        if publish.retain {
            counters.retained_not_kept.add(1);
            if !std::mem::replace(&mut self.told_of_retain, true) {
                tracing::info!(
                    device = %self.key.identity.device, topic = ?publish.topic,
                    "RETAIN is set: the message is delivered and not kept"
                );
            }
        }
        Ok(())
    }

    /// P1: authorize, submit, ack. The ack leaves when the reading is on disk.
    fn publish(&mut self, publish: Publish, received: Stamp) -> Result<(), End> {
        let Some(route) = self.authorize(&publish)? else { return Ok(()) };
        if let Some(seq) = self.stored_before(&publish, received) {
            self.owe_ack(&publish, seq);
            return Ok(());
        }
        match self.submit(&route, &publish, received) {
            Ok(seq) => self.owe_ack(&publish, seq),
            Err(SubmitError::Closed) => return Err(End::Stopping),
            Err(SubmitError::Full) if publish.qos == QoS::AtMostOnce => self.writer.count_refused(),
            Err(SubmitError::Full) => {
                self.parked = Some(Box::new(Parked { publish, received }));
                return Ok(());
            }
        }
        self.fan_out(&route, publish);
        Ok(())
    }

    /// Where a publish goes; `None` when it goes nowhere.
    fn authorize(&mut self, publish: &Publish) -> Result<Option<Arc<Route>>, End> {
        let route = self.routes.find(&publish.topic, &self.key, &self.rules, &self.broker.subscriptions)?;
        if route.allowed {
            return Ok(Some(route));
        }
        if publish.qos != QoS::AtMostOnce {
            // A PUBACK would make it look stored.
            return Err(End::Refused(Refusal::PublishNotAllowed, publish.topic.clone()));
        }
        self.refuse(Refusal::PublishNotAllowed, &publish.topic);
        Ok(None)
    }

    /// Hands a reading to the buffer. Returns what must be on disk before the ack; that of
    /// a publish which is no reading leaves behind those before it.
    fn submit(&mut self, route: &Route, publish: &Publish, received: Stamp) -> Result<Seq, SubmitError> {
        let Some(source) = &route.reading else {
            return Ok(self.unacked.back().map_or(0, |before| before.seq));
        };
        let stream = self.rules.streams.get(source.stream);
        let unfit = match &source.fault {
            None => stream.fault(&source.device, &publish.payload),
            fault => fault.clone(),
        };
        let (qos, wait) = match publish.qos {
            QoS::AtMostOnce => (Qos::AtMostOnce, Wait::Nobody),
            QoS::AtLeastOnce | QoS::ExactlyOnce => (Qos::AtLeastOnce, Wait::ForAck),
        };
        let reading = Incoming {
            device: &source.device,
            stream: &stream.name,
            topic: &publish.topic,
            payload: &publish.payload,
            qos,
            received,
            fault: unfit.as_deref(),
        };
        let seq = self.writer.submit(&reading, wait)?;
        if wait == Wait::ForAck {
            self.history.remember(publish, seq, received, self.unacked.len());
        }
        self.broker.counters.readings.add(1);
        self.broker.counters.readings_unfit.add(unfit.is_some().into());
        Ok(seq)
    }

    /// Under which number a publish is stored that the device has sent before.
    fn stored_before(&mut self, publish: &Publish, received: Stamp) -> Option<Seq> {
        if !publish.dup {
            return None;
        }
        self.broker.histories.recall(&self.key, &mut self.history);
        let seq = self.history.find(publish, received, self.writer.durable())?;
        self.broker.counters.retransmissions.add(1);
        Some(seq)
    }

    fn owe_ack(&mut self, publish: &Publish, seq: Seq) {
        if publish.qos != QoS::AtMostOnce {
            self.unacked.push_back(Unacked { seq, packet_id: publish.pkid });
        }
    }

    /// Writes the acks of everything that is on disk.
    fn acknowledge(&mut self, out: &mut BytesMut) {
        if self.unacked.is_empty() {
            return;
        }
        let durable = self.writer.durable();
        while let Some(Unacked { seq, packet_id }) = self.unacked.front()
            && *seq <= durable
        {
            out.put_slice(&[0x40, 2]);
            out.put_u16(*packet_id);
            self.unacked.pop_front();
        }
        if self.unacked.is_empty() {
            self.unacked = VecDeque::new();
        }
    }

    /// Gives a message to its subscribers. It does not wait for the disk, nor for any of them.
    fn fan_out(&mut self, route: &Route, mut publish: Publish) {
        let published = match publish.qos {
            QoS::AtMostOnce => Qos::AtMostOnce,
            QoS::AtLeastOnce | QoS::ExactlyOnce => Qos::AtLeastOnce,
        };
        let broker = &self.broker;
        let mut frames: [Option<Frame>; 2] = [None, None];
        for subscriber in &*route.subscribers(&publish.topic, &broker.subscriptions) {
            let qos = subscriber.qos.min(published);
            let frame = frames[qos as usize].get_or_insert_with(|| Frame::encode(&mut publish, qos)).clone();
            match subscriber.mailbox.put(frame, broker.limits.max_queued_bytes) {
                Put::Queued => {}
                Put::OwesWake => self.wakes.owe(&subscriber.mailbox),
                Put::Dropped => broker.counters.dropped_slow_subscriber.add(1),
            }
        }
    }

    /// Moves messages from the outbox to the output.
    fn deliver(&mut self, out: &mut BytesMut) {
        if self.mail {
            let (count, more) = self.mailbox.take(out, OUT_BYTES, &mut self.window);
            self.broker.counters.delivered.add(count);
            self.mail = more;
        }
    }

    fn subscribe(&mut self, subscribe: &Subscribe, out: &mut BytesMut) -> Result<(), End> {
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        for wanted in &subscribe.filters {
            let filter = parse_filter(&wanted.path)?;
            let qos = match wanted.qos {
                QoS::AtMostOnce => Qos::AtMostOnce,
                // A lower QoS than asked for may be granted (MQTT-3.8.4-6).
                QoS::AtLeastOnce | QoS::ExactlyOnce => Qos::AtLeastOnce,
            };
            codes.push(match self.grant(filter, qos) {
                Ok(Qos::AtMostOnce) => SubscribeReasonCode::Success(QoS::AtMostOnce),
                Ok(Qos::AtLeastOnce) => SubscribeReasonCode::Success(QoS::AtLeastOnce),
                Err(refusal) => {
                    self.refuse(refusal, &wanted.path);
                    SubscribeReasonCode::Failure
                }
            });
        }
        // One code for each filter, in their order (MQTT-3.8.4-5).
        write(&Packet::SubAck(rumqttc::mqttbytes::v4::SubAck::new(subscribe.pkid, codes)), out);
        Ok(())
    }

    fn grant(&mut self, filter: TopicFilter, qos: Qos) -> Result<Qos, Refusal> {
        if !self.rules.authorizer.may_subscribe(&self.key.identity, &filter) {
            return Err(Refusal::SubscribeNotAllowed);
        }
        let is_new = !self.filters.contains(&filter);
        let too_many = is_new && self.filters.len() >= self.broker.limits.max_subscriptions;
        if too_many || !Subscriptions::can_hold(&filter) {
            return Err(Refusal::SubscribeImpossible);
        }
        self.broker.subscriptions.add(&filter, Subscriber { mailbox: Arc::clone(&self.mailbox), qos });
        if is_new {
            self.filters.push(filter);
        }
        Ok(qos)
    }

    fn unsubscribe(&mut self, unsubscribe: &Unsubscribe, out: &mut BytesMut) -> Result<(), End> {
        for topic in &unsubscribe.topics {
            let filter = parse_filter(topic)?;
            if let Some(index) = self.filters.iter().position(|held| *held == filter) {
                self.filters.swap_remove(index);
                self.broker.subscriptions.remove([&filter], &self.mailbox);
            }
        }
        // Also when there was no such subscription (MQTT-3.10.4-5).
        write(&Packet::UnsubAck(rumqttc::mqttbytes::v4::UnsubAck::new(unsubscribe.pkid)), out);
        Ok(())
    }

    async fn answer(&mut self, calls: Calls) -> Result<(), End> {
        if calls.taken_over() {
            return Err(End::TakenOver);
        }
        if calls.rules_changed() {
            self.take_new_rules()?;
        }
        if calls.mail() {
            // Others that are ready to publish may add to it: fewer, larger writes.
            tokio::task::yield_now().await;
            self.mail = true;
        }
        Ok(())
    }

    fn take_new_rules(&mut self) -> Result<(), End> {
        self.rules = self.broker.rules();
        self.routes.clear();
        let (identity, authorizer) = (&self.key.identity, &self.rules.authorizer);
        if identity.kind == IdentityKind::Anonymous && authorizer.anonymous().as_ref() != Some(identity) {
            let what = "devices without a certificate are no longer let in".to_owned();
            return Err(End::Refused(Refusal::CertificateMissing, what));
        }
        match self.filters.iter().find(|filter| !authorizer.may_subscribe(identity, filter)) {
            // 3.1.1 cannot take a subscription back; the client gets its 0x80 when it connects again.
            Some(filter) => Err(End::Refused(Refusal::SubscribeNotAllowed, filter.to_string())),
            None => Ok(()),
        }
    }

    /// Tries the parked publish again.
    fn unpark(&mut self) -> Result<(), End> {
        match self.parked.take() {
            Some(parked) => self.publish(parked.publish, parked.received),
            None => Ok(()),
        }
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
        self.broker.refusals.record(reason, self.peer.address.ip(), Some(&self.key.identity.device), detail);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.mailbox.close();
        if !self.filters.is_empty() {
            self.broker.subscriptions.remove(&self.filters, &self.mailbox);
        }
        self.broker.registry.leave(&self.key, &self.mailbox);
        self.broker.histories.leave(&self.key, std::mem::take(&mut self.history));
    }
}

fn parse_filter(text: &str) -> Result<TopicFilter, BadPacket> {
    TopicFilter::parse(text).map_err(|_| {
        packet::violation("MQTT-4.7.1-2", "what is not a topic filter in a SUBSCRIBE or UNSUBSCRIBE")
    })
}
