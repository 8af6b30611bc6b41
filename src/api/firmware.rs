//! Releases of firmware, and how far they have got.

use std::io::{self, Read};
use std::sync::Arc;

use axum::Json;
use axum::body::Body as Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use utoipa::{IntoParams, ToSchema};

use super::access::{Allowed, Caller, FirmwareRead, FirmwareWrite};
use super::devices::now;
use super::extract::{Body, Named, Params, cause};
use super::page::{Page, Paging, cursor};
use super::problem::{Kind, Problem};
use super::rest::{Parts, Rest};
use super::shape;
use crate::firmware::{self, DeviceState, NewRelease, StoreError};
use crate::message::DeviceId;
use crate::web::TooSlow;

/// Where images are sent to: no answer to that is remembered by its `Idempotency-Key`, as the same image for the same
/// devices in the same version is the same release.
pub(super) const RELEASES: &str = "/api/v1/firmware/releases";

/// Pieces of a body that wait for the disk.
const MAX_WAITING: usize = 4;

/// A release: an image for some devices.
#[derive(Debug, serde::Serialize, ToSchema)]
pub(super) struct Release {
    /// Its number.
    id: u32,
    /// Its version, as the devices tell it.
    version: String,
    /// For whom it is: a group, a device, or `*`.
    r#for: String,
    /// The share of them who get it, 0 to 100.
    percent: u8,
    /// These get it whatever the share is.
    devices: Vec<String>,
    /// Whether it was rolled back: nobody is offered it.
    rolled_back: bool,
    /// When it came.
    #[schema(format = DateTime)]
    added: String,
    /// `program` or `file_system`.
    #[schema(value_type = String)]
    kind: firmware::Kind,
    /// Its length.
    bytes: u64,
    /// Of the image.
    sha256: String,
    /// Of the image.
    md5: String,
    /// The project that the image names.
    project: Option<String>,
}

impl From<firmware::Release> for Release {
    fn from(release: firmware::Release) -> Self {
        let firmware::Release { id, version, target, rollout, withdrawn, added, image } = release;
        Self {
            id,
            version: version.to_string(),
            r#for: target.to_string(),
            percent: rollout.percent,
            devices: rollout.devices.iter().map(ToString::to_string).collect(),
            rolled_back: withdrawn,
            added: shape::time(added),
            kind: image.kind(),
            bytes: image.bytes,
            sha256: image.sha256.to_string(),
            md5: image.md5.to_string(),
            project: image.project,
        }
    }
}

/// What an image is, and for whom.
#[derive(Debug, serde::Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Described {
    /// The group or the device that it is for, or `*`.
    #[param(min_length = 1, max_length = 64, pattern = "^([*]|[A-Za-z0-9_:@-][A-Za-z0-9_.:@-]*)$")]
    r#for: String,
    /// Its version, as the devices tell it.
    #[param(min_length = 1, max_length = 64, pattern = "^[!-~]{1,64}$")]
    version: String,
    /// Who gets it first: a share such as `10%`, or names such as `a,b`; without it all.
    #[param(pattern = "^((100|[1-9][0-9]?)%|[A-Za-z0-9_:@-]{1,64}(,[A-Za-z0-9_:@-]{1,64})*)$")]
    rollout: Option<String>,
    /// `program`, which it is unless told, or `file_system`.
    #[param(value_type = Option<String>, pattern = "^(program|file_system)$")]
    #[serde(default)]
    kind: firmware::Kind,
    /// What its SHA-256 must be, hexadecimal.
    #[param(pattern = "^[0-9A-Fa-f]{64}$")]
    sha256: Option<String>,
    /// What its MD5 must be, hexadecimal.
    #[param(pattern = "^[0-9A-Fa-f]{32}$")]
    md5: Option<String>,
}

/// Who is to get a release, too.
#[derive(Debug, Default, serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Promotion {
    /// A share such as `50%`, or names such as `a,b`; without it all.
    #[schema(pattern = "^((100|[1-9][0-9]?)%|[A-Za-z0-9_:@-]{1,64}(,[A-Za-z0-9_:@-]{1,64})*)$")]
    rollout: Option<String>,
}

/// What is known of the firmware of a device.
#[derive(Debug, serde::Serialize, ToSchema)]
pub(super) struct DeviceFirmware {
    /// The device.
    #[schema(value_type = String)]
    device: DeviceId,
    /// What it runs, what it was offered, and how much of that it was sent.
    #[schema(value_type = Object)]
    state: DeviceState,
}

