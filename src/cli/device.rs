//! `tampu device`: certificates for devices, and what has to go into their firmware.

mod kit;
mod place;

#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};

use crate::message::{DeviceId, InvalidDeviceId};
use crate::pki::{Device, Pki};

use kit::Kit;
pub(super) use place::open;

/// The commands of `tampu device`.
#[derive(Debug, Subcommand)]
pub(super) enum DeviceCommand {
    /// Give a device a certificate, and print what its firmware needs
    Add(AddDevice),
    /// List the devices that have a certificate
    List {
        /// Print JSON, for scripts
        #[arg(long)]
        json: bool,
    },
    /// Show the certificate of one device
    Show {
        /// The device's name
        #[arg(value_parser = device_name)]
        name: DeviceId,
        /// Print JSON, for scripts
        #[arg(long)]
        json: bool,
    },
}

/// The arguments of `tampu device add`.
#[derive(Debug, Args)]
pub(super) struct AddDevice {
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

/// Runs a command. `port`: the one that the gateway listens on.
///
/// # Errors
/// When the certificates do not allow it, or a file or `out` cannot be written.
pub(super) fn run(command: &DeviceCommand, pki: &Pki, port: u16, out: &mut dyn Write) -> anyhow::Result<()> {
    match command {
        DeviceCommand::Add(arguments) => add(arguments, pki, port, out),
        DeviceCommand::List { json } => list(pki, *json, out),
        DeviceCommand::Show { name, json } => {
            let device = pki.device(name)?;
            if *json {
                writeln!(out, "{}", serde_json::to_string_pretty(&device)?)?;
            } else {
                show(&device, out)?;
            }
            Ok(())
        }
    }
}

fn add(arguments: &AddDevice, pki: &Pki, port: u16, out: &mut dyn Write) -> anyhow::Result<()> {
    let AddDevice { name, format, csr, .. } = arguments;
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
        Some(csr) => (pki.sign_csr(name, &csr)?, None),
        None => {
            let device = pki.issue_device(name)?;
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

fn list(pki: &Pki, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let devices = pki.devices()?;
    if json {
        let rows: Vec<_> = devices
            .iter()
            .map(|device| match device {
                Ok(device) => serde_json::to_value(device),
                Err(error) => Ok(serde_json::json!({ "error": error.to_string() })),
            })
            .collect::<Result<_, _>>()?;
        writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?;
        return Ok(());
    }
    if devices.is_empty() {
        writeln!(out, "No device has a certificate yet: `tampu device add NAME` makes one.")?;
        return Ok(());
    }
    let width = devices.iter().flatten().map(|device| device.name.as_str().len()).max().unwrap_or(0).max(4);
    writeln!(out, "{:width$}  VALID UNTIL  SERIAL", "NAME")?;
    for device in &devices {
        match device {
            Ok(Device { name, certificate }) => {
                let (end, serial) = (certificate.not_after.date(), &certificate.serial);
                writeln!(out, "{:width$}  {end}   {serial}", name.as_str())?;
            }
            Err(error) => writeln!(out, "(unreadable) {error}")?,
        }
    }
    Ok(())
}

fn show(device: &Device, out: &mut dyn Write) -> anyhow::Result<()> {
    let Device { name, certificate } = device;
    writeln!(out, "device       {name}")?;
    writeln!(out, "subject      {}", certificate.subject)?;
    writeln!(out, "issuer       {}", certificate.issuer)?;
    writeln!(out, "serial       {}", certificate.serial)?;
    writeln!(out, "valid from   {}", certificate.not_before.date())?;
    writeln!(out, "valid until  {}", certificate.not_after.date())?;
    writeln!(out, "sha-256      {}", certificate.sha256)?;
    Ok(())
}
