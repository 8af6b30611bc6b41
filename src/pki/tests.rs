//! The PKI on real files.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::time::{SystemTime, UNIX_EPOCH};

use rcgen::{CertificateSigningRequest, CertifiedIssuer, SigningKey};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::*;
use certificate::{HostName, host_names};

use crate::config::CertificateName;

mod damage;
mod own_files;
mod renewal;

const DAY: u64 = 86_400;
/// In the year 2052: later than any wall clock that these tests are expected to meet. See [`clock_at`].
const FAR_FUTURE: u64 = 2_600_000_000;

/// A gateway's directory that goes away with the test.
struct Place {
    dir: tempfile::TempDir,
    settings: config::Pki,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), settings: config::Pki::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("pki").join(name)
    }

    fn open(&self) -> Pki {
        self.open_at(&clock())
    }

    fn open_at(&self, clock: &Clock) -> Pki {
        Pki::open_or_create(&self.dir.path().join("pki"), &self.settings, &id("gw-1"), clock).unwrap()
    }
}

fn id(name: &str) -> DeviceId {
    DeviceId::parse(name).unwrap()
}

fn clock() -> Clock {
    clock_of(0, config::ClockSource::Trusted)
}

/// A clock that is not synchronised, with a floor `seconds` after 1970: it says that, or what the wall clock
/// says if it is later.
fn clock_at(seconds: u64) -> Clock {
    clock_of(seconds, config::ClockSource::File(PathBuf::from("/nowhere/synchronized")))
}

fn clock_of(seconds: u64, source: config::ClockSource) -> Clock {
    let dir = tempfile::tempdir().unwrap();
    let settings = config::Clock { source, ..config::Clock::default() };
    let file = dir.path().join("floor");
    std::fs::write(&file, crate::clock::floor_line(i64::try_from(seconds).unwrap() * 1_000)).unwrap();
    Clock::start(&settings, &file, BTreeMap::new()).unwrap()
}

fn seconds_of(clock: &Clock) -> u64 {
    clock.trusted_now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// A PEM text with another character in the middle of its `line`th line from the end.
fn flip(pem: &str, line: usize) -> String {
    let mut lines: Vec<_> = pem.trim_end().lines().map(str::to_owned).collect();
    let at = lines.len() - 1 - line;
    let old = lines[at].chars().nth(8).unwrap();
    lines[at].replace_range(8..9, if old == 'A' { "B" } else { "A" });
    lines.join("\n") + "\n"
}

/// Runs `openssl` in a directory: what it writes is what operators have.
fn openssl(dir: &Path, arguments: &str) {
    let output =
        std::process::Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn verifies(child: &CertificateDer<'_>, ca: &CertificateDer<'_>) -> bool {
    let (_, ca) = X509Certificate::from_der(ca).unwrap();
    X509Certificate::from_der(child).unwrap().1.verify_signature(Some(ca.public_key())).is_ok()
}

fn device_of(der: &CertificateDer<'_>, now: OffsetDateTime) -> Result<DeviceId, NoDevice> {
    certificate::device_of(der, CertificateName::CommonName, now).map(|(device, _)| device)
}

#[test]
fn a_first_start_makes_a_ca_and_a_server_certificate_that_only_the_owner_can_use() {
    let place = Place::new();
    let tls = place.open().server_tls();
    tls.current(config::ClientAuth::Required).unwrap();
    assert_eq!(mode(&place.path("")), 0o700);
    assert_eq!(mode(&place.path("ca.key")), 0o600);
    assert_eq!(mode(&place.path("server.key")), 0o600);

    let ca_der = der(&std::fs::read_to_string(place.path("ca.pem")).unwrap());
    let (_, ca) = X509Certificate::from_der(&ca_der).unwrap();
    let constraints = ca.basic_constraints().unwrap().unwrap().value;
    assert!(constraints.ca);
    assert_eq!(constraints.path_len_constraint, Some(0));
    assert!(ca.subject().to_string().starts_with("CN=tampu gw-1 CA "), "{}", ca.subject());
    let life = ca.validity().not_after.to_datetime() - ca.validity().not_before.to_datetime();
    assert_eq!(life.whole_days(), 20 * 365 + 6);

    let server_der = der(&std::fs::read_to_string(place.path("server.pem")).unwrap());
    assert!(verifies(&server_der, &ca_der));
    let (_, server) = X509Certificate::from_der(&server_der).unwrap();
    let usage = server.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth);
    let names = host_names(&server);
    for name in ["localhost", "127.0.0.1"] {
        assert!(names.iter().any(|held| held.to_string() == name), "{name} in {names:?}");
    }
    assert!(
        names.iter().any(|held| matches!(held, HostName::Dns(name) if name.ends_with(".local"))),
        "{names:?}"
    );
    assert_eq!(
        server.validity().not_after.to_datetime() - server.validity().not_before.to_datetime(),
        Duration::days(366)
    );
    assert!(
        server_der.len() < 1_500,
        "a chain has to fit small buffers, this has {} bytes",
        server_der.len()
    );
}

#[test]
fn opening_again_changes_nothing() {
    let place = Place::new();
    place.open().server_tls().current(config::ClientAuth::Required).unwrap();
    let files = ["ca.pem", "ca.key", "server.pem", "server.key"].map(|name| place.path(name));
    let before = files.clone().map(|path| std::fs::read(path).unwrap());
    let tls = place.open().server_tls();
    assert_eq!(tls.renew_if_due().unwrap(), Renewed::No);
    assert_eq!(files.map(|path| std::fs::read(path).unwrap()), before);
}

#[test]
fn a_device_gets_a_client_certificate_in_its_name_and_its_key_is_not_kept() {
    let place = Place::new();
    let pki = place.open();
    let device = pki.issue_device(&id("esp32-01"), Issue::First).unwrap();
    let certificate_der = der(&device.cert_pem);
    assert!(verifies(&certificate_der, &der(&pki.ca_pem().unwrap())));
    assert_eq!(device_of(&certificate_der, pki.now()), Ok(id("esp32-01")));
    let (_, certificate) = X509Certificate::from_der(&certificate_der).unwrap();
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth);
    let years = (certificate.validity().not_after.to_datetime() - pki.now()).whole_days() / 365;
    assert_eq!(years, 10);
    assert!(certificate.validity().not_before.to_datetime() < pki.now() - Duration::hours(23));

    rcgen::KeyPair::from_pem(device.key_pem.expose()).unwrap();
    for entry in std::fs::read_dir(place.path("devices")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(!text.contains("PRIVATE KEY"));
    }
    assert!(!format!("{device:?}").contains("PRIVATE KEY"));
}

