//! The server's certificate: which names it holds for, when it is due, and how it is made.
//!
//! Renewal keeps the key. So `server.pem` is the one file that changes, the pair cannot be torn by a power
//! cut, and a device that has pinned the public key is not locked out.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType, SubjectPublicKeyInfo};
use rustls::pki_types::{CertificateDer, DnsName};
use rustls::sign::{CertifiedKey, SigningKey};
use time::{Duration, OffsetDateTime};
use tracing::warn;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::authority::{Authority, Purpose, internal};
use super::certificate::{HostName, belong_together, host_names, parse, read_chain, read_key};
use super::{FileMode, Pki, PkiError, files, fitness};
use crate::clock::Clock;
use crate::config;

const SERVER_LIFE: Duration = Duration::days(365);
/// The chain has to fit the buffers of small TLS stacks: under 2 KB with room to spare.
const MAX_NAMES: usize = 32;

/// Why the server's certificate was made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// There was none.
    Missing,
    /// The file, or that of its key, was damaged.
    Damaged,
    /// It was signed by another CA than the present one.
    OtherCa,
    /// Two thirds of its life are over, or it was made under a clock that ran ahead.
    Age,
    /// The host has names or addresses that it did not hold for.
    Names(Vec<String>),
    /// The operator put other files in place.
    NewFiles,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there was none"),
            Self::Damaged => f.write_str("it was damaged"),
            Self::OtherCa => f.write_str("the CA is another one"),
            Self::Age => f.write_str("two thirds of its life were over"),
            Self::Names(new) => write!(f, "it did not hold for {}", new.join(", ")),
            Self::NewFiles => f.write_str("its files have changed"),
        }
    }
}

/// The certificate to serve, and why it was made just now, if it was.
pub(super) fn load(pki: &Pki, authority: Authority) -> Result<(CertifiedKey, Option<Why>), PkiError> {
    let now = pki.now();
    match &pki.settings.server_cert {
        Some(path) => Ok((load_own(&pki.settings, path, now)?, None)),
        None => load_or_issue(pki, authority, now),
    }
}

/// What is wrong with the operator's own server certificate, if there is one.
pub(super) fn problems_of_own(settings: &config::Pki, now: OffsetDateTime) -> Vec<PkiError> {
    let Some(path) = &settings.server_cert else { return Vec::new() };
    match load_own(settings, path, now) {
        Ok(certified) => certified.cert.first().map_or(Vec::new(), |der| unfit(path, der, now)),
        Err(error) => vec![error],
    }
}

/// What to know about the names of the operator's own server certificate, if there is one.
pub(super) fn names_of_own(settings: &config::Pki) -> Option<String> {
    let path = settings.server_cert.as_ref()?;
    let chain = read_chain(path).ok()?;
    let wanted = settings.names.iter().filter_map(|name| host_name(name)).collect();
    fitness::names_to_know(path, &chain[0], &wanted, &names_of_host(settings))
}

/// The settings' names that are neither host names nor addresses.
pub(super) fn invalid_names(settings: &config::Pki) -> Vec<PkiError> {
    let invalid = settings.names.iter().filter(|name| host_name(name).is_none());
    invalid
        .map(|name| {
            PkiError::Settings(format!("`pki.names`: {name:?} is neither a host name nor an address"))
        })
        .collect()
}

/// Without the CA's key there is no server certificate of our making.
pub(super) fn needs_own_certificate() -> PkiError {
    let text = "`pki.ca_cert` is set without `pki.ca_key`, so this gateway cannot make its server certificate: \
                set `pki.ca_key`, or `pki.server_cert` and `pki.server_key`";
    PkiError::Settings(text.to_owned())
}

fn load_own(settings: &config::Pki, path: &Path, now: OffsetDateTime) -> Result<CertifiedKey, PkiError> {
    let Some(key_path) = &settings.server_key else {
        let text = "`pki.server_cert` is set without `pki.server_key`: set both, or neither";
        return Err(PkiError::Settings(text.to_owned()));
    };
    let chain = read_chain(path)?;
    let key = read_key(key_path)?;
    if !belong_together(key.as_ref(), &parse(path, &chain[0])?) {
        let wrong = format!("the key is not that of the first certificate in {}", path.display());
        return Err(PkiError::file(
            key_path,
            wrong,
            "give the pair; the server's certificate comes before its CA's",
        ));
    }
    if files::is_open_to_others(key_path) {
        warn!(file = %key_path.display(), "the server's key can be read by others: chmod 600");
    }
    // Served all the same: some devices do not look, and a gateway that is deaf helps nobody.
    for problem in unfit(path, &chain[0], now) {
        warn!(%problem, "devices may refuse the server's certificate");
    }
    Ok(CertifiedKey::new(chain, key))
}

