//! The `[[sink]]` tables.

use std::collections::BTreeSet;
use std::time::Duration;

use figment::value::{Dict, Value};

use super::table::{Table, shown, text_of};
use super::{
    Collision, ColumnMapping, ColumnValue, Sink, SinkKind, Stream, Supabase, SupabaseRows, ThingSpeak,
    ThingSpeakMapping, ThingSpeakTarget,
};
use crate::message::DeviceId;

/// Where the service itself answers: its limits are not the operator's to choose.
pub(super) const THINGSPEAK: &str = "https://api.thingspeak.com";

/// ThingSpeak takes a bulk write per channel every 15 s, on every licence.
const THINGSPEAK_INTERVAL: Duration = Duration::from_secs(15);

const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn sinks(root: &mut Table, streams: &[Stream]) -> Vec<Sink> {
    let mut names = BTreeSet::new();
    let mut sinks: Vec<Sink> = Vec::new();
    for (path, dict) in root.tables("sink") {
        let mut table = Table::new(path, dict, root.notes);
        if let Some(sink) = sink(&mut table, streams) {
            if !names.insert(sink.name.clone()) {
                table.wrong("name", None, "another sink has this name");
            }
            if let Some(other) = sinks.iter().find(|other| same_channel(other, &sink)) {
                let name = &other.name;
                table.wrong(
                    "channel",
                    None,
                    format!("the sink {name} writes to it already, at the pace that it allows"),
                );
            }
            sinks.push(sink);
        }
        table.finish();
    }
    sinks
}

fn same_channel(one: &Sink, other: &Sink) -> bool {
    match (&one.kind, &other.kind) {
        (SinkKind::ThingSpeak(one), SinkKind::ThingSpeak(other)) => {
            (&one.url, one.channel) == (&other.url, other.channel)
        }
        _ => false,
    }
}

fn sink(table: &mut Table, streams: &[Stream]) -> Option<Sink> {
    let name = table.parsed("name", DeviceId::parse);
    if name.is_none() {
        table.missing("name", "a short name, such as \"cloud\"; counters and cursors hang on it");
    }
    let wanted = table.list("streams", |text| known_stream(text, streams)).unwrap_or_default();
    let timeout = table
        .duration("timeout", Duration::from_millis(100)..=Duration::from_secs(600))
        .unwrap_or(Duration::from_secs(30));
    let ca_file = table.path("ca_file");
    if let Some(file) = ca_file.as_ref().filter(|file| !file.is_file()) {
        table.wrong("ca_file", None, format!("{} is not a file", file.display()));
    }
    let live_first = table.value("live_first", "true or false").unwrap_or(true);
    let kind = match table.text("type").as_deref() {
        Some("thingspeak") => thingspeak(table, streams).map(SinkKind::ThingSpeak),
        Some("supabase") => supabase(table).map(SinkKind::Supabase),
        Some(other) => {
            table.wrong("type", None, format!("{other:?} is not \"thingspeak\" or \"supabase\""));
            table.ignore_rest();
            None
        }
        None => {
            table.missing("type", "\"thingspeak\" or \"supabase\"");
            table.ignore_rest();
            None
        }
    };
    Some(Sink { name: name?, streams: wanted, kind: kind?, timeout, ca_file, live_first })
}

fn known_stream(text: &str, streams: &[Stream]) -> Result<String, String> {
    if streams.iter().any(|stream| stream.name == text) {
        return Ok(text.to_owned());
    }
    let known: Vec<_> = streams.iter().map(|stream| stream.name.as_str()).collect();
    Err(format!("there is no such stream; there are: {}", known.join(", ")))
}

