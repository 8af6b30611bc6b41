//! What an updater says of its device, in the headers of its request. Pure.
//!
//! | updater | headers |
//! |---|---|
//! | Arduino `HTTPUpdate` (ESP32) | `x-ESP32-free-space`, `-sketch-md5`, `-sketch-sha256`, `-mode` (`sketch` or `spiffs`), `-version` |
//! | Arduino `ESPhttpUpdate` (ESP8266) | the same with `x-ESP8266-`, without a SHA-256 |
//! | `esp_https_ota` | none: the program compares the version in the image itself |

use axum::http::HeaderMap;
use axum::http::header::{IF_NONE_MATCH, IF_RANGE, RANGE};

use super::hex::{Md5, Sha256};
use super::image::{Format, Image, Kind};
use super::release::{Offer, Release, Version};

/// The updater of which core it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Board {
    /// The ESP32 core's.
    Esp32,
    /// The ESP8266 core's.
    Esp8266,
}

/// What a request says. What cannot be read is as good as not said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) board: Option<Board>,
    pub(super) kind: Kind,
    pub(super) version: Option<Version>,
    md5: Option<Md5>,
    sha256: Option<Sha256>,
    free_bytes: Option<u64>,
}

impl Asked {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let has = |prefix: &str| headers.keys().any(|name| name.as_str().starts_with(prefix));
        let (board, prefix) = match (has("x-esp32-"), has("x-esp8266-")) {
            (true, _) => (Board::Esp32, "x-esp32-"),
            (false, true) => (Board::Esp8266, "x-esp8266-"),
            (false, false) => return Self::default(),
        };
        let text = |name: &str| headers.get(format!("{prefix}{name}"))?.to_str().ok();
        Self {
            board: Some(board),
            kind: match text("mode") {
                None | Some("sketch") => Kind::Program,
                Some(_) => Kind::FileSystem,
            },
            version: text("version").and_then(|text| text.parse().ok()),
            md5: text("sketch-md5").and_then(|text| text.parse().ok()),
            sha256: text("sketch-sha256").and_then(|text| text.parse().ok()),
            free_bytes: text("free-space").and_then(|text| text.parse().ok()),
        }
    }

    /// Whether the device has this image already. A version that was forgotten to be raised must not make it fetch the
    /// same image for ever, nor may a digest that cannot be compared.
    pub(super) fn has(&self, release: &Release) -> bool {
        let runs = self.kind == Kind::Program
            && (self.md5 == Some(release.image.md5)
                || self.sha256.is_some_and(|sha256| {
                    [Some(release.image.sha256), release.image.program_sha256].contains(&Some(sha256))
                }));
        runs || self.version.as_ref() == Some(&release.version)
    }

    /// Why the device cannot take this image.
    fn cannot_take(&self, image: &Image) -> Option<String> {
        if image.format == Format::Gzip && self.board != Some(Board::Esp8266) {
            return Some("the image is compressed, and only an ESP8266's updater can unpack it".to_owned());
        }
        if image.format == Format::Gzip && self.version.is_none() {
            // What runs is unpacked: its digest is not that of the image, and it would be fetched for ever.
            return Some("the image is compressed, and the device does not tell its version".to_owned());
        }
        if image.format == Format::Described && self.board == Some(Board::Esp8266) {
            return Some("the image is for an ESP32".to_owned());
        }
        // What is free is told of the place for a program.
        let free = self.free_bytes.filter(|free| self.kind == Kind::Program && *free < image.bytes)?;
        Some(format!("the image has {} bytes, and the device has room for {free}", image.bytes))
    }

    /// What it is answered.
    pub(super) fn answer<'a>(&self, offer: Offer<'a>) -> Answer<'a> {
        let Offer::Release(release) = offer else {
            // Arduino's updaters take 304 for what it is, and 404 for an error.
            return match (offer, self.board) {
                (Offer::NotYet, Some(_)) => Answer::Nothing,
                _ => Answer::NotFound,
            };
        };
        if self.has(release) {
            return Answer::HasIt(release);
        }
        match self.cannot_take(&release.image) {
            Some(why) if self.board.is_some() => Answer::CannotTake(release, why),
            Some(_) => Answer::NotFound,
            None => Answer::Image(release),
        }
    }
}

/// What a device is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer<'a> {
    /// The image, or what it wants of it.
    Image(&'a Release),
    /// 304: it has this one already.
    HasIt(&'a Release),
    /// 304: it would fetch this one in vain, and again with each request.
    CannotTake(&'a Release, String),
    /// 304: it is not its turn.
    Nothing,
    /// 404: nothing is for it.
    NotFound,
}

/// How an image is named in `ETag`: by its SHA-256.
pub(super) fn etag(image: &Image) -> String {
    format!("\"{}\"", image.sha256)
}

/// Whether `If-None-Match` names this image (RFC 9110, 13.1.2).
pub(super) fn has_tag(headers: &HeaderMap, image: &Image) -> bool {
    let tag = etag(image);
    let values = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
}

/// What of an image is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it.
    All,
    /// From the first byte to before the second.
    Part(u64, u64),
    /// What is beyond its end (416).
    Beyond,
}

impl Wanted {
    /// What `Range` and `If-Range` ask for (RFC 9110, 13.1.5 and 14.2). Several ranges at once, other units and what
    /// cannot be read are passed over, as the RFC allows.
    pub(super) fn of(headers: &HeaderMap, image: &Image) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        if headers.contains_key(IF_RANGE) && text(IF_RANGE).map(str::trim) != Some(&etag(image)) {
            return Self::All;
        }
        let Some((first, last)) =
            text(RANGE).and_then(|range| range.trim().strip_prefix("bytes=")?.trim().split_once('-'))
        else {
            return Self::All;
        };
        let length = image.bytes;
        match (number(first), number(last)) {
            (Some(first), last_byte) if last.is_empty() || last_byte.is_some_and(|last| first <= last) => {
                let end = last_byte.map_or(length, |last| last.saturating_add(1).min(length));
                if first < length { Self::Part(first, end) } else { Self::Beyond }
            }
            (None, Some(0)) if first.is_empty() => Self::Beyond,
            (None, Some(last)) if first.is_empty() => Self::Part(length - last.min(length), length),
            _ => Self::All,
        }
    }
}

fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}
