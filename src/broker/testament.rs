//! How a will is published: as its client would have done it, by the rules as they are then.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::outbox::Mailbox;
use super::publisher::{Outcome, Publisher};
use super::will::{self, Departure, Fate, fate};
use super::wire::{Publish, Will};
use crate::authorize::Principal;
use crate::authorize::refusals::Refusal;
use crate::message::{Qos, Stamp};

/// When the buffer has no room for a will, it is tried again so soon.
const AGAIN_MS: u64 = 1_000;

/// A will, and in whose name it is published.
#[derive(Debug)]
pub(super) struct Testament {
    who: Arc<Principal>,
    client_id: Arc<str>,
    address: SocketAddr,
    will: Box<Will>,
}

impl Shared {
    /// A connection with a will has ended.
    pub(super) fn settle(
        &self,
        will: Box<Will>,
        departure: Departure,
        publisher: &mut Publisher,
        now: Stamp,
    ) {
        let wait = match fate(will.delay, departure) {
            Fate::Void => return,
            Fate::Wait(wait) => wait,
            Fate::Publish => Duration::ZERO,
        };
        let mailbox = Arc::clone(publisher.mailbox());
        let testament = Testament {
            who: Arc::clone(&publisher.who),
            client_id: Arc::clone(publisher.client_id()),
            address: publisher.address,
            will,
        };
        if wait.is_zero() {
            return self.publish_will(publisher, testament, now);
        }
        self.arm(mailbox.number, testament, wait, now);
        if mailbox.is_online() {
            // It came back in this very moment.
            drop(self.wills.take(mailbox.number));
        }
    }

    /// Publishes a will whose time has come.
    pub(super) fn execute(&self, testament: Testament) {
        let Testament { who, client_id, address, .. } = &testament;
        let nobody = Arc::new(Mailbox::default());
        let mut publisher = Publisher::new(self, Arc::clone(who), Arc::clone(client_id), *address, nobody);
        self.publish_will(&mut publisher, testament, self.clock.stamp());
    }

    fn arm(&self, session: u64, testament: Testament, wait: Duration, now: Stamp) {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let bytes = will::cost(&testament.will);
        if let Err(testament) = self.wills.arm(session, testament, bytes, now.boot_ms.saturating_add(wait_ms))
        {
            self.execute(testament);
        }
    }

    fn publish_will(&self, publisher: &mut Publisher, testament: Testament, now: Stamp) {
        let Will { topic, payload, qos, retain, properties, .. } = &*testament.will;
        let authorizer = &publisher.rules.authorizer;
        if !authorizer.may_publish(&publisher.who, topic, *qos, *retain, true).allowed {
            return publisher.refuse(self, Refusal::PublishNotAllowed, &format!("a will to {topic}"));
        }
        let publish = Publish {
            dup: false,
            qos: *qos,
            retain: *retain,
            packet_id: 0,
            topic: topic.clone(),
            topic_alias: None,
            payload: payload.clone(),
            properties: properties.clone(),
        };
        let route = publisher.route(self, topic);
        match publisher.publish(self, &route, publish, now, Vec::new()) {
            Outcome::Taken { .. } => self.counters.wills_published.add(1),
            Outcome::Full(publish) if *qos == Qos::AtMostOnce => {
                publisher.deliver_only(self, &route, publish, now);
            }
            Outcome::Full(_) => {
                let bytes = will::cost(&testament.will);
                let detail = format!("a will to {topic}");
                if self.wills.retry(testament, bytes, now.boot_ms + AGAIN_MS).is_err() {
                    publisher.refuse(self, Refusal::NotReady, &detail);
                }
            }
            Outcome::Closed => tracing::debug!("a will was not published: the buffer has ended"),
        }
        publisher.wakes.pay();
    }
}
