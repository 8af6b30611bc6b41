//! The TLS stream, against rustls' own client: every way in which bytes can be cut.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::*;

/// A client's socket that passes on a few bytes at a time.
struct Dribble {
    socket: TcpStream,
    bytes: usize,
}

impl AsyncRead for Dribble {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, into)
    }
}

impl AsyncWrite for Dribble {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let count = data.len().min(self.bytes);
        Pin::new(&mut self.socket).poll_write(cx, &data[..count])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// Both ends of a connection; the client's socket passes on `bytes` at a time.
async fn pair(
    version: &'static SupportedProtocolVersion,
    bytes: usize,
) -> (Stream, tokio_rustls::client::TlsStream<Dribble>) {
    let gateway = Gateway::new();
    let config = client(gateway.ca.der().clone(), Some(gateway.device("pump")), &[version]);
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let out = TcpStream::connect(socket.local_addr().unwrap()).await.unwrap();
    out.set_nodelay(true).unwrap();
    let (accepted, _) = socket.accept().await.unwrap();
    let connecting =
        TlsConnector::from(Arc::new(config)).connect(localhost(), Dribble { socket: out, bytes });
    let accepting = Stream::accept(accepted, gateway.tls.current(ClientAuth::Required).unwrap());
    let (server, client) = soon(async { tokio::join!(accepting, connecting) }).await;
    (server.unwrap(), client.unwrap())
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect()
}

#[tokio::test]
async fn what_is_sent_arrives_whole_in_both_directions_however_it_is_cut() {
    for version in [TLS12, TLS13] {
        for (bytes, total) in [(1, 3_000), (5, 10_000), (4_000, 1_000_000), (usize::MAX, 3_000_000)] {
            let (mut server, client) = pair(version, bytes).await;
            let sent = pattern(total);
            let (mut from_server, mut to_server) = tokio::io::split(client);
            let write = async {
                to_server.write_all(&sent).await.unwrap();
                to_server.flush().await.unwrap();
            };
            let echo = async {
                let mut buffer = vec![0; 10_000];
                let mut left = total;
                while left > 0 {
                    let count = server.read(&mut buffer).await.unwrap();
                    assert_ne!(count, 0, "{left} bytes are missing");
                    server.write_all(&buffer[..count]).await.unwrap();
                    server.flush().await.unwrap();
                    left -= count;
                }
            };
            let mut received = vec![0; total];
            soon(async { tokio::join!(write, echo, from_server.read_exact(&mut received)).2.unwrap() }).await;
            assert!(received == sent, "{version:?}, {bytes} bytes at a time");
        }
    }
}

#[tokio::test]
async fn an_idle_connection_keeps_no_buffer() {
    for version in [TLS12, TLS13] {
        let (mut server, mut client) = pair(version, usize::MAX).await;
        let sent = pattern(40_000);
        client.write_all(&sent).await.unwrap();
        client.flush().await.unwrap();
        let mut received = vec![0; sent.len()];
        soon(server.read_exact(&mut received)).await.unwrap();
        server.write_all(&received).await.unwrap();
        server.flush().await.unwrap();
        let nothing = futures_util::poll!(std::pin::pin!(server.read_u8()));
        assert!(nothing.is_pending());
        assert_eq!(server.buffered(), 0, "{version:?}");
    }
}

#[tokio::test]
async fn many_small_records_are_read_at_once() {
    let (mut server, mut client) = pair(TLS12, usize::MAX).await;
    for _ in 0..50 {
        client.write_all(b"publish").await.unwrap();
    }
    client.flush().await.unwrap();
    let mut buffer = [0; 16 * 1024];
    let mut text = Vec::new();
    while text.len() < 350 {
        let count = soon(server.read(&mut buffer)).await.unwrap();
        text.extend_from_slice(&buffer[..count]);
    }
    assert_eq!(text, b"publish".repeat(50));
}

#[tokio::test]
async fn a_reader_with_little_room_loses_nothing() {
    let (mut server, mut client) = pair(TLS13, usize::MAX).await;
    client.write_all(b"a whole record").await.unwrap();
    client.flush().await.unwrap();
    let mut text = Vec::new();
    for _ in 0..14 {
        text.push(soon(server.read_u8()).await.unwrap());
    }
    assert_eq!(text, b"a whole record");
}

#[tokio::test]
async fn keys_may_be_changed_in_the_middle() {
    let (mut server, mut client) = pair(TLS13, usize::MAX).await;
    for round in 0..3_u8 {
        client.get_mut().1.refresh_traffic_keys().unwrap();
        client.write_all(&[round]).await.unwrap();
        client.flush().await.unwrap();
        assert_eq!(soon(server.read_u8()).await.unwrap(), round);
        server.write_all(&[round]).await.unwrap();
        server.flush().await.unwrap();
        assert_eq!(soon(client.read_u8()).await.unwrap(), round);
    }
}

#[tokio::test]
async fn a_goodbye_is_an_end_and_so_is_a_closed_socket() {
    for says_goodbye in [true, false] {
        let (mut server, mut client) = pair(TLS13, usize::MAX).await;
        client.write_all(b"last").await.unwrap();
        client.flush().await.unwrap();
        if says_goodbye {
            client.shutdown().await.unwrap();
        } else {
            client.get_mut().0.shutdown().await.unwrap();
        }
        let mut text = Vec::new();
        soon(server.read_to_end(&mut text)).await.unwrap();
        assert_eq!(text, b"last");
        // The other direction is still open.
        server.write_all(b"bye").await.unwrap();
        server.shutdown().await.unwrap();
        text.clear();
        soon(client.read_to_end(&mut text)).await.unwrap();
        assert_eq!(text, b"bye", "and it was said goodbye to: else this were an error");
    }
}

#[tokio::test]
async fn a_changed_record_is_an_error_and_not_data() {
    let (mut server, mut client) = pair(TLS13, usize::MAX).await;
    // Straight to the socket: a record that no key has made.
    client.get_mut().0.write_all(b"\x17\x03\x03\x00\x20................................").await.unwrap();
    let error = soon(server.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(server.write_all(b"x").await.is_err(), "it stays so");
    let told = soon(client.read_u8()).await.unwrap_err();
    assert!(told.to_string().contains("BadRecordMac"), "{told}");
}

#[tokio::test]
async fn a_peer_that_does_not_read_stops_the_writer_and_not_its_memory() {
    let (mut server, _client) = pair(TLS12, usize::MAX).await;
    let chunk = pattern(10_000);
    let writing = async {
        loop {
            server.write_all(&chunk).await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_millis(200), writing).await.unwrap_err();
    assert!(server.buffered() < 100_000, "{} bytes", server.buffered());
}

/// rustls is fuzzed by its authors; this is about our handling of its buffers and errors.
#[tokio::test]
async fn a_damaged_hello_is_an_error_and_never_a_panic() {
    let gateway = Gateway::new();
    let config = Arc::new(gateway.client(None));
    let mut hello = Vec::new();
    rustls::ClientConnection::new(config, localhost()).unwrap().write_tls(&mut hello).unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for seed in 0..300_usize {
        let mut bytes = hello.clone();
        let (at, flip) = (seed * 7919 % bytes.len(), u8::try_from(1 + seed % 255).unwrap());
        bytes[at] ^= flip;
        if seed % 3 == 0 {
            bytes.truncate(at);
        }
        let mut out = TcpStream::connect(socket.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = socket.accept().await.unwrap();
        out.write_all(&bytes).await.unwrap();
        out.shutdown().await.unwrap();
        let accepting = Stream::accept(accepted, gateway.tls.current(ClientAuth::Required).unwrap());
        assert!(soon(accepting).await.is_err(), "byte {at}, flip {flip}");
    }
}
