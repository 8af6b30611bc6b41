//! Where a session's publishes go, remembered by topic: a device publishes to the same few topics
//! for ever, and neither the ACL nor the subscriptions change often.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::outbox::Mailbox;
use super::registry::SessionKey;
use super::stream::Source;
use super::subscriptions::{Subscriptions, Target};
use super::{Rules, packet};
use crate::message::Topic;

/// Topics that a session remembers. A bridge with more of them pays for looking up again.
const MAX_TOPICS: usize = 128;

/// Longer topics are looked up each time.
const MAX_TOPIC_BYTES: usize = 256;

/// Targets that a route remembers. With more, delivering costs so much that looking up does not matter.
const MAX_TARGETS: usize = 8;

/// What becomes of a publish to one topic.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) allowed: bool,
    /// Whose reading it is; `None` when it is none.
    pub(super) reading: Option<Source>,
    /// As of `generation`; `None` when there are too many to remember.
    targets: Option<Vec<Target>>,
    generation: u64,
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
    ///
    /// # Errors
    /// When it is not a topic name.
    pub(super) fn find(
        &mut self,
        topic: &str,
        key: &SessionKey,
        rules: &Rules,
        subscriptions: &Subscriptions,
        publisher: &Arc<Mailbox>,
    ) -> Result<Arc<Route>, packet::BadPacket> {
        let generation = subscriptions.generation();
        match self.0.get(topic) {
            Some(route) if route.generation == generation => return Ok(Arc::clone(route)),
            _ => {}
        }
        Topic::check(topic)
            .map_err(|_| packet::violation("MQTT-3.3.2-2", "a PUBLISH to what is not a topic name"))?;
        if self.0.len() >= MAX_TOPICS {
            self.clear();
        }
        let allowed = rules.authorizer.may_publish(&key.identity, topic);
        let targets = if allowed { subscriptions.of(topic, Some(publisher)) } else { Vec::new() };
        let route = Arc::new(Route {
            allowed,
            reading: rules.streams.source(topic, &key.identity, &key.client_id),
            targets: (targets.len() <= MAX_TARGETS).then_some(targets),
            generation,
        });
        if topic.len() <= MAX_TOPIC_BYTES {
            self.0.insert(topic.into(), Arc::clone(&route));
        }
        Ok(route)
    }
}

impl Route {
    /// Where a message to the topic that this is the route of goes.
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
