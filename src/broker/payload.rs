//! Whether a payload is what its stream promises. One that is not is stored all the same, with the
//! reason for its maker to read, and dead-lettered.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::integrity::{Forged, Integrity};
use crate::config::{self, Field, FieldKind, PayloadFormat};
use crate::message::DeviceId;

/// Characters of a payload that a reason quotes.
const MAX_QUOTED_CHARS: usize = 24;

/// What a payload of a stream must be.
#[derive(Debug)]
pub(super) struct Fitness {
    format: PayloadFormat,
    fields: Vec<Field>,
    integrity: Option<Integrity>,
}

/// Why a payload cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    #[error("the payload is empty")]
    Empty,
    #[error("the payload is blank")]
    Blank,
    #[error("not JSON: {0}")]
    NotJson(String),
    #[error("not a finite decimal number: {0}")]
    NotANumber(String),
    #[error("not UTF-8: byte {at}")]
    NotUtf8 { at: usize },
    #[error("the field {path} is missing")]
    FieldMissing { path: String },
    #[error("the field {path} is not {expected}: {found}")]
    FieldKind { path: String, expected: &'static str, found: String },
    #[error(transparent)]
    Forged(#[from] Forged),
}

impl Fitness {
    pub(super) fn new(stream: &config::Stream) -> Self {
        Self {
            format: stream.format,
            fields: stream.fields.clone(),
            integrity: stream.integrity.as_ref().map(Integrity::new),
        }
    }

    /// Checks the payload of a reading of a device.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(super) fn check(&self, device: &DeviceId, payload: &[u8]) -> Result<(), Unfit> {
        if payload.is_empty() {
            return Err(Unfit::Empty);
        }
        if payload.iter().all(|byte| byte.is_ascii_whitespace() || *byte == 0) {
            return Err(Unfit::Blank);
        }
        match self.format {
            PayloadFormat::Json => self.check_json(payload)?,
            PayloadFormat::Number => check_number(payload)?,
            PayloadFormat::Text => {
                text(payload)?;
            }
        }
        if let Some(integrity) = &self.integrity {
            integrity.check(device, payload)?;
        }
        Ok(())
    }

    fn check_json(&self, payload: &[u8]) -> Result<(), Unfit> {
        let not_json = |error: serde_json::Error| Unfit::NotJson(explain(&error, payload));
        if self.fields.is_empty() {
            return serde_json::from_slice::<Checked>(payload).map(drop).map_err(not_json);
        }
        let value: Value = serde_json::from_slice(payload).map_err(not_json)?;
        self.fields.iter().try_for_each(|field| check_field(field, &value))
    }
}

fn check_field(field: &Field, payload: &Value) -> Result<(), Unfit> {
    let value = field.path.split('.').try_fold(payload, |value, part| value.get(part));
    let expected = match (value, field.kind) {
        // `null` is what ArduinoJson makes of NaN: the reading is there, the value is not.
        (None | Some(Value::Null), _) => {
            return match field.required {
                true => Err(Unfit::FieldMissing { path: field.path.clone() }),
                false => Ok(()),
            };
        }
        (Some(_), FieldKind::Any)
        | (Some(Value::Number(_)), FieldKind::Number)
        | (Some(Value::Bool(_)), FieldKind::Boolean)
        | (Some(Value::String(_)), FieldKind::Text) => return Ok(()),
        (Some(Value::Number(number)), FieldKind::Integer) if is_whole(number) => return Ok(()),
        (_, FieldKind::Number) => "a number",
        (_, FieldKind::Integer) => "a whole number",
        (_, FieldKind::Boolean) => "true or false",
        (_, FieldKind::Text) => "a text",
    };
    let found = quoted(&value.unwrap_or(&Value::Null).to_string());
    Err(Unfit::FieldKind { path: field.path.clone(), expected, found })
}

fn is_whole(number: &serde_json::Number) -> bool {
    number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|value| value.fract() == 0.0)
}

fn check_number(payload: &[u8]) -> Result<(), Unfit> {
    // C strings are often sent with their end.
    let number = text(payload.strip_suffix(b"\0").unwrap_or(payload))?.trim_ascii();
    // Rust reads `inf` and `nan` as numbers as well.
    let is_decimal = number.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    match number.parse::<f64>() {
        Ok(value) if is_decimal && value.is_finite() => Ok(()),
        _ => Err(Unfit::NotANumber(quoted(number))),
    }
}

fn text(payload: &[u8]) -> Result<&str, Unfit> {
    std::str::from_utf8(payload).map_err(|error| Unfit::NotUtf8 { at: error.valid_up_to() + 1 })
}

/// What is wrong with a JSON text, in words that a maker understands; bytes are counted from 1.
fn explain(error: &serde_json::Error, payload: &[u8]) -> String {
    if error.is_eof() {
        return format!("it ends unfinished after {} bytes", payload.len());
    }
    let line_start = match error.line() {
        0 | 1 => 0,
        line => {
            payload.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(line - 2).map_or(0, |(at, _)| at + 1)
        }
    };
    let at = (line_start + error.column()).saturating_sub(1).min(payload.len() - 1);
    let (start, token) = token_around(payload, at);
    let place = format!("{} at byte {}", quoted(&String::from_utf8_lossy(token)), start + 1);
    let message = error.to_string();
    let what = match token {
        b"\0" => "the end of a C string does not belong to it",
        b"'" => "texts stand in double quotes",
        _ if is_no_json_number(token) => "JSON has no such number",
        // Without the place that serde_json appends.
        _ => message.rsplit_once(" at line ").map_or(&*message, |(what, _)| what),
    };
    format!("{place}: {what}")
}

fn is_no_json_number(token: &[u8]) -> bool {
    let word = token.trim_ascii_start();
    let word = word.strip_prefix(b"-").or_else(|| word.strip_prefix(b"+")).unwrap_or(word);
    [&b"nan"[..], b"inf", b"infinity", b"ovf"].iter().any(|bad| word.eq_ignore_ascii_case(bad))
}

/// The word or number around a byte, or that byte alone, and where it starts.
fn token_around(payload: &[u8], at: usize) -> (usize, &[u8]) {
    let of_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-._".contains(byte);
    if !of_word(&payload[at]) {
        return (at, &payload[at..=at]);
    }
    let start = payload[..at].iter().rposition(|byte| !of_word(byte)).map_or(0, |before| before + 1);
    let length = payload[start..].iter().position(|byte| !of_word(byte)).unwrap_or(payload.len() - start);
    (start, &payload[start..start + length])
}

/// A part of a payload, shortened and with control characters made visible.
fn quoted(text: &str) -> String {
    let mut chars = text.chars();
    let mut part = String::from("`");
    for char in chars.by_ref().take(MAX_QUOTED_CHARS) {
        match char.is_control() {
            true => part.extend(char.escape_debug()),
            false => part.push(char),
        }
    }
    part + if chars.next().is_some() { "…`" } else { "`" }
}

/// Reads a whole JSON text without keeping anything of it, unlike `IgnoredAny` with every
/// check that reading its values would make: numbers within the range of an f64, texts in UTF-8.
struct Checked;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Checked {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

#[cfg(test)]
mod tests;
