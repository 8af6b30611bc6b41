//! Who may use the API, and for what: tokens with scopes, 256 random bits each, and JSON Web Tokens with a `scope`.
//!
//! The tokens stand in `api-tokens.json` in the data directory, as hashes.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;

use super::document::{Content, DocumentError};
use super::jwt::{self, TokenKeys};
use super::keys::{self, KeyError};
use super::refusals::Refusal;
use crate::clock::Clock;
use crate::config::Secret;

/// What every token begins with, so that one that has leaked is recognised.
pub(super) const PREFIX: &str = "tampu_token_";

/// There are no more tokens: each may have its own share of what the API does.
const MAX_TOKENS: usize = 1_000;

/// The longest name of a token.
const MAX_NAME_CHARS: usize = 64;

macro_rules! scopes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What a token is good for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Scope {
            $($(#[$doc])* $variant,)*
        }

        impl Scope {
            /// All scopes.
            pub const ALL: &[Scope] = &[$(Self::$variant,)*];

            /// As it is written: `devices:read`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

scopes! {
    /// See devices, their certificates and the ids of their keys.
    DevicesRead = "devices:read",
    /// Create devices, disable and revoke them, make and revoke their keys.
    DevicesWrite = "devices:write",
    /// See commands and what became of them.
    CommandsRead = "commands:read",
    /// Send commands, and cancel them.
    CommandsWrite = "commands:write",
    /// See what devices have sent.
    ReadingsRead = "readings:read",
    /// See how the sinks are doing.
    SinksRead = "sinks:read",
    /// Pause and resume sinks.
    SinksWrite = "sinks:write",
    /// See the figures of the store, and the dead letters.
    BufferRead = "buffer:read",
    /// See the images of firmware, and which device has which.
    FirmwareRead = "firmware:read",
    /// Add images of firmware, promote them, roll them back.
    FirmwareWrite = "firmware:write",
}

impl Scope {
    /// Whether it lets something be changed.
    #[must_use]
    pub fn is_write(self) -> bool {
        self.as_str().ends_with(":write")
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|scope| scope.as_str() == text);
        found.copied().ok_or_else(|| {
            let all: Vec<_> = Self::ALL.iter().map(|scope| scope.as_str()).collect();
            format!("{text:?} is no scope: there are {}", all.join(", "))
        })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl serde::Serialize for Scope {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for Scope {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// All tokens of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiTokens {
    version: u32,
    tokens: Vec<ApiToken>,
}

/// A token, without the token.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiToken {
    /// A part of the token: 8 hexadecimal digits.
    pub id: String,
    /// What it is for, unique.
    pub name: String,
    /// What it is good for.
    pub scopes: BTreeSet<Scope>,
    /// SHA-256 of the whole token, hexadecimal.
    pub sha256: String,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// Until when it is good; `None`: until it is revoked.
    #[serde(with = "time::serde::rfc3339::option", default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<OffsetDateTime>,
}

/// A token that was just made. Only its hash is kept.
pub struct NewToken {
    /// The token. It is shown once.
    pub token: Secret,
    /// What is kept of it.
    pub record: ApiToken,
}

/// Why a token is not made, or not revoked.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The name is none.
    #[error("the name of a token has 1 to {MAX_NAME_CHARS} characters, none of them a control character")]
    Name,
    /// The name is another's.
    #[error("there is a token {0:?} already: revoke it, or choose another name")]
    Exists(String),
    /// There may be no more.
    #[error("there are {MAX_TOKENS} tokens already: revoke those that nobody needs")]
    TooMany,
    /// It would be good for nothing.
    #[error("a token needs at least one scope")]
    NoScope,
    /// There is none.
    #[error("there is no token with the id or name {0:?}")]
    Unknown(String),
    /// As with keys.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The file cannot be changed.
    #[error(transparent)]
    Document(#[from] DocumentError),
}

/// Whoever has shown a good token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    /// The id of the token, or the issuer and subject of a JSON Web Token.
    pub id: Box<str>,
    /// The name of the token, or that subject.
    pub name: Box<str>,
    /// What it is good for.
    pub scopes: BTreeSet<Scope>,
}

impl Default for ApiTokens {
    fn default() -> Self {
        Self { version: Self::VERSION, tokens: Vec::new() }
    }
}

impl Content for ApiTokens {
    const NAME: &'static str = "api-tokens";
    const VERSION: u32 = 1;

    fn version(&self) -> u32 {
        self.version
    }
}

impl ApiTokens {
    /// All of them, in the order in which they were made.
    pub fn iter(&self) -> impl Iterator<Item = &ApiToken> {
        self.tokens.iter()
    }

    /// Makes a token, good for so long; without `expires` until it is revoked.
    ///
    /// # Errors
    /// When the name is taken or none, there are too many, or it has no scope.
    pub fn add(
        &mut self,
        name: &str,
        scopes: BTreeSet<Scope>,
        now: OffsetDateTime,
        expires: Option<Duration>,
    ) -> Result<NewToken, TokenError> {
        if name.is_empty() || name.chars().count() > MAX_NAME_CHARS || name.contains(char::is_control) {
            return Err(TokenError::Name);
        }
        if self.tokens.iter().any(|token| token.name == name) {
            return Err(TokenError::Exists(name.to_owned()));
        }
        if self.tokens.len() >= MAX_TOKENS {
            return Err(TokenError::TooMany);
        }
        if scopes.is_empty() {
            return Err(TokenError::NoScope);
        }
        let expires = expires.map(|after| keys::end(now, after)).transpose()?;
        let is_new = |id: &str| self.tokens.iter().all(|token| token.id != id);
        let (id, token) = keys::make_secret(PREFIX, is_new)?;
        let sha256 = keys::sha256(token.expose().as_bytes());
        let record = ApiToken { id, name: name.to_owned(), scopes, sha256, created: now, expires };
        self.tokens.push(record.clone());
        Ok(NewToken { token, record })
    }

    /// Takes a token out of force, by its id or its name.
    ///
    /// # Errors
    /// When there is none.
    pub fn revoke(&mut self, id_or_name: &str) -> Result<ApiToken, TokenError> {
        let is_it = |token: &ApiToken| token.id == id_or_name || token.name == id_or_name;
        let at = self.tokens.iter().position(is_it);
        Ok(self.tokens.remove(at.ok_or_else(|| TokenError::Unknown(id_or_name.to_owned()))?))
    }

    /// Who shows this, and for what it is good.
    ///
    /// # Errors
    /// What is wrong, in words that hold nothing of the token.
    pub fn bearer(
        &self,
        shown: &str,
        issuers: &TokenKeys,
        clock: &Clock,
    ) -> Result<Bearer, (Refusal, String)> {
        if jwt::is_token(shown.as_bytes()) {
            return signed_bearer(shown, issuers, clock);
        }
        let wrong = |detail: String| (Refusal::ApiTokenWrong, detail);
        let id = keys::id_in(shown.as_bytes(), PREFIX);
        let id = id.ok_or_else(|| wrong("it is no whole token of this API".to_owned()))?;
        let token = self.tokens.iter().find(|token| token.id == id);
        let token = token.ok_or_else(|| wrong(format!("there is no token {id}")))?;
        if !keys::is_of(shown.as_bytes(), &token.sha256) {
            return Err(wrong(format!("it is not the token {id}")));
        }
        if token.expires.is_some_and(|expires| expires <= clock.certainly_past()) {
            return Err(wrong(format!("the token {id} has expired")));
        }
        let ApiToken { id, name, scopes, .. } = token.clone();
        Ok(Bearer { id: id.into(), name: name.into(), scopes })
    }
}

/// By a JSON Web Token: its claim `scope` (RFC 8693, 4.2), a text with spaces or a list, holds what it is good for.
/// Scopes that are not of this API are passed over.
fn signed_bearer(shown: &str, issuers: &TokenKeys, clock: &Clock) -> Result<Bearer, (Refusal, String)> {
    if !clock.is_synchronized() {
        let detail = "a JSON Web Token cannot be judged before the wall clock is synchronised".to_owned();
        return Err((Refusal::ClockNotSynchronized, detail));
    }
    let signed = issuers.check(shown.as_bytes()).map_err(|detail| (Refusal::TokenWrong, detail))?;
    jwt::judge_time_and_names(&signed, clock.trusted_now())?;
    let text = |claim: &str| signed.claims.get(claim).and_then(Value::as_str);
    let name = text("sub").filter(|sub| !sub.is_empty() && sub.chars().count() <= MAX_NAME_CHARS);
    let name = name.ok_or_else(|| (Refusal::TokenWrong, "it names nobody (sub)".to_owned()))?;
    let scopes = match signed.claims.get("scope") {
        Some(Value::String(scopes)) => scopes.split(' ').filter_map(|scope| scope.parse().ok()).collect(),
        Some(Value::Array(scopes)) => {
            scopes.iter().filter_map(Value::as_str).filter_map(|scope| scope.parse().ok()).collect()
        }
        _ => BTreeSet::new(),
    };
    let id = format!("jwt:{}:{name}", signed.issuer.name);
    Ok(Bearer { id: id.into(), name: name.into(), scopes })
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, name, scopes, expires, .. } = self;
        f.debug_struct("ApiToken")
            .field("id", id)
            .field("name", name)
            .field("scopes", scopes)
            .field("expires", expires)
            .finish_non_exhaustive()
    }
}
