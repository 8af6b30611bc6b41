//! The HTTP client itself: TLS by the clock's trusted time, and servers that are not what they should be.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tampu::clock::Clock;
use tampu::config::{self, Secret, SinkKind, SupabaseRows};
use tampu::message::DeviceId;
use tampu::sink::{self, Accepted, AnySink, Row, SendError, Sink};
use tampu::tasks::{Stage, Tasks};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::bench::{settings, trusted_clock};

const CREATED: &str = "HTTP/1.1 201 Created\r\nContent-Range: */*\r\nContent-Length: 0\r\n\r\n";

fn supabase(url: String, key: &str) -> SinkKind {
    SinkKind::Supabase(config::Supabase {
        url,
        rest_path: String::new(),
        key: Secret::new(key.to_owned()),
        token: Some(Secret::new("eyJh.quoted.token".to_owned())),
        schema: None,
        table: "readings".to_owned(),
        rows: SupabaseRows::Whole,
        max_rows: 10,
        max_bytes: 10_000,
        interval: Duration::ZERO,
    })
}

fn open(settings: &config::Sink, clock: &Clock) -> Result<AnySink, sink::SinkError> {
    sink::open(settings, &[], &DeviceId::parse("gw").unwrap(), clock)
}

async fn send_one(settings: &config::Sink, clock: &Clock) -> Result<Accepted, SendError> {
    let row = Row { text: "{}".to_owned(), at_s: 0, carried: vec![1], lost: Vec::new() };
    open(settings, clock).unwrap().send(&[row]).await
}

/// Reads a request and answers it with these bytes, again and again if `endless`; keeps the connection open.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, reply: Vec<u8>, endless: bool) {
    let mut request = Vec::new();
    let mut buffer = [0; 4_096];
    while !request.ends_with(b"[{}]") {
        match stream.read(&mut buffer).await {
            Ok(read) if read > 0 => request.extend_from_slice(&buffer[..read]),
            _ => return,
        }
    }
    while stream.write_all(&reply).await.is_ok() && endless {}
    if !endless {
        std::future::pending::<()>().await;
    }
}

/// A server that answers its first request; `tls` makes it one of HTTPS.
async fn server(
    tasks: &Tasks,
    tls: Option<rustls::ServerConfig>,
    reply: impl Into<Vec<u8>>,
    endless: bool,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let reply = reply.into();
    tasks.spawner(Stage::Service).passing(async move {
        let (stream, _) = listener.accept().await.unwrap();
        match tls {
            None => answer(stream, reply, endless).await,
            Some(tls) => {
                let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
                if let Ok(stream) = acceptor.accept(stream).await {
                    answer(stream, reply, endless).await;
                }
            }
        }
    });
    format!("{scheme}://localhost:{port}")
}

