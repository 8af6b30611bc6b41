//! From the first byte of a connection to its CONNACK, and its end.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::session::{End, Session, Welcome};
use super::wire::{self, Answer, Connect, Reason, Version};
use super::{Moment, Peer, Shared};
use crate::authorize::refusals::{Refusal, Whom};
use crate::authorize::{Credentials, DeniedAnswer, Principal};
use crate::buffer::Mark;
use crate::message::DeviceId;

/// Bytes of a CONNECT, which comes before anything is known of the client but its certificate:
/// room for a token as a password and a small will.
const MAX_CONNECT_BYTES: usize = 8 * 1024;

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
        let met = {
            let mut heard = Heard::of(&peer);
            let met = greet(&broker, &mut connection, &peer, &cancel, &mut heard).await;
            met.inspect_err(|end| broker.log_end(end, heard.whom(&peer), peer.address))
        };
        let end = match met {
            Ok(mut session) => {
                let Err(end) = session.run(&mut connection, &cancel).await;
                session.say_goodbye(&end, &mut connection.out);
                broker.log_end(&end, session.whom(), peer.address);
                end
            }
            Err(end) => end,
        };
        if !matches!(end, End::Broken(_)) {
            // A client that does not listen to its end any more has its end anyway.
            connection.close().await.ok();
        }
    }
}

impl Shared {
    fn log_end(&self, end: &End, whom: Whom<'_>, peer: SocketAddr) {
        match (end, whom.device) {
            (End::Refused { refusal, detail, .. }, _) => self.refusals.record(*refusal, whom, detail),
            (end, Some(device)) => {
                if let Some(unlogged_before) = self.may_log(Moment::Disconnected, device, peer) {
                    tracing::info!(%device, %peer, reason = %end, unlogged_before, "disconnected");
                }
            }
            (end, None) => tracing::debug!(%peer, reason = %end, "disconnected"),
        }
    }
}

/// Who a client is, as far as that was heard before it had a session.
#[derive(Debug)]
struct Heard {
    device: Option<DeviceId>,
    claimed: Option<DeviceId>,
    client_id: Option<Box<str>>,
}

impl Heard {
    fn of(peer: &Peer) -> Self {
        let device = peer.certificate.as_ref().map(|(device, _)| device.clone());
        Self { device, claimed: None, client_id: None }
    }

