//! The last value of a field: a dashboard's slider. Only changes are commands.

use reqwest::Url;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::reply::{self, FieldValue};
use super::report::Reporter;
use super::{Client, age};
use crate::clock::Clock;
use crate::config::{self, CommandSource};
use crate::relay::source::{Desk, Said, SourceStatus};
use crate::relay::{Ledger, Origin, Source};
use crate::sink::SinkError;
use crate::sink::pace::Pace;

/// Entries that are looked at: others may be written to the channel after the value.
const ENTRIES: &str = "100";

/// A field that is looked at.
#[derive(Debug)]
pub struct FieldSource {
    settings: config::ChannelField,
    client: Client,
    feed: Url,
    desk: Desk,
    reporter: Option<Reporter>,
    clock: Clock,
}

/// What was seen of a field.
#[derive(Debug, Default)]
struct Seen {
    entry_id: u64,
    value: Option<String>,
}

impl Seen {
    /// The value, if it is a change. What is there at the first look counts if `first_value` says so.
    fn change(&mut self, found: FieldValue, first_value: bool) -> Option<FieldValue> {
        let is_older = found.entry_id < self.entry_id;
        let is_same = self.value.as_ref() == Some(&found.value);
        if is_older && self.value.is_some() {
            // Another server of theirs, which is behind.
            return None;
        }
        self.entry_id = found.entry_id;
        let is_first = self.value.replace(found.value.clone()).is_none();
        (!is_same && (!is_first || first_value)).then_some(found)
    }
}

impl FieldSource {
    pub(in crate::relay) fn new(
        source: &CommandSource,
        settings: &config::ChannelField,
        ledger: Ledger,
        clock: &Clock,
    ) -> Result<(Self, watch::Receiver<SourceStatus>), SinkError> {
        let mut secrets: Vec<_> = settings.read_key.iter().cloned().collect();
        secrets.extend(settings.report.iter().map(|report| report.write_key.clone()));
        let client = Client::new(source, &settings.url, secrets, clock)?;
        let feed = client.url(&format!("channels/{}/fields/{}.json", settings.channel, settings.field))?;
        let origin = Origin { source: Source::Field, name: source.name.as_str().into(), reference: None };
        let reporter = settings.report.as_ref().map(|report| Reporter::new(report, &client)).transpose()?;
        let (desk, status) = Desk::new(origin, ledger);
        let field = Self { settings: settings.clone(), client, feed, desk, reporter, clock: clock.clone() };
        Ok((field, status))
    }

    pub(in crate::relay) async fn run(self, cancel: CancellationToken) {
        tokio::join!(self.look(&cancel), Reporter::run(self.reporter.as_ref(), &self.desk, &cancel));
    }

    async fn look(&self, cancel: &CancellationToken) {
        let mut pace = Pace::new(self.settings.interval, self.settings.interval);
        let mut seen = Seen::default();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep_until(pace.next()) => {}
            }
            let key = self.settings.read_key.as_ref().map(|key| ("api_key", key.expose()));
            let asked: Vec<_> = key.into_iter().chain([("results", ENTRIES)]).collect();
            let replied = self.client.get(&self.feed, &asked).await;
            pace.sent();
            match replied.and_then(|replied| reply::last_value(&replied, self.settings.field)) {
                Ok(found) => {
                    self.desk.well();
                    pace.succeeded();
                    if let Some(change) = found.and_then(|it| seen.change(it, self.settings.first_value)) {
                        self.take(&change).await;
                    }
                }
                Err(error) => self.desk.failed(&error, &mut pace),
            }
        }
    }

    async fn take(&self, FieldValue { entry_id, value, created_at }: &FieldValue) {
        let age = age(&self.clock, *created_at);
        let reference = format!("{}/field{}/{entry_id}", self.settings.channel, self.settings.field);
        self.desk.take(&self.settings.command, Said { place: "value", text: value, reference, age }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(first_value: bool, found: &[(u64, &str)]) -> Vec<String> {
        let mut seen = Seen::default();
        let value = |(entry_id, value): &(u64, &str)| FieldValue {
            entry_id: *entry_id,
            value: (*value).to_owned(),
            created_at: None,
        };
        found.iter().filter_map(|it| seen.change(value(it), first_value)).map(|it| it.value).collect()
    }

    #[test]
    fn only_changes_count_and_the_first_value_when_it_is_told_to() {
        let found = [(1, "10"), (1, "10"), (2, "20"), (3, "20"), (4, "10")];
        assert_eq!(changes(false, &found), ["20", "10"]);
        assert_eq!(changes(true, &found), ["10", "20", "10"]);
    }

    #[test]
    fn a_reply_that_is_behind_is_no_change() {
        assert_eq!(changes(false, &[(1, "10"), (2, "20"), (1, "10"), (2, "20")]), ["20"]);
    }
}
