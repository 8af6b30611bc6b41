//! Each way to be refused has its reason, and words that say what to mend.

use std::process::Stdio;

use super::*;

/// Lets a client knock, and says what became of it.
async fn knock<C, F>(gateway: &Gateway, client_auth: ClientAuth, knock: C) -> Outcome
where
    C: FnOnce(SocketAddr) -> F,
    F: Future<Output = ()>,
{
    let settings = config::Listener { handshake_timeout: PATIENCE, ..config::Listener::default() };
    let threshold = Threshold::new(gateway.tls.clone(), gateway.certificate_name, &settings);
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let at_the_door = async {
        let (stream, peer) = socket.accept().await.unwrap();
        threshold.let_in(stream, &Way::Tls(client_auth), peer.ip(), &visit(peer.ip())).await
    };
    // The knocker holds its end until the door has decided.
    let mut knocking = std::pin::pin!(knock(address));
    soon(async {
        tokio::pin!(at_the_door);
        tokio::select! {
            outcome = &mut at_the_door => outcome,
            () = &mut knocking => at_the_door.await,
        }
    })
    .await
}

fn visit(origin: IpAddr) -> Visit {
    Pace::new(&config::Limits::default()).enter(origin).unwrap()
}

/// A client that keeps its socket whatever comes: closed too early, it would reset the connection.
async fn stay(address: SocketAddr, config: ClientConfig) {
    let stream = TcpStream::connect(address).await.unwrap();
    let client = TlsConnector::from(Arc::new(config)).connect(localhost(), stream).into_fallible().await;
    // With TLS 1.3 a client finishes before the gateway has decided.
    std::future::pending::<()>().await;
    drop(client);
}

async fn refusal_of(gateway: &Gateway, config: ClientConfig) -> (Refusal, String) {
    refused(knock(gateway, ClientAuth::Required, |address| stay(address, config)).await)
}

fn refused(outcome: Outcome) -> (Refusal, String) {
    match outcome {
        Outcome::Refused(TurnedAway { reason, detail, .. }) => (reason, detail),
        Outcome::LetIn(_, certificate) => panic!("{certificate:?} was let in"),
        Outcome::Gone => panic!("the peer has gone"),
    }
}

async fn sent(bytes: &[u8]) -> Outcome {
    knock(&Gateway::new(), ClientAuth::Required, |address| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.read_u8().await.ok();
    })
    .await
}

#[tokio::test]
async fn a_device_is_who_its_certificate_says_in_both_versions_of_tls() {
    let gateway = Gateway::new();
    for version in [TLS12, TLS13] {
        let config = client(gateway.ca.der().clone(), Some(gateway.device("pump")), &[version]);
        let outcome = knock(&gateway, ClientAuth::Required, |address| stay(address, config));
        let Outcome::LetIn(_, Some((device, certificate))) = outcome.await else { panic!("{version:?}") };
        assert_eq!((device.as_str(), certificate.issuer.as_str()), ("pump", "CN=Test CA"));
    }
}

