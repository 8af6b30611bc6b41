//! The handle that appends.

use std::sync::Arc;

use super::group::Ticket;
use super::{Closed, Handle, SubmitError, Wait};
use crate::message::{Incoming, Seq};

/// Appends readings. One a connection: it carries that connection's waiting state.
#[derive(Debug)]
pub struct Writer {
    handle: Arc<Handle>,
    ticket: Ticket,
}

impl Writer {
    pub(super) fn new(handle: Arc<Handle>) -> Self {
        Self { handle, ticket: Ticket::default() }
    }

    /// Puts a reading into the open group: never blocks on the disk, no allocation in the steady state.
    /// It is on disk when `durable() >= seq`.
    ///
    /// # Errors
    /// [`SubmitError::Full`]: nothing was taken; wait for [`Writer::room`] and try again.
    pub fn submit(&mut self, reading: &Incoming<'_>, wait: Wait) -> Result<Seq, SubmitError> {
        self.handle.0.intake.submit(&mut self.ticket, reading, wait)
    }

    /// Counts a QoS 0 publish that was refused because of `Full`.
    pub fn count_refused(&self) {
        self.handle.0.ledger.book().state.refused_full += 1;
    }

    /// Everything up to here is synced to disk.
    #[must_use]
    pub fn durable(&self) -> Seq {
        self.handle.0.intake.durable()
    }

    /// Resolves when `durable() >= seq`, for a `seq` that this writer's `submit` gave. Cancel-safe.
    ///
    /// # Errors
    /// [`Closed`] when the buffer ended before that.
    pub async fn until_durable(&self, seq: Seq) -> Result<(), Closed> {
        if self.ticket.until_durable(&self.handle.0.intake, seq).await { Ok(()) } else { Err(Closed) }
    }

    /// Resolves when a submit may succeed again. Cancel-safe.
    pub async fn room(&self) {
        self.handle.0.intake.room().await;
    }

    /// Submits, waiting for room, and waits until the reading is on disk.
    /// Cancelled while it waits for the disk, the reading is stored all the same.
    ///
    /// # Errors
    /// [`Closed`] when the buffer ended before that.
    pub async fn append(&mut self, reading: &Incoming<'_>) -> Result<Seq, Closed> {
        loop {
            match self.submit(reading, Wait::ForAck) {
                Ok(seq) => return self.until_durable(seq).await.map(|()| seq),
                Err(SubmitError::Closed) => return Err(Closed),
                Err(SubmitError::Full) => self.room().await,
            }
        }
    }
}
