//! `tampu run`: the daemon.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use tokio::runtime::{Builder, Runtime};

use super::{ConfigArg, logging};
use crate::gateway::{Gateway, Signals};

/// More workers cost more switches between them than they gain: a core can do 200,000 publishes a second.
const MAX_SESSION_WORKERS: usize = 2;

/// What the threads of a runtime get to end, after everything in them was drained: one may wait for a dead disk.
const THREADS_PATIENCE: Duration = Duration::from_secs(1);

/// Arguments of `tampu run`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// End with this process, which has started it: a gateway under show must not outlive the show
    #[arg(long, value_name = "PID", hide = true)]
    end_with: Option<i32>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let sessions = workers("sessions", (cores / 2).clamp(1, MAX_SESSION_WORKERS))?;
    let background = workers("background", 1)?;
    // Before anything that takes its time: a signal that comes early is kept until it can be heeded.
    let signals = sessions.block_on(async { Signals::listen() })?;
    let done = serve(args, signals, &sessions, &background);
    // A thread that waits for a dead disk must not keep the process.
    for runtime in [sessions, background] {
        runtime.shutdown_timeout(THREADS_PATIENCE);
    }
    done
}

fn serve(
    args: &Args,
    mut signals: Signals,
    sessions: &Runtime,
    background: &Runtime,
) -> anyhow::Result<ExitCode> {
    if let Some(parent) = args.end_with {
        end_with(parent)?;
    }
    let file = args.config.file();
    let config = args.config.load()?;
    let level = logging::start(&config.log);
    match &file {
        Some(file) => tracing::info!(config = %file.display(), "tampu {}", env!("CARGO_PKG_VERSION")),
        None => {
            tracing::info!("tampu {} without a configuration file: safe defaults", env!("CARGO_PKG_VERSION"))
        }
    }
    sessions.block_on(async {
        let gateway = tokio::select! {
            started = Gateway::start(config, file, background.handle()) => started?,
            // Nothing was acknowledged yet, and opening a large damaged store can take minutes.
            () = signals.end() => {
                tracing::info!("ended before it served");
                return Ok(());
            }
        };
        gateway.run_until_signal(signals, |log| level.set(&log.level)).await
    })?;
    Ok(ExitCode::SUCCESS)
}

fn workers(name: &str, count: usize) -> std::io::Result<Runtime> {
    Builder::new_multi_thread().thread_name(name).worker_threads(count).enable_all().build()
}

/// However the parent ends, the kernel then kills this process.
fn end_with(parent: i32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot be told of the parent's end")?;
    // It may have ended before the kernel was asked.
    ensure!(
        getppid().map(Pid::as_raw_pid) == Some(parent),
        "the process {parent} is not the parent any more"
    );
    Ok(())
}
