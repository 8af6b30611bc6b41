//! Accepts connections, and lets in whom TLS can vouch for.
//!
//! Before a peer has shown who it is, it costs a socket and a small task: no TLS state is made until its first
//! message has come, and only [`config::Listener::max_handshakes`] are in the middle of a handshake, a quarter of
//! them from one address. So a silent connection, or a thousand of them, keep nobody else from connecting.
//! The state of the handshake is freed when it is over.
//!
//! What is left to an attacker: whole first messages from four addresses or more keep all turns taken for a third of
//! [`config::Listener::handshake_timeout`] each. Those who wait then get theirs in the order in which they came.

mod bounds;
mod channel;
mod handshake;
mod pace;
mod reason;
mod reminder;
mod share;
mod stream;
mod websocket;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::authorize::origin;
use crate::authorize::refusals::{self, Refusal, Refusals, Whom};
use crate::broker::Peer;
use crate::config::{self, CertificateName, ClientAuth, Door};
use crate::message::{CertificateId, DeviceId};
use crate::pki::ServerTls;
use crate::tasks::Spawner;

use bounds::{Bounds, Place};
use handshake::{Outcome, Threshold, TurnedAway};
use pace::{Pace, Visit};

pub use channel::Channel;
pub use stream::Stream;
pub use websocket::WebSocket;

/// Open files that the rest of the program needs: the store, the sinks' connections, those of the API and of firmware.
const RESERVED_FILES: u64 = 256;
/// After an error of accept(2), such as one for want of file descriptors: others may be closed meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often such an error is logged.
const ACCEPT_LOG_PERIOD: Duration = Duration::from_secs(60);
/// Connections that wait in the kernel to be accepted: all devices come back at once after a power cut.
const BACKLOG: i32 = 1_024;
/// A peer that is gone (no FIN, no RST) is noticed after this much silence, whatever its keep alive …
const KEEPALIVE_IDLE: Duration = Duration::from_secs(120);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_PROBES: u32 = 3;
/// … and after this long if something that was sent to it is not acknowledged.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    way: Way,
}

/// How the clients of a listener come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// By TLS.
    Tls(ClientAuth),
    /// By WebSocket over TLS, at this path.
    WebSocket(ClientAuth, Arc<str>),
    /// By TCP alone.
    Plain,
}

impl Way {
    fn door(&self) -> Door {
        match self {
            Self::Tls(_) => Door::Tls,
            Self::WebSocket(..) => Door::WebSocket,
            Self::Plain => Door::Plain,
        }
    }
}

/// What all listeners of a gateway share: what they let in is bounded together. Cheap to clone.
#[derive(Clone)]
pub struct Entrance(Arc<Shared>);

struct Shared {
    threshold: Threshold,
    bounds: Bounds,
    pace: Pace,
    refusals: Refusals,
}

impl Entrance {
    /// With these bounds. `certificate_name`: what in a certificate is the device's name. Raises the limit on open files as far as it goes.
    #[must_use]
    pub fn new(
        settings: &config::Listener,
        limits: &config::Limits,
        tls: ServerTls,
        certificate_name: CertificateName,
        refusals: Refusals,
    ) -> Self {
        Self(Arc::new(Shared {
            threshold: Threshold::new(tls, certificate_name, settings),
            bounds: Bounds::new(settings, refusals.clone()),
            pace: Pace::new(limits),
            refusals,
        }))
    }
}

impl Listener {
    /// Binds an address. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the address is in use, not of this host, or a port below 1024 that this user may not bind.
    pub fn bind(address: SocketAddr, way: Way) -> io::Result<Self> {
        let socket = match address.ip() {
            IpAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
            IpAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let socket = socket.listen(BACKLOG.unsigned_abs())?;
        Ok(Self { socket, way })
    }

    /// The address that is bound: it tells the port if the settings said 0.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Accepts until `cancel`. Each connection is a task of `spawner`'s stage, and ends with that.
    /// `serve` is called for each peer that was let in.
    pub async fn run<S, F>(self, entrance: Entrance, serve: S, spawner: Spawner, cancel: CancellationToken)
    where
        S: Fn(Channel, Peer, CancellationToken) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let mut logged: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                accepted = self.socket.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if logged.is_none_or(|at| at.elapsed() >= ACCEPT_LOG_PERIOD) {
                        warn!(%error, "a connection cannot be accepted");
                        logged = Some(Instant::now());
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some((visit, place)) = entrance.0.place(address.ip()) else { continue };
            if let Err(error) = set_options(&stream) {
                debug!(%address, %error, "the peer went away at once");
                continue;
            }
            let (entrance, way, serve) = (entrance.clone(), self.way.clone(), serve.clone());
            let cancel = spawner.cancelled().clone();
            let guest = Guest { entrance, address, visit, _place: place };
            spawner.passing(guest.receive(stream, way, serve, cancel));
        }
    }
}

