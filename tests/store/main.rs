//! The store, and everything that can happen to the disk under it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

mod random;

mod recorder;

mod replay;

mod model;

mod driver;

mod check;

mod power_cut;

mod kill;

mod damage;

mod io_error;

mod full_disk;

/// A directory that costs no disk access: what survives a power cut is the replay's business, not the file system's.
fn scratch() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}
