//! The one thread that owns the store: it commits groups, answers readers, and keeps the store small and alive.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::block::{Block, Packer};
use super::disk::Disk;
use super::group::Group;
use super::intake::{Intake, Refusing, Wakeup};
use super::ledger::Ledger;
use super::open::Opened;
use super::space::Space;
use super::store::{Store, StoreError};
use super::watchdog::{self, Pulse, Stuck};
use super::{
    Buffer, Closed, DeadLetter, Handle, OpenError, OpenReport, Record, Table, commit, open, record, shrink,
};
use crate::config::{self, SinkName};
use crate::message::Seq;

/// A settled reading is on record on disk after this time at the latest.
const CURSOR_WINDOW: Duration = Duration::from_secs(1);
/// Commands that are answered before groups are looked after again.
const COMMANDS_A_ROUND: usize = 8;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(10);

/// What others ask of the thread.
#[derive(Debug)]
pub(super) enum Command {
    /// The blocks that hold `[from, to)`, or the first of them.
    Fetch { from: Seq, to: Seq, reply: oneshot::Sender<Vec<Block>> },
    /// The newest blocks that begin before `end`, the newest first, and where to look on.
    Look { end: Seq, reply: oneshot::Sender<(Vec<Block>, Option<Seq>)> },
    /// A block whose checksum is right but whose content is not.
    Undecodable { first: Seq, end: Seq },
    /// The newest dead letters before this one.
    DeadLetters { before: Option<(Seq, String)>, limit: usize, reply: oneshot::Sender<Vec<DeadLetter>> },
    /// All records of a table.
    Records { table: Table, reply: oneshot::Sender<Vec<Record>> },
    /// Put cursors and dead letters on disk now.
    Write { reply: oneshot::Sender<()> },
}

/// Opens or creates the buffer on a thread of its own, which keeps it from then on while another one watches it.
pub(super) fn start(
    dir: &Path,
    settings: &config::Buffer,
    sinks: &[SinkName],
) -> Result<(Buffer, OpenReport), OpenError> {
    let io = |source| OpenError::Io { path: dir.to_owned(), source };
    let disk = Disk::lock(dir)?;
    let pulse = Pulse::new(settings.stuck_after);
    // It tells what was opened, and ends with the thread.
    let (alive, end) = sync_channel(1);
    let keep = {
        let (pulse, settings, sinks) = (Arc::clone(&pulse), settings.clone(), sinks.to_vec());
        move || {
            pulse.watch_this_thread();
            match open::start(disk, &settings, &sinks, pulse) {
                Ok(Opened { keeper, hub, stood, report }) => {
                    // Nobody may wait any more: then the handle is dropped, and the buffer closes.
                    alive.send(Ok((stood, Buffer(Arc::new(Handle(hub))), report))).ok();
                    keeper.run();
                }
                Err(error) => drop(alive.send(Err(error))),
            }
        }
    };
    std::thread::Builder::new().name("store".to_owned()).spawn(keep).map_err(io)?;
    let opened = match pulse.watch(&end) {
        Ok(opened) => opened.unwrap_or_else(|| Err(std::io::Error::other("its thread has panicked").into())),
        Err(stuck) => return Err(OpenError::Stuck { path: dir.to_owned(), stuck }),
    };
    let (stood, buffer, report) = opened.map_err(|error| io(error.into_io()))?;
    let hub = Arc::clone(&buffer.0.0);
    let watch = move || {
        if let Err(stuck) = pulse.watch(&end) {
            // In this order: who finds it closed can ask why.
            stood.send_replace(Some(stuck));
            hub.intake.ended();
        }
    };
    std::thread::Builder::new().name("store-watch".to_owned()).spawn(watch).map_err(io)?;
    Ok((buffer, report))
}

