//! The other end of the socket, for the command line.

use std::path::Path;
use std::time::Duration;

use reqwest::{Method, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::local::{Commands, ToSend};
use super::socket_path;
use crate::message::CommandId;
use crate::relay::Shown;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

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
    /// It says why it will not.
    #[error("{0}")]
    Refused(String),
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
    Ok(request(data_dir, Method::GET, what, None, PATIENCE).await?.error_for_status()?.json().await?)
}

/// Sends a command. One that is refused comes back, too: its state says so.
///
/// # Errors
/// As [`status`]; what is wrong with the request is [`ClientError::Refused`].
pub async fn send(data_dir: &Path, command: &ToSend) -> Result<Shown, ClientError> {
    let body = serde_json::to_value(command).expect("it is plain data");
    answer(request(data_dir, Method::POST, "commands", Some(&body), PATIENCE).await?).await
}

/// Asks for commands; `query` as in the address.
///
/// # Errors
/// As [`send`].
pub async fn commands(data_dir: &Path, query: &[(&str, String)]) -> Result<Commands, ClientError> {
    let query = reqwest::Url::parse_with_params("http://tampu", query).expect("the address is one");
    let what = format!("commands?{}", query.query().unwrap_or_default());
    answer(request(data_dir, Method::GET, &what, None, PATIENCE).await?).await
}

/// Asks for one command, as it is when it has an end, or after `wait` at the latest.
///
/// # Errors
/// As [`send`].
pub async fn command(data_dir: &Path, id: CommandId, wait: Duration) -> Result<Shown, ClientError> {
    let what = format!("commands/{id}?wait_ms={}", wait.as_millis());
    answer(request(data_dir, Method::GET, &what, None, PATIENCE + wait).await?).await
}

/// Takes a command back.
///
/// # Errors
/// As [`send`].
pub async fn cancel(data_dir: &Path, id: CommandId) -> Result<Shown, ClientError> {
    let what = format!("commands/{id}/cancel");
    answer(request(data_dir, Method::POST, &what, None, PATIENCE).await?).await
}

async fn answer<T: DeserializeOwned>(answer: Response) -> Result<T, ClientError> {
    match answer.status() {
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::CONFLICT => {
            Err(ClientError::Refused(answer.text().await?))
        }
        StatusCode::UNPROCESSABLE_ENTITY => Ok(answer.json().await?),
        _ => Ok(answer.error_for_status()?.json().await?),
    }
}

async fn request(
    data_dir: &Path,
    method: Method,
    what: &str,
    body: Option<&Value>,
    patience: Duration,
) -> Result<Response, ClientError> {
    let socket = socket_path(data_dir);
    let client = reqwest::Client::builder().unix_socket(socket.clone()).timeout(patience).build()?;
    let mut request = client.request(method, format!("http://tampu/v1/{what}"));
    if let Some(body) = body {
        request = request.json(body);
    }
    let answer = request.send().await.map_err(|error| {
        if error.is_connect() {
            ClientError::NotRunning(socket.display().to_string())
        } else {
            ClientError::Failed(error)
        }
    })?;
    if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
        return Err(ClientError::Unavailable(answer.text().await?));
    }
    Ok(answer)
}
