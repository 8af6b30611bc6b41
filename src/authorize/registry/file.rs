//! `devices.json`: replaced whole or not at all, with a copy beside it for the day when a sector goes bad.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::seen::Seen;
use super::{Devices, VERSION};

const NAME: &str = "devices.json";
/// What the last change has written too.
const COPY: &str = "devices.json.copy";
const LOCK: &str = ".devices.lock";

/// 100,000 devices with a password and a key each are less. What is larger is not read into memory.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// What is wrong with the registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
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

/// The registry as a running gateway sees it.
#[derive(Debug)]
pub struct Registry {
    data_dir: PathBuf,
    /// The file that was read last, good or not.
    seen: Option<Seen>,
    devices: Arc<Devices>,
    trouble: Option<RegistryError>,
}

impl Registry {
    /// Reads the registry of a gateway. It starts in any case: with the copy if the file is damaged, without any
    /// device if both are.
    #[must_use]
    pub fn open(data_dir: &Path) -> Self {
        let seen = Seen::look(&data_dir.join(NAME));
        let (devices, trouble) = match read(data_dir) {
            Ok(devices) => (devices, None),
            Err(error) => (parse(&data_dir.join(COPY)).unwrap_or_default().unwrap_or_default(), Some(error)),
        };
        Self { data_dir: data_dir.to_owned(), seen, devices: Arc::new(devices), trouble }
    }

    /// What is wrong with the file as of the last look: somebody must act.
    #[must_use]
    pub fn trouble(&self) -> Option<&RegistryError> {
        self.trouble.as_ref()
    }

    /// The devices as of the last look.
    #[must_use]
    pub fn devices(&self) -> Arc<Devices> {
        Arc::clone(&self.devices)
    }

    /// Looks whether the file has changed; call it twice a second, not on an async thread. `true`: there are other
    /// devices now. While it cannot be read, what was in force stays so.
    pub fn look(&mut self) -> bool {
        let seen = Seen::look(&self.data_dir.join(NAME));
        if seen == self.seen {
            return false;
        }
        self.seen = seen;
        match read(&self.data_dir) {
            Ok(devices) => {
                self.trouble = None;
                let differs = devices != *self.devices;
                self.devices = Arc::new(devices);
                differs
            }
            Err(error) => {
                self.trouble = Some(error);
                false
            }
        }
    }

    /// Reads the devices, for a command.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read(data_dir: &Path) -> Result<Devices, RegistryError> {
        read(data_dir)
    }

    /// Changes the registry; the change is on disk when this returns. Others who want to change it wait meanwhile.
    /// Not on an async thread.
    ///
    /// # Errors
    /// That of `change`, or when the file cannot be read or written: then nothing has changed.
    pub fn update<T, E: From<RegistryError>>(
        data_dir: &Path,
        change: impl FnOnce(&mut Devices) -> Result<T, E>,
    ) -> Result<T, E> {
        let _lock = lock(data_dir)?;
        let mut devices = read(data_dir)?;
        let before = devices.clone();
        let done = change(&mut devices)?;
        devices.tidy();
        if devices != before {
            let bytes = serde_json::to_vec_pretty(&devices).expect("names and texts can be written as JSON");
            for name in [NAME, COPY] {
                let file = data_dir.join(name);
                replace(&file, &bytes).map_err(|source| RegistryError::Io {
                    what: "writing",
                    file,
                    source,
                })?;
            }
        }
        Ok(done)
    }
}

/// The devices of the file; none if there never was one.
fn read(data_dir: &Path) -> Result<Devices, RegistryError> {
    let (file, copy) = (data_dir.join(NAME), data_dir.join(COPY));
    let wrong = match parse(&file) {
        Ok(Some(devices)) => return Ok(devices),
        Ok(None) if !copy.exists() => return Ok(Devices::default()),
        Ok(None) => "it is gone".to_owned(),
        Err(wrong) => wrong,
    };
    Err(RegistryError::Unusable { file, wrong, copy })
}

/// `None`: there is no such file.
fn parse(file: &Path) -> Result<Option<Devices>, String> {
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
        Ok(length) if length as u64 > MAX_FILE_BYTES => return Err("it is far too long".to_owned()),
        Ok(_) => {}
    }
    let devices: Devices = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    match devices.version {
        VERSION => Ok(Some(devices)),
        other => Err(format!("it has the form {other}, and this program knows the form {VERSION}")),
    }
}

/// Holds others out while it lives.
fn lock(data_dir: &Path) -> Result<File, RegistryError> {
    let path = data_dir.join(LOCK);
    let locked = File::options().create(true).append(true).open(&path).and_then(|file| {
        make_like_directory(&file, data_dir)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
        Ok(file)
    });
    locked.map_err(|source| RegistryError::Io { what: "locking", file: path, source })
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
fn make_like_directory(file: &File, dir: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = fs::metadata(dir)?;
    let (uid, gid) = (rustix::fs::Uid::from_raw(owner.uid()), rustix::fs::Gid::from_raw(owner.gid()));
    Ok(rustix::fs::fchown(file, Some(uid), Some(gid))?)
}
