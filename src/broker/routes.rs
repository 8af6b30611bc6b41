//! Where a session's publishes go, remembered by topic: a device publishes to the same few topics
//! for ever, and neither the ACL nor the subscriptions change often.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::registry::SessionKey;
use super::stream::Source;
use super::subscriptions::{Subscriber, Subscriptions};
use super::{Rules, packet};
use crate::authorize::Principal;
use crate::message::{Qos, Topic};

/// Topics that a session remembers. A bridge with more of them pays for looking up again.
const MAX_TOPICS: usize = 128;

/// Longer topics are looked up each time.
const MAX_TOPIC_BYTES: usize = 256;

/// Subscribers that a route remembers. With more, delivering costs so much that looking up does not matter.
const MAX_SUBSCRIBERS: usize = 8;

/// What becomes of a publish to one topic.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) allowed: bool,
    /// Whose reading it is; `None` when it is none.
    pub(super) reading: Option<Source>,
    /// As of `generation`; `None` when there are too many to remember.
    subscribers: Option<Vec<Subscriber>>,
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
        who: &Principal,
        rules: &Rules,
        subscriptions: &Subscriptions,
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
        let allowed = rules.authorizer.may_publish(who, topic, Qos::AtLeastOnce, false, false).allowed;
        let subscribers = if allowed { subscriptions.of(topic) } else { Vec::new() };
        let route = Arc::new(Route {
            allowed,
            reading: rules.streams.source(topic, &key.identity, &key.client_id),
            subscribers: (subscribers.len() <= MAX_SUBSCRIBERS).then_some(subscribers),
            generation,
        });
        if topic.len() <= MAX_TOPIC_BYTES {
            self.0.insert(topic.into(), Arc::clone(&route));
        }
        Ok(route)
    }
}

impl Route {
    /// The subscribers of the topic that this is the route of.
    pub(super) fn subscribers(&self, topic: &str, subscriptions: &Subscriptions) -> Cow<'_, [Subscriber]> {
        match &self.subscribers {
            Some(subscribers) => Cow::Borrowed(subscribers),
            None => Cow::Owned(subscriptions.of(topic)),
        }
    }
}
