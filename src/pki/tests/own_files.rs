//! Certificates that the operator brought, good and bad.

use super::*;

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca(name: &str) -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, "A Workshop");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn server(ca: &Ca, end: OffsetDateTime) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = end;
    (params.signed_by(&key, ca).unwrap().pem(), key.serialize_pem())
}

fn tomorrow() -> OffsetDateTime {
    OffsetDateTime::now_utc() + Duration::days(1)
}

/// A place with files of the operator's own beside it.
struct Own {
    place: Place,
}

impl Own {
    fn new() -> Self {
        Self { place: Place::new() }
    }

    fn file(&self, name: &str, text: &str) -> Option<PathBuf> {
        let path = self.place.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        Some(path)
    }

    fn problems(&self) -> String {
        let problems = Pki::problems(&self.place.path(""), &self.place.settings, SystemTime::now());
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }
}

#[test]
fn a_ca_of_the_operators_own_signs_devices_and_the_server() {
    let mut own = Own::new();
    let ca = ca("Workshop CA");
    own.place.settings.ca_cert = own.file("my-ca.pem", &ca.pem());
    own.place.settings.ca_key = own.file("my-ca.key", &ca.key().serialize_pem());
    assert_eq!(own.problems(), "");
    let pki = own.place.open();
    assert!(verifies(&der(&pki.issue_device(&id("a"), Issue::First).unwrap().cert_pem), ca.der()));
    pki.server_tls().current(config::ClientAuth::Required).unwrap();
    assert!(verifies(&der(&std::fs::read_to_string(own.place.path("server.pem")).unwrap()), ca.der()));
    assert!(!own.place.path("ca.pem").exists());
}

#[test]
fn an_intermediate_ca_is_sent_behind_the_server_certificate() {
    let mut own = Own::new();
    let root = ca("Root");
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Issuing");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    let issuing = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &root).unwrap();
    own.place.settings.ca_cert = own.file("issuing.pem", &issuing.pem());
    own.place.settings.ca_key = own.file("issuing.key", &issuing.key().serialize_pem());
    own.place.open().server_tls().current(config::ClientAuth::Required).unwrap();
    let chain = certificate::read_chain(&own.place.path("server.pem")).unwrap();
    assert_eq!(chain.len(), 2);
    assert_eq!(&chain[1], issuing.der());
}

#[test]
fn a_key_in_the_form_that_openssl_writes_can_sign() {
    let mut own = Own::new();
    let dir = own.place.dir.path();
    let openssl = |arguments: &str| openssl(dir, arguments);
    openssl("ecparam -name prime256v1 -genkey -noout -out ec.key");
    openssl("req -x509 -new -key ec.key -days 30 -subj /CN=Openssl -out ec.pem");
    openssl("genrsa -traditional -out rsa.key 2048");
    openssl("req -x509 -new -key rsa.key -days 30 -subj /O=Two/CN=Openssl -out rsa.pem");
    for kind in ["ec", "rsa"] {
        own.place.settings.ca_cert = Some(own.place.dir.path().join(format!("{kind}.pem")));
        own.place.settings.ca_key = Some(own.place.dir.path().join(format!("{kind}.key")));
        let pki = own.place.open();
        let device = pki.issue_device(&id(kind), Issue::First).unwrap();
        assert!(verifies(&der(&device.cert_pem), &der(&pki.ca_pem().unwrap())), "{kind}");
    }
}

#[test]
fn each_fault_of_an_own_ca_is_named_with_its_file_and_what_would_be_right() {
    let mut own = Own::new();
    let (good, other) = (ca("Good"), ca("Other"));
    let (leaf, leaf_key) = server(&good, tomorrow());
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let key = good.key().serialize_pem();
    for (certificate, key, file, expected) in [
        (leaf.as_str(), leaf_key.as_str(), "c.pem", "no CA:TRUE"),
        ("hello", &key, "c.pem", "BEGIN CERTIFICATE"),
        (&good.pem(), &other.key().serialize_pem(), "c.key", "not that of the certificate"),
        (&good.pem(), encrypted, "c.key", "pass phrase"),
        (&good.pem(), "hello", "c.key", "no private key"),
    ] {
        own.place.settings.ca_cert = own.file("c.pem", certificate);
        own.place.settings.ca_key = own.file("c.key", key);
        let problems = own.problems();
        assert!(problems.contains(expected) && problems.contains(file), "{expected}: {problems}");
        // It is a fault to report, not a reason not to start.
        let error = own.place.open().issue_device(&id("a"), Issue::First).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    own.place.settings.ca_cert = Some(PathBuf::from("/nowhere/ca.pem"));
    assert!(own.problems().contains("/nowhere/ca.pem"));
    assert!(own.place.open().server_tls().current(config::ClientAuth::Required).is_err());
}

#[test]
fn a_ca_without_its_key_needs_a_server_certificate_too() {
    let mut own = Own::new();
    let ca = ca("Elsewhere");
    own.place.settings.ca_cert = own.file("ca.pem", &ca.pem());
    assert!(own.problems().contains("pki.server_cert"), "{}", own.problems());

    let (certificate, key) = server(&ca, tomorrow());
    own.place.settings.server_cert = own.file("s.pem", &certificate);
    own.place.settings.server_key = own.file("s.key", &key);
    assert_eq!(own.problems(), "");
    let pki = own.place.open();
    pki.server_tls().current(config::ClientAuth::Required).unwrap();
    let error = pki.issue_device(&id("a"), Issue::First).unwrap_err().to_string();
    assert!(error.contains("pki.ca_key"), "{error}");
}

#[test]
fn each_fault_of_an_own_server_certificate_is_named() {
    let mut own = Own::new();
    let ca = ca("Any");
    let (good, key) = server(&ca, tomorrow());
    let (_, other_key) = server(&ca, tomorrow());
    let (expired, expired_key) = server(&ca, OffsetDateTime::now_utc() - Duration::days(2));
    for (certificate, key, expected) in [
        (&good, &other_key, "not that of the first certificate"),
        (&expired, &expired_key, "expired on"),
        (&"x".to_owned(), &key, "no certificate"),
    ] {
        own.place.settings.server_cert = own.file("s.pem", certificate);
        own.place.settings.server_key = own.file("s.key", key);
        assert!(own.problems().contains(expected), "{expected}: {}", own.problems());
    }
    own.place.settings.server_key = None;
    assert!(own.problems().contains("pki.server_key"), "{}", own.problems());
}

fn server_with(ca: &Ca, names: &[&str], usage: rcgen::ExtendedKeyUsagePurpose) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.extended_key_usages = vec![usage];
    params.not_after = tomorrow();
    (params.signed_by(&key, ca).unwrap().pem(), key.serialize_pem())
}

