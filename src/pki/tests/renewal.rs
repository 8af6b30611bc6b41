//! The server's certificate over time, on a clock that is told the time by its floor.

use super::*;

fn names(place: &Place) -> Vec<String> {
    let der = der(&std::fs::read_to_string(place.path("server.pem")).unwrap());
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    host_names(&certificate).iter().map(ToString::to_string).collect()
}

#[test]
fn it_is_renewed_at_two_thirds_of_its_life_and_keeps_its_key() {
    let place = Place::new();
    place.open_at(&clock_at(FAR_FUTURE)).server_tls().current(config::ClientAuth::Required).unwrap();
    let key = std::fs::read(place.path("server.key")).unwrap();

    let early = place.open_at(&clock_at(FAR_FUTURE + 240 * DAY)).server_tls();
    let first = early.certificate().unwrap();
    assert_eq!(early.renew_if_due().unwrap(), Renewed::No);

    let due = place.open_at(&clock_at(FAR_FUTURE + 245 * DAY)).server_tls();
    let second = due.certificate().unwrap();
    assert_ne!(first.serial, second.serial);
    assert!(second.not_after > first.not_after);
    assert_eq!(std::fs::read(place.path("server.key")).unwrap(), key);
}

#[test]
fn a_handle_that_is_in_use_is_given_the_new_one() {
    let place = Place::new();
    let tls = place.open().server_tls();
    let (before, serial) =
        (tls.current(config::ClientAuth::Required).unwrap(), tls.certificate().unwrap().serial);
    // Another handle of the same files, as the maintenance task would see them 300 days later.
    place
        .open_at(&clock_at(seconds_of(&clock()) + 300 * DAY))
        .server_tls()
        .current(config::ClientAuth::Required)
        .unwrap();
    assert_eq!(
        tls.renew_if_due().unwrap(),
        Renewed::Yes(Why::Age),
        "not valid yet by a synchronised clock 300 days behind"
    );
    assert_ne!(tls.certificate().unwrap().serial, serial);
    assert!(!std::sync::Arc::ptr_eq(&before, &tls.current(config::ClientAuth::Required).unwrap()));
}

#[test]
fn a_new_name_makes_it_due_and_a_lost_one_does_not() {
    let mut place = Place::new();
    let tls = place.open().server_tls();
    let serial = tls.certificate().unwrap().serial;
    place.settings.names = vec!["gateway.example.org".to_owned(), "192.0.2.7".to_owned()];
    let new = ["192.0.2.7", "gateway.example.org"];
    let Renewed::Yes(Why::Names(mut added)) = tls.reload(&place.settings).unwrap() else {
        panic!("two names are new");
    };
    added.sort();
    assert_eq!(added, new);
    assert_ne!(tls.certificate().unwrap().serial, serial);
    for name in new {
        assert!(names(&place).iter().any(|held| held == name), "{name}");
    }

    place.settings.names.clear();
    assert_eq!(tls.reload(&place.settings).unwrap(), Renewed::No);
    place.settings.names = vec!["third.example.org".to_owned()];
    tls.reload(&place.settings).unwrap();
    assert!(names(&place).iter().any(|held| held == new[1]), "a device may still use an old name");
}

#[test]
fn a_bad_name_is_named_and_the_old_certificate_stays() {
    let mut place = Place::new();
    let tls = place.open().server_tls();
    let serial = tls.certificate().unwrap().serial;
    place.settings.names = vec!["not a name".to_owned()];
    let error = tls.reload(&place.settings).unwrap_err().to_string();
    assert!(error.contains("pki.names") && error.contains("not a name"), "{error}");
    assert_eq!(tls.certificate().unwrap().serial, serial);
    assert_eq!(tls.renew_if_due().unwrap(), Renewed::No, "the old settings are still in force");
}

#[test]
fn a_certificate_of_ours_is_renewed_after_it_expired_while_the_box_was_off() {
    let place = Place::new();
    place.open_at(&clock_at(FAR_FUTURE)).server_tls().current(config::ClientAuth::Required).unwrap();
    let clock = clock_at(FAR_FUTURE + 3 * 365 * DAY);
    let tls = place.open_at(&clock).server_tls();
    let end = tls.certificate().unwrap().not_after.unix_timestamp();
    assert!(u64::try_from(end).unwrap() > seconds_of(&clock));
}

#[test]
fn a_clock_that_is_behind_does_not_replace_a_certificate_by_one_that_is_over() {
    let place = Place::new();
    let tls = place.open_at(&clock_at(FAR_FUTURE)).server_tls();
    let serial = tls.certificate().unwrap().serial;
    let behind = place.open_at(&clock_at(0)).server_tls();
    assert_eq!(behind.certificate().unwrap().serial, serial);
}

#[test]
fn certificates_that_end_soon_are_counted_until_they_are_renewed() {
    let place = Place::new();
    let pki = place.open();
    pki.issue_device(&id("pump"), Issue::First).unwrap();
    let end = pki.device(&id("pump")).unwrap().certificate.not_after.unix_timestamp();
    let before_the_end = |days: u64| place.open_at(&clock_at(u64::try_from(end).unwrap() - days * DAY));
    assert_eq!(before_the_end(31).lives().devices, []);
    let late = before_the_end(29);
    let named: Vec<_> = late.lives().devices.into_iter().map(|(device, _)| device).collect();
    assert_eq!(named, [id("pump")]);
    late.issue_device(&id("pump"), Issue::Further).unwrap();
    assert_eq!(late.lives().devices, []);
}
