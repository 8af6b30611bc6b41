//! How a connection comes to its session, and how it leaves it.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::answering::Owing;
use super::arrivals::Arrivals;
use super::{End, Session};
use crate::authorize::keyed::{KeyedTopics, masked};
use crate::authorize::refusals::{Refusal, Whom};
use crate::authorize::{Cause, Principal};
use crate::broker::connection::Connection;
use crate::broker::outbox::{Left, MAX_IN_FLIGHT, Outlet};
use crate::broker::publisher::Publisher;
use crate::broker::registry::{Entered, SessionKey, Wanted};
use crate::broker::will::{Departure, Fate, fate};
use crate::broker::wire::{Answer, ConnAck, Connect, Password, Reason, Version, Will};
use crate::broker::{Moment, Shared, kept, testament};
use crate::buffer::{Change, Mark, SubmitError, Wait, Writer};

/// A session that was entered.
pub(in crate::broker) struct Welcome {
    pub(in crate::broker) session: Box<Session>,
    pub(in crate::broker) answer: ConnAck,
    /// What must be on disk before the answer.
    pub(in crate::broker) behind: Mark,
}

impl Session {
    /// Enters the session of a client, if it is let in.
    pub(in crate::broker) fn enter(
        broker: &Arc<Shared>,
        who: Arc<Principal>,
        address: SocketAddr,
        connect: &mut Connect,
    ) -> Result<Welcome, End> {
        let keyed = broker.keyed_topics(&who, connect);
        if let (Some(keyed), Some(will)) = (&keyed, &mut connect.will) {
            will.topic = keyed.inward(&will.topic).into_owned();
        }
        check_will(broker, &who, connect.will.as_deref())?;
        let assigned = connect.client_id.is_empty().then(|| broker.client_id());
        let client_id: Arc<str> = assigned.as_deref().unwrap_or(&connect.client_id).into();
        let key = SessionKey { identity: who.identity.clone(), client_id: Arc::clone(&client_id) };
        let expiry = broker.bounded_expiry(connect.session_expiry);
        let wanted = Wanted { clean_start: connect.clean_start, expiry };
        let entered = broker.registry.enter(&key, wanted, &broker.histories, &broker.clock);
        let Entered { mailbox, line, history, present, took_over, ended } = entered.map_err(|error| {
            End::refused(Refusal::TooManySessions, Reason::QuotaExceeded, error.to_string())
        })?;
        broker.counters.taken_over.add(took_over.into());
        let longest = broker.limits.max_keep_alive;
        let keep_alive = match connect.keep_alive {
            0 => longest,
            seconds => Duration::from_secs(seconds.into()).min(longest),
        };
        let mut publisher = Publisher::new(broker, who, client_id, address, Arc::clone(&mailbox));
        publisher.hears_refusals = connect.version == Version::V5;
        let mut session = Box::new(Self {
            key,
            version: connect.version,
            asks: true,
            publisher,
            history,
            owed: Owing::default(),
            backlog: ended.into_iter().flat_map(|ended| broker.clear(&ended)).collect(),
            starved: false,
            in_flight: 0,
            parked: None,
            held: false,
            arrivals: Arrivals::default(),
            slowed_until: None,
            pace: broker.paces.of(address.ip()),
            aliases: None,
            mailbox,
            line,
            outlet: Outlet::new(connect, keyed),
            max_in_flight: connect.receive_maximum.min(MAX_IN_FLIGHT),
            mail: true,
            commands: true,
            commands_behind: None,
            gives: present,
            bursts: false,
            silence: keep_alive.mul_f32(1.5),
            last_heard: Instant::now(),
            stopping: false,
            will: connect.will.take(),
            said_goodbye: false,
            is_known: present,
            may_outlive: connect.session_expiry > 0,
            broker: Arc::clone(broker),
        });
        broker.posts.add(&session.key.identity.device, &session.line);
        // Rules that change from now on are told to it: it is entered.
        session.check_identity()?;
        if present {
            // The client is back before its will was due (MQTT-3.1.3-9).
            drop(broker.wills.take(session.mailbox.number));
            session.review_subscriptions()?;
        }
        let behind = session.keep_entered(present)?;
        let is_v5 = connect.version == Version::V5;
        let kept_alive = u16::try_from(keep_alive.as_secs()).unwrap_or(u16::MAX);
        let answer = ConnAck {
            session_present: present,
            session_expiry: (is_v5 && expiry != connect.session_expiry).then_some(expiry),
            server_keep_alive: (is_v5 && kept_alive != connect.keep_alive).then_some(kept_alive),
            assigned_client_id: assigned,
            ..broker.connack(Reason::Success)
        };
        Ok(Welcome { session, answer, behind })
    }

