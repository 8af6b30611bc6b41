//! Keys and tokens: what stands in which header, and tokens that somebody replaces.

use std::sync::{Mutex, MutexGuard};

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use crate::config::{Renewable, Secret};
use crate::sink::SinkError;
use crate::sink::supabase::{is_jwt, secret_value};

/// A key for the gate, and a token for who is behind it.
#[derive(Debug)]
pub(super) struct Access {
    key: Secret,
    renewable: Option<Renewable>,
    token: Mutex<Option<Secret>>,
}

impl Access {
    /// # Errors
    /// When the token cannot be read, or either cannot stand in a header.
    pub(super) fn new(key: &Secret, renewable: Option<&Renewable>) -> Result<Self, SinkError> {
        let token = match renewable {
            Some(renewable) => Some(renewable.read().map_err(SinkError::Client)?),
            // A legacy key is a token, too; an `sb_…` key is none and must stand in `apikey` alone.
            None => is_jwt(key).then(|| key.clone()),
        };
        let sound =
            [Some(key), token.as_ref()].into_iter().flatten().all(|secret| in_header(secret).is_some());
        let access = Self { key: key.clone(), renewable: renewable.cloned(), token: Mutex::new(token) };
        if sound { Ok(access) } else { Err(SinkError::Key) }
    }

    /// The token to act with, if there is one.
    pub(super) fn token(&self) -> Option<Secret> {
        self.current().clone()
    }

    /// Reads the token again, where somebody may have replaced it.
    pub(super) async fn renew(&self) {
        let Some(renewable) = self.renewable.clone().filter(Renewable::is_in_file) else { return };
        let read = tokio::task::spawn_blocking(move || renewable.read()).await;
        match read.unwrap_or_else(|_| Err("its reader has panicked".to_owned())) {
            Ok(newest) if in_header(&newest).is_some() => *self.current() = Some(newest),
            // The one before may still be good, and this one in the middle of being written.
            Ok(_) => tracing::warn!("the token in the file cannot stand in an HTTP header"),
            Err(why) => tracing::warn!(%why, "the token cannot be read again"),
        }
    }

    /// What every request carries.
    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.extend(in_header(&self.key).map(|key| (HeaderName::from_static("apikey"), key)));
        let token = self.token().and_then(|token| secret_value(&format!("Bearer {}", token.expose())));
        headers.extend(token.map(|token| (AUTHORIZATION, token)));
        headers
    }

    /// A text without key and token, should the far side have quoted them.
    pub(super) fn hide(&self, text: &str) -> String {
        let token = self.token();
        let secrets = [Some(&self.key), token.as_ref()].into_iter().flatten();
        secrets.fold(text.to_owned(), |text, secret| text.replace(secret.expose(), "(secret)"))
    }

    fn current(&self) -> MutexGuard<'_, Option<Secret>> {
        self.token.lock().expect("no panic under this lock")
    }
}

fn in_header(secret: &Secret) -> Option<HeaderValue> {
    secret_value(secret.expose())
}
