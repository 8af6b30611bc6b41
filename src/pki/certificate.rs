//! What a certificate says.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::SigningKey;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::revocation::Revoked;
use super::{PkiError, files};
use crate::config::CertificateName;
use crate::message::{CertificateId, DeviceId, InvalidDeviceId};

/// What people want to know about a certificate.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct CertificateInfo {
    /// Whose it is, such as `CN=esp32-01`.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// Its serial number, hexadecimal.
    pub serial: String,
    /// From when it is valid.
    #[serde(serialize_with = "rfc3339")]
    pub not_before: OffsetDateTime,
    /// Until when it is valid.
    #[serde(serialize_with = "rfc3339")]
    pub not_after: OffsetDateTime,
    /// SHA-256 of the certificate (DER), hexadecimal.
    pub sha256: String,
}

fn rfc3339<S: serde::Serializer>(time: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.format(&Rfc3339).map_err(serde::ser::Error::custom)?)
}

impl CertificateInfo {
    /// Which certificate it is.
    #[must_use]
    pub fn id(&self) -> CertificateId {
        CertificateId { issuer: self.issuer.clone(), serial: self.serial.clone() }
    }

    /// Reads a certificate; `None` if it is not one.
    #[must_use]
    pub fn of(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        Some(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            serial: hex(certificate.raw_serial()),
            not_before: validity.not_before.to_datetime(),
            not_after: validity.not_after.to_datetime(),
            sha256: hex(ring::digest::digest(&ring::digest::SHA256, der).as_ref()),
        })
    }
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The certificates of a PEM file as text, without what else is in it: a key may be.
pub(super) fn certificate_sections(text: &[u8]) -> String {
    let mut inside = false;
    let mut sections = String::new();
    for line in String::from_utf8_lossy(text).lines().map(str::trim) {
        inside |= line == "-----BEGIN CERTIFICATE-----";
        if inside {
            sections.extend([line, "\n"]);
        }
        inside &= line != "-----END CERTIFICATE-----";
    }
    sections
}

/// Why a certificate names no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoDevice {
    /// Not an X.509 certificate.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// No name.
    #[error("the certificate has no {0}; it must be the device's name")]
    NoName(CertificateName),
    /// More than one: who it is would be a matter of taste.
    #[error("the certificate has more than one {kind}, {count} of them; it must have one, the device's name")]
    SeveralNames {
        /// What was looked for.
        kind: CertificateName,
        /// How many there are.
        count: usize,
    },
    /// A name that cannot stand in a topic.
    #[error("the {kind} {name:?} is no device name: {reason}")]
    Invalid {
        /// What was looked for.
        kind: CertificateName,
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: InvalidDeviceId,
    },
    /// It was revoked. The verifier says so first, except for a resumed session.
    #[error("{0}")]
    Revoked(Revoked),
    /// It has expired. The verifier says so first, except for a resumed session, for which it is not asked.
    #[error("the certificate expired on {}", .0.date())]
    Expired(OffsetDateTime),
}

/// The device that a certificate speaks for: its one common name, or its one alternative name.
///
/// Whether the certificate may be believed is the TLS verifier's question. Only its end is looked at again,
/// by `now`, because a resumed TLS session brings the certificate of the first handshake, unverified.
///
/// # Errors
/// When it does not name exactly one device, or has expired.
pub(super) fn device_of(
    der: &CertificateDer<'_>,
    kind: CertificateName,
    now: OffsetDateTime,
) -> Result<(DeviceId, CertificateId), NoDevice> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| NoDevice::Unreadable)?;
    let not_after = certificate.validity().not_after.to_datetime();
    if not_after < now {
        return Err(NoDevice::Expired(not_after));
    }
    Ok((name_of(&certificate, kind)?, id_of(&certificate)))
}

/// The device that a certificate names, whether it may be believed or not.
pub(super) fn named_device(der: &CertificateDer<'_>, kind: CertificateName) -> Result<DeviceId, NoDevice> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| NoDevice::Unreadable)?;
    name_of(&certificate, kind)
}

fn name_of(certificate: &X509Certificate<'_>, kind: CertificateName) -> Result<DeviceId, NoDevice> {
    let names = match kind {
        CertificateName::CommonName => common_names(certificate),
        CertificateName::AlternativeName => alternative_names(certificate),
    };
    let name = match names.ok_or(NoDevice::Unreadable)?.as_slice() {
        [] => return Err(NoDevice::NoName(kind)),
        [name] => *name,
        names => return Err(NoDevice::SeveralNames { kind, count: names.len() }),
    };
    DeviceId::parse(name).map_err(|reason| {
        let name = name.to_owned();
        NoDevice::Invalid { kind, name, reason }
    })
}