/// What handles and the thread share.
#[derive(Debug)]
pub(super) struct Hub {
    pub(super) intake: Intake,
    pub(super) ledger: Ledger,
    pub(super) commands: mpsc::Sender<Command>,
    /// One past the highest number on disk.
    pub(super) ends: watch::Receiver<Seq>,
    pub(super) pulse: Arc<Pulse>,
    /// Ends with the thread, or says that it stands still.
    pub(super) stood: watch::Receiver<Option<Stuck>>,
    #[cfg(test)]
    pub(super) faults: Arc<super::disk::Faults>,
}

impl Hub {
    /// Hands a command to the thread.
    pub(super) async fn ask(&self, command: Command) -> Result<(), Closed> {
        self.or_closed(self.commands.send(command)).await?.map_err(|_| Closed)?;
        self.intake.poke();
        if self.intake.has_ended() { Err(Closed) } else { Ok(()) }
    }

    /// Waits for what the thread must do. `None`: it has done something else instead.
    pub(super) async fn answer<T>(&self, reply: oneshot::Receiver<T>) -> Result<Option<T>, Closed> {
        Ok(self.or_closed(reply).await?.ok())
    }

    /// Waits for what may never come without the thread.
    pub(super) async fn or_closed<T>(&self, what: impl Future<Output = T>) -> Result<T, Closed> {
        tokio::select! {
            biased;
            come = what => Ok(come),
            _ = self.ended() => Err(Closed),
        }
    }

    /// Resolves when the thread has ended, or stands still for ever.
    pub(super) async fn ended(&self) -> Result<(), Stuck> {
        let stood = self.stood.clone().wait_for(Option::is_some).await.ok().and_then(|stood| stood.clone());
        stood.map_or(Ok(()), Err)
    }
}

/// An error has latched: no ack leaves until the store was opened and checked again.
#[derive(Debug)]
struct Latch {
    retry: Instant,
    pause: Duration,
    /// Opening it again is not enough.
    rebuild: Option<String>,
}

/// The thread's state.
#[derive(Debug)]
pub(super) struct Keeper {
    hub: Arc<Hub>,
    commands: mpsc::Receiver<Command>,
    ends: watch::Sender<Seq>,
    disk: Disk,
    settings: config::Buffer,
    packer: Packer,
    space: Space,
    /// `None` exactly while `latch` is set, or at the end.
    store: Option<Store>,
    latch: Option<Latch>,
    /// The store has been open; otherwise nothing is known of it, and nothing was taken.
    was_open: bool,
    /// The group that could not be committed.
    held: Option<Box<Group>>,
    spare: Option<Box<Group>>,
    /// Passed by all, as the cursors on disk say, and not removed yet.
    removable: Vec<(Seq, Seq)>,
    cursors_due: Option<Instant>,
    /// Blocks below were merged, or are older than this opening.
    sealed_to: Seq,
    /// So many keys make merging start, until it has come to the end.
    seal_at_keys: u64,
    sealing: bool,
}

impl Keeper {
    pub(super) fn new(
        hub: Arc<Hub>,
        commands: mpsc::Receiver<Command>,
        ends: watch::Sender<Seq>,
        disk: Disk,
        settings: config::Buffer,
        store: Option<Store>,
    ) -> std::io::Result<Self> {
        let sealed_to = *ends.borrow();
        Ok(Self {
            hub,
            commands,
            ends,
            disk,
            space: Space::new(&settings),
            settings,
            packer: Packer::new()?,
            store,
            latch: None,
            was_open: true,
            held: None,
            spare: None,
            removable: Vec::new(),
            cursors_due: None,
            sealed_to,
            seal_at_keys: shrink::SEAL_KEYS,
            sealing: false,
        })
    }

    /// The store could not be opened: that is tried again for as long as it takes, and nothing is taken meanwhile.
    pub(super) fn start_latched(&mut self, error: StoreError) {
        self.was_open = false;
        self.hub.intake.set_refusing(Refusing { all: true, ..Refusing::default() });
        self.latch(error);
    }

