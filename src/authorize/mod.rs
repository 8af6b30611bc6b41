//! Who is this, and may it do this on that topic?
//!
//! What no rule allows is refused. The rules, in the order in which they are asked; the first that speaks decides:
//!
//! 1. Nobody publishes to `$…` or subscribes to `$…`: those topics are the gateway's own (MQTT 3.1.1, 4.7.2).
//! 2. With the profile of the message gateway, its topics are for who has the key in them (see [`keyed`]).
//! 3. What a token says of itself (see `token`).
//! 4. The `[[acl]]` rules of the configuration, in the order of the file; then the topics of `[anonymous]`.
//! 5. A device that has shown who it is publishes and subscribes below its own name: `{device}/#`.
//! 6. A stream that is `open_to` a device takes its publishes.
//!
//! An anonymous device has rules 4 and 6 only, and only where they name it: `*` means every device that has shown
//! who it is.
//!
//! A subscription with wildcards is allowed by the first rule that speaks of *all* that it can match. What another
//! rule before it denies within that is held back message by message ([`Authorizer::may_receive`]).

mod api_tokens;
mod authenticator;
mod document;
mod identity;
mod jwt;
pub mod keyed;
mod keys;
pub(crate) mod log_limit;
mod passwords;
pub mod reach;
pub mod refusals;
mod registry;
mod rules;
mod seen;
mod token;

pub use api_tokens::{ApiToken, ApiTokens, Bearer, NewToken, Scope, TokenError};
pub use authenticator::Authenticator;
pub(crate) use document::make_like_directory;
pub use document::{Content, Document, DocumentError};
pub use identity::{
    Admission, Credentials, Denied, DeniedAnswer, Door, Identity, IdentityKind, Mark, Principal, Proof,
};
pub use jwt::{KeyFiles, KeyProblem, TokenKeys};
pub use keys::{KeyError, NewKey};
pub(crate) use passwords::origin;
pub use registry::{ApiKey, Device, Devices, PasswordHash, Registry, RevokedCertificate};
pub use rules::{Authorizer, Cause, Decision};

#[cfg(test)]
mod tests;
