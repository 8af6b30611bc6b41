//! `tampu device`: certificates for devices, and what has to go into their firmware.

mod kit;
mod listing;
mod place;
mod revocation;

#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use time::OffsetDateTime;

use crate::message::{DeviceId, InvalidDeviceId};
use crate::pki::{Issue, Pki};

use kit::Kit;
pub(super) use place::open;

/// The commands of `tampu device`.
#[derive(Debug, Subcommand)]
pub(super) enum DeviceCommand {
    /// Give a device a certificate, and print what its firmware needs
    Add(NewCertificate),
    /// Give a device one more certificate; those that it has stay good
    Renew(NewCertificate),
    /// Give a device another certificate in the place of those that it has
    Rotate {
        #[command(flatten)]
        new: NewCertificate,
        /// How long the older ones stay good, such as 7d, so that the device can take up the new one
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "0s")]
        grace: Duration,
    },
    /// Refuse the certificates of a device from now on; if it is connected, it is put out
    Revoke {
        /// The device's name
        #[arg(value_parser = device_name)]
        name: DeviceId,
        /// Only the certificate with this serial number, hexadecimal
        #[arg(long, value_parser = serial_number)]
        serial: Option<String>,
    },
    /// Keep a device out, whatever it shows; if it is connected, it is put out
    Disable {
        /// The device's name
        #[arg(value_parser = device_name)]
        name: DeviceId,
    },
    /// Let a device in again that was disabled
    Enable {
        /// The device's name
        #[arg(value_parser = device_name)]
        name: DeviceId,
    },
    /// List the devices: until when their certificates are good, and which are disabled or revoked
    List {
        /// Print JSON, for scripts
        #[arg(long)]
        json: bool,
    },
    /// Show the certificates of one device
    Show {
        /// The device's name
        #[arg(value_parser = device_name)]
        name: DeviceId,
        /// Print JSON, for scripts
        #[arg(long)]
        json: bool,
    },
}

impl DeviceCommand {
    /// What the command changes, and of which device.
    pub(super) fn change(&self) -> Option<(&'static str, &DeviceId)> {
        match self {
            Self::Add(new) => Some(("add", &new.name)),
            Self::Renew(new) => Some(("renew", &new.name)),
            Self::Rotate { new, .. } => Some(("rotate", &new.name)),
            Self::Revoke { name, .. } => Some(("revoke", name)),
            Self::Disable { name } => Some(("disable", name)),
            Self::Enable { name } => Some(("enable", name)),
            Self::List { .. } | Self::Show { .. } => None,
        }
    }
}

/// A certificate for a device, and how it is handed over.
#[derive(Debug, Args)]
pub(super) struct NewCertificate {
    /// A name for the device: letters, digits, '-', '_', '.', ':' and '@'. It publishes below NAME/
    #[arg(value_parser = device_name)]
    pub name: DeviceId,
    /// The form in which the device's firmware takes its certificate
    #[arg(long, value_enum, default_value_t = Format::Pem)]
    pub format: Format,
    /// Sign this request (PEM), which the device has made, instead of making a key for it
    #[arg(long, value_name = "FILE")]
    pub csr: Option<PathBuf>,
    /// Write the files into this directory [default: ./NAME for esp-idf and mosquitto, else print them]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The name or address at which the device finds this gateway [default: localhost for mosquitto, else
    /// this host's name with .local behind it]
    #[arg(long, value_parser = host_name)]
    pub host: Option<String>,
}

/// The form in which a device's firmware takes its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Three PEM texts: the certificate, its key, the CA
    Pem,
    /// A header for an Arduino sketch (ESP32, ESP8266)
    Arduino,
    /// Files to embed with ESP-IDF, and the lines of `esp_mqtt_client_config_t`
    EspIdf,
    /// Files for mosquitto_pub and mosquitto_sub, and the commands
    Mosquitto,
}

fn device_name(text: &str) -> Result<DeviceId, InvalidDeviceId> {
    DeviceId::parse(text)
}

/// It is written into source code and commands: nothing else than a host may pass.
fn host_name(text: &str) -> Result<String, String> {
    match rustls::pki_types::ServerName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("it is neither a host name nor an address".to_owned()),
    }
}

