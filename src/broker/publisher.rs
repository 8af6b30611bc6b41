//! The way of a message from who publishes it: to disk, and to its subscribers.
//!
//! What is kept of it (the reading, the copies for kept sessions, the retained message) goes to disk together or
//! not at all. Live delivery does not wait for the disk, nor for any subscriber.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use super::kept;
use super::message::{Message, Origin};
use super::outbox::{Full, Mailbox, Parcel, Put, Wakes};
use super::retained::Plan;
use super::routes::{Route, Routes};
use super::subscriptions::{Subscriber, Target};
use super::wire::Publish;
use super::{Rules, Shared};
use crate::authorize::Principal;
use crate::authorize::refusals::{Refusal, Whom};
use crate::buffer::{Change, Mark, SubmitError, Wait, Writer};
use crate::message::{Incoming, Qos, Stamp};

/// Somebody who publishes: a session, or a will in its name.
#[derive(Debug)]
pub(super) struct Publisher {
    pub(super) who: Arc<Principal>,
    client_id: Arc<str>,
    /// Where it is, or was last.
    pub(super) address: SocketAddr,
    pub(super) rules: Arc<Rules>,
    pub(super) writer: Writer,
    /// Sessions to be woken at the end of a burst.
    pub(super) wakes: Wakes,
    /// Of the session itself.
    mailbox: Arc<Mailbox>,
    /// Whether it can be told that a message of QoS 1 or 2 is refused because it cannot be retained.
    pub(super) hears_refusals: bool,
    routes: Routes,
}

/// What became of a publish.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is taken: what is kept of it is on disk at this mark.
    Taken {
        mark: Mark,
        /// Somebody gets it, or a stream.
        matched: bool,
    },
    /// There is no room on disk for what is to be kept of it. Nobody has it.
    Full(Publish),
    /// It was to be retained and cannot be, and who publishes it can be told so. Nobody has it.
    NotRetained(Publish),
    /// The buffer has ended.
    Closed,
}

/// A message on its way into a mailbox.
struct Prepared {
    mailbox: Arc<Mailbox>,
    /// With a number, there is room for it, and it is on its way to disk.
    number: Option<u64>,
    parcel: Parcel,
}

impl Prepared {
    fn new(subscriber: &Subscriber, message: &Arc<Message>) -> Result<Self, Full> {
        let mailbox = Arc::clone(&subscriber.mailbox);
        let parcel = parcel(subscriber, message);
        let number = match mailbox.is_kept() && parcel.qos != Qos::AtMostOnce {
            true => Some(mailbox.reserve(&parcel)?),
            false => None,
        };
        Ok(Self { mailbox, number, parcel })
    }
}

/// The first that succeeds; otherwise the last error.
fn first_ok<T>(mut attempts: impl Iterator<Item = Result<T, Full>>) -> Result<T, Full> {
    let mut last = Full::Session;
    attempts.find_map(|attempt| attempt.map_err(|full| last = full).ok()).ok_or(last)
}

impl Publisher {
    pub(super) fn new(
        broker: &Shared,
        who: Arc<Principal>,
        client_id: Arc<str>,
        address: SocketAddr,
        mailbox: Arc<Mailbox>,
    ) -> Self {
        Self {
            who,
            client_id,
            address,
            rules: broker.rules(),
            writer: broker.buffer.writer(),
            wakes: Wakes::default(),
            mailbox,
            hears_refusals: false,
            routes: Routes::default(),
        }
    }

    pub(super) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    pub(super) fn client_id(&self) -> &Arc<str> {
        &self.client_id
    }

    /// The rules have changed.
    pub(super) fn take_rules(&mut self, rules: Arc<Rules>) {
        self.rules = rules;
        self.routes.clear();
    }

    /// Where a message to a topic goes, and whether it may.
    pub(super) fn route(&mut self, broker: &Shared, topic: &str) -> Arc<Route> {
        let Self { who, client_id, rules, mailbox, .. } = self;
        let listeners = || broker.listeners(&who.identity.device, topic);
        self.routes.find(topic, (who, client_id), rules, &broker.subscriptions, mailbox, listeners)
    }

