//! From an accepted socket to a peer with a name.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::FutureExt as _;
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::pace::Visit;
use super::reminder::Reminder;
use super::share::{Share, Shares};
use super::websocket::NoUpgrade;
use super::{Channel, Stream, Way, WebSocket, reason};
use crate::authorize::refusals::Refusal;
use crate::config::{self, CertificateName, ClientAuth};
use crate::message::{CertificateId, DeviceId};
use crate::pki::{NoDevice, ServerTls, Shown, witness};

/// The first byte of a TLS connection: a record that holds a handshake message (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// A record is no longer (RFC 8446, 5.1).
const MAX_RECORD_BYTES: u16 = 1 << 14;

/// The part of all turns that the peers of one address may have.
const TURNS_OF_AN_ADDRESS: usize = 4;

/// A turn is kept for this part of the deadline, 5 s of 15 s, even if there are no others left. An ESP8266 computes
/// for 1–2 s; the rest is for a slow network.
const TURN: u32 = 3;

/// How often is looked whether a turn that lasts too long is needed, and whether who waits for one is still there.
const TURN_CHECK: Duration = Duration::from_millis(100);

/// What became of a connection at the door.
pub(super) enum Outcome {
    LetIn(Channel, Option<(DeviceId, CertificateId)>),
    Refused(TurnedAway),
    /// It never said a word: a port scan, or a monitor that looks whether the port is open.
    Gone,
}

/// Why a peer is not let in.
pub(super) struct TurnedAway {
    pub(super) reason: Refusal,
    /// The same in words for whoever has to mend it.
    pub(super) detail: String,
    /// Whose certificate was believed.
    pub(super) device: Option<DeviceId>,
    /// Whose certificate was shown, which was not.
    pub(super) claimed: Option<DeviceId>,
}

impl Outcome {
    fn refused(reason: Refusal, detail: impl Into<String>) -> Self {
        Self::Refused(TurnedAway { reason, detail: detail.into(), device: None, claimed: None })
    }
}

/// What a peer that TLS has let in brings.
type LetIn = (Box<Stream>, Option<(DeviceId, CertificateId)>);

/// Where everybody has to show who they are.
pub(super) struct Threshold {
    tls: ServerTls,
    certificate_name: CertificateName,
    timeout: Duration,
    max_packet_bytes: usize,
    max_handshakes: usize,
    handshakes: Semaphore,
    turns: Shares<IpAddr>,
    reminder: Reminder,
}

/// What a peer has said first.
enum Opening {
    /// Nothing, and it has closed the connection.
    Nothing,
    /// A whole TLS record.
    Record,
    /// Less than a TLS record, and it has closed the connection.
    Torn,
    /// Something else that begins with this byte.
    NotTls(u8),
}

impl Threshold {
    pub(super) fn new(
        tls: ServerTls,
        certificate_name: CertificateName,
        settings: &config::Listener,
    ) -> Self {
        Self {
            tls,
            certificate_name,
            timeout: settings.handshake_timeout,
            max_packet_bytes: settings.max_packet_bytes,
            max_handshakes: settings.max_handshakes,
            handshakes: Semaphore::new(settings.max_handshakes),
            turns: Shares::new((settings.max_handshakes / TURNS_OF_AN_ADDRESS).max(1)),
            reminder: Reminder::default(),
        }
    }

    /// Waits for the first message, then for a turn, then for the handshake; all of it within one deadline.
    pub(super) async fn let_in(
        &self,
        stream: TcpStream,
        way: &Way,
        origin: IpAddr,
        visit: &Visit,
    ) -> Outcome {
        let deadline = Instant::now() + self.timeout;
        let let_in = match way {
            Way::Plain => return Outcome::LetIn(Channel::Plain(stream), None),
            Way::Tls(client_auth) | Way::WebSocket(client_auth, _) => {
                self.by_tls(stream, *client_auth, origin, visit, deadline).await
            }
        };
        let (stream, certificate) = match let_in {
            Ok(let_in) => let_in,
            Err(outcome) => return outcome,
        };
        let Way::WebSocket(_, path) = way else {
            return Outcome::LetIn(Channel::Tls(stream), certificate);
        };
        let upgrade = WebSocket::accept(*stream, path, self.max_packet_bytes);
        let detail = match tokio::time::timeout_at(deadline, Box::pin(upgrade)).await {
            Ok(Ok(stream)) => return Outcome::LetIn(Channel::WebSocket(Box::new(stream)), certificate),
            Ok(Err(NoUpgrade::Refused(detail))) => detail,
            Ok(Err(NoUpgrade::Gone(error))) => format!("it sent no request to upgrade to WebSocket: {error}"),
            Err(_) => "its request to upgrade to WebSocket did not come in time".to_owned(),
        };
        let device = certificate.map(|(device, _)| device);
        Outcome::Refused(TurnedAway { reason: Refusal::WebSocketRefused, detail, device, claimed: None })
    }

