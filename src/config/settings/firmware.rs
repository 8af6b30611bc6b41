//! Firmware over the air.

use std::net::SocketAddr;
use std::time::Duration;

use super::{IdentityKind, TopicTemplate};

/// What devices may fetch, and how they are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware {
    /// Where images are served over HTTPS; `None`: nowhere.
    pub address: Option<SocketAddr>,
    /// How a device may show who it is, the one that wins first.
    pub identities: Vec<IdentityKind>,
    /// What devices are told to find images under, such as `https://gateway.local:8485`.
    pub url: Option<String>,
    /// Bytes of one image.
    pub max_image_bytes: u64,
    /// Images that are sent at once.
    pub max_downloads: usize,
    /// So long a device may take nothing of an image.
    pub stall_timeout: Duration,
    /// Where a device is told what it is offered, as a retained message.
    pub notify_topic: TopicTemplate,
    /// Where a device tells which version it runs.
    pub version_topic: TopicTemplate,
}

impl Default for Firmware {
    fn default() -> Self {
        let template = |text| TopicTemplate::parse(text).expect("it is a topic");
        Self {
            address: None,
            identities: vec![IdentityKind::Certificate, IdentityKind::ApiKey],
            url: None,
            max_image_bytes: 16 * 1024 * 1024,
            max_downloads: 100,
            stall_timeout: Duration::from_secs(30),
            notify_topic: template("{device}/firmware/available"),
            version_topic: template("{device}/firmware/version"),
        }
    }
}
