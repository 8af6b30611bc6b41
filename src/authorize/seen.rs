//! Whether a file is still the one that was read.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Tells one file from the next in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Seen {
    /// Looks at a file; `None` if there is none to be seen.
    pub(super) fn look(file: &Path) -> Option<Self> {
        let found = std::fs::metadata(file).ok()?;
        let modified = (found.mtime(), found.mtime_nsec());
        Some(Self { inode: found.ino(), length: found.len(), modified })
    }
}
