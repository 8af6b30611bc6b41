//! Phoenix's messages in both versions of Realtime's protocol.

use serde_json::{Value, json};

/// `vsn=` of the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// 1.0.0: an object.
    One,
    /// 2.0.0: an array of five, or a binary frame.
    Two,
}

/// A message, either way.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Message {
    pub(super) join_ref: Value,
    pub(super) number: Value,
    pub(super) topic: String,
    pub(super) event: String,
    pub(super) payload: Value,
}

impl Version {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "1.0.0" => Some(Self::One),
            "2.0.0" => Some(Self::Two),
            _ => None,
        }
    }

    /// `None`: the server closes the connection.
    pub(super) fn read(self, text: &str) -> Option<Message> {
        let message: Value = serde_json::from_str(text).ok()?;
        let [join_ref, number, topic, event, payload] = match self {
            Self::One => {
                ["join_ref", "ref", "topic", "event", "payload"].map(|name| message.get(name).cloned())
            }
            Self::Two => {
                let parts = message.as_array().filter(|parts| parts.len() == 5)?;
                std::array::from_fn(|index| parts.get(index).cloned())
            }
        };
        Some(Message {
            join_ref: reference(join_ref)?,
            number: reference(number)?,
            topic: topic?.as_str()?.to_owned(),
            event: event?.as_str()?.to_owned(),
            payload: payload.filter(Value::is_object)?,
        })
    }

    pub(super) fn write(self, message: &Message) -> String {
        let Message { join_ref, number, topic, event, payload } = message;
        match self {
            Self::One => json!({
                "topic": topic, "event": event, "payload": payload, "ref": number, "join_ref": join_ref,
            }),
            Self::Two => json!([join_ref, number, topic, event, payload]),
        }
        .to_string()
    }
}

/// A text, or nothing.
fn reference(value: Option<Value>) -> Option<Value> {
    let value = value.unwrap_or(Value::Null);
    (value.is_null() || value.is_string()).then_some(value)
}

impl Message {
    /// The answer to a message.
    pub(super) fn reply(&self, status: &str, response: &Value) -> Self {
        Self {
            event: "phx_reply".to_owned(),
            payload: json!({ "status": status, "response": response }),
            ..self.clone()
        }
    }
}
