//! The tables of what accepts connections.

use std::net::SocketAddr;
use std::time::Duration;

use super::access::{client_auth, identities};
use super::table::Table;
use super::{ClientAuth, Limits, Listener, Plain, Rate, TopicBounds, WebSocket};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

pub(super) fn listener(mut table: Table) -> Listener {
    let default = Listener::default();
    let deadline = MILLISECOND..=Duration::from_secs(600);
    let identities = identities(&mut table);
    let listener = Listener {
        address: table.parsed("address", address).unwrap_or(default.address),
        client_auth: table
            .value::<ClientAuth>("client_auth", "\"required\" or \"optional\"")
            .unwrap_or(client_auth(identities.as_deref())),
        identities,
        handshake_timeout: table
            .duration("handshake_timeout", deadline.clone())
            .unwrap_or(default.handshake_timeout),
        connect_timeout: table.duration("connect_timeout", deadline).unwrap_or(default.connect_timeout),
        max_connections: table.count("max_connections", 1..=1_000_000).unwrap_or(default.max_connections),
        max_connections_per_address: table
            .count("max_connections_per_address", 1..=1_000_000)
            .unwrap_or(default.max_connections_per_address),
        max_connections_per_device: table
            .count("max_connections_per_device", 1..=1_000_000)
            .unwrap_or(default.max_connections_per_device),
        max_handshakes: table.count("max_handshakes", 1..=10_000).unwrap_or(default.max_handshakes),
        max_packet_bytes: table.parsed("max_packet", packet_bytes).unwrap_or(default.max_packet_bytes),
        max_inflight: table
            .number("max_inflight", 1..=u64::from(u16::MAX))
            .and_then(|number| u16::try_from(number).ok())
            .unwrap_or(default.max_inflight),
        max_subscriptions: table.count("max_subscriptions", 1..=100_000).unwrap_or(default.max_subscriptions),
        max_keep_alive: table
            .duration("max_keep_alive", SECOND..=Duration::from_secs(65_535))
            .unwrap_or(default.max_keep_alive),
    };
    table.finish();
    listener
}

/// The largest packet: a reading must fit the store's parts.
fn packet_bytes(text: &str) -> Result<usize, String> {
    let size = text.parse::<bytesize::ByteSize>().map(|size| size.as_u64());
    match size.ok().and_then(|size| usize::try_from(size).ok()) {
        Some(size @ 128..=1_048_576) => Ok(size),
        _ => Err("a packet's bound is between 128 B and 1 MiB, written as \"256 KiB\"".to_owned()),
    }
}

pub(super) fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "an address is written as \"0.0.0.0:8883\" or \"[::]:8883\"")
}

/// `[websocket]`: without the table, or without its address, there is no such listener.
/// `other`: where MQTT over TLS listens.
pub(super) fn websocket(root: &mut Table, other: SocketAddr) -> Option<WebSocket> {
    let mut table = root.table_if_there("websocket")?;
    let address = table.parsed("address", address);
    let path = table.parsed("path", request_path).unwrap_or_else(|| "/mqtt".to_owned());
    let identities = identities(&mut table);
    let client_auth = table
        .value("client_auth", "\"required\" or \"optional\"")
        .unwrap_or(client_auth(identities.as_deref()));
    match address {
        None => table.missing("address", "where to listen, such as \"0.0.0.0:8884\""),
        Some(address) if address == other && address.port() != 0 => {
            table.wrong("address", None, "listener.address is the same: give it another port");
        }
        Some(_) => {}
    }
    table.finish();
    Some(WebSocket { address: address?, path, client_auth, identities })
}

fn request_path(text: &str) -> Result<String, &'static str> {
    let is_path = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
    match is_path && !text.contains(['?', '#']) {
        true => Ok(text.to_owned()),
        false => Err("a path begins with \"/\", and holds neither spaces nor ? nor #"),
    }
}

/// `[plain]`: without the table, or without its address, there is no such listener.
pub(super) fn plain(root: &mut Table) -> Option<Plain> {
    let mut table = root.table_if_there("plain")?;
    let address = table.parsed("address", address);
    let identities = identities(&mut table);
    let allow_network = table.value("allow_network", "true or false").unwrap_or(false);
    match address {
        None => table.missing("address", "where to listen, such as \"127.0.0.1:1883\""),
        Some(address) if !allow_network && !address.ip().is_loopback() => table.wrong(
            "address",
            None,
            format!(
                "{address} can be reached from the network, and without TLS everybody on the way reads and changes \
                 what passes, passwords too: use 127.0.0.1, or write allow_network = true if that is what you want"
            ),
        ),
        Some(_) => {}
    }
    table.finish();
    Some(Plain { address: address?, identities })
}

/// `[limits]`.
pub(super) fn limits(mut table: Table) -> Limits {
    let default = Limits::default();
    let mut rate = |key, default| {
        table.number(key, 1..=1_000_000).and_then(|number| u32::try_from(number).ok()).unwrap_or(default)
    };
    let limits = Limits {
        connects_per_second: rate("connects_per_second", default.connects_per_second),
        connect_burst: rate("connect_burst", default.connect_burst),
        handshakes_per_second: rate("handshakes_per_second", default.handshakes_per_second),
        handshake_burst: rate("handshake_burst", default.handshake_burst),
        max_reconnect_delay: table
            .duration("max_reconnect_delay", Duration::ZERO..=Duration::from_secs(60))
            .unwrap_or(default.max_reconnect_delay),
        connection: Rate {
            messages_per_second: table
                .number("messages_per_second", 1..=1_000_000_000)
                .unwrap_or(default.connection.messages_per_second),
            bytes_per_second: table
                .bytes("bytes_per_second", 128)
                .unwrap_or(default.connection.bytes_per_second),
        },
        address: Rate {
            messages_per_second: table
                .number("address_messages_per_second", 1..=1_000_000_000)
                .unwrap_or(default.address.messages_per_second),
            bytes_per_second: table
                .bytes("address_bytes_per_second", 128)
                .unwrap_or(default.address.bytes_per_second),
        },
        topics: TopicBounds {
            max_bytes: table.count("max_topic_bytes", 64..=65_535).unwrap_or(default.topics.max_bytes),
            max_levels: table
                .count("max_topic_levels", 4..=TopicBounds::MAX_LEVELS)
                .unwrap_or(default.topics.max_levels),
        },
    };
    table.finish();
    limits
}
