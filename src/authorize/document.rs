//! A small file of the data directory, replaced whole or not at all, with a copy beside it for the day when a sector
//! goes bad. Commands change it beside a running gateway, which looks for changes.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::seen::Seen;

/// What stands in such a file.
pub trait Content: Serialize + DeserializeOwned + Default + Clone + PartialEq {
    /// The file is called so, with `.json` behind it.
    const NAME: &'static str;
    /// The present form.
    const VERSION: u32;

    /// The form of this one.
    fn version(&self) -> u32;

    /// Forgets of what there is nothing to know.
    fn tidy(&mut self) {}
}

/// 100,000 devices with a password and a key each are less. What is larger is not read into memory.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// What is wrong with the file.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The file system does not do it.
    #[error("{what} {}: {source}", file.display())]
    Io {
        /// What was wanted.
        what: &'static str,
        /// Of which file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("{} cannot be used: {wrong}. What the last change wrote is in {} too", file.display(), copy.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        wrong: String,
        /// Where the copy is.
        copy: PathBuf,
    },
}

/// The file as a running gateway sees it.
#[derive(Debug)]
pub struct Document<C> {
    data_dir: PathBuf,
    /// The file that was read last, good or not.
    seen: Option<Seen>,
    content: Arc<C>,
    trouble: Option<DocumentError>,
}

impl<C: Content> Document<C> {
    /// Reads the file of a gateway. It starts in any case: with the copy if the file is damaged, with nothing if both
    /// are.
    #[must_use]
    pub fn open(data_dir: &Path) -> Self {
        let Files { file, copy, .. } = Files::of::<C>(data_dir);
        let seen = Seen::look(&file);
        let (content, trouble) = match read(data_dir) {
            Ok(content) => (content, None),
            Err(error) => (parse(&copy).unwrap_or_default().unwrap_or_default(), Some(error)),
        };
        Self { data_dir: data_dir.to_owned(), seen, content: Arc::new(content), trouble }
    }

    /// What is wrong with the file as of the last look: somebody must act.
    #[must_use]
    pub fn trouble(&self) -> Option<&DocumentError> {
        self.trouble.as_ref()
    }

    /// What stood in it at the last look.
    #[must_use]
    pub fn content(&self) -> Arc<C> {
        Arc::clone(&self.content)
    }

    /// Looks whether the file has changed; call it twice a second, not on an async thread. `true`: something else
    /// stands in it now. While it cannot be read, what was in force stays so.
    pub fn look(&mut self) -> bool {
        let seen = Seen::look(&Files::of::<C>(&self.data_dir).file);
        // What the trouble was with may be over although the file looks the same.
        if seen == self.seen && self.trouble.is_none() {
            return false;
        }
        self.seen = seen;
        match read(&self.data_dir) {
            Ok(content) => {
                self.trouble = None;
                let differs = content != *self.content;
                self.content = Arc::new(content);
                differs
            }
            Err(error) => {
                self.trouble = Some(error);
                false
            }
        }
    }

    /// Reads it, for a command.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(data_dir: &Path) -> Result<C, DocumentError> {
        read(data_dir)
    }

    /// Changes it; the change is on disk when this returns. Others who want to change it wait meanwhile.
    /// Not on an async thread.
    ///
    /// # Errors
    /// That of `change`, or when the file cannot be read or written: then nothing has changed.
    pub fn update<T, E: From<DocumentError>>(
        data_dir: &Path,
        change: impl FnOnce(&mut C) -> Result<T, E>,
    ) -> Result<T, E> {
        let Files { file, copy, lock } = Files::of::<C>(data_dir);
        let _lock = hold(lock, data_dir)?;
        let mut content: C = read(data_dir)?;
        let before = content.clone();
        let done = change(&mut content)?;
        content.tidy();
        if content != before {
            let bytes = serde_json::to_vec_pretty(&content).expect("names and texts can be written as JSON");
            for file in [file, copy] {
                replace(&file, &bytes).map_err(|source| DocumentError::Io {
                    what: "writing",
                    file,
                    source,
                })?;
            }
        }
        Ok(done)
    }
}

struct Files {
    file: PathBuf,
    /// What the last change has written too.
    copy: PathBuf,
    lock: PathBuf,
}

impl Files {
    fn of<C: Content>(data_dir: &Path) -> Self {
        let name = C::NAME;
        Self {
            file: data_dir.join(format!("{name}.json")),
            copy: data_dir.join(format!("{name}.json.copy")),
            lock: data_dir.join(format!(".{name}.lock")),
        }
    }
}

/// What stands in the file; nothing if there never was one.
fn read<C: Content>(data_dir: &Path) -> Result<C, DocumentError> {
    let Files { file, copy, .. } = Files::of::<C>(data_dir);
    let wrong = match parse(&file) {
        Ok(Some(content)) => return Ok(content),
        Ok(None) if !copy.exists() => return Ok(C::default()),
        Ok(None) => "it is gone".to_owned(),
        Err(wrong) => wrong,
    };
    Err(DocumentError::Unusable { file, wrong, copy })
}

/// `None`: there is no such file.
fn parse<C: Content>(file: &Path) -> Result<Option<C>, String> {
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
        Ok(length) if length as u64 > MAX_FILE_BYTES => return Err("it is far too long".to_owned()),
        Ok(_) => {}
    }
    let content: C = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    let (version, known) = (content.version(), C::VERSION);
    if version == known {
        Ok(Some(content))
    } else {
        Err(format!("it has the form {version}, and this program knows the form {known}"))
    }
}

/// Holds others out while it lives.
fn hold(path: PathBuf, data_dir: &Path) -> Result<File, DocumentError> {
    let locked = File::options().create(true).append(true).open(&path).and_then(|file| {
        make_like_directory(&file, data_dir)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
        Ok(file)
    });
    locked.map_err(|source| DocumentError::Io { what: "locking", file: path, source })
}

/// After a power cut the one or the other is there, whole.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().expect("it stands in the data directory");
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
    file.as_file().set_permissions(Permissions::from_mode(0o600))?;
    make_like_directory(file.as_file(), dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(dir)?.sync_all()
}

/// Gives what root makes to the owner of the directory: `sudo tampu user set` must not leave a file that the daemon
/// cannot read.
///
/// # Errors
/// Those of the file system.
pub(crate) fn make_like_directory(file: &File, dir: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = fs::metadata(dir)?;
    let (uid, gid) = (rustix::fs::Uid::from_raw(owner.uid()), rustix::fs::Gid::from_raw(owner.gid()));
    Ok(rustix::fs::fchown(file, Some(uid), Some(gid))?)
}
