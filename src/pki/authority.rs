//! The CA: whom it trusts, and how it signs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber, SubjectPublicKeyInfo,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::CertificateDer;
use rustls::{SignatureAlgorithm, SignatureScheme};
use time::{Duration, OffsetDateTime};
use tracing::warn;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::certificate::{belong_together, hex, parse, read_chain, read_key};
use super::{FileMode, PkiError, files};
use crate::config;
use crate::message::DeviceId;

/// Everything that was provisioned has to be visited when the CA ends.
const CA_LIFE: Duration = Duration::days(20 * 365 + 5);
/// Certificates begin a day early: a device's clock may be slow.
const BACKDATED: Duration = Duration::days(1);
/// X.520 gives a common name 64 characters.
const MAX_NAME_IN_CN: usize = 40;

/// Where the CA's files are, and whether they are the operator's own.
#[derive(Debug, Clone)]
pub(super) struct AuthorityFiles {
    pub(super) certificate: PathBuf,
    key: Option<PathBuf>,
    own: bool,
    dir: PathBuf,
}

impl AuthorityFiles {
    pub(super) fn of(dir: &Path, settings: &config::Pki) -> Self {
        let dir = dir.to_owned();
        match &settings.ca_cert {
            Some(certificate) => {
                Self { certificate: certificate.clone(), key: settings.ca_key.clone(), own: true, dir }
            }
            None => Self { certificate: dir.join("ca.pem"), key: Some(dir.join("ca.key")), own: false, dir },
        }
    }
}

/// The CA as it was read from its files.
pub(super) struct Authority {
    /// Who signs devices. More than one if the operator's file holds several.
    pub(super) certificates: Vec<CertificateDer<'static>>,
    signer: Result<Signer, PkiError>,
}

struct Signer {
    issuer: Issuer<'static, CaKey>,
    certificate: CertificateDer<'static>,
    not_after: OffsetDateTime,
}

/// What a certificate is for.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    Server,
    Device,
}

impl Authority {
    /// Makes a CA if there is none, and repairs what can be repaired. Does nothing to an operator's own files.
    /// Says whether the CA is a new one.
    pub(super) fn prepare(
        at: &AuthorityFiles,
        gateway: &DeviceId,
        now: OffsetDateTime,
    ) -> Result<bool, PkiError> {
        if at.own {
            return Ok(false);
        }
        let key = at.key.as_deref().expect("a CA of ours has a key file");
        match at.read() {
            Ok(_) => return Ok(false),
            Err(error) if error.is_missing() => {}
            Err(error) if error.is_damage() && read_key(key).is_ok() => {
                let aside = files::set_aside(&at.certificate)?;
                warn!(%error, set_aside = %aside.display(), "the CA certificate is damaged: it is made again from its key");
            }
            // Without the key nothing can be made good: whoever needs the CA says what is wrong.
            Err(_) => return Ok(false),
        }
        let provisioned = signed_by_us(&at.dir);
        let is_new = !key.exists();
        if is_new {
            if let Some(found) = provisioned {
                let wrong = format!(
                    "it is missing, and so is ca.key, though {} was signed with it",
                    found.0.display()
                );
                let remedy = "restore both from a backup; or move the whole directory away to start a new PKI, \
                              for which every device needs a new certificate";
                warn!(file = %at.certificate.display(), wrong, remedy, "no CA");
                return Ok(false);
            }
            let pair = KeyPair::generate().map_err(|error| internal(&error))?;
            files::create(key, pair.serialize_pem().as_bytes(), FileMode::Secret)?;
        }
        if let Err(error) = read_key(key)
            && error.is_damage()
        {
            warn!(%error, "the CA's certificate is missing and its key is damaged: no CA");
            return Ok(false);
        }
        // A key without a certificate: the first start was cut short, or the certificate was lost. The same key
        // and name make a certificate that verifies all that the old one did.
        let name = provisioned.map(|(_, issuer)| issuer);
        make_certificate(at, key, name, gateway, now)?;
        Ok(is_new)
    }

    /// Reads the CA.
    pub(super) fn load(at: &AuthorityFiles) -> Result<Self, PkiError> {
        let certificates = at.read().map_err(|error| at.explain(error))?;
        Ok(Self { signer: Signer::load(at, &certificates), certificates })
    }

    /// What is wrong with a CA of ours that [`Authority::prepare`] cannot make good. None is no problem.
    pub(super) fn lasting_problem(at: &AuthorityFiles) -> Option<PkiError> {
        let key = at.key.as_deref().expect("a CA of ours has a key file");
        if !at.certificate.exists() && !key.exists() && signed_by_us(&at.dir).is_none() {
            return None;
        }
        match Self::load(at) {
            Ok(authority) => authority.into_signing_problem(),
            Err(error) if error.is_damage() && read_key(key).is_ok() => None,
            Err(error) => Some(error),
        }
    }

