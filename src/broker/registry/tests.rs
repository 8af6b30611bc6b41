use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::authorize::IdentityKind;
use crate::message::DeviceId;

fn key(device: &str, kind: IdentityKind, client_id: &str) -> SessionKey {
    let identity = Identity { device: DeviceId::parse(device).unwrap(), kind };
    SessionKey { identity, client_id: client_id.into() }
}

fn plug(client_id: &str) -> SessionKey {
    key("plug", IdentityKind::Certificate, client_id)
}

struct Door {
    registry: Registry,
    histories: Histories,
    clock: Clock,
}

impl Door {
    fn new(settings: &config::Sessions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings_of_clock = config::Clock::default();
        let clock = Clock::start(&settings_of_clock, &dir.path().join("floor"), BTreeMap::new()).unwrap();
        Self { registry: Registry::new(settings), histories: Histories::default(), clock }
    }

    fn try_enter(&self, key: &SessionKey, clean_start: bool, expiry: u32) -> Result<Entered, TooMany> {
        self.registry.enter(key, Wanted { clean_start, expiry }, &self.histories, &self.clock)
    }

    fn enter(&self, key: &SessionKey, clean_start: bool, expiry: u32) -> Entered {
        self.try_enter(key, clean_start, expiry).unwrap()
    }

    fn leave(&self, key: &SessionKey, entered: &Entered) -> (Left, Option<Ended>) {
        self.registry.leave(key, &entered.mailbox, &entered.line, self.clock.stamp())
    }

    fn count(&self) -> usize {
        self.registry.sessions().by_key.len()
    }
}

impl Default for Door {
    fn default() -> Self {
        Self::new(&config::Sessions::default())
    }
}

fn taken_over(entered: &Entered) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    matches!(entered.line.poll_calls(&mut cx), Poll::Ready(calls) if calls.taken_over())
}

#[test]
fn the_newer_session_with_a_client_id_takes_over_and_the_older_does_not_remove_it() {
    let (door, key) = (Door::default(), plug("+/#$"));
    let first = door.enter(&key, true, 0);
    let second = door.enter(&key, true, 0);
    assert!(!first.took_over && second.took_over);
    assert!(first.history.lock().is_none(), "it takes nothing more");
    assert!(taken_over(&first) && !taken_over(&second));
    assert_eq!(door.leave(&key, &first).0, Left::Replaced);
    assert_eq!(door.count(), 1);
    assert_eq!(door.leave(&key, &second).0, Left::Ends);
    assert_eq!(door.count(), 0);
}

#[test]
fn a_device_cannot_throw_another_out_by_taking_its_client_id() {
    let door = Door::default();
    let victim = door.enter(&plug("c"), true, 0);
    door.enter(&key("lamp", IdentityKind::Certificate, "c"), true, 0);
    door.enter(&key("plug", IdentityKind::Anonymous, "c"), true, 0);
    assert!(!taken_over(&victim));
    assert_eq!(door.count(), 3);
}

#[test]
fn a_kept_session_is_resumed_unless_a_clean_one_is_asked_for() {
    let door = Door::default();
    let first = door.enter(&plug("c"), false, 60);
    assert!(!first.present);
    assert_eq!(door.leave(&plug("c"), &first).0, Left::Stays(60));
    let second = door.enter(&plug("c"), false, 60);
    assert!(second.present && !second.took_over && Arc::ptr_eq(&first.mailbox, &second.mailbox));
    let third = door.enter(&plug("c"), false, 60);
    assert!(third.present && third.took_over && taken_over(&second));
    assert_eq!(door.leave(&plug("c"), &second).0, Left::Resumed);
    let clean = door.enter(&plug("c"), true, 60);
    assert!(!clean.present && clean.took_over);
    assert!(clean.ended.iter().any(|ended| Arc::ptr_eq(&ended.mailbox, &third.mailbox) && ended.was_kept));
}

#[test]
fn a_session_that_ends_with_its_connection_is_not_resumed_by_the_next() {
    let door = Door::default();
    let first = door.enter(&plug("c"), true, 0);
    let second = door.enter(&plug("c"), false, 60);
    assert!(!second.present && second.took_over && taken_over(&first));
}

#[test]
fn a_session_ends_when_its_client_has_been_away_for_too_long() {
    let door = Door::default();
    let first = door.enter(&plug("c"), false, 60);
    let long_ago = Stamp { boot_ms: door.clock.stamp().boot_ms.saturating_sub(61_000), ..door.clock.stamp() };
    assert!(door.registry.sweep(&door.clock).is_empty());
    door.registry.leave(&plug("c"), &first.mailbox, &first.line, long_ago);
    let second = door.enter(&plug("c"), false, 60);
    assert!(!second.present, "it is over, swept or not");
    door.registry.leave(&plug("c"), &second.mailbox, &second.line, long_ago);
    assert_eq!(door.registry.sweep(&door.clock).len(), 1);
    assert_eq!(door.count(), 0);
}

#[test]
fn of_one_device_the_session_that_was_left_first_makes_room_for_another() {
    let door = Door::new(&config::Sessions { max_per_device: 2, max_kept: 3, ..config::Sessions::default() });
    let now = door.clock.stamp();
    for (n, id) in [(1, "a"), (0, "b")] {
        let entered = door.enter(&plug(id), false, 60);
        let left = Stamp { boot_ms: now.boot_ms - 1_000 + n, ..now };
        door.registry.leave(&plug(id), &entered.mailbox, &entered.line, left);
    }
    let third = door.enter(&plug("c"), false, 60);
    assert_eq!(third.ended.len(), 1);
    assert!(door.enter(&plug("a"), false, 60).present);
    assert!(door.try_enter(&plug("b"), false, 60).is_err(), "the others are not away");
    door.enter(&key("lamp", IdentityKind::Certificate, "a"), false, 60);
    assert_eq!(door.try_enter(&key("fan", IdentityKind::Certificate, "a"), false, 60).err(), Some(TooMany));
    assert!(door.try_enter(&key("fan", IdentityKind::Certificate, "a"), true, 0).is_ok());
}
