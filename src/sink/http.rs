//! One HTTP client a far side: bounded, without redirects, and with TLS that survives a wrong clock.

use std::error::Error as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::{
    CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderMap, HeaderName, RETRY_AFTER, TRANSFER_ENCODING,
};
use reqwest::{Method, StatusCode, Upgraded, Url};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::{SendError, SinkError};
use crate::clock::Clock;
use crate::config;

/// Services look at who calls: Supabase refuses its secret keys to anything that looks like a browser.
const USER_AGENT: &str = concat!("tampu/", env!("CARGO_PKG_VERSION"));

/// Where a reply is cut unless a client reads more: no answer to a write that is of use is longer.
pub(crate) const MAX_REPLY_BYTES: usize = 64 * 1024;

/// How long to wait for the body of a reply that does not say how long it is: PostgREST before 14.2
/// ends its 201 with the headers and keeps the connection open.
const UNSIZED_BODY_WAIT: Duration = Duration::from_secs(2);

/// The longest text of the far side's that goes into an error.
const MAX_QUOTE_CHARS: usize = 200;

/// What a client is like.
#[derive(Debug, Clone)]
pub(crate) struct Settings<'a> {
    /// How long one call may take.
    pub(crate) timeout: Duration,
    /// Certificates (PEM) to trust in place of the system's.
    pub(crate) ca_file: Option<&'a Path>,
    /// Texts that must never be repeated.
    pub(crate) secrets: Vec<config::Secret>,
}

impl<'a> Settings<'a> {
    pub(super) fn of(sink: &'a config::Sink) -> Self {
        let secrets = match &sink.kind {
            config::SinkKind::ThingSpeak(kind) => vec![kind.write_key.clone()],
            config::SinkKind::Supabase(kind) => {
                [Some(&kind.key), kind.token.as_ref()].into_iter().flatten().cloned().collect()
            }
        };
        Self { timeout: sink.timeout, ca_file: sink.ca_file.as_deref(), secrets }
    }
}

/// A client for one far side.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    client: reqwest::Client,
    secrets: Vec<config::Secret>,
    max_reply_bytes: usize,
}

/// A call without a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoReply {
    /// What became of it.
    pub(crate) error: SendError,
    /// Whether the far side may have had the request.
    pub(crate) has_left: bool,
}

impl From<NoReply> for SendError {
    fn from(NoReply { error, .. }: NoReply) -> Self {
        error
    }
}

/// A reply, its body cut at 64 KiB or where the client's bound is.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// What came of asking for another protocol.
#[derive(Debug)]
pub(crate) enum Switched {
    /// The far side speaks it now. Its headers say how.
    Yes(HeaderMap, Upgraded),
    /// It has answered something else.
    No(Reply),
}

impl Http {
    pub(crate) fn new(settings: &Settings<'_>, clock: &Clock) -> Result<Self, SinkError> {
        let tls = tls(settings.ca_file, clock)?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent(USER_AGENT)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            // Shorter than the whole, so that a host out of reach is not taken for one that is slow.
            .connect_timeout(settings.timeout / 2)
            .timeout(settings.timeout)
            // A call comes every few seconds at most, and cellular networks drop idle connections unseen.
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_max_idle_per_host(1)
            .build()
            .map_err(|error| SinkError::Client(chain(&error)))?;
        Ok(Self { client, secrets: settings.secrets.clone(), max_reply_bytes: MAX_REPLY_BYTES })
    }

    /// The same, with another bound for the bodies of replies.
    pub(crate) fn reading(self, max_reply_bytes: usize) -> Self {
        Self { max_reply_bytes, ..self }
    }

    /// Posts a JSON body.
    ///
    /// # Errors
    /// [`SendError::Slow`] without an answer in time, [`SendError::Retry`] without an answer.
    pub(crate) async fn post(
        &self,
        url: &Url,
        headers: &HeaderMap,
        body: String,
    ) -> Result<Reply, SendError> {
        self.call(Method::POST, url, headers, Some(("application/json", body))).await
    }

