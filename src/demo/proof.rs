//! What must hold at the end, worked out from the far ends alone: what devices know to be acknowledged,
//! what the cloud has, and what the store has kept as dead letters. The gateway's own figures come last,
//! and have to agree.

use std::collections::{BTreeMap, BTreeSet};

use super::cloud::{Entry, Row};
use super::device::{Key, Message};
use crate::buffer::{DeadLetter, DropReason, SinkFigures};

/// Everything that was gathered at the ends of the path.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// What the devices have sent.
    pub(super) messages: Vec<Message>,
    /// What Supabase has.
    pub(super) rows: Vec<Row>,
    /// What ThingSpeak has.
    pub(super) entries: Vec<Entry>,
    /// Which device has which field there.
    pub(super) fields: BTreeMap<String, String>,
    /// What the store has kept because a sink cannot use it.
    pub(super) letters: Vec<DeadLetter>,
    /// The gateway's own figures, by sink.
    pub(super) figures: BTreeMap<String, SinkFigures>,
    /// What Supabase and ThingSpeak were sent a second time, and did not store.
    pub(super) sent_again: [u64; 2],
}

/// What became of the messages that a device knows to be acknowledged, at one sink.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Fate {
    /// They are there.
    pub(super) delivered: u64,
    /// They are dead letters, with a reason.
    pub(super) dead_letters: u64,
    /// They have nothing that this sink is to be given.
    pub(super) not_for_it: u64,
    /// They share their second with others that are there.
    pub(super) collided: u64,
    /// They are nowhere.
    pub(super) missing: u64,
}

/// The verdict.
#[derive(Debug)]
pub(super) struct Proof {
    pub(super) supabase: Fate,
    pub(super) thingspeak: Fate,
    /// Messages that are stored under two sequence numbers because their device sent them twice.
    pub(super) sent_twice: u64,
    /// What does not hold, in words. Empty: everything does.
    pub(super) broken: Vec<String>,
}

/// A reading that the gateway heard, with its second.
struct Heard<'a> {
    device: &'a str,
    key: Key,
    at_s: i64,
}

impl Evidence {
    /// Follows every message from its device to its end.
    pub(super) fn examine(&self) -> Proof {
        let heard = self.heard();
        let at_supabase = count(self.rows.iter().map(key_of_row));
        let refused_there = self.letters_of("supabase");
        let stored = added(&at_supabase, &refused_there);

        let supabase = self.fate_at_supabase(&at_supabase, &refused_there);
        let thingspeak = self.fate_at_thingspeak(&heard);
        let mut broken = Vec::new();
        self.check_duplicates(&stored, &mut broken);
        self.check_figures("supabase", supabase, Some(self.rows.len() as u64), &mut broken);
        self.check_figures("thingspeak", thingspeak, None, &mut broken);
        let sent_twice =
            stored.iter().filter(|(key, _)| key.number.is_some()).map(|(_, times)| times - 1).sum();
        Proof { supabase, thingspeak, sent_twice, broken }
    }

    fn acked(&self) -> impl Iterator<Item = &Message> {
        self.messages.iter().filter(|message| message.acked)
    }

    /// Dead letters of a sink: those it refused, and those that no sink can use.
    fn letters_of(&self, sink: &str) -> BTreeMap<Key, u64> {
        let its = |letter: &&DeadLetter| letter.sink.as_ref().is_none_or(|name| name.as_str() == sink);
        count(self.letters.iter().filter(its).map(key_of_letter))
    }

