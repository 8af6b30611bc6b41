//! A table of settings that is read key by key. What is wrong is noted and reading goes on, so that
//! one look shows every problem; what nobody asked for is a problem too.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use figment::Figment;
use figment::value::{Dict, Value};
use serde::de::DeserializeOwned;

use super::secret::SecretSource;
use super::{Problem, Renewable, Secret};

/// Problems so far, and where values came from.
pub(super) struct Notes<'a> {
    pub(super) figment: &'a Figment,
    pub(super) problems: Vec<Problem>,
}

impl Notes<'_> {
    fn origin(&self, key: &str, value: &Value) -> String {
        let Some(metadata) = self.figment.get_metadata(value.tag()) else { return String::new() };
        match &metadata.source {
            Some(figment::Source::File(path)) => path.display().to_string(),
            _ if metadata.name.contains("environment") => {
                format!("TAMPU_{}", key.to_ascii_uppercase().replace('.', "__"))
            }
            _ => metadata.name.to_string(),
        }
    }

    pub(super) fn note(&mut self, key: String, value: Option<&Value>, what: impl Display) {
        let origin = value.map(|value| self.origin(&key, value)).unwrap_or_default();
        self.problems.push(Problem { key, origin, what: what.to_string() });
    }
}

/// One table.
pub(super) struct Table<'n, 'a> {
    path: String,
    rest: Dict,
    asked: Vec<&'static str>,
    pub(super) notes: &'n mut Notes<'a>,
}

impl<'n, 'a> Table<'n, 'a> {
    pub(super) fn new(path: String, rest: Dict, notes: &'n mut Notes<'a>) -> Self {
        Self { path, rest, asked: Vec::new(), notes }
    }

    /// The value of a key, if it is set.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Value> {
        self.asked.push(key);
        self.rest.remove(key)
    }

    /// The whole name of a key of this table.
    pub(super) fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Notes a problem with a key.
    pub(super) fn wrong(&mut self, key: &str, value: Option<&Value>, what: impl Display) {
        let name = self.name(key);
        self.notes.note(name, value, what);
    }

    /// A value that serde understands.
    pub(super) fn value<T: DeserializeOwned>(&mut self, key: &'static str, expected: &str) -> Option<T> {
        let value = self.take(key)?;
        match value.deserialize() {
            Ok(parsed) => Some(parsed),
            Err(_) => {
                self.wrong(key, Some(&value), format!("{} is not {expected}", shown(&value)));
                None
            }
        }
    }

    /// A text that [`FromStr`] or another parser understands.
    pub(super) fn parsed<T, E: Display>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let value = self.take(key)?;
        let text = text_of(&value);
        match parse(&text) {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.wrong(key, Some(&value), format!("{}: {error}", shown(&value)));
                None
            }
        }
    }

    /// A text.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        self.parsed(key, |text| Ok::<_, std::convert::Infallible>(text.to_owned()))
    }

    /// A path.
    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        self.value::<String>(key, "a path, such as \"/var/lib/tampu\"").map(PathBuf::from)
    }

    /// A duration such as `"50ms"`, `"15s"` or `"2h 30m"`, between two bounds.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        bounds: std::ops::RangeInclusive<Duration>,
    ) -> Option<Duration> {
        self.parsed(key, |text| {
            let parsed = humantime::parse_duration(text)
                .map_err(|_| "a duration is written as \"50ms\", \"15s\" or \"2h 30m\"".to_owned())?;
            let (low, high) = (*bounds.start(), *bounds.end());
            if bounds.contains(&parsed) {
                return Ok(parsed);
            }
            let (low, high) = (humantime::format_duration(low), humantime::format_duration(high));
            Err(format!("it must be between {low} and {high}"))
        })
    }

    /// A number of bytes such as `"512 MiB"`, at least `least`.
    pub(super) fn bytes(&mut self, key: &'static str, least: u64) -> Option<u64> {
        self.parsed(key, |text| {
            let parsed = bytesize::ByteSize::from_str(text)
                .map_err(|_| "a size is written as \"64 KiB\", \"512 MiB\" or \"2 GiB\"".to_owned())?;
            if parsed.as_u64() >= least {
                return Ok(parsed.as_u64());
            }
            Err(format!("it must be at least {}", bytesize::ByteSize(least)))
        })
    }

    /// A whole number between two bounds.
    pub(super) fn number(&mut self, key: &'static str, bounds: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let value = self.take(key)?;
        match value.deserialize::<u64>() {
            Ok(number) if bounds.contains(&number) => Some(number),
            _ => {
                let what = format!(
                    "{} is not a whole number between {} and {}",
                    shown(&value),
                    bounds.start(),
                    bounds.end()
                );
                self.wrong(key, Some(&value), what);
                None
            }
        }
    }

    /// A number that fits `usize` because its bounds do.
    pub(super) fn count(
        &mut self,
        key: &'static str,
        bounds: std::ops::RangeInclusive<u32>,
    ) -> Option<usize> {
        let bounds = u64::from(*bounds.start())..=u64::from(*bounds.end());
        self.number(key, bounds).and_then(|number| usize::try_from(number).ok())
    }

    /// A list of texts, each parsed; those that fail are noted.
    pub(super) fn list<T, E: Display>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let value = self.take(key)?;
        let Some(entries) = value.as_array() else {
            self.wrong(key, Some(&value), format!("{} is not a list such as [\"a\", \"b\"]", shown(&value)));
            return None;
        };
        let mut parsed = Vec::with_capacity(entries.len());
        for entry in entries {
            match parse(&text_of(entry)) {
                Ok(good) => parsed.push(good),
                Err(error) => self.wrong(key, Some(entry), format!("{}: {error}", shown(entry))),
            }
        }
        Some(parsed)
    }

    /// A secret, from where it stands. No part of it is ever in a problem.
    pub(super) fn secret(&mut self, key: &'static str) -> Option<Secret> {
        let read = |source: SecretSource| source.read().and_then(|secret| one_word(&secret).map(|()| secret));
        self.secret_by(key, read)
    }

    /// The same for one that may be replaced while the program runs.
    pub(super) fn renewable(&mut self, key: &'static str) -> Option<Renewable> {
        self.secret_by(key, |source| {
            let renewable = source.read_renewable()?;
            one_word(renewable.first()).map(|()| renewable)
        })
    }

    fn secret_by<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(SecretSource) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.take(key)?;
        match secret_source(&value).and_then(read) {
            Ok(secret) => Some(secret),
            Err(error) => {
                self.wrong(key, Some(&value), error);
                None
            }
        }
    }

    /// A table below this one, empty if it is not set.
    pub(super) fn table(&mut self, key: &'static str) -> Table<'_, 'a> {
        let dict = match self.take(key) {
            None => Dict::new(),
            Some(Value::Dict(_, dict)) => dict,
            Some(other) => {
                self.wrong(key, Some(&other), format!("{} is not a table; write [{key}]", shown(&other)));
                Dict::new()
            }
        };
        let path = self.name(key);
        Table::new(path, dict, self.notes)
    }

    /// A table below this one, if it is set.
    pub(super) fn table_if_there(&mut self, key: &'static str) -> Option<Table<'_, 'a>> {
        if self.rest.contains_key(key) {
            return Some(self.table(key));
        }
        self.asked.push(key);
        None
    }

    /// The tables of an array such as `[[sink]]`, each with its path; a table with a `name` is called by it.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<(String, Dict)> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let Some(entries) = value.as_array() else {
            self.wrong(key, Some(&value), format!("write [[{key}]], one for each"));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let Some(dict) = entry.as_dict() else {
                self.wrong(key, Some(entry), format!("{} is not a table; write [[{key}]]", shown(entry)));
                continue;
            };
            let name = dict.get("name").and_then(Value::as_str);
            let part = name.map_or_else(|| (index + 1).to_string(), str::to_owned);
            tables.push((self.name(&format!("{key}.{part}")), dict.clone()));
        }
        tables
    }

    /// Notes that a key which must be there is not.
    pub(super) fn missing(&mut self, key: &'static str, expected: &str) {
        // A key that is there and wrong has its problem already.
        let name = self.name(key);
        let below = format!("{name}.");
        let known = |problem: &Problem| problem.key == name || problem.key.starts_with(&below);
        if !self.notes.problems.iter().any(known) {
            self.notes.note(name, None, format!("is missing: {expected}"));
        }
    }

    /// Takes everything else for known: what it means depends on something that is wrong.
    pub(super) fn ignore_rest(&mut self) {
        self.rest.clear();
    }

    /// Ends the table: what nobody asked for is a problem.
    pub(super) fn finish(self) {
        for (key, value) in &self.rest {
            let near = self
                .asked
                .iter()
                .map(|asked| (strsim::damerau_levenshtein(asked, key), asked))
                .filter(|(distance, asked)| *distance <= 2.max(asked.len() / 3))
                .min_by_key(|(distance, _)| *distance);
            let what = match near {
                Some((_, asked)) => format!("there is no such key; did you mean {asked:?}?"),
                None => format!("there is no such key; here are: {}", self.asked.join(", ")),
            };
            let name = self.name(key);
            self.notes.note(name, Some(value), what);
        }
    }
}

