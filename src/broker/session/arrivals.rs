//! When the input came that is held back. It may stand there for hours, and its readings were received then.

use std::collections::VecDeque;

use crate::message::Stamp;

/// What comes within so many milliseconds has one stamp.
const SAME_MS: u64 = 100;

/// Stamps that are remembered; what comes beyond has the last one.
const MAX_STAMPS: usize = 64;

/// The stamps of input that could not be taken when it came. Empty, and free, while nothing is held back.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    stamps: VecDeque<(usize, Stamp)>,
    bytes: usize,
}

impl Arrivals {
    /// So many bytes are held back; those that were not before came at `stamp`.
    pub(super) fn hold(&mut self, bytes: usize, stamp: Stamp) {
        let fresh = bytes - self.bytes;
        if fresh == 0 {
            return;
        }
        self.bytes = bytes;
        let is_full = self.stamps.len() >= MAX_STAMPS;
        match self.stamps.back_mut() {
            Some((bytes, last)) if is_full || stamp.boot_ms.saturating_sub(last.boot_ms) < SAME_MS => {
                *bytes += fresh;
            }
            _ => self.stamps.push_back((fresh, stamp)),
        }
    }

    /// So many bytes, a whole packet, were taken. Returns when the last of them came; `None` if that is just now.
    pub(super) fn take(&mut self, mut count: usize) -> Option<Stamp> {
        while let Some((bytes, stamp)) = self.stamps.front_mut() {
            if let Some(left) = bytes.checked_sub(count).filter(|left| *left > 0) {
                self.bytes -= count;
                *bytes = left;
                return Some(*stamp);
            }
            let (bytes, stamp) = (*bytes, *stamp);
            self.bytes -= bytes;
            count -= bytes;
            self.stamps.pop_front();
            if count == 0 {
                return Some(stamp);
            }
        }
        None
    }

    /// Nothing is held back any more; what is left of the input is no whole packet yet.
    pub(super) fn clear(&mut self) {
        if self.bytes > 0 {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{BootId, ClockQuality};

    fn at(boot_ms: u64) -> Stamp {
        Stamp { wall_ms: 0, boot_ms, boot: BootId([0; 16]), quality: ClockQuality::Synchronized }
    }

    fn taken(arrivals: &mut Arrivals, count: usize) -> Option<u64> {
        arrivals.take(count).map(|stamp| stamp.boot_ms)
    }

    #[test]
    fn a_packet_was_received_when_its_last_byte_came() {
        let mut arrivals = Arrivals::default();
        arrivals.hold(10, at(1_000));
        arrivals.hold(10, at(2_000));
        arrivals.hold(15, at(3_000));
        assert_eq!(taken(&mut arrivals, 4), Some(1_000));
        assert_eq!(taken(&mut arrivals, 6), Some(1_000));
        arrivals.hold(8, at(4_000));
        assert_eq!(taken(&mut arrivals, 6), Some(4_000), "of it, one byte came then");
        assert_eq!(taken(&mut arrivals, 9), None, "its end is not held back");
        assert_eq!((arrivals.bytes, arrivals.stamps.len()), (0, 0));
    }

    #[test]
    fn a_flood_costs_a_few_stamps() {
        let mut arrivals = Arrivals::default();
        for n in 1..=10_000 {
            arrivals.hold(n, at(n as u64 * SAME_MS / 10));
        }
        assert_eq!(arrivals.stamps.len(), MAX_STAMPS);
        assert_eq!((0..10_000).filter_map(|_| taken(&mut arrivals, 1)).count(), 10_000);
    }
}
