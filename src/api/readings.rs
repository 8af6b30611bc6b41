//! What devices have sent, as far as it is still stored. Each request looks at a bounded part of the store.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use super::access::{Allowed, ReadingsRead};
use super::extract::Params;
use super::page::{self, Page};
use super::problem::Problem;
use super::rest::{DISK_DEADLINE, Rest};
use super::shape;
use crate::clock::{Clock, Resolved, TimeQuality};
use crate::message::{DeviceId, Qos, Seq};

/// Looks of one request; each is of some 32 KiB, compressed.
const MAX_LOOKS: usize = 16;
/// A request looks no longer than this, but for the last look.
const MAX_TIME: Duration = Duration::from_secs(1);
/// Bytes of payloads in one answer, but for one larger reading.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// Readings that are looked at for the latest of each device.
const MAX_LATEST: usize = 1_000;
/// After so many that are all too old, one after the other, older ones are not looked for: times go back only
/// where a clock was wrong.
const TOO_OLD: usize = 1_000;

/// A reading.
#[derive(Debug, serde::Serialize, ToSchema)]
pub(super) struct Reading {
    /// Its number in this gateway.
    seq: Seq,
    /// With this one, and the gateway's name, it names the reading for ever.
    epoch: u64,
    /// Who sent it.
    #[schema(value_type = String)]
    device: DeviceId,
    /// The stream that it belongs to.
    stream: String,
    /// The topic that it was published to.
    topic: String,
    /// The quality of service that it was published with: 0, 1 or 2.
    qos: u8,
    /// When it was received; `null` while that is not known, because the clock was not synchronised yet.
    #[schema(format = DateTime)]
    at: Option<String>,
    /// How good that time is: `synchronized`, `corrected` or `unsynchronized`.
    clock: Option<&'static str>,
    /// How `payload` is written: `json` as it came, `text`, or `base64` of bytes that are no UTF-8.
    encoding: &'static str,
    /// What it said.
    #[schema(value_type = serde_json::Value)]
    payload: Box<RawValue>,
    /// Why no sink can use it, if so.
    fault: Option<String>,
}

/// Which readings are wanted.
#[derive(Debug, serde::Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Selection {
    /// Only of this device.
    device: Option<String>,
    /// Only of this stream.
    stream: Option<String>,
    /// Only those received at this time or later.
    #[param(format = DateTime)]
    since: Option<String>,
    /// Only those received before this time.
    #[param(format = DateTime)]
    until: Option<String>,
    /// How many at most; 100 unless told. A page may hold fewer, even none, and name a next one.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Of which devices and streams the latest readings are wanted.
#[derive(Debug, serde::Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct LatestOf {
    /// Only of this device.
    device: Option<String>,
    /// Only of this stream.
    stream: Option<String>,
}

/// The latest readings.
#[derive(Debug, serde::Serialize, ToSchema)]
pub(super) struct Latest {
    /// The latest of each device in each stream, the newest first.
    items: Vec<Reading>,
    /// Readings with lower numbers were not looked at; `null`: all were.
    searched_from: Option<Seq>,
}

/// What a reading must be.
struct Filter {
    device: Option<String>,
    stream: Option<String>,
    since_ms: Option<i64>,
    until_ms: Option<i64>,
}

#[utoipa::path(
    get, path = "/readings", tag = "readings", params(Selection),
    summary = "List what devices have sent, the newest first, as far as it is still stored",
    security(("token" = ["readings:read"])),
    responses((status = OK, body = Page<Reading>)),
)]
pub(super) async fn list(
    _: Allowed<ReadingsRead>,
    State(rest): State<Arc<Rest>>,
    Params(Selection { device, stream, since, until, limit, cursor }): Params<Selection>,
) -> Result<Json<Page<Reading>>, Problem> {
    let limit = page::limit(limit)?;
    let end = page::place(cursor.as_deref(), |text| text.parse().ok())?;
    let filter = Filter {
        device,
        stream,
        since_ms: since.map(|text| moment("since", &text)).transpose()?,
        until_ms: until.map(|text| moment("until", &text)).transpose()?,
    };
    let clock = &rest.parts.handles.clock;
    let (mut items, mut bytes, mut old) = (Vec::new(), 0, 0);
    let searched = search(&rest, end, |reading| {
        let at = resolve(clock, &reading);
        if filter.is_too_old(at) {
            old += 1;
            return if old < TOO_OLD { Walk::On } else { Walk::Done };
        }
        old = 0;
        if !filter.takes(&reading, at) {
            return Walk::On;
        }
        let size = reading.payload.len() + reading.topic.len();
        if items.len() == limit || (bytes + size > MAX_ANSWER_BYTES && !items.is_empty()) {
            return Walk::Full;
        }
        bytes += size;
        items.push(shown(reading, at));
        Walk::On
    });
    let next = searched.await?.map(page::cursor);
    Ok(Json(Page { items, next }))
}

