//! Who is at the other end of a connection, and by what that was shown.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use time::OffsetDateTime;

use super::refusals::Refusal;
use super::token::TokenAcl;
pub use crate::config::{Door, IdentityKind};
use crate::message::{CertificateId, DeviceId};

/// A device, as sessions are told apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Its name.
    pub device: DeviceId,
    /// How it has shown that.
    pub kind: IdentityKind,
}

/// What was believed, as far as it must stay true for as long as the connection lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// Nothing was shown.
    None,
    /// A certificate.
    Certificate(CertificateId),
    /// The password with this hash. The mark changes with it and tells nothing of it.
    Password(Mark),
    /// An API key.
    ApiKey {
        /// Its id.
        id: Box<str>,
        /// When it expires.
        expires: Option<OffsetDateTime>,
    },
    /// A token that the key with this mark has signed.
    Jwt(Mark),
}

/// The first bytes of a SHA-256: whether something is still the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mark([u8; 8]);

impl Mark {
    /// Of these bytes.
    #[must_use]
    pub(super) fn of(bytes: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        Self(digest.as_ref()[..8].try_into().expect("a SHA-256 has 32 bytes"))
    }
}

/// Whoever has shown who it is, for as long as its connection lives. Shared as `Arc<Principal>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Who it is.
    pub identity: Identity,
    /// The user name that was proved; `None` for a certificate and for an anonymous device, which prove none.
    pub user: Option<Box<str>>,
    /// Where it came in.
    pub door: Door,
    /// What was believed.
    pub proof: Proof,
    /// What its token says that it may do.
    pub claims: Option<Box<TokenAcl>>,
    /// When its token expires: the session ends then.
    pub ends: Option<Instant>,
}

impl Principal {
    /// A device with a certificate that was verified.
    #[must_use]
    pub fn certified(device: DeviceId, certificate: CertificateId, door: Door) -> Self {
        let identity = Identity { device, kind: IdentityKind::Certificate };
        Self { identity, user: None, door, proof: Proof::Certificate(certificate), claims: None, ends: None }
    }

    /// A device that has shown nothing.
    #[must_use]
    pub fn anonymous(device: DeviceId, door: Door) -> Self {
        let identity = Identity { device, kind: IdentityKind::Anonymous };
        Self { identity, user: None, door, proof: Proof::None, claims: None, ends: None }
    }

    /// A device as the rules see it that has shown this in due form.
    #[must_use]
    pub fn assumed(device: DeviceId, kind: IdentityKind) -> Self {
        let proves_user = !matches!(kind, IdentityKind::Certificate | IdentityKind::Anonymous);
        let user = proves_user.then(|| device.as_str().into());
        let identity = Identity { device, kind };
        Self { identity, user, door: Door::Tls, proof: Proof::None, claims: None, ends: None }
    }

    /// The certificate that was shown, if that is who it is by.
    #[must_use]
    pub fn certificate(&self) -> Option<&CertificateId> {
        match &self.proof {
            Proof::Certificate(certificate) => Some(certificate),
            _ => None,
        }
    }
}

/// What a client shows with its CONNECT.
#[derive(Clone)]
pub struct Credentials<'a> {
    /// Where it came in.
    pub door: Door,
    /// The certificate that TLS has verified, with the device that it names.
    pub certificate: Option<(DeviceId, CertificateId)>,
    /// The client id; empty if the gateway shall choose one.
    pub client_id: &'a str,
    /// The user name.
    pub user: Option<&'a str>,
    /// The password.
    pub password: Option<&'a [u8]>,
    /// Where it is.
    pub address: IpAddr,
}

/// Why a client is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// For the count and the log.
    pub refusal: Refusal,
    /// The same in words, for whoever has to mend it. No part of a secret is in it.
    pub detail: String,
    /// What the client is told.
    pub answer: DeniedAnswer,
    /// The device that it has shown to be.
    pub device: Option<DeviceId>,
    /// The device that it says it is, and has not shown to be.
    pub claimed: Option<DeviceId>,
}

impl Denied {
    pub(super) fn new(refusal: Refusal, answer: DeniedAnswer, detail: impl Into<String>) -> Self {
        Self { refusal, detail: detail.into(), answer, device: None, claimed: None }
    }
}

/// What a client that is not let in is told. It learns no more: whether there is such a user is not its business.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeniedAnswer {
    /// 0x86; in 3.1.1 0x04.
    BadUserNameOrPassword,
    /// 0x87; in 3.1.1 0x05.
    NotAuthorized,
    /// 0x88, come again: the clock is not synchronised; in 3.1.1 0x03.
    ServerUnavailable,
    /// 0x89, come again: too many wait for their passwords to be checked; in 3.1.1 0x03.
    ServerBusy,
    /// 0x9F: too many wrong passwords from its address; in 3.1.1 0x03.
    RateExceeded,
}

/// What a client that shows its credentials gets.
pub type Admission = Result<Arc<Principal>, Denied>;
