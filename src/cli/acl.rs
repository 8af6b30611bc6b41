//! `tampu acl`: what a device may do, and which rule says so.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};

use super::{ConfigArg, EXIT_USAGE, told_once};
use crate::authorize::{Authorizer, Cause, Decision, Door, IdentityKind, Principal, Registry, keyed};
use crate::config::{Config, RuleOrigin};
use crate::message::{DeviceId, Qos, Topic, TopicFilter};

/// `tampu acl …`
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say whether a device may publish or subscribe to a topic, and which rule decides. Exit code 0: it may, 1: not,
    /// 2: the command line is wrong
    Test(TestArgs),
}

#[derive(Debug, Clone, Args)]
pub(super) struct TestArgs {
    /// The device's name
    #[arg(value_parser = DeviceId::parse)]
    device: DeviceId,
    /// What it wants to do
    #[arg(value_enum)]
    action: Action,
    /// The topic, or for subscribe the filter
    topic: String,
    /// How it shows who it is
    #[arg(long, value_parser = IdentityKind::parse, default_value = "certificate", value_name = "KIND")]
    identity: IdentityKind,
    /// With this quality of service
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2), value_name = "N")]
    qos: u8,
    /// A publish with RETAIN
    #[arg(long)]
    retain: bool,
    /// A will, not a publish
    #[arg(long)]
    will: bool,
    #[command(flatten)]
    config: ConfigArg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    Publish,
    Subscribe,
}

pub(super) fn run(command: &Command) -> anyhow::Result<ExitCode> {
    let Command::Test(args) = command;
    let args = &mut args.clone();
    let file = args.config.file();
    let config = args.config.load()?;
    let devices = Registry::read(&config.data_dir)?;
    if config.access.keyed_topics {
        args.topic = keyed::turned(&devices, &args.device, &args.topic);
    }
    let is_disabled = devices.device(&args.device).is_some_and(|known| known.disabled);
    let authorizer =
        Authorizer::with(&config.access, &config.streams, devices.into(), std::sync::Arc::default());
    let who = Principal::assumed(args.device.clone(), args.identity);
    let decision = match decide(args, &authorizer, &who) {
        Ok(decision) => decision,
        // A script must be able to tell it from a refusal.
        Err(error) => {
            eprintln!("Error: {}", told_once(&error));
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    let word = if decision.allowed { "allowed" } else { "refused" };
    println!("{word}: {}", told(&decision, &config, file.as_deref()));
    if args.action == Action::Subscribe && decision.allowed {
        if decision.max_qos < qos(args.qos) {
            println!("It is given QoS {}.", decision.max_qos as u8);
        }
        if authorizer.holds_back(&who) {
            println!("Of its messages, those are held back that another rule denies.");
        }
    }
    if args.identity == IdentityKind::Jwt {
        println!("What a token says of itself (acl, publ, subl) comes before this, and is not known here.");
    }
    if !is_taken(&config, args.identity) {
        println!("Note: no listener takes a device's {} (listener.identities).", args.identity.as_str());
    }
    if is_disabled {
        println!("But {} is disabled: it is not let in.", args.device);
    }
    let too_long = config.limits.topics.check(&args.topic).err();
    if let Some(too_long) = too_long {
        println!("But it has {too_long}: it is refused.");
    }
    let may = decision.allowed && !is_disabled && too_long.is_none();
    Ok(if may { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether a device that shows who it is like this is let in by any listener.
fn is_taken(config: &Config, kind: IdentityKind) -> bool {
    let doors = [
        Some(Door::Tls),
        config.websocket.is_some().then_some(Door::WebSocket),
        (config.plain.is_some() && kind != IdentityKind::Certificate).then_some(Door::Plain),
    ];
    let by_door = doors.into_iter().flatten().any(|door| config.access.identities(door).contains(&kind));
    by_door && (kind != IdentityKind::Anonymous || config.access.anonymous.is_some())
}

fn decide(args: &TestArgs, authorizer: &Authorizer, who: &Principal) -> anyhow::Result<Decision> {
    let TestArgs { action, topic, retain, will, .. } = args;
    let qos = qos(args.qos);
    match action {
        Action::Publish => {
            Topic::check(topic).with_context(|| format!("{topic:?}"))?;
            Ok(authorizer.may_publish(who, topic, qos, *retain, *will))
        }
        Action::Subscribe if *retain || *will => bail!("--retain and --will belong to publish"),
        Action::Subscribe => {
            let filter = topic.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
            let filter = filter.map_or(topic.as_str(), |(_group, filter)| filter);
            let filter = TopicFilter::parse(filter).with_context(|| format!("{topic:?}"))?;
            Ok(authorizer.may_subscribe(who, &filter, qos))
        }
    }
}

fn qos(level: u8) -> Qos {
    match level {
        0 => Qos::AtMostOnce,
        1 => Qos::AtLeastOnce,
        _ => Qos::ExactlyOnce,
    }
}

/// Which rule has decided, so that it can be found.
fn told(decision: &Decision, config: &Config, file: Option<&Path>) -> String {
    let file = file.map_or("the configuration".to_owned(), |file| file.display().to_string());
    match decision.cause {
        Cause::GatewaysOwn => "topics that begin with $ are the gateway's own".to_owned(),
        Cause::MessageGateway => {
            "topics of the message gateway are for who logs in with the API key in them".to_owned()
        }
        Cause::Rule(RuleOrigin::Acl(number)) => format!("{file}: [[acl]] number {number} says so"),
        Cause::Rule(RuleOrigin::Anonymous) => format!("{file}: [anonymous] says so"),
        Cause::OwnTopics => "by default a device has the topics below its own name".to_owned(),
        Cause::OpenStream(index) => {
            let mut open = config.streams.iter().filter(|stream| !stream.open_to.is_empty());
            let name = open.nth(index).map_or("", |stream| &stream.name);
            format!("{file}: the [[stream]] {name:?} is open to it")
        }
        Cause::Token(number) => format!("rule {number} of its token says so"),
        Cause::NotInToken => "its token does not list it".to_owned(),
        Cause::NoRule => "no rule speaks of it, and what no rule allows is refused".to_owned(),
    }
}
