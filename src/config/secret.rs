//! Secrets, and where they may come from.

use std::fmt;
use std::path::{Path, PathBuf};

/// A secret. Its text is seen by [`Secret::expose`] alone: it is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps a secret.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The secret itself. Only for the request that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Where the text of a secret stands.
pub(super) enum SecretSource {
    Plain(String),
    Env(String),
    File(PathBuf),
    Credential(String),
}

impl SecretSource {
    /// Reads the secret; white space around it is not part of it.
    ///
    /// # Errors
    /// In words that hold no part of the secret.
    pub(super) fn read(self) -> Result<Secret, String> {
        let text = match self {
            Self::Plain(text) => text,
            Self::Env(name) => std::env::var(&name)
                .map_err(|_| format!("the environment variable {name} is not set (or not UTF-8)"))?,
            Self::File(path) => read_file(&path)?,
            Self::Credential(id) => {
                let directory = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                    format!(
                        "systemd passed no credentials; the unit needs LoadCredential={id}:/path/to/secret"
                    )
                })?;
                read_file(&Path::new(&directory).join(&id))?
            }
        };
        match text.trim() {
            "" => Err("the secret is empty".to_owned()),
            text => Ok(Secret(text.to_owned())),
        }
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}
