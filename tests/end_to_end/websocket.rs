//! MQTT over WebSocket over TLS, with the frames of another crate's client.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocket};

use super::plain::address;
use crate::harness::mqtt::{Device, without_certificate};
use crate::harness::{Gateway, PATIENCE};

const SETTINGS: &str = "[websocket]\naddress = \"127.0.0.1:0\"\nclient_auth = \"optional\"\n\
                        [[acl]]\ndevice = \"panel\"\nsubscribe = [\"#\"]\n";

type Tls = StreamOwned<ClientConnection, TcpStream>;

fn connect(gateway: &Gateway, tls: &Arc<ClientConfig>) -> Tls {
    let stream = TcpStream::connect(address(gateway, "websocket")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::clone(tls), name).unwrap(), stream)
}

/// The answer, until the end of its headers.
fn asked(stream: &mut Tls, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !answer.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
        answer.push(byte[0]);
    }
    String::from_utf8(answer).unwrap()
}

fn upgrade(gateway: &Gateway, tls: &Arc<ClientConfig>) -> WebSocket<Tls> {
    let mut stream = connect(gateway, tls);
    let answer = asked(
        &mut stream,
        "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    WebSocket::from_raw_socket(stream, Role::Client, None)
}

/// Bytes of MQTT, until there are so many.
fn receive(socket: &mut WebSocket<Tls>, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        match socket.read().unwrap() {
            Message::Binary(more) => bytes.extend_from_slice(&more),
            other => panic!("{other:?}"),
        }
    }
    bytes
}

const CONNECT: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01w";
const PUBLISH: &[u8] = b"\x32\x18\0\x0dpump/readings\0\x01{\"t\":1}";

#[test]
fn a_device_over_websocket_publishes_a_reading_that_a_subscriber_over_tls_gets() {
    let gateway = Gateway::start(SETTINGS);
    let pump = gateway.home.device("pump");
    let mut panel = Device::connect(gateway.address, &gateway.home.device("panel"), "panel");
    panel.subscribe(&[("pump/#", rumqttc::QoS::AtMostOnce)]);
    let mut socket = upgrade(&gateway, &pump.tls());
    // A packet in pieces, and two in one frame.
    for piece in CONNECT.chunks(5) {
        socket.send(Message::binary(piece.to_vec())).unwrap();
    }
    assert_eq!(receive(&mut socket, 4), [0x20, 2, 0, 0]);
    socket.send(Message::binary([PUBLISH, b"\xc0\0"].concat())).unwrap();
    let answers = receive(&mut socket, 6);
    assert!(answers == [0x40, 2, 0, 1, 0xd0, 0] || answers == [0xd0, 0, 0x40, 2, 0, 1], "{answers:?}");
    assert_eq!(panel.receive().payload, "{\"t\":1}");
    gateway.wait_for_status("the reading is stored", |s| (s["buffer"]["accepted"] == 1).then_some(()));
    socket.send(Message::Ping("?".into())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Pong("?".into()));
}

#[test]
fn who_comes_by_mistake_is_told_what_is_here() {
    let gateway = Gateway::start(SETTINGS);
    let tls = without_certificate(&gateway.home.device("pump").ca);
    let mut browser = connect(&gateway, &tls);
    let answer = asked(&mut browser, "GET /mqtt HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
    gateway.wait_for_refusal("websocket_refused");
    let mut talker = upgrade(&gateway, &tls);
    talker.send(Message::text("hello")).unwrap();
    let Message::Close(Some(goodbye)) = talker.read().unwrap() else { panic!("no goodbye") };
    assert_eq!(u16::from(goodbye.code), 1003);
    // Without a certificate, a password or a name for such there is no way in.
    let mut nobody = upgrade(&gateway, &tls);
    nobody.send(Message::binary(CONNECT.to_vec())).unwrap();
    assert_ne!(receive(&mut nobody, 4)[3], 0);
    // And plain TCP is none of it.
    let mut plain = TcpStream::connect(address(&gateway, "websocket")).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain.write_all(b"GET /mqtt HTTP/1.1\r\n\r\n").unwrap();
    let end = plain.read(&mut [0; 16]);
    assert!(matches!(&end, Ok(0)) || end.is_err_and(|e| e.kind() != ErrorKind::WouldBlock));
    gateway.wait_for_refusal("not_tls");
}
