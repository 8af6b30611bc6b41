//! The audit log: what was refused and what was changed, to be read afterwards with `tampu audit`.
//!
//! ```text
//! DIR/                0700
//!   audit.jsonl       the newest entries, a JSON object a line
//!   audit.1.jsonl     older ones …
//!   audit.3.jsonl     … the oldest; 1 MiB each
//!   .lock             held while something is written: commands write beside a running gateway
//! ```
//!
//! A gateway writes on a thread of its own: at once after a quiet time, then every ten seconds, and no more bytes
//! a minute than an SD card can bear for years. What is beyond is left out, and so is what repeats itself: of one
//! reason at one address five entries, then one in half a minute, whatever devices are there. What was left out is
//! counted in the next entry, of whatever reason and whoever it is about: an entry says that something is missing
//! before it, and the counters of the status say how often each reason was met.
//! A power cut takes the entries of the last ten seconds.
//!
//! An entry tells who a peer has *shown* to be (`device`) from who it only *says* it is (`claimed`): with a certificate
//! that was refused, a wrong password, key or token. Its client id is its own choice in any case.

mod entry;
mod file;
mod writer;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use crate::clock::Clock;

pub use entry::{Entry, Event, Whom};
pub use file::{append, read};

use writer::{Order, Writer};

/// Entries that wait to be written. A flood fills it while the disk is slow; the rest is counted.
const MAX_WAITING: usize = 1_024;
/// How long the end of the program waits for the last entries to be written.
const FLUSH_DEADLINE: Duration = Duration::from_secs(2);

/// Where the audit log of a gateway is.
#[must_use]
pub fn dir(data_dir: &Path) -> PathBuf {
    data_dir.join("audit")
}

/// Writes entries, and never keeps its caller waiting. Cheap to clone. The default writes nothing.
#[derive(Clone, Default)]
pub struct Audit(Option<Arc<Handle>>);

struct Handle {
    clock: Clock,
    orders: SyncSender<Order>,
    left_out: AtomicU64,
}

impl Audit {
    /// Starts the thread that writes to this directory, which it makes.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(dir: PathBuf, clock: Clock) -> std::io::Result<Self> {
        let (orders, received) = sync_channel(MAX_WAITING);
        let writer = Writer::new(dir);
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run(&received))?;
        Ok(Self(Some(Arc::new(Handle { clock, orders, left_out: AtomicU64::new(0) }))))
    }

    /// Writes down what has happened just now. `left_out`: as many entries were not given before this one.
    pub fn record(&self, event: Event<'_>, left_out: u64) {
        let Some(handle) = &self.0 else { return };
        let left_out = left_out + handle.left_out.swap(0, Ordering::Relaxed);
        let order = Order::Write(Box::new(Entry::new(event, handle.clock.stamp(), left_out)));
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = handle.orders.try_send(order) {
            handle.left_out.fetch_add(left_out + 1, Ordering::Relaxed);
        }
    }

    /// Waits, for a short while, until everything is on disk. Not on an async thread.
    pub fn flush(&self) {
        let Some(handle) = &self.0 else { return };
        let (done, is_done) = sync_channel(1);
        if handle.orders.try_send(Order::Flush(done)).is_ok() {
            // Late or not: the program ends.
            is_done.recv_timeout(FLUSH_DEADLINE).ok();
        }
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Audit").field(&self.0.is_some()).finish()
    }
}
