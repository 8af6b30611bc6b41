//! Watches the thread that owns the store: a call into the store or the system may never return, after an I/O error or
//! on a disk that has died. Nothing can end such a call, so whoever runs the buffer is told, and ends the process.

use std::cell::RefCell;
use std::fmt;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A thread is looked at so often, or ten times within the time that one step of it may take.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After this part of that time a step is worth a word in the status.
const SLOW: u32 = 4;

/// The store's thread has not moved for so long that it never will.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store stands still: {doing} has not come to an end for {} s", stood.as_secs())]
pub struct Stuck {
    /// The step that does not end.
    pub doing: &'static str,
    /// For how long, at least. The time that a machine sleeps does not count.
    pub stood: Duration,
}

/// What the store's thread says it is doing.
pub(super) struct Pulse {
    step: Mutex<Step>,
    /// How long a step may take.
    patience: Duration,
}

/// Wakes a thread that may wait in vain. Must not block.
type Nudge = Box<dyn Fn() + Send>;

struct Step {
    /// Counts, so that two steps of one name are not taken for one.
    number: u64,
    /// `None`: it waits for something to do.
    doing: Option<&'static str>,
    /// What this step may take beyond the patience.
    allowance: Duration,
    /// Called at each look while the step lasts.
    nudge: Option<Nudge>,
    since: Instant,
}

thread_local! {
    /// The pulse of the store's thread, on that thread; nothing on others, whose calls nobody watches.
    static PULSE: RefCell<Option<Arc<Pulse>>> = const { RefCell::new(None) };
}

/// This thread begins a step, which ends with the next one or with [`rest`]. A long loop takes many.
pub(super) fn step(doing: &'static str) {
    long_step(doing, Duration::ZERO);
}

/// As [`step`], for one that may take longer than others.
pub(super) fn long_step(doing: &'static str, allowance: Duration) {
    set(Some(doing), allowance, None);
}

/// As [`step`], for one that may have to be woken.
pub(super) fn nudged_step(doing: &'static str, nudge: impl Fn() + Send + 'static) {
    set(Some(doing), Duration::ZERO, Some(Box::new(nudge)));
}

/// This thread has nothing to do.
pub(super) fn rest() {
    set(None, Duration::ZERO, None);
}

fn set(doing: Option<&'static str>, allowance: Duration, nudge: Option<Nudge>) {
    PULSE.with_borrow(|pulse| {
        if let Some(pulse) = pulse {
            let mut step = pulse.step();
            *step = Step { number: step.number + 1, doing, allowance, nudge, since: Instant::now() };
        }
    });
}

impl Pulse {
    pub(super) fn new(patience: Duration) -> Arc<Self> {
        let (doing, allowance, nudge) = (None, Duration::ZERO, None);
        let step = Step { number: 0, doing, allowance, nudge, since: Instant::now() };
        Arc::new(Self { step: Mutex::new(step), patience })
    }

    /// From now on the steps of this thread are those of this pulse.
    pub(super) fn watch_this_thread(self: &Arc<Self>) {
        PULSE.set(Some(Arc::clone(self)));
    }

    /// What takes long, if anything does.
    pub(super) fn slow(&self) -> Option<String> {
        let (doing, taken) = {
            let step = self.step();
            (step.doing, step.since.elapsed())
        };
        let doing = doing.filter(|_| taken >= self.patience / SLOW)?;
        Some(format!("the disk is slow: {doing} has taken {} s so far", taken.as_secs()))
    }

    /// Waits until `end` is told or dropped.
    ///
    /// # Errors
    /// When the thread of this pulse stands still before that.
    pub(super) fn watch<T>(&self, end: &Receiver<T>) -> Result<Option<T>, Stuck> {
        let look = LOOK_EVERY.min(self.patience / 10);
        let (mut last, mut stood) = (self.step().number, Duration::ZERO);
        loop {
            match end.recv_timeout(look) {
                Ok(told) => return Ok(Some(told)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let step = self.step();
            if step.number != last {
                (last, stood) = (step.number, Duration::ZERO);
                continue;
            }
            // Looks are counted, not the time: while the machine sleeps, or the process is stopped, there are none.
            stood += look;
            step.nudge.iter().for_each(|nudge| nudge());
            if let Some(doing) = step.doing
                && stood >= self.patience + step.allowance
            {
                return Err(Stuck { doing, stood });
            }
        }
    }

    fn step(&self) -> MutexGuard<'_, Step> {
        self.step.lock().expect("nothing panics under this lock")
    }
}

impl fmt::Debug for Pulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pulse").field("doing", &self.step().doing).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(500);

    #[test]
    fn a_step_that_does_not_end_is_named() {
        let pulse = Pulse::new(PATIENCE);
        let (_still_there, end) = sync_channel::<()>(1);
        pulse.watch_this_thread();
        step("one");
        step("another");
        let stuck = pulse.watch(&end).unwrap_err();
        assert_eq!(stuck.doing, "another");
        assert!(stuck.stood >= PATIENCE, "{stuck}");
        assert!(pulse.slow().unwrap().contains("another"));
    }

    #[test]
    fn many_short_steps_rest_and_a_long_step_are_none_that_stands() {
        let pulse = Pulse::new(PATIENCE);
        let (done, end) = sync_channel(1);
        let theirs = Arc::clone(&pulse);
        let busy = std::thread::spawn(move || {
            theirs.watch_this_thread();
            // Far shorter than the patience, many times: a noisy machine must stretch one by a hundred.
            for _ in 0..150 {
                step("a short one");
                std::thread::sleep(Duration::from_millis(5));
            }
            rest();
            std::thread::sleep(2 * PATIENCE);
            long_step("a long one", Duration::from_secs(3_600));
            std::thread::sleep(2 * PATIENCE);
            done.send("done").unwrap();
        });
        assert_eq!(pulse.watch(&end), Ok(Some("done")));
        busy.join().unwrap();
    }

    #[test]
    fn a_thread_that_has_ended_is_not_stuck() {
        let pulse = Pulse::new(PATIENCE);
        let (alive, end) = sync_channel::<()>(1);
        pulse.watch_this_thread();
        step("the last");
        drop(alive);
        assert_eq!(pulse.watch(&end), Ok(None));
    }
}
