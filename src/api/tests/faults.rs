//! What is refused, and how that is said.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn without_a_good_token_nothing_is_told_and_guessing_is_slowed() {
    let bench = Bench::with("failures_per_minute = 3").await;
    let good = format!("Bearer {}", bench.token);
    let wrong = good.replace("Bearer tampu_token_", "Bearer tampu_token_0");
    for authorization in [None, Some("Basic YTpi"), Some(wrong.as_str())] {
        let headers: Vec<_> = authorization.map(|value| ("authorization", value)).into_iter().collect();
        let refused = bench.send("GET", "/api/v1/devices", &headers, "").await;
        assert_eq!(refused.problem(), (401, "unauthenticated"));
        assert!(refused.header("www-authenticate").starts_with("Bearer"));
        assert!(!refused.body.to_string().contains(&wrong[7..]));
    }
    let slowed = bench.send("GET", "/api/v1/devices", &[], "").await;
    assert_eq!(slowed.problem(), (429, "too-many-requests"));
    assert!(slowed.header("retry-after").parse::<u64>().unwrap() > 0);
    assert_eq!(
        bench.get("/api/v1/devices").await.status,
        StatusCode::OK,
        "who has a good token is not slowed"
    );
    let counts = bench.refusals.counts();
    assert_eq!((counts["api_token_wrong"], counts["api_too_fast"]), (3, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_revoked_is_refused_at_once() {
    let mut bench = Bench::new().await;
    assert_eq!(bench.get("/api/v1/devices").await.status, StatusCode::OK);
    bench.tokens.revoke("all").unwrap();
    bench.publish_tokens();
    assert_eq!(bench.get("/api/v1/devices").await.problem(), (401, "unauthenticated"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_token_may_send_so_many_commands_a_minute_and_another_as_many() {
    let mut bench = Bench::with("commands_per_minute = 2").await;
    let command = json!({ "device": "a", "topic": "a/cmd" });
    for _ in 0..2 {
        assert_eq!(bench.post("/api/v1/commands", command.clone()).await.status, StatusCode::CREATED);
    }
    let slowed = bench.post("/api/v1/commands", command.clone()).await;
    assert_eq!(slowed.problem(), (429, "too-many-requests"));
    assert!((1..=30).contains(&slowed.header("retry-after").parse::<u64>().unwrap()));
    assert_eq!(bench.get("/api/v1/commands").await.status, StatusCode::OK, "it may ask");
    bench.token = bench.token_for(&[Scope::CommandsWrite]);
    assert_eq!(bench.post("/api/v1/commands", command).await.status, StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_is_a_problem_that_says_what_is_wrong() {
    let bench = Bench::new().await;
    let json = &[("content-type", "application/json")];
    for (method, path, headers, body, expected) in [
        ("GET", "/nothing", &[][..], "", (404, "not-found")),
        ("GET", "/api/v1/nothing", &[], "", (404, "not-found")),
        ("PUT", "/api/v1/devices", &[], "", (405, "method-not-allowed")),
        ("POST", "/healthz", &[], "", (405, "method-not-allowed")),
        ("POST", "/api/v1/devices", &[], "{}", (415, "unsupported-media-type")),
        ("POST", "/api/v1/devices", json, "{", (400, "malformed")),
        ("POST", "/api/v1/devices", json, "{\"name\":\"a/b\"}", (422, "invalid")),
        ("GET", "/api/v1/devices?limit=many", &[], "", (400, "malformed")),
        ("GET", "/api/v1/devices/a%2Fb", &[], "", (404, "not-found")),
        ("POST", "/api/v1/devices/a/disable", &[("idempotency-key", "a b")], "", (400, "malformed")),
    ] {
        let authorization = format!("Bearer {}", bench.token);
        let mut all = vec![("authorization", authorization.as_str())];
        all.extend(headers);
        let answer = bench.send(method, path, &all, body).await;
        assert_eq!(answer.problem(), expected, "{method} {path} {body}");
        if expected.0 == 405 {
            assert!(answer.header("allow").contains("GET"), "{method} {path}");
        }
    }
    let large = json!({ "name": "a", "csr": "x".repeat(70_000) });
    assert_eq!(bench.post("/api/v1/devices", large).await.problem(), (413, "too-large"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_with_the_same_key_is_answered_as_the_first_time() {
    let bench = Bench::new().await;
    let make = async |name: &str, key: &str| {
        bench.ask("POST", "/api/v1/devices", &[("idempotency-key", key)], Some(json!({ "name": name }))).await
    };
    let first = make("esp32-01", "k1").await;
    let again = make("esp32-01", "k1").await;
    assert_eq!((again.status, again.header("location")), (StatusCode::CREATED, "/api/v1/devices/esp32-01"));
    assert_eq!(again.body, first.body, "with the key of the device, which was lost on the way");
    assert_eq!(make("esp32-02", "k1").await.problem(), (422, "invalid"), "another request");
    assert_eq!(make("esp32-01", "k2").await.problem(), (409, "conflict"), "it is there already");
    // What came to nothing may be tried again.
    assert_eq!(make("esp32-01", "k2").await.problem(), (409, "conflict"));
    assert_eq!(make("esp32-03", "k2").await.status, StatusCode::CREATED);
}
