//! Sends readings on: one forwarder a sink, generic over it.
//!
//! A round: wait for the pace, read a batch, give the readings their true times, let the sink plan, send the rows,
//! settle. Readings leave the buffer's books only in `settle`, after the far side has answered for them; a crash
//! at any point sends some of them again, never fewer. While a delivery is under way its rows stay as they
//! are, so that a row whose outcome is unknown is sent again with the same bytes.
//!
//! After an outage the sink gets the newest readings first and the backlog behind them, if it is configured so.
//! A forwarder holds at most one batch in memory and has its own pace: its trouble is its own.

mod delivery;
mod plan;
mod status;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::buffer::{Closed, DropReason, Limits, Outcome, Reader};
use crate::clock::{Clock, Resolved};
use crate::config::{self, SinkName};
use crate::message::{Reading, Seq};
use crate::sink::pace::Pace;
use crate::sink::{Accepted, Batch, Behind, Row, SendError, Sink, TimedReading};
use delivery::{Delivery, Part, Step, Trust};
use plan::Work;
pub use status::{ForwarderStatus, State, Trouble};

/// How often to look whether readings have got their true time, or more of a batch has come.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How often a remark is repeated in the log.
const REMARK_INTERVAL: Duration = Duration::from_secs(24 * 3_600);

/// Sends readings to one sink.
#[derive(Debug)]
pub struct Forwarder<S> {
    name: SinkName,
    streams: BTreeSet<String>,
    live_first: bool,
    sink: S,
    reader: Reader,
    clock: Clock,
    pace: Pace,
    /// Rows that a request may hold: halved when one was too large, growing back slowly.
    max_rows: usize,
    given_up_in_a_row: u32,
    /// How many deliveries have ended as suspect since a row was accepted.
    suspicions: u32,
    /// Whether a suspicion turned out to be wrong, so that a batch may be given up whole.
    is_trusting: bool,
    /// Whether requests have failed since the last one that was accepted, or none was sent yet.
    is_recovering: bool,
    /// The batch that made no progress: first and last number, length.
    stuck: Option<(Seq, Seq, usize)>,
    drain: status::Drain,
    remarked: Option<Instant>,
    status: watch::Sender<ForwarderStatus>,
    /// Whether an operator lets it rest.
    paused: Option<watch::Receiver<bool>>,
}

/// Why a forwarder ends.
#[derive(Debug)]
enum End {
    Cancelled,
    BufferClosed,
}

impl From<Closed> for End {
    fn from(_: Closed) -> Self {
        Self::BufferClosed
    }
}

impl<S: Sink> Forwarder<S> {
    /// A forwarder that has not begun yet.
    #[must_use]
    pub fn new(settings: &config::Sink, sink: S, reader: Reader, clock: Clock) -> Self {
        let bounds = sink.bounds();
        let status = ForwarderStatus {
            pending: reader.pending(),
            max_rows: bounds.max_rows,
            ..ForwarderStatus::default()
        };
        Self {
            name: settings.name.clone(),
            streams: settings.streams.iter().cloned().collect(),
            live_first: settings.live_first,
            sink,
            reader,
            clock,
            pace: Pace::new(bounds.interval, bounds.spacing),
            max_rows: bounds.max_rows,
            given_up_in_a_row: 0,
            suspicions: 0,
            is_trusting: false,
            is_recovering: true,
            stuck: None,
            drain: status::Drain::default(),
            remarked: None,
            status: watch::channel(status).0,
            paused: None,
        }
    }

    /// While this says so, nothing is sent; a request in flight is finished.
    #[must_use]
    pub fn paused_by(self, paused: watch::Receiver<bool>) -> Self {
        Self { paused: Some(paused), ..self }
    }

