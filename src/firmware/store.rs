//! The releases on disk: changed by commands and by the API, beside a running gateway or without one.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tempfile::NamedTempFile;
use time::OffsetDateTime;

use super::hex::{Md5, Sha256};
use super::image::{BadImage, Image, Kind};
use super::release::{MAX_RELEASES, Release, Releases, Rollout, Target, Version};
use super::state::States;
use crate::authorize::{Content, Document, DocumentError, make_like_directory};
use crate::config;

/// The present form of the files.
pub(super) const FORM: u32 = 1;

const IMAGES: &str = "images";
/// What the names of images begin with that are being written.
const NEW: &str = ".new-";

impl Content for Releases {
    const NAME: &'static str = "releases";
    const VERSION: u32 = FORM;

    fn version(&self) -> u32 {
        self.form
    }
}

impl Content for States {
    const NAME: &'static str = "devices";
    const VERSION: u32 = FORM;

    fn version(&self) -> u32 {
        self.form
    }
}

/// Why something cannot be done with the releases.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The index of releases cannot be read or written.
    #[error(transparent)]
    Index(#[from] DocumentError),
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
    /// The image is none, or not the one that was meant.
    #[error("{0}")]
    Refused(String),
    /// There is no release with this number.
    #[error("there is no release {0}; `tampu firmware list` shows them")]
    NotFound(u32),
}

impl From<BadImage> for StoreError {
    fn from(bad: BadImage) -> Self {
        Self::Refused(bad.to_string())
    }
}

/// A release that is to be added.
#[derive(Debug, Clone)]
pub struct NewRelease {
    /// Its version.
    pub version: Version,
    /// For whom it is.
    pub target: Target,
    /// Which of them get it.
    pub rollout: Rollout,
    /// Into what of a device it goes.
    pub kind: Kind,
    /// What its image must hash to.
    pub sha256: Option<Sha256>,
    /// What its image must hash to.
    pub md5: Option<Md5>,
}

/// What the store of releases may take.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Bytes of one image.
    pub max_image_bytes: u64,
    /// Free bytes of the file system that are left to the readings.
    pub min_free_bytes: u64,
}

impl Room {
    /// What the settings leave.
    #[must_use]
    pub fn of(config: &config::Config) -> Self {
        Self {
            max_image_bytes: config.firmware.max_image_bytes,
            min_free_bytes: config.buffer.min_free_bytes,
        }
    }
}