    pub(super) fn run(mut self) {
        loop {
            let (until, hold) = (self.next_duty(), self.store.is_none());
            watchdog::rest();
            let wakeup = self.hub.intake.wait(&mut self.spare, until, hold);
            watchdog::step("looking after the store");
            #[cfg(test)]
            if self.disk.faults.crash.load(std::sync::atomic::Ordering::SeqCst) {
                std::mem::forget(self.store.take());
                return;
            }
            match wakeup {
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
        if let Some(latch) = &self.latch {
            return Some(latch.retry);
        }
        if !self.removable.is_empty() || self.sealing {
            return Some(Instant::now());
        }
        [self.cursors_due, Some(self.space.due())].into_iter().flatten().min()
    }

    fn duties(&mut self) {
        if let Some(latch) = &self.latch {
            if latch.retry <= Instant::now() {
                self.recover();
            }
            return;
        }
        let done = self.housekeeping();
        self.latch_on_error(done);
    }

    fn housekeeping(&mut self) -> Result<(), StoreError> {
        let dirty = self.hub.ledger.book().is_dirty();
        match self.cursors_due {
            None if dirty => self.cursors_due = Some(Instant::now() + CURSOR_WINDOW),
            Some(due) if due <= Instant::now() => self.write(None)?,
            _ => {}
        }
        let Self { store: Some(store), hub, .. } = self else { return Ok(()) };
        if !self.removable.is_empty() {
            shrink::remove_settled(store, &hub.ledger, &mut self.removable)?;
        }
        self.space.look(store, &self.disk, hub)?;
        self.sealing |= hub.ledger.book().state.keys >= self.seal_at_keys;
        if self.sealing {
            let (to, more) = shrink::seal(store, &hub.ledger, &mut self.packer, self.sealed_to)?;
            (self.sealed_to, self.sealing) = (to, more);
            self.seal_at_keys = hub.ledger.book().state.keys + shrink::SEAL_KEYS;
        }
        Ok(())
    }

    pub(super) fn write(&mut self, group: Option<&mut Group>) -> Result<(), StoreError> {
        let Self { store: Some(store), disk, hub, packer, settings, .. } = self else { return Ok(()) };
        let most = settings.max_dead_letters as u64;
        self.removable = commit::write(store, disk, &hub.ledger, packer, group, most)?;
        self.cursors_due = None;
        Ok(())
    }

    fn commit(&mut self, mut group: Box<Group>) {
        let stored = match &self.store {
            Some(store) => self.space.make_room(store, &self.hub, &group),
            None => Ok(()),
        };
        match stored.and_then(|()| self.write(Some(&mut group))) {
            Ok(()) if self.store.is_some() => {
                let end = group.end();
                // Before any ack: what nobody knows to have been acknowledged is missed by nobody.
                self.disk.set_tail(self.hub.ledger.book().tail());
                self.hub.intake.release(&mut group);
                self.spare = Some(group);
                self.ends.send_if_modified(|known| std::mem::replace(known, end) != end);
                self.hub.intake.announce_room();
            }
            Ok(()) => self.held = Some(group),
            Err(error) => {
                self.held = Some(group);
                self.latch(error);
            }
        }
    }

    fn latch_on_error(&mut self, result: Result<(), StoreError>) {
        if let Err(error) = result {
            self.latch(error);
        }
    }

    fn latch(&mut self, mut error: StoreError) {
        let path = self.disk.store();
        tracing::error!(%error, path = %path.display(), "the buffer cannot write; nothing is acknowledged until it can");
        if let Some(store) = self.store.take() {
            // What was written before the error may have failed to reach the disk, too.
            if let (StoreError::Io(_), Err(unsynced)) = (&error, store.sync_files(&self.disk)) {
                error = unsynced;
            }
            if !store.discard() {
                error = StoreError::Damaged(format!("it does not close after: {error}"));
            }
        }
        let mut book = self.hub.ledger.book();
        book.trouble = Some(format!("{}: {error}", path.display()));
        book.mark_all_dirty();
        drop(book);
        let pause = self.latch.as_ref().map_or(RETRY_FIRST, |latch| (latch.pause * 2).min(RETRY_MOST));
        let rebuild = error.needs_rebuild().then(|| error.to_string());
        self.latch = Some(Latch { retry: Instant::now() + pause, pause, rebuild });
        self.removable.clear();
        self.sealing = false;
    }

    /// Opens the store again, or rebuilds it, and writes what of the held group it does not have.
    fn recover(&mut self) {
        self.disk.drop_ballast();
        let opened = if self.was_open { self.reopen() } else { self.open_late() };
        if let Err(error) = opened {
            return self.latch(error);
        }
        match self.held.take() {
            Some(group) => self.commit(group),
            None => {
                let written = self.write(None);
                self.latch_on_error(written);
            }
        }
        if self.store.is_some() {
            self.latch = None;
            self.hub.ledger.book().trouble = None;
            tracing::info!("the buffer writes again");
        }
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        let rebuild = self.latch.as_ref().and_then(|latch| latch.rebuild.as_deref());
        let end = *self.ends.borrow();
        self.store = Some(open::reopen(&self.disk, &self.hub.ledger, end, self.held.as_deref(), rebuild)?);
        Ok(())
    }

    fn open_late(&mut self) -> Result<(), StoreError> {
        let sinks: Vec<_> = self.hub.ledger.book().sinks.keys().cloned().collect();
        let (store, mut found, report) = open::open_store(&self.disk, &sinks)?;
        report.findings.iter().for_each(|finding| tracing::warn!("{finding}"));
        self.store = Some(store);
        self.was_open = true;
        let mut book = self.hub.ledger.book();
        for (name, sink) in &mut found.sinks {
            sink.taken = book.sinks.get(name).is_some_and(|sink| sink.taken);
        }
        let end = found.state.end;
        found.state.refused_full += book.state.refused_full;
        *book = found;
        drop(book);
        self.sealed_to = end;
        self.hub.intake.start_at(end);
        self.hub.intake.set_refusing(Refusing::default());
        self.ends.send_replace(end);
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
                let gone = |(from, to): &(Seq, Seq)| {
                    let book = self.hub.ledger.book();
                    book.state.removed.missing(*from, *to).next()
                };
                if let Some((from, to)) = fetched.missing.iter().find_map(gone) {
                    // What a sink waits for must be there: only a salvage can tell whether it is.
                    let last = to - 1;
                    return Err(StoreError::Damaged(format!(
                        "readings {from} to {last} are not where they were"
                    )));
                }
                reply.send(fetched.blocks).ok();
            }
            Command::Look { end, reply } => {
                reply.send(store.look(end)?).ok();
            }
            Command::Undecodable { first, end } => {
                tracing::error!(first, last = end - 1, "readings are lost: their block makes no sense");
                self.hub.ledger.book().lose(first, end);
            }
            Command::DeadLetters { before, limit, reply } => {
                reply.send(commit::newest_letters(store, before.as_ref(), limit)?).ok();
            }
            Command::Records { table, reply } => {
                reply.send(record::table(store, table)?).ok();
            }
            Command::Write { reply } => {
                self.write(None)?;
                reply.send(()).ok();
            }
        }
        Ok(())
    }

    /// Commits what is left.
    fn close(mut self) {
        if self.store.is_none() {
            self.recover();
        }
        if self.store.is_some()
            && let Some(group) = self.hub.intake.take(&mut self.spare)
        {
            self.commit(group);
        }
        if self.hub.ledger.book().is_dirty() {
            let written = self.write(None);
            self.latch_on_error(written);
        }
    }
}

impl Drop for Keeper {
    /// A successor can open the store before anybody learns of the end. A panic ends the buffer like a close.
    fn drop(&mut self) {
        if let Some(store) = self.store.take() {
            store.discard();
        }
        self.disk.unlock();
        self.hub.intake.ended();
    }
}