/// A CA, and a server's certificate that is good in the year 2040 alone.
fn certificate_of_2040(ca_file: &Path) -> rustls::ServerConfig {
    let (from, to) = (rcgen::date_time_ymd(2040, 1, 1), rcgen::date_time_ymd(2041, 1, 1));
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    std::fs::write(ca_file, ca_cert.pem()).unwrap();
    let mut leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    (leaf.not_before, leaf.not_after) = (from, to);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf_cert = leaf.signed_by(&leaf_key, &Issuer::new(ca, ca_key)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf_cert.der().clone()],
            PrivateKeyDer::Pkcs8(leaf_key.serialize_der().into()),
        )
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_judged_by_the_clocks_floor_and_not_by_a_clock_that_is_behind() {
    let (dir, tasks) = (tempfile::tempdir().unwrap(), Tasks::default());
    let ca_file = dir.path().join("ca.pem");
    let behind = trusted_clock(dir.path());
    let url = server(&tasks, Some(certificate_of_2040(&ca_file)), CREATED, false).await;
    let mut sink = settings(supabase(url, "sb_secret_x"));
    sink.ca_file = Some(ca_file.clone());
    let refused = send_one(&sink, &behind).await.unwrap_err();
    assert!(matches!(&refused, SendError::Retry { why, .. } if why.contains("not valid yet")), "{refused}");

    // The gateway was on in July 2040; now it woke up in the past.
    let july_2040 = "2225000000000";
    let line = format!("{july_2040} {:08x}\n", crc32fast::hash(july_2040.as_bytes()));
    std::fs::write(dir.path().join("later"), line).unwrap();
    let unsynchronized = config::Clock {
        source: config::ClockSource::File(dir.path().join("never")),
        ..config::Clock::default()
    };
    let floored = Clock::start(&unsynchronized, &dir.path().join("later"), BTreeMap::new()).unwrap();
    let url = server(&tasks, Some(certificate_of_2040(&ca_file)), CREATED, false).await;
    sink.kind = supabase(url, "sb_secret_x");
    assert_eq!(send_one(&sink, &floored).await, Ok(Accepted::Stored));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_ca_is_not_spoken_to() {
    let (dir, tasks) = (tempfile::tempdir().unwrap(), Tasks::default());
    let clock = trusted_clock(dir.path());
    let (theirs, ours) = (dir.path().join("theirs.pem"), dir.path().join("ours.pem"));
    let url = server(&tasks, Some(certificate_of_2040(&theirs)), CREATED, false).await;
    certificate_of_2040(&ours);
    let sink = config::Sink { ca_file: Some(ours), ..settings(supabase(url, "sb_secret_x")) };
    let refused = send_one(&sink, &clock).await.unwrap_err();
    assert!(matches!(refused, SendError::Retry { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_does_not_say_where_it_ends_is_not_waited_for() {
    let (dir, tasks) = (tempfile::tempdir().unwrap(), Tasks::default());
    let url = server(&tasks, None, "HTTP/1.1 201 Created\r\nContent-Range: */*\r\n\r\n", false).await;
    let sink = settings(supabase(url, "sb_secret_x"));
    let start = Instant::now();
    assert_eq!(send_one(&sink, &trusted_clock(dir.path())).await, Ok(Accepted::Stored));
    assert!(start.elapsed() < sink.timeout, "the server never ends the reply");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_without_end_is_cut() {
    let (dir, tasks) = (tempfile::tempdir().unwrap(), Tasks::default());
    let reply = format!("HTTP/1.1 502 Bad\r\nContent-Length: 99999999999\r\n\r\n{}", "x".repeat(10_000));
    let url = server(&tasks, None, reply, true).await;
    let got =
        send_one(&settings(supabase(url, "sb_secret_x")), &trusted_clock(dir.path())).await.unwrap_err();
    let SendError::Retry { why, .. } = &got else { panic!("{got}") };
    assert!(why.len() < 300, "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_that_the_far_side_quotes_do_not_come_back_in_the_error() {
    let (dir, tasks) = (tempfile::tempdir().unwrap(), Tasks::default());
    let body = r#"{"message":"no sb_secret_quoted, no eyJh.quoted.token"}"#;
    let reply = format!(
        "HTTP/1.1 401 No\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let url = server(&tasks, None, reply, false).await;
    let sink = settings(supabase(url, "sb_secret_quoted"));
    let got = send_one(&sink, &trusted_clock(dir.path())).await.unwrap_err();
    assert!(matches!(&got, SendError::Hold { .. }), "{got}");
    assert!(got.to_string().contains("no (secret), no (secret)"), "{got}");
    assert!(!format!("{:?}", open(&sink, &trusted_clock(dir.path())).unwrap()).contains("quoted"));
}

#[tokio::test]
async fn every_call_to_thingspeak_keeps_the_interval_and_supabase_demands_none() {
    let bench = crate::bench::Bench::new().await;
    let dir = tempfile::tempdir().unwrap();
    let clock = trusted_clock(dir.path());
    let bounds = |kind| open(&settings(kind), &clock).unwrap().bounds();
    let interval = Duration::from_secs(15);
    let thingspeak = bounds(SinkKind::ThingSpeak(config::ThingSpeak { interval, ..bench.thingspeak() }));
    assert_eq!((thingspeak.interval, thingspeak.spacing), (interval, interval));
    let supabase = bounds(SinkKind::Supabase(config::Supabase { interval, ..bench.supabase() }));
    assert_eq!((supabase.interval, supabase.spacing), (interval, Duration::ZERO));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_named_before_anything_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let clock = trusted_clock(dir.path());
    let error = |sink: &config::Sink| open(sink, &clock).unwrap_err().to_string();
    let good = settings(supabase("https://example.org".to_owned(), "k"));
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    for file in [empty, dir.path().join("absent.pem")] {
        let path = file.display().to_string();
        let sink = config::Sink { ca_file: Some(file), ..good.clone() };
        assert!(error(&sink).starts_with(&format!("ca_file {path}")), "{}", error(&sink));
    }
    assert!(error(&settings(supabase("example".to_owned(), "k"))).starts_with("url \"example\""));
    assert_eq!(
        error(&settings(supabase("https://example.org".to_owned(), "a\nb"))),
        "the key holds a character that cannot stand in an HTTP header"
    );
}
