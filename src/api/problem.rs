//! What went wrong, as RFC 9457 wants it: `application/problem+json`, with what to do about it.

use std::time::Duration;

use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use utoipa::ToSchema;

use crate::authorize::{DocumentError, KeyError};
use crate::buffer::Closed;
use crate::pki::PkiError;

const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// The kinds of problems; `type` of a problem is `urn:tampu:problem:` and its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Malformed,
    Unauthenticated,
    ScopeMissing,
    NotFound,
    MethodNotAllowed,
    TooSlow,
    Conflict,
    TooLarge,
    UnsupportedMediaType,
    Invalid,
    TooManyRequests,
    Internal,
    Unavailable,
}

impl Kind {
    fn describe(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::Malformed => ("malformed", StatusCode::BAD_REQUEST, "The request cannot be read"),
            Self::Unauthenticated => ("unauthenticated", StatusCode::UNAUTHORIZED, "A good token is needed"),
            Self::ScopeMissing => ("scope-missing", StatusCode::FORBIDDEN, "The token is not good for this"),
            Self::NotFound => ("not-found", StatusCode::NOT_FOUND, "There is no such thing"),
            Self::MethodNotAllowed => {
                ("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "This cannot be done here")
            }
            Self::TooSlow => ("too-slow", StatusCode::REQUEST_TIMEOUT, "The body came too slowly"),
            Self::Conflict => ("conflict", StatusCode::CONFLICT, "It is not so that this can be done"),
            Self::TooLarge => ("too-large", StatusCode::PAYLOAD_TOO_LARGE, "The body is too large"),
            Self::UnsupportedMediaType => {
                ("unsupported-media-type", StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body is not JSON")
            }
            Self::Invalid => ("invalid", StatusCode::UNPROCESSABLE_ENTITY, "Something in it is not right"),
            Self::TooManyRequests => {
                ("too-many-requests", StatusCode::TOO_MANY_REQUESTS, "These are too many requests")
            }
            Self::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR, "The gateway could not do it"),
            Self::Unavailable => {
                ("unavailable", StatusCode::SERVICE_UNAVAILABLE, "The gateway cannot do it now")
            }
        }
    }
}

/// A problem on its way to the client.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) kind: Kind,
    pub(super) detail: String,
    retry_after: Option<Duration>,
}

/// A problem, as the client sees it (RFC 9457).
#[derive(Debug, serde::Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemBody {
    /// Which kind of problem it is: `urn:tampu:problem:` and a word.
    #[serde(rename = "type")]
    r#type: String,
    /// The kind in words.
    title: &'static str,
    /// The status of the answer.
    status: u16,
    /// What is wrong, and what would be right.
    detail: String,
}

impl Problem {
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), retry_after: None }
    }

    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(Kind::Malformed, detail)
    }

    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, detail)
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, detail)
    }

    pub(super) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, detail)
    }

    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, detail)
    }

    /// Something that only the operator can mend. The log has it; the client learns no paths.
    pub(super) fn internal(error: impl std::fmt::Display) -> Self {
        tracing::error!(%error, "a request to the API could not be answered");
        Self::new(Kind::Internal, "the gateway's log says why (journalctl -u tampu)")
    }

    pub(super) fn too_many(after: Duration, detail: impl Into<String>) -> Self {
        Self { retry_after: Some(after), ..Self::new(Kind::TooManyRequests, detail) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (name, status, title) = self.kind.describe();
        let body = ProblemBody {
            r#type: format!("urn:tampu:problem:{name}"),
            title,
            status: status.as_u16(),
            detail: self.detail.clone(),
        };
        let mut response = (status, [(CONTENT_TYPE, MEDIA_TYPE)], Json(body)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, MEDIA_TYPE);
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            response.headers_mut().insert(RETRY_AFTER, seconds.max(1).into());
        }
        if self.kind == Kind::Unauthenticated {
            let scheme = HeaderValue::from_static("Bearer realm=\"tampu\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
        }
        // For the log and the audit log.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Closed> for Problem {
    fn from(closed: Closed) -> Self {
        Self::unavailable(closed.to_string())
    }
}

impl From<DocumentError> for Problem {
    fn from(error: DocumentError) -> Self {
        Self::internal(error)
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Unknown(_) => Self::not_found(error.to_string()),
            KeyError::TooMany(_) => Self::conflict(error.to_string()),
            KeyError::TooLong => Self::invalid(error.to_string()),
            KeyError::NoRandomNumbers | KeyError::Document(_) => Self::internal(error),
        }
    }
}

impl From<PkiError> for Problem {
    fn from(error: PkiError) -> Self {
        match error {
            PkiError::DeviceExists { device, .. } => Self::conflict(format!(
                "{device} has a certificate already: choose another name, or give it one more with POST \
                 /api/v1/devices/{device}/certificates"
            )),
            PkiError::UnknownDevice(device) => {
                Self::not_found(format!("there is no device {device}; GET /api/v1/devices lists them"))
            }
            PkiError::Request(_) => Self::invalid(error.to_string()),
            PkiError::Io { .. } | PkiError::File { .. } | PkiError::Settings(_) => Self::internal(error),
        }
    }
}
