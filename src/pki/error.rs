//! What can be wrong with certificates, in words that say what would be right.

use std::io;
use std::path::{Path, PathBuf};

use crate::message::DeviceId;

/// Why something about certificates could not be done.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The file system refused: look at permissions and free space.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what it must be: replace it.
    #[error("{}: {wrong}; {remedy}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        wrong: String,
        /// What to do about it.
        remedy: String,
    },
    /// The settings ask for what cannot be done: change them.
    #[error("{0}")]
    Settings(String),
    /// The name is taken: choose another, or renew it.
    #[error(
        "the device \"{device}\" already has a certificate ({}); its key was shown once and is not kept. \
         Choose another name; or make one more certificate for it with `tampu device renew`, \
         or another in its place with `tampu device rotate`", path.display()
    )]
    DeviceExists {
        /// The name.
        device: DeviceId,
        /// Its certificate.
        path: PathBuf,
    },
    /// There is no such device: look at the list.
    #[error("there is no device \"{0}\"; `tampu device list` shows those there are")]
    UnknownDevice(DeviceId),
    /// The device has to make another request.
    #[error("the certificate request cannot be signed: {0}")]
    Request(String),
}

impl PkiError {
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }

    pub(super) fn file(path: &Path, wrong: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), wrong: wrong.into(), remedy: remedy.into() }
    }

    /// Whether the file that was looked for is not there.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether the content of a file is to blame, and not the way to it.
    pub(super) fn is_damage(&self) -> bool {
        matches!(self, Self::File { .. })
    }
}