#[utoipa::path(
    get, path = "/readings/latest", tag = "readings", params(LatestOf),
    summary = "Show the latest reading of each device in each stream, among the newest that are stored",
    security(("token" = ["readings:read"])),
    responses((status = OK, body = Latest)),
)]
pub(super) async fn latest(
    _: Allowed<ReadingsRead>,
    State(rest): State<Arc<Rest>>,
    Params(LatestOf { device, stream }): Params<LatestOf>,
) -> Result<Json<Latest>, Problem> {
    let clock = &rest.parts.handles.clock;
    let only_one = device.is_some() && stream.is_some();
    let filter = Filter { device, stream, since_ms: None, until_ms: None };
    let (mut items, mut bytes, mut seen) = (Vec::new(), 0, BTreeSet::new());
    let searched = search(&rest, None, |reading| {
        let at = resolve(clock, &reading);
        if !filter.takes(&reading, at) || !seen.insert((reading.device.clone(), reading.stream.clone())) {
            return Walk::On;
        }
        bytes += reading.payload.len();
        if items.len() == MAX_LATEST || (bytes > MAX_ANSWER_BYTES && !items.is_empty()) {
            return Walk::Full;
        }
        items.push(shown(reading, at));
        if only_one { Walk::Done } else { Walk::On }
    });
    let searched_from = searched.await?;
    Ok(Json(Latest { items, searched_from }))
}

/// What to do after a reading.
enum Walk {
    On,
    /// There was no room for it.
    Full,
    /// No older one is wanted.
    Done,
}

/// Visits stored readings, the newest first, and tells below which number there may be more.
async fn search(
    rest: &Rest,
    mut end: Option<Seq>,
    mut visit: impl FnMut(crate::message::Reading) -> Walk,
) -> Result<Option<Seq>, Problem> {
    let begun = Instant::now();
    for _ in 0..MAX_LOOKS {
        let look = async {
            let _turn = rest.look.acquire().await.expect("it is never closed");
            rest.parts.handles.buffer.look(end).await
        };
        let look = tokio::time::timeout(DISK_DEADLINE, look).await;
        let no_answer = || Problem::unavailable("the store does not answer now; try again");
        let look = look.map_err(|_| no_answer())??.ok_or_else(no_answer)?;
        for reading in look.readings {
            let seq = reading.seq;
            match visit(reading) {
                Walk::On => {}
                Walk::Full => return Ok(Some(seq + 1)),
                Walk::Done => return Ok(None),
            }
        }
        let Some(rest) = look.rest else { return Ok(None) };
        end = Some(rest);
        if begun.elapsed() > MAX_TIME {
            break;
        }
    }
    Ok(end)
}

impl Filter {
    fn is_too_old(&self, at: Option<(i64, TimeQuality)>) -> bool {
        matches!((self.since_ms, at), (Some(since), Some((at, _))) if at < since)
    }

    fn takes(&self, reading: &crate::message::Reading, at: Option<(i64, TimeQuality)>) -> bool {
        let in_time = match at {
            Some((at, _)) => self.until_ms.is_none_or(|until| at < until),
            None => self.since_ms.is_none() && self.until_ms.is_none(),
        };
        in_time
            && self.device.as_deref().is_none_or(|device| device == reading.device.as_str())
            && self.stream.as_deref().is_none_or(|stream| stream == &*reading.stream)
    }
}

fn moment(name: &str, text: &str) -> Result<i64, Problem> {
    let parsed = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| {
        Problem::malformed(format!(
            "{name} is a time such as 2026-01-31T12:00:00Z (RFC 3339); + is written %2B"
        ))
    })?;
    Ok(i64::try_from(parsed.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX))
}

fn resolve(clock: &Clock, reading: &crate::message::Reading) -> Option<(i64, TimeQuality)> {
    match clock.resolve(&reading.received) {
        Resolved::At(at_ms, quality) => Some((at_ms, quality)),
        Resolved::Wait => None,
    }
}

fn shown(reading: crate::message::Reading, at: Option<(i64, TimeQuality)>) -> Reading {
    let (encoding, payload) = payload(&reading.payload);
    Reading {
        seq: reading.seq,
        epoch: reading.epoch,
        stream: reading.stream.to_string(),
        topic: reading.topic.to_string(),
        qos: match reading.qos {
            Qos::AtMostOnce => 0,
            Qos::AtLeastOnce => 1,
            Qos::ExactlyOnce => 2,
        },
        at: at.map(|(ms, _)| shape::time_ms(ms)),
        clock: at.map(|(_, quality)| quality.as_str()),
        encoding,
        payload,
        fault: reading.fault.map(|fault| fault.to_string()),
        device: reading.device,
    }
}

/// A payload byte for byte if it is JSON, else as a text.
fn payload(bytes: &[u8]) -> (&'static str, Box<RawValue>) {
    let as_json = |text: &str| serde_json::value::to_raw_value(text).expect("a text can be written as JSON");
    match std::str::from_utf8(bytes) {
        Ok(text) => match RawValue::from_string(text.to_owned()) {
            Ok(json) => ("json", json),
            Err(_) => ("text", as_json(text)),
        },
        Err(_) => ("base64", as_json(&STANDARD.encode(bytes))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_json_as_it_came_or_a_text_or_base64() {
        let shown = |bytes: &[u8]| {
            let (encoding, payload) = payload(bytes);
            (encoding, payload.get().to_owned())
        };
        assert_eq!(shown(b"{\"t\":21.50}"), ("json", "{\"t\":21.50}".to_owned()));
        assert_eq!(shown(b"21.5"), ("json", "21.5".to_owned()));
        assert_eq!(shown(b"{\"t\":nan}"), ("text", "\"{\\\"t\\\":nan}\"".to_owned()));
        assert_eq!(shown(b""), ("text", "\"\"".to_owned()));
        assert_eq!(shown(&[0xff, 0]), ("base64", "\"/wA=\"".to_owned()));
    }
}
