//! With which gateway's certificates a command works. A gateway that runs as a service has its own place,
//! and a person who forgets that would look into an empty one, or make a second CA.

use std::path::{Path, PathBuf};

use anyhow::bail;

use super::DeviceCommand;
use crate::config::{Config, SYSTEM_DATA_DIR, SYSTEM_FILE};
use crate::gateway;
use crate::pki::Pki;

/// Opens the certificates. Only adding a device makes them, and says so.
///
/// # Errors
/// When there are none to look at, or they cannot be opened.
pub(in crate::cli) fn open(
    command: &DeviceCommand,
    config: &Config,
    file: Option<&Path>,
) -> anyhow::Result<Pki> {
    let dir = gateway::pki_dir(config);
    let unused = || unused(config, file, [SYSTEM_FILE.into(), SYSTEM_DATA_DIR.into()]);
    if let DeviceCommand::Add(_) = command {
        let pki = gateway::open_pki(config)?;
        if pki.has_new_ca() {
            eprintln!(
                "Note: made a new CA in {}; a gateway that runs elsewhere does not know it.{}",
                dir.display(),
                unused()
            );
        }
        return Ok(pki);
    }
    match gateway::existing_pki(config)? {
        Some(pki) => Ok(pki),
        None => bail!(
            "there is no gateway's data in {} yet ({}). Another configuration is named by --config; \
             `tampu run` and `tampu device add` make what is missing.{}",
            dir.display(),
            file.map_or("no configuration file".to_owned(), |file| format!("as {} says", file.display())),
            unused()
        ),
    }
}

/// A hint at the service's own place, if there is one and it was not used.
fn unused(config: &Config, file: Option<&Path>, [system_file, system_dir]: [PathBuf; 2]) -> String {
    if system_file.exists() && file != Some(&system_file) {
        return format!(
            "\n{0} is there and was not used: for that gateway, run it with sudo and --config {0}",
            system_file.display()
        );
    }
    if system_dir.exists() && config.data_dir != system_dir {
        return format!(
            "\n{} is there and was not used: for the gateway that runs as a service, run it with sudo",
            system_dir.display()
        );
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_that_was_not_meant_is_hinted_at() {
        let dir = tempfile::tempdir().unwrap();
        let (file, data) = (dir.path().join("config.toml"), dir.path().join("data"));
        let hint = |config: &Config, used: Option<&Path>| unused(config, used, [file.clone(), data.clone()]);
        let elsewhere = Config::from_toml("[gateway]\ndata_dir = \"/elsewhere\"\n").unwrap();
        assert_eq!(hint(&elsewhere, None), "");

        std::fs::create_dir(&data).unwrap();
        assert!(hint(&elsewhere, None).contains(data.to_str().unwrap()));
        let there = Config::from_toml(&format!("[gateway]\ndata_dir = {data:?}\n")).unwrap();
        assert_eq!(hint(&there, None), "");

        std::fs::write(&file, "").unwrap();
        assert!(hint(&elsewhere, None).contains(&format!("--config {}", file.display())));
        assert_eq!(hint(&there, Some(&file)), "");
    }
}