    /// What the forwarder is doing, as it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<ForwarderStatus> {
        self.status.subscribe()
    }

    /// Sends until it is cancelled. A request in flight is then finished and settled: that takes no longer than
    /// the sink's timeout.
    pub async fn run(mut self, cancel: CancellationToken) {
        loop {
            match self.round(&cancel).await {
                Ok(()) => {}
                Err(End::Cancelled) => return,
                Err(End::BufferClosed) => {
                    debug!(sink = %self.name, "the buffer is closed: nothing more is forwarded");
                    return;
                }
            }
        }
    }

    async fn round(&mut self, cancel: &CancellationToken) -> Result<(), End> {
        self.pause_until(self.pace.next(), cancel).await?;
        let Some(readings) = self.read(cancel).await? else { return Ok(()) };
        self.enter(State::Running);
        let behind = self.behind(&readings);
        let timed = self.timed(&readings);
        if timed.is_empty() {
            self.enter(State::ClockWait);
            return self.pause_until(Instant::now() + LOOK_AGAIN, cancel).await;
        }
        let (selected, others): (Vec<_>, Vec<_>) = timed
            .into_iter()
            .partition(|timed| self.streams.is_empty() || self.streams.contains(&*timed.reading.stream));
        let batch = Batch {
            readings: &selected,
            behind,
            now_ms: self.now_ms(),
            max_rows: self.sink.bounds().max_rows,
        };
        let plan = self.sink.plan(&batch);
        let wait = plan.wait;
        let work = Work::new(plan, others.iter().map(|timed| timed.reading.seq), &readings);
        if work.is_empty() {
            self.stuck = fingerprint(&readings);
            let again = wait.unwrap_or(if behind == Behind::More { Duration::ZERO } else { LOOK_AGAIN });
            return self.pause_until(Instant::now() + again, cancel).await;
        }
        self.stuck = None;
        let trust = self.trust(&work, &readings);
        let ended = self.deliver(work, trust, cancel).await;
        self.pace.batch_ended();
        ended
    }

    /// `None`: it may be that it is to rest.
    async fn read(&mut self, cancel: &CancellationToken) -> Result<Option<Vec<Reading>>, End> {
        if self.reader.pending() == 0 {
            self.enter(State::Idle);
            self.is_trusting = false;
        }
        let bounds = self.sink.bounds();
        let limits = Limits { max_readings: bounds.max_readings, max_bytes: bounds.max_bytes };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(End::Cancelled),
            () = changed(&mut self.paused) => Ok(None),
            readings = self.reader.next(limits) => Ok(Some(readings?)),
        }
    }

    /// Whether more waits behind a batch. The same batch again, though more waits, is as large as batches get.
    fn behind(&self, readings: &[Reading]) -> Behind {
        if self.reader.pending() <= readings.len() as u64 {
            return Behind::Nothing;
        }
        if self.stuck.is_some() && self.stuck == fingerprint(readings) {
            Behind::OutOfReach
        } else {
            Behind::More
        }
    }

    /// The readings with their true times. Those whose time is not known yet are left out: all later ones of
    /// the same boot are left out with them, so nothing overtakes them.
    fn timed(&self, readings: &[Reading]) -> Vec<TimedReading> {
        let resolve = |reading: &Reading| match self.clock.resolve(&reading.received) {
            Resolved::At(at_ms, quality) => Some(TimedReading { reading: reading.clone(), at_ms, quality }),
            Resolved::Wait => None,
        };
        readings.iter().filter_map(resolve).collect()
    }

    fn trust(&self, work: &Work, batch: &[Reading]) -> Trust {
        match self.suspicions {
            0 if self.is_trusting => Trust::Full,
            0 => Trust::Usual(self.given_up_in_a_row),
            turn => Trust::Suspicion(work.probes(batch, turn)),
        }
    }

    /// Sends the rows of a plan, until each is accepted or given up, or the delivery is held.
    async fn deliver(&mut self, mut work: Work, trust: Trust, cancel: &CancellationToken) -> Result<(), End> {
        let mut delivery = Delivery::new(work.rows.len(), trust);
        // Trust is used up by a batch of which nothing is accepted.
        let trusted = std::mem::take(&mut self.is_trusting);
        while let Some(part) = delivery.next(self.max_rows) {
            self.pause_until(self.pace.next(), cancel).await?;
            let result = self.sink.send(&work.rows[part.rows.clone()]).await;
            self.pace.sent();
            match result {
                Ok(accepted) => {
                    delivery.accepted(&part);
                    self.is_trusting |= trusted || self.suspicions > 0;
                    let outcomes = work.delivered(part.rows.clone());
                    self.settle(&outcomes).await?;
                    self.succeeded(&work.rows[part.rows], accepted);
                }
                Err(error) => {
                    if self.failed(&mut work, &mut delivery, part, error).await? {
                        return Ok(());
                    }
                }
            }
            self.given_up_in_a_row = delivery.given_up_in_a_row();
        }
        if let Err(why) = delivery.finish() {
            self.suspect(&why);
        }
        let rest = work.rest();
        self.settle(&rest).await?;
        self.publish(|_| ());
        Ok(())
    }

    /// Does what a refusal asks for; true when the delivery is over.
    async fn failed(
        &mut self,
        work: &mut Work,
        delivery: &mut Delivery,
        part: Part,
        error: SendError,
    ) -> Result<bool, End> {
        let why = error.to_string();
        let rows = part.rows.len();
        self.note_failure(&why);
        let step = delivery.failed(part, error);
        match step {
            Step::Continue => {}
            Step::Smaller => self.max_rows = (rows / 2).max(1),
            Step::Wait { after, smaller } => {
                if smaller {
                    self.max_rows = (rows / 2).max(1);
                }
                self.wait(after, &why);
            }
            Step::Duplicate(row) => {
                self.publish(|status| status.duplicates += 1);
                let outcomes = work.delivered(row..row + 1);
                self.settle(&outcomes).await?;
            }
            Step::GiveUp(row) => self.give_up(work, row, &why).await?,
            Step::Suspect | Step::Hold => {
                self.given_up_in_a_row = delivery.given_up_in_a_row();
                if step == Step::Hold {
                    self.hold(&why)
                } else {
                    self.suspect(&why)
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn succeeded(&mut self, rows: &[Row], accepted: Accepted) {
        let bounds = self.sink.bounds();
        self.pace.succeeded();
        self.max_rows = bounds.max_rows.min(self.max_rows + (self.max_rows / 8).max(1));
        if std::mem::take(&mut self.is_recovering) {
            self.drain.forget();
            if self.status.borrow().failures > 0 {
                info!(sink = %self.name, pending = self.reader.pending(), "readings are forwarded again");
            }
            let is_suspect = self.suspicions > 0;
            if self.live_first && !is_suspect && self.reader.pending() > bounds.max_rows as u64 {
                self.reader.split_live();
            }
        }
        self.suspicions = 0;
        let pending = self.reader.pending();
        self.drain.observe(Instant::now(), pending);
        let estimate = self.drain.estimate_s(pending, bounds.max_rows as u64);
        let (now_ms, max_rows) = (self.now_ms(), self.max_rows);
        let readings: usize = rows.iter().map(|row| row.carried.len()).sum();
        let remark = self.remark();
        self.publish(|status| {
            status.state = State::Running;
            status.requests += 1;
            status.rows += rows.len() as u64;
            if accepted == Accepted::Queued {
                status.unverified += readings as u64;
            }
            status.last_success_ms = Some(now_ms);
            status.drain_estimate_s = estimate;
            status.max_rows = max_rows;
            status.remark = remark;
        });
    }

    fn remark(&mut self) -> Option<String> {
        let remark = self.sink.remark()?;
        if self.remarked.is_none_or(|then| then.elapsed() >= REMARK_INTERVAL) {
            self.remarked = Some(Instant::now());
            warn!(sink = %self.name, "{remark}");
        }
        Some(remark)
    }

    fn note_failure(&mut self, why: &str) {
        let trouble = Trouble { at_ms: self.now_ms(), why: why.to_owned() };
        let is_new = self.status.borrow().last_error.as_ref().is_none_or(|last| last.why != why);
        if is_new || !self.is_recovering {
            warn!(sink = %self.name, pending = self.reader.pending(), "a request was not accepted: {why}");
        } else {
            debug!(sink = %self.name, "a request was not accepted: {why}");
        }
        self.publish(|status| {
            status.requests += 1;
            status.failures += 1;
            status.last_error = Some(trouble);
        });
    }

    /// Leaves the far side alone for a while.
    fn wait(&mut self, asked: Option<Duration>, why: &str) {
        self.is_recovering = true;
        let delay = self.pace.failed(asked);
        debug!(sink = %self.name, delay_ms = delay.as_millis() as u64, "the same rows go again after a pause: {why}");
        self.enter(State::Waiting { until_ms: self.after(delay) });
    }

    /// Leaves the far side alone until somebody may have repaired it.
    fn hold(&mut self, why: &str) {
        self.is_recovering = true;
        let delay = self.pace.held();
        error!(
            sink = %self.name,
            retry_in_s = delay.as_secs(),
            pending = self.reader.pending(),
            "forwarding is on hold until this is repaired, readings are kept: {why}"
        );
        self.enter(State::Holding { why: why.to_owned(), until_ms: self.after(delay) });
    }

    /// Every row is refused: leaves the far side alone for a while, and tries other readings then.
    fn suspect(&mut self, why: &str) {
        self.is_recovering = true;
        self.is_trusting = false;
        self.suspicions = self.suspicions.saturating_add(1);
        self.look_elsewhere();
        let delay = self.pace.failed(None);
        if self.suspicions == 1 {
            error!(
                sink = %self.name,
                pending = self.reader.pending(),
                "rows are refused and none is accepted: readings are kept until one is: {why}"
            );
        }
        self.enter(State::Holding { why: why.to_owned(), until_ms: self.after(delay) });
    }

    /// Lets the next batch begin elsewhere: every other time with the newest readings, and the oldest behind
    /// them; between that at places that lie ever closer.
    fn look_elsewhere(&mut self) {
        let (pending, batch) = (self.reader.pending(), self.sink.bounds().max_readings as u64);
        if pending <= batch {
            return;
        }
        let backlog = match self.suspicions {
            newest if newest % 2 == 1 => pending - (batch / 2).max(1),
            // The bits of 1, 2, 3 … mirrored: 1/2, 1/4, 3/4, 1/8 …
            turn => ((u128::from(pending) * u128::from((turn / 2).reverse_bits())) >> u32::BITS) as u64,
        };
        if !self.reader.split_behind(backlog) {
            debug!(sink = %self.name, "too many gaps between the readings that wait to look elsewhere");
        }
    }

    async fn give_up(&mut self, work: &Work, row: usize, why: &str) -> Result<(), End> {
        let outcomes = work.given_up(row, why);
        warn!(sink = %self.name, readings = outcomes.len(), "refused readings are kept as dead letters: {why}");
        self.settle(&outcomes).await
    }

    async fn settle(&mut self, outcomes: &[(Seq, Outcome)]) -> Result<(), End> {
        Ok(self.reader.settle(outcomes).await?)
    }

    async fn pause_until(&mut self, moment: Instant, cancel: &CancellationToken) -> Result<(), End> {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(End::Cancelled),
            () = tokio::time::sleep_until(moment) => {}
        }
        while self.paused.as_ref().is_some_and(|paused| *paused.borrow()) {
            self.enter(State::Paused);
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(End::Cancelled),
                () = changed(&mut self.paused) => {}
            }
        }
        Ok(())
    }

    fn enter(&self, state: State) {
        self.publish(|status| {
            if matches!(state, State::Waiting { .. } | State::Holding { .. } | State::Paused) {
                status.drain_estimate_s = None;
            }
            status.state = state;
        });
    }

    fn publish(&self, change: impl FnOnce(&mut ForwarderStatus)) {
        let pending = self.reader.pending();
        let max_rows = self.max_rows;
        self.status.send_modify(|status| {
            status.pending = pending;
            status.max_rows = max_rows;
            change(status);
        });
    }

    fn after(&self, delay: Duration) -> i64 {
        self.now_ms().saturating_add(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX))
    }

    /// The wall clock, as true as it is known.
    fn now_ms(&self) -> i64 {
        let stamp = self.clock.stamp();
        match self.clock.resolve(&stamp) {
            Resolved::At(at_ms, _) => at_ms,
            Resolved::Wait => stamp.wall_ms,
        }
    }
}

/// Waits until something has changed; for ever if nothing can.
async fn changed(switch: &mut Option<watch::Receiver<bool>>) {
    if let Some(receiver) = switch
        && receiver.changed().await.is_err()
    {
        *switch = None;
    }
    if switch.is_none() {
        std::future::pending::<()>().await;
    }
}

fn fingerprint(readings: &[Reading]) -> Option<(Seq, Seq, usize)> {
    Some((readings.first()?.seq, readings.last()?.seq, readings.len()))
}
