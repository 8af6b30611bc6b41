//! `tampu check`: everything that can be found wrong without a network.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use super::{ConfigArg, EXIT_CONFIG};
use crate::authorize::{Authorizer, KeyFiles, Registry, reach};
use crate::config::{
    Access, ClientAuth, CommandSourceKind, Config, Door, IdentityKind, PayloadFormat, SinkKind,
};
use crate::message::{DeviceId, Template, Topic};
use crate::pki::Pki;
use crate::{api, gateway, sink};

/// `sun_path` without its NUL (unix(7)).
const MAX_SOCKET_PATH_BYTES: usize = 107;

pub(super) fn run(args: &ConfigArg) -> anyhow::Result<ExitCode> {
    let file = args.file();
    let origin = file.as_ref().map_or("the defaults".to_owned(), |file| file.display().to_string());
    let mut found = Vec::new();
    match Config::read(file.as_deref()) {
        Ok((config, problems)) => {
            found.extend(problems.iter().map(ToString::to_string));
            beyond_the_text(&config, &mut found);
            if let Some(warning) = Pki::names_to_know(&config.pki) {
                eprintln!("Warning: pki.server_cert: {warning}");
            }
            for (number, group) in groups_of_nobody(&config) {
                eprintln!(
                    "Warning: acl.{number}.group: nobody is in the group {group}, so the rule speaks of nobody"
                );
            }
            for (key, objection) in unreachable(&config) {
                eprintln!(
                    "Warning: {key}: {objection}: its commands would be refused (`tampu acl test` tells which rule decides)"
                );
            }
            if found.is_empty() {
                print_summary(&origin, &config);
            }
        }
        Err(invalid) => found.extend(invalid.0.iter().map(ToString::to_string)),
    }
    if found.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    for problem in &found {
        eprintln!("{problem}");
    }
    let count = found.len();
    eprintln!("{count} problem{} in {origin}.", if count == 1 { "" } else { "s" });
    Ok(ExitCode::from(EXIT_CONFIG))
}

/// What the text alone does not show: files, directories, certificates.
fn beyond_the_text(config: &Config, found: &mut Vec<String>) {
    if let Some(problem) = unwritable(&config.data_dir) {
        found.push(format!("gateway.data_dir: {problem}"));
    }
    let socket = api::socket_path(&config.data_dir);
    if socket.as_os_str().len() > MAX_SOCKET_PATH_BYTES {
        found.push(format!(
            "gateway.data_dir: {} is longer than the {MAX_SOCKET_PATH_BYTES} bytes that the name of a socket may have",
            socket.display()
        ));
    }
    found.extend(Registry::read(&config.data_dir).err().map(|error| error.to_string()));
    let mut keys = KeyFiles::default();
    keys.set(&config.access.issuers);
    found.extend(keys.troubles().map(ToString::to_string));
    match gateway::offline_clock(config) {
        Ok(clock) => {
            found.extend(
                Pki::problems(&gateway::pki_dir(config), &config.pki, clock.trusted_now())
                    .iter()
                    .map(|problem| format!("pki: {problem}")),
            );
            for settings in &config.sinks {
                if let Err(error) = sink::open(settings, &config.streams, &config.gateway_id, &clock) {
                    found.push(format!("sink.{}: {error}", settings.name));
                }
            }
        }
        Err(error) => found.push(error.to_string()),
    }
}

/// The groups that a rule names, by its number, and that neither a `[[group]]` nor the registry knows.
fn groups_of_nobody(config: &Config) -> Vec<(usize, &DeviceId)> {
    // What is wrong with the registry is said elsewhere.
    let devices = Registry::read(&config.data_dir).unwrap_or_default();
    let is_known = |group: &DeviceId| {
        config.access.groups.get(group).is_some_and(|devices| !devices.is_empty())
            || devices.iter().any(|(_, known)| known.groups.contains(group))
    };
    let rules = config.access.rules.iter().zip(1..);
    rules
        .filter_map(|(rule, number)| Some((number, rule.group.as_ref()?)))
        .filter(|(_, group)| !is_known(group))
        .collect()
}