    /// Resolves when what must be on disk before the CONNACK is, or as soon as nobody waits for that any more: a disk
    /// may be slow, and its client impatient.
    pub(in crate::broker) async fn until_durable<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        behind: Mark,
        connection: &mut Connection<S>,
    ) -> Result<(), End> {
        tokio::select! {
            biased;
            durable = self.publisher.writer.until_durable(behind) => durable.map_err(|_| End::Stopping),
            () = poll_fn(|cx| self.line.poll_taken_over(cx)) => Err(End::TakenOver),
            error = poll_fn(|cx| connection.poll_gone(cx)) => Err(error.into()),
        }
    }

    /// The first answer of all (MQTT-3.2.0-1).
    pub(in crate::broker) fn answer_connect(
        &mut self,
        answer: ConnAck,
        out: &mut BytesMut,
    ) -> Result<(), End> {
        self.is_known = true;
        // It may have taken a while.
        self.last_heard = Instant::now();
        Ok(self.outlet.answer(&Answer::ConnAck(answer), out)?)
    }

    /// Tells the client why it is we who end the connection; 3.1.1 has no words for it.
    pub(in crate::broker) fn say_goodbye(&self, end: &End, out: &mut BytesMut) {
        let Some(reason) = end.reason() else { return };
        let goodbye = Answer::Disconnect { reason, text: Some(end.to_string()) };
        if let Err(error) = self.outlet.answer(&goodbye, out) {
            tracing::debug!(%error, "a goodbye that the client does not take");
        }
    }

    /// Who it is, for the log.
    pub(in crate::broker) fn whom(&self) -> Whom<'_> {
        self.publisher.whom()
    }

    /// Says that it is there.
    pub(in crate::broker) fn tell_of(&self, connect: &Connect) {
        let (device, peer) = (&self.key.identity.device, self.publisher.address);
        if let Some(unlogged_before) = self.broker.may_log(Moment::Connected, device, peer) {
            // Some phones use their key for everything.
            let (client_id, version) = (masked(&self.key.client_id), connect.version);
            let keep_alive_s = connect.keep_alive;
            tracing::info!(%device, ?client_id, ?version, %peer, keep_alive_s, unlogged_before, "connected");
        }
    }

    /// Puts it on disk that the session is there. Whoever is told so finds it after a restart; and all that
    /// earlier connections have changed of it is on disk by then, too.
    fn keep_entered(&mut self, present: bool) -> Result<Mark, End> {
        let mut changes = std::mem::take(&mut self.backlog);
        // As long as it is held, no other connection can say otherwise.
        let held = self.mailbox.held_by(&self.line).ok_or(End::TakenOver)?;
        let mut wait = Wait::Nobody;
        if self.mailbox.is_kept() {
            let number = self.mailbox.number;
            changes.push(kept::put_session(number, &self.key, held.expiry, None, &held.subscriptions));
            match &self.will {
                Some(will) => {
                    let Publisher { who, rules, .. } = &self.publisher;
                    let cause = testament::may_leave(&rules.authorizer, who, will).cause;
                    let by_token = matches!(cause, Cause::Token(_));
                    changes.push(kept::put_will(number, will, who.user.as_deref(), by_token));
                }
                None if present => changes.push(kept::remove_will(number)),
                None => {}
            }
            wait = Wait::ForAck;
        }
        if changes.is_empty() {
            return Ok(Mark::default());
        }
        match self.publisher.writer.submit(None, changes, wait) {
            Ok(receipt) if wait == Wait::ForAck => Ok(receipt.mark),
            Ok(_) => Ok(Mark::default()),
            Err(SubmitError::Full) => {
                let what = "the buffer has no room for a session that is to be kept";
                Err(End::refused(Refusal::NotReady, Reason::ServerBusy, what))
            }
            Err(SubmitError::Closed) => Err(End::Stopping),
        }
    }

    /// The connection has ended, and perhaps the session with it.
    pub(super) fn leave(&mut self) {
        self.broker.posts.remove(&self.key.identity.device, &self.line);
        self.broker.phones.remove(&self.key.identity.device, &self.line);
        let now = self.broker.clock.stamp();
        let mut changes = std::mem::take(&mut self.backlog);
        if !self.is_known
            && let Some(mut held) = self.mailbox.held_by(&self.line)
        {
            // It would be present to a client that knows nothing of it (MQTT-3.2.2-4).
            held.expiry = 0;
        }
        let writer = &mut self.publisher.writer;
        if let Some(held) = self.mailbox.held_by(&self.line)
            && held.expiry > 0
        {
            let number = self.mailbox.number;
            changes.push(kept::put_session(number, &self.key, held.expiry, Some(&now), &held.subscriptions));
            let departure = match self.said_goodbye {
                true => Departure::Goodbye,
                false => Departure::Away(Duration::from_secs(held.expiry.into())),
            };
            if let Some(will) = &self.will
                && !matches!(fate(will.delay, departure), Fate::Wait(_))
            {
                changes.push(kept::remove_will(number));
            }
            // As long as it is held: a newer connection's word on it comes later.
            submit_last(writer, std::mem::take(&mut changes));
        }
        let (left, ended) = self.broker.registry.leave(&self.key, &self.mailbox, &self.line, now);
        if let Some(ended) = &ended {
            changes.extend(self.broker.clear(ended));
        }
        submit_last(writer, changes);
        if let Some(will) = self.will.take() {
            let departure = match left {
                _ if self.said_goodbye => Departure::Goodbye,
                Left::Ends | Left::Replaced => Departure::Ended,
                Left::Stays(expiry) => Departure::Away(Duration::from_secs(expiry.into())),
                Left::Resumed => Departure::Resumed,
            };
            self.broker.settle(will, departure, &mut self.publisher, now);
        }
    }

    /// The client has been away: it may hear less than before.
    fn review_subscriptions(&mut self) -> Result<(), End> {
        for subscription in self.drop_forbidden()? {
            self.refuse(Refusal::SubscribeNotAllowed, &subscription.filter.to_string());
        }
        Ok(())
    }
}