    /// Makes a call; `body` has its media type beside it.
    ///
    /// # Errors
    /// As [`Http::post`].
    pub(crate) async fn call(
        &self,
        method: Method,
        url: &Url,
        headers: &HeaderMap,
        body: Option<(&str, String)>,
    ) -> Result<Reply, SendError> {
        Ok(self.call_once(method, url, headers, body).await?)
    }

    /// Makes a call that must not be made twice.
    ///
    /// # Errors
    /// As [`Http::post`], and whether the far side may have had the request.
    pub(crate) async fn call_once(
        &self,
        method: Method,
        url: &Url,
        headers: &HeaderMap,
        body: Option<(&str, String)>,
    ) -> Result<Reply, NoReply> {
        let mut request = self.client.request(method, url.clone()).headers(headers.clone());
        if let Some((kind, body)) = body {
            request = request.header(CONTENT_TYPE, kind).body(body);
        }
        let response = request.send().await.map_err(|error| self.failed(error, headers))?;
        self.read(response, headers).await
    }

    /// Asks for another protocol with these headers (RFC 9110, 7.8); what is spoken then has no time limit.
    ///
    /// # Errors
    /// As [`Http::post`].
    pub(crate) async fn switch(&self, url: &Url, headers: &HeaderMap) -> Result<Switched, SendError> {
        let request = self.client.get(url.clone()).headers(headers.clone());
        let response = request.send().await.map_err(|error| self.failed(error, headers))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Switched::No(self.read(response, headers).await?));
        }
        let answered = response.headers().clone();
        let stream = response.upgrade().await.map_err(|error| self.failed(error, headers))?;
        Ok(Switched::Yes(answered, stream))
    }

    async fn read(&self, mut response: reqwest::Response, asked: &HeaderMap) -> Result<Reply, NoReply> {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let is_sized = headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING);
        let read = read_bounded(&mut response, self.max_reply_bytes);
        let body = if is_sized {
            read.await.map_err(|error| self.failed(error, asked))?
        } else {
            tokio::time::timeout(UNSIZED_BODY_WAIT, read).await.unwrap_or(Ok(Vec::new())).unwrap_or_default()
        };
        let body = self.without_secret(&String::from_utf8_lossy(&body), asked);
        Ok(Reply { status, headers, body })
    }

    fn failed(&self, error: reqwest::Error, asked: &HeaderMap) -> NoReply {
        let has_left = !error.is_connect() && !error.is_builder();
        let slow = error.is_timeout() && has_left;
        let why = quote(&self.without_secret(&chain(&error.without_url()), asked));
        let error = if slow { SendError::Slow { why } } else { SendError::Retry { after: None, why } };
        NoReply { error, has_left }
    }

    /// A text of the far side's without the secrets, should it have quoted one: those of the settings, and what
    /// was asked with, which may be newer.
    fn without_secret(&self, text: &str, asked: &HeaderMap) -> String {
        let asked =
            asked.values().filter(|value| value.is_sensitive()).filter_map(|value| value.to_str().ok());
        let asked = asked.map(|value| value.trim_start_matches("Bearer "));
        let secrets = self.secrets.iter().map(config::Secret::expose).chain(asked);
        let secrets = secrets.filter(|secret| !secret.is_empty());
        secrets.fold(text.to_owned(), |text, secret| text.replace(secret, "(secret)"))
    }
}

async fn read_bounded(response: &mut reqwest::Response, max_bytes: usize) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = max_bytes - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == max_bytes {
            break;
        }
    }
    Ok(body)
}

/// TLS towards a far side; certificates are judged by the trusted time.
pub(crate) fn tls(ca_file: Option<&Path>, clock: &Clock) -> Result<rustls::ClientConfig, SinkError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_details(provider, Arc::new(TlsTime(clock.clone())))
        .with_safe_default_protocol_versions()
        .map_err(|error| SinkError::Client(error.to_string()))?
        .with_root_certificates(roots(ca_file)?)
        .with_no_client_auth();
    Ok(config)
}

