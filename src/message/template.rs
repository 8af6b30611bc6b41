//! Texts with places for names and values: the topics and payloads of commands.

use std::borrow::Cow;
use std::fmt;

/// A text such as `{device}/cmd` or `{"pwm": {value}}`, parsed once.
///
/// A place is a name of small letters and `_` in braces. Any other brace stands for itself, so that JSON can be
/// written as it is. A place between double quotes is filled as JSON writes it within a text (RFC 8259, section 7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Place { name: Box<str>, quoted: bool },
}

/// Why a text is not a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no {{{name}}} here; there are: {known}")]
pub struct UnknownPlace {
    name: String,
    known: String,
}

impl Template {
    /// Parses a text that may have these places.
    ///
    /// # Errors
    /// The first place that is none of them.
    pub fn parse(text: &str, known: &[&str]) -> Result<Self, UnknownPlace> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut quotes = Quotes::default();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            if let Some(name) = place(rest) {
                if !known.contains(&name) {
                    let known: Vec<_> = known.iter().map(|name| format!("{{{name}}}")).collect();
                    return Err(UnknownPlace { name: name.to_owned(), known: known.join(", ") });
                }
                if !plain.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut plain).into()));
                }
                parts.push(Part::Place { name: name.into(), quoted: quotes.open });
                rest = &rest[name.len() + 2..];
                continue;
            }
            quotes.pass(first);
            plain.push(first);
            rest = &rest[first.len_utf8()..];
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain.into()));
        }
        Ok(Self(parts))
    }

    /// The text with every place filled. `value` is asked for the known names only.
    pub fn fill<'v>(&self, value: impl Fn(&str) -> Cow<'v, str>) -> String {
        let mut filled = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Place { name, quoted: false } => filled.push_str(&value(name)),
                Part::Place { name, quoted: true } => filled.push_str(&within_json_text(&value(name))),
            }
        }
        filled
    }

    /// Whether a place has this name.
    #[must_use]
    pub fn has(&self, wanted: &str) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Place { name, .. } if &**name == wanted))
    }
}

/// As it was written.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Place { name, .. } => write!(f, "{{{name}}}"),
        })
    }
}

/// Whether a place stands between double quotes.
#[derive(Debug, Default)]
struct Quotes {
    open: bool,
    escaped: bool,
}

impl Quotes {
    fn pass(&mut self, char: char) {
        match char {
            '"' if !self.escaped => self.open = !self.open,
            '\\' if self.open && !self.escaped => {
                self.escaped = true;
                return;
            }
            _ => {}
        }
        self.escaped = false;
    }
}

/// The name of the place that a text begins with.
fn place(text: &str) -> Option<&str> {
    let (name, _) = text.strip_prefix('{')?.split_once('}')?;
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    is_name(name).then_some(name)
}

fn within_json_text(value: &str) -> String {
    let text = serde_json::Value::from(value).to_string();
    text[1..text.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["device", "value"];

    fn fill(text: &str, value: &str) -> String {
        let template = Template::parse(text, KNOWN).unwrap();
        assert_eq!(template.to_string(), text, "it is shown as it was written");
        template.fill(|name| if name == "device" { "lamp".into() } else { value.to_owned().into() })
    }

    #[test]
    fn places_are_filled_and_other_braces_stay() {
        assert_eq!(fill("{device}/cmd", ""), "lamp/cmd");
        assert_eq!(fill(r#"{"pwm": {value}, "of": {"x": 1}}"#, "128"), r#"{"pwm": 128, "of": {"x": 1}}"#);
        assert_eq!(fill("{value}{value}", "on"), "onon");
        assert_eq!(fill("", "on"), "");
        assert_eq!(fill("{ } {} {Value} {", "on"), "{ } {} {Value} {");
    }

    #[test]
    fn a_value_cannot_leave_the_json_text_that_it_stands_in() {
        let filled = fill(r#"{"say":"{value}","n":{value}}"#, "1");
        assert_eq!(filled, r#"{"say":"1","n":1}"#);
        let filled = fill(r#"{"a":"\"{value}"}"#, "x\",\"admin\":true,\"\n");
        let parsed: serde_json::Value = serde_json::from_str(&filled).unwrap();
        assert_eq!(parsed["a"], "\"x\",\"admin\":true,\"\n");
        assert_eq!(fill("{value}", "a\"b"), "a\"b", "outside of quotes it is what it is");
    }

    #[test]
    fn an_unknown_place_is_an_error_that_names_the_known_ones() {
        let error = Template::parse("{gateway}/cmd", KNOWN).unwrap_err();
        assert_eq!(error.to_string(), "there is no {gateway} here; there are: {device}, {value}");
    }
}
