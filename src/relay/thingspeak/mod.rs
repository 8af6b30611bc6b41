//! Commands from ThingSpeak: a TalkBack's queue, and the last value of a channel's field.
//!
//! Neither knows acknowledgements. What TalkBack gives has left its queue by that: it is on disk before anything else
//! happens, and what is lost between its reply and our disk is lost. A field has no queue: what was written and
//! overwritten between two looks is not seen. The outcomes of commands can be told to the `status` of a channel.

mod field;
mod reply;
mod report;
mod talkback;

use std::time::{Duration, SystemTime};

use reqwest::header::HeaderMap;
use reqwest::{Method, Url};
use time::OffsetDateTime;

pub use self::field::FieldSource;
pub use self::talkback::TalkBackSource;
use crate::clock::Clock;
use crate::config;
use crate::sink::http::{self, Http, NoReply};
use crate::sink::{SendError, SinkError};

/// Calls with their parameters as a form in the body, so that no key stands in an address.
#[derive(Debug, Clone)]
struct Client {
    http: Http,
    base: String,
}

impl Client {
    fn new(
        source: &config::CommandSource,
        base: &str,
        secrets: Vec<config::Secret>,
        clock: &Clock,
    ) -> Result<Self, SinkError> {
        let settings =
            http::Settings { timeout: source.timeout, ca_file: source.ca_file.as_deref(), secrets };
        Ok(Self { http: Http::new(&settings, clock)?, base: base.trim_end_matches('/').to_owned() })
    }

    fn url(&self, path: &str) -> Result<Url, SinkError> {
        let text = format!("{}/{path}", self.base);
        Url::parse(&text).map_err(|error| SinkError::Url { url: text.clone(), why: error.to_string() })
    }

    async fn post(&self, url: &Url, parameters: &[(&str, &str)]) -> Result<http::Reply, NoReply> {
        let form = Url::parse_with_params("form:", parameters).expect("any text can stand in a query");
        let body = form.query().unwrap_or_default().to_owned();
        let body = Some(("application/x-www-form-urlencoded", body));
        self.http.call_once(Method::POST, url, &HeaderMap::new(), body).await
    }

    async fn get(&self, url: &Url, parameters: &[(&str, &str)]) -> Result<http::Reply, SendError> {
        let mut url = url.clone();
        url.query_pairs_mut().extend_pairs(parameters);
        self.http.call(Method::GET, &url, &HeaderMap::new(), None).await
    }
}

/// How long ago that was, by the gateway's own clock, if it is right; otherwise by that of the far side, whose reply
/// was sent at `sent_at`. As long as nobody knows, it is too old for anything: no command is carried out late.
fn age(clock: &Clock, created_at: Option<OffsetDateTime>, sent_at: Option<SystemTime>) -> Duration {
    let now = if clock.is_synchronized() { Some(clock.trusted_now()) } else { sent_at };
    match (now, created_at) {
        (Some(now), Some(at)) => now.duration_since(at.into()).unwrap_or_default(),
        (Some(_), None) => Duration::ZERO,
        (None, _) => Duration::MAX,
    }
}

#[cfg(test)]
mod tests;
