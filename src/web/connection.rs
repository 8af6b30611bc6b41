//! One connection, from its handshake to its end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::debug;

use super::body::Timed;
use super::places::Place;
use super::stall::Stalling;
use super::{Peer, Tls, Way};
use crate::authorize::refusals::{Refusal, Whom};
use crate::message::{CertificateId, DeviceId};
use crate::pki::{NoDevice, witness};

/// The head of a request, and what is read at once of its body.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// How long a request in flight may take once the server is told to end.
const GRACE: Duration = Duration::from_secs(5);

/// A connection that was accepted, with what it holds.
pub(super) struct Visitor {
    pub(super) way: Arc<Way>,
    pub(super) address: SocketAddr,
    pub(super) _place: Place,
}

impl Visitor {
    /// Serves it to its end.
    pub(super) async fn serve(self, stream: TcpStream, router: Router, cancel: CancellationToken) {
        let Some(tls) = &self.way.tls else {
            let peer = Peer { address: self.address, certificate: None, tls: false };
            return self.converse(stream, peer, router, cancel).await;
        };
        let shaken = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            shaken = tokio::time::timeout(self.way.limits.handshake, shake_hands(tls, stream)) => shaken,
        };
        match shaken {
            Ok(Ok((stream, certificate))) => {
                let peer = Peer { address: self.address, certificate, tls: true };
                self.converse(stream, peer, router, cancel).await;
            }
            Ok(Err((reason, detail))) => self.refuse(reason, &detail),
            Err(_) => {
                let detail =
                    format!("the TLS handshake for HTTP was not done in {:?}", self.way.limits.handshake);
                self.refuse(Refusal::HandshakeTimeout, &detail);
            }
        }
    }

    fn refuse(&self, reason: Refusal, detail: &str) {
        self.way.refusals.record(reason, Whom::at(self.address.ip()), detail);
    }

    async fn converse<S>(&self, stream: S, peer: Peer, router: Router, cancel: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = &self.way.limits;
        let body_limit = limits.body;
        let service = service_fn(move |request| answer(request, peer.clone(), router.clone(), body_limit));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(Stalling::new(stream, limits.stall)), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = cancel.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(GRACE, connection).await.ok()
            }
        };
        if let Some(Err(error)) = ended {
            debug!(address = %self.address, %error, "an HTTP connection has failed");
        }
    }
}

type Shaken = (TlsStream<TcpStream>, Option<(DeviceId, CertificateId)>);

async fn shake_hands(tls: &Tls, stream: TcpStream) -> Result<Shaken, (Refusal, String)> {
    let unavailable = |error: crate::pki::TlsUnavailable| (Refusal::TlsUnavailable, error.to_string());
    let config = tls.server.current(tls.client_auth).map_err(unavailable)?;
    let (accepted, shown) = witness(TlsAcceptor::from(config).accept(stream)).await;
    let stream = accepted.map_err(|error| {
        let shown = shown.map_or_else(String::new, |shown| format!(" ({shown})"));
        (Refusal::TlsFailed, format!("the TLS handshake for HTTP failed: {error}{shown}"))
    })?;
    let Some(chain) = stream.get_ref().1.peer_certificates() else { return Ok((stream, None)) };
    match tls.server.device_of(chain, tls.certificate_name) {
        Ok(certificate) => Ok((stream, Some(certificate))),
        Err(error) => Err((refusal_of(&error), error.to_string())),
    }
}

fn refusal_of(error: &NoDevice) -> Refusal {
    match error {
        NoDevice::Expired(_) => Refusal::CertificateExpired,
        NoDevice::Revoked(_) => Refusal::CertificateRevoked,
        NoDevice::Unreadable => Refusal::CertificateInvalid,
        NoDevice::NoName(_) | NoDevice::SeveralNames { .. } | NoDevice::Invalid { .. } => {
            Refusal::DeviceNameInvalid
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    peer: Peer,
    router: Router,
    body_limit: Duration,
) -> Result<Response<Body>, Infallible> {
    let version = request.version();
    let mut request = request.map(|body| Body::new(Timed::new(body, body_limit)));
    request.extensions_mut().insert(peer);
    let mut response = router.oneshot(request).await?;
    if version == Version::HTTP_10 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}
