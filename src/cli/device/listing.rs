//! What is known of devices, for people and for scripts.

use std::io::Write;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Place;
use crate::authorize::{Devices, Registry};
use crate::message::DeviceId;
use crate::pki::{CertificateInfo, Device, days_left, ends_soon};

/// A device with what the registry says of it.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    device: Device,
    /// Whole days until its last certificate ends.
    days_left: i64,
    disabled: bool,
    /// Whether its last certificate was revoked.
    revoked: bool,
    /// In one word.
    state: &'static str,
}

impl Row {
    fn new(device: Device, known: &Devices, now: OffsetDateTime) -> Self {
        let disabled = known.device(&device.name).is_some_and(|known| known.disabled);
        let revoked = revoked_at(&device.name, &device.certificate, known).is_some_and(|at| at <= now);
        let state = match () {
            () if disabled => "disabled",
            () if revoked => "revoked",
            () if device.certificate.not_after < now => "expired",
            () if ends_soon(&device.certificate, now) => "ends soon",
            () => "good",
        };
        Self { days_left: days_left(&device.certificate, now), device, disabled, revoked, state }
    }
}

fn revoked_at(name: &DeviceId, certificate: &CertificateInfo, known: &Devices) -> Option<OffsetDateTime> {
    let revoked = &known.device(name)?.revoked;
    revoked.iter().find(|revoked| revoked.certificate == certificate.id()).map(|revoked| revoked.revoked_at)
}

pub(super) fn list(place: &Place, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let known = Registry::read(place.data_dir)?;
    let rows: Vec<_> = place.pki.devices()?;
    let rows: Vec<_> =
        rows.into_iter().map(|device| device.map(|device| Row::new(device, &known, place.now))).collect();
    if json {
        let rows = rows.iter().map(|row| match row {
            Ok(row) => serde_json::to_value(row),
            Err(error) => Ok(serde_json::json!({ "error": error.to_string() })),
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&rows.collect::<Result<Vec<_>, _>>()?)?)?;
        return Ok(());
    }
    // Those of an external CA, and those that have a password.
    let kept_out = known.iter().filter(|(name, known)| {
        known.disabled && !rows.iter().flatten().any(|row| row.device.name == **name)
    });
    let kept_out: Vec<_> = kept_out.map(|(name, _)| name.as_str()).collect();
    if rows.is_empty() && kept_out.is_empty() {
        writeln!(out, "No device has a certificate yet: `tampu device add NAME` makes one.")?;
        return Ok(());
    }
    let names = rows.iter().flatten().map(|row| row.device.name.as_str()).chain(kept_out.iter().copied());
    let width = names.map(str::len).max().unwrap_or(0).max(4);
    writeln!(out, "{:width$}  STATE      VALID UNTIL    DAYS  SERIAL", "NAME")?;
    for row in &rows {
        match row {
            Ok(Row { device: Device { name, certificate, .. }, days_left, state, .. }) => {
                let (end, serial) = (certificate.not_after.date(), &certificate.serial);
                writeln!(out, "{:width$}  {state:9}  {end}  {days_left:6}  {serial}", name.as_str())?;
            }
            Err(error) => writeln!(out, "(unreadable) {error}")?,
        }
    }
    for name in kept_out {
        writeln!(out, "{name:width$}  disabled   (no certificate of this gateway)")?;
    }
    Ok(())
}

pub(super) fn show(name: &DeviceId, place: &Place, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let known = Registry::read(place.data_dir)?;
    let row = Row::new(place.pki.device(name)?, &known, place.now);
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&row)?)?;
        return Ok(());
    }
    writeln!(out, "device       {name}")?;
    writeln!(out, "state        {}", row.state)?;
    for certificate in row.device.certificates() {
        writeln!(out, "\nsubject      {}", certificate.subject)?;
        writeln!(out, "issuer       {}", certificate.issuer)?;
        writeln!(out, "serial       {}", certificate.serial)?;
        writeln!(out, "valid from   {}", certificate.not_before.date())?;
        let days = days_left(certificate, place.now);
        writeln!(out, "valid until  {} ({days} days)", certificate.not_after.date())?;
        if let Some(at) = revoked_at(name, certificate, &known) {
            writeln!(out, "revoked      {}", shown(at))?;
        }
        writeln!(out, "sha-256      {}", certificate.sha256)?;
    }
    Ok(())
}

/// A time to the second.
pub(super) fn shown(time: OffsetDateTime) -> String {
    let time = time.replace_nanosecond(0).unwrap_or(time);
    time.format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}
