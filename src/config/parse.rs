//! From figment's values to [`Config`], a function a table of the file.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use figment::Figment;
use figment::value::{Dict, Value};

use super::access::{DoorSettings, access, client_auth, device_match};
use super::api::api;
use super::command_sources::command_sources;
use super::commands::commands;
use super::firmware::firmware;
use super::listener::{limits, listener, plain, websocket};
use super::messages::{Profile, messages, profile};
use super::rules::rules;
use super::sessions::{retained, sessions};
use super::sinks::sinks;
use super::table::{Notes, Table, secret_of, shown};
use super::{
    Buffer, ClientAuth, Clock, ClockSource, Config, DeviceSource, Door, Field, FieldKind, FullPolicy,
    Integrity, IntegrityCheck, Invalid, Log, LogFormat, PayloadFormat, Pki, Problem, Stream,
};
use crate::message::{DeviceId, TopicFilter};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const YEARS: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Reads everything, and says everything that is wrong; defaults stand for what is.
///
/// # Errors
/// When nothing can be read at all.
pub(super) fn config(figment: &Figment) -> Result<(Config, Vec<Problem>), Invalid> {
    let mut notes = Notes { figment, problems: Vec::new() };
    let values = match figment.extract::<Dict>() {
        Ok(values) => values,
        Err(error) => {
            notes.note(String::new(), None, error);
            return Err(Invalid(notes.problems));
        }
    };
    let mut root = Table::new(String::new(), values, &mut notes);
    let (gateway_id, data_dir, shutdown_timeout, profile) = gateway(root.table("gateway"));
    let log = log(root.table("log"));
    let pki = pki(root.table("pki"));
    let listener = listener(root.table("listener"));
    let websocket = websocket(&mut root, listener.address);
    let plain = plain(&mut root);
    let limits = limits(root.table("limits"));
    let mut doors = vec![DoorSettings {
        door: Door::Tls,
        identities: listener.identities.as_deref(),
        client_auth: listener.client_auth,
    }];
    doors.extend(websocket.as_ref().map(|websocket| DoorSettings {
        door: Door::WebSocket,
        identities: websocket.identities.as_deref(),
        client_auth: websocket.client_auth,
    }));
    doors.extend(plain.as_ref().map(|plain| DoorSettings {
        door: Door::Plain,
        identities: plain.identities.as_deref(),
        client_auth: ClientAuth::Optional,
    }));
    let firmware = firmware(root.table("firmware"), listener.address);
    doors.extend(firmware.address.map(|_| DoorSettings {
        door: Door::Firmware,
        identities: Some(&firmware.identities),
        client_auth: client_auth(Some(&firmware.identities)),
    }));
    let mut access = access(&mut root, &doors);
    let sessions = sessions(root.table("sessions"));
    let retained = retained(root.table("retained"));
    let commands = commands(root.table("commands"));
    let messages = messages(&mut root, profile, &mut access, &commands);
    let streams = streams(&mut root);
    let buffer = buffer(root.table("buffer"));
    let clock = clock(root.table("clock"));
    let sinks = sinks(&mut root, &streams);
    let api = api(root.table("api"));
    let command_sources = command_sources(&mut root);
    let rules = rules(&mut root, &streams);
    root.finish();
    let config = Config {
        gateway_id,
        data_dir,
        log,
        shutdown_timeout,
        pki,
        listener,
        websocket,
        plain,
        limits,
        sessions,
        retained,
        commands,
        messages,
        access,
        streams,
        buffer,
        clock,
        firmware,
        sinks,
        api,
        command_sources,
        rules,
    };
    Ok((config, notes.problems))
}

fn gateway(mut table: Table) -> (DeviceId, PathBuf, Duration, Option<Profile>) {
    let id = table.parsed("id", DeviceId::parse).unwrap_or_else(host_id);
    let data_dir = table.path("data_dir").or_else(default_data_dir);
    if data_dir.is_none() {
        table.missing("data_dir", "there is neither STATE_DIRECTORY nor HOME to tell where data may be kept");
    }
    let shutdown_timeout =
        table.duration("shutdown_timeout", SECOND..=HOUR).unwrap_or(Duration::from_secs(20));
    let profile = profile(&mut table);
    table.finish();
    (id, data_dir.unwrap_or_default(), shutdown_timeout, profile)
}

/// The host's name, as far as it can be a device name.
fn host_id() -> DeviceId {
    hostname::get()
        .ok()
        .and_then(|name| name.into_string().ok())
        .and_then(|name| DeviceId::parse(name.split('.').next().unwrap_or_default()).ok())
        .unwrap_or_else(|| DeviceId::parse("tampu").expect("it keeps the rules"))
}

/// systemd's state directory; the system's for root; the user's otherwise (XDG Base Directory).
fn default_data_dir() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(state) = variable("STATE_DIRECTORY") {
        return Some(state);
    }
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from(super::SYSTEM_DATA_DIR));
    }
    let state = variable("XDG_STATE_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/state")));
    state.map(|state| state.join("tampu"))
}

