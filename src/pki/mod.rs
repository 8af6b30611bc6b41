//! Certificates: the CA, the server's certificate, and one for each device.
//!
//! ```text
//! DIR/               0700
//!   ca.pem           the CA: P-256, 20 years, signs nothing but leaves
//!   ca.key           its key, 0600
//!   server.pem       the server's certificate: one year, renewed at two thirds of it
//!   server.key       its key, 0600; kept when the certificate is renewed
//!   devices/NAME.pem the certificates of the device NAME, the newest first; a key is shown once and not kept
//!   .lock            held while something is made
//!   *.damaged-N      what was set aside
//! ```
//!
//! Every file is written to a temporary one, synced and renamed, and none is overwritten but `server.pem`
//! and those of devices, to which a certificate is added.
//! The operator's own files (`pki.ca_cert` and so on) are read from where they are, and never changed.
//!
//! A damaged file does not keep the gateway from starting (P5):
//!
//! | damaged or lost | what happens |
//! |---|---|
//! | `server.pem`, `server.key` | set aside, issued anew |
//! | `ca.pem` | set aside, made anew from `ca.key` with the same name: every certificate stays good |
//! | `ca.key` | devices are served as before; nothing can be signed until it is restored |
//! | `ca.pem` and `ca.key` | the listener refuses everybody and says why; forwarding goes on |
//! | the operator's own | at the start as the line above, at a reload the old ones stay in force |
//!
//! All times are taken from [`Clock::trusted_now`]: the wall clock may say 1970. It may also be ahead: the end of a
//! device's certificate is judged by [`Clock::certainly_past`].

mod authority;
mod certificate;
mod crl;
mod error;
mod files;
mod fitness;
mod life;
mod request;
mod revocation;
mod server;
mod tls;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData, SanType};
use time::{Duration, OffsetDateTime};

use authority::{Authority, AuthorityFiles, Purpose};

use crate::clock::Clock;
use crate::config::{self, Secret};
use crate::message::DeviceId;

pub use certificate::{CertificateInfo, NoDevice};
pub use error::PkiError;
pub use files::{FileMode, create as create_file};
pub use life::{Lives, days_left, ends_soon};
pub use revocation::{Revocations, Revoked, RevokedBy};
pub use server::Why;
pub use tls::{Renewed, ServerTls, Shown, TlsUnavailable, witness};

/// Devices in the field cannot be given a new certificate over the air: theirs must outlive them.
/// What ends a device's access is revocation.
const DEVICE_LIFE: Duration = Duration::days(10 * 365 + 2);

/// The certificates of a gateway.
#[derive(Debug, Clone)]
pub struct Pki {
    dir: PathBuf,
    gateway: DeviceId,
    settings: config::Pki,
    clock: Clock,
    has_new_ca: bool,
}

/// A new device's certificate.
#[derive(Debug, Clone)]
pub struct DeviceCertificate {
    /// Its certificate (PEM).
    pub cert_pem: String,
    /// Its private key (PEM, PKCS#8). The gateway does not keep it.
    pub key_pem: Secret,
}

/// A device that was given a certificate.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Device {
    /// Its name.
    pub name: DeviceId,
    /// Its certificate: the last one that it was given.
    #[serde(flatten)]
    pub certificate: CertificateInfo,
    /// Those that it was given before, the newest first.
    pub older: Vec<CertificateInfo>,
}

/// Whether a device has a certificate already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Issue {
    /// It must not: the name would be taken twice.
    First,
    /// It must: this is one more.
    Further,
}

impl Device {
    /// All its certificates, the newest first.
    pub fn certificates(&self) -> impl Iterator<Item = &CertificateInfo> {
        std::iter::once(&self.certificate).chain(&self.older)
    }
}

impl Pki {
    /// Opens the directory `dir`. Makes it, and a CA in it, if there is none and the settings name none.
    ///
    /// # Errors
    /// When the file system refuses. A damaged or wrong file is no error here: the daemon starts all the same,
    /// and [`ServerTls::current`] and the signing methods say what is wrong.
    pub fn open_or_create(
        dir: &Path,
        settings: &config::Pki,
        gateway: &DeviceId,
        clock: &Clock,
    ) -> Result<Self, PkiError> {
        let mut pki = Self::at(dir, settings, gateway, clock);
        files::private_dir(dir)?;
        files::private_dir(&pki.devices_dir())?;
        let _lock = files::lock(dir)?;
        pki.has_new_ca = Authority::prepare(&pki.authority_files(), gateway, pki.now())?;
        Ok(pki)
    }

