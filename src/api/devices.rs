//! Devices and their certificates.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::IntoResponse;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::access::{Allowed, Caller, DevicesRead, DevicesWrite};
use super::extract::{Body, Named, Params};
use super::keys::Key;
use super::page::{Page, Paging, cursor};
use super::problem::Problem;
use super::rest::{Parts, Rest};
use super::shape;
use crate::authorize::{self, Devices, DocumentError, Registry};
use crate::message::{CertificateId, DeviceId};
use crate::pki::{self, CertificateInfo, Issue, PkiError, ends_soon};

/// A device.
#[derive(Debug, serde::Serialize, ToSchema)]
pub(super) struct Device {
    /// Its name.
    #[schema(value_type = String)]
    name: DeviceId,
    /// In one word: `good`, `ends_soon`, `expired`, `revoked`, `disabled`, or `no_certificate`.
    state: &'static str,
    /// Whether it is kept out, whatever it shows.
    disabled: bool,
    /// Whether it has a password.
    has_password: bool,
    /// Its certificates, the newest first.
    certificates: Vec<Certificate>,
    /// Its API keys, without the keys themselves.
    keys: Vec<Key>,
    /// The groups it is in, besides those of the configuration.
    #[schema(value_type = Vec<String>)]
    groups: BTreeSet<DeviceId>,
}

/// A certificate.
#[derive(Debug, Clone, serde::Serialize, ToSchema)]
pub(super) struct Certificate {
    /// Whose it is.
    subject: String,
    /// Who signed it.
    issuer: String,
    /// Its serial number, hexadecimal.
    serial: String,
    /// From when it is valid.
    #[schema(format = DateTime)]
    not_before: String,
    /// Until when it is valid.
    #[schema(format = DateTime)]
    not_after: String,
    /// SHA-256 of the certificate (DER), hexadecimal.
    sha256: String,
    /// From when on it is not believed any more.
    #[schema(format = DateTime)]
    revoked_at: Option<String>,
}

/// A device to be made.
#[derive(Debug, serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewDevice {
    /// Its name: letters, digits, `-`, `_`, `.`, `:` and `@`. It publishes below `NAME/`.
    #[schema(value_type = String, min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_:@-][A-Za-z0-9_.:@-]{0,63}$")]
    name: DeviceId,
    /// A certificate request (PEM) that the device has made. Without it the gateway makes a key, and shows it once.
    csr: Option<String>,
}

/// A further certificate for a device.
#[derive(Debug, Default, serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewCertificate {
    /// As with a new device.
    csr: Option<String>,
    /// Revoke those that the device has after so many seconds; without it they stay good.
    #[schema(minimum = 0, maximum = 3_162_240_000_u64)]
    revoke_older_after: Option<u64>,
}

/// A certificate that was just made.
#[derive(Debug, serde::Serialize, ToSchema)]
pub(super) struct Issued {
    /// The device.
    #[schema(value_type = String)]
    name: DeviceId,
    /// Its certificate (PEM).
    certificate_pem: String,
    /// Its private key (PEM), if the gateway has made it: this once, it is not kept.
    private_key_pem: Option<String>,
    /// What the device has to trust (PEM), unless the gateway has a server certificate of the operator's own.
    ca_pem: String,
}

/// Which certificates are to be revoked.
#[derive(Debug, Default, serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Revocation {
    /// The serial number of one, hexadecimal; without it all that are known.
    #[schema(min_length = 2, max_length = 64, pattern = "^([0-9A-Fa-f]{2})+$")]
    serial: Option<String>,
}