#[tokio::test]
async fn what_is_no_tls_is_named() {
    for (bytes, words) in [
        (&b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0"[..], "plain MQTT to the TLS port"),
        (b"GET / HTTP/1.1\r\n\r\n", "maybe HTTP"),
        (b"\0\0\0\0", "first byte 0x00"),
    ] {
        let (reason, detail) = refused(sent(bytes).await);
        assert_eq!(reason, Refusal::NotTls);
        assert!(detail.contains(words), "{detail}");
    }
    let (reason, detail) = refused(sent(b"\x16\x03\x01\x00\x05junk!").await);
    assert_eq!(reason, Refusal::TlsFailed, "{detail}");
}

#[tokio::test]
async fn a_peer_that_says_nothing_and_goes_is_nobodys_fault() {
    let gateway = Gateway::new();
    let outcome = knock(&gateway, ClientAuth::Required, |address| async move {
        drop(TcpStream::connect(address).await.unwrap());
    });
    assert!(matches!(outcome.await, Outcome::Gone));
}

/// A whole TLS record with the first bytes of a ClientHello.
pub(super) const BEGINNING: &[u8] = b"\x16\x03\x01\x00\x05\x01\x00\x01\x00\x03";

/// What becomes of a peer that has sent `bytes`, and sends no more.
async fn stuck_after(bytes: &[u8], max_handshakes: usize) -> (Refusal, String) {
    let handshake_timeout = Duration::from_millis(50);
    let settings = config::Listener { handshake_timeout, max_handshakes, ..config::Listener::default() };
    let name = CertificateName::default();
    let threshold = Threshold::new(Gateway::new().tls, name, &settings);
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut stream = TcpStream::connect(socket.local_addr().unwrap()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let (accepted, peer) = socket.accept().await.unwrap();
    let visit = visit(peer.ip());
    let way = Way::Tls(ClientAuth::Required);
    refused(soon(threshold.let_in(accepted, &way, peer.ip(), &visit)).await)
}

#[tokio::test]
async fn a_peer_that_is_slow_has_a_deadline() {
    for (bytes, words) in
        [(&b""[..], "first message"), (b"\x16\x03\x01", "first message"), (BEGINNING, "not done in")]
    {
        let (reason, detail) = stuck_after(bytes, 64).await;
        assert_eq!(reason, Refusal::HandshakeTimeout);
        assert!(detail.contains(words), "{detail}");
    }
}

#[tokio::test]
async fn a_peer_whose_turn_does_not_come_is_told_apart_from_a_slow_one() {
    let (reason, detail) = stuck_after(BEGINNING, 0).await;
    assert_eq!(reason, Refusal::TooManyHandshakes, "{detail}");
}

#[tokio::test]
async fn no_certificate_is_a_refusal_of_its_own() {
    let gateway = Gateway::new();
    for version in [TLS12, TLS13] {
        let config = client(gateway.ca.der().clone(), None, &[version]);
        let (reason, detail) = refusal_of(&gateway, config).await;
        assert_eq!(reason, Refusal::CertificateMissing);
        assert!(detail.contains("offered no certificate"), "{detail}");
    }
}

#[tokio::test]
async fn where_no_certificate_is_required_a_device_may_show_one() {
    let gateway = Gateway::new();
    for (credentials, expected) in [(None, None), (Some(gateway.device("pump")), Some("pump"))] {
        let config = gateway.client(credentials);
        let outcome = knock(&gateway, ClientAuth::Optional, |address| stay(address, config));
        let Outcome::LetIn(_, certificate) = outcome.await else { panic!("{expected:?}") };
        assert_eq!(certificate.as_ref().map(|(device, _)| device.as_str()), expected);
    }
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_refused_with_its_name_and_why() {
    let gateway = Gateway::new();
    let now = OffsetDateTime::now_utc();
    let day = time::Duration::days(1);
    let ours = |change: fn(&mut CertificateParams, OffsetDateTime, time::Duration)| {
        let mut params = params("pump");
        change(&mut params, now, day);
        sign(&gateway.ca, &params)
    };
    let cases = [
        (
            sign(&ca("Other CA"), &params("pump")),
            Refusal::CertificateUnknownIssuer,
            "another CA (issuer \"CN=Other CA\")",
        ),
        (sign(&ca("Test CA"), &params("pump")), Refusal::CertificateInvalid, "not signed by its key"),
        (ours(|params, now, day| params.not_after = now - day), Refusal::CertificateExpired, "expired on "),
        (ours(|params, now, day| params.not_before = now + day), Refusal::CertificateExpired, "begins on "),
        (
            ours(|params, _, _| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            Refusal::CertificateInvalid,
            "no clientAuth",
        ),
        (
            ours(|params, _, _| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained)),
            Refusal::CertificateInvalid,
            "that of a CA",
        ),
        (sign(&gateway.ca, &params("not a device")), Refusal::DeviceNameInvalid, "\"not a device\""),
    ];
    for (credentials, expected, words) in cases {
        let (reason, detail) = refusal_of(&gateway, gateway.client(Some(credentials))).await;
        assert_eq!(reason, expected, "{detail}");
        assert!(detail.contains(words), "{detail}");
        assert!(detail.contains("pump") || expected == Refusal::DeviceNameInvalid, "{detail}");
    }
}

/// As old tutorials make them: `openssl x509 -req` without extensions. rustls' client would not show one.
#[tokio::test]
async fn a_certificate_of_x509_version_1_is_explained() {
    let gateway = Gateway::new();
    let openssl = |arguments: &str| {
        let mut command = tokio::process::Command::new("openssl");
        command.args(arguments.split(' ')).current_dir(gateway.dir.path()).stdin(Stdio::piped());
        command.kill_on_drop(true);
        command
    };
    for arguments in [
        "req -new -newkey rsa:2048 -nodes -keyout v1.key -subj /CN=pump -out v1.csr",
        "x509 -req -in v1.csr -CA ca.pem -CAkey ca.key -set_serial 7 -days 30 -out v1.pem",
    ] {
        let output = openssl(arguments).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let client =
        |address| openssl(&format!("s_client -connect {address} -cert v1.pem -key v1.key -CAfile ca.pem"));
    let outcome = knock(&gateway, ClientAuth::Required, |address| async move {
        let mut client = client(address).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        client.wait().await.unwrap();
    });
    let (reason, detail) = refused(outcome.await);
    assert_eq!(reason, Refusal::CertificateInvalid);
    assert!(detail.contains("version 1"), "{detail}");
}

#[tokio::test]
async fn a_client_that_does_not_trust_us_is_told_apart() {
    let gateway = Gateway::new();
    for version in [TLS12, TLS13] {
        let config = client(ca("Elsewhere").der().clone(), Some(gateway.device("pump")), &[version]);
        let (reason, detail) = refusal_of(&gateway, config).await;
        assert_eq!(reason, Refusal::ServerNotTrusted, "{detail}");
        assert!(detail.contains("does it trust this gateway's ca.pem?"), "{detail}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_is_told_apart() {
    let gateway = Gateway::new();
    for (bytes, words) in [(&BEGINNING[..3], "first message"), (BEGINNING, "does it trust ca.pem?")] {
        let outcome = knock(&gateway, ClientAuth::Required, |address| async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
        });
        let (reason, detail) = refused(outcome.await);
        assert_eq!(reason, Refusal::HandshakeAborted);
        assert!(detail.contains(words), "{detail}");
    }
}

#[tokio::test]
async fn damaged_certificates_of_ours_are_named_to_whoever_reads_the_log() {
    let gateway = Gateway::new();
    let config = gateway.client(Some(gateway.device("pump")));
    std::fs::write(gateway.dir.path().join("ca.pem"), "torn").unwrap();
    let id = DeviceId::parse("gw").unwrap();
    let clock = clock(ClockSource::Trusted);
    let pki = Pki::open_or_create(&gateway.dir.path().join("pki"), &gateway.settings, &id, &clock).unwrap();
    let broken = Gateway { tls: pki.server_tls(), ..gateway };
    let (reason, detail) = refusal_of(&broken, config).await;
    assert_eq!(reason, Refusal::TlsUnavailable);
    assert!(detail.contains("ca.pem"), "{detail}");
}

#[tokio::test]
async fn a_clock_that_is_behind_refuses_nobody() {
    let nobody_vouches = clock(ClockSource::File(PathBuf::from("/nowhere/synchronized")));
    let gateway = Gateway::at(&nobody_vouches);
    let mut params = params("pump");
    params.not_before = OffsetDateTime::now_utc() + time::Duration::days(400);
    let config = gateway.client(Some(sign(&gateway.ca, &params)));
    let outcome = knock(&gateway, ClientAuth::Required, |address| stay(address, config));
    assert!(matches!(outcome.await, Outcome::LetIn(..)));
}

#[tokio::test]
async fn a_clock_that_is_ahead_refuses_nobody() {
    let nobody_vouches = clock(ClockSource::File(PathBuf::from("/nowhere/synchronized")));
    let gateway = Gateway::at(&nobody_vouches);
    let mut params = params("pump");
    params.not_after = OffsetDateTime::now_utc() - time::Duration::days(1);
    let config = gateway.client(Some(sign(&gateway.ca, &params)));
    let outcome = knock(&gateway, ClientAuth::Required, |address| stay(address, config));
    assert!(matches!(outcome.await, Outcome::LetIn(..)));
}

#[test]
fn old_versions_and_strange_suites_are_explained() {
    use rustls::{Error, PeerIncompatible};
    for (why, words) in [
        (PeerIncompatible::Tls12NotOfferedOrEnabled, "neither TLS 1.2 nor 1.3"),
        (PeerIncompatible::NoCipherSuitesInCommon, "ECDHE"),
        (PeerIncompatible::NoKxGroupsInCommon, "P-256"),
    ] {
        let error = io::Error::new(io::ErrorKind::InvalidData, Error::PeerIncompatible(why));
        let (reason, detail) = reason::of_error(&error, None);
        assert_eq!(reason, Refusal::TlsFailed);
        assert!(detail.contains(words), "{detail}");
    }
}
