//! The accept loop, with many peers at once.

use super::*;
use crate::tasks::{Stage, Tasks};

/// A listener that runs, and serves each peer by telling it who it is and echoing what it says.
pub(super) struct Running {
    pub(super) gateway: Gateway,
    pub(super) address: SocketAddr,
    pub(super) refusals: Refusals,
    tasks: Tasks,
}

impl Running {
    pub(super) fn start(gateway: Gateway, settings: &config::Listener) -> Self {
        Self::start_with(gateway, settings, &config::Limits::default(), Way::Tls(ClientAuth::Required))
    }

    pub(super) fn start_with(
        gateway: Gateway,
        settings: &config::Listener,
        limits: &config::Limits,
        way: Way,
    ) -> Self {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), way).unwrap();
        let address = listener.local_addr().unwrap();
        let (tasks, refusals) = (Tasks::default(), Refusals::default());
        let name = gateway.certificate_name;
        let entrance = Entrance::new(settings, limits, gateway.tls.clone(), name, refusals.clone());
        let at_the_door = tasks.spawner(Stage::Listener);
        let cancel = at_the_door.cancelled().clone();
        let run = listener.run(entrance, echo, tasks.spawner(Stage::Sessions), cancel);
        at_the_door.essential("listener", run);
        Self { gateway, address, refusals, tasks }
    }

    async fn device(&self, name: &str) -> Client {
        let config = self.gateway.client(Some(self.gateway.device(name)));
        let mut client = soon(connect(self.address, config)).await.unwrap();
        assert_eq!(said(&mut client).await, name);
        client
    }

    pub(super) async fn refused(&self, reason: Refusal, times: u64) {
        soon(async {
            while self.refusals.counts()[reason.as_str()] < times {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

async fn echo(mut stream: Channel, peer: Peer, cancel: CancellationToken) {
    let mut buffer = [0; 64];
    let name = peer.certificate.map_or_else(|| "nobody".to_owned(), |(device, _)| device.to_string());
    let mut text = name.into_bytes();
    loop {
        text.push(b'\n');
        if stream.write_all(&text).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        let count = tokio::select! {
            () = cancel.cancelled() => return,
            count = stream.read(&mut buffer) => count.unwrap_or(0),
        };
        if count == 0 {
            return;
        }
        text = buffer[..count].to_vec();
    }
}

pub(super) async fn said(client: &mut Client) -> String {
    let mut text = String::new();
    while !text.ends_with('\n') {
        let mut byte = [0];
        soon(client.read_exact(&mut byte)).await.unwrap();
        text.push(char::from(byte[0]));
    }
    text.trim_end().to_owned()
}

pub(super) async fn answers(client: &mut Client) {
    client.write_all(b"still here?").await.unwrap();
    assert_eq!(said(client).await, "still here?");
}

pub(super) async fn ends(mut stream: impl tokio::io::AsyncRead + Unpin) {
    let end = soon(stream.read(&mut [0; 16])).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test]
async fn a_device_is_called_by_the_alternative_name_where_that_is_what_counts() {
    let mut gateway = Gateway::new();
    gateway.certificate_name = CertificateName::AlternativeName;
    let running = Running::start(gateway, &config::Listener::default());
    let mut named = params("serial 4711");
    named.subject_alt_names = vec![rcgen::SanType::URI("urn:device:pump".try_into().unwrap())];
    let credentials = sign(&running.gateway.ca, &named);
    let mut client = connect(running.address, running.gateway.client(Some(credentials))).await.unwrap();
    assert_eq!(said(&mut client).await, "pump");
    // Of a device that has a common name alone nobody knows who it is.
    let nameless = running.gateway.client(Some(running.gateway.device("pump")));
    if let Ok(client) = connect(running.address, nameless).await {
        ends(client).await;
    }
    running.refused(Refusal::DeviceNameInvalid, 1).await;
}

#[tokio::test]
async fn silent_connections_keep_nobody_from_connecting() {
    let settings = config::Listener { max_handshakes: 2, ..config::Listener::default() };
    let running = Running::start(Gateway::new(), &settings);
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(running.address).await.unwrap());
    }
    answers(&mut running.device("pump").await).await;
}

/// A connection from 127.0.0.2.
async fn from_elsewhere(address: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    socket.connect(address).await.unwrap()
}

/// Peers at 127.0.0.2 that say something, and then no more.
async fn stuck(address: SocketAddr, bytes: &[u8]) -> Vec<TcpStream> {
    let mut stuck = Vec::new();
    for _ in 0..20 {
        let mut stream = from_elsewhere(address).await;
        stream.write_all(bytes).await.unwrap();
        stuck.push(stream);
    }
    stuck
}

#[tokio::test]
async fn handshakes_that_get_stuck_keep_nobody_else_from_connecting() {
    let never = Duration::from_secs(86_400);
    let settings =
        config::Listener { max_handshakes: 4, handshake_timeout: never, ..config::Listener::default() };
    let running = Running::start(Gateway::new(), &settings);
    let half = stuck(running.address, &door::BEGINNING[..3]).await;
    let whole = stuck(running.address, door::BEGINNING).await;
    answers(&mut running.device("pump").await).await;
    drop((half, whole));
}

#[tokio::test]
async fn a_stuck_handshake_gives_its_turn_up_before_its_deadline_when_none_is_left() {
    let handshake_timeout = 3 * PATIENCE / 10;
    let settings = config::Listener { max_handshakes: 1, handshake_timeout, ..config::Listener::default() };
    let running = Running::start(Gateway::new(), &settings);
    let begin = Instant::now();
    let mut first = TcpStream::connect(running.address).await.unwrap();
    first.write_all(door::BEGINNING).await.unwrap();
    ends(first).await;
    assert!(begin.elapsed() < handshake_timeout, "{:?}", begin.elapsed());
    running.refused(Refusal::HandshakeTimeout, 1).await;
}

#[tokio::test]
async fn who_has_given_up_takes_no_turn_from_those_who_wait() {
    let limits = config::Limits { handshakes_per_second: 1, handshake_burst: 1, ..config::Limits::default() };
    let settings = config::Listener::default();
    let way = Way::Tls(ClientAuth::Required);
    let running = Running::start_with(Gateway::new(), &settings, &limits, way);
    running.device("first").await;
    for _ in 0..20 {
        let mut impatient = TcpStream::connect(running.address).await.unwrap();
        impatient.write_all(door::BEGINNING).await.unwrap();
    }
    // With 20 turns before it, it would not have its own in time.
    let begin = Instant::now();
    running.device("second").await;
    assert!(begin.elapsed() < settings.handshake_timeout, "{:?}", begin.elapsed());
    running.refused(Refusal::TooManyHandshakes, 15).await;
}

#[tokio::test]
async fn peers_that_are_refused_disturb_nobody() {
    let running = Running::start(Gateway::new(), &config::Listener::default());
    let mut before = running.device("before").await;
    let other_ca = sign(&ca("Other"), &params("pump"));
    for _ in 0..3 {
        let mut plain = TcpStream::connect(running.address).await.unwrap();
        plain.write_all(b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0").await.unwrap();
        ends(plain).await;
        let credentials = (other_ca.0.clone(), other_ca.1.clone_key());
        for credentials in [None, Some(credentials)] {
            if let Ok(client) = connect(running.address, running.gateway.client(credentials)).await {
                ends(client).await;
            }
        }
    }
    running.refused(Refusal::NotTls, 3).await;
    running.refused(Refusal::CertificateMissing, 3).await;
    running.refused(Refusal::CertificateUnknownIssuer, 3).await;
    answers(&mut before).await;
    answers(&mut running.device("after").await).await;
}

#[tokio::test]
async fn connections_are_capped_and_a_place_is_given_back() {
    let settings = config::Listener { max_connections: 2, ..config::Listener::default() };
    let running = Running::start(Gateway::new(), &settings);
    let mut first = running.device("first").await;
    let second = running.device("second").await;
    ends(TcpStream::connect(running.address).await.unwrap()).await;
    running.refused(Refusal::TooManyConnections, 1).await;
    answers(&mut first).await;
    drop(second);
    soon(async {
        loop {
            let config = running.gateway.client(Some(running.gateway.device("third")));
            if connect(running.address, config).await.is_ok() {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn one_address_does_not_take_the_places_of_all() {
    let settings = config::Listener { max_connections_per_address: 2, ..config::Listener::default() };
    let running = Running::start(Gateway::new(), &settings);
    let elsewhere = [from_elsewhere(running.address).await, from_elsewhere(running.address).await];
    ends(from_elsewhere(running.address).await).await;
    running.refused(Refusal::TooManyConnectionsOfAddress, 1).await;
    answers(&mut running.device("pump").await).await;

    drop(elsewhere);
    soon(async {
        let config = running.gateway.client(Some(running.gateway.device("fan")));
        let connector = TlsConnector::from(Arc::new(config));
        while connector.connect(localhost(), from_elsewhere(running.address).await).await.is_err() {}
    })
    .await;
}

#[tokio::test]
async fn one_certificate_does_not_take_the_places_of_all() {
    let settings = config::Listener { max_connections_per_device: 1, ..config::Listener::default() };
    let running = Running::start(Gateway::new(), &settings);
    let mut first = running.device("pump").await;
    let config = running.gateway.client(Some(running.gateway.device("pump")));
    if let Ok(second) = soon(connect(running.address, config)).await {
        ends(second).await;
    }
    running.refused(Refusal::TooManyConnectionsOfDevice, 1).await;
    answers(&mut first).await;
    answers(&mut running.device("fan").await).await;
}

#[test]
fn a_key_is_remembered_only_while_it_has_a_place() {
    let shares = share::Shares::new(2);
    let (first, second) = (shares.try_take("a").unwrap(), shares.try_take("a").unwrap());
    assert!(shares.try_take("a").is_none());
    assert!(shares.try_take("b").is_some());
    assert_eq!(shares.keys(), ["a"]);
    drop(first);
    assert!(shares.try_take("a").is_some());
    drop(second);
    assert!(shares.keys().is_empty());
}

#[test]
fn the_addresses_of_one_ipv6_host_are_one() {
    for (address, expected) in [
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
    ] {
        let address: IpAddr = address.parse().unwrap();
        assert_eq!(origin(address).to_string(), expected);
    }
}

#[tokio::test]
async fn a_renewal_reaches_new_connections_and_leaves_open_ones_alone() {
    let running = Running::start(Gateway::new(), &config::Listener::default());
    let serial = |client: &Client| {
        let chain = client.get_ref().1.peer_certificates().unwrap();
        crate::pki::CertificateInfo::of(&chain[0]).unwrap().serial
    };
    let mut old = running.device("old").await;
    let settings =
        config::Pki { names: vec!["new.example.org".to_owned()], ..running.gateway.settings.clone() };
    running.gateway.tls.reload(&settings).unwrap();
    let new = running.device("new").await;
    assert_ne!(serial(&old), serial(&new));
    answers(&mut old).await;
}

#[tokio::test]
async fn a_device_that_comes_back_resumes_its_session_under_the_same_name() {
    let running = Running::start(Gateway::new(), &config::Listener::default());
    for version in [TLS12, TLS13] {
        let root = running.gateway.ca.der().clone();
        let config = client(root, Some(running.gateway.device("pump")), &[version]);
        for expected in [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed] {
            let mut client = soon(connect(running.address, config.clone())).await.unwrap();
            assert_eq!(said(&mut client).await, "pump");
            assert_eq!(client.get_ref().1.handshake_kind(), Some(expected), "{version:?}");
        }
    }
}

#[tokio::test]
async fn at_the_end_the_door_closes_first_and_then_the_connections() {
    let mut running = Running::start(Gateway::new(), &config::Listener::default());
    let client = running.device("pump").await;
    let silent = TcpStream::connect(running.address).await.unwrap();
    assert_eq!(running.tasks.drain(PATIENCE).await, []);
    ends(client).await;
    ends(silent).await;
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[test]
fn connections_leave_files_for_the_rest_of_the_program() {
    for (connections, files, allowed) in [
        (10_000, 524_288, 10_000),
        (10_000, 10_256, 10_000),
        (10_000, 1_024, 768),
        (100, 60, 30),
        (5, u64::MAX, 5),
    ] {
        assert_eq!(room_for(connections, files), allowed, "{connections} connections, {files} files");
    }
}
