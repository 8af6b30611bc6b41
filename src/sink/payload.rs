//! Values of a payload, as JSON text that is the payload's own: `22.50` stays `22.50`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::config::{self, PayloadFormat};
use crate::message::Reading;

/// What the payloads of each stream are.
#[derive(Debug, Clone, Default)]
pub(super) struct Formats(BTreeMap<String, PayloadFormat>);

impl Formats {
    pub(super) fn new(streams: &[config::Stream]) -> Self {
        Self(streams.iter().map(|stream| (stream.name.clone(), stream.format)).collect())
    }

    /// The payload as JSON text. A reading of a stream that is no longer configured is read by its looks.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn json<'a>(&self, reading: &'a Reading) -> Result<Cow<'a, str>, String> {
        let payload = &reading.payload[..];
        match self.0.get(&*reading.stream) {
            Some(PayloadFormat::Json) => as_json(payload).map(Cow::Borrowed),
            Some(PayloadFormat::Number) => as_number(payload),
            Some(PayloadFormat::Text) => as_text(payload),
            None => as_json(payload).map(Cow::Borrowed).or_else(|_| as_text(payload)),
        }
    }
}

fn as_json(payload: &[u8]) -> Result<&str, String> {
    serde_json::from_slice::<&RawValue>(payload)
        .map(RawValue::get)
        .map_err(|error| format!("the payload is not JSON: {error}"))
}

fn as_number(payload: &[u8]) -> Result<Cow<'_, str>, String> {
    let wrong = || "the payload is not a finite decimal number".to_owned();
    let text = std::str::from_utf8(payload).map_err(|_| wrong())?;
    let text = text.strip_suffix('\0').unwrap_or(text).trim();
    let number: f64 = text.parse().ok().filter(|n: &f64| n.is_finite()).ok_or_else(wrong)?;
    // `.5`, `+1` and `007` are numbers to a device, but not to JSON.
    let json = as_json(text.as_bytes());
    Ok(json.map_or_else(|_| Cow::Owned(number.to_string()), Cow::Borrowed))
}

fn as_text(payload: &[u8]) -> Result<Cow<'_, str>, String> {
    let text = std::str::from_utf8(payload).map_err(|_| "the payload is not UTF-8".to_owned())?;
    Ok(Cow::Owned(quoted(text)))
}

/// A JSON string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The value at a path such as `DS18B20.Temperature` in a JSON text; the text itself for the empty path.
/// Of several members with one name the last one counts, as everywhere.
pub(super) fn at_path<'a>(json: &'a str, path: &str) -> Option<&'a str> {
    if path.is_empty() {
        return Some(json);
    }
    path.split('.').try_fold(json, |object, name| {
        let mut object = serde_json::Deserializer::from_str(object);
        object.deserialize_map(Member(name)).ok().flatten()
    })
}

/// Finds the member of an object.
struct Member<'n>(&'n str);

impl<'de> Visitor<'de> for Member<'_> {
    type Value = Option<&'de str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(matches) = members.next_key_seed(NameIs(self.0))? {
            if matches {
                found = Some(members.next_value::<&'de RawValue>()?.get());
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

struct NameIs<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for NameIs<'_> {
    type Value = bool;

    fn deserialize<D: serde::Deserializer<'de>>(self, name: D) -> Result<bool, D::Error> {
        name.deserialize_str(self)
    }
}

impl Visitor<'_> for NameIs<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

/// A moment as ISO 8601 in UTC; `None` outside the years 0 to 9999.
pub(super) fn iso8601(at_ms: i64, digits: Digits) -> Option<String> {
    use time::macros::format_description;
    let moment = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms) * 1_000_000).ok()?;
    if moment.year() < 0 {
        return None;
    }
    match digits {
        Digits::Seconds => {
            moment.format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z"))
        }
        Digits::Milliseconds => moment.format(format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
        )),
    }
    .ok()
}

/// How fine a printed time is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Digits {
    Seconds,
    Milliseconds,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_its_path_and_keeps_its_digits() {
        let json =
            r#"{"a":1,"DS18B20":{"Temperature":22.50,"x":{"y":[1, 2]}},"switch:0":true,"a":2.0,"esc\"d":3}"#;
        for (path, expected) in [
            ("DS18B20.Temperature", Some("22.50")),
            ("DS18B20.x.y", Some("[1, 2]")),
            ("switch:0", Some("true")),
            ("a", Some("2.0")),
            ("esc\"d", Some("3")),
            ("", Some(json)),
            ("b", None),
            ("a.b", None),
            ("DS18B20.Temperature.c", None),
        ] {
            assert_eq!(at_path(json, path), expected, "{path}");
        }
    }

    #[test]
    fn payloads_of_every_format_become_json_text_without_losing_a_digit() {
        for (payload, expected) in
            [("22.50", "22.50"), (" -1e3\0", "-1e3"), (".5", "0.5"), ("+7", "7"), ("007", "7")]
        {
            assert_eq!(as_number(payload.as_bytes()).as_deref(), Ok(expected), "{payload}");
        }
        for bad in ["nan", "inf", "1e400", "", "21,4", "0x10"] {
            assert!(as_number(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(as_json(b" {\"t\": 1.10 }\n"), Ok("{\"t\": 1.10 }"));
        for bad in ["{\"t\":nan}", "{\"t\":21.5,}", "{'t':1}", "", "{\"t\":21.5}\0"] {
            assert!(as_json(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(as_text("on \"x\" ü\n".as_bytes()).as_deref(), Ok(r#""on \"x\" ü\n""#));
        assert!(as_text(b"\xff").is_err());
    }

    #[test]
    fn times_are_printed_in_utc_and_impossible_years_are_not_printed() {
        assert_eq!(iso8601(1_767_225_600_999, Digits::Seconds).as_deref(), Some("2026-01-01T00:00:00Z"));
        let before_1970 = iso8601(-1, Digits::Milliseconds);
        assert_eq!(before_1970.as_deref(), Some("1969-12-31T23:59:59.999Z"));
        assert_eq!(iso8601(i64::MAX, Digits::Seconds), None);
        assert_eq!(iso8601(-70_000_000_000_000, Digits::Seconds), None);
    }
}