/// The sources and rules whose commands could not reach their device, or not be answered, with the reason.
fn unreachable(config: &Config) -> Vec<(String, String)> {
    // What is wrong with the registry is said elsewhere.
    let devices = Registry::read(&config.data_dir).unwrap_or_default();
    let authorizer = Authorizer::with(&config.access, &config.streams, devices.into(), Arc::default());
    let of_sources = config.command_sources.iter().map(|source| {
        let command = match &source.kind {
            CommandSourceKind::TalkBack(kind) => Some(&kind.command),
            CommandSourceKind::Field(kind) => Some(&kind.command),
            // A row says itself for whom it is.
            CommandSourceKind::Supabase(_) => None,
        };
        let objection = command.and_then(|command| {
            let filled = |template: &Template| filled(template, &command.device, "");
            let reply = command.reply_topic.as_ref().and_then(filled);
            reach::objection(&authorizer, &command.device, &filled(&command.topic)?, reply.as_ref())
        });
        (format!("command_source.{}", source.name), objection)
    });
    let of_rules = config.rules.iter().map(|rule| {
        let objection = rule.send.as_ref().and_then(|send| {
            // Whose value it is, is not known before it comes.
            let device = send.device.as_ref()?;
            let topic = filled(&send.topic, device, &rule.name)?;
            reach::objection(&authorizer, device, &topic, None)
        });
        (format!("rule.{}", rule.name), objection)
    });
    of_sources.chain(of_rules).filter_map(|(key, objection)| Some((key, objection?))).collect()
}

/// The topic of every command of a source or rule; none if it is not the same for all.
fn filled(template: &Template, device: &DeviceId, rule: &str) -> Option<Topic> {
    if template.has("value") || template.has("source") {
        return None;
    }
    let topic = template.fill(|name| if name == "rule" { rule.into() } else { device.as_str().into() });
    Topic::parse(&topic).ok()
}

/// Why a directory cannot hold the gateway's data, if so. Makes nothing.
fn unwritable(directory: &Path) -> Option<String> {
    let existing = directory.ancestors().find(|path| path.exists())?;
    let shown = existing.display();
    if !existing.is_dir() {
        return Some(format!("{shown} is not a directory"));
    }
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    rustix::fs::access(existing, access).err().map(|error| format!("{shown} cannot be written: {error}"))
}

fn print_summary(origin: &str, config: &Config) {
    println!("{origin}: good.");
    println!("gateway {} keeps its data in {}", config.gateway_id, config.data_dir.display());
    let who = who_is_let_in(&config.access, Door::Tls, config.listener.client_auth);
    println!("listens on {} (TLS): {who}", config.listener.address);
    if let Some(websocket) = &config.websocket {
        let who = who_is_let_in(&config.access, Door::WebSocket, websocket.client_auth);
        println!("listens on {} (WebSocket over TLS, at {}): {who}", websocket.address, websocket.path);
    }
    if let Some(plain) = &config.plain {
        let who = who_is_let_in(&config.access, Door::Plain, ClientAuth::Optional);
        println!("listens on {} (without TLS): {who}", plain.address);
    }
    for stream in &config.streams {
        let format = match stream.format {
            PayloadFormat::Json => "JSON",
            PayloadFormat::Number => "a number",
            PayloadFormat::Text => "text",
        };
        println!("stream {}: what is published to {} is a reading ({format})", stream.name, stream.filter);
    }
    for sink in &config.sinks {
        let to = match &sink.kind {
            SinkKind::ThingSpeak(to) => format!("ThingSpeak channel {} at {}", to.channel, to.url),
            SinkKind::Supabase(to) => format!("table {} at {}", to.table, to.url),
        };
        println!("sink {}: {to}", sink.name);
    }
    for source in &config.command_sources {
        let from = match &source.kind {
            CommandSourceKind::TalkBack(from) => format!("TalkBack {} at {}", from.talkback, from.url),
            CommandSourceKind::Field(from) => {
                format!("field {} of ThingSpeak channel {} at {}", from.field, from.channel, from.url)
            }
            CommandSourceKind::Supabase(from) => format!("table {} at {}", from.table, from.url),
        };
        println!("commands from {}: {from}", source.name);
    }
    for rule in &config.rules {
        let devices = if rule.devices.is_empty() { "every device" } else { "the devices it names" };
        println!("rule {}: looks at {devices} in the stream {}", rule.name, rule.stream);
    }
    if config.sinks.is_empty() {
        println!("no sink: readings are kept in the buffer until it is full");
    }
}

