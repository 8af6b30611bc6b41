//! TLS over a TCP socket, for thousands of connections that are idle most of the time.
//!
//! rustls' state machine is driven here over buffers of our own. `tokio-rustls` keeps 4 KB for each connection
//! to read into, which is nearly half of what an idle one costs. Here bytes are received into space on the stack
//! and decrypted there; a buffer is made only for half a record, for plaintext that the reader has no room for,
//! and for bytes that the socket does not take, and is freed when it is empty.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use rustls::pki_types::CertificateDer;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{Error, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes that are received at once, and plaintext that is encrypted at once: a full TLS record.
const CHUNK: usize = 16 * 1024;
/// Encrypted bytes that wait for the socket before more is taken.
const MAX_OUTGOING: usize = 16 * 1024;
/// Half a record, or a handshake message of several: as much as rustls itself would hold.
const MAX_INCOMING: usize = 64 * 1024;

/// A connection after its handshake. The end of the socket without TLS' own goodbye is an end like any other:
/// MQTT frames its packets itself, and few devices say goodbye.
pub struct Stream {
    socket: TcpStream,
    /// Received, and not whole yet.
    incoming: BytesMut,
    session: Session,
}

struct Session {
    tls: UnbufferedServerConnection,
    /// Decrypted, and not read yet.
    plain: BytesMut,
    /// Encrypted, and not sent yet.
    outgoing: BytesMut,
    closed_by_peer: bool,
    closed_by_us: bool,
    failed: Option<Error>,
}

/// What to do once TLS lets something be sent.
enum Send<'a> {
    Data(&'a [u8]),
    Goodbye,
}

impl Stream {
    /// Makes the handshake.
    ///
    /// # Errors
    /// With a [`rustls::Error`] inside if TLS failed, else what the socket said.
    pub(super) async fn accept(socket: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let session = Session {
            tls: UnbufferedServerConnection::new(config).map_err(io::Error::other)?,
            plain: BytesMut::new(),
            outgoing: BytesMut::new(),
            closed_by_peer: false,
            closed_by_us: false,
            failed: None,
        };
        let mut stream = Self { socket, incoming: BytesMut::new(), session };
        poll_fn(|cx| stream.poll_handshake(cx)).await?;
        Ok(stream)
    }

    /// The certificates that the peer showed, its own first.
    pub(super) fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        self.session.tls.peer_certificates().unwrap_or_default()
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let sent = ready!(self.poll_send(cx));
            // It is what the peer did wrong that matters, not that it does not listen to the alert.
            self.session.check()?;
            sent?;
            if !self.session.tls.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            let more = ready!(self.poll_receive(cx, &mut ReadBuf::new(&mut [])))?;
            if !more || self.session.closed_by_peer {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Receives some bytes, and puts what they say into `into`. `false` at the end of the socket.
    fn poll_receive(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        let mut space = [MaybeUninit::uninit(); CHUNK];
        let mut space = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut space))?;
        let bytes = space.filled_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(false));
        }
        if self.incoming.is_empty() {
            let consumed = self.session.advance(bytes, into, &mut None);
            self.incoming.extend_from_slice(&bytes[consumed..]);
        } else {
            self.incoming.extend_from_slice(bytes);
            self.advance(into, &mut None);
        }
        if self.incoming.len() > MAX_INCOMING {
            self.session.failed.get_or_insert(Error::PeerSentOversizedRecord);
        }
        // An alert, a ticket, the answer to a key update. What the socket does not take goes with the next write.
        match self.poll_send(cx) {
            Poll::Ready(Err(error)) if self.session.failed.is_none() => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(true)),
        }
    }

    fn advance(&mut self, into: &mut ReadBuf<'_>, send: &mut Option<Send<'_>>) {
        let consumed = self.session.advance(&mut self.incoming, into, send);
        self.incoming.advance(consumed);
        free_if_empty(&mut self.incoming);
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outgoing = &mut self.session.outgoing;
        while !outgoing.is_empty() {
            let count = ready!(Pin::new(&mut self.socket).poll_write(cx, outgoing))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            outgoing.advance(count);
        }
        free_if_empty(outgoing);
        Poll::Ready(Ok(()))
    }
}

