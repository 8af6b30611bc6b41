//! Bytes in and out of a stream. An idle connection keeps no buffer: bytes are read into a space on
//! the stack, and what is left over of a buffer is freed when the buffer is empty.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

/// Bytes that are read at once; a connection whose publishes are held back is read so far ahead.
const READ_BYTES: usize = 16 * 1024;

/// Answers that a client does not take, besides one packet of the largest size. While there are more,
/// nothing of it is read.
const MAX_OUT_BYTES: usize = 64 * 1024;

/// How long a client that is being told something last may take to hear it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What has come of waiting on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// There are new bytes in the input.
    Read,
    /// All output is written.
    Written,
}

/// A stream with its buffers.
#[derive(Debug)]
pub(super) struct Connection<S> {
    stream: S,
    /// Read and not yet taken.
    pub(super) input: BytesMut,
    max_out_bytes: usize,
    /// To be written.
    pub(super) out: BytesMut,
    /// The stream may hold back what was written to it.
    unflushed: bool,
    /// The stream gave this after bytes that have to be looked at first.
    ended: Option<io::Error>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(stream: S, max_packet_bytes: usize) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            max_out_bytes: MAX_OUT_BYTES + max_packet_bytes,
            out: BytesMut::new(),
            unflushed: false,
            ended: None,
        }
    }

    /// Writes what there is to write, and reads. `read_ahead_only`: the input is not taken at present,
    /// so it is read only until a bound, to hear of the end of the stream.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, read_ahead_only: bool) -> Poll<io::Result<Progress>> {
        // Also what the stream holds back: `out` may have been empty for long when its last byte leaves.
        let had_output = !self.out.is_empty() || self.unflushed;
        match self.poll_write(cx) {
            Poll::Ready(Ok(())) if had_output => return Poll::Ready(Ok(Progress::Written)),
            Poll::Ready(Err(error)) => {
                // A device that publishes and goes away does not hear us; what it has said still counts.
                self.out = BytesMut::new();
                self.unflushed = false;
                return match self.poll_read(cx) {
                    Poll::Ready(Ok(())) => Poll::Ready(Ok(Progress::Read)),
                    _ => Poll::Ready(Err(error)),
                };
            }
            _ => {}
        }
        let may_read =
            self.out.len() <= self.max_out_bytes && !(read_ahead_only && self.input.len() >= READ_BYTES);
        if may_read {
            return self.poll_read(cx).map_ok(|()| Progress::Read);
        }
        Poll::Pending
    }

    /// Reads until there is something new.
    pub(super) async fn read(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_read(cx)).await
    }

    /// Ready when the client is gone, and has said nothing that is still to be taken. It reads ahead, until a bound.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        while self.ended.is_none() && self.input.len() < READ_BYTES {
            if let Err(error) = ready!(self.poll_read(cx)) {
                self.ended = Some(error);
            }
        }
        match self.ended.take_if(|_| self.input.is_empty()) {
            Some(error) => Poll::Ready(error),
            None => Poll::Pending,
        }
    }

    /// Writes the rest of the output and ends the stream, within a deadline.
    pub(super) async fn close(&mut self) -> io::Result<()> {
        let close = async {
            poll_fn(|cx| self.poll_write(cx)).await?;
            self.stream.shutdown().await
        };
        tokio::time::timeout(CLOSE_TIMEOUT, close).await?
    }

    /// Everything that the stream has, until it must be waited for: many packets may have come in records of their own.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.ended.take() {
            return Poll::Ready(Err(error));
        }
        let mut space = [MaybeUninit::uninit(); READ_BYTES];
        let mut space = ReadBuf::uninit(&mut space);
        while space.remaining() > 0 {
            let before = space.filled().len();
            match Pin::new(&mut self.stream).poll_read(cx, &mut space) {
                Poll::Ready(Ok(())) if space.filled().len() > before => {}
                Poll::Ready(Ok(())) => self.ended = Some(io::ErrorKind::UnexpectedEof.into()),
                Poll::Ready(Err(error)) => self.ended = Some(error),
                Poll::Pending => break,
            }
            if self.ended.is_some() {
                break;
            }
        }
        if !space.filled().is_empty() {
            self.input.extend_from_slice(space.filled());
            return Poll::Ready(Ok(()));
        }
        self.ended.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error)))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.out.advance(count);
            if self.out.is_empty() {
                self.out = BytesMut::new();
            }
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};

    use super::*;

    /// Takes what is written to it and sends it with the flush, as TLS does with a record.
    struct Buffering {
        pipe: DuplexStream,
        taken: BytesMut,
    }

    impl AsyncRead for Buffering {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.pipe).poll_read(cx, into)
        }
    }

    impl AsyncWrite for Buffering {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            self.taken.extend_from_slice(data);
            Poll::Ready(Ok(data.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            let Self { pipe, taken } = &mut *self;
            while !taken.is_empty() {
                let count = ready!(Pin::new(&mut *pipe).poll_write(cx, taken))?;
                taken.advance(count);
            }
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.pipe).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn that_all_is_written_is_told_when_the_stream_has_let_go_of_it() {
        let (mut near, far) = duplex(1_000);
        let mut connection = Connection::new(Buffering { pipe: far, taken: BytesMut::new() }, 1_000);
        connection.out.extend_from_slice(&[7; 2_500]);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for _ in 0..2 {
            assert!(connection.poll(&mut cx, false).is_pending());
            assert!(connection.out.is_empty(), "it is the stream that waits");
            near.read_exact(&mut [0; 1_000]).await.unwrap();
        }
        assert!(matches!(connection.poll(&mut cx, false), Poll::Ready(Ok(Progress::Written))));
        assert!(connection.poll(&mut cx, false).is_pending(), "told once");
    }
}
