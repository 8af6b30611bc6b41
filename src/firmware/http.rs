//! What devices are answered over HTTP. The updaters follow no redirect and take no chunks; what they do with each
//! status is in `docs/firmware.md`.

use std::io::{self, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{
    ACCEPT_RANGES, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::OwnedSemaphorePermit;

use super::asked::{Answer, Asked, Wanted, etag, has_tag};
use super::image::Kind;
use super::release::{Offer, Release};
use super::service::{Firmware, Shared};
use crate::authorize::refusals::Refusal;
use crate::authorize::{Credentials, DeniedAnswer, Door};
use crate::message::DeviceId;
use crate::web::Peer;

/// What is read of an image at once. With what waits in the connection, an image that is sent takes about 64 KiB.
const CHUNK_BYTES: usize = 16 * 1024;
/// After how many seconds a device may come again when there is no place.
const COME_AGAIN: HeaderValue = HeaderValue::from_static("30");
/// The path that stands for the device that asks.
const ME: &str = "me";
const X_MD5: HeaderName = HeaderName::from_static("x-md5");
const X_VERSION: HeaderName = HeaderName::from_static("x-version");
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

impl Firmware {
    /// `GET` and `HEAD /firmware/me`, and with the device's name instead of `me`.
    pub fn router(&self) -> Router {
        let nowhere = || async { say(StatusCode::NOT_FOUND, "firmware is found under /firmware/me") };
        Router::new().route("/firmware/{device}", get(fetch)).fallback(nowhere).with_state(self.clone())
    }
}

async fn fetch(
    State(Firmware(shared)): State<Firmware>,
    method: Method,
    Path(name): Path<String>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Response {
    let device = match shared.device_of(&peer, &headers).await {
        Ok(device) => device,
        Err(answer) => return *answer,
    };
    if name != ME && name != device.as_str() {
        let detail = format!("it asks for the firmware of {name}");
        shared.refuse(Refusal::FirmwareNotAllowed, peer.address.ip(), Some(&device), &detail);
        return say(StatusCode::FORBIDDEN, "this is another device's firmware");
    }
    let request = Request { method, peer, device, headers };
    request.answer(&shared).await
}

/// A request of a device that has shown who it is.
struct Request {
    method: Method,
    peer: Peer,
    device: DeviceId,
    headers: HeaderMap,
}

impl Request {
    async fn answer(&self, shared: &Arc<Shared>) -> Response {
        let asked = Asked::of(&self.headers);
        let (releases, now) = (shared.releases(), shared.now());
        shared.states().asked(&self.device, &asked, now);
        let offer = match self.begun(shared, asked.kind).and_then(|id| releases.get(id)) {
            Some(release) if !release.withdrawn => Offer::Release(release),
            _ => shared.offer(&releases, &self.device, asked.kind),
        };
        let offered = |release, runs, problem| {
            shared.states().offered(&self.device, release, runs, problem, now);
        };
        match asked.answer(offer) {
            Answer::NotFound => say(StatusCode::NOT_FOUND, "there is no firmware for this device"),
            Answer::Nothing => shared.not_modified(None),
            Answer::HasIt(release) => {
                offered(release, true, None);
                shared.not_modified(Some(release))
            }
            Answer::CannotTake(release, why) => {
                self.refuse(shared, Refusal::FirmwareUnfit, &format!("release {}: {why}", release.id));
                offered(release, false, Some(why));
                shared.not_modified(Some(release))
            }
            Answer::Image(release) if has_tag(&self.headers, &release.image) => {
                offered(release, true, None);
                shared.not_modified(Some(release))
            }
            Answer::Image(release) => {
                offered(release, false, None);
                self.give(shared, release, asked.kind).await
            }
        }
    }

    /// The release that the device has fetched a part of: with the next part of another one it would have neither.
    fn begun(&self, shared: &Shared, kind: Kind) -> Option<u32> {
        let range = self.headers.get(axum::http::header::RANGE)?.to_str().ok()?;
        let from = range.trim().strip_prefix("bytes=")?.split('-').next()?.parse().ok()?;
        shared.states().begun(&self.device, kind, from, shared.now())
    }

    async fn give(&self, shared: &Arc<Shared>, release: &Release, kind: Kind) -> Response {
        let image = &release.image;
        let mut answer = Response::new(Body::empty());
        describe(answer.headers_mut(), release);
        let (from, to) = match Wanted::of(&self.headers, image) {
            Wanted::All => (0, image.bytes),
            Wanted::Part(from, to) => {
                *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
                let range = format!("bytes {from}-{}/{}", to - 1, image.bytes);
                answer.headers_mut().insert(CONTENT_RANGE, text(&range));
                (from, to)
            }
            Wanted::Beyond => {
                let mut answer = say(StatusCode::RANGE_NOT_SATISFIABLE, "the image ends before that");
                answer.headers_mut().insert(CONTENT_RANGE, text(&format!("bytes */{}", image.bytes)));
                return answer;
            }
        };
        answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(to - from));
        let file = match shared.open(release).await {
            Ok(file) => tokio::fs::File::from_std(file),
            Err(_) => return come_again("the image is damaged; the gateway's operator has to mend it"),
        };
        if self.method == Method::HEAD {
            return answer;
        }
        let Ok(permit) = Arc::clone(&shared.downloads).try_acquire_owned() else {
            self.refuse(shared, Refusal::TooManyDownloads, "more than firmware.max_downloads");
            return come_again("too many images are being sent");
        };
        shared.counters.sent.fetch_add(1, Ordering::Relaxed);
        let (device, release) = (self.device.clone(), release.id);
        let (range, shared) = ((from, to), Arc::clone(shared));
        let sending = Sending { shared, device, kind, release, range, at: from, file, _permit: permit };
        *answer.body_mut() = sending.into_body();
        answer
    }

    fn refuse(&self, shared: &Shared, reason: Refusal, detail: &str) {
        shared.refuse(reason, self.peer.address.ip(), Some(&self.device), detail);
    }
}

impl Shared {
    /// Which device it is. What it is answered if none: 401 if it has shown nothing, so that `esp_http_client` shows
    /// what it has; 403 if that was wrong, because after a second 401 old versions of that ask for ever.
    async fn device_of(&self, peer: &Peer, headers: &HeaderMap) -> Result<DeviceId, Box<Response>> {
        let shown = Shown::of(headers);
        let nothing = shown.is_nothing() && peer.certificate.is_none();
        let credentials = Credentials {
            door: Door::Firmware,
            certificate: peer.certificate.clone(),
            client_id: "",
            user: shown.user.as_deref(),
            password: shown.password.as_deref().map(str::as_bytes),
            address: peer.address.ip(),
        };
        let rules = self.rules.borrow().clone();
        let denied = match self.authenticator.authenticate(&rules, credentials).await {
            Ok(principal) => return Ok(principal.identity.device.clone()),
            Err(denied) => denied,
        };
        self.refuse(denied.refusal, peer.address.ip(), None, &denied.detail);
        let mut answer = match denied.answer {
            _ if nothing => {
                say(StatusCode::UNAUTHORIZED, "show a certificate, or an API key as the password")
            }
            DeniedAnswer::BadUserNameOrPassword | DeniedAnswer::NotAuthorized => {
                say(StatusCode::FORBIDDEN, "this device is not let in")
            }
            DeniedAnswer::ServerUnavailable | DeniedAnswer::ServerBusy | DeniedAnswer::RateExceeded => {
                come_again("this cannot be checked now")
            }
        };
        if nothing {
            answer
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"firmware\""));
        }
        Err(Box::new(answer))
    }

    fn not_modified(&self, release: Option<&Release>) -> Response {
        self.counters.not_modified.fetch_add(1, Ordering::Relaxed);
        let mut answer = StatusCode::NOT_MODIFIED.into_response();
        if let Some(release) = release {
            answer.headers_mut().insert(ETAG, text(&etag(&release.image)));
        }
        answer
    }
}

