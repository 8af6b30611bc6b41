//! The upgrade and the frames, over a pipe, with a client of the same crate; and the whole door.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use super::running::{Running, ends};
use super::*;
use crate::authorize::refusals::Refusal;
use crate::listener::websocket::NoUpgrade;

const MAX_PACKET: usize = 1_000;

/// The request of a browser, or almost: `change` is (what, by what).
fn request(change: Option<(&str, &str)>) -> String {
    let request = "GET /mqtt HTTP/1.1\r\nHost: gw:8884\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Protocol: mqttv3.1, mqtt\r\n\r\n";
    change.map_or_else(|| request.to_owned(), |(what, by)| request.replace(what, by))
}

/// What the gateway says to a request, until the end of its headers, or of the connection.
async fn asked(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !(answer.starts_with(b"HTTP/1.1 101") && answer.ends_with(b"\r\n\r\n")) {
        match soon(stream.read_u8()).await {
            Ok(byte) => answer.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(answer).unwrap()
}

/// Both ends, upgraded.
async fn pair() -> (WebSocket<DuplexStream>, WebSocketStream<DuplexStream>) {
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    let request = request(None);
    let (accepted, answer) =
        tokio::join!(WebSocket::accept(far, "/mqtt", MAX_PACKET), asked(&mut near, &request));
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    // RFC 6455, 1.3.
    assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
    assert!(answer.contains("Sec-WebSocket-Protocol: mqtt\r\n"), "MQTT-6.0.0-4: {answer}");
    let client = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
    (accepted.unwrap_or_else(|_| panic!("it was refused")), client)
}

#[tokio::test]
async fn who_asks_for_something_else_is_told_what_is_here() {
    for (change, status, words) in [
        (("Upgrade: websocket\r\n", ""), "426 Upgrade Required", "not a web site"),
        (("GET", "POST"), "426 Upgrade Required", "not a web site"),
        (("/mqtt", "/"), "404 Not Found", "is at /mqtt"),
        (("Version: 13", "Version: 8"), "426 Upgrade Required", "must be 13"),
        (("mqttv3.1, mqtt\r\n", "mqttv3.1, chat\r\n"), "400 Bad Request", "offer the subprotocol \"mqtt\""),
        (("dGhlIHNhbXBsZSBub25jZQ==", "short"), "400 Bad Request", "16 bytes"),
        (("GET /mqtt", "\0"), "400 Bad Request", "no HTTP"),
        (("Host: gw", &format!("Cookie: {}\r\nHost: gw", "x".repeat(9_000))), "431 ", "more than"),
    ] {
        let (mut near, far) = tokio::io::duplex(64 * 1024);
        let request = request(Some(change));
        let (accepted, answer) =
            tokio::join!(WebSocket::accept(far, "/mqtt", MAX_PACKET), asked(&mut near, &request));
        let Err(NoUpgrade::Refused(detail)) = accepted else { panic!("{change:?}") };
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.contains(words) && detail.contains(words), "{answer} / {detail}");
    }
}

#[tokio::test]
async fn bytes_arrive_whole_however_frames_cut_them() {
    let (mut server, mut client) = pair().await;
    for cut in [1, 7, 999] {
        let sent: Vec<u8> = (0..3_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let write = async {
            for part in sent.chunks(cut) {
                client.send(Message::binary(part.to_vec())).await.unwrap();
            }
            let mut back = Vec::new();
            while back.len() < sent.len() {
                match soon(client.next()).await.unwrap().unwrap() {
                    Message::Binary(bytes) => back.extend_from_slice(&bytes),
                    other => panic!("{other:?}"),
                }
            }
            back
        };
        let echo = async {
            let mut received = vec![0; sent.len()];
            soon(server.read_exact(&mut received)).await.unwrap();
            server.write_all(&received).await.unwrap();
            server.flush().await.unwrap();
        };
        let (back, ()) = tokio::join!(write, echo);
        assert!(back == sent, "{cut}");
    }
}

#[tokio::test]
async fn a_ping_is_answered_and_a_goodbye_returned() {
    let (mut server, mut client) = pair().await;
    client.send(Message::Ping("are you there?".into())).await.unwrap();
    client.send(Message::binary(b"x".to_vec())).await.unwrap();
    assert_eq!(soon(server.read_u8()).await.unwrap(), b'x');
    assert_eq!(soon(client.next()).await.unwrap().unwrap(), Message::Pong("are you there?".into()));
    client.close(None).await.unwrap();
    assert_eq!(soon(server.read(&mut [0; 8])).await.unwrap(), 0, "an end like any other");
    assert!(matches!(soon(client.next()).await, Some(Ok(Message::Close(_)))));
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_end_of_ours_says_goodbye() {
    let (mut server, mut client) = pair().await;
    server.write_all(b"last").await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(soon(client.next()).await.unwrap().unwrap(), Message::binary(b"last".to_vec()));
    let Some(Ok(Message::Close(Some(goodbye)))) = soon(client.next()).await else { panic!("no goodbye") };
    assert_eq!(u16::from(goodbye.code), 1000);
}

#[tokio::test]
async fn what_is_no_mqtt_is_closed_with_the_code_that_says_why() {
    for (message, code) in
        [(Message::text("CONNECT"), 1003), (Message::binary(vec![0; MAX_PACKET + 65 * 1024]), 1009)]
    {
        let (mut server, client) = pair().await;
        let (mut to, mut from) = client.split();
        let sending = async { to.send(message).await };
        let reading = async { soon(server.read(&mut [0; 64])).await };
        let told = async { soon(from.next()).await };
        // The client cannot send all of it: the gateway reads no further.
        let (error, told) = tokio::select! {
            both = async { tokio::join!(reading, told) } => both,
            both = async { sending.await.ok(); std::future::pending::<()>().await; unreachable!() } => both,
        };
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::InvalidData, "{code}");
        let Some(Ok(Message::Close(Some(goodbye)))) = told else { panic!("{code}: {told:?}") };
        assert_eq!(u16::from(goodbye.code), code);
    }
}

#[tokio::test]
async fn a_peer_that_breaks_the_frames_ends_its_connection() {
    // A frame without a mask (RFC 6455, 5.1), one with a reserved bit, one of an unknown kind.
    for bytes in [&b"\x82\x01x"[..], b"\xf2\x81\0\0\0\0x", b"\x83\x81\0\0\0\0x"] {
        let (mut server, client) = pair().await;
        let mut raw = client.into_inner();
        raw.write_all(bytes).await.unwrap();
        let error = soon(server.read(&mut [0; 8])).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes:?}");
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_stops_the_writer_and_not_its_memory() {
    let (mut server, _client) = pair().await;
    let writing = async {
        loop {
            server.write_all(&[0; 10_000]).await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_millis(200), writing).await.unwrap_err();
}

#[tokio::test]
async fn through_the_whole_door_a_device_is_who_its_certificate_says() {
    let way = Way::WebSocket(ClientAuth::Optional, "/mqtt".into());
    let settings =
        config::Listener { handshake_timeout: Duration::from_secs(1), ..config::Listener::default() };
    let running = Running::start_with(Gateway::new(), &settings, &config::Limits::default(), way);
    for (credentials, expected) in [(Some(running.gateway.device("pump")), "pump\n"), (None, "nobody\n")] {
        let mut client = connect(running.address, running.gateway.client(credentials)).await.unwrap();
        let answer = asked(&mut client, &request(None)).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        assert_eq!(
            soon(client.next()).await.unwrap().unwrap(),
            Message::binary(expected.as_bytes().to_vec())
        );
    }
    let mut browser = connect(running.address, running.gateway.client(None)).await.unwrap();
    let answer = asked(&mut browser, "GET / HTTP/1.1\r\nHost: gw\r\n\r\n").await;
    assert!(answer.contains("404 Not Found") && answer.contains("/mqtt"), "{answer}");
    running.refused(Refusal::WebSocketRefused, 1).await;
    let silent = connect(running.address, running.gateway.client(None)).await.unwrap();
    ends(silent).await;
    running.refused(Refusal::WebSocketRefused, 2).await;
}
