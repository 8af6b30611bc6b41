//! The trie behind the subscriptions: a node a level.

use std::collections::HashMap;
use std::str::Split;
use std::sync::Arc;

use super::filter::{Filter, Options};
use super::group::Group;
use super::{Identifiers, Subscriber, Subscription};
use crate::broker::outbox::Mailbox;

/// What stands at the end of a filter.
#[derive(Debug, Clone)]
pub(super) enum Ending {
    /// A session's own subscription.
    One(Held),
    /// A shared one, with its name.
    Shared(Box<str>, Arc<Group>),
}

/// A session's own subscription.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) options: Options,
    pub(super) identifier: Option<u32>,
}

/// A level of the trie.
#[derive(Debug, Default)]
pub(super) struct Node {
    children: HashMap<Box<str>, Node>,
    /// `+`
    any: Option<Box<Node>>,
    /// Filters that end here.
    here: Vec<Ending>,
    /// Filters that end here in `#`.
    below: Vec<Ending>,
}

impl Node {
    /// Adds a subscription or changes it. Returns whether it is new.
    pub(super) fn add(&mut self, subscription: &Subscription, mailbox: &Arc<Mailbox>) -> bool {
        let Subscription { filter, options, identifier, .. } = subscription;
        let endings = self.endings_mut(filter.topics.as_str().split('/'));
        let present = endings.iter_mut().find(|ending| ending.is(filter, mailbox));
        let Some(name) = &filter.share else {
            let held = Held { mailbox: Arc::clone(mailbox), options: *options, identifier: *identifier };
            let is_new = present.is_none();
            match present {
                Some(present) => *present = Ending::One(held),
                None => endings.push(Ending::One(held)),
            }
            return is_new;
        };
        let member = Subscriber {
            mailbox: Arc::clone(mailbox),
            qos: options.qos,
            retain_as_published: options.retain_as_published,
            identifiers: Identifiers::of(identifier.iter().copied()),
        };
        match present {
            Some(Ending::Shared(_, group)) => {
                let (larger, is_new) = group.with(member);
                *group = Arc::new(larger);
                is_new
            }
            _ => {
                endings.push(Ending::Shared(name.clone(), Arc::new(Group::of(member))));
                true
            }
        }
    }

    fn endings_mut(&mut self, mut levels: Split<'_, char>) -> &mut Vec<Ending> {
        match levels.next() {
            None => &mut self.here,
            Some("#") => &mut self.below,
            Some("+") => self.any.get_or_insert_default().endings_mut(levels),
            Some(level) => self.children.entry(level.into()).or_default().endings_mut(levels),
        }
    }

    /// Removes a session's subscription, and the nodes that nobody needs then.
    pub(super) fn remove(&mut self, filter: &Filter, mailbox: &Arc<Mailbox>) {
        self.remove_below(filter.topics.as_str().split('/'), filter, mailbox);
    }

    fn remove_below(&mut self, mut levels: Split<'_, char>, filter: &Filter, mailbox: &Arc<Mailbox>) {
        match levels.next() {
            None => remove_ending(&mut self.here, filter, mailbox),
            Some("#") => remove_ending(&mut self.below, filter, mailbox),
            Some("+") => {
                self.any = self.any.take().and_then(|mut node| {
                    node.remove_below(levels, filter, mailbox);
                    (!node.is_empty()).then_some(node)
                });
            }
            Some(level) => {
                if let Some(node) = self.children.get_mut(level) {
                    node.remove_below(levels, filter, mailbox);
                    if node.is_empty() {
                        self.children.remove(level);
                    }
                }
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.children.is_empty() && self.any.is_none() && self.here.is_empty() && self.below.is_empty()
    }

    /// Finds what matches a topic.
    pub(super) fn find(&self, topic: &str, found: &mut Vec<Ending>) {
        // A leading wildcard does not match `$…` (MQTT-4.7.2-1).
        self.find_below(topic.split('/'), !topic.starts_with('$'), found);
    }

    fn find_below(&self, mut levels: Split<'_, char>, wildcards: bool, found: &mut Vec<Ending>) {
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
            node.find_below(levels.clone(), true, found);
        }
        if let Some(node) = self.children.get(level) {
            node.find_below(levels, true, found);
        }
    }
}

impl Ending {
    /// Whether a session's subscription with this filter belongs here, as its own or as one of a group.
    fn is(&self, filter: &Filter, mailbox: &Arc<Mailbox>) -> bool {
        match self {
            Self::One(held) => filter.share.is_none() && Arc::ptr_eq(&held.mailbox, mailbox),
            Self::Shared(name, _) => filter.share.as_ref() == Some(name),
        }
    }
}

fn remove_ending(endings: &mut Vec<Ending>, filter: &Filter, mailbox: &Arc<Mailbox>) {
    endings.retain_mut(|ending| {
        if !ending.is(filter, mailbox) {
            return true;
        }
        match ending {
            Ending::One(_) => false,
            Ending::Shared(_, group) => match group.without(mailbox) {
                Some(smaller) => {
                    *group = Arc::new(smaller);
                    true
                }
                None => false,
            },
        }
    });
}
