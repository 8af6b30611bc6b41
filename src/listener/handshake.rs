//! From an accepted socket to a peer with a name.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::{Stream, reason};
use crate::authorize::refusals::Refusal;
use crate::authorize::{Identity, IdentityKind};
use crate::config;
use crate::pki::{NoDevice, ServerTls, witness};

/// The first byte of a TLS connection: a record that holds a handshake message (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// What became of a connection at the door.
pub(super) enum Outcome {
    LetIn(Box<Stream>, Identity),
    /// Why not, and the same in words for whoever has to mend it.
    Refused(Refusal, String),
    /// It never said a word: a port scan, or a monitor that looks whether the port is open.
    Gone,
}

/// Where everybody has to show who they are.
pub(super) struct Door {
    tls: ServerTls,
    anonymous: Option<Identity>,
    timeout: Duration,
    max_handshakes: usize,
    handshakes: Semaphore,
}

impl Door {
    pub(super) fn new(tls: ServerTls, anonymous: Option<Identity>, settings: &config::Listener) -> Self {
        Self {
            tls,
            anonymous,
            timeout: settings.handshake_timeout,
            max_handshakes: settings.max_handshakes,
            handshakes: Semaphore::new(settings.max_handshakes),
        }
    }

    /// Waits for the first byte, then for a turn, then for the handshake; all of it within one deadline.
    pub(super) async fn let_in(&self, stream: TcpStream) -> Outcome {
        let deadline = tokio::time::Instant::now() + self.timeout;
        let seconds = self.timeout.as_secs_f32();
        match tokio::time::timeout_at(deadline, first_byte(&stream)).await {
            Err(_) => {
                let detail = format!("it said nothing for {seconds} s");
                return Outcome::Refused(Refusal::HandshakeTimeout, detail);
            }
            Ok(Ok(Some(TLS_HANDSHAKE))) => {}
            Ok(Ok(Some(byte))) => {
                let port = stream.local_addr().map_or(0, |address| address.port());
                return Outcome::Refused(Refusal::NotTls, reason::of_first_byte(byte, port));
            }
            Ok(Ok(None) | Err(_)) => return Outcome::Gone,
        }
        let Ok(turn) = tokio::time::timeout_at(deadline, self.handshakes.acquire()).await else {
            let detail = format!(
                "it waited {seconds} s for its turn: {} handshakes were under way",
                self.max_handshakes
            );
            return Outcome::Refused(Refusal::TooManyHandshakes, detail);
        };
        let _turn = turn.expect("the semaphore is never closed");
        match tokio::time::timeout_at(deadline, self.handshake(stream)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let detail = format!("the TLS handshake was not done in {seconds} s");
                Outcome::Refused(Refusal::HandshakeTimeout, detail)
            }
        }
    }

    async fn handshake(&self, stream: TcpStream) -> Outcome {
        let config = match self.tls.current() {
            Ok(config) => config,
            Err(unavailable) => return Outcome::Refused(Refusal::TlsUnavailable, unavailable.to_string()),
        };
        let (result, shown) = witness(Stream::accept(stream, config)).await;
        let stream = match result {
            Ok(stream) => Box::new(stream),
            Err(error) => {
                let (reason, detail) = reason::of_error(&error, shown.as_ref());
                return Outcome::Refused(reason, detail);
            }
        };
        match self.identity(&stream) {
            Ok(identity) => Outcome::LetIn(stream, identity),
            Err((reason, detail)) => Outcome::Refused(reason, detail),
        }
    }

    fn identity(&self, stream: &Stream) -> Result<Identity, (Refusal, String)> {
        let certificates = stream.peer_certificates();
        let Some(certificate) = certificates.first() else {
            let detail =
                "it showed no certificate, and no `[anonymous]` in the configuration says who it could be";
            return self.anonymous.clone().ok_or_else(|| (Refusal::CertificateMissing, detail.to_owned()));
        };
        match self.tls.device_of(certificate) {
            Ok(device) => Ok(Identity { device, kind: IdentityKind::Certificate }),
            Err(error) => {
                let reason = match error {
                    NoDevice::Expired(_) => Refusal::CertificateExpired,
                    NoDevice::Unreadable => Refusal::CertificateInvalid,
                    NoDevice::NoName | NoDevice::SeveralNames(_) | NoDevice::Invalid { .. } => {
                        Refusal::DeviceNameInvalid
                    }
                };
                Err((reason, error.to_string()))
            }
        }
    }
}

/// Looks at the first byte without taking it; `None` if the peer has closed.
async fn first_byte(stream: &TcpStream) -> io::Result<Option<u8>> {
    let mut byte = [0];
    let count = stream.peek(&mut byte).await?;
    Ok((count > 0).then_some(byte[0]))
}
