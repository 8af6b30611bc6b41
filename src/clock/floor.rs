//! The floor's file: the time in milliseconds since 1970, and a CRC-32 of it, in one line of text.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::{BUILT_MS, WORN_OUT_MS};

/// The floor that was kept; `None` if there is none, it is damaged, or it cannot be true.
pub(super) fn read(path: &Path) -> Option<i64> {
    let text = std::fs::read_to_string(path).ok()?;
    let floor_ms = text.split(' ').next()?.parse().ok()?;
    (line(floor_ms) == text && (BUILT_MS..=WORN_OUT_MS).contains(&floor_ms)).then_some(floor_ms)
}

/// After a power cut the old floor is there whole, or the new one.
pub(super) fn write(path: &Path, floor_ms: i64) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(line(floor_ms).as_bytes())?;
    file.sync_all()?;
    std::fs::rename(fresh, path)?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

/// What the file holds.
pub(crate) fn line(floor_ms: i64) -> String {
    let digits = floor_ms.to_string();
    format!("{digits} {:08x}\n", crc32fast::hash(digits.as_bytes()))
}