    /// Signs a certificate for a public key. Its end is no later than the CA's own.
    pub(super) fn sign(
        self,
        key: &impl PublicKeyData,
        purpose: Purpose,
        mut params: CertificateParams,
        now: OffsetDateTime,
        life: Duration,
    ) -> Result<rcgen::Certificate, PkiError> {
        let signer = self.signer?;
        if signer.not_after <= now {
            return Err(PkiError::Settings(format!(
                "the CA's certificate expired on {}",
                signer.not_after.date()
            )));
        }
        params.not_before = now - BACKDATED;
        params.not_after = (now + life).min(signer.not_after);
        params.serial_number = Some(random_serial()?);
        params.use_authority_key_identifier_extension = true;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match purpose {
            Purpose::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Purpose::Device => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        let signed = params.signed_by(key, &signer.issuer).map_err(|error| internal(&error))?;
        let is_ours =
            match (X509Certificate::from_der(signed.der()), X509Certificate::from_der(&signer.certificate)) {
                (Ok((_, child)), Ok((_, ca))) => child.issuer().as_raw() == ca.subject().as_raw(),
                _ => false,
            };
        if !is_ours {
            let wrong = "the CA's subject has a form that this gateway cannot repeat (such as two OUs)";
            return Err(PkiError::Request(format!("{wrong}; sign with `openssl x509 -req` instead")));
        }
        Ok(signed)
    }

    /// The CA certificate to send behind a server certificate: none if it is a root, which devices have.
    pub(super) fn intermediate(&self) -> Option<CertificateDer<'static>> {
        let signer = self.signer.as_ref().ok()?;
        let (_, ca) = X509Certificate::from_der(&signer.certificate).ok()?;
        (ca.issuer().as_raw() != ca.subject().as_raw()).then(|| signer.certificate.clone())
    }

    /// Why nothing can be signed, if so.
    pub(super) fn cannot_sign(&self) -> Option<&PkiError> {
        self.signer.as_ref().err()
    }

    /// As [`Authority::cannot_sign`], to keep.
    pub(super) fn into_signing_problem(self) -> Option<PkiError> {
        self.signer.err()
    }
}

impl AuthorityFiles {
    fn read(&self) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        let certificates = read_chain(&self.certificate)?;
        for der in &certificates {
            let certificate = parse(&self.certificate, der)?;
            // An operator's intermediate is not signed by itself; ours is, which shows a flipped bit.
            if !self.own && certificate.verify_signature(None).is_err() {
                return Err(PkiError::file(
                    &self.certificate,
                    "it is damaged: its signature is wrong",
                    "restore it",
                ));
            }
            check_ca(&self.certificate, &certificate)?;
        }
        Ok(certificates)
    }

    /// What a damaged file of ours means for the operator.
    fn explain(&self, error: PkiError) -> PkiError {
        let remedy = match (self.own, error.is_damage() || error.is_missing()) {
            (false, true) => {
                "no device can be recognised: restore it from a backup of this directory, or move the whole directory \
                 away to start a new PKI, for which every device needs a new certificate"
            }
            _ => return error,
        };
        let wrong = match error {
            PkiError::File { wrong, .. } => wrong,
            _ => "it is missing".to_owned(),
        };
        PkiError::file(&self.certificate, wrong, remedy)
    }
}

