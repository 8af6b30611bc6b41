//! What was refused: counted by reason, and logged with who and why, so that a maker can find out
//! why a device does not get through, while a device that keeps trying cannot fill the log.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt as _;

use super::keyed;
use super::log_limit::LogLimit;
pub use crate::audit::Whom;
use crate::audit::{Audit, Event};

/// Characters of a detail that are logged: it may hold whatever a peer has sent …
const MAX_DETAIL_CHARS: usize = 256;
/// … and of a client id.
const MAX_CLIENT_ID_CHARS: usize = 128;

macro_rules! refusals {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why something was refused. One variant a reason.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Refusal {
            $($(#[$doc])* $variant,)*
        }

        impl Refusal {
            /// All reasons.
            const ALL: &[Refusal] = &[$(Self::$variant,)*];

            /// The reason as it stands in a log line and in a metric.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

refusals! {
    /// The cap on connections was reached.
    TooManyConnections = "too_many_connections",
    /// The cap on connections from one address was reached.
    TooManyConnectionsOfAddress = "too_many_connections_of_address",
    /// The cap on connections with one device's certificate was reached.
    TooManyConnectionsOfDevice = "too_many_connections_of_device",
    /// The cap on TLS handshakes at once was reached.
    TooManyHandshakes = "too_many_handshakes",
    /// Connections of one address came faster than it may make them.
    TooManyConnects = "too_many_connects",
    /// The TLS handshake was not done in time.
    HandshakeTimeout = "handshake_timeout",
    /// The client's first byte was no TLS: plain MQTT or HTTP on the TLS port.
    NotTls = "not_tls",
    /// What came was damaged TLS, or no version and suite of it that we have.
    TlsFailed = "tls_failed",
    /// The client went away during the TLS handshake without a word.
    HandshakeAborted = "handshake_aborted",
    /// The client does not believe the gateway's certificate.
    ServerNotTrusted = "server_not_trusted",
    /// The gateway's own certificates are damaged or wrong, so that nobody can be let in.
    TlsUnavailable = "tls_unavailable",
    /// No client certificate was shown, and one is required.
    CertificateMissing = "certificate_missing",
    /// The client's certificate was signed by another CA.
    CertificateUnknownIssuer = "certificate_unknown_issuer",
    /// The client's certificate is past its validity, or not yet within it.
    CertificateExpired = "certificate_expired",
    /// The client's certificate was revoked.
    CertificateRevoked = "certificate_revoked",
    /// The client's certificate cannot be used for another reason.
    CertificateInvalid = "certificate_invalid",
    /// The certificate's common name is not a device name.
    DeviceNameInvalid = "device_name_invalid",
    /// The client shows who it is in no way that its listener takes.
    IdentityNotAllowed = "identity_not_allowed",
    /// There is no such user, or the password is another.
    PasswordWrong = "password_wrong",
    /// The API key is not known, or not this device's, or has expired.
    ApiKeyWrong = "api_key_wrong",
    /// The token cannot be believed, or is not this client's.
    TokenWrong = "token_wrong",
    /// The token has expired.
    TokenExpired = "token_expired",
    /// A token cannot be judged while the clock is not synchronised.
    ClockNotSynchronized = "clock_not_synchronized",
    /// Too many passwords wait to be checked.
    PasswordsBusy = "passwords_busy",
    /// Too many wrong passwords came from the address.
    TooManyWrongPasswords = "too_many_wrong_passwords",
    /// The device is disabled.
    DeviceDisabled = "device_disabled",
    /// The password, the API key or the token's key that was shown is not in force any more.
    CredentialRevoked = "credential_revoked",
    /// What came to the WebSocket listener was no upgrade to MQTT.
    WebSocketRefused = "websocket_refused",
    /// No whole CONNECT came in time.
    ConnectTimeout = "connect_timeout",
    /// The client speaks another version of MQTT than 3.1.1 and 5.0.
    ProtocolVersion = "protocol_version",
    /// The client id cannot be used (MQTT-3.1.3-8).
    ClientIdInvalid = "client_id_invalid",
    /// The client asks for a method of authentication; there is none.
    AuthenticationMethod = "authentication_method",
    /// A session is to be kept, and as many are as may be.
    TooManySessions = "too_many_sessions",
    /// The buffer cannot yet, or not now, say or take what a session needs.
    NotReady = "not_ready",
    /// A packet breaks the specification.
    ProtocolViolation = "protocol_violation",
    /// A packet is larger than this gateway takes.
    PacketTooLarge = "packet_too_large",
    /// A publish to a topic that the device may not publish to.
    PublishNotAllowed = "publish_not_allowed",
    /// A phone of the message gateway announces itself with another client id than its own.
    AnnouncementWrong = "announcement_wrong",
    /// A retained message beyond the bounds of what is retained: it is delivered and not kept, or not taken.
    RetainedFull = "retained_full",
    /// A will for which there was no room, neither on disk nor in memory.
    WillLost = "will_lost",
    /// A payload that no sink can use: it is kept as a dead letter.
    PayloadUnfit = "payload_unfit",
    /// A subscription to a filter that the device may not subscribe to.
    SubscribeNotAllowed = "subscribe_not_allowed",
    /// More filters than a connection may hold.
    SubscribeImpossible = "subscribe_impossible",
    /// A topic that is published to, or a filter, with more bytes or levels than it may have.
    TopicTooLong = "topic_too_long",
    /// A client, or its address, sends faster than it may: it is read more slowly.
    TooFast = "too_fast",
    /// A request to the API without a token, or with one that is not known or has expired.
    ApiTokenWrong = "api_token_wrong",
    /// The token of a request to the API is not good for that.
    ApiScopeMissing = "api_scope_missing",
    /// Requests to the API came faster than they may, by a token or from an address whose tokens were wrong.
    ApiTooFast = "api_too_fast",
    /// A request to the API that cannot be done as it is.
    ApiRequestWrong = "api_request_wrong",
    /// A device asks for another one's firmware.
    FirmwareNotAllowed = "firmware_not_allowed",
    /// A device cannot take the image that is for it.
    FirmwareUnfit = "firmware_unfit",
    /// As many images are sent at once as may be.
    TooManyDownloads = "too_many_downloads",
    /// Nothing was heard for one and a half keep alive periods (MQTT-3.1.2-24).
    KeepAliveExpired = "keep_alive_expired",
}

tokio::task_local! {
    static WITNESSED: Cell<bool>;
}

impl Refusal {
    /// What the peer sent is taken all the same, if only later or by some, or it is not the peer's fault that it is not.
    fn is_mild(self) -> bool {
        matches!(
            self,
            Self::TooFast | Self::PayloadUnfit | Self::RetainedFull | Self::WillLost | Self::NotReady
        )
    }
}

/// Serves a connection, and tells besides whether anything was refused to it; what is mild does not count.
pub fn witness<T>(served: impl Future<Output = T>) -> impl Future<Output = (T, bool)> {
    // Not an `async fn`: it would hold what it is given three times, for as long as the connection lives.
    WITNESSED.scope(Cell::new(false), served.map(|output| (output, WITNESSED.with(Cell::get))))
}

/// Counts and logs. Cheap to clone.
#[derive(Clone)]
pub struct Refusals(Arc<Inner>);

struct Inner {
    counts: Vec<AtomicU64>,
    log: LogLimit<(IpAddr, Refusal)>,
    audit: Audit,
}

/// Without an audit log.
impl Default for Refusals {
    fn default() -> Self {
        Self::new(Audit::default())
    }
}

impl Refusals {
    /// What is logged is written into the audit log too.
    #[must_use]
    pub fn new(audit: Audit) -> Self {
        Self(Arc::new(Inner {
            counts: Refusal::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            log: LogLimit::default(),
            audit,
        }))
    }

    /// Counts a refusal, and logs it unless the same peer was refused for the same reason too often of late.
    ///
    /// `detail`: what was wrong, for a maker to read; it may hold text of the peer's.
    pub fn record(&self, reason: Refusal, whom: Whom<'_>, detail: &str) {
        self.0.counts[reason as usize].fetch_add(1, Ordering::Relaxed);
        if !reason.is_mild() {
            // Outside of `witness` nobody asks.
            WITNESSED.try_with(|refused| refused.set(true)).ok();
        }
        let Some(unlogged_before) = self.0.log.admit(&(whom.peer.to_canonical(), reason)) else { return };
        // A peer may put its key anywhere.
        let start = |text: &str, chars| keyed::masked(text).chars().take(chars).collect::<String>();
        let detail = start(detail, MAX_DETAIL_CHARS);
        let client_id = whom.client_id.map(|id| start(id, MAX_CLIENT_ID_CHARS));
        tracing::warn!(
            reason = reason.as_str(),
            peer = %whom.peer,
            device = whom.device.map(tracing::field::display),
            claimed = whom.claimed.map(tracing::field::display),
            // Debug: what a peer sent must not be able to forge a log line.
            client_id = client_id.as_ref().map(tracing::field::debug),
            ?detail,
            unlogged_before,
            "refused"
        );
        let whom = Whom { client_id: client_id.as_deref(), ..whom };
        let event = Event::Refused { reason: reason.as_str(), whom, detail: &detail };
        self.0.audit.record(event, unlogged_before);
    }

    /// How often each reason was met since the start. Every reason is there, from zero on.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let counts = self.0.counts.iter().map(|count| count.load(Ordering::Relaxed));
        Refusal::ALL.iter().map(|reason| reason.as_str()).zip(counts).collect()
    }
}

impl fmt::Debug for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Refusals").field(&self.counts()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn a_connection_that_is_witnessed_is_held_once() {
        let served = || async {
            let held = [0_u8; 1_000];
            std::future::pending::<()>().await;
            held.len()
        };
        let (bare, witnessed) = (size_of_val(&served()), size_of_val(&witness(served())));
        assert!(bare >= 1_000 && witnessed < bare + 100, "{witnessed} bytes for {bare}");
    }

    #[test]
    fn who_is_slowed_is_not_refused_anything() {
        let refusals = Refusals::default();
        for (reason, expected) in [(Refusal::TooFast, false), (Refusal::ProtocolViolation, true)] {
            let served = async { refusals.record(reason, Whom::at(PEER), "") };
            assert_eq!(witness(served).now_or_never(), Some(((), expected)), "{reason:?}");
        }
    }

    #[test]
    fn every_refusal_is_counted_under_its_reason() {
        let refusals = Refusals::default();
        for _ in 0..100 {
            refusals.record(Refusal::CertificateExpired, Whom::at(PEER), "on 2026-01-01");
        }
        refusals.record(Refusal::PublishNotAllowed, Whom::at(PEER), "a/b");
        assert_eq!(refusals.counts()["certificate_expired"], 100);
        assert_eq!(refusals.counts()["publish_not_allowed"], 1);
        assert_eq!(refusals.counts()["certificate_missing"], 0);
    }

    #[test]
    fn reasons_have_different_names() {
        assert_eq!(Refusals::default().counts().len(), Refusal::ALL.len());
    }
}
