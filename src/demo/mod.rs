//! The main job, to look at: a gateway in a temporary directory, simulated devices, a cloud on this machine.
//! The cloud goes away, the gateway is killed, both come back, and at the end every message is looked for.

pub mod cloud;

mod device;

mod process;

mod proof;

mod report;

mod screen;

mod show;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use show::Show;

/// All is well at first.
const CALM: Duration = Duration::from_secs(8);
/// The cloud is away, before the gateway is killed and after it was started again.
const AWAY: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(5)];
/// Between SIGKILL and the start of a new process.
const DOWN: Duration = Duration::from_secs(1);
/// The backlog is sent while devices go on.
const BACK: Duration = Duration::from_secs(6);

/// Arguments of `tampu demo`: there is nothing to configure.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Shows everything. The exit code is 0 only if every acknowledged message is where it belongs.
///
/// # Errors
/// What keeps the show from going on.
pub fn run(_: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let directory = tempfile::Builder::new().prefix("tampu-demo-").tempdir()?;
    runtime.block_on(async {
        tokio::select! {
            shown = play(directory.path()) => shown,
            told = told_to_end() => {
                told?;
                eprintln!("\nEnded early. The gateway is gone, and so is its directory.");
                Ok(ExitCode::from(130))
            }
        }
    })
}

async fn told_to_end() -> std::io::Result<()> {
    let [mut interrupt, mut terminate, mut hang_up] =
        [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
    Ok(())
}

async fn play(directory: &Path) -> anyhow::Result<ExitCode> {
    let mut show = Show::set_up(directory).await?;
    show.pass(CALM).await;

    show.cloud_goes_away().await;
    show.pass(AWAY[0]).await;
    show.kill_gateway().await?;
    show.pass(DOWN).await;
    show.start_gateway().await?;
    show.pass(AWAY[1]).await;

    show.cloud_comes_back().await;
    show.pass(BACK).await;

    show.stop_devices().await;
    show.until_drained().await;
    show.end().await
}
