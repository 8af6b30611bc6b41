use std::io;

use proptest::prelude::*;
use ring::digest::{SHA256, digest};
use time::OffsetDateTime;

use super::*;
use crate::message::DeviceId;

mod images;
mod releases;
mod requests;
mod serving;
mod stores;

/// An image as ESP-IDF builds it: two segments, the first with the description.
fn described(version: &str, project: &str, length: usize) -> Vec<u8> {
    let mut first = vec![0; 256];
    first[..4].copy_from_slice(&0xABCD_5432_u32.to_le_bytes());
    first[16..16 + version.len()].copy_from_slice(version.as_bytes());
    first[48..48 + project.len()].copy_from_slice(project.as_bytes());
    let second: Vec<u8> = (0..length).map(|at| (at * 7 + at / 251) as u8).collect();
    let mut image = vec![0; 24];
    (image[0], image[1], image[23]) = (0xE9, 2, 1);
    let mut checksum = 0xEF;
    for segment in [first, second] {
        image.extend_from_slice(&0x3F40_0020_u32.to_le_bytes());
        image.extend_from_slice(&u32::try_from(segment.len()).unwrap().to_le_bytes());
        checksum = segment.iter().fold(checksum, |sum, byte| sum ^ byte);
        image.extend_from_slice(&segment);
    }
    image.resize(image.len() + 15 - image.len() % 16, 0);
    image.push(checksum);
    let sha256 = digest(&SHA256, &image);
    image.extend_from_slice(sha256.as_ref());
    image
}

fn device(name: &str) -> DeviceId {
    DeviceId::parse(name).unwrap()
}

fn new_release(target: &str, version: &str) -> NewRelease {
    NewRelease {
        version: version.parse().unwrap(),
        target: target.parse().unwrap(),
        rollout: Rollout::ALL,
        kind: Kind::Program,
        sha256: None,
        md5: None,
    }
}

const ROOM: Room = Room { max_image_bytes: 1 << 20, min_free_bytes: 0 };

fn add(store: &Store, image: &[u8], new: NewRelease) -> Result<Release, StoreError> {
    store.add(image, new, ROOM, OffsetDateTime::UNIX_EPOCH)
}
