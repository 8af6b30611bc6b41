//! Whether a command would be accepted now, for sources whose commands are gone once they were asked for.

use super::{Ledger, Wanted};
use crate::message::DeviceId;
use crate::relay::command::State;

/// Why no further command would be accepted now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// The disk takes nothing.
    #[error("the disk takes nothing now")]
    Disk,
    /// Too many wait for this device.
    #[error("{device} has {open} commands without an end (commands.max_open_per_device)")]
    Device {
        /// Whose they are.
        device: DeviceId,
        /// How many.
        open: usize,
    },
    /// Too many wait.
    #[error("there are {open} commands without an end (commands.max_open)")]
    All {
        /// How many.
        open: u64,
    },
}

impl Ledger {
    /// Whether one more command for this device would be accepted, as far as that can be told beforehand.
    ///
    /// # Errors
    /// What is full.
    pub fn room_for(&self, device: &DeviceId) -> Result<(), NoRoom> {
        let settings = self.settings();
        if !self.0.buffer.writer().takes_records() {
            return Err(NoRoom::Disk);
        }
        let figures = self.figures();
        let all = figures.queued + figures.sent + figures.acked;
        if all >= settings.max_open as u64 {
            return Err(NoRoom::All { open: all });
        }
        let most = settings.max_open_per_device;
        let in_state = |state| {
            let wanted = Wanted { device: Some(device.clone()), state: Some(state), ..Wanted::default() };
            self.list(&wanted, None, most).commands.len()
        };
        let open = in_state(State::Queued) + in_state(State::Sent) + in_state(State::Acked);
        if open >= most {
            return Err(NoRoom::Device { device: device.clone(), open });
        }
        Ok(())
    }
}
