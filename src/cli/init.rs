//! `tampu init`: a commented configuration file and the certificates.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use crate::config::{Config, SYSTEM_FILE};
use crate::gateway;

const EXAMPLE: &str = include_str!("../../config.toml.example");

/// Arguments of `tampu init`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to write it [default: /etc/tampu/config.toml for root, ./config.toml otherwise]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let root = rustix::process::geteuid().is_root();
    let default = if root { SYSTEM_FILE } else { "config.toml" };
    let file = args.config.clone().unwrap_or_else(|| default.into());
    let shown = file.display();
    if let Some(directory) = file.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make the directory {}", directory.display()))?;
    }
    match std::fs::File::create_new(&file) {
        Ok(mut new) => new.write_all(EXAMPLE.as_bytes()).with_context(|| format!("cannot write {shown}"))?,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            bail!("{shown} exists and is left as it is; look at it with `tampu check --config {shown}`")
        }
        Err(error) => return Err(error).with_context(|| format!("cannot write {shown}")),
    }
    let config = Config::load(Some(&file))?;
    gateway::open_pki(&config)?;
    println!("Wrote {shown} (every setting is there, commented, with its default).");
    println!("Certificates are in {}.", gateway::pki_dir(&config).display());
    println!("\nNext:\n  tampu device add esp32-01 --config {shown}");
    println!("  tampu check --config {shown}\n  tampu run --config {shown}");
    Ok(ExitCode::SUCCESS)
}
