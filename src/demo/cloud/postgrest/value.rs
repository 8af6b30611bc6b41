//! A value of a column, from the JSON of a request: PostgreSQL 15's `json_to_recordset`.

use serde_json::value::RawValue;

use super::Kind;
use super::refusal::Refusal;
use crate::demo::cloud::timestamp::{self, Invalid};

/// A value as the table keeps it: comparable, as unique indexes compare.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cell {
    Null,
    Text(String),
    Bigint(i64),
    /// As PostgreSQL prints it.
    Float8(String),
    /// Microseconds since 1970-01-01 UTC.
    Timestamptz(i64),
    /// The text of the JSON.
    Jsonb(String),
}

impl Cell {
    /// Reads the JSON of one value. A JSON null is an SQL NULL whatever the column's type.
    pub(super) fn read(json: &RawValue, kind: Kind) -> Result<Self, Refusal> {
        let json = json.get();
        check_strings(json)?;
        if json == "null" {
            return Ok(Self::Null);
        }
        if kind == Kind::Jsonb {
            return Ok(Self::Jsonb(json.to_owned()));
        }
        let text = match serde_json::from_str::<String>(json) {
            Ok(text) => text,
            Err(_) => json.to_owned(),
        };
        match kind {
            Kind::Text | Kind::Jsonb => Ok(Self::Text(text)),
            Kind::Bigint => bigint(&text),
            Kind::Float8 => float8(&text),
            Kind::Timestamptz => timestamptz(&text),
        }
    }

    /// The value as text, as `psql` would show it; `None` is NULL.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::Null => None,
            Self::Text(text) | Self::Float8(text) | Self::Jsonb(text) => Some(text.clone()),
            Self::Bigint(number) => Some(number.to_string()),
            Self::Timestamptz(micros) => Some(time_text(*micros, ' ', "+00")),
        }
    }

    /// The value as PostgREST represents it.
    pub(super) fn json(&self) -> String {
        match self {
            Self::Bigint(number) => number.to_string(),
            Self::Float8(text) if text.parse::<f64>().is_ok_and(f64::is_finite) => text.clone(),
            Self::Jsonb(text) => text.clone(),
            Self::Null => "null".to_owned(),
            Self::Text(text) | Self::Float8(text) => quoted(text),
            Self::Timestamptz(micros) => quoted(&time_text(*micros, 'T', "+00:00")),
        }
    }
}

pub(super) fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string is JSON")
}

fn time_text(micros: i64, separator: char, offset: &str) -> String {
    let time = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000)
        .expect("it was made from a time");
    let (date, clock) = (time.date(), time.time());
    let fraction = match clock.microsecond() {
        0 => String::new(),
        micros => format!(".{micros:06}").trim_end_matches('0').to_owned(),
    };
    let (hour, minute, second) = clock.as_hms();
    format!("{date}{separator}{hour:02}:{minute:02}:{second:02}{fraction}{offset}")
}

fn bad_syntax(kind: &str, text: &str) -> Refusal {
    Refusal::new(400, "22P02", format!("invalid input syntax for type {kind}: \"{text}\""))
}

fn bigint(text: &str) -> Result<Cell, Refusal> {
    let digits = text.trim();
    let bare = digits.trim_start_matches(['+', '-']);
    if bare.is_empty() || digits.len() - bare.len() > 1 || !bare.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad_syntax("bigint", text));
    }
    digits
        .parse()
        .map(Cell::Bigint)
        .map_err(|_| Refusal::new(400, "22003", format!("value \"{text}\" is out of range for type bigint")))
}

fn float8(text: &str) -> Result<Cell, Refusal> {
    let number: f64 = text.trim().parse().map_err(|_| bad_syntax("double precision", text))?;
    if number.is_infinite() && !text.to_ascii_lowercase().contains("inf") {
        return Err(Refusal::new(
            400,
            "22003",
            format!("\"{text}\" is out of range for type double precision"),
        ));
    }
    Ok(Cell::Float8(match number {
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        _ => number.to_string(),
    }))
}

fn timestamptz(text: &str) -> Result<Cell, Refusal> {
    let range = || {
        Refusal::new(400, "22008", format!("date/time field value out of range: \"{text}\""))
            .hint("Perhaps you need a different \"datestyle\" setting.")
    };
    match timestamp::parse(text, false) {
        Ok(time) => {
            let micros = time.unix_timestamp_nanos() / 1_000;
            Ok(Cell::Timestamptz(i64::try_from(micros).map_err(|_| range())?))
        }
        Err(Invalid::Range) => Err(range()),
        // An epoch number is read as a date, YYYYMMDD, and no date is that long.
        Err(Invalid::Form) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => Err(range()),
        Err(Invalid::Form) => {
            let message = format!("invalid input syntax for type timestamp with time zone: \"{text}\"");
            Err(Refusal::new(400, "22007", message))
        }
    }
}

/// JSON may escape what PostgreSQL's text cannot hold: U+0000 and halves of surrogate pairs.
fn check_strings(json: &str) -> Result<(), Refusal> {
    let mut high = false;
    let mut rest = json.as_bytes();
    while let Some(at) = rest.iter().position(|b| *b == b'\\') {
        if high && at != 0 {
            break;
        }
        let escape = rest.get(at + 1).copied();
        let unit = match escape {
            Some(b'u') => hex(rest.get(at + 2..at + 6)),
            _ => None,
        };
        match unit {
            Some(0) => {
                return Err(Refusal::new(400, "22P05", "unsupported Unicode escape sequence")
                    .details("\\u0000 cannot be converted to text."));
            }
            Some(0xd800..=0xdbff) if !high => high = true,
            Some(0xdc00..=0xdfff) if high => high = false,
            Some(0xd800..=0xdfff) => return Err(half_a_pair()),
            _ if high => return Err(half_a_pair()),
            _ => {}
        }
        rest = &rest[at + if unit.is_some() { 6 } else { 2 }..];
    }
    if high { Err(half_a_pair()) } else { Ok(()) }
}

fn half_a_pair() -> Refusal {
    Refusal::new(400, "22P02", "invalid input syntax for type json")
        .details("Unicode high surrogate must be followed by a low surrogate, and only there.")
}

fn hex(digits: Option<&[u8]>) -> Option<u32> {
    u32::from_str_radix(std::str::from_utf8(digits?).ok()?, 16).ok()
}
