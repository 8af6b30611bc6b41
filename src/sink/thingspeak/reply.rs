//! What a reply to a bulk write means.
//!
//! Documented is one success, 202 with `{"success":true}`, and an error body
//! `{"status":"401","error":{"error_code":"error_auth_required","message":"…","details":"…"}}`.

use std::time::Duration;

use super::super::http::{Reply, quote};
use super::super::{Accepted, SendError, Then};

/// Reads a reply. `interval`: how long to wait after 429, which comes without a header.
pub(super) fn classify(reply: &Reply, interval: Duration) -> Result<Accepted, SendError> {
    let retry = |why: String| Err(SendError::Retry { after: reply.retry_after(), why });
    let refused = |known: bool| Err(SendError::Refused { known, why: describe(reply) });
    let hold = |what: &str| Err(SendError::Hold { why: format!("{what}: {}", describe(reply)) });
    let doubtful = |retries, then| Err(SendError::Doubtful { retries, then, why: describe(reply) });
    match reply.status {
        // Proxies in front say these two in HTML.
        413 => Err(SendError::TooLarge { known: true, why: describe(reply) }),
        429 => {
            let after = reply.retry_after().unwrap_or_default().max(interval);
            Err(SendError::Retry { after: Some(after), why: describe(reply) })
        }
        _ if reply.is_html() => retry(format!("not ThingSpeak's answer: {}", describe(reply))),
        202 => match success(reply) {
            Some(true) => Ok(Accepted::Queued),
            Some(false) => doubtful(2, Then::Refused),
            None => retry(format!("not ThingSpeak's answer: {}", describe(reply))),
        },
        200 if reply.body.trim() == "0" => doubtful(2, Then::Refused),
        400 | 422 => refused(true),
        401 => hold("the write key does not belong to the channel"),
        402 => hold("the licence's allowance is used up"),
        404 => hold("there is no such channel"),
        405 => hold("the URL does not take a bulk write"),
        409 => doubtful(1, Then::Duplicate),
        421 => doubtful(3, Then::Refused),
        408 | 425 | 500..=599 => retry(describe(reply)),
        400..=499 => refused(false),
        _ => retry(format!("not ThingSpeak's answer: {}", describe(reply))),
    }
}

fn success(reply: &Reply) -> Option<bool> {
    serde_json::from_str::<serde_json::Value>(&reply.body).ok()?.get("success")?.as_bool()
}

fn describe(reply: &Reply) -> String {
    let body: Option<serde_json::Value> = serde_json::from_str(&reply.body).ok();
    let part = |name: &str| body.as_ref()?.get("error")?.get(name)?.as_str();
    let text = match (part("error_code"), part("message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => reply.body.clone(),
    };
    quote(format!("{} {text}", reply.status).trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(15);

    fn verdict(status: u16, body: &str) -> Result<Accepted, SendError> {
        classify(&Reply::fake(status, &[], body), INTERVAL)
    }

    fn error(status: u16, code: &str) -> Result<Accepted, SendError> {
        let body = format!(
            r#"{{"status":"{status}","error":{{"error_code":"{code}","message":"Text.","details":"More."}}}}"#
        );
        verdict(status, &body)
    }

    #[test]
    fn only_202_with_success_is_believed_and_only_as_queued() {
        assert_eq!(verdict(202, r#"{"success":true}"#), Ok(Accepted::Queued));
        for (status, body) in [
            (200, r#"{"success":true}"#),
            (202, ""),
            (202, "<html>login</html>"),
            (202, "true"),
            (200, "<!DOCTYPE html><title>Welcome to our hotel</title>"),
            (200, ""),
            (204, ""),
            (302, ""),
            (511, "<html>"),
        ] {
            assert!(
                matches!(verdict(status, body), Err(SendError::Retry { after: None, .. })),
                "{status} {body}"
            );
        }
    }

    #[test]
    fn a_refusal_in_the_clothes_of_a_success_is_a_refusal_when_it_is_repeated() {
        for (status, body) in [(200, "0"), (200, "0\n"), (202, r#"{"success":false}"#)] {
            let got = verdict(status, body);
            assert!(matches!(got, Err(SendError::Doubtful { then: Then::Refused, .. })), "{got:?}");
        }
    }

    #[test]
    fn every_documented_error_has_its_consequence() {
        let refused = |r| matches!(r, Err(SendError::Refused { known: true, .. }));
        let hold = |r| matches!(r, Err(SendError::Hold { .. }));
        let retry = |r| matches!(r, Err(SendError::Retry { after: None, .. }));
        assert!(refused(error(400, "error_bad_request")));
        assert!(hold(error(401, "error_auth_required")));
        assert!(hold(error(402, "error_payment_required")));
        assert!(hold(error(404, "error_resource_not_found")));
        assert!(hold(error(405, "error_method_invalid")));
        assert!(matches!(
            error(409, "error_conflict"),
            Err(SendError::Doubtful { retries: 1, then: Then::Duplicate, .. })
        ));
        assert!(matches!(error(413, "error_request_too_large"), Err(SendError::TooLarge { .. })));
        assert!(matches!(
            error(421, "error_no_action"),
            Err(SendError::Doubtful { retries: 3, then: Then::Refused, .. })
        ));
        assert!(refused(error(422, "error_invalid_byte_sequence")));
        for status in [500, 502, 503] {
            assert!(retry(error(status, "error_internal")));
        }
        assert!(matches!(error(418, "teapot"), Err(SendError::Refused { known: false, .. })));
    }

    #[test]
    fn too_many_requests_means_the_interval_unless_the_far_side_wants_more() {
        let after =
            |headers: &[(&str, &str)], body| match classify(&Reply::fake(429, headers, body), INTERVAL) {
                Err(SendError::Retry { after, .. }) => after,
                other => panic!("{other:?}"),
            };
        assert_eq!(after(&[], r#"{"status":"429"}"#), Some(INTERVAL));
        assert_eq!(after(&[], "<html>slow down</html>"), Some(INTERVAL));
        assert_eq!(after(&[("retry-after", "3")], ""), Some(INTERVAL));
        assert_eq!(after(&[("retry-after", "60")], ""), Some(Duration::from_secs(60)));
    }

    #[test]
    fn a_proxy_that_says_too_large_in_html_is_understood_and_its_other_pages_are_not_believed() {
        assert!(matches!(verdict(413, "<html>413</html>"), Err(SendError::TooLarge { .. })));
        assert!(matches!(verdict(404, "<html>404</html>"), Err(SendError::Retry { .. })));
    }

    #[test]
    fn the_reason_names_status_code_and_message() {
        let Err(error) = error(401, "error_auth_required") else { panic!("an error") };
        assert_eq!(
            error.to_string(),
            "the write key does not belong to the channel: 401 error_auth_required: Text."
        );
    }
}
