//! Torn, flipped, missing and unreadable files: it always starts (P5).

use super::*;

fn aside(place: &Place, name: &str) -> bool {
    place.path(&format!("{name}.damaged-1")).exists()
}

fn damage(path: &Path, how: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    let damaged = match how {
        "empty" => String::new(),
        "cut" => text[..text.len() / 2].to_owned(),
        "zeros" => "\0".repeat(text.len()),
        "flipped" => flip(&text, 2),
        other => panic!("{other}"),
    };
    std::fs::write(path, damaged).unwrap();
}

const WAYS: [&str; 4] = ["empty", "cut", "zeros", "flipped"];

#[test]
fn a_damaged_server_certificate_or_key_is_set_aside_and_made_anew() {
    for file in ["server.pem", "server.key"] {
        for how in WAYS {
            let place = Place::new();
            place.open().server_tls().current(config::ClientAuth::Required).unwrap();
            damage(&place.path(file), how);
            let tls = place.open().server_tls();
            tls.current(config::ClientAuth::Required).unwrap_or_else(|error| panic!("{file} {how}: {error}"));
            let server = der(&std::fs::read_to_string(place.path("server.pem")).unwrap());
            let ca = der(&std::fs::read_to_string(place.path("ca.pem")).unwrap());
            assert!(verifies(&server, &ca), "{file} {how}");
            assert_eq!(tls.renew_if_due().unwrap(), Renewed::No, "{file} {how}");
        }
    }
}

#[test]
fn a_torn_file_is_kept_for_whoever_wants_to_look() {
    let place = Place::new();
    place.open().server_tls().current(config::ClientAuth::Required).unwrap();
    damage(&place.path("server.key"), "cut");
    place.open().server_tls().current(config::ClientAuth::Required).unwrap();
    assert!(aside(&place, "server.key"));
    assert_eq!(mode(&place.path("server.key")), 0o600);
}

#[test]
fn a_damaged_or_lost_ca_certificate_is_made_again_from_its_key_and_old_certificates_stay_good() {
    for how in ["lost", "empty", "cut", "zeros", "flipped"] {
        let place = Place::new();
        let pki = place.open();
        let device = der(&pki.issue_device(&id("a"), Issue::First).unwrap().cert_pem);
        pki.server_tls().current(config::ClientAuth::Required).unwrap();
        let server = std::fs::read(place.path("server.pem")).unwrap();
        let old_ca = der(&pki.ca_pem().unwrap());
        match how {
            "lost" => std::fs::remove_file(place.path("ca.pem")).unwrap(),
            how => damage(&place.path("ca.pem"), how),
        }
        let pki = place.open();
        let ca = der(&pki.ca_pem().unwrap());
        assert!(verifies(&device, &ca), "{how}");
        let subject = |der: &CertificateDer<'_>| CertificateInfo::of(der).unwrap().subject;
        assert_eq!(subject(&ca), subject(&old_ca), "{how}");
        pki.server_tls().current(config::ClientAuth::Required).unwrap();
        assert_eq!(std::fs::read(place.path("server.pem")).unwrap(), server, "{how}");
        pki.issue_device(&id("b"), Issue::First).unwrap();
    }
}

#[test]
fn a_first_start_that_was_cut_after_the_key_is_finished_by_the_second() {
    let place = Place::new();
    place.open();
    let key = std::fs::read(place.path("ca.key")).unwrap();
    std::fs::remove_file(place.path("ca.pem")).unwrap();
    place.open().issue_device(&id("a"), Issue::First).unwrap();
    assert_eq!(std::fs::read(place.path("ca.key")).unwrap(), key);
}

#[test]
fn without_a_sound_ca_key_devices_are_served_and_signing_says_what_to_do() {
    for how in WAYS {
        let place = Place::new();
        place.open().server_tls().current(config::ClientAuth::Required).unwrap();
        damage(&place.path("ca.key"), how);
        let pki = place.open();
        let tls = pki.server_tls();
        tls.current(config::ClientAuth::Required).unwrap_or_else(|error| panic!("{how}: {error}"));
        assert_eq!(tls.renew_if_due().unwrap(), Renewed::No);
        let error = pki.issue_device(&id("a"), Issue::First).unwrap_err().to_string();
        assert!(error.contains("ca.key") && error.contains("backup"), "{how}: {error}");
        assert!(!aside(&place, "ca.key"), "it may be repaired by hand");
    }
}

