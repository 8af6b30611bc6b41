//! Whether it lives, and whether it can do its work: for supervisors, without a token.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use super::problem::Problem;
use super::rest::{DISK_DEADLINE, Rest};

pub(super) async fn alive() -> Json<serde_json::Value> {
    Json(json!({ "status": "alive" }))
}

pub(super) async fn ready(State(rest): State<Arc<Rest>>) -> Response {
    let parts = &rest.parts;
    let mut reasons = Vec::new();
    let buffer = &parts.handles.buffer;
    if let Some(trouble) = buffer.status().trouble {
        reasons.push(format!("the store: {trouble}"));
    } else {
        // A look goes through the thread that writes readings.
        match tokio::time::timeout(DISK_DEADLINE, buffer.look(Some(1))).await {
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None)) => reasons.push("the store is in trouble".to_owned()),
            Ok(Err(closed)) => reasons.push(format!("the store: {closed}")),
            Err(_) => reasons.push(format!("the store has not answered within {DISK_DEADLINE:?}")),
        }
    }
    if let Err(unavailable) = parts.tls.current(parts.client_auth) {
        reasons.push(format!("no device can connect: {unavailable}"));
    }
    if reasons.is_empty() {
        (StatusCode::OK, Json(json!({ "status": "ready" }))).into_response()
    } else {
        Problem::unavailable(reasons.join("; ")).into_response()
    }
}
