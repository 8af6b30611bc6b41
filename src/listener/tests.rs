//! The listener on loopback sockets, with clients of rustls' own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::*;
use crate::clock::Clock;
use crate::config::ClockSource;
use crate::message::DeviceId;
use crate::pki::Pki;

mod door;
mod revocation;
mod running;
mod stream;
mod websocket;

/// Nothing in these tests takes so long; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(30);
const TLS12: &SupportedProtocolVersion = &rustls::version::TLS12;
const TLS13: &SupportedProtocolVersion = &rustls::version::TLS13;

type Ca = CertifiedIssuer<'static, KeyPair>;
type Client = tokio_rustls::client::TlsStream<TcpStream>;

/// A gateway with a CA of the test's own, which can sign what no gateway would.
struct Gateway {
    dir: tempfile::TempDir,
    ca: Ca,
    settings: config::Pki,
    tls: ServerTls,
    certificate_name: CertificateName,
}

impl Gateway {
    fn new() -> Self {
        Self::at(&clock(ClockSource::Trusted))
    }

    fn at(clock: &Clock) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = ca("Test CA");
        let settings = config::Pki {
            ca_cert: Some(dir.path().join("ca.pem")),
            ca_key: Some(dir.path().join("ca.key")),
            ..config::Pki::default()
        };
        std::fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
        std::fs::write(dir.path().join("ca.key"), ca.key().serialize_pem()).unwrap();
        let gateway = DeviceId::parse("gw").unwrap();
        let pki = Pki::open_or_create(&dir.path().join("pki"), &settings, &gateway, clock).unwrap();
        let tls = pki.server_tls();
        tls.current(ClientAuth::Required).unwrap();
        Self { dir, ca, settings, tls, certificate_name: CertificateName::default() }
    }

    fn device(&self, name: &str) -> Credentials {
        sign(&self.ca, &params(name))
    }

    fn client(&self, credentials: Option<Credentials>) -> ClientConfig {
        client(self.ca.der().clone(), credentials, &[TLS12, TLS13])
    }
}

type Credentials = (CertificateDer<'static>, PrivateKeyDer<'static>);

fn clock(source: ClockSource) -> Clock {
    let settings = config::Clock { source, ..config::Clock::default() };
    Clock::start(&settings, &PathBuf::from("/nowhere/floor"), BTreeMap::new()).unwrap()
}

fn ca(name: &str) -> Ca {
    let mut params = params(name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.extended_key_usages.clear();
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn sign(ca: &Ca, params: &CertificateParams) -> Credentials {
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, ca).unwrap();
    (certificate.der().clone(), PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap())
}

fn client(
    root: CertificateDer<'static>,
    credentials: Option<Credentials>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    match credentials {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
        None => builder.with_no_client_auth(),
    }
}

async fn connect(address: SocketAddr, config: ClientConfig) -> io::Result<Client> {
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(localhost(), stream).await
}

fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes far too long")
}
