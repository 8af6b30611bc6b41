//! Who a client is: passwords, API keys, and which of what it shows counts.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use argon2::password_hash::{PasswordHasher as _, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use futures_util::future::join_all;
use time::OffsetDateTime;

use super::gate::*;
use super::*;

const BAD_PASSWORD: (Refusal, DeniedAnswer) = (Refusal::PasswordWrong, DeniedAnswer::BadUserNameOrPassword);

const PASSWORDS: &str = "[listener]\nidentities = [\"password\"]\n";

#[tokio::test]
async fn a_user_is_a_device_and_its_password_is_computed_once() {
    let mut gate = Gate::new(PASSWORDS).with_password("plug", "tulip");
    let plug = gate.login("plug", "tulip").await.unwrap();
    assert_eq!(plug.identity, Identity { device: device("plug"), kind: IdentityKind::Password });
    assert_eq!(plug.user.as_deref(), Some("plug"));
    for _ in 0..100 {
        gate.login("plug", "tulip").await.unwrap();
    }
    assert_eq!(gate.authenticator.passwords_computed(), 1);

    gate = gate.with_password("plug", "rose");
    assert_eq!(gate.login("plug", "tulip").await, Err(BAD_PASSWORD), "what is remembered is void");
    gate.login("plug", "rose").await.unwrap();
    assert_eq!(gate.rules().admits(&plug).unwrap_err().0, Refusal::CredentialRevoked);
    gate.devices.device_mut(&device("plug")).password = None;
    assert_eq!(gate.login("plug", "rose").await, Err(BAD_PASSWORD));
}

#[tokio::test]
async fn a_storm_of_one_users_connections_costs_one_computation() {
    let gate = Gate::new(PASSWORDS).with_password("plug", "tulip");
    let logins = join_all((0..30).map(|_| gate.login("plug", "tulip"))).await;
    assert!(logins.iter().all(Result::is_ok));
    assert_eq!(gate.authenticator.passwords_computed(), 1);
}

#[tokio::test]
async fn a_user_who_does_not_exist_costs_as_much_as_a_wrong_password() {
    let gate = Gate::new(PASSWORDS).with_password("plug", "tulip");
    for (user, password) in [("plug", "rose"), ("nobody", "rose"), ("no/device", "rose"), ("plug", "")] {
        let before = gate.authenticator.passwords_computed();
        assert_eq!(gate.login(user, password).await, Err(BAD_PASSWORD), "{user}");
        assert_eq!(gate.authenticator.passwords_computed(), before + 1, "{user}");
        assert_eq!(gate.login(user, password).await, Err(BAD_PASSWORD), "{user} again");
        assert_eq!(gate.authenticator.passwords_computed(), before + 1, "a loop costs nothing: {user}");
    }
}

#[tokio::test]
async fn a_hash_that_costs_too_much_or_is_none_lets_nobody_in() {
    let mut gate = Gate::new(PASSWORDS).with_password("plug", "tulip");
    let salt = SaltString::encode_b64(&[7; 16]).unwrap();
    let hash = |memory_kib, passes| {
        let params = Params::new(memory_kib, passes, 1, None).unwrap();
        let argon2id = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon2id.hash_password(b"tulip", &salt).unwrap().to_string()
    };
    // Each is a hash of the right password.
    let md5 = "$1$abcdefgh$vj.WaVy4J7JyGu1zlTG2y1".to_owned();
    for (hash, is_good) in
        [(hash(1_024, 10), true), (hash(1_024, 11), false), (hash(128 * 1024 + 1, 1), false), (md5, false)]
    {
        let written = serde_json::to_string(&hash).unwrap();
        gate.devices.device_mut(&device("plug")).password = Some(serde_json::from_str(&written).unwrap());
        let answer = gate.login("plug", "tulip").await;
        assert_eq!(answer.map(drop), if is_good { Ok(()) } else { Err(BAD_PASSWORD) }, "{hash}");
    }
}