/// `None` if one of them cannot be read.
fn common_names<'a>(certificate: &'a X509Certificate<'_>) -> Option<Vec<&'a str>> {
    certificate.subject().iter_common_name().map(|name| name.as_str().ok()).collect()
}

/// DNS names as they are, and of a URI what follows its last `/` or `:`, as in `urn:device:esp32-01` and
/// `spiffe://example.org/device/esp32-01`. `None` if the extension cannot be read.
fn alternative_names<'a>(certificate: &'a X509Certificate<'_>) -> Option<Vec<&'a str>> {
    let names = certificate.subject_alternative_name().ok()?;
    let name = |name: &GeneralName<'a>| match name {
        GeneralName::DNSName(name) => Some(*name),
        // What follows a query or a fragment is no part of a name.
        GeneralName::URI(uri) if uri.contains(['?', '#']) => Some(*uri),
        GeneralName::URI(uri) => uri.rsplit(['/', ':']).next(),
        _ => None,
    };
    let names: BTreeSet<_> =
        names.into_iter().flat_map(|names| names.value.general_names.iter().filter_map(name)).collect();
    Some(names.into_iter().collect())
}

/// Which certificate it is.
pub(super) fn id_of(certificate: &X509Certificate<'_>) -> CertificateId {
    CertificateId { issuer: certificate.issuer().to_string(), serial: hex(certificate.raw_serial()) }
}

/// A host name or an address that a server certificate holds for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum HostName {
    Dns(String),
    Address(IpAddr),
}

impl std::fmt::Display for HostName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// The names that a server certificate holds for.
pub(super) fn host_names(certificate: &X509Certificate<'_>) -> BTreeSet<HostName> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return BTreeSet::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(HostName::Dns(name.to_ascii_lowercase())),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => Some(HostName::Address(IpAddr::from(<[u8; 4]>::try_from(*bytes).ok()?))),
            16 => Some(HostName::Address(IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?))),
            _ => None,
        },
        _ => None,
    };
    names.value.general_names.iter().filter_map(name).collect()
}

/// Parses a certificate that [`read_chain`] has found whole.
pub(super) fn parse<'a>(path: &Path, der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, PkiError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(PkiError::file(path, "bytes follow the certificate", RESTORE)),
        Err(error) => Err(PkiError::file(path, format!("the certificate cannot be read ({error})"), RESTORE)),
    }
}

const RESTORE: &str = "put a good copy in its place";

/// Reads the certificates of a PEM file; there is at least one, and each can be parsed.
pub(super) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let text = files::read(path)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| PkiError::file(path, format!("it is not valid PEM ({error})"), RESTORE))?;
    if chain.is_empty() {
        let wrong = "it holds no certificate (no \"BEGIN CERTIFICATE\")";
        return Err(PkiError::file(
            path,
            wrong,
            "it must be a PEM file; `openssl x509 -inform der` converts",
        ));
    }
    for certificate in &chain {
        parse(path, certificate)?;
    }
    Ok(chain)
}

/// Reads a private key: PKCS#8, PKCS#1 or SEC1, not encrypted.
pub(super) fn read_key(path: &Path) -> Result<Arc<dyn SigningKey>, PkiError> {
    let text = files::read(path)?;
    let has = |mark: &str| text.windows(mark.len()).any(|window| window == mark.as_bytes());
    if has("ENCRYPTED") {
        let remedy = "the gateway starts without a person: remove it with `openssl pkey -in OLD -out NEW`";
        return Err(PkiError::file(path, "the key is protected by a pass phrase", remedy));
    }
    // Its parser's words could quote the file: they are not passed on.
    let der = PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
        PkiError::file(
            path,
            "it holds no private key in PEM form",
            "it must have a \"BEGIN PRIVATE KEY\" section",
        )
    })?;
    rustls::crypto::ring::default_provider().key_provider.load_private_key(der).map_err(|_| {
        let remedy = "use ECDSA P-256 or P-384, RSA of 2048 bits or more, or Ed25519";
        PkiError::file(path, "the private key is damaged or of a kind that cannot be used", remedy)
    })
}

/// Whether a key is the one that a certificate speaks of.
pub(super) fn belong_together(key: &dyn SigningKey, certificate: &X509Certificate<'_>) -> bool {
    key.public_key().is_none_or(|public| public.as_ref() == certificate.public_key().raw)
}
