//! A Supabase table, or one behind any PostgREST.
//!
//! Every row carries `(gateway_id, epoch, seq)`, which names a reading for ever, and every request says
//! `on_conflict` for that key and `ignore-duplicates`: a request whose outcome is unknown is sent again, and
//! the table holds each reading once (P3). A payload goes in byte for byte as the device sent it.

pub(crate) mod reply;
mod rows;

use std::time::Duration;

use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use super::http::Http;
use super::payload::Formats;
use super::{Accepted, Batch, Bounds, Plan, Row, SendError, Sink, SinkError};
use crate::config::{self, Secret, SupabaseRows};
use crate::message::DeviceId;
use rows::Rows;

/// The unique index that the table must have.
const KEY_COLUMNS: &str = "gateway_id,epoch,seq";

/// A Supabase table.
#[derive(Debug)]
pub struct SupabaseSink {
    settings: config::Supabase,
    url: Url,
    headers: HeaderMap,
    http: Http,
    rows: Rows,
}

impl SupabaseSink {
    pub(super) fn new(
        settings: &config::Supabase,
        formats: Formats,
        gateway: &DeviceId,
        http: Http,
    ) -> Result<Self, SinkError> {
        let rows = Rows::new(&settings.rows, gateway, formats);
        Ok(Self {
            url: url(settings, &rows.columns())?,
            headers: headers(settings).ok_or(SinkError::Key)?,
            http,
            rows,
            settings: settings.clone(),
        })
    }
}

impl Sink for SupabaseSink {
    fn bounds(&self) -> Bounds {
        let max_rows = self.settings.max_rows.max(1);
        Bounds {
            max_rows,
            max_readings: max_rows,
            max_bytes: self.settings.max_bytes,
            interval: self.settings.interval,
            // PostgREST demands none, and the search for a row at fault takes many requests.
            spacing: Duration::ZERO,
        }
    }

    fn plan(&mut self, batch: &Batch<'_>) -> Plan {
        self.rows.plan(batch, self.settings.max_bytes)
    }

    async fn send(&mut self, rows: &[Row]) -> Result<Accepted, SendError> {
        let reply = self.http.post(&self.url, &self.headers, body(rows)).await?;
        reply::classify(&reply)
    }
}

fn url(settings: &config::Supabase, columns: &str) -> Result<Url, SinkError> {
    let wrong = |why: &str| SinkError::Url { url: settings.url.clone(), why: why.to_owned() };
    let base = format!("{}{}", settings.url.trim_end_matches('/'), settings.rest_path.trim_end_matches('/'));
    let mut url = Url::parse(&base).map_err(|error| wrong(&error.to_string()))?;
    url.path_segments_mut().map_err(|()| wrong("cannot have a path"))?.push(&settings.table);
    url.query_pairs_mut().append_pair("on_conflict", KEY_COLUMNS).append_pair("columns", columns);
    Ok(url)
}

/// `None` when the key or the schema cannot stand in a header.
fn headers(settings: &config::Supabase) -> Option<HeaderMap> {
    let prefer = match settings.rows {
        SupabaseRows::Whole => "return=minimal,resolution=ignore-duplicates",
        // A payload may lack a value: then the column's default applies.
        SupabaseRows::Columns(_) => "return=minimal,resolution=ignore-duplicates,missing=default",
    };
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::from_static("prefer"), HeaderValue::from_static(prefer));
    headers.insert(HeaderName::from_static("apikey"), secret_value(settings.key.expose())?);
    if let Some(token) = settings.token.as_ref().or_else(|| is_jwt(&settings.key).then_some(&settings.key)) {
        headers.insert(AUTHORIZATION, secret_value(&format!("Bearer {}", token.expose()))?);
    }
    if let Some(schema) = &settings.schema {
        headers.insert(HeaderName::from_static("content-profile"), HeaderValue::from_str(schema).ok()?);
    }
    Some(headers)
}

pub(crate) fn secret_value(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// A legacy key is a JWT and works as Bearer; an `sb_…` key is none and must stand in `apikey` alone.
pub(crate) fn is_jwt(key: &Secret) -> bool {
    let key = key.expose();
    key.starts_with("eyJ") && key.split('.').count() == 3
}

fn body(rows: &[Row]) -> String {
    let mut body = String::with_capacity(2 + rows.iter().map(|row| row.text.len() + 1).sum::<usize>());
    body.push('[');
    for (n, row) in rows.iter().enumerate() {
        if n > 0 {
            body.push(',');
        }
        body.push_str(&row.text);
    }
    body.push(']');
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(key: &str) -> config::Supabase {
        config::Supabase {
            url: "https://x.supabase.co/".to_owned(),
            rest_path: "/rest/v1".to_owned(),
            key: Secret::new(key.to_owned()),
            token: None,
            schema: None,
            table: "readings".to_owned(),
            rows: SupabaseRows::Whole,
            max_rows: 1000,
            max_bytes: 1_000_000,
            interval: Duration::from_secs(1),
        }
    }

    #[test]
    fn an_sb_key_stands_in_apikey_alone_and_a_legacy_one_in_both_headers() {
        let headers_of = |key: &str| headers(&settings(key)).unwrap();
        let new = headers_of("sb_secret_abc.def.ghi");
        assert_eq!(new["apikey"], "sb_secret_abc.def.ghi");
        assert!(!new.contains_key(AUTHORIZATION));
        let legacy = headers_of("eyJh.eyJy.sig");
        assert_eq!(legacy["apikey"], "eyJh.eyJy.sig");
        assert_eq!(legacy[AUTHORIZATION], "Bearer eyJh.eyJy.sig");
        assert!(!format!("{legacy:?}").contains("eyJ"), "a key is never printed");
        assert!(headers(&settings("line\nbreak")).is_none());
    }

    #[test]
    fn a_token_is_the_bearer_whatever_the_key_is() {
        for key in ["sb_publishable_abc", "eyJh.eyJy.sig"] {
            let token = Some(Secret::new("eyJh.role.sig".to_owned()));
            let headers = headers(&config::Supabase { token, ..settings(key) }).unwrap();
            assert_eq!(headers["apikey"], key);
            assert_eq!(headers[AUTHORIZATION], "Bearer eyJh.role.sig");
        }
    }

    #[test]
    fn the_request_names_key_columns_and_preferences() {
        let mut settings = settings("sb_secret_x");
        let whole = url(&settings, "gateway_id,epoch,seq,a b&c").unwrap();
        let pairs: Vec<_> = whole.query_pairs().collect();
        assert_eq!(whole.path(), "/rest/v1/readings");
        assert_eq!(pairs[0], ("on_conflict".into(), "gateway_id,epoch,seq".into()));
        assert_eq!(pairs[1], ("columns".into(), "gateway_id,epoch,seq,a b&c".into()));
        assert_eq!(headers(&settings).unwrap()["prefer"], "return=minimal,resolution=ignore-duplicates");
        settings.rows = SupabaseRows::Columns(Vec::new());
        settings.schema = Some("iot".to_owned());
        let headers = headers(&settings).unwrap();
        assert_eq!(headers["prefer"], "return=minimal,resolution=ignore-duplicates,missing=default");
        assert_eq!(headers["content-profile"], "iot");
    }
}
