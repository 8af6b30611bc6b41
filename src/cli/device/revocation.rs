//! Keeping devices out. What is said here stands in the registry of devices, where a gateway that runs finds it
//! within a second.

use std::io::Write;
use std::time::Duration;

use anyhow::{bail, ensure};
use time::OffsetDateTime;

use super::Place;
use super::listing::shown;
use crate::authorize::{DocumentError, Registry};
use crate::message::{CertificateId, DeviceId};
use crate::pki::{CertificateInfo, PkiError};

/// Revokes the certificates of a device, or the one with this serial number.
pub(super) fn revoke(
    name: &DeviceId,
    serial: Option<&str>,
    place: &Place,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let known: Vec<_> = match place.pki.device(name) {
        Ok(device) => device.certificates().map(of_ours).collect(),
        Err(PkiError::UnknownDevice(_)) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let wanted = match serial {
        None => known,
        Some(serial) => match known.iter().find(|(id, _)| id.serial == serial) {
            Some(found) => vec![found.clone()],
            // One that an external CA has made, or of which the file was lost.
            None => {
                let of = |issuer| (CertificateId { issuer, serial: serial.to_owned() }, None);
                place.pki.issuers()?.into_iter().map(of).collect()
            }
        },
    };
    if wanted.is_empty() {
        bail!(
            "no certificate of {name} is known here. Give its serial number (--serial), which the audit log has if it \
             was ever refused; or keep the device out whatever it shows: tampu device disable {name}"
        );
    }
    let is_ours = wanted.iter().all(|(_, not_after)| not_after.is_some());
    let new = record(name, &wanted, place.now, place)?;
    for (id, _) in &wanted {
        writeln!(out, "revoked  {id}")?;
    }
    match new {
        0 => writeln!(out, "It was revoked before.")?,
        _ => writeln!(out, "A gateway that runs refuses it within a second, and closes its connections.")?,
    }
    if !is_ours {
        writeln!(
            out,
            "Note: this gateway has made no certificate with this number for {name}; was it another CA? If not, look \
             at the number again: tampu device show {name}"
        )?;
    }
    Ok(())
}

/// Revokes all certificates of a device but the last, after some time.
pub(super) fn retire_older(name: &DeviceId, grace: Duration, place: &Place) -> anyhow::Result<()> {
    let device = place.pki.device(name)?;
    let older: Vec<_> = device.older.iter().filter(|info| info.not_after > place.now).map(of_ours).collect();
    let at = place.now + grace;
    record(name, &older, at, place)?;
    let when = if grace.is_zero() { "from now on".to_owned() } else { format!("from {} on", shown(at)) };
    // The certificate may have gone into a file with a form of its own: these words must not.
    for (id, _) in &older {
        eprintln!("revoked {when}: {id}");
    }
    Ok(())
}

/// Keeps a device out, or lets it in again.
pub(super) fn set_disabled(
    name: &DeviceId,
    disabled: bool,
    place: &Place,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let word = if disabled { "disabled" } else { "enabled" };
    let has_certificate = place.pki.device(name).is_ok();
    let is_known = Registry::update(place.data_dir, |devices| {
        let is_known = has_certificate || devices.device(name).is_some();
        let device = devices.device_mut(name);
        ensure!(device.disabled != disabled, "{name} is {word} already");
        device.disabled = disabled;
        anyhow::Ok(is_known)
    })?;
    writeln!(out, "{name} is {word}. A gateway that runs knows it within a second.")?;
    if !is_known {
        writeln!(
            out,
            "Note: no certificate, password or API key of {name} is known here. If it has no certificate of another CA \
             and no token either, look at the name again."
        )?;
    }
    Ok(())
}

type Certificate = (CertificateId, Option<OffsetDateTime>);

fn of_ours(info: &CertificateInfo) -> Certificate {
    (info.id(), Some(info.not_after))
}

/// Writes down that these are revoked from `at` on, and returns of how many that is new. Those that were revoked and
/// have long expired make room.
fn record(
    name: &DeviceId,
    certificates: &[Certificate],
    at: OffsetDateTime,
    place: &Place,
) -> anyhow::Result<usize> {
    Ok(Registry::update(place.data_dir, |devices| {
        devices.forget_expired(place.certainly_past);
        Ok::<_, DocumentError>(devices.revoke(name, certificates, at))
    })?)
}