/// The address of a service, without a slash at its end. It may be shown: nothing secret may stand in it.
pub(super) fn base_url(table: &mut Table) -> Option<String> {
    let value = table.take("url")?;
    let text = text_of(&value);
    let parsed = reqwest::Url::parse(&text);
    let loopback = |url: &reqwest::Url| matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    let what = match &parsed {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            "a user name or password does not belong into an address; use key or write_key"
        }
        Ok(url) if url.scheme() == "https" || (url.scheme() == "http" && loopback(url)) => {
            return Some(text.trim_end_matches('/').to_owned());
        }
        Ok(url) if url.scheme() == "http" => "the key would cross the network in the clear; write https://",
        _ => "this is not an address such as \"https://api.thingspeak.com\"",
    };
    table.wrong("url", Some(&value), what);
    None
}

fn thingspeak(table: &mut Table, streams: &[Stream]) -> Option<ThingSpeak> {
    let url = base_url(table).unwrap_or_else(|| THINGSPEAK.to_owned());
    let channel = table.number("channel", 1..=u64::MAX);
    if channel.is_none() {
        table.missing("channel", "the channel's number");
    }
    let write_key = table.secret("write_key");
    if write_key.is_none() {
        table.missing("write_key", "the channel's write key, for example { env = \"THINGSPEAK_KEY\" }");
    }
    let fields = match table.take("fields") {
        Some(Value::Dict(_, dict)) => mappings(table, &dict, streams),
        other => {
            if let Some(value) = other {
                table.wrong("fields", Some(&value), "write fields = { field1 = \"temperature\" }");
            }
            Vec::new()
        }
    };
    if fields.is_empty() {
        table.missing("fields", "which value goes where: { field1 = \"temperature\" }");
    }
    let interval = table.duration("interval", Duration::ZERO..=DAY).unwrap_or(THINGSPEAK_INTERVAL);
    if url == THINGSPEAK && interval < THINGSPEAK_INTERVAL {
        table.wrong("interval", None, "ThingSpeak takes one bulk write per channel every 15 s");
    }
    let max_entries = table.count("max_entries", 1..=14_400).unwrap_or(960);
    let collision =
        table.value("collision", "\"average\", \"first\" or \"last\"").unwrap_or(Collision::Average);
    let average = table.duration("average", Duration::from_secs(1)..=DAY);
    let yearly_allowance = table.number("yearly_allowance", 1..=u64::MAX).unwrap_or(3_000_000);
    // Every key is asked for by now: what is left over is unknown.
    Some(ThingSpeak {
        url,
        channel: channel?,
        write_key: write_key?,
        fields,
        max_entries,
        interval,
        collision,
        average,
        yearly_allowance,
    })
}

/// `{ field1 = "t", field2 = { path = "h", device = "esp32-01" }, field3 = [ {…}, {…} ] }`
fn mappings(table: &mut Table, dict: &Dict, streams: &[Stream]) -> Vec<ThingSpeakMapping> {
    let mut mappings = Vec::new();
    for (key, value) in dict {
        let name = format!("fields.{key}");
        let Some(to) = target(key) else {
            let expected = "field1 to field8, latitude, longitude, elevation, status";
            table.wrong(&name, Some(value), format!("an entry has {expected}"));
            continue;
        };
        let entries = value.as_array().map_or(std::slice::from_ref(value), |entries| entries);
        for entry in entries {
            match mapping(entry, to, streams) {
                Ok(mapping) => mappings.push(mapping),
                Err(error) => table.wrong(&name, Some(entry), error),
            }
        }
    }
    mappings
}

fn target(key: &str) -> Option<ThingSpeakTarget> {
    match key {
        "latitude" => Some(ThingSpeakTarget::Latitude),
        "longitude" => Some(ThingSpeakTarget::Longitude),
        "elevation" => Some(ThingSpeakTarget::Elevation),
        "status" => Some(ThingSpeakTarget::Status),
        _ => match key.strip_prefix("field")?.parse() {
            Ok(number @ 1..=8) => Some(ThingSpeakTarget::Field(number)),
            _ => None,
        },
    }
}