impl Described {
    fn parse(self) -> Result<NewRelease, Problem> {
        let Self { r#for, version, rollout, kind, sha256, md5 } = self;
        Ok(NewRelease {
            version: parsed("version", &version)?,
            target: parsed("for", &r#for)?,
            rollout: parsed("rollout", rollout.as_deref().unwrap_or(ALL))?,
            kind,
            sha256: sha256.as_deref().map(|text| parsed("sha256", text)).transpose()?,
            md5: md5.as_deref().map(|text| parsed("md5", text)).transpose()?,
        })
    }
}

const ALL: &str = "100%";

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(name: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|error| Problem::invalid(format!("{name}: {error}")))
}

#[utoipa::path(
    get, path = "/firmware/releases", tag = "firmware", summary = "List the releases, the newest first",
    security(("token" = ["firmware:read"])), params(Paging),
    responses((status = OK, body = Page<Release>)),
)]
pub(super) async fn list(
    _: Allowed<FirmwareRead>,
    State(rest): State<Arc<Rest>>,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<Release>>, Problem> {
    let (limit, before) = (paging.limit()?, paging.place(|text| text.parse::<u32>().ok())?);
    let releases = rest.blocking(|parts| Ok(parts.handles.firmware.store().read()?)).await?;
    let mut rest = releases.iter().rev().filter(|release| before.is_none_or(|before| release.id < before));
    let items: Vec<_> = rest.by_ref().take(limit).cloned().map(Release::from).collect();
    let next = items.last().filter(|_| rest.next().is_some()).map(|last| cursor(last.id));
    Ok(Json(Page { items, next }))
}

#[utoipa::path(
    post, path = "/firmware/releases", tag = "firmware", params(Described),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "The image"),
    summary = "Take an image, and offer it to devices",
    security(("token" = ["firmware:write"])),
    responses((status = CREATED, body = Release)),
)]
pub(super) async fn create(
    Allowed { caller, .. }: Allowed<FirmwareWrite>,
    State(rest): State<Arc<Rest>>,
    Params(described): Params<Described>,
    image: Bytes,
) -> Result<Response, Problem> {
    let new = described.parse()?;
    let (sender, receiver) = mpsc::channel(MAX_WAITING);
    let taking = rest.blocking(move |parts| {
        let firmware = &parts.handles.firmware;
        let image = Received { pieces: receiver, piece: END, has_ended: false };
        Ok(firmware.store().add(image, new, firmware.room(), now(parts))?)
    });
    let (sent, taken) = tokio::join!(send(image, sender), taking);
    sent?;
    let release = taken?;
    noted(&caller, &rest, "firmware add", &release);
    let location = format!("{RELEASES}/{}", release.id);
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(Release::from(release))).into_response())
}

#[utoipa::path(
    get, path = "/firmware/releases/{id}", tag = "firmware", params(("id" = u32, Path, description = "Its number")),
    summary = "Show a release",
    security(("token" = ["firmware:read"])),
    responses((status = OK, body = Release)),
)]
pub(super) async fn one(
    _: Allowed<FirmwareRead>,
    State(rest): State<Arc<Rest>>,
    Named(id): Named<u32>,
) -> Result<Json<Release>, Problem> {
    let releases = rest.blocking(|parts| Ok(parts.handles.firmware.store().read()?)).await?;
    let found = releases.get(id).cloned();
    found.map(|release| Json(release.into())).ok_or_else(|| unknown(id))
}

#[utoipa::path(
    post, path = "/firmware/releases/{id}/promote", tag = "firmware", request_body = Promotion,
    params(("id" = u32, Path, description = "Its number")),
    summary = "Give a release to more devices; nobody loses it. One that was rolled back stands again",
    security(("token" = ["firmware:write"])),
    responses((status = OK, body = Release)),
)]
pub(super) async fn promote(
    Allowed { caller, .. }: Allowed<FirmwareWrite>,
    State(rest): State<Arc<Rest>>,
    Named(id): Named<u32>,
    Body(Promotion { rollout }): Body<Promotion>,
) -> Result<Json<Release>, Problem> {
    let rollout = parsed("rollout", rollout.as_deref().unwrap_or(ALL))?;
    change(&rest, &caller, "firmware promote", move |parts| {
        parts.handles.firmware.store().promote(id, rollout)
    })
    .await
}

#[utoipa::path(
    post, path = "/firmware/releases/{id}/rollback", tag = "firmware",
    params(("id" = u32, Path, description = "Its number")),
    summary = "Take a release back: its devices are offered the one before it",
    security(("token" = ["firmware:write"])),
    responses((status = OK, body = Release)),
)]
pub(super) async fn roll_back(
    Allowed { caller, .. }: Allowed<FirmwareWrite>,
    State(rest): State<Arc<Rest>>,
    Named(id): Named<u32>,
) -> Result<Json<Release>, Problem> {
    change(&rest, &caller, "firmware rollback", move |parts| parts.handles.firmware.store().roll_back(id))
        .await
}

