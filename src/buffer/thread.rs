//! The one thread that owns the store: it commits groups, moves cursors, removes what is settled, and answers readers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::block::{Block, Names, Packer};
use super::frame::{Kind, key, parse_value, wrap};
use super::group::{Group, Intake, Wakeup};
use super::ledger::{Book, Ledger, MAX_REMOVED, State};
use super::letter::{self, Letter};
use super::open::Place;
use super::store::{Batch, Store, StoreError};
use super::{Closed, DeadLetter};
use crate::config;
use crate::message::Seq;

/// A settled reading is on record on disk after this time at the latest.
const CURSOR_WINDOW: Duration = Duration::from_secs(1);
/// Readings in one atomic change.
const BATCH_READINGS: usize = 1_024;
/// Keys that are removed in one atomic change.
const BATCH_REMOVALS: usize = 64;
/// Commands that are answered before groups are looked after again.
const COMMANDS_A_ROUND: usize = 8;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(10);

/// What others ask of the thread.
#[derive(Debug)]
pub(super) enum Command {
    /// The blocks that hold `[from, to)`, or the first of them.
    Fetch { from: Seq, to: Seq, reply: oneshot::Sender<Vec<Block>> },
    /// A block whose checksum is right but whose content is not.
    Undecodable { first: Seq, end: Seq },
    /// The newest dead letters.
    DeadLetters { limit: usize, reply: oneshot::Sender<Vec<DeadLetter>> },
    /// Put cursors and dead letters on disk now.
    Write { reply: oneshot::Sender<()> },
}

/// What handles and the thread share.
#[derive(Debug)]
pub(super) struct Hub {
    pub(super) intake: Intake,
    pub(super) ledger: Ledger,
    pub(super) commands: mpsc::Sender<Command>,
    /// One past the highest number on disk.
    pub(super) ends: watch::Receiver<Seq>,
}

impl Hub {
    /// Hands a command to the thread.
    pub(super) async fn ask(&self, command: Command) -> Result<(), Closed> {
        self.commands.send(command).await.map_err(|_| Closed)?;
        self.intake.poke();
        if self.intake.has_ended() { Err(Closed) } else { Ok(()) }
    }
}

/// The thread's state.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) hub: Arc<Hub>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) ends: watch::Sender<Seq>,
    pub(super) place: Place,
    pub(super) settings: config::Buffer,
    /// `None` after an error, until it was opened and checked again.
    pub(super) store: Option<Store>,
    pub(super) packer: Packer,
    pub(super) spare: Option<Group>,
    /// The group that could not be committed.
    pub(super) held: Option<Group>,
    pub(super) retry: Option<(Instant, Duration)>,
    /// Settled by all, as the cursors on disk say, and not removed yet.
    pub(super) removable: Vec<(Seq, Seq)>,
    pub(super) cursors_due: Option<Instant>,
}

impl Keeper {
    pub(super) fn run(mut self) {
        loop {
            let hold = self.store.is_none();
            let until = self.next_duty();
            match self.hub.intake.wait(&mut self.spare, until, hold) {
                Wakeup::Group(group) => self.commit(group),
                Wakeup::Look => {}
                Wakeup::Closed => return self.close(),
            }
            self.answer();
            self.duties();
        }
    }

    /// When something is to be done that nobody asks for.
    fn next_duty(&self) -> Option<Instant> {
        if let Some((at, _)) = self.retry {
            return Some(at);
        }
        let removals = (!self.removable.is_empty()).then(Instant::now);
        [removals, self.cursors_due].into_iter().flatten().min()
    }

    fn duties(&mut self) {
        if let Some((at, _)) = self.retry {
            if at <= Instant::now() {
                self.recover();
            }
            return;
        }
        let dirty = self.hub.ledger.book().is_dirty();
        match self.cursors_due {
            None if dirty => self.cursors_due = Some(Instant::now() + CURSOR_WINDOW),
            Some(due) if due <= Instant::now() => self.write_cursors(),
            _ => {}
        }
        if !self.removable.is_empty() {
            let removed = self.remove_settled();
            self.latch_on_error(removed);
        }
    }

    fn commit(&mut self, mut group: Group) {
        match self.write(Some(&group)) {
            Ok(()) => {
                self.hub.intake.set_durable(group.end());
                group.release();
                self.spare = Some(group);
                self.ends.send_replace(self.hub.ledger.book().state.end);
                self.hub.intake.announce_room();
            }
            Err(error) => {
                self.held = Some(group);
                self.latch(&error);
            }
        }
    }

    fn write_cursors(&mut self) {
        let written = self.write(None);
        self.latch_on_error(written);
    }

    fn latch_on_error(&mut self, result: Result<(), StoreError>) {
        if let Err(error) = result {
            self.latch(&error);
        }
    }

