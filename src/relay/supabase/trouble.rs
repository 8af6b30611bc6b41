//! What went wrong with Realtime, by what to do next.

use crate::sink::SendError;
use crate::sink::http::{Reply, quote};

/// Why there is no channel, or no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub(super) struct Trouble {
    pub(super) then: Then,
    pub(super) why: String,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// Join again, after a while that gets longer.
    Again,
    /// The same, after a long while: there were too many.
    MuchLater,
    /// Read the token again: a newer one may be good. Without one, somebody has to act.
    Renew,
    /// Somebody has to act.
    Hold,
}

/// What Realtime's errors ask for. Its sentences have changed over the years, the codes have not.
const CODES: &[(Then, &[&str])] = &[
    (
        Then::Renew,
        &[
            "InvalidJWTToken",
            "InvalidJWTExpiration",
            "MalformedJWT",
            "JwtSignatureError",
            "JwtSignerError",
            "token has expired",
            "Token has expired",
            "access token",
        ],
    ),
    (
        Then::MuchLater,
        &[
            "ConnectionRateLimitReached",
            "ChannelRateLimitReached",
            "ClientJoinRateLimitReached",
            "MessagePerSecondRateLimitReached",
            "Too many",
        ],
    ),
    (
        Then::Hold,
        &["Unauthorized", "PrivateOnly", "RealtimeDisabledForTenant", "TopicNameRequired", "TenantNotFound"],
    ),
];

impl Trouble {
    pub(super) fn again(why: impl Into<String>) -> Self {
        Self { then: Then::Again, why: why.into() }
    }

    /// A join that was refused, or a channel that was ended, with this reason.
    pub(super) fn of_channel(what: &str, reason: &str) -> Self {
        let is_in = |codes: &[&str]| codes.iter().any(|code| reason.contains(code));
        let then = CODES.iter().find(|(_, codes)| is_in(codes)).map_or(Then::Again, |(then, _)| *then);
        Self { then, why: format!("{what}: {}", quote(reason)) }
    }

    /// An answer to the upgrade that is no upgrade.
    pub(super) fn of_upgrade(reply: &Reply) -> Self {
        let why = quote(format!("{} {}", reply.status, reply.body).trim_end());
        let (then, what) = match reply.status {
            429 => (Then::MuchLater, "too many connections"),
            _ if reply.is_html() => (Then::Again, "this is not Realtime's answer"),
            401 => (Then::Renew, "the key or the token is not accepted"),
            403 => (Then::Hold, "the project does not let anybody in"),
            404 => (Then::Hold, "there is no such project, or no Realtime at this address"),
            500..=599 => (Then::Again, "Realtime is not well"),
            _ => (Then::Again, "this is not Realtime's answer"),
        };
        Self { then, why: format!("{what}: {why}") }
    }
}

impl From<SendError> for Trouble {
    fn from(error: SendError) -> Self {
        Self::again(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_a_refused_join_has_its_action() {
        for (reason, then) in [
            ("InvalidJWTToken: Token has expired 12 seconds ago", Then::Renew),
            ("InvalidJWTExpiration: Token expiration time is invalid", Then::Renew),
            ("MalformedJWT: The token provided is not a valid JWT", Then::Renew),
            ("JwtSignatureError: Failed to validate JWT signature", Then::Renew),
            ("Unauthorized: You do not have permissions to read from this Channel topic", Then::Hold),
            ("PrivateOnly: This project only allows private channels", Then::Hold),
            ("RealtimeDisabledForTenant: Realtime disabled for this tenant", Then::Hold),
            ("TopicNameRequired: You must provide a topic name", Then::Hold),
            ("TenantNotFound: Tenant with the given ID does not exist", Then::Hold),
            ("ConnectionRateLimitReached: Too many connected users", Then::MuchLater),
            ("ChannelRateLimitReached: Too many channels", Then::MuchLater),
            ("ClientJoinRateLimitReached: Too many joins per second", Then::MuchLater),
            ("Too many messages per second", Then::MuchLater),
            ("InitializingProjectConnection: Realtime is initializing the project connection", Then::Again),
            ("IncreaseConnectionPool: Please increase your connection pool size", Then::Again),
            ("DatabaseLackOfConnections: Database can't accept more connections", Then::Again),
            ("UnableToConnectToProject: Realtime was unable to connect to the project database", Then::Again),
            ("RealtimeRestarting: Realtime is restarting, please standby", Then::Again),
            ("Unknown Error on Channel", Then::Again),
            ("", Then::Again),
        ] {
            assert_eq!(Trouble::of_channel("join", reason).then, then, "{reason}");
        }
    }

    #[test]
    fn every_refusal_of_the_upgrade_has_its_action() {
        let json = [("content-type", "application/json")];
        let html = [("content-type", "text/html")];
        for (status, headers, then) in [
            (401, &json, Then::Renew),
            (403, &json, Then::Hold),
            (404, &json, Then::Hold),
            (429, &json, Then::MuchLater),
            (500, &json, Then::Again),
            (503, &json, Then::Again),
            (200, &html, Then::Again),
            (302, &json, Then::Again),
            // A portal's or a proxy's, whatever the number.
            (403, &html, Then::Again),
            (429, &html, Then::MuchLater),
        ] {
            let reply = Reply::fake(status, headers, r#"{"error":"x"}"#);
            assert_eq!(Trouble::of_upgrade(&reply).then, then, "{status} {headers:?}");
        }
    }
}
