//! Whether a command can reach a device at all, and its reply come.

use super::identity::{IdentityKind, Principal};
use super::{Authorizer, Door};
use crate::message::{DeviceId, Qos, Topic, TopicFilter};

/// Why the rules never let a device get what is sent to a topic, or answer on another, whoever it is shown to be. A
/// token may allow what no rule does: where tokens are taken, nothing can be said before one is there.
#[must_use]
pub fn objection(
    authorizer: &Authorizer,
    device: &DeviceId,
    topic: &Topic,
    reply: Option<&Topic>,
) -> Option<String> {
    let takes_tokens = |door: Door| authorizer.identities(door).contains(&IdentityKind::Jwt);
    if [Door::Tls, Door::WebSocket, Door::Plain].into_iter().any(takes_tokens) {
        return None;
    }
    let kinds: Vec<IdentityKind> = IdentityKind::ALL
        .into_iter()
        .filter(|kind| *kind != IdentityKind::Anonymous || authorizer.anonymous() == Some(device))
        .collect();
    let principals = || kinds.iter().map(|kind| Principal::assumed(device.clone(), *kind));
    // It may have subscribed to more than this, with wildcards; a rule that allows that allows this, too.
    let filter = TopicFilter::parse(topic.as_str()).ok()?;
    if !principals().any(|who| authorizer.may_subscribe(&who, &filter, Qos::AtMostOnce).allowed) {
        return Some(format!("no rule lets {device} subscribe to {topic}"));
    }
    let reply = reply?.as_str();
    let may_reply = principals().any(|who| {
        let may = |qos| authorizer.may_publish(&who, reply, qos, false, false).allowed;
        may(Qos::AtMostOnce) || may(Qos::AtLeastOnce)
    });
    (!may_reply).then(|| format!("no rule lets {device} publish its reply to {reply}"))
}