/// Why devices may refuse a certificate.
fn unfit(path: &Path, der: &CertificateDer<'_>, now: OffsetDateTime) -> Vec<PkiError> {
    fitness::problems(path, der).into_iter().chain(expiry(path, der, now)).collect()
}

fn expiry(path: &Path, der: &CertificateDer<'_>, now: OffsetDateTime) -> Option<PkiError> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let (begin, end) = validity(&certificate);
    let wrong = match () {
        () if now > end => format!("it expired on {}", end.date()),
        () if now < begin => format!("it is not valid before {}", begin.date()),
        () => return None,
    };
    Some(PkiError::file(path, wrong, "renew it and send SIGHUP"))
}

fn load_or_issue(
    pki: &Pki,
    authority: Authority,
    now: OffsetDateTime,
) -> Result<(CertifiedKey, Option<Why>), PkiError> {
    let _lock = files::lock(&pki.dir)?;
    let (cert_path, key_path) = (pki.dir.join("server.pem"), pki.dir.join("server.key"));
    let key = present(&key_path, read_key(&key_path))?;
    let chain = present(&cert_path, read_chain(&cert_path))?;
    let wanted = names_of_host(&pki.settings);
    let why = match (&chain, &key) {
        (Present::Damaged, _) | (_, Present::Damaged) | (Present::Good(_), Present::Missing) => {
            Some(Why::Damaged)
        }
        (Present::Missing, _) => Some(Why::Missing),
        (Present::Good(chain), Present::Good(key)) => {
            let certificate = parse(&cert_path, &chain[0])?;
            if belong_together(key.as_ref(), &certificate) {
                due(&certificate, &authority, &wanted, &pki.clock)
            } else {
                Some(Why::Damaged)
            }
        }
    };
    let still_good = match (chain, &key) {
        (Present::Good(chain), Present::Good(key)) if !matches!(why, Some(Why::Damaged)) => {
            Some(CertifiedKey::new(chain, key.clone()))
        }
        _ => None,
    };
    match (why, still_good, authority.cannot_sign()) {
        (None, Some(certified), _) => Ok((certified, None)),
        (Some(why), Some(certified), Some(error)) => {
            warn!(%error, %why, "the server's certificate should be renewed, and cannot be: it goes on as it is");
            Ok((certified, None))
        }
        (why, still_good, _) => {
            let why = why.unwrap_or(Why::Missing);
            let key = match key {
                Present::Good(key) => key,
                Present::Missing | Present::Damaged => make_key(&key_path)?,
            };
            let kept = match (&why, &still_good) {
                (Why::Names(_), Some(certified)) => names_in(certified),
                _ => BTreeSet::new(),
            };
            let chain = issue(pki, authority, key.as_ref(), &cert_path, names(wanted, &kept), now)?;
            Ok((CertifiedKey::new(chain, key), Some(why)))
        }
    }
}

enum Present<T> {
    Good(T),
    Missing,
    Damaged,
}

/// Sets a damaged file aside.
fn present<T>(path: &Path, read: Result<T, PkiError>) -> Result<Present<T>, PkiError> {
    match read {
        Ok(good) => Ok(Present::Good(good)),
        Err(error) if error.is_missing() => Ok(Present::Missing),
        Err(error) if error.is_damage() => {
            let aside = files::set_aside(path)?;
            warn!(%error, set_aside = %aside.display(), "a file of the server's certificate is damaged: it is made anew");
            Ok(Present::Damaged)
        }
        Err(error) => Err(error),
    }
}

fn due(
    certificate: &X509Certificate<'_>,
    authority: &Authority,
    wanted: &BTreeSet<HostName>,
    clock: &Clock,
) -> Option<Why> {
    let signed_by = |ca: &CertificateDer<'_>| {
        X509Certificate::from_der(ca).is_ok_and(|(_, ca)| {
            ca.subject().as_raw() == certificate.issuer().as_raw()
                && certificate.verify_signature(Some(ca.public_key())).is_ok()
        })
    };
    if !authority.certificates.iter().any(signed_by) {
        return Some(Why::OtherCa);
    }
    let (begin, end) = validity(certificate);
    let now = OffsetDateTime::from(clock.trusted_now());
    // A clock that may be behind must not replace a good certificate by one that is over for everybody else.
    let from_the_future = now < begin && clock.is_synchronized();
    if from_the_future || now >= begin + (end - begin) * 2 / 3 {
        return Some(Why::Age);
    }
    let held = host_names(certificate);
    let new: Vec<_> =
        wanted.difference(&held).filter(|name| !is_ipv6(name)).map(ToString::to_string).collect();
    (!new.is_empty()).then_some(Why::Names(new))
}

