//! Who a client is: passwords, API keys, tokens, and which of them counts.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;
use time::OffsetDateTime;

use super::signers::{Ec, Rsa, base64url, hs256, token};
use super::*;
use crate::clock::Clock;
use crate::config::{self, Config};

const SECRET: &str = "a-secret-of-thirty-two-bytes-or-more";

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// A gateway's door, with what it knows.
struct Gate {
    authenticator: Authenticator,
    clock: Clock,
    access: Access,
    devices: Devices,
    keys: KeyFiles,
    dir: TempDir,
}

impl Gate {
    /// `identities`: in the words of the configuration, with what belongs to them.
    fn new(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("synchronized"), "").unwrap();
        Self::in_directory(dir, settings)
    }

    fn in_directory(dir: TempDir, settings: &str) -> Self {
        let source = config::ClockSource::File(dir.path().join("synchronized"));
        let clock = config::Clock { source, ..config::Clock::default() };
        let clock =
            Clock::start(&clock, &dir.path().join("floor"), std::collections::BTreeMap::new()).unwrap();
        let config = Config::from_toml(settings).unwrap_or_else(|invalid| panic!("{invalid}"));
        let mut keys = KeyFiles::default();
        keys.set(&config.access.issuers);
        assert_eq!(keys.troubles().count(), 0);
        let authenticator = Authenticator::new(clock.clone());
        Self { authenticator, clock, access: config.access, devices: Devices::default(), keys, dir }
    }

    fn with_password(mut self, name: &str, password: &str) -> Self {
        self.devices.device_mut(&device(name)).password =
            Some(PasswordHash::of(password.as_bytes()).unwrap());
        self
    }

    fn rules(&self) -> Authorizer {
        Authorizer::with(&self.access, &[], Arc::new(self.devices.clone()), self.keys.keys())
    }

    async fn show(&self, shown: Credentials<'_>) -> Result<Arc<Principal>, (Refusal, DeniedAnswer)> {
        let admitted = self.authenticator.authenticate(&self.rules(), shown).await;
        admitted.map_err(|denied| (denied.refusal, denied.answer))
    }

    async fn login(&self, user: &str, password: &str) -> Result<Arc<Principal>, (Refusal, DeniedAnswer)> {
        self.show(login(user, password)).await
    }
}

fn login<'a>(user: &'a str, password: &'a str) -> Credentials<'a> {
    Credentials { user: Some(user), password: Some(password.as_bytes()), ..nothing() }
}

fn nothing() -> Credentials<'static> {
    Credentials {
        door: Door::Tls,
        certificate: None,
        client_id: "plug",
        user: None,
        password: None,
        address: HOME,
    }
}

