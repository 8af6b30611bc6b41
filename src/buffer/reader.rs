//! The handle that reads for one sink.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::block::Names;
use super::cursor::{Fate, MAX_RANGES};
use super::letter::Letter;
use super::thread::Command;
use super::{ASK_AGAIN, Closed, DropReason, Handle, Limits, Outcome};
use crate::config::SinkName;
use crate::message::{Reading, Seq};

const REPAIR_PATIENCE: Duration = Duration::from_secs(2);
/// Dead letters that may wait in memory for the disk.
const MAX_LETTER_BYTES: usize = 1024 * 1024;

/// Reads for one sink and moves its cursor.
#[derive(Debug)]
pub struct Reader {
    handle: Arc<Handle>,
    sink: SinkName,
    ends: watch::Receiver<Seq>,
    /// From here on readings go first.
    live_from: Option<Seq>,
    /// Blocks that were decoded for the last answer.
    decoded: Vec<Vec<Reading>>,
    names: Names,
}

impl Reader {
    /// `None` when the sink is unknown or has a reader.
    pub(super) fn new(handle: Arc<Handle>, sink: &SinkName) -> Option<Self> {
        let mut book = handle.0.ledger.book();
        let entry = book.sinks.get_mut(sink).filter(|entry| !entry.taken)?;
        entry.taken = true;
        drop(book);
        let ends = handle.0.ends.clone();
        let sink = sink.clone();
        Some(Self { handle, sink, ends, live_from: None, decoded: Vec::new(), names: Names::default() })
    }

    /// The next readings to send: from the live range first, if one was split off, then, with room left, the
    /// oldest. Waits until there is at least one. Skips and accounts by itself what is damaged or carries a `fault` (Unfit).
    /// Reading twice without settling gives the same readings again. Cancel-safe.
    ///
    /// # Errors
    /// [`Closed`] when the buffer has ended.
    pub async fn next(&mut self, limits: Limits) -> Result<Vec<Reading>, Closed> {
        loop {
            self.ends.mark_unchanged();
            let readings = self.peek(limits).await?;
            if !readings.is_empty() {
                return Ok(readings);
            }
            if self.pending() > 0 {
                tokio::time::sleep(ASK_AGAIN).await;
            } else if self.handle.0.or_closed(self.ends.changed()).await?.is_err() {
                return Err(Closed);
            }
        }
    }

