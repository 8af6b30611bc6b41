//! The `[[command_source]]` tables.

use std::collections::BTreeSet;
use std::time::Duration;

use super::sinks::{THINGSPEAK, base_url};
use super::supabase_commands::supabase_commands;
use super::table::Table;
use super::{ChannelField, CommandSource, CommandSourceKind, CommandTemplate, Report, TalkBack};
use crate::message::{DeviceId, Qos, Template, Topic};

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// How often ThingSpeak is asked, and told, unless something else is said: what it takes on a free licence.
const THINGSPEAK_INTERVAL: Duration = Duration::from_secs(15);

/// How long a command is good, unless its source says something else.
pub(super) const GOOD_FOR: Duration = Duration::from_secs(300);

pub(super) fn command_sources(root: &mut Table) -> Vec<CommandSource> {
    let mut names = BTreeSet::new();
    let mut sources: Vec<CommandSource> = Vec::new();
    for (path, dict) in root.tables("command_source") {
        let mut table = Table::new(path, dict, root.notes);
        if let Some(source) = command_source(&mut table) {
            if !names.insert(source.name.clone()) {
                table.wrong("name", None, "another source of commands has this name");
            }
            if sources.iter().any(|other| same_talkback(other, &source)) {
                let what = "another source asks this TalkBack: what one takes the other does not see";
                table.wrong("talkback", None, what);
            }
            sources.push(source);
        }
        table.finish();
    }
    sources
}

fn same_talkback(one: &CommandSource, other: &CommandSource) -> bool {
    match (&one.kind, &other.kind) {
        (CommandSourceKind::TalkBack(one), CommandSourceKind::TalkBack(other)) => {
            (&one.url, one.talkback) == (&other.url, other.talkback)
        }
        _ => false,
    }
}

fn command_source(table: &mut Table) -> Option<CommandSource> {
    let name = table.parsed("name", DeviceId::parse);
    if name.is_none() {
        table.missing("name", "a short name, such as \"dashboard\"; its commands are known by it");
    }
    let timeout = table.duration("timeout", Duration::from_millis(100)..=Duration::from_secs(600));
    let ca_file = table.path("ca_file");
    if let Some(file) = ca_file.as_ref().filter(|file| !file.is_file()) {
        table.wrong("ca_file", None, format!("{} is not a file", file.display()));
    }
    let kind = match table.text("type").as_deref() {
        Some("talkback") => talkback(table).map(CommandSourceKind::TalkBack),
        Some("thingspeak_field") => field(table).map(CommandSourceKind::Field),
        Some("supabase") => supabase_commands(table).map(CommandSourceKind::Supabase),
        Some(other) => {
            table.wrong(
                "type",
                None,
                format!("{other:?} is not \"talkback\", \"thingspeak_field\" or \"supabase\""),
            );
            table.ignore_rest();
            None
        }
        None => {
            table.missing("type", "\"talkback\", \"thingspeak_field\" or \"supabase\"");
            table.ignore_rest();
            None
        }
    };
    let timeout = timeout.unwrap_or(Duration::from_secs(15));
    Some(CommandSource { name: name?, kind: kind?, timeout, ca_file })
}

fn talkback(table: &mut Table) -> Option<TalkBack> {
    let url = base_url(table).unwrap_or_else(|| THINGSPEAK.to_owned());
    let talkback = table.number("talkback", 1..=u64::MAX);
    if talkback.is_none() {
        table.missing("talkback", "the TalkBack's number");
    }
    let key = table.secret("key");
    if key.is_none() {
        table.missing("key", "the TalkBack's key, for example { env = \"TALKBACK_KEY\" }");
    }
    let interval = interval(table);
    let command = command_template(table, "command");
    let report = report(table);
    Some(TalkBack { url, talkback: talkback?, key: key?, interval, command: command?, report })
}

fn field(table: &mut Table) -> Option<ChannelField> {
    let url = base_url(table).unwrap_or_else(|| THINGSPEAK.to_owned());
    let channel = table.number("channel", 1..=u64::MAX);
    if channel.is_none() {
        table.missing("channel", "the channel's number");
    }
    let read_key = table.secret("read_key");
    let field = table.number("field", 1..=8).and_then(|field| u8::try_from(field).ok());
    if field.is_none() {
        table.missing("field", "the field's number, 1 to 8");
    }
    let interval = interval(table);
    let first_value = table.value("first_value", "true or false").unwrap_or(false);
    let command = command_template(table, "value");
    let report = report(table);
    Some(ChannelField {
        url,
        channel: channel?,
        read_key,
        field: field?,
        interval,
        first_value,
        command: command?,
        report,
    })
}

fn interval(table: &mut Table) -> Duration {
    table.duration("interval", SECOND..=DAY).unwrap_or(THINGSPEAK_INTERVAL)
}

/// `report = { write_key = { env = "NAME" }, interval = "15s" }`
fn report(table: &mut Table) -> Option<Report> {
    let mut table = table.table_if_there("report")?;
    let write_key = table.secret("write_key");
    if write_key.is_none() {
        table.missing("write_key", "the write key of the channel whose status is told");
    }
    let interval = interval(&mut table);
    table.finish();
    Some(Report { write_key: write_key?, interval })
}

/// What every source says about the commands that it makes; `place`: what stands for what the source says.
pub(super) fn command_template(table: &mut Table, place: &'static str) -> Option<CommandTemplate> {
    let device = table.parsed("device", DeviceId::parse);
    if device.is_none() {
        table.missing("device", "who gets the commands");
    }
    let of_device = |text: &str| Template::parse(text, &["device"]);
    let topic = table.parsed("topic", of_device);
    let topic = topic.or_else(|| of_device("{device}/cmd").ok());
    let reply_topic = table.parsed("reply_topic", of_device);
    let payload = table.parsed("payload", |text| Template::parse(text, &["device", place]));
    let payload = payload.or_else(|| Template::parse(&format!("{{{place}}}"), &[place]).ok());
    for (key, template) in [("topic", topic.as_ref()), ("reply_topic", reply_topic.as_ref())] {
        if let (Some(template), Some(device)) = (template, &device)
            && let Err(why) = Topic::parse(&template.fill(|_| device.as_str().into()))
        {
            table.wrong(key, None, why);
        }
    }
    let qos = qos(table);
    let good_for = table.duration("good_for", SECOND..=DAY).unwrap_or(GOOD_FOR);
    let key = table.text("key_of_commands");
    Some(CommandTemplate {
        device: device?,
        topic: topic?,
        payload: payload?,
        qos,
        good_for,
        key,
        reply_topic,
    })
}

/// The QoS of commands: 1, if nothing else is said.
pub(super) fn qos(table: &mut Table) -> Qos {
    table.number("qos", 0..=2).map_or(Qos::AtLeastOnce, |qos| match qos {
        0 => Qos::AtMostOnce,
        1 => Qos::AtLeastOnce,
        _ => Qos::ExactlyOnce,
    })
}