impl Shared {
    /// How the client's topics are turned, if those of the message gateway are in use.
    fn keyed_topics(&self, who: &Principal, connect: &Connect) -> Option<Box<KeyedTopics>> {
        let password = connect.password.as_ref().map(Password::expose);
        let keyed = || KeyedTopics::new(who, connect.user_name.as_deref(), password);
        self.rules().authorizer.has_keyed_topics().then(|| Box::new(keyed()))
    }
}

/// A will must be one that the client may publish.
fn check_will(broker: &Shared, who: &Principal, will: Option<&Will>) -> Result<(), End> {
    let Some(will) = will else { return Ok(()) };
    let topic = &will.topic;
    if let Err(beyond) = broker.topics.check(topic) {
        let what = format!("a will to a topic of {beyond}: {topic}");
        return Err(End::refused(Refusal::TopicTooLong, Reason::TopicNameInvalid, what));
    }
    match testament::may_leave(&broker.rules().authorizer, who, will).allowed {
        true => Ok(()),
        false => {
            let what = format!("a will to {topic}");
            Err(End::refused(Refusal::PublishNotAllowed, Reason::NotAuthorized, what))
        }
    }
}

/// What is lost of this, is known to an earlier word on disk: the session is kept for longer, or a message is repeated.
fn submit_last(writer: &mut Writer, changes: Vec<Change>) {
    if !changes.is_empty()
        && let Err(error) = writer.submit(None, changes, Wait::Nobody)
    {
        tracing::debug!(%error, "the end of a session was not kept");
    }
}