    /// Opens the directory `dir` to look into it: makes nothing. `None` if there is no PKI yet.
    ///
    /// # Errors
    /// When the file system does not let it be looked at.
    pub fn open(
        dir: &Path,
        settings: &config::Pki,
        gateway: &DeviceId,
        clock: &Clock,
    ) -> Result<Option<Self>, PkiError> {
        let pki = Self::at(dir, settings, gateway, clock);
        let devices = pki.devices_dir();
        let there = devices.try_exists().map_err(|source| PkiError::io("looking for", &devices, source))?;
        Ok(there.then_some(pki))
    }

    fn at(dir: &Path, settings: &config::Pki, gateway: &DeviceId, clock: &Clock) -> Self {
        Self {
            dir: dir.to_owned(),
            gateway: gateway.clone(),
            settings: settings.clone(),
            clock: clock.clone(),
            has_new_ca: false,
        }
    }

    /// Whether opening has made a new CA.
    #[must_use]
    pub fn has_new_ca(&self) -> bool {
        self.has_new_ca
    }

    /// What is wrong with the certificates in `dir` and with those that the settings name, without changing or
    /// making any. What a start makes good by itself is no problem.
    #[must_use]
    pub fn problems(dir: &Path, settings: &config::Pki, now: std::time::SystemTime) -> Vec<PkiError> {
        let mut problems = Vec::new();
        let authority = AuthorityFiles::of(dir, settings);
        if settings.ca_cert.is_none() {
            problems.extend(Authority::lasting_problem(&authority));
        } else {
            match Authority::load(&authority) {
                Ok(authority) if settings.ca_key.is_some() => {
                    problems.extend(authority.into_signing_problem());
                }
                Ok(_) if settings.server_cert.is_none() => problems.push(server::needs_own_certificate()),
                Ok(_) => {}
                Err(error) => problems.push(error),
            }
        }
        problems.extend(crl::problems(&settings.crl, &authority, now.into()));
        problems.extend(server::problems_of_own(settings, now.into()));
        problems.extend(server::invalid_names(settings));
        problems
    }

    /// What to know about the names of the operator's own server certificate: for whom the host's names are
    /// right may be known to nobody but the operator, so it is no problem.
    #[must_use]
    pub fn names_to_know(settings: &config::Pki) -> Option<String> {
        server::names_of_own(settings)
    }

    /// The handle for the listener: makes or reads the server's certificate.
    #[must_use]
    pub fn server_tls(&self) -> ServerTls {
        ServerTls::new(self.clone())
    }

    /// Why no certificate can be made, although this gateway is meant to: `None` too if it is not, and if there
    /// is no CA at all, which [`ServerTls::current`] tells.
    #[must_use]
    pub fn signing_problem(&self) -> Option<PkiError> {
        if self.settings.ca_cert.is_some() && self.settings.ca_key.is_none() {
            return None;
        }
        Authority::load(&self.authority_files()).ok()?.into_signing_problem()
    }

    /// Makes a key and a certificate for a device. The key is returned, and not kept.
    ///
    /// # Errors
    /// When the name is taken and this is to be its first, or there is none and this is to be a further one; when
    /// the CA cannot sign, or the file system refuses.
    pub fn issue_device(&self, device: &DeviceId, issue: Issue) -> Result<DeviceCertificate, PkiError> {
        let key = KeyPair::generate().map_err(|error| authority::internal(&error))?;
        let cert_pem = self.certify(device, &key, issue)?;
        Ok(DeviceCertificate { cert_pem, key_pem: Secret::new(key.serialize_pem()) })
    }

    /// Signs the request (PEM) that a device has made, and returns its certificate (PEM).
    ///
    /// # Errors
    /// As [`Pki::issue_device`], and when the request is for another name, has a weak key, or a wrong signature.
    pub fn sign_csr(&self, device: &DeviceId, csr_pem: &str, issue: Issue) -> Result<String, PkiError> {
        self.certify(device, &request::key_for(device, csr_pem)?, issue)
    }

