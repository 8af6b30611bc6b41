//! What the broker does without being asked: it reads at its start what was kept, ends the sessions whose clients
//! have been away for too long, publishes wills when their delay is over, and forgets retained messages that expired.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::kept::{self, Loaded};
use super::{Broker, Shared};
use crate::buffer::{Change, Closed, SubmitError, Table, Wait, Writer};

/// So late a session ends, or a will is published, at most. A client that comes back is told the truth anyway.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Retained messages that are over are not given to anybody anyway.
const SWEEP_RETAINED_TICKS: u32 = 60;

impl Broker {
    /// Reads what was kept, then keeps order, until it is cancelled. Nobody is let in before the first is done.
    pub async fn run(self, cancel: CancellationToken) {
        let work = async {
            if self.0.load().await.is_ok() {
                self.0.keep_order().await;
            }
            // The buffer has ended, and with it everything.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = work => {}
            () = cancel.cancelled() => {}
        }
    }
}

impl Shared {
    async fn load(&self) -> Result<(), Closed> {
        self.ledger.load().await?;
        let Loaded { sessions, commands, mut useless, last_number } =
            kept::load(&self.buffer, self.registry.depot(), self.clock.stamp()).await?;
        if !useless.is_empty() {
            tracing::warn!(
                records = useless.len(),
                "records of sessions that belong to none, or cannot be read"
            );
        }
        if !sessions.is_empty() {
            tracing::info!(sessions = sessions.len(), "sessions are kept for clients that may come back");
        }
        for session in &sessions {
            for subscription in &session.subscriptions {
                self.subscriptions.add(subscription, &session.mailbox);
            }
        }
        let wills: Vec<_> = sessions
            .iter()
            .filter_map(|session| self.inherited(session.will.clone()?, &session.key, &session.mailbox))
            .collect();
        self.registry.restore(sessions, last_number);
        let retained = self.retained.load(self.buffer.records(Table::Retained).await?, &self.clock);
        if retained.unreadable > 0 {
            tracing::warn!(records = retained.unreadable, "records of retained messages that cannot be read");
        }
        useless.extend(retained.changes);
        submit(&mut self.buffer.writer(), useless).await?;
        // Behind the retained messages, as a will may be one.
        wills
            .into_iter()
            .for_each(|(testament, wait)| self.wait_or_execute(testament, wait, self.clock.stamp()));
        self.ledger.restored(&commands);
        // It is set here alone.
        self.ready.set(()).ok();
        Ok(())
    }

    async fn keep_order(&self) {
        let mut writer = self.buffer.writer();
        let mut ticks_until_retained = SWEEP_RETAINED_TICKS;
        let mut ticks = tokio::time::interval(SWEEP_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.ledger.sweep();
            let ended = self.registry.sweep(&self.clock);
            self.counters.sessions_expired.add(ended.len() as u64);
            let mut changes: Vec<_> = ended.iter().flat_map(|ended| self.clear(ended)).collect();
            for (_, testament) in self.wills.due(self.clock.stamp().boot_ms) {
                self.execute(testament);
            }
            ticks_until_retained -= 1;
            if ticks_until_retained == 0 {
                ticks_until_retained = SWEEP_RETAINED_TICKS;
                changes.extend(self.retained.sweep(&self.clock));
            }
            if submit(&mut writer, changes).await.is_err() {
                return;
            }
        }
    }
}

/// Submits changes for which nobody waits, when there is room.
async fn submit(writer: &mut Writer, changes: Vec<Change>) -> Result<(), Closed> {
    if changes.is_empty() {
        return Ok(());
    }
    loop {
        match writer.submit(None, changes.clone(), Wait::Nobody) {
            Ok(_) => return Ok(()),
            Err(SubmitError::Closed) => return Err(Closed),
            Err(SubmitError::Full) => writer.room().await,
        }
    }
}
