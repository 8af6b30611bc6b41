//! The REST API.

use std::net::SocketAddr;

/// The REST API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    /// Whether there is one.
    pub enabled: bool,
    /// Where to listen.
    pub address: SocketAddr,
    /// By TLS, with the gateway's certificate. Without it only on loopback, unless the operator has allowed the
    /// network in so many words.
    pub tls: bool,
    /// Open connections; half of them with one address.
    pub max_connections: usize,
    /// Commands that one token may send a minute, and so many at once.
    pub commands_per_minute: u32,
    /// Other changes of one token a minute, and so many at once.
    pub changes_per_minute: u32,
    /// Requests of one token a minute in all, and so many at once.
    pub requests_per_minute: u32,
    /// Wrong tokens of one address (of IPv6: a /64) a minute that are looked at.
    pub failures_per_minute: u32,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            enabled: true,
            address: SocketAddr::from(([127, 0, 0, 1], 8484)),
            tls: false,
            max_connections: 64,
            commands_per_minute: 10,
            changes_per_minute: 60,
            requests_per_minute: 600,
            failures_per_minute: 10,
        }
    }
}