#[test]
fn a_name_is_given_once() {
    let pki = Place::new();
    let pki = pki.open();
    pki.issue_device(&id("esp32-01"), Issue::First).unwrap();
    let error = pki.issue_device(&id("esp32-01"), Issue::First).unwrap_err();
    assert!(matches!(error, PkiError::DeviceExists { .. }), "{error}");
    assert!(error.to_string().contains("Choose another name"), "{error}");
}

#[test]
fn devices_are_listed_by_name_with_what_is_wrong_in_its_place() {
    let place = Place::new();
    let pki = place.open();
    for name in ["b", "a", "c"] {
        pki.issue_device(&id(name), Issue::First).unwrap();
    }
    std::fs::write(place.path("devices/b.pem"), "-----BEGIN CERTIFICATE-----\nMIIB").unwrap();
    std::fs::write(place.path("devices/.new-x"), "left by a power cut").unwrap();
    let devices = pki.devices().unwrap();
    let [Ok(first), Err(error), Ok(last)] = devices.as_slice() else { panic!("{devices:?}") };
    assert_eq!((first.name.as_str(), last.name.as_str()), ("a", "c"));
    assert!(error.to_string().contains("b.pem"), "{error}");
    assert_eq!(first.certificate.subject, "CN=a");
    assert_eq!(first.certificate.sha256.len(), 64);
    assert_ne!(first.certificate.serial, last.certificate.serial);
    assert!(matches!(pki.device(&id("none")), Err(PkiError::UnknownDevice(_))));
}

#[test]
fn a_certificate_names_one_device_or_none() {
    let now = OffsetDateTime::now_utc();
    let of = |names: &[&str], end: OffsetDateTime| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for name in names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        params.not_after = end;
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        device_of(certificate.der(), now)
    };
    let later = now + Duration::days(1);
    assert_eq!(of(&["pump"], later), Ok(id("pump")));
    assert_eq!(of(&[], later), Err(NoDevice::NoName(CertificateName::CommonName)));
    assert!(matches!(of(&["a/b"], later), Err(NoDevice::Invalid { .. })));
    assert!(matches!(of(&["pump"], now - Duration::days(1)), Err(NoDevice::Expired(_))));
    let dir = tempfile::tempdir().unwrap();
    openssl(dir.path(), "req -x509 -newkey rsa:2048 -nodes -keyout k -subj /CN=a/CN=b -out two.pem");
    let two = der(&std::fs::read_to_string(dir.path().join("two.pem")).unwrap());
    let several = NoDevice::SeveralNames { kind: CertificateName::CommonName, count: 2 };
    assert_eq!(device_of(&two, now), Err(several));
    let unreadable = device_of(&CertificateDer::from(vec![0x30, 0x01]), now);
    assert_eq!(unreadable, Err(NoDevice::Unreadable));
}

