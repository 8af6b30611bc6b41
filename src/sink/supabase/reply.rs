//! What PostgREST's reply, or that of a gateway in front of it, means.
//!
//! PostgREST answers errors with `{"code","details","hint","message"}` and the code in `Proxy-Status`; the
//! gateway in front with `{"message","hint"}`; proxies with HTML.

use reqwest::header::{CONTENT_RANGE, HeaderName};

use super::super::http::{Reply, quote};
use super::super::{Accepted, SendError, Then};

/// Reads a reply to an insert.
pub(super) fn classify(reply: &Reply) -> Result<Accepted, SendError> {
    match reply.status {
        413 => return Err(SendError::TooLarge { known: true, why: describe(reply) }),
        429 => return Err(SendError::Retry { after: reply.retry_after(), why: describe(reply) }),
        _ if reply.is_html() => return Err(strange(reply)),
        201 if reply.body.trim().is_empty() || reply.body.starts_with('[') => return Ok(Accepted::Stored),
        // An insert is answered so only by triggers and views; a portal's empty 200 has no range.
        200 | 204 if reply.header(&CONTENT_RANGE).is_some() => return Ok(Accepted::Stored),
        100..=399 => return Err(strange(reply)),
        _ => {}
    }
    Err(by_code(reply, &code(reply)))
}

/// Reads a reply that must hold rows: to a question, or to an update that asks for what it has changed.
pub(crate) fn rows(reply: &Reply) -> Result<&str, SendError> {
    match reply.status {
        413 | 429 => {}
        200 | 206 if !reply.is_html() && reply.body.starts_with('[') => return Ok(&reply.body),
        100..=399 => return Err(strange(reply)),
        _ if reply.is_html() => return Err(strange(reply)),
        _ => {}
    }
    Err(by_code(reply, &code(reply)))
}

fn strange(reply: &Reply) -> SendError {
    let why = format!("not PostgREST's answer: {}", describe(reply));
    SendError::Retry { after: reply.retry_after(), why }
}

fn by_code(reply: &Reply, code: &str) -> SendError {
    let why = describe(reply);
    let class = code.get(..2).unwrap_or_default();
    let refused = |known| SendError::Refused { known, why: why.clone() };
    let hold = |what: &str| SendError::Hold { why: format!("{what}: {why}") };
    let retry = || SendError::Retry { after: reply.retry_after(), why: why.clone() };
    let doubtful = |retries, then| SendError::Doubtful { retries, then, why: why.clone() };
    match (reply.status, code) {
        // Some servers refuse good tokens as "issued at future" now and then.
        (401, "PGRST303") => doubtful(1, Then::Hold),
        (401..=403, "42501") => hold("the key may not do this (row-level security, or no grant)"),
        (401..=403, _) => hold("the key is not accepted"),
        // The statement timeout: too many rows, or a table that is locked while somebody migrates it.
        (_, "57014") => SendError::TooLarge { known: false, why },
        (_, "25006") | (408 | 425 | 429, _) => retry(),
        (_, "23503") => hold("a row that this one refers to is missing"),
        (_, "PGRST100" | "PGRST122" | "PGRST204") => hold("the table does not fit the settings"),
        (404, _) => hold("there is no such table"),
        (405 | 406, _) => hold("the request is not allowed"),
        (_, "42P17") => hold("a row-level security policy refers to itself"),
        // These name the table's shape and should be no row's fault.
        (400, "42703" | "42P10" | "428C9") => refused(false),
        (400, "PGRST102" | "P0001") | (409, "23505") => refused(true),
        (400 | 409, _) if class == "22" || class == "23" => refused(true),
        (400..=499, _) | (_, "21000") => refused(false),
        (500, _) if !code.is_empty() => doubtful(5, Then::Refused),
        _ => retry(),
    }
}

/// The error's code, from the body or else from the header; empty when a gateway speaks.
fn code(reply: &Reply) -> String {
    const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
    let from_body = member(reply, "code");
    let from_header = || {
        let status = reply.header(&PROXY_STATUS)?.strip_prefix("PostgREST")?;
        Some(status.split_once("error=")?.1.trim().to_owned())
    };
    from_body.or_else(from_header).unwrap_or_default()
}

fn member(reply: &Reply, name: &str) -> Option<String> {
    let body: serde_json::Value = serde_json::from_str(&reply.body).ok()?;
    Some(body.get(name)?.as_str()?.to_owned())
}

fn describe(reply: &Reply) -> String {
    let message = member(reply, "message").unwrap_or_else(|| reply.body.clone());
    quote(format!("{} {} {message}", reply.status, code(reply)).replace("  ", " ").trim_end())
}

#[cfg(test)]
mod tests;