/// What a device needs to come in by a door. The first identity that it shows counts, so that none counts behind one
/// that every device shows.
fn who_is_let_in(access: &Access, door: Door, client_auth: ClientAuth) -> String {
    let is_required = client_auth == ClientAuth::Required;
    let mut proofs = Vec::new();
    let mut nameless = None;
    for kind in access.identities(door) {
        match kind {
            IdentityKind::Certificate if door == Door::Plain => {}
            IdentityKind::Certificate => proofs.push("a certificate"),
            IdentityKind::Password => proofs.push("a password"),
            IdentityKind::ApiKey => proofs.push("an API key"),
            IdentityKind::Jwt => proofs.push("a token"),
            IdentityKind::Anonymous => nameless = access.anonymous.as_ref(),
        }
        if nameless.is_some() || is_required && *kind == IdentityKind::Certificate {
            break;
        }
    }
    if is_required && proofs == ["a certificate"] {
        return "every device needs a certificate".to_owned();
    }
    let by = proofs.join(" or ");
    let rule = match (proofs.is_empty(), nameless) {
        (true, None) => "nobody is let in: it has neither identities nor [anonymous]".to_owned(),
        (true, Some(name)) => format!("whatever a device shows, it is let in as {name}"),
        (false, None) => format!("a device must show who it is by {by}"),
        (false, Some(name)) => {
            format!("a device shows who it is by {by}; one that does not is let in as {name}")
        }
    };
    if is_required { format!("every device needs a certificate, and {rule}") } else { rule }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_needs_is_said_for_every_combination() {
        let jwt =
            "[[jwt]]\nname = \"c\"\nalgorithm = \"HS256\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n";
        let anonymous = "[anonymous]\nname = \"sketch\"\n";
        let needed = "every device needs a certificate";
        for (listener, more, expected) in [
            ("", "", needed.to_owned()),
            (
                "client_auth = \"optional\"",
                anonymous,
                "a device shows who it is by a certificate; one that does not is let in as sketch".to_owned(),
            ),
            ("identities = [\"certificate\"]", "", needed.to_owned()),
            ("identities = [\"password\"]", "", "a device must show who it is by a password".to_owned()),
            (
                "identities = [\"certificate\", \"password\", \"api_key\", \"jwt\"]",
                jwt,
                "a device must show who it is by a certificate or a password or an API key or a token"
                    .to_owned(),
            ),
            (
                "client_auth = \"required\"\nidentities = [\"password\"]",
                "",
                format!("{needed}, and a device must show who it is by a password"),
            ),
            (
                "client_auth = \"required\"\nidentities = [\"api_key\", \"certificate\", \"password\"]",
                "",
                format!("{needed}, and a device must show who it is by an API key or a certificate"),
            ),
            (
                "client_auth = \"required\"\nidentities = [\"certificate\", \"password\"]",
                "",
                needed.to_owned(),
            ),
            (
                "identities = [\"password\", \"anonymous\", \"api_key\"]",
                anonymous,
                "a device shows who it is by a password; one that does not is let in as sketch".to_owned(),
            ),
            (
                "identities = [\"anonymous\", \"password\"]",
                anonymous,
                "whatever a device shows, it is let in as sketch".to_owned(),
            ),
        ] {
            let config = Config::from_toml(&format!("[listener]\n{listener}\n{more}")).unwrap();
            let said = who_is_let_in(&config.access, Door::Tls, config.listener.client_auth);
            assert_eq!(said, expected, "{listener}");
        }
        let access = Config::from_toml("[plain]\naddress = \"127.0.0.1:1883\"\n").unwrap().access;
        assert!(who_is_let_in(&access, Door::Plain, ClientAuth::Optional).starts_with("nobody"));
    }
}
