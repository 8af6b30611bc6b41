//! The forms of a point in time that both services take.

use time::{Date, Duration, Month, OffsetDateTime, Time, UtcOffset};

/// Why a text is no point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Invalid {
    /// It does not look like one.
    Form,
    /// It looks like one, and there is no such day, hour or offset.
    Range,
}

/// Reads `2026-01-01T00:00:00.5Z`, `2026-01-01 00:00:00 -0500` and the like. Without an offset: UTC if
/// `zone_needed` is false, else not a point in time.
pub(super) fn parse(text: &str, zone_needed: bool) -> Result<OffsetDateTime, Invalid> {
    let (date, rest) = text.trim().split_once(['T', 't', ' ']).ok_or(Invalid::Form)?;
    let [year, month, day] = numbers(date, '-')?;
    let zone_at = rest.find(['Z', 'z', '+', '-', ' ']).unwrap_or(rest.len());
    let (clock, zone) = rest.split_at(zone_at);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let [hour, minute, second] = numbers(clock, ':')?;
    let offset = offset_seconds(zone.trim(), zone_needed)?;

    let month = Month::try_from(narrow(month)?).map_err(|_| Invalid::Range)?;
    let year = i32::try_from(year).map_err(|_| Invalid::Range)?;
    let date = Date::from_calendar_date(year, month, narrow(day)?).map_err(|_| Invalid::Range)?;
    let time = Time::from_hms(narrow(hour)?, narrow(minute)?, narrow(second)?).map_err(|_| Invalid::Range)?;
    let offset = UtcOffset::from_whole_seconds(offset).map_err(|_| Invalid::Range)?;
    Ok(date.with_time(time).assume_offset(offset) + fraction_of_second(fraction)?)
}

fn numbers(text: &str, separator: char) -> Result<[u32; 3], Invalid> {
    let mut parts = text.split(separator).map(number);
    let three = [parts.next(), parts.next(), parts.next()];
    match (three, parts.next()) {
        ([Some(a), Some(b), Some(c)], None) => Ok([a?, b?, c?]),
        _ => Err(Invalid::Form),
    }
}

fn number(digits: &str) -> Result<u32, Invalid> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Invalid::Form);
    }
    digits.parse().map_err(|_| Invalid::Range)
}

fn narrow(number: u32) -> Result<u8, Invalid> {
    u8::try_from(number).map_err(|_| Invalid::Range)
}

/// `Z`, `+01`, `+0100`, `+01:00`.
fn offset_seconds(zone: &str, needed: bool) -> Result<i32, Invalid> {
    let sign = match zone.as_bytes() {
        [] if needed => return Err(Invalid::Form),
        [] | [b'Z' | b'z'] => return Ok(0),
        [b'+', ..] => 1,
        [b'-', ..] => -1,
        _ => return Err(Invalid::Form),
    };
    let digits = zone[1..].replacen(':', "", 1);
    let hhmm = match digits.len() {
        2 => number(&digits)? * 100,
        4 => number(&digits)?,
        _ => return Err(Invalid::Form),
    };
    let seconds = i32::try_from(hhmm / 100 * 3600 + hhmm % 100 * 60).map_err(|_| Invalid::Range)?;
    Ok(sign * seconds)
}

/// Rounded to microseconds, as PostgreSQL does.
fn fraction_of_second(digits: &str) -> Result<Duration, Invalid> {
    if digits.is_empty() {
        return Ok(Duration::ZERO);
    }
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Invalid::Form);
    }
    let seconds: f64 = format!("0.{digits}").parse().map_err(|_| Invalid::Form)?;
    #[allow(clippy::cast_possible_truncation, reason = "0 to 1,000,000")]
    let micros = (seconds * 1e6).round() as i64;
    Ok(Duration::microseconds(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_that_services_take_are_read() {
        for text in [
            "2026-01-01T00:00:00Z",
            "2026-01-01 00:00:00+00",
            "2025-12-31T19:00:00-05:00",
            "2025-12-31 19:00:00 -0500",
            "2026-01-01T00:00:00.0000000004Z",
        ] {
            assert_eq!(parse(text, true).map(OffsetDateTime::unix_timestamp), Ok(1_767_225_600), "{text}");
        }
        assert_eq!(parse("2026-01-01T00:00:00.25Z", true).unwrap().microsecond(), 250_000);
    }

    #[test]
    fn what_is_no_time_is_told_from_what_no_calendar_has() {
        for text in ["yesterdayish", "", "Error", "2026-01-01", "2026-01-01T00:00Z", "2026-01-01T00:00:00+1"]
        {
            assert_eq!(parse(text, false), Err(Invalid::Form), "{text}");
        }
        for text in ["2026-02-30T00:00:00Z", "2026-13-01T00:00:00Z", "2026-01-01T24:00:01Z"] {
            assert_eq!(parse(text, false), Err(Invalid::Range), "{text}");
        }
        assert_eq!(parse("2026-01-01T00:00:00", true), Err(Invalid::Form));
        assert!(parse("2026-01-01T00:00:00", false).is_ok());
    }
}
