//! What the operator wants. [`Config`] is valid by construction: a text that is not becomes
//! a list of [`Problem`]s, each naming the key, where it was set, and what would be right.
//!
//! Settings come from a TOML file and from variables such as `TAMPU_LISTENER__ADDRESS`, which win.

mod access;
mod api;
mod command_sources;
mod commands;
mod firmware;
mod listener;
mod messages;
mod parse;
mod rules;
mod secret;
mod sessions;
mod settings;
mod sinks;
mod supabase_commands;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Toml};

pub use secret::{Renewable, Secret};
pub use settings::*;

/// The file that the package installs.
pub const SYSTEM_FILE: &str = "/etc/tampu/config.toml";

/// Where a gateway that runs as a service keeps its data.
pub const SYSTEM_DATA_DIR: &str = "/var/lib/tampu";

/// Something that is wrong with a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, as in `sink.cloud.write_key`.
    pub key: String,
    /// The file or variable that set it.
    pub origin: String,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, origin, what } = self;
        match (key.is_empty(), origin.is_empty()) {
            (true, _) => write!(f, "{origin}: {what}"),
            (false, true) => write!(f, "{key}: {what}"),
            (false, false) => write!(f, "{key} ({origin}): {what}"),
        }
    }
}

/// Every problem of a configuration, not only the first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", list(.0))]
pub struct Invalid(pub Vec<Problem>);

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl Config {
    /// Reads the file, if one is named, and the environment.
    ///
    /// # Errors
    /// Every problem that can be seen without a network.
    pub fn load(file: Option<&Path>) -> Result<Self, Invalid> {
        sound(Self::read(file))
    }

    /// As [`Config::load`], but goes on with defaults in place of what is wrong, so that more can be checked.
    ///
    /// # Errors
    /// When the file cannot be read, or is not TOML.
    pub fn read(file: Option<&Path>) -> Result<(Self, Vec<Problem>), Invalid> {
        let mut figment = Figment::new();
        if let Some(file) = file {
            let text = std::fs::read_to_string(file).map_err(|error| unreadable(file, &error))?;
            toml_problem(file, &text)?;
            figment = figment.merge(Toml::file_exact(file));
        }
        let nested = |key: &figment::value::UncasedStr| key.as_str().contains("__");
        let (config, mut problems) =
            parse::config(&figment.merge(Env::prefixed("TAMPU_").filter(nested).split("__")))?;
        problems.extend(std::env::vars_os().filter_map(|(name, _)| half_written(name.to_str()?)));
        Ok((config, problems))
    }

    /// Parses a text as if it were a file, without the environment.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_toml(text: &str) -> Result<Self, Invalid> {
        toml_problem(Path::new("config.toml"), text)?;
        sound(parse::config(&Figment::from(Toml::string(text))))
    }

    /// The file that is used when none is named: the package's, if it is there.
    #[must_use]
    pub fn default_file() -> Option<PathBuf> {
        let file = PathBuf::from(SYSTEM_FILE);
        file.exists().then_some(file)
    }
}

fn sound(read: Result<(Config, Vec<Problem>), Invalid>) -> Result<Config, Invalid> {
    let (config, problems) = read?;
    if problems.is_empty() { Ok(config) } else { Err(Invalid(problems)) }
}

fn unreadable(file: &Path, error: &std::io::Error) -> Invalid {
    let advice = match error.kind() {
        std::io::ErrorKind::NotFound => "; `tampu init` writes a commented one",
        _ => "",
    };
    let what = format!("cannot be read: {error}{advice}");
    Invalid(vec![Problem { key: String::new(), origin: file.display().to_string(), what }])
}

/// A variable with one underscore where two divide the table from the key: it would be passed over.
fn half_written(name: &str) -> Option<Problem> {
    const TABLES: [&str; 17] = [
        "GATEWAY",
        "LOG",
        "PKI",
        "LISTENER",
        "WEBSOCKET",
        "PLAIN",
        "LIMITS",
        "SESSIONS",
        "RETAINED",
        "COMMANDS",
        "MESSAGES",
        "ACCESS",
        "ANONYMOUS",
        "BUFFER",
        "CLOCK",
        "API",
        "FIRMWARE",
    ];
    let rest = name.strip_prefix("TAMPU_").filter(|rest| !rest.contains("__"))?;
    let (table, key) = rest.split_once('_')?;
    let what = format!("is not a setting; did you mean TAMPU_{table}__{key}, with two underscores?");
    TABLES.contains(&table).then(|| Problem { key: name.to_owned(), origin: String::new(), what })
}

/// A text that is no TOML, with the line at fault.
fn toml_problem(file: &Path, text: &str) -> Result<(), Invalid> {
    let Err(error) = text.parse::<toml::Table>() else { return Ok(()) };
    let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    Err(Invalid(vec![Problem {
        key: String::new(),
        origin: format!("{}, line {line}", file.display()),
        what: format!("this is not TOML: {}", error.message()),
    }]))
}