#[tokio::test]
async fn guessing_costs_the_guesser_and_nobody_else() {
    let gate = Gate::new(PASSWORDS).with_password("plug", "tulip").with_password("lamp", "rose");
    gate.login("plug", "tulip").await.unwrap();
    let mut answers = Vec::new();
    for guess in 0..25 {
        answers.push(gate.login("lamp", &format!("guess {guess}")).await.unwrap_err());
    }
    let limited = (Refusal::TooManyWrongPasswords, DeniedAnswer::RateExceeded);
    assert_eq!(answers.iter().filter(|answer| **answer == BAD_PASSWORD).count(), 20);
    assert_eq!(answers[20..], [limited; 5]);
    assert_eq!(gate.login("lamp", "rose").await, Err(limited), "the right one is not found out so, either");
    gate.login("plug", "tulip").await.unwrap();
    let elsewhere = Credentials { address: Ipv4Addr::new(192, 0, 2, 2).into(), ..login("lamp", "rose") };
    gate.show(elsewhere).await.unwrap();
}

#[tokio::test]
async fn beyond_a_bounded_queue_clients_are_told_to_come_again() {
    let gate = Gate::new(PASSWORDS);
    let users: Vec<_> = (0..40_u8).map(|number| (format!("user{number}"), number)).collect();
    let answers = join_all(users.iter().map(|(user, number)| {
        gate.show(Credentials { address: Ipv4Addr::new(192, 0, 2, *number).into(), ..login(user, "x") })
    }))
    .await;
    let busy = Err((Refusal::PasswordsBusy, DeniedAnswer::ServerBusy));
    assert_eq!(answers.iter().filter(|answer| **answer == busy).count(), 8);
    assert_eq!(gate.authenticator.passwords_computed(), 32);
}

#[tokio::test]
async fn the_first_identity_of_the_list_that_is_shown_counts_and_nothing_after_it() {
    let gate =
        Gate::new("[listener]\nidentities = [\"password\", \"certificate\", \"anonymous\"]\n[anonymous]\n")
            .with_password("plug", "tulip");
    let kind = |admitted: Result<Arc<Principal>, _>| admitted.map(|who| who.identity.kind);
    let both = |password| Credentials { certificate: certificate("lamp"), ..login("plug", password) };
    assert_eq!(kind(gate.show(both("tulip")).await), Ok(IdentityKind::Password));
    assert_eq!(kind(gate.show(both("rose")).await), Err(BAD_PASSWORD), "the certificate does not help");
    let lamp = Credentials { certificate: certificate("lamp"), ..nothing() };
    assert_eq!(kind(gate.show(lamp.clone()).await), Ok(IdentityKind::Certificate));
    let user_alone = Credentials { user: Some("plug"), ..lamp };
    assert_eq!(kind(gate.show(user_alone).await), Ok(IdentityKind::Certificate));
    assert_eq!(kind(gate.show(nothing()).await), Ok(IdentityKind::Anonymous));

    let strict = Gate::new("").with_password("plug", "tulip");
    let refused = Err((Refusal::IdentityNotAllowed, DeniedAnswer::NotAuthorized));
    assert_eq!(kind(strict.show(login("plug", "tulip")).await), refused);
    assert_eq!(kind(strict.show(nothing()).await), refused);
    assert_eq!(
        kind(strict.show(both("rose")).await),
        Ok(IdentityKind::Certificate),
        "passwords are not asked for"
    );
    let passwords = Gate::new(PASSWORDS);
    for (user, password) in [("tampu_0123abcd_x", "x"), ("plug", "tampu_0123abcd_x"), ("plug", "e30.e30.")] {
        assert_eq!(kind(passwords.login(user, password).await), refused, "no password: {user} {password}");
    }
}

#[tokio::test]
async fn a_disabled_device_is_refused_whatever_it_shows() {
    let mut gate = Gate::new("[listener]\nidentities = [\"certificate\", \"password\"]\n")
        .with_password("plug", "tulip");
    gate.devices.device_mut(&device("plug")).disabled = true;
    let refused = Err((Refusal::DeviceDisabled, DeniedAnswer::NotAuthorized));
    assert_eq!(gate.login("plug", "tulip").await, refused);
    assert_eq!(gate.show(Credentials { certificate: certificate("plug"), ..nothing() }).await, refused);
}

