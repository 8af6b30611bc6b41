//! A shared subscription: each of its messages goes to one of the sessions that have it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Subscriber;
use crate::broker::outbox::Mailbox;

/// The sessions that share the messages of one filter under one name. It never changes, as publishers remember
/// it: who joins or leaves makes another one.
#[derive(Debug)]
pub(in crate::broker) struct Group {
    /// At least one.
    members: Vec<Subscriber>,
    /// Counts the messages. All publishers share it, and no lock.
    turn: AtomicUsize,
}

impl Group {
    pub(super) fn of(member: Subscriber) -> Self {
        Self { members: vec![member], turn: AtomicUsize::new(0) }
    }

    /// The group with one more member, or with what that one wants now, and whether it is new.
    pub(super) fn with(&self, member: Subscriber) -> (Self, bool) {
        let mut members = self.members.clone();
        let present = members.iter_mut().find(|other| Arc::ptr_eq(&other.mailbox, &member.mailbox));
        let is_new = present.is_none();
        match present {
            Some(present) => *present = member,
            None => members.push(member),
        }
        (self.continued(members), is_new)
    }

    /// The group without a session; `None` without its last one.
    pub(super) fn without(&self, mailbox: &Arc<Mailbox>) -> Option<Self> {
        let others = self.members.iter().filter(|member| !Arc::ptr_eq(&member.mailbox, mailbox));
        let others: Vec<_> = others.cloned().collect();
        (!others.is_empty()).then(|| self.continued(others))
    }

    fn continued(&self, members: Vec<Subscriber>) -> Self {
        Self { members, turn: AtomicUsize::new(self.turn.load(Ordering::Relaxed)) }
    }

    /// Whom the next message is for, best first: those online in turn, then anybody, in turn as well. A message
    /// goes to the first who can take it. Whoever is offline has a persistent session.
    pub(in crate::broker) fn in_turn(&self) -> impl Iterator<Item = &Subscriber> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let online = self.members.iter().filter(|member| member.mailbox.is_online());
        from(turn, online).chain(from(turn, self.members.iter()))
    }
}

/// All of them once, another one first at each turn.
fn from<T>(turn: usize, all: impl Iterator<Item = T> + Clone) -> impl Iterator<Item = T> {
    let count = all.clone().count();
    all.cycle().skip(turn % count.max(1)).take(count)
}
