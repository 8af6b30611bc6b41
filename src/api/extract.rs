//! axum's extractors, whose rejections are problems here.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody, JsonRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::problem::{Kind, Problem};
use crate::web::TooSlow;

/// A body of JSON: an object. (serde would take a list for an object whose members are given in order.)
pub(super) struct Body<T>(pub(super) T);

/// What stands behind the `?`.
pub(super) struct Params<T>(pub(super) T);

/// What stands in the path.
pub(super) struct Named<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Json(body) = Json::<Box<RawValue>>::from_request(request, state)
            .await
            .map_err(|rejection| of_json(&rejection))?;
        if !body.get().starts_with('{') {
            return Err(Problem::invalid("the body is an object of JSON, such as {}"));
        }
        serde_json::from_str(body.get()).map(Self).map_err(|error| Problem::invalid(error.to_string()))
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => Err(Problem::malformed(rejection.body_text())),
        }
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(names)) => Ok(Self(names)),
            Err(rejection) => Err(Problem::not_found(rejection.body_text())),
        }
    }
}

/// The whole body, for who looks at it before the handler does.
pub(super) async fn bytes(request: Request) -> Result<Bytes, Problem> {
    Bytes::from_request(request, &()).await.map_err(|rejection| of_bytes(&rejection))
}

fn of_json(rejection: &JsonRejection) -> Problem {
    match rejection {
        JsonRejection::MissingJsonContentType(_) => Problem::new(
            Kind::UnsupportedMediaType,
            "send the body as JSON, with the header Content-Type: application/json",
        ),
        JsonRejection::BytesRejection(rejection) => of_bytes(rejection),
        other => Problem::malformed(other.body_text()),
    }
}

fn of_bytes(rejection: &BytesRejection) -> Problem {
    match rejection {
        BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => {
            Problem::new(Kind::TooLarge, format!("a body has at most {} bytes", super::rest::MAX_BODY_BYTES))
        }
        other => match cause::<TooSlow>(other) {
            Some(slow) => Problem::new(Kind::TooSlow, slow.to_string()),
            None => Problem::malformed(other.body_text()),
        },
    }
}

pub(super) fn cause<'a, E: std::error::Error + 'static>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a E> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref())
}
