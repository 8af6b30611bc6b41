//! API keys of devices: the passwords of their MQTT connections.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use utoipa::ToSchema;

use super::access::{Allowed, DevicesRead, DevicesWrite};
use super::devices::{must_exist, now};
use super::extract::{Body, Named};
use super::problem::Problem;
use super::rest::Rest;
use super::shape;
use crate::authorize::{ApiKey, NewKey, Registry};
use crate::message::DeviceId;

/// An API key, without the key.
#[derive(Debug, serde::Serialize, ToSchema)]
pub(super) struct Key {
    /// Its name, a part of the key: 8 hexadecimal digits.
    id: String,
    /// When it was made.
    #[schema(format = DateTime)]
    created: String,
    /// Until when it is good; `null`: until it is revoked.
    #[schema(format = DateTime)]
    expires: Option<String>,
}

/// An API key to be made.
#[derive(Debug, Default, serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WantedKey {
    /// It is good for so many seconds; without it until it is revoked.
    #[schema(minimum = 1, maximum = 3_162_240_000_u64)]
    expires_in: Option<u64>,
}

/// An API key in the place of another.
#[derive(Debug, Default, serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotation {
    /// The new one is good for so many seconds; without it until it is revoked.
    #[schema(minimum = 1, maximum = 3_162_240_000_u64)]
    expires_in: Option<u64>,
    /// The old one stays good for so many seconds; without it it is revoked at once.
    #[schema(minimum = 0, maximum = 3_162_240_000_u64)]
    keep_old_for: Option<u64>,
}

/// An API key that was just made.
#[derive(Debug, serde::Serialize, ToSchema)]
pub(super) struct MadeKey {
    /// The key, this once: only its hash is kept. It is the password of the device's MQTT connection.
    key: String,
    #[serde(flatten)]
    record: Key,
}

impl From<&ApiKey> for Key {
    fn from(ApiKey { id, created, expires, .. }: &ApiKey) -> Self {
        Self { id: id.clone(), created: shape::time(*created), expires: expires.map(shape::time) }
    }
}

impl From<NewKey> for MadeKey {
    fn from(NewKey { key, record }: NewKey) -> Self {
        Self { key: key.expose().to_owned(), record: Key::from(&record) }
    }
}

#[utoipa::path(
    get, path = "/devices/{name}/keys", tag = "devices",
    params(("name" = String, Path, description = "The device")),
    summary = "List the API keys of a device, without the keys themselves",
    security(("token" = ["devices:read"])),
    responses((status = OK, body = Vec<Key>)),
)]
pub(super) async fn list(
    _: Allowed<DevicesRead>,
    State(rest): State<Arc<Rest>>,
    Named(name): Named<String>,
) -> Result<Json<Vec<Key>>, Problem> {
    let name = shape::device(&name)?;
    let keys = rest.blocking(move |parts| {
        let known = Registry::read(&parts.data_dir)?;
        must_exist(parts, &known, &name)?;
        Ok(known.device(&name).map_or_else(Vec::new, |known| known.keys.iter().map(Key::from).collect()))
    });
    Ok(Json(keys.await?))
}

#[utoipa::path(
    post, path = "/devices/{name}/keys", tag = "devices", request_body = WantedKey,
    params(("name" = String, Path, description = "The device; one that has no certificate need not exist yet")),
    summary = "Make an API key for a device",
    security(("token" = ["devices:write"])),
    responses((status = CREATED, body = MadeKey)),
)]
pub(super) async fn create(
    Allowed { caller, .. }: Allowed<DevicesWrite>,
    State(rest): State<Arc<Rest>>,
    Named(name): Named<String>,
    Body(WantedKey { expires_in }): Body<WantedKey>,
) -> Result<(StatusCode, Json<MadeKey>), Problem> {
    let (name, expires) = (shape::device(&name)?, lasting(expires_in)?);
    let device = name.clone();
    let made = rest.blocking(move |parts| {
        let now = now(parts);
        Ok(Registry::update(&parts.data_dir, |devices| devices.add_key(&name, now, expires))?)
    });
    let made = made.await?;
    rest.parts.registry_changed.notify_one();
    caller.changed(&rest, "key add", Some(&device), &format!("the API key {}", made.record.id));
    Ok((StatusCode::CREATED, Json(made.into())))
}

#[utoipa::path(
    delete, path = "/devices/{name}/keys/{id}", tag = "devices",
    params(("name" = String, Path, description = "The device"), ("id" = String, Path, description = "The key")),
    summary = "Revoke an API key; a device that is connected with it is put out",
    security(("token" = ["devices:write"])),
    responses((status = NO_CONTENT)),
)]
pub(super) async fn revoke(
    Allowed { caller, .. }: Allowed<DevicesWrite>,
    State(rest): State<Arc<Rest>>,
    Named((name, id)): Named<(String, String)>,
) -> Result<StatusCode, Problem> {
    let name = shape::device(&name)?;
    let (device, key) = (name.clone(), id.clone());
    let revoked = rest.blocking(move |parts| {
        Registry::update(&parts.data_dir, |devices| {
            must_be_of(devices, &name, &id)?;
            Ok::<_, Problem>(devices.revoke_key(&id).map(|_| ())?)
        })
    });
    revoked.await?;
    rest.parts.registry_changed.notify_one();
    caller.changed(&rest, "key revoke", Some(&device), &format!("the API key {key}"));
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(
    post, path = "/devices/{name}/keys/{id}/rotate", tag = "devices", request_body = Rotation,
    params(("name" = String, Path, description = "The device"), ("id" = String, Path, description = "The key")),
    summary = "Make an API key in the place of another",
    security(("token" = ["devices:write"])),
    responses((status = CREATED, body = MadeKey)),
)]
pub(super) async fn rotate(
    Allowed { caller, .. }: Allowed<DevicesWrite>,
    State(rest): State<Arc<Rest>>,
    Named((name, id)): Named<(String, String)>,
    Body(Rotation { expires_in, keep_old_for }): Body<Rotation>,
) -> Result<(StatusCode, Json<MadeKey>), Problem> {
    let (name, keep) = (shape::device(&name)?, shape::seconds(keep_old_for)?);
    let expires = lasting(expires_in)?;
    let old = id.clone();
    let made = rest.blocking(move |parts| {
        let now = now(parts);
        Registry::update(&parts.data_dir, |devices| {
            must_be_of(devices, &name, &id)?;
            Ok::<_, Problem>(devices.rotate_key(&id, now, keep, expires)?)
        })
    });
    let (device, made) = made.await?;
    rest.parts.registry_changed.notify_one();
    let detail = format!("the API key {} for {old}", made.record.id);
    caller.changed(&rest, "key rotate", Some(&device), &detail);
    Ok((StatusCode::CREATED, Json(made.into())))
}

fn must_be_of(devices: &crate::authorize::Devices, name: &DeviceId, id: &str) -> Result<(), Problem> {
    match devices.device(name).and_then(|known| known.key(id)) {
        Some(_) => Ok(()),
        None => Err(Problem::not_found(format!("{name} has no API key {id:?}"))),
    }
}

pub(super) fn lasting(expires_in: Option<u64>) -> Result<Option<Duration>, Problem> {
    match expires_in {
        Some(0) => Err(Problem::invalid("expires_in is at least 1 second")),
        expires_in => shape::seconds(expires_in),
    }
}
