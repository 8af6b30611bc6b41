//! From the first byte of a connection to its CONNACK, and its end.

use std::sync::Arc;

use rumqttc::mqttbytes::v4::{ConnAck, ConnectReturnCode, Packet};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::connect::{self, ConnectError};
use super::connection::Connection;
use super::packet;
use super::session::{End, Session};
use super::{Moment, Peer, Shared};
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
        let end = match greet(&broker, &mut connection, &peer, &cancel).await {
            Ok(mut session) => {
                let Err(end) = session.run(&mut connection, &cancel).await;
                end
            }
            Err(end) => end,
        };
        let Peer { principal, address } = &peer;
        let identity = &principal.identity;
        match &end {
            End::Refused(reason, detail) => {
                broker.refusals.record(*reason, address.ip(), Some(&identity.device), detail);
            }
            end => {
                if let Some(unlogged_before) =
                    broker.may_log(Moment::Disconnected, &identity.device, *address)
                {
                    tracing::info!(
                        device = %identity.device, peer = %address, reason = %end, unlogged_before, "disconnected"
                    );
                }
            }
        }
        if !matches!(end, End::Broken(_)) {
            // A client that does not listen to its end any more has its end anyway.
            connection.close().await.ok();
        }
    }
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
    peer: &Peer,
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
        Ok(connect) => match Session::new(broker, peer, connect) {
            Ok(session) => (ConnectReturnCode::Success, Ok(Box::new(session))),
            Err(end) => (ConnectReturnCode::NotAuthorized, Err(end)),
        },
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
