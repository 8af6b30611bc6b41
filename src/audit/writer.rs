//! The thread that writes, no more often and no more than the card can bear.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use super::Entry;
use super::file::append_lines;

/// Between two writes; what comes at once after the first of a quiet time goes with it.
const PERIOD: Duration = Duration::from_secs(10);
const COLLECT: Duration = Duration::from_millis(100);
/// In a flood about 90 MB a day, which a card bears for years; 200 lines at once and 5 a second are no flood.
const BYTES_PER_SECOND: f64 = 1024.0;
const MAX_BURST_BYTES: f64 = 64.0 * 1024.0;
/// How often an error of the file system is logged.
const ERROR_PERIOD: Duration = Duration::from_secs(3_600);

pub(super) enum Order {
    Write(Box<Entry>),
    /// Tells when everything before it is on disk.
    Flush(SyncSender<()>),
}

pub(super) struct Writer {
    dir: PathBuf,
    lines: Vec<u8>,
    left_out: u64,
    budget: f64,
    refilled: Instant,
    written: Option<Instant>,
    complained: Option<Instant>,
}

impl Writer {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            lines: Vec::new(),
            left_out: 0,
            budget: MAX_BURST_BYTES,
            refilled: Instant::now(),
            written: None,
            complained: None,
        }
    }

    /// Until nobody can give orders any more.
    pub(super) fn run(mut self, orders: &Receiver<Order>) {
        let mut due: Option<Instant> = None;
        loop {
            let order = match due {
                None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => orders.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            match order {
                Ok(Order::Write(entry)) => {
                    self.take(*entry);
                    due.get_or_insert_with(|| self.due());
                }
                Ok(Order::Flush(done)) => {
                    self.write();
                    due = None;
                    // Whoever has asked may not wait any more.
                    done.try_send(()).ok();
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.write();
                    due = None;
                }
                Err(RecvTimeoutError::Disconnected) => return self.write(),
            }
        }
    }

    fn due(&self) -> Instant {
        let soon = Instant::now() + COLLECT;
        self.written.map_or(soon, |at| (at + PERIOD).max(soon))
    }

    /// Takes an entry, unless there were too many of late.
    pub(super) fn take(&mut self, mut entry: Entry) {
        let now = Instant::now();
        let refill = now.duration_since(self.refilled).as_secs_f64() * BYTES_PER_SECOND;
        (self.budget, self.refilled) = ((self.budget + refill).min(MAX_BURST_BYTES), now);
        entry.left_out += self.left_out;
        let line = entry.to_line();
        let bytes = f64::from(u32::try_from(line.len()).unwrap_or(u32::MAX));
        if bytes > self.budget {
            self.left_out = entry.left_out + 1;
            return;
        }
        self.budget -= bytes;
        self.left_out = 0;
        self.lines.extend_from_slice(&line);
    }

    fn write(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        self.written = Some(Instant::now());
        let lines = std::mem::take(&mut self.lines);
        if let Err(error) = append_lines(&self.dir, &lines) {
            self.left_out += lines.iter().filter(|byte| **byte == b'\n').count() as u64;
            if self.complained.is_none_or(|at| at.elapsed() >= ERROR_PERIOD) {
                self.complained = Some(Instant::now());
                tracing::error!(%error, dir = %self.dir.display(), "the audit log cannot be written");
            }
        }
    }
}
