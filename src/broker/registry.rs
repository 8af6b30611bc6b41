//! Which session has which client id.
//!
//! The key is the client id *and* the identity behind it: a device that takes another's client id
//! gets a session of its own and throws nobody out. Several sessions of one identity are fine.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::history::{Histories, Hold, SharedHistory};
use super::kept::Restored;
use super::outbox::{Depot, Left, Line, Mailbox, Remains};
use crate::authorize::Identity;
use crate::clock::Clock;
use crate::config;
use crate::message::Stamp;

/// What a session is known by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct SessionKey {
    pub(super) identity: Identity,
    pub(super) client_id: Arc<str>,
}

/// The session that a client asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// Without what there is of an earlier one.
    pub(super) clean_start: bool,
    /// Seconds that it is to outlive its connection.
    pub(super) expiry: u32,
}

/// A session that was entered.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) line: Arc<Line>,
    pub(super) history: Hold,
    /// It is one that was kept.
    pub(super) present: bool,
    /// An older connection had it.
    pub(super) took_over: bool,
    /// Sessions that had to go for this one.
    pub(super) ended: Vec<Ended>,
}

/// A session that is no more: the caller takes its subscriptions and its records away.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) remains: Remains,
    /// QoS 2 publishes that were not released.
    pub(super) received: Vec<u16>,
    pub(super) was_kept: bool,
}

/// As many sessions are kept as may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no more sessions are kept (sessions.max_kept)")]
pub(super) struct TooMany;

/// All sessions.
#[derive(Debug)]
pub(super) struct Registry {
    settings: config::Sessions,
    depot: Arc<Depot>,
    sessions: Mutex<Sessions>,
}

#[derive(Debug, Default)]
struct Sessions {
    by_key: HashMap<SessionKey, Entry>,
    /// The number of the newest.
    last: u64,
}

#[derive(Debug)]
struct Entry {
    mailbox: Arc<Mailbox>,
    history: SharedHistory,
}

impl Entry {
    fn is_expired(&self, clock: &Clock) -> bool {
        self.mailbox
            .absence()
            .is_some_and(|(left, expiry)| clock.age(&left) >= Duration::from_secs(expiry.into()))
    }

    fn end(&self) -> Ended {
        let was_kept = self.mailbox.is_kept();
        let received = self.history.lock().expect("no panic under this lock").forget_received();
        Ended { mailbox: Arc::clone(&self.mailbox), remains: self.mailbox.close(), received, was_kept }
    }
}

impl Registry {
    pub(super) fn new(settings: &config::Sessions) -> Self {
        let depot = Depot::new(settings.clone());
        Self { settings: settings.clone(), depot, sessions: Mutex::default() }
    }

    /// What all mailboxes share.
    pub(super) fn depot(&self) -> &Arc<Depot> {
        &self.depot
    }

    /// Enters a session. The connection that had its key until now is told to close (MQTT-3.1.4-2 in 3.1.1,
    /// MQTT-3.1.4-3 in 5.0).
    ///
    /// # Errors
    /// When it is to be kept and there is no room for another.
    pub(super) fn enter(
        &self,
        key: &SessionKey,
        wanted: Wanted,
        histories: &Histories,
        clock: &Clock,
    ) -> Result<Entered, TooMany> {
        let mut sessions = self.sessions();
        let line = Arc::default();
        let older = sessions.by_key.get(key);
        let resumed =
            older.filter(|older| !wanted.clean_start && older.mailbox.outlives() && !older.is_expired(clock));
        if let Some(Entry { mailbox, history }) = resumed {
            let took_over = mailbox.connect(&line, wanted.expiry);
            let (mailbox, history) = (Arc::clone(mailbox), Hold::take(Arc::clone(history)));
            return Ok(Entered { mailbox, line, history, present: true, took_over, ended: Vec::new() });
        }
        let mut ended = Vec::new();
        if wanted.expiry > 0 {
            ended.extend(sessions.make_room(key, &self.settings)?);
        }
        let older = sessions.by_key.remove(key);
        let took_over = older.as_ref().is_some_and(|older| older.mailbox.is_online());
        ended.extend(older.as_ref().map(Entry::end));
        let history = older.map_or_else(|| histories.recall(key), |older| older.history);
        sessions.last += 1;
        let mailbox = Arc::new(Mailbox::new(sessions.last, self.depot.share(&key.identity), wanted.expiry));
        mailbox.connect(&line, wanted.expiry);
        let hold = Hold::take(Arc::clone(&history));
        sessions.by_key.insert(key.clone(), Entry { mailbox: Arc::clone(&mailbox), history });
        Ok(Entered { mailbox, line, history: hold, present: false, took_over, ended })
    }

