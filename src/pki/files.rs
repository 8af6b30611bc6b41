//! Files that hold keys: written whole or not at all, readable by their owner alone.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::PkiError;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum FileMode {
    /// Its owner alone.
    Secret = 0o600,
    /// Everybody.
    Public = 0o644,
}

/// No certificate or key is larger; what is, is not read into memory.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Makes a directory that its owner alone may enter, and its parents.
pub(super) fn private_dir(dir: &Path) -> Result<(), PkiError> {
    let failed = |source| PkiError::io("making the directory", dir, source);
    if !dir.is_dir() {
        fs::create_dir_all(dir).map_err(failed)?;
        adopt(&File::open(dir).map_err(failed)?, dir).map_err(failed)?;
    }
    let mode = fs::metadata(dir).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(dir, Permissions::from_mode(0o700))
            .map_err(|source| PkiError::io("closing to others the directory", dir, source))?;
    }
    Ok(())
}

/// Holds others out while it lives: the daemon and `tampu device add` work in the same directory.
pub(super) fn lock(dir: &Path) -> Result<File, PkiError> {
    let path = dir.join(".lock");
    let locked = File::options().create(true).append(true).open(&path).and_then(|file| {
        adopt(&file, &path)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
        Ok(file)
    });
    locked.map_err(|source| PkiError::io("locking", &path, source))
}

/// Writes a file that must not exist yet. After a power cut it is there whole, or not at all.
///
/// # Errors
/// When it exists, or the file system refuses.
pub fn create(path: &Path, bytes: &[u8], mode: FileMode) -> Result<(), PkiError> {
    write(path, bytes, mode, false).map_err(|source| PkiError::io("writing", path, source))
}

/// Puts a file in the place of another. After a power cut one of the two is there, whole.
pub(super) fn replace(path: &Path, bytes: &[u8], mode: FileMode) -> Result<(), PkiError> {
    write(path, bytes, mode, true).map_err(|source| PkiError::io("writing", path, source))
}

fn write(path: &Path, bytes: &[u8], mode: FileMode, overwrite: bool) -> io::Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let permissions = Permissions::from_mode(mode as u32);
    let mut file =
        tempfile::Builder::new().prefix(".new-").permissions(permissions.clone()).tempfile_in(dir)?;
    // The umask has had its say; ours is exact.
    file.as_file().set_permissions(permissions)?;
    adopt(file.as_file(), path)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    if overwrite {
        file.persist(path)?
    } else {
        file.persist_noclobber(path)?
    };
    File::open(dir)?.sync_all()
}

/// Gives what root makes to the owner of the directory around it: `sudo tampu device add` must not
/// leave files that the daemon cannot read.
fn adopt(file: &File, path: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    let owner = fs::metadata(parent)?;
    let (uid, gid) = (rustix::fs::Uid::from_raw(owner.uid()), rustix::fs::Gid::from_raw(owner.gid()));
    Ok(rustix::fs::fchown(file, Some(uid), Some(gid))?)
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, PkiError> {
    let failed = |source| PkiError::io("reading", path, source);
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > MAX_FILE_BYTES {
        let wrong = format!("it has {length} bytes, so it is neither a certificate nor a key");
        return Err(PkiError::file(path, wrong, "give the path of a PEM file"));
    }
    fs::read(path).map_err(failed)
}

/// Whether others than the owner may read a file.
pub(super) fn is_open_to_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

/// Moves a damaged file out of the way, as `NAME.damaged-N`, and keeps it for whoever wants to look.
pub(super) fn set_aside(path: &Path) -> Result<PathBuf, PkiError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = (1..)
        .map(|number: u32| path.with_file_name(format!("{name}.damaged-{number}")))
        .find(|aside| !aside.exists())
        .expect("the numbers do not end");
    fs::rename(path, &aside).map_err(|source| PkiError::io("setting aside", path, source))?;
    Ok(aside)
}
