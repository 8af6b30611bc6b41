//! Local rules: a condition on what devices measure, and the command that it brings about. No network is needed.
//!
//! Readings are told to the rules as they come, and every second the rules look at what time has brought about.
//! What a rule says is so until it says otherwise: a command that could not be delivered in its time is given
//! anew as long as its reason holds, and which rules hold outlives the process.

mod kept;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap};
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
use crate::config::{Condition, Rule, RuleCommand};
use crate::message::{CommandId, DeviceId, Stamp, Topic};

/// Watches at most: a rule for all devices has one for each.
const MAX_WATCHES: usize = 10_000;

/// How often time is looked at.
const TICK: Duration = Duration::from_secs(1);

/// How long a command waits that the ledger did not take; each time twice as long, up to that.
const AGAIN_MS: u64 = 10_000;
const LONGEST_AGAIN_MS: u64 = 640_000;

/// Devices that are shown for one rule.
const MAX_SHOWN: usize = 100;

/// Characters of a value that are kept for a text.
const MAX_VALUE_CHARS: usize = 255;

/// The rules. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Rules(Arc<Inner>);

/// How a rule stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct RuleStatus {
    /// Devices that it is watched for.
    pub watched: u64,
    /// Those for which it holds, 100 at most.
    pub holds_for: BTreeSet<DeviceId>,
}

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
    /// What is to be brought about.
    due: Option<Due>,
    /// The command that was given last, until it has an end.
    sent: Option<(CommandId, Edge)>,
}

/// Something that is to be brought about.
#[derive(Debug, Clone, Copy)]
struct Due {
    edge: Edge,
    /// Since when, and not before when (boot clock, ms).
    since_ms: u64,
    when_ms: u64,
    /// How often the ledger did not take its command.
    refused: u32,
    /// It was said before: a command that is given anew is no news.
    is_known: bool,
}

impl Due {
    fn new(edge: Edge, now_ms: u64) -> Self {
        Self { edge, since_ms: now_ms, when_ms: now_ms, refused: 0, is_known: false }
    }
}

/// The same, with everything that a command is made of.
struct Deed {
    rule: usize,
    device: DeviceId,
    due: Due,
    value: String,
}

impl Rules {
    /// The rules. What an earlier process has left is read by [`Rules::run`].
    #[must_use]
    pub fn new(rules: &[Rule], ledger: Ledger, clock: Clock, buffer: Buffer) -> Self {
        let now_ms = clock.stamp().boot_ms;
        let mut watches = Watches::default();
        for (index, rule) in rules.iter().enumerate() {
            let listed = rule.devices.iter().map(|device| ((index, device.clone()), Watched::new(now_ms)));
            watches.all.extend(listed);
        }
        let watches = Mutex::new(watches);
        let edges = Notify::new();
        Self(Arc::new(Inner { rules: rules.to_vec(), ledger, clock, buffer, watches, edges }))
    }

    /// Takes back what an earlier process has left. Waits until the store is open.
    async fn restore(&self, writer: &mut Writer) -> Result<(), Closed> {
        self.0.ledger.loaded().await;
        let (kept, gone) = kept::read(&self.0.buffer, &self.0.rules).await?;
        let now_ms = self.0.clock.stamp().boot_ms;
        let mut watches = self.watches();
        for Kept { rule, device, active, value, sent } in kept {
            let watched = watches.all.entry((rule, device)).or_insert_with(|| Watched::new(now_ms));
            watched.sent = sent;
            // The rule may have had another condition then.
            if active && self.0.rules[rule].condition != Condition::Changed {
                watched.watch.activate();
                watched.due = None;
            }
            if watched.value.is_empty() {
                watched.value = value;
            }
        }
        drop(watches);
        submit(writer, gone);
        Ok(())
    }

