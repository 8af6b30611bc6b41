//! Who wants which topics: a trie with a node a level.

use std::collections::HashMap;
use std::str::Split;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use super::outbox::Mailbox;
use crate::message::{Qos, TopicFilter};

/// The deepest filter. It bounds the depth of the trie, and with it every recursion.
const MAX_LEVELS: usize = 128;

/// The longest filter, so that a connection's filters take little memory.
const MAX_BYTES: usize = 1_024;

/// A subscriber of a topic.
#[derive(Debug, Clone)]
pub(super) struct Subscriber {
    pub(super) mailbox: Arc<Mailbox>,
    /// The quality of service that it was granted.
    pub(super) qos: Qos,
}

/// All subscriptions of all sessions.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    root: RwLock<Node>,
    generation: AtomicU64,
}

#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, Node>,
    /// `+`
    any: Option<Box<Node>>,
    /// Filters that end here.
    here: Vec<Subscriber>,
    /// Filters that end here in `#`.
    below: Vec<Subscriber>,
}

impl Subscriptions {
    /// Whether a filter is neither too long nor too deep.
    pub(super) fn can_hold(filter: &TopicFilter) -> bool {
        filter.as_str().len() <= MAX_BYTES && filter.as_str().split('/').count() <= MAX_LEVELS
    }