    /// The connection of a session has ended.
    pub(super) fn leave(
        &self,
        key: &SessionKey,
        mailbox: &Arc<Mailbox>,
        line: &Arc<Line>,
        now: Stamp,
    ) -> (Left, Option<Ended>) {
        let mut sessions = self.sessions();
        let left = mailbox.leave(line, now);
        let ended = match left {
            Left::Ends => sessions.by_key.remove(key).as_ref().map(Entry::end),
            Left::Stays(_) | Left::Resumed | Left::Replaced => None,
        };
        (left, ended)
    }

    /// Takes back what an earlier process has left.
    pub(super) fn restore(&self, restored: Vec<Restored>, last: u64) {
        let mut sessions = self.sessions();
        sessions.last = sessions.last.max(last);
        for Restored { key, mailbox, history, .. } in restored {
            sessions.by_key.insert(key, Entry { mailbox, history });
        }
    }

    /// Ends the sessions whose clients have been away for too long.
    pub(super) fn sweep(&self, clock: &Clock) -> Vec<Ended> {
        let mut sessions = self.sessions();
        let expired = sessions.by_key.extract_if(|_, entry| entry.is_expired(clock));
        expired.map(|(_, entry)| entry.end()).collect()
    }

    /// Tells every session that what it may do has changed.
    pub(super) fn rules_changed(&self) {
        self.sessions().by_key.values().for_each(|session| session.mailbox.rules_changed());
    }

    /// How they are, now.
    pub(super) fn figures(&self) -> SessionFigures {
        let mut figures = SessionFigures::default();
        for Entry { mailbox, .. } in self.sessions().by_key.values() {
            let (messages, bytes) = mailbox.queued();
            figures.online += u64::from(mailbox.is_online());
            figures.kept += u64::from(mailbox.is_kept());
            figures.queued_messages += messages;
            figures.queued_bytes += bytes;
        }
        figures
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().expect("no panic under this lock")
    }
}

/// Sessions in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SessionFigures {
    pub(super) online: u64,
    pub(super) kept: u64,
    pub(super) queued_messages: u64,
    pub(super) queued_bytes: u64,
}

impl Sessions {
    /// Room for another session that is kept: of one identity's, the one goes that was left first.
    fn make_room(&mut self, key: &SessionKey, settings: &config::Sessions) -> Result<Option<Ended>, TooMany> {
        let others = || self.by_key.iter().filter(|(other, entry)| *other != key && entry.mailbox.is_kept());
        let own = || others().filter(|(other, _)| other.identity == key.identity);
        let mut ended = None;
        if own().count() >= settings.max_per_device {
            let absent = own().filter_map(|(key, entry)| Some((entry.mailbox.absence()?.0.boot_ms, key)));
            let first = absent.min_by_key(|(left, _)| *left).map(|(_, key)| key.clone());
            ended = first.and_then(|first| self.by_key.remove(&first)).as_ref().map(Entry::end);
            if ended.is_none() {
                return Err(TooMany);
            }
        } else if others().count() >= settings.max_kept {
            return Err(TooMany);
        }
        Ok(ended)
    }
}

#[cfg(test)]
mod tests;
