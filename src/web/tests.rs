//! The server on loopback sockets, with clients that write their requests byte for byte.

use std::collections::BTreeMap;
use std::path::PathBuf;

use axum::body::Bytes;
use axum::extract::Extension;
use axum::http::StatusCode;
use axum::routing::{get, post};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;

use super::*;
use crate::clock::Clock;
use crate::config;
use crate::pki::{Issue, Pki};
use crate::tasks::{Stage, Tasks};

/// Nothing in these tests takes so long; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(30);

struct Running {
    address: SocketAddr,
    tasks: Tasks,
    refusals: Refusals,
    /// Told when a request for `/slow` has come.
    arrived: Arc<Notify>,
}

fn start(tls: Option<Tls>, limits: Limits) -> Running {
    let (tasks, refusals, arrived) = (Tasks::default(), Refusals::default(), Arc::new(Notify::new()));
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), tls, limits, refusals.clone()).unwrap();
    let address = server.local_addr().unwrap();
    let told = Arc::clone(&arrived);
    let slow = || async move {
        told.notify_one();
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    let router = Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route("/who", get(|Extension(peer): Extension<Peer>| async move { who(&peer) }))
        .route("/echo", post(|body: Result<Bytes, _>| async move { echo(body) }))
        .route("/slow", get(slow));
    let cancel = tasks.spawner(Stage::Listener).cancelled().clone();
    tasks
        .spawner(Stage::Listener)
        .essential("web", server.run(router, tasks.spawner(Stage::Sessions), cancel));
    Running { address, tasks, refusals, arrived }
}

fn who(peer: &Peer) -> String {
    let device = peer.certificate.as_ref().map_or("nobody", |(device, _)| device.as_str());
    format!("{device} by tls: {}", peer.tls)
}

fn echo(body: Result<Bytes, axum::extract::rejection::BytesRejection>) -> (StatusCode, Bytes) {
    match body {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => (StatusCode::REQUEST_TIMEOUT, Bytes::from(error.body_text())),
    }
}

async fn exchange(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), request: &str) -> String {
    // Who is not let in may find the connection closed already.
    stream.write_all(request.as_bytes()).await.ok();
    read_to_end(stream).await
}

async fn read_to_end(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it ends");
    // A reset is an end, too: the server need not read what it does not want.
    read.ok();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn http_1_0_is_answered_with_its_length_and_the_end_of_the_connection() {
    let running = start(None, Limits::default());
    for keep_alive in ["", "Connection: keep-alive\r\n"] {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        let answer = exchange(&mut stream, &format!("GET /hello HTTP/1.0\r\n{keep_alive}\r\n")).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let head = head.to_lowercase();
        assert!(head.starts_with("http/1.0 200 ok\r\n"), "{head}");
        assert!(head.contains("connection: close") && head.contains("content-length: 5"), "{head}");
        assert!(!head.contains("transfer-encoding"), "{head}");
        assert_eq!(body, "hello");
    }
}

#[tokio::test]
async fn http_1_1_keeps_its_connection() {
    let running = start(None, Limits::default());
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let twice =
        "GET /hello HTTP/1.1\r\nHost: x\r\n\r\nGET /who HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = exchange(&mut stream, twice).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
    assert!(answer.ends_with("nobody by tls: false"), "{answer}");
}

#[tokio::test]
async fn whoever_does_not_finish_the_head_of_a_request_is_put_out() {
    let running = start(None, Limits { head: Duration::from_millis(100), ..Limits::default() });
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    assert_eq!(exchange(&mut stream, "GET /hello HTTP/1.1\r\nHost:").await, "");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let running = start(None, Limits { body: Duration::from_millis(100), ..Limits::default() });
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let head = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf";
    let answer = exchange(&mut stream, head).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("did not come whole within 100ms"), "{answer}");
}

#[tokio::test]
async fn an_address_has_no_more_connections_than_it_may() {
    let running = start(None, Limits { connections_per_address: 1, ..Limits::default() });
    let mut first = TcpStream::connect(running.address).await.unwrap();
    // It holds its place once it was answered.
    first.write_all(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    first.read_exact(&mut [0; 12]).await.unwrap();
    let mut second = TcpStream::connect(running.address).await.unwrap();
    assert_eq!(exchange(&mut second, "GET /hello HTTP/1.0\r\n\r\n").await, "");
    assert_eq!(running.refusals.counts()["too_many_connections_of_address"], 1);
}

#[tokio::test]
async fn what_is_being_answered_is_answered_when_the_server_ends() {
    let mut running = start(None, Limits::default());
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    stream.read_exact(&mut [0; 12]).await.unwrap();
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    running.arrived.notified().await;
    assert!(running.tasks.drain(PATIENCE).await.is_empty());
    let answer = read_to_end(&mut stream).await;
    assert!(answer.contains("hello") && answer.contains("HTTP/1.1 200 OK\r\nconnection: close"), "{answer}");
    assert!(TcpStream::connect(running.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_request_by_tls_brings_the_device_of_its_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let (pki, tls) = gateway(dir.path());
    let running = start(Some(tls.clone()), Limits::default());
    let device = DeviceId::parse("esp32-01").unwrap();
    let shown = pki.issue_device(&device, Issue::First).unwrap();
    let mut stream = connect(running.address, client(&pki, Some(&shown))).await;
    assert!(exchange(&mut stream, "GET /who HTTP/1.0\r\n\r\n").await.ends_with("esp32-01 by tls: true"));
    let mut stream = connect(running.address, client(&pki, None)).await;
    assert!(exchange(&mut stream, "GET /who HTTP/1.0\r\n\r\n").await.ends_with("nobody by tls: true"));

    let certificate = pki.device(&device).unwrap().certificate.id();
    tls.server.revocations().set(BTreeMap::from([(certificate, device)]));
    let mut stream = connect(running.address, client(&pki, Some(&shown))).await;
    assert_eq!(exchange(&mut stream, "GET /who HTTP/1.0\r\n\r\n").await, "", "it was revoked");
}

#[tokio::test]
async fn a_handshake_that_does_not_come_to_an_end_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let (_, tls) = gateway(dir.path());
    let running = start(Some(tls), Limits { handshake: Duration::from_millis(100), ..Limits::default() });
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    assert_eq!(read_to_end(&mut stream).await, "");
    assert_eq!(running.refusals.counts()["handshake_timeout"], 1);
}

fn gateway(dir: &std::path::Path) -> (Pki, Tls) {
    let settings = config::Clock { source: config::ClockSource::Trusted, ..config::Clock::default() };
    let clock = Clock::start(&settings, &PathBuf::from("/nowhere/floor"), BTreeMap::new()).unwrap();
    let name = DeviceId::parse("gw").unwrap();
    let pki = Pki::open_or_create(&dir.join("pki"), &config::Pki::default(), &name, &clock).unwrap();
    let tls = Tls {
        server: pki.server_tls(),
        client_auth: ClientAuth::Optional,
        certificate_name: CertificateName::default(),
    };
    (pki, tls)
}

fn client(pki: &Pki, shown: Option<&crate::pki::DeviceCertificate>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(pki.ca_pem().unwrap().as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match shown {
        None => builder.with_no_client_auth(),
        Some(shown) => {
            let certificate = CertificateDer::from_pem_slice(shown.cert_pem.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(shown.key_pem.expose().as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    }
}

async fn connect(address: SocketAddr, config: ClientConfig) -> tokio_rustls::client::TlsStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}