/// The text of a value that an environment variable may have turned into a number or a boolean.
pub(super) fn text_of(value: &Value) -> String {
    match value {
        Value::String(_, text) => text.clone(),
        other => shown(other),
    }
}

/// A value as it is shown in a problem.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("{text:?}"),
        Value::Num(_, number) => match (value.to_i128(), value.to_u128()) {
            (Some(whole), _) => whole.to_string(),
            (None, Some(whole)) => whole.to_string(),
            (None, None) => number.to_f64().unwrap_or(f64::NAN).to_string(),
        },
        Value::Bool(_, yes) => yes.to_string(),
        Value::Dict(..) => "a table".to_owned(),
        Value::Array(..) => "a list".to_owned(),
        Value::Char(_, c) => format!("{c:?}"),
        Value::Empty(..) => "nothing".to_owned(),
    }
}

/// A secret from any of the four places where it may stand.
pub(super) fn secret_of(value: &Value) -> Result<Secret, String> {
    secret_source(value)?.read()
}

fn secret_source(value: &Value) -> Result<SecretSource, String> {
    let expected = "a secret is a text, { env = \"NAME\" }, { file = \"/path\" } or { credential = \"id\" }";
    match value {
        Value::String(_, text) => Ok(SecretSource::Plain(text.clone())),
        Value::Num(..) => Ok(SecretSource::Plain(text_of(value))),
        Value::Dict(_, dict) => {
            let mut entries = dict.iter().map(|(key, value)| (key.as_str(), value.as_str()));
            match (entries.next(), entries.next()) {
                (Some(("env", Some(name))), None) => Ok(SecretSource::Env(name.to_owned())),
                (Some(("file", Some(path))), None) => Ok(SecretSource::File(path.into())),
                (Some(("credential", Some(id))), None) => Ok(SecretSource::Credential(id.to_owned())),
                _ => Err(expected.to_owned()),
            }
        }
        _ => Err(expected.to_owned()),
    }
}

fn one_word(secret: &Secret) -> Result<(), String> {
    match secret.expose().contains(char::is_whitespace) {
        true => Err("a key holds no white space".to_owned()),
        false => Ok(()),
    }
}
