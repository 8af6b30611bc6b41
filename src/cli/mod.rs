//! The commands: parse, run, exit code.

mod acl;
mod audit;
mod buffer;
mod check;
mod command;
mod device;
mod firmware;
mod init;
mod key;
pub mod logging;
mod run;
mod send;
mod token;
mod user;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Invalid};
use crate::{demo, gateway};

/// The exit code for a configuration that is not valid (`EX_CONFIG` of sysexits.h).
const EXIT_CONFIG: u8 = 78;

/// The exit code for a wrong command line, as clap has it.
const EXIT_USAGE: u8 = 2;

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 it failed, 2 the command line is wrong, 78 the configuration is wrong.

New here? Try it without touching anything:   tampu demo
Then start a gateway and give a device its key:
  tampu run
  tampu device add esp32-01 --format arduino";

/// An MQTT edge gateway: readings are on disk before they are acknowledged, wait there while the
/// internet is away, and are forwarded to the cloud when it is back.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what tampu does, with simulated devices and a local cloud; touches nothing of yours
    Demo(demo::Args),
    /// Run the gateway
    Run(run::Args),
    /// Write a commented configuration file, and make the certificates
    Init(init::Args),
    /// Say everything that is wrong with a configuration, without running it
    Check(ConfigArg),
    /// Give devices their certificates, revoke them, keep devices out
    Device {
        #[command(flatten)]
        config: ConfigArg,
        #[command(subcommand)]
        command: device::DeviceCommand,
    },
    /// Set and delete the passwords of devices
    User {
        #[command(flatten)]
        config: ConfigArg,
        #[command(subcommand)]
        command: user::Command,
    },
    /// Make, rotate, revoke and list the API keys of devices
    Key {
        #[command(flatten)]
        config: ConfigArg,
        #[command(subcommand)]
        command: key::Command,
    },
    /// Make, list and revoke the tokens that the API wants
    Token {
        #[command(flatten)]
        config: ConfigArg,
        #[command(subcommand)]
        command: token::Command,
    },
    /// Offer firmware to devices, and see who has it
    Firmware {
        #[command(flatten)]
        config: ConfigArg,
        #[command(subcommand)]
        command: firmware::Command,
    },
    /// Say what a device may do, and which rule says so
    #[command(subcommand)]
    Acl(acl::Command),
    /// Show what was refused to whom, and what was changed
    ///
    /// "device" is who a peer has shown to be, "says it is" whom it named with a certificate, password, key or token
    /// that was not good. What repeats itself at one address is left out; an entry tells how many entries, of
    /// whatever, are missing before it.
    Audit(audit::Args),
    /// Send a command to a device, and say what becomes of it
    ///
    /// It waits for a device that is away, as long as it is good, and is never carried out late.
    Send(send::Args),
    /// Show commands for devices, and take them back
    #[command(name = "command")]
    Commands {
        #[command(flatten)]
        config: ConfigArg,
        #[command(subcommand)]
        command: command::Command,
    },
    /// Look into the store of readings
    #[command(subcommand)]
    Buffer(buffer::Command),
}

/// Which configuration.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConfigArg {
    /// The configuration file [default: /etc/tampu/config.toml if it is there, otherwise safe defaults]
    #[arg(long, short, value_name = "FILE", env = "TAMPU_CONFIG", global = true)]
    pub(crate) config: Option<PathBuf>,
}

impl ConfigArg {
    /// The file that is meant, if any.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        self.config.clone().or_else(Config::default_file)
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`Invalid`], with every problem.
    pub(crate) fn load(&self) -> anyhow::Result<Config> {
        Ok(Config::load(self.file().as_deref())?)
    }
}

impl Cli {
    /// Runs the command. What went wrong is on standard error.
    #[must_use]
    pub fn run(self) -> ExitCode {
        // Exactly one provider of cryptography is linked; a second installation is harmless.
        rustls::crypto::ring::default_provider().install_default().ok();
        let done = match self.command {
            Command::Demo(args) => demo::run(&args),
            Command::Run(args) => run::run(&args),
            Command::Init(args) => init::run(&args),
            Command::Check(args) => check::run(&args),
            Command::Device { config, command } => run_device(&config, &command),
            Command::User { config, command } => user::run(&config, &command),
            Command::Key { config, command } => key::run(&config, &command),
            Command::Token { config, command } => token::run(&config, &command),
            Command::Firmware { config, command } => firmware::run(&config, &command),
            Command::Acl(command) => acl::run(&command),
            Command::Audit(args) => audit::run(&args),
            Command::Send(args) => send::run(&args),
            Command::Commands { config, command } => command::run(&config, &command),
            Command::Buffer(command) => buffer::run(&command),
        };
        match done {
            Ok(code) => code,
            Err(error) if error.is::<Invalid>() => {
                eprintln!("The configuration is not valid:\n{error}");
                ExitCode::from(EXIT_CONFIG)
            }
            Err(error) => {
                eprintln!("Error: {}", told_once(&error));
                ExitCode::FAILURE
            }
        }
    }
}

/// The error and its causes, without a cause that the one before has told already.
fn told_once(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if told.is_empty() {
            told = cause;
        } else if !told.ends_with(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    told
}

fn run_device(config: &ConfigArg, command: &device::DeviceCommand) -> anyhow::Result<ExitCode> {
    let file = config.file();
    let config = config.load()?;
    let pki = device::open(command, &config, file.as_deref())?;
    let clock = gateway::offline_clock(&config)?;
    let place = device::Place {
        pki: &pki,
        data_dir: &config.data_dir,
        port: config.listener.address.port(),
        now: clock.trusted_now().into(),
        certainly_past: clock.certainly_past().into(),
    };
    device::run(command, &place, &mut std::io::stdout().lock())?;
    if let Some((change, device)) = command.change() {
        audit::changed(&config, change, Some(device), &format!("tampu device {change} {device}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// A runtime for a command that only asks something.
fn block_on<T>(task: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(task)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_systems_words_are_told_once() {
        let denied = || anyhow::anyhow!("Permission denied (os error 13)");
        let error = denied().context("reading /x: Permission denied (os error 13)").context("the key");
        assert_eq!(super::told_once(&error), "the key: reading /x: Permission denied (os error 13)");
    }

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