    fn whom(&self, peer: &Peer) -> Whom<'_> {
        Whom {
            peer: peer.address.ip(),
            device: self.device.as_ref(),
            claimed: self.claimed.as_ref(),
            client_id: self.client_id.as_deref(),
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
    heard: &mut Heard,
) -> Result<Box<Session>, End> {
    // What is needed to find out who it is, is not needed for as long as the connection lives; it is gone before
    // anything is allocated that is, so that it leaves no hole between.
    let (mut connect, who) = Box::pin(identify(broker, connection, peer, cancel, heard)).await?;
    let end = match Session::enter(broker, who, peer.address, &mut connect) {
        Ok(Welcome { mut session, answer, behind }) => {
            let durable = match behind == Mark::default() {
                true => Ok(()),
                false => {
                    let durable = session.until_durable(behind, connection);
                    Box::pin(in_time(broker, cancel, durable, not_ready)).await
                }
            };
            match durable {
                Ok(()) => {
                    session.answer_connect(answer, &mut connection.out)?;
                    session.tell_of(&connect);
                    return Ok(session);
                }
                Err(end) => end,
            }
        }
        Err(end) => end,
    };
    refuse(broker, &end, connect.version, connect.max_packet_bytes, connection);
    Err(end)
}

fn not_ready() -> End {
    End::refused(Refusal::NotReady, Reason::ServerUnavailable, "the buffer is not ready for a session")
}

/// Waits for the CONNECT, and finds out who it is from.
async fn identify<S: AsyncRead + AsyncWrite + Unpin>(
    broker: &Arc<Shared>,
    connection: &mut Connection<S>,
    peer: &Peer,
    cancel: &CancellationToken,
    heard: &mut Heard,
) -> Result<(Box<Connect>, Arc<Principal>), End> {
    let connect = in_time(broker, cancel, read_connect(broker, connection), || {
        End::refused(Refusal::ConnectTimeout, Reason::UnspecifiedError, "no CONNECT came in time")
    });
    let connect = Box::new(connect.await?);
    heard.client_id = (!connect.client_id.is_empty()).then(|| connect.client_id.as_str().into());
    match in_time(broker, cancel, let_in(broker, peer, &connect, heard), not_ready).await {
        Ok(who) => {
            heard.device = Some(who.identity.device.clone());
            Ok((connect, who))
        }
        Err(end) => {
            refuse(broker, &end, connect.version, connect.max_packet_bytes, connection);
            Err(end)
        }
    }
}

/// The client may wait so long, and no longer.
async fn in_time<T>(
    broker: &Shared,
    cancel: &CancellationToken,
    work: impl Future<Output = Result<T, End>>,
    too_late: impl FnOnce() -> End,
) -> Result<T, End> {
    tokio::select! {
        done = tokio::time::timeout(broker.limits.connect_timeout, work) => done.unwrap_or_else(|_| Err(too_late())),
        () = cancel.cancelled() => Err(End::Stopping),
    }
}

async fn read_connect<S: AsyncRead + AsyncWrite + Unpin>(
    broker: &Shared,
    connection: &mut Connection<S>,
) -> Result<Connect, End> {
    loop {
        connection.read().await?;
        match wire::take_connect(&mut connection.input, MAX_CONNECT_BYTES) {
            Ok(Some(connect)) => return Ok(connect),
            Ok(None) => {}
            Err(error) => {
                let answer = error.answer();
                let end = End::from(error);
                if let Some((version, _)) = answer {
                    refuse(broker, &end, version, None, connection);
                }
                return Err(end);
            }
        }
    }
}

/// Whether the client is let in, and as whom.
async fn let_in(
    broker: &Shared,
    peer: &Peer,
    connect: &Connect,
    heard: &mut Heard,
) -> Result<Arc<Principal>, End> {
    if connect.authentication_method.is_some() {
        let what = "it asks for a method of authentication, and there is none";
        return Err(End::refused(Refusal::AuthenticationMethod, Reason::BadAuthenticationMethod, what));
    }
    // What an earlier process has kept must be known before it can be said what is present.
    broker.ready.wait().await;
    authenticate(broker, peer, connect, heard).await
}

async fn authenticate(
    broker: &Shared,
    peer: &Peer,
    connect: &Connect,
    heard: &mut Heard,
) -> Result<Arc<Principal>, End> {
    let shown = Credentials {
        door: peer.door,
        certificate: peer.certificate.clone(),
        client_id: &connect.client_id,
        user: connect.user_name.as_deref(),
        password: connect.password.as_ref().map(wire::Password::expose),
        address: peer.address.ip(),
    };
    let rules = broker.rules();
    broker.authenticator.authenticate(&rules.authorizer, shown).await.map_err(|denied| {
        let reason = match denied.answer {
            DeniedAnswer::BadUserNameOrPassword => Reason::BadUserNameOrPassword,
            DeniedAnswer::NotAuthorized => Reason::NotAuthorized,
            DeniedAnswer::ServerUnavailable => Reason::ServerUnavailable,
            DeniedAnswer::ServerBusy => Reason::ServerBusy,
            DeniedAnswer::RateExceeded => Reason::ConnectionRateExceeded,
        };
        (heard.device, heard.claimed) = (denied.device, denied.claimed);
        End::refused(denied.refusal, reason, denied.detail)
    })
}

/// CONNACK with the reason why not. What the client learns is no more than that: the rest is in the log.
fn refuse<S>(
    broker: &Shared,
    end: &End,
    version: Version,
    max_packet_bytes: Option<u32>,
    connection: &mut Connection<S>,
) {
    let reason = match end.reason() {
        // These are for a DISCONNECT.
        Some(Reason::ServerShuttingDown | Reason::SessionTakenOver) => Some(Reason::ServerUnavailable),
        reason => reason,
    };
    if let Some(reason) = reason {
        let answer = Answer::ConnAck(broker.connack(reason));
        if let Err(error) = wire::write(&answer, version, max_packet_bytes, &mut connection.out) {
            tracing::debug!(%error, "a refusal that the client does not take");
        }
    }
}
