//! Who a client is, by what it shows with its CONNECT.
//!
//! A listener has an ordered list of identities. Of those the first counts that the client shows, and if that is wrong
//! the client is refused: nothing else that it shows is looked at. What is shown but not in the list is as good as
//! not shown.

use std::sync::Arc;

use super::identity::{Admission, Credentials, Denied, DeniedAnswer, IdentityKind, Principal};
use super::refusals::Refusal;
use super::rules::Authorizer;

/// Finds out who a client is. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Authenticator {}

impl Authenticator {
    /// Who a client is, by the rules as they are now.
    ///
    /// # Errors
    /// Why it is not let in, and what it is told.
    pub async fn authenticate(&self, rules: &Authorizer, shown: Credentials<'_>) -> Admission {
        let kinds = rules.identities(shown.door);
        let Some(kind) = kinds.iter().copied().find(|kind| shown.shows(*kind)) else {
            return Err(nothing_shown(kinds));
        };
        let principal = match (kind, shown.certificate, rules.anonymous()) {
            (IdentityKind::Certificate, Some((device, certificate)), _) => {
                Principal::certified(device, certificate, shown.door)
            }
            (IdentityKind::Anonymous, _, Some(device)) => Principal::anonymous(device.clone(), shown.door),
            _ => return Err(nothing_shown(kinds)),
        };
        match rules.admits(&principal) {
            Ok(()) => Ok(Arc::new(principal)),
            Err((refusal, detail)) => Err(Denied { refusal, detail, answer: DeniedAnswer::NotAuthorized }),
        }
    }
}

impl Credentials<'_> {
    fn shows(&self, kind: IdentityKind) -> bool {
        match kind {
            IdentityKind::Certificate => self.certificate.is_some(),
            IdentityKind::Password | IdentityKind::ApiKey | IdentityKind::Jwt => false,
            IdentityKind::Anonymous => true,
        }
    }
}

fn nothing_shown(kinds: &[IdentityKind]) -> Denied {
    let wanted: Vec<_> = kinds.iter().map(|kind| kind.as_str()).collect();
    let detail = format!("it does not show who it is by any of: {}", wanted.join(", "));
    Denied { refusal: Refusal::IdentityNotAllowed, detail, answer: DeniedAnswer::NotAuthorized }
}
