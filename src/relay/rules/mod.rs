//! Local rules: a condition on what devices measure, and the command that it brings about. No network is needed.
//!
//! Readings are told to the rules as they come, and every second the rules look at what time has brought about.
//! What a rule says is so until it says otherwise: a command that could not be delivered in its time is given
//! anew as long as its reason holds, and which rules hold outlives the process.

mod kept;
mod watch;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::kept::Kept;
use self::watch::{Edge, Watch};
use super::{Ledger, NewCommand, NotAccepted, Origin, Source, State};
use crate::buffer::{Buffer, Change, Closed, Wait, Writer};
use crate::clock::Clock;
use crate::config::{Rule, RuleCommand};
use crate::message::{CommandId, DeviceId, Stamp, Topic};

/// Watches at most: a rule for all devices has one for each.
const MAX_WATCHES: usize = 10_000;

/// How often time is looked at.
const TICK: Duration = Duration::from_secs(1);

/// How long a command waits that the ledger did not take.
const AGAIN_MS: u64 = 10_000;

/// Characters of a value that are kept for a text.
const MAX_VALUE_CHARS: usize = 255;

/// The rules. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Rules(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rules: Vec<Rule>,
    ledger: Ledger,
    clock: Clock,
    buffer: Buffer,
    watches: Mutex<Watches>,
    /// Something has come to hold, or does no more.
    edges: Notify,
}

#[derive(Debug, Default)]
struct Watches {
    /// By the index of the rule, and the device.
    all: HashMap<(usize, DeviceId), Watched>,
    is_full: bool,
}

/// A rule as it stands for one device.
#[derive(Debug)]
struct Watched {
    watch: Watch,
    /// The last value, as it is shown.
    value: String,
    /// What is to be brought about, and not before then (boot clock, ms).
    due: Option<(Edge, u64)>,
    /// The command that was given last, until it has an end.
    sent: Option<(CommandId, Edge)>,
}

/// Something that is to be brought about.
struct Due {
    rule: usize,
    device: DeviceId,
    edge: Edge,
    value: String,
}

impl Rules {
    /// The rules as an earlier process has left them.
    ///
    /// # Errors
    /// When the buffer has ended.
    pub async fn open(rules: &[Rule], ledger: Ledger, clock: Clock, buffer: Buffer) -> Result<Self, Closed> {
        let now_ms = clock.stamp().boot_ms;
        let mut watches = Watches::default();
        for (index, rule) in rules.iter().enumerate() {
            let listed =
                rule.devices.iter().map(|device| ((index, device.clone()), Watched::new(now_ms, false)));
            watches.all.extend(listed);
        }
        let (kept, gone) = kept::read(&buffer, rules).await?;
        for Kept { rule, device, active, value, sent } in kept {
            let watched = Watched { value, sent, ..Watched::new(now_ms, active) };
            watches.all.insert((rule, device), watched);
        }
        submit(&mut buffer.writer(), gone);
        let watches = Mutex::new(watches);
        let edges = Notify::new();
        Ok(Self(Arc::new(Inner { rules: rules.to_vec(), ledger, clock, buffer, watches, edges })))
    }

    /// A reading of a device has come.
    pub fn observe(&self, stream: &str, device: &DeviceId, payload: &[u8], received: &Stamp) {
        let mut parsed = None;
        for (index, rule) in self.0.rules.iter().enumerate() {
            let concerns =
                rule.stream == stream && (rule.devices.is_empty() || rule.devices.contains(device));
            if !concerns {
                continue;
            }
            let payload = parsed.get_or_insert_with(|| parse(payload));
            let value = rule.field.as_deref().map_or(Some(&*payload), |path| at(payload, path));
            if let Some(value) = value {
                self.value(index, device, value, received.boot_ms);
            }
        }
    }