    /// Grows with every change: what was looked up before must be looked up again.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Adds a subscription; it replaces one of the same session with the same filter (MQTT-3.8.4-3).
    pub(super) fn add(&self, filter: &TopicFilter, subscriber: Subscriber) {
        let mut root = self.root.write().expect("no panic under this lock");
        let list = root.list_mut(filter.as_str().split('/'));
        match list.iter_mut().find(|other| Arc::ptr_eq(&other.mailbox, &subscriber.mailbox)) {
            Some(other) => *other = subscriber,
            None => list.push(subscriber),
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Removes subscriptions of a session.
    pub(super) fn remove<'a>(
        &self,
        filters: impl IntoIterator<Item = &'a TopicFilter>,
        mailbox: &Arc<Mailbox>,
    ) {
        let mut root = self.root.write().expect("no panic under this lock");
        for filter in filters {
            root.remove(filter.as_str().split('/'), mailbox);
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The subscribers of a topic, each once, with the highest QoS of its matching filters (MQTT-3.3.5-1).
    pub(super) fn of(&self, topic: &str) -> Vec<Subscriber> {
        let mut found = Vec::new();
        let root = self.root.read().expect("no panic under this lock");
        // A leading wildcard does not match `$…` (MQTT-4.7.2-1).
        root.collect(topic.split('/'), !topic.starts_with('$'), &mut found);
        drop(root);
        found.sort_by_key(|subscriber| (Arc::as_ptr(&subscriber.mailbox), std::cmp::Reverse(subscriber.qos)));
        found.dedup_by(|later, earlier| Arc::ptr_eq(&later.mailbox, &earlier.mailbox));
        found
    }
}

impl Node {
    fn list_mut(&mut self, mut levels: Split<'_, char>) -> &mut Vec<Subscriber> {
        match levels.next() {
            None => &mut self.here,
            Some("#") => &mut self.below,
            Some("+") => self.any.get_or_insert_default().list_mut(levels),
            Some(level) => self.children.entry(level.into()).or_default().list_mut(levels),
        }
    }

    fn remove(&mut self, mut levels: Split<'_, char>, mailbox: &Arc<Mailbox>) {
        let theirs = |subscriber: &Subscriber| Arc::ptr_eq(&subscriber.mailbox, mailbox);
        match levels.next() {
            None => self.here.retain(|subscriber| !theirs(subscriber)),
            Some("#") => self.below.retain(|subscriber| !theirs(subscriber)),
            Some("+") => {
                self.any = self.any.take().and_then(|mut node| {
                    node.remove(levels, mailbox);
                    (!node.is_empty()).then_some(node)
                });
            }
            Some(level) => {
                if let Some(node) = self.children.get_mut(level) {
                    node.remove(levels, mailbox);
                    if node.is_empty() {
                        self.children.remove(level);
                    }
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.any.is_none() && self.here.is_empty() && self.below.is_empty()
    }

    fn collect(&self, mut levels: Split<'_, char>, wildcards: bool, found: &mut Vec<Subscriber>) {
        if wildcards {
            // `a/#` matches `a` as well (section 4.7.1.2): hence before the next level is looked at.
            found.extend_from_slice(&self.below);
        }
        let Some(level) = levels.next() else {
            found.extend_from_slice(&self.here);
            return;
        };
        if let Some(node) = &self.any
            && wildcards
        {
            node.collect(levels.clone(), true, found);
        }
        if let Some(node) = self.children.get(level) {
            node.collect(levels, true, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text).unwrap()
    }

    fn subscriber(qos: Qos) -> Subscriber {
        Subscriber { mailbox: Arc::default(), qos }
    }

    #[test]
    fn overlapping_filters_of_a_session_give_one_delivery_with_the_highest_qos() {
        let subscriptions = Subscriptions::default();
        let both = subscriber(Qos::AtMostOnce);
        subscriptions.add(&filter("a/#"), both.clone());
        subscriptions.add(&filter("a/+"), Subscriber { qos: Qos::AtLeastOnce, ..both.clone() });
        subscriptions.add(&filter("a/b"), both.clone());
        subscriptions.add(&filter("a/b"), subscriber(Qos::AtMostOnce));
        let found = subscriptions.of("a/b");
        assert_eq!(found.len(), 2);
        let found = found.iter().find(|found| Arc::ptr_eq(&found.mailbox, &both.mailbox)).unwrap();
        assert_eq!(found.qos, Qos::AtLeastOnce);
    }

    #[test]
    fn a_second_subscription_with_the_same_filter_replaces_the_first() {
        let subscriptions = Subscriptions::default();
        let session = subscriber(Qos::AtLeastOnce);
        subscriptions.add(&filter("a"), session.clone());
        subscriptions.add(&filter("a"), Subscriber { qos: Qos::AtMostOnce, ..session });
        assert_eq!(subscriptions.of("a")[0].qos, Qos::AtMostOnce);
    }

    #[test]
    fn what_is_removed_leaves_nothing_behind() {
        let subscriptions = Subscriptions::default();
        let (gone, stays) = (subscriber(Qos::AtMostOnce), subscriber(Qos::AtMostOnce));
        let filters = [filter("a/b/c"), filter("a/+/c"), filter("#"), filter("a/#")];
        for filter in &filters {
            subscriptions.add(filter, gone.clone());
        }
        subscriptions.add(&filter("a/b"), stays.clone());
        let before = subscriptions.generation();
        subscriptions.remove(&filters, &gone.mailbox);
        assert_ne!(subscriptions.generation(), before);
        assert!(subscriptions.of("a/b/c").is_empty());
        assert_eq!(subscriptions.of("a/b").len(), 1);
        subscriptions.remove([&filter("a/b")], &stays.mailbox);
        assert!(subscriptions.root.read().unwrap().is_empty());
    }

    #[test]
    fn a_filter_that_is_too_deep_or_too_long_is_not_held() {
        assert!(Subscriptions::can_hold(&filter(&"/".repeat(MAX_LEVELS - 1))));
        assert!(!Subscriptions::can_hold(&filter(&"/".repeat(MAX_LEVELS))));
        assert!(Subscriptions::can_hold(&filter(&"a".repeat(MAX_BYTES))));
        assert!(!Subscriptions::can_hold(&filter(&"a".repeat(MAX_BYTES + 1))));
    }

    proptest! {
        /// The trie against the definition of a match in `message`.
        #[test]
        fn the_trie_finds_what_matches_and_nothing_else(
            filters in prop::collection::vec("(\\$?[ab+]?/){0,3}([ab+#]|\\$a)?", 1..8),
            topic in "(\\$?[ab]?/){0,3}[ab]?",
        ) {
            let filters: Vec<_> = filters.iter().filter_map(|text| TopicFilter::parse(text).ok()).collect();
            let subscriptions = Subscriptions::default();
            let wanting: Vec<_> = filters.iter().map(|filter| {
                let subscriber = subscriber(Qos::AtMostOnce);
                subscriptions.add(filter, subscriber.clone());
                (filter, subscriber)
            }).collect();
            let found = subscriptions.of(&topic);
            for (filter, subscriber) in wanting {
                let hit = found.iter().any(|found| Arc::ptr_eq(&found.mailbox, &subscriber.mailbox));
                prop_assert_eq!(hit, filter.matches(&topic), "{} {}", filter, topic);
            }
        }
    }
}
