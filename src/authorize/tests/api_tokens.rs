//! Tokens of the API.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::signers::{hs256, token};
use super::*;
use crate::clock::Clock;
use crate::config::{self, ClockSource, Config};

const SECRET: &str = "a-secret-of-thirty-two-bytes-or-more";

fn clock(source: ClockSource) -> Clock {
    let settings = config::Clock { source, ..config::Clock::default() };
    Clock::start(&settings, Path::new("/nowhere/floor"), BTreeMap::new()).unwrap()
}

fn issuers() -> Arc<TokenKeys> {
    let text =
        format!("[[jwt]]\nname = \"cloud\"\nalgorithm = \"HS256\"\nsecret = {SECRET:?}\naudience = \"gw\"\n");
    let mut files = KeyFiles::default();
    files.set(&Config::from_toml(&text).unwrap().access.issuers);
    files.keys()
}

#[test]
fn a_token_is_good_for_its_scopes_until_it_expires_or_is_revoked() {
    let (mut tokens, now) = (ApiTokens::default(), OffsetDateTime::now_utc());
    let scopes = BTreeSet::from([Scope::CommandsWrite]);
    let new = tokens.add("dashboard", scopes.clone(), now, None).unwrap();
    let old =
        tokens.add("old", scopes.clone(), now - time::Duration::HOUR, Some(Duration::from_secs(1))).unwrap();
    assert!(!format!("{tokens:?}").contains(&new.record.sha256));
    let clock = clock(ClockSource::Trusted);
    let shown = new.token.expose().to_owned();
    let bearer = |tokens: &ApiTokens, shown: &str| tokens.bearer(shown, &TokenKeys::default(), &clock);
    let good = Bearer { id: new.record.id.into(), name: "dashboard".into(), scopes };
    assert_eq!(bearer(&tokens, &shown), Ok(good));

    let mut forged = shown.clone();
    forged.replace_range(shown.len() - 2.., if shown.ends_with("AA") { "BB" } else { "AA" });
    for wrong in [forged.as_str(), old.token.expose(), "", "tampu_token_", "tampu_12345678_x", &shown[..24]] {
        let (refusal, detail) = bearer(&tokens, wrong).unwrap_err();
        assert_eq!(refusal, Refusal::ApiTokenWrong, "{wrong}: {detail}");
    }
    tokens.revoke("dashboard").unwrap();
    assert_eq!(bearer(&tokens, &shown).unwrap_err().0, Refusal::ApiTokenWrong);
    assert!(matches!(tokens.revoke("dashboard"), Err(TokenError::Unknown(_))));
}

#[test]
fn a_token_has_a_name_of_its_own_and_a_scope() {
    let (mut tokens, now) = (ApiTokens::default(), OffsetDateTime::now_utc());
    let mut add = |name: &str, scopes: &[Scope]| {
        tokens.add(name, scopes.iter().copied().collect(), now, None).map(|_| ())
    };
    add("one", Scope::ALL).unwrap();
    assert!(matches!(add("one", Scope::ALL), Err(TokenError::Exists(_))));
    assert!(matches!(add("two", &[]), Err(TokenError::NoScope)));
    for name in ["", "a\nb", &"x".repeat(65)] {
        assert!(matches!(add(name, Scope::ALL), Err(TokenError::Name)), "{name:?}");
    }
}

#[test]
fn a_json_web_token_is_good_for_the_scopes_that_it_claims() {
    let soon = OffsetDateTime::now_utc().unix_timestamp() + 600;
    let signed = |claims: Value| token(&json!({ "alg": "HS256" }), &claims, hs256(SECRET.as_bytes()));
    let (tokens, issuers, synchronized) = (ApiTokens::default(), issuers(), clock(ClockSource::Trusted));
    let both = BTreeSet::from([Scope::CommandsWrite, Scope::DevicesRead]);
    for (scope, expected) in [
        (json!("devices:read openid commands:write"), both.clone()),
        (json!(["devices:read", "commands:write", 7]), both),
        (Value::Null, BTreeSet::new()),
    ] {
        let shown = signed(json!({ "sub": "ann", "exp": soon, "aud": "gw", "scope": scope }));
        let bearer = tokens.bearer(&shown, &issuers, &synchronized).unwrap();
        assert_eq!((&*bearer.id, &*bearer.name, bearer.scopes), ("jwt:cloud:ann", "ann", expected));
    }
    for (claims, expected) in [
        (json!({ "sub": "ann", "exp": soon - 3_600, "aud": "gw" }), Refusal::TokenExpired),
        (json!({ "sub": "ann", "exp": soon, "aud": "another" }), Refusal::TokenWrong),
        (json!({ "sub": "ann", "aud": "gw" }), Refusal::TokenWrong),
        (json!({ "exp": soon, "aud": "gw" }), Refusal::TokenWrong),
    ] {
        let refused = tokens.bearer(&signed(claims.clone()), &issuers, &synchronized);
        assert_eq!(refused.unwrap_err().0, expected, "{claims}");
    }
    let good = signed(json!({ "sub": "ann", "exp": soon, "aud": "gw" }));
    let unsynchronized = clock(ClockSource::File("/nowhere".into()));
    let refused = tokens.bearer(&good, &issuers, &unsynchronized);
    assert_eq!(refused.unwrap_err().0, Refusal::ClockNotSynchronized);
}
