//! Images are read to their end before they are served: an SD card forgets.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ring::digest::{Context, SHA256};

use super::hex::Sha256;
use super::image::Image;
use super::release::Releases;
use super::store::Store;

/// What was read to its end is good for so long, if the file is the same.
const GOOD_FOR: Duration = Duration::from_secs(60);
const CHUNK_BYTES: usize = 64 * 1024;

/// An image that is not what it should be: it is not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is damaged: {wrong}; add it again, or roll its release back", file.display())]
pub(super) struct Damaged {
    file: PathBuf,
    wrong: String,
}

/// The images of a store, with what is known of them. Bounded by the releases.
#[derive(Debug)]
pub(super) struct CheckedImages {
    store: Store,
    slots: Mutex<HashMap<Sha256, Slot>>,
}

/// One reads an image, and others who want it at the same time wait for that.
type Slot = Arc<tokio::sync::Mutex<Option<Good>>>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Good {
    since: Instant,
    file: FileMark,
}

/// Tells one file from the next in its place, and one that was written to from the same before.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileMark {
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<Metadata> for FileMark {
    fn from(of: Metadata) -> Self {
        Self {
            inode: of.ino(),
            length: of.len(),
            modified: (of.mtime(), of.mtime_nsec()),
            changed: (of.ctime(), of.ctime_nsec()),
        }
    }
}

impl CheckedImages {
    pub(super) fn new(store: Store) -> Self {
        Self { store, slots: Mutex::default() }
    }

    /// Opens an image that is whole, at its first byte.
    ///
    /// # Errors
    /// When it is not.
    pub(super) async fn open(&self, image: &Image) -> Result<File, Damaged> {
        let (path, sha256, length) = (self.store.image_file(&image.sha256), image.sha256, image.bytes);
        let slot = Arc::clone(self.slots().entry(sha256).or_default());
        let mut good = slot.lock().await;
        let before = good.take();
        let (asked, file) = (Instant::now(), path.clone());
        let reading = tokio::task::spawn_blocking(move || open(&path, sha256, length, before, asked));
        let read = reading.await.map_err(io::Error::from).and_then(|opened| opened);
        let (file, now_good) = read.map_err(|error| Damaged { file, wrong: error.to_string() })?;
        *good = Some(now_good);
        Ok(file)
    }

    /// Forgets images that no release has.
    pub(super) fn retain(&self, releases: &Releases) {
        let known = |image: &Sha256| releases.iter().any(|release| release.image.sha256 == *image);
        self.slots().retain(|image, _| known(image));
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Sha256, Slot>> {
        self.slots.lock().expect("no panic under this lock")
    }
}

fn open(
    path: &Path,
    sha256: Sha256,
    length: u64,
    before: Option<Good>,
    now: Instant,
) -> io::Result<(File, Good)> {
    let mut file = File::open(path)?;
    let mark = FileMark::from(file.metadata()?);
    if let Some(good) = before.filter(|good| good.file == mark && now < good.since + GOOD_FOR) {
        return Ok((file, good));
    }
    let wrong = |what: String| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    if mark.length != length {
        return wrong(format!("it has {} bytes instead of {length}", mark.length));
    }
    let mut context = Context::new(&SHA256);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => context.update(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let digest = <[u8; 32]>::try_from(context.finish().as_ref()).expect("a SHA-256 has 32 bytes");
    if sha256 != digest.into() {
        return wrong("its SHA-256 is another one".to_owned());
    }
    file.rewind()?;
    Ok((file, Good { since: now, file: mark }))
}
