//! What PostgREST's reply, or that of a gateway in front of it, means.
//!
//! PostgREST answers errors with `{"code","details","hint","message"}` and the code in `Proxy-Status`; the
//! gateway in front with `{"message","hint"}`; proxies with HTML.

use reqwest::header::{CONTENT_RANGE, HeaderName};

use super::super::http::{Reply, quote};
use super::super::{Accepted, SendError, Then};

/// Reads a reply to an insert.
pub(super) fn classify(reply: &Reply) -> Result<Accepted, SendError> {
    let retry = |why: String| Err(SendError::Retry { after: reply.retry_after(), why });
    match reply.status {
        413 => return Err(SendError::TooLarge { why: describe(reply) }),
        429 => return retry(describe(reply)),
        _ if reply.is_html() => return retry(format!("not PostgREST's answer: {}", describe(reply))),
        201 if reply.body.trim().is_empty() || reply.body.starts_with('[') => return Ok(Accepted::Stored),
        // An insert is answered so only by triggers and views; a portal's empty 200 has no range.
        200 | 204 if reply.header(&CONTENT_RANGE).is_some() => return Ok(Accepted::Stored),
        100..=399 => return retry(format!("not PostgREST's answer: {}", describe(reply))),
        _ => {}
    }
    Err(by_code(reply, &code(reply)))
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
        (401..=403, "42501") => hold("the key may not insert here (row-level security, or no grant)"),
        (401..=403, _) => hold("the key is not accepted"),
        (_, "57014") => SendError::TooLarge { why },
        (_, "25006") | (408 | 425, _) => retry(),
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
mod tests {
    use super::*;
    use std::time::Duration;

    fn error(status: u16, code: &str) -> SendError {
        let body = format!(r#"{{"code":"{code}","details":null,"hint":null,"message":"text"}}"#);
        classify(&Reply::fake(status, &[("proxy-status", &format!("PostgREST; error={code}"))], &body))
            .unwrap_err()
    }

    fn bare(status: u16, headers: &[(&str, &str)], body: &str) -> Result<Accepted, SendError> {
        classify(&Reply::fake(status, headers, body))
    }

    #[test]
    fn an_insert_is_believed_by_its_shape() {
        assert_eq!(bare(201, &[("content-range", "*/*")], ""), Ok(Accepted::Stored));
        assert_eq!(bare(201, &[("content-type", "text/plain")], ""), Ok(Accepted::Stored));
        assert_eq!(bare(201, &[], "[]"), Ok(Accepted::Stored));
        assert_eq!(bare(200, &[("content-range", "*/*")], ""), Ok(Accepted::Stored));
        assert_eq!(bare(204, &[("content-range", "*/*")], ""), Ok(Accepted::Stored));
        for (status, body) in [
            (200, ""),
            (204, ""),
            (200, "<html>"),
            (201, "<html>"),
            (200, "ok"),
            (202, ""),
            (302, ""),
            (307, "{}"),
        ] {
            assert!(matches!(bare(status, &[], body), Err(SendError::Retry { .. })), "{status} {body}");
        }
    }

    #[test]
    fn an_error_of_a_row_is_looked_for_in_the_batch() {
        for code in
            ["22P02", "22003", "22007", "22008", "22P05", "22023", "23502", "23514", "PGRST102", "P0001"]
        {
            assert!(matches!(error(400, code), SendError::Refused { known: true, .. }), "{code}");
        }
        assert!(
            matches!(error(409, "23505"), SendError::Refused { known: true, .. }),
            "another unique index"
        );
    }

    #[test]
    fn an_error_of_the_tables_shape_gives_no_row_up_unless_others_are_taken() {
        for code in ["428C9", "42703", "42P10"] {
            assert!(matches!(error(400, code), SendError::Refused { known: false, .. }), "{code}");
        }
        assert!(matches!(error(500, "21000"), SendError::Refused { known: false, .. }));
        assert!(matches!(error(400, "XYZ"), SendError::Refused { known: false, .. }));
        assert!(matches!(error(416, "PGRST103"), SendError::Refused { known: false, .. }));
        assert!(matches!(bare(418, &[], ""), Err(SendError::Refused { known: false, .. })));
    }

    #[test]
    fn credentials_and_missing_targets_hold() {
        for (status, code) in [
            (401, "PGRST301"),
            (401, "PGRST302"),
            (401, "22023"),
            (401, "42501"),
            (403, "42501"),
            (403, "28000"),
            (403, "0L000"),
            (404, "PGRST205"),
            (404, "PGRST202"),
            (404, "42P01"),
            (404, "42883"),
            (400, "PGRST100"),
            (400, "PGRST122"),
            (400, "PGRST204"),
            (405, "PGRST105"),
            (406, "PGRST106"),
            (406, "PGRST107"),
            (406, "PGRST116"),
            (409, "23503"),
            (500, "42P17"),
        ] {
            assert!(matches!(error(status, code), SendError::Hold { .. }), "{status} {code}");
        }
        let gateway = r#"{"message":"Invalid API key","hint":"Double check your API key."}"#;
        let headers = [("sb-error-code", "UNAUTHORIZED_INVALID_API_KEY")];
        assert!(matches!(bare(401, &headers, gateway), Err(SendError::Hold { .. })));
        assert!(matches!(bare(402, &[], "{}"), Err(SendError::Hold { .. })));
    }

    #[test]
    fn an_expired_token_is_tried_once_more() {
        assert!(matches!(error(401, "PGRST303"), SendError::Doubtful { retries: 1, then: Then::Hold, .. }));
    }

    #[test]
    fn too_much_is_halved() {
        assert!(matches!(error(500, "57014"), SendError::TooLarge { .. }));
        assert!(matches!(bare(413, &[], "<html>413</html>"), Err(SendError::TooLarge { .. })));
    }

    #[test]
    fn trouble_inside_the_server_is_retried_and_then_a_row_is_suspected() {
        for code in ["40001", "40P01", "54000", "55P03", "58030", "XX000", "25P02", "P0000", "53400"] {
            let got = error(500, code);
            assert!(matches!(got, SendError::Doubtful { then: Then::Refused, .. }), "{code} {got:?}");
        }
    }

    #[test]
    fn an_absent_server_is_retried_for_ever() {
        for (status, code) in [
            (405, "25006"),
            (503, "PGRST000"),
            (503, "PGRST001"),
            (503, "PGRST002"),
            (503, "08006"),
            (503, "53300"),
            (503, "57P01"),
            (504, "PGRST003"),
        ] {
            assert!(matches!(error(status, code), SendError::Retry { .. }), "{status} {code}");
        }
        for status in [500, 502, 503, 504, 520, 522, 525, 403] {
            let page = bare(status, &[("content-type", "text/html")], "<html>cloud</html>");
            assert!(matches!(page, Err(SendError::Retry { .. })), "{status}");
        }
        assert!(matches!(bare(500, &[], "oops"), Err(SendError::Retry { .. })), "a gateway without a code");
        assert!(matches!(bare(408, &[], ""), Err(SendError::Retry { .. })));
    }

    #[test]
    fn what_the_far_side_asks_for_is_heard() {
        let Err(SendError::Retry { after, .. }) = bare(429, &[("retry-after", "30")], "{}") else {
            panic!("a retry")
        };
        assert_eq!(after, Some(Duration::from_secs(30)));
    }

    #[test]
    fn the_code_is_found_in_the_header_too_and_the_reason_is_short() {
        let got = bare(500, &[("proxy-status", "PostgREST; error=57014")], "").unwrap_err();
        assert_eq!(got, SendError::TooLarge { why: "500 57014".to_owned() });
        let error = error(404, "PGRST205");
        assert_eq!(error.to_string(), "there is no such table: 404 PGRST205 text");
    }
}
