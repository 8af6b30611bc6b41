//! HTTP/1.0 and 1.1 over TCP or TLS, for the routers of others.
//!
//! What a peer can take is bounded before it has shown who it is: connections in all and of one address, the time
//! for its handshake, for the head of a request and for its body, and the time in which it takes nothing of an
//! answer. How long a body may be is the router's to say. A request finds out by the extension [`Peer`] whose it is.
//!
//! HTTP/1.0 is what ESP update clients speak: it is answered with `Connection: close`, and never in chunks.

mod body;
mod connection;
mod places;
mod stall;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::connection::Visitor;
use self::places::Places;
use crate::authorize::refusals::{Refusals, Whom};
use crate::config::{CertificateName, ClientAuth};
use crate::message::{CertificateId, DeviceId};
use crate::pki::ServerTls;
use crate::tasks::Spawner;

pub use body::TooSlow;

/// After an error of accept(2), such as one for want of file descriptors: others may be closed meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often such an error is logged.
const ACCEPT_LOG_PERIOD: Duration = Duration::from_secs(60);

/// Who sends a request: an extension of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where it comes from.
    pub address: SocketAddr,
    /// The device of its certificate, and which one that is, if it has shown one.
    pub certificate: Option<(DeviceId, CertificateId)>,
    /// Whether it came by TLS.
    pub tls: bool,
}

/// How a server does TLS.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The gateway's certificate, as it is now.
    pub server: ServerTls,
    /// Whether a peer must show a certificate.
    pub client_auth: ClientAuth,
    /// What in it is the device's name.
    pub certificate_name: CertificateName,
}

/// What all peers, or one, may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// Of these, with one address (of IPv6: a /64).
    pub connections_per_address: usize,
    /// For a whole TLS handshake.
    pub handshake: Duration,
    /// For the head of a request, counted from when the one before it was answered: so long, too, a connection may be idle.
    pub head: Duration,
    /// For the whole body of a request.
    pub body: Duration,
    /// So long a peer may take nothing of an answer.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 128,
            connections_per_address: 64,
            handshake: Duration::from_secs(15),
            head: Duration::from_secs(15),
            body: Duration::from_secs(60),
            stall: Duration::from_secs(30),
        }
    }
}

/// A bound socket.
pub struct Server {
    socket: TcpListener,
    way: Arc<Way>,
}

/// What all connections of a server share.
struct Way {
    tls: Option<Tls>,
    limits: Limits,
    places: Places,
    refusals: Refusals,
}

impl Server {
    /// Binds an address. Must be called within a tokio runtime. `refusals` is told of peers that are not let in.
    ///
    /// # Errors
    /// When the address is in use, not of this host, or a port below 1024 that this user may not bind.
    pub fn bind(
        address: SocketAddr,
        tls: Option<Tls>,
        limits: Limits,
        refusals: Refusals,
    ) -> io::Result<Self> {
        let socket = std::net::TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        let places = Places::new(limits.connections, limits.connections_per_address);
        Ok(Self {
            socket: TcpListener::from_std(socket)?,
            way: Arc::new(Way { tls, limits, places, refusals }),
        })
    }

    /// The address that is bound: it tells the port if the settings said 0.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Accepts until `cancel`. Each connection is a task of `spawner`'s stage; when that is told to end, a connection
    /// ends with the request that it is at, or a few seconds later.
    pub async fn run(self, router: Router, spawner: Spawner, cancel: CancellationToken) {
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
                        warn!(%error, "an HTTP connection cannot be accepted");
                        logged = Some(Instant::now());
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let place = match self.way.places.take(address.ip()) {
                Ok(place) => place,
                Err((reason, detail)) => {
                    self.way.refusals.record(reason, Whom::at(address.ip()), &detail);
                    continue;
                }
            };
            if let Err(error) = stream.set_nodelay(true) {
                debug!(%address, %error, "the peer went away at once");
                continue;
            }
            let visitor = Visitor { way: Arc::clone(&self.way), address, _place: place };
            spawner.passing(visitor.serve(stream, router.clone(), spawner.cancelled().clone()));
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("socket", &self.socket).field("limits", &self.way.limits).finish()
    }
}