fn mapping(value: &Value, to: ThingSpeakTarget, streams: &[Stream]) -> Result<ThingSpeakMapping, String> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Long {
        #[serde(default)]
        path: String,
        stream: Option<String>,
        device: Option<DeviceId>,
    }
    if let Value::String(_, path) = value {
        return Ok(ThingSpeakMapping { stream: None, device: None, path: path.clone(), to });
    }
    let Long { path, stream, device } = value.deserialize().map_err(|_| {
        format!("{} is not a path such as \"t\" or {{ path = …, stream = …, device = … }}", shown(value))
    })?;
    let stream = stream.map(|name| known_stream(&name, streams)).transpose()?;
    Ok(ThingSpeakMapping { stream, device, path, to })
}

fn supabase(table: &mut Table) -> Option<Supabase> {
    let url = base_url(table);
    if url.is_none() {
        table.missing("url", "the project's address, such as \"https://<ref>.supabase.co\"");
    }
    let key = table.secret("key");
    if key.is_none() {
        table.missing("key", "an API key, for example { credential = \"supabase-key\" }");
    }
    let schema = table.parsed("schema", identifier);
    let name = table.parsed("table", identifier).unwrap_or_else(|| "readings".to_owned());
    let rows = match table.take("columns") {
        None => SupabaseRows::Whole,
        Some(Value::Dict(_, dict)) if !dict.is_empty() => SupabaseRows::Columns(columns(table, &dict)),
        Some(other) => {
            table.wrong("columns", Some(&other), "write columns = { temperature = \"payload.t\" }");
            SupabaseRows::Whole
        }
    };
    let rest_path = table.text("rest_path").unwrap_or_else(|| "/rest/v1".to_owned());
    if url.as_ref().is_some_and(|url| !rest_path.is_empty() && url.ends_with(rest_path.trim_end_matches('/')))
    {
        table.wrong("url", None, format!("leave out {rest_path}: rest_path adds it"));
    }
    let token = table.secret("token");
    let max_rows = table.count("max_rows", 1..=20_000).unwrap_or(1_000);
    let max_bytes = table.bytes("max_request", 1024).and_then(|bytes| usize::try_from(bytes).ok());
    let interval = table.duration("interval", Duration::ZERO..=DAY).unwrap_or(Duration::from_secs(1));
    // Every key is asked for by now: what is left over is unknown.
    Some(Supabase {
        url: url?,
        rest_path,
        key: key?,
        token,
        schema,
        table: name,
        rows,
        max_rows,
        max_bytes: max_bytes.unwrap_or(1_000_000),
        interval,
    })
}

/// The name of a table or a schema.
pub(super) fn identifier(text: &str) -> Result<String, &'static str> {
    let good = !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || c == '_');
    if good { Ok(text.to_owned()) } else { Err("a name consists of letters, digits and '_'") }
}

fn columns(table: &mut Table, dict: &Dict) -> Vec<ColumnMapping> {
    let mut columns = Vec::new();
    for (column, value) in dict {
        let name = format!("columns.{column}");
        if ["gateway_id", "epoch", "seq"].contains(&column.as_str()) {
            table.wrong(&name, Some(value), "this column belongs to the key and is always sent");
            continue;
        }
        let text = text_of(value);
        let parsed = match text.as_str() {
            "device" => ColumnValue::Device,
            "stream" => ColumnValue::Stream,
            "topic" => ColumnValue::Topic,
            "time" => ColumnValue::Time,
            "clock" => ColumnValue::Clock,
            "payload" => ColumnValue::Payload(String::new()),
            other => match other.strip_prefix("payload.") {
                Some(path) => ColumnValue::Payload(path.to_owned()),
                None => {
                    let expected = "device, stream, topic, time, clock, payload or payload.<path>";
                    table.wrong(&name, Some(value), format!("{} is not one of {expected}", shown(value)));
                    continue;
                }
            },
        };
        columns.push(ColumnMapping { column: column.clone(), value: parsed });
    }
    columns
}