    /// As `next`, but does not wait for readings: empty when nothing is pending, or when the store is in trouble for
    /// longer than a repair mostly takes (2 s).
    ///
    /// # Errors
    /// [`Closed`] when the buffer has ended.
    pub async fn peek(&mut self, limits: Limits) -> Result<Vec<Reading>, Closed> {
        let mut patience = REPAIR_PATIENCE;
        loop {
            if self.handle.0.intake.has_ended() {
                return Err(Closed);
            }
            let wanted = self.wanted(limits.max_readings);
            if wanted.is_empty() {
                return Ok(Vec::new());
            }
            self.decoded.retain(|block| wanted.iter().any(|range| overlap(block, *range)));
            if let Some((from, to)) = self.walk(&wanted, limits, |_| {}) {
                if !self.fetch(from, to).await? {
                    if patience.is_zero() {
                        return Ok(Vec::new());
                    }
                    patience = patience.saturating_sub(ASK_AGAIN);
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                // Either the blocks are here now, or their numbers were put on record as lost.
                continue;
            }
            let (mut readings, mut unfit) = (Vec::new(), Vec::new());
            self.walk(&wanted, limits, |reading| match reading.fault {
                None => readings.push(reading.clone()),
                Some(_) => unfit.push(reading.seq),
            });
            if !unfit.is_empty() {
                self.settle_runs(
                    Vec::new(),
                    unfit.into_iter().map(|seq| (seq, Fate::Dropped(DropReason::Unfit))),
                );
            }
            if !readings.is_empty() {
                return Ok(readings);
            }
        }
    }

    /// Says what became of readings. The cursor and the counters move in one atomic write, which reaches
    /// the disk with the next commit or within a second. Settled readings are not given again; to settle one
    /// twice changes nothing.
    ///
    /// # Errors
    /// [`Closed`] when the buffer has ended.
    pub async fn settle(&mut self, outcomes: &[(Seq, Outcome)]) -> Result<(), Closed> {
        if self.handle.0.intake.has_ended() {
            return Err(Closed);
        }
        let mut letters = Vec::new();
        for (seq, outcome) in outcomes {
            if let Outcome::DeadLetter(reason) = outcome {
                letters.extend(self.letter(*seq, reason).await?);
            }
        }
        let fate = |outcome: &Outcome| match outcome {
            Outcome::Delivered => Fate::Delivered,
            Outcome::Dropped(reason) => Fate::Dropped(*reason),
            Outcome::DeadLetter(_) => Fate::Dropped(DropReason::Rejected),
        };
        let letter_bytes =
            self.settle_runs(letters, outcomes.iter().map(|(seq, outcome)| (*seq, fate(outcome))));
        if letter_bytes > MAX_LETTER_BYTES {
            let (reply, written) = oneshot::channel();
            self.ask(Command::Write { reply }).await?;
            // No answer: the store is in trouble, and the letters wait with everything else.
            self.handle.0.answer(written).await?;
        }
        Ok(())
    }

    /// From now on new readings go first and what waits now is the backlog. False, and nothing changes, when
    /// the bounded list of ranges is used up.
    pub fn split_live(&mut self) -> bool {
        self.split_behind(u64::MAX)
    }

    /// As `split_live`, but only the oldest so many of what waits now are the backlog.
    pub fn split_behind(&mut self, backlog: u64) -> bool {
        let book = self.handle.0.ledger.book();
        let Some(sink) = book.sinks.get(&self.sink) else { return false };
        if sink.cursor.settled().as_slice().len() >= MAX_RANGES {
            return false;
        }
        let mut left = backlog;
        let mut place = book.state.end;
        for (from, to) in sink.cursor.pending_from(0, book.state.end) {
            if left < to - from {
                place = from + left;
                break;
            }
            left -= to - from;
        }
        drop(book);
        self.live_from = Some(place);
        true
    }

    /// How many readings are pending now, the backlog part of it.
    #[must_use]
    pub fn pending(&self) -> u64 {
        let book = self.handle.0.ledger.book();
        book.sinks.get(&self.sink).map_or(0, |sink| sink.cursor.pending(book.state.end))
    }

    /// The ranges that the next answer comes from, at most `most` numbers.
    fn wanted(&mut self, most: usize) -> Vec<(Seq, Seq)> {
        let book = self.handle.0.ledger.book();
        let Some(sink) = book.sinks.get(&self.sink) else { return Vec::new() };
        let end = book.state.end;
        let has_backlog = |live: &Seq| sink.cursor.pending_from(0, *live).next().is_some();
        self.live_from = self.live_from.filter(has_backlog);
        let live = self.live_from.unwrap_or(0);
        // The backlog fills what the live readings leave of an answer: where they never stop coming
        // it would otherwise never be read.
        let pending = sink.cursor.pending_from(live, end).chain(sink.cursor.pending_from(0, live));
        let mut left = most.max(1) as u64;
        let mut wanted = Vec::new();
        for (from, to) in pending {
            let to = to.min(from + left);
            wanted.push((from, to));
            left -= to - from;
            if left == 0 {
                break;
            }
        }
        wanted
    }

    /// Visits the decoded readings of these ranges within the limits, at least one. Stops at the first number that
    /// is not decoded, and tells from where to where it lacks some.
    fn walk(
        &self,
        wanted: &[(Seq, Seq)],
        limits: Limits,
        mut visit: impl FnMut(&Reading),
    ) -> Option<(Seq, Seq)> {
        let mut bytes = 0;
        for (from, to) in wanted {
            let mut seq = *from;
            while seq < *to {
                let Some(block) = self.decoded.iter().find(|block| overlap(block, (seq, seq + 1))) else {
                    return Some((seq, *to));
                };
                let skip = (seq - block[0].seq) as usize;
                for reading in block[skip..].iter().take_while(|reading| reading.seq < *to) {
                    bytes += reading.topic.len() + reading.payload.len();
                    if bytes > limits.max_bytes && reading.seq != wanted[0].0 {
                        return None;
                    }
                    visit(reading);
                    seq = reading.seq + 1;
                }
            }
        }
        None
    }

    /// Gets and decodes blocks of `[from, to)`. False when the store is in trouble.
    async fn fetch(&mut self, from: Seq, to: Seq) -> Result<bool, Closed> {
        let (reply, fetched) = oneshot::channel();
        self.ask(Command::Fetch { from, to, reply }).await?;
        let Some(blocks) = self.handle.0.answer(fetched).await? else { return Ok(false) };
        for block in blocks {
            match block.decode(&mut self.names) {
                Some(readings) => self.decoded.push(readings),
                None => self.ask(Command::Undecodable { first: block.first, end: block.end() }).await?,
            }
        }
        Ok(true)
    }

    /// `None` when the reading is settled already or cannot be had any more.
    async fn letter(&mut self, seq: Seq, reason: &str) -> Result<Option<Letter>, Closed> {
        let is_settled = {
            let book = self.handle.0.ledger.book();
            book.sinks.get(&self.sink).is_none_or(|sink| sink.cursor.settled().contains(seq))
        };
        if is_settled {
            return Ok(None);
        }
        if !self.decoded.iter().any(|block| overlap(block, (seq, seq + 1))) {
            self.fetch(seq, seq + 1).await?;
        }
        let block = self.decoded.iter().find(|block| overlap(block, (seq, seq + 1)));
        Ok(block.map(|block| Letter::refused(&block[(seq - block[0].seq) as usize], &self.sink, reason)))
    }

    /// Moves the cursor, with the dead letters that belong to it. Says how many bytes of such wait in memory.
    fn settle_runs(&self, letters: Vec<Letter>, fates: impl Iterator<Item = (Seq, Fate)>) -> usize {
        let mut book = self.handle.0.ledger.book();
        book.letters.extend(letters);
        let letter_bytes = book.letters.iter().map(Letter::size).sum();
        let end = book.state.end;
        let Some(sink) = book.sinks.get_mut(&self.sink) else { return letter_bytes };
        let mut fresh = 0;
        let mut run: Option<(Seq, Seq, Fate)> = None;
        for (seq, fate) in fates.filter(|(seq, _)| *seq < end) {
            run = match run {
                Some((from, to, same)) if seq == to && same == fate => Some((from, to + 1, fate)),
                _ => {
                    fresh += run.map_or(0, |(from, to, fate)| sink.cursor.settle(from, to, fate));
                    Some((seq, seq + 1, fate))
                }
            };
        }
        fresh += run.map_or(0, |(from, to, fate)| sink.cursor.settle(from, to, fate));
        sink.dirty |= fresh > 0;
        drop(book);
        if fresh > 0 {
            self.handle.0.intake.poke();
        }
        letter_bytes
    }

    async fn ask(&self, command: Command) -> Result<(), Closed> {
        self.handle.0.ask(command).await
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(sink) = self.handle.0.ledger.book().sinks.get_mut(&self.sink) {
            sink.taken = false;
        }
    }
}

/// Whether a decoded block, which is never empty, holds any of a range.
fn overlap(block: &[Reading], (from, to): (Seq, Seq)) -> bool {
    match block {
        [first, ..] => first.seq < to && from < first.seq + block.len() as u64,
        [] => false,
    }
}