    fn value(&self, index: usize, device: &DeviceId, value: &Value, now_ms: u64) {
        let mut watches = self.watches();
        let Some(watched) = watches.of(index, device, now_ms) else { return };
        let edge = watched.watch.value(&self.0.rules[index].condition, value, now_ms);
        watched.value = shown(value);
        if let Some(edge) = edge {
            watched.due = Some((edge, now_ms));
            self.0.edges.notify_one();
        }
    }

    /// Brings about what the rules say, until it is cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let mut writer = self.0.buffer.writer();
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.0.edges.notified() => {}
                _ = tick.tick() => self.look(&mut writer),
            }
            self.act(&mut writer);
        }
    }

    /// Brings about what is due.
    fn act(&self, writer: &mut Writer) {
        for due in self.due() {
            self.bring_about(&due, writer);
        }
    }

    /// What time has brought about, and what became of the commands.
    fn look(&self, writer: &mut Writer) {
        let now_ms = self.0.clock.stamp().boot_ms;
        let mut changes = Vec::new();
        for ((index, device), watched) in &mut self.watches().all {
            let rule = &self.0.rules[*index];
            if let Some(edge) = watched.watch.tick(&rule.condition, now_ms) {
                watched.due = Some((edge, now_ms));
            }
            if watched.has_ended(&self.0.ledger, now_ms) {
                changes.push(kept::change(rule, device, watched));
            }
        }
        submit(writer, changes);
    }

    fn due(&self) -> Vec<Due> {
        let now_ms = self.0.clock.stamp().boot_ms;
        let mut due = Vec::new();
        for ((rule, device), watched) in &mut self.watches().all {
            if let Some((edge, _)) = watched.due.take_if(|(_, when)| *when <= now_ms) {
                due.push(Due { rule: *rule, device: device.clone(), edge, value: watched.value.clone() });
            }
        }
        due
    }

    fn bring_about(&self, due: &Due, writer: &mut Writer) {
        let rule = &self.0.rules[due.rule];
        let is_new = self.is_new(due);
        if is_new {
            say(rule, due);
        }
        let sent = match rule.send.as_ref().and_then(|send| command(rule, send, due)) {
            None => None,
            // Not before the disk: an alarm does not wait for it.
            Some(Ok(new)) => match self.0.ledger.accept_now(new) {
                Ok(accepted) => Some(accepted.command().id),
                Err(error) => {
                    self.again(due, &error);
                    return;
                }
            },
            Some(Err(why)) => {
                tracing::error!(rule = %rule.name, device = %due.device, %why, "the rule's command cannot be made");
                None
            }
        };
        let mut watches = self.watches();
        let Some(watched) = watches.all.get_mut(&(due.rule, due.device.clone())) else { return };
        watched.sent = sent.map(|id| (id, due.edge));
        let change = kept::change(rule, &due.device, watched);
        drop(watches);
        submit(writer, vec![change]);
    }

    /// Whether this was not brought about before: a command that is given anew is no news.
    fn is_new(&self, due: &Due) -> bool {
        let watches = self.watches();
        let watched = watches.all.get(&(due.rule, due.device.clone()));
        watched.is_none_or(|watched| watched.sent.is_none_or(|(_, edge)| edge != due.edge))
    }

    fn again(&self, due: &Due, error: &NotAccepted) {
        let rule = &self.0.rules[due.rule].name;
        tracing::error!(%rule, device = %due.device, %error, "the rule's command was not accepted; it is tried again");
        let when = self.0.clock.stamp().boot_ms + AGAIN_MS;
        if let Some(watched) = self.watches().all.get_mut(&(due.rule, due.device.clone())) {
            // Unless it is overtaken by what has come meanwhile.
            watched.due.get_or_insert((due.edge, when));
        }
    }

    fn watches(&self) -> MutexGuard<'_, Watches> {
        self.0.watches.lock().expect("no panic under this lock")
    }
}

