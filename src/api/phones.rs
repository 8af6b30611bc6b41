//! The devices of the message gateway, each known by its API keys. Only with the profile.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use utoipa::ToSchema;

use super::access::{Allowed, DevicesRead, DevicesWrite};
use super::devices::now;
use super::extract::{Body, Named, Params};
use super::keys::{self, Key, MadeKey, Rotation, WantedKey, lasting};
use super::messages::messages;
use super::page::{Page, Paging, cursor};
use super::problem::Problem;
use super::rest::Rest;
use crate::authorize::{Registry, keyed};
use crate::message::DeviceId;

/// A device that messages go through.
#[derive(Debug, serde::Serialize, ToSchema)]
pub(super) struct Phone {
    /// Its name.
    #[schema(value_type = String)]
    id: DeviceId,
    /// The client ids with which it is connected and has announced itself.
    announced: Vec<String>,
    /// Messages that wait for it.
    waiting: usize,
    /// Whether it is kept out, whatever it shows.
    disabled: bool,
    /// Its API keys, without the keys themselves.
    keys: Vec<Key>,
}

/// A device to be made.
#[derive(Debug, serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPhone {
    /// Its name: letters, digits, `-`, `_`, `.`, `:` and `@`.
    #[schema(value_type = String, min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_:@-][A-Za-z0-9_.:@-]{0,63}$")]
    id: DeviceId,
    /// Its key is good for so many seconds; without it until it is revoked.
    #[schema(minimum = 1, maximum = 3_162_240_000_u64)]
    expires_in: Option<u64>,
}

/// A device that was just made.
#[derive(Debug, serde::Serialize, ToSchema)]
pub(super) struct MadePhone {
    /// Its name.
    #[schema(value_type = String)]
    id: DeviceId,
    /// Its first key.
    api_key: MadeKey,
}

#[utoipa::path(
    get, path = "/devices", tag = "messages", params(Paging),
    summary = "List the devices that have API keys, in the order of their names, and which are there",
    security(("token" = ["devices:read"])),
    responses((status = OK, body = Page<Phone>)),
)]
pub(super) async fn list(
    _: Allowed<DevicesRead>,
    State(rest): State<Arc<Rest>>,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<Phone>>, Problem> {
    let (limit, after) = (paging.limit()?, paging.place(|text| DeviceId::parse(text).ok())?);
    let known = rest.blocking(|parts| Ok(Registry::read(&parts.data_dir)?)).await?;
    let (announced, waiting) = (rest.parts.handles.broker.announced(), messages(&rest).waiting());
    let phone = |(id, device): (&DeviceId, &crate::authorize::Device)| {
        let own = announced.iter().filter(|announced| announced.device == *id);
        Phone {
            id: id.clone(),
            announced: own.map(|announced| keyed::masked(&announced.client_id).into_owned()).collect(),
            waiting: waiting.get(id).copied().unwrap_or_default(),
            disabled: device.disabled,
            keys: device.keys.iter().map(Key::from).collect(),
        }
    };
    let has_key = |(_, device): &(&DeviceId, &crate::authorize::Device)| !device.keys.is_empty();
    let mut left =
        known.iter().filter(has_key).filter(|(id, _)| after.as_ref().is_none_or(|after| *id > after));
    let items: Vec<_> = left.by_ref().take(limit).map(phone).collect();
    let next = left.next().and(items.last()).map(|last| cursor(&last.id));
    Ok(Json(Page { items, next }))
}

#[utoipa::path(
    post, path = "/devices", tag = "messages", request_body = NewPhone,
    summary = "Make a device, with an API key",
    security(("token" = ["devices:write"])),
    responses((status = CREATED, body = MadePhone)),
)]
pub(super) async fn create(
    Allowed { caller, .. }: Allowed<DevicesWrite>,
    State(rest): State<Arc<Rest>>,
    Body(NewPhone { id, expires_in }): Body<NewPhone>,
) -> Result<(StatusCode, Json<MadePhone>), Problem> {
    let expires = lasting(expires_in)?;
    if id.as_str() == keyed::NO_DEVICE {
        return Err(Problem::invalid(
            "the name auth stands in topics for something else: choose another one",
        ));
    }
    let device = id.clone();
    let made = rest.blocking(move |parts| {
        let now = now(parts);
        Registry::update(&parts.data_dir, |devices| {
            if devices.device(&id).is_some_and(|known| !known.keys.is_empty()) {
                return Err(Problem::conflict(format!(
                    "there is a device {id} with an API key: give it another one with POST /devices/{id}/api-keys"
                )));
            }
            Ok::<_, Problem>(devices.add_key(&id, now, expires)?)
        })
    });
    let made = made.await?;
    rest.parts.registry_changed.notify_one();
    caller.changed(&rest, "key add", Some(&device), &format!("a device with the API key {}", made.record.id));
    Ok((StatusCode::CREATED, Json(MadePhone { id: device, api_key: made.into() })))
}

