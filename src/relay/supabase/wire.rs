//! Realtime's messages in version 1.0.0, between text and value: `{"topic","event","payload","ref","join_ref"}`.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::config::Secret;

/// The version that is asked for: text alone.
pub(super) const VERSION: &str = "1.0.0";

/// The topic of the heartbeat.
const PHOENIX: &str = "phoenix";

/// What the server says.
#[derive(Debug)]
pub(super) enum Said {
    /// It answers the message with this number.
    Reply { to: u64, answer: Answer },
    /// It tells how a part of the channel is.
    System { extension: String, answer: Answer },
    /// A row has come.
    Row,
    /// The channel has come to its end.
    Closed,
    /// The channel has crashed.
    Crashed,
    /// Something that nobody here waits for.
    Other,
}

/// Whether all is well, and if not, why not.
pub(super) type Answer = Result<(), String>;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(rename = "ref")]
    number: Option<Value>,
}

#[derive(Deserialize)]
struct Status {
    status: String,
    #[serde(default)]
    response: Value,
    #[serde(default)]
    extension: String,
    #[serde(default)]
    message: Value,
}

#[derive(Deserialize)]
struct Change {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "type")]
    kind: String,
}

/// Reads a message; `None` if it is none.
pub(super) fn read(text: &str, channel: &str) -> Option<Said> {
    let message: Envelope = serde_json::from_str(text).ok()?;
    if message.topic != channel && message.topic != PHOENIX {
        return Some(Said::Other);
    }
    let payload = message.payload.get();
    Some(match &*message.event {
        "phx_reply" => {
            let Status { status, response, .. } = serde_json::from_str(payload).ok()?;
            match number(message.number.as_ref()) {
                Some(to) => {
                    Said::Reply { to, answer: answer(&status, response.get("reason").unwrap_or(&response)) }
                }
                None => Said::Other,
            }
        }
        "system" => {
            let Status { status, extension, message, .. } = serde_json::from_str(payload).ok()?;
            Said::System { extension, answer: answer(&status, &message) }
        }
        "postgres_changes" => {
            let Change { data } = serde_json::from_str(payload).ok()?;
            if data.kind == "INSERT" { Said::Row } else { Said::Other }
        }
        "phx_close" => Said::Closed,
        "phx_error" => Said::Crashed,
        _ => Said::Other,
    })
}

fn number(value: Option<&Value>) -> Option<u64> {
    match value? {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    }
}

fn answer(status: &str, why: &Value) -> Answer {
    if status == "ok" {
        return Ok(());
    }
    Err(why.as_str().map_or_else(|| why.to_string(), str::to_owned))
}

/// Which rows are wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) schema: &'a str,
    pub(super) table: &'a str,
    pub(super) gateway: &'a str,
}

/// Asks for a channel on which new rows are told.
pub(super) fn join(channel: &str, number: u64, wanted: Wanted<'_>, token: Option<&Secret>) -> String {
    let mut payload = json!({ "config": {
        "broadcast": { "ack": false, "self": false },
        "presence": { "enabled": false, "key": "" },
        "postgres_changes": [{
            "event": "INSERT",
            "schema": wanted.schema,
            "table": wanted.table,
            "filter": format!("gateway_id=eq.{}", wanted.gateway),
        }],
        "private": false,
    }});
    if let Some(token) = token {
        payload["access_token"] = token.expose().into();
    }
    message(channel, "phx_join", &payload, number)
}

/// Tells of another token. The server answers only if it is bad.
pub(super) fn renew(channel: &str, number: u64, token: &Secret) -> String {
    message(channel, "access_token", &json!({ "access_token": token.expose() }), number)
}

/// Shows that this side is there, and asks whether that one is.
pub(super) fn heartbeat(number: u64) -> String {
    let payload = json!({});
    json!({ "topic": PHOENIX, "event": "heartbeat", "payload": payload, "ref": number.to_string() })
        .to_string()
}

fn message(channel: &str, event: &str, payload: &Value, number: u64) -> String {
    // The join is the first message, and its number names it for ever.
    json!({ "topic": channel, "event": event, "payload": payload, "ref": number.to_string(), "join_ref": "1" })
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANNEL: &str = "realtime:tampu";

    fn said(event: &str, payload: &str) -> Option<Said> {
        read(&format!(r#"{{"topic":"{CHANNEL}","event":"{event}","payload":{payload},"ref":"7"}}"#), CHANNEL)
    }

    #[test]
    fn a_reply_says_whether_the_join_was_accepted_and_why_not() {
        let ok = said("phx_reply", r#"{"status":"ok","response":{"postgres_changes":[{"id":1}]}}"#);
        assert!(matches!(ok, Some(Said::Reply { to: 7, answer: Ok(()) })), "{ok:?}");
        let why = |response: &str| {
            let said = said("phx_reply", &format!(r#"{{"status":"error","response":{response}}}"#));
            let Some(Said::Reply { answer: Err(why), .. }) = said else { panic!("{said:?}") };
            why
        };
        assert_eq!(why(r#"{"reason":"Unauthorized: no"}"#), "Unauthorized: no");
        assert_eq!(why(r#""plain""#), "plain");
        assert_eq!(why(r#"{"code":3}"#), r#"{"code":3}"#, "whatever it is, it is shown");
    }

    #[test]
    fn a_new_row_is_told_and_a_changed_one_is_none() {
        let change = |kind: &str| {
            let record = r#"{"id":1,"payload":{"t":1.0}}"#;
            let data = format!(r#"{{"type":"{kind}","record":{record},"errors":["Payload Too Large"]}}"#);
            said("postgres_changes", &format!(r#"{{"ids":[1],"data":{data}}}"#))
        };
        assert!(matches!(change("INSERT"), Some(Said::Row)));
        assert!(matches!(change("UPDATE"), Some(Said::Other)));
    }

    #[test]
    fn what_is_not_for_this_channel_is_passed_over_and_what_is_no_message_is_none() {
        let other = r#"{"topic":"realtime:other","event":"phx_close","payload":{},"ref":null}"#;
        assert!(matches!(read(other, CHANNEL), Some(Said::Other)));
        for text in ["", "[]", "<html>", r#"{"topic":"realtime:tampu"}"#, r#"[null,"1","t","e",{}]"#] {
            assert!(read(text, CHANNEL).is_none(), "{text}");
        }
        assert!(said("phx_reply", "{}").is_none());
    }

    #[test]
    fn a_join_carries_the_filter_and_the_token_if_there_is_one() {
        let wanted = Wanted { schema: "public", table: "commands", gateway: "gw-1" };
        let bare: Value = serde_json::from_str(&join(CHANNEL, 1, wanted, None)).unwrap();
        assert_eq!((&bare["ref"], &bare["join_ref"]), (&json!("1"), &json!("1")));
        assert_eq!(bare["payload"]["config"]["postgres_changes"][0]["filter"], "gateway_id=eq.gw-1");
        assert!(bare["payload"].get("access_token").is_none());
        let token = Secret::new("eyJ.a.b".to_owned());
        let with: Value = serde_json::from_str(&join(CHANNEL, 1, wanted, Some(&token))).unwrap();
        assert_eq!(with["payload"]["access_token"], "eyJ.a.b");
    }
}