fn certificate(name: &str) -> Option<(DeviceId, CertificateId)> {
    Some((device(name), CertificateId { issuer: "CN=CA".to_owned(), serial: "01".to_owned() }))
}

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
async fn a_hash_that_wants_too_much_memory_or_is_none_lets_nobody_in() {
    let mut gate = Gate::new(PASSWORDS).with_password("plug", "tulip");
    let written = serde_json::to_string(&gate.devices).unwrap();
    for (good, bad) in [("m=19456", "m=4000000"), ("t=2", "t=1000"), ("$argon2id$", "$1$")] {
        let written = written.replacen(good, bad, 1);
        assert!(written.contains(bad), "{bad}");
        gate.devices = serde_json::from_str(&written).unwrap();
        assert_eq!(gate.login("plug", "tulip").await, Err(BAD_PASSWORD), "{bad}");
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
    let mut make = |expires: Option<i64>| {
        let expires = expires.map(|seconds| now + time::Duration::seconds(seconds));
        let new = NewKey::make(&gate.devices, now, expires).unwrap();
        gate.devices.device_mut(&device("plug")).keys.push(new.record.clone());
        (new.key, new.record.id)
    };
    let ((key, id), (short, _), (over, _)) = (make(None), make(Some(3_600)), make(Some(-1)));
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

/// A gate that takes tokens by one secret, with more settings.
fn tokens(more: &str) -> Gate {
    Gate::new(&format!(
        "[listener]\nidentities = [\"jwt\"]\n\
         [[jwt]]\nname = \"cloud\"\nalgorithm = \"HS256\"\nsecret = {SECRET:?}\n{more}"
    ))
}

fn in_seconds(seconds: i64) -> i64 {
    OffsetDateTime::now_utc().unix_timestamp() + seconds
}

fn signed(claims: &Value) -> String {
    token(&json!({ "alg": "HS256", "typ": "JWT" }), claims, hs256(SECRET.as_bytes()))
}

const TOKEN_WRONG: (Refusal, DeniedAnswer) = (Refusal::TokenWrong, DeniedAnswer::BadUserNameOrPassword);
const TOKEN_EXPIRED: (Refusal, DeniedAnswer) = (Refusal::TokenExpired, DeniedAnswer::BadUserNameOrPassword);

#[tokio::test]
async fn every_claim_of_a_token_is_judged() {
    let plain = tokens("");
    let strict = tokens("audience = \"gateways\"\nissuer = \"https://issuer\"\n");
    let unbound = tokens("client_id_claims = []\ndevice_claim = \"device\"\n");
    let soon = in_seconds(600);
    for (gate, claims, expected) in [
        (&plain, json!({ "sub": "plug", "exp": soon }), Ok("plug")),
        (&plain, json!({ "sub": "plug" }), Err(TOKEN_WRONG)),
        (&plain, json!({ "sub": "plug", "exp": soon.to_string() }), Err(TOKEN_WRONG)),
        (&plain, json!({ "sub": "plug", "exp": -1 }), Err(TOKEN_WRONG)),
        (&plain, json!({ "sub": "plug", "exp": 1e300 }), Err(TOKEN_WRONG)),
        (&plain, json!({ "sub": "plug", "exp": in_seconds(-3_600) }), Err(TOKEN_EXPIRED)),
        (&plain, json!({ "sub": "plug", "exp": in_seconds(-20) }), Ok("plug")),
        (&plain, json!({ "sub": "plug", "exp": soon, "nbf": in_seconds(3_600) }), Err(TOKEN_WRONG)),
        (&plain, json!({ "sub": "plug", "exp": soon, "nbf": in_seconds(20) }), Ok("plug")),
        (&plain, json!({ "sub": "plug", "exp": soon, "nbf": "later" }), Err(TOKEN_WRONG)),
        (&plain, json!({ "sub": "lamp", "exp": soon }), Err(TOKEN_WRONG)),
        (&plain, json!({ "sub": "lamp", "client_id": "plug", "exp": soon }), Ok("lamp")),
        (&plain, json!({ "device": "plug", "exp": soon }), Err(TOKEN_WRONG)),
        (&plain, json!({ "sub": "a/b", "client_id": "plug", "exp": soon }), Err(TOKEN_WRONG)),
        (&plain, json!({ "sub": "plug", "exp": soon, "aud": "whoever" }), Ok("plug")),
        (&unbound, json!({ "device": "lamp", "exp": soon }), Ok("lamp")),
        (
            &strict,
            json!({ "sub": "plug", "exp": soon, "aud": "gateways", "iss": "https://issuer" }),
            Ok("plug"),
        ),
        (
            &strict,
            json!({ "sub": "plug", "exp": soon, "aud": ["x", "gateways"], "iss": "https://issuer" }),
            Ok("plug"),
        ),
        (
            &strict,
            json!({ "sub": "plug", "exp": soon, "aud": "others", "iss": "https://issuer" }),
            Err(TOKEN_WRONG),
        ),
        (&strict, json!({ "sub": "plug", "exp": soon, "iss": "https://issuer" }), Err(TOKEN_WRONG)),
        (
            &strict,
            json!({ "sub": "plug", "exp": soon, "aud": "gateways", "iss": "https://other" }),
            Err(TOKEN_WRONG),
        ),
        (&strict, json!({ "sub": "plug", "exp": soon, "aud": "gateways" }), Err(TOKEN_WRONG)),
        (&plain, json!({ "sub": "plug", "exp": soon, "acl": "everything" }), Err(TOKEN_WRONG)),
    ] {
        let admitted = gate.login("unused", &signed(&claims)).await;
        let device = admitted.as_ref().map(|who| who.identity.device.as_str()).map_err(|denied| *denied);
        assert_eq!(device, expected, "{claims}");
    }
}

#[tokio::test]
async fn a_token_ends_its_session_when_it_expires() {
    let gate = tokens("leeway = \"0s\"\n");
    let plug = gate.login("plug", &signed(&json!({ "sub": "plug", "exp": in_seconds(600) }))).await.unwrap();
    let left = plug.ends.unwrap() - Instant::now();
    assert!((Duration::from_secs(500)..=Duration::from_secs(601)).contains(&left), "{left:?}");
    assert_eq!(gate.rules().admits(&plug), Ok(()));
    let over = Principal { ends: Some(Instant::now()), ..(*plug).clone() };
    assert_eq!(gate.rules().admits(&over).unwrap_err().0, Refusal::TokenExpired);
}

#[tokio::test]
async fn no_token_is_judged_before_the_clock_is_synchronised() {
    let mut gate = tokens("");
    let plug = signed(&json!({ "sub": "plug", "exp": in_seconds(600) }));
    gate.login("plug", &plug).await.unwrap();
    std::fs::remove_file(gate.dir.path().join("synchronized")).unwrap();
    gate.clock.look();
    let come_again = Err((Refusal::ClockNotSynchronized, DeniedAnswer::ServerUnavailable));
    assert_eq!(gate.login("plug", &plug).await, come_again);
    assert_eq!(gate.login("plug", &signed(&json!({ "sub": "plug", "exp": 1 }))).await, come_again);
    std::fs::write(gate.dir.path().join("synchronized"), "").unwrap();
    gate.clock.look();
    gate.login("plug", &plug).await.unwrap();
    gate.access.issuers.clear();
    gate.keys.set(&[]);
    let old = gate.login("plug", &plug).await;
    assert_eq!(old, Err(TOKEN_WRONG), "its key is not there any more");
}

/// A gate with a key file; the algorithm and the content of the file.
fn with_key_file(algorithm: &str, content: &str) -> Gate {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    std::fs::write(&file, content).unwrap();
    std::fs::write(dir.path().join("synchronized"), "").unwrap();
    let keys = match algorithm {
        "set" => format!("jwks_file = {file:?}"),
        algorithm => format!("algorithm = {algorithm:?}\nkey_file = {file:?}"),
    };
    let settings = format!("[listener]\nidentities = [\"jwt\"]\n[[jwt]]\nname = \"cloud\"\n{keys}\n");
    Gate::in_directory(dir, &settings)
}

#[tokio::test]
async fn the_algorithm_is_the_keys_and_never_the_tokens() {
    let (rsa, ec, other) = (Rsa::make(), Ec::make(), Ec::make());
    let claims = json!({ "sub": "plug", "exp": in_seconds(600) });
    let header = |algorithm: &str| json!({ "alg": algorithm });
    let rs256 = token(&header("RS256"), &claims, |text| rsa.sign(text));
    let es256 = token(&header("ES256"), &claims, |text| ec.sign(text));
    let by_rsa = with_key_file("RS256", &rsa.public_pem());
    let by_ec = with_key_file("ES256", &ec.1);
    by_rsa.login("plug", &rs256).await.unwrap();
    by_ec.login("plug", &es256).await.unwrap();

    let public = rsa.public_pem();
    let confused = token(&header("HS256"), &claims, hs256(public.as_bytes()));
    let confused_der = token(&header("HS256"), &claims, hs256(public.trim().as_bytes()));
    let none = token(&header("none"), &claims, |_| Vec::new());
    let none_in_capitals = token(&header("NONE"), &claims, |_| Vec::new());
    let no_algorithm = token(&json!({}), &claims, |_| Vec::new());
    let lying = token(&header("RS256"), &claims, hs256(public.as_bytes()));
    let another = token(&header("ES256"), &claims, |text| other.sign(text));
    let empty = token(&header("ES256"), &claims, |_| Vec::new());
    let zeros = token(&header("ES256"), &claims, |_| vec![0; 64]);
    let extension = token(&json!({ "alg": "ES256", "crit": ["exp"] }), &claims, |text| ec.sign(text));
    let own_key = token(&json!({ "alg": "ES256", "jwk": other.jwk("x") }), &claims, |text| other.sign(text));
    let mut changed = es256.split('.').map(str::to_owned).collect::<Vec<_>>();
    changed[1] = base64url(json!({ "sub": "plug", "exp": in_seconds(6_000) }).to_string());
    let changed = changed.join(".");
    for bad in [
        &confused,
        &confused_der,
        &none,
        &none_in_capitals,
        &no_algorithm,
        &lying,
        &another,
        &empty,
        &zeros,
        &extension,
        &own_key,
        &changed,
    ] {
        for gate in [&by_rsa, &by_ec] {
            assert_eq!(gate.login("plug", bad).await, Err(TOKEN_WRONG), "{bad}");
        }
    }
    assert_eq!(by_rsa.login("plug", &es256).await, Err(TOKEN_WRONG));
}

#[tokio::test]
async fn the_keys_of_a_set_are_found_by_their_id_and_read_again_when_it_changes() {
    let (rsa, ec, next) = (Rsa::make(), Ec::make(), Ec::make());
    let set = |keys: &[Value]| json!({ "keys": keys }).to_string();
    let encrypting = json!({ "kty": "RSA", "use": "enc", "n": "AQAB", "e": "AQAB" });
    let secret = json!({ "kty": "oct", "kid": "s", "alg": "HS256", "k": base64url(SECRET) });
    let mut gate = with_key_file("set", &set(&[encrypting, rsa.jwk("r"), ec.jwk("e"), secret]));
    let claims = json!({ "sub": "plug", "exp": in_seconds(600) });
    let by = |algorithm: &str, kid: &str, sign: &dyn Fn(&[u8]) -> Vec<u8>| {
        token(&json!({ "alg": algorithm, "kid": kid }), &claims, sign)
    };
    gate.login("plug", &by("RS256", "r", &|text| rsa.sign(text))).await.unwrap();
    gate.login("plug", &by("HS256", "s", &hs256(SECRET.as_bytes()))).await.unwrap();
    let plug = gate.login("plug", &by("ES256", "e", &|text| ec.sign(text))).await.unwrap();
    assert_eq!(gate.login("plug", &by("ES256", "r", &|text| ec.sign(text))).await, Err(TOKEN_WRONG));

    let file = gate.dir.path().join("keys");
    assert!(!gate.keys.look(), "nothing has changed");
    std::fs::write(&file, "{ damaged").unwrap();
    assert!(!gate.keys.look(), "the last good keys stay in force");
    let trouble = gate.keys.troubles().next().unwrap().to_string();
    assert!(trouble.starts_with("jwt.cloud: ") && trouble.contains("not JSON"), "{trouble}");
    assert_eq!(gate.rules().admits(&plug), Ok(()));

    std::fs::write(&file, set(&[next.jwk("n")])).unwrap();
    assert!(gate.keys.look());
    assert_eq!(gate.keys.troubles().count(), 0);
    gate.login("plug", &by("ES256", "n", &|text| next.sign(text))).await.unwrap();
    assert_eq!(gate.rules().admits(&plug).unwrap_err().0, Refusal::CredentialRevoked);
}

#[test]
fn a_file_that_holds_no_public_key_says_what_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    let ec = Ec::make();
    for (algorithm, content, expected) in [
        ("ES256", "hello".to_owned(), "BEGIN PUBLIC KEY"),
        ("RS256", ec.1, "belongs to ES256"),
        ("ES256", Rsa::make().public_pem(), "belongs to RS256"),
        ("set", json!({ "keys": [] }).to_string(), "no key for"),
        ("set", json!({ "keys": [{ "kty": "oct", "k": "c2hvcnQ" }] }).to_string(), "fewer than 32"),
        ("set", json!({ "keys": [{ "kty": "RSA", "n": "AQAB", "e": "AQAB" }] }).to_string(), "2,048 bits"),
    ] {
        std::fs::write(&file, content).unwrap();
        let keys = match algorithm {
            "set" => config::TokenKeys::Set { file: file.clone() },
            "RS256" => {
                config::TokenKeys::PublicKey { algorithm: config::TokenAlgorithm::Rs256, file: file.clone() }
            }
            _ => {
                config::TokenKeys::PublicKey { algorithm: config::TokenAlgorithm::Es256, file: file.clone() }
            }
        };
        let issuer = config::TokenIssuer {
            name: "cloud".to_owned(),
            keys,
            audience: None,
            issuer: None,
            leeway: Duration::ZERO,
            device_claim: "sub".to_owned(),
            client_id_claims: Vec::new(),
        };
        let mut keys = KeyFiles::default();
        keys.set(&[issuer]);
        let trouble = keys.troubles().next().unwrap().to_string();
        assert!(trouble.contains(expected), "{expected}: {trouble}");
    }
}

/// What the token of `plug`, with the subject `alice`, may do.
async fn may(acl: &Value) -> (Gate, Arc<Principal>) {
    let gate = tokens("");
    let mut claims = json!({ "sub": "alice", "client_id": "plug", "exp": in_seconds(600) });
    let (claims_of, acl) = (claims.as_object_mut().unwrap(), acl.as_object().unwrap().clone());
    claims_of.extend(acl);
    let who = gate.login("unused", &signed(&claims)).await.unwrap();
    (gate, who)
}

#[tokio::test]
async fn lists_in_a_token_are_all_that_is_allowed() {
    for acl in [
        json!({ "acl": { "pub": ["up/${clientid}/#"], "sub": ["down/${username}"], "all": ["both"] } }),
        json!({ "publ": ["up/${clientid}/#", "both"], "subl": ["down/${username}"], "subs": ["both"] }),
    ] {
        let (gate, plug) = may(&acl).await;
        let rules = gate.rules();
        for (topic, publish, subscribe) in [
            ("up/plug/x", true, false),
            ("up/lamp/x", false, false),
            ("down/alice", false, true),
            ("down/plug", false, false),
            ("both", true, true),
            ("alice/x", false, false),
            ("$SYS/x", false, false),
        ] {
            assert_eq!(rules.publishes(&plug, topic), publish, "publish {topic}: {acl}");
            assert_eq!(rules.subscribes(&plug, topic), subscribe, "subscribe {topic}: {acl}");
        }
    }
}

#[tokio::test]
async fn rules_in_a_token_come_before_the_gateways() {
    let acl = json!({ "acl": [
        { "permission": "deny", "action": "publish", "topic": "alice/secret/#", "retain": true },
        { "permission": "deny", "action": "subscribe", "topic": "alice/secret/#" },
        { "permission": "allow", "action": "all", "topic": "eq t/#", "qos": [0, 1] },
        { "permission": "allow", "action": "publish", "topic": "slow/+", "qos": 0, "retain": "all" },
    ] });
    let (gate, alice) = may(&acl).await;
    let rules = gate.rules();
    for (topic, qos, retain, expected) in [
        ("alice/secret/x", 0, true, (false, Cause::Token(1))),
        ("alice/secret/x", 0, false, (true, Cause::OwnTopics)),
        ("slow/x", 0, true, (true, Cause::Token(4))),
        ("slow/x", 1, true, (false, Cause::NoRule)),
        ("t/x", 0, false, (false, Cause::NoRule)),
    ] {
        let qos = [Qos::AtMostOnce, Qos::AtLeastOnce][qos];
        let Decision { allowed, cause, .. } = rules.may_publish(&alice, topic, qos, retain, false);
        assert_eq!((allowed, cause), expected, "{topic}");
    }
    assert!(rules.subscribes(&alice, "t/#") && !rules.subscribes(&alice, "t/x"));
    assert!(!rules.may_subscribe(&alice, &filter("t/#"), Qos::ExactlyOnce).allowed);
    assert!(rules.subscribes(&alice, "alice/#") && !rules.subscribes(&alice, "alice/secret/x"));
    assert!(rules.holds_back(&alice));
    assert!(!rules.may_receive(&alice, "alice/secret/x").allowed);
    assert!(rules.may_receive(&alice, "t/x").allowed && rules.may_receive(&alice, "alice/x").allowed);
}

#[tokio::test]
async fn claims_that_are_not_understood_refuse_the_token() {
    let gate = tokens("");
    for acl in [
        json!({ "acl": { "publish": ["x"] } }),
        json!({ "acl": { "pub": "x" } }),
        json!({ "acl": { "pub": ["a/#/b"] } }),
        json!({ "acl": [{ "permission": "maybe", "topic": "x" }] }),
        json!({ "acl": [{ "permission": "allow", "topic": "x", "qos": 3 }] }),
        json!({ "acl": [{ "permission": "deny", "topics": ["x"] }] }),
        json!({ "publ": [1] }),
        json!({ "publ": vec!["x"; 101] }),
    ] {
        let mut claims = json!({ "sub": "plug", "exp": in_seconds(600) });
        claims.as_object_mut().unwrap().extend(acl.as_object().unwrap().clone());
        assert_eq!(gate.login("plug", &signed(&claims)).await, Err(TOKEN_WRONG), "{acl}");
    }
    let wild = json!({ "sub": "x", "client_id": "+", "exp": in_seconds(600), "publ": ["${clientid}/x"] });
    let shown = signed(&wild);
    let shown = Credentials { client_id: "+", ..login("x", &shown) };
    assert_eq!(gate.show(shown).await, Err(TOKEN_WRONG));
}

/// The examples of RFC 7515, A.1 and A.3: signed by others.
#[test]
fn tokens_that_others_have_signed_are_understood() {
    let set = json!({ "keys": [
        { "kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow" },
        { "kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
          "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0" },
    ] });
    let gate = with_key_file("set", &set.to_string());
    let keys = gate.keys.keys();
    let claims =
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    for (header, signature) in [
        ("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
        (
            "eyJhbGciOiJFUzI1NiJ9",
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
    ] {
        let token = format!("{header}.{claims}.{signature}");
        assert!(keys.check(token.as_bytes()).is_ok(), "{header}");
        assert!(keys.check(token.replace(".eyJpc3", ".eyJpc4").as_bytes()).is_err(), "{header}");
    }
}
