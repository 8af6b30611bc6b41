//! Which session has which client id.
//!
//! The key is the client id *and* the identity behind it: a device that takes another's client id
//! gets a session of its own and throws nobody out. Several sessions of one identity are fine.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::history::{Histories, SharedHistory};
use super::outbox::Mailbox;
use crate::authorize::Identity;

/// What a session is known by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct SessionKey {
    pub(super) identity: Identity,
    pub(super) client_id: Arc<str>,
}

/// What a session finds when it is entered.
#[derive(Debug)]
pub(super) struct Entered {
    /// There was one with its key.
    pub(super) took_over: bool,
    /// That one's, or what earlier ones have left.
    pub(super) history: SharedHistory,
}

/// All sessions.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<HashMap<SessionKey, Entry>>);

#[derive(Debug)]
struct Entry {
    mailbox: Arc<Mailbox>,
    history: SharedHistory,
}

impl Registry {
    /// Enters a session. The one that had its key until now is told to close (MQTT-3.1.4-2).
    pub(super) fn enter(&self, key: SessionKey, mailbox: &Arc<Mailbox>, histories: &Histories) -> Entered {
        let mut sessions = self.sessions();
        let older = sessions.remove(&key);
        let took_over = older.as_ref().map(|older| older.mailbox.take_over()).is_some();
        let history = older.map_or_else(|| histories.recall(&key), |older| older.history);
        sessions.insert(key, Entry { mailbox: Arc::clone(mailbox), history: Arc::clone(&history) });
        Entered { took_over, history }
    }

    /// Removes a session, unless a newer one has its key by now.
    pub(super) fn leave(&self, key: &SessionKey, mailbox: &Arc<Mailbox>) {
        let mut sessions = self.sessions();
        if sessions.get(key).is_some_and(|present| Arc::ptr_eq(&present.mailbox, mailbox)) {
            sessions.remove(key);
        }
    }

    /// Tells every session that what it may do has changed.
    pub(super) fn rules_changed(&self) {
        self.sessions().values().for_each(|session| session.mailbox.rules_changed());
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.sessions().len()
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<SessionKey, Entry>> {
        self.0.lock().expect("no panic under this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorize::IdentityKind;
    use crate::message::DeviceId;

    fn key(device: &str, kind: IdentityKind, client_id: &str) -> SessionKey {
        let identity = Identity { device: DeviceId::parse(device).unwrap(), kind };
        SessionKey { identity, client_id: client_id.into() }
    }

    fn taken_over(mailbox: &Mailbox) -> bool {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        matches!(mailbox.poll_calls(&mut cx), std::task::Poll::Ready(calls) if calls.taken_over())
    }

    #[test]
    fn the_newer_session_with_a_client_id_takes_over_and_the_older_does_not_remove_it() {
        let (registry, key) = (Registry::default(), key("plug", IdentityKind::Certificate, "+/#$"));
        let (older, newer) = (Arc::default(), Arc::default());
        let histories = Histories::default();
        let first = registry.enter(key.clone(), &older, &histories);
        let second = registry.enter(key.clone(), &newer, &histories);
        assert!(!first.took_over && second.took_over);
        assert!(Arc::ptr_eq(&first.history, &second.history), "also while the older is still there");
        assert!(taken_over(&older) && !taken_over(&newer));
        registry.leave(&key, &older);
        assert_eq!(registry.len(), 1);
        registry.leave(&key, &newer);
        assert_eq!(registry.len(), 0);
    }

    #[test]
    fn a_device_cannot_throw_another_out_by_taking_its_client_id() {
        let registry = Registry::default();
        let victim = Arc::default();
        let enter = |key, mailbox: &Arc<Mailbox>| registry.enter(key, mailbox, &Histories::default());
        enter(key("plug", IdentityKind::Certificate, "c"), &victim);
        enter(key("lamp", IdentityKind::Certificate, "c"), &Arc::default());
        enter(key("plug", IdentityKind::Anonymous, "c"), &Arc::default());
        assert!(!taken_over(&victim));
        assert_eq!(registry.len(), 3);
    }
}
