//! Who a client is, by what it shows with its CONNECT.
//!
//! A listener has an ordered list of identities. Of those the first counts that the client shows, and if that is wrong
//! the client is refused: nothing else that it shows is looked at. What is shown but not in the list is as good as
//! not shown.
//!
//! | identity | shown by | the device's name is |
//! |---|---|---|
//! | certificate | the TLS handshake | in the certificate |
//! | password | user name and password | the user name |
//! | api_key | the key as the password (with the device's name, the key's id or nothing as the user name), or as the user name | the registry's |
//! | jwt | the token as the password | a claim |
//! | anonymous | nothing | the configuration's |

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::identity::{
    Admission, Credentials, Denied, DeniedAnswer, Identity, IdentityKind, Principal, Proof,
};
use super::passwords::{NotVerified, Passwords};
use super::refusals::Refusal;
use super::rules::Authorizer;
use super::token::{Names, TokenAcl};
use super::{jwt, keys};
use crate::clock::Clock;
use crate::message::DeviceId;

/// Finds out who a client is. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Authenticator(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    passwords: Passwords,
}

impl Authenticator {
    /// One that judges ends by this clock. It remembers passwords that were good, so there is one a process.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self(Arc::new(Inner { clock, passwords: Passwords::new() }))
    }

    /// Who a client is, by the rules as they are now.
    ///
    /// # Errors
    /// Why it is not let in, and what it is told.
    pub async fn authenticate(&self, rules: &Authorizer, shown: Credentials<'_>) -> Admission {
        let principal = self.find_out(rules, &shown).await.map_err(|denied| Denied {
            device: shown.certificate.as_ref().map(|(device, _)| device.clone()),
            claimed: denied.claimed.or_else(|| shown.claimed()),
            ..denied
        })?;
        match rules.admits(&principal) {
            Ok(()) => Ok(Arc::new(principal)),
            Err((refusal, detail)) => {
                let device = Some(principal.identity.device);
                Err(Denied { device, ..Denied::new(refusal, DeniedAnswer::NotAuthorized, detail) })
            }
        }
    }

    /// Who a client is by what counts of what it shows.
    async fn find_out(&self, rules: &Authorizer, shown: &Credentials<'_>) -> Result<Principal, Denied> {
        let kinds = rules.identities(shown.door);
        let nothing = || nothing_shown(kinds);
        match kinds.iter().copied().find(|kind| shown.shows(*kind)).ok_or_else(nothing)? {
            IdentityKind::Certificate => {
                let (device, certificate) = shown.certificate.clone().ok_or_else(nothing)?;
                Ok(Principal::certified(device, certificate, shown.door))
            }
            IdentityKind::Password => self.by_password(rules, shown).await,
            IdentityKind::ApiKey => self.by_key(rules, shown),
            IdentityKind::Jwt => self.by_token(rules, shown),
            IdentityKind::Anonymous => {
                let device = rules.anonymous().ok_or_else(nothing)?;
                Ok(Principal::anonymous(device.clone(), shown.door))
            }
        }
    }

    /// Hashes of passwords that were computed since the start.
    #[cfg(test)]
    pub(super) fn passwords_computed(&self) -> u64 {
        self.0.passwords.computed()
    }

    async fn by_password(&self, rules: &Authorizer, shown: &Credentials<'_>) -> Result<Principal, Denied> {
        let (user, password) = (shown.user.unwrap_or_default(), shown.password.unwrap_or_default());
        let device = DeviceId::parse(user).ok();
        let known = device.as_ref().and_then(|device| {
            let hash = rules.devices().device(device)?.password.as_ref()?;
            Some((device, hash))
        });
        let checked = self.0.passwords.check(user, known, password, shown.address).await;
        let denied = |refusal, answer, detail: &str| {
            Err(Denied::new(refusal, answer, format!("user {user:?}: {detail}")))
        };
        match (checked, known) {
            (Ok(()), Some((device, hash))) => {
                let proof = Proof::Password(hash.mark());
                Ok(shown.named(device.clone(), IdentityKind::Password, proof))
            }
            (Ok(()) | Err(NotVerified::Wrong), _) => {
                let detail = if known.is_some() { "wrong password" } else { "there is no such user" };
                denied(Refusal::PasswordWrong, DeniedAnswer::BadUserNameOrPassword, detail)
            }
            (Err(NotVerified::Busy), _) => {
                let detail = "too many passwords wait to be checked";
                denied(Refusal::PasswordsBusy, DeniedAnswer::ServerBusy, detail)
            }
            (Err(NotVerified::TooManyWrong), _) => {
                let detail = "too many wrong passwords came from this address of late";
                denied(Refusal::TooManyWrongPasswords, DeniedAnswer::RateExceeded, detail)
            }
        }
    }

    fn by_key(&self, rules: &Authorizer, shown: &Credentials<'_>) -> Result<Principal, Denied> {
        let (key, user) = keys::shown(shown.user, shown.password);
        let checked = keys::check(rules.devices(), key, user, self.0.clock.certainly_past());
        let (device, key) = checked.map_err(|detail| Denied {
            claimed: keys::claimed(rules.devices(), key).cloned(),
            ..wrong(Refusal::ApiKeyWrong, detail)
        })?;
        let proof = Proof::ApiKey { id: key.id.as_str().into(), expires: key.expires };
        let mut principal = shown.named(device.clone(), IdentityKind::ApiKey, proof);
        principal.ends = key.expires.and_then(|expires| self.instant_of(expires.into()));
        Ok(principal)
    }

    fn by_token(&self, rules: &Authorizer, shown: &Credentials<'_>) -> Result<Principal, Denied> {
        if !self.0.clock.is_synchronized() {
            let detail = "its token cannot be judged before the wall clock is synchronised";
            return Err(Denied::new(Refusal::ClockNotSynchronized, DeniedAnswer::ServerUnavailable, detail));
        }
        let signed = rules.tokens().check(shown.password.unwrap_or_default());
        let signed = signed.map_err(|detail| wrong(Refusal::TokenWrong, detail))?;
        // It is signed, and yet it may be another's, or of yesterday.
        let not_so = |refusal, detail| Denied { claimed: signed.device(), ..wrong(refusal, detail) };
        let judged = jwt::judge(&signed, shown.client_id, self.0.clock.trusted_now());
        let bearer = judged.map_err(|(refusal, detail)| not_so(refusal, detail))?;
        let names = Names { client_id: shown.client_id, user: bearer.user.as_deref() };
        let claims = TokenAcl::of_claims(&signed.claims, names)
            .map_err(|detail| not_so(Refusal::TokenWrong, detail))?;
        let mut principal = shown.named(bearer.device, IdentityKind::Jwt, Proof::Jwt(signed.key));
        principal.user = bearer.user;
        principal.claims = claims.map(Box::new);
        principal.ends = self.instant_of(bearer.expires);
        Ok(principal)
    }

    /// When it is that late; `None` while the clock is not synchronised, and if it will not be in a lifetime.
    fn instant_of(&self, time: SystemTime) -> Option<Instant> {
        let now = Instant::now();
        let left = time.duration_since(self.0.clock.trusted_now()).unwrap_or_default();
        self.0.clock.is_synchronized().then(|| now.checked_add(left)).flatten()
    }
}

