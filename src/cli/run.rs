//! `tampu run`: the daemon.

use std::process::ExitCode;

use super::{ConfigArg, logging};
use crate::gateway::Gateway;

const MAX_WORKERS: usize = 2;

pub(super) fn run(args: &ConfigArg) -> anyhow::Result<ExitCode> {
    let file = args.file();
    let config = args.load()?;
    let level = logging::start(&config.log);
    match &file {
        Some(file) => tracing::info!(config = %file.display(), "tampu {}", env!("CARGO_PKG_VERSION")),
        None => {
            tracing::info!("tampu {} without a configuration file: safe defaults", env!("CARGO_PKG_VERSION"))
        }
    }
    // More workers cost more switches between them than they gain: the store's thread sets the pace.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(MAX_WORKERS))
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let gateway = Gateway::start(config, file).await?;
        gateway.run_until_signal(|log| level.set(&log.level)).await
    })?;
    Ok(ExitCode::SUCCESS)
}
