//! What must stand in a token, besides a good signature.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::Signed;
use crate::authorize::refusals::Refusal;
use crate::config::can_stand_in_a_level;
use crate::message::DeviceId;

/// An end that is farther away is none (the year 2255, for a token of today's).
const FAR: f64 = 9e9;

/// Whom a token is for.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::authorize) struct Bearer {
    pub(in crate::authorize) device: DeviceId,
    /// The subject, if it can stand in a topic.
    pub(in crate::authorize) user: Option<Box<str>>,
    /// When it expires, with the leeway.
    pub(in crate::authorize) expires: SystemTime,
}

/// Whom a token is for, if it is good now and this client's.
///
/// # Errors
/// What is wrong with it.
pub(in crate::authorize) fn judge(
    token: &Signed,
    client_id: &str,
    now: SystemTime,
) -> Result<Bearer, (Refusal, String)> {
    let issuer = token.issuer;
    let wrong = |what: String| (Refusal::TokenWrong, what);
    let expires = judge_time_and_names(token, now)?;
    let text = |claim: &str| token.claims.get(claim).and_then(Value::as_str);
    let bound = &issuer.client_id_claims;
    if !bound.is_empty() && !bound.iter().any(|claim| !client_id.is_empty() && text(claim) == Some(client_id))
    {
        return Err(wrong(format!("it is for another client id than {client_id:?} ({})", bound.join(", "))));
    }
    let claim = &issuer.device_claim;
    let name = text(claim).ok_or_else(|| wrong(format!("it names no device ({claim})")))?;
    let device = DeviceId::parse(name)
        .map_err(|error| wrong(format!("its {claim} {name:?} is no device: {error}")))?;
    let user = text("sub").filter(|user| can_stand_in_a_level(user)).map(Into::into);
    Ok(Bearer { device, user, expires })
}

/// When a token ends, if it is good now, and by and for whom its issuer's settings say.
///
/// # Errors
/// What is wrong with it.
pub(in crate::authorize) fn judge_time_and_names(
    token: &Signed,
    now: SystemTime,
) -> Result<SystemTime, (Refusal, String)> {
    let issuer = token.issuer;
    let wrong = |what: String| (Refusal::TokenWrong, what);
    let time = |claim: &str| match token.claims.get(claim) {
        None => Ok(None),
        Some(value) => match value.as_f64().filter(|seconds| (0.0..=FAR).contains(seconds)) {
            Some(seconds) => Ok(Some(UNIX_EPOCH + Duration::from_secs_f64(seconds))),
            None => Err(wrong(format!("its {claim} is not a time"))),
        },
    };
    let expires = time("exp")?.ok_or_else(|| wrong("it has no end (exp)".to_owned()))? + issuer.leeway;
    if expires <= now {
        return Err((Refusal::TokenExpired, "it has expired (exp)".to_owned()));
    }
    if time("nbf")?.is_some_and(|begin| begin > now + issuer.leeway) {
        return Err(wrong("it is not good yet (nbf)".to_owned()));
    }
    if let Some(wanted) = &issuer.audience {
        let holds = match token.claims.get("aud") {
            Some(Value::String(one)) => one == wanted,
            Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(wanted)),
            _ => false,
        };
        if !holds {
            return Err(wrong("it is for somebody else (aud)".to_owned()));
        }
    }
    let text = |claim: &str| token.claims.get(claim).and_then(Value::as_str);
    if issuer.issuer.as_deref().is_some_and(|wanted| text("iss") != Some(wanted)) {
        return Err(wrong("it is by somebody else (iss)".to_owned()));
    }
    Ok(expires)
}