/// The directory of the releases. Nothing of it is kept in memory. Its calls wait for the disk: not on an async thread.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// In this data directory.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self { dir: data_dir.join("firmware") }
    }

    /// The releases as a running gateway sees them. It starts in any case: with the copy if the index is damaged.
    #[must_use]
    pub(super) fn open_index(&self) -> Document<Releases> {
        Document::open(&self.dir)
    }

    /// What was kept of the firmware of devices; nothing if that is damaged.
    #[must_use]
    pub fn read_states(&self) -> States {
        States::clone(&Document::open(&self.dir).content())
    }

    /// Keeps what is known of the firmware of devices. A damaged file gives way: what is known now is all that there is.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn keep_states(&self, states: &States) -> Result<(), StoreError> {
        self.make_directories()?;
        let keep = || {
            Document::update(&self.dir, |kept: &mut States| {
                kept.clone_from(states);
                Ok::<_, DocumentError>(())
            })
        };
        if let Err(DocumentError::Unusable { file, copy, wrong }) = keep() {
            tracing::warn!(file = %file.display(), %wrong, "it is set aside");
            let aside = file.with_extension("json.damaged");
            set_aside(&file, &copy, &aside).map_err(io_error("setting aside", &file))?;
            keep()?;
        }
        Ok(())
    }

    /// Where an image is.
    #[must_use]
    pub fn image_file(&self, image: &Sha256) -> PathBuf {
        self.dir.join(IMAGES).join(format!("{image}.bin"))
    }

    /// The releases, for a command.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read(&self) -> Result<Releases, StoreError> {
        Ok(Document::read(&self.dir)?)
    }

    /// Takes an image and makes a release of it. Both are on disk when this returns. The same image for the same devices
    /// in the same version is the release that there is; if its image was damaged, it is mended.
    ///
    /// # Errors
    /// When the image is none, is not the one that was meant or does not fit, or the disk does not take it: then
    /// nothing has changed.
    pub fn add(
        &self,
        image: impl Read,
        new: NewRelease,
        room: Room,
        added: OffsetDateTime,
    ) -> Result<Release, StoreError> {
        self.make_directories()?;
        // Before others have to wait: an image may come slowly.
        let (file, image) = self.take_in(image, &new, room)?;
        self.update(|releases| {
            if releases.releases.len() >= MAX_RELEASES {
                return Err(StoreError::Refused(format!(
                    "there are {MAX_RELEASES} releases already: remove some"
                )));
            }
            self.place(file, &image)?;
            let NewRelease { version, target, rollout, .. } = new;
            let is_same = |release: &&mut Release| {
                !release.withdrawn
                    && (&release.version, &release.target, &release.image) == (&version, &target, &image)
            };
            if let Some(same) = releases.releases.iter_mut().rev().find(is_same) {
                same.rollout.extend(rollout);
                return Ok(same.clone());
            }
            let release =
                Release { id: releases.next, version, target, rollout, withdrawn: false, added, image };
            releases.next += 1;
            releases.releases.push(release.clone());
            Ok(release)
        })
    }

    /// Gives a release to more devices; one that was rolled back stands again.
    ///
    /// # Errors
    /// When there is none with this number, or the disk does not take it.
    pub fn promote(&self, id: u32, rollout: Rollout) -> Result<Release, StoreError> {
        self.change(id, |release| {
            release.withdrawn = false;
            release.rollout.extend(rollout);
        })
    }

    /// Takes a release back: its devices are offered what they would have been without it.
    ///
    /// # Errors
    /// As [`Store::promote`].
    pub fn roll_back(&self, id: u32) -> Result<Release, StoreError> {
        self.change(id, |release| release.withdrawn = true)
    }

    /// Forgets a release, and its image if no other has it.
    ///
    /// # Errors
    /// As [`Store::promote`].
    pub fn remove(&self, id: u32) -> Result<Release, StoreError> {
        self.update(|releases| {
            let at = releases.releases.iter().position(|release| release.id == id);
            at.map(|at| releases.releases.remove(at)).ok_or(StoreError::NotFound(id))
        })
    }

    fn change(&self, id: u32, change: impl FnOnce(&mut Release)) -> Result<Release, StoreError> {
        self.update(|releases| {
            let release = releases
                .releases
                .iter_mut()
                .find(|release| release.id == id)
                .ok_or(StoreError::NotFound(id))?;
            change(release);
            Ok(release.clone())
        })
    }

    /// Changes the index while others who want to wait. Images that no release has are removed afterwards.
    fn update<T>(
        &self,
        change: impl FnOnce(&mut Releases) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.make_directories()?;
        let done = Document::update(&self.dir, change);
        Document::update(&self.dir, |releases| {
            self.tidy(releases);
            Ok::<_, DocumentError>(())
        })?;
        done
    }

    fn make_directories(&self) -> Result<(), StoreError> {
        let images = self.dir.join(IMAGES);
        for dir in [&self.dir, &images] {
            make_directory(dir).map_err(io_error("making", dir))?;
        }
        Ok(())
    }

    /// Copies an image into the store, without a name of its own. It is locked while it lives.
    fn take_in(
        &self,
        image: impl Read,
        new: &NewRelease,
        room: Room,
    ) -> Result<(NamedTempFile, Image), StoreError> {
        let dir = self.dir.join(IMAGES);
        let wrote = || io_error("writing an image into", &dir);
        let mut file = tempfile::Builder::new().prefix(NEW).tempfile_in(&dir).map_err(wrote())?;
        let lock = FlockOperation::NonBlockingLockExclusive;
        flock(&file, lock).map_err(io::Error::from).map_err(wrote())?;
        let free = free_bytes(&dir).map_err(io_error("looking at the free space of", &dir))?;
        let may_take = free.saturating_sub(room.min_free_bytes);
        let mut taken = 0;
        let copied = Image::check(image, new.kind, room.max_image_bytes, |piece| {
            taken += piece.len() as u64;
            match taken <= may_take {
                true => file.write_all(piece),
                false => Err(io::ErrorKind::StorageFull.into()),
            }
        });
        let image = match copied {
            Err(BadImage::Io(error)) if error.kind() == io::ErrorKind::StorageFull => {
                return Err(StoreError::Refused(format!(
                    "there is no room for it: {free} bytes are free, of which {} are left to the readings \
                     (buffer.min_free)",
                    room.min_free_bytes
                )));
            }
            copied => copied?,
        };
        meant(&image, new)?;
        let written = file
            .as_file()
            .set_permissions(Permissions::from_mode(0o600))
            .and_then(|()| make_like_directory(file.as_file(), &dir))
            .and_then(|()| file.as_file().sync_all());
        written.map_err(wrote())?;
        Ok((file, image))
    }

    /// Gives an image the name of its digest.
    fn place(&self, file: NamedTempFile, image: &Image) -> Result<(), StoreError> {
        let dir = self.dir.join(IMAGES);
        let placed = file.persist(self.image_file(&image.sha256)).map_err(io::Error::from);
        placed.and_then(|_| File::open(&dir)?.sync_all()).map_err(io_error("placing an image in", &dir))
    }

    /// Removes what an interrupted change or a removed release has left.
    fn tidy(&self, releases: &Releases) {
        let kept: Vec<_> =
            releases.releases.iter().map(|release| self.image_file(&release.image.sha256)).collect();
        for entry in fs::read_dir(self.dir.join(IMAGES)).into_iter().flatten().flatten() {
            let path = entry.path();
            if !kept.contains(&path)
                && !is_being_written(&path)
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!(%error, file = %path.display(), "an image that no release has cannot be removed");
            }
        }
    }
}

