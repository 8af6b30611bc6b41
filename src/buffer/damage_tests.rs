//! Whatever happens to the files: the buffer opens, and what cannot be read any more is named exactly.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::model_tests::{Random, copy_dir};
use super::tests::{ALL, append, conserved, settings, sink};
use super::*;
use crate::message::DeviceId;

const READINGS: u64 = 1_500;
const SETTLED: u64 = 200;

fn payload(seq: Seq) -> Vec<u8> {
    let mut random = Random(seq * 77 + 1);
    (0..random.below(300)).map(|_| b'a' + random.below(20) as u8).collect()
}

/// A buffer that was killed: 1,500 readings, of which the sink has settled 200.
async fn killed(root: &Path) -> PathBuf {
    let dir = root.join("origin");
    let open = || Buffer::open(&dir, &settings(), &[sink("cloud")]).unwrap().0;
    let mut buffer = open();
    let device = DeviceId::parse("esp32-01").unwrap();
    let mut writer = buffer.writer();
    for seq in 1..=READINGS {
        if seq == 701 {
            // The store writes a snapshot of its index when it is opened again.
            buffer.close().await;
            buffer = open();
            writer = buffer.writer();
        }
        let payload = payload(seq);
        if seq % 50 == 0 {
            append(&mut writer, &device, &payload, None).await;
        } else {
            writer
                .submit(Some(&super::tests::incoming(&device, &payload, None)), Vec::new(), Wait::Nobody)
                .unwrap();
        }
        if seq == 1_000 {
            let mut reader = buffer.reader(&sink("cloud")).unwrap();
            let outcomes: Vec<_> = (1..=SETTLED).map(|seq| (seq, Outcome::Delivered)).collect();
            reader.settle(&outcomes).await.unwrap();
        }
    }
    buffer.crash().await;
    let copy = root.join("killed");
    copy_dir(&dir, &copy);
    copy
}

/// Opens, reads everything, checks it, and says how many acknowledged readings are lost.
async fn survives(dir: &Path, what: &str) -> usize {
    let (buffer, report) = Buffer::open(dir, &settings(), &[sink("cloud")]).unwrap();
    let mut reader = buffer.reader(&sink("cloud")).unwrap();
    let mut found = BTreeSet::new();
    let give_up = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while reader.pending() > 0 {
        assert!(std::time::Instant::now() < give_up, "{what}: {} cannot be read", reader.pending());
        let readings = reader.next(ALL).await.unwrap();
        for reading in &readings {
            assert_eq!(reading.payload, payload(reading.seq), "{what}: {}", reading.seq);
            found.insert(reading.seq);
        }
        let outcomes: Vec<_> = readings.iter().map(|r| (r.seq, Outcome::Delivered)).collect();
        reader.settle(&outcomes).await.unwrap();
    }
    conserved(&buffer);
    let status = buffer.status();
    let reported: BTreeSet<Seq> = status.gaps.iter().flat_map(|(from, to)| *from..=*to).collect();
    let lost: Vec<Seq> = (SETTLED + 1..=READINGS).filter(|seq| !found.contains(seq)).collect();
    for seq in &lost {
        assert!(reported.contains(seq), "{what}: {seq} is lost and not reported: {report:?} {status:?}");
    }
    // It takes readings again, and numbers them behind everything that ever was.
    let device = DeviceId::parse("esp32-01").unwrap();
    let seq = append(&mut buffer.writer(), &device, b"after", None).await;
    assert!(seq > READINGS, "{what}: {seq}");
    buffer.close().await;
    lost.len()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir.join("store")).unwrap().map(|e| e.unwrap().path()).collect();
    files.extend([dir.join("tail"), dir.join("ballast"), dir.join("lock")]);
    assert!(files.iter().any(|file| file.to_string_lossy().contains("snap.")));
    files.retain(|path| path.is_file() && fs::metadata(path).unwrap().len() > 0);
    files
}

/// Harms each file in turn, and says how many readings the worst harm cost.
async fn damaged(rounds: u64, harm: impl Fn(&mut Random, &Path)) -> usize {
    let root = tempfile::tempdir().unwrap();
    let origin = killed(root.path()).await;
    let seed = match std::env::var("TAMPU_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0) >> 16,
    };
    println!("TAMPU_SEED={seed}");
    let mut random = Random(seed | 1);
    let mut most = 0;
    for round in 0..rounds {
        for file in files(&origin) {
            let copy = root.path().join("copy");
            copy_dir(&origin, &copy);
            let name = file.strip_prefix(&origin).unwrap();
            harm(&mut random, &copy.join(name));
            let gone = survives(&copy, &format!("seed {seed}, round {round}, {}", name.display())).await;
            most = most.max(gone);
            fs::remove_dir_all(copy).unwrap();
        }
    }
    most
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_any_file_costs_at_most_its_block_and_that_is_reported() {
    let most = damaged(12, |random, file| {
        let mut bytes = fs::read(file).unwrap();
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << random.below(8);
        fs::write(file, bytes).unwrap();
    })
    .await;
    assert!(most <= 50, "one bit has cost {most} readings; groups of 50 were written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_file_costs_at_most_what_is_reported() {
    damaged(6, |random, file| {
        let length = fs::metadata(file).unwrap().len();
        fs::File::options().write(true).open(file).unwrap().set_len(random.below(length)).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_file_costs_at_most_what_is_reported() {
    damaged(1, |_, file| fs::remove_file(file).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_that_is_acknowledged_is_known_to_be_without_the_store() {
    let root = tempfile::tempdir().unwrap();
    let (buffer, _) = Buffer::open(root.path(), &settings(), &[]).unwrap();
    let device = DeviceId::parse("esp32-01").unwrap();
    let mut writer = buffer.writer();
    for _ in 0..100 {
        let seq = append(&mut writer, &device, b"21.5", None).await;
        let mark = fs::read(root.path().join("tail")).unwrap();
        let end = u64::from_le_bytes(*mark.first_chunk().unwrap());
        assert!(end > seq, "{seq} was acknowledged, and the mark says {end}");
    }
}
