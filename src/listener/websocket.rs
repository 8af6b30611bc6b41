//! MQTT over WebSocket (RFC 6455; MQTT 3.1.1 and 5, chapter 6): the upgrade, and a stream of the bytes in its frames.
//!
//! Packets need not keep to frames: a frame may hold several, or a part of one (MQTT-6.0.0-2).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Sink, Stream as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

/// The upgrade request with all its headers; a browser with many cookies sends 4 KB.
const MAX_REQUEST_BYTES: usize = 8 * 1024;
/// What is written at once goes into one frame, up to this.
const MAX_FRAME_BYTES: usize = 16 * 1024;
/// A frame may hold more than one packet.
const FRAME_BEYOND_PACKET_BYTES: usize = 64 * 1024;
/// Kept by each connection, idle or not.
const READ_BUFFER_BYTES: usize = 2 * 1024;
const MAX_HEADERS: usize = 64;
const SUBPROTOCOL: &str = "mqtt";

/// The bytes of MQTT in binary frames over `S`.
pub struct WebSocket<S> {
    frames: WebSocketStream<S>,
    /// Of the last frame, not read yet.
    rest: Bytes,
    has_said_goodbye: bool,
}

/// Why a connection was not upgraded.
pub(super) enum NoUpgrade {
    /// It went away, or TLS failed.
    Gone(io::Error),
    /// It asked for something else, in words for whoever has to mend it.
    Refused(String),
}

/// What an HTTP client is told.
struct Answer {
    status: &'static str,
    headers: &'static str,
    text: String,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Reads the upgrade request and answers it.
    ///
    /// # Errors
    /// When it was no upgrade to MQTT at `path`; the client was told.
    pub(super) async fn accept(
        mut stream: S,
        path: &str,
        max_packet_bytes: usize,
    ) -> Result<Self, NoUpgrade> {
        let mut received = BytesMut::new();
        let answer = read_request(&mut stream, &mut received, path).await.map_err(NoUpgrade::Gone)?;
        let (response, refused) = match answer {
            Ok(response) => (response.into_bytes(), None),
            Err(answer) => (answer.to_bytes(), Some(answer.text)),
        };
        let told = async {
            stream.write_all(&response).await?;
            stream.flush().await?;
            if refused.is_some() { stream.shutdown().await } else { Ok(()) }
        };
        let told = told.await;
        if let Some(refused) = refused {
            return Err(NoUpgrade::Refused(refused));
        }
        told.map_err(NoUpgrade::Gone)?;
        let max_bytes = max_packet_bytes + FRAME_BEYOND_PACKET_BYTES;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(4 * MAX_FRAME_BYTES)
            .max_message_size(Some(max_bytes))
            .max_frame_size(Some(max_bytes));
        let frames =
            WebSocketStream::from_partially_read(stream, received.into(), Role::Server, Some(config)).await;
        Ok(Self { frames, rest: Bytes::new(), has_said_goodbye: false })
    }

    /// Tells the peer that it goes no further like this; whether it hears that does not matter.
    fn refuse(&mut self, cx: &mut Context<'_>, code: CloseCode, why: &'static str) -> io::Error {
        if !std::mem::replace(&mut self.has_said_goodbye, true) {
            let goodbye = Message::Close(Some(CloseFrame { code, reason: why.into() }));
            if Pin::new(&mut self.frames).start_send(goodbye).is_ok() {
                let _is_sent = Pin::new(&mut self.frames).poll_flush(cx);
            }
        }
        io::Error::new(io::ErrorKind::InvalidData, why)
    }
}

/// Reads the request; what follows it is left in `received`. Returns the response that upgrades, or what is said
/// instead.
async fn read_request(
    stream: &mut (impl AsyncRead + Unpin),
    received: &mut BytesMut,
    path: &str,
) -> io::Result<Result<String, Answer>> {
    loop {
        if stream.read_buf(received).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(received) {
            Ok(httparse::Status::Complete(length)) => {
                let answer = upgrade(&request, path);
                received.advance(length);
                return Ok(answer);
            }
            Ok(httparse::Status::Partial) if received.len() < MAX_REQUEST_BYTES => {}
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                let text =
                    format!("the request has more than {MAX_REQUEST_BYTES} bytes or {MAX_HEADERS} headers");
                return Ok(Err(Answer { status: "431 Request Header Fields Too Large", headers: "", text }));
            }
            Err(error) => return Ok(Err(bad(format!("this is no HTTP request: {error}")))),
        }
    }
}