/// IPv6 privacy addresses change daily: they are written into a certificate that is made anyway, but make none due.
fn is_ipv6(name: &HostName) -> bool {
    matches!(name, HostName::Address(IpAddr::V6(_)))
}

fn validity(certificate: &X509Certificate<'_>) -> (OffsetDateTime, OffsetDateTime) {
    let validity = certificate.validity();
    (validity.not_before.to_datetime(), validity.not_after.to_datetime())
}

fn make_key(path: &Path) -> Result<Arc<dyn SigningKey>, PkiError> {
    let pair = KeyPair::generate().map_err(|error| internal(&error))?;
    files::create(path, pair.serialize_pem().as_bytes(), FileMode::Secret)?;
    read_key(path)
}

fn issue(
    pki: &Pki,
    authority: Authority,
    key: &dyn SigningKey,
    path: &Path,
    names: Vec<SanType>,
    now: OffsetDateTime,
) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, pki.gateway.as_str());
    params.subject_alt_names = names;
    let public = key
        .public_key()
        .ok_or_else(|| PkiError::Request("the server's key has no public half".to_owned()))?;
    let public = SubjectPublicKeyInfo::from_der(&public).map_err(|error| internal(&error))?;
    let intermediate = authority.intermediate();
    let mut text = authority.sign(&public, Purpose::Server, params, now, SERVER_LIFE)?.pem();
    if intermediate.is_some() {
        text.push_str(&pki.ca_pem()?);
    }
    files::replace(path, text.as_bytes(), FileMode::Public)?;
    read_chain(path)
}

/// The names to hold for: those of today first, then those that were held for, as many as there is room for.
fn names(wanted: BTreeSet<HostName>, kept: &BTreeSet<HostName>) -> Vec<SanType> {
    let kept = kept.difference(&wanted).cloned().collect::<Vec<_>>();
    let all = wanted.into_iter().chain(kept).take(MAX_NAMES);
    all.filter_map(|name| match name {
        HostName::Dns(name) => name.try_into().ok().map(SanType::DnsName),
        HostName::Address(address) => Some(SanType::IpAddress(address)),
    })
    .collect()
}

fn names_in(certified: &CertifiedKey) -> BTreeSet<HostName> {
    let parsed = certified.cert.first().and_then(|der| X509Certificate::from_der(der).ok());
    parsed.map(|(_, certificate)| host_names(&certificate)).unwrap_or_default()
}

/// The names and addresses under which devices may find this host.
fn names_of_host(settings: &config::Pki) -> BTreeSet<HostName> {
    let mut names = BTreeSet::from([HostName::Dns("localhost".to_owned())]);
    if let Ok(host) = hostname::get() {
        let host = host.to_string_lossy().to_ascii_lowercase();
        let short = host.split('.').next().unwrap_or_default();
        names.extend([host.as_str(), short, &format!("{short}.local")].into_iter().filter_map(host_name));
    }
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => {
            let addresses = interfaces.iter().map(if_addrs::Interface::ip);
            names.extend(addresses.filter(|address| !is_link_local(address)).map(HostName::Address));
        }
        Err(error) => {
            warn!(%error, "the addresses of this host are not known: its certificate holds for names alone");
        }
    }
    names.extend(settings.names.iter().filter_map(|name| host_name(name)));
    if names.len() > MAX_NAMES {
        warn!(
            names = names.len(),
            MAX_NAMES, "this host has more names and addresses than its certificate can hold"
        );
    }
    names.into_iter().take(MAX_NAMES).collect()
}

/// A link-local IPv6 address is reached with a zone, which no certificate can name.
fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn host_name(text: &str) -> Option<HostName> {
    if let Ok(address) = text.parse() {
        return Some(HostName::Address(address));
    }
    let name = DnsName::try_from(text).ok()?;
    Some(HostName::Dns(name.as_ref().to_ascii_lowercase()))
}
