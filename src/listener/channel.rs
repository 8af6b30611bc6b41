//! What a session talks over, however its client came in.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::{Stream, WebSocket};

/// Bytes of MQTT in both directions.
pub enum Channel {
    /// Over TLS.
    Tls(Box<Stream>),
    /// Over WebSocket over TLS.
    WebSocket(Box<WebSocket<Stream>>),
    /// Over TCP alone.
    Plain(TcpStream),
}

macro_rules! delegate {
    ($channel:expr, $stream:ident => $call:expr) => {
        match $channel.get_mut() {
            Channel::Tls(stream) => {
                let $stream = Pin::new(stream.as_mut());
                $call
            }
            Channel::WebSocket(stream) => {
                let $stream = Pin::new(stream.as_mut());
                $call
            }
            Channel::Plain(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
        }
    };
}

impl AsyncRead for Channel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_read(cx, into))
    }
}

impl AsyncWrite for Channel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, stream => stream.poll_write(cx, data))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_shutdown(cx))
    }
}