    /// No ack leaves from here on, until the store was opened and checked again.
    fn latch(&mut self, error: &StoreError) {
        tracing::error!(%error, "the buffer cannot write; nothing is acknowledged until it can");
        let mut book = self.hub.ledger.book();
        book.trouble = Some(error.to_string());
        book.sinks.values_mut().for_each(|sink| sink.dirty = true);
        drop(book);
        self.store = None;
        let pause = self.retry.map_or(RETRY_FIRST, |(_, pause)| (pause * 2).min(RETRY_MOST));
        self.retry = Some((Instant::now() + pause, pause));
        self.removable.clear();
    }

    /// Opens the store again, finds out how much of the held group it has, and writes the rest.
    fn recover(&mut self) {
        if let Err(error) = self.reopen() {
            return self.latch(&error);
        }
        let held = self.held.take();
        let was = self.retry.take();
        match held {
            Some(group) => self.commit(group),
            None => self.write_cursors(),
        }
        if self.store.is_some() {
            tracing::info!("the buffer writes again");
            self.hub.ledger.book().trouble = None;
        } else if let (Some((at, _)), Some((_, pause))) = (self.retry, was) {
            self.retry = Some((at + pause, (pause * 2).min(RETRY_MOST)));
        }
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        let store = Store::open(&self.place.store())?;
        let state = store.body(key::STATE, Kind::Meta)?.and_then(|body| State::decode(&body));
        let state = state.ok_or_else(|| StoreError::Damaged("the state record is gone".to_owned()))?;
        let mut book = self.hub.ledger.book();
        if state.end < book.state.end {
            return Err(StoreError::Damaged(format!(
                "it ends at {}, but {} was on disk",
                state.end - 1,
                book.state.end - 1
            )));
        }
        book.state = State { refused_full: book.state.refused_full, ..state };
        drop(book);
        self.store = Some(store);
        Ok(())
    }

    /// Writes a group, dead letters and cursors that have moved, and syncs.
    pub(super) fn write(&mut self, group: Option<&Group>) -> Result<(), StoreError> {
        let letters = std::mem::take(&mut self.hub.ledger.book().letters);
        let written = self.write_with(group, &letters);
        if written.is_err() {
            self.hub.ledger.book().letters.splice(0..0, letters);
        }
        written
    }

    fn write_with(&mut self, group: Option<&Group>, letters: &[Letter]) -> Result<(), StoreError> {
        let Self { store: Some(store), packer, hub, settings, .. } = self else {
            return Err(StoreError::Damaged("the store is not open".to_owned()));
        };
        let mut next = hub.ledger.book().state.clone();
        let mut batch = Batch::new();
        if let Some(group) = group {
            // After a recovery part of the group may be there already.
            let mut done = next.end.saturating_sub(group.first) as usize;
            while done < group.len() {
                if !batch.is_empty() {
                    put_state(&mut batch, &mut next);
                    store.apply(std::mem::replace(&mut batch, Batch::new()))?;
                }
                let upto = group.len().min(done + BATCH_READINGS);
                packer.pack(next.epoch, &group.records(done, upto), |value| {
                    next.keys += 1;
                    next.live_bytes += value.frame.len() as u64;
                    batch.insert(&value.key, value.frame);
                });
                next.end = group.first + upto as u64;
                let unfit = group.unfit(done, upto, next.epoch);
                put_letters(store, &mut batch, &mut next, &unfit)?;
                done = upto;
            }
        }
        put_letters(store, &mut batch, &mut next, letters)?;
        evict_letters(store, &mut batch, &mut next, settings.max_dead_letters as u64)?;
        let removable = put_cursors(&mut batch, &mut next, &mut hub.ledger.book());
        put_state(&mut batch, &mut next);
        store.apply(batch)?;
        store.sync()?;
        let mut book = hub.ledger.book();
        book.state = State { refused_full: book.state.refused_full, ..next };
        self.removable = removable;
        self.cursors_due = None;
        Ok(())
    }

    /// Removes some of what every sink has settled. The cursors that say so are on disk: a crash cannot
    /// bring back a sink that still wants it.
    fn remove_settled(&mut self) -> Result<(), StoreError> {
        let Some(store) = &self.store else { return Ok(()) };
        let mut next = self.hub.ledger.book().state.clone();
        let mut batch = Batch::new();
        let mut left = BATCH_REMOVALS;
        while let (Some((from, to)), true) = (self.removable.last().copied(), left > 0) {
            let fetched = store.spans(from, to, left)?;
            for span in &fetched {
                if span.end > to || next.removed.ranges_with(span.first, span.end) > MAX_REMOVED {
                    continue;
                }
                span.keys.iter().for_each(|key| batch.remove(key));
                next.keys = next.keys.saturating_sub(span.keys.len() as u64);
                next.live_bytes = next.live_bytes.saturating_sub(span.bytes);
                next.removed.insert(span.first, span.end);
            }
            left -= left.min(fetched.len());
            let last = self.removable.last_mut().expect("it was there above");
            match fetched.last() {
                Some(span) if span.end < to => last.0 = span.end,
                _ => drop(self.removable.pop()),
            }
        }
        if !batch.is_empty() {
            put_state(&mut batch, &mut next);
            store.apply(batch)?;
            let mut book = self.hub.ledger.book();
            book.state = State { refused_full: book.state.refused_full, ..next };
        }
        Ok(())
    }