fn problems(place: &Place) -> String {
    let problems = Pki::problems(&place.path(""), &place.settings, SystemTime::now());
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_damaged_or_lost_ca_key_is_a_problem_before_anybody_has_to_sign() {
    let whole = Place::new();
    assert_eq!(problems(&whole), "", "no CA yet");
    assert!(!whole.path("").exists(), "looking makes nothing");
    assert!(whole.open().signing_problem().is_none());
    assert_eq!(problems(&whole), "");
    for how in ["lost"].iter().chain(&WAYS) {
        let place = Place::new();
        place.open();
        match *how {
            "lost" => std::fs::remove_file(place.path("ca.key")).unwrap(),
            how => damage(&place.path("ca.key"), how),
        }
        let (found, pki) = (problems(&place), place.open());
        let told = [
            found,
            pki.signing_problem().unwrap().to_string(),
            pki.issue_device(&id("a"), Issue::First).unwrap_err().to_string(),
        ];
        for problem in told {
            assert!(problem.contains("ca.key") && problem.contains("from a backup"), "{how}: {problem}");
        }
    }
}

#[test]
fn a_damaged_ca_key_without_its_certificate_does_not_keep_the_pki_from_opening() {
    let place = Place::new();
    place.open();
    damage(&place.path("ca.key"), "zeros");
    std::fs::remove_file(place.path("ca.pem")).unwrap();
    assert!(problems(&place).contains("ca.pem"), "{}", problems(&place));
    place.open().server_tls().current(config::ClientAuth::Required).unwrap_err();
}

#[test]
fn what_a_start_makes_good_is_no_problem() {
    let place = Place::new();
    place.open();
    std::fs::remove_file(place.path("ca.pem")).unwrap();
    assert_eq!(problems(&place), "");
}

#[test]
fn without_any_ca_the_pki_opens_and_tls_says_what_to_do() {
    let place = Place::new();
    let pki = place.open();
    pki.issue_device(&id("a"), Issue::First).unwrap();
    pki.server_tls().current(config::ClientAuth::Required).unwrap();
    let (good, key) = (place.path("ca.pem"), place.path("ca.key"));
    let saved = (std::fs::read(&good).unwrap(), std::fs::read(&key).unwrap());
    std::fs::remove_file(&key).unwrap();
    for how in ["cut", "lost"] {
        match how {
            "lost" => std::fs::remove_file(&good).unwrap(),
            how => damage(&good, how),
        }
        let tls = place.open().server_tls();
        let error = tls.current(config::ClientAuth::Required).unwrap_err().to_string();
        assert!(error.contains("ca.pem") && error.contains("backup"), "{how}: {error}");
        assert!(!key.exists(), "a new CA would lock every device out");
        assert!(tls.renew_if_due().is_err());

        std::fs::write(&good, &saved.0).unwrap();
        assert_eq!(
            tls.renew_if_due().unwrap(),
            Renewed::Yes(Why::NewFiles),
            "{how}: a restored file heals it"
        );
        tls.current(config::ClientAuth::Required).unwrap();
    }
    std::fs::write(&key, &saved.1).unwrap();
    place.open().issue_device(&id("b"), Issue::First).unwrap();
}

#[test]
fn a_server_certificate_of_another_ca_is_made_anew() {
    let (place, other) = (Place::new(), Place::new());
    for place in [&place, &other] {
        place.open().server_tls().current(config::ClientAuth::Required).unwrap();
    }
    for file in ["server.pem", "server.key"] {
        std::fs::copy(other.path(file), place.path(file)).unwrap();
    }
    let pki = place.open();
    pki.server_tls().current(config::ClientAuth::Required).unwrap();
    let server = der(&std::fs::read_to_string(place.path("server.pem")).unwrap());
    assert!(verifies(&server, &der(&pki.ca_pem().unwrap())));
}

#[test]
fn a_directory_that_was_open_to_others_is_closed() {
    let place = Place::new();
    place.open();
    std::fs::set_permissions(place.path(""), std::fs::Permissions::from_mode(0o755)).unwrap();
    place.open();
    assert_eq!(mode(&place.path("")), 0o700);
}
