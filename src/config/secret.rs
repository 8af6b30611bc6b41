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

/// A secret that somebody may replace while the program runs, where it stands in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewable {
    first: Secret,
    file: Option<PathBuf>,
}

impl Renewable {
    /// The secret as it is now. It waits for the disk.
    ///
    /// # Errors
    /// When its file cannot be read, in words that hold no part of the secret.
    pub fn read(&self) -> Result<Secret, String> {
        match &self.file {
            Some(file) => SecretSource::File(file.clone()).read(),
            None => Ok(self.first.clone()),
        }
    }

    pub(super) fn first(&self) -> &Secret {
        &self.first
    }

    /// Whether it can change at all.
    #[must_use]
    pub fn is_in_file(&self) -> bool {
        self.file.is_some()
    }
}

/// One that stays as it is.
impl From<Secret> for Renewable {
    fn from(first: Secret) -> Self {
        Self { first, file: None }
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
    /// Reads the secret, and keeps in mind where it stands.
    ///
    /// # Errors
    /// As [`SecretSource::read`].
    pub(super) fn read_renewable(self) -> Result<Renewable, String> {
        let file = match &self {
            Self::File(path) => Some(path.clone()),
            Self::Credential(id) => credential(id).ok(),
            Self::Plain(_) | Self::Env(_) => None,
        };
        Ok(Renewable { first: self.read()?, file })
    }

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
            Self::Credential(id) => read_file(&credential(&id)?)?,
        };
        match text.trim() {
            "" => Err("the secret is empty".to_owned()),
            text => Ok(Secret(text.to_owned())),
        }
    }
}

/// Where systemd puts a credential.
fn credential(id: &str) -> Result<PathBuf, String> {
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
        format!("systemd passed no credentials; the unit needs LoadCredential={id}:/path/to/secret")
    })?;
    Ok(Path::new(&directory).join(id))
}

fn read_file(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}