    fn heard(&self) -> Vec<Heard<'_>> {
        let rows = self.rows.iter().filter_map(|row| {
            let at_s = super::cloud::unix_seconds(row.text("received_at")?)?;
            Some(Heard { device: row.text("device")?, key: key_of_row(row), at_s })
        });
        let refused = self
            .letters
            .iter()
            .filter(|letter| letter.sink.as_ref().is_some_and(|s| s.as_str() == "supabase"));
        let refused = refused.map(|letter| Heard {
            device: letter.reading.device.as_str(),
            key: key_of_letter(letter),
            at_s: letter.reading.received.wall_ms.div_euclid(1_000),
        });
        rows.chain(refused).collect()
    }

    fn fate_at_supabase(&self, rows: &BTreeMap<Key, u64>, letters: &BTreeMap<Key, u64>) -> Fate {
        let mut fate = Fate::default();
        for (key, acked) in count(self.acked().map(|message| message.key.clone())) {
            let delivered = acked.min(rows.get(&key).copied().unwrap_or(0));
            let dead_letters = (acked - delivered).min(letters.get(&key).copied().unwrap_or(0));
            fate.delivered += delivered;
            fate.dead_letters += dead_letters;
            fate.missing += acked - delivered - dead_letters;
        }
        fate
    }

    /// A channel keeps one entry a second, with the mean of what a device sent in it. So a reading is there
    /// if its second is, and the device's field in it is the mean of all its readings of that second.
    fn fate_at_thingspeak(&self, heard: &[Heard<'_>]) -> Fate {
        let letters = self.letters_of("thingspeak");
        let mut seconds: BTreeMap<(i64, &str), Vec<u64>> = BTreeMap::new();
        for reading in heard {
            if let Some(number) = reading.key.number
                && !letters.contains_key(&reading.key)
            {
                seconds.entry((reading.at_s, reading.device)).or_default().push(number);
            }
        }
        let entries: BTreeMap<i64, &Entry> =
            self.entries.iter().map(|entry| (entry.created_at, entry)).collect();
        let holds = |second: &(i64, &str), numbers: &Vec<u64>| {
            #[allow(clippy::cast_precision_loss, reason = "message numbers are small")]
            let mean = numbers.iter().sum::<u64>() as f64 / numbers.len() as f64;
            let value = self.value_at(&entries, *second)?;
            Some((value - mean).abs() < 0.01)
        };
        // Of a message that is stored twice, one is enough.
        let mut ends: BTreeMap<&Key, Option<bool>> = BTreeMap::new();
        for reading in heard {
            let second = (reading.at_s, reading.device);
            let end = seconds.get(&second).and_then(|numbers| holds(&second, numbers));
            let best = ends.entry(&reading.key).or_default();
            *best = end.max(*best);
        }

        let mut fate = Fate::default();
        for (key, acked) in count(self.acked().map(|message| message.key.clone())) {
            let dead_letters = acked.min(letters.get(&key).copied().unwrap_or(0));
            let rest = acked - dead_letters;
            fate.dead_letters += dead_letters;
            match (key.number, ends.get(&key)) {
                (None, _) => fate.not_for_it += rest,
                (Some(_), Some(Some(true))) => fate.delivered += rest,
                (Some(_), Some(Some(false))) => fate.collided += rest,
                (Some(_), _) => fate.missing += rest,
            }
        }
        fate
    }

    fn value_at(&self, entries: &BTreeMap<i64, &Entry>, (second, device): (i64, &str)) -> Option<f64> {
        entries.get(&second)?.values.get(self.fields.get(device)?)?.parse().ok()
    }

    /// Nothing may be stored twice under one key, and nothing more often than it was sent.
    fn check_duplicates(&self, stored: &BTreeMap<Key, u64>, broken: &mut Vec<String>) {
        let names = ["gateway_id", "epoch", "seq"];
        let keys: BTreeSet<_> = self.rows.iter().map(|row| names.map(|name| row.text(name))).collect();
        if keys.len() != self.rows.len() {
            broken.push(format!("supabase: {} rows have a key twice", self.rows.len() - keys.len()));
        }
        let seconds: BTreeSet<_> = self.entries.iter().map(|entry| entry.created_at).collect();
        if seconds.len() != self.entries.len() {
            broken.push("thingspeak: a second has two entries".to_owned());
        }
        let mut sent: BTreeMap<&Key, u64> = BTreeMap::new();
        for message in &self.messages {
            *sent.entry(&message.key).or_default() += message.transmissions;
        }
        for (key, times) in stored {
            let sent = sent.get(key).copied().unwrap_or(0);
            if *times > sent {
                broken.push(format!("{} was sent {sent} times and stored {times} times", key.topic));
            }
        }
    }

    /// The gateway's word has to agree with what is there.
    fn check_figures(&self, sink: &str, fate: Fate, there: Option<u64>, broken: &mut Vec<String>) {
        if fate.missing > 0 {
            broken.push(format!("{sink}: {} acknowledged messages are missing", fate.missing));
        }
        let Some(figures) = self.figures.get(sink) else {
            broken.push(format!("{sink}: the gateway has no figures for it"));
            return;
        };
        let dropped: u64 = figures.dropped.values().sum();
        if figures.accepted != figures.delivered + figures.pending + dropped {
            broken.push(format!("{sink}: accepted is not delivered + pending + dropped"));
        }
        if figures.pending > 0 {
            broken.push(format!("{sink}: {} readings still wait", figures.pending));
        }
        if let Some(there) = there.filter(|there| *there != figures.delivered) {
            broken.push(format!("{sink}: it has {there} readings, the gateway says {}", figures.delivered));
        }
        if fate.collided > figures.dropped.get(&DropReason::Collision).copied().unwrap_or(0) {
            broken.push(format!("{sink}: {} readings are not in their second's mean", fate.collided));
        }
    }
}

