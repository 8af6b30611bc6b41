//! Every order of events: what must hold after each of them, and that the records alone make the same book.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::Index;

use super::book::{Age, Book, Now, Plan};
use super::{Said, Undelivered, Wanted};
use crate::buffer::{Change, Mark, RecordKey};
use crate::config;
use crate::message::{BootId, ClockQuality, CommandId, DeviceId, Qos, Stamp, Topic};
use crate::relay::{FailedIf, NewCommand, Origin, Reply, SharedCommand, Source, State, record};

const QOS: [Qos; 3] = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];

#[derive(Debug, Clone)]
enum Event {
    Accept { device: u8, key: Option<u8>, reply: bool, reference: Option<u8>, good_for: u8, bytes: u8 },
    Take { device: u8, qos: Index },
    Written(Index),
    Acked(Index),
    Back(Index, u8),
    Reply { device: u8, to: Option<Index>, fails: bool, again: bool },
    Cancel(Index),
    Reported(Index),
    Sweep,
    Time(u8),
    Reboot { is_right: bool },
    Restart { keeps: Vec<bool> },
}

fn event() -> impl Strategy<Value = Event> {
    let index = any::<Index>;
    let accept =
        (0..3_u8, prop::option::of(0..2_u8), any::<bool>(), prop::option::of(0..20_u8), 0..60_u8, 0..40_u8)
            .prop_map(|(device, key, reply, reference, good_for, bytes)| Event::Accept {
                device,
                key,
                reply,
                reference,
                good_for,
                bytes,
            });
    prop_oneof![
        6 => accept,
        6 => (0..3_u8, index()).prop_map(|(device, qos)| Event::Take { device, qos }),
        1 => index().prop_map(Event::Written),
        3 => index().prop_map(Event::Acked),
        3 => (index(), 0..5_u8).prop_map(|(which, why)| Event::Back(which, why)),
        3 => (0..3_u8, prop::option::of(index()), any::<bool>(), any::<bool>())
            .prop_map(|(device, to, fails, again)| Event::Reply { device, to, fails, again }),
        1 => index().prop_map(Event::Cancel),
        1 => index().prop_map(Event::Reported),
        2 => Just(Event::Sweep),
        4 => any::<u8>().prop_map(Event::Time),
        1 => any::<bool>().prop_map(|is_right| Event::Reboot { is_right }),
        1 => prop::collection::vec(any::<bool>(), 0..8).prop_map(|keeps| Event::Restart { keeps }),
    ]
}

fn settings() -> config::Commands {
    config::Commands {
        max_open_per_device: 4,
        max_open: 8,
        max_payload_bytes: 30,
        max_total_bytes: 16 * 1024,
        max_good_for: Duration::from_millis(50),
        max_finished: 6,
        keep_finished: Duration::from_millis(400),
        ..config::Commands::default()
    }
}

/// A book, what of it is on disk, and the world around it.
struct World {
    book: Book,
    disk: BTreeMap<RecordKey, Vec<u8>>,
    ids: Vec<CommandId>,
    wall_ms: u64,
    booted_ms: u64,
    boot: u8,
    /// The wall clock can be trusted, now and in the boots before.
    is_right: bool,
}

impl World {
    fn new() -> Self {
        Self {
            book: Book::new(settings()),
            disk: BTreeMap::new(),
            ids: Vec::new(),
            wall_ms: 1_000_000,
            booted_ms: 1_000_000,
            boot: 0,
            is_right: true,
        }
    }

    fn stamp(&self) -> Stamp {
        Stamp {
            wall_ms: i64::try_from(self.wall_ms).unwrap(),
            boot_ms: self.wall_ms - self.booted_ms,
            boot: BootId([self.boot; 16]),
            quality: ClockQuality::Synchronized,
        }
    }

    /// How old a command is, whatever anybody knows.
    fn true_age(&self, command: &SharedCommand) -> Duration {
        Duration::from_millis(self.wall_ms - u64::try_from(command.accepted().wall_ms).unwrap())
    }

