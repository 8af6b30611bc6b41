//! A CA in the hands of the test: for devices that no gateway would sign.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::mqtt::Credentials;

pub(crate) struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one of this name, with its files in a directory of this path.
    pub(crate) fn create(dir: &Path, name: &str) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        std::fs::write(dir.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        private_file(&dir.join("ca.key"), &key.serialize_pem());
        Self { dir: dir.to_owned(), issuer: Issuer::new(params, key) }
    }

    /// The settings of a gateway whose CA this is.
    pub(crate) fn settings(&self) -> String {
        let file = |name| self.dir.join(name);
        format!("[pki]\nca_cert = {:?}\nca_key = {:?}\n", file("ca.pem"), file("ca.key"))
    }

    /// A device whose certificate ends so long after now (before now, if negative).
    pub(crate) fn device(&self, name: &str, valid_for: Duration) -> Credentials {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = OffsetDateTime::now_utc() + valid_for;
        params.not_before = params.not_after - Duration::days(2);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let credentials = Credentials::in_directory(&self.dir, name);
        std::fs::write(&credentials.cert, certificate.pem()).unwrap();
        private_file(&credentials.key, &key.serialize_pem());
        credentials
    }

    /// Its list of revoked certificates (PEM), which ends so long after now (before now, if negative).
    pub(crate) fn list(&self, revoked: &[&Credentials], valid_for: Duration) -> String {
        let now = OffsetDateTime::now_utc();
        let serial = |credentials: &&Credentials| {
            let der = CertificateDer::from_pem_file(&credentials.cert).unwrap();
            let (_, certificate) = X509Certificate::from_der(&der).unwrap();
            RevokedCertParams {
                serial_number: SerialNumber::from(certificate.raw_serial().to_vec()),
                revocation_time: now,
                reason_code: None,
                invalidity_date: None,
            }
        };
        let params = CertificateRevocationListParams {
            this_update: now - Duration::days(30),
            next_update: now + valid_for,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(serial).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

fn private_file(path: &Path, text: &str) {
    let mut options = std::fs::File::options();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}