/// The response that upgrades (RFC 6455, 4.2), or what is said instead.
fn upgrade(request: &httparse::Request<'_, '_>, path: &str) -> Result<String, Answer> {
    let has = |name, token| has_token(request, name, token);
    let target = request.path.unwrap_or_default();
    if target.split('?').next() != Some(path) {
        let text = format!("MQTT over WebSocket is at {path} of this port");
        return Err(Answer { status: "404 Not Found", headers: "", text });
    }
    if request.method != Some("GET") || !has("Connection", "upgrade") || !has("Upgrade", "websocket") {
        let text = format!("this is MQTT over WebSocket, not a web site: connect to wss://HOST:PORT{path}");
        return Err(Answer { status: "426 Upgrade Required", headers: "Upgrade: websocket\r\n", text });
    }
    if !has("Sec-WebSocket-Version", "13") {
        let text = "the version of WebSocket must be 13 (RFC 6455)".to_owned();
        let headers = "Sec-WebSocket-Version: 13\r\n";
        return Err(Answer { status: "426 Upgrade Required", headers, text });
    }
    // MQTT-6.0.0-3.
    if !has("Sec-WebSocket-Protocol", SUBPROTOCOL) {
        let text = "the client has to offer the subprotocol \"mqtt\" (Sec-WebSocket-Protocol: mqtt)";
        return Err(bad(text.to_owned()));
    }
    let key = values(request, "Sec-WebSocket-Key").next().unwrap_or_default();
    if BASE64_STANDARD.decode(key).map(|nonce| nonce.len()) != Ok(16) {
        return Err(bad("Sec-WebSocket-Key has to be 16 bytes in Base64".to_owned()));
    }
    // MQTT-6.0.0-4.
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n",
        accept_key(key)
    ))
}

/// What shows that it is a WebSocket server which has answered (RFC 6455, 1.3).
fn accept_key(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

fn values<'r>(request: &'r httparse::Request<'_, '_>, name: &'r str) -> impl Iterator<Item = &'r str> {
    let named = request.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
    named.filter_map(|header| std::str::from_utf8(header.value).ok()).map(str::trim)
}

/// Whether a header, which is a list, has this word.
fn has_token(request: &httparse::Request<'_, '_>, name: &str, token: &str) -> bool {
    values(request, name)
        .flat_map(|value| value.split(','))
        .any(|word| word.trim().eq_ignore_ascii_case(token))
}

fn bad(text: String) -> Answer {
    Answer { status: "400 Bad Request", headers: "", text }
}

impl Answer {
    fn to_bytes(&self) -> Vec<u8> {
        let Self { status, headers, text } = self;
        format!(
            "HTTP/1.1 {status}\r\n{headers}Connection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {}\r\n\r\n{text}\n",
            text.len() + 1
        )
        .into_bytes()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.rest.is_empty() {
            match ready!(Pin::new(&mut this.frames).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => this.rest = bytes,
                // MQTT-6.0.0-1.
                Some(Ok(Message::Text(_))) => {
                    let why = "a text frame: MQTT comes in binary ones";
                    return Poll::Ready(Err(this.refuse(cx, CloseCode::Unsupported, why)));
                }
                // A ping is answered, and a goodbye returned, with the next look.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) => this.has_said_goodbye = true,
                None => return Poll::Ready(Ok(())),
                Some(Err(Error::Capacity(_))) => {
                    let why = "a frame that is larger than this gateway takes";
                    return Poll::Ready(Err(this.refuse(cx, CloseCode::Size, why)));
                }
                // Few clients say goodbye.
                Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(Error::Io(error))) => return Poll::Ready(Err(error)),
                Some(Err(_)) => {
                    let why = "a frame that breaks the WebSocket protocol";
                    return Poll::Ready(Err(this.refuse(cx, CloseCode::Protocol, why)));
                }
            }
        }
        let count = this.rest.len().min(into.remaining());
        into.put_slice(&this.rest[..count]);
        this.rest.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.frames).poll_ready(cx)).map_err(of_write)?;
        let part = &data[..data.len().min(MAX_FRAME_BYTES)];
        let frame = Message::Binary(Bytes::copy_from_slice(part));
        Pin::new(&mut this.frames).start_send(frame).map_err(of_write)?;
        Poll::Ready(Ok(part.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().frames).poll_flush(cx).map_err(of_write)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.has_said_goodbye {
            ready!(Pin::new(&mut this.frames).poll_ready(cx)).map_err(of_write)?;
            this.has_said_goodbye = true;
            let goodbye = CloseFrame { code: CloseCode::Normal, reason: "".into() };
            Pin::new(&mut this.frames).start_send(Message::Close(Some(goodbye))).map_err(of_write)?;
        }
        ready!(Pin::new(&mut this.frames).poll_flush(cx)).map_err(of_write)?;
        Pin::new(this.frames.get_mut()).poll_shutdown(cx)
    }
}

fn of_write(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::new(io::ErrorKind::BrokenPipe, other),
    }
}
