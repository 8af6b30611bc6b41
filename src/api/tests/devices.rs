//! Devices, certificates and keys.

use super::*;
use crate::authorize::Registry;

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_made_once_and_its_key_is_shown_once() {
    let bench = Bench::new().await;
    let made = bench.post("/api/v1/devices", json!({ "name": "esp32-01" })).await;
    assert_eq!((made.status, made.header("location")), (StatusCode::CREATED, "/api/v1/devices/esp32-01"));
    assert!(made.body["private_key_pem"].as_str().unwrap().contains("PRIVATE KEY"));
    assert!(made.body["certificate_pem"].as_str().unwrap().contains("BEGIN CERTIFICATE"));
    let again = bench.post("/api/v1/devices", json!({ "name": "esp32-01" })).await;
    assert_eq!(again.problem(), (409, "conflict"));
    let shown = bench.get("/api/v1/devices/esp32-01").await.body;
    assert_eq!((&shown["state"], &shown["disabled"]), (&json!("good"), &json!(false)));
    assert!(!shown.to_string().contains("PRIVATE KEY"));
    assert_eq!(bench.get("/api/v1/devices/nobody").await.problem(), (404, "not-found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_has_made_its_own_key_keeps_it() {
    let bench = Bench::new().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let made = bench.post("/api/v1/devices", json!({ "name": "pump", "csr": csr })).await;
    assert_eq!((made.status, &made.body["private_key_pem"]), (StatusCode::CREATED, &Value::Null));
    for wrong in ["no request".to_owned(), key.serialize_pem()] {
        let refused = bench.post("/api/v1/devices", json!({ "name": "fan", "csr": wrong })).await;
        assert_eq!(refused.problem(), (422, "invalid"));
        assert!(!refused.body.to_string().contains("BEGIN PRIVATE"), "a key is not said again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_listed_page_by_page_each_once() {
    let bench = Bench::new().await;
    for name in ["a", "b", "c"] {
        bench.post("/api/v1/devices", json!({ "name": name })).await;
    }
    // One with a key alone is a device as well.
    bench.post("/api/v1/devices/bb/keys", json!({})).await;
    let (mut names, mut path) = (Vec::new(), "/api/v1/devices?limit=3".to_owned());
    loop {
        let page = bench.get(&path).await.body;
        names.extend(page["items"].as_array().unwrap().iter().map(|device| device["name"].clone()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/v1/devices?limit=3&cursor={next}");
    }
    assert_eq!(names, ["a", "b", "bb", "c"]);
    assert_eq!(bench.get("/api/v1/devices?cursor=x").await.problem(), (422, "invalid"));
    assert_eq!(bench.get("/api/v1/devices?limit=0").await.problem(), (400, "malformed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_disabled_revoked_and_given_another_certificate() {
    let bench = Bench::new().await;
    bench.post("/api/v1/devices", json!({ "name": "esp32-01" })).await;
    let state = async |path: &str, body: Value| bench.post(path, body).await.body["state"].clone();
    assert_eq!(state("/api/v1/devices/esp32-01/disable", json!({})).await, "disabled");
    // What decides about devices was told.
    bench.registry_changed.notified().await;
    assert!(Registry::read(bench.dir.path()).unwrap().iter().any(|(_, known)| known.disabled));
    assert_eq!(state("/api/v1/devices/esp32-01/enable", json!({})).await, "good");
    assert_eq!(state("/api/v1/devices/esp32-01/revoke", json!({})).await, "revoked");

    let further =
        bench.post("/api/v1/devices/esp32-01/certificates", json!({ "revoke_older_after": 60 })).await;
    assert_eq!(further.status, StatusCode::CREATED);
    let certificates = bench.get("/api/v1/devices/esp32-01/certificates").await.body;
    let revoked: Vec<_> =
        certificates.as_array().unwrap().iter().map(|one| !one["revoked_at"].is_null()).collect();
    assert_eq!(revoked, [false, true], "the newest first");
    let serial = certificates[0]["serial"].as_str().unwrap();
    assert_eq!(state("/api/v1/devices/esp32-01/revoke", json!({ "serial": serial })).await, "revoked");
    let odd = bench.post("/api/v1/devices/esp32-01/revoke", json!({ "serial": "abc" })).await;
    assert_eq!(odd.problem(), (422, "invalid"));
    let unknown = bench.post("/api/v1/devices/nobody/certificates", json!({})).await;
    assert_eq!(unknown.problem(), (404, "not-found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_made_rotated_and_revoked() {
    let bench = Bench::new().await;
    let made = bench.post("/api/v1/devices/plug/keys", json!({ "expires_in": 3_600 })).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let (key, id) = (made.body["key"].as_str().unwrap(), made.body["id"].as_str().unwrap());
    assert!(key.starts_with(&format!("tampu_{id}_")) && made.body["expires"].is_string());
    assert!(!bench.get("/api/v1/devices/plug/keys").await.body.to_string().contains(key));

    let rotated =
        bench.post(&format!("/api/v1/devices/plug/keys/{id}/rotate"), json!({ "keep_old_for": 60 })).await;
    assert_eq!(rotated.status, StatusCode::CREATED);
    let keys = bench.get("/api/v1/devices/plug/keys").await.body;
    assert_eq!(keys.as_array().unwrap().len(), 2);
    assert!(keys[1]["expires"].is_null());

    let revoke = async |device: &str| {
        bench.ask("DELETE", &format!("/api/v1/devices/{device}/keys/{id}"), &[], None).await
    };
    bench.post("/api/v1/devices", json!({ "name": "lamp" })).await;
    assert_eq!(revoke("lamp").await.problem(), (404, "not-found"), "it is another's");
    assert_eq!(revoke("plug").await.status, StatusCode::NO_CONTENT);
    assert_eq!(revoke("plug").await.problem(), (404, "not-found"));
    assert_eq!(bench.get("/api/v1/devices/plug").await.body["keys"].as_array().unwrap().len(), 1);
}
