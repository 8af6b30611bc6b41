//! JSON Web Tokens (RFC 7519) as passwords: HS256, RS256 and ES256, checked with `ring`.
//!
//! The algorithm belongs to the key. What the header of a token says only chooses among the keys: one that names
//! another algorithm, or `none`, finds no key. A token without an end (`exp`) is refused, and none is judged
//! before the clock is synchronised: a Raspberry Pi that wakes up in the past would believe old ones.

mod claims;
mod keys;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::identity::Mark;
use crate::config::TokenIssuer;
use crate::message::DeviceId;

pub(super) use claims::{judge, judge_time_and_names};
use keys::Key;
pub use keys::{KeyFiles, KeyProblem};

/// A longer token is not looked at: one with 100 topics has some 4 KB.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// The keys by which tokens are checked.
#[derive(Debug, Default)]
pub struct TokenKeys {
    keys: Vec<Key>,
}

/// A token with a good signature.
#[derive(Debug)]
pub(super) struct Signed<'a> {
    pub(super) claims: Map<String, Value>,
    pub(super) issuer: &'a Arc<TokenIssuer>,
    pub(super) key: Mark,
}

/// Whether a password has the form of a token.
pub(super) fn is_token(password: &[u8]) -> bool {
    // Every header is an object, and this is how `{` begins in base64.
    let mut parts = password.split(|byte| *byte == b'.');
    let is_base64 =
        |part: &[u8]| part.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte));
    password.starts_with(b"e") && parts.clone().count() == 3 && parts.all(is_base64)
}

impl Signed<'_> {
    /// The device that it names, whether it is good for anything or not.
    pub(super) fn device(&self) -> Option<DeviceId> {
        DeviceId::parse(self.claims.get(&self.issuer.device_claim)?.as_str()?).ok()
    }
}

impl TokenKeys {
    /// Whether a key is still among them.
    pub(super) fn knows(&self, mark: Mark) -> bool {
        self.keys.iter().any(|key| key.mark == mark)
    }

    /// Checks the signature of a token.
    ///
    /// # Errors
    /// In words that hold nothing of the token.
    pub(super) fn check(&self, token: &[u8]) -> Result<Signed<'_>, String> {
        let malformed = || "it is not a token".to_owned();
        if token.len() > MAX_TOKEN_BYTES {
            return Err(format!("it has more than {MAX_TOKEN_BYTES} bytes"));
        }
        let token = std::str::from_utf8(token).map_err(|_| malformed())?;
        let (signed, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
        let (header, payload) = signed.split_once('.').ok_or_else(malformed)?;
        let header = object(header).ok_or_else(malformed)?;
        if header.contains_key("crit") {
            return Err("its header asks for an extension (crit)".to_owned());
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| malformed())?;
        let algorithm = header.get("alg").and_then(Value::as_str).unwrap_or_default();
        let kid = header.get("kid").and_then(Value::as_str);
        let mut fitting = self.keys.iter().filter(|key| key.fits(algorithm, kid)).peekable();
        if fitting.peek().is_none() {
            return Err(format!("there is no key for {algorithm:?} with the id {kid:?}"));
        }
        let key = fitting
            .find(|key| key.has_signed(signed.as_bytes(), &signature))
            .ok_or("its signature is not by a key that is believed")?;
        // Not before the signature is good: nothing else reads what anybody may have written.
        let claims = object(payload).ok_or("its claims are not a JSON object")?;
        Ok(Signed { claims, issuer: &key.issuer, key: key.mark })
    }
}

fn object(part: &str) -> Option<Map<String, Value>> {
    match serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()? {
        Value::Object(object) => Some(object),
        _ => None,
    }
}