#[utoipa::path(
    get, path = "/devices", tag = "devices", params(Paging),
    summary = "List the devices, in the order of their names",
    security(("token" = ["devices:read"])),
    responses((status = OK, body = Page<Device>)),
)]
pub(super) async fn list(
    _: Allowed<DevicesRead>,
    State(rest): State<Arc<Rest>>,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<Device>>, Problem> {
    let (limit, after) = (paging.limit()?, paging.place(|text| DeviceId::parse(text).ok())?);
    let page = rest.blocking(move |parts| {
        let known = Registry::read(&parts.data_dir)?;
        let names: BTreeSet<_> =
            parts.pki.device_names()?.into_iter().chain(known.iter().map(|(name, _)| name.clone())).collect();
        let mut left = names.into_iter().filter(|name| after.as_ref().is_none_or(|after| name > after));
        let page: Vec<_> = left.by_ref().take(limit).collect();
        let next = left.next().and_then(|_| page.last()).map(cursor);
        let items = page.into_iter().map(|name| found(parts, &known, name)).collect::<Result<_, _>>()?;
        Ok(Page { items, next })
    });
    Ok(Json(page.await?))
}

#[utoipa::path(
    post, path = "/devices", tag = "devices", request_body = NewDevice,
    summary = "Make a device, with its certificate",
    security(("token" = ["devices:write"])),
    responses((status = CREATED, body = Issued)),
)]
pub(super) async fn create(
    Allowed { caller, .. }: Allowed<DevicesWrite>,
    State(rest): State<Arc<Rest>>,
    Body(NewDevice { name, csr }): Body<NewDevice>,
) -> Result<impl IntoResponse, Problem> {
    let issued = rest.blocking(move |parts| issue(parts, &name, csr.as_deref(), Issue::First)).await?;
    caller.changed(&rest, "add", Some(&issued.name), "a device with a certificate");
    let location = format!("/api/v1/devices/{}", issued.name);
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(issued)))
}

#[utoipa::path(
    get, path = "/devices/{name}", tag = "devices", params(("name" = String, Path, description = "The device")),
    summary = "Show a device",
    security(("token" = ["devices:read"])),
    responses((status = OK, body = Device)),
)]
pub(super) async fn one(
    _: Allowed<DevicesRead>,
    State(rest): State<Arc<Rest>>,
    Named(name): Named<String>,
) -> Result<Json<Device>, Problem> {
    let name = shape::device(&name)?;
    let device = rest.blocking(move |parts| {
        let known = Registry::read(&parts.data_dir)?;
        found(parts, &known, name)
    });
    Ok(Json(device.await?))
}

#[utoipa::path(
    post, path = "/devices/{name}/disable", tag = "devices",
    params(("name" = String, Path, description = "The device")),
    summary = "Keep a device out, whatever it shows; if it is connected, it is put out",
    security(("token" = ["devices:write"])),
    responses((status = OK, body = Device)),
)]
pub(super) async fn disable(
    Allowed { caller, .. }: Allowed<DevicesWrite>,
    State(rest): State<Arc<Rest>>,
    Named(name): Named<String>,
) -> Result<Json<Device>, Problem> {
    set_disabled(&rest, &caller, &name, true).await
}

#[utoipa::path(
    post, path = "/devices/{name}/enable", tag = "devices",
    params(("name" = String, Path, description = "The device")),
    summary = "Let a device in again",
    security(("token" = ["devices:write"])),
    responses((status = OK, body = Device)),
)]
pub(super) async fn enable(
    Allowed { caller, .. }: Allowed<DevicesWrite>,
    State(rest): State<Arc<Rest>>,
    Named(name): Named<String>,
) -> Result<Json<Device>, Problem> {
    set_disabled(&rest, &caller, &name, false).await
}

#[utoipa::path(
    post, path = "/devices/{name}/revoke", tag = "devices", request_body = Revocation,
    params(("name" = String, Path, description = "The device")),
    summary = "Refuse the certificates of a device from now on; if it is connected with one, it is put out",
    security(("token" = ["devices:write"])),
    responses((status = OK, body = Device)),
)]
pub(super) async fn revoke(
    Allowed { caller, .. }: Allowed<DevicesWrite>,
    State(rest): State<Arc<Rest>>,
    Named(name): Named<String>,
    Body(Revocation { serial }): Body<Revocation>,
) -> Result<Json<Device>, Problem> {
    let name = shape::device(&name)?;
    let device = rest.blocking(move |parts| {
        let serial = serial.map(|serial| serial_number(&serial)).transpose()?;
        let wanted = revocable(parts, &name, serial.as_deref())?;
        record(parts, &name, &wanted, now(parts))?;
        found(parts, &Registry::read(&parts.data_dir)?, name)
    });
    let device = device.await?;
    rest.parts.registry_changed.notify_one();
    caller.changed(&rest, "revoke", Some(&device.name), "certificates of a device");
    Ok(Json(device))
}