#[test]
fn an_own_server_certificate_that_no_device_would_believe_is_a_problem() {
    use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let mut own = Own::new();
    let ca = ca("Any");
    for (names, usage, expected) in [
        (&["gw.example.org"] as &[&str], ClientAuth, "lacks serverAuth"),
        (&[], ServerAuth, "no subject alternative name"),
    ] {
        let (certificate, key) = server_with(&ca, names, usage);
        own.place.settings.server_cert = own.file("s.pem", &certificate);
        own.place.settings.server_key = own.file("s.key", &key);
        let problems = own.problems();
        assert!(problems.contains(expected) && problems.contains("s.pem"), "{expected}: {problems}");
        assert_eq!(problems.lines().count(), 1, "{problems}");
    }
}

#[test]
fn names_that_an_own_server_certificate_does_not_hold_for_are_told() {
    let mut own = Own::new();
    let names = ["gw.example.org", "*.example.net"];
    let (certificate, key) = server_with(&ca("Any"), &names, rcgen::ExtendedKeyUsagePurpose::ServerAuth);
    own.place.settings.server_cert = own.file("s.pem", &certificate);
    own.place.settings.server_key = own.file("s.key", &key);
    let mut told = |names: &[&str]| {
        own.place.settings.names = names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(own.problems(), "");
        Pki::names_to_know(&own.place.settings)
    };
    assert_eq!(told(&["GW.example.org", "a.example.net"]), None);
    let strange = told(&["gw.example.org", "a.b.example.net", "192.0.2.7"]).unwrap();
    assert!(
        strange.contains("(192.0.2.7, a.b.example.net)") || strange.contains("(a.b.example.net, 192.0.2.7)")
    );
    assert!(strange.contains("find this host as *.example.net or gw.example.org"), "{strange}");
    let no_name_of_this_host = told(&[]).unwrap();
    assert!(no_name_of_this_host.contains("gw.example.org"), "{no_name_of_this_host}");
}

#[test]
fn an_expired_own_server_certificate_is_served_all_the_same() {
    let mut own = Own::new();
    let (expired, key) = server(&ca("Any"), OffsetDateTime::now_utc() - Duration::days(2));
    own.place.settings.server_cert = own.file("s.pem", &expired);
    own.place.settings.server_key = own.file("s.key", &key);
    own.place.open().server_tls().current(config::ClientAuth::Required).unwrap();
}

#[test]
fn new_own_files_are_taken_up_and_bad_ones_leave_the_old_in_force() {
    let mut own = Own::new();
    let ca = ca("Any");
    let bring = |own: &mut Own, certificate: &str, key: &str| {
        own.place.settings.server_cert = own.file("s.pem", certificate);
        own.place.settings.server_key = own.file("s.key", key);
    };
    let (first, first_key) = server(&ca, tomorrow());
    bring(&mut own, &first, &first_key);
    let tls = own.place.open().server_tls();
    let serial = tls.certificate().unwrap().serial;
    assert_eq!(tls.reload(&own.place.settings).unwrap(), Renewed::No);

    bring(&mut own, "half a file", &first_key);
    let error = tls.reload(&own.place.settings).unwrap_err().to_string();
    assert!(error.contains("s.pem"), "{error}");
    assert_eq!(tls.certificate().unwrap().serial, serial);
    tls.current(config::ClientAuth::Required).unwrap();

    let (second, second_key) = server(&ca, tomorrow());
    bring(&mut own, &second, &second_key);
    assert_eq!(tls.renew_if_due().unwrap(), Renewed::Yes(Why::NewFiles));
    assert_ne!(tls.certificate().unwrap().serial, serial);
}

#[test]
fn what_is_given_to_a_device_holds_no_key_even_if_the_operators_file_does() {
    let mut own = Own::new();
    let ca = ca("Both in one file");
    let both = format!("{}{}", ca.key().serialize_pem(), ca.pem());
    own.place.settings.ca_cert = own.file("both.pem", &both);
    own.place.settings.ca_key = own.place.settings.ca_cert.clone();
    let pem = own.place.open().ca_pem().unwrap();
    assert!(!pem.contains("PRIVATE"));
    assert_eq!(&der(&pem), ca.der());
}
