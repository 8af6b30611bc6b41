//! What went wrong in a handshake, in words for the person who has to mend the device.

use std::io;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, OtherError, PeerIncompatible};
use time::OffsetDateTime;

use crate::authorize::refusals::Refusal;
use crate::pki::Shown;

/// The first byte of an MQTT CONNECT packet (MQTT 3.1.1, 3.1.1).
const MQTT_CONNECT: u8 = 0x10;

/// Words for a connection whose first byte is no TLS.
pub(super) fn of_first_byte(byte: u8, port: u16) -> String {
    match byte {
        MQTT_CONNECT => format!("it sent plain MQTT to the TLS port {port}: make the device use TLS"),
        b'A'..=b'Z' | b'a'..=b'z' => format!("it sent text, maybe HTTP, to the MQTT port {port}"),
        _ => format!("it sent something that is no TLS (first byte {byte:#04x}) to the TLS port {port}"),
    }
}

/// Reason and words for a handshake that failed.
pub(super) fn of_error(error: &io::Error, shown: Option<&Shown>) -> (Refusal, String) {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => of_tls_error(error, shown),
        None => (
            Refusal::HandshakeAborted,
            format!("it closed the connection during the handshake ({error}): does it trust ca.pem?"),
        ),
    }
}

fn of_tls_error(error: &Error, shown: Option<&Shown>) -> (Refusal, String) {
    match error {
        Error::NoCertificatesPresented => (
            Refusal::CertificateMissing,
            "it offered no certificate: `tampu device add NAME` makes one, \
             or `listener.client_auth = \"optional\"` lets it in without"
                .to_owned(),
        ),
        Error::InvalidCertificate(error) => of_certificate(error, shown),
        Error::AlertReceived(alert) => of_alert(*alert),
        Error::PeerIncompatible(why) => (Refusal::TlsFailed, of_incompatibility(why)),
        other => (Refusal::TlsFailed, format!("the TLS handshake failed: {other}")),
    }
}

fn of_certificate(error: &CertificateError, shown: Option<&Shown>) -> (Refusal, String) {
    let subject = shown.map_or_else(String::new, |shown| format!(" (\"{}\")", shown.subject));
    match error {
        CertificateError::UnknownIssuer => {
            let issuer = shown.map_or("unreadable", |shown| &shown.issuer);
            let detail = format!("its certificate{subject} was signed by another CA (issuer \"{issuer}\")");
            (Refusal::CertificateUnknownIssuer, detail)
        }
        CertificateError::ExpiredContext { not_after, .. } => {
            (Refusal::CertificateExpired, format!("its certificate{subject} expired on {}", date(not_after)))
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            let (begin, now) = (date(not_before), date(time));
            let detail = format!(
                "its certificate{subject} begins on {begin}, and by this gateway's clock it is {now}"
            );
            (Refusal::CertificateExpired, detail)
        }
        CertificateError::Revoked => {
            (Refusal::CertificateRevoked, format!("its certificate{subject} was revoked"))
        }
        CertificateError::BadSignature => {
            let detail = format!(
                "its certificate{subject} names our CA, but was not signed by its key: is it of an older CA?"
            );
            (Refusal::CertificateInvalid, detail)
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            let detail = format!(
                "its certificate{subject} is not for clients (no clientAuth in its extended key usage)"
            );
            (Refusal::CertificateInvalid, detail)
        }
        CertificateError::Other(other) => (Refusal::CertificateInvalid, of_other(other, &subject)),
        other => (Refusal::CertificateInvalid, format!("its certificate{subject} cannot be used: {other}")),
    }
}

/// Faults that webpki has no error of rustls for. It gives them as text.
fn of_other(error: &OtherError, subject: &str) -> String {
    let text = error.to_string();
    match text.as_str() {
        "UnsupportedCertVersion" => format!(
            "its certificate{subject} is of X.509 version 1: sign it with extensions (`openssl x509 -req -extfile …`)"
        ),
        "CaUsedAsEndEntity" => {
            format!("its certificate{subject} is that of a CA: give the device one of its own")
        }
        _ => format!("its certificate{subject} cannot be used: {text}"),
    }
}

fn of_alert(alert: AlertDescription) -> (Refusal, String) {
    let advice = match alert {
        AlertDescription::UnknownCA => "does it trust this gateway's ca.pem?",
        AlertDescription::CertificateExpired => "is its clock right?",
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => {
            "does it trust this gateway's ca.pem, is its clock right, and does it connect to a name \
             that the server's certificate holds for?"
        }
        AlertDescription::UnsupportedCertificate => "it needs another kind of server certificate",
        AlertDescription::CloseNotify | AlertDescription::UserCanceled => {
            return (Refusal::HandshakeAborted, "it closed the connection during the handshake".to_owned());
        }
        _ => return (Refusal::TlsFailed, format!("it ended the handshake with the alert {alert:?}")),
    };
    (Refusal::ServerNotTrusted, format!("it refused the gateway's certificate (alert {alert:?}): {advice}"))
}

fn of_incompatibility(why: &PeerIncompatible) -> String {
    match why {
        PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SupportedVersionsExtensionRequired => {
            "it offers neither TLS 1.2 nor 1.3: older versions are not safe".to_owned()
        }
        PeerIncompatible::NoCipherSuitesInCommon => {
            "it offers no cipher suite of ours: ECDHE with AES-GCM or ChaCha20-Poly1305".to_owned()
        }
        PeerIncompatible::NoKxGroupsInCommon | PeerIncompatible::NamedGroupsExtensionRequired => {
            "it offers no curve of ours: X25519, P-256 or P-384".to_owned()
        }
        other => format!("it offers no TLS that this gateway speaks ({other:?})"),
    }
}

fn date(time: &UnixTime) -> String {
    let time = OffsetDateTime::UNIX_EPOCH
        .checked_add(Duration::from_secs(time.as_secs()).try_into().unwrap_or_default());
    time.map_or_else(|| "a day far away".to_owned(), |time| time.date().to_string())
}