#[utoipa::path(
    delete, path = "/firmware/releases/{id}", tag = "firmware",
    params(("id" = u32, Path, description = "Its number")),
    summary = "Forget a release, and its image if no other has it",
    security(("token" = ["firmware:write"])),
    responses((status = OK, body = Release, description = "As it was")),
)]
pub(super) async fn remove(
    Allowed { caller, .. }: Allowed<FirmwareWrite>,
    State(rest): State<Arc<Rest>>,
    Named(id): Named<u32>,
) -> Result<Json<Release>, Problem> {
    change(&rest, &caller, "firmware remove", move |parts| parts.handles.firmware.store().remove(id)).await
}

#[utoipa::path(
    get, path = "/firmware/devices", tag = "firmware", params(Paging),
    summary = "List what each device runs, what it was offered, and how much of that it was sent",
    security(("token" = ["firmware:read"])),
    responses((status = OK, body = Page<DeviceFirmware>)),
)]
pub(super) async fn devices(
    _: Allowed<FirmwareRead>,
    State(rest): State<Arc<Rest>>,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<DeviceFirmware>>, Problem> {
    let (limit, after) = (paging.limit()?, paging.place(|text| DeviceId::parse(text).ok())?);
    let states = rest.parts.handles.firmware.states();
    let mut rest = states.into_iter().filter(|(device, _)| after.as_ref().is_none_or(|after| device > after));
    let shown = |(device, state)| DeviceFirmware { device, state };
    let items: Vec<_> = rest.by_ref().take(limit).map(shown).collect();
    let next = items.last().filter(|_| rest.next().is_some()).map(|last| cursor(&last.device));
    Ok(Json(Page { items, next }))
}

async fn change(
    rest: &Arc<Rest>,
    caller: &Caller,
    what: &str,
    change: impl FnOnce(&Parts) -> Result<firmware::Release, StoreError> + Send + 'static,
) -> Result<Json<Release>, Problem> {
    let release = rest.blocking(move |parts| Ok(change(parts)?)).await?;
    noted(caller, rest, what, &release);
    Ok(Json(release.into()))
}

fn noted(caller: &Caller, rest: &Rest, change: &str, release: &firmware::Release) {
    caller.changed(rest, change, None, &release.to_string());
}

fn unknown(id: u32) -> Problem {
    Problem::not_found(format!("there is no release {id}; GET {RELEASES} lists them"))
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(why) => Self::invalid(why),
            StoreError::NotFound(id) => unknown(id),
            StoreError::Index(_) | StoreError::Io { .. } => Self::internal(error),
        }
    }
}

/// Hands an image over to who writes it. Who does not want more of it says why.
async fn send(image: Bytes, pieces: mpsc::Sender<io::Result<bytes::Bytes>>) -> Result<(), Problem> {
    let mut stream = image.into_data_stream();
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(piece) if piece.is_empty() => {}
            Ok(piece) => {
                if pieces.send(Ok(piece)).await.is_err() {
                    return Ok(());
                }
            }
            Err(error) => {
                let (kind, what) = match cause::<TooSlow>(&error) {
                    Some(slow) => (Kind::TooSlow, slow.to_string()),
                    None => (Kind::Malformed, "the image did not come whole".to_owned()),
                };
                // It must not be taken for the end.
                pieces.send(Err(io::ErrorKind::UnexpectedEof.into())).await.ok();
                return Err(Problem::new(kind, what));
            }
        }
    }
    pieces.send(Ok(END)).await.ok();
    Ok(())
}

/// What says that the image came whole: who sends it may go at any moment, and that must not be taken for its end.
const END: bytes::Bytes = bytes::Bytes::new();

/// The other end, on a thread that may wait.
struct Received {
    pieces: mpsc::Receiver<io::Result<bytes::Bytes>>,
    piece: bytes::Bytes,
    has_ended: bool,
}

impl Read for Received {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.has_ended {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
            self.has_ended = self.piece.is_empty();
        }
        let length = self.piece.len().min(into.len());
        into[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&'static [u8]]) -> io::Result<Vec<u8>> {
        let (sender, pieces_receiver) = mpsc::channel(8);
        for piece in pieces {
            sender.try_send(Ok(bytes::Bytes::from_static(piece))).unwrap();
        }
        drop(sender);
        let mut image = Vec::new();
        Received { pieces: pieces_receiver, piece: END, has_ended: false }
            .read_to_end(&mut image)
            .map(|_| image)
    }

    #[test]
    fn an_image_whose_sender_has_gone_is_not_whole() {
        assert_eq!(read(&[b"\xe9", b"image", b""]).unwrap(), b"\xe9image");
        assert_eq!(read(&[b"\xe9", b"ima"]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read(&[]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