    fn certify(&self, device: &DeviceId, key: &impl PublicKeyData, issue: Issue) -> Result<String, PkiError> {
        let _lock = files::lock(&self.dir)?;
        let path = self.device_path(device);
        let older = match (issue, path.exists()) {
            (Issue::First, true) => return Err(PkiError::DeviceExists { device: device.clone(), path }),
            (Issue::Further, false) => return Err(PkiError::UnknownDevice(device.clone())),
            (Issue::First, false) => String::new(),
            (Issue::Further, true) => certificate::certificate_sections(&files::read(&path)?),
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, device.as_str());
        let urn = format!("urn:tampu:{device}");
        params.subject_alt_names = vec![SanType::URI(urn.try_into().expect("a device's name is ASCII"))];
        let authority = Authority::load(&self.authority_files())?;
        let pem = authority.sign(key, Purpose::Device, params, self.now(), DEVICE_LIFE)?.pem();
        match issue {
            Issue::First => files::create(&path, pem.as_bytes(), FileMode::Public)?,
            Issue::Further => files::replace(&path, (pem.clone() + &older).as_bytes(), FileMode::Public)?,
        }
        Ok(pem)
    }

    /// Takes back the last certificate, which has not left this machine: it might never have been.
    ///
    /// # Errors
    /// When its file cannot be changed.
    pub fn take_back(&self, device: &DeviceId) -> Result<(), PkiError> {
        const END: &str = "-----END CERTIFICATE-----\n";
        let _lock = files::lock(&self.dir)?;
        let path = self.device_path(device);
        let sections = certificate::certificate_sections(&files::read(&path)?);
        match sections.split_once(END) {
            Some((_, older)) if !older.is_empty() => {
                files::replace(&path, older.as_bytes(), FileMode::Public)
            }
            _ => std::fs::remove_file(&path).map_err(|source| PkiError::io("removing", &path, source)),
        }
    }

    /// Every device that was given a certificate, by name. A file that cannot be read is an error in its place.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn devices(&self) -> Result<Vec<Result<Device, PkiError>>, PkiError> {
        Ok(self.device_names()?.iter().map(|name| self.device(name)).collect())
    }

    /// The names of the devices that were given a certificate, in order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn device_names(&self) -> Result<Vec<DeviceId>, PkiError> {
        let dir = self.devices_dir();
        let failed = |source| PkiError::io("reading the directory", &dir, source);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(".pem"));
            names.extend(name.and_then(|name| DeviceId::parse(name).ok()));
        }
        names.sort();
        Ok(names)
    }

    /// One device.
    ///
    /// # Errors
    /// When there is none of that name, or its file cannot be read.
    pub fn device(&self, name: &DeviceId) -> Result<Device, PkiError> {
        let path = self.device_path(name);
        let chain = match certificate::read_chain(&path) {
            Err(error) if error.is_missing() => return Err(PkiError::UnknownDevice(name.clone())),
            chain => chain?,
        };
        let mut infos = chain.iter().map(|der| CertificateInfo::of(der).expect("read_chain has parsed it"));
        let certificate = infos.next().expect("there is at least one");
        Ok(Device { name: name.clone(), certificate, older: infos.collect() })
    }

    /// The names of the CAs that sign devices, as they stand in certificates.
    ///
    /// # Errors
    /// When the CA cannot be read.
    pub fn issuers(&self) -> Result<Vec<String>, PkiError> {
        let authority = Authority::load(&self.authority_files())?;
        let infos = authority.certificates.iter().filter_map(CertificateInfo::of);
        Ok(infos.map(|info| info.subject).collect())
    }

    /// Certificates that need somebody's care by now: those of devices, the server's and the CA's.
    #[must_use]
    pub fn lives(&self) -> Lives {
        Lives::of(self)
    }

    /// The CA's certificates (PEM): what a device has to trust, unless the server's certificate is the
    /// operator's own ([`Pki::has_own_server_certificate`]).
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn ca_pem(&self) -> Result<String, PkiError> {
        let path = self.authority_files().certificate;
        certificate::read_chain(&path)?;
        Ok(certificate::certificate_sections(&files::read(&path)?))
    }

    /// Whether the operator brought the server's certificate: it may be signed by another CA than the devices'.
    #[must_use]
    pub fn has_own_server_certificate(&self) -> bool {
        self.settings.server_cert.is_some()
    }

    fn authority_files(&self) -> AuthorityFiles {
        AuthorityFiles::of(&self.dir, &self.settings)
    }

    fn devices_dir(&self) -> PathBuf {
        self.dir.join("devices")
    }

    fn device_path(&self, device: &DeviceId) -> PathBuf {
        self.devices_dir().join(format!("{device}.pem"))
    }

    fn now(&self) -> OffsetDateTime {
        self.clock.trusted_now().into()
    }
}