impl Credentials<'_> {
    fn shows(&self, kind: IdentityKind) -> bool {
        let is = |form: fn(&[u8]) -> bool| self.password.is_some_and(form);
        let has_key_as_user = self.user.is_some_and(|user| keys::is_key(user.as_bytes()));
        match kind {
            IdentityKind::Certificate => self.certificate.is_some(),
            IdentityKind::Password => {
                // A key that stands in the place of the user name must not be taken, and logged, for one.
                let other = is(keys::is_key) || is(jwt::is_token) || has_key_as_user;
                self.user.is_some() && self.password.is_some() && !other
            }
            IdentityKind::ApiKey => is(keys::is_key) || has_key_as_user,
            IdentityKind::Jwt => is(jwt::is_token),
            IdentityKind::Anonymous => true,
        }
    }

    /// The device that its user name says it is; not a key that stands in the name's place.
    fn claimed(&self) -> Option<DeviceId> {
        let user = self.user.filter(|user| !keys::is_key(user.as_bytes()) && !jwt::is_token(user.as_bytes()));
        DeviceId::parse(user?).ok()
    }

    /// A device that has proved its user name.
    fn named(&self, device: DeviceId, kind: IdentityKind, proof: Proof) -> Principal {
        let user = Some(device.as_str().into());
        let identity = Identity { device, kind };
        Principal { identity, user, door: self.door, proof, claims: None, ends: None }
    }
}

fn wrong(refusal: Refusal, detail: String) -> Denied {
    Denied::new(refusal, DeniedAnswer::BadUserNameOrPassword, detail)
}

fn nothing_shown(kinds: &[IdentityKind]) -> Denied {
    let wanted: Vec<_> = kinds.iter().map(|kind| kind.as_str()).collect();
    let detail = format!("it does not show who it is by any of: {}", wanted.join(", "));
    Denied::new(Refusal::IdentityNotAllowed, DeniedAnswer::NotAuthorized, detail)
}
