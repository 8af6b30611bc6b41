//! A ThingSpeak channel, written by `bulk_update.json`.
//!
//! A channel keeps one entry a second, and drops without a word what comes for a second that it has. So all
//! readings of one second go in one entry, and a second is sent only when nothing more can come for it
//! (`plan`). What was accepted is remembered: a reading that comes late for such a second, after a step
//! of the clock or because live readings overtook it, is counted as a collision and not lost unseen.
//! The same readings always make the same entries, so sending them again after a crash changes nothing.

mod allowance;
mod plan;
mod reply;
mod taken;
mod value;

use reqwest::Url;
use reqwest::header::HeaderMap;

use super::http::Http;
use super::payload::{Formats, quoted};
use super::{Accepted, Batch, Behind, Bounds, Plan, Row, SendError, Sink, SinkError};
use crate::config;
use allowance::Allowance;
use plan::Planner;
use taken::Taken;

/// Readings that are looked at for one call, at most: an entry may be made of many.
const MAX_READINGS: usize = 16_384;

/// Bytes of readings that are looked at for one call.
const MAX_READING_BYTES: usize = 2 * 1024 * 1024;

/// A ThingSpeak channel.
#[derive(Debug)]
pub struct ThingSpeakSink {
    settings: config::ThingSpeak,
    url: Url,
    http: Http,
    planner: Planner,
    /// Readings that the next call is likely to need: to look at more costs time and changes nothing.
    look_at: usize,
    taken: Taken,
    allowance: Allowance,
}

impl ThingSpeakSink {
    pub(super) fn new(
        settings: &config::ThingSpeak,
        formats: Formats,
        http: Http,
    ) -> Result<Self, SinkError> {
        let text =
            format!("{}/channels/{}/bulk_update.json", settings.url.trim_end_matches('/'), settings.channel);
        let url = Url::parse(&text)
            .map_err(|error| SinkError::Url { url: settings.url.clone(), why: error.to_string() })?;
        Ok(Self {
            url,
            http,
            planner: Planner::new(settings, formats),
            look_at: settings.max_entries.max(1),
            taken: Taken::default(),
            allowance: Allowance::new(settings.yearly_allowance),
            settings: settings.clone(),
        })
    }
}

impl Sink for ThingSpeakSink {
    fn bounds(&self) -> Bounds {
        Bounds {
            max_rows: self.settings.max_entries.max(1),
            max_readings: self.look_at,
            max_bytes: MAX_READING_BYTES,
            interval: self.settings.interval,
            spacing: self.settings.interval,
        }
    }

    fn plan(&mut self, batch: &Batch<'_>) -> Plan {
        let plan = self.planner.plan(batch, &self.taken);
        let used = plan.dropped.len()
            + plan.rows.iter().map(|row| row.carried.len() + row.lost.len()).sum::<usize>();
        let wanted = match batch.behind {
            Behind::Nothing => self.look_at,
            _ if plan.rows.len() < batch.max_rows => self.look_at.saturating_mul(2),
            _ => used + used / 4,
        };
        self.look_at = wanted.clamp(self.settings.max_entries.max(1), MAX_READINGS);
        plan
    }

    async fn send(&mut self, rows: &[Row]) -> Result<Accepted, SendError> {
        let body = body(self.settings.write_key.expose(), rows);
        let reply = self.http.post(&self.url, &HeaderMap::new(), body).await?;
        let accepted = reply::classify(&reply, self.settings.interval)?;
        for row in rows {
            self.taken.insert(row.at_s);
            self.allowance.count(row.at_s);
        }
        Ok(accepted)
    }

    fn remark(&self) -> Option<String> {
        self.allowance.warning()
    }
}

fn body(key: &str, rows: &[Row]) -> String {
    let mut body = String::with_capacity(64 + rows.iter().map(|row| row.text.len() + 1).sum::<usize>());
    body.push_str("{\"write_api_key\":");
    body.push_str(&quoted(key));
    body.push_str(",\"updates\":[");
    for (n, row) in rows.iter().enumerate() {
        if n > 0 {
            body.push(',');
        }
        body.push_str(&row.text);
    }
    body.push_str("]}");
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_the_documented_form() {
        let row = |text: &str| Row { text: text.to_owned(), at_s: 0, carried: vec![1], lost: vec![] };
        let rows = [row(r#"{"created_at":"2026-01-01T00:00:00Z","field1":1.50}"#), row("{}")];
        assert_eq!(
            body("K\"EY", &rows),
            r#"{"write_api_key":"K\"EY","updates":[{"created_at":"2026-01-01T00:00:00Z","field1":1.50},{}]}"#
        );
    }
}