impl Session {
    /// Runs the state machine over `bytes` until it needs more of them, and returns how many it is done with.
    /// `send` is taken when it could be sent. After an error nothing is looked at any more.
    fn advance(&mut self, bytes: &mut [u8], into: &mut ReadBuf<'_>, send: &mut Option<Send<'_>>) -> usize {
        if self.failed.is_some() {
            return 0;
        }
        let mut consumed = 0;
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.tls.process_tls_records(&mut bytes[consumed..]);
            let mut is_done = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut records)) => {
                    while let Some(Ok(record)) = records.next_record() {
                        discard += record.discard;
                        give(record.payload, into, &mut self.plain);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    append(&mut self.outgoing, |space| {
                        message.encode(space).map_err(|error| match error {
                            EncodeError::InsufficientSize(needed) => Some(needed.required_size),
                            EncodeError::AlreadyEncoded => None,
                        })
                    });
                }
                Ok(ConnectionState::TransmitTlsData(message)) => message.done(),
                Ok(ConnectionState::PeerClosed) => self.closed_by_peer = true,
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    is_done = true;
                    if let Some(send) = send.take() {
                        let is_encrypted = append(&mut self.outgoing, |space| {
                            let written = match send {
                                Send::Data(data) => traffic.encrypt(data, space),
                                Send::Goodbye => traffic.queue_close_notify(space),
                            };
                            written.map_err(|error| match error {
                                EncryptError::InsufficientSize(needed) => Some(needed.required_size),
                                EncryptError::EncryptExhausted => None,
                            })
                        });
                        if !is_encrypted {
                            self.failed = Some(Error::EncryptError);
                        }
                    }
                }
                // Closed, or more bytes are needed.
                Ok(_) => is_done = true,
                Err(error) => self.failed = Some(error),
            }
            consumed += discard;
            // After an error there may be an alert to send.
            if is_done || (self.failed.is_some() && !self.tls.wants_write()) {
                return consumed;
            }
        }
    }

    fn check(&self) -> io::Result<()> {
        match &self.failed {
            Some(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error.clone())),
            None => Ok(()),
        }
    }
}

/// Gives as much as there is room for, and keeps the rest.
fn give(payload: &[u8], into: &mut ReadBuf<'_>, rest: &mut BytesMut) {
    let (now, later) =
        payload.split_at(if rest.is_empty() { payload.len().min(into.remaining()) } else { 0 });
    into.put_slice(now);
    rest.extend_from_slice(later);
}

/// Appends what `write` writes, which says first how much space it needs; `false` if it cannot.
fn append(to: &mut BytesMut, mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>) -> bool {
    let start = to.len();
    let written = write(&mut []).or_else(|needed| {
        to.resize(start + needed.ok_or(None::<usize>)?, 0);
        write(&mut to[start..])
    });
    to.truncate(start + written.unwrap_or(0));
    written.is_ok()
}

fn free_if_empty(buffer: &mut BytesMut) {
    if buffer.is_empty() {
        *buffer = BytesMut::new();
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = into.filled().len();
        let plain = &mut this.session.plain;
        let count = plain.len().min(into.remaining());
        into.put_slice(&plain[..count]);
        plain.advance(count);
        free_if_empty(plain);
        while into.filled().len() == before {
            this.session.check()?;
            if this.session.closed_by_peer || !ready!(this.poll_receive(cx, into))? {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.session.check()?;
        if this.session.outgoing.len() >= MAX_OUTGOING {
            ready!(this.poll_send(cx))?;
        }
        let part = &data[..data.len().min(CHUNK)];
        let mut send = Some(Send::Data(part));
        this.advance(&mut ReadBuf::new(&mut []), &mut send);
        this.session.check()?;
        match send {
            None => Poll::Ready(Ok(part.len())),
            Some(_) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.session.closed_by_us, true) {
            this.advance(&mut ReadBuf::new(&mut []), &mut Some(Send::Goodbye));
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
impl Stream {
    /// Bytes that it keeps in memory besides itself and TLS' state.
    pub(super) fn buffered(&self) -> usize {
        self.incoming.capacity() + self.session.plain.capacity() + self.session.outgoing.capacity()
    }
}
