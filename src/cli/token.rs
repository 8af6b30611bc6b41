//! `tampu token`: who may use the API, and for what.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;

use super::{ConfigArg, audit};
use crate::authorize::{ApiToken, ApiTokens, Document, Scope};
use crate::gateway;

/// `tampu token …`
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a token for the API, and print it: it is shown this once
    Create {
        /// What it is for, such as "dashboard"
        name: String,
        /// What it is good for, such as "commands:write,readings:read"; "all" is everything
        #[arg(long, value_name = "SCOPES", value_delimiter = ',', required = true, value_parser = scopes)]
        scope: Vec<Scopes>,
        /// For so long, such as "90d" [default: until it is revoked]
        #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
        expires: Option<Duration>,
    },
    /// List the tokens, without the tokens themselves
    List {
        /// Print JSON, for scripts
        #[arg(long)]
        json: bool,
    },
    /// Take a token out of force, at once
    Revoke {
        /// Its name, or its id: the 8 digits after `tampu_token_`
        token: String,
    },
}

/// What stands between two commas.
#[derive(Debug, Clone)]
pub(super) struct Scopes(Vec<Scope>);

fn scopes(text: &str) -> Result<Scopes, String> {
    match text {
        "all" => Ok(Scopes(Scope::ALL.to_vec())),
        one => Ok(Scopes(vec![one.parse()?])),
    }
}

pub(super) fn run(config: &ConfigArg, command: &Command) -> anyhow::Result<ExitCode> {
    let config = config.load()?;
    let data_dir = || gateway::data_dir(&config);
    match command {
        Command::Create { name, scope, expires } => {
            let now = gateway::offline_clock(&config)?.trusted_now().into();
            let scopes = scope.iter().flat_map(|scopes| scopes.0.clone()).collect();
            let new =
                Document::<ApiTokens>::update(data_dir()?, |tokens| tokens.add(name, scopes, now, *expires))?;
            println!("{}", new.token.expose());
            eprintln!("This is shown once. Send it in the header: Authorization: Bearer …");
            let detail = format!("the token {} ({name:?}) for {}", new.record.id, list_of(&new.record));
            audit::changed(&config, "token create", None, &detail);
        }
        Command::Revoke { token } => {
            let revoked = Document::<ApiTokens>::update(data_dir()?, |tokens| tokens.revoke(token))?;
            audit::changed(
                &config,
                "token revoke",
                None,
                &format!("the token {} ({:?})", revoked.id, revoked.name),
            );
            println!(
                "The token {} ({}) is revoked. A gateway that runs knows within a second.",
                revoked.id, revoked.name
            );
        }
        Command::List { json } => list(&Document::<ApiTokens>::read(&config.data_dir)?, *json)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list_of(token: &ApiToken) -> String {
    token.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(",")
}

fn list(tokens: &ApiTokens, json: bool) -> anyhow::Result<()> {
    if json {
        let rows: Vec<_> = tokens
            .iter()
            .map(|token| {
                let ApiToken { id, name, scopes, created, expires, .. } = token;
                serde_json::json!({
                    "id": id, "name": name, "scopes": scopes,
                    "created": created.unix_timestamp(), "expires": expires.map(|end| end.unix_timestamp()),
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    if tokens.iter().next().is_none() {
        println!("There is no token yet: `tampu token create NAME --scope all` makes one.");
        return Ok(());
    }
    let width = tokens.iter().map(|token| token.name.chars().count()).max().unwrap_or(0).max("NAME".len());
    println!("{:width$}  ID        CREATED     EXPIRES     SCOPES", "NAME");
    for token in tokens.iter() {
        let expires = token.expires.map_or("never".to_owned(), |expires| expires.date().to_string());
        println!(
            "{:width$}  {}  {}  {expires:10}  {}",
            token.name,
            token.id,
            token.created.date(),
            list_of(token)
        );
    }
    Ok(())
}
