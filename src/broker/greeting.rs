//! From the first byte of a connection to its CONNACK, and its end.

use std::net::SocketAddr;
use std::sync::Arc;

use rumqttc::mqttbytes::v4::{ConnAck, ConnectReturnCode, Packet};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::connect::{self, ConnectError};
use super::connection::Connection;
use super::packet;
use super::session::{End, Session};
use super::{Moment, Peer, Shared};
use crate::authorize::Principal;
use crate::authorize::refusals::Refusal;

/// Serves a connection until it ends.
#[allow(
    clippy::manual_async_fn,
    reason = "that would hold the stream twice: as argument and as local variable"
)]
pub(super) fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    broker: Arc<Shared>,
    mut connection: Connection<S>,
    peer: Peer,
    cancel: CancellationToken,
) -> impl Future<Output = ()> {
    async move {
        let _counted = Counted::new(&broker);
        let address = peer.address;
        let principal = principal(&broker, peer);
        let end = match greet(&broker, &mut connection, principal.as_ref(), address, &cancel).await {
            Ok(mut session) => {
                let Err(end) = session.run(&mut connection, &cancel).await;
                end
            }
            Err(end) => end,
        };
        let device = principal.map(|principal| principal.identity.device.clone());
        match (&end, &device) {
            (End::Refused(reason, detail), _) => {
                broker.refusals.record(*reason, address.ip(), device.as_ref(), detail);
            }
            (end, Some(device)) => {
                if let Some(unlogged_before) = broker.may_log(Moment::Disconnected, device, address) {
                    tracing::info!(%device, peer = %address, reason = %end, unlogged_before, "disconnected");
                }
            }
            (end, None) => tracing::debug!(peer = %address, reason = %end, "disconnected before its CONNECT"),
        }
        if !matches!(end, End::Broken(_)) {
            // A client that does not listen to its end any more has its end anyway.
            connection.close().await.ok();
        }
    }
}

/// Who the peer is; nobody if it showed no certificate and the configuration has no name for such.
fn principal(broker: &Shared, peer: Peer) -> Option<Arc<Principal>> {
    let Peer { certificate, door, .. } = peer;
    Some(Arc::new(match certificate {
        Some((device, certificate)) => Principal::certified(device, certificate, door),
        None => Principal::anonymous(broker.rules().authorizer.anonymous()?.clone(), door),
    }))
}

/// A connection as long as it is counted.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(broker: &Arc<Shared>) -> Self {
        broker.counters.connections.add(1);
        Self(Arc::clone(broker))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.counters.connections.subtract(1);
    }
}

/// Waits for the CONNECT and answers it.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    broker: &Arc<Shared>,
    connection: &mut Connection<S>,
    principal: Option<&Arc<Principal>>,
    address: SocketAddr,
    cancel: &CancellationToken,
) -> Result<Box<Session>, End> {
    let connect = async {
        loop {
            connection.read().await?;
            if let Some(connect) = connect::take(&mut connection.input).transpose() {
                return Ok::<_, End>(connect);
            }
        }
    };
    let connect = tokio::select! {
        connect = tokio::time::timeout(broker.limits.connect_timeout, connect) => {
            connect.map_err(|_| End::Refused(Refusal::ConnectTimeout, "no CONNECT came in time".to_owned()))??
        }
        () = cancel.cancelled() => return Err(End::Stopping),
    };
    let (answer, session) = match connect {
        Ok(connect) => {
            let nobody =
                "it showed no certificate, and no `[anonymous]` in the configuration says who it could be";
            let session = principal
                .ok_or_else(|| End::Refused(Refusal::CertificateMissing, nobody.to_owned()))
                .and_then(|principal| Session::new(broker, principal, address, connect));
            match session {
                Ok(session) => (ConnectReturnCode::Success, Ok(Box::new(session))),
                Err(end) => (ConnectReturnCode::NotAuthorized, Err(end)),
            }
        }
        Err(ConnectError::Bad(bad)) => return Err(bad.into()),
        Err(error @ ConnectError::Version(_)) => {
            let end = End::Refused(Refusal::ProtocolVersion, error.to_string());
            (ConnectReturnCode::RefusedProtocolVersion, Err(end))
        }
        Err(error @ ConnectError::ClientId(_)) => {
            let end = End::Refused(Refusal::ClientIdInvalid, error.to_string());
            (ConnectReturnCode::BadClientId, Err(end))
        }
    };
    // A session is never present: none is kept (MQTT-3.2.2-1 to 3).
    packet::write(&Packet::ConnAck(ConnAck::new(answer, false)), &mut connection.out);
    session
}
