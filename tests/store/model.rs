//! The recorder and the model of a disk, tried on calls whose outcome is known.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use super::random::Rng;
use super::recorder::{Entry, SyncOutcome, read_log, record};
use super::replay::{Disk, Image, Loss, Syncs};
use super::scratch;

/// Every content of the file "f" that some power cut leaves after these calls; `None`: it is not there.
fn outcomes(entries: &[Entry]) -> BTreeSet<Option<Vec<u8>>> {
    let mut disk = Disk::new(Syncs::All);
    entries.iter().for_each(|entry| disk.apply(entry));
    let mut rng = Rng::new(1);
    (0..500).map(|_| disk.image(Loss::random(&mut rng), &mut rng).files.remove("f")).collect()
}

fn create() -> Entry {
    Entry::Create { ino: 7, path: "f".to_owned() }
}

fn write(at: u64, data: &[u8]) -> Entry {
    Entry::Write { ino: 7, at, data: data.to_vec() }
}

fn sync(ino: u64, outcome: SyncOutcome) -> [Entry; 2] {
    [Entry::SyncBegin { ino, id: 1 }, Entry::SyncEnd { ino, id: 1, outcome }]
}

/// A created file whose name and content are on disk.
fn synced(content: &[u8]) -> Vec<Entry> {
    const ROOT: u64 = 1;
    let mut entries = vec![Entry::Open { ino: ROOT, path: String::new() }, create(), write(0, content)];
    entries.extend(sync(7, SyncOutcome::Done));
    entries.extend(sync(ROOT, SyncOutcome::Done));
    entries
}

#[test]
fn a_file_is_safe_once_it_and_its_directory_are_synced_and_not_before() {
    assert_eq!(outcomes(&synced(b"old")), BTreeSet::from([Some(b"old".to_vec())]));
    let mut unnamed = vec![create(), write(0, b"old")];
    unnamed.extend(sync(7, SyncOutcome::Done));
    assert_eq!(outcomes(&unnamed), BTreeSet::from([None, Some(b"old".to_vec())]));
}

#[test]
fn what_was_written_after_a_sync_began_is_there_or_not() {
    let mut entries = synced(b"old");
    entries.push(Entry::SyncBegin { ino: 7, id: 2 });
    entries.push(write(0, b"new"));
    entries.push(Entry::SyncEnd { ino: 7, id: 2, outcome: SyncOutcome::Done });
    assert_eq!(outcomes(&entries), BTreeSet::from([Some(b"old".to_vec()), Some(b"new".to_vec())]));
}

#[test]
fn pages_come_out_in_any_order_and_sectors_of_one_page_may_be_torn() {
    let mut entries = synced(&[1; 8192]);
    entries.push(write(0, &[2; 8192]));
    let seen: BTreeSet<(u8, u8)> =
        outcomes(&entries).into_iter().flatten().map(|content| (content[0], content[8191])).collect();
    assert_eq!(seen, BTreeSet::from([(1, 1), (1, 2), (2, 1), (2, 2)]));
    let torn = |content: &Vec<u8>| content[..4096].windows(2).any(|pair| pair[0] != pair[1]);
    assert!(outcomes(&entries).iter().flatten().any(torn));
}

#[test]
fn after_a_failed_sync_a_later_one_does_not_bring_the_data_back() {
    let mut entries = synced(b"old");
    entries.push(write(0, b"new"));
    entries.extend(sync(7, SyncOutcome::Failed));
    entries.extend(sync(7, SyncOutcome::Done));
    assert!(outcomes(&entries).contains(&Some(b"old".to_vec())));
    entries.push(write(2, b"!"));
    entries.extend(sync(7, SyncOutcome::Done));
    assert_eq!(outcomes(&entries), BTreeSet::from([Some(b"ne!".to_vec())]));
}

#[test]
fn a_rename_is_lost_or_not_until_the_directory_is_synced() {
    let mut entries = synced(b"old");
    entries.push(Entry::Create { ino: 8, path: "g".to_owned() });
    entries.push(Entry::Write { ino: 8, at: 0, data: b"new".to_vec() });
    entries.extend(sync(8, SyncOutcome::Done));
    entries.push(Entry::Rename { from: "g".to_owned(), to: "f".to_owned() });
    assert_eq!(outcomes(&entries), BTreeSet::from([Some(b"old".to_vec()), Some(b"new".to_vec())]));
    entries.extend(sync(1, SyncOutcome::Done));
    assert_eq!(outcomes(&entries), BTreeSet::from([Some(b"new".to_vec())]));
}

/// Changes files in all the ways that Rust's standard library has.
#[test]
#[ignore = "not a test: the test below starts this program again with it"]
fn file_process() {
    let dir = std::path::PathBuf::from(std::env::var_os("STORE_DISK").unwrap());
    let path = |name: &str| dir.join(name);
    fs::create_dir_all(path("a/b")).unwrap();
    fs::write(path("a/one"), b"one").unwrap();
    fs::rename(path("a/one"), path("a/b/two")).unwrap();
    let mut appended = File::options().append(true).open(path("a/b/two")).unwrap();
    appended.write_all(b" and more").unwrap();
    let mut truncated = File::options().write(true).truncate(true).create(true).open(path("three")).unwrap();
    truncated.write_all(b"0123456789").unwrap();
    truncated.write_all_at(b"xy", 20_000).unwrap();
    truncated.try_clone().unwrap().set_len(15_000).unwrap();
    let parts = [std::io::IoSlice::new(b"ab"), std::io::IoSlice::new(b"cd")];
    assert_eq!(truncated.write_vectored(&parts).unwrap(), 4);
    truncated.sync_all().unwrap();
    File::create(path("three")).unwrap().write_all(b"again").unwrap();
    fs::rename(path("a/b"), path("moved")).unwrap();
    fs::write(path("moved/three"), b"three").unwrap();
    fs::create_dir_all(path("gone/deep")).unwrap();
    fs::write(path("gone/deep/file"), b"x").unwrap();
    fs::remove_dir_all(path("gone")).unwrap();
    fs::write(path("removed"), b"x").unwrap();
    fs::remove_file(path("removed")).unwrap();
    File::open(&dir).unwrap().sync_all().unwrap();
    if std::env::var_os("STORE_GO_ROUND").is_some() {
        let unseen =
            Command::new("truncate").arg("--size=4").arg(path("three")).env_remove("LD_PRELOAD").status();
        assert!(unseen.unwrap().success());
    }
}

fn record_file_process(disk: &Path, log: &Path, go_round: bool) -> Option<String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["model::file_process", "--exact", "--ignored"]).env("STORE_DISK", disk);
    if go_round {
        command.env("STORE_GO_ROUND", "1");
    }
    record(&mut command, disk, log, Path::new("/nowhere"));
    assert!(command.output().unwrap().status.success());
    let mut replayed = Disk::new(Syncs::All);
    read_log(log).iter().for_each(|entry| replayed.apply(entry));
    replayed.image(Loss::Nothing, &mut Rng::new(1)).difference(&Image::of(disk))
}

#[test]
fn the_recorder_sees_every_way_to_change_a_file_and_what_it_misses_is_noticed() {
    for go_round in [false, true] {
        let home = scratch();
        let (disk, log) = (home.path().join("disk"), home.path().join("log"));
        fs::create_dir(&disk).unwrap();
        let difference = record_file_process(&disk, &log, go_round);
        assert_eq!(difference.is_some(), go_round, "{difference:?}");
    }
}
