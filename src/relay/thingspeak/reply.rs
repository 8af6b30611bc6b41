//! What ThingSpeak's replies mean to who asks for commands.

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::sink::SendError;
use crate::sink::http::{Reply, quote};

/// How long to wait after 429, which comes without a header.
const TOO_EARLY: Duration = Duration::from_secs(15);

/// A command as TalkBack gave it, which has left its queue by that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) id: u64,
    pub(super) text: String,
    /// When it was put into the queue, if that was said.
    pub(super) created_at: Option<OffsetDateTime>,
    /// When the reply was sent, by the far side's clock.
    pub(super) sent_at: Option<SystemTime>,
}

/// A value of a field, newest last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FieldValue {
    pub(super) entry_id: u64,
    pub(super) value: String,
    pub(super) created_at: Option<OffsetDateTime>,
    /// When the reply was sent, by the far side's clock.
    pub(super) sent_at: Option<SystemTime>,
}

/// The reply to `commands/execute.json`. `None`: the queue is empty, which is said with `{}`, `null` or nothing.
pub(super) fn taken(reply: &Reply) -> Result<Option<Taken>, SendError> {
    #[derive(Deserialize)]
    struct Shape {
        id: u64,
        command_string: String,
        created_at: Option<String>,
    }
    let body = sound(reply, "the TalkBack")?;
    if matches!(body, "" | "{}" | "null") {
        return Ok(None);
    }
    let Shape { id, command_string: text, created_at } = parse(reply)?;
    Ok(Some(Taken { id, text, created_at: created_at.as_deref().and_then(time), sent_at: reply.date() }))
}

/// Whether a reply that cannot be used may stand for one with a command: a gateway's timeout, a body that was cut.
pub(super) fn may_hold_a_command(reply: &Reply) -> bool {
    matches!(reply.status, 500 | 502 | 504) || (reply.status == 200 && reply.body.contains("command_string"))
}

/// The reply to `fields/<n>.json`: the last value that is one.
pub(super) fn last_value(reply: &Reply, field: u8) -> Result<Option<FieldValue>, SendError> {
    #[derive(Deserialize)]
    struct Shape {
        feeds: Vec<serde_json::Value>,
    }
    if sound(reply, "the channel")? == "-1" {
        let why = "the read key does not belong to the channel, or there is no such channel";
        return Err(SendError::Hold { why: why.to_owned() });
    }
    let Shape { feeds } = parse(reply)?;
    let name = format!("field{field}");
    Ok(feeds.iter().rev().find_map(|feed| {
        let value = match feed.get(&name)? {
            serde_json::Value::String(text) => text.clone(),
            number @ serde_json::Value::Number(_) => number.to_string(),
            _ => return None,
        };
        let created_at = feed.get("created_at").and_then(|at| at.as_str()).and_then(time);
        Some(FieldValue {
            entry_id: feed.get("entry_id")?.as_u64()?,
            value,
            created_at,
            sent_at: reply.date(),
        })
    }))
}

/// The reply to a single write: whether it is stored.
pub(super) fn stored(reply: &Reply) -> Result<(), SendError> {
    let body = sound(reply, "the channel")?;
    let entry = serde_json::from_str::<serde_json::Value>(body).ok();
    let entry = entry.and_then(|it| it.as_u64().or_else(|| it.get("entry_id")?.as_u64()));
    match entry {
        Some(0) => {
            let why = "not stored (0): another write came less than 15 s before".to_owned();
            Err(SendError::Retry { after: Some(TOO_EARLY), why })
        }
        Some(_) => Ok(()),
        None => Err(strange(reply)),
    }
}