fn roots(ca_file: Option<&Path>) -> Result<rustls::RootCertStore, SinkError> {
    let mut store = rustls::RootCertStore::empty();
    let Some(path) = ca_file else {
        // Without any, every handshake fails with a text that says so: no reason not to start.
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(store);
    };
    let wrong = |why: String| SinkError::CaFile { path: path.to_owned(), why };
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))? {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        store.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if store.is_empty() {
        return Err(wrong("holds no certificate".to_owned()));
    }
    Ok(store)
}

/// The clock by which certificates are judged (P7).
#[derive(Debug)]
struct TlsTime(Clock);

impl rustls::time_provider::TimeProvider for TlsTime {
    fn current_time(&self) -> Option<UnixTime> {
        self.0.trusted_now().duration_since(UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

impl Reply {
    /// How long the far side wants to be left alone.
    ///
    /// A date is read against the reply's own `Date`: the clock of the gateway may be wrong.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        let text = self.header(&RETRY_AFTER)?.trim();
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let until = httpdate::parse_http_date(text).ok()?;
        Some(until.duration_since(self.date()?).unwrap_or_default())
    }

    /// When it was sent, by the far side's clock.
    pub(crate) fn date(&self) -> Option<SystemTime> {
        httpdate::parse_http_date(self.header(&DATE)?).ok()
    }

    pub(crate) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether this is a page for people: a captive portal's, or a proxy's.
    pub(crate) fn is_html(&self) -> bool {
        self.header(&CONTENT_TYPE)
            .is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/html"))
            || self.body.trim_start().starts_with('<')
    }
}

#[cfg(test)]
impl Reply {
    /// A reply for tests of classification.
    pub(crate) fn fake(status: u16, headers: &[(&str, &str)], body: &str) -> Self {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
            .collect();
        Self { status, headers, body: body.to_owned() }
    }
}

/// Cuts a text and takes the control characters out, so that it can stand in a log line.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_QUOTE_CHARS).collect();
    if text.chars().nth(MAX_QUOTE_CHARS).is_some() {
        quoted.push('…');
    }
    quoted
}

/// An error with all its causes: the outermost of an HTTP client's alone says nothing.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_read_against_the_replys_own_date() {
        let seconds = Reply::fake(429, &[("retry-after", "17")], "");
        assert_eq!(seconds.retry_after(), Some(Duration::from_secs(17)));
        let date = ("retry-after", "Wed, 01 Jan 2031 00:01:00 GMT");
        let own = Reply::fake(503, &[date, ("date", "Wed, 01 Jan 2031 00:00:00 GMT")], "");
        assert_eq!(own.retry_after(), Some(Duration::from_secs(60)), "whatever the gateway's clock says");
        let past = Reply::fake(503, &[date, ("date", "Wed, 01 Jan 2031 00:02:00 GMT")], "");
        assert_eq!(past.retry_after(), Some(Duration::ZERO));
        assert_eq!(Reply::fake(503, &[date], "").retry_after(), None, "a date alone says nothing");
        assert_eq!(Reply::fake(503, &[("retry-after", "soon")], "").retry_after(), None);
    }

    #[test]
    fn what_the_far_side_says_is_cut_and_kept_on_one_line() {
        assert_eq!(quote("a\r\nb\u{1b}[31m"), "a  b [31m");
        assert_eq!(quote(&"ü".repeat(500)).chars().count(), MAX_QUOTE_CHARS + 1);
    }

    #[test]
    fn a_page_for_people_is_recognised_by_its_type_or_its_first_character() {
        assert!(Reply::fake(200, &[("content-type", "text/HTML; charset=utf-8")], "hello").is_html());
        assert!(Reply::fake(200, &[], "\n<!DOCTYPE html>").is_html());
        assert!(!Reply::fake(200, &[("content-type", "application/json")], "{}").is_html());
    }
}