    /// Publishes. `changes` go to disk with it.
    pub(super) fn publish(
        &mut self,
        broker: &Shared,
        route: &Route,
        publish: Publish,
        received: Stamp,
        changes: Vec<Change>,
    ) -> Outcome {
        route.tell(&self.who.identity.device, &publish.payload);
        let targets = route.targets(&publish.topic, &broker.subscriptions, &self.mailbox);
        let matched = !targets.is_empty() || route.reading.is_some();
        if !publish.retain && !targets.iter().any(is_kept) {
            // The way of nearly all readings: nothing is made for subscribers that there are not.
            return match self.submit(broker, route, &publish, received, changes) {
                Ok(mark) => {
                    self.fan_out(broker, &targets, publish, received);
                    Outcome::Taken { mark, matched }
                }
                Err(SubmitError::Full) => Outcome::Full(publish),
                Err(SubmitError::Closed) => Outcome::Closed,
            };
        }
        let message = Arc::new(self.message(publish.clone(), received));
        // As long as it is locked, memory and disk cannot come to say different things.
        let mut plan = match publish.retain.then(|| broker.retained.plan(&message)) {
            // A reading is taken, whatever else becomes of it: after an error its device would send it once more.
            Some(Err(_))
                if self.hears_refusals && publish.qos != Qos::AtMostOnce && route.reading.is_none() =>
            {
                return Outcome::NotRetained(publish);
            }
            Some(plan) => plan.map_err(|refusal| self.refuse(broker, refusal, &publish.topic)).ok(),
            None => None,
        };
        let targets = match plan {
            // Who subscribes from now on finds the message among those retained; who did before is found here.
            Some(_) => Cow::Owned(broker.subscriptions.of(&publish.topic, Some(&self.mailbox))),
            None => targets,
        };
        let (prepared, mut changes) = prepare(broker, &targets, &message, changes);
        changes.extend(plan.as_mut().and_then(Plan::take_change));
        match self.submit(broker, route, &publish, received, changes) {
            Ok(mark) => {
                if let Some(plan) = plan {
                    plan.carry_out();
                }
                prepared.into_iter().for_each(|prepared| self.put(broker, prepared));
                Outcome::Taken { mark, matched }
            }
            Err(error) => {
                let reserved = prepared.iter().filter(|prepared| prepared.number.is_some());
                reserved.for_each(|Prepared { mailbox, parcel, .. }| mailbox.release(parcel));
                if error == SubmitError::Full { Outcome::Full(publish) } else { Outcome::Closed }
            }
        }
    }

    fn put(&mut self, broker: &Shared, Prepared { mailbox, number, parcel }: Prepared) {
        let Some(number) = number else { return self.count(broker, mailbox.put(parcel)) };
        let put = mailbox.put_reserved(number, parcel);
        if matches!(put, Put::Ignored) {
            // Its session ended in this very moment, and did not know of the record.
            let change = kept::remove_queued(mailbox.number, number);
            if let Err(error) = self.writer.submit(None, vec![change], Wait::Nobody) {
                tracing::debug!(%error, "a message of a session that has ended stays until the next start");
            }
        }
        self.count(broker, put);
    }

    /// Delivers a message of which nothing can be kept now, to those who are there.
    pub(super) fn deliver_only(&mut self, broker: &Shared, route: &Route, publish: Publish, received: Stamp) {
        let targets = route.targets(&publish.topic, &broker.subscriptions, &self.mailbox);
        self.fan_out(broker, &targets, publish, received);
    }

