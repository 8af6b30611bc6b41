//! The line to one service, and what goes wrong on it.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::serve::{IncomingStream, Listener};
use futures_util::stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Reply;
use crate::tasks::Spawner;

/// A request larger than this is not read: no limit of a service, only of this double.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;
/// Faults that may wait for their request.
const MAX_SCRIPT: usize = 10_000;
/// How long half a reply is on its way before the line is cut.
const CUT_AFTER: Duration = Duration::from_millis(50);

/// What goes wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// This is the reply, whatever was asked. Nothing is stored.
    Reply(Reply),
    /// The request is taken and never answered. Nothing is stored.
    Silence,
    /// The request is served, and the connection cut before its reply is complete: the outcome is unknown.
    CutReply,
    /// The request is served as usual, after this time.
    Slow(Duration),
}

/// The line to one service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Line(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    address: SocketAddr,
    /// Whether the service is to listen, and whether it does.
    wanted: watch::Sender<bool>,
    listening: watch::Sender<bool>,
    script: Mutex<Script>,
    /// Cut, and replaced, when the service goes away.
    connections: Mutex<CancellationToken>,
    end: CancellationToken,
    requests: AtomicU64,
}

#[derive(Debug, Default)]
struct Script {
    next: VecDeque<Fault>,
    standing: Option<Fault>,
}

impl Line {
    /// Serves a router on a free port of 127.0.0.1, over this line.
    pub(super) async fn serve(spawner: &Spawner, router: impl FnOnce(&Line) -> Router) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let line = Self(Arc::new(Inner {
            address: listener.local_addr()?,
            wanted: watch::Sender::new(true),
            listening: watch::Sender::new(true),
            script: Mutex::default(),
            connections: Mutex::new(spawner.cancelled().child_token()),
            end: spawner.cancelled().clone(),
            requests: AtomicU64::new(0),
        }));
        let app = router(&line)
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
            .layer(middleware::from_fn_with_state(line.clone(), disturb))
            .into_make_service_with_connect_info::<Hangup>();
        let door = Door { listener: Some(listener), wanted: line.0.wanted.subscribe(), line: line.clone() };
        let end = line.0.end.clone();
        spawner.passing(async move {
            tokio::select! {
                () = end.cancelled() => {}
                served = axum::serve(door, app) => served.expect("serving has no end of its own"),
            }
        });
        Ok(line)
    }

    /// `http://127.0.0.1:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.0.address)
    }

    /// Requests that came through so far, whatever became of them.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.0.requests.load(Ordering::Relaxed)
    }

    /// Lets the next `times` requests run into a fault, after those that were scripted before.
    ///
    /// # Panics
    /// Beyond 10,000 scripted faults.
    pub fn next(&self, times: usize, fault: &Fault) {
        let mut script = self.script();
        script.next.extend(std::iter::repeat_n(fault.clone(), times));
        assert!(script.next.len() <= MAX_SCRIPT, "a script has at most {MAX_SCRIPT} faults");
    }

    /// Lets every request run into a fault that no script is for; `None` ends that.
    pub fn always(&self, fault: Option<Fault>) {
        self.script().standing = fault;
    }

    /// Faults that were scripted and have not met their request.
    #[must_use]
    pub fn scripted(&self) -> usize {
        self.script().next.len()
    }

    /// Takes the service off the net: connections are cut, new ones refused. Returns when that is so.
    pub async fn go_away(&self) {
        self.0.wanted.send_replace(false);
        self.until_listening(false).await;
        self.cut();
    }

    /// Brings it back on the same port. Returns when it listens again.
    pub async fn come_back(&self) {
        self.0.wanted.send_replace(true);
        self.until_listening(true).await;
    }

    /// Cuts every connection; new ones are served.
    pub fn cut(&self) {
        let mut connections = self.connections();
        connections.cancel();
        *connections = self.0.end.child_token();
    }

    async fn until_listening(&self, state: bool) {
        let mut listening = self.0.listening.subscribe();
        listening.wait_for(|now| *now == state).await.expect("the sender is in self");
    }

    fn fault(&self) -> Option<Fault> {
        let mut script = self.script();
        script.next.pop_front().or_else(|| script.standing.clone())
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.script.lock().expect("no panic under this lock")
    }

    fn connections(&self) -> MutexGuard<'_, CancellationToken> {
        self.0.connections.lock().expect("no panic under this lock")
    }
}

/// Lets a request run into its fault.
async fn disturb(
    State(line): State<Line>,
    ConnectInfo(hangup): ConnectInfo<Hangup>,
    request: Request,
    next: Next,
) -> Response {
    line.0.requests.fetch_add(1, Ordering::Relaxed);
    match line.fault() {
        None => next.run(request).await,
        Some(Fault::Reply(reply)) => reply.into_response(),
        Some(Fault::Silence) => std::future::pending().await,
        Some(Fault::CutReply) => hangup.cut(next.run(request).await).await,
        Some(Fault::Slow(delay)) => {
            tokio::time::sleep(delay).await;
            next.run(request).await
        }
    }
}

/// The listener, which can leave the port and come back to it.
struct Door {
    listener: Option<TcpListener>,
    wanted: watch::Receiver<bool>,
    line: Line,
}

impl Listener for Door {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            if !*self.wanted.borrow_and_update() {
                self.listener = None;
                self.line.0.listening.send_replace(false);
                self.wanted.wait_for(|wanted| *wanted).await.expect("the sender is in self");
            }
            let Some(listener) = &self.listener else {
                match TcpListener::bind(self.line.0.address).await {
                    Ok(listener) => self.listener = Some(listener),
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
                continue;
            };
            self.line.0.listening.send_replace(true);
            tokio::select! {
                _ = self.wanted.changed() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => return (Connection::new(stream, &self.line), peer),
                    // Out of descriptors, or the peer is gone already.
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                },
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.line.0.address)
    }
}

/// Cuts one connection.
#[derive(Debug, Clone)]
struct Hangup(CancellationToken);

impl Connected<IncomingStream<'_, Door>> for Hangup {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        stream.io().hangup.clone()
    }
}

impl Hangup {
    /// Sends the first half of a reply's body, or nothing of a reply without one, and cuts the connection.
    async fn cut(self, response: Response) -> Response {
        let (head, body) = response.into_parts();
        let body = axum::body::to_bytes(body, MAX_BODY_BYTES).await.expect("a double's body is in memory");
        if body.is_empty() {
            self.0.cancel();
            std::future::pending::<()>().await;
        }
        let half = body.slice(..body.len() / 2);
        let rest = stream::once(async move {
            tokio::time::sleep(CUT_AFTER).await;
            self.0.cancel();
            Err(io::Error::from(io::ErrorKind::ConnectionReset))
        });
        let halves = stream::StreamExt::chain(stream::iter([Ok(half)]), rest);
        Response::from_parts(head, Body::from_stream(halves))
    }
}

/// A connection that ends when its [`Hangup`] says so.
struct Connection {
    stream: TcpStream,
    hangup: Hangup,
    hung_up: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Connection {
    fn new(stream: TcpStream, line: &Line) -> Self {
        let token = line.connections().child_token();
        Self { stream, hung_up: Box::pin(token.clone().cancelled_owned()), hangup: Hangup(token) }
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.hung_up.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_cut(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_cut(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}