#[utoipa::path(
    get, path = "/devices/{name}/certificates", tag = "devices",
    params(("name" = String, Path, description = "The device")),
    summary = "List the certificates of a device, the newest first",
    security(("token" = ["devices:read"])),
    responses((status = OK, body = Vec<Certificate>)),
)]
pub(super) async fn certificates(
    allowed: Allowed<DevicesRead>,
    state: State<Arc<Rest>>,
    name: Named<String>,
) -> Result<Json<Vec<Certificate>>, Problem> {
    let Json(device) = one(allowed, state, name).await?;
    Ok(Json(device.certificates))
}

#[utoipa::path(
    post, path = "/devices/{name}/certificates", tag = "devices", request_body = NewCertificate,
    params(("name" = String, Path, description = "The device")),
    summary = "Give a device one more certificate",
    security(("token" = ["devices:write"])),
    responses((status = CREATED, body = Issued)),
)]
pub(super) async fn add_certificate(
    Allowed { caller, .. }: Allowed<DevicesWrite>,
    State(rest): State<Arc<Rest>>,
    Named(name): Named<String>,
    Body(NewCertificate { csr, revoke_older_after }): Body<NewCertificate>,
) -> Result<(StatusCode, Json<Issued>), Problem> {
    let (name, after) = (shape::device(&name)?, shape::seconds(revoke_older_after)?);
    let issued = rest.blocking(move |parts| {
        let issued = issue(parts, &name, csr.as_deref(), Issue::Further)?;
        if let Some(after) = after {
            let older: Vec<_> = parts.pki.device(&name)?.older.iter().map(of_ours).collect();
            record(parts, &name, &older, now(parts) + after)?;
        }
        Ok(issued)
    });
    let issued = issued.await?;
    rest.parts.registry_changed.notify_one();
    caller.changed(&rest, "renew", Some(&issued.name), "one more certificate");
    Ok((StatusCode::CREATED, Json(issued)))
}

/// The time by which certificates and keys are judged.
pub(super) fn now(parts: &Parts) -> OffsetDateTime {
    parts.handles.clock.trusted_now().into()
}

/// Whether there is such a device, with what is known of it.
pub(super) fn must_exist(parts: &Parts, known: &Devices, name: &DeviceId) -> Result<(), Problem> {
    if known.device(name).is_some() {
        return Ok(());
    }
    parts.pki.device(name).map(|_| ()).map_err(Problem::from)
}

fn found(parts: &Parts, known: &Devices, name: DeviceId) -> Result<Device, Problem> {
    let certified = match parts.pki.device(&name) {
        Ok(device) => Some(device),
        Err(PkiError::UnknownDevice(_)) if known.device(&name).is_some() => None,
        Err(error) => return Err(error.into()),
    };
    let authorize::Device { disabled, revoked, password, keys, groups } =
        known.device(&name).cloned().unwrap_or_default();
    let revoked_at = |info: &CertificateInfo| {
        revoked.iter().find(|revoked| revoked.certificate == info.id()).map(|revoked| revoked.revoked_at)
    };
    let now = now(parts);
    let state = match certified.as_ref().map(|device| &device.certificate) {
        _ if disabled => "disabled",
        None => "no_certificate",
        Some(last) if revoked_at(last).is_some_and(|at| at <= now) => "revoked",
        Some(last) if last.not_after < now => "expired",
        Some(last) if ends_soon(last, now) => "ends_soon",
        Some(_) => "good",
    };
    let shown = |info: &CertificateInfo| Certificate {
        subject: info.subject.clone(),
        issuer: info.issuer.clone(),
        serial: info.serial.clone(),
        not_before: shape::time(info.not_before),
        not_after: shape::time(info.not_after),
        sha256: info.sha256.clone(),
        revoked_at: revoked_at(info).map(shape::time),
    };
    Ok(Device {
        state,
        disabled,
        has_password: password.is_some(),
        certificates: certified.iter().flat_map(pki::Device::certificates).map(shown).collect(),
        keys: keys.iter().map(Key::from).collect(),
        groups,
        name,
    })
}

