//! What an image is, and whether it is whole.
//!
//! An image that ESP-IDF or the ESP32 core has built says so itself: 24 bytes of header, segments of 8 + n bytes, a
//! checksum byte at the end of a block of 16, and the SHA-256 of everything before it; its description (version and
//! project) stands at offset 32 behind the magic 0xABCD5432 (`esp_app_format.h`, `esp_app_desc.h`). All of that is
//! checked. Of an image for an ESP8266, which has none of it, only the first byte can be.

use std::io::{self, Read};

use md5::Digest as _;
use ring::digest::{Context, SHA256};

use super::hex::{Md5, Sha256};

/// The first byte of every image that is not compressed.
const MAGIC: u8 = 0xE9;
/// The first bytes of a gzip file (RFC 1952): the ESP8266's boot loader unpacks one.
const GZIP: [u8; 2] = [0x1F, 0x8B];
const DESCRIPTION_MAGIC: [u8; 4] = 0xABCD_5432_u32.to_le_bytes();
/// Where the description stands, and its version and project in the file.
const DESCRIPTION_AT: usize = 32;
const VERSION_AT: usize = 48;
const PROJECT_AT: usize = 80;
const NAME_BYTES: usize = 32;
const HEAD_BYTES: usize = PROJECT_AT + NAME_BYTES;

const HEADER_BYTES: u64 = 24;
const SEGMENT_HEADER_BYTES: u64 = 8;
/// `ESP_IMAGE_MAX_SEGMENTS`.
const MAX_SEGMENTS: u8 = 16;
const CHECKSUM_SEED: u8 = 0xEF;
const BLOCK_BYTES: u64 = 16;

const CHUNK_BYTES: usize = 64 * 1024;

/// Into what of a device an image goes.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The program.
    #[default]
    Program,
    /// The file system of data (LittleFS, SPIFFS).
    FileSystem,
}

/// The form of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// It begins with 0xE9 and says no more of itself: an ESP8266's.
    Plain,
    /// With the description of ESP-IDF.
    Described,
    /// Compressed: only the ESP8266 can take it.
    Gzip,
    /// A file system, whose form the device alone knows.
    FileSystem,
}

/// An image that has been checked.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Its form.
    pub format: Format,
    /// Its length in bytes.
    pub bytes: u64,
    /// Of the whole file.
    pub sha256: Sha256,
    /// Of the whole file.
    pub md5: Md5,
    /// What a device that runs it says of itself (`esp_partition_get_sha256`): of all before the appended digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_sha256: Option<Sha256>,
    /// The version that stands in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The project that stands in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
}

/// Why a file is no image that can be offered.
#[derive(Debug, thiserror::Error)]
pub enum BadImage {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is longer than `firmware.max_image`.
    #[error("it is longer than firmware.max_image ({} bytes)", .0)]
    TooLarge(u64),
    /// It holds nothing.
    #[error("it is empty")]
    Empty,
    /// It begins with neither 0xE9 nor gzip.
    #[error(
        "it is no program for an ESP: it begins with {0:#04x} instead of 0xe9 (is it a file system? --filesystem)"
    )]
    Magic(u8),
    /// What it says of itself does not hold.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

impl Image {
    /// Reads an image to its end, which is at most `max_bytes` away, and checks it. `each` is given every piece of it.
    /// Not on an async thread.
    ///
    /// # Errors
    /// Why it is none.
    pub fn check(
        mut file: impl Read,
        kind: Kind,
        max_bytes: u64,
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<Self, BadImage> {
        let (mut sha256, mut md5, mut bytes) = (Context::new(&SHA256), md5::Md5::new(), 0_u64);
        let mut head = Vec::with_capacity(HEAD_BYTES);
        let mut walk = Walk::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let length = match file.read(&mut chunk) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let piece = &chunk[..length];
            bytes += length as u64;
            if bytes > max_bytes {
                return Err(BadImage::TooLarge(max_bytes));
            }
            let missing = HEAD_BYTES - head.len();
            head.extend_from_slice(&piece[..missing.min(length)]);
            sha256.update(piece);
            md5.update(piece);
            walk.take(piece);
            each(piece)?;
        }
        let format = format_of(&head, kind)?;
        let program_sha256 = match format {
            Format::Described => Some(walk.end(&head)?),
            Format::Plain | Format::Gzip | Format::FileSystem => None,
        };
        let text = |at| (format == Format::Described).then(|| name(&head, at)).flatten();
        Ok(Self {
            format,
            bytes,
            sha256: of_ring(sha256),
            md5: Md5::from(<[u8; 16]>::from(md5.finalize())),
            program_sha256,
            version: text(VERSION_AT),
            project: text(PROJECT_AT),
        })
    }

    /// Into what of a device it goes.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.format {
            Format::FileSystem => Kind::FileSystem,
            Format::Plain | Format::Described | Format::Gzip => Kind::Program,
        }
    }
}