impl Watches {
    fn of(&mut self, index: usize, device: &DeviceId, now_ms: u64) -> Option<&mut Watched> {
        let key = (index, device.clone());
        if self.all.len() >= MAX_WATCHES && !self.all.contains_key(&key) {
            if !std::mem::replace(&mut self.is_full, true) {
                tracing::error!(%device, "{MAX_WATCHES} devices are watched by rules; no others are: name them in `devices`");
            }
            return None;
        }
        Some(self.all.entry(key).or_insert_with(|| Watched::new(now_ms, false)))
    }
}

impl Watched {
    fn new(now_ms: u64, active: bool) -> Self {
        Self { watch: Watch::new(now_ms, active), value: String::new(), due: None, sent: None }
    }

    /// Whether the command that was given last has an end. One whose time was over is given anew, if what it says
    /// is still so.
    fn has_ended(&mut self, ledger: &Ledger, now_ms: u64) -> bool {
        let Some((id, edge)) = self.sent else { return false };
        let state = ledger.get(id).map(|command| command.state);
        if state.is_some_and(|state| !state.is_final()) {
            return false;
        }
        let is_so = match edge {
            Edge::Raised => self.watch.is_active(),
            Edge::Cleared => !self.watch.is_active(),
            Edge::Changed => false,
        };
        if state == Some(State::Expired) && is_so {
            // `sent` stays until the next is given: it tells that this is no news.
            self.due.get_or_insert((edge, now_ms));
            return false;
        }
        self.sent = None;
        true
    }
}

/// An entry in the log.
fn say(rule: &Rule, due: &Due) {
    let Due { device, edge, value, .. } = due;
    let text = rule.log.as_ref().map(|log| {
        log.fill(|name| match name {
            "value" => value.as_str().into(),
            "rule" => rule.name.as_str().into(),
            _ => device.as_str().into(),
        })
    });
    let rule = &rule.name;
    match (edge, text) {
        (Edge::Cleared, _) => tracing::info!(%rule, %device, %value, "the rule holds no more"),
        (_, Some(text)) => tracing::warn!(%rule, %device, %value, "{text}"),
        (_, None) => tracing::info!(%rule, %device, %value, "the rule holds"),
    }
}

/// The command that a rule gives; none, if it has none for this.
fn command(rule: &Rule, send: &RuleCommand, due: &Due) -> Option<Result<NewCommand, String>> {
    let payload = match due.edge {
        Edge::Raised | Edge::Changed => &send.payload,
        Edge::Cleared => send.clear_payload.as_ref()?,
    };
    let device = send.device.as_ref().unwrap_or(&due.device);
    let fill = |name: &str| match name {
        "device" => device.as_str().into(),
        "source" => due.device.as_str().into(),
        "rule" => rule.name.as_str().into(),
        _ => due.value.as_str().into(),
    };
    let topic = send.topic.fill(fill);
    let origin = Origin { source: Source::Rule, name: rule.name.as_str().into(), reference: None };
    let new = |topic| NewCommand {
        device: device.clone(),
        topic,
        payload: payload.fill(fill).into(),
        qos: send.qos,
        origin,
        // What the rule says now takes the place of what it said before.
        key: Some(format!("rule {} {}", rule.name, due.device).into()),
        good_for: send.good_for,
        reply: None,
    };
    Some(Topic::parse(&topic).map(new).map_err(|why| format!("the topic {topic:?}: {why}")))
}

fn submit(writer: &mut Writer, changes: Vec<Change>) {
    if !changes.is_empty()
        && let Err(error) = writer.submit(None, changes, Wait::Nobody)
    {
        tracing::warn!(%error, "how far rules are is not kept; after a restart they begin anew");
    }
}

/// JSON, or a number, or a text.
fn parse(payload: &[u8]) -> Value {
    serde_json::from_slice(payload).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(payload);
        Value::from(text.trim_end_matches('\0').trim())
    })
}

fn at<'v>(payload: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(payload, |value, part| value.get(part))
}

fn shown(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.chars().take(MAX_VALUE_CHARS).collect()
}

#[cfg(test)]
mod tests;
