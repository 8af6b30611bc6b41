//! A POST that is sent again with the same `Idempotency-Key` gets the answer of the first, and nothing is done twice.
//!
//! What was answered is remembered for a while, in memory, within bounds: it protects from a lost answer, not from a
//! restart. Commands need none of this: their key is kept with them (see `commands`).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::response::Parts;
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ring::digest::{Context, Digest, SHA256};

use super::access::Caller;
use super::problem::Problem;
use super::rest::Rest;
use super::{extract, firmware};

/// The header.
pub(super) const HEADER: &str = "idempotency-key";
/// Where the key is kept with what was made.
const COMMANDS: &str = "/api/v1/commands";
const MAX_KEY_BYTES: usize = 128;

const MAX_ANSWERS: usize = 256;
/// A larger answer is not remembered.
const MAX_ANSWER_BYTES: usize = 16 * 1024;
/// No POST is answered with more.
const MAX_MADE_BYTES: usize = 1024 * 1024;
const REMEMBERED_FOR: Duration = Duration::from_secs(3_600);

/// What was answered of late.
#[derive(Default)]
pub(super) struct Answers(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    by_key: HashMap<Key, Answer>,
    by_age: VecDeque<(Instant, Key)>,
}

/// Whose key, for which path, and the key.
type Key = [u8; 32];

struct Answer {
    /// Of the request's body: another one is another request.
    body: Key,
    /// `None`: it is being done.
    answer: Option<(Parts, Bytes)>,
}

impl Answers {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no panic under this lock")
    }

    /// The answer to a request that was there before; else the request is entered as being done.
    fn enter(&self, key: Key, body: Key) -> Result<Option<Response>, Problem> {
        let mut inner = self.inner();
        inner.forget_old();
        if let Some(Answer { body: before, answer }) = inner.by_key.get(&key) {
            if *before != body {
                return Err(Problem::invalid(
                    "this Idempotency-Key was used for another request: make a new key for each",
                ));
            }
            return match answer {
                Some((parts, bytes)) => Ok(Some(again(parts, bytes))),
                None => Err(Problem::conflict("the request with this Idempotency-Key is still being done")),
            };
        }
        if inner.by_age.len() >= MAX_ANSWERS
            && let Some((_, oldest)) = inner.by_age.pop_front()
        {
            inner.by_key.remove(&oldest);
        }
        inner.by_key.insert(key, Answer { body, answer: None });
        inner.by_age.push_back((Instant::now(), key));
        Ok(None)
    }

    fn keep(&self, key: &Key, parts: Parts, bytes: Bytes) {
        if let Some(entry) = self.inner().by_key.get_mut(key) {
            entry.answer = Some((parts, bytes));
        }
    }

    fn forget(&self, key: &Key) {
        let mut inner = self.inner();
        inner.by_key.remove(key);
        inner.by_age.retain(|(_, other)| other != key);
    }
}

impl Inner {
    fn forget_old(&mut self) {
        while let Some((at, key)) = self.by_age.front().copied() {
            if at.elapsed() < REMEMBERED_FOR {
                return;
            }
            self.by_age.pop_front();
            self.by_key.remove(&key);
        }
    }
}

/// Forgets what was entered, unless it was answered: the client may have gone, or the answer may be no success.
struct Entered<'a> {
    answers: &'a Answers,
    key: Option<Key>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            self.answers.forget(key);
        }
    }
}

/// Answers a POST that was answered before.
pub(super) async fn remember(State(rest): State<Arc<Rest>>, request: Request, next: Next) -> Response {
    match try_remember(&rest, request, next).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn try_remember(rest: &Rest, request: Request, next: Next) -> Result<Response, Problem> {
    let is_for_us =
        request.method() == Method::POST && ![COMMANDS, firmware::RELEASES].contains(&request.uri().path());
    let Some(own) = key_of(request.headers())?.filter(|_| is_for_us) else {
        return Ok(next.run(request).await);
    };
    let caller = request.extensions().get::<Caller>().expect("`authenticate` comes before this");
    let key = digest(&[caller.bearer.id.as_bytes(), request.uri().path().as_bytes(), own.as_bytes()]);
    let (parts, body) = request.into_parts();
    let bytes = extract::bytes(Request::from_parts(parts.clone(), body)).await?;
    if let Some(before) = rest.answers.enter(key, digest(&[&bytes]))? {
        return Ok(before);
    }
    let mut entered = Entered { answers: &rest.answers, key: Some(key) };
    let response = next.run(Request::from_parts(parts, Body::from(bytes))).await;
    if !response.status().is_success() {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, MAX_MADE_BYTES).await.map_err(Problem::internal)?;
    if bytes.len() <= MAX_ANSWER_BYTES {
        entered.key = None;
        rest.answers.keep(&key, parts.clone(), bytes.clone());
    }
    Ok(Response::from_parts(parts, Body::from(bytes)))
}

/// The key of a request, if it has one.
pub(super) fn key_of(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    let is_good = |text: &&str| {
        (1..=MAX_KEY_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    match value.to_str().ok().filter(is_good) {
        Some(text) => Ok(Some(text.to_owned())),
        None => Err(Problem::malformed(format!(
            "an Idempotency-Key has 1 to {MAX_KEY_BYTES} visible ASCII characters, such as a UUID"
        ))),
    }
}

fn again(parts: &Parts, bytes: &Bytes) -> Response {
    let mut response = Response::new(Body::from(bytes.clone()));
    *response.status_mut() = parts.status;
    *response.headers_mut() = parts.headers.clone();
    response
}

fn digest(parts: &[&[u8]]) -> Key {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let digest: Digest = context.finish();
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}