#[test]
fn a_certificate_may_name_its_device_in_its_alternative_name() {
    let now = OffsetDateTime::now_utc();
    let kind = CertificateName::AlternativeName;
    let of = |names: Vec<SanType>| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "somebody");
        params.subject_alt_names = names;
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        certificate::device_of(certificate.der(), kind, now).map(|(device, _)| device)
    };
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let uri = |name: &str| SanType::URI(name.try_into().unwrap());
    let address = || SanType::IpAddress([192, 0, 2, 1].into());
    assert_eq!(of(vec![dns("pump.example.org"), address()]), Ok(id("pump.example.org")));
    for name in ["urn:device:pump", "spiffe://example.org/devices/pump", "pump"] {
        assert_eq!(of(vec![uri(name)]), Ok(id("pump")), "{name}");
    }
    assert_eq!(of(vec![dns("pump"), uri("urn:device:pump")]), Ok(id("pump")), "the same twice");
    assert_eq!(of(vec![dns("pump"), uri("urn:device:fan")]), Err(NoDevice::SeveralNames { kind, count: 2 }));
    assert_eq!(of(vec![address()]), Err(NoDevice::NoName(kind)));
    assert_eq!(of(vec![]), Err(NoDevice::NoName(kind)), "the common name does not stand in for it");
    for name in ["urn:device:", "https://example.org/x?name=/pump", "urn:device:fan#/pump"] {
        assert!(matches!(of(vec![uri(name)]), Err(NoDevice::Invalid { .. })), "{name}");
    }
    let own = der(&Place::new().open().issue_device(&id("pump"), Issue::First).unwrap().cert_pem);
    assert_eq!(certificate::device_of(&own, kind, now).unwrap().0, id("pump"));
}

#[test]
fn a_clock_that_woke_up_in_the_past_does_not_make_certificates_of_the_past() {
    let place = Place::new();
    let clock = clock_at(FAR_FUTURE);
    let pki = place.open_at(&clock);
    let device = pki.issue_device(&id("a"), Issue::First).unwrap();
    let certificate_der = der(&device.cert_pem);
    let (_, certificate) = X509Certificate::from_der(&certificate_der).unwrap();
    assert_eq!(u64::try_from(certificate.validity().not_before.timestamp()).unwrap(), FAR_FUTURE - DAY);
}

fn request(name: &[&str], key: &impl SigningKey) -> CertificateSigningRequest {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for name in name {
        params.distinguished_name.push(DnType::CommonName, *name);
    }
    // What it asks for and must not get.
    params.subject_alt_names = vec![rcgen::SanType::DnsName("gateway.local".try_into().unwrap())];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    params.serialize_request(key).unwrap()
}

#[test]
fn a_request_gets_a_certificate_for_its_key_and_nothing_else_that_it_asks_for() {
    let place = Place::new();
    let pki = place.open();
    for (name, algorithm) in [("a", &rcgen::PKCS_ECDSA_P256_SHA256), ("b", &rcgen::PKCS_ECDSA_P384_SHA384)] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let pem = pki.sign_csr(&id(name), &request(&[name], &key).pem().unwrap(), Issue::First).unwrap();
        let der = der(&pem);
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(certificate.public_key().raw, rcgen::PublicKeyData::subject_public_key_info(&key));
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        let urn = format!("urn:tampu:{name}");
        assert_eq!(names.value.general_names, [GeneralName::URI(&urn)]);
        assert!(!certificate.extended_key_usage().unwrap().unwrap().value.server_auth);
        assert!(!certificate.is_ca());
    }
    openssl(place.dir.path(), "req -new -newkey rsa:2048 -nodes -keyout k -subj /CN=rsa -out rsa.csr");
    let rsa = std::fs::read_to_string(place.dir.path().join("rsa.csr")).unwrap();
    assert!(verifies(
        &der(&pki.sign_csr(&id("rsa"), &rsa, Issue::First).unwrap()),
        &der(&pki.ca_pem().unwrap())
    ));
    let nameless = request(&[], &KeyPair::generate().unwrap()).pem().unwrap();
    let pem = pki.sign_csr(&id("c"), &nameless, Issue::First).unwrap();
    assert_eq!(device_of(&der(&pem), pki.now()), Ok(id("c")));
}

#[test]
fn a_request_for_another_name_of_a_weak_key_or_changed_is_refused_with_the_reason() {
    let place = Place::new();
    let pki = place.open();
    let key = KeyPair::generate().unwrap();
    let why = |pem: &str| pki.sign_csr(&id("a"), pem, Issue::First).unwrap_err().to_string();

    let other = why(&request(&["b"], &key).pem().unwrap());
    assert!(other.contains("\"b\"; it must be \"a\""), "{other}");
    let ed25519 = why(&request(&["a"], &KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap()).pem().unwrap());
    assert!(ed25519.contains("P-256"), "{ed25519}");
    assert!(why("hello").contains("BEGIN CERTIFICATE REQUEST"));

    let dir = place.dir.path();
    for (name, subject, bits, expected) in
        [("weak", "/CN=a", 1024, "1024 bits"), ("several", "/CN=a/CN=b", 2048, "2 common names")]
    {
        openssl(
            dir,
            &format!("req -new -newkey rsa:{bits} -nodes -keyout k -subj {subject} -out {name}.csr"),
        );
        let refused = why(&std::fs::read_to_string(dir.join(format!("{name}.csr"))).unwrap());
        assert!(refused.contains(expected), "{refused}");
    }
    let changed = why(&flip(&request(&["a"], &key).pem().unwrap(), 1));
    assert!(changed.contains("signature"), "{changed}");
    assert!(pki.device(&id("a")).is_err(), "nothing was issued");
}