impl Signer {
    fn load(at: &AuthorityFiles, certificates: &[CertificateDer<'static>]) -> Result<Self, PkiError> {
        let Some(path) = &at.key else {
            let text = "this gateway cannot sign: `pki.ca_key` is not set. Set it, or sign with the CA where its key is";
            return Err(PkiError::Settings(text.to_owned()));
        };
        let key = read_key(path).map_err(|error| if at.own { error } else { explain_key(path, error) })?;
        if files::is_open_to_others(path) {
            warn!(file = %path.display(), "the CA's key can be read by others: chmod 600");
        }
        for der in certificates {
            let certificate = parse(&at.certificate, der)?;
            if belong_together(key.as_ref(), &certificate) {
                let not_after = certificate.validity().not_after.to_datetime();
                let key = CaKey::new(key)?;
                let issuer = Issuer::from_ca_cert_der(der, key).map_err(|error| internal(&error))?;
                return Ok(Self { issuer, certificate: der.clone(), not_after });
            }
        }
        let wrong = format!("the key is not that of the certificate in {}", at.certificate.display());
        Err(PkiError::file(path, wrong, "give the key and the certificate of one CA"))
    }
}

/// What a damaged or lost key of ours means for the operator.
fn explain_key(path: &Path, error: PkiError) -> PkiError {
    let (wrong, hint) = match error {
        PkiError::File { wrong, remedy, .. } => (wrong, format!(" ({remedy})")),
        missing if missing.is_missing() => ("it is missing".to_owned(), String::new()),
        other => return other,
    };
    let remedy = format!(
        "restore ca.key from a backup{hint}: nothing can be signed without it; certificates that were made stay good"
    );
    PkiError::file(path, wrong, remedy)
}

/// The certificate has to allow what it is used for.
fn check_ca(path: &Path, certificate: &X509Certificate<'_>) -> Result<(), PkiError> {
    let is_ca =
        certificate.basic_constraints().ok().flatten().is_some_and(|constraints| constraints.value.ca);
    if !is_ca {
        let wrong = format!("{} is no CA certificate (no CA:TRUE)", certificate.subject());
        return Err(PkiError::file(path, wrong, "give the certificate of the CA that signs devices"));
    }
    let may_sign = certificate.key_usage().ok().flatten().is_none_or(|usage| usage.value.key_cert_sign());
    if !may_sign {
        let wrong =
            format!("{} may not sign certificates (its key usage lacks keyCertSign)", certificate.subject());
        return Err(PkiError::file(path, wrong, "give a CA certificate that may"));
    }
    Ok(())
}

/// A certificate that the CA of this directory has signed, and the CA's name in it.
fn signed_by_us(dir: &Path) -> Option<(PathBuf, String)> {
    let devices =
        std::fs::read_dir(dir.join("devices")).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut candidates = std::iter::once(dir.join("server.pem")).chain(devices);
    candidates.find_map(|path| {
        let chain = read_chain(&path).ok()?;
        let certificate = parse(&path, chain.first()?).ok()?;
        let issuer = certificate.issuer().iter_common_name().next()?.as_str().ok()?.to_owned();
        Some((path, issuer))
    })
}

fn make_certificate(
    at: &AuthorityFiles,
    key: &Path,
    name: Option<String>,
    gateway: &DeviceId,
    now: OffsetDateTime,
) -> Result<(), PkiError> {
    let key = CaKey::new(read_key(key)?)?;
    let name = match name {
        Some(name) => name,
        None => {
            let short = &gateway.as_str()[..gateway.as_str().len().min(MAX_NAME_IN_CN)];
            format!("tampu {short} CA {}", hex(&random::<4>()?))
        }
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(random_serial()?);
    params.not_before = now - BACKDATED;
    params.not_after = now + CA_LIFE;
    let certificate = params.self_signed(&key).map_err(|error| internal(&error))?;
    files::create(&at.certificate, certificate.pem().as_bytes(), FileMode::Public)
}

/// 127 random bits: a serial number is positive (RFC 5280, 4.1.2.2).
fn random_serial() -> Result<SerialNumber, PkiError> {
    let mut serial = random::<16>()?;
    serial[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&serial))
}

fn random<const N: usize>() -> Result<[u8; N], PkiError> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| PkiError::Settings("the system gives no random numbers".to_owned()))?;
    Ok(bytes)
}

pub(super) fn internal(error: &rcgen::Error) -> PkiError {
    PkiError::Request(error.to_string())
}

/// A CA's key of any kind and form that rustls reads: rcgen with ring would take PKCS#8 alone,
/// and `openssl ecparam -genkey` writes SEC1.
#[derive(Debug)]
struct CaKey {
    key: Arc<dyn rustls::sign::SigningKey>,
    public: SubjectPublicKeyInfo,
}

impl CaKey {
    fn new(key: Arc<dyn rustls::sign::SigningKey>) -> Result<Self, PkiError> {
        let public = key
            .public_key()
            .ok_or_else(|| PkiError::Request("the CA's key has no public half".to_owned()))?;
        let public = SubjectPublicKeyInfo::from_der(&public).map_err(|error| internal(&error))?;
        Ok(Self { key, public })
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.public.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.public.algorithm()
    }
}

impl rcgen::SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let schemes: &[SignatureScheme] = match self.key.algorithm() {
            SignatureAlgorithm::RSA => &[SignatureScheme::RSA_PKCS1_SHA256],
            SignatureAlgorithm::ED25519 => &[SignatureScheme::ED25519],
            _ => &[SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ECDSA_NISTP384_SHA384],
        };
        let signer = self.key.choose_scheme(schemes).ok_or(rcgen::Error::UnsupportedSignatureAlgorithm)?;
        signer.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}