/// As certificates have it.
fn serial_number(text: &str) -> Result<String, Problem> {
    let is_hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match is_hexadecimal && (2..=64).contains(&text.len()) && text.len().is_multiple_of(2) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(Problem::invalid("serial is 2 to 64 hexadecimal digits, two a byte")),
    }
}

fn issue(parts: &Parts, name: &DeviceId, csr: Option<&str>, issue: Issue) -> Result<Issued, Problem> {
    let ca_pem = parts.pki.ca_pem()?;
    let (certificate_pem, private_key_pem) = match csr {
        Some(csr) if csr.contains("PRIVATE KEY") => {
            return Err(Problem::invalid(
                "csr holds a private key, which should not leave the device: send the request alone, and make \
                 another key",
            ));
        }
        Some(csr) => (parts.pki.sign_csr(name, csr, issue)?, None),
        None => {
            let made = parts.pki.issue_device(name, issue)?;
            (made.cert_pem, Some(made.key_pem.expose().to_owned()))
        }
    };
    Ok(Issued { name: name.clone(), certificate_pem, private_key_pem, ca_pem })
}

async fn set_disabled(
    rest: &Arc<Rest>,
    caller: &Caller,
    name: &str,
    disabled: bool,
) -> Result<Json<Device>, Problem> {
    let name = shape::device(name)?;
    let done = rest.blocking(move |parts| {
        let has_changed = Registry::update(&parts.data_dir, |devices| {
            must_exist(parts, devices, &name)?;
            let device = devices.device_mut(&name);
            Ok::<_, Problem>(std::mem::replace(&mut device.disabled, disabled) != disabled)
        })?;
        Ok((found(parts, &Registry::read(&parts.data_dir)?, name)?, has_changed))
    });
    let (device, has_changed) = done.await?;
    if has_changed {
        rest.parts.registry_changed.notify_one();
        let change = if disabled { "disable" } else { "enable" };
        caller.changed(rest, change, Some(&device.name), "a device");
    }
    Ok(Json(device))
}

type Revocable = (CertificateId, Option<OffsetDateTime>);

fn of_ours(info: &CertificateInfo) -> Revocable {
    (info.id(), Some(info.not_after))
}

/// Writes down that these are revoked from `at` on. Those that were revoked and have long expired make room.
fn record(parts: &Parts, name: &DeviceId, wanted: &[Revocable], at: OffsetDateTime) -> Result<(), Problem> {
    let certainly_past = parts.handles.clock.certainly_past().into();
    Registry::update(&parts.data_dir, |devices| {
        devices.forget_expired(certainly_past);
        devices.revoke(name, wanted, at);
        Ok::<_, DocumentError>(())
    })?;
    Ok(())
}

/// All certificates of a device, or the one with this serial number, which an external CA may have made.
fn revocable(parts: &Parts, name: &DeviceId, serial: Option<&str>) -> Result<Vec<Revocable>, Problem> {
    let known: Vec<_> = match parts.pki.device(name) {
        Ok(device) => device.certificates().map(of_ours).collect(),
        Err(PkiError::UnknownDevice(_)) if serial.is_some() => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let Some(serial) = serial else { return Ok(known) };
    if let Some(found) = known.iter().find(|(id, _)| id.serial == serial) {
        return Ok(vec![found.clone()]);
    }
    let of = |issuer| (CertificateId { issuer, serial: serial.to_owned() }, None);
    Ok(parts.pki.issuers()?.into_iter().map(of).collect())
}
