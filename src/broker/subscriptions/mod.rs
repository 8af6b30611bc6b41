//! Who wants which topics.
//!
//! What a session gets of one publish: one message for all of its own subscriptions that match, and one more
//! for each of its shared ones whose turn it is (section 4.8.2).

mod filter;
mod group;
#[cfg(test)]
mod tests;
mod trie;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

pub(super) use self::filter::{Filter, InvalidSubscription, Options, Subscription};
pub(super) use self::group::Group;
use self::trie::{Ending, Held, Node};
use super::outbox::Mailbox;
use crate::message::Qos;

/// Where a message goes.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// To a session.
    One(Subscriber),
    /// To one of several.
    Shared(Arc<Group>),
}

/// A session that gets a message, and how.
#[derive(Debug, Clone)]
pub(super) struct Subscriber {
    pub(super) mailbox: Arc<Mailbox>,
    /// The highest quality of service that it was granted.
    pub(super) qos: Qos,
    /// With RETAIN as it was published; otherwise without.
    pub(super) retain_as_published: bool,
    /// Of all its subscriptions that match.
    pub(super) identifiers: Identifiers,
}

/// Subscription identifiers. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Identifiers(Option<Arc<[u32]>>);

/// All subscriptions of all sessions.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    root: RwLock<Node>,
    generation: AtomicU64,
}

impl Subscriptions {
    /// Grows with every change: what was looked up before must be looked up again.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Adds a subscription; it replaces one of the same session with the same filter (MQTT-3.8.4-3).
    /// Returns whether there was none.
    pub(super) fn add(&self, subscription: &Subscription, mailbox: &Arc<Mailbox>) -> bool {
        let mut root = self.root.write().expect("no panic under this lock");
        let is_new = root.add(subscription, mailbox);
        self.generation.fetch_add(1, Ordering::Release);
        is_new
    }

    /// Removes subscriptions of a session.
    pub(super) fn remove<'a>(&self, filters: impl IntoIterator<Item = &'a Filter>, mailbox: &Arc<Mailbox>) {
        let mut root = self.root.write().expect("no panic under this lock");
        for filter in filters {
            root.remove(filter, mailbox);
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Where a message to a topic goes.
    ///
    /// `publisher`: the session that publishes it, for which its subscriptions with no local do not exist: of two
    /// that overlap, the other one decides (MQTT-3.8.3-3).
    pub(super) fn of(&self, topic: &str, publisher: Option<&Arc<Mailbox>>) -> Vec<Target> {
        let mut found = Vec::new();
        self.root.read().expect("no panic under this lock").find(topic, &mut found);
        let (mut own, mut targets) = (Vec::new(), Vec::new());
        for ending in found {
            match ending {
                Ending::Shared(_, group) => targets.push(Target::Shared(group)),
                Ending::One(held) => {
                    let is_local = || publisher.is_some_and(|mailbox| Arc::ptr_eq(mailbox, &held.mailbox));
                    if !held.options.no_local || !is_local() {
                        own.push(held);
                    }
                }
            }
        }
        own.sort_by_key(|held| Arc::as_ptr(&held.mailbox));
        let sessions = own.chunk_by(|one, other| Arc::ptr_eq(&one.mailbox, &other.mailbox));
        targets.extend(sessions.map(|held| Target::One(Subscriber::merge(held))));
        targets
    }
}

impl Subscriber {
    /// From the subscriptions of one session, at least one: the highest QoS (MQTT-3.3.4-2), all identifiers
    /// (MQTT-3.3.4-4), and RETAIN as published if one of them wants it.
    fn merge(held: &[Held]) -> Self {
        let [first, others @ ..] = held else { unreachable!("a chunk is never empty") };
        let mut merged = Self {
            mailbox: Arc::clone(&first.mailbox),
            qos: first.options.qos,
            retain_as_published: first.options.retain_as_published,
            identifiers: Identifiers::of(held.iter().filter_map(|held| held.identifier)),
        };
        for Held { options, .. } in others {
            merged.qos = merged.qos.max(options.qos);
            merged.retain_as_published |= options.retain_as_published;
        }
        merged
    }
}

impl Identifiers {
    /// All of these, also one that several subscriptions have (section 3.3.4).
    pub(super) fn of(identifiers: impl IntoIterator<Item = u32>) -> Self {
        let mut identifiers = identifiers.into_iter().peekable();
        Self(identifiers.peek().is_some().then(|| identifiers.collect()))
    }

    pub(super) fn as_slice(&self) -> &[u32] {
        self.0.as_deref().unwrap_or_default()
    }
}
