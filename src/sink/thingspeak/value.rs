//! One value of an entry.

use std::borrow::Cow;
use std::fmt;

use super::super::payload::quoted;
use crate::config::ThingSpeakTarget;

/// The longest value that the service keeps, in bytes.
const MAX_VALUE_BYTES: usize = 255;

/// Digits that a mean gets beyond those of its values.
const MEAN_DIGITS: usize = 2;

/// A value that an entry can hold. Printed as JSON.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    /// A finite number, as it came.
    Number(&'a str, f64),
    /// A text.
    Text(Cow<'a, str>),
}

impl<'a> Value<'a> {
    /// Reads a JSON text. `null` is no value; `true` and `false` become 1 and 0, which a chart can show;
    /// objects and arrays go as their text.
    ///
    /// # Errors
    /// Why the service could not hold it.
    pub(super) fn parse(json: &'a str, to: ThingSpeakTarget) -> Result<Option<Self>, String> {
        let value = match json.as_bytes().first() {
            None | Some(b'n') => return Ok(None),
            Some(b't') => Self::Number("1", 1.0),
            Some(b'f') => Self::Number("0", 0.0),
            Some(b'"') => {
                let text: String = serde_json::from_str(json).map_err(|error| error.to_string())?;
                Self::Text(Cow::Owned(text))
            }
            Some(b'{' | b'[') => Self::Text(Cow::Borrowed(json)),
            Some(_) => match json.parse() {
                Ok(number) if f64::is_finite(number) => Self::Number(json, number),
                _ => return Err(format!("{json} for {} is out of range", name(to))),
            },
        };
        let bytes = match &value {
            Self::Number(text, _) => text.len(),
            Self::Text(text) => text.len(),
        };
        if bytes > MAX_VALUE_BYTES {
            return Err(format!("{} takes {MAX_VALUE_BYTES} bytes, this has {bytes}", name(to)));
        }
        match (&value, to) {
            (
                Self::Text(_),
                ThingSpeakTarget::Latitude | ThingSpeakTarget::Longitude | ThingSpeakTarget::Elevation,
            ) => Err(format!("{} takes a number, this is a text", name(to))),
            _ => Ok(Some(value)),
        }
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(text, _) => f.write_str(text),
            Self::Text(text) => f.write_str(&quoted(text)),
        }
    }
}

/// The mean of the numbers, or the last text if there is no number; as JSON. One number stays as it came.
pub(super) fn average<'v>(values: impl Iterator<Item = &'v Value<'v>>) -> String {
    let (mut sum, mut count, mut digits, mut last) = (0.0, 0_u32, 0, None);
    for value in values {
        match value {
            Value::Number(text, number) => {
                digits = digits.max(fraction_digits(text));
                sum += number;
                count += 1;
                last = Some(value);
            }
            Value::Text(_) if count == 0 => last = Some(value),
            Value::Text(_) => {}
        }
    }
    if count < 2 {
        return last.map(ToString::to_string).unwrap_or_default();
    }
    let mean = sum / f64::from(count);
    if !mean.is_finite() {
        return last.map(ToString::to_string).unwrap_or_default();
    }
    let rounded = format!("{mean:.*}", digits + MEAN_DIGITS);
    match rounded.contains('.') {
        true => rounded.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => rounded,
    }
}

/// Digits behind the point, with the exponent taken into account.
fn fraction_digits(number: &str) -> usize {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let digits = mantissa.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    let exponent: i64 = exponent.parse().unwrap_or(0);
    usize::try_from(i64::try_from(digits).unwrap_or(0) - exponent).unwrap_or(0).min(17)
}

/// The name of a part of an entry: in bulk it is `latitude`, not `lat` as in a single write.
pub(super) fn name(target: ThingSpeakTarget) -> Cow<'static, str> {
    Cow::Borrowed(match target {
        ThingSpeakTarget::Field(number) => return Cow::Owned(format!("field{number}")),
        ThingSpeakTarget::Latitude => "latitude",
        ThingSpeakTarget::Longitude => "longitude",
        ThingSpeakTarget::Elevation => "elevation",
        ThingSpeakTarget::Status => "status",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELD: ThingSpeakTarget = ThingSpeakTarget::Field(1);

    fn printed(json: &str) -> Option<String> {
        Value::parse(json, FIELD).unwrap().map(|value| value.to_string())
    }

    #[test]
    fn values_are_printed_as_they_came() {
        for (json, expected) in [
            ("22.50", "22.50"),
            ("-1e3", "-1e3"),
            ("true", "1"),
            ("false", "0"),
            (r#""o\u006e""#, r#""on""#),
            (r#"{"a":1}"#, r#""{\"a\":1}""#),
        ] {
            assert_eq!(printed(json).as_deref(), Some(expected), "{json}");
        }
        assert_eq!(printed("null"), None);
    }

    #[test]
    fn what_the_service_cannot_hold_is_refused_with_the_reason() {
        let refused = |json: &str, to| Value::parse(json, to).unwrap_err();
        assert_eq!(refused("1e400", FIELD), "1e400 for field1 is out of range");
        let long = format!("\"{}\"", "x".repeat(256));
        assert_eq!(refused(&long, ThingSpeakTarget::Status), "status takes 255 bytes, this has 256");
        assert_eq!(
            refused("\"north\"", ThingSpeakTarget::Latitude),
            "latitude takes a number, this is a text"
        );
    }

    #[test]
    fn a_mean_is_rounded_to_two_digits_more_than_its_values_have() {
        let mean = |values: &[&str]| {
            let values: Vec<_> = values.iter().map(|v| Value::parse(v, FIELD).unwrap().unwrap()).collect();
            average(values.iter())
        };
        assert_eq!(mean(&["21.4", "21.6"]), "21.5");
        assert_eq!(mean(&["1", "2"]), "1.5");
        assert_eq!(mean(&["0.1", "0.2", "0.2"]), "0.167");
        assert_eq!(mean(&["100", "300"]), "200");
        assert_eq!(mean(&["1e-3", "2e-3"]), "0.0015");
        assert_eq!(mean(&["22.50"]), "22.50", "one value stays as it came");
        assert_eq!(mean(&["\"on\"", "\"off\""]), "\"off\"", "of texts the last one stays");
        assert_eq!(mean(&["\"nan\"", "3", "\"nan\""]), "3", "a number outweighs texts");
        assert_eq!(mean(&["1e308", "1e308"]), "1e308", "a sum beyond all numbers has no mean");
    }
}
