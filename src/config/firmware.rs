//! `[firmware]`.

use std::net::SocketAddr;
use std::time::Duration;

use super::access::identities;
use super::listener::address;
use super::table::Table;
use super::{Firmware, IdentityKind, TopicTemplate};

/// Without an address nothing is served. `other`: where MQTT over TLS listens.
pub(super) fn firmware(mut table: Table, other: SocketAddr) -> Firmware {
    let default = Firmware::default();
    let address = table.parsed("address", address);
    if address.is_some_and(|address| address == other && address.port() != 0) {
        table.wrong("address", None, "listener.address is the same: give it another port");
    }
    let identities = identities(&mut table).unwrap_or(default.identities);
    let is_taken = |kind: &IdentityKind| {
        matches!(kind, IdentityKind::Certificate | IdentityKind::ApiKey | IdentityKind::Password)
    };
    if let Some(other) = identities.iter().find(|kind| !is_taken(kind)) {
        let what = format!(
            "{:?} cannot fetch firmware: \"certificate\", \"api_key\" and \"password\" can",
            other.as_str()
        );
        table.wrong("identities", None, what);
    }
    let firmware = Firmware {
        address,
        identities,
        url: table.parsed("url", base_url),
        max_image_bytes: table.bytes("max_image", 1024).unwrap_or(default.max_image_bytes),
        max_downloads: table.count("max_downloads", 1..=10_000).unwrap_or(default.max_downloads),
        stall_timeout: table
            .duration("stall_timeout", Duration::from_secs(1)..=Duration::from_secs(600))
            .unwrap_or(default.stall_timeout),
        notify_topic: table.parsed("notify_topic", topic).unwrap_or(default.notify_topic),
        version_topic: table.parsed("version_topic", topic).unwrap_or(default.version_topic),
    };
    table.finish();
    firmware
}

fn base_url(text: &str) -> Result<String, &'static str> {
    let text = text.trim_end_matches('/');
    match text.strip_prefix("https://") {
        Some(rest) if !rest.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(text.to_owned())
        }
        _ => Err("it is written as \"https://gateway.local:8485\""),
    }
}

/// A topic of one device's own.
fn topic(text: &str) -> Result<TopicTemplate, String> {
    let expected = "a topic of each device, such as \"{device}/firmware/version\", without + and #";
    let template = TopicTemplate::parse(text).map_err(|error| error.to_string())?;
    let only_device = text.replacen("{device}", "", 1);
    match text != only_device && !only_device.contains(['{', '}', '+', '#']) {
        true => Ok(template),
        false => Err(expected.to_owned()),
    }
}