    /// Hands a reading and the changes to the buffer.
    fn submit(
        &mut self,
        broker: &Shared,
        route: &Route,
        publish: &Publish,
        received: Stamp,
        changes: Vec<Change>,
    ) -> Result<Mark, SubmitError> {
        let wait = match publish.qos {
            Qos::AtMostOnce => Wait::Nobody,
            Qos::AtLeastOnce | Qos::ExactlyOnce => Wait::ForAck,
        };
        let Some(source) = &route.reading else {
            if changes.is_empty() {
                return Ok(Mark::default());
            }
            return self.writer.submit(None, changes, wait).map(|receipt| receipt.mark);
        };
        let stream = self.rules.streams.get(source.stream);
        let unfit = match &source.fault {
            None => stream.fault(&source.device, &publish.payload),
            fault => fault.clone(),
        };
        let reading = Incoming {
            device: &source.device,
            stream: &stream.name,
            topic: &publish.topic,
            payload: &publish.payload,
            qos: publish.qos,
            received,
            fault: unfit.as_deref(),
        };
        let receipt = self.writer.submit(Some(&reading), changes, wait)?;
        broker.counters.readings.add(1);
        if let Some(fault) = unfit {
            broker.counters.readings_unfit.add(1);
            self.refuse(broker, Refusal::PayloadUnfit, &format!("{}: {fault}", publish.topic));
        } else if let Some(rules) = broker.local_rules.get() {
            rules.observe(&stream.name, &source.device, &publish.payload, &received);
        }
        Ok(receipt.mark)
    }

    /// Gives a message to its subscribers.
    fn fan_out(&mut self, broker: &Shared, targets: &[Target], publish: Publish, received: Stamp) {
        if targets.is_empty() {
            return;
        }
        let message = Arc::new(self.message(publish, received));
        for target in targets {
            let put = |subscriber: &Subscriber| subscriber.mailbox.put(parcel(subscriber, &message));
            let put = match target {
                Target::One(subscriber) => put(subscriber),
                Target::Shared(group) => {
                    let mut puts = group.in_turn().map(put);
                    let taken = |put: &Put| matches!(put, Put::Queued | Put::OwesWake(_));
                    puts.find(taken).unwrap_or(Put::Dropped(Full::Session))
                }
            };
            self.count(broker, put);
        }
    }

    fn message(&self, publish: Publish, received: Stamp) -> Message {
        let Publish { topic, payload, properties, qos, retain, .. } = publish;
        let from = retain.then(|| Origin::of(&self.who.identity, &self.client_id));
        Message::new(topic, payload, properties, qos, retain, received, from)
    }

    fn count(&mut self, broker: &Shared, put: Put) {
        match put {
            Put::Queued | Put::Ignored => {}
            Put::OwesWake(line) => self.wakes.owe(line),
            Put::Dropped(full) => broker.counters.dropped(full),
        }
    }

    /// Who it is, for the log.
    pub(super) fn whom(&self) -> Whom<'_> {
        let device = Some(&self.who.identity.device);
        Whom { device, client_id: Some(&self.client_id), ..Whom::at(self.address.ip()) }
    }

    /// Counts and logs a refusal.
    pub(super) fn refuse(&self, broker: &Shared, reason: Refusal, detail: &str) {
        broker.refusals.record(reason, self.whom(), detail);
    }
}

/// Everything that is to be on disk for its subscribers, and room for it where it is to go.
fn prepare(
    broker: &Shared,
    targets: &[Target],
    message: &Arc<Message>,
    mut changes: Vec<Change>,
) -> (Vec<Prepared>, Vec<Change>) {
    let mut prepared = Vec::with_capacity(targets.len());
    for target in targets {
        let found = match target {
            Target::One(subscriber) => Prepared::new(subscriber, message),
            // Whoever is first in turn and has room.
            Target::Shared(group) => first_ok(group.in_turn().map(|it| Prepared::new(it, message))),
        };
        match found {
            Ok(found) => prepared.push(found),
            Err(full) => broker.counters.dropped(full),
        }
    }
    changes.extend(prepared.iter().filter_map(|Prepared { mailbox, number, parcel }| {
        Some(kept::put_queued(mailbox.number, (*number)?, parcel))
    }));
    (prepared, changes)
}

/// Whether what it gets may have to be on disk first.
fn is_kept(target: &Target) -> bool {
    match target {
        Target::One(subscriber) => subscriber.mailbox.is_kept(),
        Target::Shared(_) => true,
    }
}

/// DUP and RETAIN are those of this delivery, not those of the publisher (MQTT-3.3.1-3, MQTT-3.3.1-9).
fn parcel(subscriber: &Subscriber, message: &Arc<Message>) -> Parcel {
    Parcel {
        qos: subscriber.qos.min(message.qos),
        retain: subscriber.retain_as_published && message.retain,
        identifiers: subscriber.identifiers.clone(),
        message: Arc::clone(message),
    }
}
