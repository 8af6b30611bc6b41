//! The other end of the socket, for the command line.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::socket_path;

/// Why a running gateway did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No gateway works in this directory.
    #[error("no gateway is running on {0}")]
    NotRunning(String),
    /// There is one, but its answer is no answer.
    #[error("the gateway does not answer as it should: {0}")]
    Failed(#[from] reqwest::Error),
    /// It says why it cannot.
    #[error("the gateway cannot answer: {0}")]
    Unavailable(String),
}

/// Asks the gateway that works in `data_dir` how it is.
///
/// # Errors
/// When there is none, or it does not answer within 5 s.
pub async fn status(data_dir: &Path) -> Result<Value, ClientError> {
    ask(data_dir, "status").await
}

/// Asks for the newest dead letters, at most `limit`.
///
/// # Errors
/// As [`status`].
pub async fn dead_letters(data_dir: &Path, limit: usize) -> Result<Value, ClientError> {
    ask(data_dir, &format!("dead-letters?limit={limit}")).await
}

async fn ask(data_dir: &Path, what: &str) -> Result<Value, ClientError> {
    let socket = socket_path(data_dir);
    let client =
        reqwest::Client::builder().unix_socket(socket.clone()).timeout(Duration::from_secs(5)).build()?;
    let answer = client.get(format!("http://tampu/v1/{what}")).send().await.map_err(|error| {
        if error.is_connect() {
            ClientError::NotRunning(socket.display().to_string())
        } else {
            ClientError::Failed(error)
        }
    })?;
    if answer.status() == reqwest::StatusCode::SERVICE_UNAVAILABLE {
        return Err(ClientError::Unavailable(answer.text().await?));
    }
    Ok(answer.error_for_status()?.json().await?)
}