fn time(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

/// The body of a reply that is ThingSpeak's and says that all is well.
fn sound<'r>(reply: &'r Reply, what: &str) -> Result<&'r str, SendError> {
    let hold = |why: &str| Err(SendError::Hold { why: format!("{why}: {}", describe(reply)) });
    match reply.status {
        429 => {
            let after = reply.retry_after().unwrap_or_default().max(TOO_EARLY);
            Err(SendError::Retry { after: Some(after), why: describe(reply) })
        }
        _ if reply.is_html() => Err(strange(reply)),
        200 => Ok(reply.body.trim()),
        400 | 405 | 422 => hold("the request is not understood"),
        401 | 403 => hold(&format!("the key does not belong to {what}")),
        402 => hold("the licence's allowance is used up"),
        404 => hold(&format!("there is no such number as that of {what}")),
        408 | 425 | 500..=599 => Err(SendError::Retry { after: reply.retry_after(), why: describe(reply) }),
        _ => Err(strange(reply)),
    }
}

fn parse<T: for<'de> Deserialize<'de>>(reply: &Reply) -> Result<T, SendError> {
    serde_json::from_str(&reply.body).map_err(|_| strange(reply))
}

fn strange(reply: &Reply) -> SendError {
    SendError::Retry {
        after: reply.retry_after(),
        why: format!("not ThingSpeak's answer: {}", describe(reply)),
    }
}

fn describe(reply: &Reply) -> String {
    quote(format!("{} {}", reply.status, reply.body).trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, body: &str) -> Reply {
        Reply::fake(status, &[], body)
    }

    #[test]
    fn an_empty_queue_has_three_forms() {
        for body in ["", "{}", "null", " {}\n"] {
            assert_eq!(taken(&reply(200, body)), Ok(None), "{body:?}");
        }
    }

    #[test]
    fn a_command_is_taken_with_the_time_at_which_it_was_queued() {
        let body = r#"{"id":17,"command_string":"LED 50","position":null,"executed_at":"2026-01-01T00:01:00Z","created_at":"2026-01-01T00:00:00Z"}"#;
        let command = taken(&reply(200, body)).unwrap().unwrap();
        assert_eq!((command.id, command.text.as_str()), (17, "LED 50"));
        assert_eq!(command.created_at.unwrap().unix_timestamp(), 1_767_225_600);
    }

    #[test]
    fn what_is_not_thingspeaks_answer_takes_nothing() {
        for (status, body) in
            [(200, "<html>login</html>"), (200, "[]"), (200, r#"{"id":"x"}"#), (202, "{}"), (302, "")]
        {
            assert!(matches!(taken(&reply(status, body)), Err(SendError::Retry { .. })), "{status} {body}");
        }
        for status in [400, 401, 402, 403, 404, 405, 422] {
            assert!(matches!(taken(&reply(status, "{}")), Err(SendError::Hold { .. })), "{status}");
        }
        let early = taken(&reply(429, ""));
        assert!(matches!(early, Err(SendError::Retry { after: Some(TOO_EARLY), .. })), "{early:?}");
    }

    #[test]
    fn the_last_value_of_a_field_is_behind_entries_of_other_fields() {
        let body = r#"{"channel":{"id":1},"feeds":[
            {"created_at":"2026-01-01T00:00:00Z","entry_id":1,"field2":"10"},
            {"created_at":"2026-01-01T00:00:20Z","entry_id":2,"field2":"128"},
            {"created_at":"2026-01-01T00:00:40Z","entry_id":3,"field2":null}]}"#;
        let last = last_value(&reply(200, body), 2).unwrap().unwrap();
        assert_eq!((last.entry_id, last.value.as_str()), (2, "128"));
        assert_eq!(last_value(&reply(200, r#"{"feeds":[]}"#), 2), Ok(None));
        assert!(matches!(last_value(&reply(200, "-1"), 2), Err(SendError::Hold { .. })));
    }

    #[test]
    fn a_zero_with_200_is_no_success() {
        assert_eq!(stored(&reply(200, "17")), Ok(()));
        assert_eq!(stored(&reply(200, r#"{"entry_id":17}"#)), Ok(()));
        assert!(matches!(stored(&reply(200, "0")), Err(SendError::Retry { after: Some(_), .. })));
        assert!(matches!(stored(&reply(200, "ok")), Err(SendError::Retry { after: None, .. })));
    }
}
