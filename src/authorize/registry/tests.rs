use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;
use crate::authorize::DocumentError;

fn device(name: &str) -> DeviceId {
    DeviceId::parse(name).unwrap()
}

fn disable(dir: &Path, name: &str) {
    let done = Registry::update(dir, |devices| {
        devices.device_mut(&device(name)).disabled = true;
        Ok::<_, DocumentError>(())
    });
    done.unwrap();
}

fn is_disabled(devices: &Devices, name: &str) -> bool {
    devices.device(&device(name)).is_some_and(|known| known.disabled)
}

#[test]
fn a_change_is_seen_by_a_gateway_that_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mut registry = Registry::open(dir.path());
    assert!(registry.trouble().is_none(), "no file is no fault");
    assert!(!registry.look());
    disable(dir.path(), "plug");
    assert!(registry.look());
    assert!(is_disabled(&registry.content(), "plug"));
    assert!(!registry.look(), "told once");
}

#[test]
fn the_file_is_its_owners_alone_and_says_no_more_than_is_known() {
    let dir = tempfile::tempdir().unwrap();
    disable(dir.path(), "plug");
    let file = dir.path().join("devices.json");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(written, serde_json::json!({ "version": 1, "devices": { "plug": { "disabled": true } } }));
    let enabled = Registry::update(dir.path(), |devices| {
        devices.device_mut(&device("plug")).disabled = false;
        Ok::<_, DocumentError>(())
    });
    enabled.unwrap();
    assert_eq!(Registry::read(dir.path()).unwrap(), Devices::default(), "there is nothing left to know");
}

#[test]
fn a_change_that_fails_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    disable(dir.path(), "plug");
    let failed = Registry::update(dir.path(), |devices| {
        devices.device_mut(&device("lamp")).disabled = true;
        Err::<(), _>(anyhow::anyhow!("no"))
    });
    assert_eq!(failed.unwrap_err().to_string(), "no");
    assert!(!is_disabled(&Registry::read(dir.path()).unwrap(), "lamp"));
}

#[test]
fn a_damaged_file_leaves_in_force_what_was_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("devices.json");
    disable(dir.path(), "plug");
    let mut registry = Registry::open(dir.path());
    for damage in ["", "{ torn", "{\"version\":2,\"devices\":{}}", "{\"version\":1,\"devices\":{\"a/b\":{}}}"]
    {
        std::fs::write(&file, damage).unwrap();
        assert!(!registry.look());
        let trouble = registry.trouble().unwrap().to_string();
        assert!(trouble.contains("devices.json.copy"), "{trouble}");
        assert!(is_disabled(&registry.content(), "plug"), "{damage}");
        let after_a_start = Registry::open(dir.path());
        assert!(after_a_start.trouble().is_some(), "{damage}");
        assert!(is_disabled(&after_a_start.content(), "plug"), "the copy holds: {damage}");
        let update = Registry::update(dir.path(), |_| Ok::<_, DocumentError>(()));
        assert!(matches!(update, Err(DocumentError::Unusable { .. })), "{damage}");
    }
    std::fs::remove_file(&file).unwrap();
    assert!(!registry.look());
    assert!(registry.trouble().unwrap().to_string().contains("it is gone"));
    std::fs::copy(dir.path().join("devices.json.copy"), &file).unwrap();
    assert!(!registry.look(), "what the copy says was in force all the time");
    assert!(registry.trouble().is_none());
}

#[test]
fn without_a_copy_a_damaged_file_keeps_nothing_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("devices.json"), "{ torn").unwrap();
    let registry = Registry::open(dir.path());
    assert!(registry.trouble().is_some());
    assert_eq!(*registry.content(), Devices::default());
}

#[test]
fn changes_at_the_same_time_are_all_made() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let dir = dir.path();
            scope.spawn(move || disable(dir, &format!("plug-{number}")));
        }
    });
    assert_eq!(Registry::read(dir.path()).unwrap().iter().count(), 8);
}

#[test]
fn hashes_do_not_print() {
    let hash = PasswordHash::of(b"tulip").unwrap();
    assert_eq!(format!("{hash:?}"), "(hash)");
    for bad in [&b""[..], &[b'x'; 1_025]] {
        assert!(PasswordHash::of(bad).is_err());
    }
}

#[test]
fn a_revocation_is_forgotten_when_its_certificate_has_long_expired() {
    let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
    let days = time::Duration::days;
    let mut devices = Devices::default();
    let ends = [Some(now - days(31)), Some(now - days(29)), Some(now + days(1)), None];
    for (serial, not_after) in ends.into_iter().enumerate() {
        let certificate = CertificateId { issuer: "CN=CA".to_owned(), serial: serial.to_string() };
        let revoked = RevokedCertificate { certificate, revoked_at: now - days(90), not_after };
        devices.device_mut(&device("plug")).revoked.push(revoked);
    }
    devices.forget_expired(now);
    let kept = devices.device(&device("plug")).unwrap().revoked.iter();
    assert_eq!(kept.map(|it| it.certificate.serial.as_str()).collect::<Vec<_>>(), ["1", "2", "3"]);
}

#[test]
fn a_file_that_could_not_be_read_is_read_again_although_it_looks_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut registry = Registry::open(dir.path());
    let file = dir.path().join("devices.json");
    let good = r#"{ "version": 1, "devices": { "plug": { "disabled": true } } }"#;
    std::fs::write(&file, "x".repeat(good.len())).unwrap();
    let modified = std::fs::metadata(&file).unwrap().modified().unwrap();
    assert!(!registry.look());
    assert!(registry.trouble().is_some());
    std::fs::write(&file, good).unwrap();
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
    assert!(registry.look());
    assert!(is_disabled(&registry.content(), "plug") && registry.trouble().is_none());
}
