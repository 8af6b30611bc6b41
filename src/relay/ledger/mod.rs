//! Every command, on disk and in memory.
//!
//! A change is made in memory and submitted to the buffer under one lock, so that what is on disk follows the same
//! order. What the buffer has no room for is submitted again with the next change, or by [`Ledger::sweep`].
//!
//! # How long a command is good
//!
//! That is counted on the boot clock. Across a reboot the wall clock tells, if it was right (or was corrected) when
//! the command was accepted and is right now. As long as nobody knows, the command is held: it is never sent late.

mod book;
mod delivery;
#[cfg(test)]
mod model_tests;
mod room;
mod terms;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, SetOnce};

use self::book::{Age, Book, Now, Plan};
pub use self::room::NoRoom;
pub use self::terms::{
    Accepted, Figures, NotAccepted, NotCancelled, Page, Postman, Said, Undelivered, Wanted,
};
use super::command::{NewCommand, SharedCommand, Source, State};
use crate::buffer::{Buffer, Closed, Mark, SubmitError, Table, Wait, Writer};
use crate::clock::{Clock, Resolved, TimeQuality};
use crate::config;
use crate::message::{BootId, CommandId, DeviceId, Stamp};

/// The ledger. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ledger(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    desk: Mutex<Desk>,
    /// What an earlier process had is known.
    ready: SetOnce<()>,
    /// Open commands that wait for a reply: asked with every publish.
    awaited: AtomicUsize,
    /// The buffer had no room: when that is over, devices are to be called.
    is_starved: AtomicBool,
    /// Something from before this boot may wait until the clock is right.
    awaits_clock: AtomicBool,
    postman: OnceLock<Box<dyn Postman>>,
    news: Notify,
    settings: config::Commands,
    buffer: Buffer,
    clock: Clock,
    boot: BootId,
}

#[derive(Debug)]
struct Desk {
    book: Book,
    writer: Writer,
}

/// A command that is on its way to disk. When its acceptor is gone before that, it is on its way all the same.
struct Releasing<'a> {
    ledger: &'a Ledger,
    command: &'a SharedCommand,
}

impl Drop for Releasing<'_> {
    fn drop(&mut self) {
        self.ledger.desk().book.release(self.command.number);
        self.ledger.0.news.notify_waiters();
        self.ledger.ring(&self.command.device);
    }
}

impl Ledger {
    /// A ledger that knows nothing yet, and accepts nothing before [`Ledger::load`] has read what was kept.
    #[must_use]
    pub fn new(buffer: &Buffer, clock: Clock, settings: &config::Commands) -> Self {
        Self(Arc::new(Inner {
            desk: Mutex::new(Desk { book: Book::new(settings.clone()), writer: buffer.writer() }),
            ready: SetOnce::new(),
            awaited: AtomicUsize::new(0),
            is_starved: AtomicBool::new(false),
            awaits_clock: AtomicBool::new(true),
            postman: OnceLock::new(),
            news: Notify::new(),
            settings: settings.clone(),
            buffer: buffer.clone(),
            boot: clock.stamp().boot,
            clock,
        }))
    }

    /// Reads what an earlier process had, once. Waits until the store is open.
    ///
    /// # Errors
    /// [`Closed`] when the buffer has ended.
    pub async fn load(&self) -> Result<(), Closed> {
        let records = self.0.buffer.records(Table::Command).await?;
        let unreadable = self.update(Wait::Nobody, |book, now| {
            book.restore(records);
            book.sweep(now);
            book.figures().unreadable
        });
        if unreadable > 0 {
            tracing::warn!(records = unreadable, "records of commands that cannot be read are left alone");
        }
        // It is set here alone.
        self.0.ready.set(()).ok();
        Ok(())
    }

    /// Resolves when it knows what an earlier process had. Cancel-safe.
    pub async fn loaded(&self) {
        self.0.ready.wait().await;
    }

    /// A ledger that knows what an earlier process had. Waits until the store is open.
    ///
    /// # Errors
    /// [`Closed`] when the buffer has ended.
    pub async fn open(buffer: &Buffer, clock: Clock, settings: &config::Commands) -> Result<Self, Closed> {
        let ledger = Self::new(buffer, clock, settings);
        ledger.load().await?;
        Ok(ledger)
    }

    /// Who brings commands to devices. There is one, and it is told once.
    pub fn deliver_by(&self, postman: Box<dyn Postman>) {
        if self.0.postman.set(postman).is_err() {
            tracing::debug!("there is somebody who brings commands to devices");
        }
    }

    /// Its bounds, and how long a command is good for that does not say it.
    #[must_use]
    pub fn settings(&self) -> &config::Commands {
        &self.0.settings
    }