fn set_aside(file: &Path, copy: &Path, aside: &Path) -> io::Result<()> {
    for result in [fs::rename(file, aside), fs::remove_file(copy)] {
        match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Whether somebody holds it who has not given it a name yet.
fn is_being_written(path: &Path) -> bool {
    let is_new = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(NEW.as_bytes()));
    let is_free = |file: File| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
    is_new && !File::open(path).is_ok_and(is_free)
}

/// Whether it is the image that was meant.
fn meant(image: &Image, new: &NewRelease) -> Result<(), StoreError> {
    let differs = |what: &str, is: &dyn std::fmt::Display, expected: &dyn std::fmt::Display| {
        Err(StoreError::Refused(format!("its {what} is {is}, and {expected} was expected")))
    };
    match (new.sha256, new.md5, &image.version) {
        (Some(expected), ..) if expected != image.sha256 => differs("SHA-256", &image.sha256, &expected),
        (_, Some(expected), _) if expected != image.md5 => differs("MD5", &image.md5, &expected),
        (.., Some(inside)) if inside != new.version.as_str() && tells_version(image, inside) => {
            differs("own version", inside, &new.version)
        }
        _ => Ok(()),
    }
}

/// A sketch's image has the version of the ESP32 core's libraries there; ESP-IDF writes 1 for a project without one.
fn tells_version(image: &Image, inside: &str) -> bool {
    let is_of_core =
        image.project.as_deref() == Some("arduino-lib-builder") || inside.starts_with("esp-idf:");
    !is_of_core && inside != "1"
}

fn io_error<'a>(what: &'static str, file: &'a Path) -> impl FnOnce(io::Error) -> StoreError + use<'a> {
    move |source| StoreError::Io { what, file: file.to_owned(), source }
}

fn make_directory(dir: &Path) -> io::Result<()> {
    if !dir.exists() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        make_like_directory(&File::open(dir)?, dir.parent().unwrap_or(dir))?;
    }
    Ok(())
}

fn free_bytes(dir: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(dir)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}
