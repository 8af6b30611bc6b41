//! The tables of the message gateway.

use std::time::Duration;

use super::table::Table;
use super::{Access, Commands, Door, IdentityKind, Messages};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// What a gateway is for, besides what every one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Profile {
    MessageGateway,
}

/// The key `profile` of `[gateway]`.
pub(super) fn profile(gateway: &mut Table) -> Option<Profile> {
    gateway.value("profile", "\"message-gateway\"; leave the line out for none")
}

/// `[messages]`, which counts with the profile alone, and what that changes of the rest.
pub(super) fn messages(
    root: &mut Table,
    profile: Option<Profile>,
    access: &mut Access,
    commands: &Commands,
) -> Option<Messages> {
    let default = Messages::default();
    let mut table = root.table("messages");
    let messages = Messages {
        max_characters: table.count("max_characters", 1..=10_000).unwrap_or(default.max_characters),
        good_for: table
            .duration("good_for", SECOND..=commands.max_good_for)
            .unwrap_or_else(|| default.good_for.min(commands.max_good_for)),
        retries: table
            .number("retries", 0..=10)
            .and_then(|retries| u32::try_from(retries).ok())
            .unwrap_or(default.retries),
        backoff: table.duration("backoff", SECOND..=HOUR).unwrap_or(default.backoff),
    };
    table.finish();
    let Profile::MessageGateway = profile?;
    turn_on(root, access);
    Some(messages)
}

fn turn_on(root: &mut Table, access: &mut Access) {
    access.keyed_topics = true;
    let takes_keys = |door: &Door| access.identities(*door).contains(&IdentityKind::ApiKey);
    if ![Door::Tls, Door::WebSocket, Door::Plain].iter().any(takes_keys) {
        root.wrong(
            "listener.identities",
            None,
            "gateway.profile = \"message-gateway\" needs a listener that lets devices in with API keys: write \
             identities = [\"api_key\"], with \"certificate\" before it if devices with certificates come, too",
        );
    }
}
