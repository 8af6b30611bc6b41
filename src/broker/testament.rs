//! How a will is published: as its client would have done it, by the rules as they are then.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::kept::{self, LeftWill};
use super::outbox::Mailbox;
use super::publisher::{Outcome, Publisher};
use super::registry::SessionKey;
use super::will::{self, Departure, Fate, fate};
use super::wire::{Publish, Will};
use crate::authorize::refusals::Refusal;
use crate::authorize::{Authorizer, Decision, Identity, Principal};
use crate::buffer::Change;
use crate::message::{Qos, Stamp};

/// When the buffer has no room for a will, it is tried again so soon.
const AGAIN: Duration = Duration::from_secs(1);

/// A will, and in whose name it is published.
#[derive(Debug)]
pub(super) struct Testament {
    /// The session whose will it is.
    session: u64,
    who: Arc<Principal>,
    client_id: Arc<str>,
    address: SocketAddr,
    will: Box<Will>,
    /// A token has allowed it of which there are no claims any more: no rule has a say in it.
    by_token: bool,
}

/// Whether a client may have its will published.
pub(super) fn may_leave(authorizer: &Authorizer, who: &Principal, will: &Will) -> Decision {
    authorizer.may_publish(who, &will.topic, will.qos, will.retain, true)
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
        let fate = fate(will.delay, departure);
        publisher.hears_refusals = false;
        let mailbox = Arc::clone(publisher.mailbox());
        let testament = Testament {
            session: mailbox.number,
            who: Arc::clone(&publisher.who),
            client_id: Arc::clone(publisher.client_id()),
            address: publisher.address,
            will,
            by_token: false,
        };
        match fate {
            Fate::Void => {}
            Fate::Publish => {
                // The connection may have ended before it heard of new ones.
                publisher.take_rules(self.rules());
                self.publish_will(publisher, testament, now, Vec::new());
            }
            Fate::Wait(wait) => {
                self.wait_or_execute(testament, wait, now);
                if mailbox.is_online() {
                    // It came back in this very moment.
                    drop(self.wills.take(mailbox.number));
                }
            }
        }
    }

    /// A will that an earlier process has left, and how long it is still to wait.
    pub(super) fn inherited(
        &self,
        left: LeftWill,
        key: &SessionKey,
        mailbox: &Mailbox,
    ) -> Option<(Testament, Duration)> {
        let LeftWill { will, user, by_token } = left;
        let (left, expiry) = mailbox.absence()?;
        let wait = match fate(will.delay, Departure::Away(Duration::from_secs(expiry.into()))) {
            Fate::Wait(wait) => wait.saturating_sub(self.clock.age(&left)),
            Fate::Publish | Fate::Void => Duration::ZERO,
        };
        let Identity { device, kind } = key.identity.clone();
        let testament = Testament {
            session: mailbox.number,
            who: Arc::new(Principal { user, ..Principal::assumed(device, kind) }),
            client_id: Arc::clone(&key.client_id),
            address: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
            will,
            by_token,
        };
        Some((testament, wait))
    }

    /// Publishes a will whose time has come, or lets it wait.
    pub(super) fn wait_or_execute(&self, testament: Testament, wait: Duration, now: Stamp) {
        let (session, bytes) = (testament.session, will::cost(&testament.will));
        let armed = match wait {
            Duration::ZERO => Err(testament),
            wait => self.wills.arm(session, testament, bytes, later(now, wait)),
        };
        if let Err(testament) = armed {
            self.execute(testament);
        }
    }

    /// Publishes a will whose time has come.
    pub(super) fn execute(&self, testament: Testament) {
        let Testament { session, who, client_id, address, .. } = &testament;
        let nobody = Arc::new(Mailbox::default());
        let mut publisher = Publisher::new(self, Arc::clone(who), Arc::clone(client_id), *address, nobody);
        let changes = vec![kept::remove_will(*session)];
        self.publish_will(&mut publisher, testament, self.clock.stamp(), changes);
    }

    /// `changes` go to disk with it.
    fn publish_will(
        &self,
        publisher: &mut Publisher,
        testament: Testament,
        now: Stamp,
        changes: Vec<Change>,
    ) {
        let Will { topic, payload, qos, retain, properties, .. } = &*testament.will;
        let is_allowed = || may_leave(&publisher.rules.authorizer, &publisher.who, &testament.will).allowed;
        if !testament.by_token && !is_allowed() {
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
        match publisher.publish(self, &route, publish, now, changes) {
            Outcome::Taken { .. } => self.counters.wills_published.add(1),
            Outcome::Full(publish) | Outcome::NotRetained(publish) if *qos == Qos::AtMostOnce => {
                publisher.deliver_only(self, &route, publish, now);
                self.counters.wills_published.add(1);
            }
            Outcome::Full(publish) | Outcome::NotRetained(publish) => {
                let bytes = will::cost(&testament.will);
                if self.wills.retry(testament, bytes, later(now, AGAIN)).is_err() {
                    publisher.refuse(self, Refusal::WillLost, &publish.topic);
                }
            }
            Outcome::Closed => tracing::debug!("a will was not published: the buffer has ended"),
        }
        publisher.wakes.pay();
    }
}

/// A moment on the boot clock.
fn later(now: Stamp, wait: Duration) -> u64 {
    now.boot_ms.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
}