#[utoipa::path(
    get, path = "/devices/{id}/api-keys", tag = "messages",
    params(("id" = String, Path, description = "The device")),
    summary = "List the API keys of a device, without the keys themselves",
    security(("token" = ["devices:read"])),
    responses((status = OK, body = Vec<Key>)),
)]
pub(super) async fn api_keys(
    allowed: Allowed<DevicesRead>,
    rest: State<Arc<Rest>>,
    id: Named<String>,
) -> Result<Json<Vec<Key>>, Problem> {
    keys::list(allowed, rest, id).await
}

#[utoipa::path(
    post, path = "/devices/{id}/api-keys", tag = "messages", request_body = WantedKey,
    params(("id" = String, Path, description = "The device")),
    summary = "Make one more API key for a device",
    security(("token" = ["devices:write"])),
    responses((status = CREATED, body = MadeKey)),
)]
pub(super) async fn add_api_key(
    allowed: Allowed<DevicesWrite>,
    rest: State<Arc<Rest>>,
    id: Named<String>,
    wanted: Body<WantedKey>,
) -> Result<(StatusCode, Json<MadeKey>), Problem> {
    keys::create(allowed, rest, id, wanted).await
}

#[utoipa::path(
    post, path = "/devices/{id}/api-keys/{key}/rotate", tag = "messages", request_body = Rotation,
    params(("id" = String, Path, description = "The device"), ("key" = String, Path, description = "The id of the key")),
    summary = "Make an API key in the place of another; messages that wait come with the new one",
    security(("token" = ["devices:write"])),
    responses((status = CREATED, body = MadeKey)),
)]
pub(super) async fn rotate_api_key(
    allowed: Allowed<DevicesWrite>,
    rest: State<Arc<Rest>>,
    names: Named<(String, String)>,
    rotation: Body<Rotation>,
) -> Result<(StatusCode, Json<MadeKey>), Problem> {
    keys::rotate(allowed, rest, names, rotation).await
}

#[utoipa::path(
    delete, path = "/devices/{id}/api-keys/{key}", tag = "messages",
    params(("id" = String, Path, description = "The device"), ("key" = String, Path, description = "The id of the key")),
    summary = "Revoke an API key; a device that is connected with it is put out",
    security(("token" = ["devices:write"])),
    responses((status = NO_CONTENT)),
)]
pub(super) async fn revoke_api_key(
    allowed: Allowed<DevicesWrite>,
    rest: State<Arc<Rest>>,
    names: Named<(String, String)>,
) -> Result<StatusCode, Problem> {
    keys::revoke(allowed, rest, names).await
}

/// A message for a device that can never log in would wait in vain.
pub(super) async fn must_have_key(rest: &Arc<Rest>, device: &DeviceId) -> Result<(), Problem> {
    let name = device.clone();
    let has_key = rest.blocking(move |parts| {
        let known = Registry::read(&parts.data_dir)?;
        Ok(known.device(&name).is_some_and(|known| !known.keys.is_empty()))
    });
    match has_key.await? {
        true => Ok(()),
        false => Err(Problem::not_found(format!(
            "there is no device {device} with an API key; GET /devices lists them"
        ))),
    }
}
