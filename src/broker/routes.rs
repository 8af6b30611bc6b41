//! Where a session's publishes go, remembered by topic: a device publishes to the same few topics
//! for ever, and neither the ACL nor the subscriptions change often.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::Rules;
use super::inside::Heard;
use super::outbox::Mailbox;
use super::stream::Source;
use super::subscriptions::{Subscriptions, Target};
use crate::authorize::Principal;
use crate::message::{DeviceId, Qos};

/// Topics that a session remembers. A bridge with more of them pays for looking up again.
const MAX_TOPICS: usize = 128;

/// Longer topics are looked up each time.
const MAX_TOPIC_BYTES: usize = 256;

/// Targets that a route remembers. With more, delivering costs so much that looking up does not matter.
const MAX_TARGETS: usize = 8;

/// What becomes of a publish to one topic.
#[derive(Debug)]
pub(super) struct Route {
    /// By QoS, and whether RETAIN is set.
    allowed: [[bool; 2]; 3],
    /// Whose reading it is; `None` when it is none.
    pub(super) reading: Option<Source>,
    /// As of `generation`; `None` when there are too many to remember.
    targets: Option<Vec<Target>>,
    generation: u64,
    /// Who in the gateway listens to it.
    listeners: Vec<mpsc::Sender<Heard>>,
}

/// The routes of a session.
#[derive(Debug, Default)]
pub(super) struct Routes(HashMap<Box<str>, Arc<Route>>);

impl Routes {
    /// Forgets everything: the rules have changed.
    pub(super) fn clear(&mut self) {
        self.0 = HashMap::new();
    }

    /// The route of a topic, with the subscriptions as they are now.
    pub(super) fn find(
        &mut self,
        topic: &str,
        (who, client_id): (&Principal, &str),
        rules: &Rules,
        subscriptions: &Subscriptions,
        publisher: &Arc<Mailbox>,
        listeners: impl FnOnce() -> Vec<mpsc::Sender<Heard>>,
    ) -> Arc<Route> {
        let generation = subscriptions.generation();
        match self.0.get(topic) {
            Some(route) if route.generation == generation => return Arc::clone(route),
            _ => {}
        }
        if self.0.len() >= MAX_TOPICS {
            self.clear();
        }
        let may = |qos, retain| rules.authorizer.may_publish(who, topic, qos, retain, false).allowed;
        let allowed = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce]
            .map(|qos| [false, true].map(|retain| may(qos, retain)));
        let targets = subscriptions.of(topic, Some(publisher));
        let route = Arc::new(Route {
            allowed,
            reading: rules.streams.source(topic, &who.identity, client_id),
            targets: (targets.len() <= MAX_TARGETS).then_some(targets),
            generation,
            listeners: listeners(),
        });
        if topic.len() <= MAX_TOPIC_BYTES {
            self.0.insert(topic.into(), Arc::clone(&route));
        }
        route
    }
}

impl Route {
    /// Of what the gateway itself publishes.
    pub(super) fn inside() -> Self {
        Self { allowed: [[true; 2]; 3], reading: None, targets: None, generation: 0, listeners: Vec::new() }
    }

    /// Tells who listens in the gateway.
    pub(super) fn tell(&self, device: &DeviceId, payload: &Bytes) {
        for listener in &self.listeners {
            let heard = Heard { device: device.clone(), payload: payload.clone() };
            if listener.try_send(heard).is_err() {
                tracing::debug!(%device, "nobody has the time to hear this publish");
            }
        }
    }

    /// Whether its session may publish so.
    pub(super) fn allows(&self, qos: Qos, retain: bool) -> bool {
        self.allowed[usize::from(qos as u8)][usize::from(retain)]
    }

    /// Where messages to the topic go that this is the route of.
    pub(super) fn targets(
        &self,
        topic: &str,
        subscriptions: &Subscriptions,
        publisher: &Arc<Mailbox>,
    ) -> Cow<'_, [Target]> {
        match &self.targets {
            Some(targets) => Cow::Borrowed(targets),
            None => Cow::Owned(subscriptions.of(topic, Some(publisher))),
        }
    }
}