fn key_of_row(row: &Row) -> Key {
    Key::of(row.text("topic").unwrap_or_default(), row.text("payload").unwrap_or_default().as_bytes())
}

fn key_of_letter(letter: &DeadLetter) -> Key {
    Key::of(&letter.reading.topic, &letter.reading.payload)
}

fn count(keys: impl Iterator<Item = Key>) -> BTreeMap<Key, u64> {
    let mut counts = BTreeMap::new();
    for key in keys {
        *counts.entry(key).or_default() += 1;
    }
    counts
}

fn added(left: &BTreeMap<Key, u64>, right: &BTreeMap<Key, u64>) -> BTreeMap<Key, u64> {
    let mut sum = left.clone();
    for (key, times) in right {
        *sum.entry(key.clone()).or_default() += times;
    }
    sum
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::message::{BootId, ClockQuality, DeviceId, Qos, Reading, Stamp};

    fn message(topic: &str, number: Option<u64>, transmissions: u64) -> Message {
        let key = Key { topic: topic.to_owned(), number };
        Message { key, at_least_once: true, transmissions, acked: true }
    }

    fn row(seq: &str, topic: &str, payload: &str, second: u8) -> Row {
        let at = format!("2026-01-01 00:00:{second:02}.9+00");
        Row::of(&[
            ("gateway_id", "g"),
            ("epoch", "1"),
            ("seq", seq),
            ("device", "a"),
            ("topic", topic),
            ("payload", payload),
            ("received_at", &at),
        ])
    }

    fn entry(second: i64, mean: &str) -> Entry {
        let values = BTreeMap::from([("field1".to_owned(), mean.to_owned())]);
        Entry { created_at: 1_767_225_600 + second, values }
    }

    fn letter(topic: &str, payload: &'static str) -> DeadLetter {
        let received =
            Stamp { wall_ms: 0, boot_ms: 0, boot: BootId([0; 16]), quality: ClockQuality::Synchronized };
        let reading = Reading {
            seq: 9,
            epoch: 1,
            device: DeviceId::parse("a").unwrap(),
            stream: "readings".into(),
            topic: topic.into(),
            payload: Bytes::from_static(payload.as_bytes()),
            qos: Qos::AtLeastOnce,
            received,
            fault: None,
        };
        DeadLetter { reading, reason: "not JSON".to_owned(), sink: None }
    }

    fn figures(accepted: u64, delivered: u64, unfit: u64, nothing_mapped: u64) -> SinkFigures {
        let dropped =
            BTreeMap::from([(DropReason::Unfit, unfit), (DropReason::NothingMapped, nothing_mapped)]);
        SinkFigures { accepted, delivered, pending: 0, dropped }
    }

    /// Three numbered messages, one of them stored twice; a bare number; one that is not JSON.
    fn conserved() -> Evidence {
        Evidence {
            messages: vec![
                message("a/r", Some(1), 1),
                message("a/r", Some(2), 2),
                message("a/r", Some(3), 1),
                message("a/level", None, 1),
                message("a/bad", None, 1),
            ],
            rows: vec![
                row("1", "a/r", r#"{"n":1}"#, 0),
                row("2", "a/r", r#"{"n":2}"#, 0),
                row("3", "a/r", r#"{"n":2}"#, 5),
                row("4", "a/r", r#"{"n":3}"#, 6),
                row("5", "a/level", "21.4", 6),
            ],
            entries: vec![entry(0, "1.5"), entry(5, "2"), entry(6, "3")],
            fields: BTreeMap::from([("a".to_owned(), "field1".to_owned())]),
            letters: vec![letter("a/bad", "{")],
            figures: BTreeMap::from([
                ("supabase".to_owned(), figures(6, 5, 1, 0)),
                ("thingspeak".to_owned(), figures(6, 4, 1, 1)),
            ]),
            sent_again: [2, 0],
        }
    }

    #[test]
    fn what_is_conserved_is_seen_to_be() {
        let proof = conserved().examine();
        assert_eq!(proof.broken, Vec::<String>::new());
        assert_eq!(proof.supabase, Fate { delivered: 4, dead_letters: 1, ..Fate::default() });
        assert_eq!(
            proof.thingspeak,
            Fate { delivered: 3, dead_letters: 1, not_for_it: 1, ..Fate::default() }
        );
        assert_eq!(proof.sent_twice, 1);
    }

    fn broken(spoil: impl FnOnce(&mut Evidence)) -> String {
        let mut evidence = conserved();
        spoil(&mut evidence);
        evidence.examine().broken.join("; ")
    }

    #[test]
    fn a_lost_message_is_missed_wherever_it_is_lost() {
        let lost = broken(|evidence| drop(evidence.rows.remove(0)));
        assert!(lost.contains("supabase: 1 acknowledged messages are missing"), "{lost}");
        let lost = broken(|evidence| drop(evidence.letters.pop()));
        assert!(lost.contains("supabase: 1 acknowledged messages are missing"), "{lost}");
        let lost = broken(|evidence| drop(evidence.entries.pop()));
        assert_eq!(lost, "thingspeak: 1 acknowledged messages are missing");
        let lost = broken(|evidence| evidence.entries[0] = entry(0, "1"));
        assert_eq!(lost, "thingspeak: 1 readings are not in their second's mean");
    }

    #[test]
    fn what_is_stored_more_often_than_it_was_sent_is_found() {
        let twice = broken(|evidence| evidence.messages[1].transmissions = 1);
        assert_eq!(twice, "a/r was sent 1 times and stored 2 times");
        let same_key = broken(|evidence| evidence.rows[1] = row("1", "a/r", r#"{"n":2}"#, 0));
        assert_eq!(same_key, "supabase: 1 rows have a key twice");
    }

    #[test]
    fn the_gateways_own_figures_have_to_agree() {
        let wrong =
            broken(|evidence| drop(evidence.figures.insert("supabase".to_owned(), figures(7, 6, 1, 0))));
        assert_eq!(wrong, "supabase: it has 5 readings, the gateway says 6");
        let wrong =
            broken(|evidence| drop(evidence.figures.insert("supabase".to_owned(), figures(6, 5, 0, 0))));
        assert_eq!(wrong, "supabase: accepted is not delivered + pending + dropped");
    }
}