    async fn by_tls(
        &self,
        stream: TcpStream,
        client_auth: ClientAuth,
        origin: IpAddr,
        visit: &Visit,
        deadline: Instant,
    ) -> Result<LetIn, Outcome> {
        let seconds = self.timeout.as_secs_f32();
        let refused = |reason, detail: String| Err(Outcome::refused(reason, detail));
        match tokio::time::timeout_at(deadline, opening(&stream)).await {
            Err(_) => {
                let detail = format!("its first message did not come, or not whole, in {seconds} s");
                return refused(Refusal::HandshakeTimeout, detail);
            }
            Ok(Ok(Opening::Record)) => {}
            Ok(Ok(Opening::NotTls(byte))) => {
                let port = stream.local_addr().map_or(0, |address| address.port());
                return refused(Refusal::NotTls, reason::of_first_byte(byte, port));
            }
            Ok(Ok(Opening::Torn)) => {
                let detail = "it closed the connection in the middle of its first message".to_owned();
                return refused(Refusal::HandshakeAborted, detail);
            }
            Ok(Ok(Opening::Nothing) | Err(_)) => return Err(Outcome::Gone),
        }
        let turn = async {
            visit.handshake().await;
            let share = self.turns.take(origin).await;
            (share, self.handshakes.acquire().await.expect("the semaphore is never closed"))
        };
        let (share, _turn) = tokio::select! {
            turn = turn => turn,
            () = has_left(&stream) => {
                let detail = "it closed the connection while it waited for its turn".to_owned();
                return refused(Refusal::TooManyHandshakes, detail);
            }
            () = tokio::time::sleep_until(deadline) => {
                let detail = format!(
                    "it waited {seconds} s for its turn: of {} handshakes at once its address may have {}, and so many \
                     a second as limits.handshakes_per_second says",
                    self.max_handshakes,
                    self.turns.each()
                );
                return refused(Refusal::TooManyHandshakes, detail);
            }
        };
        let taken = Instant::now();
        tokio::select! {
            outcome = self.handshake(stream, client_auth) => outcome,
            () = self.turn_is_over(&share, deadline) => {
                let seconds = taken.elapsed().as_secs_f32();
                refused(Refusal::HandshakeTimeout, format!("the TLS handshake was not done in {seconds:.1} s"))
            }
        }
    }

    /// Until the deadline, or before it if no turn is left to others: so peers that begin a handshake and
    /// go no further do not keep everybody else waiting for long.
    async fn turn_is_over(&self, share: &Share<IpAddr>, deadline: Instant) {
        tokio::time::sleep_until(deadline.min(Instant::now() + self.timeout / TURN)).await;
        while Instant::now() < deadline && self.handshakes.available_permits() > 0 && !share.is_last() {
            tokio::time::sleep_until(deadline.min(Instant::now() + TURN_CHECK)).await;
        }
    }

    async fn handshake(&self, stream: TcpStream, client_auth: ClientAuth) -> Result<LetIn, Outcome> {
        let config = match self.tls.current(client_auth) {
            Ok(config) => config,
            Err(unavailable) => {
                return Err(Outcome::refused(Refusal::TlsUnavailable, unavailable.to_string()));
            }
        };
        let (result, shown) = witness(Stream::accept(stream, config)).await;
        let stream = match result {
            Ok(stream) => Box::new(stream),
            Err(error) => {
                let (reason, detail) = reason::of_error(&error, shown.as_ref());
                let claimed = shown.and_then(|shown| shown.device(self.certificate_name));
                return Err(Outcome::Refused(TurnedAway { reason, detail, device: None, claimed }));
            }
        };
        let certificates = stream.peer_certificates();
        if certificates.is_empty() {
            return Ok((stream, None));
        }
        match self.tls.device_of(certificates, self.certificate_name) {
            Ok(certificate) => {
                if let Some(end) = self.tls.ends_soon(&certificates[0]) {
                    self.reminder.remind(&certificate, end);
                }
                Ok((stream, Some(certificate)))
            }
            Err(error) => {
                let reason = match error {
                    NoDevice::Expired(_) => Refusal::CertificateExpired,
                    NoDevice::Revoked(_) => Refusal::CertificateRevoked,
                    NoDevice::Unreadable => Refusal::CertificateInvalid,
                    NoDevice::NoName(_) | NoDevice::SeveralNames { .. } | NoDevice::Invalid { .. } => {
                        Refusal::DeviceNameInvalid
                    }
                };
                let claimed =
                    Shown::of(&certificates[0]).and_then(|shown| shown.device(self.certificate_name));
                Err(Outcome::Refused(TurnedAway { reason, detail: error.to_string(), device: None, claimed }))
            }
        }
    }
}

/// Waits for the first record without taking it: until it is whole it costs the kernel's memory, and not a turn.
async fn opening(stream: &TcpStream) -> io::Result<Opening> {
    loop {
        let closed = stream.ready(Interest::READABLE).await?.is_read_closed();
        // "Would block" waits for the next segment.
        match stream.try_io(Interest::READABLE, || look(stream, closed)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            looked => return looked,
        }
    }
}

/// Waits until the peer, whose first message is there unread, has closed the connection: who has given up must take
/// no turn from those who wait.
async fn has_left(stream: &TcpStream) {
    loop {
        tokio::time::sleep(TURN_CHECK).await;
        let ready = stream.ready(Interest::READABLE).now_or_never();
        if ready.is_some_and(|ready| ready.is_ok_and(|ready| ready.is_read_closed())) {
            return;
        }
    }
}

fn look(stream: &TcpStream, closed: bool) -> io::Result<Opening> {
    let mut header = [0; 5];
    let (_, count) = rustix::net::recv(stream, &mut header, RecvFlags::PEEK)?;
    match header[..count] {
        [] => Ok(Opening::Nothing),
        [TLS_HANDSHAKE, _, _, high, low] if has_come(stream, u16::from_be_bytes([high, low]))? => {
            Ok(Opening::Record)
        }
        [TLS_HANDSHAKE, ..] if closed => Ok(Opening::Torn),
        [TLS_HANDSHAKE, ..] => Err(io::ErrorKind::WouldBlock.into()),
        [byte, ..] => Ok(Opening::NotTls(byte)),
    }
}

/// Whether a record with a body of so many bytes has come. One that is too long is left to rustls to refuse.
fn has_come(stream: &TcpStream, body: u16) -> io::Result<bool> {
    Ok(rustix::io::ioctl_fionread(stream)? >= 5 + u64::from(body.min(MAX_RECORD_BYTES)))
}
