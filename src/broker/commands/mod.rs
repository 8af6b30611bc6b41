//! The way of a command from the ledger to its device.
//!
//! A command stays in the ledger until a session of its device can write it: then the session takes it. Sessions ask
//! when they begin, when they subscribe, when their client makes room by an ack, and when they are called.
//!
//! | | |
//! |---|---|
//! | which session | one that is connected, of an identity with the device's name, whose subscriptions match the topic, shared ones aside, and whose rules let it receive. Of several the one that asks first; never two |
//! | QoS | that of the command, at most that of the subscription |
//! | QoS 1 | sent as soon as a session has it, and again until the device acknowledges it: over a kept session with DUP, over another session anew |
//! | QoS 2 | sent when it is on disk that it is; in a kept session exactly once, also over restarts. When a session that is not kept ends before PUBREC, it has failed: it is not sent twice |
//! | QoS 0 | sent when it is on disk that it is, and done with that: at most once |
//! | in flight, and over | not repeated when the client comes back, though MQTT-4.4.0-1 says so: late is worse than never |
//! | larger than the client takes, refused in its ack | failed |
//! | the client's window is full | it waits in the ledger, where it can still be taken back or replaced |
//! | a reply | any publish of the device to the awaited topic that the rules allow. The end of the command is on disk before its ack |
//!
//! In 5.0 it has a response topic and correlation data if a reply is waited for, the user property `command-id`, and
//! what is left of its time as message expiry.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use super::Shared;
use super::message::Message;
use super::outbox::{Line, Remains};
use super::wire::Properties;
use crate::authorize::reach;
use crate::message::DeviceId;
use crate::relay::{Command, NewCommand, Postman, Undelivered};

/// The user property that names a command.
const PROPERTY: &str = "command-id";

/// The connections of each device, to be called.
#[derive(Debug, Default)]
pub(super) struct Posts(Mutex<HashMap<DeviceId, Vec<Arc<Line>>>>);

impl Posts {
    pub(super) fn add(&self, device: &DeviceId, line: &Arc<Line>) {
        self.lines().entry(device.clone()).or_default().push(Arc::clone(line));
    }

    pub(super) fn remove(&self, device: &DeviceId, line: &Arc<Line>) {
        let mut lines = self.lines();
        if let Some(of_device) = lines.get_mut(device) {
            of_device.retain(|other| !Arc::ptr_eq(other, line));
            if of_device.is_empty() {
                lines.remove(device);
            }
        }
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<DeviceId, Vec<Arc<Line>>>> {
        self.0.lock().expect("no panic under this lock")
    }
}

/// The broker, as the ledger knows it.
#[derive(Debug)]
pub(super) struct Post(pub(super) Weak<Shared>);

impl Postman for Post {
    fn ring(&self, device: &DeviceId) {
        if let Some(broker) = self.0.upgrade()
            && let Some(lines) = broker.posts.lines().get(device)
        {
            lines.iter().for_each(|line| line.call_for_commands());
        }
    }

    fn objection(&self, new: &NewCommand) -> Option<String> {
        self.0.upgrade().and_then(|broker| broker.objection(new))
    }
}

impl Shared {
    /// Why the rules never let a command reach its device, or its reply come.
    fn objection(&self, new: &NewCommand) -> Option<String> {
        let reply = new.reply.as_ref().map(|reply| &reply.topic);
        reach::objection(&self.rules().authorizer, &new.device, &new.topic, reply)
    }

    /// Gives the ledger what a session had that has ended.
    pub(super) fn give_back(&self, remains: &Remains) {
        for (id, was_written) in &remains.commands {
            let why = if *was_written { Undelivered::Unconfirmed } else { Undelivered::Unwritten };
            self.ledger.undelivered(*id, &why);
        }
    }
}

/// The message that carries a command.
pub(super) fn message(command: &Command) -> Message {
    let id = command.id.to_string();
    let reply = command.reply.as_ref();
    let seconds = command.good_for.as_millis().div_ceil(1_000);
    let properties = Properties {
        message_expiry: Some(u32::try_from(seconds).unwrap_or(u32::MAX)),
        response_topic: reply.map(|reply| reply.topic.to_string()),
        correlation_data: reply.map(|_| id.clone().into()),
        user: [(PROPERTY, id.as_str())].into_iter().collect(),
        ..Properties::default()
    };
    let (topic, payload) = (command.topic.to_string(), command.payload.clone());
    let accepted = *command.accepted();
    let message =
        Message::new(topic, payload, Some(Box::new(properties)), command.qos, false, accepted, None);
    Message { command: Some(command.id), ..message }
}
