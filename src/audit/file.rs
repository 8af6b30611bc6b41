//! The files: appended to, moved on when they are full, and read back.

use std::fs::{self, File, Permissions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::Entry;

/// A file that is as large is moved on.
pub(super) const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Files besides the newest.
const OLDER_FILES: u32 = 3;
/// A longer line is none of ours.
const MAX_LINE_BYTES: u64 = 64 * 1024;

fn path(dir: &Path, number: u32) -> PathBuf {
    match number {
        0 => dir.join("audit.jsonl"),
        older => dir.join(format!("audit.{older}.jsonl")),
    }
}

/// Appends an entry, for a command: it is on disk when this returns. Not on an async thread.
///
/// # Errors
/// Those of the file system.
pub fn append(dir: &Path, entry: &Entry) -> io::Result<()> {
    append_lines(dir, &entry.to_line())
}

/// Appends whole lines.
pub(super) fn append_lines(dir: &Path, lines: &[u8]) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    make_like_parent(&File::open(dir)?, dir)?;
    let _lock = lock(dir)?;
    let newest = path(dir, 0);
    let length = fs::metadata(&newest).map_or(0, |metadata| metadata.len());
    if length > 0 && length + lines.len() as u64 > MAX_FILE_BYTES {
        for number in (0..OLDER_FILES).rev() {
            match fs::rename(path(dir, number), path(dir, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    let mut file = File::options().create(true).append(true).open(&newest)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    make_like_parent(&file, &newest)?;
    file.write_all(lines)?;
    file.sync_data()
}

fn lock(dir: &Path) -> io::Result<File> {
    let path = dir.join(".lock");
    let file = File::options().create(true).append(true).open(&path)?;
    make_like_parent(&file, &path)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
    Ok(file)
}

/// Gives what root makes to the owner of the directory around it: the daemon must be able to write on.
fn make_like_parent(file: &File, path: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = fs::metadata(path.parent().unwrap_or(Path::new(".")))?;
    let (uid, gid) = (rustix::fs::Uid::from_raw(owner.uid()), rustix::fs::Gid::from_raw(owner.gid()));
    Ok(rustix::fs::fchown(file, Some(uid), Some(gid))?)
}

/// Reads the log, the oldest entry first. A line that is damaged is passed over: a power cut may have torn it.
///
/// # Errors
/// Those of the file system. That there is no log yet is no error.
pub fn read(dir: &Path, mut each: impl FnMut(Entry)) -> io::Result<()> {
    for number in (0..=OLDER_FILES).rev() {
        let file = match File::open(path(dir, number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            serde_json::from_slice(&line).into_iter().for_each(&mut each);
        }
    }
    Ok(())
}