fn log(mut table: Table) -> Log {
    let format =
        table.value("format", "\"auto\", \"text\", \"json\" or \"journal\"").unwrap_or(LogFormat::Auto);
    let level = table.parsed("level", log_level);
    table.finish();
    Log { format, level: level.unwrap_or_else(|| "info".to_owned()) }
}

/// `info`, or `info,tampu::broker=debug`: to `tracing`, a misspelt level would be the name of a module.
fn log_level(text: &str) -> Result<String, &'static str> {
    for part in text.split(',') {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        let known = level.trim().parse::<tracing::level_filters::LevelFilter>().is_ok();
        if !known || level.trim().is_empty() {
            return Err("a level is \"error\", \"warn\", \"info\", \"debug\", \"trace\" or \"off\"");
        }
    }
    Ok(text.to_owned())
}

fn pki(mut table: Table) -> Pki {
    let pki = Pki {
        ca_cert: table.path("ca_cert"),
        ca_key: table.path("ca_key"),
        server_cert: table.path("server_cert"),
        server_key: table.path("server_key"),
        names: table
            .list("names", |name| Ok::<_, std::convert::Infallible>(name.to_owned()))
            .unwrap_or_default(),
        crl: table
            .list("crl", |path| Ok::<_, std::convert::Infallible>(PathBuf::from(path)))
            .unwrap_or_default(),
    };
    if pki.ca_key.is_some() && pki.ca_cert.is_none() {
        table.missing("ca_cert", "ca_key needs the certificate that belongs to it");
    }
    if pki.server_cert.is_some() && pki.server_key.is_none() {
        table.missing("server_key", "server_cert needs the key that belongs to it");
    }
    if pki.server_key.is_some() && pki.server_cert.is_none() {
        table.missing("server_cert", "server_key needs the certificate that belongs to it");
    }
    table.finish();
    pki
}

fn streams(root: &mut Table) -> Vec<Stream> {
    let tables = root.tables("stream");
    if tables.is_empty() {
        return vec![Stream::default()];
    }
    let mut names = BTreeSet::new();
    let mut streams: Vec<Stream> = Vec::new();
    for (path, dict) in tables {
        let mut table = Table::new(path, dict, root.notes);
        if let Some(stream) = stream(&mut table) {
            if !names.insert(stream.name.clone()) {
                table.wrong("name", None, "another stream has this name");
            }
            if let Some(first) = streams.iter().find(|first| first.filter.covers(&stream.filter)) {
                let first = &first.name;
                table.wrong(
                    "topic",
                    None,
                    format!("nothing comes here: the stream {first} before it takes it all"),
                );
            }
            streams.push(stream);
        }
        table.finish();
    }
    streams
}

fn stream(table: &mut Table) -> Option<Stream> {
    let name = table.parsed("name", |text| DeviceId::parse(text).map(|name| name.to_string()));
    if name.is_none() {
        table.missing("name", "a short name, such as \"air\"");
    }
    let filter = table.parsed("topic", TopicFilter::parse);
    if filter.is_none() {
        table.missing("topic", "a topic filter, such as \"+/readings/#\"");
    }
    let device = match table.take("device") {
        None => DeviceSource::Certificate,
        Some(value) => device_source(&value).unwrap_or_else(|expected| {
            table.wrong("device", Some(&value), format!("{} is not {expected}", shown(&value)));
            DeviceSource::Certificate
        }),
    };
    if let (DeviceSource::TopicLevel(level), Some(filter)) = (device, &filter) {
        let levels = filter.as_str().split('/').count();
        if level > levels && !filter.as_str().ends_with('#') {
            table.wrong(
                "device",
                None,
                format!("{filter} has {levels} levels, so there is no level {level}"),
            );
        }
    }
    let format = table.value("format", "\"json\", \"number\" or \"text\"").unwrap_or(PayloadFormat::Json);
    let fields = fields(table);
    let integrity = integrity(table);
    if format != PayloadFormat::Json && (!fields.is_empty() || integrity.is_some()) {
        table.wrong("format", None, "fields and integrity need format = \"json\"");
    }
    let open_to = table.list("open_to", device_match).unwrap_or_default();
    Some(Stream { name: name?, filter: filter?, device, format, fields, integrity, open_to })
}

fn device_source(value: &Value) -> Result<DeviceSource, &'static str> {
    let expected = "\"certificate\", \"client_id\" or { topic_level = 2 }";
    match value {
        Value::String(_, text) if text == "certificate" => Ok(DeviceSource::Certificate),
        Value::String(_, text) if text == "client_id" => Ok(DeviceSource::ClientId),
        Value::Dict(_, dict) if dict.len() == 1 => dict
            .get("topic_level")
            .and_then(|level| level.deserialize::<usize>().ok())
            .filter(|level| *level >= 1)
            .map(DeviceSource::TopicLevel)
            .ok_or(expected),
        _ => Err(expected),
    }
}

