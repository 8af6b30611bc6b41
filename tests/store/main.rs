//! The store, and everything that can happen to the disk under it: the power goes, the process is killed, files are
//! damaged, calls fail, the disk is full.
//!
//! Each test prints a seed. The environment changes what they do:
//!
//! | variable         | meaning                                   | default |
//! |------------------|-------------------------------------------|---------|
//! | `TAMPU_SEED`     | the seed                                  | the time |
//! | `TAMPU_CUTS`     | power cuts                                | 300 |
//! | `TAMPU_READINGS` | readings that each recorded run appends   | 300 |
//! | `TAMPU_KILLS`    | kills                                     | 24 |
//! | `TAMPU_DAMAGES`  | damaged files                             | 240 |
//! | `TAMPU_FAILURES` | runs that meet failing calls, of each kind | 8 |
//!
//! A seed repeats the choices of the test, not the schedule of the threads under it: try it more than once.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

mod random;

mod recorder;

mod replay;

mod model;

mod driver;

mod records;

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
