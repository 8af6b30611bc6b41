use std::fs;
use std::path::Path;

use super::*;

fn images_in(dir: &Path) -> usize {
    fs::read_dir(dir.join("firmware/images")).unwrap().count()
}

fn refused(added: Result<Release, StoreError>) -> String {
    match added {
        Err(StoreError::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_release_is_kept_promoted_rolled_back_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    assert_eq!(store.read().unwrap(), Releases::default(), "there is nothing yet");
    let rollout: Rollout = "a,b".parse().unwrap();
    let image = described("2.0", "x", 1_000);
    let release = add(&store, &image, NewRelease { rollout, ..new_release("plugs", "2.0") }).unwrap();
    assert_eq!(fs::read(store.image_file(&release.image.sha256)).unwrap(), image);
    assert_eq!(store.read().unwrap().get(1), Some(&release));

    let other = Store::new(dir.path());
    assert_eq!(other.promote(1, "25%".parse().unwrap()).unwrap().rollout.to_string(), "25% and 2 by name");
    assert_eq!(other.promote(1, "10%".parse().unwrap()).unwrap().rollout.percent, 25, "nobody loses it");
    assert!(store.roll_back(1).unwrap().withdrawn);
    assert!(!store.promote(1, Rollout::ALL).unwrap().withdrawn);

    let same = add(&store, &image, new_release("lamps", "2.0")).unwrap();
    assert_eq!((same.id, images_in(dir.path())), (2, 1));
    store.remove(1).unwrap();
    assert_eq!(images_in(dir.path()), 1, "the other release has the same image");
    store.remove(2).unwrap();
    assert_eq!(images_in(dir.path()), 0);
    assert!(matches!(store.promote(1, Rollout::ALL), Err(StoreError::NotFound(_))));
    assert_eq!(add(&store, &image, new_release("lamps", "2.0")).unwrap().id, 3, "no number is used twice");
}

#[test]
fn an_image_that_is_not_the_one_that_was_meant_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    let image = described("2.0", "x", 1_000);
    let good = new_release("plugs", "2.0");
    let md5 = Some(Md5::from([1; 16]));
    assert!(refused(add(&store, &image, NewRelease { md5, ..good.clone() })).contains("its MD5 is"));
    let sha256 = Some(Sha256::from([1; 32]));
    assert!(refused(add(&store, &image, NewRelease { sha256, ..good.clone() })).contains("its SHA-256 is"));
    let why = refused(add(&store, &image, new_release("plugs", "2.1")));
    assert!(why.contains("its own version is 2.0, and 2.1 was expected"), "{why}");
    assert!(refused(add(&store, b"#!/bin/sh", good.clone())).contains("begins with 0x23"));
    assert!(refused(add(&store, &image[..1_000], good.clone())).contains("its end is missing"));
    let full = Room { min_free_bytes: u64::MAX, ..ROOM };
    let full = store.add(&image[..], good.clone(), full, OffsetDateTime::UNIX_EPOCH);
    assert!(refused(full).contains("there is no room for it"));
    assert_eq!(images_in(dir.path()), 0);
    assert_eq!(store.read().unwrap(), Releases::default());

    let kind = Kind::FileSystem;
    add(&store, b"#!/bin/sh", NewRelease { kind, ..good }).unwrap();
    let sketch = described("esp-idf: v4.4.7", "arduino-lib-builder", 9);
    add(&store, &sketch, new_release("plugs", "7")).expect("that version is the core's, not the sketch's");
}

#[test]
fn what_an_interrupted_change_has_left_goes_with_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    let image = described("1", "x", 10);
    add(&store, &image, new_release("plugs", "1")).unwrap();
    fs::write(dir.path().join("firmware/images/.new-abc"), b"half").unwrap();
    fs::write(store.image_file(&Sha256::from([7; 32])), b"whole, and not in the index").unwrap();
    store.promote(1, Rollout::ALL).unwrap();
    assert_eq!(images_in(dir.path()), 1);
}

#[test]
fn a_damaged_index_is_told_and_nothing_is_changed_or_removed_until_it_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    let release = add(&store, &described("1", "x", 10), new_release("plugs", "1")).unwrap();
    let index = dir.path().join("firmware/releases.json");
    let whole = fs::read(&index).unwrap();
    for damage in [&whole[..whole.len() / 2], b"", &[0; 100]] {
        fs::write(&index, damage).unwrap();
        assert!(matches!(store.read(), Err(StoreError::Index(_))));
        assert!(matches!(store.remove(1), Err(StoreError::Index(_))));
        assert_eq!(store.open_index().content().get(1), Some(&release));
        assert_eq!(images_in(dir.path()), 1);
    }
    fs::remove_file(&index).unwrap();
    assert!(matches!(store.read(), Err(StoreError::Index(_))), "it is gone, and the copy is not");
    fs::copy(dir.path().join("firmware/releases.json.copy"), &index).unwrap();
    assert_eq!(store.read().unwrap().get(1), Some(&release));
    let evil = String::from_utf8(whole).unwrap().replace(&release.image.sha256.to_string(), "../../pki/ca");
    fs::write(&index, evil).unwrap();
    assert!(matches!(store.read(), Err(StoreError::Index(_))), "an image is never outside");
}

#[test]
fn nobody_waits_for_an_image_that_comes_slowly() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    let (first, second) = (described("1", "x", 10), described("2", "x", 10));
    add(&store, &first, new_release("plugs", "1")).unwrap();
    let (half, rest) = second.split_at(100);
    let meanwhile = Meanwhile(Some(|| {
        store.remove(1).unwrap();
        add(&store, &first, new_release("plugs", "1")).unwrap();
    }));
    let slowly = io::Read::chain(io::Read::chain(half, meanwhile), rest);
    let release = store.add(slowly, new_release("plugs", "2"), ROOM, OffsetDateTime::UNIX_EPOCH).unwrap();
    assert_eq!(fs::read(store.image_file(&release.image.sha256)).unwrap(), second);
    assert_eq!((release.id, images_in(dir.path())), (3, 2));
}

#[test]
fn what_was_known_of_devices_is_set_aside_when_it_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    let mut states = States::default();
    states.told(&device("plug"), Some(7));
    states.changed = false;
    store.keep_states(&states).unwrap();
    let (file, copy) =
        (dir.path().join("firmware/devices.json"), dir.path().join("firmware/devices.json.copy"));
    fs::write(&file, b"{").unwrap();
    assert_eq!(store.read_states(), states, "the copy is there");
    fs::write(&copy, b"{").unwrap();
    assert_eq!(store.read_states(), States::default());
    store.keep_states(&states).unwrap();
    assert_eq!(store.read_states(), states);
    assert_eq!(fs::read(dir.path().join("firmware/devices.json.damaged")).unwrap(), b"{");
}

/// Holds nothing, and something happens when that is found out.
struct Meanwhile<F>(Option<F>);

impl<F: FnOnce()> io::Read for Meanwhile<F> {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        if let Some(act) = self.0.take() {
            act();
        }
        Ok(0)
    }
}
