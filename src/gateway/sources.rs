//! Where commands come from: a task a source.

use std::collections::BTreeMap;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::config::Config;
use crate::relay::{self, Ledger, SourceStatus};
use crate::tasks::{Stage, Tasks};

/// Starts every source, beside each other. One that cannot be set up is its own trouble: everything else runs.
pub(super) fn start(
    config: &Config,
    ledger: &Ledger,
    clock: &Clock,
    tasks: &Tasks,
) -> BTreeMap<String, watch::Receiver<SourceStatus>> {
    let spawner = tasks.spawner(Stage::Forwarders);
    let mut handles = BTreeMap::new();
    for settings in &config.command_sources {
        let (source, status) = match relay::open(settings, &config.gateway_id, ledger, clock) {
            Ok(opened) => opened,
            Err(error) => {
                let source = &settings.name;
                tracing::error!(%source, %error, "this source of commands cannot be set up; none come from it");
                continue;
            }
        };
        handles.insert(settings.name.to_string(), status);
        let running = source.run(spawner.cancelled().clone());
        spawner.essential(format!("commands from {}", settings.name), running);
    }
    handles
}