    /// The clock that its times are read with.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Accepts a command. When this resolves it is on disk; only then a device is given it.
    /// Cancelled while it waits for the disk, the command may have been accepted all the same.
    ///
    /// # Errors
    /// When it is refused, which is on disk as well; or the gateway ends.
    pub async fn accept(&self, new: NewCommand) -> Result<Accepted, NotAccepted> {
        let came_ms = self.0.clock.stamp().boot_ms;
        // What has waited for the store, or for room, is so much older.
        let left = || {
            let waited_ms = self.0.clock.stamp().boot_ms.saturating_sub(came_ms);
            new.good_for.saturating_sub(Duration::from_millis(waited_ms))
        };
        let mut good_for = new.good_for;
        if !self.0.ready.initialized() {
            tokio::select! {
                _ = self.0.ready.wait() => good_for = left(),
                // The store may never open.
                _ = self.0.buffer.ended() => return Err(NotAccepted::Closed),
            }
        }
        let mut writer = self.0.buffer.writer();
        let until_durable = async |writer: &Writer, mark| {
            writer.until_durable(mark).await.map_err(|Closed| NotAccepted::Closed)
        };
        loop {
            match self.admit(NewCommand { good_for, ..new.clone() }, &mut writer, true) {
                Ok(Admitted::Known(command, mark)) => {
                    until_durable(&writer, mark).await?;
                    return Ok(Accepted::Known(command));
                }
                Ok(Admitted::New(command, mark)) => {
                    let releasing = Releasing { ledger: self, command: &command };
                    let written = until_durable(&writer, mark).await;
                    drop(releasing);
                    written?;
                    return answer(command);
                }
                Err(SubmitError::Full) => {
                    writer.room().await;
                    good_for = left();
                }
                Err(SubmitError::Closed) => return Err(NotAccepted::Closed),
            }
        }
    }

    /// Accepts a command without waiting for the disk: a device may be given it before it is there. For sources that
    /// are asked nothing and repeat nothing, such as rules.
    ///
    /// # Errors
    /// When it is refused, or there is no room on disk, or the gateway ends.
    pub fn accept_now(&self, new: NewCommand) -> Result<Accepted, NotAccepted> {
        if !self.0.ready.initialized() {
            return Err(NotAccepted::NoRoom);
        }
        match self.admit(new, &mut self.0.buffer.writer(), false) {
            Ok(Admitted::Known(command, _)) => Ok(Accepted::Known(command)),
            Ok(Admitted::New(command, _)) => {
                self.ring(&command.device);
                answer(command)
            }
            Err(SubmitError::Full) => Err(NotAccepted::NoRoom),
            Err(SubmitError::Closed) => Err(NotAccepted::Closed),
        }
    }

    fn admit(&self, new: NewCommand, writer: &mut Writer, withheld: bool) -> Result<Admitted, SubmitError> {
        // Asked without the lock: it may look at much.
        let objection = self.0.postman.get().and_then(|postman| postman.objection(&new));
        self.with_now(|now| {
            let mut desk = self.desk();
            let planned = match desk.book.plan(new, objection, now) {
                Plan::Known(command, mark) => return Ok(Admitted::Known(command, mark)),
                Plan::Keep(planned) => planned,
            };
            let wait = if withheld { Wait::Now } else { Wait::ForAck };
            let mark = writer.submit(None, planned.changes(), wait)?.mark;
            let command = desk.book.carry_out(*planned, withheld, mark);
            self.settle(desk, Wait::Nobody);
            Ok(Admitted::New(command, mark))
        })
    }

    /// Takes a command back that was not sent yet. On disk when this resolves.
    ///
    /// # Errors
    /// When there is none, or it is too late, or the gateway ends.
    pub async fn cancel(&self, id: CommandId) -> Result<SharedCommand, NotCancelled> {
        let cancelled = self.with_now(|now| {
            let mut desk = self.desk();
            let cancelled = desk.book.cancel(id, now)?;
            self.settle(desk, Wait::ForAck);
            Ok(cancelled)
        })?;
        self.until_saved().await.map_err(|Closed| NotCancelled::Closed)?;
        Ok(cancelled)
    }

    /// A command, as it is now.
    #[must_use]
    pub fn get(&self, id: CommandId) -> Option<SharedCommand> {
        self.desk().book.get(id).cloned()
    }

    /// Whether a source with this name has sent this reference before, and it was not forgotten.
    #[must_use]
    pub fn knows(&self, source: Source, name: &str, reference: &str) -> bool {
        self.desk().book.knows(source, name, reference)
    }

    /// Commands, the newest first, beginning after `after`. Nothing is after one that is not known.
    #[must_use]
    pub fn list(&self, wanted: &Wanted, after: Option<CommandId>, limit: usize) -> Page {
        self.desk().book.list(wanted, after, limit)
    }

    /// Resolves when a command is in another state than `state`, or is not known any more. Cancel-safe.
    pub async fn leaves(&self, id: CommandId, state: State) -> Option<SharedCommand> {
        self.until(id, |present| present != state).await
    }

