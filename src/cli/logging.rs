//! Where log lines go: a terminal, a JSON reader, or the journal with structured fields.

use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;

use systemd_journal_logger::JournalLog;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, reload};

use crate::config::{Log, LogFormat};

/// Changes the level of a running daemon.
#[derive(Debug, Clone)]
pub struct LevelHandle(reload::Handle<Targets, Registry>);

impl LevelHandle {
    /// Takes a level such as `info` or `warn,tampu::broker=debug`; the configuration has checked it.
    pub fn set(&self, level: &str) {
        if let Err(error) = self.0.reload(targets(level)) {
            tracing::warn!(%error, "the log level could not be changed");
        }
    }
}

/// Starts logging. Call it once.
#[must_use]
pub fn start(log: &Log) -> LevelHandle {
    let (filter, handle) = reload::Layer::new(targets(&log.level));
    let registry = tracing_subscriber::registry().with(filter);
    let stderr = || tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let journal = match log.format {
        LogFormat::Journal => true,
        LogFormat::Auto => systemd_journal_logger::connected_to_journal(),
        LogFormat::Text | LogFormat::Json => false,
    };
    let (journal, silent) = match journal.then(JournalLog::new).transpose() {
        Ok(journal) => (journal, None),
        Err(error) => (None, Some(error)),
    };
    match journal {
        Some(journal) => registry.with(JournalLayer(journal)).init(),
        None if log.format == LogFormat::Json => {
            let json = tracing_subscriber::fmt::layer().json().flatten_event(true);
            registry.with(json.with_writer(std::io::stderr)).init();
        }
        None => registry.with(stderr().with_ansi(std::io::stderr().is_terminal())).init(),
    }
    if let Some(error) = silent {
        tracing::warn!(%error, "the journal does not answer; logging to standard error");
    }
    LevelHandle(handle)
}

fn targets(level: &str) -> Targets {
    level.parse().unwrap_or_else(|_| Targets::new().with_default(Level::INFO))
}

/// Hands events to `systemd-journal-logger`, each field as a field of the journal (`device` → `DEVICE`).
struct JournalLayer(JournalLog);

impl<S: Subscriber> Layer<S> for JournalLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Fields { message, fields } = Fields::of(event);
        let metadata = event.metadata();
        let level = match *metadata.level() {
            Level::ERROR => log::Level::Error,
            Level::WARN => log::Level::Warn,
            Level::INFO => log::Level::Info,
            Level::DEBUG => log::Level::Debug,
            Level::TRACE => log::Level::Trace,
        };
        let sent = self.0.journal_send(
            &log::Record::builder()
                .args(format_args!("{message}"))
                .level(level)
                .target(metadata.target())
                .module_path(metadata.module_path())
                .file(metadata.file())
                .line(metadata.line())
                .key_values(&fields)
                .build(),
        );
        if let Err(error) = sent {
            // The journal is gone: standard error is all that is left.
            eprintln!("{level}: {message} (the journal does not answer: {error})");
        }
    }
}

/// The message of an event, with its fields behind it for people, and the fields for machines.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Fields {
    fn of(event: &Event<'_>) -> Self {
        let mut fields = Self::default();
        event.record(&mut fields);
        for (name, value) in &fields.fields {
            write!(fields.message, " {name}={value}").expect("a String takes everything");
        }
        fields
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.insert_str(0, value),
            name => self.fields.push((name, value.to_owned())),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<Fields>>>);

    impl<S: Subscriber> Layer<S> for Seen {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.0.lock().unwrap().push(Fields::of(event));
        }
    }

    #[test]
    fn the_journal_is_given_each_field_and_a_message_that_people_can_read() {
        let seen = Seen::default();
        let subscriber = tracing_subscriber::registry().with(seen.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(device = "esp32-01", reason = %"expired", count = 3, "refused a connection");
        });
        let seen = seen.0.lock().unwrap();
        assert_eq!(seen[0].message, "refused a connection device=esp32-01 reason=expired count=3");
        let expected = [("device", "esp32-01"), ("reason", "expired"), ("count", "3")];
        assert_eq!(seen[0].fields, expected.map(|(name, value)| (name, value.to_owned())));
    }
}
