//! The handle that appends.

use std::sync::Arc;

use super::intake::Ticket;
use super::{Change, Closed, Handle, Mark, Receipt, SubmitError, Wait};
use crate::message::{Incoming, Seq};

/// Appends readings, and changes records. One a connection: it carries that connection's waiting state.
#[derive(Debug)]
pub struct Writer {
    handle: Arc<Handle>,
    ticket: Ticket,
}

impl Writer {
    pub(super) fn new(handle: Arc<Handle>) -> Self {
        Self { handle, ticket: Ticket::default() }
    }

    /// Puts a reading, changes of records, or both, into the open group: on disk together or not at all. Never blocks
    /// on the disk; no allocation for a reading in the steady state. All is on disk when `durable() >= mark`.
    /// A change takes the place of an earlier one of the same record that is still in the open group.
    ///
    /// # Errors
    /// [`SubmitError::Full`]: nothing was taken; wait for [`Writer::room`] and try again.
    pub fn submit(
        &mut self,
        reading: Option<&Incoming<'_>>,
        changes: Vec<Change>,
        wait: Wait,
    ) -> Result<Receipt, SubmitError> {
        self.handle.0.intake.submit(&mut self.ticket, reading, changes, wait)
    }

    /// Counts a QoS 0 publish that was refused because of `Full`.
    pub fn count_refused(&self) {
        self.handle.0.ledger.book().state.refused_full += 1;
    }

    /// Everything up to here is synced to disk.
    #[must_use]
    pub fn durable(&self) -> Mark {
        self.handle.0.intake.durable()
    }

    /// Resolves when `durable() >= mark`, for a `mark` that any writer's `submit` gave. Cancel-safe.
    ///
    /// # Errors
    /// [`Closed`] when the buffer ended before that.
    pub async fn until_durable(&self, mark: Mark) -> Result<(), Closed> {
        if self.ticket.until_durable(&self.handle.0.intake, mark).await { Ok(()) } else { Err(Closed) }
    }

    /// Whether records would be taken now: for who had better not ask for what cannot be kept.
    #[must_use]
    pub fn takes_records(&self) -> bool {
        self.handle.0.intake.takes_puts()
    }

    /// Resolves when a submit like the one that was refused last may succeed again. Cancel-safe.
    pub async fn room(&self) {
        self.handle.0.intake.room(&self.ticket).await;
    }

    /// Submits, waiting for room, and waits until the reading is on disk.
    /// Cancelled while it waits for the disk, the reading is stored all the same.
    ///
    /// # Errors
    /// [`Closed`] when the buffer ended before that.
    pub async fn append(&mut self, reading: &Incoming<'_>) -> Result<Seq, Closed> {
        loop {
            match self.submit(Some(reading), Vec::new(), Wait::ForAck) {
                Ok(Receipt { mark, seq }) => {
                    self.until_durable(mark).await?;
                    return Ok(seq.expect("each reading has a number"));
                }
                Err(SubmitError::Closed) => return Err(Closed),
                Err(SubmitError::Full) => self.room().await,
            }
        }
    }
}