/// As `list` and openssl print it, which puts colons between the bytes.
fn serial_number(text: &str) -> Result<String, &'static str> {
    let digits = text.replace(':', "").to_ascii_lowercase();
    match !digits.is_empty()
        && digits.len().is_multiple_of(2)
        && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        true => Ok(digits),
        false => Err("a serial number is written in hexadecimal digits, two a byte"),
    }
}

/// The gateway that a command works for.
pub(super) struct Place<'a> {
    /// Its certificates.
    pub pki: &'a Pki,
    /// Where its registry of devices is.
    pub data_dir: &'a Path,
    /// The port that it listens on.
    pub port: u16,
    /// The time by which certificates are judged.
    pub now: OffsetDateTime,
    /// A time that is over for certain, however wrong the clock is.
    pub certainly_past: OffsetDateTime,
}

/// Runs a command.
///
/// # Errors
/// When the certificates or the registry do not allow it, or a file or `out` cannot be written.
pub(super) fn run(command: &DeviceCommand, place: &Place, out: &mut dyn Write) -> anyhow::Result<()> {
    match command {
        DeviceCommand::Add(new) => hand_over(new, Issue::First, place, out),
        DeviceCommand::Renew(new) => hand_over(new, Issue::Further, place, out),
        DeviceCommand::Rotate { new, grace } => {
            hand_over(new, Issue::Further, place, out)?;
            revocation::retire_older(&new.name, *grace, place)
        }
        DeviceCommand::Revoke { name, serial } => revocation::revoke(name, serial.as_deref(), place, out),
        DeviceCommand::Disable { name } => revocation::set_disabled(name, true, place, out),
        DeviceCommand::Enable { name } => revocation::set_disabled(name, false, place, out),
        DeviceCommand::List { json } => listing::list(place, *json, out),
        DeviceCommand::Show { name, json } => listing::show(name, place, *json, out),
    }
}

fn hand_over(
    arguments: &NewCertificate,
    issue: Issue,
    place: &Place,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let (pki, port) = (place.pki, place.port);
    let NewCertificate { name, format, csr, .. } = arguments;
    let csr = csr.as_deref().map(read_request).transpose()?;
    let dir = match (&arguments.out, format) {
        (Some(dir), _) => Some(dir.clone()),
        (None, Format::EspIdf | Format::Mosquitto) => Some(PathBuf::from(name.as_str())),
        (None, Format::Pem | Format::Arduino) => None,
    };
    if let Some(dir) = &dir {
        // Before anything is issued: the key is handed over once.
        kit::prepare_dir(dir, name, *format, csr.is_some())?;
    }
    let ca_pem = pki.ca_pem()?;
    let (cert_pem, key_pem) = match csr {
        Some(csr) => (pki.sign_csr(name, &csr, issue)?, None),
        None => {
            let device = pki.issue_device(name, issue)?;
            (device.cert_pem, Some(device.key_pem))
        }
    };
    let host = arguments.host.clone().unwrap_or_else(|| default_host(*format));
    let kit = Kit { name: name.clone(), host, port, ca_pem, cert_pem, key_pem };
    let handed_over = kit.hand_over(*format, dir.as_deref()).and_then(|mut text| {
        if pki.has_own_server_certificate() {
            text.push_str(kit::OWN_SERVER_CERTIFICATE);
        }
        let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        match printed {
            // The files are there: that the words could not be printed loses nothing.
            Err(_) if dir.is_some() => Ok(()),
            printed => Ok(printed?),
        }
    });
    if handed_over.is_err() {
        pki.take_back(name)
            .context("the certificate was made, could not be handed over, and cannot be taken back")?;
    }
    handed_over.context("the certificate was not handed over, and was taken back: try again")
}

fn read_request(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    if text.contains("PRIVATE KEY") {
        bail!(
            "{} holds a private key: --csr takes the request alone, the key stays with the device",
            path.display()
        );
    }
    Ok(text)
}

/// The commands for mosquitto are tried on the gateway itself; a device finds it by multicast DNS.
fn default_host(format: Format) -> String {
    let host = hostname::get().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let short = host.split('.').next().unwrap_or_default().to_ascii_lowercase();
    match host_name(&short) {
        Ok(short) if format != Format::Mosquitto => format!("{short}.local"),
        _ => "localhost".to_owned(),
    }
}
