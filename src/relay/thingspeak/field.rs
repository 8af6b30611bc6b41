//! The last value of a field: a dashboard's slider. Only changes are commands.

use reqwest::Url;
use time::OffsetDateTime;
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
    /// Whether it was looked at before.
    looked: bool,
    last: Option<FieldValue>,
}

impl Seen {
    /// The value, if it is a change. What is there at the first look counts if `first_value` says so.
    fn change(&mut self, found: Option<FieldValue>, first_value: bool) -> Option<FieldValue> {
        let is_first = !std::mem::replace(&mut self.looked, true);
        let found = found?;
        let is_same = match &self.last {
            // Another server of theirs, which is behind. A channel that was cleared counts its entries anew.
            Some(last) if (found.created_at, found.entry_id) < (last.created_at, last.entry_id) => {
                return None;
            }
            last => last.as_ref().is_some_and(|last| last.value == found.value),
        };
        self.last = Some(found.clone());
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
                    if let Some(change) = seen.change(found, self.settings.first_value) {
                        self.take(&change).await;
                    }
                }
                Err(error) => self.desk.failed(&error, &mut pace),
            }
        }
    }

    async fn take(&self, FieldValue { entry_id, value, created_at, sent_at }: &FieldValue) {
        let age = age(&self.clock, *created_at, *sent_at);
        // Entries of a channel that was cleared are counted anew.
        let at = created_at.map_or(0, OffsetDateTime::unix_timestamp);
        let reference = format!("{}/field{}/{at}/{entry_id}", self.settings.channel, self.settings.field);
        self.desk.take(&self.settings.command, Said { place: "value", text: value, reference, age }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is a change, of values with the second and the number of their entries.
    fn changes(first_value: bool, found: &[Option<(i64, u64, &str)>]) -> Vec<String> {
        let mut seen = Seen::default();
        let value = |(second, entry_id, value): (i64, u64, &str)| FieldValue {
            entry_id,
            value: value.to_owned(),
            created_at: OffsetDateTime::from_unix_timestamp(second).ok(),
            sent_at: None,
        };
        let changes = found.iter().filter_map(|it| seen.change(it.map(value), first_value));
        changes.map(|it| it.value).collect()
    }

    #[test]
    fn only_changes_count_and_the_first_value_when_it_is_told_to() {
        let found = [(1, "10"), (1, "10"), (2, "20"), (3, "20"), (4, "10")];
        let found = found.map(|(entry, value)| Some((0, entry, value)));
        assert_eq!(changes(false, &found), ["20", "10"]);
        assert_eq!(changes(true, &found), ["10", "20", "10"]);
    }

    #[test]
    fn the_first_value_of_a_field_that_had_none_is_a_change() {
        assert_eq!(changes(false, &[None, Some((5, 1, "10"))]), ["10"]);
    }

    #[test]
    fn a_reply_that_is_behind_is_no_change() {
        let found = [(1, 1, "10"), (2, 2, "20"), (1, 1, "10"), (2, 2, "20")];
        assert_eq!(changes(false, &found.map(Some)), ["20"]);
    }

    #[test]
    fn a_channel_that_was_cleared_goes_on() {
        let found = [Some((10, 900, "10")), None, Some((99, 1, "20"))];
        assert_eq!(changes(false, &found), ["20"]);
    }
}
