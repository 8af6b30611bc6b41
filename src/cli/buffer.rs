//! `tampu buffer`: what waits, what went, what was dropped and why.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::{ConfigArg, block_on};
use crate::api;
use crate::api::client::{self, ClientError};
use crate::buffer::Buffer;
use crate::gateway::{self, owner};

/// `tampu buffer …`
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Show what waits, what was delivered, and what was dropped and why
    Status(StatusArgs),
    /// Show the newest readings that no sink, or one sink, could use: what they said, and what is wrong with them
    DeadLetters(DeadLettersArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct DeadLettersArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// How many, the newest first
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Status(StatusArgs { config, json }) => {
            let found = look(
                config,
                |data_dir| block_on(async { Ok(client::status(data_dir).await) }),
                |buffer| Ok(json!({ "buffer": buffer.status() })),
            )?;
            if *json { println!("{found:#}") } else { print_status(&found) }
        }
        Command::DeadLetters(DeadLettersArgs { config, limit, json }) => {
            let found = look(
                config,
                |data_dir| block_on(async { Ok(client::dead_letters(data_dir, *limit).await) }),
                |buffer| {
                    let letters = block_on(async { Ok(buffer.dead_letters(*limit).await?) })?;
                    Ok(json!(letters.into_iter().map(api::DeadLetter::from).collect::<Vec<_>>()))
                },
            )?;
            if *json { println!("{found:#}") } else { print_letters(&found) }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the gateway, or looks at the disk when it is not running.
fn look(
    args: &ConfigArg,
    ask: impl FnOnce(&Path) -> anyhow::Result<Result<Value, ClientError>>,
    read: impl FnOnce(&Buffer) -> anyhow::Result<Value>,
) -> anyhow::Result<Value> {
    let config = args.load()?;
    match ask(&config.data_dir)? {
        Err(ClientError::NotRunning(_)) => {
            let directory = gateway::buffer_dir(&config);
            refuse_if_not_ours(&directory, &config.data_dir, args.file().as_deref())?;
            eprintln!("The gateway is not running; this is from the disk.");
            let sinks: Vec<_> = config.sinks.iter().map(|sink| sink.name.clone()).collect();
            let (buffer, _) = Buffer::open(&directory, &config.buffer, &sinks)?;
            let found = read(&buffer)?;
            block_on(async {
                buffer.close().await;
                Ok(())
            })?;
            Ok(found)
        }
        answer => Ok(answer?),
    }
}

/// Opening the store writes to it: nothing may be left there that the gateway cannot read or write.
fn refuse_if_not_ours(directory: &Path, data_dir: &Path, config: Option<&Path>) -> anyhow::Result<()> {
    let shown = directory.display();
    match owner::other_owner(directory) {
        Ok(None) => Ok(()),
        Ok(Some(owner)) => {
            // Which file and directory are meant may depend on who asks.
            let file = config.map_or(String::new(), |file| format!(" TAMPU_CONFIG='{}'", file.display()));
            bail!(
                "no gateway answers, and the buffer {shown} belongs to {owner}: opened by {}, it could be left with \
                 files that {owner} cannot use. Start the gateway (`sudo systemctl start tampu`) and ask again, or put \
                 this before the command: sudo -u '{owner}' env TAMPU_GATEWAY__DATA_DIR='{}'{file}",
                owner::User::current(),
                data_dir.display()
            )
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("there is no buffer in {shown}; `tampu run` makes it")
        }
        Err(error) => Err(error).with_context(|| format!("cannot look at the buffer {shown}")),
    }
}

fn print_status(status: &Value) {
    let buffer = &status["buffer"];
    println!("accepted      {}", buffer["accepted"]);
    println!("on disk       {} bytes in {} blocks", buffer["live_bytes"], buffer["blocks"]);
    println!("dead letters  {} (`tampu buffer dead-letters` shows them)", buffer["dead_letters"]);
    if buffer["dead_letters_evicted"] != 0 {
        println!("              {} older ones have made room", buffer["dead_letters_evicted"]);
    }
    if buffer["refused_full"] != 0 {
        println!("refused       {} QoS 0 publishes while the buffer was full", buffer["refused_full"]);
    }
    if let Some(trouble) = buffer["trouble"].as_str() {
        println!("TROUBLE       {trouble}");
    }
    for gap in buffer["gaps"].as_array().into_iter().flatten() {
        println!("damaged       readings {} to {} are lost", gap[0], gap[1]);
    }
    for (name, sink) in buffer["sinks"].as_object().into_iter().flatten() {
        println!("\nsink {name}");
        println!("  accepted    {}", sink["accepted"]);
        println!("  delivered   {}", sink["delivered"]);
        println!("  pending     {}", sink["pending"]);
        for (reason, count) in sink["dropped"].as_object().into_iter().flatten() {
            println!("  dropped     {count} {reason}");
        }
        let forwarder = &status["forwarders"][name];
        match (forwarder["state"].as_str(), forwarder["why"].as_str()) {
            (Some(state), Some(why)) => println!("  {state:<10}  {why}"),
            (Some(state), None) => println!("  state       {state}"),
            (None, _) => {}
        }
        if let Some(error) = forwarder["last_error"]["why"].as_str() {
            println!("  last error  {error}");
        }
        if let Some(seconds) = forwarder["drain_estimate_s"].as_u64() {
            println!(
                "  drained in  about {}",
                humantime::format_duration(std::time::Duration::from_secs(seconds))
            );
        }
    }
}

fn print_letters(letters: &Value) {
    let letters = letters.as_array().map_or(&[][..], Vec::as_slice);
    if letters.is_empty() {
        println!("There are no dead letters.");
    }
    for letter in letters {
        let text = |key: &str| letter[key].as_str().unwrap_or_default();
        let by = letter["sink"].as_str().map_or("every sink".to_owned(), |sink| format!("the sink {sink}"));
        println!("{}  {} on {}, for {by}: {}", letter["seq"], text("device"), text("topic"), text("reason"));
        println!("    {:?}", text("payload"));
    }
}