fn format_of(head: &[u8], kind: Kind) -> Result<Format, BadImage> {
    let first = *head.first().ok_or(BadImage::Empty)?;
    match kind {
        Kind::FileSystem => Ok(Format::FileSystem),
        Kind::Program if head.starts_with(&GZIP) => Ok(Format::Gzip),
        Kind::Program if first != MAGIC => Err(BadImage::Magic(first)),
        Kind::Program if head.get(DESCRIPTION_AT..DESCRIPTION_AT + 4) == Some(&DESCRIPTION_MAGIC) => {
            Ok(Format::Described)
        }
        Kind::Program => Ok(Format::Plain),
    }
}

/// A name of the description, which ends with its first NUL.
fn name(head: &[u8], at: usize) -> Option<String> {
    let field = head.get(at..at + NAME_BYTES)?;
    let text = field.split(|byte| *byte == 0).next().unwrap_or_default();
    let text: String = String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).collect();
    (!text.is_empty()).then_some(text)
}

fn of_ring(context: Context) -> Sha256 {
    Sha256::from(<[u8; 32]>::try_from(context.finish().as_ref()).expect("a SHA-256 has 32 bytes"))
}

/// Where in an image of ESP-IDF the next byte stands.
enum Step {
    Header,
    SegmentHeader,
    Segment(u64),
    Padding,
    Digest,
    /// What is behind the image, such as a signature, is not looked at.
    Behind,
}

/// Goes through an image of ESP-IDF as it comes. It knows nothing of others, and is not asked of them.
struct Walk {
    step: Step,
    at: u64,
    /// The bytes of a header, or of the digest.
    field: Vec<u8>,
    segments_left: u8,
    has_digest: bool,
    checksum: u8,
    sha256: Context,
    told: Option<Sha256>,
    damage: Option<&'static str>,
}

impl Walk {
    fn new() -> Self {
        Self {
            step: Step::Header,
            at: 0,
            field: Vec::with_capacity(32),
            segments_left: 0,
            has_digest: false,
            checksum: CHECKSUM_SEED,
            sha256: Context::new(&SHA256),
            told: None,
            damage: None,
        }
    }

    fn take(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() && self.damage.is_none() && !matches!(self.step, Step::Behind) {
            let wanted = match self.step {
                Step::Header => HEADER_BYTES - self.field.len() as u64,
                Step::SegmentHeader => SEGMENT_HEADER_BYTES - self.field.len() as u64,
                Step::Segment(left) => left,
                Step::Padding => BLOCK_BYTES - self.at % BLOCK_BYTES,
                Step::Digest => 32 - self.field.len() as u64,
                Step::Behind => 0,
            };
            let length = usize::try_from(wanted).map_or(piece.len(), |wanted| wanted.min(piece.len()));
            let (part, rest) = piece.split_at(length);
            self.at += part.len() as u64;
            if !matches!(self.step, Step::Digest) {
                self.sha256.update(part);
            }
            self.step(part, part.len() as u64 == wanted);
            piece = rest;
        }
    }

    /// `part` belongs to the present step, and ends it if `done`.
    fn step(&mut self, part: &[u8], done: bool) {
        match self.step {
            Step::Header | Step::SegmentHeader | Step::Digest => self.field.extend_from_slice(part),
            Step::Segment(left) => {
                self.checksum = part.iter().fold(self.checksum, |sum, byte| sum ^ byte);
                self.step = Step::Segment(left - part.len() as u64);
            }
            Step::Padding | Step::Behind => {}
        }
        if !done {
            return;
        }
        match self.step {
            Step::Header => {
                (self.segments_left, self.has_digest) = (self.field[1], self.field[23] == 1);
                if self.segments_left == 0 || self.segments_left > MAX_SEGMENTS {
                    self.damage = Some("no image has so many segments");
                }
                self.step = Step::SegmentHeader;
            }
            Step::SegmentHeader => {
                let length = self.field[4..8].try_into().expect("a segment's header has 8 bytes");
                self.segments_left -= 1;
                self.step = Step::Segment(u32::from_le_bytes(length).into());
            }
            Step::Segment(_) | Step::Behind => {}
            Step::Padding => {
                if part.last() != Some(&self.checksum) {
                    self.damage = Some("its checksum is wrong");
                }
                self.told = Some(of_ring(self.sha256.clone()));
                self.step = if self.has_digest { Step::Digest } else { Step::Behind };
            }
            Step::Digest => {
                let appended: [u8; 32] = self.field[..].try_into().expect("it has 32 bytes");
                if self.told != Some(appended.into()) {
                    self.damage = Some("its SHA-256 is wrong");
                }
                self.step = Step::Behind;
            }
        }
        self.field.clear();
        if let Step::Segment(0) = self.step {
            self.step = if self.segments_left > 0 { Step::SegmentHeader } else { Step::Padding };
        }
    }

    /// The digest that the image is known by, when it was whole.
    fn end(self, head: &[u8]) -> Result<Sha256, BadImage> {
        match (self.damage, self.step, self.told) {
            (Some(damage), ..) => Err(BadImage::Damaged(damage)),
            (None, Step::Behind, Some(told)) if head.len() == HEAD_BYTES => Ok(told),
            _ => Err(BadImage::Damaged("its end is missing")),
        }
    }
}