    /// How each rule stands, by its name.
    #[must_use]
    pub fn status(&self) -> BTreeMap<String, RuleStatus> {
        let mut all: Vec<_> = self.0.rules.iter().map(|rule| (rule, RuleStatus::default())).collect();
        for ((rule, device), watched) in &self.watches().all {
            let status = &mut all[*rule].1;
            status.watched += 1;
            if watched.watch.is_active() && status.holds_for.len() < MAX_SHOWN {
                status.holds_for.insert(device.clone());
            }
        }
        all.into_iter().map(|(rule, status)| (rule.name.clone(), status)).collect()
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
            watched.due = Some(Due::new(edge, now_ms));
            self.0.edges.notify_one();
        }
    }

    /// Brings about what the rules say, until it is cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let mut writer = self.0.buffer.writer();
        let restored = tokio::select! {
            () = cancel.cancelled() => return,
            restored = self.restore(&mut writer) => restored,
        };
        if restored.is_err() {
            // The gateway is ending.
            return cancel.cancelled().await;
        }
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
        for deed in self.due() {
            self.bring_about(&deed, writer);
        }
    }

    /// What time has brought about, and what became of the commands.
    fn look(&self, writer: &mut Writer) {
        let now_ms = self.0.clock.stamp().boot_ms;
        let mut changes = Vec::new();
        for ((index, device), watched) in &mut self.watches().all {
            let rule = &self.0.rules[*index];
            if let Some(edge) = watched.watch.tick(&rule.condition, now_ms) {
                watched.due = Some(Due::new(edge, now_ms));
            }
            if watched.has_ended(&self.0.ledger, now_ms) {
                changes.push(kept::change(rule, device, watched));
            }
        }
        submit(writer, changes);
    }

    fn due(&self) -> Vec<Deed> {
        let now_ms = self.0.clock.stamp().boot_ms;
        let mut deeds = Vec::new();
        for ((rule, device), watched) in &mut self.watches().all {
            if let Some(due) = watched.due.take_if(|due| due.when_ms <= now_ms) {
                deeds.push(Deed { rule: *rule, device: device.clone(), due, value: watched.value.clone() });
            }
        }
        deeds
    }

    fn bring_about(&self, deed: &Deed, writer: &mut Writer) {
        let rule = &self.0.rules[deed.rule];
        if !deed.due.is_known {
            say(rule, deed);
        }
        let sent = match rule.send.as_ref().and_then(|send| command(rule, send, deed)) {
            None => None,
            // Not before the disk: an alarm does not wait for it.
            Some(Ok(new)) => match self.0.ledger.accept_now(new) {
                Ok(accepted) => Some(accepted.command().id),
                Err(error) => return self.again(deed, &error),
            },
            Some(Err(why)) => {
                tracing::error!(rule = %rule.name, device = %deed.device, %why, "the rule's command cannot be made");
                None
            }
        };
        let mut watches = self.watches();
        let Some(watched) = watches.all.get_mut(&(deed.rule, deed.device.clone())) else { return };
        watched.sent = sent.map(|id| (id, deed.due.edge));
        let change = kept::change(rule, &deed.device, watched);
        drop(watches);
        submit(writer, vec![change]);
    }

    /// The ledger did not take a command: later again, as long as what it says is so.
    fn again(&self, deed: &Deed, error: &NotAccepted) {
        let Deed { rule, device, due, .. } = deed;
        let (name, refused) = (&self.0.rules[*rule].name, due.refused + 1);
        let now_ms = self.0.clock.stamp().boot_ms;
        let wait_ms = (AGAIN_MS << due.refused.min(6)).min(LONGEST_AGAIN_MS);
        let again = Due { when_ms: now_ms + wait_ms, refused, is_known: true, ..*due };
        let good_for = self.0.rules[*rule].send.as_ref().map_or(Duration::ZERO, |send| send.good_for);
        // A change does not last: what it says is so for as long as its command is good.
        if due.edge == Edge::Changed && u128::from(again.when_ms - due.since_ms) >= good_for.as_millis() {
            tracing::error!(rule = %name, %device, %error, "the rule's command was not accepted, and is given up");
            return;
        }
        tracing::error!(rule = %name, %device, %error, again_in_s = wait_ms / 1_000, "the rule's command was not accepted");
        if let Some(watched) = self.watches().all.get_mut(&(*rule, device.clone())) {
            // Unless it is overtaken by what has come meanwhile.
            watched.due.get_or_insert(again);
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
        Some(self.all.entry(key).or_insert_with(|| Watched::new(now_ms)))
    }
}

impl Watched {
    fn new(now_ms: u64) -> Self {
        Self { watch: Watch::new(now_ms), value: String::new(), due: None, sent: None }
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
            self.due.get_or_insert(Due { is_known: true, ..Due::new(edge, now_ms) });
            return false;
        }
        self.sent = None;
        true
    }
}

/// An entry in the log.
fn say(rule: &Rule, deed: &Deed) {
    let Deed { device, due: Due { edge, .. }, value, .. } = deed;
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
fn command(rule: &Rule, send: &RuleCommand, deed: &Deed) -> Option<Result<NewCommand, String>> {
    let payload = match deed.due.edge {
        Edge::Raised | Edge::Changed => &send.payload,
        Edge::Cleared => send.clear_payload.as_ref()?,
    };
    let device = send.device.as_ref().unwrap_or(&deed.device);
    let fill = |name: &str| match name {
        "device" => device.as_str().into(),
        "source" => deed.device.as_str().into(),
        "rule" => rule.name.as_str().into(),
        _ => deed.value.as_str().into(),
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
        key: Some(format!("rule {} {}", rule.name, deed.device).into()),
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
