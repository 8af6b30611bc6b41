//! Tokens, with keys made here, and what they allow.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::gate::*;
use super::signers::{Ec, Rsa, base64url, hs256, token};
use super::*;
use crate::config;

const SECRET: &str = "a-secret-of-thirty-two-bytes-or-more";

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