#[tokio::test]
async fn an_api_key_is_its_devices_until_it_expires_or_is_revoked() {
    let mut gate = Gate::new("[listener]\nidentities = [\"api_key\"]\n");
    let now = OffsetDateTime::now_utc();
    let mut make = |made: OffsetDateTime, expires: Option<u64>| {
        let new = gate.devices.add_key(&device("plug"), made, expires.map(Duration::from_secs)).unwrap();
        (new.key.expose().to_owned(), new.record.id)
    };
    let ((key, id), (short, _)) = (make(now, None), make(now, Some(3_600)));
    let (over, _) = make(now - time::Duration::minutes(1), Some(1));
    assert!(!format!("{:?}", gate.devices).contains(&gate.devices.key(&id).unwrap().1.sha256));

    let wrong = Err((Refusal::ApiKeyWrong, DeniedAnswer::BadUserNameOrPassword));
    let as_user = Credentials { user: Some(&key), ..nothing() };
    for shown in [login("plug", &key), login("", &key), login(&id, &key), as_user] {
        let plug = gate.show(shown).await.unwrap();
        assert_eq!(plug.identity, Identity { device: device("plug"), kind: IdentityKind::ApiKey });
        assert_eq!((plug.user.as_deref(), plug.ends), (Some("plug"), None));
    }
    let mut forged = key.clone();
    forged.replace_range(key.len() - 2.., if key.ends_with("AA") { "BB" } else { "AA" });
    for (user, shown) in [("lamp", &key), ("plug", &forged), ("plug", &over), ("plug", &"tampu_x".to_owned())]
    {
        assert_eq!(gate.login(user, shown).await, wrong, "{user}");
    }
    let brief = gate.login("plug", &short).await.unwrap();
    let left = brief.ends.unwrap() - Instant::now();
    assert!((Duration::from_secs(3_000)..=Duration::from_secs(3_601)).contains(&left), "{left:?}");

    let plug = gate.login("plug", &key).await.unwrap();
    assert_eq!(gate.rules().admits(&plug), Ok(()));
    gate.devices.device_mut(&device("plug")).keys.retain(|key| key.id != id);
    assert_eq!(gate.rules().admits(&plug).unwrap_err().0, Refusal::CredentialRevoked);
    assert_eq!(gate.login("plug", &key).await, wrong);
}

#[tokio::test]
async fn who_is_refused_is_named_as_it_was_shown_or_only_said_and_never_by_a_key() {
    let mut gate = Gate::new("[listener]\nidentities = [\"password\", \"api_key\"]\n");
    gate = gate.with_password("plug", "tulip");
    let lamp = device("lamp");
    let NewKey { key, .. } = gate.devices.add_key(&lamp, OffsetDateTime::now_utc(), None).unwrap();
    gate.devices.device_mut(&device("plug")).disabled = true;
    let torn = key.expose().replacen("tampu_", "tampu_-", 1);
    let changed = format!("{}x", key.expose());
    let with = |certificate| Credentials { certificate, ..login("pump", "rose") };
    for (shown, shown_to_be, said) in [
        (nothing(), None, None),
        (login("pump", "rose"), None, Some("pump")),
        (login("no/device", "rose"), None, None),
        (login("plug", "tulip"), Some("plug"), None),
        (with(certificate("fan")), Some("fan"), Some("pump")),
        (login("pump", &changed), None, Some("lamp")),
        (login("pump", &torn), None, Some("pump")),
        (login(&changed, "rose"), None, Some("lamp")),
        (login(&torn, "rose"), None, None),
    ] {
        let what = format!("{:?}", shown.user);
        let denied = gate.authenticator.authenticate(&gate.rules(), shown).await.unwrap_err();
        let name = |device: Option<DeviceId>| device.map(|device| device.to_string());
        assert_eq!(name(denied.device).as_deref(), shown_to_be, "{what}");
        assert_eq!(name(denied.claimed).as_deref(), said, "{what}");
    }
}
