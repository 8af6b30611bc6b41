//! What the Linux kernel says about time.

use crate::message::BootId;

/// Milliseconds since boot, time asleep included.
pub(super) fn boottime_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// The id of this boot.
pub(super) fn boot_id() -> std::io::Result<BootId> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let hex: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&hex, 16)
        .map(|id| BootId(id.to_be_bytes()))
        .map_err(|error| std::io::Error::other(format!("boot_id {text:?}: {error}")))
}

/// Whether a time daemon has cleared `STA_UNSYNC` (adjtimex(2)).
#[allow(unsafe_code, reason = "no maintained crate reads the status of adjtimex(2)")]
pub(super) fn is_synchronized() -> bool {
    // SAFETY: `timex` is plain integers, for which zero is valid; `modes == 0` makes the call read only,
    // and the kernel writes no more than the struct it is given.
    let (state, status) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        let state = libc::adjtimex(&raw mut timex);
        (state, timex.status)
    };
    state >= 0 && state != libc::TIME_ERROR && status & libc::STA_UNSYNC == 0
}
