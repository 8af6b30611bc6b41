//! A row of the table, and what becomes of it.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::SupabaseCommands;
use crate::message::{DeviceId, Qos, Topic};
use crate::relay::{FailedIf, NewCommand, Origin, Reply, State};

/// What is asked of a row.
pub(super) const COLUMNS: &str =
    "id,gateway_id,device,topic,payload,qos,key,good_for_s,reply_topic,created_at";

/// A row that nobody has taken yet.
#[derive(Debug, Deserialize)]
struct Row<'a> {
    gateway_id: String,
    device: String,
    topic: Option<String>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    qos: Option<u64>,
    key: Option<String>,
    good_for_s: Option<f64>,
    reply_topic: Option<String>,
    created_at: String,
}

/// What becomes of a row.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A command.
    Command(Box<NewCommand>),
    /// Nothing: this is its end, and why.
    Ended(State, String),
    /// It is not known how old it is.
    Undated,
}

/// What rows are read with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) settings: &'a SupabaseCommands,
    pub(super) origin: &'a Origin,
    pub(super) gateway: &'a DeviceId,
    /// What time it is, by whoever knows.
    pub(super) now: Option<SystemTime>,
}

/// The name of a row: a number, or a text such as a UUID.
pub(super) fn id(row: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        id: Value,
    }
    match serde_json::from_str::<Named>(row).ok()?.id {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

impl Reader<'_> {
    pub(super) fn read(&self, id: &str, text: &str) -> Verdict {
        let refused = |why: String| Verdict::Ended(State::Refused, why);
        let row: Row<'_> = match serde_json::from_str(text) {
            Ok(row) => row,
            Err(why) => return refused(format!("the row is not as it has to be: {why}")),
        };
        if row.gateway_id != self.gateway.as_str() {
            return refused(format!("this gateway is {}", self.gateway));
        }
        let good_for = match row.good_for_s {
            None => self.settings.good_for,
            Some(seconds) => match Duration::try_from_secs_f64(seconds) {
                Ok(good_for) => good_for,
                Err(why) => return refused(format!("good_for_s: {why}")),
            },
        };
        let Some(created_at) = timestamp(&row.created_at) else {
            return refused(format!("created_at: {:?} is not a time", row.created_at));
        };
        let Some(now) = self.now else { return Verdict::Undated };
        let left = good_for.saturating_sub(now.duration_since(created_at).unwrap_or_default());
        if left.is_zero() {
            return Verdict::Ended(State::Expired, "its time was over before the gateway saw it".to_owned());
        }
        match self.command(id, &row, left) {
            Ok(command) => Verdict::Command(Box::new(command)),
            Err(why) => refused(why),
        }
    }

    fn command(&self, id: &str, row: &Row<'_>, good_for: Duration) -> Result<NewCommand, String> {
        let device = DeviceId::parse(&row.device).map_err(|why| format!("device: {why}"))?;
        let value = value(row.payload);
        let fill = |place: &str| -> Cow<'_, str> {
            if place == "value" { value.as_ref().into() } else { device.as_str().into() }
        };
        let topic = |name: &str, own: Option<&str>, template: Option<&crate::message::Template>| {
            let text = own.map(str::to_owned).or_else(|| Some(template?.fill(fill)));
            text.map(|text| Topic::parse(&text).map_err(|why| format!("{name} {text:?}: {why}"))).transpose()
        };
        let to = topic("topic", row.topic.as_deref(), Some(&self.settings.topic))?;
        let reply = topic("reply_topic", row.reply_topic.as_deref(), self.settings.reply_topic.as_ref())?;
        Ok(NewCommand {
            topic: to.expect("there is a template"),
            payload: self.settings.payload.fill(fill).into(),
            qos: match row.qos {
                None => self.settings.qos,
                Some(0) => Qos::AtMostOnce,
                Some(1) => Qos::AtLeastOnce,
                Some(2) => Qos::ExactlyOnce,
                Some(other) => return Err(format!("qos: {other} is not 0, 1 or 2")),
            },
            origin: Origin { reference: Some(id.into()), ..self.origin.clone() },
            key: row.key.as_deref().map(Into::into),
            good_for,
            reply: reply.map(|topic| Reply { topic, failed_if: FailedIf::default() }),
            device,
        })
    }
}

/// What a payload says: the text itself of a JSON string, the JSON of anything else, byte for byte as it came.
fn value(payload: Option<&RawValue>) -> Cow<'_, str> {
    let json = payload.map_or("", RawValue::get);
    match serde_json::from_str::<Option<String>>(json) {
        Ok(Some(text)) => text.into(),
        _ => json.into(),
    }
}