    fn answer(&mut self) {
        for _ in 0..COMMANDS_A_ROUND {
            let Ok(command) = self.commands.try_recv() else { return };
            let answered = self.execute(command);
            self.latch_on_error(answered);
        }
        // There may be more.
        self.hub.intake.poke();
    }

    /// A reply that nobody waits for any more is no error. Without a store the reply is dropped: ask again.
    fn execute(&mut self, command: Command) -> Result<(), StoreError> {
        let Some(store) = &self.store else { return Ok(()) };
        match command {
            Command::Fetch { from, to, reply } => {
                let fetched = store.fetch(from, to)?;
                if !fetched.missing.is_empty() {
                    self.lose(&fetched.missing);
                }
                reply.send(fetched.blocks).ok();
            }
            Command::Undecodable { first, end } => self.lose(&[(first, end)]),
            Command::DeadLetters { limit, reply } => {
                reply.send(newest_letters(store, limit)?).ok();
            }
            Command::Write { reply } => {
                self.write(None)?;
                reply.send(()).ok();
            }
        }
        Ok(())
    }

    fn lose(&self, ranges: &[(Seq, Seq)]) {
        let mut book = self.hub.ledger.book();
        for (from, to) in ranges {
            tracing::error!(from, to = to - 1, "readings are lost: the buffer is damaged here");
            book.lose(*from, *to);
        }
    }

    /// Commits what is left, and lets go of everything before anybody learns of the end.
    fn close(mut self) {
        if self.store.is_none() {
            self.recover();
        }
        if let Some(group) = self.hub.intake.take(&mut self.spare) {
            self.commit(group);
        }
        if self.store.is_some() && self.hub.ledger.book().is_dirty() {
            self.write_cursors();
        }
    }
}

impl Drop for Keeper {
    /// A successor can open the store before anybody learns of the end; a panic ends the buffer like a close.
    fn drop(&mut self) {
        drop(self.store.take());
        self.place.unlock();
        self.hub.intake.ended(self.held.take());
    }
}

fn put_state(batch: &mut Batch, next: &mut State) {
    next.generation += 1;
    batch.insert(key::STATE, wrap(Kind::Meta, key::STATE, &next.encode()));
}

/// Puts what has moved; says what can be removed once that is on disk.
fn put_cursors(batch: &mut Batch, next: &mut State, book: &mut Book) -> Vec<(Seq, Seq)> {
    if !book.is_dirty() {
        return book.removable(&next.removed);
    }
    next.generation += 1;
    let mut all = true;
    for (name, sink) in book.sinks.iter_mut().filter(|(_, sink)| sink.dirty) {
        let key = key::cursor(name.as_str());
        match sink.cursor.encode(next.generation) {
            Some(body) => {
                batch.insert(&key, wrap(Kind::Cursor, &key, &body));
                sink.dirty = false;
            }
            None => all = false,
        }
    }
    if book.facts_dirty {
        next.generation += 1;
        batch.insert(key::GAPS, wrap(Kind::Meta, key::GAPS, &book.encode_gaps(next.generation)));
        batch.insert(key::BOOTS, wrap(Kind::Meta, key::BOOTS, &book.encode_boots(next.generation)));
        book.facts_dirty = false;
    }
    next.removed = book.state.removed.clone();
    if all { book.removable(&next.removed) } else { Vec::new() }
}

fn put_letters(
    store: &Store,
    batch: &mut Batch,
    next: &mut State,
    letters: &[Letter],
) -> Result<(), StoreError> {
    for letter in letters {
        if !store.contains(&letter.key())? {
            next.letters += 1;
        }
        letter.values()?.into_iter().for_each(|(key, frame)| batch.insert(&key, frame));
    }
    Ok(())
}

fn evict_letters(store: &Store, batch: &mut Batch, next: &mut State, most: u64) -> Result<(), StoreError> {
    if next.letters <= most {
        return Ok(());
    }
    for pair in store.pairs(&[key::LETTER], &[key::LETTER + 1]) {
        let (found, _) = pair?;
        let is_first = key::parse_letter(&found).is_some_and(|(_, _, part)| part == 0);
        if is_first {
            if next.letters <= most {
                break;
            }
            next.letters -= 1;
            next.letters_evicted += 1;
        }
        batch.remove(&found);
    }
    Ok(())
}

fn newest_letters(store: &Store, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
    let mut names = Names::default();
    let mut letters = Vec::new();
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for pair in store.pairs(&[key::LETTER], &[key::LETTER + 1]).rev() {
        if letters.len() >= limit {
            break;
        }
        let (found, value) = pair?;
        let Some((seq, sink, part)) = key::parse_letter(&found) else { continue };
        let Some(frame) = parse_value(&found, &value) else { continue };
        parts.push(frame.body.to_vec());
        if part == 0 {
            let body: Vec<u8> = parts.drain(..).rev().flatten().collect();
            letters.extend(letter::decode(seq, sink, &body, &mut names));
        }
    }
    Ok(letters)
}
