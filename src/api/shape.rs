//! Forms that several resources share.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::problem::Problem;
use crate::message::DeviceId;

/// A name from a path.
pub(super) fn device(name: &str) -> Result<DeviceId, Problem> {
    DeviceId::parse(name).map_err(|error| Problem::not_found(format!("there is no device {name:?}: {error}")))
}

/// A time as RFC 3339 wants it, to the second.
pub(super) fn time(time: OffsetDateTime) -> String {
    let time = time.replace_nanosecond(0).unwrap_or(time);
    time.format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}

/// Milliseconds since 1970-01-01 UTC as RFC 3339 wants them.
pub(super) fn time_ms(ms: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000);
    let time = time.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}

/// Seconds, as the bounds of the schema say.
pub(super) fn seconds(seconds: Option<u64>) -> Result<Option<Duration>, Problem> {
    const MOST: u64 = 100 * 366 * 86_400;
    match seconds {
        Some(seconds) if seconds > MOST => {
            Err(Problem::invalid(format!("a time is at most {MOST} seconds: leave it out for \"for ever\"")))
        }
        seconds => Ok(seconds.map(Duration::from_secs)),
    }
}