/// What a request shows besides a certificate: a user name and a password (`HTTPUpdate::setAuthorization`), or an API
/// key alone.
#[derive(Default)]
struct Shown {
    user: Option<String>,
    password: Option<String>,
}

impl Shown {
    fn of(headers: &HeaderMap) -> Self {
        let value = |name| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(key) = value(X_API_KEY) {
            return Self { user: None, password: Some(key.to_owned()) };
        }
        let Some((scheme, rest)) = value(AUTHORIZATION).and_then(|value| value.split_once(' ')) else {
            return Self::default();
        };
        if scheme.eq_ignore_ascii_case("bearer") {
            return Self { user: None, password: Some(rest.trim().to_owned()) };
        }
        let decoded =
            scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(rest.trim()).ok()).flatten();
        let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        match decoded.as_deref().and_then(|text| text.split_once(':')) {
            Some((user, password)) => {
                Self { user: Some(user.to_owned()), password: Some(password.to_owned()) }
            }
            // It was something: a second question would bring the same.
            None => Self { user: None, password: Some(String::new()) },
        }
    }

    fn is_nothing(&self) -> bool {
        self.user.is_none() && self.password.is_none()
    }
}

/// An image, or a part of it, on its way to a device.
struct Sending {
    shared: Arc<Shared>,
    device: DeviceId,
    kind: Kind,
    release: u32,
    range: (u64, u64),
    at: u64,
    file: tokio::fs::File,
    _permit: OwnedSemaphorePermit,
}

impl Sending {
    fn into_body(mut self) -> Body {
        let chunks = futures_util::stream::once(async move {
            self.file.seek(SeekFrom::Start(self.at)).await?;
            Ok::<_, io::Error>(futures_util::stream::try_unfold(self, Self::next))
        });
        Body::from_stream(futures_util::TryStreamExt::try_flatten(chunks))
    }

    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        let left = usize::try_from(self.range.1 - self.at).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        if left == 0 {
            return Ok(None);
        }
        let mut chunk = BytesMut::with_capacity(left);
        while chunk.len() < left {
            if (&mut self.file).take((left - chunk.len()) as u64).read_buf(&mut chunk).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.at += chunk.len() as u64;
        Ok(Some((chunk.freeze(), self)))
    }
}

/// All of it was sent, or the device has gone, or is too slow.
impl Drop for Sending {
    fn drop(&mut self) {
        let Self { shared, device, kind, release, range: (from, _), at, .. } = self;
        if shared.states().sent(device, (*kind, *release), (*from, *at), shared.now()) {
            shared.counters.completed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn describe(headers: &mut HeaderMap, release: &Release) {
    let image = &release.image;
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(ETAG, text(&etag(image)));
    headers.insert(X_MD5, text(&image.md5.to_string()));
    headers.insert(X_VERSION, text(release.version.as_str()));
}

fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).expect("digests, numbers and versions are printable ASCII")
}

fn say(status: StatusCode, what: &'static str) -> Response {
    (status, format!("{what}\n")).into_response()
}

fn come_again(what: &'static str) -> Response {
    let mut answer = say(StatusCode::SERVICE_UNAVAILABLE, what);
    answer.headers_mut().insert(RETRY_AFTER, COME_AGAIN);
    answer
}