/// `fields = { "DS18B20.Temperature" = "number", battery = { type = "integer", required = true } }`
fn fields(table: &mut Table) -> Vec<Field> {
    let expected =
        "a type (\"any\", \"number\", \"integer\", \"boolean\", \"text\") or { type = …, required = true }";
    let Some(value) = table.take("fields") else { return Vec::new() };
    let Some(dict) = value.as_dict() else {
        table.wrong("fields", Some(&value), "write { temperature = \"number\" }");
        return Vec::new();
    };
    let mut fields = Vec::new();
    for (path, value) in dict {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            r#type: FieldKind,
            #[serde(default)]
            required: bool,
        }
        let short = value.deserialize::<FieldKind>().ok().map(|kind| Long { r#type: kind, required: false });
        match short.or_else(|| value.deserialize::<Long>().ok()) {
            Some(Long { r#type: kind, required }) => {
                fields.push(Field { path: path.clone(), kind, required });
            }
            None => {
                table.wrong(
                    &format!("fields.{path}"),
                    Some(value),
                    format!("{} is not {expected}", shown(value)),
                );
            }
        }
    }
    fields
}

fn integrity(table: &mut Table) -> Option<Integrity> {
    let value = table.take("integrity")?;
    let Some(dict) = value.as_dict() else {
        table.wrong("integrity", Some(&value), "write { field = \"crc\", check = \"crc32\" }");
        return None;
    };
    let mut table = Table::new(table.name("integrity"), dict.clone(), table.notes);
    let field = table.text("field");
    if field.is_none() {
        table.missing("field", "the name of the member that carries the check");
    }
    let kind = table.text("check");
    let mut keys = std::collections::BTreeMap::new();
    if let Some(value) = table.take("keys") {
        for (device, key) in value.as_dict().into_iter().flatten() {
            let parsed = DeviceId::parse(device).map_err(|error| error.to_string());
            match parsed.and_then(|device| secret_of(key).map(|secret| (device, secret))) {
                Ok((device, secret)) => drop(keys.insert(device, secret)),
                Err(error) => table.wrong(&format!("keys.{device}"), Some(key), error),
            }
        }
    }
    let check = match kind.as_deref() {
        Some("crc32") if keys.is_empty() => Some(IntegrityCheck::Crc32),
        Some("crc32") => {
            table.wrong("keys", None, "a CRC has no keys; they belong to check = \"hmac-sha256\"");
            None
        }
        Some("hmac-sha256") if !keys.is_empty() => Some(IntegrityCheck::HmacSha256 { keys }),
        Some("hmac-sha256") => {
            table.missing("keys", "a key for each device: { esp32-01 = { env = \"ESP32_01_KEY\" } }");
            None
        }
        Some(other) => {
            table.wrong("check", None, format!("{other:?} is not \"crc32\" or \"hmac-sha256\""));
            None
        }
        None => {
            table.missing("check", "\"crc32\" or \"hmac-sha256\"");
            None
        }
    };
    table.finish();
    Some(Integrity { field: field?, check: check? })
}

fn buffer(mut table: Table) -> Buffer {
    let default = Buffer::default();
    let buffer = Buffer {
        ack_delay: table
            .duration("ack_delay", Duration::ZERO..=Duration::from_secs(10))
            .unwrap_or(default.ack_delay),
        qos0_window: table.duration("qos0_window", Duration::ZERO..=HOUR).unwrap_or(default.qos0_window),
        max_bytes: table.bytes("max_size", 4 * 1024 * 1024).unwrap_or(default.max_bytes),
        max_age: table.duration("max_age", SECOND..=YEARS).or(default.max_age),
        min_free_bytes: table.bytes("min_free", 0).unwrap_or(default.min_free_bytes),
        when_full: table
            .value::<FullPolicy>("when_full", "\"drop_oldest\" or \"refuse_new\"")
            .unwrap_or(default.when_full),
        max_dead_letters: table.count("max_dead_letters", 0..=1_000_000).unwrap_or(default.max_dead_letters),
        stuck_after: table.duration("stuck_after", SECOND..=HOUR).unwrap_or(default.stuck_after),
    };
    table.finish();
    buffer
}

fn clock(mut table: Table) -> Clock {
    let default = Clock::default();
    let sync_wait = table.duration("sync_wait", Duration::ZERO..=YEARS).unwrap_or(default.sync_wait);
    let source = match table.take("source") {
        None => default.source,
        Some(value) => match &value {
            Value::String(_, text) if text == "kernel" => ClockSource::Kernel,
            Value::String(_, text) if text == "trusted" => ClockSource::Trusted,
            Value::Dict(_, dict)
                if dict.len() == 1 && dict.get("file").is_some_and(|f| f.as_str().is_some()) =>
            {
                ClockSource::File(dict["file"].as_str().unwrap_or_default().into())
            }
            _ => {
                table.wrong(
                    "source",
                    Some(&value),
                    format!("{} is not \"kernel\", \"trusted\" or {{ file = \"/path\" }}", shown(&value)),
                );
                default.source
            }
        },
    };
    table.finish();
    Clock { sync_wait, source }
}