    fn with<T>(&mut self, work: impl FnOnce(&mut Book, &Now<'_>) -> T) -> T {
        let now = self.stamp();
        let is_right = self.is_right;
        let age = |stamp: &Stamp| {
            let since_boot = Duration::from_millis(now.boot_ms);
            let age = Duration::from_millis(u64::try_from(now.wall_ms - stamp.wall_ms).unwrap());
            if stamp.boot == now.boot || is_right { Age::Known(age) } else { Age::AtLeast(since_boot) }
        };
        work(&mut self.book, &Now { at: now, age: &age })
    }

    fn pick(&self, index: &Index) -> Option<CommandId> {
        (!self.ids.is_empty()).then(|| *index.get(&self.ids))
    }

    fn put(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Put(key, value) => drop(self.disk.insert(key, value)),
                Change::Remove(key) => drop(self.disk.remove(&key)),
            }
        }
    }

    fn all(&self) -> Vec<SharedCommand> {
        self.book.list(&Wanted::default(), None, usize::MAX).commands
    }

    fn play(&mut self, event: &Event) {
        let device = |number: u8| DeviceId::parse(&format!("d{number}")).unwrap();
        match event {
            Event::Accept { device: to, key, reply, reference, good_for, bytes } => {
                let reply_topic = Topic::parse("reply").unwrap();
                let new = NewCommand {
                    device: device(*to),
                    topic: Topic::parse("cmd").unwrap(),
                    payload: Bytes::from(vec![b'x'; usize::from(*bytes)]),
                    qos: Qos::AtLeastOnce,
                    origin: Origin {
                        source: Source::Api,
                        name: "n".into(),
                        reference: reference.map(|reference| reference.to_string().into()),
                    },
                    key: key.map(|key| key.to_string().into()),
                    good_for: Duration::from_millis((*good_for).into()),
                    reply: reply.then(|| Reply { topic: reply_topic, failed_if: FailedIf::default() }),
                };
                match self.with(|book, now| book.plan(new, None, now)) {
                    Plan::Known(command, _) => assert!(command.origin.reference.is_some()),
                    Plan::Keep(planned) => {
                        self.put(planned.changes());
                        let command = self.book.carry_out(*planned, false, Mark::default());
                        self.ids.push(command.id);
                    }
                }
            }
            Event::Take { device: to, qos } => {
                let waiting = self.with(|book, now| book.waiting(&device(*to), now));
                for command in waiting.iter().take(2) {
                    assert_eq!(command.state, State::Queued);
                    assert!(self.true_age(command) < command.good_for, "a late command is handed out");
                    let granted = *qos.get(&QOS);
                    let sent = self.with(|book, now| book.handed_over(command.id, granted, now)).unwrap();
                    self.put(vec![Change::Put(record::key(sent.id), record::encode(&sent))]);
                    self.book.replace(sent, Mark::default());
                }
            }
            Event::Written(index) => {
                if let Some(id) = self.pick(index) {
                    self.with(|book, now| book.written(id, now));
                }
            }
            Event::Acked(index) => {
                if let Some(id) = self.pick(index) {
                    self.with(|book, now| book.acked(id, now));
                }
            }
            Event::Back(index, why) => {
                let why = match why {
                    0 => Undelivered::Unwritten,
                    1 => Undelivered::Unconfirmed,
                    2 => Undelivered::TooLarge,
                    3 => Undelivered::Forbidden,
                    _ => Undelivered::Refused("no".into()),
                };
                if let Some(id) = self.pick(index) {
                    self.with(|book, now| book.undelivered(id, &why, now));
                }
            }
            Event::Reply { device: from, to, fails, again } => {
                let id = to.as_ref().and_then(|to| self.pick(to)).map(|id| id.to_string());
                let said = Said {
                    device: &device(*from),
                    topic: "reply",
                    correlation: id.as_ref().map(String::as_bytes),
                    payload: if *fails { b"error" } else { b"ok" },
                    is_repetition: *again,
                    is_unrepeatable: false,
                };
                if let Some(command) = self.with(|book, now| book.answered(&said, now)) {
                    assert_eq!(command.state, if *fails { State::Failed } else { State::Done });
                    assert_eq!(command.device, device(*from));
                    self.put(vec![Change::Put(record::key(command.id), record::encode(&command))]);
                    self.book.replace(command, Mark::default());
                }
            }
            Event::Cancel(index) => {
                if let Some(id) = self.pick(index) {
                    self.with(|book, now| book.cancel(id, now).ok());
                }
            }
            Event::Reported(index) => {
                if let Some(id) = self.pick(index)
                    && let Some(state) = self.book.get(id).map(|command| command.state)
                {
                    self.book.reported(id, state);
                }
            }
            Event::Sweep => self.with(Book::sweep),
            Event::Time(ms) => self.wall_ms += u64::from(*ms),
            Event::Reboot { is_right } => {
                self.boot += 1;
                self.booted_ms = self.wall_ms;
                self.is_right = *is_right;
            }
            Event::Restart { keeps } => self.restart(keeps),
        }
    }

    /// Another process finds what is on disk. Of what was sent, some sessions were kept.
    fn restart(&mut self, keeps: &[bool]) {
        let before: Vec<_> = self.all();
        let mut book = Book::new(settings());
        book.restore(self.disk.iter().map(|(key, value)| {
            let command = before.iter().find(|command| record::key(command.id) == *key);
            (Box::from(&command.expect("what is forgotten is not on disk").id.as_bytes()[..]), value.clone())
        }));
        let (known, restored) = (self.book.figures(), book.figures());
        assert_eq!((known.queued, known.sent, known.acked), (restored.queued, restored.sent, restored.acked));
        assert_eq!((known.kept, known.bytes, restored.unreadable), (restored.kept, restored.bytes, 0));
        assert_eq!(self.book.awaited(), book.awaited());
        let unreported = |book: &Book| book.unreported(Source::Api, "n", usize::MAX);
        assert_eq!(unreported(&self.book), unreported(&book));
        self.book = book;
        assert_eq!(self.all(), before);
        let sent: Vec<_> = before.iter().filter(|command| command.state == State::Sent).collect();
        let kept =
            sent.iter().zip(keeps).filter(|(_, keeps)| **keeps).map(|(command, _)| command.id).collect();
        self.with(|book, now| book.return_unclaimed(&kept, now));
        for command in self.all() {
            assert!(command.state != State::Sent || kept.contains(&command.id));
        }
    }

    /// What holds always.
    fn check(&self, before: &BTreeMap<CommandId, SharedCommand>) {
        let all = self.all();
        for command in &all {
            let records = self.disk.get(&record::key(command.id));
            assert_eq!(records, Some(&record::encode(command)), "memory and disk say the same");
            let Some(earlier) = before.get(&command.id) else { continue };
            if earlier.state.is_final() {
                assert_eq!(earlier.state, command.state, "an end is the end");
                assert_eq!((&earlier.reason, &earlier.result), (&command.reason, &command.result));
            }
            if earlier.state == State::Acked {
                assert!(matches!(command.state, State::Acked | State::Done | State::Failed), "{command:?}");
            }
            assert!(command.attempts >= earlier.attempts);
        }
        assert_eq!(self.disk.len(), all.len());
        let open: Vec<_> = all.iter().filter(|command| !command.state.is_final()).collect();
        let settings = settings();
        assert!(open.len() <= settings.max_open);
        for command in &open {
            let same = open.iter().filter(|other| other.device == command.device);
            assert!(same.count() <= settings.max_open_per_device);
            let waits_too = |other: &&&SharedCommand| {
                other.state == State::Queued && other.device == command.device && other.key == command.key
            };
            let keyed = command.key.is_some() && command.state == State::Queued;
            assert!(!keyed || open.iter().filter(waits_too).count() == 1, "of one key one waits");
        }
        assert!(all.len() - open.len() <= settings.max_finished);
        assert!(self.book.figures().bytes <= settings.max_total_bytes + 4 * 1024);
        let awaited = open.iter().filter(|command| command.reply.is_some()).count();
        assert_eq!(self.book.awaited(), awaited);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_an_end_is_the_end_and_nothing_is_handed_out_late(
        events in prop::collection::vec(event(), 1..120)
    ) {
        let mut world = World::new();
        for event in &events {
            let before = world.all().into_iter().map(|command| (command.id, command)).collect();
            world.play(event);
            let changes = world.book.unsaved();
            world.put(changes);
            world.book.saved_at(Mark::default());
            world.check(&before);
        }
    }

    #[test]
    fn a_record_that_was_cut_is_none_and_a_damaged_one_does_no_harm(
        event in event(), cut in 1..400_usize, at in any::<Index>(), to: u8
    ) {
        let mut world = World::new();
        world.play(&event);
        for command in world.all() {
            let key = command.id.as_bytes();
            let mut whole = record::encode(&command);
            prop_assert_eq!(record::decode(key, &whole), Some((*command).clone()));
            prop_assert_eq!(record::decode(key, &whole[..whole.len().saturating_sub(cut)]), None);
            let at = at.index(whole.len());
            whole[at] = to;
            record::decode(key, &whole);
        }
    }
}