impl Shared {
    /// Room for a connection of which no more is known than where it comes from.
    fn place(&self, address: IpAddr) -> Option<(Visit, Place)> {
        let Some(visit) = self.pace.enter(origin(address)) else {
            let detail = "its address connects faster than limits.connects_per_second lets it";
            self.refusals.record(Refusal::TooManyConnects, Whom::at(address), detail);
            return None;
        };
        Some((visit, self.bounds.place(address)?))
    }
}

/// What somebody who was let in has shown, and what to talk to it over.
type LetIn = (Channel, Option<(DeviceId, CertificateId)>);

/// A connection that was accepted, with what it holds.
struct Guest {
    entrance: Entrance,
    address: SocketAddr,
    visit: Visit,
    _place: Place,
}

impl Guest {
    #[allow(
        clippy::manual_async_fn,
        reason = "that would hold the guest twice: as argument and as local variable"
    )]
    fn receive<S, F>(
        mut self,
        stream: TcpStream,
        way: Way,
        serve: S,
        cancel: CancellationToken,
    ) -> impl Future<Output = ()>
    where
        S: Fn(Channel, Peer, CancellationToken) -> F,
        F: Future<Output = ()>,
    {
        async move {
            // Boxed, so that an idle connection does not carry room for a handshake.
            let let_in = Box::pin(self.let_in(stream, &way));
            let let_in = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                let_in = let_in => let_in,
            };
            let Some((channel, certificate)) = let_in else { return };
            let device = certificate.as_ref().map(|(device, _)| device.clone());
            let Some(_seat) = self.entrance.0.bounds.seat(device.as_ref(), self.address.ip()) else {
                return self.visit.ended(device.as_ref(), true);
            };
            let peer = Peer { certificate, address: self.address, door: way.door() };
            let ((), refused) = refusals::witness(serve(channel, peer, cancel)).await;
            self.visit.ended(device.as_ref(), refused);
        }
    }

    /// The way past the door; `None` if it is not let in.
    async fn let_in(&mut self, stream: TcpStream, way: &Way) -> Option<LetIn> {
        let Self { entrance: Entrance(shared), address, visit, .. } = self;
        visit.approach().await;
        match shared.threshold.let_in(stream, way, origin(address.ip()), visit).await {
            Outcome::LetIn(channel, certificate) => {
                visit.greet(certificate.as_ref().map(|(device, _)| device)).await;
                Some((channel, certificate))
            }
            Outcome::Refused(TurnedAway { reason, detail, device, claimed }) => {
                visit.refused(reason);
                let (device, claimed) = (device.as_ref(), claimed.as_ref());
                shared.refusals.record(reason, Whom { device, claimed, ..Whom::at(address.ip()) }, &detail);
                None
            }
            Outcome::Gone => {
                debug!(%address, "the peer closed the connection before it said anything");
                None
            }
        }
    }
}

/// Asks for as many open files as so many connections need, and returns how many there may be.
/// systemd starts a service with 1,024 and lets it have more.
fn raise_file_limit(connections: usize) -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let current = current.unwrap_or(u64::MAX);
    let wanted = (connections as u64 + RESERVED_FILES).min(maximum.unwrap_or(u64::MAX));
    if wanted <= current {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }) {
        Ok(()) => wanted,
        Err(error) => {
            debug!(%error, "the limit on open files stays as it is");
            current
        }
    }
}

/// Connections that so many open files leave room for. Without files of its own the store cannot write,
/// and then no device gets an acknowledgement.
fn room_for(connections: usize, files: u64) -> usize {
    let room = files - RESERVED_FILES.min(files / 2);
    let allowed = usize::try_from(room).unwrap_or(usize::MAX).min(connections);
    if allowed < connections {
        warn!(
            files,
            allowed,
            "the limit on open files (LimitNOFILE=, ulimit -n) allows fewer connections than `listener.max_connections`"
        );
    }
    allowed
}

fn set_options(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    // An acknowledgement must not wait for a full segment.
    sockopt::set_tcp_nodelay(stream, true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    sockopt::set_tcp_user_timeout(stream, u32::try_from(SEND_TIMEOUT.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}