    /// Resolves when a command has an end, or is not known any more. Cancel-safe.
    pub async fn ended(&self, id: CommandId) -> Option<SharedCommand> {
        self.until(id, State::is_final).await
    }

    async fn until(&self, id: CommandId, is_it: impl Fn(State) -> bool) -> Option<SharedCommand> {
        loop {
            let waiter = {
                let mut desk = self.desk();
                let command = desk.book.get(id)?;
                if is_it(command.state) {
                    return Some(Arc::clone(command));
                }
                desk.book.waiter(id)?
            };
            let mut notified = std::pin::pin!(waiter.notified());
            // It may have changed since the lock was given back.
            notified.as_mut().enable();
            let is_there = self.get(id).is_some_and(|command| !is_it(command.state));
            if is_there {
                notified.await;
            }
        }
    }

    /// Resolves when a source with this name has commands whose state it was not told. Cancel-safe.
    pub async fn changed(&self, source: Source, name: &str) {
        loop {
            let mut notified = std::pin::pin!(self.0.news.notified());
            notified.as_mut().enable();
            if !self.unreported(source, name, 1).is_empty() {
                return;
            }
            notified.await;
        }
    }

    /// Commands whose present state their source was not told, in the order of acceptance.
    #[must_use]
    pub fn unreported(&self, source: Source, name: &str, limit: usize) -> Vec<SharedCommand> {
        self.desk().book.unreported(source, name, limit)
    }

    /// The source of a command knows that it came to this state. On disk when this resolves.
    ///
    /// # Errors
    /// [`Closed`] when the gateway ends.
    pub async fn reported(&self, id: CommandId, state: State) -> Result<(), Closed> {
        self.update(Wait::Nobody, |book, _| book.reported(id, state));
        self.until_saved().await
    }

    /// What there is, and what came of it.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.desk().book.figures()
    }

    fn update<T>(&self, wait: Wait, work: impl FnOnce(&mut Book, &Now<'_>) -> T) -> T {
        self.with_now(|now| {
            let mut desk = self.desk();
            let result = work(&mut desk.book, now);
            self.settle(desk, wait);
            result
        })
    }

    /// Submits what has changed. What there is no room for stays to be submitted.
    fn settle(&self, mut desk: MutexGuard<'_, Desk>, wait: Wait) {
        let Desk { book, writer } = &mut *desk;
        if let Err(SubmitError::Full) = save(book, writer, wait) {
            self.0.is_starved.store(true, Ordering::Relaxed);
        }
        self.0.awaited.store(desk.book.awaited(), Ordering::Release);
        drop(desk);
        self.0.news.notify_waiters();
    }

    /// Resolves when everything that has changed so far is on disk.
    async fn until_saved(&self) -> Result<(), Closed> {
        let mut writer = self.0.buffer.writer();
        loop {
            let saved = save(&mut self.desk().book, &mut writer, Wait::ForAck);
            match saved {
                Ok(mark) => return writer.until_durable(mark).await,
                Err(SubmitError::Full) => writer.room().await,
                Err(SubmitError::Closed) => return Err(Closed),
            }
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.0.desk.lock().expect("no panic under this lock")
    }

    fn ring(&self, device: &DeviceId) {
        if let Some(postman) = self.0.postman.get() {
            postman.ring(device);
        }
    }

    fn with_now<T>(&self, work: impl FnOnce(&Now<'_>) -> T) -> T {
        work(&Now { at: self.0.clock.stamp(), age: &|stamp| self.age(stamp) })
    }

    fn age(&self, stamp: &Stamp) -> Age {
        let clock = &self.0.clock;
        let is_sure = |resolved| {
            matches!(resolved, Resolved::At(_, TimeQuality::Synchronized | TimeQuality::Corrected))
        };
        let age = clock.age(stamp);
        match stamp.boot == self.0.boot || clock.is_synchronized() && is_sure(clock.resolve(stamp)) {
            true => Age::Known(age),
            false => Age::AtLeast(age),
        }
    }
}

/// A command that was taken in, queued or refused.
enum Admitted {
    Known(SharedCommand, Mark),
    New(SharedCommand, Mark),
}

/// What its source is told.
fn answer(command: SharedCommand) -> Result<Accepted, NotAccepted> {
    match command.state {
        State::Refused | State::Expired => Err(NotAccepted::Refused(command)),
        _ => Ok(Accepted::New(command)),
    }
}

/// Submits what has changed. All changes so far are on disk at the mark.
fn save(book: &mut Book, writer: &mut Writer, wait: Wait) -> Result<Mark, SubmitError> {
    let changes = book.unsaved();
    if !changes.is_empty() {
        book.saved_at(writer.submit(None, changes, wait)?.mark);
    }
    Ok(book.last_mark())
}