/// `2026-01-01T00:00:00.5+00:00` of PostgREST, `2026-01-01 00:00:00+00` of PostgreSQL itself.
fn timestamp(text: &str) -> Option<SystemTime> {
    let mut text = text.trim().replacen(' ', "T", 1);
    let has_hours_alone = text.len() > 3 && matches!(text.as_bytes()[text.len() - 3], b'+' | b'-');
    if has_hours_alone {
        text.push_str(":00");
    }
    OffsetDateTime::parse(&text, &Rfc3339).ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::config::{CommandSourceKind, Config};
    use crate::relay::Source;

    /// 2026-01-01T00:01:00Z.
    const NOW: Duration = Duration::from_secs(1_767_225_660);

    fn verdict_with(settings: &str, now: Option<Duration>, row: &str) -> Verdict {
        let config = Config::from_toml(&format!(
            "[[command_source]]\nname = \"cloud\"\ntype = \"supabase\"\nurl = \"https://x\"\nkey = \"K\"\n{settings}"
        ))
        .unwrap();
        let CommandSourceKind::Supabase(settings) = &config.command_sources[0].kind else {
            panic!("{config:?}")
        };
        let origin = Origin { source: Source::Supabase, name: "cloud".into(), reference: None };
        let gateway = DeviceId::parse("gw").unwrap();
        let now = now.map(|now| UNIX_EPOCH + now);
        Reader { settings, origin: &origin, gateway: &gateway, now }.read("7", row)
    }

    fn verdict(row: &str) -> Verdict {
        verdict_with("", Some(NOW), row)
    }

    fn row(more: &str) -> String {
        format!(
            r#"{{"id":7,"gateway_id":"gw","device":"lamp","created_at":"2026-01-01T00:00:00+00:00"{more}}}"#
        )
    }

    fn command(settings: &str, row: &str) -> NewCommand {
        match verdict_with(settings, Some(NOW), row) {
            Verdict::Command(command) => *command,
            other => panic!("{row}: {other:?}"),
        }
    }

    #[test]
    fn a_row_becomes_a_command_that_is_good_for_what_is_left_of_its_time() {
        let bare = command("", &row(r#","payload":{"b":1.0}"#));
        assert_eq!((bare.topic.as_str(), &bare.payload[..]), ("lamp/cmd", &br#"{"b":1.0}"#[..]));
        assert_eq!((bare.qos, bare.reply.is_none()), (Qos::AtLeastOnce, true));
        assert_eq!(bare.good_for, Duration::from_secs(300 - 60), "a minute has passed");
        assert_eq!(bare.origin.reference.as_deref(), Some("7"));

        let full = r#","payload":"on","topic":"lamp/set","qos":2,"key":"light","good_for_s":90,"reply_topic":"lamp/r""#;
        let full = command("payload = \"{device}={value}\"", &row(full));
        assert_eq!((full.topic.as_str(), &full.payload[..]), ("lamp/set", &b"lamp=on"[..]));
        assert_eq!((full.qos, full.key.as_deref()), (Qos::ExactlyOnce, Some("light")));
        assert_eq!(full.good_for, Duration::from_secs(30));
        assert_eq!(full.reply.unwrap().topic.as_str(), "lamp/r");
    }

    #[test]
    fn a_payload_goes_as_it_came_and_a_text_without_its_quotes() {
        for (payload, expected) in [
            (r#""on""#, "on"),
            (r#""{\"a\":1}""#, r#"{"a":1}"#),
            ("12345678901234567890.10", "12345678901234567890.10"),
            ("true", "true"),
            ("null", ""),
            (r#"{"z":1, "a":[ ]}"#, r#"{"z":1, "a":[ ]}"#),
        ] {
            let command = command("", &row(&format!(r#","payload":{payload}"#)));
            assert_eq!(command.payload, expected.as_bytes(), "{payload}");
        }
    }

    #[test]
    fn a_row_that_is_too_old_has_expired_and_one_of_unknown_age_waits() {
        let late = verdict(&row(r#","good_for_s":60"#));
        assert!(matches!(late, Verdict::Ended(State::Expired, _)), "{late:?}");
        assert_eq!(verdict_with("", None, &row("")), Verdict::Undated);
        let ahead = row("").replace("2026-01", "2027-01");
        assert_eq!(command("", &ahead).good_for, Duration::from_secs(300), "not longer than from now");
    }

    #[test]
    fn a_row_that_cannot_be_a_command_is_refused_with_the_reason() {
        for (row, reason) in [
            (row(r#","topic":"lamp/#""#), "topic \"lamp/#\""),
            (row(r#","reply_topic":"""#), "reply_topic \"\""),
            (row(r#","qos":3"#), "qos: 3"),
            (row(r#","good_for_s":-1"#), "good_for_s"),
            (row("").replace("lamp", "a b"), "device"),
            (row("").replace("\"gw\"", "\"other\""), "this gateway is gw"),
            (row("").replace("2026-01-01T", "yesterday "), "created_at"),
            (r#"{"id":7,"gateway_id":"gw"}"#.to_owned(), "not as it has to be"),
        ] {
            let Verdict::Ended(State::Refused, why) = verdict(&row) else { panic!("{row}") };
            assert!(why.contains(reason), "{row}: {why}");
        }
    }

    #[test]
    fn times_are_read_in_every_form_in_which_they_come() {
        let expected = UNIX_EPOCH + Duration::from_millis(1_767_225_600_500);
        for text in [
            "2026-01-01T00:00:00.5+00:00",
            "2026-01-01T00:00:00.500Z",
            "2026-01-01 00:00:00.5+00",
            "2026-01-01 02:00:00.5+02",
            "2025-12-31T21:30:00.5-02:30",
        ] {
            assert_eq!(timestamp(text), Some(expected), "{text}");
        }
        for text in ["", "+00", "2026-01-01", "now"] {
            assert_eq!(timestamp(text), None, "{text}");
        }
    }

    #[test]
    fn a_row_is_named_by_a_number_or_a_text() {
        assert_eq!(id(r#"{"id":9007199254740993}"#).as_deref(), Some("9007199254740993"));
        assert_eq!(id(r#"{"id":"4a1e"}"#).as_deref(), Some("4a1e"));
        assert_eq!(id(r#"{"id":null}"#), None);
        assert_eq!(id("{}"), None);
    }
}
