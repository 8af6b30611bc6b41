//! The tables of what accepts connections.

use std::net::SocketAddr;
use std::time::Duration;

use super::access::{client_auth, identities};
use super::table::Table;
use super::{ClientAuth, Listener};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

pub(super) fn listener(mut table: Table) -> Listener {
    let default = Listener::default();
    let deadline = MILLISECOND..=Duration::from_secs(600);
    let identities = identities(&mut table);
    let listener = Listener {
        address: table
            .parsed("address", |text| {
                text.parse::<SocketAddr>()
                    .map_err(|_| "an address is written as \"0.0.0.0:8883\" or \"[::]:8883\"")
            })
            .unwrap_or(default.address),
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
        max_queued_bytes: table
            .bytes("max_queued", 1024)
            .and_then(|bytes| usize::try_from(bytes).ok())
            .unwrap_or(default.max_queued_bytes),
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
